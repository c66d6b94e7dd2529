//! Names and link targets: an accepted one stays inside the received tree, in every form in which it is used.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tallow_proto::transfer::path::RelPath;

fuzz_target!(|text: &str| {
    if let Ok(path) = RelPath::parse(text) {
        for path in [Some(path.clone()), path.portable()].into_iter().flatten() {
            assert!(
                path.components().all(|part| !matches!(part, "" | "." | "..") && !part.contains(['/', '\\', '\0']))
            );
            assert!(RelPath::parse(path.as_str()).is_ok());
            let _ = path.collision_key();
        }
    }
});
