//! A sender against a receiver that violates the protocol.

use std::sync::Arc;

use super::chunk::HEADER;
use super::memory::{MemorySink, MemorySource};
use super::outgoing::READY;
use super::sender;
use super::tests::{K64, World, accept, ack, file, one_file, path, range, run, seed};
use super::window::STALE;
use super::window::{self, cost};
use super::*;
use crate::wire::peer::{
    CancelReason, ChunkRanges, Control, ControlRecord, DeclineReason, Have, Offer, Placement, Reason, TransferKind,
};
use crate::wire::{Blob, Malformed, Violation, decode, encode};

/// A sender of this many chunks; `accepted`: its offer was accepted.
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

/// A message of the hostile receiver.
fn say(world: &mut World, message: Control) {
    world.sender.handle_control(world.now, message);
    world.drain();
    while let Some(job) = world.sender_jobs.pop() {
        world.sender.handle_job(world.now, run(job));
        world.drain();
    }
}

fn sender_prints(message: Control, accepted: bool) -> Option<Outcome> {
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
fn p06_ranges_must_be_within_offered_and_sent_chunks() {
    let violation = |violation| Some(Outcome::Violation(violation));
    // Eight chunks are in flight, and 100 were offered.
    let world = sender(100, true);
    assert!(!world.chunks.is_empty());
    assert_eq!(sender_prints(ack(&[range(0, 0)]), true), None);
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
        assert_eq!(sender_prints(ack(ranges), true), violation(Violation::BadRanges), "{ranges:?}");
    }
    let have = |first, last| accept(vec![Have { range: range(first, last), digest: [0; 32] }]);
    for message in [have(0, 100), have(100, 100), have(1 << 63, 1 << 63), have(5, 4), have(0, u64::from(u32::MAX))] {
        assert_eq!(sender_prints(message, false), violation(Violation::BadRanges));
    }
    assert_eq!(sender_prints(have(0, 99), false), None);
    let other = Control::Ack { transfer: 2, ranges: ChunkRanges::default(), credit: CREDIT };
    assert_eq!(sender_prints(other, true), violation(Violation::WrongTransfer));
}

#[test]
fn p06_repeated_acks_send_nothing_twice() {
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
fn p06_chunk_is_sent_once_while_its_link_lives() {
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
fn sender_refuses_unexpected_messages() {
    let verified = Control::Verified { transfer: 1, root: [0; 32] };
    let offer = Offer { transfer: 1, kind: TransferKind::Files, chunk_size: 64 << 10, entries: 0, bytes: 0, pages: 0 };
    let placed = Control::Placement { transfer: 1, placement: Placement { renamed: 1, ..Placement::default() } };
    let out_of_turn = Some(Outcome::Violation(Violation::UnexpectedMessage));
    for (message, accepted) in [
        (accept(vec![]), true),
        (ack(&[]), false),
        (verified.clone(), false),
        (verified.clone(), true),
        (placed.clone(), false),
        (placed.clone(), true),
        (Control::Offer(offer), true),
        (Control::Page { transfer: 1, page: Blob::default() }, true),
        (Control::End { transfer: 1, chunks: 0, moved: 0, root: [0; 32] }, true),
        (Control::Bye, true),
        (Control::Decline { transfer: 1, reason: DeclineReason::Person, text: Reason::default() }, true),
    ] {
        assert_eq!(sender_prints(message.clone(), accepted), out_of_turn, "{message:?}");
    }
    // An answer to an offer that was not completely sent.
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
fn a_placement_is_reported_once() {
    let mut world = sender(2, true);
    let placed = Control::Placement { transfer: 1, placement: Placement { renamed: 1, ..Placement::default() } };
    say(&mut world, placed.clone());
    assert_eq!((world.sent.clone(), world.placements), (None, (None, None)), "only a confirmation makes them true");
    say(&mut world, placed);
    assert_eq!(world.sent, Some(Outcome::Violation(Violation::UnexpectedMessage)));
}

#[test]
fn wrong_root_does_not_confirm_transfer() {
    let mut world = sender(2, true);
    assert!(matches!(world.to_receiver.back(), Some(Control::End { .. })));
    say(&mut world, Control::Verified { transfer: 1, root: [0; 32] });
    assert_eq!(world.sent, Some(Outcome::Violation(Violation::WrongRoot)));
    assert!(!matches!(world.to_receiver.back(), Some(Control::Bye)));
}

#[test]
fn window_bounds_chunks_in_flight() {
    let most = cost(K64 + HEADER + 64);
    // The largest number of chunks before chunks become larger.
    let mut world = sender(1024, true);
    assert_eq!(world.chunks.len() as u64, window::START);
    // The window doubles with each round trip, up to the receiver's credit.
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
    // No credit: nothing more is sent until there is some again.
    let (before, last) = (world.chunks.len(), acknowledged as u64 + 2);
    let none = Control::Ack { transfer: 1, ranges: ChunkRanges::new(vec![range(0, last)]).unwrap(), credit: 0 };
    say(&mut world, none);
    assert_eq!((world.chunks.len(), world.sent.clone()), (before, None));
    say(&mut world, ack(&[range(0, last)]));
    assert!(world.chunks.len() > before);
}

#[test]
fn unfetched_chunks_are_bounded() {
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
    // The window is open, and the session takes nothing.
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
fn sender_runs_few_large_chunk_jobs_at_once() {
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
}

#[test]
fn remade_chunk_is_dropped_once_acknowledged() {
    let mut world = sender(40, true);
    let under_way = world.chunks.len() as u64;
    world.sender.handle_all_lost(world.now);
    // Some chunks wait to be taken, some are in jobs, some wait to be made.
    let mut jobs: Vec<_> = std::iter::from_fn(|| world.sender.poll_job()).collect();
    assert_eq!((jobs.len(), under_way), (4, 8));
    for job in jobs.drain(..2) {
        world.sender.handle_job(world.now, run(job));
    }
    jobs.extend(std::iter::from_fn(|| world.sender.poll_job()));
    // The acknowledgement only arrived late.
    world.sender.handle_control(world.now, ack(&[range(0, under_way - 1)]));
    assert_eq!(world.sender.progress().bytes, under_way * K64 as u64);
    for job in jobs {
        world.sender.handle_job(world.now, run(job));
    }
    assert!(world.sender.poll_chunk().is_none());
    // Their space in the window is free again.
    while let Some(job) = world.sender.poll_job() {
        world.sender.handle_job(world.now, run(job));
    }
    let next: Vec<_> = std::iter::from_fn(|| world.sender.poll_chunk()).map(|(chunk, _)| chunk).collect();
    assert_eq!(next, (under_way..2 * under_way).collect::<Vec<_>>());
}

#[test]
fn d03_peer_reason_is_bounded_and_escaped() {
    let record = |text: Reason| ControlRecord {
        sequence: 1,
        ack: 0,
        message: Control::Cancel { transfer: 1, reason: CancelReason::Io, text },
    };
    let longest = encode(&record(Reason::new(&"x".repeat(1 << 20))));
    assert!(longest.len() < 900);
    assert!(decode::<ControlRecord>(&longest).is_ok());
    // The text is the last field; its length is in the two bytes before it.
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
