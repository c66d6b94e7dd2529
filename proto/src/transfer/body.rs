//! What a transfer moves in chunks: files out of order ([`super::outgoing`], [`super::incoming`]), or a stream in
//! order
//! ([`super::stream::outgoing`], [`super::stream::ordered`]).
//!
//! A [`super::sender::Sender`] and a [`super::receiver::Receiver`] decide when a transfer begins and how it ends; the
//! types behind these traits decide about its chunks.

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
    /// The chunks that were sealed for one of several links.
    On(LinkId),
    /// All chunks, because there is no link any more.
    All,
}

impl Lost {
    /// Whether a chunk that was sealed for `link` is lost; `None`: it still waits for room on a link.
    pub fn includes(self, link: Option<LinkId>) -> bool {
        match self {
            Self::On(lost) => link == Some(lost),
            Self::All => true,
        }
    }
}

/// The chunks of an accepted transfer, on the side that sends them.
pub(super) trait ChunkSource: Send {
    /// Advances the timers and the rate limit to `now`.
    fn advance(&mut self, now: Instant);

    /// A job of this transfer has finished. Resulting messages and events are queued in the exchange.
    fn handle_product(&mut self, now: Instant, product: Product, exchange: &mut Exchange) -> Result<(), Stop>;

    /// The receiver has these chunks, and allows this many bytes in flight.
    fn acknowledge(&mut self, now: Instant, ranges: &[ChunkRange], credit: u32) -> Result<(), Violation>;

    /// A chunk that was taken for sending is sealed for this link.
    fn handle_sealed(&mut self, chunk: u64, link: LinkId);

    /// Lost chunks that were in flight have to be sent again.
    fn lose(&mut self, lost: Lost);

    /// The session has a link again, and the receiver first repeats what it has stored: no lost chunk is sent again
    /// before that.
    fn recount(&mut self) {}

    /// Bytes of chunks that were sealed for this link and are not acknowledged, as the window counts them.
    fn under_way(&self, link: LinkId) -> u64;

    /// The next job.
    fn next_job(&mut self, cores: usize) -> Option<Work>;

    /// The next chunk to be sealed; it is in flight from now on.
    fn fetch(&mut self) -> Option<(u64, Prepared)>;

    /// Returns the status of a file, as long as there is one to send, then `End`, once every chunk was sent.
    fn end(&mut self, differences: &mut Differences) -> Option<Control>;

    /// The root, once `End` was sent.
    fn root(&self) -> Option<Hash>;

    /// When [`Self::advance`] is due.
    fn poll_timeout(&self) -> Option<Instant>;

    /// How much the receiver has acknowledged.
    fn progress(&self) -> Progress;

    /// The total in bytes, once the transfer is complete: the last acknowledgements may have been lost.
    fn whole(&self) -> u64;
}

/// The chunks of an accepted transfer, on the side that stores or writes them.
pub(super) trait ChunkSink: Send {
    /// Advances the timers and the rate limit to `now`.
    fn advance(&mut self, now: Instant);

    /// A chunk record arrived.
    fn take(&mut self, chunk: SealedChunk) -> Result<(), Violation>;

    /// A link is lost: chunks that arrived on it and were not acknowledged will arrive again.
    fn lose(&mut self, link: LinkId);

    /// Sends the earlier acknowledgements again, because they may have been lost with a link.
    fn repeat(&mut self);

    /// The job with this id has finished.
    fn handle_product(&mut self, now: Instant, id: JobId, product: Product) -> Result<(), Stop>;

    /// The sender compared a range that this side has from an earlier transfer.
    fn handle_checked(&mut self, range: ChunkRange, same: bool, exchange: &mut Exchange) -> Result<(), Violation>;

    /// The sender says what became of a file.
    fn handle_status(
        &mut self,
        entry: u32,
        status: EntryStatus,
        differences: &mut Differences,
    ) -> Result<(), Violation>;

    /// The sender has sent everything: the number of chunks in total and of those sent in this transfer.
    fn handle_end(&mut self, chunks: u64, moved: u64, root: Hash) -> Result<(), Violation>;

    /// The next job, which gets this id.
    fn next_job(&mut self, cores: usize, id: JobId) -> Option<Work>;

    /// The next acknowledgement.
    fn poll_ack(&mut self) -> Option<Control>;

    /// The root computed here (`None`: it can't be computed) and the sender's root, once everything is stored.
    fn roots(&self) -> Option<(Option<Hash>, Hash)>;

    /// How many bytes the sender may have in flight.
    fn credit(&self) -> u32;

    /// Whether the sender has to send next, so that its deadline runs.
    fn awaits_sender(&self) -> bool;

    /// Whether the sender waits for an acknowledgement that the rate limit of this side delays.
    fn is_held_back(&self) -> bool;

    /// When [`Self::advance`] is due.
    fn poll_timeout(&self) -> Option<Instant>;

    /// How much is stored.
    fn progress(&self) -> Progress;

    /// What is staged; `None`: what was written can neither be moved to a final name nor removed.
    fn staged(&mut self) -> Option<Staged>;
}

/// What a sink holds that is to be moved to final names.
pub(super) struct Staged {
    pub sink: Arc<dyn Sink>,
    pub manifest: Arc<Manifest>,
    /// Files that the sender could not send.
    pub failed: EntrySet,
}
