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
use crate::transfer::job::{Job, JobDone};

/// A UDP socket: one for each relay, one for listening, one for mDNS. Each has its own QUIC endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketId(pub u8);

/// A TCP listener.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u8);

/// A TCP connection, dialled or accepted. A name is used once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PipeId(pub u32);

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
    /// Address and port; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// `[::]` takes IPv4 too, where the system can; else a socket of IPv4 may have the same port.
    pub dual_stack: bool,
    /// Share the port with other processes (mDNS).
    pub share_port: bool,
    /// A multicast group to join on all interfaces (mDNS).
    pub group: Option<IpAddr>,
}

/// How a TCP connection that has nothing to say is tested (RFC 9293 §3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Probes without an answer until the connection has failed.
    pub probes: u32,
}

/// What is asked of the system for one pipe; what it can't do is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipeOptions {
    /// Small writes are sent at once (no Nagle, RFC 9293 §3.7.4).
    pub no_delay: bool,
    /// Probes in silence; `None`: none.
    pub keep_alive: Option<KeepAlive>,
    /// Bytes unacknowledged for this long fail the pipe with `TimedOut` (RFC 5482); `None`: the system's own patience,
    /// which is a quarter of an hour or so.
    pub user_timeout: Option<Duration>,
}

impl Default for PipeOptions {
    fn default() -> Self {
        let keep_alive = KeepAlive { idle: Duration::from_secs(30), interval: Duration::from_secs(10), probes: 3 };
        Self { no_delay: true, keep_alive: Some(keep_alive), user_timeout: Some(Duration::from_secs(60)) }
    }
}

/// Where a pipe is to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// The other end.
    pub to: SocketAddr,
    /// The pipe's options.
    pub options: PipeOptions,
}

impl From<SocketAddr> for Dial {
    fn from(to: SocketAddr) -> Self {
        Self { to, options: PipeOptions::default() }
    }
}

/// How to listen for pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address and port; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// `[::]` takes IPv4 too, where the system can.
    pub dual_stack: bool,
    /// Connections that may wait to be accepted; the system may allow fewer.
    pub backlog: u32,
    /// The options of what is accepted.
    pub options: PipeOptions,
}

impl Listen {
    /// A burst of reconnecting clients finds a place.
    pub const BACKLOG: u32 = 1024;
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, dual_stack: true, backlog: Self::BACKLOG, options: PipeOptions::default() }
    }
}

/// One address of this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// The system's name of the interface.
    pub name: String,
    /// The address.
    pub addr: IpAddr,
    /// Bits of it that name the network.
    pub prefix: u8,
}

/// What the node asks for, rarely and in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a UDP socket; answered by [`Input::Bound`].
    Bind(SocketId, Bind),
    /// Close it; not answered.
    Release(SocketId),
    /// Listen for TCP connections; answered by [`Input::Listening`], and by [`Node::handle_accept`] for each that
    /// comes.
    Listen(ListenerId, Listen),
    /// Stop listening; not answered. Pipes that were accepted stay.
    Unlisten(ListenerId),
    /// Connect; answered by [`PipeEvent::Up`] or [`PipeEvent::Failed`]. How long that may take is the node's to say
    /// ([`Action::Abort`]).
    Dial(PipeId, Dial),
    /// Write what [`Node::pipe_output`] still has, then FIN; not answered. The other direction goes on until its
    /// [`PipeEvent::Eof`], and the pipe is over when both have ended.
    Finish(PipeId),
    /// The node wants no more of the pipe and hears no more of what comes; not answered. Alone it drops what waits and
    /// resets the connection. After [`Action::Finish`] it is a careful close: what waits is still written (so
    /// [`PipeEvent::Wrote`] may still come), and what arrives is thrown away, both for at most a second. A second one
    /// ends that.
    Abort(PipeId),
    /// Ask the name service for host and port; answered by [`Input::Resolved`].
    Resolve(QueryId, String, u16),
}

/// What comes back, and news. Errors are kinds: they are logged, compared and replayed.
#[derive(Debug)]
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

/// What happened to a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeEvent {
    /// A dialled pipe is connected. One that was accepted is up from the start.
    Up,
    /// So many bytes, at least one, were put into the start of [`Node::pipe_buffer`].
    Filled(usize),
    /// So many bytes, at least one, of [`Node::pipe_output`] are with the system.
    Wrote(usize),
    /// The other side has sent its last byte. It may still read.
    Eof,
    /// The pipe is over: refused, reset, timed out. Its name is forgotten.
    Failed(io::ErrorKind),
}

/// A call that was not possible when it was made. Nothing changed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// Any call after the end.
    #[error("the transfer is over: nothing can be asked of it any more")]
    Over,
    /// Any call, while as many as may wait are not taken in yet.
    #[error("too many commands wait: let the runtime run, then call again")]
    Busy,
    /// An offer was accepted or declined by a side that sends.
    #[error("accept or decline: this side sends, and is offered nothing")]
    NotAReceiver,
    /// An offer was accepted or declined when none waits for an answer: it was answered before, or there is none yet.
    #[error("accept or decline: no offer waits for an answer")]
    NothingOffered,
    /// A stream was accepted into a sink for files.
    #[error("accept: a stream is offered, and needs a sink for streams")]
    NotFiles,
    /// Something else than one single file was accepted into a sink for streams.
    #[error("accept: only one single file, or a stream, can go into a sink for streams")]
    NotOneFile,
    /// The verifier words were confirmed or rejected when nothing waits for that.
    #[error("agree: no verifier words wait to be compared")]
    NothingToAgree,
    /// A node that takes no command of this kind.
    #[error("this node takes no such command")]
    NoSuchCommand,
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
