//! The journal of a staging directory: it lists the chunks that are stored there, so that a transfer can be resumed
//! after its process ended.
//!
//! It is a file that only grows. It begins with a header that identifies the transfer, integers big-endian: magic (8
//! bytes), version `u16`, manifest digest (32), chunk size `u32`, chunks `u64`, bytes `u64`, entries `u32`, label as
//! `u8` length and UTF-8, checksum (16). Batches follow: count `u16` (1 to [`BATCH`]), then count times chunk `u64`
//! and hash (32), then checksum (16). A checksum is the beginning of a BLAKE3 keyed hash over the batch and its
//! offset in the file; the key is derived from the header. So a batch is valid only if it is complete, at its offset,
//! and in its journal: a batch that a crash truncated or that was damaged, and everything after it, counts as not
//! written. If a chunk is listed twice, the later hash counts.
//!
//! This module decides what a journal states, not whether it is true: its user hashes the chunks again.
//!
//! No timers. Bounds: [`MOST`] chunks are remembered, a batch is at most 41 KiB, a header
//! at most [`Header::MAX`] bytes.

use std::collections::BTreeMap;

use super::hashes::Hash;
use super::manifest::Manifest;
use super::path::RelPath;

/// The version that this module writes.
pub const VERSION: u16 = 1;
/// The largest number of chunks in one batch.
pub const BATCH: usize = 1024;
/// The largest number of chunks that are remembered: as many as one `Accept` can name.
pub const MOST: usize = 1000 * 1024;

const MAGIC: [u8; 8] = *b"tallow\0j";
const CHECKSUM: usize = 16;
const ENTRY: usize = 40;
/// Length of a header without label and checksum.
const FIXED: usize = 8 + 2 + 32 + 4 + 8 + 8 + 4 + 1;
const HEADER_CONTEXT: &str = "tallow v1 journal header";
const BATCH_CONTEXT: &str = "tallow v1 journal";

/// A chunk that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The chunk's number.
    pub chunk: u64,
    /// BLAKE3 of its contents.
    pub hash: Hash,
}

/// The transfer to which a journal belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The digest of the manifest.
    pub digest: Hash,
    /// Bytes of the virtual stream in one chunk.
    pub chunk_size: u32,
    /// Chunks of the transfer.
    pub chunks: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Entries of the manifest.
    pub entries: u32,
    /// The top-level name of its first entry, for display; empty: there is none.
    pub label: Box<str>,
}

/// Why a file is not a journal of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It begins with something else, or ends within the header.
    #[error("not a journal")]
    NotOne,
    /// Another version wrote it.
    #[error("journal of version {0}")]
    Version(u16),
    /// The header is damaged.
    #[error("damaged journal")]
    Checksum,
}

impl Header {
    /// The largest number of bytes of a header.
    pub const MAX: usize = FIXED + 255 + CHECKSUM;

    /// The header for this transfer.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let totals = manifest.totals();
        let first = manifest.entry(0);
        let label = first.as_ref().and_then(|entry| entry.path.as_str().split('/').next()).unwrap_or_default();
        Self {
            digest: *manifest.digest(),
            chunk_size: manifest.chunk_size(),
            chunks: manifest.chunks(),
            bytes: totals.bytes,
            entries: totals.entries,
            label: label.into(),
        }
    }

    /// The encoded header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let label = self.label.get(..self.label.floor_char_boundary(255)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(Self::MAX);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&self.digest);
        bytes.extend_from_slice(&self.chunk_size.to_be_bytes());
        bytes.extend_from_slice(&self.chunks.to_be_bytes());
        bytes.extend_from_slice(&self.bytes.to_be_bytes());
        bytes.extend_from_slice(&self.entries.to_be_bytes());
        bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(label.as_bytes());
        let checksum = checksum(&blake3::derive_key(HEADER_CONTEXT, &[]), 0, &bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Parses the header at the start of `bytes`, which need not contain more than the first [`Header::MAX`] bytes of
    /// the file; also returns the length of the header.
    ///
    /// # Errors
    /// The file is not a journal of this version.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), Damage> {
        let mut rest = bytes;
        if take::<8>(&mut rest)? != MAGIC {
            return Err(Damage::NotOne);
        }
        let version = u16::from_be_bytes(take(&mut rest)?);
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let digest = take(&mut rest)?;
        let chunk_size = u32::from_be_bytes(take(&mut rest)?);
        let chunks = u64::from_be_bytes(take(&mut rest)?);
        let total = u64::from_be_bytes(take(&mut rest)?);
        let entries = u32::from_be_bytes(take(&mut rest)?);
        let [len] = take(&mut rest)?;
        let (label, rest) = rest.split_at_checked(len.into()).ok_or(Damage::NotOne)?;
        let body = FIXED.saturating_add(len.into());
        let signed = bytes.get(..body).ok_or(Damage::NotOne)?;
        let written = rest.first_chunk::<CHECKSUM>().ok_or(Damage::NotOne)?;
        if checksum(&blake3::derive_key(HEADER_CONTEXT, &[]), 0, signed) != *written {
            return Err(Damage::Checksum);
        }
        let label = std::str::from_utf8(label).map_err(|_| Damage::Checksum)?;
        // The label is displayed: a name that no manifest can contain is replaced by none.
        if !label.is_empty() && RelPath::parse(label).is_err() {
            return Err(Damage::Checksum);
        }
        let header = Self { digest, chunk_size, chunks, bytes: total, entries, label: label.into() };
        Ok((header, body.saturating_add(CHECKSUM)))
    }
}

/// Encodes the batches that are appended to a journal.
#[derive(Debug, Clone)]
pub struct Writer {
    key: [u8; 32],
    at: u64,
}

impl Writer {
    /// For a journal that begins with this encoded header and is valid up to `at`, in bytes.
    #[must_use]
    pub fn new(header: &[u8], at: u64) -> Self {
        Self { key: blake3::derive_key(BATCH_CONTEXT, header), at }
    }

    /// The end of the valid part, in bytes: anything beyond it has to be truncated before something is appended.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.at
    }

    /// The bytes that record these chunks as stored. They count only after [`Writer::appended`].
    #[must_use]
    pub fn encode(&self, stored: &[Stored]) -> Vec<u8> {
        let batches = stored.len().div_ceil(BATCH);
        let frames = batches.saturating_mul(CHECKSUM.saturating_add(2));
        let mut bytes = Vec::with_capacity(stored.len().saturating_mul(ENTRY).saturating_add(frames));
        for batch in stored.chunks(BATCH) {
            let begin = bytes.len();
            bytes.extend_from_slice(&u16::try_from(batch.len()).unwrap_or(u16::MAX).to_be_bytes());
            for Stored { chunk, hash } in batch {
                bytes.extend_from_slice(&chunk.to_be_bytes());
                bytes.extend_from_slice(hash);
            }
            let at = self.at.saturating_add(begin as u64);
            let checksum = checksum(&self.key, at, bytes.get(begin..).unwrap_or_default());
            bytes.extend_from_slice(&checksum);
        }
        bytes
    }

    /// This many bytes of [`Writer::encode`] were written to the file.
    pub const fn appended(&mut self, bytes: u64) {
        self.at = self.at.saturating_add(bytes);
    }
}

/// Reads the batches after the header, piece by piece.
#[derive(Debug)]
pub struct Reader {
    key: [u8; 32],
    chunks: u64,
    /// The end of the valid part.
    at: u64,
    /// Bytes that are not a complete batch yet.
    buffer: Vec<u8>,
    is_over: bool,
    found: BTreeMap<u64, Hash>,
}

impl Reader {
    /// For the journal with this header, whose encoded form in the file is `encoded`.
    #[must_use]
    pub fn new(header: &Header, encoded: &[u8]) -> Self {
        Self {
            key: blake3::derive_key(BATCH_CONTEXT, encoded),
            chunks: header.chunks,
            at: encoded.len() as u64,
            buffer: Vec::new(),
            is_over: false,
            found: BTreeMap::new(),
        }
    }

    /// The next bytes of the file. Returns false if the following bytes are not needed.
    pub fn push(&mut self, mut bytes: &[u8]) -> bool {
        while !self.is_over {
            let want = match self.buffer.first_chunk() {
                None => 2,
                Some(count) => match usize::from(u16::from_be_bytes(*count)) {
                    count if (1..=BATCH).contains(&count) => {
                        count.saturating_mul(ENTRY).saturating_add(2).saturating_add(CHECKSUM)
                    }
                    _ => {
                        self.is_over = true;
                        break;
                    }
                },
            };
            let missing = want.saturating_sub(self.buffer.len());
            let (piece, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            self.buffer.extend_from_slice(piece);
            bytes = rest;
            if self.buffer.len() < want {
                return true;
            }
            if want > 2 && !self.take_batch() {
                self.is_over = true;
            }
        }
        false
    }

    /// The recorded chunks, ascending, each once; and the end of the valid part, in bytes.
    #[must_use]
    pub fn finish(self) -> (Vec<Stored>, u64) {
        (self.found.into_iter().map(|(chunk, hash)| Stored { chunk, hash }).collect(), self.at)
    }

    fn take_batch(&mut self) -> bool {
        let Some((body, written)) = self.buffer.split_last_chunk::<CHECKSUM>() else { return false };
        if checksum(&self.key, self.at, body) != *written {
            return false;
        }
        for entry in body.get(2..).unwrap_or_default().chunks_exact(ENTRY) {
            let Some((chunk, hash)) = entry.split_first_chunk() else { return false };
            let (chunk, Some(hash)) = (u64::from_be_bytes(*chunk), hash.first_chunk()) else { return false };
            if chunk < self.chunks && (self.found.len() < MOST || self.found.contains_key(&chunk)) {
                self.found.insert(chunk, *hash);
            }
        }
        self.at = self.at.saturating_add(self.buffer.len() as u64);
        self.buffer.clear();
        true
    }
}

fn checksum(key: &[u8; 32], at: u64, bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&at.to_be_bytes()).update(bytes);
    *hasher.finalize().as_bytes().first_chunk().unwrap_or(&[0; CHECKSUM])
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Damage> {
    let (head, tail) = rest.split_first_chunk().ok_or(Damage::NotOne)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests;
