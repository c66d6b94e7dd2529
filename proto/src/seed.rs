//! The source of all randomness of a node: a 32-byte seed that the runtime draws from the system, and seeds derived
//! from it.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 random bytes. A node derives all its random values from one seed, so that a run can be replayed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A seed from bytes that the caller drew from the system (or, in a test, made up).
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Derives a seed that is independent of those with other labels.
    #[must_use]
    pub fn derive(&self, label: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("tallow v1 seed");
        hasher.update(&self.0).update(label.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// A cryptographic random number generator with this seed.
    #[must_use]
    pub fn rng(&self) -> ChaCha20Rng {
        ChaCha20Rng::from_seed(self.0)
    }

    /// The bytes, for libraries that need a seed (quinn-proto's endpoint).
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Splits off a random seed and changes this one, so that successive calls return independent seeds.
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
