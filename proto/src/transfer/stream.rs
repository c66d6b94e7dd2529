//! Bytes in order: a stream of unknown length, or one file, from a source that can only be read once into a sink that
//! can't go back.
//!
//! The chunks of a stream are decided by other types than those of files (`outgoing`, `ordered`), since they have only
//! the chunk record in common: there is no manifest to plan by, nothing is stored that could be found again, and order
//! matters. A chunk has a length of its own, comes out in the order of its number after its check, and is acknowledged
//! once it was written out; until then the sender keeps its plaintext, so that a lost link costs nothing that was read.
//! The receiver also takes a file that is offered in the ordinary way when all its bytes are to go into such a sink:
//! the sender need not know.
//!
//! `root = BLAKE3::derive_key("tallow v1 stream root", chunk hashes in order ‖ u64 chunks, big-endian)` for a stream; a
//! file has the root of its manifest.

mod gaps;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub(super) mod ordered;
pub(super) mod outgoing;
pub mod work;

use std::sync::Arc;
use std::time::Duration;

use super::hashes::Hash;
use super::manifest::Manifest;

/// The most bytes in a chunk of a stream.
pub const CHUNK: u32 = 1 << 20;
/// The most chunks of a stream that are read and not written out.
pub const AHEAD: u64 = 16;
/// What a receiver that writes in order will hold: [`AHEAD`] chunks with all that they count.
pub const HOLD: u32 = 17 << 20;
/// A chunk that is not full leaves this long after its first byte.
pub const PARTIAL: Duration = Duration::from_millis(100);
/// How long a job waits for the source or the sink.
pub const WAIT: Duration = Duration::from_millis(250);
/// How long after that the next one begins: a source that answers at once can't keep a worker busy.
pub const PAUSE: Duration = Duration::from_millis(10);

/// The root while the hashes come, in order.
struct Root {
    hasher: blake3::Hasher,
    /// How many there were.
    count: u64,
    is_stream: bool,
}

impl Root {
    fn of_stream() -> Self {
        Self { hasher: blake3::Hasher::new_derive_key("tallow v1 stream root"), count: 0, is_stream: true }
    }

    fn of_file(manifest: &Manifest) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("tallow v1 root");
        hasher.update(manifest.layout_digest()).update(&manifest.chunks().to_be_bytes());
        Self { hasher, count: 0, is_stream: false }
    }

    fn add(&mut self, hash: &Hash) {
        self.hasher.update(hash);
        self.count = self.count.saturating_add(1);
    }

    /// Of all that were added.
    fn finish(&self) -> Hash {
        let mut hasher = self.hasher.clone();
        if self.is_stream {
            hasher.update(&self.count.to_be_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// What is known of the chunks beforehand.
#[derive(Clone)]
pub(super) enum Layout {
    /// No more than how long one can be.
    Stream {
        /// In bytes.
        longest: u32,
    },
    /// Everything.
    File(Arc<Manifest>),
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
