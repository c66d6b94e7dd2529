//! A node that uses everything that a runtime provides: it echoes datagrams, sends pings in batches, and uses timers,
//! jobs and name lookups.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Bind, Ecn, QueryId, SocketId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::transfer::job::{Job, JobId, Work};
use tallow_proto::transfer::storage::{Fault, Sink};
use tallow_proto::transfer::{Entry, Manifest};

/// How many datagrams may be in flight.
const WINDOW: usize = 32;
/// After this time missing datagrams are sent again, because loopback drops datagrams too.
const AGAIN: Duration = Duration::from_millis(50);
const PING: u8 = 1;
const PONG: u8 = 2;

/// A job that does `work` when it runs.
pub fn job(id: u64, work: impl Fn() -> Result<bool, Fault> + Send + Sync + 'static) -> Job {
    struct Does<F>(F);
    impl<F: Fn() -> Result<bool, Fault> + Send + Sync> Sink for Does<F> {
        fn begin(&self, _: &Arc<Manifest>) -> Result<Vec<tallow_proto::transfer::journal::Stored>, Fault> {
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

pub enum Command {
    Ping {
        to: SocketAddr,
        total: u64,
        size: usize,
    },
    Alarm(Duration),
    Work(Box<Job>),
    Resolve(String, u16),
    GoodbyeTo(SocketAddr),
    /// Closes the socket and binds another one with the same id.
    Rebind(SocketAddr),
    /// Closes the node after all its timers have fired.
    Close,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

#[derive(Debug)]
pub enum Event {
    Bound(Result<SocketAddr, io::ErrorKind>),
    AllBack { largest_batch: usize, local_ip: Option<IpAddr> },
    Rang { asked: Duration, after: Duration },
    Worked { id: u64, well: bool },
    Resolved(Vec<SocketAddr>),
}

impl From<Misuse> for Event {
    fn from(misuse: Misuse) -> Self {
        panic!("{misuse}");
    }
}

struct Ping {
    to: SocketAddr,
    total: u64,
    size: usize,
    next: u64,
    under_way: BTreeSet<u64>,
    again: VecDeque<u64>,
    again_at: Option<Instant>,
    largest_batch: usize,
}

#[derive(Default)]
pub struct TestNode {
    actions: VecDeque<Action>,
    jobs: VecDeque<Job>,
    events: VecDeque<Event>,
    answers: VecDeque<(Arrival, BytesMut)>,
    ping: Option<Ping>,
    alarms: BTreeMap<(Instant, usize), (Instant, Duration)>,
    goodbye: Option<SocketAddr>,
    leaving: bool,
}

impl TestNode {
    pub fn bound_to(addr: SocketAddr) -> Self {
        Self { actions: [bind(addr)].into(), ..Self::default() }
    }
}

fn bind(addr: SocketAddr) -> Action {
    Action::Bind(SocketId(0), Bind { addr, dual_stack: true, share_port: false, group: None, slot: None })
}

/// `[kind][number]`, padded with the number's last byte.
fn compose(kind: u8, number: u64, size: usize, buf: &mut Vec<u8>) {
    let end = buf.len() + size;
    buf.push(kind);
    buf.extend_from_slice(&number.to_be_bytes());
    buf.resize(end, number as u8);
}

impl Node for TestNode {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, mut data: BytesMut) {
        let number = u64::from_be_bytes(data[1..9].try_into().unwrap());
        let mut expected = Vec::new();
        compose(data[0], number, data.len(), &mut expected);
        assert_eq!(data, expected, "a datagram comes whole and alone");
        if data[0] == PING {
            data[0] = PONG;
            return self.answers.push_back((arrival, data));
        }
        let Some(ping) = &mut self.ping else { return };
        ping.under_way.remove(&number);
        ping.again.retain(|&lost| lost != number);
        ping.again_at = Some(now + AGAIN);
        if ping.next == ping.total && ping.under_way.is_empty() && ping.again.is_empty() {
            let largest_batch = ping.largest_batch;
            self.ping = None;
            self.events.push_back(Event::AllBack { largest_batch, local_ip: arrival.local_ip });
        }
    }

    fn handle_input(&mut self, _: Instant, input: Input) {
        match input {
            Input::Bound(_, result) => self.events.push_back(Event::Bound(result)),
            Input::Resolved(_, found) => self.events.push_back(Event::Resolved(found)),
            Input::Done(done) => self.events.push_back(Event::Worked { id: done.id().0, well: done.result().is_ok() }),
            Input::HandleDropped => self.leaving = true,
            _ => {}
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), Misuse> {
        match command {
            Command::Ping { to, total, size } => {
                let again_at = Some(now + AGAIN);
                let (under_way, again) = (BTreeSet::new(), VecDeque::new());
                self.ping = Some(Ping { to, total, size, next: 0, under_way, again, again_at, largest_batch: 0 });
            }
            Command::Alarm(asked) => {
                self.alarms.insert((now + asked, self.alarms.len()), (now, asked));
            }
            Command::Work(job) => self.jobs.push_back(*job),
            Command::Resolve(host, port) => self.actions.push_back(Action::Resolve(QueryId(0), host, port)),
            Command::GoodbyeTo(to) => self.goodbye = Some(to),
            Command::Rebind(addr) => self.actions.extend([Action::Release(SocketId(0)), bind(addr)]),
            Command::Close => self.leaving = true,
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.alarms.first_entry().filter(|entry| entry.key().0 <= now) {
            let (since, asked) = entry.remove();
            self.events.push_back(Event::Rang { asked, after: now - since });
        }
        if let Some(ping) = self.ping.as_mut().filter(|ping| ping.again_at.is_some_and(|at| at <= now)) {
            ping.again.extend(std::mem::take(&mut ping.under_way));
            ping.again_at = Some(now + AGAIN);
        }
    }

    fn settle(&mut self, _: Instant) {}

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_transmit(
        &mut self,
        _: Instant,
        _: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let plain = |to, size| Transmit { to, src_ip: None, ecn: Ecn::Ect0, size, segment_size: None };
        if let Some((arrival, data)) = self.answers.pop_front() {
            buf.extend_from_slice(&data);
            return Some(Transmit { src_ip: arrival.local_ip, ecn: arrival.ecn, ..plain(arrival.from, data.len()) });
        }
        if self.leaving
            && let Some(to) = self.goodbye.take()
        {
            buf.extend_from_slice(b"goodbye");
            return Some(plain(to, buf.len()));
        }
        let ping = self.ping.as_mut()?;
        let most = max_segments.get().min(65_507 / ping.size).min(WINDOW - ping.under_way.len());
        let mut batch = 0;
        while batch < most {
            let fresh = (ping.next < ping.total).then_some(ping.next);
            let Some(number) = ping.again.pop_front().or(fresh) else { break };
            ping.next = ping.next.max(number + 1);
            ping.under_way.insert(number);
            compose(PING, number, ping.size, buf);
            batch += 1;
        }
        ping.largest_batch = ping.largest_batch.max(batch);
        let segment_size = (batch > 1).then_some(ping.size);
        (batch > 0).then(|| Transmit { segment_size, ..plain(ping.to, buf.len()) })
    }

    fn poll_job(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let alarm = self.alarms.first_key_value().map(|((at, _), _)| (*at, "alarm"));
        let again = self.ping.as_ref().and_then(|ping| ping.again_at).map(|at| (at, "lost datagrams"));
        [alarm, again].into_iter().flatten().min()
    }

    fn is_closed(&self) -> bool {
        self.leaving && self.goodbye.is_none() && self.alarms.is_empty()
    }
}
