//! The key schedule: the transcript, the master key, and the keys expanded from it. docs/protocol.md §5 has the
//! formulas and docs/vectors the test vectors.
//!
//! Every key is erased when dropped, and no `Debug` shows one.

use hkdf::HkdfExtract;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::kem::Shared;
use crate::code;
use crate::wire::Features;
use crate::wire::relay::{Owner, Role, RoomId};

/// Length of a key confirmation in bytes.
pub(super) const CONFIRMATION: usize = 32;

/// The result of a successful handshake.
#[derive(Clone)]
pub struct Keys {
    /// The key that seals this side's records.
    pub send: RecordKey,
    /// The key that opens the peer's records.
    pub receive: RecordKey,
    /// The key with which the peers reconnect; it stays that of the session's first handshake.
    pub reconnect: ReconnectKey,
    /// The words that the two users can compare; they stay those of the session's first handshake.
    pub verifier: Verifier,
    /// The AEAD of both directions.
    pub suite: Suite,
    /// The features that the peer announced.
    pub features: Features,
    /// The negotiated protocol version.
    pub version: u16,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("suite", &self.suite)
            .field("features", &self.features)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// The AEAD of a session. No message selects it: both sides derive it from their features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D), where both sides have it in hardware.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

impl Suite {
    /// The suite for two sides with these features.
    #[must_use]
    pub const fn of(ours: Features, theirs: Features) -> Self {
        if ours.with(theirs).has(Features::NO_AES) { Self::ChaCha20Poly1305 } else { Self::Aes256Gcm }
    }
}

/// The record key of one direction, from which the key of each lane is derived.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RecordKey([u8; 32]);

impl RecordKey {
    /// A key from bytes, for tests and tools; real keys come from the handshake.
    #[cfg(test)]
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The AEAD key of a lane.
    #[must_use]
    pub fn lane_key(&self, lane: u32) -> Zeroizing<[u8; 32]> {
        expand(&self.0, &[b"tallow v1 lane", &lane.to_be_bytes()])
    }
}

/// The key with which the peers of a session reconnect. It never changes in a session, so the two sides cannot diverge.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ReconnectKey([u8; 32]);

impl ReconnectKey {
    /// The name of the reconnect room.
    #[must_use]
    pub fn room(&self) -> RoomId {
        RoomId(*expand(&self.0, &[b"tallow v1 again room"]))
    }

    /// The token that proves ownership of this side's seat in that room.
    #[must_use]
    pub fn owner(&self, role: Role) -> Owner {
        let label: &[u8] = match role {
            Role::Sender => b"tallow v1 again owner sender",
            Role::Receiver => b"tallow v1 again owner receiver",
        };
        let bytes = expand(&self.0, &[label]);
        Owner(*bytes.first_chunk().unwrap_or(&[0; 16]))
    }

    /// The pre-shared key that replaces the PAKE's key in a reconnect handshake.
    pub(super) fn pre_shared_key(&self) -> Zeroizing<[u8; 32]> {
        expand(&self.0, &[b"tallow v1 again psk"])
    }
}

/// Seven words (72 bits) that are equal on both sides if, and only if, there is no man in the middle.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Verifier([u16; 7]);

impl Verifier {
    /// The words, most significant first.
    #[must_use]
    pub fn words(&self) -> [&'static str; 7] {
        self.0.map(|number| code::word(number).unwrap_or_default())
    }

    #[expect(clippy::arithmetic_side_effects, reason = "the base is not zero")]
    fn new(bytes: &[u8; 32]) -> Self {
        let mut number = u128::from_be_bytes(*bytes.first_chunk().unwrap_or(&[0; 16]));
        let base = u128::from(code::WORDS);
        let mut words = [0; 7];
        for word in words.iter_mut().rev() {
            *word = u16::try_from(number % base).unwrap_or_default();
            number /= base;
        }
        number.zeroize();
        Self(words)
    }
}

macro_rules! hide {
    ($($secret:ident),*) => { $(
        impl std::fmt::Debug for $secret {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($secret), "(***)"))
            }
        }
    )* };
}
hide!(RecordKey, ReconnectKey, Verifier);

/// The hash of all handshake messages, computed over their raw bytes and never over decoded values.
pub(super) fn transcript(h1: &[u8], h2_without_confirmation: &[u8], room: &RoomId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("tallow v1 handshake");
    for body in [h1, h2_without_confirmation] {
        hasher.update(&length(body)).update(body);
    }
    *hasher.update(&room.0).finalize().as_bytes()
}

/// The master key of a handshake and the transcript that it is bound to.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Schedule {
    master: Zeroizing<[u8; 32]>,
    transcript: [u8; 32],
}

impl Schedule {
    /// `proved`: the PAKE's key, or the pre-shared key.
    pub(super) fn new(transcript: [u8; 32], proved: &[u8], shared: &Shared) -> Self {
        let mut extract = HkdfExtract::<Sha256>::new(Some(&transcript));
        for secret in [proved, shared.x25519.as_slice(), shared.ml_kem.as_slice()] {
            extract.input_ikm(&length(secret));
            extract.input_ikm(secret);
        }
        let (master, _) = extract.finalize();
        Self { master: Zeroizing::new(master.into()), transcript }
    }

    /// The MAC with which `role` proves that it has the keys.
    pub(super) fn confirmation(&self, role: Role) -> [u8; CONFIRMATION] {
        self.confirming(role).finalize().into_bytes().into()
    }

    /// Whether this is the key confirmation of `role`; compared in constant time.
    pub(super) fn confirms(&self, role: Role, confirmation: &[u8; CONFIRMATION]) -> bool {
        self.confirming(role).verify(confirmation.into()).is_ok()
    }

    pub(super) fn records(&self, role: Role) -> RecordKey {
        RecordKey(*self.expand(match role {
            Role::Sender => b"records sender",
            Role::Receiver => b"records receiver",
        }))
    }

    pub(super) fn reconnect(&self) -> ReconnectKey {
        ReconnectKey(*self.expand(b"reconnect"))
    }

    pub(super) fn verifier(&self) -> Verifier {
        Verifier::new(&self.expand(b"verifier"))
    }

    #[cfg(test)]
    pub(super) fn master(&self) -> &[u8; 32] {
        &self.master
    }

    fn confirming(&self, role: Role) -> Hmac<Sha256> {
        let key = self.expand(match role {
            Role::Sender => b"confirm sender",
            Role::Receiver => b"confirm receiver",
        });
        let mut mac = hmac(&key);
        mac.update(&self.transcript);
        mac
    }

    pub(super) fn expand(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        expand(&self.master, &[b"tallow v1 ", label])
    }
}

/// HKDF-Expand to 32 bytes, which is one block: T(1) = HMAC(PRK, info ‖ 1) (RFC 5869 §2.3). The function of the library
/// returns an error for some lengths; with these fixed lengths no error is possible.
fn expand(key: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = hmac(key);
    for part in info {
        mac.update(part);
    }
    mac.update(&[1]);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// HMAC-SHA-256. RFC 2104 §2 pads a short key with zeros to the block size of 64 bytes. This function does so itself,
/// because only a key of the block size lets the library avoid a `Result`.
fn hmac(key: &[u8; 32]) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0; 64]);
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    Hmac::new((&*block).into())
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests;
