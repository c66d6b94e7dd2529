//! How two peers who share a code, and nothing else, come to share keys over a relay that they do not trust.
//!
//! [`Handshake`] runs three frames: CPace proves the code, X25519 with ML-KEM-1024 keeps what follows secret even from a recorder
//! with a quantum computer, confirmations bind both to every byte said. [`Guesses`] counts how often a code was tried.

mod guesses;
mod kem;
mod machine;
mod pake;
mod schedule;

pub use guesses::Guesses;
pub use machine::{Config, Failure, FailureReason, Handshake, Output, Secret, TIME};
pub use schedule::{Keys, ReconnectKey, RecordKey, Suite, Verifier};

/// The keys of a sender and a receiver that met, for the tests of what comes after.
#[cfg(test)]
pub(crate) fn keyed(sender: crate::wire::Features, receiver: crate::wire::Features) -> (Keys, Keys) {
    machine::tests::keyed(sender, receiver)
}

#[cfg(test)]
#[path = "vectors_tests.rs"]
pub(crate) mod vectors;
