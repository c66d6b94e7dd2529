//! The format of a record: `[u8 kind][u32 lane][u64 number][ciphertext ‖ 16-byte tag]` is the body of one frame.
//!
//! The 13-byte header is the AAD, and `lane ‖ number` is the nonce (RFC 5116 §3.2: a fixed field and a counter). Each
//! lane has its own key. `lanes.rs` decides the lane and the number of a record; this module only seals and opens
//! records.
//!
//! Chunks are not copied here: [`Prepared`] has room before and after the plaintext for everything that sealing adds,
//! and a [`SealedChunk`] is decrypted in the buffer in which it arrived, or in the buffer that joins the pieces of its
//! frame.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;

use super::LinkId;
use super::aead::Key;
pub use super::aead::TAG;
use crate::handshake::{RecordKey, Suite};
use crate::pool::{Lent, Pool};
use crate::wire::Frame;
use crate::wire::Violation;
use crate::wire::frame::{CHUNK, KIND_CHUNK, KIND_CONTROL, PREFIX};

/// Length of a record's header in bytes.
pub const HEADER: usize = 13;
/// Length of the frame prefix and the record header, which precede the plaintext, in bytes.
pub(super) const HEADROOM: usize = PREFIX + HEADER;
/// Room for the frame of a control record without a list, in bytes: such a record begins a lane and may precede a
/// chunk's frame.
pub(super) const OPENER: usize = 48;
/// Offset of the plaintext in the buffer of a prepared chunk.
const LEAD: usize = OPENER + HEADROOM;

/// The plaintext of a chunk record, in a buffer with room for all that sealing adds, so that the plaintext is not
/// moved.
pub struct Prepared {
    buffer: Lent,
}

impl Prepared {
    /// The longest plaintext of a chunk record, in bytes.
    pub const MAX: usize = CHUNK - HEADER - TAG;

    /// An empty plaintext; `len` bytes can be appended without a reallocation.
    #[must_use]
    pub fn with_capacity(len: usize) -> Self {
        let mut prepared = Self::zeroed(len);
        prepared.truncate(0);
        prepared
    }

    /// A plaintext of `len` zeros, which the caller overwrites through [`Self::body_mut`].
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self::of(BytesMut::zeroed(len.saturating_add(LEAD + TAG)).into(), len)
    }

    /// A plaintext of `len` bytes, in a buffer that returns to the pool once it was sent. Contents are zero or stale;
    /// the caller must overwrite them through [`Self::body_mut`].
    #[must_use]
    pub fn lent(pool: &Arc<Pool>, len: usize) -> Self {
        Self::of(Lent::new(pool, len.saturating_add(LEAD + TAG)), len)
    }

    fn of(mut buffer: Lent, len: usize) -> Self {
        buffer.truncate(len.saturating_add(LEAD));
        Self { buffer }
    }

    /// Appends to the plaintext.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Shortens the plaintext to `len` bytes; a shorter plaintext stays as it is.
    pub fn truncate(&mut self, len: usize) {
        self.buffer.truncate(len.saturating_add(LEAD));
    }

    /// The plaintext.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.buffer.get(LEAD..).unwrap_or_default()
    }

    /// The plaintext, for writing.
    #[must_use]
    pub fn body_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(LEAD..).unwrap_or_default()
    }

    /// Length of the plaintext in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body().len()
    }

    /// Whether the plaintext is empty.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the frame on the wire, in bytes; the receiver's [`SealedChunk::len`] returns the same value.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.len().saturating_add(HEADROOM + TAG)
    }

    /// Seals the chunk with this header. `opener`, of at most [`OPENER`] bytes, is a whole frame to be sent before it.
    pub(super) fn seal(mut self, key: &LaneKey, header: Header, opener: &[u8]) -> Result<Bytes, Self> {
        let Some(before) = self.buffer.get_mut(..OPENER) else { return Err(self) };
        let Some((unused, room)) = OPENER.checked_sub(opener.len()).and_then(|at| before.split_at_mut_checked(at))
        else {
            return Err(self);
        };
        room.copy_from_slice(opener);
        let start = unused.len();
        if seal_frame(key, header, &mut self.buffer, OPENER).is_none() {
            return Err(self);
        }
        Ok(Bytes::from_owner(self.buffer).slice(start..))
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prepared({} bytes)", self.len())
    }
}

/// A chunk record with a valid header (the next number of an existing lane). Decrypting it shows whether it is
/// authentic.
pub struct SealedChunk {
    /// The link on which the record arrived.
    pub link: LinkId,
    pub(super) key: Arc<LaneKey>,
    pub(super) header: Header,
    pub(super) frame: Frame,
}

impl SealedChunk {
    /// Length of the record's frame in bytes, as [`Prepared::wire_len`] counts it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.frame.len().saturating_add(PREFIX)
    }

    /// Always false: a record has a header and a tag.
    #[cfg(feature = "internals")]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Length of the plaintext in bytes.
    #[cfg(test)]
    #[must_use]
    pub const fn plain_len(&self) -> usize {
        self.frame.len().saturating_sub(HEADER + TAG)
    }

    /// Verifies the record and returns its plaintext. Call this in a job: it runs an AEAD over up to 4 MiB, and copies
    /// the record if it arrived in several pieces.
    #[must_use]
    pub fn open(self) -> OpenedRecord<BytesMut> {
        OpenedRecord::new(self.link, open_frame(&self.key, self.header, self.frame).ok())
    }

    /// Verifies the record and passes its plaintext to `then`. Afterwards the record's buffer goes to the pool; if the
    /// record arrived in several pieces, they are joined in a buffer of the pool.
    pub fn open_with<T>(self, pool: &Pool, then: impl FnOnce(&[u8]) -> T) -> OpenedRecord<T> {
        let mut body = self.frame.into_buffer(|len| pool.take(len));
        let result = open_body(&self.key, self.header, &mut body).map(then);
        pool.put(body);
        OpenedRecord::new(self.link, result.ok())
    }
}

/// The result of the job of a chunk record. The owner passes the verdict to [`super::Session::handle_verdict`] and the
/// content to the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedRecord<T> {
    /// Whether the record is authentic.
    pub verdict: Verdict,
    /// The result for its plaintext; `None` if the record is not authentic.
    pub content: Option<T>,
}

/// Whether a record is authentic, that is, whether the peer sealed it with its lane and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The link on which it arrived.
    pub link: LinkId,
    /// False: an attacker forged or modified the record.
    pub is_genuine: bool,
}

impl<T> OpenedRecord<T> {
    const fn new(link: LinkId, content: Option<T>) -> Self {
        Self { verdict: Verdict { link, is_genuine: content.is_some() }, content }
    }
}

impl<T, E> OpenedRecord<Result<T, E>> {
    /// The error of its content, if there is one.
    ///
    /// # Errors
    /// The content is an error.
    pub fn transpose(self) -> Result<OpenedRecord<T>, E> {
        let Self { verdict, content } = self;
        Ok(OpenedRecord { verdict, content: content.transpose()? })
    }
}

impl std::fmt::Debug for SealedChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedChunk")
            .field("link", &self.link)
            .field("lane", &self.header.lane)
            .field("number", &self.header.number)
            .field("len", &self.len())
            .finish()
    }
}

#[cfg(test)]
impl SealedChunk {
    /// A chunk as it arrives, for tests of the layers above the session. Unless it is `genuine`, decrypting it fails.
    pub(crate) fn arrived(link: LinkId, chunk: Prepared, genuine: bool) -> Self {
        static KEYS: std::sync::LazyLock<[Arc<LaneKey>; 2]> = std::sync::LazyLock::new(|| {
            [1, 2].map(|byte| Arc::new(LaneKey::new(&RecordKey::new([byte; 32]), Suite::Aes256Gcm, 0).unwrap()))
        });
        let [right, wrong] = &*KEYS;
        let header = Header { kind: Kind::Chunk, lane: 0, number: 0 };
        let frame = chunk.seal(right, header, &[]).unwrap();
        Self {
            link,
            key: Arc::clone(if genuine { right } else { wrong }),
            header,
            frame: Frame::from(frame.slice(PREFIX..)),
        }
    }
}

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A [`crate::wire::peer::ControlRecord`].
    Control,
    /// A chunk of a transfer.
    Chunk,
}

/// The part of a record that is authenticated and not encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub lane: u32,
    pub number: u64,
}

impl Header {
    /// Parses the header of a whole record.
    pub fn parse(frame: &Frame) -> Result<Self, Violation> {
        let head = frame.head::<HEADER>().filter(|_| frame.len() >= HEADER + TAG).ok_or(Violation::RecordTooShort)?;
        let [kind, l0, l1, l2, l3, n0, n1, n2, n3, n4, n5, n6, n7] = head;
        let kind = match kind {
            KIND_CONTROL => Kind::Control,
            KIND_CHUNK => Kind::Chunk,
            _ => return Err(Violation::UnknownKind),
        };
        let number = u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
        Ok(Self { kind, lane: u32::from_be_bytes([l0, l1, l2, l3]), number })
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let [l0, l1, l2, l3] = self.lane.to_be_bytes();
        let [n0, n1, n2, n3, n4, n5, n6, n7] = self.number.to_be_bytes();
        let kind = match self.kind {
            Kind::Control => KIND_CONTROL,
            Kind::Chunk => KIND_CHUNK,
        };
        [kind, l0, l1, l2, l3, n0, n1, n2, n3, n4, n5, n6, n7]
    }

    fn nonce(self) -> [u8; HEADER - 1] {
        let [_, nonce @ ..] = self.to_bytes();
        nonce
    }
}

/// The AEAD key of one lane.
pub(super) struct LaneKey {
    aead: Key,
    #[cfg(test)]
    pub bytes: [u8; 32],
}

impl LaneKey {
    /// `None` only if the crypto library can't be used.
    pub fn new(key: &RecordKey, suite: Suite, lane: u32) -> Option<Self> {
        let bytes = key.lane_key(lane);
        Some(Self {
            aead: Key::new(suite, &bytes)?,
            #[cfg(test)]
            bytes: *bytes,
        })
    }

    fn seal(&self, header: Header, plain: &mut [u8]) -> Option<[u8; TAG]> {
        #[cfg(test)]
        tests::note_sealing(self, header);
        self.aead.seal(header.nonce(), &header.to_bytes(), plain)
    }

    /// Opens `ciphertext ‖ tag` in place.
    fn open<'a>(&self, header: Header, sealed: &'a mut [u8]) -> Result<&'a [u8], Violation> {
        self.aead.open(header.nonce(), &header.to_bytes(), sealed).ok_or(Violation::BadRecord)
    }
}

impl std::fmt::Debug for LaneKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LaneKey(***)")
    }
}

/// Encrypts the bytes behind the headroom at `at`, fills the headroom and appends the tag. The result is a frame that
/// begins at `at`.
pub(super) fn seal_frame(key: &LaneKey, header: Header, buffer: &mut BytesMut, at: usize) -> Option<()> {
    let (headroom, plain) = buffer.get_mut(at..)?.split_at_mut_checked(HEADROOM)?;
    let body = u32::try_from(plain.len().checked_add(HEADER + TAG)?).ok()?;
    let (prefix, head) = headroom.split_at_mut_checked(PREFIX)?;
    prefix.copy_from_slice(&body.to_be_bytes());
    head.copy_from_slice(&header.to_bytes());
    let tag = key.seal(header, plain)?;
    buffer.extend_from_slice(&tag);
    Some(())
}

/// Decrypts a record in the buffer in which it arrived, or in one that joins its pieces, and returns the plaintext.
pub(super) fn open_frame(key: &LaneKey, header: Header, frame: Frame) -> Result<BytesMut, Violation> {
    let mut body = frame.into_buffer(BytesMut::with_capacity);
    let len = open_body(key, header, &mut body)?.len();
    body.advance(HEADER);
    body.truncate(len);
    Ok(body)
}

/// Decrypts a frame's body in place.
fn open_body<'a>(key: &LaneKey, header: Header, body: &'a mut [u8]) -> Result<&'a [u8], Violation> {
    let sealed = body.get_mut(HEADER..).ok_or(Violation::BadRecord)?;
    key.open(header, sealed)
}

/// Encodes a control record behind the headroom, in a buffer with room for the tag.
pub(super) fn plain_control<T: Serialize>(message: &T) -> Option<BytesMut> {
    let len = postcard::experimental::serialized_size(message).ok()?;
    let mut buffer = BytesMut::zeroed(len.checked_add(HEADROOM + TAG)?);
    buffer.truncate(len.checked_add(HEADROOM)?);
    postcard::to_slice(message, buffer.get_mut(HEADROOM..)?).ok()?;
    Some(buffer)
}

#[cfg(test)]
pub(super) mod tests;

#[cfg(test)]
mod vectors;
