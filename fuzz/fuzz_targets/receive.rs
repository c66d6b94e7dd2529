//! A receiver of a transfer, whose sender has the keys and sends anything.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tallow_fuzz::transfer::receive(data));
