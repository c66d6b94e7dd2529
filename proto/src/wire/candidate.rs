//! A candidate as it is sent: an address at which a peer may be reached directly, and how it was learned (RFC 8445 §4).
//!
//! Which candidates are offered and which may be tried is decided in [`crate::p2p::candidate`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Capped;

/// Candidates that one side may offer.
pub const MAX: usize = 16;

/// How a candidate was learned (RFC 8445 §4). Variants are appended, never reordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// An address of the machine itself.
    Host,
    /// What a server saw: an address of the NAT in front.
    Reflexive,
    /// What a gateway gave on request (PCP, NAT-PMP, UPnP).
    Mapped,
}

/// What is spoken to a candidate. Variants are appended, never reordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Carrier {
    /// QUIC.
    Udp,
    /// Sealed records without anything around them.
    Tcp,
}

/// An address at which a peer may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// How it was learned.
    pub kind: Kind,
    /// What is spoken there.
    pub carrier: Carrier,
    /// Where. On the wire an IPv6 address has neither scope nor flow label.
    pub addr: SocketAddr,
}

/// Candidates as they stand in a record.
pub type Candidates = Capped<Candidate, MAX>;
