//! A third runtime: a thread for each node, with mio for readiness and a thread for each blocking job.
//! `tests/tests/drive` runs the conformance tests on it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Registry, Token};
use tallow_proto::drive::{Driver, Handle, Io, Received};
use tallow_proto::net::{Bind, Dial, Listen, ListenerId, QueryId, SocketId, TcpId, TcpOptions, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_runtime::network_monitor::NetworkMonitor;
use tallow_runtime::resolver::Resolver;
use tallow_runtime::{tcp, udp};

/// The token of the waker with which other threads wake the reactor; the tokens of sources are higher.
const WAKER: Token = Token(0);

/// Drives a node on a thread of its own.
///
/// # Errors
/// The system can't create a thread or a reactor.
pub fn spawn<N: Node + Send + 'static>(node: N) -> io::Result<Handle<N>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().spawn(move || match ThreadsIo::new() {
        Err(error) => drop(sender.send(Err(error))),
        Ok((io, reactor)) => {
            let shared = io.shared.clone();
            let (handle, driver) = Driver::new(node, io);
            drop(sender.send(Ok(handle)));
            drive(driver, reactor, &shared);
        }
    })?;
    receiver.recv().map_err(io::Error::other)?
}

/// Polls the driver, then the reactor: without waiting if the driver was woken meanwhile, otherwise until the next
/// timer.
fn drive<N: Node + 'static>(mut driver: Driver<N, ThreadsIo>, mut reactor: Reactor, shared: &Shared) {
    let waker = Waker::from(reactor.task.clone());
    let mut events = Events::with_capacity(256);
    loop {
        reactor.task.woken.store(false, Ordering::Release);
        if driver.poll(&mut Context::from_waker(&waker)).is_ready() {
            return;
        }
        let next = [shared.timer.get(), shared.news_timer.get()].into_iter().flatten().min();
        let left = next.map(|at| at.saturating_duration_since(Instant::now()));
        let is_woken = reactor.task.woken.load(Ordering::Acquire);
        // The only error is an interruption by a signal, after which the driver finds nothing new.
        if reactor.poll.poll(&mut events, if is_woken { Some(Duration::ZERO) } else { left }).is_ok() {
            for event in &events {
                let waker = shared.wakers.borrow_mut().remove(&event.token());
                waker.into_iter().for_each(Waker::wake);
            }
        }
        for timer in [&shared.timer, &shared.news_timer] {
            timer.set(timer.get().filter(|&at| at > Instant::now()));
        }
    }
}

pub struct Reactor {
    poll: mio::Poll,
    task: Arc<Task>,
}

/// Wakes the thread that waits in its reactor.
struct Task {
    woken: AtomicBool,
    waker: mio::Waker,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            drop(self.waker.wake());
        }
    }
}

/// The state that the loop and the driver's `Io` share; both run on the same thread.
#[derive(Default)]
struct Shared {
    /// One waker for each source, because the driver polls both directions of a source with the same one.
    wakers: RefCell<BTreeMap<Token, Waker>>,
    timer: Cell<Option<Instant>>,
    news_timer: Cell<Option<Instant>>,
}

/// A source with its token. The reactor is edge-triggered: calls are repeated until one would block; only then the
/// source waits.
struct Registered<S>(S, Token);

/// The driver's `Io` on one thread.
pub struct ThreadsIo {
    registry: Registry,
    shared: Rc<Shared>,
    next_token: usize,
    news: NetworkMonitor,
    resolver: Resolver,
    sockets: BTreeMap<SocketId, (Registered<UdpSocket>, udp::State)>,
    listeners: BTreeMap<ListenerId, (Registered<TcpListener>, TcpOptions)>,
    tcp_connections: BTreeMap<TcpId, Registered<TcpStream>>,
}

impl ThreadsIo {
    /// Creates it together with the reactor that the thread polls.
    pub fn new() -> io::Result<(Self, Reactor)> {
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKER)?;
        let io = Self {
            registry: poll.registry().try_clone()?,
            shared: Rc::default(),
            next_token: WAKER.0,
            news: NetworkMonitor::new(Instant::now()),
            resolver: Resolver::default(),
            sockets: BTreeMap::new(),
            listeners: BTreeMap::new(),
            tcp_connections: BTreeMap::new(),
        };
        Ok((io, Reactor { poll, task: Arc::new(Task { woken: AtomicBool::new(true), waker }) }))
    }

    fn register<S: Source>(&mut self, mut source: S) -> io::Result<Registered<S>> {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.registry.register(&mut source, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Registered(source, token))
    }

    fn forget<S: Source>(&self, Registered(mut source, token): Registered<S>) {
        drop(self.registry.deregister(&mut source));
        self.shared.wakers.borrow_mut().remove(&token);
    }

    /// Makes the call, and keeps the waker if the call would block.
    fn try_now<T>(
        &self,
        cx: &Context<'_>,
        token: Token,
        mut call: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.shared.wakers.borrow_mut().insert(token, cx.waker().clone());
                    return Poll::Pending;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

fn unknown() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Io for ThreadsIo {
    type Accepted = TcpStream;

    fn now(&self) -> Instant {
        Instant::now()
    }
    fn poll_timer(&mut self, _: &mut Context<'_>, at: Instant) -> Poll<()> {
        // When the timer has expired, the loop polls the driver.
        self.shared.timer.set(Some(at).filter(|&at| at > Instant::now()));
        if self.shared.timer.get().is_some() { Poll::Pending } else { Poll::Ready(()) }
    }
    fn poll_news(&mut self, _: &mut Context<'_>) -> Poll<Input> {
        let news = self.news.check(Instant::now());
        self.shared.news_timer.set(Some(self.news.next()));
        news.map_or(Poll::Pending, Poll::Ready)
    }
    fn bind(&mut self, id: SocketId, bind: &Bind) -> io::Result<SocketAddr> {
        let (socket, state) = udp::bind(bind)?;
        let socket = self.register(UdpSocket::from_std(socket))?;
        let addr = socket.0.local_addr()?;
        self.sockets.insert(id, (socket, state));
        Ok(addr)
    }
    fn release(&mut self, id: SocketId) {
        if let Some((socket, _)) = self.sockets.remove(&id) {
            self.forget(socket);
        }
    }
    fn max_segments(&self, id: SocketId) -> NonZeroUsize {
        self.sockets.get(&id).map_or(NonZeroUsize::MIN, |(_, state)| state.max_segments())
    }
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        id: SocketId,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        let (Registered(socket, token), state) = self.sockets.get(&id).ok_or_else(unknown)?;
        self.try_now(cx, *token, || socket.try_io(|| state.recv(socket, bufs, received)))
    }
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        id: SocketId,
        transmit: &Transmit,
        contents: &[u8],
    ) -> Poll<io::Result<()>> {
        let (Registered(socket, token), state) = self.sockets.get(&id).ok_or_else(unknown)?;
        self.try_now(cx, *token, || socket.try_io(|| state.send(socket, transmit, contents)))
    }
    fn listen(&mut self, id: ListenerId, listen: &Listen) -> io::Result<SocketAddr> {
        let listener = self.register(TcpListener::from_std(tcp::listen(listen)?))?;
        let addr = listener.0.local_addr()?;
        self.listeners.insert(id, (listener, listen.options));
        Ok(addr)
    }
    fn unlisten(&mut self, id: ListenerId) {
        if let Some((listener, _)) = self.listeners.remove(&id) {
            self.forget(listener);
        }
    }
    fn poll_accept(&mut self, cx: &mut Context<'_>, id: ListenerId) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let (Registered(listener, token), options) = self.listeners.get(&id).ok_or_else(unknown)?;
        let accepted = self.try_now(cx, *token, || listener.accept());
        accepted.map_ok(|(stream, from)| {
            tcp::set_options(&stream, options);
            (stream, tcp::canonical(from))
        })
    }
    fn adopt(&mut self, id: TcpId, accepted: TcpStream) {
        // Without a registration the TCP connection is unknown: its first call fails, which ends it.
        if let Ok(stream) = self.register(accepted) {
            self.tcp_connections.insert(id, stream);
        }
    }
    fn dial(&mut self, id: TcpId, dial: &Dial) -> io::Result<()> {
        let stream = TcpStream::from_std(tcp::connect(dial)?);
        let stream = self.register(stream)?;
        self.tcp_connections.insert(id, stream);
        Ok(())
    }
    fn poll_dialled(&mut self, cx: &mut Context<'_>, id: TcpId) -> Poll<io::Result<()>> {
        let Registered(stream, token) = self.tcp_connections.get(&id).ok_or_else(unknown)?;
        self.try_now(cx, *token, || {
            tcp::connected(stream)?;
            match stream.peer_addr() {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
                result => result.map(drop),
            }
        })
    }
    fn poll_read(&mut self, cx: &mut Context<'_>, id: TcpId, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Registered(stream, token) = self.tcp_connections.get(&id).ok_or_else(unknown)?;
        self.try_now(cx, *token, || (&*stream).read(into))
    }
    fn poll_write(&mut self, cx: &mut Context<'_>, id: TcpId, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Registered(stream, token) = self.tcp_connections.get(&id).ok_or_else(unknown)?;
        self.try_now(cx, *token, || (&*stream).write_vectored(slices))
    }
    fn finish(&mut self, id: TcpId) {
        if let Some(Registered(stream, _)) = self.tcp_connections.get(&id) {
            tcp::finish(stream);
        }
    }
    fn close(&mut self, id: TcpId) {
        if let Some(stream) = self.tcp_connections.remove(&id) {
            self.forget(stream);
        }
    }
    fn reset(&mut self, id: TcpId) {
        if let Some(Registered(stream, _)) = self.tcp_connections.get(&id) {
            tcp::reset_on_close(stream);
        }
        self.close(id);
    }
    fn resolve(&mut self, query: QueryId, host: &str, port: u16) {
        thread::spawn(self.resolver.query(query, host, port));
    }
    fn poll_resolved(&mut self, cx: &mut Context<'_>) -> Poll<(QueryId, Vec<SocketAddr>)> {
        self.resolver.poll(cx)
    }
    fn run_blocking(&mut self, work: Box<dyn FnOnce() + Send>) {
        thread::spawn(work);
    }
}
