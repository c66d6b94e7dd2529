//! The outer edge of the crate: what a node is, the names it gives to outside things, what it asks for and what it is told.
//!
//! Two things live behind [`Node`] (a peer and a relay) and two drive it (the driver of [`crate::drive`] and the simulator).
//! A node is fed a batch with `handle_*`, then [`Node::settle`] is called once, then its lanes are drained with `poll_*`.
//! A lane that is not polled is back-pressure and holds up nothing but itself.
//!
//! The node makes every id, so that a run can be replayed from a seed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use bytes::BytesMut;

use crate::Instant;
use crate::job::{Job, JobDone};

/// A UDP socket: one for each relay, one for listening, one for mDNS. Each has its own QUIC endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketId(pub u8);

/// A question to the name service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueryId(pub u32);

/// Explicit congestion notification of a datagram (RFC 3168).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotEct,
    /// ECT(0).
    Ect0,
    /// ECT(1).
    Ect1,
    /// Congestion experienced.
    Ce,
}

/// Where a datagram came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The socket that received it.
    pub socket: SocketId,
    /// The sender's address as the socket reports it (IPv4 may come mapped into IPv6).
    pub from: SocketAddr,
    /// The local address it was sent to, where the system tells.
    pub local_ip: Option<IpAddr>,
    /// Its ECN bits.
    pub ecn: Ecn,
}

/// `size` bytes in the caller's buffer, cut into `segment_size` by the kernel when it is set.
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    /// Destination.
    pub to: SocketAddr,
    /// The local address to send from, if it matters.
    pub src_ip: Option<IpAddr>,
    /// ECN bits to set.
    pub ecn: Ecn,
    /// Bytes of the buffer that are to be sent.
    pub size: usize,
    /// Segment size for generic segmentation offload; `None`: one datagram.
    pub segment_size: Option<usize>,
}

/// How a socket is to be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Address and port; port 0 lets the system choose. `[::]` takes IPv4 too, where the system can.
    pub addr: SocketAddr,
    /// Share the port with other processes (mDNS).
    pub share_port: bool,
    /// A multicast group to join on all interfaces (mDNS).
    pub group: Option<IpAddr>,
}

/// What the node asks for, rarely and in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a UDP socket; answered by [`Input::Bound`].
    Bind(SocketId, Bind),
    /// Close it; not answered.
    Release(SocketId),
    /// Ask the name service for host and port; answered by [`Input::Resolved`].
    Resolve(QueryId, String, u16),
}

/// What comes back, and news. Errors are kinds: they are logged, compared and replayed.
#[derive(Debug)]
pub enum Input {
    /// The answer to [`Action::Bind`]: the local address.
    Bound(SocketId, Result<SocketAddr, io::ErrorKind>),
    /// The answer to [`Action::Resolve`]: empty when there is none.
    Resolved(QueryId, Vec<SocketAddr>),
    /// A finished job.
    Done(JobDone),
    /// The application dropped its handle: cancel, say goodbye, close.
    HandleDropped,
}

/// The caller asked for what is not possible now; the text says what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub &'static str);

/// An outer node: see the module's text for the order of calls.
pub trait Node {
    /// What the application may ask.
    type Command: Send;
    /// What the application hears.
    type Event: Send + From<Misuse>;

    /// One datagram.
    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut);
    /// An answer or news.
    fn handle_input(&mut self, now: Instant, input: Input);
    /// A command of the application.
    ///
    /// # Errors
    /// [`Misuse`] when it makes no sense in this state; nothing has changed then.
    fn handle_command(&mut self, now: Instant, command: Self::Command) -> Result<(), Misuse>;
    /// A deadline may have passed. A spurious call is a no-op.
    fn handle_timeout(&mut self, now: Instant);
    /// Moves what the inputs caused: between children, and into the lanes. Once per batch.
    fn settle(&mut self, now: Instant);

    /// The next thing to do outside.
    #[must_use]
    fn poll_action(&mut self) -> Option<Action>;
    /// The next batch for this socket, appended to the empty `buf`; at most `max_segments` datagrams of one size.
    #[must_use]
    fn poll_transmit(
        &mut self,
        now: Instant,
        socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit>;
    /// The next piece of heavy work.
    #[must_use]
    fn poll_job(&mut self) -> Option<Job>;
    /// The next event for the application.
    #[must_use]
    fn poll_event(&mut self) -> Option<Self::Event>;
    /// Whether `old`, which the application has not taken yet, says nothing any more once `new` is there (progress, the path
    /// in use): it is dropped then, so that such values never fill the queue.
    #[must_use]
    fn supersedes(new: &Self::Event, old: &Self::Event) -> bool
    where
        Self: Sized,
    {
        let _ = (new, old);
        false
    }
    /// When [`Node::handle_timeout`] is due, with the reason for logs and for the simulator's report of a stuck run.
    #[must_use]
    fn poll_timeout(&self) -> Option<(Instant, &'static str)>;
    /// Nothing is left to send and no job is out, or the farewell's deadline has passed.
    #[must_use]
    fn is_closed(&self) -> bool;
}
