//! NAT-PMP (RFC 6886): the gateway's external address is asked for, then a mapping of a UDP port.
//!
//! ```text
//! Address ─► Ready ─► Mapping ─► Settled ─► Leaving ─► Over
//!               let go ─► Stray ───────────────┴─────────┘
//! ```
//! The address is asked for at once and changes nothing at the gateway. The mapping is asked for [`HEAD_START`] later, or when
//! nobody speaks PCP: a gateway with both would give the port twice, and NAT-PMP takes back by internal port alone, so that taking
//! back the one could take the other with it. There is no nonce: what the gateway's port says about this port is believed.
//! Timers: [`Retry`], [`HEAD_START`].

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::Protocol;
use super::ask::{
    Ask, Due, Epoch, Failure, LIFETIME, Outcome, Outgoing, Place, Retry, after, is_public, stray_until, take,
};
use crate::Instant;

const VERSION: u8 = 0;
const ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;
const ANSWER: u8 = 0x80;
const SUCCESS: u16 = 0;
/// Said to PCP: this is version 0.
const UNSUPPORTED_VERSION: u16 = 1;
/// What PCP has before a mapping is asked for.
pub(super) const HEAD_START: Duration = Duration::from_millis(500);

/// See the module's text.
#[derive(Debug)]
pub(super) struct NatPmp {
    place: Place,
    epoch: Epoch,
    /// The external port that was granted, or the wish.
    suggested: u16,
    has_grant: bool,
    /// When PCP's head start is over; `None`: it is.
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
    Settled,
    /// Somebody else was quicker; an answer may come yet.
    Stray {
        external: Ipv4Addr,
        kept: Option<SocketAddrV4>,
        until: Instant,
    },
    Leaving(Retry),
    Over,
}

/// An answer.
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
    pub(super) fn new(now: Instant, place: Place) -> Self {
        Self {
            place,
            epoch: Epoch::default(),
            suggested: place.port,
            has_grant: false,
            ready_at: Some(after(now, HEAD_START)),
            state: State::Address(Retry::asking(now)),
            out: None,
            outcome: None,
        }
    }

    fn mapping(&self, lifetime: Duration) -> Vec<u8> {
        let lifetime = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        // RFC 6886 §3.4: no external port when it is taken back.
        let external = if lifetime == 0 { 0 } else { self.suggested };
        let mut data = vec![VERSION, MAP_UDP, 0, 0];
        data.extend(self.place.port.to_be_bytes());
        data.extend(external.to_be_bytes());
        data.extend(lifetime.to_be_bytes());
        data
    }

    fn handle_address(&mut self, result: u16, external: Ipv4Addr, is_valid: bool) {
        if !matches!(self.state, State::Address(_)) {
            return;
        }
        if result != SUCCESS {
            self.fail(if is_valid { Failure::Refused } else { Failure::Forgotten });
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
                        self.state = State::Settled;
                    }
                    Outcome::Failed(_) => self.state = State::Leaving(Retry::leaving(now)),
                }
            }
            (State::Mapping { .. }, None) => self.fail(if is_valid { Failure::Refused } else { Failure::Forgotten }),
            (State::Stray { external, kept, .. }, Some((port, _)))
                if *kept != Some(SocketAddrV4::new(*external, port)) =>
            {
                self.release(now);
            }
            (State::Stray { .. }, _) | (State::Leaving(_), None) => self.state = State::Over,
            // An answer to what was asked before.
            (State::Leaving(_), Some(_)) => {}
            (State::Address(_) | State::Ready { .. } | State::Settled | State::Over, _) => {}
        }
    }

    /// A mapping that could not be renewed stands until its time is over.
    fn fail(&mut self, failure: Failure) {
        self.outcome = Some(Outcome::Failed(failure));
        self.state = if self.has_grant { State::Settled } else { State::Over };
    }
}

impl Ask for NatPmp {
    fn protocol(&self) -> Protocol {
        Protocol::NatPmp
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddrV4, data: &[u8]) {
        if from != self.place.gateway {
            return;
        }
        let Some(Answer { result, epoch, body }) = decode(data) else { return };
        match body {
            Body::Mapping { port, .. } if port != self.place.port => {}
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
            self.state = State::Mapping { external: *external, retry: Retry::asking(now) };
        }
        match &mut self.state {
            State::Address(retry) => match retry.due(now) {
                Due::Send => self.out = Some(vec![VERSION, ADDRESS]),
                Due::GiveUp => self.fail(Failure::Silent),
                Due::Nothing => {}
            },
            State::Mapping { retry, .. } => match retry.due(now) {
                Due::Send => self.out = Some(self.mapping(LIFETIME)),
                Due::GiveUp => self.fail(Failure::Silent),
                Due::Nothing => {}
            },
            State::Leaving(retry) => match retry.due(now) {
                Due::Send => self.out = Some(self.mapping(Duration::ZERO)),
                Due::GiveUp => self.state = State::Over,
                Due::Nothing => {}
            },
            State::Stray { until, .. } if *until <= now => self.state = State::Over,
            State::Stray { .. } | State::Ready { .. } | State::Settled | State::Over => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Address(retry) | State::Mapping { retry, .. } | State::Leaving(retry) => Some(retry.at()),
            State::Ready { .. } => self.ready_at,
            State::Stray { until, .. } => Some(*until),
            State::Settled | State::Over => None,
        }
    }

    fn poll_transmit(&mut self) -> Option<Outgoing> {
        let data = self.out.take()?;
        Some(Outgoing { to: self.place.gateway.into(), from: Some(self.place.local.into()), data })
    }

    fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    fn alone(&mut self, now: Instant) {
        self.ready_at = self.ready_at.map(|at| at.min(now));
    }

    fn renew(&mut self, now: Instant) {
        if matches!(self.state, State::Settled) {
            self.state = State::Address(Retry::asking(now));
        }
    }

    fn release(&mut self, now: Instant) {
        self.state = match self.state {
            State::Address(_) | State::Ready { .. } if !self.has_grant => State::Over,
            State::Address(_) | State::Ready { .. } | State::Mapping { .. } | State::Settled | State::Stray { .. } => {
                State::Leaving(Retry::leaving(now))
            }
            State::Leaving(_) | State::Over => return,
        };
        self.out = None;
    }

    fn let_go(&mut self, now: Instant, kept: Option<SocketAddrV4>) {
        match self.state {
            State::Mapping { external, .. } if !self.has_grant => {
                self.out = None;
                self.state = State::Stray { external, kept, until: stray_until(now) };
            }
            State::Address(_) | State::Ready { .. } | State::Mapping { .. } | State::Settled => self.release(now),
            State::Stray { .. } | State::Leaving(_) | State::Over => {}
        }
    }

    fn abandon(&mut self) {
        self.state = State::Over;
    }

    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Stray { .. })
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

/// RFC 6886 §3.2, §3.3. An error may lack what it would have granted.
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
#[path = "natpmp_tests.rs"]
mod tests;
