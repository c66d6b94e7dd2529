//! From shared secrets to keys: transcript, master key, and the keys expanded from it. docs/protocol.md §5 has the formulas and
//! docs/vectors the test vectors.
//!
//! Every key is erased when dropped, and no `Debug` shows one.

use hkdf::HkdfExtract;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::kem::Shared;
use crate::code;
use crate::wire::Features;
use crate::wire::relay::{Owner, RoomId, Side};

/// Length of a confirmation in bytes.
pub(super) const CONFIRMATION: usize = 32;

/// What a handshake ends with.
#[derive(Clone)]
pub struct Keys {
    /// Seals this side's records.
    pub send: RecordKey,
    /// Opens the other side's.
    pub receive: RecordKey,
    /// How the two meet again; it stays that of the session's first handshake.
    pub reconnect: ReconnectKey,
    /// What the two people can compare; it stays that of the session's first handshake.
    pub verifier: Verifier,
    /// The AEAD of both directions.
    pub suite: Suite,
    /// What the other side can or wants.
    pub features: Features,
    /// The version that both speak.
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

/// The AEAD of a session. No message chooses it: it follows from both sides' features.
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

/// The key of one direction, from which each lane has its own.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RecordKey([u8; 32]);

impl RecordKey {
    /// A key from bytes: for tests and tools; the handshake makes the real ones.
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

/// How two peers of a session meet again. It stays the same for the session, so nothing can diverge.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ReconnectKey([u8; 32]);

impl ReconnectKey {
    /// The reconnect room's name.
    #[must_use]
    pub fn room(&self) -> RoomId {
        RoomId(*expand(&self.0, &[b"tallow v1 again room"]))
    }

    /// Who may take this side's seat in that room.
    #[must_use]
    pub fn owner(&self, side: Side) -> Owner {
        let label: &[u8] = match side {
            Side::Sender => b"tallow v1 again owner sender",
            Side::Receiver => b"tallow v1 again owner receiver",
        };
        let bytes = expand(&self.0, &[label]);
        Owner(*bytes.first_chunk().unwrap_or(&[0; 16]))
    }

    /// What stands in the place of the PAKE's key.
    pub(super) fn pre_shared_key(&self) -> Zeroizing<[u8; 32]> {
        expand(&self.0, &[b"tallow v1 again psk"])
    }
}

/// Seven words (72 bits) that are the same on both sides if, and only if, nobody sits between them.
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

/// Everything that was said, as it was said: over raw bytes, never over what was understood.
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
    /// `proved`: the PAKE's key, or the pre-shared one.
    pub(super) fn new(transcript: [u8; 32], proved: &[u8], shared: &Shared) -> Self {
        let mut extract = HkdfExtract::<Sha256>::new(Some(&transcript));
        for secret in [proved, shared.x25519.as_slice(), shared.ml_kem.as_slice()] {
            extract.input_ikm(&length(secret));
            extract.input_ikm(secret);
        }
        let (master, _) = extract.finalize();
        Self { master: Zeroizing::new(master.into()), transcript }
    }

    /// What this side says to prove that it has the keys.
    pub(super) fn confirmation(&self, side: Side) -> [u8; CONFIRMATION] {
        self.confirming(side).finalize().into_bytes().into()
    }

    /// Whether this is what that side would say; in constant time.
    pub(super) fn confirms(&self, side: Side, confirmation: &[u8; CONFIRMATION]) -> bool {
        self.confirming(side).verify(confirmation.into()).is_ok()
    }

    pub(super) fn records(&self, side: Side) -> RecordKey {
        RecordKey(*self.expand(match side {
            Side::Sender => b"records sender",
            Side::Receiver => b"records receiver",
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

    fn confirming(&self, side: Side) -> Hmac<Sha256> {
        let key = self.expand(match side {
            Side::Sender => b"confirm sender",
            Side::Receiver => b"confirm receiver",
        });
        let mut mac = hmac(&key);
        mac.update(&self.transcript);
        mac
    }

    pub(super) fn expand(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        expand(&self.master, &[b"tallow v1 ", label])
    }
}

/// HKDF-Expand to 32 bytes, which is one block: T(1) = HMAC(PRK, info ‖ 1) (RFC 5869 §2.3). The library's can fail by the lengths
/// it is given; with these lengths there is nothing that could.
fn expand(key: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = hmac(key);
    for part in info {
        mac.update(part);
    }
    mac.update(&[1]);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// HMAC-SHA-256. RFC 2104 §2 fills a short key with zeros to the block's 64 bytes; done here, since a key of one block is the one
/// length that the library takes without a `Result`.
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
#[path = "schedule_tests.rs"]
mod tests;
