//! The listen addresses: at each one a UDP socket and, at the same port, a TCP listener.
//!
//! ```text
//! binding ──Bound──► joining ──Listening──► open
//!    │  ▲               │
//!    │  └─ other port ──┤  (the system chose one of which TCP is taken)
//!    └──────────────────┴──► failed: neither is open
//! ```
//! The relay requests the TCP listener once the UDP port is known. If one of the two fails, the other one is closed as
//! well, because clients rely on the same port. Bound: [`PORTS`] attempts with ports that the system chose.

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

/// How many ports are tried when the system chooses the port.
const PORTS: u8 = 8;

/// One listen address.
pub(super) struct Listener {
    addr: SocketAddr,
    tcp: Tcp,
    acceptor: Acceptor,
    /// How many more ports the system may choose.
    tries: u8,
    state: Opening,
    pub(super) answers: StunResponder,
}

#[derive(Clone, Copy)]
enum Opening {
    /// The UDP bind was requested.
    Binding,
    /// UDP is bound; the TCP listener was requested.
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
        Action::Bind(socket, Bind { addr: self.addr, dual_stack: true, share_port: false, group: None, slot: None })
    }

    pub(super) const fn has_failed(&self) -> bool {
        match self.state {
            Opening::Binding | Opening::Joining(_) | Opening::Open => false,
            Opening::Failed => true,
        }
    }

    /// Stops listening for TCP connections.
    pub(super) const fn shut(&self, id: u8) -> Option<Action> {
        match self.state {
            Opening::Binding | Opening::Joining(_) | Opening::Failed => None,
            Opening::Open => Some(Action::Unlisten(ListenerId(id))),
        }
    }
}

impl Relay {
    /// The result of a bind.
    pub(super) fn bound(&mut self, id: SocketId, result: Result<SocketAddr, io::ErrorKind>) {
        let Some(listener) = self.listeners.get_mut(usize::from(id.0)) else { return };
        match result {
            Ok(addr) => {
                listener.state = Opening::Joining(addr);
                let Tcp { backlog, options, .. } = listener.tcp;
                let listen = Listen { backlog, options, ..Listen::from(addr) };
                self.actions.push_back(Action::Listen(ListenerId(id.0), listen));
            }
            Err(kind) => {
                let any = listener.addr.is_ipv6() && listener.addr.ip().is_unspecified();
                if any && !matches!(kind, io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) {
                    // The system has no IPv6: bind the same port on IPv4.
                    listener.addr.set_ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                    self.actions.push_back(listener.bind(id));
                    return;
                }
                listener.state = Opening::Failed;
                let addr = listener.addr;
                self.emit(Event::CannotListen { addr, transport: Transport::Udp, kind });
            }
        }
    }

    /// The result of a listen.
    pub(super) fn listening(&mut self, id: ListenerId, result: Result<SocketAddr, io::ErrorKind>) {
        let Some(listener) = self.listeners.get_mut(usize::from(id.0)) else { return };
        let Opening::Joining(addr) = listener.state else { return };
        match result {
            Ok(_) => {
                listener.state = Opening::Open;
                if matches!(self.phase, Phase::Draining) {
                    self.actions.extend(listener.shut(id.0));
                }
                self.emit(Event::Listening { addr });
            }
            Err(kind) => {
                self.actions.push_back(Action::Release(SocketId(id.0)));
                listener.tries = listener.tries.saturating_sub(1);
                if kind == io::ErrorKind::AddrInUse && listener.addr.port() == 0 && listener.tries > 0 {
                    listener.state = Opening::Binding;
                    self.actions.push_back(listener.bind(SocketId(id.0)));
                    return;
                }
                listener.state = Opening::Failed;
                self.emit(Event::CannotListen { addr, transport: Transport::Tcp, kind });
            }
        }
    }

    /// Handles new QUIC connection attempts at a socket.
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

    /// Handles a new TCP connection. A refused connection costs only this call.
    pub(super) fn handle_tcp_accept(&mut self, now: Instant, listener: ListenerId, from: SocketAddr) -> Option<TcpId> {
        let observed = SocketAddr::new(from.ip().to_canonical(), from.port());
        let listener = self.listeners.get(usize::from(listener.0))?;
        // Connections that are closing use memory too.
        let full = self.ports.connections.tcp_links.len() >= self.guard.max_connections();
        let refused = match self.phase {
            Phase::Draining => Refused::ShuttingDown,
            Phase::Serving if full => Refused::Full,
            Phase::Serving => match self.guard.accept(now, Source::of(observed)) {
                admission @ (Admission::Accept | Admission::InPlaceOf(_)) => {
                    let tcp = self.ports.connections.tcp_links.accept(listener.acceptor.accept(now));
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

    /// Closes the half-open connection that a new one replaces: the oldest of all, or of one network. Within a network
    /// a connection that has sent nothing is closed first.
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
            self.abort(now, oldest, Farewell { code: close::REFUSED, text: "too many connections" });
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
