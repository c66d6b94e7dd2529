//! Which files are sent and which are not: the walk, the names, and files that change.

mod common;

use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{chmod, scan, source, told};
use rustix::fs::{CWD, Mode};
use tallow_proto::transfer::manifest::{Entry, EntryKind, Manifest, Refusal};
use tallow_proto::transfer::path::PathError;
use tallow_proto::transfer::storage::{Fault, FaultKind, Source};
use tallow_store::{Links, SkipReason, SourceError, SourceOptions, SourceTree};

fn paths(manifest: &Manifest) -> Vec<String> {
    manifest.entries().map(|(_, entry)| entry.path.as_str().to_owned()).collect()
}

fn write(path: &Path, contents: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, contents).unwrap();
}

fn left_out(tree: &SourceTree, root: &Path) -> Vec<(String, SkipReason)> {
    let skipped = tree.skipped();
    assert_eq!(skipped.list().len() as u64, skipped.total());
    let mut list: Vec<_> = skipped
        .list()
        .iter()
        .map(|skipped| (skipped.path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), skipped.why))
        .collect();
    list.sort_by(|one, other| one.0.cmp(&other.0));
    list
}

#[test]
fn scan_order_is_stable() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    for name in ["b/2", "b/10", "b/1/x", "a.txt", "a/z", "Z", "é"] {
        write(&from.join(name), name);
    }
    let expected = [
        "from",
        "from/Z",
        "from/a",
        "from/a/z",
        "from/a.txt",
        "from/b",
        "from/b/1",
        "from/b/1/x",
        "from/b/10",
        "from/b/2",
        "from/é",
    ];
    let manifest = scan(&source(&[&from], SourceOptions::default())).unwrap();
    assert_eq!(paths(&manifest), expected);
    let again = scan(&source(&[&from], SourceOptions::default())).unwrap();
    assert_eq!(manifest.digest(), again.digest());
}

#[test]
fn dots_and_root_are_sent_under_real_names() {
    let root = tempfile::tempdir().unwrap();
    let inner = root.path().join("outer/inner");
    write(&inner.join("file"), "");
    let manifest = scan(&source(&[&inner.join("..")], SourceOptions::default())).unwrap();
    assert_eq!(paths(&manifest), ["outer", "outer/inner", "outer/inner/file"]);
    // `.` depends on the process's directory, which all tests share.
    let here = std::env::current_dir().unwrap();
    let excluded = SourceOptions {
        excludes: vec!["*".into(), format!("!/{}", here.file_name().unwrap().to_str().unwrap())],
        ..SourceOptions::default()
    };
    let manifest = scan(&source(&[Path::new(".")], excluded)).unwrap();
    assert_eq!(paths(&manifest), [here.file_name().unwrap().to_str().unwrap()]);
    let excluded = SourceOptions { excludes: vec!["/root/*".into()], ..SourceOptions::default() };
    let manifest = scan(&source(&[Path::new("/")], excluded)).unwrap();
    assert_eq!(paths(&manifest), ["root"]);
}

#[test]
fn paths_of_same_name_are_refused_with_both_paths() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a/x", "b/x", "b/X"] {
        write(&root.path().join(name), "");
    }
    let new = |paths: &[&str]| {
        SourceTree::new(paths.iter().map(|path| root.path().join(path)).collect(), SourceOptions::default())
            .unwrap_err()
    };
    let error = new(&["a/x", "b/x"]);
    assert!(matches!(error, SourceError::SameName(..)), "{error}");
    assert!(error.to_string().contains("a/x") && error.to_string().contains("b/x"), "{error}");
    assert!(matches!(new(&["none"]), SourceError::Io { .. }));
    assert!(new(&["none"]).to_string().ends_with("none: No such file or directory (os error 2)"), "{}", new(&["none"]));
    assert!(matches!(SourceTree::new(vec![], SourceOptions::default()), Err(SourceError::Nothing)));
}

#[test]
fn n11_a_named_special_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (fifo, socket) = (root.path().join("fifo"), root.path().join("socket"));
    rustix::fs::mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    let _listening = UnixListener::bind(&socket).unwrap();
    let begun = Instant::now();
    for path in
        [&*fifo, &*socket, Path::new("/dev/zero"), Path::new("/proc/kmsg"), Path::new("/proc/self"), Path::new("/sys")]
    {
        let error = SourceTree::new(vec![path.to_owned()], SourceOptions::default()).unwrap_err();
        assert!(error.to_string().ends_with(": not a regular file"), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn n11_special_files_in_a_tree_are_left_out_and_reported() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    write(&from.join("file"), "x");
    rustix::fs::mkfifoat(CWD, from.join("fifo"), Mode::RUSR).unwrap();
    let _listening = UnixListener::bind(from.join("socket")).unwrap();
    symlink("/etc/passwd", from.join("absolute")).unwrap();
    symlink("../../x", from.join("above")).unwrap();
    symlink("../sibling", from.join("beside")).unwrap();
    symlink("a/../b", from.join("late")).unwrap();
    symlink("file", from.join("kept")).unwrap();
    symlink("./.", from.join("circle")).unwrap();
    symlink("nothing", from.join("dangling")).unwrap();
    let tree = source(&[&from], SourceOptions::default());
    let manifest = scan(&tree).unwrap();
    assert_eq!(paths(&manifest), ["from", "from/circle", "from/dangling", "from/file", "from/kept"]);
    let expected = [
        ("above", SkipReason::LinkOutside),
        ("absolute", SkipReason::LinkOutside),
        ("beside", SkipReason::LinkOutside),
        ("fifo", SkipReason::Special),
        ("late", SkipReason::LinkOutside),
        ("socket", SkipReason::Special),
    ];
    assert_eq!(left_out(&tree, &from), expected.map(|(name, why)| (name.to_owned(), why)));
    // The neighbouring file is sent too, so the link has a target.
    write(&root.path().join("sibling"), "y");
    let tree = source(&[&from, &root.path().join("sibling")], SourceOptions::default());
    assert!(paths(&scan(&tree).unwrap()).contains(&"from/beside".to_owned()));
}

#[test]
fn n11_circular_links_are_skipped_when_followed() {
    let root = tempfile::tempdir().unwrap();
    let (from, away) = (root.path().join("from"), root.path().join("away"));
    write(&from.join("a/file"), "x");
    write(&away.join("far"), "y");
    symlink("..", from.join("a/back")).unwrap();
    symlink(&away, from.join("out")).unwrap();
    symlink("itself", from.join("itself")).unwrap();
    symlink("nothing", from.join("dangling")).unwrap();
    let options = SourceOptions { links: Links::Follow, ..SourceOptions::default() };
    let tree = source(&[&from], options);
    let manifest = scan(&tree).unwrap();
    assert_eq!(paths(&manifest), ["from", "from/a", "from/a/file", "from/out", "from/out/far"]);
    let expected =
        [("a/back", SkipReason::LinkLoop), ("dangling", SkipReason::LinkDangling), ("itself", SkipReason::LinkLoop)];
    assert_eq!(left_out(&tree, &from), expected.map(|(name, why)| (name.to_owned(), why)));
    let (index, far) = manifest.entries().last().unwrap();
    let mut contents = [0];
    tree.read(index, &far, 0, &mut contents).unwrap();
    assert_eq!(contents, *b"y");
}

#[test]
fn excluded_paths_are_not_read() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    for name in [
        "keep.rs",
        "drop.o",
        "sub/drop.o",
        "sub/keep.o",
        "target/x",
        "sub/target/y",
        "docs/build/z",
        "sub/docs/build/z",
        "#odd",
        "only/top",
    ] {
        write(&from.join(name), "");
    }
    rustix::fs::mkfifoat(CWD, from.join("target/fifo"), Mode::RUSR).unwrap();
    let sent = |excludes: &[&str]| {
        let options = SourceOptions {
            excludes: excludes.iter().map(|glob| (*glob).to_owned()).collect(),
            ..SourceOptions::default()
        };
        let tree = source(&[&from], options);
        let mut files: Vec<_> = paths(&scan(&tree).unwrap())
            .into_iter()
            .filter(|path| !from.parent().unwrap().join(path).is_dir())
            .collect();
        files.iter_mut().for_each(|path| *path = path["from/".len()..].to_owned());
        (files, tree.skipped().total())
    };
    let (files, skipped) = sent(&["*.o", "!keep.o", "target/", "docs/build", "#odd", "/from/only"]);
    assert_eq!((files, skipped), (vec!["keep.rs".into(), "sub/keep.o".into()], 0));
    let (files, skipped) = sent(&["/only", "build/z", "*.o", "keep*", "#*"]);
    assert_eq!((files, skipped), (vec!["only/top".into(), "sub/target/y".into(), "target/x".into()], 1));
    let bad = SourceOptions { excludes: vec!["a[".into()], ..SourceOptions::default() };
    let error = SourceTree::new(vec![from.clone()], bad).unwrap_err();
    assert!(error.to_string().starts_with("not a pattern: a["), "{error}");
    let all = SourceOptions { excludes: vec!["from".into()], ..SourceOptions::default() };
    assert_eq!(scan(&source(&[&from], all)).unwrap().totals().entries, 0);
}

#[test]
fn git_ignored_files_are_not_sent_with_git() {
    let root = tempfile::tempdir().unwrap();
    // Outside a repository a .gitignore of a parent directory has no effect.
    write(&root.path().join(".gitignore"), "*\n");
    let from = root.path().join("from");
    for name in [".gitignore", ".git/config", "src/main.rs", "src/.gitignore", "src/gen.rs", "out/x", ".hidden"] {
        write(&from.join(name), "");
    }
    write(&from.join(".gitignore"), "/out\n");
    write(&from.join("src/.gitignore"), "gen.rs\n");
    let options = SourceOptions { git: true, ..SourceOptions::default() };
    let expected = ["from", "from/.gitignore", "from/.hidden", "from/src", "from/src/.gitignore", "from/src/main.rs"];
    assert_eq!(paths(&scan(&source(&[&from], options.clone())).unwrap()), expected);
    // A part of a repository obeys the rules of the whole.
    write(&from.join(".gitignore"), "/out\nmain.rs\n");
    assert_eq!(paths(&scan(&source(&[&from.join("src")], options)).unwrap()), ["src", "src/.gitignore"]);
    // Without a repository only files inside the tree count.
    let plain = root.path().join("plain");
    write(&plain.join("kept"), "");
    write(&plain.join("in/left"), "");
    write(&plain.join("in/.gitignore"), "left\n");
    let options = SourceOptions { git: true, ..SourceOptions::default() };
    assert_eq!(
        paths(&scan(&source(&[&plain], options)).unwrap()),
        ["plain", "plain/in", "plain/in/.gitignore", "plain/kept"]
    );
    let all = paths(&scan(&source(&[&from], SourceOptions::default())).unwrap());
    assert!(all.contains(&"from/.git/config".to_owned()) && all.contains(&"from/out/x".to_owned()));
}

#[test]
fn unsendable_names_are_reported_with_path() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    std::fs::create_dir(&from).unwrap();
    let odd = |name: &[u8]| from.join(std::ffi::OsStr::from_bytes(name));
    for (name, why) in [(&b"a\xffb"[..], FaultKind::NotUtf8), (b"a\nb", Refusal::Name(PathError::Control(6)).into())] {
        std::fs::write(odd(name), "").unwrap();
        let fault = scan(&source(&[&from], SourceOptions::default())).unwrap_err();
        assert_eq!(fault.kind, why);
        assert!(fault.path.as_deref().unwrap().starts_with(&*from.to_string_lossy()), "{}", told(&fault));
        let error = SourceTree::new(vec![odd(name)], SourceOptions::default()).unwrap_err();
        assert!(matches!(error, SourceError::Names(_)));
        assert!(!error.to_string().contains('\n'), "{error}");
        std::fs::remove_file(odd(name)).unwrap();
    }
}

#[test]
fn unreadable_files_are_reported_while_scanning() {
    if rustix::process::geteuid().is_root() {
        println!("skipped: root can read everything");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    write(&from.join("dir/secret"), "x");
    for (path, mode) in [(from.join("dir/secret"), 0o600), (from.join("dir"), 0o700)] {
        chmod(&path, 0);
        let fault = scan(&source(&[&from], SourceOptions::default())).unwrap_err();
        assert_eq!(
            (fault.kind, fault.path.as_deref()),
            (FaultKind::Io(std::io::ErrorKind::PermissionDenied), path.to_str())
        );
        chmod(&path, mode);
    }
}

#[test]
fn pages_are_requested_once_and_in_order() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    for number in 0..5000 {
        write(&from.join(format!("{number}{}", "x".repeat(40))), "");
    }
    let tree = source(&[&from], SourceOptions::default());
    assert!(tree.scan(0).unwrap().is_some());
    assert_eq!(tree.scan(0).unwrap_err().kind, FaultKind::Internal);
    let pages = (1..).find(|page| tree.scan(*page).unwrap().is_none()).unwrap();
    let manifest = scan(&source(&[&from], SourceOptions::default())).unwrap();
    assert_eq!((manifest.totals().entries, manifest.pages()), (5001, pages));
    assert!(pages > 2);
}

/// A tree with a small and a large file, scanned; `read` reads a part of the large one, or all of the small one.
struct Sent {
    _root: tempfile::TempDir,
    small: PathBuf,
    large: PathBuf,
    tree: SourceTree,
    entries: Vec<(u32, Entry)>,
}

const LARGE: usize = 300_000;

impl Sent {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let from = root.path().join("from");
        let (small, large) = (from.join("small"), from.join("large"));
        write(&small, "small contents");
        write(&large, &"l".repeat(LARGE));
        // Made long ago: a change is not hidden by the clock's steps.
        for path in [&small, &large] {
            let long_ago = std::time::SystemTime::now() - Duration::from_secs(1000);
            std::fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        let tree = source(&[&from], SourceOptions::default());
        let manifest = scan(&tree).unwrap();
        let entries = manifest.entries().filter(|(_, entry)| matches!(entry.kind, EntryKind::File { .. })).collect();
        Self { _root: root, small, large, tree, entries }
    }

    fn read(&self, path: &Path, at: usize) -> Result<Vec<u8>, Fault> {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (index, entry) = self.entries.iter().find(|(_, entry)| entry.path.name() == name).unwrap();
        let len = usize::try_from(entry.size()).unwrap().min(100_000);
        let mut contents = vec![0; len];
        self.tree.read(*index, entry, at as u64, &mut contents).map(|()| contents)
    }
}

#[test]
fn f03_changed_file_is_reported_with_path() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 9] = [
        ("grows and keeps its time", |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let time = file.metadata().unwrap().modified().unwrap();
            file.set_len(file.metadata().unwrap().len() + 1).unwrap();
            file.set_modified(time).unwrap();
        }),
        ("grows", |path| std::fs::File::options().append(true).open(path).unwrap().write_all(b"x").unwrap()),
        ("shrinks", |path| std::fs::File::options().write(true).open(path).unwrap().set_len(3).unwrap()),
        ("is written again with the same size", |path| {
            let size = std::fs::metadata(path).unwrap().len();
            std::fs::write(path, vec![b'y'; size as usize]).unwrap();
        }),
        ("is replaced by one of the same size and time", |path| {
            let metadata = std::fs::metadata(path).unwrap();
            let other = path.with_extension("new");
            std::fs::write(&other, vec![b'z'; metadata.len() as usize]).unwrap();
            std::fs::File::options()
                .write(true)
                .open(&other)
                .unwrap()
                .set_modified(metadata.modified().unwrap())
                .unwrap();
            std::fs::rename(other, path).unwrap();
        }),
        ("is removed", |path| std::fs::remove_file(path).unwrap()),
        ("becomes a link", |path| {
            let moved = path.with_extension("moved");
            std::fs::rename(path, &moved).unwrap();
            symlink(moved, path).unwrap();
        }),
        ("becomes a FIFO", |path| {
            std::fs::remove_file(path).unwrap();
            rustix::fs::mkfifoat(CWD, path, Mode::RUSR).unwrap();
        }),
        ("loses its directory", |path| {
            let dir = path.parent().unwrap();
            std::fs::rename(dir, dir.with_extension("moved")).unwrap();
            std::fs::write(dir, "").unwrap();
        }),
    ];
    for (what, change) in changes {
        // Before the first read, and between two of the file that is kept open.
        for already_read in [false, true] {
            let sent = Sent::new();
            if already_read {
                sent.read(&sent.large, 0).unwrap();
                sent.read(&sent.small, 0).unwrap();
            }
            change(&sent.large);
            let fault = sent.read(&sent.large, 100_000).unwrap_err();
            assert_eq!(
                (fault.kind, fault.path.as_deref()),
                (FaultKind::Changed, sent.large.to_str()),
                "{what} {already_read}"
            );
            let sent = Sent::new();
            change(&sent.small);
            let fault = sent.read(&sent.small, 0).unwrap_err();
            assert_eq!(
                (fault.kind, fault.path.as_deref()),
                (FaultKind::Changed, sent.small.to_str()),
                "{what} {already_read}"
            );
        }
    }
}

#[test]
fn f03_change_during_read_is_reported() {
    let sent = Sent::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = std::fs::File::options().write(true).open(&sent.large).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![b'x'; LARGE], 0).unwrap();
        });
        while let Ok(contents) = sent.read(&sent.large, 0) {
            assert!(
                contents.iter().all(|letter| *letter == b'l'),
                "a read that succeeds is of the file that was scanned"
            );
        }
    });
}

#[test]
fn several_threads_read_same_files() {
    let sent = Sent::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let sent = &sent;
            scope.spawn(move || {
                for round in 0..200 {
                    sent.read(&sent.large, (thread * 50_000 + round) % 200_000).unwrap();
                    sent.read(&sent.small, 0).unwrap();
                }
            });
        }
    });
}
