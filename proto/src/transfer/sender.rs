//! The sending side of a transfer: scans, offers, sends chunks within a window, and waits for the confirmation that
//! everything is in place.
//!
//! ```text
//!            scanned          begin            Accept             Verified
//! Scanning ──────────► Ready ───────► Offered ────────► Sending ──────────► Over (Bye)
//!     └──────────────────┴──────────────┴─────────────────┴─► Over: declined, cancelled, failed, violation, lost
//! ```
//! A stream is not scanned: it is `Ready` from the start. The [`ChunkSource`] decides what is sent next and how much
//! is in flight: `outgoing` for files, `stream::outgoing` for a stream. A receiver can only accept, acknowledge
//! chunks that were sent or that it has from an earlier transfer (compared with this side's bytes first: `check`),
//! and send the root. It can't request anything that was not offered.
//!
//! Timers: those of the chunk source, and `STRAGGLERS` for jobs that still run at the end. The wait for an
//! answer and for `Verified` has no deadline of its own: users and disks may be slow, and the session ends when the
//! peer is silent. Bounds: those of the chunk source and of the manifest.

use std::num::NonZeroU64;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::body::{ChunkSource, Lost};
use super::exchange::{Exchange, Stop, TransferEvent, is_of_session, of_this};
use super::limit::Limit;
use super::manifest::{Manifest, ManifestBuilder};
use super::outgoing::Outgoing;
use super::stream;
use super::{Compression, FIRST, Outcome, Progress};
use crate::Instant;
use crate::seed::Seed;
use crate::session::{LinkId, Prepared};
use crate::transfer::job::{Job, JobDone, Product, Work};
use crate::transfer::storage::{FaultKind, Source, StreamSource};
use crate::wire::Blob;
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, Control, Have, Offer, Placement, TransferKind};

/// The configuration of a sender.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Worker threads that heavy work may use; 0 counts as 1.
    pub cores: usize,
    /// The compression of each chunk.
    pub compression: Compression,
}

/// The sending side of a transfer; see the module documentation.
pub struct Sender {
    config: Config,
    limit: Option<Limit>,
    exchange: Exchange,
    /// What the receiver says that differs from the offer.
    placement: Option<Placement>,
    state: State,
}

enum State {
    /// Scans the source, page by page; the running job has the builder.
    Scanning { source: Arc<dyn Source>, builder: Option<Box<ManifestBuilder>>, page: u32, begun: bool },
    /// Waits for [`Sender::begin`].
    Ready(Content),
    /// Sends the offer's pages; an answer may arrive at any time.
    Offered { content: Content, page: u32 },
    /// The receiver accepted.
    Sending(Box<dyn ChunkSource>),
    /// The transfer has ended.
    Over { unconfirmed: bool, progress: Progress },
}

/// The contents of the offer.
#[derive(Clone)]
enum Content {
    Files(Arc<dyn Source>, Arc<Manifest>),
    Stream(Arc<dyn StreamSource>),
}

impl Sender {
    /// Sends files: begins to scan the source.
    #[must_use]
    pub fn new(config: Config, source: Arc<dyn Source>, seed: &Seed) -> Self {
        let builder = Some(Box::new(ManifestBuilder::new(TransferKind::Files, seed)));
        Self::in_state(config, State::Scanning { source, builder, page: 0, begun: false })
    }

    /// Sends a stream: nothing is read before the receiver accepts.
    #[must_use]
    pub fn of_stream(config: Config, source: Arc<dyn StreamSource>) -> Self {
        Self::in_state(config, State::Ready(Content::Stream(source)))
    }

    fn in_state(config: Config, state: State) -> Self {
        Self { config, limit: None, exchange: Exchange::default(), placement: None, state }
    }

    /// Sets a rate limit for chunks, in bytes per second of what is sealed.
    #[must_use]
    pub fn with_limit(self, rate: Option<NonZeroU64>) -> Self {
        Self { limit: rate.map(Limit::new), ..self }
    }

    /// The session is keyed and the user agreed: the offer is sent as soon as the source was scanned.
    pub fn begin(&mut self, _now: Instant) {
        match &mut self.state {
            State::Scanning { begun, .. } => *begun = true,
            State::Ready(content) => {
                let content = content.clone();
                self.exchange.send(Control::Offer(content.offer()));
                self.state = State::Offered { content, page: 0 };
            }
            State::Offered { .. } | State::Sending(_) | State::Over { .. } => {}
        }
    }

    /// A message of the other side.
    pub fn handle_control(&mut self, now: Instant, message: Control) {
        if self.is_over() || is_of_session(&message) {
            return;
        }
        if let Err(violation) = self.accept_control(now, message) {
            self.stop(now, violation.into());
        }
    }

    /// A job has finished.
    pub fn handle_job(&mut self, now: Instant, done: JobDone) {
        let JobDone { id, result } = done;
        if !self.exchange.jobs.answered(id) || self.is_over() {
            return;
        }
        let handled = result.map_err(Stop::from).and_then(|product| self.handle_product(now, product));
        if let Err(stop) = handled {
            self.stop(now, stop);
        }
    }

    fn handle_product(&mut self, now: Instant, product: Product) -> Result<(), Stop> {
        match (product, &mut self.state) {
            (Product::Page(scanned), State::Scanning { builder, page, .. }) => {
                *builder = Some(scanned);
                *page = page.saturating_add(1);
            }
            (Product::Scanned(manifest), State::Scanning { source, begun, .. }) => {
                let (source, begun) = (Arc::clone(source), *begun);
                self.exchange.report(TransferEvent::Scanned(Arc::clone(&manifest)));
                self.state = State::Ready(Content::Files(source, manifest));
                if begun {
                    self.begin(now);
                }
            }
            (product, State::Sending(chunks)) => chunks.handle_product(now, product, &mut self.exchange)?,
            // The result does not belong to the work of the job.
            (_, State::Scanning { .. } | State::Ready(_) | State::Offered { .. } | State::Over { .. }) => {
                return Err(FaultKind::Internal.into());
            }
        }
        Ok(())
    }

    /// A chunk from [`Self::poll_chunk`] is sealed for this link.
    pub fn handle_sealed(&mut self, chunk: u64, link: LinkId) {
        if let State::Sending(chunks) = &mut self.state {
            chunks.handle_sealed(chunk, link);
        }
    }

    /// Bytes of chunks that were sealed for this link and are not acknowledged, as the window counts them.
    #[must_use]
    pub fn under_way(&self, link: LinkId) -> u64 {
        if let State::Sending(chunks) = &self.state { chunks.under_way(link) } else { 0 }
    }

    /// One of several links is lost, and the receiver no longer counts what arrived over it: it first reports what it
    /// has stored.
    pub fn handle_link_lost(&mut self, _now: Instant, link: LinkId) {
        if let State::Sending(chunks) = &mut self.state {
            chunks.lose(Lost::On(link));
            chunks.recount();
        }
    }

    /// The only link is lost: all chunks that are not acknowledged are sent again.
    pub fn handle_all_lost(&mut self, _now: Instant) {
        if let State::Sending(chunks) = &mut self.state {
            chunks.lose(Lost::All);
        }
    }

    /// The session has a link again.
    pub fn handle_link_up(&mut self, _now: Instant) {
        if let State::Sending(chunks) = &mut self.state {
            chunks.recount();
        }
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.exchange.jobs.handle_timeout(now);
        if let State::Sending(chunks) = &mut self.state {
            chunks.advance(now);
        }
    }

    /// Ends the transfer and notifies the other side.
    pub fn cancel(&mut self, now: Instant, reason: CancelReason, text: &str) {
        if !self.is_over() {
            self.exchange.send_cancel(reason, text);
            self.over(now, Outcome::Cancelled(reason));
        }
    }

    /// The session has ended, and no message can be sent any more.
    pub fn abandon(&mut self, now: Instant) {
        if !self.is_over() {
            self.exchange.clear();
            self.over(now, Outcome::Lost);
        }
    }

    /// The next message to the other side. Call it only when the session has room for a message.
    #[must_use]
    pub fn poll_control(&mut self) -> Option<Control> {
        if let Some(message) = self.exchange.poll_control() {
            return Some(message);
        }
        match &mut self.state {
            State::Offered { content: Content::Files(_, manifest), page } => {
                let encoded = manifest.encoded_page(*page)?.clone();
                *page = page.saturating_add(1);
                Some(Control::Page { transfer: FIRST, page: Blob(encoded) })
            }
            State::Sending(chunks) => chunks.end(),
            _ => None,
        }
    }

    /// The next chunk to be sealed, with its number; it counts as in flight from now on.
    #[must_use]
    pub fn poll_chunk(&mut self) -> Option<(u64, Prepared)> {
        if let State::Sending(chunks) = &mut self.state { chunks.fetch() } else { None }
    }

    /// The next job.
    #[must_use]
    pub fn poll_job(&mut self) -> Option<Job> {
        let Self { config, exchange, state, .. } = self;
        exchange.jobs.start(|_| match state {
            State::Scanning { source, builder, page, .. } => {
                let builder = builder.take()?;
                Some(Work::Scan { source: Arc::clone(source), builder, page: *page })
            }
            State::Sending(chunks) => chunks.next_job(config.cores),
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
        let own = if let State::Sending(chunks) = &self.state { chunks.poll_timeout() } else { None };
        [own, self.exchange.jobs.poll_timeout()].into_iter().flatten().min()
    }

    /// The progress: what the receiver acknowledged. The total of a stream is known at the end.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match &self.state {
            State::Ready(Content::Files(_, manifest)) | State::Offered { content: Content::Files(_, manifest), .. } => {
                Progress { bytes: 0, total: manifest.totals().bytes }
            }
            State::Sending(chunks) => chunks.progress(),
            State::Over { progress, .. } => *progress,
            State::Scanning { .. } | State::Ready(_) | State::Offered { .. } => Progress::default(),
        }
    }

    /// Whether the contents of the offer are known.
    #[must_use]
    pub const fn is_scanned(&self) -> bool {
        matches!(self.state, State::Ready(_) | State::Offered { .. } | State::Sending(_))
    }

    /// Whether everything was sent and only the confirmation is missing.
    #[must_use]
    pub fn is_unconfirmed(&self) -> bool {
        match &self.state {
            State::Sending(chunks) => chunks.root().is_some(),
            State::Over { unconfirmed, .. } => *unconfirmed,
            _ => false,
        }
    }

    /// Whether no job runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.exchange.jobs.is_idle()
    }

    /// Whether the transfer has ended, every message was taken, and no job runs.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_over() && self.exchange.is_done()
    }

    const fn is_over(&self) -> bool {
        matches!(self.state, State::Over { .. })
    }

    fn accept_control(&mut self, now: Instant, message: Control) -> Result<(), Violation> {
        let is_announced = self.exchange.announced;
        match (message, &mut self.state) {
            (Control::Cancel { transfer, reason, text }, _) => {
                of_this(transfer, true)?;
                self.exchange.clear();
                self.over(now, Outcome::PeerCancelled { reason, text: text.text().clone() });
            }
            (Control::Accept { transfer, have, credit }, State::Offered { content, page })
                if is_announced && *page == content.pages() =>
            {
                of_this(transfer, false)?;
                self.state = State::Sending(content.accepted(self.config, credit, have.as_slice(), self.limit)?);
                self.exchange.report(TransferEvent::Accepted);
            }
            (Control::Decline { transfer, reason, text }, State::Offered { .. }) if is_announced => {
                of_this(transfer, false)?;
                self.exchange.clear();
                self.over(now, Outcome::Declined { reason, text: text.text().clone() });
            }
            (Control::Ack { transfer, ranges, credit }, State::Sending(chunks)) => {
                of_this(transfer, false)?;
                chunks.acknowledge(now, ranges.as_slice(), credit)?;
            }
            (Control::Placement { transfer, placement }, State::Sending(chunks)) if self.placement.is_none() => {
                of_this(transfer, false)?;
                // Nothing is in place before all of it was sent.
                chunks.root().ok_or(Violation::UnexpectedMessage)?;
                self.placement = Some(placement);
            }
            (Control::Verified { transfer, root }, State::Sending(chunks)) => {
                of_this(transfer, false)?;
                let own = chunks.root().ok_or(Violation::UnexpectedMessage)?;
                if !bool::from(own.ct_eq(&root)) {
                    return Err(Violation::WrongRoot);
                }
                if let Some(placement) = self.placement.take() {
                    self.exchange.report(TransferEvent::Placed(placement));
                }
                self.exchange.send(Control::Bye);
                self.over(now, Outcome::Complete { root });
            }
            // Everything else belongs to another state, or to the other side.
            _ => return Err(Violation::UnexpectedMessage),
        }
        Ok(())
    }

    /// The transfer can't continue: notifies the other side.
    fn stop(&mut self, now: Instant, stop: Stop) {
        let outcome = self.exchange.send_stop(stop);
        self.over(now, outcome);
    }

    fn over(&mut self, now: Instant, outcome: Outcome) {
        let progress = match (&outcome, &self.state) {
            (Outcome::Complete { .. }, State::Sending(chunks)) => {
                Progress { bytes: chunks.whole(), total: chunks.whole() }
            }
            _ => self.progress(),
        };
        let unconfirmed = self.is_unconfirmed() && outcome == Outcome::Lost;
        self.state = State::Over { unconfirmed, progress };
        self.exchange.end(now, outcome);
    }
}

impl Content {
    fn offer(&self) -> Offer {
        match self {
            Self::Files(_, manifest) => {
                let totals = manifest.totals();
                Offer {
                    transfer: FIRST,
                    kind: TransferKind::Files,
                    chunk_size: manifest.chunk_size(),
                    entries: totals.entries,
                    bytes: totals.bytes,
                    pages: manifest.pages(),
                }
            }
            Self::Stream(_) => {
                let (kind, chunk_size) = (TransferKind::Stream, stream::CHUNK);
                Offer { transfer: FIRST, kind, chunk_size, entries: 0, bytes: 0, pages: 0 }
            }
        }
    }

    /// How many pages follow the offer.
    fn pages(&self) -> u32 {
        match self {
            Self::Files(_, manifest) => manifest.pages(),
            Self::Stream(_) => 0,
        }
    }

    /// The receiver accepted, and has these ranges from an earlier transfer.
    fn accepted(
        &self,
        config: Config,
        credit: u32,
        have: &[Have],
        limit: Option<Limit>,
    ) -> Result<Box<dyn ChunkSource>, Violation> {
        match self {
            Self::Files(source, manifest) => {
                let source = (Arc::clone(source), Arc::clone(manifest));
                Ok(Box::new(Outgoing::new(source, config.compression, credit, have)?.with_limit(limit)))
            }
            // The receiver can have nothing of a stream from an earlier transfer.
            Self::Stream(_) if !have.is_empty() => Err(Violation::BadRanges),
            Self::Stream(source) => {
                let source = Arc::clone(source);
                Ok(Box::new(stream::outgoing::Outgoing::new(source, config.compression, credit, limit)))
            }
        }
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Scanning { .. } => "scanning",
            State::Ready(_) => "ready",
            State::Offered { .. } => "offered",
            State::Sending(_) => "sending",
            State::Over { .. } => "over",
        };
        let jobs = self.exchange.jobs.count();
        f.debug_struct("Sender").field("state", &state).field("jobs", &jobs).finish_non_exhaustive()
    }
}
