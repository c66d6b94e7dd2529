//! Files with holes: only their data is moved, and the holes are part of what both sides verify.

use std::sync::Arc;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::extents::{Extent, Extents};
use super::manifest::{EntryKind, ManifestBuilder, PageBuilder};
use super::memory::{At, MemorySink, MemorySource, Stage};
use super::stream::memory::MemoryPipe;
use super::tests::{K64, World, file, noise, now, path, run, seed};
use super::*;
use crate::seed::Seed;
use crate::transfer::storage::FaultKind;
use crate::wire::peer::{Control, TransferKind};

fn extents(runs: &[(u64, u64)], size: u64) -> Extents {
    let runs: Vec<Extent> = runs.iter().map(|&(offset, len)| Extent { offset, len }).collect();
    Extents::new(&runs, size).unwrap()
}

/// With a sparse file of these runs of data.
fn sparse(source: MemorySource, name: &str, size: u64, runs: &[(u64, u64)]) -> MemorySource {
    let data = extents(runs, size);
    let contents = noise(size, usize::try_from(data.data_len()).unwrap());
    source.with_sparse(path(name), size, data, contents)
}

/// Beside ordinary files: one with little data in 100 GiB, one of several chunks, a small one, and one that is empty
/// but for its length.
fn files() -> MemorySource {
    const K: u64 = 64 << 10;
    let source = MemorySource::new().with_page_after(2).with_file(path("a"), noise(1, 700));
    let source = sparse(source, "b", 100 << 30, &[(50 << 30, 4096)]);
    let source = sparse(source, "c", 99 * K, &[(0, 2 * K + 5), (7 * K, 100), (9 * K, K), (98 * K + 1, K - 1)]);
    let source = sparse(source, "d", 1 << 20, &[(10, 20), (40, 1), (1 << 19, 500)]);
    sparse(source, "e", 1 << 40, &[]).with_file(path("f"), noise(2, 3 * K64))
}

#[test]
fn a_sparse_file_is_moved_without_its_holes() {
    for compression in [Compression::Off, Compression::default()] {
        let mut world = World::new(files(), MemorySink::new(), compression);
        world.settle();
        world.check_complete();
        let data: u64 = world.source.entries().iter().map(|(_, contents)| contents.len() as u64).sum();
        assert_eq!(world.receiver.progress().total, data);
        assert!(world.moved.len() < 16, "{:?}", world.moved);
    }
}

#[test]
fn where_the_holes_are_is_part_of_what_is_verified() {
    let root = |runs: &[(u64, u64)]| {
        let mut world = World::new(
            MemorySource::new().with_sparse(path("x"), 1000, extents(runs, 1000), noise(1, 30)),
            MemorySink::new(),
            Compression::Off,
        );
        world.settle();
        let Some(Outcome::Complete { root }) = world.received else { panic!("{:?}", world.received) };
        root
    };
    assert_ne!(root(&[(0, 30)]), root(&[(1, 30)]));
    assert_ne!(root(&[(0, 30)]), root(&[(0, 10), (20, 20)]));
}

#[test]
fn a_sparse_file_is_resumed_and_skipped_and_fails_as_others_do() {
    let mut world = World::new(files(), MemorySink::new(), Compression::Off);
    world.until(|world| world.receiver.progress().bytes >= 3 * K64 as u64);
    let left = world.sink.partial();
    let mut world = World::new(files(), MemorySink::new().with_partial(left), Compression::Off);
    world.settle();
    world.check_complete();
    assert!(world.resumed.0.is_some_and(|bytes| bytes >= 3 * K64 as u64));

    let source = files().with_fault(At::Read(2), FaultKind::Changed);
    let mut world = World::new(source, MemorySink::new().with_skipped([1, 4]), Compression::Off);
    world.settle();
    assert!(matches!(world.received, Some(Outcome::Complete { .. })), "{:?}", world.received);
    assert_eq!((world.sink.stage(), world.sink.misuse()), (Stage::Finished, None));
    assert_eq!(world.sink.finished().keys().collect::<Vec<_>>(), ["a", "d", "f"]);
    let differences = world.receiver.differences();
    assert_eq!((differences.failed.bytes, differences.skipped.bytes), (99 << 16, (100 << 30) + (1 << 40)));
}

/// Into a pipe the holes are written, as zeros.
#[test]
fn a_sparse_file_in_a_pipe_has_zeros_for_its_holes() {
    for runs in [&[][..], &[(0, 10)], &[(300_000, 100)], &[(5, 70_000), (100_000, 1), (200_000, 100_000)]] {
        for at_once in [1000, usize::MAX] {
            let size = 300_100;
            let source = Arc::new(sparse(MemorySource::new(), "x", size, runs));
            let pipe = Arc::new(MemoryPipe::new().with_at_once(at_once));
            let config = sender::Config { cores: 2, compression: Compression::Off, is_strict: false };
            let mut sender = sender::Sender::new(config, Arc::<MemorySource>::clone(&source), &seed(1));
            let mut receiver = receiver::Receiver::new(receiver::Config { cores: 2 }, seed(2));
            sender.begin(now());
            let mut ends = (None, None);
            let mut at = now();
            while ends.0.is_none() {
                while let Some(job) = sender.poll_job() {
                    sender.handle_job(at, run(job));
                }
                while let Some((_, chunk)) = sender.poll_chunk() {
                    receiver
                        .handle_chunk(at, crate::session::SealedChunk::arrived(crate::session::LinkId(1), chunk, true));
                }
                while let Some(message) = sender.poll_control() {
                    receiver.handle_control(at, message);
                }
                while let Some(job) = receiver.poll_job() {
                    receiver.handle_job(at, run(job));
                }
                while let Some(event) = receiver.poll_event() {
                    match event {
                        TransferEvent::Offered(_) => {
                            receiver.accept_stream(at, Arc::<MemoryPipe>::clone(&pipe)).unwrap();
                        }
                        TransferEvent::Over(outcome) => ends.1 = Some(outcome),
                        other => panic!("{other:?}"),
                    }
                }
                while let Some(message) = receiver.poll_control() {
                    sender.handle_control(at, message);
                }
                while let Some(event) = sender.poll_event() {
                    if let TransferEvent::Over(outcome) = event {
                        ends.0 = Some(outcome);
                    }
                }
                at += std::time::Duration::from_millis(5);
                receiver.handle_timeout(at);
            }
            assert!(matches!(ends, (Some(Outcome::Complete { .. }), Some(Outcome::Complete { .. }))), "{ends:?}");
            let mut expected = vec![0; size as usize];
            let mut data = source.entries()[0].1.iter();
            for &(offset, len) in runs {
                expected[offset as usize..(offset + len) as usize].fill_with(|| *data.next().unwrap());
            }
            assert!(pipe.bytes() == expected, "{runs:?}");
        }
    }
}

/// A receiver that was offered more than its sink takes says so before anything moves.
#[test]
fn holes_do_not_count_against_the_memory_of_a_transfer() {
    let source = sparse(MemorySource::new(), "huge", 1 << 62, &[(1 << 61, 100)]).with_file(path("x"), vec![1; 10]);
    let mut world = World::new(source, MemorySink::new(), Compression::Off);
    world.settle();
    world.check_complete();
    assert_eq!(world.moved, [0]);
    assert!(!world.to_receiver.iter().any(|message| matches!(message, Control::Cancel { .. })));
}

fn any_sparse() -> impl Strategy<Value = (u64, Vec<(u64, u64)>)> {
    let run = (prop_oneof![1..2000_u64, 60_000..70_000_u64], prop_oneof![1..200_u64, 60_000..200_000_u64]);
    (prop::collection::vec(run, 0..6), 0..2_u64, 1..1000_u64).prop_map(|(runs, lead, tail)| {
        let (mut placed, mut at) = (Vec::new(), lead * 77);
        for (hole, len) in runs {
            placed.push((at, len));
            at += len + hole;
        }
        (at + tail, placed)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_holes_in_any_order_arrive(
        sparse_files in prop::collection::vec(any_sparse(), 1..5),
        order in any::<[u8; 32]>(),
        losses in 0..3_u32,
    ) {
        let source = sparse_files.iter().enumerate().fold(MemorySource::new(), |source, (number, (size, runs))| {
            sparse(source, &format!("{number}"), *size, runs).with_file(path(&format!("{number}x")), noise(9, 5000))
        });
        let mut world = World::new(source, MemorySink::new(), Compression::Off);
        let mut rng: ChaCha20Rng = Seed::new(order).rng();
        let mut left = losses;
        loop {
            if left > 0 && rng.next_u32().is_multiple_of(20) {
                left -= 1;
                world.lose_link();
            }
            if !world.step(&mut |total| rng.next_u32() as usize % total) {
                break;
            }
        }
        world.check_complete();
    }

    /// The pieces of the chunks are the data of the files, in order, each in one run.
    #[test]
    fn the_layout_of_sparse_files_has_their_data(files in prop::collection::vec(any_sparse(), 1..6)) {
        let (mut page, mut expected) = (PageBuilder::new(), Vec::new());
        for (index, (size, runs)) in (0..).zip(&files) {
            let kind = EntryKind::Sparse { size: *size, data: extents(runs, *size) };
            page.push(&super::manifest::Entry { kind, ..file(&format!("{index}"), 0) }).unwrap();
            for (offset, len) in runs {
                expected.extend((*offset..offset + len).map(|byte| (index, byte)));
            }
        }
        let mut builder = ManifestBuilder::new(TransferKind::Files, &seed(1));
        builder.push_page(page.finish()).unwrap();
        let manifest = builder.finish_with(64 << 10).unwrap();
        let mut found = Vec::new();
        for chunk in 0..manifest.chunks() {
            let mut len = 0;
            for segment in manifest.segments(chunk) {
                prop_assert!(segment.len > 0);
                prop_assert_eq!(manifest.entry(segment.index), Some(segment.entry));
                let all = manifest.chunks_of(segment.index).unwrap();
                prop_assert!((all.first..=all.last).contains(&chunk));
                found.extend((segment.offset..segment.offset + segment.len as u64).map(|byte| (segment.index, byte)));
                len += segment.len;
            }
            prop_assert_eq!(manifest.chunk_len(chunk), Some(len));
        }
        prop_assert!(found == expected);
        prop_assert_eq!(manifest.payload(), expected.len() as u64);
    }
}
