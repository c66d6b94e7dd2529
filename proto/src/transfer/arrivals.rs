//! Chunk records that arrived: which of them wait, which are in a job that opens them, and how much all held chunks
//! use of the credit.
//!
//! It decides whether a chunk may arrive at all, and how many are opened at a time. Timer: that of the rate limit,
//! for the next acknowledgement. Bounds: all held chunks together, by the largest credit that the sender was given;
//! running jobs, by twice the cores and 16 MiB.

use std::collections::{BTreeMap, VecDeque};

use super::IN_JOBS;
use super::chunk::HEADER;
use super::limit::{self, Limit};
use super::window::{FRAMING, cost};
use crate::Instant;
use crate::session::{LinkId, SealedChunk};
use crate::transfer::job_id::JobId;
use crate::wire::Violation;

/// The credit that a chunk uses and the link on which it arrived. The cost is 0 once that link is lost, because the
/// sender then counts the chunk anew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charge {
    pub link: LinkId,
    cost: u64,
    /// Its size for the rate limit, whether or not the link was lost.
    sealed: u64,
}

/// The chunk records that arrived and are not released.
pub(super) struct Arrivals {
    waiting: VecDeque<SealedChunk>,
    opening: BTreeMap<JobId, Charge>,
    /// The credit in use: chunks that wait, are in jobs, or were opened and not released.
    held: u64,
    /// The limit of `held`.
    most: u32,
    /// The length of the longest chunk, in bytes.
    longest: u32,
    limit: Option<Limit>,
}

impl Arrivals {
    /// Holds at most `most` bytes of chunks, each at most `longest` bytes; `limit` is the rate limit of
    /// acknowledgements.
    pub const fn new(most: u32, longest: u32, limit: Option<Limit>) -> Self {
        Self { waiting: VecDeque::new(), opening: BTreeMap::new(), held: 0, most, longest, limit }
    }

    /// What the sender may have in flight.
    pub fn credit(&self) -> u32 {
        let longest = (self.longest as usize).saturating_add(HEADER).saturating_add(FRAMING);
        limit::credit(self.limit, cost(longest), self.most)
    }

    /// A chunk arrived.
    pub fn take(&mut self, chunk: SealedChunk) -> Result<(), Violation> {
        let held = self.held.saturating_add(cost(chunk.len()));
        if held > u64::from(self.most) {
            return Err(Violation::BeyondCredit);
        }
        self.held = held;
        self.waiting.push_back(chunk);
        Ok(())
    }

    /// The next chunk for the job of this id, if there is one and room for it.
    pub fn next_to_open(&mut self, cores: usize, id: JobId) -> Option<SealedChunk> {
        let jobs = self.opening.len();
        let bytes = (jobs as u64).saturating_add(1).saturating_mul(self.longest.into());
        if jobs >= cores.max(1).saturating_mul(2) || bytes > IN_JOBS {
            return None;
        }
        let sealed = self.waiting.pop_front()?;
        let (link, len) = (sealed.link, sealed.len());
        self.opening.insert(id, Charge { link, cost: cost(len), sealed: len as u64 });
        Some(sealed)
    }

    /// The job with this id has opened its chunk, which uses credit until it is released.
    pub fn opened(&mut self, id: JobId) -> Option<Charge> {
        self.opening.remove(&id)
    }

    /// Whether no chunk waits or is being opened.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.opening.is_empty()
    }

    /// Releases a chunk without an acknowledgement.
    pub const fn discard(&mut self, charge: Charge) {
        self.held = self.held.saturating_sub(charge.cost);
    }

    /// Releases a chunk that is acknowledged to the sender.
    pub const fn acknowledge(&mut self, charge: Charge) {
        self.discard(charge);
        if let Some(limit) = &mut self.limit {
            limit.spend(charge.sealed);
        }
    }

    /// A link is lost. Waiting chunks are dropped, because the sender sends them again; chunks in jobs and the
    /// `others` that were opened use no credit any more, because the sender counts them anew.
    pub fn lose<'a>(&mut self, link: LinkId, others: impl Iterator<Item = &'a mut Charge>) {
        let held = &mut self.held;
        self.waiting.retain(|chunk| {
            let lost = chunk.link == link;
            if lost {
                *held = held.saturating_sub(cost(chunk.len()));
            }
            !lost
        });
        let mut discount = |charge: &mut Charge| {
            if charge.link == link {
                *held = held.saturating_sub(charge.cost);
                charge.cost = 0;
            }
        };
        self.opening.values_mut().for_each(&mut discount);
        others.for_each(discount);
    }

    /// Updates the rate limit to `now`.
    pub fn advance(&mut self, now: Instant) {
        if let Some(limit) = &mut self.limit {
            limit.advance(now);
        }
    }

    /// Whether the rate limit allows an acknowledgement now.
    pub fn may_acknowledge(&self) -> bool {
        self.limit.is_none_or(|limit| limit.is_open())
    }

    /// Whether there is a rate limit.
    pub const fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// When the rate limit allows an acknowledgement.
    pub fn opens_at(&self) -> Option<Instant> {
        self.limit?.opens_at()
    }
}

impl Charge {
    /// How much of the credit it uses.
    pub const fn cost(&self) -> u64 {
        self.cost
    }
}
