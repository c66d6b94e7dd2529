//! How a transfer that is complete differs from what was offered: files that the sender could not send, and entries
//! that the receiver did not want.
//!
//! Bound: [`LISTED`] entries by name in each list; the rest is counted. No timers, no states.

use super::entries::EntrySet;
use super::manifest::{Entry, Manifest};
use super::path::RelPath;
use super::storage::Fault;
use crate::wire::Violation;
use crate::wire::peer::EntryStatus;

/// The most entries that a list names.
pub const LISTED: usize = 1000;

/// The differences between what was offered and what is in place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Differences {
    /// Files that the sender could not send. They are not in place.
    pub failed: EntryList,
    /// Files that grew after they were offered. Their first bytes are in place, as many as were offered.
    pub grown: EntryList,
    /// Entries that the receiver did not want, since something of their name is there. They were not sent.
    pub skipped: EntryList,
}

/// Entries of one kind: the first by name, all by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryList {
    /// At most [`LISTED`] of them, in the order in which they were found.
    pub entries: Vec<ListedEntry>,
    /// How many entries there are.
    pub count: u32,
    /// How many of them are files.
    pub files: u32,
    /// The length of these files together, in bytes.
    pub bytes: u64,
}

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedEntry {
    /// Its number in the manifest.
    pub index: u32,
    /// Its path in the manifest. At a receiver this is text of the other side, which is shown through
    /// [`RelPath::shown`] only.
    pub path: RelPath,
    /// What the sender found.
    pub status: Option<EntryStatus>,
    /// Sender: the error behind it.
    pub fault: Option<Fault>,
}

impl EntryList {
    /// Adds an entry.
    pub(super) fn add(&mut self, index: u32, entry: Entry, status: Option<EntryStatus>, fault: Option<Fault>) {
        self.count = self.count.saturating_add(1);
        if entry.kind.is_file() {
            self.files = self.files.saturating_add(1);
            self.bytes = self.bytes.saturating_add(entry.size());
        }
        if self.entries.len() < LISTED {
            self.entries.push(ListedEntry { index, path: entry.path, status, fault });
        }
    }
}

impl Differences {
    /// Notes what the receiver does not want.
    pub(super) fn note_skipped(&mut self, manifest: &Manifest) {
        let mut pages = Pages::default();
        let first = manifest.skipped().iter().take(LISTED);
        let listed = first.filter_map(|index| {
            let path = pages.entry(manifest, index)?.path;
            Some(ListedEntry { index, path, status: None, fault: None })
        });
        let entries = listed.collect();
        let (files, bytes) = manifest.skipped_files();
        self.skipped = EntryList { entries, count: manifest.skipped().len(), files, bytes };
    }

    /// Notes what the sender found out about a file.
    pub(super) fn note(&mut self, index: u32, entry: Entry, status: EntryStatus, fault: Option<Fault>) {
        let list = if status.is_failure() { &mut self.failed } else { &mut self.grown };
        list.add(index, entry, Some(status), fault);
    }
}

/// Entries of a manifest by their numbers, one page of it at a time: each entry alone would decode its page again.
#[derive(Debug, Default)]
pub(super) struct Pages {
    page: Option<u32>,
    entries: Vec<(u32, Entry)>,
}

impl Pages {
    /// An entry; `None`: there is no such entry.
    pub fn entry(&mut self, manifest: &Manifest, index: u32) -> Option<Entry> {
        let page = manifest.page_of(index)?;
        if self.page != Some(page) {
            (self.page, self.entries) = (Some(page), manifest.page_entries(page).collect());
        }
        let first = self.entries.first()?.0;
        self.entries.get(index.checked_sub(first)? as usize).map(|(_, entry)| entry.clone())
    }
}

/// What the sender found out about files since they were offered.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    pages: Pages,
    /// The files of which something was said.
    known: EntrySet,
    /// Those that are not sent.
    pub failed: EntrySet,
}

impl Statuses {
    /// Notes the status of a file.
    ///
    /// # Errors
    /// There is no such file, or it has a status already.
    pub fn note(
        &mut self,
        manifest: &Manifest,
        (index, status): (u32, EntryStatus),
        fault: Option<Fault>,
        differences: &mut Differences,
    ) -> Result<(), Violation> {
        if self.known.contains(index) || manifest.skipped().contains(index) {
            return Err(Violation::BadEntry);
        }
        let entry = self.pages.entry(manifest, index).filter(|entry| entry.kind.is_file());
        let entry = entry.ok_or(Violation::BadEntry)?;
        self.known.insert(index);
        if status.is_failure() {
            self.failed.insert(index);
        }
        differences.note(index, entry, status, fault);
        Ok(())
    }
}
