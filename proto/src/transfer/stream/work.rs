//! The jobs of a stream: reading and packing chunks, unsealing, unpacking and writing them.
//!
//! Reading and writing wait at most [`super::WAIT`] and return what was done, so that a silent source or a full sink
//! never blocks a worker; the machines decide what follows. Bounds: one chunk per job.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use subtle::ConstantTimeEq;

use crate::Instant;
use crate::session::{OpenedRecord, Prepared, SealedChunk};
use crate::transfer::chunk::{Codec, Coders, HEADER, Header, Made};
use crate::transfer::storage::{Fault, FaultKind, StreamSink, StreamSource};
use crate::transfer::{Compression, FIRST, storage};
use crate::wire::Violation;

/// The kinds of work.
pub enum Work {
    /// Reads more bytes of the chunk that is being filled.
    Read(Read),
    /// Hashes and compresses a chunk.
    Pack(Pack),
    /// Opens a chunk that arrived.
    Unseal(Box<SealedChunk>),
    /// Decompresses and checks a chunk whose turn is near.
    Unpack(Box<Unpack>),
    /// Writes the chunk whose turn it is.
    Write(Write),
}

/// The results.
#[derive(Debug)]
pub enum Product {
    /// The chunk with the new bytes, and the result of the source.
    Read(Tail, storage::Read),
    /// A chunk was made.
    Packed(Box<Made>),
    /// A record was opened.
    Unsealed(OpenedRecord<Unsealed>),
    /// A chunk was checked.
    Unpacked(u64, Result<Bytes, Violation>),
    /// The bytes of the chunk that are not written yet.
    Wrote(Bytes),
}

/// A chunk that is being filled.
pub struct Tail {
    buffer: Vec<u8>,
    /// How many bytes of it are filled.
    pub filled: usize,
    /// When it is sent even if it is not full; set with the first byte.
    pub due: Option<Instant>,
}

/// The job that reads more bytes of a chunk.
pub struct Read {
    pub(super) source: Arc<dyn StreamSource>,
    pub(super) tail: Tail,
    pub(super) wait: Duration,
}

/// The job that hashes and compresses a chunk.
pub struct Pack {
    pub(super) plain: Arc<Vec<u8>>,
    pub(super) chunk: u64,
    pub(super) coders: Arc<Coders>,
    pub(super) compression: Compression,
}

/// The job that decompresses and checks a chunk.
pub struct Unpack {
    pub(super) header: Header,
    pub(super) body: BytesMut,
    pub(super) coders: Arc<Coders>,
}

/// The job that writes a chunk.
pub struct Write {
    pub(super) sink: Arc<dyn StreamSink>,
    pub(super) plain: Bytes,
}

/// The content of an authentic record: a chunk as it was sent, or the rule that it breaks.
pub type Unsealed = Result<(Header, BytesMut), Violation>;

impl Tail {
    /// An empty chunk with room for its bytes.
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; super::CHUNK as usize], filled: 0, due: None }
    }

    /// A chunk without room: nothing more is read.
    pub(super) const fn none() -> Self {
        Self { buffer: Vec::new(), filled: 0, due: None }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.filled >= self.buffer.len()
    }

    pub(super) fn into_plain(mut self) -> Vec<u8> {
        self.buffer.truncate(self.filled);
        // Memory that is kept until the acknowledgement is shrunk to the contents.
        self.buffer.shrink_to_fit();
        self.buffer
    }
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tail({} bytes)", self.filled)
    }
}

impl Work {
    /// The name of the work in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Pack(_) => "pack",
            Self::Unseal(_) => "unseal",
            Self::Unpack(_) => "unpack",
            Self::Write(_) => "write",
        }
    }

    /// Does the work.
    pub(crate) fn run(self) -> Result<Product, Fault> {
        match self {
            Self::Read(read) => read.run(),
            Self::Pack(pack) => pack.run().map(|made| Product::Packed(Box::new(made))),
            Self::Unseal(sealed) => Ok(Product::Unsealed(unseal(*sealed))),
            Self::Unpack(unpack) => {
                let chunk = unpack.header.chunk;
                Ok(Product::Unpacked(chunk, unpack.run()))
            }
            Self::Write(Write { sink, mut plain }) => {
                let written = sink.write(&plain, super::WAIT)?;
                plain.advance(written.min(plain.len()));
                Ok(Product::Wrote(plain))
            }
        }
    }
}

impl Read {
    fn run(self) -> Result<Product, Fault> {
        let Self { source, mut tail, wait } = self;
        let room = tail.buffer.get_mut(tail.filled..).unwrap_or_default();
        let most = room.len();
        let read = source.read(room, wait)?;
        let bytes = if let storage::Read::Bytes(bytes) = read { bytes.get().min(most) } else { 0 };
        tail.filled = tail.filled.saturating_add(bytes);
        Ok(Product::Read(tail, read))
    }
}

impl Pack {
    fn run(self) -> Result<Made, Fault> {
        let Self { plain, chunk, coders, compression } = self;
        let hash = *blake3::hash(&plain).as_bytes();
        let length = u32::try_from(plain.len()).map_err(|_| FaultKind::Internal)?;
        let compressed = match compression {
            Compression::Level(level) => coders.compress(&plain, level, HEADER),
            Compression::Off => None,
        };
        let codec = if compressed.is_some() { Codec::Zstd } else { Codec::Raw };
        let mut prepared = compressed.unwrap_or_else(|| {
            let mut raw = Prepared::with_capacity(plain.len().saturating_add(HEADER));
            raw.extend_from_slice(&[0; HEADER]);
            raw.extend_from_slice(&plain);
            raw
        });
        let header = Header { transfer: FIRST, chunk, codec, length, hash };
        if let Some((head, _)) = prepared.body_mut().split_at_mut_checked(HEADER) {
            head.copy_from_slice(&header.to_bytes());
        }
        Ok(Made { chunk, hash, plain: plain.len(), prepared, failures: Vec::new(), drifts: Vec::new() })
    }
}

fn unseal(sealed: SealedChunk) -> OpenedRecord<Unsealed> {
    let OpenedRecord { verdict, content } = sealed.open();
    let content = content.map(|mut plain| {
        let (header, _) = Header::parse(&plain)?;
        if header.transfer != FIRST {
            return Err(Violation::WrongTransfer);
        }
        plain.advance(HEADER);
        Ok((header, plain))
    });
    OpenedRecord { verdict, content }
}

impl Unpack {
    fn run(self) -> Result<Bytes, Violation> {
        let Self { header, body, coders } = self;
        let plain = match header.codec {
            Codec::Raw => body.freeze(),
            Codec::Zstd => coders
                .decompress(&body, header.length as usize, |contents| contents.map(Bytes::copy_from_slice))
                .ok_or(Violation::ChunkHash)?,
            // What is written in order is one file or a stream, which fails as a whole.
            Codec::Incomplete | Codec::Void => return Err(Violation::BadChunk),
        };
        let hash = *blake3::hash(&plain).as_bytes();
        if bool::from(hash.ct_eq(&header.hash)) { Ok(plain) } else { Err(Violation::ChunkHash) }
    }
}
