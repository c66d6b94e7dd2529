//! A user at a terminal types the code and answers the question.

use super::stage::{Home, Relay, Run, receiving, sending, wrong};

#[test]
fn typed_code_and_accepted_offer_complete_transfer() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let mut sender = Run::new(&home, ["send", &file, "--relay", &relay.name()]).on_terminal();
    let code = sender.code();
    let mut receiver = receiving(&home, &relay).on_terminal();
    receiver.expect_asked("Code (Tab completes): ");
    receiver.keys(&format!("{code}\r"));
    receiver.expect("Offered: 1 file, 5 B");
    receiver.expect("notes.txt");
    receiver.expect_asked("Accept? [y/N] ");
    assert!(home.list("into").is_empty(), "nothing is written before the answer");
    receiver.keys("y\r");
    let end = receiver.end();
    end.is(0, "Received 1 file, 5 B");
    assert!(end.restored);
    let end = sender.end();
    end.is(0, "verified by the receiver");
    assert!(end.restored);
    assert_eq!(std::fs::read(home.path("into/notes.txt")).unwrap(), b"hello");
    assert_eq!(home.list("into"), ["notes.txt"]);
}

#[test]
fn tab_completes_words_at_code_prompt() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    let words: Vec<&str> = code.split('-').collect();
    let mut receiver = receiving(&home, &relay).arg("--yes").on_terminal();
    receiver.expect_asked("Code (Tab completes): ");
    // One wrong key, which is deleted; two words that Tab completes after three letters, and one word that is typed.
    receiver.keys(&format!("{}-{}x\x7f\t{}\t{}", words[0], &words[1][..3], &words[2][..3], words[3]));
    receiver.expect_asked(&code);
    receiver.keys("\r");
    receiver.end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
}

#[test]
fn transfer_works_with_two_commands_and_no_relay() {
    let home = Home::new();
    let file = home.file("notes.txt", b"hello");
    // Another process may bind the free port before the sender does.
    let (mut sender, port) = (0..20)
        .find_map(|_| {
            let port = std::net::UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port().to_string();
            let mut sender = Run::new(&home, ["send", &file]).env("TALLOW_PORT", &port).on_terminal();
            sender.expect("Sending 1 file, 5 B");
            let rest = sender.expect("\n");
            rest.starts_with("Code: ").then_some((sender, port))
        })
        .unwrap();
    let code = sender.expect("tallow receive ");
    let mut receiver = Run::new(&home, ["receive"]).args(code.split('-')).env("TALLOW_PORT", &port).on_terminal();
    receiver.expect_asked("Accept? [y/N] ");
    receiver.keys("yes\r");
    receiver.end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
}

#[test]
fn wrong_code_ends_receiver_but_not_sender() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let mut sender = Run::new(&home, ["send", &file, "--relay", &relay.name()]).on_terminal();
    let code = sender.code();
    let mut receiver = receiving(&home, &relay).on_terminal();
    receiver.expect_asked("Code (Tab completes): ");
    receiver.keys(&format!("{}\r", wrong(&code)));
    let end = receiver.end();
    end.is(3, "tallow: wrong code: the words do not match those of the sender; check them and try again");
    assert!(end.restored && !end.shown.contains("notes.txt") && !end.shown.contains("Offered"), "{}", end.shown);
    sender.expect("A receiver used a wrong code, 2 tries left");

    let mut receiver = receiving(&home, &relay).arg(&code).on_terminal();
    receiver.expect_asked("Accept? [y/N] ");
    receiver.keys("y\r");
    receiver.end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
}

#[test]
fn three_wrong_codes_invalidate_the_code() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    for _ in 0..3 {
        receiving(&home, &relay).args(["--yes", &wrong(&code)]).piped(b"").end().is(3, "wrong code");
    }
    sender.end().is(3, "tallow: wrong code: three wrong codes were tried, so this code is no longer valid");
    // As long as the relay keeps the room of the last guess, it answers "taken", and then that no sender waits.
    let receiver = receiving(&home, &relay).args(["--yes", "--give-up-after", "3s", &code]).piped(b"");
    receiver.end().is(5, "this code");
    assert!(home.list("into").is_empty());
}

/// Answers to the question, and the end of the input.
#[test]
fn f11_any_answer_but_yes_declines_and_notifies_sender() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    for answer in ["\r", "n\r", "yes n\r", "garbage\r", "\x04"] {
        let (sender, code) = sending(&home, &relay, &file, &[]);
        let mut receiver = receiving(&home, &relay).arg(&code).on_terminal();
        receiver.expect_asked("Accept? [y/N] ");
        receiver.keys(answer);
        let end = receiver.end();
        end.is(4, "tallow: ");
        assert!(end.restored, "{answer:?}");
        sender.end().is(4, "tallow: the receiver declined");
    }
    assert!(home.list("into").is_empty());
}

#[test]
fn f11_offer_is_declined_without_terminal() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    // A `y` from a pipe is not an answer of a user.
    receiving(&home, &relay).arg(&code).piped(b"y\n").end().is(4, "standard input is not a terminal");
    sender.end().is(4, "tallow: the receiver declined");
    assert!(home.list("into").is_empty());
}

#[test]
fn end_of_input_at_code_prompt_is_a_usage_error() {
    let home = Home::new();
    let mut receiver = Run::new(&home, ["receive"]).on_terminal();
    receiver.expect_asked("Code (Tab completes): ");
    receiver.keys("\x04");
    let end = receiver.end();
    end.is(2, "tallow: no code was given; a code looks like 7-acorn-bicycle-canal");
    assert!(end.restored);
}

/// A name that exists is asked about, and whatever is no choice changes nothing.
#[test]
fn existing_names_prompt_for_a_policy() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"new");
    for (answer, code, contents, there) in [
        ("\r", 4, &b"old"[..], &["notes.txt"][..]),
        ("o\r", 0, b"new", &["notes.txt"]),
        ("s\r", 0, b"old", &["notes.txt"]),
    ] {
        std::fs::write(home.path("into/notes.txt"), "old").unwrap();
        let (sender, typed) = sending(&home, &relay, &file, &[]);
        let mut receiver = receiving(&home, &relay).arg(&typed).on_terminal();
        receiver.expect_asked("Accept? [y/N] ");
        receiver.keys("y\r");
        receiver.expect_asked("notes.txt");
        receiver.expect_asked("? ");
        receiver.keys(answer);
        receiver.end().is(code, "");
        assert_eq!(sender.end().code, code, "{answer:?}");
        assert_eq!(std::fs::read(home.path("into/notes.txt")).unwrap(), contents, "{answer:?}");
        assert_eq!(home.list("into"), there);
    }
}

#[test]
fn verify_words_match_and_rejecting_them_ends_both() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    for (answer, code) in [("y\r", 0), ("n\r", 4)] {
        let mut sender = Run::new(&home, ["send", "--verify", &file, "--relay", &relay.name()]).on_terminal();
        let typed = sender.code();
        let mut receiver = receiving(&home, &relay).args(["--yes", "--verify", &typed]).on_terminal();
        let here = sender.expect("Compare these words with the other side: ");
        assert_eq!(receiver.expect("Compare these words with the other side: "), here);
        for side in [&mut sender, &mut receiver] {
            side.expect_asked("Are the words the same on both sides? [y/N] ");
        }
        sender.keys("y\r");
        receiver.keys(answer);
        let (sender, receiver) = (sender.end(), receiver.end());
        if code == 0 {
            sender.is(0, "Sent");
            receiver.is(0, "Received");
            assert_eq!(home.list("into"), ["notes.txt"]);
            std::fs::remove_file(home.path("into/notes.txt")).unwrap();
        } else {
            assert!(sender.code != 0 && receiver.code != 0, "{} {}", sender.shown, receiver.shown);
            assert!(home.list("into").is_empty());
        }
    }
}
