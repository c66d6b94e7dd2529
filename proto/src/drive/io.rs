//! The interface that a runtime implements for the driver, in poll form. It uses no type of a socket library.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::task::{Context, Poll};

use crate::Instant;
use crate::net::{Bind, Dial, Ecn, Listen, ListenerId, QueryId, SocketId, TcpId, Transmit};
use crate::node::Input;

/// The system's description of one filled receive buffer: one datagram, or several from one sender that it joined
/// (GRO).
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The sender.
    pub from: SocketAddr,
    /// The local address that it was sent to, if the system reports it.
    pub local_ip: Option<IpAddr>,
    /// Its ECN bits.
    pub ecn: Ecn,
    /// Bytes in the buffer.
    pub len: usize,
    /// Bytes of each datagram in it; the last one may be shorter.
    pub stride: usize,
}

impl Received {
    /// The value of a slot before it is filled.
    pub const NONE: Self = Self {
        from: SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0)),
        local_ip: None,
        ecn: Ecn::NotEct,
        len: 0,
        stride: 0,
    };
}

/// The interface of a runtime.
///
/// # The contract
///
/// One task polls the driver, and only the driver calls these methods.
///
/// **Wakers.** A method that returns `Pending` keeps the context's waker and wakes it once the same call could do more.
/// For each method and id only the waker of the last call counts; an earlier one is stale and may be dropped, since the
/// driver passes a new one whenever its task moves. Spurious wake-ups are harmless. The timer, the system events, the
/// answers of the name service and all UDP sockets are polled with the waker of the driver's task. Each listener and
/// each TCP connection has its own waker, which is always the same; it is woken when either direction of a TCP
/// connection can do more.
///
/// **Order.** [`Io::bind`] comes before [`Io::poll_recv`] and [`Io::poll_send`] of a socket, and none of them after
/// [`Io::release`]; then the id may be bound again. The same holds for [`Io::listen`], [`Io::poll_accept`] and
/// [`Io::unlisten`]. A TCP connection begins with [`Io::adopt`], or with [`Io::dial`] and [`Io::poll_dialled`] until
/// that is ready; then [`Io::poll_read`] and [`Io::poll_write`]; it ends with one [`Io::close`] or [`Io::reset`], after
/// which nothing is called for its id. Ids of TCP connections are not used again.
///
/// **Errors.** `Ready(Err)` of a socket or listener is never the end of it: the datagram or connection is lost, and the
/// driver calls again, after a pause if there are only errors. An error of a TCP connection ends it, except that
/// after a failed write the driver still reads what had arrived. Only [`io::ErrorKind`] reaches the node.
///
/// **Threads.** Neither the trait nor the driver needs `Send`: a runtime that moves its task between threads has an
/// `Io` that is. Without threads at all, [`Io::run_blocking`] may do the work at once.
///
/// A third runtime can check itself with the tests in `tallow_runtime::conformance`.
pub trait Io {
    /// A connection that was accepted and has no id yet. Dropping it refuses the connection.
    type Accepted;

    /// The clock.
    fn now(&self) -> Instant;
    /// Ready once `at` has passed. A later call with another time replaces the earlier one; it may be earlier or later.
    fn poll_timer(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()>;
    /// Reports [`Input::Gateways`] and [`Input::Interfaces`] first and on each change, and [`Input::Slept`] when the
    /// machine was suspended. A clock that runs during suspension measures that, never the wall clock. The driver calls
    /// this until it is `Pending`, which may be forever if the system reports none of them.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<Input>;

    /// Opens a UDP socket and returns its local address. Called for an id that is not bound.
    ///
    /// # Errors
    /// What the system reports; the node receives the kind.
    fn bind(&mut self, socket: SocketId, bind: &Bind) -> io::Result<SocketAddr>;
    /// Closes a socket. An id that is not bound is ignored.
    fn release(&mut self, socket: SocketId);
    /// How many datagrams of one size can be sent by one call (GSO); read before each batch, since it may drop to one.
    fn max_segments(&self, socket: SocketId) -> NonZeroUsize;
    /// Fills buffers from the first on, describes each in `received`, and returns how many were filled. `Pending` until
    /// a datagram arrives, which may be never. `Ready(Err)` is a loss: call again.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        socket: SocketId,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>>;
    /// Sends `contents` as `transmit` describes. `Pending`: nothing was sent, the driver calls again with the same; it
    /// may last as long as the system has no room. `Ready(Err)`: the batch is lost.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        socket: SocketId,
        transmit: &Transmit,
        contents: &[u8],
    ) -> Poll<io::Result<()>>;

    /// Opens a TCP listener and returns its local address. Called for an id that does not listen.
    ///
    /// # Errors
    /// What the system reports; the node receives the kind.
    fn listen(&mut self, listener: ListenerId, listen: &Listen) -> io::Result<SocketAddr>;
    /// Closes a listener. An id that does not listen is ignored.
    fn unlisten(&mut self, listener: ListenerId);
    /// The next connection, with the options of its listener, and its source address. `Pending` until one arrives,
    /// which may be never. `Ready(Err)` is not the end of the listener: call again.
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        listener: ListenerId,
    ) -> Poll<io::Result<(Self::Accepted, SocketAddr)>>;
    /// Makes an accepted connection a TCP connection.
    fn adopt(&mut self, tcp: TcpId, accepted: Self::Accepted);

    /// Starts to connect.
    ///
    /// # Errors
    /// What the system reports at once, for example that it has no descriptor or no route. There is no such TCP
    /// connection then, and nothing more is called for the id.
    fn dial(&mut self, tcp: TcpId, dial: &Dial) -> io::Result<()>;
    /// Ready once the TCP connection is connected, or has failed. `Pending` for as long as the system
    /// tries; the node sets the limit.
    fn poll_dialled(&mut self, cx: &mut Context<'_>, tcp: TcpId) -> Poll<io::Result<()>>;
    /// Reads into `into`, which is not empty. `Ready(Ok(0))`: the other side's end; it is not called again then.
    /// `Pending` until bytes arrive, which may be never.
    fn poll_read(&mut self, cx: &mut Context<'_>, tcp: TcpId, into: &mut [u8]) -> Poll<io::Result<usize>>;
    /// Writes from the slices, of which at least one is not empty, and returns how many bytes were taken, at least one.
    /// `Pending` until the system has room, which may be never.
    fn poll_write(&mut self, cx: &mut Context<'_>, tcp: TcpId, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;
    /// Sends FIN after the written bytes; reading continues. Called once for a TCP connection, and no write follows.
    fn finish(&mut self, tcp: TcpId);
    /// Releases a TCP connection that was finished; the system still delivers the bytes that it accepted.
    fn close(&mut self, tcp: TcpId);
    /// Releases a TCP connection with a reset, in any state; unsent bytes are dropped.
    fn reset(&mut self, tcp: TcpId);

    /// Queries the name service for the addresses of a host, which may also be an IP address. It does not block.
    fn resolve(&mut self, query: QueryId, host: &str, port: u16);
    /// The next answer to [`Io::resolve`], in any order; without addresses when there are none. Each query is answered
    /// exactly once. It is called only while an answer is missing, and until it is `Pending`.
    fn poll_resolved(&mut self, cx: &mut Context<'_>) -> Poll<(QueryId, Vec<SocketAddr>)>;

    /// Does `work`, which may block and use much CPU time: on another thread, several at a time, in any order. Where
    /// there are no threads it may be done before this returns.
    fn run_blocking(&mut self, work: Box<dyn FnOnce() + Send>);
}
