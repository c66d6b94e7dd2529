//! Files in memory: a source of files to send, and a sink for received files, for applications without a disk.
//!
//! Bound: a [`Collector`] accepts an offer only if its files, plus [`ENTRY`] bytes for each entry, fit into the limit
//! with which it was created. No timers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::transfer::entries::EntrySet;
use crate::transfer::journal::Stored;
use crate::transfer::manifest::{Entry, EntryKind, Manifest, Mtime, Page, PageBuilder};
use crate::transfer::path::{PathError, RelPath};
use crate::transfer::storage::{Fault, FaultKind, Sink, Source};

/// The size that each entry counts in addition to its contents, in bytes.
const ENTRY: u64 = 512;

/// Files in memory that are to be sent: a [`Source`].
#[derive(Debug, Default)]
pub struct Files {
    entries: Vec<(Entry, Bytes)>,
    /// The number of entries in the pages that were scanned so far.
    scanned: Mutex<usize>,
}

impl Files {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file with this name, which may contain directories ("notes/today.txt").
    ///
    /// # Errors
    /// A receiver would not accept the name.
    pub fn with_file(mut self, name: &str, contents: impl Into<Bytes>) -> Result<Self, PathError> {
        let (path, contents) = (RelPath::parse(name)?, contents.into());
        let kind = EntryKind::File { size: contents.len() as u64 };
        self.entries.push((Entry { path, kind, mode: 0o644, mtime: Mtime::default() }, contents));
        Ok(self)
    }
}

impl Source for Files {
    fn scan(&self, _page: u32) -> Result<Option<Page>, Fault> {
        let mut scanned = lock(&self.scanned);
        let mut page = PageBuilder::new();
        while let Some((entry, _)) = self.entries.get(*scanned)
            && page.push(entry).is_ok()
        {
            *scanned = scanned.saturating_add(1);
        }
        Ok((!page.is_empty()).then(|| page.finish()))
    }

    fn read(&self, index: u32, entry: &Entry, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let contents = self.entries.get(index as usize).map(|(_, contents)| contents);
        let start = usize::try_from(at).ok();
        let bytes =
            contents.zip(start).and_then(|(contents, start)| contents.get(start..start.checked_add(into.len())?));
        let bytes = bytes.ok_or_else(|| Fault::at(FaultKind::Changed, entry.path.as_str()))?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

/// A file that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The name that the sender gave it. Display it only through [`RelPath::shown`].
    pub path: RelPath,
    /// Its contents.
    pub contents: Bytes,
}

/// Receives files into memory: a [`Sink`]. It ignores directories and links. Keep a clone of the [`Arc`], and take the
/// files once the transfer is done.
#[derive(Debug)]
pub struct Collector {
    limit: u64,
    store: Mutex<Store>,
}

#[derive(Debug, Default)]
struct Store {
    manifest: Option<Arc<Manifest>>,
    staged: BTreeMap<u32, Vec<u8>>,
    left_out: EntrySet,
    /// The number of complete entries.
    placed: usize,
    files: Vec<File>,
}

impl Collector {
    /// A collector that accepts at most this many bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, store: Mutex::default() })
    }

    /// Takes the received files, in the sender's order: all of them after [`crate::peer::Event::Done`], none before.
    #[must_use]
    pub fn take_files(&self) -> Vec<File> {
        let mut store = lock(&self.store);
        let is_whole =
            store.manifest.as_ref().is_none_or(|manifest| store.placed >= manifest.totals().entries as usize);
        if is_whole { std::mem::take(&mut store.files) } else { Vec::new() }
    }
}

impl Sink for Collector {
    fn begin(&self, manifest: &Arc<Manifest>) -> Result<Vec<Stored>, Fault> {
        let totals = manifest.totals();
        let need = totals.bytes.saturating_add(ENTRY.saturating_mul(totals.entries.into()));
        if need > self.limit {
            return Err(FaultKind::Full { need, have: self.limit }.into());
        }
        *lock(&self.store) = Store { manifest: Some(Arc::clone(manifest)), ..Store::default() };
        Ok(Vec::new())
    }

    fn write(&self, index: u32, entry: &Entry, at: u64, plain: &[u8]) -> Result<(), Fault> {
        let too_far = || Fault::at(FaultKind::Internal, entry.path.as_str());
        let start = usize::try_from(at).map_err(|_| too_far())?;
        let end = start.checked_add(plain.len()).filter(|&end| end as u64 <= entry.size()).ok_or_else(too_far)?;
        let mut store = lock(&self.store);
        let contents = store.staged.entry(index).or_default();
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents.get_mut(start..end).ok_or_else(too_far)?.copy_from_slice(plain);
        Ok(())
    }

    fn leave_out(&self, index: u32, _: &Entry) -> Result<(), Fault> {
        let mut store = lock(&self.store);
        store.staged.remove(&index);
        store.left_out.insert(index);
        Ok(())
    }

    fn finish(&self, at_most: usize) -> Result<bool, Fault> {
        let mut store = lock(&self.store);
        let Some(manifest) = store.manifest.clone() else { return Err(FaultKind::Internal.into()) };
        for (index, entry) in manifest.entries().skip(store.placed).take(at_most) {
            store.placed = store.placed.saturating_add(1);
            if entry.kind.is_file() && !store.left_out.contains(index) {
                let mut contents = store.staged.remove(&index).unwrap_or_default();
                // What is missing is a hole, which was counted when the offer was accepted.
                contents.resize(usize::try_from(entry.size()).unwrap_or_default(), 0);
                store.files.push(File { path: entry.path, contents: contents.into() });
            }
        }
        Ok(store.placed >= manifest.totals().entries as usize)
    }

    fn abandon(&self) {
        *lock(&self.store) = Store::default();
    }
}

/// A panic in another thread leaves each value consistent: each change is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;
    use crate::transfer::manifest::ManifestBuilder;
    use crate::wire::peer::TransferKind;

    fn scanned(files: &Files) -> Arc<Manifest> {
        let mut builder = ManifestBuilder::new(TransferKind::Files, &Seed::new([1; 32]));
        let mut page = 0;
        while let Some(next) = files.scan(page).unwrap() {
            builder.push_page(next).unwrap();
            page += 1;
        }
        Arc::new(builder.finish().unwrap())
    }

    #[test]
    fn files_written_out_of_order_arrive_intact() {
        let long: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        let files = Files::new().with_file("a/one", long.clone()).unwrap().with_file("two", Bytes::new()).unwrap();
        let (manifest, sink) = (scanned(&files), Collector::new(20_000));
        assert!(sink.begin(&manifest).unwrap().is_empty());
        let entry = manifest.entry(0).unwrap();
        for at in [5_000_u64, 0] {
            let mut piece = vec![0; 5_000];
            files.read(0, &entry, at, &mut piece).unwrap();
            sink.write(0, &entry, at, &piece).unwrap();
        }
        assert!(!sink.finish(1).unwrap() && sink.take_files().is_empty());
        assert!(sink.finish(1).unwrap());
        let arrived = sink.take_files();
        let names: Vec<&str> = arrived.iter().map(|file| file.path.as_str()).collect();
        assert_eq!((names, &arrived[0].contents[..]), (vec!["a/one", "two"], &long[..]));
        assert!(sink.take_files().is_empty());
    }

    #[test]
    fn collector_respects_its_limit() {
        let manifest = scanned(&Files::new().with_file("a", vec![0; 1000]).unwrap());
        let fault = Collector::new(1000).begin(&manifest).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Full { need: 1000 + ENTRY, have: 1000 });
        let many = (0..100).fold(Files::new(), |files, i| files.with_file(&format!("{i}"), "").unwrap());
        assert!(Collector::new(100 * ENTRY - 1).begin(&scanned(&many)).is_err(), "names count, too");
        let sink = Collector::new(1 << 20);
        sink.begin(&manifest).unwrap();
        let entry = manifest.entry(0).unwrap();
        assert!(sink.write(0, &entry, 999, &[1, 2]).is_err(), "beyond the offered size");
    }

    #[test]
    fn unsafe_name_is_refused_when_added() {
        for name in ["", "..", "a/../b", "/etc/passwd"] {
            assert!(Files::new().with_file(name, "x").is_err(), "{name}");
        }
    }

    #[test]
    fn many_files_take_several_pages() {
        let name = "x".repeat(200);
        let files = (0..1000).fold(Files::new(), |files, i| files.with_file(&format!("{i:04}{name}"), "").unwrap());
        let manifest = scanned(&files);
        assert!(manifest.pages() > 1);
        assert_eq!(manifest.totals().entries, 1000);
    }
}
