//! How a client proves to a relay that it knows the relay's password: HMAC-SHA-256 (RFC 2104) over the relay's nonce.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The proof that a client sends for a relay's nonce: HMAC-SHA-256 over it. The password itself is never sent.
#[must_use]
pub fn prove(password: &str, nonce: &[u8; 16]) -> [u8; 32] {
    proof(password, nonce).finalize().into_bytes().into()
}

/// Whether `mac` proves knowledge of the password; compared in constant time.
#[must_use]
pub fn is_proof(password: &str, nonce: &[u8; 16], mac: &[u8; 32]) -> bool {
    proof(password, nonce).verify(mac.into()).is_ok()
}

fn proof(password: &str, nonce: &[u8; 16]) -> Hmac<Sha256> {
    let key = blake3::derive_key("tallow v1 relay password", password.as_bytes());
    // A key shorter than the hash's block is padded with zeros (RFC 2104 §2): padded before, it cannot be refused.
    let mut block = [0; 64];
    for (place, byte) in block.iter_mut().zip(key) {
        *place = byte;
    }
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    mac.update(nonce);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_an_hmac_under_the_derived_key() {
        let key = blake3::derive_key("tallow v1 relay password", b"tallow");
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key).unwrap();
        mac.update(&[9; 16]);
        assert_eq!(prove("tallow", &[9; 16]), <[u8; 32]>::from(mac.finalize().into_bytes()));
        assert!(is_proof("tallow", &[9; 16], &prove("tallow", &[9; 16])));
        assert!(!is_proof("tallow", &[8; 16], &prove("tallow", &[9; 16])));
    }
}
