//! What is kept between runs: a private directory with a few small files, each replaced in one step.
//!
//! Decides where it is, and that nobody else reads it: directories 0700, files 0600. No states, no timers.
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

use crate::beneath::{Dir, PRIVATE_DIR, PRIVATE_FILE};
use crate::fault::shown;

/// The largest file that is read, in bytes.
pub const MAX_FILE: u64 = 256 << 10;

/// Something that is kept could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system's error.
    #[error("{}: {error}", shown(.path))]
    Io {
        /// On this path.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// A file that is not what it should be.
    #[error("{}: {why}", shown(.path))]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A certificate could not be made.
    #[error("no certificate could be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl StoreError {
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::Io { path: path.to_owned(), error }
    }
}

/// Where the state is kept when nobody says otherwise: `$XDG_STATE_HOME/tallow`, else `~/.local/state/tallow`. `None`:
/// there is no home directory.
#[must_use]
pub fn default_dir() -> Option<PathBuf> {
    let base = etcetera::choose_base_strategy().ok()?;
    base.state_dir().or_else(|| Some(base.data_dir())).map(|dir| dir.join("tallow"))
}

/// The directory, made with what is above it if need be.
pub(crate) fn open_private(path: &Path) -> Result<Dir, StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIR.bits()).create(path).map_err(StoreError::io(path))?;
    let dir = Dir::open_trusted(path).map_err(StoreError::io(path))?;
    static WARNED: Once = Once::new();
    // Its mode stays: a directory that the person named may be shared for a reason.
    if fstat(&dir).is_ok_and(|found| is_lax(found.st_mode)) {
        WARNED.call_once(|| tracing::warn!("others can write to the state directory; give it the mode 0700"));
    }
    Ok(dir)
}

/// Whether others may make and replace files in a directory of this mode.
const fn is_lax(mode: u32) -> bool {
    mode & 0o022 != 0
}

/// The contents of a private file; `None`: there is none. What others could read before, they can't after.
pub(crate) fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let Some((file, stat)) = open(path)? else { return Ok(None) };
    if stat.st_mode & 0o077 != 0 {
        tracing::warn!("others could read a private file of the state directory; its mode is now 0600");
        // Not ours to change: then it is its owner's decision.
        let _ = fchmod(&file, PRIVATE_FILE);
    }
    contents(path, file, &stat).map(Some)
}

/// The contents of a small file that the person named; `None`: there is none.
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
    if !crate::beneath::is_file(&stat) {
        return Err(StoreError::Content { path: path.to_owned(), why: "not a regular file" });
    }
    Ok(Some((file, stat)))
}

fn contents(path: &Path, file: OwnedFd, stat: &Stat) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    // A vector that grows would leave copies of a key behind.
    let size = u64::try_from(stat.st_size).unwrap_or_default().min(MAX_FILE);
    let mut contents = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    File::from(file).take(MAX_FILE + 1).read_to_end(&mut contents).map_err(StoreError::io(path))?;
    if contents.len() as u64 > MAX_FILE {
        return Err(StoreError::Content { path: path.to_owned(), why: "too large" });
    }
    Ok(contents)
}

/// Writes a private file in one step: whoever reads it finds the old contents or the new. With `keep`, what is there
/// already stays; false: it did.
pub(crate) fn write_private(dir: &Path, name: &str, contents: &[u8], keep: bool) -> Result<bool, StoreError> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let path = dir.join(name);
    let fail = StoreError::io(&path);
    let handle = open_private(dir)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = format!(".{name}.{}-{number}", std::process::id());
    // Left by a process of this number that was killed.
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

/// Holds the directory's lock until it is dropped, so that two processes that read and write the same file don't undo
/// one another.
pub(crate) fn lock(dir: &Path) -> Result<Dir, StoreError> {
    let handle = open_private(dir)?;
    match flock(&handle, FlockOperation::LockExclusive) {
        // A file system without locks: then the last to write wins.
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
    fn a_directory_is_lax_where_others_may_write() {
        for (mode, lax) in [(0o40700, false), (0o40755, false), (0o40775, true), (0o40757, true), (0o41777, true)] {
            assert_eq!(is_lax(mode), lax, "{mode:o}");
        }
    }
}
