//! One machine against a peer that breaks the rules.

use std::sync::Arc;
use std::time::Duration;

use super::chunk::{Codec, HEADER, Header};
use super::manifest::{Entry, EntryKind, MAX_ENTRIES, MAX_PAGES, Mtime, PageBuilder, Refusal};
use super::memory::{MemorySink, MemorySource, Stage};
use super::path::PathError;
use super::receiver::{self, FAREWELL, INTERRUPTED};
use super::sender::{self, READY, STALE};
use super::tests::{K64, World, noise, one_file, path, run, seed};
use super::window::{self, cost};
use super::*;
use crate::session::{LinkId, Prepared, SealedChunk};
use crate::wire::peer::{ChunkRange, ChunkRanges, Control, ControlRecord, Have, Offer, Reason, TransferKind};
use crate::wire::{Blob, Capped, Malformed, decode, encode};

fn range(first: u64, last: u64) -> ChunkRange {
    ChunkRange { first, last }
}

fn ack(ranges: &[ChunkRange]) -> Control {
    Control::Ack { transfer: 1, ranges: ChunkRanges::new(ranges.to_vec()).unwrap(), credit: CREDIT }
}

fn accept(have: Vec<Have>) -> Control {
    Control::Accept { transfer: 1, have: Capped::new(have).unwrap(), credit: CREDIT }
}

/// A sender of so many chunks; `accepted`: and its offer was taken.
fn sender(chunks: usize, accepted: bool) -> World {
    let mut world = World::new(one_file(chunks * K64), MemorySink::new(), Compression::Off);
    world.yes = false;
    world.settle();
    if accepted {
        say(&mut world, accept(vec![]));
        assert!(world.accepted);
    }
    world
}

/// What a hostile receiver says to it.
fn say(world: &mut World, message: Control) {
    world.sender.handle_control(world.now, message);
    world.drain();
    while let Some(job) = world.sender_jobs.pop() {
        world.sender.handle_job(world.now, run(job));
        world.drain();
    }
}

fn sender_says(message: Control, accepted: bool) -> Option<Outcome> {
    let mut world = sender(100, accepted);
    say(&mut world, message);
    if matches!(world.sent, Some(Outcome::Violation(_))) {
        let told = world.to_receiver.back();
        assert!(matches!(told, Some(Control::Cancel { reason: CancelReason::Violation, .. })), "{told:?}");
        assert_eq!((world.sender.poll_job().is_none(), world.sender.poll_chunk().is_none()), (true, true));
    }
    world.sent
}

#[test]
fn p06_only_what_was_offered_and_sent_can_be_asked_for() {
    let violation = |violation| Some(Outcome::Violation(violation));
    // Eight chunks are under way, and 100 were offered.
    let world = sender(100, true);
    assert!(!world.chunks.is_empty());
    assert_eq!(sender_says(ack(&[range(0, 0)]), true), None);
    for ranges in [
        &[range(99, 99)][..],
        &[range(0, 99)],
        &[range(0, 100)],
        &[range(1 << 63, 1 << 63)],
        &[range(0, u64::MAX)],
        &[range(u64::MAX, 0)],
        &[range(0, 2), range(2, 3)],
        &[range(1, 1), range(0, 0)],
    ] {
        assert_eq!(sender_says(ack(ranges), true), violation(Violation::BadRanges), "{ranges:?}");
    }
    let have = |first, last| accept(vec![Have { range: range(first, last), digest: [0; 32] }]);
    for message in [have(0, 100), have(100, 100), have(1 << 63, 1 << 63), have(5, 4), have(0, u64::from(u32::MAX))] {
        assert_eq!(sender_says(message, false), violation(Violation::BadRanges));
    }
    assert_eq!(sender_says(have(0, 99), false), None);
    let other = Control::Ack { transfer: 2, ranges: ChunkRanges::default(), credit: CREDIT };
    assert_eq!(sender_says(other, true), violation(Violation::WrongTransfer));
}

#[test]
fn p06_asking_a_million_times_moves_nothing_twice() {
    let mut world = sender(100, true);
    let made = world.chunks.len();
    say(&mut world, ack(&[range(0, 0)]));
    let after = world.chunks.len();
    assert!(after > made);
    for repeated in 0..=STALE {
        assert_eq!(world.sent, None, "{repeated}");
        say(&mut world, ack(&[range(0, 0)]));
    }
    assert_eq!(world.sent, Some(Outcome::Violation(Violation::Repeats)));
    assert_eq!(world.chunks.len(), after, "an acknowledgement without news moves nothing");
}

#[test]
fn p06_no_chunk_leaves_twice_while_its_link_lives() {
    let mut world = sender(40, true);
    let mut acknowledged = 0;
    while acknowledged < 40 {
        assert!(world.chunks.len() > acknowledged && world.chunks.len() <= 40);
        say(&mut world, ack(&[range(0, acknowledged as u64)]));
        acknowledged += 1;
    }
    assert_eq!((world.chunks.len(), world.sent.clone()), (40, None));
    assert!(matches!(world.to_receiver.back(), Some(Control::End { chunks: 40, moved: 40, .. })));
}

#[test]
fn messages_that_have_no_place_in_a_sender() {
    let verified = Control::Verified { transfer: 1, root: [0; 32] };
    let offer = Offer { transfer: 1, kind: TransferKind::Files, chunk_size: 64 << 10, entries: 0, bytes: 0, pages: 0 };
    let out_of_turn = Some(Outcome::Violation(Violation::UnexpectedMessage));
    for (message, accepted) in [
        (accept(vec![]), true),
        (ack(&[]), false),
        (verified.clone(), false),
        (verified.clone(), true),
        (Control::Offer(offer), true),
        (Control::Page { transfer: 1, page: Blob::default() }, true),
        (Control::End { transfer: 1, chunks: 0, moved: 0, root: [0; 32] }, true),
        (Control::Bye, true),
        (Control::Decline { transfer: 1, reason: DeclineReason::Person, text: Reason::default() }, true),
    ] {
        assert_eq!(sender_says(message.clone(), accepted), out_of_turn, "{message:?}");
    }
    // An answer to an offer that was not told in full.
    let mut sender = sender::Sender::new(
        sender::Config { cores: 1, compression: Compression::Off },
        Arc::new(MemorySource::new().with_page_after(1).with_dir(path("a")).with_dir(path("b"))),
        &seed(1),
    );
    let now = tests::now();
    while let Some(job) = sender.poll_job() {
        sender.handle_job(now, run(job));
    }
    sender.begin(now);
    assert!(matches!(sender.poll_control(), Some(Control::Offer(_))));
    assert!(matches!(sender.poll_control(), Some(Control::Page { .. })));
    sender.handle_control(now, accept(vec![]));
    assert!(matches!(sender.poll_control(), Some(Control::Cancel { transfer: 1, .. })));
}

#[test]
fn a_wrong_root_is_no_confirmation() {
    let mut world = sender(2, true);
    assert!(matches!(world.to_receiver.back(), Some(Control::End { .. })));
    say(&mut world, Control::Verified { transfer: 1, root: [0; 32] });
    assert_eq!(world.sent, Some(Outcome::Violation(Violation::WrongRoot)));
    assert!(!matches!(world.to_receiver.back(), Some(Control::Bye)));
}

#[test]
fn the_window_bounds_what_is_under_way() {
    let most = cost(K64 + HEADER + 64);
    // As many as there are before the chunks become larger.
    let mut world = sender(1024, true);
    assert_eq!(world.chunks.len() as u64, window::START);
    // It doubles with each round, up to the receiver's credit.
    let mut acknowledged = 0_usize;
    for expected in [16, 32, 64, 128, 256] {
        let sent = world.chunks.len();
        while acknowledged < sent {
            say(&mut world, ack(&[range(acknowledged as u64, acknowledged as u64)]));
            acknowledged += 1;
        }
        let under_way = world.chunks.len() - acknowledged;
        assert!((expected - expected / 20 - 2..=expected).contains(&under_way), "{expected} {under_way}");
    }
    for _ in 0..265 {
        say(&mut world, ack(&[range(acknowledged as u64, acknowledged as u64)]));
        acknowledged += 1;
    }
    let under_way = (world.chunks.len() - acknowledged) as u64;
    assert!(under_way * most <= u64::from(CREDIT) && (under_way + 2) * most > u64::from(CREDIT), "{under_way}");
    // No credit: nothing more leaves, until there is some again.
    let (before, last) = (world.chunks.len(), acknowledged as u64 + 2);
    let none = Control::Ack { transfer: 1, ranges: ChunkRanges::new(vec![range(0, last)]).unwrap(), credit: 0 };
    say(&mut world, none);
    assert_eq!((world.chunks.len(), world.sent.clone()), (before, None));
    say(&mut world, ack(&[range(0, last)]));
    assert!(world.chunks.len() > before);
}

#[test]
fn chunks_that_nobody_fetches_are_not_made_without_end() {
    let mut sender = sender::Sender::new(
        sender::Config { cores: 64, compression: Compression::Off },
        Arc::new(one_file(200 * K64)),
        &seed(1),
    );
    let now = tests::now();
    let work = |sender: &mut sender::Sender| {
        let mut made = 0;
        while let Some(job) = sender.poll_job() {
            sender.handle_job(now, run(job));
            made += 1;
        }
        made
    };
    work(&mut sender);
    sender.begin(now);
    while sender.poll_control().is_some() {}
    sender.handle_control(now, accept(vec![]));
    assert_eq!(work(&mut sender), window::START as usize);
    // A window that is wide open, and a session that takes nothing.
    while let Some((chunk, _)) = sender.poll_chunk() {
        sender.handle_control(now, ack(&[range(chunk, chunk)]));
    }
    for expected in [16, 32, 64] {
        assert_eq!(work(&mut sender), expected);
        while let Some((chunk, _)) = sender.poll_chunk() {
            sender.handle_control(now, ack(&[range(chunk, chunk)]));
        }
    }
    assert_eq!(work(&mut sender), READY);
}

#[test]
fn large_chunks_are_in_few_jobs_at_once() {
    let now = tests::now();
    let config = sender::Config { cores: 64, compression: Compression::Off };
    let source = MemorySource::new().with_entry(file("x", 8 << 30), vec![]);
    let mut sender = sender::Sender::new(config, Arc::new(source), &seed(1));
    while let Some(job) = sender.poll_job() {
        sender.handle_job(now, run(job));
    }
    sender.begin(now);
    while sender.poll_control().is_some() {}
    sender.handle_control(now, accept(vec![]));
    assert_eq!(std::iter::from_fn(|| sender.poll_job()).count(), 4);

    let contents = noise(1, 4 << 20);
    let mut receiver = accepted(64, &[64 << 20], 4 << 20).0;
    for index in 0..7 {
        receiver.handle_chunk(now, chunk(1, index, &contents, true));
    }
    assert_eq!(std::iter::from_fn(|| receiver.poll_job()).count(), 4);
}

#[test]
fn a_chunk_that_was_made_again_for_nothing_does_not_leave() {
    let mut world = sender(40, true);
    let under_way = world.chunks.len() as u64;
    world.sender.handle_all_lost(world.now);
    // Some wait to be fetched, some are in jobs, some wait to be made.
    let mut jobs: Vec<_> = std::iter::from_fn(|| world.sender.poll_job()).collect();
    assert_eq!((jobs.len(), under_way), (4, 8));
    for job in jobs.drain(..2) {
        world.sender.handle_job(world.now, run(job));
    }
    jobs.extend(std::iter::from_fn(|| world.sender.poll_job()));
    // The acknowledgement was only slow.
    world.sender.handle_control(world.now, ack(&[range(0, under_way - 1)]));
    assert_eq!(world.sender.progress().bytes, under_way * K64 as u64);
    for job in jobs {
        world.sender.handle_job(world.now, run(job));
    }
    assert!(world.sender.poll_chunk().is_none());
    // Their places are free again.
    while let Some(job) = world.sender.poll_job() {
        world.sender.handle_job(world.now, run(job));
    }
    let next: Vec<_> = std::iter::from_fn(|| world.sender.poll_chunk()).map(|(chunk, _)| chunk).collect();
    assert_eq!(next, (under_way..2 * under_way).collect::<Vec<_>>());
}

/// A receiver that was offered this by a hostile sender, in one page.
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

fn file(name: &str, size: u64) -> Entry {
    Entry { path: path(name), kind: EntryKind::File { size }, mode: 0o644, mtime: Mtime::default() }
}

fn outcome(receiver: &mut receiver::Receiver) -> Option<Outcome> {
    match receiver.poll_event() {
        Some(receiver::Event::Over(outcome)) => Some(outcome),
        Some(receiver::Event::Offered(_)) => None,
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

/// The name of the one entry of a page is at its end, so it can be written over by one that breaks a rule.
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
fn n01_to_n06_d01_an_unsafe_name_is_refused_before_anything_is_asked() {
    for (name, rule) in [
        ("../x", PathError::DotDot),
        ("..", PathError::DotDot),
        ("a/../../x", PathError::DotDot),
        ("a/..", PathError::DotDot),
        ("..\\..\\x", PathError::Backslash),
        ("/etc/cron.d/x", PathError::Absolute),
        ("C:\\x", PathError::Drive),
        ("\\\\srv\\share\\x", PathError::Absolute),
        ("file.txt:stream", PathError::Stream),
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
    let mut receiver = offered(&[file("README", 1), file("readme", 1)], |_, _| {});
    assert!(matches!(receiver.poll_control(), Some(Control::Decline { reason: DeclineReason::Policy, .. })));
    assert_eq!(
        outcome(&mut receiver),
        Some(Outcome::Refused(Refused { name: Untrusted::new("readme".to_owned()), why: Refusal::Collision }))
    );
}

#[test]
fn n08_an_unknown_kind_is_a_violation() {
    let mut receiver = offered(&[file("x", 1)], |_, page| page[2] = 0xc8);
    assert_eq!(violation(&mut receiver), Violation::UnknownEntryKind);
}

#[test]
fn p03_counts_that_are_not_true() {
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
    // Pages that go on after the last, and a second offer.
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
fn p04_sizes_that_no_disk_has() {
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
    let abandon = receiver.poll_job().unwrap();
    receiver.handle_job(now, run(abandon));
    assert_eq!((sink.stage(), sink.written(), receiver.is_closed()), (Stage::Abandoned, 0, true));

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
fn messages_that_have_no_place_in_a_receiver() {
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
fn more_than_the_credit_is_a_violation() {
    let now = tests::now();
    let contents = noise(1, 4 << 20);
    let (mut receiver, _) = accepted(2, &[64 << 20], 4 << 20);
    for index in 0..7 {
        receiver.handle_chunk(now, chunk(1, index, &contents, true));
    }
    // Stored and told, they don't count any more.
    work(&mut receiver);
    assert_eq!(receiver.progress().bytes, 28 << 20);
    assert!(receiver.poll_control().is_some());
    for index in 7..14 {
        receiver.handle_chunk(now, chunk(1, index, &contents, true));
    }
    assert!(receiver.poll_event().is_none());
    // Not told, they do: all are stored now, and one more is too much.
    work(&mut receiver);
    receiver.handle_chunk(now, chunk(1, 14, &contents, true));
    assert_eq!(violation(&mut receiver), Violation::BeyondCredit);

    // Tiny ones count too.
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
fn what_a_dead_link_brought_does_not_count_twice() {
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

#[test]
fn a_new_link_hears_of_everything_that_was_stored() {
    let now = tests::now();
    let count = 2 * 1100_u64;
    let (mut receiver, _) = receiving(&[count * (64 << 10)]);
    let contents = noise(1, K64);
    let acks = |receiver: &mut receiver::Receiver| {
        let mut stored = ranges::RangeSet::default();
        while let Some(Control::Ack { ranges, .. }) = receiver.poll_control() {
            assert_eq!(ranges::check(ranges.as_slice(), count), Ok(()));
            ranges.as_slice().iter().for_each(|range| {
                (range.first..=range.last).for_each(|chunk| {
                    stored.insert(chunk);
                })
            });
        }
        stored
    };
    // Every second chunk, so that the ranges don't fit into one message.
    for index in (0..count).step_by(2) {
        receiver.handle_chunk(now, chunk(1, index, &contents, true));
        if index % 128 == 0 {
            work(&mut receiver);
            acks(&mut receiver);
        }
    }
    work(&mut receiver);
    receiver.handle_link_up(now);
    receiver.handle_link_up(now);
    assert_eq!(acks(&mut receiver).count(), count / 2);
    assert!(receiver.poll_control().is_none());
    // All that was told counts no more: there is room for a whole credit again.
    let room = u64::from(CREDIT) / cost(K64 + HEADER + 33);
    for index in (0..2 * room).step_by(2) {
        receiver.handle_chunk(now, chunk(1, index + 1, &contents, true));
    }
    assert!(receiver.poll_event().is_none());
    receiver.handle_chunk(now, chunk(1, 2 * room + 1, &contents, true));
    assert_eq!(violation(&mut receiver), Violation::BeyondCredit);
}

#[test]
fn chunks_that_were_not_stored_count_no_more() {
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
        assert!(!matches!(receiver.poll_event(), Some(receiver::Event::Over(_))));
        assert_eq!(receiver.progress().bytes, bytes);
    }
}

#[test]
fn the_last_chunk_is_acknowledged_though_a_copy_of_it_is_still_judged() {
    let now = tests::now();
    let (mut receiver, sink) = receiving(&[10]);
    receiver.handle_chunk(now, chunk(1, 0, &[7; 10], true));
    receiver.handle_chunk(now, chunk(2, 0, &[7; 10], true));
    let jobs: Vec<_> = std::iter::from_fn(|| receiver.poll_job()).collect();
    let hash = *blake3::hash(&[7; 10]).as_bytes();
    let mut page = PageBuilder::new();
    page.push(&file("0", 10)).unwrap();
    let mut builder = super::manifest::ManifestBuilder::new(TransferKind::Files, &seed(3));
    builder.push_page(page.finish()).unwrap();
    let mut hashes = super::hashes::Hashes::new(builder.finish_with(64 << 10).unwrap().digest(), 1);
    hashes.claim(0, &hash);
    let root = hashes.root().unwrap();
    receiver.handle_control(now, Control::End { transfer: 1, chunks: 1, moved: 1, root });
    for job in jobs {
        receiver.handle_job(now, run(job));
        assert_eq!(receiver.poll_control().is_some(), receiver.progress().bytes == 10 && !receiver.is_idle());
    }
    work(&mut receiver);
    assert_eq!(receiver.poll_control(), Some(Control::Verified { transfer: 1, root }));
    assert_eq!((sink.stage(), sink.misuse()), (Stage::Finished, None));
}

#[test]
fn a_record_that_was_changed_is_reported_and_may_come_again() {
    let now = tests::now();
    let (mut receiver, sink) = receiving(&[10]);
    receiver.handle_chunk(now, chunk(5, 0, &[7; 10], false));
    work(&mut receiver);
    assert!(matches!(receiver.poll_event(), Some(receiver::Event::BadRecord(LinkId(5)))));
    receiver.handle_chunk(now, chunk(6, 0, &[7; 10], true));
    work(&mut receiver);
    assert_eq!((receiver.progress().bytes, sink.misuse()), (10, None));
    // With nothing left to do, even one chunk is acknowledged at once.
    assert_eq!(receiver.poll_control(), Some(ack(&[range(0, 0)])));
    assert_eq!(receiver.poll_control(), None);
}

#[test]
fn the_receiver_waits_for_the_farewell_and_not_for_ever() {
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
    // The person interrupts, after everything was done: it is still done.
    let mut world = verified();
    world.receiver.cancel(world.now, CancelReason::Interrupted, "");
    world.receiver.cancel(world.now + Duration::from_secs(9), CancelReason::Interrupted, "");
    assert_eq!(world.receiver.poll_timeout(), Some(world.now + INTERRUPTED));
    world.receiver.handle_timeout(world.now + INTERRUPTED);
    world.drain();
    assert!(world.receiver.is_closed() && matches!(world.received, Some(Outcome::Complete { .. })));
    // And a sender that breaks rules now changes nothing either.
    let mut world = verified();
    world.receiver.handle_control(world.now, accept(vec![]));
    world.drain();
    assert!(world.receiver.is_closed() && world.sink.stage() == Stage::Finished);
}

#[test]
fn d03_the_reason_of_the_other_side() {
    let record = |text: Reason| ControlRecord {
        sequence: 1,
        ack: 0,
        message: Control::Cancel { transfer: 1, reason: CancelReason::Io, text },
    };
    let longest = encode(&record(Reason::new(&"x".repeat(1 << 20))));
    assert!(longest.len() < 900);
    assert!(decode::<ControlRecord>(&longest).is_ok());
    // The text is the last field, its length the two bytes before it.
    let bad = |length: usize, byte: u8| {
        let mut bytes = longest[..longest.len() - Reason::MAX - 2].to_vec();
        bytes.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
        bytes.extend(vec![byte; length]);
        decode::<ControlRecord>(&bytes)
    };
    assert_eq!(bad(Reason::MAX, b'x').unwrap(), record(Reason::new(&"x".repeat(Reason::MAX))));
    assert_eq!(bad(Reason::MAX + 1, b'x'), Err(Malformed));
    assert_eq!(bad(Reason::MAX, 0xff), Err(Malformed));

    let mut world = sender(2, true);
    let text = "\x1b]52;c;ZXZpbA==\x07%s%n\u{202e}";
    say(&mut world, Control::Cancel { transfer: 1, reason: CancelReason::Io, text: Reason::new(text) });
    match world.sent {
        Some(Outcome::PeerCancelled { reason: CancelReason::Io, text }) => {
            assert_eq!(text.escaped(200), "\\u{1b}]52;c;ZXZpbA==\\u{7}%s%n\\u{202e}");
        }
        other => panic!("{other:?}"),
    }
}
