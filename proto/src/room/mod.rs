//! The relay's side: who may ask, who pairs with whom, and the bytes between the two.
//!
//! | file | decides |
//! |---|---|
//! | [`limits`] | how much one source, and all together, may ask for |
//! | [`greeting`] | whether a client may ask at all: version, password, deadline |
//! | [`registry`] | who sits in which room, who is refused and why, what expires |
//! | `talk` | when a leg is read and told something, before it is paired |
//! | [`mirror`] | whose STUN questions are answered |
//! | `forward` | how the bytes of two paired legs move, and how much of them is held |
//! | `ports` | nothing: what QUIC connections and pipes have in common |
//! | `relay` | the whole as one [`crate::node::Node`], [`Relay`] |
//!
//! A *leg* is one client's link: a QUIC connection or a pipe (TLS or a WebSocket on TCP). A relay never dials, never decodes what paired peers say, and knows addresses only as
//! [`limits::Source`], which cannot be shown.

#[cfg(test)]
mod early_tests;
#[cfg(test)]
mod evil_tests;
mod forward;
pub mod greeting;
pub mod limits;
pub mod mirror;
mod ports;
pub mod registry;
mod relay;
mod status;
#[cfg(test)]
mod stun_tests;
mod talk;
#[cfg(test)]
mod world;

pub use relay::{MAX_EVENTS, MAX_SOCKETS, Relay};
pub use status::{Command, Config, Event, Refused, RoomEnd, RoomTag, Status, Tcp, Transport};

/// Application codes with which a link between client and relay is closed: by QUIC as they are, by a WebSocket as 4000 plus the code
/// (0 as 1000). TLS has no word for them: its end means [`close::DONE`] to the relay.
pub mod close {
    /// Client: all is done. A sender's seat and its nameplate are free for others, as after `Leave`.
    pub const DONE: u32 = 0;
    /// Client: this link is over, the seat may be taken again by its owner.
    pub const ENDED: u32 = 1;
    /// The other peer closed its link.
    pub const PEER_LEFT: u32 = 2;
    /// The other peer's link was lost.
    pub const PEER_LOST: u32 = 3;
    /// Nothing moved for too long.
    pub const IDLE: u32 = 4;
    /// The owner of this seat, or of the other one, took it on another link.
    pub const REPLACED: u32 = 5;
    /// The client broke a rule.
    pub const VIOLATION: u32 = 6;
    /// The client was refused, and told why before, where there was a way.
    pub const REFUSED: u32 = 7;
    /// The relay is going down.
    pub const SHUTTING_DOWN: u32 = 8;
    /// The client took too long to say what it wants.
    pub const TOO_SLOW: u32 = 9;
}
