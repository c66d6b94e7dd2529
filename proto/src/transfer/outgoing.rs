//! The chunks of an accepted transfer on the sender's side: which are being made, which are in flight, which the
//! receiver has.
//!
//! It decides which chunk is made next: first those that were lost with a link, then those that the receiver reported
//! as stored but that differ, then the lowest one that was never begun and that the receiver did not report. Reported
//! ranges are compared with this side's bytes meanwhile (`check`). A file that fails costs only itself: the receiver is
//! told, and its chunks are sent without its bytes (`contents`). A file that was written to meanwhile is read once more
//! before the end (`recheck`). The [`ChunkTable`] has the state of each chunk from its planning to its
//! acknowledgement.
//!
//! The rate limit applies when chunks are taken; its timer is the only one here. Bounds: running jobs: twice the
//! cores and 16 MiB; chunks made and not taken: [`READY`] and 16 MiB; chunks sent and not acknowledged: the window.

use std::collections::VecDeque;
use std::sync::Arc;

use super::body::{ChunkSource, Lost};
use super::check::{Check, Checked, Checking, Verdict};
use super::chunk::{Coders, HEADER, Made, Prepare};
use super::chunks::{Acknowledged, ChunkTable};
use super::contents::Contents;
use super::differences::{Differences, Statuses};
use super::exchange::{Exchange, Stop, TransferEvent};
use super::hashes::{AHEAD, Claim, Hash, Hashes};
use super::limit::Limit;
use super::manifest::Manifest;
use super::ranges::{self, RangeSet};
use super::recheck::Recheck;
use super::window::{FRAMING, Window, cost};
use super::{Compression, FIRST, IN_JOBS, Progress};
use crate::Instant;
use crate::session::{LinkId, Prepared};
use crate::transfer::job::{Product, Work};
use crate::transfer::storage::{Fault, FaultKind, Source};
use crate::wire::Violation;
use crate::wire::peer::{ChunkRange, Control, EntryStatus, Have};

/// The largest number of chunks that are made, or being made, and were not taken for sending.
pub const READY: usize = 64;
/// The chunks of an accepted transfer on the sender's side.
pub struct Outgoing {
    maker: Maker,
    window: Window,
    limit: Option<Limit>,
    /// The ranges that the receiver reported as stored and that are not compared yet.
    checking: Checking,
    /// The part of them that is the same: chunks and bytes.
    confirmed: (u64, u64),
    /// The receiver's ranges that differ and begin before `next`.
    differing: VecDeque<ChunkRange>,
    /// The lowest chunk that was never begun.
    next: u64,
    /// The chunks that were begun and are not acknowledged.
    chunks: ChunkTable,
    delivered: Delivered,
    hashes: Hashes,
    statuses: Statuses,
    recheck: Recheck,
    /// A file that fails ends the transfer.
    is_strict: bool,
    /// The root, once `End` was sent.
    end: Option<Hash>,
    /// There is a new link, and the receiver is about to report which of the lost chunks arrived nevertheless: until
    /// then nothing is sent again.
    recounting: bool,
}

/// What the jobs that make chunks need.
struct Maker {
    contents: Contents,
    coders: Arc<Coders>,
    compression: Compression,
}

/// Which chunks were sent, and which were acknowledged.
#[derive(Default)]
struct Delivered {
    /// The chunks that were sent at least once.
    sent: RangeSet,
    acknowledged: RangeSet,
    /// Bytes of the acknowledged chunks.
    bytes: u64,
}

impl Outgoing {
    /// Creates it with the ranges that the receiver reported as stored.
    pub fn new(
        (source, manifest): (Arc<dyn Source>, Arc<Manifest>),
        compression: Compression,
        credit: u32,
        have: &[Have],
    ) -> Result<Self, Violation> {
        ranges::check_have(have, manifest.chunks())?;
        let most = cost((manifest.chunk_size() as usize).saturating_add(HEADER).saturating_add(FRAMING));
        Ok(Self {
            hashes: Hashes::new(manifest.layout_digest(), manifest.chunks()),
            window: Window::new(most, credit),
            // Of one file alone nothing is left if it fails.
            is_strict: manifest.totals().entries == 1,
            maker: Maker { contents: Contents::new(source, manifest), coders: Arc::default(), compression },
            statuses: Statuses::default(),
            recheck: Recheck::default(),
            limit: None,
            checking: Checking::new(have),
            confirmed: (0, 0),
            differing: VecDeque::new(),
            next: 0,
            chunks: ChunkTable::default(),
            delivered: Delivered::default(),
            end: None,
            recounting: false,
        })
    }

    /// Sets the rate limit for taking chunks.
    pub fn with_limit(self, limit: Option<Limit>) -> Self {
        Self { limit, ..self }
    }

    /// Sets also whether a file that fails ends the transfer.
    pub fn with_strictness(self, is_strict: bool) -> Self {
        Self { is_strict: self.is_strict || is_strict, ..self }
    }

    /// Whether there is room for another job that holds a chunk.
    fn has_room(&self, cores: usize, ready_bytes: u64) -> bool {
        let jobs = self.chunks.making().saturating_add(self.checking.jobs());
        let in_jobs = (jobs as u64).saturating_add(1).saturating_mul(self.maker.contents.manifest.chunk_size().into());
        jobs < cores.max(1).saturating_mul(2) && ready_bytes.saturating_add(in_jobs) <= IN_JOBS
    }

    /// The chunk for the next job, if one has to be made and there is room for it.
    fn next_to_make(&mut self, cores: usize) -> Option<u64> {
        let jobs = self.chunks.making().saturating_add(self.checking.jobs());
        if self.recounting
            || jobs.saturating_add(self.chunks.ready()) >= READY
            || !self.has_room(cores, self.chunks.ready_bytes())
        {
            return None;
        }
        let first_missing = self.delivered.acknowledged.first_missing();
        let bound = first_missing.saturating_add(AHEAD).min(self.maker.contents.manifest.chunks());
        self.skip();
        if let Some(lost) = self.chunks.first_lost() {
            // It keeps its space in the window until it is acknowledged.
            let lost = Some(lost).filter(|lost| *lost < bound)?;
            self.chunks.begin_again(lost);
            return Some(lost);
        }
        let chunk = self.differing.front().map_or(self.next, |range| range.first);
        let chunk = Some(chunk).filter(|chunk| *chunk < bound)?;
        self.chunks.begin(chunk, self.window.reserve_longest()?);
        if let Some(range) = self.differing.front_mut() {
            range.first = chunk.saturating_add(1);
            if range.first > range.last {
                self.differing.pop_front();
            }
        } else {
            self.next = chunk.saturating_add(1);
        }
        Some(chunk)
    }

    /// Advances to the next chunk that, as far as is known, the receiver does not have.
    fn skip(&mut self) {
        let (checking, acknowledged) = (&self.checking, &self.delivered.acknowledged);
        let held = |next| checking.range_of(next).map(|range| range.last).or(acknowledged.end_of(next));
        while let Some(last) = held(self.next) {
            self.next = last.saturating_add(1);
        }
    }

    /// The next job that compares the ranges reported by the receiver.
    fn next_to_check(&mut self, cores: usize) -> Option<Check> {
        if self.has_room(cores, 0) { self.checking.next(cores, &self.maker.contents) } else { None }
    }

    /// The message about the next range that was compared.
    fn poll_checked(&mut self) -> Option<Control> {
        let Verdict { range, same } = self.checking.poll_verdict()?;
        let is_same = same.is_some();
        if let Some((hashes, bytes)) = same {
            for (chunk, hash) in (range.first..).zip(hashes) {
                self.hashes.know(chunk, hash);
            }
            self.delivered.acknowledged.insert_range(range);
            self.delivered.sent.insert_range(range);
            self.delivered.bytes = self.delivered.bytes.saturating_add(bytes);
            let chunks = range.last.saturating_sub(range.first).saturating_add(1);
            self.confirmed.0 = self.confirmed.0.saturating_add(chunks);
            self.confirmed.1 = self.confirmed.1.saturating_add(bytes);
        } else if range.first < self.next {
            self.differing.push_back(range);
        }
        Some(Control::Checked { transfer: FIRST, range, same: is_same })
    }

    /// A job made a chunk.
    fn made(&mut self, mut made: Made, exchange: &mut Exchange) -> Result<(), Stop> {
        for (file, drift) in std::mem::take(&mut made.drifts) {
            self.recheck.note(file, drift);
        }
        let failures = std::mem::take(&mut made.failures);
        self.fail(failures, exchange)?;
        let released = match self.hashes.claim(made.chunk, &made.hash) {
            Claim::New | Claim::Kept | Claim::Again => self.chunks.handle_made(made),
            // It was sent before, and one of its files is not what it was then. The source did not notice, so it is not
            // known which.
            Claim::Changed => {
                let files = self.maker.contents.manifest.segments(made.chunk).map(|segment| segment.index);
                let contents = &self.maker.contents;
                let failures = files.filter(|file| contents.fail(*file)).map(|file| (file, FaultKind::Changed.into()));
                let failures = failures.collect();
                self.fail(failures, exchange)?;
                self.chunks.reject(made.chunk)
            }
            Claim::Beyond => return Err(FaultKind::Internal.into()),
        };
        self.window.release(released);
        Ok(())
    }

    /// A file that was written to while it was read was read again.
    fn rechecked(&mut self, checked: &Checked, exchange: &mut Exchange) -> Result<(), Stop> {
        let changed = self.recheck.checked(checked, &self.hashes);
        let changed = changed.filter(|file| self.maker.contents.fail(*file));
        self.fail(changed.map(|file| (file, FaultKind::Changed.into())).into_iter().collect(), exchange)
    }

    /// Whether every chunk was sent once.
    fn is_sent(&self) -> bool {
        self.delivered.sent.count() >= self.maker.contents.manifest.chunks() && self.checking.is_done()
    }

    /// What is to be said of a file that grew, once all is known of it.
    fn poll_grown(&mut self, differences: &mut Differences) -> Option<Control> {
        loop {
            let (entry, status) = (self.recheck.poll_grown()?, EntryStatus::Grown);
            let manifest = &self.maker.contents.manifest;
            // One that failed was forgotten, so nothing was said of it.
            if self.statuses.note(manifest, (entry, status), None, differences).is_ok() {
                return Some(Control::EntryStatus { transfer: FIRST, entry, status });
            }
        }
    }

    /// These files can't be sent.
    fn fail(&mut self, failures: Vec<(u32, Fault)>, exchange: &mut Exchange) -> Result<(), Stop> {
        for (entry, fault) in failures {
            // Once the end was said, the receiver may put in place what it has.
            if self.is_strict || self.end.is_some() {
                return Err(fault.into());
            }
            let status = match fault.kind {
                FaultKind::Vanished => EntryStatus::Vanished,
                FaultKind::Changed => EntryStatus::Changed,
                _ => EntryStatus::Unreadable,
            };
            self.recheck.forget(entry);
            let manifest = &self.maker.contents.manifest;
            // Each file fails once.
            self.statuses
                .note(manifest, (entry, status), Some(fault), &mut exchange.differences)
                .map_err(|_| FaultKind::Internal)?;
            exchange.send(Control::EntryStatus { transfer: FIRST, entry, status });
        }
        Ok(())
    }
}

impl ChunkSource for Outgoing {
    fn advance(&mut self, now: Instant) {
        if let Some(limit) = &mut self.limit {
            limit.advance(now);
        }
    }

    fn handle_product(&mut self, now: Instant, product: Product, exchange: &mut Exchange) -> Result<(), Stop> {
        self.advance(now);
        match product {
            Product::Made(made) => self.made(*made, exchange)?,
            Product::Checked(mut checked) => {
                self.fail(std::mem::take(&mut checked.failures), exchange)?;
                if self.recheck.is_out() {
                    return self.rechecked(&checked, exchange);
                }
                self.checking.checked(checked);
                while let Some(message) = self.poll_checked() {
                    exchange.send(message);
                    if self.checking.is_done() {
                        exchange.report(TransferEvent::Resumed { bytes: self.confirmed.1 });
                    }
                }
            }
            // The result does not belong to the work of the job.
            _ => return Err(FaultKind::Internal.into()),
        }
        Ok(())
    }

    fn acknowledge(&mut self, _now: Instant, acknowledged: &[ChunkRange], credit: u32) -> Result<(), Violation> {
        ranges::check(acknowledged, self.maker.contents.manifest.chunks())?;
        if !acknowledged.iter().all(|range| self.delivered.sent.covers(*range)) {
            return Err(Violation::BadRanges);
        }
        self.recounting = false;
        let mut has_news = false;
        for Acknowledged { chunk, len, released, was_in_flight } in
            acknowledged.iter().flat_map(|range| self.chunks.acknowledge(*range))
        {
            has_news = true;
            if was_in_flight {
                self.window.acknowledge(released);
            } else {
                // The chunk was lost, or is being made again, but its first copy arrived.
                self.window.release(released);
            }
            self.delivered.acknowledged.insert(chunk);
            self.delivered.bytes = self.delivered.bytes.saturating_add(len as u64);
        }
        self.window.handle_ack(credit, has_news)
    }

    fn handle_sealed(&mut self, chunk: u64, link: LinkId) {
        self.chunks.handle_sealed(chunk, link);
    }

    fn under_way(&self, link: LinkId) -> u64 {
        self.chunks.in_flight_on(link)
    }

    fn lose(&mut self, lost: Lost) {
        self.window.handle_lost();
        self.chunks.lose(lost);
    }

    fn recount(&mut self) {
        self.recounting = self.chunks.first_lost().is_some();
    }

    /// Once a comparison runs, jobs that make chunks come first: those chunks are certainly needed, the compared
    /// ranges may not be.
    fn next_job(&mut self, cores: usize) -> Option<Work> {
        if self.end.is_none()
            && self.is_sent()
            && let Some(check) = self.recheck.next(&self.maker.contents)
        {
            return Some(Work::Check(check));
        }
        if self.checking.jobs() == 0
            && let Some(check) = self.next_to_check(cores)
        {
            return Some(Work::Check(check));
        }
        let Some(chunk) = self.next_to_make(cores) else { return self.next_to_check(cores).map(Work::Check) };
        let Maker { contents, coders, compression } = &self.maker;
        Some(Work::Prepare(Prepare {
            contents: contents.clone(),
            coders: Arc::clone(coders),
            compression: *compression,
            transfer: FIRST,
            chunk,
            hash: self.hashes.get(chunk),
        }))
    }

    fn fetch(&mut self) -> Option<(u64, Prepared)> {
        if self.recounting || self.limit.is_some_and(|limit| !limit.is_open()) {
            return None;
        }
        let (chunk, prepared) = self.chunks.fetch()?;
        self.delivered.sent.insert(chunk);
        if let Some(limit) = &mut self.limit {
            limit.spend(prepared.wire_len() as u64);
        }
        Some((chunk, prepared))
    }

    fn end(&mut self, differences: &mut Differences) -> Option<Control> {
        let chunks = self.maker.contents.manifest.chunks();
        if self.end.is_some() || !self.is_sent() || !self.recheck.is_done() {
            return None;
        }
        if let Some(status) = self.poll_grown(differences) {
            return Some(status);
        }
        let root = self.hashes.root()?;
        self.end = Some(root);
        let moved = chunks.saturating_sub(self.confirmed.0);
        Some(Control::End { transfer: FIRST, chunks, moved, root })
    }

    fn root(&self) -> Option<Hash> {
        self.end
    }

    fn poll_timeout(&self) -> Option<Instant> {
        // When the next finished chunk may be taken.
        self.limit.filter(|_| self.chunks.ready() > 0)?.opens_at()
    }

    fn progress(&self) -> Progress {
        Progress { bytes: self.delivered.bytes, total: self.whole() }
    }

    fn whole(&self) -> u64 {
        self.maker.contents.manifest.payload()
    }
}
