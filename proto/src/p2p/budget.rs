//! How much may leave for addresses that have not proven to be the other side: so that neither a peer nor a relay makes this
//! machine flood anybody (protocol.md §8; T33, K02).
//!
//! It decides for each datagram whether it leaves. What does not is lost, as in any network. One budget is for a session; it is
//! whole again after [`PERIOD`], since a session may last for days. Bounds: an address is remembered once something left for it,
//! so [`DATAGRAMS`] of them at most.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::candidate::canonical;
use crate::Instant;

/// To one address, datagrams and bytes.
pub const PER_ADDRESS: (u32, u32) = (20, 24 << 10);
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
    addresses: BTreeMap<SocketAddr, Spent>,
    all: Spent,
    since: Option<Instant>,
}

impl Budget {
    /// Whether so many datagrams with so many bytes together may leave for this address; they are counted then.
    pub fn spend(&mut self, now: Instant, to: SocketAddr, datagrams: usize, bytes: usize) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            *self = Self { since: Some(now), ..Self::default() };
        }
        let to = canonical(to);
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
        assert_eq!(sent(|n| at(2000 + n), 1), 100);
        assert_eq!(sent(|n| at(2000 + n), 1400), 87);
        // The same address in another form.
        let mapped = |n: u16| -> SocketAddr {
            if n.is_multiple_of(2) { at(2000) } else { "[::ffff:192.0.2.1]:2000".parse().unwrap() }
        };
        assert_eq!(sent(mapped, 1), 20);
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
