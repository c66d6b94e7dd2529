//! How far a transfer is, and how it ends.

use super::manifest::Refused;
use super::storage::Fault;
use crate::wire::peer::{CancelReason, DeclineReason};
use crate::wire::{Untrusted, Violation};

/// The transfer that a session has; it counts up, and there is one so far.
pub const FIRST: u32 = 1;

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
