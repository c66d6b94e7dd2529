//! The tallow protocol as pure state machines: events and the time go in, what should happen comes out.
//!
//! Nothing in this crate reads a clock, a socket, a file, the environment or a global random source.

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

pub mod code;
pub mod discovery;
pub mod drive;
pub mod handshake;
pub mod link;
pub mod misuse;
pub mod net;
pub mod node;
pub mod p2p;
pub mod peer;
pub mod pool;
pub mod ready;
pub mod room;
pub mod seed;
pub mod session;
pub mod transfer;
pub mod wire;

/// The clock's type, named once, so that a browser can bring its own.
pub use std::time::Instant;
