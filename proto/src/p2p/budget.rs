//! The anti-amplification budget: limits what is sent to addresses that are not validated as the peer's, so that
//! neither a peer nor a relay can use this machine to flood a third one (docs/protocol.md §8; T33 in docs/threats.md,
//! K02 in tests/cases).
//!
//! It decides for each datagram whether it is sent; others are dropped, as a network may do. A session has one budget,
//! which is renewed after [`PERIOD`], because a session may last for days. Bounds: an address is stored once a datagram
//! was sent to it, so at most [`DATAGRAMS`] addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::candidate::canonical;
use crate::Instant;

/// Limit per IP address, in datagrams and bytes. It covers all ports, because the victim is a machine.
pub const PER_ADDRESS: (u32, u32) = (20, 24 << 10);
/// Limit of probes per IP address; the rest of the datagrams is reserved for the QUIC handshake.
pub const PROBES: u32 = 12;
/// Limit for all addresses together, in datagrams.
pub const DATAGRAMS: u32 = 100;
/// Limit for all addresses together, in bytes.
pub const BYTES: u32 = 120 << 10;
/// The period after which the budget is renewed.
pub const PERIOD: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    datagrams: u32,
    bytes: u32,
}

impl Spent {
    /// Adds datagrams and bytes; `None` if the result exceeds the limits.
    fn with(self, datagrams: u32, bytes: u32, (max_datagrams, max_bytes): (u32, u32)) -> Option<Self> {
        let spent = Self { datagrams: self.datagrams.checked_add(datagrams)?, bytes: self.bytes.checked_add(bytes)? };
        (spent.datagrams <= max_datagrams && spent.bytes <= max_bytes).then_some(spent)
    }
}

/// The budget of one session.
#[derive(Debug, Default)]
pub struct Budget {
    addresses: BTreeMap<IpAddr, Spent>,
    all: Spent,
    since: Option<Instant>,
}

impl Budget {
    /// Whether a probe of this length may be sent to this address; if so, it is counted.
    pub fn spend_probe(&mut self, now: Instant, to: SocketAddr, bytes: usize) -> bool {
        let sent = self.addresses.get(&canonical(to).ip()).map_or(0, |spent| spent.datagrams);
        (self.is_over(now) || sent < PROBES) && self.spend(now, to, 1, bytes)
    }

    /// The peer was validated at this address: the datagrams that were sent to it no longer count.
    pub fn forgive(&mut self, at: SocketAddr) {
        if let Some(spent) = self.addresses.remove(&canonical(at).ip()) {
            self.all.datagrams = self.all.datagrams.saturating_sub(spent.datagrams);
            self.all.bytes = self.all.bytes.saturating_sub(spent.bytes);
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD)
    }

    /// Whether this many datagrams, with this many bytes together, may be sent to this address; if so, they are
    /// counted.
    pub fn spend(&mut self, now: Instant, to: SocketAddr, datagrams: usize, bytes: usize) -> bool {
        if self.is_over(now) {
            *self = Self { since: Some(now), ..Self::default() };
        }
        let to = canonical(to).ip();
        let (Ok(datagrams), Ok(bytes)) = (u32::try_from(datagrams), u32::try_from(bytes)) else { return false };
        let before = self.addresses.get(&to).copied().unwrap_or_default();
        let (Some(here), Some(all)) =
            (before.with(datagrams, bytes, PER_ADDRESS), self.all.with(datagrams, bytes, (DATAGRAMS, BYTES)))
        else {
            return false;
        };
        self.addresses.insert(to, here);
        self.all = all;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// The address of a different machine for each number.
    fn of(number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([192, 0, high, low], 2000))
    }

    #[test]
    fn k02_the_budget_limits_each_address_and_all_together() {
        let now = Instant::now();
        let sent = |to: fn(u16) -> SocketAddr, bytes: usize| {
            let mut budget = Budget::default();
            (0..1000).filter(|&n| budget.spend(now, to(n), 1, bytes)).count()
        };
        assert_eq!(sent(|_| at(2000), 1), 20);
        assert_eq!(sent(|_| at(2000), 1200), 20);
        assert_eq!(sent(|_| at(2000), 1400), 17);
        assert_eq!(sent(|n| at(2000 + n), 1), 20, "other ports");
        assert_eq!(sent(of, 1), 100);
        assert_eq!(sent(of, 1400), 87);
        // The same address in another form.
        let mapped = |n: u16| -> SocketAddr {
            if n.is_multiple_of(2) { at(2000) } else { "[::ffff:192.0.2.1]:2000".parse().unwrap() }
        };
        assert_eq!(sent(mapped, 1), 20);
    }

    #[test]
    fn probes_leave_budget_for_a_handshake() {
        let now = Instant::now();
        let mut budget = Budget::default();
        assert_eq!((0..100).filter(|&n| budget.spend_probe(now, at(2000 + n), 20)).count(), 12);
        assert_eq!((0..100).filter(|&n| budget.spend(now, at(2000 + n), 1, 1200)).count(), 8);
        assert!(!budget.spend_probe(now + PERIOD - Duration::from_millis(1), at(2000), 20));
        assert!(budget.spend_probe(now + PERIOD, at(2000), 20));
    }

    #[test]
    fn datagrams_to_the_validated_peer_do_not_count() {
        let now = Instant::now();
        let mut budget = Budget::default();
        for _ in 0..100 {
            assert!(budget.spend(now, at(2000), 20, 20_000));
            budget.forgive(at(3000));
        }
        assert!(budget.spend(now, at(2000), 20, 20));
        budget.forgive(of(1));
        assert!(!budget.spend(now, at(2000), 1, 1), "another one's proof");
    }

    #[test]
    fn a_batch_is_sent_whole_or_not_and_each_period_has_a_budget() {
        let start = Instant::now();
        let mut budget = Budget::default();
        assert!(!budget.spend(start, at(2000), 21, 21));
        assert!(budget.spend(start, at(2000), 15, 15));
        assert!(!budget.spend(start, at(2000), 6, 6));
        assert!(budget.spend(start, at(2000), 5, 5));
        assert!(!budget.spend(start + PERIOD - Duration::from_millis(1), at(2000), 1, 1));
        assert!(budget.spend(start + PERIOD, at(2000), 1, 1));
    }
}
