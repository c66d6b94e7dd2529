//! What it takes to go on with a session that lost its links: the credentials of its reconnect room, and how long it is
//! kept.

use std::time::Duration;

use super::super::PATIENCE;
use super::super::rendezvous::Question;
use crate::Instant;
use crate::handshake::{ReconnectKey, Secret, Verifier};
use crate::wire::relay::Role;

/// Upper bound for a sender waiting for the confirmation: longer than the receiver stays reachable after completion.
const CONFIRM_WITHIN: Duration = Duration::from_secs(900);

/// What outlives a handshake.
#[derive(Clone)]
pub(super) struct ReconnectCredentials {
    pub key: ReconnectKey,
    pub verifier: Verifier,
}

impl ReconnectCredentials {
    pub fn secret(&self) -> Secret {
        Secret::Again { reconnect: self.key.clone(), verifier: self.verifier.clone() }
    }

    pub fn question(&self, role: Role) -> Question {
        let (room, owner) = (self.key.room(), self.key.owner(role));
        Question::Join { room, role, owner, again: true, former: None }
    }
}

/// What this side knows of a reconnect room.
pub(super) enum ReconnectState {
    /// No handshake came so far.
    None,
    /// Receiver: the sender waits there, or with the code. `code` is the question for the latter.
    Unsure { credentials: ReconnectCredentials, code: Question, again: bool, switch: Instant },
    /// The session's own.
    Known(ReconnectCredentials),
}

/// How long a session without a link is kept.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Patience {
    /// What the person said.
    pub give_up_after: Option<Duration>,
    /// The offer was accepted.
    pub accepted: bool,
    /// All is stored at the receiver, and only the confirmation is missing.
    pub unconfirmed: bool,
}

impl Patience {
    pub(super) fn limit(self) -> Option<Duration> {
        match self {
            Self { accepted: false, give_up_after, .. } => Some(give_up_after.unwrap_or(PATIENCE)),
            Self { unconfirmed: true, give_up_after, .. } => Some(give_up_after.unwrap_or(CONFIRM_WITHIN)),
            Self { give_up_after, .. } => give_up_after,
        }
    }
}
