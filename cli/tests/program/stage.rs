//! The environment of the real program: its own home, a relay on a port that the system chose, pipes or a terminal,
//! and the captured output.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pty_process::blocking::{Pts, Pty};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use rustix::termios::{Termios, tcgetattr};
use tempfile::TempDir;

/// Nothing takes this long; an event that has not happened by then will not happen.
pub const SOON: Duration = Duration::from_secs(60);

/// One machine: a home, a place to send from and one to receive into.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
}

impl Home {
    pub fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        for dir in ["home", "from", "into"] {
            fs::create_dir(home.path(dir)).unwrap();
        }
        home
    }

    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(below)
    }

    pub fn text(&self, below: &str) -> String {
        self.path(below).to_str().unwrap().to_owned()
    }

    /// A file to send: its path.
    pub fn file(&self, name: &str, contents: &[u8]) -> String {
        let path = self.path("from").join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A file of zeros without holes. With [`SLOWLY`] it takes minutes to transfer, so that the test has time to act.
    pub fn large(&self, name: &str) -> String {
        let path = self.path("from").join(name);
        allocate(&path, 256 << 20);
        path.to_str().unwrap().to_owned()
    }

    /// Everything below a directory, by its name there.
    pub fn list(&self, below: &str) -> Vec<String> {
        let mut all = Vec::new();
        let mut waiting = vec![self.path(below)];
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                all.push(path.strip_prefix(self.path(below)).unwrap().to_str().unwrap().to_owned());
                if path.is_dir() {
                    waiting.push(path);
                }
            }
        }
        all.sort();
        all
    }

    /// The environment contains only what a test sets.
    fn environment(&self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = ["PATH", "LLVM_PROFILE_FILE"]
            .iter()
            .filter_map(|name| std::env::var(name).ok().map(|value| ((*name).to_owned(), value)))
            .collect();
        all.push(("HOME".into(), self.text("home")));
        all.push(("XDG_STATE_HOME".into(), self.text("home/state")));
        all.push(("TMPDIR".into(), self.text("")));
        all.push(("TERM".into(), "xterm-256color".into()));
        all
    }
}

/// Creates a file of zeros that has no holes, because the disk has blocks for all of it.
pub fn allocate(path: &Path, len: u64) {
    let file = fs::File::create(path).unwrap();
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len).unwrap();
}

/// What to run and how.
#[derive(Debug, Clone)]
pub struct Run {
    arguments: Vec<std::ffi::OsString>,
    environment: Vec<(String, String)>,
    into: PathBuf,
    under: Vec<String>,
    user: Option<u32>,
}

impl Run {
    pub fn new<S: AsRef<OsStr>>(home: &Home, arguments: impl IntoIterator<Item = S>) -> Self {
        Self {
            arguments: arguments.into_iter().map(|word| word.as_ref().to_owned()).collect(),
            environment: home.environment(),
            into: home.path("into"),
            under: Vec::new(),
            user: None,
        }
    }

    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.arguments.push(word.as_ref().to_owned());
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another program runs this one.
    pub fn under(mut self, words: &[&str]) -> Self {
        self.under = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Runs as a user who is not root; `None` if that is not possible.
    pub fn unprivileged(mut self) -> Option<Self> {
        if rustix::process::getuid().is_root() {
            const NOBODY: u32 = 65_534;
            let mut look = Command::new(env!("CARGO_BIN_EXE_tallow"));
            look.arg("--version").uid(NOBODY).stdout(Stdio::null()).status().ok()?;
            let home = self.into.parent()?.to_owned();
            for dir in [&home, &home.join("home"), &self.into] {
                fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).ok()?;
            }
            self.user = Some(NOBODY);
        }
        Some(self)
    }

    fn line(&self) -> (std::ffi::OsString, Vec<std::ffi::OsString>) {
        let mut words: Vec<std::ffi::OsString> = as_started_by_a_person().iter().map(Into::into).collect();
        words.extend(self.under.iter().map(Into::into));
        words.push(env!("CARGO_BIN_EXE_tallow").into());
        words.extend(self.arguments.iter().cloned());
        let program = words.remove(0);
        (program, words)
    }

    /// With pipes, and this on standard input, which ends after it.
    pub fn piped(self, input: &[u8]) -> Program {
        let mut child = self.spawn();
        // A program that does not read its input ends without it.
        let _ = child.stdin.take().unwrap().write_all(input);
        let out = Captured::default();
        let reader = out.listen(child.stdout.take().unwrap());
        Program::of(child, out, vec![reader])
    }

    /// With these as its standard output, or a pipe, and its standard error, which is not read.
    pub fn unread(self, out: Option<Stdio>, err: Stdio) -> Program {
        let (program, words) = self.line();
        let mut command = Command::new(program);
        command.args(words).env_clear().envs(self.environment).current_dir(self.into).stdin(Stdio::null()).stderr(err);
        let mut child = command.stdout(out.unwrap_or_else(Stdio::piped)).spawn().unwrap();
        let out = Captured::default();
        let readers = child.stdout.take().map(|stdout| out.listen(stdout)).into_iter().collect();
        Program { child, shown: Captured::default(), out, at: 0, readers, terminal: None }
    }

    /// Runs on a stopped terminal, as after Ctrl-S, whose buffer is full.
    pub fn on_stopped_terminal(self) -> Program {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        let found = tcgetattr(&pts).unwrap();
        fill(&pts);
        let (program, words) = self.line();
        let command = pty_process::blocking::Command::new(program).args(words).env_clear().envs(self.environment);
        let child = command.current_dir(self.into).spawn_borrowed(&pts).unwrap();
        let (shown, out) = (Captured::default(), Captured::default());
        let terminal = Some(Terminal { pty: Arc::new(pty), pts, found });
        Program { child, shown, out, at: 0, readers: Vec::new(), terminal }
    }

    /// Starts the program with pipes; the test writes its standard input.
    pub fn fed(self, feed: impl FnOnce(ChildStdin) + Send + 'static) -> Program {
        let mut child = self.spawn();
        let into = child.stdin.take().unwrap();
        let out = Captured::default();
        let readers = vec![out.listen(child.stdout.take().unwrap()), std::thread::spawn(move || feed(into))];
        Program::of(child, out, readers)
    }

    /// Starts the program with pipes; the test reads its standard output.
    pub fn read_by(self, read: impl FnOnce(ChildStdout) + Send + 'static) -> Program {
        let mut child = self.spawn();
        drop(child.stdin.take());
        let from = child.stdout.take().unwrap();
        Program::of(child, Captured::default(), vec![std::thread::spawn(move || read(from))])
    }

    fn spawn(self) -> Child {
        let (program, words) = self.line();
        let mut command = Command::new(program);
        if let Some(user) = self.user {
            command.uid(user);
        }
        command
            .args(words)
            .env_clear()
            .envs(self.environment)
            .current_dir(self.into)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// On a terminal of its own, which is its standard input, output and error.
    pub fn on_terminal(self) -> Program {
        self.terminal(false)
    }

    /// On a terminal of its own, but standard output is a pipe.
    pub fn on_terminal_with_pipe(self) -> Program {
        self.terminal(true)
    }

    fn terminal(self, piped: bool) -> Program {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(pty_process::Size::new(40, 160)).unwrap();
        let found = tcgetattr(&pts).unwrap();
        let pty = Arc::new(pty);
        let (shown, out) = (Captured::default(), Captured::default());
        let mut readers = vec![shown.listen(Master(pty.clone()))];
        let (program, words) = self.line();
        let mut command = pty_process::blocking::Command::new(program)
            .args(words)
            .env_clear()
            .envs(self.environment)
            .current_dir(self.into);
        if let Some(user) = self.user {
            command = command.uid(user);
        }
        if piped {
            command = command.stdout(Stdio::piped());
        }
        let mut child = command.spawn_borrowed(&pts).unwrap();
        if piped {
            readers.push(out.listen(child.stdout.take().unwrap()));
        }
        Program { child, shown, out, at: 0, readers, terminal: Some(Terminal { pty, pts, found }) }
    }
}

/// What runs a program so that it has the signals as a shell in the foreground leaves them. A shell starts a background
/// job with the interrupt ignored, the tests inherit that, and a program that inherits it ignores it, as it should.
fn as_started_by_a_person() -> &'static [&'static str] {
    let is_ignored = tallow_relay::process::is_ignored(Signal::INT.as_raw());
    if is_ignored { &["env", "--default-signal=INT"] } else { &[] }
}

/// Writes until a pipe or a terminal accepts no more bytes.
pub fn fill(stream: &impl AsFd) {
    // By another descriptor, because that of the program must stay blocking.
    let path = format!("/proc/self/fd/{}", stream.as_fd().as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let other = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    for piece in [&[b'x'; 4096][..], b"x"] {
        while rustix::io::write(&other, piece).is_ok() {}
    }
}

/// The captured output of a stream.
#[derive(Debug, Clone, Default)]
struct Captured(Arc<Stream>);

#[derive(Debug, Default)]
struct Stream {
    said: Mutex<Words>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Words {
    bytes: Vec<u8>,
    over: bool,
}

impl Captured {
    fn listen(&self, mut from: impl Read + Send + 'static) -> JoinHandle<()> {
        let said = self.clone();
        std::thread::spawn(move || {
            let mut buf = [0; 8192];
            loop {
                let got = from.read(&mut buf).unwrap_or(0);
                let mut all = said.0.said.lock().unwrap();
                all.bytes.extend_from_slice(&buf[..got]);
                all.over = got == 0;
                said.0.news.notify_all();
                if got == 0 {
                    return;
                }
            }
        })
    }

    fn all(&self) -> Vec<u8> {
        self.0.said.lock().unwrap().bytes.clone()
    }

    /// The position of `what` at or after `from`; `None` if the stream or the time ends first.
    fn find(&self, what: &str, from: usize) -> Option<usize> {
        let end = Instant::now() + SOON;
        let mut all = self.0.said.lock().unwrap();
        loop {
            let found = all.bytes[from..].windows(what.len()).position(|window| window == what.as_bytes());
            let left = end.saturating_duration_since(Instant::now());
            match found {
                Some(at) => return Some(from + at),
                None if all.over || left.is_zero() => return None,
                None => all = self.0.news.wait_timeout(all, left).unwrap().0,
            }
        }
    }
}

/// The master side of a terminal. Reading it fails when no process has the other side open.
struct Master(Arc<Pty>);

impl Read for Master {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        (&*self.0).read(buf)
    }
}

struct Terminal {
    pty: Arc<Pty>,
    pts: Pts,
    found: Termios,
}

/// How it ended.
#[derive(Debug)]
pub struct End {
    /// The exit code as a shell reports it.
    pub code: i32,
    /// Standard error; on a terminal, all that it showed.
    pub shown: String,
    /// Standard output, where it is a pipe.
    pub out: String,
    /// The same output as bytes.
    pub raw: Vec<u8>,
    /// Whether the terminal is set as it was found.
    pub restored: bool,
    /// The most memory that it was seen to have while its end was waited for, in bytes.
    pub peak: u64,
}

impl End {
    /// Checks the exit code and that the output contains `line`.
    #[track_caller]
    pub fn is(&self, code: i32, line: &str) -> &Self {
        assert_eq!(self.code, code, "{}", self.shown);
        assert!(self.shown.contains(line), "no {line:?} in: {}", self.shown);
        self
    }
}

/// The program as it runs. It is ended by its own id.
pub struct Program {
    child: Child,
    shown: Captured,
    out: Captured,
    at: usize,
    readers: Vec<JoinHandle<()>>,
    terminal: Option<Terminal>,
}

impl Program {
    fn of(mut child: Child, out: Captured, mut readers: Vec<JoinHandle<()>>) -> Self {
        let shown = Captured::default();
        readers.push(shown.listen(child.stderr.take().unwrap()));
        Self { child, shown, out, at: 0, readers, terminal: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `what` appears after the previous match, and returns the rest of its line.
    #[track_caller]
    pub fn expect(&mut self, what: &str) -> String {
        let Some(at) = self.shown.find(what, self.at) else {
            panic!("no {what:?} in: {}", String::from_utf8_lossy(&self.shown.all()))
        };
        self.at = at + what.len();
        let line = self.shown.find("\n", self.at).unwrap_or_else(|| self.shown.all().len());
        String::from_utf8_lossy(&self.shown.all()[self.at..line]).trim_end().to_owned()
    }

    /// Like [`Self::expect`], for text without a line ending, such as a question.
    #[track_caller]
    pub fn expect_asked(&mut self, what: &str) {
        let Some(at) = self.shown.find(what, self.at) else {
            panic!("no {what:?} in: {}", String::from_utf8_lossy(&self.shown.all()))
        };
        self.at = at + what.len();
    }

    /// Like [`Self::expect`], on standard output if it is a pipe.
    #[track_caller]
    pub fn expect_out(&mut self, what: &str) {
        let found = self.out.find(what, 0);
        assert!(found.is_some(), "no {what:?} in: {}", String::from_utf8_lossy(&self.out.all()));
    }

    /// Types on its terminal.
    pub fn keys(&self, keys: &str) {
        (&*self.terminal.as_ref().unwrap().pty).write_all(keys.as_bytes()).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the process until [`Signal::CONT`]: when this returns, all of its threads are stopped, which sending the
    /// signal alone does not guarantee.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        waitid(WaitId::Pid(Pid::from_child(&self.child)), WaitIdOptions::STOPPED).unwrap();
    }

    /// The code that a sender shows.
    #[track_caller]
    pub fn code(&mut self) -> String {
        let code = self.expect("Code: ");
        // Bold on a terminal.
        code.trim_start_matches("\x1b[1m").trim_end_matches("\x1b[0m").to_owned()
    }

    /// The peak of its memory in bytes; `None` if the system does not report it.
    pub fn peak(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        peak.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
    }

    /// The output so far.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.shown.all()).into_owned()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> End {
        let end = Instant::now() + SOON;
        let mut peak = 0;
        let status = loop {
            peak = peak.max(self.peak().unwrap_or(0));
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end: {}", self.so_far());
            std::thread::sleep(Duration::from_millis(2));
        };
        let restored = self.terminal.take().is_none_or(|terminal| {
            let now = tcgetattr(&terminal.pts).unwrap();
            let same = |now: &Termios, found: &Termios| {
                (now.input_modes, now.output_modes, now.local_modes)
                    == (found.input_modes, found.output_modes, found.local_modes)
            };
            same(&now, &terminal.found)
        });
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let raw = [self.shown.all(), self.out.all()].concat();
        let text = |said: &Captured| String::from_utf8_lossy(&said.all()).into_owned();
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap();
        End { code, shown: text(&self.shown), out: text(&self.out), raw, restored, peak }
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

/// `tallow relay` and where it listens.
pub struct Relay {
    pub program: Program,
    pub addr: SocketAddr,
    pub fingerprint: String,
}

impl Relay {
    pub fn start(home: &Home, options: &[&str]) -> Self {
        Self::at("127.0.0.1:0", home, options)
    }

    pub fn at(listen: &str, home: &Home, options: &[&str]) -> Self {
        let mut program = Run::new(home, ["relay", "--listen", listen]).args(options).piped(b"");
        let fingerprint = program.expect("certificate fingerprint ");
        let addr = program.expect("listening on ").parse().unwrap();
        Self { program, addr, fingerprint }
    }

    pub fn name(&self) -> String {
        self.addr.to_string()
    }
}

/// Options of a sender with which a [`Home::large`] takes minutes.
pub const SLOWLY: [&str; 3] = ["--no-compress", "--limit", "2MiB/s"];

/// A sender that waits with its code behind this relay.
pub fn sending(home: &Home, relay: &Relay, file: &str, options: &[&str]) -> (Program, String) {
    let mut sender = Run::new(home, ["send", file, "--relay", &relay.name()]).args(options).piped(b"");
    let code = sender.code();
    (sender, code)
}

/// A receiver, whose code the test adds.
pub fn receiving(home: &Home, relay: &Relay) -> Run {
    Run::new(home, ["receive", "--relay", &relay.name()])
}

/// The code with its last word changed into another.
pub fn wrong(code: &str) -> String {
    let (front, last) = code.rsplit_once('-').unwrap();
    let other = if last == "zebra" { "acorn" } else { "zebra" };
    format!("{front}-{other}")
}
