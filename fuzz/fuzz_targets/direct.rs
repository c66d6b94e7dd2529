//! What a peer says of a direct path.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    tallow_fuzz::direct::run(data);
});
