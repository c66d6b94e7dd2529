//! The seeds of the fuzz targets: small files of real encodings in `fuzz/seeds`, and the machines that take them.
//!
//! `TALLOW_WRITE_SEEDS=1 cargo test -p tallow-tests --test fuzz_seeds` writes them anew. Without it they are compared
//! with what would be written, and replayed, so that a fuzzer never begins with messages of yesterday.

#[path = "../../fuzz/src/direct.rs"]
mod direct;
#[path = "../../fuzz/src/portmap.rs"]
mod portmap;
#[path = "../../fuzz/src/relay.rs"]
mod relay;
#[path = "../../fuzz/src/session.rs"]
mod session;
#[path = "../../fuzz/src/steps.rs"]
mod steps;
#[path = "../../fuzz/src/stun.rs"]
mod stun;
#[path = "../../fuzz/src/transfer.rs"]
mod transfer;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tallow_portmap::Protocol;
use tallow_proto::code::Code;
use tallow_proto::discovery::mdns::Mdns;
use tallow_proto::link::quic::{Profile, Quic};
use tallow_proto::link::trust::Trust;
use tallow_proto::p2p::candidate::Kind;
use tallow_proto::seed::Seed;
use tallow_proto::session::{LinkId, Origin, Prepared, Session, StreamNo};
use tallow_proto::transfer::journal::{Header, Stored, Writer};
use tallow_proto::wire::encode;
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::{RefusalReason, RelayMessage, Role};
use tallow_tests::sim::{identity, page_of, raw};

use steps::{step, steps};

/// By target and name.
type Seeds = BTreeMap<(&'static str, String), Vec<u8>>;

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds")
}

fn real() -> Seeds {
    let mut seeds = Seeds::new();
    let mut add = |target: &'static str, name: &str, bytes: Vec<u8>| {
        assert!(bytes.len() < 64 << 10 && seeds.insert((target, name.to_owned()), bytes).is_none(), "{target} {name}");
    };
    let now = Instant::now();
    let (to_receiver, _) = transfer::honest(transfer::small());
    let (_, to_sender) = transfer::honest(transfer::source());
    let greeting = relay::honest();

    // Whole runs.
    add("receive", "complete", to_receiver.clone());
    let declined = [&all_but_the_answer(&to_receiver)[..], &step(transfer::ANSWER, b"no")].concat();
    add("receive", "declined", declined);
    let mut lossy = Vec::new();
    for (tag, body) in steps(&to_receiver) {
        lossy.extend(step(tag, body));
        lossy.extend(step(transfer::LINK, &[]));
        lossy.extend(step(transfer::JOBS, &[]));
    }
    add("receive", "lossy", [lossy, step(transfer::TIME, &[0; 40]), step(transfer::CANCEL, &[])].concat());
    add("send", "complete", to_sender.clone());
    add("send", "lossy", [step(transfer::LINK, &[]), to_sender.clone(), step(transfer::TIME, &[0; 9])].concat());
    add("send", "cancelled", [step(transfer::JOBS, &[]), step(transfer::CANCEL, &[])].concat());
    add("relay", "pair", greeting.clone());
    add("relay", "junk", [step(relay::SAY, &[0xFF; 4]), step(0x10 | relay::FRAME, b"GET / HTTP/1.1")].concat());

    // Messages, each by itself and in frames.
    let (said, sender, receiver) = session::handshake(now);
    for (number, body) in said.iter().enumerate() {
        add("messages", &format!("handshake-{number}"), body.to_vec());
        add("handshake", &format!("for-receiver-{number}"), step(1, body));
        add("handshake", &format!("for-sender-{number}"), step(0, body));
        add("handshake", &format!("flip-{number}"), step(2, &[0, 40 + number as u8, 1]));
    }
    let client = steps(&greeting).filter(|(tag, _)| tag & 7 == relay::FRAME).map(|(_, body)| body.to_vec());
    let controls = |steps_of: &[u8]| -> Vec<Vec<u8>> {
        steps(steps_of).filter(|(tag, _)| *tag == transfer::CONTROL).map(|(_, body)| body.to_vec()).collect()
    };
    let refused = RelayMessage::Refused { reason: RefusalReason::NobodyWaits, retry_after: 5 };
    let from_relay = [RelayMessage::Waiting, RelayMessage::Paired { streams: 4 }, RelayMessage::Pong, refused];
    let mut bodies: Vec<Vec<u8>> = client.chain(from_relay.iter().map(|message| encode(message).to_vec())).collect();
    for (number, control) in controls(&to_receiver).into_iter().chain(controls(&to_sender)).enumerate() {
        // A control record has its sequence number and the acknowledged one before the message.
        add("messages", &format!("control-{number}"), [&[number as u8, 0][..], &control].concat());
        bodies.push(control);
    }
    for (number, body) in bodies.iter().take(6).enumerate() {
        add("messages", &format!("relay-{number}"), body.clone());
    }
    let frames: Vec<u8> = bodies.iter().flat_map(|body| enclose(body).to_vec()).collect();
    let split = |size: usize| frames.chunks(size).flat_map(|piece| step(0, piece)).collect::<Vec<u8>>();
    add("frame", "greeting-whole", [vec![0], split(60_000)].concat());
    add(
        "frame",
        "greeting-bytes",
        [vec![0], frames.iter().take(90).flat_map(|byte| step(0, &[*byte])).collect()].concat(),
    );
    add("frame", "records", [vec![1], split(7)].concat());

    // Records of a peer that has the keys.
    let up = |role, keys: &_, seed| {
        let mut session = Session::new(tallow_proto::session::Config::new(role), keys, Seed::new([seed; 32]));
        session.handle_link_up(now, LinkId(0), 16, Origin::Handshake);
        session
    };
    drop(receiver);
    let mut session = up(Role::Sender, &sender, 9);
    let mut records = Vec::new();
    while let Some(frame) = session.poll_control_record(now, LinkId(0)) {
        records.extend(step(0, &frame[4..]));
    }
    let mut chunk = Prepared::with_capacity(100);
    chunk.extend_from_slice(&[5; 100]);
    records.extend(step(1, &session.seal_chunk(now, LinkId(0), StreamNo(1), chunk).expect("a link")[4..]));
    add("session", "records", records);

    // Codes as users type them, names and pages.
    let code = Code::parse("7-acorn-bicycle-canal").expect("a code");
    for (name, text) in [
        ("code", code.reveal().to_string()),
        ("spoken", "7 ACORN bicycle.canal".to_owned()),
        ("own", "team-a-long-secret".to_owned()),
        ("link", "tallow://relay.example:4433/7#acorn-bicycle-canal".to_owned()),
        ("link-v6", "tallow://[2001:db8::1]/7#acorn-bicycle-canal".to_owned()),
    ] {
        add("code", name, text.into_bytes());
    }
    let names =
        ["a/b/c.txt", "写真/夏.txt", "../x", "C:\\x", "nul.txt", "e\u{301}", "x. .", "a\u{1b}b", "file:stream", "~"];
    for (number, name) in names.iter().enumerate() {
        add("names", &number.to_string(), name.as_bytes().to_vec());
    }
    let entries = [raw(1, b"d", 0), raw(0, b"d/file", 5), raw(2, b"link", 0)];
    let page = page_of(&[raw(0, b"x", 1)]);
    add("page", "two", [step(0, &page_of(&entries[..1])), step(0, &page)].concat());
    add("page", "kinds", step(0, &page_of(&entries)));
    for (tag, body) in steps(&to_receiver) {
        if tag == transfer::CONTROL && body.len() > 30 && body[0] == 4 {
            add("page", "sent", step(0, &body[3..]));
        }
    }

    // A journal as it is stored on a disk, and good batches.
    let header =
        Header { digest: [1; 32], chunk_size: 1 << 16, chunks: 9, bytes: 9 << 16, entries: 1, label: "x".into() };
    let mut journal = header.encode();
    let mut writer = Writer::new(&journal, journal.len() as u64);
    let stored: Vec<Stored> = (0..5).map(|chunk| Stored { chunk, hash: [chunk as u8; 32] }).collect();
    journal.extend(writer.encode(&stored));
    writer.appended(journal.len() as u64);
    add(
        "journal",
        "whole",
        [&[1, 0xFF, 0xFF][..], &step(0, &journal), &step(0, &[0, 1, 7, 0, 2, 8, 0, 3, 9])].concat(),
    );
    add("journal", "torn", [&[0, 0, 90][..], &step(0, &journal[..80]), &step(0, &[0, 1, 7, 0, 2, 8])].concat());

    // What TCP connections begin with: TLS towards a relay, and upgrades and proxies that answer.
    add(
        "tcp_link",
        "websocket",
        [vec![1], step(5, &[0x82, 0x82, 1, 2, 3, 4, 9, 9]), step(0, &[]), step(1, b"x")].concat(),
    );
    let hello = [&[0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    add("tcp_link", "tls", [vec![0], step(5, &hello), step(3, &[0; 200]), step(4, &[0; 100])].concat());
    add("tcp_link", "http-proxy", [vec![5], step(4, &[0; 500]), step(5, b"HTTP/1.1 200 OK\r\n\r\n")].concat());
    add("tcp_link", "socks", [vec![6], step(4, &[0; 500]), step(5, &[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0])].concat());
    let upgraded = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    add("tcp_link", "upgrade", [vec![4], step(4, &[0; 500]), step(5, upgraded)].concat());
    // A control record, and the beginning of a long one; the other one as it would arrive before the link is
    // authenticated.
    let records = [step(5, &[0, 0, 0, 3, 0, 1, 2, 0, 1, 0]), step(5, &[0, 1, 9, 9]), step(0, &[])].concat();
    add("tcp_link", "plain", [&[8][..], &records].concat());
    add("tcp_link", "records", [&[9][..], &records].concat());

    // Datagrams.
    let own = [IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2))];
    let mut announcing = Mdns::announce(now, 4433, &own, &Seed::new([1; 32]));
    let mut browsing = Mdns::browse(now, &own, &Seed::new([2; 32]));
    let (mut question, mut answer) = (Vec::new(), Vec::new());
    browsing.handle_timeout(now + Duration::from_secs(2));
    while let Some(transmit) = browsing.poll_transmit() {
        question.extend(step(0, &transmit.data));
        announcing.handle_datagram(now, SocketAddr::from(([192, 168, 1, 9], 5353)), &transmit.data);
    }
    announcing.handle_timeout(now + Duration::from_secs(2));
    while let Some(transmit) = announcing.poll_transmit() {
        answer.extend(step(0, &transmit.data));
    }
    assert!(!question.is_empty() && !answer.is_empty());
    add("mdns", "question", question);
    add("mdns", "answer", answer);
    for (name, bytes) in direct::honest() {
        add("direct", name, bytes);
    }
    for (name, bytes) in stun::honest() {
        add("stun", name, bytes);
    }
    for (name, seed) in portmap_seeds() {
        add("portmap", name, seed);
    }
    seeds
}

/// Gateways that grant, by each protocol.
fn portmap_seeds() -> [(&'static str, Vec<u8>); 4] {
    use portmap::{END, GATEWAY, SSDP, TCP, TIME, TURN};
    let (outside, inside) = ([203, 0, 113, 5], 40_000_u16.to_be_bytes());
    let pcp = |result: u8, lifetime: u32| {
        let head =
            [&[2, 0x81, 0, result][..], &lifetime.to_be_bytes(), &[0, 0, 0, 9], &[0; 24], &[17, 0, 0, 0]].concat();
        step(GATEWAY, &[&head[..], &inside, &inside, &[0; 10], &[0xFF; 2], &outside].concat())
    };
    let address = step(GATEWAY, &[&[0, 0x80, 0, 0, 0, 0, 0, 9][..], &outside].concat());
    let mapping = |lifetime: u32| {
        let body = [&[0, 0x81, 0, 0, 0, 0, 0, 9][..], &inside, &inside, &lifetime.to_be_bytes()].concat();
        step(GATEWAY, &body)
    };
    let found = b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
                  LOCATION: http://192.168.1.1:5000/desc.xml\r\n\r\n";
    let http =
        |body: &str| step(TCP, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let service = "urn:schemas-upnp-org:service:WANIPConnection:2";
    let description = format!(
        "<?xml version=\"1.0\"?><root><service><serviceType>{service}</serviceType>\
         <controlURL>/ctl</controlURL></service></root>"
    );
    let upnp = [
        step(SSDP, found),
        http(&description),
        http("<NewExternalIPAddress>203.0.113.5</NewExternalIPAddress>"),
        step(TCP, b"HTTP/1.1 500 X\r\n\r\n<errorCode>725</errorCode>"),
        step(END, &[]),
        http("<NewReservedPort>40001</NewReservedPort>"),
    ]
    .concat();
    let away = [step(TURN, &[]), step(TURN, &[])].concat();
    [
        ("pcp", [&[1][..], &pcp(0, 600), &step(TIME, &[]), &pcp(0, 600), &step(TURN, &[]), &pcp(0, 0)].concat()),
        ("natpmp", [&[2][..], &address, &mapping(600), &step(TIME, &[]), &step(TURN, &[]), &mapping(0)].concat()),
        ("upnp", [&[3][..], &upnp, &step(TIME, &[]), &step(TURN, &[]), &http("")].concat()),
        ("all", [&[0][..], &pcp(2, 30), &address, &mapping(0), &step(TIME, &[]), &upnp, &away].concat()),
    ]
}

fn all_but_the_answer(data: &[u8]) -> Vec<u8> {
    steps(data).take_while(|(tag, _)| *tag != transfer::ANSWER).flat_map(|(tag, body)| step(tag, body)).collect()
}

/// A first flight; TLS draws its own randomness, so it is another one each time.
fn datagrams() -> Vec<u8> {
    let now = Instant::now();
    let mut quic = Quic::client(&Profile::peer(), Duration::from_secs(1_790_000_000), &Seed::new([1; 32]));
    let to = SocketAddr::from(([192, 0, 2, 1], 4433));
    quic.connect(now, to, "relay.test", &Trust::Any).expect("an address");
    let (mut all, mut buf) = (Vec::new(), Vec::new());
    quic.settle(now);
    while quic.poll_transmit(now, NonZeroUsize::MIN, &mut buf).is_some() {
        all.extend(step(0, &buf));
        buf.clear();
    }
    all
}

#[test]
fn seeds_match_current_encoding() {
    let seeds = real();
    if std::env::var_os("TALLOW_WRITE_SEEDS").is_some() {
        let _ = fs::remove_dir_all(dir());
        let quic = ("quic", "first-flight".to_owned());
        for ((target, name), bytes) in seeds.iter().chain([(&quic, &datagrams())]) {
            fs::create_dir_all(dir().join(target)).unwrap();
            fs::write(dir().join(target).join(name), bytes).unwrap();
        }
    }
    for ((target, name), bytes) in &seeds {
        let kept = fs::read(dir().join(target).join(name)).unwrap_or_default();
        assert!(kept == *bytes, "{target}/{name} is old: see the text of this file");
    }
}

#[test]
fn every_target_has_seeds() {
    let manifest = fs::read_to_string(dir().join("../Cargo.toml")).unwrap();
    let targets: Vec<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .collect();
    assert!(targets.len() >= 12, "{targets:?}");
    for target in targets {
        assert!(fs::read_dir(dir().join(target)).is_ok_and(|mut files| files.next().is_some()), "{target}");
    }
}

/// The machines take every seed, each of its prefixes and some flips, on any toolchain.
#[test]
fn machines_survive_seeds_and_mutations() {
    let map = |data: &[u8]| drop(portmap::run(data));
    for (target, run) in [
        ("receive", &transfer::receive as &dyn Fn(&[u8])),
        ("send", &transfer::send),
        ("direct", &|data| assert!(direct::run(data) < 1000)),
        ("stun", &|data| drop(stun::run(data))),
        ("portmap", &map),
    ] {
        for file in fs::read_dir(dir().join(target)).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            run(&bytes);
            for at in 0..bytes.len().min(400) {
                run(&bytes[..at]);
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                run(&flipped);
            }
        }
    }
    for file in fs::read_dir(dir().join("relay")).unwrap() {
        relay::relay(identity(), &fs::read(file.unwrap().path()).unwrap());
    }
}

/// The parser understands the servers' answers in the seeds.
/// Each seed reaches the state that its name describes: a second round, or none.
#[test]
fn direct_path_seeds_start_rounds() {
    for (name, rounds) in [("sender", 2), ("receiver", 2), ("nothing", 1), ("moves", 2), ("better", 2), ("off", 0)] {
        assert_eq!(direct::run(&fs::read(dir().join("direct").join(name)).unwrap()), rounds, "{name}");
    }
}

#[test]
fn stun_seeds_yield_reflexive_candidates() {
    for name in ["answered", "elsewhere"] {
        let gather = stun::run(&fs::read(dir().join("stun").join(name)).unwrap());
        assert!(gather.is_done() || name == "elsewhere");
        assert!(gather.candidates().iter().any(|candidate| candidate.kind == Kind::Reflexive), "{name}");
    }
    let refused = stun::run(&fs::read(dir().join("stun/refused")).unwrap());
    assert_eq!(refused.candidates().len(), 1);
}

/// The runs that the seeds hold get as far as they should, or a fuzzer would begin at the door.
#[test]
fn seeds_reach_their_expected_state() {
    let data = fs::read(dir().join("relay/pair")).unwrap();
    let mut hub = relay::Hub::new(identity());
    let (sender, receiver) = hub.pair(7);
    assert!(hub.got(sender) > 0 && hub.got(receiver) > 0 && !data.is_empty());
    assert!(hub.forward(sender, receiver, &vec![3; 3 << 20].into()));
    for (name, protocol) in
        [("pcp", Protocol::Pcp), ("natpmp", Protocol::NatPmp), ("upnp", Protocol::Upnp), ("all", Protocol::Upnp)]
    {
        assert_eq!(portmap::run(&fs::read(dir().join("portmap").join(name)).unwrap()), [protocol], "{name}");
    }
}
