//! What may be asked of a peer.

use std::sync::Arc;

use crate::transfer::storage::{Sink, StreamSink};
use crate::wire::peer::DeclineReason;

/// What a driver without [`super::Sender`] and [`super::Receiver`] may ask of the node; these two make the commands
/// themselves.
#[derive(Clone)]
#[non_exhaustive]
pub enum Command {
    /// Receiver: take the offer, into this sink.
    Accept(Arc<dyn Sink>),
    /// Receiver: take the stream, or the one file that is offered, and write it in order into this sink.
    AcceptStream(Arc<dyn StreamSink>),
    /// Receiver: don't, with a reason in words for the other side.
    Decline(DeclineReason, String),
    /// The person compared the verifier words: the same, or not.
    Agree(bool),
    /// End it; the other side is told.
    Cancel,
}
