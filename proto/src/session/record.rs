//! One record: `[u8 kind][u32 lane][u64 number][ciphertext ‖ 16-byte tag]`, the body of one frame.
//!
//! The 13-byte header is the AAD and `lane ‖ number` the nonce (RFC 5116 §3.2: a fixed field and a counter); each lane
//! has a key of its own. Which lane and which number a record gets is decided in `lanes.rs`; here it is only sealed and
//! opened.
//!
//! No chunk is copied on its way: [`Prepared`] has room before and after the plaintext for everything that sealing
//! adds, and a [`SealedChunk`] is opened in the buffer in which it arrived, or in the one that gathers the pieces of
//! its frame.

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
/// What stands before the plaintext in a frame, in bytes.
pub(super) const HEADROOM: usize = PREFIX + HEADER;
/// Room for a whole control record without a list, in bytes: it begins a lane, and may stand before a chunk's frame.
pub(super) const OPENER: usize = 48;
/// Where a prepared chunk's plaintext begins in its buffer.
const LEAD: usize = OPENER + HEADROOM;

/// The plaintext of a chunk record, in a buffer that has room for all that sealing adds, so that it never moves again.
pub struct Prepared {
    buffer: Lent,
}

impl Prepared {
    /// The longest plaintext of a chunk record, in bytes.
    pub const MAX: usize = CHUNK - HEADER - TAG;

    /// No bytes yet; `len` of them can be added without moving what is there.
    #[must_use]
    pub fn with_capacity(len: usize) -> Self {
        let mut prepared = Self::zeroed(len);
        prepared.truncate(0);
        prepared
    }

    /// `len` zeros, to be written over by [`Self::body_mut`].
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self::of(BytesMut::zeroed(len.saturating_add(LEAD + TAG)).into(), len)
    }

    /// `len` bytes of any value, all to be written over by [`Self::body_mut`], in a buffer that goes back once it was
    /// sent.
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

    /// Shortens the plaintext to `len` bytes; one that is shorter stays.
    pub fn truncate(&mut self, len: usize) {
        self.buffer.truncate(len.saturating_add(LEAD));
    }

    /// The plaintext.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.buffer.get(LEAD..).unwrap_or_default()
    }

    /// The plaintext, to be written.
    #[must_use]
    pub fn body_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(LEAD..).unwrap_or_default()
    }

    /// Length of the plaintext in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body().len()
    }

    /// Whether there is no plaintext.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the frame that this becomes, in bytes: what [`SealedChunk::len`] says on the other side.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.len().saturating_add(HEADROOM + TAG)
    }

    /// Seals it under this header. `opener`, at most [`OPENER`] bytes, is a whole frame that comes before it.
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

/// A chunk record whose header was right (the next number of a lane that exists). Whether it is genuine is known once
/// it is open.
pub struct SealedChunk {
    /// The link on which it came.
    pub link: LinkId,
    pub(super) key: Arc<LaneKey>,
    pub(super) header: Header,
    pub(super) frame: Frame,
}

impl SealedChunk {
    /// Length of its frame in bytes, as [`Prepared::wire_len`] counts it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.frame.len().saturating_add(PREFIX)
    }

    /// Never: a record has a header and a tag.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Length of its plaintext in bytes.
    #[must_use]
    pub const fn plain_len(&self) -> usize {
        self.frame.len().saturating_sub(HEADER + TAG)
    }

    /// Verifies it and gives its plaintext. Heavy (an AEAD over up to 4 MiB, and a copy if it came in pieces): to be
    /// called in a job.
    #[must_use]
    pub fn open(self) -> OpenedRecord<BytesMut> {
        OpenedRecord::new(self.link, open_frame(&self.key, self.header, self.frame).ok())
    }

    /// Verifies it and lends its plaintext to `then`. The record's buffer goes to the pool afterwards; if the record
    /// arrived in pieces, they are gathered in a buffer from there.
    pub fn open_with<T>(self, pool: &Pool, then: impl FnOnce(&[u8]) -> T) -> OpenedRecord<T> {
        let mut body = self.frame.into_buffer(|len| pool.take(len));
        let result = open_body(&self.key, self.header, &mut body).map(then);
        pool.put(body);
        OpenedRecord::new(self.link, result.ok())
    }
}

/// A chunk record after its job. The verdict is for [`super::Session::handle_verdict`], the content for the owner's
/// next layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedRecord<T> {
    /// Whether the peer sealed it.
    pub verdict: Verdict,
    /// What was made of its plaintext; `None`: it is not genuine.
    pub content: Option<T>,
}

/// Whether a record of a link is what the peer sealed under its lane and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The link on which it arrived.
    pub link: LinkId,
    /// False: it was forged or changed on its way.
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
    /// A chunk as it arrives, for the tests of what stands above sessions; not genuine: somebody changed it on its way.
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

/// A record that is not what the peer sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("data failed its check")]
pub struct BadRecord;

impl From<BadRecord> for Violation {
    fn from(_: BadRecord) -> Self {
        Self::BadRecord
    }
}

/// What a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message of [`crate::wire::peer::ControlRecord`].
    Control,
    /// A chunk of a transfer.
    Chunk,
}

/// The part of a record that is not encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub lane: u32,
    pub number: u64,
}

impl Header {
    /// Reads the header of a whole record.
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
    fn open<'a>(&self, header: Header, sealed: &'a mut [u8]) -> Result<&'a [u8], BadRecord> {
        self.aead.open(header.nonce(), &header.to_bytes(), sealed).ok_or(BadRecord)
    }
}

impl std::fmt::Debug for LaneKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LaneKey(***)")
    }
}

/// Seals all that follows the headroom at `at`, fills the headroom and appends the tag: a frame stands at `at` then.
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

/// A record's plaintext, opened in the buffer in which it arrived, or in the one that gathers its pieces.
pub(super) fn open_frame(key: &LaneKey, header: Header, frame: Frame) -> Result<BytesMut, BadRecord> {
    let mut body = frame.into_buffer(BytesMut::with_capacity);
    let len = open_body(key, header, &mut body)?.len();
    body.advance(HEADER);
    body.truncate(len);
    Ok(body)
}

/// Opens a frame's body in place.
fn open_body<'a>(key: &LaneKey, header: Header, body: &'a mut [u8]) -> Result<&'a [u8], BadRecord> {
    let sealed = body.get_mut(HEADER..).ok_or(BadRecord)?;
    key.open(header, sealed)
}

/// The headroom and the canonical encoding of a control record, in a buffer that has room for the tag.
pub(super) fn plain_control<T: Serialize>(message: &T) -> Option<BytesMut> {
    let len = postcard::experimental::serialized_size(message).ok()?;
    let mut buffer = BytesMut::zeroed(len.checked_add(HEADROOM + TAG)?);
    buffer.truncate(len.checked_add(HEADROOM)?);
    postcard::to_slice(message, buffer.get_mut(HEADROOM..)?).ok()?;
    Some(buffer)
}

#[cfg(test)]
#[path = "record_tests.rs"]
pub(super) mod tests;

#[cfg(test)]
#[path = "record_vectors.rs"]
mod vectors;
