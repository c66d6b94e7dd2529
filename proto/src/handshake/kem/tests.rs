use super::*;
use crate::seed::Seed;

fn offered() -> Offered {
    Offered::new(&mut Seed::new([1; 32]).rng())
}

fn answer_to(x25519: [u8; 32], encapsulation_key: &[u8]) -> Option<Answer> {
    answer(x25519, encapsulation_key, &mut Seed::new([2; 32]).rng())
}

/// RFC 7748 §5: points of order 1, 2, 4 and 8 on the curve and on its twist, with their non-canonical encodings.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

pub(in crate::handshake) fn low_order() -> impl Iterator<Item = [u8; 32]> {
    LOW_ORDER.iter().map(|text| std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()))
}

/// The key with its first coefficient (12 bits, little-endian) raised to `to`.
pub(in crate::handshake) fn with_coefficient(mut encapsulation_key: Vec<u8>, to: u16) -> Vec<u8> {
    let [low, high] = to.to_le_bytes();
    encapsulation_key[0] = low;
    encapsulation_key[1] = (encapsulation_key[1] & 0xf0) | high;
    encapsulation_key
}

#[test]
fn both_peers_derive_same_secrets() {
    let offered = offered();
    let answer = answer_to(offered.x25519(), &offered.encapsulation_key()).unwrap();
    assert_eq!((offered.encapsulation_key().len(), answer.ciphertext.len()), (KEM_LEN, KEM_LEN));
    let shared = offered.finish(answer.x25519, &answer.ciphertext).unwrap();
    assert_eq!((&shared.x25519, &shared.ml_kem), (&answer.shared.x25519, &answer.shared.ml_kem));
    assert_ne!(shared.x25519, shared.ml_kem);
}

#[test]
fn x04_an_x25519_key_of_low_order_is_refused() {
    let offered = offered();
    let good = answer_to(offered.x25519(), &offered.encapsulation_key()).unwrap();
    for key in low_order() {
        assert!(answer_to(key, &offered.encapsulation_key()).is_none(), "{key:?}");
        assert!(offered.finish(key, &good.ciphertext).is_none(), "{key:?}");
    }
}

#[test]
fn x04_encapsulation_key_must_be_reduced_and_full_length() {
    let offered = offered();
    let key = offered.encapsulation_key();
    assert!(answer_to(offered.x25519(), &with_coefficient(key.clone(), 3328)).is_some());
    for coefficient in [3329, 4095] {
        assert!(answer_to(offered.x25519(), &with_coefficient(key.clone(), coefficient)).is_none());
    }
    assert!(answer_to(offered.x25519(), &key[..KEM_LEN - 1]).is_none());
    assert!(answer_to(offered.x25519(), &[&key[..], &[0]].concat()).is_none());
    assert!(answer_to(offered.x25519(), &[]).is_none());
}

#[test]
fn x04_wrong_ciphertext_gives_different_or_no_secret() {
    let offered = offered();
    let answer = answer_to(offered.x25519(), &offered.encapsulation_key()).unwrap();
    let rejected = offered.finish(answer.x25519, &[0; KEM_LEN]).unwrap();
    assert_ne!(rejected.ml_kem, answer.shared.ml_kem);
    assert_ne!(*rejected.ml_kem, [0; 32]);
    assert!(offered.finish(answer.x25519, &answer.ciphertext[..KEM_LEN - 1]).is_none());
    assert!(offered.finish(answer.x25519, &[&answer.ciphertext[..], &[0]].concat()).is_none());
}

/// aws-lc-rs is another implementation of FIPS 203.
#[test]
fn ml_kem_agrees_with_aws_lc() {
    use aws_lc_rs::kem;
    let own = offered();
    let key = kem::EncapsulationKey::new(&kem::ML_KEM_1024, &own.encapsulation_key()).unwrap();
    let (ciphertext, secret) = key.encapsulate().unwrap();
    let answer = answer_to(own.x25519(), &own.encapsulation_key()).unwrap();
    assert_eq!(own.finish(answer.x25519, ciphertext.as_ref()).unwrap().ml_kem.as_slice(), secret.as_ref());

    let theirs = kem::DecapsulationKey::generate(&kem::ML_KEM_1024).unwrap();
    let key = theirs.encapsulation_key().unwrap();
    let answer = answer_to(own.x25519(), key.key_bytes().unwrap().as_ref()).unwrap();
    let secret = theirs.decapsulate(answer.ciphertext.as_slice().into()).unwrap();
    assert_eq!(answer.shared.ml_kem.as_slice(), secret.as_ref());
}
