//! What the file system of a destination can hold: names, symbolic links, permissions, times.
//!
//! Decides it by trying, in a directory inside the staging directory, and not by the name of the system or of the file
//! system: a network share, a USB stick and a mount option differ in what they hold. A name is held if the directory
//! then lists exactly that name; so a name that is cut, or that becomes a stream of another file, is not. No state, no
//! timers. Bound: two dozen names.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;

use rustix::fs::{Mode, Timespec, Timestamps, fchmod, fstat, futimens};
use rustix::io::Errno;
use tallow_proto::transfer::Mtime;
use tallow_proto::transfer::component::{MAX_COMPONENT, NameRules, SPECIAL};

use crate::contained_dir::{Dir, PRIVATE_DIR, PRIVATE_FILE};
use crate::staging::clear;

/// The name of the directory in which things are tried.
const TRIAL: &str = "trial";
/// Shorter names than this are not asked for, whatever the file system says.
const LEAST: u64 = 64;
/// A mode that no file system gives to a new file by itself.
const ODD_MODE: Mode = Mode::from_raw_mode(0o751);
/// A time at which no file system counts only in two seconds, or in parts of one.
const ODD_TIME: Mtime = Mtime { seconds: 1_000_000_000, nanos: 0 };

/// What a file system can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Which names, and which of them are one.
    pub names: NameRules,
    /// Symbolic links.
    pub links: bool,
    /// Permission bits.
    pub modes: bool,
    /// Modification times.
    pub times: Times,
}

/// Whether a file system holds modification times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// It does.
    Kept,
    /// It does if the time of the last access is set with it (FUSE 2).
    KeptWithAccess,
    /// It does not.
    Lost,
}

impl Times {
    /// What sets this modification time. The time of the last access is kept where that is possible.
    pub fn stamps(self, mtime: Mtime) -> Timestamps {
        let mtime = Mtime::clamped(mtime.seconds, mtime.nanos.into());
        let last_modification = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
        let last_access = match self {
            Self::Kept | Self::Lost => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            Self::KeptWithAccess => last_modification,
        };
        Timestamps { last_access, last_modification }
    }
}

impl Abilities {
    /// Tries what the file system of this directory can hold. The directory is one of ours, and is afterwards as
    /// before.
    ///
    /// # Errors
    /// An error of the operating system that says nothing about abilities, such as a full disk.
    pub fn probe(dir: &Dir) -> io::Result<Self> {
        remove(dir)?;
        dir.make_dir(TRIAL, PRIVATE_DIR)?;
        let probed = dir.child(TRIAL).and_then(|trial| Self::probe_in(&trial));
        remove(dir)?;
        probed
    }

    fn probe_in(trial: &Dir) -> io::Result<Self> {
        let file = trial.make_file("plain", PRIVATE_FILE)?;
        let modes = held(fchmod(&file, ODD_MODE).map_err(io::Error::from))?.is_some()
            && Mode::from_raw_mode(fstat(&file)?.st_mode) & Mode::from_raw_mode(0o777) == ODD_MODE;
        let mut times = Times::Lost;
        for way in [Times::Kept, Times::KeptWithAccess] {
            let set = held(futimens(&file, &way.stamps(ODD_TIME)).map_err(io::Error::from))?;
            if set.is_some() && has_odd_time(trial)? {
                times = way;
                break;
            }
        }
        drop(file);
        let links = held(trial.make_link("link", "plain"))?.is_some();
        Ok(Self { names: probe_names(trial)?, links, modes, times })
    }
}

fn probe_names(trial: &Dir) -> io::Result<NameRules> {
    let special: Vec<String> = SPECIAL.iter().map(|c| format!("a{c}b")).collect();
    let others = ["dot.", "space ", "aux", "com1.x", "\u{e9}", "Case", "i\u{200d}j"].map(str::to_owned);
    for name in special.iter().chain(&others) {
        // A name that can't be made is not listed below.
        unless(trial.make_file(name.as_str(), PRIVATE_FILE).map(drop), &NO_NAME)?;
    }
    let mut listed = HashSet::new();
    trial.each_name(|name| {
        listed.insert(CString::from(name));
        Ok(())
    })?;
    let holds = |name: &str| CString::new(name).is_ok_and(|name| listed.contains(&name));
    let finds = |name: &str| trial.stat(name).is_ok_and(|found| found.is_some());
    let mut rules = NameRules::EXACT;
    for (refused, name) in rules.refused.iter_mut().zip(&special) {
        *refused = !holds(name);
    }
    rules.no_trailing_dot = !holds("dot.");
    rules.no_trailing_space = !holds("space ");
    rules.no_devices = !holds("aux") || !holds("com1.x");
    rules.folds_case = finds("cASE");
    rules.normalizes = finds("e\u{301}") || (finds("\u{e9}") && !holds("\u{e9}"));
    rules.ignores_invisible = finds("ij");
    let longest = rustix::fs::fstatvfs(trial)?.f_namemax;
    rules.longest = usize::try_from(longest.max(LEAST)).unwrap_or(MAX_COMPONENT).min(MAX_COMPONENT);
    Ok(rules)
}

/// What a call gave; `None`: the file system can't do that.
fn held<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    unless(result, &INABILITY)
}

/// Ignores an error that says that a file system has no such operation.
pub fn if_able(result: io::Result<()>) -> io::Result<()> {
    held(result).map(|_| ())
}

/// Errors by which a file system says that it has no such operation.
const INABILITY: [Errno; 6] = [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::NOTTY, Errno::OPNOTSUPP, Errno::PERM];
/// Errors by which one says that it does not take a name; FUSE and network file systems have more of them.
const NO_NAME: [Errno; 8] = [
    Errno::ACCESS,
    Errno::EXIST,
    Errno::ILSEQ,
    Errno::INVAL,
    Errno::NAMETOOLONG,
    Errno::NOENT,
    Errno::PERM,
    Errno::PROTO,
];

fn unless<T>(result: io::Result<T>, errors: &[Errno]) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error().is_some_and(|raw| errors.contains(&Errno::from_raw_os_error(raw))) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn has_odd_time(trial: &Dir) -> io::Result<bool> {
    // The field's type differs between systems.
    #[allow(clippy::unnecessary_cast)]
    Ok(trial.stat("plain")?.is_some_and(|stat| stat.st_mtime as i64 == ODD_TIME.seconds))
}

fn remove(dir: &Dir) -> io::Result<()> {
    match dir.child(TRIAL) {
        Ok(trial) => clear(&trial)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    dir.remove_dir(TRIAL).map(|_| ())
}
