//! How a receiver's transfer ends early: how the other side is notified, and what happens to stored chunks.

use super::{Cleanup, Outcome, Receiver, State};
use crate::Instant;
use crate::transfer::exchange::Stop;
use crate::transfer::job::Work;
use crate::transfer::storage::{Fault, FaultKind};
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, DeclineReason};

impl Receiver {
    /// The transfer can't continue: notifies the other side.
    pub(super) fn stop(&mut self, now: Instant, stop: Stop) {
        // Everything is in place already, or soon will be, whatever the other side sends now.
        if matches!(stop, Stop::Violation(_)) && (self.is_finishing() || matches!(self.state, State::Verified { .. })) {
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
            // The class of the failure on this side agrees: it was a decision, not an error.
            FaultKind::Cancelled => DeclineReason::Person,
            FaultKind::Changed
            | FaultKind::Vanished
            | FaultKind::Io(_)
            | FaultKind::System(_)
            | FaultKind::NotUtf8
            | FaultKind::Panicked
            | FaultKind::Unfinished
            | FaultKind::Internal => DeclineReason::Io,
        };
        // The other side gets only the kind: the names on this disk are private.
        let text = fault.kind.to_string();
        self.exchange
            .send_decline(reason, if reason == DeclineReason::NoSpace { "not enough space on disk" } else { &text });
        self.over(now, Outcome::Failed(fault));
    }

    pub(super) fn over(&mut self, now: Instant, outcome: Outcome) {
        let progress = self.progress();
        let keep = is_worth_keeping(&outcome);
        let work = |sink| if keep { Work::Suspend { sink } } else { Work::Abandon { sink } };
        let last = |sink| Cleanup::Last(work(sink));
        let cleanup = match std::mem::replace(&mut self.state, State::Waiting) {
            // The sink's `begin` was not called, or failed.
            State::Beginning { job: Some(_), .. } => Cleanup::None,
            State::Beginning { .. } if matches!(outcome, Outcome::Failed(_)) => Cleanup::None,
            State::Beginning { sink, .. } => Cleanup::AfterBegin(work(sink)),
            State::Finishing(finishing) => last(finishing.sink),
            State::Verifying(verifying) => last(verifying.sink),
            State::Receiving(mut chunks) => chunks.staged().map_or(Cleanup::None, |staged| last(staged.sink)),
            State::Waiting | State::Reading(_) | State::Offered(_) | State::Verified { .. } | State::Over { .. } => {
                Cleanup::None
            }
        };
        self.state = State::Over { cleanup, progress };
        self.exchange.end(now, outcome);
    }
}

/// Whether stored chunks can be used when the same files are sent again. A peer with the right code sealed every
/// chunk, so only these cases make them useless: the root differs from the sender's, or the sender contradicts
/// itself; the source changed, because its manifest will differ; or the verifier words were not confirmed.
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
