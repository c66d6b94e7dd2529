//! The messages between two peers: the bodies of the handshake, and the control records of a session.
//!
//! Variants are appended, never reordered. The session itself handles `Sync`, `KeepAlive` and `Bind`; the other
//! messages belong to the transfer and to the negotiation of direct paths.

use serde::{Deserialize, Serialize};

use super::candidate::Candidates;
use super::{Blob, BoundedVec, Hello, Untrusted, Versions};

/// The bodies of the handshake, each in one frame of at most 4 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandshakeMessage {
    /// Sender to receiver.
    H1 {
        /// Versions and features.
        hello: Hello,
        /// Whether the handshake uses a code or reconnects a session.
        mode: Mode,
        /// CPace's session id.
        sid: [u8; 16],
        /// CPace's share Ya (32 bytes); empty in mode `Again`. A wrong length here and below fails like a wrong code,
        /// with the same text, so the bounds leave some room.
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
        /// The negotiated version.
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
    /// The key confirmation failed.
    WrongCode,
    /// There is no common version; the sender of this message supports these.
    UnsupportedVersion(Versions),
}

/// The secret on which a handshake is based.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Mode {
    /// The password of a code, by CPace.
    Code,
    /// The reconnect key of the session, as a pre-shared key.
    Again,
}

/// The plaintext of a control record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRecord {
    /// 1, 2, … per direction over all links; 0: the message may be repeated or lost.
    pub sequence: u64,
    /// The highest sequence received in order.
    pub ack: u64,
    /// The message.
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

/// The chunk ranges of one record: ascending, without overlap.
pub type ChunkRanges = BoundedVec<ChunkRange, 1000>;

/// How much has arrived in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneCount {
    /// The lane.
    pub lane: u32,
    /// The number of complete records.
    pub records: u64,
    /// Bytes of the next, incomplete record.
    pub partial: u32,
}

/// A range of chunks that a receiver has from an earlier attempt, with a digest of their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// The chunks, at most 1,024 of them.
    pub range: ChunkRange,
    /// BLAKE3 over their hashes in order.
    pub digest: [u8; 32],
}

/// The kind of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferKind {
    /// Files, directories, symbolic links.
    Files,
    /// A byte stream of unknown length: `chunk_size` is the maximum length of a chunk, and there are no entries.
    Stream,
}

/// The start of an offer; `pages` messages [`Control::Page`] follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The number of the transfer in the session, from 1.
    pub transfer: u32,
    /// The kind of the transfer.
    pub kind: TransferKind,
    /// Bytes of the virtual stream in one chunk, or in the longest chunk of a stream: a power of two from 64 KiB to 4
    /// MiB.
    pub chunk_size: u32,
    /// Entries of the manifest, at most 1,000,000.
    pub entries: u32,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Manifest pages that follow.
    pub pages: u32,
}

/// Why a receiver declines an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DeclineReason {
    /// The user declined.
    Person,
    /// The receiver's rules refuse a name or an entry.
    Policy,
    /// There is too little space.
    NoSpace,
    /// The receiver cannot write to its destination.
    Io,
    /// The offer exceeds the receiver's limits.
    TooLarge,
}

/// Why a transfer was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CancelReason {
    /// The user interrupted it.
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
    /// Sent by the session: the first control record on a new link. The record's `ack` determines what the peer
    /// resends. May be repeated.
    Sync,
    /// Sent by the session at intervals, to keep the link alive. May be repeated.
    KeepAlive {
        /// How much has arrived in each present lane of this link.
        lanes: BoundedVec<LaneCount, 64>,
        /// Whether the sender of this message reads from its links at the moment.
        reading: bool,
    },
    /// Sent by the session: proves that a link belongs to the session. May be repeated.
    Bind {
        /// 16 random bytes of the sender of this message.
        nonce: [u8; 16],
        /// The nonce that it received from the other side.
        echo: Option<[u8; 16]>,
    },
    /// Offers a transfer.
    Offer(Offer),
    /// A page of the offered manifest; the pages are sent in order.
    Page {
        /// The transfer.
        transfer: u32,
        /// The encoded page.
        page: Blob<{ 60 << 10 }>,
    },
    /// Accepts the offer.
    Accept {
        /// The transfer.
        transfer: u32,
        /// Chunks that the sender need not send, if their digests are right.
        have: BoundedVec<Have, 1000>,
        /// Bytes of unacknowledged chunks that the receiver will hold.
        credit: u32,
    },
    /// Declines the offer.
    Decline {
        /// The transfer.
        transfer: u32,
        /// The reason.
        reason: DeclineReason,
        /// The receiver's explanation; at most 800 bytes are accepted.
        text: Reason,
    },
    /// Acknowledges chunks that are stored. May be repeated.
    Ack {
        /// The transfer.
        transfer: u32,
        /// The stored chunks.
        ranges: ChunkRanges,
        /// Bytes of unacknowledged chunks that the receiver will hold.
        credit: u32,
    },
    /// Reports that all chunks were sent.
    End {
        /// The transfer.
        transfer: u32,
        /// Chunks of the virtual stream.
        chunks: u64,
        /// The number of distinct chunks that were sent.
        moved: u64,
        /// The root over manifest and chunk hashes.
        root: [u8; 32],
    },
    /// Confirms that the receiver has everything, with this root.
    Verified {
        /// The transfer.
        transfer: u32,
        /// The receiver's root.
        root: [u8; 32],
    },
    /// Cancels the transfer.
    Cancel {
        /// The transfer; 0: before any was offered.
        transfer: u32,
        /// The reason.
        reason: CancelReason,
        /// The explanation of the cancelling side; at most 800 bytes are accepted.
        text: Reason,
    },
    /// The last message of this side in the session.
    Bye,
    /// The sender's result for the next range of [`Control::Accept`]'s `have`.
    Checked {
        /// The transfer.
        transfer: u32,
        /// The range, as the receiver sent it.
        range: ChunkRange,
        /// Whether the sender's chunks in the range are identical; if not, it sends all of them.
        same: bool,
    },
    /// Candidates of this side. Sent once or several times in a round, as addresses become known.
    CandidateOffer {
        /// The number of the round in the session, from 1; a peer that receives a later number joins that round.
        round: u32,
        /// Candidates that were not sent in this round before.
        candidates: Candidates,
        /// SHA-256 of the certificate that this side presents when the peer dials it.
        certificate: [u8; 32],
        /// The token that the peer must put into its probes to this side.
        token: [u8; 16],
        /// Whether the NAT of this side has an address-dependent mapping (RFC 4787 §4.1), as far as is known.
        dependent: bool,
    },
    /// No more candidates of this side follow in this round.
    CandidatesDone {
        /// The round.
        round: u32,
    },
    /// The round failed, or its path is lost: all links of the round have ended. A peer that receives it answers with
    /// the same.
    DirectFailed {
        /// The round; 0: the relay link that serves as fallback beside a direct link.
        round: u32,
    },
    /// Sent by the sender: a link of this round carries the session now.
    DirectConnected {
        /// The round.
        round: u32,
    },
    /// Sent by the receiver, at most once and before [`Control::Verified`]: what is in place there is not exactly what
    /// was offered.
    Placement {
        /// The transfer.
        transfer: u32,
        /// How it differs.
        placement: Placement,
    },
}

/// How what a receiver has put in place differs from the offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    /// Names that are others there.
    pub renamed: u32,
    /// Symbolic links that were left out because they lead, or may lead, out of what was sent.
    pub links_outside: u32,
    /// Symbolic links that were left out because the receiver's disk can't hold links.
    pub links_unsupported: u32,
}

/// An explanation from the peer, at most 800 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reason(Untrusted);

impl Reason {
    /// Maximum length of the text, in bytes.
    pub const MAX: usize = 800;

    /// Truncates `text` to the maximum length.
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
mod tests;
