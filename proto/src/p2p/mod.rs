//! The direct path between two peers (docs/protocol.md): what is learned of the own network, and how the other side is reached.
//!
//! - [`portmap`]: asking the gateway to let the other side in.

pub mod portmap;
