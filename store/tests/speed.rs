//! What many small files cost in processor time. Timing decides no test here: run it with `--ignored --nocapture` and
//! read.

mod common;

use std::time::Duration;

use common::{scan, sink, source};
use tallow_proto::transfer::storage::{Sink, Source};
use tallow_store::{OnExists, SourceOptions};

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
#[ignore = "prints times"]
fn ten_thousand_small_files_are_timed() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    for dir in 0..100 {
        std::fs::create_dir_all(from.join(format!("{dir}"))).unwrap();
        for number in 0..100 {
            std::fs::write(from.join(format!("{dir}/{number}")), [dir; 4096]).unwrap();
        }
    }
    for round in 0..3 {
        let begun = cpu();
        let tree = source(&[&from], SourceOptions::default());
        let manifest = scan(&tree).unwrap();
        let scanned = cpu() - begun;
        let entries: Vec<_> = manifest.entries().filter(|(_, entry)| entry.size() > 0).collect();
        let mut contents = vec![0; 4096];
        let begun = cpu();
        for (index, entry) in &entries {
            tree.read(*index, entry, 0, &mut contents).unwrap();
        }
        let read = cpu() - begun;
        let sink = sink(&root.path().join(format!("to{round}")), OnExists::Refuse);
        let begun = cpu();
        sink.begin(&manifest).unwrap();
        let began = cpu() - begun;
        let begun = cpu();
        for (index, entry) in &entries {
            sink.write(*index, entry, 0, &contents).unwrap();
        }
        let written = cpu() - begun;
        let begun = cpu();
        while !sink.finish(1000).unwrap() {}
        let finished = cpu() - begun;
        println!("scan {scanned:?} read {read:?} begin {began:?} write {written:?} finish {finished:?}");
    }
}

#[test]
#[ignore = "prints times, and takes a gigabyte in memory"]
fn million_empty_files_are_timed() {
    let root = common::quick_dir();
    let mut entries = Vec::new();
    for dir in 0..1000 {
        entries.push(common::dir(&format!("top/{dir}")));
        entries.extend((0..998).map(|number| common::file(&format!("top/{dir}/file {number}"), 0)));
    }
    let manifest = common::manifest(&entries);
    drop(entries);
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_owned()
    };
    println!("{} entries, before: {}", manifest.totals().entries, peak());
    let to = root.path().join("to");
    let receiving = sink(&to, OnExists::Refuse);
    let begun = cpu();
    receiving.begin(&manifest).unwrap();
    println!("begin {:?}, {}", cpu() - begun, peak());
    let begun = cpu();
    while !receiving.finish(1000).unwrap() {}
    println!("finish {:?}, {}", cpu() - begun, peak());
    let begun = cpu();
    let tree = source(&[&to.join("top")], SourceOptions::default());
    scan(&tree).unwrap();
    println!("scan {:?}, {}", cpu() - begun, peak());
    let again = sink(&to, OnExists::Overwrite);
    let begun = cpu();
    again.begin(&manifest).unwrap();
    println!("begin onto what is there {:?}, {}", cpu() - begun, peak());
    let begun = cpu();
    while !again.finish(1000).unwrap() {}
    println!("finish onto what is there {:?}, {}", cpu() - begun, peak());
}
