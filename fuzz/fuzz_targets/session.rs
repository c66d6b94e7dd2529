//! A session that gets frames from an attacker.
#![no_main]
use std::time::Instant;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tallow_fuzz::session::handshake;
use tallow_fuzz::steps::steps;
use tallow_proto::handshake::Keys;
use tallow_proto::seed::Seed;
use tallow_proto::session::{self, LinkId, Origin, Session, StreamNo};
use tallow_proto::wire::Frame;
use tallow_proto::wire::relay::Role;

fuzz_target!(|data: &[u8]| {
    thread_local!(static KEYS: (Instant, Keys) = { let now = Instant::now(); (now, handshake(now).2) });
    KEYS.with(|(now, keys)| {
        let mut session = Session::new(session::Config::new(Role::Receiver), keys, Seed::new([3; 32]));
        session.handle_link_up(*now, LinkId(0), 16, Origin::Handshake);
        for (stream, body) in steps(data) {
            session.handle_record(*now, LinkId(0), StreamNo(stream), Frame::from(Bytes::copy_from_slice(body)));
            while let Some(event) = session.poll_event() {
                if let session::Event::Chunk(chunk) = event {
                    assert!(chunk.open().content.is_none(), "nobody else can seal");
                }
            }
        }
    });
});
