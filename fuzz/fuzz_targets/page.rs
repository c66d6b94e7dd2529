//! Pages of a manifest, as they come from a sender.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tallow_proto::transfer::manifest::Page;

fuzz_target!(|data: &[u8]| {
    tallow_proto::transfer::fuzz::page(Page::from_bytes(data));
});
