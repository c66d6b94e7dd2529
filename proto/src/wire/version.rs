//! Versions and features: said in the first message each way, part of the handshake's transcript between peers.

use serde::{Deserialize, Serialize};

/// The versions that this build speaks, lowest and highest.
pub const SPOKEN: Versions = Versions { min: 1, max: 1 };

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Lowest.
    pub min: u16,
    /// Highest.
    pub max: u16,
}

impl Versions {
    /// The highest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let highest = self.max.min(other.max);
        (highest >= self.min && highest >= other.min).then_some(highest)
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{} to {}", self.min, self.max) }
    }
}

/// What a peer or a client says it can or wants; bits that a side does not know are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Features(pub u32);

impl Features {
    /// AES is not accelerated here: use ChaCha20-Poly1305.
    pub const NO_AES: Self = Self(1);
    /// The person at this end wants both to compare the verifier words.
    pub const VERIFY: Self = Self(1 << 1);
    /// Gather and reveal no addresses; the other side then gathers none either.
    pub const NO_P2P: Self = Self(1 << 2);
    /// Send no data over a relay, in either direction.
    pub const P2P_ONLY: Self = Self(1 << 3);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`Hello::MAGIC`].
    pub magic: [u8; 4],
    /// What this side speaks.
    pub versions: Versions,
    /// What this side can or wants.
    pub features: Features,
}

impl Hello {
    /// The bytes that tell tallow from anything else.
    pub const MAGIC: [u8; 4] = *b"tlw\x01";

    /// This build's greeting.
    #[must_use]
    pub const fn new(features: Features) -> Self {
        Self { magic: Self::MAGIC, versions: SPOKEN, features }
    }

    /// The version to speak with the other side, if it is tallow and there is a common one.
    #[must_use]
    pub fn agree(&self, other: &Self) -> Option<u16> {
        if other.magic == Self::MAGIC { self.versions.common(other.versions) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_picked() {
        let v = |min, max| Versions { min, max };
        assert_eq!(v(1, 3).common(v(2, 5)), Some(3));
        assert_eq!(v(1, 1).common(v(1, 1)), Some(1));
        assert_eq!(v(1, 2).common(v(3, 4)), None);
        assert_eq!(v(3, 4).common(v(1, 2)), None);
    }
}
