//! [`Io`] on async-io: readiness from its reactor, two timers; blocking work on the threads of `blocking`.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_io::Async;
use tallow_proto::drive::{Io, Received};
use tallow_proto::net::{Bind, Dial, Listen, ListenerId, QueryId, SocketId, TcpId, TcpOptions, Transmit};
use tallow_proto::node::Input;
use tallow_runtime::network_monitor::NetworkMonitor;
use tallow_runtime::resolver::Resolver;
use tallow_runtime::{tcp, udp};

/// The driver's outside on async-io. Any executor may poll the driver.
#[derive(Debug)]
pub struct SmolIo {
    timer: Timer,
    news_timer: Timer,
    news: NetworkMonitor,
    /// A handful: a scan is quicker than a map.
    sockets: Vec<(SocketId, Async<UdpSocket>, udp::State)>,
    listeners: Vec<(ListenerId, Async<TcpListener>, TcpOptions)>,
    tcp_connections: HashMap<TcpId, Async<TcpStream>>,
    resolver: Resolver,
}

#[derive(Debug)]
struct Timer {
    timer: async_io::Timer,
    /// What it is set to.
    at: Option<Instant>,
}

impl Timer {
    fn never() -> Self {
        Self { timer: async_io::Timer::never(), at: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.at != Some(at) {
            self.timer.set_at(at);
            self.at = Some(at);
        }
        ready!(Pin::new(&mut self.timer).poll(cx));
        self.at = None;
        Poll::Ready(())
    }
}

impl SmolIo {
    /// Nothing is bound.
    #[must_use]
    pub fn new() -> Self {
        Self {
            timer: Timer::never(),
            news_timer: Timer::never(),
            news: NetworkMonitor::new(Instant::now()),
            sockets: Vec::new(),
            listeners: Vec::new(),
            tcp_connections: HashMap::new(),
            resolver: Resolver::default(),
        }
    }

    fn socket(&self, id: SocketId) -> io::Result<(&Async<UdpSocket>, &udp::State)> {
        let found = self.sockets.iter().find(|(known, ..)| *known == id);
        found.map(|(_, socket, state)| (socket, state)).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn tcp(&self, id: TcpId) -> io::Result<&Async<TcpStream>> {
        self.tcp_connections.get(&id).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Default for SmolIo {
    fn default() -> Self {
        Self::new()
    }
}

impl Io for SmolIo {
    type Accepted = Async<TcpStream>;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        self.timer.poll(cx, at)
    }

    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        loop {
            if let Some(news) = self.news.check(Instant::now()) {
                return Poll::Ready(news);
            }
            ready!(self.news_timer.poll(cx, self.news.next()));
        }
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

    // The call comes first in all directions: asking the reactor first would cost a round trip
    // to its thread for each packet.

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        id: SocketId,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        let (socket, state) = self.socket(id)?;
        now_or_when(|| state.recv(socket, bufs, received), || socket.poll_readable(cx))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        id: SocketId,
        transmit: &Transmit,
        contents: &[u8],
    ) -> Poll<io::Result<()>> {
        let (socket, state) = self.socket(id)?;
        now_or_when(|| state.send(socket, transmit, contents), || socket.poll_writable(cx))
    }

    fn listen(&mut self, id: ListenerId, listen: &Listen) -> io::Result<SocketAddr> {
        let listener = Async::new_nonblocking(tcp::listen(listen)?)?;
        let addr = listener.get_ref().local_addr()?;
        self.listeners.push((id, listener, listen.options));
        Ok(addr)
    }

    fn unlisten(&mut self, id: ListenerId) {
        self.listeners.retain(|(known, ..)| *known != id);
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        id: ListenerId,
    ) -> Poll<io::Result<(Async<TcpStream>, SocketAddr)>> {
        let Some((_, listener, options)) = self.listeners.iter().find(|(known, ..)| *known == id) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let (stream, from) = ready!(now_or_when(|| listener.get_ref().accept(), || listener.poll_readable(cx)))?;
        tcp::set_options(&stream, options);
        Poll::Ready(Async::new(stream).map(|stream| (stream, tcp::canonical(from))))
    }

    fn adopt(&mut self, id: TcpId, accepted: Async<TcpStream>) {
        self.tcp_connections.insert(id, accepted);
    }

    fn dial(&mut self, id: TcpId, dial: &Dial) -> io::Result<()> {
        self.tcp_connections.insert(id, Async::new_nonblocking(tcp::connect(dial)?)?);
        Ok(())
    }

    fn poll_dialled(&mut self, cx: &mut Context<'_>, id: TcpId) -> Poll<io::Result<()>> {
        let stream = self.tcp(id)?;
        ready!(stream.poll_writable(cx))?;
        Poll::Ready(tcp::connected(stream))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, id: TcpId, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let stream = self.tcp(id)?;
        now_or_when(|| stream.get_ref().read(into), || stream.poll_readable(cx))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, id: TcpId, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let stream = self.tcp(id)?;
        now_or_when(|| stream.get_ref().write_vectored(slices), || stream.poll_writable(cx))
    }

    fn finish(&mut self, id: TcpId) {
        if let Some(stream) = self.tcp_connections.get(&id) {
            tcp::finish(stream);
        }
    }

    fn close(&mut self, id: TcpId) {
        self.tcp_connections.remove(&id);
    }

    fn reset(&mut self, id: TcpId) {
        if let Some(stream) = self.tcp_connections.remove(&id) {
            tcp::reset_on_close(&stream);
        }
    }

    fn resolve(&mut self, query: QueryId, host: &str, port: u16) {
        blocking::unblock(self.resolver.query(query, host, port)).detach();
    }

    fn poll_resolved(&mut self, cx: &mut Context<'_>) -> Poll<(QueryId, Vec<SocketAddr>)> {
        self.resolver.poll(cx)
    }

    fn run_blocking(&mut self, work: Box<dyn FnOnce() + Send>) {
        blocking::unblock(work).detach();
    }
}

/// Calls, and again whenever the reactor says so, until the answer is not `WouldBlock`.
fn now_or_when<T>(
    mut call: impl FnMut() -> io::Result<T>,
    mut ready: impl FnMut() -> Poll<io::Result<()>>,
) -> Poll<io::Result<T>> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return Poll::Ready(result),
        }
        ready!(ready())?;
    }
}
