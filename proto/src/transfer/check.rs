//! Compares the ranges that a receiver has from an earlier transfer with the bytes of this side.
//!
//! It decides which of the receiver's ranges need not be sent: those whose chunks, read and hashed here, give the
//! same digest. A range that differs, or that has bytes of a file that failed, is sent completely. The ranges are
//! compared in their order. No timers. Bounds: one running job for each core, and 16 MiB of chunks; each chunk is read
//! at most once for the comparison; memory holds the hashes of one range and of the jobs.

use std::collections::{BTreeMap, VecDeque};

use subtle::ConstantTimeEq;

use super::contents::{Contents, Missing};
use super::hashes::Hash;
use super::{IN_JOBS, slice_of};
use crate::transfer::storage::Fault;
use crate::wire::peer::{ChunkRange, Have};

/// Chunks to be read from the source and hashed.
pub struct Check {
    pub(super) contents: Contents,
    pub(super) range: ChunkRange,
}

/// The hashes of chunks, in order.
#[derive(Debug)]
pub struct Checked {
    pub(super) first: u64,
    pub(super) hashes: Vec<Hash>,
    bytes: u64,
    /// A file in them failed, so that they are not what the receiver has.
    is_incomplete: bool,
    /// Files that failed now.
    pub(super) failures: Vec<(u32, Fault)>,
}

impl Check {
    pub(crate) fn run(self, stop: &dyn Fn() -> bool) -> Result<Checked, Fault> {
        let Self { contents, range } = self;
        let mut buffer = vec![0; contents.manifest.chunk_size() as usize];
        let (mut hashes, mut bytes, mut failures, mut is_incomplete) = (Vec::new(), 0_u64, Vec::new(), false);
        for chunk in range.first..=range.last {
            let read = contents.read(chunk, &mut buffer, stop)?;
            is_incomplete |= read.missing != Missing::Nothing;
            failures.extend(read.failures);
            hashes.push(*blake3::hash(buffer.get(..read.len).unwrap_or_default()).as_bytes());
            bytes = bytes.saturating_add(read.len as u64);
        }
        Ok(Checked { first: range.first, hashes, bytes, is_incomplete, failures })
    }
}

/// The ranges that have not been compared yet.
pub(super) struct Checking {
    /// In their order; the first one is being compared.
    left: VecDeque<Have>,
    /// The range of the next job (as an index), and its first chunk.
    next: (usize, u64),
    /// The number of running jobs.
    out: usize,
    /// Results that arrived before the result of an earlier job.
    early: BTreeMap<u64, Checked>,
    /// The known hashes of the first range.
    hashes: Vec<Hash>,
    bytes: u64,
    is_incomplete: bool,
}

/// The result of a comparison.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The range.
    pub range: ChunkRange,
    /// If the range need not be sent: the hashes of its chunks, and its length in bytes.
    pub same: Option<(Vec<Hash>, u64)>,
}

impl Checking {
    pub fn new(have: &[Have]) -> Self {
        let left: VecDeque<Have> = have.iter().copied().collect();
        let first = left.front().map_or(0, |have| have.range.first);
        let early = BTreeMap::new();
        Self { left, next: (0, first), out: 0, early, hashes: Vec::new(), bytes: 0, is_incomplete: false }
    }

    /// Whether all ranges were compared.
    pub fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// The number of running jobs.
    pub const fn jobs(&self) -> usize {
        self.out
    }

    /// The range that contains this chunk and has not been compared.
    pub fn range_of(&self, chunk: u64) -> Option<ChunkRange> {
        let at = self.left.partition_point(|have| have.range.last < chunk);
        self.left.get(at).map(|have| have.range).filter(|range| range.first <= chunk)
    }

    /// The next job, if there is one and room for it.
    pub fn next(&mut self, cores: usize, contents: &Contents) -> Option<Check> {
        let (jobs, size) = (self.out, contents.manifest.chunk_size());
        let bytes = (jobs as u64).saturating_add(1).saturating_mul(size.into());
        if jobs >= cores.max(1) || bytes > IN_JOBS {
            return None;
        }
        let (at, first) = self.next;
        let have = self.left.get(at)?;
        let last = first.saturating_add((slice_of(size) as u64).saturating_sub(1)).min(have.range.last);
        self.next = if last == have.range.last {
            let after = at.saturating_add(1);
            (after, self.left.get(after).map_or(0, |have| have.range.first))
        } else {
            (at, last.saturating_add(1))
        };
        let range = ChunkRange { first, last };
        self.out = jobs.saturating_add(1);
        Some(Check { contents: contents.clone(), range })
    }

    /// A job has finished.
    pub fn checked(&mut self, checked: Checked) {
        self.out = self.out.saturating_sub(1);
        self.early.insert(checked.first, checked);
    }

    /// The result for the next range that was compared.
    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        let Have { range, digest } = *self.left.front()?;
        let count = range.last.saturating_sub(range.first).saturating_add(1);
        loop {
            let known = self.hashes.len() as u64;
            if known == count {
                break;
            }
            let checked = self.early.remove(&range.first.saturating_add(known))?;
            self.hashes.extend(checked.hashes);
            self.bytes = self.bytes.saturating_add(checked.bytes);
            self.is_incomplete |= checked.is_incomplete;
        }
        let (hashes, bytes) = (std::mem::take(&mut self.hashes), std::mem::take(&mut self.bytes));
        let is_whole = !std::mem::take(&mut self.is_incomplete);
        let mut hasher = blake3::Hasher::new();
        for hash in &hashes {
            hasher.update(hash);
        }
        let same = is_whole && bool::from(hasher.finalize().as_bytes().ct_eq(&digest));
        self.left.pop_front();
        self.next.0 = self.next.0.saturating_sub(1);
        Some(Verdict { range, same: same.then_some((hashes, bytes)) })
    }
}
