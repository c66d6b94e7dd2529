use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::BytesMut;
use zeroize::Zeroizing;

use super::*;
use crate::link::quic::{ConnId, Event as QuicEvent, Profile};
use crate::link::trust::{Identity, Trust};
use crate::net::{Ecn, SocketId};
use crate::wire::Features;
use crate::wire::Hello;
use crate::wire::relay::ClientMessage;

const AT: &str = "192.0.2.1:4433";
const UNIX_TIME: Duration = Duration::from_secs(1_800_000_000);
const OWN: RoomId = RoomId([7; 32]);

/// One client's connection, with the answers that it got.
struct Stranger {
    quic: Quic,
    from: SocketAddr,
    conn: ConnId,
    stream: Option<Stream>,
    /// What it sends as soon as it can.
    unsent: Bytes,
    reads: bool,
    answers: Decoder,
    is_closed: bool,
}

struct World {
    now: Instant,
    net: Network,
    relay: EmbeddedRelay,
    strangers: Vec<Stranger>,
    /// The most answers that ever waited for one guest.
    most_waiting: usize,
    handed_over: usize,
    is_vacant: bool,
    seconds: usize,
}

fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(vec!["tallow".into()]).unwrap();
    Identity { cert_chain: vec![made.cert.der().to_vec()], key: Zeroizing::new(made.signing_key.serialize_der()) }
}

fn join(room: RoomId) -> ClientMessage {
    ClientMessage::Join { room, role: Role::Receiver, owner: Owner([1; 16]), again: false }
}

fn frames(messages: &[ClientMessage]) -> Bytes {
    let hello = ClientMessage::Hello(Hello::new(Features::default()));
    [hello].iter().chain(messages).flat_map(|message| enclose(&wire::encode(message))).collect()
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let seed = Seed::new([1; 32]);
        let mut net = Network::new(UNIX_TIME, seed.derive("net"));
        let embedded = Embedded { identity: identity(), listen: vec![AT.parse().unwrap()], announce: false };
        let mut relay = EmbeddedRelay::new(embedded, Vec::new(), seed.derive("host"), &mut net);
        relay.handle_bound(Ok(AT.parse().unwrap()), &mut net);
        relay.set_room(OWN);
        while relay.poll().is_some() {}
        Self { now, net, relay, strangers: Vec::new(), most_waiting: 0, handed_over: 0, is_vacant: true, seconds: 0 }
    }

    /// A client connects and sends these messages.
    fn add(&mut self, from: &str, profile: &Profile, messages: &[ClientMessage]) -> usize {
        let number = u8::try_from(self.strangers.len()).unwrap();
        let mut quic = Quic::client(profile, UNIX_TIME, &Seed::new([number; 32]));
        let conn = quic.connect(self.now, AT.parse().unwrap(), "tallow", &Trust::Any).unwrap();
        self.strangers.push(Stranger {
            quic,
            from: from.parse().unwrap(),
            conn,
            stream: None,
            unsent: frames(messages),
            reads: true,
            answers: Decoder::new(Caps::Greeting),
            is_closed: false,
        });
        self.strangers.len() - 1
    }

    /// All machines process their inputs, and the time advances by one millisecond.
    fn step(&mut self) {
        self.now += Duration::from_millis(1);
        let (now, many) = (self.now, NonZeroUsize::new(8).unwrap());
        let mut buf = Vec::new();
        for stranger in &mut self.strangers {
            stranger.step(now);
            while let Some(sent) = stranger.quic.poll_transmit(now, many, &mut buf) {
                for piece in buf.chunks(sent.segment_size.unwrap_or(sent.size)) {
                    let arrival = Arrival { socket: LISTENER, from: stranger.from, local_ip: None, ecn: Ecn::NotEct };
                    self.net.handle_datagram(now, &arrival, BytesMut::from(piece));
                }
                buf.clear();
            }
        }
        self.net.handle_timeout(now);
        self.relay.handle_timeout(now, &mut self.net);
        self.net.settle(now);
        while let Some((conn, event)) = self.net.poll_event() {
            self.relay.handle_event(now, &mut self.net, conn, &event);
        }
        self.relay.settle(now, &mut self.net, self.is_vacant);
        while let Some(met) = self.relay.poll() {
            self.handed_over += usize::from(matches!(met, Output::Connected(..)));
            self.seconds += usize::from(matches!(met, Output::Event(Event::SecondReceiver)));
        }
        let waiting = self.relay.guests.values().map(|guest| guest.waiting.len()).max();
        self.most_waiting = self.most_waiting.max(waiting.unwrap_or(0));
        self.net.settle(now);
        while let Some(sent) = self.net.poll_transmit(now, LISTENER, many, &mut buf) {
            for piece in buf.chunks(sent.segment_size.unwrap_or(sent.size)) {
                let arrival =
                    Arrival { socket: SocketId(0), from: AT.parse().unwrap(), local_ip: None, ecn: Ecn::NotEct };
                let to = self.strangers.iter_mut().filter(|stranger| stranger.from == sent.to);
                to.for_each(|stranger| stranger.quic.handle_datagram(now, &arrival, BytesMut::from(piece)));
            }
            buf.clear();
        }
    }

    fn pass(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.step());
    }

    fn answers(&mut self, which: usize) -> Vec<RelayMessage> {
        let decoder = &mut self.strangers[which].answers;
        std::iter::from_fn(|| decoder.next_frame().unwrap())
            .map(|frame| wire::decode(&frame.into_bytes()).unwrap())
            .collect()
    }
}

impl Stranger {
    fn step(&mut self, now: Instant) {
        self.quic.handle_timeout(now);
        self.quic.settle(now);
        while let Some((_, event)) = self.quic.poll_event() {
            match event {
                QuicEvent::Connected { .. } => self.stream = self.quic.open_bi(self.conn),
                QuicEvent::Closed(_) => self.is_closed = true,
                _ => {}
            }
        }
        let Some(stream) = self.stream else { return };
        let _ = self.quic.write(self.conn, stream, &mut self.unsent);
        while self.reads
            && let Read::Data(bytes) = self.quic.read(self.conn, stream, usize::MAX)
        {
            self.answers.push(bytes);
        }
        self.quic.settle(now);
    }
}

#[test]
fn client_that_reads_no_answers_is_not_read() {
    let mut world = World::new();
    let deaf = Profile { stream_receive_window: 1, ..Profile::peer() };
    let which = world.add("192.0.2.66:5000", &deaf, &vec![ClientMessage::Ping; 100_000]);
    world.strangers[which].reads = false;
    world.pass(200);
    assert!(world.strangers[which].stream.is_some(), "it is connected");
    assert!(world.most_waiting <= 2, "{} answers wait", world.most_waiting);
    assert!(!world.strangers[which].unsent.is_empty(), "its pings wait where they came from");
}

#[test]
fn client_that_reads_gets_all_answers() {
    let mut world = World::new();
    let which = world.add("192.0.2.66:5000", &Profile::peer(), &vec![ClientMessage::Ping; 5_000]);
    world.pass(400);
    let answers = world.answers(which);
    assert_eq!(answers.iter().filter(|answer| **answer == RelayMessage::Pong).count(), 5_000);
}

#[test]
fn room_requests_per_client_are_bounded() {
    let mut world = World::new();
    let rooms: Vec<_> = (0..100).map(|number| join(RoomId([number + 10; 32]))).chain([join(OWN)]).collect();
    let which = world.add("192.0.2.66:5000", &Profile::peer(), &rooms);
    world.pass(100);
    let answers = world.answers(which).len();
    assert!(answers <= usize::from(MAX_JOINS) + 1, "{answers} answers");
    assert!(world.strangers[which].is_closed);
    assert_eq!(world.handed_over, 0);
}

#[test]
fn source_has_same_room_request_rate_as_at_relay() {
    let mut world = World::new();
    let wrong = vec![join(RoomId([9; 32])); usize::from(MAX_JOINS)];
    for port in 5000..5010 {
        let which = world.add(&format!("192.0.2.66:{port}"), &Profile::peer(), &wrong);
        world.pass(20);
        let refused = world.answers(which).len();
        assert_eq!(refused, wrong.len() + 1);
        let (now, conn) = (world.now, world.strangers[which].conn);
        world.strangers[which].quic.close(now, conn, 0, "enough");
        world.pass(5);
    }
    world.add("192.0.2.66:6000", &Profile::peer(), &[join(OWN)]);
    world.pass(20);
    assert_eq!(world.handed_over, 0, "the right room, after eighty wrong ones");
    world.add("192.0.2.67:6000", &Profile::peer(), &[join(OWN)]);
    world.pass(20);
    assert_eq!(world.handed_over, 1, "somebody else's first try");
}

#[test]
fn source_can_not_take_all_places() {
    let mut world = World::new();
    for port in 5000..5040 {
        world.add(&format!("192.0.2.66:{port}"), &Profile::peer(), &[]);
    }
    world.pass(50);
    assert_eq!(world.relay.guests.len(), MAX_PER_SOURCE);
    world.add("192.0.2.67:5000", &Profile::peer(), &[join(OWN)]);
    world.pass(20);
    assert_eq!(world.handed_over, 1);
}

#[test]
fn second_receiver_gets_code_taken_and_sender_is_notified() {
    let mut world = World::new();
    world.add("192.0.2.66:5000", &Profile::peer(), &[join(OWN)]);
    world.pass(20);
    assert_eq!(world.handed_over, 1);
    world.is_vacant = false;
    let other = |room, owner| ClientMessage::Join { room, role: Role::Receiver, owner, again: false };
    let asks = [other(OWN, Owner([2; 16])), other(RoomId([9; 32]), Owner([2; 16]))];
    let second = world.add("192.0.2.67:5000", &Profile::peer(), &asks[..1]);
    let wrong = world.add("192.0.2.68:5000", &Profile::peer(), &asks[1..]);
    let same = world.add("192.0.2.66:5001", &Profile::peer(), &[join(OWN)]);
    world.pass(20);
    let mut last = |which| world.answers(which).pop();
    let refused = |reason| Some(RelayMessage::Refused { reason, retry_after: 5 });
    assert_eq!(last(second), refused(RefusalReason::Taken));
    assert_eq!(last(wrong), refused(RefusalReason::NobodyWaits), "another number");
    assert_eq!(last(same), refused(RefusalReason::NobodyWaits), "the one that is served, on another link");
    assert_eq!(world.seconds, 1);
}
