//! The sending side of a transfer: scans, offers, sends chunks within a window, and waits for the proof that all is in place.
//!
//! ```text
//!            scanned            begin            Accept             Verified
//! Scanning ──────────► Scanned ───────► Offered ────────► Sending ──────────► Over (Bye)
//!     └───────────────────┴────────────────┴─────────────────┴─► Over: declined, cancelled, failed, violation, lost
//! ```
//! It decides which chunk is made next and when (the lowest first, those that were lost before new ones), how much is under way
//! (`window`), and what of the other side's words is believed: a receiver can only accept, acknowledge chunks that were
//! sent or that it has from before (held against our own bytes first: `check`), and name the root. It can't ask for anything that
//! was not offered.
//!
//! Timers: [`super::STRAGGLERS`] for jobs that are out at the end. The wait for an answer and for `Verified` has no deadline of its
//! own: a person and a disk take as long as they take, and the session ends when the peer is no more heard.
//! Bounds: jobs out, twice the cores and 16 MiB; chunks made and not fetched, [`READY`] and 16 MiB; chunks sent and not
//! acknowledged, the window; [`STALE`] acknowledgements without news.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::check::{Check, Checking, Verdict};
use super::chunk::{Coders, HEADER, Made, Prepare};
use super::hashes::{AHEAD, Claim, Hash, Hashes};
use super::manifest::{Manifest, ManifestBuilder};
use super::ranges::{self, RangeSet};
use super::window::{Window, cost};
use super::{Compression, FIRST, IN_JOBS, Jobs, Outcome, Progress, cancel_reason};
use crate::Instant;
use crate::job::{Fault, FaultKind, Job, JobDone, JobId, Product, Source, Work};
use crate::seed::Seed;
use crate::session::{Prepared, Violation};
use crate::wire::Blob;
use crate::wire::peer::{CancelReason, ChunkRange, Control, Have, Offer, Reason, TransferKind};

/// The most chunks that are made, or being made, and were not fetched.
pub const READY: usize = 64;
/// The most acknowledgements in a row that tell nothing new.
pub const STALE: u32 = 1000;
/// What a frame has beside a chunk's plaintext, in bytes, at most.
const FRAMING: usize = 64;

/// How to send.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Worker threads that heavy work may use; 0 counts as 1.
    pub cores: usize,
    /// Per chunk.
    pub compression: Compression,
}

/// What the owner of a sender hears.
#[derive(Debug, Clone)]
pub enum Event {
    /// The source was looked through.
    Scanned(Arc<Manifest>),
    /// The receiver wants it; bytes move.
    Accepted,
    /// The receiver has something from before, and is right about so much of it.
    Resumed {
        /// In bytes of the files.
        bytes: u64,
    },
    /// It is over. The last event, once.
    Over(Outcome),
}

/// See the module's text.
pub struct Sender {
    config: Config,
    source: Arc<dyn Source>,
    coders: Arc<Coders>,
    state: State,
    jobs: Jobs,
    control: VecDeque<Control>,
    events: VecDeque<Event>,
    /// An offer was fetched, so that the other side knows of the transfer.
    offered: bool,
}

enum State {
    /// Looking through the source, page by page; the job that is out has the builder.
    Scanning { builder: Option<Box<ManifestBuilder>>, page: u32, begun: bool },
    /// Waiting for [`Sender::begin`].
    Scanned { manifest: Arc<Manifest> },
    /// The offer's pages go out, and an answer may come at any time.
    Offered { manifest: Arc<Manifest>, page: u32 },
    /// Accepted.
    Sending(Box<Sending>),
    /// Nothing more is done.
    Over { unconfirmed: bool, progress: Progress },
}

struct Sending {
    manifest: Arc<Manifest>,
    window: Window,
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
    making: BTreeMap<JobId, u64>,
    ready: VecDeque<Made>,
    ready_bytes: u64,
    /// Sent and not acknowledged: cost and length.
    under_way: BTreeMap<u64, (u64, usize)>,
    /// Sent at least once.
    sent: RangeSet,
    acknowledged: RangeSet,
    acknowledged_bytes: u64,
    hashes: Hashes,
    /// The root, once `End` was said.
    end: Option<Hash>,
    stale: u32,
    credit: u32,
}

impl Sender {
    /// Begins to look through the source.
    #[must_use]
    pub fn new(config: Config, source: Arc<dyn Source>, seed: &Seed) -> Self {
        let builder = Some(Box::new(ManifestBuilder::new(TransferKind::Files, seed)));
        Self {
            config,
            source,
            coders: Arc::default(),
            state: State::Scanning { builder, page: 0, begun: false },
            jobs: Jobs::default(),
            control: VecDeque::new(),
            events: VecDeque::new(),
            offered: false,
        }
    }

    /// The session is keyed and the person agreed: the offer goes out as soon as the source was looked through.
    pub fn begin(&mut self, _now: Instant) {
        match &mut self.state {
            State::Scanning { begun, .. } => *begun = true,
            State::Scanned { manifest } => {
                let manifest = Arc::clone(manifest);
                self.offer(manifest);
            }
            State::Offered { .. } | State::Sending(_) | State::Over { .. } => {}
        }
    }

    /// What the other side says.
    pub fn handle_control(&mut self, now: Instant, message: Control) {
        if matches!(self.state, State::Over { .. }) {
            return;
        }
        if let Err(violation) = self.hear(now, message) {
            self.violated(now, violation);
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
            (Ok(Product::Page(scanned)), State::Scanning { builder, page, .. }) => {
                *builder = Some(scanned);
                *page = page.saturating_add(1);
            }
            (Ok(Product::Scanned(manifest)), State::Scanning { begun, .. }) => {
                let begun = *begun;
                self.events.push_back(Event::Scanned(Arc::clone(&manifest)));
                self.state = State::Scanned { manifest };
                if begun {
                    self.begin(now);
                }
            }
            (Ok(Product::Made(made)), State::Sending(sending)) => {
                if let Err(fault) = sending.made(id, *made) {
                    self.failed(now, fault);
                }
            }
            (Ok(Product::Checked(checked)), State::Sending(sending)) => {
                sending.checking.checked(id, checked);
                while let Some(message) = sending.poll_checked() {
                    self.control.push_back(message);
                    if sending.checking.is_done() {
                        let (_, bytes) = sending.confirmed;
                        self.events.push_back(Event::Resumed { bytes });
                    }
                }
            }
            // An answer that is not to what was asked.
            (
                Ok(
                    Product::Page(_)
                    | Product::Scanned(_)
                    | Product::Made(_)
                    | Product::Checked(_)
                    | Product::Opened(_)
                    | Product::Recalled(_)
                    | Product::Begun(_)
                    | Product::Committed
                    | Product::Synced
                    | Product::Finished(_)
                    | Product::Abandoned
                    | Product::Suspended,
                ),
                State::Scanning { .. } | State::Scanned { .. } | State::Offered { .. } | State::Sending(_),
            ) => self.failed(now, FaultKind::Internal.into()),
        }
    }

    /// A link died: of these chunks, those that are not acknowledged are made again.
    pub fn handle_link_lost(&mut self, _now: Instant, chunks: impl IntoIterator<Item = u64>) {
        if let State::Sending(sending) = &mut self.state {
            sending.stale = 0;
            for chunk in chunks {
                if let Some((cost, _)) = sending.under_way.remove(&chunk) {
                    sending.window.release(cost);
                    sending.again.insert(chunk);
                }
            }
        }
    }

    /// The only link died: all chunks that are not acknowledged are made again.
    pub fn handle_all_lost(&mut self, now: Instant) {
        if let State::Sending(sending) = &self.state {
            let chunks: Vec<_> = sending.under_way.keys().copied().collect();
            self.handle_link_lost(now, chunks);
        }
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.jobs.handle_timeout(now);
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
            State::Offered { manifest, page } => {
                let encoded = manifest.encoded_page(*page)?.clone();
                *page = page.saturating_add(1);
                Some(Control::Page { transfer: FIRST, page: Blob(encoded) })
            }
            State::Sending(sending) => sending.end(),
            State::Scanning { .. } | State::Scanned { .. } | State::Over { .. } => None,
        }
    }

    /// The next chunk to be sealed, with its number; it is under way from now on.
    #[must_use]
    pub fn poll_chunk(&mut self) -> Option<(u64, Prepared)> {
        match &mut self.state {
            State::Sending(sending) => sending.fetch(),
            State::Scanning { .. } | State::Scanned { .. } | State::Offered { .. } | State::Over { .. } => None,
        }
    }

    /// The next piece of work.
    #[must_use]
    pub fn poll_job(&mut self) -> Option<Job> {
        match &mut self.state {
            State::Scanning { builder, page, .. } => {
                let builder = builder.take()?;
                let source = Arc::clone(&self.source);
                Some(self.jobs.start(Work::Scan { source, builder, page: *page }))
            }
            State::Sending(sending) => {
                if sending.checking.jobs() == 0
                    && let Some(check) = sending.next_to_check(self.config.cores, &self.source)
                {
                    let job = self.jobs.start(Work::Check(check));
                    sending.checking.started(job.id);
                    return Some(job);
                }
                let Some(chunk) = sending.next_to_make(self.config.cores) else {
                    let check = sending.next_to_check(self.config.cores, &self.source)?;
                    let job = self.jobs.start(Work::Check(check));
                    sending.checking.started(job.id);
                    return Some(job);
                };
                let job = self.jobs.start(Work::Prepare(Prepare {
                    source: Arc::clone(&self.source),
                    manifest: Arc::clone(&sending.manifest),
                    coders: Arc::clone(&self.coders),
                    compression: self.config.compression,
                    transfer: FIRST,
                    chunk,
                }));
                sending.making.insert(job.id, chunk);
                Some(job)
            }
            State::Scanned { .. } | State::Offered { .. } | State::Over { .. } => None,
        }
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.jobs.poll_timeout()
    }

    /// How far it is: what the receiver acknowledged.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match &self.state {
            State::Scanned { manifest } | State::Offered { manifest, .. } => {
                Progress { bytes: 0, total: manifest.totals().bytes }
            }
            State::Sending(sending) => {
                Progress { bytes: sending.acknowledged_bytes, total: sending.manifest.totals().bytes }
            }
            State::Scanning { .. } => Progress::default(),
            State::Over { progress, .. } => *progress,
        }
    }

    /// Whether the source was looked through.
    #[must_use]
    pub const fn is_scanned(&self) -> bool {
        match self.state {
            State::Scanning { .. } | State::Over { .. } => false,
            State::Scanned { .. } | State::Offered { .. } | State::Sending(_) => true,
        }
    }

    /// Whether everything was sent and the confirmation is what is missing.
    #[must_use]
    pub const fn is_unconfirmed(&self) -> bool {
        match &self.state {
            State::Sending(sending) => sending.end.is_some(),
            State::Over { unconfirmed, .. } => *unconfirmed,
            State::Scanning { .. } | State::Scanned { .. } | State::Offered { .. } => false,
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

    fn offer(&mut self, manifest: Arc<Manifest>) {
        let totals = manifest.totals();
        self.control.push_back(Control::Offer(Offer {
            transfer: FIRST,
            kind: TransferKind::Files,
            chunk_size: manifest.chunk_size(),
            entries: totals.entries,
            bytes: totals.bytes,
            pages: manifest.pages(),
        }));
        self.state = State::Offered { manifest, page: 0 };
    }

    fn hear(&mut self, now: Instant, message: Control) -> Result<(), Violation> {
        match (message, &mut self.state) {
            (Control::Cancel { transfer, reason, text }, _) => {
                of_this(transfer, true)?;
                let text = text.text().clone();
                self.over(now, Outcome::PeerCancelled { reason, text });
            }
            (Control::Accept { transfer, have, credit }, State::Offered { manifest, page })
                if self.offered && *page == manifest.pages() =>
            {
                of_this(transfer, false)?;
                ranges::check_have(have.as_slice(), manifest.chunks())?;
                let sending = Sending::new(Arc::clone(manifest), credit, have.as_slice());
                self.state = State::Sending(Box::new(sending));
                self.events.push_back(Event::Accepted);
            }
            (Control::Decline { transfer, reason, text }, State::Offered { .. }) if self.offered => {
                of_this(transfer, false)?;
                let text = text.text().clone();
                self.over(now, Outcome::Declined { reason, text });
            }
            (Control::Ack { transfer, ranges, credit }, State::Sending(sending)) => {
                of_this(transfer, false)?;
                sending.acknowledge(ranges.as_slice(), credit)?;
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
                | Control::Bye,
                _,
            ) => return Err(Violation::UnexpectedMessage),
        }
        Ok(())
    }

    fn violated(&mut self, now: Instant, violation: Violation) {
        self.tell_cancel(CancelReason::Violation, "");
        self.over(now, Outcome::Violation(violation));
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
            Outcome::Complete { .. } => progress.bytes = progress.total,
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
    fn new(manifest: Arc<Manifest>, credit: u32, have: &[Have]) -> Self {
        let most = cost((manifest.chunk_size() as usize).saturating_add(HEADER).saturating_add(FRAMING));
        Self {
            hashes: Hashes::new(manifest.digest(), manifest.chunks()),
            window: Window::new(most, credit),
            manifest,
            most,
            checking: Checking::new(have),
            confirmed: (0, 0),
            next: 0,
            again: BTreeSet::new(),
            differing: VecDeque::new(),
            making: BTreeMap::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            under_way: BTreeMap::new(),
            sent: RangeSet::default(),
            acknowledged: RangeSet::default(),
            acknowledged_bytes: 0,
            end: None,
            stale: 0,
            credit,
        }
    }

    /// The chunk for the next job, if there is one to make and room for it.
    fn next_to_make(&mut self, cores: usize) -> Option<u64> {
        let size = u64::from(self.manifest.chunk_size());
        let jobs = self.making.len().saturating_add(self.checking.jobs());
        let in_jobs = (jobs as u64).saturating_add(1).saturating_mul(size);
        if jobs >= cores.max(1).saturating_mul(2)
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
        if !self.window.reserve(self.most) {
            return None;
        }
        if again.is_some() {
            self.again.remove(&chunk);
        } else if let Some(range) = self.differing.front_mut() {
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
    fn next_to_check(&mut self, cores: usize, source: &Arc<dyn Source>) -> Option<Check> {
        let jobs = self.making.len().saturating_add(self.checking.jobs());
        let bytes = (jobs as u64).saturating_add(1).saturating_mul(self.manifest.chunk_size().into());
        let is_full = jobs >= cores.max(1).saturating_mul(2) || bytes > IN_JOBS;
        if is_full { None } else { self.checking.next(cores, source, &self.manifest) }
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

    fn made(&mut self, id: JobId, made: Made) -> Result<(), Fault> {
        self.making.remove(&id);
        match self.hashes.claim(made.chunk, &made.hash) {
            Claim::New | Claim::Kept | Claim::Again => {}
            // It was sent before, and the file is not what it was then.
            Claim::Changed => return Err(FaultKind::Changed.into()),
            Claim::Beyond => return Err(FaultKind::Internal.into()),
        }
        if self.acknowledged.contains(made.chunk) {
            self.window.release(self.most);
            return Ok(());
        }
        let cost = cost(made.prepared.wire_len());
        self.window.release(self.most.saturating_sub(cost));
        self.ready_bytes = self.ready_bytes.saturating_add(made.prepared.wire_len() as u64);
        self.ready.push_back(made);
        Ok(())
    }

    fn fetch(&mut self) -> Option<(u64, Prepared)> {
        loop {
            let Made { chunk, plain, prepared, .. } = self.ready.pop_front()?;
            let cost = cost(prepared.wire_len());
            self.ready_bytes = self.ready_bytes.saturating_sub(prepared.wire_len() as u64);
            if self.acknowledged.contains(chunk) {
                self.window.release(cost);
                continue;
            }
            self.under_way.insert(chunk, (cost, plain));
            self.sent.insert(chunk);
            return Some((chunk, prepared));
        }
    }

    fn acknowledge(&mut self, acknowledged: &[ChunkRange], credit: u32) -> Result<(), Violation> {
        ranges::check(acknowledged, self.manifest.chunks())?;
        if !acknowledged.iter().all(|range| self.sent.covers(*range)) {
            return Err(Violation::BadRanges);
        }
        let mut news = credit != self.credit;
        for range in acknowledged {
            let known: Vec<_> = self.under_way.range(range.first..=range.last).map(|(chunk, _)| *chunk).collect();
            let lost: Vec<_> = self.again.range(range.first..=range.last).copied().collect();
            news |= !known.is_empty() || !lost.is_empty();
            for chunk in known {
                if let Some((cost, plain)) = self.under_way.remove(&chunk) {
                    self.window.acknowledge(cost);
                    self.stored(chunk, plain);
                }
            }
            for chunk in lost {
                self.again.remove(&chunk);
                let plain = self.manifest.chunk_len(chunk).unwrap_or_default();
                self.stored(chunk, plain);
            }
            // Those that are being made again: their place is released when the job is done or the chunk is fetched.
            let making = self.making.values().copied();
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

    fn stored(&mut self, chunk: u64, plain: usize) {
        if self.acknowledged.insert(chunk) {
            self.acknowledged_bytes = self.acknowledged_bytes.saturating_add(plain as u64);
        }
    }

    /// `End`, once every chunk was sent.
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
}

/// A message is about this transfer, or (only a cancellation) about none yet.
pub(super) const fn of_this(transfer: u32, or_none: bool) -> Result<(), Violation> {
    if transfer == FIRST || (or_none && transfer == 0) { Ok(()) } else { Err(Violation::WrongTransfer) }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Scanning { .. } => "scanning",
            State::Scanned { .. } => "scanned",
            State::Offered { .. } => "offered",
            State::Sending(_) => "sending",
            State::Over { .. } => "over",
        };
        f.debug_struct("Sender").field("state", &state).field("jobs", &self.jobs.out.len()).finish_non_exhaustive()
    }
}
