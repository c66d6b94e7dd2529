//! The direct path between two peers: at which addresses each can be reached, and how one of them comes to carry the session.
//!
//! | file | decides |
//! |---|---|
//! | [`candidate`] | which addresses are offered, which of the other side's may be tried, and in which order |
//! | [`stun`] | what a STUN Binding asks and answers, for clients and for the relay |
//! | [`nat`] | what the answers of two servers say about the NAT in front |
//! | [`gather`] | what is asked of whom to learn a side's candidates |
//! | [`portmap`] | nothing: it connects the crate `tallow-portmap` to the sockets and pipes of a node |
//! | [`choice`] | which of several direct links carries the session, by what was measured |
//! | [`negotiate`] | when a round begins, and when it is over |
//! | [`race`] | what is tried in a round, and when |
//! | [`budget`] | what may leave for addresses that have not proven to be the other side |
//!
//! `peer/direct.rs` carries it out.

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
