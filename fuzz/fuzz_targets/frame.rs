//! Any bytes in any split: the decoder neither panics nor returns more than arrived, and the split makes no
//! difference.
#![no_main]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tallow_fuzz::steps::steps;
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

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let pieces: Vec<&[u8]> = steps(data).map(|(_, body)| body).collect();
    let caps = if kind % 2 == 1 { Caps::Records } else { Caps::Greeting };
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
