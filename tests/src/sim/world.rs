//! Hosts, the clock, and the queue of events.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tallow_proto::net::{Action, Arrival, Ecn, SocketId};
use tallow_proto::node::{Input, Node};
use tallow_proto::peer;
use tallow_proto::room;
use tallow_proto::seed::Seed;
use tallow_proto::transfer::job::Job;

use super::disk::CheckedSink;
use super::host::{Freeze, Host, HostId, Machine, Observed};
use super::nat::Protocol;
use super::network::{Chance, Network};
use super::tally::Tallies;
use super::tcp::{Connections, EndId, Message};
use super::topology::{Attachment, Flight, PUBLIC, Segment, Site, Topology};

pub(super) enum SimEvent {
    Datagram {
        flight: Flight,
        data: Vec<u8>,
    },
    /// A datagram that waited for a stopped process.
    Delayed {
        host: HostId,
        to: SocketAddr,
        from: SocketAddr,
        data: Vec<u8>,
    },
    JobDone {
        host: HostId,
        life: u32,
        job: Box<Job>,
    },
    LookedUp {
        host: HostId,
        life: u32,
        query: tallow_proto::net::QueryId,
        name: String,
    },
    Resolved {
        host: HostId,
        life: u32,
        query: tallow_proto::net::QueryId,
        addresses: Vec<SocketAddr>,
    },
    Tcp {
        to: EndId,
        number: u64,
        message: Message,
        flight: Flight,
    },
    TcpAgain(EndId),
    TcpLinger(EndId),
    Interfaces(HostId),
    Thaw(HostId, u32),
}

/// How many datagrams the system buffers for a stopped process.
const MAX_DELAYED: usize = 256;
/// How long a runtime may take to see that an address has changed.
const NOTICED: Duration = Duration::from_secs(3);

/// Whether the name service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameService {
    /// After 3 ms.
    Answers,
    /// No query is answered.
    Silent,
}

/// The simulated world.
pub struct World {
    /// The virtual clock.
    pub now: Instant,
    start: Instant,
    /// The network, to be made worse by a test.
    pub network: Network,
    /// The topology of the network.
    pub topology: Topology,
    pub(super) tallies: Tallies,
    seed: Seed,
    pub(super) hosts: Vec<Host>,
    pub(super) connections: Connections,
    names: BTreeMap<String, Vec<SocketAddr>>,
    /// The name service answers after this time; while it is silent, with no address.
    pub name_service: NameService,
    queue: BTreeMap<(Instant, u64), SimEvent>,
    sequence: u64,
    pub(super) chance: Chance,
    pub(super) trace: DefaultHasher,
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
            topology: Topology::default(),
            tallies: Tallies::default(),
            seed: seed.clone(),
            hosts: Vec::new(),
            connections: Connections::default(),
            names: BTreeMap::new(),
            name_service: NameService::Answers,
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

    /// Builds a site below a segment; its inside is a new segment.
    pub fn add_site(&mut self, parent: Segment, site: Site) -> Segment {
        self.topology.add(parent, site, &self.seed)
    }

    /// Adds a host to the public segment.
    pub fn add(&mut self, ip: IpAddr, machine: Machine) -> HostId {
        self.add_at(vec![Attachment::new(PUBLIC, ip)], machine)
    }

    /// Adds a host with these addresses; the first of each family is where its default route leads.
    pub fn add_at(&mut self, attachments: Vec<Attachment>, machine: Machine) -> HostId {
        let id = HostId(self.hosts.len());
        for at in &attachments {
            self.topology.attach(id, at);
        }
        self.hosts.push(Host::new(attachments, machine));
        self.reports_interfaces(id);
        self.serve(id);
        id
    }

    fn reports_interfaces(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        for input in [host.gateways(), host.interfaces()] {
            host.with(self.now, |node, now| node.handle_input(now, input));
        }
    }

    /// Adds a name to the name service.
    pub fn name(&mut self, name: &str, addresses: Vec<SocketAddr>) {
        self.names.insert(name.to_owned(), addresses);
    }

    /// How long the world has run.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A digest of all events: the same seed gives the same digest.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// All events of a peer so far.
    pub fn said(&self, host: HostId) -> impl DoubleEndedIterator<Item = &peer::Event> {
        self.hosts[host.0].said.iter().filter_map(|said| match said {
            Observed::Peer(event) => Some(event),
            Observed::Relay(_) | Observed::Text(_) => None,
        })
    }

    /// All events of a relay so far.
    pub fn relay_events(&self, host: HostId) -> impl DoubleEndedIterator<Item = &room::Event> {
        self.hosts[host.0].said.iter().filter_map(|said| match said {
            Observed::Relay(event) => Some(event),
            Observed::Peer(_) | Observed::Text(_) => None,
        })
    }

    /// All texts of another kind of node so far.
    pub fn texts(&self, host: HostId) -> impl DoubleEndedIterator<Item = &str> {
        self.hosts[host.0].said.iter().filter_map(|said| match said {
            Observed::Peer(_) | Observed::Relay(_) => None,
            Observed::Text(text) => Some(text.as_str()),
        })
    }

    /// The terminal event of a peer, once it was reported.
    #[must_use]
    pub fn end(&self, host: HostId) -> Option<&peer::Event> {
        self.said(host).find(|event| event.is_terminal())
    }

    /// This text may not appear in anything's `Debug` form.
    pub fn keep_secret(&mut self, text: &str) {
        self.secrets.push(text.to_owned());
    }

    /// Checks a sink after every step of this host.
    pub fn watch(&mut self, sink: Arc<CheckedSink>) {
        self.sinks.push(sink);
    }

    /// The operator of a relay drains it.
    ///
    /// # Panics
    /// The host is not a relay.
    pub fn drain(&mut self, host: HostId) {
        let now = self.clock(host);
        match &mut self.hosts[host.0].machine {
            Machine::Relay(relay) => {
                let _ = relay.handle_command(now, room::Command::Drain { within: Duration::ZERO });
            }
            Machine::Peer(_) | Machine::Other(_) | Machine::Down => panic!("only a relay drains"),
        }
        self.serve(host);
    }

    /// Sends a command to a peer.
    pub fn command(&mut self, host: HostId, command: peer::Command) {
        let now = self.clock(host);
        assert!(self.hosts[host.0].frozen.is_none(), "nobody sits at a frozen machine");
        match &mut self.hosts[host.0].machine {
            Machine::Peer(peer) => {
                // A random moment may be too late for it.
                let _ = peer.handle_command(now, command);
            }
            Machine::Relay(_) | Machine::Other(_) | Machine::Down => panic!("only a peer takes commands"),
        }
        self.serve(host);
    }

    /// Crashes the machine: it sends nothing more, and its system answers no packets.
    pub fn crash(&mut self, host: HostId) {
        self.lose_tcp(host);
        self.end_life(host);
        self.hosts[host.0].has_power = false;
    }

    /// The process is killed, as by `kill -9`: its system closes its TCP connections and refuses new ones.
    pub fn kill(&mut self, host: HostId) {
        self.drop_tcp(host);
        self.end_life(host);
    }

    fn end_life(&mut self, id: HostId) {
        let now = self.now;
        let host = &mut self.hosts[id.0];
        host.machine = Machine::Down;
        host.life += 1;
        host.sockets.clear();
        host.only_v6.clear();
        host.listeners.clear();
        host.touched.clear();
        host.frozen = None;
        host.closed_at.get_or_insert(now);
    }

    /// Starts a machine on a host that crashed, was killed, or has closed. The events of its earlier life are
    /// dropped; create the node with [`World::clock`] as its time.
    pub fn restart(&mut self, host: HostId, machine: Machine) {
        self.kill(host);
        let target = &mut self.hosts[host.0];
        target.machine = machine;
        target.has_power = true;
        target.said.clear();
        target.terminal = false;
        target.closed_at = None;
        self.reports_interfaces(host);
        self.serve(host);
    }

    /// The host's clock, which was stopped while the machine was suspended.
    #[must_use]
    pub fn clock(&self, host: HostId) -> Instant {
        self.now - self.hosts[host.0].slept
    }

    /// Changes the host's address: it sends from the new one, and the old one is unreachable. Its TCP connections
    /// stall. The node is notified a little later.
    ///
    /// # Panics
    /// The host has no address of this family.
    pub fn readdress(&mut self, host: HostId, ip: IpAddr) {
        let mut attachments = self.hosts[host.0].attachments.clone();
        let first = attachments.iter_mut().find(|at| at.addr.is_ipv4() == ip.is_ipv4());
        first.expect("an address of this family").addr = ip;
        self.relocate(host, attachments);
    }

    /// The host is connected to something else: as [`World::readdress`], with all its addresses.
    pub fn relocate(&mut self, host: HostId, attachments: Vec<Attachment>) {
        for at in std::mem::replace(&mut self.hosts[host.0].attachments, attachments.clone()) {
            self.topology.detach(host, &at);
        }
        for at in &attachments {
            self.topology.attach(host, at);
        }
        let at = self.now + self.chance.up_to(NOTICED);
        self.plan(at, SimEvent::Interfaces(host));
    }

    /// Suspends the machine: its system answers no packets, its clock stops, and its node is notified afterwards.
    pub fn sleep(&mut self, host: HostId, time: Duration) {
        self.freeze(host, Freeze::Asleep, time);
    }

    /// Stops the process (SIGSTOP) for this time: its clock continues, and its system queues packets while there is
    /// room.
    pub fn stop(&mut self, host: HostId, time: Duration) {
        self.freeze(host, Freeze::Stopped, time);
    }

    fn freeze(&mut self, host: HostId, freeze: Freeze, time: Duration) {
        let (since, until) = (self.now, self.now + time);
        let target = &mut self.hosts[host.0];
        assert!(target.frozen.is_none(), "{host:?} is frozen already");
        target.frozen = Some((freeze, since, until));
        let life = target.life;
        self.plan(until, SimEvent::Thaw(host, life));
    }

    fn thaw(&mut self, host: HostId, life: u32) {
        let now = self.now;
        let target = &mut self.hosts[host.0];
        let Some((freeze, since, until)) = target.frozen.take_if(|_| target.life == life) else { return };
        target.touched.extend(target.tcp_connections.keys());
        target.waiting = 0;
        if freeze == Freeze::Asleep {
            let slept = until - since;
            target.slept += slept;
            target.with(now, |node, now| node.handle_input(now, Input::Slept(slept)));
        }
        self.serve(host);
    }

    /// Whether the host's node has nothing left to do.
    #[must_use]
    pub fn is_closed(&self, host: HostId) -> bool {
        self.hosts[host.0].closed_at.is_some()
    }

    /// Runs until `until` returns true or `limit` of virtual time has passed; returns whether `until` returned true.
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
        let timer = (0..self.hosts.len()).filter_map(|host| Some((self.hosts[host].due()?, host))).min();
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
            timer.map(|(_, host)| (host, self.hosts[host].timeout().map(|(_, why)| why)))
        );
        if arrival.is_some_and(|arrival| arrival <= self.now) {
            if let Some((_, sim_event)) = self.queue.pop_first() {
                self.happen(sim_event);
            }
        } else if let Some((_, host)) = timer {
            (self.elapsed(), host).hash(&mut self.trace);
            let now = self.now;
            self.hosts[host].with(now, |node, now| node.handle_timeout(now));
            self.serve(HostId(host));
        }
        true
    }

    fn happen(&mut self, sim_event: SimEvent) {
        let now = self.now;
        match sim_event {
            SimEvent::Datagram { flight, data } => {
                (self.elapsed(), flight.to, flight.from, data.len()).hash(&mut self.trace);
                if let Some((host, to)) = self.topology.arrive(now, &flight) {
                    self.deliver(host, to, flight.from, data);
                }
            }
            SimEvent::Delayed { host, to, from, data } => self.deliver(host, to, from, data),
            SimEvent::JobDone { host, life, job } => {
                if self.hosts[host.0].life != life {
                    return;
                }
                if let Some((_, _, until)) = self.hosts[host.0].frozen {
                    return self.plan(until, SimEvent::JobDone { host, life, job });
                }
                (self.elapsed(), host, job.id()).hash(&mut self.trace);
                let done = job.run(&AtomicBool::new(false));
                self.hosts[host.0].with(now, |node, now| node.handle_input(now, Input::Done(done)));
                self.serve(host);
            }
            SimEvent::LookedUp { host, life, query, name } => {
                let (after, addresses) = match self.name_service {
                    NameService::Answers => (Duration::ZERO, self.names.get(&name).cloned().unwrap_or_default()),
                    // As a system's resolver does after two attempts at its server.
                    NameService::Silent => (Duration::from_secs(10), Vec::new()),
                };
                self.plan(now + after, SimEvent::Resolved { host, life, query, addresses });
            }
            SimEvent::Resolved { host, life, query, addresses } => {
                if self.hosts[host.0].life != life {
                    return;
                }
                if let Some((_, _, until)) = self.hosts[host.0].frozen {
                    return self.plan(until, SimEvent::Resolved { host, life, query, addresses });
                }
                let input = Input::Resolved(query, addresses);
                self.hosts[host.0].with(now, |node, now| node.handle_input(now, input));
                self.serve(host);
            }
            SimEvent::Tcp { to, number, message, flight } => self.tcp_arrive(to, number, message, flight),
            SimEvent::TcpAgain(end) => self.tcp_again(end),
            SimEvent::TcpLinger(end) => self.forget(end),
            SimEvent::Interfaces(host) => {
                if let Some((_, _, until)) = self.hosts[host.0].frozen {
                    return self.plan(until, SimEvent::Interfaces(host));
                }
                self.reports_interfaces(host);
                self.serve(host);
            }
            SimEvent::Thaw(host, life) => self.thaw(host, life),
        }
    }

    fn deliver(&mut self, host: HostId, to: SocketAddr, from: SocketAddr, data: Vec<u8>) {
        let now = self.now;
        let target = &mut self.hosts[host.0];
        let Some((socket, is_mapped)) = target.socket_for(to) else { return };
        if let Some((freeze, _, until)) = target.frozen {
            if freeze == Freeze::Stopped && target.waiting < MAX_DELAYED {
                target.waiting += 1;
                self.plan(until, SimEvent::Delayed { host, to, from, data });
            }
            return;
        }
        let from = if is_mapped { mapped(from) } else { from };
        let arrival = Arrival { socket, from, local_ip: Some(to.ip()), ecn: Ecn::NotEct };
        target.with(now, |node, now| node.handle_datagram(now, arrival, BytesMut::from(&data[..])));
        self.serve(host);
    }

    /// Settles a host and carries out what it asks for.
    pub(super) fn serve(&mut self, id: HostId) {
        let now = self.now;
        if self.hosts[id.0].frozen.is_some() {
            return;
        }
        loop {
            self.hosts[id.0].with(now, |node, now| node.settle(now));
            while let Some(action) = self.hosts[id.0].with(now, |node, _| node.poll_action()).flatten() {
                self.act(id, action);
            }
            while let Some(job) = self.hosts[id.0].with(now, |node, _| node.poll_job()).flatten() {
                let at = now + Duration::from_micros(10) + self.chance.up_to(self.job_time);
                let life = self.hosts[id.0].life;
                self.plan(at, SimEvent::JobDone { host: id, life, job: Box::new(job) });
            }
            while let Some(tcp) = self.hosts[id.0].with(now, |node, _| node.poll_tcp()).flatten() {
                self.hosts[id.0].touched.insert(tcp);
            }
            if !self.pump(id) {
                break;
            }
        }
        self.transmit(id);
        let host = &mut self.hosts[id.0];
        while let Some(event) = host.poll_event() {
            // A receiver that has completed reports what it waits for, until its sender has the confirmation.
            let waits = matches!(
                &event,
                Observed::Peer(peer::Event::Reconnecting { .. } | peer::Event::Waiting(peer::WaitingFor::Peer))
            );
            assert!(!host.terminal || waits, "{event:?} after the terminal event of {id:?}");
            host.terminal |= matches!(&event, Observed::Peer(event) if event.is_terminal());
            let shown = format!("{event:?}");
            assert!(!self.secrets.iter().any(|secret| shown.contains(secret)), "a secret in {shown}");
            shown.hash(&mut self.trace);
            host.said.push(event);
        }
        let closes = host.closed_at.is_none() && host.is_node_closed();
        if closes {
            host.closed_at = Some(now);
        }
        if let Machine::Peer(peer) = &host.machine {
            let shown = format!("{peer:?}");
            assert!(!self.secrets.iter().any(|secret| shown.contains(secret)), "a secret in {shown}");
        }
        for sink in &self.sinks {
            sink.check();
        }
        if closes {
            self.leave_tcp(id);
            self.pump(id);
        }
    }

    fn act(&mut self, id: HostId, action: Action) {
        let now = self.now;
        let host = &mut self.hosts[id.0];
        match action {
            Action::Bind(socket, bind) => {
                let result = host.bind(bind.addr, |host, addr| {
                    host.sockets.iter().any(|(id, &other)| {
                        let apart =
                            addr.is_ipv4() != other.is_ipv4() && (!bind.dual_stack || host.only_v6.contains(id));
                        !apart && clash(other, addr)
                    })
                });
                if let Ok(addr) = result {
                    host.sockets.insert(socket, addr);
                    if addr.is_ipv6() && !bind.dual_stack {
                        host.only_v6.insert(socket);
                    }
                }
                host.with(now, |node, now| node.handle_input(now, Input::Bound(socket, result)));
                host.with(now, |node, now| node.settle(now));
            }
            Action::Release(socket) => {
                host.sockets.remove(&socket);
                host.only_v6.remove(&socket);
            }
            Action::Listen(listener, listen) => {
                let taken = |host: &Host, addr| host.listeners.values().any(|&(other, _)| clash(other, addr));
                let result = host.bind(listen.addr, taken);
                if let Ok(addr) = result {
                    host.listeners.insert(listener, (addr, listen.options));
                }
                host.with(now, |node, now| node.handle_input(now, Input::Listening(listener, result)));
                host.with(now, |node, now| node.settle(now));
            }
            Action::Unlisten(listener) => drop(host.listeners.remove(&listener)),
            Action::Dial(tcp, dial) => self.dial(id, tcp, &dial),
            Action::Finish(tcp) => self.finish(id, tcp),
            Action::Abort(tcp) => self.abort(id, tcp),
            Action::Resolve(query, name, _) => {
                let (at, life) = (now + Duration::from_millis(3), host.life);
                self.plan(at, SimEvent::LookedUp { host: id, life, query, name });
            }
            other => unreachable!("the simulator can't do {other:?}"),
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
                let transmit = self.hosts[id.0]
                    .with(now, |node, now| node.poll_transmit(now, socket, segments, &mut buf))
                    .flatten();
                let Some(transmit) = transmit else { break };
                let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
                let to = SocketAddr::new(transmit.to.ip().to_canonical(), transmit.to.port());
                let bound = transmit.src_ip.map_or(from.ip(), |ip| ip.to_canonical());
                let Some(source) = self.hosts[id.0].source(bound, to.ip()) else { continue };
                let from = SocketAddr::new(source.addr, from.port());
                for data in buf[..transmit.size].chunks(segment) {
                    self.tallies.count(id, Protocol::Udp, from, to, data.len());
                    let Some(flight) = self.topology.depart(now, Protocol::Udp, source.segment, from, to) else {
                        continue;
                    };
                    for at in self.network.carry(now, flight.from.ip(), flight.to.ip(), data.len()) {
                        self.plan(at, SimEvent::Datagram { flight, data: data.to_vec() });
                    }
                }
            }
        }
    }

    pub(super) fn plan(&mut self, at: Instant, sim_event: SimEvent) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), sim_event);
    }
}

/// Whether two sockets can't be bound at the same time; `[::]` includes IPv4.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let dual = |addr: SocketAddr| addr.is_ipv6() && addr.ip().is_unspecified();
    let overlaps = one.ip() == other.ip()
        || (one.is_ipv4() == other.is_ipv4() && (one.ip().is_unspecified() || other.ip().is_unspecified()))
        || dual(one)
        || dual(other);
    one.port() == other.port() && overlaps
}

/// The form in which a dual-stack socket reports an IPv4 address.
fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => SocketAddr::new(Ipv4Addr::to_ipv6_mapped(&ip).into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}
