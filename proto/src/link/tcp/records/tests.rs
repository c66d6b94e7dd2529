use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{Event, SocketAction, TcpLink, Windows};
use super::*;
use crate::Instant;
use crate::link::Read;
use crate::link::buffers::MAX_READ;
use crate::wire::Violation;
use crate::wire::frame::{CONTROL, KIND_CONTROL, enclose};
use crate::wire::{Caps, Decoder};

/// The body of a record.
fn body(kind: u8, len: usize, salt: u8) -> Vec<u8> {
    let mut body: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(salt)).collect();
    body[0] = kind;
    body
}

fn head(len: usize, kind: u8) -> Vec<u8> {
    [&u32::try_from(len).unwrap().to_be_bytes()[..], &[kind]].concat()
}

/// One end of the link, and the data that its owner read.
struct End {
    now: Instant,
    tcp: TcpLink,
    pool: Arc<Pool>,
    decoder: Decoder,
    frames: Vec<Vec<u8>>,
    pieces: Vec<Bytes>,
}

impl End {
    fn new() -> Self {
        let now = Instant::now();
        let tcp = TcpLink::plain(now, Windows::direct());
        let decoder = Decoder::new(Caps::Records);
        Self { now, tcp, pool: Arc::default(), decoder, frames: Vec::new(), pieces: Vec::new() }
    }

    fn proven() -> Self {
        let mut end = Self::new();
        end.tcp.assemble(Arc::clone(&end.pool));
        end
    }

    /// One read of the socket; returns how many bytes it took.
    fn read(&mut self, bytes: &[u8]) -> usize {
        let room = self.tcp.read_buffer();
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.tcp.handle_filled(self.now, count);
        count
    }

    fn read_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.read(bytes);
            assert!(count > 0, "no room");
            bytes = &bytes[count..];
        }
    }

    fn take(&mut self) -> Result<(), Violation> {
        while let Read::Data(piece) = self.tcp.read() {
            self.pieces.push(piece.clone());
            self.decoder.push(piece);
        }
        while let Some(frame) = self.decoder.next_frame()? {
            self.frames.push(frame.into_bytes().to_vec());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn records_give_the_same_frames_for_any_split_of_the_input(
        records in prop::collection::vec(prop_oneof![
            3 => (Just(KIND_CONTROL), 1..3000_usize),
            1 => (Just(KIND_CHUNK), 1..5000_usize),
            3 => (Just(KIND_CHUNK), (LEAST - 3)..(LEAST * 3)),
            1 => (Just(KIND_CHUNK), (LEAST - 1)..=(LEAST + 1)),
        ], 1..10),
        cuts in prop::collection::vec(prop_oneof![1..9_usize, 1..5000_usize, 60_000..300_000_usize], 1..60),
        proven_at in 0..20_usize,
        reads in prop::collection::vec(any::<bool>(), 60),
    ) {
        let bodies: Vec<Vec<u8>> =
            records.iter().zip(0..).map(|(&(kind, len), salt)| body(kind, len, salt)).collect();
        let stream: Vec<u8> = bodies.iter().flat_map(|body| enclose(body)).collect();
        let mut end = End::new();
        let mut rest = stream.as_slice();
        for (turn, cut) in cuts.into_iter().enumerate() {
            if turn == proven_at {
                end.tcp.assemble(Arc::clone(&end.pool));
            }
            let count = end.read(&rest[..cut.min(rest.len())]);
            rest = &rest[count..];
            if reads[turn] {
                end.take().unwrap();
                let here = end.frames.iter().map(|body| body.len() + PREFIX).sum::<usize>();
                let unfinished = end.decoder.buffered() + end.tcp.assembling();
                prop_assert_eq!(here + unfinished, stream.len() - rest.len(), "the progress is reported");
            }
        }
        end.read_all(rest);
        end.take().unwrap();
        prop_assert_eq!(end.frames, bodies);
        prop_assert_eq!((end.decoder.buffered(), end.tcp.assembling()), (0, 0));
    }

    #[test]
    fn records_neither_panic_nor_lose_nor_hoard_bytes(
        pieces in prop::collection::vec(prop_oneof![
            2 => prop::collection::vec(any::<u8>(), 0..300),
            1 => prop::collection::vec(0..3_u8, 0..30),
            1 => (0..CHUNK + 3, 0..3_u8).prop_map(|(len, kind)| head(len, kind)),
        ], 0..30),
    ) {
        let mut end = End::proven();
        for piece in &pieces {
            end.read_all(piece);
            prop_assert!(end.tcp.read_buffer().len() <= CHUNK + BEHIND);
            let _ = end.take();
        }
        let (sent, got) = (pieces.concat(), end.pieces.concat());
        prop_assert_eq!(&sent[..got.len()], &got);
        prop_assert_eq!(sent.len() - got.len(), end.tcp.assembling());
    }
}

#[test]
fn long_record_is_read_into_its_final_buffer() {
    let mut end = End::proven();
    let (long, short) = (body(KIND_CHUNK, 1 << 20, 1), body(KIND_CONTROL, 100, 2));
    let stream = [enclose(&short), enclose(&long), enclose(&short), enclose(&long)].concat();
    let mut rest = stream.as_slice();
    let (mut calls, mut rooms) = (0, VecDeque::new());
    while !rest.is_empty() {
        let room = end.tcp.read_buffer();
        if room.len() > MAX_READ {
            rooms.push_back((room.as_ptr(), room.len()));
        }
        rest = &rest[end.read(rest)..];
        calls += 1;
    }
    assert_eq!(calls, 3, "the bytes before the first record, and each record with the bytes after it");
    end.take().unwrap();
    assert_eq!(end.frames, [&short, &long, &short, &long].map(Vec::clone));
    let whole: Vec<&Bytes> = end.pieces.iter().filter(|piece| piece.len() == long.len()).collect();
    assert_eq!(whole.len(), 2, "in one piece");
    for (piece, (at, len)) in whole.into_iter().zip(rooms) {
        // The bytes that arrived before the call were copied.
        assert_eq!(piece.as_ptr().wrapping_add(piece.len() + BEHIND - len), at);
        assert!(piece.len() + BEHIND - len <= BEHIND);
    }
    // No other reference to the buffers exists now.
    let unique = |piece: Bytes| piece.try_into_mut().map(|buffer| end.pool.put(buffer)).is_ok();
    assert_eq!(std::mem::take(&mut end.pieces).into_iter().map(unique).filter(|unique| *unique).count(), 4);
    assert!(end.pool.idle() >= 2 << 20);
}

#[test]
fn an_unproven_link_takes_no_memory_for_a_claimed_length() {
    let mut end = End::new();
    end.pool.put(BytesMut::zeroed(CHUNK));
    let idle = end.pool.idle();
    end.read_all(&head(CHUNK, KIND_CHUNK));
    assert!(end.tcp.read_buffer().len() <= MAX_READ);
    end.take().unwrap();
    assert_eq!((end.decoder.buffered(), end.tcp.assembling()), (PREFIX + 1, 0), "the owner has read all of it");
    // A record that began before the call is passed on as it arrives.
    end.tcp.assemble(Arc::clone(&end.pool));
    end.read_all(&[7; 3000]);
    assert!(end.tcp.read_buffer().len() <= MAX_READ);
    assert_eq!((end.pool.idle(), end.tcp.assembling()), (idle, 0));
}

#[test]
fn proven_link_holds_at_most_one_record() {
    let mut end = End::proven();
    end.read_all(&head(CHUNK, KIND_CHUNK));
    assert_eq!(end.tcp.read_buffer().len(), CHUNK - 1 + BEHIND);
    assert_eq!(end.tcp.assembling(), 1);
    end.take().unwrap();
    assert_eq!(end.decoder.buffered(), PREFIX);
    end.tcp.close(end.now, 1, "done");
    assert_eq!(end.tcp.assembling(), 0, "and none once it is closed");
}

#[test]
fn invalid_frame_takes_no_memory_and_fails_in_decoder() {
    for (len, kind, violation) in [
        (CHUNK + 1, KIND_CHUNK, Violation::FrameTooLong),
        (u32::MAX as usize, KIND_CHUNK, Violation::FrameTooLong),
        (CONTROL + 1, KIND_CONTROL, Violation::FrameTooLong),
        (CHUNK, 2, Violation::UnknownKind),
        (0, KIND_CHUNK, Violation::EmptyFrame),
    ] {
        let mut end = End::proven();
        end.read_all(&head(len, kind));
        assert!(end.tcp.read_buffer().len() <= MAX_READ, "{violation:?}");
        assert_eq!(end.take(), Err(violation));
    }
}

#[test]
fn connection_cut_within_record_is_lost_and_frees_buffer() {
    let mut end = End::proven();
    end.read_all(&enclose(&body(KIND_CHUNK, LEAST, 0))[..LEAST / 2]);
    assert_eq!(end.tcp.assembling(), LEAST / 2 - PREFIX);
    end.tcp.handle_eof();
    assert_eq!((end.tcp.assembling(), end.tcp.socket_action()), (0, SocketAction::Abort));
    let events: Vec<Event> = std::iter::from_fn(|| end.tcp.poll_event()).collect();
    assert!(events.iter().any(|event| matches!(event, Event::Closed(super::super::Closed::Lost))));
    // Data that arrived before can still be read.
    assert!(matches!(end.tcp.read(), Read::Data(piece) if piece.len() == PREFIX));
    assert!(matches!(end.tcp.read(), Read::Gone));
}
