//! Direct paths on the command line: the options, and the messages if there is no direct path.

use super::stage::{Home, Relay, Run, SLOWLY, receiving, sending};

#[test]
fn p2p_only_transfer_fails_without_direct_path() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &["--p2p-only"]);
    let receiver = receiving(&home, &relay).args(["--yes", "--no-p2p", &code]).piped(b"").end();
    sender.end().is(
        5,
        "tallow: no direct path to the peer was found, and --p2p-only forbids a transfer over a relay; leave out",
    );
    receiver.is(9, "tallow: the sender interrupted the transfer");
    assert!(home.list("into").iter().all(|name| name.starts_with(".tallow-")), "{:?}", home.list("into"));
}

#[test]
fn contradictory_or_invalid_options_are_usage_errors() {
    let home = Home::new();
    let file = home.file("notes.txt", b"hello");
    for options in [
        &["--no-p2p", "--p2p-only"][..],
        &["--no-p2p", "--p2p-port", "50000"],
        &["--p2p-port", "1023"],
        &["--p2p-port", "50010-50000"],
        &["--p2p-port", "fifty"],
        &["--stun", "not a host"],
        &["--p2p-only", "--relay", "localhost", "--proxy", "socks5://localhost"],
    ] {
        let end = Run::new(&home, ["send", &file]).args(options).piped(b"").end();
        assert_eq!(end.code, 2, "{options:?}: {}", end.shown);
    }
}

/// If this machine has a network, the transfer moves to it; both sides report this, and the port is the configured
/// one.
#[test]
fn path_change_is_reported_on_both_sides() {
    let has_network = std::fs::read_to_string("/proc/net/fib_trie").is_ok_and(|routes| {
        let local = routes.split("Local:").nth(1).unwrap_or_default().to_owned();
        local.lines().any(|line| line.contains("|-- ") && !line.contains("|-- 127.") && !line.contains("|-- 0.0.0.0"))
    });
    if !has_network {
        eprintln!("left out: this machine has no network");
        return;
    }
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.large("large.bin");
    let options: Vec<&str> = SLOWLY.into_iter().chain(["--p2p-port", "42000-42999"]).collect();
    let (sender, code) = sending(&home, &relay, &file, &options);
    let mut receiver = receiving(&home, &relay).args(["--yes", &code]).on_terminal();
    receiver.expect("Path: direct ");
    receiver.keys("\x03");
    receiver.end().is(130, "tallow: interrupted");
    let sent = sender.end();
    sent.is(9, "Path: direct ");
}
