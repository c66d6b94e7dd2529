//! A host: its addresses, a node, its sockets and TCP connections, and whether it is running.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tallow_proto::net::{Action, Arrival, Interface, ListenerId, SocketId, TcpEvent, TcpId, TcpOptions, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::peer::{self, Peer};
use tallow_proto::room;
use tallow_proto::transfer::job::Job;

use super::tcp::EndId;
use super::topology::{Attachment, Segment};

/// The id of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// The node of a host.
pub enum Machine {
    /// A sender or a receiver.
    Peer(Box<Peer>),
    /// A relay.
    Relay(Box<room::Relay>),
    /// Another node: a malicious relay or peer.
    Other(Box<dyn Node<Command = Infallible, Event = Observed>>),
    /// No node: the host crashed.
    Down,
}

/// An event of a node, with its time.
#[derive(Debug)]
pub enum Observed {
    /// An event of a peer.
    Peer(peer::Event),
    /// An event of a relay.
    Relay(room::Event),
    /// An event of another node.
    Text(String),
}

impl From<tallow_proto::misuse::Misuse> for Observed {
    fn from(misuse: tallow_proto::misuse::Misuse) -> Self {
        Self::Text(misuse.to_string())
    }
}

/// The reason for which a host is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freeze {
    /// The machine is suspended: its clock stops, and its system answers no packets.
    Asleep,
    /// The process is stopped: its clock continues, and its system queues packets as long as there is room.
    Stopped,
}

/// A host.
pub struct Host {
    /// The first attachment of each family has the default route.
    pub(super) attachments: Vec<Attachment>,
    pub(super) machine: Machine,
    /// As bound: unspecified addresses stay so.
    pub(super) sockets: BTreeMap<SocketId, SocketAddr>,
    /// Of those, the ones that leave IPv4 to others.
    pub(super) only_v6: BTreeSet<SocketId>,
    pub(super) listeners: BTreeMap<ListenerId, (SocketAddr, TcpOptions)>,
    pub(super) tcp_connections: BTreeMap<TcpId, EndId>,
    /// TCP connections with changes to process.
    pub(super) touched: BTreeSet<TcpId>,
    pub(super) next_port: u16,
    /// The events of its node.
    pub(super) said: Vec<Observed>,
    pub(super) terminal: bool,
    pub(super) closed_at: Option<Instant>,
    /// Counts crashes, so that events of an earlier process do not reach a later one.
    pub(super) life: u32,
    /// Whether the machine answers, even if only with a reset.
    pub(super) has_power: bool,
    /// Its kind, start and end.
    pub(super) frozen: Option<(Freeze, Instant, Instant)>,
    /// Datagrams that wait for a stopped process.
    pub(super) waiting: usize,
    /// The total time for which its clock was stopped.
    pub(super) slept: Duration,
}

impl Host {
    pub(super) const fn new(attachments: Vec<Attachment>, machine: Machine) -> Self {
        Self {
            attachments,
            machine,
            sockets: BTreeMap::new(),
            only_v6: BTreeSet::new(),
            listeners: BTreeMap::new(),
            tcp_connections: BTreeMap::new(),
            touched: BTreeSet::new(),
            next_port: 40_000,
            said: Vec::new(),
            terminal: false,
            closed_at: None,
            life: 0,
            has_power: true,
            frozen: None,
            waiting: 0,
            slept: Duration::ZERO,
        }
    }

    /// Whether its system answers packets.
    pub(super) const fn answers(&self) -> bool {
        self.has_power && !matches!(self.frozen, Some((Freeze::Asleep, ..)))
    }

    pub(super) fn interfaces(&self) -> Input {
        let mut segments: Vec<Segment> = Vec::new();
        let mut interfaces = Vec::new();
        for at in &self.attachments {
            let number = segments.iter().position(|&known| known == at.segment).unwrap_or_else(|| {
                segments.push(at.segment);
                segments.len() - 1
            });
            interfaces.push(Interface { name: format!("eth{number}"), addr: at.addr, prefix: at.prefix });
        }
        let loopback = Interface { name: "lo".to_owned(), addr: Ipv4Addr::LOCALHOST.into(), prefix: 8 };
        interfaces.push(loopback);
        Input::Interfaces(interfaces)
    }

    /// The attachment that has this address.
    pub(super) fn attached(&self, addr: IpAddr) -> Option<Attachment> {
        self.attachments.iter().copied().find(|at| at.addr == addr)
    }

    /// The source of a packet to `to` from a socket bound to `bound`, which may be unspecified.
    pub(super) fn source(&self, bound: IpAddr, to: IpAddr) -> Option<Attachment> {
        if !bound.is_unspecified() {
            return self.attached(bound);
        }
        let family = || self.attachments.iter().filter(|at| at.addr.is_ipv4() == to.is_ipv4());
        family().find(|at| at.is_near(to)).or_else(|| family().next()).copied()
    }

    /// The result of binding a socket to `wanted`; a wildcard needs an address of its family.
    pub(super) fn bind(
        &mut self,
        wanted: SocketAddr,
        taken: impl Fn(&Self, SocketAddr) -> bool,
    ) -> Result<SocketAddr, ErrorKind> {
        let ip = wanted.ip();
        if !self.attachments.iter().any(|at| at.addr.is_ipv4() == ip.is_ipv4()) {
            return Err(ErrorKind::Unsupported);
        }
        if !ip.is_unspecified() && !ip.is_loopback() && self.attached(ip).is_none() {
            return Err(ErrorKind::AddrNotAvailable);
        }
        let addr = SocketAddr::new(ip, self.port(wanted.port()));
        if taken(self, addr) { Err(ErrorKind::AddrInUse) } else { Ok(addr) }
    }

    /// The socket that receives packets for this address, and whether it is a dual-stack socket of the other family.
    pub(super) fn socket_for(&self, to: SocketAddr) -> Option<(SocketId, bool)> {
        let at = |wanted: SocketAddr| self.sockets.iter().find(|&(_, &addr)| addr == wanted).map(|(&socket, _)| socket);
        let any = |ip: IpAddr| SocketAddr::new(ip, to.port());
        let v6 = Ipv6Addr::UNSPECIFIED.into();
        let own = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { v6 };
        at(to)
            .or_else(|| at(any(own)))
            .map(|socket| (socket, false))
            .or_else(|| at(any(v6)).filter(|socket| !self.only_v6.contains(socket)).map(|socket| (socket, true)))
    }

    /// Of each family the first address of the network of the default route, as most are.
    pub(super) fn gateways(&self) -> Input {
        let of = |v4: bool| self.attachments.iter().find(|at| at.addr.is_ipv4() == v4);
        let first = |at: &Attachment| match at.addr {
            IpAddr::V4(ip) => IpAddr::from((u32::from(ip) >> (32 - at.prefix) << (32 - at.prefix) | 1).to_be_bytes()),
            IpAddr::V6(ip) => {
                IpAddr::from((u128::from(ip) >> (128 - at.prefix) << (128 - at.prefix) | 1).to_be_bytes())
            }
        };
        Input::Gateways([of(true), of(false)].into_iter().flatten().map(first).collect())
    }

    /// A free port.
    pub(super) fn port(&mut self, wanted: u16) -> u16 {
        if wanted != 0 {
            return wanted;
        }
        self.next_port += 1;
        self.next_port - 1
    }

    /// The node's deadline in the world's time, unless it is frozen.
    pub(super) fn due(&self) -> Option<Instant> {
        self.timeout().filter(|_| self.frozen.is_none()).map(|(at, _)| at + self.slept)
    }

    pub(super) fn timeout(&self) -> Option<(Instant, &'static str)> {
        match &self.machine {
            Machine::Peer(peer) => peer.poll_timeout(),
            Machine::Relay(relay) => relay.poll_timeout(),
            Machine::Other(node) => node.poll_timeout(),
            Machine::Down => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.closed_at.is_none() && matches!(self.machine, Machine::Peer(_))
    }

    pub(super) fn is_node_closed(&self) -> bool {
        match &self.machine {
            Machine::Peer(peer) => peer.is_closed(),
            Machine::Relay(relay) => relay.is_closed(),
            Machine::Other(node) => node.is_closed(),
            Machine::Down => true,
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Observed> {
        match &mut self.machine {
            Machine::Peer(peer) => peer.poll_event().map(Observed::Peer),
            Machine::Relay(relay) => relay.poll_event().map(Observed::Relay),
            Machine::Other(node) => node.poll_event(),
            Machine::Down => None,
        }
    }

    /// Calls the node through the methods that do not depend on its command and event types, with the clock of the
    /// host.
    pub(super) fn with<T>(&mut self, now: Instant, call: impl FnOnce(&mut dyn Drive, Instant) -> T) -> Option<T> {
        let now = now - self.slept;
        Some(match &mut self.machine {
            Machine::Peer(peer) => call(peer.as_mut(), now),
            Machine::Relay(relay) => call(relay.as_mut(), now),
            Machine::Other(node) => call(node, now),
            Machine::Down => return None,
        })
    }
}

/// The methods of [`Node`] that do not depend on its command and event types.
pub(super) trait Drive {
    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut);
    fn handle_tcp(&mut self, now: Instant, tcp: TcpId, event: TcpEvent);
    fn handle_accept(&mut self, now: Instant, listener: ListenerId, from: SocketAddr) -> Option<TcpId>;
    fn handle_input(&mut self, now: Instant, input: Input);
    fn handle_timeout(&mut self, now: Instant);
    fn settle(&mut self, now: Instant);
    fn poll_action(&mut self) -> Option<Action>;
    fn poll_transmit(
        &mut self,
        now: Instant,
        socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit>;
    fn poll_tcp(&mut self) -> Option<TcpId>;
    fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8];
    fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize;
    fn poll_job(&mut self) -> Option<Job>;
}

/// The stars lead from `self` to the node.
macro_rules! drive {
    ($node:ty, $($star:tt)*) => {
        impl Drive for $node {
            fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
                Node::handle_datagram(&mut $($star)* self, now, arrival, data);
            }
            fn handle_tcp(&mut self, now: Instant, tcp: TcpId, event: TcpEvent) {
                Node::handle_tcp(&mut $($star)* self, now, tcp, event);
            }
            fn handle_accept(&mut self, now: Instant, listener: ListenerId, from: SocketAddr) -> Option<TcpId> {
                Node::handle_accept(&mut $($star)* self, now, listener, from)
            }
            fn handle_input(&mut self, now: Instant, input: Input) {
                Node::handle_input(&mut $($star)* self, now, input);
            }
            fn handle_timeout(&mut self, now: Instant) {
                Node::handle_timeout(&mut $($star)* self, now);
            }
            fn settle(&mut self, now: Instant) {
                Node::settle(&mut $($star)* self, now);
            }
            fn poll_action(&mut self) -> Option<Action> {
                Node::poll_action(&mut $($star)* self)
            }
            fn poll_transmit(
                &mut self,
                now: Instant,
                socket: SocketId,
                max_segments: NonZeroUsize,
                buf: &mut Vec<u8>,
            ) -> Option<Transmit> {
                Node::poll_transmit(&mut $($star)* self, now, socket, max_segments, buf)
            }
            fn poll_tcp(&mut self) -> Option<TcpId> {
                Node::poll_tcp(&mut $($star)* self)
            }
            fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
                Node::pipe_buffer(&mut $($star)* self, tcp)
            }
            fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
                Node::pipe_output(& $($star)* self, tcp, slices)
            }
            fn poll_job(&mut self) -> Option<Job> {
                Node::poll_job(&mut $($star)* self)
            }
        }
    };
}

drive!(Peer, *);
drive!(room::Relay, *);
drive!(Box<dyn Node<Command = Infallible, Event = Observed>>, **);
