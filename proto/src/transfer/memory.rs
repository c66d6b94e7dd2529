//! A [`Source`] and a [`Sink`] in memory, with faults that can be configured: for tests, the simulator and the
//! fuzzers.
//!
//! The sink records misuse that a disk would hide: bytes that were written twice or never, and calls after the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::journal::{Header, Reader, Stored, Writer};
use super::manifest::{Entry, EntryKind, Manifest, Mtime, Page, PageBuilder};
use super::path::{LinkTarget, RelPath};
use crate::transfer::storage::{Fault, FaultKind, Placement, Sink, Source};

/// Where a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Source: while this page is scanned.
    Scan(u32),
    /// Source: while any part of this entry is read.
    Read(u32),
    /// Sink: in `begin`.
    Begin,
    /// Sink: while this entry is written.
    Write(u32),
    /// Sink: in this commit, counted from 0.
    Commit(u32),
    /// Sink: in this sync, counted from 0.
    Sync(u32),
    /// Sink: in this call of `finish`, counted from 0.
    Finish(u32),
}

/// Causes the fault for this place: [`FaultKind::Panicked`] panics, every other kind is returned.
fn strike(faults: &[(At, FaultKind)], at: At) -> Result<(), Fault> {
    match faults.iter().find(|(where_, _)| *where_ == at) {
        #[expect(clippy::panic, reason = "the fault that was asked for")]
        Some((_, FaultKind::Panicked)) => panic!("a panic was asked for"),
        Some((_, kind)) => Err((*kind).into()),
        None => Ok(()),
    }
}

/// A source of files in memory.
#[derive(Debug, Clone, Default)]
pub struct MemorySource {
    entries: Vec<(Entry, Vec<u8>)>,
    faults: Vec<(At, FaultKind)>,
    page_after: usize,
}

impl MemorySource {
    /// A source without entries, whose pages are as full as possible.
    #[must_use]
    pub fn new() -> Self {
        Self { page_after: usize::MAX, ..Self::default() }
    }

    /// Begins a new page after this many entries, so that a small tree has several pages.
    #[must_use]
    pub const fn with_page_after(mut self, entries: usize) -> Self {
        self.page_after = entries;
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn with_file(mut self, path: RelPath, contents: Vec<u8>) -> Self {
        let kind = EntryKind::File { size: contents.len() as u64 };
        self.entries.push((Entry { path, kind, mode: 0o644, mtime: Mtime::default() }, contents));
        self
    }

    /// Adds a directory.
    #[must_use]
    pub fn with_dir(mut self, path: RelPath) -> Self {
        self.entries.push((Entry { path, kind: EntryKind::Dir, mode: 0o755, mtime: Mtime::default() }, Vec::new()));
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn with_link(mut self, path: RelPath, target: LinkTarget) -> Self {
        let kind = EntryKind::Symlink { target };
        self.entries.push((Entry { path, kind, mode: 0o777, mtime: Mtime::default() }, Vec::new()));
        self
    }

    /// Adds any entry; a file whose contents have another length than the entry states counts as changed.
    #[must_use]
    pub fn with_entry(mut self, entry: Entry, contents: Vec<u8>) -> Self {
        self.entries.push((entry, contents));
        self
    }

    /// Causes this fault at this place.
    #[must_use]
    pub fn with_fault(mut self, at: At, kind: FaultKind) -> Self {
        self.faults.push((at, kind));
        self
    }

    /// The entries, with the contents of files.
    #[must_use]
    pub fn entries(&self) -> &[(Entry, Vec<u8>)] {
        &self.entries
    }
}

impl Source for MemorySource {
    fn scan(&self, page: u32) -> Result<Option<Page>, Fault> {
        strike(&self.faults, At::Scan(page))?;
        let mut entries = self.entries.iter().map(|(entry, _)| entry).peekable();
        for number in 0..=page {
            if entries.peek().is_none() {
                return Ok(None);
            }
            let (mut builder, mut count) = (PageBuilder::new(), 0);
            while count < self.page_after.max(1)
                && let Some(entry) = entries.peek()
                && builder.push(entry).is_ok()
            {
                count = count.saturating_add(1);
                entries.next();
            }
            if number == page {
                return Ok(Some(builder.finish()));
            }
        }
        Ok(None)
    }

    fn read(&self, index: u32, entry: &Entry, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        strike(&self.faults, At::Read(index))?;
        let changed = || Fault::at(FaultKind::Changed, entry.path.as_str());
        let (own, contents) = self.entries.get(index as usize).ok_or_else(changed)?;
        let start = usize::try_from(at).map_err(|_| changed())?;
        let end = start.checked_add(into.len()).ok_or_else(changed)?;
        match contents.get(start..end) {
            Some(bytes) if own.path == entry.path && contents.len() as u64 == entry.size() => {
                into.copy_from_slice(bytes);
                Ok(())
            }
            _ => Err(changed()),
        }
    }
}

/// A sink that stores files in memory.
#[derive(Debug, Default)]
pub struct MemorySink {
    faults: Vec<(At, FaultKind)>,
    free: Option<u64>,
    before: Partial,
    /// `finish` never returns true.
    is_endless: bool,
    placement: Placement,
    store: Mutex<Store>,
}

/// The state that a sink leaves behind: like a disk, it can be truncated and damaged before the next sink uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partial {
    /// The journal.
    pub journal: Vec<u8>,
    /// The stored contents by the index of their entry.
    pub files: BTreeMap<u32, Vec<u8>>,
}

/// The state of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// No method was called yet.
    #[default]
    New,
    /// It accepts bytes.
    Staged,
    /// All entries have their final names.
    Finished,
    /// What was staged was removed.
    Abandoned,
    /// What was staged was kept.
    Suspended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Byte {
    #[default]
    Missing,
    /// Stored by an earlier transfer.
    Kept,
    Written,
}

#[derive(Debug, Default)]
struct Store {
    stage: Stage,
    manifest: Option<Arc<Manifest>>,
    /// The contents, and the state of each byte.
    files: BTreeMap<u32, (Vec<u8>, Vec<Byte>)>,
    journal: Vec<u8>,
    writer: Option<Writer>,
    commits: u32,
    syncs: u32,
    finished: BTreeMap<String, (Entry, Vec<u8>)>,
    slices: u32,
    placed: u32,
    misuse: Option<&'static str>,
}

impl MemorySink {
    /// An empty sink with unlimited space.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the free space to this many bytes.
    #[must_use]
    pub const fn with_free(mut self, bytes: u64) -> Self {
        self.free = Some(bytes);
        self
    }

    /// Causes this fault at this place.
    #[must_use]
    pub fn with_fault(mut self, at: At, kind: FaultKind) -> Self {
        self.faults.push((at, kind));
        self
    }

    /// `finish` always returns false.
    #[must_use]
    pub const fn with_endless_finish(mut self) -> Self {
        self.is_endless = true;
        self
    }

    /// Reports this placement at the end.
    #[must_use]
    pub const fn with_placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Uses this state of an earlier transfer.
    #[must_use]
    pub fn with_partial(mut self, before: Partial) -> Self {
        self.before = before;
        self
    }

    /// What a later transfer would find if everything stopped now.
    #[must_use]
    pub fn partial(&self) -> Partial {
        let store = self.lock();
        let files = store.files.iter().map(|(index, (contents, _))| (*index, contents.clone())).collect();
        Partial { journal: store.journal.clone(), files }
    }

    /// The current state.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// The entries that have their final names: path, entry, contents.
    #[must_use]
    pub fn finished(&self) -> BTreeMap<String, (Entry, Vec<u8>)> {
        self.lock().finished.clone()
    }

    /// The first wrong call: a byte written twice, a byte never written, or a call in the wrong order.
    #[must_use]
    pub fn misuse(&self) -> Option<&'static str> {
        self.lock().misuse
    }

    /// Bytes that were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.lock()
            .files
            .values()
            .map(|(_, written)| written.iter().filter(|byte| **byte == Byte::Written).count() as u64)
            .sum()
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    fn note(&mut self, right: bool, what: &'static str) {
        if !right && self.misuse.is_none() {
            self.misuse = Some(what);
        }
    }
}

impl Sink for MemorySink {
    fn begin(&self, manifest: &Arc<Manifest>) -> Result<Vec<Stored>, Fault> {
        let mut store = self.lock();
        let stage = store.stage;
        store.note(stage == Stage::New, "begun twice");
        strike(&self.faults, At::Begin)?;
        let need = manifest.totals().bytes;
        if let Some(have) = self.free.filter(|free| need > *free) {
            return Err(FaultKind::Full { need, have }.into());
        }
        store.stage = Stage::Staged;
        store.manifest = Some(Arc::clone(manifest));
        let header = Header::of(manifest).encode();
        let len = header.len() as u64;
        match Header::decode(&self.before.journal) {
            Ok((own, len)) if own == Header::of(manifest) => {
                let (encoded, rest) = self.before.journal.split_at_checked(len).unwrap_or_default();
                let mut reader = Reader::new(&own, encoded);
                reader.push(rest);
                let (stored, end) = reader.finish();
                store.journal = self.before.journal.clone();
                store.journal.truncate(usize::try_from(end).unwrap_or(usize::MAX));
                store.writer = Some(Writer::new(encoded, end));
                for (index, contents) in &self.before.files {
                    store.files.insert(*index, (contents.clone(), vec![Byte::Kept; contents.len()]));
                }
                Ok(stored)
            }
            Ok(_) | Err(_) => {
                store.writer = Some(Writer::new(&header, len));
                store.journal = header;
                Ok(Vec::new())
            }
        }
    }

    fn recall(&self, index: u32, entry: &Entry, at: u64, into: &mut [u8]) -> Result<bool, Fault> {
        strike(&self.faults, At::Read(index))?;
        let mut store = self.lock();
        let right = store.stage == Stage::Staged && at.saturating_add(into.len() as u64) <= entry.size();
        store.note(right, "recalled what is not part of what was begun");
        let Ok(start) = usize::try_from(at) else { return Ok(false) };
        let bytes = store.files.get(&index).and_then(|(own, _)| own.get(start..start.saturating_add(into.len())));
        Ok(bytes.map(|bytes| into.copy_from_slice(bytes)).is_some())
    }

    fn write(&self, index: u32, entry: &Entry, at: u64, plain: &[u8]) -> Result<(), Fault> {
        strike(&self.faults, At::Write(index))?;
        let mut store = self.lock();
        let right = store.stage == Stage::Staged
            && store.manifest.as_ref().and_then(|manifest| manifest.entry(index)).is_some_and(|own| own == *entry)
            && at.checked_add(plain.len() as u64).is_some_and(|end| end <= entry.size());
        store.note(right, "bytes that are not part of what was begun");
        let Ok(start) = usize::try_from(at) else { return Err(FaultKind::Internal.into()) };
        let end = start.saturating_add(plain.len());
        let (contents, written) = store.files.entry(index).or_default();
        if contents.len() < end {
            contents.resize(end, 0);
            written.resize(end, Byte::Missing);
        }
        let mut once = true;
        if let (Some(slot), Some(noted)) = (contents.get_mut(start..end), written.get_mut(start..end)) {
            slot.copy_from_slice(plain);
            once = !noted.contains(&Byte::Written);
            noted.fill(Byte::Written);
        }
        store.note(once, "a byte was written twice");
        Ok(())
    }

    fn commit(&self, chunks: &[Stored]) -> Result<(), Fault> {
        let mut store = self.lock();
        strike(&self.faults, At::Commit(store.commits))?;
        store.commits = store.commits.saturating_add(1);
        let stage = store.stage;
        store.note(stage == Stage::Staged && !chunks.is_empty(), "committed when nothing was staged");
        if let Some(mut writer) = store.writer.take() {
            let bytes = writer.encode(chunks);
            writer.appended(bytes.len() as u64);
            store.journal.extend_from_slice(&bytes);
            store.writer = Some(writer);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fault> {
        let mut store = self.lock();
        strike(&self.faults, At::Sync(store.syncs))?;
        store.syncs = store.syncs.saturating_add(1);
        Ok(())
    }

    fn finish(&self, at_most: usize) -> Result<bool, Fault> {
        let mut store = self.lock();
        strike(&self.faults, At::Finish(store.slices))?;
        store.slices = store.slices.saturating_add(1);
        let stage = store.stage;
        store.note(stage == Stage::Staged, "finished when nothing was staged");
        let Some(manifest) = store.manifest.clone() else { return Err(FaultKind::Internal.into()) };
        let slice: Vec<_> = manifest.entries().skip(store.placed as usize).take(at_most).collect();
        for (index, entry) in slice {
            let (mut contents, written) = store.files.remove(&index).unwrap_or_default();
            // A file of an earlier transfer may be longer than its entry states.
            contents.truncate(usize::try_from(entry.size()).unwrap_or(usize::MAX));
            store.note(
                contents.len() as u64 == entry.size() && !written.contains(&Byte::Missing),
                "a file was finished that is not whole",
            );
            store.placed = store.placed.saturating_add(1);
            store.finished.insert(entry.path.as_str().to_owned(), (entry, contents));
        }
        let all = store.placed == manifest.totals().entries && !self.is_endless;
        if all {
            store.stage = Stage::Finished;
        }
        Ok(all)
    }

    fn placement(&self) -> Placement {
        self.placement
    }

    fn abandon(&self) {
        let mut store = self.lock();
        let stage = store.stage;
        store.note(stage == Stage::Staged, "abandoned when nothing was staged");
        store.stage = Stage::Abandoned;
        store.files.clear();
    }

    fn suspend(&self) {
        let mut store = self.lock();
        let stage = store.stage;
        store.note(stage == Stage::Staged, "suspended when nothing was staged");
        // A state that can't be resumed is not kept.
        let is_empty = store.commits == 0 && self.before == Partial::default();
        store.stage = if is_empty { Stage::Abandoned } else { Stage::Suspended };
    }
}
