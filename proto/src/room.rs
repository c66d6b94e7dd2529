//! The relay's side: who may ask, who pairs with whom, and the bytes between the two.
//!
//! | file | decides |
//! |---|---|
//! | [`limits`] | how much one source, and all together, may ask for |
//! | `half_open` | nothing: which connections are in their handshake, oldest first |
//! | [`greeting`] | whether a client may ask at all: version, password, deadline |
//! | [`registry`] | who sits in which room, who is refused and why, what expires |
//! | `talk` | when a leg is read and told something, before it is paired |
//! | [`mirror`] | whose STUN questions are answered |
//! | `forward` | how the bytes of two paired legs move, and how much of them is held |
//! | `ports` | nothing: what QUIC connections and TCP connections have in common |
//! | `relay` | the whole as one [`crate::node::Node`], [`Relay`] |
//!
//! A *leg* is one client's link: a QUIC connection or a TCP connection (TLS or a WebSocket on TCP). A relay never dials, never
//! decodes what paired peers say, and knows addresses only as [`limits::Source`], which cannot be shown.

#[cfg(test)]
mod early_tests;
#[cfg(test)]
mod evil_tests;
mod farewell;
mod forward;
pub mod greeting;
mod half_open;
pub mod limits;
mod pending;
mod ports;
pub mod registry;
mod relay;
mod status;
pub mod stun_responder;
#[cfg(test)]
mod stun_tests;
#[cfg(test)]
mod world;

pub use relay::{MAX_EVENTS, MAX_SOCKETS, Relay};
pub use status::{Command, Config, Event, Refusals, Refused, RoomEnd, RoomTag, Status, Tcp, Transport};
