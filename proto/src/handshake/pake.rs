//! CPace (draft-irtf-cfrg-cpace), cipher suite CPACE-RISTR255-SHA512, in the initiator-responder form: the sender is A.
//!
//! No output depends on the password alone: a share is a random multiple of the password's point (the generator). ADa
//! and ADb are empty, because the handshake's transcript binds the rest.

use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;
use rand_core::CryptoRng;
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::wire::relay::{Role, RoomId};

/// Length of a share in bytes.
pub(super) const SHARE: usize = 32;
/// The domain separation identifier (draft, "CPACE-RISTR255-SHA512").
const DSI: &[u8] = b"CPaceRistretto255";
const DSI_ISK: &[u8] = b"CPaceRistretto255_ISK";
/// Input block size of SHA-512; zero padding extends the password to a whole block.
const BLOCK: usize = 128;

/// The state of one side of a run: its secret scalar and its public share.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Pake {
    sid: [u8; 16],
    scalar: Zeroizing<Scalar>,
    share: [u8; SHARE],
}

impl Pake {
    pub(super) fn new(password: &[u8], room: &RoomId, sid: [u8; 16], rng: &mut impl CryptoRng) -> Self {
        let scalar = Zeroizing::new(Scalar::random(rng));
        let generator = generator(password, &identifiers(room), &sid);
        #[expect(clippy::arithmetic_side_effects, reason = "arithmetic in a group")]
        let share = (*scalar * *generator).compress().to_bytes();
        Self { sid, scalar, share }
    }

    pub(super) const fn share(&self) -> [u8; SHARE] {
        self.share
    }

    /// The intermediate session key (ISK); `None` if the peer's share is not a valid point, or if the result is the
    /// identity.
    pub(super) fn finish(self, role: Role, theirs: &[u8]) -> Option<Zeroizing<[u8; 64]>> {
        let shares = match role {
            Role::Sender => [&self.share[..], b"", theirs, b""],
            Role::Receiver => [theirs, b"", &self.share[..], b""],
        };
        session_key(&self.sid, &self.scalar, theirs, shares)
    }
}

/// The channel identifier CI. It contains no negotiated value, because the sender computes its share before the
/// negotiation.
pub(super) fn identifiers(room: &RoomId) -> Vec<u8> {
    let mut identifiers = Vec::new();
    for part in [&b"tallow/1"[..], b"sender", b"receiver", &room.0] {
        lv(part, |bytes| identifiers.extend_from_slice(bytes));
    }
    identifiers
}

/// The generator derived from the password (draft, `calculate_generator`).
pub(super) fn generator(password: &[u8], identifiers: &[u8], sid: &[u8]) -> Zeroizing<RistrettoPoint> {
    let mut hash = Sha512::new();
    let mut filled = 0_usize;
    for part in [DSI, password] {
        lv(part, |bytes| {
            filled = filled.saturating_add(bytes.len());
            hash.update(bytes);
        });
    }
    let padding = [0; BLOCK];
    let padding = padding.get(..(BLOCK - 1).saturating_sub(filled)).unwrap_or_default();
    for part in [padding, identifiers, sid] {
        lv(part, |bytes| hash.update(bytes));
    }
    let uniform: Zeroizing<[u8; 64]> = Zeroizing::new(hash.finalize().into());
    Zeroizing::new(RistrettoPoint::from_uniform_bytes(&uniform))
}

/// The ISK from this side's scalar, the peer's share, and `Ya, ADa, Yb, ADb` in this order.
pub(super) fn session_key(
    sid: &[u8],
    scalar: &Scalar,
    theirs: &[u8],
    shares: [&[u8]; 4],
) -> Option<Zeroizing<[u8; 64]>> {
    let theirs = CompressedRistretto::from_slice(theirs).ok()?.decompress()?;
    #[expect(clippy::arithmetic_side_effects, reason = "arithmetic in a group")]
    let point = Zeroizing::new(scalar * theirs);
    if *point == RistrettoPoint::identity() {
        return None;
    }
    let point = Zeroizing::new(point.compress().to_bytes());
    let mut hash = Sha512::new();
    for part in [DSI_ISK, sid, point.as_slice()].into_iter().chain(shares) {
        lv(part, |bytes| hash.update(bytes));
    }
    Some(Zeroizing::new(hash.finalize().into()))
}

/// Writes the length of a byte string in LEB128, then the byte string (draft, `prepend_len`).
fn lv(bytes: &[u8], mut write: impl FnMut(&[u8])) {
    let mut length = bytes.len();
    while length > 0x7f {
        write(&[0x80 | (length & 0x7f) as u8]);
        length >>= 7;
    }
    write(&[length as u8]);
    write(bytes);
}

#[cfg(test)]
mod tests;
