//! A session, fed with frames that anybody may have made.
#![no_main]
use std::time::Instant;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tallow_proto::code::Code;
use tallow_proto::handshake::{Config, Handshake, Keys, Output, Secret};
use tallow_proto::seed::Seed;
use tallow_proto::session::{self, LinkId, Origin, Session, StreamNo};
use tallow_proto::wire::relay::Side;
use tallow_proto::wire::{Features, Frame};

/// The keys of a receiver that met a sender.
fn keys(now: Instant) -> Keys {
    let code = Code::parse("7-acorn-bicycle-canal").expect("a code");
    let side = |side, seed| {
        let config = Config {
            side,
            features: Features::default(),
            room: code.nameplate().room_id(),
            secret: Secret::Code(code.password().clone()),
        };
        Handshake::new(config, now, Seed::new([seed; 32]))
    };
    let (mut sender, mut receiver) = (side(Side::Sender, 1), side(Side::Receiver, 2));
    loop {
        while let Some(output) = sender.poll_output() {
            if let Output::Send(body) = output {
                receiver.handle_frame(now, body);
            }
        }
        while let Some(output) = receiver.poll_output() {
            match output {
                Output::Send(body) => sender.handle_frame(now, body),
                Output::Keyed(keys) => return keys,
                Output::Failed(failure) => panic!("{failure}"),
            }
        }
    }
}

fuzz_target!(|frames: Vec<(u8, Vec<u8>)>| {
    thread_local!(static KEYS: (Instant, Keys) = { let now = Instant::now(); (now, keys(now)) });
    KEYS.with(|(now, keys)| {
        let mut session = Session::new(session::Config::new(Side::Receiver), keys, Seed::new([3; 32]));
        session.handle_link_up(*now, LinkId(0), 16, Origin::Handshake);
        for (stream, body) in frames {
            session.handle_record(*now, LinkId(0), StreamNo(stream), Frame::from(Bytes::from(body)));
            while let Some(event) = session.poll_event() {
                if let session::Event::Chunk(chunk) = event {
                    assert!(chunk.open().is_err(), "nobody else can seal");
                }
            }
        }
    });
});
