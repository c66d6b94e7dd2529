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
    /// A message of the handshake in the place of another one, or for another kind of handshake.
    #[error("message out of turn")]
    OutOfTurn,
    /// A version that is not the highest common one.
    #[error("wrong choice of version")]
    VersionChoice,
}
