//! Heavy work as a value: a machine describes work with files, the driver runs it on a blocking thread, and the
//! result returns as an input.
//!
//! A [`Job`] holds everything that it needs, and returns exactly one result: a panic in it becomes a [`Fault`],
//! because a missing result would block the transfer. Jobs access files only through [`Source`] and [`Sink`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::check::{Check, Checked};
use super::chunk::{Made, Open, Opened, Prepare};
pub use super::job_id::JobId;
use super::journal::Stored;
use super::manifest::{Manifest, ManifestBuilder, ManifestError};
use super::storage::{Fault, FaultKind, Placement, Sink, Source};
use super::stream::work as stream;
use super::verify_stored::{VerifiedStored, VerifyStored};
use crate::session::{OpenedRecord, Verdict};

/// A piece of work.
pub struct Job {
    pub(super) id: JobId,
    pub(super) work: Work,
}

/// The result of a job.
#[derive(Debug)]
pub struct JobDone {
    pub(super) id: JobId,
    pub(super) result: Result<Product, Fault>,
}

/// The kinds of work.
pub enum Work {
    /// Scans the next page of the source.
    Scan {
        /// The source.
        source: Arc<dyn Source>,
        /// What was scanned before.
        builder: Box<ManifestBuilder>,
        /// Number of the page.
        page: u32,
    },
    /// Reads, hashes and compresses a chunk.
    Prepare(Prepare),
    /// Opens, decompresses, checks and writes a chunk.
    Open(Box<Open>),
    /// Hashes chunks that the receiver has from an earlier transfer.
    Check(Check),
    /// Hashes chunks again that this side has stored from an earlier transfer.
    VerifyStored(VerifyStored),
    /// Checks the destination before the offer is accepted.
    Begin {
        /// The sink.
        sink: Arc<dyn Sink>,
        /// The manifest of the offer.
        manifest: Arc<Manifest>,
    },
    /// Records chunks as stored.
    Commit {
        /// The sink.
        sink: Arc<dyn Sink>,
        /// The chunks.
        chunks: Vec<Stored>,
    },
    /// Syncs written and committed chunks to the disk.
    Sync {
        /// The sink.
        sink: Arc<dyn Sink>,
    },
    /// Moves entries to their final names.
    Finish {
        /// The sink.
        sink: Arc<dyn Sink>,
        /// The largest number of entries in one call.
        at_most: usize,
    },
    /// Removes what was staged.
    Abandon {
        /// The sink.
        sink: Arc<dyn Sink>,
    },
    /// Keeps what was staged for a later transfer.
    Suspend {
        /// The sink.
        sink: Arc<dyn Sink>,
    },
    /// Work of a stream.
    Stream(stream::Work),
}

/// The results of jobs.
#[derive(Debug)]
pub enum Product {
    /// A page was scanned, and there may be more.
    Page(Box<ManifestBuilder>),
    /// The last page was scanned.
    Scanned(Arc<Manifest>),
    /// A chunk was made.
    Made(Box<Made>),
    /// A received chunk record was opened, and its chunk was checked.
    Opened(OpenedRecord<Opened>),
    /// Chunks were hashed for the sender.
    Checked(Checked),
    /// Chunks from an earlier transfer were hashed again.
    VerifiedStored(VerifiedStored),
    /// The sink can store the offer; according to its journal these chunks are stored from an earlier transfer, in
    /// ascending order.
    Begun(Vec<Stored>),
    /// Chunks are recorded as stored.
    Committed,
    /// Everything that was committed before is on the disk.
    Synced,
    /// A slice of entries was moved; after the last one, how all of them were placed.
    Finished(Option<Placement>),
    /// What was staged was removed.
    Abandoned,
    /// What was staged was kept.
    Suspended,
    /// A result of a stream.
    Stream(stream::Product),
}

impl JobDone {
    /// The id of the job.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub const fn id(&self) -> JobId {
        self.id
    }

    /// What the job produced.
    ///
    /// # Errors
    /// Why it failed.
    #[cfg(any(test, feature = "internals"))]
    pub const fn result(&self) -> Result<&Product, &Fault> {
        self.result.as_ref()
    }

    /// The part of the result that the session needs first: whether the record that the job opened is authentic.
    pub(crate) const fn verdict(&self) -> Option<Verdict> {
        match &self.result {
            Ok(Product::Opened(opened)) => Some(opened.verdict),
            Ok(Product::Stream(stream::Product::Unsealed(opened))) => Some(opened.verdict),
            Ok(_) | Err(_) => None,
        }
    }
}

impl Job {
    /// Makes a job from its parts.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub const fn new(id: JobId, work: Work) -> Self {
        Self { id, work }
    }

    /// The id, which the result repeats.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub const fn id(&self) -> JobId {
        self.id
    }

    /// The name of its work in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.work.name()
    }

    /// Does the work on the calling thread. It always returns a result: a panic becomes a fault of its transfer.
    #[must_use]
    pub fn run(self, cancelled: &AtomicBool) -> JobDone {
        let Self { id, work } = self;
        let stop = || cancelled.load(Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(|| work.run(&stop)));
        let result = result.unwrap_or_else(|payload| Err(Fault::of_panic(&*payload)));
        JobDone { id, result }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({}, {})", self.id.0, self.work.name())
    }
}

impl Work {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Scan { .. } => "scan",
            Self::Prepare(_) => "prepare",
            Self::Open(_) => "open",
            Self::Check(_) => "check",
            Self::VerifyStored(_) => "verify stored",
            Self::Begin { .. } => "begin",
            Self::Commit { .. } => "commit",
            Self::Sync { .. } => "sync",
            Self::Finish { .. } => "finish",
            Self::Abandon { .. } => "abandon",
            Self::Suspend { .. } => "suspend",
            Self::Stream(work) => work.name(),
        }
    }

    fn run(self, stop: &dyn Fn() -> bool) -> Result<Product, Fault> {
        match self {
            // Cleaning up still has to be done after everything else was cancelled.
            Self::Abandon { sink } => {
                sink.abandon();
                Ok(Product::Abandoned)
            }
            Self::Suspend { sink } => {
                sink.suspend();
                Ok(Product::Suspended)
            }
            // Written chunks are recorded even if everything else was cancelled.
            Self::Commit { sink, chunks } => sink.commit(&chunks).map(|()| Product::Committed),
            _ if stop() => Err(FaultKind::Cancelled.into()),
            Self::Scan { source, builder, page } => scan(&*source, builder, page),
            Self::Prepare(prepare) => prepare.run(stop).map(|made| Product::Made(Box::new(made))),
            Self::Open(open) => open.run(stop).map(Product::Opened),
            Self::Check(check) => check.run(stop).map(Product::Checked),
            Self::VerifyStored(verify) => verify.run(stop).map(Product::VerifiedStored),
            Self::Begin { sink, manifest } => sink.begin(&manifest).map(Product::Begun),
            Self::Sync { sink } => sink.sync().map(|()| Product::Synced),
            Self::Finish { sink, at_most } => finish(&*sink, at_most).map(Product::Finished),
            Self::Stream(work) => work.run().map(Product::Stream),
        }
    }
}

fn finish(sink: &dyn Sink, at_most: usize) -> Result<Option<Placement>, Fault> {
    Ok(if sink.finish(at_most)? { Some(sink.placement()) } else { None })
}

fn scan(source: &dyn Source, mut builder: Box<ManifestBuilder>, page: u32) -> Result<Product, Fault> {
    let fault = |error| match error {
        ManifestError::Refused(refused) => Fault::at(refused.why.into(), refused.name.as_raw()),
        ManifestError::Violation(_) => FaultKind::Internal.into(),
    };
    match source.scan(page)? {
        Some(page) => builder.push_page(page).map(|()| Product::Page(builder)).map_err(fault),
        None => builder.finish().map(|manifest| Product::Scanned(Arc::new(manifest))).map_err(fault),
    }
}
