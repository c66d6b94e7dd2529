//! The error for invalid calls.

/// A call that is not possible in the present state. It changed nothing; the variant names the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// Any call after the end.
    #[error("the transfer is over and accepts no more commands")]
    Over,
    /// Any call while the queue of commands is full.
    #[error("too many commands are waiting: let the runtime run, then call again")]
    Busy,
    /// A sending side accepted or declined an offer.
    #[error("accept or decline: this side sends and receives no offer")]
    NotAReceiver,
    /// An offer was accepted or declined although none waits for an answer: it was answered before, or has not arrived
    /// yet.
    #[error("accept or decline: no offer waits for an answer")]
    NothingOffered,
    /// A stream was accepted into a sink for files.
    #[error("accept: the offer is a stream and needs a sink for streams")]
    NotFiles,
    /// An offer that is not a single file was accepted into a sink for streams.
    #[error("accept: only one single file, or a stream, can be received into a sink for streams")]
    NotOneFile,
    /// The verifier words were confirmed or rejected although none wait for an answer.
    #[error("agree: no verifier words are waiting to be compared")]
    NothingToAgree,
    /// The node has no command of this kind.
    #[error("this node does not support this command")]
    NoSuchCommand,
}
