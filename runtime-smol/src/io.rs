//! [`Io`] on async-io: readiness from its reactor, two timers; blocking work runs on the threads of `blocking`.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_io::Async;
use tallow_proto::drive::{Io, Received};
use tallow_proto::net::{Bind, Dial, Listen, ListenerId, QueryId, SocketId, TcpId, TcpOptions, Transmit};
use tallow_proto::node::Input;
use tallow_runtime::network_monitor::NetworkMonitor;
use tallow_runtime::resolver::Resolver;
use tallow_runtime::share::{Hub, Socket, Udp};
use tallow_runtime::{tcp, udp};

/// The driver's `Io` on async-io. Any executor may poll the driver.
#[derive(Debug)]
pub struct SmolIo {
    timer: Timer,
    news_timer: Timer,
    news: NetworkMonitor,
    /// There are only a few sockets: a scan is faster than a map.
    sockets: Vec<(SocketId, Socket<SmolUdp>)>,
    /// The drivers with which sockets are shared.
    hub: Option<Arc<Hub<SmolUdp>>>,
    listeners: Vec<(ListenerId, Async<TcpListener>, TcpOptions)>,
    tcp_connections: HashMap<TcpId, Async<TcpStream>>,
    resolver: Resolver,
}

/// A UDP socket on async-io's reactor.
#[derive(Debug)]
pub(crate) struct SmolUdp {
    socket: Async<UdpSocket>,
    state: udp::State,
}

impl Udp for SmolUdp {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }

    fn max_segments(&self) -> NonZeroUsize {
        self.state.max_segments()
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, state } = self;
        now_or_when(|| state.recv(socket, bufs, received), || socket.poll_readable(cx))
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<io::Result<()>> {
        let Self { socket, state } = self;
        now_or_when(|| state.send(socket, transmit, contents), || socket.poll_writable(cx))
    }
}

#[derive(Debug)]
struct Timer {
    timer: async_io::Timer,
    /// The time to which the timer is set.
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
    /// Creates it without sockets.
    #[must_use]
    pub fn new() -> Self {
        Self {
            timer: Timer::never(),
            news_timer: Timer::never(),
            news: NetworkMonitor::new(Instant::now()),
            sockets: Vec::new(),
            hub: None,
            listeners: Vec::new(),
            tcp_connections: HashMap::new(),
            resolver: Resolver::default(),
        }
    }

    /// The same for a driver that shares UDP sockets with others of the pool, where its node allows it.
    pub(crate) fn sharing(hub: Arc<Hub<SmolUdp>>) -> Self {
        Self { hub: Some(hub), ..Self::new() }
    }

    fn socket(&mut self, id: SocketId) -> io::Result<&mut Socket<SmolUdp>> {
        let found = self.sockets.iter_mut().find(|(known, _)| *known == id);
        found.map(|(_, socket)| socket).ok_or_else(|| io::ErrorKind::NotConnected.into())
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
        let open = |bind: &Bind| {
            let (socket, state) = udp::bind(bind)?;
            Ok(SmolUdp { socket: Async::new_nonblocking(socket)?, state })
        };
        let socket = match &self.hub {
            Some(hub) => hub.bind(id, bind, open)?,
            None => Socket::Own(open(bind)?),
        };
        let addr = socket.local_addr()?;
        self.sockets.push((id, socket));
        Ok(addr)
    }

    fn release(&mut self, id: SocketId) {
        self.sockets.retain(|(known, _)| *known != id);
    }

    fn max_segments(&self, id: SocketId) -> NonZeroUsize {
        let found = self.sockets.iter().find(|(known, _)| *known == id);
        found.map_or(NonZeroUsize::MIN, |(_, socket)| socket.max_segments())
    }

    // In all directions the system call is tried first: asking the reactor first would cost a round trip to its
    // thread for each packet.

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        id: SocketId,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        self.socket(id)?.poll_recv(cx, bufs, received)
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        id: SocketId,
        transmit: &Transmit,
        contents: &[u8],
    ) -> Poll<io::Result<()>> {
        self.socket(id)?.poll_send(cx, transmit, contents)
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

/// Makes the call, and repeats it whenever the reactor reports readiness, until its result is not `WouldBlock`.
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
