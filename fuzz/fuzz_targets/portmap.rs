//! What a gateway says to a machine that wants a port mapped, by any of the three protocols.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    tallow_fuzz::portmap::run(data);
});
