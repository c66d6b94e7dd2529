//! Codes and links as a user may type them: the canonical form is a fixed point.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tallow_proto::code::{Code, Link, complete};

fuzz_target!(|text: &str| {
    if let Ok(code) = Code::parse(text) {
        let canonical = code.reveal();
        let again = Code::parse(&canonical).expect("the canonical form is a code");
        assert_eq!(*again.reveal(), *canonical);
        assert_eq!(again.nameplate().room_id(), code.nameplate().room_id());
    }
    if let Ok(link) = Link::parse(text) {
        let canonical = link.reveal();
        let again = Link::parse(&canonical).expect("the printed form is a link");
        assert_eq!(*again.reveal(), *canonical);
    }
    let _ = complete(text);
});
