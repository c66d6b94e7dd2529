//! PCP (RFC 6887): one MAP request for a UDP port, and its answer. IPv4 only; a firewall for IPv6 is not asked to open.
//!
//! ```text
//! Asking ⇄ Settled ─► Leaving ─► Over
//!    └─ let go ─► Stray ──┴─────────┘
//! ```
//! It believes what comes from the gateway's port with the nonce of the request, which nobody off the path can know; and errors
//! without a nonce (a server that can't read the request can't repeat it) only while nothing was granted. Timers: [`Retry`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::Protocol;
use super::ask::{Ask, Due, Epoch, Failure, LIFETIME, Outcome, Outgoing, Place, Retry, stray_until, take};
use crate::Instant;

const VERSION: u8 = 2;
const MAP: u8 = 1;
const ANSWER: u8 = 0x80;
const UDP: u8 = 17;
const SUCCESS: u8 = 0;
const UNSUPPORTED_VERSION: u8 = 1;
/// NAT-PMP's version and its word for [`UNSUPPORTED_VERSION`], which its servers say to PCP (RFC 6887 §9).
const NATPMP_VERSION: u8 = 0;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Pcp {
    place: Place,
    nonce: [u8; 12],
    epoch: Epoch,
    /// What was granted, which is asked for again.
    suggested: SocketAddrV4,
    has_grant: bool,
    state: State,
    out: Option<Vec<u8>>,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
enum State {
    Asking(Retry),
    Settled,
    /// Somebody else was quicker; an answer may come yet.
    Stray {
        kept: Option<SocketAddrV4>,
        until: Instant,
    },
    Leaving(Retry),
    Over,
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

/// What a datagram from the gateway is.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Answer(Answer),
    /// It does not speak this version.
    NotSpoken,
    /// An error for a request that it could not read.
    Error,
}

impl Pcp {
    pub(super) fn new(now: Instant, place: Place, rng: &mut ChaCha20Rng) -> Self {
        let mut nonce = [0; 12];
        rng.fill_bytes(&mut nonce);
        Self {
            place,
            nonce,
            epoch: Epoch::default(),
            suggested: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, place.port),
            has_grant: false,
            state: State::Asking(Retry::asking(now)),
            out: None,
            outcome: None,
        }
    }

    fn request(&self, lifetime: Duration) -> Vec<u8> {
        let lifetime = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        // Taking back suggests nothing (RFC 6887 §15).
        let suggested = if lifetime == 0 { SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0) } else { self.suggested };
        let mut data = vec![VERSION, MAP, 0, 0];
        data.extend(lifetime.to_be_bytes());
        data.extend(self.place.local.to_ipv6_mapped().octets());
        data.extend(self.nonce);
        data.extend([UDP, 0, 0, 0]);
        data.extend(self.place.port.to_be_bytes());
        data.extend(suggested.port().to_be_bytes());
        data.extend(suggested.ip().to_ipv6_mapped().octets());
        data
    }

    fn handle_answer(&mut self, now: Instant, answer: &Answer) {
        if answer.nonce != self.nonce || answer.port != self.place.port {
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
            (State::Asking(_) | State::Settled, Some((external, lifetime))) => {
                let outcome = Outcome::of(external, lifetime);
                self.outcome = Some(outcome);
                match outcome {
                    Outcome::Granted(_) => {
                        (self.has_grant, self.suggested) = (true, external);
                        self.state = State::Settled;
                    }
                    Outcome::Failed(_) => self.state = State::Leaving(Retry::leaving(now)),
                }
            }
            (State::Stray { kept, .. }, Some((external, _))) if *kept != Some(external) => self.release(now),
            // The answer to what was asked before; the word that takes it back comes later.
            (State::Leaving(_), Some(_)) => {}
            (State::Asking(_), None) => self.fail(if is_valid { Failure::Refused } else { Failure::Forgotten }),
            // Without being asked it says that there is no mapping any more, or repeats an old refusal.
            (State::Settled, None) if answer.result == SUCCESS || !is_valid => self.fail(Failure::Forgotten),
            (State::Settled, None) => {}
            (State::Stray { .. }, _) | (State::Leaving(_), None) => self.state = State::Over,
            (State::Over, _) => {}
        }
    }

    /// Nothing was granted yet.
    const fn is_first(&self) -> bool {
        matches!(self.state, State::Asking(_)) && !self.has_grant
    }

    /// A mapping that could not be renewed stands until its time is over.
    fn fail(&mut self, failure: Failure) {
        self.outcome = Some(Outcome::Failed(failure));
        self.state = if self.has_grant { State::Settled } else { State::Over };
    }
}

impl Ask for Pcp {
    fn protocol(&self) -> Protocol {
        Protocol::Pcp
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddrV4, data: &[u8]) {
        if from != self.place.gateway {
            return;
        }
        match decode(data) {
            Some(Heard::Answer(answer)) => self.handle_answer(now, &answer),
            Some(Heard::NotSpoken) if self.is_first() => self.fail(Failure::NotSpoken),
            Some(Heard::Error) if self.is_first() => self.fail(Failure::Refused),
            Some(Heard::NotSpoken | Heard::Error) | None => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Asking(retry) => match retry.due(now) {
                Due::Send => self.out = Some(self.request(LIFETIME)),
                Due::GiveUp => self.fail(Failure::Silent),
                Due::Nothing => {}
            },
            State::Leaving(retry) => match retry.due(now) {
                Due::Send => self.out = Some(self.request(Duration::ZERO)),
                Due::GiveUp => self.state = State::Over,
                Due::Nothing => {}
            },
            State::Stray { until, .. } if *until <= now => self.state = State::Over,
            State::Stray { .. } | State::Settled | State::Over => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Asking(retry) | State::Leaving(retry) => Some(retry.at()),
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

    fn renew(&mut self, now: Instant) {
        if matches!(self.state, State::Settled) {
            self.state = State::Asking(Retry::asking(now));
        }
    }

    fn release(&mut self, now: Instant) {
        match self.state {
            State::Asking(_) | State::Settled | State::Stray { .. } => {
                self.out = None;
                self.state = State::Leaving(Retry::leaving(now));
            }
            State::Leaving(_) | State::Over => {}
        }
    }

    fn let_go(&mut self, now: Instant, kept: Option<SocketAddrV4>) {
        match self.state {
            State::Asking(_) if !self.has_grant => {
                self.out = None;
                self.state = State::Stray { kept, until: stray_until(now) };
            }
            State::Asking(_) | State::Settled => self.release(now),
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

/// RFC 6887 §7.2 and §11.1. What follows (options) says nothing to us, since we send none.
fn decode(data: &[u8]) -> Option<Heard> {
    match *data {
        [NATPMP_VERSION, op, 0, UNSUPPORTED_VERSION, ..] if op & ANSWER != 0 => return Some(Heard::NotSpoken),
        [VERSION, op, ..] if op == ANSWER | MAP => {}
        _ => return None,
    }
    let mut rest = data;
    let &[_, _, _, result] = take(&mut rest)?;
    let lifetime = u32::from_be_bytes(*take(&mut rest)?);
    let epoch = u32::from_be_bytes(*take(&mut rest)?);
    let _reserved: &[u8; 12] = take(&mut rest)?;
    if result == UNSUPPORTED_VERSION {
        return Some(Heard::NotSpoken);
    }
    if rest.is_empty() && result != SUCCESS {
        return Some(Heard::Error);
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
    Some(Heard::Answer(Answer { result, lifetime, epoch, nonce, port, external }))
}

#[cfg(test)]
#[path = "pcp_tests.rs"]
mod tests;
