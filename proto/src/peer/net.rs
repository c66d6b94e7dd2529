//! A peer's connections, whatever carries them: QUIC on its sockets, TLS and WebSocket in its pipes.
//!
//! Decides nothing about the transfer. A socket that could not be bound stays `Unusable`: its address family is not there, or UDP
//! is not. A pipe has one stream, [`Stream::first`], and knows no others.
//!
//! What leaves a direct socket for an address is counted (`p2p::budget`), unless a link there has proven to be the other peer's, or a
//! server was asked that the person named. Bounds: [`MAX_DATAGRAMS`] datagrams of our own wait; a connection holds at
//! most [`UNPROVEN_WINDOW`] bytes unread until it is known to lead to the other peer ([`Net::widen`]).

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::Instant;
use crate::discovery::mdns;
use crate::link::pipe::{self, Dialler, Kind, Pipe, Target, Windows};
use crate::link::pipes::Pipes;
use crate::link::proxy::Proxy;
use crate::link::quic::{self, ConnId, Direction, Limits, Profile, Quic, Stream};
use crate::link::race::{Attempt, Failure, Transport};
use crate::link::trust::{CertificateSeen, Fingerprint, Identity, Trust};
use crate::link::{Read, Write};
use crate::net::{Action, Arrival, Bind, Ecn, Listen, ListenerId, PipeEvent, PipeId, SocketId, Transmit};
use crate::p2p::budget::Budget;
use crate::p2p::candidate::{Carrier, Family, canonical};
use crate::pool::Pool;
use crate::seed::Seed;

/// Towards relays over IPv4.
pub const CLIENT_V4: SocketId = SocketId(0);
/// Towards relays over IPv6.
pub const CLIENT_V6: SocketId = SocketId(1);
/// The relay inside a sender listens here.
pub const LISTENER: SocketId = SocketId(2);
/// Multicast DNS over IPv4.
pub const MDNS: SocketId = SocketId(3);
/// Towards the other peer over IPv4: client, server and STUN on one socket, apart from what goes to relays.
pub const DIRECT_V4: SocketId = SocketId(4);
/// The same over IPv6.
pub const DIRECT_V6: SocketId = SocketId(5);
/// Peers of our own network connect here.
pub const DIRECT_TCP: ListenerId = ListenerId(0);

/// Bytes of the packet that opens a TCP connection.
const SYN: usize = 60;
/// A neighbour takes a TCP connection soon or not at all.
const CONNECT_WITHIN: Duration = Duration::from_millis(2_500);
/// How often systems ask for one until then: again after 1 s, and after 2 s or 3 s.
const SYNS: usize = 3;
/// Datagrams that are neither QUIC's nor mDNS's and wait for a direct socket; more are lost.
const MAX_DATAGRAMS: usize = 64;
/// What a connection may hold unread until it is known to lead to the other peer: nobody says more than a greeting
/// before.
const UNPROVEN_WINDOW: usize = 64 << 10;
/// The path of a WebSocket at a relay.
const PATH: &str = "/";

/// One connection of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conn {
    /// QUIC: the socket it runs on, and its name there.
    Quic(SocketId, ConnId),
    /// TCP with what is in it.
    Pipe(PipeId),
}

/// News of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is there.
    Connected {
        /// How the server was recognised.
        certificate: CertificateSeen,
    },
    /// What was said since [`Event::Connected`] did not arrive: the streams are gone, and all is said again.
    Restarted {
        /// How the server was recognised.
        certificate: CertificateSeen,
    },
    /// The other side opened a stream.
    Opened(Stream, Direction),
    /// There may be something to read.
    Readable(Stream),
    /// A write that was blocked may go on.
    Writable(Stream),
    /// All that was written is out, and the stream's end with it.
    Finished(Stream),
    /// It is over. What arrived before can be read at once, and no more later.
    Closed(Failure),
}

/// Who is dialled, beside the address.
#[derive(Debug, Clone, Copy)]
pub struct Callee<'a> {
    /// The name that a certificate would stand for.
    pub host: &'a str,
    /// The port there.
    pub port: u16,
    /// Which certificate is accepted.
    pub trust: &'a Trust,
    /// The proxy that leads there.
    pub proxy: Option<&'a Proxy>,
    /// What is said first may be heard twice: see [`Quic::reconnect`].
    pub early: bool,
}

/// What became of an attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// Under way.
    Started(Conn),
    /// The socket is not bound yet: ask again.
    NotYet,
    /// That address can't be reached from here.
    Impossible,
}

enum Socket {
    Binding,
    Open(Box<Quic>),
    Unusable,
}

/// A datagram that is not QUIC's.
struct Datagram {
    socket: SocketId,
    to: SocketAddr,
    data: Vec<u8>,
    /// It goes to an address that the other peer named.
    counted: bool,
}

/// See the module's text.
pub struct Net {
    sockets: BTreeMap<SocketId, Socket>,
    pipes: Pipes,
    dialler: Dialler,
    actions: VecDeque<Action>,
    /// Pipes whose stream was finished: they tell nobody else.
    finished: VecDeque<PipeId>,
    datagrams: VecDeque<Datagram>,
    budget: Budget,
    /// Direct connections that have proven to be the other peer's.
    proven: Vec<Conn>,
    /// To which machine a plain pipe leads.
    neighbours: BTreeMap<PipeId, IpAddr>,
    /// For long records that arrive in pipes.
    buffers: Arc<Pool>,
    unix_time: Duration,
    seed: Seed,
}

impl Net {
    /// No sockets.
    #[must_use]
    pub fn new(unix_time: Duration, seed: Seed) -> Self {
        let dialler = Dialler::new(unix_time, &seed);
        Self {
            sockets: BTreeMap::new(),
            pipes: Pipes::new(),
            dialler,
            actions: VecDeque::new(),
            finished: VecDeque::new(),
            datagrams: VecDeque::new(),
            budget: Budget::default(),
            proven: Vec::new(),
            neighbours: BTreeMap::new(),
            buffers: Arc::default(),
            unix_time,
            seed,
        }
    }

    /// Where the buffers of long records come from, and go to once they are opened.
    #[must_use]
    pub fn buffers(&self) -> Arc<Pool> {
        Arc::clone(&self.buffers)
    }

    /// Asks for the client's sockets, one per family.
    pub fn open_clients(&mut self) {
        for (socket, ip) in
            [(CLIENT_V4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (CLIENT_V6, IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
        {
            self.bind(socket, SocketAddr::new(ip, 0));
        }
    }

    /// Asks for one socket.
    pub fn bind(&mut self, socket: SocketId, addr: SocketAddr) {
        self.sockets.insert(socket, Socket::Binding);
        // All others have one of each family, which may be asked to have the same port.
        let dual_stack = socket == LISTENER;
        self.actions.push_back(Action::Bind(socket, Bind { addr, dual_stack, share_port: false, group: None }));
    }

    /// Asks for the socket of multicast DNS, which other programs use too.
    pub fn bind_mdns(&mut self) {
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), mdns::PORT);
        let group = Some(mdns::GROUP.ip());
        self.actions.push_back(Action::Bind(MDNS, Bind { addr, dual_stack: false, share_port: true, group }));
    }

    /// A client's socket was bound, or can't be.
    pub fn handle_client_bound(&mut self, socket: SocketId, usable: bool) {
        let state = if usable {
            let seed = self.seed.derive(if socket == CLIENT_V4 { "client v4" } else { "client v6" });
            Socket::Open(Box::new(Quic::client(&narrow(Profile::peer()), self.unix_time, &seed)))
        } else {
            Socket::Unusable
        };
        self.sockets.insert(socket, state);
    }

    /// The listener's endpoint shows this certificate. False: it can't.
    pub fn open_listener(&mut self, identity: &Identity, seed: &Seed) -> bool {
        let quic = Quic::server(&narrow(Profile::peer()), identity, Limits::default(), self.unix_time, seed);
        let Ok(quic) = quic else { return false };
        self.sockets.insert(LISTENER, Socket::Open(Box::new(quic)));
        true
    }

    /// Whether a client's socket may still come.
    #[must_use]
    pub fn is_binding(&self) -> bool {
        [CLIENT_V4, CLIENT_V6].iter().any(|socket| matches!(self.sockets.get(socket), Some(Socket::Binding)))
    }

    /// Whether no client's socket could be bound.
    #[must_use]
    pub fn is_unusable(&self) -> bool {
        [CLIENT_V4, CLIENT_V6].iter().all(|socket| matches!(self.sockets.get(socket), Some(Socket::Unusable)))
    }

    /// A direct socket was bound: its endpoint shows this certificate. False: no certificate can be shown.
    pub fn open_direct(&mut self, socket: SocketId, identity: &Identity) -> bool {
        let seed = self.seed.derive(if socket == DIRECT_V4 { "direct v4" } else { "direct v6" });
        let limits = Limits { incoming: 8, ..Limits::default() };
        let quic = Quic::server(&narrow(Profile::direct()), identity, limits, self.unix_time, &seed);
        let Ok(quic) = quic else { return false };
        self.sockets.insert(socket, Socket::Open(Box::new(quic)));
        true
    }

    /// Asks for a listener for peers of our own network.
    pub fn listen_direct(&mut self, addr: SocketAddr) {
        self.actions.push_back(Action::Listen(DIRECT_TCP, Listen { backlog: 8, ..Listen::from(addr) }));
    }

    /// Begins an attempt to reach the other peer itself.
    pub fn dial_direct(&mut self, now: Instant, carrier: Carrier, to: SocketAddr, certificate: [u8; 32]) -> Dial {
        match carrier {
            Carrier::Tcp => {
                if !self.is_proven(to) && !self.budget.spend(now, to, SYNS, SYNS.saturating_mul(SYN)) {
                    return Dial::Impossible;
                }
                let pipe = Pipe::plain(now, UNPROVEN_PIPE);
                let pipe = self.pipes.dial_until(pipe, to, now + CONNECT_WITHIN);
                self.neighbours.insert(pipe, canonical(to).ip());
                Dial::Started(Conn::Pipe(pipe))
            }
            Carrier::Udp => {
                let socket = direct_socket(Family::of(to.ip()));
                let Some(quic) = self.quic(socket) else { return Dial::Impossible };
                match quic.connect(now, to, "tallow", &Trust::Pin(Fingerprint(certificate))) {
                    Ok(id) => Dial::Started(Conn::Quic(socket, id)),
                    Err(_) => Dial::Impossible,
                }
            }
        }
    }

    /// A connection that came in, from where it says: it may be the other peer's. One that is not `wanted` is not
    /// answered.
    pub fn poll_direct(
        &mut self,
        now: Instant,
        mut wanted: impl FnMut(SocketAddr) -> bool,
    ) -> Option<(Conn, SocketAddr)> {
        for socket in [DIRECT_V4, DIRECT_V6] {
            while let Some(incoming) = self.quic(socket).and_then(Quic::poll_incoming) {
                let (quic, from) = (self.quic(socket)?, incoming.from());
                if !wanted(from) {
                    quic.ignore(incoming);
                } else if let Some(id) = quic.accept(now, incoming) {
                    return Some((Conn::Quic(socket, id), from));
                }
            }
        }
        None
    }

    /// A pipe of somebody who may be the other peer.
    pub fn accept_direct(&mut self, now: Instant, from: SocketAddr) -> PipeId {
        let pipe = self.pipes.accept(Pipe::plain(now, UNPROVEN_PIPE));
        self.neighbours.insert(pipe, canonical(from).ip());
        pipe
    }

    /// This connection is the other peer's: what leaves for its address is counted no more, and memory is taken for its records as
    /// soon as they begin.
    pub fn prove(&mut self, conn: Conn) {
        self.widen(conn);
        match conn {
            Conn::Quic(socket, id) => {
                if let Some(to) = self.quic(socket).and_then(|quic| quic.remote(id)) {
                    self.budget.forgive(to);
                }
            }
            Conn::Pipe(pipe) => {
                self.pipes.set_receive_window(pipe, Windows::direct().receive);
                self.pipes.assemble(pipe, &self.buffers);
                if let Some(&ip) = self.neighbours.get(&pipe) {
                    self.budget.forgive(SocketAddr::new(ip, 0));
                }
            }
        }
        self.proven.push(conn);
    }

    /// This connection leads to the other peer: it may hold as much unread as a transfer needs.
    pub fn widen(&mut self, conn: Conn) {
        if let Conn::Quic(socket, id) = conn
            && let Some(quic) = self.quic(socket)
        {
            quic.set_receive_window(id, Profile::peer().receive_window);
        }
    }

    /// How much is here of a record that cannot be read yet.
    #[must_use]
    pub fn assembling(&self, conn: Conn) -> usize {
        match conn {
            Conn::Quic(..) => 0,
            Conn::Pipe(pipe) => self.pipes.assembling(pipe),
        }
    }

    /// Sends a datagram. `counted`: to an address that the other peer named.
    pub fn send_datagram(&mut self, socket: SocketId, to: SocketAddr, data: Vec<u8>, counted: bool) {
        if self.datagrams.len() < MAX_DATAGRAMS {
            self.datagrams.push_back(Datagram { socket, to, data, counted });
        }
    }

    /// Lets go of a socket and all that is on it.
    pub fn release(&mut self, socket: SocketId) {
        if self.sockets.remove(&socket).is_some() {
            self.actions.push_back(Action::Release(socket));
        }
    }

    /// Begins an attempt to connect.
    pub fn dial(&mut self, now: Instant, attempt: &Attempt, callee: &Callee<'_>) -> Dial {
        let kind = match attempt.transport {
            Transport::Quic => return self.dial_quic(now, attempt.to, callee),
            Transport::Tls => Kind::Tls,
            Transport::WebSocket => Kind::WebSocket { tls: true, path: PATH.to_owned() },
        };
        let Callee { host, port, trust, proxy, early: _ } = *callee;
        let target = Target { kind, host, port, trust: *trust, proxy, windows: Windows::peer() };
        match self.dialler.dial(now, &target) {
            Ok(pipe) => Dial::Started(Conn::Pipe(self.pipes.dial(pipe, attempt.to))),
            Err(_) => Dial::Impossible,
        }
    }

    fn dial_quic(&mut self, now: Instant, to: SocketAddr, callee: &Callee<'_>) -> Dial {
        let socket = if to.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 };
        match self.sockets.get_mut(&socket) {
            Some(Socket::Binding) => Dial::NotYet,
            Some(Socket::Open(quic)) => match if callee.early {
                quic.reconnect(now, to, callee.host, callee.trust)
            } else {
                quic.connect(now, to, callee.host, callee.trust)
            } {
                Ok(id) => Dial::Started(Conn::Quic(socket, id)),
                Err(_) => Dial::Impossible,
            },
            Some(Socket::Unusable) | None => Dial::Impossible,
        }
    }

    /// The endpoint on a socket.
    pub fn quic(&mut self, socket: SocketId) -> Option<&mut Quic> {
        match self.sockets.get_mut(&socket)? {
            Socket::Open(quic) => Some(quic),
            Socket::Binding | Socket::Unusable => None,
        }
    }

    /// Reads what arrived on a stream, at most one packet's worth.
    pub fn read(&mut self, conn: Conn, stream: Stream) -> Read {
        match conn {
            Conn::Quic(socket, id) => self.quic(socket).map_or(Read::Gone, |quic| quic.read(id, stream, usize::MAX)),
            Conn::Pipe(pipe) => self.pipes.read(pipe),
        }
    }

    /// Writes what there is room for; `data` keeps the rest.
    pub fn write(&mut self, now: Instant, conn: Conn, stream: Stream, data: &mut Bytes) -> Write {
        match conn {
            Conn::Quic(socket, id) => self.quic(socket).map_or(Write::Gone, |quic| quic.write(id, stream, data)),
            Conn::Pipe(pipe) => self.pipes.write(now, pipe, data),
        }
    }

    /// Says that nothing follows on a stream.
    pub fn finish(&mut self, now: Instant, conn: Conn, stream: Stream) {
        match conn {
            Conn::Quic(socket, id) => {
                if let Some(quic) = self.quic(socket) {
                    quic.finish(id, stream);
                }
            }
            Conn::Pipe(pipe) => {
                self.pipes.finish(now, pipe);
                self.finished.push_back(pipe);
            }
        }
    }

    /// The first stream of a connection of ours.
    pub fn open_first(&mut self, conn: Conn) -> Option<Stream> {
        match conn {
            Conn::Quic(socket, id) => self.quic(socket)?.open_bi(id),
            Conn::Pipe(_) => Some(Stream::first()),
        }
    }

    /// Another stream, where the connection has more than one.
    pub fn open_uni(&mut self, conn: Conn) -> Option<Stream> {
        match conn {
            Conn::Quic(socket, id) => self.quic(socket)?.open_uni(id),
            Conn::Pipe(_) => None,
        }
    }

    /// The round trip to the next hop, where it is known.
    #[must_use]
    pub fn rtt(&mut self, conn: Conn) -> Option<Duration> {
        match conn {
            Conn::Quic(socket, id) => self.quic(socket)?.rtt(id),
            Conn::Pipe(_) => None,
        }
    }

    /// This machine's addresses changed, or it slept.
    pub fn handle_moved(&mut self) {
        self.open().for_each(|(_, quic)| quic.handle_moved());
    }

    /// How much arrived on a connection, where that is counted.
    #[must_use]
    pub fn received(&mut self, conn: Conn) -> Option<u64> {
        match conn {
            Conn::Quic(socket, id) => self.quic(socket)?.stats(id).map(|stats| stats.received_bytes),
            Conn::Pipe(_) => None,
        }
    }

    /// Closes a connection. What was finished on it still goes out; of the rest, what is under way may be lost.
    pub fn close(&mut self, now: Instant, conn: Conn, code: u32, reason: &'static str) {
        self.proven.retain(|&proven| proven != conn);
        match conn {
            Conn::Quic(socket, id) => {
                if let Some(quic) = self.quic(socket) {
                    quic.close(now, id, code, reason);
                }
            }
            Conn::Pipe(pipe) => {
                self.neighbours.remove(&pipe);
                self.pipes.close(now, pipe, code, reason);
            }
        }
    }

    /// Whether the other peer is at this address: a direct link leads there, of the same socket or to the same machine.
    fn is_proven(&mut self, to: SocketAddr) -> bool {
        let (to, socket) = (canonical(to), direct_socket(Family::of(to.ip())));
        let (sockets, neighbours) = (&mut self.sockets, &self.neighbours);
        self.proven.iter().any(|&conn| match (conn, sockets.get_mut(&socket)) {
            (Conn::Quic(on, id), Some(Socket::Open(quic))) => on == socket && quic.remote(id) == Some(to),
            (Conn::Quic(..), _) => false,
            (Conn::Pipe(pipe), _) => neighbours.get(&pipe) == Some(&to.ip()),
        })
    }

    /// News of a pipe.
    pub fn handle_pipe(&mut self, now: Instant, pipe: PipeId, event: PipeEvent) {
        self.pipes.handle_pipe(now, pipe, event);
    }

    /// A pipe to be looked at.
    pub fn poll_pipe(&mut self) -> Option<PipeId> {
        self.pipes.poll_pipe()
    }

    /// Where a pipe's next bytes go.
    pub fn pipe_buffer(&mut self, pipe: PipeId) -> &mut [u8] {
        self.pipes.buffer(pipe)
    }

    /// What waits to be written to a pipe.
    pub fn pipe_output<'a>(&'a self, pipe: PipeId, slices: &mut [IoSlice<'a>]) -> usize {
        self.pipes.output(pipe, slices)
    }

    /// One datagram.
    pub fn handle_datagram(&mut self, now: Instant, arrival: &Arrival, data: BytesMut) {
        if let Some(quic) = self.quic(arrival.socket) {
            quic.handle_datagram(now, arrival, data);
        }
    }

    /// Timers of all connections.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.open().for_each(|(_, quic)| quic.handle_timeout(now));
        self.pipes.handle_timeout(now);
    }

    /// Moves everything inside the endpoints.
    pub fn settle(&mut self, now: Instant) {
        self.open().for_each(|(_, quic)| quic.settle(now));
        self.pipes.settle();
    }

    /// The next event of any connection.
    pub fn poll_event(&mut self) -> Option<(Conn, Event)> {
        if let Some(pipe) = self.finished.pop_front() {
            return Some((Conn::Pipe(pipe), Event::Finished(Stream::first())));
        }
        if let Some((pipe, event)) = self.pipes.poll_event() {
            return Some((Conn::Pipe(pipe), of_pipe(event)));
        }
        loop {
            let (conn, event) = self
                .open()
                .find_map(|(socket, quic)| quic.poll_event().map(|(id, event)| (Conn::Quic(socket, id), event)))?;
            if let Some(event) = of_quic(event) {
                return Some((conn, event));
            }
        }
    }

    /// The earliest deadline of all connections.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sockets
            .values()
            .filter_map(|socket| match socket {
                Socket::Open(quic) => quic.poll_timeout(),
                Socket::Binding | Socket::Unusable => None,
            })
            .chain(self.pipes.poll_timeout())
            .min()
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.sockets.values().any(|socket| match socket {
            Socket::Open(quic) => !quic.is_flushed(),
            Socket::Binding | Socket::Unusable => false,
        }) || !self.pipes.is_empty()
    }

    /// The next batch for this socket.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if socket != DIRECT_V4 && socket != DIRECT_V6 {
            return self.quic(socket)?.poll_transmit(now, max_segments, buf);
        }
        self.poll_direct_transmit(now, socket, max_segments, buf)
    }

    fn poll_direct_transmit(
        &mut self,
        now: Instant,
        socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        while let Some(index) = self.datagrams.iter().position(|datagram| datagram.socket == socket) {
            let Datagram { to, data, counted, .. } = self.datagrams.remove(index)?;
            if !counted || self.is_proven(to) || self.budget.spend_probe(now, to, data.len()) {
                buf.extend_from_slice(&data);
                let size = data.len();
                return Some(Transmit { to, src_ip: None, ecn: Ecn::NotEct, size, segment_size: None });
            }
        }
        loop {
            let Some(Socket::Open(quic)) = self.sockets.get_mut(&socket) else { return None };
            let transmit = quic.poll_transmit(now, max_segments, buf)?;
            let is_proven = self.is_proven(transmit.to);
            let datagrams = transmit.segment_size.map_or(1, |segment| transmit.size.div_ceil(segment.max(1)));
            if is_proven || self.budget.spend(now, transmit.to, datagrams, transmit.size) {
                return Some(transmit);
            }
            buf.clear();
        }
    }

    /// The next thing to ask of the runtime.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front().or_else(|| self.pipes.poll_action())
    }

    /// Asks the runtime for something.
    pub fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn open(&mut self) -> impl Iterator<Item = (SocketId, &mut Quic)> {
        self.sockets.iter_mut().filter_map(|(&socket, state)| match state {
            Socket::Open(quic) => Some((socket, quic.as_mut())),
            Socket::Binding | Socket::Unusable => None,
        })
    }
}

/// How a connection begins that anybody may be at the other end of.
const fn narrow(profile: Profile) -> Profile {
    Profile { receive_window: UNPROVEN_WINDOW as u64, ..profile }
}

/// The same of a plain pipe.
const UNPROVEN_PIPE: Windows = Windows { receive: UNPROVEN_WINDOW, ..Windows::direct() };

/// The socket towards the other peer.
#[must_use]
pub const fn direct_socket(family: Family) -> SocketId {
    match family {
        Family::V4 => DIRECT_V4,
        Family::V6 => DIRECT_V6,
    }
}

fn of_pipe(event: pipe::Event) -> Event {
    let stream = Stream::first();
    match event {
        pipe::Event::Connected { certificate, transport: _ } => Event::Connected { certificate },
        pipe::Event::Readable => Event::Readable(stream),
        pipe::Event::Writable => Event::Writable(stream),
        pipe::Event::Closed(closed) => Event::Closed(Failure::from(&closed)),
    }
}

fn of_quic(event: quic::Event) -> Option<Event> {
    Some(match event {
        quic::Event::Connected { certificate } => Event::Connected { certificate },
        quic::Event::Restarted { certificate } => Event::Restarted { certificate },
        quic::Event::Opened(stream, direction) => Event::Opened(stream, direction),
        quic::Event::Readable(stream) => Event::Readable(stream),
        quic::Event::Writable(stream) => Event::Writable(stream),
        quic::Event::Finished(stream) => Event::Finished(stream),
        quic::Event::Closed(closed) => Event::Closed(Failure::from(&closed)),
        quic::Event::Available(_) | quic::Event::Stopped(..) => return None,
    })
}
