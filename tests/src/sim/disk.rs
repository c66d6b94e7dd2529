//! A sink that checks what it receives: only the bytes of the source may be written, and no file gets its final name
//! before it is complete.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tallow_proto::transfer::entries::EntrySet;
use tallow_proto::transfer::journal::Stored;
use tallow_proto::transfer::manifest::{Entry, Manifest};
use tallow_proto::transfer::memory::{MemorySink, MemorySource, Partial, Stage};
use tallow_proto::transfer::storage::{Fault, Sink};

/// A sink that checks its invariants.
#[derive(Debug, Default)]
pub struct CheckedSink {
    inner: MemorySink,
    /// The expected files, if known; those of a malicious sender are not.
    source: Option<Arc<MemorySource>>,
    left_out: Mutex<Vec<u32>>,
    wrong: Mutex<Option<String>>,
    finished: AtomicBool,
}

impl CheckedSink {
    /// Creates a sink that accepts these files only.
    #[must_use]
    pub fn new(inner: MemorySink, source: Option<Arc<MemorySource>>) -> Arc<Self> {
        Arc::new(Self { inner, source, ..Self::default() })
    }

    /// Whether everything is in place under its final name.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.inner.stage() == Stage::Finished
    }

    /// Whether anything has a final name.
    #[must_use]
    pub fn has_final_names(&self) -> bool {
        !self.inner.finished().is_empty()
    }

    /// The files that a crash at this moment would leave.
    #[must_use]
    pub fn partial(&self) -> Partial {
        self.inner.partial()
    }

    /// The number of bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.inner.written()
    }

    /// Panics if an invariant is violated. Cheap.
    pub fn check(&self) {
        if let Some(wrong) = self.wrong.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            panic!("the sink: {wrong}");
        }
    }

    /// The files that the sender could not send, in ascending order.
    #[must_use]
    pub fn left_out(&self) -> Vec<u32> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Panics unless the files with final names are exactly the source, without those that it could not read.
    pub fn check_whole(&self) {
        self.check();
        assert!(self.is_complete(), "not everything is in place");
        let finished = self.inner.finished();
        let source = self.source.as_ref().expect("a known source");
        let left_out = self.left_out();
        assert!(left_out.iter().all(|index| source.may_fail(*index)), "{left_out:?}");
        let skipped = self.inner.skipped_entries();
        assert!(left_out.iter().all(|index| !skipped.contains(*index)), "{left_out:?}");
        assert_eq!(finished.len() + left_out.len() + skipped.len() as usize, source.entries().len());
        for (index, (entry, contents)) in (0..).zip(source.entries()) {
            if left_out.contains(&index) || skipped.contains(index) {
                assert!(!finished.contains_key(entry.path.as_str()), "{}", entry.path.as_str());
                continue;
            }
            let (found, bytes) = &finished[entry.path.as_str()];
            assert_eq!((found, bytes == contents), (entry, true), "{}", entry.path.as_str());
        }
    }

    fn note(&self, right: bool, what: impl FnOnce() -> String) {
        if !right {
            self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(what);
        }
    }
}

impl Sink for CheckedSink {
    fn begin(&self, manifest: &Arc<Manifest>) -> Result<Vec<Stored>, Fault> {
        self.inner.begin(manifest)
    }

    fn skipped_entries(&self) -> EntrySet {
        self.inner.skipped_entries()
    }

    fn recall(&self, index: u32, entry: &Entry, at: u64, into: &mut [u8]) -> Result<bool, Fault> {
        self.inner.recall(index, entry, at, into)
    }

    fn commit(&self, chunks: &[Stored]) -> Result<(), Fault> {
        self.inner.commit(chunks)
    }

    fn sync(&self) -> Result<(), Fault> {
        self.inner.sync()
    }

    fn write(&self, index: u32, entry: &Entry, at: u64, plain: &[u8]) -> Result<(), Fault> {
        if let Some(source) = &self.source {
            let own = source.entries().get(index as usize);
            let at = entry.data_position(at).unwrap_or(u64::MAX) as usize;
            let range = at..at.saturating_add(plain.len());
            let is_own = |bytes: &[u8]| bytes.get(range) == Some(plain);
            // In the place of a file that failed there are zeros, in a chunk with others.
            let is_gap = source.may_fail(index) && plain.iter().all(|byte| *byte == 0);
            let right = own.is_some_and(|(own, bytes)| own == entry && (is_own(bytes) || is_gap));
            self.note(right, || format!("{} bytes at {at} of entry {index} are not the source's", plain.len()));
        }
        let result = self.inner.write(index, entry, at, plain);
        self.note(self.inner.misuse().is_none(), || format!("{:?}", self.inner.misuse()));
        result
    }

    fn leave_out(&self, index: u32, entry: &Entry) -> Result<(), Fault> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).push(index);
        let result = self.inner.leave_out(index, entry);
        self.note(self.inner.misuse().is_none(), || format!("{:?}", self.inner.misuse()));
        result
    }

    fn finish(&self, at_most: usize) -> Result<bool, Fault> {
        let result = self.inner.finish(at_most);
        self.note(self.inner.misuse().is_none(), || format!("{:?}", self.inner.misuse()));
        if matches!(result, Ok(true)) {
            self.finished.store(true, Ordering::Relaxed);
        }
        result
    }

    fn abandon(&self) {
        self.note(!self.finished.load(Ordering::Relaxed), || "abandoned after it was finished".to_owned());
        self.inner.abandon();
    }

    fn suspend(&self) {
        self.note(!self.finished.load(Ordering::Relaxed), || "suspended after it was finished".to_owned());
        self.inner.suspend();
    }
}
