//! Partial transfers in a directory: what is there of them, and how they go.
//!
//! Decides which staging directories are anybody's business: those of this user that nobody holds may go, those that a
//! receiver holds may not. What they are of is told by their journals.
//!
//! No state, no timers. Bounds: [`MOST`] of them are looked at.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock, fstat};
use tallow_proto::transfer::storage::Fault;

use crate::beneath::Dir;
use crate::fault::fault;
use crate::staging::{JOURNAL, PREFIX, Said, clear, read_journal};

/// The most partial transfers of one directory that are looked at.
pub const MOST: usize = 10_000;

/// A partial transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// What its directory is called after `.tallow-`.
    pub id: String,
    /// What is known about it; `None`: its journal can't be read.
    pub about: Option<About>,
    /// Whether a receiver is at it.
    pub is_live: bool,
    /// When something was last stored there.
    pub modified: SystemTime,
}

/// What a journal says about its transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The name at the top of its first entry.
    pub name: String,
    /// How many entries there are in all.
    pub entries: u32,
    /// Bytes of all its files.
    pub bytes: u64,
    /// About how many of them are stored.
    pub stored: u64,
}

/// The partial transfers in a directory, those that were left last at the end.
///
/// # Errors
/// The directory can't be read.
pub fn list(dir: &Path) -> Result<Vec<Partial>, Fault> {
    let here = |error: io::Error| fault(error, dir.to_string_lossy());
    let target = Dir::open_trusted(dir).map_err(here)?;
    let mut found = Vec::new();
    for name in names(&target).map_err(here)? {
        // One that is gone meanwhile, or that is somebody else's.
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

/// Removes a partial transfer, unless a receiver is at it; false: one is, or it is not there.
///
/// # Errors
/// It can't be removed.
pub fn clear_one(dir: &Path, id: &str) -> Result<bool, Fault> {
    let name = format!("{PREFIX}{id}");
    let here = |error: io::Error| fault(error, dir.join(&name).to_string_lossy());
    let target = Dir::open_trusted(dir).map_err(|error| fault(error, dir.to_string_lossy()))?;
    if !is_ours(&name) {
        return Ok(false);
    }
    match take(&target, &name).map_err(here)? {
        Some((own, false)) => {
            // The journal first, so that what is half removed is not taken for more.
            own.remove_file(JOURNAL).map_err(here)?;
            clear(&own).map_err(here)?;
            target.remove_dir(name.as_str()).map_err(here)
        }
        Some((_, true)) | None => Ok(false),
    }
}

/// What could be staging directories.
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

/// `.tallow-`, 16 hex digits, and perhaps a number.
fn is_ours(name: &str) -> bool {
    let Some(id) = name.strip_prefix(PREFIX) else { return false };
    let (digest, number) = id.split_once('-').unwrap_or((id, "2"));
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    digest.len() == 16 && digest.chars().all(is_hex) && number.parse::<u32>().is_ok_and(|number| number > 1)
}

/// The directory and whether somebody holds it; its lock is ours until it is dropped. `None`: it is none of ours.
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
    // Where there are no locks, nobody can tell whether it lives.
    let is_live = flock(&own, FlockOperation::NonBlockingLockExclusive).is_err();
    Ok(Some((own, is_live)))
}

fn about(own: &Dir) -> io::Result<Option<About>> {
    let Some(Said { header, stored, .. }) = read_journal(own)? else { return Ok(None) };
    let bytes = (stored.len() as u64).saturating_mul(header.chunk_size.into()).min(header.bytes);
    Ok(Some(About { name: header.label.into(), entries: header.entries, bytes: header.bytes, stored: bytes }))
}
