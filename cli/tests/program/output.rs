//! What scripts read, and what quiet leaves.

use serde_json::Value;

use super::stage::{End, Home, Relay, Run, receiving, sending, wrong};

/// Standard output as events: each line is an object whose first field is its name.
#[track_caller]
fn events(end: &End) -> Vec<Value> {
    assert!(end.out.ends_with('\n'), "{}", end.out);
    let read = |line: &str| {
        assert!(line.starts_with(r#"{"event":""#) && line.is_ascii() | !line.chars().any(char::is_control), "{line}");
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    end.out.lines().map(read).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[track_caller]
fn one<'a>(events: &'a [Value], name: &str) -> &'a Value {
    let found: Vec<&Value> = events.iter().filter(|event| event["event"] == name).collect();
    assert_eq!(found.len(), 1, "{name} in {:?}", names(events));
    found[0]
}

#[test]
fn json_events_go_to_stdout_and_text_to_stderr() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("日本語.txt", &[7; 200_000]);
    let mut sender = Run::new(&home, ["send", "--json", "--no-compress", &file, "--relay", &relay.name()]).piped(b"");
    let code = sender.code();
    let received = receiving(&home, &relay).args(["--json", "--yes", &code]).piped(b"").end();
    let sent = sender.end();
    sent.is(0, "Sent 1 file");
    received.is(0, "Received 1 file");

    let (sent, received) = (events(&sent), events(&received));
    assert_eq!(one(&sent, "sending")["bytes"], 200_000);
    assert_eq!(one(&sent, "code")["code"], code);
    assert!(one(&sent, "code")["link"].as_str().unwrap().starts_with("tallow://"));
    assert_eq!(one(&received, "offer")["names"][0], "日本語.txt");
    for events in [&sent, &received] {
        let order = ["paired", "accepted", "done"];
        let seen: Vec<&str> = names(events).into_iter().filter(|name| order.contains(name)).collect();
        assert_eq!(seen, order);
        assert_eq!(
            (one(events, "done")["files"].as_u64(), one(events, "done")["bytes"].as_u64()),
            (Some(1), Some(200_000))
        );
        // It begins on the relay; where this machine has a network, it may move to a direct path meanwhile.
        assert_eq!(events.iter().find(|event| event["event"] == "path").unwrap()["path"], "relay");
    }
    assert_eq!(one(&sent, "done")["root"], one(&received, "done")["root"]);
    let last = received.iter().rfind(|event| event["event"] == "progress").unwrap();
    assert_eq!((last["bytes"].as_u64(), last["total"].as_u64()), (Some(200_000), Some(200_000)));
}

#[test]
fn json_mode_reports_errors_as_events() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &["--json"]);
    let guess = receiving(&home, &relay).args(["--json", "--yes", &wrong(&code)]).piped(b"").end();
    assert_eq!(one(&events(&guess), "error")["kind"], "auth");
    let declined = receiving(&home, &relay).args(["--json", &code]).piped(b"").end();
    let error = events(&declined);
    assert_eq!(one(&error, "error")["kind"], "refused");
    assert!(one(&error, "error")["hint"].as_str().unwrap().contains("--yes"));
    let sent = events(&sender.end());
    assert_eq!(one(&sent, "wrong_guess")["left"], 2);
    assert_eq!(one(&sent, "error")["kind"], "refused");
    let usage = Run::new(&home, ["receive", "7-", "--json"]).piped(b"").end();
    assert_eq!((usage.code, one(&events(&usage), "error")["kind"].as_str()), (2, Some("usage")));
}

/// With `--json` on a terminal, only events are written to standard output, and questions are shown on the terminal.
#[test]
fn json_mode_on_terminal_still_asks_question() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    let mut receiver = receiving(&home, &relay).args(["--json", &code]).on_terminal_with_pipe();
    receiver.expect_asked("Accept? [y/N] ");
    receiver.expect_out(r#"{"event":"offer""#);
    receiver.keys("y\r");
    let end = receiver.end();
    end.is(0, "Received");
    assert_eq!(names(&events(&end)).last(), Some(&"done"));
    sender.end().is(0, "Sent");
}

#[test]
fn quiet_mode_prints_only_code_and_errors() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &["--quiet"]);
    let end = receiving(&home, &relay).args(["--quiet", "--yes", &code]).piped(b"").end();
    assert_eq!((end.code, end.shown.as_str(), end.out.as_str()), (0, "", ""));
    let end = sender.end();
    assert_eq!((end.code, end.shown, end.out.as_str()), (0, format!("Code: {code}\n"), ""));
    let end = receiving(&home, &relay).args(["-q", "--yes", "7-"]).piped(b"").end();
    assert!(end.code == 2 && end.shown.starts_with("tallow: ") && end.shown.lines().count() == 1, "{}", end.shown);
}

/// With or without `--quiet`, a user on a terminal sees the offer before the question.
#[test]
fn quiet_mode_still_shows_offer_before_question() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    let mut receiver = receiving(&home, &relay).args(["--quiet", &code]).on_terminal();
    receiver.expect("Offered: 1 file, 5 B");
    receiver.expect("notes.txt");
    receiver.expect_asked("Accept? [y/N] ");
    receiver.keys("y\r");
    let end = receiver.end();
    assert!(end.code == 0 && !end.shown.contains("Received") && !end.shown.contains('%'), "{}", end.shown);
    sender.end().is(0, "Sent");
}

#[test]
fn colours_and_the_bar_can_be_turned_off() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let send = || Run::new(&home, ["send", &file, "--relay", &relay.name()]);
    for (run, plain) in [(send(), false), (send().env("NO_COLOR", "1").arg("--no-progress"), true)] {
        let mut sender = run.on_terminal();
        let code = sender.code();
        let receive = receiving(&home, &relay).args(["--yes", "--overwrite", &code]);
        let receive = if plain { receive.env("NO_COLOR", "1").arg("--no-progress") } else { receive };
        let received = receive.on_terminal().end();
        let sent = sender.end();
        assert_eq!((sent.code, received.code), (0, 0));
        assert_eq!(!sent.shown.contains("\x1b[1m"), plain, "{:?}", sent.shown);
        for end in [sent, received] {
            assert_eq!(!end.raw.contains(&0x1b), plain, "{:?}", end.shown);
        }
    }
}
