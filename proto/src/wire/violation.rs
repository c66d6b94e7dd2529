//! What a peer, or a relay, can do wrong: every rule of the protocol that a message can break has a variant here.

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
    /// A record without room for header and tag.
    #[error("data failed its check: record too short")]
    RecordTooShort,
    /// A record that is not what the peer sealed.
    #[error("data failed its check")]
    BadRecord,
    /// A record that is not the next one of its lane.
    #[error("data failed its check: record out of order")]
    RecordOrder,
    /// A lane began that was there before.
    #[error("data failed its check: lane used again")]
    LaneReused,
    /// A lane that does not begin with a control record.
    #[error("data failed its check: lane does not begin with a control record")]
    LaneStart,
    /// More streams than a link has.
    #[error("unknown stream")]
    UnknownStream,
    /// A control message on a stream that is not for it.
    #[error("control message on the wrong stream")]
    WrongStream,
    /// Sequence 0 on a message that needs one, or another one on a message that has none.
    #[error("control message with a wrong sequence")]
    WrongSequence,
    /// A control message is missing.
    #[error("control message missing")]
    ControlGap,
    /// A message was acknowledged that was not sent.
    #[error("acknowledgement of what was not sent")]
    AckedUnsent,
    /// More records were counted in a lane than were sent.
    #[error("count of records that were not sent")]
    CountedUnsent,
    /// Control messages on a link that did not begin with `Sync`.
    #[error("control messages before the link was synchronised")]
    NoSync,
    /// A link that has not proven that it belongs to the session carried something else, or too much.
    #[error("link without proof that it belongs to the session")]
    Unbound,
    /// A proof that was not asked for, or a wrong one.
    #[error("unexpected proof of a link")]
    UnexpectedBind,
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
