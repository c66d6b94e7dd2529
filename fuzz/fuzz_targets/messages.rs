//! Every message of the protocol: bytes that decode are the canonical encoding of the message.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tallow_proto::wire::peer::{ControlRecord, HandshakeMessage};
use tallow_proto::wire::relay::{ClientMessage, RelayMessage};
use tallow_proto::wire::{decode, encode};

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = decode::<ControlRecord>(data) {
        assert_eq!(encode(&message), data);
    }
    if let Ok(message) = decode::<HandshakeMessage>(data) {
        assert_eq!(encode(&message), data);
    }
    if let Ok(message) = decode::<ClientMessage>(data) {
        assert_eq!(encode(&message), data);
    }
    if let Ok(message) = decode::<RelayMessage>(data) {
        assert_eq!(encode(&message), data);
    }
});
