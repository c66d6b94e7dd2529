//! One chunk: the plaintext of its record, how it is made, and how it is checked and written. This code runs in jobs.
//!
//! Plaintext, integers big-endian: transfer `u32`, chunk `u64`, codec `u8` (0 raw, 1 zstd), length of the contents
//! `u32`, BLAKE3 of the contents (32 bytes), then the contents, compressed or not.
//!
//! Sending: read, hash, and compress if it pays off. zstd-1 on the first 16 KiB decides this (14 µs for a MiB), so
//! that photos and archives cost nothing. Receiving: open, check the header against the layout, decompress into a
//! buffer of exactly the length that the layout gives, compare the hash, and only then write.
//!
//! The contexts of zstd are reused: [`Coders`] holds them for a transfer rather than for a thread, so there are never
//! more contexts than jobs that ran at once, and they are freed with the transfer.

use std::sync::{Arc, Mutex, PoisonError};

use subtle::ConstantTimeEq;

use super::codec::{Compressor, Decompressor};
use super::hashes::{Claim, Hash, Hashes};
use super::manifest::Manifest;
use crate::pool::Pool;
use crate::session::{OpenedRecord, Prepared, SealedChunk};
use crate::transfer::storage::{Fault, FaultKind, Sink, Source};
use crate::wire::Violation;

/// Length of the header before the contents, in bytes.
pub const HEADER: usize = 49;
/// How many bytes of a chunk are compressed as a sample to decide whether compressing pays off.
const SAMPLE: usize = 16 << 10;
/// Contents shorter than this, in bytes, are sent as they are.
const TINY: usize = 64;

/// Whether chunks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Never.
    Off,
    /// With this level of zstd, 1 to 19 (other values are clamped), if it pays off.
    Level(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Level(3)
    }
}

/// The header before a chunk's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The transfer.
    pub transfer: u32,
    /// The chunk's number.
    pub chunk: u64,
    /// The encoding of the contents in the record.
    pub codec: Codec,
    /// Length of the contents in bytes, not compressed.
    pub length: u32,
    /// BLAKE3 of the contents.
    pub hash: Hash,
}

/// The encoding of a chunk's contents in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not compressed.
    Raw,
    /// zstd frames (RFC 8878).
    Zstd,
}

impl Header {
    /// The encoded header.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let codec = match self.codec {
            Codec::Raw => 0,
            Codec::Zstd => 1,
        };
        let fields: [&[u8]; 5] =
            [&self.transfer.to_be_bytes(), &self.chunk.to_be_bytes(), &[codec], &self.length.to_be_bytes(), &self.hash];
        let mut bytes = [0; HEADER];
        for (slot, byte) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *slot = *byte;
        }
        bytes
    }

    /// Parses the header of a record's plaintext, and returns the rest.
    ///
    /// # Errors
    /// [`Violation::BadChunk`]: the plaintext is too short, or the encoding is unknown.
    pub fn parse(plain: &[u8]) -> Result<(Self, &[u8]), Violation> {
        let mut rest = plain;
        let transfer = u32::from_be_bytes(take(&mut rest)?);
        let chunk = u64::from_be_bytes(take(&mut rest)?);
        let codec = match take(&mut rest)? {
            [0] => Codec::Raw,
            [1] => Codec::Zstd,
            _ => return Err(Violation::BadChunk),
        };
        let length = u32::from_be_bytes(take(&mut rest)?);
        let hash = take(&mut rest)?;
        Ok((Self { transfer, chunk, codec, length, hash }, rest))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Violation> {
    let (head, tail) = rest.split_first_chunk().ok_or(Violation::BadChunk)?;
    *rest = tail;
    Ok(*head)
}

/// The job that makes a chunk.
pub struct Prepare {
    pub(super) source: Arc<dyn Source>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) coders: Arc<Coders>,
    pub(super) compression: Compression,
    pub(super) transfer: u32,
    pub(super) chunk: u64,
}

/// A chunk that was made.
#[derive(Debug)]
pub struct Made {
    /// The chunk's number.
    pub chunk: u64,
    /// BLAKE3 of its contents.
    pub hash: Hash,
    /// Length of its contents in bytes.
    pub plain: usize,
    /// The plaintext of its record.
    pub prepared: Prepared,
}

impl Prepare {
    /// Reads, hashes, compresses.
    pub(crate) fn run(self, stop: &dyn Fn() -> bool) -> Result<Made, Fault> {
        let Self { source, manifest, coders, compression, transfer, chunk } = self;
        let plain = manifest.chunk_len(chunk).ok_or(FaultKind::Internal)?;
        let mut prepared = Prepared::lent(&coders.buffers, plain.saturating_add(HEADER));
        let (head, contents) = prepared.body_mut().split_at_mut_checked(HEADER).ok_or(FaultKind::Internal)?;
        let mut rest = &mut *contents;
        for segment in manifest.segments(chunk) {
            if stop() {
                return Err(FaultKind::Cancelled.into());
            }
            let (piece, tail) = rest.split_at_mut_checked(segment.len).ok_or(FaultKind::Internal)?;
            source.read(segment.index, &segment.entry, segment.offset, piece)?;
            rest = tail;
        }
        let hash = *blake3::hash(contents).as_bytes();
        let length = u32::try_from(plain).map_err(|_| FaultKind::Internal)?;
        let mut header = Header { transfer, chunk, codec: Codec::Raw, length, hash };
        if let Compression::Level(level) = compression
            && let Some(compressed) = coders.compress(contents, level, HEADER)
        {
            header.codec = Codec::Zstd;
            prepared = compressed;
            if let Some((head, _)) = prepared.body_mut().split_at_mut_checked(HEADER) {
                head.copy_from_slice(&header.to_bytes());
            }
        } else {
            head.copy_from_slice(&header.to_bytes());
        }
        Ok(Made { chunk, hash, plain, prepared })
    }
}

/// The job that opens a chunk that arrived.
pub struct Open {
    pub(super) sealed: SealedChunk,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) coders: Arc<Coders>,
    /// Shared by the jobs of one transfer: the chunk's number is inside the sealed record, and two jobs must not
    /// write the same chunk.
    pub(super) hashes: Arc<Mutex<Hashes>>,
    pub(super) transfer: u32,
}

/// The result for a chunk that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It was written.
    Stored {
        /// The chunk's number.
        chunk: u64,
        /// Length of its contents in bytes.
        plain: usize,
        /// BLAKE3 of its contents.
        hash: Hash,
    },
    /// The chunk had been stored already.
    Again,
    /// The peer violated the protocol.
    Violation(Violation),
}

impl Open {
    /// Opens, checks, decompresses, writes.
    pub(crate) fn run(self, stop: &dyn Fn() -> bool) -> Result<OpenedRecord<Opened>, Fault> {
        let Self { sealed, sink, manifest, coders, hashes, transfer } = self;
        let store = Store { sink: &*sink, manifest: &manifest, hashes: &hashes, stop };
        let opened = sealed.open_with(&coders.buffers, |plain| {
            let (header, body) = match Header::parse(plain).and_then(|(header, body)| {
                check(&header, transfer, &manifest, body.len())?;
                Ok((header, body))
            }) {
                Ok(judged) => judged,
                Err(violation) => return Ok(Opened::Violation(violation)),
            };
            match header.codec {
                Codec::Raw => store.store(&header, body),
                Codec::Zstd => coders.decompress(body, header.length as usize, |contents| match contents {
                    Some(contents) => store.store(&header, contents),
                    None => Ok(Opened::Violation(Violation::ChunkHash)),
                }),
            }
        });
        opened.transpose()
    }
}

/// Checks a header against the layout; returns the length that must follow it in the record.
fn check(header: &Header, transfer: u32, manifest: &Manifest, body_len: usize) -> Result<(), Violation> {
    if header.transfer != transfer {
        return Err(Violation::WrongTransfer);
    }
    let length = manifest.chunk_len(header.chunk).ok_or(Violation::BadChunk)?;
    let fits = header.codec == Codec::Zstd || body_len == length;
    if header.length as usize == length && fits { Ok(()) } else { Err(Violation::BadChunk) }
}

/// Where the contents of a chunk are stored.
struct Store<'a> {
    sink: &'a dyn Sink,
    manifest: &'a Manifest,
    hashes: &'a Mutex<Hashes>,
    stop: &'a dyn Fn() -> bool,
}

impl Store<'_> {
    fn store(&self, header: &Header, contents: &[u8]) -> Result<Opened, Fault> {
        let hash = *blake3::hash(contents).as_bytes();
        if !bool::from(hash.ct_eq(&header.hash)) {
            return Ok(Opened::Violation(Violation::ChunkHash));
        }
        let claim = self.hashes.lock().unwrap_or_else(PoisonError::into_inner).claim(header.chunk, &hash);
        let stored = Opened::Stored { chunk: header.chunk, plain: contents.len(), hash };
        match claim {
            Claim::New => {}
            Claim::Kept => return Ok(stored),
            Claim::Again => return Ok(Opened::Again),
            Claim::Changed => return Ok(Opened::Violation(Violation::ChunkChanged)),
            Claim::Beyond => return Ok(Opened::Violation(Violation::BadChunk)),
        }
        let mut rest = contents;
        for segment in self.manifest.segments(header.chunk) {
            if (self.stop)() {
                return Err(FaultKind::Cancelled.into());
            }
            let (piece, tail) = rest.split_at_checked(segment.len).ok_or(FaultKind::Internal)?;
            self.sink.write(segment.index, &segment.entry, segment.offset, piece)?;
            rest = tail;
        }
        Ok(stored)
    }
}

/// Contexts and buffers of zstd, for the jobs of one transfer, and the buffers of its records.
#[derive(Default)]
pub struct Coders {
    buffers: Arc<Pool>,
    compressors: Mutex<Vec<(Compressor<'static>, Vec<u8>)>>,
    decompressors: Mutex<Vec<(Decompressor<'static>, Vec<u8>)>>,
}

impl Coders {
    /// Uses the pool that provides the buffers of received records.
    pub(super) fn new(buffers: Arc<Pool>) -> Self {
        Self { buffers, ..Self::default() }
    }

    /// The compressed contents after `room` bytes; `None`: compression does not pay off.
    pub(super) fn compress(&self, contents: &[u8], level: i32, room: usize) -> Option<Prepared> {
        if contents.len() < TINY {
            return None;
        }
        let pooled = self.compressors.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut zstd, mut scratch) = match pooled {
            Some(coder) => coder,
            None => (Compressor::new(1).ok()?, Vec::new()),
        };
        let mut pays = |contents: &[u8], level, saved: usize| {
            zstd.set_compression_level(level).ok()?;
            scratch.clear();
            scratch.reserve(contents.len());
            // If the result does not fit there, compression gains nothing.
            zstd.compress_to_buffer(contents, &mut scratch).ok()?;
            (scratch.len() <= contents.len().saturating_sub(saved)).then_some(())
        };
        let sample = contents.get(..SAMPLE).unwrap_or_default();
        let paid = match sample.len() {
            0 => Some(()),
            len => pays(sample, 1, len / 8),
        };
        let paid = paid.and_then(|()| pays(contents, level.clamp(1, 19), contents.len() / 16));
        let prepared = paid.map(|()| {
            let mut prepared = Prepared::with_capacity(scratch.len().saturating_add(room));
            prepared.extend_from_slice([0; HEADER].get(..room).unwrap_or_default());
            prepared.extend_from_slice(&scratch);
            prepared
        });
        self.compressors.lock().unwrap_or_else(PoisonError::into_inner).push((zstd, scratch));
        prepared
    }

    /// Calls `then` with the decompressed contents, or with `None` if they are not exactly `length` bytes;
    /// decompression never produces more bytes.
    pub(super) fn decompress<T>(&self, body: &[u8], length: usize, then: impl FnOnce(Option<&[u8]>) -> T) -> T {
        let pooled = self.decompressors.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let pooled = pooled.or_else(|| Some((Decompressor::new().ok()?, Vec::new())));
        let Some((mut zstd, mut scratch)) = pooled else { return then(None) };
        if scratch.len() < length {
            scratch.resize(length, 0);
        }
        let contents = scratch.get_mut(..length).and_then(|contents| {
            let made = zstd.decompress_to_buffer(body, contents).ok()?;
            (made == length).then_some(&*contents)
        });
        let result = then(contents);
        self.decompressors.lock().unwrap_or_else(PoisonError::into_inner).push((zstd, scratch));
        result
    }
}

#[cfg(test)]
mod tests;
