//! Test doubles for the driver: a scripted node that records its inputs, a scripted runtime, and a waker that counts.

mod script;
mod scripted_node;

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

pub use script::{Arrives, Backlog, Ended, Incoming, Line, Script, Stage, Wire};
pub use scripted_node::{Event, Plan, Received, ScriptedNode, job};

use super::{Driver, Handle};
use crate::Instant;
use crate::net::{Action, Bind, ListenerId, SocketId, TcpId};

pub fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
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

/// A driver with its node and runtime; the tests can reach all parts.
pub struct Theatre {
    pub handle: Option<Handle<ScriptedNode>>,
    pub driver: Driver<ScriptedNode, Script>,
    plan: Rc<RefCell<Plan>>,
    stage: Rc<RefCell<Stage>>,
    pub wakes: Arc<Counter>,
    pub start: Instant,
}

impl Theatre {
    /// A theatre with these sockets bound.
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
            listeners: BTreeMap::new(),
            lines: BTreeMap::new(),
            ended: Vec::new(),
            refuse_to_dial: false,
            has_no_threads: false,
            queries: Vec::new(),
            answers: VecDeque::new(),
            resolved_polls: 0,
        }));
        let node = ScriptedNode { plan: plan.clone(), tubes: BTreeMap::new() };
        let (handle, driver) = Driver::new(node, Script(stage.clone()));
        let mut theatre = Self { handle: Some(handle), driver, plan, stage, wakes: Arc::default(), start };
        for &socket in sockets {
            theatre.plan().actions.push_back(bind(socket));
        }
        assert!(theatre.poll().is_pending());
        theatre.plan().received.clear();
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

    pub fn listener(&self, id: u8) -> RefMut<'_, Backlog> {
        RefMut::map(self.stage_mut(), |stage| stage.listeners.get_mut(&ListenerId(id)).unwrap())
    }

    pub fn line(&self, tcp: u32) -> RefMut<'_, Line> {
        RefMut::map(self.stage_mut(), |stage| stage.line(TcpId(tcp)))
    }

    pub fn handle(&mut self) -> &mut Handle<ScriptedNode> {
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

    /// Advances the time: the other threads work, and the timer fires if it was set.
    pub fn advance(&self, by: Duration) {
        let mut stage = self.stage_mut();
        stage.now += by;
        let blocking = std::mem::take(&mut stage.blocking);
        let queries = std::mem::take(&mut stage.queries);
        stage.answers.extend(queries);
        drop(stage);
        for work in blocking {
            work();
        }
    }

    /// The next time that the node works, it takes this long, and meanwhile this datagram arrives.
    pub fn works_long(&self, by: Duration, socket: u8, contents: Vec<u8>) {
        let stage = self.stage.clone();
        self.plan().meanwhile = Some(Box::new(move || {
            let mut stage = stage.borrow_mut();
            stage.now += by;
            let len = contents.len();
            let wire = stage.wires.get_mut(&SocketId(socket)).unwrap();
            wire.arrivals.push_back(Arrives::Buffers(vec![(contents, len)]));
        }));
    }

    /// The events that the application receives.
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
    Action::Bind(
        SocketId(socket),
        Bind { addr: addr(u16::from(socket)), dual_stack: true, share_port: false, group: None, slot: None },
    )
}
