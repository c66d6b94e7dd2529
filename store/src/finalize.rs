//! Finalizes a transfer in slices: creates entries without contents, syncs everything, then moves everything to its
//! final name.
//!
//! ```text
//! Make ──► Complete ──► Links ──► Times ──► Restrict ──► Sync ──► Place ──► Settle ──► Done
//! ```
//! - *Make*: files without contents, directories. *Complete*: after a resume, files get their modes and times here;
//!   otherwise each file gets them with its last byte. *Links*: symbolic links, after the last write.
//! - *Times*: modes and times of directories, after the last entry was created in them. *Restrict*: modes that remove
//!   our own access, deepest directory first.
//! - *Sync*: a few files one by one, many by one `syncfs`, before any of them gets its final name.
//! - *Place*: an entry whose name is free is moved by one rename, even a whole directory. Existing directories are
//!   merged: their entries are moved in the same way. No file is opened for writing here.
//! - *Settle*: the directories are synced and the staging directory is removed.
//!
//! No timers. Bounds: one page of the manifest, [`BATCH`] names for each level of directories that exist, four handles.

use std::ffi::CString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, fchmod};
use tallow_proto::transfer::component::numbered;
use tallow_proto::transfer::local_names::Renamed;
use tallow_proto::transfer::storage::{Fault, FaultKind};
use tallow_proto::transfer::{Entry, EntryKind, Manifest};

use crate::abilities::if_able;
use crate::contained_dir::{Dir, is_dir, is_link};
use crate::descriptors::patiently;
use crate::destination::{Incoming, Verdict, verdict};
use crate::fault::kind;
use crate::plan::MOST_REPORTED;
use crate::rollback::Move;
use crate::sink::{Begun, FEW, joined, split};
use crate::staging::sync_dir;

/// The number of names of a staged directory that are held at once.
const BATCH: usize = 16_384;
/// The cost of changing an entry, where looking at one costs 1.
const LOOKS: usize = 32;
/// The maximum number of entries whose other name is remembered. One name is at most 255 bytes long.
const MOST_NUMBERED: usize = 16_384;
/// The maximum number of numbered names that are tried.
const MOST_NUMBERS: u32 = 10_000;

/// The progress of finalizing.
#[derive(Debug)]
pub struct Finish {
    step: Step,
    placed: Vec<Renamed>,
    numbered: Vec<Renamed>,
}

#[derive(Debug)]
enum Step {
    Make(Pass),
    Complete(Pass),
    Links(Pass),
    Times(Pass),
    /// Restricts the directories at this level.
    Restrict(u32, Pass),
    Sync(Pass),
    Place(Placing),
    Settle {
        all: bool,
    },
    Done,
}

/// An iteration over all entries.
#[derive(Debug, Default)]
struct Pass {
    page: u32,
    entries: std::vec::IntoIter<Entry>,
    index: u32,
}

/// An iteration over the staged tree, which descends into directories that exist at the destination.
#[derive(Debug)]
struct Placing {
    /// From the top to the current directory.
    frames: Vec<Frame>,
    /// Staged and final directory of the last frame.
    open: Option<(Arc<Dir>, Arc<Dir>)>,
    merged: u32,
}

#[derive(Debug, Default)]
struct Frame {
    /// The path in the staged tree and at the destination, which are equal because only top-level names change; empty
    /// for the top.
    path: String,
    names: Vec<CString>,
}

impl Finish {
    pub fn new() -> Self {
        Self { step: Step::Make(Pass::default()), placed: Vec::new(), numbered: Vec::new() }
    }

    pub fn placed(&self) -> &[Renamed] {
        &self.placed
    }

    /// The top-level entries that got another name here than the staged one: at most [`MOST_NUMBERED`].
    pub const fn numbered(&self) -> &Vec<Renamed> {
        &self.numbered
    }

    pub const fn is_done(&self) -> bool {
        matches!(self.step, Step::Done)
    }

    /// Processes a slice of about `at_most` entries; returns whether everything is in place.
    pub fn step(&mut self, begun: &Begun, at_most: usize) -> Result<bool, Fault> {
        let mut budget = at_most.max(1).saturating_mul(LOOKS);
        while budget > 0 {
            if self.is_done() {
                return Ok(true);
            }
            budget = budget.saturating_sub(self.one(begun)?);
        }
        Ok(self.is_done())
    }

    /// Processes one entry; returns its cost.
    fn one(&mut self, begun: &Begun) -> Result<usize, Fault> {
        let plan = &begun.plan;
        match &mut self.step {
            Step::Make(pass) => {
                // An incomplete file must never get its final name, even after a bug elsewhere.
                if !begun.staging.is_resumed && begun.complete.load(Ordering::Relaxed) < plan.files {
                    return Err(FaultKind::Panicked.into());
                }
                match pass.next(&begun.manifest, plan.empty + plan.dirs > 0) {
                    None => self.step = Step::Complete(Pass::default()),
                    Some((index, entry)) => return begun.make(index, &entry),
                }
            }
            Step::Complete(pass) => match pass.next(&begun.manifest, begun.staging.is_resumed) {
                None => self.step = Step::Links(Pass::default()),
                Some((index, entry)) => return begun.complete(index, &entry),
            },
            Step::Links(pass) => match pass.next(&begun.manifest, plan.links > 0) {
                None => self.step = Step::Times(Pass::default()),
                Some((index, entry)) => return begun.make_link(index, &entry),
            },
            Step::Times(pass) => match pass.next(&begun.manifest, plan.dirs > 0) {
                None => self.step = begun.restrict_below(u128::BITS),
                Some((_, entry)) => return begun.date_dir(&entry),
            },
            Step::Restrict(level, pass) => match pass.next(&begun.manifest, true) {
                None => self.step = begun.restrict_below(*level),
                Some((_, entry)) => return begun.restrict_dir(&entry, *level),
            },
            Step::Sync(pass) => {
                if begun.sync_one(pass).inspect_err(|_| begun.staging.distrust())? {
                    self.step = Step::Place(Placing::new());
                }
                return Ok(LOOKS);
            }
            Step::Place(placing) => {
                if !placing.one(begun, &mut self.placed, &mut self.numbered)? {
                    self.step = Step::Settle { all: placing.merged > FEW };
                }
                return Ok(LOOKS);
            }
            Step::Settle { all } => {
                begun.settle(*all)?;
                self.step = Step::Done;
            }
            Step::Done => {}
        }
        Ok(1)
    }
}

impl Pass {
    /// The next entry with its index; always `None` unless `wanted`.
    fn next(&mut self, manifest: &Manifest, wanted: bool) -> Option<(u32, Entry)> {
        while wanted && self.page <= manifest.pages() {
            if let Some(entry) = self.entries.next() {
                self.index += 1;
                return Some((self.index - 1, entry));
            }
            self.entries = manifest.page(self.page).into_iter();
            self.page += 1;
        }
        None
    }
}

impl Begun {
    fn make(&self, index: u32, entry: &Entry) -> Result<usize, Fault> {
        let path = self.local(&entry.path);
        let made = match entry.kind {
            EntryKind::File { size: 0 } if !self.plan.is_skipped(index) => self.write_whole(&path, entry, &[]),
            EntryKind::Dir => self.dir(&path).map(|_| ()),
            EntryKind::File { .. } | EntryKind::Symlink { .. } => return Ok(1),
        };
        made.map_err(|error| self.fault(&error, &path)).map(|()| LOOKS)
    }

    fn complete(&self, index: u32, entry: &Entry) -> Result<usize, Fault> {
        if entry.size() == 0 || self.plan.is_skipped(index) {
            return Ok(1);
        }
        let path = self.local(&entry.path);
        self.complete_file(&path, entry).map_err(|error| self.fault(&error, &path)).map(|()| LOOKS)
    }

    fn make_link(&self, index: u32, entry: &Entry) -> Result<usize, Fault> {
        let EntryKind::Symlink { target } = &entry.kind else { return Ok(1) };
        if self.plan.is_skipped(index) {
            return Ok(1);
        }
        let path = self.local(&entry.path);
        let (above, name) = split(&path);
        let target = self.names.link_target(&entry.path, target);
        self.dir(above)
            .and_then(|dir| {
                dir.make_link(name, &target)?;
                // Not every file system that holds links holds their times.
                if_able(dir.set_times(name, &self.abilities.times.stamps(entry.mtime)))
            })
            .map_err(|error| self.fault(&error, &path))
            .map(|()| LOOKS)
    }

    fn date_dir(&self, entry: &Entry) -> Result<usize, Fault> {
        if entry.kind != EntryKind::Dir {
            return Ok(1);
        }
        let path = self.local(&entry.path);
        let mode = self.mode(entry) | (self.staging.allowed & Mode::RWXU);
        self.dir(&path)
            .and_then(|dir| {
                if mode != self.staging.allowed || self.staging.is_resumed {
                    self.set_mode(&*dir, mode)?;
                }
                self.set_time(&*dir, entry.mtime)
            })
            .map_err(|error| self.fault(&error, &path))
            .map(|()| LOOKS)
    }

    /// The next level above `level` that has directories to restrict.
    fn restrict_below(&self, level: u32) -> Step {
        match (0..level).rev().find(|level| self.plan.restricted >> level & 1 == 1) {
            Some(level) => Step::Restrict(level, Pass::default()),
            None => Step::Sync(Pass::default()),
        }
    }

    fn restrict_dir(&self, entry: &Entry, level: u32) -> Result<usize, Fault> {
        if entry.kind != EntryKind::Dir || entry.mode & 0o700 == 0o700 || entry.path.levels() != level as usize {
            return Ok(1);
        }
        let path = self.local(&entry.path);
        self.dir(&path)
            .and_then(|dir| self.set_mode(&*dir, self.mode(entry)))
            .map_err(|error| self.fault(&error, &path))
            .map(|()| LOOKS)
    }

    /// Syncs one entry, or all at once if there are many; returns whether all are synced.
    fn sync_one(&self, pass: &mut Pass) -> Result<bool, Fault> {
        if self.manifest.totals().entries > FEW {
            return self.sync_all().map(|()| true);
        }
        let Some((index, entry)) = pass.next(&self.manifest, true) else { return Ok(true) };
        let path = self.local(&entry.path);
        let (above, name) = split(&path);
        let synced = match entry.kind {
            EntryKind::File { .. } if !self.plan.is_skipped(index) => {
                self.dir(above).and_then(|dir| dir.sync_file(name))
            }
            EntryKind::Dir => self.dir(&path).and_then(|dir| sync_dir(&dir)),
            EntryKind::File { .. } | EntryKind::Symlink { .. } => Ok(()),
        };
        match synced {
            Ok(()) => Ok(false),
            // Our own access was removed by the mode.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.sync_all().map(|()| true),
            Err(error) => Err(self.fault(&error, &path)),
        }
    }

    #[cfg(target_os = "linux")]
    pub fn sync_all(&self) -> Result<(), Fault> {
        rustix::fs::syncfs(&self.target).map_err(|error| self.fault(&error.into(), ""))
    }

    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unnecessary_wraps)]
    pub fn sync_all(&self) -> Result<(), Fault> {
        rustix::fs::sync();
        Ok(())
    }

    fn settle(&self, all: bool) -> Result<(), Fault> {
        let here = |error: io::Error| self.fault(&error, "");
        if all {
            self.sync_all()?;
        }
        sync_dir(&self.target).map_err(here)?;
        for dir in &self.made {
            let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
            Dir::open_trusted(above).and_then(|above| sync_dir(&above)).map_err(here)?;
        }
        self.release();
        // The transfer is complete, so a failure to remove the staging directory is not an error.
        if let Err(error) = self.staging.remove(&self.target) {
            tracing::warn!(%error, "the staging directory could not be removed");
        }
        Ok(())
    }
}

impl Placing {
    fn new() -> Self {
        Self { frames: vec![Frame::default()], open: None, merged: 0 }
    }

    /// Places one name; returns false after the last.
    fn one(&mut self, begun: &Begun, placed: &mut Vec<Renamed>, numbered: &mut Vec<Renamed>) -> Result<bool, Fault> {
        let Some(frame) = self.frames.last_mut() else { return Ok(false) };
        let fault = |error: io::Error| begun.fault(&error, &frame.path);
        let (from, to) = match &self.open {
            Some(open) => open,
            None => self.open.insert(open(begun, &frame.path).map_err(fault)?),
        };
        if frame.names.is_empty() {
            // Names that were placed are no longer in the staged directory.
            frame.names = from.names(BATCH).map_err(fault)?;
            let moves = intentions(from, &frame.path, &frame.names).map_err(fault)?;
            begun.staging.intend(&moves, true).map_err(fault)?;
        }
        let Some(name) = frame.names.pop() else {
            let path = std::mem::take(&mut frame.path);
            if !path.is_empty() {
                self.merged += 1;
                if self.merged <= FEW {
                    sync_dir(to).map_err(|error| begun.fault(&error, &path))?;
                }
            }
            self.open = None;
            self.frames.pop();
            if let Some(above) = self.frames.last() {
                let (_, name) = split(&path);
                let from = begun.dir(&above.path).map_err(|error| begun.fault(&error, &path))?;
                from.remove_dir(name).map_err(|error| begun.fault(&error, &path))?;
            }
            return Ok(!self.frames.is_empty());
        };
        let name = name.to_str().map_err(|_| FaultKind::NotUtf8)?.to_owned();
        let path = if frame.path.is_empty() { name.clone() } else { format!("{}/{name}", frame.path) };
        let is_top = frame.path.is_empty();
        let at = |kind| Fault::at(kind, begun.path.join(&path).to_string_lossy());
        match place(begun, from, to, &path, &name).map_err(at)? {
            Placed::As(here) => {
                if here != name && numbered.len() < MOST_NUMBERED {
                    numbered.push(Renamed { offered: name.clone(), here: here.clone() });
                }
                if is_top && placed.len() < MOST_REPORTED {
                    placed.push(Renamed { offered: name, here });
                }
            }
            Placed::Dropped => {}
            Placed::Merges => {
                if is_top && placed.len() < MOST_REPORTED {
                    placed.push(Renamed { offered: name.clone(), here: name });
                }
                self.open = None;
                self.frames.push(Frame { path, names: Vec::new() });
            }
        }
        Ok(true)
    }
}

/// The result of placing a name.
enum Placed {
    As(String),
    Dropped,
    /// The staged and the existing entry are directories, which are merged.
    Merges,
}

/// Moves one entry to its final place.
fn place(begun: &Begun, from: &Dir, to: &Dir, path: &str, name: &str) -> Result<Placed, FaultKind> {
    let mut here = name.to_owned();
    for number in 1..=MOST_NUMBERS {
        match move_to(from, name, to, &here) {
            Ok(()) => return Ok(Placed::As(here)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(kind(&error)),
        }
        // The existing entry was removed meanwhile, so the name is free.
        let Some(existing) = to.stat(here.as_str()).map_err(|error| kind(&error))? else { continue };
        let Some(staged) = from.stat(name).map_err(|error| kind(&error))? else { return Ok(Placed::Dropped) };
        let incoming = match () {
            () if is_dir(&staged) => Incoming::Dir,
            () if is_link(&staged) => Incoming::Link,
            () => Incoming::File,
        };
        let done = match verdict(begun.policy.on_exists, incoming, &existing) {
            Verdict::Refuse(why) => return Err(why),
            Verdict::Merge if staged.st_mode & 0o700 == 0o700 => return Ok(Placed::Merges),
            Verdict::Merge => from.unlock_dir(name).map(|()| Placed::Merges),
            // The replaced entry can't be restored, so this move must not be taken back.
            Verdict::Replace => (begun.staging.intend(&[Move::Stays { path: path.into() }], false))
                .and_then(|()| from.replace(name, to, name))
                .map(|()| Placed::As(here)),
            Verdict::Skip => from.remove_file(name).map(|_| Placed::Dropped),
            Verdict::Rename => {
                here = numbered(name, number, incoming == Incoming::Dir, begun.abilities.names.longest);
                let moves = Move::of(&staged, path, &joined(split(path).0, &here));
                begun.staging.intend(&[moves], false).map_err(|error| kind(&error))?;
                continue;
            }
        };
        return done.map_err(|error| kind(&error));
    }
    Err(FaultKind::Exists)
}

/// The records of the moves that follow, without renames.
fn intentions(from: &Dir, above: &str, names: &[CString]) -> io::Result<Vec<Move>> {
    let mut moves = Vec::with_capacity(names.len());
    for name in names {
        if let (Ok(own), Some(stat)) = (name.to_str(), from.stat(name.as_c_str())?) {
            let path = joined(above, own);
            moves.push(Move::of(&stat, &path, &path));
        }
    }
    Ok(moves)
}

/// Renames an entry to a free name. Moving a directory needs write permission on it, which its final mode may not give.
pub fn move_to(from: &Dir, name: &str, to: &Dir, here: &str) -> io::Result<()> {
    match from.move_to(name, to, here) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let Some(staged) = from.stat(name)?.filter(|stat| is_dir(stat) && stat.st_mode & 0o700 != 0o700) else {
                return Err(error);
            };
            from.unlock_dir(name)?;
            let dir = from.child(name)?;
            from.move_to(name, to, here)?;
            Ok(fchmod(&dir, Mode::from_raw_mode(staged.st_mode & 0o777))?)
        }
        other => other,
    }
}

/// Opens the staged and the final directory of a path.
fn open(begun: &Begun, path: &str) -> io::Result<(Arc<Dir>, Arc<Dir>)> {
    patiently(
        || begun.release(),
        || {
            let to = if path.is_empty() { begun.target.clone() } else { Arc::new(begun.target.descend(path)?) };
            Ok((begun.dir(path)?, to))
        },
    )
}
