#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use proptest::prelude::*;

use super::super::record::tests::{nonces_seen, watch_nonces};
use super::super::record::{TAG, plain_control};
use super::*;
use crate::wire::peer::Control;
use crate::wire::{Caps, Decoder};

const BIG: Limits = Limits { records: 1 << 32, bytes: 256 << 30 };

/// One direction between two peers.
struct Direction {
    now: Instant,
    sealing: Sealing,
    out: OutStreams,
    opening: Opening,
}

fn direction(key: u8, limits: Limits) -> Direction {
    let (key, suite) = (|| RecordKey::new([key; 32]), Suite::Aes256Gcm);
    Direction {
        now: Instant::now(),
        sealing: Sealing::new(key(), suite, limits),
        out: OutStreams::new(3),
        opening: Opening::new(key(), suite),
    }
}

impl Direction {
    fn control(&mut self, n: u64) -> Bytes {
        let plain = plain_control(&(n, 0_u64, Control::Bye)).unwrap();
        self.out.seal_control(self.now, &mut self.sealing, plain).unwrap().slice(PREFIX..)
    }

    /// The bodies of the frames for a chunk.
    fn chunk(&mut self, stream: u8, plain: &[u8]) -> Vec<Bytes> {
        let mut chunk = Prepared::with_capacity(plain.len());
        chunk.extend_from_slice(plain);
        let opener = || plain_control(&(0_u64, 0_u64, Control::Sync));
        let frames = self.out.seal_chunk(self.now, &mut self.sealing, stream, chunk, opener).unwrap();
        let mut decoder = Decoder::new(Caps::Records);
        decoder.push(frames);
        std::iter::from_fn(|| decoder.next_frame().unwrap().map(Frame::into_bytes)).collect()
    }

    fn accept(&mut self, stream: &mut InStream, body: &Bytes) -> Result<Vec<u8>, Violation> {
        match stream.accept(&mut self.opening, body.clone().into())? {
            Accepted::Control(plain) => Ok(plain.to_vec()),
            Accepted::Chunk { key, header, frame } => Ok(open_frame(&key, header, frame)?.to_vec()),
        }
    }
}

fn header(body: &Bytes) -> Header {
    Header::parse(&body.clone().into()).unwrap()
}

#[test]
fn records_are_numbered_from_zero_and_lanes_over_all_streams() {
    let mut way = direction(1, BIG);
    let mut records = vec![way.control(1), way.control(2)];
    for stream in [2, 1, 2, 0] {
        records.extend(way.chunk(stream, b"plain"));
    }
    use Kind::{Chunk, Control};
    let headers: Vec<_> = records.iter().map(header).map(|head| (head.kind, head.lane, head.number)).collect();
    let expected = [(Control, 0, 0), (Control, 0, 1), (Control, 1, 0), (Chunk, 1, 1), (Control, 2, 0), (Chunk, 2, 1)];
    assert_eq!(headers, [&expected[..], &[(Chunk, 1, 2), (Chunk, 0, 2)]].concat());
}

/// Six records of one stream, control and chunks.
fn six(way: &mut Direction) -> Vec<Bytes> {
    let mut records = vec![way.control(1), way.control(2)];
    for n in [1, 2, 3] {
        records.extend(way.chunk(0, &[n; 100]));
    }
    records.push(way.control(3));
    records
}

#[test]
fn x07_a_lane_detects_a_lost_or_replayed_record_at_once() {
    let count = six(&mut direction(1, BIG)).len();
    type Change = fn(&mut Vec<Bytes>, usize);
    let changes: [(&str, Change); 4] = [
        ("drop", |records, at| drop(records.remove(at))),
        ("double", |records, at| records.insert(at, records[at].clone())),
        ("swap", |records, at| records.swap(at, at + 1)),
        ("replay at the end", |records, at| records.push(records[at].clone())),
    ];
    for (name, change) in changes {
        for at in 0..count {
            if at + 1 == count && ["drop", "swap"].contains(&name) {
                continue; // Nothing follows it: a higher layer authenticates the end of a transfer.
            }
            let mut way = direction(1, BIG);
            let good = six(&mut way);
            let mut bad = good.clone();
            change(&mut bad, at);
            let mut stream = InStream::default();
            let outcome: Vec<_> = bad.iter().map(|body| way.accept(&mut stream, body)).collect();
            let refused =
                outcome.iter().position(Result::is_err).unwrap_or_else(|| panic!("{name} {at} was not detected"));
            assert_eq!(bad[..refused], good[..refused], "{name} {at}: not the first wrong record");
            assert_ne!(bad.get(refused), good.get(refused), "{name} {at}");
            assert!(matches!(outcome[refused], Err(Violation::RecordOrder | Violation::LaneReused)), "{name} {at}");
        }
    }
}

#[test]
fn refused_record_changes_no_state() {
    let mut way = direction(1, BIG);
    let records = six(&mut way);
    let mut stream = InStream::default();
    for body in &records {
        for other in &records {
            if header(other).number != header(body).number {
                assert!(way.accept(&mut stream, other).is_err());
            }
        }
        assert!(way.accept(&mut stream, body).is_ok(), "the correct record is still accepted");
    }
}

#[test]
fn a_record_moved_to_another_stream_or_direction_is_refused() {
    let mut way = direction(1, BIG);
    let (first, second) = (way.chunk(1, b"one"), way.chunk(2, b"two"));
    let (mut one, mut two) = (InStream::default(), InStream::default());
    assert!(way.accept(&mut one, &first[0]).is_ok());
    assert!(way.accept(&mut two, &second[0]).is_ok());
    assert_eq!(way.accept(&mut two, &first[1]), Err(Violation::LaneStart), "a chunk of another stream's lane");
    assert_eq!(way.accept(&mut two, &first[0]), Err(Violation::LaneReused));
    let mut on_another_link = InStream::default();
    assert_eq!(way.accept(&mut on_another_link, &first[0]), Err(Violation::LaneReused));
    let mut back = direction(2, BIG);
    let mut stream = InStream::default();
    assert_eq!(back.accept(&mut stream, &first[0]), Err(Violation::BadRecord), "an echo");
}

#[test]
fn a_lane_begins_with_a_control_record_that_opens() {
    let mut way = direction(1, BIG);
    let records = way.chunk(1, b"one");
    let mut stream = InStream::default();
    assert_eq!(way.accept(&mut stream, &records[1]), Err(Violation::LaneStart));
    // A genuine chunk with number 0, whose plaintext is that of a control record.
    let mut chunk = plain_control(&(0_u64, 0_u64, Control::Sync)).unwrap();
    let key = LaneKey::new(&RecordKey::new([1; 32]), Suite::Aes256Gcm, 9).unwrap();
    seal_frame(&key, Header { kind: Kind::Chunk, lane: 9, number: 0 }, &mut chunk, 0).unwrap();
    assert_eq!(way.accept(&mut stream, &chunk.freeze().slice(PREFIX..)), Err(Violation::LaneStart));
    let mut forged = records[0].to_vec();
    forged[20] ^= 1;
    assert_eq!(way.accept(&mut stream, &forged.into()), Err(Violation::BadRecord));
    // The forged header did not use up a lane id.
    assert!(way.accept(&mut stream, &records[0]).is_ok());
    assert_eq!(way.accept(&mut stream, &records[1]).unwrap(), b"one");
}

#[test]
fn stream_starts_new_lane_after_record_limit() {
    watch_nonces();
    let limits = Limits { records: 5, bytes: u64::MAX };
    let (mut way, mut stream) = (direction(1, limits), InStream::default());
    let (mut lanes, mut sealed) = (BTreeSet::new(), 0);
    for n in 0..40_u64 {
        let records = if n % 3 == 0 { vec![way.control(n)] } else { way.chunk(0, &[n as u8; 10]) };
        for body in records {
            sealed += 1;
            assert!(header(&body).number < 5);
            lanes.insert(header(&body).lane);
            way.accept(&mut stream, &body).unwrap();
        }
    }
    assert_eq!(lanes, (0..lanes.len() as u32).collect());
    assert_eq!(lanes.len(), usize::div_ceil(sealed, 5));
    assert_eq!(nonces_seen(), sealed);
}

#[test]
fn stream_starts_new_lane_after_byte_limit() {
    let (mut way, mut stream) = (direction(1, Limits { records: u64::MAX, bytes: 2500 }), InStream::default());
    let mut lanes = Vec::new();
    for _ in 0..7 {
        for body in way.chunk(1, &[0; 1000]) {
            lanes.push(header(&body).lane);
            way.accept(&mut stream, &body).unwrap();
        }
    }
    assert_eq!(lanes, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2], "an opener and three chunks in each");
}

#[test]
fn the_last_lane_has_no_successor() {
    let mut way = direction(1, Limits { records: 2, bytes: u64::MAX });
    way.sealing.skip_to(u32::MAX);
    let records = way.chunk(1, b"last");
    assert_eq!((records.len(), header(&records[1]).lane), (2, u32::MAX));
    let chunk = Prepared::zeroed(3);
    let refused =
        way.out.seal_chunk(way.now, &mut way.sealing, 1, chunk, || plain_control(&(0_u64, 0_u64, Control::Sync)));
    assert_eq!(refused.unwrap_err().body(), [0; 3], "the chunk is returned unchanged");
    let plain = plain_control(&(0_u64, 0_u64, Control::Sync)).unwrap();
    assert!(way.out.seal_control(way.now, &mut way.sealing, plain).is_none());
    let mut stream = InStream::default();
    assert!(records.iter().all(|body| way.accept(&mut stream, body).is_ok()));
    assert_eq!(way.accept(&mut InStream::default(), &records[0]), Err(Violation::LaneReused));
}

fn count(lane: u32, records: u64, partial: u32) -> LaneCount {
    LaneCount { lane, records, partial }
}

#[test]
fn a_lane_stalls_while_undelivered_records_make_no_progress() {
    let mut way = direction(1, BIG);
    let start = way.now;
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(way.out.stalls_at(), None, "nothing was sent");
    way.control(1);
    way.now = at(10);
    way.control(2);
    assert_eq!(way.out.stalls_at(), Some(at(30)), "since the first of them");
    way.out.handle_counts(at(12), &[count(0, 1, 0)]).unwrap();
    assert_eq!(way.out.stalls_at(), Some(at(42)));
    way.out.handle_counts(at(20), &[count(0, 1, 0), count(9, 9, 9)]).unwrap();
    assert_eq!(way.out.stalls_at(), Some(at(42)), "it did not move");
    way.out.handle_counts(at(21), &[count(0, 1, 1)]).unwrap();
    assert_eq!(way.out.stalls_at(), Some(at(51)), "a part of the next record arrived");
    way.out.handle_counts(at(22), &[count(0, 2, 0)]).unwrap();
    assert_eq!(way.out.stalls_at(), None, "all is delivered");
    way.out.handle_counts(at(22), &[count(0, 1, 1)]).unwrap();
    assert_eq!(way.out.stalls_at(), None, "an older report");
    way.now = at(40);
    way.chunk(1, b"chunk");
    way.now = at(41);
    way.control(3);
    assert_eq!(way.out.stalls_at(), Some(at(70)), "each lane by itself, the earliest counts");
    way.out.restart_stall(at(50));
    assert_eq!(way.out.stalls_at(), Some(at(80)));
    assert_eq!(way.out.handle_counts(at(50), &[count(1, 3, 0)]), Err(Violation::CountedUnsent));
}

#[test]
fn new_lane_inherits_stall_time_of_old_lane() {
    let mut way = direction(1, Limits { records: 2, bytes: u64::MAX });
    let start = way.now;
    for n in 0..3 {
        way.control(n);
        way.now += Duration::from_secs(1);
    }
    assert_eq!(way.out.stalls_at(), Some(start + LANE_STALL));
}

#[test]
fn partial_record_counts_as_received_every_64_kib() {
    let mut way = direction(1, BIG);
    let records = way.chunk(1, &[0; 300_000]);
    let mut stream = InStream::default();
    assert_eq!(counts([&stream].into_iter()), BoundedVec::default(), "no lane yet");
    way.accept(&mut stream, &records[0]).unwrap();
    let heard: Vec<_> = [10, 65_535, 65_536, 131_000, 131_072, 262_144].map(|len| stream.handle_progress(len)).into();
    assert_eq!(heard, [false, false, true, false, true, true]);
    assert_eq!(counts([&stream].into_iter()).as_slice(), [count(0, 1, 262_144)]);
    way.accept(&mut stream, &records[1]).unwrap();
    assert_eq!(counts([&stream].into_iter()).as_slice(), [count(0, 2, 0)]);
    assert!(!stream.handle_progress(65_535), "the next record counts from its own start");
    assert!(stream.handle_progress(65_536));
}

#[test]
fn lanes_seen_in_order_are_stored_as_one_number() {
    let mut seen = SeenLanes::new();
    for lane in 0..10_000 {
        assert!(!seen.contains(lane));
        seen.insert(lane);
        assert!(seen.contains(lane) && seen.above.is_empty());
    }
    seen.insert(u32::MAX);
    assert!(seen.contains(u32::MAX) && !seen.contains(u32::MAX - 1) && !seen.contains(10_000));
}

proptest! {
    #[test]
    fn used_lane_is_never_accepted_again(lanes in prop::collection::vec(0..4000_u32, 0..3000)) {
        let (mut seen, mut inserted) = (SeenLanes::new(), BTreeSet::new());
        for lane in lanes {
            prop_assert!(seen.contains(lane) || !inserted.contains(&lane));
            if !seen.contains(lane) {
                seen.insert(lane);
                inserted.insert(lane);
            } else if inserted.len() <= SCATTERED {
                prop_assert!(inserted.contains(&lane), "refused without need");
            }
            prop_assert!(seen.above.len() <= SCATTERED);
        }
    }

    #[test]
    fn no_frame_makes_a_stream_panic(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
        good in any::<bool>(),
    ) {
        let (mut way, mut stream) = (direction(1, BIG), InStream::default());
        if good {
            let first = way.control(1);
            way.accept(&mut stream, &first).unwrap();
        }
        for mut body in bodies {
            if let Some(kind) = body.first_mut() { *kind &= 1; }
            if good && body.len() > TAG + 13 { body[1..13].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]); }
            prop_assert!(way.accept(&mut stream, &body.into()).is_err());
        }
    }
}
