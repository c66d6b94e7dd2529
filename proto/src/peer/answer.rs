//! The values that answer a question of a transfer: each is made by the node, gets its way out from the handle that the
//! application takes the event from, and can be used once. Dropping one answers no. No states, no timers.

use std::sync::Arc;

use super::Peer;
use super::command::Command;
use crate::drive::Commander;
use crate::misuse::Misuse;
use crate::transfer::manifest::Manifest;
use crate::transfer::storage::{Sink, StreamSink};
use crate::wire::peer::DeclineReason;

/// Where an answer goes, once. Dropping it answers no.
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
            // If the driver is gone, everything is declined already.
            let _ = commander.answer((self.no)());
        }
    }
}

fn decline() -> Command {
    Command::Decline(DeclineReason::Person, String::new())
}

/// Files that are offered. It is answered once; dropping it declines.
#[must_use = "dropping an offer declines it"]
pub struct Offer {
    manifest: Arc<Manifest>,
    answer: Answer,
}

impl Offer {
    pub(super) const fn new(manifest: Arc<Manifest>) -> Self {
        Self { manifest, answer: Answer::new(decline) }
    }

    /// Where the answer goes.
    pub(super) fn connect(&mut self, commander: Commander<Peer>) {
        self.answer.connect(commander);
    }

    /// What is offered: names (of the other side, so shown only through [`crate::wire::Untrusted::escaped`]), sizes and
    /// sums.
    #[must_use]
    pub const fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Takes it, into this sink. An error of the sink comes as [`Event::Failed`](super::Event::Failed).
    ///
    /// # Errors
    /// [`Misuse::Over`]: the transfer ended meanwhile.
    pub fn accept(self, sink: Arc<dyn Sink>) -> Result<(), Misuse> {
        self.answer.give(Command::Accept(sink))
    }

    /// Declines it; the sender reads `text`.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn decline(self, reason: DeclineReason, text: &str) -> Result<(), Misuse> {
        self.answer.give(Command::Decline(reason, text.to_owned()))
    }

    /// The same offer, to be written in order.
    ///
    /// # Errors
    /// The offer: it is not one single file.
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

/// Bytes that are offered in order: of unknown length, or one file. It is answered once; dropping it declines.
#[must_use = "dropping an offer declines it"]
pub struct StreamOffer {
    file: Option<Arc<Manifest>>,
    answer: Answer,
}

impl StreamOffer {
    pub(super) const fn new() -> Self {
        Self { file: None, answer: Answer::new(decline) }
    }

    /// Where the answer goes.
    pub(super) fn connect(&mut self, commander: Commander<Peer>) {
        self.answer.connect(commander);
    }

    /// The one file, where it is one.
    #[must_use]
    pub const fn file(&self) -> Option<&Arc<Manifest>> {
        self.file.as_ref()
    }

    /// Takes it, into this sink. Only [`Event::Done`](super::Event::Done) says that all of it came.
    ///
    /// # Errors
    /// [`Misuse::Over`]: the transfer ended meanwhile.
    pub fn accept(self, sink: Arc<dyn StreamSink>) -> Result<(), Misuse> {
        self.answer.give(Command::AcceptStream(sink))
    }

    /// Declines it; the sender reads `text`.
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

/// What says whether the verifier words are the same on both sides. Dropping it says that they are not.
#[must_use = "dropping a comparison rejects the words"]
pub struct Comparison(Answer);

impl Comparison {
    pub(super) fn new() -> Self {
        Self(Answer::new(|| Command::Agree(false)))
    }

    /// Where the answer goes.
    pub(super) fn connect(&mut self, commander: Commander<Peer>) {
        self.0.connect(commander);
    }

    /// The words are the same on both sides: the transfer goes on.
    ///
    /// # Errors
    /// [`Misuse::Over`]: the transfer ended meanwhile.
    pub fn confirm(self) -> Result<(), Misuse> {
        self.0.give(Command::Agree(true))
    }

    /// They differ: the transfer ends, and the other side is told.
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
