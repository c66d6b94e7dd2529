//! Signals: the graceful end, the immediate one, and what each of them leaves behind.

use rustix::process::Signal;

use super::stage::{Home, Relay, Run, SLOWLY, receiving, sending};

/// An interrupted run may leave only the data for resuming, without final names, and the certificates of relays.
#[track_caller]
fn nothing_is_left(home: &Home) {
    let placed: Vec<String> = home.list("into").into_iter().filter(|name| !name.starts_with(".tallow-")).collect();
    assert!(placed.is_empty(), "{placed:?}");
    let kept: Vec<String> = home.list("home").into_iter().filter(|name| !is_state(name)).collect();
    assert!(kept.is_empty(), "{kept:?}");
}

fn is_state(name: &str) -> bool {
    let name = name.strip_prefix("state").unwrap_or("?").trim_start_matches("/tallow").trim_start_matches('/');
    ["", "known_relays", "relay_identity"].contains(&name) || name.starts_with("relay") || name.contains("lock")
}

#[test]
fn ctrl_c_at_code_prompt_ends_receiver() {
    let home = Home::new();
    let mut receiver = Run::new(&home, ["receive"]).on_terminal();
    receiver.expect_asked("Code (Tab completes): ");
    receiver.keys("7-ac\x03");
    let end = receiver.end();
    assert_eq!(end.code, 130, "{}", end.shown);
    assert!(end.restored);
}

#[test]
fn ctrl_c_ends_waiting_sender_and_frees_its_room() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let mut sender = Run::new(&home, ["send", &file, "--relay", &relay.name()]).on_terminal();
    let code = sender.code();
    sender.expect("Waiting for the receiver");
    sender.keys("\x03");
    let end = sender.end();
    end.is(130, "tallow: interrupted; run `tallow send` again for a new code");
    assert!(end.restored && !end.shown.contains("^C"), "{}", end.shown);
    // Its room was removed with it.
    let mut receiver = receiving(&home, &relay).args(["--yes", &code]).piped(b"");
    receiver.expect("No sender is waiting with this code yet; trying again");
    receiver.signal(Signal::INT);
    receiver.end().is(130, "tallow: interrupted");
}

#[test]
fn ctrl_c_at_accept_question_notifies_sender() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    let mut receiver = receiving(&home, &relay).arg(&code).on_terminal();
    receiver.expect_asked("Accept? [y/N] ");
    receiver.keys("\x03");
    let end = receiver.end();
    end.is(130, "tallow: interrupted; no files were put in place");
    assert!(end.restored);
    sender.end().is(9, "tallow: the receiver interrupted the transfer");
    nothing_is_left(&home);
}

#[test]
fn f10_ctrl_c_during_transfer_ends_both_and_leaves_no_files() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.large("large.bin");
    let (sender, code) = sending(&home, &relay, &file, &SLOWLY);
    let mut receiver = receiving(&home, &relay).args(["--yes", &code]).on_terminal();
    receiver.expect_asked("% ");
    receiver.keys("\x03");
    let end = receiver.end();
    end.is(130, "tallow: interrupted; no files were put in place");
    assert!(end.restored && !end.shown.contains("^C"));
    sender.end().is(9, "tallow: the receiver interrupted the transfer");
    nothing_is_left(&home);
}

#[test]
fn f10_signalled_sender_notifies_receiver() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.large("large.bin");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let (sender, typed) = sending(&home, &relay, &file, &SLOWLY);
        let mut receiver = receiving(&home, &relay).args(["--yes", &typed]).on_terminal();
        receiver.expect_asked("% ");
        sender.signal(signal);
        sender.end().is(code, "tallow: interrupted");
        let end = receiver.end();
        end.is(9, "tallow: the sender interrupted the transfer");
        assert!(end.restored);
        nothing_is_left(&home);
    }
}

#[test]
fn f10_signalled_receiver_exits_with_signal_code() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let (sender, typed) = sending(&home, &relay, &file, &[]);
        let mut receiver = receiving(&home, &relay).arg(&typed).on_terminal();
        receiver.expect_asked("Accept? [y/N] ");
        receiver.signal(signal);
        let end = receiver.end();
        end.is(code, "tallow: interrupted");
        assert!(end.restored);
        sender.end().is(9, "tallow: the receiver interrupted the transfer");
    }
    nothing_is_left(&home);
}

/// The relay is stopped and there is no other path, so that the farewell after the first signal takes time; the
/// second signal has an exit code of its own.
#[test]
fn f10_second_signal_ends_receiver_at_once() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    let mut receiver = receiving(&home, &relay).args(["--no-p2p", &code]).on_terminal();
    receiver.expect_asked("Accept? [y/N] ");
    relay.program.stop();
    receiver.keys("\x03");
    // The question is withdrawn, so the first signal was handled.
    receiver.expect_asked("\n");
    receiver.signal(Signal::TERM);
    let end = receiver.end();
    assert_eq!(end.code, 143, "{}", end.shown);
    assert!(end.restored);
    relay.program.signal(Signal::CONT);
    drop(sender);
    nothing_is_left(&home);
}
