//! A scripted node that records its inputs.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::addr;
use crate::Instant;
use crate::misuse::Misuse;
use crate::net::{Action, Arrival, Ecn, ListenerId, SocketId, TcpEvent, TcpId, Transmit};
use crate::node::{Input, Node};
use crate::transfer::job::{Job, JobId, Work};
use crate::transfer::manifest::{Entry, Manifest};
use crate::transfer::storage::{Fault, Sink};

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
    Job::new(JobId(id), Work::Finish { sink: Arc::new(Does(work)), at_most: 1 })
}

#[derive(Debug, PartialEq, Clone)]
pub enum Event {
    Progress(u64),
    Other(u64),
    Misused(Misuse),
}

impl From<Misuse> for Event {
    fn from(misuse: Misuse) -> Self {
        Self::Misused(misuse)
    }
}

/// What the node received.
#[derive(Debug, PartialEq)]
pub enum Received {
    Datagram(SocketId, Vec<u8>),
    Bound(SocketId, Result<SocketAddr, io::ErrorKind>),
    Resolved(Vec<SocketAddr>),
    Done(u64, bool),
    HandleDropped,
    Listening(ListenerId, Result<SocketAddr, io::ErrorKind>),
    Accept(ListenerId, SocketAddr),
    Tcp(TcpId, TcpEvent),
    Interfaces(usize),
    Gateways(usize),
    Slept(Duration),
    Command(u64),
    Timeout,
    Settled,
}

/// The node's script, and what it received.
#[derive(Default)]
pub struct Plan {
    pub received: Vec<Received>,
    pub actions: VecDeque<Action>,
    pub jobs: VecDeque<Job>,
    pub transmits: BTreeMap<SocketId, VecDeque<Vec<u8>>>,
    pub events: VecDeque<Event>,
    /// The ids for new connections; without one the node refuses them.
    pub names: VecDeque<TcpId>,
    /// Results of `poll_tcp`.
    pub touched: VecDeque<TcpId>,
    pub deadline: Option<Instant>,
    pub closed: bool,
    pub close_when_dropped: bool,
    /// What happens while the node works, once.
    pub meanwhile: Option<Box<dyn FnOnce()>>,
    settled: bool,
}

impl Plan {
    pub fn count(&self, what: impl Fn(&Received) -> bool) -> usize {
        self.received.iter().filter(|received| what(received)).count()
    }

    pub fn datagrams(&self, socket: u8) -> usize {
        self.count(|received| matches!(received, Received::Datagram(SocketId(on), _) if *on == socket))
    }

    fn note(&mut self, received: Received) {
        self.settled = false;
        self.received.push(received);
    }

    fn assert_settled(&self) {
        assert!(self.settled, "polled between an input and `settle`");
    }
}

/// The node's side of a TCP connection.
#[derive(Default)]
pub struct Tube {
    /// The number of bytes that it accepts.
    pub room: usize,
    buffer: Vec<u8>,
    pub got: Vec<u8>,
    pub out: VecDeque<Vec<u8>>,
}

pub struct ScriptedNode {
    pub plan: Rc<RefCell<Plan>>,
    pub tubes: BTreeMap<TcpId, Tube>,
}

impl ScriptedNode {
    pub fn tube(&mut self, tcp: u32) -> &mut Tube {
        self.tubes.entry(TcpId(tcp)).or_default()
    }
}

impl Node for ScriptedNode {
    type Command = u64;
    type Event = Event;

    fn handle_datagram(&mut self, _: Instant, arrival: Arrival, data: BytesMut) {
        let data = data.freeze();
        assert!(
            data.is_empty() || data.is_unique(),
            "a kept datagram must not keep the others that the system joined with it"
        );
        self.plan.borrow_mut().note(Received::Datagram(arrival.socket, data.to_vec()));
    }
    fn handle_input(&mut self, _: Instant, input: Input) {
        let mut plan = self.plan.borrow_mut();
        let received = match input {
            Input::Bound(socket, result) => Received::Bound(socket, result),
            Input::Resolved(_, found) => Received::Resolved(found),
            Input::Done(done) => Received::Done(done.id().0, done.result().is_ok()),
            Input::Listening(listener, result) => Received::Listening(listener, result),
            Input::Interfaces(interfaces) => Received::Interfaces(interfaces.len()),
            Input::Gateways(gateways) => Received::Gateways(gateways.len()),
            Input::Slept(slept) => Received::Slept(slept),
            Input::HandleDropped => {
                plan.closed |= plan.close_when_dropped;
                Received::HandleDropped
            }
        };
        plan.note(received);
    }
    /// Even numbers are valid.
    fn handle_command(&mut self, _: Instant, command: u64) -> Result<(), Misuse> {
        self.plan.borrow_mut().note(Received::Command(command));
        if command.is_multiple_of(2) { Ok(()) } else { Err(Misuse::NoSuchCommand) }
    }
    fn handle_timeout(&mut self, now: Instant) {
        let mut plan = self.plan.borrow_mut();
        plan.note(Received::Timeout);
        plan.deadline = plan.deadline.filter(|&deadline| deadline > now);
    }
    fn settle(&mut self, _: Instant) {
        let meanwhile = self.plan.borrow_mut().meanwhile.take();
        meanwhile.into_iter().for_each(|happens| happens());
        let mut plan = self.plan.borrow_mut();
        plan.received.push(Received::Settled);
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
    fn handle_tcp(&mut self, _: Instant, tcp: TcpId, event: TcpEvent) {
        self.plan.borrow_mut().note(Received::Tcp(tcp, event));
        let tube = self.tubes.entry(tcp).or_default();
        match event {
            TcpEvent::Filled(count) => {
                tube.got.extend_from_slice(&tube.buffer[..count]);
                tube.room -= count;
            }
            TcpEvent::Wrote(mut count) => {
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
            TcpEvent::Up | TcpEvent::Eof | TcpEvent::Failed(_) => {}
        }
    }
    fn handle_accept(&mut self, _: Instant, listener: ListenerId, from: SocketAddr) -> Option<TcpId> {
        let mut plan = self.plan.borrow_mut();
        plan.note(Received::Accept(listener, from));
        plan.names.pop_front()
    }
    fn poll_tcp(&mut self) -> Option<TcpId> {
        self.plan.borrow().assert_settled();
        self.plan.borrow_mut().touched.pop_front()
    }
    fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        let Some(tube) = self.tubes.get_mut(&tcp) else { return &mut [] };
        tube.buffer.resize(tube.room.min(1000), 0);
        &mut tube.buffer
    }
    fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(tube) = self.tubes.get(&tcp) else { return 0 };
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
