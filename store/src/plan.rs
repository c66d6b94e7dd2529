//! Plans a transfer before its first byte: finds existing names, and computes the required space.
//!
//! Decides for each entry what to do if its name exists, by the policy for existing names ([`verdict`]). No state,
//! no timers. Bounds: [`MOST_REPORTED`] names for the report, handles as [`descriptors`] allows, one bit for each entry
//! that is dropped.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use tallow_proto::transfer::local_names::{LocalNames, Reported};
use tallow_proto::transfer::storage::FaultKind;
use tallow_proto::transfer::{Entry, EntryKind, Manifest};

use crate::abilities::Abilities;
use crate::contained_dir::Dir;
use crate::descriptors::{self, Cache};
use crate::destination::{Incoming, OnExists, OutsideLinks, Policy, Verdict, verdict};
use crate::fault::kind;
use crate::sink::split;

/// The maximum number of names in a report.
pub const MOST_REPORTED: usize = 1000;

/// A symbolic link that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its offered path; components are separated by `/`.
    pub path: String,
    /// The reason.
    pub why: LinkReason,
}

/// The reason for which a symbolic link was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkReason {
    /// It leads, or may lead, out of what is received.
    #[error("a link out of what was sent")]
    Outside,
    /// The file system has no symbolic links.
    #[error("this disk can't hold links")]
    Unsupported,
}

/// The plan of a transfer.
#[derive(Debug, Default)]
pub struct Plan {
    /// A bit for each entry, set if it is skipped.
    skip: Vec<u64>,
    /// The paths of the skipped entries, for the report.
    pub skipped: Vec<String>,
    pub skipped_total: u64,
    /// The links that are left out.
    pub left_out: Reported<LeftOut>,
    pub links_outside: u32,
    pub links_unsupported: u32,
    /// The required bytes, in whole blocks.
    pub need: u64,
    /// The number of files with contents to write.
    pub files: u32,
    /// The number of files without contents, which are created at the end, as are directories and links.
    pub empty: u32,
    pub dirs: u32,
    pub links: u32,
    /// A bit for each level that has directories which their owner can't write, read or enter.
    pub restricted: u128,
}

impl Plan {
    /// Checks every entry and existing names. An error contains the path relative to the destination.
    pub fn make(
        manifest: &Manifest,
        target: &Dir,
        policy: Policy,
        abilities: &Abilities,
        names: &LocalNames,
    ) -> Result<Self, (FaultKind, String)> {
        let system = rustix::fs::fstatvfs(target).map_err(|error| (kind(&error.into()), String::new()))?;
        let block = system.f_frsize.clamp(1, 1 << 20);
        let mut plan = Self::default();
        let mut around = Around::new(target, policy.on_exists);
        for (index, entry) in manifest.entries() {
            if let Some(why) = reason_to_leave_out(&entry, policy, abilities) {
                plan.leave_out(index, manifest.totals().entries, &entry, why);
                continue;
            }
            let path = names.local(&entry.path);
            if around.is_skipped_at_destination(&path, &entry)? {
                plan.skip(index, manifest.totals().entries);
                plan.skipped_total += 1;
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

    /// Whether the entry is skipped.
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
    }

    fn leave_out(&mut self, index: u32, entries: u32, link: &Entry, why: LinkReason) {
        self.skip(index, entries);
        match why {
            LinkReason::Outside => self.links_outside += 1,
            LinkReason::Unsupported => self.links_unsupported += 1,
        }
        let path = link.path.as_str();
        self.left_out.push(path.len(), || LeftOut { path: path.to_owned(), why });
    }
}

fn reason_to_leave_out(entry: &Entry, policy: Policy, abilities: &Abilities) -> Option<LinkReason> {
    let EntryKind::Symlink { target } = &entry.kind else { return None };
    if policy.outside_links == OutsideLinks::LeaveOut && target.stays_inside(&entry.path).is_err() {
        return Some(LinkReason::Outside);
    }
    (!abilities.links).then_some(LinkReason::Unsupported)
}

/// Looks up the entries of the manifest at the destination, in their order.
struct Around<'a> {
    target: &'a Dir,
    on_exists: OnExists,
    /// The top-level name of the previous entry, and whether it is merged into an existing directory.
    top: String,
    merges: bool,
    /// Directories of the destination; `None` for missing ones.
    dirs: Cache<Box<str>, Option<Arc<Dir>>>,
}

impl<'a> Around<'a> {
    fn new(target: &'a Dir, on_exists: OnExists) -> Self {
        let dirs = Cache::new(descriptors::share());
        Self { target, on_exists, top: String::new(), merges: false, dirs }
    }

    /// Whether an entry is skipped because its name exists.
    fn is_skipped_at_destination(&mut self, path: &str, entry: &Entry) -> Result<bool, (FaultKind, String)> {
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
            // Staged files can't be renamed to another file system, so this is reported now and not at the end.
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
