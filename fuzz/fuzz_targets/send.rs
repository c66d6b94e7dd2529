//! A sender of a transfer, whose receiver has the keys and sends anything.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tallow_fuzz::transfer::send(data));
