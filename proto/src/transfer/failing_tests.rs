//! Files that change, vanish or can't be read while they are sent: each costs itself, and nothing else.

use std::sync::Arc;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::chunk::{Codec, HEADER, Header};
use super::differences::EntryList;
use super::memory::{At, MemorySink, MemorySource, Stage};
use super::tests::{K64, World, ack, file, noise, now, one_file, path, run, seed};
use super::*;
use crate::seed::Seed;
use crate::session::{LinkId, Prepared, SealedChunk};
use crate::transfer::job::Work;
use crate::transfer::storage::{Drift, FaultKind};
use crate::wire::peer::{CancelReason, Control, EntryStatus, Offer, TransferKind};
use crate::wire::{Blob, Violation};

const IO: FaultKind = FaultKind::Io(std::io::ErrorKind::PermissionDenied);

fn numbers(list: &EntryList) -> Vec<u32> {
    let mut numbers: Vec<u32> = list.entries.iter().map(|entry| entry.index).collect();
    numbers.sort_unstable();
    numbers
}

/// A directory, a file of several chunks, one that ends in the middle of a chunk, and small ones.
fn files() -> MemorySource {
    MemorySource::new()
        .with_dir(path("d"))
        .with_file(path("d/large"), noise(1, 4 * K64))
        .with_file(path("d/odd"), noise(2, 2 * K64 + 100))
        .with_file(path("d/small"), noise(3, 1000))
        .with_file(path("d/tiny"), noise(4, 10))
        .with_file(path("d/empty"), vec![])
}

/// Complete on both sides, and everything is in place but these files.
fn check_without(world: &World, failed: &[u32]) {
    let (Some(Outcome::Complete { root: sent }), Some(Outcome::Complete { root: received })) =
        (&world.sent, &world.received)
    else {
        panic!("{:?} {:?}", world.sent, world.received)
    };
    assert_eq!((sent, world.sink.misuse()), (received, None));
    assert_eq!(world.sink.stage(), Stage::Finished);
    let arrived = world.sink.finished();
    for (index, (entry, contents)) in (0..).zip(world.source.entries()) {
        let expected = (!failed.contains(&index)).then(|| (entry.clone(), contents.clone()));
        assert_eq!(arrived.get(entry.path.as_str()), expected.as_ref(), "{index}");
    }
    assert_eq!(arrived.len() + failed.len(), world.source.entries().len());
    let (sent, received) = (world.sender.differences(), world.receiver.differences());
    assert_eq!((numbers(&sent.failed), numbers(&received.failed)), (failed.to_vec(), failed.to_vec()));
    let sizes = failed.iter().map(|index| world.source.entries()[*index as usize].0.size()).sum::<u64>();
    for list in [&sent.failed, &received.failed] {
        assert_eq!((list.count as usize, list.files as usize, list.bytes), (failed.len(), failed.len(), sizes));
    }
    assert!(world.sender.is_closed() && world.receiver.is_closed());
}

#[test]
fn f03_a_file_that_fails_costs_that_file() {
    for failed in [&[1][..], &[2], &[3], &[4], &[1, 3], &[2, 3, 4], &[1, 2, 3, 4]] {
        for (kind, status) in [
            (FaultKind::Changed, EntryStatus::Changed),
            (FaultKind::Vanished, EntryStatus::Vanished),
            (IO, EntryStatus::Unreadable),
            (FaultKind::System(5), EntryStatus::Unreadable),
        ] {
            let source = failed.iter().fold(files(), |source, index| source.with_fault(At::Read(*index), kind));
            let mut world = World::new(source, MemorySink::new(), Compression::default());
            world.settle();
            check_without(&world, failed);
            for list in [&world.sender.differences().failed, &world.receiver.differences().failed] {
                assert!(list.entries.iter().all(|entry| entry.status == Some(status)), "{list:?}");
            }
            let fault = |list: &EntryList| list.entries[0].fault.as_ref().map(|fault| fault.kind);
            assert_eq!(fault(&world.sender.differences().failed), Some(kind));
            assert_eq!(fault(&world.receiver.differences().failed), None, "the error itself stays at the sender");
        }
    }
}

#[test]
fn a_file_that_fails_after_some_of_it_arrived_is_not_in_place() {
    let source = files().with_fault_after(2, 1, FaultKind::Changed);
    let mut world = World::new(source, MemorySink::new(), Compression::Off);
    world.settle();
    check_without(&world, &[1]);
    let all = Progress { bytes: world.sender.progress().total, total: world.sender.progress().total };
    assert_eq!((world.sender.progress(), world.receiver.progress()), (all, all));
}

#[test]
fn the_rest_of_a_file_that_failed_is_not_sent() {
    let source = MemorySource::new()
        .with_file(path("large"), noise(1, 900 * K64))
        .with_file(path("small"), noise(2, 10))
        .with_fault_after(3, 0, FaultKind::Vanished);
    let mut world = World::new(source, MemorySink::new(), Compression::Off);
    let mut sent = 0;
    loop {
        let before = world.moved.len();
        world.drain();
        sent += world.chunks.iter().rev().take(world.moved.len() - before).map(SealedChunk::len).sum::<usize>();
        if !world.step(&mut |_| 0) {
            break;
        }
    }
    check_without(&world, &[0]);
    assert!(sent < 10 * K64, "{sent} bytes were sent of a file that failed at its fourth chunk");
}

#[test]
fn a_file_alone_or_a_strict_sender_fails_as_a_whole() {
    let alone = one_file(3 * K64).with_fault_after(1, 0, FaultKind::Changed);
    let mut world = World::new(alone, MemorySink::new(), Compression::Off);
    world.settle();
    assert_eq!(world.sent, Some(Outcome::Failed(FaultKind::Changed.into())));
    world.check_ended();
    let mut world = World::new(files().with_fault(At::Read(3), IO), MemorySink::new(), Compression::Off);
    let config = sender::Config { cores: 2, compression: Compression::Off, is_strict: true };
    world.sender = sender::Sender::new(config, Arc::<MemorySource>::clone(&world.source), &seed(1));
    world.sender.begin(world.now);
    world.settle();
    assert_eq!(world.sent, Some(Outcome::Failed(IO.into())));
    assert!(matches!(world.received, Some(Outcome::PeerCancelled { reason: CancelReason::Io, .. })));
    world.check_ended();
}

#[test]
fn a_fault_that_is_not_of_one_file_ends_it() {
    for kind in [FaultKind::Panicked, FaultKind::Cancelled, FaultKind::Internal] {
        let mut world = World::new(files().with_fault(At::Read(3), kind), MemorySink::new(), Compression::Off);
        world.settle();
        let Some(Outcome::Failed(fault)) = &world.sent else { panic!("{:?}", world.sent) };
        assert_eq!(fault.kind, kind);
        world.check_ended();
    }
}

/// A chunk arrived, its acknowledgement did not, and one of its files is gone when it is to be sent again.
#[test]
fn a_chunk_is_repeated_without_the_file_that_failed_meanwhile() {
    for stored in [false, true] {
        // More chunks follow, so that the end is not said.
        let source = files().with_file(path("more"), noise(9, 20 * K64)).with_fault_after(1, 3, FaultKind::Vanished);
        let mut world = World::new(source, MemorySink::new(), Compression::Off);
        world.until(|world| world.moved.last() == Some(&6));
        let at = world.chunks.len() - 1;
        let last = world.chunks.remove(at);
        let jobs = if stored {
            // Its job is out when the link dies, and ends after the chunk was made again.
            world.receiver.handle_chunk(world.now, last);
            std::iter::from_fn(|| world.receiver.poll_job()).collect()
        } else {
            Vec::new()
        };
        world.lose_link();
        let before = world.moved.len();
        world.until(|world| world.moved[before..].contains(&6));
        for job in jobs {
            world.receiver.handle_job(world.now, run(job));
        }
        world.settle();
        check_without(&world, &[3]);
    }
}

#[test]
fn a_file_that_fails_after_the_end_was_said_ends_the_transfer() {
    // What arrived is kept, unless the next offer must be another one.
    for (kind, stage) in [(FaultKind::Vanished, Stage::Abandoned), (IO, Stage::Suspended)] {
        let source = files().with_fault_after(1, 3, kind);
        let mut world = World::new(source, MemorySink::new(), Compression::Off);
        world.until(|world| world.to_receiver.iter().any(|message| matches!(message, Control::End { .. })));
        world.lose_link();
        world.settle();
        assert_eq!(world.sent, Some(Outcome::Failed(kind.into())));
        world.check_ended();
        assert_eq!(world.sink.stage(), stage);
    }
}

#[test]
fn a_source_that_does_not_notice_a_change_costs_the_files_of_the_chunk() {
    // One more chunk is not sent, so that the end is not said.
    let source = files().with_file(path("more"), noise(9, 20 * K64));
    let mut world = World::new(source, MemorySink::new(), Compression::Off);
    world.until(|world| world.moved.last() == Some(&6));
    world.lose_link();
    world.until(|world| world.sender_jobs.iter().any(is_of_the_last));
    let at = world.sender_jobs.iter().position(is_of_the_last).unwrap();
    let job::Job { id, work: Work::Prepare(mut prepare) } = world.sender_jobs.swap_remove(at) else { panic!() };
    let changed = MemorySource::new()
        .with_dir(path("d"))
        .with_file(path("d/large"), noise(1, 4 * K64))
        .with_file(path("d/odd"), noise(2, 2 * K64 + 100))
        .with_file(path("d/small"), noise(33, 1000))
        .with_file(path("d/tiny"), noise(4, 10));
    prepare.contents.source = Arc::new(changed);
    world.sender.handle_job(world.now, run(job::Job { id, work: Work::Prepare(prepare) }));
    world.settle();
    // Which of the three it was nobody knows.
    check_without(&world, &[2, 3, 4]);
}

fn is_of_the_last(job: &job::Job) -> bool {
    matches!(&job.work, Work::Prepare(prepare) if prepare.chunk == 6)
}

#[test]
fn a_file_that_fails_does_not_stop_a_transfer_that_is_resumed() {
    let mut world = World::new(files(), MemorySink::new(), Compression::Off);
    world.until(|world| world.sender.progress().bytes >= 5 * K64 as u64);
    let left = world.sink.partial();
    // It fails before the first try's bytes are compared, and after that.
    for after in [0, 2, 4] {
        let source = files().with_fault_after(after, 1, FaultKind::Vanished);
        let sink = MemorySink::new().with_partial(left.clone());
        let mut world = World::new(source, sink, Compression::Off);
        world.settle();
        assert!(world.resuming);
        let failed = if after == 4 { &[][..] } else { &[1] };
        check_without(&world, failed);
    }
}

/// What a try with a file that failed leaves is of use to the next one, in which the file is whole.
#[test]
fn a_try_with_a_file_that_failed_can_be_resumed() {
    let source = files().with_fault_after(1, 1, IO).with_fault(At::Read(3), IO);
    let mut world = World::new(source, MemorySink::new(), Compression::Off);
    world.until(|world| world.receiver_jobs.iter().any(|job| matches!(job.work, Work::LeaveOut { .. })));
    let mut world = World::new(files(), MemorySink::new().with_partial(world.sink.partial()), Compression::Off);
    world.settle();
    assert!(world.resuming);
    world.check_complete();
    // Chunks 0 to 3 are the large file's, of which one arrived, and 6 holds the small ones.
    world.moved.sort_unstable();
    assert_eq!(world.moved, [1, 2, 3, 6]);
}

const UNSURE: Drift = Drift { has_grown: false, is_unsure: true };

/// A log that grows, a file that is touched: what was offered is there, and it is one version.
#[test]
fn a_file_that_grew_or_was_touched_is_sent() {
    for (drift, grown) in [
        (UNSURE, &[][..]),
        (Drift { has_grown: true, is_unsure: false }, &[1, 4]),
        (Drift { has_grown: true, is_unsure: true }, &[1, 4]),
    ] {
        let source = files().with_drift(1, drift).with_drift(4, drift);
        let mut world = World::new(source, MemorySink::new(), Compression::Off);
        let mut is_rechecked = false;
        loop {
            world.drain();
            is_rechecked |= world.sender_jobs.iter().any(|job| matches!(job.work, Work::Check(_)));
            if !world.step(&mut |_| 0) {
                break;
            }
        }
        check_without(&world, &[]);
        for list in [&world.sender.differences().grown, &world.receiver.differences().grown] {
            assert_eq!(numbers(list), grown, "{drift:?}");
        }
        assert_eq!(is_rechecked, drift.is_unsure, "what is sure is not read again");
    }
    // One file alone, and into a sink that is written in order.
    let alone = one_file(3 * K64).with_drift(0, Drift { has_grown: true, is_unsure: true });
    let mut world = World::new(alone, MemorySink::new(), Compression::Off);
    world.settle();
    world.check_complete();
    assert_eq!(world.receiver.differences().grown.count, 1);
}

#[test]
fn f03_a_file_that_was_rewritten_while_it_was_read_is_not_in_place() {
    for (index, reads) in [(1, 1), (1, 3), (2, 1), (2, 2), (3, 0), (4, 0)] {
        // Until it is read once more every read is the first of its chunk.
        let source = files().with_drift(index, UNSURE).with_other_bytes_after(reads.max(1), index);
        let mut world = World::new(source, MemorySink::new(), Compression::Off);
        world.settle();
        check_without(&world, &[index]);
        let status = world.receiver.differences().failed.entries[0].status;
        assert_eq!(status, Some(EntryStatus::Changed));
    }
    // Alone, it is the transfer.
    let alone = one_file(3 * K64).with_drift(0, UNSURE).with_other_bytes_after(2, 0);
    let mut world = World::new(alone, MemorySink::new(), Compression::Off);
    world.settle();
    assert_eq!(world.sent, Some(Outcome::Failed(FaultKind::Changed.into())));
    world.check_ended();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Files fail at any time, jobs end in any order and links die: both sides end, and agree on what is in place.
    #[test]
    fn files_that_fail_in_any_order_cost_themselves(
        order in any::<[u8; 32]>(),
        failing in prop::collection::btree_map(1..5_u32, 0..5_u32, 0..4),
        losses in 0..4_u32,
    ) {
        let source = failing
            .iter()
            .fold(files(), |source, (index, after)| source.with_fault_after(*after, *index, FaultKind::Changed));
        let mut world = World::new(source, MemorySink::new(), Compression::Off);
        let mut rng: ChaCha20Rng = Seed::new(order).rng();
        let (mut left, mut steps) = (losses, 0_u32);
        loop {
            if left > 0 && rng.next_u32().is_multiple_of(20) {
                left -= 1;
                world.lose_link();
            }
            if !world.step(&mut |total| rng.next_u32() as usize % total) {
                break;
            }
            steps += 1;
            prop_assert!(steps < 20_000, "it does not end");
        }
        let failed = numbers(&world.receiver.differences().failed);
        let told = numbers(&world.sender.differences().failed);
        prop_assert!(told.iter().all(|index| failing.contains_key(index)));
        if losses > 0 && world.sent == Some(Outcome::Failed(FaultKind::Changed.into())) {
            // It failed after the end was said.
            world.check_ended();
            return Ok(());
        }
        prop_assert!(matches!(world.received, Some(Outcome::Complete { .. })), "{:?}", world.received);
        prop_assert!(matches!(world.sent, Some(Outcome::Complete { .. })), "{:?}", world.sent);
        prop_assert_eq!(world.sink.misuse(), None);
        prop_assert_eq!(&failed, &told);
        let arrived = world.sink.finished();
        for (index, (entry, contents)) in (0..).zip(world.source.entries()) {
            let expected = (!failed.contains(&index)).then(|| (entry.clone(), contents.clone()));
            prop_assert_eq!(arrived.get(entry.path.as_str()), expected.as_ref());
        }
    }
}

/// A receiver that accepted these files: a directory, one of four chunks, one of a chunk, and two that share one.
fn receiving() -> (receiver::Receiver, Arc<MemorySink>) {
    let sizes = [4 * K64 as u64, K64 as u64, 10, 20];
    let mut page = manifest::PageBuilder::new();
    let dir = manifest::Entry { kind: manifest::EntryKind::Dir, ..file("d", 0) };
    page.push(&dir).unwrap();
    for (number, size) in sizes.iter().enumerate() {
        page.push(&file(&format!("f{number}"), *size)).unwrap();
    }
    let offer = Offer {
        transfer: 1,
        kind: TransferKind::Files,
        chunk_size: 64 << 10,
        entries: 5,
        bytes: sizes.iter().sum(),
        pages: 1,
    };
    let mut receiver = receiver::Receiver::new(receiver::Config { cores: 2 }, seed(2));
    receiver.handle_control(now(), Control::Offer(offer));
    receiver.handle_control(now(), Control::Page { transfer: 1, page: Blob(page.finish().0) });
    assert!(matches!(receiver.poll_event(), Some(TransferEvent::Offered(_))));
    let sink = Arc::new(MemorySink::new());
    receiver.accept(now(), Arc::<MemorySink>::clone(&sink)).unwrap();
    work(&mut receiver);
    assert!(matches!(receiver.poll_control(), Some(Control::Accept { .. })));
    (receiver, sink)
}

fn work(receiver: &mut receiver::Receiver) {
    while let Some(job) = receiver.poll_job() {
        receiver.handle_job(now(), run(job));
    }
}

fn say(receiver: &mut receiver::Receiver, entry: u32, status: EntryStatus) {
    receiver.handle_control(now(), Control::EntryStatus { transfer: 1, entry, status });
}

fn outcome(receiver: &mut receiver::Receiver) -> Option<Outcome> {
    work(receiver);
    match receiver.poll_event() {
        Some(TransferEvent::Over(outcome)) => Some(outcome),
        None => None,
        other => panic!("{other:?}"),
    }
}

const BAD_ENTRY: Option<Outcome> = Some(Outcome::Violation(Violation::BadEntry));

#[test]
fn p08_a_status_is_of_a_file_that_was_offered_and_comes_once() {
    for entry in [5, 6, u32::MAX] {
        let (mut receiver, _) = receiving();
        say(&mut receiver, entry, EntryStatus::Changed);
        assert_eq!(outcome(&mut receiver), BAD_ENTRY, "{entry} was not offered");
    }
    let (mut receiver, _) = receiving();
    say(&mut receiver, 0, EntryStatus::Vanished);
    assert_eq!(outcome(&mut receiver), BAD_ENTRY, "a directory");
    for first in [EntryStatus::Changed, EntryStatus::Grown] {
        for second in [EntryStatus::Unreadable, EntryStatus::Grown] {
            let (mut receiver, _) = receiving();
            say(&mut receiver, 2, first);
            assert_eq!(outcome(&mut receiver), None);
            say(&mut receiver, 2, second);
            assert_eq!(outcome(&mut receiver), BAD_ENTRY, "twice");
            assert!(matches!(receiver.poll_control(), Some(Control::Cancel { reason: CancelReason::Violation, .. })));
        }
    }
    let (mut receiver, _) = receiving();
    receiver.handle_control(now(), Control::EntryStatus { transfer: 2, entry: 1, status: EntryStatus::Changed });
    assert_eq!(outcome(&mut receiver), Some(Outcome::Violation(Violation::WrongTransfer)));
    // Before the acceptance there is nothing to say, and a receiver says nothing of the kind at all.
    let mut receiver = receiver::Receiver::new(receiver::Config { cores: 2 }, seed(2));
    say(&mut receiver, 1, EntryStatus::Changed);
    assert_eq!(outcome(&mut receiver), Some(Outcome::Violation(Violation::UnexpectedMessage)));
    let mut world = World::new(files(), MemorySink::new(), Compression::Off);
    world.until(|world| world.accepted);
    let status = Control::EntryStatus { transfer: 1, entry: 1, status: EntryStatus::Changed };
    world.sender.handle_control(world.now, status);
    world.settle();
    assert_eq!(world.sent, Some(Outcome::Violation(Violation::UnexpectedMessage)));
}

/// A record of a hostile sender.
fn record(chunk: u64, codec: Codec, length: usize, hash: [u8; 32], body: &[&[u8]]) -> SealedChunk {
    let header = Header { transfer: 1, chunk, codec, length: u32::try_from(length).unwrap(), hash };
    let mut prepared = Prepared::with_capacity(HEADER);
    prepared.extend_from_slice(&header.to_bytes());
    body.iter().for_each(|piece| prepared.extend_from_slice(piece));
    SealedChunk::arrived(LinkId(1), prepared, true)
}

fn void(chunk: u64, length: usize, entry: u32) -> SealedChunk {
    record(chunk, Codec::Void, length, [7; 32], &[&entry.to_be_bytes()])
}

#[test]
fn p08_a_chunk_that_lacks_a_file_is_of_that_file() {
    let hash = |contents: &[u8]| *blake3::hash(contents).as_bytes();
    let small = [3; 30];
    let cases = [
        ("a void chunk of another file", void(0, K64, 2), Violation::BadEntry),
        ("a void chunk of two files", void(5, 30, 3), Violation::BadEntry),
        ("a void chunk of a directory", void(0, K64, 0), Violation::BadEntry),
        ("a void chunk of another length", void(0, K64 - 1, 1), Violation::BadChunk),
        ("a void chunk with contents", record(0, Codec::Void, K64, [7; 32], &[&[0; 5]]), Violation::BadChunk),
        ("without a number", record(0, Codec::Void, K64, [7; 32], &[&[0; 3]]), Violation::BadChunk),
        (
            "incomplete, of a file that is not in it",
            record(5, Codec::Incomplete, 30, [7; 32], &[&hash(&small), &1_u32.to_be_bytes(), &small]),
            Violation::BadEntry,
        ),
        (
            "incomplete, with another hash than its own",
            record(5, Codec::Incomplete, 30, hash(&small), &[&[7; 32], &3_u32.to_be_bytes(), &small]),
            Violation::ChunkHash,
        ),
        (
            "incomplete, and short",
            record(5, Codec::Incomplete, 30, [7; 32], &[&hash(&small), &3_u32.to_be_bytes(), &small[1..]]),
            Violation::BadChunk,
        ),
    ];
    for (what, chunk, violation) in cases {
        let (mut receiver, sink) = receiving();
        (1..5).for_each(|entry| say(&mut receiver, entry, EntryStatus::Changed));
        receiver.handle_chunk(now(), chunk);
        assert_eq!(outcome(&mut receiver), Some(Outcome::Violation(violation)), "{what}");
        assert_eq!(sink.written(), 0, "{what}");
    }
}

#[test]
fn p08_a_chunk_does_not_count_before_its_file_is_said_to_have_failed() {
    let (mut receiver, _) = receiving();
    for (chunk, entry) in [(0, 1), (1, 1), (4, 2)] {
        receiver.handle_chunk(now(), void(chunk, K64, entry));
    }
    assert_eq!((outcome(&mut receiver), receiver.progress().bytes), (None, 0));
    // A word about another file, or that it only grew, changes nothing.
    say(&mut receiver, 3, EntryStatus::Changed);
    say(&mut receiver, 2, EntryStatus::Grown);
    assert_eq!((outcome(&mut receiver), receiver.progress().bytes), (None, 0));
    say(&mut receiver, 1, EntryStatus::Changed);
    assert_eq!((outcome(&mut receiver), receiver.progress().bytes), (None, 2 * K64 as u64));
    assert_eq!(receiver.poll_control(), Some(ack(&[tests::range(0, 1)])));
}

/// A sender that says of everything that it failed: nothing is in place but the directory, and what is kept of it is
/// bounded.
#[test]
fn p08_a_sender_may_fail_with_everything() {
    let (mut receiver, sink) = receiving();
    (1..5).for_each(|entry| say(&mut receiver, entry, EntryStatus::Unreadable));
    for (chunk, entry) in [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2)] {
        receiver.handle_chunk(now(), void(chunk, K64, entry));
    }
    let small = [0; 30];
    let hash = *blake3::hash(&small).as_bytes();
    let body: [&[u8]; 3] = [&hash, &3_u32.to_be_bytes(), &small];
    receiver.handle_chunk(now(), record(5, Codec::Incomplete, 30, hash, &body));
    work(&mut receiver);
    assert_eq!(receiver.progress().bytes, 5 * K64 as u64 + 30);
    let root = [9; 32];
    receiver.handle_control(now(), Control::End { transfer: 1, chunks: 6, moved: 6, root });
    assert_eq!(outcome(&mut receiver), Some(Outcome::Violation(Violation::WrongRoot)), "it covers them too");
    assert!(sink.finished().is_empty());

    let count = differences::LISTED + 5;
    let source = (0..count).fold(MemorySource::new().with_dir(path("d")), |source, number| {
        let index = u32::try_from(number).unwrap() + 1;
        source.with_file(path(&format!("d/{number:05}")), vec![1; 10]).with_fault(At::Read(index), IO)
    });
    let mut world = World::new(source, MemorySink::new(), Compression::Off);
    world.settle();
    assert!(matches!(world.received, Some(Outcome::Complete { .. })), "{:?}", world.received);
    assert_eq!(world.sink.finished().keys().collect::<Vec<_>>(), ["d"]);
    for differences in [world.sender.differences(), world.receiver.differences()] {
        let EntryList { entries, count: all, .. } = &differences.failed;
        assert_eq!((entries.len(), *all as usize), (differences::LISTED, count));
    }
}

#[test]
fn p08_once_everything_is_here_a_status_changes_nothing() {
    let mut world = World::new(files(), MemorySink::new(), Compression::Off);
    world.until(|world| world.receiver_jobs.iter().any(|job| matches!(job.work, Work::Finish { .. })));
    say(&mut world.receiver, 1, EntryStatus::Changed);
    world.until(|world| world.received.is_some());
    say(&mut world.receiver, 2, EntryStatus::Changed);
    world.settle();
    assert!(matches!(world.received, Some(Outcome::Complete { .. })), "{:?}", world.received);
    assert_eq!((world.sink.misuse(), world.sink.finished().len()), (None, world.source.entries().len()));
    assert_eq!(world.receiver.differences().failed.count, 0);
    // After the end, and before everything is here.
    let (mut receiver, _) = receiving();
    receiver.handle_control(now(), Control::End { transfer: 1, chunks: 6, moved: 6, root: [9; 32] });
    say(&mut receiver, 1, EntryStatus::Changed);
    assert_eq!(outcome(&mut receiver), BAD_ENTRY);
}
