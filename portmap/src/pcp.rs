//! PCP (RFC 6887): one MAP request for a UDP port, and its answer. IPv4 only; it opens no IPv6 firewall.
//!
//! ```text
//! Requesting ⇄ Mapped ─► Releasing ─► Finished
//!    └─ withdrawn ─► AwaitingLateAnswer ──┘
//! ```
//! It accepts answers from the gateway's port with the nonce of the request, which only hosts on the path can know.
//! Errors without a nonce (a server that cannot parse a request cannot repeat its nonce) are accepted only while
//! nothing was granted. Timers: [`Retry`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use crate::client::{Client, Due, Epoch, Failure, LIFETIME, Outcome, Retry, Target, late_answer_deadline, take};
use crate::{Instant, Protocol, Transmit};

const VERSION: u8 = 2;
const MAP: u8 = 1;
const ANSWER: u8 = 0x80;
const UDP: u8 = 17;
const SUCCESS: u8 = 0;
const UNSUPPORTED_VERSION: u8 = 1;
/// NAT-PMP's version: its servers answer a PCP request with it and [`UNSUPPORTED_VERSION`] (RFC 6887 §9).
const NATPMP_VERSION: u8 = 0;

/// The PCP client; the module's documentation describes its states.
#[derive(Debug)]
pub(crate) struct Pcp {
    target: Target,
    nonce: [u8; 12],
    epoch: Epoch,
    /// The external address that was granted last; a renewal suggests it.
    suggested: SocketAddrV4,
    has_grant: bool,
    state: State,
    out: Option<Vec<u8>>,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
enum State {
    Requesting(Retry),
    Mapped,
    /// Another client has the mapping; an answer may still arrive.
    AwaitingLateAnswer {
        kept: Option<SocketAddrV4>,
        until: Instant,
    },
    Releasing(Retry),
    Finished,
}

/// An answer to a MAP request.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    result: u8,
    lifetime: u32,
    epoch: u32,
    nonce: [u8; 12],
    port: u16,
    external: Option<SocketAddrV4>,
}

/// A datagram from the gateway.
#[derive(Debug, PartialEq, Eq)]
enum Received {
    Answer(Answer),
    /// The gateway does not support PCP.
    Unsupported,
    /// An error response to a request that the gateway could not parse.
    Error,
}

impl Pcp {
    pub(crate) fn new(now: Instant, target: Target, rng: &mut ChaCha20Rng) -> Self {
        let mut nonce = [0; 12];
        rng.fill_bytes(&mut nonce);
        Self {
            target,
            nonce,
            epoch: Epoch::default(),
            suggested: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, target.internal_port),
            has_grant: false,
            state: State::Requesting(Retry::request(now)),
            out: None,
            outcome: None,
        }
    }

    fn request(&self, lifetime: Duration) -> Vec<u8> {
        let lifetime = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        // A request that deletes a mapping suggests no address (RFC 6887 §15).
        let suggested = if lifetime == 0 { SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0) } else { self.suggested };
        let mut data = vec![VERSION, MAP, 0, 0];
        data.extend(lifetime.to_be_bytes());
        data.extend(self.target.local.to_ipv6_mapped().octets());
        data.extend(self.nonce);
        data.extend([UDP, 0, 0, 0]);
        data.extend(self.target.internal_port.to_be_bytes());
        data.extend(suggested.port().to_be_bytes());
        data.extend(suggested.ip().to_ipv6_mapped().octets());
        data
    }

    fn handle_answer(&mut self, now: Instant, answer: &Answer) {
        if answer.nonce != self.nonce || answer.port != self.target.internal_port {
            return;
        }
        let is_valid = self.epoch.is_valid_pcp(now, answer.epoch);
        let granted = match answer.external {
            Some(external) if answer.result == SUCCESS && answer.lifetime > 0 => {
                Some((external, Duration::from_secs(answer.lifetime.into())))
            }
            Some(_) | None => None,
        };
        match (&self.state, granted) {
            (State::Requesting(_) | State::Mapped, Some((external, lifetime))) => {
                let outcome = Outcome::of(external, lifetime);
                self.outcome = Some(outcome);
                match outcome {
                    Outcome::Granted(_) => {
                        (self.has_grant, self.suggested) = (true, external);
                        self.state = State::Mapped;
                    }
                    Outcome::Failed(_) => self.state = State::Releasing(Retry::release(now)),
                }
            }
            (State::AwaitingLateAnswer { kept, .. }, Some((external, _))) if *kept != Some(external) => {
                self.release(now)
            }
            // The answer to an earlier request; the confirmation of the deletion follows.
            (State::Releasing(_), Some(_)) => {}
            (State::Requesting(_), None) => self.fail(if is_valid { Failure::Refused } else { Failure::StateLost }),
            // Unsolicited: the gateway announces the end of the mapping, or repeats an old refusal.
            (State::Mapped, None) if answer.result == SUCCESS || !is_valid => self.fail(Failure::StateLost),
            (State::Mapped, None) => {}
            (State::AwaitingLateAnswer { .. }, _) | (State::Releasing(_), None) => self.state = State::Finished,
            (State::Finished, _) => {}
        }
    }

    /// Whether this is the first request and not a renewal.
    const fn is_first(&self) -> bool {
        matches!(self.state, State::Requesting(_)) && !self.has_grant
    }

    /// A mapping that could not be renewed remains until its lifetime ends.
    fn fail(&mut self, failure: Failure) {
        self.outcome = Some(Outcome::Failed(failure));
        self.state = if self.has_grant { State::Mapped } else { State::Finished };
    }
}

impl Client for Pcp {
    fn protocol(&self) -> Protocol {
        Protocol::Pcp
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddrV4, data: &[u8]) {
        if from != self.target.server {
            return;
        }
        match decode(data) {
            Some(Received::Answer(answer)) => self.handle_answer(now, &answer),
            Some(Received::Unsupported) if self.is_first() => self.fail(Failure::Unsupported),
            Some(Received::Error) if self.is_first() => self.fail(Failure::Refused),
            Some(Received::Unsupported | Received::Error) | None => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Requesting(retry) => match retry.due(now) {
                Due::Send => self.out = Some(self.request(LIFETIME)),
                Due::GiveUp => self.fail(Failure::NoAnswer),
                Due::Nothing => {}
            },
            State::Releasing(retry) => match retry.due(now) {
                Due::Send => self.out = Some(self.request(Duration::ZERO)),
                Due::GiveUp => self.state = State::Finished,
                Due::Nothing => {}
            },
            State::AwaitingLateAnswer { until, .. } if *until <= now => self.state = State::Finished,
            State::AwaitingLateAnswer { .. } | State::Mapped | State::Finished => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Requesting(retry) | State::Releasing(retry) => Some(retry.at()),
            State::AwaitingLateAnswer { until, .. } => Some(*until),
            State::Mapped | State::Finished => None,
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        let data = self.out.take()?;
        Some(Transmit { to: self.target.server.into(), from: Some(self.target.local.into()), data })
    }

    fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    fn renew(&mut self, now: Instant) {
        if matches!(self.state, State::Mapped) {
            self.state = State::Requesting(Retry::request(now));
        }
    }

    fn release(&mut self, now: Instant) {
        match self.state {
            State::Requesting(_) | State::Mapped | State::AwaitingLateAnswer { .. } => {
                self.out = None;
                self.state = State::Releasing(Retry::release(now));
            }
            State::Releasing(_) | State::Finished => {}
        }
    }

    fn close(&mut self, now: Instant) {
        self.release(now);
        if let State::Releasing(retry) = &mut self.state {
            self.out = None;
            *retry = Retry::close(now, self.has_grant);
        }
    }

    fn withdraw(&mut self, now: Instant, kept: Option<SocketAddrV4>) {
        match self.state {
            State::Requesting(_) if !self.has_grant => {
                self.out = None;
                self.state = State::AwaitingLateAnswer { kept, until: late_answer_deadline(now) };
            }
            State::Requesting(_) | State::Mapped => self.release(now),
            State::AwaitingLateAnswer { .. } | State::Releasing(_) | State::Finished => {}
        }
    }

    fn abort(&mut self) {
        self.state = State::Finished;
    }

    fn awaits_late_answer(&self) -> bool {
        matches!(self.state, State::AwaitingLateAnswer { .. })
    }

    fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }
}

/// RFC 6887 §7.2 and §11.1. Options are ignored, since the request has none.
fn decode(data: &[u8]) -> Option<Received> {
    match *data {
        [NATPMP_VERSION, op, 0, UNSUPPORTED_VERSION, ..] if op & ANSWER != 0 => return Some(Received::Unsupported),
        [VERSION, op, ..] if op == ANSWER | MAP => {}
        _ => return None,
    }
    let mut rest = data;
    let &[_, _, _, result] = take(&mut rest)?;
    let lifetime = u32::from_be_bytes(*take(&mut rest)?);
    let epoch = u32::from_be_bytes(*take(&mut rest)?);
    let _reserved: &[u8; 12] = take(&mut rest)?;
    if result == UNSUPPORTED_VERSION {
        return Some(Received::Unsupported);
    }
    if rest.is_empty() && result != SUCCESS {
        return Some(Received::Error);
    }
    let nonce = *take(&mut rest)?;
    let &[protocol, ..] = take::<4>(&mut rest)?;
    let port = u16::from_be_bytes(*take(&mut rest)?);
    let external_port = u16::from_be_bytes(*take(&mut rest)?);
    let external = Ipv6Addr::from(*take::<16>(&mut rest)?);
    if protocol != UDP {
        return None;
    }
    let external = match external.to_canonical() {
        IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, external_port)),
        IpAddr::V6(_) => None,
    };
    Some(Received::Answer(Answer { result, lifetime, epoch, nonce, port, external }))
}

#[cfg(test)]
mod tests;
