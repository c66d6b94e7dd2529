//! Undoes the moves of an attempt that crashed while it moved entries to their final place, so that the next attempt
//! finds the destination as the first one did.
//!
//! Before an entry is moved, it is recorded with its inode ([`Move`], a line each, in the file `moves` of the staging
//! directory). Either all moved entries are taken back that are still at their final place, or none: if one was
//! modified since then, all of them stay and the policy for existing names applies. An entry that replaced another one
//! stays, too.
//!
//! No state, no timers. Bounds: the file has at most 256 MiB, and a line for each name.

use std::collections::{BTreeMap, HashSet};
use std::io;

use rustix::fs::Stat;
use tallow_proto::transfer::local_names::LocalNames;
use tallow_proto::transfer::{Entry, EntryKind, Manifest, Mtime};

use crate::contained_dir::{Dir, is_dir, is_file, is_link};
use crate::finalize::move_to;
use crate::sink::split;
use crate::staging::{ANY_MODE, Left};

/// The record of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// An entry is moved from the staged tree to its final place.
    To {
        /// Path below the staged tree.
        path: String,
        /// Path below the destination.
        here: String,
        /// Device and inode of the entry.
        file: (u64, u64),
    },
    /// The earlier move of this path must not be taken back.
    Stays {
        /// Path below the staged tree.
        path: String,
    },
}

impl Move {
    /// The record of moving an entry with these metadata.
    pub fn of(stat: &Stat, path: &str, here: &str) -> Self {
        Self::To { path: path.into(), here: here.into(), file: identity(stat) }
    }

    /// The record as a line. Names contain no control characters.
    pub fn line(&self) -> String {
        match self {
            Self::To { path, here, file: (device, inode) } => format!("{device}\t{inode}\t{path}\t{here}\n"),
            Self::Stays { path } => format!("-\t{path}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split('\t').collect();
        match *fields.as_slice() {
            ["-", path] => Some(Self::Stays { path: path.into() }),
            [device, inode, path, here] => {
                let file = (device.parse().ok()?, inode.parse().ok()?);
                Some(Self::To { path: path.into(), here: here.into(), file })
            }
            _ => None,
        }
    }
}

/// Takes back the recorded moves.
pub fn take_back(target: &Dir, left: &Left, manifest: &Manifest, names: &LocalNames) -> io::Result<()> {
    let noted = left.moves()?;
    // By path. The last record of a path counts, and a torn record is ignored.
    let mut moved = BTreeMap::new();
    for line in noted.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n")) {
        match std::str::from_utf8(line).ok().and_then(Move::parse) {
            Some(Move::To { path, here, file }) => {
                moved.insert(path, (here, file));
            }
            Some(Move::Stays { path }) => {
                moved.remove(&path);
            }
            None => {}
        }
    }
    moved.retain(|_, (here, file)| find(target, here).is_some_and(|(_, _, stat)| identity(&stat) == *file));
    if moved.is_empty() {
        return left.forget_moves();
    }
    if !is_unchanged(target, manifest, names, &moved) {
        tracing::info!("entries in their final place were modified since then, and stay");
        return Ok(());
    }
    for (path, (here, _)) in &moved {
        let Some((to, name, _)) = find(target, here) else { continue };
        let (above, own) = split(path);
        let from = staged(&left.tree, above)?;
        match move_to(&to, name, &from, own) {
            // The entry was received again since then.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    left.forget_moves()
}

/// Opens a directory of the staged tree. It is created again if its contents were merged into an existing directory.
fn staged(tree: &Dir, path: &str) -> io::Result<Dir> {
    let mut dir = tree.again()?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        match dir.make_dir(name, ANY_MODE) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => dir = dir.child(name)?,
        }
    }
    Ok(dir)
}

/// Whether all moved entries are unmodified.
fn is_unchanged(
    target: &Dir,
    manifest: &Manifest,
    names: &LocalNames,
    moved: &BTreeMap<String, (String, (u64, u64))>,
) -> bool {
    // A directory without an entry of its own has no recorded time, so a change of it can't be detected.
    let (mut found, mut dirs, mut parents) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (_, entry) in manifest.entries() {
        let path = names.local(&entry.path);
        let Some((top, here)) = covering(moved, &path) else { continue };
        let there = format!("{here}{}", &path[top.len()..]);
        if !find(target, &there).is_some_and(|(_, _, stat)| is_as_made(&stat, &entry)) {
            return false;
        }
        if path.len() > top.len() {
            parents.insert(split(&path).0.to_owned());
        }
        if entry.kind == EntryKind::Dir {
            dirs.insert(path.into_owned());
        }
        found.insert(top);
    }
    parents.is_subset(&dirs) && moved.keys().all(|path| found.contains(path.as_str()))
}

/// The recorded move that contains this path.
fn covering<'a>(moved: &'a BTreeMap<String, (String, (u64, u64))>, path: &str) -> Option<(&'a str, &'a str)> {
    let mut end = path.len();
    loop {
        if let Some((top, (here, _))) = moved.get_key_value(&path[..end]) {
            return Some((top, here));
        }
        end = path[..end].rfind('/')?;
    }
}

/// Whether an entry is unmodified: a change, such as a new name in a directory, changes its time.
fn is_as_made(stat: &Stat, entry: &Entry) -> bool {
    // The fields' types differ between systems.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
    let same_time = Mtime::clamped(stat.st_mtime as i64, stat.st_mtime_nsec as u64) == entry.mtime;
    match entry.kind {
        EntryKind::File { size } => {
            is_file(stat) && same_time && u64::try_from(stat.st_size).is_ok_and(|found| found == size)
        }
        EntryKind::Dir => is_dir(stat) && same_time,
        EntryKind::Symlink { .. } => is_link(stat),
    }
}

/// Finds the entry at a path below a directory; returns its parent directory, its name and its metadata.
fn find<'a>(target: &Dir, path: &'a str) -> Option<(Dir, &'a str, Stat)> {
    let (above, name) = split(path);
    let dir = if above.is_empty() { target.again() } else { target.descend(above) }.ok()?;
    let stat = dir.stat(name).ok()??;
    Some((dir, name, stat))
}

fn identity(stat: &Stat) -> (u64, u64) {
    // The types differ between platforms.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_parsed_and_a_torn_one_is_not() {
        for noted in [
            Move::To { path: "a/b c".into(), here: "a/b c (1)".into(), file: (5, 77) },
            Move::Stays { path: "-".into() },
        ] {
            let line = noted.line();
            assert_eq!(Move::parse(line.trim_end_matches('\n')), Some(noted));
        }
        for torn in ["", "5", "5\t7", "5\t7\ta", "x\t7\ta\ta", "-\ta\tb", "1\t2\ta\tb\tc"] {
            assert_eq!(Move::parse(torn), None, "{torn:?}");
        }
    }
}
