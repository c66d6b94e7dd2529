//! Selects the transport and the address for a relay (Happy Eyeballs): tries all that may work, the better ones a
//! little earlier, and the first one on which the relay answers wins.
//!
//! Decides when which transport is tried at which address. It opens no connections itself: its owner executes the
//! [`Output`]s and reports the results. An attempt succeeds when the relay has answered `Hello`, because a firewall may
//! permit a connection and block the data on it.
//! ```text
//! running: per transport a lane: waiting → trying addresses in turn → failed
//!    └─► won (the others are cancelled) │ failed (all lanes, or out of time)
//! ```
//! Lanes start in the order QUIC, TLS, WebSocket, each [`HEAD_START`] after the one before. A lane starts at once if
//! all lanes before it have failed, or if its transport won the last time. QUIC is never delayed for that transport, so
//! that it is used again as soon as it works again. In a lane the next address is tried [`ATTEMPT_DELAY`] after the
//! last one (RFC 8305 §5), or at once if no attempt is running; IPv6 and IPv4 addresses alternate (§4).
//!
//! Timers: those two, and [`WITHIN`] (through a proxy [`WITHIN_PROXIED`]) for the whole race, or since the relay sent
//! anything, and then [`WITHIN_BUSY`] at most. Bounds: [`MAX_ADDRESSES`] per lane.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::connections::CloseReason;
use super::proxy::ProxyFailure;
use super::trust::CertificateRefused;
use crate::Instant;
use crate::wire::close;

/// Delay between the start of one transport and the next.
pub const HEAD_START: Duration = Duration::from_millis(300);
/// Delay between the attempts at one address and the next (RFC 8305 §5).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The same after the first [`PATIENT`] attempts, so that a name with many dead addresses still connects soon (at
/// least 100 ms: RFC 8305 §5).
pub const LATER_DELAY: Duration = Duration::from_millis(150);
/// Attempts that are followed by the longer delay.
const PATIENT: usize = 2;
/// Time limit of the whole race.
pub const WITHIN: Duration = Duration::from_secs(8);
/// The same, as long as the relay sends something: it is there, and busy.
pub const WITHIN_BUSY: Duration = Duration::from_secs(30);
/// Time limit of the whole race through a proxy.
pub const WITHIN_PROXIED: Duration = Duration::from_secs(30);
/// Maximum number of addresses of one relay (or proxy) that are tried.
pub const MAX_ADDRESSES: usize = 16;

/// The transport of a link to a relay. All transports use the same port number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tls,
    /// WebSocket in TLS over TCP.
    WebSocket,
}

/// All transports, in the order in which they start.
const ALL: [Transport; 3] = [Transport::Quic, Transport::Tls, Transport::WebSocket];

/// Which transports the user allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Allowed {
    /// All transports.
    #[default]
    Auto,
    /// Only this transport.
    Only(Transport),
}

/// Whether the connection goes through a proxy, which supports only TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The addresses are the relay's.
    Direct,
    /// The addresses are the proxy's.
    Proxied,
}

/// The id of an attempt of a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u32);

/// An attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Its id; never reused in a race.
    pub id: AttemptId,
    /// The transport.
    pub transport: Transport,
    /// The address.
    pub to: SocketAddr,
}

/// A request to the owner, or the result of the race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Start this attempt. If that is not possible, call [`Race::handle_failed`].
    Start(Attempt),
    /// Cancel this attempt, which did not fail.
    Cancel(AttemptId),
    /// This attempt won: its connection is the link. The race has ended; the owner should remember the transport for
    /// this relay.
    Won(Attempt),
    /// No attempt succeeded. The race has ended.
    Failed(Failure),
}

/// Why there is no link, the least specific reason first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There was nothing to try: no address, or no allowed transport.
    #[error("there is no address, or no transport is allowed")]
    Nothing,
    /// There is no socket, or no route.
    #[error("the network is unreachable")]
    Unreachable,
    /// No answer arrived in time.
    #[error("no answer arrived")]
    TimedOut,
    /// The connection was lost.
    #[error("the connection was lost")]
    Lost,
    /// No process listens there, or the server refused the connection.
    #[error("the connection was refused")]
    Refused,
    /// The relay is shutting down.
    #[error("the relay is shutting down")]
    GoingDown,
    /// The server is not a tallow relay of a supported version.
    #[error("the server is not a tallow relay of a supported version")]
    NotARelay,
    /// The proxy refused or failed to connect.
    #[error(transparent)]
    Proxy(ProxyFailure),
    /// The relay's certificate was refused.
    #[error(transparent)]
    Certificate(CertificateRefused),
}

impl Failure {
    const fn rank(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Unreachable => 1,
            Self::TimedOut => 2,
            Self::Lost => 3,
            Self::Refused => 4,
            Self::GoingDown => 5,
            Self::NotARelay => 6,
            Self::Proxy(_) => 7,
            Self::Certificate(_) => 8,
        }
    }

    fn or(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }
}

impl From<CloseReason> for Failure {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Certificate(refused) => Self::Certificate(refused),
            CloseReason::Proxy(failure) => Self::Proxy(failure),
            CloseReason::Incompatible => Self::NotARelay,
            CloseReason::Application(close::SHUTTING_DOWN) => Self::GoingDown,
            CloseReason::Refused | CloseReason::Application(_) => Self::Refused,
            CloseReason::Ended | CloseReason::Protocol | CloseReason::Lost => Self::Lost,
            CloseReason::TimedOut => Self::TimedOut,
        }
    }
}

/// The attempts with one transport.
#[derive(Debug)]
struct Lane {
    transport: Transport,
    /// The number of addresses that were tried.
    tried: usize,
    /// When the next attempt is due, if an address is left.
    next: Instant,
    running: Vec<Attempt>,
}

#[derive(Debug)]
enum State {
    /// `latest`: how far the deadline may be moved for a relay that is busy.
    Running {
        lanes: Vec<Lane>,
        deadline: Instant,
        latest: Instant,
    },
    Over,
}

/// The race to one relay; the module's documentation describes its rules.
#[derive(Debug)]
pub struct Race {
    addresses: Vec<SocketAddr>,
    state: State,
    last_id: u32,
    ran_out: bool,
    worst: Failure,
    out: VecDeque<Output>,
}

impl Race {
    /// Starts a race to one relay. `remembered` is the transport that won the last time.
    #[must_use]
    pub fn new(
        now: Instant,
        addresses: &[SocketAddr],
        route: Route,
        allowed: Allowed,
        remembered: Option<Transport>,
    ) -> Self {
        let possible = |transport: &Transport| match (allowed, route, transport) {
            (Allowed::Only(only), _, transport) if only != *transport => false,
            (Allowed::Auto | Allowed::Only(_), Route::Proxied, transport) => *transport != Transport::Quic,
            (Allowed::Auto | Allowed::Only(_), Route::Direct, _) => true,
        };
        let (mut lanes, mut start) = (Vec::new(), now);
        for transport in ALL.into_iter().filter(possible) {
            let next = if remembered == Some(transport) { now } else { start };
            lanes.push(Lane { transport, tried: 0, next, running: Vec::new() });
            start += HEAD_START;
        }
        let within = match route {
            Route::Direct => WITHIN,
            Route::Proxied => WITHIN_PROXIED,
        };
        let mut race = Self {
            addresses: interleaved(addresses),
            state: State::Running { lanes, deadline: now + within, latest: now + within.max(WITHIN_BUSY) },
            last_id: 0,
            ran_out: false,
            worst: Failure::Nothing,
            out: VecDeque::new(),
        };
        race.advance(now);
        race
    }

    /// The relay has answered `Hello` on this attempt.
    pub fn handle_answered(&mut self, id: AttemptId) {
        let State::Running { lanes, .. } = &mut self.state else { return };
        let running = || lanes.iter().flat_map(|lane| &lane.running);
        let Some(&winner) = running().find(|attempt| attempt.id == id) else { return };
        let others = running().filter(|attempt| attempt.id != id).map(|attempt| Output::Cancel(attempt.id));
        self.out.extend(others);
        self.out.push_back(Output::Won(winner));
        self.state = State::Over;
    }

    /// This attempt failed.
    pub fn handle_failed(&mut self, now: Instant, id: AttemptId, failure: Failure) {
        let State::Running { lanes, .. } = &mut self.state else { return };
        let is_it = |attempt: &Attempt| attempt.id == id;
        let Some(lane) = lanes.iter_mut().find(|lane| lane.running.iter().any(is_it)) else { return };
        lane.running.retain(|attempt| !is_it(attempt));
        if lane.running.is_empty() {
            lane.next = now;
        }
        self.worst = self.worst.or(failure);
        self.advance(now);
    }

    /// Extends all deadlines by a time in which this process did not run, because the relay is not responsible for that
    /// delay.
    pub fn delay(&mut self, by: Duration) {
        if let State::Running { deadline, latest, .. } = &mut self.state {
            *deadline += by;
            *latest += by;
        }
    }

    /// The relay sent something at this time, on any attempt: it answers, if not yet what was asked.
    pub fn handle_received(&mut self, at: Instant) {
        if let State::Running { deadline, latest, .. } = &mut self.state {
            *deadline = (*deadline).max((at + WITHIN).min(*latest));
        }
    }

    /// Whether it failed because its time was over: an attempt might have succeeded later.
    #[must_use]
    pub const fn ran_out(&self) -> bool {
        self.ran_out
    }

    /// Checks the timers. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            State::Running { lanes, deadline, .. } if *deadline <= now => {
                let running = lanes.iter().flat_map(|lane| &lane.running);
                self.out.extend(running.map(|attempt| Output::Cancel(attempt.id)));
                self.ran_out = true;
                self.fail(Failure::TimedOut);
            }
            State::Running { .. } => self.advance(now),
            State::Over => {}
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Running { lanes, deadline, .. } => {
                let next = lanes.iter().filter(|lane| lane.tried < self.addresses.len()).map(|lane| lane.next);
                next.chain([*deadline]).min()
            }
            State::Over => None,
        }
    }

    /// The next output.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Starts the attempts that are due.
    fn advance(&mut self, now: Instant) {
        let State::Running { lanes, .. } = &mut self.state else { return };
        let mut all_before_failed = true;
        for lane in lanes {
            if all_before_failed && lane.tried == 0 {
                lane.next = lane.next.min(now);
            }
            if lane.next <= now
                && let Some(&to) = self.addresses.get(lane.tried)
            {
                lane.tried = lane.tried.saturating_add(1);
                lane.next = now + if lane.tried <= PATIENT { ATTEMPT_DELAY } else { LATER_DELAY };
                self.last_id = self.last_id.wrapping_add(1);
                let attempt = Attempt { id: AttemptId(self.last_id), transport: lane.transport, to };
                lane.running.push(attempt);
                self.out.push_back(Output::Start(attempt));
            }
            all_before_failed &= lane.running.is_empty() && lane.tried >= self.addresses.len();
        }
        if all_before_failed {
            self.fail(Failure::Nothing);
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.out.push_back(Output::Failed(self.worst.or(failure)));
        self.state = State::Over;
    }
}

/// The [`MAX_ADDRESSES`] that are tried: alternates IPv6 and IPv4, beginning with the family of the first address,
/// because the resolver sorts by preference (RFC 8305 §4).
pub fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<SocketAddr>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut all: Vec<SocketAddr> = Vec::new();
    while all.len() < MAX_ADDRESSES {
        let before = all.len();
        all.extend(same.next());
        all.extend(other.next());
        if all.len() == before {
            break;
        }
    }
    all.truncate(MAX_ADDRESSES);
    all
}

#[cfg(test)]
mod tests;
