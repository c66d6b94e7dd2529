//! Where received files go, and what happens to what is there already.
//!
//! Decides whether a directory can take anything at all, before a code is used up, and what is done about a name that
//! exists ([`verdict`]). Nothing is made here before [`tallow_proto::transfer::storage::Sink::begin`]. No state, no
//! timers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, CWD, Stat, StatVfs};
use tallow_proto::transfer::storage::{Fault, FaultKind};

use crate::beneath::{Dir, is_dir, is_file, is_link};
use crate::fault::fault;
use crate::sink::Receiving;

/// What is done about a name that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExists {
    /// Nothing is received.
    #[default]
    Refuse,
    /// Files are replaced by files and links by links; directories are merged. Nothing else.
    Overwrite,
    /// What comes gets another name at the top: `name (1).txt`.
    Rename,
    /// What is there stays, what comes under its name is dropped; directories are merged.
    Skip,
}

/// What the receiver wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// On names that exist.
    pub on_exists: OnExists,
    /// Write names as they come even if other systems can't have them (reserved on Windows, invisible characters).
    pub allow_unportable: bool,
}

/// A directory to receive into. It need not exist yet.
#[derive(Debug)]
pub struct Destination {
    pub(crate) path: PathBuf,
    pub(crate) policy: Policy,
    pub(crate) ground: Ground,
}

/// What is there of it.
#[derive(Debug)]
pub enum Ground {
    /// All.
    There(Arc<Dir>),
    /// Only this directory above it.
    Missing(PathBuf),
}

impl Destination {
    /// Looks at `dir`: it must be a directory that can be written to, or be missing below such a one.
    ///
    /// # Errors
    /// What is in the way, with its path.
    pub fn open(dir: &Path, policy: Policy) -> Result<Self, Fault> {
        let path = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let at = |path: &Path| path.to_string_lossy().into_owned();
        let ground = match Dir::open_trusted(path) {
            Ok(dir) => {
                check_writable(path)?;
                Ground::There(Arc::new(dir))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let above = path
                    .ancestors()
                    .skip(1)
                    .map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above });
                let nearest = above.into_iter().find(|above| above.exists()).unwrap_or(Path::new("/"));
                Dir::open_trusted(nearest).map_err(|error| fault(error, at(nearest)))?;
                check_writable(nearest)?;
                Ground::Missing(nearest.to_owned())
            }
            Err(error) => return Err(fault(error, at(path))),
        };
        Ok(Self { path: path.to_owned(), policy, ground })
    }

    /// The sink of one transfer into it.
    #[must_use]
    pub fn sink(self) -> Arc<Receiving> {
        Arc::new(Receiving::new(self))
    }
}

impl Ground {
    /// Makes what is missing; what it made is the second part.
    pub fn make(&self, path: &Path) -> Result<(Arc<Dir>, Vec<PathBuf>), Fault> {
        let nearest = match self {
            Self::There(dir) => return Ok((dir.clone(), Vec::new())),
            Self::Missing(nearest) => nearest,
        };
        let mut made = Vec::new();
        let mut missing: Vec<_> =
            path.ancestors().take_while(|above| *above != nearest && !above.as_os_str().is_empty()).collect();
        missing.reverse();
        let result = missing
            .into_iter()
            .try_for_each(|dir| match std::fs::create_dir(dir) {
                Ok(()) => {
                    made.push(dir.to_owned());
                    Ok(())
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(fault(error, dir.to_string_lossy())),
            })
            .and_then(|()| Dir::open_trusted(path).map_err(|error| fault(error, path.to_string_lossy())));
        match result {
            Ok(dir) => Ok((Arc::new(dir), made)),
            Err(fault) => {
                unmake(&made);
                Err(fault)
            }
        }
    }

    /// The file system that it is on, or will be.
    pub fn file_system(&self) -> io::Result<StatVfs> {
        Ok(match self {
            Self::There(dir) => rustix::fs::fstatvfs(dir)?,
            Self::Missing(nearest) => rustix::fs::statvfs(nearest)?,
        })
    }

    /// The directory, if it is there: what is in it is in the way.
    pub fn existing(&self) -> Option<&Dir> {
        match self {
            Self::There(dir) => Some(dir),
            Self::Missing(_) => None,
        }
    }
}

/// Removes what [`Ground::make`] made, as far as it is still empty.
pub fn unmake(made: &[PathBuf]) {
    for dir in made.iter().rev() {
        if std::fs::remove_dir(dir).is_err() {
            return;
        }
    }
}

/// What comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
}

/// What is done when something comes to a name that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The transfer is refused.
    Refuse(FaultKind),
    /// Both are directories: what is in the one goes into the other.
    Merge,
    /// The old one is replaced, in one step.
    Replace,
    /// The old one stays, the new one is dropped.
    Skip,
    /// The new one gets another name.
    Rename,
}

/// The one place that decides it: asked before anything is accepted, and again when things are put in place.
pub fn verdict(on_exists: OnExists, incoming: Incoming, existing: &Stat) -> Verdict {
    let in_the_way = match incoming {
        _ if is_link(existing) => FaultKind::Link,
        Incoming::File if !is_file(existing) => FaultKind::NotRegular,
        Incoming::File | Incoming::Dir | Incoming::Link => FaultKind::Exists,
    };
    match (on_exists, incoming) {
        (OnExists::Refuse, _) => Verdict::Refuse(in_the_way),
        (OnExists::Rename, _) => Verdict::Rename,
        (OnExists::Overwrite | OnExists::Skip, Incoming::Dir) if is_dir(existing) => Verdict::Merge,
        (OnExists::Overwrite | OnExists::Skip, Incoming::Dir) => Verdict::Refuse(match in_the_way {
            FaultKind::Link => FaultKind::Link,
            _ => FaultKind::Io(io::ErrorKind::NotADirectory),
        }),
        (OnExists::Skip, Incoming::File | Incoming::Link) => Verdict::Skip,
        (OnExists::Overwrite, Incoming::File) if is_file(existing) => Verdict::Replace,
        (OnExists::Overwrite, Incoming::Link) if is_link(existing) => Verdict::Replace,
        (OnExists::Overwrite, Incoming::File | Incoming::Link) => Verdict::Refuse(in_the_way),
    }
}

fn check_writable(dir: &Path) -> Result<(), Fault> {
    rustix::fs::accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|error| fault(error, dir.to_string_lossy()))
}
