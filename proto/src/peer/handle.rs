//! The handles through which an application controls a running transfer; they are the same for every runtime.
//!
//! Dropping a handle cancels its transfer and notifies the other side. Bound: [`ASIDE`] events are kept while a call
//! waits for another one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::Peer;
use super::answer::{Offer, StreamOffer};
use super::command::Command;
use super::event::{Event, Path, Progress, Summary};
use super::failure::Failure;
use crate::code::{Code, Link};
use crate::drive::{Ending, Handle};
use crate::misuse::Misuse;
use crate::node::Node;
use crate::wire::peer::DeclineReason;

/// Events that are kept aside; beyond this number the oldest are dropped.
const ASIDE: usize = 64;

/// A running transfer on the sending side.
#[derive(Debug)]
pub struct Sender(Running);

/// A running transfer on the receiving side.
#[derive(Debug)]
pub struct Receiver(Running);

macro_rules! both_ends {
    ($end:ident) => {
        impl $end {
            /// Wraps the handle of a driver that runs a [`Peer`]; the runtime crates call this.
            #[must_use]
            pub const fn new(handle: Handle<Peer>) -> Self {
                Self(Running::new(handle))
            }

            /// The next event; `None` once the transfer has ended and everything is closed. Exactly one
            /// [`Event::Done`] or [`Event::Failed`] is returned before that. Cancel-safe.
            pub async fn next_event(&mut self) -> Option<Event> {
                std::future::poll_fn(|cx| self.0.poll_event(cx)).await
            }

            /// Waits for the end and ignores other events: offers are declined and verifier words are rejected. After
            /// the end it returns the same result again. Cancel-safe.
            ///
            /// # Errors
            /// Why the transfer failed.
            pub async fn outcome(&mut self) -> Result<Summary, Failure> {
                loop {
                    if let Some(outcome) = &self.0.outcome {
                        return outcome.clone();
                    }
                    drop(self.next_event().await);
                }
            }

            /// How the transfer's driver ended; `None` while it runs. [`Ending::Closed`] after a transfer that has an
            /// outcome of its own; any other value means that the runtime was shut down, or that tallow has a bug.
            #[must_use]
            pub fn ending(&self) -> Option<Ending> {
                self.0.handle.ending()
            }

            /// Like [`Self::outcome`], but also waits until the other side was notified and everything is closed;
            /// after that the process may exit. Cancel-safe.
            ///
            /// # Errors
            /// Why the transfer failed.
            pub async fn closed(&mut self) -> Result<Summary, Failure> {
                while self.next_event().await.is_some() {}
                self.outcome().await
            }

            /// How the transfer ended, once the application took [`Event::Done`] or [`Event::Failed`].
            #[must_use]
            pub const fn ended(&self) -> Option<&Result<Summary, Failure>> {
                self.0.outcome.as_ref()
            }

            /// The progress; available even if the application takes no events. `None`: nothing was offered yet.
            #[must_use]
            pub fn progress(&self) -> Option<Progress> {
                let waiting = self.0.handle.last_event(|event| match event {
                    Event::Progress(progress) => Some(*progress),
                    _ => None,
                });
                waiting.or(self.0.progress)
            }

            /// The path that the bytes take; available even if the application takes no events. `None`: no path was
            /// found yet.
            #[must_use]
            pub fn path(&self) -> Option<Path> {
                let waiting = self.0.handle.last_event(|event| match event {
                    Event::Path(path) => Some(*path),
                    _ => None,
                });
                waiting.or(self.0.path)
            }

            /// Cancels the transfer and notifies the other side. The last event shows whether the cancellation was in
            /// time: [`Failure::Interrupted`] if it was, [`Event::Done`] if everything had been transferred already.
            ///
            /// # Errors
            /// [`Misuse::Over`] once the transfer has ended; [`Self::closed`] then waits at most one more second.
            /// [`Misuse::Busy`] if the command queue is full.
            pub fn cancel(&self) -> Result<(), Misuse> {
                self.0.cancel()
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

impl Sender {
    /// Waits for the code that the receiver needs. Other events are kept for [`Self::next_event`] meanwhile, except
    /// for verifier words, which are rejected. Later calls return the same code. Cancel-safe.
    ///
    /// # Errors
    /// The transfer ended before the code was known.
    pub async fn code(&mut self) -> Result<Code, Failure> {
        self.wait_for_code().await?;
        self.0.announced.as_ref().map(|announced| announced.code.clone()).ok_or(Failure::Stopped)
    }

    /// Like [`Self::code`], with the relay's address, so that the receiver needs nothing else. `None`: no address is
    /// known at which another machine reaches the embedded relay.
    ///
    /// # Errors
    /// As [`Self::code`].
    pub async fn link(&mut self) -> Result<Option<Link>, Failure> {
        self.wait_for_code().await?;
        Ok(self.0.announced.as_ref().and_then(|announced| announced.link.clone()))
    }

    /// Like [`Self::code`]: the addresses at which the embedded relay listens.
    ///
    /// # Errors
    /// As [`Self::code`].
    pub async fn listening(&mut self) -> Result<Vec<SocketAddr>, Failure> {
        self.wait_for_code().await?;
        Ok(self.0.announced.as_ref().map(|announced| announced.listening.clone()).unwrap_or_default())
    }

    async fn wait_for_code(&mut self) -> Result<(), Failure> {
        while self.0.announced.is_none() {
            let event = std::future::poll_fn(|cx| self.0.poll_driver(cx)).await;
            self.0.put_aside(event)?;
        }
        Ok(())
    }
}

impl Receiver {
    /// Waits for an offer of files. Other events are kept for [`Self::next_event`] meanwhile, except that verifier
    /// words are rejected and a stream is declined. Cancel-safe.
    ///
    /// # Errors
    /// The transfer ended before an offer arrived, or after a stream was offered.
    pub async fn offer(&mut self) -> Result<Offer, Failure> {
        loop {
            match std::future::poll_fn(|cx| self.0.poll_driver(cx)).await {
                Some(Event::Offer(offer)) => return Ok(offer),
                Some(Event::StreamOffer(offer)) => {
                    // The next event shows that the transfer has ended already.
                    let _ = offer.decline(DeclineReason::Person, "files are expected, and no stream");
                }
                event => self.0.put_aside(event)?,
            }
        }
    }

    /// Waits for a stream, or for an offer of one single file, which can be received as a stream. Otherwise like
    /// [`Self::offer`].
    ///
    /// # Errors
    /// As [`Self::offer`].
    pub async fn stream_offer(&mut self) -> Result<StreamOffer, Failure> {
        loop {
            match std::future::poll_fn(|cx| self.0.poll_driver(cx)).await {
                Some(Event::StreamOffer(offer)) => return Ok(offer),
                Some(Event::Offer(offer)) => match offer.into_stream() {
                    Ok(offer) => return Ok(offer),
                    Err(offer) => {
                        let _ = offer.decline(DeclineReason::Person, "a stream or a single file is expected");
                    }
                },
                event => self.0.put_aside(event)?,
            }
        }
    }
}

/// The state that both ends share: the driver's handle, and what was seen of its events.
#[derive(Debug)]
struct Running {
    handle: Handle<Peer>,
    outcome: Option<Result<Summary, Failure>>,
    announced: Option<Announced>,
    progress: Option<Progress>,
    path: Option<Path>,
    /// Events that arrived while a call waited for another one.
    aside: VecDeque<Event>,
}

/// The contents of [`Event::Code`].
#[derive(Debug)]
struct Announced {
    code: Code,
    link: Option<Link>,
    listening: Vec<SocketAddr>,
}

impl Running {
    const fn new(handle: Handle<Peer>) -> Self {
        Self { handle, outcome: None, announced: None, progress: None, path: None, aside: VecDeque::new() }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        match self.aside.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None => self.poll_driver(cx),
        }
    }

    /// The next event of the driver; it is recorded, and its answer value is connected to the driver.
    fn poll_driver(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut event = loop {
            match ready!(self.handle.poll_event(cx)) {
                // An answer was sent, or its value dropped, after the end of the transfer.
                Some(Event::Misuse(_)) if self.outcome.is_some() => {}
                Some(event) => break event,
                None if self.outcome.is_none() => {
                    let panicked = self.handle.ending() == Some(Ending::Panicked);
                    break Event::Failed(if panicked { Failure::Panicked } else { Failure::Stopped });
                }
                None => return Poll::Ready(None),
            }
        };
        match &mut event {
            Event::Done(summary) => self.outcome = Some(Ok(*summary)),
            Event::Failed(failure) => self.outcome = Some(Err(failure.clone())),
            Event::Code { code, link, listening } => {
                let (code, link, listening) = (code.clone(), link.clone(), listening.clone());
                self.announced = Some(Announced { code, link, listening });
            }
            Event::Progress(progress) => self.progress = Some(*progress),
            Event::Path(path) => self.path = Some(*path),
            Event::Offer(offer) => offer.connect(self.handle.commander()),
            Event::StreamOffer(offer) => offer.connect(self.handle.commander()),
            Event::Verifier { comparison: Some(comparison), .. } => comparison.connect(self.handle.commander()),
            _ => {}
        }
        Poll::Ready(Some(event))
    }

    /// Keeps an event for later.
    ///
    /// # Errors
    /// The event was the last one.
    fn put_aside(&mut self, event: Option<Event>) -> Result<(), Failure> {
        let ended = match (&event, &self.outcome) {
            (Some(Event::Failed(_)) | None, Some(Err(failure))) => Some(failure.clone()),
            // No further event can arrive, and the transfer did not fail.
            (Some(Event::Done(_)) | None, _) => Some(Failure::Stopped),
            _ => None,
        };
        match event {
            // The application could not see and answer these events if they were kept, so they are dropped, which
            // answers no.
            None | Some(Event::Verifier { comparison: Some(_), .. } | Event::Offer(_) | Event::StreamOffer(_)) => {}
            Some(event) => {
                if self.aside.back().is_some_and(|last| Peer::supersedes(&event, last)) {
                    self.aside.pop_back();
                }
                if self.aside.len() >= ASIDE {
                    self.aside.pop_front();
                }
                self.aside.push_back(event);
            }
        }
        ended.map_or(Ok(()), Err)
    }

    fn cancel(&self) -> Result<(), Misuse> {
        let ended = |event: &Event| event.is_terminal().then_some(());
        if self.outcome.is_some() || self.handle.last_event(ended).is_some() {
            // A receiver that is complete and waits only for its sender stops waiting.
            let _ = self.handle.command(Command::Cancel);
            return Err(Misuse::Over);
        }
        Ok(self.handle.command(Command::Cancel)?)
    }
}
