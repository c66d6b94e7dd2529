//! The commands that a driver gives to a peer.

use std::sync::Arc;

use crate::transfer::storage::{Sink, StreamSink};
use crate::wire::peer::DeclineReason;

/// What a driver without [`super::Sender`] and [`super::Receiver`] may ask of the node; these two types send the
/// commands themselves.
#[derive(Clone)]
#[non_exhaustive]
pub enum Command {
    /// Receiver: accept the offer and store it in this sink.
    Accept(Arc<dyn Sink>),
    /// Receiver: accept the stream, or the one offered file, and write it in order to this sink.
    AcceptStream(Arc<dyn StreamSink>),
    /// Receiver: decline the offer, with a reason and a text for the other side.
    Decline(DeclineReason, String),
    /// The user compared the verifier words; `true`: they are the same.
    Agree(bool),
    /// Cancel the transfer and notify the other side.
    Cancel,
}
