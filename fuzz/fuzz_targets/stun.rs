//! Datagrams of anybody to who asks for its address, and to a server that tells it.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| drop(tallow_fuzz::stun::run(data)));
