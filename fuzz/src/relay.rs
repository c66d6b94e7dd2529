//! A real relay, and clients that send anything, on a network without loss.
//!
//! Oracles: no panic; the number of messages to one client is small; a correct pair is served whatever the others do.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tallow_proto::link::quic::{ConnId, Event, Profile, Quic, Read, Stream, Write};
use tallow_proto::link::trust::{Identity, Trust};
use tallow_proto::net::{Action, Arrival, Ecn, SocketId};
use tallow_proto::node::{Input, Node};
use tallow_proto::room::limits::Limits;
use tallow_proto::room::{Config, Relay, Tcp};
use tallow_proto::seed::Seed;
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::{ClientMessage, Owner, Role, RoomId};
use tallow_proto::wire::{Features, Hello, encode};

use crate::steps::{canary, step, steps};

const UNIX_TIME: Duration = Duration::from_secs(1_790_000_000);
const SEGMENTS: NonZeroUsize = NonZeroUsize::MIN;
/// How many clients the bytes may control.
const CLIENTS: u8 = 4;

/// A client sends these bytes on its first stream. The upper half of the tag is the client.
pub const SAY: u8 = 0;
/// The same as [`SAY`], but in a frame.
pub const FRAME: u8 = 1;
/// The same as [`SAY`], but on a new stream.
pub const STREAM: u8 = 2;
/// The client closes its connection.
pub const CLOSE: u8 = 3;
/// Time passes: one second for each byte of the body.
pub const TIME: u8 = 4;

/// A relay with its clients.
pub struct Hub {
    /// Virtual time.
    pub now: Instant,
    relay: Relay,
    clients: Vec<Client>,
}

struct Client {
    quic: Quic,
    conn: ConnId,
    main: Option<Stream>,
    connected: bool,
    out: Vec<(Stream, Bytes)>,
    got: usize,
}

impl Hub {
    /// A relay that listens, with limits that no step reaches by chance.
    ///
    /// # Panics
    /// The identity is not valid.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let now = Instant::now();
        let limits = Limits {
            connections_per_source: 1000,
            rooms_per_source: 1000,
            max_connections: 1000,
            max_rooms: 1000,
            joins_per_minute: 100_000,
        };
        let config = Config {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 4433))],
            tcp: Tcp::default(),
            identity,
            password: None,
            limits,
            room_ttl: Config::ROOM_TTL,
            window_budget: Config::WINDOW_BUDGET,
            unix_time: UNIX_TIME,
            seed: Seed::new([5; 32]),
        };
        let mut relay = Relay::new(config).expect("an identity");
        while let Some(action) = relay.poll_action() {
            if let Action::Bind(socket, bind) = action {
                relay.handle_input(now, Input::Bound(socket, Ok(bind.addr)));
            }
        }
        Self { now, relay, clients: Vec::new() }
    }

    /// Connects a client from a new address.
    ///
    /// # Panics
    /// Never: the address is valid.
    pub fn connect(&mut self) -> usize {
        let index = self.clients.len();
        let mut quic = Quic::client(&Profile::peer(), UNIX_TIME, &Seed::new([index as u8 + 10; 32]));
        let to = SocketAddr::from(([192, 0, 2, 2], 4433));
        let conn = quic.connect(self.now, to, "relay.test", &Trust::Any).expect("an address");
        self.clients.push(Client { quic, conn, main: None, connected: false, out: Vec::new(), got: 0 });
        self.pump();
        index
    }

    /// Sends bytes on the client's first stream, as soon as it exists.
    pub fn say(&mut self, client: usize, bytes: Bytes) {
        let client = &mut self.clients[client];
        if client.main.is_none() && client.connected {
            client.main = client.quic.open_bi(client.conn);
        }
        client.out.extend(client.main.map(|main| (main, bytes)));
    }

    /// Sends a message in its frame.
    pub fn tell(&mut self, client: usize, message: &ClientMessage) {
        self.say(client, enclose(&encode(message)));
    }

    /// How many bytes a client received.
    #[must_use]
    pub fn got(&self, client: usize) -> usize {
        self.clients[client].got
    }

    /// Pairs two clients in one room.
    pub fn pair(&mut self, room: u8) -> (usize, usize) {
        let mut join = |role| {
            let client = self.connect();
            for message in join(room, role) {
                self.tell(client, &message);
            }
            self.pump();
            client
        };
        (join(Role::Sender), join(Role::Receiver))
    }

    /// Sends bytes from one client to the other; returns true when they have arrived.
    pub fn forward(&mut self, from: usize, to: usize, bytes: &Bytes) -> bool {
        let end = self.got(to) + bytes.len();
        self.say(from, bytes.clone());
        for _ in 0..100_000 {
            self.pump();
            if self.got(to) >= end {
                return true;
            }
            self.pass(Duration::from_millis(1));
        }
        false
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.relay.handle_timeout(self.now);
        for client in &mut self.clients {
            client.quic.handle_timeout(self.now);
        }
        self.pump();
    }

    /// Delivers datagrams until none is left.
    ///
    /// # Panics
    /// It never ends: two sides send to each other without end although no time passes.
    pub fn pump(&mut self) {
        let mut buf = Vec::with_capacity(2048);
        for _ in 0..1_000_000 {
            let mut moved = false;
            for (index, client) in self.clients.iter_mut().enumerate() {
                client.work(self.now);
                while client.quic.poll_transmit(self.now, SEGMENTS, &mut buf).is_some() {
                    let from = SocketAddr::from(([10, 0, 0, index as u8], 1024));
                    self.relay.handle_datagram(self.now, arrival(from), BytesMut::from(&buf[..]));
                    buf.clear();
                    moved = true;
                }
            }
            self.relay.settle(self.now);
            while self.relay.poll_event().is_some() {}
            while let Some(transmit) = self.relay.poll_transmit(self.now, SocketId(0), SEGMENTS, &mut buf) {
                let SocketAddr::V4(to) = transmit.to else { panic!("an address of nobody") };
                let from = SocketAddr::from(([192, 0, 2, 2], 4433));
                let client = &mut self.clients[usize::from(to.ip().octets()[3])];
                client.quic.handle_datagram(self.now, &arrival(from), BytesMut::from(&buf[..]));
                buf.clear();
                moved = true;
            }
            if !moved {
                return;
            }
        }
        panic!("it never ends");
    }
}

impl Client {
    fn work(&mut self, now: Instant) {
        self.quic.settle(now);
        while let Some((_, event)) = self.quic.poll_event() {
            match event {
                Event::Connected { .. } => self.connected = true,
                Event::Readable(stream) => {
                    while let Read::Data(bytes) = self.quic.read(self.conn, stream, 1 << 20) {
                        self.got += bytes.len();
                    }
                }
                _ => {}
            }
        }
        let mut out = std::mem::take(&mut self.out);
        out.retain_mut(|(stream, bytes)| matches!(self.quic.write(self.conn, *stream, bytes), Write::Blocked));
        self.out = out;
        self.quic.settle(now);
    }
}

fn arrival(from: SocketAddr) -> Arrival {
    Arrival { socket: SocketId(0), from, local_ip: None, ecn: Ecn::NotEct }
}

/// The first messages of a client.
#[must_use]
pub fn join(room: u8, role: Role) -> [ClientMessage; 2] {
    let join = ClientMessage::Join { room: RoomId([room; 32]), role, owner: Owner([role as u8 + 1; 16]), again: false };
    [ClientMessage::Hello(Hello::new(Features::default())), join]
}

/// A relay with clients that send these bytes, and then a correct pair.
///
/// # Panics
/// A machine violated its contract.
pub fn relay(identity: Identity, data: &[u8]) {
    let mut hub = Hub::new(identity);
    let mut clients = [None; CLIENTS as usize];
    for (tag, body) in steps(data).take(64) {
        let who = usize::from(tag >> 4) % clients.len();
        let client = *clients[who].get_or_insert_with(|| hub.connect());
        match tag & 7 {
            SAY => hub.say(client, Bytes::copy_from_slice(body)),
            FRAME => hub.say(client, enclose(body)),
            STREAM => {
                let client = &mut hub.clients[client];
                let stream = client.quic.open_uni(client.conn);
                client.out.extend(stream.map(|stream| (stream, Bytes::copy_from_slice(body))));
            }
            CLOSE => {
                let (client, now) = (&mut hub.clients[client], hub.now);
                client.quic.close(now, client.conn, u32::from(body.first().copied().unwrap_or(0)), "fuzz");
                clients[who] = None;
            }
            _ => hub.pass(Duration::from_secs(body.len() as u64)),
        }
        hub.pump();
        canary(hub.clients.iter().any(|client| client.got > 1000));
        if hub.clients.len() > 16 {
            break;
        }
    }
    let (sender, receiver) = hub.pair(0xEE);
    assert!(hub.forward(sender, receiver, &Bytes::from_static(&[7; 5000])), "an honest pair is not served");
}

/// Two clients that are paired and exchange bytes, as steps.
#[must_use]
pub fn honest() -> Vec<u8> {
    let mut all = Vec::new();
    for (client, role) in [(0x00, Role::Sender), (0x10, Role::Receiver)] {
        for message in join(7, role) {
            all.extend(step(client | FRAME, &encode(&message)));
        }
    }
    all.extend(step(SAY, &[9; 1500]));
    all.extend(step(0x10 | STREAM, &[8; 500]));
    all.extend(step(0x10 | TIME, &[0; 3]));
    all.extend(step(CLOSE, &[0]));
    all
}
