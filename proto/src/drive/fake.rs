//! What the tests of the driver drive: a node that does what it is told and writes down what it hears, a runtime that is a
//! script, and a waker that counts.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSliceMut};
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
use crate::node::{Action, Arrival, Bind, Ecn, Input, Misuse, Node, SocketId, Transmit};
use crate::transfer::manifest::{Entry, Manifest};

pub fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

/// A job that does `work` when it runs.
pub fn job(id: u64, work: impl Fn() -> Result<bool, Fault> + Send + Sync + 'static) -> Job {
    struct Does<F>(F);
    impl<F: Fn() -> Result<bool, Fault> + Send + Sync> Sink for Does<F> {
        fn begin(&self, _: &Arc<Manifest>) -> Result<Vec<crate::transfer::journal::Stored>, Fault> {
            Ok(Vec::new())
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

pub struct Puppet(Rc<RefCell<Plan>>);

impl Node for Puppet {
    type Command = u64;
    type Event = Event;

    fn handle_datagram(&mut self, _: Instant, arrival: Arrival, data: BytesMut) {
        self.0.borrow_mut().note(Heard::Datagram(arrival.socket, data.to_vec()));
    }
    fn handle_input(&mut self, _: Instant, input: Input) {
        let mut plan = self.0.borrow_mut();
        let heard = match input {
            Input::Bound(socket, result) => Heard::Bound(socket, result),
            Input::Resolved(_, found) => Heard::Resolved(found),
            Input::Done(done) => Heard::Done(done.id.0, done.result.is_ok()),
            Input::HandleDropped => {
                plan.closed |= plan.close_when_dropped;
                Heard::HandleDropped
            }
        };
        plan.note(heard);
    }
    /// Even numbers make sense.
    fn handle_command(&mut self, _: Instant, command: u64) -> Result<(), Misuse> {
        self.0.borrow_mut().note(Heard::Command(command));
        if command.is_multiple_of(2) { Ok(()) } else { Err(Misuse("odd")) }
    }
    fn handle_timeout(&mut self, now: Instant) {
        let mut plan = self.0.borrow_mut();
        plan.note(Heard::Timeout);
        plan.deadline = plan.deadline.filter(|&deadline| deadline > now);
    }
    fn settle(&mut self, _: Instant) {
        let mut plan = self.0.borrow_mut();
        plan.heard.push(Heard::Settled);
        plan.settled = true;
    }
    fn poll_action(&mut self) -> Option<Action> {
        self.0.borrow().assert_settled();
        self.0.borrow_mut().actions.pop_front()
    }
    fn poll_transmit(&mut self, _: Instant, socket: SocketId, _: NonZeroUsize, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.0.borrow().assert_settled();
        assert!(buf.is_empty());
        let contents = self.0.borrow_mut().transmits.entry(socket).or_default().pop_front()?;
        buf.extend_from_slice(&contents);
        Some(Transmit { to: addr(9), src_ip: None, ecn: Ecn::NotEct, size: contents.len(), segment_size: None })
    }
    fn poll_job(&mut self) -> Option<Job> {
        self.0.borrow().assert_settled();
        self.0.borrow_mut().jobs.pop_front()
    }
    fn poll_event(&mut self) -> Option<Event> {
        self.0.borrow().assert_settled();
        self.0.borrow_mut().events.pop_front()
    }
    fn supersedes(new: &Event, old: &Event) -> bool {
        matches!((new, old), (Event::Progress(_), Event::Progress(_)))
    }
    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.0.borrow().deadline.map(|at| (at, "the plan's"))
    }
    fn is_closed(&self) -> bool {
        self.0.borrow().closed
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

/// The runtime's side of the script.
pub struct Stage {
    pub now: Instant,
    pub wires: BTreeMap<SocketId, Wire>,
    pub timer: Option<Instant>,
    pub timer_polls: usize,
    pub refuse_to_bind: bool,
    pub blocking: Vec<Box<dyn FnOnce() + Send>>,
}

pub struct Script(Rc<RefCell<Stage>>);

impl Io for Script {
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
        }));
        let (handle, driver) = Driver::new(Puppet(plan.clone()), Script(stage.clone()));
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
