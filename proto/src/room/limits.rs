//! How much one source may ask of a relay, and how much all together.
//!
//! Decides whether a client that knocks is let in, asked to prove its address, or turned away; whether it may ask for a
//! seat; whether it may hold one more room. A source is an IPv4 address or an IPv6 /64, and is charged in *buckets*
//! (how often) and in *counts* (how many at once).
//!
//! A bucket is the generic cell rate algorithm (ITU-T I.371, annex A): one instant per source, no timers. A first
//! packet's address may be forged, so what is charged for it is kept apart from what proven addresses are charged: a
//! forger can empty only the bucket whose owner is then asked to prove its address (RFC 9000 §8.1.2), and never shuts
//! anybody out.
//!
//! Bounds: [`MAX_SOURCES`] per table of buckets; beyond it the one that would be forgotten first makes room. Counts
//! have at most one entry per connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::Instant;

/// Sources that one table of buckets remembers.
pub const MAX_SOURCES: usize = 65_536;
/// Connections in their handshake, all together, above which a client must first prove its address.
const HALF_OPEN: usize = 256;
/// The same for one source whose address is not proven.
const HALF_OPEN_PER_SOURCE: u32 = 16;

/// Whom a client is taken for: its IPv4 address, or the /64 of its IPv6 address.
///
/// There is no way to show it: the relay's logs must not hold an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source(Prefix);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Source {
    /// The source of packets from this address. An IPv4 address in IPv6 form is that IPv4 address.
    #[must_use]
    pub fn of(addr: SocketAddr) -> Self {
        Self(match addr.ip().to_canonical() {
            IpAddr::V4(ip) => Prefix::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Prefix::V6([a, b, c, d, e, f, g, h])
            }
        })
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source(***)")
    }
}

/// How often: `burst` times at once, then once per `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval: Duration,
    burst: u32,
}

impl Rate {
    /// So many times a minute, half of them at once. 0 means never.
    #[must_use]
    pub fn per_minute(count: u32) -> Self {
        let interval = Duration::from_secs(60).checked_div(count).unwrap_or(Duration::MAX);
        Self { interval, burst: count.div_ceil(2) }
    }

    /// How far in the future the next conforming cell may be due.
    fn tolerance(self) -> Duration {
        self.interval.saturating_mul(self.burst.saturating_sub(1))
    }
}

/// One bucket per source.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    max_sources: usize,
    /// The theoretical arrival time: when the source's bucket is full again. One that has passed says nothing.
    full_at: BTreeMap<Source, Instant>,
    by_time: BTreeSet<(Instant, Source)>,
}

impl Buckets {
    /// All buckets are full.
    #[must_use]
    pub const fn new(rate: Rate, max_sources: usize) -> Self {
        Self { rate, max_sources, full_at: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Whether the source may now, without charging it.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn check(&self, now: Instant, source: Source) -> Result<(), Duration> {
        if self.rate.burst == 0 {
            return Err(Duration::from_secs(60));
        }
        let full_at = self.full_at.get(&source).copied().unwrap_or(now);
        let ahead = full_at.saturating_duration_since(now);
        ahead.checked_sub(self.rate.tolerance()).filter(|wait| !wait.is_zero()).map_or(Ok(()), Err)
    }

    /// Charges the source once, if it may.
    ///
    /// # Errors
    /// How long it has to wait; it is not charged then.
    pub fn take(&mut self, now: Instant, source: Source) -> Result<(), Duration> {
        self.check(now, source)?;
        let start = self.full_at.get(&source).map_or(now, |&full_at| full_at.max(now));
        if let Some(known) = self.full_at.remove(&source) {
            self.by_time.remove(&(known, source));
        }
        self.forget(now);
        let full_at = start.checked_add(self.rate.interval).unwrap_or(start);
        self.full_at.insert(source, full_at);
        self.by_time.insert((full_at, source));
        Ok(())
    }

    /// How many sources are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.full_at.len()
    }

    /// Whether no source is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full_at.is_empty()
    }

    /// Two entries that say nothing any more go for each that comes, and room is made for that one.
    fn forget(&mut self, now: Instant) {
        for _ in 0..2 {
            let Some(&(full_at, source)) = self.by_time.first() else { return };
            if full_at > now && self.full_at.len() < self.max_sources {
                return;
            }
            self.by_time.remove(&(full_at, source));
            self.full_at.remove(&source);
        }
    }
}

/// What a relay allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections, all together.
    pub max_connections: usize,
    /// Connections of one source.
    pub connections_per_source: u32,
    /// Rooms with somebody in them, all together.
    pub max_rooms: usize,
    /// Rooms that one source may wait in or have made.
    pub rooms_per_source: u32,
    /// Requests for a seat of one source per minute. Twice as many connections are allowed, half as many requests in
    /// vain, and eight times as many questions for the own address.
    pub joins_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            connections_per_source: 256,
            max_rooms: 10_000,
            rooms_per_source: 64,
            joins_per_minute: 120,
        }
    }
}

/// What to do with a client that knocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Let it in; it is counted as half open.
    Accept,
    /// Let it prove its address first.
    Retry,
    /// Turn it away: this source asks too often or has too many connections.
    TooMany,
    /// Turn it away: there is no place.
    Full,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    half_open: u32,
    connections: u32,
    rooms: u32,
}

/// Applies the [`Limits`].
#[derive(Debug)]
pub struct Guard {
    limits: Limits,
    knocks: Buckets,
    proven_knocks: Buckets,
    joins: Buckets,
    failures: Buckets,
    questions: Buckets,
    counts: BTreeMap<Source, Counts>,
    half_open: usize,
    connections: usize,
}

impl Guard {
    /// Nobody is there.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let joins = limits.joins_per_minute;
        let knocks = Rate::per_minute(joins.saturating_mul(2));
        let buckets = |rate| Buckets::new(rate, MAX_SOURCES);
        Self {
            limits,
            knocks: buckets(knocks),
            proven_knocks: buckets(knocks),
            joins: buckets(Rate::per_minute(joins)),
            failures: buckets(Rate::per_minute(joins.div_ceil(2))),
            questions: buckets(Rate::per_minute(joins.saturating_mul(8))),
            counts: BTreeMap::new(),
            half_open: 0,
            connections: 0,
        }
    }

    /// A client knocks. `proven`: it has shown that it receives at its address.
    #[must_use]
    pub fn knock(&mut self, now: Instant, source: Source, proven: bool) -> Admission {
        if self.connections.saturating_add(self.half_open) >= self.limits.max_connections {
            return Admission::Full;
        }
        let counts = self.counts.get(&source).copied().unwrap_or_default();
        if proven {
            let all = counts.connections.saturating_add(counts.half_open);
            if all >= self.limits.connections_per_source || self.proven_knocks.take(now, source).is_err() {
                return Admission::TooMany;
            }
        } else if self.half_open >= HALF_OPEN
            || counts.half_open >= HALF_OPEN_PER_SOURCE
            || counts.connections >= self.limits.connections_per_source
            || self.knocks.take(now, source).is_err()
        {
            return Admission::Retry;
        }
        self.begin(source);
        Admission::Accept
    }

    /// A TCP connection came in. TCP's own handshake has proven its address, so it is never asked to prove it again;
    /// and since it may then say nothing at all, a source may have only a sixteenth of its connections (and 16 at
    /// least) in that state.
    #[must_use]
    pub fn accept(&mut self, now: Instant, source: Source) -> Admission {
        if self.connections.saturating_add(self.half_open) >= self.limits.max_connections {
            return Admission::Full;
        }
        let counts = self.counts.get(&source).copied().unwrap_or_default();
        let most = self.limits.connections_per_source;
        if counts.connections.saturating_add(counts.half_open) >= most
            || counts.half_open >= (most / 16).max(HALF_OPEN_PER_SOURCE)
            || self.proven_knocks.take(now, source).is_err()
        {
            return Admission::TooMany;
        }
        self.begin(source);
        Admission::Accept
    }

    fn begin(&mut self, source: Source) {
        self.half_open = self.half_open.saturating_add(1);
        self.count(source, |counts| counts.half_open = counts.half_open.saturating_add(1));
    }

    /// The handshake is done, so the address is proven. False: the source has too many connections; it is counted all
    /// the same.
    #[must_use]
    pub fn connected(&mut self, source: Source) -> bool {
        self.half_open = self.half_open.saturating_sub(1);
        self.connections = self.connections.saturating_add(1);
        let mut many = 0;
        self.count(source, |counts| {
            counts.half_open = counts.half_open.saturating_sub(1);
            counts.connections = counts.connections.saturating_add(1);
            many = counts.connections;
        });
        many <= self.limits.connections_per_source
    }

    /// A connection is over; `half_open`: before its handshake was done.
    pub fn disconnected(&mut self, source: Source, half_open: bool) {
        if half_open {
            self.half_open = self.half_open.saturating_sub(1);
            self.count(source, |counts| counts.half_open = counts.half_open.saturating_sub(1));
        } else {
            self.connections = self.connections.saturating_sub(1);
            self.count(source, |counts| counts.connections = counts.connections.saturating_sub(1));
        }
    }

    /// A client asks for a seat.
    ///
    /// # Errors
    /// How long its source has to wait.
    pub fn join(&mut self, now: Instant, source: Source) -> Result<(), Duration> {
        self.failures.check(now, source)?;
        self.joins.take(now, source)
    }

    /// It asked in vain, or with a wrong password.
    pub fn failed(&mut self, now: Instant, source: Source) {
        // An empty bucket is checked before the next request, so nothing is lost here.
        let _ = self.failures.take(now, source);
    }

    /// A client asks at which address it is seen. The address may be forged; what a forger uses up is only this.
    ///
    /// # Errors
    /// How long its source has to wait.
    pub fn ask(&mut self, now: Instant, source: Source) -> Result<(), Duration> {
        self.questions.take(now, source)
    }

    /// Whether the source may have one more room.
    #[must_use]
    pub fn may_open_room(&self, source: Source) -> bool {
        self.counts.get(&source).is_none_or(|counts| counts.rooms < self.limits.rooms_per_source)
    }

    /// A room is charged to the source.
    pub fn room_opened(&mut self, source: Source) {
        self.count(source, |counts| counts.rooms = counts.rooms.saturating_add(1));
    }

    /// And no longer.
    pub fn room_closed(&mut self, source: Source) {
        self.count(source, |counts| counts.rooms = counts.rooms.saturating_sub(1));
    }

    /// How many connections there may be, all together.
    #[must_use]
    pub const fn max_connections(&self) -> usize {
        self.limits.max_connections
    }

    /// Connections, without those in their handshake.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.connections
    }

    fn count(&mut self, source: Source, change: impl FnOnce(&mut Counts)) {
        let counts = self.counts.entry(source).or_default();
        change(counts);
        if *counts == Counts::default() {
            self.counts.remove(&source);
        }
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
