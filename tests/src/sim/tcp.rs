//! TCP between hosts: reliable, ordered connections over the simulated network, which loses packets and can be cut.
//!
//! Lost data is delivered later, and delays everything after it. Data sent into a cut, or to a host that does not
//! answer, is retransmitted; after the user timeout the connection fails. A machine that answers but does not know
//! the connection (its process crashed or restarted) resets it. A side that sends nothing does not notice a loss: its
//! connection stays half-open, because keep-alive probes are not simulated.
//!
//! Writes are accepted in pieces of random size. Bounds: [`BUFFER`] unread bytes for each connection and direction.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hash;
use std::io::{ErrorKind, IoSlice, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tallow_proto::net::{Dial, TcpEvent, TcpId};

use super::host::HostId;
use super::nat::Protocol;
use super::topology::Flight;
use super::world::{SimEvent, World};

/// Bytes under way or unread in one direction.
const BUFFER: usize = 256 << 10;
/// How long until something is sent again; it doubles up to the limit.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);
/// The retransmission interval of a connection request, as in Linux since 6.5.
const SYN_AGAIN: Duration = Duration::from_secs(1);
/// The default user time-out of a system.
const PATIENCE: Duration = Duration::from_secs(900);
/// The same value as in the driver.
const LINGER: Duration = Duration::from_secs(1);
/// The size of a packet without its payload.
const HEADER: usize = 52;
const SLICES: usize = 16;

/// A connection's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct EndId {
    connection: usize,
    /// 0 for the side that dialled.
    side: usize,
}

impl EndId {
    const fn other(self) -> Self {
        Self { side: 1 - self.side, ..self }
    }
}

#[derive(Debug)]
pub(super) enum Message {
    Syn,
    SynAck,
    Data(Vec<u8>),
    /// This many bytes were read.
    Ack(usize),
    Fin,
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Open,
    Finishing,
    Finished,
}

#[derive(Debug)]
struct End {
    /// The owner, and which of its lives; for the accepting end it is set when the first packet has arrived.
    owner: Option<(HostId, u32)>,
    tcp: TcpId,
    addr: SocketAddr,
    /// The other end's address, as it is seen here.
    remote: SocketAddr,
    patience: Duration,
    /// Numbers of packets.
    sent: u64,
    heard: u64,
    last_arrival: Instant,
    /// Packets that were lost.
    stalled: BTreeMap<u64, Message>,
    stalled_since: Option<Instant>,
    again: Duration,
    trying: bool,
    unread: usize,
    inbox: VecDeque<u8>,
    up: bool,
    up_reported: bool,
    ended: bool,
    end_reported: bool,
    failed: Option<ErrorKind>,
    writing: Writing,
    let_go: bool,
    over: bool,
}

/// All connections of a run.
#[derive(Debug, Default)]
pub(super) struct Connections(Vec<[End; 2]>);

impl End {
    fn new(
        owner: Option<(HostId, u32)>,
        tcp: TcpId,
        (addr, remote): (SocketAddr, SocketAddr),
        patience: Option<Duration>,
        now: Instant,
    ) -> Self {
        Self {
            owner,
            tcp,
            addr,
            remote,
            patience: patience.unwrap_or(PATIENCE),
            sent: 0,
            heard: 0,
            last_arrival: now,
            stalled: BTreeMap::new(),
            stalled_since: None,
            again: AGAIN,
            trying: false,
            unread: 0,
            inbox: VecDeque::new(),
            up: false,
            up_reported: false,
            ended: false,
            end_reported: false,
            failed: None,
            writing: Writing::Open,
            let_go: false,
            over: false,
        }
    }
}

impl World {
    fn end_mut(&mut self, id: EndId) -> &mut End {
        &mut self.connections.0[id.connection][id.side]
    }

    fn end_ref(&self, id: EndId) -> &End {
        &self.connections.0[id.connection][id.side]
    }

    pub(super) fn dial(&mut self, host: HostId, tcp: TcpId, dial: &Dial) {
        let now = self.now;
        let target = &mut self.hosts[host.0];
        assert!(!target.tcp_connections.contains_key(&tcp), "{tcp:?} of {host:?} was given twice");
        let to = SocketAddr::new(dial.to.ip().to_canonical(), dial.to.port());
        let unspecified = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // Without an address of the family it stalls, as everything that leads nowhere.
        let source = target.source(unspecified, to.ip()).map_or(unspecified, |at| at.addr);
        let from = SocketAddr::new(source, target.port(0));
        let id = EndId { connection: self.connections.0.len(), side: 0 };
        target.tcp_connections.insert(tcp, id);
        let owner = Some((host, target.life));
        let patience = dial.options.user_timeout;
        let ends = [End::new(owner, tcp, (from, to), patience, now), End::new(None, TcpId(0), (to, from), None, now)];
        self.connections.0.push(ends);
        self.tcp_send(id, Message::Syn);
    }

    pub(super) fn finish(&mut self, host: HostId, tcp: TcpId) {
        let Some(&id) = self.hosts[host.0].tcp_connections.get(&tcp) else { return };
        let end = self.end_mut(id);
        if end.writing == Writing::Open {
            end.writing = Writing::Finishing;
        }
        self.hosts[host.0].touched.insert(tcp);
    }

    pub(super) fn abort(&mut self, host: HostId, tcp: TcpId) {
        let Some(&id) = self.hosts[host.0].tcp_connections.get(&tcp) else { return };
        let end = self.end_mut(id);
        if end.writing != Writing::Open && end.up && !end.let_go {
            end.let_go = true;
            self.hosts[host.0].touched.insert(tcp);
            let at = self.now + LINGER;
            self.plan(at, SimEvent::TcpLinger(id));
        } else {
            self.forget(id);
        }
    }

    /// The end is over: with a reset, unless its FIN is out.
    pub(super) fn forget(&mut self, id: EndId) {
        let end = self.end_mut(id);
        if std::mem::replace(&mut end.over, true) {
            return;
        }
        end.inbox.clear();
        let (tcp, owner, finished) = (end.tcp, end.owner, end.writing == Writing::Finished);
        if !finished {
            end.stalled.clear();
        }
        if let Some((host, life)) = owner
            && self.hosts[host.0].life == life
        {
            self.hosts[host.0].tcp_connections.remove(&tcp);
        }
        // A host that never answered has no connection to reset.
        if !finished && self.end_ref(id.other()).owner.is_some() {
            self.reset(id);
        }
    }

    /// The node is closed: unfinished TCP connections are dropped, the others are completed without it.
    pub(super) fn leave_tcp(&mut self, host: HostId) {
        let tcp_connections: Vec<TcpId> = self.hosts[host.0].tcp_connections.keys().copied().collect();
        for tcp in tcp_connections {
            self.abort(host, tcp);
        }
    }

    /// The process has ended, and its system closes its connections.
    pub(super) fn drop_tcp(&mut self, host: HostId) {
        for id in std::mem::take(&mut self.hosts[host.0].tcp_connections).into_values() {
            let end = self.end_mut(id);
            end.over = true;
            if end.inbox.is_empty() && end.up {
                if end.writing != Writing::Finished {
                    end.writing = Writing::Finished;
                    self.tcp_send(id, Message::Fin);
                }
            } else {
                end.stalled.clear();
                self.reset(id);
            }
        }
    }

    /// The machine has crashed: no peer is notified.
    pub(super) fn lose_tcp(&mut self, host: HostId) {
        for id in std::mem::take(&mut self.hosts[host.0].tcp_connections).into_values() {
            let end = self.end_mut(id);
            end.over = true;
            end.stalled.clear();
        }
    }

    fn tcp_send(&mut self, id: EndId, message: Message) {
        let end = self.end_mut(id);
        let number = end.sent;
        end.sent += 1;
        if end.stalled.is_empty() {
            self.tcp_carry(id, number, message);
        } else {
            self.stall(id, number, message);
        }
    }

    /// A reset is sent once: it gets through or it does not.
    fn reset(&mut self, id: EndId) {
        if let Some((at, flight)) = self.tcp_way(id, Protocol::Tcp, HEADER) {
            self.plan(at, SimEvent::Tcp { to: id.other(), number: u64::MAX, message: Message::Reset, flight });
        }
    }

    /// When a packet of this end arrives.
    fn tcp_way(&mut self, id: EndId, protocol: Protocol, size: usize) -> Option<(Instant, Flight)> {
        let End { addr, remote, owner, .. } = *self.end_ref(id);
        let (host, _) = owner?;
        // An address that its host no longer has leads nowhere.
        let source = self.hosts[host.0].attached(addr.ip()).filter(|_| self.hosts[host.0].answers())?;
        self.tallies.count(host, protocol, addr, remote, size);
        let flight = self.topology.depart(self.now, protocol, source.segment, addr, remote)?;
        let at = self.network.carry_stream(self.now, flight.from.ip(), flight.to.ip(), size, AGAIN)?;
        let end = self.end_mut(id);
        end.last_arrival = end.last_arrival.max(at);
        Some((end.last_arrival, flight))
    }

    fn tcp_carry(&mut self, id: EndId, number: u64, message: Message) {
        let size = HEADER + if let Message::Data(data) = &message { data.len() } else { 0 };
        let protocol = if matches!(message, Message::Syn) { Protocol::Syn } else { Protocol::Tcp };
        match self.tcp_way(id, protocol, size) {
            Some((at, flight)) => self.plan(at, SimEvent::Tcp { to: id.other(), number, message, flight }),
            None => self.stall(id, number, message),
        }
    }

    fn stall(&mut self, id: EndId, number: u64, message: Message) {
        let now = self.now;
        let is_syn = matches!(message, Message::Syn);
        let end = self.end_mut(id);
        end.stalled.insert(number, message);
        end.stalled_since.get_or_insert(now);
        if !std::mem::replace(&mut end.trying, true) {
            let again = if is_syn { SYN_AGAIN } else { end.again };
            end.again = (again * 2).min(AGAIN_AT_MOST);
            self.plan(now + again, SimEvent::TcpAgain(id));
        }
    }

    pub(super) fn tcp_again(&mut self, id: EndId) {
        let now = self.now;
        let end = self.end_mut(id);
        end.trying = false;
        let stalled = std::mem::take(&mut end.stalled);
        if stalled.is_empty() {
            return;
        }
        if end.stalled_since.is_some_and(|since| now - since >= end.patience) {
            if !end.over {
                end.failed = Some(ErrorKind::TimedOut);
                self.touch(id);
            }
            return;
        }
        for (number, message) in stalled {
            // The first that does not get through keeps back the others.
            if self.end_ref(id).stalled.is_empty() {
                self.tcp_carry(id, number, message);
            } else {
                self.stall(id, number, message);
            }
        }
    }

    /// Marks this end as changed, so that its host processes it.
    fn touch(&mut self, id: EndId) {
        let end = self.end_ref(id);
        let (tcp, owner, over) = (end.tcp, end.owner, end.over);
        if let Some((host, life)) = owner
            && self.hosts[host.0].life == life
            && !over
        {
            self.hosts[host.0].touched.insert(tcp);
            self.serve(host);
        }
    }

    pub(super) fn tcp_arrive(&mut self, to: EndId, number: u64, message: Message, flight: Flight) {
        let size = if let Message::Data(data) = &message { data.len() } else { 0 };
        (self.elapsed(), to, number, size).hash(&mut self.trace);
        let (owner, addr) = (self.end_ref(to).owner, self.end_ref(to).addr);
        let arrived = self.topology.arrive(self.now, &flight);
        let there = arrived.filter(|&(host, at)| at == addr && owner.is_none_or(|(owner, _)| owner == host));
        let there = there.map(|(host, _)| host).filter(|host| self.hosts[host.0].answers());
        if matches!(message, Message::Reset) {
            if there.is_some() && !self.end_ref(to).over {
                let end = self.end_mut(to);
                end.failed = Some(if end.up { ErrorKind::ConnectionReset } else { ErrorKind::ConnectionRefused });
                self.touch(to);
            }
            return;
        }
        let Some(host) = there.filter(|_| number == self.end_ref(to).heard) else {
            return self.stall(to.other(), number, message);
        };
        if matches!(message, Message::Syn) && self.hosts[host.0].frozen.is_some() {
            return self.stall(to.other(), number, message);
        }
        self.end_mut(to).heard += 1;
        let sender = self.end_mut(to.other());
        (sender.stalled_since, sender.again) = (None, AGAIN);
        let alive = self.end_ref(to).owner.is_none_or(|(host, life)| self.hosts[host.0].life == life);
        if !alive || self.end_ref(to).over {
            if matches!(message, Message::Data(_)) || (!alive && matches!(message, Message::Fin)) {
                self.reset(to);
            }
            return;
        }
        let end = self.end_mut(to);
        match message {
            Message::Syn => {
                end.remote = flight.from;
                return self.tcp_accept(host, to);
            }
            Message::SynAck => end.up = true,
            Message::Data(data) => end.inbox.extend(data),
            Message::Ack(count) => end.unread -= count,
            Message::Fin => end.ended = true,
            Message::Reset => {}
        }
        self.touch(to);
    }

    fn tcp_accept(&mut self, host: HostId, id: EndId) {
        let now = self.now;
        let End { addr, remote: from, .. } = *self.end_ref(id);
        let target = &mut self.hosts[host.0];
        self.connections.0[id.connection][id.side].owner = Some((host, target.life));
        let takes = |known: SocketAddr| {
            let any = known.ip().is_unspecified() && (known.is_ipv6() || addr.is_ipv4());
            known.port() == addr.port() && (any || known.ip() == addr.ip())
        };
        let listener = target.listeners.iter().find(|&(_, &(known, _))| takes(known));
        let listener = listener.map(|(&listener, (_, options))| (listener, options.user_timeout));
        let Some((listener, patience)) = listener else {
            self.end_mut(id).over = true;
            return self.reset(id);
        };
        let tcp = target.with(now, |node, now| node.handle_accept(now, listener, from)).flatten();
        let end = &mut self.connections.0[id.connection][id.side];
        (end.up, end.up_reported) = (true, true);
        end.patience = patience.unwrap_or(PATIENCE);
        match tcp {
            Some(tcp) => {
                end.tcp = tcp;
                assert!(target.tcp_connections.insert(tcp, id).is_none(), "{tcp:?} of {host:?} was given twice");
                self.tcp_send(id, Message::SynAck);
                self.touch(id);
            }
            None => {
                (end.over, end.writing) = (true, Writing::Finished);
                self.tcp_send(id, Message::SynAck);
                self.tcp_send(id, Message::Fin);
                self.serve(host);
            }
        }
    }

    /// Processes the changed TCP connections; returns whether a node was notified.
    pub(super) fn pump(&mut self, host: HostId) -> bool {
        let mut told = false;
        for tcp in std::mem::take(&mut self.hosts[host.0].touched) {
            if let Some(&id) = self.hosts[host.0].tcp_connections.get(&tcp) {
                told |= self.pump_one(host, id);
            }
        }
        told
    }

    fn tell(&mut self, host: HostId, tcp: TcpId, event: TcpEvent) {
        let now = self.now;
        self.hosts[host.0].with(now, |node, now| node.handle_tcp(now, tcp, event));
    }

    fn pump_one(&mut self, host: HostId, id: EndId) -> bool {
        let now = self.now;
        let tcp = self.end_ref(id).tcp;
        let mut told = false;
        let end = self.end_mut(id);
        if end.up && !std::mem::replace(&mut end.up_reported, true) {
            told = true;
            self.tell(host, tcp, TcpEvent::Up);
        }
        if self.end_ref(id).up {
            told |= self.pump_in(host, id);
        }
        let end = self.end_mut(id);
        if let Some(kind) = end.failed {
            let let_go = end.let_go;
            end.over = true;
            end.stalled.clear();
            self.hosts[host.0].tcp_connections.remove(&tcp);
            if !let_go {
                self.tell(host, tcp, TcpEvent::Failed(kind));
            }
            return true;
        }
        if self.end_ref(id).up {
            told |= self.pump_out(now, host, id);
        }
        let end = self.end_mut(id);
        if end.end_reported && end.writing == Writing::Finished {
            end.over = true;
            self.hosts[host.0].tcp_connections.remove(&tcp);
        }
        told
    }

    fn pump_in(&mut self, host: HostId, id: EndId) -> bool {
        let now = self.now;
        let (mut read, mut told) = (0, false);
        loop {
            let end = &mut self.connections.0[id.connection][id.side];
            if end.end_reported {
                break;
            }
            if end.let_go {
                read += end.inbox.len();
                end.inbox.clear();
                end.end_reported = end.ended;
                break;
            }
            let tcp = end.tcp;
            let event = self.hosts[host.0].with(now, |node, _| {
                let buffer = node.pipe_buffer(tcp);
                // It never fails, and returns less when the inbox wraps around.
                let count = end.inbox.read(buffer).unwrap_or_default();
                match count {
                    0 if end.ended && !buffer.is_empty() => Some(TcpEvent::Eof),
                    0 => None,
                    count => Some(TcpEvent::Filled(count)),
                }
            });
            let Some(event) = event.flatten() else { break };
            match event {
                TcpEvent::Filled(count) => read += count,
                TcpEvent::Eof => end.end_reported = true,
                _ => {}
            }
            told = true;
            self.tell(host, tcp, event);
        }
        if read > 0 {
            self.tcp_send(id, Message::Ack(read));
        }
        told
    }

    fn pump_out(&mut self, now: Instant, host: HostId, id: EndId) -> bool {
        let tcp = self.end_ref(id).tcp;
        let mut told = false;
        while self.end_ref(id).writing != Writing::Finished {
            let room = BUFFER - self.end_ref(id).unread;
            let piece = room.min(1 + (self.chance.draw() % 65_536) as usize);
            let taken: Option<(bool, Vec<u8>)> = self.hosts[host.0].with(now, |node, _| {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = node.pipe_output(tcp, &mut slices);
                let mut data = Vec::new();
                for slice in &slices[..count] {
                    data.extend_from_slice(&slice[..slice.len().min(piece - data.len())]);
                }
                (slices[..count].iter().all(|slice| slice.is_empty()), data)
            });
            let Some((nothing, data)) = taken else { break };
            if nothing {
                if self.end_ref(id).writing == Writing::Finishing {
                    self.end_mut(id).writing = Writing::Finished;
                    self.tcp_send(id, Message::Fin);
                }
                break;
            }
            if data.is_empty() {
                break;
            }
            told = true;
            self.end_mut(id).unread += data.len();
            self.tell(host, tcp, TcpEvent::Wrote(data.len()));
            self.tcp_send(id, Message::Data(data));
        }
        told
    }
}
