//! What a session carries: one transfer, of which this side is one end. It only hands on.

use crate::Instant;
use crate::job::JobDone;
use crate::session::LinkId;
use crate::transfer::{Progress, receiver, sender};
use crate::wire::peer::{CancelReason, Control};

/// What this side does with the session.
pub(super) enum Transfer {
    Sending(sender::Sender),
    Receiving(receiver::Receiver),
}

impl Transfer {
    pub(super) fn handle_job(&mut self, now: Instant, done: JobDone) {
        match self {
            Self::Sending(sender) => sender.handle_job(now, done),
            Self::Receiving(receiver) => receiver.handle_job(now, done),
        }
    }

    pub(super) fn handle_control(&mut self, now: Instant, control: Control) {
        match self {
            Self::Sending(sender) => sender.handle_control(now, control),
            Self::Receiving(receiver) => receiver.handle_control(now, control),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Sending(sender) => sender.handle_timeout(now),
            Self::Receiving(receiver) => receiver.handle_timeout(now),
        }
    }

    pub(super) fn poll_control(&mut self) -> Option<Control> {
        match self {
            Self::Sending(sender) => sender.poll_control(),
            Self::Receiving(receiver) => receiver.poll_control(),
        }
    }

    /// A link died, the only one: what was under way on it comes again.
    pub(super) fn handle_link_lost(&mut self, now: Instant, link: LinkId) {
        match self {
            Self::Sending(sender) => sender.handle_all_lost(now),
            Self::Receiving(receiver) => receiver.handle_link_lost(now, link),
        }
    }

    /// This process stood still, and nobody was late.
    pub(super) fn handle_pause(&mut self, now: Instant) {
        match self {
            Self::Sending(_) => {}
            Self::Receiving(receiver) => receiver.handle_pause(now),
        }
    }

    /// The session has a link again.
    pub(super) fn handle_link_up(&mut self, now: Instant) {
        match self {
            Self::Sending(sender) => sender.handle_link_up(now),
            Self::Receiving(receiver) => receiver.handle_link_up(now),
        }
    }

    /// Nothing is left to say.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Sending(sender) => sender.is_closed(),
            Self::Receiving(receiver) => receiver.is_closed(),
        }
    }

    pub(super) fn abandon(&mut self, now: Instant) {
        match self {
            Self::Sending(sender) => sender.abandon(now),
            Self::Receiving(receiver) => receiver.abandon(now),
        }
    }

    /// Everything was sent, and only the confirmation is missing.
    pub(super) const fn is_unconfirmed(&self) -> bool {
        match self {
            Self::Sending(sender) => sender.is_unconfirmed(),
            Self::Receiving(_) => false,
        }
    }

    pub(super) fn cancel(&mut self, now: Instant, reason: CancelReason, text: &str) {
        match self {
            Self::Sending(sender) => sender.cancel(now, reason, text),
            Self::Receiving(receiver) => receiver.cancel(now, reason, text),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        match self {
            Self::Sending(sender) => sender.progress(),
            Self::Receiving(receiver) => receiver.progress(),
        }
    }

    /// Everything is being put in place.
    pub(super) const fn is_finishing(&self) -> bool {
        match self {
            Self::Sending(_) => false,
            Self::Receiving(receiver) => receiver.is_finishing(),
        }
    }

    /// No job is out.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Sending(sender) => sender.is_idle(),
            Self::Receiving(receiver) => receiver.is_idle(),
        }
    }
}
