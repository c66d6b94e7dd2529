//! Selects which of the validated direct links is the active path of the session. The sender decides, by its
//! measurements.
//!
//! The first path: plain TCP is preferred, because it reaches only the own network and costs the least processor time,
//! unless QUIC was validated as well and its round-trip time is much shorter than the time of TCP's validation
//! ([`TCP_SLACK`]). The selection waits [`GRACE`] for a TCP connection in progress. If a direct link is already active,
//! a new one of the same transport replaces it only if its RTT is at most two thirds; across transports the rule above
//! applies.
//!
//! Plain TCP slows down if packets are lost for other reasons than a full queue (on a radio link), and only the number
//! of delivered bytes shows it. So if TCP limits the transfer, the sender tries QUIC and keeps the transport that
//! delivers more:
//! ```text
//!           TCP below FAST for WATCH                QUIC selected           10 % faster than TCP
//! Watching ─────────────────────────► Seeking(QUIC) ────────────► Trying ───────────────────────► Watching, no TCP
//!    ▲                                    │ none found               │ not faster
//!    ├────────────────────────────────────┘                          ▼
//!    └─────────────────────── TCP selected, or none found ───── Seeking(TCP)
//! ```
//! TCP is also avoided after a TCP path became silent. It is then avoided for the rest of the session.
//!
//! Timers: [`EVERY`] for a measurement, [`GRACE`], [`WATCH`], [`WARM_UP`], [`AGAIN`] between two comparisons (doubled
//! by each comparison that TCP won). No queues.

use std::time::Duration;

use super::candidate::CandidateTransport;
use crate::Instant;
use crate::session::LinkId;

/// How long a validated QUIC link waits for a TCP connection, if one was tried in the round.
pub const GRACE: Duration = Duration::from_millis(150);
/// Plain TCP is not selected if its validation took longer than twice QUIC's round-trip time plus this.
pub const TCP_SLACK: Duration = Duration::from_millis(50);
/// A link replaces one of the same transport if 1.5 times its round-trip time plus this is less than that of the
/// present link.
pub const NEARER: Duration = Duration::from_millis(2);
/// Interval between two measurements of the delivered bytes.
pub const EVERY: Duration = Duration::from_secs(1);
/// How long plain TCP must limit the transfer before QUIC is tried, and how long QUIC is measured.
pub const WATCH: Duration = Duration::from_secs(4);
/// How long a newly selected link may take to reach its speed before it is measured.
pub const WARM_UP: Duration = Duration::from_secs(2);
/// Minimum time from a comparison that TCP won to the next one.
pub const AGAIN: Duration = Duration::from_secs(60);
/// Bytes per second: plain TCP at this rate is not compared with QUIC, because QUIC needs more processor time.
pub const FAST: u64 = 40_000_000;

/// A direct link that was validated, that is, on which the peer was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidatedPath {
    /// Its id in the session.
    pub link: LinkId,
    /// Its transport.
    pub transport: CandidateTransport,
    /// When it was validated.
    pub at: Instant,
    /// How long the validation took: one or two round trips.
    pub took: Duration,
    /// The round-trip time, if the transport measures it.
    pub rtt: Option<Duration>,
}

impl ValidatedPath {
    fn round_trip(&self) -> Duration {
        self.rtt.unwrap_or(self.took)
    }
}

/// The result of a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// This link must be the active path from now on.
    Take(LinkId),
    /// Repeat the selection at this time.
    Wait(Instant),
    /// No change: no link is better than the present one.
    Nothing,
}

/// A period in which a link is measured.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    since: Instant,
    /// The number of delivered bytes at its start.
    arrived: u64,
}

impl Stretch {
    fn lasted(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// The delivery rate in bytes per second.
    fn rate(&self, now: Instant, arrived: u64) -> u64 {
        let millis = self.lasted(now).as_millis().max(1);
        let bytes = u128::from(arrived.saturating_sub(self.arrived));
        u64::try_from(bytes.saturating_mul(1000).checked_div(millis).unwrap_or(0)).unwrap_or(u64::MAX)
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    Watching {
        slow: Option<Stretch>,
    },
    /// `rate`: the rate of the present path, if it is to be compared with the other transport.
    Seeking {
        transport: CandidateTransport,
        rate: Option<u64>,
    },
    Trying {
        /// The rate of TCP.
        rate: u64,
        from: Instant,
        stretch: Option<Stretch>,
    },
}

/// The selector; the module's documentation describes its states.
#[derive(Debug)]
pub struct PathSelector {
    /// The transport of the active direct path, and when it is measured next.
    active: Option<(CandidateTransport, Instant)>,
    avoids_tcp: bool,
    state: State,
    /// The earliest time of the next comparison; `None`: any time.
    compare_at: Option<Instant>,
    again: Duration,
}

impl Default for PathSelector {
    fn default() -> Self {
        Self::new()
    }
}

impl PathSelector {
    /// A selector without a path and without measurements.
    #[must_use]
    pub const fn new() -> Self {
        Self { active: None, avoids_tcp: false, state: State::Watching { slow: None }, compare_at: None, again: AGAIN }
    }

    /// Selects among the validated links of a round. `present`: the active direct link. `awaits_tcp`: a TCP connection
    /// was tried in this round; whether it has failed by now makes no difference, because the peer chose its address
    /// and could measure how long the selection takes.
    #[must_use]
    pub fn judge(
        &self,
        now: Instant,
        present: Option<&ValidatedPath>,
        proven: &[ValidatedPath],
        awaits_tcp: bool,
    ) -> Selection {
        if let (State::Seeking { transport, .. }, Some(_)) = (self.state, present) {
            return nearest(proven, transport).map_or(Selection::Nothing, |found| Selection::Take(found.link));
        }
        let (tcp, quic) = (nearest(proven, CandidateTransport::Tcp), nearest(proven, CandidateTransport::Udp));
        let found = match (tcp, quic) {
            (Some(tcp), Some(quic)) => Some(if self.prefers_tcp(tcp, quic) { tcp } else { quic }),
            (Some(found), None) | (None, Some(found)) => Some(found),
            (None, None) => None,
        };
        let Some(found) = found.filter(|found| present.is_none_or(|present| self.is_better(found, present))) else {
            return Selection::Nothing;
        };
        let waits = found.transport == CandidateTransport::Udp && tcp.is_none() && awaits_tcp && !self.avoids_tcp;
        let until = found.at + GRACE;
        if waits && now < until { Selection::Wait(until) } else { Selection::Take(found.link) }
    }

    /// A link with this transport is the active path from now on.
    pub fn handle_chosen(&mut self, now: Instant, transport: CandidateTransport) {
        self.active = Some((transport, now + EVERY));
        self.state = match self.state {
            State::Seeking { transport: sought, rate: Some(rate) } if sought == transport => {
                State::Trying { rate, from: now + WARM_UP, stretch: None }
            }
            State::Seeking { .. } | State::Watching { .. } | State::Trying { .. } => State::Watching { slow: None },
        };
    }

    /// The round found no link of the wanted transport.
    pub fn handle_not_found(&mut self, now: Instant) {
        if matches!(self.state, State::Seeking { .. }) {
            self.state = State::Watching { slow: None };
            self.pause(now);
        }
    }

    /// No direct link is the active path any more. `silent`: a plain TCP link became silent.
    pub fn handle_lost(&mut self, silent: bool) {
        self.active = None;
        self.state = State::Watching { slow: None };
        self.avoids_tcp |= silent;
    }

    /// Measures the path: `arrived` bytes that were sealed for the link were delivered so far. `is_held_back`: chunks
    /// wait for room on it. Returns true if a new round must look for the other transport.
    pub fn measure(&mut self, now: Instant, arrived: u64, is_held_back: bool) -> bool {
        let Some((transport, at)) = &mut self.active else { return false };
        if now < *at {
            return false;
        }
        *at = now + EVERY;
        let here = Stretch { since: now, arrived };
        match &mut self.state {
            State::Watching { slow } => {
                if !is_held_back || *transport != CandidateTransport::Tcp || self.compare_at.is_some_and(|at| now < at)
                {
                    *slow = None;
                    return false;
                }
                let stretch = *slow.get_or_insert(here);
                if stretch.lasted(now) < WATCH {
                    return false;
                }
                let rate = stretch.rate(now, arrived);
                if rate >= FAST {
                    *slow = None;
                    return false;
                }
                self.state = State::Seeking { transport: CandidateTransport::Udp, rate: Some(rate) };
                true
            }
            State::Seeking { .. } => false,
            State::Trying { from, .. } if now < *from => false,
            State::Trying { rate, stretch, .. } => {
                let stretch = *stretch.get_or_insert(here);
                if stretch.lasted(now) < WATCH {
                    return false;
                }
                if stretch.rate(now, arrived) > rate.saturating_add(*rate / 10) {
                    tracing::debug!(tcp = *rate, quic = stretch.rate(now, arrived), "plain TCP is slow here");
                    self.avoids_tcp = true;
                    self.state = State::Watching { slow: None };
                    return false;
                }
                self.state = State::Seeking { transport: CandidateTransport::Tcp, rate: None };
                self.pause(now);
                self.again = self.again.saturating_mul(2);
                true
            }
        }
    }

    /// When [`Self::measure`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.active.map(|(_, at)| at)
    }

    fn pause(&mut self, now: Instant) {
        self.compare_at = now.checked_add(self.again);
    }

    fn prefers_tcp(&self, tcp: &ValidatedPath, quic: &ValidatedPath) -> bool {
        !self.avoids_tcp && tcp.took <= quic.round_trip().saturating_mul(2).saturating_add(TCP_SLACK)
    }

    fn is_better(&self, found: &ValidatedPath, present: &ValidatedPath) -> bool {
        match (found.transport, present.transport) {
            (CandidateTransport::Tcp, CandidateTransport::Udp) => self.prefers_tcp(found, present),
            (CandidateTransport::Udp, CandidateTransport::Tcp) => !self.prefers_tcp(present, found),
            (CandidateTransport::Tcp, CandidateTransport::Tcp) | (CandidateTransport::Udp, CandidateTransport::Udp) => {
                let found = found.round_trip();
                found.saturating_add(found / 2).saturating_add(NEARER) < present.round_trip()
            }
        }
    }
}

fn nearest(proven: &[ValidatedPath], transport: CandidateTransport) -> Option<&ValidatedPath> {
    proven.iter().filter(|proven| proven.transport == transport).min_by_key(|proven| proven.took)
}

#[cfg(test)]
mod tests;
