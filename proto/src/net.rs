//! Sockets, TCP connections and name queries as a node refers to them: ids, addresses, options, and what happens to them.
//!
//! These are plain values. [`crate::node::Node`] exchanges them with whatever drives it; every layer that speaks to the
//! network uses them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

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
    /// Bytes unacknowledged for this long fail the pipe with `TimedOut` (RFC 5482); `None`: the system's own patience, which is
    /// a quarter of an hour or so.
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
#[non_exhaustive]
pub enum Action {
    /// Open a UDP socket; answered by [`crate::node::Input::Bound`].
    Bind(SocketId, Bind),
    /// Close it; not answered.
    Release(SocketId),
    /// Listen for TCP connections; answered by [`crate::node::Input::Listening`], and by [`crate::node::Node::handle_accept`] for each that comes.
    Listen(ListenerId, Listen),
    /// Stop listening; not answered. Pipes that were accepted stay.
    Unlisten(ListenerId),
    /// Connect; answered by [`PipeEvent::Up`] or [`PipeEvent::Failed`]. How long that may take is the node's to say ([`Action::Abort`]).
    Dial(PipeId, Dial),
    /// Write what [`crate::node::Node::pipe_output`] still has, then FIN; not answered. The other direction goes on until its
    /// [`PipeEvent::Eof`], and the pipe is over when both have ended.
    Finish(PipeId),
    /// The node wants no more of the pipe and hears no more of what comes; not answered. Alone it drops what waits and resets
    /// the connection. After [`Action::Finish`] it is a careful close: what waits is still written (so [`PipeEvent::Wrote`]
    /// may still come), and what arrives is thrown away, both for at most a second. A second one ends that.
    Abort(PipeId),
    /// Ask the name service for host and port; answered by [`crate::node::Input::Resolved`].
    Resolve(QueryId, String, u16),
}

/// What happened to a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PipeEvent {
    /// A dialled pipe is connected. One that was accepted is up from the start.
    Up,
    /// So many bytes, at least one, were put into the start of [`crate::node::Node::pipe_buffer`].
    Filled(usize),
    /// So many bytes, at least one, of [`crate::node::Node::pipe_output`] are with the system.
    Wrote(usize),
    /// The other side has sent its last byte. It may still read.
    Eof,
    /// The pipe is over: refused, reset, timed out. Its name is forgotten.
    Failed(io::ErrorKind),
}
