//! The chunks of a stream that was accepted: which wait, which are open, which one is being written.
//!
//! ```text
//! waiting ──► unsealing ──► packed ──► unpacking ──► plain ──► writing ──► written, and counted until it is acknowledged
//! ```
//! A chunk stays as it came, compressed, until its turn is near, so that what is held is never more than what was sent. Chunks leave
//! in the order of their numbers; one that was written is only known by its hash.
//!
//! Timers: [`PAUSE`] after a sink that had no room; the rate limit's. Bounds: [`HOLD`] for all that is held; jobs out, twice the cores
//! and 16 MiB; [`UNPACKED`] chunks that are not packed; [`RECENT`] hashes of chunks that were written.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use subtle::ConstantTimeEq;

use super::work::{Unpack, Unsealed, Work, Write};
use super::{AHEAD, HOLD, Layout, PAUSE, Root};
use crate::Instant;
use crate::session::{LinkId, SealedChunk};
use crate::transfer::chunk::{Codec, Coders, HEADER, Header};
use crate::transfer::hashes::Hash;
use crate::transfer::job::JobId;
use crate::transfer::limit::{self, Limit};
use crate::transfer::storage::StreamSink;
use crate::transfer::window::{FRAMING, cost};
use crate::transfer::{FIRST, IN_JOBS, Judged, Progress};
use crate::wire::Violation;
use crate::wire::peer::{ChunkRange, ChunkRanges, Control};

/// The most chunks that are plain, or becoming it: the one that is written and those after it.
const UNPACKED: u64 = 3;
/// So many hashes of chunks that were written are kept, to know a chunk again that comes twice.
const RECENT: usize = 1 << 12;

/// See the module's text.
pub struct Inflow {
    layout: Layout,
    sink: Arc<dyn StreamSink>,
    coders: Arc<Coders>,
    waiting: VecDeque<SealedChunk>,
    unsealing: BTreeMap<JobId, Held>,
    /// Open, and not written out.
    items: BTreeMap<u64, Item>,
    /// How many were written out.
    written: u64,
    bytes: u64,
    recent: VecDeque<Hash>,
    /// The last ones that were written out, whose acknowledgement waits.
    fresh: VecDeque<Held>,
    /// All that was acknowledged is acknowledged again.
    again: bool,
    /// What counts against the credit.
    held: u64,
    limit: Option<Limit>,
    root: Root,
    /// Of how many chunks, and the sender's root.
    end: Option<(u64, Hash)>,
}

/// What a chunk counts, and on which link it came; nothing once that link is gone, as the sender then counts it afresh.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    link: LinkId,
    cost: u64,
    /// What it counts for the rate limit, whatever became of the link.
    sealed: u64,
}

struct Item {
    held: Held,
    hash: Hash,
    stage: Stage,
}

enum Stage {
    Packed(Header, BytesMut),
    Unpacking,
    Plain(Bytes),
    /// So many bytes of it.
    Writing(usize),
    /// The sink had no room.
    Full(Bytes, Instant),
}

impl Layout {
    /// Length of this chunk, as far as its header may say so.
    fn allows(&self, header: &Header) -> bool {
        match self {
            Self::Stream { longest } => (1..=*longest).contains(&header.length),
            Self::File(manifest) => manifest.chunk_len(header.chunk) == Some(header.length as usize),
        }
    }

    /// How far beyond the first that is not written a chunk may lie. What a file's sender has under way its window bounds alone.
    const fn ahead(&self) -> u64 {
        match self {
            Self::Stream { .. } => AHEAD,
            Self::File(_) => crate::transfer::hashes::AHEAD,
        }
    }

    fn longest(&self) -> u32 {
        match self {
            Self::Stream { longest } => *longest,
            Self::File(manifest) => manifest.chunk_size(),
        }
    }

    /// Of all chunks together; 0: nobody knows.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Stream { .. } => 0,
            Self::File(manifest) => manifest.totals().bytes,
        }
    }
}

impl Inflow {
    /// Nothing came so far.
    pub fn new(layout: Layout, sink: Arc<dyn StreamSink>, limit: Option<Limit>) -> Self {
        let root = match &layout {
            Layout::Stream { .. } => Root::of_stream(),
            Layout::File(manifest) => Root::of_file(manifest),
        };
        Self {
            layout,
            sink,
            coders: Arc::default(),
            waiting: VecDeque::new(),
            unsealing: BTreeMap::new(),
            items: BTreeMap::new(),
            written: 0,
            bytes: 0,
            recent: VecDeque::new(),
            fresh: VecDeque::new(),
            again: false,
            held: 0,
            limit,
            root,
            end: None,
        }
    }

    /// What the sender may have under way.
    pub fn credit(&self) -> u32 {
        let longest = (self.layout.longest() as usize).saturating_add(HEADER).saturating_add(FRAMING);
        limit::credit(self.limit, cost(longest), HOLD)
    }

    /// Whether it is one file that comes.
    pub const fn is_file(&self) -> bool {
        matches!(self.layout, Layout::File(_))
    }

    /// Whether everything that came was written out and acknowledged, so that it is the sender's turn.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.unsealing.is_empty() && self.items.is_empty() && self.fresh.is_empty()
    }

    /// A chunk arrived.
    pub fn take(&mut self, chunk: SealedChunk) -> Result<(), Violation> {
        let held = self.held.saturating_add(cost(chunk.len()));
        if held > u64::from(HOLD) {
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
        let items = self.items.values_mut().map(|item| &mut item.held);
        let entries = self.unsealing.values_mut().chain(self.fresh.iter_mut()).chain(items);
        for entry in entries.filter(|entry| entry.link == link) {
            *held = held.saturating_sub(entry.cost);
            entry.cost = 0;
        }
    }

    /// Another link is up, and acknowledgements may have gone down with the last one.
    pub const fn repeat(&mut self) {
        self.again = true;
    }

    /// It is `now`.
    pub fn advance(&mut self, now: Instant) {
        if let Some(limit) = &mut self.limit {
            limit.advance(now);
        }
        if let Some(item) = self.items.get_mut(&self.written)
            && let Stage::Full(plain, until) = &item.stage
            && *until <= now
        {
            item.stage = Stage::Plain(plain.clone());
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pause = self.items.get(&self.written).and_then(|item| match &item.stage {
            Stage::Full(_, until) => Some(*until),
            Stage::Packed(..) | Stage::Unpacking | Stage::Plain(_) | Stage::Writing(_) => None,
        });
        let waits = self.again || !self.fresh.is_empty();
        let limit = self.limit.filter(|_| waits).and_then(|limit| limit.opens_at());
        [pause, limit].into_iter().flatten().min()
    }

    /// The next job; with what the chunk counts that it unseals, for [`Self::unsealing`].
    pub fn next_job(&mut self, cores: usize) -> Option<(Work, Option<Held>)> {
        if let Some(item) = self.items.get_mut(&self.written)
            && let Stage::Plain(plain) = &item.stage
        {
            let write = Write { sink: Arc::clone(&self.sink), plain: plain.clone() };
            item.stage = Stage::Writing(plain.len());
            return Some((Work::Write(write), None));
        }
        let near = self.written..self.written.saturating_add(UNPACKED);
        if let Some((_, item)) = self.items.range_mut(near).find(|(_, item)| matches!(item.stage, Stage::Packed(..)))
            && let Stage::Packed(header, body) = std::mem::replace(&mut item.stage, Stage::Unpacking)
        {
            let unpack = Unpack { header, body, coders: Arc::clone(&self.coders) };
            return Some((Work::Unpack(Box::new(unpack)), None));
        }
        let jobs = self.unsealing.len();
        let bytes = (jobs as u64).saturating_add(1).saturating_mul(self.layout.longest().into());
        if jobs >= cores.max(1).saturating_mul(2) || bytes > IN_JOBS {
            return None;
        }
        let sealed = self.waiting.pop_front()?;
        let held = Held { link: sealed.link, cost: cost(sealed.len()), sealed: sealed.len() as u64 };
        Some((Work::Unseal(Box::new(sealed)), Some(held)))
    }

    /// The job that unseals a chunk that counts so much.
    pub fn unsealing(&mut self, id: JobId, held: Held) {
        self.unsealing.insert(id, held);
    }

    /// A chunk was opened, or can't be.
    pub fn unsealed(&mut self, id: JobId, unsealed: Unsealed) -> Result<Option<Judged>, Violation> {
        let Some(held) = self.unsealing.remove(&id) else { return Ok(None) };
        match unsealed {
            Unsealed::Record(header, body) => {
                self.judge(held, header, body)?;
                Ok(Some(Judged::Genuine(held.link)))
            }
            Unsealed::BadRecord(link) => {
                self.held = self.held.saturating_sub(held.cost);
                Ok(Some(Judged::Bad(link)))
            }
            Unsealed::Violation(violation) => Err(violation),
        }
    }

    fn judge(&mut self, held: Held, header: Header, body: BytesMut) -> Result<(), Violation> {
        let chunk = header.chunk;
        let is_raw_right = header.codec == Codec::Zstd || body.len() == header.length as usize;
        let is_beyond = self.end.is_some_and(|(chunks, _)| chunk >= chunks)
            || chunk >= self.written.saturating_add(self.layout.ahead());
        if !self.layout.allows(&header) || !is_raw_right || is_beyond {
            return Err(Violation::BadChunk);
        }
        let back = self.written.checked_sub(chunk).filter(|back| *back > 0);
        let before = match back {
            // So long ago that it doesn't matter.
            Some(back) => {
                let at = usize::try_from(back).ok().and_then(|back| self.recent.len().checked_sub(back));
                Some(at.and_then(|at| self.recent.get(at)).copied().unwrap_or(header.hash))
            }
            None => self.items.get(&chunk).map(|item| item.hash),
        };
        match before {
            None => {
                self.items.insert(chunk, Item { held, hash: header.hash, stage: Stage::Packed(header, body) });
                Ok(())
            }
            Some(before) if bool::from(before.ct_eq(&header.hash)) => {
                self.held = self.held.saturating_sub(held.cost);
                Ok(())
            }
            Some(_) => Err(Violation::ChunkChanged),
        }
    }

    /// A chunk was checked.
    pub fn unpacked(&mut self, chunk: u64, plain: Result<Bytes, Violation>) -> Result<(), Violation> {
        let plain = plain?;
        if let Some(item) = self.items.get_mut(&chunk) {
            item.stage = Stage::Plain(plain);
        }
        Ok(())
    }

    /// The sink took some of the chunk whose turn it is, and left this.
    pub fn wrote(&mut self, now: Instant, rest: Bytes) {
        let Some(item) = self.items.get_mut(&self.written) else { return };
        let Stage::Writing(before) = item.stage else { return };
        let taken = before.saturating_sub(rest.len());
        self.bytes = self.bytes.saturating_add(taken as u64);
        if !rest.is_empty() {
            let until = now.checked_add(PAUSE).unwrap_or(now);
            item.stage = if taken > 0 { Stage::Plain(rest) } else { Stage::Full(rest, until) };
            return;
        }
        if let Some(item) = self.items.remove(&self.written) {
            self.written = self.written.saturating_add(1);
            self.root.add(&item.hash);
            self.recent.push_back(item.hash);
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
            self.fresh.push_back(item.held);
        }
    }

    /// The sender says that it is all.
    pub fn end(&mut self, chunks: u64, moved: u64, root: Hash) -> Result<(), Violation> {
        let is_right = match &self.layout {
            Layout::Stream { .. } => true,
            Layout::File(manifest) => chunks == manifest.chunks(),
        };
        let is_less = self.written > chunks || self.items.last_key_value().is_some_and(|(chunk, _)| *chunk >= chunks);
        if self.end.is_some() || moved != chunks || !is_right || is_less {
            return Err(Violation::BadEnd);
        }
        self.end = Some((chunks, root));
        Ok(())
    }

    /// Our root and the sender's, once all is written out.
    pub fn roots(&self) -> Option<(Hash, Hash)> {
        let (_, root) = self.end.filter(|(chunks, _)| *chunks == self.written)?;
        Some((self.root.finish(), root))
    }

    /// The next acknowledgement, if there is one: always of all from the first chunk on.
    pub fn poll_ack(&mut self) -> Option<Control> {
        let is_open = |limit: &Option<Limit>| limit.is_none_or(|limit| limit.is_open());
        let mut news = is_open(&self.limit) && std::mem::take(&mut self.again);
        while is_open(&self.limit)
            && let Some(held) = self.fresh.pop_front()
        {
            news = true;
            self.held = self.held.saturating_sub(held.cost);
            if let Some(limit) = &mut self.limit {
                limit.spend(held.sealed);
            }
        }
        let stored = self.written.saturating_sub(self.fresh.len() as u64).checked_sub(1);
        let ranges = ChunkRanges::truncated(stored.map(|last| ChunkRange { first: 0, last }).into_iter().collect());
        news.then(|| Control::Ack { transfer: FIRST, ranges, credit: self.credit() })
    }

    /// What was written out.
    pub fn progress(&self) -> Progress {
        Progress { bytes: self.bytes, total: self.layout.bytes() }
    }
}
