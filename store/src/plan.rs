//! What is known about a transfer before its first byte: what is there already under its names, and what it needs.
//!
//! Decides whether anything is in the way of an entry, by the one policy for names that exist ([`verdict`]). No state,
//! no timers. Bounds: [`MOST_REPORTED`] names for the report, handles as [`descriptors`] allows, one bit for each entry
//! that is dropped.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use tallow_proto::transfer::manifest::{Entry, EntryKind, Manifest};
use tallow_proto::transfer::storage::FaultKind;

use crate::beneath::Dir;
use crate::descriptors::{self, Cache};
use crate::destination::{Ground, Incoming, OnExists, Policy, Verdict, verdict};
use crate::fault::kind;
use crate::sink::{local, split};

/// The most names that are kept for the report.
pub const MOST_REPORTED: usize = 1000;

/// Something that got another name than it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// As it was offered; `/` between components.
    pub offered: String,
    /// As it is here, below the destination.
    pub here: String,
}

/// What is known about the whole before the first byte.
#[derive(Debug, Default)]
pub struct Plan {
    /// A bit for each entry that is dropped.
    skip: Vec<u64>,
    /// Entries that were looked at for it by name.
    pub skipped: Vec<String>,
    pub skipped_total: u64,
    pub renamed: Vec<Renamed>,
    pub renamed_total: u64,
    /// Bytes that are needed, in whole blocks.
    pub need: u64,
    /// Files with contents that are to be written.
    pub files: u32,
    /// Entries that are made at the end: files without contents, directories.
    pub empty: u32,
    pub dirs: u32,
    pub links: u32,
    /// A bit for each level at which there are directories that their owner can't write to, read or enter.
    pub restricted: u128,
}

impl Plan {
    /// Looks at every entry, and at what is in its way. An error comes with the path below the destination.
    pub fn make(manifest: &Manifest, ground: &Ground, policy: Policy) -> Result<Self, (FaultKind, String)> {
        let system = ground.file_system().map_err(|error| (kind(&error), String::new()))?;
        let block = system.f_frsize.clamp(1, 1 << 20);
        let mut plan = Self::default();
        let mut around = ground.existing().map(|target| Around::new(target, policy.on_exists));
        for (index, entry) in manifest.entries() {
            let path = local(policy, &entry.path);
            if matches!(path, Cow::Owned(_)) {
                plan.renamed_total += 1;
                report(&mut plan.renamed, || Renamed {
                    offered: entry.path.as_str().into(),
                    here: path.clone().into(),
                });
            }
            if let Some(around) = &mut around
                && around.is_dropped(&path, &entry)?
            {
                plan.skip(index, manifest.totals().entries);
                report(&mut plan.skipped, || path.clone().into());
                continue;
            }
            match &entry.kind {
                EntryKind::File { size: 0 } => plan.empty += 1,
                EntryKind::File { size } => {
                    plan.files += 1;
                    plan.need = plan.need.saturating_add(size.div_ceil(block).saturating_mul(block));
                }
                EntryKind::Dir => {
                    plan.dirs += 1;
                    if entry.mode & 0o700 != 0o700 {
                        plan.restricted |= 1 << entry.path.levels().min(127);
                    }
                }
                EntryKind::Symlink { .. } => plan.links += 1,
            }
        }
        Ok(plan)
    }

    /// Whether the entry is dropped.
    pub fn is_skipped(&self, index: u32) -> bool {
        self.skip.get(index as usize / 64).is_some_and(|bits| bits >> (index % 64) & 1 == 1)
    }

    fn skip(&mut self, index: u32, entries: u32) {
        if self.skip.is_empty() {
            self.skip.resize(entries as usize / 64 + 1, 0);
        }
        if let Some(bits) = self.skip.get_mut(index as usize / 64) {
            *bits |= 1 << (index % 64);
        }
        self.skipped_total += 1;
    }
}

/// What is at the destination already, as the entries come by.
struct Around<'a> {
    target: &'a Dir,
    on_exists: OnExists,
    /// The name at the top of the entry before, and whether it goes into a directory that exists.
    top: String,
    merges: bool,
    /// Directories of the destination; `None`: not there.
    dirs: Cache<Box<str>, Option<Arc<Dir>>>,
}

impl<'a> Around<'a> {
    fn new(target: &'a Dir, on_exists: OnExists) -> Self {
        let dirs = Cache::new(descriptors::share());
        Self { target, on_exists, top: String::new(), merges: false, dirs }
    }

    /// Whether an entry is dropped because of what is there.
    fn is_dropped(&mut self, path: &str, entry: &Entry) -> Result<bool, (FaultKind, String)> {
        let incoming = match entry.kind {
            EntryKind::File { .. } => Incoming::File,
            EntryKind::Dir => Incoming::Dir,
            EntryKind::Symlink { .. } => Incoming::Link,
        };
        let (top, below) = path.split_once('/').map_or((path, None), |(top, below)| (top, Some(below)));
        if self.top != top {
            self.top = top.into();
            self.merges = false;
            let existing = self.target.stat(top).map_err(|error| (kind(&error), top.into()))?;
            if let Some(existing) = existing {
                let incoming = if below.is_some() { Incoming::Dir } else { incoming };
                match verdict(self.on_exists, incoming, &existing) {
                    Verdict::Refuse(why) => return Err((why, top.into())),
                    Verdict::Merge => self.merges = true,
                    Verdict::Skip => return Ok(true),
                    Verdict::Replace | Verdict::Rename => {}
                }
            }
        }
        if below.is_none() || !self.merges {
            return Ok(false);
        }
        let (above, name) = split(path);
        let Some(dir) = self.dir(above)? else { return Ok(false) };
        let Some(existing) = dir.stat(name).map_err(|error| (kind(&error), path.into()))? else { return Ok(false) };
        match verdict(self.on_exists, incoming, &existing) {
            Verdict::Refuse(why) => Err((why, path.into())),
            Verdict::Skip => Ok(true),
            Verdict::Merge | Verdict::Replace | Verdict::Rename => Ok(false),
        }
    }

    fn is_same_system(&self, dir: &Dir) -> bool {
        let device = |dir: &Dir| rustix::fs::fstat(dir).map(|stat| stat.st_dev);
        device(dir) == device(self.target)
    }

    fn dir(&mut self, path: &str) -> Result<Option<Arc<Dir>>, (FaultKind, String)> {
        if let Some(dir) = self.dirs.get(path) {
            return Ok(dir);
        }
        let dir = match self.target.descend(path) {
            // What is staged can't be renamed to another file system: better told now than at the end.
            Ok(dir) if !self.is_same_system(&dir) => return Err((kind(&Errno::XDEV.into()), path.into())),
            Ok(dir) => Some(Arc::new(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err((kind(&error), path.into())),
        };
        self.dirs.insert(path.into(), dir.clone());
        Ok(dir)
    }
}

fn report<T>(list: &mut Vec<T>, item: impl FnOnce() -> T) {
    if list.len() < MOST_REPORTED {
        list.push(item());
    }
}
