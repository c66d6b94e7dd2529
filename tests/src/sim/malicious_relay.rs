//! A relay that runs a script: it pairs clients by its own policy and may change everything that it forwards.
//!
//! It uses the same [`Quic`] and [`Greeting`] as a real relay. After the pairing it splits each stream into frames by
//! their length prefix and asks its [`Tamper`] what to do with each. With [`honest`] it is a plain relay.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tallow_proto::link::quic::{ConnId, Direction, Event, Limits, Profile, Quic, Read, Stream, Write};
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Bind, SocketId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::room::greeting::{Greeting, Output, Request};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::job::Job;
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::{RefusalReason, RelayMessage, Role, RoomId};
use tallow_proto::wire::{Caps, Decoder, encode};

use super::host::Observed;
use super::scenario::identity;

const SOCKET: SocketId = SocketId(0);
/// How long a closing relay waits until the forwarded data has arrived.
const DRAIN: Duration = Duration::from_millis(500);
/// The maximum number of further streams.
const STREAMS: u8 = 16;

/// The clients that the relay pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The sender and the receiver of a room.
    Proper,
    /// Each client with itself.
    Mirror,
    /// Two clients of the same side.
    Alike,
}

/// A frame to forward. Legs are numbered in the order of pairing, the one that waited first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passing {
    /// The leg on which the frame arrived.
    pub from: usize,
    /// The leg to which the frame should go.
    pub to: usize,
    /// The side of `from`.
    pub role: Role,
    /// 0 is the first stream; numbers from 1 on are streams that `from` opened.
    pub stream: u8,
    /// The number of earlier frames on this stream.
    pub nth: usize,
}

/// What the relay does with a frame.
#[derive(Debug, Clone)]
pub enum Fate {
    /// Forward it.
    Pass,
    /// Send these bytes instead: none, changed, or repeated.
    Instead(Vec<Bytes>),
    /// Send these bytes to these legs and streams.
    Elsewhere(Vec<(usize, u8, Bytes)>),
    /// Forward it, and close both ends cleanly once all forwarded data has arrived.
    PassAndClose,
    /// Drop it, and close both ends cleanly once all data forwarded before has arrived.
    Close,
    /// Abort both ends at once.
    Cut,
}

/// Decides what to do with each frame; it gets the whole frame with its prefix.
pub type Tamper = Box<dyn FnMut(Passing, &Bytes) -> Fate>;

/// Forwards everything unchanged.
#[must_use]
pub fn honest() -> Tamper {
    Box::new(|_, _| Fate::Pass)
}

/// A relay that runs a script.
pub struct Relay {
    quic: Option<Quic>,
    actions: VecDeque<Action>,
    seed: Seed,
    policy: Policy,
    tamper: Tamper,
    clients: BTreeMap<ConnId, Client>,
    waiting: BTreeMap<(RoomId, Role), ConnId>,
    legs: Vec<Leg>,
    said: VecDeque<String>,
}

struct Client {
    main: Option<Stream>,
    greeting: Greeting,
    decoder: Decoder,
    wants: Option<(RoomId, Role)>,
    leg: Option<usize>,
    out: BTreeMap<Stream, VecDeque<Bytes>>,
    /// Streams that it opened, in order.
    opened: Vec<Stream>,
    /// Streams that were opened towards it, by the leg and the stream whose frames they forward.
    mirrored: BTreeMap<(usize, u8), Stream>,
    incoming: BTreeMap<u8, (BytesMut, usize)>,
    close_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Leg {
    conn: ConnId,
    peer: usize,
    role: Role,
    /// Received data is read and dropped.
    deaf: bool,
}

impl Relay {
    /// Listens on `port` once it is part of a world.
    #[must_use]
    pub fn new(port: u16, policy: Policy, tamper: Tamper, seed: Seed) -> Box<Self> {
        let bind =
            Bind { addr: ([0, 0, 0, 0], port).into(), dual_stack: true, share_port: false, group: None, slot: None };
        Box::new(Self {
            quic: None,
            actions: VecDeque::from([Action::Bind(SOCKET, bind)]),
            seed,
            policy,
            tamper,
            clients: BTreeMap::new(),
            waiting: BTreeMap::new(),
            legs: Vec::new(),
            said: VecDeque::new(),
        })
    }

    fn handle_event(&mut self, now: Instant, conn: ConnId, event: &Event) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        match event {
            Event::Opened(stream, Direction::Bi) if client.main.is_none() => client.main = Some(*stream),
            Event::Opened(stream, _) => client.opened.push(*stream),
            Event::Closed(_) => {
                self.waiting.retain(|_, waits| *waits != conn);
                let client = self.clients.remove(&conn);
                if let Some(leg) = client.and_then(|client| client.leg) {
                    let partner = self.legs[self.legs[leg].peer].conn;
                    if let Some(partner) = self.clients.get_mut(&partner) {
                        partner.close_at.get_or_insert(now + DRAIN);
                    }
                }
            }
            Event::Connected { .. }
            | Event::Restarted { .. }
            | Event::Readable(_)
            | Event::Available(_)
            | Event::Writable(_)
            | Event::Finished(_)
            | Event::Stopped(..) => {}
        }
    }

    fn greet(&mut self, now: Instant, conn: ConnId) {
        loop {
            let Some(client) = self.clients.get_mut(&conn) else { return };
            if client.leg.is_some() {
                return;
            }
            let Some(main) = client.main else { return };
            match client.greeting.poll_output() {
                Some(Output::Send(body)) => client.say(main, enclose(&body)),
                Some(Output::Request(Request::Join { room, role, .. })) => {
                    client.wants = Some((room, role));
                    self.seat(now, conn, main, room, role);
                }
                Some(Output::Request(Request::Allocate { .. })) => {
                    client.tell(main, &RelayMessage::Refused { reason: RefusalReason::Full, retry_after: 0 });
                    client.greeting.answered(now);
                }
                Some(Output::Request(Request::Ping)) => client.tell(main, &RelayMessage::Pong),
                Some(Output::Request(Request::Leave) | Output::Close(_)) => {
                    self.waiting.retain(|_, waits| *waits != conn);
                    return;
                }
                None => {
                    if let Some(quic) = &mut self.quic {
                        while let Read::Data(bytes) = quic.read(conn, main, 1 << 16) {
                            client.decoder.push(bytes);
                        }
                    }
                    match client.decoder.next_frame() {
                        Ok(Some(frame)) => client.greeting.handle_frame(&frame.into_bytes()),
                        Ok(None) | Err(_) => return,
                    }
                }
            }
        }
    }

    fn seat(&mut self, now: Instant, conn: ConnId, main: Stream, room: RoomId, role: Role) {
        let partner_side = match self.policy {
            Policy::Proper => role.other(),
            Policy::Alike | Policy::Mirror => role,
        };
        if self.policy == Policy::Mirror {
            return self.pair(conn, conn);
        }
        if let Some(waits) = self.waiting.remove(&(room, partner_side)).filter(|waits| self.clients.contains_key(waits))
        {
            return self.pair(waits, conn);
        }
        let client = self.clients.get_mut(&conn).expect("the one that asks");
        if role == Role::Sender || self.policy == Policy::Alike {
            client.tell(main, &RelayMessage::Waiting);
            self.waiting.insert((room, role), conn);
        } else {
            client.tell(main, &RelayMessage::Refused { reason: RefusalReason::NobodyWaits, retry_after: 1 });
        }
        client.greeting.answered(now);
    }

    fn pair(&mut self, first: ConnId, second: ConnId) {
        let leg = self.legs.len();
        let members: &[ConnId] = if first == second { &[first] } else { &[first, second] };
        for (offset, &conn) in members.iter().enumerate() {
            let client = self.clients.get_mut(&conn).expect("both are there");
            let (main, role) = (client.main.expect("it asked"), client.wants.expect("it asked").1);
            client.leg = Some(leg + offset);
            client.tell(main, &RelayMessage::Paired { streams: STREAMS });
            let rest = std::mem::replace(&mut client.decoder, Decoder::new(Caps::Greeting)).into_rest();
            let (buffer, _) = client.incoming.entry(0).or_default();
            rest.into_iter().for_each(|piece| buffer.extend_from_slice(&piece));
            let peer = leg + (members.len() - 1 - offset);
            self.legs.push(Leg { conn, peer, role, deaf: false });
        }
        self.said.push_back(format!("paired {leg}"));
    }

    fn forward(&mut self, now: Instant, leg: usize) -> bool {
        let conn = self.legs[leg].conn;
        let (Some(quic), Some(client)) = (&mut self.quic, self.clients.get_mut(&conn)) else { return false };
        let streams = client.main.into_iter().chain(client.opened.iter().copied()).enumerate();
        for (number, stream) in streams {
            let (buffer, _) = client.incoming.entry(number as u8).or_default();
            while let Read::Data(bytes) = quic.read(conn, stream, 1 << 20) {
                buffer.extend_from_slice(&bytes);
            }
        }
        let mut frames = Vec::new();
        for (&stream, (buffer, nth)) in &mut client.incoming {
            while let Some(length) = buffer.first_chunk().map(|prefix| u32::from_be_bytes(*prefix) as usize + 4) {
                // Bytes that are not a frame are forwarded unchanged.
                let length = if length > 5 << 20 { buffer.len() } else { length };
                if buffer.len() < length {
                    break;
                }
                frames.push((stream, *nth, buffer.split_to(length).freeze()));
                *nth += 1;
            }
        }
        let moved = !frames.is_empty();
        for (stream, nth, frame) in frames {
            let Leg { peer, role, deaf, .. } = self.legs[leg];
            if deaf {
                break;
            }
            match (self.tamper)(Passing { from: leg, to: peer, role, stream, nth }, &frame) {
                Fate::Pass => self.put(leg, peer, stream, frame),
                Fate::Instead(bytes) => bytes.into_iter().for_each(|bytes| self.put(leg, peer, stream, bytes)),
                Fate::Elsewhere(bytes) => {
                    bytes.into_iter().for_each(|(to, stream, bytes)| self.put(leg, to, stream, bytes));
                }
                Fate::PassAndClose => {
                    self.put(leg, peer, stream, frame);
                    self.close(now, leg);
                }
                Fate::Close => self.close(now, leg),
                Fate::Cut => {
                    self.close(now, leg);
                    for leg in [leg, peer] {
                        if let Some(client) = self.clients.get_mut(&self.legs[leg].conn) {
                            client.close_at = Some(now);
                        }
                    }
                }
            }
        }
        moved
    }

    fn put(&mut self, from: usize, to: usize, stream: u8, bytes: Bytes) {
        let Some(Leg { conn, .. }) = self.legs.get(to).copied() else { return };
        let (Some(client), Some(quic)) = (self.clients.get_mut(&conn), &mut self.quic) else { return };
        let out = if stream == 0 {
            client.main
        } else {
            match client.mirrored.get(&(from, stream)) {
                Some(&known) => Some(known),
                None => {
                    let opened = quic.open_uni(conn);
                    if let Some(opened) = opened {
                        client.mirrored.insert((from, stream), opened);
                    }
                    opened
                }
            }
        };
        if let Some(out) = out {
            client.say(out, bytes);
        }
    }

    fn close(&mut self, now: Instant, leg: usize) {
        self.said.push_back(format!("closed {leg}"));
        for leg in [leg, self.legs[leg].peer] {
            self.legs[leg].deaf = true;
            if let Some(client) = self.clients.get_mut(&self.legs[leg].conn) {
                client.close_at.get_or_insert(now + DRAIN);
            }
        }
    }

    fn flush(&mut self, conn: ConnId) {
        let (Some(quic), Some(client)) = (&mut self.quic, self.clients.get_mut(&conn)) else { return };
        for (&stream, waiting) in &mut client.out {
            while let Some(front) = waiting.front_mut() {
                match quic.write(conn, stream, front) {
                    Write::Done => drop(waiting.pop_front()),
                    Write::Blocked => break,
                    Write::Stopped(_) | Write::Gone => waiting.clear(),
                }
            }
            if waiting.is_empty() && client.close_at.is_some() {
                quic.finish(conn, stream);
            }
        }
    }
}

impl Client {
    fn say(&mut self, stream: Stream, bytes: Bytes) {
        if bytes.has_remaining() {
            self.out.entry(stream).or_default().push_back(bytes);
        }
    }

    fn tell(&mut self, stream: Stream, message: &RelayMessage) {
        self.say(stream, enclose(&encode(message)));
    }
}

impl Node for Relay {
    type Command = Infallible;
    type Event = Observed;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
        if let Some(quic) = &mut self.quic {
            quic.handle_datagram(now, &arrival, data);
        }
    }

    fn handle_input(&mut self, _now: Instant, input: Input) {
        if let Input::Bound(_, result) = input {
            result.expect("a free port");
            let unix_time = Duration::from_secs(1_800_000_000);
            let profile = Profile::peer();
            let quic = Quic::server(&profile, &identity(), Limits::default(), unix_time, &self.seed.split());
            self.quic = Some(quic.expect("a good identity"));
        }
    }

    fn handle_command(&mut self, _now: Instant, command: Infallible) -> Result<(), Misuse> {
        match command {}
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(quic) = &mut self.quic {
            quic.handle_timeout(now);
        }
        let due = self.clients.iter().filter(|(_, client)| client.close_at.is_some_and(|at| at <= now));
        for conn in due.map(|(&conn, _)| conn).collect::<Vec<_>>() {
            self.clients.remove(&conn);
            if let Some(quic) = &mut self.quic {
                quic.close(now, conn, 0, "bye");
            }
        }
    }

    fn settle(&mut self, now: Instant) {
        loop {
            let Some(quic) = &mut self.quic else { return };
            quic.settle(now);
            let mut moved = false;
            while let Some(incoming) = quic.poll_incoming() {
                let observed = incoming.from();
                if let Some(conn) = quic.accept(now, incoming) {
                    let client = Client {
                        main: None,
                        greeting: Greeting::new(now, observed, None, &self.seed.split()),
                        decoder: Decoder::new(Caps::Greeting),
                        wants: None,
                        leg: None,
                        out: BTreeMap::new(),
                        opened: Vec::new(),
                        mirrored: BTreeMap::new(),
                        incoming: BTreeMap::new(),
                        close_at: None,
                    };
                    self.clients.insert(conn, client);
                    moved = true;
                }
            }
            let mut closed = Vec::new();
            while let Some((conn, event)) = self.quic.as_mut().and_then(Quic::poll_event) {
                moved = true;
                if matches!(event, Event::Closed(_)) {
                    closed.push((conn, event));
                } else {
                    self.handle_event(now, conn, &event);
                }
            }
            for conn in self.clients.keys().copied().collect::<Vec<_>>() {
                self.greet(now, conn);
            }
            for leg in 0..self.legs.len() {
                moved |= self.forward(now, leg);
            }
            for (conn, event) in closed {
                self.handle_event(now, conn, &event);
            }
            for conn in self.clients.keys().copied().collect::<Vec<_>>() {
                self.flush(conn);
            }
            if !moved {
                return;
            }
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        _socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.quic.as_mut()?.poll_transmit(now, max_segments, buf)
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<Observed> {
        self.said.pop_front().map(Observed::Text)
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let closing = self.clients.values().filter_map(|client| client.close_at).min();
        let quic = self.quic.as_ref().and_then(Quic::poll_timeout);
        [closing.map(|at| (at, "closing")), quic.map(|at| (at, "quic"))].into_iter().flatten().min()
    }

    fn is_closed(&self) -> bool {
        false
    }
}
