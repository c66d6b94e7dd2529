//! The tallow protocol as pure state machines: events and the time go in, what should happen comes out.
//!
//! Nothing in this crate reads a clock, a socket, a file, the environment or a global random source.

pub mod code;
pub mod discovery;
pub mod drive;
pub mod handshake;
pub mod job;
pub mod link;
pub mod node;
pub mod peer;
pub mod ready;
pub mod room;
pub mod seed;
pub mod session;
pub mod transfer;
pub mod wire;

/// The clock's type, named once, so that a browser can bring its own.
pub use std::time::Instant;
