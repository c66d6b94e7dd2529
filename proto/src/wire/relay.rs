//! The messages between a client and a relay: one postcard enum for each direction, in frames of at most 4 KiB.
//!
//! Variants are appended, never reordered.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Blob, Hello, Versions};

/// The name of a room: a hash of the nameplate. It hides nothing; it only gives all names the same length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RoomId(pub [u8; 32]);

/// The token that proves ownership of a seat: 16 random bytes per code and peer.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner(pub [u8; 16]);

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owner(***)")
    }
}

/// The role of a peer, and its seat in a room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Role {
    /// The peer that offers transfers.
    Sender,
    /// The peer that receives transfers.
    Receiver,
}

impl Role {
    /// The opposite role.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Sender => Self::Receiver,
            Self::Receiver => Self::Sender,
        }
    }
}

/// The seat that a peer had in a code room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Former {
    /// The code room.
    pub room: RoomId,
    /// Proves that the client owns that seat.
    pub owner: Owner,
}

/// Client to relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClientMessage {
    /// The first message.
    Hello(Hello),
    /// Answers the nonce of a relay that requires a password.
    Prove {
        /// HMAC-SHA-256 over the nonce.
        mac: [u8; 32],
    },
    /// Requests a new nameplate and the sender's seat in its room.
    Allocate {
        /// The token that proves ownership of the seat.
        owner: Owner,
    },
    /// Requests a seat in a room.
    Join {
        /// The room.
        room: RoomId,
        /// The seat.
        role: Role,
        /// The token that proves ownership of the seat.
        owner: Owner,
        /// Whether it is a reconnect room. Those have a registry of their own, and either side may wait there.
        again: bool,
    },
    /// Requests a [`RelayMessage::Pong`].
    Ping,
    /// Frees the client's seat and the nameplate.
    Leave,
    /// Requests a seat in a reconnect room, and gives up the client's seat in the code room, where its link is dead.
    Rejoin {
        /// The reconnect room.
        room: RoomId,
        /// The seat, in both rooms.
        role: Role,
        /// The token that proves ownership of the seat.
        owner: Owner,
        /// The seat that the client gives up.
        former: Former,
    },
}

/// Why a relay refused a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefusalReason {
    /// No sender waits in that room: it is unknown, given up or expired. The relay does not distinguish these cases.
    NobodyWaits,
    /// Another sender has that seat.
    NameTaken,
    /// The address sent too many requests.
    RateLimited,
    /// The relay has no free rooms.
    Full,
    /// The relay requires a password, or the client's password was wrong.
    Password,
    /// There is no common version; the relay supports these.
    UnsupportedVersion(Versions),
    /// The relay is shutting down.
    ShuttingDown,
    /// The room was idle, or waited for the second peer, for too long.
    Idle,
    /// Another receiver is, or was, paired with the sender, which still has the nameplate.
    Taken,
}

/// Relay to client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RelayMessage {
    /// The first message.
    Hello {
        /// Versions and features.
        hello: Hello,
        /// The client's address as the relay sees it.
        observed: SocketAddr,
        /// The nonce for [`ClientMessage::Prove`]; all zero if the relay requires no password.
        nonce: [u8; 16],
    },
    /// The client has the sender's seat in a new room.
    Allocated {
        /// The nameplate, to be written in decimal without leading zeros.
        nameplate: u32,
    },
    /// The client has its seat; the other seat is free.
    Waiting,
    /// Both seats are taken. All following bytes of this stream are from the other peer.
    Paired {
        /// How many unidirectional streams each peer may open beside this one.
        streams: u8,
    },
    /// The answer to [`ClientMessage::Ping`].
    Pong,
    /// The relay refuses the request.
    Refused {
        /// The reason.
        reason: RefusalReason,
        /// After how many seconds a retry makes sense; 0: unknown.
        retry_after: u32,
    },
    /// The client should use another relay: `host:port`, UTF-8, untrusted.
    Redirect {
        /// Host and port, at most 255 bytes.
        relay: Blob<255>,
    },
}
