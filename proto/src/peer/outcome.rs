//! How a transfer proceeds and ends: the user's decisions, the events of the transfer machine, and the one terminal
//! event.

use std::time::Duration;

use super::event::{Event, WaitingFor};
use super::failure::{Failure, Lost};
use super::{Peer, close};
use crate::Instant;
use crate::misuse::Misuse;
use crate::transfer::Outcome;
use crate::transfer::manifest::Totals;
use crate::wire::Violation;
use crate::wire::peer::CancelReason;
use crate::wire::relay::Role;

impl Peer {
    /// Sends the sender's offer, once its user confirmed the verifier words.
    pub(super) fn begin(&mut self, now: Instant) {
        if !self.offer.is_pending()
            && self.connection.was_keyed()
            && self.transfer.begin(now)
            && self.offer.accepted_at().is_none()
        {
            self.outbox.notify(Event::Waiting(WaitingFor::Answer));
        }
    }

    /// Shows the offer; with `--verify` only after the user confirmed the words.
    pub(super) fn show_offer(&mut self, offer: Event) {
        if let Some(offer) = self.offer.show(offer) {
            self.outbox.notify(offer);
        }
    }

    pub(super) fn accepted(&mut self, now: Instant) {
        self.offer.accept(now);
        self.outbox.notify_accepted(now);
    }

    /// The user compared the verifier words.
    pub(super) fn agree(&mut self, now: Instant, agreed: bool) -> Result<(), Misuse> {
        if !self.offer.is_pending() || self.outbox.has_ended() || !self.connection.was_keyed() {
            return Err(Misuse::NothingToAgree);
        }
        if agreed {
            let unseen = self.offer.agree();
            self.paths.negotiate(now);
            self.begin(now);
            if let Some(offer) = unseen {
                self.outbox.notify(offer);
            }
        } else {
            self.transfer.cancel(now, CancelReason::NotVerified, "");
            self.fail(now, Failure::NotVerified);
        }
        Ok(())
    }

    /// The user cancels the transfer. While the received files are moved to their destination, only the result of the
    /// disk operations decides, which takes a short time. After that only the other side's farewell is missing, and
    /// this side waits for it briefly. In any other state the transfer fails.
    pub(super) fn cancel(&mut self, now: Instant) {
        self.transfer.cancel(now, CancelReason::Interrupted, "");
        if self.outbox.has_ended() {
            self.connection.hurry();
        }
        if !self.transfer.is_finishing() && !self.outbox.has_ended() {
            self.fail(now, Failure::Interrupted);
        }
    }

    /// The other side, or a machine between the two, violated the protocol: nothing that follows can be trusted.
    pub(super) fn violated(&mut self, now: Instant, violation: Violation) {
        if !self.transfer.is_finishing() {
            self.transfer.cancel(now, CancelReason::Violation, "");
        }
        self.fail(now, Failure::Violation(violation));
    }

    /// No path may carry the data. The other side is notified, because it would wait otherwise.
    pub(super) fn find_no_path(&mut self, now: Instant) {
        self.transfer.cancel(
            now,
            CancelReason::Interrupted,
            "there is no direct path, and nothing is to go over a relay",
        );
        self.fail(now, Failure::Lost(Lost::NoDirectPath));
    }

    /// The transfer machine reported its outcome.
    pub(super) fn over(&mut self, now: Instant, outcome: Outcome) {
        let failure = match outcome {
            Outcome::Complete { root } => return self.complete(now, root),
            // This side caused these outcomes itself and reported the failure then.
            Outcome::Cancelled(_) | Outcome::Lost => return,
            Outcome::Declined { reason, text } => Failure::Declined { reason, text },
            Outcome::Refused(refused) => Failure::Refused(refused),
            Outcome::PeerCancelled { reason, text } => Failure::Peer { reason, text },
            Outcome::Failed(fault) => Failure::Local(fault),
            Outcome::Violation(violation) => Failure::Violation(violation),
            Outcome::Stalled => Failure::Lost(Lost::Stalled),
        };
        self.fail(now, failure);
    }

    fn complete(&mut self, now: Instant, root: [u8; 32]) {
        let duration = self.offer.accepted_at().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let progress = self.transfer.progress();
        self.outbox.notify_last_progress(now, progress);
        // The length of a stream is known only now.
        let totals = self.offer.totals.unwrap_or(Totals { bytes: progress.bytes, ..Totals::default() });
        self.outbox.end_well(totals, self.transfer.differences().clone(), duration, root);
        match self.role {
            Role::Sender => self.leave(now, close::DONE),
            // The receiver waits for the sender's farewell, which shows that the sender has the confirmation.
            Role::Receiver => {}
        }
    }

    /// Reports the failure, and sends the final messages of the transfer to the other side.
    pub(super) fn fail(&mut self, now: Instant, failure: Failure) {
        // While the received files are moved to their destination, the disk decides the outcome; it is reported then.
        if self.transfer.is_finishing() || self.outbox.end(Event::Failed(failure)) {
            self.transfer.abandon(now);
        }
        self.leave(now, close::ENDED);
    }

    /// Sends what is queued, then closes the links.
    pub(super) fn leave(&mut self, now: Instant, code: u32) {
        self.rendezvous.close(now, &mut self.net);
        let control = self.connection.session().and_then(|session| session.control());
        self.paths.close(now, &mut self.net, control, code);
        self.connection.close(now);
        self.flush_farewell(now);
    }
}
