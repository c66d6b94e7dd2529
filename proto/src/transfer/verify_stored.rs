//! Chunks that a receiver has from an earlier transfer: its journal lists them, and each is read and hashed again
//! before it is reported to the sender.
//!
//! It decides which chunks are reported: those whose bytes match the journal, as ranges of at most
//! [`ranges::MOST_IN_HAVE`] chunks, at most [`RANGES`] ranges; all other chunks are sent again. No timers. Bounds:
//! running jobs: twice the cores and 16 MiB; [`super::journal::MOST`] chunks.

use std::collections::VecDeque;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::journal::Stored;
use super::manifest::Manifest;
use super::{IN_JOBS, ranges, slice_of};
use crate::transfer::storage::{Fault, FaultKind, Sink};
use crate::wire::peer::{ChunkRange, Have};

/// The largest number of ranges that are reported.
pub const RANGES: usize = 1000;

/// The job that reads chunks from the sink and hashes them.
pub struct VerifyStored {
    sink: Arc<dyn Sink>,
    manifest: Arc<Manifest>,
    chunks: Vec<Stored>,
}

/// The chunks that match the journal, each with its length in bytes.
#[derive(Debug)]
pub struct VerifiedStored(Vec<(Stored, usize)>);

impl VerifyStored {
    pub(crate) fn run(self, stop: &dyn Fn() -> bool) -> Result<VerifiedStored, Fault> {
        let Self { sink, manifest, chunks } = self;
        let mut buffer = vec![0; manifest.chunk_size() as usize];
        let mut good = Vec::new();
        for stored in chunks {
            if stop() {
                return Err(FaultKind::Cancelled.into());
            }
            let mut len = 0_usize;
            let mut is_there = true;
            for segment in manifest.segments(stored.chunk) {
                let end = len.saturating_add(segment.len);
                let piece = buffer.get_mut(len..end).ok_or(FaultKind::Internal)?;
                len = end;
                is_there = sink.recall(segment.index, &segment.entry, segment.offset, piece)?;
                if !is_there {
                    break;
                }
            }
            let contents = buffer.get(..len).unwrap_or_default();
            if is_there && len > 0 && bool::from(blake3::hash(contents).as_bytes().ct_eq(&stored.hash)) {
                good.push((stored, len));
            }
        }
        Ok(VerifiedStored(good))
    }
}

/// The chunks of a journal while they are hashed again.
pub(super) struct VerifyingStored {
    pub manifest: Arc<Manifest>,
    pub sink: Arc<dyn Sink>,
    left: VecDeque<Stored>,
    /// How many jobs run.
    out: usize,
    good: Vec<(Stored, usize)>,
    bytes: u64,
}

/// A range of chunks that is reported to the sender, and its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResumeRange {
    pub have: Have,
    pub bytes: u64,
}

impl VerifyingStored {
    pub fn new(manifest: Arc<Manifest>, sink: Arc<dyn Sink>, stored: Vec<Stored>) -> Self {
        Self { manifest, sink, left: stored.into(), out: 0, good: Vec::new(), bytes: 0 }
    }

    /// The next job, if there is one and room for it.
    pub fn next(&mut self, cores: usize) -> Option<VerifyStored> {
        let (jobs, size) = (self.out, self.manifest.chunk_size());
        let bytes = (jobs as u64).saturating_add(1).saturating_mul(size.into());
        if self.left.is_empty() || jobs >= cores.max(1).saturating_mul(2) || bytes > IN_JOBS {
            return None;
        }
        let chunks = self.left.drain(..slice_of(size).min(self.left.len())).collect();
        self.out = jobs.saturating_add(1);
        Some(VerifyStored { sink: Arc::clone(&self.sink), manifest: Arc::clone(&self.manifest), chunks })
    }

    /// A job has finished; returns true if it was the last one.
    pub fn verified(&mut self, verified: VerifiedStored) -> bool {
        self.out = self.out.saturating_sub(1);
        for (_, len) in &verified.0 {
            self.bytes = self.bytes.saturating_add(*len as u64);
        }
        self.good.extend(verified.0);
        self.left.is_empty() && self.out == 0
    }

    /// Bytes that matched so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The ranges to report, and the hashes of all their chunks.
    pub fn finish(mut self) -> (Vec<ResumeRange>, Vec<Stored>) {
        self.good.sort_unstable_by_key(|(stored, _)| stored.chunk);
        let (mut kept, mut stored): (Vec<ResumeRange>, Vec<Stored>) = (Vec::new(), Vec::new());
        let mut hasher = blake3::Hasher::new();
        for (chunk, len) in self.good {
            let Stored { chunk: number, hash } = chunk;
            let full = kept.len() == RANGES;
            match kept.last_mut() {
                Some(ResumeRange { have, bytes })
                    if have.range.last.checked_add(1) == Some(number)
                        && number.saturating_sub(have.range.first) < ranges::MOST_IN_HAVE =>
                {
                    have.range.last = number;
                    *bytes = bytes.saturating_add(len as u64);
                }
                _ if full => break,
                _ => {
                    hasher.reset();
                    let range = ChunkRange { first: number, last: number };
                    kept.push(ResumeRange { have: Have { range, digest: [0; 32] }, bytes: len as u64 });
                }
            }
            hasher.update(&hash);
            if let Some(last) = kept.last_mut() {
                last.have.digest = *hasher.finalize().as_bytes();
            }
            stored.push(chunk);
        }
        (kept, stored)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemorySink;
    use super::super::tests::seed;
    use super::*;
    use crate::wire::peer::TransferKind;

    fn told(chunks: impl Iterator<Item = u64>) -> (Vec<ResumeRange>, Vec<Stored>) {
        let builder = super::super::manifest::ManifestBuilder::new(TransferKind::Files, &seed(1));
        let manifest = Arc::new(builder.finish().unwrap());
        let mut verifying = VerifyingStored::new(manifest, Arc::new(MemorySink::new()), Vec::new());
        let good: Vec<_> = chunks.map(|chunk| (Stored { chunk, hash: [chunk as u8; 32] }, 10)).collect();
        assert!(verifying.verified(VerifiedStored(good)));
        verifying.finish()
    }

    #[test]
    fn verified_ranges_are_bounded_in_length_and_number() {
        let (kept, stored) = told((0..3000).rev().filter(|chunk| *chunk != 5));
        let ranges: Vec<_> =
            kept.iter().map(|kept| (kept.have.range.first, kept.have.range.last, kept.bytes)).collect();
        assert_eq!(ranges, [(0, 4, 50), (6, 1029, 10240), (1030, 2053, 10240), (2054, 2999, 9460)]);
        assert_eq!(stored.len(), 2999);
        let digest = |chunks: std::ops::Range<u64>| {
            *blake3::hash(&chunks.flat_map(|chunk| [chunk as u8; 32]).collect::<Vec<_>>()).as_bytes()
        };
        assert_eq!((kept[0].have.digest, kept[2].have.digest), (digest(0..5), digest(1030..2054)));
        let have: Vec<_> = kept.iter().map(|kept| kept.have).collect();
        assert_eq!(ranges::check_have(&have, 3000), Ok(()));
        // The chunks beyond the limit are sent again.
        let (kept, stored) = told((0..2100).map(|chunk| chunk * 2));
        assert_eq!((kept.len(), stored.len(), stored[999].chunk), (RANGES, RANGES, 1998));
        assert_eq!(told(0..0).0.len(), 0);
    }
}
