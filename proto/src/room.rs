//! The relay's side: who may ask, who pairs with whom, and the bytes between the two.
//!
//! | file | decides |
//! |---|---|
//! | [`limits`] | how much one source, and all together, may ask for |
//! | `half_open` | nothing: which connections are in their handshake, oldest first |
//! | [`greeting`] | whether a client may ask at all: version, password, deadline |
//! | [`registry`] | who sits in which room, who is refused and why, what expires |
//! | `pending` | when an unpaired client is read, and when it is answered |
//! | [`stun_responder`] | which STUN requests are answered |
//! | `forward` | how the bytes of two paired legs move, and how much of them is held |
//! | `ports` | nothing: what QUIC connections and TCP connections have in common |
//! | `relay` | the whole as one [`crate::node::Node`], [`Relay`] |
//!
//! A *leg* is one client's link: a QUIC connection or a TCP connection (TLS or a WebSocket on TCP). A relay never
//! dials, never decodes what paired peers say, and knows addresses only as [`limits::Source`], which cannot be shown.

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
