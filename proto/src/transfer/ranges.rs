//! Sets of chunk numbers, stored as ranges: small while chunks arrive nearly in order.

use std::collections::BTreeMap;

use crate::wire::Violation;
use crate::wire::peer::{ChunkRange, Have};

/// The largest number of chunks under one digest, for chunks that a receiver has from an earlier transfer.
pub const MOST_IN_HAVE: u64 = 1024;

/// A set of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// First to last of each range; no two ranges touch.
    ranges: BTreeMap<u64, u64>,
    count: u64,
}

impl RangeSet {
    /// How many numbers it contains.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether it contains the whole range.
    pub fn covers(&self, range: ChunkRange) -> bool {
        self.ranges.range(..=range.first).next_back().is_some_and(|(_, last)| *last >= range.last)
    }

    /// Adds a number. Returns false if it was in the set.
    pub fn insert(&mut self, number: u64) -> bool {
        self.insert_range(ChunkRange { first: number, last: number })
    }

    /// Adds all numbers of a range. Returns false, and changes nothing, if one of them was in the set.
    pub fn insert_range(&mut self, range: ChunkRange) -> bool {
        let ChunkRange { mut first, mut last } = range;
        if self.ranges.range(..=last).next_back().is_some_and(|(_, end)| *end >= first) {
            return false;
        }
        self.count = self.count.saturating_add(last.saturating_sub(first).saturating_add(1));
        if let Some((&before, &end)) = self.ranges.range(..first).next_back()
            && end.checked_add(1) == Some(first)
        {
            first = before;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(end) = self.ranges.remove(&next)
        {
            last = end;
        }
        self.ranges.insert(first, last);
        true
    }

    /// The last number of the range that contains this one.
    pub fn end_of(&self, number: u64) -> Option<u64> {
        self.ranges.range(..=number).next_back().map(|(_, last)| *last).filter(|last| *last >= number)
    }

    /// The lowest number that it does not contain.
    pub fn first_missing(&self) -> u64 {
        self.ranges.get(&0).map_or(0, |last| last.saturating_add(1))
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = ChunkRange> + '_ {
        self.ranges.iter().map(|(&first, &last)| ChunkRange { first, last })
    }
}

/// Checks that the ranges of a record ascend, do not overlap, and lie within `chunks`.
pub fn check(ranges: &[ChunkRange], chunks: u64) -> Result<(), Violation> {
    let mut next = 0;
    for range in ranges {
        if range.first < next || range.last < range.first || range.last >= chunks {
            return Err(Violation::BadRanges);
        }
        next = range.last.saturating_add(1);
    }
    Ok(())
}

/// The same check for ranges that a receiver has from an earlier transfer, which are also limited in length.
pub fn check_have(have: &[Have], chunks: u64) -> Result<(), Violation> {
    let ranges: Vec<_> = have.iter().map(|have| have.range).collect();
    check(&ranges, chunks)?;
    if ranges.iter().all(|range| range.last.saturating_sub(range.first) < MOST_IN_HAVE) {
        Ok(())
    } else {
        Err(Violation::BadRanges)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, last: u64) -> ChunkRange {
        ChunkRange { first, last }
    }

    #[test]
    fn p06_invalid_ranges_are_a_violation() {
        assert_eq!(check(&[range(0, 3), range(4, 4), range(9, 9)], 10), Ok(()));
        assert_eq!(check(&[], 0), Ok(()));
        let bad: &[&[ChunkRange]] = &[
            &[range(0, 10)],
            &[range(1 << 63, 1 << 63)],
            &[range(0, u64::MAX)],
            &[range(u64::MAX, u64::MAX)],
            &[range(3, 2)],
            &[range(0, 3), range(3, 4)],
            &[range(4, 5), range(0, 1)],
            &[range(1, 1), range(1, 1)],
        ];
        for ranges in bad {
            assert_eq!(check(ranges, 10), Err(Violation::BadRanges), "{ranges:?}");
        }
        let have = |first, last| Have { range: range(first, last), digest: [0; 32] };
        assert_eq!(check_have(&[have(0, 1023), have(1024, 1024)], 5000), Ok(()));
        assert_eq!(check_have(&[have(0, 1024)], 5000), Err(Violation::BadRanges));
        assert_eq!(check_have(&[have(0, u64::from(u32::MAX))], 5000), Err(Violation::BadRanges));
    }

    proptest! {
        #[test]
        fn range_set_matches_model_for_ranges(ranges in prop::collection::vec((0..30_u64, 0..6_u64), 0..12)) {
            let (mut set, mut model) = (RangeSet::default(), std::collections::BTreeSet::new());
            for (first, more) in ranges {
                let fresh = (first..=first + more).all(|number| !model.contains(&number));
                prop_assert_eq!(set.insert_range(range(first, first + more)), fresh);
                if fresh {
                    model.extend(first..=first + more);
                }
                prop_assert_eq!(set.count(), model.len() as u64);
                for number in 0..40 {
                    prop_assert_eq!(set.covers(range(number, number)), model.contains(&number));
                    let last = || (number..).find(|end| !model.contains(&(end + 1))).unwrap();
                    let end = model.contains(&number).then(last);
                    prop_assert_eq!(set.end_of(number), end);
                }
            }
        }

        #[test]
        fn range_set_matches_model_for_numbers(numbers in prop::collection::vec(
            prop_oneof![0_u64..20, Just(u64::MAX), Just(u64::MAX - 1)], 0..40
        )) {
            let (mut set, mut model) = (RangeSet::default(), std::collections::BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(set.insert(number), model.insert(number));
            }
            prop_assert_eq!(set.count(), model.len() as u64);
            for number in (0..21).chain([u64::MAX - 1, u64::MAX]) {
                prop_assert_eq!(set.covers(range(number, number)), model.contains(&number));
            }
            prop_assert_eq!(set.first_missing(), (0..).find(|number| !model.contains(number)).unwrap());
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
            let listed: u64 = ranges.iter().map(|range| range.last - range.first + 1).sum();
            prop_assert_eq!(listed, set.count());
        }
    }
}
