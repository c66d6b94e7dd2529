//! The real program: its output, its exit codes, and two clients that are paired over real sockets.

#[path = "../examples/crowd/client.rs"]
mod client;
#[path = "program/tcp.rs"]
mod tcp;
#[path = "program/tcp_client.rs"]
mod tcp_client;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use client::{ClientPool, join};
use rustix::process::{Pid, Signal, kill_process};
use tallow_proto::link::quic::{Closed, Profile};
use tallow_proto::link::trust::CertificateSeen;
use tallow_proto::wire::close;
use tallow_proto::wire::relay::{ClientMessage, Owner, RelayMessage, Role};
use tallow_relay::process::is_ignored;

const SOON: Duration = Duration::from_secs(20);

/// A running relay. The test ends it by its own process id.
struct Program {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Program {
    fn start(state: &Path, arguments: &[&str]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_tallow-relay")), state, arguments)
    }

    /// Starts it so that it handles an interrupt, even if this process ignores interrupts like a background job of a
    /// shell.
    fn start_in_front(state: &Path, arguments: &[&str]) -> Self {
        if !is_ignored(Signal::INT.as_raw()) {
            return Self::start(state, arguments);
        }
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_tallow-relay")]);
        Self::run(command, state, arguments)
    }

    fn run(mut command: Command, state: &Path, arguments: &[&str]) -> Self {
        let mut child = command.args(arguments).env("TALLOW_STATE_DIR", state).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines, said: Vec::new() }
    }

    /// The rest of the next line that contains `what`.
    fn expect(&mut self, what: &str) -> String {
        let end = Instant::now() + SOON;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.said.push(line.clone());
            if let Some((_, rest)) = line.split_once(what) {
                return rest.to_owned();
            }
        }
        panic!("no line with {what:?}: {:#?}", self.said)
    }

    fn listening(&mut self) -> SocketAddr {
        self.expect("listening on ").parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end: returns the exit code and the whole output.
    fn end(mut self) -> (Option<i32>, String) {
        let end = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.said.extend(self.lines.iter());
                return (status.code(), self.said.join("\n"));
            }
            assert!(Instant::now() < end, "it does not end: {:#?}", self.said);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// R06 for one pair: the log at level TRACE identifies no client.
#[test]
fn two_clients_are_paired_and_log_has_no_addresses() {
    let state = tempfile::tempdir().unwrap();
    let mut relay = Program::start(state.path(), &["--listen", "127.0.0.1:0", "-vvv"]);
    relay.expect("descriptor limit: ");
    let fingerprint = relay.expect("certificate fingerprint ");
    let addr = relay.listening();

    let mut pool = ClientPool::new(addr, &Profile::peer());
    let alice = pool.connect(&[ClientMessage::Allocate { owner: Owner([1; 16]) }, ClientMessage::Ping]);
    assert!(pool.until(SOON, |pool| pool.clients[&alice].received.contains(&RelayMessage::Pong)));
    let Some(CertificateSeen::Unchecked(seen)) = pool.clients[&alice].certificate else { panic!() };
    assert_eq!(seen.to_string(), fingerprint);
    pool.leave(alice, close::DONE);

    let sender = pool.connect(&[join(1, Role::Sender)]);
    assert!(pool.until(SOON, |pool| pool.clients[&sender].received.contains(&RelayMessage::Waiting)));
    let receiver = pool.connect(&[join(1, Role::Receiver)]);
    assert!(pool.until(SOON, |pool| pool.clients[&sender].paired && pool.clients[&receiver].paired));
    pool.send(sender, 5 << 20);
    assert!(pool.until(SOON, |pool| pool.clients[&receiver].bytes_received == 5 << 20));
    pool.leave(sender, close::DONE);
    assert!(pool.until(SOON, |pool| pool.clients[&receiver].closed.is_some()));
    let closed = pool.clients[&receiver].closed.clone();
    assert!(matches!(closed, Some(Closed::Application { code: close::PEER_LEFT, .. })), "{closed:?}");

    let closed = relay.expect("room_closed");
    assert!(closed.contains("reason=left") || closed.contains("bytes_forwarded=0"), "{closed}");
    let closed = relay.expect("room_closed");
    assert!(closed.contains("bytes_forwarded=5242880") && closed.contains("reason=left"), "{closed}");
    relay.signal(Signal::TERM);
    let (code, said) = relay.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("room_created") && said.contains("room_paired"), "{said}");
    let others: Vec<_> = said.lines().filter(|line| !line.starts_with("listening on")).collect();
    let port = pool.local_addr().port().to_string();
    assert!(others.iter().all(|line| !line.contains("127.0.0.1") && !line.contains(&port)), "{others:#?}");

    // The certificate is kept.
    let mut relay = Program::start(state.path(), &["--listen", "127.0.0.1:0"]);
    assert_eq!(relay.expect("certificate fingerprint "), fingerprint);
}

#[test]
fn first_signal_drains_pairs_and_second_ends_them() {
    let state = tempfile::tempdir().unwrap();
    for hurried in [false, true] {
        let drain = if hurried { "1000" } else { "1" };
        let mut relay = Program::start_in_front(state.path(), &["--listen", "127.0.0.1:0", "--drain", drain]);
        let mut pool = ClientPool::new(relay.listening(), &Profile::peer());
        let sender = pool.connect(&[join(1, Role::Sender)]);
        assert!(pool.until(SOON, |pool| pool.clients[&sender].received.contains(&RelayMessage::Waiting)));
        let receiver = pool.connect(&[join(1, Role::Receiver)]);
        assert!(pool.until(SOON, |pool| pool.clients[&sender].paired && pool.clients[&receiver].paired));
        relay.signal(Signal::INT);
        relay.expect("shutting down: ");
        pool.send(sender, 1000);
        assert!(pool.until(SOON, |pool| pool.clients[&receiver].bytes_received == 1000));
        assert!(relay.child.try_wait().unwrap().is_none());
        if hurried {
            relay.signal(Signal::INT);
        }
        assert!(pool.until(SOON, |pool| pool.clients.values().all(|client| client.closed.is_some())));
        let told =
            |closed: &Option<Closed>| matches!(closed, Some(Closed::Application { code: close::SHUTTING_DOWN, .. }));
        assert!(pool.clients.values().all(|client| told(&client.closed)));
        assert_eq!(relay.end().0, Some(0));
    }
}

/// `trap '' INT` and background jobs of a shell: a signal that was ignored stays ignored.
#[test]
fn interrupt_ignored_by_parent_is_ignored() {
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new("env");
    command.args(["--ignore-signal=INT", env!("CARGO_BIN_EXE_tallow-relay")]);
    let mut relay = Program::run(command, state.path(), &["--listen", "127.0.0.1:0", "--drain", "1000"]);
    let mut pool = ClientPool::new(relay.listening(), &Profile::peer());
    relay.signal(Signal::INT);
    let waiting = pool.connect(&[join(1, Role::Sender)]);
    assert!(pool.until(SOON, |pool| pool.clients[&waiting].received.contains(&RelayMessage::Waiting)));
    relay.signal(Signal::TERM);
    relay.expect("shutting down: ");
    let (code, said) = relay.end();
    assert_eq!((code, said.matches("shutting down: ").count()), (Some(0), 1), "{said}");
}

#[test]
fn quiet_relay_prints_only_errors() {
    let state = tempfile::tempdir().unwrap();
    let relay = Program::start(state.path(), &["--listen", "127.0.0.1:0", "-q"]);
    while !catches(relay.child.id(), Signal::TERM) {
        std::thread::sleep(Duration::from_millis(5));
    }
    relay.signal(Signal::TERM);
    assert_eq!(relay.end(), (Some(0), String::new()));
    let (code, said) = Program::start(state.path(), &["--listen", "192.0.2.1:0", "-q"]).end();
    assert!(code == Some(5) && said.starts_with("tallow relay: cannot listen") && said.lines().count() == 1, "{said}");
}

/// Whether a process has already installed a handler for a signal.
fn catches(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
#[cfg(target_os = "linux")]
fn relay_memory_is_hidden_from_other_processes() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallow-relay"));
    if rustix::process::getuid().is_root() {
        std::fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let reachable = Command::new(env!("CARGO_BIN_EXE_tallow-relay")).arg("--version").uid(NOBODY).status();
        if !reachable.is_ok_and(|status| status.success()) {
            return eprintln!("skipped: another user can't run the program from here");
        }
        command.uid(NOBODY);
    }
    let mut relay = Program::run(command, state.path(), &["--listen", "127.0.0.1:0"]);
    relay.listening();
    // The kernel gives files of a process that can't be dumped to root.
    assert_eq!(std::fs::metadata(format!("/proc/{}/maps", relay.child.id())).unwrap().uid(), 0);
}

#[test]
fn startup_failure_is_reported_in_one_line() {
    let state = tempfile::tempdir().unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let missing = state.path().join("no such file").display().to_string();
    let empty = state.path().join("empty").display().to_string();
    std::fs::write(&empty, "\n").unwrap();
    let directory = state.path().display().to_string();
    let free = ["--listen", "127.0.0.1:0"];
    for (arguments, code, text) in [
        (&["--listen", &addr][..], 5, "cannot listen on"),
        (&[free[0], free[1], "--listen", &addr], 5, "choose another address with --listen"),
        (&[free[0], free[1], "--password-file", &missing], 6, "there is no such file; check --password-file"),
        (&[free[0], free[1], "--password-file", &directory], 6, "it is a directory"),
        (&[free[0], free[1], "--password-file", &empty], 6, "there is no password in"),
        (&[free[0], free[1], "--tls-cert", &missing, "--tls-key", &missing], 6, "no such file"),
        (&["--listen", "nowhere"], 2, "--listen"),
        (&["--tls-cert", &missing], 2, "--tls-key"),
    ] {
        let (ended, said) = Program::start(state.path(), arguments).end();
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        assert!(said.to_lowercase().contains(text), "{said}");
        if code != 2 {
            let problems = said.lines().filter(|line| line.starts_with("tallow relay: ")).count();
            assert_eq!(problems, 1, "{said}");
        }
    }
}
