//! In work: only what a session needs of a finished handshake.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::wire::Features;

/// The key of one direction's records in one generation.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RecordKey(pub [u8; 32]);

impl RecordKey {
    /// The key of one lane: HKDF-Expand(key, "tallow v1 lane" ‖ u32 lane).
    #[must_use]
    pub fn lane_key(&self, lane: u32) -> [u8; 32] {
        let mut key = [0; 32];
        if let Ok(hkdf) = Hkdf::<Sha256>::from_prk(&self.0) {
            let _ = hkdf.expand_multi_info(&[b"tallow v1 lane", &lane.to_be_bytes()], &mut key);
        }
        key
    }
}

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKey(***)")
    }
}

/// The AEAD of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

/// What a handshake gives.
#[derive(Debug)]
pub struct Keys {
    /// This side's records.
    pub send: RecordKey,
    /// The other side's records.
    pub receive: RecordKey,
    /// The AEAD.
    pub suite: Suite,
    /// What the peer said.
    pub features: Features,
    /// The version that both speak.
    pub version: u16,
}
