//! The chunks of a transfer that was accepted: which are being made, which are under way, which the receiver has.
//!
//! It decides which chunk is made next: those that were lost with a link, then those that the receiver claimed to have and has not,
//! then the lowest that was never begun and is not claimed. What is claimed is held against our own bytes meanwhile (`check`).
//! A chunk keeps its place in the window until it is acknowledged, also when it was lost: a receiver that writes in order
//! acknowledges none of those after it before it came again.
//! A rate limit is kept where chunks are fetched; its timer is the only one here. Bounds: jobs out, twice the cores and 16 MiB; chunks made and not fetched, [`READY`] and 16 MiB; chunks sent and not
//! acknowledged, the window; [`STALE`] acknowledgements without news.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::body::{ChunkSource, Lost};
use super::check::{Check, Checking, Verdict};
use super::chunk::{Coders, HEADER, Made, Prepare};
use super::exchange::{Exchange, Stop, TransferEvent};
use super::hashes::{AHEAD, Claim, Hash, Hashes};
use super::limit::Limit;
use super::manifest::Manifest;
use super::ranges::{self, RangeSet};
use super::window::{FRAMING, Window, cost};
use super::{Compression, FIRST, IN_JOBS, Progress};
use crate::Instant;
use crate::session::{LinkId, Prepared};
use crate::transfer::job::{Product, Work};
use crate::transfer::storage::{Fault, FaultKind, Source};
use crate::wire::Violation;
use crate::wire::peer::{ChunkRange, Control, Have};

/// The most chunks that are made, or being made, and were not fetched.
pub const READY: usize = 64;
/// The most acknowledgements in a row that tell nothing new.
pub const STALE: u32 = 1000;

/// A chunk that was fetched and is not acknowledged.
struct UnderWay {
    plain: usize,
    /// The link that it was sealed for; `None`: it still waits for a place.
    link: Option<LinkId>,
}

/// The chunks of an accepted transfer.
pub struct Outgoing {
    source: Arc<dyn Source>,
    manifest: Arc<Manifest>,
    coders: Arc<Coders>,
    compression: Compression,
    window: Window,
    /// What each chunk that was begun and is not acknowledged takes of it.
    places: BTreeMap<u64, u64>,
    /// The most that a chunk can cost.
    most: u64,
    /// What the receiver says that it has from before, as far as it is not judged.
    checking: Checking,
    /// What was found to be so: chunks and bytes.
    confirmed: (u64, u64),
    /// The lowest chunk that was never begun.
    next: u64,
    /// Chunks that were lost with a link.
    again: BTreeSet<u64>,
    /// What the receiver has and is not the same, of what lies before `next`.
    differing: VecDeque<ChunkRange>,
    /// In jobs.
    making: BTreeSet<u64>,
    ready: VecDeque<Made>,
    ready_bytes: u64,
    /// Fetched and not acknowledged.
    under_way: BTreeMap<u64, UnderWay>,
    /// Sent at least once.
    sent: RangeSet,
    acknowledged: RangeSet,
    acknowledged_bytes: u64,
    hashes: Hashes,
    /// The root, once `End` was said.
    end: Option<Hash>,
    stale: u32,
    credit: u32,
    /// There is a new link, and what of the lost chunks arrived all the same is about to be said: until then nothing is sent twice.
    recounting: bool,
    limit: Option<Limit>,
}

impl Outgoing {
    /// With what the receiver says that it has from before.
    pub fn new(
        (source, manifest): (Arc<dyn Source>, Arc<Manifest>),
        compression: Compression,
        credit: u32,
        have: &[Have],
    ) -> Result<Self, Violation> {
        ranges::check_have(have, manifest.chunks())?;
        let most = cost((manifest.chunk_size() as usize).saturating_add(HEADER).saturating_add(FRAMING));
        Ok(Self {
            source,
            coders: Arc::default(),
            compression,
            hashes: Hashes::new(manifest.digest(), manifest.chunks()),
            window: Window::new(most, credit),
            places: BTreeMap::new(),
            manifest,
            most,
            checking: Checking::new(have),
            confirmed: (0, 0),
            next: 0,
            again: BTreeSet::new(),
            differing: VecDeque::new(),
            making: BTreeSet::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            under_way: BTreeMap::new(),
            sent: RangeSet::default(),
            acknowledged: RangeSet::default(),
            acknowledged_bytes: 0,
            end: None,
            stale: 0,
            credit,
            recounting: false,
            limit: None,
        })
    }

    /// With a rate for what is fetched.
    pub fn with_limit(self, limit: Option<Limit>) -> Self {
        Self { limit, ..self }
    }

    /// The chunk for the next job, if there is one to make and room for it.
    fn next_to_make(&mut self, cores: usize) -> Option<u64> {
        let size = u64::from(self.manifest.chunk_size());
        let jobs = self.making.len().saturating_add(self.checking.jobs());
        let in_jobs = (jobs as u64).saturating_add(1).saturating_mul(size);
        if self.recounting
            || jobs >= cores.max(1).saturating_mul(2)
            || jobs.saturating_add(self.ready.len()) >= READY
            || self.ready_bytes.saturating_add(in_jobs) > IN_JOBS
        {
            return None;
        }
        let bound = self.acknowledged.first_missing().saturating_add(AHEAD).min(self.manifest.chunks());
        self.skip();
        let again = self.again.first().copied();
        let differing = self.differing.front().map(|range| range.first);
        let chunk = again.or(differing).or(Some(self.next)).filter(|chunk| *chunk < bound)?;
        if again.is_some() {
            self.again.remove(&chunk);
            return Some(chunk);
        }
        if !self.window.reserve(self.most) {
            return None;
        }
        self.places.insert(chunk, self.most);
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

    /// Goes on to the next chunk that the receiver does not have, as far as is known.
    fn skip(&mut self) {
        let held = |next| self.checking.range_of(next).map(|range| range.last).or(self.acknowledged.end_of(next));
        let mut next = self.next;
        while let Some(last) = held(next) {
            next = last.saturating_add(1);
        }
        self.next = next;
    }

    /// The next job that looks at what the receiver says it has.
    fn next_to_check(&mut self, cores: usize) -> Option<Check> {
        let jobs = self.making.len().saturating_add(self.checking.jobs());
        let bytes = (jobs as u64).saturating_add(1).saturating_mul(self.manifest.chunk_size().into());
        let is_full = jobs >= cores.max(1).saturating_mul(2) || bytes > IN_JOBS;
        if is_full { None } else { self.checking.next(cores, &self.source, &self.manifest) }
    }

    /// What is to be said of the next range that was judged.
    fn poll_checked(&mut self) -> Option<Control> {
        let Verdict { range, same } = self.checking.poll_verdict()?;
        let is_same = same.is_some();
        if let Some((hashes, bytes)) = same {
            for (chunk, hash) in (range.first..).zip(hashes) {
                self.hashes.know(chunk, hash);
            }
            self.acknowledged.insert_range(range);
            self.sent.insert_range(range);
            self.acknowledged_bytes = self.acknowledged_bytes.saturating_add(bytes);
            self.confirmed.0 =
                self.confirmed.0.saturating_add(range.last.saturating_sub(range.first)).saturating_add(1);
            self.confirmed.1 = self.confirmed.1.saturating_add(bytes);
        } else if range.first < self.next {
            self.differing.push_back(range);
        }
        Some(Control::Checked { transfer: FIRST, range, same: is_same })
    }

    /// A job made a chunk.
    fn made(&mut self, made: Made) -> Result<(), Fault> {
        self.making.remove(&made.chunk);
        match self.hashes.claim(made.chunk, &made.hash) {
            Claim::New | Claim::Kept | Claim::Again => {}
            // It was sent before, and the file is not what it was then.
            Claim::Changed => return Err(FaultKind::Changed.into()),
            Claim::Beyond => return Err(FaultKind::Internal.into()),
        }
        if self.acknowledged.contains(made.chunk) {
            self.release(made.chunk);
            return Ok(());
        }
        if let Some(place) = self.places.get_mut(&made.chunk) {
            let cost = cost(made.prepared.wire_len()).min(*place);
            self.window.release(place.saturating_sub(cost));
            *place = cost;
        }
        self.ready_bytes = self.ready_bytes.saturating_add(made.prepared.wire_len() as u64);
        self.ready.push_back(made);
        Ok(())
    }

    /// A chunk that was lost, or is made again, arrived all the same.
    fn release(&mut self, chunk: u64) {
        self.window.release(self.places.remove(&chunk).unwrap_or_default());
    }

    fn stored(&mut self, chunk: u64, plain: usize) {
        if self.acknowledged.insert(chunk) {
            self.acknowledged_bytes = self.acknowledged_bytes.saturating_add(plain as u64);
        }
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
            Product::Made(made) => self.made(*made)?,
            Product::Checked(checked) => {
                self.checking.checked(checked);
                while let Some(message) = self.poll_checked() {
                    exchange.send(message);
                    if self.checking.is_done() {
                        exchange.report(TransferEvent::Resumed { bytes: self.confirmed.1 });
                    }
                }
            }
            // An answer that is not to what was asked.
            _ => return Err(FaultKind::Internal.into()),
        }
        Ok(())
    }

    fn acknowledge(&mut self, _now: Instant, acknowledged: &[ChunkRange], credit: u32) -> Result<(), Violation> {
        ranges::check(acknowledged, self.manifest.chunks())?;
        if !acknowledged.iter().all(|range| self.sent.covers(*range)) {
            return Err(Violation::BadRanges);
        }
        self.recounting = false;
        let mut news = credit != self.credit;
        for range in acknowledged {
            let known: Vec<_> = self.under_way.range(range.first..=range.last).map(|(chunk, _)| *chunk).collect();
            let lost: Vec<_> = self.again.range(range.first..=range.last).copied().collect();
            news |= !known.is_empty() || !lost.is_empty();
            for chunk in known {
                if let Some(UnderWay { plain, .. }) = self.under_way.remove(&chunk) {
                    self.window.acknowledge(self.places.remove(&chunk).unwrap_or_default());
                    self.stored(chunk, plain);
                }
            }
            for chunk in lost {
                self.again.remove(&chunk);
                self.release(chunk);
                let plain = self.manifest.chunk_len(chunk).unwrap_or_default();
                self.stored(chunk, plain);
            }
            // Those that are being made again: their place is released when the job is done or the chunk is fetched.
            let making = self.making.iter().copied();
            let made = self.ready.iter().map(|made| made.chunk);
            let remade: Vec<_> =
                making.chain(made).filter(|chunk| (range.first..=range.last).contains(chunk)).collect();
            for chunk in remade {
                if !self.acknowledged.contains(chunk) {
                    news = true;
                    let plain = self.manifest.chunk_len(chunk).unwrap_or_default();
                    self.stored(chunk, plain);
                }
            }
        }
        self.credit = credit;
        self.window.set_credit(credit);
        self.stale = if news { 0 } else { self.stale.saturating_add(1) };
        if self.stale > STALE { Err(Violation::Repeats) } else { Ok(()) }
    }

    fn handle_sealed(&mut self, chunk: u64, link: LinkId) {
        if let Some(under_way) = self.under_way.get_mut(&chunk) {
            under_way.link = Some(link);
        }
    }

    /// What was sealed for this link and is not acknowledged.
    fn under_way(&self, link: LinkId) -> u64 {
        let on_it = self.under_way.iter().filter(|(_, under_way)| under_way.link == Some(link));
        let costs = on_it.filter_map(|(chunk, _)| self.places.get(chunk));
        costs.fold(0, |sum, cost| sum.saturating_add(*cost))
    }

    fn lose(&mut self, lost: Lost) {
        self.stale = 0;
        let again = &mut self.again;
        self.under_way.retain(|chunk, under_way| {
            let is_lost = lost.includes(under_way.link);
            if is_lost {
                again.insert(*chunk);
            }
            !is_lost
        });
    }

    fn recount(&mut self) {
        self.recounting = !self.again.is_empty();
    }

    /// Chunks come first once something is being judged: what the receiver lacks is sure, what it may have is not.
    fn next_job(&mut self, cores: usize) -> Option<Work> {
        if self.checking.jobs() == 0
            && let Some(check) = self.next_to_check(cores)
        {
            return Some(Work::Check(check));
        }
        let Some(chunk) = self.next_to_make(cores) else { return self.next_to_check(cores).map(Work::Check) };
        self.making.insert(chunk);
        Some(Work::Prepare(Prepare {
            source: Arc::clone(&self.source),
            manifest: Arc::clone(&self.manifest),
            coders: Arc::clone(&self.coders),
            compression: self.compression,
            transfer: FIRST,
            chunk,
        }))
    }

    fn fetch(&mut self) -> Option<(u64, Prepared)> {
        if self.recounting || self.limit.is_some_and(|limit| !limit.is_open()) {
            return None;
        }
        loop {
            let Made { chunk, plain, prepared, .. } = self.ready.pop_front()?;
            self.ready_bytes = self.ready_bytes.saturating_sub(prepared.wire_len() as u64);
            if self.acknowledged.contains(chunk) {
                self.release(chunk);
                continue;
            }
            self.under_way.insert(chunk, UnderWay { plain, link: None });
            self.sent.insert(chunk);
            if let Some(limit) = &mut self.limit {
                limit.spend(prepared.wire_len() as u64);
            }
            return Some((chunk, prepared));
        }
    }

    fn end(&mut self) -> Option<Control> {
        let chunks = self.manifest.chunks();
        if self.end.is_some() || self.sent.count() < chunks || !self.checking.is_done() {
            return None;
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
        // When the next chunk may be fetched that is made and waits for it.
        self.limit.filter(|_| !self.ready.is_empty())?.opens_at()
    }

    fn progress(&self) -> Progress {
        Progress { bytes: self.acknowledged_bytes, total: self.whole() }
    }

    fn whole(&self) -> u64 {
        self.manifest.totals().bytes
    }
}
