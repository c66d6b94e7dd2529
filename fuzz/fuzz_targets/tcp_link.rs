//! Bytes from any machine on a TCP connection, for a relay and for a client of each kind, also behind a proxy: no
//! panic, bounded buffers, an end. A plain TCP connection, authenticated or not, returns the bytes that arrived.
#![no_main]
use std::io::IoSlice;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tallow_fuzz::steps::steps;
use tallow_proto::link::tcp::{
    Acceptor, BareWebSocket, Dialler, Kind, LINGER, OPEN_WITHIN_PROXIED, TcpLink, SocketAction, Target, Windows,
};
use tallow_proto::link::proxy::Proxy;
use tallow_proto::link::trust::{Identity, Trust};
use tallow_proto::link::websocket::SILENCE;
use tallow_proto::link::{Read, Write};
use tallow_proto::pool::Pool;
use tallow_proto::seed::Seed;
use tallow_proto::wire::frame::CHUNK;

/// The number of kinds of TCP connections before the plain ones.
const PLAIN: u8 = 8;
const KINDS: u8 = 10;
const UNIX_TIME: Duration = Duration::from_secs(1_800_000_000);

fn acceptor() -> &'static Acceptor {
    static ACCEPTOR: OnceLock<Acceptor> = OnceLock::new();
    ACCEPTOR.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let params = rcgen::CertificateParams::new(vec!["relay.test".into()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let identity = Identity { cert_chain: vec![certificate.der().to_vec()], key: key.serialize_der().into() };
        Acceptor::new(&identity, BareWebSocket::Allowed, Windows::relay()).expect("an identity")
    })
}

fn tcp(which: u8, now: Instant) -> TcpLink {
    let (kind, proxy) = match which % KINDS {
        0 => return acceptor().accept(now),
        // An open WebSocket without TLS, so that its frames are reached.
        1 => {
            let mut tcp = acceptor().accept(now);
            let request = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Protocol: tallow.1\r\n\r\n";
            tcp.read_buffer()[..request.len()].copy_from_slice(request);
            tcp.handle_filled(now, request.len());
            return tcp;
        }
        2 => (Kind::Tls, None),
        3 => (Kind::WebSocket { tls: true, path: "/".into() }, None),
        4 => (Kind::WebSocket { tls: false, path: "/".into() }, None),
        5 => (Kind::Tls, Some("http://u:p@h:1")),
        6 => (Kind::Tls, Some("socks5://h:1")),
        7 => (Kind::WebSocket { tls: false, path: "/".into() }, Some("socks5://u:p@h:1")),
        PLAIN => return TcpLink::plain(now, Windows::direct()),
        _ => {
            let mut tcp = TcpLink::plain(now, Windows::direct());
            tcp.assemble(Arc::new(Pool::default()));
            return tcp;
        }
    };
    let proxy: Option<Proxy> = proxy.map(|url| url.parse().expect("a proxy"));
    let target = Target {
        kind,
        host: "relay.test",
        port: 4433,
        trust: Trust::FirstUse,
        proxy: proxy.as_ref(),
        windows: Windows::relay(),
    };
    Dialler::new(UNIX_TIME, &Seed::new([1; 32])).dial(now, &target).expect("a target")
}

// The first byte is the kind of TCP connection, the rest are steps.
fuzz_target!(|data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    let mut now = Instant::now();
    let mut tcp = tcp(which, now);
    let is_plain = which % KINDS >= PLAIN;
    let (longest, unsent) = if is_plain { (CHUNK + 4 * 1024, 2 << 20) } else { (256 * 1024, 256 * 1024) };
    let (mut came, mut got) = (Vec::new(), Vec::new());
    for (what, bytes) in steps(data) {
        match what % 8 {
            0 => {
                while let Read::Data(piece) = tcp.read() {
                    got.extend_from_slice(&piece);
                }
                assert!(!is_plain || came.starts_with(&got));
            }
            1 => {
                let mut data = Bytes::copy_from_slice(bytes);
                assert!(tcp.write(now, &mut data) != Write::Done || data.is_empty());
                continue;
            }
            2 => tcp.finish(now),
            3 => {
                now += Duration::from_millis(bytes.len() as u64 * 100);
                tcp.handle_timeout(now);
            }
            4 => {
                let mut slices = [IoSlice::new(&[]); 4];
                let count = tcp.output(&mut slices);
                let waiting: usize = slices[..count].iter().map(|slice| slice.len()).sum();
                tcp.handle_wrote(now, waiting.min(bytes.len()));
                continue;
            }
            _ => {}
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = tcp.read_buffer();
            assert!(room.len() <= longest);
            let count = room.len().min(rest.len());
            if count == 0 {
                break;
            }
            room[..count].copy_from_slice(&rest[..count]);
            came.extend_from_slice(&rest[..count]);
            tcp.handle_filled(now, count);
            rest = &rest[count..];
        }
        assert!(tcp.unsent() <= unsent);
        while tcp.poll_event().is_some() {}
    }
    tcp.handle_eof();
    tcp.close(now, 1, "done");
    now += OPEN_WITHIN_PROXIED + SILENCE + LINGER;
    tcp.handle_timeout(now);
    assert!(tcp.socket_action() != SocketAction::Live);
    assert_eq!(tcp.poll_timeout(), None);
});
