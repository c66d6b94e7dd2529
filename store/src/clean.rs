//! Cleans the staged tree of an earlier attempt before anything is read from it.
//!
//! Keeps only directories and regular files that the manifest contains under that name and that have no other hard
//! link. Everything else is removed, such as links and unknown entries. The kept entries are made accessible, whatever
//! their mode was.
//!
//! No state, no timers. Bounds: 16 bytes and what a table needs for each entry, the paths of directories that are still
//! to be looked through.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;

use rustix::fs::Mode;
use tallow_proto::transfer::local_names::LocalNames;
use tallow_proto::transfer::{EntryKind, Manifest};

use crate::contained_dir::{PRIVATE_FILE, is_dir, is_file};
use crate::plan::Plan;
use crate::sink::split;
use crate::staging::Left;

/// The kind of entry that is expected under a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Dir,
}

/// Cleans the tree; returns the disk space of the kept files in bytes.
pub fn clean_left(left: &Left, manifest: &Manifest, names: &LocalNames, plan: &Plan) -> io::Result<u64> {
    let hasher = RandomState::new();
    let expected = expected(manifest, names, plan, &hasher);
    left.tidy()?;
    let (mut bytes, mut paths) = (0_u64, vec![String::new()]);
    while let Some(path) = paths.pop() {
        let below;
        let dir = if path.is_empty() {
            &left.tree
        } else {
            below = left.tree.descend(&path)?;
            &below
        };
        dir.each_name(|name| {
            let Some(stat) = dir.stat(name)? else { return Ok(()) };
            let own =
                name.to_str().ok().map(|name| if path.is_empty() { name.into() } else { format!("{path}/{name}") });
            let kind = own.as_ref().and_then(|own| expected.get(&hasher.hash_one(own.as_str())).copied());
            match (own, kind) {
                (Some(own), Some(Kind::Dir)) if is_dir(&stat) => {
                    if stat.st_mode & 0o700 != 0o700 {
                        dir.unlock_dir(name)?;
                    }
                    paths.push(own);
                }
                (Some(_), Some(Kind::File)) if is_file(&stat) && stat.st_nlink == 1 => {
                    if Mode::from_raw_mode(stat.st_mode) & PRIVATE_FILE != PRIVATE_FILE {
                        dir.unlock_file(name)?;
                    }
                    bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
                }
                (_, _) if is_dir(&stat) => left.discard(dir, name)?,
                (_, _) => {
                    dir.remove_file(name)?;
                }
            }
            Ok(())
        })?;
    }
    left.tidy()?;
    Ok(bytes)
}

/// The expected entries, by keyed hashes of their paths.
fn expected(manifest: &Manifest, names: &LocalNames, plan: &Plan, hasher: &RandomState) -> HashMap<u64, Kind> {
    let mut expected = HashMap::new();
    let mut known = String::new();
    for (index, entry) in manifest.entries() {
        let path = names.local(&entry.path);
        let mut above = split(&path).0;
        if known != above {
            known = above.to_owned();
            while !above.is_empty() {
                expected.insert(hasher.hash_one(above), Kind::Dir);
                above = split(above).0;
            }
        }
        let kind = match entry.kind {
            EntryKind::File { size } if size > 0 && !plan.is_skipped(index) => Kind::File,
            EntryKind::Dir => Kind::Dir,
            EntryKind::File { .. } | EntryKind::Symlink { .. } => continue,
        };
        expected.insert(hasher.hash_one(&*path), kind);
    }
    expected
}
