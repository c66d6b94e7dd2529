//! The direct path between two peers: at which addresses each can be reached, and how one of them comes to carry the session.
//!
//! | file | decides |
//! |---|---|
//! | [`candidate`] | which addresses are offered, which of the other side's may be tried, and in which order |
//! | [`stun`] | how a server is asked for the address that it sees (RFC 8489), and how a relay answers |
//! | [`nat`] | what the answers tell about the NAT in between (RFC 5780) |
//! | [`gather`] | when whom to ask; what comes of it, as it comes |

pub mod candidate;
pub mod gather;
pub mod nat;
pub mod stun;
