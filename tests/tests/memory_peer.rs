//! How much heap memory a peer keeps for data from others: single bytes, many messages, answers that are not read. At
//! most twice the stated bounds.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tallow_proto::code::Code;
use tallow_proto::discovery::mdns::{GROUP, Mdns, PORT};
use tallow_proto::link::quic::{ConnId, Event as QuicEvent, Profile, Quic, Stream};
use tallow_proto::link::trust::Trust;
use tallow_proto::net::{Action, Arrival, Ecn, Interface, SocketId};
use tallow_proto::node::{Input, Node};
use tallow_proto::p2p::candidate::{Candidate, CandidateTransport, Kind, MAX};
use tallow_proto::p2p::negotiate::{Config, Negotiation};
use tallow_proto::peer::{self, Common, Embedded, Peer, SendConfig};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::Compression;
use tallow_proto::transfer::memory::MemorySource;
use tallow_proto::transfer::path::RelPath;
use tallow_proto::wire::frame::{CHUNK, KIND_CHUNK, enclose};
use tallow_proto::wire::peer::Control;
use tallow_proto::wire::relay::{ClientMessage, Owner, Role, RoomId};
use tallow_proto::wire::{BoundedVec, Caps, Decoder, Features, Hello, encode};
use tallow_tests::heap::{self, Heap};
use tallow_tests::sim::{CODE, identity};

#[global_allocator]
static ALLOCATOR: &heap::Allocator = heap::ALLOCATOR;

tallow_tests::measured_tests!(
    record_in_small_pieces_costs_no_more_than_its_bytes,
    requests_with_unread_answers_cost_one_window,
    announcements_cost_bounded_addresses,
    candidate_rounds_cost_bounded_queue,
);

/// The payload of an Ethernet packet.
const PACKET: usize = 1_452;

/// The start of a chunk record that never becomes whole, in pieces of that length, each in a packet of its own.
fn decoder_fed(piece: usize, bytes: usize) -> Decoder {
    let mut decoder = Decoder::new(Caps::Records);
    let prefix = [&u32::try_from(CHUNK).unwrap().to_be_bytes()[..], &[KIND_CHUNK]].concat();
    decoder.push(prefix.into());
    for _ in 0..bytes / piece {
        let packet = Bytes::from(vec![0x55; PACKET]);
        decoder.push(packet.slice(PACKET - piece..));
        assert!(decoder.next_frame().unwrap().is_none());
    }
    decoder
}

fn record_in_small_pieces_costs_no_more_than_its_bytes() {
    let bytes = 1 << 20;
    for piece in [1, 7, 511, 512, 1_023, 1_024, PACKET] {
        let heap = Heap::measure();
        let decoder = decoder_fed(piece, bytes);
        heap.assert_within_twice(decoder.buffered(), &format!("pieces of {piece}"));
    }
}

/// A sender with a relay inside, and a stranger at it.
struct Attacked {
    now: Instant,
    peer: Peer,
    stranger: Quic,
    conn: ConnId,
    stream: Option<Stream>,
}

const LISTENER: SocketId = SocketId(2);
const INSIDE: &str = "10.0.0.1:4433";
const STRANGER: &str = "10.0.0.66:5000";

impl Attacked {
    fn new() -> Self {
        let now = Instant::now();
        let source = MemorySource::new().with_file(RelPath::parse("a").unwrap(), vec![1; 10]);
        let unix_time = Duration::from_secs(1_800_000_000);
        let interfaces: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap()];
        let common = Common::new(peer::Machine { cores: 1, interfaces, unix_time, aes: false });
        let config = SendConfig::new(common, Arc::new(source))
            .with_code(Code::parse(CODE).unwrap())
            .with_compression(Compression::Off)
            .with_embedded(Embedded::new(identity()).listening_at(vec![INSIDE.parse().unwrap()]));
        let peer = Peer::sender(config, now, Seed::new([7; 32]));
        // It never gives credit for answers.
        let profile = Profile { stream_receive_window: 1, ..Profile::peer() };
        let mut stranger = Quic::client(&profile, unix_time, &Seed::new([9; 32]));
        let conn = stranger.connect(now, INSIDE.parse().unwrap(), "tallow", &Trust::Any).unwrap();
        let mut attacked = Self { now, peer, stranger, conn, stream: None };
        attacked.settle();
        attacked
    }

    fn settle(&mut self) {
        self.peer.settle(self.now);
        while let Some(action) = self.peer.poll_action() {
            if let Action::Bind(id, bind) = action {
                let bound = if id == LISTENER { Ok(bind.addr) } else { Err(std::io::ErrorKind::AddrNotAvailable) };
                self.peer.handle_input(self.now, Input::Bound(id, bound));
                self.peer.settle(self.now);
            }
        }
        while self.peer.poll_event().is_some() {}
    }

    fn step(&mut self, send: &mut Bytes) {
        let (one, mut buf) = (NonZeroUsize::MIN, Vec::new());
        self.now += Duration::from_micros(200);
        self.stranger.handle_timeout(self.now);
        self.stranger.settle(self.now);
        while let Some((_, event)) = self.stranger.poll_event() {
            if matches!(event, QuicEvent::Connected { .. }) {
                self.stream = self.stranger.open_bi(self.conn);
            }
        }
        if let Some(stream) = self.stream {
            let _ = self.stranger.write(self.conn, stream, send);
        }
        self.stranger.settle(self.now);
        while let Some(sent) = self.stranger.poll_transmit(self.now, one, &mut buf) {
            let from: SocketAddr = STRANGER.parse().unwrap();
            let arrival = Arrival { socket: LISTENER, from, local_ip: None, ecn: Ecn::NotEct };
            self.peer.handle_datagram(self.now, arrival, BytesMut::from(&buf[..sent.size]));
            buf.clear();
        }
        self.peer.handle_timeout(self.now);
        self.settle();
        while let Some(sent) = self.peer.poll_transmit(self.now, LISTENER, one, &mut buf) {
            let from: SocketAddr = INSIDE.parse().unwrap();
            let arrival = Arrival { socket: SocketId(0), from, local_ip: None, ecn: Ecn::NotEct };
            self.stranger.handle_datagram(self.now, &arrival, BytesMut::from(&buf[..sent.size]));
            buf.clear();
        }
    }
}

/// Each of these requests is answered, and the answers are not read.
fn requests_with_unread_answers_cost_one_window() {
    let join = ClientMessage::Join { room: RoomId([9; 32]), role: Role::Receiver, owner: Owner([1; 16]), again: false };
    for (what, message) in [("pings", ClientMessage::Ping), ("joins", join)] {
        let mut attacked = Attacked::new();
        let mut hello = enclose(&encode(&ClientMessage::Hello(Hello::new(Features::default()))));
        for _ in 0..100 {
            attacked.step(&mut hello);
        }
        assert!(hello.is_empty(), "it is connected");
        let frame = enclose(&encode(&message));
        let mut many: Bytes = std::iter::repeat_n(frame, 200_000).flatten().collect();
        let all = many.len();
        let heap = Heap::measure();
        for _ in 0..3_000 {
            attacked.step(&mut many);
        }
        // The unread bytes of this side, and the unacknowledged bytes of the client itself.
        heap.assert_within_twice(2 * (64 << 10), what);
        assert!(what != "pings" || many.len() > all / 2, "the rest waits where it came from");
    }
}

/// A service name as in an announcement, and an address record; a malicious host can send any number of them.
fn announcement(number: u32) -> Vec<u8> {
    let mut data = Vec::new();
    let mut mdns = Mdns::announce(
        Instant::now(),
        u16::try_from(2_000 + number % 60_000).unwrap(),
        &["192.168.1.66".parse().unwrap()],
        &Seed::new([u8::try_from(number % 251).unwrap(); 32]).derive(&number.to_string()),
    );
    mdns.handle_timeout(mdns.poll_timeout().unwrap());
    while let Some(outgoing) = mdns.poll_transmit() {
        assert_eq!(outgoing.to, GROUP);
        data = outgoing.data;
    }
    data
}

fn announcements_cost_bounded_addresses() {
    let now = Instant::now();
    let mut mdns = Mdns::browse(now, &["192.168.1.20".parse().unwrap()], &Seed::new([1; 32]));
    let own = Interface { name: "eth0".into(), addr: "192.168.1.20".parse().unwrap(), prefix: 24 };
    mdns.handle_interfaces(&[own]);
    let heap = Heap::measure();
    for number in 0..3_000 {
        let from = SocketAddr::new([192, 168, 1, u8::try_from(number % 200 + 30).unwrap()].into(), PORT);
        mdns.handle_datagram(now, from, &announcement(number));
    }
    // Eight names of at most 63 bytes, eight addresses with their sources, and the queues' room.
    heap.assert_within_twice(8 * (128 + 2 * 64) + 1024, "announcements");
}

/// Rounds of candidates from the other side that this side has no time to answer.
fn candidate_rounds_cost_bounded_queue() {
    let now = Instant::now();
    let seed = Seed::new([3; 32]);
    let config = Config { role: Role::Sender, allowed: true, certificate: [1; 32], seed, slot: None };
    let mut negotiation = Negotiation::new(config);
    negotiation.start(now, true);
    let heap = Heap::measure();
    let mut refused = false;
    for round in 1..100_000_u32 {
        let addr = |port: u16| SocketAddr::from(([203, 0, 113, (round % 250) as u8], port));
        let candidates = (0..MAX as u16).map(|n| Candidate {
            kind: Kind::Host,
            transport: CandidateTransport::Udp,
            addr: addr(5_000 + n),
        });
        let offer = Control::CandidateOffer {
            round: negotiation.round(),
            candidates: BoundedVec::truncated(candidates.collect()),
            certificate: [7; 32],
            token: [8; 16],
            dependent: false,
        };
        let failed = Control::DirectFailed { round: negotiation.round() + 1 };
        if negotiation.handle_control(now, &offer).and_then(|()| negotiation.handle_control(now, &failed)).is_err() {
            refused = true;
            break;
        }
    }
    assert!(refused, "it goes on for ever");
    // 1,024 things to do, each at most an offer of sixteen candidates.
    heap.assert_within_twice(1_024 * 1_024, "rounds");
}
