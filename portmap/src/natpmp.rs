//! NAT-PMP (RFC 6886): requests the gateway's external address, then a mapping of a UDP port.
//!
//! ```text
//! Address ─► Ready ─► Mapping ─► Mapped ─► Releasing ─► Finished
//!    withdrawn ─► AwaitingLateAnswer ──────────┴───────────┘
//! ```
//! The request for the address is sent at once, since it changes nothing at the gateway. The request for the mapping
//! follows [`HEAD_START`] later, or when PCP has failed. Otherwise a gateway with both protocols would map the port
//! twice; and NAT-PMP deletes by internal port alone, so deleting one mapping could delete the other. NAT-PMP has no
//! nonce: answers from the gateway's port for this internal port are accepted. Timers: [`Retry`], [`HEAD_START`].

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::client::{
    Client, Due, Epoch, Failure, LIFETIME, Outcome, Retry, Target, after, is_public, late_answer_deadline, take,
};
use crate::{Instant, Protocol, Transmit};

const VERSION: u8 = 0;
const ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;
const ANSWER: u8 = 0x80;
const SUCCESS: u16 = 0;
/// The answer of a NAT-PMP server to a PCP request.
const UNSUPPORTED_VERSION: u16 = 1;
/// The head start that PCP has before a mapping is requested.
pub(crate) const HEAD_START: Duration = Duration::from_millis(500);

/// The NAT-PMP client; the module's documentation describes its states.
#[derive(Debug)]
pub(crate) struct NatPmp {
    target: Target,
    epoch: Epoch,
    /// The external port that was granted last, or the internal one.
    suggested: u16,
    has_grant: bool,
    /// When PCP's head start ends; `None`: it has ended.
    ready_at: Option<Instant>,
    state: State,
    out: Option<Vec<u8>>,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
enum State {
    Address(Retry),
    Ready {
        external: Ipv4Addr,
    },
    Mapping {
        external: Ipv4Addr,
        retry: Retry,
    },
    Mapped,
    /// Another client has the mapping; an answer may still arrive.
    AwaitingLateAnswer {
        external: Ipv4Addr,
        kept: Option<SocketAddrV4>,
        until: Instant,
    },
    Releasing(Retry),
    Finished,
}

/// A response of the gateway.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    result: u16,
    epoch: u32,
    body: Body,
}

#[derive(Debug, PartialEq, Eq)]
enum Body {
    Address(Ipv4Addr),
    Mapping { port: u16, external: u16, lifetime: u32 },
}

impl NatPmp {
    pub(crate) fn new(now: Instant, target: Target) -> Self {
        Self {
            target,
            epoch: Epoch::default(),
            suggested: target.internal_port,
            has_grant: false,
            ready_at: Some(after(now, HEAD_START)),
            state: State::Address(Retry::request(now)),
            out: None,
            outcome: None,
        }
    }

    fn mapping(&self, lifetime: Duration) -> Vec<u8> {
        let lifetime = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        // RFC 6886 §3.4: a request that deletes a mapping has external port 0.
        let external = if lifetime == 0 { 0 } else { self.suggested };
        let mut data = vec![VERSION, MAP_UDP, 0, 0];
        data.extend(self.target.internal_port.to_be_bytes());
        data.extend(external.to_be_bytes());
        data.extend(lifetime.to_be_bytes());
        data
    }

    fn handle_address(&mut self, result: u16, external: Ipv4Addr, is_valid: bool) {
        if !matches!(self.state, State::Address(_)) {
            return;
        }
        if result != SUCCESS {
            self.fail(if is_valid { Failure::Refused } else { Failure::StateLost });
        } else if is_public(external) {
            self.state = State::Ready { external };
        } else {
            self.fail(Failure::DoubleNat(external));
        }
    }

    fn handle_mapping(&mut self, now: Instant, granted: Option<(u16, Duration)>, is_valid: bool) {
        match (&self.state, granted) {
            (State::Mapping { external, .. }, Some((port, lifetime))) => {
                let outcome = Outcome::of(SocketAddrV4::new(*external, port), lifetime);
                self.outcome = Some(outcome);
                match outcome {
                    Outcome::Granted(_) => {
                        (self.has_grant, self.suggested) = (true, port);
                        self.state = State::Mapped;
                    }
                    Outcome::Failed(_) => self.state = State::Releasing(Retry::release(now)),
                }
            }
            (State::Mapping { .. }, None) => self.fail(if is_valid { Failure::Refused } else { Failure::StateLost }),
            (State::AwaitingLateAnswer { external, kept, .. }, Some((port, _)))
                if *kept != Some(SocketAddrV4::new(*external, port)) =>
            {
                self.release(now);
            }
            (State::AwaitingLateAnswer { .. }, _) | (State::Releasing(_), None) => self.state = State::Finished,
            // The answer to an earlier request.
            (State::Releasing(_), Some(_)) => {}
            (State::Address(_) | State::Ready { .. } | State::Mapped | State::Finished, _) => {}
        }
    }

    /// A mapping that could not be renewed remains until its lifetime ends.
    fn fail(&mut self, failure: Failure) {
        self.outcome = Some(Outcome::Failed(failure));
        self.state = if self.has_grant { State::Mapped } else { State::Finished };
    }
}

impl Client for NatPmp {
    fn protocol(&self) -> Protocol {
        Protocol::NatPmp
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddrV4, data: &[u8]) {
        if from != self.target.server {
            return;
        }
        let Some(Answer { result, epoch, body }) = decode(data) else { return };
        match body {
            Body::Mapping { port, .. } if port != self.target.internal_port => {}
            Body::Address(external) => {
                let is_valid = self.epoch.is_valid_natpmp(now, epoch);
                self.handle_address(result, external, is_valid);
            }
            Body::Mapping { external, lifetime, .. } => {
                let is_valid = self.epoch.is_valid_natpmp(now, epoch);
                let is_granted = result == SUCCESS && lifetime > 0;
                let granted = is_granted.then(|| (external, Duration::from_secs(lifetime.into())));
                self.handle_mapping(now, granted, is_valid);
            }
        }
        self.handle_timeout(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.ready_at.is_some_and(|at| at <= now) {
            self.ready_at = None;
        }
        if let (State::Ready { external }, None) = (&self.state, self.ready_at) {
            self.state = State::Mapping { external: *external, retry: Retry::request(now) };
        }
        match &mut self.state {
            State::Address(retry) => match retry.due(now) {
                Due::Send => self.out = Some(vec![VERSION, ADDRESS]),
                Due::GiveUp => self.fail(Failure::NoAnswer),
                Due::Nothing => {}
            },
            State::Mapping { retry, .. } => match retry.due(now) {
                Due::Send => self.out = Some(self.mapping(LIFETIME)),
                Due::GiveUp => self.fail(Failure::NoAnswer),
                Due::Nothing => {}
            },
            State::Releasing(retry) => match retry.due(now) {
                Due::Send => self.out = Some(self.mapping(Duration::ZERO)),
                Due::GiveUp => self.state = State::Finished,
                Due::Nothing => {}
            },
            State::AwaitingLateAnswer { until, .. } if *until <= now => self.state = State::Finished,
            State::AwaitingLateAnswer { .. } | State::Ready { .. } | State::Mapped | State::Finished => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Address(retry) | State::Mapping { retry, .. } | State::Releasing(retry) => Some(retry.at()),
            State::Ready { .. } => self.ready_at,
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

    fn end_head_start(&mut self, now: Instant) {
        self.ready_at = self.ready_at.map(|at| at.min(now));
    }

    fn renew(&mut self, now: Instant) {
        if matches!(self.state, State::Mapped) {
            self.state = State::Address(Retry::request(now));
        }
    }

    fn release(&mut self, now: Instant) {
        self.state = match self.state {
            State::Address(_) | State::Ready { .. } if !self.has_grant => State::Finished,
            State::Address(_)
            | State::Ready { .. }
            | State::Mapping { .. }
            | State::Mapped
            | State::AwaitingLateAnswer { .. } => State::Releasing(Retry::release(now)),
            State::Releasing(_) | State::Finished => return,
        };
        self.out = None;
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
            State::Mapping { external, .. } if !self.has_grant => {
                self.out = None;
                self.state = State::AwaitingLateAnswer { external, kept, until: late_answer_deadline(now) };
            }
            State::Address(_) | State::Ready { .. } | State::Mapping { .. } | State::Mapped => self.release(now),
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

/// RFC 6886 §3.2, §3.3. An error may lack the fields that a success has.
fn decode(data: &[u8]) -> Option<Answer> {
    let mut rest = data;
    let &[version, op] = take(&mut rest)?;
    let result = u16::from_be_bytes(*take(&mut rest)?);
    let epoch = u32::from_be_bytes(*take(&mut rest)?);
    if version != VERSION || result == UNSUPPORTED_VERSION {
        return None;
    }
    let is_error = result != SUCCESS;
    let body = if op == ANSWER | ADDRESS {
        let none = [0; 4];
        let external = take(&mut rest).or_else(|| is_error.then_some(&none)).copied()?;
        Body::Address(Ipv4Addr::from(external))
    } else if op == ANSWER | MAP_UDP {
        let port = u16::from_be_bytes(*take(&mut rest)?);
        let mut number = || take(&mut rest).copied().or_else(|| is_error.then_some([0; 2]));
        let external = u16::from_be_bytes(number()?);
        let (high, low) = (u16::from_be_bytes(number()?), u16::from_be_bytes(number()?));
        Body::Mapping { port, external, lifetime: u32::from(high) << 16 | u32::from(low) }
    } else {
        return None;
    };
    Some(Answer { result, epoch, body })
}

#[cfg(test)]
mod tests;
