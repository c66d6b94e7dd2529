//! Port mapping: the gateway is asked to send what arrives at one of its UDP ports to ours, by PCP, NAT-PMP or UPnP, whichever it
//! speaks.
//!
//! ```text
//!        place and socket          granted
//! Idle ──────────────────► Trying ─────────► Mapped ──(expired, forgotten)──► Trying
//!                           ▲  │ nobody          │
//!                  EVERY,   │  ▼                 │ release        Idle: all was taken back, or LEAVE_WITHIN
//!                 new place └─ Resting           └──► Releasing ──►  has passed
//! ```
//! It decides whom to ask (`Site`: the first default gateway over IPv4, if it is on an own network with private addresses), in which
//! order (PCP and NAT-PMP at once, UPnP after [`UPNP_AFTER`] or when both have failed), whose answer counts (the first; what is
//! granted beyond it is taken back) and when a mapping is renewed (at half its lifetime, then at half of what is left).
//!
//! Behind two translators the gateway's external address is private or a carrier's, and a mapping to it opens a port that nobody
//! outside can reach: it is given back at once and told as [`Event::DoubleNat`], never as an address. That the other side may be
//! inside the outer translator too is not used: host candidates and punching serve it as well, and such an address says
//! something of a network that the other side has no part in.
//!
//! IPv6 is not asked for (PCP could open a firewall): punching passes those.
//!
//! Timers: those, and [`TRY_WITHIN`] for one try, [`EVERY`] between tries at one place. Bounds: `SENDS` datagrams for one question,
//! [`MAX_PIPES`], [`MAX_STRAYS`] asks that were let go, [`MAX_EVENTS`].

mod ask;
mod natpmp;
mod pcp;
mod site;
mod upnp;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use crate::Instant;
use crate::net::{Action, Bind, Interface, PipeEvent, PipeId, SocketId};
use crate::seed::Seed;

use ask::{Ask, Failure, Grant, LEAVE_WITHIN, Outcome, Place, after};
use natpmp::NatPmp;
use pcp::Pcp;
use site::Site;
use upnp::Upnp;

pub use ask::Outgoing;

/// The socket that gateways are asked from.
pub const SOCKET: SocketId = SocketId(6);
/// The first name of a pipe that leads to a gateway.
pub const FIRST_PIPE: PipeId = PipeId(1 << 31);
/// Where PCP and NAT-PMP are spoken (RFC 6887 §19.1).
pub const PORT: u16 = 5351;
/// What PCP and NAT-PMP have before UPnP is tried.
pub const UPNP_AFTER: Duration = Duration::from_secs(1);
/// Time for one try, all protocols together.
pub const TRY_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries at the same place.
pub const EVERY: Duration = Duration::from_secs(300);
/// Between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Asks that were let go and have not come to their end.
pub const MAX_STRAYS: usize = 6;
/// Pipes at a time.
pub const MAX_PIPES: usize = 3;
/// Events that wait; the oldest are dropped, since the newest says how things are.
pub const MAX_EVENTS: usize = 16;

/// How a gateway is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device, versions 1 and 2.
    Upnp,
}

/// All, in the order of their merits.
const ALL: [Protocol; 3] = [Protocol::Pcp, Protocol::NatPmp, Protocol::Upnp];

/// What became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// What is sent to this address arrives at the internal port. Told again when it has changed.
    Mapped(SocketAddr),
    /// That is over.
    Lost,
    /// The gateway's external address is itself behind a translator: no mapping there leads in.
    DoubleNat(Ipv4Addr),
}

/// See the module's text.
#[derive(Debug)]
pub struct PortMap {
    rng: ChaCha20Rng,
    protocols: Vec<Protocol>,
    interfaces: Vec<Interface>,
    /// `None`: the system has not told.
    gateways: Option<Vec<IpAddr>>,
    /// The internal port that is to be reached.
    wanted: Option<u16>,
    socket: Socket,
    state: State,
    /// Where the state is.
    site: Option<Site>,
    strays: Vec<Box<dyn Ask>>,
    next_pipe: u32,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    double_nat: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Closed,
    Opening,
    Open,
    Refused,
}

#[derive(Debug)]
enum State {
    Idle,
    Trying { asks: Vec<Box<dyn Ask>>, upnp_at: Option<Instant>, until: Instant },
    Mapped { winner: Box<dyn Ask>, external: SocketAddrV4, renew_at: Option<Instant>, expires_at: Instant },
    Resting { until: Instant },
    Releasing { until: Instant },
}

impl PortMap {
    /// Asks by all protocols.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        Self::with(seed, &ALL)
    }

    /// Asks by these protocols alone.
    #[must_use]
    pub fn with(seed: &Seed, protocols: &[Protocol]) -> Self {
        Self {
            rng: seed.rng(),
            protocols: protocols.to_vec(),
            interfaces: Vec::new(),
            gateways: None,
            wanted: None,
            socket: Socket::Closed,
            state: State::Idle,
            site: None,
            strays: Vec::new(),
            next_pipe: FIRST_PIPE.0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            double_nat: None,
        }
    }

    /// Wants this UDP port to be reached from outside, for as long as nothing else is said. Asks when a gateway is known.
    pub fn start(&mut self, now: Instant, internal_port: u16) {
        if self.wanted == Some(internal_port) {
            return;
        }
        if self.socket == Socket::Refused {
            self.socket = Socket::Closed;
        }
        self.take_back(now);
        self.wanted = Some(internal_port);
        self.state = State::Idle;
        self.begin(now);
    }

    /// The machine's addresses, at the start and when they have changed.
    pub fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        self.interfaces = interfaces.to_vec();
        self.look_around(now);
    }

    /// The machine's default gateways, the preferred one first, at the start and when they have changed.
    pub fn handle_gateways(&mut self, now: Instant, gateways: &[IpAddr]) {
        self.gateways = Some(gateways.to_vec());
        self.look_around(now);
    }

    /// What came of binding [`SOCKET`].
    pub fn handle_bound(&mut self, now: Instant, result: Result<SocketAddr, io::ErrorKind>) {
        if self.socket == Socket::Opening {
            self.socket = if result.is_ok() { Socket::Open } else { Socket::Refused };
            self.begin(now);
        }
    }

    /// The machine was asleep: the lifetimes went on meanwhile.
    pub fn handle_slept(&mut self, now: Instant) {
        if let State::Mapped { winner, renew_at, .. } = &mut self.state {
            winner.renew(now);
            *renew_at = None;
        }
    }

    /// A datagram that arrived at [`SOCKET`]. Anything may be in it.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        let IpAddr::V4(ip) = from.ip().to_canonical() else { return };
        let from = SocketAddrV4::new(ip, from.port());
        for ask in self.asks_mut() {
            ask.handle_datagram(now, from, data);
        }
        self.settle(now);
    }

    /// What happened to a pipe; one of another name is not ours.
    pub fn handle_pipe(&mut self, now: Instant, pipe: PipeId, event: PipeEvent) {
        if let Some(ask) = self.asks_mut().find(|ask| ask.pipe() == Some(pipe)) {
            ask.handle_pipe(now, event);
        }
        self.settle(now);
    }

    /// A deadline may have passed. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        for ask in self.asks_mut() {
            ask.handle_timeout(now);
        }
        self.settle(now);
        match &mut self.state {
            State::Trying { upnp_at, until, .. } => {
                if *until <= now {
                    self.rest(now);
                } else if upnp_at.is_some_and(|at| at <= now) {
                    self.begin_upnp(now);
                }
            }
            State::Mapped { expires_at, .. } if *expires_at <= now => {
                self.take_back(now);
                self.begin(now);
            }
            State::Mapped { winner, renew_at, .. } => {
                if renew_at.take_if(|at| *at <= now).is_some() {
                    winner.renew(now);
                    winner.handle_timeout(now);
                }
            }
            State::Resting { until } if *until <= now => {
                self.state = State::Idle;
                self.begin(now);
            }
            State::Releasing { until } if *until <= now => self.leave(),
            State::Idle | State::Resting { .. } | State::Releasing { .. } => {}
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Idle => None,
            State::Trying { upnp_at, until, .. } => Some(upnp_at.map_or(*until, |at| at.min(*until))),
            State::Mapped { renew_at, expires_at, .. } => Some(renew_at.map_or(*expires_at, |at| at.min(*expires_at))),
            State::Resting { until } | State::Releasing { until } => Some(*until),
        };
        self.asks().filter_map(|ask| ask.poll_timeout()).chain(own).min()
    }

    /// The next datagram to send from [`SOCKET`].
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.asks_mut().find_map(|ask| ask.poll_transmit())
    }

    /// The next thing to do outside: about [`SOCKET`] and pipes from [`FIRST_PIPE`] up.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.asks().filter(|ask| ask.pipe().is_some()).count() >= MAX_PIPES {
            return None;
        }
        let next = PipeId(self.next_pipe);
        let dial = self.asks_mut().find_map(|ask| ask.poll_dial(next))?;
        // Names come round after two thousand million requests.
        self.next_pipe = self.next_pipe.wrapping_add(1).max(FIRST_PIPE.0);
        Some(dial)
    }

    /// Where the next bytes of this pipe go.
    #[must_use]
    pub fn pipe_buffer(&mut self, pipe: PipeId) -> &mut [u8] {
        self.asks_mut().find(|ask| ask.pipe() == Some(pipe)).map_or(&mut [], |ask| ask.pipe_buffer())
    }

    /// What waits to be written to this pipe.
    #[must_use]
    pub fn pipe_output<'a>(&'a self, pipe: PipeId, slices: &mut [IoSlice<'a>]) -> usize {
        self.asks().find(|ask| ask.pipe() == Some(pipe)).map_or(0, |ask| ask.pipe_output(slices))
    }

    /// What became known.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The address that leads to the internal port now.
    #[must_use]
    pub fn mapped(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Mapped { external, .. } => Some((*external).into()),
            State::Idle | State::Trying { .. } | State::Resting { .. } | State::Releasing { .. } => None,
        }
    }

    /// Who gave it.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        match &self.state {
            State::Mapped { winner, .. } => Some(winner.protocol()),
            State::Idle | State::Trying { .. } | State::Resting { .. } | State::Releasing { .. } => None,
        }
    }

    /// Takes back what was granted and may have been, and wants nothing more.
    pub fn release(&mut self, now: Instant) {
        self.wanted = None;
        if matches!(self.state, State::Releasing { .. }) {
            return;
        }
        // Who was silent while another granted will hardly answer now: a farewell of a second is not for that.
        self.strays.retain(|stray| !stray.is_waiting());
        self.take_back(now);
        for stray in &mut self.strays {
            stray.release(now);
            stray.handle_timeout(now);
        }
        self.state = State::Releasing { until: after(now, LEAVE_WITHIN) };
        self.settle(now);
    }

    /// Whether nothing is asked for and nothing held, or its taking back has had its time.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.wanted.is_none() && matches!(self.state, State::Idle)
    }

    fn asks(&self) -> impl Iterator<Item = &Box<dyn Ask>> {
        let current = match &self.state {
            State::Trying { asks, .. } => asks.as_slice(),
            State::Mapped { winner, .. } => std::slice::from_ref(winner),
            State::Idle | State::Resting { .. } | State::Releasing { .. } => &[],
        };
        current.iter().chain(&self.strays)
    }

    fn asks_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn Ask>> {
        let current = match &mut self.state {
            State::Trying { asks, .. } => asks.as_mut_slice(),
            State::Mapped { winner, .. } => std::slice::from_mut(winner),
            State::Idle | State::Resting { .. } | State::Releasing { .. } => &mut [],
        };
        current.iter_mut().chain(&mut self.strays)
    }

    /// The place may be another one now: what was granted elsewhere is given back, if that can still be said, and asked for here.
    fn look_around(&mut self, now: Instant) {
        let site = Site::find(&self.interfaces, self.gateways.as_deref());
        if site == self.site {
            return;
        }
        self.site = site;
        if self.wanted.is_none() {
            return;
        }
        self.take_back(now);
        self.begin(now);
    }

    /// Starts a try, if there is all that it takes.
    fn begin(&mut self, now: Instant) {
        let (Some(port), Some(site), State::Idle) = (self.wanted, &self.site, &self.state) else { return };
        match self.socket {
            Socket::Open => {}
            Socket::Closed => {
                let addr = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
                self.actions
                    .push_back(Action::Bind(SOCKET, Bind { addr, dual_stack: true, share_port: false, group: None }));
                self.socket = Socket::Opening;
                return;
            }
            Socket::Opening | Socket::Refused => return,
        }
        let mut asks: Vec<Box<dyn Ask>> = Vec::new();
        if let Site::Gateway(gateway, local) = *site {
            let place = Place { gateway: SocketAddrV4::new(gateway, PORT), local, port };
            if self.protocols.contains(&Protocol::Pcp) {
                asks.push(Box::new(Pcp::new(now, place, &mut self.rng)));
            }
            if self.protocols.contains(&Protocol::NatPmp) {
                asks.push(Box::new(NatPmp::new(now, place)));
            }
            if let [ask] = asks.as_mut_slice() {
                ask.alone(now);
            }
        }
        let upnp_after = if asks.is_empty() { Duration::ZERO } else { UPNP_AFTER };
        let upnp_at = self.protocols.contains(&Protocol::Upnp).then(|| after(now, upnp_after));
        self.state = State::Trying { asks, upnp_at, until: after(now, TRY_WITHIN) };
        self.handle_timeout(now);
    }

    fn begin_upnp(&mut self, now: Instant) {
        let (State::Trying { asks, upnp_at, .. }, Some(site), Some(port)) = (&mut self.state, &self.site, self.wanted)
        else {
            return;
        };
        *upnp_at = None;
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let mut upnp = Upnp::new(now, site.clone(), port, Seed::new(seed).rng());
        upnp.handle_timeout(now);
        asks.push(Box::new(upnp));
        self.settle(now);
    }

    /// Looks at what came of asking.
    fn settle(&mut self, now: Instant) {
        loop {
            match &mut self.state {
                State::Trying { asks, .. } => {
                    let found = asks.iter_mut().enumerate().find_map(|(at, ask)| Some((at, ask.poll_outcome()?)));
                    let Some((at, outcome)) = found else { break };
                    let ask = asks.swap_remove(at);
                    match outcome {
                        Outcome::Granted(grant) => self.won(now, ask, grant),
                        Outcome::Failed(failure) => self.failed(now, ask, failure),
                    }
                }
                State::Mapped { winner, .. } => {
                    let Some(outcome) = winner.poll_outcome() else { break };
                    match outcome {
                        Outcome::Granted(grant) => self.renewed(now, grant),
                        Outcome::Failed(failure) => self.not_renewed(now, failure),
                    }
                }
                State::Idle | State::Resting { .. } | State::Releasing { .. } => break,
            }
        }
        if let State::Trying { asks, upnp_at, .. } = &mut self.state
            && asks.is_empty()
        {
            match upnp_at {
                Some(at) => *at = now,
                None => self.rest(now),
            }
        }
        self.collect_closing();
        self.strays.retain(|stray| !stray.is_over());
        if matches!(self.state, State::Releasing { .. }) && self.strays.is_empty() {
            self.leave();
        }
    }

    /// The others are let go.
    fn won(&mut self, now: Instant, winner: Box<dyn Ask>, grant: Grant) {
        let Grant { external, lifetime } = grant;
        tracing::debug!(protocol = ?winner.protocol(), ?lifetime, "a port is mapped");
        let State::Trying { asks, .. } = std::mem::replace(&mut self.state, State::Idle) else { return };
        for ask in asks {
            self.stray(now, ask, Some(external));
        }
        let (renew_at, expires_at) = (Some(after(now, lifetime / 2)), after(now, lifetime));
        self.state = State::Mapped { winner, external, renew_at, expires_at };
        self.double_nat = None;
        self.tell(Event::Mapped(external.into()));
    }

    fn failed(&mut self, now: Instant, ask: Box<dyn Ask>, failure: Failure) {
        let protocol = ask.protocol();
        tracing::debug!(?protocol, ?failure, "no port is mapped");
        self.stray(now, ask, None);
        if let Failure::DoubleNat(external) = failure {
            self.tell_double_nat(external);
            return self.rest(now);
        }
        if let State::Trying { asks, .. } = &mut self.state
            && protocol == Protocol::Pcp
        {
            for ask in asks {
                ask.alone(now);
                ask.handle_timeout(now);
            }
        }
    }

    fn renewed(&mut self, now: Instant, grant: Grant) {
        let State::Mapped { external, renew_at, expires_at, .. } = &mut self.state else { return };
        let has_changed = *external != grant.external;
        *external = grant.external;
        (*renew_at, *expires_at) = (Some(after(now, grant.lifetime / 2)), after(now, grant.lifetime));
        if has_changed {
            self.tell(Event::Mapped(grant.external.into()));
        }
    }

    fn not_renewed(&mut self, now: Instant, failure: Failure) {
        tracing::debug!(?failure, "a mapped port is not renewed");
        let State::Mapped { renew_at, expires_at, .. } = &mut self.state else { return };
        match failure {
            Failure::Silent | Failure::NotSpoken | Failure::Refused => {
                let left = expires_at.saturating_duration_since(now);
                *renew_at = Some(after(now, (left / 2).max(RENEW_EVERY)));
            }
            Failure::Forgotten => {
                self.take_back(now);
                self.begin(now);
            }
            Failure::DoubleNat(external) => {
                self.rest(now);
                self.tell_double_nat(external);
            }
        }
    }

    /// Nobody helps here, for now.
    fn rest(&mut self, now: Instant) {
        self.take_back(now);
        self.state = State::Resting { until: after(now, EVERY) };
    }

    /// Lets go of everything that is current.
    fn take_back(&mut self, now: Instant) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Trying { asks, .. } => {
                for ask in asks {
                    self.stray(now, ask, None);
                }
            }
            State::Mapped { winner, .. } => {
                self.tell(Event::Lost);
                self.stray(now, winner, None);
            }
            State::Idle | State::Resting { .. } | State::Releasing { .. } => {}
        }
    }

    fn stray(&mut self, now: Instant, mut ask: Box<dyn Ask>, kept: Option<SocketAddrV4>) {
        ask.let_go(now, kept);
        ask.handle_timeout(now);
        self.strays.push(ask);
        if self.strays.len() > MAX_STRAYS
            && let Some(oldest) = self.strays.first_mut()
        {
            oldest.abandon();
        }
        self.collect_closing();
        self.strays.retain(|stray| !stray.is_over());
    }

    fn collect_closing(&mut self) {
        let mut closing = Vec::new();
        for ask in self.asks_mut() {
            closing.extend(std::iter::from_fn(|| ask.poll_closing()));
        }
        self.actions.extend(closing);
    }

    /// What was not answered by now is left to expire.
    fn leave(&mut self) {
        for stray in &mut self.strays {
            stray.abandon();
        }
        self.collect_closing();
        self.strays.clear();
        if matches!(self.socket, Socket::Open | Socket::Opening) {
            self.actions.push_back(Action::Release(SOCKET));
        }
        self.socket = Socket::Closed;
        self.state = State::Idle;
    }

    fn tell_double_nat(&mut self, external: Ipv4Addr) {
        if self.double_nat.replace(external) != Some(external) {
            self.tell(Event::DoubleNat(external));
        }
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
#[path = "portmap_tests.rs"]
mod tests;
