//! The sockets of a peer by their roles, and the connections on them.
//!
//! It decides nothing about the transfer. A socket that could not be bound stays `Unusable`: this machine lacks the
//! address family, or UDP.
//!
//! Datagrams from direct sockets are charged to the anti-amplification budget (`p2p::budget`). Two kinds of addresses
//! are exempt: those to which an authenticated link of the other peer leads, and servers that the user configured.
//! Bounds: [`MAX_DATAGRAMS`] datagrams of this side wait; a connection holds at most [`UNPROVEN_WINDOW`] unread bytes
//! until the other peer is authenticated on it ([`Network::widen`]).

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
use crate::net::{
    Action, Arrival, Bind, Ecn, Listen, ListenerId, MARK, QueryId, Slot, SocketId, TcpEvent, TcpId, Transmit,
};
use crate::p2p::budget::Budget;
use crate::p2p::candidate::{CandidateTransport, Family, canonical};
use crate::pool::Pool;
use crate::seed::Seed;

pub use crate::link::connections::{ConnectionId, Event};

/// Client socket for relays over IPv4.
pub const CLIENT_V4: SocketId = SocketId(0);
/// Client socket for relays over IPv6.
pub const CLIENT_V6: SocketId = SocketId(1);
/// The socket on which the relay inside a sender listens.
pub const LISTENER: SocketId = SocketId(2);
/// The socket for multicast DNS over IPv4.
pub const MDNS: SocketId = SocketId(3);
/// The socket for direct paths over IPv4: client, server and STUN share it; traffic to relays does not use it.
pub const DIRECT_V4: SocketId = SocketId(4);
/// The socket for direct paths over IPv6.
pub const DIRECT_V6: SocketId = SocketId(5);
/// The listener for TCP connections from peers in the same network.
pub const DIRECT_TCP: ListenerId = ListenerId(0);

/// Size of the packet that opens a TCP connection, in bytes.
const SYN: usize = 60;
/// How long a TCP connection to a peer in the same network may take.
const CONNECT_WITHIN: Duration = Duration::from_millis(2_500);
/// How often a system sends the SYN in that time: again after 1 s, and after 2 s or 3 s.
const SYNS: usize = 3;
/// Datagrams of other protocols than QUIC and mDNS that wait for a direct socket; more are dropped.
const MAX_DATAGRAMS: usize = 64;
/// How many unread bytes a connection may hold before the other peer is authenticated on it: before that a peer sends
/// no more than a greeting.
const UNPROVEN_WINDOW: usize = 64 << 10;
/// The WebSocket path at a relay.
const PATH: &str = "/";

/// The relay to connect to, except for its address.
#[derive(Debug, Clone, Copy)]
pub struct RelayTarget<'a> {
    /// The name that the certificate must have.
    pub host: &'a str,
    /// The relay's port.
    pub port: u16,
    /// Which certificate is accepted.
    pub trust: &'a Trust,
    /// The proxy through which the connection is made.
    pub proxy: Option<&'a Proxy>,
    /// The first request may be sent as 0-RTT data, which an attacker can replay: see [`Quic::reconnect`].
    pub early: bool,
}

/// The other peer itself, at one of its addresses.
#[derive(Debug, Clone, Copy)]
pub struct DirectTarget {
    /// The transport.
    pub transport: CandidateTransport,
    /// The address.
    pub to: SocketAddr,
    /// SHA-256 of the certificate that the peer must present.
    pub certificate: [u8; 32],
    /// The mark in the peer's token.
    pub mark: [u8; MARK],
}

/// The result of starting a connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// The attempt runs.
    Started(ConnectionId),
    /// The socket is not bound yet: try again later.
    NotYet,
    /// This address can't be reached from this machine.
    Impossible,
}

/// The purpose of a name lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// The address of a relay, or of the proxy in front of it: its index in the list.
    Relay(usize),
    /// The address of a STUN server that the user configured.
    StunServer,
}

/// The state of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Binding,
    Open,
    Unusable,
}

/// A datagram of another protocol than QUIC.
struct Datagram {
    socket: SocketId,
    to: SocketAddr,
    data: Vec<u8>,
    /// It is charged to the budget: the other peer chose its destination.
    counted: bool,
}

/// The sockets and connections of a peer.
pub struct Network {
    sockets: BTreeMap<SocketId, Socket>,
    connections: Connections,
    dialler: Dialler,
    actions: VecDeque<Action>,
    /// The lookups that were started; a [`QueryId`] is an index into them.
    queries: Vec<Query>,
    /// TCP connections whose stream was finished; this list makes up for the acknowledgement that TCP does not
    /// report.
    finished: VecDeque<TcpId>,
    datagrams: VecDeque<Datagram>,
    budget: Budget,
    /// Direct connections on which the other peer is authenticated.
    proven: Vec<ConnectionId>,
    /// The machine at the other end of each plain TCP connection.
    neighbours: BTreeMap<TcpId, IpAddr>,
    /// Buffers for long records that arrive in TCP connections.
    buffers: Arc<Pool>,
    unix_time: Duration,
    /// The sockets may be shared.
    slot: Option<Slot>,
    seed: Seed,
}

impl Network {
    /// A network without sockets.
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
            slot: None,
            seed,
        }
    }

    /// Its sockets may be shared with other nodes, except that of the embedded relay.
    #[must_use]
    pub fn with_slot(self, slot: Option<Slot>) -> Self {
        Self { slot, ..self }
    }

    /// The slot of this node, if its sockets may be shared.
    #[must_use]
    pub const fn slot(&self) -> Option<Slot> {
        self.slot
    }

    /// The pool of buffers for long records; a buffer returns to it when its record was opened.
    #[must_use]
    pub fn buffers(&self) -> Arc<Pool> {
        Arc::clone(&self.buffers)
    }

    /// Requests the client sockets, one for each address family.
    pub fn open_clients(&mut self) {
        for (socket, ip) in
            [(CLIENT_V4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (CLIENT_V6, IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
        {
            self.bind(socket, SocketAddr::new(ip, 0));
        }
    }

    /// Requests one socket, which may be shared.
    pub fn bind(&mut self, socket: SocketId, addr: SocketAddr) {
        self.bind_with(socket, addr, self.slot);
    }

    /// Asks for one socket whose port belongs to this node alone.
    pub fn bind_own(&mut self, socket: SocketId, addr: SocketAddr) {
        self.bind_with(socket, addr, None);
    }

    fn bind_with(&mut self, socket: SocketId, addr: SocketAddr, slot: Option<Slot>) {
        self.sockets.insert(socket, Socket::Binding);
        // All other sockets exist once for each address family, and both may have to use the same port.
        let dual_stack = socket == LISTENER;
        self.actions.push_back(Action::Bind(socket, Bind { addr, dual_stack, share_port: false, group: None, slot }));
    }

    /// Requests the multicast DNS socket, whose port other programs use too.
    pub fn bind_mdns(&mut self) {
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), mdns::PORT);
        let (group, slot) = (Some(mdns::GROUP.ip()), self.slot);
        self.actions.push_back(Action::Bind(MDNS, Bind { addr, dual_stack: false, share_port: true, group, slot }));
    }

    /// A client socket was bound, or can't be.
    pub fn handle_client_bound(&mut self, socket: SocketId, usable: bool) {
        let state = if usable {
            let seed = self.seed.derive(if socket == CLIENT_V4 { "client v4" } else { "client v6" });
            self.connections.open(
                socket,
                Quic::client(&narrow(Profile { slot: self.slot, ..Profile::peer() }), self.unix_time, &seed),
            );
            Socket::Open
        } else {
            Socket::Unusable
        };
        self.sockets.insert(socket, state);
    }

    /// Creates the listener's endpoint with this certificate. Returns false if the certificate can't be used.
    pub fn open_listener(&mut self, identity: &Identity, seed: &Seed) -> bool {
        let quic = Quic::server(&narrow(Profile::peer()), identity, Limits::default(), self.unix_time, seed);
        let Ok(quic) = quic else { return false };
        self.sockets.insert(LISTENER, Socket::Open);
        self.connections.open(LISTENER, quic);
        true
    }

    /// Whether a client socket is still being bound.
    #[must_use]
    pub fn is_binding(&self) -> bool {
        [CLIENT_V4, CLIENT_V6].iter().any(|socket| matches!(self.sockets.get(socket), Some(Socket::Binding)))
    }

    /// Whether all client sockets failed to bind.
    #[must_use]
    pub fn is_unusable(&self) -> bool {
        [CLIENT_V4, CLIENT_V6].iter().all(|socket| matches!(self.sockets.get(socket), Some(Socket::Unusable)))
    }

    /// Creates the endpoint of a bound direct socket with this certificate. Returns false if the certificate can't be
    /// used.
    pub fn open_direct(&mut self, socket: SocketId, identity: &Identity) -> bool {
        let seed = self.seed.derive(if socket == DIRECT_V4 { "direct v4" } else { "direct v6" });
        let limits = Limits { incoming: 8, ..Limits::default() };
        let profile = Profile { slot: self.slot, ..Profile::direct() };
        let quic = Quic::server(&narrow(profile), identity, limits, self.unix_time, &seed);
        let Ok(quic) = quic else { return false };
        self.sockets.insert(socket, Socket::Open);
        self.connections.open(socket, quic);
        true
    }

    /// Requests a listener for peers in the same network.
    pub fn listen_direct(&mut self, addr: SocketAddr) {
        self.actions.push_back(Action::Listen(DIRECT_TCP, Listen { backlog: 8, ..Listen::from(addr) }));
    }

    /// Starts an attempt to connect directly to the other peer.
    pub fn dial_direct(&mut self, now: Instant, target: &DirectTarget) -> Dial {
        let DirectTarget { transport, to, certificate, mark } = *target;
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
                match quic.connect_marked(now, to, Fingerprint(certificate), mark) {
                    Ok(id) => Dial::Started(ConnectionId::Quic(socket, id)),
                    Err(_) => Dial::Impossible,
                }
            }
        }
    }

    /// Takes the next incoming connection, which may be the other peer's. `wanted` decides by its source address; a
    /// connection that is not wanted gets no answer.
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

    /// Accepts an incoming TCP connection, which may be the other peer's.
    pub fn accept_direct(&mut self, now: Instant, from: SocketAddr) -> TcpId {
        let tcp = self.connections.tcp_links.accept(TcpLink::plain(now, UNPROVEN_TCP));
        self.neighbours.insert(tcp, canonical(from).ip());
        tcp
    }

    /// The other peer is authenticated on this connection: datagrams to its address are no longer charged to the
    /// budget, and memory for its records is allocated as soon as they begin.
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

    /// This connection leads to the other peer: raises the limit of unread bytes to what a transfer needs.
    pub fn widen(&mut self, conn: ConnectionId) {
        if let ConnectionId::Quic(socket, id) = conn
            && let Some(quic) = self.quic(socket)
        {
            quic.set_receive_window(id, Profile::peer().receive_window);
        }
    }

    /// How many bytes of the first incomplete record have arrived.
    #[must_use]
    pub fn assembling(&self, conn: ConnectionId) -> usize {
        match conn {
            ConnectionId::Quic(..) => 0,
            ConnectionId::Tcp(tcp) => self.connections.tcp_links.assembling(tcp),
        }
    }

    /// Sends a datagram. `counted`: charge it to the budget, because the other peer chose the address.
    pub fn send_datagram(&mut self, socket: SocketId, to: SocketAddr, data: Vec<u8>, counted: bool) {
        if self.datagrams.len() < MAX_DATAGRAMS {
            self.datagrams.push_back(Datagram { socket, to, data, counted });
        }
    }

    /// Releases a socket and closes all connections on it.
    pub fn release(&mut self, socket: SocketId) {
        self.connections.release(socket);
        if self.sockets.remove(&socket).is_some() {
            self.actions.push_back(Action::Release(socket));
        }
    }

    /// Starts an attempt to connect to a relay.
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

    /// Reads received bytes of a stream, at most one packet's worth.
    pub fn read(&mut self, conn: ConnectionId, stream: Stream) -> Read {
        self.connections.read(conn, stream, usize::MAX)
    }

    /// Writes as much as there is room for; `data` keeps the rest.
    pub fn write(&mut self, now: Instant, conn: ConnectionId, stream: Stream, data: &mut Bytes) -> Write {
        self.connections.write(now, conn, stream, data)
    }

    /// Ends a stream after the bytes that were written. TCP does not report the acknowledgement, so for TCP the
    /// stream counts as acknowledged at once.
    pub fn finish(&mut self, now: Instant, conn: ConnectionId, stream: Stream) {
        self.connections.finish(now, conn, stream, 0, "");
        if let ConnectionId::Tcp(tcp) = conn {
            self.finished.push_back(tcp);
        }
    }

    /// Opens the first stream of a connection that this side started.
    pub fn open_first(&mut self, conn: ConnectionId) -> Option<Stream> {
        self.connections.open_first(conn)
    }

    /// Opens another stream, if the connection can have more than one.
    pub fn open_uni(&mut self, conn: ConnectionId) -> Option<Stream> {
        self.connections.open_uni(conn)
    }

    /// Round-trip time to the next hop, if it is known.
    #[must_use]
    pub fn rtt(&mut self, conn: ConnectionId) -> Option<Duration> {
        self.connections.rtt(conn)
    }

    /// When something was last received on a connection, even before it is connected; `None` if that is not known.
    #[must_use]
    pub fn last_received(&mut self, conn: ConnectionId) -> Option<Instant> {
        self.connections.last_received(conn)
    }

    /// This machine's addresses changed, or it was suspended.
    pub fn handle_moved(&mut self) {
        self.connections.endpoints_mut().for_each(Quic::handle_moved);
    }

    /// How many bytes arrived on a connection, if that is counted.
    #[must_use]
    pub fn received(&mut self, conn: ConnectionId) -> Option<u64> {
        self.connections.received(conn)
    }

    /// Closes a connection. Finished streams are still sent; other data in flight may be lost.
    pub fn close(&mut self, now: Instant, conn: ConnectionId, code: u32, reason: &'static str) {
        self.proven.retain(|&proven| proven != conn);
        if let ConnectionId::Tcp(tcp) = conn {
            self.neighbours.remove(&tcp);
        }
        self.connections.close(now, conn, code, reason);
    }

    /// Whether an authenticated direct link leads to this address: from the same socket, or to the same machine.
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

    /// An event of a TCP connection.
    pub fn handle_tcp(&mut self, now: Instant, tcp: TcpId, event: TcpEvent) {
        self.connections.handle_tcp(now, tcp, event);
    }

    /// The next TCP connection that has to be served.
    pub fn poll_tcp(&mut self) -> Option<TcpId> {
        self.connections.poll_tcp()
    }

    /// The buffer for the next bytes that a TCP connection receives.
    pub fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        self.connections.pipe_buffer(tcp)
    }

    /// The bytes that wait to be written to a TCP connection.
    pub fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        self.connections.pipe_output(tcp, slices)
    }

    /// A received datagram.
    pub fn handle_datagram(&mut self, now: Instant, arrival: &Arrival, data: BytesMut) {
        self.connections.handle_datagram(now, arrival, data);
    }

    /// Runs the timers of all connections that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.connections.endpoints_mut().for_each(|quic| quic.handle_timeout(now));
        self.connections.tcp_links.handle_timeout(now);
    }

    /// Advances the endpoints.
    pub fn settle(&mut self, now: Instant) {
        self.connections.settle(now);
    }

    /// The next event of any connection that concerns a peer. Events about free streams are left out because peers
    /// open streams on demand, and events about stopped streams because no peer stops one.
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

    /// Whether datagrams wait to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.connections.is_flushed()
    }

    /// The next batch of datagrams for this socket.
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

    /// The next action for the runtime.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front().or_else(|| self.connections.tcp_links.poll_action())
    }

    /// Starts the lookup of a name.
    pub fn resolve(&mut self, query: Query, host: &str, port: u16) {
        let id = QueryId(u32::try_from(self.queries.len()).unwrap_or(u32::MAX));
        self.queries.push(query);
        self.act(Action::Resolve(id, host.to_owned(), port));
    }

    /// The purpose of a lookup.
    #[must_use]
    pub fn query(&self, id: QueryId) -> Option<Query> {
        self.queries.get(usize::try_from(id.0).ok()?).copied()
    }

    /// Queues an action for the runtime.
    pub fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }
}

/// The profile of a connection before the other peer is authenticated on it: with a small window.
const fn narrow(profile: Profile) -> Profile {
    Profile { receive_window: UNPROVEN_WINDOW as u64, ..profile }
}

/// The windows of a plain TCP connection before the other peer is authenticated on it.
const UNPROVEN_TCP: Windows = Windows { receive: UNPROVEN_WINDOW, ..Windows::direct() };

/// The direct socket for this address family.
#[must_use]
pub const fn direct_socket(family: Family) -> SocketId {
    match family {
        Family::V4 => DIRECT_V4,
        Family::V6 => DIRECT_V6,
    }
}
