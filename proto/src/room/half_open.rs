//! The half-open connections (accepted, but the handshake is not complete), oldest first, of all networks and of each
//! network.
//!
//! Decides nothing: [`super::limits`] decides when one of them is closed. No timers. Bound:
//! [`super::limits::MAX_HALF_OPEN`], since the relay closes one for each new connection beyond it.

use std::collections::{BTreeMap, BTreeSet};

use super::limits::Source;

/// The half-open connections by age and by network. `L` names a connection.
#[derive(Debug)]
pub struct HalfOpen<L> {
    by_age: BTreeMap<u64, L>,
    by_network: BTreeSet<(Source, u64)>,
    entries: BTreeMap<L, (u64, Source)>,
    next: u64,
}

impl<L: Copy + Ord> HalfOpen<L> {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { by_age: BTreeMap::new(), by_network: BTreeSet::new(), entries: BTreeMap::new(), next: 0 }
    }

    /// Adds a connection.
    pub fn begin(&mut self, link: L, source: Source) {
        self.end(link);
        self.next = self.next.wrapping_add(1);
        self.by_age.insert(self.next, link);
        self.by_network.extend(source.networks().map(|(network, _)| (network, self.next)));
        self.entries.insert(link, (self.next, source));
    }

    /// Removes a connection whose handshake is complete, or which is closed. Does nothing if it is not in the list.
    pub fn end(&mut self, link: L) {
        let Some((number, source)) = self.entries.remove(&link) else { return };
        self.by_age.remove(&number);
        for (network, _) in source.networks() {
            self.by_network.remove(&(network, number));
        }
    }

    /// The oldest connection.
    #[must_use]
    pub fn oldest(&self) -> Option<L> {
        self.by_age.first_key_value().map(|(_, &link)| link)
    }

    /// The connections of a network, the oldest first.
    pub fn of(&self, network: Source) -> impl Iterator<Item = L> {
        let numbers = self.by_network.range((network, 0)..=(network, u64::MAX));
        numbers.filter_map(|(_, number)| self.by_age.get(number).copied())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn source(text: &str) -> Source {
        Source::of(SocketAddr::new(text.parse().unwrap(), 1))
    }

    #[test]
    fn half_open_links_are_ordered_by_age_per_network() {
        let mut all = HalfOpen::new();
        let (one, near, far) = (source("2001:db8::1"), source("2001:db8:0:1::1"), source("192.0.2.1"));
        for (link, source) in [(7, far), (5, near), (9, one), (3, near)] {
            all.begin(link, source);
        }
        assert_eq!(all.oldest(), Some(7));
        assert_eq!(all.of(near).collect::<Vec<_>>(), [5, 3]);
        let networks: Vec<Vec<i32>> = one.networks().map(|(network, _)| all.of(network).collect()).collect();
        assert_eq!(networks, [vec![9], vec![5, 9, 3], vec![5, 9, 3]]);
        all.end(5);
        all.end(7);
        assert_eq!((all.oldest(), all.entries.len()), (Some(9), 2));
        all.begin(9, one);
        assert_eq!(all.oldest(), Some(3));
        [9, 3, 3].into_iter().for_each(|link| all.end(link));
        assert!(all.entries.is_empty() && all.by_age.is_empty() && all.by_network.is_empty());
    }
}
