//! The sending side of a transfer: scans, offers, sends chunks within a window, and waits for the proof that all is in place.
//!
//! ```text
//!            scanned            begin            Accept             Verified
//! Scanning ──────────► Scanned ───────► Offered ────────► Sending ──────────► Over (Bye)
//!     └───────────────────┴────────────────┴─────────────────┴─► Over: declined, cancelled, failed, violation, lost
//! ```
//! It decides what is sent (`outgoing`), how much is under way (`window`), and what of the other side's words is believed: a receiver can only accept, acknowledge chunks that were
//! sent or that it has from before (held against our own bytes first: `check`), and name the root. It can't ask for anything that
//! was not offered.
//!
//! Timers: the rate limit's (`outgoing`), and [`super::STRAGGLERS`] for jobs that are out at the end. The wait for an answer and for `Verified` has no deadline of its
//! own: a person and a disk take as long as they take, and the session ends when the peer is no more heard.
//! Bounds: those of `outgoing`, and the manifest's own.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::chunk::{Coders, Prepare};
use super::limit::Limit;
use super::manifest::{Manifest, ManifestBuilder};
use super::outgoing::Outgoing;
use super::ranges;
use super::{Compression, FIRST, Jobs, Outcome, Progress, cancel_reason};
use crate::Instant;
use crate::seed::Seed;
use crate::session::{LinkId, Prepared};
use crate::transfer::job::{Job, JobDone, Product, Work};
use crate::transfer::storage::{Fault, FaultKind, Source};
use crate::wire::Blob;
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, Control, Offer, Reason, TransferKind};

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
    limit: Option<Limit>,
}

enum State {
    /// Looking through the source, page by page; the job that is out has the builder.
    Scanning { builder: Option<Box<ManifestBuilder>>, page: u32, begun: bool },
    /// Waiting for [`Sender::begin`].
    Scanned { manifest: Arc<Manifest> },
    /// The offer's pages go out, and an answer may come at any time.
    Offered { manifest: Arc<Manifest>, page: u32 },
    /// Accepted.
    Sending(Box<Outgoing>),
    /// Nothing more is done.
    Over { unconfirmed: bool, progress: Progress },
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
            limit: None,
        }
    }

    /// With a rate for chunks, in bytes a second of what is sealed.
    #[must_use]
    pub fn with_limit(self, rate: Option<NonZeroU64>) -> Self {
        Self { limit: rate.map(Limit::new), ..self }
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
        self.advance(now);
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
                        self.events.push_back(Event::Resumed { bytes: sending.confirmed_bytes() });
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
                    | Product::Suspended
                    | Product::Stream(_),
                ),
                State::Scanning { .. } | State::Scanned { .. } | State::Offered { .. } | State::Sending(_),
            ) => self.failed(now, FaultKind::Internal.into()),
        }
    }

    /// A chunk of [`Self::poll_chunk`] is sealed for this link.
    pub fn handle_sealed(&mut self, chunk: u64, link: LinkId) {
        if let State::Sending(sending) = &mut self.state {
            sending.sealed(chunk, link);
        }
    }

    /// What was sealed for this link and is not acknowledged, in bytes, as the window counts.
    #[must_use]
    pub fn under_way(&self, link: LinkId) -> u64 {
        match &self.state {
            State::Sending(sending) => sending.under_way(link),
            State::Scanning { .. } | State::Scanned { .. } | State::Offered { .. } | State::Over { .. } => 0,
        }
    }

    /// One of several links is gone, and the receiver counts no more on what came over it: it says next what it has stored.
    pub fn handle_link_lost(&mut self, _now: Instant, link: LinkId) {
        if let State::Sending(sending) = &mut self.state {
            sending.lose_link(link);
            sending.recount();
        }
    }

    /// The only link died: all chunks that are not acknowledged are made again.
    pub fn handle_all_lost(&mut self, _now: Instant) {
        if let State::Sending(sending) = &mut self.state {
            sending.lose_all();
        }
    }

    /// The session has a link again.
    pub fn handle_link_up(&mut self, _now: Instant) {
        if let State::Sending(sending) = &mut self.state {
            sending.recount();
        }
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.jobs.handle_timeout(now);
        self.advance(now);
    }

    fn advance(&mut self, now: Instant) {
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
        let limit = match &self.state {
            State::Sending(sending) => sending.poll_timeout(),
            State::Scanning { .. } | State::Scanned { .. } | State::Offered { .. } | State::Over { .. } => None,
        };
        [limit, self.jobs.poll_timeout()].into_iter().flatten().min()
    }

    /// How far it is: what the receiver acknowledged.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match &self.state {
            State::Scanned { manifest } | State::Offered { manifest, .. } => {
                Progress { bytes: 0, total: manifest.totals().bytes }
            }
            State::Sending(sending) => sending.progress(),
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
            State::Sending(sending) => sending.root().is_some(),
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
                let sending = Outgoing::new(Arc::clone(manifest), credit, have.as_slice()).with_limit(self.limit);
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
                let own = sending.root().ok_or(Violation::UnexpectedMessage)?;
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
