//! Names that exist at the receiver already.

use std::fs;

use serde_json::Value;

use super::stage::{Home, Relay, receiving, sending};

fn events(out: &str, kind: &str) -> Vec<Value> {
    let events = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == kind).collect()
}

fn done(out: &str) -> Value {
    events(out, "done").pop().unwrap_or_else(|| panic!("not done: {out}"))
}

/// At this rate what is skipped would take two minutes.
#[test]
fn what_is_skipped_is_not_sent_and_both_sides_say_so() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let large = home.large("large.bin");
    fs::write(home.path("into").join("large.bin"), "mine").unwrap();
    let (sender, code) = sending(&home, &relay, &large, &["--json", "--no-compress", "--limit", "2M"]);
    let received = receiving(&home, &relay).args(["--json", "--yes", "--skip", &code]).piped(b"").end();
    let sent = sender.end();
    received.is(0, "Received 0 files, 0 B in");
    received.is(0, ", 1 entry skipped, in ");
    received.is(0, "Skipped, because they already exist:\n  large.bin");
    sent.is(0, "Sent 0 files, 0 B in");
    sent.is(0, ", 1 entry skipped by the receiver");
    sent.is(0, "Skipped by the receiver, because they already exist there:\n  large.bin");
    for end in [&sent, &received] {
        let done = done(&end.out);
        let counts = ["files", "bytes", "skipped"].map(|count| done[count].as_u64());
        assert_eq!(counts, [Some(0), Some(0), Some(1)]);
        assert_eq!(events(&end.out, "skipped"), [serde_json::json!({"event": "skipped", "path": "large.bin"})]);
    }
    assert_eq!(fs::read_to_string(home.path("into").join("large.bin")).unwrap(), "mine");
}

#[test]
fn of_a_directory_only_what_is_missing_is_sent() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let dir = home.path("from").join("d");
    fs::create_dir(&dir).unwrap();
    for number in 0..40 {
        fs::write(dir.join(format!("{number:02}")), format!("theirs {number}")).unwrap();
    }
    fs::create_dir(home.path("into").join("d")).unwrap();
    for number in (0..40).step_by(2) {
        fs::write(home.path("into").join(format!("d/{number:02}")), "mine").unwrap();
    }
    let (sender, code) = sending(&home, &relay, dir.to_str().unwrap(), &["--json"]);
    let received = receiving(&home, &relay).args(["--json", "--yes", "--skip", &code]).piped(b"").end();
    received.is(0, "Received 20 files");
    received.is(0, "and 15 more");
    let sent = sender.end();
    sent.is(0, "Sent 20 files");
    for end in [&sent, &received] {
        assert_eq!((done(&end.out)["skipped"].as_u64(), events(&end.out, "skipped").len()), (Some(20), 20));
    }
    for number in 0..40 {
        let arrived = fs::read_to_string(home.path("into").join(format!("d/{number:02}"))).unwrap();
        assert_eq!(arrived, if number % 2 == 0 { "mine".to_owned() } else { format!("theirs {number}") });
    }
}

#[test]
fn names_that_were_changed_are_named_and_counted() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"theirs");
    fs::write(home.path("into").join("notes.txt"), "mine").unwrap();
    let (sender, code) = sending(&home, &relay, &file, &["--json"]);
    let received = receiving(&home, &relay).args(["--json", "--yes", "--rename", &code]).piped(b"").end();
    received.is(0, "Received 1 file");
    let renamed = serde_json::json!({"event": "renamed", "from": "notes.txt", "to": "notes (1).txt"});
    assert_eq!(events(&received.out, "renamed"), [renamed]);
    let sent = sender.end();
    sent.is(0, "Sent 1 file");
    for end in [&sent, &received] {
        assert_eq!(done(&end.out)["renamed"], 1);
    }
}
