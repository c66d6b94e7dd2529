//! Announces a relay on the local network, or browses for relays: both sides of multicast DNS over IPv4, without
//! probing.
//!
//! ```text
//! announcing ──(goodbye)──► silent          browsing ──(goodbye)──► silent
//! ```
//! It decides when to send which message, and which announcements to accept. The name of the instance has 64 random
//! bits, so the probing of RFC 6762 §8.1 would find no conflict and cost 750 ms. It understands only the records of
//! this service: an announcement has all records in one packet, so that no further query is needed.
//!
//! Every host on the network can send announcements, so a result is only a hint: at most [`MAX_FOUND`] addresses, at
//! most `MAX_PER_SOURCE` from one source, only in a network of an own interface or, before those are known, in the
//! network of the source (so that no host can make us connect to other networks), and none with a port below 1024. A
//! relay that is found this way must authenticate itself like any other.
//!
//! Timers: announcements at once and after 1 s; an answer `ANSWER_DELAY` after the question, and at least 1 s after the
//! last one; queries at once, after 1 s, 3 s, 7 s…, then every `MAX_INTERVAL`. Bounds: `MAX_INTERFACES`, `MAX_WAITING`
//! datagrams, `MAX_UNICASTS` unicast answers in a second.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::message::{self, Announced, Instance, Service, TTL};
use crate::Instant;
use crate::net::Interface;
use crate::p2p::candidate;
use crate::seed::Seed;

/// The multicast group and port of multicast DNS.
pub const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)), PORT);
/// The port of multicast DNS.
pub const PORT: u16 = 5353;
/// Maximum number of addresses that are reported in all.
pub const MAX_FOUND: usize = 8;
/// Maximum number of these from one announcing address.
const MAX_PER_SOURCE: usize = 2;
/// Maximum number of interfaces that are used.
const MAX_INTERFACES: usize = 16;
/// Maximum number of unicast answers within a second.
const MAX_UNICASTS: usize = 8;
/// The minimum interval between two multicasts of a record (RFC 6762 §6), and the interval between two announcements
/// (§8.3) and between the first two queries (§5.2).
const SECOND: Duration = Duration::from_secs(1);
/// Maximum number of datagrams that wait for the socket; more are dropped, as a network may do.
const MAX_WAITING: usize = 3 * MAX_INTERFACES;
/// The random delay of an answer that other machines may send, too (RFC 6762 §6), in milliseconds.
const ANSWER_DELAY: Range<u64> = 20..120;
/// The random delay of a repeated query, in milliseconds.
const QUERY_DELAY: Range<u64> = 0..100;
/// The maximum interval between two queries.
const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// If the last multicast is not older than this, an answer may be sent by unicast (RFC 6762 §5.4: a quarter of the
/// TTL).
const LATELY: Duration = Duration::from_secs(TTL as u64 / 4);
/// Maximum TTL of the announcements of other machines, in seconds.
const MAX_TTL: u32 = 4500;
/// The minimum port: lower ports belong to other services and not to a relay that a user started.
const MIN_PORT: u16 = 1024;
/// Number of announcements at the start.
const ANNOUNCEMENTS: u8 = 2;

/// A datagram to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// [`GROUP`], or the address of a querier.
    pub to: SocketAddr,
    /// The address of the interface to send from; `None`: the system chooses.
    pub from: Option<IpAddr>,
    /// The contents.
    pub data: Vec<u8>,
}

/// An announcer or a browser of multicast DNS; the module's documentation describes both.
#[derive(Debug)]
pub struct Mdns {
    task: Task,
    /// The IPv4 addresses of the interfaces that are used.
    interfaces: Vec<Option<IpAddr>>,
    own: Vec<IpAddr>,
    /// The own interfaces with their prefixes: an announced address must be in one of these networks.
    networks: Vec<Interface>,
    out: VecDeque<Outgoing>,
    found: VecDeque<SocketAddr>,
    rng: ChaCha20Rng,
}

#[derive(Debug)]
enum Task {
    Announcing(Announcer),
    Browsing(Browser),
    Silent,
}

#[derive(Debug)]
struct Announcer {
    service: Service,
    /// The number of unsolicited announcements that are left.
    left: u8,
    /// When the next announcement or multicast answer is due; both have the same contents.
    next: Option<Instant>,
    last: Option<Instant>,
    /// When the current second began, and how many unicast answers were sent in it.
    unicasts: (Instant, usize),
}

#[derive(Debug)]
struct Browser {
    next: Instant,
    interval: Duration,
    known: Vec<Known>,
    /// The addresses that were reported, and the address of each announcer.
    told: Vec<(SocketAddr, IpAddr)>,
}

#[derive(Debug)]
struct Known {
    instance: Instance,
    since: Instant,
    ttl: Duration,
}

impl Mdns {
    /// Starts to announce a relay at `port`, on the interfaces with these addresses.
    #[must_use]
    pub fn announce(now: Instant, port: u16, addrs: &[IpAddr], seed: &Seed) -> Self {
        let mut rng = seed.rng();
        let service = Service::new(&format!("{:016x}", rng.next_u64()), port);
        let (left, next) = (ANNOUNCEMENTS, Some(now));
        Self::new(Task::Announcing(Announcer { service, left, next, last: None, unicasts: (now, 0) }), addrs, rng)
    }

    /// Starts to browse for relays, on the interfaces with these addresses.
    #[must_use]
    pub fn browse(now: Instant, addrs: &[IpAddr], seed: &Seed) -> Self {
        let browser = Browser { next: now, interval: SECOND, known: Vec::new(), told: Vec::new() };
        Self::new(Task::Browsing(browser), addrs, seed.rng())
    }

    fn new(task: Task, addrs: &[IpAddr], rng: ChaCha20Rng) -> Self {
        let own: Vec<_> = addrs.iter().map(IpAddr::to_canonical).filter(|ip| !ip.is_loopback()).collect();
        let mut interfaces: Vec<_> =
            own.iter().copied().filter(IpAddr::is_ipv4).take(MAX_INTERFACES).map(Some).collect();
        if interfaces.is_empty() {
            interfaces.push(None);
        }
        Self { task, interfaces, own, networks: Vec::new(), out: VecDeque::new(), found: VecDeque::new(), rng }
    }

    /// Sets this machine's interfaces, as the runtime reports them.
    pub fn handle_interfaces(&mut self, interfaces: &[Interface]) {
        self.networks = interfaces.to_vec();
    }

    /// Processes a datagram from the multicast socket, with any content.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        let source = from.ip().to_canonical();
        // RFC 6762 §11: ignore datagrams that are not from the local network.
        let is_ours = self.networks.is_empty() || candidate::is_near(source, &self.networks);
        if !is_near(source, &self.own) || !is_ours {
            return;
        }
        match &mut self.task {
            Task::Announcing(announcer) => {
                let Some(unicast) = announcer.service.parse_query(data) else { return };
                let answer = if from.port() != PORT {
                    announcer.service.legacy_answer(&nearest(source, &self.own), data)
                } else if unicast && announcer.last.is_some_and(|last| now < after(last, LATELY)) {
                    announcer.service.announcement(&nearest(source, &self.own), false)
                } else {
                    announcer.answer_all(after(now, millis(&mut self.rng, &ANSWER_DELAY)));
                    return;
                };
                if announcer.may_answer_one(now) {
                    self.send(from, None, answer);
                }
            }
            // RFC 6762 §6: responses have the source port of multicast DNS.
            Task::Browsing(browser) if from.port() == PORT => {
                for announced in message::parse_response(data) {
                    let is_ours = |ip| candidate::is_near(ip, &self.networks);
                    self.found.extend(browser.learn(now, source, announced, &self.own, is_ours));
                }
            }
            Task::Browsing(_) | Task::Silent => {}
        }
    }

    /// Checks the timers. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        match &mut self.task {
            Task::Announcing(announcer) => {
                announcer.last = Some(now);
                announcer.left = announcer.left.saturating_sub(1);
                announcer.next = (announcer.left > 0).then(|| after(now, SECOND));
                self.multicast_announcement(false);
            }
            Task::Browsing(browser) => {
                let data = browser.query(now, millis(&mut self.rng, &QUERY_DELAY));
                for interface in self.interfaces.clone() {
                    self.send(GROUP, interface, data.clone());
                }
            }
            Task::Silent => {}
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match &self.task {
            Task::Announcing(announcer) => announcer.next,
            Task::Browsing(browser) => Some(browser.next),
            Task::Silent => None,
        }
    }

    /// The next datagram to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.out.pop_front()
    }

    /// The next relay address that was found; each is reported once.
    #[must_use]
    pub fn poll_found(&mut self) -> Option<SocketAddr> {
        self.found.pop_front()
    }

    /// Withdraws the announced records (RFC 6762 §10.1) and stops. The withdrawal is queued for
    /// [`Self::poll_transmit`].
    pub fn goodbye(&mut self) {
        if let Task::Announcing(Announcer { last: Some(_), .. }) = self.task {
            self.out.clear();
            self.multicast_announcement(true);
        }
        self.task = Task::Silent;
    }

    /// Queues an announcement on each interface, with that interface's address only, because a network need not know
    /// our addresses in other networks.
    fn multicast_announcement(&mut self, gone: bool) {
        for interface in self.interfaces.clone() {
            let Task::Announcing(announcer) = &self.task else { return };
            let addresses = interface.map_or_else(|| nearest(GROUP.ip(), &self.own), |ip| vec![ip]);
            let data = announcer.service.announcement(&addresses, gone);
            self.send(GROUP, interface, data);
        }
    }

    fn send(&mut self, to: SocketAddr, from: Option<IpAddr>, data: Option<Vec<u8>>) {
        if let Some(data) = data
            && self.out.len() < MAX_WAITING
        {
            self.out.push_back(Outgoing { to, from, data });
        }
    }
}

impl Announcer {
    /// Schedules a multicast answer at `at`, but not within a second of the last one.
    fn answer_all(&mut self, at: Instant) {
        let at = self.last.map_or(at, |last| at.max(after(last, SECOND)));
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    fn may_answer_one(&mut self, now: Instant) -> bool {
        let (since, count) = &mut self.unicasts;
        if now >= after(*since, SECOND) {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= MAX_UNICASTS
    }
}

impl Browser {
    /// Makes a query for unknown instances and schedules the next query.
    fn query(&mut self, now: Instant, jitter: Duration) -> Option<Vec<u8>> {
        self.next = after(after(now, self.interval), jitter);
        self.interval = self.interval.saturating_mul(2).min(MAX_INTERVAL);
        self.known.retain(|known| known.left(now) > Duration::ZERO);
        // RFC 6762 §7.1: list only known answers with at least half of their TTL left.
        let fresh = self.known.iter().filter(|known| known.left(now).saturating_mul(2) > known.ttl);
        message::query(
            fresh.map(|known| (&known.instance, u32::try_from(known.left(now).as_secs()).unwrap_or(MAX_TTL))),
        )
    }

    /// Stores an announced instance and returns its new addresses.
    fn learn(
        &mut self,
        now: Instant,
        source: IpAddr,
        announced: Announced,
        own: &[IpAddr],
        is_ours: impl Fn(IpAddr) -> bool,
    ) -> Vec<SocketAddr> {
        self.known.retain(|known| known.instance != announced.instance);
        if announced.ttl == 0 || announced.port < MIN_PORT {
            return Vec::new();
        }
        if self.known.len() < MAX_FOUND {
            let ttl = Duration::from_secs(announced.ttl.min(MAX_TTL).into());
            self.known.push(Known { instance: announced.instance, since: now, ttl });
        }
        let mut addresses = announced.addresses;
        addresses.retain(|&ip| may_be_dialled(ip, own) && (ip == source || is_ours(ip)));
        // The source of the announcement is the one address that is certain to be reachable.
        if may_be_dialled(source, own) && (addresses.is_empty() || addresses.contains(&source)) {
            addresses.retain(|&ip| ip != source);
            addresses.insert(0, source);
        }
        let mut new = Vec::new();
        for addr in addresses.into_iter().map(|ip| SocketAddr::new(ip, announced.port)) {
            let from_there = self.told.iter().filter(|(_, by)| *by == source).count();
            let is_new = self.told.iter().all(|(told, _)| *told != addr);
            if is_new && from_there < MAX_PER_SOURCE && self.told.len() < MAX_FOUND {
                self.told.push((addr, source));
                new.push(addr);
            }
        }
        new
    }
}

impl Known {
    fn left(&self, now: Instant) -> Duration {
        self.ttl.saturating_sub(now.saturating_duration_since(self.since))
    }
}

/// Whether the address is in a local network: private or link-local, or with the same prefix as an own one (/16, /64).
fn is_near(ip: IpAddr, own: &[IpAddr]) -> bool {
    let begins_like_ours = own.iter().any(|own| match (own, ip) {
        (IpAddr::V4(own), IpAddr::V4(ip)) => common_bits(own.octets(), ip.octets()) >= 16,
        (IpAddr::V6(own), IpAddr::V6(ip)) => common_bits(own.octets(), ip.octets()) >= 64,
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    });
    begins_like_ours
        || match ip {
            IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
        }
}

/// Whether the address is in a local network and refers to the same machine here as at the announcer.
fn may_be_dialled(ip: IpAddr, own: &[IpAddr]) -> bool {
    let means_the_same = match ip {
        // Two machines on one cable have only link-local addresses.
        IpAddr::V4(v4) if v4.is_link_local() => {
            own.iter().any(|own| matches!(own, IpAddr::V4(own) if own.is_link_local()))
        }
        IpAddr::V4(v4) => !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    };
    means_the_same && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && is_near(ip, own)
}

/// The own address with the longest common prefix with theirs, for the answer to that querier.
fn nearest(theirs: IpAddr, own: &[IpAddr]) -> Vec<IpAddr> {
    let likeness = |own: &&IpAddr| match (own, theirs) {
        (IpAddr::V4(own), IpAddr::V4(theirs)) => Some(common_bits(own.octets(), theirs.octets())),
        (IpAddr::V6(own), IpAddr::V6(theirs)) => Some(common_bits(own.octets(), theirs.octets())),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    };
    let dialled = own.iter().filter(|&&ip| may_be_dialled(ip, own));
    dialled.max_by_key(likeness).copied().into_iter().collect()
}

fn common_bits<const N: usize>(a: [u8; N], b: [u8; N]) -> u32 {
    let mut bits = 0_u32;
    for (a, b) in a.into_iter().zip(b) {
        let same = (a ^ b).leading_zeros();
        bits = bits.saturating_add(same);
        if same < 8 {
            break;
        }
    }
    bits
}

fn after(at: Instant, duration: Duration) -> Instant {
    at.checked_add(duration).unwrap_or(at)
}

fn millis(rng: &mut ChaCha20Rng, range: &Range<u64>) -> Duration {
    let width = range.end.saturating_sub(range.start).max(1);
    Duration::from_millis(range.start.saturating_add(rng.next_u64().checked_rem(width).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
