//! The conversation between a client and a relay, one postcard enum each way, in frames of at most 4 KiB.
//!
//! Variants are appended, never reordered.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Blob, Hello, Versions};

/// The name of a room: a hash that hides nothing, it only gives all nameplates one length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RoomId(pub [u8; 32]);

/// 16 random bytes per code and peer: who may take a seat again.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner(pub [u8; 16]);

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owner(***)")
    }
}

/// Which of the two seats of a room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Side {
    /// Offers.
    Sender,
    /// Accepts.
    Receiver,
}

impl Side {
    /// The opposite seat.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Sender => Self::Receiver,
            Self::Receiver => Self::Sender,
        }
    }
}

/// The seat of a code room that a peer had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Former {
    /// Which room.
    pub room: RoomId,
    /// Whose seat: shows that it is one's own.
    pub owner: Owner,
}

/// Client to relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClientMessage {
    /// First.
    Hello(Hello),
    /// Answers the nonce of a relay that has a password.
    Prove {
        /// HMAC-SHA-256 over the nonce.
        mac: [u8; 32],
    },
    /// Give me a nameplate, and seat me as its sender.
    Allocate {
        /// Who may take this seat again.
        owner: Owner,
    },
    /// Seat me in this room.
    Join {
        /// Which.
        room: RoomId,
        /// On which side.
        side: Side,
        /// Who may take this seat again.
        owner: Owner,
        /// A reconnect room: a registry of its own, where either side may wait.
        again: bool,
    },
    /// Still there?
    Ping,
    /// Free my seat and the nameplate.
    Leave,
    /// Seat me in this reconnect room; my link in that code room is dead, if there is still one.
    Rejoin {
        /// Which.
        room: RoomId,
        /// On which side, in both.
        side: Side,
        /// Who may take this seat again.
        owner: Owner,
        /// The seat that is left.
        former: Former,
    },
}

/// Why a relay turned a client away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RefusalReason {
    /// No sender waits in that room: unknown, used, full or expired, all the same.
    NobodyWaits,
    /// Another sender sits there.
    NameTaken,
    /// Too many requests from this address.
    RateLimited,
    /// No room is left.
    Full,
    /// A password is needed, or it was wrong.
    Password,
    /// No common version; these are spoken here.
    UnsupportedVersion(Versions),
    /// The relay is going down.
    ShuttingDown,
    /// The room stood idle, or waited, for too long.
    Idle,
    /// Another receiver has the sender. Only the relay inside a sender says so; any other keeps it to itself whose room
    /// is in use.
    Taken,
}

/// Relay to client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RelayMessage {
    /// First.
    Hello {
        /// Versions and features.
        hello: Hello,
        /// The client's address as the relay sees it.
        observed: SocketAddr,
        /// For [`ClientMessage::Prove`]; all zero when no password is asked for.
        nonce: [u8; 16],
    },
    /// The room's number; its sender is seated.
    Allocated {
        /// Decimal, without leading zeros.
        nameplate: u32,
    },
    /// Seated; the other side has not come yet.
    Waiting,
    /// Both are here. What follows on this stream is the other peer's.
    Paired {
        /// How many unidirectional streams each peer may open beside this one.
        streams: u8,
    },
    /// Still here.
    Pong,
    /// No.
    Refused {
        /// Why.
        reason: RefusalReason,
        /// When it makes sense to ask again, in seconds; 0: unknown.
        retry_after: u32,
    },
    /// Ask that relay instead: `host:port`, UTF-8, untrusted.
    Redirect {
        /// At most 255 bytes.
        relay: Blob<255>,
    },
}
