//! The outer interface of the crate: the trait of a node, and the inputs that its driver passes to it.
//!
//! A peer and a relay implement [`Node`]; the driver of [`crate::drive`] and the simulator drive it. A driver passes a
//! batch of inputs with `handle_*`, then calls [`Node::settle`] once, then drains the outputs with `poll_*`. If a
//! driver does not poll one kind of output, that is back-pressure: it blocks only this output.
//!
//! The node decides which protocol it uses in a TCP connection. A TCP connection's life cycle, as the node sees it:
//!
//! ```text
//! Dial ──────────► Up ──┐
//! handle_accept ────────┴► pipe_buffer, Filled ⇄ pipe_output, Wrote ──► ended, once Eof arrived and FIN was sent
//!                              Failed, or Abort: ended at once
//! ```
//!
//! The node assigns every id, so that a run can be replayed from a seed.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::BytesMut;

use crate::Instant;
use crate::misuse::Misuse;
use crate::net::{Action, Arrival, Interface, ListenerId, QueryId, SocketId, TcpEvent, TcpId, Transmit};
use crate::transfer::job::{Job, JobDone};

/// Answers to actions, and notifications. Errors are only kinds, so that they can be logged, compared and replayed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// The answer to [`Action::Bind`]: the local address.
    Bound(SocketId, Result<SocketAddr, io::ErrorKind>),
    /// The answer to [`Action::Listen`]: the local address.
    Listening(ListenerId, Result<SocketAddr, io::ErrorKind>),
    /// The answer to [`Action::Resolve`]: the addresses, or none if the query failed.
    Resolved(QueryId, Vec<SocketAddr>),
    /// A finished job.
    Done(JobDone),
    /// The addresses of this machine, loopback included: at the start and after each change. Some runtimes do not
    /// report them.
    Interfaces(Vec<Interface>),
    /// The default gateways in order of preference: at the start, before the first [`Input::Interfaces`], and after
    /// each change. Some runtimes do not report them.
    Gateways(Vec<IpAddr>),
    /// The machine was suspended for this long. [`Instant`] did not advance meanwhile, so no timer expired; the node
    /// must check every link.
    Slept(Duration),
    /// The application dropped its handle: the node cancels the transfer, notifies the peer and closes.
    HandleDropped,
}

/// A state machine at the outer edge of the crate. The module's documentation describes the order of calls.
pub trait Node {
    /// A command of the application.
    type Command: Send;
    /// An event for the application.
    type Event: Send + From<Misuse>;

    /// Processes a received datagram.
    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut);
    /// Processes an event of a TCP connection. It must take effect on the TCP connection's buffer and output at once,
    /// because the driver calls [`Node::pipe_buffer`] and [`Node::pipe_output`] again before [`Node::settle`]. After
    /// the node has queued [`Action::Abort`], events may still arrive until the driver polls that action.
    fn handle_tcp(&mut self, now: Instant, tcp: TcpId, event: TcpEvent) {
        let _ = (now, tcp, event);
    }
    /// A listener accepted a connection. Returns an id for it, or `None` to refuse it.
    fn handle_accept(&mut self, now: Instant, listener: ListenerId, from: SocketAddr) -> Option<TcpId> {
        let _ = (now, listener, from);
        None
    }
    /// Processes an answer or a notification.
    fn handle_input(&mut self, now: Instant, input: Input);
    /// Processes a command of the application.
    ///
    /// # Errors
    /// [`Misuse`] if the command is not possible in this state; the state is unchanged then.
    fn handle_command(&mut self, now: Instant, command: Self::Command) -> Result<(), Misuse>;
    /// Checks the timers. A spurious call is a no-op.
    fn handle_timeout(&mut self, now: Instant);
    /// Passes the effects of the inputs between the node's parts and into the outputs. Called once per batch.
    fn settle(&mut self, now: Instant);

    /// The next action for the driver.
    #[must_use]
    fn poll_action(&mut self) -> Option<Action>;
    /// Appends the next batch for this socket to the empty `buf`: at most `max_segments` datagrams of one size.
    #[must_use]
    fn poll_transmit(
        &mut self,
        now: Instant,
        socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit>;
    /// The next TCP connection that has new output, or new room in its buffer, since it was last returned.
    #[must_use]
    fn poll_tcp(&mut self) -> Option<TcpId> {
        None
    }
    /// The buffer for the next received bytes of this TCP connection; if it is empty, the driver must not read. The
    /// driver does not call this after the end of the stream.
    #[must_use]
    fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        let _ = tcp;
        &mut []
    }
    /// Fills `slices` with the bytes that wait to be written to this TCP connection, and returns the number of filled
    /// slices. [`TcpEvent::Wrote`] consumes the bytes.
    #[must_use]
    fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        let _ = (tcp, slices);
        0
    }
    /// The next job, a piece of CPU-bound or blocking work.
    #[must_use]
    fn poll_job(&mut self) -> Option<Job>;
    /// The next event for the application.
    #[must_use]
    fn poll_event(&mut self) -> Option<Self::Event>;
    /// Whether `new` makes the queued event `old` obsolete (progress, the path in use). The driver then drops `old`, so
    /// that such events never fill the queue.
    #[must_use]
    fn supersedes(new: &Self::Event, old: &Self::Event) -> bool
    where
        Self: Sized,
    {
        let _ = (new, old);
        false
    }
    /// When [`Node::handle_timeout`] is due, with the reason, for logs and for the simulator's report on a stuck run.
    #[must_use]
    fn poll_timeout(&self) -> Option<(Instant, &'static str)>;
    /// Whether the node has ended: it has nothing left to send and no job is running, or the deadline of its shutdown
    /// has passed.
    #[must_use]
    fn is_closed(&self) -> bool;
}
