//! Hosts, the clock, and what happens next.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tallow_proto::job::Job;
use tallow_proto::node::{Action, Arrival, Ecn, Input, Node, SocketId};
use tallow_proto::peer::{self, Peer};
use tallow_proto::room;
use tallow_proto::seed::Seed;

use super::disk::CheckedSink;
use super::network::{Chance, Network};

/// Which host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// What a host runs.
pub enum Machine {
    /// One end of a transfer.
    Peer(Box<Peer>),
    /// A relay.
    Relay(Box<room::Relay>),
    /// Anything else that is a node: an evil relay, a script.
    Other(Box<dyn Node<Command = Infallible, Event = Observed>>),
    /// It crashed.
    Down,
}

/// What a host said, with when.
#[derive(Debug, Clone)]
pub enum Observed {
    /// A peer's event.
    Peer(peer::Event),
    /// A relay's event.
    Relay(room::Event),
    /// Another node's.
    Text(String),
}

impl From<tallow_proto::node::Misuse> for Observed {
    fn from(misuse: tallow_proto::node::Misuse) -> Self {
        Self::Text(misuse.to_string())
    }
}

/// A host: an address, a node, its sockets.
pub struct Host {
    ip: IpAddr,
    machine: Machine,
    sockets: BTreeMap<SocketId, SocketAddr>,
    next_port: u16,
    /// What its node said.
    said: Vec<Observed>,
    terminal: bool,
    closed_at: Option<Instant>,
}

enum Happening {
    Datagram { to: SocketAddr, from: SocketAddr, data: Vec<u8> },
    JobDone { host: HostId, job: Box<Job> },
    Resolved { host: HostId, query: tallow_proto::node::QueryId, addresses: Vec<SocketAddr> },
}

/// See the module's text.
pub struct World {
    /// The virtual clock.
    pub now: Instant,
    start: Instant,
    /// The network, to be made worse by a test.
    pub network: Network,
    hosts: Vec<Host>,
    names: BTreeMap<String, Vec<SocketAddr>>,
    queue: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    chance: Chance,
    trace: DefaultHasher,
    steps_at_now: u32,
    /// Jobs take up to this long.
    pub job_time: Duration,
    secrets: Vec<String>,
    sinks: Vec<Arc<CheckedSink>>,
}

/// Steps without time passing after which a world spins.
const SPIN: u32 = 20_000;

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(network: Network, seed: &Seed) -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            network,
            hosts: Vec::new(),
            names: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            chance: Chance::new(&seed.derive("world")),
            trace: DefaultHasher::new(),
            steps_at_now: 0,
            job_time: Duration::from_millis(5),
            secrets: Vec::new(),
            sinks: Vec::new(),
        }
    }

    /// Adds a host.
    pub fn add(&mut self, ip: IpAddr, machine: Machine) -> HostId {
        let id = HostId(self.hosts.len());
        self.hosts.push(Host {
            ip,
            machine,
            sockets: BTreeMap::new(),
            next_port: 40_000,
            said: Vec::new(),
            terminal: false,
            closed_at: None,
        });
        self.serve(id);
        id
    }

    /// A name that the name service knows.
    pub fn name(&mut self, name: &str, addresses: Vec<SocketAddr>) {
        self.names.insert(name.to_owned(), addresses);
    }

    /// How long the world has run.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A digest of everything that happened: the same seed gives the same.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Everything that a peer said so far.
    pub fn said(&self, host: HostId) -> impl DoubleEndedIterator<Item = &peer::Event> {
        self.hosts[host.0].said.iter().filter_map(|said| match said {
            Observed::Peer(event) => Some(event),
            Observed::Relay(_) | Observed::Text(_) => None,
        })
    }

    /// Everything that another node said so far.
    pub fn texts(&self, host: HostId) -> impl DoubleEndedIterator<Item = &str> {
        self.hosts[host.0].said.iter().filter_map(|said| match said {
            Observed::Peer(_) | Observed::Relay(_) => None,
            Observed::Text(text) => Some(text.as_str()),
        })
    }

    /// The one terminal event of a peer, once it came.
    #[must_use]
    pub fn end(&self, host: HostId) -> Option<&peer::Event> {
        self.said(host).find(|event| event.is_terminal())
    }

    /// This text may not appear in anything's `Debug` form.
    pub fn keep_secret(&mut self, text: &str) {
        self.secrets.push(text.to_owned());
    }

    /// Looks at a sink after every step of this host.
    pub fn watch(&mut self, sink: Arc<CheckedSink>) {
        self.sinks.push(sink);
    }

    /// Says something to a peer.
    pub fn command(&mut self, host: HostId, command: peer::Command) {
        let now = self.now;
        match &mut self.hosts[host.0].machine {
            Machine::Peer(peer) => {
                // A random moment may be too late for it.
                let _ = peer.handle_command(now, command);
            }
            Machine::Relay(_) | Machine::Other(_) | Machine::Down => panic!("only a peer takes commands"),
        }
        self.serve(host);
    }

    /// The host is gone from one moment to the next: nothing is said any more.
    pub fn crash(&mut self, host: HostId) {
        self.hosts[host.0].machine = Machine::Down;
        self.hosts[host.0].sockets.clear();
        self.hosts[host.0].closed_at.get_or_insert(self.now);
    }

    /// Whether the host's node has nothing left to do.
    #[must_use]
    pub fn is_closed(&self, host: HostId) -> bool {
        self.hosts[host.0].closed_at.is_some()
    }

    /// Runs until `until` says so or `limit` of virtual time has passed; returns whether it said so.
    pub fn run_until(&mut self, limit: Duration, mut until: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if until(self) {
                return true;
            }
            if !self.step(end) {
                return false;
            }
        }
    }

    /// The earliest thing that is due happens; false when that is later than `end`.
    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.queue.keys().next().map(|&(at, _)| at);
        let timer = (0..self.hosts.len()).filter_map(|host| Some((self.hosts[host].poll_timeout()?, host))).min();
        let at = match (arrival, timer) {
            (None, None) => {
                let open: Vec<usize> = (0..self.hosts.len()).filter(|&host| self.hosts[host].is_open()).collect();
                assert!(open.is_empty(), "nothing is in flight and no timer is set, but hosts {open:?} are not closed");
                return false;
            }
            (Some(arrival), Some((timer, _))) => arrival.min(timer),
            (Some(at), None) | (None, Some((at, _))) => at,
        };
        if at > end {
            self.now = end;
            return false;
        }
        if at > self.now {
            self.now = at;
            self.steps_at_now = 0;
        }
        self.steps_at_now += 1;
        assert!(
            self.steps_at_now < SPIN,
            "time stands still at {:?}: {:?}",
            self.elapsed(),
            timer.map(|(_, host)| (host, self.hosts[host].poll_reason()))
        );
        if arrival.is_some_and(|arrival| arrival <= self.now) {
            if let Some((_, happening)) = self.queue.pop_first() {
                self.happen(happening);
            }
        } else if let Some((_, host)) = timer {
            (self.elapsed(), host).hash(&mut self.trace);
            let now = self.now;
            self.hosts[host].with(|node| node.handle_timeout(now));
            self.serve(HostId(host));
        }
        true
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Datagram { to, from, data } => {
                (self.elapsed(), to, from, data.len()).hash(&mut self.trace);
                let target = self.hosts.iter().enumerate().find_map(|(index, host)| {
                    host.sockets.iter().find(|&(_, &addr)| addr == to).map(|(&socket, _)| (index, socket))
                });
                let Some((index, socket)) = target else { return };
                let arrival = Arrival { socket, from, local_ip: Some(to.ip()), ecn: Ecn::NotEct };
                self.hosts[index].with(|node| node.handle_datagram(now, arrival, BytesMut::from(&data[..])));
                self.serve(HostId(index));
            }
            Happening::JobDone { host, job } => {
                (self.elapsed(), host, job.id).hash(&mut self.trace);
                let done = job.run(&AtomicBool::new(false));
                self.hosts[host.0].with(|node| node.handle_input(now, Input::Done(done)));
                self.serve(host);
            }
            Happening::Resolved { host, query, addresses } => {
                self.hosts[host.0].with(|node| node.handle_input(now, Input::Resolved(query, addresses)));
                self.serve(host);
            }
        }
    }

    /// Settles a host and carries out what it asks for.
    fn serve(&mut self, id: HostId) {
        let now = self.now;
        self.hosts[id.0].with(|node| node.settle(now));
        while let Some(action) = self.hosts[id.0].poll_action() {
            match action {
                Action::Bind(socket, bind) => {
                    let host = &mut self.hosts[id.0];
                    let fits = bind.addr.is_ipv4() == host.ip.is_ipv4();
                    let port = if bind.addr.port() == 0 { host.next_port } else { bind.addr.port() };
                    let addr = SocketAddr::new(host.ip, port);
                    let taken = host.sockets.values().any(|&other| other == addr);
                    let result = if !fits {
                        Err(std::io::ErrorKind::Unsupported)
                    } else if taken {
                        Err(std::io::ErrorKind::AddrInUse)
                    } else {
                        host.next_port += 1;
                        host.sockets.insert(socket, addr);
                        Ok(addr)
                    };
                    host.with(|node| node.handle_input(now, Input::Bound(socket, result)));
                    host.with(|node| node.settle(now));
                }
                Action::Release(socket) => drop(self.hosts[id.0].sockets.remove(&socket)),
                Action::Listen(..) | Action::Unlisten(_) | Action::Dial(..) | Action::Finish(_) | Action::Abort(_) => {
                    unimplemented!("pipes")
                }
                Action::Resolve(query, name, _) => {
                    let addresses = self.names.get(&name).cloned().unwrap_or_default();
                    let at = now + Duration::from_millis(3);
                    self.plan(at, Happening::Resolved { host: id, query, addresses });
                }
            }
        }
        while let Some(job) = self.hosts[id.0].poll_job() {
            let at = now + Duration::from_micros(10) + self.chance.up_to(self.job_time);
            self.plan(at, Happening::JobDone { host: id, job: Box::new(job) });
        }
        self.transmit(id);
        let host = &mut self.hosts[id.0];
        while let Some(event) = host.poll_event() {
            assert!(!host.terminal, "{event:?} after the terminal event of {id:?}");
            host.terminal = matches!(&event, Observed::Peer(event) if event.is_terminal());
            let shown = format!("{event:?}");
            assert!(!self.secrets.iter().any(|secret| shown.contains(secret)), "a secret in {shown}");
            shown.hash(&mut self.trace);
            host.said.push(event);
        }
        if host.closed_at.is_none() && host.is_node_closed() {
            host.closed_at = Some(now);
        }
        if let Machine::Peer(peer) = &host.machine {
            let shown = format!("{peer:?}");
            assert!(!self.secrets.iter().any(|secret| shown.contains(secret)), "a secret in {shown}");
        }
        for sink in &self.sinks {
            sink.check();
        }
    }

    fn transmit(&mut self, id: HostId) {
        let sockets: Vec<(SocketId, SocketAddr)> =
            self.hosts[id.0].sockets.iter().map(|(&socket, &addr)| (socket, addr)).collect();
        let mut buf = Vec::new();
        for (socket, from) in sockets {
            loop {
                buf.clear();
                let now = self.now;
                let segments = NonZeroUsize::new(4).expect("four");
                let transmit =
                    self.hosts[id.0].with(|node| node.poll_transmit(now, socket, segments, &mut buf)).flatten();
                let Some(transmit) = transmit else { break };
                let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
                for data in buf[..transmit.size].chunks(segment) {
                    for at in self.network.carry(now, from.ip(), transmit.to.ip(), data.len()) {
                        self.plan(at, Happening::Datagram { to: transmit.to, from, data: data.to_vec() });
                    }
                }
            }
        }
    }

    fn plan(&mut self, at: Instant, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }
}

impl Host {
    fn poll_timeout(&self) -> Option<Instant> {
        match &self.machine {
            Machine::Peer(peer) => peer.poll_timeout(),
            Machine::Relay(relay) => relay.poll_timeout(),
            Machine::Other(node) => node.poll_timeout(),
            Machine::Down => None,
        }
        .map(|(at, _)| at)
    }

    fn poll_reason(&self) -> Option<&'static str> {
        match &self.machine {
            Machine::Peer(peer) => peer.poll_timeout(),
            Machine::Relay(relay) => relay.poll_timeout(),
            Machine::Other(node) => node.poll_timeout(),
            Machine::Down => None,
        }
        .map(|(_, why)| why)
    }

    fn is_open(&self) -> bool {
        self.closed_at.is_none() && matches!(self.machine, Machine::Peer(_))
    }

    fn is_node_closed(&self) -> bool {
        match &self.machine {
            Machine::Peer(peer) => peer.is_closed(),
            Machine::Relay(relay) => relay.is_closed(),
            Machine::Other(node) => node.is_closed(),
            Machine::Down => true,
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.with(|node| node.poll_action()).flatten()
    }

    fn poll_job(&mut self) -> Option<Job> {
        self.with(|node| node.poll_job()).flatten()
    }

    fn poll_event(&mut self) -> Option<Observed> {
        match &mut self.machine {
            Machine::Peer(peer) => peer.poll_event().map(Observed::Peer),
            Machine::Relay(relay) => relay.poll_event().map(Observed::Relay),
            Machine::Other(node) => node.poll_event(),
            Machine::Down => None,
        }
    }

    /// Calls what all nodes have, whatever their commands and events are.
    fn with<T>(&mut self, call: impl FnOnce(&mut dyn Drive) -> T) -> Option<T> {
        Some(match &mut self.machine {
            Machine::Peer(peer) => call(peer.as_mut()),
            Machine::Relay(relay) => call(relay.as_mut()),
            Machine::Other(node) => call(node),
            Machine::Down => return None,
        })
    }
}

/// The part of [`Node`] that names no command and no event.
trait Drive {
    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut);
    fn handle_input(&mut self, now: Instant, input: Input);
    fn handle_timeout(&mut self, now: Instant);
    fn settle(&mut self, now: Instant);
    fn poll_action(&mut self) -> Option<Action>;
    fn poll_transmit(
        &mut self,
        now: Instant,
        socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<tallow_proto::node::Transmit>;
    fn poll_job(&mut self) -> Option<Job>;
}

macro_rules! drive {
    ($node:ty) => {
        impl Drive for $node {
            fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
                Node::handle_datagram(self, now, arrival, data);
            }
            fn handle_input(&mut self, now: Instant, input: Input) {
                Node::handle_input(self, now, input);
            }
            fn handle_timeout(&mut self, now: Instant) {
                Node::handle_timeout(self, now);
            }
            fn settle(&mut self, now: Instant) {
                Node::settle(self, now);
            }
            fn poll_action(&mut self) -> Option<Action> {
                Node::poll_action(self)
            }
            fn poll_transmit(
                &mut self,
                now: Instant,
                socket: SocketId,
                max_segments: NonZeroUsize,
                buf: &mut Vec<u8>,
            ) -> Option<tallow_proto::node::Transmit> {
                Node::poll_transmit(self, now, socket, max_segments, buf)
            }
            fn poll_job(&mut self) -> Option<Job> {
                Node::poll_job(self)
            }
        }
    };
}

drive!(Peer);
drive!(room::Relay);

impl Drive for Box<dyn Node<Command = Infallible, Event = Observed>> {
    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
        self.as_mut().handle_datagram(now, arrival, data);
    }
    fn handle_input(&mut self, now: Instant, input: Input) {
        self.as_mut().handle_input(now, input);
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.as_mut().handle_timeout(now);
    }
    fn settle(&mut self, now: Instant) {
        self.as_mut().settle(now);
    }
    fn poll_action(&mut self) -> Option<Action> {
        self.as_mut().poll_action()
    }
    fn poll_transmit(
        &mut self,
        now: Instant,
        socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<tallow_proto::node::Transmit> {
        self.as_mut().poll_transmit(now, socket, max_segments, buf)
    }
    fn poll_job(&mut self) -> Option<Job> {
        self.as_mut().poll_job()
    }
}
