//! The state between runs: a private directory with a few small files, each replaced atomically.
//!
//! Decides its path and its access: directories have mode 0700, files 0600. No states, no timers.
//! Bounds: [`MAX_FILE`] for what is read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use etcetera::BaseStrategy;
use rustix::fs::{FlockOperation, Mode, OFlags, Stat, fchmod, flock, fstat, fsync};
use zeroize::Zeroizing;

use crate::contained_dir::{Dir, PRIVATE_DIR, PRIVATE_FILE};
use crate::fault::shown;

/// The maximum size of a file that is read, in bytes.
pub const MAX_FILE: u64 = 256 << 10;

/// A state file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// An error of the operating system.
    #[error("{}: {error}", shown(.path))]
    Io {
        /// The path of the error.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// A file has invalid contents.
    #[error("{}: {why}", shown(.path))]
    Content {
        /// The path of the file.
        path: PathBuf,
        /// The problem.
        why: &'static str,
    },
    /// A certificate could not be created.
    #[error("no certificate could be created: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl StoreError {
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::Io { path: path.to_owned(), error }
    }
}

/// The default directory of the state: `$XDG_STATE_HOME/tallow`, else `~/.local/state/tallow`. `None`:
/// there is no home directory.
#[must_use]
pub fn default_dir() -> Option<PathBuf> {
    let base = etcetera::choose_base_strategy().ok()?;
    base.state_dir().or_else(|| Some(base.data_dir())).map(|dir| dir.join("tallow"))
}

/// Opens the directory, and creates it and its parents if necessary.
pub(crate) fn open_private(path: &Path) -> Result<Dir, StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIR.bits()).create(path).map_err(StoreError::io(path))?;
    let dir = Dir::open_trusted(path).map_err(StoreError::io(path))?;
    static WARNED: Once = Once::new();
    // The mode is not changed, because the user may share the directory on purpose.
    if fstat(&dir).is_ok_and(|found| is_lax(found.st_mode)) {
        WARNED.call_once(|| tracing::warn!("others can write to the state directory; give it the mode 0700"));
    }
    Ok(dir)
}

/// Whether other users may create and replace files in a directory of this mode.
const fn is_lax(mode: u32) -> bool {
    mode & 0o022 != 0
}

/// Reads a private file; `None`: it does not exist. If other users could read it, its mode is changed to 0600.
pub(crate) fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let Some((file, stat)) = open(path)? else { return Ok(None) };
    if stat.st_mode & 0o077 != 0 {
        tracing::warn!("others could read a private file of the state directory; its mode is now 0600");
        // An error means that another user owns the file, who decides about its mode.
        let _ = fchmod(&file, PRIVATE_FILE);
    }
    contents(path, file, &stat).map(Some)
}

/// Reads a small file that the user named; `None`: it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let Some((file, stat)) = open(path)? else { return Ok(None) };
    contents(path, file, &stat).map(Some)
}

fn open(path: &Path) -> Result<Option<(OwnedFd, Stat)>, StoreError> {
    let fail = StoreError::io(path);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(fail(error.into())),
    };
    let stat = fstat(&file).map_err(|error| fail(error.into()))?;
    if !crate::contained_dir::is_file(&stat) {
        return Err(StoreError::Content { path: path.to_owned(), why: "not a regular file" });
    }
    Ok(Some((file, stat)))
}

fn contents(path: &Path, file: OwnedFd, stat: &Stat) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    // Allocated once, because a growing vector would leave copies of a key in memory.
    let size = u64::try_from(stat.st_size).unwrap_or_default().min(MAX_FILE);
    let mut contents = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    File::from(file).take(MAX_FILE + 1).read_to_end(&mut contents).map_err(StoreError::io(path))?;
    if contents.len() as u64 > MAX_FILE {
        return Err(StoreError::Content { path: path.to_owned(), why: "too large" });
    }
    Ok(contents)
}

/// Writes a private file atomically: readers see the old contents or the new. With `keep`, an existing file is not
/// replaced. Returns whether the file was written.
pub(crate) fn write_private(dir: &Path, name: &str, contents: &[u8], keep: bool) -> Result<bool, StoreError> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let path = dir.join(name);
    let fail = StoreError::io(&path);
    let handle = open_private(dir)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = format!(".{name}.{}-{number}", std::process::id());
    // Removes the file of a killed process that had the same id.
    handle.remove_file(temporary.as_str()).map_err(&fail)?;
    let file = handle.make_file(temporary.as_str(), PRIVATE_FILE).map_err(&fail)?;
    let written = write_synced(file.into(), contents).and_then(|()| {
        if !keep {
            handle.replace(temporary.as_str(), &handle, name)?;
            return Ok(true);
        }
        match handle.move_to(temporary.as_str(), &handle, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true),
        }
    });
    if !matches!(written, Ok(true)) {
        let _ = handle.remove_file(temporary.as_str());
    }
    let written = written.map_err(&fail)?;
    fsync(&handle).map_err(|error| fail(error.into()))?;
    Ok(written)
}

/// Locks the directory until the handle is dropped, so that two processes that change the same file do not overwrite
/// each other's changes.
pub(crate) fn lock(dir: &Path) -> Result<Dir, StoreError> {
    let handle = open_private(dir)?;
    match flock(&handle, FlockOperation::LockExclusive) {
        // On a file system without locks, the last writer wins.
        Ok(()) | Err(rustix::io::Errno::NOLCK | rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => Ok(handle),
        Err(error) => Err(StoreError::io(dir)(error.into())),
    }
}

fn write_synced(mut file: File, contents: &[u8]) -> io::Result<()> {
    file.write_all(contents)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_writable_by_others_is_lax() {
        for (mode, lax) in [(0o40700, false), (0o40755, false), (0o40775, true), (0o40757, true), (0o41777, true)] {
            assert_eq!(is_lax(mode), lax, "{mode:o}");
        }
    }
}
