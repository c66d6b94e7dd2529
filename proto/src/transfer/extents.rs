//! Where the data of a sparse file is: everything between is a hole, which reads as zeros and is neither sent nor
//! written.
//!
//! Decides which lists of extents a file may have, so that there is one list for each way in which holes can lie.
//! Bound: [`MAX_EXTENTS`] a file. No timers, no states.

use std::sync::Arc;

/// The most extents of one file.
pub const MAX_EXTENTS: usize = 1024;

/// A run of data in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes, at least 1.
    pub len: u64,
}

impl Extent {
    /// Where it ends in the file, in bytes.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// The data of a sparse file: extents in ascending order, with a hole between any two, and at least one hole in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extents(Arc<[Extent]>);

impl Extents {
    /// Of a file of `size` bytes. `None`: they are out of order, empty, touch each other, leave no hole, lie beyond the
    /// end, or are more than [`MAX_EXTENTS`].
    #[must_use]
    pub fn new(extents: &[Extent], size: u64) -> Option<Self> {
        let mut end: Option<u64> = None;
        let mut data = 0_u64;
        for extent in extents {
            let is_apart = end.is_none_or(|end| extent.offset > end);
            end = extent.offset.checked_add(extent.len).filter(|end| *end <= size);
            if !is_apart || extent.len == 0 || end.is_none() {
                return None;
            }
            data = data.saturating_add(extent.len);
        }
        (data < size && extents.len() <= MAX_EXTENTS).then(|| Self(extents.into()))
    }

    /// The extents.
    #[must_use]
    pub fn as_slice(&self) -> &[Extent] {
        &self.0
    }

    /// Bytes of data.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.0.iter().fold(0, |sum, extent| sum.saturating_add(extent.len))
    }

    /// Where a byte of the file is in its data; `None`: it is in a hole, or beyond the end.
    #[must_use]
    pub fn position(&self, offset: u64) -> Option<u64> {
        let mut before = 0_u64;
        for extent in &*self.0 {
            if let Some(into) = offset.checked_sub(extent.offset).filter(|into| *into < extent.len) {
                return before.checked_add(into);
            }
            before = before.saturating_add(extent.len);
        }
        None
    }

    /// The runs of the file that are `len` bytes of its data from `from` on.
    pub fn runs(&self, from: u64, len: u64) -> impl Iterator<Item = Extent> + '_ {
        let (mut begin, end) = (0_u64, from.saturating_add(len));
        self.0.iter().filter_map(move |extent| {
            let start = begin;
            begin = start.saturating_add(extent.len);
            let (first, last) = (start.max(from), begin.min(end));
            let len = last.checked_sub(first).filter(|len| *len > 0)?;
            Some(Extent { offset: extent.offset.saturating_add(first.saturating_sub(start)), len })
        })
    }

    /// The holes of a file of `size` bytes.
    pub fn holes(&self, size: u64) -> impl Iterator<Item = Extent> + '_ {
        let ends = std::iter::once(0).chain(self.0.iter().map(Extent::end));
        let begins = self.0.iter().map(|extent| extent.offset).chain(std::iter::once(size));
        ends.zip(begins).filter_map(|(offset, end)| {
            let len = end.checked_sub(offset).filter(|len| *len > 0)?;
            Some(Extent { offset, len })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    #[test]
    fn a_list_of_extents_is_in_order_apart_and_leaves_a_hole() {
        for good in [&[][..], &[extent(0, 9)], &[extent(1, 9)], &[extent(0, 1), extent(2, 1), extent(9, 1)]] {
            assert!(Extents::new(good, 10).is_some(), "{good:?}");
        }
        for bad in [
            &[extent(0, 10)][..],
            &[extent(0, 11)],
            &[extent(5, 6)],
            &[extent(10, 1)],
            &[extent(3, 0)],
            &[extent(0, 1), extent(1, 1)],
            &[extent(4, 2), extent(1, 1)],
            &[extent(4, 2), extent(5, 2)],
            &[extent(1, u64::MAX)],
            &[extent(u64::MAX, 1)],
        ] {
            assert_eq!(Extents::new(bad, 10), None, "{bad:?}");
        }
        assert_eq!(Extents::new(&[], 0), None, "an empty file has no hole");
        let many: Vec<Extent> = (0..=MAX_EXTENTS as u64).map(|number| extent(number * 2, 1)).collect();
        assert_eq!((Extents::new(&many, 1 << 20), Extents::new(&many[1..], 1 << 20).is_some()), (None, true));
        assert!(Extents::new(&[extent(u64::MAX - 1, 1)], u64::MAX).is_some());
    }

    proptest! {
        #[test]
        fn runs_and_positions_are_what_they_say(
            gaps in prop::collection::vec((1..9_u64, 1..9_u64), 0..9),
            lead in 0..3_u64, tail in 0..9_u64, from in 0..90_u64, len in 0..90_u64,
        ) {
            let (mut extents, mut at) = (Vec::new(), lead);
            for (gap, len) in gaps {
                extents.push(extent(at, len));
                at += len + gap;
            }
            let size = at + tail + 1;
            let list = Extents::new(&extents, size).unwrap();
            let is_data = |byte: &u64| extents.iter().any(|extent| (extent.offset..extent.end()).contains(byte));
            let data: Vec<u64> = (0..size).filter(is_data).collect();
            prop_assert_eq!(list.data_len(), data.len() as u64);
            for byte in 0..size + 2 {
                let expected = data.iter().position(|own| *own == byte).map(|place| place as u64);
                prop_assert_eq!(list.position(byte), expected);
            }
            let bytes = |runs: Vec<Extent>| runs.iter().flat_map(|run| run.offset..run.end()).collect::<Vec<_>>();
            let wanted: Vec<u64> = data.iter().copied().skip(from as usize).take(len as usize).collect();
            prop_assert_eq!(bytes(list.runs(from, len).collect()), wanted);
            let holes: Vec<u64> = (0..size).filter(|byte| !data.contains(byte)).collect();
            prop_assert_eq!(bytes(list.holes(size).collect()), holes);
        }
    }
}
