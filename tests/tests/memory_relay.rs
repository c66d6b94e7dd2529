//! How much heap memory a relay, a client or a server keeps for another end that sends the smallest possible pieces
//! and reads nothing: at most twice the bound that the module states.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tallow_proto::link::quic::{Event as QuicEvent, Limits, Profile, Quic};
use tallow_proto::link::tcp::{Acceptor, BareWebSocket, Dialler, Kind, Target, TcpLink, Windows};
use tallow_proto::link::trust::Trust;
use tallow_proto::link::{Read, Write};
use tallow_proto::net::{Action, Arrival, Ecn, ListenerId, SocketId, TcpEvent, TcpId};
use tallow_proto::node::{Input, Node};
use tallow_proto::room::{self, Relay};
use tallow_proto::seed::Seed;
use tallow_proto::wire::frame::{CHUNK, Caps, Decoder, KIND_CHUNK, enclose};
use tallow_proto::wire::relay::{ClientMessage, Owner, Role, RoomId};
use tallow_proto::wire::{Features, Hello, encode};
use tallow_tests::heap::{self, Heap};
use tallow_tests::sim;

#[global_allocator]
static ALLOCATOR: &heap::Allocator = heap::ALLOCATOR;

tallow_tests::measured_tests!(
    tcp_with_one_byte_frames_costs_its_window,
    tcp_with_one_byte_tls_records_costs_its_window,
    unread_client_costs_its_window,
    unread_answers_cost_the_send_window,
    small_writes_cost_the_send_window,
    handshake_in_one_byte_records_costs_its_backlog,
    endless_http_head_costs_its_bound,
    frame_in_small_pieces_costs_its_length,
    stream_of_one_byte_datagrams_costs_its_window,
    pair_that_reads_nothing_costs_its_windows,
    clients_without_request_cost_their_greeting,
    rate_limit_tables_cost_their_bound,
);

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// One read of a TCP connection, in addition to its window.
const READ: usize = 64 * KIB;
/// A TCP connection without anything in it.
const IDLE: usize = 8 * KIB;
const UNIX_TIME: Duration = Duration::from_secs(1_800_000_000);

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: tallow.1\r\n\r\n";
/// A client's data frame with one byte.
const FRAME: [u8; 7] = [0x82, 0x81, 1, 2, 3, 4, 9];
/// A client's ping with nothing in it.
const PING: [u8; 6] = [0x89, 0x80, 1, 2, 3, 4];

fn acceptor(receive: usize, send: usize) -> Acceptor {
    Acceptor::new(&sim::identity(), BareWebSocket::Allowed, Windows { receive, send }).unwrap()
}

/// Feeds a TCP connection as many bytes as it accepts; returns their number.
fn feed(now: Instant, tcp: &mut TcpLink, mut bytes: &[u8]) -> usize {
    let all = bytes.len();
    while !bytes.is_empty() {
        let room = tcp.read_buffer();
        let count = room.len().min(bytes.len());
        if count == 0 {
            break;
        }
        room[..count].copy_from_slice(&bytes[..count]);
        tcp.handle_filled(now, count);
        bytes = &bytes[count..];
    }
    all - bytes.len()
}

/// Takes the output of a TCP connection for its socket.
fn drain(now: Instant, tcp: &mut TcpLink) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut slices = [std::io::IoSlice::new(&[]); 16];
        let count = tcp.output(&mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        if bytes.is_empty() {
            return all;
        }
        tcp.handle_wrote(now, bytes.len());
        all.extend(bytes);
    }
}

/// A client and a server that are connected.
fn connected(kind: Kind, windows: Windows) -> (Instant, TcpLink, TcpLink) {
    let now = Instant::now();
    let mut dialler = Dialler::new(UNIX_TIME, &Seed::new([3; 32]));
    let target = Target { kind, host: "relay.test", port: 443, trust: Trust::Any, proxy: None, windows };
    let mut client = dialler.dial(now, &target).unwrap();
    let mut server = acceptor(windows.receive, windows.send).accept(now);
    for _ in 0..10 {
        let (up, down) = (drain(now, &mut client), drain(now, &mut server));
        assert_eq!(feed(now, &mut server, &up), up.len());
        assert_eq!(feed(now, &mut client, &down), down.len());
    }
    (now, client, server)
}

fn tcp_with_one_byte_frames_costs_its_window() {
    let heap = Heap::measure();
    let now = Instant::now();
    for window in [8 * KIB, 64 * KIB, 256 * KIB] {
        let acceptor = acceptor(window, 64 * KIB);
        let many: Vec<u8> = FRAME.repeat(4096);
        heap.restart();
        let mut tcp = acceptor.accept(now);
        assert_eq!(feed(now, &mut tcp, UPGRADE), UPGRADE.len());
        while feed(now, &mut tcp, &many) == many.len() {}
        heap.assert_within_twice(window + READ.min(window) + IDLE, "one-byte frames");
        let mut read = 0;
        while let Read::Data(piece) = tcp.read() {
            read += piece.len();
        }
        assert!(read >= window);
    }
}

fn tcp_with_one_byte_tls_records_costs_its_window() {
    let heap = Heap::measure();
    let windows = Windows { receive: 64 * KIB, send: 64 * KIB };
    let (now, mut client, mut server) = connected(Kind::Tls, windows);
    heap.restart();
    loop {
        assert_eq!(client.write(now, &mut Bytes::from_static(b"x")), Write::Done);
        let bytes = drain(now, &mut client);
        if feed(now, &mut server, &bytes) < bytes.len() {
            break;
        }
    }
    heap.assert_within_twice(windows.receive + READ + IDLE, "one-byte records");
}

fn unread_client_costs_its_window() {
    let heap = Heap::measure();
    let windows = Windows { receive: MIB, send: 64 * KIB };
    let (now, mut client, mut server) = connected(Kind::WebSocket { tls: false, path: "/".into() }, windows);
    heap.restart();
    loop {
        assert_eq!(server.write(now, &mut Bytes::from_static(b"x")), Write::Done);
        let bytes = drain(now, &mut server);
        if feed(now, &mut client, &bytes) < bytes.len() {
            break;
        }
    }
    heap.assert_within_twice(windows.receive + READ + IDLE, "one-byte frames of a server");
}

fn unread_answers_cost_the_send_window() {
    let heap = Heap::measure();
    let (now, windows) = (Instant::now(), Windows { receive: 64 * KIB, send: 64 * KIB });
    let mut tcp = acceptor(windows.receive, windows.send).accept(now);
    assert_eq!(feed(now, &mut tcp, UPGRADE), UPGRADE.len());
    heap.restart();
    for _ in 0..100_000 {
        assert_eq!(feed(now, &mut tcp, &PING), PING.len());
    }
    assert!(tcp.unsent() >= windows.send);
    heap.assert_within_twice(windows.send + IDLE, "pongs");
}

fn small_writes_cost_the_send_window() {
    let heap = Heap::measure();
    let windows = Windows { receive: 64 * KIB, send: 64 * KIB };
    for kind in [Kind::Tls, Kind::WebSocket { tls: false, path: "/".into() }] {
        let (now, _, mut server) = connected(kind, windows);
        heap.restart();
        while server.write(now, &mut Bytes::from_static(b"x")) == Write::Done {}
        heap.assert_within_twice(windows.send + IDLE, "one-byte writes");
    }
}

/// 16 KiB of handshake, and the memory of a TLS connection itself.
fn handshake_in_one_byte_records_costs_its_backlog() {
    let heap = Heap::measure();
    let now = Instant::now();
    let acceptor = acceptor(8 * KIB, 64 * KIB);
    // A ClientHello of 64 KiB that never ends.
    let mut message = vec![1, 0, 0xFF, 0xF0, 3, 3];
    message.resize(64 * KIB, 0);
    heap.restart();
    let mut tcp = acceptor.accept(now);
    for byte in message {
        if feed(now, &mut tcp, &[22, 3, 1, 0, 1, byte]) == 0 {
            break;
        }
        let _ = heap.growth();
    }
    // Each record of the backlog is noted by the library with 40 bytes, in a list that doubles.
    let bound = 16 * KIB + 16 * KIB / 6 * 64 + 2 * IDLE;
    assert!(heap.peak() <= 2 * bound, "{} of {bound}", heap.peak());
}

fn endless_http_head_costs_its_bound() {
    let heap = Heap::measure();
    let now = Instant::now();
    let acceptor = acceptor(8 * KIB, 64 * KIB);
    heap.restart();
    let mut tcp = acceptor.accept(now);
    feed(now, &mut tcp, b"GET / HTTP/1.1\r\n");
    for _ in 0..MIB {
        if feed(now, &mut tcp, b"a") == 0 {
            break;
        }
        let _ = heap.growth();
    }
    assert!(heap.peak() <= 2 * (8 * KIB + IDLE), "{}", heap.peak());
}

fn frame_in_small_pieces_costs_its_length() {
    let heap = Heap::measure();
    for piece in [1, 511, 512, 1400] {
        heap.restart();
        let mut decoder = Decoder::new(Caps::Records);
        decoder.push(Bytes::copy_from_slice(&u32::try_from(CHUNK).unwrap().to_be_bytes()));
        decoder.push(Bytes::from_static(&[KIND_CHUNK]));
        while decoder.buffered() + piece < CHUNK {
            decoder.push(Bytes::from(vec![0; piece]));
        }
        assert!(decoder.next_frame().unwrap().is_none());
        heap.assert_within_twice(CHUNK, "pieces of a frame");
    }
}

/// The window, and 32 KiB that quinn-proto allows a stream beyond it.
fn stream_of_one_byte_datagrams_costs_its_window() {
    let heap = Heap::measure();
    let (mut now, seed) = (Instant::now(), Seed::new([4; 32]));
    let window = 8 * KIB;
    let profile = Profile { receive_window: window as u64, ..Profile::relay() };
    let mut server = Quic::server(&profile, &sim::identity(), Limits::default(), UNIX_TIME, &seed).unwrap();
    let mut client = Quic::client(&Profile::peer(), UNIX_TIME, &seed);
    let (from, to) = ("10.0.0.2:5000".parse().unwrap(), "10.0.0.1:4433".parse().unwrap());
    let conn = client.connect(now, to, "relay.test", &Trust::Any).unwrap();
    let (mut connected, mut stream) = (false, None);
    let mut measured = false;
    for round in 0..40_000 {
        now += Duration::from_micros(100);
        exchange(now, &mut client, from, &mut server, to);
        while let Some(incoming) = server.poll_incoming() {
            server.accept(now, incoming);
        }
        while let Some((_, event)) = client.poll_event() {
            connected |= matches!(event, QuicEvent::Connected { .. });
        }
        while server.poll_event().is_some() {}
        if !connected || round < 100 {
            continue;
        }
        if !std::mem::replace(&mut measured, true) {
            heap.restart();
        }
        let stream = *stream.get_or_insert_with(|| client.open_bi(conn).unwrap());
        if client.write(conn, stream, &mut Bytes::from_static(b"x")) != Write::Done {
            break;
        }
        if round > 100 + window + 1000 {
            break;
        }
    }
    // The client's own copies of unacknowledged data count, too.
    assert!(measured);
    heap.assert_within_twice(window + 32 * KIB + 32 * KIB, "one-byte stream frames");
}

fn exchange(now: Instant, client: &mut Quic, from: SocketAddr, server: &mut Quic, to: SocketAddr) {
    let one = NonZeroUsize::MIN;
    for quic in [&mut *client, &mut *server] {
        quic.handle_timeout(now);
        quic.settle(now);
    }
    let mut buf = Vec::new();
    let arrival = |from| Arrival { socket: SocketId(0), from, local_ip: None, ecn: Ecn::NotEct };
    while client.poll_transmit(now, one, &mut buf).is_some() {
        server.handle_datagram(now, &arrival(from), BytesMut::from(buf.as_slice()));
        buf.clear();
    }
    server.settle(now);
    while server.poll_transmit(now, one, &mut buf).is_some() {
        client.handle_datagram(now, &arrival(to), BytesMut::from(buf.as_slice()));
        buf.clear();
    }
    client.settle(now);
}

/// A relay, and clients that are WebSockets without TLS.
struct RelayWithClients {
    now: Instant,
    relay: Relay,
}

impl RelayWithClients {
    fn new() -> Self {
        let now = Instant::now();
        let generous = room::limits::Limits {
            connections_per_source: 100_000,
            rooms_per_source: 100_000,
            joins_per_minute: 1_000_000,
            ..room::limits::Limits::default()
        };
        let config = room::Config {
            listen: vec!["127.0.0.1:4433".parse().unwrap()],
            tcp: room::Tcp::default(),
            identity: sim::identity(),
            password: None,
            limits: generous,
            room_ttl: room::Config::ROOM_TTL,
            window_budget: room::Config::WINDOW_BUDGET,
            unix_time: UNIX_TIME,
            seed: Seed::new([5; 32]),
        };
        let mut hall = Self { now, relay: Relay::new(config).unwrap() };
        hall.settle();
        hall
    }

    fn settle(&mut self) {
        self.relay.settle(self.now);
        while let Some(action) = self.relay.poll_action() {
            match action {
                Action::Bind(id, bind) => self.relay.handle_input(self.now, Input::Bound(id, Ok(bind.addr))),
                Action::Listen(id, listen) => {
                    self.relay.handle_input(self.now, Input::Listening(id, Ok(listen.addr)));
                }
                _ => {}
            }
        }
        while self.relay.poll_tcp().is_some() {}
        while self.relay.poll_event().is_some() {}
        self.relay.settle(self.now);
    }

    fn connect(&mut self, index: u16) -> TcpId {
        let from = SocketAddr::from(([127, 0, 0, 1], 1024 + index));
        let tcp = self.relay.handle_accept(self.now, ListenerId(0), from).unwrap();
        assert_eq!(self.feed(tcp, UPGRADE), UPGRADE.len());
        tcp
    }

    fn feed(&mut self, tcp: TcpId, mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        while !bytes.is_empty() {
            let room = self.relay.pipe_buffer(tcp);
            let count = room.len().min(bytes.len());
            if count == 0 {
                break;
            }
            room[..count].copy_from_slice(&bytes[..count]);
            self.relay.handle_tcp(self.now, tcp, TcpEvent::Filled(count));
            self.settle();
            bytes = &bytes[count..];
        }
        all - bytes.len()
    }

    fn drain(&mut self, tcp: TcpId) {
        loop {
            let mut slices = [std::io::IoSlice::new(&[]); 16];
            let count = self.relay.pipe_output(tcp, &mut slices);
            let bytes: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            if bytes == 0 {
                return;
            }
            self.relay.handle_tcp(self.now, tcp, TcpEvent::Wrote(bytes));
            self.settle();
        }
    }

    fn ask(&mut self, tcp: TcpId, room: u8, role: Role) {
        let owner = Owner([role as u8; 16]);
        let join = ClientMessage::Join { room: RoomId([room; 32]), role, owner, again: false };
        for message in [ClientMessage::Hello(Hello::new(Features::default())), join] {
            let frame = frame(&enclose(&encode(&message)));
            assert_eq!(self.feed(tcp, &frame), frame.len());
        }
        self.drain(tcp);
    }
}

/// A client's frame, masked with zeros.
fn frame(payload: &[u8]) -> Vec<u8> {
    [&[0x82, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat()
}

/// For each way: the reader's window and one read, a quarter of the window that was read last, the writer's window.
const PAIR: usize = 2 * (64 * KIB + READ + 16 * KIB + 64 * KIB);

fn pair_that_reads_nothing_costs_its_windows() {
    let heap = Heap::measure();
    let mut hall = RelayWithClients::new();
    let many: Vec<u8> = FRAME.repeat(4096);
    heap.restart();
    let pairs = 4;
    for index in 0..pairs {
        let (sender, receiver) = (hall.connect(2 * index), hall.connect(2 * index + 1));
        hall.ask(sender, index as u8, Role::Sender);
        hall.ask(receiver, index as u8, Role::Receiver);
        hall.drain(sender);
        for leg in [sender, receiver] {
            while hall.feed(leg, &many) == many.len() {}
        }
    }
    heap.assert_within_twice(usize::from(pairs) * (PAIR + 2 * IDLE), "pairs");
}

fn clients_without_request_cost_their_greeting() {
    let heap = Heap::measure();
    let mut hall = RelayWithClients::new();
    heap.restart();
    let clients = 16;
    // A frame of 4,000 bytes that lacks its last one.
    let rest: Vec<u8> = FRAME.repeat(3_999);
    let length = frame(&enclose(&[0; 4000])[..4]);
    for index in 0..clients {
        let client = hall.connect(index);
        hall.feed(client, &length);
        assert_eq!(hall.feed(client, &rest), rest.len());
    }
    assert!(heap.growth() >= usize::from(clients) * 3_999, "the greetings are held");
    // A greeting of 4 KiB, a window of 8 KiB, a read of as much, and the connection itself.
    heap.assert_within_twice(usize::from(clients) * (4 * KIB + 2 * 8 * KIB + IDLE), "greetings");
}

/// All the sources that a relay remembers, of one network.
fn rate_limit_tables_cost_their_bound() {
    let heap = Heap::measure();
    let now = Instant::now();
    heap.restart();
    let mut guard = room::limits::Guard::new(room::limits::Limits::default());
    for index in 0..70_000_u32 {
        let [a, b, c, d] = index.to_be_bytes();
        let ip = Ipv6Addr::from([0x20, 1, a, b, c, d, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        let source = room::limits::Source::of(SocketAddr::new(IpAddr::V6(ip), 1));
        let _ = guard.attempt(now, source, false);
        guard.disconnected(source, true);
        let _ = guard.attempt(now, source, true);
        guard.disconnected(source, true);
        let _ = guard.join(now, source);
        guard.failed(now, source);
        let _ = guard.ask(now, source);
    }
    assert!(heap.growth() > room::limits::MAX_MEMORY / 4, "the tables are filled: {}", heap.growth());
    heap.assert_within_twice(room::limits::MAX_MEMORY, "sources");
}
