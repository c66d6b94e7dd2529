//! Pages of a manifest, as they arrive from a sender.
#![no_main]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tallow_fuzz::steps::steps;
use tallow_proto::seed::Seed;
use tallow_proto::transfer::manifest::{ManifestBuilder, Page};
use tallow_proto::wire::peer::TransferKind;

fuzz_target!(|data: &[u8]| {
    let mut builder = ManifestBuilder::new(TransferKind::Files, &Seed::new([1; 32]));
    for (_, page) in steps(data) {
        if builder.push_page(Page(Bytes::copy_from_slice(page))).is_err() {
            return;
        }
    }
    if let Ok(manifest) = builder.finish() {
        let totals = manifest.totals();
        assert_eq!(manifest.entries().count(), totals.entries as usize);
    }
});
