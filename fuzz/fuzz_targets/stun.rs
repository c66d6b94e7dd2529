//! Datagrams of any machine, for a STUN client and for a STUN server.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| drop(tallow_fuzz::stun::run(data)));
