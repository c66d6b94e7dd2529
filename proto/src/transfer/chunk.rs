//! One chunk: the plaintext of its record, how it is made, and how it is checked and written. This code runs in jobs.
//!
//! Plaintext, integers big-endian: transfer `u32`, chunk `u64`, codec `u8` (0 raw, 1 zstd, 2 incomplete, 3 void),
//! length of the contents `u32`, BLAKE3 of the contents (32 bytes), then the contents, compressed or not.
//!
//! A chunk is incomplete if a file in it failed: before its contents stand their own BLAKE3 (32 bytes) and the number
//! of such a file's entry (`u32`), and in the place of the file's bytes stand zeros. It is void if it consists of such
//! a file alone: then only the number follows. In both the hash is that of the chunk when it was made for the first
//! time, so that it does not depend on which of two copies arrives.
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
use super::contents::{Contents, Missing, ReadChunk};
use super::hashes::{Claim, Hash, Hashes};
use super::manifest::Manifest;
use crate::pool::Pool;
use crate::session::{OpenedRecord, Prepared, SealedChunk};
use crate::transfer::storage::{Drift, Fault, FaultKind, Sink};
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
    /// With zeros in the place of a file that failed.
    Incomplete,
    /// Not at all: the file that it consists of failed.
    Void,
}

/// Length of what stands before the contents of an incomplete chunk: their hash, and a number.
const INCOMPLETE: usize = 36;

impl Header {
    /// The encoded header.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let codec = match self.codec {
            Codec::Raw => 0,
            Codec::Zstd => 1,
            Codec::Incomplete => 2,
            Codec::Void => 3,
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
            [2] => Codec::Incomplete,
            [3] => Codec::Void,
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
    pub(super) contents: Contents,
    pub(super) coders: Arc<Coders>,
    pub(super) compression: Compression,
    pub(super) transfer: u32,
    pub(super) chunk: u64,
    /// Its hash, if it was made before.
    pub(super) hash: Option<Hash>,
}

/// A chunk that was made.
#[derive(Debug)]
pub struct Made {
    /// The chunk's number.
    pub chunk: u64,
    /// BLAKE3 of its contents; of one that lacks a file, what it was when the chunk was made for the first time.
    pub hash: Hash,
    /// Length of its contents in bytes.
    pub plain: usize,
    /// The plaintext of its record.
    pub prepared: Prepared,
    /// Files that failed when it was made.
    pub failures: Vec<(u32, Fault)>,
    /// Files in it that are not as they were offered.
    pub drifts: Vec<(u32, Drift)>,
}

impl Prepare {
    /// Reads, hashes, compresses.
    pub(crate) fn run(self, stop: &dyn Fn() -> bool) -> Result<Made, Fault> {
        let Self { contents: files, coders, compression, transfer, chunk, hash: before } = self;
        let plain = files.manifest.chunk_len(chunk).ok_or(FaultKind::Internal)?;
        let mut prepared = Prepared::lent(&coders.buffers, plain.saturating_add(HEADER));
        let (head, contents) = prepared.body_mut().split_at_mut_checked(HEADER).ok_or(FaultKind::Internal)?;
        let ReadChunk { missing, failures, drifts, .. } = files.read(chunk, contents, stop)?;
        let length = u32::try_from(plain).map_err(|_| FaultKind::Internal)?;
        let own = match missing {
            Missing::Nothing | Missing::Part(_) => *blake3::hash(contents).as_bytes(),
            Missing::All(_) => *blake3::hash(&[]).as_bytes(),
        };
        let hash = if missing == Missing::Nothing { own } else { before.unwrap_or(own) };
        let mut header = Header { transfer, chunk, codec: Codec::Raw, length, hash };
        match missing {
            Missing::Nothing => {
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
            }
            Missing::Part(entry) => {
                header.codec = Codec::Incomplete;
                prepared = joined(&[&header.to_bytes(), &own, &entry.to_be_bytes(), contents]);
            }
            Missing::All(entry) => {
                header.codec = Codec::Void;
                prepared = joined(&[&header.to_bytes(), &entry.to_be_bytes()]);
            }
        }
        Ok(Made { chunk, hash, plain, prepared, failures, drifts })
    }
}

/// A record's plaintext of these pieces.
fn joined(pieces: &[&[u8]]) -> Prepared {
    let len = pieces.iter().fold(0_usize, |sum, piece| sum.saturating_add(piece.len()));
    let mut prepared = Prepared::with_capacity(len);
    pieces.iter().for_each(|piece| prepared.extend_from_slice(piece));
    prepared
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
        /// It lacks this file, which the sender has to say.
        lacks: Option<u32>,
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
                Codec::Incomplete => store.store_incomplete(&header, body),
                Codec::Void => Ok(store.note_void(&header, body)),
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
    let fits = match header.codec {
        Codec::Raw => body_len == length,
        Codec::Zstd => true,
        Codec::Incomplete => body_len == length.saturating_add(INCOMPLETE),
        Codec::Void => body_len == size_of::<u32>(),
    };
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
        match self.claim(header, None) {
            Ok(stored) => self.write(header.chunk, contents).map(|()| stored),
            Err(opened) => Ok(opened),
        }
    }

    fn store_incomplete(&self, header: &Header, body: &[u8]) -> Result<Opened, Fault> {
        let mut contents = body;
        let (Ok(own), Ok(entry)) = (take::<32>(&mut contents), take(&mut contents).map(u32::from_be_bytes)) else {
            return Ok(Opened::Violation(Violation::BadChunk));
        };
        if !bool::from(blake3::hash(contents).as_bytes().ct_eq(&own)) {
            return Ok(Opened::Violation(Violation::ChunkHash));
        }
        if !self.manifest.segments(header.chunk).any(|segment| segment.index == entry) {
            return Ok(Opened::Violation(Violation::BadEntry));
        }
        match self.claim(header, Some(entry)) {
            Ok(stored) => self.write(header.chunk, contents).map(|()| stored),
            Err(opened) => Ok(opened),
        }
    }

    fn note_void(&self, header: &Header, body: &[u8]) -> Opened {
        let mut body = body;
        let Ok(entry) = take(&mut body).map(u32::from_be_bytes) else {
            return Opened::Violation(Violation::BadChunk);
        };
        if !self.manifest.segments(header.chunk).all(|segment| segment.index == entry) {
            return Opened::Violation(Violation::BadEntry);
        }
        match self.claim(header, Some(entry)) {
            Ok(opened) | Err(opened) => opened,
        }
    }

    /// Whether the chunk is to be written; else what became of it.
    fn claim(&self, header: &Header, lacks: Option<u32>) -> Result<Opened, Opened> {
        let claim = self.hashes.lock().unwrap_or_else(PoisonError::into_inner).claim(header.chunk, &header.hash);
        let (chunk, plain, hash) = (header.chunk, header.length as usize, header.hash);
        let stored = Opened::Stored { chunk, plain, hash, lacks };
        match claim {
            Claim::New => Ok(stored),
            Claim::Kept => Err(stored),
            Claim::Again => Err(Opened::Again),
            Claim::Changed => Err(Opened::Violation(Violation::ChunkChanged)),
            Claim::Beyond => Err(Opened::Violation(Violation::BadChunk)),
        }
    }

    fn write(&self, chunk: u64, contents: &[u8]) -> Result<(), Fault> {
        let mut rest = contents;
        for segment in self.manifest.segments(chunk) {
            if (self.stop)() {
                return Err(FaultKind::Cancelled.into());
            }
            let (piece, tail) = rest.split_at_checked(segment.len).ok_or(FaultKind::Internal)?;
            self.sink.write(segment.index, &segment.entry, segment.offset, piece)?;
            rest = tail;
        }
        Ok(())
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
