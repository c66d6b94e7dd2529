//! A receiver against a sender that violates the protocol.

use std::sync::Arc;
use std::time::Duration;

use super::chunk::{Codec, HEADER, Header};
use super::manifest::{Entry, EntryKind, MAX_ENTRIES, MAX_PAGES, Manifest, PageBuilder, Refusal, Refused};
use super::memory::{MemorySink, Stage};
use super::path::PathError;
use super::receiver::{self, FAREWELL, INTERRUPTED};
use super::tests::{K64, World, accept, ack, file, noise, one_file, range, run, seed};
use super::*;
use crate::session::{LinkId, Prepared, SealedChunk, Verdict};
use crate::transfer::storage::{Fault, FaultKind};
use crate::wire::peer::{CancelReason, Control, DeclineReason, Offer, Reason, TransferKind};
use crate::wire::{Blob, Untrusted, Violation};

/// A receiver that got this offer from a hostile sender, in one page.
fn offered(entries: &[Entry], change: impl FnOnce(&mut Offer, &mut Vec<u8>)) -> receiver::Receiver {
    offered_to(2, entries, change)
}

fn offered_to(cores: usize, entries: &[Entry], change: impl FnOnce(&mut Offer, &mut Vec<u8>)) -> receiver::Receiver {
    let mut page = PageBuilder::new();
    entries.iter().for_each(|entry| page.push(entry).unwrap());
    let mut page = page.finish().0.to_vec();
    let mut offer = Offer {
        transfer: 1,
        kind: TransferKind::Files,
        chunk_size: 64 << 10,
        entries: u32::try_from(entries.len()).unwrap(),
        bytes: entries.iter().fold(0, |sum, entry| sum.wrapping_add(entry.size())),
        pages: 1,
    };
    change(&mut offer, &mut page);
    let mut receiver = receiver::Receiver::new(receiver::Config { cores }, seed(2));
    let now = tests::now();
    receiver.handle_control(now, Control::Offer(offer));
    receiver.handle_control(now, Control::Page { transfer: 1, page: Blob(page.into()) });
    receiver
}

fn outcome(receiver: &mut receiver::Receiver) -> Option<Outcome> {
    match receiver.poll_event() {
        Some(TransferEvent::Over(outcome)) => Some(outcome),
        Some(TransferEvent::Offered(_)) => None,
        other => panic!("{other:?}"),
    }
}

fn violation(receiver: &mut receiver::Receiver) -> Violation {
    match outcome(receiver) {
        Some(Outcome::Violation(violation)) => {
            assert!(matches!(receiver.poll_control(), Some(Control::Cancel { reason: CancelReason::Violation, .. })));
            violation
        }
        other => panic!("{other:?}"),
    }
}

/// The name of a page's only entry is at the end of the page, so it can be overwritten with one that breaks a rule.
fn renamed(name: &[u8]) -> receiver::Receiver {
    let placeholder = "x".repeat(name.len());
    let mut entry = file(&placeholder, 0);
    entry.kind = EntryKind::Dir;
    offered(&[entry], |_, page| {
        let at = page.windows(name.len()).position(|bytes| bytes == placeholder.as_bytes()).unwrap();
        page[at..at + name.len()].copy_from_slice(name);
    })
}

#[test]
fn n01_to_n06_d01_unsafe_name_is_refused_before_offer() {
    for (name, rule) in [
        ("../x", PathError::DotDot),
        ("..", PathError::DotDot),
        ("a/../../x", PathError::DotDot),
        ("a/..", PathError::DotDot),
        ("/etc/cron.d/x", PathError::Absolute),
        ("a\nb", PathError::Control(1)),
        ("\x1b[2J\x1b[1A\rharmless", PathError::Control(0)),
        ("a//b", PathError::EmptyComponent),
    ] {
        let mut receiver = renamed(name.as_bytes());
        match receiver.poll_control() {
            Some(Control::Decline { transfer: 1, reason: DeclineReason::Policy, text }) => {
                assert_eq!(text.text().as_raw(), format!("unsafe file name: {rule}"));
            }
            other => panic!("{name:?} {other:?}"),
        }
        match outcome(&mut receiver) {
            Some(Outcome::Refused(refused)) => {
                assert_eq!((refused.why, refused.name.as_raw()), (Refusal::Name(rule), name));
                assert!(!refused.name.escaped(200).chars().any(char::is_control));
            }
            other => panic!("{name:?} {other:?}"),
        }
        assert!(receiver.is_closed() && receiver.accept(tests::now(), Arc::new(MemorySink::new())).is_err());
    }
    assert_eq!(violation(&mut renamed(&[0x61, 0xff, 0x62])), Violation::NotUtf8);
}

#[test]
fn n07_entries_that_collide_are_refused() {
    let mut receiver = offered(&[file("a", 1), file("a/b", 1)], |_, _| {});
    assert!(matches!(receiver.poll_control(), Some(Control::Decline { reason: DeclineReason::Policy, .. })));
    assert_eq!(
        outcome(&mut receiver),
        Some(Outcome::Refused(Refused { name: Untrusted::new("a".to_owned()), why: Refusal::NoDirectory }))
    );
}

#[test]
fn n08_an_unknown_kind_is_a_violation() {
    let mut receiver = offered(&[file("x", 1)], |_, page| page[2] = 0xc8);
    assert_eq!(violation(&mut receiver), Violation::UnknownEntryKind);
}

#[test]
fn p03_false_counts_are_refused() {
    let entries = [file("a", 1), file("b", 2)];
    let too_many = |why, receiver: &mut receiver::Receiver| {
        assert!(matches!(receiver.poll_control(), Some(Control::Decline { reason: DeclineReason::TooLarge, .. })));
        assert_eq!(outcome(receiver), Some(Outcome::Refused(Refused { name: Untrusted::default(), why })));
    };
    too_many(Refusal::TooManyEntries, &mut offered(&entries, |offer, _| offer.entries = MAX_ENTRIES + 1));
    too_many(Refusal::TooManyEntries, &mut offered(&entries, |offer, _| offer.entries = 10_000_000));
    too_many(Refusal::TooManyNames, &mut offered(&entries, |offer, _| offer.pages = MAX_PAGES + 1));
    for change in [
        (|offer: &mut Offer, _: &mut Vec<u8>| offer.entries = 1) as fn(&mut Offer, &mut Vec<u8>),
        |offer, _| offer.entries = 3,
        |offer, _| offer.bytes = 2,
        |offer, _| offer.bytes = 4,
        |offer, _| offer.chunk_size = 0,
        |offer, _| offer.chunk_size = 96 << 10,
        |offer, _| offer.chunk_size = 8 << 20,
        |offer, _| offer.pages = 0,
    ] {
        assert_eq!(violation(&mut offered(&entries, change)), Violation::BadOffer);
    }
    assert_eq!(violation(&mut offered(&entries, |_, page| *page = vec![0; 60 << 10])), Violation::BadPage);
    assert_eq!(violation(&mut offered(&entries, |_, page| page.clear())), Violation::BadPage);
    assert_eq!(violation(&mut offered(&entries, |offer, _| offer.transfer = 2)), Violation::WrongTransfer);
    // Pages after the last one, and a second offer.
    let now = tests::now();
    for message in [
        Control::Page { transfer: 1, page: Blob::default() },
        Control::Offer(Offer {
            transfer: 1,
            kind: TransferKind::Files,
            chunk_size: 64 << 10,
            entries: 0,
            bytes: 0,
            pages: 0,
        }),
    ] {
        let mut receiver = offered(&entries, |_, _| {});
        assert_eq!(outcome(&mut receiver), None);
        receiver.handle_control(now, message);
        assert_eq!(violation(&mut receiver), Violation::UnexpectedMessage);
    }
    // A new session takes a valid offer.
    assert_eq!(outcome(&mut offered(&entries, |_, _| {})), None);
}

#[test]
fn p04_sizes_beyond_disk_are_refused() {
    let now = tests::now();
    let mut receiver = offered(&[file("x", 1 << 60)], |_, _| {});
    assert_eq!(outcome(&mut receiver), None);
    let sink = Arc::new(MemorySink::new().with_free(1 << 40));
    receiver.accept(now, Arc::<MemorySink>::clone(&sink)).unwrap();
    let begin = receiver.poll_job().unwrap();
    receiver.handle_job(now, run(begin));
    let full = FaultKind::Full { need: 1 << 60, have: 1 << 40 };
    assert_eq!(outcome(&mut receiver), Some(Outcome::Failed(full.into())));
    assert!(matches!(receiver.poll_control(), Some(Control::Decline { reason: DeclineReason::NoSpace, .. })));
    // Nothing was staged, so nothing has to be removed.
    assert!(receiver.poll_job().is_none());
    assert_eq!((sink.stage(), sink.written(), receiver.is_closed()), (Stage::New, 0, true));

    for sizes in [&[u64::MAX][..], &[1 << 63, 1 << 63]] {
        let entries: Vec<_> = sizes.iter().enumerate().map(|(number, size)| file(&number.to_string(), *size)).collect();
        let mut receiver = offered(&entries, |_, _| {});
        assert!(matches!(receiver.poll_control(), Some(Control::Decline { reason: DeclineReason::TooLarge, .. })));
        match outcome(&mut receiver) {
            Some(Outcome::Refused(refused)) => assert_eq!(refused.why, Refusal::TooLarge),
            other => panic!("{other:?}"),
        }
    }
}

/// A receiver that accepted files of these sizes.
fn receiving(sizes: &[u64]) -> (receiver::Receiver, Arc<MemorySink>) {
    accepted(2, sizes, 64 << 10)
}

fn accepted(cores: usize, sizes: &[u64], chunk_size: u32) -> (receiver::Receiver, Arc<MemorySink>) {
    let entries: Vec<_> = sizes.iter().enumerate().map(|(number, size)| file(&number.to_string(), *size)).collect();
    let mut receiver = offered_to(cores, &entries, |offer, _| offer.chunk_size = chunk_size);
    assert_eq!(outcome(&mut receiver), None);
    let sink = Arc::new(MemorySink::new());
    let now = tests::now();
    receiver.accept(now, Arc::<MemorySink>::clone(&sink)).unwrap();
    let begin = receiver.poll_job().unwrap();
    receiver.handle_job(now, run(begin));
    assert!(matches!(receiver.poll_control(), Some(Control::Accept { credit: CREDIT, .. })));
    (receiver, sink)
}

fn chunk(link: u32, index: u64, contents: &[u8], genuine: bool) -> SealedChunk {
    let hash = *blake3::hash(contents).as_bytes();
    let length = u32::try_from(contents.len()).unwrap();
    let header = Header { transfer: 1, chunk: index, codec: Codec::Raw, length, hash };
    let mut prepared = Prepared::with_capacity(HEADER + contents.len());
    prepared.extend_from_slice(&header.to_bytes());
    prepared.extend_from_slice(contents);
    SealedChunk::arrived(LinkId(link), prepared, genuine)
}

fn work(receiver: &mut receiver::Receiver) {
    while let Some(job) = receiver.poll_job() {
        receiver.handle_job(tests::now(), run(job));
    }
}

fn end(chunks: u64, moved: u64) -> Control {
    Control::End { transfer: 1, chunks, moved, root: [0; 32] }
}

#[test]
fn p04_an_empty_file_has_no_chunks() {
    let now = tests::now();
    let (mut receiver, sink) = receiving(&[0]);
    receiver.handle_control(now, end(5, 5));
    assert_eq!(violation(&mut receiver), Violation::BadEnd);
    work(&mut receiver);
    assert_eq!(sink.stage(), Stage::Abandoned);

    let (mut receiver, sink) = receiving(&[0]);
    receiver.handle_chunk(now, chunk(1, 0, b"", true));
    work(&mut receiver);
    assert_eq!(violation(&mut receiver), Violation::BadChunk);
    assert_eq!((sink.written(), sink.misuse()), (0, None));
}

#[test]
fn receiver_refuses_unexpected_messages() {
    let now = tests::now();
    let verified = Control::Verified { transfer: 1, root: [0; 32] };
    for message in [
        accept(vec![]),
        ack(&[]),
        verified,
        Control::Bye,
        Control::Page { transfer: 1, page: Blob::default() },
        Control::Decline { transfer: 1, reason: DeclineReason::Person, text: Reason::default() },
    ] {
        let (mut receiver, _) = receiving(&[10]);
        receiver.handle_control(now, message.clone());
        assert_eq!(violation(&mut receiver), Violation::UnexpectedMessage, "{message:?}");
    }
    let mut receiver = offered(&[file("x", 10)], |_, _| {});
    assert_eq!(outcome(&mut receiver), None);
    receiver.handle_control(now, end(1, 1));
    assert_eq!(violation(&mut receiver), Violation::UnexpectedMessage);
    // A chunk before the acceptance.
    let mut receiver = offered(&[file("x", 10)], |_, _| {});
    assert_eq!(outcome(&mut receiver), None);
    receiver.handle_chunk(now, chunk(1, 0, &[0; 10], true));
    assert_eq!(violation(&mut receiver), Violation::UnexpectedMessage);
    // The end: other counts than the manifest's, and twice.
    for (chunks, moved) in [(1, 0), (0, 1), (2, 2), (u64::MAX, u64::MAX), (1, u64::MAX)] {
        let (mut receiver, _) = receiving(&[10]);
        receiver.handle_control(now, end(chunks, moved));
        assert_eq!(violation(&mut receiver), Violation::BadEnd);
    }
    let (mut receiver, _) = receiving(&[10]);
    receiver.handle_control(now, end(1, 1));
    receiver.handle_control(now, end(1, 1));
    assert_eq!(violation(&mut receiver), Violation::BadEnd);
}

#[test]
fn x08_a_wrong_root_puts_nothing_in_place() {
    let now = tests::now();
    let (mut receiver, sink) = receiving(&[10]);
    receiver.handle_chunk(now, chunk(1, 0, &[7; 10], true));
    work(&mut receiver);
    receiver.handle_control(now, end(1, 1));
    assert!(matches!(receiver.poll_control(), Some(Control::Cancel { .. })));
    assert_eq!(outcome(&mut receiver), Some(Outcome::Violation(Violation::WrongRoot)));
    work(&mut receiver);
    assert_eq!((sink.stage(), sink.finished().len()), (Stage::Abandoned, 0));
}

#[test]
fn chunks_beyond_credit_are_a_violation() {
    let now = tests::now();
    let contents = noise(1, 4 << 20);
    let (mut receiver, _) = accepted(2, &[64 << 20], 4 << 20);
    for index in 0..7 {
        receiver.handle_chunk(now, chunk(1, index, &contents, true));
    }
    // Chunks that are stored and acknowledged do not count any more.
    work(&mut receiver);
    assert_eq!(receiver.progress().bytes, 28 << 20);
    assert!(receiver.poll_control().is_some());
    for index in 7..14 {
        receiver.handle_chunk(now, chunk(1, index, &contents, true));
    }
    assert!(receiver.poll_event().is_none());
    // Chunks without acknowledgement do count: all are stored now, and one more is too much.
    work(&mut receiver);
    receiver.handle_chunk(now, chunk(1, 14, &contents, true));
    assert_eq!(violation(&mut receiver), Violation::BeyondCredit);

    // Tiny chunks count too.
    let (mut receiver, _) = receiving(&[10]);
    let mut count = 0_u64;
    while receiver.poll_event().is_none() {
        receiver.handle_chunk(now, chunk(1, 0, &[], true));
        count += 1;
        assert!(count < 40_000);
    }
    assert!(count > 25_000, "{count}");
}

#[test]
fn chunks_of_lost_link_are_not_counted_twice() {
    let now = tests::now();
    let contents = noise(1, 4 << 20);
    let (mut receiver, _) = accepted(2, &[64 << 20], 4 << 20);
    for index in 0..7 {
        receiver.handle_chunk(now, chunk(1, index, &contents, true));
    }
    let out: Vec<_> = std::iter::from_fn(|| receiver.poll_job()).collect();
    assert_eq!(out.len(), 4);
    receiver.handle_link_lost(now, LinkId(1));
    for index in 0..7 {
        receiver.handle_chunk(now, chunk(2, index, &contents, true));
    }
    for job in out {
        receiver.handle_job(now, run(job));
    }
    work(&mut receiver);
    assert_eq!(receiver.progress().bytes, 28 << 20);
    assert!(receiver.poll_event().is_none());
}

/// A sink that discards its bytes.
struct Nowhere;

impl crate::transfer::storage::Sink for Nowhere {
    fn begin(&self, _: &Arc<Manifest>) -> Result<Vec<crate::transfer::journal::Stored>, Fault> {
        Ok(Vec::new())
    }
    fn write(&self, _: u32, _: &Entry, _: u64, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }
    fn finish(&self, _: usize) -> Result<bool, Fault> {
        Ok(true)
    }
    fn abandon(&self) {}
}

/// The sum of the acknowledgements, and the number of messages.
fn acknowledged(receiver: &mut receiver::Receiver) -> (u64, usize) {
    let (mut stored, mut messages) = (super::ranges::RangeSet::default(), 0);
    while let Some(Control::Ack { ranges, .. }) = receiver.poll_control() {
        assert_eq!(super::ranges::check(ranges.as_slice(), u64::MAX), Ok(()));
        messages += 1;
        for range in ranges.as_slice() {
            (range.first..=range.last).for_each(|chunk| assert!(stored.insert(chunk), "{chunk} was told twice"));
        }
    }
    (stored.count(), messages)
}

/// Every second chunk is stored, so that the ranges do not fit into one message.
#[test]
fn acknowledged_ranges_are_split_over_messages() {
    let now = tests::now();
    let contents = vec![0; K64];
    let compressed = zstd::bulk::compress(&contents, 1).unwrap();
    let hash = *blake3::hash(&contents).as_bytes();
    let mut receiver = offered(&[file("x", 2200 * K64 as u64)], |_, _| {});
    receiver.accept(now, Arc::new(Nowhere)).unwrap();
    work(&mut receiver);
    assert!(matches!(receiver.poll_control(), Some(Control::Accept { .. })));
    for index in (0..2200).step_by(2) {
        let header = Header { transfer: 1, chunk: index, codec: Codec::Zstd, length: 64 << 10, hash };
        let mut prepared = Prepared::with_capacity(HEADER + compressed.len());
        prepared.extend_from_slice(&header.to_bytes());
        prepared.extend_from_slice(&compressed);
        receiver.handle_chunk(now, SealedChunk::arrived(LinkId(1), prepared, true));
    }
    work(&mut receiver);
    assert_eq!(acknowledged(&mut receiver), (1100, 2));
    // On a new link everything is acknowledged again, and new chunks only once.
    receiver.handle_chunk(now, chunk(1, 1, &contents, true));
    work(&mut receiver);
    receiver.handle_link_up(now);
    receiver.handle_link_up(now);
    assert_eq!(acknowledged(&mut receiver), (1101, 2));
}

#[test]
fn unused_sink_is_not_abandoned_on_cancel() {
    let mut receiver = offered(&[file("x", 1)], |_, _| {});
    let sink = Arc::new(MemorySink::new());
    receiver.accept(tests::now(), Arc::<MemorySink>::clone(&sink)).unwrap();
    receiver.cancel(tests::now(), CancelReason::Interrupted, "");
    work(&mut receiver);
    assert_eq!((sink.stage(), sink.misuse()), (Stage::New, None));
}

#[test]
fn unstored_chunks_do_not_count_as_progress() {
    let now = tests::now();
    let contents = noise(1, 4 << 20);
    let (mut receiver, _) = accepted(2, &[64 << 20], 4 << 20);
    // Stored, forged, and stored before.
    for (genuine, bytes) in [(true, 28 << 20), (false, 28 << 20), (true, 28 << 20), (true, 28 << 20)] {
        for index in 0..7 {
            receiver.handle_chunk(now, chunk(1, index, &contents, genuine));
        }
        work(&mut receiver);
        while receiver.poll_control().is_some() {}
        assert!(!matches!(receiver.poll_event(), Some(TransferEvent::Over(_))));
        assert_eq!(receiver.progress().bytes, bytes);
    }
}

#[test]
fn last_chunk_is_acknowledged_while_its_copy_is_checked() {
    let now = tests::now();
    let (mut receiver, sink) = receiving(&[10]);
    receiver.handle_chunk(now, chunk(1, 0, &[7; 10], true));
    receiver.handle_chunk(now, chunk(2, 0, &[7; 10], true));
    let mut jobs: Vec<_> = std::iter::from_fn(|| receiver.poll_job()).collect();
    let hash = *blake3::hash(&[7; 10]).as_bytes();
    let mut page = PageBuilder::new();
    page.push(&file("0", 10)).unwrap();
    let mut builder = super::manifest::ManifestBuilder::new(TransferKind::Files, &seed(3));
    builder.push_page(page.finish()).unwrap();
    let mut hashes = super::hashes::Hashes::new(builder.finish_with(64 << 10).unwrap().digest(), 1);
    hashes.claim(0, &hash);
    let root = hashes.root().unwrap();
    receiver.handle_control(now, Control::End { transfer: 1, chunks: 1, moved: 1, root });
    let (first, second) = (jobs.remove(0), jobs.remove(0));
    receiver.handle_job(now, run(first));
    assert_eq!(receiver.poll_control(), None, "written, and not in the journal");
    // Only the commit runs: nothing is moved to its final name while a copy is in a job.
    work(&mut receiver);
    assert_eq!(receiver.poll_control(), Some(ack(&[range(0, 0)])));
    assert_eq!((receiver.poll_control(), sink.stage()), (None, Stage::Staged));
    receiver.handle_job(now, run(second));
    work(&mut receiver);
    assert_eq!(receiver.poll_control(), Some(Control::Verified { transfer: 1, root }));
    assert_eq!((sink.stage(), sink.misuse()), (Stage::Finished, None));
}

#[test]
fn tampered_record_is_reported_and_may_be_resent() {
    let now = tests::now();
    let (mut receiver, sink) = receiving(&[10]);
    for (link, is_genuine) in [(5, false), (6, true)] {
        receiver.handle_chunk(now, chunk(link, 0, &[7; 10], is_genuine));
        let done = run(receiver.poll_job().unwrap());
        assert_eq!(done.verdict(), Some(Verdict { link: LinkId(link), is_genuine }));
        receiver.handle_job(now, done);
        work(&mut receiver);
        assert!(receiver.poll_event().is_none(), "a bad record is the session's business");
    }
    assert_eq!((receiver.progress().bytes, sink.misuse()), (10, None));
    // With nothing left to do, even a single chunk is acknowledged at once.
    assert_eq!(receiver.poll_control(), Some(ack(&[range(0, 0)])));
    assert_eq!(receiver.poll_control(), None);
}

#[test]
fn receiver_waits_for_final_message_until_timeout() {
    let verified = || {
        let mut world = World::new(one_file(10), MemorySink::new(), Compression::Off);
        world.until(|world| world.received.is_some());
        world
    };
    let mut world = verified();
    assert!(!world.receiver.is_closed());
    assert_eq!(world.receiver.poll_timeout(), Some(world.now + FAREWELL));
    world.receiver.handle_timeout(world.now + FAREWELL - Duration::from_millis(1));
    assert!(!world.receiver.is_closed());
    world.receiver.handle_timeout(world.now + FAREWELL);
    assert!(world.receiver.is_closed());
    // The user cancels after everything was done: the transfer stays complete.
    let mut world = verified();
    world.receiver.cancel(world.now, CancelReason::Interrupted, "");
    world.receiver.cancel(world.now + Duration::from_secs(9), CancelReason::Interrupted, "");
    assert_eq!(world.receiver.poll_timeout(), Some(world.now + INTERRUPTED));
    world.receiver.handle_timeout(world.now + INTERRUPTED);
    world.drain();
    assert!(world.receiver.is_closed() && matches!(world.received, Some(Outcome::Complete { .. })));
    // A sender that now violates the protocol changes nothing either.
    let mut world = verified();
    world.receiver.handle_control(world.now, accept(vec![]));
    world.drain();
    assert!(world.receiver.is_closed() && world.sink.stage() == Stage::Finished);
}

#[test]
fn receiver_runs_few_large_chunk_jobs_at_once() {
    let now = tests::now();
    let contents = noise(1, 4 << 20);
    let mut receiver = accepted(64, &[64 << 20], 4 << 20).0;
    for index in 0..7 {
        receiver.handle_chunk(now, chunk(1, index, &contents, true));
    }
    assert_eq!(std::iter::from_fn(|| receiver.poll_job()).count(), 4);
}
