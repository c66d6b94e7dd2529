//! Which way to a relay is taken: all that may work are tried, the better ones a little earlier, and the first that
//! answers wins.
//!
//! Decides when which transport is tried at which address. It opens nothing itself: its owner carries [`Output`]s out
//! and reports what came of them. "Answered" means that the relay answered its hello, since a firewall may let a
//! connection come about and nothing through it.
//! ```text
//! running: per transport a lane: waiting → trying addresses in turn → failed
//!    └─► won (the others are cancelled) │ failed (all lanes, or out of time)
//! ```
//! Lanes start in the order QUIC, TLS, WebSocket, each [`HEAD_START`] after the one before; at once when all before it
//! failed, and at once for the transport that won the last time. QUIC is never held back for it, so that it is used
//! again when it works again. In a lane the next address is tried [`ATTEMPT_DELAY`] after the last (RFC 8305 §5), at
//! once when no attempt is left; IPv6 and IPv4 alternate (§4).
//!
//! Timers: those two, and [`WITHIN`] (through a proxy [`WITHIN_PROXIED`]) for everything. Bounds: [`MAX_ADDRESSES`] a
//! lane.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::connections::CloseReason;
use super::proxy::ProxyFailure;
use super::trust::CertificateRefused;
use crate::Instant;
use crate::wire::close;

/// What a transport has before the next one starts.
pub const HEAD_START: Duration = Duration::from_millis(300);
/// What an address has before the next one is tried (RFC 8305 §5).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Time for the whole race.
pub const WITHIN: Duration = Duration::from_secs(8);
/// The same through a proxy.
pub const WITHIN_PROXIED: Duration = Duration::from_secs(30);
/// Addresses of one relay (or proxy) that are tried.
pub const MAX_ADDRESSES: usize = 8;

/// A kind of link to a relay. All are at the same port number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tls,
    /// WebSocket in TLS over TCP.
    WebSocket,
}

/// In the order in which they start.
const ALL: [Transport; 3] = [Transport::Quic, Transport::Tls, Transport::WebSocket];

/// Which transports the person allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Allowed {
    /// All that may work.
    #[default]
    Auto,
    /// This one.
    Only(Transport),
}

/// Whether there is a proxy: it carries TCP only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The addresses are the relay's.
    Direct,
    /// The addresses are the proxy's.
    Proxied,
}

/// One attempt of a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u32);

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Its name; never used twice in a race.
    pub id: AttemptId,
    /// By which means.
    pub transport: Transport,
    /// Where.
    pub to: SocketAddr,
}

/// What is to be done, and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Begin this attempt. If that cannot be, [`Race::handle_failed`].
    Start(Attempt),
    /// Drop this attempt, which did not fail.
    Cancel(AttemptId),
    /// This one answered: it is the link. The race is over; what won should be remembered for this relay.
    Won(Attempt),
    /// None answered. The race is over.
    Failed(Failure),
}

/// Why there is no link, the least telling reason first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There was nothing to try: no address, or no transport that is allowed here.
    #[error("there is no address, or no way that is allowed")]
    Nothing,
    /// No socket, or no route.
    #[error("the network cannot be reached")]
    Unreachable,
    /// Nothing was heard.
    #[error("no answer came")]
    TimedOut,
    /// It broke off.
    #[error("the connection was lost")]
    Lost,
    /// Nobody listens there, or we were turned away.
    #[error("the connection was refused")]
    Refused,
    /// It is going down.
    #[error("the relay is going down")]
    GoingDown,
    /// Who answered is no relay that we understand.
    #[error("what answers there is no tallow relay of a version that is spoken here")]
    NotARelay,
    /// The proxy did not let us through.
    #[error(transparent)]
    Proxy(ProxyFailure),
    /// The relay's certificate is not the right one.
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

/// One transport's attempts.
#[derive(Debug)]
struct Lane {
    transport: Transport,
    /// Addresses that were tried.
    tried: usize,
    /// When the next one is due, if there is one.
    next: Instant,
    running: Vec<Attempt>,
}

#[derive(Debug)]
enum State {
    Running { lanes: Vec<Lane>, deadline: Instant },
    Over,
}

/// See the module's text.
#[derive(Debug)]
pub struct Race {
    addresses: Vec<SocketAddr>,
    state: State,
    last_id: u32,
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
            state: State::Running { lanes, deadline: now + within },
            last_id: 0,
            worst: Failure::Nothing,
            out: VecDeque::new(),
        };
        race.advance(now);
        race
    }

    /// The relay answered its hello on this attempt.
    pub fn handle_answered(&mut self, id: AttemptId) {
        let State::Running { lanes, .. } = &mut self.state else { return };
        let running = || lanes.iter().flat_map(|lane| &lane.running);
        let Some(&winner) = running().find(|attempt| attempt.id == id) else { return };
        let others = running().filter(|attempt| attempt.id != id).map(|attempt| Output::Cancel(attempt.id));
        self.out.extend(others);
        self.out.push_back(Output::Won(winner));
        self.state = State::Over;
    }

    /// This attempt came to nothing.
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

    /// This process had no time for so long: nobody was late meanwhile.
    pub fn delay(&mut self, by: Duration) {
        if let State::Running { deadline, .. } = &mut self.state {
            *deadline += by;
        }
    }

    /// Deadlines may have come. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            State::Running { lanes, deadline } if *deadline <= now => {
                let running = lanes.iter().flat_map(|lane| &lane.running);
                self.out.extend(running.map(|attempt| Output::Cancel(attempt.id)));
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
            State::Running { lanes, deadline } => {
                let next = lanes.iter().filter(|lane| lane.tried < self.addresses.len()).map(|lane| lane.next);
                next.chain([*deadline]).min()
            }
            State::Over => None,
        }
    }

    /// What is to be done next.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Starts what is due.
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
                lane.next = now + ATTEMPT_DELAY;
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

/// IPv6 and IPv4 in turn, beginning with the family of the first, since the resolver knows what works (RFC 8305 §4).
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
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
#[path = "race_tests.rs"]
mod tests;
