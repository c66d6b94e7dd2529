//! The race of one round: which of the peer's candidates are tried, and when.
//!
//! The sender dials UDP candidates and the receiver sends probes to them, so that both NATs have mappings when the
//! first flight arrives; both sides dial TCP candidates. A probe contains the token of the side that it is sent to,
//! which proves to that side that its peer sent it. If a probe arrives from an unknown address (from behind a NAT with
//! address-dependent mapping), the sender dials that address. If both NATs have address-dependent mappings, their
//! reflexive candidates are not tried.
//!
//! Timers: [`PROBES_AT`], [`STAGGER`]. Bounds: [`candidate::MAX`] candidates, [`MAX_LEARNED`] learned from probes.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::candidate::{self, Candidate, CandidateTransport, Kind};
use super::output::Output;
pub use super::output::PROBE;
use crate::Instant;
use crate::net::Interface;
use crate::wire::relay::Role;

/// When a candidate is probed, as delays from the time it became known.
pub const PROBES_AT: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1500),
];
/// Delay between the first attempts at two successive candidates.
pub const STAGGER: Duration = Duration::from_millis(10);
/// Maximum number of peer-reflexive addresses that are learned from probes in a round.
pub const MAX_LEARNED: usize = 4;
/// The first bytes of a probe; they are valid neither in STUN nor in QUIC (RFC 7983 §7, RFC 9443).
pub(super) const PROBE_START: [u8; 4] = [12, b't', b'l', b'w'];

/// The token of a datagram that is a probe.
#[must_use]
pub fn token_of_probe(data: &[u8]) -> Option<&[u8]> {
    data.strip_prefix(&PROBE_START)
}

/// The parameters that the peer sent with its candidates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theirs {
    pub certificate: [u8; 32],
    pub token: [u8; 16],
    pub dependent: bool,
}

/// The parameters of this side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub role: Role,
    /// Whether its NAT has an address-dependent mapping.
    pub dependent: bool,
    pub interfaces: &'a [Interface],
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Dial(Candidate),
    Probe(SocketAddr),
}

/// The state of a race; the module's documentation describes its rules.
#[derive(Debug)]
pub(super) struct Race {
    /// When the race ends.
    pub until: Instant,
    theirs: Option<Theirs>,
    candidates: Vec<Candidate>,
    learned: usize,
    plan: VecDeque<(Instant, Step)>,
}

impl Race {
    pub const fn new(until: Instant) -> Self {
        Self { until, theirs: None, candidates: Vec::new(), learned: 0, plan: VecDeque::new() }
    }

    /// Adds candidates of the peer.
    pub fn handle_offer(&mut self, now: Instant, theirs: Theirs, candidates: &[Candidate], own: Own<'_>) {
        let admitted = candidate::admit_beside(&self.candidates, candidates, own.interfaces);
        self.theirs = Some(theirs);
        let mut at = now;
        for candidate in admitted {
            // Neither side can learn the mapping that the other NAT makes for it.
            let is_hopeless = candidate.kind == Kind::Reflexive && own.dependent && theirs.dependent;
            if is_hopeless {
                continue;
            }
            self.candidates.push(candidate);
            match (candidate.transport, own.role) {
                (CandidateTransport::Tcp, _) | (CandidateTransport::Udp, Role::Sender) => {
                    self.plan.push_back((at, Step::Dial(candidate)))
                }
                (CandidateTransport::Udp, Role::Receiver) => {
                    let probes = PROBES_AT.map(|after| (at + after, Step::Probe(candidate.addr)));
                    self.plan.extend(probes);
                }
            }
            at += STAGGER;
        }
    }

    /// A probe of the peer arrived from this address.
    pub fn handle_probed(&mut self, now: Instant, from: SocketAddr, own: Own<'_>) {
        if own.role != Role::Sender || self.learned >= MAX_LEARNED {
            return;
        }
        let learned =
            Candidate { kind: Kind::Reflexive, transport: CandidateTransport::Udp, addr: candidate::canonical(from) };
        let is_known =
            self.candidates.iter().any(|known| (known.transport, known.addr) == (learned.transport, learned.addr));
        if !is_known && let Some(&learned) = candidate::admit(&[learned], own.interfaces).first() {
            self.learned = self.learned.saturating_add(1);
            self.candidates.push(learned);
            self.plan.push_front((now, Step::Dial(learned)));
        }
    }

    /// Whether a candidate of the peer has this address.
    pub fn expects(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.candidates.iter().any(|candidate| candidate.addr.ip() == ip)
    }

    /// Queues the attempts that are due.
    pub fn advance(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        let Some(theirs) = self.theirs else { return };
        let [mark @ .., _, _, _, _, _, _, _, _] = theirs.token;
        let mut due: Vec<(Instant, Step)> = Vec::new();
        self.plan.retain(|&(at, step)| {
            let is_due = at <= now;
            if is_due {
                due.push((at, step));
            }
            !is_due
        });
        due.sort_by_key(|&(at, _)| at);
        out.extend(due.into_iter().map(|(_, step)| match step {
            Step::Dial(Candidate { transport, addr: to, .. }) => {
                Output::Dial { transport, to, certificate: theirs.certificate, mark }
            }
            Step::Probe(to) => {
                let mut datagram = [0; PROBE];
                let (start, token) = datagram.split_at_mut(PROBE_START.len());
                start.copy_from_slice(&PROBE_START);
                token.copy_from_slice(&theirs.token);
                Output::Probe { to, datagram }
            }
        }));
    }

    /// When the next attempt is due, or the race ends.
    pub fn poll_timeout(&self) -> Instant {
        // A probe may arrive before the offer, and the plan needs the parameters of the offer.
        let plan = self.plan.iter().filter(|_| self.theirs.is_some());
        plan.map(|&(at, _)| at).fold(self.until, Instant::min)
    }
}
