//! The outer edge of the crate: what a node is, the names it gives to outside things, what it asks for and what it is
//! told.
//!
//! Two things live behind [`Node`] (a peer and a relay) and two drive it (the driver of [`crate::drive`] and the
//! simulator). A node is fed a batch with `handle_*`, then [`Node::settle`] is called once, then its lanes are drained
//! with `poll_*`. A lane that is not polled is back-pressure and holds up nothing but itself.
//!
//! A pipe is one TCP connection; what runs in it is the node's business. Its life, as the node sees it:
//!
//! ```text
//! Dial ──────────► Up ──┐
//! handle_accept ────────┴► pipe_buffer, Filled ⇄ pipe_output, Wrote ──► over, once Eof came and the FIN is out
//!                              Failed, or Abort: over at once
//! ```
//!
//! The node makes every id, so that a run can be replayed from a seed.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::BytesMut;

use crate::Instant;
use crate::misuse::Misuse;
use crate::net::{Action, Arrival, Interface, ListenerId, PipeEvent, PipeId, QueryId, SocketId, Transmit};
use crate::transfer::job::{Job, JobDone};

/// What comes back, and news. Errors are kinds: they are logged, compared and replayed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// The answer to [`Action::Bind`]: the local address.
    Bound(SocketId, Result<SocketAddr, io::ErrorKind>),
    /// The answer to [`Action::Listen`]: the local address.
    Listening(ListenerId, Result<SocketAddr, io::ErrorKind>),
    /// The answer to [`Action::Resolve`]: empty when there is none.
    Resolved(QueryId, Vec<SocketAddr>),
    /// A finished job.
    Done(JobDone),
    /// The addresses of this machine, loopback included: at the start and whenever they have changed. Some runtimes do
    /// not tell.
    Interfaces(Vec<Interface>),
    /// Where packets to other networks go, the preferred gateway first, and those of each family in their order: at the
    /// start, before the first [`Input::Interfaces`], and whenever they have changed. Some runtimes do not tell.
    Gateways(Vec<IpAddr>),
    /// The machine was asleep for this long. [`Instant`] stood still meanwhile, so no timer noticed: every link must
    /// prove itself.
    Slept(Duration),
    /// The application dropped its handle: cancel, say goodbye, close.
    HandleDropped,
}

/// An outer node: see the module's text for the order of calls.
pub trait Node {
    /// What the application may ask.
    type Command: Send;
    /// What the application hears.
    type Event: Send + From<Misuse>;

    /// One datagram.
    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut);
    /// What happened to a pipe. It takes effect on the pipe's buffer and output at once, for they are asked again
    /// before [`Node::settle`]. Between asking for [`Action::Abort`] and its being polled, events may still come.
    fn handle_pipe(&mut self, now: Instant, pipe: PipeId, event: PipeEvent) {
        let _ = (now, pipe, event);
    }
    /// A connection came in: a name for it, or `None` to turn it away.
    fn handle_accept(&mut self, now: Instant, listener: ListenerId, from: SocketAddr) -> Option<PipeId> {
        let _ = (now, listener, from);
        None
    }
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
    /// A pipe that has output again, or room in its buffer again, since the last answer.
    #[must_use]
    fn poll_pipe(&mut self) -> Option<PipeId> {
        None
    }
    /// Where the next bytes of this pipe go; empty: do not read. Not asked any more once the end was read.
    #[must_use]
    fn pipe_buffer(&mut self, pipe: PipeId) -> &mut [u8] {
        let _ = pipe;
        &mut []
    }
    /// What waits to be written to this pipe, as at most `slices.len()` slices, and how many were filled in.
    /// [`PipeEvent::Wrote`] consumes it.
    #[must_use]
    fn pipe_output<'a>(&'a self, pipe: PipeId, slices: &mut [IoSlice<'a>]) -> usize {
        let _ = (pipe, slices);
        0
    }
    /// The next piece of heavy work.
    #[must_use]
    fn poll_job(&mut self) -> Option<Job>;
    /// The next event for the application.
    #[must_use]
    fn poll_event(&mut self) -> Option<Self::Event>;
    /// Whether `old`, which the application has not taken yet, says nothing any more once `new` is there (progress, the
    /// path in use): it is dropped then, so that such values never fill the queue.
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
