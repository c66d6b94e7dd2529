//! Trees of all shapes are sent from a source to a sink and compared.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{chmod, fingerprint, names, receive_from, scan, sink, source, transfer};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tallow_proto::transfer::storage::Source;
use tallow_store::{Destination, Naming, OnExists, Policy, SourceOptions};

/// The kinds of entries in a generated tree.
#[derive(Debug, Clone)]
enum Node {
    File { size: usize, mode: u32, seconds: i64, nanos: u32 },
    Link(u8),
    Dir { mode: u32, seconds: i64, inside: BTreeMap<String, Node> },
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z]{1,8}(\\.[a-z]{1,3})?",
        1 => "[ぁ-んァ-ヶ一-龠]{1,20}",
        1 => Just("レポート 2026.txt".to_owned()),
        1 => "[A-Z .é🙂_-]{1,12}x",
        1 => "[a-z]{200,255}",
        // What other systems can't hold, or not side by side.
        1 => "[A-Ca-c:\\\\?]{1,2}[. ]?",
    ]
}

fn mtime() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), Just(-1), 1_i64..4_000_000_000]
}

fn node() -> impl Strategy<Value = Node> {
    // Modes that the usual umask allows.
    let mode = prop_oneof![
        3 => Just(0o644), 1 => Just(0o755), 1 => Just(0o400), 1 => (0_u32..0o1000).prop_map(|mode| mode & 0o755)
    ];
    let size = prop_oneof![2 => Just(0), 6 => 1_usize..5000, 1 => 60_000_usize..70_000, 1 => 100_000_usize..400_000];
    let leaf = prop_oneof![
        8 => (size, mode, mtime(), 0_u32..1_000_000_000)
            .prop_map(|(size, mode, seconds, nanos)| Node::File { size, mode, seconds, nanos }),
        1 => any::<u8>().prop_map(Node::Link),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let mode = prop_oneof![3 => Just(0o755), 1 => Just(0o700), 1 => Just(0o555), 1 => Just(0o1)];
        (mode, mtime(), prop::collection::btree_map(name(), inner, 0..8))
            .prop_map(|(mode, seconds, inside)| Node::Dir { mode, seconds, inside })
    })
}

fn build(path: &Path, node: &Node, depth: usize) {
    // Only root can read a file without read permission.
    let always = if rustix::process::geteuid().is_root() { 0 } else { 0o700 };
    let time = |seconds: i64, nanos: u32| {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let base = if seconds < 0 { SystemTime::UNIX_EPOCH - whole } else { SystemTime::UNIX_EPOCH + whole };
        base + Duration::from_nanos(nanos.into())
    };
    match node {
        Node::File { size, mode, seconds, nanos } => {
            let contents: Vec<u8> = (0..*size).map(|at| (at * 7 + size) as u8).collect();
            std::fs::write(path, contents).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_modified(time(*seconds, *nanos)).unwrap();
            chmod(path, *mode | always);
        }
        Node::Link(kind) => {
            let target = match kind % 3 {
                0 => "somewhere/in here".to_owned(),
                1 => "../".repeat(depth - 2) + "x",
                _ => ".".to_owned(),
            };
            symlink(target, path).unwrap();
        }
        Node::Dir { mode, seconds, inside } => {
            std::fs::create_dir(path).unwrap();
            for (name, node) in inside {
                build(&path.join(name), node, depth + 1);
            }
            std::fs::File::open(path).unwrap().set_modified(time(*seconds, 0)).unwrap();
            chmod(path, *mode | always);
        }
    }
}

/// Links have no time that can be set from here.
fn comparable(dir: &Path) -> BTreeMap<std::path::PathBuf, String> {
    let mut found = fingerprint(dir);
    for text in found.values_mut() {
        if text.starts_with("120777 ") {
            *text = text.rsplit(' ').next().unwrap().to_owned();
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn any_tree_round_trips(nodes in prop::collection::btree_map(name(), node(), 1..5), slices in 1_usize..40) {
        let root = common::quick_dir();
        let from = root.path().join("from");
        let top = Node::Dir { mode: 0o755, seconds: 1_700_000_000, inside: nodes };
        build(&from, &top, 1);
        let before = fingerprint(&from);
        let tree = source(&[&from], SourceOptions::default());
        let to = root.path().join("new/to");
        // Some of these names have invisible characters.
        let as_they_are = Policy { naming: Naming::Exact, ..Policy::default() };
        let sink = Destination::open(&to, as_they_are).unwrap().sink();
        let manifest = scan(&tree).unwrap();
        receive_from(
            &sink, &manifest, 10_000 * slices, &|index, entry, at, into| tree.read(index, entry, at, into)
        ).unwrap();
        prop_assert_eq!(tree.skipped().total(), 0);
        prop_assert_eq!(comparable(&to.join("from")), comparable(&from));
        prop_assert_eq!(names(&to), ["from"], "nothing else is left");
        prop_assert_eq!(fingerprint(&from), before, "the source is as it was");
    }
}

#[test]
fn several_paths_arrive_under_their_own_names() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path().join("here");
    std::fs::create_dir_all(here.join("dir/inner")).unwrap();
    std::fs::write(here.join("dir/inner/a"), "a").unwrap();
    std::fs::write(here.join("empty"), "").unwrap();
    std::fs::write(here.join("日本語.txt"), "こんにちは").unwrap();
    symlink("here/empty", root.path().join("alias")).unwrap();
    let tree = source(&[&here.join("dir/inner/..")], SourceOptions::default());
    let to = root.path().join("to");
    transfer(&tree, &sink(&to, OnExists::Refuse)).unwrap();
    let paths = [here.join("empty"), here.join("日本語.txt"), root.path().join("alias")];
    let tree = source(&paths.iter().map(|path| path.as_path()).collect::<Vec<_>>(), SourceOptions::default());
    let sink = sink(&to, OnExists::Refuse);
    transfer(&tree, &sink).unwrap();
    assert_eq!(names(&to), ["alias", "dir", "empty", "日本語.txt"]);
    assert_eq!(fingerprint(&to.join("dir")), fingerprint(&here.join("dir")));
    assert!(std::fs::symlink_metadata(to.join("alias")).unwrap().is_file(), "a link that was named is followed");
    assert_eq!(std::fs::read_to_string(to.join("日本語.txt")).unwrap(), "こんにちは");
    let placed: Vec<_> = sink.placed().into_iter().map(|placed| placed.here).collect();
    assert_eq!(placed.len(), 3);
}

#[test]
fn f12_sizes_around_a_chunk_arrive() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    std::fs::create_dir(&from).unwrap();
    for size in [0, 1, 65_535, 65_536, 65_537, 131_072, 1_000_000] {
        std::fs::write(from.join(format!("{size}")), vec![size as u8; size]).unwrap();
    }
    let tree = source(&[&from], SourceOptions::default());
    let to = root.path().join("to");
    transfer(&tree, &sink(&to, OnExists::Refuse)).unwrap();
    assert_eq!(fingerprint(&to.join("from")), fingerprint(&from));
}

#[test]
fn f13_twelve_descriptors_are_enough() {
    // The limit is the process's, so the test runs itself again.
    if std::env::var_os("TALLOW_FEW_FILES").is_none() {
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 12; exec \"$0\" --exact f13_twelve_descriptors_are_enough --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .env("TALLOW_FEW_FILES", "1")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    assert_eq!(rustix::process::getrlimit(rustix::process::Resource::Nofile).current, Some(12));
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    let mut deep = from.clone();
    for level in 0..30 {
        deep.push(format!("level {level}"));
        std::fs::create_dir_all(&deep).unwrap();
        for number in 0..5 {
            std::fs::write(deep.join(format!("file {number}")), vec![number; usize::from(number) * 70_000]).unwrap();
        }
    }
    let tree = source(&[&from], SourceOptions::default());
    let to = root.path().join("to");
    let first = sink(&to, OnExists::Refuse);
    transfer(&tree, &first).unwrap();
    drop((first, tree));
    assert_eq!(fingerprint(&to.join("from")), fingerprint(&from));
    // Merged into existing directories, and abandoned halfway: both times the deep tree is walked again.
    let tree = source(&[&from], SourceOptions::default());
    transfer(&tree, &sink(&to, OnExists::Overwrite)).unwrap();
    let tree = source(&[&from], SourceOptions::default());
    let last = sink(&root.path().join("never"), OnExists::Refuse);
    let manifest = scan(&tree).unwrap();
    tallow_proto::transfer::storage::Sink::begin(&*last, &manifest).unwrap();
    for (index, entry) in manifest.entries().filter(|(_, entry)| entry.size() > 0) {
        let mut contents = vec![0; entry.size() as usize];
        tree.read(index, &entry, 0, &mut contents).unwrap();
        tallow_proto::transfer::storage::Sink::write(&*last, index, &entry, 0, &contents).unwrap();
    }
    tallow_proto::transfer::storage::Sink::abandon(&*last);
    assert_eq!(names(root.path()), ["from", "to"]);
}
