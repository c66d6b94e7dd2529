//! What a caller can do wrong.

/// A call that was not possible when it was made. Nothing changed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// Any call after the end.
    #[error("the transfer is over: nothing can be asked of it any more")]
    Over,
    /// Any call, while as many as may wait are not taken in yet.
    #[error("too many commands wait: let the runtime run, then call again")]
    Busy,
    /// An offer was accepted or declined by a side that sends.
    #[error("accept or decline: this side sends, and is offered nothing")]
    NotAReceiver,
    /// An offer was accepted or declined when none waits for an answer: it was answered before, or there is none yet.
    #[error("accept or decline: no offer waits for an answer")]
    NothingOffered,
    /// A stream was accepted into a sink for files.
    #[error("accept: a stream is offered, and needs a sink for streams")]
    NotFiles,
    /// Something else than one single file was accepted into a sink for streams.
    #[error("accept: only one single file, or a stream, can go into a sink for streams")]
    NotOneFile,
    /// The verifier words were confirmed or rejected when nothing waits for that.
    #[error("agree: no verifier words wait to be compared")]
    NothingToAgree,
    /// A node that takes no command of this kind.
    #[error("this node takes no such command")]
    NoSuchCommand,
}
