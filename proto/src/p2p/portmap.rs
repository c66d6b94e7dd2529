//! Connects `tallow_portmap` to [`crate::net`]: translates its actions into sockets and TCP connections of a node, and
//! events back.
//!
//! No decisions, no timers of its own.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tallow_portmap::{Config, ConnectionEvent, ConnectionId, PortMapper};
pub use tallow_portmap::{Event, Protocol, Transmit};

use crate::Instant;
use crate::net::{Action, Bind, Dial, Interface, SocketId, TcpEvent, TcpId, TcpOptions};
use crate::seed::Seed;

/// The socket for requests to gateways.
pub const SOCKET: SocketId = SocketId(6);
/// The lowest id of a TCP connection that leads to a gateway.
pub const FIRST_TCP: TcpId = TcpId(1 << 31);
/// The description of the mapping, which a gateway may display.
const DESCRIPTION: &str = "tallow";
/// The options of a TCP connection to a gateway, which is used for one request and closed after seconds.
const OPTIONS: TcpOptions = TcpOptions { no_delay: true, keep_alive: None, user_timeout: None };

/// A [`PortMapper`] whose socket is [`SOCKET`] and whose TCP connections have ids from [`FIRST_TCP`] up.
#[derive(Debug)]
pub struct PortMap {
    mapper: PortMapper,
    /// The second action of an orderly close.
    next_action: Option<Action>,
}

impl PortMap {
    /// A port mapper that tries all protocols.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        Self::with(seed, &Protocol::ALL)
    }

    /// A port mapper that tries only these protocols.
    #[must_use]
    pub fn with(seed: &Seed, protocols: &[Protocol]) -> Self {
        let config = Config::default().with_protocols(protocols).with_description(DESCRIPTION);
        Self { mapper: PortMapper::new(config, *seed.bytes()), next_action: None }
    }

    /// See [`PortMapper::start`].
    pub fn start(&mut self, now: Instant, internal_port: u16) {
        self.mapper.start(now, internal_port);
    }

    /// See [`PortMapper::handle_interfaces`].
    pub fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        let interfaces: Vec<_> = interfaces
            .iter()
            .map(|interface| tallow_portmap::Interface { addr: interface.addr, prefix: interface.prefix })
            .collect();
        self.mapper.handle_interfaces(now, &interfaces);
    }

    /// See [`PortMapper::handle_gateways`].
    pub fn handle_gateways(&mut self, now: Instant, gateways: &[IpAddr]) {
        self.mapper.handle_gateways(now, gateways);
    }

    /// Processes the result of binding [`SOCKET`].
    pub fn handle_bound(&mut self, now: Instant, result: Result<SocketAddr, io::ErrorKind>) {
        self.mapper.handle_socket(now, result.is_ok());
    }

    /// The machine was suspended; see [`PortMapper::handle_resume`].
    pub fn handle_slept(&mut self, now: Instant) {
        self.mapper.handle_resume(now);
    }

    /// Processes a datagram that arrived at [`SOCKET`], from any host and with any content.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        self.mapper.handle_datagram(now, from, data);
    }

    /// Processes an event of a TCP connection from [`FIRST_TCP`] up.
    pub fn handle_tcp(&mut self, now: Instant, tcp: TcpId, event: TcpEvent) {
        let event = match event {
            TcpEvent::Up => ConnectionEvent::Connected,
            TcpEvent::Filled(count) => ConnectionEvent::Received(count),
            TcpEvent::Wrote(count) => ConnectionEvent::Sent(count),
            TcpEvent::Eof => ConnectionEvent::Eof,
            TcpEvent::Failed(_) => ConnectionEvent::Failed,
        };
        self.mapper.handle_connection(now, connection_of(tcp), event);
    }

    /// Checks the timers. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.mapper.handle_timeout(now);
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.mapper.poll_timeout()
    }

    /// The next datagram to send from [`SOCKET`].
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.mapper.poll_transmit()
    }

    /// The next action on [`SOCKET`] or on a TCP connection from [`FIRST_TCP`] up.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.next_action.take() {
            return Some(action);
        }
        match self.mapper.poll_action()? {
            tallow_portmap::Action::OpenSocket => {
                let addr = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
                Some(Action::Bind(SOCKET, Bind { addr, dual_stack: true, share_port: false, group: None, slot: None }))
            }
            tallow_portmap::Action::CloseSocket => Some(Action::Release(SOCKET)),
            tallow_portmap::Action::Connect(id, to) => {
                Some(Action::Dial(tcp_of(id), Dial { to: to.into(), options: OPTIONS }))
            }
            tallow_portmap::Action::Close(id) => {
                self.next_action = Some(Action::Abort(tcp_of(id)));
                Some(Action::Finish(tcp_of(id)))
            }
            tallow_portmap::Action::Abort(id) => Some(Action::Abort(tcp_of(id))),
            // A later version may have other actions, which this module cannot execute.
            _ => None,
        }
    }

    /// The buffer for the next bytes of this TCP connection.
    #[must_use]
    pub fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        self.mapper.receive_buffer(connection_of(tcp))
    }

    /// Fills `slices` with the bytes that wait to be written to this TCP connection.
    #[must_use]
    pub fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        self.mapper.send_queue(connection_of(tcp), slices)
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.mapper.poll_event()
    }

    /// The protocol of the present mapping.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        self.mapper.protocol()
    }

    /// Deletes the mapping; see [`PortMapper::release`].
    pub fn release(&mut self, now: Instant) {
        self.mapper.release(now);
    }

    /// See [`PortMapper::is_released`].
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.mapper.is_released()
    }
}

/// The id of a TCP connection of the mapper, whose own ids are below 2^31.
const fn tcp_of(id: ConnectionId) -> TcpId {
    TcpId(FIRST_TCP.0 | id.0)
}

const fn connection_of(tcp: TcpId) -> ConnectionId {
    ConnectionId(tcp.0 & !FIRST_TCP.0)
}
