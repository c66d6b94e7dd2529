//! Files that can't be read, or are not what they were when they are sent: row F03 on the real program.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use super::stage::{Home, Relay, Run, SLOWLY, receiving, sending};

/// A directory of files, each with its name in it.
fn tree(home: &Home, names: &[&str]) -> PathBuf {
    let dir = home.path("from").join("d");
    fs::create_dir(&dir).unwrap();
    for name in names {
        fs::write(dir.join(name), *name).unwrap();
    }
    dir
}

fn event(out: &str, name: &str) -> Value {
    let events = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.into_iter().find(|event| event["event"] == name).unwrap_or_else(|| panic!("no {name} in {out}"))
}

/// The paths of all events of this kind, with the reasons.
fn named(out: &str, kind: &str) -> Vec<(String, String)> {
    let events = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_kind = events.filter(|event| event["event"] == kind);
    let mut named: Vec<_> = of_kind.map(|event| (text(&event["path"]), text(&event["why"]))).collect();
    named.sort();
    named
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, reason)| ((*name).to_owned(), (*reason).to_owned())).collect()
}

#[test]
fn files_that_cannot_be_read_are_named_and_left_out() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let dir = tree(&home, &["a", "b", "c", "d", "e", "f", "g", "h"]);
    let from = home.path("from");
    for open in [home.path(""), from] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let locked = ["a", "b", "d", "e", "f", "h"];
    for name in locked {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let path = dir.to_str().unwrap();
    let send = |options: &[&str]| {
        let run = Run::new(&home, ["send", path, "--relay", &relay.name()]).args(options).unprivileged();
        let Some(run) = run else {
            eprintln!("left out: no user can be taken on here who is not root");
            return None;
        };
        Some(run.piped(b""))
    };
    let Some(mut sender) = send(&["--json"]) else { return };
    let code = sender.code();
    receiving(&home, &relay).args(["--yes", &code]).piped(b"").end().is(0, "Received 2 files");
    let end = sender.end();
    end.is(6, "6 files and directories could not be sent; everything else was sent");
    let paths: Vec<String> = locked.iter().map(|name| format!("{path}/{name}")).collect();
    for path in &paths {
        assert!(end.shown.contains(&format!("{path}: can't be read: permission denied")), "{}", end.shown);
    }
    let why = "can't be read: permission denied";
    let listed: Vec<_> = paths.iter().map(|path| (path.clone(), why.to_owned())).collect();
    assert_eq!(named(&end.out, "unreadable"), listed);
    let done = event(&end.out, "done");
    assert_eq!((done["files"].as_u64(), done["unreadable"].as_u64()), (Some(2), Some(6)));
    assert_eq!(event(&end.out, "error")["kind"], "io");
    assert_eq!(home.list("into"), ["d", "d/c", "d/g"]);

    let strict = send(&["--strict"]).unwrap().end();
    strict.is(6, &format!("could not read {path}/a: permission denied"));
}

#[test]
fn f03_what_changes_while_the_sender_waits_costs_itself() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let dir = tree(&home, &["cut", "gone", "grown", "other", "replaced", "same", "touched"]);
    let path = dir.to_str().unwrap();
    let change = || {
        fs::write(dir.join("cut"), "c").unwrap();
        fs::remove_file(dir.join("gone")).unwrap();
        fs::File::options().append(true).open(dir.join("grown")).unwrap().write_all(b" and more").unwrap();
        fs::write(dir.join("new"), "replace").unwrap();
        fs::rename(dir.join("new"), dir.join("replaced")).unwrap();
        fs::write(dir.join("same"), "SAME").unwrap();
        let now = std::time::SystemTime::now();
        fs::File::options().write(true).open(dir.join("touched")).unwrap().set_modified(now).unwrap();
    };
    // The person accepts after everything changed.
    let (sender, code) = sending(&home, &relay, path, &["--json"]);
    let mut receiver = receiving(&home, &relay).args(["--json", &code]).on_terminal_with_pipe();
    receiver.expect_asked("Accept? [y/N] ");
    change();
    receiver.keys("y\r");
    let (received, sent) = (receiver.end(), sender.end());
    sent.is(6, "3 files and directories could not be sent; everything else was sent");
    assert_eq!(received.code, 6, "{}", received.shown);
    assert!(received.shown.contains("3 files could not be sent by the sender"), "{}", received.shown);
    let failed = pairs(&[("d/cut", "changed"), ("d/gone", "vanished"), ("d/replaced", "changed")]);
    for (end, line) in
        [(&sent, "d/gone: removed before it was sent"), (&received, "d/gone: removed before it was sent")]
    {
        assert!(end.shown.contains(line), "{}", end.shown);
        assert!(end.shown.contains("d/cut: changed while it was being sent"), "{}", end.shown);
        let done = event(&end.out, "done");
        assert_eq!(named(&end.out, "failed"), failed);
        assert_eq!(named(&end.out, "grown"), pairs(&[("d/grown", "")]));
        let counts = ["files", "failed", "grown", "skipped"].map(|count| done[count].as_u64());
        assert_eq!(counts, [Some(4), Some(3), Some(1), Some(0)]);
    }
    assert_eq!(home.list("into"), ["d", "d/grown", "d/other", "d/same", "d/touched"]);
    let arrived = |name: &str| fs::read_to_string(home.path("into").join("d").join(name)).unwrap();
    assert_eq!([arrived("grown"), arrived("same"), arrived("touched")], ["grown", "SAME", "touched"]);
}

/// A log that is written to all the time: what was offered of it arrives, and that is a success.
#[test]
fn a_growing_log_is_sent_as_far_as_it_was_offered() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let dir = tree(&home, &["other"]);
    let log = dir.join("log");
    let line = |number: u32| format!("{number:07}\n");
    let written: String = (0..100_000).map(line).collect();
    fs::write(&log, &written).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (sender, code) = sending(&home, &relay, dir.to_str().unwrap(), &["--no-compress", "--limit", "1M"]);
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(&log).unwrap();
            let mut number = 100_000;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(line(number).as_bytes()).unwrap();
                number += 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let received = receiving(&home, &relay).args(["--yes", &code]).piped(b"").end();
        let sent = sender.end();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        received.is(0, "Grew at the sender while it was being sent; received is what was offered:\n  d/log");
        sent.is(0, "Grew while it was being sent; sent is what was offered, without what was added:\n  d/log");
    });
    let arrived = fs::read_to_string(home.path("into").join("d/log")).unwrap();
    let whole = fs::read_to_string(&log).unwrap();
    assert!(whole.starts_with(&arrived) && arrived.len() >= written.len(), "{} of {}", arrived.len(), whole.len());
}

/// A file alone that changes is a transfer that failed.
#[test]
fn f03_a_file_alone_that_changes_fails() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("one", &[7; 300_000]);
    let (sender, code) = sending(&home, &relay, &file, &SLOWLY);
    fs::write(&file, "short").unwrap();
    receiving(&home, &relay).args(["--yes", &code]).piped(b"").end().is(9, "a file of the sender changed");
    sender.end().is(6, "changed while it was being sent");
    assert!(home.list("into").is_empty());
}
