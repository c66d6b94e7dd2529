//! C01: an invalid code ends with a usage error before a byte is sent.

use std::net::UdpSocket;

use super::stage::{End, Home, Run, SOON};

/// Detects bytes on the wire: the relay in the options is a socket of the test, and system calls are traced if strace
/// is available.
struct Wire {
    socket: UdpSocket,
    home: Home,
}

impl Wire {
    fn new() -> Self {
        Self { socket: UdpSocket::bind("127.0.0.1:0").unwrap(), home: Home::new() }
    }

    fn run(&self, words: &[&str], with_relay: bool) -> Run {
        let run = Run::new(&self.home, ["receive"]).args(words);
        // Before the words, so that no `--` of theirs swallows it.
        let relay = self.socket.local_addr().unwrap().to_string();
        if with_relay { run.env("TALLOW_RELAY", &relay) } else { run }
    }

    /// Runs to the end: the exit status, and the calls on internet sockets if they can be traced here.
    fn traced(&self, run: Run, input: &[u8]) -> (End, Option<Vec<String>>) {
        let log = self.home.text("trace");
        if !has_strace() {
            return (run.piped(input).end(), None);
        }
        let end = run.under(&["strace", "-f", "-qq", "-e", "trace=network", "-o", &log]).piped(input).end();
        let trace = std::fs::read_to_string(&log).unwrap();
        (end, Some(trace.lines().filter(|line| line.contains("AF_INET")).map(str::to_owned).collect()))
    }

    fn datagrams(&self) -> usize {
        self.socket.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| self.socket.recv(&mut [0; 2048]).ok()).count()
    }
}

pub fn has_strace() -> bool {
    let run = std::process::Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
    let has = run.is_ok_and(|output| output.status.success());
    if !has {
        eprintln!("skipped: without strace only the relay's own socket is watched");
    }
    has
}

#[track_caller]
fn is_no_code(wire: &Wire, run: &dyn Fn(bool) -> Run, input: &[u8]) {
    for with_relay in [true, false] {
        let (end, calls) = wire.traced(run(with_relay), input);
        assert_eq!(end.code, 2, "{}", end.shown);
        assert!(end.shown.starts_with("tallow: ") && end.shown.lines().count() == 1, "{}", end.shown);
        assert!(end.shown.contains("code"), "{}", end.shown);
        assert!(!end.shown.contains("MySecretPass"), "{}", end.shown);
        assert_eq!(calls.unwrap_or_default(), Vec::<String>::new());
        assert_eq!(wire.datagrams(), 0);
    }
}

#[test]
fn c01_invalid_code_causes_no_network_traffic() {
    let wire = Wire::new();
    let long = "7-".to_owned() + &"acorn-".repeat(1800);
    assert!(long.len() > 10 << 10);
    for code in ["MySecretPass", "", "7", "7-", "-a-b", &long] {
        is_no_code(&wire, &|with_relay| wire.run(&[code], with_relay), b"");
        // The same code by other ways; if an empty line counts as no input, the input ends.
        is_no_code(&wire, &|with_relay| wire.run(&[], with_relay), code.as_bytes());
        let file = wire.home.file("code", code.as_bytes());
        is_no_code(&wire, &|with_relay| wire.run(&["--code-file", &file], with_relay), b"");
        if !code.is_empty() {
            is_no_code(&wire, &|with_relay| wire.run(&[], with_relay).env("TALLOW_CODE", code), b"");
        }
    }
    // What no argument can hold.
    let nul = b"7-acorn\0-bicycle-canal\n";
    is_no_code(&wire, &|with_relay| wire.run(&[], with_relay), nul);
    let file = wire.home.file("code", nul);
    is_no_code(&wire, &|with_relay| wire.run(&["--code-file", &file], with_relay), b"");
    is_no_code(&wire, &|with_relay| wire.run(&["--code-file", "-"], with_relay), b"\xff\xfe\n");
}

/// The test detects the traffic of a valid code; otherwise the test above would prove nothing.
#[test]
fn c01_valid_code_causes_network_traffic() {
    let wire = Wire::new();
    wire.socket.set_read_timeout(Some(SOON)).unwrap();
    let run = wire.run(&["--yes", "7-acorn-bicycle-canal"], true);
    let program = run.piped(b"");
    assert!(wire.socket.recv(&mut [0; 2048]).unwrap() >= 1200, "a first datagram of QUIC");
    drop(program);
    if has_strace() {
        let log = wire.home.text("trace");
        let run = wire.run(&["--yes", "7-acorn-bicycle-canal"], true);
        let mut program = run.under(&["strace", "-f", "-qq", "-e", "trace=network", "-o", &log]).piped(b"");
        wire.socket.recv(&mut [0; 2048]).unwrap();
        program.expect("Waiting for relay ");
        assert!(std::fs::read_to_string(&log).unwrap().contains("AF_INET"));
        end_children(program.pid());
        assert_eq!(program.end().code, 130);
    }
}

/// strace does not forward signals; the program that it runs is its child.
fn end_children(pid: u32) {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
        let child = rustix::process::Pid::from_raw(child).unwrap();
        rustix::process::kill_process(child, rustix::process::Signal::INT).unwrap();
    }
}
