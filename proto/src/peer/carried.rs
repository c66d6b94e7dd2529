//! What a session carries: one transfer, of which this side is one end. It only hands on.
//!
//! It decides which machine that is: a sender's is known from the start, a receiver's once it was offered a stream, or a file was
//! accepted into a sink that is written in order.

use std::sync::Arc;

use crate::Instant;
use crate::misuse::Misuse;
use crate::session::{LinkId, Prepared, SealedChunk};
use crate::transfer::job::{Job, JobDone};
use crate::transfer::manifest::Manifest;
use crate::transfer::storage::StreamSink;
use crate::transfer::stream;
use crate::transfer::{Judged, Outcome, Progress, receiver, sender};
use crate::wire::peer::{CancelReason, Control, DeclineReason, TransferKind};

/// What this side does with the session.
pub(super) enum Transfer {
    Sending(sender::Sender),
    Receiving(receiver::Receiver),
    StreamOut(Box<stream::sender::Sender>),
    StreamIn(Box<stream::receiver::Receiver>),
}

/// What any of them has to tell.
pub(super) enum News {
    Scanned(Arc<Manifest>),
    Offered(Arc<Manifest>),
    StreamOffered,
    Accepted,
    Resuming,
    Resumed { bytes: u64 },
    Record(Judged),
    Over(Outcome),
}

macro_rules! any {
    ($self:expr, $machine:ident => $what:expr) => {
        match $self {
            Self::Sending($machine) => $what,
            Self::Receiving($machine) => $what,
            Self::StreamOut($machine) => $what,
            Self::StreamIn($machine) => $what,
        }
    };
}

impl Transfer {
    pub(super) fn handle_job(&mut self, now: Instant, done: JobDone) {
        any!(self, machine => machine.handle_job(now, done));
    }

    pub(super) fn handle_control(&mut self, now: Instant, control: Control) {
        if let (Self::Receiving(receiver), Control::Offer(offer)) = (&*self, &control)
            && offer.kind == TransferKind::Stream
            && let Some(stream) = receiver.to_stream()
        {
            *self = Self::StreamIn(Box::new(stream));
        }
        any!(self, machine => machine.handle_control(now, control));
    }

    /// False: this side is not sent any.
    pub(super) fn handle_chunk(&mut self, now: Instant, chunk: SealedChunk) -> bool {
        match self {
            Self::Sending(_) | Self::StreamOut(_) => return false,
            Self::Receiving(receiver) => receiver.handle_chunk(now, chunk),
            Self::StreamIn(receiver) => receiver.handle_chunk(now, chunk),
        }
        true
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        any!(self, machine => machine.handle_timeout(now));
    }

    /// A sender's offer leaves. False: this side sends nothing.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        match self {
            Self::Sending(sender) => sender.begin(now),
            Self::StreamOut(sender) => sender.begin(now),
            Self::Receiving(_) | Self::StreamIn(_) => return false,
        }
        true
    }

    /// The person wants a stream, or a file, there.
    pub(super) fn accept_stream(&mut self, now: Instant, sink: Arc<dyn StreamSink>) -> Result<(), Misuse> {
        match self {
            Self::Receiving(receiver) => {
                let mut stream = receiver.to_file(now)?;
                stream.accept(now, sink)?;
                *self = Self::StreamIn(Box::new(stream));
                Ok(())
            }
            Self::StreamIn(receiver) => receiver.accept(now, sink),
            Self::Sending(_) | Self::StreamOut(_) => Err(Misuse::NotAReceiver),
        }
    }

    /// The person does not want it.
    pub(super) fn decline(&mut self, now: Instant, reason: DeclineReason, text: &str) -> Result<(), Misuse> {
        match self {
            Self::Receiving(receiver) => receiver.decline(now, reason, text),
            Self::StreamIn(receiver) => receiver.decline(now, reason, text),
            Self::Sending(_) | Self::StreamOut(_) => Err(Misuse::NotAReceiver),
        }
    }

    pub(super) fn poll_control(&mut self) -> Option<Control> {
        any!(self, machine => machine.poll_control())
    }

    /// The next chunk to be sealed, with its number.
    pub(super) fn poll_chunk(&mut self) -> Option<(u64, Prepared)> {
        match self {
            Self::Sending(sender) => sender.poll_chunk(),
            Self::StreamOut(sender) => sender.poll_chunk(),
            Self::Receiving(_) | Self::StreamIn(_) => None,
        }
    }

    /// A chunk is sealed for this link.
    pub(super) fn handle_sealed(&mut self, chunk: u64, link: LinkId) {
        match self {
            Self::Sending(sender) => sender.handle_sealed(chunk, link),
            Self::StreamOut(sender) => sender.handle_sealed(chunk, link),
            Self::Receiving(_) | Self::StreamIn(_) => {}
        }
    }

    /// Bytes of chunks that were sealed for this link and are not acknowledged.
    pub(super) fn under_way(&self, link: LinkId) -> u64 {
        match self {
            Self::Sending(sender) => sender.under_way(link),
            Self::StreamOut(sender) => sender.under_way(link),
            Self::Receiving(_) | Self::StreamIn(_) => 0,
        }
    }

    pub(super) fn poll_job(&mut self) -> Option<Job> {
        any!(self, machine => machine.poll_job())
    }

    pub(super) fn poll_event(&mut self) -> Option<News> {
        Some(match self {
            Self::Sending(sender) => match sender.poll_event()? {
                sender::Event::Scanned(manifest) => News::Scanned(manifest),
                sender::Event::Accepted => News::Accepted,
                sender::Event::Resumed { bytes } => News::Resumed { bytes },
                sender::Event::Over(outcome) => News::Over(outcome),
            },
            Self::Receiving(receiver) => match receiver.poll_event()? {
                receiver::Event::Offered(manifest) => News::Offered(manifest),
                receiver::Event::Resuming => News::Resuming,
                receiver::Event::Resumed { bytes } => News::Resumed { bytes },
                receiver::Event::Record(judged) => News::Record(judged),
                receiver::Event::Over(outcome) => News::Over(outcome),
            },
            Self::StreamOut(sender) => match sender.poll_event()? {
                stream::sender::Event::Accepted => News::Accepted,
                stream::sender::Event::Over(outcome) => News::Over(outcome),
            },
            Self::StreamIn(receiver) => match receiver.poll_event()? {
                stream::receiver::Event::Offered => News::StreamOffered,
                stream::receiver::Event::Record(judged) => News::Record(judged),
                stream::receiver::Event::Over(outcome) => News::Over(outcome),
            },
        })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        any!(self, machine => machine.poll_timeout())
    }

    /// One of several links is gone on both sides: what was under way on it comes again. A receiver is told first.
    pub(super) fn handle_link_dropped(&mut self, now: Instant, link: LinkId) {
        match self {
            Self::Sending(sender) => sender.handle_link_lost(now, link),
            Self::Receiving(receiver) => receiver.handle_link_dropped(link),
            Self::StreamOut(sender) => sender.handle_link_lost(now, link),
            Self::StreamIn(receiver) => receiver.handle_link_dropped(link),
        }
    }

    /// A link died, the only one: what was under way on it comes again.
    pub(super) fn handle_link_lost(&mut self, now: Instant, link: LinkId) {
        match self {
            Self::Sending(sender) => sender.handle_all_lost(now),
            Self::Receiving(receiver) => receiver.handle_link_lost(now, link),
            Self::StreamOut(sender) => sender.handle_all_lost(now),
            Self::StreamIn(receiver) => receiver.handle_link_lost(now, link),
        }
    }

    /// This process stood still, and nobody was late.
    pub(super) fn handle_pause(&mut self, now: Instant) {
        match self {
            Self::Sending(_) | Self::StreamOut(_) => {}
            Self::Receiving(receiver) => receiver.handle_pause(now),
            Self::StreamIn(receiver) => receiver.handle_pause(now),
        }
    }

    /// The session has a link again.
    pub(super) fn handle_link_up(&mut self, now: Instant) {
        match self {
            Self::Sending(sender) => sender.handle_link_up(now),
            Self::StreamOut(_) => {}
            Self::Receiving(receiver) => receiver.handle_link_up(now),
            Self::StreamIn(receiver) => receiver.handle_link_up(now),
        }
    }

    /// Nothing is left to say.
    pub(super) fn is_closed(&self) -> bool {
        any!(self, machine => machine.is_closed())
    }

    pub(super) fn abandon(&mut self, now: Instant) {
        any!(self, machine => machine.abandon(now));
    }

    /// A sender that knows what it offers.
    pub(super) const fn is_ready_to_offer(&self) -> bool {
        match self {
            Self::Sending(sender) => sender.is_scanned(),
            Self::StreamOut(_) => true,
            Self::Receiving(_) | Self::StreamIn(_) => false,
        }
    }

    /// Everything was sent, and only the confirmation is missing.
    pub(super) const fn is_unconfirmed(&self) -> bool {
        match self {
            Self::Sending(sender) => sender.is_unconfirmed(),
            Self::StreamOut(sender) => sender.is_unconfirmed(),
            Self::Receiving(_) | Self::StreamIn(_) => false,
        }
    }

    pub(super) fn cancel(&mut self, now: Instant, reason: CancelReason, text: &str) {
        any!(self, machine => machine.cancel(now, reason, text));
    }

    pub(super) fn progress(&self) -> Progress {
        any!(self, machine => machine.progress())
    }

    /// Everything is being put in place.
    pub(super) const fn is_finishing(&self) -> bool {
        match self {
            Self::Receiving(receiver) => receiver.is_finishing(),
            Self::Sending(_) | Self::StreamOut(_) | Self::StreamIn(_) => false,
        }
    }

    /// No job is out.
    pub(super) fn is_idle(&self) -> bool {
        any!(self, machine => machine.is_idle())
    }
}
