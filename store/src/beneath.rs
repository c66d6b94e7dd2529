//! Directories by their handles: whatever is opened or made through a [`Dir`] lies in it, whoever renames or swaps what
//! meanwhile.
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

/// Mode of a directory that nobody else may look into.
pub const PRIVATE_DIR: Mode = Mode::RWXU;
/// Mode of a file that nobody else may read.
pub const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How a path of several components is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By `openat2` (Linux 5.6).
    Kernel,
    /// Component by component, none of them a link.
    ByComponent,
}

impl Method {
    /// The kernel's, where it has one and the sandbox lets it through.
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
    /// The directory at a path of this machine, links followed: for what the person named.
    ///
    /// # Errors
    /// The system's.
    pub fn open_trusted(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::open(path, DIR_FLAGS, Mode::empty())?))
    }

    /// The same directory again.
    ///
    /// # Errors
    /// The system's.
    pub fn again(&self) -> io::Result<Self> {
        Ok(Self(rustix::io::fcntl_dupfd_cloexec(&self.0, 0)?))
    }

    /// The directory at `path`, components joined by `/`, below this one.
    ///
    /// # Errors
    /// `ELOOP` when a link is in the way, `ENOTDIR` when something else is, or the system's.
    pub fn descend(&self, path: &str) -> io::Result<Self> {
        self.descend_by(Method::best(), path)
    }

    /// [`Dir::descend`] by a certain method.
    ///
    /// # Errors
    /// As there.
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

    /// The directory of this name in this one.
    ///
    /// # Errors
    /// As [`Dir::descend`].
    pub fn child(&self, name: impl Arg) -> io::Result<Self> {
        one(name, |name| match fs::openat(&self.0, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Self(fd)),
            // With O_DIRECTORY a link is reported as what it is not.
            Err(Errno::NOTDIR) if stat(&self.0, name)?.is_some_and(|stat| is_link(&stat)) => Err(Errno::LOOP),
            Err(error) => Err(error),
        })
    }

    /// Makes a directory; the process's umask applies to the mode.
    ///
    /// # Errors
    /// `EEXIST`, or the system's.
    pub fn make_dir(&self, name: impl Arg, mode: Mode) -> io::Result<()> {
        one(name, |name| fs::mkdirat(&self.0, name, mode))
    }

    /// Makes a file, never one that is there, and opens it for writing.
    ///
    /// # Errors
    /// `EEXIST` whatever is there, a link included, or the system's.
    pub fn make_file(&self, name: impl Arg, mode: Mode) -> io::Result<OwnedFd> {
        self.make_file_by(Method::best(), name, mode)
    }

    /// [`Dir::make_file`] by a certain method.
    ///
    /// # Errors
    /// As there.
    pub fn make_file_by(&self, method: Method, name: impl Arg, mode: Mode) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        one(name, |name| match method {
            Method::Kernel => open_by_kernel(&self.0, name, flags, mode),
            Method::ByComponent => fs::openat(&self.0, name, flags, mode),
        })
    }

    /// Opens a regular file that this side made before. Never blocks, never makes one.
    ///
    /// # Errors
    /// `ELOOP` when a link took its place, `EINVAL` when something else did, or the system's.
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

    /// Changes the mode of a regular file that this side made and can't open.
    ///
    /// # Errors
    /// `EINVAL` when it is something else, or the system's.
    pub fn unlock_file(&self, name: impl Arg) -> io::Result<()> {
        one(name, |name| set_mode(&self.0, name, PRIVATE_FILE, is_file, Errno::INVAL))
    }

    /// Brings a regular file to the disk.
    ///
    /// # Errors
    /// The system's; the data may be lost then, whatever a second try says.
    pub fn sync_file(&self, name: impl Arg) -> io::Result<()> {
        Ok(fs::fsync(self.open_file(name)?)?)
    }

    /// Changes the mode of a directory that this side made and could not open.
    ///
    /// # Errors
    /// `ENOTDIR` when it is something else, or the system's.
    pub fn unlock_dir(&self, name: impl Arg) -> io::Result<()> {
        one(name, |name| set_mode(&self.0, name, PRIVATE_DIR, is_dir, Errno::NOTDIR))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// `EEXIST`, or the system's.
    pub fn make_link(&self, name: impl Arg, target: &str) -> io::Result<()> {
        one(name, |name| fs::symlinkat(target, &self.0, name))
    }

    /// Sets the times of what stands under a name, of a link itself.
    ///
    /// # Errors
    /// The system's.
    pub fn set_times(&self, name: impl Arg, times: &Timestamps) -> io::Result<()> {
        one(name, |name| fs::utimensat(&self.0, name, times, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// What stands under a name in this directory, links not followed; `None`: nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn stat(&self, name: impl Arg) -> io::Result<Option<Stat>> {
        one(name, |name| stat(&self.0, name))
    }

    /// Moves something to a directory of the same file system, never onto something.
    ///
    /// # Errors
    /// `EEXIST`, or the system's.
    pub fn move_to(&self, name: impl Arg, to: &Self, new: impl Arg) -> io::Result<()> {
        two(name, new, |name, new| match fs::renameat_with(&self.0, name, &to.0, new, RenameFlags::NOREPLACE) {
            // A file system or a system without it: between these two calls something could appear. A directory would
            // only replace an empty one; a file is linked first, which never replaces.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                if stat(&to.0, new)?.is_some() {
                    return Err(Errno::EXIST);
                }
                if stat(&self.0, name)?.is_some_and(|stat| is_file(&stat)) {
                    fs::linkat(&self.0, name, &to.0, new, AtFlags::empty())?;
                    return fs::unlinkat(&self.0, name, AtFlags::empty());
                }
                fs::renameat(&self.0, name, &to.0, new)
            }
            other => other,
        })
    }

    /// Moves a file or a link to where a file or a link is, and replaces that in one step; what it was linked to stays
    /// as it is.
    ///
    /// # Errors
    /// `EISDIR`, or the system's.
    pub fn replace(&self, name: impl Arg, to: &Self, new: impl Arg) -> io::Result<()> {
        two(name, new, |name, new| fs::renameat(&self.0, name, &to.0, new))
    }

    /// Removes a file or a link; true: there was one.
    ///
    /// # Errors
    /// `EISDIR`, or the system's.
    pub fn remove_file(&self, name: impl Arg) -> io::Result<bool> {
        absent(one(name, |name| fs::unlinkat(&self.0, name, AtFlags::empty())))
    }

    /// Removes an empty directory; true: there was one.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `ENOTDIR`, or the system's.
    pub fn remove_dir(&self, name: impl Arg) -> io::Result<bool> {
        absent(one(name, |name| fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)))
    }

    /// Calls with each name in this directory, without `.` and `..`, in no order; `each` may remove what it is called
    /// with.
    ///
    /// # Errors
    /// The system's, or of `each`.
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

    /// Some of the names in this directory, at most `most`, without `.` and `..`, in no order.
    ///
    /// # Errors
    /// The system's.
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

/// Whether it is a symbolic link.
#[must_use]
pub fn is_link(stat: &Stat) -> bool {
    fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Symlink
}

/// Whether it is a directory.
#[must_use]
pub fn is_dir(stat: &Stat) -> bool {
    fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory
}

/// Whether it is a regular file.
#[must_use]
pub fn is_file(stat: &Stat) -> bool {
    fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::RegularFile
}

/// Calls with a name that is one component: what is not would be a bug of the caller, and must not become a way out.
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

fn absent(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Changes the mode of exactly what was looked at, never of what a link leads to: by its handle, which needs no
/// permission to read.
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
    // A handle that can only name the file takes no `fchmod`; its entry here is the file itself, and no link that
    // anybody set.
    fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), mode)
}

/// Changes the mode of what was looked at, never of what a link leads to.
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
        // EAGAIN: something was renamed meanwhile and the kernel could not be sure (openat2(2)); the next try is a new
        // resolution.
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
#[path = "beneath_tests.rs"]
mod tests;
