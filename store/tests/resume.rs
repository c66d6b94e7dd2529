//! What an unfinished transfer leaves on a disk, and the next one that resumes it.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{byte, chmod, dir, entry, file, finish, inside, link, manifest, names, quick_dir, receive, sink};
use tallow_proto::transfer::journal::Stored;
use tallow_proto::transfer::manifest::{EntryKind, Manifest};
use tallow_proto::transfer::storage::{FaultKind, Sink};
use tallow_store::{OnExists, Receiving, partial};

/// Four large files' worth of chunks, small ones, and everything that needs no chunk.
fn offer() -> Arc<Manifest> {
    manifest(&[
        dir("d"),
        file("d/large", 5 * (64 << 10) + 7),
        file("d/small", 100),
        file("d/other", 3000),
        file("d/empty", 0),
        link("d/link", "small"),
        entry("d/locked", EntryKind::Dir, 0o500),
        entry("d/locked/x", EntryKind::File { size: 70_000 }, 0o400),
        file("top", 10),
    ])
}

fn contents(manifest: &Manifest, chunk: u64) -> (Vec<u8>, Stored) {
    let mut bytes = Vec::new();
    for segment in manifest.segments(chunk) {
        bytes.extend((0..segment.len as u64).map(|at| byte(segment.index, segment.offset + at)));
    }
    let hash = *blake3::hash(&bytes).as_bytes();
    (bytes, Stored { chunk, hash })
}

fn store(sink: &Receiving, manifest: &Manifest, chunks: impl Iterator<Item = u64>) {
    for chunk in chunks {
        let (bytes, stored) = contents(manifest, chunk);
        let mut rest = &bytes[..];
        for segment in manifest.segments(chunk) {
            let (piece, tail) = rest.split_at(segment.len);
            sink.write(segment.index, &segment.entry, segment.offset, piece).unwrap();
            rest = tail;
        }
        sink.commit(&[stored]).unwrap();
    }
}

/// The chunks of this list whose data is stored as the journal claims.
fn good(sink: &Receiving, manifest: &Manifest, stored: &[Stored]) -> Vec<u64> {
    let is_good = |stored: &&Stored| {
        let mut bytes = Vec::new();
        for segment in manifest.segments(stored.chunk) {
            let mut piece = vec![0; segment.len];
            if !sink.recall(segment.index, &segment.entry, segment.offset, &mut piece).unwrap() {
                return false;
            }
            bytes.extend(piece);
        }
        *blake3::hash(&bytes).as_bytes() == stored.hash
    };
    stored.iter().filter(is_good).map(|stored| stored.chunk).collect()
}

/// The result of a receive without an error.
fn reference() -> std::collections::BTreeMap<PathBuf, String> {
    let root = quick_dir();
    receive(&sink(root.path(), OnExists::Refuse), &offer()).unwrap();
    inside(root.path())
}

fn staging(root: &Path) -> PathBuf {
    let name = names(root).into_iter().find(|name| name.starts_with(".tallow-")).unwrap();
    root.join(name)
}

/// An attempt that stores these chunks and crashes.
fn left(root: &Path, chunks: impl Iterator<Item = u64>) {
    let first = sink(root, OnExists::Refuse);
    assert_eq!(first.begin(&offer()).unwrap(), []);
    store(&first, &offer(), chunks);
    // As after a kill, the lock is released with the handle.
    drop(first);
}

/// The next attempt: checks the valid data, then receives the rest.
fn go_on(root: &Path) -> (Vec<u64>, Vec<u64>) {
    let manifest = offer();
    let next = sink(root, OnExists::Refuse);
    let stored = next.begin(&manifest).unwrap();
    let good = good(&next, &manifest, &stored);
    store(&next, &manifest, (0..manifest.chunks()).filter(|chunk| !good.contains(chunk)));
    finish(&next).unwrap();
    assert_eq!(inside(root), reference());
    (stored.iter().map(|stored| stored.chunk).collect(), good)
}

#[test]
fn resumed_receive_finds_stored_chunks() {
    let all = offer().chunks();
    assert_eq!(all, 8);
    for stored in [1..2, 0..5, 3..8, 0..8] {
        let root = quick_dir();
        left(root.path(), stored.clone());
        assert_eq!(std::fs::metadata(staging(root.path())).unwrap().mode() & 0o777, 0o700);
        let expected: Vec<u64> = stored.collect();
        assert_eq!(go_on(root.path()), (expected.clone(), expected));
    }
}

/// A crash at the end, when modes and links are made already.
#[test]
fn a_half_finalized_transfer_is_finalized_again() {
    for slices in 0..60 {
        let root = quick_dir();
        let first = sink(root.path(), OnExists::Refuse);
        first.begin(&offer()).unwrap();
        store(&first, &offer(), 0..8);
        let mut done = false;
        for _ in 0..slices {
            done = done || first.finish(1).unwrap();
        }
        drop(first);
        if done {
            assert!(slices > 3);
            return;
        }
        assert_eq!(go_on(root.path()).1.len(), 8, "after {slices} slices");
    }
    panic!("it never finishes");
}

/// An attempt that crashes when one of its two entries is in place.
fn half_placed(root: &Path) {
    let first = sink(root, OnExists::Refuse);
    first.begin(&offer()).unwrap();
    store(&first, &offer(), 0..8);
    while first.placed().is_empty() {
        assert!(!first.finish(1).unwrap());
    }
    drop(first);
    assert_eq!(names(root).len(), 2);
}

/// A modified entry in its final place is not moved back: it is treated like any existing entry.
#[test]
fn modified_final_file_is_not_rolled_back() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 6] = [
        ("d", |root| std::fs::write(root.join("d/new"), "mine").unwrap()),
        ("d", |root| flip(&root.join("d/small"), 3)),
        ("d", |root| std::fs::remove_file(root.join("d/other")).unwrap()),
        ("d", |root| std::fs::rename(root.join("d/small"), root.join("d/kept")).unwrap()),
        ("top", |root| std::fs::write(root.join("top"), "mine").unwrap()),
        ("top", |root| replace(&root.join("top"), |at| std::fs::write(at, [0; 10]))),
    ];
    let mut tried = [0; 2];
    for _ in 0..8 {
        for (name, change) in changes {
            let root = quick_dir();
            half_placed(root.path());
            // The file system decides which of the two comes first.
            if !root.path().join(name).exists() {
                continue;
            }
            tried[usize::from(name == "top")] += 1;
            change(root.path());
            let before = inside(&root.path().join(name));
            let next = sink(root.path(), OnExists::Refuse);
            assert_eq!(next.begin(&offer()).unwrap_err().kind, FaultKind::Exists);
            drop(next);
            assert_eq!(inside(&root.path().join(name)), before);
            // With another name, all of it is sent again.
            let next = sink(root.path(), OnExists::Rename);
            let stored = next.begin(&offer()).unwrap();
            let good = good(&next, &offer(), &stored);
            assert!(good.len() < 8, "{good:?}");
            store(&next, &offer(), (0..8).filter(|chunk| !good.contains(chunk)));
            finish(&next).unwrap();
            assert_eq!(names(root.path()).len(), 3);
            assert_eq!(inside(&root.path().join(name)), before);
        }
    }
    assert!(tried != [0; 2]);
}

/// An entry that replaced another one is not moved back: then neither would exist.
#[test]
fn replacing_file_is_not_rolled_back() {
    let root = quick_dir();
    std::fs::write(root.path().join("top"), "old").unwrap();
    std::fs::create_dir(root.path().join("d")).unwrap();
    std::fs::write(root.path().join("d/small"), "old").unwrap();
    for slices in 0..200 {
        let first = sink(root.path(), OnExists::Overwrite);
        let stored = first.begin(&offer()).unwrap();
        assert!(root.path().join("top").exists() && root.path().join("d/small").exists());
        let good = good(&first, &offer(), &stored);
        store(&first, &offer(), (0..8).filter(|chunk| !good.contains(chunk)));
        for _ in 0..slices {
            if first.finish(1).unwrap() {
                assert!(slices > 10);
                let mut own = inside(root.path());
                let mut expected = reference();
                // A directory that was there keeps its mode and gets no time.
                for map in [&mut own, &mut expected] {
                    map.remove(Path::new("d"));
                }
                assert_eq!(own, expected);
                return;
            }
            assert!(root.path().join("top").exists() && root.path().join("d/small").exists());
        }
    }
    panic!("it never finishes");
}

#[test]
fn f06_only_damaged_chunks_are_rejected() {
    let large = 5 * (64 << 10) + 7;
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &[u64]); 12] = [
        ("one bit", |tree| flip(&tree.join("d/large"), 70_000), &[1]),
        ("truncated", |tree| set_len(&tree.join("d/large"), 200_000), &[3, 4, 5]),
        ("extended", |tree| set_len(&tree.join("d/large"), 900_000), &[]),
        ("gone", |tree| std::fs::remove_file(tree.join("d/small")).unwrap(), &[5]),
        ("a directory in its place", |tree| replace(&tree.join("d/small"), |at| std::fs::create_dir(at)), &[5]),
        ("a link in its place", |tree| replace(&tree.join("d/small"), |at| symlink("/etc/passwd", at)), &[5]),
        ("a second name", |tree| std::fs::hard_link(tree.join("d/small"), tree.join("../more")).unwrap(), &[5]),
        ("something foreign", |tree| std::fs::write(tree.join("d/foreign"), "x").unwrap(), &[]),
        ("a foreign tree", |tree| std::fs::create_dir_all(tree.join("d/foreign/a/b/c")).unwrap(), &[]),
        (
            "a locked foreign tree",
            |tree| {
                std::fs::create_dir_all(tree.join("foreign/a")).unwrap();
                chmod(&tree.join("foreign"), 0o500);
            },
            &[],
        ),
        (
            "modes",
            |tree| {
                chmod(&tree.join("d/large"), 0o000);
                chmod(&tree.join("d"), 0o000);
            },
            &[],
        ),
        ("all of it", |tree| std::fs::remove_dir_all(tree).unwrap(), &[0, 1, 2, 3, 4, 5, 6, 7]),
    ];
    assert_eq!(large, offer().entry(1).unwrap().size());
    for (name, damage, bad) in cases {
        let root = quick_dir();
        left(root.path(), 0..8);
        damage(&staging(root.path()).join("tree"));
        let (_, good) = go_on(root.path());
        let expected: Vec<u64> = (0..8).filter(|chunk| !bad.contains(chunk)).collect();
        assert_eq!(good, expected, "{name}");
        assert!(Path::new("/etc/passwd").exists());
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 8;
    std::fs::write(path, bytes).unwrap();
}

fn set_len(path: &Path, len: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn replace(path: &Path, make: impl Fn(&Path) -> std::io::Result<()>) {
    std::fs::remove_file(path).unwrap();
    make(path).unwrap();
}

#[test]
fn f06_damaged_journal_is_used_up_to_damage() {
    let journal = |root: &Path| staging(root).join("journal");
    let whole = {
        let root = quick_dir();
        left(root.path(), 0..8);
        std::fs::metadata(journal(root.path())).unwrap().len() as usize
    };
    // One batch with one chunk each time.
    let batch = 58;
    for cut in (0..=3 * batch).step_by(7) {
        let root = quick_dir();
        left(root.path(), 0..8);
        set_len(&journal(root.path()), (whole - cut) as u64);
        let kept = 8 - cut.div_ceil(batch) as u64;
        assert_eq!(go_on(root.path()).0, (0..kept).collect::<Vec<_>>(), "{cut} bytes cut");
    }
    for (at, kept) in [(whole - 1, 7), (whole - 8 * batch + 5, 0), (0, 0), (9, 0), (20, 0)] {
        let root = quick_dir();
        left(root.path(), 0..8);
        flip(&journal(root.path()), at);
        assert_eq!(go_on(root.path()).0, (0..kept).collect::<Vec<_>>(), "at {at}");
    }
    // Only noise after it, and none at all.
    let root = quick_dir();
    left(root.path(), 0..8);
    let mut bytes = std::fs::read(journal(root.path())).unwrap();
    bytes.extend([7; 5000]);
    std::fs::write(journal(root.path()), bytes).unwrap();
    assert_eq!(go_on(root.path()).0.len(), 8);
    let root = quick_dir();
    left(root.path(), 0..8);
    std::fs::remove_file(journal(root.path())).unwrap();
    assert_eq!(go_on(root.path()).0.len(), 0);
}

#[test]
fn a_journal_of_another_transfer_is_not_used() {
    let root = quick_dir();
    let other = manifest(&[file("else", 900_000)]);
    let first = sink(root.path(), OnExists::Refuse);
    first.begin(&other).unwrap();
    store(&first, &other, 0..5);
    drop(first);
    let journal = std::fs::read(staging(root.path()).join("journal")).unwrap();
    std::fs::remove_dir_all(staging(root.path())).unwrap();
    left(root.path(), 0..8);
    std::fs::write(staging(root.path()).join("journal"), journal).unwrap();
    assert_eq!(go_on(root.path()), (vec![], vec![]));
}

#[test]
fn torn_journal_tail_does_not_hide_later_entries() {
    let root = quick_dir();
    left(root.path(), 0..3);
    let journal = staging(root.path()).join("journal");
    set_len(&journal, std::fs::metadata(&journal).unwrap().len() - 3);
    let next = sink(root.path(), OnExists::Refuse);
    assert_eq!(next.begin(&offer()).unwrap().len(), 2);
    store(&next, &offer(), 2..6);
    drop(next);
    assert_eq!(go_on(root.path()).1, [0, 1, 2, 3, 4, 5]);
}

/// Records after a damaged part stay ignored when the damaged part is overwritten.
#[test]
fn a_truncated_journal_tail_stays_truncated() {
    let root = quick_dir();
    left(root.path(), 0..8);
    let journal = staging(root.path()).join("journal");
    let end = std::fs::metadata(&journal).unwrap().len() as usize;
    flip(&journal, end - 7 * 58 + 9);
    let next = sink(root.path(), OnExists::Refuse);
    assert_eq!(next.begin(&offer()).unwrap().len(), 1);
    store(&next, &offer(), 5..6);
    drop(next);
    assert_eq!(go_on(root.path()).0, [0, 5]);
}

/// Data that could not be synced may be in the cache of the system only.
#[test]
fn f02_after_a_failed_sync_only_synced_chunks_count() {
    let root = quick_dir();
    let first = sink(root.path(), OnExists::Refuse);
    first.begin(&offer()).unwrap();
    store(&first, &offer(), 0..3);
    first.sync().unwrap();
    store(&first, &offer(), 3..7);
    std::fs::remove_file(staging(root.path()).join("tree/d/small")).unwrap();
    let fault = first.sync().unwrap_err();
    assert!(fault.path.as_deref().unwrap().ends_with("d/small"), "{fault:?}");
    first.suspend();
    drop(first);
    assert_eq!(go_on(root.path()).0, [0, 1, 2]);
    // A resumed attempt does not know what was synced before it.
    let root = quick_dir();
    left(root.path(), 0..7);
    let next = sink(root.path(), OnExists::Refuse);
    next.begin(&offer()).unwrap();
    store(&next, &offer(), 7..8);
    std::fs::remove_file(staging(root.path()).join("tree/top")).unwrap();
    next.sync().unwrap_err();
    next.suspend();
    drop(next);
    assert_eq!(go_on(root.path()).0, [0; 0]);
}

#[test]
fn second_receiver_of_same_offer_uses_own_staging() {
    let root = quick_dir();
    left(root.path(), 0..5);
    let first = sink(root.path(), OnExists::Rename);
    assert_eq!(first.begin(&offer()).unwrap().len(), 5);
    let second = sink(root.path(), OnExists::Rename);
    assert_eq!(second.begin(&offer()).unwrap(), []);
    store(&second, &offer(), 0..8);
    store(&first, &offer(), 5..8);
    finish(&second).unwrap();
    finish(&first).unwrap();
    assert_eq!(names(root.path()), ["d", "d (1)", "top", "top (1)"]);
    let own = |name: &str| inside(&root.path().join(name));
    assert_eq!(own("d"), own("d (1)"));
}

#[test]
fn the_second_staging_is_found_after_the_first_is_removed() {
    let root = quick_dir();
    let first = sink(root.path(), OnExists::Refuse);
    first.begin(&offer()).unwrap();
    left(root.path(), 0..6);
    first.abandon();
    assert_eq!(names(root.path()).len(), 1);
    assert_eq!(go_on(root.path()).1.len(), 6);
}

#[test]
fn suspended_staging_is_found_by_the_same_process() {
    let root = quick_dir();
    let first = sink(root.path(), OnExists::Refuse);
    first.begin(&offer()).unwrap();
    store(&first, &offer(), 0..4);
    first.suspend();
    assert_eq!(go_on(root.path()).1, [0, 1, 2, 3]);
    drop(first);
}

#[test]
fn an_attempt_without_chunks_leaves_no_staging() {
    let root = quick_dir();
    let to = root.path().join("new/deep");
    let first = sink(&to, OnExists::Refuse);
    first.begin(&offer()).unwrap();
    first.suspend();
    assert_eq!(names(root.path()), [""; 0]);
}

#[test]
fn created_destination_is_kept_with_staging() {
    let root = quick_dir();
    let to = root.path().join("new/deep");
    let first = sink(&to, OnExists::Refuse);
    first.begin(&offer()).unwrap();
    store(&first, &offer(), 0..4);
    first.suspend();
    drop(first);
    assert_eq!(go_on(&to).1, [0, 1, 2, 3]);
}

/// Chunks dropped because of an existing entry are sent again after the entry was removed.
#[test]
fn a_resume_with_the_same_skipped_entries_goes_on() {
    let root = quick_dir();
    std::fs::create_dir(root.path().join("d")).unwrap();
    for name in ["top", "d/small"] {
        std::fs::write(root.path().join(name), "mine").unwrap();
    }
    let first = sink(root.path(), OnExists::Skip);
    first.begin(&offer()).unwrap();
    assert_eq!(first.skipped_entries().iter().collect::<Vec<_>>(), [2, 8]);
    let wanted = offer().without(first.skipped_entries());
    store(&first, &wanted, 0..5);
    drop(first);
    let next = sink(root.path(), OnExists::Skip);
    let stored = next.begin(&offer()).unwrap();
    assert_eq!(good(&next, &wanted, &stored), [0, 1, 2, 3, 4]);
    store(&next, &wanted, 5..wanted.chunks());
    finish(&next).unwrap();
    let mut expected = reference();
    expected.retain(|path, _| !["top", "d/small"].contains(&path.to_str().unwrap()));
    let mut arrived = inside(root.path());
    for name in ["top", "d/small"] {
        arrived.remove(Path::new(name));
        assert_eq!(std::fs::read_to_string(root.path().join(name)).unwrap(), "mine");
    }
    // A directory that was there keeps its time.
    assert!(arrived.remove(Path::new("d")).is_some() && expected.remove(Path::new("d")).is_some());
    assert_eq!(arrived, expected);
}

/// Chunks are numbered without what is skipped.
#[test]
fn a_resume_with_other_skipped_entries_begins_anew() {
    let root = quick_dir();
    std::fs::write(root.path().join("top"), "old").unwrap();
    let first = sink(root.path(), OnExists::Skip);
    first.begin(&offer()).unwrap();
    let wanted = offer().without(first.skipped_entries());
    store(&first, &wanted, 0..wanted.chunks());
    drop(first);
    std::fs::remove_file(root.path().join("top")).unwrap();
    assert_eq!(go_on(root.path()), (vec![], vec![]));
}

#[test]
fn damaged_small_file_is_rewritten_completely() {
    let root = quick_dir();
    left(root.path(), 0..8);
    let tree = staging(root.path()).join("tree");
    set_len(&tree.join("d/small"), 5000);
    flip(&tree.join("d/other"), 5);
    assert_eq!(go_on(root.path()).1, [0, 1, 2, 3, 4, 6, 7]);
}

#[test]
fn used_space_is_not_required_again() {
    // Without a small disk at hand, an offer that is larger than any.
    let root = quick_dir();
    let system = rustix::fs::statvfs(root.path()).unwrap();
    let free = system.f_bavail * system.f_frsize;
    let huge = manifest(&[file("huge", free + (64 << 20))]);
    let first = sink(root.path(), OnExists::Refuse);
    let fault = first.begin(&huge).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Full { .. }), "{fault:?}");
    assert_eq!(names(root.path()), [""; 0]);
}

#[test]
fn resumed_transfer_restores_modes_and_times() {
    let root = quick_dir();
    left(root.path(), 0..7);
    go_on(root.path());
    let metadata = |name: &str| std::fs::symlink_metadata(root.path().join(name)).unwrap();
    assert_eq!(metadata("d/locked/x").permissions().mode() & 0o777, 0o400);
    assert_eq!(metadata("d/locked").permissions().mode() & 0o777, 0o500);
    assert_eq!(metadata("d/large").mtime(), 1_000_000_000);
}

#[test]
fn unfinished_transfers_are_listed_and_removed_unless_in_use() {
    let root = quick_dir();
    let dir = root.path();
    assert_eq!(partial::list(dir).unwrap(), []);
    left(dir, 0..4);
    let live = sink(dir, OnExists::Refuse);
    let other = manifest(&[file("other.iso", 900_000)]);
    live.begin(&other).unwrap();
    store(&live, &other, 0..3);
    // Names that only look alike, a file, and one that is damaged.
    for name in [
        ".tallow-",
        ".tallow-xyz",
        ".tallow-0123456789abcdef-1",
        ".tallow-0123456789abcdefg",
        ".tallow-0123456789ABCDEF",
    ] {
        std::fs::create_dir(dir.join(name)).unwrap();
    }
    std::fs::write(dir.join(".tallow-0123456789abcdef"), "x").unwrap();
    symlink(dir, dir.join(".tallow-0123456789abcdef-2")).unwrap();
    std::fs::create_dir(dir.join(".tallow-0123456789abcdef-3")).unwrap();
    std::fs::write(dir.join(".tallow-0123456789abcdef-3/journal"), "nonsense").unwrap();
    let before = names(dir);

    let found = partial::list(dir).unwrap();
    let by_name = |name: &str| found.iter().find(|own| own.about.as_ref().is_some_and(|about| about.name == name));
    let (abandoned, used) = (by_name("d").unwrap(), by_name("other.iso").unwrap());
    assert_eq!(found.len(), 3);
    assert_eq!((abandoned.is_live, used.is_live), (false, true));
    let about = abandoned.about.as_ref().unwrap();
    assert_eq!((about.entries, about.stored, about.bytes), (9, 4 << 16, offer().totals().bytes));
    assert!(abandoned.modified.elapsed().unwrap().as_secs() < 3600);
    assert_eq!(names(dir), before, "looking changes nothing");

    assert!(!partial::clear_one(dir, &used.id).unwrap());
    for foreign in ["", "xyz", "0123456789abcdef", "0123456789abcdef-2", "../x", "0123456789abcdef-1"] {
        assert!(!partial::clear_one(dir, foreign).unwrap_or(false), "{foreign}");
    }
    assert_eq!(names(dir), before);
    assert!(partial::clear_one(dir, &abandoned.id).unwrap());
    assert!(partial::clear_one(dir, "0123456789abcdef-3").unwrap());
    assert_eq!(names(dir).len(), before.len() - 2);
    // The one that is in use continues unaffected.
    store(&live, &other, 3..other.chunks());
    finish(&live).unwrap();
    assert_eq!(partial::list(dir).unwrap(), []);
}
