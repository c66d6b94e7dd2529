//! The sockets of a peer by their roles, and the connections on them.
//!
//! Decides nothing about the transfer. A socket that could not be bound stays `Unusable`: its address family is not
//! there, or UDP is not.
//!
//! Datagrams sent from direct sockets count against the anti-amplification budget (`p2p::budget`), except to addresses
//! where a link has proven to be the other peer's, and to servers that the person named. Bounds: [`MAX_DATAGRAMS`]
//! datagrams of our own wait; a connection holds at most [`UNPROVEN_WINDOW`] bytes unread until it is known to lead to
//! the other peer ([`Net::widen`]).

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::Instant;
use crate::discovery::mdns;
use crate::link::connections::Connections;
use crate::link::proxy::Proxy;
use crate::link::quic::{Limits, Profile, Quic, Stream};
use crate::link::race::{Attempt, Transport};
use crate::link::tcp::{Dialler, Kind, Target, TcpLink, Windows};
use crate::link::trust::{Fingerprint, Identity, Trust};
use crate::link::{Read, Write};
use crate::net::{Action, Arrival, Bind, Ecn, Listen, ListenerId, QueryId, SocketId, TcpEvent, TcpId, Transmit};
use crate::p2p::budget::Budget;
use crate::p2p::candidate::{CandidateTransport, Family, canonical};
use crate::pool::Pool;
use crate::seed::Seed;

pub use crate::link::connections::{ConnectionId, Event};

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

/// Who is dialled, beside the address.
#[derive(Debug, Clone, Copy)]
pub struct RelayTarget<'a> {
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
    Started(ConnectionId),
    /// The socket is not bound yet: ask again.
    NotYet,
    /// That address can't be reached from here.
    Impossible,
}

/// For what a name is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// A relay, or the proxy that leads to it: its place in the list.
    Relay(usize),
    /// A STUN server that the person named.
    StunServer,
}

/// Where a socket of ours stands that has no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Binding,
    Open,
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
    connections: Connections,
    dialler: Dialler,
    actions: VecDeque<Action>,
    /// What was looked up; a [`QueryId`] is a place in it.
    queries: Vec<Query>,
    /// TCP connections whose stream was finished: they tell nobody else.
    finished: VecDeque<TcpId>,
    datagrams: VecDeque<Datagram>,
    budget: Budget,
    /// Direct connections that have proven to be the other peer's.
    proven: Vec<ConnectionId>,
    /// To which machine a plain TCP connection leads.
    neighbours: BTreeMap<TcpId, IpAddr>,
    /// For long records that arrive in TCP connections.
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
            connections: Connections::default(),
            dialler,
            actions: VecDeque::new(),
            queries: Vec::new(),
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
            self.connections.open(socket, Quic::client(&narrow(Profile::peer()), self.unix_time, &seed));
            Socket::Open
        } else {
            Socket::Unusable
        };
        self.sockets.insert(socket, state);
    }

    /// The listener's endpoint shows this certificate. False: it can't.
    pub fn open_listener(&mut self, identity: &Identity, seed: &Seed) -> bool {
        let quic = Quic::server(&narrow(Profile::peer()), identity, Limits::default(), self.unix_time, seed);
        let Ok(quic) = quic else { return false };
        self.sockets.insert(LISTENER, Socket::Open);
        self.connections.open(LISTENER, quic);
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
        self.sockets.insert(socket, Socket::Open);
        self.connections.open(socket, quic);
        true
    }

    /// Asks for a listener for peers of our own network.
    pub fn listen_direct(&mut self, addr: SocketAddr) {
        self.actions.push_back(Action::Listen(DIRECT_TCP, Listen { backlog: 8, ..Listen::from(addr) }));
    }

    /// Begins an attempt to reach the other peer itself.
    pub fn dial_direct(
        &mut self,
        now: Instant,
        transport: CandidateTransport,
        to: SocketAddr,
        certificate: [u8; 32],
    ) -> Dial {
        match transport {
            CandidateTransport::Tcp => {
                if !self.is_proven(to) && !self.budget.spend(now, to, SYNS, SYNS.saturating_mul(SYN)) {
                    return Dial::Impossible;
                }
                let tcp = TcpLink::plain(now, UNPROVEN_TCP);
                let tcp = self.connections.tcp_links.dial_until(tcp, to, now + CONNECT_WITHIN);
                self.neighbours.insert(tcp, canonical(to).ip());
                Dial::Started(ConnectionId::Tcp(tcp))
            }
            CandidateTransport::Udp => {
                let socket = direct_socket(Family::of(to.ip()));
                let Some(quic) = self.quic(socket) else { return Dial::Impossible };
                match quic.connect(now, to, "tallow", &Trust::Pin(Fingerprint(certificate))) {
                    Ok(id) => Dial::Started(ConnectionId::Quic(socket, id)),
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
    ) -> Option<(ConnectionId, SocketAddr)> {
        for socket in [DIRECT_V4, DIRECT_V6] {
            while let Some(incoming) = self.quic(socket).and_then(Quic::poll_incoming) {
                let (quic, from) = (self.quic(socket)?, incoming.from());
                if !wanted(from) {
                    quic.ignore(incoming);
                } else if let Some(id) = quic.accept(now, incoming) {
                    return Some((ConnectionId::Quic(socket, id), from));
                }
            }
        }
        None
    }

    /// A TCP connection of somebody who may be the other peer.
    pub fn accept_direct(&mut self, now: Instant, from: SocketAddr) -> TcpId {
        let tcp = self.connections.tcp_links.accept(TcpLink::plain(now, UNPROVEN_TCP));
        self.neighbours.insert(tcp, canonical(from).ip());
        tcp
    }

    /// This connection is the other peer's: what leaves for its address is counted no more, and memory is taken for its
    /// records as soon as they begin.
    pub fn prove(&mut self, conn: ConnectionId) {
        self.widen(conn);
        match conn {
            ConnectionId::Quic(socket, id) => {
                if let Some(to) = self.quic(socket).and_then(|quic| quic.remote(id)) {
                    self.budget.forgive(to);
                }
            }
            ConnectionId::Tcp(tcp) => {
                self.connections.tcp_links.set_receive_window(tcp, Windows::direct().receive);
                self.connections.tcp_links.assemble(tcp, &self.buffers);
                if let Some(&ip) = self.neighbours.get(&tcp) {
                    self.budget.forgive(SocketAddr::new(ip, 0));
                }
            }
        }
        self.proven.push(conn);
    }

    /// This connection leads to the other peer: it may hold as much unread as a transfer needs.
    pub fn widen(&mut self, conn: ConnectionId) {
        if let ConnectionId::Quic(socket, id) = conn
            && let Some(quic) = self.quic(socket)
        {
            quic.set_receive_window(id, Profile::peer().receive_window);
        }
    }

    /// How much is here of a record that cannot be read yet.
    #[must_use]
    pub fn assembling(&self, conn: ConnectionId) -> usize {
        match conn {
            ConnectionId::Quic(..) => 0,
            ConnectionId::Tcp(tcp) => self.connections.tcp_links.assembling(tcp),
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
        self.connections.release(socket);
        if self.sockets.remove(&socket).is_some() {
            self.actions.push_back(Action::Release(socket));
        }
    }

    /// Begins an attempt to connect.
    pub fn dial(&mut self, now: Instant, attempt: &Attempt, target: &RelayTarget<'_>) -> Dial {
        let kind = match attempt.transport {
            Transport::Quic => return self.dial_quic(now, attempt.to, target),
            Transport::Tls => Kind::Tls,
            Transport::WebSocket => Kind::WebSocket { tls: true, path: PATH.to_owned() },
        };
        let RelayTarget { host, port, trust, proxy, early: _ } = *target;
        let target = Target { kind, host, port, trust: *trust, proxy, windows: Windows::peer() };
        match self.dialler.dial(now, &target) {
            Ok(tcp) => Dial::Started(ConnectionId::Tcp(self.connections.tcp_links.dial(tcp, attempt.to))),
            Err(_) => Dial::Impossible,
        }
    }

    fn dial_quic(&mut self, now: Instant, to: SocketAddr, target: &RelayTarget<'_>) -> Dial {
        let socket = if to.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 };
        let quic = match self.sockets.get(&socket) {
            Some(Socket::Binding) => return Dial::NotYet,
            Some(Socket::Open) => self.connections.endpoint(socket),
            Some(Socket::Unusable) | None => None,
        };
        let Some(quic) = quic else { return Dial::Impossible };
        let dialled = if target.early {
            quic.reconnect(now, to, target.host, target.trust)
        } else {
            quic.connect(now, to, target.host, target.trust)
        };
        match dialled {
            Ok(id) => Dial::Started(ConnectionId::Quic(socket, id)),
            Err(_) => Dial::Impossible,
        }
    }

    /// The endpoint on a socket.
    pub fn quic(&mut self, socket: SocketId) -> Option<&mut Quic> {
        self.connections.endpoint(socket)
    }

    /// Reads what arrived on a stream, at most one packet's worth.
    pub fn read(&mut self, conn: ConnectionId, stream: Stream) -> Read {
        self.connections.read(conn, stream, usize::MAX)
    }

    /// Writes what there is room for; `data` keeps the rest.
    pub fn write(&mut self, now: Instant, conn: ConnectionId, stream: Stream, data: &mut Bytes) -> Write {
        self.connections.write(now, conn, stream, data)
    }

    /// Nothing follows on a stream. TCP does not report the other side's acknowledgement, so that it counts as given at
    /// once.
    pub fn finish(&mut self, now: Instant, conn: ConnectionId, stream: Stream) {
        self.connections.finish(now, conn, stream, 0, "");
        if let ConnectionId::Tcp(tcp) = conn {
            self.finished.push_back(tcp);
        }
    }

    /// The first stream of a connection of ours.
    pub fn open_first(&mut self, conn: ConnectionId) -> Option<Stream> {
        self.connections.open_first(conn)
    }

    /// Another stream, where the connection has more than one.
    pub fn open_uni(&mut self, conn: ConnectionId) -> Option<Stream> {
        self.connections.open_uni(conn)
    }

    /// The round trip to the next hop, where it is known.
    #[must_use]
    pub fn rtt(&mut self, conn: ConnectionId) -> Option<Duration> {
        self.connections.rtt(conn)
    }

    /// This machine's addresses changed, or it slept.
    pub fn handle_moved(&mut self) {
        self.connections.endpoints_mut().for_each(Quic::handle_moved);
    }

    /// How much arrived on a connection, where that is counted.
    #[must_use]
    pub fn received(&mut self, conn: ConnectionId) -> Option<u64> {
        self.connections.received(conn)
    }

    /// Closes a connection. What was finished on it still goes out; of the rest, what is in flight may be lost.
    pub fn close(&mut self, now: Instant, conn: ConnectionId, code: u32, reason: &'static str) {
        self.proven.retain(|&proven| proven != conn);
        if let ConnectionId::Tcp(tcp) = conn {
            self.neighbours.remove(&tcp);
        }
        self.connections.close(now, conn, code, reason);
    }

    /// Whether the other peer is at this address: a direct link leads there, of the same socket or to the same machine.
    fn is_proven(&mut self, to: SocketAddr) -> bool {
        let (to, socket) = (canonical(to), direct_socket(Family::of(to.ip())));
        let (connections, neighbours) = (&mut self.connections, &self.neighbours);
        self.proven.iter().any(|&conn| match conn {
            ConnectionId::Quic(on, id) => {
                on == socket && connections.endpoint(on).is_some_and(|quic| quic.remote(id) == Some(to))
            }
            ConnectionId::Tcp(tcp) => neighbours.get(&tcp) == Some(&to.ip()),
        })
    }

    /// What happened to a TCP connection.
    pub fn handle_tcp(&mut self, now: Instant, tcp: TcpId, event: TcpEvent) {
        self.connections.handle_tcp(now, tcp, event);
    }

    /// A TCP connection to be looked at.
    pub fn poll_tcp(&mut self) -> Option<TcpId> {
        self.connections.poll_tcp()
    }

    /// Where the next bytes of a TCP connection go.
    pub fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        self.connections.pipe_buffer(tcp)
    }

    /// What waits to be written to a TCP connection.
    pub fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        self.connections.pipe_output(tcp, slices)
    }

    /// One datagram.
    pub fn handle_datagram(&mut self, now: Instant, arrival: &Arrival, data: BytesMut) {
        self.connections.handle_datagram(now, arrival, data);
    }

    /// Timers of all connections.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.connections.endpoints_mut().for_each(|quic| quic.handle_timeout(now));
        self.connections.tcp_links.handle_timeout(now);
    }

    /// Moves everything inside the endpoints.
    pub fn settle(&mut self, now: Instant) {
        self.connections.settle(now);
    }

    /// The next event of any connection that says something to a peer: streams are opened when they are needed, and no
    /// peer stops one.
    pub fn poll_event(&mut self) -> Option<(ConnectionId, Event)> {
        if let Some(tcp) = self.finished.pop_front() {
            return Some((ConnectionId::Tcp(tcp), Event::Finished(Stream::first())));
        }
        loop {
            match self.connections.poll_event()? {
                (_, Event::Available(_) | Event::Stopped(..)) => {}
                event => return Some(event),
            }
        }
    }

    /// The earliest deadline of all connections.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.connections.poll_endpoint_timeout().into_iter().chain(self.connections.tcp_links.poll_timeout()).min()
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.connections.is_flushed()
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
            let transmit = self.connections.endpoint(socket)?.poll_transmit(now, max_segments, buf)?;
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
        self.actions.pop_front().or_else(|| self.connections.tcp_links.poll_action())
    }

    /// Looks up a name.
    pub fn resolve(&mut self, query: Query, host: &str, port: u16) {
        let id = QueryId(u32::try_from(self.queries.len()).unwrap_or(u32::MAX));
        self.queries.push(query);
        self.act(Action::Resolve(id, host.to_owned(), port));
    }

    /// For what a name was looked up.
    #[must_use]
    pub fn query(&self, id: QueryId) -> Option<Query> {
        self.queries.get(usize::try_from(id.0).ok()?).copied()
    }

    /// Asks the runtime for something.
    pub fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }
}

/// How a connection begins that anybody may be at the other end of.
const fn narrow(profile: Profile) -> Profile {
    Profile { receive_window: UNPROVEN_WINDOW as u64, ..profile }
}

/// The same of a plain TCP connection.
const UNPROVEN_TCP: Windows = Windows { receive: UNPROVEN_WINDOW, ..Windows::direct() };

/// The socket towards the other peer.
#[must_use]
pub const fn direct_socket(family: Family) -> SocketId {
    match family {
        Family::V4 => DIRECT_V4,
        Family::V6 => DIRECT_V6,
    }
}
