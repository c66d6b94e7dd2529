//! Answers STUN Binding requests (RFC 8489) at the QUIC port, for clients that want to connect directly. A relay has a
//! responder, and so has the relay inside a sender.
//!
//! It answers the requests that [`Guard::ask`] allows for their source. The source address may be forged: its owner
//! then receives at most [`stun::MAX_GAIN`] bytes more than the forger sent, at that limited rate. No timers. Bound:
//! [`MAX_ANSWERS`] per socket; requests beyond it are not answered.

use std::collections::VecDeque;

use super::limits::{Guard, Source};
use crate::Instant;
use crate::net::{Arrival, Ecn, Transmit};
use crate::p2p::stun;

/// The most answers that wait for their socket.
pub const MAX_ANSWERS: usize = 64;

/// The queued answers of one socket.
#[derive(Default)]
pub struct StunResponder(VecDeque<(Arrival, Vec<u8>)>);

impl StunResponder {
    /// Handles a STUN datagram. Returns whether it will be answered; `None` if it is not a request.
    pub fn handle(&mut self, now: Instant, guard: &mut Guard, arrival: Arrival, data: &[u8]) -> Option<bool> {
        let answer = stun::answer(data, arrival.from)?;
        let is_answered = guard.ask(now, Source::of(arrival.from)).is_ok() && self.0.len() < MAX_ANSWERS;
        if is_answered {
            self.0.push_back((arrival, answer));
        }
        Some(is_answered)
    }

    /// The next answer. It leaves from the local address at which the request arrived.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (Arrival { from: to, local_ip: src_ip, .. }, answer) = self.0.pop_front()?;
        buf.extend_from_slice(&answer);
        Some(Transmit { to, src_ip, ecn: Ecn::NotEct, size: answer.len(), segment_size: None })
    }
}
