use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use zeroize::Zeroizing;

use super::*;
use crate::link::crypto::{self, Ticker};
use crate::link::proxy::{Proxy, ProxyFailure};
use crate::link::trust::{CertificateRefused, Fingerprint, Identity, Trust, Verifier};
use crate::link::websocket::{PING_EVERY, SILENCE, UpgradeFailure, WebSocketViolation};
use crate::seed::Seed;
use crate::wire::untrusted::Untrusted;

const CLIENT: usize = 0;
const SERVER: usize = 1;
const UNIX_TIME: Duration = Duration::from_secs(1_790_000_000);

fn identity() -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["relay.test".into()]).unwrap().self_signed(&key).unwrap();
    Identity { cert_chain: vec![certificate.der().to_vec()], key: Zeroizing::new(key.serialize_der()) }
}

/// Bytes that differ between neighbouring positions.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

fn target(kind: Kind, trust: Trust) -> Target<'static> {
    Target { kind, host: "relay.test", port: 4433, trust, proxy: None, windows: Windows::relay() }
}

fn client(now: Instant, kind: Kind, trust: Trust) -> TcpLink {
    Dialler::new(UNIX_TIME, &Seed::new([9; 32])).dial(now, &target(kind, trust)).unwrap()
}

fn acceptor(identity: &Identity) -> Acceptor {
    Acceptor::new(identity, BareWebSocket::Allowed, Windows::relay()).unwrap()
}

/// Takes the bytes that wait for the socket.
fn sent(tcp: &mut TcpLink, now: Instant, max: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 3];
    let count = tcp.output(&mut slices);
    let mut bytes = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<_>>();
    bytes.truncate(max);
    tcp.handle_wrote(now, bytes.len());
    bytes
}

/// Feeds as many bytes as there is room for; returns their number.
fn feed(tcp: &mut TcpLink, now: Instant, bytes: &[u8]) -> usize {
    let room = tcp.read_buffer();
    let count = room.len().min(bytes.len());
    room[..count].copy_from_slice(&bytes[..count]);
    tcp.handle_filled(now, count);
    count
}

/// The two ends of a TCP connection, which moves a random number of bytes at a time.
struct Pair {
    now: Instant,
    ends: [TcpLink; 2],
    events: [Vec<Event>; 2],
    /// The bytes in flight to each end.
    flight: [VecDeque<u8>; 2],
    /// For each end: whether the other side will send no more.
    eof: [bool; 2],
    got: [Vec<u8>; 2],
    ended: [bool; 2],
    rest: [Bytes; 2],
    finish: [bool; 2],
    /// The most bytes that move at once.
    step: u32,
    rng: ChaCha20Rng,
}

impl Pair {
    fn new(ends: [TcpLink; 2], now: Instant, step: u32, seed: u64) -> Self {
        Self {
            now,
            ends,
            events: Default::default(),
            flight: Default::default(),
            eof: [false; 2],
            got: Default::default(),
            ended: [false; 2],
            rest: Default::default(),
            finish: [false; 2],
            step,
            rng: ChaCha20Rng::seed_from_u64(seed),
        }
    }

    fn of(kind: Kind, step: u32, seed: u64) -> Self {
        let now = Instant::now();
        Self::new([client(now, kind, Trust::FirstUse), acceptor(&identity()).accept(now)], now, step, seed)
    }

    fn some(&mut self) -> usize {
        (self.rng.next_u32() % self.step + 1) as usize
    }

    /// Moves data once in every part; false when nothing moved.
    fn turn(&mut self) -> bool {
        let mut moved = false;
        for end in [CLIENT, SERVER] {
            let max = self.some();
            let bytes = sent(&mut self.ends[end], self.now, max);
            moved |= !bytes.is_empty();
            self.flight[1 - end].extend(bytes);
            if self.ends[end].socket_action() != SocketAction::Live
                && !self.eof[1 - end]
                && self.flight[1 - end].is_empty()
            {
                self.eof[1 - end] = true;
                self.ends[1 - end].handle_eof();
                moved = true;
            }
            let count = self.some().min(self.flight[end].len());
            let bytes: Vec<u8> = self.flight[end].iter().copied().take(count).collect();
            let taken = if count == 0 { 0 } else { feed(&mut self.ends[end], self.now, &bytes) };
            self.flight[end].drain(..taken);
            moved |= taken > 0;
            while let Some(event) = self.ends[end].poll_event() {
                self.events[end].push(event);
                moved = true;
            }
            moved |= self.own(end);
        }
        moved
    }

    /// Does the owner's work.
    fn own(&mut self, end: usize) -> bool {
        let mut moved = false;
        loop {
            match self.ends[end].read() {
                Read::Data(bytes) => self.got[end].extend(bytes),
                Read::Blocked | Read::Reset(_) | Read::Gone => break,
                Read::End => {
                    moved |= !self.ended[end];
                    self.ended[end] = true;
                    break;
                }
            }
            moved = true;
        }
        if !self.rest[end].is_empty() {
            let before = self.rest[end].len();
            let now = self.now;
            let done = self.ends[end].write(now, &mut self.rest[end]);
            moved |= self.rest[end].len() < before;
            assert!(done != Write::Done || self.rest[end].is_empty());
        }
        if self.rest[end].is_empty() && self.finish[end] && self.connected(end) {
            self.finish[end] = false;
            self.ends[end].finish(self.now);
            moved = true;
        }
        moved
    }

    fn run(&mut self) {
        while self.turn() {}
    }

    fn connected(&self, end: usize) -> bool {
        self.events[end].iter().any(|event| matches!(event, Event::Connected { .. }))
    }

    fn closed(&self, end: usize) -> Option<&Closed> {
        self.events[end].iter().find_map(|event| match event {
            Event::Closed(closed) => Some(closed),
            Event::Connected { .. } | Event::Readable | Event::Writable => None,
        })
    }

    /// The client writes until the server accepts no more.
    fn fill_server(&mut self) {
        let mut data = pattern(10_000_000);
        let mut flight = VecDeque::new();
        loop {
            let _ = self.ends[CLIENT].write(self.now, &mut data);
            flight.extend(sent(&mut self.ends[CLIENT], self.now, usize::MAX));
            let bytes: Vec<u8> = flight.iter().copied().take(200_000).collect();
            assert!(!bytes.is_empty());
            let taken = feed(&mut self.ends[SERVER], self.now, &bytes);
            flight.drain(..taken);
            if taken == 0 {
                return;
            }
        }
    }

    fn up(kind: Kind) -> Self {
        let mut pair = Self::of(kind, 100_000, 1);
        pair.run();
        assert!(pair.connected(CLIENT) && pair.connected(SERVER), "{:?}", pair.events);
        pair.events = Default::default();
        pair
    }
}

fn websocket(tls: bool) -> Kind {
    Kind::WebSocket { tls, path: "/".into() }
}

fn kinds() -> Vec<Kind> {
    vec![Kind::Tls, websocket(true), websocket(false)]
}

#[test]
fn link_delivers_all_bytes_and_both_ends_finish() {
    for kind in kinds() {
        let mut pair = Pair::of(kind, 40_000, 2);
        let data = pattern(3_000_000);
        pair.rest = [data.clone(), data.slice(..1_000_000)];
        pair.finish = [true, true];
        pair.run();
        assert!(pair.got[SERVER] == data && pair.got[CLIENT] == data[..1_000_000]);
        assert_eq!(pair.ended, [true, true]);
        assert_eq!(pair.closed(CLIENT), Some(&Closed::Ended));
        assert_eq!(pair.closed(SERVER), Some(&Closed::Ended));
        assert_eq!(pair.ends.each_ref().map(TcpLink::socket_action), [SocketAction::Finish; 2]);
    }
}

#[test]
fn finished_end_still_reads() {
    for kind in kinds() {
        let mut pair = Pair::up(kind);
        pair.ends[CLIENT].finish(pair.now);
        assert_eq!(pair.ends[CLIENT].write(pair.now, &mut pattern(1)), Write::Gone);
        pair.run();
        assert!(pair.ended[SERVER] && pair.closed(SERVER).is_none());
        pair.rest[SERVER] = pattern(300_000);
        pair.run();
        assert!(pair.got[CLIENT] == pattern(300_000));
        assert!(!pair.ended[CLIENT]);
    }
}

#[test]
fn broken_connection_is_lost_not_ended() {
    for kind in kinds() {
        let mut pair = Pair::up(kind);
        pair.rest[CLIENT] = pattern(10);
        pair.run();
        pair.ends[SERVER].handle_eof();
        assert_eq!(pair.ends[SERVER].read(), Read::Gone);
        pair.run();
        assert_eq!(pair.closed(SERVER), Some(&Closed::Lost));
        assert_eq!(pair.ends[SERVER].socket_action(), SocketAction::Abort);
    }
}

#[test]
fn cut_at_any_byte_is_distinguished_from_clean_end() {
    for kind in kinds() {
        for keep in 0.. {
            let mut pair = Pair::up(kind.clone());
            let _ = pair.ends[CLIENT].write(pair.now, &mut pattern(100));
            pair.ends[CLIENT].finish(pair.now);
            let bytes = sent(&mut pair.ends[CLIENT], pair.now, usize::MAX);
            let whole = keep >= bytes.len();
            feed(&mut pair.ends[SERVER], pair.now, &bytes[..keep.min(bytes.len())]);
            pair.ends[SERVER].handle_eof();
            pair.own(SERVER);
            assert_eq!(pair.ended[SERVER], whole);
            assert!(!whole || pair.got[SERVER] == pattern(100));
            if whole {
                break;
            }
        }
    }
}

#[test]
fn stopped_reader_blocks_socket_reads() {
    for kind in kinds() {
        let mut pair = Pair::up(kind);
        pair.fill_server();
        let Windows { receive, .. } = Windows::relay();
        assert!(pair.ends[SERVER].inbox.len() <= receive + 64 * 1024, "{}", pair.ends[SERVER].inbox.len());
        assert!(pair.ends[SERVER].read_buffer().is_empty());
        let _ = pair.ends[SERVER].poll_touched();
        while pair.ends[SERVER].read_buffer().is_empty() {
            assert!(matches!(pair.ends[SERVER].read(), Read::Data(_)));
        }
        assert!(pair.ends[SERVER].poll_touched(), "the driver is notified that there is room again");
    }
}

#[test]
fn a_writer_blocks_at_its_window_and_is_notified_of_room() {
    for kind in kinds() {
        let mut pair = Pair::up(kind);
        let mut data = pattern(1_000_000);
        assert_eq!(pair.ends[CLIENT].write(pair.now, &mut data), Write::Blocked);
        let Windows { send, .. } = Windows::relay();
        assert!(pair.ends[CLIENT].unsent() <= send + PIECE + 1024);
        assert_eq!(pair.ends[CLIENT].poll_event(), None);
        while pair.ends[CLIENT].unsent() > 0 {
            sent(&mut pair.ends[CLIENT], pair.now, 10_000);
        }
        assert_eq!(pair.ends[CLIENT].poll_event(), Some(Event::Writable));
        assert_eq!(pair.ends[CLIENT].poll_event(), None);
    }
}

#[test]
fn close_delivers_written_bytes_and_frees_both_ends() {
    for kind in kinds() {
        let mut pair = Pair::up(kind);
        let _ = pair.ends[CLIENT].write(pair.now, &mut pattern(1000));
        pair.ends[CLIENT].close(pair.now, 0, "done");
        pair.run();
        assert!(pair.got[SERVER] == pattern(1000));
        assert_eq!(pair.closed(CLIENT), None);
        assert_eq!(pair.ends[CLIENT].socket_action(), SocketAction::Live, "it waits for the other side");
        pair.ends[SERVER].close(pair.now, 0, "done");
        pair.run();
        assert_eq!(pair.ends.each_ref().map(TcpLink::socket_action), [SocketAction::Finish; 2]);
    }
}

#[test]
fn closing_connection_aborts_after_linger() {
    let mut pair = Pair::up(Kind::Tls);
    pair.ends[CLIENT].close(pair.now, 0, "done");
    let deadline = pair.ends[CLIENT].poll_timeout().unwrap();
    assert_eq!(deadline, pair.now + LINGER);
    pair.ends[CLIENT].handle_timeout(deadline);
    assert_eq!(pair.ends[CLIENT].socket_action(), SocketAction::Abort, "the end could not be written");
    assert_eq!(pair.ends[CLIENT].poll_timeout(), None);
}

#[test]
fn unestablished_link_times_out() {
    let now = Instant::now();
    for mut tcp in [client(now, Kind::Tls, Trust::Any), acceptor(&identity()).accept(now)] {
        let deadline = tcp.poll_timeout().unwrap();
        tcp.handle_timeout(deadline - Duration::from_millis(1));
        assert_eq!(tcp.poll_event(), None);
        tcp.handle_timeout(deadline);
        assert_eq!(tcp.poll_event(), Some(Event::Closed(Closed::TimedOut)));
        assert_eq!(tcp.socket_action(), SocketAction::Abort);
    }
}

#[test]
fn tls_certificate_follows_same_trust_rules_as_quic() {
    let (identity, now) = (identity(), Instant::now());
    let seen = identity.fingerprint();
    let other = Fingerprint([7; 32]);
    let cases = [
        (Trust::FirstUse, Ok(CertificateSeen::FirstUse(seen))),
        (Trust::Pin(seen), Ok(CertificateSeen::Pinned(seen))),
        (Trust::Known(seen), Ok(CertificateSeen::Known(seen))),
        (Trust::Any, Ok(CertificateSeen::Unchecked(seen))),
        (Trust::Pin(other), Err(CertificateRefused::NotPinned { pinned: other, seen })),
        (Trust::Known(other), Err(CertificateRefused::Changed { known: other, seen })),
        (Trust::PublicCa, Err(CertificateRefused::NotPublic { seen })),
    ];
    for (trust, expected) in cases {
        let ends = [client(now, Kind::Tls, trust), acceptor(&identity).accept(now)];
        let mut pair = Pair::new(ends, now, 100_000, 3);
        pair.run();
        match expected {
            Ok(certificate) => {
                let connected = Event::Connected { certificate, transport: Transport::Tls };
                assert!(pair.events[CLIENT].contains(&connected), "{:?}", pair.events);
                let connected = Event::Connected { certificate: CertificateSeen::NotAsked, transport: Transport::Tls };
                assert!(pair.events[SERVER].contains(&connected), "{:?}", pair.events);
            }
            Err(refused) => {
                let closed = Closed::Tls(TlsFailure::CertificateRefused(refused));
                assert_eq!(pair.closed(CLIENT), Some(&closed));
                assert!(matches!(pair.closed(SERVER), Some(Closed::Tls(TlsFailure::Alert(_)))), "{:?}", pair.events);
            }
        }
    }
}

/// A client that offers these protocols with our server, and a server that supports these protocols with our client.
fn with_protocol(protocols: &[&[u8]]) -> [Pair; 2] {
    let (identity, now) = (identity(), Instant::now());
    let provider = crypto::crypto_provider();
    let verifier = Verifier::new(Trust::Any, crypto::public_roots(), &provider).map(Arc::new).unwrap();
    let clock = Ticker::new(UNIX_TIME).clock();
    let mut config = crypto::client_tls(verifier.clone(), b"", &provider, clock.clone()).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let tls = Tls::client(config, "relay.test".try_into().unwrap(), verifier).unwrap();
    let foreign = TcpLink::new(now, OPEN_WITHIN, Layer::Tls(Box::new(tls)), Framing::Bytes, Windows::relay());
    let first = Pair::new([foreign, acceptor(&identity).accept(now)], now, 100_000, 4);
    let mut acceptor = acceptor(&identity);
    acceptor.tls = Arc::new(crypto::server_tls(&identity, protocols, clock).unwrap());
    let second = Pair::new([client(now, Kind::Tls, Trust::Any), acceptor.accept(now)], now, 100_000, 4);
    [first, second]
}

#[test]
fn another_protocol_is_refused_on_both_sides() {
    for mut pair in with_protocol(&[b"h2"]) {
        pair.run();
        for end in [CLIENT, SERVER] {
            assert_eq!(pair.closed(end), Some(&Closed::Tls(TlsFailure::NoCommonProtocol)));
        }
    }
    // A server without ALPN.
    let [_, mut pair] = with_protocol(&[]);
    pair.run();
    assert_eq!(pair.closed(CLIENT), Some(&Closed::Tls(TlsFailure::NoCommonProtocol)));
}

#[test]
fn bytes_that_are_not_tls_are_reported_as_such() {
    let now = Instant::now();
    let mut tcp = client(now, Kind::Tls, Trust::Any);
    feed(&mut tcp, now, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert_eq!(tcp.poll_event(), Some(Event::Closed(Closed::Tls(TlsFailure::NotTls))));

    let mut tcp = acceptor(&identity()).accept(now);
    feed(&mut tcp, now, b"SSH-2.0-OpenSSH_9.2\r\n");
    assert_eq!(tcp.poll_event(), Some(Event::Closed(Closed::Unknown)));
}

#[test]
fn a_tampered_record_ends_the_link_and_is_not_read() {
    for at in [5, 40, 119] {
        for finished in [false, true] {
            let mut pair = Pair::up(Kind::Tls);
            let _ = pair.ends[CLIENT].write(pair.now, &mut pattern(100));
            let mut bytes = sent(&mut pair.ends[CLIENT], pair.now, usize::MAX);
            bytes[at] ^= 1;
            if finished {
                pair.ends[SERVER].finish(pair.now);
            }
            feed(&mut pair.ends[SERVER], pair.now, &bytes);
            assert_eq!(pair.ends[SERVER].read(), Read::Gone);
            pair.run();
            assert_eq!(pair.closed(SERVER), Some(&Closed::Tls(TlsFailure::Broken)));
            if !finished {
                assert_eq!(pair.closed(CLIENT), Some(&Closed::Tls(TlsFailure::Alert(20))), "bad_record_mac");
            }
        }
    }
}

#[test]
fn idle_connection_uses_small_buffers() {
    let mut pair = Pair::up(Kind::Tls);
    pair.rest = [pattern(1_000_000), pattern(1_000_000)];
    pair.run();
    for _ in 0..20 {
        pair.rest = [pattern(10), pattern(10)];
        pair.run();
    }
    for end in [CLIENT, SERVER] {
        assert!(pair.ends[end].read_buffer().len() <= 8 * 1024, "{}", pair.ends[end].read_buffer().len());
    }
}

#[test]
fn close_code_and_reason_pass_through_websocket() {
    for tls in [true, false] {
        let mut pair = Pair::up(websocket(tls));
        let _ = pair.ends[SERVER].write(pair.now, &mut pattern(1000));
        pair.ends[SERVER].close(pair.now, 7, "the relay shuts down");
        pair.run();
        assert!(pair.got[CLIENT] == pattern(1000), "what was written before comes first");
        let reason = Untrusted::new("the relay shuts down".to_owned());
        assert_eq!(pair.closed(CLIENT), Some(&Closed::Application { code: 7, reason }));
        assert_eq!(pair.ends[CLIENT].write(pair.now, &mut pattern(1)), Write::Gone);
        // The client answered, so the server need not wait for the timeout.
        pair.ends[CLIENT].handle_timeout(pair.now + LINGER);
        pair.run();
        assert_eq!(pair.ends.each_ref().map(TcpLink::socket_action), [SocketAction::Finish; 2]);
    }
}

#[test]
fn pings_are_sent_and_answered_and_silence_is_a_loss() {
    for tls in [true, false] {
        let mut pair = Pair::up(websocket(tls));
        let start = pair.now;
        for count in 1..=10 {
            for end in [CLIENT, SERVER] {
                assert_eq!(pair.ends[end].poll_timeout(), Some(pair.now + PING_EVERY));
                assert_eq!(pair.ends[end].unsent(), 0);
            }
            pair.now = start + PING_EVERY * count;
            for end in [CLIENT, SERVER] {
                pair.ends[end].handle_timeout(pair.now);
                assert!(pair.ends[end].unsent() > 0, "a ping");
            }
            pair.run();
        }
        assert_eq!(pair.events, [vec![], vec![]]);
        let mut now = pair.now;
        while let Some(at) = pair.ends[CLIENT].poll_timeout() {
            assert!(at > now, "time passes");
            now = at;
            pair.ends[CLIENT].handle_timeout(now);
        }
        assert_eq!(now, pair.now + SILENCE);
        assert_eq!(pair.ends[CLIENT].poll_event(), Some(Event::Closed(Closed::TimedOut)));
    }
}

#[test]
fn unread_link_is_not_treated_as_silent() {
    let mut pair = Pair::up(websocket(false));
    pair.fill_server();
    for round in 1..=10 {
        pair.ends[SERVER].handle_timeout(pair.now + SILENCE * round);
    }
    assert_eq!(pair.ends[SERVER].poll_event(), Some(Event::Readable));
    assert_eq!(pair.ends[SERVER].poll_event(), None);
}

#[test]
fn pings_that_are_not_collected_do_not_pile_up() {
    let mut pair = Pair::up(websocket(false));
    let ping = [0x89, 0x84, 0, 0, 0, 0, 1, 2, 3, 4];
    for _ in 0..100_000 {
        feed(&mut pair.ends[SERVER], pair.now, &ping);
    }
    let Windows { send, .. } = Windows::relay();
    assert!(pair.ends[SERVER].unsent() <= send + 200);
    while pair.ends[SERVER].unsent() > 0 {
        sent(&mut pair.ends[SERVER], pair.now, usize::MAX);
    }
    feed(&mut pair.ends[SERVER], pair.now, &ping);
    assert_eq!(sent(&mut pair.ends[SERVER], pair.now, usize::MAX), [0x8a, 4, 1, 2, 3, 4]);
}

#[test]
fn browser_request_gets_426_with_explanation() {
    let now = Instant::now();
    let mut tcp = acceptor(&identity()).accept(now);
    feed(&mut tcp, now, b"GET / HTTP/1.1\r\nHost: relay.test\r\nAccept: */*\r\n\r\n");
    let answer = String::from_utf8(sent(&mut tcp, now, usize::MAX)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{answer}");
    assert!(answer.contains("tallow relay"));
    assert_eq!(tcp.poll_event(), Some(Event::Closed(Closed::Upgrade(UpgradeFailure::Request))));
    tcp.handle_eof();
    assert_eq!(tcp.socket_action(), SocketAction::Finish);
}

#[test]
fn plain_websocket_is_refused_unless_allowed() {
    let now = Instant::now();
    let server = Acceptor::new(&identity(), BareWebSocket::Refused, Windows::relay()).unwrap().accept(now);
    let mut pair = Pair::new([client(now, websocket(false), Trust::Any), server], now, 100_000, 6);
    pair.run();
    assert_eq!(pair.closed(SERVER), Some(&Closed::Unknown));
    assert!(!pair.connected(CLIENT));
    for trust in [Trust::PublicCa, Trust::Pin(Fingerprint([1; 32])), Trust::Known(Fingerprint([1; 32]))] {
        let mut dialler = Dialler::new(UNIX_TIME, &Seed::new([9; 32]));
        let error = dialler.dial(now, &target(websocket(false), trust)).unwrap_err();
        assert_eq!(error, CannotDial::NoCertificate);
    }
}

#[test]
fn an_end_of_tls_inside_a_websocket_is_a_loss() {
    let mut pair = Pair::up(websocket(true));
    pair.ends[CLIENT].layer.close(&mut pair.ends[CLIENT].input, &mut pair.ends[CLIENT].output);
    pair.run();
    assert_eq!(pair.closed(SERVER), Some(&Closed::Lost));
}

#[test]
fn a_websocket_violation_is_reported_to_the_other_side() {
    let mut pair = Pair::up(websocket(false));
    feed(&mut pair.ends[SERVER], pair.now, &[0x82, 1, b'x']);
    assert_eq!(sent(&mut pair.ends[SERVER], pair.now, usize::MAX), [0x88, 2, 0x03, 0xea], "1002");
    pair.run();
    assert_eq!(pair.closed(SERVER), Some(&Closed::WebSocket(WebSocketViolation::Mask)));
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let now = Instant::now();
    let [a, b] = [(), ()].map(|()| {
        let mut pair =
            Pair::new([client(now, websocket(false), Trust::Any), acceptor(&identity()).accept(now)], now, 100_000, 7);
        let mut bytes = sent(&mut pair.ends[CLIENT], now, usize::MAX);
        feed(&mut pair.ends[SERVER], now, &bytes);
        let answer = sent(&mut pair.ends[SERVER], now, usize::MAX);
        feed(&mut pair.ends[CLIENT], now, &answer);
        assert_eq!(pair.ends[CLIENT].write(now, &mut pattern(100)), Write::Done);
        bytes.extend(sent(&mut pair.ends[CLIENT], now, usize::MAX));
        bytes
    });
    assert_eq!(a, b);
    assert!(a.len() > 200);
}

/// A client behind a proxy that sends these answers, one after each turn, and then forwards all bytes.
fn proxied(kind: Kind, url: &str, answers: &[&[u8]], step: u32) -> (Pair, Vec<u8>) {
    let now = Instant::now();
    let proxy: Proxy = url.parse().unwrap();
    let target = Target { proxy: Some(&proxy), ..target(kind, Trust::FirstUse) };
    let client = Dialler::new(UNIX_TIME, &Seed::new([9; 32])).dial(now, &target).unwrap();
    let mut pair = Pair::new([client, acceptor(&identity()).accept(now)], now, step, 8);
    let mut said = Vec::new();
    for answer in answers {
        said.extend(sent(&mut pair.ends[CLIENT], now, usize::MAX));
        for piece in answer.chunks(step as usize) {
            feed(&mut pair.ends[CLIENT], now, piece);
        }
    }
    (pair, said)
}

#[test]
fn proxy_handshake_precedes_all_other_bytes() {
    let http = b"HTTP/1.1 200 OK\r\n\r\n";
    let socks: [&[u8]; 2] = [b"\x05\x00", b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"];
    for kind in kinds() {
        for step in [1, 100_000] {
            for (url, answers) in [("http://p:1", &[&http[..]][..]), ("socks5://p:1", &socks[..])] {
                let (mut pair, said) = proxied(kind.clone(), url, answers, step);
                assert!(said.windows(10).any(|window| window == b"relay.test"), "the name goes to the proxy");
                assert!(!said.contains(&22), "and nothing else before it answered");
                pair.step = 50_000;
                pair.rest = [pattern(100_000), pattern(100_000)];
                pair.run();
                assert!(pair.got.iter().all(|got| *got == pattern(100_000)), "{:?}", pair.events);
            }
        }
    }
}

#[test]
fn proxy_refusal_is_reported_and_silence_times_out() {
    let (mut pair, _) = proxied(Kind::Tls, "http://p:1", &[b"HTTP/1.1 407 Who are you\r\n\r\n"], 5);
    pair.run();
    assert_eq!(pair.closed(CLIENT), Some(&Closed::Proxy(ProxyFailure::LoginNeeded)));
    let (mut pair, _) = proxied(Kind::Tls, "http://p:1", &[], 5);
    assert_eq!(pair.ends[CLIENT].poll_timeout(), Some(pair.now + OPEN_WITHIN_PROXIED));
    pair.ends[CLIENT].handle_timeout(pair.now + OPEN_WITHIN_PROXIED);
    assert_eq!(pair.ends[CLIENT].poll_event(), Some(Event::Closed(Closed::TimedOut)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn link_accepts_any_split(step in 1_u32..3000, seed: u64, lens in [0_usize..20_000, 0_usize..70_000]) {
        for kind in kinds() {
            let mut pair = Pair::of(kind, step, seed);
            pair.rest = lens.map(pattern);
            pair.finish = [true, true];
            pair.run();
            prop_assert!(pair.got[SERVER] == pattern(lens[CLIENT]));
            prop_assert!(pair.got[CLIENT] == pattern(lens[SERVER]));
            prop_assert_eq!(pair.closed(CLIENT), Some(&Closed::Ended));
            prop_assert_eq!(pair.closed(SERVER), Some(&Closed::Ended));
        }
    }

    #[test]
    fn junk_closes_connection_or_times_out(
        junk in proptest::collection::vec(any::<u8>(), 1..2000),
        tls: bool,
        at in 0_usize..2000,
    ) {
        let now = Instant::now();
        let identity = identity();
        let clients = kinds().into_iter().map(|kind| client(now, kind, Trust::Any));
        for mut tcp in clients.chain([acceptor(&identity).accept(now)]) {
            // A valid beginning, then junk.
            let hello = if tls { sent(&mut client(now, Kind::Tls, Trust::Any), now, at) } else { Vec::new() };
            for bytes in [&hello[..], &junk[..]] {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let taken = feed(&mut tcp, now, rest);
                    if taken == 0 { break; }
                    rest = &rest[taken..];
                }
            }
            while tcp.poll_event().is_some() {}
            tcp.handle_eof();
            tcp.handle_timeout(now + OPEN_WITHIN);
            tcp.handle_timeout(now + OPEN_WITHIN + LINGER);
            prop_assert!(tcp.socket_action() != SocketAction::Live);
        }
    }
}

/// A ping and more records in one read: the pong is encrypted when all records are decrypted.
#[test]
fn a_ping_among_other_records_is_answered() {
    for tls in [false, true] {
        let mut pair = Pair::up(websocket(tls));
        pair.now += PING_EVERY;
        let now = pair.now;
        pair.ends[CLIENT].handle_timeout(now);
        assert_eq!(pair.ends[CLIENT].write(now, &mut pattern(1000)), Write::Done);
        let (mut slices, mut bytes) = ([IoSlice::new(&[]); 8], Vec::new());
        let count = pair.ends[CLIENT].output(&mut slices);
        slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
        pair.ends[CLIENT].handle_wrote(now, bytes.len());
        assert_eq!(feed(&mut pair.ends[SERVER], now, &bytes), bytes.len());
        pair.run();
        assert_eq!((pair.closed(SERVER), pair.closed(CLIENT)), (None, None));
        assert_eq!(pair.got[SERVER], pattern(1000));
        // The last received frame is the pong.
        pair.now += SILENCE - PING_EVERY / 2;
        let now = pair.now;
        pair.ends[CLIENT].handle_timeout(now);
        assert_eq!(pair.ends[CLIENT].socket_action(), SocketAction::Live);
    }
}

/// The end of a server's data, with a reason, behind more bytes than the client accepts at once.
#[test]
fn finish_with_reason_waits_for_written_bytes() {
    for (kind, told) in kinds().into_iter().zip([None, Some(7), Some(7)]) {
        let mut pair = Pair::up(kind);
        let mut all = pattern(60_000);
        let now = pair.now;
        assert_eq!(pair.ends[SERVER].write(now, &mut all), Write::Done);
        pair.ends[SERVER].finish_with(now, 7, "seven");
        pair.now += LINGER * 10;
        let now = pair.now;
        pair.ends[SERVER].handle_timeout(now);
        pair.run();
        assert_eq!(pair.got[CLIENT], pattern(60_000));
        let reason = Untrusted::new("seven".to_owned());
        assert_eq!(pair.closed(CLIENT), told.map(|code| Closed::Application { code, reason }).as_ref());
        pair.ends[CLIENT].finish(now);
        pair.run();
        // RFC 6455 §5.5.1: the other side echoes the code.
        let reason = Untrusted::new(String::new());
        let answered = told.map_or(Closed::Ended, |code| Closed::Application { code, reason });
        assert_eq!(pair.closed(SERVER), Some(&answered));
    }
}
