//! Walks over the files to send: decides which files, directories and links become entries, their order, and what is
//! left out.
//!
//! Entries are regular files, directories, and symbolic links whose target is sent, too; of others only if the user
//! wants to keep them. Files that block or have no end (FIFOs, sockets, devices, files whose contents the kernel
//! generates) are left out and reported. Names that can't be sent are an error, because an incomplete tree is worse
//! than none; all of them are found before it is reported. Order: the paths as given, each directory before its
//! entries, entries by the bytes of their names.
//!
//! Bounds: those of [`Reported`]; memory follows the largest directory and the depth, not the tree.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use ignore::gitignore::Gitignore;
use ignore::{Walk, WalkBuilder};
use tallow_proto::transfer::local_names::Reported;
use tallow_proto::transfer::path::{LinkTarget, RelPath};
use tallow_proto::transfer::storage::Fault;
use tallow_proto::transfer::{Entry, EntryKind, Mtime};

use crate::fault::{fault, shown};
use crate::source::{Links, NameProblem, RefusedName, SkipReason, Skipped};

/// One of the given paths.
#[derive(Debug)]
pub struct Root {
    /// Its name in the manifest.
    pub name: RelPath,
    /// Its path.
    pub path: PathBuf,
}

/// The options of the walk, and the paths that it left out; shared with the filter of the walking library.
#[derive(Debug)]
pub struct Survey {
    pub excludes: Gitignore,
    pub git: bool,
    pub links: Links,
    /// The top-level names of the manifest.
    pub tops: HashMap<Box<str>, PathBuf>,
    found: Mutex<Findings>,
    /// The devices that were checked, and whether the kernel generates their files.
    devices: Mutex<Vec<(u64, bool)>>,
}

/// What the user has to be told about the tree.
#[derive(Debug, Default)]
pub struct Findings {
    /// Entries that were left out.
    pub left_out: Reported<Skipped>,
    /// Names that can't be sent.
    pub refused: Reported<RefusedName>,
    /// The symbolic links that are sent.
    pub links: Reported<PathBuf>,
    /// Those among them that lead, or may lead, out of what is sent.
    pub links_outside: Reported<PathBuf>,
}

/// An entry, and the identity of its file.
pub struct Found {
    pub entry: Entry,
    pub device: u64,
    pub inode: u64,
}

impl Survey {
    pub fn new(excludes: Gitignore, git: bool, links: Links, tops: HashMap<Box<str>, PathBuf>) -> Self {
        Self { excludes, git, links, tops, found: Mutex::default(), devices: Mutex::default() }
    }

    /// Whether the user excluded a path of the manifest.
    pub fn is_excluded(&self, path: &Path, is_dir: bool) -> bool {
        !self.excludes.is_empty() && self.excludes.matched(path, is_dir).is_ignore()
    }

    /// Whether the kernel generates the files of this device.
    pub fn is_kernel_made(&self, device: u64, path: &Path) -> bool {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, made)) = devices.iter().rev().find(|(known, _)| *known == device) {
            return *made;
        }
        let made = is_kernel_made(path);
        devices.push((device, made));
        made
    }

    /// What was found so far.
    pub fn found(&self) -> MutexGuard<'_, Findings> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_out(&self, path: &Path, why: SkipReason) {
        tracing::debug!(path = shown(path), %why, "left out");
        self.found().left_out.push(path.as_os_str().len(), || Skipped { path: path.to_owned(), why });
    }

    /// The error for the names that can't be sent; it names the first.
    fn check_names(&self) -> Result<(), Fault> {
        match self.found().refused.list().first() {
            Some(RefusedName { path, why }) => Err(Fault::at((*why).into(), path.to_string_lossy())),
            None => Ok(()),
        }
    }
}

/// The walk, one entry at a time.
pub struct Walker {
    roots: std::vec::IntoIter<Root>,
    current: Option<(Arc<Root>, Walk)>,
    survey: Arc<Survey>,
    user: u32,
}

impl Walker {
    pub fn new(roots: Vec<Root>, survey: Arc<Survey>) -> Self {
        Self { roots: roots.into_iter(), current: None, survey, user: rustix::process::geteuid().as_raw() }
    }

    /// The next entry; `None` after the last.
    pub fn next(&mut self) -> Result<Option<Found>, Fault> {
        loop {
            let Some((root, walk)) = &mut self.current else {
                let Some(root) = self.roots.next().map(Arc::new) else {
                    self.survey.check_names()?;
                    return Ok(None);
                };
                let walk = self.walk(&root);
                self.current = Some((root, walk));
                continue;
            };
            let found = match walk.next() {
                None => {
                    self.current = None;
                    continue;
                }
                Some(Ok(entry)) => {
                    // An invalid rule in a .gitignore is ignored, as git does.
                    if let Some(error) = entry.error() {
                        tracing::debug!(%error, "a rule was not understood");
                    }
                    let root = root.clone();
                    self.judge(&root, &entry)?
                }
                Some(Err(error)) => {
                    self.judge_error(error)?;
                    None
                }
            };
            if let Some(found) = found {
                return Ok(Some(found));
            }
        }
    }

    fn walk(&self, root: &Arc<Root>) -> Walk {
        let (survey, of) = (self.survey.clone(), root.clone());
        // The .gitignore files of parent directories apply inside a repository only, so that one in the home directory
        // does not.
        let in_repository = survey.git
            && fs::canonicalize(&root.path).is_ok_and(|path| path.ancestors().any(|dir| dir.join(".git").exists()));
        WalkBuilder::new(&root.path)
            .standard_filters(false)
            .git_ignore(survey.git)
            .git_exclude(survey.git)
            .parents(in_repository)
            .require_git(in_repository)
            .follow_links(survey.links == Links::Follow)
            .sort_by_file_name(std::ffi::OsStr::cmp)
            .filter_entry(move |entry| survey.wants(&of, entry))
            .build()
    }

    /// Converts an entry of the walk; `None`: it is left out.
    fn judge(&self, root: &Root, walked: &ignore::DirEntry) -> Result<Option<Found>, Fault> {
        let path = walked.path();
        let at = || path.to_string_lossy();
        let metadata = match walked.metadata() {
            Ok(metadata) => metadata,
            Err(error) => {
                self.judge_error(error)?;
                return Ok(None);
            }
        };
        let name = entry_name(root, path).map_err(|why| Fault::at(why.into(), at()))?;
        let kind = if metadata.is_dir() {
            EntryKind::Dir
        } else if metadata.is_file() {
            if self.survey.is_kernel_made(metadata.dev(), path) {
                self.survey.leave_out(path, SkipReason::KernelMade);
                return Ok(None);
            }
            if metadata.uid() != self.user || metadata.mode() & 0o400 == 0 {
                check_readable(path)?;
            }
            EntryKind::File { size: metadata.size() }
        } else if metadata.is_symlink() {
            match self.link(&name, path) {
                Ok(target) => EntryKind::Symlink { target },
                Err(why) => {
                    self.survey.leave_out(path, why);
                    return Ok(None);
                }
            }
        } else {
            self.survey.leave_out(path, SkipReason::Special);
            return Ok(None);
        };
        let mode = (metadata.mode() & 0o777) as u16;
        let mtime = Mtime::clamped(metadata.mtime(), metadata.mtime_nsec().try_into().unwrap_or_default());
        let entry = Entry { path: name, kind, mode, mtime };
        Ok(Some(Found { entry, device: metadata.dev(), inode: metadata.ino() }))
    }

    /// The target of a link, if it is sent too, or if the user wants to keep all links.
    fn link(&self, name: &RelPath, path: &Path) -> Result<LinkTarget, SkipReason> {
        let target = fs::read_link(path).map_err(|_| SkipReason::Vanished)?;
        let text = target.to_str().ok_or(SkipReason::LinkName)?;
        let target = LinkTarget::parse(text).map_err(|_| SkipReason::LinkName)?;
        let is_inside = target.stays_inside(name).is_ok();
        if self.survey.links != Links::Keep && !(is_inside && self.is_sent(name, text)) {
            return Err(SkipReason::LinkOutside);
        }
        let (bytes, mut found) = (path.as_os_str().len(), self.survey.found());
        found.links.push(bytes, || path.to_owned());
        if !is_inside {
            found.links_outside.push(bytes, || path.to_owned());
        }
        Ok(target)
    }

    /// Whether the target of a link that stays inside is below the given paths.
    fn is_sent(&self, name: &RelPath, target: &str) -> bool {
        let climbs = target.split('/').filter(|component| *component == "..").count();
        if climbs < name.levels() - 1 {
            return true;
        }
        // It leads to a top-level name.
        let first = target.split('/').find(|component| !matches!(*component, "" | "." | ".."));
        first.is_some_and(|first| self.survey.tops.contains_key(first))
    }

    /// An error of the walk: a missing file is left out, every other error ends the walk.
    fn judge_error(&self, error: ignore::Error) -> Result<(), Fault> {
        let (path, error) = open_up(error);
        match error {
            Stopped::Loop => {
                self.survey.leave_out(&path, SkipReason::LinkLoop);
                Ok(())
            }
            Stopped::Io(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                self.survey.leave_out(&path, SkipReason::LinkLoop);
                Ok(())
            }
            Stopped::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_link = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
                self.survey.leave_out(&path, if is_link { SkipReason::LinkDangling } else { SkipReason::Vanished });
                Ok(())
            }
            Stopped::Io(error) => Err(fault(error, path.to_string_lossy())),
        }
    }
}

impl Survey {
    /// Whether the walk should enter a directory or return a file.
    fn wants(&self, root: &Root, entry: &ignore::DirEntry) -> bool {
        let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
        if self.git && entry.depth() > 0 && entry.file_name() == ".git" {
            return false;
        }
        if !self.excludes.is_empty() {
            let excluded = match manifest_path(root, entry.path()) {
                Some(path) => self.is_excluded(Path::new(&path), is_dir),
                // A name that can't be sent may still be excluded, by its bytes.
                None => self.is_excluded(entry.path(), is_dir),
            };
            if excluded {
                return false;
            }
        }
        if let Err(why) = entry_name(root, entry.path()) {
            tracing::debug!(path = shown(entry.path()), %why, "a name that can't be sent");
            let path = || entry.path().to_owned();
            self.found().refused.push(entry.path().as_os_str().len(), || RefusedName { path: path(), why });
            return false;
        }
        if is_dir && entry.metadata().is_ok_and(|metadata| self.is_kernel_made(metadata.dev(), entry.path())) {
            self.leave_out(entry.path(), SkipReason::KernelMade);
            return false;
        }
        true
    }
}

/// The name of an entry in the manifest.
fn entry_name(root: &Root, path: &Path) -> Result<RelPath, NameProblem> {
    let name = manifest_path(root, path).ok_or(NameProblem::NotUtf8)?;
    RelPath::parse(&name).map_err(NameProblem::Rule)
}

/// The path of an entry in the manifest; `None`: it is not UTF-8.
fn manifest_path(root: &Root, path: &Path) -> Option<String> {
    let below = path.as_os_str().as_bytes().get(root.path.as_os_str().len()..).unwrap_or_default();
    let below = std::str::from_utf8(below).ok()?.trim_start_matches('/');
    let name = root.name.as_str();
    Some(if below.is_empty() { name.to_owned() } else { format!("{name}/{below}") })
}

/// Reports an unreadable file during the scan, and not in the middle of the transfer.
fn check_readable(path: &Path) -> Result<(), Fault> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    match accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS) {
        Err(error @ (rustix::io::Errno::ACCESS | rustix::io::Errno::PERM)) => Err(fault(error, path.to_string_lossy())),
        _ => Ok(()),
    }
}

enum Stopped {
    Loop,
    Io(io::Error),
}

fn open_up(error: ignore::Error) -> (PathBuf, Stopped) {
    let mut path = PathBuf::new();
    let mut rest = error;
    loop {
        rest = match rest {
            ignore::Error::WithPath { path: at, err } => {
                path = at;
                *err
            }
            ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => *err,
            ignore::Error::Loop { child, .. } => return (child, Stopped::Loop),
            ignore::Error::Io(error) => return (path, Stopped::Io(innermost(error))),
            other => return (path, Stopped::Io(io::Error::other(other))),
        }
    }
}

/// The error of the operating system, which the walk wraps.
fn innermost(error: io::Error) -> io::Error {
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        if let Some(number) = inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(number);
        }
        source = inner.source();
    }
    error
}

/// Whether a path is on a file system whose files the kernel generates: their sizes are wrong, and some never end.
#[cfg(target_os = "linux")]
fn is_kernel_made(path: &Path) -> bool {
    /// linux/magic.h: proc, sysfs, debugfs, tracefs, securityfs, cgroup, cgroup2, pstore, efivarfs, configfs, bpf,
    /// binfmt_misc, devpts, mqueue, selinuxfs, nsfs, fusectl.
    const MAGIC: [u32; 17] = [
        0x9fa0,
        0x6265_6572,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0x0027_e0eb,
        0x6367_7270,
        0x6165_676c,
        0xde5e_81e4,
        0x6265_6570,
        0xcafe_4a11,
        0x4249_4e4d,
        0x1cd1,
        0x1980_0202,
        0xf97c_ff8c,
        0x6e73_6673,
        0x6573_5543,
    ];
    // The field's type differs between machines; the numbers have 32 bits.
    rustix::fs::statfs(path).is_ok_and(|system| MAGIC.contains(&(system.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn is_kernel_made(_: &Path) -> bool {
    false
}
