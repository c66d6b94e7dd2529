//! The staging directory: holds a tree until it is complete, beside its final place, and is found again to resume a
//! transfer.
//!
//! Decides its name, its owner and its removal. The name is `.tallow-` and 16 hex digits of the manifest's digest, with
//! a number if another receiver uses that one. Its mode is 0700, and it is locked (flock) while it is in use. The tree
//! is in `tree` inside it, beside the `journal` of the stored chunks ([`tallow_proto::transfer::journal`]). A directory
//! without a lock is taken over: with its contents if its journal is of the same manifest, emptied otherwise.
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

use crate::abilities::{Abilities, if_able};
use crate::contained_dir::{Dir, PRIVATE_DIR, PRIVATE_FILE, is_dir};
use crate::rollback::Move;
use crate::sink::{lock, write_all};

/// The maximum number of receivers of one manifest in one directory.
const MOST_NAMES: u32 = 64;
/// The number of names of a directory that are held at once.
const BATCH: usize = 4096;
/// The mode of a new directory before the umask applies.
pub const ANY_MODE: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);
/// The prefix of the names of staging directories.
pub const PREFIX: &str = tallow_proto::transfer::path::PARTIAL_PREFIX;
const TREE: &str = "tree";
const TRASH: &str = "trash";
const MOVES: &str = "moves";
/// The maximum number of bytes that are read of the recorded moves.
const MOST_MOVES: u64 = 256 << 20;
/// The name of the journal.
pub const JOURNAL: &str = "journal";
/// The number of bytes of a journal that are read at once.
const PIECE: usize = 64 << 10;

/// A staging directory in use.
#[derive(Debug)]
pub struct Staging {
    name: String,
    /// The directory, whose handle holds the lock.
    dir: Dir,
    /// Whether there is a lock. On a file system without locks, the directory can't be taken over later.
    is_locked: bool,
    /// The staged tree.
    pub tree: Arc<Dir>,
    /// The permission bits that new entries can have here, by the umask or by a default ACL.
    pub allowed: Mode,
    /// Whether data of an earlier attempt is used.
    pub is_resumed: bool,
    journal: Mutex<Journal>,
}

#[derive(Debug)]
struct Journal {
    /// The length of its header.
    header: u64,
    writer: Writer,
    /// The end of the part of the journal that was synced, after the data it describes was synced.
    synced: u64,
    /// Whether the journal records no chunk.
    is_empty: bool,
}

/// The staging directory of an earlier attempt, and the contents of its journal.
#[derive(Debug)]
pub struct Left {
    name: String,
    dir: Dir,
    /// The staged tree.
    pub tree: Dir,
    journal: JournalContents,
}

impl Staging {
    /// Looks for a staging directory of this transfer that is not in use.
    pub fn find(target: &Dir, header: &Header) -> io::Result<Option<Left>> {
        for name in names(header) {
            if target.stat(name.as_str())?.is_none() {
                continue;
            }
            let Some((dir, true)) = claim(target, &name, false)? else { continue };
            match read_journal(&dir) {
                Ok(Some(journal)) if journal.header == *header && !journal.stored.is_empty() => {
                    let Ok(tree) = dir.child(TREE) else { continue };
                    return Ok(Some(Left { name, dir, tree, journal }));
                }
                // `make` empties it and uses it again.
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, name, "a journal could not be read"),
            }
        }
        Ok(None)
    }

    /// Creates a staging directory in `target`; if that fails, nothing of it stays.
    pub fn make(target: &Dir, header: &Header) -> io::Result<Self> {
        for name in names(header) {
            let Some((dir, is_locked)) = claim(target, &name, true)? else { continue };
            let made = clear(&dir).and_then(|()| Self::fill(&dir, header));
            let (tree, allowed, writer) = match made {
                Ok(made) => made,
                Err(error) => {
                    // Removes the unusable directory.
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
        // The resulting mode shows the umask, which no call can read without changing it.
        let allowed = dir.stat(TREE)?.map_or(PRIVATE_DIR, |stat| Mode::from_raw_mode(stat.st_mode) & ANY_MODE);
        Ok((dir.child(TREE)?, allowed, Writer::new(&header, header.len() as u64)))
    }

    /// Resumes the attempt of an earlier staging directory.
    pub fn resume(left: Left) -> io::Result<(Self, Vec<Stored>)> {
        let Left { name, dir, tree, journal: JournalContents { len: header, writer, stored, .. } } = left;
        // Cuts off a torn record before anything is appended.
        ftruncate(dir.reopen_file(JOURNAL)?, writer.end())?;
        // The tree may have been created with another umask.
        let probe = "probe";
        dir.remove_dir(probe)?;
        dir.make_dir(probe, ANY_MODE)?;
        let allowed = dir.stat(probe)?.map_or(PRIVATE_DIR, |stat| Mode::from_raw_mode(stat.st_mode) & ANY_MODE);
        dir.remove_dir(probe)?;
        // It is unknown whether the earlier data was synced.
        let journal = Mutex::new(Journal { header, writer, synced: header, is_empty: false });
        let tree = Arc::new(tree);
        Ok((Self { name, dir, is_locked: true, tree, allowed, is_resumed: true, journal }, stored))
    }

    /// What the file system holds.
    pub fn probe(&self) -> io::Result<Abilities> {
        Abilities::probe(&self.dir)
    }

    /// Appends chunks to the journal.
    pub fn commit(&self, stored: &[Stored]) -> io::Result<()> {
        let mut journal = lock(&self.journal);
        let file = self.dir.reopen_file(JOURNAL)?;
        let bytes = journal.writer.encode(stored);
        if let Err(error) = write_all(&file, journal.writer.end(), &bytes) {
            // If this fails, too, the record is a torn tail, which is ignored when it is read.
            let _ = ftruncate(&file, journal.writer.end());
            return Err(error);
        }
        journal.writer.appended(bytes.len() as u64);
        journal.is_empty = false;
        Ok(())
    }

    /// Records moves before they are made; with `sync`, the record is synced to the disk.
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

    /// The current length of the journal.
    pub fn end(&self) -> u64 {
        lock(&self.journal).writer.end()
    }

    /// Syncs the journal to the disk. All data that it describes up to `end` must be synced.
    pub fn sync(&self, target: &Dir, end: u64) -> io::Result<()> {
        let is_first = {
            let journal = lock(&self.journal);
            journal.synced < end && !self.is_resumed
        };
        fdatasync(self.dir.reopen_file(JOURNAL)?)?;
        if is_first {
            for dir in [&*self.tree, &self.dir, target] {
                sync_dir(dir)?;
            }
        }
        lock(&self.journal).synced = end;
        Ok(())
    }

    /// Handles a failed sync. The system reports such an error once and may still return the bytes from its cache. So
    /// all chunks that were not synced before are removed from the journal.
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
        // The transfer is over, so nothing is appended after this.
        journal.is_empty = cut.is_err() || synced == journal.header;
    }

    /// The path of a file in the staging directory, relative to the destination.
    pub fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// Whether a later attempt could resume from this directory.
    pub fn is_worth_keeping(&self) -> bool {
        self.is_locked && !lock(&self.journal).is_empty
    }

    /// Releases the lock.
    pub fn let_go(&self) {
        // Closing the handle releases the lock in any case.
        let _ = flock(&self.dir, FlockOperation::Unlock);
    }

    /// Removes the directory and its contents. The journal is removed first, so that a partly removed directory is not
    /// resumed.
    pub fn remove(&self, target: &Dir) -> io::Result<()> {
        self.dir.remove_file(JOURNAL)?;
        clear(&self.dir)?;
        target.remove_dir(self.name.as_str()).map(|_| ())
    }
}

impl Left {
    /// What the file system holds.
    pub fn probe(&self) -> io::Result<Abilities> {
        Abilities::probe(&self.dir)
    }

    /// The recorded moves.
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

    /// Removes the records, after all moves were taken back.
    pub fn forget_moves(&self) -> io::Result<()> {
        self.dir.remove_file(MOVES).map(|_| ())
    }

    /// Moves a directory of the tree to the trash.
    pub fn discard(&self, from: &Dir, name: &CStr) -> io::Result<()> {
        match self.dir.make_dir(TRASH, PRIVATE_DIR) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let trash = self.dir.child(TRASH)?;
        // A directory without write permission can't be moved.
        from.unlock_dir(name)?;
        (0_u32..)
            .map(|number| from.move_to(name, &trash, number.to_string()))
            .find(|moved| !moved.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists))
            .unwrap_or(Ok(()))
    }

    /// Empties the trash.
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

/// The contents of a journal.
#[derive(Debug)]
pub struct JournalContents {
    /// The description of the transfer.
    pub header: Header,
    /// The length of its header.
    len: u64,
    /// The writer for further records.
    writer: Writer,
    /// The chunks that are stored.
    pub stored: Vec<Stored>,
}

/// The journal in a staging directory, if it can be read.
pub fn read_journal(dir: &Dir) -> io::Result<Option<JournalContents>> {
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
    Ok(Some(JournalContents { header, len: len as u64, writer: Writer::new(&encoded, end), stored }))
}

/// Reads up to the end of the file or of the buffer; returns the number of bytes.
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

/// Syncs a directory, where the file system can do that.
pub fn sync_dir(dir: &Dir) -> io::Result<()> {
    if_able(fsync(dir).map_err(io::Error::from))
}

/// Opens and locks the directory of this name; the flag says whether the lock is real. `None`: the name is in use. With
/// `make`, a missing directory is created.
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
        // On a file system without locks, a directory that was just created can be used without one.
        Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) if made => return Ok(Some((dir, false))),
        Err(_) => return Ok(None),
    }
    let stat = fstat(&dir)?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    // The previous owner may have removed the directory before it released the lock.
    let still = target.stat(name)?.is_some_and(|there| there.st_ino == stat.st_ino && there.st_dev == stat.st_dev);
    if !ours || !still {
        return Ok(None);
    }
    if !made {
        if_able(fchmod(&dir, PRIVATE_DIR).map_err(io::Error::from))?;
    }
    Ok(Some((dir, true)))
}

/// Removes the contents of a directory. Deeper directories are moved up first, so that depth costs neither handles nor
/// stack.
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

/// Removes one directory of `root`; its subdirectories are moved to `root`.
fn clear_dir(root: &Dir, name: &CStr, number: &mut u64) -> io::Result<()> {
    let dir = match root.child(name) {
        Ok(dir) => dir,
        Err(_) => {
            root.unlock_dir(name)?;
            root.child(name)?
        }
    };
    if_able(fchmod(&dir, PRIVATE_DIR).map_err(io::Error::from))?;
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

/// Removes an entry unless it is a directory; returns whether it was removed.
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
