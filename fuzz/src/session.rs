//! Two ends that share their keys, so that each can open what the other one seals.

use std::time::Instant;

use tallow_proto::code::Code;
use tallow_proto::handshake::{Config, Handshake, Keys, Output, Secret};
use tallow_proto::seed::Seed;
use tallow_proto::wire::Features;
use tallow_proto::wire::relay::Role;

/// One end of a handshake.
///
/// # Panics
/// Never: the code is valid.
#[must_use]
pub fn end(role: Role, now: Instant) -> Handshake {
    let code = Code::parse("7-acorn-bicycle-canal").expect("a code");
    let config = Config {
        role,
        features: Features::default(),
        room: code.nameplate().room_id(),
        secret: Secret::Code(code.password().clone()),
    };
    Handshake::new(config, now, Seed::new([role as u8; 32]))
}

/// The messages of both sides in order, and their keys: the sender's and the receiver's.
///
/// # Panics
/// Never: both sides are correct.
#[must_use]
pub fn handshake(now: Instant) -> (Vec<bytes::Bytes>, Keys, Keys) {
    let (mut sender, mut receiver) = (end(Role::Sender, now), end(Role::Receiver, now));
    let (mut said, mut keys) = (Vec::new(), (None, None));
    while keys.0.is_none() || keys.1.is_none() {
        while let Some(output) = sender.poll_output() {
            match output {
                Output::Send(body) => {
                    said.push(body.clone());
                    receiver.handle_frame(now, body);
                }
                Output::Keyed(made) => keys.0 = Some(made),
                Output::Failed(failure) => panic!("{failure}"),
            }
        }
        while let Some(output) = receiver.poll_output() {
            match output {
                Output::Send(body) => {
                    said.push(body.clone());
                    sender.handle_frame(now, body);
                }
                Output::Keyed(made) => keys.1 = Some(made),
                Output::Failed(failure) => panic!("{failure}"),
            }
        }
    }
    (said, keys.0.expect("keys"), keys.1.expect("keys"))
}
