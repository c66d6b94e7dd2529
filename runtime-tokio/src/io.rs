//! [`Io`] on tokio: readiness from its reactor, two timers, and its threads for blocking work.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tallow_proto::drive::{Io, Received};
use tallow_proto::net::{Bind, Dial, Listen, ListenerId, QueryId, SocketId, TcpId, TcpOptions, Transmit};
use tallow_proto::node::Input;
use tallow_runtime::network_monitor::NetworkMonitor;
use tallow_runtime::resolver::Resolver;
use tallow_runtime::share::{Hub, Socket, Udp};
use tallow_runtime::{tcp, udp};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::time::Sleep;

/// The driver's `Io` on tokio.
#[derive(Debug)]
pub struct TokioIo {
    runtime: Handle,
    timer: Timer,
    news_timer: Timer,
    news: NetworkMonitor,
    /// There are only a few sockets: a scan is faster than a map.
    sockets: Vec<(SocketId, Socket<TokioUdp>)>,
    /// The drivers with which sockets are shared.
    hub: Option<Arc<Hub<TokioUdp>>>,
    listeners: Vec<(ListenerId, TcpListener, TcpOptions)>,
    tcp_connections: HashMap<TcpId, TcpStream>,
    resolver: Resolver,
}

/// A UDP socket on tokio's reactor.
#[derive(Debug)]
pub(crate) struct TokioUdp {
    socket: UdpSocket,
    state: udp::State,
}

impl Udp for TokioUdp {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
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
        loop {
            ready!(socket.poll_recv_ready(cx))?;
            match socket.try_io(Interest::READABLE, || state.recv(socket, bufs, received)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<io::Result<()>> {
        let Self { socket, state } = self;
        loop {
            ready!(socket.poll_send_ready(cx))?;
            match socket.try_io(Interest::WRITABLE, || state.send(socket, transmit, contents)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// The time to which the timer is set.
    at: Instant,
}

impl Timer {
    fn new(at: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(at.into())), at }
    }

    fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.at != at {
            self.sleep.as_mut().reset(at.into());
            self.at = at;
        }
        self.sleep.as_mut().poll(cx)
    }
}

impl TokioIo {
    /// For a driver that will run on the current runtime.
    ///
    /// # Panics
    /// If called outside a tokio runtime, or in one without IO and time enabled.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            runtime: Handle::current(),
            timer: Timer::new(now),
            news_timer: Timer::new(now),
            news: NetworkMonitor::new(now),
            sockets: Vec::new(),
            hub: None,
            listeners: Vec::new(),
            tcp_connections: HashMap::new(),
            resolver: Resolver::default(),
        }
    }

    /// The same for a driver that shares UDP sockets with others of the pool, where its node allows it.
    pub(crate) fn sharing(hub: Arc<Hub<TokioUdp>>) -> Self {
        Self { hub: Some(hub), ..Self::new() }
    }

    fn socket(&mut self, id: SocketId) -> io::Result<&mut Socket<TokioUdp>> {
        let found = self.sockets.iter_mut().find(|(known, _)| *known == id);
        found.map(|(_, socket)| socket).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn tcp(&mut self, id: TcpId) -> io::Result<Pin<&mut TcpStream>> {
        self.tcp_connections.get_mut(&id).map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Default for TokioIo {
    fn default() -> Self {
        Self::new()
    }
}

impl Io for TokioIo {
    type Accepted = TcpStream;

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
            let _entered = self.runtime.enter();
            Ok(TokioUdp { socket: UdpSocket::from_std(socket)?, state })
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
        let listener = tcp::listen(listen)?;
        let _entered = self.runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let addr = listener.local_addr()?;
        self.listeners.push((id, listener, listen.options));
        Ok(addr)
    }

    fn unlisten(&mut self, id: ListenerId) {
        self.listeners.retain(|(known, ..)| *known != id);
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>, id: ListenerId) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let Some((_, listener, options)) = self.listeners.iter().find(|(known, ..)| *known == id) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let (stream, from) = ready!(listener.poll_accept(cx))?;
        tcp::set_options(&stream, options);
        Poll::Ready(Ok((stream, tcp::canonical(from))))
    }

    fn adopt(&mut self, id: TcpId, accepted: TcpStream) {
        self.tcp_connections.insert(id, accepted);
    }

    fn dial(&mut self, id: TcpId, dial: &Dial) -> io::Result<()> {
        let _entered = self.runtime.enter();
        self.tcp_connections.insert(id, TcpStream::from_std(tcp::connect(dial)?)?);
        Ok(())
    }

    fn poll_dialled(&mut self, cx: &mut Context<'_>, id: TcpId) -> Poll<io::Result<()>> {
        let stream = self.tcp(id)?;
        ready!(stream.poll_write_ready(cx))?;
        Poll::Ready(tcp::connected(&*stream))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, id: TcpId, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        ready!(self.tcp(id)?.poll_read(cx, &mut into))?;
        Poll::Ready(Ok(into.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, id: TcpId, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.tcp(id)?.poll_write_vectored(cx, slices)
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
        drop(self.runtime.spawn_blocking(self.resolver.query(query, host, port)));
    }

    fn poll_resolved(&mut self, cx: &mut Context<'_>) -> Poll<(QueryId, Vec<SocketAddr>)> {
        self.resolver.poll(cx)
    }

    fn run_blocking(&mut self, work: Box<dyn FnOnce() + Send>) {
        drop(self.runtime.spawn_blocking(work));
    }
}
