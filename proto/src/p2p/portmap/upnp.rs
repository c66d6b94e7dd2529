//! UPnP Internet Gateway Device, versions 1 and 2: a gateway is looked for, describes itself, and is asked for its address and for a
//! mapping.
//!
//! ```text
//! Searching ─► Describe ─► Address ─► Add ─► Settled ─► Delete ─► Over
//!     ▲            │ no gateway, refused: the next service, the next device
//!     └────────────┘        (Address and Add again: renewing)
//! ```
//! Anybody on the network can answer a search. Believed is the default gateway alone, where one is known, else an address on an own
//! network with private addresses; and a device leads to itself only (see `url`). A redirect is a refusal. A mapping is asked for
//! with a lease of an hour, and without one where the gateway knows no leases (then it stays until it is taken back); another port
//! is tried where somebody has this one.
//!
//! Timers: [`SEARCHES`] after the start, [`SEARCH_WITHIN`]; [`EXCHANGE_WITHIN`] for each request. Bounds: one pipe at a time,
//! [`MAX_DEVICES`], [`MAX_ADDS`] requests for a mapping at one service, and those of `exchange`, `soap` and `ssdp`.

mod exchange;
mod soap;
mod ssdp;
mod url;
mod xml;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::Protocol;
use super::ask::{Ask, Failure, LIFETIME, MIN_PORT, Outcome, Outgoing, after, is_public};
use super::site::Site;
use crate::Instant;
use crate::net::{Action, PipeEvent, PipeId};
use exchange::{Answer, Exchange, Progress};
use soap::{Call, Kind, Mapping, Service, code};
use url::Url;

/// Times of the searches after the start.
const SEARCHES: [Duration; ssdp::ROUNDS] =
    [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500), Duration::from_millis(3000)];
/// An answer to the last one may take so long; a device waits for up to a second by itself.
const SEARCH_WITHIN: Duration = Duration::from_millis(4500);
/// From dialling to the end of the answer.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(3);
/// Devices that are asked for their description.
const MAX_DEVICES: usize = 4;
/// Requests for a mapping at one service.
const MAX_ADDS: u8 = 4;
/// Networks that are searched where no gateway is known.
const MAX_NETWORKS: usize = 2;
/// Ports that are tried when others are taken: 32,768 of them from here.
const OTHER_PORTS: u16 = 16_384;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Upnp {
    site: Site,
    internal: u16,
    rng: ChaCha20Rng,
    started: Instant,
    round: usize,
    /// All that were heard of, and those that were not asked yet.
    known: Vec<Url>,
    devices: VecDeque<Url>,
    services: VecDeque<Service>,
    state: State,
    /// What was granted, or may have been.
    held: Option<Held>,
    /// An address that leads nowhere, at a service that was left for it.
    double_nat: Option<Ipv4Addr>,
    out: VecDeque<Outgoing>,
    closing: VecDeque<Action>,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
enum State {
    Searching,
    Talking { what: Talk, exchange: Box<Exchange>, until: Instant },
    Settled,
    Over,
}

#[derive(Debug)]
enum Talk {
    Describe(Url),
    Address(Service),
    Add { service: Service, address: Ipv4Addr, wish: Wish, left: u8 },
    Delete,
}

/// How a mapping is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    external: u16,
    /// Zero: none.
    lease: Duration,
    /// Whether the gateway may choose.
    any: bool,
}

#[derive(Debug, Clone)]
struct Held {
    service: Service,
    wish: Wish,
    state: Holding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holding {
    Asked,
    Granted,
}

impl Upnp {
    pub(super) fn new(now: Instant, site: Site, internal: u16, rng: ChaCha20Rng) -> Self {
        Self {
            site,
            internal,
            rng,
            started: now,
            round: 0,
            known: Vec::new(),
            devices: VecDeque::new(),
            services: VecDeque::new(),
            state: State::Searching,
            held: None,
            double_nat: None,
            out: VecDeque::new(),
            closing: VecDeque::new(),
            outcome: None,
        }
    }

    fn search(&mut self) {
        let mut ask = |to: SocketAddrV4, from: Ipv4Addr| {
            if let Some(data) = ssdp::question(self.round, to) {
                self.out.push_back(Outgoing { to: to.into(), from: Some(from.into()), data });
            }
        };
        match &self.site {
            Site::Gateway(gateway, local) => {
                ask(ssdp::GROUP, *local);
                // Some firewalls let only those answer who were asked by name.
                ask(SocketAddrV4::new(*gateway, ssdp::PORT), *local);
            }
            Site::Unknown(own) => {
                for &(local, _) in own.iter().take(MAX_NETWORKS) {
                    ask(ssdp::GROUP, local);
                }
            }
        }
        self.round = self.round.saturating_add(1);
    }

    fn next_search(&self) -> Option<Instant> {
        SEARCHES.get(self.round).map(|&later| after(self.started, later))
    }

    fn talk(&mut self, now: Instant, to: SocketAddrV4, what: Talk, request: Vec<u8>) {
        self.hang_up();
        self.state =
            State::Talking { what, exchange: Box::new(Exchange::new(to, request)), until: after(now, EXCHANGE_WITHIN) };
    }

    /// The pipe is ended with a reset, unless the answer is here.
    fn hang_up(&mut self) {
        if let State::Talking { exchange, .. } = &self.state {
            self.closing.extend(exchange.pipe().map(Action::Abort));
        }
    }

    /// The next service, device or search; when there is none, it is over.
    fn go_on(&mut self, now: Instant) {
        if let Some(service) = self.services.pop_front() {
            return self.ask_address(now, service);
        }
        if let Some(device) = self.devices.pop_front() {
            let request = soap::description_request(&device);
            return self.talk(now, device.addr, Talk::Describe(device), request);
        }
        self.hang_up();
        self.state = State::Searching;
        self.search_on(now);
    }

    fn search_on(&mut self, now: Instant) {
        if self.next_search().is_some_and(|at| at <= now) {
            self.search();
        }
        // Those that would have come while a device was talked to are left out.
        while self.next_search().is_some_and(|at| at <= now) {
            self.round = self.round.saturating_add(1);
        }
        if now >= after(self.started, SEARCH_WITHIN) {
            let heard = if self.known.is_empty() { Failure::Silent } else { Failure::Refused };
            self.fail(self.double_nat.map_or(heard, Failure::DoubleNat));
        }
    }

    fn ask_address(&mut self, now: Instant, service: Service) {
        let request = Call::Address.request(&service);
        self.talk(now, service.control.addr, Talk::Address(service), request);
    }

    fn add(&mut self, now: Instant, service: Service, address: Ipv4Addr, wish: Wish, left: u8) {
        let (Some(left), Some(local)) = (left.checked_sub(1), self.site.local(*service.control.addr.ip())) else {
            return self.refused(now);
        };
        let mapping = Mapping { external: wish.external, internal: self.internal, local, lease: wish.lease };
        let call = if wish.any { Call::AddAny(mapping) } else { Call::Add(mapping) };
        let request = call.request(&service);
        if !self.is_granted() {
            self.held = Some(Held { service: service.clone(), wish, state: Holding::Asked });
        }
        self.talk(now, service.control.addr, Talk::Add { service, address, wish, left }, request);
    }

    const fn is_granted(&self) -> bool {
        matches!(self.held, Some(Held { state: Holding::Granted, .. }))
    }

    /// This service does not help. What was granted before stands until its time is over.
    fn refused(&mut self, now: Instant) {
        if self.is_granted() {
            self.fail(Failure::Refused);
        } else {
            self.go_on(now);
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.hang_up();
        self.outcome = Some(Outcome::Failed(failure));
        self.state = if self.is_granted() { State::Settled } else { State::Over };
    }

    /// A port that is hopefully nobody's.
    fn other_port(&mut self) -> u16 {
        let [low, high, ..] = self.rng.next_u32().to_be_bytes();
        (u16::from_be_bytes([low, high]) / 2).saturating_add(OTHER_PORTS)
    }

    fn handle_answer(&mut self, now: Instant, answer: &Answer) {
        let State::Talking { what, exchange, .. } = std::mem::replace(&mut self.state, State::Searching) else {
            return;
        };
        // Its answer is here, so this is no reset.
        self.closing.extend(exchange.pipe().into_iter().flat_map(|pipe| [Action::Finish(pipe), Action::Abort(pipe)]));
        let is_ok = answer.status == 200;
        match what {
            Talk::Describe(device) => {
                if is_ok {
                    self.services = soap::services(&device, &answer.body).into();
                }
                self.go_on(now);
            }
            Talk::Address(service) if is_ok => self.handle_address(now, service, soap::address(&answer.body)),
            Talk::Address(_) => self.refused(now),
            Talk::Add { service, address, wish, left } => {
                if is_ok {
                    self.added(now, service, address, wish, &answer.body);
                } else {
                    self.not_added(now, service, address, wish, left, soap::error(&answer.body));
                }
            }
            Talk::Delete => self.state = State::Over,
        }
    }

    fn handle_address(&mut self, now: Instant, service: Service, address: Ipv4Addr) {
        if !is_public(address) {
            if self.is_granted() {
                return self.fail(Failure::DoubleNat(address));
            }
            // It may be a connection that is not in use.
            self.double_nat = Some(self.double_nat.unwrap_or(address));
            return self.go_on(now);
        }
        let wish = match &self.held {
            Some(Held { state: Holding::Granted, wish, .. }) => Wish { any: false, ..*wish },
            Some(Held { state: Holding::Asked, .. }) | None => {
                let external = if self.internal < MIN_PORT { self.other_port() } else { self.internal };
                Wish { external, lease: LIFETIME, any: service.kind == Kind::Ip2 }
            }
        };
        self.add(now, service, address, wish, MAX_ADDS);
    }

    fn added(&mut self, now: Instant, service: Service, address: Ipv4Addr, mut wish: Wish, body: &str) {
        if wish.any {
            wish.external = soap::reserved_port(body).unwrap_or(wish.external);
        }
        let outcome = Outcome::of(SocketAddrV4::new(address, wish.external), LIFETIME);
        self.held = Some(Held { service, wish, state: Holding::Granted });
        self.outcome = Some(outcome);
        self.state = State::Settled;
        if let Outcome::Failed(_) = outcome {
            self.release(now);
        }
    }

    fn not_added(&mut self, now: Instant, service: Service, address: Ipv4Addr, wish: Wish, left: u8, why: Option<u16>) {
        if !self.is_granted() {
            self.held = None;
        }
        let wish = match why {
            Some(code::ONLY_PERMANENT | code::INVALID_ARGS) if !wish.lease.is_zero() => {
                Wish { lease: Duration::ZERO, ..wish }
            }
            Some(code::CONFLICT) => Wish { external: self.other_port(), ..wish },
            Some(code::SAME_PORTS_REQUIRED) if wish.external != self.internal => {
                Wish { external: self.internal, ..wish }
            }
            Some(code::INVALID_ACTION | code::NOT_IMPLEMENTED) if wish.any => Wish { any: false, ..wish },
            Some(_) | None => return self.refused(now),
        };
        self.add(now, service, address, wish, left);
    }
}

impl Ask for Upnp {
    fn protocol(&self) -> Protocol {
        Protocol::Upnp
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddrV4, data: &[u8]) {
        // Later answers are for nobody.
        if self.held.is_some() || matches!(self.state, State::Over) || self.known.len() >= MAX_DEVICES {
            return;
        }
        if self.site.local(*from.ip()).is_none() {
            return;
        }
        let Some(device) = ssdp::location(*from.ip(), data) else { return };
        if self.known.contains(&device) {
            return;
        }
        self.known.push(device.clone());
        self.devices.push_back(device);
        if matches!(self.state, State::Searching) {
            self.go_on(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            State::Searching => {
                self.search_on(now);
            }
            State::Talking { until, what, .. } if *until <= now => match what {
                Talk::Delete => {
                    self.hang_up();
                    self.state = State::Over;
                }
                Talk::Describe(_) | Talk::Address(_) | Talk::Add { .. } => self.refused(now),
            },
            State::Talking { .. } | State::Settled | State::Over => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Searching => Some(self.next_search().unwrap_or_else(|| after(self.started, SEARCH_WITHIN))),
            State::Talking { until, .. } => Some(*until),
            State::Settled | State::Over => None,
        }
    }

    fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.out.pop_front()
    }

    fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    fn renew(&mut self, now: Instant) {
        if let (State::Settled, Some(held)) = (&self.state, &self.held) {
            self.ask_address(now, held.service.clone());
        }
    }

    fn release(&mut self, now: Instant) {
        if matches!(self.state, State::Talking { what: Talk::Delete, .. } | State::Over) {
            return;
        }
        match self.held.take() {
            Some(Held { service, wish, .. }) => {
                let request = Call::Delete { external: wish.external }.request(&service);
                self.talk(now, service.control.addr, Talk::Delete, request);
            }
            None => self.abandon(),
        }
    }

    fn let_go(&mut self, now: Instant, kept: Option<SocketAddrV4>) {
        let is_kept = |held: &Held| kept.is_some_and(|kept| kept.port() == held.wish.external);
        self.held = self.held.take().filter(|held| !is_kept(held));
        self.release(now);
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn poll_dial(&mut self, next: PipeId) -> Option<Action> {
        match &mut self.state {
            State::Talking { exchange, .. } => exchange.poll_dial(next),
            State::Searching | State::Settled | State::Over => None,
        }
    }

    fn poll_closing(&mut self) -> Option<Action> {
        self.closing.pop_front()
    }

    fn abandon(&mut self) {
        self.hang_up();
        self.out.clear();
        self.state = State::Over;
    }

    fn pipe(&self) -> Option<PipeId> {
        match &self.state {
            State::Talking { exchange, .. } => exchange.pipe(),
            State::Searching | State::Settled | State::Over => None,
        }
    }

    fn handle_pipe(&mut self, now: Instant, event: PipeEvent) {
        let State::Talking { exchange, what, .. } = &mut self.state else { return };
        match exchange.handle(event) {
            Progress::Waiting => {}
            Progress::Answered(answer) => self.handle_answer(now, &answer),
            Progress::Failed if matches!(what, Talk::Delete) => self.abandon(),
            Progress::Failed => self.refused(now),
        }
    }

    fn pipe_buffer(&mut self) -> &mut [u8] {
        match &mut self.state {
            State::Talking { exchange, .. } => exchange.buffer(),
            State::Searching | State::Settled | State::Over => &mut [],
        }
    }

    fn pipe_output<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match &self.state {
            State::Talking { exchange, .. } => exchange.output(slices),
            State::Searching | State::Settled | State::Over => 0,
        }
    }
}

#[cfg(test)]
#[path = "upnp_tests.rs"]
mod tests;
