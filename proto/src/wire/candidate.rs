//! The wire form of a candidate: an address at which a peer may be reached directly, and how it was learned (RFC 8445
//! §4).
//!
//! [`crate::p2p::candidate`] decides which candidates are offered and which may be tried.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::BoundedVec;

/// Maximum number of candidates of one side.
pub const MAX: usize = 16;

/// How a candidate was learned (RFC 8445 §4). Variants are appended, never reordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// An address of the machine itself.
    Host,
    /// Server-reflexive: the address of a NAT, as a STUN server observed it.
    Reflexive,
    /// A port mapping that a gateway created on request (PCP, NAT-PMP, UPnP).
    Mapped,
}

/// The transport of a candidate. Variants are appended, never reordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CandidateTransport {
    /// QUIC over UDP.
    Udp,
    /// Sealed records directly over TCP.
    Tcp,
}

/// An address at which a peer may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// How it was learned.
    pub kind: Kind,
    /// The transport.
    pub transport: CandidateTransport,
    /// The address and port. On the wire an IPv6 address has neither scope nor flow label.
    pub addr: SocketAddr,
}

/// The candidates in one message.
pub type Candidates = BoundedVec<Candidate, MAX>;
