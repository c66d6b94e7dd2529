//! Versions and features: each side announces them in its first message. Between peers they are part of the handshake's
//! transcript.

use serde::{Deserialize, Serialize};

/// The protocol versions that this build supports.
pub const SPOKEN: Versions = Versions { min: 1, max: 1 };

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The lowest version.
    pub min: u16,
    /// The highest version.
    pub max: u16,
}

impl Versions {
    /// The highest version that both sides support.
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

/// The features and wishes that a peer or a client announces; a receiver ignores bits that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Features(pub u32);

impl Features {
    /// This machine does not accelerate AES: use ChaCha20-Poly1305.
    pub const NO_AES: Self = Self(1);
    /// The user wants both users to compare the verifier words.
    pub const VERIFY: Self = Self(1 << 1);
    /// This side gathers and reveals no addresses; the peer then gathers none either.
    pub const NO_P2P: Self = Self(1 << 2);
    /// No data may be sent over a relay, in either direction.
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

/// The first message of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`Hello::MAGIC`].
    pub magic: [u8; 4],
    /// The versions that this side supports.
    pub versions: Versions,
    /// The features that this side announces.
    pub features: Features,
}

impl Hello {
    /// The bytes that identify the protocol.
    pub const MAGIC: [u8; 4] = *b"tlw\x01";

    /// The `Hello` of this build.
    #[must_use]
    pub const fn new(features: Features) -> Self {
        Self { magic: Self::MAGIC, versions: SPOKEN, features }
    }

    /// The version to use with the other side; `None` if it is not tallow or if there is no common version.
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
