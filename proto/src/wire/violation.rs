//! Protocol violations of a peer or a relay: each rule of the protocol that a message can break has a variant here.

/// The peer (or an attacker in its place) broke a rule of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame is longer than the state of its receiver allows.
    #[error("message too large")]
    FrameTooLong,
    /// A frame has no body.
    #[error("empty message")]
    EmptyFrame,
    /// A record has an unknown kind.
    #[error("unknown kind of record")]
    UnknownKind,
    /// The bytes are not the canonical encoding of one allowed message.
    #[error("malformed message")]
    Malformed,
    /// A record is shorter than header and tag.
    #[error("data failed its check: record too short")]
    RecordTooShort,
    /// A record failed its AEAD check.
    #[error("data failed its check")]
    BadRecord,
    /// A record is not the next one of its lane.
    #[error("data failed its check: record out of order")]
    RecordOrder,
    /// A lane id was used again.
    #[error("data failed its check: lane used again")]
    LaneReused,
    /// A lane does not begin with a control record.
    #[error("data failed its check: lane does not begin with a control record")]
    LaneStart,
    /// The peer used more streams than a link has.
    #[error("unknown stream")]
    UnknownStream,
    /// A control message arrived on a stream that does not carry it.
    #[error("control message on the wrong stream")]
    WrongStream,
    /// A sequenced message has sequence 0, or an unsequenced message has another one.
    #[error("control message with a wrong sequence")]
    WrongSequence,
    /// The sequence of control messages has a gap.
    #[error("control message missing")]
    ControlGap,
    /// The peer acknowledged a message that was not sent.
    #[error("acknowledgement of what was not sent")]
    AckedUnsent,
    /// The peer reported more records of a lane than were sent.
    #[error("count of records that were not sent")]
    CountedUnsent,
    /// The peer sent control messages on a link before `Sync`.
    #[error("control messages before the link was synchronised")]
    NoSync,
    /// An unproven link carried other messages than its proof, or too many bytes or records.
    #[error("link without proof that it belongs to the session")]
    Unbound,
    /// A `Bind` message is unexpected or wrong.
    #[error("unexpected proof of a link")]
    UnexpectedBind,
    /// A manifest page is not the canonical encoding of its entries, or is longer than allowed.
    #[error("malformed list of files")]
    BadPage,
    /// A file name is not UTF-8.
    #[error("file name not UTF-8")]
    NotUtf8,
    /// A manifest entry is neither file, directory nor symbolic link.
    #[error("unsupported entry type")]
    UnknownEntryKind,
    /// The counts, sums or chunk size of an offer are impossible or differ from those of its pages.
    #[error("the offer contradicts itself")]
    BadOffer,
    /// A message is not allowed in the present state of the session or transfer.
    #[error("message out of turn")]
    UnexpectedMessage,
    /// A message refers to a transfer that is not the current one.
    #[error("message about another transfer")]
    WrongTransfer,
    /// A chunk is not part of the transfer, or has a wrong length.
    #[error("data failed its check: no such chunk")]
    BadChunk,
    /// A chunk's contents do not match its hash, or do not decompress to its length.
    #[error("data failed its check: chunk damaged")]
    ChunkHash,
    /// A chunk arrived before with other contents.
    #[error("data failed its check: chunk came again, changed")]
    ChunkChanged,
    /// The sender sent more bytes of chunks than the receiver's credit.
    #[error("more data than was allowed")]
    BeyondCredit,
    /// Chunk ranges do not ascend, overlap, or include chunks that were not offered or not sent.
    #[error("peer asked for data that was not offered")]
    BadRanges,
    /// The peer repeats the same acknowledgement too often.
    #[error("peer repeats itself")]
    Repeats,
    /// A status or a chunk contradicts what is known of a file: it is not offered, was named before, or is not said to
    /// have failed.
    #[error("the state of a file contradicts the offer")]
    BadEntry,
    /// The counts in `End` differ from those of the manifest.
    #[error("the end contradicts the offer")]
    BadEnd,
    /// The root hashes of the two sides differ.
    #[error("data failed its check: the whole differs")]
    WrongRoot,
    /// A handshake message is not the expected one, or belongs to another mode of the handshake.
    #[error("message out of turn")]
    OutOfTurn,
    /// The peer selected a version that is not the highest common one.
    #[error("wrong choice of version")]
    VersionChoice,
}
