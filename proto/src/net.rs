//! Sockets, TCP connections and name queries as a node refers to them: ids, addresses, options, actions and events.
//!
//! These are plain values. [`crate::node::Node`] exchanges them with its driver; every layer that uses the network uses
//! them. [`Slot`] tells apart the nodes that share sockets.

mod slot;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use slot::{MARK, Slot, SlotKey};

/// The id of a UDP socket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketId(pub u8);

/// The id of a TCP listener.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u8);

/// The id of a TCP connection, dialled or accepted. An id is never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TcpId(pub u32);

/// The id of a query to the name service.
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

/// The metadata of a received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The socket that received it.
    pub socket: SocketId,
    /// The sender's address as the socket reports it (an IPv4 address may be in IPv4-mapped form).
    pub from: SocketAddr,
    /// The local address it was sent to, if the system reports it.
    pub local_ip: Option<IpAddr>,
    /// Its ECN bits.
    pub ecn: Ecn,
}

/// The metadata of `size` bytes in the caller's buffer. The kernel splits them into datagrams of `segment_size` if it
/// is set.
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

/// The options for binding a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Address and port; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Whether `[::]` also accepts IPv4, if the system supports it; if false, an IPv4 socket may have the same port.
    pub dual_stack: bool,
    /// Whether to share the port with other processes (mDNS).
    pub share_port: bool,
    /// A multicast group to join on all interfaces (mDNS).
    pub group: Option<IpAddr>,
    /// The node's slot, if the driver may give it a socket that it shares with others which bind the same id with the
    /// same options. `None`: a socket of its own.
    pub slot: Option<Slot>,
}

/// The keep-alive probes of an idle TCP connection (RFC 9293 §3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// The idle time before the first probe.
    pub idle: Duration,
    /// The interval between probes.
    pub interval: Duration,
    /// The number of unanswered probes after which the connection fails.
    pub probes: u32,
}

/// The socket options of one TCP connection; options that the system does not support are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Whether small writes are sent at once (no Nagle algorithm, RFC 9293 §3.7.4).
    pub no_delay: bool,
    /// The keep-alive probes; `None`: no probes.
    pub keep_alive: Option<KeepAlive>,
    /// If bytes stay unacknowledged for this long, the TCP connection fails with `TimedOut` (RFC 5482). `None`: the
    /// default of the system, about 15 minutes.
    pub user_timeout: Option<Duration>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        let keep_alive = KeepAlive { idle: Duration::from_secs(30), interval: Duration::from_secs(10), probes: 3 };
        Self { no_delay: true, keep_alive: Some(keep_alive), user_timeout: Some(Duration::from_secs(60)) }
    }
}

/// The destination of a TCP connection to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// The remote address.
    pub to: SocketAddr,
    /// The TCP connection's options.
    pub options: TcpOptions,
}

impl From<SocketAddr> for Dial {
    fn from(to: SocketAddr) -> Self {
        Self { to, options: TcpOptions::default() }
    }
}

/// The options of a TCP listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address and port; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Whether `[::]` also accepts IPv4, if the system supports it.
    pub dual_stack: bool,
    /// Maximum number of connections that wait to be accepted; the system may allow fewer.
    pub backlog: u32,
    /// The options of accepted TCP connections.
    pub options: TcpOptions,
}

impl Listen {
    /// A backlog that is large enough for a burst of reconnecting clients.
    pub const BACKLOG: u32 = 1024;
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, dual_stack: true, backlog: Self::BACKLOG, options: TcpOptions::default() }
    }
}

/// One address of this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// The system's name of the interface.
    pub name: String,
    /// The address.
    pub addr: IpAddr,
    /// The length of the network prefix, in bits.
    pub prefix: u8,
}

/// A request of the node to its driver. Actions are infrequent and are executed in order.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Bind a UDP socket; the driver answers with [`crate::node::Input::Bound`].
    Bind(SocketId, Bind),
    /// Close a UDP socket; not answered.
    Release(SocketId),
    /// Listen for TCP connections; the driver answers with [`crate::node::Input::Listening`] and calls
    /// [`crate::node::Node::handle_accept`] for each incoming connection.
    Listen(ListenerId, Listen),
    /// Stop listening; not answered. Accepted TCP connections stay open.
    Unlisten(ListenerId),
    /// Connect; the driver answers with [`TcpEvent::Up`] or [`TcpEvent::Failed`]. The node sets the time limit itself
    /// and uses [`Action::Abort`] when it has passed.
    Dial(TcpId, Dial),
    /// Write the rest of [`crate::node::Node::pipe_output`], then send FIN; not answered. The other direction stays
    /// open until its [`TcpEvent::Eof`], and the TCP connection ends when both directions have ended.
    Finish(TcpId),
    /// Close the TCP connection; not answered, and the driver passes no more received bytes to the node. Without
    /// [`Action::Finish`] before, the driver drops unsent bytes and resets the connection. After [`Action::Finish`] it
    /// is an orderly close: the driver still writes unsent bytes (so [`TcpEvent::Wrote`] is still possible) and
    /// discards received ones, both for at most a second. A second `Abort` ends that at once.
    Abort(TcpId),
    /// Query the name service for host and port; the driver answers with [`crate::node::Input::Resolved`].
    Resolve(QueryId, String, u16),
}

/// An event of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpEvent {
    /// A dialled TCP connection is connected. An accepted TCP connection is connected from the start.
    Up,
    /// The driver wrote this many bytes, at least one, to the start of [`crate::node::Node::pipe_buffer`].
    Filled(usize),
    /// The system accepted this many bytes, at least one, of [`crate::node::Node::pipe_output`].
    Wrote(usize),
    /// The other side has sent FIN. It may still read.
    Eof,
    /// The TCP connection failed: refused, reset or timed out. Its id is no longer valid.
    Failed(io::ErrorKind),
}
