//! Files with holes on real disks: found, sent without them, and kept empty where they arrive.

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use common::{Place, entry, file, finish, manifest, names, scan, sink, source};
use tallow_proto::transfer::extents::{Extent, Extents, MAX_EXTENTS};
use tallow_proto::transfer::journal::Stored;
use tallow_proto::transfer::manifest::{Entry, EntryKind, Manifest};
use tallow_proto::transfer::storage::{FaultKind, Sink, Source};
use tallow_store::{OnExists, Receiving, SourceOptions};

const BLOCK: u64 = 64 << 10;

/// A file of this length with data in these blocks; false: this file system has no holes.
fn make(path: &Path, size: u64, blocks: &[u64]) -> bool {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for block in blocks {
        file.write_all_at(&data(*block), block * BLOCK).unwrap();
    }
    let has_holes = file.metadata().unwrap().blocks() * 512 <= (blocks.len() as u64 + 1) * BLOCK;
    if !has_holes {
        eprintln!("SKIPPED: this file system has no holes");
    }
    has_holes
}

fn data(block: u64) -> Vec<u8> {
    (0..BLOCK).map(|byte| (byte ^ block) as u8 | 1).collect()
}

fn extents(runs: &[(u64, u64)], size: u64) -> Extents {
    let runs: Vec<Extent> = runs.iter().map(|&(offset, len)| Extent { offset, len }).collect();
    Extents::new(&runs, size).unwrap()
}

fn sparse(path: &str, size: u64, runs: &[(u64, u64)]) -> Entry {
    entry(path, EntryKind::Sparse { size, data: extents(runs, size) }, 0o640)
}

/// The bytes of a made-up file.
fn contents(index: u32, at: u64, len: usize) -> Vec<u8> {
    (at..at + len as u64).map(|at| common::byte(index, at) | 1).collect()
}

/// Writes these chunks, and notes them as stored.
fn store(sink: &Receiving, manifest: &Manifest, chunks: impl Iterator<Item = u64>) {
    for chunk in chunks {
        let mut hasher = blake3::Hasher::new();
        for segment in manifest.segments(chunk) {
            let piece = contents(segment.index, segment.offset, segment.len);
            hasher.update(&piece);
            sink.write(segment.index, &segment.entry, segment.offset, &piece).unwrap();
        }
        sink.commit(&[Stored { chunk, hash: *hasher.finalize().as_bytes() }]).unwrap();
    }
}

/// Every file of an offer is there as it was offered, and takes little more than its data.
fn check(to: &Path, offer: &Manifest) {
    for (index, entry) in offer.entries() {
        let found = File::open(to.join(entry.path.as_str())).unwrap();
        let metadata = found.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.mtime()), (entry.size(), entry.mtime.seconds), "{}", entry.path.as_str());
        assert_eq!(metadata.mode() & 0o777, u32::from(entry.mode));
        let EntryKind::Sparse { size, data } = &entry.kind else { continue };
        for run in data.as_slice() {
            let mut piece = vec![0; usize::try_from(run.len).unwrap()];
            found.read_exact_at(&mut piece, run.offset).unwrap();
            assert!(piece == contents(index, run.offset, piece.len()), "{run:?}");
        }
        for hole in data.holes(*size).filter(|hole| hole.len < 8 << 20) {
            let mut piece = vec![1; usize::try_from(hole.len).unwrap()];
            found.read_exact_at(&mut piece, hole.offset).unwrap();
            assert!(piece.iter().all(|byte| *byte == 0), "{hole:?} of {}", entry.path.as_str());
        }
        let least = data.data_len() + (data.as_slice().len() as u64 + 1) * 2 * 4096;
        assert!(metadata.blocks() * 512 <= least, "{} blocks of {}", metadata.blocks(), entry.path.as_str());
    }
}

fn offer() -> Arc<Manifest> {
    manifest(&[
        sparse("a", 100 << 30, &[(50 << 30, 4096)]),
        sparse("b", 5 << 20, &[(0, 70_000), (1 << 20, 200_000), ((5 << 20) - 10, 10)]),
        file("c", 3),
        sparse("d", 1 << 30, &[]),
        sparse("e", 2 << 20, &[(1 << 20, 1)]),
    ])
}

#[test]
fn the_holes_of_a_file_are_found() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    std::fs::create_dir(&from).unwrap();
    let large = 1000 * BLOCK + 77;
    if !make(&from.join("a"), large, &[3, 4, 900]) {
        return;
    }
    make(&from.join("b"), 8 << 30, &[]);
    make(&from.join("c"), 10 * BLOCK, &[0, 9]);
    std::fs::write(from.join("dense"), vec![0; 1 << 20]).unwrap();
    let tree = source(&[&from], SourceOptions::default());
    let offer = scan(&tree).unwrap();
    let kinds: Vec<_> = offer.entries().skip(1).map(|(_, entry)| entry.kind).collect();
    let sparse = |size, runs: &[(u64, u64)]| EntryKind::Sparse { size, data: extents(runs, size) };
    assert_eq!(
        kinds,
        [
            sparse(large, &[(3 * BLOCK, 2 * BLOCK), (900 * BLOCK, BLOCK)]),
            sparse(8 << 30, &[]),
            sparse(10 * BLOCK, &[(0, BLOCK), (9 * BLOCK, BLOCK)]),
            EntryKind::File { size: 1 << 20 },
        ]
    );
    assert_eq!(
        (offer.totals().data(), offer.totals().bytes),
        (5 * BLOCK + (1 << 20), large + (8 << 30) + 10 * BLOCK + (1 << 20))
    );
    let mut read = Vec::new();
    for segment in (0..offer.chunks()).flat_map(|chunk| offer.segments(chunk).collect::<Vec<_>>()) {
        let mut piece = vec![0; segment.len];
        tree.read(segment.index, &segment.entry, segment.offset, &mut piece).unwrap();
        if segment.index < 4 {
            read.extend(piece);
        }
    }
    assert!(read == [data(3), data(4), data(900), data(0), data(9)].concat());
}

/// A file in many pieces is sent with its larger holes only.
#[test]
fn a_file_of_very_many_pieces_keeps_its_larger_holes() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    std::fs::create_dir(&from).unwrap();
    let blocks: Vec<u64> = (0..3000).map(|number| number * 2 + number / 100 * 50).collect();
    let size = (blocks[2999] + 10_000) * BLOCK;
    if !make(&from.join("x"), size, &blocks) {
        return;
    }
    let offer = scan(&source(&[&from], SourceOptions::default())).unwrap();
    let EntryKind::Sparse { data, .. } = offer.entry(1).unwrap().kind else { panic!("no holes") };
    assert!((2..=MAX_EXTENTS).contains(&data.as_slice().len()), "{}", data.as_slice().len());
    let covers =
        |block: &u64| (block * BLOCK..(block + 1) * BLOCK).step_by(4096).all(|byte| data.position(byte).is_some());
    assert!(blocks.iter().all(covers));
    assert!(data.data_len() < size / 2);
}

#[test]
fn a_sparse_file_that_was_touched_is_read_and_one_with_other_holes_is_not() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    std::fs::create_dir(&from).unwrap();
    let path = from.join("x");
    if !make(&path, 100 * BLOCK, &[7]) {
        return;
    }
    let tree = source(&[&from], SourceOptions::default());
    let offer = scan(&tree).unwrap();
    let entry = offer.entry(1).unwrap();
    let touch = |seconds| {
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    let mut piece = vec![0; 4096];
    touch(1);
    tree.read(1, &entry, 7 * BLOCK, &mut piece).unwrap();
    assert_eq!(piece, data(7)[..4096]);
    File::options().write(true).open(&path).unwrap().write_all_at(b"new", 50 * BLOCK).unwrap();
    touch(2);
    assert_eq!(tree.read(1, &entry, 7 * BLOCK, &mut piece).unwrap_err().kind, FaultKind::Changed);
}

#[test]
fn holes_arrive_as_holes() {
    let place = Place::new();
    let sink = sink(&place.to, OnExists::Refuse);
    let offer = offer();
    sink.begin(&offer).unwrap();
    store(&sink, &offer, 0..offer.chunks());
    finish(&sink).unwrap();
    check(&place.to, &offer);
    assert_eq!(names(&place.to), ["a", "b", "c", "d", "e"]);
}

/// What stands in the holes of an earlier attempt's files is not part of any chunk, so it is removed.
#[test]
fn f06_damage_in_the_holes_of_an_earlier_attempt_is_removed() {
    let place = Place::new();
    let first = sink(&place.to, OnExists::Refuse);
    let offer = offer();
    first.begin(&offer).unwrap();
    store(&first, &offer, 0..offer.chunks());
    drop(first);
    let staging = names(&place.to).into_iter().find(|name| name.starts_with(".tallow-")).unwrap();
    let tree = place.to.join(staging).join("tree");
    for (name, offsets) in
        [("a", &[0, 50 << 30, (100 << 30) + 5][..]), ("b", &[70_000, 3 << 20, 6 << 20]), ("e", &[0, 3 << 20])]
    {
        let file = File::options().write(true).open(tree.join(name)).unwrap();
        for offset in offsets.iter().filter(|offset| **offset != 50 << 30) {
            file.write_all_at(&[0xee; 5000], *offset).unwrap();
        }
    }
    let next = sink(&place.to, OnExists::Refuse);
    assert_eq!(next.begin(&offer).unwrap().len() as u64, offer.chunks());
    finish(&next).unwrap();
    check(&place.to, &offer);
}

#[test]
fn a_sparse_file_that_failed_is_left_out() {
    let place = Place::new();
    let sink = sink(&place.to, OnExists::Refuse);
    let offer = offer();
    sink.begin(&offer).unwrap();
    for index in [0, 1, 3] {
        sink.leave_out(index, &offer.entry(index).unwrap()).unwrap();
    }
    for segment in (0..offer.chunks()).flat_map(|chunk| offer.segments(chunk).collect::<Vec<_>>()) {
        if ![0, 1, 3].contains(&segment.index) {
            let piece = contents(segment.index, segment.offset, segment.len);
            sink.write(segment.index, &segment.entry, segment.offset, &piece).unwrap();
        }
    }
    finish(&sink).unwrap();
    assert_eq!(names(&place.to), ["c", "e"]);
}

/// Longer than any file may be here: told before anything moves, with nothing left behind.
#[test]
fn p10_a_file_that_is_too_long_for_the_disk_is_refused_at_once() {
    let place = Place::new();
    let offer = manifest(&[sparse("x", i64::MAX as u64, &[(0, 10)])]);
    let sink = sink(&place.to, OnExists::Refuse);
    match sink.begin(&offer) {
        Err(fault) => assert_eq!(fault.kind, FaultKind::Io(std::io::ErrorKind::FileTooLarge), "{fault}"),
        // Some file systems in memory have no such limit.
        Ok(_) => sink.abandon(),
    }
    assert!(names(&place.to).is_empty());
}
