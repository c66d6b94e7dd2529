//! Writes received files: the [`Sink`] of one transfer into a [`Destination`].
//!
//! Decides, before the offer is accepted, whether all of it is allowed and fits on the disk. Then it writes the files
//! to a staging directory and moves them to their final place at the end ([`crate::finalize`]). An incomplete file has
//! mode 0600; the staging directory always has mode 0700, so that a complete file can have its own mode there.
//!
//! The data of an earlier attempt is found by [`Staging::find`], cleaned ([`crate::clean`]) and read by
//! [`Sink::recall`]. The caller decides which of it is valid; so after a resume, files count as complete only at the
//! end, when all of them get their modes and times.
//!
//! ```text
//! new ──begin──► begun ──recall…──► write, commit, sync… ──► finish… ──► done
//!                  └──────────────────┴────────────────────────┴─────► abandoned: gone, or suspended: left for another
//! ```
//! No timers. Bounds: those of the plan, handles as [`descriptors`] allows, 16 bytes for each incomplete file that is
//! written in parts, [`FEW`] paths to sync.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::Mode;
use rustix::io::Errno;
use tallow_proto::transfer::journal::{Header, Stored};
use tallow_proto::transfer::local_names::{LocalNames, Renamed, Reported};
use tallow_proto::transfer::path::RelPath;
use tallow_proto::transfer::storage::{Fault, FaultKind, Placement, Sink};
use tallow_proto::transfer::{Entry, Manifest, Mtime};

use crate::abilities::{Abilities, Times};
use crate::clean::clean_left;
use crate::contained_dir::{Dir, PRIVATE_FILE};
use crate::descriptors::{self, Cache, patiently};
use crate::destination::{Destination, Policy, local_names, unmake};
use crate::fault::{fault, kind};
use crate::finalize::Finish;
use crate::plan::{LeftOut, Plan};
use crate::rollback::take_back;
use crate::staging::{ANY_MODE, JOURNAL, Left, Staging, read_at};

/// Up to this many files are synced one by one; more are synced by one `syncfs`.
pub const FEW: u32 = 64;
/// Free space in bytes that is reserved for metadata of the file system.
const MARGIN: u64 = 1 << 20;

/// Receives one transfer into a directory.
#[derive(Debug)]
pub struct Receiving {
    destination: Destination,
    begun: OnceLock<Begun>,
}

/// The state after the offer was checked.
#[derive(Debug)]
pub struct Begun {
    pub manifest: Arc<Manifest>,
    pub policy: Policy,
    /// The path of the destination, for messages.
    pub path: PathBuf,
    pub target: Arc<Dir>,
    /// Directories that were created for the destination.
    pub made: Vec<PathBuf>,
    pub staging: Staging,
    pub plan: Plan,
    pub names: LocalNames,
    pub abilities: Abilities,
    dirs: Mutex<Cache<Box<str>, Arc<Dir>>>,
    files: Mutex<Files>,
    /// The number of complete files with contents.
    pub complete: AtomicU32,
    written: AtomicU64,
    dirty: Mutex<Dirty>,
    finish: Mutex<Finish>,
}

/// What [`Sink::begin`] found or made.
struct Staged {
    staging: Staging,
    stored: Vec<Stored>,
    /// Bytes that are there from an earlier attempt.
    there: u64,
    plan: Plan,
    names: LocalNames,
    abilities: Abilities,
}

/// What a file system does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Permissions.
    pub permissions: bool,
    /// Modification times.
    pub times: bool,
}

/// Files that were written since the last sync.
#[derive(Debug)]
enum Dirty {
    /// At most [`FEW`], by their local paths.
    Some(BTreeSet<Box<str>>),
    Many,
}

/// Files that are written in parts.
#[derive(Debug)]
struct Files {
    open: Cache<u32, Arc<Part>>,
    /// The number of bytes written to each file.
    written: HashMap<u32, u64>,
}

/// A file that is written in parts, by several threads.
#[derive(Debug)]
struct Part {
    file: OwnedFd,
    /// The system lets one thread at a time write to a file, and waiting threads spin. With this lock they sleep.
    turn: Mutex<()>,
}

impl Receiving {
    pub(crate) const fn new(destination: Destination) -> Self {
        Self { destination, begun: OnceLock::new() }
    }

    /// The names that are others here, because the file system can't hold them, or not side by side, or because they
    /// mislead; at the end also those that [`crate::OnExists::Rename`] changed. Entries below a directory with another
    /// name are not among them.
    #[must_use]
    pub fn renamed(&self) -> Reported<Renamed> {
        let Some(begun) = self.begun.get() else { return Reported::default() };
        let mut moved = lock(&begun.finish).numbered().clone();
        let mut renamed = begun.names.renamed().clone();
        renamed.change(|name| {
            let (top, below) = name.here.split_at(name.here.find('/').unwrap_or(name.here.len()));
            if let Some(here) = moved.iter().find(|moved| moved.offered == top).map(|moved| &moved.here) {
                name.here = format!("{here}{below}");
            }
        });
        moved.retain(|moved| !begun.names.renamed().list().iter().any(|name| name.here == moved.offered));
        for name in moved {
            renamed.push(name.offered.len() + name.here.len(), || name);
        }
        renamed
    }

    /// The symbolic links that were left out.
    #[must_use]
    pub fn left_out(&self) -> Reported<LeftOut> {
        self.begun.get().map(|begun| begun.plan.left_out.clone()).unwrap_or_default()
    }

    /// The paths, relative to the destination, that were skipped because their name exists: at most 1,000, and their
    /// total number.
    #[must_use]
    pub fn skipped(&self) -> (Vec<String>, u64) {
        self.begun.get().map(|begun| (begun.plan.skipped.clone(), begun.plan.skipped_total)).unwrap_or_default()
    }

    /// The final names of the top-level entries that are in place: at most 1,000. `offered` and `here` differ where
    /// [`crate::OnExists::Rename`] selected another name.
    #[must_use]
    pub fn placed(&self) -> Vec<Renamed> {
        self.begun.get().map(|begun| lock(&begun.finish).placed().to_vec()).unwrap_or_default()
    }

    /// What the file system does not keep of this transfer.
    #[must_use]
    pub fn lost(&self) -> Lost {
        self.begun.get().map_or_else(Lost::default, |begun| Lost {
            permissions: !begun.abilities.modes,
            times: begun.abilities.times == Times::Lost,
        })
    }

    /// Begins a transfer of which nothing is here.
    fn start(&self, target: &Dir, manifest: &Manifest) -> Result<Staged, Fault> {
        let staging = Staging::make(target, &Header::of(manifest)).map_err(|error| self.fault(error))?;
        let planned = (|| {
            let abilities = self.abilities(staging.probe())?;
            let names = local_names(manifest, self.destination.policy, &abilities)?;
            let plan = self.plan(target, manifest, &abilities, &names)?;
            self.check_space(target, plan.need)?;
            Ok((abilities, names, plan))
        })();
        match planned {
            Ok((abilities, names, plan)) => {
                Ok(Staged { staging, stored: Vec::new(), there: 0, plan, names, abilities })
            }
            Err(fault) => {
                if let Err(error) = staging.remove(target) {
                    tracing::warn!(%error, "the staging directory could not be removed");
                }
                Err(fault)
            }
        }
    }

    /// Goes on with what an earlier transfer of the same manifest left.
    fn resume(&self, target: &Dir, left: Left, manifest: &Manifest) -> Result<Staged, Fault> {
        let abilities = self.abilities(left.probe())?;
        let names = local_names(manifest, self.destination.policy, &abilities)?;
        take_back(target, &left, manifest, &names).map_err(|error| self.fault(error))?;
        let plan = self.plan(target, manifest, &abilities, &names)?;
        let there = match clean_left(&left, manifest, &names, &plan) {
            Ok(there) => there,
            Err(error) => {
                tracing::warn!(%error, "the data of an earlier transfer can't be used");
                // The name is free for another one, which clears it.
                drop(left);
                return self.start(target, manifest);
            }
        };
        self.check_space(target, plan.need.saturating_sub(there))?;
        let (staging, stored) = Staging::resume(left).map_err(|error| self.fault(error))?;
        Ok(Staged { staging, stored, there, plan, names, abilities })
    }

    fn abilities(&self, probed: io::Result<Abilities>) -> Result<Abilities, Fault> {
        let probed = probed.map_err(|error| self.fault(error))?;
        Ok(self.destination.assumed.unwrap_or(probed))
    }

    fn plan(
        &self,
        target: &Dir,
        manifest: &Manifest,
        abilities: &Abilities,
        names: &LocalNames,
    ) -> Result<Plan, Fault> {
        let Destination { path, policy, .. } = &self.destination;
        Plan::make(manifest, target, *policy, abilities, names)
            .map_err(|(kind, below)| Fault::at(kind, path.join(below).to_string_lossy()))
    }

    /// Whether so many bytes fit on the disk.
    fn check_space(&self, target: &Dir, need: u64) -> Result<(), Fault> {
        let system = rustix::fs::fstatvfs(target).map_err(|error| self.fault(error.into()))?;
        let have = system.f_bavail.saturating_mul(system.f_frsize);
        let need = if need == 0 { 0 } else { need.saturating_add(MARGIN) };
        // Some file systems do not count blocks: ramfs reports 0 of 0.
        if system.f_blocks > 0 && need > have {
            return Err(Fault::at(FaultKind::Full { need, have }, self.destination.path.to_string_lossy()));
        }
        Ok(())
    }

    fn fault(&self, error: io::Error) -> Fault {
        fault(error, self.destination.path.to_string_lossy())
    }

    fn begun(&self) -> Result<&Begun, Fault> {
        // Only a bug of the caller leads to this error.
        self.begun.get().ok_or(FaultKind::Panicked.into())
    }
}

impl Sink for Receiving {
    fn begin(&self, manifest: &Arc<Manifest>) -> Result<Vec<Stored>, Fault> {
        let Destination { path, policy, ground, .. } = &self.destination;
        let here = |error: io::Error| fault(error, path.to_string_lossy());
        let header = Header::of(manifest);
        let left = match ground.existing() {
            Some(target) => Staging::find(target, &header).map_err(here)?,
            None => None,
        };
        let (target, made) = ground.make(path)?;
        let staged = match left {
            Some(left) => self.resume(&target, left, manifest),
            None => self.start(&target, manifest),
        };
        let Staged { staging, stored, there, plan, names, abilities } = staged.inspect_err(|_| unmake(&made))?;
        let share = descriptors::share();
        let begun = Begun {
            manifest: manifest.clone(),
            policy: *policy,
            path: path.clone(),
            target,
            made,
            staging,
            plan,
            names,
            abilities,
            dirs: Mutex::new(Cache::new(share)),
            files: Mutex::new(Files { open: Cache::new(share), written: HashMap::new() }),
            complete: AtomicU32::new(0),
            written: AtomicU64::new(there),
            dirty: Mutex::new(Dirty::Some(BTreeSet::new())),
            finish: Mutex::new(Finish::new()),
        };
        self.begun.set(begun).map_err(|again| {
            again.abandon();
            FaultKind::Panicked
        })?;
        Ok(stored)
    }

    fn recall(&self, index: u32, entry: &Entry, at: u64, into: &mut [u8]) -> Result<bool, Fault> {
        let begun = self.begun()?;
        if begun.plan.is_skipped(index) {
            return Ok(false);
        }
        let path = begun.local(&entry.path);
        // If the data can't be read for any reason, the chunk is received again, and the write reports the error.
        Ok(matches!(begun.read(&path, at, into), Ok(read) if read == into.len()))
    }

    fn write(&self, index: u32, entry: &Entry, at: u64, plain: &[u8]) -> Result<(), Fault> {
        let begun = self.begun()?;
        if plain.is_empty() || begun.plan.is_skipped(index) {
            return Ok(());
        }
        let path = begun.local(&entry.path);
        let whole = at == 0 && plain.len() as u64 == entry.size();
        let written = if whole {
            begun.write_whole(&path, entry, plain)
        } else {
            begun.write_part(index, &path, entry, at, plain)
        };
        written.map_err(|error| begun.fault(&error, &path))?;
        begun.mark_dirty(&path);
        begun.written.fetch_add(plain.len() as u64, Relaxed);
        Ok(())
    }

    fn commit(&self, chunks: &[Stored]) -> Result<(), Fault> {
        let begun = self.begun()?;
        let commit = || begun.staging.commit(chunks);
        patiently(|| begun.release(), commit).map_err(|error| begun.fault(&error, &begun.staging.path_of(JOURNAL)))
    }

    fn sync(&self) -> Result<(), Fault> {
        let begun = self.begun()?;
        let end = begun.staging.end();
        begun
            .sync_dirty()
            .and_then(|()| {
                let sync = || begun.staging.sync(&begun.target, end);
                patiently(|| begun.release(), sync)
                    .map_err(|error| begun.fault(&error, &begun.staging.path_of(JOURNAL)))
            })
            .inspect_err(|_| begun.staging.distrust())
    }

    fn finish(&self, at_most: usize) -> Result<bool, Fault> {
        let begun = self.begun()?;
        lock(&begun.finish).step(begun, at_most)
    }

    fn placement(&self) -> Placement {
        let Some(begun) = self.begun.get() else { return Placement::default() };
        Placement {
            renamed: u32::try_from(self.renamed().total()).unwrap_or(u32::MAX),
            links_outside: begun.plan.links_outside,
            links_unsupported: begun.plan.links_unsupported,
        }
    }

    fn abandon(&self) {
        if let Some(begun) = self.begun.get() {
            begun.abandon();
        }
    }

    fn suspend(&self) {
        if let Some(begun) = self.begun.get() {
            begun.suspend();
        }
    }
}

impl Begun {
    /// The local path of an entry.
    pub fn local<'a>(&self, path: &'a RelPath) -> Cow<'a, str> {
        self.names.local(path)
    }

    /// Sets permission bits, where the file system holds them.
    pub fn set_mode(&self, file: impl AsFd, mode: Mode) -> io::Result<()> {
        if self.abilities.modes {
            rustix::fs::fchmod(file, mode)?;
        }
        Ok(())
    }

    /// Sets the modification time, where the file system holds it.
    pub fn set_time(&self, file: impl AsFd, mtime: Mtime) -> io::Result<()> {
        if self.abilities.times != Times::Lost {
            rustix::fs::futimens(file, &self.abilities.times.stamps(mtime))?;
        }
        Ok(())
    }

    /// The local mode of an entry.
    pub fn mode(&self, entry: &Entry) -> Mode {
        Mode::from_raw_mode(entry.mode.into()) & self.staging.allowed
    }

    /// The fault for an error on a path below the destination.
    pub fn fault(&self, error: &io::Error, below: &str) -> Fault {
        let path = if below.is_empty() { self.path.clone() } else { self.path.join(below) };
        let kind = match kind(error) {
            FaultKind::Io(io::ErrorKind::StorageFull) => self.full(),
            other => other,
        };
        Fault::at(kind, path.to_string_lossy())
    }

    /// The fault for a disk that became full during the transfer.
    fn full(&self) -> FaultKind {
        let have =
            rustix::fs::fstatvfs(&self.target).map_or(0, |system| system.f_bavail.saturating_mul(system.f_frsize));
        let need = self.manifest.totals().bytes.saturating_sub(self.written.load(Relaxed));
        // Free space may be left that can't be used, for example because of inodes or quotas.
        if need > have { FaultKind::Full { need, have } } else { FaultKind::Io(io::ErrorKind::StorageFull) }
    }

    /// The handle of a directory of the staged tree, which is created if it is missing. An empty path means the tree
    /// itself.
    pub fn dir(&self, path: &str) -> io::Result<Arc<Dir>> {
        if path.is_empty() {
            return Ok(self.staging.tree.clone());
        }
        if let Some(dir) = lock(&self.dirs).get(path) {
            return Ok(dir);
        }
        let dir = match self.staging.tree.descend(path) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (above, name) = split(path);
                let above = self.dir(above)?;
                match above.make_dir(name, ANY_MODE) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => above.child(name)?,
                }
            }
            Err(error) => return Err(error),
        };
        let dir = Arc::new(dir);
        let mut dirs = lock(&self.dirs);
        if let Some(other) = dirs.get(path) {
            return Ok(other);
        }
        dirs.insert(path.into(), dir.clone());
        Ok(dir)
    }

    /// Closes the cached handles that are not in use.
    pub fn release(&self) {
        lock(&self.dirs).clear();
        lock(&self.files).open.clear();
    }

    /// Reads from a file of the staged tree; returns the number of bytes.
    fn read(&self, path: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let (above, name) = split(path);
        let file = patiently(|| self.release(), || self.existing_dir(above)?.open_file(name))?;
        read_at(&file, at, into)
    }

    /// The handle of an existing directory of the staged tree.
    fn existing_dir(&self, path: &str) -> io::Result<Arc<Dir>> {
        if path.is_empty() {
            return Ok(self.staging.tree.clone());
        }
        if let Some(dir) = lock(&self.dirs).get(path) {
            return Ok(dir);
        }
        let dir = Arc::new(self.staging.tree.descend(path)?);
        lock(&self.dirs).insert(path.into(), dir.clone());
        Ok(dir)
    }

    /// Records that a file must be synced.
    fn mark_dirty(&self, path: &str) {
        let mut dirty = lock(&self.dirty);
        if let Dirty::Some(paths) = &mut *dirty {
            if !paths.contains(path) {
                paths.insert(path.into());
            }
            if paths.len() > FEW as usize {
                *dirty = Dirty::Many;
            }
        }
    }

    /// Syncs the written files.
    fn sync_dirty(&self) -> Result<(), Fault> {
        let dirty = std::mem::replace(&mut *lock(&self.dirty), Dirty::Some(BTreeSet::new()));
        match dirty {
            Dirty::Many => self.sync_all(),
            Dirty::Some(paths) => paths.iter().try_for_each(|path| {
                let (above, name) = split(path);
                patiently(|| self.release(), || self.existing_dir(above)?.sync_file(name))
                    .map_err(|error| self.fault(&error, path))
            }),
        }
    }

    /// Writes a file that arrives in one chunk, with its mode and time.
    pub fn write_whole(&self, path: &str, entry: &Entry, plain: &[u8]) -> io::Result<()> {
        let (above, name) = split(path);
        let mode = Mode::from_raw_mode(entry.mode.into()) & ANY_MODE;
        let make = || {
            let dir = self.dir(above)?;
            if self.staging.is_resumed {
                // Replaces a file of an earlier attempt whose contents are not valid.
                dir.remove_file(name)?;
            }
            dir.make_file(name, mode)
        };
        let file = patiently(|| self.release(), make)?;
        write_all(&file, 0, plain)?;
        self.set_time(&file, entry.mtime)?;
        if !plain.is_empty() {
            self.complete.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn write_part(&self, index: u32, path: &str, entry: &Entry, at: u64, plain: &[u8]) -> io::Result<()> {
        let part = self.part(index, path)?;
        let turn = lock(&part.turn);
        write_all(&part.file, at, plain)?;
        drop(turn);
        if self.staging.is_resumed {
            return Ok(());
        }
        let mut files = lock(&self.files);
        let written = files.written.entry(index).or_default();
        *written = written.saturating_add(plain.len() as u64);
        if *written < entry.size() {
            return Ok(());
        }
        files.written.remove(&index);
        files.open.remove(&index);
        drop(files);
        // Parts are counted after they were written, so no write changes the time after this.
        self.set_mode(&part.file, self.mode(entry))?;
        self.set_time(&part.file, entry.mtime)?;
        self.complete.fetch_add(1, Relaxed);
        Ok(())
    }

    /// The handle of a file that is written in parts; the first call creates the file.
    fn part(&self, index: u32, path: &str) -> io::Result<Arc<Part>> {
        let mut files = lock(&self.files);
        if let Some(part) = files.open.get(&index) {
            return Ok(part);
        }
        let (above, name) = split(path);
        let is_new = !files.written.contains_key(&index);
        let Files { open, written } = &mut *files;
        let release = || {
            open.clear();
            lock(&self.dirs).clear();
        };
        let file = patiently(release, || {
            let dir = self.dir(above)?;
            match is_new {
                true if self.staging.is_resumed => match dir.reopen_file(name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => dir.make_file(name, PRIVATE_FILE),
                    other => other,
                },
                true => dir.make_file(name, PRIVATE_FILE),
                false => dir.reopen_file(name),
            }
        })?;
        let part = Arc::new(Part { file, turn: Mutex::new(()) });
        written.entry(index).or_default();
        open.insert(index, part.clone());
        Ok(part)
    }

    /// Completes a file that was received in several attempts: sets its length, mode and time.
    pub fn complete_file(&self, path: &str, entry: &Entry) -> io::Result<()> {
        let (above, name) = split(path);
        let file = patiently(|| self.release(), || self.existing_dir(above)?.reopen_file(name))?;
        let stat = rustix::fs::fstat(&file)?;
        match u64::try_from(stat.st_size).unwrap_or_default().cmp(&entry.size()) {
            Ordering::Less => return Err(Errno::IO.into()),
            Ordering::Equal => {}
            Ordering::Greater => rustix::fs::ftruncate(&file, entry.size())?,
        }
        self.set_mode(&file, self.mode(entry))?;
        self.set_time(&file, entry.mtime)
    }

    fn suspend(&self) {
        if lock(&self.finish).is_done() {
            return;
        }
        if !self.staging.is_worth_keeping() {
            return self.abandon();
        }
        self.release();
        self.staging.let_go();
    }

    fn abandon(&self) {
        if lock(&self.finish).is_done() {
            return;
        }
        self.release();
        if let Err(error) = self.staging.remove(&self.target) {
            tracing::warn!(%error, "the staging directory could not be removed");
        }
        unmake(&self.made);
    }
}

/// Splits a path into directory and name; the directory of a top-level name is empty.
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Joins a directory, which may be empty, and a name.
pub fn joined(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") }
}

/// Locks a mutex. Poisoning is ignored, because the job that panicked reports it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes all bytes at this position.
pub fn write_all(file: impl AsFd, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(&file, bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                at += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
