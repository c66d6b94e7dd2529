//! The manifest: the contents of a transfer, in encoded pages.
//!
//! It decides what a page may contain, whether the entries may exist side by side, and the manifest's digest. A
//! million entries as values would take over 100 MB, so a [`Manifest`] keeps the pages as they were sent, with an
//! index of where each begins, and decodes a page on demand. Both sides build their manifest with
//! [`ManifestBuilder`], so both have checked every entry.
//!
//! A page: `u16` big-endian number of entries (at least 1), then for each entry: kind (`u8`: 0 file, 1 directory, 2
//! symbolic link), how many leading bytes the path shares with the previous entry in this page, length of the rest of
//! the path and its bytes, mode, seconds of the mtime as the difference to the previous entry (zigzag, modulo 2^64),
//! nanoseconds, then for a file its size, for a link the length of its target and its bytes. Numbers are LEB128
//! varints without overlong forms; the shared part of a path is the longest possible. So a list of entries has
//! exactly one encoding, and concatenated pages are not ambiguous.
//!
//! Digest: `BLAKE3::derive_key("tallow v1 manifest", kind u8 ‖ chunk size u32 big-endian ‖ all pages in order)`.
//!
//! Bounds: [`Page::MAX`] and [`Page::MAX_NAMES`] for a page, [`MAX_ENTRIES`], [`MAX_ENCODED`] and [`MAX_PAGES`] for a
//! manifest. No timers, no states.

use bytes::Bytes;

use super::chunk_size::{self, SIZES};
use super::collision::{Collision, Collisions};
use super::path::{LinkTarget, PathError, RelPath};
use crate::seed::Seed;
use crate::wire::Untrusted;
use crate::wire::Violation;
use crate::wire::peer::TransferKind;

/// The largest number of entries of a manifest.
pub const MAX_ENTRIES: u32 = 1_000_000;
/// The largest sum of the encoded bytes of a manifest's pages.
pub const MAX_ENCODED: usize = 32 << 20;
/// The largest number of pages of a manifest.
pub const MAX_PAGES: u32 = 4096;
/// The longest virtual stream, in bytes: the largest file offset.
pub const MAX_BYTES: u64 = i64::MAX as u64;

/// One entry: a file, a directory or a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path below the directory that the receiver chooses.
    pub path: RelPath,
    /// The kind, with its properties.
    pub kind: EntryKind,
    /// Permission bits, at most 0o777; the receiver's umask still applies.
    pub mode: u16,
    /// When the contents last changed.
    pub mtime: Mtime,
}

/// The kind of an entry. The list is closed, because a sink has to know each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// The target.
        target: LinkTarget,
    },
}

impl Entry {
    /// The length of a file in bytes; 0 for other kinds.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self.kind {
            EntryKind::File { size } => size,
            EntryKind::Dir | EntryKind::Symlink { .. } => 0,
        }
    }
}

/// A time since 1970-01-01 00:00:00 UTC; earlier times have negative seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mtime {
    /// Seconds; a value read from a page is clamped to the years 0 to 9999.
    pub seconds: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nanos: u32,
}

impl Mtime {
    /// 0000-01-01 00:00:00 UTC.
    const FIRST: i64 = -62_167_219_200;
    /// 9999-12-31 23:59:59 UTC.
    const LAST: i64 = 253_402_300_799;

    /// The nearest time within the years 0 to 9999, which the conversions of every system support.
    #[must_use]
    pub fn clamped(seconds: i64, nanos: u64) -> Self {
        Self {
            seconds: seconds.clamp(Self::FIRST, Self::LAST),
            nanos: u32::try_from(nanos).unwrap_or(u32::MAX).min(999_999_999),
        }
    }
}

/// Why a manifest is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The page violates the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The manifest is well-formed, but breaks the rules for what may be received.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// A rule was broken by an entry, or by all entries together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// The entry's name as received; empty if no single entry is the cause.
    pub name: Untrusted,
    /// The rule.
    pub why: Refusal,
}

/// The rules for what may be offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The rule for names.
    #[error("unsafe file name: {0}")]
    Name(#[from] PathError),
    /// The rule for targets of symbolic links.
    #[error("unsafe link target: {0}")]
    Link(PathError),
    /// Two entries have this name.
    #[error("two entries have the same name")]
    Twice,
    /// The entry of this name is a file or a link, and another entry is below it.
    #[error("another entry is below one that is not a directory")]
    NoDirectory,
    /// Too many names are equal on the receiver's disk.
    #[error("too many names are equal on this disk")]
    TooManyCollisions,
    /// A top-level name is reserved for the staging directory of an interrupted transfer.
    #[error("name of a partial transfer")]
    Partial,
    /// More than [`MAX_ENTRIES`].
    #[error("more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// More than [`MAX_ENCODED`] bytes of names and more than [`MAX_PAGES`] pages.
    #[error("the list of names is too long")]
    TooManyNames,
    /// The sum of the sizes is more than [`MAX_BYTES`].
    #[error("invalid size")]
    TooLarge,
}

/// The sums over a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Entries of all kinds.
    pub entries: u32,
    /// Files among them.
    pub files: u32,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// An encoded page, at most [`Page::MAX`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Page(pub Bytes);

impl Page {
    /// The largest number of bytes, so that a page fits into a control record.
    pub const MAX: usize = 60 << 10;
    /// The largest number of bytes of all expanded paths in one page, so that a page decodes to little more than a
    /// megabyte.
    pub const MAX_NAMES: usize = 1 << 20;
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Page({} bytes)", self.0.len())
    }
}

/// The page has no room for this entry: finish it and begin another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page is full")]
pub struct PageFull;

/// Encodes a page.
#[derive(Debug, Default)]
pub struct PageBuilder {
    encoded: Vec<u8>,
    count: u16,
    names: usize,
    path: Vec<u8>,
    seconds: i64,
}

impl PageBuilder {
    /// An empty page.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry. An empty page has room for any entry.
    ///
    /// # Errors
    /// [`PageFull`]; the page is unchanged.
    pub fn push(&mut self, entry: &Entry) -> Result<(), PageFull> {
        let mtime = Mtime::clamped(entry.mtime.seconds, entry.mtime.nanos.into());
        let (tag, size, target) = match &entry.kind {
            EntryKind::File { size } => (codec::FILE, *size, ""),
            EntryKind::Dir => (codec::DIR, 0, ""),
            EntryKind::Symlink { target } => (codec::SYMLINK, 0, target.as_str()),
        };
        self.push_raw(&codec::Raw {
            tag,
            path: entry.path.as_str().as_bytes(),
            mode: (entry.mode & 0o777).into(),
            seconds: mtime.seconds,
            nanos: mtime.nanos.into(),
            size,
            target: target.as_bytes(),
        })
    }

    /// Whether the page has no entry yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The encoded page. A page without entries is not valid; do not finish one.
    #[must_use]
    pub fn finish(self) -> Page {
        let mut page = Vec::with_capacity(self.encoded.len().saturating_add(2));
        page.extend_from_slice(&self.count.to_be_bytes());
        page.extend_from_slice(&self.encoded);
        Page(page.into())
    }

    fn push_raw(&mut self, raw: &codec::Raw<'_>) -> Result<(), PageFull> {
        let before = self.encoded.len();
        codec::encode(raw, &self.path, self.seconds, &mut self.encoded);
        let names = self.names.saturating_add(raw.path.len());
        let count = self.count.checked_add(1);
        match count {
            Some(count) if self.encoded.len() <= Page::MAX - 2 && names <= Page::MAX_NAMES => {
                (self.count, self.names, self.seconds) = (count, names, raw.seconds);
                self.path.clear();
                self.path.extend_from_slice(raw.path);
                Ok(())
            }
            _ => {
                self.encoded.truncate(before);
                Err(PageFull)
            }
        }
    }
}

/// The start of a page.
#[derive(Debug, Clone, Copy)]
struct Start {
    first_entry: u32,
    /// For each chunk size, where the contents before the page end in the virtual stream: the chunk size is chosen
    /// when everything is known.
    first_byte: [u64; SIZES],
}

/// Checks pages one after the other, and keeps them.
pub struct ManifestBuilder {
    kind: TransferKind,
    pages: Vec<Bytes>,
    starts: Vec<Start>,
    cursor: [u64; SIZES],
    totals: Totals,
    encoded: usize,
    collisions: Collisions,
}

impl ManifestBuilder {
    /// An empty builder. The seed keys the search for collisions, so that an attacker can't construct names that only
    /// seem to collide.
    #[must_use]
    pub fn new(kind: TransferKind, seed: &Seed) -> Self {
        Self {
            kind,
            pages: Vec::new(),
            starts: Vec::new(),
            cursor: [0; SIZES],
            totals: Totals::default(),
            encoded: 0,
            collisions: Collisions::new(seed),
        }
    }

    /// The totals so far.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// How many pages there are so far.
    #[must_use]
    pub fn pages(&self) -> u32 {
        u32::try_from(self.pages.len()).unwrap_or(u32::MAX)
    }

    /// Adds the next page.
    ///
    /// # Errors
    /// The first rule that it breaks. The builder can't be used after an error.
    pub fn push_page(&mut self, page: Page) -> Result<(), ManifestError> {
        let Page(page) = page;
        let encoded = self.encoded.saturating_add(page.len());
        if encoded > MAX_ENCODED || self.pages.len() >= MAX_PAGES as usize {
            return Err(refused("", Refusal::TooManyNames));
        }
        let start = Start { first_entry: self.totals.entries, first_byte: self.cursor };
        let mut entries = codec::Entries::of_page(&page)?;
        let mut names = 0_usize;
        while let Some(raw) = entries.next()? {
            names = names.saturating_add(raw.path.len());
            if names > Page::MAX_NAMES {
                return Err(Violation::BadPage.into());
            }
            self.judge(&raw)?;
        }
        self.starts.push(start);
        self.pages.push(page);
        self.encoded = encoded;
        Ok(())
    }

    /// The manifest, with the chunk size that fits its total.
    ///
    /// # Errors
    /// None today; a rule that concerns the whole manifest would be reported here.
    pub fn finish(self) -> Result<Manifest, ManifestError> {
        let chunk_size = chunk_size::chunk_size_for(self.totals.bytes);
        self.finish_with(chunk_size)
    }

    /// The manifest, with the chunk size from an offer.
    ///
    /// # Errors
    /// A chunk size that a transfer can't have.
    pub fn finish_with(self, chunk_size: u32) -> Result<Manifest, ManifestError> {
        let class = chunk_size::size_class(chunk_size).ok_or(Violation::BadOffer)?;
        let at = |bytes: &[u64; SIZES]| bytes.get(class).copied().unwrap_or_default();
        let mut hasher = blake3::Hasher::new_derive_key("tallow v1 manifest");
        hasher.update(&[match self.kind {
            TransferKind::Files => 0,
            TransferKind::Stream => 1,
        }]);
        hasher.update(&chunk_size.to_be_bytes());
        for page in &self.pages {
            hasher.update(page);
        }
        Ok(Manifest {
            digest: *hasher.finalize().as_bytes(),
            chunk_size,
            end: at(&self.cursor),
            totals: self.totals,
            starts: self.starts.iter().map(|start| (start.first_entry, at(&start.first_byte))).collect(),
            pages: self.pages,
        })
    }

    fn judge(&mut self, raw: &codec::Raw<'_>) -> Result<(), ManifestError> {
        let entry = entry(raw)?;
        let name = |why| refused(entry.path.as_str(), why);
        let size = entry.size();
        self.totals.entries = self.totals.entries.saturating_add(1);
        if self.totals.entries > MAX_ENTRIES {
            return Err(refused("", Refusal::TooManyEntries));
        }
        let bytes = self.totals.bytes.checked_add(size).filter(|bytes| *bytes <= MAX_BYTES);
        self.totals.bytes = bytes.ok_or_else(|| name(Refusal::TooLarge))?;
        for (class, cursor) in self.cursor.iter_mut().enumerate() {
            let end = chunk_size::place(*cursor, size, chunk_size::MIN_CHUNK << class)
                .and_then(|start| start.checked_add(size));
            *cursor = end.filter(|end| *end <= MAX_BYTES).ok_or_else(|| name(Refusal::TooLarge))?;
        }
        let leaf = match entry.kind {
            EntryKind::File { .. } => {
                self.totals.files = self.totals.files.saturating_add(1);
                true
            }
            EntryKind::Symlink { .. } => true,
            EntryKind::Dir => false,
        };
        if entry.path.is_partial() {
            return Err(name(Refusal::Partial));
        }
        self.collisions.insert(&entry.path, leaf).map_err(|collision| match collision {
            Collision::Twice => name(Refusal::Twice),
            Collision::NoDirectory(path) => refused(&path, Refusal::NoDirectory),
            Collision::TooManyDirs => refused("", Refusal::TooManyEntries),
        })
    }
}

impl std::fmt::Debug for ManifestBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManifestBuilder").field("pages", &self.pages.len()).field("totals", &self.totals).finish()
    }
}

/// The contents of a transfer: checked, and encoded as they were sent.
#[derive(Clone)]
pub struct Manifest {
    digest: [u8; 32],
    chunk_size: u32,
    end: u64,
    totals: Totals,
    /// For each page: its first entry, and where the contents before it end in the virtual stream.
    starts: Vec<(u32, u64)>,
    pages: Vec<Bytes>,
}

impl Manifest {
    /// The digest on which both sides must agree before anything is transferred.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The totals.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Bytes of the virtual stream in one chunk.
    #[must_use]
    pub const fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Where the virtual stream ends, in bytes.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> u32 {
        u32::try_from(self.pages.len()).unwrap_or(u32::MAX)
    }

    /// A page in the form in which it is sent.
    #[must_use]
    pub fn encoded_page(&self, page: u32) -> Option<&Bytes> {
        self.pages.get(page as usize)
    }

    /// All entries with their numbers, page by page.
    pub fn entries(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        (0..self.pages()).flat_map(|page| self.page_entries(page))
    }

    /// The page that holds an entry; `None`: there is no such entry.
    #[must_use]
    pub fn page_of(&self, index: u32) -> Option<u32> {
        if index >= self.totals.entries {
            return None;
        }
        let after = self.starts.partition_point(|(first, _)| *first <= index);
        u32::try_from(after.checked_sub(1)?).ok()
    }

    /// The entries of one page; none when there is no such page.
    #[must_use]
    pub fn page(&self, page: u32) -> Vec<Entry> {
        self.page_entries(page).map(|(_, entry)| entry).collect()
    }

    /// One entry; `None`: there is no such entry.
    #[must_use]
    pub fn entry(&self, index: u32) -> Option<Entry> {
        self.page_entries(self.page_of(index)?).find(|(number, _)| *number == index).map(|(_, entry)| entry)
    }

    /// The entries of one page with their numbers.
    pub fn page_entries(&self, page: u32) -> impl Iterator<Item = (u32, Entry)> + '_ {
        let mut raw = self.raw_entries(page);
        std::iter::from_fn(move || {
            let (index, _, entries) = raw.as_mut()?;
            let number = *index;
            *index = index.saturating_add(1);
            // The page was checked when it arrived, so neither call fails.
            let entry = entry(&entries.next().ok()??).ok()?;
            Some((number, entry))
        })
    }

    /// The last page that begins at or before this byte of the virtual stream.
    pub(super) fn page_at_byte(&self, byte: u64) -> Option<u32> {
        let after = self.starts.partition_point(|(_, first)| *first <= byte);
        u32::try_from(after.checked_sub(1)?).ok()
    }

    /// First entry, where the contents before it end, and the entries of a page, not yet decoded.
    pub(super) fn raw_entries(&self, page: u32) -> Option<(u32, u64, codec::Entries<'_>)> {
        let (first_entry, first_byte) = *self.starts.get(page as usize)?;
        Some((first_entry, first_byte, codec::Entries::of_page(self.pages.get(page as usize)?).ok()?))
    }
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manifest")
            .field("totals", &self.totals)
            .field("chunk_size", &self.chunk_size)
            .finish_non_exhaustive()
    }
}

/// Checks an entry of a page on its own. Times and modes are clamped; the digest covers what was sent.
pub(super) fn entry(raw: &codec::Raw<'_>) -> Result<Entry, ManifestError> {
    let name = std::str::from_utf8(raw.path).map_err(|_| Violation::NotUtf8)?;
    let path = RelPath::parse(name).map_err(|why| refused(name, why.into()))?;
    let kind = match raw.tag {
        codec::FILE => EntryKind::File { size: raw.size },
        codec::DIR => EntryKind::Dir,
        codec::SYMLINK => {
            let target = std::str::from_utf8(raw.target).map_err(|_| Violation::NotUtf8)?;
            EntryKind::Symlink { target: LinkTarget::parse(target).map_err(|why| refused(name, Refusal::Link(why)))? }
        }
        _ => return Err(Violation::UnknownEntryKind.into()),
    };
    let mode = u16::try_from(raw.mode & 0o777).unwrap_or_default();
    Ok(Entry { path, kind, mode, mtime: Mtime::clamped(raw.seconds, raw.nanos) })
}

fn refused(name: &str, why: Refusal) -> ManifestError {
    Refused { name: Untrusted::new(name.to_owned()), why }.into()
}

pub(super) mod codec;

#[cfg(test)]
mod tests;
