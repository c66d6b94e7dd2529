//! A peer's sockets: which there are, whether they are bound, and the QUIC endpoint that lives on each.
//!
//! Decides nothing about the transfer. A socket that could not be bound stays `Unusable`: its address family is not there.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::BytesMut;

use crate::Instant;
use crate::discovery::mdns;
use crate::link::quic::{self, ConnId, Profile, Quic, Stream};
use crate::link::trust::Trust;
use crate::node::{Action, Arrival, Bind, SocketId, Transmit};
use crate::seed::Seed;

/// Towards relays over IPv4.
pub const CLIENT_V4: SocketId = SocketId(0);
/// Towards relays over IPv6.
pub const CLIENT_V6: SocketId = SocketId(1);
/// The relay inside a sender listens here.
pub const LISTENER: SocketId = SocketId(2);
/// Multicast DNS over IPv4.
pub const MDNS: SocketId = SocketId(3);

/// One QUIC connection of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conn {
    /// The socket it runs on.
    pub socket: SocketId,
    /// Its name there.
    pub id: ConnId,
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

/// See the module's text.
pub struct Net {
    sockets: BTreeMap<SocketId, Socket>,
    actions: VecDeque<Action>,
    unix_time: Duration,
    seed: Seed,
}

impl Net {
    /// No sockets.
    #[must_use]
    pub const fn new(unix_time: Duration, seed: Seed) -> Self {
        Self { sockets: BTreeMap::new(), actions: VecDeque::new(), unix_time, seed }
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
        self.actions.push_back(Action::Bind(socket, Bind { addr, share_port: false, group: None }));
    }

    /// Asks for the socket of multicast DNS, which other programs use too.
    pub fn bind_mdns(&mut self) {
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), mdns::PORT);
        let group = Some(mdns::GROUP.ip());
        self.actions.push_back(Action::Bind(MDNS, Bind { addr, share_port: true, group }));
    }

    /// A client's socket was bound, or can't be.
    pub fn handle_client_bound(&mut self, socket: SocketId, usable: bool) {
        let state = if usable {
            let seed = self.seed.derive(if socket == CLIENT_V4 { "client v4" } else { "client v6" });
            Socket::Open(Box::new(Quic::client(&Profile::peer(), self.unix_time, &seed)))
        } else {
            Socket::Unusable
        };
        self.sockets.insert(socket, state);
    }

    /// The listener's endpoint.
    pub fn open_listener(&mut self, quic: Quic) {
        self.sockets.insert(LISTENER, Socket::Open(Box::new(quic)));
    }

    /// Whether a client's socket may still come.
    #[must_use]
    pub fn is_binding(&self) -> bool {
        self.sockets.values().any(|socket| matches!(socket, Socket::Binding))
    }

    /// Whether no client's socket could be bound.
    #[must_use]
    pub fn is_unusable(&self) -> bool {
        !self.sockets.is_empty() && self.sockets.values().all(|socket| matches!(socket, Socket::Unusable))
    }

    /// Connects to a relay.
    pub fn dial(&mut self, now: Instant, to: SocketAddr, name: &str, trust: &Trust) -> Dial {
        let socket = if to.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 };
        match self.sockets.get_mut(&socket) {
            Some(Socket::Binding) => Dial::NotYet,
            Some(Socket::Open(quic)) => match quic.connect(now, to, name, trust) {
                Ok(id) => Dial::Started(Conn { socket, id }),
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
    pub fn read(&mut self, conn: Conn, stream: Stream) -> quic::Read {
        self.quic(conn.socket).map_or(quic::Read::Gone, |quic| quic.read(conn.id, stream, usize::MAX))
    }

    /// Closes a connection.
    pub fn close(&mut self, now: Instant, conn: Conn, code: u32, reason: &'static str) {
        if let Some(quic) = self.quic(conn.socket) {
            quic.close(now, conn.id, code, reason);
        }
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
    }

    /// Moves everything inside the endpoints.
    pub fn settle(&mut self, now: Instant) {
        self.open().for_each(|(_, quic)| quic.settle(now));
    }

    /// The next event of any connection.
    pub fn poll_event(&mut self) -> Option<(Conn, quic::Event)> {
        self.open().find_map(|(socket, quic)| quic.poll_event().map(|(id, event)| (Conn { socket, id }, event)))
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
            .min()
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.sockets.values().any(|socket| match socket {
            Socket::Open(quic) => !quic.is_flushed(),
            Socket::Binding | Socket::Unusable => false,
        })
    }

    /// The next batch for this socket.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.quic(socket)?.poll_transmit(now, max_segments, buf)
    }

    /// The next thing to ask of the runtime.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
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
