//! A deterministic world: one virtual clock, one seeded generator, hosts that run real nodes, a network that
//! misbehaves.
//!
//! It decides when a datagram or a piece of a TCP connection arrives (or that it does not), when a job is done, and in which
//! order things that happen at the same moment are heard; nothing else. The nodes are the real ones, driven through
//! [`tallow_proto::node::Node`] as the driver drives them. Every run is told by its seed: the same seed gives the same
//! trace. TLS inside QUIC draws its keys from the system, so the trace holds times, sizes and what nodes say, never the
//! bytes of datagrams.
//!
//! After every step: no event but those of a wait follows a terminal one, time passes (no spin), no secret is in a
//! `Debug` form, what a sink holds is the source's, and as long as a peer is not closed something is in flight or some
//! timer is set ("nothing in flight and no timer" is a panic).

mod disk;
mod host;
mod kinds;
mod malicious_peer;
mod malicious_relay;
mod nat;
mod network;
mod offers;
mod scenario;
mod squatter;
mod tally;
mod tcp;
mod topology;
mod world;

pub use disk::CheckedSink;
pub use host::{Host, HostId, Machine, Observed};
pub use malicious_peer::{MaliciousPeer, Received, Script, ScriptOutput};
pub use malicious_relay::{Fate, Passing, Policy, Relay, Tamper, honest};
pub use offers::{K64, offer, offering, page_of, raw, varint};

pub use kinds::{HostPlan, Kind, can_punch};
pub use nat::{Behaviour, Dependence, LIFETIME, Nat, Ports, Protocol, Translation};
pub use network::{Chance, Conditions, Network};
pub use scenario::{
    Act, CODE, Place, RELAY, Report, Rig, Scenario, copied_end, identity, noise, real_relay, receive_config,
    send_config,
};
pub use squatter::{Squat, Squatter};
pub use tally::Tally;
pub use topology::{Attachment, Flight, PUBLIC, Segment, Site, Topology};
pub use world::World;
