//! The network between hosts: latency, loss, reordering, duplication, a bound on packet size, partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tallow_proto::seed::Seed;

/// The conditions for packets from one host to another.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// One-way latency.
    pub latency: Duration,
    /// Maximum random delay, which reorders packets.
    pub jitter: Duration,
    /// Lost packets per million.
    pub loss: u32,
    /// Duplicated packets per million.
    pub duplicate: u32,
    /// Bytes per second; 0: no limit.
    pub rate: u64,
    /// Packets that would wait longer than this are dropped.
    pub queue: Duration,
    /// UDP payloads larger than this are dropped in silence.
    pub mtu: usize,
    /// Whether all packets are dropped.
    pub cut: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0,
            duplicate: 0,
            rate: 0,
            queue: Duration::from_millis(200),
            mtu: 1452,
            cut: false,
        }
    }
}

/// Conditions per direction, and a generator of its own so that the network's chance does not depend on the hosts'.
#[derive(Debug)]
pub struct Network {
    default: Conditions,
    special: BTreeMap<(IpAddr, IpAddr), Conditions>,
    busy: BTreeMap<(IpAddr, IpAddr), Instant>,
    /// Hosts behind an office firewall.
    without_udp: BTreeSet<IpAddr>,
    rng: Chance,
}

impl Network {
    /// Creates a network with the same conditions between all hosts.
    #[must_use]
    pub fn new(default: Conditions, seed: &Seed) -> Self {
        let rng = Chance::new(&seed.derive("network"));
        Self { default, special: BTreeMap::new(), busy: BTreeMap::new(), without_udp: BTreeSet::new(), rng }
    }

    /// Sets the conditions everywhere that has none of its own.
    pub const fn set_default(&mut self, conditions: Conditions) {
        self.default = conditions;
    }

    /// The conditions that hold where none were set.
    #[must_use]
    pub const fn default_conditions(&self) -> Conditions {
        self.default
    }

    /// Sets the conditions from one host to another (one direction).
    pub fn set(&mut self, from: IpAddr, to: IpAddr, conditions: Conditions) {
        self.special.insert((from, to), conditions);
    }

    /// The conditions from one host to another.
    #[must_use]
    pub fn get(&self, from: IpAddr, to: IpAddr) -> Conditions {
        self.special.get(&(from, to)).copied().unwrap_or(self.default)
    }

    /// No datagram gets to or from this host, while TCP does; or again.
    pub fn block_udp(&mut self, host: IpAddr, block: bool) {
        if block {
            self.without_udp.insert(host);
        } else {
            self.without_udp.remove(&host);
        }
    }

    /// When a packet of a TCP connection arrives, unless the way is cut. One that is lost is sent again after `again`;
    /// one that finds a long queue waits in it, since its sender is one that slows down.
    pub fn carry_stream(
        &mut self,
        now: Instant,
        from: IpAddr,
        to: IpAddr,
        size: usize,
        again: Duration,
    ) -> Option<Instant> {
        let conditions = self.get(from, to);
        if conditions.cut {
            return None;
        }
        let mut sent = now;
        if conditions.rate > 0 {
            let busy = self.busy.entry((from, to)).or_insert(now);
            sent = (*busy).max(now) + Duration::from_secs_f64(size as f64 / conditions.rate as f64);
            *busy = sent;
        }
        if self.rng.hits(conditions.loss) {
            sent += again;
        }
        Some(sent + conditions.latency + self.rng.up_to(conditions.jitter))
    }

    /// When the datagram arrives: not at all, once, or twice.
    pub fn carry(&mut self, now: Instant, from: IpAddr, to: IpAddr, size: usize) -> Vec<Instant> {
        let conditions = self.get(from, to);
        let blocked = !self.without_udp.is_empty() && [from, to].iter().any(|host| self.without_udp.contains(host));
        if blocked || conditions.cut || size > conditions.mtu || self.rng.hits(conditions.loss) {
            return Vec::new();
        }
        let mut sent = now;
        if conditions.rate > 0 {
            let busy = self.busy.entry((from, to)).or_insert(now);
            sent = (*busy).max(now);
            if sent - now > conditions.queue {
                return Vec::new();
            }
            sent += Duration::from_secs_f64(size as f64 / conditions.rate as f64);
            *busy = sent;
        }
        let copies = if self.rng.hits(conditions.duplicate) { 2 } else { 1 };
        (0..copies).map(|_| sent + conditions.latency + self.rng.up_to(conditions.jitter)).collect()
    }
}

/// A small seeded generator.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        let mut word = [0; 8];
        word.copy_from_slice(&seed.bytes()[..8]);
        Self(u64::from_le_bytes(word) | 1)
    }

    /// 64 bits (xorshift64*).
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// True in `parts` of a million cases.
    pub fn hits(&mut self, parts: u32) -> bool {
        parts > 0 && self.draw() % 1_000_000 < u64::from(parts)
    }

    /// A duration below the limit.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 { Duration::ZERO } else { Duration::from_nanos(self.draw() % nanos) }
    }
}
