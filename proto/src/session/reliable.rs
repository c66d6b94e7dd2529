//! Control records exactly once and in order, over links that come and go.
//!
//! Each record carries its own sequence (from 1, running on over links and generations) and `ack`, the highest one received in
//! order. What is not acknowledged is kept; on another link all of it is sent again from the first, and the other side drops
//! what it has. So on each link the sequence goes up by one from a number that the other side can join on to, and a gap
//! is a violation. [`Control::Sync`], `Bind`, `KeepAlive` and `Ack` have sequence 0: repeatable, losable, never kept.
//!
//! ```text
//!   send_control ─▶ waiting: [ sent on this link │ to be sent ] ─▶ poll
//!                     ▲ ack drops from here      ▲ cursor: 0 again on another link
//! ```
//! Bounds: [`WAITING`] messages that wait for their ack, [`LOOSE`] losable ones.

use std::collections::VecDeque;

use super::Unsent;
use crate::wire::Violation;
use crate::wire::peer::Control;

/// How many messages may wait for their ack.
pub const WAITING: usize = 256;
/// How many losable messages may wait to be sent.
pub const LOOSE: usize = 16;
/// After so many messages an ack is owed at once; fewer wait for the next keep-alive.
const ACK_AFTER: u64 = 32;

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The session's own, with sequence 0.
    Session,
    /// Sequence 0: the latest one repeats what was lost.
    Loose,
    /// Exactly once and in order.
    Sequenced,
}

impl Class {
    pub const fn of(message: &Control) -> Self {
        match message {
            Control::Sync | Control::KeepAlive { .. } | Control::Bind { .. } => Self::Session,
            Control::Ack { .. } => Self::Loose,
            Control::Offer(_)
            | Control::Page { .. }
            | Control::Accept { .. }
            | Control::Decline { .. }
            | Control::End { .. }
            | Control::Checked { .. }
            | Control::CandidateOffer { .. }
            | Control::CandidatesDone { .. }
            | Control::DirectFailed { .. }
            | Control::DirectConnected { .. }
            | Control::Verified { .. }
            | Control::Cancel { .. }
            | Control::Bye => Self::Sequenced,
        }
    }
}

/// Both directions of one session's control messages.
#[derive(Debug, Default)]
pub(super) struct Reliable {
    /// Sequenced, not acknowledged; the first has sequence `acked + 1`.
    waiting: VecDeque<Control>,
    /// Losable, not sent; each with the sequence of the last message that was said before it, which it must not overtake: it may
    /// make no sense without it.
    loose: VecDeque<(u64, Control)>,
    acked: u64,
    /// The highest sequence that was ever sent.
    sent: u64,
    /// How many of `waiting` were sent on the present link.
    cursor: usize,
    received: u64,
    /// The highest `ack` that this side has sent.
    told: u64,
}

impl Reliable {
    pub fn has_room(&self) -> bool {
        self.waiting.len() < WAITING && self.loose.len() < LOOSE
    }

    pub fn push(&mut self, message: Control) -> Result<(), Unsent> {
        let full = match Class::of(&message) {
            Class::Session => return Err(Unsent::SessionOwned(message)),
            Class::Loose => self.loose.len() >= LOOSE,
            Class::Sequenced => self.waiting.len() >= WAITING,
        };
        if full {
            return Err(Unsent::Full(message));
        }
        if Class::of(&message) == Class::Loose {
            self.loose.push_back((self.acked.saturating_add(self.waiting.len() as u64), message));
        } else {
            self.waiting.push_back(message);
        }
        Ok(())
    }

    /// Another link: all that was not acknowledged goes again.
    pub const fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// Whether [`Self::next`] has one.
    pub fn is_idle(&self) -> bool {
        self.loose.is_empty() && self.cursor >= self.waiting.len()
    }

    /// The next message with its sequence, given to `seal`; losable ones as soon as they may. `None`: there is none, or `seal` gave
    /// none.
    pub fn next<T>(&mut self, seal: impl FnOnce(u64, &Control) -> Option<T>) -> Option<T> {
        let said = self.acked.saturating_add(self.cursor as u64);
        if let Some((_, message)) = self.loose.pop_front_if(|(after, _)| *after <= said) {
            return seal(0, &message);
        }
        let message = self.waiting.get(self.cursor)?;
        self.cursor = self.cursor.saturating_add(1);
        let sequence = self.acked.saturating_add(self.cursor as u64);
        self.sent = self.sent.max(sequence);
        seal(sequence, message)
    }

    /// How many messages the other side has not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.waiting.len()
    }

    /// The `ack` for a record that is sealed now.
    pub const fn tell(&mut self) -> u64 {
        self.told = self.received;
        self.received
    }

    /// So much arrived that the other side should hear of it.
    pub const fn owes_ack(&self) -> bool {
        self.received.saturating_sub(self.told) >= ACK_AFTER
    }

    /// The `ack` of any record. One that is lower than the last comes late, from another link.
    pub fn handle_ack(&mut self, ack: u64) -> Result<(), Violation> {
        if ack > self.sent {
            return Err(Violation::AckedUnsent);
        }
        while self.acked < ack && self.waiting.pop_front().is_some() {
            self.acked = self.acked.saturating_add(1);
            self.cursor = self.cursor.saturating_sub(1);
        }
        Ok(())
    }

    /// The sequence of a message from the other side. True: it is the next. False: it was here already.
    pub const fn handle_sequence(&mut self, sequence: u64) -> Result<bool, Violation> {
        if sequence <= self.received {
            return Ok(false);
        }
        if sequence != self.received.saturating_add(1) {
            return Err(Violation::ControlGap);
        }
        self.received = sequence;
        Ok(true)
    }
}

#[cfg(test)]
#[path = "reliable_tests.rs"]
mod tests;
