//! Several nodes behind one UDP socket: which of them a datagram is for, and where it waits until that node takes it.
//!
//! The owner of the socket passes what it receives to a [`Switch`], and each node takes its own. Nodes have a
//! [`Slot`](crate::net::Slot), and write its mark into what the other end repeats.
//!
//! | datagram | goes to |
//! |---|---|
//! | QUIC, the destination connection id begins with a mark | the mark's slot |
//! | STUN, the transaction id begins with a mark | the mark's slot |
//! | a probe, its token begins with a mark | the mark's slot |
//! | another short QUIC packet (a stateless reset) | every slot that recently sent to the sender's address |
//! | anything else | nobody |
//! | whatever arrives at a multicast socket | every slot |
//!
//! A mark authenticates nothing, and a datagram may reach a node that it is not meant for. So each node judges a
//! datagram as if it had a socket of its own, and a QUIC endpoint with a slot never answers a packet of another one
//! ([`Profile::slot`](crate::link::quic::Profile::slot)).
//!
//! Bounds: [`MOST_WAITING`] bytes for each slot and [`WAITING`] for all of a socket, of which each slot has an equal
//! share; what is beyond is dropped, as a full socket drops it. So a node that takes nothing, or is flooded, loses its
//! own datagrams only. [`REMEMBERED`] addresses of each slot; [`COPIES_A_SECOND`] copies of datagrams that go to more
//! than one. No timers.

mod routes;
mod switch;

pub use routes::{COPIES_A_SECOND, REMEMBERED};
pub use switch::{LEAST_WAITING, MOST_WAITING, Switch, WAITING};

#[cfg(all(test, feature = "links"))]
mod shared_tests;
