//! The chunks of a transfer that was accepted: which wait, which are in jobs, which are stored, and what the sender was told.
//!
//! It decides when chunks are acknowledged, and counts what the sender may have under way. Bounds: [`CREDIT`] for all that is
//! held; jobs out, twice the cores and 16 MiB of chunks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::chunk::{Coders, Open, Opened};
use super::hashes::{Hash, Hashes};
use super::manifest::Manifest;
use super::ranges::RangeSet;
use super::window::{CREDIT, cost};
use super::{FIRST, IN_JOBS, Progress};
use crate::job::{JobId, Sink};
use crate::session::{LinkId, SealedChunk, Violation};
use crate::wire::peer::{ChunkRange, ChunkRanges, Control};

/// Chunks are acknowledged when so many were stored that count so many bytes together, or many of any size, or nothing is left
/// to do: often enough that a window of a few chunks never waits for it, and seldom enough to cost nothing.
const ACK_CHUNKS: usize = 4;
const ACK_BYTES: u64 = 256 << 10;
const ACK_MANY: usize = 64;
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
    /// Stored, not acknowledged.
    fresh: BTreeMap<u64, Held>,
    /// Stored, acknowledged or not.
    pub stored: RangeSet,
    stored_bytes: u64,
    /// What counts against the credit: chunks in the three lists above.
    held: u64,
    /// From which chunk on acknowledgements are to be said again.
    pub repeat: Option<u64>,
    /// The sender's root, once it said that all was sent.
    pub end: Option<Hash>,
}

/// What a chunk counts, and on which link it came; nothing once that link is gone, as the sender then counts it afresh.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    link: LinkId,
    cost: u64,
}

impl Incoming {
    pub fn new(manifest: Arc<Manifest>, sink: Arc<dyn Sink>) -> Self {
        Self {
            hashes: Arc::new(Mutex::new(Hashes::new(manifest.digest(), manifest.chunks()))),
            manifest,
            sink,
            coders: Arc::default(),
            waiting: VecDeque::new(),
            opening: BTreeMap::new(),
            fresh: BTreeMap::new(),
            stored: RangeSet::default(),
            stored_bytes: 0,
            held: 0,
            repeat: None,
            end: None,
        }
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
        for entry in self.opening.values_mut().chain(self.fresh.values_mut()).filter(|entry| entry.link == link) {
            *held = held.saturating_sub(entry.cost);
            entry.cost = 0;
        }
    }

    /// The next chunk for a job, if there is one and room for it.
    pub fn next_to_open(&mut self, cores: usize) -> Option<(Open, Held)> {
        let jobs = self.opening.len();
        let bytes = (jobs as u64).saturating_add(1).saturating_mul(self.manifest.chunk_size().into());
        if jobs >= cores.max(1).saturating_mul(2) || bytes > IN_JOBS {
            return None;
        }
        let sealed = self.waiting.pop_front()?;
        let held = Held { link: sealed.link, cost: cost(sealed.len()) };
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

    /// A job judged a chunk. Gives the link of a record that was not genuine.
    pub fn opened(&mut self, id: JobId, opened: Opened) -> Result<Option<LinkId>, Violation> {
        let Some(held) = self.opening.remove(&id) else { return Ok(None) };
        match opened {
            Opened::Stored { chunk, plain } => {
                self.stored.insert(chunk);
                self.stored_bytes = self.stored_bytes.saturating_add(plain as u64);
                self.fresh.insert(chunk, held);
                Ok(None)
            }
            Opened::Again => {
                self.held = self.held.saturating_sub(held.cost);
                Ok(None)
            }
            Opened::BadRecord(link) => {
                self.held = self.held.saturating_sub(held.cost);
                Ok(Some(link))
            }
            Opened::Violation(violation) => Err(violation),
        }
    }

    /// The next acknowledgement, if it is time for one; `now`: it is.
    pub fn poll_ack(&mut self, now: bool) -> Option<Control> {
        if let Some(from) = self.repeat.take() {
            let ranges: Vec<_> = self.stored.iter().filter(|range| range.first >= from).take(RANGES).collect();
            if let Some(end) = ranges.last() {
                self.repeat = end.last.checked_add(1);
                for range in &ranges {
                    while let Some((&chunk, held)) = self.fresh.range(range.first..=range.last).next() {
                        self.held = self.held.saturating_sub(held.cost);
                        self.fresh.remove(&chunk);
                    }
                }
                return Some(ack(ranges));
            }
        }
        let idle = self.opening.is_empty() && self.waiting.is_empty();
        let bytes = || self.fresh.values().fold(0_u64, |sum, held| sum.saturating_add(held.cost));
        let many = self.fresh.len() >= ACK_MANY || (self.fresh.len() >= ACK_CHUNKS && bytes() >= ACK_BYTES);
        if self.fresh.is_empty() || !(now || idle || many) {
            return None;
        }
        let mut ranges: Vec<ChunkRange> = Vec::new();
        while let Some(next) = self.fresh.first_entry() {
            let (chunk, full) = (*next.key(), ranges.len() == RANGES);
            match ranges.last_mut() {
                Some(range) if range.last.checked_add(1) == Some(chunk) => range.last = chunk,
                _ if full => break,
                _ => ranges.push(ChunkRange { first: chunk, last: chunk }),
            }
            self.held = self.held.saturating_sub(next.remove().cost);
        }
        Some(ack(ranges))
    }

    /// What was stored.
    pub fn progress(&self) -> Progress {
        Progress { bytes: self.stored_bytes, total: self.manifest.totals().bytes }
    }
}

fn ack(ranges: Vec<ChunkRange>) -> Control {
    Control::Ack { transfer: FIRST, ranges: ChunkRanges::truncated(ranges), credit: CREDIT }
}
