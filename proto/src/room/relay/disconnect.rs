//! What the end of a link means to the relay, for all kinds of links. No state.

use super::super::status::{Refused, RoomEnd};
use super::{PEER_LEFT, PEER_LOST};
use crate::link::connections::CloseReason;
use crate::room::farewell::Farewell;
use crate::wire::close;

/// The consequences of a link's end: for the room, for the other leg, and for the seat.
#[derive(Clone, Copy)]
pub(super) struct Disconnect {
    pub(super) end: RoomEnd,
    /// The close code and reason for the other leg.
    pub(super) farewell: Farewell,
    /// Whether a sender's room name becomes free.
    pub(super) done: bool,
}

impl Disconnect {
    pub(super) const LOST: Self = Self { end: RoomEnd::Lost, farewell: PEER_LOST, done: false };

    const fn left(done: bool) -> Self {
        Self { end: RoomEnd::Left, farewell: PEER_LEFT, done }
    }
}

impl From<CloseReason> for Disconnect {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Ended => Self::left(true),
            CloseReason::Application(code) => Self::left(code == close::DONE),
            CloseReason::Refused
            | CloseReason::Certificate(_)
            | CloseReason::Proxy(_)
            | CloseReason::Incompatible
            | CloseReason::Protocol
            | CloseReason::TimedOut
            | CloseReason::Lost => Self::LOST,
        }
    }
}

/// How to count a TCP connection that closed before its handshake was complete; a clean early close is not counted.
pub(super) const fn refusal_of(reason: CloseReason) -> Option<Refused> {
    match reason {
        CloseReason::Incompatible | CloseReason::Protocol | CloseReason::Certificate(_) | CloseReason::Proxy(_) => {
            Some(Refused::Violation)
        }
        CloseReason::TimedOut => Some(Refused::TooSlow),
        CloseReason::Ended | CloseReason::Application(_) | CloseReason::Refused | CloseReason::Lost => None,
    }
}
