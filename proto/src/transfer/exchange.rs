//! The state that both ends of a transfer keep: running jobs, waiting messages and events, and how the other side is
//! notified of the end.
//!
//! It decides nothing about chunks. Timer: [`STRAGGLERS`], for jobs that still run at the end. Bounds: a handful of
//! messages and events; its owner bounds the jobs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::manifest::{Manifest, ManifestError, Refusal, Refused};
use super::{FIRST, Outcome};
use crate::Instant;
use crate::transfer::job::{Job, Work};
use crate::transfer::job_id::JobId;
use crate::transfer::storage::{Fault, FaultKind};
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, Control, DeclineReason, Placement, Reason};

/// Jobs that still run this long after the end are not waited for any more.
pub const STRAGGLERS: Duration = Duration::from_secs(5);

/// What a transfer reports to its owner.
#[derive(Debug, Clone)]
pub enum TransferEvent {
    /// Sender: the source was scanned.
    Scanned(Arc<Manifest>),
    /// Receiver: files are offered. Answer with [`super::Transfer::accept`], [`super::Transfer::accept_stream`] (one
    /// file) or [`super::Transfer::decline`].
    Offered(Arc<Manifest>),
    /// Receiver: a stream is offered. Answer with [`super::Transfer::accept_stream`] or [`super::Transfer::decline`].
    StreamOffered,
    /// Sender: the receiver accepted, and the transfer of bytes begins.
    Accepted,
    /// Receiver: the sink has chunks from an earlier transfer, which are hashed again.
    Resuming,
    /// Both sides agree that this many bytes of an earlier transfer are not sent again.
    Resumed {
        /// In bytes of the files.
        bytes: u64,
    },
    /// The receiver has not placed everything exactly as offered. Reported on both sides, at most once, right before
    /// [`Outcome::Complete`].
    Placed(Placement),
    /// The transfer has ended. The last event, reported once. After [`Outcome::Complete`] a receiver still waits for
    /// the other side's farewell.
    Over(Outcome),
}

/// Why a transfer can't continue.
#[derive(Debug)]
pub(super) enum Stop {
    /// The other side violated the protocol.
    Violation(Violation),
    /// The offer breaks a rule for names, or a limit of this side.
    Refused(Refused),
    /// A file on this side could not be read or written.
    Fault(Fault),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<ManifestError> for Stop {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Violation(violation) => Self::Violation(violation),
            ManifestError::Refused(refused) => Self::Refused(refused),
        }
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<FaultKind> for Stop {
    fn from(kind: FaultKind) -> Self {
        Self::Fault(kind.into())
    }
}

/// The jobs, messages and events of one end of a transfer.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    pub jobs: Jobs,
    control: VecDeque<Control>,
    events: VecDeque<TransferEvent>,
    /// The other side knows of the transfer, so a cancellation names it.
    pub announced: bool,
}

impl Exchange {
    /// Queues a message.
    pub fn send(&mut self, message: Control) {
        self.control.push_back(message);
    }

    /// The next message. When a sender's offer is taken, its transfer counts as announced.
    pub fn poll_control(&mut self) -> Option<Control> {
        let message = self.control.pop_front()?;
        self.announced |= matches!(message, Control::Offer(_));
        Some(message)
    }

    /// Drops all waiting messages.
    pub fn clear(&mut self) {
        self.control.clear();
    }

    /// Queues an event.
    pub fn report(&mut self, event: TransferEvent) {
        self.events.push_back(event);
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<TransferEvent> {
        self.events.pop_front()
    }

    /// Whether every message was taken and no job runs.
    pub fn is_done(&self) -> bool {
        self.control.is_empty() && self.jobs.is_idle()
    }

    /// Sends a cancellation instead of all waiting messages.
    pub fn send_cancel(&mut self, reason: CancelReason, text: &str) {
        self.clear();
        let transfer = if self.announced { FIRST } else { 0 };
        self.send(Control::Cancel { transfer, reason, text: Reason::new(text) });
    }

    /// Sends a decline instead of all waiting messages.
    pub fn send_decline(&mut self, reason: DeclineReason, text: &str) {
        self.clear();
        self.send(Control::Decline { transfer: FIRST, reason, text: Reason::new(text) });
    }

    /// Notifies the other side of a failure; returns the outcome.
    pub fn send_stop(&mut self, stop: Stop) -> Outcome {
        match stop {
            Stop::Violation(violation) => {
                self.send_cancel(CancelReason::Violation, "");
                Outcome::Violation(violation)
            }
            Stop::Refused(refused) => {
                let reason = match refused.why {
                    Refusal::Name(_)
                    | Refusal::Link(_)
                    | Refusal::Partial
                    | Refusal::Twice
                    | Refusal::NoDirectory
                    | Refusal::TooManyCollisions => DeclineReason::Policy,
                    Refusal::TooManyEntries | Refusal::TooManyNames | Refusal::TooLarge => DeclineReason::TooLarge,
                };
                self.send_decline(reason, &refused.why.to_string());
                Outcome::Refused(refused)
            }
            Stop::Fault(fault) => {
                self.send_cancel(cancel_reason(&fault), &fault.kind.to_string());
                Outcome::Failed(fault)
            }
        }
    }

    /// The transfer ends: running jobs have [`STRAGGLERS`] left. No message is sent if the other side ended the
    /// transfer or can't be reached any more.
    pub fn end(&mut self, now: Instant, outcome: Outcome) {
        self.jobs.end(now);
        self.report(TransferEvent::Over(outcome));
    }
}

/// Checks that a message refers to this transfer, or (only a cancellation) to none yet.
pub(super) const fn of_this(transfer: u32, or_none: bool) -> Result<(), Violation> {
    if transfer == FIRST || (or_none && transfer == 0) { Ok(()) } else { Err(Violation::WrongTransfer) }
}

/// Whether the session handles this message, so that a transfer ignores it.
pub(super) const fn is_of_session(message: &Control) -> bool {
    matches!(message, Control::Sync | Control::KeepAlive { .. } | Control::Bind { .. })
}

/// The reason that the other side gets for a fault of this one.
const fn cancel_reason(fault: &Fault) -> CancelReason {
    match fault.kind {
        FaultKind::Changed => CancelReason::SourceChanged,
        FaultKind::Cancelled => CancelReason::Interrupted,
        FaultKind::NotRegular
        | FaultKind::Full { .. }
        | FaultKind::Exists
        | FaultKind::Link
        | FaultKind::Refused(_)
        | FaultKind::Io(_)
        | FaultKind::System(_)
        | FaultKind::NotUtf8
        | FaultKind::Panicked
        | FaultKind::Unfinished
        | FaultKind::Internal => CancelReason::Io,
    }
}

/// The jobs of a transfer whose results have not arrived.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    last: u64,
    out: BTreeMap<JobId, &'static str>,
    /// When running jobs are given up; set at the end.
    patience: Option<Instant>,
}

impl Jobs {
    /// Gives the next job its id, if there is work: `work` gets the id that the result will have.
    pub fn start(&mut self, work: impl FnOnce(JobId) -> Option<Work>) -> Option<Job> {
        let id = JobId(self.last.saturating_add(1));
        let work = work(id)?;
        self.last = id.0;
        self.out.insert(id, work.name());
        Some(Job { id, work })
    }

    /// Returns false if no job with this id runs.
    pub fn answered(&mut self, id: JobId) -> bool {
        self.out.remove(&id).is_some()
    }

    /// How many jobs run.
    pub fn count(&self) -> usize {
        self.out.len()
    }

    /// Whether no job runs.
    pub fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    fn end(&mut self, now: Instant) {
        self.patience = now.checked_add(STRAGGLERS);
    }

    /// When running jobs are given up.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.patience.filter(|_| !self.is_idle())
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            for (JobId(id), name) in std::mem::take(&mut self.out) {
                tracing::warn!(id, name, "a job did not end");
            }
        }
    }
}
