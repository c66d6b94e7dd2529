//! A deterministic world: one virtual clock, one seeded generator, hosts that run real nodes, and an unreliable
//! network.
//!
//! It decides when a datagram or a piece of a TCP connection arrives (or that it is lost), when a job finishes, and
//! the order of simultaneous events; nothing else. The nodes are the real ones, driven through
//! [`tallow_proto::node::Node`] like the driver does it. A seed reproduces a run: the same seed gives the same trace.
//! TLS inside QUIC takes its keys from the system, so the trace contains times, sizes and the events of nodes, never
//! the bytes of datagrams.
//!
//! After every step it checks: only events of a wait follow a terminal event, time advances (no busy loop), no secret
//! is in a `Debug` output, the bytes in a sink are the source's, and while a peer is not closed, something is in
//! flight or a timer is set (otherwise it panics with "nothing in flight and no timer").

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
pub use world::{NameService, World};
