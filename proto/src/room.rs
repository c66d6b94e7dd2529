//! The relay's side: admission of clients, pairing, and forwarding of bytes between two paired clients.
//!
//! | file | decides |
//! |---|---|
//! | [`limits`] | how much one source, and all together, may ask for |
//! | `half_open` | nothing: it lists the connections whose handshake is not complete, oldest first |
//! | [`greeting`] | whether a client may send requests at all: version, password, deadline |
//! | [`registry`] | which link has a seat in which room, which join is refused and why, what expires |
//! | `pending` | when the relay reads from an unpaired client, and when it answers |
//! | [`stun_responder`] | which STUN requests are answered |
//! | `forward` | how bytes move between two paired legs, and how many of them the relay buffers |
//! | `ports` | nothing: what QUIC connections and TCP connections have in common |
//! | `relay` | the whole as one [`crate::node::Node`], [`Relay`] |
//!
//! A *leg* is one client's link: a QUIC connection or a TCP connection (TLS or a WebSocket on TCP). A relay never dials
//! out and never decodes the messages of paired peers. It stores addresses only as [`limits::Source`], which has no
//! printable form.

#[cfg(test)]
mod early_tests;
#[cfg(test)]
mod evil_tests;
mod farewell;
mod forward;
#[cfg(feature = "internals")]
pub mod greeting;
#[cfg(not(feature = "internals"))]
pub(crate) mod greeting;
mod half_open;
#[cfg(feature = "internals")]
pub mod limits;
#[cfg(not(feature = "internals"))]
pub(crate) mod limits;
mod pending;
mod ports;
#[cfg(feature = "internals")]
pub mod registry;
#[cfg(not(feature = "internals"))]
pub(crate) mod registry;
mod relay;
mod status;
#[cfg(feature = "internals")]
pub mod stun_responder;
#[cfg(not(feature = "internals"))]
pub(crate) mod stun_responder;
#[cfg(test)]
mod stun_tests;
#[cfg(test)]
mod world;

pub use limits::{Limits, Rate};
#[cfg(test)]
use relay::MAX_EVENTS;
pub use relay::{MAX_SOCKETS, Relay};
pub use status::{Command, Config, Event, Refusals, Refused, RoomEnd, RoomTag, Status, Tcp, Transport};
