//! Heavy work as a value. In work: the transfer fills it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

/// Names a job; its answer carries the same name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub u64);

/// Why a job has no product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The node went away.
    Cancelled,
    /// A bug, caught.
    Panicked,
}

/// A job without a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// Where, if a file is concerned.
    pub path: Option<Box<str>>,
}

/// What is sent.
pub trait Source: Send + Sync {
    /// Page number `page` of the manifest.
    ///
    /// # Errors
    /// What kept it from being read.
    fn scan(&self, page: u32) -> Result<Option<Bytes>, Fault>;
}

/// What is to be done.
pub enum Work {
    /// Ask for a page of the manifest.
    Scan {
        /// Of this source.
        source: Arc<dyn Source>,
        /// Which.
        page: u32,
    },
}

/// What came of it.
#[derive(Debug)]
pub enum Product {
    /// A page of the manifest.
    Page(Option<Bytes>),
}

/// Heavy work.
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What is to be done.
    pub work: Work,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The answer of a job.
#[derive(Debug)]
pub struct JobDone {
    /// The job's name.
    pub id: JobId,
    /// What came of it.
    pub result: Result<Product, Fault>,
}

impl Job {
    /// Does the work on the thread that calls. Always answers: a panic is a fault, a lost answer would be a hang.
    #[must_use]
    pub fn run(self, cancelled: &AtomicBool) -> JobDone {
        let Self { id, work } = self;
        if cancelled.load(Ordering::Relaxed) {
            return JobDone { id, result: Err(Fault { kind: FaultKind::Cancelled, path: None }) };
        }
        let work = AssertUnwindSafe(|| match work {
            Work::Scan { source, page } => source.scan(page).map(Product::Page),
        });
        let panicked = Fault { kind: FaultKind::Panicked, path: None };
        JobDone { id, result: std::panic::catch_unwind(work).unwrap_or(Err(panicked)) }
    }
}
