//! How a receiver's transfer ends before its end: what the other side is told, and what becomes of what is stored.

use super::{Event, FIRST, Outcome, Receiver, State, cancel_reason};
use crate::Instant;
use crate::transfer::Refused;
use crate::transfer::job::Work;
use crate::transfer::manifest::Refusal;
use crate::transfer::storage::{Fault, FaultKind};
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, Control, DeclineReason, Reason};

impl Receiver {
    pub(super) fn violated(&mut self, now: Instant, violation: Violation) {
        // Everything is in place already, or soon will be, whatever the other side says now.
        if matches!(self.state, State::Verified { .. } | State::Finishing { .. }) {
            return self.abandon(now);
        }
        self.tell_cancel(CancelReason::Violation, "");
        self.over(now, Outcome::Violation(violation));
    }

    pub(super) fn refused(&mut self, now: Instant, refused: Refused) {
        let reason = match refused.why {
            Refusal::Name(_) | Refusal::Link(_) | Refusal::Partial | Refusal::Collision => DeclineReason::Policy,
            Refusal::TooManyEntries | Refusal::TooManyNames | Refusal::TooLarge => DeclineReason::TooLarge,
        };
        let text = refused.why.to_string();
        self.tell_decline(reason, &text);
        self.over(now, Outcome::Refused(refused));
    }

    pub(super) fn begin_failed(&mut self, now: Instant, fault: Fault) {
        let reason = match fault.kind {
            FaultKind::Full { .. } => DeclineReason::NoSpace,
            FaultKind::Exists | FaultKind::Link | FaultKind::NotRegular | FaultKind::Refused(_) => {
                DeclineReason::Policy
            }
            // As the class of the failure here says: it was a decision, and nothing broke.
            FaultKind::Cancelled => DeclineReason::Person,
            FaultKind::Changed
            | FaultKind::Io(_)
            | FaultKind::System(_)
            | FaultKind::NotUtf8
            | FaultKind::Panicked
            | FaultKind::Internal => DeclineReason::Io,
        };
        // What lies on this disk is nobody's business, so no more than the kind is told.
        let text = fault.kind.to_string();
        self.tell_decline(reason, if reason == DeclineReason::NoSpace { "not enough space on disk" } else { &text });
        self.over(now, Outcome::Failed(fault));
    }

    pub(super) fn failed(&mut self, now: Instant, fault: Fault) {
        let text = fault.kind.to_string();
        self.tell_cancel(cancel_reason(&fault), &text);
        self.over(now, Outcome::Failed(fault));
    }

    pub(super) fn tell_decline(&mut self, reason: DeclineReason, text: &str) {
        self.control.clear();
        self.control.push_back(Control::Decline { transfer: FIRST, reason, text: Reason::new(text) });
    }

    pub(super) fn tell_cancel(&mut self, reason: CancelReason, text: &str) {
        self.control.clear();
        let transfer = if matches!(self.state, State::Waiting) { 0 } else { FIRST };
        self.control.push_back(Control::Cancel { transfer, reason, text: Reason::new(text) });
    }

    pub(super) fn over(&mut self, now: Instant, outcome: Outcome) {
        let progress = self.progress();
        let sink = match std::mem::replace(&mut self.state, State::Waiting) {
            State::Beginning { job: Some(_), .. } => None,
            State::Beginning { sink, .. } | State::Finishing { sink, .. } => Some(sink),
            State::Recalling(recalling) => Some(recalling.sink),
            State::Receiving(receiving) => Some(receiving.sink),
            State::Waiting
            | State::Reading(_)
            | State::Offered { .. }
            | State::Verified { .. }
            | State::Over { .. } => None,
        };
        let keep = is_worth_keeping(&outcome);
        let last = sink.map(|sink| if keep { Work::Suspend { sink } } else { Work::Abandon { sink } });
        self.state = State::Over { last, progress };
        self.jobs.end(now);
        self.events.push_back(Event::Over(outcome));
    }
}

/// Whether what is stored can be of use when the same is sent again. Every chunk of it is what a peer with the right code sealed, so
/// only these are worthless: one whose sum is not the sender's, or that the sender contradicts; a source that changed, since its
/// manifest will be another; and words that were not confirmed.
fn is_worth_keeping(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Violation(violation) => !matches!(violation, Violation::WrongRoot | Violation::ChunkChanged),
        Outcome::Cancelled(reason) | Outcome::PeerCancelled { reason, .. } => match reason {
            CancelReason::SourceChanged | CancelReason::NotVerified => false,
            CancelReason::Interrupted | CancelReason::Io | CancelReason::Violation => true,
        },
        Outcome::Declined { .. } | Outcome::Refused(_) => false,
        Outcome::Complete { .. } | Outcome::Failed(_) | Outcome::Lost | Outcome::Stalled => true,
    }
}
