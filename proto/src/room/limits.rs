//! How much one source may ask of a relay, and how much all together.
//!
//! Decides whether a client that knocks is let in, asked to prove its address, or turned away; whether it may ask
//! for a seat; whether it may hold one more room. A source is an IPv4 address or an IPv6 /64, and is charged in
//! *buckets* (how often) and in *counts* (how many at once). Since a /48 with its 65,536 sources is easily had, the
//! /56 and the /48 that an IPv6 source is in are charged as well: they may have twice and four times as much as one
//! /64. What is refused at any of the three is charged to none, so that a /48 of fresh sources fills no table, and
//! nobody else's bucket is forgotten for them.
//!
//! Connections that are half open (their handshake is not done) give way to newer ones: the oldest of the same network
//! where that has more than its share, the oldest of all where there are more than [`MAX_HALF_OPEN`].
//!
//! A bucket is the generic cell rate algorithm (ITU-T I.371, annex A): one instant per source, no timers. A
//! first packet's address may be forged, so what is charged for it is kept apart from what proven addresses are
//! charged: a forger can empty only the bucket whose owner is then asked to prove its address (RFC 9000
//! §8.1.2), and never shuts anybody out.
//!
//! Bounds: [`MAX_SOURCES`] per table of buckets; beyond it the one that would be forgotten first makes room. Counts
//! have at most three entries per connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::Instant;

/// Sources, and networks of them, that one table of buckets remembers.
pub const MAX_SOURCES: usize = 65_536;
/// What a [`Guard`] has on the heap at most for those that it remembers, in bytes: five tables.
pub const MAX_MEMORY: usize = 5 * MAX_SOURCES * 96;
/// Connections in their handshake, all together, above which a client must first prove its address.
const HALF_OPEN: usize = 256;
/// The same for one source; with TCP, a sixteenth of its connections if that is more.
const HALF_OPEN_PER_SOURCE: u32 = 16;
/// Connections in their handshake, all together, of QUIC and TCP: beyond it the oldest gives way.
pub const MAX_HALF_OPEN: usize = 1_024;

/// Whom a client is taken for: its IPv4 address, or the /64 of its IPv6 address.
///
/// There is no way to show it: the relay's logs must not hold an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source(Prefix);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    V4([u8; 4]),
    V6([u8; 8]),
    /// A network that sources are in: an IPv6 /56.
    V6Wide([u8; 7]),
    /// An IPv6 /48.
    V6Wider([u8; 6]),
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

    /// The networks that are charged for this source, itself first, and how many times as much as one source each may
    /// have.
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

    /// So many times as often.
    fn times(self, factor: u32) -> Self {
        let interval = self.interval.checked_div(factor).unwrap_or(self.interval);
        Self { interval, burst: self.burst.saturating_mul(factor) }
    }

    /// How far in the future the next conforming cell may be due.
    fn tolerance(self) -> Duration {
        self.interval.saturating_mul(self.burst.saturating_sub(1))
    }
}

/// One bucket per source, and one for each network that sources are in.
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
        let waits = source.networks().filter_map(|(network, factor)| {
            let full_at = self.full_at.get(&network).copied().unwrap_or(now);
            let ahead = full_at.saturating_duration_since(now);
            ahead.checked_sub(self.rate.times(factor).tolerance()).filter(|wait| !wait.is_zero())
        });
        waits.max().map_or(Ok(()), Err)
    }

    /// Charges the source, and the networks that it is in, once, if it may.
    ///
    /// # Errors
    /// How long it has to wait; nothing is charged then.
    pub fn take(&mut self, now: Instant, source: Source) -> Result<(), Duration> {
        self.check(now, source)?;
        for (network, factor) in source.networks() {
            self.charge(now, network, self.rate.times(factor).interval);
        }
        Ok(())
    }

    fn charge(&mut self, now: Instant, network: Source, interval: Duration) {
        let start = self.full_at.get(&network).map_or(now, |&full_at| full_at.max(now));
        if let Some(known) = self.full_at.remove(&network) {
            self.by_time.remove(&(known, network));
        }
        self.forget(now);
        let full_at = start.checked_add(interval).unwrap_or(start);
        self.full_at.insert(network, full_at);
        self.by_time.insert((full_at, network));
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
    /// The same, and the oldest one that is half open gives way: of this network, or of all.
    InPlaceOf(Option<Source>),
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

impl Counts {
    /// What a network has in the terms of one source, where it may have so many times as much.
    fn share(self, factor: u32) -> Self {
        let share = |count: u32| count.checked_div(factor).unwrap_or(count);
        Self { half_open: share(self.half_open), connections: share(self.connections), rooms: share(self.rooms) }
    }
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
            || self.knocks.take(now, source).is_err()
        {
            return Admission::Retry;
        }
        self.begin(source);
        Admission::Accept
    }

    /// A TCP connection came in. TCP's own handshake has proven its address, so it is never asked to prove it
    /// again; and since it may then send nothing at all, a source may have only a sixteenth of its connections
    /// (and 16 at least) in that state. A new one takes the place of one that is there already, so that silent
    /// ones shut out none of the same address.
    #[must_use]
    pub fn accept(&mut self, now: Instant, source: Source) -> Admission {
        self.admit(now, source, (self.limits.connections_per_source / 16).max(HALF_OPEN_PER_SOURCE))
    }

    /// Admits a client whose address is proven. `half_open`: how many of its source may be so.
    fn admit(&mut self, now: Instant, source: Source, half_open: u32) -> Admission {
        let most = self.limits.connections_per_source;
        if self.connections >= self.limits.max_connections {
            return Admission::Full;
        }
        if self.crowded(source, |counts| counts.connections >= most) || self.proven_knocks.take(now, source).is_err() {
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

    /// The first network of this source that has too much. What is judged is its share of one source's limits, rounded
    /// down.
    fn crowd(&self, source: Source, too_much: impl Fn(Counts) -> bool) -> Option<Source> {
        let crowd = source
            .networks()
            .find(|(network, factor)| self.counts.get(network).is_some_and(|counts| too_much(counts.share(*factor))));
        crowd.map(|(network, _)| network)
    }

    fn crowded(&self, source: Source, too_much: impl Fn(Counts) -> bool) -> bool {
        self.crowd(source, too_much).is_some()
    }

    /// The handshake is done, so the address is proven. False: the source has too many
    /// connections; it is counted all the same.
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

    /// Whether a client of this source may try a password.
    ///
    /// # Errors
    /// How long its source has to wait.
    pub fn may_guess(&self, now: Instant, source: Source) -> Result<(), Duration> {
        self.failures.check(now, source)
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
        !self.crowded(source, |counts| counts.rooms >= self.limits.rooms_per_source)
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
