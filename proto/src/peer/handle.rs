//! The two ends as an application holds them, the same for every runtime: a handle on a running driver.
//!
//! Dropping a handle cancels its transfer; the other side is told.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Peer;
use super::event::{Command, Event, Failure, Summary};
use crate::drive::{Ending, Handle};
use crate::misuse::Misuse;
use crate::transfer::storage::{Sink, StreamSink};
use crate::wire::peer::DeclineReason;

/// A transfer being sent.
#[derive(Debug)]
pub struct Sender(Handle<Peer>);

/// A transfer being received.
#[derive(Debug)]
pub struct Receiver(Handle<Peer>);

macro_rules! both_ends {
    ($end:ident) => {
        impl $end {
            /// Wraps the handle of a driver that runs such a [`Peer`]; the runtimes' crates call it.
            #[must_use]
            pub const fn new(handle: Handle<Peer>) -> Self {
                Self(handle)
            }

            /// The next event; `None` once the transfer is over and everything is closed. Cancel-safe.
            pub async fn next_event(&mut self) -> Option<Event> {
                self.0.next_event().await
            }

            /// Waits for the end and ignores everything else. Cancel-safe. `None`: the transfer's machine ended without an outcome,
            /// and `ending` tells why.
            pub async fn outcome(&mut self) -> Option<Result<Summary, Failure>> {
                loop {
                    match self.next_event().await? {
                        Event::Done(summary) => return Some(Ok(summary)),
                        Event::Failed(failure) => return Some(Err(failure)),
                        _ => {}
                    }
                }
            }

            /// How the transfer's machine came to its end; `None` while it runs. [`Ending::Closed`] after a transfer that has an outcome;
            /// otherwise the runtime was shut down, or there is a bug in tallow.
            #[must_use]
            pub fn ending(&self) -> Option<Ending> {
                self.0.ending()
            }

            /// Waits until the other side was told and everything is closed; a process may exit then. Cancel-safe.
            pub async fn closed(&mut self) {
                while self.next_event().await.is_some() {}
            }

            /// Ends the transfer; the other side is told. [`Event::Failed`] follows.
            ///
            /// # Errors
            /// Too many commands wait.
            pub fn cancel(&self) -> Result<(), Misuse> {
                self.command(Command::Cancel)
            }

            /// Answers [`Event::Verifier`]: the words are the same on both sides, or not.
            ///
            /// # Errors
            /// Too many commands wait.
            pub fn agree(&self, agreed: bool) -> Result<(), Misuse> {
                self.command(Command::Agree(agreed))
            }

            fn command(&self, command: Command) -> Result<(), Misuse> {
                self.0.command(command).map_err(|_| Misuse("the transfer is over, or too many commands wait"))
            }
        }

        impl futures_core::Stream for $end {
            type Item = Event;

            fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
                self.0.poll_event(cx)
            }
        }
    };
}

both_ends!(Sender);
both_ends!(Receiver);

impl Receiver {
    /// Takes the offer, into this sink.
    ///
    /// # Errors
    /// Too many commands wait. That nothing was offered yet comes as [`Event::Misuse`].
    pub fn accept(&self, sink: Arc<dyn Sink>) -> Result<(), Misuse> {
        self.command(Command::Accept(sink))
    }

    /// Takes the stream, or the one file that is offered, and writes it in order into this sink.
    ///
    /// # Errors
    /// Too many commands wait. That nothing was offered yet, or more than one file, comes as [`Event::Misuse`].
    pub fn accept_stream(&self, sink: Arc<dyn StreamSink>) -> Result<(), Misuse> {
        self.command(Command::AcceptStream(sink))
    }

    /// Declines it; the sender reads `text`.
    ///
    /// # Errors
    /// Too many commands wait.
    pub fn decline(&self, reason: DeclineReason, text: &str) -> Result<(), Misuse> {
        self.command(Command::Decline(reason, text.to_owned()))
    }
}
