use std::time::Duration;

use super::*;

const NOW: Duration = Duration::from_secs(1_790_000_000);

#[test]
fn a_fingerprint_is_printed_and_read_in_both_forms() {
    let fingerprint = Fingerprint::of(b"abc");
    let plain = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(fingerprint.to_string(), plain, "the example of FIPS 180-4");
    assert_eq!(plain.parse(), Ok(fingerprint));
    assert_eq!(plain.to_uppercase().parse(), Ok(fingerprint));
    let pairs = format!("{fingerprint:#}");
    assert!(pairs.starts_with("ba:78:16:bf:") && pairs.ends_with(":15:ad"));
    assert_eq!(pairs.to_uppercase().parse(), Ok(fingerprint));
    for bad in [
        "",
        "ba78",
        &plain[1..],
        &format!("{plain}0"),
        &plain.replace('b', "g"),
        &pairs.replace(':', "-"),
        &pairs.replacen(":7", "7:", 1),
        &"é".repeat(32),
        &plain.replacen("ba", "+a", 1),
    ] {
        assert_eq!(bad.parse::<Fingerprint>(), Err(NotAFingerprint), "{bad}");
    }
}

#[test]
fn an_identity_shows_its_leaf_and_never_its_key() {
    let identity =
        Identity { cert_chain: vec![b"abc".to_vec(), b"ca".to_vec()], key: Zeroizing::new(b"secret".to_vec()) };
    assert_eq!(identity.fingerprint(), Fingerprint::of(b"abc"));
    assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.fingerprint()));
}

/// A test CA in place of the public CAs, and its certificate that is valid for a day around [`NOW`].
struct Authority {
    roots: Arc<RootCertStore>,
    leaf: CertificateDer<'static>,
}

fn authority() -> Authority {
    let (key, leaf_key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = ca.self_signed(&key).unwrap();
    let mut leaf = rcgen::CertificateParams::new(vec!["relay.test".into()]).unwrap();
    // NOW is 2026-09-21.
    (leaf.not_before, leaf.not_after) = (rcgen::date_time_ymd(2026, 9, 21), rcgen::date_time_ymd(2026, 9, 22));
    let leaf = leaf.signed_by(&leaf_key, &rcgen::Issuer::new(ca, key)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    Authority { roots: Arc::new(roots), leaf: leaf.der().clone() }
}

impl Authority {
    fn judge(&self, trust: Trust, name: &str, now: Duration) -> Result<CertificateSeen, CertificateRefused> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Verifier::new(trust, self.roots.clone(), &provider).unwrap();
        assert_eq!(verifier.verdict(), None);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let answer = verifier.verify_server_cert(&self.leaf, &[], &name, &[], UnixTime::since_unix_epoch(now));
        let verdict = verifier.verdict().unwrap();
        assert_eq!(answer.is_ok(), verdict.is_ok());
        verdict
    }
}

#[test]
fn a_public_authority_vouches_for_the_name_and_the_time() {
    let authority = authority();
    let (seen, other) = (Fingerprint::of(&authority.leaf), Fingerprint([7; 32]));
    for trust in [Trust::FirstUse, Trust::PublicCa, Trust::Known(other)] {
        assert_eq!(authority.judge(trust, "relay.test", NOW), Ok(CertificateSeen::PublicCa(seen)), "{trust:?}");
    }
    for (name, now) in
        [("other.test", NOW), ("relay.test", NOW + Duration::from_secs(2 * 86_400)), ("relay.test", Duration::ZERO)]
    {
        assert_eq!(authority.judge(Trust::FirstUse, name, now), Ok(CertificateSeen::FirstUse(seen)));
        assert_eq!(authority.judge(Trust::PublicCa, name, now), Err(CertificateRefused::NotPublic { seen }));
        let changed = CertificateRefused::Changed { known: other, seen };
        assert_eq!(authority.judge(Trust::Known(other), name, now), Err(changed));
    }
}

#[test]
fn a_pinned_or_known_certificate_needs_no_authority() {
    let authority = authority();
    let (seen, other) = (Fingerprint::of(&authority.leaf), Fingerprint([7; 32]));
    let never = Duration::ZERO;
    assert_eq!(authority.judge(Trust::Pin(seen), "other.test", never), Ok(CertificateSeen::Pinned(seen)));
    assert_eq!(authority.judge(Trust::Known(seen), "other.test", never), Ok(CertificateSeen::Known(seen)));
    assert_eq!(authority.judge(Trust::Any, "other.test", never), Ok(CertificateSeen::Unchecked(seen)));
    let refused = CertificateRefused::NotPinned { pinned: other, seen };
    assert_eq!(authority.judge(Trust::Pin(other), "relay.test", NOW), Err(refused));
}
