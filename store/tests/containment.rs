//! Containment: no name, and no link that is there or appears, leads out of the destination.

mod common;

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Place, dir, file, fingerprint, finish, manifest, names, receive, refused, sink};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tallow_proto::transfer::path::RelPath;
use tallow_proto::transfer::storage::{FaultKind, Sink};
use tallow_store::OnExists;

const POLICIES: [OnExists; 4] = [OnExists::Refuse, OnExists::Overwrite, OnExists::Rename, OnExists::Skip];

#[test]
fn n01_to_n04_escaping_names_write_nothing_outside() {
    let place = Place::new();
    let absolute = place.outside.join("victim");
    let unsafe_names = [
        "../x",
        "..",
        "a/../../x",
        "./../x",
        "a/..",
        "/etc/cron.d/x",
        "//x",
        "a\0b",
        "a\nb",
        "a\rb",
        "\x1b[2J",
        "a\x7f",
        "a\u{85}",
        "../target2/x",
        "../target2/victim",
        absolute.to_str().unwrap(),
    ];
    let (mut refused, mut taken) = (0, 0);
    for name in unsafe_names {
        match RelPath::parse(name) {
            Err(_) => refused += 1,
            // Should the parser ever let one through, the sink is the next wall: nothing may change outside.
            Ok(_) => {
                let manifest = manifest(&[file(name, 5)]);
                let _ = receive(&sink(&place.to, OnExists::Overwrite), &manifest);
                taken += 1;
            }
        }
        place.untouched();
    }
    assert_eq!((refused, taken), (unsafe_names.len(), 0));
    assert_eq!(names(&place.to), [""; 0]);
    // What leads out on another system is one name here.
    let elsewhere = [r"..\..\x", r"C:\x", "C:x", r"\\srv\share\x", r"\\?\C:\x", "file.txt:stream"];
    receive(&sink(&place.to, OnExists::Refuse), &manifest(&elsewhere.map(|name| file(name, 5)))).unwrap();
    place.untouched();
    let mut expected = elsewhere;
    expected.sort_unstable();
    assert_eq!(names(&place.to), expected);
}

#[test]
fn n04_a_sibling_with_the_same_prefix_is_not_written() {
    let place = Place::new();
    // Into a destination that exists, and into one that does not.
    for to in [place.to.clone(), place.to.join("new")] {
        receive(&sink(&to, OnExists::Refuse), &manifest(&[dir("2"), file("2/victim", 6), file("target2", 3)])).unwrap();
    }
    place.untouched();
    assert_eq!(names(&place.to), ["2", "new", "target2"]);
}

#[test]
fn n09_existing_link_is_not_written_through() {
    for on_exists in [OnExists::Refuse, OnExists::Overwrite] {
        for target in ["victim", "gone", "inner"] {
            let place = Place::new();
            symlink(place.outside.join(target), place.to.join("out.txt")).unwrap();
            let found = refused(&sink(&place.to, on_exists), &manifest(&[file("out.txt", 10)]), &place.to);
            assert_eq!(found, (FaultKind::Link, "out.txt".into()), "{on_exists:?} {target}");
            assert_eq!(found.0.to_string(), "refusing to write through a symbolic link");
            assert_eq!(names(&place.to), ["out.txt"], "nothing was written");
            place.untouched();
        }
    }
    for on_exists in [OnExists::Refuse, OnExists::Overwrite, OnExists::Skip] {
        let place = Place::new();
        symlink(&place.outside, place.to.join("d")).unwrap();
        for offer in [vec![dir("d"), file("d/x", 1)], vec![file("d/x", 1)], vec![file("d/inner/y", 1)], vec![dir("d")]]
        {
            let found = refused(&sink(&place.to, on_exists), &manifest(&offer), &place.to);
            assert_eq!(found, (FaultKind::Link, "d".into()), "{on_exists:?}");
        }
        place.untouched();
    }
}

#[test]
fn n09_nested_link_is_not_written_through() {
    for on_exists in [OnExists::Overwrite, OnExists::Skip] {
        let place = Place::new();
        std::fs::create_dir_all(place.to.join("a/b")).unwrap();
        symlink(&place.outside, place.to.join("a/b/c")).unwrap();
        let found = refused(&sink(&place.to, on_exists), &manifest(&[dir("a"), file("a/b/c/inner/x", 3)]), &place.to);
        assert_eq!(found.0, FaultKind::Link, "{on_exists:?}");
        let found = refused(&sink(&place.to, on_exists), &manifest(&[dir("a"), dir("a/b"), dir("a/b/c")]), &place.to);
        assert_eq!(found, (FaultKind::Link, "a/b/c".into()), "{on_exists:?}");
        place.untouched();
    }
}

#[test]
fn n09_link_is_kept_by_rename_and_skip() {
    for on_exists in [OnExists::Rename, OnExists::Skip] {
        let place = Place::new();
        symlink(place.outside.join("victim"), place.to.join("out.txt")).unwrap();
        receive(&sink(&place.to, on_exists), &manifest(&[file("out.txt", 10)])).unwrap();
        assert_eq!(std::fs::read_link(place.to.join("out.txt")).unwrap(), place.outside.join("victim"));
        assert_eq!(names(&place.to).len(), if on_exists == OnExists::Rename { 2 } else { 1 });
        place.untouched();
    }
}

#[test]
fn n09_a_link_created_during_a_transfer_is_not_followed() {
    for on_exists in POLICIES {
        let place = Place::new();
        let offer = manifest(&[dir("d"), file("d/victim", 6), file("out.txt", 6)]);
        let sink = sink(&place.to, on_exists);
        sink.begin(&offer).unwrap();
        for (index, entry) in offer.entries().filter(|(_, entry)| entry.size() > 0) {
            sink.write(index, &entry, 0, &[1; 6]).unwrap();
        }
        symlink(&place.outside, place.to.join("d")).unwrap();
        symlink(place.outside.join("victim"), place.to.join("out.txt")).unwrap();
        let done = finish(&sink);
        match on_exists {
            OnExists::Rename => done.unwrap(),
            _ => assert_eq!(done.unwrap_err().kind, FaultKind::Link),
        }
        sink.abandon();
        place.untouched();
        assert!(!names(&place.to).iter().any(|name| name.starts_with(".tallow")));
    }
}

#[test]
fn n10_a_receive_against_a_swapping_thread_stays_inside() {
    let rounds = if std::env::var_os("TALLOW_LONG").is_some() { 1000 } else { 10 };
    let (mut received, mut told, swaps) = (0, 0, AtomicU64::new(0));
    for _ in 0..rounds {
        let place = Place::new();
        std::fs::create_dir(place.to.join("d")).unwrap();
        symlink(&place.outside, place.to.join("l")).unwrap();
        let offer = manifest(&(0..1000).map(|number| file(&format!("d/{number}"), 10)).collect::<Vec<_>>());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let staged = names(&place.to).into_iter().find(|name| name.starts_with(".tallow"));
                    let staged = staged.map(|name| place.to.join(name).join("tree"));
                    for _ in 0..50 {
                        // Where it will be, and where it is staged.
                        renameat_with(CWD, place.to.join("d"), CWD, place.to.join("l"), RenameFlags::EXCHANGE).unwrap();
                        swaps.fetch_add(1, Ordering::Relaxed);
                        if let Some(staged) = &staged {
                            let _ = symlink(&place.outside, staged.join("k"));
                            let _ = renameat_with(CWD, staged.join("d"), CWD, staged.join("k"), RenameFlags::EXCHANGE);
                        }
                    }
                }
            });
            for on_exists in [OnExists::Overwrite, OnExists::Skip, OnExists::Rename] {
                let sink = sink(&place.to, on_exists);
                match receive(&sink, &offer) {
                    Ok(()) => received += 1,
                    Err(_) => told += 1,
                }
                sink.abandon();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(fingerprint(&place.outside), place.before);
    }
    println!("{received} received, {told} refused, {} swaps", swaps.into_inner());
}
