//! A transfer whose two ends are killed when nine tenths are stored, and the next one: how much moves again, and when.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Settings, median, tallow};

/// How much is stored when both are killed.
const KILL_AT: f64 = 0.9;

/// Runs it so often, and prints a row.
pub fn run(settings: &Settings, runs: usize) {
    let source = tallow::big_file(settings);
    let total = settings.mebibytes << 20;
    let (mut moved, mut begins, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let out = settings.work.join("out");
        std::fs::create_dir(&out).expect("a directory to receive into");
        let (mut sender, mut receiver, _) = start(settings, &source, &out);
        while (stored(&out) as f64) < total as f64 * KILL_AT {
            assert!(receiver.try_wait().expect("a child").is_none(), "it ended before it could be killed");
            std::thread::sleep(Duration::from_micros(200));
        }
        for child in [&mut receiver, &mut sender] {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
        let (mut sender, mut receiver, begun) = start(settings, &source, &out);
        let (mut kept, mut accepted) = (0, None);
        for line in BufReader::new(receiver.stdout.take().expect("its output")).lines().map_while(Result::ok) {
            if line.contains(r#""event":"accepted""#) {
                accepted = Some(begun.elapsed().as_secs_f64());
            }
            if let Some((_, rest)) = line.split_once(r#""bytes_kept":"#) {
                kept = rest.trim_end_matches('}').parse().expect("a number");
            }
        }
        assert!(receiver.wait().expect("a child").success() && sender.wait().expect("a child").success());
        ends.push(begun.elapsed().as_secs_f64());
        begins.push(accepted.expect("it was accepted"));
        moved.push((total - kept) as f64 / total as f64 * 100.0);
        tallow::check(&source, &out.join(source.file_name().expect("a name")));
        std::fs::remove_dir_all(&out).expect("the received files can be removed");
    }
    println!("| case | moved again % | first chunk asked for after s | complete after s |\n| --- | --- | --- | --- |");
    println!("| resume | {:.1} | {:.2} | {:.2} |", median(&moved), median(&begins), median(&ends));
}

/// Both ends, with the instant at which the receiver began.
fn start(settings: &Settings, source: &Path, out: &Path) -> (Child, Child, Instant) {
    let port = tallow::free_port().to_string();
    let program = || {
        let mut command: Command = tallow::program(settings);
        command.env("TALLOW_PORT", &port).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
        command
    };
    let mut sender = program().args(["send", "--json"]).arg(source).spawn().expect("a sender");
    let code = BufReader::new(sender.stdout.take().expect("its output"))
        .lines()
        .map_while(Result::ok)
        .find_map(|line| Some(line.strip_prefix(r#"{"event":"code","code":""#)?.split('"').next()?.to_owned()))
        .expect("a code");
    let begun = Instant::now();
    let receiver = program().args(["receive", "--json", &code, "--yes", "--out"]).arg(out).spawn().expect("a receiver");
    (sender, receiver, begun)
}

/// How many bytes are stored in the staging directory, if there is one.
fn stored(out: &Path) -> u64 {
    // A directory entry may be removed before it is read.
    let found = tallow_store::partial::list(out).unwrap_or_default();
    found.first().and_then(|partial| partial.about.as_ref()).map_or(0, |about| about.stored)
}
