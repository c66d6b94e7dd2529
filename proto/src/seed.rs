//! The one source of randomness of a node: a 32-byte seed that the runtime draws from the system, and children of it.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 bytes of randomness. Everything random in a node is derived from one of these, so that a run can be replayed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A seed from bytes that the caller drew from the system (or, in a test, made up).
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A child: independent of its siblings with other labels.
    #[must_use]
    pub fn derive(&self, label: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("tallow v1 seed");
        hasher.update(&self.0).update(label.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// A cryptographic generator that starts here.
    #[must_use]
    pub fn rng(&self) -> ChaCha20Rng {
        ChaCha20Rng::from_seed(self.0)
    }

    /// The bytes, for what wants a seed of its own (quinn-proto's endpoint).
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Splits off one random seed and moves on: successive calls give independent ones.
    #[must_use]
    pub fn split(&mut self) -> Self {
        let mut rng = self.rng();
        let (mut own, mut child) = ([0; 32], [0; 32]);
        rng.fill_bytes(&mut own);
        rng.fill_bytes(&mut child);
        self.0 = own;
        own.zeroize();
        Self(child)
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(***)")
    }
}
