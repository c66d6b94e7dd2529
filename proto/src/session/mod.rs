//! In work.

/// The peer (or someone who pretends to be it) broke a rule of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame longer than its state allows.
    #[error("message too large")]
    FrameTooLong,
    /// A frame without a body.
    #[error("empty message")]
    EmptyFrame,
    /// A record of no known kind.
    #[error("unknown kind of record")]
    UnknownKind,
    /// Not one canonical encoding of an allowed message.
    #[error("malformed message")]
    Malformed,
    /// A manifest page that is not the one encoding of its entries, or longer than allowed.
    #[error("malformed list of files")]
    BadPage,
    /// A name that is not UTF-8.
    #[error("file name not UTF-8")]
    NotUtf8,
    /// A manifest entry that is neither file, directory nor symbolic link.
    #[error("unsupported entry type")]
    UnknownEntryKind,
    /// An offer whose counts, sums or chunk size can't be, or are not those of its pages.
    #[error("the offer contradicts itself")]
    BadOffer,
    /// A message of a session or transfer that has no place in its state.
    #[error("message out of turn")]
    UnexpectedMessage,
    /// A message about another transfer than the one that runs.
    #[error("message about another transfer")]
    WrongTransfer,
    /// A chunk that is not part of the transfer, or not as long as it must be.
    #[error("data failed its check: no such chunk")]
    BadChunk,
    /// A chunk whose contents are not what its hash says, or don't decompress to its length.
    #[error("data failed its check: chunk damaged")]
    ChunkHash,
    /// A chunk that came before with other contents.
    #[error("data failed its check: chunk came again, changed")]
    ChunkChanged,
    /// More bytes of chunks than the receiver said it would hold.
    #[error("more data than was allowed")]
    BeyondCredit,
    /// Chunk ranges that don't ascend, overlap, or name what was not offered or not sent.
    #[error("peer asked for data that was not offered")]
    BadRanges,
    /// The same acknowledgement over and over.
    #[error("peer repeats itself")]
    Repeats,
    /// The end of a transfer with other counts than its manifest has.
    #[error("the end contradicts the offer")]
    BadEnd,
    /// The two sides have not the same bytes.
    #[error("data failed its check: the whole differs")]
    WrongRoot,
    /// A message of the handshake in the place of another one, or for another kind of handshake.
    #[error("message out of turn")]
    OutOfTurn,
    /// A version that is not the highest common one.
    #[error("wrong choice of version")]
    VersionChoice,
}

use bytes::BytesMut;

/// A link's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u32);

/// Stand-in.
pub struct Prepared {
    buffer: BytesMut,
}

impl Prepared {
    /// Empty.
    #[must_use]
    pub fn with_capacity(len: usize) -> Self {
        Self { buffer: BytesMut::with_capacity(len) }
    }
    /// Zeros.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self { buffer: BytesMut::zeroed(len) }
    }
    /// Appends.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }
    /// Shortens.
    pub fn truncate(&mut self, len: usize) {
        self.buffer.truncate(len);
    }
    /// Plain.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.buffer
    }
    /// Plain.
    #[must_use]
    pub fn body_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
    /// Wire.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.buffer.len() + 33
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prepared({} bytes)", self.buffer.len())
    }
}

/// Stand-in.
#[derive(Debug)]
pub struct SealedChunk {
    /// Link.
    pub link: LinkId,
    plain: Result<BytesMut, BadRecord>,
    len: usize,
}

impl SealedChunk {
    #[cfg(test)]
    pub(crate) fn for_test(link: LinkId, chunk: Prepared) -> Self {
        Self { link, len: chunk.wire_len(), plain: Ok(chunk.buffer) }
    }
    #[cfg(test)]
    pub(crate) fn forged_for_test(link: LinkId, len: usize) -> Self {
        Self { link, len, plain: Err(BadRecord) }
    }
    /// Wire.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }
    /// Open.
    pub fn open(self) -> Result<BytesMut, BadRecord> {
        self.plain
    }
}

/// A record that is not what the peer sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("data failed its check")]
pub struct BadRecord;
