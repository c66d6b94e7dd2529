//! The two ends as an application holds them, the same for every runtime: a handle on a running driver.
//!
//! Dropping a handle cancels its transfer, and the other side is told. Bound: [`ASIDE`] events are put aside
//! while a call waits for another one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::Peer;
use super::answer::{Offer, StreamOffer};
use super::command::Command;
use super::event::{Event, Failure, Path, Progress, Summary};
use crate::code::{Code, Link};
use crate::drive::{Ending, Handle};
use crate::misuse::Misuse;
use crate::node::Node;
use crate::wire::peer::DeclineReason;

/// Events that are put aside; of more than these the oldest go.
const ASIDE: usize = 64;

/// A transfer being sent.
#[derive(Debug)]
pub struct Sender(Running);

/// A transfer being received.
#[derive(Debug)]
pub struct Receiver(Running);

macro_rules! both_ends {
    ($end:ident) => {
        impl $end {
            /// Wraps the handle of a driver that runs such a [`Peer`]; the runtimes' crates call it.
            #[must_use]
            pub const fn new(handle: Handle<Peer>) -> Self {
                Self(Running::new(handle))
            }

            /// The next event; `None` once the transfer is over and everything is closed. Exactly one [`Event::Done`]
            /// or [`Event::Failed`] comes before. Cancel-safe.
            pub async fn next_event(&mut self) -> Option<Event> {
                std::future::poll_fn(|cx| self.0.poll_event(cx)).await
            }

            /// Waits for the end and ignores everything else: an offer or verifier words that come meanwhile are
            /// answered no. After the end it gives the same again. Cancel-safe.
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

            /// How the transfer's machine came to its end; `None` while it runs. [`Ending::Closed`] after a transfer
            /// that has an outcome of its own; otherwise the runtime was shut down, or there is a bug in tallow.
            #[must_use]
            pub fn ending(&self) -> Option<Ending> {
                self.0.handle.ending()
            }

            /// As [`Self::outcome`], and waits until the other side was told and everything is closed; a process may
            /// exit then. Cancel-safe.
            ///
            /// # Errors
            /// Why the transfer failed.
            pub async fn closed(&mut self) -> Result<Summary, Failure> {
                while self.next_event().await.is_some() {}
                self.outcome().await
            }

            /// How it ended, once [`Event::Done`] or [`Event::Failed`] was taken.
            #[must_use]
            pub const fn ended(&self) -> Option<&Result<Summary, Failure>> {
                self.0.outcome.as_ref()
            }

            /// How far it is, also where no events are taken. `None`: nothing was offered yet.
            #[must_use]
            pub fn progress(&self) -> Option<Progress> {
                let waiting = self.0.handle.last_event(|event| match event {
                    Event::Progress(progress) => Some(*progress),
                    _ => None,
                });
                waiting.or(self.0.progress)
            }

            /// Which way the bytes take, also where no events are taken. `None`: no way was found yet.
            #[must_use]
            pub fn path(&self) -> Option<Path> {
                let waiting = self.0.handle.last_event(|event| match event {
                    Event::Path(path) => Some(*path),
                    _ => None,
                });
                waiting.or(self.0.path)
            }

            /// Ends the transfer; the other side is told. Whether that came in time is what the end says:
            /// [`Failure::Interrupted`] if it did, and [`Event::Done`] if everything was there already.
            ///
            /// # Errors
            /// [`Misuse::Over`] once the transfer has ended: what [`Self::closed`] still waits for, it waits for no
            /// longer than a second then. [`Misuse::Busy`].
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
    /// Waits for the code that the receiver needs. Other events that come meanwhile are put aside for
    /// [`Self::next_event`], but for verifier words, which are rejected. Later calls give the same code. Cancel-safe.
    ///
    /// # Errors
    /// The transfer ended before there was one.
    pub async fn code(&mut self) -> Result<Code, Failure> {
        self.wait_for_code().await?;
        self.0.announced.as_ref().map(|announced| announced.code.clone()).ok_or(Failure::Stopped)
    }

    /// As [`Self::code`], with the relay in it: a receiver that gets it needs nothing else. `None`: no address is known
    /// by which another machine reaches the relay inside this process.
    ///
    /// # Errors
    /// As [`Self::code`].
    pub async fn link(&mut self) -> Result<Option<Link>, Failure> {
        self.wait_for_code().await?;
        Ok(self.0.announced.as_ref().and_then(|announced| announced.link.clone()))
    }

    /// As [`Self::code`]: where the relay inside this process listens.
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
    /// Waits for an offer of files. Other events that come meanwhile are put aside for [`Self::next_event`], but for
    /// what is answered no: verifier words and a stream. Cancel-safe.
    ///
    /// # Errors
    /// The transfer ended before anything was offered, or since something else was.
    pub async fn offer(&mut self) -> Result<Offer, Failure> {
        loop {
            match std::future::poll_fn(|cx| self.0.poll_driver(cx)).await {
                Some(Event::Offer(offer)) => return Ok(offer),
                Some(Event::StreamOffer(offer)) => {
                    // That it is over already is what comes next.
                    let _ = offer.decline(DeclineReason::Person, "files are expected, and no stream");
                }
                event => self.0.put_aside(event)?,
            }
        }
    }

    /// Waits for a stream, or for an offer of one single file, which can be taken as one. As [`Self::offer`] in
    /// everything else.
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

/// What both ends are: a driver's handle, and what was seen to pass.
#[derive(Debug)]
struct Running {
    handle: Handle<Peer>,
    outcome: Option<Result<Summary, Failure>>,
    announced: Option<Announced>,
    progress: Option<Progress>,
    path: Option<Path>,
    /// What came while a call waited for something else.
    aside: VecDeque<Event>,
}

/// What [`Event::Code`] said.
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

    /// The driver's next event, noted and with the way for its answer.
    fn poll_driver(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut event = loop {
            match ready!(self.handle.poll_event(cx)) {
                // An answer, or the end of its value, came after the end of the transfer.
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
            Event::Done(summary) => self.outcome = Some(Ok(summary.clone())),
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
    /// It was the end.
    fn put_aside(&mut self, event: Option<Event>) -> Result<(), Failure> {
        let ended = match (&event, &self.outcome) {
            (Some(Event::Failed(_)) | None, Some(Err(failure))) => Some(failure.clone()),
            // Nothing can come any more, and nothing failed.
            (Some(Event::Done(_)) | None, _) => Some(Failure::Stopped),
            _ => None,
        };
        match event {
            // Nothing of it could be answered from there without its being seen.
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
            // A receiver that is done and stays for its sender's sake does so no longer.
            let _ = self.handle.command(Command::Cancel);
            return Err(Misuse::Over);
        }
        Ok(self.handle.command(Command::Cancel)?)
    }
}
