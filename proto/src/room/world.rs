//! For tests: a relay and its clients on a virtual network with a virtual clock. Every datagram
//! and segment takes [`LATENCY`].

#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

pub mod tcp;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::limits::Limits;
use super::{Command, Config, Event, Relay, Tcp};
use crate::Instant;
use crate::link::quic::{self, Closed, ConnId, Direction, Profile, Quic, Read, Stream, Write};
use crate::link::tcp::{Closed as TcpClosed, Dialler};
use crate::link::trust::{Identity, Trust};
use crate::net::{Action, Arrival, Ecn, ListenerId, SocketId, TcpId};
use crate::node::{Input, Node};
use crate::seed::Seed;
use crate::wire::frame::enclose;
use crate::wire::relay::{ClientMessage, Former, Owner, RelayMessage, Role, RoomId};
use crate::wire::{self, Caps, Decoder, Features, Hello};

pub const LATENCY: Duration = Duration::from_millis(10);
pub const UNIX_TIME: Duration = Duration::from_secs(1_790_000_000);
pub const ALICE: Owner = Owner([1; 16]);
pub const BOB: Owner = Owner([2; 16]);
pub const EVE: Owner = Owner([3; 16]);
pub const ROOM: RoomId = RoomId([7; 32]);

struct InFlight {
    to: To,
    what: What,
}

#[derive(Clone, Copy)]
pub enum To {
    Client(usize),
    Socket(SocketId),
    RelayTcp(TcpId),
}

enum What {
    Datagram(SocketAddr, BytesMut),
    Packet(tcp::Packet),
}

pub struct World {
    pub start: Instant,
    pub now: Instant,
    pub relay: Relay,
    pub clients: Vec<Client>,
    /// The relay's events.
    pub events: Vec<Event>,
    /// Events are not taken from the relay.
    pub ignore_events: bool,
    by_addr: BTreeMap<SocketAddr, usize>,
    net: BTreeMap<(Instant, u64), InFlight>,
    sequence: u64,
    /// Clients with something to do.
    touched: BTreeSet<usize>,
    timers: BTreeMap<usize, Instant>,
    /// TCP connections at the relay, and those with something to do.
    tcp_links: BTreeMap<TcpId, usize>,
    ready: BTreeSet<TcpId>,
    dialler: Dialler,
    /// The datagrams of this client are recorded.
    pub recorded: Option<(usize, Vec<BytesMut>)>,
    /// Listeners that were closed.
    pub unlistened: Vec<ListenerId>,
    seed: Seed,
}

pub struct Client {
    /// Unused if the client has a TCP connection.
    pub quic: Quic,
    pub tcp: Option<tcp::Tcp>,
    pub addr: SocketAddr,
    pub conn: ConnId,
    pub main: Option<Stream>,
    /// The relay's messages.
    pub heard: Vec<RelayMessage>,
    pub streams: Option<u8>,
    /// The other peer's data, by stream.
    pub got: BTreeMap<Stream, Vec<u8>>,
    /// Streams that were finished (`Ok`) or reset (their code).
    pub ended: BTreeMap<Stream, Result<(), u32>>,
    pub stopped: BTreeMap<Stream, u32>,
    pub closed: Option<Closed>,
    /// The client does not read by itself.
    pub lazy: bool,
    /// The client's packets are lost, in both directions.
    pub cut: bool,
    connected: bool,
    /// The server rejected the early data, so the client sent it again.
    pub restarted: bool,
    decoder: Decoder,
    first: Vec<Bytes>,
    out: BTreeMap<Stream, VecDeque<Bytes>>,
    finishing: BTreeSet<Stream>,
    readable: BTreeSet<Stream>,
}

pub fn identity() -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["relay.test".into()]).unwrap().self_signed(&key).unwrap();
    Identity { cert_chain: vec![certificate.der().to_vec()], key: Zeroizing::new(key.serialize_der()) }
}

pub fn config(limits: Limits) -> Config {
    Config {
        listen: vec!["[::]:4433".parse().unwrap(), "[::]:4434".parse().unwrap()],
        tcp: Tcp { behind_proxy: true, ..Tcp::default() },
        identity: identity(),
        password: None,
        limits,
        room_ttl: Config::ROOM_TTL,
        window_budget: Config::WINDOW_BUDGET,
        unix_time: UNIX_TIME,
        seed: Seed::new([5; 32]),
    }
}

/// Limits that no test reaches by accident.
pub fn generous() -> Limits {
    Limits {
        connections_per_source: 100_000,
        rooms_per_source: 100_000,
        max_connections: 100_000,
        max_rooms: 100_000,
        joins_per_minute: 1_000_000,
    }
}

pub fn pattern(len: usize, seed: u32) -> Bytes {
    (0..len).map(|at| (at as u32 ^ seed).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

impl World {
    pub fn new() -> Self {
        Self::of(config(generous()))
    }

    pub fn of(config: Config) -> Self {
        let now = Instant::now();
        let mut world = Self {
            start: now,
            now,
            relay: Relay::new(config).unwrap(),
            clients: Vec::new(),
            events: Vec::new(),
            ignore_events: false,
            by_addr: BTreeMap::new(),
            net: BTreeMap::new(),
            sequence: 0,
            touched: BTreeSet::new(),
            timers: BTreeMap::new(),
            tcp_links: BTreeMap::new(),
            ready: BTreeSet::new(),
            dialler: Dialler::new(UNIX_TIME, &Seed::new([7; 32])),
            recorded: None,
            unlistened: Vec::new(),
            seed: Seed::new([6; 32]),
        };
        world.open_doors();
        world.flush();
        world.events.clear();
        world
    }

    /// The relay stops and starts again without any state.
    pub fn restart(&mut self) {
        self.relay = Relay::new(config(generous())).unwrap();
        self.open_doors();
        self.flush();
        self.events.clear();
    }

    fn open_doors(&mut self) {
        while let Some(action) = self.relay.poll_action() {
            let answer = match action {
                Action::Bind(socket, bind) => Input::Bound(socket, Ok(bind.addr)),
                Action::Listen(listener, listen) => Input::Listening(listener, Ok(listen.addr)),
                other => panic!("{other:?}"),
            };
            self.relay.handle_input(self.now, answer);
        }
    }

    /// Creates a client with its own address, which connects to the first socket.
    pub fn connect(&mut self) -> usize {
        self.connect_as(Profile::peer(), SocketId(0))
    }

    pub fn connect_as(&mut self, profile: Profile, socket: SocketId) -> usize {
        let index = u32::try_from(self.clients.len()).unwrap();
        let [_, b, c, d] = (index + 1).to_be_bytes();
        self.connect_from(profile, socket, IpAddr::from([10, b, c, d]))
    }

    pub fn connect_from(&mut self, profile: Profile, socket: SocketId, ip: IpAddr) -> usize {
        let index = self.clients.len();
        let addr = SocketAddr::new(ip, 1024 + u16::try_from(index % 60_000).unwrap());
        let mut quic = Quic::client(&profile, UNIX_TIME, &self.seed.split());
        let to = SocketAddr::from(([192, 0, 2, 2], 4433 + u16::from(socket.0)));
        let conn = quic.connect(self.now, to, "relay.test", &Trust::Any).unwrap();
        self.by_addr.insert(addr, index);
        self.clients.push(Client::new(quic, addr, conn));
        self.touched.insert(index);
        index
    }

    /// Connects the same client again, with the session data of its previous connection; it greets and sends the
    /// request.
    pub fn reconnect(&mut self, client: usize, message: ClientMessage) {
        let Client { quic, addr, .. } = &mut self.clients[client];
        let addr = *addr;
        let to = SocketAddr::from(([192, 0, 2, 2], 4433));
        let conn = quic.reconnect(self.now, to, "relay.test", &Trust::Any).unwrap();
        let endpoint = std::mem::replace(quic, Quic::client(&Profile::peer(), UNIX_TIME, &self.seed.split()));
        self.clients[client] = Client::new(endpoint, addr, conn);
        self.say(client, &[hello(), message]);
    }

    /// Sends a datagram from any address.
    pub fn replay(&mut self, from: SocketAddr, data: &[u8]) {
        self.fly(To::Socket(SocketId(0)), from, data);
    }

    /// Queues messages for the time when the connection is up.
    pub fn say(&mut self, client: usize, messages: &[ClientMessage]) {
        for message in messages {
            self.send_raw(client, enclose(&wire::encode(message)));
        }
    }

    /// Sends bytes on the first stream.
    pub fn send_raw(&mut self, client: usize, bytes: Bytes) {
        match self.clients[client].main {
            Some(main) => self.send(client, main, bytes),
            None => self.clients[client].first.push(bytes),
        }
        self.touched.insert(client);
    }

    /// Connects, greets and sends a request.
    pub fn ask(&mut self, message: ClientMessage) -> usize {
        let client = self.connect();
        self.say(client, &[hello(), message]);
        client
    }

    pub fn send(&mut self, client: usize, stream: Stream, bytes: Bytes) {
        self.clients[client].out.entry(stream).or_default().push_back(bytes);
        let now = self.now;
        self.clients[client].write(now, stream);
        self.touched.insert(client);
    }

    pub fn finish(&mut self, client: usize, stream: Stream) {
        self.clients[client].finishing.insert(stream);
        let now = self.now;
        self.clients[client].write(now, stream);
        self.touched.insert(client);
    }

    pub fn open(&mut self, client: usize) -> Stream {
        let Client { quic, conn, .. } = &mut self.clients[client];
        quic.open_uni(*conn).expect("a stream")
    }

    pub fn close(&mut self, client: usize, code: u32) {
        let Client { quic, conn, tcp, .. } = &mut self.clients[client];
        match tcp {
            Some(tcp) => tcp.tcp.close(self.now, code, "test"),
            None => quic.close(self.now, *conn, code, "test"),
        }
        self.touched.insert(client);
    }

    /// Marks a client that a test changed directly.
    pub fn touch(&mut self, client: usize) {
        self.touched.insert(client);
    }

    pub fn command(&mut self, command: Command) {
        self.relay.handle_command(self.now, command).unwrap();
    }

    /// Creates two paired clients, the sender first.
    pub fn pair(&mut self, room: RoomId) -> (usize, usize) {
        self.pair_as(room, Profile::peer(), Profile::peer())
    }

    pub fn pair_as(&mut self, room: RoomId, sender: Profile, receiver: Profile) -> (usize, usize) {
        let sender = self.connect_as(sender, SocketId(0));
        self.say(sender, &[hello(), join(room, Role::Sender, ALICE)]);
        self.until("waiting", |world| world.clients[sender].heard.contains(&RelayMessage::Waiting));
        let receiver = self.connect_as(receiver, SocketId(1));
        self.say(receiver, &[hello(), join(room, Role::Receiver, BOB)]);
        self.until("paired", |world| {
            world.clients[sender].streams.is_some() && world.clients[receiver].streams.is_some()
        });
        (sender, receiver)
    }

    /// Runs the world until the condition holds, ten virtual minutes at most.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = self.now + Duration::from_secs(600);
        loop {
            self.flush();
            if done(self) {
                return;
            }
            assert!(self.now < limit, "waited too long: {what}; {:?}", self.events);
            assert!(self.step(limit), "nothing is in flight and no timer runs: {what}; {:?}", self.events);
        }
    }

    /// Runs the world for this time.
    pub fn pass(&mut self, time: Duration) {
        let limit = self.now + time;
        self.flush();
        while self.step(limit) {
            self.flush();
        }
        self.now = limit;
        self.flush();
    }

    /// Advances to the next event; false if there is none before the limit.
    fn step(&mut self, limit: Instant) -> bool {
        let net = self.net.keys().next().map(|&(at, _)| at);
        let timer = self.timers.values().min().copied();
        let relay = self.relay.poll_timeout().map(|(at, _)| at);
        let Some(next) = [net, timer, relay].into_iter().flatten().min().filter(|&next| next <= limit) else {
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.net.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let InFlight { to, what } = entry.remove();
            match (to, what) {
                (To::Client(client), _) if self.clients[client].cut => {}
                (to, What::Packet(packet)) => self.arrive(&to, packet),
                (To::Client(client), What::Datagram(from, data)) => {
                    let arrival = Arrival { socket: SocketId(0), from, local_ip: None, ecn: Ecn::NotEct };
                    self.clients[client].quic.handle_datagram(self.now, &arrival, data);
                    self.touched.insert(client);
                }
                (To::Socket(socket), What::Datagram(from, data)) => {
                    let arrival = Arrival { socket, from, local_ip: None, ecn: Ecn::NotEct };
                    self.relay.handle_datagram(self.now, arrival, data);
                }
                (To::RelayTcp(_), What::Datagram(..)) => unreachable!(),
            }
        }
        let due: Vec<_> = self.timers.iter().filter(|&(_, &at)| at <= self.now).map(|(&client, _)| client).collect();
        for client in due {
            self.clients[client].handle_timeout(self.now);
            self.touched.insert(client);
        }
        self.relay.handle_timeout(self.now);
        true
    }

    pub fn flush(&mut self) {
        loop {
            self.flush_once();
            if !self.serve_tcp() && self.touched.is_empty() {
                return;
            }
        }
    }

    fn flush_once(&mut self) {
        self.relay.settle(self.now);
        while !self.ignore_events
            && let Some(event) = self.relay.poll_event()
        {
            self.events.push(event);
        }
        let mut buf = Vec::new();
        let segments = NonZeroUsize::new(16).unwrap();
        for socket in [SocketId(0), SocketId(1)] {
            while let Some(transmit) = self.relay.poll_transmit(self.now, socket, segments, &mut buf) {
                let from = SocketAddr::from(([192, 0, 2, 2], 4433 + u16::from(socket.0)));
                let to = self.by_addr.get(&transmit.to).copied();
                for data in buf[..transmit.size].chunks(transmit.segment_size.unwrap_or(transmit.size)) {
                    if let Some(client) = to {
                        self.fly(To::Client(client), from, data);
                    }
                }
                buf.clear();
            }
        }
        self.relay.settle(self.now);
        while let Some(index) = self.touched.pop_first() {
            self.serve_client(index);
            let client = &mut self.clients[index];
            client.work(self.now);
            let (from, cut) = (client.addr, client.cut);
            let mut out = Vec::new();
            while let Some(transmit) = client.quic.poll_transmit(self.now, segments, &mut buf) {
                for data in buf[..transmit.size].chunks(transmit.segment_size.unwrap_or(transmit.size)) {
                    out.push((SocketId((transmit.to.port() - 4433) as u8), BytesMut::from(data)));
                }
                buf.clear();
            }
            client.work(self.now);
            match client.poll_timeout() {
                Some(at) => self.timers.insert(index, at),
                None => self.timers.remove(&index),
            };
            for (socket, data) in out {
                if let Some((who, recorded)) = &mut self.recorded
                    && *who == index
                {
                    recorded.push(data.clone());
                }
                if !cut {
                    self.fly(To::Socket(socket), from, &data);
                }
            }
        }
    }

    fn fly(&mut self, to: To, from: SocketAddr, data: &[u8]) {
        self.sequence += 1;
        let flying = InFlight { to, what: What::Datagram(from, BytesMut::from(data)) };
        self.net.insert((self.now + LATENCY, self.sequence), flying);
    }
}

impl Client {
    fn new(quic: Quic, addr: SocketAddr, conn: ConnId) -> Self {
        Self {
            quic,
            tcp: None,
            addr,
            conn,
            main: None,
            heard: Vec::new(),
            streams: None,
            got: BTreeMap::new(),
            ended: BTreeMap::new(),
            stopped: BTreeMap::new(),
            closed: None,
            lazy: false,
            cut: false,
            connected: false,
            restarted: false,
            decoder: Decoder::new(Caps::Greeting),
            first: Vec::new(),
            out: BTreeMap::new(),
            finishing: BTreeSet::new(),
            readable: BTreeSet::new(),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &mut self.tcp {
            Some(tcp) => tcp.tcp.handle_timeout(now),
            None => self.quic.handle_timeout(now),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.tcp.as_ref().map_or_else(|| self.quic.poll_timeout(), |tcp| tcp.tcp.poll_timeout())
    }

    fn work(&mut self, now: Instant) {
        if self.tcp.is_some() {
            return self.work_tcp(now);
        }
        self.quic.settle(now);
        while let Some((_, event)) = self.quic.poll_event() {
            match event {
                quic::Event::Connected { .. } => {
                    self.connected = true;
                    if !self.first.is_empty() {
                        self.start(now);
                    }
                }
                quic::Event::Restarted { .. } => {
                    (self.main, self.restarted) = (None, true);
                    self.out.clear();
                }
                quic::Event::Readable(stream) => {
                    self.readable.insert(stream);
                }
                quic::Event::Writable(stream) => self.write(now, stream),
                quic::Event::Stopped(stream, code) => {
                    self.stopped.insert(stream, code);
                    self.quic.reset(self.conn, stream, code);
                }
                quic::Event::Closed(closed) => self.closed = Some(closed),
                quic::Event::Opened(_, direction) => assert_eq!(direction, Direction::Uni),
                quic::Event::Available(_) | quic::Event::Finished(_) => {}
            }
        }
        if self.connected && self.main.is_none() && !self.first.is_empty() {
            self.start(now);
        }
        if !self.lazy || self.streams.is_none() {
            self.read(usize::MAX);
        }
    }

    fn start(&mut self, now: Instant) {
        let Some(main) = self.quic.open_bi(self.conn) else { return };
        self.main = Some(main);
        self.out.insert(main, self.first.clone().into());
        self.write(now, main);
    }

    fn write(&mut self, now: Instant, stream: Stream) {
        let out = self.out.entry(stream).or_default();
        while let Some(bytes) = out.front_mut() {
            let written = match &mut self.tcp {
                Some(tcp) => tcp.tcp.write(now, bytes),
                None => self.quic.write(self.conn, stream, bytes),
            };
            match written {
                Write::Done => {
                    out.pop_front();
                }
                Write::Blocked => return,
                Write::Stopped(_) | Write::Gone => out.clear(),
            }
        }
        if self.finishing.remove(&stream) {
            match &mut self.tcp {
                Some(tcp) => tcp.tcp.finish(now),
                None => self.quic.finish(self.conn, stream),
            }
        }
    }

    /// Reads up to this number of bytes, from all streams together.
    pub fn read(&mut self, mut max: usize) {
        if self.tcp.is_some() {
            return self.read_tcp(max);
        }
        for stream in std::mem::take(&mut self.readable) {
            loop {
                if max == 0 {
                    self.readable.insert(stream);
                    break;
                }
                match self.quic.read(self.conn, stream, max) {
                    Read::Data(bytes) => {
                        max -= bytes.len().min(max);
                        self.take(stream, bytes);
                    }
                    Read::Blocked | Read::Gone => break,
                    Read::End => {
                        self.ended.insert(stream, Ok(()));
                        break;
                    }
                    Read::Reset(code) => {
                        self.ended.insert(stream, Err(code));
                        break;
                    }
                }
            }
        }
    }

    fn take(&mut self, stream: Stream, bytes: Bytes) {
        if Some(stream) != self.main || self.streams.is_some() {
            self.got.entry(stream).or_default().extend_from_slice(&bytes);
            return;
        }
        self.decoder.push(bytes);
        while self.streams.is_none()
            && let Some(frame) = self.decoder.next_frame().unwrap()
        {
            let message = wire::decode::<RelayMessage>(&frame.into_bytes()).unwrap();
            if let RelayMessage::Paired { streams } = message {
                self.streams = Some(streams);
            }
            self.heard.push(message);
        }
        if self.streams.is_some() {
            let decoder = std::mem::replace(&mut self.decoder, Decoder::new(Caps::Greeting));
            for rest in decoder.into_rest() {
                self.got.entry(stream).or_default().extend_from_slice(&rest);
            }
        }
    }

    pub fn has_unwritten(&self) -> bool {
        self.out.values().any(|out| !out.is_empty())
    }

    pub fn main(&self) -> Stream {
        self.main.expect("a first stream")
    }

    /// The code and reason with which the other side closed.
    pub fn close_code(&self) -> Option<u32> {
        match &self.closed {
            Some(Closed::Application { code, .. }) => Some(*code),
            _ => match self.tcp.as_ref()?.over {
                Some(TcpClosed::Application { code, .. }) => Some(code),
                _ => None,
            },
        }
    }
}

pub fn hello() -> ClientMessage {
    ClientMessage::Hello(Hello::new(Features::default()))
}

pub const fn rejoin(room: RoomId, role: Role, owner: Owner, former: Former) -> ClientMessage {
    ClientMessage::Rejoin { room, role, owner, former }
}

pub const fn join(room: RoomId, role: Role, owner: Owner) -> ClientMessage {
    ClientMessage::Join { room, role, owner, again: false }
}
