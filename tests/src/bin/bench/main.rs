//! Whole transfers between real processes, next to two bare programs in the same run: a plain QUIC stream by `quinn`,
//! and "hash, seal, TCP, open, hash, write".
//!
//! ```sh
//! cargo build --release --workspace && cargo run --release -p tallow-tests --bin bench -- --runs 5
//! ```
//! `--only resume` measures the cost of a resumed transfer. For each case: wall time, MB/s (10^6 bytes), CPU seconds
//! of each process, peak memory. Medians, with the range in brackets.

mod bare;
mod process;
mod resume;
mod tallow;

use std::path::PathBuf;
use std::time::Duration;

use process::Usage;
use tallow::Way;

/// One run of one case.
struct Run {
    wall: Duration,
    bytes: u64,
    /// By process, in the order of [`Case::parts`].
    usage: Vec<Usage>,
}

/// A measured case.
struct Case {
    name: &'static str,
    parts: &'static [&'static str],
    run: fn(&Settings) -> Run,
}

/// The settings from the command line.
pub struct Settings {
    mebibytes: u64,
    files: u32,
    work: PathBuf,
    tallow: PathBuf,
}

const CASES: &[Case] = &[
    Case { name: "direct", parts: &["sender", "receiver", "relay"], run: |s| tallow::big(s, Way::Direct) },
    Case { name: "relay", parts: &["sender", "receiver", "relay"], run: |s| tallow::big(s, Way::Relay) },
    Case { name: "near", parts: &["sender", "receiver"], run: |s| tallow::big(s, Way::Near) },
    Case { name: "tree-direct", parts: &["sender", "receiver", "relay"], run: |s| tallow::tree(s, Way::Direct) },
    Case { name: "tree-relay", parts: &["sender", "receiver", "relay"], run: |s| tallow::tree(s, Way::Relay) },
    Case { name: "tree-near", parts: &["sender", "receiver"], run: |s| tallow::tree(s, Way::Near) },
    Case { name: "byte-direct", parts: &["sender", "receiver", "relay"], run: |s| tallow::byte(s, Way::Direct) },
    Case { name: "byte-relay", parts: &["sender", "receiver", "relay"], run: |s| tallow::byte(s, Way::Relay) },
    Case { name: "byte-near", parts: &["sender", "receiver"], run: |s| tallow::byte(s, Way::Near) },
    Case { name: "quinn", parts: &["client", "server"], run: bare::quinn },
    Case { name: "pipeline", parts: &["sender", "receiver"], run: bare::pipeline },
];

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut runs, mut mebibytes, mut files, mut only) = (5usize, 1024u64, 10_000u32, None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| usage(&arg));
        match arg.as_str() {
            "--runs" => runs = value().parse().unwrap_or_else(|_| usage("--runs")),
            "--mebibytes" => mebibytes = value().parse().unwrap_or_else(|_| usage("--mebibytes")),
            "--files" => files = value().parse().unwrap_or_else(|_| usage("--files")),
            "--only" => only = Some(value()),
            "bare" => return bare::child(args),
            _ => usage(&arg),
        }
    }
    let own = std::env::current_exe().expect("this program has a path");
    let tallow = own.with_file_name("tallow");
    assert!(tallow.exists(), "{} is missing: cargo build --release --workspace", tallow.display());
    let work = tempfile::tempdir_in(memory_disk()).expect("a temporary directory");
    let settings = Settings { mebibytes, files, work: work.path().to_owned(), tallow };
    println!("{} MiB, {} files of 4 KiB, {runs} runs, work in {}", mebibytes, files, memory_disk().display());
    if only.as_deref() == Some("resume") {
        return resume::run(&settings, runs);
    }
    println!("| case | wall s | MB/s | CPU s | CPU s per GB | peak MiB |\n| --- | --- | --- | --- | --- | --- |");
    for case in CASES {
        if only.as_ref().is_some_and(|only| !only.split(',').any(|name| name == case.name)) {
            continue;
        }
        let runs: Vec<Run> = (0..runs).map(|_| (case.run)(&settings)).collect();
        report(case, &runs);
    }
}

fn report(case: &Case, runs: &[Run]) {
    let walls: Vec<f64> = runs.iter().map(|run| run.wall.as_secs_f64()).collect();
    let (wall, bytes) = (median(&walls), runs[0].bytes as f64);
    let each = |of: &dyn Fn(&Usage) -> f64, digits: usize| {
        let parts = case.parts.iter().enumerate().map(|(part, name)| {
            let values: Vec<f64> = runs.iter().map(|run| of(&run.usage[part])).collect();
            format!("{name} {:.digits$}", median(&values))
        });
        parts.collect::<Vec<_>>().join(", ")
    };
    let (least, most) = walls.iter().fold((f64::MAX, 0f64), |(least, most), &wall| (least.min(wall), most.max(wall)));
    let gigabytes = bytes / 1e9;
    println!(
        "| {} | {wall:.2} ({least:.2}-{most:.2}) | {:.0} | {} | {} | {} |",
        case.name,
        bytes / wall / 1e6,
        each(&|usage| usage.cpu, 2),
        if gigabytes > 0.5 { each(&|usage| usage.cpu / gigabytes, 2) } else { "-".into() },
        each(&|usage| usage.peak_mib, 0),
    );
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// A file system in memory, if there is one: disks are not measured.
fn memory_disk() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

fn usage(arg: &str) -> ! {
    eprintln!("bench: can't use {arg}; bench [--runs N] [--mebibytes N] [--files N] [--only CASE,CASE]");
    std::process::exit(2)
}
