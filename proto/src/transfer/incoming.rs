//! The chunks of a transfer that was accepted: which wait, which are in jobs, which are stored, and what the sender was told.
//!
//! ```text
//! waiting ──► opening ──► written ──► committing ──► stored, and fresh until it is acknowledged
//! ```
//! It decides when chunks are noted in the journal and so acknowledged (never before), when all that comes to the disk, and counts
//! what the sender may have under way. What is here from before and the sender has not judged is `kept`.
//!
//! Timers: [`SYNC_AFTER`], and the rate limit's for the next acknowledgement. Bounds: [`CREDIT`] for all that is held; jobs out, twice the cores and 16 MiB of chunks, one that commits
//! and one that syncs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::chunk::{Coders, HEADER, Open, Opened};
use super::hashes::{Hash, Hashes};
use super::journal::Stored;
use super::limit::{self, Limit};
use super::manifest::Manifest;
use super::ranges::RangeSet;
use super::recall::Kept;
use super::window::{CREDIT, FRAMING, cost};
use super::{FIRST, IN_JOBS, Judged, Progress};
use crate::Instant;
use crate::pool::Pool;
use crate::session::{LinkId, SealedChunk};
use crate::transfer::job::JobId;
use crate::transfer::storage::Sink;
use crate::wire::Violation;
use crate::wire::peer::{ChunkRange, ChunkRanges, Control, Have};

/// Chunks are committed when so many were written that count so many bytes together, or many of any size, or nothing else is left
/// to do: often enough that a window of a few chunks never waits for it, and seldom enough to cost nothing.
const COMMIT_CHUNKS: usize = 4;
const COMMIT_BYTES: u64 = 256 << 10;
const COMMIT_MANY: usize = 64;
/// What is committed comes to the disk when it is so many bytes, or after this time.
const SYNC_BYTES: u64 = 256 << 20;
const SYNC_AFTER: Duration = Duration::from_secs(5);
/// The most ranges in a record.
const RANGES: usize = 1000;

/// The chunks of an accepted transfer.
pub struct Incoming {
    pub manifest: Arc<Manifest>,
    pub sink: Arc<dyn Sink>,
    coders: Arc<Coders>,
    /// Of the chunks that were judged, whether they are written already or not.
    pub hashes: Arc<Mutex<Hashes>>,
    waiting: VecDeque<SealedChunk>,
    /// In jobs.
    pub opening: BTreeMap<JobId, Held>,
    /// Written, not in the journal.
    written: BTreeMap<u64, Written>,
    /// On their way into the journal.
    committing: BTreeMap<u64, Written>,
    /// In the journal, not acknowledged.
    fresh: BTreeMap<u64, Held>,
    /// In the journal, acknowledged or not, and what both sides have from before.
    pub stored: RangeSet,
    stored_bytes: u64,
    /// What counts against the credit: chunks in the five lists above.
    held: u64,
    /// From which chunk on acknowledgements are to be said again.
    pub repeat: Option<u64>,
    /// What the sender was told that is here, and has not judged yet.
    kept: VecDeque<Kept>,
    /// Of what it found to be the same: chunks and bytes.
    confirmed: (u64, u64),
    sync: Sync,
    limit: Option<Limit>,
    /// The sender's root, once it said that all was sent.
    pub end: Option<Hash>,
}

/// What was committed and is not on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    /// Nothing.
    Clean,
    /// So many bytes; it is time at the instant.
    Dirty { bytes: u64, due: Option<Instant> },
    /// It is time.
    Due,
}

/// What a chunk counts, and on which link it came; nothing once that link is gone, as the sender then counts it afresh.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    link: LinkId,
    cost: u64,
    /// What it counts for the rate limit, whatever became of the link.
    sealed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Written {
    held: Held,
    plain: usize,
    hash: Hash,
}

impl Incoming {
    /// With what is here from before: the ranges that the sender is told of, and the hashes of the chunks in them.
    pub fn new(manifest: Arc<Manifest>, sink: Arc<dyn Sink>, kept: Vec<Kept>, stored: &[Stored]) -> Self {
        let mut hashes = Hashes::new(manifest.digest(), manifest.chunks());
        stored.iter().for_each(|stored| hashes.keep(stored.chunk, stored.hash));
        Self {
            hashes: Arc::new(Mutex::new(hashes)),
            manifest,
            sink,
            coders: Arc::default(),
            waiting: VecDeque::new(),
            opening: BTreeMap::new(),
            written: BTreeMap::new(),
            committing: BTreeMap::new(),
            fresh: BTreeMap::new(),
            stored: RangeSet::default(),
            stored_bytes: 0,
            held: 0,
            repeat: None,
            kept: kept.into(),
            confirmed: (0, 0),
            sync: Sync::Clean,
            limit: None,
            end: None,
        }
    }

    /// With a rate for what is acknowledged.
    pub fn with_limit(self, limit: Option<Limit>) -> Self {
        Self { limit, ..self }
    }

    /// With the pool from which the records that arrive have their buffers.
    pub fn with_buffers(self, buffers: Arc<Pool>) -> Self {
        Self { coders: Arc::new(Coders::new(buffers)), ..self }
    }

    /// What the sender may have under way.
    pub fn credit(&self) -> u32 {
        let largest = (self.manifest.chunk_size() as usize).saturating_add(HEADER).saturating_add(FRAMING);
        limit::credit(self.limit, cost(largest), CREDIT)
    }

    /// Whether the sender waits for what this side could say and does not yet.
    pub fn is_held_back(&self) -> bool {
        self.limit.is_some() && !self.fresh.is_empty()
    }

    /// A chunk arrived.
    pub fn take(&mut self, chunk: SealedChunk) -> Result<(), Violation> {
        let held = self.held.saturating_add(cost(chunk.len()));
        if held > u64::from(CREDIT) {
            return Err(Violation::BeyondCredit);
        }
        self.held = held;
        self.waiting.push_back(chunk);
        Ok(())
    }

    /// What waits is dropped, as it comes again; the rest counts no more, as the sender counts it afresh.
    pub fn lose(&mut self, link: LinkId) {
        let held = &mut self.held;
        self.waiting.retain(|chunk| {
            let lost = chunk.link == link;
            if lost {
                *held = held.saturating_sub(cost(chunk.len()));
            }
            !lost
        });
        let written = self.written.values_mut().chain(self.committing.values_mut()).map(|written| &mut written.held);
        let entries = self.opening.values_mut().chain(self.fresh.values_mut()).chain(written);
        for entry in entries.filter(|entry| entry.link == link) {
            *held = held.saturating_sub(entry.cost);
            entry.cost = 0;
        }
    }

    /// The sender judged what was said to be here. True: that was the last of it.
    pub fn checked(&mut self, range: ChunkRange, same: bool) -> Result<bool, Violation> {
        let kept = self.kept.pop_front().filter(|kept| kept.have.range == range).ok_or(Violation::BadRanges)?;
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if same {
            // It says that a range is the same, and sent some of it: that contradicts itself.
            if !hashes.confirm(range) || !self.stored.insert_range(range) {
                return Err(Violation::BadRanges);
            }
            let chunks = range.last.saturating_sub(range.first).saturating_add(1);
            self.stored_bytes = self.stored_bytes.saturating_add(kept.bytes);
            self.confirmed.0 = self.confirmed.0.saturating_add(chunks);
            self.confirmed.1 = self.confirmed.1.saturating_add(kept.bytes);
        } else {
            hashes.forget(range);
        }
        Ok(self.kept.is_empty())
    }

    /// Chunks and bytes that need not come.
    pub const fn confirmed(&self) -> (u64, u64) {
        self.confirmed
    }

    /// What the sender was told that is here.
    pub fn have(&self) -> Vec<Have> {
        self.kept.iter().map(|kept| kept.have).collect()
    }

    /// Whether the sender has judged all that it was told that is here.
    pub fn is_checked(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether everything that came was acknowledged, so that it is the sender's turn.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.opening.is_empty()
            && self.written.is_empty()
            && self.committing.is_empty()
            && self.fresh.is_empty()
    }

    /// The next chunk for a job, if there is one and room for it.
    pub fn next_to_open(&mut self, cores: usize) -> Option<(Open, Held)> {
        let jobs = self.opening.len();
        let bytes = (jobs as u64).saturating_add(1).saturating_mul(self.manifest.chunk_size().into());
        if jobs >= cores.max(1).saturating_mul(2) || bytes > IN_JOBS {
            return None;
        }
        let sealed = self.waiting.pop_front()?;
        let held = Held { link: sealed.link, cost: cost(sealed.len()), sealed: sealed.len() as u64 };
        let open = Open {
            sealed,
            sink: Arc::clone(&self.sink),
            manifest: Arc::clone(&self.manifest),
            coders: Arc::clone(&self.coders),
            hashes: Arc::clone(&self.hashes),
            transfer: FIRST,
        };
        Some((open, held))
    }

    /// A job judged a chunk.
    pub fn opened(&mut self, id: JobId, opened: Opened) -> Result<Option<Judged>, Violation> {
        let Some(held) = self.opening.remove(&id) else { return Ok(None) };
        let link = held.link;
        match opened {
            Opened::Stored { chunk, plain, hash } => {
                self.written.insert(chunk, Written { held, plain, hash });
                Ok(Some(Judged::Genuine(link)))
            }
            Opened::Again => {
                self.held = self.held.saturating_sub(held.cost);
                Ok(Some(Judged::Genuine(link)))
            }
            Opened::BadRecord(link) => {
                self.held = self.held.saturating_sub(held.cost);
                Ok(Some(Judged::Bad(link)))
            }
            Opened::Violation(violation) => Err(violation),
        }
    }

    /// The chunks for the one job that commits, if it is time for it.
    pub fn next_to_commit(&mut self) -> Option<Vec<Stored>> {
        let idle = (self.opening.is_empty() && self.waiting.is_empty()) || self.end.is_some();
        let bytes = || self.written.values().fold(0_u64, |sum, written| sum.saturating_add(written.held.cost));
        let many =
            self.written.len() >= COMMIT_MANY || (self.written.len() >= COMMIT_CHUNKS && bytes() >= COMMIT_BYTES);
        if self.written.is_empty() || !self.committing.is_empty() || !(idle || many) {
            return None;
        }
        self.committing = std::mem::take(&mut self.written);
        Some(self.committing.iter().map(|(&chunk, written)| Stored { chunk, hash: written.hash }).collect())
    }

    /// They are in the journal.
    pub fn committed(&mut self, now: Instant) {
        let mut bytes = 0_u64;
        for (chunk, Written { held, plain, .. }) in std::mem::take(&mut self.committing) {
            self.stored.insert(chunk);
            self.fresh.insert(chunk, held);
            bytes = bytes.saturating_add(plain as u64);
        }
        self.stored_bytes = self.stored_bytes.saturating_add(bytes);
        self.sync = match self.sync {
            Sync::Clean => Sync::Dirty { bytes, due: now.checked_add(SYNC_AFTER) },
            Sync::Dirty { bytes: before, due } => Sync::Dirty { bytes: before.saturating_add(bytes), due },
            Sync::Due => Sync::Due,
        };
        self.handle_timeout(now);
    }

    /// When something is to come to the disk, or an acknowledgement is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sync = match self.sync {
            Sync::Dirty { due, .. } => due,
            Sync::Clean | Sync::Due => None,
        };
        let waits = !self.fresh.is_empty() || self.repeat.is_some();
        let limit = self.limit.filter(|_| waits).and_then(|limit| limit.opens_at());
        [sync, limit].into_iter().flatten().min()
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(limit) = &mut self.limit {
            limit.advance(now);
        }
        if let Sync::Dirty { bytes, due } = self.sync
            && (bytes >= SYNC_BYTES || due.is_some_and(|due| due <= now))
        {
            self.sync = Sync::Due;
        }
    }

    /// Whether it is time to bring to the disk what was committed; it is asked for by one job at a time.
    pub fn next_sync(&mut self) -> bool {
        let due = self.sync == Sync::Due;
        if due {
            self.sync = Sync::Clean;
        }
        due
    }

    /// The next acknowledgement, if there is one.
    pub fn poll_ack(&mut self) -> Option<Control> {
        if self.limit.is_some_and(|limit| !limit.is_open()) {
            return None;
        }
        if let Some(from) = self.repeat.take() {
            let ranges: Vec<_> = self.stored.iter().filter(|range| range.first >= from).take(RANGES).collect();
            if let Some(end) = ranges.last() {
                self.repeat = end.last.checked_add(1);
                for range in &ranges {
                    while let Some((&chunk, &held)) = self.fresh.range(range.first..=range.last).next() {
                        self.fresh.remove(&chunk);
                        self.release(held);
                    }
                }
                return Some(self.ack(ranges));
            }
            // Nothing is news too: the sender waits for it before it sends anything again.
            if from == 0 {
                return Some(self.ack(ranges));
            }
        }
        let mut ranges: Vec<ChunkRange> = Vec::new();
        while self.limit.is_none_or(|limit| limit.is_open())
            && let Some(next) = self.fresh.first_entry()
        {
            let (chunk, full) = (*next.key(), ranges.len() == RANGES);
            match ranges.last_mut() {
                Some(range) if range.last.checked_add(1) == Some(chunk) => range.last = chunk,
                _ if full => break,
                _ => ranges.push(ChunkRange { first: chunk, last: chunk }),
            }
            let held = next.remove();
            self.release(held);
        }
        if ranges.is_empty() { None } else { Some(self.ack(ranges)) }
    }

    /// It counts no more, and the sender hears of it.
    fn release(&mut self, held: Held) {
        self.held = self.held.saturating_sub(held.cost);
        if let Some(limit) = &mut self.limit {
            limit.spend(held.sealed);
        }
    }

    fn ack(&self, ranges: Vec<ChunkRange>) -> Control {
        Control::Ack { transfer: FIRST, ranges: ChunkRanges::truncated(ranges), credit: self.credit() }
    }

    /// What is stored, with what is here from before and was not judged.
    pub fn progress(&self) -> Progress {
        let total = self.manifest.totals().bytes;
        let kept = self.kept.iter().fold(0_u64, |sum, kept| sum.saturating_add(kept.bytes));
        Progress { bytes: self.stored_bytes.saturating_add(kept).min(total), total }
    }
}
