//! Unfinished transfers in a directory: lists and removes them.
//!
//! Only staging directories of this user are listed, and only those that no receiver is using can be removed. Their
//! journals describe their contents.
//!
//! No state, no timers. Bounds: [`MOST`] staging directories are read.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock, fstat};
use tallow_proto::transfer::storage::Fault;

use crate::contained_dir::Dir;
use crate::fault::fault;
use crate::staging::{JOURNAL, JournalContents, PREFIX, clear, read_journal};

/// The maximum number of unfinished transfers that are read in one directory.
pub const MOST: usize = 10_000;

/// An unfinished transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// The name of its directory after `.tallow-`.
    pub id: String,
    /// The contents of its journal; `None`: it can't be read.
    pub about: Option<About>,
    /// Whether a receiver is using it.
    pub is_live: bool,
    /// The time of the last stored chunk.
    pub modified: SystemTime,
}

/// The description of a transfer in its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The top-level name of its first entry.
    pub name: String,
    /// The total number of entries.
    pub entries: u32,
    /// The total size of its files in bytes.
    pub bytes: u64,
    /// The approximate number of stored bytes.
    pub stored: u64,
}

/// Lists the unfinished transfers in a directory, the most recent one last.
///
/// # Errors
/// The directory can't be read.
pub fn list(dir: &Path) -> Result<Vec<Partial>, Fault> {
    let here = |error: io::Error| fault(error, dir.to_string_lossy());
    let target = Dir::open_trusted(dir).map_err(here)?;
    let mut found = Vec::new();
    for name in names(&target).map_err(here)? {
        // Skips directories that were removed meanwhile, or that belong to another user.
        let Ok(Some((own, is_live))) = take(&target, &name) else { continue };
        let stat = fstat(&own).map_err(|error| here(error.into()))?;
        let journal = own.stat(JOURNAL).map_err(here)?.unwrap_or(stat);
        // The field's type differs between systems.
        #[allow(clippy::unnecessary_cast)]
        let seconds = u64::try_from(journal.st_mtime as i64).unwrap_or_default();
        found.push(Partial {
            id: name[PREFIX.len()..].to_owned(),
            about: about(&own).ok().flatten(),
            is_live,
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        });
    }
    found.sort_by(|a, b| (a.modified, &a.id).cmp(&(b.modified, &b.id)));
    Ok(found)
}

/// Removes an unfinished transfer unless a receiver is using it; returns whether it was removed.
///
/// # Errors
/// It could not be removed.
pub fn clear_one(dir: &Path, id: &str) -> Result<bool, Fault> {
    let name = format!("{PREFIX}{id}");
    let here = |error: io::Error| fault(error, dir.join(&name).to_string_lossy());
    let target = Dir::open_trusted(dir).map_err(|error| fault(error, dir.to_string_lossy()))?;
    if !is_ours(&name) {
        return Ok(false);
    }
    match take(&target, &name).map_err(here)? {
        Some((own, false)) => {
            // The journal is removed first, so that a partly removed directory is not resumed.
            own.remove_file(JOURNAL).map_err(here)?;
            clear(&own).map_err(here)?;
            target.remove_dir(name.as_str()).map_err(here)
        }
        Some((_, true)) | None => Ok(false),
    }
}

/// The names that could be staging directories.
fn names(target: &Dir) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    target.each_name(|name| {
        if let Ok(name) = name.to_str()
            && is_ours(name)
            && names.len() < MOST
        {
            names.push(name.to_owned());
        }
        Ok(())
    })?;
    Ok(names)
}

/// Whether a name is `.tallow-`, 16 hex digits, and optionally a number.
fn is_ours(name: &str) -> bool {
    let Some(id) = name.strip_prefix(PREFIX) else { return false };
    let (digest, number) = id.split_once('-').unwrap_or((id, "2"));
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    digest.len() == 16 && digest.chars().all(is_hex) && number.parse::<u32>().is_ok_and(|number| number > 1)
}

/// Opens and locks a directory; the flag says whether a receiver holds the lock. `None`: it is missing or belongs to
/// another user.
fn take(target: &Dir, name: &str) -> io::Result<Option<(Dir, bool)>> {
    let own = match target.child(name) {
        Ok(own) => own,
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if fstat(&own)?.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(None);
    }
    // On a file system without locks, this is reported as in use.
    let is_live = flock(&own, FlockOperation::NonBlockingLockExclusive).is_err();
    Ok(Some((own, is_live)))
}

fn about(own: &Dir) -> io::Result<Option<About>> {
    let Some(JournalContents { header, stored, .. }) = read_journal(own)? else { return Ok(None) };
    let bytes = (stored.len() as u64).saturating_mul(header.chunk_size.into()).min(header.bytes);
    Ok(Some(About { name: header.label.into(), entries: header.entries, bytes: header.bytes, stored: bytes }))
}
