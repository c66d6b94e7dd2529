//! Containment, by both methods, at rest and against a thread that swaps names.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

const METHODS: [Method; 2] = [Method::Kernel, Method::ByComponent];

#[test]
fn openat2_is_available() {
    // Otherwise half of the tests below do not test it.
    assert_eq!(Method::best(), Method::Kernel);
}

#[test]
fn n09_link_in_any_path_component_is_refused() {
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
        let errno =
            |path: &str| dir.descend_by(method, path).map(|_| ()).map_err(|error| error.raw_os_error().unwrap());
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
fn n01_name_that_is_not_one_component_is_never_opened() {
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
fn make_file_never_opens_existing_entry() {
    let root = tempfile::tempdir().unwrap();
    let victim = root.path().join("victim");
    std::fs::create_dir(root.path().join("in")).unwrap();
    symlink(&victim, root.path().join("in/dangling")).unwrap();
    std::fs::write(root.path().join("in/file"), "old").unwrap();
    let dir = Dir::open_trusted(&root.path().join("in")).unwrap();
    for (name, method) in ["dangling", "file"].into_iter().flat_map(|name| METHODS.map(|method| (name, method))) {
        let refused = dir.make_file_by(method, name, PRIVATE_FILE).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{name} {method:?}");
    }
    assert_eq!(dir.reopen_file("dangling").unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    assert!(!victim.exists());
    rustix::fs::mkfifoat(CWD, root.path().join("in/fifo"), PRIVATE_FILE).unwrap();
    assert!(dir.reopen_file("fifo").is_err(), "and does not wait for a reader");
}

#[test]
fn move_never_replaces_existing_entry() {
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
    // A replacement replaces the link, not its target.
    dir.replace("c", &dir, "link").unwrap();
    assert_eq!(std::fs::read_to_string(root.path().join("b")).unwrap(), "b");
}

/// The counts of a race.
struct Race {
    opens: u64,
    made: u64,
    escaped: usize,
    swaps: u64,
}

impl std::fmt::Display for Race {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { opens, made, escaped, swaps } = self;
        write!(f, "{opens} opens, {swaps} swaps, {made} files made, {escaped} outside")
    }
}

/// Creates files in `d/e` through `make` while another thread swaps `d` and `d/e` with links to a directory outside.
/// It runs until there were `opens` attempts, a fifth as many swaps, and some successful attempts.
fn race(opens: u64, make: impl Fn(&Path, &Dir, &str) -> io::Result<()>) -> Race {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (inside, outside) = (root.path().join("in"), root.path().join("out"));
    std::fs::create_dir_all(inside.join("d/e")).unwrap();
    std::fs::create_dir_all(outside.join("e")).unwrap();
    symlink(&outside, inside.join("l")).unwrap();
    symlink(outside.join("e"), inside.join("d/k")).unwrap();
    let dir = Dir::open_trusted(&inside).unwrap();
    let within = dir.descend("d/e").unwrap();
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut tries, mut made) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (one, other) in [("d", "l"), ("d", "l"), ("d/e", "d/k"), ("d/e", "d/k")] {
                    renameat_with(&dir, one, &dir, other, RenameFlags::EXCHANGE).unwrap();
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        while tries < opens || made < opens / 100 || swaps.load(Ordering::Relaxed) < opens / 5 {
            let name = format!("f{tries}");
            made += u64::from(make(&inside, &dir, &name).is_ok());
            tries += 1;
            // A file in the right place is removed, so that a long run does not fill the disk; any other file stays
            // and is counted.
            within.remove_file(name.as_str()).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let count = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
    let escaped = count(&outside.join("e")) + count(&outside) - 1;
    Race { opens: tries, made, escaped, swaps: swaps.into_inner() }
}

#[test]
fn n10_no_race_escapes_directory() {
    let opens = if std::env::var_os("TALLOW_LONG").is_some() { 1_000_000 } else { 20_000 };
    for method in METHODS {
        let race = race(opens, |_, dir, name| {
            dir.descend_by(method, "d/e")?.make_file_by(method, name, PRIVATE_FILE).map(|_| ())
        });
        println!("{method:?}: {race}");
        assert_eq!(race.escaped, 0, "{method:?}");
    }
}

#[test]
fn n10_race_harness_detects_check_then_use() {
    let mut opens = 20_000;
    loop {
        let race = race(opens, |inside, _, name| {
            for part in ["d", "d/e"] {
                if !std::fs::symlink_metadata(inside.join(part))?.is_dir() {
                    return Err(Errno::LOOP.into());
                }
            }
            std::fs::File::create_new(inside.join("d/e").join(name)).map(|_| ())
        });
        println!("check, then use: {race}");
        if race.escaped > 0 {
            return;
        }
        opens *= 4;
        assert!(opens < 6_000_000, "the harness is blind: a naive check never escaped");
    }
}

/// Another process replaces the file with a link between the check and the change of its mode.
#[test]
fn a_mode_is_never_changed_through_a_link() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let root = tempfile::tempdir().unwrap();
    let (inside, outside) = (root.path().join("in"), root.path().join("out"));
    std::fs::create_dir(&inside).unwrap();
    std::fs::create_dir(&outside).unwrap();
    let set = |path: &std::path::Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    std::fs::write(outside.join("file"), "").unwrap();
    std::fs::create_dir(outside.join("dir")).unwrap();
    std::fs::write(inside.join("file"), "").unwrap();
    std::fs::create_dir(inside.join("dir")).unwrap();
    for name in ["file", "dir"] {
        set(&outside.join(name), 0o755);
        symlink(outside.join(name), inside.join(format!("{name}-link"))).unwrap();
    }
    let dir = Dir::open_trusted(&inside).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for (name, link) in [(c"file", c"file-link"), (c"dir", c"dir-link")] {
                    renameat_with(&dir.0, name, &dir.0, link, RenameFlags::EXCHANGE).unwrap();
                }
            }
        });
        let mut changed = 0;
        for _ in 0..200_000 {
            // Of a link that is there at the moment it is an error.
            changed += u32::from(dir.unlock_file("file").is_ok()) + u32::from(dir.unlock_dir("dir").is_ok());
        }
        over.store(true, Ordering::Relaxed);
        assert!(changed > 0);
    });
    for name in ["file", "dir"] {
        let mode = std::fs::metadata(outside.join(name)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o755, "{name}");
    }
}
