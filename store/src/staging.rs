//! The staging directory: where a tree lies until it is whole, beside its final place.
//!
//! Decides its name, who uses it, and how it goes. It is `.tallow-` and 16 hex digits of the manifest's digest, mode 0700, locked
//! (flock) while it is in use; when another receiver has that one, a number follows. One that is left over and that nobody holds
//! is emptied and used again. The tree lies in `tree` inside it, so that other things can lie beside.
//!
//! Bounds: [`MOST_NAMES`] tries, [`BATCH`] names at a time, three open directories whatever the depth.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, fchmod, flock, fstat};
use rustix::io::Errno;

use crate::beneath::{Dir, PRIVATE_DIR, is_dir};

/// The most receivers of one manifest in one directory.
const MOST_NAMES: u32 = 64;
/// Names of a directory that are held at once.
const BATCH: usize = 4096;
/// What a new directory gets before the umask.
pub const ANY_MODE: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);
const TREE: &str = "tree";

/// A staging directory in use.
#[derive(Debug)]
pub struct Staging {
    name: String,
    /// Holds the lock.
    dir: Dir,
    /// Where the tree is laid out.
    pub tree: Arc<Dir>,
    /// The permission bits that the system gives to new things here: all but the umask's, or what a default ACL says.
    pub allowed: Mode,
}

impl Staging {
    /// Makes one in `target`, or takes over one that is left.
    pub fn make(target: &Dir, digest: &[u8; 32]) -> io::Result<Self> {
        let id: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        for number in 1..=MOST_NAMES {
            let name = if number == 1 { format!(".tallow-{id}") } else { format!(".tallow-{id}-{number}") };
            if let Some(dir) = claim(target, &name)? {
                dir.make_dir(TREE, ANY_MODE)?;
                // What the mode became tells the umask, which no call can ask for without changing it.
                let allowed = dir.stat(TREE)?.map_or(PRIVATE_DIR, |stat| Mode::from_raw_mode(stat.st_mode) & ANY_MODE);
                let tree = Arc::new(dir.child(TREE)?);
                return Ok(Self { name, dir, tree, allowed });
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Removes it with all that is in it.
    pub fn remove(&self, target: &Dir) -> io::Result<()> {
        clear(&self.dir)?;
        target.remove_dir(self.name.as_str()).map(|_| ())
    }
}

/// A locked, empty directory of this name; `None`: the name is taken.
fn claim(target: &Dir, name: &str) -> io::Result<Option<Dir>> {
    let made = match target.make_dir(name, PRIVATE_DIR) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let Ok(dir) = target.child(name) else { return Ok(None) };
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        // A file system without locks: what is new is ours all the same.
        Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) if made => return Ok(Some(dir)),
        Err(_) => return Ok(None),
    }
    let stat = fstat(&dir)?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    // Whoever had it may have removed it before the lock was free.
    let still = target.stat(name)?.is_some_and(|there| there.st_ino == stat.st_ino && there.st_dev == stat.st_dev);
    if !ours || !still {
        return Ok(None);
    }
    if !made {
        fchmod(&dir, PRIVATE_DIR)?;
        clear(&dir)?;
    }
    Ok(Some(dir))
}

/// Removes all that is in a directory. What lies deeper is moved up first, so depth costs neither handles nor stack.
pub fn clear(root: &Dir) -> io::Result<()> {
    let mut number = 0_u64;
    loop {
        let names = root.names(BATCH)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if !remove_leaf(root, &name)? {
                clear_dir(root, &name, &mut number)?;
            }
        }
    }
}

/// Removes one directory of `root`; directories in it become ones of `root`.
fn clear_dir(root: &Dir, name: &CStr, number: &mut u64) -> io::Result<()> {
    let dir = match root.child(name) {
        Ok(dir) => dir,
        Err(_) => {
            root.unlock_dir(name)?;
            root.child(name)?
        }
    };
    fchmod(&dir, PRIVATE_DIR)?;
    loop {
        let names = dir.names(BATCH)?;
        if names.is_empty() {
            break;
        }
        for inner in names {
            while !remove_leaf(&dir, &inner)? {
                *number += 1;
                let moved = format!(".{number}");
                match dir.move_to(&*inner, root, moved.as_str()) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    // A directory without write permission can't be moved.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        dir.unlock_dir(&*inner)?;
                        dir.move_to(&*inner, root, moved.as_str())?;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
    root.remove_dir(name).map(|_| ())
}

/// True: it was no directory, and is gone.
fn remove_leaf(dir: &Dir, name: &CStr) -> io::Result<bool> {
    match dir.remove_file(name) {
        Ok(_) => Ok(true),
        Err(error) if dir.stat(name)?.is_some_and(|stat| is_dir(&stat)) => {
            tracing::trace!(%error, "a directory");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
