//! Tells who asks at which address the relay sees it: STUN Binding (RFC 8489) at the port of QUIC, for clients that want to meet
//! directly.
//!
//! It decides which questions are answered: those that [`super::Guard::ask`] allows the source. That a question's address may be forged
//! costs whom it belongs to at most [`stun::MAX_GAIN`] bytes more than were asked with, as often as that. No timers. Bound:
//! [`MAX_ANSWERS`] of each socket; what is more is not answered.

use std::collections::VecDeque;

use super::super::limits::Source;
use super::Relay;
use crate::Instant;
use crate::node::{Arrival, Ecn, Transmit};
use crate::p2p::stun;

/// Answers that wait for their socket.
pub(super) const MAX_ANSWERS: usize = 64;

/// The answers of one socket.
#[derive(Default)]
pub(super) struct Answers(VecDeque<(Arrival, Vec<u8>)>);

impl Answers {
    fn push(&mut self, asked: Arrival, answer: Vec<u8>) -> bool {
        let room = self.0.len() < MAX_ANSWERS;
        if room {
            self.0.push_back((asked, answer));
        }
        room
    }

    /// The next one, from where it was asked.
    pub(super) fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (Arrival { from: to, local_ip: src_ip, .. }, answer) = self.0.pop_front()?;
        buf.extend_from_slice(&answer);
        Some(Transmit { to, src_ip, ecn: Ecn::NotEct, size: answer.len(), segment_size: None })
    }
}

impl Relay {
    /// A datagram that is STUN, whatever it says.
    pub(super) fn reflect(&mut self, now: Instant, arrival: Arrival, data: &[u8]) {
        let Some(answer) = stun::answer(data, arrival.from) else { return };
        let Some(door) = self.doors.get_mut(usize::from(arrival.socket.0)) else { return };
        let count = if self.guard.ask(now, Source::of(arrival.from)).is_ok() && door.answers.push(arrival, answer) {
            &mut self.status.stun_answered
        } else {
            &mut self.status.stun_ignored
        };
        *count = count.saturating_add(1);
    }
}
