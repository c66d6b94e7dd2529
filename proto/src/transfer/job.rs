//! Heavy work as a value: what a machine wants done with files, run by the driver on a
//! blocking thread, answered as an input.
//!
//! A [`Job`] holds everything that it needs, and answers exactly once: a panic in it is a [`Fault`] like any other,
//! since a lost answer would be a hang. [`Source`] and [`Sink`] are its only way to files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::check::{Check, Checked};
use super::chunk::{Made, Open, Opened, Prepare};
use super::differences::Pages;
pub use super::job_id::JobId;
use super::journal::Stored;
use super::manifest::{Manifest, ManifestBuilder, ManifestError};
use super::storage::{Fault, FaultKind, Sink, Source};
use super::stream::work as stream;
use super::verify_stored::{VerifiedStored, VerifyStored};
use crate::session::{OpenedRecord, Verdict};

/// A piece of work.
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What to do.
    pub work: Work,
}

/// The answer to a job.
#[derive(Debug)]
pub struct JobDone {
    /// Which.
    pub id: JobId,
    /// What came of it.
    pub result: Result<Product, Fault>,
}

/// What there is to do.
pub enum Work {
    /// The next page of what is to be sent.
    Scan {
        /// From where.
        source: Arc<dyn Source>,
        /// What was scanned before.
        builder: Box<ManifestBuilder>,
        /// Number of the page.
        page: u32,
    },
    /// A chunk to be read, hashed and compressed.
    Prepare(Prepare),
    /// A chunk to be opened, decompressed, checked and written.
    Open(Box<Open>),
    /// Chunks that the receiver has from before, to be hashed here.
    Check(Check),
    /// Chunks that are stored from before, to be hashed again.
    VerifyStored(VerifyStored),
    /// Checks before anything is accepted.
    Begin {
        /// Where it would go.
        sink: Arc<dyn Sink>,
        /// What would come.
        manifest: Arc<Manifest>,
    },
    /// Notes chunks as stored.
    Commit {
        /// Where.
        sink: Arc<dyn Sink>,
        /// Which.
        chunks: Vec<Stored>,
    },
    /// Brings what was written and committed to the disk.
    Sync {
        /// Where.
        sink: Arc<dyn Sink>,
    },
    /// Leaves out files that the sender could not send.
    LeaveOut {
        /// Where.
        sink: Arc<dyn Sink>,
        /// Of which manifest.
        manifest: Arc<Manifest>,
        /// Which entries.
        entries: Vec<u32>,
    },
    /// Puts entries in place.
    Finish {
        /// Where.
        sink: Arc<dyn Sink>,
        /// How many.
        at_most: usize,
    },
    /// Removes what was staged.
    Abandon {
        /// Where.
        sink: Arc<dyn Sink>,
    },
    /// Leaves what was staged for another time.
    Suspend {
        /// Where.
        sink: Arc<dyn Sink>,
    },
    /// A piece of a stream.
    Stream(stream::Work),
}

/// What a job made.
#[derive(Debug)]
pub enum Product {
    /// A page was scanned, and there may be more.
    Page(Box<ManifestBuilder>),
    /// All was scanned.
    Scanned(Arc<Manifest>),
    /// A chunk was made.
    Made(Box<Made>),
    /// A chunk record that arrived was opened, and its chunk judged.
    Opened(OpenedRecord<Opened>),
    /// Chunks were hashed for the sender.
    Checked(Checked),
    /// Chunks from before were hashed again.
    VerifiedStored(VerifiedStored),
    /// The sink takes the offer.
    Begun(Begun),
    /// Chunks are noted as stored.
    Committed,
    /// All that was committed before is on the disk.
    Synced,
    /// Files that the sender could not send are left out.
    LeftOut,
    /// A slice was put in place; true: it was the last.
    Finished(bool),
    /// What was staged is gone.
    Abandoned,
    /// What was staged stays.
    Suspended,
    /// Of a stream.
    Stream(stream::Product),
}

/// What a sink takes of an offer.
#[derive(Debug)]
pub struct Begun {
    /// What was offered, without the entries that the sink does not want.
    pub manifest: Arc<Manifest>,
    /// The chunks that its journal says are stored there from before, ascending.
    pub stored: Vec<Stored>,
}

impl JobDone {
    /// What the session has to learn first: whether the record that the job opened is what the peer sealed.
    #[must_use]
    pub const fn verdict(&self) -> Option<Verdict> {
        match &self.result {
            Ok(Product::Opened(opened)) => Some(opened.verdict),
            Ok(Product::Stream(stream::Product::Unsealed(opened))) => Some(opened.verdict),
            Ok(_) | Err(_) => None,
        }
    }
}

impl Job {
    /// Does the work, on the thread that calls. It always answers: a panic is a fault of its transfer.
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
    /// What it is called in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Scan { .. } => "scan",
            Self::Prepare(_) => "prepare",
            Self::Open(_) => "open",
            Self::Check(_) => "check",
            Self::VerifyStored(_) => "verify stored",
            Self::Begin { .. } => "begin",
            Self::Commit { .. } => "commit",
            Self::Sync { .. } => "sync",
            Self::LeaveOut { .. } => "leave out",
            Self::Finish { .. } => "finish",
            Self::Abandon { .. } => "abandon",
            Self::Suspend { .. } => "suspend",
            Self::Stream(work) => work.name(),
        }
    }

    fn run(self, stop: &dyn Fn() -> bool) -> Result<Product, Fault> {
        match self {
            // Cleaning up is what has to be done when all else was told to stop.
            Self::Abandon { sink } => {
                sink.abandon();
                Ok(Product::Abandoned)
            }
            Self::Suspend { sink } => {
                sink.suspend();
                Ok(Product::Suspended)
            }
            // What is written is worth noting, whatever else was told to stop.
            Self::Commit { sink, chunks } => sink.commit(&chunks).map(|()| Product::Committed),
            _ if stop() => Err(FaultKind::Cancelled.into()),
            Self::Scan { source, builder, page } => scan(&*source, builder, page),
            Self::Prepare(prepare) => prepare.run(stop).map(|made| Product::Made(Box::new(made))),
            Self::Open(open) => open.run(stop).map(Product::Opened),
            Self::Check(check) => check.run(stop).map(Product::Checked),
            Self::VerifyStored(verify) => verify.run(stop).map(Product::VerifiedStored),
            Self::Begin { sink, manifest } => begin(&*sink, manifest).map(Product::Begun),
            Self::Sync { sink } => sink.sync().map(|()| Product::Synced),
            Self::LeaveOut { sink, manifest, entries } => leave_out(&*sink, &manifest, &entries),
            Self::Finish { sink, at_most } => sink.finish(at_most).map(Product::Finished),
            Self::Stream(work) => work.run().map(Product::Stream),
        }
    }
}

fn begin(sink: &dyn Sink, manifest: Arc<Manifest>) -> Result<Begun, Fault> {
    let stored = sink.begin(&manifest)?;
    let skipped = sink.skipped_entries();
    let manifest = if skipped.is_empty() { manifest } else { Arc::new(manifest.without(skipped)) };
    Ok(Begun { manifest, stored })
}

fn leave_out(sink: &dyn Sink, manifest: &Manifest, entries: &[u32]) -> Result<Product, Fault> {
    let mut pages = Pages::default();
    for index in entries {
        let entry = pages.entry(manifest, *index).ok_or(FaultKind::Internal)?;
        sink.leave_out(*index, &entry)?;
    }
    Ok(Product::LeftOut)
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
