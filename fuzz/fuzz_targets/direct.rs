//! Messages of a peer about direct paths.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    tallow_fuzz::direct::run(data);
});
