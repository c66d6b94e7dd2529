//! What the queues of a peer and of the driver keep on the heap when others fill them with the smallest messages there
//! are and nothing is taken out: at most twice the bound that docs/threats.md states. Each test checks that its queue
//! was filled.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tallow_proto::code::Code;
use tallow_proto::discovery::mdns::{GROUP, Mdns, PORT};
use tallow_proto::drive::{Driver, Io, Received};
use tallow_proto::handshake::{self, Handshake, Keys, Secret};
use tallow_proto::link::quic::{Event as QuicEvent, Limits, Profile, Quic, Read};
use tallow_proto::link::race::{Allowed, Transport as CandidateTransport};
use tallow_proto::link::trust::Trust;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{
    Action, Arrival, Bind, Dial, Ecn, Interface, Listen, ListenerId, QueryId, SocketId, TcpId, Transmit,
};
use tallow_proto::node::{Input, Node};
use tallow_proto::p2p::candidate::{self, Candidate, Kind};
use tallow_proto::peer::{Common, Event, Machine, Peer, ReceiveConfig, RelayAddress, RelayChoice};
use tallow_proto::seed::Seed;
use tallow_proto::session::{self, Session, WAITING};
use tallow_proto::transfer::job::Job;
use tallow_proto::transfer::manifest::{Entry, EntryKind, MAX_ENTRIES, MAX_PAGES, Mtime, Page, PageBuilder};
use tallow_proto::transfer::path::RelPath;
use tallow_proto::transfer::{TransferEvent, receiver};
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::peer::{Control, Offer, Reason, TransferKind};
use tallow_proto::wire::relay::{RelayMessage, Role, RoomId};
use tallow_proto::wire::{Blob, BoundedVec, Features, Hello, decode, encode};
use tallow_tests::heap::{self, BLOCK, Heap};
use tallow_tests::sim::{CODE, identity};

#[global_allocator]
static ALLOCATOR: &heap::Allocator = heap::ALLOCATOR;

tallow_tests::measured_tests!(
    unread_events_are_bounded,
    driver_queues_are_bounded,
    unacknowledged_control_messages_are_bounded,
    resumable_sessions_cost_their_bound,
    tickets_of_relays_cost_their_bound,
    reasons_of_peer_cost_their_length,
    resolved_addresses_are_bounded,
    answers_of_announcer_are_bounded,
    pages_with_one_entry_cost_their_bound,
    implied_directories_are_bounded,
);

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What the driver's slots for arrivals take.
const SLOTS: usize = 8 * 64 * KIB;
const UNIX_TIME: Duration = Duration::from_secs(1_800_000_000);
const RELAY: &str = "10.0.0.1:4433";
const CLIENT: &str = "10.0.0.2:5000";

fn arrival(from: &str) -> Arrival {
    Arrival { socket: SocketId(0), from: from.parse().unwrap(), local_ip: None, ecn: Ecn::NotEct }
}

/// A receiver, and a relay that pairs it with nobody and closes, again and again.
struct Teased {
    now: Instant,
    peer: Peer,
    relay: Quic,
    socket: Option<SocketId>,
    pairings: usize,
}

impl Teased {
    fn new() -> Self {
        let now = Instant::now();
        let mut common = Common::new(Machine {
            cores: 1,
            interfaces: vec!["10.0.0.2".parse().unwrap()],
            unix_time: UNIX_TIME,
            aes: false,
        });
        let mut relay = RelayChoice::new(RelayAddress { host: "10.0.0.1".into(), port: 4433 });
        relay.trust = Trust::Any;
        common.relays.push(relay);
        common.transport = Allowed::Only(CandidateTransport::Quic);
        common.give_up_after = Some(Duration::from_secs(1_000_000));
        let mut config = ReceiveConfig::new(common, Code::parse(CODE).unwrap());
        (config.local, config.discover) = (Vec::new(), false);
        let peer = Peer::receiver(config, now, Seed::new([7; 32]));
        let relay =
            Quic::server(&Profile::relay(), &identity(), Limits::default(), UNIX_TIME, &Seed::new([8; 32])).unwrap();
        Self { now, peer, relay, socket: None, pairings: 0 }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(10);
        self.peer.handle_timeout(self.now);
        self.peer.settle(self.now);
        while let Some(action) = self.peer.poll_action() {
            if let Action::Bind(id, bind) = action {
                self.socket = self.socket.or(Some(id));
                self.peer.handle_input(self.now, Input::Bound(id, Ok(bind.addr)));
            }
        }
        self.peer.settle(self.now);
        let (one, mut buf) = (NonZeroUsize::MIN, Vec::new());
        if let Some(socket) = self.socket {
            while self.peer.poll_transmit(self.now, socket, one, &mut buf).is_some() {
                self.relay.handle_datagram(self.now, &arrival(CLIENT), BytesMut::from(buf.as_slice()));
                buf.clear();
            }
        }
        self.relay.handle_timeout(self.now);
        self.relay.settle(self.now);
        while let Some(incoming) = self.relay.poll_incoming() {
            self.relay.accept(self.now, incoming);
        }
        while let Some((conn, event)) = self.relay.poll_event() {
            let QuicEvent::Readable(stream) = event else { continue };
            let Read::Data(_) = self.relay.read(conn, stream, 4096) else { continue };
            let hello = RelayMessage::Hello {
                hello: Hello::new(Features::default()),
                observed: CLIENT.parse().unwrap(),
                nonce: [0; 16],
            };
            for message in [hello, RelayMessage::Paired { streams: 0 }] {
                let _ = self.relay.write(conn, stream, &mut Bytes::from(enclose(&encode(&message)).to_vec()));
            }
            self.relay.finish(conn, stream);
            self.pairings += 1;
        }
        self.relay.settle(self.now);
        while self.relay.poll_transmit(self.now, one, &mut buf).is_some() {
            let arrival = Arrival { socket: self.socket.unwrap(), ..arrival(RELAY) };
            self.peer.handle_datagram(self.now, arrival, BytesMut::from(buf.as_slice()));
            buf.clear();
        }
        self.peer.settle(self.now);
    }

    fn until_paired(&mut self, pairings: usize) {
        for _ in 0..2_000_000 {
            if self.pairings >= pairings {
                return;
            }
            self.step();
        }
        panic!("paired {} times", self.pairings);
    }
}

/// Each pairing is an event, and so is that it came to nothing.
fn unread_events_are_bounded() {
    let mut teased = Teased::new();
    teased.until_paired(3);
    let heap = Heap::measure();
    teased.until_paired(60);
    let few = heap.growth();
    // 64, and one of each kind; the deque grows by doubling.
    let bound = (64 + 22) * (size_of::<Event>() + 64);
    teased.until_paired(120);
    heap.assert_within_twice(bound + 32 * KIB, "events");
    assert!(heap.growth() <= few + 4 * KIB, "twice as many pairings cost {} after {few}", heap.growth());
    let events = std::iter::from_fn(|| teased.peer.poll_event()).count();
    assert!((64..=64 + 22).contains(&events), "the queue is filled: {events}");
}

/// It has always an event and a datagram more, and notices nothing.
struct Flood {
    is_bound: bool,
    received: u64,
}

#[derive(Debug)]
struct Byte(#[allow(dead_code, reason = "it has its cost")] Box<u8>);

impl From<Misuse> for Byte {
    fn from(_: Misuse) -> Self {
        Self(Box::new(0))
    }
}

impl Node for Flood {
    type Command = u8;
    type Event = Byte;

    fn handle_datagram(&mut self, _: Instant, _: Arrival, _: BytesMut) {
        self.received += 1;
    }
    fn handle_input(&mut self, _: Instant, _: Input) {}
    fn handle_command(&mut self, _: Instant, _: u8) -> Result<(), Misuse> {
        Err(Misuse::Over)
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn settle(&mut self, _: Instant) {}
    fn poll_action(&mut self) -> Option<Action> {
        let addr = "10.0.0.2:0".parse().unwrap();
        (!std::mem::replace(&mut self.is_bound, true)).then_some(Action::Bind(
            SocketId(0),
            Bind { addr, dual_stack: false, share_port: false, group: None, slot: None },
        ))
    }
    fn poll_transmit(&mut self, _: Instant, _: SocketId, max: NonZeroUsize, buf: &mut Vec<u8>) -> Option<Transmit> {
        buf.extend(std::iter::repeat_n(1, max.get()));
        Some(Transmit {
            to: RELAY.parse().unwrap(),
            ecn: Ecn::NotEct,
            size: max.get(),
            segment_size: Some(1),
            src_ip: None,
        })
    }
    fn poll_job(&mut self) -> Option<Job> {
        None
    }
    fn poll_event(&mut self) -> Option<Byte> {
        Some(Byte(Box::new(1)))
    }
    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }
    fn is_closed(&self) -> bool {
        false
    }
}

/// Sockets from which always something arrives, and that take nothing.
struct Stuck {
    now: Instant,
    offered: usize,
}

impl Io for Stuck {
    type Accepted = ();

    fn now(&self) -> Instant {
        self.now
    }
    fn poll_timer(&mut self, _: &mut Context<'_>, _: Instant) -> Poll<()> {
        Poll::Pending
    }
    fn poll_news(&mut self, _: &mut Context<'_>) -> Poll<Input> {
        Poll::Pending
    }
    fn bind(&mut self, _: SocketId, bind: &Bind) -> io::Result<SocketAddr> {
        Ok(bind.addr)
    }
    fn release(&mut self, _: SocketId) {}
    fn max_segments(&self, _: SocketId) -> NonZeroUsize {
        NonZeroUsize::new(64).unwrap()
    }
    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        _: SocketId,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        for received in received.iter_mut() {
            // Datagrams of one byte, joined by the system.
            *received = Received { from: RELAY.parse().unwrap(), len: 64, stride: 1, ..Received::NONE };
        }
        Poll::Ready(Ok(bufs.len()))
    }
    fn poll_send(&mut self, _: &mut Context<'_>, _: SocketId, _: &Transmit, _: &[u8]) -> Poll<io::Result<()>> {
        self.offered += 1;
        Poll::Pending
    }
    fn listen(&mut self, _: ListenerId, listen: &Listen) -> io::Result<SocketAddr> {
        Ok(listen.addr)
    }
    fn unlisten(&mut self, _: ListenerId) {}
    fn poll_accept(&mut self, _: &mut Context<'_>, _: ListenerId) -> Poll<io::Result<((), SocketAddr)>> {
        Poll::Pending
    }
    fn adopt(&mut self, _: TcpId, (): ()) {}
    fn dial(&mut self, _: TcpId, _: &Dial) -> io::Result<()> {
        Ok(())
    }
    fn poll_dialled(&mut self, _: &mut Context<'_>, _: TcpId) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    fn poll_read(&mut self, _: &mut Context<'_>, _: TcpId, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
    fn poll_write(&mut self, _: &mut Context<'_>, _: TcpId, _: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
    fn finish(&mut self, _: TcpId) {}
    fn close(&mut self, _: TcpId) {}
    fn reset(&mut self, _: TcpId) {}
    fn resolve(&mut self, _: QueryId, _: &str, _: u16) {}
    fn poll_resolved(&mut self, _: &mut Context<'_>) -> Poll<(QueryId, Vec<SocketAddr>)> {
        Poll::Pending
    }
    fn run_blocking(&mut self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

/// Events wait in the node; a batch of datagrams that the socket does not take is the only one. What arrives is given
/// to the node one by one, out of slots that are there once.
fn driver_queues_are_bounded() {
    let heap = Heap::measure();
    let (handle, mut driver) =
        Driver::new(Flood { is_bound: false, received: 0 }, Stuck { now: Instant::now(), offered: 0 });
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1_000 {
        assert!(driver.poll(&mut cx).is_pending());
        // Each is a complaint, for which nobody looks.
        while handle.command(7).is_ok() {}
    }
    // 64 events and one that found no room, 16 commands and their complaints, the slots, and one batch.
    heap.assert_within_twice((65 + 16) * (size_of::<Byte>() + 1 + BLOCK) + SLOTS + 64 * KIB, "the driver's queues");
    let mut handle = handle;
    let mut taken = 0;
    while let Poll::Ready(Some(_)) = handle.poll_event(&mut cx) {
        taken += 1;
    }
    assert!((64..=64 + 16).contains(&taken), "the queue is filled: {taken}");
}

/// The keys of a sender and a receiver that met.
fn keys(now: Instant) -> (Keys, Keys) {
    let code = Code::parse(CODE).unwrap();
    let start = |role, seed| {
        let secret = Secret::Code(code.password().clone());
        let config = handshake::Config { role, features: Features::default(), room: RoomId([9; 32]), secret };
        Handshake::new(config, now, Seed::new([seed; 32]))
    };
    let mut ends = [start(Role::Sender, 1), start(Role::Receiver, 2)];
    let mut keys = [None, None];
    for _ in 0..8 {
        for from in [0, 1] {
            while let Some(output) = ends[from].poll_output() {
                match output {
                    handshake::Output::Send(body) => ends[1 - from].handle_frame(now, body),
                    handshake::Output::Keyed(made) => keys[from] = Some(made),
                    handshake::Output::Failed(failure) => panic!("{failure:?}"),
                }
            }
        }
    }
    let [sender, receiver] = keys;
    (sender.unwrap(), receiver.unwrap())
}

/// A peer that reads and acknowledges nothing: the messages that its requests cause wait, and more are not taken.
fn unacknowledged_control_messages_are_bounded() {
    let now = Instant::now();
    let (keys, _) = keys(now);
    let addr = |port| SocketAddr::from(([203, 0, 113, 1], port));
    let candidates =
        |_| Candidate { kind: Kind::Host, transport: candidate::CandidateTransport::Udp, addr: addr(5_000) };
    let offer = |round| Control::CandidateOffer {
        round,
        candidates: BoundedVec::truncated((0..candidate::MAX).map(candidates).collect()),
        certificate: [7; 32],
        token: [8; 16],
        dependent: false,
    };
    for (what, message) in [("smallest", &(|_| Control::Bye) as &dyn Fn(u32) -> Control), ("largest", &offer)] {
        let heap = Heap::measure();
        let mut session = Session::new(session::Config::new(Role::Sender), &keys, Seed::new([3; 32]));
        let mut sent = 0;
        while session.send_control(message(sent)).is_ok() {
            sent += 1;
            assert!(sent < 100_000, "no end");
        }
        assert_eq!((sent as usize, session.unacknowledged()), (WAITING, WAITING), "the queue is filled");
        let each = size_of::<Control>() + candidate::MAX * size_of::<Candidate>() + BLOCK;
        heap.assert_within_twice(WAITING * each, what);
    }
}

fn exchange(now: Instant, client: &mut Quic, server: &mut Quic, client_at: &str) -> usize {
    let (one, mut buf, mut connected) = (NonZeroUsize::MIN, Vec::new(), 0);
    for quic in [&mut *client, &mut *server] {
        quic.handle_timeout(now);
        quic.settle(now);
    }
    while client.poll_transmit(now, one, &mut buf).is_some() {
        server.handle_datagram(now, &arrival(client_at), BytesMut::from(buf.as_slice()));
        buf.clear();
    }
    server.settle(now);
    while let Some(incoming) = server.poll_incoming() {
        server.accept(now, incoming);
    }
    while server.poll_event().is_some() {}
    while server.poll_transmit(now, one, &mut buf).is_some() {
        client.handle_datagram(now, &arrival(RELAY), BytesMut::from(buf.as_slice()));
        buf.clear();
    }
    client.settle(now);
    while let Some((_, event)) = client.poll_event() {
        connected += usize::from(matches!(event, QuicEvent::Connected { .. }));
    }
    connected
}

/// Connects as a client, waits for the tickets, and closes.
fn visit(now: &mut Instant, client: &mut Quic, server: &mut Quic, name: &str, at: &str) {
    let conn = client.connect(*now, RELAY.parse().unwrap(), name, &Trust::Any).unwrap();
    let mut connected = 0;
    for _ in 0..40 {
        *now += Duration::from_millis(1);
        connected += exchange(*now, client, server, at);
    }
    assert_eq!(connected, 1);
    client.close(*now, conn, 0, "enough");
    // What is closed is forgotten after three probe timeouts.
    for _ in 0..20 {
        *now += Duration::from_millis(500);
        exchange(*now, client, server, at);
    }
}

/// A session that a client may resume, with its key and its places in two maps: a relay keeps 8,192.
const SESSION: usize = 400;

/// A relay keeps two sessions of each connection, and the oldest make room.
fn resumable_sessions_cost_their_bound() {
    let heap = Heap::measure();
    let sessions = 64;
    let limits = Limits { sessions, ..Limits::default() };
    let (mut now, seed) = (Instant::now(), Seed::new([4; 32]));
    let mut server = Quic::server(&Profile::relay(), &identity(), limits, UNIX_TIME, &seed).unwrap();
    let mut number = 0;
    let mut visits = |server: &mut Quic, count: usize| {
        for _ in 0..count {
            number += 1;
            let mut client = Quic::client(&Profile::peer(), UNIX_TIME, &Seed::new([number; 32]));
            visit(&mut now, &mut client, server, "relay.test", CLIENT);
        }
    };
    // Until quinn-proto has its own tables; ten sessions are kept.
    visits(&mut server, 5);
    heap.restart();
    visits(&mut server, 27);
    let (filled, bound) = (heap.growth(), 54 * SESSION);
    assert!(filled >= bound / 2, "the store is filled: {filled}");
    heap.assert_within_twice(bound, "sessions");
    visits(&mut server, 64);
    heap.assert_within_twice(bound, "three times as many connections");
}

/// A client keeps two tickets of each of sixteen relays.
fn tickets_of_relays_cost_their_bound() {
    let limits = Limits { sessions: 1_000, ..Limits::default() };
    let (mut now, seed) = (Instant::now(), Seed::new([5; 32]));
    let mut server = Quic::server(&Profile::relay(), &identity(), limits, UNIX_TIME, &seed).unwrap();
    let mut client = Quic::client(&Profile::peer(), UNIX_TIME, &Seed::new([6; 32]));
    visit(&mut now, &mut client, &mut server, "first.test", CLIENT);
    // The server's sessions are not what is measured: it has room for all before.
    let costs = |client: &mut Quic, server: &mut Quic, now: &mut Instant, from: usize, to: usize| {
        let heap = Heap::measure();
        for number in from..to {
            visit(now, client, server, &format!("relay{number}.test"), CLIENT);
        }
        heap.growth()
    };
    let filled = costs(&mut client, &mut server, &mut now, 0, 16);
    let beyond = costs(&mut client, &mut server, &mut now, 16, 48);
    // A relay costs a TLS configuration, a verifier, two tickets with their certificate; here and in the server.
    let (each, session) = (6 * KIB, 2 * SESSION);
    assert!(filled >= 16 * KIB, "the store is filled: {filled}");
    assert!(filled <= 2 * 16 * (each + session), "{filled}");
    assert!(beyond <= 2 * 32 * session, "32 more relays take the places of the oldest: {beyond}");
}

/// The longest texts that a peer can give, as they are kept in a failure.
fn reasons_of_peer_cost_their_length() {
    let text = Reason::new(&"\u{1}".repeat(100_000));
    let cancel = encode(&Control::Cancel { transfer: 1, reason: tallow_proto::peer::CancelReason::Io, text });
    assert!(cancel.len() > Reason::MAX);
    let heap = Heap::measure();
    let kept: Vec<Control> = (0..1_000).map(|_| decode(&cancel).unwrap()).collect();
    assert!(heap.growth() >= kept.len() * Reason::MAX, "they are kept");
    heap.assert_within_twice(kept.len() * (size_of::<Control>() + Reason::MAX + BLOCK), "reasons");
    drop(kept);
    let mut longer = cancel.clone();
    // The length of the text is a varint of two bytes before it.
    let at = longer.len() - Reason::MAX - 2;
    longer[at] += 1;
    longer.push(b'x');
    assert!(decode::<Control>(&longer).is_err(), "one byte more is refused");
}

/// A name server that answers with as many addresses as a DNS message holds.
fn resolved_addresses_are_bounded() {
    let now = Instant::now();
    let mut common = Common::new(Machine { cores: 1, interfaces: Vec::new(), unix_time: UNIX_TIME, aes: false });
    for number in 0..4 {
        common.relays.push(RelayChoice::new(RelayAddress { host: format!("relay{number}.test"), port: 4433 }));
    }
    let mut config = ReceiveConfig::new(common, Code::parse(CODE).unwrap());
    (config.local, config.discover) = (Vec::new(), false);
    let mut peer = Peer::receiver(config, now, Seed::new([7; 32]));
    peer.settle(now);
    let mut queries = Vec::new();
    while let Some(action) = peer.poll_action() {
        if let Action::Resolve(query, ..) = action {
            queries.push(query);
        }
    }
    assert_eq!(queries.len(), 4);
    let heap = Heap::measure();
    for query in queries {
        let addresses = (0..4_000_u16).map(|number| {
            let [high, low] = number.to_be_bytes();
            SocketAddr::from(([203, 0, high, low], 4433))
        });
        peer.handle_input(now, Input::Resolved(query, addresses.collect()));
    }
    assert!(heap.growth() >= 4 * 16 * size_of::<SocketAddr>(), "sixteen of each are kept: {}", heap.growth());
    heap.assert_within_twice(4 * (16 * size_of::<SocketAddr>() + BLOCK), "addresses");
}

/// Hosts of the network ask an announcer for its service, each in a way that is answered to it alone.
fn answers_of_announcer_are_bounded() {
    let mut now = Instant::now();
    let own = ["192.168.1.20".parse().unwrap()];
    let mut mdns = Mdns::announce(now, 4433, &own, &Seed::new([1; 32]));
    mdns.handle_interfaces(&[Interface { name: "eth0".into(), addr: own[0], prefix: 24 }]);
    let mut browser = Mdns::browse(now, &["192.168.1.30".parse().unwrap()], &Seed::new([2; 32]));
    browser.handle_timeout(now);
    let question = browser.poll_transmit().unwrap();
    assert_eq!(question.to, GROUP);
    let heap = Heap::measure();
    for second in 0..200 {
        now += Duration::from_secs(1);
        mdns.handle_timeout(now);
        for host in 30..230 {
            // Not the port of mDNS: it wants an answer of its own (RFC 6762, section 6.7).
            let from = SocketAddr::new([192, 168, 1, host].into(), PORT + 1 + second);
            mdns.handle_datagram(now, from, &question.data);
        }
    }
    // 48 answers of at most 512 bytes.
    heap.assert_within_twice(48 * 512, "answers");
    assert_eq!(std::iter::from_fn(|| mdns.poll_transmit()).count(), 48, "the queue is filled");
}

fn file(path: &str) -> Entry {
    Entry {
        path: RelPath::parse(path).unwrap(),
        kind: EntryKind::File { size: 1 },
        mode: 0o644,
        mtime: Mtime::default(),
    }
}

/// A receiver that was offered so many entries in so many pages.
fn offered(now: Instant, entries: u32, pages: u32) -> receiver::Receiver {
    let mut receiver = receiver::Receiver::new(receiver::Config { cores: 1 }, Seed::new([1; 32]));
    let offer = Offer {
        transfer: 1,
        kind: TransferKind::Files,
        chunk_size: 64 << 10,
        entries,
        bytes: u64::from(entries),
        pages,
    };
    receiver.handle_control(now, Control::Offer(offer));
    receiver
}

fn push(now: Instant, receiver: &mut receiver::Receiver, page: &Page) {
    // As it comes out of a record: a copy of its own.
    let message = encode(&Control::Page { transfer: 1, page: Blob(page.0.clone()) });
    receiver.handle_control(now, decode(&message).unwrap());
}

/// As many pages as there may be, with one entry each, while the last one is missing, and while the offer is decided.
fn pages_with_one_entry_cost_their_bound() {
    let now = Instant::now();
    let heap = Heap::measure();
    let mut receiver = offered(now, MAX_PAGES, MAX_PAGES);
    let mut encoded = 0;
    for number in 0..MAX_PAGES {
        let mut page = PageBuilder::new();
        page.push(&file(&format!("{number:x}"))).unwrap();
        let page = page.finish();
        encoded += page.0.len();
        push(now, &mut receiver, &page);
        let _ = heap.growth();
        assert!(receiver.poll_event().is_none() || number + 1 == MAX_PAGES);
    }
    // A page is kept as it came; its place, its start for each chunk size, and its names' hashes.
    let each = size_of::<Bytes>() + 2 * BLOCK + 80 + 2 * 9;
    assert!(heap.peak() >= encoded + MAX_PAGES as usize * size_of::<Bytes>(), "they are kept: {}", heap.peak());
    heap.assert_within_twice(encoded + MAX_PAGES as usize * each, "decided");
    assert!(heap.peak() <= 2 * (encoded + MAX_PAGES as usize * each), "{} at most", heap.peak());
}

/// Files in directories of their own, 63 deep, that no entry names. The search for collisions holds each of these
/// directories until all pages are here.
fn implied_directories_are_bounded() {
    let now = Instant::now();
    let heap = Heap::measure();
    let mut receiver = offered(now, MAX_ENTRIES, MAX_PAGES);
    let (mut encoded, mut entries, mut over) = (0, 0_u32, false);
    'pages: for _ in 0..256 {
        let mut page = PageBuilder::new();
        loop {
            let path = format!("{entries:x}{}/f", "/d".repeat(62));
            if page.push(&file(&path)).is_err() {
                break;
            }
            entries += 1;
        }
        let page = page.finish();
        encoded += page.0.len();
        push(now, &mut receiver, &page);
        let _ = heap.growth();
        if let Some(TransferEvent::Over(_)) = receiver.poll_event() {
            over = true;
            break 'pages;
        }
    }
    // A million directories, of 17 bytes each in a table at most half empty, which grows by copying.
    let bound = encoded + 3 * (17 << 20) + MIB;
    assert!(heap.peak() >= 17 << 20, "the table is filled: {}", heap.peak());
    assert!(heap.peak() <= 2 * bound, "{} of {bound} for {encoded} bytes", heap.peak());
    assert!(over, "{entries} entries imply {} directories", entries * 63);
}
