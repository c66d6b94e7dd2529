//! Gathers the candidates of this side, from the start and for as long as it waits for the peer.
//!
//! ```text
//! socket, of each family:  awaited ──► bound | absent
//! server:  idle ──(its family's socket is bound)──► asking ──► answered ──(15 to 20 s, the first one)──► asking …
//!                                                     └──► silent ──(60 s, if no server responds)──► asking …
//! ```
//! It decides which servers to query and when, and reports candidates as it learns them ([`Gather::poll_candidate`]):
//! host candidates at once, then reflexive candidates of the sockets that will be used for hole punching, and the
//! mapping that a gateway created. While the users pass on the code, it keeps the NAT mapping alive by querying the
//! first server again (RFC 4787 §4.3 lets a NAT drop a mapping after two minutes, and some do so after thirty seconds).
//! When the mapping has changed, it queries all servers of the family again, so that [`Gather::nat`] never compares old
//! observations with new ones.
//!
//! A server can lie. This side then offers an address that is not its own, and the peer's rules bound what is sent
//! there.
//!
//! Timers: those of [`Transaction`]; `KEEP_ALIVE` after a response, `ASK_AGAIN` after a timeout, both only until
//! [`Gather::rest`]. Bounds: [`MAX_SERVERS`] of each family, [`MAX_PACKETS`] to each until a change of the network,
//! [`candidate::MAX`] candidates at a time, `MAX_WAITING` datagrams.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::candidate::{self, Candidate, CandidateTransport, Family, Kind};
use super::nat::{self, Nat, Seen};
use super::stun::{self, Answer, Step, Transaction};
use crate::Instant;
use crate::net::{Interface, Slot};
use crate::seed::Seed;

/// Maximum number of servers of one family that are queried; more are ignored.
pub const MAX_SERVERS: usize = 4;
/// Maximum number of datagrams to one server until an interface changes or [`Gather::refresh`] is called: sufficient
/// for more than an hour of waiting.
pub const MAX_PACKETS: u32 = 512;
/// Maximum number of reflexive candidates of one family at a time.
const MAX_REFLEXIVE: usize = 2;
/// Maximum number of datagrams that wait for the socket; beyond it the oldest is dropped, as a network may do.
const MAX_WAITING: usize = 4 * MAX_SERVERS;
/// Time from a response to the next request, in milliseconds.
const KEEP_ALIVE: Range<u64> = 15_000..20_000;
/// Time from a timeout to the next transaction.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Both address families, in the order of the sockets.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The configuration of a [`Gather`].
#[derive(Debug)]
pub struct Config {
    /// The source of all random values: transaction ids and intervals.
    pub seed: Seed,
    /// The sockets are shared with other nodes: transaction ids begin with this mark.
    pub slot: Option<Slot>,
}

/// Gathers candidates; the module's documentation describes how.
#[derive(Debug)]
pub struct Gather {
    ids: Ids,
    /// `None`: not set yet.
    interfaces: Option<Vec<Interface>>,
    v4: Socket,
    v6: Socket,
    /// The TCP listener.
    listening: Option<SocketAddr>,
    /// `None`: not set yet.
    servers: Option<Vec<Server>>,
    mapped: Option<SocketAddr>,
    keeping: Keeping,
    out: VecDeque<(Family, SocketAddr, Vec<u8>)>,
    current: Vec<Candidate>,
    news: VecDeque<Candidate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Awaited,
    Bound(SocketAddr),
    Absent,
}

/// Whether NAT mappings are kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    Alive,
    Resting,
}

/// Where transaction ids come from.
#[derive(Debug)]
struct Ids {
    rng: ChaCha20Rng,
    slot: Option<Slot>,
}

#[derive(Debug)]
struct Server {
    addr: SocketAddr,
    /// The number of datagrams sent to it.
    packets: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// There is no socket of its family.
    Idle,
    /// `seen`: its last observation, which stays valid until it responds or the transaction times out.
    Asking { transaction: Transaction, seen: Option<SocketAddr> },
    /// `again`: when to send the next request, to keep the mapping alive.
    Answered { observed: SocketAddr, again: Instant },
    /// `again`: when to try it again.
    Silent { again: Instant },
}

impl Server {
    fn family(&self) -> Family {
        Family::of(self.addr.ip())
    }

    const fn seen(&self) -> Option<SocketAddr> {
        match self.state {
            State::Idle | State::Silent { .. } => None,
            State::Asking { seen, .. } => seen,
            State::Answered { observed, .. } => Some(observed),
        }
    }

    const fn is_asked(&self) -> bool {
        match self.state {
            State::Asking { .. } => true,
            State::Idle | State::Answered { .. } | State::Silent { .. } => false,
        }
    }

    fn ask(&mut self, now: Instant, seen: Option<SocketAddr>, ids: &mut Ids) {
        let mut transaction = Transaction::new(now, self.addr, &mut ids.rng);
        if let Some(slot) = &ids.slot {
            transaction.mark(slot);
        }
        self.state = State::Asking { transaction, seen };
    }
}

impl Gather {
    /// A gatherer without any information yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            ids: Ids { rng: config.seed.rng(), slot: config.slot },
            interfaces: None,
            v4: Socket::Awaited,
            v6: Socket::Awaited,
            listening: None,
            servers: None,
            mapped: None,
            keeping: Keeping::Alive,
            out: VecDeque::new(),
            current: Vec::new(),
            news: VecDeque::new(),
        }
    }

    /// Sets the addresses of this machine, at the start and on each change. After a change, all servers are queried
    /// again.
    pub fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        if self.interfaces.as_deref() == Some(interfaces) {
            return;
        }
        let is_change = self.interfaces.replace(interfaces.to_vec()).is_some();
        if is_change {
            FAMILIES.into_iter().for_each(|family| self.start(now, family));
        }
        self.update_candidates();
    }

    /// The socket of this family for hole punching is bound to this local address.
    pub fn handle_bound(&mut self, now: Instant, family: Family, local: SocketAddr) {
        *self.socket_mut(family) = Socket::Bound(local);
        self.start(now, family);
        self.update_candidates();
    }

    /// There is no socket of this family, or it was closed.
    pub fn handle_absent(&mut self, now: Instant, family: Family) {
        *self.socket_mut(family) = Socket::Absent;
        self.out.retain(|&(of, ..)| of != family);
        self.start(now, family);
        self.update_candidates();
    }

    /// Sets the local address of the TCP listener for direct links. `[::]` accepts IPv4, too.
    pub fn handle_listening(&mut self, _now: Instant, local: SocketAddr) {
        self.listening = Some(local);
        self.update_candidates();
    }

    /// Sets the STUN servers, of both families, best first: the relay, then others. Observations of servers that stay
    /// in the list are kept.
    pub fn handle_servers(&mut self, now: Instant, servers: Vec<SocketAddr>) {
        let mut known = self.servers.take().unwrap_or_default();
        let mut chosen: Vec<Server> = Vec::new();
        for addr in servers.into_iter().map(candidate::canonical) {
            let ip = addr.ip();
            let family = Family::of(ip);
            let nowhere = ip.is_unspecified() || ip.is_multicast() || addr.port() == 0;
            let others = chosen.iter().filter(|server| server.family() == family).count();
            if nowhere || others >= MAX_SERVERS || chosen.iter().any(|server| server.addr == addr) {
                continue;
            }
            let server = match known.iter().position(|server| server.addr == addr) {
                Some(at) => known.swap_remove(at),
                None => {
                    let mut server = Server { addr, packets: 0, state: State::Idle };
                    if let Socket::Bound(_) = self.socket(family) {
                        server.ask(now, None, &mut self.ids);
                    }
                    server
                }
            };
            chosen.push(server);
        }
        self.servers = Some(chosen);
        self.send(now);
        self.update_candidates();
    }

    /// A gateway created a port mapping with this external address.
    pub fn handle_mapped(&mut self, _now: Instant, addr: SocketAddr) {
        self.mapped = Some(candidate::canonical(addr));
        self.update_candidates();
    }

    /// The port mapping no longer exists.
    pub fn handle_unmapped(&mut self, _now: Instant) {
        self.mapped = None;
        self.update_candidates();
    }

    /// Processes a datagram that arrived at the socket of this family. Returns true if it was STUN, so that no other
    /// module processes it.
    pub fn handle_datagram(&mut self, now: Instant, family: Family, from: SocketAddr, data: &[u8]) -> bool {
        if !stun::is_stun(data) {
            return false;
        }
        if let Ok(message) = stun::decode(data) {
            self.handle_response(now, family, from, &message);
        }
        true
    }

    fn handle_response(&mut self, now: Instant, family: Family, from: SocketAddr, message: &stun::Message) {
        let answer = self.servers.iter_mut().flatten().filter(|server| server.family() == family).find_map(|server| {
            let State::Asking { transaction, seen } = &server.state else { return None };
            let (answer, seen) = (transaction.handle_message(from, message)?, *seen);
            Some((server, answer, seen))
        });
        let Some((server, answer, seen)) = answer else { return };
        match answer {
            Answer::Refused(_) => server.state = State::Silent { again: after(now, ASK_AGAIN) },
            Answer::Observed(observed) => {
                let (addr, span) = (server.addr, KEEP_ALIVE.end.saturating_sub(KEEP_ALIVE.start));
                let jitter = self.ids.rng.next_u64().checked_rem(span).unwrap_or(0);
                let wait = Duration::from_millis(KEEP_ALIVE.start.saturating_add(jitter));
                server.state = State::Answered { observed, again: after(now, wait) };
                if seen.is_some_and(|seen| seen != observed) {
                    let others = self.servers.iter_mut().flatten().filter(|other| other.addr != addr);
                    others
                        .filter(|other| other.family() == family)
                        .for_each(|other| other.ask(now, None, &mut self.ids));
                    self.send(now);
                }
            }
        }
        self.update_candidates();
    }

    /// Queries all servers again, and keeps the mappings alive from now on. To be called before another round, and
    /// after the machine was suspended.
    pub fn refresh(&mut self, now: Instant) {
        self.keeping = Keeping::Alive;
        FAMILIES.into_iter().for_each(|family| self.start(now, family));
        self.update_candidates();
    }

    /// Stops keeping the mappings alive, because this side does not wait for the peer any more. Pending transactions
    /// continue.
    pub const fn rest(&mut self) {
        self.keeping = Keeping::Resting;
    }

    /// Checks the timers. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.send(now);
        if let (Keeping::Alive, Some(servers)) = (self.keeping, &mut self.servers) {
            for family in FAMILIES {
                if let Some((server, again)) = due(servers.iter_mut().filter(|server| server.family() == family))
                    && again <= now
                {
                    let seen = server.seen();
                    server.ask(now, seen, &mut self.ids);
                }
            }
        }
        self.send(now);
        self.update_candidates();
    }

    /// When [`Gather::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let servers = || self.servers.iter().flatten();
        let asked = servers().filter_map(|server| match &server.state {
            State::Asking { transaction, .. } => Some(transaction.due()),
            State::Idle | State::Answered { .. } | State::Silent { .. } => None,
        });
        let kept = FAMILIES.into_iter().filter_map(|family| match self.keeping {
            Keeping::Alive => due(servers().filter(|server| server.family() == family)).map(|(_, again)| again),
            Keeping::Resting => None,
        });
        asked.chain(kept).min()
    }

    /// The next datagram: the family of the socket to send it from, the destination, and the contents.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<(Family, SocketAddr, Vec<u8>)> {
        self.out.pop_front()
    }

    /// The next new candidate. Each is reported once, and again if it was lost and reappeared.
    #[must_use]
    pub fn poll_candidate(&mut self) -> Option<Candidate> {
        self.news.pop_front()
    }

    /// All present candidates: at most [`candidate::MAX`].
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        self.current.clone()
    }

    /// The mapping behaviour of the NAT in front of the socket of this family, according to the servers' responses.
    #[must_use]
    pub fn nat(&self, family: Family) -> Nat {
        let Socket::Bound(local) = self.socket(family) else { return Nat::Unknown };
        let servers = self.servers.iter().flatten().filter(|server| server.family() == family);
        let seen = servers.filter_map(|server| Some(Seen { server: server.addr, observed: server.seen()? }));
        nat::classify(local.port(), self.interfaces.as_deref().unwrap_or_default(), &seen.collect::<Vec<_>>())
    }

    /// Whether gathering is complete: every transaction has a response or timed out. A change makes it incomplete
    /// again.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let configured = self.interfaces.is_some() && self.servers.is_some();
        let sockets = FAMILIES.iter().all(|&family| self.socket(family) != Socket::Awaited);
        let asking = self.servers.iter().flatten().any(|server| server.is_asked() && server.seen().is_none());
        configured && sockets && !asking
    }

    const fn socket(&self, family: Family) -> Socket {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    const fn socket_mut(&mut self, family: Family) -> &mut Socket {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Drops the observations of a family's servers, and queries them if there is a socket.
    fn start(&mut self, now: Instant, family: Family) {
        let socket = self.socket(family);
        for server in self.servers.iter_mut().flatten().filter(|server| server.family() == family) {
            server.packets = 0;
            match socket {
                Socket::Bound(_) => server.ask(now, None, &mut self.ids),
                Socket::Awaited | Socket::Absent => server.state = State::Idle,
            }
        }
        self.send(now);
    }

    /// Executes the steps of all transactions that are due.
    fn send(&mut self, now: Instant) {
        for server in self.servers.iter_mut().flatten() {
            while let State::Asking { transaction, seen } = &mut server.state {
                if server.packets >= MAX_PACKETS {
                    // The limit is reached: it is not queried any more, but its last observation may still be valid.
                    server.state = match *seen {
                        Some(observed) => State::Answered { observed, again: after(now, ASK_AGAIN) },
                        None => State::Silent { again: after(now, ASK_AGAIN) },
                    };
                    break;
                }
                match transaction.step(now) {
                    Step::Send(data) => {
                        server.packets = server.packets.saturating_add(1);
                        if self.out.len() >= MAX_WAITING {
                            self.out.pop_front();
                        }
                        self.out.push_back((Family::of(server.addr.ip()), server.addr, data));
                    }
                    Step::Wait(_) => break,
                    Step::Over => server.state = State::Silent { again: after(now, ASK_AGAIN) },
                }
            }
        }
    }

    /// Updates the present candidates and queues the new ones.
    fn update_candidates(&mut self) {
        let known = self.learn();
        self.news.retain(|candidate| known.contains(candidate));
        self.news.extend(known.iter().filter(|candidate| !self.current.contains(candidate)));
        self.current = known;
    }

    fn learn(&self) -> Vec<Candidate> {
        let hosts = candidate::offered(self.interfaces.as_deref().unwrap_or_default());
        let udp = hosts.iter().filter_map(|&ip| match self.socket(Family::of(ip)) {
            Socket::Bound(local) => at(ip, local),
            Socket::Awaited | Socket::Absent => None,
        });
        let tcp = hosts.iter().filter_map(|&ip| at(ip, self.listening?)).take(candidate::MAX_TCP);
        let seen = FAMILIES.into_iter().flat_map(|family| {
            let servers = self.servers.iter().flatten().filter(move |server| server.family() == family);
            let mut distinct: Vec<SocketAddr> = Vec::new();
            for observed in servers.filter_map(Server::seen).filter(|observed| Family::of(observed.ip()) == family) {
                if !distinct.contains(&observed) {
                    distinct.push(observed);
                }
            }
            distinct.truncate(MAX_REFLEXIVE);
            distinct
        });
        let all = udp
            .map(|addr| (Kind::Host, CandidateTransport::Udp, addr))
            .chain(tcp.map(|addr| (Kind::Host, CandidateTransport::Tcp, addr)))
            .chain(seen.map(|addr| (Kind::Reflexive, CandidateTransport::Udp, addr)))
            .chain(self.mapped.map(|addr| (Kind::Mapped, CandidateTransport::Udp, addr)));
        let mut known: Vec<Candidate> = Vec::new();
        for (kind, transport, addr) in all {
            let is_new = !known.iter().any(|known| (known.transport, known.addr) == (transport, addr));
            if is_new && candidate::is_usable(addr) && known.len() < candidate::MAX {
                known.push(Candidate { kind, transport, addr });
            }
        }
        known
    }
}

/// The server of a family that is queried next to keep the mapping alive, and when: the first one that responded, or
/// the first one at all if none did. `None` while a transaction is pending, or if all are idle.
fn due<S: std::borrow::Borrow<Server>>(servers: impl Iterator<Item = S>) -> Option<(S, Instant)> {
    let (mut answered, mut silent) = (None, None);
    for server in servers {
        match server.borrow().state {
            State::Asking { .. } => return None,
            State::Idle => {}
            State::Answered { again, .. } => _ = answered.get_or_insert((server, again)),
            State::Silent { again } => _ = silent.get_or_insert((server, again)),
        }
    }
    answered.or(silent)
}

/// The host candidate's address for a socket at one of our addresses, if the socket is bound there.
fn at(ip: IpAddr, local: SocketAddr) -> Option<SocketAddr> {
    let bound = local.ip().to_canonical();
    let listens = match bound {
        IpAddr::V4(any) if any.is_unspecified() => ip.is_ipv4(),
        IpAddr::V6(any) if any.is_unspecified() => true,
        IpAddr::V4(_) | IpAddr::V6(_) => ip == bound,
    };
    listens.then(|| SocketAddr::new(ip, local.port()))
}

fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests;
