//! Directories by their handles: everything that is opened or created through a [`Dir`] is inside it, even if other
//! processes rename or swap entries at the same time.
//!
//! Decides how a name is resolved. The kernel does it in one step (`openat2` with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
//! and RESOLVE_NO_MAGICLINKS: no `..`, no absolute path, no link anywhere, not even one that appears during the call).
//! Where there is no such call, each component is opened by itself with O_NOFOLLOW, from the handle of the one before:
//! the same containment, more calls. Checks of strings or of `lstat` before an opening are not part of it; they would
//! lose races.
//!
//! A symbolic link in the way is `ELOOP` by either method. No state, no timers. Nothing here follows a link but
//! [`Dir::open_trusted`].

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags, Stat, Timestamps};
use rustix::io::Errno;
use rustix::path::Arg;

/// Mode of a directory that other users can't read.
pub const PRIVATE_DIR: Mode = Mode::RWXU;
/// Mode of a file that other users can't read.
pub const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The way in which a path of several components is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By `openat2` (Linux 5.6).
    Kernel,
    /// Component by component, none of them a link.
    ByComponent,
}

impl Method {
    /// The kernel's method if the system has it and no sandbox blocks it.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Method> = OnceLock::new();
        *BEST.get_or_init(|| match open_by_kernel(fs::CWD, c".", DIR_FLAGS, Mode::empty()) {
            Ok(_) => Self::Kernel,
            Err(_) => Self::ByComponent,
        })
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// Opens the directory at a path that the user named; links are followed.
    ///
    /// # Errors
    /// An error of the operating system.
    pub fn open_trusted(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::open(path, DIR_FLAGS, Mode::empty())?))
    }

    /// Duplicates the handle.
    ///
    /// # Errors
    /// An error of the operating system.
    pub fn again(&self) -> io::Result<Self> {
        Ok(Self(rustix::io::fcntl_dupfd_cloexec(&self.0, 0)?))
    }

    /// Opens the directory at `path`, with components separated by `/`, below this one.
    ///
    /// # Errors
    /// `ELOOP` if a component is a link, `ENOTDIR` if it is something else, or another error of the operating system.
    pub fn descend(&self, path: &str) -> io::Result<Self> {
        self.descend_by(Method::best(), path)
    }

    /// [`Dir::descend`] with the given method.
    ///
    /// # Errors
    /// The errors of [`Dir::descend`].
    pub fn descend_by(&self, method: Method, path: &str) -> io::Result<Self> {
        match method {
            Method::Kernel => Ok(Self(open_by_kernel(&self.0, path, DIR_FLAGS, Mode::empty())?)),
            Method::ByComponent => {
                let mut components = path.split('/');
                let first = self.child(components.next().unwrap_or_default())?;
                components.try_fold(first, |dir, component| dir.child(component))
            }
        }
    }

    /// Opens the directory of this name in this one.
    ///
    /// # Errors
    /// As [`Dir::descend`].
    pub fn child(&self, name: impl Arg) -> io::Result<Self> {
        one(name, |name| match fs::openat(&self.0, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Self(fd)),
            // With O_DIRECTORY the system reports a link as "not a directory".
            Err(Errno::NOTDIR) if stat(&self.0, name)?.is_some_and(|stat| is_link(&stat)) => Err(Errno::LOOP),
            Err(error) => Err(error),
        })
    }

    /// Creates a directory; the umask of the process applies to the mode.
    ///
    /// # Errors
    /// `EEXIST`, or another error of the operating system.
    pub fn make_dir(&self, name: impl Arg, mode: Mode) -> io::Result<()> {
        one(name, |name| fs::mkdirat(&self.0, name, mode))
    }

    /// Creates a file, which must not exist, and opens it for writing.
    ///
    /// # Errors
    /// `EEXIST` if anything has this name, even a link, or another error of the operating system.
    pub fn make_file(&self, name: impl Arg, mode: Mode) -> io::Result<OwnedFd> {
        self.make_file_by(Method::best(), name, mode)
    }

    /// [`Dir::make_file`] with the given method.
    ///
    /// # Errors
    /// The errors of [`Dir::make_file`].
    pub fn make_file_by(&self, method: Method, name: impl Arg, mode: Mode) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        one(name, |name| match method {
            Method::Kernel => open_by_kernel(&self.0, name, flags, mode),
            Method::ByComponent => fs::openat(&self.0, name, flags, mode),
        })
    }

    /// Opens a regular file for writing that this side created before. Never blocks, never creates a file.
    ///
    /// # Errors
    /// `ELOOP` if a link replaced it, `EINVAL` if something else did, or another error of the operating system.
    pub fn reopen_file(&self, name: impl Arg) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = one(name, |name| fs::openat(&self.0, name, flags, Mode::empty()))?;
        if is_file(&fs::fstat(&file)?) { Ok(file) } else { Err(Errno::INVAL.into()) }
    }

    /// Opens a regular file for reading. Never blocks.
    ///
    /// # Errors
    /// As [`Dir::reopen_file`].
    pub fn open_file(&self, name: impl Arg) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = one(name, |name| fs::openat(&self.0, name, flags, Mode::empty()))?;
        if is_file(&fs::fstat(&file)?) { Ok(file) } else { Err(Errno::INVAL.into()) }
    }

    /// Makes a regular file accessible that this side created and can't open.
    ///
    /// # Errors
    /// `EINVAL` if it is something else, or another error of the operating system.
    pub fn unlock_file(&self, name: impl Arg) -> io::Result<()> {
        one(name, |name| set_mode(&self.0, name, PRIVATE_FILE, is_file, Errno::INVAL))
    }

    /// Syncs a regular file to the disk.
    ///
    /// # Errors
    /// An error of the operating system. Then the data may be lost, even if a second call succeeds.
    pub fn sync_file(&self, name: impl Arg) -> io::Result<()> {
        Ok(fs::fsync(self.open_file(name)?)?)
    }

    /// Makes a directory accessible that this side created and could not open.
    ///
    /// # Errors
    /// `ENOTDIR` if it is something else, or another error of the operating system.
    pub fn unlock_dir(&self, name: impl Arg) -> io::Result<()> {
        one(name, |name| set_mode(&self.0, name, PRIVATE_DIR, is_dir, Errno::NOTDIR))
    }

    /// Creates a symbolic link.
    ///
    /// # Errors
    /// `EEXIST`, or another error of the operating system.
    pub fn make_link(&self, name: impl Arg, target: &str) -> io::Result<()> {
        one(name, |name| fs::symlinkat(target, &self.0, name))
    }

    /// Sets the times of an entry; links are not followed.
    ///
    /// # Errors
    /// An error of the operating system.
    pub fn set_times(&self, name: impl Arg, times: &Timestamps) -> io::Result<()> {
        one(name, |name| fs::utimensat(&self.0, name, times, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// The metadata of an entry of this directory; links are not followed. `None`: there is no such entry.
    ///
    /// # Errors
    /// An error of the operating system.
    pub fn stat(&self, name: impl Arg) -> io::Result<Option<Stat>> {
        one(name, |name| stat(&self.0, name))
    }

    /// Moves an entry to a directory of the same file system, and never replaces an existing entry.
    ///
    /// # Errors
    /// `EEXIST`, or another error of the operating system.
    pub fn move_to(&self, name: impl Arg, to: &Self, new: impl Arg) -> io::Result<()> {
        two(name, new, |name, new| match fs::renameat_with(&self.0, name, &to.0, new, RenameFlags::NOREPLACE) {
            // The system or the file system has no such flag, so an entry could appear between the check and the
            // rename. The rename of a directory replaces an empty directory at most; a file is hard-linked instead,
            // which never replaces.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                if stat(&to.0, new)?.is_some() {
                    return Err(Errno::EXIST);
                }
                if stat(&self.0, name)?.is_some_and(|stat| is_file(&stat)) {
                    match fs::linkat(&self.0, name, &to.0, new, AtFlags::empty()) {
                        Ok(()) => return fs::unlinkat(&self.0, name, AtFlags::empty()),
                        // No hard links either (exFAT): the name is taken by an empty file of ours, which is replaced.
                        Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP | Errno::MLINK) => drop(make_empty(&to.0, new)?),
                        Err(error) => return Err(error),
                    }
                }
                fs::renameat(&self.0, name, &to.0, new)
            }
            other => other,
        })
    }

    /// Moves a file or a link over an existing file or link and replaces it atomically. The target of a replaced link
    /// does not change.
    ///
    /// # Errors
    /// `EISDIR`, or another error of the operating system.
    pub fn replace(&self, name: impl Arg, to: &Self, new: impl Arg) -> io::Result<()> {
        two(name, new, |name, new| fs::renameat(&self.0, name, &to.0, new))
    }

    /// Removes a file or a link; returns whether it existed.
    ///
    /// # Errors
    /// `EISDIR`, or another error of the operating system.
    pub fn remove_file(&self, name: impl Arg) -> io::Result<bool> {
        absent(one(name, |name| fs::unlinkat(&self.0, name, AtFlags::empty())))
    }

    /// Removes an empty directory; returns whether it existed.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `ENOTDIR`, or another error of the operating system.
    pub fn remove_dir(&self, name: impl Arg) -> io::Result<bool> {
        absent(one(name, |name| fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)))
    }

    /// Calls `each` with each name in this directory except `.` and `..`, in no order; `each` may remove that entry.
    ///
    /// # Errors
    /// An error of the operating system or of `each`.
    pub fn each_name(&self, mut each: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
        let mut entries = fs::Dir::read_from(&self.0)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            if ![c".", c".."].contains(&entry.file_name()) {
                each(entry.file_name())?;
            }
        }
        Ok(())
    }

    /// At most `most` of the names in this directory, without `.` and `..`, in no order.
    ///
    /// # Errors
    /// An error of the operating system.
    pub fn names(&self, most: usize) -> io::Result<Vec<std::ffi::CString>> {
        let mut names = Vec::new();
        let mut entries = fs::Dir::read_from(&self.0)?;
        while names.len() < most {
            let Some(entry) = entries.read() else { break };
            let entry = entry?;
            if ![c".", c".."].contains(&entry.file_name()) {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether an entry is a symbolic link.
#[must_use]
pub fn is_link(stat: &Stat) -> bool {
    fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Symlink
}

/// Whether an entry is a directory.
#[must_use]
pub fn is_dir(stat: &Stat) -> bool {
    fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory
}

/// Whether an entry is a regular file.
#[must_use]
pub fn is_file(stat: &Stat) -> bool {
    fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::RegularFile
}

/// Runs `call` with a name of one component. Other names are a bug of the caller, and are refused so that they can't
/// lead out of the directory.
fn one<T>(name: impl Arg, call: impl FnOnce(&CStr) -> Result<T, Errno>) -> io::Result<T> {
    Ok(name.into_with_c_str(|name| if is_component(name) { call(name) } else { Err(Errno::INVAL) })?)
}

fn two<T>(name: impl Arg, new: impl Arg, call: impl FnOnce(&CStr, &CStr) -> Result<T, Errno>) -> io::Result<T> {
    one(name, |name| new.into_with_c_str(|new| if is_component(new) { call(name, new) } else { Err(Errno::INVAL) }))
}

fn is_component(name: &CStr) -> bool {
    let name = name.to_bytes();
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/')
}

fn stat(dir: &OwnedFd, name: &CStr) -> Result<Option<Stat>, Errno> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn make_empty(dir: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, PRIVATE_FILE)
}

fn absent(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Changes the mode of exactly the entry that was checked, never of the target of a link: through a handle, which needs
/// no read permission.
#[cfg(target_os = "linux")]
fn set_mode(dir: &OwnedFd, name: &CStr, mode: Mode, is_right: fn(&Stat) -> bool, else_: Errno) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let found = match fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Err(else_),
        found => found?,
    };
    if !is_right(&fs::fstat(&found)?) {
        return Err(else_);
    }
    // `fchmod` does not work on an O_PATH handle. The handle's entry in /proc leads to the file itself, and no other
    // process can replace it.
    fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), mode)
}

/// Changes the mode of the entry that was checked, never of the target of a link.
#[cfg(not(target_os = "linux"))]
fn set_mode(dir: &OwnedFd, name: &CStr, mode: Mode, is_right: fn(&Stat) -> bool, else_: Errno) -> Result<(), Errno> {
    match stat(dir, name)? {
        Some(found) if is_right(&found) => fs::chmodat(dir, name, mode, AtFlags::SYMLINK_NOFOLLOW),
        _ => Err(else_),
    }
}

#[cfg(target_os = "linux")]
fn open_by_kernel(dir: impl AsFd, path: impl Arg + Copy, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        // EAGAIN: an entry was renamed at the same time, so that the kernel could not verify the path (openat2(2)); it
        // is resolved again.
        match fs::openat2(&dir, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn open_by_kernel(_: impl AsFd, _: impl Arg + Copy, _: OFlags, _: Mode) -> Result<OwnedFd, Errno> {
    Err(Errno::NOSYS)
}

#[cfg(test)]
mod tests;
