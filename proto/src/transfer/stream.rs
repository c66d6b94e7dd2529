//! Bytes in order: a stream of unknown length, or one file, from a source that can be read only once to a sink that
//! can be written only once.
//!
//! Streams have their own types that decide about chunks (`outgoing`, `ordered`), because they share only the chunk
//! record with files: there is no manifest to plan by, nothing is stored that could be reused, and order matters. A
//! chunk has a length of its own, is written in the order of its number after its check, and is acknowledged once it
//! was written; until then the sender keeps its plaintext, so that a lost link loses no bytes that were read. The
//! receiver can also write a file of an ordinary offer to such a sink; the sender is not affected.
//!
//! `root = BLAKE3::derive_key("tallow v1 stream root", chunk hashes in order ‖ u64 chunks, big-endian)` for a stream; a
//! file has the root of its manifest.

#[cfg(feature = "internals")]
pub mod memory;
#[cfg(all(test, not(feature = "internals")))]
pub(crate) mod memory;
pub(super) mod ordered;
pub(super) mod outgoing;
#[cfg(feature = "internals")]
pub mod work;
#[cfg(not(feature = "internals"))]
pub(crate) mod work;

use std::sync::Arc;
use std::time::Duration;

use super::hashes::Hash;
use super::manifest::Manifest;

/// The largest number of bytes in a chunk of a stream.
pub const CHUNK: u32 = 1 << 20;
/// The largest number of chunks of a stream that are read and not written.
pub const AHEAD: u64 = 16;
/// How many bytes a receiver that writes in order holds: [`AHEAD`] chunks with their whole cost.
pub const HOLD: u32 = 17 << 20;
/// A chunk that is not full is sent this long after its first byte.
pub const PARTIAL: Duration = Duration::from_millis(100);
/// How long a job waits for the source or the sink.
pub const WAIT: Duration = Duration::from_millis(250);
/// The pause before the next such job: a source that always answers at once can't keep a worker busy.
pub const PAUSE: Duration = Duration::from_millis(10);

/// The root hash while chunk hashes are added, in order.
struct Root {
    hasher: blake3::Hasher,
    /// How many hashes were added.
    count: u64,
    is_stream: bool,
}

impl Root {
    fn of_stream() -> Self {
        Self { hasher: blake3::Hasher::new_derive_key("tallow v1 stream root"), count: 0, is_stream: true }
    }

    fn of_file(manifest: &Manifest) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("tallow v1 root");
        hasher.update(manifest.digest()).update(&manifest.chunks().to_be_bytes());
        Self { hasher, count: 0, is_stream: false }
    }

    fn add(&mut self, hash: &Hash) {
        self.hasher.update(hash);
        self.count = self.count.saturating_add(1);
    }

    /// The root over all hashes that were added.
    fn finish(&self) -> Hash {
        let mut hasher = self.hasher.clone();
        if self.is_stream {
            hasher.update(&self.count.to_be_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// What is known about the chunks in advance.
#[derive(Clone)]
pub(super) enum Layout {
    /// Only the largest length of a chunk.
    Stream {
        /// In bytes.
        longest: u32,
    },
    /// The whole manifest.
    File(Arc<Manifest>),
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
