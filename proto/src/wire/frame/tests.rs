use super::*;
use proptest::prelude::*;

fn all_frames(decoder: &mut Decoder) -> Result<Vec<Vec<u8>>, Violation> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame()? {
        frames.push(frame.into_bytes().to_vec());
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn any_split_of_the_input_gives_the_same_frames(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..2000), 1..8),
        cuts in prop::collection::vec(1usize..1500, 0..40),
    ) {
        let stream: Vec<u8> = bodies.iter().flat_map(|body| enclose(body)).collect();
        let mut decoder = Decoder::new(Caps::Greeting);
        let (mut rest, mut frames) = (Bytes::from(stream), Vec::new());
        for cut in cuts {
            decoder.push(rest.split_to(cut.min(rest.len())));
            frames.extend(all_frames(&mut decoder).unwrap());
        }
        decoder.push(rest);
        frames.extend(all_frames(&mut decoder).unwrap());
        prop_assert_eq!(frames, bodies);
        prop_assert_eq!(decoder.buffered(), 0);
    }

    #[test]
    fn decoder_survives_any_bytes(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..20),
        records: bool,
    ) {
        let mut decoder = Decoder::new(if records { Caps::Records } else { Caps::Greeting });
        for piece in pieces {
            decoder.push(piece.into());
            if all_frames(&mut decoder).is_err() { break }
        }
    }
}

fn judge(caps: Caps, bytes: &[u8]) -> Result<bool, Violation> {
    let mut decoder = Decoder::new(caps);
    decoder.push(Bytes::copy_from_slice(bytes));
    decoder.next_frame().map(|frame| frame.is_some())
}

#[test]
fn p01_a_length_beyond_the_cap_is_refused_before_the_body() {
    for caps in [Caps::Greeting, Caps::Records] {
        assert_eq!(judge(caps, &[0xff; 4]), Err(Violation::FrameTooLong));
        assert_eq!(judge(caps, &[0x80, 0, 0, 0]), Err(Violation::FrameTooLong));
        assert_eq!(judge(caps, &[0; 4]), Err(Violation::EmptyFrame));
    }
    assert_eq!(judge(Caps::Greeting, &(GREETING as u32).to_be_bytes()), Ok(false));
    assert_eq!(judge(Caps::Greeting, &(GREETING as u32 + 1).to_be_bytes()), Err(Violation::FrameTooLong));
    let with_kind = |len: usize, kind| [&(len as u32).to_be_bytes()[..], &[kind]].concat();
    assert_eq!(judge(Caps::Records, &with_kind(CONTROL, KIND_CONTROL)), Ok(false));
    assert_eq!(judge(Caps::Records, &with_kind(CONTROL + 1, KIND_CONTROL)), Err(Violation::FrameTooLong));
    assert_eq!(judge(Caps::Records, &with_kind(CHUNK, KIND_CHUNK)), Ok(false));
    assert_eq!(judge(Caps::Records, &with_kind(CHUNK + 1, KIND_CHUNK)), Err(Violation::FrameTooLong));
    assert_eq!(judge(Caps::Records, &with_kind(1, 2)), Err(Violation::UnknownKind));
}

#[test]
fn p07_a_frame_in_single_bytes_takes_no_extra_memory() {
    let body = vec![KIND_CHUNK; CHUNK];
    let mut decoder = Decoder::new(Caps::Records);
    for byte in enclose(&body) {
        decoder.push(Bytes::copy_from_slice(&[byte]));
        if decoder.buffered() < body.len() {
            assert!(decoder.next_frame().unwrap().is_none());
        }
    }
    assert!(decoder.pieces.iter().count() <= CHUNK / 4000, "small pieces are merged");
    assert_eq!(decoder.next_frame().unwrap().unwrap().len(), body.len());
}

#[test]
fn bytes_after_last_frame_are_kept_for_next_owner() {
    let mut decoder = Decoder::new(Caps::Greeting);
    decoder.push([&enclose(b"hello")[..], b"rest"].concat().into());
    assert_eq!(decoder.next_frame().unwrap().unwrap().into_bytes(), "hello");
    assert_eq!(decoder.into_rest(), ["rest"]);
}
