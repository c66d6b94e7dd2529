//! The state of each leg and of each pair. Decides nothing; no timers, no bounds.

use super::super::forward::Pair;
use super::super::greeting::Request;
use super::super::limits::Source;
use super::super::pending::PendingClient;
use super::super::status::{RoomEnd, RoomTag};
use super::{ConnectionId, PairId};
use crate::Instant;
use crate::wire::relay::{Former, Role};

/// A client.
pub(super) struct Leg {
    pub(super) source: Source,
    pub(super) proof: Proof,
    pub(super) state: State,
}

/// Whether a client's handshake is complete. Until then, its data may be a replay of another connection's data (RFC
/// 8446 §8). Such a leg may only get a seat in a reconnect room, and only if no other link loses a seat for it.
pub(super) enum Proof {
    Pending(Held),
    Given,
}

/// What the relay does when the handshake is complete.
pub(super) enum Held {
    Nothing,
    /// End the seat that the join replaced; the leg has its new seat already.
    Former(Role, Former),
    Request(Request),
}

pub(super) enum State {
    /// The leg is not paired. With a room, it waits in that room.
    Talking { talk: Box<PendingClient>, room: Option<Room> },
    /// The leg is a member of this pair.
    Paired(PairId),
}

impl Leg {
    pub(super) const fn is_half_open(&self) -> bool {
        match self.proof {
            Proof::Pending(_) => true,
            Proof::Given => false,
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) tag: RoomTag,
    pub(super) since: Instant,
    /// The source that created the room.
    pub(super) source: Source,
}

pub(super) struct Paired {
    pub(super) pair: Pair,
    pub(super) room: Room,
    /// The sender's leg. When it leaves for good, the room's name becomes free.
    pub(super) sender: ConnectionId,
    /// The reason that is reported when the pair ends; a closed leg sets it.
    pub(super) end: RoomEnd,
}
