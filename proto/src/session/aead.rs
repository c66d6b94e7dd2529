//! The two ciphers of a session (RFC 5116: AES-256-GCM and ChaCha20-Poly1305), by AWS-LC, or in pure Rust by RustCrypto.

#[cfg(feature = "aws-lc")]
pub(super) use self::aws_lc::Key;
#[cfg(not(feature = "aws-lc"))]
pub(super) use self::rust_crypto::Key;

/// Length of a record's tag in bytes.
pub const TAG: usize = 16;
/// Bytes of a nonce.
const NONCE: usize = 12;
/// Bytes of a key.
const KEY: usize = 32;

#[cfg(feature = "aws-lc")]
mod aws_lc {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    use super::{KEY, NONCE, TAG};
    use crate::handshake::Suite;

    /// A key of one cipher.
    pub(in crate::session) struct Key(LessSafeKey);

    impl Key {
        /// `None` only if the crypto library can't be used.
        pub fn new(suite: Suite, bytes: &[u8; KEY]) -> Option<Self> {
            let algorithm = match suite {
                Suite::Aes256Gcm => &AES_256_GCM,
                Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            };
            Some(Self(LessSafeKey::new(UnboundKey::new(algorithm, bytes).ok()?)))
        }

        /// Encrypts in place and returns the tag.
        pub fn seal(&self, nonce: [u8; NONCE], aad: &[u8], plain: &mut [u8]) -> Option<[u8; TAG]> {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), plain).ok()?;
            tag.as_ref().try_into().ok()
        }

        /// Opens `ciphertext ‖ tag` in place; `None`: it is not genuine.
        pub fn open<'a>(&self, nonce: [u8; NONCE], aad: &[u8], sealed: &'a mut [u8]) -> Option<&'a [u8]> {
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.0.open_in_place(nonce, Aad::from(aad), sealed).ok().map(|plain| &*plain)
        }
    }
}

#[cfg(any(not(feature = "aws-lc"), all(test, feature = "rust-crypto")))]
mod rust_crypto {
    use aes_gcm::aead::{AeadInOut, KeyInit};
    use aes_gcm::{Aes256Gcm, Nonce};
    use chacha20poly1305::ChaCha20Poly1305;

    use super::{KEY, NONCE, TAG};
    use crate::handshake::Suite;

    /// A key of one cipher.
    pub(in crate::session) enum Key {
        Aes(Box<Aes256Gcm>),
        ChaCha(Box<ChaCha20Poly1305>),
    }

    impl Key {
        /// Always a key; as with the other library.
        #[cfg_attr(not(test), expect(clippy::unnecessary_wraps, reason = "the other library can fail"))]
        pub fn new(suite: Suite, bytes: &[u8; KEY]) -> Option<Self> {
            Some(match suite {
                Suite::Aes256Gcm => Self::Aes(Box::new(Aes256Gcm::new(bytes.into()))),
                Suite::ChaCha20Poly1305 => Self::ChaCha(Box::new(ChaCha20Poly1305::new(bytes.into()))),
            })
        }

        /// Encrypts in place and returns the tag.
        pub fn seal(&self, nonce: [u8; NONCE], aad: &[u8], plain: &mut [u8]) -> Option<[u8; TAG]> {
            let nonce = Nonce::from(nonce);
            let tag = match self {
                Self::Aes(key) => key.encrypt_inout_detached(&nonce, aad, plain.into()),
                Self::ChaCha(key) => key.encrypt_inout_detached(&nonce, aad, plain.into()),
            };
            tag.ok().map(Into::into)
        }

        /// Opens `ciphertext ‖ tag` in place; `None`: it is not genuine.
        pub fn open<'a>(&self, nonce: [u8; NONCE], aad: &[u8], sealed: &'a mut [u8]) -> Option<&'a [u8]> {
            let (plain, tag) = sealed.split_last_chunk_mut::<TAG>()?;
            let (nonce, tag) = (Nonce::from(nonce), (*tag).into());
            let opened = match self {
                Self::Aes(key) => key.decrypt_inout_detached(&nonce, aad, (&mut *plain).into(), &tag),
                Self::ChaCha(key) => key.decrypt_inout_detached(&nonce, aad, (&mut *plain).into(), &tag),
            };
            opened.ok().map(|()| &*plain)
        }
    }
}

#[cfg(all(test, feature = "aws-lc", feature = "rust-crypto"))]
mod tests {
    use super::{aws_lc, rust_crypto};
    use crate::handshake::Suite;

    #[test]
    fn both_libraries_seal_and_open_the_same() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let (key, nonce, aad) = ([7; 32], [9; 12], b"header");
            let (one, other) = (aws_lc::Key::new(suite, &key).unwrap(), rust_crypto::Key::new(suite, &key).unwrap());
            for len in [0, 1, 16, 1000] {
                let plain: Vec<u8> = (0..len).map(|at| at as u8).collect();
                let (mut first, mut second) = (plain.clone(), plain.clone());
                let tag = one.seal(nonce, aad, &mut first).unwrap();
                assert_eq!(other.seal(nonce, aad, &mut second), Some(tag));
                assert_eq!(first, second);
                first.extend(tag);
                let mut forged = first.clone();
                forged[0] ^= 1;
                assert_eq!(other.open(nonce, aad, &mut first), Some(&plain[..]));
                assert_eq!(other.open(nonce, aad, &mut forged), None);
            }
            assert_eq!(other.open(nonce, aad, &mut [0; 15]), None);
        }
    }
}
