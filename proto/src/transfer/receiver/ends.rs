//! How a receiver's transfer ends before its end: what the other side is told, and what becomes of what is stored.

use std::sync::Arc;

use super::{Outcome, Receiver, State};
use crate::Instant;
use crate::transfer::exchange::Stop;
use crate::transfer::job::Work;
use crate::transfer::storage::{Fault, FaultKind};
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, DeclineReason};

impl Receiver {
    /// It can't go on: tells the other side.
    pub(super) fn stop(&mut self, now: Instant, stop: Stop) {
        // Everything is in place already, or soon will be, whatever the other side says now.
        if matches!((&stop, &self.state), (Stop::Violation(_), State::Verified { .. } | State::Finishing { .. })) {
            return self.abandon(now);
        }
        let outcome = self.exchange.send_stop(stop);
        self.over(now, outcome);
    }

    pub(super) fn begin_failed(&mut self, now: Instant, fault: Fault) {
        let reason = match fault.kind {
            FaultKind::Full { .. } => DeclineReason::NoSpace,
            FaultKind::Exists | FaultKind::Link | FaultKind::NotRegular | FaultKind::Refused(_) => {
                DeclineReason::Policy
            }
            FaultKind::Changed
            | FaultKind::Io(_)
            | FaultKind::System(_)
            | FaultKind::NotUtf8
            | FaultKind::Cancelled
            | FaultKind::Panicked
            | FaultKind::Internal => DeclineReason::Io,
        };
        // The other side learns no more than the kind: what lies on this disk does not concern it.
        let text = fault.kind.to_string();
        self.exchange
            .send_decline(reason, if reason == DeclineReason::NoSpace { "not enough space on disk" } else { &text });
        self.over(now, Outcome::Failed(fault));
    }

    pub(super) fn over(&mut self, now: Instant, outcome: Outcome) {
        let progress = self.progress();
        let sink = match std::mem::replace(&mut self.state, State::Waiting) {
            State::Beginning { job: Some(_), .. } => None,
            State::Beginning { sink, .. } | State::Finishing { sink, .. } => Some(sink),
            State::Recalling(recalling) => Some(recalling.sink),
            State::Receiving(chunks) => chunks.staged().map(Arc::clone),
            State::Waiting | State::Reading(_) | State::Offered(_) | State::Verified { .. } | State::Over { .. } => {
                None
            }
        };
        let keep = is_worth_keeping(&outcome);
        let last = sink.map(|sink| if keep { Work::Suspend { sink } } else { Work::Abandon { sink } });
        self.state = State::Over { last, progress };
        self.exchange.end(now, outcome);
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
