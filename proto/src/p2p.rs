//! Direct paths between two peers: how they learn and exchange candidates, connect, and select the active path of the
//! session.
//!
//! | file | decides |
//! |---|---|
//! | [`candidate`] | which candidates are offered, which of the peer's are tried, and in which order |
//! | [`stun`] | the contents of STUN Binding requests and responses, for clients and for the relay |
//! | [`nat`] | the mapping behaviour of the NAT, from the responses of two servers |
//! | [`gather`] | which servers are queried for a side's candidates, and when |
//! | [`portmap`] | nothing: it connects the crate `tallow-portmap` to the sockets and TCP connections of a node |
//! | [`choice`] | which of several direct links is the active path of the session, by measurements |
//! | [`negotiate`] | when a round begins, and when it ends |
//! | [`race`] | which candidates are tried in a round, and when |
//! | [`budget`] | which datagrams may be sent to addresses that are not validated |
//!
//! The module [`crate::peer`] executes these decisions.

pub mod budget;
pub mod candidate;
pub mod choice;
pub mod gather;
pub mod nat;
pub mod negotiate;
mod output;
pub mod portmap;
pub mod race;
pub mod stun;
