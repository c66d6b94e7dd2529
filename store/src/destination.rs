//! The directory for received files, and the policy for existing names.
//!
//! Decides whether files can be created in a directory, before a code is used, and what to do if a name exists
//! ([`verdict`]). Nothing is created before [`tallow_proto::transfer::storage::Sink::begin`]. No state, no timers.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, CWD, Stat};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::Manifest;
use tallow_proto::transfer::component::NameRules;
use tallow_proto::transfer::journal::Header;
use tallow_proto::transfer::local_names::LocalNames;
use tallow_proto::transfer::storage::{Fault, FaultKind};

use crate::abilities::{Abilities, Times};
use crate::contained_dir::{Dir, is_dir, is_file, is_link};
use crate::fault::fault;
use crate::sink::Receiving;
use crate::staging::Staging;

/// The policy for existing names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnExists {
    /// Refuse the offer.
    #[default]
    Refuse,
    /// Replace files by files and links by links, and merge directories. Other combinations are refused.
    Overwrite,
    /// Give the received top-level entry another name: `name (1).txt`.
    Rename,
    /// Keep the existing entry and skip the received one; merge directories.
    Skip,
}

/// Which names received entries get. A name that the file system can't hold, or not beside another one, is changed in
/// each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Naming {
    /// The offered ones, without invisible characters that mislead.
    #[default]
    Plain,
    /// The offered ones, with every character.
    Exact,
    /// Names that every system can hold, side by side.
    Portable,
}

/// What to do with a symbolic link that leads, or may lead, out of what is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OutsideLinks {
    /// Leave it out, and report it.
    #[default]
    LeaveOut,
    /// Create it as it was sent. Nothing of a transfer is ever written through a link, but other programs follow it.
    Keep,
}

/// The rules for received names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// What to do if a name exists.
    pub on_exists: OnExists,
    /// Which names entries get.
    pub naming: Naming,
    /// What to do with links that lead out.
    pub outside_links: OutsideLinks,
}

/// A directory to receive into. It need not exist yet.
#[derive(Debug)]
pub struct Destination {
    pub(crate) path: PathBuf,
    pub(crate) policy: Policy,
    pub(crate) ground: Ground,
    /// What the file system is taken to hold, in place of what it does hold: for tests.
    pub(crate) assumed: Option<Abilities>,
}

/// The part of the destination that exists.
#[derive(Debug)]
pub enum Ground {
    /// The directory exists.
    There(Arc<Dir>),
    /// The directory is missing; this is its nearest existing ancestor.
    Missing(PathBuf),
}

impl Destination {
    /// Checks `dir`, which must be a writable directory, or be missing below a writable one.
    ///
    /// # Errors
    /// The problem, with its path.
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
        Ok(Self { path: path.to_owned(), policy, ground, assumed: None })
    }

    /// The file system is taken to hold no more than this, whatever it holds.
    #[doc(hidden)]
    #[must_use]
    pub fn assuming(self, names: NameRules, links: bool, modes_and_times: bool) -> Self {
        let times = if modes_and_times { Times::Kept } else { Times::Lost };
        Self { assumed: Some(Abilities { names, links, modes: modes_and_times, times }), ..self }
    }

    /// The top-level names that entries of this manifest would get and that exist: the first `most`, and their number.
    /// Only the check of the sink decides.
    ///
    /// # Errors
    /// The directory can't be read or written.
    pub fn existing(&self, manifest: &Manifest, most: usize) -> Result<(Vec<String>, u64), Fault> {
        let Some(target) = self.ground.existing() else { return Ok((Vec::new(), 0)) };
        let here = |error: io::Error| fault(error, self.path.to_string_lossy());
        let abilities = match self.assumed {
            Some(abilities) => abilities,
            None => Staging::make(target, &Header::of(manifest))
                .and_then(|staging| {
                    let probed = staging.probe();
                    staging.remove(target)?;
                    probed
                })
                .map_err(here)?,
        };
        let names = local_names(manifest, self.policy, &abilities)?;
        let (mut first, mut count, mut last) = (Vec::new(), 0, String::new());
        for (_, entry) in manifest.entries() {
            let path = names.local(&entry.path);
            let top = path.split('/').next().unwrap_or_default();
            // The entries below a top-level name follow it.
            if top == last {
                continue;
            }
            top.clone_into(&mut last);
            if target.stat(top).map_err(here)?.is_some() {
                count += 1;
                if first.len() < most {
                    first.push(top.to_owned());
                }
            }
        }
        Ok((first, count))
    }

    /// Creates the sink of one transfer into this directory.
    #[must_use]
    pub fn sink(self) -> Arc<Receiving> {
        Arc::new(Receiving::new(self))
    }
}

impl Ground {
    /// Creates the missing directories; the second value lists the created ones.
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

    /// The directory, if it exists.
    pub fn existing(&self) -> Option<&Dir> {
        match self {
            Self::There(dir) => Some(dir),
            Self::Missing(_) => None,
        }
    }
}

/// The local names of a manifest, for a file system with these abilities.
pub fn local_names(manifest: &Manifest, policy: Policy, abilities: &Abilities) -> Result<LocalNames, Fault> {
    let held = abilities.names;
    let mut rules = if policy.naming == Naming::Portable { NameRules::PORTABLE } else { held };
    rules.longest = held.longest;
    rules.keeps_invisible = policy.naming == Naming::Exact;
    LocalNames::of(manifest, rules, &random_seed())
        .map_err(|refused| Fault::at(FaultKind::Refused(refused.why), refused.name.as_raw()))
}

/// A seed that a peer can't know. The standard library's hashers have one each.
fn random_seed() -> Seed {
    let words = [0_u64; 4].map(|word| RandomState::new().hash_one(word));
    let mut bytes = [0; 32];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_be_bytes());
    }
    Seed::new(bytes)
}

/// Removes the directories that [`Ground::make`] created, as far as they are still empty.
pub fn unmake(made: &[PathBuf]) {
    for dir in made.iter().rev() {
        if std::fs::remove_dir(dir).is_err() {
            return;
        }
    }
}

/// The kind of a received entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
}

/// The decision for a received entry whose name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Refuse the transfer.
    Refuse(FaultKind),
    /// Both are directories: merge them.
    Merge,
    /// Replace the existing entry atomically.
    Replace,
    /// Keep the existing entry and skip the new one.
    Skip,
    /// Give the new entry another name.
    Rename,
}

/// Applies the policy to an existing name: before the offer is accepted, and again when entries are moved to their
/// final place.
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
