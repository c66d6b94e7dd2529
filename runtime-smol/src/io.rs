//! [`Io`] on async-io: readiness from its reactor, one timer; blocking work on the threads of `blocking`.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_io::{Async, Timer};
use tallow_proto::drive::{Io, Received};
use tallow_proto::node::{Bind, SocketId, Transmit};
use tallow_runtime::udp;

/// The driver's outside on async-io. Any executor may poll the driver.
#[derive(Debug)]
pub struct SmolIo {
    timer: Timer,
    /// What `timer` is set to.
    at: Option<Instant>,
    /// A handful: a scan is quicker than a map.
    sockets: Vec<(SocketId, Async<UdpSocket>, udp::State)>,
}

impl SmolIo {
    /// Nothing is bound.
    #[must_use]
    pub fn new() -> Self {
        Self { timer: Timer::never(), at: None, sockets: Vec::new() }
    }

    fn socket(&self, id: SocketId) -> io::Result<(&Async<UdpSocket>, &udp::State)> {
        let found = self.sockets.iter().find(|(known, ..)| *known == id);
        found.map(|(_, socket, state)| (socket, state)).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Default for SmolIo {
    fn default() -> Self {
        Self::new()
    }
}

impl Io for SmolIo {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.at != Some(at) {
            self.timer.set_at(at);
            self.at = Some(at);
        }
        ready!(Pin::new(&mut self.timer).poll(cx));
        self.at = None;
        Poll::Ready(())
    }

    fn bind(&mut self, id: SocketId, bind: &Bind) -> io::Result<SocketAddr> {
        let (socket, state) = udp::bind(bind)?;
        let socket = Async::new_nonblocking(socket)?;
        let addr = socket.get_ref().local_addr()?;
        self.sockets.push((id, socket, state));
        Ok(addr)
    }

    fn release(&mut self, id: SocketId) {
        self.sockets.retain(|(known, ..)| *known != id);
    }

    fn max_segments(&self, id: SocketId) -> NonZeroUsize {
        self.socket(id).map_or(NonZeroUsize::MIN, |(_, state)| state.max_segments())
    }

    // The call comes first in both directions: asking the reactor first would cost a round trip to its thread for each packet.

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        id: SocketId,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        let (socket, state) = self.socket(id)?;
        loop {
            match state.recv(socket, bufs, received) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            ready!(socket.poll_readable(cx))?;
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        id: SocketId,
        transmit: &Transmit,
        contents: &[u8],
    ) -> Poll<io::Result<()>> {
        let (socket, state) = self.socket(id)?;
        loop {
            match state.send(socket, transmit, contents) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            ready!(socket.poll_writable(cx))?;
        }
    }

    fn run_blocking(&mut self, work: Box<dyn FnOnce() + Send>) {
        blocking::unblock(work).detach();
    }

    fn lookup(host: &str, port: u16) -> Vec<SocketAddr> {
        tallow_runtime::lookup(host, port)
    }
}
