//! A transfer that ends early, and the next one that resumes it: crashes at any step, truncated and damaged disks,
//! sources that changed, peers that report false ranges.

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::journal::{Header, Stored, Writer};
use super::memory::{At, MemorySink, MemorySource, Partial, Stage};
use super::tests::{K64, World, ack, noise, one_file, path, range, run};
use super::*;
use crate::seed::Seed;
use crate::transfer::job::Work;
use crate::transfer::storage::FaultKind;
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, Control, Have};

/// A file of this many chunks, and three small files in one more chunk.
fn files(chunks: usize) -> MemorySource {
    one_file(chunks * K64)
        .with_dir(path("d"))
        .with_file(path("d/one"), noise(1, 100))
        .with_file(path("d/two"), vec![])
        .with_file(path("d/three"), noise(3, 5000))
}

/// The first attempt, with events in any order, stopped once this many chunks were acknowledged.
fn running(chunks: usize, acknowledged: usize) -> World {
    let mut world = World::new(files(chunks), MemorySink::new(), Compression::Off);
    let mut order: ChaCha20Rng = Seed::new([5; 32]).rng();
    while world.sender.progress().bytes < (acknowledged * K64) as u64 {
        assert!(world.step(&mut |total| order.next_u32() as usize % total));
    }
    world.drain();
    assert!(world.sent.is_none() && world.sink.stage() == Stage::Staged && chunks_in(&world.sink.partial()) <= chunks);
    world
}

/// The state that it left behind when it crashed there.
fn left_after(chunks: usize, acknowledged: usize) -> Partial {
    running(chunks, acknowledged).sink.partial()
}

/// Everything is stored, but no entry has its final name.
fn whole() -> Partial {
    let mut world = World::new(files(20), MemorySink::new(), Compression::Off);
    world.until(|world| world.receiver_jobs.iter().any(|job| matches!(job.work, Work::Finish { .. })));
    world.sink.partial()
}

/// Only this many chunks at the beginning are stored.
fn beginning(chunks: usize) -> Partial {
    let mut left = whole();
    left.files.retain(|index, _| *index == 0);
    left.files.get_mut(&0).unwrap().truncate(chunks * K64);
    left
}

fn again(chunks: usize, before: Partial) -> World {
    let mut world = World::new(files(chunks), MemorySink::new().with_partial(before), Compression::Off);
    world.settle();
    world
}

/// How many bytes of chunks a valid journal lists.
fn chunks_in(partial: &Partial) -> usize {
    let (header, len) = Header::decode(&partial.journal).unwrap();
    let mut reader = super::journal::Reader::new(&header, &partial.journal[..len]);
    reader.push(&partial.journal[len..]);
    reader.finish().0.len()
}

#[test]
fn resumed_transfer_sends_only_missing_chunks() {
    let left = left_after(60, 10);
    let stored = chunks_in(&left);
    assert!((10..60).contains(&stored), "{stored}");
    let world = again(60, left);
    world.check_complete();
    assert_eq!(world.moved.len(), 61 - stored);
    let bytes = (stored * K64) as u64;
    assert_eq!((world.resuming, world.resumed), (true, (Some(bytes), Some(bytes))));
}

#[test]
fn resume_is_not_reported_without_stored_chunks() {
    let world = again(3, Partial::default());
    world.check_complete();
    assert_eq!((world.resuming, world.resumed), (false, (None, None)));
}

#[test]
fn complete_partial_transfer_sends_no_chunks() {
    let world = again(20, whole());
    world.check_complete();
    assert_eq!(world.moved, [0; 0]);
}

#[test]
fn f06_only_damaged_chunks_are_resent() {
    let whole = whole();
    let check = |name: &str, left: Partial, moved: &[u64]| {
        let world = again(20, left);
        world.check_complete();
        let mut own = world.moved.clone();
        own.sort_unstable();
        assert_eq!(own, moved, "{name}");
    };
    let flipped = |index: u32, at: usize| {
        let mut left = whole.clone();
        left.files.get_mut(&index).unwrap()[at] ^= 4;
        left
    };
    check("one bit", flipped(0, 5 * K64 + 17), &[5]);
    check("one bit of a small file", flipped(2, 3), &[20]);
    let mut truncated = whole.clone();
    truncated.files.get_mut(&0).unwrap().truncate(17 * K64 + 1);
    check("truncated", truncated, &[17, 18, 19]);
    let mut longer = whole.clone();
    longer.files.get_mut(&0).unwrap().extend_from_slice(&[1; 100]);
    check("extended", longer, &[]);
    let mut hole = whole.clone();
    hole.files.get_mut(&0).unwrap()[3 * K64..5 * K64].fill(0);
    check("a hole", hole, &[3, 4]);
    let mut gone = whole.clone();
    gone.files.remove(&4);
    check("a file that is gone", gone, &[20]);
    let all: Vec<u64> = (0..21).collect();
    for byte in [0, 9, 12, 60, 80] {
        let mut damaged = whole.clone();
        damaged.journal[byte] ^= 1;
        check("header", damaged, &all);
    }
    let mut torn = whole.clone();
    torn.journal.truncate(torn.journal.len() - 1);
    let left = (20 + 1 - chunks_in(&torn)) as u64;
    check("torn", torn, &(21 - left..21).collect::<Vec<_>>());
}

/// A valid journal with false statements: hashes of other bytes.
#[test]
fn false_journal_hashes_are_detected() {
    let mut left = whole();
    let (_, len) = Header::decode(&left.journal).unwrap();
    let writer = Writer::new(&left.journal[..len], left.journal.len() as u64);
    // Journal and stored bytes agree, but differ from what is sent.
    left.files.get_mut(&0).unwrap()[..K64].fill(9);
    let other = Stored { chunk: 0, hash: *blake3::hash(&[9; K64]).as_bytes() };
    let wrong = Stored { chunk: 2, hash: [1; 32] };
    left.journal.extend(writer.encode(&[other, wrong]));
    let world = again(20, left);
    world.check_complete();
    // The receiver found one difference itself; the sender finds one in the range before it, and sends that range.
    let mut moved = world.moved.clone();
    moved.sort_unstable();
    assert_eq!(moved, [0, 1, 2]);
    let bytes = 18 * K64 as u64 - K64 as u64 + 5100;
    assert_eq!(world.resumed, (Some(bytes), Some(bytes)));
}

#[test]
fn different_source_starts_from_scratch() {
    let left = left_after(20, 5);
    let world = again(21, left);
    world.check_complete();
    assert_eq!((world.moved.len(), world.resuming), (22, false));
}

#[test]
fn transfer_can_be_interrupted_during_verification() {
    let left = left_after(20, 5);
    for who in [0, 1] {
        let mut world = World::new(files(20), MemorySink::new().with_partial(left.clone()), Compression::Off);
        world.until(|world| world.receiver_jobs.iter().any(|job| matches!(job.work, Work::VerifyStored(_))));
        match who {
            0 => world.sender.cancel(world.now, CancelReason::Interrupted, ""),
            _ => world.receiver.cancel(world.now, CancelReason::Interrupted, ""),
        }
        world.settle();
        world.check_ended();
        assert_eq!(world.sink.stage(), Stage::Suspended);
        again(20, world.sink.partial()).check_complete();
    }
}

/// Useless chunks are removed, all others are kept.
#[test]
fn staging_is_kept_or_removed_by_end_reason() {
    let running = || running(20, 5);
    let mut ends: Vec<(Stage, World)> = Vec::new();
    for (reason, stage) in [
        (CancelReason::Interrupted, Stage::Suspended),
        (CancelReason::Io, Stage::Suspended),
        (CancelReason::Violation, Stage::Suspended),
        (CancelReason::SourceChanged, Stage::Abandoned),
    ] {
        let mut world = running();
        world.sender.cancel(world.now, reason, "");
        ends.push((stage, world));
    }
    let mut world = running();
    world.receiver.abandon(world.now);
    world.sender.abandon(world.now);
    ends.push((Stage::Suspended, world));
    let mut world = running();
    world.receiver.handle_control(world.now, ack(&[]));
    ends.push((Stage::Suspended, world));
    let mut world = running();
    let end = Control::End { transfer: 1, chunks: 21, moved: 21, root: [0; 32] };
    world.until(|world| world.to_receiver.iter().any(|message| matches!(message, Control::End { .. })));
    world.to_receiver.retain(|message| !matches!(message, Control::End { .. }));
    world.to_receiver.push_back(end);
    ends.push((Stage::Abandoned, world));
    for (number, (stage, mut world)) in ends.into_iter().enumerate() {
        world.settle();
        assert_eq!(world.sink.stage(), stage, "{number}: {:?}", world.received);
    }
}

/// The source of the second attempt differs from the first one, although its manifest is the same: this is detected,
/// and only the difference is sent.
#[test]
fn changed_source_with_same_manifest_is_detected() {
    let left = beginning(10);
    let mut other = noise(0, 20 * K64);
    other[7 * K64 + 5] ^= 1;
    let source = MemorySource::new()
        .with_file(path("file"), other)
        .with_dir(path("d"))
        .with_file(path("d/one"), noise(1, 100))
        .with_file(path("d/two"), vec![])
        .with_file(path("d/three"), noise(3, 5000));
    let mut world = World::new(source, MemorySink::new().with_partial(left), Compression::Off);
    world.settle();
    world.check_complete();
    // All kept chunks are in one range, so all of them are sent.
    assert_eq!((world.resumed, world.moved.len()), ((Some(0), Some(0)), 21));
}

fn accepted_with(have: Vec<Have>) -> World {
    let mut world = World::new(files(20), MemorySink::new(), Compression::Off);
    world.yes = false;
    world.settle();
    world.sender.handle_control(world.now, super::tests::accept(have));
    world.settle_sender();
    world
}

#[test]
fn false_have_ranges_are_sent_anyway() {
    let have = |first, last| Have { range: range(first, last), digest: [5; 32] };
    let mut world = accepted_with(vec![have(0, 3), have(6, 20)]);
    let mut judged = 0;
    for message in &world.to_receiver {
        if let Control::Checked { same, .. } = message {
            assert!(!same);
            judged += 1;
        }
    }
    assert_eq!(judged, 2);
    world.sender.handle_control(world.now, ack(&[range(0, 3)]));
    world.settle_sender();
    let mut moved = world.moved.clone();
    moved.sort_unstable();
    moved.dedup();
    assert_eq!(moved.len(), world.moved.len(), "once each");
    assert!(moved.len() >= 8 && world.sent.is_none());
}

/// A sender that reports ranges that it has not compared, reports them twice, or contradicts itself.
#[test]
fn false_checked_ranges_are_a_violation() {
    let checked = |first, last, same| Control::Checked { transfer: 1, range: range(first, last), same };
    let (left, stored) = (beginning(10), 10);
    let resumed = |messages: &[Control]| {
        let mut world = World::new(files(20), MemorySink::new().with_partial(left.clone()), Compression::Off);
        world.until(|world| world.to_sender.iter().any(|message| matches!(message, Control::Accept { .. })));
        for message in messages {
            world.receiver.handle_control(world.now, message.clone());
        }
        world.drain();
        world.received
    };
    let violation = |violation| Some(Outcome::Violation(violation));
    assert_eq!(resumed(&[checked(0, stored - 1, true)]), None);
    assert_eq!(resumed(&[checked(0, stored - 1, false)]), None);
    assert_eq!(resumed(&[checked(0, stored, true)]), violation(Violation::BadRanges));
    assert_eq!(resumed(&[checked(1, stored - 1, true)]), violation(Violation::BadRanges));
    let twice = [checked(0, stored - 1, true), checked(0, stored - 1, true)];
    assert_eq!(resumed(&twice), violation(Violation::BadRanges));
    // The end before everything was compared, and an end that counts chunks that were not sent.
    let end = |moved| Control::End { transfer: 1, chunks: 21, moved, root: [0; 32] };
    assert_eq!(resumed(&[end(21 - stored)]), violation(Violation::BadEnd));
    assert_eq!(resumed(&[checked(0, stored - 1, true), end(21)]), violation(Violation::BadEnd));
    assert_eq!(resumed(&[checked(0, stored - 1, true), end(21 - stored)]), None);
    assert_eq!(resumed(&[checked(0, stored - 1, false), end(21)]), None);
}

#[test]
fn an_acknowledgement_is_never_ahead_of_the_journal() {
    let mut world = World::new(files(30), MemorySink::new(), Compression::Off);
    let mut order: ChaCha20Rng = Seed::new([3; 32]).rng();
    while world.step(&mut |total| order.next_u32() as usize % total) {
        world.drain();
        if world.sink.stage() != Stage::Staged {
            continue;
        }
        let noted = chunks_in(&world.sink.partial());
        let told: u64 = world
            .to_sender
            .iter()
            .map(|message| match message {
                Control::Ack { ranges, .. } => {
                    ranges.as_slice().iter().map(|range| range.last - range.first + 1).sum::<u64>()
                }
                _ => 0,
            })
            .sum();
        assert!(told + world.sender.progress().bytes / K64 as u64 <= noted as u64);
    }
    world.check_complete();
}

#[test]
fn stored_chunks_are_synced_in_time_and_sync_fault_fails() {
    let mut world = World::new(files(30), MemorySink::new(), Compression::Off);
    world.until(|world| world.receiver.progress().bytes > 0);
    let due = world.receiver.poll_timeout().unwrap();
    assert_eq!(due, world.now + std::time::Duration::from_secs(5));
    assert!(!world.receiver_jobs.iter().any(|job| matches!(job.work, Work::Sync { .. })));
    world.receiver.handle_timeout(due);
    world.drain();
    assert!(world.receiver_jobs.iter().any(|job| matches!(job.work, Work::Sync { .. })));
    world.settle();
    world.check_complete();

    let io = FaultKind::System(5);
    let sink = MemorySink::new().with_fault(At::Sync(0), io);
    let mut world = World::new(files(30), sink, Compression::Off);
    world.until(|world| world.receiver.progress().bytes > 0);
    world.receiver.handle_timeout(due + std::time::Duration::from_secs(60));
    world.settle();
    assert_eq!(world.received, Some(Outcome::Failed(io.into())));
    world.check_ended();
}

/// Damage to the stored state, by a crash or by another program.
#[derive(Debug, Clone)]
enum Damage {
    Nothing,
    Torn(prop::sample::Index),
    Journal(prop::sample::Index, u8),
    File(prop::sample::Index, u8),
    Truncated(prop::sample::Index),
    Lost,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        2 => Just(Damage::Nothing),
        2 => any::<prop::sample::Index>().prop_map(Damage::Torn),
        1 => (any::<prop::sample::Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Journal(at, bit)),
        2 => (any::<prop::sample::Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::File(at, bit)),
        1 => any::<prop::sample::Index>().prop_map(Damage::Truncated),
        1 => Just(Damage::Lost),
    ]
}

fn do_damage(partial: &mut Partial, damage: &Damage) {
    let first = partial.files.values_mut().find(|contents| !contents.is_empty());
    match damage {
        Damage::Nothing => {}
        Damage::Torn(at) => partial.journal.truncate(at.index(partial.journal.len() + 1)),
        Damage::Journal(at, bit) if !partial.journal.is_empty() => {
            let at = at.index(partial.journal.len());
            partial.journal[at] ^= 1 << bit;
        }
        Damage::File(at, bit) => {
            if let Some(contents) = first {
                let at = at.index(contents.len());
                contents[at] ^= 1 << bit;
            }
        }
        Damage::Truncated(at) => {
            if let Some(contents) = first {
                contents.truncate(at.index(contents.len()));
            }
        }
        Damage::Lost | Damage::Journal(..) => partial.files.clear(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However often and wherever it crashes, and whatever happens to the stored state: the transfer ends with the
    /// same bytes, and acknowledged chunks that were not damaged are not sent again.
    #[test]
    fn transfer_completes_after_any_crashes_and_damage(
        chunks in 1..24_usize,
        order in any::<[u8; 32]>(),
        tries in prop::collection::vec((any::<prop::sample::Index>(), damage()), 0..5),
    ) {
        let mut rng: ChaCha20Rng = Seed::new(order).rng();
        let mut partial = Partial::default();
        for (stop, damage) in tries {
            let mut world = World::new(
                files(chunks), MemorySink::new().with_partial(partial.clone()), Compression::Off
            );
            let steps = stop.index(chunks * 12 + 20);
            for _ in 0..steps {
                if !world.step(&mut |total| rng.next_u32() as usize % total) {
                    break;
                }
            }
            if world.sink.stage() == Stage::Finished {
                break;
            }
            if world.sink.stage() == Stage::Staged {
                partial = world.sink.partial();
            }
            // Truncated in the middle of a write: bytes that no journal lists.
            do_damage(&mut partial, &damage);
        }
        let noted = Header::decode(&partial.journal).map_or(0, |_| chunks_in(&partial));
        let mut world = World::new(files(chunks), MemorySink::new().with_partial(partial), Compression::Off);
        while world.step(&mut |total| rng.next_u32() as usize % total) {}
        world.check_complete();
        prop_assert!(world.moved.len() + noted > chunks, "not less than what is missing");
    }
}

/// Crashes after every single step of a transfer, and resumes.
#[test]
fn f04_crash_after_any_step_is_resumable() {
    let mut at = 0;
    loop {
        let mut world = World::new(files(6), MemorySink::new(), Compression::Off);
        let mut ended = false;
        for _ in 0..at {
            if !world.step(&mut |_| 0) {
                ended = true;
                break;
            }
        }
        if ended {
            break;
        }
        at += 1;
        if world.sink.stage() != Stage::Staged || !world.sink.finished().is_empty() {
            continue;
        }
        let acknowledged = world.sender.progress().bytes;
        let world = again(6, world.sink.partial());
        world.check_complete();
        let moved: usize = world.moved.len();
        assert!(moved as u64 <= 7 - acknowledged / K64 as u64, "step {at}: {moved} moved, {acknowledged} were stored");
    }
    assert!(at > 40, "{at}");
}

/// A receiver that begins with stored chunks, while the link is lost.
#[test]
fn link_loss_during_range_check_is_survived() {
    let left = left_after(20, 5);
    let mut world = World::new(files(20), MemorySink::new().with_partial(left), Compression::Off);
    world.until(|world| world.sender_jobs.iter().any(|job| matches!(job.work, Work::Check(_))));
    world.lose_link();
    world.step(&mut |_| 0);
    world.lose_link();
    world.settle();
    world.check_complete();
    assert!(world.resumed.0.is_some_and(|bytes| bytes >= 5 * K64 as u64));
}

#[test]
fn source_change_during_range_check_is_reported() {
    let left = left_after(20, 5);
    let source = files(20).with_fault(At::Read(0), FaultKind::Changed);
    let mut world = World::new(source, MemorySink::new().with_partial(left), Compression::Off);
    world.until(|world| !world.sender_jobs.is_empty() && world.accepted);
    let job = world.sender_jobs.remove(0);
    world.sender.handle_job(world.now, run(job));
    world.settle();
    assert_eq!(world.sent, Some(Outcome::Failed(FaultKind::Changed.into())));
    world.check_ended();
}
