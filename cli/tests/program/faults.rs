//! Machines with few resources, senders that crash, and transfers that are very small or very large: rows F05, F12
//! and F13 on the real program.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::codes::has_strace;
use super::stage::{Home, Relay, Run, SLOWLY, allocate, receiving, sending};

/// A killed process can't send a farewell, but its TCP connection ends.
const TCP: [&str; 3] = ["--transport", "tcp", "--no-p2p"];

#[test]
fn f05_receiver_recovers_after_sender_is_killed() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let small = home.file("notes.txt", b"hello");
    let impatient = ["--transport", "tcp", "--no-p2p", "--give-up-after", "2s"];

    // The sender is killed while it waits, so no sender is waiting with this code.
    let (sender, code) = sending(&home, &relay, &small, &TCP);
    sender.signal(Signal::KILL);
    drop(sender);
    let end = receiving(&home, &relay).args(impatient).args(["--yes", &code]).piped(b"").end();
    end.is(5, "tallow: no sender is waiting with this code");

    // While the receiving user reads the offer.
    let (sender, code) = sending(&home, &relay, &small, &TCP);
    let mut receiver = receiving(&home, &relay).args(impatient).arg(&code).on_terminal();
    receiver.expect_asked("Accept? [y/N] ");
    sender.signal(Signal::KILL);
    let end = receiver.end();
    assert_eq!(end.code, 5, "{}", end.shown);
    assert!(end.restored);

    // While bytes are transferred; the next attempt resumes from what arrived.
    let large = home.large("large.bin");
    let slowly: Vec<&str> = TCP.into_iter().chain(SLOWLY).collect();
    let (sender, code) = sending(&home, &relay, &large, &slowly);
    let mut receiver = receiving(&home, &relay).args(impatient).args(["--yes", &code]).on_terminal();
    receiver.expect_asked("  3% ");
    sender.signal(Signal::KILL);
    let end = receiver.end();
    assert_eq!(end.code, 5, "{}", end.shown);
    let (sender, code) = sending(&home, &relay, &large, &TCP);
    let received = receiving(&home, &relay).args(TCP).args(["--yes", &code]).piped(b"").end();
    received.is(0, "Received 1 file, 256.0 MiB");
    received.is(0, "already received");
    sender.end().is(0, "Sent 1 file");
    assert_eq!(fs::metadata(home.path("into").join("large.bin")).unwrap().len(), 256 << 20);
}

/// The receiver is stopped as it puts its file in place, and the sender is killed meanwhile: neither its farewell nor
/// the sender comes. The receiver succeeds, and ends within seconds: `end` waits for a minute at most.
#[test]
fn f05_receiver_succeeds_if_sender_dies_at_end() {
    if !has_strace() {
        return;
    }
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    // Over TCP the link ends with its sender; over QUIC it falls silent.
    let runs = [("tokio", "tcp"), ("smol", "quic")].map(|(runtime, transport)| {
        let with = ["--runtime", runtime, "--transport", transport, "--no-p2p"];
        let (sender, code) = sending(&home, &relay, &file, &with);
        let (log, out) = (home.text(&format!("{transport}.log")), home.text(&format!("out-{transport}")));
        fs::create_dir(&out).unwrap();
        let stop =
            ["strace", "-f", "-qq", "-e", "trace=renameat2", "-e", "inject=renameat2:signal=SIGSTOP", "-o", &log];
        let run = receiving(&home, &relay).args(with).args(["--json", "--yes", "--out", &out, &code]).under(&stop);
        let receiver = run.piped(b"");
        let stopped = stopped_thread(&log);
        sender.signal(Signal::KILL);
        assert_eq!(sender.end().code, 137);
        rustix::process::kill_process(stopped, Signal::CONT).unwrap();
        (receiver, out)
    });
    for (receiver, out) in runs {
        let end = receiver.end();
        end.is(0, "Received 1 file");
        assert!(end.out.contains(r#""event":"done""#), "{}", end.out);
        assert_eq!(fs::read(format!("{out}/notes.txt")).unwrap(), b"hello");
    }
}

/// Waits until strace has seen the program stop, and gives the thread that it names.
fn stopped_thread(log: &str) -> Pid {
    loop {
        let seen = fs::read_to_string(log).unwrap_or_default();
        if let Some(line) = seen.lines().find(|line| line.contains("--- stopped by SIGSTOP ---")) {
            return Pid::from_raw(line.split(' ').next().unwrap().parse().unwrap()).unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// With `TALLOW_LONG`: 100,000 empty files, and a file of more than 4 GiB.
#[test]
fn f12_empty_directory_and_many_empty_files_arrive() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let is_long = std::env::var_os("TALLOW_LONG").is_some();
    let count = if is_long { 100_000 } else { 3_000 };
    let many = home.path("from").join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..count {
        fs::write(many.join(format!("{number:06}")), b"").unwrap();
    }
    fs::create_dir(home.path("from").join("nothing")).unwrap();
    if is_long {
        allocate(&many.join("large"), (4 << 30) + 1);
    }
    for name in ["many", "nothing"] {
        let path = home.text("from") + "/" + name;
        let (sender, code) = sending(&home, &relay, &path, &[]);
        receiving(&home, &relay).args(["--yes", &code]).piped(b"").end().is(0, "Received");
        sender.end().is(0, "Sent");
        let arrived = fs::read_dir(home.path("into").join(name)).unwrap().count();
        let expected = if name == "many" { count + usize::from(is_long) } else { 0 };
        assert_eq!(arrived, expected, "{name}");
    }
    if is_long {
        assert_eq!(fs::metadata(home.path("into").join("many/large")).unwrap().len(), (4 << 30) + 1);
    }
}

#[test]
fn f13_12_descriptors_fail_and_32_suffice() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let with = |limit: &str| ["sh".to_owned(), "-c".to_owned(), format!("ulimit -n {limit}; exec \"$0\" \"$@\"")];
    let few = with("12");
    let few: Vec<&str> = few.iter().map(String::as_str).collect();
    let send = Run::new(&home, ["send", &file, "--relay", &relay.name()]).under(&few).piped(b"").end();
    send.is(6, "too many open files");
    let receive = receiving(&home, &relay).args(["--yes", "123-acorn-bicycle-canal"]).under(&few).piped(b"").end();
    receive.is(6, "too many open files");

    let enough = with("32");
    let enough: Vec<&str> = enough.iter().map(String::as_str).collect();
    let mut sender = Run::new(&home, ["send", &file, "--relay", &relay.name()]).under(&enough).piped(b"");
    let code = sender.code();
    receiving(&home, &relay).args(["--yes", &code]).under(&enough).piped(b"").end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
}

/// Nothing that a transfer needs is kept at home.
#[test]
fn f13_transfer_works_without_home_directory() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    for strip in ["env -u HOME -u XDG_STATE_HOME", "env -u XDG_STATE_HOME HOME=/nowhere", "env TMPDIR=/nowhere"] {
        let under: Vec<&str> = strip.split(' ').collect();
        let mut sender = Run::new(&home, ["send", &file, "--relay", &relay.name()]).under(&under).piped(b"");
        let code = sender.code();
        let end = receiving(&home, &relay).args(["--yes", "--overwrite", &code]).under(&under).piped(b"").end();
        end.is(0, "Received 1 file");
        sender.end().is(0, "Sent 1 file");
    }
}
