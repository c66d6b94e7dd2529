//! Limits what is sent to addresses that are not yet proven to be the other peer's, so that neither a peer nor a relay can use
//! this machine to flood a third one (docs/protocol.md §8; T33 in docs/threats.md, K02 in tests/cases).
//!
//! It decides for each datagram whether it leaves. What does not is lost, as in any network. One budget is for a session; it is
//! whole again after [`PERIOD`], since a session may last for days. Bounds: an address is remembered once something left for it,
//! so [`DATAGRAMS`] of them at most.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::candidate::canonical;
use crate::Instant;

/// To one address, whatever the port, datagrams and bytes: a victim is a machine.
pub const PER_ADDRESS: (u32, u32) = (20, 24 << 10);
/// Of those, probes: the rest is left for the handshake that they make room for.
pub const PROBES: u32 = 12;
/// To all of them together, datagrams.
pub const DATAGRAMS: u32 = 100;
/// The same, bytes.
pub const BYTES: u32 = 120 << 10;
/// How long a budget lasts.
pub const PERIOD: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    datagrams: u32,
    bytes: u32,
}

impl Spent {
    /// With so much more, if that is within the limits.
    fn with(self, datagrams: u32, bytes: u32, (max_datagrams, max_bytes): (u32, u32)) -> Option<Self> {
        let spent = Self { datagrams: self.datagrams.checked_add(datagrams)?, bytes: self.bytes.checked_add(bytes)? };
        (spent.datagrams <= max_datagrams && spent.bytes <= max_bytes).then_some(spent)
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Budget {
    addresses: BTreeMap<IpAddr, Spent>,
    all: Spent,
    since: Option<Instant>,
}

impl Budget {
    /// Whether a probe of so many bytes may leave for this address; it is counted then.
    pub fn spend_probe(&mut self, now: Instant, to: SocketAddr, bytes: usize) -> bool {
        let sent = self.addresses.get(&canonical(to).ip()).map_or(0, |spent| spent.datagrams);
        (self.is_over(now) || sent < PROBES) && self.spend(now, to, 1, bytes)
    }

    /// The other side is at this address: what left for it does not count.
    pub fn forgive(&mut self, at: SocketAddr) {
        if let Some(spent) = self.addresses.remove(&canonical(at).ip()) {
            self.all.datagrams = self.all.datagrams.saturating_sub(spent.datagrams);
            self.all.bytes = self.all.bytes.saturating_sub(spent.bytes);
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD)
    }

    /// Whether so many datagrams with so many bytes together may leave for this address; they are counted then.
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

    /// A machine of its own each.
    fn of(number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([192, 0, high, low], 2000))
    }

    #[test]
    fn k02_one_address_gets_20_datagrams_and_24_kib_and_all_together_100_and_120_kib() {
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
    fn probes_leave_room_for_a_handshake() {
        let now = Instant::now();
        let mut budget = Budget::default();
        assert_eq!((0..100).filter(|&n| budget.spend_probe(now, at(2000 + n), 20)).count(), 12);
        assert_eq!((0..100).filter(|&n| budget.spend(now, at(2000 + n), 1, 1200)).count(), 8);
        assert!(!budget.spend_probe(now + PERIOD - Duration::from_millis(1), at(2000), 20));
        assert!(budget.spend_probe(now + PERIOD, at(2000), 20));
    }

    #[test]
    fn what_left_for_the_other_side_does_not_count() {
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
    fn a_batch_leaves_whole_or_not_at_all_and_a_later_period_has_its_own() {
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
