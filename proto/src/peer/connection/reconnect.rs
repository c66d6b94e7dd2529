//! What a session needs to continue after it lost its links: the credentials of its reconnect room, and the time for
//! which it is kept.

use std::time::Duration;

use super::super::PATIENCE;
use super::super::rendezvous::Question;
use crate::Instant;
use crate::handshake::{ReconnectKey, Secret, Verifier};
use crate::wire::relay::Role;

/// How long a sender without a link waits for the confirmation once everything is stored. A receiver that has put it in
/// place stays for 20 s (`transfer::receiver::FAREWELL`); the rest is for one that still puts it in place.
pub(super) const CONFIRM_WITHIN: Duration = Duration::from_secs(60);
/// How long where the last acknowledgements are missing as well: the receiver may be complete and gone, or asleep for a
/// night with a rest to be sent.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(12 * 3600);

/// The credentials of a handshake that are kept after it.
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

/// What this side knows about the reconnect room.
pub(super) enum ReconnectState {
    /// No handshake has run so far.
    None,
    /// Receiver: the sender waits either in this room or in the code room. `code` is the question for the latter.
    Unsure { credentials: ReconnectCredentials, code: Question, again: bool, switch: Instant },
    /// The session's own credentials.
    Known(ReconnectCredentials),
}

/// Decides how long a session without a link is kept.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Patience {
    /// The time that the user configured.
    pub give_up_after: Option<Duration>,
    /// The offer was accepted.
    pub accepted: bool,
    /// What the transfer waits for.
    pub missing: Missing,
    /// The reconnect room is at a relay: the time for the confirmation begins there, see
    /// `Connection::expect_confirmation`.
    pub at_relay: bool,
}

/// What a transfer waits for, as far as this side knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Missing {
    /// Data, or this side is the receiver.
    Data,
    /// Sender: everything was sent, and not all of it is acknowledged.
    Acknowledgements,
    /// Sender: everything is stored at the receiver, and the confirmation is missing.
    Confirmation,
}

impl Patience {
    pub(super) fn limit(self) -> Option<Duration> {
        let own = match (self.accepted, self.missing) {
            (false, _) => Some(PATIENCE),
            (true, Missing::Confirmation) if !self.at_relay => Some(CONFIRM_WITHIN),
            (true, Missing::Acknowledgements | Missing::Confirmation) => Some(ACKNOWLEDGE_WITHIN),
            (true, Missing::Data) => None,
        };
        self.give_up_after.or(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_depends_on_what_is_missing() {
        let limit =
            |give_up_after, accepted, missing| Patience { give_up_after, accepted, missing, at_relay: false }.limit();
        let all = [Missing::Data, Missing::Acknowledgements, Missing::Confirmation];
        for missing in all {
            assert_eq!(limit(None, false, missing), Some(PATIENCE));
            let said = Some(Duration::from_secs(5));
            assert_eq!((limit(said, false, missing), limit(said, true, missing)), (said, said));
        }
        let accepted = all.map(|missing| limit(None, true, missing));
        assert_eq!(accepted, [None, Some(Duration::from_secs(43_200)), Some(Duration::from_secs(60))]);
        assert!(CONFIRM_WITHIN > crate::transfer::receiver::FAREWELL);
    }
}
