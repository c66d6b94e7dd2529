//! The chunks of an accepted transfer on the receiver's side: which of them wait, are in jobs, or are stored, and
//! which of them the sender was notified of.
//!
//! ```text
//! waiting ──► opening ──► written ──► committing ──► stored, and fresh until it is acknowledged
//!                └──────► unexplained ──────────────────┘ its file failed
//! ```
//! It decides when chunks are written to the journal and so acknowledged (never before), when everything is synced to
//! the disk, and counts what the sender may have in flight. Chunks from an earlier transfer that the sender has not
//! compared are in `resume.kept`.
//! A chunk without the bytes of a file counts once the sender has reported that the file failed.
//!
//! Timers: [`SYNC_AFTER`], and that of the rate limit for the next acknowledgement. Bounds: [`CREDIT`] for all held
//! chunks; running jobs: twice the cores and 16 MiB of chunks, one that commits and one that syncs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::arrivals::{Arrivals, Charge};
use super::body::{ChunkSink, Staged};
use super::chunk::{Coders, Open, Opened};
use super::differences::{Differences, Statuses};
use super::exchange::{Exchange, Stop, TransferEvent};
use super::hashes::{Hash, Hashes};
use super::journal::Stored;
use super::limit::Limit;
use super::manifest::Manifest;
use super::ranges::RangeSet;
use super::verify_stored::ResumeRange;
use super::window::CREDIT;
use super::{FIRST, Progress};
use crate::Instant;
use crate::pool::Pool;
use crate::session::{LinkId, OpenedRecord, SealedChunk};
use crate::transfer::job::{Product, Work};
use crate::transfer::job_id::JobId;
use crate::transfer::storage::{FaultKind, Sink};
use crate::wire::Violation;
use crate::wire::peer::{ChunkRange, ChunkRanges, Control, EntryStatus, Have};

/// Chunks are committed when this many of them with this many bytes together were written, or many chunks of any
/// size, or when nothing else is left to do: often enough that a window of a few chunks never waits for it, and
/// rarely enough to cost nothing.
const COMMIT_CHUNKS: usize = 4;
const COMMIT_BYTES: u64 = 256 << 10;
const COMMIT_MANY: usize = 64;
/// Committed chunks are synced to the disk when they have this many bytes, or after this time.
const SYNC_BYTES: u64 = 256 << 20;
const SYNC_AFTER: Duration = Duration::from_secs(5);
/// The largest number of ranges in a record.
const RANGES: usize = 1000;

/// The chunks of an accepted transfer on the receiver's side.
pub struct Incoming {
    manifest: Arc<Manifest>,
    sink: Arc<dyn Sink>,
    coders: Arc<Coders>,
    /// Hashes of the chunks that were checked, whether they are written already or not.
    hashes: Arc<Mutex<Hashes>>,
    arrivals: Arrivals,
    statuses: Statuses,
    /// Written, by the file that they lack: the sender has not reported yet that it failed.
    unexplained: BTreeMap<u32, Vec<(u64, Written)>>,
    /// Written, but not in the journal.
    written: BTreeMap<u64, Written>,
    /// Being written to the journal.
    committing: BTreeMap<u64, Written>,
    /// Recorded, but not acknowledged.
    fresh: BTreeMap<u64, Charge>,
    stored: Recorded,
    /// The first chunk from which on acknowledgements have to be repeated.
    repeat: Option<u64>,
    resume: Resume,
    sync: Syncing,
    /// The sender's root, once it reported that everything was sent.
    end: Option<Hash>,
}

/// Recorded chunks, acknowledged or not, and chunks that both sides have from an earlier transfer.
#[derive(Default)]
struct Recorded {
    chunks: RangeSet,
    bytes: u64,
}

/// Chunks from an earlier transfer.
struct Resume {
    /// The ranges that were reported to the sender, which it has not compared yet.
    kept: VecDeque<ResumeRange>,
    /// The part of them that the sender found to be the same: chunks and bytes.
    confirmed: (u64, u64),
}

/// When committed chunks are synced to the disk.
struct Syncing {
    state: Sync,
    /// A sync job runs.
    is_out: bool,
}

/// What was committed but not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    /// Nothing.
    Clean,
    /// This many bytes; at `due` it is time to sync them.
    Dirty { bytes: u64, due: Option<Instant> },
    /// It is time to sync.
    Due,
}

#[derive(Debug, Clone, Copy)]
struct Written {
    charge: Charge,
    plain: usize,
    hash: Hash,
}

impl Incoming {
    /// Creates it with what is stored from an earlier transfer: the ranges that are reported to the sender, and the
    /// hashes of their chunks.
    pub fn new(
        (manifest, sink): (Arc<Manifest>, Arc<dyn Sink>),
        kept: Vec<ResumeRange>,
        stored: &[Stored],
        limit: Option<Limit>,
        buffers: Arc<Pool>,
    ) -> Self {
        let mut hashes = Hashes::new(manifest.layout_digest(), manifest.chunks());
        stored.iter().for_each(|stored| hashes.keep(stored.chunk, stored.hash));
        Self {
            hashes: Arc::new(Mutex::new(hashes)),
            arrivals: Arrivals::new(CREDIT, manifest.chunk_size(), limit),
            manifest,
            sink,
            coders: Arc::new(Coders::new(buffers)),
            statuses: Statuses::default(),
            unexplained: BTreeMap::new(),
            written: BTreeMap::new(),
            committing: BTreeMap::new(),
            fresh: BTreeMap::new(),
            stored: Recorded::default(),
            repeat: None,
            resume: Resume { kept: kept.into(), confirmed: (0, 0) },
            sync: Syncing { state: Sync::Clean, is_out: false },
            end: None,
        }
    }

    /// The ranges that are reported to the sender as stored.
    pub fn have(&self) -> Vec<Have> {
        self.resume.kept.iter().map(|kept| kept.have).collect()
    }

    /// A job opened a record and checked its chunk.
    fn opened(&mut self, id: JobId, record: OpenedRecord<Opened>) -> Result<(), Violation> {
        let Some(charge) = self.arrivals.opened(id) else { return Ok(()) };
        match record.content {
            Some(Opened::Stored { chunk, plain, hash, lacks }) => {
                let written = Written { charge, plain, hash };
                match lacks {
                    None => {
                        self.written.insert(chunk, written);
                    }
                    Some(file) if self.statuses.failed.contains(file) => self.record(chunk, written),
                    Some(file) => self.unexplained.entry(file).or_default().push((chunk, written)),
                }
            }
            // If the record is not authentic, the session was notified first and drops its link.
            Some(Opened::Again) | None => self.arrivals.discard(charge),
            Some(Opened::Violation(violation)) => return Err(violation),
        }
        Ok(())
    }

    /// The chunks for the next commit job (one at a time), if it is time for it.
    fn next_to_commit(&mut self) -> Option<Vec<Stored>> {
        let idle = self.arrivals.is_empty() || self.end.is_some();
        let bytes = || self.written.values().fold(0_u64, |sum, written| sum.saturating_add(written.charge.cost()));
        let many =
            self.written.len() >= COMMIT_MANY || (self.written.len() >= COMMIT_CHUNKS && bytes() >= COMMIT_BYTES);
        if self.written.is_empty() || !self.committing.is_empty() || !(idle || many) {
            return None;
        }
        self.committing = std::mem::take(&mut self.written);
        Some(self.committing.iter().map(|(&chunk, written)| Stored { chunk, hash: written.hash }).collect())
    }

    /// Counts a chunk as stored. One that lacks a file is not in the journal: the next attempt fetches it again.
    fn record(&mut self, chunk: u64, Written { charge, plain, .. }: Written) {
        self.stored.chunks.insert(chunk);
        self.stored.bytes = self.stored.bytes.saturating_add(plain as u64);
        self.fresh.insert(chunk, charge);
    }

    /// The chunks of the commit job are in the journal.
    fn committed(&mut self, now: Instant) {
        let mut bytes = 0_u64;
        for (chunk, written) in std::mem::take(&mut self.committing) {
            bytes = bytes.saturating_add(written.plain as u64);
            self.record(chunk, written);
        }
        self.sync.state = match self.sync.state {
            Sync::Clean => Sync::Dirty { bytes, due: now.checked_add(SYNC_AFTER) },
            Sync::Dirty { bytes: before, due } => Sync::Dirty { bytes: before.saturating_add(bytes), due },
            Sync::Due => Sync::Due,
        };
        self.advance(now);
    }

    /// Whether it is time for a sync job; only one runs at a time.
    fn next_sync(&mut self) -> bool {
        let due = self.sync.state == Sync::Due;
        if due {
            self.sync.state = Sync::Clean;
        }
        due
    }

    fn ack(&self, ranges: Vec<ChunkRange>) -> Control {
        Control::Ack { transfer: FIRST, ranges: ChunkRanges::truncated(ranges), credit: self.arrivals.credit() }
    }
}

impl ChunkSink for Incoming {
    fn advance(&mut self, now: Instant) {
        self.arrivals.advance(now);
        if let Sync::Dirty { bytes, due } = self.sync.state
            && (bytes >= SYNC_BYTES || due.is_some_and(|due| due <= now))
        {
            self.sync.state = Sync::Due;
        }
    }

    fn take(&mut self, chunk: SealedChunk) -> Result<(), Violation> {
        self.arrivals.take(chunk)
    }

    fn lose(&mut self, link: LinkId) {
        let unexplained = self.unexplained.values_mut().flatten().map(|(_, written)| written);
        let written = self.written.values_mut().chain(self.committing.values_mut()).chain(unexplained);
        let charges = written.map(|written| &mut written.charge).chain(self.fresh.values_mut());
        self.arrivals.lose(link, charges);
    }

    fn repeat(&mut self) {
        self.repeat = Some(0);
    }

    fn handle_product(&mut self, now: Instant, id: JobId, product: Product) -> Result<(), Stop> {
        match product {
            Product::Opened(record) => self.opened(id, record)?,
            Product::Committed => self.committed(now),
            Product::Synced => self.sync.is_out = false,
            // The result does not belong to the work of the job.
            _ => return Err(FaultKind::Internal.into()),
        }
        Ok(())
    }

    fn handle_checked(&mut self, range: ChunkRange, same: bool, exchange: &mut Exchange) -> Result<(), Violation> {
        let kept = self.resume.kept.pop_front().filter(|kept| kept.have.range == range).ok_or(Violation::BadRanges)?;
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if same {
            // The sender reported a range as the same, but also sent some of it: a contradiction.
            if !hashes.confirm(range) || !self.stored.chunks.insert_range(range) {
                return Err(Violation::BadRanges);
            }
            let chunks = range.last.saturating_sub(range.first).saturating_add(1);
            self.stored.bytes = self.stored.bytes.saturating_add(kept.bytes);
            self.resume.confirmed.0 = self.resume.confirmed.0.saturating_add(chunks);
            self.resume.confirmed.1 = self.resume.confirmed.1.saturating_add(kept.bytes);
        } else {
            hashes.forget(range);
        }
        if self.resume.kept.is_empty() {
            exchange.report(TransferEvent::Resumed { bytes: self.resume.confirmed.1 });
        }
        Ok(())
    }

    fn handle_status(
        &mut self,
        entry: u32,
        status: EntryStatus,
        differences: &mut Differences,
    ) -> Result<(), Violation> {
        // The end says that nothing more of this kind follows: what is stored then may be put in place.
        if self.end.is_some() {
            return Err(Violation::BadEntry);
        }
        self.statuses.note(&self.manifest, (entry, status), None, differences)?;
        if status.is_failure() {
            for (chunk, written) in self.unexplained.remove(&entry).into_iter().flatten() {
                self.record(chunk, written);
            }
        }
        Ok(())
    }

    fn handle_end(&mut self, chunks: u64, moved: u64, root: Hash) -> Result<(), Violation> {
        let all = self.manifest.chunks();
        let missing = all.saturating_sub(self.resume.confirmed.0);
        if self.end.is_some() || !self.resume.kept.is_empty() || chunks != all || moved != missing {
            return Err(Violation::BadEnd);
        }
        self.end = Some(root);
        Ok(())
    }

    fn next_job(&mut self, cores: usize, id: JobId) -> Option<Work> {
        if let Some(chunks) = self.next_to_commit() {
            return Some(Work::Commit { sink: Arc::clone(&self.sink), chunks });
        }
        if !self.sync.is_out && self.next_sync() {
            self.sync.is_out = true;
            return Some(Work::Sync { sink: Arc::clone(&self.sink) });
        }
        let sealed = self.arrivals.next_to_open(cores, id)?;
        Some(Work::Open(Box::new(Open {
            sealed,
            sink: Arc::clone(&self.sink),
            manifest: Arc::clone(&self.manifest),
            coders: Arc::clone(&self.coders),
            hashes: Arc::clone(&self.hashes),
            transfer: FIRST,
        })))
    }

    fn poll_ack(&mut self) -> Option<Control> {
        if !self.arrivals.may_acknowledge() {
            return None;
        }
        if let Some(from) = self.repeat.take() {
            let ranges: Vec<_> = self.stored.chunks.iter().filter(|range| range.first >= from).take(RANGES).collect();
            if let Some(end) = ranges.last() {
                self.repeat = end.last.checked_add(1);
                for range in &ranges {
                    while let Some((&chunk, &charge)) = self.fresh.range(range.first..=range.last).next() {
                        self.fresh.remove(&chunk);
                        self.arrivals.acknowledge(charge);
                    }
                }
                return Some(self.ack(ranges));
            }
            // An empty acknowledgement matters too: the sender waits for it before it sends anything again.
            if from == 0 {
                return Some(self.ack(ranges));
            }
        }
        let mut ranges: Vec<ChunkRange> = Vec::new();
        while self.arrivals.may_acknowledge()
            && let Some(next) = self.fresh.first_entry()
        {
            let (chunk, full) = (*next.key(), ranges.len() == RANGES);
            match ranges.last_mut() {
                Some(range) if range.last.checked_add(1) == Some(chunk) => range.last = chunk,
                _ if full => break,
                _ => ranges.push(ChunkRange { first: chunk, last: chunk }),
            }
            let charge = next.remove();
            self.arrivals.acknowledge(charge);
        }
        if ranges.is_empty() { None } else { Some(self.ack(ranges)) }
    }

    fn roots(&self) -> Option<(Option<Hash>, Hash)> {
        let root = self.end.filter(|_| self.stored.chunks.count() == self.manifest.chunks())?;
        Some((self.hashes.lock().unwrap_or_else(PoisonError::into_inner).root(), root))
    }

    fn credit(&self) -> u32 {
        self.arrivals.credit()
    }

    fn awaits_sender(&self) -> bool {
        self.arrivals.is_empty() && self.written.is_empty() && self.committing.is_empty() && self.fresh.is_empty()
    }

    fn is_held_back(&self) -> bool {
        self.arrivals.is_limited() && !self.fresh.is_empty()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let sync = match self.sync.state {
            Sync::Dirty { due, .. } => due,
            Sync::Clean | Sync::Due => None,
        };
        let waits = !self.fresh.is_empty() || self.repeat.is_some();
        let limit = if waits { self.arrivals.opens_at() } else { None };
        [sync, limit].into_iter().flatten().min()
    }

    fn progress(&self) -> Progress {
        // Includes chunks from an earlier transfer that were not compared yet.
        let total = self.manifest.payload();
        let kept = self.resume.kept.iter().fold(0_u64, |sum, kept| sum.saturating_add(kept.bytes));
        Progress { bytes: self.stored.bytes.saturating_add(kept).min(total), total }
    }

    fn staged(&mut self) -> Option<Staged> {
        let (sink, manifest) = (Arc::clone(&self.sink), Arc::clone(&self.manifest));
        Some(Staged { sink, manifest, failed: std::mem::take(&mut self.statuses.failed) })
    }
}
