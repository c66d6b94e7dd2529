//! Delivers control records exactly once and in order, over a changing set of links.
//!
//! Each record contains a sequence number (from 1, continued over links and generations) and `ack`, the highest
//! sequence number that its sender has received in order. The sender keeps every message until it is acknowledged. When
//! control moves to another link, the sender resends all unacknowledged messages, and the receiver drops those that it
//! already has. On each link the sequence therefore increases by one from a number that the receiver expects, and a gap
//! is a violation. [`Control::Sync`], `Bind`, `KeepAlive` and `Ack` have sequence 0: they may be lost or repeated and
//! are never kept.
//!
//! ```text
//!   send_control ─▶ waiting: [ sent on this link │ to be sent ] ─▶ poll
//!                     ▲ ack drops from here      ▲ cursor: 0 again on another link
//! ```
//! Bounds: [`WAITING`] unacknowledged messages and [`LOOSE`] unsent losable ones.

use std::collections::VecDeque;

use super::Unsent;
use crate::wire::Violation;
use crate::wire::peer::Control;

/// Maximum number of unacknowledged messages.
pub const WAITING: usize = 256;
/// Maximum number of losable messages that wait to be sent.
pub const LOOSE: usize = 16;
/// After this many messages the session sends an ack at once; fewer are acknowledged by the next keep-alive.
const ACK_AFTER: u64 = 32;

/// The delivery class of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Sent by the session itself, with sequence 0.
    Session,
    /// Sequence 0; it may be lost, because the next message of its kind repeats the contents.
    Loose,
    /// Delivered exactly once and in order.
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
            | Control::Placement { .. }
            | Control::Cancel { .. }
            | Control::Bye => Self::Sequenced,
        }
    }
}

/// The state of both directions of one session's control messages.
#[derive(Debug, Default)]
pub(super) struct Reliable {
    /// Sequenced messages that are not acknowledged; the first one has sequence `acked + 1`.
    waiting: VecDeque<Control>,
    /// Losable messages that are not sent yet. The number is the sequence of the last message queued before each of
    /// them: it must not overtake that message, because it may refer to it.
    loose: VecDeque<(u64, Control)>,
    acked: u64,
    /// The highest sequence number sent so far, on any link.
    sent: u64,
    /// How many messages of `waiting` were sent on the present control link.
    cursor: usize,
    received: u64,
    /// The last `ack` that was sealed into a record.
    last_ack: u64,
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

    /// Control moved to another link: all unacknowledged messages are to be sent again.
    pub const fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// Whether no message waits to be sent by [`Self::next`].
    pub fn is_idle(&self) -> bool {
        self.loose.is_empty() && self.cursor >= self.waiting.len()
    }

    /// Passes the next message and its sequence to `seal`; a losable message goes first once it may. `None`: no message
    /// waits, or `seal` returned `None`.
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

    /// The number of messages that the peer has not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.waiting.len()
    }

    /// The `ack` to put into a record that is sealed now; it counts as sent.
    pub const fn take_ack(&mut self) -> u64 {
        self.last_ack = self.received;
        self.received
    }

    /// Whether so many messages arrived that an ack is to be sent at once.
    pub const fn owes_ack(&self) -> bool {
        self.received.saturating_sub(self.last_ack) >= ACK_AFTER
    }

    /// Processes the `ack` of a received record. A lower one than before arrived late, from another link, and is
    /// ignored.
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

    /// Processes the sequence of a received message. True: it is the next one. False: it is a duplicate.
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
mod tests;
