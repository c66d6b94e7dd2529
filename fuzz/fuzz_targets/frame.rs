//! Any bytes in any split: the decoder neither panics nor hands out more than arrived, and splits do not matter.
#![no_main]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tallow_proto::wire::{Caps, Decoder};

fn frames(decoder: &mut Decoder, into: &mut Vec<Bytes>) -> bool {
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => into.push(frame.into_bytes()),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fuzz_target!(|input: (bool, Vec<Vec<u8>>)| {
    let (records, pieces) = input;
    let caps = if records { Caps::Records } else { Caps::Greeting };
    let (mut split, mut whole) = (Decoder::new(caps), Decoder::new(caps));
    let (mut from_split, mut from_whole) = (Vec::new(), Vec::new());
    let mut fine = true;
    for piece in &pieces {
        split.push(Bytes::copy_from_slice(piece));
        fine = fine && frames(&mut split, &mut from_split);
    }
    whole.push(pieces.concat().into());
    assert_eq!(frames(&mut whole, &mut from_whole), fine);
    assert_eq!(from_split, from_whole);
});
