//! The receiving side of a transfer: checks the offer, asks its owner, stores chunks, and confirms that everything is
//! in place.
//!
//! ```text
//! Waiting     an offer of files ──► Reading       an offer of a stream ──► Offered
//! Reading     all its pages are here ──► Offered
//! Offered     accept ──► Beginning                accept_stream ──► Receiving
//! Beginning   nothing stored earlier ──► Receiving       something is ──► Verifying
//! Verifying   hashed again ──► Receiving
//! Receiving   End, all stored ──► Finishing       End, all written in order ──► Verified
//! Finishing   everything is in place ──► Verified
//! Verified    Bye, or 20 s without it ──► Over
//!
//! all but Verified ──► Over: refused, declined, cancelled, failed, violation, lost, stalled
//! (Finishing: only failed, or cancelled and the others once its sink is overdue)
//! ```
//! It decides whether an offer may be shown at all (every name checked, no collisions, correct totals), which chunks
//! of an earlier attempt are kept (`verify_stored`), and when everything is complete. The [`ChunkSink`] decides which
//! chunks are accepted and when they are acknowledged: `incoming` for files (once they are in the journal),
//! `stream::ordered` for a stream, or for one file whose sink is written in order (once they were written). One job
//! opens, checks and writes a chunk of a file; if two jobs have the same chunk, the lock of the hashes decides which
//! one writes it, because the number is inside the sealed record.
//!
//! Once the sink moves the entries to their final names, only the disk decides the outcome: a cancellation by either
//! side, a violation or a lost link does not change it any more. A transfer that ends earlier keeps what is stored
//! for the next one (`ends::is_worth_keeping`).
//!
//! Timers: that of an offer (`reading`); [`CHUNKS`] while the sender has to send and a link is up (a stream may be
//! silent without limit); [`FAREWELL`] for `Bye` after `Verified`, whatever happens to the links ([`INTERRUPTED`] once
//! the user cancelled); those of the chunk sink; `STRAGGLERS` for jobs that still run at the end. Bounds:
//! those of the chunk sink and of the manifest.

mod ends;
pub(super) mod finishing;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq;

use self::finishing::Finishing;
use super::body::ChunkSink;
use super::exchange::{Exchange, Stop, TransferEvent, is_of_session, of_this};
use super::hashes::Hash;
use super::incoming::Incoming;
use super::journal::Stored;
use super::limit::Limit;
use super::manifest::{Manifest, Page};
use super::reading::Reading;
use super::stream::ordered::OrderedReceiver;
use super::stream::{self, Layout};
use super::verify_stored::{ResumeRange, VerifyingStored};
use super::{FIRST, Outcome, Progress};
use crate::Instant;
use crate::misuse::Misuse;
use crate::pool::Pool;
use crate::seed::Seed;
use crate::session::{LinkId, SealedChunk};
use crate::transfer::job::{Job, JobDone, Product, Work};
use crate::transfer::job_id::JobId;
use crate::transfer::storage::{FaultKind, Sink, StreamSink};
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, Control, DeclineReason, Have, Offer, Placement, TransferKind};
use crate::wire::{BoundedVec, Untrusted};

/// How long the receiver waits for `Bye` once everything is in place, and so how long a sender that lost its connection
/// can still get the confirmation: until a silent link is dead ([`crate::session::SILENCE`]), and a few round trips for
/// another one. No lost or new link moves the deadline.
pub const FAREWELL: Duration = Duration::from_secs(20);
/// How long it waits after the user cancelled.
pub const INTERRUPTED: Duration = Duration::from_secs(1);
/// How long it waits for the sender during an accepted transfer: the sender's disk may be slow.
pub const CHUNKS: Duration = Duration::from_secs(600);
/// How many entries one job moves to their final names.
pub const SLICE: usize = 256;

/// The configuration of a receiver.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Worker threads that heavy work may use; 0 counts as 1.
    pub cores: usize,
}

/// The receiving side of a transfer; see the module documentation.
pub struct Receiver {
    config: Config,
    seed: Seed,
    exchange: Exchange,
    /// When the sender last sent something or got something to do; `None`: there is no link.
    heard: Option<Instant>,
    limit: Option<NonZeroU64>,
    buffers: Arc<Pool>,
    state: State,
}

enum State {
    /// Waits for an offer.
    Waiting,
    /// Receives the pages of the offer.
    Reading(Box<Reading>),
    /// Waits for the user's answer.
    Offered(Layout),
    /// The sink checks the offer.
    Beginning { manifest: Arc<Manifest>, sink: Arc<dyn Sink>, job: Option<Work> },
    /// Chunks from an earlier transfer are hashed again.
    Verifying(Box<VerifyingStored>),
    /// Receives chunks.
    Receiving(Box<dyn ChunkSink>),
    /// The sink moves the entries to their final names, slice by slice.
    Finishing(Box<Finishing>),
    /// Everything is complete; the other side may still come back for the confirmation.
    Verified { until: Option<Instant>, progress: Progress },
    /// The transfer has ended; what was staged is kept or removed.
    Over { cleanup: Cleanup, progress: Progress },
}

/// Work that remains after a transfer has ended.
enum Cleanup {
    /// Nothing.
    None,
    /// This work, once no job runs that could write there.
    Last(Work),
    /// This work, if the running `begin` of the sink succeeds: nothing is staged before.
    AfterBegin(Work),
}

impl Receiver {
    /// Creates a receiver that waits for an offer.
    #[must_use]
    pub fn new(config: Config, seed: Seed) -> Self {
        let (exchange, buffers) = (Exchange::default(), Arc::default());
        Self { config, seed, exchange, heard: None, limit: None, buffers, state: State::Waiting }
    }

    /// Uses the pool that provides the buffers of received records.
    #[must_use]
    pub fn with_buffers(self, buffers: Arc<Pool>) -> Self {
        Self { buffers, ..self }
    }

    /// Sets a rate limit for acknowledgements, in bytes per second of what the other side seals.
    #[must_use]
    pub fn with_limit(self, rate: Option<NonZeroU64>) -> Self {
        Self { limit: rate, ..self }
    }

    /// A message of the other side.
    pub fn handle_control(&mut self, now: Instant, message: Control) {
        if matches!(self.state, State::Over { .. }) || is_of_session(&message) {
            return;
        }
        self.heard = Some(now);
        if let Err(stop) = self.accept_control(now, message) {
            self.stop(now, stop);
        }
    }

    /// A chunk record that arrived.
    pub fn handle_chunk(&mut self, now: Instant, chunk: SealedChunk) {
        self.heard = Some(now);
        let taken = match &mut self.state {
            State::Receiving(chunks) => chunks.take(chunk),
            // The chunk was sent twice, over two links, and the second copy was late.
            State::Finishing(_) | State::Verified { .. } | State::Over { .. } => Ok(()),
            State::Waiting | State::Reading(_) | State::Offered(_) | State::Beginning { .. } | State::Verifying(_) => {
                Err(Violation::UnexpectedMessage)
            }
        };
        if let Err(violation) = taken {
            self.stop(now, violation.into());
        }
    }

    /// The only link was lost: chunks that arrived on it and were not acknowledged will arrive again.
    pub fn handle_link_lost(&mut self, _now: Instant, link: LinkId) {
        self.heard = None;
        if let State::Receiving(chunks) = &mut self.state {
            chunks.lose(link);
        }
    }

    /// One of several links was lost: chunks that arrived on it and were not acknowledged will arrive again, after
    /// this side has reported what it stored.
    pub fn handle_link_dropped(&mut self, link: LinkId) {
        if let State::Receiving(chunks) = &mut self.state {
            chunks.lose(link);
            chunks.repeat();
        }
    }

    /// This process was stopped for a while: what did not arrive meanwhile does not count as late.
    pub fn handle_pause(&mut self, now: Instant) {
        self.heard = self.heard.map(|_| now);
    }

    /// A link is up: acknowledgements that were lost with another one are sent again.
    pub fn handle_link_up(&mut self, now: Instant) {
        self.heard = Some(now);
        if let State::Receiving(chunks) = &mut self.state {
            chunks.repeat();
        }
    }

    /// A job has finished.
    pub fn handle_job(&mut self, now: Instant, done: JobDone) {
        let JobDone { id, result } = done;
        if !self.exchange.jobs.answered(id) {
            return;
        }
        self.heard = self.heard.map(|_| now);
        let handled = match (result, &self.state) {
            (result, State::Over { .. }) => return self.handle_late(result.ok().as_ref()),
            // The transfer is complete: a second copy of a chunk, or a sync, was late.
            (_, State::Verified { .. }) => return,
            (Err(fault), State::Beginning { .. } | State::Verifying(_)) => return self.begin_failed(now, fault),
            (Err(fault), _) => Err(fault.into()),
            (Ok(product), _) => self.handle_product(now, id, product),
        };
        if let Err(stop) = handled {
            self.stop(now, stop);
        }
    }

    fn handle_product(&mut self, now: Instant, id: JobId, product: Product) -> Result<(), Stop> {
        match (product, &mut self.state) {
            (Product::Begun(stored), State::Beginning { manifest, sink, .. }) => {
                let staging = (Arc::clone(manifest), Arc::clone(sink));
                if stored.is_empty() {
                    self.ready(now, staging, Vec::new(), &[]);
                } else {
                    let (manifest, sink) = staging;
                    self.exchange.report(TransferEvent::Resuming);
                    self.state = State::Verifying(Box::new(VerifyingStored::new(manifest, sink, stored)));
                }
            }
            (Product::VerifiedStored(verified), State::Verifying(verifying)) => {
                if verifying.verified(verified) {
                    self.handle_verified(now);
                }
            }
            (product, State::Receiving(chunks)) => {
                chunks.handle_product(now, id, product)?;
                self.finish_if_whole(now)?;
            }
            // Both copies of a chunk that was sent twice were in jobs when the last chunk was stored.
            (Product::Opened(_) | Product::Synced, State::Finishing(_)) => {}
            (Product::Finished(None), State::Finishing(finishing)) => finishing.handle_unfinished(now),
            (Product::Finished(Some(placement)), State::Finishing(finishing)) => {
                let Finishing { root, progress, farewell, .. } = **finishing;
                if placement != Placement::default() {
                    self.exchange.report(TransferEvent::Placed(placement));
                    if farewell.is_some() {
                        self.exchange.send(Control::Placement { transfer: FIRST, placement });
                    }
                }
                self.complete(now, root, progress, farewell);
            }
            // The result does not belong to the work of the job.
            (
                _,
                State::Waiting
                | State::Reading(_)
                | State::Offered(_)
                | State::Beginning { .. }
                | State::Verifying(_)
                | State::Finishing(_)
                | State::Verified { .. }
                | State::Over { .. },
            ) => return Err(FaultKind::Internal.into()),
        }
        Ok(())
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.exchange.jobs.handle_timeout(now);
        if self.patience().is_some_and(|until| until <= now) {
            self.exchange.send_cancel(CancelReason::Interrupted, "nothing came for too long");
            return self.over(now, Outcome::Stalled);
        }
        match &mut self.state {
            State::Receiving(chunks) => {
                chunks.advance(now);
                // The sender waited for this side.
                if chunks.is_held_back() {
                    self.heard = self.heard.map(|_| now);
                }
            }
            State::Verified { until, progress, .. } if until.is_none_or(|until| until <= now) => {
                // Without a link the confirmation was never taken.
                self.exchange.clear();
                self.state = State::Over { cleanup: Cleanup::None, progress: *progress };
            }
            State::Finishing(finishing) => {
                let has_failed = finishing.handle_timeout(now);
                if has_failed {
                    self.stop(now, FaultKind::Unfinished.into());
                }
            }
            _ => {}
        }
    }

    /// The user accepts the files and stores them in this sink.
    ///
    /// # Errors
    /// Nothing waits for an answer, or it is a stream.
    pub fn accept(&mut self, _now: Instant, sink: Arc<dyn Sink>) -> Result<(), Misuse> {
        let manifest = match &self.state {
            State::Offered(Layout::File(manifest)) => Arc::clone(manifest),
            State::Offered(Layout::Stream { .. }) => return Err(Misuse::NotFiles),
            _ => return Err(Misuse::NothingOffered),
        };
        let job = Some(Work::Begin { sink: Arc::clone(&sink), manifest: Arc::clone(&manifest) });
        self.state = State::Beginning { manifest, sink, job };
        Ok(())
    }

    /// The user accepts the stream, or the one file, and writes it to this sink in order.
    ///
    /// # Errors
    /// Nothing waits for an answer, or it is more than one file.
    pub fn accept_stream(&mut self, now: Instant, sink: Arc<dyn StreamSink>) -> Result<(), Misuse> {
        let State::Offered(layout) = &self.state else { return Err(Misuse::NothingOffered) };
        if let Layout::File(manifest) = layout {
            let totals = manifest.totals();
            if totals.entries != 1 || totals.files != 1 {
                return Err(Misuse::NotOneFile);
            }
        }
        let chunks = OrderedReceiver::new(layout.clone(), sink, self.limit.map(Limit::new));
        self.receive(now, Box::new(chunks), BoundedVec::default());
        Ok(())
    }

    /// The user declines the offer.
    ///
    /// # Errors
    /// Nothing waits for an answer.
    pub fn decline(&mut self, now: Instant, reason: DeclineReason, text: &str) -> Result<(), Misuse> {
        if !matches!(self.state, State::Offered(_)) {
            return Err(Misuse::NothingOffered);
        }
        self.exchange.send_decline(reason, text);
        self.over(now, Outcome::Declined { reason, text: Untrusted::new(text.to_owned()) });
        Ok(())
    }

    /// Ends the transfer and notifies the other side. If everything is complete already, or a sink that is not
    /// overdue is moving the entries to their final names, it only shortens the farewell.
    pub fn cancel(&mut self, now: Instant, reason: CancelReason, text: &str) {
        match &mut self.state {
            State::Over { .. } => {}
            State::Verified { until, .. } => *until = (*until).min(now.checked_add(INTERRUPTED)),
            State::Finishing(finishing) if !finishing.is_overdue() => {
                finishing.farewell = finishing.farewell.min(Some(INTERRUPTED));
            }
            _ => {
                self.exchange.send_cancel(reason, text);
                self.over(now, Outcome::Cancelled(reason));
            }
        }
    }

    /// The session has ended, and no message can be sent any more. A sink that is moving entries to their final names
    /// continues.
    pub fn abandon(&mut self, now: Instant) {
        match &self.state {
            // The messages about its end are still sent.
            State::Over { .. } => return,
            State::Verified { .. } => self.exchange.clear(),
            _ => {}
        }
        self.end_from_outside(now, Outcome::Lost);
    }

    /// The next message to the other side; to be asked only when the session has room for it.
    #[must_use]
    pub fn poll_control(&mut self) -> Option<Control> {
        self.exchange.poll_control().or_else(|| match &mut self.state {
            State::Receiving(chunks) => chunks.poll_ack(),
            _ => None,
        })
    }

    /// The next job.
    #[must_use]
    pub fn poll_job(&mut self) -> Option<Job> {
        let Self { config, exchange, state, .. } = self;
        let is_idle = exchange.jobs.is_idle();
        exchange.jobs.start(|id| match state {
            State::Beginning { job, .. } => job.take(),
            State::Verifying(verifying) => verifying.next(config.cores).map(Work::VerifyStored),
            State::Receiving(chunks) => chunks.next_job(config.cores, id),
            State::Finishing(finishing) if is_idle => finishing.next(),
            State::Over { cleanup, .. } if is_idle => cleanup.take(),
            _ => None,
        })
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<TransferEvent> {
        self.exchange.poll_event()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Verified { until, .. } => *until,
            State::Receiving(chunks) => chunks.poll_timeout(),
            State::Finishing(finishing) => finishing.poll_timeout(),
            _ => None,
        };
        [own, self.patience(), self.exchange.jobs.poll_timeout()].into_iter().flatten().min()
    }

    /// The progress: what was stored or written.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match &self.state {
            State::Waiting | State::Reading(_) => Progress::default(),
            State::Offered(layout) => Progress { bytes: 0, total: layout.bytes() },
            State::Beginning { manifest, .. } => Progress { bytes: 0, total: manifest.totals().bytes },
            State::Verifying(verifying) => {
                Progress { bytes: verifying.bytes(), total: verifying.manifest.totals().bytes }
            }
            State::Receiving(chunks) => chunks.progress(),
            State::Finishing(finishing) => finishing.progress,
            State::Verified { progress, .. } | State::Over { progress, .. } => *progress,
        }
    }

    /// Whether the sink is moving the entries to their final names, so that only the disk decides the outcome.
    #[must_use]
    pub const fn is_finishing(&self) -> bool {
        match &self.state {
            State::Finishing(finishing) => !finishing.is_overdue(),
            _ => false,
        }
    }

    /// Whether no job runs or waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let has_more = match &self.state {
            State::Over { cleanup, .. } => matches!(cleanup, Cleanup::Last(_)),
            State::Finishing(_) => true,
            _ => false,
        };
        self.exchange.jobs.is_idle() && !has_more
    }

    /// Whether the transfer has ended, every message was taken, and no job runs.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Over { .. }) && self.exchange.is_done() && self.is_idle()
    }

    fn accept_control(&mut self, now: Instant, message: Control) -> Result<(), Stop> {
        match (message, &mut self.state) {
            (Control::Bye, State::Verified { progress, .. }) => {
                self.state = State::Over { cleanup: Cleanup::None, progress: *progress };
            }
            (Control::Cancel { transfer, reason, text }, _) => {
                of_this(transfer, true)?;
                self.end_from_outside(now, Outcome::PeerCancelled { reason, text: text.text().clone() });
            }
            (Control::Offer(offer), State::Waiting) => {
                of_this(offer.transfer, false)?;
                match offer.kind {
                    TransferKind::Stream => self.offered_stream(offer)?,
                    TransferKind::Files => {
                        self.state = State::Reading(Reading::begin(now, offer, &self.seed.split())?);
                        self.exchange.announced = true;
                        self.read_if_whole()?;
                    }
                }
            }
            (Control::Page { transfer, page }, State::Reading(reading)) => {
                of_this(transfer, false)?;
                reading.push(now, Page(page.0))?;
                self.read_if_whole()?;
            }
            (Control::Checked { transfer, range, same }, State::Receiving(chunks)) => {
                of_this(transfer, false)?;
                chunks.handle_checked(range, same, &mut self.exchange)?;
            }
            (Control::End { transfer, chunks: all, moved, root }, State::Receiving(chunks)) => {
                of_this(transfer, false)?;
                chunks.handle_end(all, moved, root)?;
                self.finish_if_whole(now)?;
            }
            // Everything else belongs to another state, or to the other side.
            _ => return Err(Violation::UnexpectedMessage.into()),
        }
        Ok(())
    }

    /// The other side cancelled, or is lost. If everything is in place or soon will be, the other side only lacks the
    /// confirmation.
    fn end_from_outside(&mut self, now: Instant, outcome: Outcome) {
        match &mut self.state {
            State::Verified { progress, .. } => {
                self.state = State::Over { cleanup: Cleanup::None, progress: *progress };
            }
            State::Finishing(finishing) if !finishing.is_overdue() => {
                self.exchange.clear();
                finishing.farewell = None;
            }
            _ => {
                self.exchange.clear();
                self.over(now, outcome);
            }
        }
    }

    /// Checks that an offer of a stream contains nothing that its sender can't know.
    fn offered_stream(&mut self, offer: Offer) -> Result<(), Violation> {
        let Offer { chunk_size, entries, bytes, pages, .. } = offer;
        if !(1..=stream::CHUNK).contains(&chunk_size) || (entries, bytes, pages) != (0, 0, 0) {
            return Err(Violation::BadOffer);
        }
        self.exchange.announced = true;
        self.state = State::Offered(Layout::Stream { longest: chunk_size });
        self.exchange.report(TransferEvent::StreamOffered);
        Ok(())
    }

    fn read_if_whole(&mut self) -> Result<(), Stop> {
        if !matches!(&self.state, State::Reading(reading) if reading.is_whole()?) {
            return Ok(());
        }
        if let State::Reading(reading) = std::mem::replace(&mut self.state, State::Waiting) {
            let manifest = Arc::new(reading.finish()?);
            self.exchange.report(TransferEvent::Offered(Arc::clone(&manifest)));
            self.state = State::Offered(Layout::File(manifest));
        }
        Ok(())
    }

    /// The result of a job after the end. A `begin` that succeeded has staged something; one that failed has not.
    fn handle_late(&mut self, product: Option<&Product>) {
        let State::Over { cleanup, .. } = &mut self.state else { return };
        *cleanup = match std::mem::replace(cleanup, Cleanup::None) {
            Cleanup::AfterBegin(work) if matches!(product, Some(Product::Begun(_))) => Cleanup::Last(work),
            Cleanup::AfterBegin(_) => Cleanup::None,
            other => other,
        };
    }

    /// Chunks from an earlier transfer were hashed again.
    fn handle_verified(&mut self, now: Instant) {
        let State::Verifying(verifying) = std::mem::replace(&mut self.state, State::Waiting) else { return };
        let staging = (Arc::clone(&verifying.manifest), Arc::clone(&verifying.sink));
        let (kept, stored) = verifying.finish();
        if kept.is_empty() {
            self.exchange.report(TransferEvent::Resumed { bytes: 0 });
        }
        self.ready(now, staging, kept, &stored);
    }

    /// The sink is ready, and has these chunks from an earlier transfer.
    fn ready(
        &mut self,
        now: Instant,
        staging: (Arc<Manifest>, Arc<dyn Sink>),
        kept: Vec<ResumeRange>,
        stored: &[Stored],
    ) {
        let (limit, buffers) = (self.limit.map(Limit::new), Arc::clone(&self.buffers));
        let chunks = Incoming::new(staging, kept, stored, limit, buffers);
        let have = BoundedVec::truncated(chunks.have());
        self.receive(now, Box::new(chunks), have);
    }

    /// Accepts, so that the sender may begin.
    fn receive(&mut self, now: Instant, chunks: Box<dyn ChunkSink>, have: BoundedVec<Have, 1000>) {
        self.exchange.send(Control::Accept { transfer: FIRST, have, credit: chunks.credit() });
        self.heard = self.heard.map(|_| now);
        self.state = State::Receiving(chunks);
    }

    /// The time by which the sender must have sent something.
    fn patience(&self) -> Option<Instant> {
        match &self.state {
            State::Reading(reading) => reading.until,
            State::Receiving(chunks) if chunks.awaits_sender() => self.heard?.checked_add(CHUNKS),
            _ => None,
        }
    }

    fn finish_if_whole(&mut self, now: Instant) -> Result<(), Violation> {
        let State::Receiving(chunks) = &mut self.state else { return Ok(()) };
        let Some((own, root)) = chunks.roots() else { return Ok(()) };
        if !own.is_some_and(|own| bool::from(own.ct_eq(&root))) {
            return Err(Violation::WrongRoot);
        }
        let progress = chunks.progress();
        let Some((sink, entries)) = chunks.staged() else {
            // The confirmation replaces the last acknowledgements.
            let progress = Progress { total: progress.bytes, ..progress };
            self.complete(now, root, progress, Some(FAREWELL));
            return Ok(());
        };
        while let Some(ack) = chunks.poll_ack() {
            self.exchange.send(ack);
        }
        self.state = State::Finishing(Box::new(Finishing::new(sink, entries, root, progress)));
        Ok(())
    }

    /// All entries have their final names, or everything was written.
    fn complete(&mut self, now: Instant, root: Hash, progress: Progress, farewell: Option<Duration>) {
        self.exchange.report(TransferEvent::Over(Outcome::Complete { root }));
        self.state = match farewell {
            Some(farewell) => {
                self.exchange.send(Control::Verified { transfer: FIRST, root });
                State::Verified { until: now.checked_add(farewell), progress }
            }
            None => State::Over { cleanup: Cleanup::None, progress },
        };
    }
}

impl Cleanup {
    /// The next work.
    fn take(&mut self) -> Option<Work> {
        match std::mem::replace(self, Self::None) {
            Self::Last(work) => Some(work),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Waiting => "waiting",
            State::Reading(_) => "reading",
            State::Offered(_) => "offered",
            State::Beginning { .. } => "beginning",
            State::Verifying(_) => "verifying",
            State::Receiving(_) => "receiving",
            State::Finishing(_) => "finishing",
            State::Verified { .. } => "verified",
            State::Over { .. } => "over",
        };
        let jobs = self.exchange.jobs.count();
        f.debug_struct("Receiver").field("state", &state).field("jobs", &jobs).finish_non_exhaustive()
    }
}
