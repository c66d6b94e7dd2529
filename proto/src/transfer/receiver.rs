//! The receiving side of a transfer: judges the offer, asks its owner, stores chunks, and proves that all is in place.
//!
//! ```text
//!          Offer           pages            accept             begun               hashed again              End, all stored
//! Waiting ──────► Reading ──────► Offered ─────────► Beginning ──────► Recalling ──────────────► Receiving ─────────────────┐
//!    │               │               │                  │  └── nothing is here from before ──────────► │                    │
//!    └───────────────┴───────────────┴──────────────────┴──────────────────┴──────────────────────────┤      finished      ▼
//!          Over: refused, declined, cancelled, failed, violation, lost, stalled  ◄──┴── Verified ◄─────────────────── Finishing
//!                                                                       Bye, 30 s ──┘
//! ```
//! It decides whether an offer may be shown at all (every name judged, no collisions, the sums right), which chunk is taken, when
//! chunks are acknowledged (after they are in the journal: `incoming`), what is kept of an earlier try (`recall`), and when
//! everything is whole. A chunk is opened, checked and written by one job; two jobs with the same chunk are told apart under the
//! lock of its hashes, since the number stands inside the seal.
//!
//! Once everything is being put in place, the outcome is what the disk says: neither side's wish, nor a violation, nor a lost
//! link changes it any more. A transfer that ends before leaves what is stored for the next one (`ends::is_worth_keeping`).
//!
//! Timers: that of an offer (`reading`); [`CHUNKS`] while it is the sender's turn and a link is up; [`FAREWELL`] for
//! `Bye` after `Verified` ([`INTERRUPTED`] once the person interrupted); the journal's; [`super::STRAGGLERS`] for jobs that are
//! out at the end. Bounds: chunks that wait, are in jobs or were not acknowledged, [`super::CREDIT`]; jobs out, twice the cores
//! and 16 MiB; the manifest's own.

mod ends;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::hashes::Hash;
use super::incoming::Incoming;
use super::limit::Limit;
use super::manifest::{Manifest, ManifestError, Page};
use super::reading::Reading;
use super::recall::Recalling;
use super::sender::of_this;
use super::stream;
use super::{FIRST, Jobs, Judged, Outcome, Progress, cancel_reason};
use crate::Instant;
use crate::misuse::Misuse;
use crate::pool::Pool;
use crate::seed::Seed;
use crate::session::{LinkId, SealedChunk};
use crate::transfer::job::{Job, JobDone, Product, Work};
use crate::transfer::storage::{FaultKind, Sink};
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, Control, DeclineReason};
use crate::wire::{Capped, Untrusted};

/// How long `Bye` is waited for after `Verified`.
pub const FAREWELL: Duration = Duration::from_secs(30);
/// The same while there is no link: a sender that was cut off at the very end can still learn that all is well.
pub const FAREWELL_APART: Duration = Duration::from_secs(900);
/// The same, after the person interrupted.
pub const INTERRUPTED: Duration = Duration::from_secs(1);
/// How long anything of an accepted transfer is waited for: a disk of the sender may take its time.
pub const CHUNKS: Duration = Duration::from_secs(600);
/// How many entries one job puts in place.
pub const SLICE: usize = 256;
/// How to receive.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Worker threads that heavy work may use; 0 counts as 1.
    pub cores: usize,
}

/// What the owner of a receiver hears.
#[derive(Debug, Clone)]
pub enum Event {
    /// This is offered: answer with [`Receiver::accept`] or [`Receiver::decline`].
    Offered(Arc<Manifest>),
    /// Something is here from before, and is hashed again.
    Resuming,
    /// The sender has the same: so much need not be sent.
    Resumed {
        /// In bytes of the files.
        bytes: u64,
    },
    /// A chunk record was opened, or can't be.
    Record(Judged),
    /// It is over. The last event, once. After [`Outcome::Complete`] the machine stays for the other side's farewell.
    Over(Outcome),
}

/// See the module's text.
pub struct Receiver {
    config: Config,
    seed: Seed,
    state: State,
    jobs: Jobs,
    control: VecDeque<Control>,
    events: VecDeque<Event>,
    /// When the sender was last heard or given something to do; `None`: there is no link.
    heard: Option<Instant>,
    limit: Option<NonZeroU64>,
    buffers: Arc<Pool>,
}

enum State {
    /// For an offer.
    Waiting,
    /// Its pages come in.
    Reading(Box<Reading>),
    /// For the person's answer.
    Offered { manifest: Arc<Manifest> },
    /// The sink looks at it.
    Beginning { manifest: Arc<Manifest>, sink: Arc<dyn Sink>, job: Option<Work> },
    /// What is here from before is hashed again.
    Recalling(Box<Recalling>),
    /// Chunks come in.
    Receiving(Box<Incoming>),
    /// Slice by slice, everything is put in place. How long the other side's `Bye` will be waited for; `None`: it is gone.
    Finishing { sink: Arc<dyn Sink>, root: Hash, progress: Progress, next: bool, farewell: Option<Duration> },
    /// All is done; the other side may still ask for the confirmation. `hurried`: this side's person wants to go.
    Verified { until: Option<Instant>, hurried: bool, progress: Progress },
    /// Nothing more is done; what was staged is left or removed once no job is out that could write there.
    Over { last: Option<Work>, progress: Progress },
}

impl Receiver {
    /// Waits for an offer.
    #[must_use]
    pub fn new(config: Config, seed: Seed) -> Self {
        let jobs = Jobs { last: 0, out: BTreeMap::new(), patience: None };
        Self {
            config,
            seed,
            state: State::Waiting,
            jobs,
            control: VecDeque::new(),
            events: VecDeque::new(),
            heard: None,
            limit: None,
            buffers: Arc::default(),
        }
    }

    /// With the pool from which the records that arrive have their buffers.
    #[must_use]
    pub fn with_buffers(self, buffers: Arc<Pool>) -> Self {
        Self { buffers, ..self }
    }

    /// With a rate for what is acknowledged, in bytes a second of what the other side seals.
    #[must_use]
    pub fn with_limit(self, rate: Option<NonZeroU64>) -> Self {
        Self { limit: rate, ..self }
    }

    /// The machine for a stream, which is offered instead of files; `None`: something was offered before.
    #[must_use]
    pub fn to_stream(&self) -> Option<stream::receiver::Receiver> {
        let is_waiting = matches!(self.state, State::Waiting);
        is_waiting.then(|| stream::receiver::Receiver::new(self.config).with_limit(self.limit))
    }

    /// The machine that writes what was offered in order.
    ///
    /// # Errors
    /// Nothing waits for an answer, or it is not one file.
    pub fn to_file(&self, now: Instant) -> Result<stream::receiver::Receiver, Misuse> {
        let State::Offered { manifest } = &self.state else { return Err(Misuse::NothingOffered) };
        let receiver = stream::receiver::Receiver::of_file(now, self.config, Arc::clone(manifest))?;
        Ok(receiver.with_limit(self.limit))
    }

    /// What the other side says.
    pub fn handle_control(&mut self, now: Instant, message: Control) {
        if matches!(self.state, State::Over { .. }) {
            return;
        }
        match self.hear(now, message) {
            Ok(()) => {}
            Err(ManifestError::Violation(violation)) => self.violated(now, violation),
            Err(ManifestError::Refused(refused)) => self.refused(now, refused),
        }
    }

    /// A chunk, as it came.
    pub fn handle_chunk(&mut self, now: Instant, chunk: SealedChunk) {
        self.heard = Some(now);
        match &mut self.state {
            State::Receiving(receiving) => {
                if let Err(violation) = receiving.take(chunk) {
                    self.violated(now, violation);
                }
            }
            // It was sent twice, over two links, and the second copy was slow.
            State::Finishing { .. } | State::Verified { .. } | State::Over { .. } => {}
            State::Waiting
            | State::Reading(_)
            | State::Offered { .. }
            | State::Beginning { .. }
            | State::Recalling(_) => {
                self.violated(now, Violation::UnexpectedMessage);
            }
        }
    }

    /// A link died: what came on it and was not acknowledged will come again.
    pub fn handle_link_lost(&mut self, now: Instant, link: LinkId) {
        self.heard = None;
        match &mut self.state {
            State::Receiving(receiving) => receiving.lose(link),
            State::Verified { until, hurried: false, .. } => *until = now.checked_add(FAREWELL_APART),
            State::Waiting
            | State::Reading(_)
            | State::Offered { .. }
            | State::Beginning { .. }
            | State::Recalling(_)
            | State::Finishing { .. }
            | State::Verified { .. }
            | State::Over { .. } => {}
        }
    }

    /// One of several links is gone: what came on it and was not acknowledged will come again, once what is stored was said.
    pub fn handle_link_dropped(&mut self, link: LinkId) {
        if let State::Receiving(receiving) = &mut self.state {
            receiving.lose(link);
            receiving.repeat = Some(0);
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
            State::Receiving(receiving) => receiving.repeat = Some(0),
            State::Verified { until, hurried: false, .. } => *until = now.checked_add(FAREWELL),
            State::Waiting
            | State::Reading(_)
            | State::Offered { .. }
            | State::Beginning { .. }
            | State::Recalling(_)
            | State::Finishing { .. }
            | State::Verified { .. }
            | State::Over { .. } => {}
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
            (_, State::Over { .. }) => {}
            (Err(fault), State::Beginning { .. } | State::Recalling(_)) => self.begin_failed(now, fault),
            (Err(fault), _) => self.failed(now, fault),
            (Ok(Product::Begun(stored)), State::Beginning { manifest, sink, .. }) => {
                let (manifest, sink) = (Arc::clone(manifest), Arc::clone(sink));
                if stored.is_empty() {
                    self.ready(now, Incoming::new(manifest, sink, Vec::new(), &[]));
                } else {
                    self.events.push_back(Event::Resuming);
                    self.state = State::Recalling(Box::new(Recalling::new(manifest, sink, stored)));
                }
            }
            (Ok(Product::Recalled(recalled)), State::Recalling(recalling)) => {
                if recalling.recalled(id, recalled) {
                    self.recalled(now);
                }
            }
            (Ok(Product::Committed), State::Receiving(receiving)) => {
                receiving.committed(now);
                self.finish_if_whole(now);
            }
            (Ok(Product::Synced), State::Receiving(_) | State::Finishing { .. } | State::Verified { .. }) => {}
            (Ok(Product::Opened(opened)), State::Receiving(receiving)) => match receiving.opened(id, opened) {
                Ok(None) => {}
                Ok(Some(judged)) => {
                    if !matches!(self.events.back(), Some(Event::Record(last)) if *last == judged) {
                        self.events.push_back(Event::Record(judged));
                    }
                }
                Err(violation) => self.violated(now, violation),
            },
            // Both copies of a chunk that was sent twice were in jobs when the last one was stored.
            (Ok(Product::Opened(_)), State::Finishing { .. } | State::Verified { .. }) => {}
            (Ok(Product::Finished(false)), State::Finishing { next, .. }) => *next = true,
            (Ok(Product::Finished(true)), State::Finishing { root, progress, farewell, .. }) => {
                let (root, progress) = (*root, *progress);
                self.events.push_back(Event::Over(Outcome::Complete { root }));
                self.state = match *farewell {
                    Some(farewell) => {
                        let is_apart = self.heard.is_none() && farewell == FAREWELL;
                        let farewell = if is_apart { FAREWELL_APART } else { farewell };
                        self.control.push_back(Control::Verified { transfer: FIRST, root });
                        State::Verified { until: now.checked_add(farewell), hurried: farewell == INTERRUPTED, progress }
                    }
                    None => State::Over { last: None, progress },
                };
            }
            // An answer that is not to what was asked.
            (
                Ok(
                    Product::Page(_)
                    | Product::Scanned(_)
                    | Product::Made(_)
                    | Product::Opened(_)
                    | Product::Checked(_)
                    | Product::Recalled(_)
                    | Product::Begun(_)
                    | Product::Committed
                    | Product::Synced
                    | Product::Finished(_)
                    | Product::Abandoned
                    | Product::Suspended
                    | Product::Stream(_),
                ),
                State::Waiting
                | State::Reading(_)
                | State::Offered { .. }
                | State::Beginning { .. }
                | State::Recalling(_)
                | State::Receiving(_)
                | State::Finishing { .. }
                | State::Verified { .. },
            ) => self.failed(now, FaultKind::Internal.into()),
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
            State::Receiving(receiving) => {
                receiving.handle_timeout(now);
                // What it waited for was this side's limit.
                if receiving.is_held_back() {
                    self.heard = self.heard.map(|_| now);
                }
            }
            State::Verified { until, progress, .. } if until.is_none_or(|until| until <= now) => {
                self.state = State::Over { last: None, progress: *progress };
            }
            State::Waiting
            | State::Reading(_)
            | State::Offered { .. }
            | State::Beginning { .. }
            | State::Recalling(_)
            | State::Finishing { .. }
            | State::Verified { .. }
            | State::Over { .. } => {}
        }
    }

    /// The person wants it, there.
    ///
    /// # Errors
    /// Nothing waits for an answer.
    pub fn accept(&mut self, _now: Instant, sink: Arc<dyn Sink>) -> Result<(), Misuse> {
        let State::Offered { manifest } = &self.state else { return Err(Misuse::NothingOffered) };
        let manifest = Arc::clone(manifest);
        let job = Some(Work::Begin { sink: Arc::clone(&sink), manifest: Arc::clone(&manifest) });
        self.state = State::Beginning { manifest, sink, job };
        Ok(())
    }

    /// The person does not want it.
    ///
    /// # Errors
    /// Nothing waits for an answer.
    pub fn decline(&mut self, now: Instant, reason: DeclineReason, text: &str) -> Result<(), Misuse> {
        if !matches!(self.state, State::Offered { .. }) {
            return Err(Misuse::NothingOffered);
        }
        self.tell_decline(reason, text);
        self.over(now, Outcome::Declined { reason, text: Untrusted::new(text.to_owned()) });
        Ok(())
    }

    /// This side ends it, and tells the other. When all is done already, or is being put in place, it only shortens the farewell.
    pub fn cancel(&mut self, now: Instant, reason: CancelReason, text: &str) {
        match &mut self.state {
            State::Over { .. } => {}
            State::Verified { until, hurried, .. } => {
                (*until, *hurried) = ((*until).min(now.checked_add(INTERRUPTED)), true);
            }
            State::Finishing { farewell, .. } => *farewell = (*farewell).min(Some(INTERRUPTED)),
            State::Waiting
            | State::Reading(_)
            | State::Offered { .. }
            | State::Beginning { .. }
            | State::Recalling(_)
            | State::Receiving(_) => {
                self.tell_cancel(reason, text);
                self.over(now, Outcome::Cancelled(reason));
            }
        }
    }

    /// The session is over, and nothing can be said any more. What is being put in place goes on.
    pub fn abandon(&mut self, now: Instant) {
        match &mut self.state {
            State::Over { .. } => {}
            State::Verified { progress, .. } => {
                self.control.clear();
                self.state = State::Over { last: None, progress: *progress };
            }
            State::Finishing { farewell, .. } => {
                self.control.clear();
                *farewell = None;
            }
            State::Waiting
            | State::Reading(_)
            | State::Offered { .. }
            | State::Beginning { .. }
            | State::Recalling(_)
            | State::Receiving(_) => {
                self.control.clear();
                self.over(now, Outcome::Lost);
            }
        }
    }

    /// The next message to the other side; to be asked only when the session has room for it.
    #[must_use]
    pub fn poll_control(&mut self) -> Option<Control> {
        self.control.pop_front().or_else(|| match &mut self.state {
            State::Receiving(receiving) => receiving.poll_ack(),
            State::Waiting
            | State::Reading(_)
            | State::Offered { .. }
            | State::Beginning { .. }
            | State::Recalling(_)
            | State::Finishing { .. }
            | State::Verified { .. }
            | State::Over { .. } => None,
        })
    }

    /// The next piece of work.
    #[must_use]
    pub fn poll_job(&mut self) -> Option<Job> {
        match &mut self.state {
            State::Beginning { job, .. } => job.take().map(|work| self.jobs.start(work)),
            State::Recalling(recalling) => {
                let recall = recalling.next(self.config.cores)?;
                let job = self.jobs.start(Work::Recall(recall));
                recalling.started(job.id);
                Some(job)
            }
            State::Receiving(receiving) => {
                if let Some(chunks) = receiving.next_to_commit() {
                    return Some(self.jobs.start(Work::Commit { sink: Arc::clone(&receiving.sink), chunks }));
                }
                if !self.jobs.is_out("sync") && receiving.next_sync() {
                    return Some(self.jobs.start(Work::Sync { sink: Arc::clone(&receiving.sink) }));
                }
                let (open, held) = receiving.next_to_open(self.config.cores)?;
                let job = self.jobs.start(Work::Open(Box::new(open)));
                receiving.opening.insert(job.id, held);
                Some(job)
            }
            State::Finishing { sink, next, .. } if *next && self.jobs.is_idle() => {
                *next = false;
                Some(self.jobs.start(Work::Finish { sink: Arc::clone(sink), at_most: SLICE }))
            }
            State::Over { last, .. } if self.jobs.is_idle() => last.take().map(|work| self.jobs.start(work)),
            State::Waiting
            | State::Reading(_)
            | State::Offered { .. }
            | State::Finishing { .. }
            | State::Verified { .. }
            | State::Over { .. } => None,
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
        let own = match &self.state {
            State::Verified { until, .. } => *until,
            State::Receiving(receiving) => receiving.poll_timeout(),
            State::Waiting
            | State::Reading(_)
            | State::Offered { .. }
            | State::Beginning { .. }
            | State::Recalling(_)
            | State::Finishing { .. }
            | State::Over { .. } => None,
        };
        [own, self.patience(), self.jobs.poll_timeout()].into_iter().flatten().min()
    }

    /// How far it is: what was stored.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match &self.state {
            State::Waiting | State::Reading(_) => Progress::default(),
            State::Offered { manifest } | State::Beginning { manifest, .. } => {
                Progress { bytes: 0, total: manifest.totals().bytes }
            }
            State::Recalling(recalling) => {
                Progress { bytes: recalling.bytes(), total: recalling.manifest.totals().bytes }
            }
            State::Receiving(receiving) => receiving.progress(),
            State::Finishing { progress, .. } | State::Verified { progress, .. } | State::Over { progress, .. } => {
                *progress
            }
        }
    }

    /// Whether everything is being put in place, so that only the disk decides how it ends.
    #[must_use]
    pub const fn is_finishing(&self) -> bool {
        matches!(self.state, State::Finishing { .. })
    }

    /// Whether no job is out, nor to be done.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.jobs.is_idle() && !matches!(self.state, State::Over { last: Some(_), .. } | State::Finishing { .. })
    }

    /// Whether it is over, all was said, and no job is out.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Over { .. }) && self.control.is_empty() && self.is_idle()
    }

    fn hear(&mut self, now: Instant, message: Control) -> Result<(), ManifestError> {
        if !matches!(message, Control::Sync | Control::KeepAlive { .. } | Control::Bind { .. }) {
            self.heard = Some(now);
        }
        match (message, &mut self.state) {
            (Control::Bye, State::Verified { progress, .. }) => {
                self.state = State::Over { last: None, progress: *progress };
            }
            // The other side did not hear of the confirmation, and gave up: here everything is in place, or soon will be.
            (Control::Cancel { transfer, .. }, State::Verified { progress, .. }) => {
                of_this(transfer, true)?;
                self.state = State::Over { last: None, progress: *progress };
            }
            (Control::Cancel { transfer, .. }, State::Finishing { farewell, .. }) => {
                of_this(transfer, true)?;
                self.control.clear();
                *farewell = None;
            }
            (Control::Cancel { transfer, reason, text }, _) => {
                of_this(transfer, true)?;
                let text = text.text().clone();
                self.control.clear();
                self.over(now, Outcome::PeerCancelled { reason, text });
            }
            (Control::Offer(offer), State::Waiting) => {
                of_this(offer.transfer, false)?;
                self.state = State::Reading(Reading::begin(now, offer, &self.seed.split())?);
                self.read_if_whole()?;
            }
            (Control::Page { transfer, page }, State::Reading(reading)) => {
                of_this(transfer, false)?;
                reading.push(now, Page(page.0))?;
                self.read_if_whole()?;
            }
            (Control::Checked { transfer, range, same }, State::Receiving(receiving)) => {
                of_this(transfer, false)?;
                if receiving.checked(range, same)? {
                    let (_, bytes) = receiving.confirmed();
                    self.events.push_back(Event::Resumed { bytes });
                }
            }
            (Control::End { transfer, chunks, moved, root }, State::Receiving(receiving)) => {
                of_this(transfer, false)?;
                let all = receiving.manifest.chunks();
                let missing = all.saturating_sub(receiving.confirmed().0);
                let is_over = receiving.end.is_some() || !receiving.is_checked();
                if is_over || chunks != all || moved != missing {
                    return Err(Violation::BadEnd.into());
                }
                receiving.end = Some(root);
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
            ) => return Err(Violation::UnexpectedMessage.into()),
        }
        Ok(())
    }

    /// The sink is ready, and the sender may begin.
    fn ready(&mut self, now: Instant, receiving: Incoming) {
        let receiving = receiving.with_limit(self.limit.map(Limit::new)).with_buffers(Arc::clone(&self.buffers));
        let have = Capped::truncated(receiving.have());
        self.control.push_back(Control::Accept { transfer: FIRST, have, credit: receiving.credit() });
        self.heard = Some(now);
        self.state = State::Receiving(Box::new(receiving));
    }

    /// What is here from before was hashed again.
    fn recalled(&mut self, now: Instant) {
        let State::Recalling(recalling) = std::mem::replace(&mut self.state, State::Waiting) else { return };
        let (manifest, sink) = (Arc::clone(&recalling.manifest), Arc::clone(&recalling.sink));
        let (kept, stored) = recalling.finish();
        if kept.is_empty() {
            self.events.push_back(Event::Resumed { bytes: 0 });
        }
        self.ready(now, Incoming::new(manifest, sink, kept, &stored));
    }

    /// Until when the sender has to be heard.
    fn patience(&self) -> Option<Instant> {
        match &self.state {
            State::Reading(reading) => reading.until,
            State::Receiving(receiving) if receiving.is_idle() => self.heard.and_then(|at| at.checked_add(CHUNKS)),
            State::Waiting
            | State::Offered { .. }
            | State::Beginning { .. }
            | State::Recalling(_)
            | State::Receiving(_)
            | State::Finishing { .. }
            | State::Verified { .. }
            | State::Over { .. } => None,
        }
    }

    fn read_if_whole(&mut self) -> Result<(), ManifestError> {
        if !matches!(&self.state, State::Reading(reading) if reading.is_whole()?) {
            return Ok(());
        }
        if let State::Reading(reading) = std::mem::replace(&mut self.state, State::Waiting) {
            let manifest = Arc::new(reading.finish()?);
            self.events.push_back(Event::Offered(Arc::clone(&manifest)));
            self.state = State::Offered { manifest };
        }
        Ok(())
    }

    fn finish_if_whole(&mut self, now: Instant) {
        let State::Receiving(receiving) = &mut self.state else { return };
        let Some(root) = receiving.end.filter(|_| receiving.stored.count() == receiving.manifest.chunks()) else {
            return;
        };
        let own = receiving.hashes.lock().unwrap_or_else(PoisonError::into_inner).root();
        if !own.is_some_and(|own| bool::from(own.ct_eq(&root))) {
            return self.violated(now, Violation::WrongRoot);
        }
        while let Some(ack) = receiving.poll_ack() {
            self.control.push_back(ack);
        }
        let (sink, progress) = (Arc::clone(&receiving.sink), receiving.progress());
        self.state = State::Finishing { sink, root, progress, next: true, farewell: Some(FAREWELL) };
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Waiting => "waiting",
            State::Reading(_) => "reading",
            State::Offered { .. } => "offered",
            State::Beginning { .. } => "beginning",
            State::Recalling(_) => "recalling",
            State::Receiving(_) => "receiving",
            State::Finishing { .. } => "finishing",
            State::Verified { .. } => "verified",
            State::Over { .. } => "over",
        };
        f.debug_struct("Receiver").field("state", &state).field("jobs", &self.jobs.out.len()).finish_non_exhaustive()
    }
}
