//! Each machine of a stream against a peer that violates the protocol.

use std::sync::Arc;

use super::memory::{MemoryPipe, MemoryStream, Piece};
use super::tests::{MIB, chunk, done};
use super::*;
use crate::transfer::chunk::Codec;
use crate::transfer::receiver::Receiver;
use crate::transfer::sender::{self, Sender};
use crate::transfer::storage::{StreamSink, StreamSource};
use crate::transfer::tests::{noise, now, range};
use crate::transfer::{Compression, Outcome, TransferEvent};
use crate::wire::BoundedVec;
use crate::wire::Violation;
use crate::wire::peer::{ChunkRange, ChunkRanges, Control, Have, Offer, TransferKind};

fn offer(change: impl FnOnce(&mut Offer)) -> Control {
    let mut offer =
        Offer { transfer: 1, kind: TransferKind::Stream, chunk_size: CHUNK, entries: 0, bytes: 0, pages: 0 };
    change(&mut offer);
    Control::Offer(offer)
}

fn fresh() -> Receiver {
    tests::receiver()
}

/// A receiver that accepted a stream.
fn receiving() -> (Receiver, Arc<MemoryPipe>) {
    let sink = Arc::new(MemoryPipe::new());
    let mut receiver = fresh();
    receiver.handle_control(now(), offer(|_| {}));
    receiver.accept_stream(now(), Arc::<MemoryPipe>::clone(&sink) as Arc<dyn StreamSink>).unwrap();
    assert!(matches!(receiver.poll_event(), Some(TransferEvent::StreamOffered)));
    assert!(matches!(receiver.poll_control(), Some(Control::Accept { credit: HOLD, .. })));
    (receiver, sink)
}

/// Runs its jobs until there are none.
fn work(receiver: &mut Receiver) {
    while let Some(job) = receiver.poll_job() {
        receiver.handle_job(now(), done(job));
    }
}

fn violation(receiver: &mut Receiver) -> Option<Violation> {
    match receiver.poll_event() {
        Some(TransferEvent::Over(Outcome::Violation(violation))) => Some(violation),
        None => None,
        other => panic!("{other:?}"),
    }
}

fn end(chunks: u64, moved: u64, root: [u8; 32]) -> Control {
    Control::End { transfer: 1, chunks, moved, root }
}

fn root(contents: &[&[u8]]) -> [u8; 32] {
    let mut root = Root::of_stream();
    contents.iter().for_each(|contents| root.add(blake3::hash(contents).as_bytes()));
    root.finish()
}

#[test]
fn stream_offer_with_files_or_totals_is_a_violation() {
    let cases: [fn(&mut Offer); 5] = [
        |offer| offer.chunk_size = 0,
        |offer| offer.chunk_size = CHUNK + 1,
        |offer| offer.entries = 1,
        |offer| offer.bytes = 1,
        |offer| offer.pages = 1,
    ];
    for change in cases {
        let mut receiver = fresh();
        receiver.handle_control(now(), offer(change));
        assert_eq!(violation(&mut receiver), Some(Violation::BadOffer));
    }
    let mut receiver = fresh();
    receiver.handle_control(now(), offer(|offer| offer.transfer = 2));
    assert_eq!(violation(&mut receiver), Some(Violation::WrongTransfer));
    let mut receiver = fresh();
    receiver.handle_control(now(), offer(|_| {}));
    receiver.handle_chunk(now(), chunk(0, b"x", |_| {}));
    let _ = receiver.poll_event();
    assert_eq!(violation(&mut receiver), Some(Violation::UnexpectedMessage), "a chunk before it was accepted");
}

#[test]
fn invalid_stream_chunk_is_a_violation() {
    type Change = fn(&mut crate::transfer::chunk::Header);
    let cases: [(&[u8], Change, Violation); 8] = [
        (b"x", |header| header.transfer = 2, Violation::WrongTransfer),
        (b"x", |header| header.chunk = AHEAD, Violation::BadChunk),
        (b"x", |header| header.chunk = u64::MAX, Violation::BadChunk),
        (b"", |_| {}, Violation::BadChunk),
        (b"x", |header| header.length = 2, Violation::BadChunk),
        (b"x", |header| (header.length, header.codec) = (CHUNK + 1, Codec::Zstd), Violation::BadChunk),
        (b"x", |header| header.hash = [0; 32], Violation::ChunkHash),
        (b"x", |header| header.codec = Codec::Zstd, Violation::ChunkHash),
    ];
    for (contents, change, expected) in cases {
        let (mut receiver, sink) = receiving();
        receiver.handle_chunk(now(), chunk(0, contents, change));
        work(&mut receiver);
        assert_eq!(violation(&mut receiver), Some(expected));
        assert!(sink.bytes().is_empty() && receiver.is_closed() || receiver.poll_control().is_some());
    }
    let (mut receiver, _) = receiving();
    receiver.handle_chunk(now(), chunk(0, &vec![0; MIB + 1], |_| {}));
    work(&mut receiver);
    assert_eq!(violation(&mut receiver), Some(Violation::BadChunk), "longer than a chunk");
}

#[test]
fn chunks_are_written_in_order_and_copies_must_match() {
    let (mut receiver, sink) = receiving();
    for number in (1..AHEAD).rev() {
        receiver.handle_chunk(now(), chunk(number, &[number as u8; 3], |_| {}));
    }
    receiver.handle_chunk(now(), chunk(5, &[5; 3], |_| {}));
    work(&mut receiver);
    assert!(sink.bytes().is_empty() && receiver.poll_control().is_none(), "nothing is out, nothing acknowledged");
    receiver.handle_chunk(now(), chunk(0, &[0; 3], |_| {}));
    work(&mut receiver);
    assert_eq!(sink.bytes(), (0..AHEAD as u8).flat_map(|byte| [byte; 3]).collect::<Vec<_>>());
    let Some(Control::Ack { ranges, .. }) = receiver.poll_control() else { panic!() };
    assert_eq!(ranges.as_slice(), [range(0, AHEAD - 1)]);
    receiver.handle_chunk(now(), chunk(3, &[3; 3], |_| {}));
    work(&mut receiver);
    assert_eq!((violation(&mut receiver), sink.bytes().len()), (None, AHEAD as usize * 3), "the same again");
    // The limit moves with the chunks that were written.
    receiver.handle_chunk(now(), chunk(AHEAD * 2 - 1, b"x", |_| {}));
    work(&mut receiver);
    assert_eq!(violation(&mut receiver), None);
    receiver.handle_chunk(now(), chunk(3, b"xyz", |_| {}));
    work(&mut receiver);
    assert_eq!(violation(&mut receiver), Some(Violation::ChunkChanged), "after it was written");
    let (mut receiver, _) = receiving();
    receiver.handle_chunk(now(), chunk(3, b"abc", |_| {}));
    receiver.handle_chunk(now(), chunk(3, b"xyz", |_| {}));
    work(&mut receiver);
    assert_eq!(violation(&mut receiver), Some(Violation::ChunkChanged), "before it was written");
}

#[test]
fn chunks_beyond_credit_are_a_violation() {
    let contents = noise(1, MIB);
    let (mut receiver, _) = receiving();
    let mut sent = 0_u64;
    // The first chunk never arrives, so nothing is written.
    for number in 1.. {
        receiver.handle_chunk(now(), chunk(number.min(AHEAD - 1), &contents, |_| {}));
        if let Some(found) = violation(&mut receiver) {
            assert_eq!(found, Violation::BeyondCredit);
            break;
        }
        sent += MIB as u64;
        assert!(sent <= u64::from(HOLD), "never stopped");
    }
    assert!(sent > u64::from(HOLD) - 2 * u64::from(CHUNK));
}

#[test]
fn contradictory_end_is_a_violation() {
    let right = root(&[b"abc"]);
    for (message, expected) in [
        (end(1, 1, [0; 32]), Violation::WrongRoot),
        (end(1, 0, right), Violation::BadEnd),
        (end(0, 0, right), Violation::BadEnd),
    ] {
        let (mut receiver, _) = receiving();
        receiver.handle_chunk(now(), chunk(0, b"abc", |_| {}));
        work(&mut receiver);
        receiver.handle_control(now(), message);
        assert_eq!(violation(&mut receiver), Some(expected));
    }
    let (mut receiver, _) = receiving();
    receiver.handle_chunk(now(), chunk(1, b"abc", |_| {}));
    work(&mut receiver);
    receiver.handle_control(now(), end(1, 1, right));
    assert_eq!(violation(&mut receiver), Some(Violation::BadEnd), "less than is here");
    let (mut receiver, _) = receiving();
    receiver.handle_control(now(), end(1, 1, right));
    receiver.handle_control(now(), end(1, 1, right));
    assert_eq!(violation(&mut receiver), Some(Violation::BadEnd), "twice");
    let (mut receiver, _) = receiving();
    receiver.handle_control(now(), end(1, 1, right));
    receiver.handle_chunk(now(), chunk(1, b"abc", |_| {}));
    work(&mut receiver);
    assert_eq!(violation(&mut receiver), Some(Violation::BadChunk), "beyond the end");
    let (mut receiver, sink) = receiving();
    receiver.handle_control(now(), end(1, 1, right));
    receiver.handle_chunk(now(), chunk(0, b"abc", |_| {}));
    work(&mut receiver);
    assert!(matches!(receiver.poll_event(), Some(TransferEvent::Over(Outcome::Complete { .. }))));
    assert_eq!(sink.bytes(), b"abc");
}

/// A sender of a stream that was accepted, which has sent `sent` chunks.
fn sending(sent: usize) -> Sender {
    let pieces = (0..sent).map(|number| Piece::Bytes(noise(number as u64, MIB)));
    let source = Arc::new(MemoryStream::new(pieces).without_end()) as Arc<dyn StreamSource>;
    let config = sender::Config { cores: 2, compression: Compression::Off, is_strict: false };
    let mut sender = Sender::of_stream(config, source);
    sender.begin(now());
    assert!(matches!(sender.poll_control(), Some(Control::Offer(_))));
    sender.handle_control(now(), accept(vec![]));
    assert!(matches!(sender.poll_event(), Some(TransferEvent::Accepted)));
    let (at, mut left) = (now(), sent);
    while left > 0 {
        let job = sender.poll_job().unwrap();
        sender.handle_job(at, done(job));
        left -= std::iter::from_fn(|| sender.poll_chunk()).count();
    }
    sender
}

fn accept(have: Vec<Have>) -> Control {
    Control::Accept { transfer: 1, have: BoundedVec::new(have).unwrap(), credit: HOLD }
}

fn ack(ranges: &[ChunkRange]) -> Control {
    Control::Ack { transfer: 1, ranges: ChunkRanges::new(ranges.to_vec()).unwrap(), credit: HOLD }
}

fn told(sender: &mut Sender) -> Option<Violation> {
    match sender.poll_event() {
        Some(TransferEvent::Over(Outcome::Violation(violation))) => Some(violation),
        None => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn acks_must_cover_sent_chunks_from_the_first() {
    for (ranges, expected) in [
        (&[range(0, 3)][..], Some(Violation::BadRanges)),
        (&[range(1, 2)], Some(Violation::BadRanges)),
        (&[range(0, 0), range(2, 2)], Some(Violation::BadRanges)),
        (&[range(0, u64::MAX)], Some(Violation::BadRanges)),
        (&[range(0, 2)], None),
        (&[range(0, 0)], None),
        (&[], None),
    ] {
        let mut sender = sending(3);
        sender.handle_control(now(), ack(ranges));
        assert_eq!(told(&mut sender), expected, "{ranges:?}");
    }
    let mut sender = sending(2);
    for _ in 0..=crate::transfer::window::STALE + 1 {
        sender.handle_control(now(), ack(&[range(0, 0)]));
    }
    assert_eq!(told(&mut sender), Some(Violation::Repeats));
}

#[test]
fn stream_receiver_may_not_have_chunks_or_verify_early() {
    let source = Arc::new(MemoryStream::default()) as Arc<dyn StreamSource>;
    let config = sender::Config { cores: 2, compression: Compression::Off, is_strict: false };
    let mut sender = Sender::of_stream(config, source);
    sender.begin(now());
    sender.handle_control(now(), accept(vec![]));
    assert_eq!(told(&mut sender), Some(Violation::UnexpectedMessage), "before the offer left");

    let source = Arc::new(MemoryStream::default()) as Arc<dyn StreamSource>;
    let mut sender = Sender::of_stream(config, source);
    sender.begin(now());
    let _ = sender.poll_control();
    sender.handle_control(now(), accept(vec![Have { range: range(0, 0), digest: [0; 32] }]));
    assert_eq!(told(&mut sender), Some(Violation::BadRanges));

    let mut sender = sending(1);
    sender.handle_control(now(), Control::Verified { transfer: 1, root: [0; 32] });
    assert_eq!(told(&mut sender), Some(Violation::UnexpectedMessage));

    let source = Arc::new(MemoryStream::default()) as Arc<dyn StreamSource>;
    let mut sender = Sender::of_stream(config, source);
    sender.begin(now());
    let _ = sender.poll_control();
    sender.handle_control(now(), accept(vec![]));
    let _ = sender.poll_event();
    let job = sender.poll_job().unwrap();
    sender.handle_job(now(), done(job));
    assert!(matches!(sender.poll_control(), Some(Control::End { chunks: 0, moved: 0, .. })));
    sender.handle_control(now(), Control::Verified { transfer: 1, root: [0; 32] });
    assert_eq!(told(&mut sender), Some(Violation::WrongRoot));
}
