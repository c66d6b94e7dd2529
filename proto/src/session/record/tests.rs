use std::cell::RefCell;
use std::collections::BTreeSet;

use super::*;
use crate::wire::peer::{Control, ControlRecord};
use crate::wire::{BoundedVec, encode};

/// Keys, and the nonces with which they sealed records.
type Sealed = BTreeSet<([u8; 32], [u8; HEADER - 1])>;

thread_local! {
    /// Every (key, nonce) that sealed a record on this thread, once recording is enabled.
    static SEALED: RefCell<Option<Sealed>> = const { RefCell::new(None) };
}

/// From now on, the same key and nonce must not seal twice on this thread.
pub(in crate::session) fn watch_nonces() {
    SEALED.set(Some(Sealed::new()));
}

/// How many records were sealed since [`watch_nonces`].
pub(in crate::session) fn nonces_seen() -> usize {
    SEALED.with_borrow(|sealed| sealed.as_ref().map_or(0, Sealed::len))
}

pub(super) fn note_sealing(key: &LaneKey, header: Header) {
    SEALED.with_borrow_mut(|sealed| {
        if let Some(sealed) = sealed {
            let [_, nonce @ ..] = header.to_bytes();
            assert!(sealed.insert((key.bytes, nonce)), "nonce used twice: {header:?}");
        }
    });
}

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
const HEAD: Header = Header { kind: Kind::Chunk, lane: 0x0102_0304, number: 0x0506_0708_090a_0b0c };

fn key(suite: Suite) -> Arc<LaneKey> {
    Arc::new(LaneKey::new(&RecordKey::new([7; 32]), suite, HEAD.lane).unwrap())
}

fn prepared(plain: &[u8]) -> Prepared {
    let mut chunk = Prepared::with_capacity(plain.len());
    chunk.extend_from_slice(plain);
    chunk
}

fn body_of(mut frame: Bytes) -> Bytes {
    assert_eq!(frame.get_u32() as usize, frame.len());
    frame
}

fn arrived(key: &Arc<LaneKey>, body: Bytes) -> SealedChunk {
    SealedChunk { link: LinkId(1), key: Arc::clone(key), header: HEAD, frame: body.into() }
}

#[test]
fn record_layout_matches_protocol() {
    for suite in SUITES {
        let body = body_of(prepared(b"hello").seal(&key(suite), HEAD, &[]).unwrap());
        assert_eq!(body.len(), HEADER + 5 + TAG);
        assert_eq!(body[..HEADER], [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(Header::parse(&body.clone().into()), Ok(HEAD));
        assert_eq!(arrived(&key(suite), body).open().content.unwrap(), "hello");
    }
}

#[test]
fn chunk_is_sealed_and_opened_in_place() {
    let key = key(Suite::Aes256Gcm);
    for opener in [&[][..], &[9; OPENER]] {
        let chunk = prepared(&[5; 100_000]);
        assert!(chunk.buffer.capacity() - chunk.buffer.len() >= TAG, "no room for the tag");
        let plain_at = chunk.body().as_ptr();
        let frame = chunk.seal(&key, HEAD, opener).unwrap();
        assert_eq!(frame.len(), opener.len() + HEADROOM + 100_000 + TAG);
        assert_eq!(frame[..opener.len()], *opener);
        let body = body_of(frame.slice(opener.len()..));
        assert_eq!(body[HEADER..].as_ptr(), plain_at, "sealing copied");
        // As it arrives: in one piece without another reference.
        let body = Bytes::from(body.to_vec());
        let plain_at = body[HEADER..].as_ptr();
        let plain = arrived(&key, body).open().content.unwrap();
        assert_eq!(plain.as_ptr(), plain_at, "opening copied");
        assert!(plain.iter().all(|&byte| byte == 5) && plain.len() == 100_000);
    }
}

#[test]
fn lent_buffer_returns_once_record_is_sent_or_dropped() {
    let (key, pool) = (key(Suite::Aes256Gcm), Arc::new(Pool::default()));
    let mut chunk = Prepared::lent(&pool, 100_000);
    chunk.body_mut().fill(5);
    let at = chunk.body().as_ptr();
    let frame = chunk.seal(&key, HEAD, &[]).unwrap();
    let plain = arrived(&key, body_of(frame.clone())).open().content.unwrap();
    assert!(plain.iter().all(|&byte| byte == 5) && plain.len() == 100_000);
    assert_eq!(pool.idle(), 0);
    drop(frame);
    assert!(pool.idle() > 0);
    let chunk = Prepared::lent(&pool, 100_000);
    assert_eq!((chunk.body().as_ptr(), chunk.len(), pool.idle()), (at, 100_000, 0), "it is used again");
    drop(chunk);
    assert!(pool.idle() > 0);
}

#[test]
fn buffer_of_opened_record_returns_to_pool() {
    let (key, pool) = (key(Suite::Aes256Gcm), Pool::default());
    let frame = prepared(&[5; 100_000]).seal(&key, HEAD, &[]).unwrap();
    let body = Bytes::from(frame[PREFIX..].to_vec());
    let at = body.as_ptr();
    let looked = arrived(&key, body).open_with(&pool, |plain| (plain.as_ptr(), plain.len(), plain[99_999])).content;
    assert_eq!(looked, Some((at.wrapping_add(HEADER), 100_000, 5)), "opened in place");
    assert!(pool.idle() >= 100_000);
    // The bytes are shared, so they are copied into that buffer.
    let (second, body) = (body_of(frame.clone()), body_of(frame));
    let looked = arrived(&key, body).open_with(&pool, |plain| (plain.as_ptr(), plain[0])).content;
    assert_eq!(looked, Some((at.wrapping_add(HEADER), 5)));
    let mut changed = second.to_vec();
    changed[HEADER] ^= 1;
    let idle = pool.idle();
    assert_eq!(arrived(&key, changed.into()).open_with(&pool, <[u8]>::len).content, None);
    assert!(pool.idle() > idle, "also when it was not genuine");
}

#[test]
fn a_record_in_pieces_or_in_shared_memory_opens_too() {
    let key = key(Suite::ChaCha20Poly1305);
    let plain: Vec<u8> = (0..5000_u32).map(|n| n as u8).collect();
    let frame = prepared(&plain).seal(&key, HEAD, &[]).unwrap();
    let mut decoder = crate::wire::Decoder::new(crate::wire::Caps::Records);
    for piece in frame.chunks(700) {
        decoder.push(Bytes::copy_from_slice(piece));
    }
    let pieces = decoder.next_frame().unwrap().unwrap();
    let in_pieces = SealedChunk { link: LinkId(1), key: Arc::clone(&key), header: HEAD, frame: pieces };
    assert_eq!((in_pieces.len(), in_pieces.plain_len()), (frame.len(), plain.len()));
    assert_eq!(in_pieces.open().content.unwrap(), plain);
    assert_eq!(arrived(&key, body_of(frame.clone())).open().content.unwrap(), plain);
    assert_eq!(arrived(&key, body_of(frame)).open().content.unwrap(), plain, "the shared bytes were not written to");
}

#[test]
fn prepared_chunk_length_excludes_overhead() {
    let mut chunk = Prepared::zeroed(10);
    assert_eq!((chunk.len(), chunk.is_empty(), chunk.body()), (10, false, &[0; 10][..]));
    chunk.body_mut().copy_from_slice(b"0123456789");
    chunk.truncate(20);
    chunk.truncate(3);
    assert_eq!(chunk.body(), b"012");
    chunk.truncate(0);
    assert!(chunk.is_empty());
    // More bytes than the capacity: the buffer is reallocated, and sealing still works.
    chunk.extend_from_slice(&[1; 1000]);
    let (key, wire_len) = (key(Suite::Aes256Gcm), chunk.wire_len());
    let frame = chunk.seal(&key, HEAD, &[]).unwrap();
    assert_eq!(frame.len(), wire_len);
    let sealed = arrived(&key, body_of(frame));
    assert_eq!(sealed.len(), wire_len);
    assert_eq!(sealed.open().content.unwrap(), vec![1; 1000]);
}

#[test]
fn oversized_opener_leaves_chunk_unchanged() {
    let chunk = prepared(b"hello").seal(&key(Suite::Aes256Gcm), HEAD, &[0; OPENER + 1]).unwrap_err();
    assert_eq!(chunk.body(), b"hello");
}

#[test]
fn every_changed_bit_or_length_is_detected() {
    for suite in SUITES {
        let key = key(suite);
        let body = body_of(prepared(b"some plaintext").seal(&key, HEAD, &[]).unwrap());
        let judge = |body: &[u8]| {
            let frame = Frame::from(Bytes::copy_from_slice(body));
            let header = Header::parse(&frame)?;
            open_frame(&key, header, frame)
        };
        assert!(judge(&body).is_ok());
        for at in 0..body.len() * 8 {
            let mut flipped = body.to_vec();
            flipped[at / 8] ^= 1 << (at % 8);
            let expected = if (1..8).contains(&at) { Violation::UnknownKind } else { Violation::BadRecord };
            assert_eq!(judge(&flipped), Err(expected), "bit {at}");
        }
        for len in 0..body.len() {
            let expected = if len < HEADER + TAG { Violation::RecordTooShort } else { Violation::BadRecord };
            assert_eq!(judge(&body[..len]), Err(expected), "{len} bytes");
        }
        assert_eq!(judge(&[&body[..], &[0]].concat()), Err(Violation::BadRecord));
    }
}

#[test]
fn each_lane_and_suite_has_its_own_key() {
    let record_key = RecordKey::new([7; 32]);
    for suite in SUITES {
        let body = body_of(prepared(b"hello").seal(&key(suite), HEAD, &[]).unwrap());
        for (lane, other) in [(HEAD.lane + 1, suite), (HEAD.lane, SUITES[usize::from(suite == SUITES[0])])] {
            let key = Arc::new(LaneKey::new(&record_key, other, lane).unwrap());
            assert_eq!(arrived(&key, body.clone()).open().content, None);
        }
        assert!(arrived(&key(suite), body).open().verdict.is_genuine);
    }
}

#[test]
fn a_control_record_is_encoded_without_a_second_buffer() {
    let message = Control::End { transfer: 3, chunks: 300, moved: u64::MAX, root: [4; 32] };
    let record = ControlRecord { sequence: 1000, ack: 70_000, message };
    let plain = plain_control(&(record.sequence, record.ack, &record.message)).unwrap();
    assert_eq!(plain[..HEADROOM], [0; HEADROOM]);
    assert_eq!(plain[HEADROOM..], encode(&record));
    assert!(plain.capacity() - plain.len() >= TAG);
}

#[test]
fn a_lane_opener_fits_before_a_chunk() {
    let longest = Control::KeepAlive { lanes: BoundedVec::default(), reading: true };
    let mut frame = plain_control(&(0_u64, u64::MAX, longest)).unwrap();
    seal_frame(&key(Suite::Aes256Gcm), HEAD, &mut frame, 0).unwrap();
    assert!(frame.len() <= OPENER, "{}", frame.len());
}

#[test]
fn secrets_are_not_shown() {
    let key = key(Suite::Aes256Gcm);
    let shown = format!("{key:?} {:?} {:?}", prepared(b"secret"), arrived(&key, Bytes::from_static(&[0; 40])));
    assert!(!shown.contains("secret") && shown.contains("***"), "{shown}");
}
