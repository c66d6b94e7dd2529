//! A relay of one's own: its password, its certificate, its end and its log.

use rustix::process::Signal;

use super::stage::{Home, Relay, Run, receiving, sending};

const PASSWORD: &str = "correct horse";

#[test]
fn a_relay_with_a_password_serves_those_who_know_it() {
    let home = Home::new();
    std::fs::write(home.path("password"), format!("{PASSWORD}\n")).unwrap();
    let file = home.file("notes.txt", b"hello");
    let relay = Relay::start(&home, &["--password-file", &home.text("password")]);
    let send = || Run::new(&home, ["send", &file, "--relay", &relay.name()]);
    for run in [send(), send().args(["--relay-password", "wrong"]), send().env("TALLOW_RELAY_PASSWORD", "wrong")] {
        run.piped(b"").end().is(
            8,
            "tallow: the relay refused: it asks for a password, or this one is wrong; set TALLOW_RELAY_PASSWORD",
        );
    }
    receiving(&home, &relay).args(["--yes", "7-acorn-bicycle-canal"]).piped(b"").end().is(8, "password");

    let mut sender = send().args(["--relay-password-file", &home.text("password")]).piped(b"");
    let code = sender.code();
    let receive = receiving(&home, &relay).args(["--yes", &code]).env("TALLOW_RELAY_PASSWORD", PASSWORD);
    receive.piped(b"").end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
}

/// R06 for one pair: the whole log, at its highest, after the relay was told to end.
#[test]
fn a_relay_that_is_told_to_end_does_and_its_log_names_nobody() {
    let home = Home::new();
    let relay = Relay::start(&home, &["-vvvv"]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    receiving(&home, &relay).args(["--yes", &code]).piped(b"").end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
    let Relay { mut program, .. } = relay;
    for event in ["room_created", "room_paired", "room_closed"] {
        program.expect(event);
    }
    program.signal(Signal::TERM);
    let end = program.end();
    end.is(0, "ending: no new rooms");
    let log: Vec<&str> = end.shown.lines().filter(|line| !line.starts_with("listening on ")).collect();
    assert!(log.len() > 5);
    for line in log {
        assert!(!names_an_address(line), "{line}");
        assert!(code.split('-').skip(1).all(|word| !line.contains(word)), "{line}");
    }
}

/// IPv4 and IPv6 as anybody writes them, with a port or without.
fn names_an_address(line: &str) -> bool {
    let words = line.split(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c)));
    words.into_iter().any(|word| {
        let bare = word.trim_matches(['.', ':']);
        [word, bare, bare.trim_matches(['[', ']'])]
            .iter()
            .any(|word| word.parse::<std::net::IpAddr>().is_ok() || word.parse::<std::net::SocketAddr>().is_ok())
    })
}

#[test]
fn the_search_for_addresses_finds_them() {
    for line in ["from 127.0.0.1:4433 came", "client=10.0.0.1", "a [::1]:9, b", "x ::ffff:1.2.3.4 y", "2001:db8::5."] {
        assert!(names_an_address(line), "{line}");
    }
    assert!(!names_an_address("room_closed room=8a0f bytes_forwarded=12 seconds=0.5 reason=done"));
}

#[test]
fn a_changed_certificate_is_refused_and_the_error_says_how_to_accept_it() {
    let (home, other) = (Home::new(), Home::new());
    let file = home.file("notes.txt", b"hello");
    let relay = Relay::start(&home, &[]);
    let (name, first) = (relay.name(), relay.fingerprint.clone());
    let (sender, code) = sending(&home, &relay, &file, &[]);
    receiving(&home, &relay).args(["--yes", &code]).piped(b"").end().is(0, "Received");
    let end = sender.end();
    end.is(0, &format!("First contact with relay {name}: its certificate is {first}; remembered"));
    relay.program.signal(Signal::TERM);
    assert_eq!(relay.program.end().code, 0);

    // At the same address, but with the state of another machine.
    let relay = Relay::at(&name, &other, &[]);
    assert_ne!(relay.fingerprint, first);
    let send = || Run::new(&home, ["send", &file, "--relay", &name]);
    let end = send().piped(b"").end();
    end.is(8, &format!("tallow: the certificate of relay {name} changed from {first} to {}", relay.fingerprint));
    let known = home.text("home/state/tallow/known_relays");
    end.is(8, &format!("use --relay-pin {}, or remove the line of {name} from {known}", relay.fingerprint));
    assert!(!end.shown.contains("Code: "));

    // As it says.
    let mut sender = send().args(["--relay-pin", &relay.fingerprint]).piped(b"");
    let code = sender.code();
    let receive = || receiving(&home, &relay).args(["--yes", "--overwrite", &code]);
    receive().args(["--relay-pin", &first]).piped(b"").end().is(8, &format!("and not the pinned {first}"));
    receive().args(["--relay-pin", &relay.fingerprint]).piped(b"").end().is(0, "Received");
    sender.end().is(0, "Sent");

    // Or the other way.
    let kept = std::fs::read_to_string(&known).unwrap();
    let lines: Vec<&str> = kept.lines().filter(|line| !line.contains(&name)).collect();
    assert!(lines.len() < kept.lines().count(), "{kept}");
    std::fs::write(&known, lines.join("\n")).unwrap();
    let mut sender = send().piped(b"");
    sender.code();
    sender.signal(Signal::INT);
    sender.end().is(130, &format!("its certificate is {}; remembered", relay.fingerprint));
}

#[test]
fn a_pin_that_is_none_is_a_usage_error() {
    let home = Home::new();
    let file = home.file("notes.txt", b"hello");
    let run = Run::new(&home, ["send", &file, "--relay", "127.0.0.1:9", "--relay-pin", "SHA256:nonsense"]);
    run.piped(b"").end().is(2, "--relay-pin");
}
