//! Pages of a manifest, as they come from a sender.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tallow_proto::seed::Seed;
use tallow_proto::transfer::manifest::{ManifestBuilder, Page};
use tallow_proto::wire::peer::TransferKind;

fuzz_target!(|pages: Vec<Vec<u8>>| {
    let mut builder = ManifestBuilder::new(TransferKind::Files, &Seed::new([1; 32]));
    for page in pages {
        if builder.push_page(Page(page.into())).is_err() {
            return;
        }
    }
    if let Ok(manifest) = builder.finish() {
        let totals = manifest.totals();
        assert_eq!(manifest.entries().count(), totals.entries as usize);
    }
});
