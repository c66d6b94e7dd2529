//! Transfers with the real program.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::process::Process;
use super::{Run, Settings};

/// The way the bytes take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// All bytes through a relay.
    Relay,
    /// Through a relay until there is a direct path, which needs a network interface besides the loopback.
    Direct,
    /// Through the relay inside the sender.
    Near,
}

/// One large file.
pub fn big(settings: &Settings, way: Way) -> Run {
    transfer(settings, &big_file(settings), settings.mebibytes << 20, way)
}

/// A file of random bytes, made once.
pub fn big_file(settings: &Settings) -> PathBuf {
    let source = settings.work.join("big.bin");
    if !source.exists() {
        let mut file = std::fs::File::create(&source).expect("a file to send");
        let mut block = vec![0; 1 << 20];
        for _ in 0..settings.mebibytes {
            getrandom::fill(&mut block).expect("random bytes");
            std::io::Write::write_all(&mut file, &block).expect("room for the file to send");
        }
    }
    source
}

/// Many small files.
pub fn tree(settings: &Settings, way: Way) -> Run {
    let source = settings.work.join("tree");
    if !source.exists() {
        std::fs::create_dir(&source).expect("a folder to send");
        let mut block = vec![0; 4096];
        for index in 0..settings.files {
            getrandom::fill(&mut block).expect("random bytes");
            std::fs::write(source.join(format!("{index:06}")), &block).expect("room for small files");
        }
    }
    transfer(settings, &source, u64::from(settings.files) * 4096, way)
}

/// One byte: the cost of a transfer apart from its bytes.
pub fn byte(settings: &Settings, way: Way) -> Run {
    let source = settings.work.join("byte");
    std::fs::write(&source, b"x").expect("a byte to send");
    transfer(settings, &source, 1, way)
}

/// From the start of the sender to the end of both, the receiver started as soon as the code is there.
fn transfer(settings: &Settings, source: &Path, bytes: u64, way: Way) -> Run {
    let out = settings.work.join("out");
    let port = free_port();
    let relay = (way != Way::Near).then(|| {
        let mut relay = Process::start(program(settings).args(["relay", "--listen", &format!("127.0.0.1:{port}")]));
        relay.wait_for("listening on");
        relay
    });
    let at = format!("127.0.0.1:{port}");
    let path: Vec<&str> = match way {
        Way::Relay => vec!["--relay", &at, "--no-p2p"],
        Way::Direct => vec!["--relay", &at],
        Way::Near => vec!["--no-p2p"],
    };
    let started = Instant::now();
    let mut sender =
        Process::start(program(settings).env("TALLOW_PORT", port.to_string()).arg("send").args(&path).arg(source));
    let code = sender.wait_for("Code: ");
    let receiver = Process::start(
        program(settings)
            .env("TALLOW_PORT", port.to_string())
            .args(["receive", &code, "--yes", "--out"])
            .arg(&out)
            .args(&path),
    );
    let sender = std::thread::spawn(move || sender.finish());
    let receiver = receiver.finish();
    let sender = sender.join().expect("the sender ends well");
    let wall = started.elapsed();
    let mut usage = vec![sender, receiver];
    usage.extend(relay.map(Process::stop));
    check(source, &out.join(source.file_name().expect("a name")));
    std::fs::remove_dir_all(&out).expect("the received files can be removed");
    Run { wall, bytes, usage }
}

/// The program, with a state of its own.
pub fn program(settings: &Settings) -> Command {
    let mut command = Command::new(&settings.tallow);
    command.env("TALLOW_STATE_DIR", settings.work.join("state"));
    command
}

/// Checks that the received bytes equal the sent ones.
pub fn check(sent: &Path, received: &Path) {
    if sent.is_dir() {
        let names = |dir: &Path| -> Vec<PathBuf> {
            let mut names: Vec<_> =
                std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
            names.sort();
            names
        };
        let (sent, received) = (names(sent), names(received));
        assert_eq!(sent.len(), received.len(), "all files arrived");
        sent.iter().zip(&received).for_each(|(sent, received)| check(sent, received));
    } else {
        assert!(digest(sent) == digest(received), "{} differs", received.display());
    }
}

fn digest(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    hasher.update_reader(file).expect("a readable file");
    hasher.finalize()
}

/// A free port.
pub fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}
