//! The staging directory: where a tree lies until it is whole, beside its final place, and where it is found again.
//!
//! Decides its name, who uses it, and how it goes. It is `.tallow-` and 16 hex digits of the manifest's digest, mode
//! 0700, locked (flock) while it is in use; when another receiver has that one, a number follows. The tree lies in
//! `tree` inside it, beside the `journal` of what is stored ([`tallow_proto::transfer::journal`]). One that nobody
//! holds is taken over: with what is stored when its journal is of the same manifest, emptied otherwise.
//!
//! ```text
//! find ──► found ──┐
//!   └──► make ─────┴──► in use ──► removed, or let go
//! ```
//! Bounds: [`MOST_NAMES`] tries, [`BATCH`] names at a time, three open directories whatever the depth.

use std::ffi::CStr;
use std::io;
use std::sync::{Arc, Mutex};

use data_encoding::HEXLOWER;
use rustix::fs::{FlockOperation, Mode, fchmod, fdatasync, flock, fstat, fsync, ftruncate};
use rustix::io::Errno;
use tallow_proto::transfer::journal::{Header, Reader, Stored, Writer};

use crate::back::Move;
use crate::beneath::{Dir, PRIVATE_DIR, PRIVATE_FILE, is_dir};
use crate::sink::{lock, write_all};

/// The most receivers of one manifest in one directory.
const MOST_NAMES: u32 = 64;
/// Names of a directory that are held at once.
const BATCH: usize = 4096;
/// What a new directory gets before the umask.
pub const ANY_MODE: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);
/// What the names of staging directories begin with.
pub const PREFIX: &str = tallow_proto::transfer::path::PARTIAL_PREFIX;
const TREE: &str = "tree";
const TRASH: &str = "trash";
const MOVES: &str = "moves";
/// The most bytes that are read of what was being moved.
const MOST_MOVES: u64 = 256 << 20;
/// The name of the journal.
pub const JOURNAL: &str = "journal";
/// Bytes of a journal that are read at once.
const PIECE: usize = 64 << 10;

/// A staging directory in use.
#[derive(Debug)]
pub struct Staging {
    name: String,
    /// Holds the lock.
    dir: Dir,
    /// Whether there is one: where the file system has none, nobody may take it over later.
    is_locked: bool,
    /// Where the tree is laid out.
    pub tree: Arc<Dir>,
    /// The permission bits that the system gives to new things here: all but the umask's, or what a default ACL says.
    pub allowed: Mode,
    /// Whether something is stored from before.
    pub is_resumed: bool,
    journal: Mutex<Journal>,
}

#[derive(Debug)]
struct Journal {
    /// How long its header is.
    header: u64,
    writer: Writer,
    /// Where the part ends that was brought to the disk after what it speaks of.
    synced: u64,
    /// Whether anything is stored.
    is_empty: bool,
}

/// One that was left, and what its journal says.
#[derive(Debug)]
pub struct Left {
    name: String,
    dir: Dir,
    /// Where the tree is.
    pub tree: Dir,
    said: Said,
}

impl Staging {
    /// Looks for one of this transfer that nobody holds.
    pub fn find(target: &Dir, header: &Header) -> io::Result<Option<Left>> {
        for name in names(header) {
            if target.stat(name.as_str())?.is_none() {
                continue;
            }
            let Some((dir, true)) = claim(target, &name, false)? else { continue };
            match read_journal(&dir) {
                Ok(Some(said)) if said.header == *header && !said.stored.is_empty() => {
                    let Ok(tree) = dir.child(TREE) else { continue };
                    return Ok(Some(Left { name, dir, tree, said }));
                }
                // It is emptied and used again.
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, name, "a journal could not be read"),
            }
        }
        Ok(None)
    }

    /// Makes one in `target`.
    pub fn make(target: &Dir, header: &Header) -> io::Result<Self> {
        for name in names(header) {
            let Some((dir, is_locked)) = claim(target, &name, true)? else { continue };
            let made = clear(&dir).and_then(|()| Self::fill(&dir, header));
            let (tree, allowed, writer) = match made {
                Ok(made) => made,
                Err(error) => {
                    // What was made has no use.
                    let _ = clear(&dir).and_then(|()| target.remove_dir(name.as_str()));
                    return Err(error);
                }
            };
            let journal = Mutex::new(Journal { header: writer.end(), synced: writer.end(), writer, is_empty: true });
            return Ok(Self { name, dir, is_locked, tree: Arc::new(tree), allowed, is_resumed: false, journal });
        }
        Err(Errno::EXIST.into())
    }

    fn fill(dir: &Dir, header: &Header) -> io::Result<(Dir, Mode, Writer)> {
        let header = header.encode();
        write_all(dir.make_file(JOURNAL, PRIVATE_FILE)?, 0, &header)?;
        dir.make_dir(TREE, ANY_MODE)?;
        // What the mode became tells the umask, which no call can ask for without changing it.
        let allowed = dir.stat(TREE)?.map_or(PRIVATE_DIR, |stat| Mode::from_raw_mode(stat.st_mode) & ANY_MODE);
        Ok((dir.child(TREE)?, allowed, Writer::new(&header, header.len() as u64)))
    }

    /// Goes on with one that was left.
    pub fn resume(left: Left) -> io::Result<(Self, Vec<Stored>)> {
        let Left { name, dir, tree, said: Said { len: header, writer, stored, .. } } = left;
        // What was torn is cut off before anything is appended.
        ftruncate(dir.reopen_file(JOURNAL)?, writer.end())?;
        // Its mode may be from another umask.
        let probe = "probe";
        dir.remove_dir(probe)?;
        dir.make_dir(probe, ANY_MODE)?;
        let allowed = dir.stat(probe)?.map_or(PRIVATE_DIR, |stat| Mode::from_raw_mode(stat.st_mode) & ANY_MODE);
        dir.remove_dir(probe)?;
        // Whether what is stored from before came to the disk is not known.
        let journal = Mutex::new(Journal { header, writer, synced: header, is_empty: false });
        let tree = Arc::new(tree);
        Ok((Self { name, dir, is_locked: true, tree, allowed, is_resumed: true, journal }, stored))
    }

    /// Appends to the journal.
    pub fn commit(&self, stored: &[Stored]) -> io::Result<()> {
        let mut journal = lock(&self.journal);
        let file = self.dir.reopen_file(JOURNAL)?;
        let bytes = journal.writer.encode(stored);
        if let Err(error) = write_all(&file, journal.writer.end(), &bytes) {
            // If that fails too, it is a torn tail, which counts as never written.
            let _ = ftruncate(&file, journal.writer.end());
            return Err(error);
        }
        journal.writer.appended(bytes.len() as u64);
        journal.is_empty = false;
        Ok(())
    }

    /// Notes what is about to be moved to where it belongs; with `sync`, on the disk.
    pub fn intend(&self, moves: &[Move], sync: bool) -> io::Result<()> {
        let file = match self.dir.reopen_file(MOVES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.dir.make_file(MOVES, PRIVATE_FILE)?,
            other => other?,
        };
        let end = u64::try_from(fstat(&file)?.st_size).unwrap_or_default();
        let lines: String = moves.iter().map(Move::line).collect();
        write_all(&file, end, lines.as_bytes())?;
        if sync {
            fdatasync(&file)?;
        }
        Ok(())
    }

    /// Where the journal ends now.
    pub fn end(&self) -> u64 {
        lock(&self.journal).writer.end()
    }

    /// Brings the journal to the disk, of which all up to `end` speaks of what is there.
    pub fn sync(&self, target: &Dir, end: u64) -> io::Result<()> {
        let is_first = {
            let journal = lock(&self.journal);
            journal.synced < end && !self.is_resumed
        };
        fdatasync(self.dir.reopen_file(JOURNAL)?)?;
        if is_first {
            for dir in [&*self.tree, &self.dir, target] {
                fsync(dir)?;
            }
        }
        lock(&self.journal).synced = end;
        Ok(())
    }

    /// Something could not be brought to the disk. The system tells that once, and may show the bytes from its cache as
    /// long as it likes: what was not synced before is stored no more.
    pub fn distrust(&self) {
        let mut journal = lock(&self.journal);
        let synced = journal.synced;
        let cut = self.dir.reopen_file(JOURNAL).and_then(|file| {
            ftruncate(&file, synced)?;
            Ok(fdatasync(&file)?)
        });
        if cut.is_err() {
            let _ = self.dir.remove_file(JOURNAL);
        }
        // Nothing is appended after this: the transfer is over.
        journal.is_empty = cut.is_err() || synced == journal.header;
    }

    /// A path in it, below the destination.
    pub fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// Whether somebody could go on from here.
    pub fn is_worth_keeping(&self) -> bool {
        self.is_locked && !lock(&self.journal).is_empty
    }

    /// Lets go of it.
    pub fn let_go(&self) {
        // The lock goes with the handle at the latest.
        let _ = flock(&self.dir, FlockOperation::Unlock);
    }

    /// Removes it with all that is in it; the journal first, so that what is half removed is not taken for more.
    pub fn remove(&self, target: &Dir) -> io::Result<()> {
        self.dir.remove_file(JOURNAL)?;
        clear(&self.dir)?;
        target.remove_dir(self.name.as_str()).map(|_| ())
    }
}

impl Left {
    /// What was being moved to where it belongs.
    pub fn moves(&self) -> io::Result<Vec<u8>> {
        let file = match self.dir.open_file(MOVES) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let size = u64::try_from(fstat(&file)?.st_size).unwrap_or_default().min(MOST_MOVES);
        let mut bytes = vec![0; size as usize];
        let read = read_at(&file, 0, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Nothing of it is where it belongs any more.
    pub fn forget_moves(&self) -> io::Result<()> {
        self.dir.remove_file(MOVES).map(|_| ())
    }

    /// Moves a directory of the tree to what is thrown away.
    pub fn discard(&self, from: &Dir, name: &CStr) -> io::Result<()> {
        match self.dir.make_dir(TRASH, PRIVATE_DIR) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let trash = self.dir.child(TRASH)?;
        // Without write permission it can't be moved.
        from.unlock_dir(name)?;
        (0_u32..)
            .map(|number| from.move_to(name, &trash, number.to_string()))
            .find(|moved| !moved.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists))
            .unwrap_or(Ok(()))
    }

    /// Throws it away.
    pub fn tidy(&self) -> io::Result<()> {
        match self.dir.child(TRASH) {
            Ok(trash) => clear(&trash)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        self.dir.remove_dir(TRASH).map(|_| ())
    }
}

fn names(header: &Header) -> impl Iterator<Item = String> {
    let id: String = HEXLOWER.encode(&header.digest).chars().take(16).collect();
    (1..=MOST_NAMES).map(
        move |number| {
            if number == 1 { format!("{PREFIX}{id}") } else { format!("{PREFIX}{id}-{number}") }
        },
    )
}

/// What a journal says.
#[derive(Debug)]
pub struct Said {
    /// What it is of.
    pub header: Header,
    /// How long its header is.
    len: u64,
    /// Where it goes on.
    writer: Writer,
    /// The chunks that are stored.
    pub stored: Vec<Stored>,
}

/// The journal in a staging directory, if it can be read.
pub fn read_journal(dir: &Dir) -> io::Result<Option<Said>> {
    let file = match dir.open_file(JOURNAL) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut buffer = vec![0; PIECE];
    let first = read_at(&file, 0, &mut buffer)?;
    let (header, len) = match Header::decode(&buffer[..first]) {
        Ok(decoded) => decoded,
        Err(damage) => {
            tracing::info!(%damage, "a partial transfer can't be used");
            return Ok(None);
        }
    };
    let encoded = buffer[..len].to_vec();
    let mut reader = Reader::new(&header, &encoded);
    let (mut at, mut piece) = (first as u64, len..first);
    while reader.push(&buffer[piece.clone()]) {
        let read = read_at(&file, at, &mut buffer)?;
        if read == 0 {
            break;
        }
        at += read as u64;
        piece = 0..read;
    }
    let (stored, end) = reader.finish();
    Ok(Some(Said { header, len: len as u64, writer: Writer::new(&encoded, end), stored }))
}

/// As many bytes as there are, at most what fits.
pub fn read_at(file: impl std::os::fd::AsFd, mut at: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match rustix::io::pread(&file, &mut into[filled..], at) {
            Ok(0) => break,
            Ok(read) => {
                filled += read;
                at += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

/// A locked directory of this name, and whether the lock is one; `None`: the name is taken. With `make`, one that is
/// not there is made.
fn claim(target: &Dir, name: &str, make: bool) -> io::Result<Option<(Dir, bool)>> {
    let made = make
        && match target.make_dir(name, PRIVATE_DIR) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
    let Ok(dir) = target.child(name) else { return Ok(None) };
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        // A file system without locks: what is new is ours all the same.
        Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) if made => return Ok(Some((dir, false))),
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
    }
    Ok(Some((dir, true)))
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
