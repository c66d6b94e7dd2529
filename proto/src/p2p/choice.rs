//! Which of the direct links that have proven themselves carries the session. The sender decides, by what it measured.
//!
//! A first link: plain TCP, which reaches nothing but the own network and costs the least, unless QUIC got through at the same time and
//! shows a round trip that TCP's proof was far from ([`TCP_SLACK`]). A choice waits [`GRACE`] for a TCP connection that is on its way.
//! Beside one that carries: of the same kind what is nearer by half, and TCP beside QUIC, or the other way round, by the rule above.
//!
//! Plain TCP slows down where packets are lost for other reasons than a full queue (a radio), and nothing but the bytes that arrive
//! tells of it. So where it holds the transfer back, QUIC is tried, and what moves more is kept:
//! ```text
//!           TCP below FAST for WATCH                 QUIC chosen            a tenth more than TCP
//! Watching ─────────────────────────► Seeking(QUIC) ────────────► Trying ───────────────────────► Watching, TCP avoided
//!    ▲                                    │ none found               │ no more
//!    ├────────────────────────────────────┘                          ▼
//!    └──────────────────────── TCP chosen, or none found ────── Seeking(TCP)
//! ```
//! TCP that fell silent is avoided too. What is avoided is avoided for the rest of the session.
//!
//! Timers: [`EVERY`] for a measurement, [`GRACE`], [`WATCH`], [`WARM_UP`], [`AGAIN`] between two comparisons (doubled by each that found TCP
//! good). No queues.

use std::time::Duration;

use super::candidate::Carrier;
use crate::Instant;
use crate::session::LinkId;

/// How long a proven QUIC link waits for a TCP connection, wherever one was tried.
pub const GRACE: Duration = Duration::from_millis(150);
/// Plain TCP is not taken when its proof took longer than twice QUIC's round trip and this.
pub const TCP_SLACK: Duration = Duration::from_millis(50);
/// Another link of the same kind is nearer when one and a half times its round trip and this are less than the present one's.
pub const NEARER: Duration = Duration::from_millis(2);
/// Between two looks at what arrived.
pub const EVERY: Duration = Duration::from_secs(1);
/// How long plain TCP holds the transfer back before QUIC is tried, and how long QUIC is measured.
pub const WATCH: Duration = Duration::from_secs(4);
/// How long a link that is tried has to get up to speed.
pub const WARM_UP: Duration = Duration::from_secs(2);
/// From a comparison that TCP won to the next one at least.
pub const AGAIN: Duration = Duration::from_secs(60);
/// Bytes a second: plain TCP that moves so much needs no comparison, since QUIC costs more of the processor.
pub const FAST: u64 = 40_000_000;

/// A direct link that has proven itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// Its name in the session.
    pub link: LinkId,
    /// What it runs over.
    pub carrier: Carrier,
    /// When it had proven itself.
    pub at: Instant,
    /// How long that took: a round trip or two.
    pub took: Duration,
    /// The round trip as its transport measures it.
    pub rtt: Option<Duration>,
}

impl Proven {
    fn round_trip(&self) -> Duration {
        self.rtt.unwrap_or(self.took)
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This one carries the session from now on.
    Take(LinkId),
    /// Judge again then.
    Wait(Instant),
    /// Nothing here is worth it.
    Nothing,
}

/// A stretch of time in which a link is measured.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    since: Instant,
    /// What had arrived by then.
    arrived: u64,
}

impl Stretch {
    fn lasted(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Bytes a second.
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
    /// `rate`: what the present one moves, where the other is to be compared with it.
    Seeking {
        carrier: Carrier,
        rate: Option<u64>,
    },
    Trying {
        /// What TCP moved.
        rate: u64,
        from: Instant,
        stretch: Option<Stretch>,
    },
}

/// See the module's text.
#[derive(Debug)]
pub struct Choice {
    /// What carries the session, and when it is measured next.
    carries: Option<(Carrier, Instant)>,
    avoids_tcp: bool,
    state: State,
    /// No comparison before.
    compare_at: Option<Instant>,
    again: Duration,
}

impl Default for Choice {
    fn default() -> Self {
        Self::new()
    }
}

impl Choice {
    /// Nothing carries, and nothing was measured.
    #[must_use]
    pub const fn new() -> Self {
        Self { carries: None, avoids_tcp: false, state: State::Watching { slow: None }, compare_at: None, again: AGAIN }
    }

    /// Judges the links of a round. `present`: the one that carries. `awaits_tcp`: one was tried in this
    /// round; whether it has failed by now makes no difference, since the other side named its address and sees how
    /// long this takes.
    #[must_use]
    pub fn judge(&self, now: Instant, present: Option<&Proven>, proven: &[Proven], awaits_tcp: bool) -> Verdict {
        if let (State::Seeking { carrier, .. }, Some(_)) = (self.state, present) {
            return nearest(proven, carrier).map_or(Verdict::Nothing, |found| Verdict::Take(found.link));
        }
        let (tcp, quic) = (nearest(proven, Carrier::Tcp), nearest(proven, Carrier::Udp));
        let found = match (tcp, quic) {
            (Some(tcp), Some(quic)) => Some(if self.prefers_tcp(tcp, quic) { tcp } else { quic }),
            (Some(found), None) | (None, Some(found)) => Some(found),
            (None, None) => None,
        };
        let Some(found) = found.filter(|found| present.is_none_or(|present| self.is_better(found, present))) else {
            return Verdict::Nothing;
        };
        let waits = found.carrier == Carrier::Udp && tcp.is_none() && awaits_tcp && !self.avoids_tcp;
        let until = found.at + GRACE;
        if waits && now < until { Verdict::Wait(until) } else { Verdict::Take(found.link) }
    }

    /// This carries the session from now on.
    pub fn handle_chosen(&mut self, now: Instant, carrier: Carrier) {
        self.carries = Some((carrier, now + EVERY));
        self.state = match self.state {
            State::Seeking { carrier: sought, rate: Some(rate) } if sought == carrier => {
                State::Trying { rate, from: now + WARM_UP, stretch: None }
            }
            State::Seeking { .. } | State::Watching { .. } | State::Trying { .. } => State::Watching { slow: None },
        };
    }

    /// What was sought was not found.
    pub fn handle_not_found(&mut self, now: Instant) {
        if matches!(self.state, State::Seeking { .. }) {
            self.state = State::Watching { slow: None };
            self.pause(now);
        }
    }

    /// No direct link carries the session any more. `silent`: plain TCP fell silent.
    pub fn handle_lost(&mut self, silent: bool) {
        self.carries = None;
        self.state = State::Watching { slow: None };
        self.avoids_tcp |= silent;
    }

    /// So much of what was sealed for the link has arrived; `is_held_back`: chunks wait for room on it. True: the other carrier is to
    /// be sought.
    pub fn measure(&mut self, now: Instant, arrived: u64, is_held_back: bool) -> bool {
        let Some((carrier, at)) = &mut self.carries else { return false };
        if now < *at {
            return false;
        }
        *at = now + EVERY;
        let here = Stretch { since: now, arrived };
        match &mut self.state {
            State::Watching { slow } => {
                if !is_held_back || *carrier != Carrier::Tcp || self.compare_at.is_some_and(|at| now < at) {
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
                self.state = State::Seeking { carrier: Carrier::Udp, rate: Some(rate) };
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
                self.state = State::Seeking { carrier: Carrier::Tcp, rate: None };
                self.pause(now);
                self.again = self.again.saturating_mul(2);
                true
            }
        }
    }

    /// When [`Self::measure`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.carries.map(|(_, at)| at)
    }

    fn pause(&mut self, now: Instant) {
        self.compare_at = now.checked_add(self.again);
    }

    fn prefers_tcp(&self, tcp: &Proven, quic: &Proven) -> bool {
        !self.avoids_tcp && tcp.took <= quic.round_trip().saturating_mul(2).saturating_add(TCP_SLACK)
    }

    fn is_better(&self, found: &Proven, present: &Proven) -> bool {
        match (found.carrier, present.carrier) {
            (Carrier::Tcp, Carrier::Udp) => self.prefers_tcp(found, present),
            (Carrier::Udp, Carrier::Tcp) => !self.prefers_tcp(present, found),
            (Carrier::Tcp, Carrier::Tcp) | (Carrier::Udp, Carrier::Udp) => {
                let found = found.round_trip();
                found.saturating_add(found / 2).saturating_add(NEARER) < present.round_trip()
            }
        }
    }
}

fn nearest(proven: &[Proven], carrier: Carrier) -> Option<&Proven> {
    proven.iter().filter(|proven| proven.carrier == carrier).min_by_key(|proven| proven.took)
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
