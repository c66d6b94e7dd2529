//! `strace` kills the program at, or makes fail, one system call of a small receive after the other; then the same
//! files are sent and received again, and must be complete.
//!
//! strace counts the calls of each thread separately, so a point is "the Nth call of this kind in the first thread
//! that makes it". By default a few points of each kind are tried; `TALLOW_LONG=1` tries all of them.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Calls that a receive makes on files.
const CALLS: [&str; 18] = [
    "openat",
    "openat2",
    "mkdirat",
    "flock",
    "pwrite64",
    "pread64",
    "ftruncate",
    "fchmod",
    "fchmodat",
    "utimensat",
    "symlinkat",
    "renameat2",
    "unlinkat",
    "fsync",
    "fdatasync",
    "syncfs",
    "getdents64",
    "close",
];
/// Those among them that can fail for a reason that lies in the disk, and that nothing but a receive makes.
const FAILING: [&str; 10] = [
    "mkdirat",
    "pwrite64",
    "ftruncate",
    "fchmod",
    "utimensat",
    "symlinkat",
    "renameat2",
    "unlinkat",
    "fsync",
    "fdatasync",
];

/// The files to send, the destination, and the state of the program.
struct Place {
    root: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Place {
    /// 64 chunks in three files, and entries without chunks.
    fn new(name: &str) -> Self {
        let base = Path::new("/dev/shm");
        let base = if base.is_dir() { base.to_owned() } else { std::env::temp_dir() };
        let root = base.join(format!("tallow-{name}-{}", std::process::id()));
        let src = root.join("src/d");
        fs::create_dir_all(&src).unwrap();
        for (name, size) in [("large", 40 << 16), ("other", (20 << 16) + 5), ("small", 5000)] {
            let mut state = size as u32;
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .take(size)
            .collect();
            fs::write(src.join(name), bytes).unwrap();
        }
        fs::write(src.join("empty"), "").unwrap();
        symlink("small", src.join("link")).unwrap();
        fs::create_dir(src.join("closed")).unwrap();
        fs::write(src.join("closed/x"), "x").unwrap();
        fs::set_permissions(src.join("closed/x"), fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(src.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
        fs::write(root.join("src/second"), "second").unwrap();
        Self { root }
    }

    fn out(&self) -> PathBuf {
        self.root.join("out")
    }

    /// An empty destination.
    fn clean(&self) {
        let _ = fs::remove_dir_all(self.out());
        fs::create_dir(self.out()).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.out())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// What has a final name is whole.
    fn check_names(&self, context: &str) {
        for name in self.names().iter().filter(|name| !name.starts_with(".tallow-")) {
            assert!(
                inventory(&self.out().join(name)) == inventory(&self.root.join("src").join(name)),
                "{context}: {name} is not what was sent"
            );
        }
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallow"));
        self.surround(&mut command, port);
        command
    }

    fn surround(&self, command: &mut Command, port: u16) {
        command
            .env("TALLOW_STATE_DIR", self.root.join("state"))
            .env("TALLOW_PORT", port.to_string())
            .env_remove("TALLOW_RELAY")
            .env_remove("TALLOW_CODE")
            .stdin(Stdio::null());
    }

    /// Sends and receives once: the receiver's exit status and output, and the sender's exit status.
    fn once(&self, strace: &[&str]) -> End {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let paths = ["d", "second"].map(|name| self.root.join("src").join(name));
        let mut sender = self
            .command(port)
            .args(["send", "--json"])
            .args(paths)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let code = BufReader::new(sender.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let rest = line.strip_prefix(r#"{"event":"code","code":""#)?;
                Some(rest.split('"').next().unwrap_or_default().to_owned())
            })
            .expect("a code");
        let mut receiver = if strace.is_empty() {
            self.command(port)
        } else {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o"]).arg(self.root.join("trace")).args(strace);
            command.arg(env!("CARGO_BIN_EXE_tallow"));
            self.surround(&mut command, port);
            command
        };
        let receiver = receiver.args(["receive", "--yes", "--out"]).arg(self.out()).arg(&code);
        let receiver = receiver.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (status, said) = end(receiver, "receiver");
        if status.signal().is_some() {
            // The peer is not notified, and would wait for a timeout.
            let _ = sender.kill();
        }
        let (sent, _) = end(sender, "sender");
        End { status, said, sent }
    }
}

struct End {
    status: ExitStatus,
    said: String,
    sent: ExitStatus,
}

/// Waits for the end of a program that must not hang.
fn end(mut child: Child, who: &str) -> (ExitStatus, String) {
    let stderr = child.stderr.take().map(|mut stderr| {
        std::thread::spawn(move || {
            let mut said = String::new();
            let _ = stderr.read_to_string(&mut said);
            said
        })
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(120) {
            let _ = child.kill();
            panic!("the {who} hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    (status, stderr.map(|stderr| stderr.join().unwrap()).unwrap_or_default())
}

/// Kind, mode, time and contents of everything below.
fn inventory(root: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let (mut times, mut contents) = ((meta.mtime(), meta.mtime_nsec()), Vec::new());
        if meta.is_symlink() {
            times = (0, 0);
            contents = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
        } else if meta.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            contents = fs::read(&path).unwrap();
        }
        all.insert(path.strip_prefix(root).unwrap().to_owned(), (meta.mode(), times.0, times.1, contents));
    }
    all
}

fn has_strace() -> bool {
    let works =
        Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success());
    if !works {
        eprintln!("SKIPPED: there is no strace here that works; .ci/run installs it");
    }
    works
}

/// The points of a kind that are tried: all, or a few.
fn points() -> impl Iterator<Item = usize> {
    let is_long = std::env::var_os("TALLOW_LONG").is_some();
    (1..2000).filter(move |point| is_long || [1, 2, 6, 15].contains(point))
}

/// After whatever happened, the next try is complete.
fn again(place: &Place, context: &str) -> String {
    place.check_names(context);
    let before = place.names();
    let is_complete = before.iter().filter(|name| !name.starts_with(".tallow-")).count() == 2;
    let end = place.once(&[]);
    if is_complete && end.status.code() == Some(4) && end.said.contains("already exists") {
        // It was over but for its last words.
        place.check_names(context);
        return end.said;
    }
    assert_eq!((end.status.code(), end.sent.code()), (Some(0), Some(0)), "{context}, then {before:?}: {}", end.said);
    place.check_names(context);
    assert_eq!(place.names(), ["d", "second"], "{context}");
    end.said
}

#[test]
fn f04_kill_at_any_syscall_loses_no_stored_data() {
    if !has_strace() {
        return;
    }
    let place = Place::new("kill");
    let (mut tried, mut resumed) = (0, 0);
    for call in CALLS {
        let mut missed = 0;
        for point in points() {
            place.clean();
            let inject = format!("inject={call}:signal=KILL:when={point}");
            let end = place.once(&["-e", &format!("trace={call}"), "-e", &inject]);
            if end.status.signal() != Some(9) {
                assert!(end.status.success(), "{inject}: {}", end.said);
                missed += 1;
                // Threads share the work anew each time.
                if missed > 1 {
                    break;
                }
                continue;
            }
            tried += 1;
            resumed += usize::from(place.names().iter().any(|name| name.starts_with(".tallow-")));
            again(&place, &inject);
        }
    }
    println!("killed at {tried} points, {resumed} of them with something to go on from; all were complete in the end");
    assert!(tried > 20, "{tried}");
}

#[test]
fn f02_an_error_at_any_call_is_reported_and_resumable() {
    if !has_strace() {
        return;
    }
    let place = Place::new("error");
    let (mut tried, mut told) = (0, 0);
    for (call, error) in
        FAILING.into_iter().map(|call| (call, "EIO")).chain([("pwrite64", "ENOSPC"), ("mkdirat", "EROFS")])
    {
        let mut missed = 0;
        for point in points() {
            place.clean();
            let inject = format!("inject={call}:error={error}:when={point}");
            let end = place.once(&["-e", &format!("trace={call}"), "-e", &inject]);
            let trace = fs::read_to_string(place.root.join("trace")).unwrap_or_default();
            if !trace.contains("(INJECTED)") {
                assert!(end.status.success(), "{inject}: {}", end.said);
                missed += 1;
                if missed > 1 {
                    break;
                }
                continue;
            }
            tried += 1;
            match end.status.code() {
                // What could not be removed at the end is only litter, and nothing else may fail unseen.
                Some(0) => {
                    assert!(call == "unlinkat" || end.said.contains("verified"), "{inject}: {}", end.said);
                    place.check_names(&inject);
                    continue;
                }
                Some(6) => {
                    told += 1;
                    let last = end.said.lines().last().unwrap_or_default();
                    let cause = match error {
                        "EIO" => "input/output error",
                        "EROFS" => "read-only",
                        _ => "space",
                    };
                    assert!(last.contains(cause), "{inject}: {last}");
                    assert!(error == "ENOSPC" || last.contains(place.out().to_str().unwrap()), "{inject}: {last}");
                    assert!([Some(4), Some(9)].contains(&end.sent.code()), "{inject}: {:?}", end.sent);
                }
                _ => panic!("{inject}: {:?} {}", end.status, end.said),
            }
            let said = again(&place, &inject);
            // The bytes may be in the system's cache and nowhere else: they are fetched again.
            assert!(call != "fsync" || point > 1 || !said.contains("Resuming"), "{inject}: {said}");
        }
    }
    println!("{tried} calls failed, {told} of them were told; all were complete in the end");
    assert!(tried > 15, "{tried}");
}
