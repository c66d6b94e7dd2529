//! Files that were written to while they were read: all of each is read once more, and it is sent as one version only
//! if its bytes are what they were.
//!
//! Two readings of the whole file, one after the other and with the same result, mean that what was read is what stood
//! there between them: a log that only grew, or a file that was only touched. It decides which files are read again,
//! one after the other, and what came of it. No timers. Bounds: one job out; an entry for each file that is not as it
//! was offered.

use std::collections::BTreeMap;

use super::check::{Check, Checked};
use super::contents::Contents;
use super::hashes::Hashes;
use super::slice_of;
use super::storage::Drift;
use crate::wire::peer::ChunkRange;

/// See the module's text.
#[derive(Default)]
pub(super) struct Recheck {
    /// How files differ from what was offered.
    drifts: BTreeMap<u32, Drift>,
    /// The file that is read again, and the chunks of it that were not.
    present: Option<(u32, ChunkRange)>,
    is_out: bool,
}

impl Recheck {
    /// A file is not as it was offered.
    pub fn note(&mut self, index: u32, drift: Drift) {
        let known = self.drifts.entry(index).or_default();
        known.has_grown |= drift.has_grown;
        known.is_unsure |= drift.is_unsure;
    }

    /// A file failed, so that nothing about it matters any more.
    pub fn forget(&mut self, index: u32) {
        self.drifts.remove(&index);
        self.present = self.present.filter(|(present, _)| *present != index);
    }

    /// Whether no file is left to be read again.
    pub fn is_done(&self) -> bool {
        !self.is_out && self.present.is_none() && !self.drifts.values().any(|drift| drift.is_unsure)
    }

    /// The next job: to be asked for once every chunk was made.
    pub fn next(&mut self, contents: &Contents) -> Option<Check> {
        if self.is_out {
            return None;
        }
        if self.present.is_none() {
            let (index, drift) = self.drifts.iter_mut().find(|(_, drift)| drift.is_unsure)?;
            drift.is_unsure = false;
            self.present = contents.manifest.chunks_of(*index).map(|range| (*index, range));
        }
        let (_, left) = self.present?;
        let slice = slice_of(contents.manifest.chunk_size()) as u64;
        let last = left.first.saturating_add(slice.saturating_sub(1)).min(left.last);
        self.is_out = true;
        Some(Check { contents: contents.clone(), range: ChunkRange { first: left.first, last } })
    }

    /// Whether a job of this is out.
    pub const fn is_out(&self) -> bool {
        self.is_out
    }

    /// A job was done. Gives the file if it is not what it was.
    pub fn checked(&mut self, checked: &Checked, hashes: &Hashes) -> Option<u32> {
        self.is_out = false;
        let (index, left) = self.present.take()?;
        let mut chunks = checked.first..;
        let is_same = checked.hashes.iter().zip(&mut chunks).all(|(hash, chunk)| hashes.get(chunk) == Some(*hash));
        if !is_same {
            return Some(index);
        }
        let first = checked.first.saturating_add(checked.hashes.len() as u64);
        self.present = (first <= left.last).then_some((index, ChunkRange { first, last: left.last }));
        None
    }

    /// A file that grew, and is known to be one version.
    pub fn poll_grown(&mut self) -> Option<u32> {
        loop {
            let (index, drift) = self.drifts.pop_first()?;
            if drift.has_grown {
                return Some(index);
            }
        }
    }
}
