//! Where clients come in: at each address a UDP socket and, at the same port, a TCP listener.
//!
//! ```text
//! binding ──Bound──► joining ──Listening──► open
//!    │  ▲               │
//!    │  └─ other port ──┤  (the system chose one of which TCP is taken)
//!    └──────────────────┴──► failed: neither is open
//! ```
//! The TCP listener is asked for once the UDP port is known. Half an address is not kept: clients count on the same
//! port. Bound: [`PORTS`] ports that the system chose.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::super::limits::{Admission, Source};
use super::super::pending::PendingClient;
use super::super::status::{Event, Refused, Tcp, Transport};
use super::super::stun_responder::StunResponder;
use super::{GREETING_WINDOW, Held, Leg, Phase, Proof, Relay, State, Timer};
use crate::Instant;
use crate::link::connections::ConnectionId;
use crate::link::quic::{BadIdentity, Incoming};
use crate::link::tcp::{Acceptor, BareWebSocket, Windows};
use crate::link::trust::Identity;
use crate::net::{Action, Bind, Listen, ListenerId, SocketId, TcpId};
use crate::room::farewell::Farewell;
use crate::wire::close;

/// How many ports are tried when the system chooses.
const PORTS: u8 = 8;

/// One address.
pub(super) struct Listener {
    addr: SocketAddr,
    tcp: Tcp,
    acceptor: Acceptor,
    /// Ports that the system may still choose.
    tries: u8,
    state: Opening,
    pub(super) answers: StunResponder,
}

#[derive(Clone, Copy)]
enum Opening {
    /// UDP is asked for.
    Binding,
    /// UDP is there, TCP is asked for.
    Joining(SocketAddr),
    Open,
    Failed,
}

impl Listener {
    pub(super) fn new(addr: SocketAddr, tcp: Tcp, identity: &Identity) -> Result<Self, BadIdentity> {
        let bare =
            if tcp.behind_proxy || addr.ip().is_loopback() { BareWebSocket::Allowed } else { BareWebSocket::Refused };
        let windows = Windows { receive: usize::try_from(GREETING_WINDOW).unwrap_or(0), ..Windows::relay() };
        let acceptor = Acceptor::new(identity, bare, windows)?.with_browsers(tcp.browsers);
        Ok(Self { addr, tcp, acceptor, tries: PORTS, state: Opening::Binding, answers: StunResponder::default() })
    }

    pub(super) fn bind(&self, socket: SocketId) -> Action {
        Action::Bind(socket, Bind { addr: self.addr, dual_stack: true, share_port: false, group: None })
    }

    pub(super) const fn has_failed(&self) -> bool {
        match self.state {
            Opening::Binding | Opening::Joining(_) | Opening::Open => false,
            Opening::Failed => true,
        }
    }

    /// No TCP connections from now on.
    pub(super) const fn shut(&self, id: u8) -> Option<Action> {
        match self.state {
            Opening::Binding | Opening::Joining(_) | Opening::Failed => None,
            Opening::Open => Some(Action::Unlisten(ListenerId(id))),
        }
    }
}

impl Relay {
    /// The answer to a bind.
    pub(super) fn bound(&mut self, id: SocketId, result: Result<SocketAddr, io::ErrorKind>) {
        let Some(door) = self.doors.get_mut(usize::from(id.0)) else { return };
        match result {
            Ok(addr) => {
                door.state = Opening::Joining(addr);
                let Tcp { backlog, options, .. } = door.tcp;
                let listen = Listen { backlog, options, ..Listen::from(addr) };
                self.actions.push_back(Action::Listen(ListenerId(id.0), listen));
            }
            Err(kind) => {
                let any = door.addr.is_ipv6() && door.addr.ip().is_unspecified();
                if any && !matches!(kind, io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) {
                    // There is no IPv6 here: the same port on IPv4.
                    door.addr.set_ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                    self.actions.push_back(door.bind(id));
                    return;
                }
                door.state = Opening::Failed;
                let addr = door.addr;
                self.tell(Event::CannotListen { addr, transport: Transport::Udp, kind });
            }
        }
    }

    /// The answer to a listen.
    pub(super) fn listening(&mut self, id: ListenerId, result: Result<SocketAddr, io::ErrorKind>) {
        let Some(door) = self.doors.get_mut(usize::from(id.0)) else { return };
        let Opening::Joining(addr) = door.state else { return };
        match result {
            Ok(_) => {
                door.state = Opening::Open;
                if matches!(self.phase, Phase::Draining) {
                    self.actions.extend(door.shut(id.0));
                }
                self.tell(Event::Listening { addr });
            }
            Err(kind) => {
                self.actions.push_back(Action::Release(SocketId(id.0)));
                door.tries = door.tries.saturating_sub(1);
                if kind == io::ErrorKind::AddrInUse && door.addr.port() == 0 && door.tries > 0 {
                    door.state = Opening::Binding;
                    self.actions.push_back(door.bind(SocketId(id.0)));
                    return;
                }
                door.state = Opening::Failed;
                self.tell(Event::CannotListen { addr, transport: Transport::Tcp, kind });
            }
        }
    }

    /// Clients that attempt at a socket.
    pub(super) fn admit(&mut self, now: Instant, socket: SocketId) -> bool {
        let mut moved = false;
        while let Some(quic) = self.ports.connections.endpoint(socket)
            && let Some(incoming) = quic.poll_incoming()
        {
            moved = true;
            self.attempt(now, socket, incoming);
        }
        moved
    }

    fn attempt(&mut self, now: Instant, socket: SocketId, incoming: Incoming) {
        let (observed, proven) = (incoming.from(), incoming.validated());
        let source = Source::of(observed);
        let Some(quic) = self.ports.connections.endpoint(socket) else { return };
        if matches!(self.phase, Phase::Draining) {
            quic.refuse(incoming);
            return self.refused(Refused::ShuttingDown);
        }
        let admission = self.guard.attempt(now, source, proven);
        match admission {
            Admission::Accept | Admission::InPlaceOf(_) => match quic.accept(now, incoming) {
                Some(conn) => {
                    self.make_room(now, admission);
                    self.seat(now, ConnectionId::Quic(socket, conn), observed);
                }
                None => self.guard.disconnected(source, true),
            },
            Admission::Retry => quic.retry(incoming),
            Admission::TooMany => {
                quic.refuse(incoming);
                self.refused(Refused::TooManyConnections);
            }
            Admission::Full => {
                quic.refuse(incoming);
                self.refused(Refused::Full);
            }
        }
    }

    /// A TCP connection came in. Whoever is turned away costs nothing but this call.
    pub(super) fn take_in(&mut self, now: Instant, listener: ListenerId, from: SocketAddr) -> Option<TcpId> {
        let observed = SocketAddr::new(from.ip().to_canonical(), from.port());
        let door = self.doors.get(usize::from(listener.0))?;
        // Those that are on their way out have memory, too.
        let full = self.ports.connections.tcp_links.len() >= self.guard.max_connections();
        let refused = match self.phase {
            Phase::Draining => Refused::ShuttingDown,
            Phase::Serving if full => Refused::Full,
            Phase::Serving => match self.guard.accept(now, Source::of(observed)) {
                admission @ (Admission::Accept | Admission::InPlaceOf(_)) => {
                    let tcp = self.ports.connections.tcp_links.accept(door.acceptor.accept(now));
                    self.make_room(now, admission);
                    self.seat(now, ConnectionId::Tcp(tcp), observed);
                    return Some(tcp);
                }
                Admission::Retry | Admission::TooMany => Refused::TooManyConnections,
                Admission::Full => Refused::Full,
            },
        };
        self.refused(refused);
        None
    }

    /// Closes the half-open connection that gives way to a new one: the oldest, and of one network before that the
    /// oldest which has sent nothing.
    fn make_room(&mut self, now: Instant, admission: Admission) {
        let Admission::InPlaceOf(network) = admission else { return };
        let oldest = match network {
            Some(network) => {
                let silent = self.half_open.of(network).find(|&leg| self.ports.connections.is_silent(leg));
                silent.or_else(|| self.half_open.of(network).next())
            }
            None => self.half_open.oldest(),
        };
        if let Some(oldest) = oldest {
            self.refused(Refused::TooManyConnections);
            self.cut_off(now, oldest, Farewell { code: close::REFUSED, text: "too many connections" });
        }
    }

    fn seat(&mut self, now: Instant, id: ConnectionId, observed: SocketAddr) {
        let talk = PendingClient::new(now, observed, self.password.clone(), &self.seed.split());
        self.timers.set(Timer::Leg(id), talk.poll_timeout());
        let state = State::Talking { talk: Box::new(talk), room: None };
        self.half_open.begin(id, Source::of(observed));
        self.legs.insert(id, Leg { source: Source::of(observed), proof: Proof::Pending(Held::Nothing), state });
    }
}
