//! Both sides of the handshake, each with frames that an attacker may have made: flipped bits in correct frames, and
//! other frames in between.
#![no_main]
use std::time::Instant;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tallow_fuzz::session::end;
use tallow_fuzz::steps::steps;
use tallow_proto::handshake::Output;
use tallow_proto::wire::relay::Role;

// Tags 0 and 1: a frame for the sender or for the receiver. Others: the next message of a side is changed by the
// flips in the body (two bytes for the position, one for the bit).
fuzz_target!(|data: &[u8]| {
    thread_local!(static NOW: Instant = Instant::now());
    let now = NOW.with(|now| *now);
    let (mut sender, mut receiver) = (end(Role::Sender, now), end(Role::Receiver, now));
    let (mut tampered, mut keyed) = (false, 0);
    let honest = std::iter::repeat_n((2, &[][..]), 6);
    for (tag, body) in steps(data).take(6).chain(honest) {
        match tag {
            0 => sender.handle_frame(now, Bytes::copy_from_slice(body)),
            1 => receiver.handle_frame(now, Bytes::copy_from_slice(body)),
            _ => {}
        }
        tampered |= tag < 2;
        for to_receiver in [true, false] {
            let (from, to) = if to_receiver { (&mut sender, &mut receiver) } else { (&mut receiver, &mut sender) };
            while let Some(output) = from.poll_output() {
                match output {
                    Output::Send(said) => {
                        let mut said = said.to_vec();
                        if let (2.., &[high, low, flip, ..]) = (tag, body)
                            && flip != 0
                        {
                            let at = usize::from(u16::from_be_bytes([high, low])) % said.len();
                            said[at] ^= flip;
                            tampered = true;
                        }
                        to.handle_frame(now, said.into());
                    }
                    Output::Keyed(_) => keyed += 1,
                    Output::Failed(_) => {
                        assert!(tampered, "two honest sides fail");
                        return;
                    }
                }
            }
        }
    }
    assert!(tampered || keyed == 2, "two honest sides did not meet");
});
