//! A relay whose clients send anything.
#![no_main]
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tallow_proto::link::trust::Identity;

fn identity() -> Identity {
    static MADE: OnceLock<Identity> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let params = rcgen::CertificateParams::new(vec!["tallow".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        Identity { cert_chain: vec![certificate.der().to_vec()], key: key.serialize_der().into() }
    });
    made.clone()
}

fuzz_target!(|data: &[u8]| tallow_fuzz::relay::relay(identity(), data));
