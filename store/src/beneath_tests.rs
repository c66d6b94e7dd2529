//! Containment, by both methods, at rest and against a thread that swaps names.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

const METHODS: [Method; 2] = [Method::Kernel, Method::ByComponent];

#[test]
fn this_system_has_the_kernels_method() {
    // Else half of the tests below say nothing about it.
    assert_eq!(Method::best(), Method::Kernel);
}

#[test]
fn n09_a_link_anywhere_on_the_way_is_refused_by_both_methods() {
    let root = tempfile::tempdir().unwrap();
    let (inside, outside) = (root.path().join("in"), root.path().join("out"));
    std::fs::create_dir_all(inside.join("a/b/c")).unwrap();
    std::fs::create_dir_all(outside.join("b/c")).unwrap();
    symlink(&outside, inside.join("absolute")).unwrap();
    symlink("../../out", inside.join("a/up")).unwrap();
    symlink("b", inside.join("a/within")).unwrap();
    std::fs::write(inside.join("file"), "").unwrap();
    let dir = Dir::open_trusted(&inside).unwrap();
    for method in METHODS {
        let errno = |path: &str| dir.descend_by(method, path).map(|_| ()).map_err(|error| error.raw_os_error().unwrap());
        assert_eq!(errno("a/b/c"), Ok(()));
        for link in ["absolute", "absolute/b", "a/up", "a/up/b", "a/within", "a/within/c"] {
            assert_eq!(errno(link), Err(Errno::LOOP.raw_os_error()), "{method:?} {link}");
        }
        assert_eq!(errno("file"), Err(Errno::NOTDIR.raw_os_error()), "{method:?}");
        assert_eq!(errno("a/none/c"), Err(Errno::NOENT.raw_os_error()), "{method:?}");
        for way_out in ["..", "a/../../out", "../out", "/", "/etc", "a/b/../../../out"] {
            assert!(errno(way_out).is_err(), "{method:?} {way_out}");
        }
    }
}

#[test]
fn n01_a_name_that_is_no_component_is_never_opened() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("in/d")).unwrap();
    std::fs::write(root.path().join("victim"), "old").unwrap();
    let dir = Dir::open_trusted(&root.path().join("in")).unwrap();
    for name in ["", ".", "..", "../victim", "/tmp", "d/x", "d/../../victim", "x\0y"] {
        let refused = [
            dir.make_file(name, PRIVATE_FILE).map(|_| ()),
            dir.reopen_file(name).map(|_| ()),
            dir.make_dir(name, PRIVATE_DIR),
            dir.make_link(name, "x"),
            dir.child(name).map(|_| ()),
            dir.stat(name).map(|_| ()),
            dir.remove_file(name).map(|_| ()),
            dir.remove_dir(name).map(|_| ()),
            dir.move_to(name, &dir, "new"),
            dir.move_to("d", &dir, name),
            dir.replace("d", &dir, name),
            dir.unlock_dir(name),
        ];
        assert!(refused.iter().all(|result| result.is_err()), "{name:?} {refused:?}");
    }
    assert_eq!(std::fs::read_to_string(root.path().join("victim")).unwrap(), "old");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
}

#[test]
fn a_made_file_is_never_one_that_is_there() {
    let root = tempfile::tempdir().unwrap();
    let victim = root.path().join("victim");
    std::fs::create_dir(root.path().join("in")).unwrap();
    symlink(&victim, root.path().join("in/dangling")).unwrap();
    std::fs::write(root.path().join("in/file"), "old").unwrap();
    let dir = Dir::open_trusted(&root.path().join("in")).unwrap();
    for name in ["dangling", "file"] {
        assert_eq!(dir.make_file(name, PRIVATE_FILE).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{name}");
    }
    assert_eq!(dir.reopen_file("dangling").unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    assert!(!victim.exists());
    rustix::fs::mkfifoat(CWD, root.path().join("in/fifo"), PRIVATE_FILE).unwrap();
    assert!(dir.reopen_file("fifo").is_err(), "and does not wait for a reader");
}

#[test]
fn a_move_never_replaces() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a"), "a").unwrap();
    std::fs::write(root.path().join("b"), "b").unwrap();
    symlink("b", root.path().join("link")).unwrap();
    std::fs::create_dir(root.path().join("empty")).unwrap();
    let dir = Dir::open_trusted(root.path()).unwrap();
    for there in ["b", "link", "empty"] {
        assert_eq!(dir.move_to("a", &dir, there).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{there}");
    }
    dir.move_to("a", &dir, "c").unwrap();
    assert_eq!(std::fs::read_to_string(root.path().join("c")).unwrap(), "a");
    // A replacement replaces the link, not what it leads to.
    dir.replace("c", &dir, "link").unwrap();
    assert_eq!(std::fs::read_to_string(root.path().join("b")).unwrap(), "b");
}

/// Makes files in `d/e` through `make` while another thread swaps `d` and `d/e` with links to a directory outside. How many of
/// `opens` were made, how many of them outside, and how many swaps there were.
fn race(opens: u64, make: impl Fn(&Path, &Dir, &str) -> io::Result<()>) -> (u64, usize, u64) {
    let root = tempfile::tempdir().unwrap();
    let (inside, outside) = (root.path().join("in"), root.path().join("out"));
    std::fs::create_dir_all(inside.join("d/e")).unwrap();
    std::fs::create_dir_all(outside.join("e")).unwrap();
    symlink(&outside, inside.join("l")).unwrap();
    symlink(outside.join("e"), inside.join("d/k")).unwrap();
    symlink(outside.join("e"), outside.join("k")).unwrap();
    let dir = Dir::open_trusted(&inside).unwrap();
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let made = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // The outer one is away half of the time, and then the inner one can't be swapped.
                for (one, other) in [("d", "l"), ("d/e", "d/k"), ("d", "l"), ("d/e", "d/k")] {
                    let swapped = renameat_with(&dir, one, &dir, other, RenameFlags::EXCHANGE);
                    swaps.fetch_add(u64::from(swapped.is_ok()), Ordering::Relaxed);
                }
            }
        });
        let made = (0..opens).filter(|number| make(&inside, &dir, &format!("f{number}")).is_ok()).count();
        stop.store(true, Ordering::Relaxed);
        made as u64
    });
    let escaped = std::fs::read_dir(outside.join("e")).unwrap().count() + std::fs::read_dir(&outside).unwrap().count() - 2;
    (made, escaped, swaps.load(Ordering::Relaxed))
}

#[test]
fn n10_no_race_leads_out() {
    let opens = if std::env::var_os("TALLOW_LONG").is_some() { 1_000_000 } else { 20_000 };
    for method in METHODS {
        let (made, escaped, swaps) = race(opens, |_, dir, name| {
            let file = dir.descend_by(method, "d/e")?.make_file(name, PRIVATE_FILE);
            dir.descend_by(method, "d/e").and_then(|dir| dir.remove_file(name)).ok();
            file.map(|_| ())
        });
        println!("{method:?}: {made} of {opens} files made, {escaped} outside, {swaps} swaps");
        assert_eq!(escaped, 0, "{method:?}");
        assert!(made > opens / 20, "{method:?}: the race hardly let anything through ({made})");
        assert!(swaps > opens / 20, "{method:?}: hardly any swaps ({swaps})");
    }
}

#[test]
fn n10_the_harness_catches_a_check_before_the_use() {
    let mut opens = 20_000;
    loop {
        let (made, escaped, swaps) = race(opens, |inside, _, name| {
            for part in ["d", "d/e"] {
                if !std::fs::symlink_metadata(inside.join(part))?.is_dir() {
                    return Err(Errno::LOOP.into());
                }
            }
            std::fs::File::create_new(inside.join("d/e").join(name)).map(|_| ())
        });
        println!("check, then use: {made} of {opens} files made, {escaped} outside, {swaps} swaps");
        if escaped > 0 {
            return;
        }
        opens *= 4;
        assert!(opens < 6_000_000, "the harness is blind: a naive check never escaped");
    }
}
