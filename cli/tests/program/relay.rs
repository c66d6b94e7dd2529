//! A relay of one's own: its password, its certificate, its end and its log.

use std::net::{TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rustix::process::Signal;
use tallow_proto::link::quic::{Event, Profile, Quic, Read, Write};
use tallow_proto::link::trust::Trust;
use tallow_proto::net::{Arrival, Ecn, SocketId};
use tallow_proto::seed::Seed;
use tallow_proto::wire::frame::{GREETING, enclose};
use tallow_proto::wire::relay::{ClientMessage, Owner, RelayMessage, Role, RoomId};
use tallow_proto::wire::{Caps, Decoder, Features, Hello, decode, encode};

use super::stage::{Home, Relay, Run, SOON, receiving, sending};

const PASSWORD: &str = "correct horse";

#[test]
fn password_relay_serves_only_clients_with_password() {
    let home = Home::new();
    std::fs::write(home.path("password"), format!("{PASSWORD}\n")).unwrap();
    let file = home.file("notes.txt", b"hello");
    let relay = Relay::start(&home, &["--password-file", &home.text("password")]);
    let send = || Run::new(&home, ["send", &file, "--relay", &relay.name()]);
    for run in [send(), send().args(["--relay-password", "wrong"]), send().env("TALLOW_RELAY_PASSWORD", "wrong")] {
        run.piped(b"").end().is(
            8,
            "tallow: the relay refused: it requires a password, or the given one is wrong; set TALLOW_RELAY_PASSWORD",
        );
    }
    receiving(&home, &relay).args(["--yes", "7-acorn-bicycle-canal"]).piped(b"").end().is(8, "password");

    let mut sender = send().args(["--relay-password-file", &home.text("password")]).piped(b"");
    let code = sender.code();
    let receive = receiving(&home, &relay).args(["--yes", &code]).env("TALLOW_RELAY_PASSWORD", PASSWORD);
    receive.piped(b"").end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
}

/// A relay answers a second receiver with another cause than one whose sender is not there.
#[test]
fn second_receiver_at_relay_gets_code_taken() {
    let home = Home::new();
    let relay = Relay::start(&home, &["-v"]);
    let file = home.file("notes.txt", b"hello");
    for runtime in ["tokio", "smol"] {
        let with = ["--runtime", runtime, "--no-p2p"];
        let (sender, code) = sending(&home, &relay, &file, &with);
        let mut first = receiving(&home, &relay).args(with).args(["--overwrite", &code]).on_terminal();
        first.expect_asked("Accept? [y/N] ");
        let second = |code: &str| {
            let run = receiving(&home, &relay).args(with).args(["--json", "--yes", "--give-up-after", "1s", code]);
            run.piped(b"").end()
        };
        let taken = second(&code);
        taken.is(5, "tallow: another receiver used this code; ask the sender whether that was intended");
        assert!(taken.out.contains(r#""for":"turn""#), "{}", taken.out);
        assert!(taken.out.contains("another receiver used this code"), "{}", taken.out);
        let unknown = second("999999-zebra-zebra-zebra");
        unknown.is(5, "tallow: no sender is waiting with this code");
        assert!(unknown.out.contains(r#""for":"sender""#), "{}", unknown.out);
        first.keys("y\n");
        first.end().is(0, "Received 1 file");
        sender.end().is(0, "Sent 1 file");
    }
    let Relay { mut program, .. } = relay;
    program.expect("reason=taken");
    program.signal(Signal::TERM);
    program.end();
}

/// R06 for one pair: the whole log at its highest level, after the relay was terminated.
#[test]
fn terminated_relay_ends_and_its_log_has_no_addresses() {
    let home = Home::new();
    let relay = Relay::start(&home, &["-vvvv"]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    receiving(&home, &relay).args(["--yes", &code]).piped(b"").end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
    let Relay { mut program, .. } = relay;
    for event in ["room_created", "room_paired", "room_closed"] {
        program.expect(event);
    }
    program.signal(Signal::TERM);
    let end = program.end();
    end.is(0, "shutting down: no new rooms");
    let log: Vec<&str> = end.shown.lines().filter(|line| !line.starts_with("listening on ")).collect();
    assert!(log.len() > 5);
    for line in log {
        assert!(!names_an_address(line), "{line}");
        assert!(code.split('-').skip(1).all(|word| !line.contains(word)), "{line}");
    }
}

/// IPv4 and IPv6 in the usual notations, with or without a port.
fn names_an_address(line: &str) -> bool {
    let words = line.split(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c)));
    words.into_iter().any(|word| {
        let bare = word.trim_matches(['.', ':']);
        [word, bare, bare.trim_matches(['[', ']'])]
            .iter()
            .any(|word| word.parse::<std::net::IpAddr>().is_ok() || word.parse::<std::net::SocketAddr>().is_ok())
    })
}

#[test]
fn address_search_finds_known_cases() {
    for line in ["from 127.0.0.1:4433 came", "client=10.0.0.1", "a [::1]:9, b", "x ::ffff:1.2.3.4 y", "2001:db8::5."] {
        assert!(names_an_address(line), "{line}");
    }
    assert!(!names_an_address("room_closed room=8a0f bytes_forwarded=12 seconds=0.5 reason=done"));
}

#[test]
fn a_changed_certificate_is_refused_with_a_hint() {
    let (home, other) = (Home::new(), Home::new());
    let file = home.file("notes.txt", b"hello");
    let relay = Relay::start(&home, &[]);
    let (name, first) = (relay.name(), relay.fingerprint.clone());
    let (sender, code) = sending(&home, &relay, &file, &[]);
    receiving(&home, &relay).args(["--yes", &code]).piped(b"").end().is(0, "Received");
    let end = sender.end();
    end.is(0, &format!("First contact with relay {name}: its certificate is {first}; remembered"));
    relay.program.signal(Signal::TERM);
    assert_eq!(relay.program.end().code, 0);

    // At the same address, but with another state directory.
    let relay = Relay::at(&name, &other, &[]);
    assert_ne!(relay.fingerprint, first);
    let send = || Run::new(&home, ["send", &file, "--relay", &name]);
    let end = send().piped(b"").end();
    end.is(8, &format!("tallow: the certificate of relay {name} changed from {first} to {}", relay.fingerprint));
    let known = home.text("home/state/tallow/known_relays");
    end.is(8, &format!("use --relay-pin {}, or remove the line of {name} from {known}", relay.fingerprint));
    assert!(!end.shown.contains("Code: "));

    // As the message recommends.
    let mut sender = send().args(["--relay-pin", &relay.fingerprint]).piped(b"");
    let code = sender.code();
    let receive = || receiving(&home, &relay).args(["--yes", "--overwrite", &code]);
    receive().args(["--relay-pin", &first]).piped(b"").end().is(8, &format!("and not the pinned {first}"));
    receive().args(["--relay-pin", &relay.fingerprint]).piped(b"").end().is(0, "Received");
    sender.end().is(0, "Sent");

    // Or the other way.
    let kept = std::fs::read_to_string(&known).unwrap();
    let lines: Vec<&str> = kept.lines().filter(|line| !line.contains(&name)).collect();
    assert!(lines.len() < kept.lines().count(), "{kept}");
    std::fs::write(&known, lines.join("\n")).unwrap();
    let mut sender = send().piped(b"");
    sender.code();
    sender.signal(Signal::INT);
    sender.end().is(130, &format!("its certificate is {}; remembered", relay.fingerprint));
}

#[test]
fn invalid_relay_pin_is_a_usage_error() {
    let home = Home::new();
    let file = home.file("notes.txt", b"hello");
    let run = Run::new(&home, ["send", &file, "--relay", "127.0.0.1:9", "--relay-pin", "SHA256:nonsense"]);
    run.piped(b"").end().is(2, "--relay-pin");
}

/// Sixteen silent connections are more than it has descriptors for.
#[test]
fn relay_without_descriptors_warns_once() {
    let home = Home::new();
    let few = ["sh", "-c", r#"ulimit -n 24; exec "$0" "$@""#];
    let mut relay = Run::new(&home, ["relay", "--listen", "127.0.0.1:0"]).under(&few).piped(b"");
    let warning = relay.expect("the descriptor limit of 24 leaves room for");
    assert!(warning.contains("fewer than the 20000 of --max-connections"), "{warning}");
    let addr = relay.expect("listening on ");
    let silent: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(&addr).unwrap()).collect();
    let why = relay.expect("connections cannot be accepted");
    assert!(why.contains("Too many open files"), "{why}");
    // It tries again ten times meanwhile.
    std::thread::sleep(Duration::from_secs(1));
    drop(silent);
    relay.signal(Signal::TERM);
    let end = relay.end();
    end.is(0, "listening on ");
    assert_eq!(end.shown.matches("connections cannot be accepted").count(), 1, "{}", end.shown);
}

/// A client that sends these bytes one by one, each in its own datagram; returns the messages that it receives until
/// `last` or its end. Each client needs its own number, or the relay assigns its datagrams to the previous one.
fn says_in_single_bytes(relay: &Relay, number: u8, bytes: &[u8], last: &RelayMessage) -> (Vec<RelayMessage>, bool) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(relay.addr).unwrap();
    socket.set_nonblocking(true).unwrap();
    let start = Instant::now();
    let mut quic = Quic::client(&Profile::peer(), Duration::from_secs(1_790_000_000), &Seed::new([number; 32]));
    let conn = quic.connect(start, relay.addr, "relay", &Trust::Any).unwrap();
    let (mut main, mut heard, mut closed) = (None, Vec::new(), false);
    let mut decoder = Decoder::new(Caps::Greeting);
    let mut at = 0;
    let (mut buf, mut datagram) = (Vec::new(), [0; 2048]);
    let mut is_sent = true;
    while !closed && heard.last() != Some(last) {
        let now = Instant::now();
        assert!(now < start + SOON, "{heard:?}");
        quic.handle_timeout(now);
        if is_sent
            && let Some(main) = main
            && at < bytes.len()
        {
            assert_eq!(quic.write(conn, main, &mut Bytes::copy_from_slice(&bytes[at..=at])), Write::Done);
            at += 1;
            is_sent = false;
        }
        quic.settle(now);
        while quic.poll_transmit(now, NonZeroUsize::MIN, &mut buf).is_some() {
            socket.send(&buf).unwrap();
            buf.clear();
            is_sent = true;
        }
        if let Ok(len) = socket.recv(&mut datagram) {
            let arrival = Arrival { socket: SocketId(0), from: relay.addr, local_ip: None, ecn: Ecn::NotEct };
            quic.handle_datagram(now, &arrival, BytesMut::from(&datagram[..len]));
            quic.settle(now);
        }
        while let Some((_, event)) = quic.poll_event() {
            match event {
                Event::Connected { .. } => main = quic.open_bi(conn),
                Event::Closed(_) => closed = true,
                _ => {}
            }
        }
        while let Some(Read::Data(bytes)) = main.map(|main| quic.read(conn, main, 1 << 16)) {
            decoder.push(bytes);
        }
        while let Ok(Some(frame)) = decoder.next_frame() {
            heard.push(decode(&frame.into_bytes()).unwrap());
        }
    }
    (heard, closed)
}

/// P07 over real sockets: a greeting in single bytes is accepted. (`p07_…` in `proto` measures its cost without a
/// clock.)
#[test]
fn p07_single_byte_greetings_and_large_frames_are_served() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    let hello = enclose(&encode(&ClientMessage::Hello(Hello::new(Features::default()))));
    let join = ClientMessage::Join { room: RoomId([9; 32]), role: Role::Sender, owner: Owner([1; 16]), again: false };
    let greeting = [hello.clone(), enclose(&encode(&join))].concat();
    let (heard, closed) = says_in_single_bytes(&relay, 1, &greeting, &RelayMessage::Waiting);
    assert!(!closed && heard.last() == Some(&RelayMessage::Waiting), "{heard:?}");
    // The largest frame that may be is no message, which is known only at its end.
    let largest = [hello, enclose(&[0xC8; GREETING])].concat();
    let (heard, closed) = says_in_single_bytes(&relay, 2, &largest, &RelayMessage::Waiting);
    assert!(closed && matches!(heard.as_slice(), [RelayMessage::Hello { .. }]), "{heard:?}");
    receiving(&home, &relay).args(["--yes", &code]).piped(b"").end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
}
