//! The files to send: paths of this machine as a [`Source`].
//!
//! Decides the names of the paths, and whether a file is still the one that was scanned: before and after each read its
//! size, modification time, inode and device are compared, so that no file arrives in a mix of two versions. The module
//! `walk` decides which files are sent.
//!
//! States: scanning page by page, then reading, from any thread. Bounds: a scanned entry costs 8 bytes here; open files
//! are kept in a small cache, so that a large one is opened once and not per chunk.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ignore::gitignore::GitignoreBuilder;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;
use tallow_proto::transfer::local_names::Reported;
use tallow_proto::transfer::path::{PathError, RelPath};
use tallow_proto::transfer::storage::{Fault, FaultKind, Source};
use tallow_proto::transfer::{Entry, Mtime, Page, PageBuilder, Refusal};

use crate::descriptors::{self, Cache};
use crate::fault::shown;
use crate::walk::{Found, Root, Survey, Walker};

/// The name of the root of the file system in an offer.
const ROOT_NAME: &str = "root";

/// The options for reading a tree.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// Patterns of paths to leave out, in .gitignore syntax; the last match decides, `!` includes again. They are
    /// matched against the path in the manifest: a pattern without a leading slash at any depth, one with it from the
    /// given paths' names on.
    pub excludes: Vec<String>,
    /// Leave out files that git ignores in a repository, and `.git` itself.
    pub git: bool,
    /// What to do with symbolic links.
    pub links: Links,
}

/// What a sender does with symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Links {
    /// Send links whose target is sent, too, and leave out the others.
    #[default]
    Inside,
    /// Send all links as they are. The receiver decides about those that lead out of what is sent.
    Keep,
    /// Send the targets of links instead of the links.
    Follow,
}

/// A name that can't be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedName {
    /// Its path.
    pub path: PathBuf,
    /// The violated rule.
    pub why: NameProblem,
}

/// The reason for which a name can't be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameProblem {
    /// It is not UTF-8.
    #[error("file name is not valid UTF-8")]
    NotUtf8,
    /// It breaks a rule for names.
    #[error("unsafe file name: {0}")]
    Rule(PathError),
}

impl From<NameProblem> for FaultKind {
    fn from(problem: NameProblem) -> Self {
        match problem {
            NameProblem::NotUtf8 => Self::NotUtf8,
            NameProblem::Rule(why) => Self::Refused(Refusal::Name(why)),
        }
    }
}

/// The reason for which paths can't be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No paths were given.
    #[error("nothing to send")]
    Nothing,
    /// An error of the operating system.
    #[error("{}: {error}", shown(.path))]
    Io {
        /// The path of the error.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The path is a FIFO, a socket, a device, or a file whose contents the kernel generates.
    #[error("{}: not a regular file", shown(.0))]
    NotRegular(PathBuf),
    /// The names can't be sent; at least one.
    #[error("{}", first_of(.0))]
    Names(Vec<RefusedName>),
    /// Two paths end with the same name.
    #[error("{} and {} have the same name, and only one of them can have it on the other side", shown(.0), shown(.1))]
    SameName(PathBuf, PathBuf),
    /// A pattern is invalid.
    #[error("not a pattern: {pattern}: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The error.
        why: String,
    },
}

fn first_of(names: &[RefusedName]) -> String {
    let first = names.first().map(|name| format!("{}: {}", shown(&name.path), name.why)).unwrap_or_default();
    match names.len() {
        0 | 1 => first,
        count => format!("{first}, and {} more", count - 1),
    }
}

/// An entry that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its path.
    pub path: PathBuf,
    /// The reason.
    pub why: SkipReason,
}

/// The reason for which an entry was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SkipReason {
    /// A FIFO, a socket or a device.
    #[error("not a regular file")]
    Special,
    /// A file of a file system like /proc, whose contents the kernel generates.
    #[error("not a regular file (the kernel generates it)")]
    KernelMade,
    /// A link to an absolute path, or to something that is not sent.
    #[error("a link to something that is not sent")]
    LinkOutside,
    /// A link to a path with a name that can't be sent.
    #[error("a link to a name that can't be sent")]
    LinkName,
    /// A link that leads back to its own directory.
    #[error("a link that leads in a circle")]
    LinkLoop,
    /// A link to nothing, where links are followed.
    #[error("a link to nothing")]
    LinkDangling,
    /// The entry was removed before it could be read.
    #[error("removed while it was being read")]
    Vanished,
}

/// Files and directories of this machine, to be sent.
pub struct SourceTree {
    survey: Arc<Survey>,
    scan: Mutex<Scan>,
    seen: RwLock<Seen>,
    open: Mutex<Cache<u32, Arc<OwnedFd>>>,
}

struct Scan {
    walker: Walker,
    /// An entry that was found but did not fit into the previous page.
    kept: Option<Entry>,
    next_page: u32,
}

/// The identities of the scanned files.
#[derive(Default)]
struct Seen {
    inodes: Vec<u64>,
    /// The device of the entries from this index on.
    devices: Vec<(u32, u64)>,
}

/// The identity that a file must still have.
struct Expected {
    device: u64,
    inode: u64,
    size: u64,
    mtime: Mtime,
}

impl SourceTree {
    /// Creates the tree of these paths: files, directories, or links to them. Only the paths themselves are checked
    /// here.
    ///
    /// # Errors
    /// A path can't be sent, two paths have the same name, or a pattern is invalid.
    pub fn new(paths: Vec<PathBuf>, options: SourceOptions) -> Result<Self, SourceError> {
        let mut excludes = GitignoreBuilder::new("");
        excludes.allow_unclosed_class(false);
        for pattern in &options.excludes {
            let bad = |why: String| SourceError::Pattern { pattern: shown(Path::new(pattern)), why };
            excludes.add_line(None, &at_any_depth(pattern)).map_err(|error| bad(error.to_string()))?;
        }
        let excludes = excludes
            .build()
            .map_err(|error| SourceError::Pattern { pattern: options.excludes.join(" "), why: error.to_string() })?;
        let mut survey = Survey::new(excludes, options.git, options.links, HashMap::new());
        let (mut roots, mut keys, mut refused) =
            (Vec::new(), HashMap::<RelPath, (PathBuf, PathBuf)>::new(), Vec::new());
        if paths.is_empty() {
            return Err(SourceError::Nothing);
        }
        for path in paths {
            let (name, real, metadata) = root(&path, &survey)?;
            let name = match name {
                Ok(name) => name,
                Err(why) => {
                    refused.push(RefusedName { path, why });
                    continue;
                }
            };
            let root = Root { name, path: real };
            match keys.get(&root.name) {
                // The same path, spelt in two ways.
                Some((_, other)) if is_same(other, &root.path) => continue,
                Some((other, _)) => return Err(SourceError::SameName(other.clone(), path)),
                None => keys.insert(root.name.clone(), (path.clone(), root.path.clone())),
            };
            if survey.is_excluded(Path::new(root.name.as_str()), metadata.is_dir()) {
                continue;
            }
            survey.tops.insert(root.name.as_str().into(), root.path.clone());
            roots.push(root);
        }
        if !refused.is_empty() {
            return Err(SourceError::Names(refused));
        }
        let survey = Arc::new(survey);
        Ok(Self {
            scan: Mutex::new(Scan { walker: Walker::new(roots, survey.clone()), kept: None, next_page: 0 }),
            survey,
            seen: RwLock::default(),
            open: Mutex::new(Cache::new(descriptors::share())),
        })
    }

    /// The entries that were left out so far. Excluded paths are not among them.
    #[must_use]
    pub fn skipped(&self) -> Reported<Skipped> {
        self.survey.found().left_out.clone()
    }

    /// The names that can't be sent, once the scan failed because of the first of them.
    #[must_use]
    pub fn refused_names(&self) -> Reported<RefusedName> {
        self.survey.found().refused.clone()
    }

    /// The symbolic links that are sent.
    #[must_use]
    pub fn links(&self) -> Reported<PathBuf> {
        self.survey.found().links.clone()
    }

    /// The symbolic links that are sent and lead, or may lead, out of what is sent ([`Links::Keep`]).
    #[must_use]
    pub fn outside_links(&self) -> Reported<PathBuf> {
        self.survey.found().links_outside.clone()
    }

    fn path_of(&self, entry: &Entry) -> Option<PathBuf> {
        let (top, below) = entry.path.as_str().split_once('/').unwrap_or((entry.path.as_str(), ""));
        let root = self.survey.tops.get(top)?;
        Some(if below.is_empty() { root.clone() } else { root.join(below) })
    }

    fn expected(&self, index: u32, entry: &Entry) -> Option<Expected> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let inode = *seen.inodes.get(index as usize)?;
        let run = seen.devices.partition_point(|(first, _)| *first <= index).checked_sub(1)?;
        let (_, device) = *seen.devices.get(run)?;
        Some(Expected {
            device,
            inode,
            size: entry.size(),
            mtime: Mtime::clamped(entry.mtime.seconds, entry.mtime.nanos.into()),
        })
    }

    fn open_flags(&self) -> OFlags {
        // NONBLOCK: a FIFO that replaced the file must not block.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if self.survey.links == Links::Follow { flags } else { flags | OFlags::NOFOLLOW }
    }

    /// Opens a file, and checks that it is the one that was scanned.
    fn open(&self, path: &Path, expected: &Expected) -> Result<OwnedFd, FaultKind> {
        let release = || self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let file = descriptors::patiently(release, || Ok(rustix::fs::open(path, self.open_flags(), Mode::empty())?))
            .map_err(|error| reading(&error))?;
        expected.check(rustix::fs::fstat(&file))?;
        Ok(file)
    }

    fn read_whole(&self, path: &Path, expected: &Expected, into: &mut [u8]) -> Result<(), FaultKind> {
        let file = self.open(path, expected)?;
        fill(&file, 0, into)?;
        expected.check(rustix::fs::fstat(&file))
    }

    fn read_part(
        &self,
        index: u32,
        path: &Path,
        expected: &Expected,
        at: u64,
        into: &mut [u8],
    ) -> Result<(), FaultKind> {
        let kept = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&index);
        let file = match kept {
            Some(file) => {
                // The handle refers to the scanned file; this checks that the path still does.
                let flags =
                    if self.survey.links == Links::Follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
                expected.check(rustix::fs::statat(CWD, path, flags))?;
                file
            }
            None => {
                let file = Arc::new(self.open(path, expected)?);
                // A hint only: several threads read the chunks in order.
                #[cfg(target_os = "linux")]
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
                let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                open.get(&index).unwrap_or_else(|| {
                    open.insert(index, file.clone());
                    file
                })
            }
        };
        fill(&file, at, into)?;
        expected.check(rustix::fs::fstat(&file))
    }
}

impl Source for SourceTree {
    fn scan(&self, page: u32) -> Result<Option<Page>, Fault> {
        let mut scan = self.scan.lock().unwrap_or_else(PoisonError::into_inner);
        if page != scan.next_page {
            return Err(FaultKind::Internal.into());
        }
        scan.next_page += 1;
        let mut builder = PageBuilder::new();
        if let Some(entry) = scan.kept.take() {
            builder.push(&entry).map_err(|_| FaultKind::Internal)?;
        }
        while let Some(Found { entry, device, inode }) = scan.walker.next()? {
            self.seen.write().unwrap_or_else(PoisonError::into_inner).push(device, inode);
            if builder.push(&entry).is_err() {
                scan.kept = Some(entry);
                break;
            }
        }
        Ok((!builder.is_empty()).then(|| builder.finish()))
    }

    fn read(&self, index: u32, entry: &Entry, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let (Some(path), Some(expected)) = (self.path_of(entry), self.expected(index, entry)) else {
            return Err(Fault::at(FaultKind::Internal, entry.path.as_str()));
        };
        let whole = at == 0 && into.len() as u64 == expected.size;
        let read = if whole {
            self.read_whole(&path, &expected, into)
        } else {
            self.read_part(index, &path, &expected, at, into)
        };
        read.map_err(|kind| Fault::at(kind, path.to_string_lossy()))
    }
}

impl std::fmt::Debug for SourceTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SourceTree({} paths)", self.survey.tops.len())
    }
}

impl Seen {
    fn push(&mut self, device: u64, inode: u64) {
        if self.devices.last().is_none_or(|(_, last)| *last != device) {
            self.devices.push((u32::try_from(self.inodes.len()).unwrap_or(u32::MAX), device));
        }
        self.inodes.push(inode);
    }
}

impl Expected {
    fn check(&self, stat: Result<Stat, Errno>) -> Result<(), FaultKind> {
        let stat = stat.map_err(|error| reading(&error.into()))?;
        // The fields' types differ between systems.
        #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
        let same = crate::contained_dir::is_file(&stat)
            && stat.st_dev as u64 == self.device
            && stat.st_ino as u64 == self.inode
            && u64::try_from(stat.st_size).is_ok_and(|size| size == self.size)
            && Mtime::clamped(stat.st_mtime as i64, stat.st_mtime_nsec as u64) == self.mtime;
        if same { Ok(()) } else { Err(FaultKind::Changed) }
    }
}

/// The kind of fault for an error on a file that existed when it was scanned.
fn reading(error: &io::Error) -> FaultKind {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => FaultKind::Changed,
        _ => crate::fault::kind(error),
    }
}

fn fill(file: &OwnedFd, mut at: u64, mut into: &mut [u8]) -> Result<(), FaultKind> {
    while !into.is_empty() {
        match rustix::io::pread(file, &mut *into, at) {
            Ok(0) => return Err(FaultKind::Changed),
            Ok(read) => {
                into = &mut into[read..];
                at += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(reading(&error.into())),
        }
    }
    Ok(())
}

/// What was found at a given path: its name in the offer, its path without links at its end, and what it is.
type FoundRoot = (Result<RelPath, NameProblem>, PathBuf, Metadata);

/// Checks a given path and determines its name. A link that the user named is followed.
fn root(path: &Path, survey: &Survey) -> Result<FoundRoot, SourceError> {
    let io = |error: io::Error| SourceError::Io { path: path.to_owned(), error };
    let metadata = std::fs::metadata(path).map_err(io)?;
    let kind = metadata.file_type();
    let special = kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device();
    if special || survey.is_kernel_made(metadata.dev(), path) {
        return Err(SourceError::NotRegular(path.to_owned()));
    }
    rustix::fs::accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS).map_err(|error| io(error.into()))?;
    // A walk that starts at a link, or at `.`, would give paths that begin with it.
    let is_link = std::fs::symlink_metadata(path).map_err(io)?.is_symlink();
    let real =
        if is_link || path.file_name().is_none() { std::fs::canonicalize(path).map_err(io)? } else { path.to_owned() };
    let name = path.file_name().or(real.file_name()).map_or(Some(ROOT_NAME), std::ffi::OsStr::to_str);
    let name = name.ok_or(NameProblem::NotUtf8).and_then(|name| RelPath::parse(name).map_err(NameProblem::Rule));
    Ok((name, real, metadata))
}

fn is_same(a: &Path, b: &Path) -> bool {
    std::fs::canonicalize(a).ok().zip(std::fs::canonicalize(b).ok()).is_some_and(|(a, b)| a == b)
}

/// Makes a pattern with an inner slash match at any depth; in a .gitignore it would match from the top only.
fn at_any_depth(pattern: &str) -> String {
    let (not, rest) = pattern.strip_prefix('!').map_or(("", pattern), |rest| ("!", rest));
    let rest = rest.strip_prefix("./").unwrap_or(rest);
    let inner = rest.trim_end_matches('/').contains('/');
    match rest.as_bytes().first() {
        // A comment in a .gitignore, but a name here.
        Some(b'#') => format!("{not}\\{rest}"),
        Some(b'/') | None => pattern.to_owned(),
        Some(_) if inner && !rest.starts_with("**/") => format!("{not}**/{rest}"),
        Some(_) => format!("{not}{rest}"),
    }
}
