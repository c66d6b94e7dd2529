//! What the end of a link means, whatever carried it. No state.

use super::super::status::{Refused, RoomEnd};
use super::super::talk::Farewell;
use super::{PEER_LEFT, PEER_LOST};
use crate::link::{pipe, quic};
use crate::wire::close;

/// How a link ended: for the room, for the other leg, and for the seat.
#[derive(Clone, Copy)]
pub(super) struct Gone {
    pub(super) end: RoomEnd,
    /// What the other leg is told.
    pub(super) farewell: Farewell,
    /// A sender's name is free.
    pub(super) done: bool,
}

impl Gone {
    pub(super) const LOST: Self = Self { end: RoomEnd::Lost, farewell: PEER_LOST, done: false };

    const fn left(done: bool) -> Self {
        Self { end: RoomEnd::Left, farewell: PEER_LEFT, done }
    }
}

impl From<&quic::Closed> for Gone {
    fn from(closed: &quic::Closed) -> Self {
        match *closed {
            quic::Closed::Application { code, .. } => Self::left(code == close::DONE),
            quic::Closed::CertificateRefused(_)
            | quic::Closed::NoCommonProtocol
            | quic::Closed::VersionMismatch
            | quic::Closed::Refused
            | quic::Closed::Transport { .. }
            | quic::Closed::TimedOut
            | quic::Closed::Reset => Self::LOST,
        }
    }
}

impl From<&pipe::Closed> for Gone {
    fn from(closed: &pipe::Closed) -> Self {
        match *closed {
            pipe::Closed::Ended => Self::left(true),
            pipe::Closed::Application { code, .. } => Self::left(code == close::DONE),
            pipe::Closed::WebSocketClosed(_)
            | pipe::Closed::WebSocket(_)
            | pipe::Closed::Upgrade(_)
            | pipe::Closed::Tls(_)
            | pipe::Closed::Proxy(_)
            | pipe::Closed::Unknown
            | pipe::Closed::TimedOut
            | pipe::Closed::Lost => Self::LOST,
        }
    }
}

/// What a pipe that never became a link is counted as: who only looked and went is nothing.
pub(super) const fn unwelcome(closed: &pipe::Closed) -> Option<Refused> {
    match closed {
        pipe::Closed::Unknown
        | pipe::Closed::Upgrade(_)
        | pipe::Closed::WebSocket(_)
        | pipe::Closed::Tls(_)
        | pipe::Closed::Proxy(_) => Some(Refused::Violation),
        pipe::Closed::TimedOut => Some(Refused::TooSlow),
        pipe::Closed::Ended
        | pipe::Closed::Application { .. }
        | pipe::Closed::WebSocketClosed(_)
        | pipe::Closed::Lost => None,
    }
}
