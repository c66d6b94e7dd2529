//! The chunks of an accepted stream on the sender's side: what is read, what is in flight, and what is kept until the
//! receiver has written it.
//!
//! ```text
//! (source) ──► filling ──► waiting ──► packing ──► packed ──► in flight ──► acknowledged, and forgotten
//!                             ▲                                   │
//!                             └────────── lost with a link ───────┘
//! ```
//! It decides when the source is read (not before the offer was accepted), when a chunk is cut (when it is full,
//! [`PARTIAL`] old, or the last one, and there is room), and which chunk is sent next: the lowest one, again after a
//! link was lost. The source is never read twice for the same bytes.
//!
//! Timers: [`PARTIAL`], as the wait of the job that reads; [`PAUSE`] after a source that had nothing; that of the
//! rate limit. A source may be silent without limit. Bounds: [`AHEAD`] chunks that are not acknowledged, or fewer if
//! the window is smaller, and the one that is being filled; running jobs: one that reads and twice the cores; `STALE`
//! acknowledgements that acknowledge nothing new.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::work::{Pack, Product, Read, Tail, Work};
use super::{AHEAD, CHUNK, PARTIAL, PAUSE, Root, WAIT};
use crate::Instant;
use crate::session::{LinkId, Prepared};
use crate::transfer::body::{ChunkSource, Lost};
use crate::transfer::chunk::{Coders, HEADER, Made};
use crate::transfer::differences::Differences;
use crate::transfer::exchange::{Exchange, Stop};
use crate::transfer::hashes::Hash;
use crate::transfer::limit::Limit;
use crate::transfer::storage::{FaultKind, StreamSource};
use crate::transfer::window::{FRAMING, Window, cost};
use crate::transfer::{Compression, FIRST, Progress, job, ranges, storage};
use crate::wire::Violation;
use crate::wire::peer::{ChunkRange, Control};

/// The chunks of an accepted stream on the sender's side.
pub struct Outgoing {
    source: Arc<dyn StreamSource>,
    coders: Arc<Coders>,
    compression: Compression,
    input: Input,
    window: Window,
    /// How many chunks were cut.
    next: u64,
    /// The chunks that are not acknowledged.
    chunks: BTreeMap<u64, Chunk>,
    bytes: u64,
    root: Root,
    /// Hashes of chunks that the root does not contain yet.
    hashes: BTreeMap<u64, Hash>,
    limit: Option<Limit>,
    end: Option<Hash>,
}

/// The state of the source, with the chunk that is being filled.
enum Input {
    /// The next job may begin, and wait this long.
    Idle(Tail, Duration),
    /// A job is reading.
    Out,
    /// The source had nothing; the next job begins at this time.
    Paused(Tail, Instant),
    /// The source has ended.
    Ended(Tail),
}

/// A chunk that may have to be sent again.
struct Chunk {
    plain: Arc<Vec<u8>>,
    /// How much of the window it uses.
    cost: u64,
    was_sent: bool,
    stage: Stage,
}

enum Stage {
    /// Waits for a job.
    Waiting,
    /// A job is packing it.
    Packing,
    /// Waits for room on a link.
    Packed(Prepared),
    /// Taken for sending; `Some`: sealed for this link.
    UnderWay(Option<LinkId>),
}

impl Outgoing {
    /// Creates it before anything was read.
    pub fn new(source: Arc<dyn StreamSource>, compression: Compression, credit: u32, limit: Option<Limit>) -> Self {
        let most = cost((CHUNK as usize).saturating_add(HEADER).saturating_add(FRAMING));
        Self {
            source,
            coders: Arc::default(),
            compression,
            input: Input::Idle(Tail::new(), WAIT),
            window: Window::new(most, credit),
            next: 0,
            chunks: BTreeMap::new(),
            bytes: 0,
            root: Root::of_stream(),
            hashes: BTreeMap::new(),
            limit,
            end: None,
        }
    }

    /// A job has read this.
    fn read(&mut self, now: Instant, mut tail: Tail, read: storage::Read) {
        if tail.filled > 0 && tail.due.is_none() {
            tail.due = now.checked_add(PARTIAL);
        }
        self.input = match read {
            storage::Read::Bytes(_) => Input::Idle(tail, WAIT),
            storage::Read::NotYet => Input::Paused(tail, now.checked_add(PAUSE).unwrap_or(now)),
            storage::Read::End => Input::Ended(tail),
        };
    }

    /// The chunk that is filled next: this one, or a new one after a cut.
    fn cut_if_due(&mut self, tail: Tail, now: Instant) -> Tail {
        match self.cut(tail, |tail| tail.due.is_some_and(|due| due <= now)) {
            Ok(()) => Tail::new(),
            Err(tail) => tail,
        }
    }

    /// Cuts the chunk if it is time and there is room; returns it otherwise.
    fn cut(&mut self, tail: Tail, is_due: impl Fn(&Tail) -> bool) -> Result<(), Tail> {
        let is_time = tail.filled > 0 && (tail.is_full() || is_due(&tail));
        if !is_time || self.chunks.len() as u64 >= AHEAD {
            return Err(tail);
        }
        let Some(cost) = self.window.reserve_longest() else { return Err(tail) };
        let plain = Arc::new(tail.into_plain());
        self.chunks.insert(self.next, Chunk { plain, cost, was_sent: false, stage: Stage::Waiting });
        self.next = self.next.saturating_add(1);
        Ok(())
    }

    fn next_to_read(&mut self) -> Option<(Tail, Duration)> {
        match std::mem::replace(&mut self.input, Input::Out) {
            Input::Idle(tail, wait) if !tail.is_full() => Some((tail, wait)),
            input => {
                self.input = input;
                None
            }
        }
    }

    fn next_to_pack(&mut self, cores: usize) -> Option<(u64, Arc<Vec<u8>>)> {
        let jobs = self.chunks.values().filter(|chunk| matches!(chunk.stage, Stage::Packing)).count();
        if jobs >= cores.max(1).saturating_mul(2) {
            return None;
        }
        let (&number, chunk) = self.chunks.iter_mut().find(|(_, chunk)| matches!(chunk.stage, Stage::Waiting))?;
        chunk.stage = Stage::Packing;
        Some((number, Arc::clone(&chunk.plain)))
    }

    fn packed(&mut self, made: Made) {
        if made.chunk >= self.root.count {
            self.hashes.insert(made.chunk, made.hash);
            while let Some(hash) = self.hashes.remove(&self.root.count) {
                self.root.add(&hash);
            }
        }
        // A chunk that was acknowledged meanwhile is not in the table any more.
        if let Some(chunk) = self.chunks.get_mut(&made.chunk) {
            let cost = cost(made.prepared.wire_len()).min(chunk.cost);
            self.window.release(chunk.cost.saturating_sub(cost));
            chunk.cost = cost;
            chunk.stage = Stage::Packed(made.prepared);
        }
    }
}

impl ChunkSource for Outgoing {
    fn advance(&mut self, now: Instant) {
        if let Some(limit) = &mut self.limit {
            limit.advance(now);
        }
        let input = std::mem::replace(&mut self.input, Input::Out);
        self.input = match input {
            Input::Idle(tail, _) => {
                let tail = self.cut_if_due(tail, now);
                let wait = wait_for(&tail, now);
                Input::Idle(tail, wait)
            }
            Input::Paused(tail, until) => {
                let tail = self.cut_if_due(tail, now);
                let wait = wait_for(&tail, now);
                if until <= now { Input::Idle(tail, wait) } else { Input::Paused(tail, until) }
            }
            Input::Ended(tail) => match self.cut(tail, |_| true) {
                Ok(()) => Input::Ended(Tail::none()),
                Err(tail) => Input::Ended(tail),
            },
            Input::Out => Input::Out,
        };
    }

    fn handle_product(&mut self, now: Instant, product: job::Product, _exchange: &mut Exchange) -> Result<(), Stop> {
        match product {
            job::Product::Stream(Product::Read(tail, read)) => {
                self.read(now, tail, read);
                self.advance(now);
            }
            job::Product::Stream(Product::Packed(made)) => {
                self.advance(now);
                self.packed(*made);
            }
            // The result does not belong to the work of the job.
            _ => return Err(FaultKind::Internal.into()),
        }
        Ok(())
    }

    /// The receiver wrote these chunks: always all from the first one on.
    fn acknowledge(&mut self, now: Instant, acknowledged: &[ChunkRange], credit: u32) -> Result<(), Violation> {
        ranges::check(acknowledged, self.next)?;
        let mut news = false;
        if let Some(ChunkRange { first, last }) = acknowledged.first() {
            let own = || self.chunks.range(..=last).all(|(_, chunk)| chunk.was_sent);
            if *first != 0 || acknowledged.len() != 1 || !own() {
                return Err(Violation::BadRanges);
            }
            while let Some(chunk) = self.chunks.first_entry().filter(|chunk| chunk.key() <= last) {
                let chunk = chunk.remove();
                news = true;
                self.window.acknowledge(chunk.cost);
                self.bytes = self.bytes.saturating_add(chunk.plain.len() as u64);
            }
        }
        self.window.handle_ack(credit, news)?;
        self.advance(now);
        Ok(())
    }

    fn handle_sealed(&mut self, chunk: u64, link: LinkId) {
        if let Some(chunk) = self.chunks.get_mut(&chunk)
            && let Stage::UnderWay(on) = &mut chunk.stage
        {
            *on = Some(link);
        }
    }

    fn lose(&mut self, lost: Lost) {
        self.window.handle_lost();
        for chunk in self.chunks.values_mut() {
            if matches!(chunk.stage, Stage::UnderWay(link) if lost.includes(link)) {
                chunk.stage = Stage::Waiting;
            }
        }
    }

    fn under_way(&self, link: LinkId) -> u64 {
        let on_it = self.chunks.values().filter(|chunk| matches!(chunk.stage, Stage::UnderWay(Some(on)) if on == link));
        on_it.fold(0, |sum, chunk| sum.saturating_add(chunk.cost))
    }

    fn next_job(&mut self, cores: usize) -> Option<job::Work> {
        if let Some((tail, wait)) = self.next_to_read() {
            let source = Arc::clone(&self.source);
            return Some(job::Work::Stream(Work::Read(Read { source, tail, wait })));
        }
        let (chunk, plain) = self.next_to_pack(cores)?;
        let (coders, compression) = (Arc::clone(&self.coders), self.compression);
        Some(job::Work::Stream(Work::Pack(Pack { plain, chunk, coders, compression })))
    }

    fn fetch(&mut self) -> Option<(u64, Prepared)> {
        if self.limit.is_some_and(|limit| !limit.is_open()) {
            return None;
        }
        let (&number, chunk) = self.chunks.iter_mut().find(|(_, chunk)| matches!(chunk.stage, Stage::Packed(_)))?;
        let Stage::Packed(prepared) = std::mem::replace(&mut chunk.stage, Stage::UnderWay(None)) else { return None };
        chunk.was_sent = true;
        if let Some(limit) = &mut self.limit {
            limit.spend(prepared.wire_len() as u64);
        }
        Some((number, prepared))
    }

    fn end(&mut self, _: &mut Differences) -> Option<Control> {
        let is_all = matches!(&self.input, Input::Ended(tail) if tail.filled == 0)
            && self.root.count == self.next
            && self.chunks.values().all(|chunk| chunk.was_sent);
        if self.end.is_some() || !is_all {
            return None;
        }
        let root = self.root.finish();
        self.end = Some(root);
        Some(Control::End { transfer: FIRST, chunks: self.next, moved: self.next, root })
    }

    fn root(&self) -> Option<Hash> {
        self.end
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let pause = match &self.input {
            Input::Paused(_, until) => Some(*until),
            Input::Idle(..) | Input::Out | Input::Ended(_) => None,
        };
        let waits = self.chunks.values().any(|chunk| matches!(chunk.stage, Stage::Packed(_)));
        let limit = self.limit.filter(|_| waits).and_then(|limit| limit.opens_at());
        [pause, limit].into_iter().flatten().min()
    }

    fn progress(&self) -> Progress {
        Progress { bytes: self.bytes, total: 0 }
    }

    fn whole(&self) -> u64 {
        self.chunks.values().fold(self.bytes, |sum, chunk| sum.saturating_add(chunk.plain.len() as u64))
    }
}

/// How long a job may wait for more bytes of the chunk.
fn wait_for(tail: &Tail, now: Instant) -> Duration {
    let left = tail.due.map_or(WAIT, |due| due.saturating_duration_since(now));
    // A chunk whose time has passed waits for room, not for bytes.
    if left.is_zero() { WAIT } else { left.min(WAIT) }
}
