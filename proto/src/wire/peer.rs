//! The messages of two peers: the handshake's three bodies, and the control records of a session.
//!
//! Variants are appended, never reordered. What the records carry is the transfer's; the session knows its own four.

use serde::{Deserialize, Serialize};

use super::candidate::Candidates;
use super::{Blob, Capped, Hello, Untrusted, Versions};

/// The bodies of the handshake, each in one frame of at most 4 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandshakeMessage {
    /// Sender to receiver.
    H1 {
        /// Versions and features.
        hello: Hello,
        /// A code, or a session that meets again.
        mode: Mode,
        /// CPace's session id.
        sid: [u8; 16],
        /// CPace's share Ya (32 bytes); empty in mode `Again`. A wrong length here and below fails like a wrong code, with the
        /// same words, so the caps leave some room.
        pake: Blob<64>,
        /// X25519 public key.
        x25519: [u8; 32],
        /// ML-KEM-1024 encapsulation key, 1,568 bytes.
        encapsulation_key: Blob<1600>,
    },
    /// Receiver to sender. The confirmation is the last 32 bytes of the body.
    H2 {
        /// Versions and features.
        hello: Hello,
        /// The version that both will speak.
        version: u16,
        /// CPace's share Yb (32 bytes); empty in mode `Again`.
        pake: Blob<64>,
        /// X25519 public key.
        x25519: [u8; 32],
        /// ML-KEM-1024 ciphertext, 1,568 bytes.
        ciphertext: Blob<1600>,
        /// HMAC-SHA-256 of the transcript with the receiver's confirmation key.
        confirmation: [u8; 32],
    },
    /// Sender to receiver.
    H3 {
        /// HMAC-SHA-256 of the transcript with the sender's confirmation key.
        confirmation: [u8; 32],
    },
    /// The confirmation was not right.
    WrongCode,
    /// No common version; these are spoken here.
    UnsupportedVersion(Versions),
}

/// What a handshake rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The words of a code, by CPace.
    Code,
    /// The reconnect key of the session, as a pre-shared key.
    Again,
}

/// The plaintext of a control record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRecord {
    /// 1, 2, … per direction over all links; 0: repeatable and losable.
    pub sequence: u64,
    /// The highest sequence received in order.
    pub ack: u64,
    /// What it says.
    pub message: Control,
}

/// A range of chunks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRange {
    /// First chunk.
    pub first: u64,
    /// Last chunk, not before the first.
    pub last: u64,
}

/// Chunk ranges in one record: ascending, without overlap.
pub type ChunkRanges = Capped<ChunkRange, 1000>;

/// How much arrived in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneCount {
    /// The lane.
    pub lane: u32,
    /// Records that arrived whole.
    pub records: u64,
    /// Bytes of the next one.
    pub partial: u32,
}

/// Ranges that a receiver has from before, with a digest of their chunk hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// The chunks, at most 1,024 of them.
    pub range: ChunkRange,
    /// BLAKE3 over their hashes in order.
    pub digest: [u8; 32],
}

/// What a transfer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferKind {
    /// Files, directories, symbolic links.
    Files,
    /// Bytes of unknown length: `chunk_size` is the longest chunk, and there are no entries.
    Stream,
}

/// The start of an offer; `pages` messages [`Control::Page`] follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Counts up in the session, from 1.
    pub transfer: u32,
    /// What it carries.
    pub kind: TransferKind,
    /// Bytes of the virtual stream in one chunk, or in the longest chunk of a stream: a power of two from 64 KiB to 4 MiB.
    pub chunk_size: u32,
    /// Entries of the manifest, at most 1,000,000.
    pub entries: u32,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Manifest pages that follow.
    pub pages: u32,
}

/// Why a receiver does not take an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeclineReason {
    /// The person said no.
    Person,
    /// A name or an entry that the receiver's rules refuse.
    Policy,
    /// Too little space.
    NoSpace,
    /// Writing is not possible there.
    Io,
    /// More than the receiver's limits allow.
    TooLarge,
}

/// Why a transfer ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CancelReason {
    /// The person interrupted it.
    Interrupted,
    /// A file changed while it was sent.
    SourceChanged,
    /// A file could not be read or written.
    Io,
    /// The other side broke a rule.
    Violation,
    /// The verifier words were not confirmed.
    NotVerified,
}

/// The messages of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// The session's: the first record on a new link; `ack` in the record says from where to repeat. Repeatable.
    Sync,
    /// The session's: nothing else was said for a while. Repeatable.
    KeepAlive {
        /// What arrived, per living lane of this link.
        lanes: Capped<LaneCount, 64>,
        /// Whether this side reads its links at the moment.
        reading: bool,
    },
    /// The session's: a link proves that it belongs to it. Repeatable.
    Bind {
        /// 16 random bytes of this side.
        nonce: [u8; 16],
        /// The other side's nonce, come back.
        echo: Option<[u8; 16]>,
    },
    /// I have this for you.
    Offer(Offer),
    /// A page of the manifest that was offered, in order.
    Page {
        /// The transfer.
        transfer: u32,
        /// The encoded page.
        page: Blob<{ 60 << 10 }>,
    },
    /// Send it.
    Accept {
        /// The transfer.
        transfer: u32,
        /// Chunks that need not be sent, if their digests are right.
        have: Capped<Have, 1000>,
        /// Bytes of unacknowledged chunks that the receiver will hold.
        credit: u32,
    },
    /// Don't.
    Decline {
        /// The transfer.
        transfer: u32,
        /// Why.
        reason: DeclineReason,
        /// In the receiver's words; at most 800 bytes are accepted.
        text: Reason,
    },
    /// These chunks are stored. Repeatable.
    Ack {
        /// The transfer.
        transfer: u32,
        /// Which.
        ranges: ChunkRanges,
        /// Bytes of unacknowledged chunks that the receiver will hold.
        credit: u32,
    },
    /// All chunks were sent.
    End {
        /// The transfer.
        transfer: u32,
        /// Chunks of the virtual stream.
        chunks: u64,
        /// Different chunks that were sent.
        moved: u64,
        /// The root over manifest and chunk hashes.
        root: [u8; 32],
    },
    /// Everything is in place, under this root.
    Verified {
        /// The transfer.
        transfer: u32,
        /// The receiver's root.
        root: [u8; 32],
    },
    /// This transfer is over, unfinished.
    Cancel {
        /// The transfer; 0: before any was offered.
        transfer: u32,
        /// Why.
        reason: CancelReason,
        /// In this side's words; at most 800 bytes are accepted.
        text: Reason,
    },
    /// Nothing more will come from here.
    Bye,
    /// The sender's word on the next range of [`Control::Accept`]'s `have`.
    Checked {
        /// The transfer.
        transfer: u32,
        /// The range, as it was said.
        range: ChunkRange,
        /// Whether the sender has the same there; else all of it is sent.
        same: bool,
    },
    /// Where this side may be reached directly. Said once in a round or several times, as addresses become known.
    CandidateOffer {
        /// Counts the tries of a session, from 1; whoever hears of a later one joins it.
        round: u32,
        /// Addresses that were not said in this round before.
        candidates: Candidates,
        /// SHA-256 of the certificate that this side shows to whoever dials it.
        certificate: [u8; 32],
        /// A probe that reaches this side bears it.
        token: [u8; 16],
        /// The NAT of this side gives each destination a mapping of its own (RFC 4787 §4.1), as far as is known.
        dependent: bool,
    },
    /// No more candidates of this side follow in this round.
    CandidatesDone {
        /// The round.
        round: u32,
    },
    /// The round led to nothing, or what it led to is lost: its links are over. Whoever hears it says it too.
    DirectFailed {
        /// The round; 0: the floor, beside which a direct link lives.
        round: u32,
    },
    /// The sender's: a link of this round carries the session now.
    DirectConnected {
        /// The round.
        round: u32,
    },
}

/// A text of the other side, at most 800 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reason(Untrusted);

impl Reason {
    /// Longest text, in bytes.
    pub const MAX: usize = 800;

    /// The start of `text` that fits.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Untrusted::new(text.get(..text.floor_char_boundary(Self::MAX)).unwrap_or_default().to_owned()))
    }

    /// The text.
    #[must_use]
    pub const fn text(&self) -> &Untrusted {
        &self.0
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_raw())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Reason;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "at most {} bytes of text", Reason::MAX)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Reason, E> {
                if text.len() > Reason::MAX {
                    Err(E::custom("text too long"))
                } else {
                    Ok(Reason(Untrusted::new(text.to_owned())))
                }
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
