//! [`Io`] on tokio: readiness from its reactor, one timer, its threads for blocking work.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tallow_proto::drive::{Io, Received};
use tallow_proto::node::{Bind, SocketId, Transmit};
use tallow_runtime::udp;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::time::Sleep;

/// The driver's outside on tokio.
#[derive(Debug)]
pub struct TokioIo {
    runtime: Handle,
    sleep: Pin<Box<Sleep>>,
    /// What `sleep` is set to.
    at: Instant,
    /// A handful: a scan is quicker than a map.
    sockets: Vec<(SocketId, UdpSocket, udp::State)>,
}

impl TokioIo {
    /// For a driver that will run on the runtime that is current here.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without IO and time enabled.
    #[must_use]
    pub fn new() -> Self {
        let at = Instant::now();
        let sleep = Box::pin(tokio::time::sleep_until(at.into()));
        Self { runtime: Handle::current(), sleep, at, sockets: Vec::new() }
    }

    fn socket(&self, id: SocketId) -> io::Result<(&UdpSocket, &udp::State)> {
        let found = self.sockets.iter().find(|(known, ..)| *known == id);
        found.map(|(_, socket, state)| (socket, state)).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Default for TokioIo {
    fn default() -> Self {
        Self::new()
    }
}

impl Io for TokioIo {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.at != at {
            self.sleep.as_mut().reset(at.into());
            self.at = at;
        }
        self.sleep.as_mut().poll(cx)
    }

    fn bind(&mut self, id: SocketId, bind: &Bind) -> io::Result<SocketAddr> {
        let (socket, state) = udp::bind(bind)?;
        let _entered = self.runtime.enter();
        let socket = UdpSocket::from_std(socket)?;
        let addr = socket.local_addr()?;
        self.sockets.push((id, socket, state));
        Ok(addr)
    }

    fn release(&mut self, id: SocketId) {
        self.sockets.retain(|(known, ..)| *known != id);
    }

    fn max_segments(&self, id: SocketId) -> NonZeroUsize {
        self.socket(id).map_or(NonZeroUsize::MIN, |(_, state)| state.max_segments())
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        id: SocketId,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        let (socket, state) = self.socket(id)?;
        loop {
            ready!(socket.poll_recv_ready(cx))?;
            match socket.try_io(Interest::READABLE, || state.recv(socket, bufs, received)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
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
            ready!(socket.poll_send_ready(cx))?;
            match socket.try_io(Interest::WRITABLE, || state.send(socket, transmit, contents)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn run_blocking(&mut self, work: Box<dyn FnOnce() + Send>) {
        drop(self.runtime.spawn_blocking(work));
    }

    fn lookup(host: &str, port: u16) -> Vec<SocketAddr> {
        tallow_runtime::lookup(host, port)
    }
}
