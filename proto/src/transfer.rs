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
#[cfg(feature = "internals")]
pub mod check;
#[cfg(not(feature = "internals"))]
pub(crate) mod check;
#[cfg(feature = "internals")]
pub mod chunk;
#[cfg(not(feature = "internals"))]
pub(crate) mod chunk;
#[cfg(feature = "internals")]
pub mod chunk_size;
#[cfg(not(feature = "internals"))]
pub(crate) mod chunk_size;
mod chunks;
mod codec;
mod collision;
pub mod component;
mod exchange;
mod hashes;
mod incoming;
#[cfg(feature = "internals")]
pub mod job;
#[cfg(not(feature = "internals"))]
pub(crate) mod job;
mod job_id;
pub mod journal;
#[cfg(feature = "internals")]
pub mod layout;
#[cfg(not(feature = "internals"))]
pub(crate) mod layout;
mod limit;
pub mod local_names;
mod machine;
#[cfg(feature = "internals")]
pub mod manifest;
#[cfg(not(feature = "internals"))]
pub(crate) mod manifest;
#[cfg(feature = "internals")]
pub mod memory;
#[cfg(all(test, not(feature = "internals")))]
pub(crate) mod memory;
mod outcome;
mod outgoing;
pub mod path;
mod ranges;
mod reading;
#[cfg(feature = "internals")]
pub mod receiver;
#[cfg(not(feature = "internals"))]
pub(crate) mod receiver;
#[cfg(feature = "internals")]
pub mod sender;
#[cfg(not(feature = "internals"))]
pub(crate) mod sender;
pub mod storage;
#[cfg(feature = "internals")]
pub mod stream;
#[cfg(not(feature = "internals"))]
pub(crate) mod stream;
#[cfg(feature = "internals")]
pub mod verify_stored;
#[cfg(not(feature = "internals"))]
pub(crate) mod verify_stored;
mod window;

pub use chunk::Compression;
pub use job::{Job, JobDone};
pub use layout::Segment;
pub use limit::LEAST as LEAST_RATE;
pub use manifest::{Entry, EntryKind, Manifest, Mtime, Page, PageBuilder, PageFull, Refusal, Refused, Totals};

#[cfg(feature = "internals")]
pub use self::{
    exchange::TransferEvent,
    machine::Transfer,
    outcome::{FIRST, Outcome, Progress},
    window::CREDIT,
};
#[cfg(not(feature = "internals"))]
pub(crate) use self::{
    exchange::TransferEvent,
    machine::Transfer,
    outcome::{FIRST, Outcome, Progress},
    window::CREDIT,
};

/// The most bytes of chunks in jobs at one time, not compressed.
const IN_JOBS: u64 = 16 << 20;

/// How many chunks of this size one job hashes that only looks at what is there.
fn slice_of(chunk_size: u32) -> usize {
    const BYTES: u32 = 8 << 20;
    (BYTES.checked_div(chunk_size).unwrap_or(1) as usize).max(1)
}

#[cfg(test)]
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
