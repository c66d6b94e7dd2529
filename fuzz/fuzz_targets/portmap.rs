//! Messages of a gateway to a machine that requests a port mapping, in each of the three protocols.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    tallow_fuzz::portmap::run(data);
});
