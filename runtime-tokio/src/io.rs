//! [`Io`] on tokio: readiness from its reactor, two timers, its threads for blocking work.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tallow_proto::drive::{Io, Received};
use tallow_proto::net::{Bind, Dial, Listen, ListenerId, QueryId, SocketId, TcpId, TcpOptions, Transmit};
use tallow_proto::node::Input;
use tallow_runtime::network_monitor::NetworkMonitor;
use tallow_runtime::resolver::Resolver;
use tallow_runtime::{tcp, udp};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::time::Sleep;

/// The driver's outside on tokio.
#[derive(Debug)]
pub struct TokioIo {
    runtime: Handle,
    timer: Timer,
    news_timer: Timer,
    news: NetworkMonitor,
    /// A handful: a scan is quicker than a map.
    sockets: Vec<(SocketId, UdpSocket, udp::State)>,
    listeners: Vec<(ListenerId, TcpListener, TcpOptions)>,
    tcp_connections: HashMap<TcpId, TcpStream>,
    resolver: Resolver,
}

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// What it is set to.
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
    /// For a driver that will run on the runtime that is current here.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without IO and time enabled.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            runtime: Handle::current(),
            timer: Timer::new(now),
            news_timer: Timer::new(now),
            news: NetworkMonitor::new(now),
            sockets: Vec::new(),
            listeners: Vec::new(),
            tcp_connections: HashMap::new(),
            resolver: Resolver::default(),
        }
    }

    fn socket(&self, id: SocketId) -> io::Result<(&UdpSocket, &udp::State)> {
        let found = self.sockets.iter().find(|(known, ..)| *known == id);
        found.map(|(_, socket, state)| (socket, state)).ok_or_else(|| io::ErrorKind::NotConnected.into())
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
