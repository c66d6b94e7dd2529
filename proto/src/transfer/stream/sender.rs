//! The sending side of a stream: reads, offers, keeps every chunk until it was written out over there, and waits for the proof.
//!
//! ```text
//!        begin            Accept             Verified
//! Ready ───────► Offered ────────► Sending ───────────► Over (Bye)
//!   └───────────────┴─────────────────┴──► Over: declined, cancelled, failed, violation, lost
//! ```
//! It decides when the source is read (nothing before the offer was accepted), when a chunk is cut (it is full, or
//! [`PARTIAL`] old, or the last, and there is room), and which leaves next: the lowest, again after a link was lost. The source is never
//! asked twice for the same bytes.
//!
//! Timers: [`PARTIAL`], as the wait of the job that reads; [`PAUSE`] after a source that had nothing; the rate limit's;
//! [`crate::transfer::STRAGGLERS`]. A source may be silent for ever. Bounds: [`AHEAD`] chunks that are not acknowledged, which the
//! window may lower, and the one that is being filled; jobs out, one that reads and twice the cores; `STALE` acknowledgements without
//! news.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::work::{Pack, Product, Read, Tail, Work};
use super::{AHEAD, CHUNK, PARTIAL, PAUSE, Root, WAIT};
use crate::Instant;
use crate::session::{LinkId, Prepared};
use crate::transfer::chunk::{Coders, HEADER, Made};
use crate::transfer::hashes::Hash;
use crate::transfer::job::{self, Job, JobDone};
use crate::transfer::limit::Limit;
use crate::transfer::outgoing::STALE;
use crate::transfer::sender::{Config, of_this};
use crate::transfer::storage;
use crate::transfer::storage::{Fault, FaultKind, StreamSource};
use crate::transfer::window::{FRAMING, Window, cost};
use crate::transfer::{FIRST, Jobs, Outcome, Progress, cancel_reason, ranges};
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, ChunkRange, Control, Offer, Reason, TransferKind};

/// What the owner of a sender hears.
#[derive(Debug, Clone)]
pub enum Event {
    /// The receiver wants it; bytes move.
    Accepted,
    /// It is over. The last event, once.
    Over(Outcome),
}

/// See the module's text.
pub struct Sender {
    config: Config,
    source: Arc<dyn StreamSource>,
    coders: Arc<Coders>,
    limit: Option<Limit>,
    state: State,
    jobs: Jobs,
    control: VecDeque<Control>,
    events: VecDeque<Event>,
    /// An offer was fetched, so that the other side knows of the transfer.
    offered: bool,
}

enum State {
    /// Waiting for [`Sender::begin`].
    Ready,
    /// An answer may come at any time.
    Offered,
    /// Accepted.
    Sending(Box<Sending>),
    /// Nothing more is done.
    Over { unconfirmed: bool, progress: Progress },
}

struct Sending {
    input: Input,
    window: Window,
    credit: u32,
    /// The most that a chunk can cost.
    most: u64,
    /// How many were cut.
    next: u64,
    /// Those that are not acknowledged.
    chunks: BTreeMap<u64, Chunk>,
    bytes: u64,
    root: Root,
    /// Hashes of chunks beyond the root's.
    hashes: BTreeMap<u64, Hash>,
    limit: Option<Limit>,
    end: Option<Hash>,
    stale: u32,
}

/// The source, and the chunk that is being filled.
enum Input {
    /// The next job may begin, and wait so long.
    Idle(Tail, Duration),
    /// A job has it.
    Out,
    /// There was nothing.
    Paused(Tail, Instant),
    /// Nothing more comes.
    Ended(Tail),
}

/// A chunk that may be needed again.
struct Chunk {
    plain: Arc<Vec<u8>>,
    /// What it takes of the window.
    cost: u64,
    was_sent: bool,
    stage: Stage,
}

enum Stage {
    /// For a job.
    Waiting,
    /// In one.
    Packing,
    /// For a place on a link.
    Packed(Prepared),
    /// Fetched; sealed for this link, if it is.
    UnderWay(Option<LinkId>),
}

impl Sender {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(config: Config, source: Arc<dyn StreamSource>) -> Self {
        Self {
            config,
            source,
            coders: Arc::default(),
            limit: None,
            state: State::Ready,
            jobs: Jobs::default(),
            control: VecDeque::new(),
            events: VecDeque::new(),
            offered: false,
        }
    }

    /// With a rate for chunks, in bytes a second of what is sealed.
    #[must_use]
    pub fn with_limit(self, rate: Option<NonZeroU64>) -> Self {
        Self { limit: rate.map(Limit::new), ..self }
    }

    /// The session is keyed and the person agreed: the offer goes out.
    pub fn begin(&mut self, _now: Instant) {
        if matches!(self.state, State::Ready) {
            let offer = Offer {
                transfer: FIRST,
                kind: TransferKind::Stream,
                chunk_size: CHUNK,
                entries: 0,
                bytes: 0,
                pages: 0,
            };
            self.control.push_back(Control::Offer(offer));
            self.state = State::Offered;
        }
    }

    /// What the other side says.
    pub fn handle_control(&mut self, now: Instant, message: Control) {
        if matches!(self.state, State::Over { .. }) {
            return;
        }
        if let Err(violation) = self.hear(now, message) {
            self.tell_cancel(CancelReason::Violation, "");
            self.over(now, Outcome::Violation(violation));
        }
    }

    /// A job was done.
    pub fn handle_job(&mut self, now: Instant, done: JobDone) {
        let JobDone { id, result } = done;
        if !self.jobs.answered(id) {
            return;
        }
        match (result, &mut self.state) {
            (_, State::Over { .. }) => {}
            (Err(fault), _) => self.failed(now, fault),
            (Ok(job::Product::Stream(Product::Read(tail, read))), State::Sending(sending)) => {
                sending.read(now, tail, read);
                sending.advance(now);
            }
            (Ok(job::Product::Stream(Product::Packed(made))), State::Sending(sending)) => {
                sending.advance(now);
                sending.packed(*made);
            }
            // An answer that is not to what was asked.
            (Ok(_), State::Ready | State::Offered | State::Sending(_)) => self.failed(now, FaultKind::Internal.into()),
        }
    }

    /// The only link died: all chunks that are not acknowledged leave again.
    pub fn handle_all_lost(&mut self, _now: Instant) {
        if let State::Sending(sending) = &mut self.state {
            sending.stale = 0;
            for chunk in sending.chunks.values_mut() {
                if matches!(chunk.stage, Stage::UnderWay(_)) {
                    chunk.stage = Stage::Waiting;
                }
            }
        }
    }

    /// A chunk of [`Self::poll_chunk`] is sealed for this link.
    pub fn handle_sealed(&mut self, chunk: u64, link: LinkId) {
        if let State::Sending(sending) = &mut self.state
            && let Some(chunk) = sending.chunks.get_mut(&chunk)
            && let Stage::UnderWay(on) = &mut chunk.stage
        {
            *on = Some(link);
        }
    }

    /// What was sealed for this link and is not acknowledged, in bytes, as the window counts.
    #[must_use]
    pub fn under_way(&self, link: LinkId) -> u64 {
        let State::Sending(sending) = &self.state else { return 0 };
        let on_it =
            sending.chunks.values().filter(|chunk| matches!(chunk.stage, Stage::UnderWay(Some(on)) if on == link));
        on_it.fold(0, |sum, chunk| sum.saturating_add(chunk.cost))
    }

    /// One of several links is gone: what was sealed for it and is not acknowledged leaves again.
    pub fn handle_link_lost(&mut self, _now: Instant, link: LinkId) {
        if let State::Sending(sending) = &mut self.state {
            sending.stale = 0;
            for chunk in sending.chunks.values_mut() {
                if matches!(chunk.stage, Stage::UnderWay(Some(on)) if on == link) {
                    chunk.stage = Stage::Waiting;
                }
            }
        }
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.jobs.handle_timeout(now);
        if let State::Sending(sending) = &mut self.state {
            sending.advance(now);
        }
    }

    /// This side ends it, and tells the other.
    pub fn cancel(&mut self, now: Instant, reason: CancelReason, text: &str) {
        if !matches!(self.state, State::Over { .. }) {
            self.tell_cancel(reason, text);
            self.over(now, Outcome::Cancelled(reason));
        }
    }

    /// The session is over, and nothing can be said any more.
    pub fn abandon(&mut self, now: Instant) {
        if !matches!(self.state, State::Over { .. }) {
            self.over(now, Outcome::Lost);
        }
    }

    /// The next message to the other side; to be asked only when the session has room for it.
    #[must_use]
    pub fn poll_control(&mut self) -> Option<Control> {
        if let Some(message) = self.control.pop_front() {
            self.offered |= matches!(message, Control::Offer(_));
            return Some(message);
        }
        match &mut self.state {
            State::Sending(sending) => sending.end(),
            State::Ready | State::Offered | State::Over { .. } => None,
        }
    }

    /// The next chunk to be sealed, with its number; it is under way from now on.
    #[must_use]
    pub fn poll_chunk(&mut self) -> Option<(u64, Prepared)> {
        match &mut self.state {
            State::Sending(sending) => sending.fetch(),
            State::Ready | State::Offered | State::Over { .. } => None,
        }
    }

    /// The next piece of work.
    #[must_use]
    pub fn poll_job(&mut self) -> Option<Job> {
        let State::Sending(sending) = &mut self.state else { return None };
        if let Some((tail, wait)) = sending.next_to_read() {
            let source = Arc::clone(&self.source);
            return Some(self.jobs.start(job::Work::Stream(Work::Read(Read { source, tail, wait }))));
        }
        let (chunk, plain) = sending.next_to_pack(self.config.cores)?;
        let (coders, compression) = (Arc::clone(&self.coders), self.config.compression);
        Some(self.jobs.start(job::Work::Stream(Work::Pack(Pack { plain, chunk, coders, compression }))))
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Sending(sending) => sending.poll_timeout(),
            State::Ready | State::Offered | State::Over { .. } => None,
        };
        [own, self.jobs.poll_timeout()].into_iter().flatten().min()
    }

    /// What was written out over there; the total is known at the end.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match &self.state {
            State::Ready | State::Offered => Progress::default(),
            State::Sending(sending) => Progress { bytes: sending.bytes, total: 0 },
            State::Over { progress, .. } => *progress,
        }
    }

    /// Whether everything was sent and the confirmation is what is missing.
    #[must_use]
    pub const fn is_unconfirmed(&self) -> bool {
        match &self.state {
            State::Sending(sending) => sending.end.is_some(),
            State::Over { unconfirmed, .. } => *unconfirmed,
            State::Ready | State::Offered => false,
        }
    }

    /// Whether no job is out.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.jobs.is_idle()
    }

    /// Whether it is over, all was said, and no job is out.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Over { .. }) && self.control.is_empty() && self.jobs.is_idle()
    }

    fn hear(&mut self, now: Instant, message: Control) -> Result<(), Violation> {
        match (message, &mut self.state) {
            (Control::Cancel { transfer, reason, text }, _) => {
                of_this(transfer, true)?;
                let text = text.text().clone();
                self.over(now, Outcome::PeerCancelled { reason, text });
            }
            (Control::Accept { transfer, have, credit }, State::Offered) if self.offered => {
                of_this(transfer, false)?;
                // Nothing of a stream can be there from before.
                if !have.as_slice().is_empty() {
                    return Err(Violation::BadRanges);
                }
                self.state = State::Sending(Box::new(Sending::new(credit, self.limit)));
                self.events.push_back(Event::Accepted);
            }
            (Control::Decline { transfer, reason, text }, State::Offered) if self.offered => {
                of_this(transfer, false)?;
                let text = text.text().clone();
                self.over(now, Outcome::Declined { reason, text });
            }
            (Control::Ack { transfer, ranges, credit }, State::Sending(sending)) => {
                of_this(transfer, false)?;
                sending.acknowledge(ranges.as_slice(), credit)?;
                sending.advance(now);
            }
            (Control::Verified { transfer, root }, State::Sending(sending)) => {
                of_this(transfer, false)?;
                let own = sending.end.ok_or(Violation::UnexpectedMessage)?;
                if !bool::from(own.ct_eq(&root)) {
                    return Err(Violation::WrongRoot);
                }
                self.control.push_back(Control::Bye);
                self.over(now, Outcome::Complete { root });
            }
            // The session's own.
            (Control::Sync | Control::KeepAlive { .. } | Control::Bind { .. }, _) => {}
            (
                Control::Accept { .. }
                | Control::Decline { .. }
                | Control::Ack { .. }
                | Control::Verified { .. }
                | Control::Offer(_)
                | Control::Page { .. }
                | Control::End { .. }
                | Control::Checked { .. }
                | Control::CandidateOffer { .. }
                | Control::CandidatesDone { .. }
                | Control::DirectFailed { .. }
                | Control::DirectConnected { .. }
                | Control::Bye,
                _,
            ) => return Err(Violation::UnexpectedMessage),
        }
        Ok(())
    }

    fn failed(&mut self, now: Instant, fault: Fault) {
        let text = fault.kind.to_string();
        self.tell_cancel(cancel_reason(&fault), &text);
        self.over(now, Outcome::Failed(fault));
    }

    fn tell_cancel(&mut self, reason: CancelReason, text: &str) {
        self.control.clear();
        let transfer = if self.offered { FIRST } else { 0 };
        self.control.push_back(Control::Cancel { transfer, reason, text: Reason::new(text) });
    }

    fn over(&mut self, now: Instant, outcome: Outcome) {
        let mut progress = self.progress();
        match outcome {
            Outcome::Complete { .. } => {
                // The last acknowledgements may have been lost.
                if let State::Sending(sending) = &self.state {
                    let left = sending.chunks.values().map(|chunk| chunk.plain.len() as u64);
                    progress.bytes = left.fold(progress.bytes, u64::saturating_add);
                }
                progress.total = progress.bytes;
            }
            // Nothing is left to say.
            Outcome::Declined { .. } | Outcome::PeerCancelled { .. } | Outcome::Lost => self.control.clear(),
            Outcome::Refused(_)
            | Outcome::Cancelled(_)
            | Outcome::Failed(_)
            | Outcome::Violation(_)
            | Outcome::Stalled => {}
        }
        let unconfirmed = self.is_unconfirmed() && outcome == Outcome::Lost;
        self.state = State::Over { unconfirmed, progress };
        self.jobs.end(now);
        self.events.push_back(Event::Over(outcome));
    }
}

impl Sending {
    fn new(credit: u32, limit: Option<Limit>) -> Self {
        let most = cost((CHUNK as usize).saturating_add(HEADER).saturating_add(FRAMING));
        Self {
            input: Input::Idle(Tail::new(), WAIT),
            window: Window::new(most, credit),
            credit,
            most,
            next: 0,
            chunks: BTreeMap::new(),
            bytes: 0,
            root: Root::of_stream(),
            hashes: BTreeMap::new(),
            limit,
            end: None,
            stale: 0,
        }
    }

    /// What a job read.
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

    /// It is `now`: what is due is cut.
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

    /// What is filled next: it, or an empty one.
    fn cut_if_due(&mut self, tail: Tail, now: Instant) -> Tail {
        match self.cut(tail, |tail| tail.due.is_some_and(|due| due <= now)) {
            Ok(()) => Tail::new(),
            Err(tail) => tail,
        }
    }

    /// Makes it a chunk if it is time and there is room; else it comes back.
    fn cut(&mut self, tail: Tail, is_due: impl Fn(&Tail) -> bool) -> Result<(), Tail> {
        let is_time = tail.filled > 0 && (tail.is_full() || is_due(&tail));
        if !is_time || self.chunks.len() as u64 >= AHEAD || !self.window.reserve(self.most) {
            return Err(tail);
        }
        let plain = Arc::new(tail.into_plain());
        self.chunks.insert(self.next, Chunk { plain, cost: self.most, was_sent: false, stage: Stage::Waiting });
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
        // One that was acknowledged meanwhile is gone.
        if let Some(chunk) = self.chunks.get_mut(&made.chunk) {
            let cost = cost(made.prepared.wire_len()).min(chunk.cost);
            self.window.release(chunk.cost.saturating_sub(cost));
            chunk.cost = cost;
            chunk.stage = Stage::Packed(made.prepared);
        }
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

    /// The receiver wrote these out: always all from the first on.
    fn acknowledge(&mut self, acknowledged: &[ChunkRange], credit: u32) -> Result<(), Violation> {
        ranges::check(acknowledged, self.next)?;
        let mut news = credit != self.credit;
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
        self.credit = credit;
        self.window.set_credit(credit);
        self.stale = if news { 0 } else { self.stale.saturating_add(1) };
        if self.stale > STALE { Err(Violation::Repeats) } else { Ok(()) }
    }

    /// `End`, once the source ended and every chunk was sent.
    fn end(&mut self) -> Option<Control> {
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

    fn poll_timeout(&self) -> Option<Instant> {
        let pause = match &self.input {
            Input::Paused(_, until) => Some(*until),
            Input::Idle(..) | Input::Out | Input::Ended(_) => None,
        };
        let waits = self.chunks.values().any(|chunk| matches!(chunk.stage, Stage::Packed(_)));
        let limit = self.limit.filter(|_| waits).and_then(|limit| limit.opens_at());
        [pause, limit].into_iter().flatten().min()
    }
}

/// How long a job may wait for more of it.
fn wait_for(tail: &Tail, now: Instant) -> Duration {
    let left = tail.due.map_or(WAIT, |due| due.saturating_duration_since(now));
    // One that is late waits for room, not for bytes.
    if left.is_zero() { WAIT } else { left.min(WAIT) }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Ready => "ready",
            State::Offered => "offered",
            State::Sending(_) => "sending",
            State::Over { .. } => "over",
        };
        f.debug_struct("stream::Sender")
            .field("state", &state)
            .field("jobs", &self.jobs.out.len())
            .finish_non_exhaustive()
    }
}
