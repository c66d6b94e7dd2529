//! Names and link targets: every accepted name stays inside, under its local name on any disk, too.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tallow_proto::transfer::component::NameRules;
use tallow_proto::transfer::path::{LinkTarget, RelPath};

fuzz_target!(|text: &str| {
    if let Ok(path) = RelPath::parse(text) {
        for rules in [NameRules::EXACT, NameRules::PORTABLE] {
            let local: Vec<_> =
                path.components().map(|part| rules.local(part).unwrap_or_else(|| part.to_owned())).collect();
            assert!(local.iter().all(|part| !matches!(part.as_str(), "" | "." | "..") && !part.contains(['/', '\0'])));
            assert!(local.iter().all(|part| rules.local(part).is_none()));
        }
        if let Ok(target) = LinkTarget::parse(text) {
            let _ = target.stays_inside(&path);
        }
    }
});
