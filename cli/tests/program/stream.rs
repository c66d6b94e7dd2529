//! Pipes through the program: the bytes arrive unchanged, in bounded memory, whichever side is slow.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::stage::{Home, Relay, Run, SOON, receiving, sending};

const MIB: usize = 1 << 20;
/// The most memory of a program that streams, in bytes.
const MEMORY: u64 = 80 << 20;

/// Bytes that can't be compressed, without end.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        for byte in &mut bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56) as u8;
        }
        bytes
    }
}

/// Runs the sender with this many bytes on standard input, and counts those that it has read.
fn feeding(home: &Home, relay: &Relay, bytes: usize) -> (super::stage::Program, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let sender = Run::new(home, ["send", "-", "--relay", &relay.name()]).fed(move |mut into| {
        let mut noise = Noise(1);
        // A program that does not read its input ends without it.
        while count.load(Ordering::Relaxed) < bytes && into.write_all(&noise.next()).is_ok() {
            count.fetch_add(1 << 16, Ordering::Relaxed);
        }
    });
    (sender, taken)
}

#[test]
fn stream_uses_bounded_memory_while_reader_pauses() {
    const BYTES: usize = 96 * MIB;
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let (mut sender, taken) = feeding(&home, &relay, BYTES);
    let code = sender.code();
    assert!(taken.load(Ordering::Relaxed) <= MIB, "nothing is read before a receiver accepts");
    let (tell, told) = mpsc::channel();
    let count = taken.clone();
    let mut receiver = receiving(&home, &relay).args(["--stdout", "--yes", &code]).read_by(move |mut from| {
        // The reader pauses until the sender can store no more.
        let end = Instant::now() + SOON;
        while count.load(Ordering::Relaxed) < 6 * MIB && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_secs(1));
        let before = count.load(Ordering::Relaxed);
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        let _ = tell.send((before, all));
    });
    receiver.expect("Into: standard output");
    let (received, sent) = (receiver.end(), sender.end());
    received.is(0, "Received 96.0 MiB");
    sent.is(0, "Sent 96.0 MiB");
    let (before, all) = told.recv().unwrap();
    assert!((6 * MIB..40 * MIB).contains(&before), "{before} were taken while the receiver read nothing");
    let mut noise = Noise(1);
    assert!(all.len() == BYTES && all.chunks(1 << 16).all(|piece| piece == noise.next()), "{} bytes", all.len());
    assert!(sent.peak < MEMORY && received.peak < MEMORY, "{} and {}", sent.peak >> 20, received.peak >> 20);
    assert!(home.list("into").is_empty());
}

#[test]
fn closed_stdout_ends_both_peers() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let (mut sender, _) = feeding(&home, &relay, usize::MAX);
    let code = sender.code();
    let receiver = receiving(&home, &relay).args(["--stdout", "--yes", &code]).read_by(|mut from| {
        let _ = from.read_exact(&mut [0]);
    });
    receiver.end().is(6, "could not write standard output: broken pipe; the program that reads the output has ended");
    sender.end().is(9, "broken pipe");
}

#[test]
fn stdout_accepts_one_file_but_not_several() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let contents: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let file = home.file("file", &contents);
    let (sender, code) = sending(&home, &relay, &file, &[]);
    let (tell, told) = mpsc::channel();
    let receiver = receiving(&home, &relay).args(["--stdout", "--yes", &code]).read_by(move |mut from| {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        let _ = tell.send(all);
    });
    receiver.end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
    assert!(told.recv().unwrap() == contents);
    let (sender, code) = sending(&home, &relay, &file, &[&home.file("other", b"x")]);
    let end = receiving(&home, &relay).args(["--stdout", "--yes", &code]).piped(b"").end();
    end.is(4, "only one file or a stream can be written to standard output");
    assert!(end.out.is_empty());
    sender.end().is(4, "more than one file");
    assert!(home.list("into").is_empty());
}

#[test]
fn stream_offer_requires_stdout_option() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let (mut sender, _) = feeding(&home, &relay, MIB);
    assert!(sender.expect("tallow receive --stdout ").contains("--relay"));
    let code = sender.so_far().lines().find_map(|line| line.strip_prefix("Code: ").map(str::to_owned)).unwrap();
    receiving(&home, &relay).args(["--yes", &code]).piped(b"").end().is(4, "the offer is a stream");
    sender.end().is(4, "the receiver needs --stdout for a stream");
    assert!(home.list("into").is_empty());
}

#[test]
fn limit_option_bounds_rate_on_either_side() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    for (sends, receives) in [("2M", "1G"), ("1G", "2M")] {
        let file = home.file(
            "file",
            &(0..6 * MIB / 8)
                .flat_map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
                .collect::<Vec<_>>(),
        );
        let (sender, code) = sending(&home, &relay, &file, &["--no-compress", "--limit", sends]);
        let start = Instant::now();
        receiving(&home, &relay)
            .args(["--yes", "--overwrite", "--limit", receives, &code])
            .piped(b"")
            .end()
            .is(0, "Received");
        // Its credit passes at once.
        assert!(start.elapsed() >= Duration::from_millis(1800), "{:?}", start.elapsed());
        sender.end().is(0, "Sent");
    }
}

#[test]
fn contradictory_options_fail_before_any_action() {
    let home = Home::new();
    let file = home.file("file", b"x");
    for (words, line) in [
        (&["receive", "--stdout", "--json", "7-acorn-canal"][..], "--json"),
        (&["receive", "--stdout", "--out", ".", "7-acorn-canal"], "--out"),
        (&["receive", "--stdout", "--rename", "7-acorn-canal"], "--rename"),
        (&["send", "-", &file], "which is sent alone"),
        (&["send", "-", "--code-file", "-"], "can't be the code"),
        (&["send", "--limit", "10", &file], "16K"),
    ] {
        Run::new(&home, words).piped(b"").end().is(2, line);
    }
    let on_terminal = Run::new(&home, ["receive", "--stdout", "7-acorn-bicycle-canal"]).on_terminal();
    on_terminal.end().is(2, "can't be written to a terminal");
}
