use std::io;

use super::*;
use crate::link::trust::Fingerprint;
use crate::wire::untrusted::is_harmless;

fn all() -> Vec<(Failure, &'static str)> {
    let evil = || Untrusted::new("no\u{1b}[2J thanks".to_owned());
    let (known, seen) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
    let relay = RelayAddress { host: "relay.example".to_owned(), port: 4433 };
    let refused = CertificateRefused::Changed { known, seen };
    let denied = Fault::at(FaultKind::Io(io::ErrorKind::PermissionDenied), "db.sqlite");
    vec![
        (Failure::Local(denied), "db.sqlite: permission denied; check the permissions"),
        (Failure::Local(Fault::other("my database is gone")), "my database is gone"),
        (Failure::Declined { reason: DeclineReason::NoSpace, text: evil() }, "not enough space"),
        (Failure::Declined { reason: DeclineReason::Person, text: evil() }, "\"no\\u{1b}[2J thanks\""),
        (Failure::Peer { reason: CancelReason::SourceChanged, text: evil() }, "changed while it was being sent"),
        (Failure::Relay(RelayFailure::Refused(RefusalReason::NameTaken)), "another sender uses this code"),
        (Failure::Relay(RelayFailure::Refused(RefusalReason::Password)), "password"),
        (Failure::Relay(RelayFailure::CertificateChanged { relay, refused }), "relay.example"),
        (Failure::Lost(Lost::Proxy(ProxyFailure::Status(407))), "407"),
        (Failure::Versions(Versions { min: 2, max: 3 }), "2 to 3"),
    ]
}

#[test]
fn each_failure_text_has_cause_and_remedy() {
    for (failure, part) in all() {
        let text = failure.to_string();
        assert!(text.contains(part), "{text}");
        assert!(text.contains(';'), "a remedy: {text}");
        assert!(text.chars().all(is_harmless), "{text:?}");
    }
}

#[test]
fn failure_source_is_its_typed_cause() {
    let failure = Failure::Local(Fault::at(FaultKind::Exists, "a"));
    let fault = failure.source().and_then(|source| source.downcast_ref::<Fault>()).unwrap();
    assert_eq!(fault.kind, FaultKind::Exists);
    let failure = Failure::Lost(Lost::Proxy(ProxyFailure::LoginNeeded));
    let cause = failure.source().and_then(Error::source).unwrap();
    assert!(cause.downcast_ref::<ProxyFailure>().is_some());
}

#[test]
fn cancelled_fault_has_class_interrupted() {
    let failure = Failure::Local(FaultKind::Cancelled.into());
    assert_eq!(failure.class(), Class::Interrupted);
}
