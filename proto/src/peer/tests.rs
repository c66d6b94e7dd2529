use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::link::trust::Identity;
use crate::net::Ecn;
use crate::p2p::stun;
use crate::transfer::Compression;
use crate::transfer::memory::{MemorySink, MemorySource};
use crate::transfer::path::RelPath;
use crate::wire::peer::CancelReason;
use zeroize::Zeroizing;

/// A sender with an embedded relay, and a receiver, on one virtual machine: a network without loss, virtual time.
struct Pair {
    now: Instant,
    peers: [Peer; 2],
    sockets: Vec<(usize, SocketId, SocketAddr)>,
    flight: VecDeque<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
    events: [Vec<Event>; 2],
}

const PORT: u16 = 4433;

fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(vec!["tallow".into()]).unwrap();
    Identity { cert_chain: vec![made.cert.der().to_vec()], key: Zeroizing::new(made.signing_key.serialize_der()) }
}

fn common() -> Common {
    let unix_time = Duration::from_secs(1_800_000_000);
    Common::new(Machine { cores: 2, interfaces: Vec::new(), unix_time, aes: true })
}

fn source(bytes: usize) -> Arc<MemorySource> {
    let contents = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
    Arc::new(MemorySource::new().with_file(RelPath::parse("a/one.bin").unwrap(), contents))
}

impl Pair {
    fn new(bytes: usize, code: &str, typed: &str, change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig)) -> Self {
        let now = Instant::now();
        let at: SocketAddr = ([127, 0, 0, 1], PORT).into();
        let mut send = SendConfig {
            common: common(),
            source: source(bytes).into(),
            code: CodeChoice::Custom(Code::parse(code).unwrap()),
            compression: Compression::Off,
            is_strict: false,
            embedded: Some(Embedded { identity: identity(), listen: vec![at], announce: false }),
        };
        let mut receive =
            ReceiveConfig { common: common(), code: Code::parse(typed).unwrap(), local: vec![at], discover: false };
        change(&mut send, &mut receive);
        let sender = Peer::sender(send, now, Seed::new([1; 32]));
        let receiver = Peer::receiver(receive, now, Seed::new([2; 32]));
        let mut pair = Self {
            now,
            peers: [sender, receiver],
            sockets: Vec::new(),
            flight: VecDeque::new(),
            events: [Vec::new(), Vec::new()],
        };
        pair.serve(0);
        pair.serve(1);
        pair
    }

    fn serve(&mut self, index: usize) {
        let now = self.now;
        loop {
            let peer = &mut self.peers[index];
            peer.settle(now);
            let mut moved = false;
            while let Some(action) = peer.poll_action() {
                let Action::Bind(socket, bind) = action else { panic!("only sockets are asked for") };
                let port = if bind.addr.port() == 0 { 50_000 + self.sockets.len() as u16 } else { bind.addr.port() };
                let addr = SocketAddr::new(bind.addr.ip(), port);
                let known = if addr.is_ipv4() { ([127, 0, 0, 1], port).into() } else { addr };
                self.sockets.push((index, socket, known));
                peer.handle_input(now, Input::Bound(socket, Ok(known)));
                moved = true;
            }
            while let Some(job) = peer.poll_job() {
                peer.handle_input(now, Input::Done(job.run(&AtomicBool::new(false))));
                moved = true;
            }
            for &(owner, socket, from) in &self.sockets {
                let mut buf = Vec::new();
                while owner == index
                    && let Some(transmit) = peer.poll_transmit(now, socket, NonZeroUsize::new(8).unwrap(), &mut buf)
                {
                    for data in buf.chunks(transmit.segment_size.unwrap_or(transmit.size)) {
                        self.flight.push_back((now + Duration::from_millis(5), from, transmit.to, data.to_vec()));
                    }
                    buf.clear();
                }
            }
            while let Some(event) = peer.poll_event() {
                assert!(!self.events[index].iter().any(Event::is_terminal), "{event:?} after the end");
                self.events[index].push(event);
            }
            if !moved {
                return;
            }
        }
    }

    fn run(&mut self, limit: Duration, mut until: impl FnMut(&mut Self) -> bool) {
        let end = self.now + limit;
        while !until(self) {
            let timer = self.peers.iter().filter_map(Node::poll_timeout).min();
            let arrival = self.flight.front().map(|flight| flight.0);
            let next = arrival.into_iter().chain(timer.map(|timer| timer.0)).min();
            let Some(next) = next else { panic!("nothing in flight and no timer: {:?}", self.events) };
            assert!(next <= end, "not in {limit:?}: {:?}, next {timer:?}", self.events);
            self.now = self.now.max(next);
            while let Some(&(at, from, to, _)) = self.flight.front()
                && at <= self.now
            {
                let (_, _, _, data) = self.flight.pop_front().unwrap();
                let Some(&(owner, socket, _)) = self.sockets.iter().find(|(_, _, addr)| *addr == to) else { continue };
                let arrival = Arrival { socket, from, local_ip: None, ecn: crate::net::Ecn::NotEct };
                self.peers[owner].handle_datagram(self.now, arrival, data[..].into());
            }
            for index in 0..2 {
                self.peers[index].handle_timeout(self.now);
                self.serve(index);
            }
        }
    }

    fn command(&mut self, index: usize, command: Command) {
        self.peers[index].handle_command(self.now, command).unwrap();
        self.serve(index);
    }

    fn wait_for_offer(&mut self) {
        self.run(Duration::from_secs(20), |pair| pair.events[1].iter().any(|event| matches!(event, Event::Offer(_))));
    }

    fn wait_for_the_end(&mut self) -> [Event; 2] {
        self.run(Duration::from_secs(60), |pair| pair.peers.iter().all(Node::is_closed));
        self.events.each_mut().map(|events| events.pop().expect("an end"))
    }
}

const CODE: &str = "7-acorn-bicycle-canal";

#[test]
fn file_is_received_through_embedded_relay() {
    let mut pair = Pair::new(3_000_000, CODE, CODE, |_, _| {});
    pair.wait_for_offer();
    let sink = Arc::new(MemorySink::new());
    pair.command(1, Command::Accept(sink.clone()));
    let [sent, received] = pair.wait_for_the_end();
    let (Event::Done(sent), Event::Done(received)) = (&sent, &received) else { panic!("{sent:?}, {received:?}") };
    assert_eq!(sent.root, received.root);
    assert_eq!(received.totals.bytes, 3_000_000);
    let finished = sink.finished();
    assert_eq!(finished["a/one.bin"].1, source(3_000_000).entries()[0].1);
    assert!(pair.events[0].iter().any(|event| matches!(event, Event::Code { .. })));
    assert!(pair.events[0].iter().any(|event| matches!(event, Event::Progress(Progress { bytes: 3_000_000, .. }))));
}

#[test]
fn a_sender_says_that_it_looks_through_its_files_before_it_waits() {
    let mut pair = Pair::new(10, CODE, CODE, |_, _| {});
    let mut send = SendConfig::new(common(), source(10));
    send.code = CodeChoice::Custom(Code::parse(CODE).unwrap());
    send.embedded = Some(Embedded::new(identity()).listening_at(vec![([127, 0, 0, 1], PORT).into()]));
    let mut sender = Peer::sender(send, pair.now, Seed::new([1; 32]));
    let mut events = Vec::new();
    let mut jobs = VecDeque::new();
    // Its jobs take their time; then they are done.
    for is_slow in [true, false] {
        loop {
            sender.settle(pair.now);
            events.extend(std::iter::from_fn(|| sender.poll_event()));
            jobs.extend(std::iter::from_fn(|| sender.poll_job()));
            if let Some(Action::Bind(socket, bind)) = sender.poll_action() {
                sender.handle_input(pair.now, Input::Bound(socket, Ok(bind.addr)));
            } else if !is_slow && let Some(job) = jobs.pop_front() {
                sender.handle_input(pair.now, Input::Done(job.run(&AtomicBool::new(false))));
            } else {
                break;
            }
        }
        let last = events.last();
        if is_slow {
            assert!(matches!(last, Some(Event::Waiting(WaitingFor::Source))), "{events:?}");
            assert!(!events.iter().any(|event| matches!(event, Event::Code { .. })), "{events:?}");
        } else {
            let code = events.iter().position(|event| matches!(event, Event::Code { .. })).expect("a code");
            assert!(matches!(events[code + 1], Event::Waiting(WaitingFor::Receiver)), "{events:?}");
        }
    }
    pair.serve(0);
}

#[test]
fn x01_wrong_code_ends_receiver_and_third_ends_sender() {
    let mut pair = Pair::new(10, CODE, "7-acorn-bicycle-zebra", |_, _| {});
    for left in [2, 1] {
        pair.run(Duration::from_secs(5), |pair| {
            pair.peers[1].is_closed() && matches!(pair.events[0].last(), Some(Event::Waiting(_)))
        });
        assert!(matches!(pair.events[1].last(), Some(Event::Failed(Failure::WrongCode))), "{:?}", pair.events[1]);
        assert!(pair.events[0].iter().any(|event| matches!(event, Event::WrongGuess { left: said } if *said == left)));
        let fresh = Pair::new(10, CODE, "7-acorn-bicycle-zebra", |_, _| {});
        let [_, receiver] = fresh.peers;
        pair.peers[1] = receiver;
        pair.events[1].clear();
        pair.sockets.retain(|&(owner, ..)| owner == 0);
        pair.peers[1].net.open_clients();
        pair.serve(1);
    }
    let [sender, receiver] = pair.wait_for_the_end();
    assert!(matches!(receiver, Event::Failed(Failure::WrongCode)));
    assert!(matches!(sender, Event::Failed(Failure::WrongCode)), "{sender:?}");
    assert!(!pair.events[1].iter().any(|event| matches!(event, Event::Offer(_))));
}

#[test]
fn a_declined_offer_ends_both_sides() {
    let mut pair = Pair::new(10, CODE, CODE, |_, _| {});
    pair.wait_for_offer();
    pair.command(1, Command::Decline(crate::wire::peer::DeclineReason::Person, "not today".into()));
    let [sender, receiver] = pair.wait_for_the_end();
    assert!(matches!(receiver, Event::Failed(Failure::NotAccepted)), "{receiver:?}");
    let Event::Failed(Failure::Declined { text, .. }) = sender else { panic!("{sender:?}") };
    assert_eq!(text.escaped(100), "not today");
}

#[test]
fn cancel_is_reported_to_the_peer() {
    for who in [0, 1] {
        let mut pair = Pair::new(3_000_000, CODE, CODE, |_, _| {});
        pair.wait_for_offer();
        let sink = Arc::new(MemorySink::new());
        pair.command(1, Command::Accept(sink.clone()));
        pair.run(Duration::from_secs(5), |pair| pair.events[0].iter().any(|event| matches!(event, Event::Accepted)));
        pair.command(who, Command::Cancel);
        let ends = pair.wait_for_the_end();
        assert!(matches!(ends[who], Event::Failed(Failure::Interrupted)), "{ends:?}");
        assert!(
            matches!(ends[1 - who], Event::Failed(Failure::Peer { reason: CancelReason::Interrupted, .. })),
            "{ends:?}"
        );
        assert!(sink.finished().is_empty());
    }
}

#[test]
fn verify_sends_no_offer_before_confirmation() {
    for who in [0, 1] {
        let mut pair = Pair::new(10, CODE, CODE, |send, receive| {
            [&mut send.common, &mut receive.common][who].verify = true;
        });
        let shown = |pair: &Pair, who: usize| {
            pair.events[who].iter().find_map(|event| match event {
                Event::Verifier { words, comparison } => Some((words.clone(), comparison.is_some())),
                _ => None,
            })
        };
        pair.run(Duration::from_secs(5), |pair| shown(pair, 0).is_some() && shown(pair, 1).is_some());
        let (words, must_agree) = shown(&pair, who).unwrap();
        assert!(must_agree);
        assert_eq!(shown(&pair, 1 - who), Some((words, false)));
        pair.run(Duration::from_secs(2), |pair| pair.now > pair.now - Duration::ZERO || pair.flight.is_empty());
        assert!(!pair.events[1].iter().any(|event| matches!(event, Event::Offer(_))));
        pair.command(who, Command::Agree(true));
        pair.wait_for_offer();
    }
}

/// Like a relay, the embedded relay answers STUN requests with the client's address, within the rate limit of a
/// source, and in less than three times as many bytes.
#[test]
fn embedded_relay_answers_stun_within_rate_limit() {
    let code = "7-acorn-bicycle-canal";
    let mut pair = Pair::new(10, code, code, |_, _| {});
    let (now, sender) = (pair.now, &mut pair.peers[0]);
    let asked = |from: SocketAddr| Arrival { socket: network::LISTENER, from, local_ip: None, ecn: Ecn::NotEct };
    let mut answers = |from: SocketAddr, count: usize| {
        let (mut sizes, request) = (Vec::new(), stun::request(stun::TransactionId([7; 12])));
        for _ in 0..count {
            sender.handle_datagram(now, asked(from), request[..].into());
            sender.settle(now);
            let mut buf = Vec::new();
            if let Some(transmit) = sender.poll_transmit(now, network::LISTENER, NonZeroUsize::MIN, &mut buf)
                && transmit.to == from
            {
                let id = stun::TransactionId([7; 12]);
                assert_eq!(stun::decode(&buf), Ok(stun::Message::Success { id, observed: from }));
                assert!(buf.len() <= 3 * request.len());
                sizes.push(buf.len());
            }
        }
        sizes
    };
    assert_eq!(answers("203.0.113.7:7000".parse().unwrap(), 1), [40]);
    assert_eq!(answers("[2001:db8::7]:7000".parse().unwrap(), 1), [52]);
    assert_eq!(answers("203.0.113.8:7000".parse().unwrap(), 1_000).len(), 480);
    assert_eq!(answers("203.0.113.9:7000".parse().unwrap(), 1), [40]);
}

fn addr_of(socket: SocketId) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 50_000 + u16::from(socket.0)))
}

/// How long a sender asks a relay of which nothing comes, or one that refuses all connections, in a process whose
/// timers are late by so much.
fn asks_in_vain_for(late: Duration, refuses: bool) -> (Duration, Option<Event>) {
    let start = Instant::now();
    let relay: SocketAddr = ([192, 0, 2, 7], PORT).into();
    let profile = crate::link::quic::Profile::relay();
    let limits = crate::link::quic::Limits::default();
    let unix_time = Duration::from_secs(1_800_000_000);
    let mut quic =
        crate::link::quic::Quic::server(&profile, &identity(), limits, unix_time, &Seed::new([3; 32])).unwrap();
    let mut common = common();
    common.relays.push(RelayChoice::new(RelayAddress { host: "192.0.2.7".into(), port: PORT }));
    let config = SendConfig::new(common, source(10));
    let mut peer = Peer::sender(config, start, Seed::new([1; 32]));
    let mut now = start;
    loop {
        peer.settle(now);
        while let Some(action) = peer.poll_action() {
            match action {
                Action::Bind(socket, bind) => peer.handle_input(now, Input::Bound(socket, Ok(bind.addr))),
                Action::Dial(..) | Action::Abort(_) => {}
                other => panic!("{other:?}"),
            }
        }
        while let Some(job) = peer.poll_job() {
            peer.handle_input(now, Input::Done(job.run(&AtomicBool::new(false))));
        }
        for socket in [SocketId(0), SocketId(1)] {
            let mut buf = Vec::new();
            while peer.poll_transmit(now, socket, NonZeroUsize::MIN, &mut buf).is_some() {
                let arrival = Arrival { socket, from: addr_of(socket), local_ip: None, ecn: Ecn::NotEct };
                quic.handle_datagram(now, &arrival, BytesMut::from(&buf[..]));
                buf.clear();
                while let Some(incoming) = quic.poll_incoming() {
                    quic.refuse(incoming);
                }
                quic.settle(now);
                while quic.poll_transmit(now, NonZeroUsize::MIN, &mut buf).is_some() {
                    if refuses {
                        let arrival = Arrival { socket, from: relay, local_ip: None, ecn: Ecn::NotEct };
                        peer.handle_datagram(now, arrival, BytesMut::from(&buf[..]));
                    }
                    buf.clear();
                }
                peer.settle(now);
            }
        }
        if let Some(event) = std::iter::from_fn(|| peer.poll_event()).find(Event::is_terminal) {
            return (now - start, Some(event));
        }
        let Some((at, _)) = peer.poll_timeout() else { return (now - start, None) };
        now = now.max(at + late);
        peer.handle_timeout(now);
    }
}

#[test]
fn a_busy_process_does_not_say_that_no_relay_answered() {
    let no_relay = Some(Event::Failed(Failure::Lost(Lost::NoRelay)));
    let (after, end) = asks_in_vain_for(Duration::ZERO, false);
    assert_eq!(format!("{end:?}"), format!("{no_relay:?}"));
    assert!((Duration::from_secs(16)..Duration::from_secs(20)).contains(&after), "{after:?}");
    // What was sent may well have been answered, and the process had no time to read it. It is told in the end.
    let (after, end) = asks_in_vain_for(Duration::from_millis(400), false);
    assert_eq!(format!("{end:?}"), format!("{no_relay:?}"));
    assert!((Duration::from_secs(60)..Duration::from_secs(200)).contains(&after), "{after:?}");
}

#[test]
fn a_relay_that_refuses_connections_is_reported_as_such() {
    let (after, end) = asks_in_vain_for(Duration::ZERO, true);
    let refused = Failure::Relay(RelayFailure::Refused(RefusalReason::RateLimited));
    assert_eq!(format!("{end:?}"), format!("{:?}", Some(Event::Failed(refused))));
    assert!(after >= Duration::from_secs(18), "tried again, after {after:?}");
}

/// The sockets that a peer with a slot lets others use, and those that it does not.
fn sockets_of(mut peer: Peer) -> (Vec<SocketId>, Vec<SocketId>) {
    let now = Instant::now();
    peer.settle(now);
    let mut all = Vec::new();
    while let Some(action) = peer.poll_action() {
        if let Action::Bind(socket, bind) = action {
            all.push((socket, bind.slot.is_some()));
        }
    }
    let of = |shared: bool| all.iter().filter(|socket| socket.1 == shared).map(|socket| socket.0).collect();
    (of(true), of(false))
}

#[test]
fn a_peer_with_a_slot_shares_sockets_but_no_told_port() {
    use network::{CLIENT_V4, CLIENT_V6, DIRECT_V4, DIRECT_V6, LISTENER, MDNS};
    let now = Instant::now();
    let shared = |direct: Option<DirectPath>, relays: bool| {
        let mut common = common();
        common.slot = Some(crate::net::SlotKey::new(&Seed::new([9; 32])).slot(7));
        common.direct = direct;
        if relays {
            common.relays.push(RelayChoice::new(RelayAddress { host: "192.0.2.7".into(), port: PORT }));
        }
        common
    };
    let direct = || DirectPath::new(identity());
    let all = shared(Some(direct().without_port_mapping()), true);
    let sender = Peer::sender(SendConfig::new(all.clone(), source(1)), now, Seed::new([1; 32]));
    assert_eq!(sockets_of(sender), (vec![CLIENT_V4, CLIENT_V6, DIRECT_V4, DIRECT_V6], vec![]));
    // A port that the gateway is asked to map is the transfer's own.
    let mapped = shared(Some(direct()), true);
    let sender = Peer::sender(SendConfig::new(mapped, source(1)), now, Seed::new([1; 32]));
    assert_eq!(sockets_of(sender), (vec![CLIENT_V4, CLIENT_V6, DIRECT_V6], vec![DIRECT_V4]));
    // So is that of the relay inside a sender.
    let at: SocketAddr = ([127, 0, 0, 1], PORT).into();
    let embedded = Some(Embedded { identity: identity(), listen: vec![at], announce: false });
    let inside = SendConfig { embedded, ..SendConfig::new(shared(None, false), source(1)) };
    assert_eq!(sockets_of(Peer::sender(inside, now, Seed::new([1; 32]))), (vec![], vec![LISTENER]));
    let code = Code::parse("7-acorn-bicycle-canal").unwrap();
    let looking = ReceiveConfig::new(shared(None, false), code.clone());
    let receiver = Peer::receiver(looking, now, Seed::new([1; 32]));
    assert_eq!(sockets_of(receiver), (vec![CLIENT_V4, CLIENT_V6, MDNS], vec![]));
    let alone = Peer::receiver(ReceiveConfig::new(common(), code), now, Seed::new([1; 32]));
    assert_eq!(sockets_of(alone).0, vec![]);
}
