//! The destination: existing files, full disks, and what is left behind.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{
    Place, chmod, contents, dir, entry, file, finish, inside, link, manifest, names, policy, receive, refused, sink,
    told,
};
use rustix::fs::{CWD, Mode};
use tallow_proto::transfer::manifest::{EntryKind, Manifest, Mtime};
use tallow_proto::transfer::storage::{FaultKind, Sink};
use tallow_store::{Destination, OnExists, Policy};

#[test]
fn n11_a_special_file_with_an_offered_name_is_reported() {
    let begun = Instant::now();
    for on_exists in [OnExists::Refuse, OnExists::Overwrite] {
        let place = Place::new();
        rustix::fs::mkfifoat(CWD, place.to.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        let _listening = UnixListener::bind(place.to.join("socket")).unwrap();
        std::fs::create_dir(place.to.join("dir")).unwrap();
        for name in ["fifo", "socket", "dir"] {
            let found = refused(&sink(&place.to, on_exists), &manifest(&[file(name, 5)]), &place.to);
            assert_eq!(found, (FaultKind::NotRegular, name.into()), "{on_exists:?}");
        }
        assert_eq!(names(&place.to), ["dir", "fifo", "socket"]);
    }
    for on_exists in [OnExists::Overwrite, OnExists::Skip] {
        let place = Place::new();
        std::fs::write(place.to.join("file"), "old").unwrap();
        let found = refused(&sink(&place.to, on_exists), &manifest(&[file("file/x", 5)]), &place.to);
        assert_eq!(found, (FaultKind::Io(std::io::ErrorKind::NotADirectory), "file".into()));
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn n12_modes_and_times_are_clamped() {
    let place = Place::new();
    let mut offer = vec![
        entry("wild", EntryKind::File { size: 3 }, 0o777),
        entry("parts", EntryKind::File { size: 200_000 }, 0o777),
        entry("empty", EntryKind::File { size: 0 }, 0o777),
        entry("none", EntryKind::File { size: 3 }, 0),
        entry("d", EntryKind::Dir, 0o777),
        entry("d/x", EntryKind::File { size: 1 }, 0o777),
    ];
    for (entry, seconds) in offer.iter_mut().zip([i64::MAX, i64::MIN, -1, 1 << 40, i64::MAX, 0]) {
        entry.mode |= 0o6000;
        entry.mtime = Mtime { seconds, nanos: u32::MAX };
    }
    receive(&sink(&place.to, OnExists::Refuse), &manifest(&offer)).unwrap();
    let mask = std::fs::metadata(place.to.join("d")).unwrap().mode() & 0o777;
    std::fs::create_dir(place.root.path().join("plain")).unwrap();
    let plain = std::fs::metadata(place.root.path().join("plain")).unwrap().mode();
    assert_eq!(mask, plain & 0o777, "the umask applies");
    for (name, mode) in [("wild", mask), ("parts", mask), ("empty", mask), ("none", 0), ("d/x", mask)] {
        assert_eq!(std::fs::metadata(place.to.join(name)).unwrap().mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(std::fs::metadata(place.to.join("d/x")).unwrap().mtime(), 0);
    assert_eq!(std::fs::metadata(place.to.join("empty")).unwrap().mtime(), -1);
}

#[test]
fn n12_destination_directory_keeps_its_mode() {
    let place = Place::new();
    chmod(&place.to, 0o750);
    receive(&sink(&place.to, OnExists::Refuse), &manifest(&[file("x", 3)])).unwrap();
    assert_eq!(std::fs::metadata(&place.to).unwrap().mode() & 0o7777, 0o750);
    std::fs::create_dir(place.to.join("d")).unwrap();
    chmod(&place.to.join("d"), 0o711);
    receive(&sink(&place.to, OnExists::Overwrite), &manifest(&[entry("d", EntryKind::Dir, 0o777), file("d/x", 3)]))
        .unwrap();
    assert_eq!(std::fs::metadata(place.to.join("d")).unwrap().mode() & 0o7777, 0o711, "nor a directory that was there");
}

/// A destination with a file, a directory with a file in it, and a link; and an offer with the same names and more.
fn meeting() -> (Place, Arc<Manifest>) {
    let place = Place::new();
    std::fs::create_dir_all(place.to.join("d/e")).unwrap();
    std::fs::write(place.to.join("d/e/old"), "old").unwrap();
    std::fs::write(place.to.join("d/mine"), "mine").unwrap();
    symlink("mine", place.to.join("d/l")).unwrap();
    std::fs::write(place.to.join("f.txt"), "f").unwrap();
    let offer = [
        dir("d"),
        dir("d/e"),
        file("d/e/old", 10),
        file("d/e/zero", 0),
        link("d/l", "e/old"),
        dir("d/new"),
        file("d/new/x", 100_000),
        file("f.txt", 20),
        file("g.txt", 30),
    ];
    (place, manifest(&offer))
}

#[test]
fn f13_existing_names_are_refused_before_any_write() {
    let (place, offer) = meeting();
    let before = inside(&place.to);
    assert_eq!(refused(&sink(&place.to, OnExists::Refuse), &offer, &place.to), (FaultKind::Exists, "d".into()));
    let only = manifest(&[file("a", 1), file("f.txt", 20)]);
    let fault = sink(&place.to, OnExists::Refuse).begin(&only).unwrap_err();
    assert_eq!(told(&fault), format!("{}: exists already", place.to.join("f.txt").display()));
    // A directory that exists is not entered either: else a stranger's offer could add files to it.
    assert_eq!(
        refused(&sink(&place.to, OnExists::Refuse), &manifest(&[file("d/fresh", 1)]), &place.to).0,
        FaultKind::Exists
    );
    assert_eq!(inside(&place.to), before);
}

#[test]
fn overwrite_replaces_files_and_merges_directories() {
    let (place, offer) = meeting();
    let old = std::fs::File::open(place.to.join("d/e/old")).unwrap();
    let sink = sink(&place.to, OnExists::Overwrite);
    receive(&sink, &offer).unwrap();
    assert_eq!(names(&place.to), ["d", "f.txt", "g.txt"]);
    assert_eq!(names(&place.to.join("d")), ["e", "l", "mine", "new"]);
    assert_eq!(std::fs::read(place.to.join("d/e/old")).unwrap(), contents(2, 10));
    assert_eq!(std::fs::read(place.to.join("d/new/x")).unwrap(), contents(6, 100_000));
    assert_eq!(std::fs::read(place.to.join("f.txt")).unwrap(), contents(7, 20));
    assert_eq!(std::fs::read_link(place.to.join("d/l")).unwrap(), Path::new("e/old"));
    assert_eq!(std::fs::read_to_string(place.to.join("d/mine")).unwrap(), "mine");
    assert_eq!(std::io::read_to_string(old).unwrap(), "old", "the old file was replaced, not written into");
    assert_eq!(std::fs::metadata(place.to.join("d/new")).unwrap().mtime(), 1_000_000_000);
    // And once more, onto itself.
    let before = inside(&place.to);
    receive(&self::sink(&place.to, OnExists::Overwrite), &offer).unwrap();
    let after = inside(&place.to);
    for (path, text) in &before {
        // Directories that were there have a new time.
        assert!(after[path] == *text || text.starts_with('4'), "{path:?}");
    }
    assert_eq!(before.len(), after.len());
}

#[test]
fn overwrite_never_replaces_entry_of_other_kind() {
    let place = Place::new();
    std::fs::create_dir(place.to.join("dir")).unwrap();
    std::fs::write(place.to.join("file"), "old").unwrap();
    symlink("file", place.to.join("link")).unwrap();
    let before = inside(&place.to);
    for (offer, kind) in [
        (vec![file("dir", 5)], FaultKind::NotRegular),
        (vec![link("dir", "x")], FaultKind::Exists),
        (vec![link("file", "x")], FaultKind::Exists),
        (vec![dir("file")], FaultKind::Io(std::io::ErrorKind::NotADirectory)),
        (vec![file("link", 3)], FaultKind::Link),
        (vec![dir("link")], FaultKind::Link),
    ] {
        assert_eq!(refused(&sink(&place.to, OnExists::Overwrite), &manifest(&offer), &place.to).0, kind, "{offer:?}");
    }
    assert_eq!(inside(&place.to), before);
}

#[test]
fn skip_keeps_existing_entries_and_adds_new_ones() {
    let (place, offer) = meeting();
    let sink = sink(&place.to, OnExists::Skip);
    receive(&sink, &offer).unwrap();
    assert_eq!(names(&place.to.join("d")), ["e", "l", "mine", "new"]);
    assert_eq!(names(&place.to.join("d/e")), ["old", "zero"]);
    assert_eq!(std::fs::read_to_string(place.to.join("d/e/old")).unwrap(), "old");
    assert_eq!(std::fs::read_to_string(place.to.join("f.txt")).unwrap(), "f");
    assert_eq!(std::fs::read_link(place.to.join("d/l")).unwrap(), Path::new("mine"));
    assert_eq!(std::fs::read(place.to.join("g.txt")).unwrap(), contents(8, 30));
    assert_eq!(sink.skipped(), (vec!["d/e/old".into(), "d/l".into(), "f.txt".into()], 3));
    assert_eq!(names(&place.to), ["d", "f.txt", "g.txt"]);
}

#[test]
fn rename_finds_free_names_at_the_top() {
    let (place, offer) = meeting();
    std::fs::write(place.to.join("f (1).txt"), "taken").unwrap();
    let before = inside(&place.to);
    let sink = sink(&place.to, OnExists::Rename);
    receive(&sink, &offer).unwrap();
    assert_eq!(names(&place.to), ["d", "d (1)", "f (1).txt", "f (2).txt", "f.txt", "g.txt"]);
    assert_eq!(names(&place.to.join("d (1)")), ["e", "l", "new"]);
    assert_eq!(std::fs::read(place.to.join("f (2).txt")).unwrap(), contents(7, 20));
    let mut placed: Vec<_> = sink.placed().into_iter().map(|placed| (placed.offered, placed.here)).collect();
    placed.sort();
    let expected = [("d", "d (1)"), ("f.txt", "f (2).txt"), ("g.txt", "g.txt")];
    assert_eq!(placed, expected.map(|(offered, here)| (offered.to_owned(), here.to_owned())));
    let after = inside(&place.to);
    assert!(before.iter().all(|(path, text)| after[path] == *text), "what was there is as it was");
}

#[test]
fn two_receivers_use_separate_staging() {
    let place = Place::new();
    let offer = manifest(&[dir("d"), file("d/x", 10), file("y", 10)]);
    let (one, other) = (sink(&place.to, OnExists::Rename), sink(&place.to, OnExists::Rename));
    one.begin(&offer).unwrap();
    other.begin(&offer).unwrap();
    let staged = names(&place.to);
    assert_eq!(staged.len(), 2, "{staged:?}");
    let id: String = offer.digest()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(staged, [format!(".tallow-{id}"), format!(".tallow-{id}-2")]);
    for name in &staged {
        assert_eq!(std::fs::metadata(place.to.join(name)).unwrap().mode() & 0o7777, 0o700);
    }
    for (index, entry) in offer.entries().filter(|(_, entry)| entry.size() > 0) {
        one.write(index, &entry, 0, &[1; 10]).unwrap();
        other.write(index, &entry, 0, &[2; 10]).unwrap();
    }
    finish(&other).unwrap();
    assert_eq!(std::fs::read(place.to.join("d/x")).unwrap(), [2; 10]);
    one.abandon();
    assert_eq!(names(&place.to), ["d", "y"]);
    assert_eq!(std::fs::read(place.to.join("y")).unwrap(), [2; 10]);
}

#[test]
fn a_killed_receivers_staging_is_used_again() {
    let place = Place::new();
    let offer = manifest(&[dir("d"), file("d/x", 10), file("y", 200_000)]);
    let killed = sink(&place.to, OnExists::Refuse);
    killed.begin(&offer).unwrap();
    let (index, y) = offer.entries().last().unwrap();
    killed.write(index, &y, 0, &[1; 1000]).unwrap();
    assert_eq!(std::fs::metadata(place.to.join(&names(&place.to)[0]).join("tree/y")).unwrap().mode() & 0o7777, 0o600);
    drop(killed);
    assert_eq!(names(&place.to).len(), 1);
    receive(&sink(&place.to, OnExists::Refuse), &offer).unwrap();
    assert_eq!(names(&place.to), ["d", "y"]);
    assert_eq!(std::fs::read(place.to.join("y")).unwrap(), contents(2, 200_000));
}

#[test]
fn foreign_entry_under_staging_name_is_kept() {
    let place = Place::new();
    let offer = manifest(&[file("y", 10)]);
    let id: String = offer.digest()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    symlink(&place.outside, place.to.join(format!(".tallow-{id}"))).unwrap();
    std::fs::write(place.to.join(format!(".tallow-{id}-2")), "a file").unwrap();
    receive(&sink(&place.to, OnExists::Refuse), &offer).unwrap();
    assert_eq!(names(&place.to), [format!(".tallow-{id}"), format!(".tallow-{id}-2"), "y".into()]);
    place.untouched();
}

#[test]
fn abandon_removes_all_files() {
    let place = Place::new();
    let deep: String = (0..60).map(|level| format!("{level}/")).collect();
    let mut entries = vec![file("a", 10), file(&format!("{deep}x"), 10), link("l", "../x".trim_start_matches("../"))];
    entries.extend((0..300).map(|number| file(&format!("many/{number}/x"), 1)));
    let offer = manifest(&entries);
    // After the beginning, after writing, and half way through the end, into a destination that was and one that was
    // not.
    for to in [place.to.clone(), place.to.join("new/deeper")] {
        let before = inside(&place.to);
        for stage in 0..3 {
            let sink = sink(&to, OnExists::Refuse);
            sink.begin(&offer).unwrap();
            assert!(to.exists());
            if stage > 0 {
                for (index, entry) in offer.entries().filter(|(_, entry)| entry.size() > 0) {
                    sink.write(index, &entry, 0, &vec![1; entry.size() as usize]).unwrap();
                }
            }
            if stage > 1 {
                assert!(!sink.finish(2).unwrap());
            }
            sink.abandon();
            assert_eq!(inside(&place.to), before, "stage {stage}");
        }
    }
    place.untouched();
}

#[test]
fn abandon_removes_inaccessible_directories() {
    let place = Place::new();
    let offer = manifest(&[
        entry("d", EntryKind::Dir, 0),
        entry("d/e", EntryKind::Dir, 0o100),
        file("d/e/x", 3),
        link("d/l", "e"),
    ]);
    let sink = sink(&place.to, OnExists::Refuse);
    sink.begin(&offer).unwrap();
    sink.write(2, &offer.entry(2).unwrap(), 0, b"abc").unwrap();
    let staged = place.to.join(&names(&place.to)[0]).join("tree");
    symlink(&place.outside, staged.join("d/planted")).unwrap();
    chmod(&staged.join("d/e"), 0);
    chmod(&staged.join("d"), 0);
    sink.abandon();
    assert_eq!(names(&place.to), [""; 0]);
    place.untouched();
}

#[test]
fn directories_without_permissions_arrive() {
    let place = Place::new();
    let offer = [
        entry("d", EntryKind::Dir, 0o555),
        entry("d/e", EntryKind::Dir, 0o500),
        file("d/e/x", 3),
        entry("d/f", EntryKind::Dir, 0),
    ];
    let whole = sink(&place.to, OnExists::Refuse);
    receive(&whole, &manifest(&offer)).unwrap();
    let mode = |path: &str| std::fs::metadata(place.to.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("d"), mode("d/e"), mode("d/f")), (0o555, 0o500, 0));
    assert_eq!(std::fs::metadata(place.to.join("d")).unwrap().mtime(), 1_000_000_000);
    // Into a directory that is there.
    std::fs::create_dir(place.to.join("m")).unwrap();
    let offer = [entry("m", EntryKind::Dir, 0), entry("m/e", EntryKind::Dir, 0o500), file("m/e/x", 3)];
    receive(&sink(&place.to, OnExists::Overwrite), &manifest(&offer)).unwrap();
    assert_eq!(mode("m/e"), 0o500);
    for path in ["d", "d/e", "d/f", "m/e"] {
        chmod(&place.to.join(path), 0o755);
    }
}

#[test]
fn implied_directories_get_default_mode() {
    let place = Place::new();
    receive(&sink(&place.to, OnExists::Refuse), &manifest(&[file("a/b/x", 3), entry("a/b", EntryKind::Dir, 0o700)]))
        .unwrap();
    let plain = std::fs::metadata(&place.outside).unwrap().mode() & 0o777;
    assert_eq!(std::fs::metadata(place.to.join("a")).unwrap().mode() & 0o777, plain);
    assert_eq!(std::fs::metadata(place.to.join("a/b")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn i1_incomplete_file_never_gets_its_final_name() {
    let place = Place::new();
    let offer = manifest(&[file("a", 10), file("b", 100_000)]);
    let sink = sink(&place.to, OnExists::Refuse);
    sink.begin(&offer).unwrap();
    sink.write(0, &offer.entry(0).unwrap(), 0, &[1; 10]).unwrap();
    sink.write(1, &offer.entry(1).unwrap(), 0, &[1; 99_999]).unwrap();
    assert!(finish(&sink).is_err());
    sink.abandon();
    assert_eq!(names(&place.to), [""; 0]);
}

#[test]
fn one_file_is_written_by_many_threads_in_any_order() {
    let place = Place::new();
    let (size, piece) = (1_000_000_usize, 7_777_usize);
    let offer = manifest(&[file("d/big", size as u64)]);
    let sink = sink(&place.to, OnExists::Refuse);
    sink.begin(&offer).unwrap();
    let (entry, expected) = (offer.entry(0).unwrap(), contents(0, size as u64));
    let pieces: Vec<_> = expected.chunks(piece).enumerate().collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (pieces, sink, entry) = (&pieces, &sink, &entry);
            scope.spawn(move || {
                for (number, bytes) in pieces.iter().rev().filter(|(number, _)| number % 4 == thread) {
                    sink.write(0, entry, (number * piece) as u64, bytes).unwrap();
                }
            });
        }
    });
    finish(&sink).unwrap();
    assert_eq!(std::fs::read(place.to.join("d/big")).unwrap(), expected);
    assert_eq!(std::fs::metadata(place.to.join("d/big")).unwrap().mtime(), 1_000_000_000);
}

#[test]
fn f13_invalid_destination_is_reported_with_path() {
    let place = Place::new();
    std::fs::write(place.to.join("file"), "").unwrap();
    for below in ["file", "file/new", "file/new/er"] {
        let path = place.to.join(below);
        let fault = Destination::open(&path, Policy::default()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Io(std::io::ErrorKind::NotADirectory), "{below}");
        assert!(fault.path.as_deref().unwrap().ends_with(below), "{}", told(&fault));
    }
    let fault = Destination::open(Path::new("/proc/self/new"), Policy::default());
    let fault = fault.and_then(|destination| destination.sink().begin(&manifest(&[file("x", 0)]))).unwrap_err();
    assert!(fault.path.is_some());
    if rustix::process::geteuid().is_root() {
        println!("skipped: root may write to a directory that is read-only");
        return;
    }
    chmod(&place.to, 0o555);
    let fault = Destination::open(&place.to, Policy::default()).unwrap_err();
    assert_eq!(
        (fault.kind, fault.path.as_deref()),
        (FaultKind::Io(std::io::ErrorKind::PermissionDenied), place.to.to_str())
    );
    assert!(Destination::open(&place.to.join("new"), Policy::default()).is_err());
    chmod(&place.to, 0o755);
}

#[test]
fn p04_an_offer_without_room_is_refused_before_any_write() {
    let place = Place::new();
    let to = place.to.join("new");
    for sizes in [vec![1 << 60], vec![1 << 62, 1 << 61], vec![1 << 50; 100]] {
        let entries: Vec<_> =
            sizes.iter().enumerate().map(|(number, size)| file(&format!("{number}"), *size)).collect();
        let fault = sink(&to, OnExists::Refuse).begin(&manifest(&entries)).unwrap_err();
        let FaultKind::Full { need, have } = fault.kind else { panic!("{fault:?}") };
        assert!(need >= sizes.iter().sum::<u64>() && have < need);
        assert_eq!(names(&place.to), [""; 0]);
    }
}

/// A small separate file system; `None`: not root, or not allowed to mount.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tallow-test"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: a file system can't be mounted here (it takes root)");
        }
        mounted.then_some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn f01_full_disk_is_reported_before_and_during_writes() {
    let Some(small) = Small::new("8m") else { return };
    let to = small.0.path().join("to");
    let fault = sink(&to, OnExists::Refuse).begin(&manifest(&[file("x", 9 << 20)])).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Full { need, have } if need > 9 << 20 && have <= 8 << 20), "{fault:?}");
    assert!(!to.exists());
    // A neighbour fills it half way.
    let offer = manifest(&[file("x", 6 << 20), file("y", 100)]);
    let receiving = sink(&to, OnExists::Refuse);
    receiving.begin(&offer).unwrap();
    let (x, piece) = (offer.entry(0).unwrap(), vec![1; 1 << 20]);
    receiving.write(0, &x, 0, &piece).unwrap();
    std::fs::write(small.0.path().join("neighbour"), vec![0; 4 << 20]).unwrap();
    let fault = (1..6).find_map(|part| receiving.write(0, &x, part << 20, &piece).err()).unwrap();
    assert!(matches!(fault.kind, FaultKind::Full { need, have } if have < need && need <= 5 << 20), "{fault:?}");
    assert_eq!(fault.path.as_deref(), to.join("x").to_str());
    receiving.abandon();
    assert_eq!(names(small.0.path()), ["neighbour"]);
    std::fs::remove_file(small.0.path().join("neighbour")).unwrap();
    receive(&sink(&to, OnExists::Refuse), &offer).unwrap();
    assert_eq!(names(&to), ["x", "y"]);
}

#[test]
fn sink_refuses_writes_before_begin() {
    let place = Place::new();
    let offer = manifest(&[file("x", 3)]);
    let sink = Destination::open(&place.to, policy(OnExists::Refuse)).unwrap().sink();
    assert!(sink.write(0, &offer.entry(0).unwrap(), 0, b"abc").is_err() && sink.finish(1).is_err());
    sink.abandon();
    assert_eq!(names(&place.to), [""; 0]);
    let nothing = manifest(&[]);
    sink.begin(&nothing).unwrap();
    finish(&sink).unwrap();
    sink.abandon();
    assert_eq!(std::fs::metadata(&place.to).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn another_file_system_is_reported_before_any_write() {
    let Some(small) = Small::new("1m") else { return };
    let place = Place::new();
    let to = small.0.path();
    std::fs::create_dir_all(to.join("d/mounted")).unwrap();
    let bound =
        std::process::Command::new("mount").arg("--bind").arg(&place.outside).arg(to.join("d/mounted")).status();
    assert!(bound.unwrap().success());
    let offer = manifest(&[dir("d"), file("d/x", 3), file("d/mounted/y", 3)]);
    let found = refused(&sink(to, OnExists::Overwrite), &offer, to);
    let unmounted = std::process::Command::new("umount").arg(to.join("d/mounted")).status();
    assert!(unmounted.unwrap().success());
    assert_eq!(found, (FaultKind::System(rustix::io::Errno::XDEV.raw_os_error()), "d/mounted".into()));
    assert_eq!(names(to), ["d"]);
    place.untouched();
}
