//! What a relay knows of each leg, and of each pair of them. Decides nothing; no timers, no bounds.

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

/// Whether a client's link is there. Until its handshake is done, what it says may be a recording of what another one
/// said (RFC 8446 §8): it gets a seat in a reconnect room if nobody loses one for it, and nothing else.
pub(super) enum Proof {
    Pending(Held),
    Given,
}

/// What waits for that.
pub(super) enum Held {
    Nothing,
    /// The seat that is left for the one that the leg has already.
    Former(Role, Former),
    Request(Request),
}

pub(super) enum State {
    /// Before it is paired. In a room it waits.
    Talking { talk: Box<PendingClient>, room: Option<Room> },
    /// Its partner is in the pair.
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
    /// Who made it.
    pub(super) source: Source,
}

pub(super) struct Paired {
    pub(super) pair: Pair,
    pub(super) room: Room,
    /// Whose goodbye frees the room's name.
    pub(super) sender: ConnectionId,
    /// How it ends if nothing else happens: a leg that is gone says it.
    pub(super) end: RoomEnd,
}
