//! Standard error and standard output that are not read or can't be written: no transfer and no relay waits for its
//! text or ends because of it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

use super::stage::{Home, Program, Relay, Run, fill};

/// An own code for each transfer: a relay keeps the room of one for a while.
fn own_code() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("room{}-abcdefgh1234", NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    fill(&writer);
    (reader, writer)
}

/// A pipe whose reader left.
fn broken_pipe() -> PipeWriter {
    pipe().unwrap().1
}

fn full_disk() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// Runs a sender and a receiver with these streams, and checks the received file.
#[track_caller]
fn transfer(home: &Home, options: &[&str], relay: &str, run: impl Fn(Run) -> Program) {
    let contents: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = home.file("data.bin", &contents);
    let code = own_code();
    let sender = Run::new(home, ["send", &file, "--code", &code, "--relay", relay, "--no-compress"]).args(options);
    let sender = run(sender);
    let receiver = Run::new(home, ["receive", &code, "--yes", "--overwrite", "--relay", relay]).args(options);
    let receiver = run(receiver);
    assert_eq!((receiver.end().code, sender.end().code), (0, 0));
    assert!(std::fs::read(home.path("into/data.bin")).unwrap() == contents);
    std::fs::remove_file(home.path("into/data.bin")).unwrap();
}

#[test]
fn transfer_completes_without_stderr_reader() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    for options in [&[][..], &["-v"], &["-vvv"], &["--json", "-vvvv"]] {
        transfer(&home, options, &relay.name(), |run| run.unread(None, broken_pipe().into()));
        transfer(&home, options, &relay.name(), |run| run.unread(None, full_disk()));
        // Kept by the programs' end: the pipe stays open, and is never read.
        let (reader, writer) = full_pipe();
        transfer(&home, options, &relay.name(), |run| run.unread(None, writer.try_clone().unwrap().into()));
        drop(reader);
    }
}

#[test]
fn transfer_completes_without_event_reader() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let json = &["--json"];
    transfer(&home, json, &relay.name(), |run| run.unread(Some(broken_pipe().into()), Stdio::null()));
    transfer(&home, json, &relay.name(), |run| run.unread(Some(full_disk()), Stdio::null()));
    let (_reader, writer) = full_pipe();
    transfer(&home, json, &relay.name(), |run| run.unread(Some(writer.try_clone().unwrap().into()), Stdio::null()));
}

#[test]
fn stopped_terminal_does_not_block_transfer() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    for options in [&[][..], &["-vvvv"], &["--json", "-vvvv"]] {
        transfer(&home, options, &relay.name(), Run::on_stopped_terminal);
    }
}

/// A relay that logs into this pipe, and where it listens.
fn relay_into(home: &Home, options: &[&str], reader: &mut BufReader<PipeReader>, err: Stdio) -> (Program, String) {
    let run = Run::new(home, ["relay", "--listen", "127.0.0.1:0"]).args(options);
    let program = run.unread(Some(Stdio::null()), err);
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 0 {
        if let Some(addr) = line.trim_end().strip_prefix("listening on ") {
            return (program, addr.to_owned());
        }
        line.clear();
    }
    panic!("it listens nowhere")
}

/// The relay serves two pairs with working streams, and ends on request.
#[track_caller]
fn serves(home: &Home, relay: Program, addr: &str) {
    for _ in 0..2 {
        transfer(home, &["--no-p2p"], addr, |run| run.unread(None, Stdio::null()));
    }
    relay.signal(Signal::TERM);
    assert_eq!(relay.end().code, 0);
}

#[test]
fn relay_survives_closed_log_reader() {
    for options in [&[][..], &["-vvv"]] {
        let home = Home::new();
        let (reader, writer) = pipe().unwrap();
        let mut reader = BufReader::new(reader);
        let (relay, addr) = relay_into(&home, options, &mut reader, writer.into());
        drop(reader);
        serves(&home, relay, &addr);
    }
}

#[test]
fn relay_does_not_block_on_full_log_pipe() {
    for options in [&[][..], &["-vvv"]] {
        let home = Home::new();
        let (reader, writer) = pipe().unwrap();
        let mut reader = BufReader::new(reader);
        let (relay, addr) = relay_into(&home, options, &mut reader, writer.try_clone().unwrap().into());
        fill(&writer);
        serves(&home, relay, &addr);
    }
}

/// A small file system, unmounted when dropped. `None`: mounting is not allowed here.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(c"size=8k")).ok()?;
        Some(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn relay_keeps_serving_when_log_disk_is_full() {
    let home = Home::new();
    let Some(disk) = SmallDisk::new(&home.path("small")) else {
        return eprintln!("skipped: no file system may be mounted");
    };
    let log = disk.0.join("log");
    let append = || OpenOptions::new().create(true).append(true).open(&log).unwrap();
    let run = Run::new(&home, ["relay", "--listen", "127.0.0.1:0", "-vvv"]);
    let relay = run.unread(Some(Stdio::null()), append().into());
    let addr = loop {
        let said = std::fs::read_to_string(&log).unwrap();
        if let Some((_, rest)) = said.split_once("listening on ")
            && let Some((addr, _)) = rest.split_once('\n')
        {
            break addr.to_owned();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    // Fills the rest of the disk, and of the log's own page.
    for mut file in [File::create(disk.0.join("full")).unwrap(), append()] {
        while file.write_all(b"\n").is_ok() {}
    }
    serves(&home, relay, &addr);
}
