//! Names, links, modes and times on disks that can't hold all of them: on an assumed one everywhere, and on a real
//! exFAT where it can be mounted.

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{Place, dir, file, link, manifest, names, receive, scan, sink, source, transfer};
use tallow_proto::transfer::component::NameRules;
use tallow_proto::transfer::journal::Stored;
use tallow_proto::transfer::manifest::Manifest;
use tallow_proto::transfer::storage::{FaultKind, Placement, Sink};
use tallow_store::{
    Destination, LinkReason, Links, Lost, NameProblem, Naming, OnExists, OutsideLinks, Policy, Receiving, SourceError,
    SourceOptions, SourceTree,
};

/// A disk that takes names for one that differ in case or composition, and holds those of Windows only.
fn narrow(to: &Path, policy: Policy) -> Arc<Receiving> {
    Destination::open(to, policy).unwrap().assuming(NameRules::PORTABLE, false, false).sink()
}

fn renamed(sink: &Receiving) -> Vec<(String, String)> {
    let renamed = sink.renamed();
    assert_eq!(renamed.list().len() as u64, renamed.total());
    renamed.list().iter().map(|name| (name.offered.clone(), name.here.clone())).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

fn odd_names() -> Arc<Manifest> {
    manifest(&[
        dir("CON"),
        file("CON/x.", 3),
        file("Screencast 10:22:33.webm", 4),
        file("README", 1),
        file("readme", 2),
        file("\u{e9}", 1),
        file("e\u{301}", 1),
        file("a\\b", 1),
        file("a?b*c<d>e|f\"g", 1),
        link("to", "CON/x."),
    ])
}

#[test]
fn n05_n07_an_ordinary_disk_keeps_names_as_they_are() {
    let place = Place::new();
    let (offer, sink) = (odd_names(), sink(&place.to, OnExists::Refuse));
    receive(&sink, &offer).unwrap();
    for (index, entry) in offer.entries() {
        assert!(place.to.join(entry.path.as_str()).symlink_metadata().is_ok(), "{index} {entry:?}");
    }
    assert_eq!((renamed(&sink), sink.placement()), (vec![], Placement::default()));
    place.untouched();
}

#[test]
fn n13_a_disk_that_holds_less_gets_portable_names() {
    let place = Place::new();
    let offer = odd_names();
    let sink = narrow(&place.to, Policy::default());
    receive(&sink, &offer).unwrap();
    let expected =
        ["README", "Screencast 10_22_33.webm", "_CON", "a_b", "a_b_c_d_e_f_g", "e\u{301} (1)", "readme (1)", "\u{e9}"];
    assert_eq!(names(&place.to), expected);
    assert_eq!(fs::read(place.to.join("_CON/x_")).unwrap(), common::contents(1, 3));
    assert_eq!(fs::read(place.to.join("readme (1)")).unwrap(), common::contents(4, 2));
    let expected = [
        ("CON", "_CON"),
        ("CON/x.", "_CON/x_"),
        ("Screencast 10:22:33.webm", "Screencast 10_22_33.webm"),
        ("readme", "readme (1)"),
        ("e\u{301}", "e\u{301} (1)"),
        ("a\\b", "a_b"),
        ("a?b*c<d>e|f\"g", "a_b_c_d_e_f_g"),
    ];
    assert_eq!(renamed(&sink), pairs(&expected));
    let left_out = sink.left_out();
    assert_eq!((left_out.list()[0].path.as_str(), left_out.list()[0].why), ("to", LinkReason::Unsupported));
    assert_eq!(sink.placement(), Placement { renamed: 7, links_outside: 0, links_unsupported: 1 });
    assert_eq!(sink.lost(), Lost { permissions: true, times: true });
    place.untouched();
}

#[test]
fn n05_portable_names_can_be_asked_for_on_any_disk() {
    let place = Place::new();
    let portable = Policy { naming: Naming::Portable, ..Policy::default() };
    let sink = Destination::open(&place.to, portable).unwrap().sink();
    receive(&sink, &odd_names()).unwrap();
    assert_eq!(fs::read(place.to.join("to")).unwrap(), common::contents(1, 3), "the link leads to the changed name");
    assert_eq!(renamed(&sink).len(), 7);
    // What is in the way counts under the name that it gets.
    let again = Destination::open(&place.to, portable).unwrap();
    let (first, count) = again.existing(&odd_names(), 2).unwrap();
    assert_eq!((first, count), (vec!["_CON".to_owned(), "Screencast 10_22_33.webm".to_owned()], 9));
    let fault = again.sink().begin(&odd_names()).unwrap_err();
    assert_eq!((fault.kind, fault.path.as_deref()), (FaultKind::Exists, place.to.join("_CON").to_str()));
    assert!(!names(&place.to).iter().any(|name| name.starts_with(".tallow")), "nothing of the trial stays");
}

#[test]
fn invisible_characters_go_unless_they_are_part_of_writing() {
    let offer = manifest(&[file("gpj.\u{202e}exe", 1), file("می\u{200c}خواهم", 1), file("👨\u{200d}👩\u{200d}👧", 1)]);
    let place = Place::new();
    let plain = sink(&place.to, OnExists::Refuse);
    receive(&plain, &offer).unwrap();
    assert_eq!(renamed(&plain), pairs(&[("gpj.\u{202e}exe", "gpj.exe")]));
    let place = Place::new();
    let exact = Policy { naming: Naming::Exact, ..Policy::default() };
    let sink = Destination::open(&place.to, exact).unwrap().sink();
    receive(&sink, &offer).unwrap();
    assert_eq!(renamed(&sink), vec![]);
    assert!(place.to.join("gpj.\u{202e}exe").exists());
}

#[test]
fn a_name_that_is_changed_twice_is_reported_once() {
    let place = Place::new();
    fs::write(place.to.join("a_b"), "mine").unwrap();
    let offer = manifest(&[dir("a:b"), file("a:b/c:", 3), file("plain", 1)]);
    let rename = Policy { on_exists: OnExists::Rename, ..Policy::default() };
    let sink = narrow(&place.to, rename);
    receive(&sink, &offer).unwrap();
    assert_eq!(renamed(&sink), pairs(&[("a:b", "a_b (1)"), ("a:b/c:", "a_b (1)/c_")]));
    assert_eq!(sink.placement().renamed, 2);
    assert_eq!(fs::read(place.to.join("a_b (1)/c_")).unwrap(), common::contents(1, 3));
    // Only the rule for what exists changes this one.
    let sink = narrow(&place.to, rename);
    receive(&sink, &manifest(&[file("plain", 2)])).unwrap();
    assert_eq!((renamed(&sink), sink.placement().renamed), (pairs(&[("plain", "plain (1)")]), 1));
}

#[test]
fn a_resumed_transfer_finds_its_local_names() {
    let place = Place::new();
    let offer = manifest(&[file("A", 100_000), file("a", 100_000), file("b:", 100_000)]);
    let first = narrow(&place.to, Policy::default());
    first.begin(&offer).unwrap();
    for (index, entry) in offer.entries() {
        let bytes = common::contents(index, 100_000);
        first.write(index, &entry, 0, &bytes[..65_536]).unwrap();
    }
    first.commit(&[0, 2, 4].map(|chunk| Stored { chunk, hash: [1; 32] })).unwrap();
    first.suspend();
    drop(first);
    let second = narrow(&place.to, Policy::default());
    assert_eq!(second.begin(&offer).unwrap().len(), 3);
    for (index, entry) in offer.entries() {
        let (bytes, mut piece) = (common::contents(index, 100_000), vec![0; 65_536]);
        assert!(second.recall(index, &entry, 0, &mut piece).unwrap() && piece == bytes[..65_536], "{index}");
        second.write(index, &entry, 65_536, &bytes[65_536..]).unwrap();
    }
    common::finish(&second).unwrap();
    assert_eq!(names(&place.to), ["A", "a (1)", "b_"]);
    assert_eq!(fs::read(place.to.join("a (1)")).unwrap(), common::contents(1, 100_000));
}

#[test]
fn n08_links_that_lead_out_are_left_out_and_reported() {
    let place = Place::new();
    let offer = manifest(&[
        dir("d"),
        file("d/x", 1),
        link("d/inside", "x"),
        link("d/absolute", "/etc/passwd"),
        link("d/above", "../../target2/victim"),
        link("d/late", "x/../../../target2"),
    ]);
    let sink = sink(&place.to, OnExists::Refuse);
    receive(&sink, &offer).unwrap();
    assert_eq!(names(&place.to.join("d")), ["inside", "x"]);
    let left_out = sink.left_out();
    let list: Vec<_> = left_out.list().iter().map(|link| (link.path.as_str(), link.why)).collect();
    assert_eq!(list, ["d/absolute", "d/above", "d/late"].map(|path| (path, LinkReason::Outside)));
    assert_eq!(sink.placement(), Placement { links_outside: 3, ..Placement::default() });
    place.untouched();
}

#[test]
fn n08_links_that_lead_out_are_kept_if_the_receiver_agrees() {
    let place = Place::new();
    let keep = Policy { outside_links: OutsideLinks::Keep, ..Policy::default() };
    let outside = place.outside.to_str().unwrap();
    let offer = manifest(&[
        link("a", outside),
        link("b", "../target2/inner"),
        file("c/x", 5),
        link("c/away", "../../target2"),
        file("z", 3),
    ]);
    let sink = Destination::open(&place.to, keep).unwrap().sink();
    receive(&sink, &offer).unwrap();
    assert_eq!(fs::read_link(place.to.join("a")).unwrap(), place.outside);
    assert_eq!(fs::read_link(place.to.join("b")).unwrap(), Path::new("../target2/inner"));
    assert_eq!(fs::read_link(place.to.join("c/away")).unwrap(), Path::new("../../target2"));
    assert_eq!(sink.placement(), Placement::default());
    place.untouched();
    // What comes next is never written through them, whatever the policy.
    for on_exists in [OnExists::Refuse, OnExists::Overwrite, OnExists::Rename, OnExists::Skip] {
        let policy = Policy { on_exists, ..keep };
        for offer in [
            manifest(&[file("a/victim", 6)]),
            manifest(&[dir("a"), file("a/victim", 6)]),
            manifest(&[file("b/x", 1)]),
            manifest(&[file("c/away/victim", 6)]),
            manifest(&[file("a", 6)]),
        ] {
            let sink = Destination::open(&place.to, policy).unwrap().sink();
            let _ = receive(&sink, &offer);
            sink.abandon();
            place.untouched();
        }
    }
}

#[test]
fn n08_a_link_is_no_parent_on_a_disk_that_folds_case() {
    let place = Place::new();
    let keep = Policy { outside_links: OutsideLinks::Keep, ..Policy::default() };
    let rules = NameRules::PORTABLE;
    let outside = place.outside.to_str().unwrap();
    for offer in [
        manifest(&[link("A", outside), file("a/victim", 6)]),
        manifest(&[file("a/victim", 6), link("A", outside)]),
        manifest(&[link("a:", outside), file("a_/victim", 6)]),
        manifest(&[link("a\u{200b}", outside), file("a/victim", 6)]),
    ] {
        let to = tempfile::tempdir_in(place.root.path().join("target")).unwrap();
        let sink = Destination::open(to.path(), keep).unwrap().assuming(rules, true, true).sink();
        receive(&sink, &offer).unwrap();
        let names = names(to.path());
        assert!(
            names.len() == 2 && names.iter().any(|name| to.path().join(name).join("victim").is_file()),
            "{names:?}"
        );
        place.untouched();
    }
}

#[test]
fn a_sender_that_keeps_links_tells_which_lead_out() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("x"), "x").unwrap();
    for (name, target) in [("in", "x"), ("abs", "/usr/lib"), ("up", "../../x"), ("late", "x/../y"), ("beside", "../b")]
    {
        symlink(target, from.join(name)).unwrap();
    }
    symlink(std::ffi::OsStr::from_bytes(b"\xff"), from.join("bytes")).unwrap();
    let tree = source(&[&from], SourceOptions { links: Links::Keep, ..SourceOptions::default() });
    let entries: Vec<_> = scan(&tree).unwrap().entries().map(|(_, entry)| entry.path.as_str().to_owned()).collect();
    assert_eq!(entries, ["from", "from/abs", "from/beside", "from/in", "from/late", "from/up", "from/x"]);
    let below = |paths: &[PathBuf]| -> Vec<_> {
        paths.iter().map(|path| path.strip_prefix(&from).unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(below(tree.outside_links().list()), ["abs", "late", "up"]);
    assert_eq!(below(tree.links().list()), ["abs", "beside", "in", "late", "up"]);
    assert_eq!(tree.skipped().list()[0].path, from.join("bytes"));
    // They arrive as they are.
    let place = Place::new();
    let keep = Policy { outside_links: OutsideLinks::Keep, ..Policy::default() };
    let tree = source(&[&from], SourceOptions { links: Links::Keep, ..SourceOptions::default() });
    transfer(&tree, &Destination::open(&place.to, keep).unwrap().sink()).unwrap();
    for name in ["in", "abs", "up", "late", "beside"] {
        let here = place.to.join("from").join(name);
        assert_eq!(fs::read_link(&here).unwrap(), fs::read_link(from.join(name)).unwrap());
    }
}

#[test]
fn n14_all_names_that_cannot_be_sent_are_found_at_once() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    fs::create_dir(&from).unwrap();
    let odd = |name: &[u8]| from.join(std::ffi::OsStr::from_bytes(name));
    for name in [&b"a\xffb"[..], b"b\nc", b"fine", b"z\xfe"] {
        fs::write(odd(name), "").unwrap();
    }
    fs::create_dir(odd(b"d\xff")).unwrap();
    fs::write(odd(b"d\xff").join("inner"), "").unwrap();
    let tree = source(&[&from], SourceOptions::default());
    let fault = scan(&tree).unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotUtf8);
    assert!(fault.is_refusal(), "a rule forbids it, whichever rule it is");
    let refused = tree.refused_names();
    let found: Vec<_> = refused.list().iter().map(|name| name.path.clone()).collect();
    assert_eq!(found, [odd(b"a\xffb"), odd(b"b\nc"), odd(b"d\xff"), odd(b"z\xfe")]);
    assert!(matches!(refused.list()[1].why, NameProblem::Rule(_)));
    let excludes = ["a?b", "b?c", "d?", "z?"].map(str::to_owned).to_vec();
    let tree = source(&[&from], SourceOptions { excludes, ..SourceOptions::default() });
    assert_eq!(scan(&tree).unwrap().totals().entries, 2);
    // The same for paths that are named.
    let named = vec![odd(b"a\xffb"), odd(b"fine"), odd(b"b\nc")];
    match SourceTree::new(named, SourceOptions::default()).unwrap_err() {
        SourceError::Names(names) => assert_eq!(names.len(), 2),
        other => panic!("{other}"),
    }
}

#[test]
fn one_path_given_twice_is_sent_once() {
    let root = tempfile::tempdir().unwrap();
    for dir in ["a", "b"] {
        fs::create_dir(root.path().join(dir)).unwrap();
        fs::write(root.path().join(dir).join("x"), dir).unwrap();
        fs::write(root.path().join(dir).join("X"), dir).unwrap();
    }
    let path = |name: &str| root.path().join(name);
    // One file in two spellings, and two names that only some disks take for one.
    let tree = SourceTree::new(vec![path("a/x"), path("a/./x"), path("a/../b/X")], SourceOptions::default()).unwrap();
    assert_eq!(scan(&tree).unwrap().totals().entries, 2);
}

/// An exFAT in a file; `None`: it can't be made or mounted here.
struct ExFat {
    root: tempfile::TempDir,
    device: String,
}

impl ExFat {
    fn new() -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let (image, at) = (root.path().join("image"), root.path().join("at"));
        fs::create_dir(&at).unwrap();
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let found = run("mkfs.exfat", &[image.as_os_str()])
            .and_then(|_| run("losetup", &["-f".as_ref(), "--show".as_ref(), image.as_os_str()]));
        let Some(device) = found else {
            eprintln!("SKIPPED: no exFAT can be made here (exfatprogs, root)");
            return None;
        };
        let disk = Self { root, device };
        if run("mount.exfat-fuse", &[disk.device.as_ref(), at.as_os_str()]).is_none() {
            eprintln!("SKIPPED: no exFAT can be mounted here (exfat-fuse, root)");
            return None;
        }
        Some(disk)
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("at")
    }
}

impl Drop for ExFat {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

#[test]
fn n13_an_exfat_disk_gets_all_that_it_can_hold() {
    let Some(disk) = ExFat::new() else { return };
    let to = disk.path();
    let mut entries: Vec<_> = odd_names().entries().map(|(_, entry)| entry).collect();
    entries.extend([dir("sub"), file("sub/large", 300_000), file("sub/empty", 0), link("sub/link", "large")]);
    let (offer, sink) = (manifest(&entries), sink(&to, OnExists::Refuse));
    receive(&sink, &offer).unwrap();
    assert_eq!(fs::read(to.join("README")).unwrap(), common::contents(3, 1));
    assert_eq!(fs::read(to.join("readme (1)")).unwrap(), common::contents(4, 2));
    assert_eq!(fs::read(to.join("Screencast 10_22_33.webm")).unwrap(), common::contents(2, 4));
    assert_eq!(fs::read(to.join("sub/large")).unwrap(), common::contents(11, 300_000));
    for name in ["sub/large", "sub/empty", "README"] {
        assert_eq!(fs::metadata(to.join(name)).unwrap().mtime(), 1_000_000_000, "{name}");
    }
    assert_eq!(sink.left_out().total(), 2);
    assert_eq!(sink.lost(), Lost { permissions: true, times: false });
    // A file at the top gets its name without hard links and without a rename that never replaces.
    let again = common::sink(&to, OnExists::Rename);
    receive(&again, &manifest(&[file("README", 7)])).unwrap();
    // `readme (1)` is there.
    assert_eq!(fs::read(to.join("README (2)")).unwrap(), common::contents(0, 7));
    assert!(names(&to).iter().all(|name| !name.starts_with(".tallow")), "{:?}", names(&to));
}
