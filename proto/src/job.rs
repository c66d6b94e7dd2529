//! Heavy work as a value: what a machine wants done with files, run by the driver on a blocking thread, answered as an input.
//!
//! A [`Job`] holds everything that it needs, and answers exactly once: a panic in it is a [`Fault`] like any other, since a lost
//! answer would be a hang. [`Source`] and [`Sink`] are the only way to files; `tallow-store` implements them on disks,
//! tests in memory.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::transfer::chunk::{Made, Open, Opened, Prepare};
use crate::transfer::manifest::{Entry, Manifest, ManifestBuilder, ManifestError, Page, Refusal};

/// Names a job within its node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub u64);

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
    /// Checks before anything is accepted.
    Begin {
        /// Where it would go.
        sink: Arc<dyn Sink>,
        /// What would come.
        manifest: Arc<Manifest>,
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
    /// A chunk that arrived was judged.
    Opened(Opened),
    /// The sink takes the offer.
    Begun,
    /// A slice was put in place; true: it was the last.
    Finished(bool),
    /// What was staged is gone.
    Abandoned,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The local path that it happened to, raw: it is shown only through [`crate::wire::Untrusted::escaped`].
    pub path: Option<Box<str>>,
}

/// What can happen to a file. The texts are without the path, which stands beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// It is not, or no more, the file that was scanned.
    #[error("changed while it was being sent")]
    Changed,
    /// A device, a FIFO, a socket, or a directory where a file was expected.
    #[error("not a regular file")]
    NotRegular,
    /// Too little space.
    #[error("not enough space on disk: need {need} bytes, have {have}")]
    Full {
        /// Bytes that are needed.
        need: u64,
        /// Bytes that are free.
        have: u64,
    },
    /// Something of that name is there.
    #[error("exists already")]
    Exists,
    /// A symbolic link stands in the way.
    #[error("refusing to write through a symbolic link")]
    Link,
    /// A rule for what may be sent or received.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The system's error.
    #[error("{0}")]
    Io(io::ErrorKind),
    /// The system's error by its number, where the standard library has no kind that says what happened (too many open files,
    /// an input/output error).
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    System(i32),
    /// The name of a local file is not valid UTF-8, so it can't be sent.
    #[error("file name is not valid UTF-8")]
    NotUtf8,
    /// The job was told to stop.
    #[error("cancelled")]
    Cancelled,
    /// A bug in the source, the sink or in here.
    #[error("internal error")]
    Panicked,
    /// A bug: the source made a page that is not valid, or the manifest is not what was judged.
    #[error("internal error: invalid manifest")]
    Internal,
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self { kind, path: None }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        FaultKind::Io(error.kind()).into()
    }
}

impl Fault {
    /// Whether a rule forbids it, and nothing failed.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self.kind {
            FaultKind::Exists | FaultKind::Link | FaultKind::NotRegular | FaultKind::Refused(_) => true,
            FaultKind::Changed
            | FaultKind::Full { .. }
            | FaultKind::Io(_)
            | FaultKind::System(_)
            | FaultKind::NotUtf8
            | FaultKind::Cancelled
            | FaultKind::Panicked
            | FaultKind::Internal => false,
        }
    }

    /// With the path that it happened to.
    #[must_use]
    pub fn at(kind: FaultKind, path: impl Into<Box<str>>) -> Self {
        Self { kind, path: Some(path.into()) }
    }
}

/// What is sent. No call may block for ever.
pub trait Source: Send + Sync {
    /// Page number `page` of the manifest (asked for in order from 0, each once); `None` after the last.
    ///
    /// # Errors
    /// What can't be sent, and why.
    fn scan(&self, page: u32) -> Result<Option<Page>, Fault>;

    /// Fills `into` with the file's bytes from `at`; anything else than exactly the file that was scanned is
    /// [`FaultKind::Changed`]. Several threads at once.
    ///
    /// # Errors
    /// The file changed, or can't be read.
    fn read(&self, index: u32, entry: &Entry, at: u64, into: &mut [u8]) -> Result<(), Fault>;
}

/// Where it goes.
pub trait Sink: Send + Sync {
    /// Checks names against what is there, policy and free space, and makes the staging. Before the offer is accepted.
    ///
    /// # Errors
    /// Why it can't be received; nothing stays behind then but what [`Sink::abandon`] removes.
    fn begin(&self, manifest: &Arc<Manifest>) -> Result<(), Fault>;

    /// Bytes of a file from `at` on. Several threads at once, any order; each byte of each file exactly once.
    ///
    /// # Errors
    /// They could not be written.
    fn write(&self, index: u32, entry: &Entry, at: u64, plain: &[u8]) -> Result<(), Fault>;

    /// Empty files, directories, links, modes, times, sync, rename: a slice of at most `at_most` entries; true when all is in
    /// place. One thread, after the last write.
    ///
    /// # Errors
    /// Something could not be put in place.
    fn finish(&self, at_most: usize) -> Result<bool, Fault>;

    /// The transfer ended unfinished: removes what was staged. Never fails, never touches a final name. Once, after the last
    /// other call.
    fn abandon(&self);
}

impl Job {
    /// Does the work, on the thread that calls. It always answers: a panic is a fault of its transfer.
    #[must_use]
    pub fn run(self, cancelled: &AtomicBool) -> JobDone {
        let Self { id, work } = self;
        let stop = || cancelled.load(Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(|| work.run(&stop))).unwrap_or(Err(FaultKind::Panicked.into()));
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
            Self::Begin { .. } => "begin",
            Self::Finish { .. } => "finish",
            Self::Abandon { .. } => "abandon",
        }
    }

    fn run(self, stop: &dyn Fn() -> bool) -> Result<Product, Fault> {
        match self {
            // Cleaning up is what has to be done when all else was told to stop.
            Self::Abandon { sink } => {
                sink.abandon();
                Ok(Product::Abandoned)
            }
            _ if stop() => Err(FaultKind::Cancelled.into()),
            Self::Scan { source, builder, page } => scan(&*source, builder, page),
            Self::Prepare(prepare) => prepare.run(stop).map(|made| Product::Made(Box::new(made))),
            Self::Open(open) => open.run(stop).map(Product::Opened),
            Self::Begin { sink, manifest } => sink.begin(&manifest).map(|()| Product::Begun),
            Self::Finish { sink, at_most } => sink.finish(at_most).map(Product::Finished),
        }
    }
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
