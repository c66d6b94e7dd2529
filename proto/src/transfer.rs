//! A transfer: one manifest and one virtual byte stream, moved in chunks.
//!
//! [`Transfer`] is the machine, on either side: a [`sender::Sender`] or a [`receiver::Receiver`]. It sends and receives
//! control messages and chunks, and knows nothing of links: its owner carries both. Heavy work leaves as jobs and comes
//! back as their answers.
//!
//! ```text
//!              Sender                          Receiver            when it begins, and how it ends
//!                 └──────── exchange ─────────────┘                messages, events and jobs that wait
//!            ChunkSource                       ChunkSink           which chunk is next (body)
//!        outgoing   stream::outgoing     incoming   stream::ordered
//!                                           └─ arrivals ─┘         credit, and records to be opened
//! ```
//! The rest is what they stand on: names (`path`), the list of entries (`manifest`), where the bytes are (`layout`),
//! one chunk (`chunk`).

mod arrivals;
mod body;
pub mod check;
pub mod chunk;
pub mod chunk_size;
mod chunks;
mod codec;
mod collision;
mod contents;
pub mod differences;
pub mod entries;
mod exchange;
pub mod extents;
mod hashes;
mod incoming;
pub mod job;
mod job_id;
pub mod journal;
pub mod layout;
mod limit;
mod machine;
pub mod manifest;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
mod outgoing;
pub mod path;
mod ranges;
mod reading;
pub mod receiver;
mod recheck;
pub mod sender;
pub mod storage;
pub mod stream;
pub mod verify_stored;
mod window;

use crate::transfer::storage::Fault;
use crate::wire::Untrusted;
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, DeclineReason};

pub use chunk::Compression;
pub use exchange::{STRAGGLERS, TransferEvent};
pub use limit::LEAST as LEAST_RATE;
pub use machine::Transfer;
pub use manifest::Refused;
pub use window::CREDIT;

/// The transfer that a session has; it counts up, and there is one so far.
pub const FIRST: u32 = 1;
/// The most bytes of chunks in jobs at one time, not compressed.
const IN_JOBS: u64 = 16 << 20;

/// How many chunks of this size one job hashes that only looks at what is there.
fn slice_of(chunk_size: u32) -> usize {
    const BYTES: u32 = 8 << 20;
    (BYTES.checked_div(chunk_size).unwrap_or(1) as usize).max(1)
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

#[cfg(test)]
mod tests;

#[cfg(test)]
mod ending_tests;
#[cfg(test)]
mod failing_tests;
#[cfg(test)]
mod hostile_receiver_tests;
#[cfg(test)]
mod hostile_sender_tests;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod skipping_tests;
#[cfg(test)]
mod sparse_tests;
