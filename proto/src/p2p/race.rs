//! One round's race: what is tried of the other side's candidates, and when.
//!
//! The sender dials what is reached over UDP and the receiver probes it, so that the mappings of both NATs are open when the first flight
//! arrives; both dial what is reached over TCP. A probe bears the token of the side that it reaches, so whoever sees one knows that its
//! other side sent it; where it comes from an address that was not said (a NAT with a mapping for each destination), the sender
//! dials that one. Where both NATs are of that kind nothing between them is tried.
//!
//! Timers: [`PROBES_AT`], [`STAGGER`]. Bounds: [`candidate::MAX`] candidates, [`MAX_LEARNED`] learned from probes.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::candidate::{self, Candidate, Carrier, Kind};
use super::output::Output;
pub use super::output::PROBE;
use crate::Instant;
use crate::net::Interface;
use crate::wire::relay::Side;

/// When a candidate is probed, after it became known.
pub const PROBES_AT: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1500),
];
/// Between the first tries of one candidate and the next.
pub const STAGGER: Duration = Duration::from_millis(10);
/// Addresses of the other side that probes may teach in a round.
pub const MAX_LEARNED: usize = 4;
/// What a probe begins with: neither STUN nor QUIC (RFC 7983 §7, RFC 9443).
pub(super) const PROBE_START: [u8; 4] = [12, b't', b'l', b'w'];

/// What the other side said of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theirs {
    pub certificate: [u8; 32],
    pub token: [u8; 16],
    pub dependent: bool,
}

/// What this side is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub side: Side,
    /// Its NAT gives each destination a mapping of its own.
    pub dependent: bool,
    pub interfaces: &'a [Interface],
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Dial(Candidate),
    Probe(SocketAddr),
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Race {
    /// When it is over.
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

    /// The other side said these candidates.
    pub fn handle_offer(&mut self, now: Instant, theirs: Theirs, candidates: &[Candidate], own: Own<'_>) {
        let admitted = candidate::admit_beside(&self.candidates, candidates, own.interfaces);
        self.theirs = Some(theirs);
        let mut at = now;
        for candidate in admitted {
            // Neither NAT would know the mapping that the other one makes for it.
            let is_hopeless = candidate.kind == Kind::Reflexive && own.dependent && theirs.dependent;
            if is_hopeless {
                continue;
            }
            self.candidates.push(candidate);
            match (candidate.carrier, own.side) {
                (Carrier::Tcp, _) | (Carrier::Udp, Side::Sender) => self.plan.push_back((at, Step::Dial(candidate))),
                (Carrier::Udp, Side::Receiver) => {
                    let probes = PROBES_AT.map(|after| (at + after, Step::Probe(candidate.addr)));
                    self.plan.extend(probes);
                }
            }
            at += STAGGER;
        }
    }

    /// A probe of the other side came from there.
    pub fn handle_probed(&mut self, now: Instant, from: SocketAddr, own: Own<'_>) {
        if own.side != Side::Sender || self.learned >= MAX_LEARNED {
            return;
        }
        let learned = Candidate { kind: Kind::Reflexive, carrier: Carrier::Udp, addr: candidate::canonical(from) };
        let is_known =
            self.candidates.iter().any(|known| (known.carrier, known.addr) == (learned.carrier, learned.addr));
        if !is_known && let Some(&learned) = candidate::admit(&[learned], own.interfaces).first() {
            self.learned = self.learned.saturating_add(1);
            self.candidates.push(learned);
            self.plan.push_front((now, Step::Dial(learned)));
        }
    }

    /// Whether a candidate of the other side has this address.
    pub fn expects(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.candidates.iter().any(|candidate| candidate.addr.ip() == ip)
    }

    /// What is due.
    pub fn go_on(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        let Some(theirs) = self.theirs else { return };
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
            Step::Dial(Candidate { carrier, addr: to, .. }) => {
                Output::Dial { carrier, to, certificate: theirs.certificate }
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

    /// When something is due, or it is over.
    pub fn poll_timeout(&self) -> Instant {
        // A probe may outrun the offer that the plan waits for.
        let plan = self.plan.iter().filter(|_| self.theirs.is_some());
        plan.map(|&(at, _)| at).fold(self.until, Instant::min)
    }
}
