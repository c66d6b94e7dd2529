//! The handshake: two peers that share only a code derive common keys over a relay that they do not trust.
//!
//! [`Handshake`] exchanges three frames. CPace (a PAKE) proves knowledge of the code. X25519 with ML-KEM-1024 keeps the
//! session secret even from an attacker that records it and has a quantum computer later. Key confirmations bind both
//! to every byte of the handshake. [`Guesses`] counts the failed attempts at a code.

mod guesses;
mod kem;
mod machine;
mod pake;
mod schedule;

pub use guesses::Guesses;
pub use machine::{Config, Failure, FailureReason, Handshake, Output, Secret};
pub use schedule::{Keys, ReconnectKey, RecordKey, Suite, Verifier};

/// The keys of a sender and a receiver after a successful handshake, for the tests of later layers.
#[cfg(test)]
pub(crate) fn keyed(sender: crate::wire::Features, receiver: crate::wire::Features) -> (Keys, Keys) {
    machine::tests::keyed(sender, receiver)
}

#[cfg(test)]
pub(crate) mod vectors;
