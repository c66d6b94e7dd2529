//! The transfer of a session for its owner: one type for both sides and for files and streams.

use std::sync::Arc;

use super::Progress;
use super::differences::Differences;
use super::exchange::TransferEvent;
use super::receiver::Receiver;
use super::sender::Sender;
use crate::Instant;
use crate::misuse::Misuse;
use crate::session::{LinkId, Prepared, SealedChunk};
use crate::transfer::job::{Job, JobDone};
use crate::transfer::storage::{Sink, StreamSink};
use crate::wire::peer::{CancelReason, Control, DeclineReason};

/// One end of a transfer.
///
/// Order of calls: `handle_*` and commands first, then the polls until each returns `None`.
#[derive(Debug)]
pub enum Transfer {
    /// The sending side.
    Sender(Box<Sender>),
    /// The receiving side.
    Receiver(Box<Receiver>),
}

impl Transfer {
    /// A message of the other side.
    pub fn handle_control(&mut self, now: Instant, message: Control) {
        match self {
            Self::Sender(sender) => sender.handle_control(now, message),
            Self::Receiver(receiver) => receiver.handle_control(now, message),
        }
    }

    /// A chunk record arrived. Returns false if this side sends, so that there can be none.
    pub fn handle_chunk(&mut self, now: Instant, chunk: SealedChunk) -> bool {
        let Self::Receiver(receiver) = self else { return false };
        receiver.handle_chunk(now, chunk);
        true
    }

    /// A job has finished.
    pub fn handle_job(&mut self, now: Instant, done: JobDone) {
        match self {
            Self::Sender(sender) => sender.handle_job(now, done),
            Self::Receiver(receiver) => receiver.handle_job(now, done),
        }
    }

    /// A chunk from [`Self::poll_chunk`] was sealed for this link.
    pub fn handle_sealed(&mut self, chunk: u64, link: LinkId) {
        if let Self::Sender(sender) = self {
            sender.handle_sealed(chunk, link);
        }
    }

    /// One of several links was lost on both sides: its chunks in flight are sent again. The receiver must learn of
    /// it first.
    pub fn handle_link_dropped(&mut self, now: Instant, link: LinkId) {
        match self {
            Self::Sender(sender) => sender.handle_link_lost(now, link),
            Self::Receiver(receiver) => receiver.handle_link_dropped(link),
        }
    }

    /// The only link was lost: the chunks in flight are sent again.
    pub fn handle_link_lost(&mut self, now: Instant, link: LinkId) {
        match self {
            Self::Sender(sender) => sender.handle_all_lost(now),
            Self::Receiver(receiver) => receiver.handle_link_lost(now, link),
        }
    }

    /// The session has a link again.
    pub fn handle_link_up(&mut self, now: Instant) {
        match self {
            Self::Sender(sender) => sender.handle_link_up(now),
            Self::Receiver(receiver) => receiver.handle_link_up(now),
        }
    }

    /// This process was stopped for a while: what did not arrive meanwhile does not count as late.
    pub fn handle_pause(&mut self, now: Instant) {
        if let Self::Receiver(receiver) = self {
            receiver.handle_pause(now);
        }
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Sender(sender) => sender.handle_timeout(now),
            Self::Receiver(receiver) => receiver.handle_timeout(now),
        }
    }

    /// The session is keyed and the user agreed: a sender sends its offer. Returns false if this side is a receiver.
    pub fn begin(&mut self, now: Instant) -> bool {
        let Self::Sender(sender) = self else { return false };
        sender.begin(now);
        true
    }

    /// The user accepts the files that are offered.
    ///
    /// # Errors
    /// Nothing waits for an answer, or it is a stream.
    pub fn accept(&mut self, now: Instant, sink: Arc<dyn Sink>) -> Result<(), Misuse> {
        let Self::Receiver(receiver) = self else { return Err(Misuse::NotAReceiver) };
        receiver.accept(now, sink)
    }

    /// The user accepts the stream, or the single file, that is offered, into a sink that is written in order.
    ///
    /// # Errors
    /// Nothing waits for an answer, or it is more than one file.
    pub fn accept_stream(&mut self, now: Instant, sink: Arc<dyn StreamSink>) -> Result<(), Misuse> {
        let Self::Receiver(receiver) = self else { return Err(Misuse::NotAReceiver) };
        receiver.accept_stream(now, sink)
    }

    /// The user declines the offer.
    ///
    /// # Errors
    /// Nothing waits for an answer.
    pub fn decline(&mut self, now: Instant, reason: DeclineReason, text: &str) -> Result<(), Misuse> {
        let Self::Receiver(receiver) = self else { return Err(Misuse::NotAReceiver) };
        receiver.decline(now, reason, text)
    }

    /// Ends the transfer and notifies the other side.
    pub fn cancel(&mut self, now: Instant, reason: CancelReason, text: &str) {
        match self {
            Self::Sender(sender) => sender.cancel(now, reason, text),
            Self::Receiver(receiver) => receiver.cancel(now, reason, text),
        }
    }

    /// The session has ended, and no message can be sent any more.
    pub fn abandon(&mut self, now: Instant) {
        match self {
            Self::Sender(sender) => sender.abandon(now),
            Self::Receiver(receiver) => receiver.abandon(now),
        }
    }

    /// The next message to the other side. Call it only when the session has room for a message.
    #[must_use]
    pub fn poll_control(&mut self) -> Option<Control> {
        match self {
            Self::Sender(sender) => sender.poll_control(),
            Self::Receiver(receiver) => receiver.poll_control(),
        }
    }

    /// The next chunk to be sealed, with its number; it counts as in flight from now on.
    #[must_use]
    pub fn poll_chunk(&mut self) -> Option<(u64, Prepared)> {
        match self {
            Self::Sender(sender) => sender.poll_chunk(),
            Self::Receiver(_) => None,
        }
    }

    /// The next job.
    #[must_use]
    pub fn poll_job(&mut self) -> Option<Job> {
        match self {
            Self::Sender(sender) => sender.poll_job(),
            Self::Receiver(receiver) => receiver.poll_job(),
        }
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<TransferEvent> {
        match self {
            Self::Sender(sender) => sender.poll_event(),
            Self::Receiver(receiver) => receiver.poll_event(),
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Sender(sender) => sender.poll_timeout(),
            Self::Receiver(receiver) => receiver.poll_timeout(),
        }
    }

    /// The progress: what the receiver has stored or written out, as far as this side knows.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match self {
            Self::Sender(sender) => sender.progress(),
            Self::Receiver(receiver) => receiver.progress(),
        }
    }

    /// How what is stored at the end differs from the offer, as far as that is known.
    #[must_use]
    pub const fn differences(&self) -> &Differences {
        match self {
            Self::Sender(sender) => sender.differences(),
            Self::Receiver(receiver) => receiver.differences(),
        }
    }

    /// Bytes of chunks that were sealed for this link and are not acknowledged, as the window counts them.
    #[must_use]
    pub fn under_way(&self, link: LinkId) -> u64 {
        match self {
            Self::Sender(sender) => sender.under_way(link),
            Self::Receiver(_) => 0,
        }
    }

    /// Whether this side is a sender whose offer is complete.
    #[must_use]
    pub const fn is_ready_to_offer(&self) -> bool {
        match self {
            Self::Sender(sender) => sender.is_scanned(),
            Self::Receiver(_) => false,
        }
    }

    /// Whether everything was sent and only the confirmation is missing.
    #[must_use]
    pub fn is_unconfirmed(&self) -> bool {
        match self {
            Self::Sender(sender) => sender.is_unconfirmed(),
            Self::Receiver(_) => false,
        }
    }

    /// Whether the sink is moving the entries to their final names, so that only the disk decides the outcome.
    #[must_use]
    pub const fn is_finishing(&self) -> bool {
        match self {
            Self::Sender(_) => false,
            Self::Receiver(receiver) => receiver.is_finishing(),
        }
    }

    /// Whether no job runs or waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Sender(sender) => sender.is_idle(),
            Self::Receiver(receiver) => receiver.is_idle(),
        }
    }

    /// Whether the transfer has ended, every message was taken, and no job runs.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Sender(sender) => sender.is_closed(),
            Self::Receiver(receiver) => receiver.is_closed(),
        }
    }
}
