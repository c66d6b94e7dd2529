//! A scripted runtime.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::addr;
use crate::Instant;
use crate::drive::{Io, Received};
use crate::net::{Bind, Dial, Listen, ListenerId, QueryId, SocketId, TcpId, Transmit};
use crate::node::Input;

/// The result of one receive call: the buffers that it fills, each with its stride, or a failure.
pub enum Arrives {
    Buffers(Vec<(Vec<u8>, usize)>),
    Failure,
}

#[derive(Default)]
pub struct Wire {
    pub arrivals: VecDeque<Arrives>,
    /// Data never runs out.
    pub flooded: bool,
    /// Every receive call fails.
    pub broken: bool,
    pub blocked: bool,
    pub failing: bool,
    pub sent: Vec<Vec<u8>>,
    pub recv_calls: usize,
    pub send_calls: usize,
}

/// The connections that wait at a listener.
#[derive(Default)]
pub struct Backlog {
    pub queue: VecDeque<Result<u16, io::ErrorKind>>,
    /// Every accept fails.
    pub broken: bool,
    pub calls: usize,
    pub waker: Option<Waker>,
}

/// What the reader of a TCP connection receives.
pub enum Incoming {
    Bytes(Vec<u8>),
    End,
    Failure(io::ErrorKind),
}

/// The runtime's side of a TCP connection.
#[derive(Default)]
pub struct Line {
    /// The result of dialling.
    pub dialled: Option<Result<(), io::ErrorKind>>,
    pub incoming: VecDeque<Incoming>,
    /// The number of bytes that can be written before the connection blocks, and by one call.
    pub room: usize,
    pub at_once: usize,
    pub written: Vec<u8>,
    pub finished: bool,
    pub dial_calls: usize,
    pub read_calls: usize,
    pub write_calls: usize,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

/// How the driver ended a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Closed,
    Reset,
}

/// The runtime's side of the script.
pub struct Stage {
    pub now: Instant,
    pub wires: BTreeMap<SocketId, Wire>,
    pub timer: Option<Instant>,
    pub timer_polls: usize,
    pub refuse_to_bind: bool,
    pub blocking: Vec<Box<dyn FnOnce() + Send>>,
    pub news: VecDeque<Input>,
    pub news_polls: usize,
    pub listeners: BTreeMap<ListenerId, Backlog>,
    pub lines: BTreeMap<TcpId, Line>,
    /// TCP connections that the driver ended.
    pub ended: Vec<(TcpId, Ended)>,
    pub refuse_to_dial: bool,
    /// Blocking work runs at once.
    pub has_no_threads: bool,
    pub queries: Vec<(QueryId, u16)>,
    pub answers: VecDeque<(QueryId, u16)>,
    pub resolved_polls: usize,
}

impl Stage {
    pub fn line(&mut self, tcp: TcpId) -> &mut Line {
        self.lines.get_mut(&tcp).expect("an open TCP connection")
    }
}

pub struct Script(pub Rc<RefCell<Stage>>);

impl Io for Script {
    /// The source port.
    type Accepted = u16;

    fn poll_news(&mut self, _: &mut Context<'_>) -> Poll<Input> {
        let mut stage = self.0.borrow_mut();
        stage.news_polls += 1;
        stage.news.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
    fn now(&self) -> Instant {
        self.0.borrow().now
    }
    fn poll_timer(&mut self, _: &mut Context<'_>, at: Instant) -> Poll<()> {
        let mut stage = self.0.borrow_mut();
        stage.timer_polls += 1;
        if stage.now >= at {
            stage.timer = None;
            return Poll::Ready(());
        }
        stage.timer = Some(at);
        Poll::Pending
    }
    fn bind(&mut self, socket: SocketId, bind: &Bind) -> io::Result<SocketAddr> {
        let mut stage = self.0.borrow_mut();
        if stage.refuse_to_bind {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        stage.wires.entry(socket).or_default();
        Ok(bind.addr)
    }
    fn release(&mut self, socket: SocketId) {
        self.0.borrow_mut().wires.remove(&socket);
    }
    fn max_segments(&self, _: SocketId) -> NonZeroUsize {
        NonZeroUsize::MIN
    }
    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        socket: SocketId,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        let mut stage = self.0.borrow_mut();
        let wire = stage.wires.get_mut(&socket).expect("a bound socket");
        wire.recv_calls += 1;
        if wire.broken {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        let filled = match wire.arrivals.pop_front() {
            Some(Arrives::Buffers(filled)) => filled,
            Some(Arrives::Failure) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None if wire.flooded => vec![(vec![0xff; 10], 10); bufs.len()],
            None => return Poll::Pending,
        };
        for (((contents, stride), buf), received) in filled.iter().zip(bufs).zip(received) {
            buf[..contents.len()].copy_from_slice(contents);
            *received = Received { from: addr(7), len: contents.len(), stride: *stride, ..Received::NONE };
        }
        Poll::Ready(Ok(filled.len()))
    }
    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        socket: SocketId,
        _: &Transmit,
        contents: &[u8],
    ) -> Poll<io::Result<()>> {
        let mut stage = self.0.borrow_mut();
        let wire = stage.wires.get_mut(&socket).expect("a bound socket");
        wire.send_calls += 1;
        if wire.blocked {
            return Poll::Pending;
        }
        if wire.failing {
            return Poll::Ready(Err(io::ErrorKind::HostUnreachable.into()));
        }
        wire.sent.push(contents.to_vec());
        Poll::Ready(Ok(()))
    }
    fn listen(&mut self, listener: ListenerId, listen: &Listen) -> io::Result<SocketAddr> {
        let mut stage = self.0.borrow_mut();
        if stage.refuse_to_bind {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        stage.listeners.insert(listener, Backlog::default());
        Ok(listen.addr)
    }
    fn unlisten(&mut self, listener: ListenerId) {
        self.0.borrow_mut().listeners.remove(&listener);
    }
    fn poll_accept(&mut self, cx: &mut Context<'_>, listener: ListenerId) -> Poll<io::Result<(u16, SocketAddr)>> {
        let mut stage = self.0.borrow_mut();
        let listener = stage.listeners.get_mut(&listener).expect("a listener");
        listener.calls += 1;
        if listener.broken {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        match listener.queue.pop_front() {
            Some(Ok(port)) => Poll::Ready(Ok((port, addr(port)))),
            Some(Err(kind)) => Poll::Ready(Err(kind.into())),
            None => {
                listener.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
    fn adopt(&mut self, tcp: TcpId, _: u16) {
        let line = Line { room: usize::MAX, at_once: usize::MAX, ..Line::default() };
        assert!(self.0.borrow_mut().lines.insert(tcp, line).is_none());
    }
    fn dial(&mut self, tcp: TcpId, _: &Dial) -> io::Result<()> {
        if self.0.borrow().refuse_to_dial {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        self.adopt(tcp, 0);
        Ok(())
    }
    fn poll_dialled(&mut self, cx: &mut Context<'_>, tcp: TcpId) -> Poll<io::Result<()>> {
        let mut stage = self.0.borrow_mut();
        let line = stage.line(tcp);
        line.dial_calls += 1;
        match line.dialled {
            Some(result) => Poll::Ready(result.map_err(Into::into)),
            None => {
                line.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
    fn poll_read(&mut self, cx: &mut Context<'_>, tcp: TcpId, into: &mut [u8]) -> Poll<io::Result<usize>> {
        assert!(!into.is_empty());
        let mut stage = self.0.borrow_mut();
        let line = stage.line(tcp);
        line.read_calls += 1;
        match line.incoming.pop_front() {
            Some(Incoming::Bytes(mut bytes)) => {
                let count = bytes.len().min(into.len());
                into[..count].copy_from_slice(&bytes[..count]);
                bytes.drain(..count);
                if !bytes.is_empty() {
                    line.incoming.push_front(Incoming::Bytes(bytes));
                }
                Poll::Ready(Ok(count))
            }
            Some(Incoming::End) => Poll::Ready(Ok(0)),
            Some(Incoming::Failure(kind)) => Poll::Ready(Err(kind.into())),
            None => {
                line.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
    fn poll_write(&mut self, cx: &mut Context<'_>, tcp: TcpId, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut stage = self.0.borrow_mut();
        let line = stage.line(tcp);
        assert!(!line.finished, "a write after the end");
        line.write_calls += 1;
        if line.room == 0 {
            line.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let most = line.room.min(line.at_once);
        let taken: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(most).collect();
        assert!(!taken.is_empty(), "a write of nothing");
        line.room -= taken.len();
        line.written.extend_from_slice(&taken);
        Poll::Ready(Ok(taken.len()))
    }
    fn finish(&mut self, tcp: TcpId) {
        let mut stage = self.0.borrow_mut();
        assert!(!std::mem::replace(&mut stage.line(tcp).finished, true), "finished once");
    }
    fn close(&mut self, tcp: TcpId) {
        let mut stage = self.0.borrow_mut();
        let line = stage.lines.remove(&tcp).expect("ended once");
        assert!(line.finished, "an end without FIN is a reset");
        stage.ended.push((tcp, Ended::Closed));
    }
    fn reset(&mut self, tcp: TcpId) {
        let mut stage = self.0.borrow_mut();
        stage.lines.remove(&tcp).expect("ended once");
        stage.ended.push((tcp, Ended::Reset));
    }
    fn resolve(&mut self, query: QueryId, _: &str, port: u16) {
        self.0.borrow_mut().queries.push((query, port));
    }
    fn poll_resolved(&mut self, _: &mut Context<'_>) -> Poll<(QueryId, Vec<SocketAddr>)> {
        let mut stage = self.0.borrow_mut();
        stage.resolved_polls += 1;
        stage.answers.pop_front().map_or(Poll::Pending, |(query, port)| Poll::Ready((query, vec![addr(port)])))
    }
    fn run_blocking(&mut self, work: Box<dyn FnOnce() + Send>) {
        if self.0.borrow().has_no_threads {
            return work();
        }
        self.0.borrow_mut().blocking.push(work);
    }
}
