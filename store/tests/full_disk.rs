//! Disks that are full, read-only or removed, on small real file systems: the tests need a system that allows
//! mounting (root), and are otherwise skipped with a message.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::{byte, dir, file, finish, manifest, names, sink};
use tallow_proto::transfer::journal::Stored;
use tallow_proto::transfer::manifest::Manifest;
use tallow_proto::transfer::storage::{Fault, FaultKind, Sink};
use tallow_store::{Destination, OnExists, Policy, Receiving};

/// One test at a time: between `fork` and `exec`, a child process that mounts something also holds the locks of the
/// other tests' staging directories.
static ALONE: Mutex<()> = Mutex::new(());

/// A file system of this size, in memory.
struct Disk {
    at: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Disk {
    fn new(options: &str) -> Option<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let at = tempfile::tempdir().unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at.path()).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: this user may not mount a small file system");
            return None;
        }
        Some(Self { at, _alone: alone })
    }

    fn path(&self) -> &Path {
        self.at.path()
    }

    fn remount(&self, option: &str) {
        let option = format!("remount,{option}");
        assert!(Command::new("mount").args(["-o", &option]).arg(self.path()).status().unwrap().success());
    }

    /// Another program fills the remaining space.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.path().join("neighbour");
        let mut neighbour = std::fs::File::create(&path).unwrap();
        let block = vec![0; 4096];
        while neighbour.write_all(&block).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

const CHUNK: u64 = 64 << 10;

fn offer() -> Arc<Manifest> {
    manifest(&[dir("d"), file("d/large", 40 * CHUNK), file("d/small", 100), file("d/empty", 0)])
}

fn store(sink: &Receiving, manifest: &Manifest, chunk: u64) -> Result<(), Fault> {
    let mut hasher = blake3::Hasher::new();
    for segment in manifest.segments(chunk) {
        let bytes: Vec<u8> = (0..segment.len as u64).map(|at| byte(segment.index, segment.offset + at)).collect();
        hasher.update(&bytes);
        sink.write(segment.index, &segment.entry, segment.offset, &bytes)?;
    }
    sink.commit(&[Stored { chunk, hash: *hasher.finalize().as_bytes() }])
}

/// Whether every byte of a chunk is there as it should be.
fn is_there(sink: &Receiving, manifest: &Manifest, stored: &Stored) -> bool {
    let mut hasher = blake3::Hasher::new();
    for segment in manifest.segments(stored.chunk) {
        let mut bytes = vec![0; segment.len];
        if !sink.recall(segment.index, &segment.entry, segment.offset, &mut bytes).unwrap() {
            return false;
        }
        hasher.update(&bytes);
    }
    *hasher.finalize().as_bytes() == stored.hash
}

fn check(disk: &Disk) {
    let whole: Vec<u8> = (0..40 * CHUNK).map(|at| byte(1, at)).collect();
    assert!(std::fs::read(disk.path().join("d/large")).unwrap() == whole);
    assert_eq!(std::fs::read(disk.path().join("d/small")).unwrap().len(), 100);
    assert_eq!(names(disk.path()), ["d"]);
}

#[test]
fn f01_small_disk_is_reported_before_any_write() {
    let Some(disk) = Disk::new("size=2m") else { return };
    let sink = sink(disk.path(), OnExists::Refuse);
    match sink.begin(&offer()).unwrap_err().kind {
        FaultKind::Full { need, have } => {
            assert!(need > 40 * CHUNK && have <= 2 << 20, "{need} {have}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(names(disk.path()), [""; 0]);
}

#[test]
fn f01_disk_full_during_transfer_keeps_stored_chunks() {
    let Some(disk) = Disk::new("size=8m") else { return };
    let manifest = offer();
    let first = sink(disk.path(), OnExists::Refuse);
    first.begin(&manifest).unwrap();
    (0..20).for_each(|chunk| store(&first, &manifest, chunk).unwrap());
    let neighbour = disk.fill();
    let fault = (20..41).find_map(|chunk| store(&first, &manifest, chunk).err()).expect("no space");
    let is_full = matches!(fault.kind, FaultKind::Full { .. } | FaultKind::Io(std::io::ErrorKind::StorageFull));
    assert!(is_full, "{fault:?}");
    assert!(fault.path.as_deref().unwrap().starts_with(disk.path().to_str().unwrap()));
    first.suspend();
    drop(first);
    // There still is no space: reported at once, and nothing is lost.
    let second = sink(disk.path(), OnExists::Refuse);
    assert!(matches!(second.begin(&manifest).unwrap_err().kind, FaultKind::Full { .. }));
    drop(second);
    std::fs::remove_file(neighbour).unwrap();
    let third = sink(disk.path(), OnExists::Refuse);
    let stored = third.begin(&manifest).unwrap();
    assert!(stored.len() >= 20);
    let good: Vec<u64> =
        stored.iter().filter(|stored| is_there(&third, &manifest, stored)).map(|stored| stored.chunk).collect();
    assert_eq!(good.len(), stored.len(), "what was committed is there");
    (0..41).filter(|chunk| !good.contains(chunk)).for_each(|chunk| store(&third, &manifest, chunk).unwrap());
    finish(&third).unwrap();
    drop(third);
    check(&disk);
}

#[test]
fn f01_space_of_earlier_attempt_is_not_required_again() {
    let Some(disk) = Disk::new("size=4500k") else { return };
    let manifest = offer();
    let first = sink(disk.path(), OnExists::Refuse);
    first.begin(&manifest).unwrap();
    (0..30).for_each(|chunk| store(&first, &manifest, chunk).unwrap());
    drop(first);
    let second = sink(disk.path(), OnExists::Refuse);
    assert_eq!(second.begin(&manifest).unwrap().len(), 30);
    (30..41).for_each(|chunk| store(&second, &manifest, chunk).unwrap());
    finish(&second).unwrap();
    drop(second);
    check(&disk);
}

#[test]
fn f01_journal_is_unchanged_when_disk_is_full() {
    let Some(disk) = Disk::new("size=8m") else { return };
    let manifest = offer();
    let first = sink(disk.path(), OnExists::Refuse);
    first.begin(&manifest).unwrap();
    (0..5).for_each(|chunk| store(&first, &manifest, chunk).unwrap());
    let neighbour = disk.fill();
    // More than the rest of its last page.
    let many: Vec<_> = (0..400).map(|number| Stored { chunk: number % 41, hash: [1; 32] }).collect();
    let fault = first.commit(&many).unwrap_err();
    assert!(fault.path.as_deref().unwrap().ends_with("/journal"), "{fault:?}");
    std::fs::remove_file(neighbour).unwrap();
    store(&first, &manifest, 5).unwrap();
    drop(first);
    let second = sink(disk.path(), OnExists::Refuse);
    let stored = second.begin(&manifest).unwrap();
    assert_eq!(stored.iter().map(|stored| stored.chunk).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(stored.iter().all(|stored| is_there(&second, &manifest, stored)));
}

#[test]
fn f01_missing_inodes_for_staging_are_reported() {
    let Some(disk) = Disk::new("size=8m,nr_inodes=3") else { return };
    let sink = sink(disk.path(), OnExists::Refuse);
    let fault = sink.begin(&offer()).unwrap_err();
    assert!(fault.path.is_some() && !fault.is_refusal(), "{fault:?}");
    assert_eq!(names(disk.path()), [""; 0]);
}

#[test]
fn f13_read_only_disk_is_reported_when_opened() {
    let Some(disk) = Disk::new("size=8m") else { return };
    disk.remount("ro");
    let fault = Destination::open(disk.path(), Policy::default()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Io(std::io::ErrorKind::ReadOnlyFilesystem));
    assert_eq!(fault.path.as_deref(), disk.path().to_str());
}

#[test]
fn read_only_or_removed_destination_is_reported() {
    let Some(disk) = Disk::new("size=8m") else { return };
    let manifest = offer();
    let first = sink(disk.path(), OnExists::Refuse);
    first.begin(&manifest).unwrap();
    (0..5).for_each(|chunk| store(&first, &manifest, chunk).unwrap());
    first.suspend();
    drop(first);
    disk.remount("ro");
    assert!(Destination::open(disk.path(), Policy::default()).is_err());
    disk.remount("rw");
    let second = sink(disk.path(), OnExists::Refuse);
    assert_eq!(second.begin(&manifest).unwrap().len(), 5);
    let staging = disk.path().join(names(disk.path()).remove(0));
    std::fs::remove_dir_all(&staging).unwrap();
    // An open file still accepts bytes, and the journal is the first to fail.
    let fault = (5..41).find_map(|chunk| store(&second, &manifest, chunk).err()).expect("it is gone");
    assert_eq!(fault.kind, FaultKind::Io(std::io::ErrorKind::NotFound));
    assert!(fault.path.as_deref().unwrap().starts_with(disk.path().to_str().unwrap()), "{fault:?}");
    second.suspend();
    drop(second);
    let third = sink(disk.path(), OnExists::Refuse);
    assert_eq!(third.begin(&manifest).unwrap(), []);
    (0..41).for_each(|chunk| store(&third, &manifest, chunk).unwrap());
    finish(&third).unwrap();
    drop(third);
    check(&disk);
}
