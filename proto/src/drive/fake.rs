//! What the tests of the driver drive: a node that does what it is told and writes down what it hears, a runtime that is a
//! script, and a waker that counts.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::BytesMut;

use super::{Driver, Handle, Io, Received};
use crate::Instant;
use crate::job::{Fault, Job, JobId, Sink, Work};
use crate::node::{
    Action, Arrival, Bind, Dial, Ecn, Input, Listen, ListenerId, Misuse, Node, PipeEvent, PipeId, SocketId, Transmit,
};
use crate::transfer::manifest::{Entry, Manifest};

pub fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

/// A job that does `work` when it runs.
pub fn job(id: u64, work: impl Fn() -> Result<bool, Fault> + Send + Sync + 'static) -> Job {
    struct Does<F>(F);
    impl<F: Fn() -> Result<bool, Fault> + Send + Sync> Sink for Does<F> {
        fn begin(&self, _: &Arc<Manifest>) -> Result<(), Fault> {
            Ok(())
        }
        fn write(&self, _: u32, _: &Entry, _: u64, _: &[u8]) -> Result<(), Fault> {
            Ok(())
        }
        fn finish(&self, _: usize) -> Result<bool, Fault> {
            self.0()
        }
        fn abandon(&self) {}
    }
    Job { id: JobId(id), work: Work::Finish { sink: Arc::new(Does(work)), at_most: 1 } }
}

#[derive(Debug, PartialEq, Clone)]
pub enum Event {
    Progress(u64),
    Other(u64),
    Misused(&'static str),
}

impl From<Misuse> for Event {
    fn from(misuse: Misuse) -> Self {
        Self::Misused(misuse.0)
    }
}

/// What the node was told.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Datagram(SocketId, Vec<u8>),
    Bound(SocketId, Result<SocketAddr, io::ErrorKind>),
    Resolved(Vec<SocketAddr>),
    Done(u64, bool),
    HandleDropped,
    Listening(ListenerId, Result<SocketAddr, io::ErrorKind>),
    Accept(ListenerId, SocketAddr),
    Pipe(PipeId, PipeEvent),
    Interfaces(usize),
    Slept(Duration),
    Command(u64),
    Timeout,
    Settled,
}

/// What the node wants, and what it heard.
#[derive(Default)]
pub struct Plan {
    pub heard: Vec<Heard>,
    pub actions: VecDeque<Action>,
    pub jobs: VecDeque<Job>,
    pub transmits: BTreeMap<SocketId, VecDeque<Vec<u8>>>,
    pub events: VecDeque<Event>,
    /// The names of newcomers; when there is none they are turned away.
    pub names: VecDeque<PipeId>,
    /// Answers of `poll_pipe`.
    pub touched: VecDeque<PipeId>,
    pub deadline: Option<Instant>,
    pub closed: bool,
    pub close_when_dropped: bool,
    settled: bool,
}

impl Plan {
    pub fn count(&self, what: impl Fn(&Heard) -> bool) -> usize {
        self.heard.iter().filter(|heard| what(heard)).count()
    }

    pub fn datagrams(&self, socket: u8) -> usize {
        self.count(|heard| matches!(heard, Heard::Datagram(SocketId(on), _) if *on == socket))
    }

    fn note(&mut self, heard: Heard) {
        self.settled = false;
        self.heard.push(heard);
    }

    fn assert_settled(&self) {
        assert!(self.settled, "polled between an input and `settle`");
    }
}

/// The node's side of a pipe.
#[derive(Default)]
pub struct Tube {
    /// Bytes that it will take.
    pub room: usize,
    buffer: Vec<u8>,
    pub got: Vec<u8>,
    pub out: VecDeque<Vec<u8>>,
}

pub struct Puppet {
    plan: Rc<RefCell<Plan>>,
    pub tubes: BTreeMap<PipeId, Tube>,
}

impl Puppet {
    pub fn tube(&mut self, pipe: u32) -> &mut Tube {
        self.tubes.entry(PipeId(pipe)).or_default()
    }
}

impl Node for Puppet {
    type Command = u64;
    type Event = Event;

    fn handle_datagram(&mut self, _: Instant, arrival: Arrival, data: BytesMut) {
        self.plan.borrow_mut().note(Heard::Datagram(arrival.socket, data.to_vec()));
    }
    fn handle_input(&mut self, _: Instant, input: Input) {
        let mut plan = self.plan.borrow_mut();
        let heard = match input {
            Input::Bound(socket, result) => Heard::Bound(socket, result),
            Input::Resolved(_, found) => Heard::Resolved(found),
            Input::Done(done) => Heard::Done(done.id.0, done.result.is_ok()),
            Input::Listening(listener, result) => Heard::Listening(listener, result),
            Input::Interfaces(interfaces) => Heard::Interfaces(interfaces.len()),
            Input::Slept(slept) => Heard::Slept(slept),
            Input::HandleDropped => {
                plan.closed |= plan.close_when_dropped;
                Heard::HandleDropped
            }
        };
        plan.note(heard);
    }
    /// Even numbers make sense.
    fn handle_command(&mut self, _: Instant, command: u64) -> Result<(), Misuse> {
        self.plan.borrow_mut().note(Heard::Command(command));
        if command.is_multiple_of(2) { Ok(()) } else { Err(Misuse("odd")) }
    }
    fn handle_timeout(&mut self, now: Instant) {
        let mut plan = self.plan.borrow_mut();
        plan.note(Heard::Timeout);
        plan.deadline = plan.deadline.filter(|&deadline| deadline > now);
    }
    fn settle(&mut self, _: Instant) {
        let mut plan = self.plan.borrow_mut();
        plan.heard.push(Heard::Settled);
        plan.settled = true;
    }
    fn poll_action(&mut self) -> Option<Action> {
        self.plan.borrow().assert_settled();
        self.plan.borrow_mut().actions.pop_front()
    }
    fn poll_transmit(&mut self, _: Instant, socket: SocketId, _: NonZeroUsize, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.plan.borrow().assert_settled();
        assert!(buf.is_empty());
        let contents = self.plan.borrow_mut().transmits.entry(socket).or_default().pop_front()?;
        buf.extend_from_slice(&contents);
        Some(Transmit { to: addr(9), src_ip: None, ecn: Ecn::NotEct, size: contents.len(), segment_size: None })
    }
    fn handle_pipe(&mut self, _: Instant, pipe: PipeId, event: PipeEvent) {
        self.plan.borrow_mut().note(Heard::Pipe(pipe, event));
        let tube = self.tubes.entry(pipe).or_default();
        match event {
            PipeEvent::Filled(count) => {
                tube.got.extend_from_slice(&tube.buffer[..count]);
                tube.room -= count;
            }
            PipeEvent::Wrote(mut count) => {
                while count > 0 {
                    let first = tube.out.front_mut().expect("no more than there was");
                    let part = count.min(first.len());
                    first.drain(..part);
                    count -= part;
                    if first.is_empty() {
                        tube.out.pop_front();
                    }
                }
            }
            PipeEvent::Up | PipeEvent::Eof | PipeEvent::Failed(_) => {}
        }
    }
    fn handle_accept(&mut self, _: Instant, listener: ListenerId, from: SocketAddr) -> Option<PipeId> {
        let mut plan = self.plan.borrow_mut();
        plan.note(Heard::Accept(listener, from));
        plan.names.pop_front()
    }
    fn poll_pipe(&mut self) -> Option<PipeId> {
        self.plan.borrow().assert_settled();
        self.plan.borrow_mut().touched.pop_front()
    }
    fn pipe_buffer(&mut self, pipe: PipeId) -> &mut [u8] {
        let Some(tube) = self.tubes.get_mut(&pipe) else { return &mut [] };
        tube.buffer.resize(tube.room.min(1000), 0);
        &mut tube.buffer
    }
    fn pipe_output<'a>(&'a self, pipe: PipeId, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(tube) = self.tubes.get(&pipe) else { return 0 };
        let count = tube.out.len().min(slices.len());
        for (slice, out) in slices.iter_mut().zip(&tube.out) {
            *slice = IoSlice::new(out);
        }
        count
    }
    fn poll_job(&mut self) -> Option<Job> {
        self.plan.borrow().assert_settled();
        self.plan.borrow_mut().jobs.pop_front()
    }
    fn poll_event(&mut self) -> Option<Event> {
        self.plan.borrow().assert_settled();
        self.plan.borrow_mut().events.pop_front()
    }
    fn supersedes(new: &Event, old: &Event) -> bool {
        matches!((new, old), (Event::Progress(_), Event::Progress(_)))
    }
    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.plan.borrow().deadline.map(|at| (at, "the plan's"))
    }
    fn is_closed(&self) -> bool {
        self.plan.borrow().closed
    }
}

/// One receive call's answer: the buffers it fills, each with its stride, or a failure.
pub enum Arrives {
    Buffers(Vec<(Vec<u8>, usize)>),
    Failure,
}

#[derive(Default)]
pub struct Wire {
    pub arrivals: VecDeque<Arrives>,
    /// Never runs dry.
    pub flooded: bool,
    /// Every receive call fails.
    pub broken: bool,
    pub blocked: bool,
    pub failing: bool,
    pub sent: Vec<Vec<u8>>,
    pub recv_calls: usize,
    pub send_calls: usize,
}

/// Who comes to a listener.
#[derive(Default)]
pub struct Door {
    pub queue: VecDeque<Result<u16, io::ErrorKind>>,
    /// Every accept fails.
    pub broken: bool,
    pub calls: usize,
    pub waker: Option<Waker>,
}

/// What a pipe has for its reader.
pub enum Incoming {
    Bytes(Vec<u8>),
    End,
    Failure(io::ErrorKind),
}

/// The runtime's side of a pipe.
#[derive(Default)]
pub struct Line {
    /// How dialling ends.
    pub dialled: Option<Result<(), io::ErrorKind>>,
    pub incoming: VecDeque<Incoming>,
    /// Bytes that can be written before it is blocked, and by one call.
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
    pub doors: BTreeMap<ListenerId, Door>,
    pub lines: BTreeMap<PipeId, Line>,
    /// What was forgotten, and whether it was finished before.
    pub aborted: Vec<(PipeId, bool)>,
}

impl Stage {
    fn line(&mut self, pipe: PipeId) -> &mut Line {
        self.lines.get_mut(&pipe).expect("a pipe that is there")
    }
}

pub struct Script(Rc<RefCell<Stage>>);

impl Io for Script {
    /// The port it came from.
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
        stage.doors.insert(listener, Door::default());
        Ok(listen.addr)
    }
    fn unlisten(&mut self, listener: ListenerId) {
        self.0.borrow_mut().doors.remove(&listener);
    }
    fn poll_accept(&mut self, cx: &mut Context<'_>, listener: ListenerId) -> Poll<io::Result<(u16, SocketAddr)>> {
        let mut stage = self.0.borrow_mut();
        let door = stage.doors.get_mut(&listener).expect("a listener");
        door.calls += 1;
        if door.broken {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        match door.queue.pop_front() {
            Some(Ok(port)) => Poll::Ready(Ok((port, addr(port)))),
            Some(Err(kind)) => Poll::Ready(Err(kind.into())),
            None => {
                door.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
    fn adopt(&mut self, pipe: PipeId, _: u16) {
        let line = Line { room: usize::MAX, at_once: usize::MAX, ..Line::default() };
        assert!(self.0.borrow_mut().lines.insert(pipe, line).is_none());
    }
    fn dial(&mut self, pipe: PipeId, _: &Dial) {
        self.adopt(pipe, 0);
    }
    fn poll_dialled(&mut self, cx: &mut Context<'_>, pipe: PipeId) -> Poll<io::Result<()>> {
        let mut stage = self.0.borrow_mut();
        let line = stage.line(pipe);
        line.dial_calls += 1;
        match line.dialled {
            Some(result) => Poll::Ready(result.map_err(Into::into)),
            None => {
                line.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
    fn poll_read(&mut self, cx: &mut Context<'_>, pipe: PipeId, into: &mut [u8]) -> Poll<io::Result<usize>> {
        assert!(!into.is_empty());
        let mut stage = self.0.borrow_mut();
        let line = stage.line(pipe);
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
    fn poll_write(&mut self, cx: &mut Context<'_>, pipe: PipeId, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut stage = self.0.borrow_mut();
        let line = stage.line(pipe);
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
    fn finish(&mut self, pipe: PipeId) {
        let mut stage = self.0.borrow_mut();
        assert!(!std::mem::replace(&mut stage.line(pipe).finished, true), "finished once");
    }
    fn abort(&mut self, pipe: PipeId) {
        let mut stage = self.0.borrow_mut();
        let line = stage.lines.remove(&pipe).expect("aborted once");
        stage.aborted.push((pipe, line.finished));
    }
    fn run_blocking(&mut self, work: Box<dyn FnOnce() + Send>) {
        self.0.borrow_mut().blocking.push(work);
    }
    fn lookup(_: &str, port: u16) -> Vec<SocketAddr> {
        vec![addr(port)]
    }
}

#[derive(Default)]
pub struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counter {
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A driver between the two, with everything in reach.
pub struct Theatre {
    pub handle: Option<Handle<Puppet>>,
    pub driver: Driver<Puppet, Script>,
    plan: Rc<RefCell<Plan>>,
    stage: Rc<RefCell<Stage>>,
    pub wakes: Arc<Counter>,
    pub start: Instant,
}

impl Theatre {
    /// With these sockets bound.
    pub fn new(sockets: &[u8]) -> Self {
        let start = Instant::now();
        let plan = Rc::new(RefCell::new(Plan::default()));
        let stage = Rc::new(RefCell::new(Stage {
            now: start,
            wires: BTreeMap::new(),
            timer: None,
            timer_polls: 0,
            refuse_to_bind: false,
            blocking: Vec::new(),
            news: VecDeque::new(),
            news_polls: 0,
            doors: BTreeMap::new(),
            lines: BTreeMap::new(),
            aborted: Vec::new(),
        }));
        let puppet = Puppet { plan: plan.clone(), tubes: BTreeMap::new() };
        let (handle, driver) = Driver::new(puppet, Script(stage.clone()));
        let mut theatre = Self { handle: Some(handle), driver, plan, stage, wakes: Arc::default(), start };
        for &socket in sockets {
            theatre.plan().actions.push_back(bind(socket));
        }
        assert!(theatre.poll().is_pending());
        theatre.plan().heard.clear();
        theatre
    }

    pub fn plan(&self) -> RefMut<'_, Plan> {
        self.plan.borrow_mut()
    }

    pub fn stage(&self) -> Ref<'_, Stage> {
        self.stage.borrow()
    }

    pub fn stage_mut(&self) -> RefMut<'_, Stage> {
        self.stage.borrow_mut()
    }

    pub fn wire(&self, socket: u8) -> RefMut<'_, Wire> {
        RefMut::map(self.stage_mut(), |stage| stage.wires.get_mut(&SocketId(socket)).unwrap())
    }

    pub fn door(&self, listener: u8) -> RefMut<'_, Door> {
        RefMut::map(self.stage_mut(), |stage| stage.doors.get_mut(&ListenerId(listener)).unwrap())
    }

    pub fn line(&self, pipe: u32) -> RefMut<'_, Line> {
        RefMut::map(self.stage_mut(), |stage| stage.line(PipeId(pipe)))
    }

    pub fn handle(&mut self) -> &mut Handle<Puppet> {
        self.handle.as_mut().unwrap()
    }

    pub fn poll(&mut self) -> Poll<()> {
        let waker = Waker::from(self.wakes.clone());
        self.driver.poll(&mut Context::from_waker(&waker))
    }

    pub fn arrive(&self, socket: u8, buffers: Vec<(Vec<u8>, usize)>) {
        self.wire(socket).arrivals.push_back(Arrives::Buffers(buffers));
    }

    pub fn send(&self, socket: u8, contents: &[u8]) {
        self.plan().transmits.entry(SocketId(socket)).or_default().push_back(contents.to_vec());
    }

    /// Time passes, the other threads work, and the clock rings if it was set.
    pub fn advance(&self, by: Duration) {
        let mut stage = self.stage_mut();
        stage.now += by;
        let blocking = std::mem::take(&mut stage.blocking);
        drop(stage);
        for work in blocking {
            work();
        }
    }

    /// What the application finds.
    pub fn events(&mut self) -> Vec<Event> {
        let mut found = Vec::new();
        while let Poll::Ready(Some(event)) = self.next_event(&Waker::noop().clone()) {
            found.push(event);
        }
        found
    }

    pub fn next_event(&mut self, waker: &Waker) -> Poll<Option<Event>> {
        self.handle().poll_event(&mut Context::from_waker(waker))
    }
}

pub fn bind(socket: u8) -> Action {
    Action::Bind(SocketId(socket), Bind { addr: addr(u16::from(socket)), share_port: false, group: None })
}
