//! Tells who asks at which address it is seen: STUN Binding (RFC 8489) at the port of QUIC, for clients that want to
//! meet directly. A relay has it, and the relay inside a sender.
//!
//! It decides which questions are answered: those that [`Guard::ask`] allows the source. That a question's address may
//! be forged costs whom it belongs to at most [`stun::MAX_GAIN`] bytes more than were asked with, as often as that. No
//! timers. Bound: [`MAX_ANSWERS`] of each socket; what is more is not answered.

use std::collections::VecDeque;

use super::limits::{Guard, Source};
use crate::Instant;
use crate::net::{Arrival, Ecn, Transmit};
use crate::p2p::stun;

/// StunResponder that wait for their socket.
pub const MAX_ANSWERS: usize = 64;

/// The answers of one socket.
#[derive(Default)]
pub struct StunResponder(VecDeque<(Arrival, Vec<u8>)>);

impl StunResponder {
    /// A datagram that is STUN, whatever it says. Whether it will be answered; `None`: it is no question.
    pub fn handle(&mut self, now: Instant, guard: &mut Guard, arrival: Arrival, data: &[u8]) -> Option<bool> {
        let answer = stun::answer(data, arrival.from)?;
        let is_answered = guard.ask(now, Source::of(arrival.from)).is_ok() && self.0.len() < MAX_ANSWERS;
        if is_answered {
            self.0.push_back((arrival, answer));
        }
        Some(is_answered)
    }

    /// The next one, from where it was asked.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (Arrival { from: to, local_ip: src_ip, .. }, answer) = self.0.pop_front()?;
        buf.extend_from_slice(&answer);
        Some(Transmit { to, src_ip, ecn: Ecn::NotEct, size: answer.len(), segment_size: None })
    }
}
