//! A set of entries of a manifest, by their numbers.
//!
//! Bound: one bit for each entry up to the highest that is in it. No timers, no states.

use crate::wire::peer::EntryRange;

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct EntrySet {
    bits: Vec<u64>,
    count: u32,
}

impl EntrySet {
    /// An empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { bits: Vec::new(), count: 0 }
    }

    /// Adds an entry. False: it was there.
    pub fn insert(&mut self, index: u32) -> bool {
        let (word, bit) = place(index);
        if self.bits.len() <= word {
            self.bits.resize(word.saturating_add(1), 0);
        }
        let Some(bits) = self.bits.get_mut(word).filter(|bits| **bits & bit == 0) else { return false };
        *bits |= bit;
        self.count = self.count.saturating_add(1);
        true
    }

    /// Whether an entry is in it.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        let (word, bit) = place(index);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// How many entries are in it.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether no entry is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0_u32..).zip(&self.bits).flat_map(|(word, bits)| {
            let first = word.saturating_mul(64);
            (0..64_u32).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| first.saturating_add(bit))
        })
    }
}

impl EntrySet {
    /// The entries as ranges, ascending, the longest ones.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = EntryRange> + '_ {
        let mut entries = self.iter().peekable();
        std::iter::from_fn(move || {
            let first = entries.next()?;
            let mut last = first;
            while let Some(next) = entries.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            Some(EntryRange { first, last })
        })
    }
}

impl FromIterator<u32> for EntrySet {
    fn from_iter<T: IntoIterator<Item = u32>>(entries: T) -> Self {
        let mut set = Self::new();
        for index in entries {
            set.insert(index);
        }
        set
    }
}

/// The word of an entry, and its bit there.
const fn place(index: u32) -> (usize, u64) {
    ((index / 64) as usize, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_entries_is_a_set(entries in prop::collection::vec(0..400_u32, 0..60)) {
            let (mut set, mut model) = (EntrySet::new(), BTreeSet::new());
            for index in entries {
                prop_assert_eq!(set.insert(index), model.insert(index));
            }
            prop_assert_eq!((set.len() as usize, set.is_empty()), (model.len(), model.is_empty()));
            prop_assert!((0..500).all(|index| set.contains(index) == model.contains(&index)));
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(&set.iter().collect::<EntrySet>(), &set);
            let ranges: Vec<_> = set.ranges().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
            let listed: Vec<u32> = ranges.iter().flat_map(|range| range.first..=range.last).collect();
            prop_assert_eq!(listed, set.iter().collect::<Vec<_>>());
        }
    }
}
