use tallow_proto::link::Fingerprint;
use tallow_proto::peer::RelayAddress;
use tallow_proto::transfer::path::PathError;
use tallow_proto::wire::is_harmless;

use super::*;

const CONTROLS: &str = "\x1b[2J\x1b]52;c;x\x07\u{9b}31m\u{202e}\nname%s%n";

fn at(role: Role, relays: bool) -> Context<'static> {
    Context { role, known_relays: "/state/known_relays", relays }
}

fn foreign_text() -> Untrusted {
    Untrusted::new(CONTROLS.repeat(50))
}

fn fault(kind: FaultKind) -> Failure {
    Failure::Local(Fault::at(kind, CONTROLS))
}

fn changed(refused: CertificateRefused) -> Failure {
    let relay = RelayAddress { host: "r.example".into(), port: 443 };
    Failure::Relay(RelayFailure::CertificateChanged { relay, refused })
}

/// Every kind of failure.
fn all() -> Vec<Failure> {
    let declines = [
        DeclineReason::Person,
        DeclineReason::Policy,
        DeclineReason::NoSpace,
        DeclineReason::Io,
        DeclineReason::TooLarge,
    ];
    let cancels = [
        CancelReason::Interrupted,
        CancelReason::SourceChanged,
        CancelReason::Io,
        CancelReason::Violation,
        CancelReason::NotVerified,
    ];
    let losts = [
        Lost::NoRelay,
        Lost::NoAddress,
        Lost::NoNameService,
        Lost::NoMeetingPlace,
        Lost::NobodyWaits,
        Lost::Taken,
        Lost::NoSocket,
        Lost::InTransfer,
        Lost::Stalled,
        Lost::Unconfirmed,
    ];
    let refusals = [
        RefusalReason::NobodyWaits,
        RefusalReason::NameTaken,
        RefusalReason::RateLimited,
        RefusalReason::Full,
        RefusalReason::Password,
        RefusalReason::UnsupportedVersion(Versions { min: 2, max: 3 }),
        RefusalReason::ShuttingDown,
        RefusalReason::Idle,
        RefusalReason::Taken,
    ];
    let faults = [
        FaultKind::Changed,
        FaultKind::NotRegular,
        FaultKind::Full { need: 1 << 40, have: 5 },
        FaultKind::Exists,
        FaultKind::Link,
        FaultKind::Refused(Refusal::Twice),
        FaultKind::Refused(Refusal::Name(PathError::DotDot)),
        FaultKind::Io(io::ErrorKind::PermissionDenied),
        FaultKind::Io(io::ErrorKind::Other),
        FaultKind::Io(io::ErrorKind::StorageFull),
        FaultKind::Io(io::ErrorKind::NotFound),
        FaultKind::System(24),
        FaultKind::NotUtf8,
        FaultKind::Cancelled,
        FaultKind::Panicked,
        FaultKind::Internal,
    ];
    let (known, seen) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
    let certificates = [
        CertificateRefused::NotPinned { pinned: known, seen },
        CertificateRefused::Changed { known, seen },
        CertificateRefused::NotPublic { seen },
    ];
    let mut all = vec![
        Failure::WrongCode,
        Failure::Versions(Versions { min: 2, max: 3 }),
        Failure::Versions(Versions { min: 0, max: 0 }),
        Failure::NotAccepted,
        Failure::Refused(Refused { name: foreign_text(), why: Refusal::Twice }),
        Failure::Refused(Refused { name: Untrusted::default(), why: Refusal::TooManyEntries }),
        Failure::Refused(Refused { name: foreign_text(), why: Refusal::Name(PathError::DotDot) }),
        Failure::Violation(Violation::Malformed),
        Failure::Violation(Violation::FrameTooLong),
        Failure::Relay(RelayFailure::Violation(Violation::EmptyFrame)),
        Failure::NotVerified,
        Failure::Interrupted,
    ];
    all.extend(declines.map(|reason| Failure::Declined { reason, text: foreign_text() }));
    all.extend(cancels.map(|reason| Failure::Peer { reason, text: foreign_text() }));
    all.extend(losts.map(Failure::Lost));
    all.extend(refusals.map(|reason| Failure::Relay(RelayFailure::Refused(reason))));
    all.extend(faults.map(fault));
    all.extend(certificates.map(changed));
    all
}

#[test]
fn every_failure_has_a_cause_and_a_hint() {
    for failure in all() {
        for role in [Role::Sender, Role::Receiver] {
            for relays in [false, true] {
                let problem = explain(&failure, &at(role, relays));
                let line = problem.line();
                assert!(!problem.message.is_empty() && !problem.hint.is_empty(), "{failure:?}");
                assert!(line.starts_with("tallow: "), "{line}");
                assert!(line.chars().all(is_harmless), "{line:?}");
                assert!(line.chars().count() < 2_000, "{line}");
                assert!(!line.contains("try again; try again"), "{line}");
                assert_eq!(problem.code, failure.class().exit_code());
                assert_eq!(problem.kind, failure.class().name());
                // This hint is the fallback for variants that the table does not know.
                assert_ne!(problem.hint, "try again", "{failure:?} fell through the table");
            }
        }
    }
}

#[test]
fn exit_codes_match_the_manual() {
    let code = |failure: Failure| explain(&failure, &at(Role::Receiver, true)).code;
    assert_eq!(code(Failure::WrongCode), 3);
    assert_eq!(code(Failure::NotAccepted), 4);
    assert_eq!(code(fault(FaultKind::Exists)), 4);
    assert_eq!(code(Failure::Lost(Lost::NoRelay)), 5);
    assert_eq!(code(fault(FaultKind::Io(io::ErrorKind::Other))), 6);
    assert_eq!(code(Failure::Violation(Violation::Malformed)), 7);
    assert_eq!(code(Failure::Relay(RelayFailure::Refused(RefusalReason::Full))), 8);
    assert_eq!(code(Failure::Peer { reason: CancelReason::Io, text: Untrusted::default() }), 9);
    assert_eq!(code(Failure::Interrupted), 130);
}

#[test]
fn x01_a_wrong_code_is_reported_to_both_sides() {
    assert!(explain(&Failure::WrongCode, &at(Role::Receiver, false)).line().contains("wrong code"));
    assert!(explain(&Failure::WrongCode, &at(Role::Sender, false)).line().contains("new code"));
}

#[test]
fn the_changed_certificate_error_shows_how_to_accept_it() {
    let (known, seen) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
    let kept = [CertificateRefused::Changed { known, seen }, CertificateRefused::NotPublic { seen }];
    for refused in kept.into_iter().chain([CertificateRefused::NotPinned { pinned: known, seen }]) {
        let line = explain(&changed(refused), &at(Role::Sender, true)).line();
        assert!(line.contains(&format!("--relay-pin {}", "02".repeat(32))), "{line}");
        assert!(line.contains("r.example:443"), "{line}");
        // A pin is given on the command line and not stored in a file.
        assert_eq!(line.contains("/state/known_relays"), kept.contains(&refused), "{line}");
    }
}

#[test]
fn d03_text_of_the_peer_is_shortened_and_quoted() {
    let line =
        explain(&Failure::Peer { reason: CancelReason::Io, text: foreign_text() }, &at(Role::Sender, true)).line();
    let said = line.split("peer said: \"").nth(1).unwrap();
    assert!(said.contains("%s%n") && said.chars().count() < 200 * 8, "{line}");
    let line =
        explain(&Failure::Peer { reason: CancelReason::Io, text: Untrusted::default() }, &at(Role::Sender, true))
            .line();
    assert!(!line.contains("peer said"), "{line}");
}

#[test]
fn hint_matches_the_role_that_failed() {
    let full = fault(FaultKind::Full { need: 2 << 20, have: 1 << 20 });
    assert!(explain(&full, &at(Role::Receiver, true)).message.ends_with("need 2.0 MiB, have 1.0 MiB"));
    let denied = fault(FaultKind::Io(io::ErrorKind::PermissionDenied));
    assert!(explain(&denied, &at(Role::Sender, true)).hint.contains("--exclude"));
    assert!(explain(&denied, &at(Role::Receiver, true)).hint.contains("--out"));
}
