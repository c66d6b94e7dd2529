//! How much one source, and all sources together, may request from a relay.
//!
//! Decides whether a new client is accepted, must prove its address, or is refused; whether it may request a seat;
//! whether it may hold one more room. A source is an IPv4 address or an IPv6 /64. Each source is charged in *buckets*
//! (how often) and in *counts* (how many at once). An attacker easily obtains a /48 with its 65,536 sources, so the /56
//! and the /48 around an IPv6 source are charged as well: they may have twice and four times as much as one /64. A
//! request that is refused at any of the three is charged to none of them. So a /48 of fresh sources cannot fill a
//! table, and does not push other sources' buckets out.
//!
//! Half-open connections (their handshake is not complete) are closed in favour of newer ones: the oldest one of the
//! same network if that network has more than its share, or the oldest of all if there are more than [`MAX_HALF_OPEN`].
//!
//! A bucket is the generic cell rate algorithm (ITU-T I.371, annex A): one instant per source, no timers. The source
//! address of a first packet may be forged, so attempts from unproven addresses and from proven addresses have separate
//! buckets. A forger can empty only the bucket of unproven attempts. The owner of the address is then asked to prove it
//! (RFC 9000 §8.1.2), but is never refused.
//!
//! Bounds: [`MAX_SOURCES`] per table of buckets; beyond it the entry that would expire first is removed. Counts have at
//! most three entries per connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::Instant;

/// The most sources and networks in one table of buckets.
pub const MAX_SOURCES: usize = 65_536;
/// The most heap memory that a [`Guard`] uses for its five tables, in bytes.
#[cfg(feature = "internals")]
pub const MAX_MEMORY: usize = 5 * MAX_SOURCES * 96;
/// The number of half-open connections of all sources above which a client must first prove its address.
const HALF_OPEN: usize = 256;
/// The same limit for one source. For TCP it is a sixteenth of the source's connections if that is more.
const HALF_OPEN_PER_SOURCE: u32 = 16;
/// The most half-open connections of all sources, QUIC and TCP together. Beyond it the oldest one is closed.
pub const MAX_HALF_OPEN: usize = 1_024;

/// The unit that limits apply to: an IPv4 address, or the /64 of an IPv6 address.
///
/// It has no printable form, because the relay's logs must not contain an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source(Prefix);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    V4([u8; 4]),
    V6([u8; 8]),
    /// The IPv6 /56 around a source.
    V6Wide([u8; 7]),
    /// The IPv6 /48 around a source.
    V6Wider([u8; 6]),
}

impl Source {
    /// The source of packets from this address. An IPv4-mapped IPv6 address counts as the IPv4 address.
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

    /// The networks that are charged for this source, the source itself first. The number is how many times the limit
    /// of one source the network may have.
    pub(super) fn networks(self) -> impl Iterator<Item = (Self, u32)> {
        let wider = match self.0 {
            Prefix::V6([a, b, c, d, e, f, g, _]) => {
                [Some((Prefix::V6Wide([a, b, c, d, e, f, g]), 2)), Some((Prefix::V6Wider([a, b, c, d, e, f]), 4))]
            }
            Prefix::V4(_) | Prefix::V6Wide(_) | Prefix::V6Wider(_) => [None, None],
        };
        std::iter::once((self, 1)).chain(wider.into_iter().flatten().map(|(prefix, times)| (Self(prefix), times)))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source(***)")
    }
}

/// A rate: `burst` times at once, then once per `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval: Duration,
    burst: u32,
}

impl Rate {
    /// `count` times per minute, half of them at once. 0 means never.
    #[must_use]
    pub fn per_minute(count: u32) -> Self {
        let interval = Duration::from_secs(60).checked_div(count).unwrap_or(Duration::MAX);
        Self { interval, burst: count.div_ceil(2) }
    }

    /// The rate multiplied by a factor.
    fn times(self, factor: u32) -> Self {
        let interval = self.interval.checked_div(factor).unwrap_or(self.interval);
        Self { interval, burst: self.burst.saturating_mul(factor) }
    }

    /// How far in the future the theoretical arrival time may be for a conforming cell.
    fn tolerance(self) -> Duration {
        self.interval.saturating_mul(self.burst.saturating_sub(1))
    }
}

/// One bucket per source, and one for each network that sources are in.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    max_sources: usize,
    /// The theoretical arrival time: when the source's bucket is full again. An entry in the past has no meaning.
    full_at: BTreeMap<Source, Instant>,
    by_time: BTreeSet<(Instant, Source)>,
}

impl Buckets {
    /// A table in which all buckets are full.
    #[must_use]
    pub const fn new(rate: Rate, max_sources: usize) -> Self {
        Self { rate, max_sources, full_at: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Whether the source may act now; does not charge it.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn check(&self, now: Instant, source: Source) -> Result<(), Duration> {
        if self.rate.burst == 0 {
            return Err(Duration::from_secs(60));
        }
        let waiting_times = source.networks().filter_map(|(network, factor)| {
            let full_at = self.full_at.get(&network).copied().unwrap_or(now);
            let ahead = full_at.saturating_duration_since(now);
            ahead.checked_sub(self.rate.times(factor).tolerance()).filter(|wait| !wait.is_zero())
        });
        waiting_times.max().map_or(Ok(()), Err)
    }

    /// Charges the source and its networks once, if it may act now.
    ///
    /// # Errors
    /// How long it has to wait; in that case nothing is charged.
    pub fn take(&mut self, now: Instant, source: Source) -> Result<(), Duration> {
        self.check(now, source)?;
        for (network, factor) in source.networks() {
            self.charge(now, network, self.rate.times(factor).interval);
        }
        Ok(())
    }

    fn charge(&mut self, now: Instant, network: Source, interval: Duration) {
        let start = self.full_at.get(&network).map_or(now, |&full_at| full_at.max(now));
        if let Some(old) = self.full_at.remove(&network) {
            self.by_time.remove(&(old, network));
        }
        self.forget(now);
        let full_at = start.checked_add(interval).unwrap_or(start);
        self.full_at.insert(network, full_at);
        self.by_time.insert((full_at, network));
    }

    /// The number of sources in the table.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.full_at.len()
    }

    /// Called for each new entry: removes up to two entries that are expired, or that exceed the bound.
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
    /// The most connections of all sources.
    pub max_connections: usize,
    /// The most connections of one source.
    pub connections_per_source: u32,
    /// The most waiting or paired rooms of all sources.
    pub max_rooms: usize,
    /// The most rooms that one source may wait in or have created.
    pub rooms_per_source: u32,
    /// Requests for a seat per source and minute. Other limits follow from it: twice as many new connections, half as
    /// many failed requests, and eight times as many STUN requests.
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

/// What to do with a new client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Accept it; it counts as half open.
    Accept,
    /// Accept it, and close the oldest half-open connection: of this network, or of all.
    InPlaceOf(Option<Source>),
    /// Require a proof of its address first.
    Retry,
    /// Refuse it: this source connects too often or has too many connections.
    TooMany,
    /// Refuse it: the relay is full.
    Full,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    half_open: u32,
    connections: u32,
    rooms: u32,
}

impl Counts {
    /// The network's counts divided by `factor`, to compare them with the limits of one source.
    fn share(self, factor: u32) -> Self {
        let share = |count: u32| count.checked_div(factor).unwrap_or(count);
        Self { half_open: share(self.half_open), connections: share(self.connections), rooms: share(self.rooms) }
    }
}

/// Applies the [`Limits`].
#[derive(Debug)]
pub struct Guard {
    limits: Limits,
    attempts: Buckets,
    proven_attempts: Buckets,
    joins: Buckets,
    failures: Buckets,
    stun_requests: Buckets,
    counts: BTreeMap<Source, Counts>,
    half_open: usize,
    connections: usize,
}

impl Guard {
    /// A guard without connections.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let joins = limits.joins_per_minute;
        let attempts = Rate::per_minute(joins.saturating_mul(2));
        let buckets = |rate| Buckets::new(rate, MAX_SOURCES);
        Self {
            limits,
            attempts: buckets(attempts),
            proven_attempts: buckets(attempts),
            joins: buckets(Rate::per_minute(joins)),
            failures: buckets(Rate::per_minute(joins.div_ceil(2))),
            stun_requests: buckets(Rate::per_minute(joins.saturating_mul(8))),
            counts: BTreeMap::new(),
            half_open: 0,
            connections: 0,
        }
    }

    /// Decides on a new QUIC client. `proven`: the client has shown that it receives packets at its address.
    #[must_use]
    pub fn attempt(&mut self, now: Instant, source: Source, proven: bool) -> Admission {
        let most = self.limits.connections_per_source;
        if proven {
            return self.admit(now, source, most);
        }
        if self.connections >= self.limits.max_connections {
            return Admission::Full;
        }
        if self.half_open >= HALF_OPEN
            || self.connections.saturating_add(self.half_open) >= self.limits.max_connections
            || self.crowded(source, |counts| counts.half_open >= HALF_OPEN_PER_SOURCE || counts.connections >= most)
            || self.attempts.take(now, source).is_err()
        {
            return Admission::Retry;
        }
        self.begin(source);
        Admission::Accept
    }

    /// Decides on a new TCP connection. TCP's handshake has already proven the address, so no further proof is
    /// required. Since the client may then send nothing at all, only a sixteenth of a source's connections (but at
    /// least 16) may be half open. Beyond that a new connection replaces an old one, so silent connections do not
    /// exclude honest clients at the same address.
    #[must_use]
    pub fn accept(&mut self, now: Instant, source: Source) -> Admission {
        self.admit(now, source, (self.limits.connections_per_source / 16).max(HALF_OPEN_PER_SOURCE))
    }

    /// Decides on a client with a proven address. `half_open` is the limit of half-open connections for its source.
    fn admit(&mut self, now: Instant, source: Source, half_open: u32) -> Admission {
        let most = self.limits.connections_per_source;
        if self.connections >= self.limits.max_connections {
            return Admission::Full;
        }
        if self.crowded(source, |counts| counts.connections >= most) || self.proven_attempts.take(now, source).is_err()
        {
            return Admission::TooMany;
        }
        let crowd = self.crowd(source, |counts| {
            counts.half_open >= half_open || counts.connections.saturating_add(counts.half_open) >= most
        });
        let all = self.connections.saturating_add(self.half_open);
        let full = self.half_open >= MAX_HALF_OPEN || all >= self.limits.max_connections;
        self.begin(source);
        match crowd {
            Some(network) => Admission::InPlaceOf(Some(network)),
            None if full => Admission::InPlaceOf(None),
            None => Admission::Accept,
        }
    }

    fn begin(&mut self, source: Source) {
        self.half_open = self.half_open.saturating_add(1);
        self.count(source, |counts| counts.half_open = counts.half_open.saturating_add(1));
    }

    /// The first network of this source that exceeds a limit. The network's counts are divided by its factor, rounded
    /// down, and compared with the limits of one source.
    fn crowd(&self, source: Source, too_much: impl Fn(Counts) -> bool) -> Option<Source> {
        let crowd = source
            .networks()
            .find(|(network, factor)| self.counts.get(network).is_some_and(|counts| too_much(counts.share(*factor))));
        crowd.map(|(network, _)| network)
    }

    fn crowded(&self, source: Source, too_much: impl Fn(Counts) -> bool) -> bool {
        self.crowd(source, too_much).is_some()
    }

    /// The handshake is complete, so the address is proven. Returns false if the source has too many connections; the
    /// connection is counted in any case.
    #[must_use]
    pub fn connected(&mut self, source: Source) -> bool {
        self.half_open = self.half_open.saturating_sub(1);
        self.connections = self.connections.saturating_add(1);
        let most = self.limits.connections_per_source;
        let crowded = self.crowded(source, |counts| counts.connections >= most);
        self.count(source, |counts| {
            counts.half_open = counts.half_open.saturating_sub(1);
            counts.connections = counts.connections.saturating_add(1);
        });
        !crowded
    }

    /// A connection is closed. `half_open`: its handshake was not complete.
    pub fn disconnected(&mut self, source: Source, half_open: bool) {
        if half_open {
            self.half_open = self.half_open.saturating_sub(1);
            self.count(source, |counts| counts.half_open = counts.half_open.saturating_sub(1));
        } else {
            self.connections = self.connections.saturating_sub(1);
            self.count(source, |counts| counts.connections = counts.connections.saturating_sub(1));
        }
    }

    /// Charges a request for a seat.
    ///
    /// # Errors
    /// How long its source has to wait.
    pub fn join(&mut self, now: Instant, source: Source) -> Result<(), Duration> {
        self.failures.check(now, source)?;
        self.joins.take(now, source)
    }

    /// Whether a client of this source may try a password now.
    ///
    /// # Errors
    /// How long its source has to wait.
    pub fn may_guess(&self, now: Instant, source: Source) -> Result<(), Duration> {
        self.failures.check(now, source)
    }

    /// Charges a failed request or a wrong password.
    pub fn failed(&mut self, now: Instant, source: Source) {
        // An empty bucket is checked before the next request, so the error can be ignored here.
        let _ = self.failures.take(now, source);
    }

    /// Charges a STUN request. The address may be forged; a forger can use up only this bucket.
    ///
    /// # Errors
    /// How long its source has to wait.
    pub fn ask(&mut self, now: Instant, source: Source) -> Result<(), Duration> {
        self.stun_requests.take(now, source)
    }

    /// Whether the source may have one more room.
    #[must_use]
    pub fn may_open_room(&self, source: Source) -> bool {
        !self.crowded(source, |counts| counts.rooms >= self.limits.rooms_per_source)
    }

    /// Charges a room to the source.
    pub fn room_opened(&mut self, source: Source) {
        self.count(source, |counts| counts.rooms = counts.rooms.saturating_add(1));
    }

    /// Removes the charge for a room.
    pub fn room_closed(&mut self, source: Source) {
        self.count(source, |counts| counts.rooms = counts.rooms.saturating_sub(1));
    }

    /// The most connections of all sources.
    #[must_use]
    pub const fn max_connections(&self) -> usize {
        self.limits.max_connections
    }

    /// The number of connections with a complete handshake.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.connections
    }

    fn count(&mut self, source: Source, change: impl Fn(&mut Counts)) {
        for (network, _) in source.networks() {
            let counts = self.counts.entry(network).or_default();
            change(counts);
            if *counts == Counts::default() {
                self.counts.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests;
