//! What the end of a link means, whatever carried it. No state.

use super::super::status::{Refused, RoomEnd};
use super::{PEER_LEFT, PEER_LOST};
use crate::link::connections::CloseReason;
use crate::room::farewell::Farewell;
use crate::wire::close;

/// How a link ended: for the room, for the other leg, and for the seat.
#[derive(Clone, Copy)]
pub(super) struct Disconnect {
    pub(super) end: RoomEnd,
    /// What the other leg is told.
    pub(super) farewell: Farewell,
    /// A sender's name is free.
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

/// Refusal statistic for a TCP connection that closed before its handshake; a clean early close is not counted.
pub(super) const fn unwelcome(reason: CloseReason) -> Option<Refused> {
    match reason {
        CloseReason::Incompatible | CloseReason::Protocol | CloseReason::Certificate(_) | CloseReason::Proxy(_) => {
            Some(Refused::Violation)
        }
        CloseReason::TimedOut => Some(Refused::TooSlow),
        CloseReason::Ended | CloseReason::Application(_) | CloseReason::Refused | CloseReason::Lost => None,
    }
}
