//! A deterministic world: one virtual clock, one seeded generator, hosts that run real nodes, a network that misbehaves.
//!
//! It decides when a datagram arrives (or that it does not), when a job is done, and in which order things that happen at the
//! same moment are heard; nothing else. The nodes are the real ones, driven through [`tallow_proto::node::Node`] as the driver
//! drives them. Every run is told by its seed: the same seed gives the same trace.
//!
//! After every step: no event follows a terminal one, time passes (no spin), and as long as a node is not closed something is in
//! flight or some timer is set ("nothing in flight and no timer" is a panic).

mod network;
mod world;

pub use network::{Conditions, Network};
pub use world::{Host, HostId, Machine, Observed, World};
