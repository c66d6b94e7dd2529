//! The chunks of an accepted stream on the receiver's side: which of them wait, are open, or are being written.
//!
//! ```text
//! waiting ──► unsealing ──► packed ──► unpacking ──► plain ──► writing ──► written, and counted until acknowledged
//! ```
//! A chunk stays compressed as it arrived until its turn is near, so that the memory in use is never more than what
//! was sent. Chunks are written in the order of their numbers; of a written chunk only the hash is kept.
//! Zeros are written for the holes of a sparse file (`gaps`).
//!
//! Timers: [`PAUSE`] after a sink that had no room; that of the rate limit. Bounds: [`HOLD`] for all held chunks;
//! running jobs: twice the cores and 16 MiB; [`UNPACKED`] decompressed chunks; [`RECENT`] hashes of written chunks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use subtle::ConstantTimeEq;

use super::gaps::Gaps;
use super::work::{Product, Unpack, Unsealed, Work, Write};
use super::{AHEAD, HOLD, Layout, PAUSE, Root};
use crate::Instant;
use crate::session::{LinkId, OpenedRecord, SealedChunk};
use crate::transfer::arrivals::{Arrivals, Charge};
use crate::transfer::body::{ChunkSink, Staged};
use crate::transfer::chunk::{Codec, Coders, Header};
use crate::transfer::differences::{Differences, Statuses};
use crate::transfer::exchange::{Exchange, Stop};
use crate::transfer::hashes::Hash;
use crate::transfer::job;
use crate::transfer::job_id::JobId;
use crate::transfer::limit::Limit;
use crate::transfer::storage::{FaultKind, StreamSink};
use crate::transfer::{FIRST, Progress};
use crate::wire::Violation;
use crate::wire::peer::{ChunkRange, ChunkRanges, Control, EntryStatus};

/// How many chunks are decompressed, or being decompressed: the one that is written and the next ones.
const UNPACKED: u64 = 3;
/// How many hashes of written chunks are kept, to recognise a chunk that arrives twice.
const RECENT: usize = 1 << 12;

/// The chunks of an accepted stream on the receiver's side.
pub struct OrderedReceiver {
    layout: Layout,
    sink: Arc<dyn StreamSink>,
    coders: Arc<Coders>,
    arrivals: Arrivals,
    /// Open chunks that are not written.
    items: BTreeMap<u64, Item>,
    /// How many chunks were written.
    written: u64,
    /// Bytes of them.
    bytes: u64,
    gaps: Gaps,
    recent: VecDeque<Hash>,
    /// The chunks written last, whose acknowledgement waits.
    fresh: VecDeque<Charge>,
    /// All acknowledgements have to be sent again.
    again: bool,
    root: Root,
    statuses: Statuses,
    /// The number of chunks, and the sender's root.
    end: Option<(u64, Hash)>,
}

struct Item {
    charge: Charge,
    hash: Hash,
    stage: Stage,
}

enum Stage {
    Packed(Header, BytesMut),
    Unpacking,
    Plain(Bytes),
    /// This many bytes of it are being written.
    Writing(Bytes, usize),
    /// The sink had no room.
    Full(Bytes, Instant),
}

impl Layout {
    /// Whether the header states an allowed length for this chunk.
    fn allows(&self, header: &Header) -> bool {
        match self {
            Self::Stream { longest } => (1..=*longest).contains(&header.length),
            Self::File(manifest) => manifest.chunk_len(header.chunk) == Some(header.length as usize),
        }
    }

    /// How far beyond the first unwritten chunk a chunk may be. For a file the sender's window is the only bound.
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

    /// The bytes of all chunks together; 0: not known.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Stream { .. } => 0,
            Self::File(manifest) => manifest.payload(),
        }
    }
}

impl OrderedReceiver {
    /// Creates it before any chunk has arrived.
    pub fn new(layout: Layout, sink: Arc<dyn StreamSink>, limit: Option<Limit>) -> Self {
        let root = match &layout {
            Layout::Stream { .. } => Root::of_stream(),
            Layout::File(manifest) => Root::of_file(manifest),
        };
        let gaps = match &layout {
            Layout::Stream { .. } => Gaps::default(),
            Layout::File(manifest) => Gaps::of_file(manifest),
        };
        Self {
            arrivals: Arrivals::new(HOLD, layout.longest(), limit),
            layout,
            sink,
            coders: Arc::default(),
            items: BTreeMap::new(),
            written: 0,
            bytes: 0,
            gaps,
            recent: VecDeque::new(),
            fresh: VecDeque::new(),
            again: false,
            root,
            statuses: Statuses::default(),
            end: None,
        }
    }

    /// Whether everything that arrived was written and acknowledged, so that the sender has to send next.
    fn is_idle(&self) -> bool {
        self.arrivals.is_empty() && self.items.is_empty() && self.fresh.is_empty() && !self.gaps.is_out()
    }

    /// A job opened a record.
    fn unsealed(&mut self, id: JobId, record: OpenedRecord<Unsealed>) -> Result<(), Violation> {
        let Some(charge) = self.arrivals.opened(id) else { return Ok(()) };
        match record.content {
            Some(Ok((header, body))) => self.judge(charge, header, body)?,
            Some(Err(violation)) => return Err(violation),
            // The session was notified first, and drops the link.
            None => self.arrivals.discard(charge),
        }
        Ok(())
    }

    fn judge(&mut self, charge: Charge, header: Header, body: BytesMut) -> Result<(), Violation> {
        let chunk = header.chunk;
        let is_raw_right = match header.codec {
            Codec::Raw => body.len() == header.length as usize,
            Codec::Zstd => true,
            // One file or a stream fails as a whole.
            Codec::Incomplete | Codec::Void => false,
        };
        let is_beyond = self.end.is_some_and(|(chunks, _)| chunk >= chunks)
            || chunk >= self.written.saturating_add(self.layout.ahead());
        if !self.layout.allows(&header) || !is_raw_right || is_beyond {
            return Err(Violation::BadChunk);
        }
        let back = self.written.checked_sub(chunk).filter(|back| *back > 0);
        let before = match back {
            // So long ago that it makes no difference.
            Some(back) => {
                let at = usize::try_from(back).ok().and_then(|back| self.recent.len().checked_sub(back));
                Some(at.and_then(|at| self.recent.get(at)).copied().unwrap_or(header.hash))
            }
            None => self.items.get(&chunk).map(|item| item.hash),
        };
        match before {
            None => {
                self.items.insert(chunk, Item { charge, hash: header.hash, stage: Stage::Packed(header, body) });
                Ok(())
            }
            Some(before) if bool::from(before.ct_eq(&header.hash)) => {
                self.arrivals.discard(charge);
                Ok(())
            }
            Some(_) => Err(Violation::ChunkChanged),
        }
    }

    /// A chunk was checked.
    fn unpacked(&mut self, chunk: u64, plain: Result<Bytes, Violation>) -> Result<(), Violation> {
        let plain = plain?;
        if let Some(item) = self.items.get_mut(&chunk) {
            item.stage = Stage::Plain(plain);
        }
        Ok(())
    }

    /// The sink took some bytes of the current chunk and left `rest`.
    fn wrote(&mut self, now: Instant, rest: Bytes) {
        if self.gaps.is_out() {
            return self.gaps.wrote(now, rest.len());
        }
        let Some(item) = self.items.get_mut(&self.written) else { return };
        let Stage::Writing(plain, len) = &mut item.stage else { return };
        let taken = len.saturating_sub(rest.len());
        self.bytes = self.bytes.saturating_add(taken as u64);
        plain.advance(taken.min(plain.len()));
        if !plain.is_empty() {
            let until = now.checked_add(PAUSE).unwrap_or(now);
            let plain = std::mem::take(plain);
            item.stage = if taken > 0 { Stage::Plain(plain) } else { Stage::Full(plain, until) };
            return;
        }
        if let Some(item) = self.items.remove(&self.written) {
            self.written = self.written.saturating_add(1);
            self.root.add(&item.hash);
            self.recent.push_back(item.hash);
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
            self.fresh.push_back(item.charge);
        }
    }
}

impl ChunkSink for OrderedReceiver {
    fn advance(&mut self, now: Instant) {
        self.arrivals.advance(now);
        self.gaps.advance(now);
        if let Some(item) = self.items.get_mut(&self.written)
            && let Stage::Full(plain, until) = &item.stage
            && *until <= now
        {
            item.stage = Stage::Plain(plain.clone());
        }
    }

    fn take(&mut self, chunk: SealedChunk) -> Result<(), Violation> {
        self.arrivals.take(chunk)
    }

    fn lose(&mut self, link: LinkId) {
        let items = self.items.values_mut().map(|item| &mut item.charge);
        self.arrivals.lose(link, self.fresh.iter_mut().chain(items));
    }

    fn repeat(&mut self) {
        self.again = true;
    }

    fn handle_product(&mut self, now: Instant, id: JobId, product: job::Product) -> Result<(), Stop> {
        self.advance(now);
        match product {
            job::Product::Stream(Product::Unsealed(record)) => self.unsealed(id, record)?,
            job::Product::Stream(Product::Unpacked(chunk, plain)) => self.unpacked(chunk, plain)?,
            job::Product::Stream(Product::Wrote(rest)) => self.wrote(now, rest),
            // The result does not belong to the work of the job.
            _ => return Err(FaultKind::Internal.into()),
        }
        Ok(())
    }

    /// This side reported no stored range to the sender.
    fn handle_checked(&mut self, _: ChunkRange, _: bool, _: &mut Exchange) -> Result<(), Violation> {
        Err(Violation::UnexpectedMessage)
    }

    /// Only of the one file, that it grew: if it had failed, its transfer would have.
    fn handle_status(
        &mut self,
        entry: u32,
        status: EntryStatus,
        differences: &mut Differences,
    ) -> Result<(), Violation> {
        match &self.layout {
            Layout::Stream { .. } => Err(Violation::BadEntry),
            Layout::File(_) if status.is_failure() => Err(Violation::BadEntry),
            Layout::File(manifest) => self.statuses.note(manifest, (entry, status), None, differences),
        }
    }

    fn handle_end(&mut self, chunks: u64, moved: u64, root: Hash) -> Result<(), Violation> {
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

    fn next_job(&mut self, cores: usize, id: JobId) -> Option<job::Work> {
        if let Some(plain) = self.gaps.next(self.bytes) {
            let write = Write { sink: Arc::clone(&self.sink), plain };
            return Some(job::Work::Stream(Work::Write(write)));
        }
        let room = usize::try_from(self.gaps.room(self.bytes)).unwrap_or(usize::MAX);
        if room > 0
            && let Some(item) = self.items.get_mut(&self.written)
            && let Stage::Plain(plain) = &item.stage
        {
            let plain = plain.clone();
            let len = plain.len().min(room);
            let write = Write { sink: Arc::clone(&self.sink), plain: plain.slice(..len) };
            item.stage = Stage::Writing(plain, len);
            return Some(job::Work::Stream(Work::Write(write)));
        }
        let near = self.written..self.written.saturating_add(UNPACKED);
        if let Some((_, item)) = self.items.range_mut(near).find(|(_, item)| matches!(item.stage, Stage::Packed(..)))
            && let Stage::Packed(header, body) = std::mem::replace(&mut item.stage, Stage::Unpacking)
        {
            let unpack = Unpack { header, body, coders: Arc::clone(&self.coders) };
            return Some(job::Work::Stream(Work::Unpack(Box::new(unpack))));
        }
        let sealed = self.arrivals.next_to_open(cores, id)?;
        Some(job::Work::Stream(Work::Unseal(Box::new(sealed))))
    }

    /// Always acknowledges all chunks from the first one on.
    fn poll_ack(&mut self) -> Option<Control> {
        let mut news = self.arrivals.may_acknowledge() && std::mem::take(&mut self.again);
        while self.arrivals.may_acknowledge()
            && let Some(charge) = self.fresh.pop_front()
        {
            news = true;
            self.arrivals.acknowledge(charge);
        }
        let stored = self.written.saturating_sub(self.fresh.len() as u64).checked_sub(1);
        let ranges = ChunkRanges::truncated(stored.map(|last| ChunkRange { first: 0, last }).into_iter().collect());
        news.then(|| Control::Ack { transfer: FIRST, ranges, credit: self.credit() })
    }

    fn roots(&self) -> Option<(Option<Hash>, Hash)> {
        let (_, root) = self.end.filter(|(chunks, _)| *chunks == self.written && self.gaps.is_done())?;
        Some((Some(self.root.finish()), root))
    }

    fn credit(&self) -> u32 {
        self.arrivals.credit()
    }

    /// The sender of a stream may be silent without limit.
    fn awaits_sender(&self) -> bool {
        matches!(self.layout, Layout::File(_)) && self.is_idle()
    }

    /// While anything is not acknowledged, the sender waits for this side: for its disk, its reader, or its rate
    /// limit.
    fn is_held_back(&self) -> bool {
        !self.is_idle()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let pause = self.items.get(&self.written).and_then(|item| match &item.stage {
            Stage::Full(_, until) => Some(*until),
            Stage::Packed(..) | Stage::Unpacking | Stage::Plain(_) | Stage::Writing(..) => None,
        });
        let waits = self.again || !self.fresh.is_empty();
        let limit = if waits { self.arrivals.opens_at() } else { None };
        [pause, limit, self.gaps.poll_timeout()].into_iter().flatten().min()
    }

    fn progress(&self) -> Progress {
        Progress { bytes: self.bytes, total: self.layout.bytes() }
    }

    fn staged(&mut self) -> Option<Staged> {
        None
    }
}
