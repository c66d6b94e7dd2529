//! The hybrid key exchange: X25519 (RFC 7748) and ML-KEM-1024 (FIPS 203) in parallel. The sender offers both public
//! keys and the receiver answers; an attacker that breaks only one of the two learns nothing.

use ml_kem::{Decapsulate, DecapsulationKey1024, Encapsulate, EncapsulationKey1024, Kem, KeyExport, MlKem1024};
use rand_core::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Length of an encapsulation key, and of a ciphertext, in bytes (FIPS 203, table 3).
#[cfg(test)]
pub(super) const KEM_LEN: usize = 1568;

/// The sender's two key pairs.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Offered {
    x25519: StaticSecret,
    ml_kem: DecapsulationKey1024,
}

/// The shared secrets, which both sides have in the end.
pub(super) struct Shared {
    pub(super) x25519: Zeroizing<[u8; 32]>,
    pub(super) ml_kem: Zeroizing<[u8; 32]>,
}

/// The receiver's answer.
pub(super) struct Answer {
    pub(super) x25519: [u8; 32],
    pub(super) ciphertext: Vec<u8>,
    pub(super) shared: Shared,
}

impl Offered {
    pub(super) fn new(rng: &mut impl CryptoRng) -> Self {
        let x25519 = StaticSecret::random_from_rng(rng);
        let (ml_kem, _) = MlKem1024::generate_keypair_from_rng(rng);
        Self { x25519, ml_kem }
    }

    pub(super) fn x25519(&self) -> [u8; 32] {
        PublicKey::from(&self.x25519).to_bytes()
    }

    pub(super) fn encapsulation_key(&self) -> Vec<u8> {
        self.ml_kem.encapsulation_key().to_bytes().to_vec()
    }

    /// Computes the shared secrets. `None` if the X25519 key is of low order or the ciphertext has the wrong length. A
    /// wrong ciphertext of the right length gives a random secret (FIPS 203, implicit rejection), and the key
    /// confirmation fails then.
    pub(super) fn finish(&self, x25519: [u8; 32], ciphertext: &[u8]) -> Option<Shared> {
        let ml_kem = Zeroizing::new(self.ml_kem.decapsulate(ciphertext.try_into().ok()?).into());
        Some(Shared { x25519: agree(&self.x25519, x25519)?, ml_kem })
    }
}

/// Computes the receiver's answer. `None` if the X25519 key is of low order, or if the encapsulation key has the wrong
/// length or a coefficient that is not reduced (FIPS 203 §7.2, modulus check).
pub(super) fn answer(x25519: [u8; 32], encapsulation_key: &[u8], rng: &mut impl CryptoRng) -> Option<Answer> {
    let encapsulation_key = EncapsulationKey1024::new(encapsulation_key.try_into().ok()?).ok()?;
    let own = StaticSecret::random_from_rng(rng);
    let shared = agree(&own, x25519)?;
    let (ciphertext, ml_kem) = encapsulation_key.encapsulate_with_rng(rng);
    let shared = Shared { x25519: shared, ml_kem: Zeroizing::new(ml_kem.into()) };
    Some(Answer { x25519: PublicKey::from(&own).to_bytes(), ciphertext: ciphertext.to_vec(), shared })
}

/// RFC 7748 §6.1: an all-zero result means that the other key was of low order.
fn agree(own: &StaticSecret, theirs: [u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let shared = own.diffie_hellman(&PublicKey::from(theirs));
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

#[cfg(test)]
pub(in crate::handshake) mod tests;
