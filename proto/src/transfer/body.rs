//! What is moved in chunks: files out of order ([`super::outgoing`], [`super::incoming`]), or a stream in order
//! ([`super::stream::outgoing`], [`super::stream::ordered`]).
//!
//! A [`super::sender::Sender`] and a [`super::receiver::Receiver`] decide when a transfer begins and how it ends; these
//! decide what its chunks are.

use std::sync::Arc;

use super::Progress;
use super::differences::Differences;
use super::entries::EntrySet;
use super::exchange::{Exchange, Stop};
use super::hashes::Hash;
use super::manifest::Manifest;
use crate::Instant;
use crate::session::{LinkId, Prepared, SealedChunk};
use crate::transfer::job::{Product, Work};
use crate::transfer::job_id::JobId;
use crate::transfer::storage::Sink;
use crate::wire::Violation;
use crate::wire::peer::{ChunkRange, Control, EntryStatus};

/// Which chunks in flight are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Those that were sealed for one of several links.
    On(LinkId),
    /// All of them: there is no link any more.
    All,
}

impl Lost {
    /// Whether a chunk is lost that was sealed for `link`; `None`: it still waits for a place on one.
    pub fn includes(self, link: Option<LinkId>) -> bool {
        match self {
            Self::On(lost) => link == Some(lost),
            Self::All => true,
        }
    }
}

/// The chunks of a transfer that was accepted, on the side that sends them.
pub(super) trait ChunkSource: Send {
    /// It is `now`.
    fn advance(&mut self, now: Instant);

    /// A job of this transfer was done. Messages and events that follow go to the exchange.
    fn handle_product(&mut self, now: Instant, product: Product, exchange: &mut Exchange) -> Result<(), Stop>;

    /// The receiver has these chunks, and allows so much in flight.
    fn acknowledge(&mut self, now: Instant, ranges: &[ChunkRange], credit: u32) -> Result<(), Violation>;

    /// A chunk that was fetched is sealed for this link.
    fn handle_sealed(&mut self, chunk: u64, link: LinkId);

    /// What was in flight and is lost has to be sent again.
    fn lose(&mut self, lost: Lost);

    /// There is a link on which the receiver says next what it has stored: nothing that was lost is sent again before
    /// that.
    fn recount(&mut self) {}

    /// Bytes that were sealed for this link and are not acknowledged, as the window counts.
    fn under_way(&self, link: LinkId) -> u64;

    /// The next job.
    fn next_job(&mut self, cores: usize) -> Option<Work>;

    /// The next chunk to be sealed; it is in flight from now on.
    fn fetch(&mut self) -> Option<(u64, Prepared)>;

    /// `End`, once every chunk was sent and nothing more is to be said of any file; before it, what is.
    fn end(&mut self, differences: &mut Differences) -> Option<Control>;

    /// The root, once `End` was said.
    fn root(&self) -> Option<Hash>;

    /// When [`Self::advance`] is due.
    fn poll_timeout(&self) -> Option<Instant>;

    /// What the receiver has acknowledged.
    fn progress(&self) -> Progress;

    /// Bytes of the whole, once it is complete: the last acknowledgements may have been lost.
    fn whole(&self) -> u64;
}

/// The chunks of a transfer that was accepted, on the side that stores or writes them.
pub(super) trait ChunkSink: Send {
    /// It is `now`.
    fn advance(&mut self, now: Instant);

    /// A chunk record arrived.
    fn take(&mut self, chunk: SealedChunk) -> Result<(), Violation>;

    /// A link is gone: what came on it and was not acknowledged will come again.
    fn lose(&mut self, link: LinkId);

    /// What was acknowledged is acknowledged again: it may have been lost with a link.
    fn repeat(&mut self);

    /// The job of this id was done.
    fn handle_product(&mut self, now: Instant, id: JobId, product: Product) -> Result<(), Stop>;

    /// The sender judged a range that was claimed to be here from an earlier transfer.
    fn handle_checked(&mut self, range: ChunkRange, same: bool, exchange: &mut Exchange) -> Result<(), Violation>;

    /// The sender says what became of a file.
    fn handle_status(
        &mut self,
        entry: u32,
        status: EntryStatus,
        differences: &mut Differences,
    ) -> Result<(), Violation>;

    /// The sender has sent everything: so many chunks, so many of them in this transfer.
    fn handle_end(&mut self, chunks: u64, moved: u64, root: Hash) -> Result<(), Violation>;

    /// The next job, which has this id.
    fn next_job(&mut self, cores: usize, id: JobId) -> Option<Work>;

    /// The next acknowledgement.
    fn poll_ack(&mut self) -> Option<Control>;

    /// Our root (`None`: it can't be computed) and the sender's, once everything is stored.
    fn roots(&self) -> Option<(Option<Hash>, Hash)>;

    /// What the sender may have in flight.
    fn credit(&self) -> u32;

    /// Whether the sender has to send next, and is late if it does not.
    fn awaits_sender(&self) -> bool;

    /// Whether the sender waits for an acknowledgement that this side's own rate limit holds back.
    fn is_held_back(&self) -> bool;

    /// When [`Self::advance`] is due.
    fn poll_timeout(&self) -> Option<Instant>;

    /// What is stored.
    fn progress(&self) -> Progress;

    /// What is staged; `None`: what was written can't be put in place or taken back.
    fn staged(&mut self) -> Option<Staged>;
}

/// What a sink holds that is to be put in place.
pub(super) struct Staged {
    pub sink: Arc<dyn Sink>,
    pub manifest: Arc<Manifest>,
    /// Files that the sender could not send.
    pub failed: EntrySet,
}
