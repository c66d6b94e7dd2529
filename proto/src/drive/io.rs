//! What a runtime gives to the driver, in poll form. It names no type of any socket library.
//!
//! A method that answers `Pending` has registered the context's waker. Runtimes keep one waker for each direction of a
//! socket, the last one: exactly one task polls a socket. All UDP sockets of a driver share its task's waker; each listener
//! and each pipe is polled with a waker of its own, always the same.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::task::{Context, Poll};

use crate::Instant;
use crate::net::{Bind, Dial, Ecn, Listen, ListenerId, PipeId, SocketId, Transmit};
use crate::node::Input;

/// What the system told about one filled receive buffer: one datagram, or several of one sender that it joined (GRO).
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The sender.
    pub from: SocketAddr,
    /// The local address that it was sent to, where the system tells.
    pub local_ip: Option<IpAddr>,
    /// Its ECN bits.
    pub ecn: Ecn,
    /// Bytes in the buffer.
    pub len: usize,
    /// Bytes of each datagram in it; the last one may be shorter.
    pub stride: usize,
}

impl Received {
    /// Nothing: what a slot holds before it was filled in.
    pub const NONE: Self = Self {
        from: SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0)),
        local_ip: None,
        ecn: Ecn::NotEct,
        len: 0,
        stride: 0,
    };
}

/// What a runtime gives.
pub trait Io {
    /// A connection that was accepted and has no name yet. Dropping it turns it away.
    type Accepted;

    /// The clock.
    fn now(&self) -> Instant;
    /// Ready once `at` has passed. A later call with another time replaces the earlier one.
    fn poll_timer(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()>;
    /// [`Input::Gateways`] and [`Input::Interfaces`] first and on each change; [`Input::Slept`] when the machine was asleep, told by a clock that goes
    /// on meanwhile and never by the wall clock. `Pending` for ever where neither can be known.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<Input>;

    /// Opens a UDP socket and tells its local address.
    ///
    /// # Errors
    /// Whatever the system says; the node hears the kind.
    fn bind(&mut self, socket: SocketId, bind: &Bind) -> io::Result<SocketAddr>;
    /// Closes it. A name that is not bound is ignored.
    fn release(&mut self, socket: SocketId);
    /// How many datagrams of one size can be sent by one call (GSO); read before each batch, since it may drop to one.
    fn max_segments(&self, socket: SocketId) -> NonZeroUsize;
    /// Fills buffers from the first on and tells of each. `Ready(Err)` is loss and never fatal: call again.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        socket: SocketId,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>>;
    /// Sends `contents` as `transmit` says. `Pending`: nothing was sent, call again with the same. `Ready(Err)`: it is lost.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        socket: SocketId,
        transmit: &Transmit,
        contents: &[u8],
    ) -> Poll<io::Result<()>>;

    /// Opens a TCP listener and tells its local address.
    ///
    /// # Errors
    /// Whatever the system says; the node hears the kind.
    fn listen(&mut self, listener: ListenerId, listen: &Listen) -> io::Result<SocketAddr>;
    /// Closes it. A name that does not listen is ignored.
    fn unlisten(&mut self, listener: ListenerId);
    /// The next connection, with the options of its listener, and where it came from. `Ready(Err)` is never fatal.
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        listener: ListenerId,
    ) -> Poll<io::Result<(Self::Accepted, SocketAddr)>>;
    /// Names a newcomer.
    fn adopt(&mut self, pipe: PipeId, accepted: Self::Accepted);
    /// Starts to connect. Whatever is wrong is told by [`Io::poll_dialled`].
    fn dial(&mut self, pipe: PipeId, dial: &Dial);
    /// Ready once the dialled pipe is connected, or is not going to be.
    fn poll_dialled(&mut self, cx: &mut Context<'_>, pipe: PipeId) -> Poll<io::Result<()>>;
    /// Reads into `into`, which is not empty. `Ready(Ok(0))`: the other side's end.
    fn poll_read(&mut self, cx: &mut Context<'_>, pipe: PipeId, into: &mut [u8]) -> Poll<io::Result<usize>>;
    /// Writes from the slices, of which one is not empty, and tells how many bytes were taken.
    fn poll_write(&mut self, cx: &mut Context<'_>, pipe: PipeId, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;
    /// Sends FIN after what was written; reading goes on.
    fn finish(&mut self, pipe: PipeId);
    /// Forgets the pipe: with a reset, unless it was finished (the system then goes on to deliver what it was given).
    fn abort(&mut self, pipe: PipeId);

    /// Runs `work` on a thread that may block.
    fn run_blocking(&mut self, work: Box<dyn FnOnce() + Send>);
    /// Asks the system's name service; called on a thread that may block. Empty when it knows nothing.
    fn lookup(host: &str, port: u16) -> Vec<SocketAddr>;
}
