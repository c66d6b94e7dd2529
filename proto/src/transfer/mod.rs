//! A transfer: one manifest and one virtual byte stream, moved in chunks.
//!
//! [`sender::Sender`] and [`receiver::Receiver`] are the two machines. They speak in control messages and chunks, and know nothing
//! of links: whoever owns them carries both. Heavy work leaves as jobs and comes back as their answers. The rest is what they
//! stand on: names (`path`), the list of entries (`manifest`), where the bytes are (`layout`), one chunk (`chunk`).

pub mod check;
pub mod chunk;
pub mod chunk_size;
mod codec;
mod collision;
mod hashes;
mod incoming;
pub mod job;
pub mod journal;
pub mod layout;
mod limit;
pub mod manifest;
pub mod memory;
mod outgoing;
pub mod path;
mod ranges;
mod reading;
pub mod recall;
pub mod receiver;
pub mod sender;
pub mod storage;
pub mod stream;
mod window;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Instant;
use crate::session::LinkId;
use crate::transfer::job::{Job, JobId, Work};
use crate::transfer::storage::{Fault, FaultKind};
use crate::wire::Untrusted;
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, DeclineReason};

pub use chunk::Compression;
pub use limit::LEAST as LEAST_RATE;
pub use manifest::Refused;
pub use window::CREDIT;

/// The transfer that a session has; it counts up, and there is one so far.
pub const FIRST: u32 = 1;
/// Jobs that are still out this long after the end are waited for no more.
pub const STRAGGLERS: Duration = Duration::from_secs(5);
/// The most bytes of chunks in jobs at one time, not compressed.
const IN_JOBS: u64 = 16 << 20;

/// How many chunks of this size one job hashes that only looks at what is there.
fn slice_of(chunk_size: u32) -> usize {
    const BYTES: u32 = 8 << 20;
    (BYTES.checked_div(chunk_size).unwrap_or(1) as usize).max(1)
}

/// What became of a chunk record in its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// The peer sealed it: a sign of life on its link.
    Genuine(LinkId),
    /// It is not what the peer sealed: its link must go.
    Bad(LinkId),
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is in place, and both sides computed the same root.
    Complete {
        /// Over the manifest and the hashes of all chunks.
        root: [u8; 32],
    },
    /// The receiver said no.
    Declined {
        /// Why.
        reason: DeclineReason,
        /// In its words.
        text: Untrusted,
    },
    /// The offer breaks a rule for names, or the receiver's limits.
    Refused(Refused),
    /// This side ended it.
    Cancelled(CancelReason),
    /// The other side ended it.
    PeerCancelled {
        /// Why.
        reason: CancelReason,
        /// In its words.
        text: Untrusted,
    },
    /// A file of this side.
    Failed(Fault),
    /// The other side broke a rule.
    Violation(Violation),
    /// The session ended before the transfer.
    Lost,
    /// The other side is there, and does not go on.
    Stalled,
}

/// How far a transfer is, in bytes of the files themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Stored by the receiver, as far as this side knows.
    pub bytes: u64,
    /// All; 0 while nobody knows, of a stream.
    pub total: u64,
}

/// The jobs of a machine that were not answered.
#[derive(Debug, Default)]
struct Jobs {
    last: u64,
    out: BTreeMap<JobId, &'static str>,
    /// When no answer is waited for any more; set at the end.
    patience: Option<Instant>,
}

impl Jobs {
    fn start(&mut self, work: Work) -> Job {
        self.last = self.last.saturating_add(1);
        let id = JobId(self.last);
        self.out.insert(id, work.name());
        Job { id, work }
    }

    /// False: no job of that name is out.
    fn answered(&mut self, id: JobId) -> bool {
        self.out.remove(&id).is_some()
    }

    /// A job of this kind is out.
    fn is_out(&self, name: &str) -> bool {
        self.out.values().any(|out| *out == name)
    }

    fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    fn end(&mut self, now: Instant) {
        self.patience = now.checked_add(STRAGGLERS);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.patience.filter(|_| !self.is_idle())
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            for (JobId(id), name) in std::mem::take(&mut self.out) {
                tracing::warn!(id, name, "a job did not end");
            }
        }
    }
}

/// What the other side is told about a fault of this one.
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
        | FaultKind::Internal => CancelReason::Io,
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

#[cfg(test)]
mod ending_tests;
#[cfg(test)]
mod hostile_receiver_tests;
#[cfg(test)]
mod hostile_sender_tests;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod resume_tests;
