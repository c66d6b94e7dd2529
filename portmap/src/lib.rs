#![doc = include_str!("../README.md")]
//!
//! # Overview
//!
//! [`PortMapper`] is the whole interface: getters, `handle_*`, commands ([`PortMapper::start`],
//! [`PortMapper::release`]) and `poll_*`. Inside, `mapper` decides which clients run and which client's answer is used;
//! `pcp`, `natpmp` and `upnp` are one client each; `client` has their common parts; `gateway` selects the gateway.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::iter_over_hash_type
    )
)]
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests have a clock"))]

mod client;
mod gateway;
mod mapper;
mod natpmp;
mod pcp;
#[cfg(test)]
mod simulation;
mod upnp;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

pub use mapper::{
    ATTEMPT_WITHIN, CLOSE_WITHIN, MAX_CONNECTIONS, MAX_EVENTS, MAX_PENDING_RELEASES, PORT, PortMapper, RELEASE_WITHIN,
    RETRY_AFTER, UPNP_AFTER,
};
/// The type of the clock: monotonic time that the caller reads and passes in.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub use std::time::Instant;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub use web_time::Instant;

/// The maximum length of [`Config::description`] in bytes; the rest is cut off.
pub const MAX_DESCRIPTION: usize = 64;

/// A protocol for requests to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device, versions 1 and 2.
    Upnp,
}

impl Protocol {
    /// All protocols, in the order of preference.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];
}

/// The configuration of a [`PortMapper`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The protocols that are tried; all by default.
    pub protocols: Vec<Protocol>,
    /// The text that a UPnP gateway displays with the mapping, at most [`MAX_DESCRIPTION`] bytes.
    pub description: String,
}

impl Config {
    /// Tries only these protocols.
    #[must_use]
    pub fn with_protocols(mut self, protocols: &[Protocol]) -> Self {
        self.protocols = protocols.to_vec();
        self
    }

    /// Sets the text that a UPnP gateway displays with the mapping.
    #[must_use]
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { protocols: Protocol::ALL.to_vec(), description: "port mapping".to_owned() }
    }
}

/// The id of a TCP connection to a gateway. Ids count up from 0; after 2^31 connections they start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// One address of this machine, and the length of its network's prefix in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// The address.
    pub addr: IpAddr,
    /// The length of the network's prefix in bits.
    pub prefix: u8,
}

/// A request of the mapper to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Open the UDP socket for requests to gateways: IPv4, on a port that the system chooses. The answer is
    /// [`PortMapper::handle_socket`]. There is one socket at a time.
    OpenSocket,
    /// Close that socket; not answered.
    CloseSocket,
    /// Connect by TCP. The answer is [`ConnectionEvent::Connected`] or [`ConnectionEvent::Failed`].
    Connect(ConnectionId, SocketAddrV4),
    /// Close the connection in an orderly way (FIN): its response has arrived. The id is invalid from now on.
    Close(ConnectionId),
    /// Close the connection with a reset: its response is no longer needed. The id is invalid from now on.
    Abort(ConnectionId),
}

/// An event of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The connection is established.
    Connected,
    /// The caller wrote this many received bytes to the start of [`PortMapper::receive_buffer`].
    Received(usize),
    /// The system accepted this many bytes of [`PortMapper::send_queue`].
    Sent(usize),
    /// The gateway has sent FIN.
    Eof,
    /// The connection could not be established, or was reset. The id is invalid from now on; no [`Action`] follows for
    /// it.
    Failed,
}

/// A datagram to be sent from the mapper's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The gateway, or the multicast group of SSDP.
    pub to: SocketAddr,
    /// The local address to send it from; `None` leaves the choice to the system.
    pub from: Option<IpAddr>,
    /// The payload.
    pub data: Vec<u8>,
}

/// An event for the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Datagrams to this address arrive at the internal port. Repeated with another address when it changes.
    Mapped(SocketAddr),
    /// The address of the last [`Event::Mapped`] is not valid any more.
    Lost,
    /// The gateway's external address is itself behind a NAT, so no mapping there is reachable from the internet.
    DoubleNat(Ipv4Addr),
}
