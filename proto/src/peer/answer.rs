//! The values that answer a question of a transfer. The node makes them; the handle connects them to the driver when
//! the application takes the event. Each can be used once, and dropping one declines or rejects. No states, no
//! timers.

use std::sync::Arc;

use super::Peer;
use super::command::Command;
use crate::drive::Commander;
use crate::misuse::Misuse;
use crate::transfer::manifest::Manifest;
use crate::transfer::storage::{Sink, StreamSink};
use crate::wire::peer::DeclineReason;

/// Sends one answer to the driver. Dropping it sends the negative answer.
struct Answer {
    commander: Option<Commander<Peer>>,
    no: fn() -> Command,
}

impl Answer {
    const fn new(no: fn() -> Command) -> Self {
        Self { commander: None, no }
    }

    fn connect(&mut self, commander: Commander<Peer>) {
        self.commander = Some(commander);
    }

    fn give(mut self, command: Command) -> Result<(), Misuse> {
        let commander = self.commander.take().ok_or(Misuse::Over)?;
        Ok(commander.answer(command)?)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(commander) = self.commander.take() {
            // If the driver has ended, everything has been declined already.
            let _ = commander.answer((self.no)());
        }
    }
}

fn decline() -> Command {
    Command::Decline(DeclineReason::Person, String::new())
}

/// Files that the sender offers. The application answers once; dropping the value declines the offer.
#[must_use = "dropping an offer declines it"]
pub struct Offer {
    manifest: Arc<Manifest>,
    answer: Answer,
}

impl Offer {
    pub(super) const fn new(manifest: Arc<Manifest>) -> Self {
        Self { manifest, answer: Answer::new(decline) }
    }

    /// Connects the value to the driver that receives the answer.
    pub(super) fn connect(&mut self, commander: Commander<Peer>) {
        self.answer.connect(commander);
    }

    /// The entries of the offer. Names come from the other side: show them only through
    /// [`crate::wire::Untrusted::escaped`].
    #[must_use]
    pub const fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Accepts the offer and stores it in this sink. An error of the sink is reported as
    /// [`Event::Failed`](super::Event::Failed).
    ///
    /// # Errors
    /// [`Misuse::Over`]: the transfer has ended already.
    pub fn accept(self, sink: Arc<dyn Sink>) -> Result<(), Misuse> {
        self.answer.give(Command::Accept(sink))
    }

    /// Declines the offer; the sender receives `text`.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn decline(self, reason: DeclineReason, text: &str) -> Result<(), Misuse> {
        self.answer.give(Command::Decline(reason, text.to_owned()))
    }

    /// Converts the offer of one single file so that its bytes are written in order.
    ///
    /// # Errors
    /// Returns the offer unchanged if it is not one single file.
    pub fn into_stream(self) -> Result<StreamOffer, Self> {
        let totals = self.manifest.totals();
        if (totals.entries, totals.files) != (1, 1) {
            return Err(self);
        }
        Ok(StreamOffer { file: Some(self.manifest), answer: self.answer })
    }
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer").field("totals", &self.manifest.totals()).finish_non_exhaustive()
    }
}

/// Bytes that the sender offers in order: a stream of unknown length, or one file. The application answers once;
/// dropping the value declines the offer.
#[must_use = "dropping an offer declines it"]
pub struct StreamOffer {
    file: Option<Arc<Manifest>>,
    answer: Answer,
}

impl StreamOffer {
    pub(super) const fn new() -> Self {
        Self { file: None, answer: Answer::new(decline) }
    }

    /// Connects the value to the driver that receives the answer.
    pub(super) fn connect(&mut self, commander: Commander<Peer>) {
        self.answer.connect(commander);
    }

    /// The manifest, if one file is offered; `None` for a stream.
    #[must_use]
    pub const fn file(&self) -> Option<&Arc<Manifest>> {
        self.file.as_ref()
    }

    /// Accepts the offer and writes it to this sink. Only [`Event::Done`](super::Event::Done) confirms that all bytes
    /// arrived.
    ///
    /// # Errors
    /// [`Misuse::Over`]: the transfer has ended already.
    pub fn accept(self, sink: Arc<dyn StreamSink>) -> Result<(), Misuse> {
        self.answer.give(Command::AcceptStream(sink))
    }

    /// Declines the offer; the sender receives `text`.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn decline(self, reason: DeclineReason, text: &str) -> Result<(), Misuse> {
        self.answer.give(Command::Decline(reason, text.to_owned()))
    }
}

impl std::fmt::Debug for StreamOffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamOffer").field("is_file", &self.file.is_some()).finish_non_exhaustive()
    }
}

/// Answers whether the verifier words are the same on both sides. Dropping it rejects the words.
#[must_use = "dropping a comparison rejects the words"]
pub struct Comparison(Answer);

impl Comparison {
    pub(super) fn new() -> Self {
        Self(Answer::new(|| Command::Agree(false)))
    }

    /// Connects the value to the driver that receives the answer.
    pub(super) fn connect(&mut self, commander: Commander<Peer>) {
        self.0.connect(commander);
    }

    /// The words are the same on both sides: the transfer continues.
    ///
    /// # Errors
    /// [`Misuse::Over`]: the transfer has ended already.
    pub fn confirm(self) -> Result<(), Misuse> {
        self.0.give(Command::Agree(true))
    }

    /// The words differ: the transfer ends, and the other side is notified.
    ///
    /// # Errors
    /// As [`Self::confirm`].
    pub fn reject(self) -> Result<(), Misuse> {
        self.0.give(Command::Agree(false))
    }
}

impl std::fmt::Debug for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Comparison")
    }
}
