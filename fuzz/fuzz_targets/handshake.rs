//! Both sides of the handshake, fed with frames that anybody may have made; now and then a true one is let through.
#![no_main]
use std::sync::OnceLock;
use std::time::Instant;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tallow_proto::code::Code;
use tallow_proto::handshake::{Config, Handshake, Output, Secret};
use tallow_proto::seed::Seed;
use tallow_proto::wire::Features;
use tallow_proto::wire::relay::Side;

fn side(side: Side, now: Instant) -> Handshake {
    let code = Code::parse("7-acorn-bicycle-canal").expect("a code");
    let config = Config {
        side,
        features: Features::default(),
        room: code.nameplate().room_id(),
        secret: Secret::Code(code.password().clone()),
    };
    Handshake::new(config, now, Seed::new([side as u8; 32]))
}

fuzz_target!(|input: (bool, Vec<Option<(u16, u8)>>, Vec<u8>)| {
    static START: OnceLock<Instant> = OnceLock::new();
    let now = *START.get_or_init(Instant::now);
    let (junk_first, steps, junk) = input;
    let (mut sender, mut receiver) = (side(Side::Sender, now), side(Side::Receiver, now));
    if junk_first {
        receiver.handle_frame(now, Bytes::from(junk));
    }
    let mut tampered = false;
    for step in steps.into_iter().take(6).chain([None; 6]) {
        for to_receiver in [true, false] {
            let (from, to) = if to_receiver { (&mut sender, &mut receiver) } else { (&mut receiver, &mut sender) };
            while let Some(output) = from.poll_output() {
                match output {
                    Output::Send(body) => {
                        let mut body = body.to_vec();
                        if let Some((at, flip)) = step
                            && flip != 0
                        {
                            let at = usize::from(at) % body.len();
                            body[at] ^= flip;
                            tampered = true;
                        }
                        to.handle_frame(now, body.into());
                    }
                    Output::Keyed(_) => {}
                    Output::Failed(_) => return,
                }
            }
        }
    }
    let _ = tampered;
});
