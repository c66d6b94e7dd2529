//! The contents of a chunk, read from the files that it consists of. This runs in jobs.
//!
//! It decides what a file that can't be read costs: that file, and nothing else of the chunk. In the place of its bytes
//! are zeros, and no other job reads it again. No timers. Bound: a bit for each file that failed.

use std::sync::{Arc, Mutex, PoisonError};

use super::entries::EntrySet;
use super::manifest::Manifest;
use super::storage::{Drift, Fault, FaultKind, Source};

/// Reads chunks of one transfer.
#[derive(Clone)]
pub(super) struct Contents {
    pub source: Arc<dyn Source>,
    pub manifest: Arc<Manifest>,
    /// The files that could not be read, shared by all jobs of the transfer.
    pub failed: Arc<Mutex<EntrySet>>,
}

/// What a chunk lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Nothing.
    Nothing,
    /// The bytes of this file, and perhaps of others.
    Part(u32),
    /// All: it consists of this file.
    All(u32),
}

/// What came of reading a chunk.
pub(super) struct ReadChunk {
    /// Bytes of the chunk.
    pub len: usize,
    /// What is zero instead of what it should be.
    pub missing: Missing,
    /// The files that failed now, each once in a transfer.
    pub failures: Vec<(u32, Fault)>,
    /// The files that are not as they were offered.
    pub drifts: Vec<(u32, Drift)>,
}

impl Contents {
    /// Nothing has failed so far.
    pub fn new(source: Arc<dyn Source>, manifest: Arc<Manifest>) -> Self {
        Self { source, manifest, failed: Arc::default() }
    }

    /// Fills the front of `into` with the contents of a chunk.
    ///
    /// # Errors
    /// What costs more than one file: the job was told to stop, or there is a bug.
    pub fn read(&self, chunk: u64, into: &mut [u8], stop: &dyn Fn() -> bool) -> Result<ReadChunk, Fault> {
        let (mut end, mut failures, mut drifts) = (0_usize, Vec::new(), Vec::new());
        let (mut lacks, mut has_bytes) = (None, false);
        // Where the pieces of the present file begin in the chunk.
        let mut file = (None, 0_usize);
        for segment in self.manifest.segments(chunk) {
            if stop() {
                return Err(FaultKind::Cancelled.into());
            }
            let start = end;
            end = start.saturating_add(segment.len);
            if file.0 != Some(segment.index) {
                file = (Some(segment.index), start);
            }
            let piece = into.get_mut(start..end).ok_or(FaultKind::Internal)?;
            let is_read = !self.has_failed(segment.index)
                && match self.source.read(segment.index, &segment.entry, segment.offset, piece) {
                    Ok(()) => true,
                    Err(fault) if !fault.kind.is_of_one_file() => return Err(fault),
                    Err(fault) => {
                        if self.fail(segment.index) {
                            failures.push((segment.index, fault));
                        }
                        false
                    }
                };
            if is_read {
                has_bytes = true;
                drifts.extend(self.source.drift(segment.index).map(|drift| (segment.index, drift)));
            } else {
                lacks = lacks.or(Some(segment.index));
                into.get_mut(file.1..end).ok_or(FaultKind::Internal)?.fill(0);
            }
        }
        let is_one_file = || self.manifest.segments(chunk).all(|segment| Some(segment.index) == lacks);
        let missing = match lacks {
            None => Missing::Nothing,
            Some(entry) if !has_bytes && is_one_file() => Missing::All(entry),
            Some(entry) => Missing::Part(entry),
        };
        Ok(ReadChunk { len: end, missing, failures, drifts })
    }

    /// Notes that a file can't be sent. False: that was known.
    pub fn fail(&self, index: u32) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(index)
    }

    fn has_failed(&self, index: u32) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).contains(index)
    }
}
