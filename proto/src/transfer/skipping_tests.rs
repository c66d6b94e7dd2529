//! Entries that the receiver does not want: they are not sent, and both sides say so.

use std::sync::Arc;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::differences::EntryList;
use super::entries::EntrySet;
use super::manifest::{ManifestBuilder, PageBuilder};
use super::memory::{MemorySink, MemorySource, Stage};
use super::path::LinkTarget;
use super::stream::memory::{MemoryStream, Piece};
use super::tests::{K64, World, accept, file, noise, now, path, seed};
use super::*;
use crate::seed::Seed;
use crate::wire::peer::{Control, EntryRange, TransferKind};
use crate::wire::{BoundedVec, Violation};

/// A directory, large and small files, an empty one and a link.
fn files() -> MemorySource {
    MemorySource::new()
        .with_page_after(3)
        .with_dir(path("d"))
        .with_file(path("d/large"), noise(1, 4 * K64 + 7))
        .with_file(path("d/small"), noise(2, 1000))
        .with_file(path("d/tiny"), noise(3, 10))
        .with_file(path("d/empty"), vec![])
        .with_link(path("d/link"), LinkTarget::parse("tiny").unwrap())
        .with_file(path("e"), noise(4, 3 * K64))
}

/// Complete, and everything is in place but these entries, of which no byte was sent.
fn check_without(world: &World, skipped: &[u32]) {
    let (Some(Outcome::Complete { root: sent }), Some(Outcome::Complete { root: received })) =
        (&world.sent, &world.received)
    else {
        panic!("{:?} {:?}", world.sent, world.received)
    };
    assert_eq!((sent, world.sink.misuse(), world.sink.stage()), (received, None, Stage::Finished));
    let arrived = world.sink.finished();
    let (mut files, mut bytes, mut wanted) = (0, 0, 0);
    for (index, (entry, contents)) in (0..).zip(world.source.entries()) {
        let is_skipped = skipped.contains(&index);
        let expected = (!is_skipped).then(|| (entry.clone(), contents.clone()));
        assert_eq!(arrived.get(entry.path.as_str()), expected.as_ref(), "{index}");
        if is_skipped {
            files += u32::from(entry.kind.is_file());
            bytes += entry.size();
        } else {
            wanted += entry.size();
        }
    }
    for differences in [world.sender.differences(), world.receiver.differences()] {
        let EntryList { entries, count, files: found, bytes: length, .. } = &differences.skipped;
        assert_eq!(entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), skipped);
        assert_eq!((*count as usize, *found, *length), (skipped.len(), files, bytes));
    }
    let all = Progress { bytes: wanted, total: wanted };
    assert_eq!((world.sender.progress(), world.receiver.progress()), (all, all));
    assert_eq!(world.sink.written(), 0, "what was written is in place, and nothing else was");
}

#[test]
fn what_is_skipped_is_not_sent() {
    for skipped in [&[][..], &[1], &[2], &[3, 5], &[4], &[6], &[1, 2, 3, 4, 5, 6], &[0, 1, 2, 3, 4, 5, 6]] {
        let sink = MemorySink::new().with_skipped(skipped.iter().copied());
        let mut world = World::new(files(), sink, Compression::Off);
        let mut sent = 0;
        loop {
            let before = world.chunks.len();
            world.drain();
            sent += world.chunks.iter().skip(before).map(crate::session::SealedChunk::len).sum::<usize>();
            if !world.step(&mut |_| 0) {
                break;
            }
        }
        check_without(&world, skipped);
        let wanted = world.receiver.progress().total as usize;
        assert!(sent >= wanted && sent < wanted + 20 * 200, "{skipped:?}: {sent} of {wanted}");
    }
}

/// Its chunks would be 2^40, and none of them is counted or hashed one by one.
#[test]
fn p04_a_huge_file_that_is_skipped_costs_nothing() {
    let source = MemorySource::new()
        .with_entry(file("huge", 1 << 62), vec![])
        .with_entry(file("larger", (1 << 61) + 5), vec![])
        .with_file(path("small"), noise(1, 10));
    let mut world = World::new(source, MemorySink::new().with_skipped([0, 1]), Compression::Off);
    world.settle();
    assert!(matches!(world.received, Some(Outcome::Complete { .. })), "{:?}", world.received);
    assert_eq!((world.moved.as_slice(), world.receiver.progress().total), (&[0][..], 10));
}

#[test]
fn a_transfer_with_skipped_entries_is_resumed_if_they_are_the_same() {
    let sink = || MemorySink::new().with_skipped([2, 6]);
    let mut world = World::new(files(), sink(), Compression::Off);
    world.until(|world| world.receiver.progress().bytes >= 2 * K64 as u64);
    let left = world.sink.partial();
    let mut again = World::new(files(), sink().with_partial(left.clone()), Compression::Off);
    again.settle();
    assert!(again.resuming);
    assert!(again.resumed.0.is_some_and(|bytes| bytes >= 2 * K64 as u64), "{:?}", again.resumed);
    assert_eq!(again.sink.finished().len(), 5);
    // Other chunks have these numbers.
    let other = MemorySink::new().with_skipped([1]).with_partial(left);
    let mut world = World::new(files(), other, Compression::Off);
    world.settle();
    assert!(!world.resuming);
    assert!(matches!(world.received, Some(Outcome::Complete { .. })), "{:?}", world.received);
}

/// A sender whose offer is told in full.
fn offered() -> World {
    let mut world = World::new(files(), MemorySink::new(), Compression::Off);
    world.yes = false;
    world.settle();
    world
}

fn skip(ranges: &[(u32, u32)]) -> Control {
    let entries = ranges.iter().map(|(first, last)| EntryRange { first: *first, last: *last }).collect();
    Control::Skip { transfer: 1, entries: BoundedVec::new(entries).unwrap() }
}

#[test]
fn p09_only_entries_that_were_offered_can_be_skipped_and_once() {
    let violation = |violation| Some(Outcome::Violation(violation));
    for messages in [
        &[&[(0, 7)][..]][..],
        &[&[(7, 7)]],
        &[&[(u32::MAX, u32::MAX)]],
        &[&[(0, u32::MAX)]],
        &[&[(3, 2)]],
        &[&[(1, 2), (2, 3)]],
        &[&[(4, 5), (1, 2)]],
        &[&[(1, 2)], &[(2, 2)]],
        &[&[(4, 4)], &[(1, 1)]],
    ] {
        let mut world = offered();
        for ranges in messages {
            world.sender.handle_control(world.now, skip(ranges));
        }
        world.drain();
        assert_eq!(world.sent, violation(Violation::BadEntry), "{messages:?}");
    }
    // All of them, in as many messages as one likes, is a receiver's right.
    let mut world = offered();
    for entry in 0..7 {
        world.sender.handle_control(world.now, skip(&[(entry, entry)]));
        world.sender.handle_control(world.now, skip(&[]));
    }
    world.sender.handle_control(world.now, accept(vec![]));
    world.settle_sender();
    assert_eq!((world.sent, world.moved.len(), world.sender.differences().skipped.count), (None, 0, 7));
    // Too late, too early, of another transfer, and of a stream.
    let mut world = offered();
    world.sender.handle_control(world.now, accept(vec![]));
    world.sender.handle_control(world.now, skip(&[(1, 1)]));
    world.drain();
    assert_eq!(world.sent, violation(Violation::UnexpectedMessage));
    let mut world = World::new(files(), MemorySink::new(), Compression::Off);
    world.sender.handle_control(world.now, skip(&[(1, 1)]));
    world.drain();
    assert_eq!(world.sent, violation(Violation::UnexpectedMessage));
    let mut world = offered();
    world.sender.handle_control(world.now, Control::Skip { transfer: 2, entries: BoundedVec::default() });
    world.drain();
    assert_eq!(world.sent, violation(Violation::WrongTransfer));
    let config = sender::Config { cores: 1, compression: Compression::Off, is_strict: false };
    let stream = MemoryStream::new(vec![Piece::Bytes(vec![1])]);
    let mut sender = sender::Sender::of_stream(config, Arc::new(stream));
    sender.begin(now());
    while sender.poll_control().is_some() {}
    sender.handle_control(now(), skip(&[(0, 0)]));
    assert!(matches!(sender.poll_event(), Some(TransferEvent::Over(Outcome::Violation(Violation::BadEntry)))));
    // A sender says nothing of the kind.
    let mut receiver = receiver::Receiver::new(receiver::Config { cores: 2 }, seed(2));
    receiver.handle_control(now(), skip(&[]));
    let out_of_turn = Outcome::Violation(Violation::UnexpectedMessage);
    assert!(matches!(receiver.poll_event(), Some(TransferEvent::Over(outcome)) if outcome == out_of_turn));
}

/// What was skipped can neither fail nor grow.
#[test]
fn p09_a_status_of_a_skipped_file_is_a_violation() {
    let mut world = World::new(files(), MemorySink::new().with_skipped([2]), Compression::Off);
    world.until(|world| world.accepted);
    let status = crate::wire::peer::EntryStatus::Changed;
    world.receiver.handle_control(world.now, Control::EntryStatus { transfer: 1, entry: 2, status });
    world.settle();
    assert_eq!(world.received, Some(Outcome::Violation(Violation::BadEntry)));
}

/// More ranges than one message has.
#[test]
fn many_ranges_take_several_messages() {
    let count = 9000;
    let source = (0..count)
        .fold(MemorySource::new(), |source, number| source.with_file(path(&format!("{number:05}")), vec![b'x'; 3]));
    let skipped: Vec<u32> = (0..count).filter(|number| number % 2 == 1).collect();
    let mut world = World::new(source, MemorySink::new().with_skipped(skipped.iter().copied()), Compression::Off);
    let mut messages = 0;
    while world.received.is_none() {
        world.drain();
        messages += world.to_sender.iter().filter(|message| matches!(message, Control::Skip { .. })).count();
        if !world.step(&mut |_| 0) {
            break;
        }
    }
    world.settle();
    assert!(messages >= 2);
    assert_eq!(world.sender.differences().skipped.count as usize, skipped.len());
    assert_eq!(world.sink.finished().len(), count as usize - skipped.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_order_gives_what_is_wanted(
        order in any::<[u8; 32]>(),
        skipped in prop::collection::btree_set(0..7_u32, 0..7),
        losses in 0..3_u32,
    ) {
        let sink = MemorySink::new().with_skipped(skipped.iter().copied());
        let mut world = World::new(files(), sink, Compression::Off);
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
        check_without(&world, &skipped.iter().copied().collect::<Vec<_>>());
    }

    /// The chunks hold every byte of what is wanted once, in order, and nothing else.
    #[test]
    fn the_layout_has_no_room_for_what_is_skipped(
        sizes in prop::collection::vec(prop_oneof![0..2000_u64, 65_000..66_000_u64, 0..400_000_u64], 1..12),
        skipped in prop::collection::btree_set(0..12_u32, 0..12),
        page_after in 1..5_usize,
    ) {
        let mut builder = ManifestBuilder::new(TransferKind::Files, &seed(1));
        for (number, page) in sizes.chunks(page_after).enumerate() {
            let mut built = PageBuilder::new();
            for (place, size) in page.iter().enumerate() {
                built.push(&file(&format!("{number:03}-{place}"), *size)).unwrap();
            }
            builder.push_page(built.finish()).unwrap();
        }
        let whole = builder.finish_with(64 << 10).unwrap();
        let manifest = whole.without(skipped.iter().copied().collect::<EntrySet>());
        let mut expected: Vec<(u32, u64)> = (0..).zip(sizes).collect();
        expected.retain(|(index, size)| *size > 0 && !skipped.contains(index));
        let (mut found, mut bytes) = (Vec::<(u32, u64)>::new(), 0_u64);
        for chunk in 0..manifest.chunks() {
            let mut len = 0;
            for segment in manifest.segments(chunk) {
                let all = manifest.chunks_of(segment.index).unwrap();
                prop_assert!((all.first..=all.last).contains(&chunk));
                match found.last_mut() {
                    Some((index, end)) if *index == segment.index => {
                        prop_assert_eq!(segment.offset, *end);
                        *end += segment.len as u64;
                    }
                    _ => {
                        prop_assert_eq!(segment.offset, 0);
                        found.push((segment.index, segment.len as u64));
                    }
                }
                len += segment.len;
            }
            prop_assert_eq!(manifest.chunk_len(chunk), Some(len));
            prop_assert!(len > 0 && len <= 64 << 10);
            bytes += len as u64;
        }
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!((bytes, manifest.chunk_len(manifest.chunks())), (manifest.payload(), None));
        prop_assert_eq!(whole.layout_digest() == manifest.layout_digest(), skipped.is_empty());
        prop_assert_eq!(whole.without(EntrySet::new()).chunks(), whole.chunks());
    }
}
