//! The receiving side that writes in order: a stream, or one file that goes into a sink that can't go back.
//!
//! ```text
//!          Offer            accept                  End, all written
//! Waiting ──────► Offered ────────► Receiving ─────────────────────► Verified
//!    │               │                  │                               │ Bye, 30 s
//!    └───────────────┴──────────────────┴──► Over ◄─────────────────────┘
//! ```
//! It decides what is believed of a chunk's header, when a chunk is unpacked and written (when its turn comes: `inflow`), when it is
//! acknowledged (after it was written out), and whether all of it was what the sender read.
//!
//! Timers: `FAREWELL` for `Bye` after `Verified` (`INTERRUPTED` once the person interrupted, `FAREWELL_APART` without a link);
//! `CHUNKS` for a file while it is the sender's turn, and nothing for a stream, which may be silent for ever; those of `inflow`;
//! [`crate::transfer::STRAGGLERS`]. Bounds: those of `inflow`.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::inflow::Inflow;
use super::work::Product;
use super::{CHUNK, Layout};
use crate::Instant;
use crate::misuse::Misuse;
use crate::session::{LinkId, SealedChunk};
use crate::transfer::hashes::Hash;
use crate::transfer::job::{self, Job, JobDone};
use crate::transfer::limit::Limit;
use crate::transfer::manifest::Manifest;
use crate::transfer::receiver::{CHUNKS, Config, FAREWELL, FAREWELL_APART, INTERRUPTED};
use crate::transfer::sender::of_this;
use crate::transfer::storage::{Fault, FaultKind, StreamSink};
use crate::transfer::{FIRST, Jobs, Judged, Outcome, Progress, cancel_reason};
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, Control, DeclineReason, Offer, Reason, TransferKind};
use crate::wire::{Capped, Untrusted};

/// What the owner of a receiver hears.
#[derive(Debug, Clone)]
pub enum Event {
    /// A stream is offered: answer with [`Receiver::accept`] or [`Receiver::decline`].
    Offered,
    /// A chunk record was opened, or can't be.
    Record(Judged),
    /// It is over. The last event, once. After [`Outcome::Complete`] the machine stays for the other side's farewell.
    Over(Outcome),
}

/// See the module's text.
pub struct Receiver {
    config: Config,
    limit: Option<Limit>,
    state: State,
    jobs: Jobs,
    control: VecDeque<Control>,
    events: VecDeque<Event>,
    /// When the sender was last heard or given something to do; `None`: there is no link.
    heard: Option<Instant>,
}

enum State {
    /// For an offer.
    Waiting,
    /// For the person's answer.
    Offered(Layout),
    /// Chunks come in.
    Receiving(Box<Inflow>),
    /// All is written out; the other side may still ask for the confirmation. `hurried`: this side's person wants to
    /// go.
    Verified { until: Option<Instant>, hurried: bool, progress: Progress },
    /// Nothing more is done.
    Over { progress: Progress },
}

impl Receiver {
    /// Waits for the offer of a stream.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            limit: None,
            state: State::Waiting,
            jobs: Jobs::default(),
            control: VecDeque::new(),
            events: VecDeque::new(),
            heard: None,
        }
    }

    /// Was offered this in the ordinary way, and has to answer: it is one file.
    ///
    /// # Errors
    /// It is anything else.
    pub fn of_file(now: Instant, config: Config, manifest: Arc<Manifest>) -> Result<Self, Misuse> {
        let totals = manifest.totals();
        if totals.entries != 1 || totals.files != 1 {
            return Err(Misuse::NotOneFile);
        }
        let state = State::Offered(Layout::File(manifest));
        Ok(Self { state, heard: Some(now), ..Self::new(config) })
    }

    /// With a rate for what is acknowledged, in bytes a second of what the other side seals.
    #[must_use]
    pub fn with_limit(self, rate: Option<NonZeroU64>) -> Self {
        Self { limit: rate.map(Limit::new), ..self }
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

    /// A chunk, as it came.
    pub fn handle_chunk(&mut self, now: Instant, chunk: SealedChunk) {
        self.heard = Some(now);
        match &mut self.state {
            State::Receiving(inflow) => {
                if let Err(violation) = inflow.take(chunk) {
                    self.violated(now, violation);
                }
            }
            // It was sent twice, over two links, and the second copy was slow.
            State::Verified { .. } | State::Over { .. } => {}
            State::Waiting | State::Offered(_) => self.violated(now, Violation::UnexpectedMessage),
        }
    }

    /// A link died: what came on it and was not acknowledged will come again.
    pub fn handle_link_lost(&mut self, now: Instant, link: LinkId) {
        self.heard = None;
        match &mut self.state {
            State::Receiving(inflow) => inflow.lose(link),
            State::Verified { until, hurried: false, .. } => *until = now.checked_add(FAREWELL_APART),
            State::Waiting | State::Offered(_) | State::Verified { .. } | State::Over { .. } => {}
        }
    }

    /// One of several links is gone: what came on it and was not acknowledged will come again, once what is stored was said.
    pub fn handle_link_dropped(&mut self, link: LinkId) {
        if let State::Receiving(inflow) = &mut self.state {
            inflow.lose(link);
            inflow.repeat();
        }
    }

    /// This process stood still: what did not come meanwhile is not late.
    pub fn handle_pause(&mut self, now: Instant) {
        self.heard = self.heard.map(|_| now);
    }

    /// A link is up: acknowledgements that went down with another one are said again.
    pub fn handle_link_up(&mut self, now: Instant) {
        self.heard = Some(now);
        match &mut self.state {
            State::Receiving(inflow) => inflow.repeat(),
            State::Verified { until, hurried: false, .. } => *until = now.checked_add(FAREWELL),
            State::Waiting | State::Offered(_) | State::Verified { .. } | State::Over { .. } => {}
        }
    }

    /// A job was done.
    pub fn handle_job(&mut self, now: Instant, done: JobDone) {
        let JobDone { id, result } = done;
        if !self.jobs.answered(id) {
            return;
        }
        self.heard = self.heard.map(|_| now);
        match (result, &mut self.state) {
            // The second copy of a chunk was in a job when the last byte was written.
            (_, State::Over { .. } | State::Verified { .. }) => {}
            (Err(fault), _) => self.failed(now, fault),
            (Ok(job::Product::Stream(product)), State::Receiving(inflow)) => {
                inflow.advance(now);
                let done = match product {
                    Product::Unsealed(unsealed) => inflow.unsealed(id, unsealed),
                    Product::Unpacked(chunk, plain) => inflow.unpacked(chunk, plain).map(|()| None),
                    Product::Wrote(rest) => {
                        inflow.wrote(now, rest);
                        Ok(None)
                    }
                    Product::Read(..) | Product::Packed(_) => return self.failed(now, FaultKind::Internal.into()),
                };
                match done {
                    Ok(None) => self.finish_if_whole(now),
                    Ok(Some(judged)) => {
                        if !matches!(self.events.back(), Some(Event::Record(last)) if *last == judged) {
                            self.events.push_back(Event::Record(judged));
                        }
                    }
                    Err(violation) => self.violated(now, violation),
                }
            }
            // An answer that is not to what was asked.
            (Ok(_), State::Waiting | State::Offered(_) | State::Receiving(_)) => {
                self.failed(now, FaultKind::Internal.into());
            }
        }
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.jobs.handle_timeout(now);
        if self.patience().is_some_and(|until| until <= now) {
            self.tell_cancel(CancelReason::Interrupted, "nothing came for too long");
            return self.over(now, Outcome::Stalled);
        }
        match &mut self.state {
            State::Receiving(inflow) => {
                inflow.advance(now);
                // What the sender waited for was this side's limit.
                if !inflow.is_idle() {
                    self.heard = self.heard.map(|_| now);
                }
            }
            State::Verified { until, progress, .. } if until.is_none_or(|until| until <= now) => {
                self.state = State::Over { progress: *progress };
            }
            State::Waiting | State::Offered(_) | State::Verified { .. } | State::Over { .. } => {}
        }
    }

    /// The person wants it, there.
    ///
    /// # Errors
    /// Nothing waits for an answer.
    pub fn accept(&mut self, now: Instant, sink: Arc<dyn StreamSink>) -> Result<(), Misuse> {
        let State::Offered(layout) = &self.state else { return Err(Misuse::NothingOffered) };
        let inflow = Inflow::new(layout.clone(), sink, self.limit);
        let credit = inflow.credit();
        self.control.push_back(Control::Accept { transfer: FIRST, have: Capped::default(), credit });
        self.heard = self.heard.map(|_| now);
        self.state = State::Receiving(Box::new(inflow));
        Ok(())
    }

    /// The person does not want it.
    ///
    /// # Errors
    /// Nothing waits for an answer.
    pub fn decline(&mut self, now: Instant, reason: DeclineReason, text: &str) -> Result<(), Misuse> {
        if !matches!(self.state, State::Offered(_)) {
            return Err(Misuse::NothingOffered);
        }
        self.control.clear();
        self.control.push_back(Control::Decline { transfer: FIRST, reason, text: Reason::new(text) });
        self.over(now, Outcome::Declined { reason, text: Untrusted::new(text.to_owned()) });
        Ok(())
    }

    /// This side ends it, and tells the other. When all is done already it only shortens the farewell.
    pub fn cancel(&mut self, now: Instant, reason: CancelReason, text: &str) {
        match &mut self.state {
            State::Over { .. } => {}
            State::Verified { until, hurried, .. } => {
                (*until, *hurried) = ((*until).min(now.checked_add(INTERRUPTED)), true);
            }
            State::Waiting | State::Offered(_) | State::Receiving(_) => {
                self.tell_cancel(reason, text);
                self.over(now, Outcome::Cancelled(reason));
            }
        }
    }

    /// The session is over, and nothing can be said any more.
    pub fn abandon(&mut self, now: Instant) {
        match &self.state {
            // What it has to say about its end still leaves.
            State::Over { .. } => {}
            State::Verified { progress, .. } => {
                self.control.clear();
                self.state = State::Over { progress: *progress };
            }
            State::Waiting | State::Offered(_) | State::Receiving(_) => {
                self.control.clear();
                self.over(now, Outcome::Lost);
            }
        }
    }

    /// The next message to the other side; to be asked only when the session has room for it.
    #[must_use]
    pub fn poll_control(&mut self) -> Option<Control> {
        self.control.pop_front().or_else(|| match &mut self.state {
            State::Receiving(inflow) => inflow.poll_ack(),
            State::Waiting | State::Offered(_) | State::Verified { .. } | State::Over { .. } => None,
        })
    }

    /// The next piece of work.
    #[must_use]
    pub fn poll_job(&mut self) -> Option<Job> {
        let State::Receiving(inflow) = &mut self.state else { return None };
        let (work, held) = inflow.next_job(self.config.cores)?;
        let job = self.jobs.start(job::Work::Stream(work));
        if let Some(held) = held {
            inflow.unsealing(job.id, held);
        }
        Some(job)
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
            State::Verified { until, .. } => *until,
            State::Receiving(inflow) => inflow.poll_timeout(),
            State::Waiting | State::Offered(_) | State::Over { .. } => None,
        };
        [own, self.patience(), self.jobs.poll_timeout()].into_iter().flatten().min()
    }

    /// How far it is: what was written out.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match &self.state {
            State::Waiting => Progress::default(),
            State::Offered(layout) => Progress { bytes: 0, total: layout.bytes() },
            State::Receiving(inflow) => inflow.progress(),
            State::Verified { progress, .. } | State::Over { progress } => *progress,
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
        matches!(self.state, State::Over { .. }) && self.control.is_empty() && self.is_idle()
    }

    fn hear(&mut self, now: Instant, message: Control) -> Result<(), Violation> {
        if !matches!(message, Control::Sync | Control::KeepAlive { .. } | Control::Bind { .. }) {
            self.heard = Some(now);
        }
        match (message, &mut self.state) {
            (Control::Bye, State::Verified { progress, .. }) => {
                self.state = State::Over { progress: *progress };
            }
            // The other side did not hear of the confirmation, and gave up: here everything is written out.
            (Control::Cancel { transfer, .. }, State::Verified { progress, .. }) => {
                of_this(transfer, true)?;
                self.state = State::Over { progress: *progress };
            }
            (Control::Cancel { transfer, reason, text }, _) => {
                of_this(transfer, true)?;
                let text = text.text().clone();
                self.control.clear();
                self.over(now, Outcome::PeerCancelled { reason, text });
            }
            (Control::Offer(offer), State::Waiting) => {
                let Offer { transfer, kind, chunk_size, entries, bytes, pages } = offer;
                of_this(transfer, false)?;
                let is_empty = (entries, bytes, pages) == (0, 0, 0);
                if kind != TransferKind::Stream || chunk_size == 0 || chunk_size > CHUNK || !is_empty {
                    return Err(Violation::BadOffer);
                }
                self.state = State::Offered(Layout::Stream { longest: chunk_size });
                self.events.push_back(Event::Offered);
            }
            (Control::End { transfer, chunks, moved, root }, State::Receiving(inflow)) => {
                of_this(transfer, false)?;
                inflow.end(chunks, moved, root)?;
                self.finish_if_whole(now);
            }
            // The session's own.
            (Control::Sync | Control::KeepAlive { .. } | Control::Bind { .. }, _) => {}
            (
                Control::Offer(_)
                | Control::Page { .. }
                | Control::Accept { .. }
                | Control::Decline { .. }
                | Control::Ack { .. }
                | Control::End { .. }
                | Control::Verified { .. }
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

    /// Until when the sender of a file has to be heard.
    fn patience(&self) -> Option<Instant> {
        match &self.state {
            State::Receiving(inflow) if inflow.is_file() && inflow.is_idle() => self.heard?.checked_add(CHUNKS),
            State::Waiting | State::Offered(_) | State::Receiving(_) | State::Verified { .. } | State::Over { .. } => {
                None
            }
        }
    }

    fn finish_if_whole(&mut self, now: Instant) {
        let State::Receiving(inflow) = &mut self.state else { return };
        let Some((own, root)) = inflow.roots() else { return };
        if !bool::from(own.ct_eq(&root)) {
            return self.violated(now, Violation::WrongRoot);
        }
        self.complete(now, root);
    }

    fn complete(&mut self, now: Instant, root: Hash) {
        let Progress { bytes, .. } = self.progress();
        self.control.push_back(Control::Verified { transfer: FIRST, root });
        self.state = State::Verified {
            until: now.checked_add(FAREWELL),
            hurried: false,
            progress: Progress { bytes, total: bytes },
        };
        self.events.push_back(Event::Over(Outcome::Complete { root }));
    }

    fn violated(&mut self, now: Instant, violation: Violation) {
        // Everything is written out already, whatever the other side says now.
        if matches!(self.state, State::Verified { .. }) {
            return self.abandon(now);
        }
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
        let transfer = if matches!(self.state, State::Waiting) { 0 } else { FIRST };
        self.control.push_back(Control::Cancel { transfer, reason, text: Reason::new(text) });
    }

    fn over(&mut self, now: Instant, outcome: Outcome) {
        let progress = self.progress();
        self.state = State::Over { progress };
        self.jobs.end(now);
        self.events.push_back(Event::Over(outcome));
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Waiting => "waiting",
            State::Offered(_) => "offered",
            State::Receiving(_) => "receiving",
            State::Verified { .. } => "verified",
            State::Over { .. } => "over",
        };
        f.debug_struct("stream::Receiver")
            .field("state", &state)
            .field("jobs", &self.jobs.out.len())
            .finish_non_exhaustive()
    }
}
