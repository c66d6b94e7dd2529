//! UPnP Internet Gateway Device, versions 1 and 2: finds the gateway by SSDP, reads its description, and requests its
//! external address and a mapping by SOAP.
//!
//! ```text
//! Discovering ─► Description ─► Address ─► Add ─► Mapped ─► Delete ─► Finished
//!     ▲              │ no gateway, refused: the next service, the next device
//!     └──────────────┘      (Address and Add again: renewal)
//! ```
//! Any host on the network can answer a search. Only answers from the default gateway are accepted or, if it is not
//! known, from an address on an own private network. A device can name only itself (see `url`). A redirect counts as a
//! refusal. The client requests a mapping with a lease of an hour, and without a lease if the gateway supports none
//! (such a mapping exists until it is deleted); it tries another external port if one is in use.
//!
//! Timers: [`SEARCHES`] after the start, [`SEARCH_WITHIN`]; [`EXCHANGE_WITHIN`] for each request. Bounds: one
//! connection at a time, [`MAX_DEVICES`], [`MAX_ADDS`] requests for a mapping at one service, and those of
//! `exchange`, `soap` and `ssdp`.

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

use crate::client::{Client, Failure, LIFETIME, MIN_PORT, Outcome, after, is_public};
use crate::gateway::Gateway;
use crate::{Action, ConnectionEvent, ConnectionId, Instant, Protocol, Transmit};
use exchange::{Answer, Exchange, Progress};
use soap::{Call, Kind, Mapping, Service, code};
use url::Url;

/// The times of the searches, relative to the start.
const SEARCHES: [Duration; ssdp::ROUNDS] =
    [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500), Duration::from_millis(3000)];
/// When the search ends; a device may delay its answer to the last one by up to a second.
const SEARCH_WITHIN: Duration = Duration::from_millis(4500);
/// Time limit from connecting to the end of the response.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(3);
/// The most devices whose description is requested.
const MAX_DEVICES: usize = 4;
/// The most requests for a mapping at one service.
const MAX_ADDS: u8 = 4;
/// The most networks that are searched if the default gateway is not known.
const MAX_NETWORKS: usize = 2;
/// The first of the 32,768 external ports that are tried when others are in use.
const OTHER_PORTS: u16 = 16_384;

/// The UPnP client; the module's documentation describes its states.
#[derive(Debug)]
pub(crate) struct Upnp {
    gateway: Gateway,
    internal: u16,
    description: String,
    rng: ChaCha20Rng,
    started: Instant,
    round: usize,
    /// All devices that answered.
    answered: Vec<Url>,
    /// Devices whose description was not requested yet.
    devices: VecDeque<Url>,
    services: VecDeque<Service>,
    state: UpnpState,
    /// The mapping that was or may have been granted.
    held: Option<Held>,
    /// A non-public external address, because of which a service was skipped.
    double_nat: Option<Ipv4Addr>,
    transmits: VecDeque<Transmit>,
    closes: VecDeque<Action>,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
enum UpnpState {
    Discovering,
    Requesting { request: Request, exchange: Box<Exchange>, until: Instant },
    Mapped,
    Finished,
}

/// A request that waits for its response.
#[derive(Debug)]
enum Request {
    Description(Url),
    Address(Service),
    Add(Add),
    Delete,
}

/// A request for a mapping.
#[derive(Debug)]
struct Add {
    service: Service,
    /// The gateway's external address.
    address: Ipv4Addr,
    wish: Wish,
    /// How many more requests with other parameters may follow.
    retries: u8,
}

/// The parameters with which a mapping is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    external: u16,
    /// Zero means no lease.
    lease: Duration,
    /// Whether the gateway may choose another external port.
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
    Requested,
    Granted,
}

impl Upnp {
    pub(crate) fn new(now: Instant, gateway: Gateway, internal: u16, description: &str, rng: ChaCha20Rng) -> Self {
        Self {
            gateway,
            internal,
            description: description.to_owned(),
            rng,
            started: now,
            round: 0,
            answered: Vec::new(),
            devices: VecDeque::new(),
            services: VecDeque::new(),
            state: UpnpState::Discovering,
            held: None,
            double_nat: None,
            transmits: VecDeque::new(),
            closes: VecDeque::new(),
            outcome: None,
        }
    }

    fn search(&mut self) {
        let mut search = |to: SocketAddrV4, from: Ipv4Addr| {
            if let Some(data) = ssdp::search(self.round, to) {
                self.transmits.push_back(Transmit { to: to.into(), from: Some(from.into()), data });
            }
        };
        match &self.gateway {
            Gateway::Known { address, local } => {
                search(ssdp::GROUP, *local);
                // Some firewalls pass only answers from an address to which a packet was sent.
                search(SocketAddrV4::new(*address, ssdp::PORT), *local);
            }
            Gateway::Unknown(own) => {
                for &(local, _) in own.iter().take(MAX_NETWORKS) {
                    search(ssdp::GROUP, local);
                }
            }
        }
        self.round = self.round.saturating_add(1);
    }

    fn next_search(&self) -> Option<Instant> {
        SEARCHES.get(self.round).map(|&later| after(self.started, later))
    }

    fn send(&mut self, now: Instant, to: SocketAddrV4, request: Request, bytes: Vec<u8>) {
        self.abort_exchange();
        let exchange = Box::new(Exchange::new(to, bytes));
        self.state = UpnpState::Requesting { request, exchange, until: after(now, EXCHANGE_WITHIN) };
    }

    /// Aborts the connection of a request without a response.
    fn abort_exchange(&mut self) {
        if let UpnpState::Requesting { exchange, .. } = &self.state {
            self.closes.extend(exchange.connection().map(Action::Abort));
        }
    }

    /// Continues with the next service, device or search; fails if there is none.
    fn try_next(&mut self, now: Instant) {
        if let Some(service) = self.services.pop_front() {
            return self.ask_address(now, service);
        }
        if let Some(device) = self.devices.pop_front() {
            let request = soap::description_request(&device);
            return self.send(now, device.addr, Request::Description(device), request);
        }
        self.abort_exchange();
        self.state = UpnpState::Discovering;
        self.continue_search(now);
    }

    fn continue_search(&mut self, now: Instant) {
        if self.next_search().is_some_and(|at| at <= now) {
            self.search();
        }
        // Searches that became due during a request to a device are skipped.
        while self.next_search().is_some_and(|at| at <= now) {
            self.round = self.round.saturating_add(1);
        }
        if now >= after(self.started, SEARCH_WITHIN) {
            let failure = if self.answered.is_empty() { Failure::NoAnswer } else { Failure::Refused };
            self.fail(self.double_nat.map_or(failure, Failure::DoubleNat));
        }
    }

    fn ask_address(&mut self, now: Instant, service: Service) {
        let request = Call::Address.request(&service);
        self.send(now, service.control.addr, Request::Address(service), request);
    }

    fn add(&mut self, now: Instant, add: Add) {
        let Add { service, address, wish, retries } = add;
        let (Some(retries), Some(local)) = (retries.checked_sub(1), self.gateway.local(*service.control.addr.ip()))
        else {
            return self.handle_refused(now);
        };
        let Wish { external, lease, any } = wish;
        let mapping = Mapping { external, internal: self.internal, local, lease, description: &self.description };
        let call = if any { Call::AddAny(mapping) } else { Call::Add(mapping) };
        let bytes = call.request(&service);
        if !self.is_granted() {
            self.held = Some(Held { service: service.clone(), wish, state: Holding::Requested });
        }
        self.send(now, service.control.addr, Request::Add(Add { service, address, wish, retries }), bytes);
    }

    const fn is_granted(&self) -> bool {
        matches!(self.held, Some(Held { state: Holding::Granted, .. }))
    }

    /// The service refused. A mapping that was granted before remains until its lifetime ends.
    fn handle_refused(&mut self, now: Instant) {
        if self.is_granted() {
            self.fail(Failure::Refused);
        } else {
            self.try_next(now);
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.abort_exchange();
        self.outcome = Some(Outcome::Failed(failure));
        self.state = if self.is_granted() { UpnpState::Mapped } else { UpnpState::Finished };
    }

    /// A random port, which is probably not in use.
    fn other_port(&mut self) -> u16 {
        let [low, high, ..] = self.rng.next_u32().to_be_bytes();
        (u16::from_be_bytes([low, high]) / 2).saturating_add(OTHER_PORTS)
    }

    fn handle_answer(&mut self, now: Instant, answer: &Answer) {
        let UpnpState::Requesting { request, exchange, .. } =
            std::mem::replace(&mut self.state, UpnpState::Discovering)
        else {
            return;
        };
        self.closes.extend(exchange.connection().map(Action::Close));
        let is_ok = answer.status == 200;
        match request {
            Request::Description(device) => {
                if is_ok {
                    self.services = soap::services(&device, &answer.body).into();
                }
                self.try_next(now);
            }
            Request::Address(service) if is_ok => self.handle_address(now, service, soap::address(&answer.body)),
            Request::Address(_) => self.handle_refused(now),
            Request::Add(add) if is_ok => self.handle_added(now, add, &answer.body),
            Request::Add(add) => self.handle_not_added(now, add, soap::error(&answer.body)),
            Request::Delete => self.state = UpnpState::Finished,
        }
    }

    fn handle_address(&mut self, now: Instant, service: Service, address: Ipv4Addr) {
        if !is_public(address) {
            if self.is_granted() {
                return self.fail(Failure::DoubleNat(address));
            }
            // This may be a connection service that is not in use.
            self.double_nat = Some(self.double_nat.unwrap_or(address));
            return self.try_next(now);
        }
        let wish = match &self.held {
            Some(Held { state: Holding::Granted, wish, .. }) => Wish { any: false, ..*wish },
            Some(Held { state: Holding::Requested, .. }) | None => {
                let external = if self.internal < MIN_PORT { self.other_port() } else { self.internal };
                Wish { external, lease: LIFETIME, any: service.kind == Kind::Ip2 }
            }
        };
        self.add(now, Add { service, address, wish, retries: MAX_ADDS });
    }

    fn handle_added(&mut self, now: Instant, add: Add, body: &str) {
        let Add { service, address, mut wish, .. } = add;
        if wish.any {
            wish.external = soap::reserved_port(body).unwrap_or(wish.external);
        }
        let outcome = Outcome::of(SocketAddrV4::new(address, wish.external), LIFETIME);
        self.held = Some(Held { service, wish, state: Holding::Granted });
        self.outcome = Some(outcome);
        self.state = UpnpState::Mapped;
        if let Outcome::Failed(_) = outcome {
            self.release(now);
        }
    }

    fn handle_not_added(&mut self, now: Instant, add: Add, error: Option<u16>) {
        let wish = add.wish;
        if !self.is_granted() {
            self.held = None;
        }
        let wish = match error {
            Some(code::ONLY_PERMANENT | code::INVALID_ARGS) if !wish.lease.is_zero() => {
                Wish { lease: Duration::ZERO, ..wish }
            }
            Some(code::CONFLICT) => Wish { external: self.other_port(), ..wish },
            Some(code::SAME_PORTS_REQUIRED) if wish.external != self.internal => {
                Wish { external: self.internal, ..wish }
            }
            Some(code::INVALID_ACTION | code::NOT_IMPLEMENTED) if wish.any => Wish { any: false, ..wish },
            Some(_) | None => return self.handle_refused(now),
        };
        self.add(now, Add { wish, ..add });
    }
}

impl Client for Upnp {
    fn protocol(&self) -> Protocol {
        Protocol::Upnp
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddrV4, data: &[u8]) {
        // A device is in use already, or the limit of devices is reached.
        if self.held.is_some() || matches!(self.state, UpnpState::Finished) || self.answered.len() >= MAX_DEVICES {
            return;
        }
        if self.gateway.local(*from.ip()).is_none() {
            return;
        }
        let Some(device) = ssdp::location(*from.ip(), data) else { return };
        if self.answered.contains(&device) {
            return;
        }
        self.answered.push(device.clone());
        self.devices.push_back(device);
        if matches!(self.state, UpnpState::Discovering) {
            self.try_next(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            UpnpState::Discovering => {
                self.continue_search(now);
            }
            UpnpState::Requesting { until, request, .. } if *until <= now => match request {
                Request::Delete => {
                    self.abort_exchange();
                    self.state = UpnpState::Finished;
                }
                Request::Description(_) | Request::Address(_) | Request::Add(_) => self.handle_refused(now),
            },
            UpnpState::Requesting { .. } | UpnpState::Mapped | UpnpState::Finished => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            UpnpState::Discovering => Some(self.next_search().unwrap_or_else(|| after(self.started, SEARCH_WITHIN))),
            UpnpState::Requesting { until, .. } => Some(*until),
            UpnpState::Mapped | UpnpState::Finished => None,
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    fn renew(&mut self, now: Instant) {
        if let (UpnpState::Mapped, Some(held)) = (&self.state, &self.held) {
            self.ask_address(now, held.service.clone());
        }
    }

    fn release(&mut self, now: Instant) {
        if matches!(self.state, UpnpState::Requesting { request: Request::Delete, .. } | UpnpState::Finished) {
            return;
        }
        match self.held.take() {
            Some(Held { service, wish, .. }) => {
                let request = Call::Delete { external: wish.external }.request(&service);
                self.send(now, service.control.addr, Request::Delete, request);
            }
            None => self.abort(),
        }
    }

    fn withdraw(&mut self, now: Instant, kept: Option<SocketAddrV4>) {
        let is_kept = |held: &Held| kept.is_some_and(|kept| kept.port() == held.wish.external);
        self.held = self.held.take().filter(|held| !is_kept(held));
        self.release(now);
    }

    fn is_finished(&self) -> bool {
        matches!(self.state, UpnpState::Finished)
    }

    fn poll_connect(&mut self, id: ConnectionId) -> Option<SocketAddrV4> {
        match &mut self.state {
            UpnpState::Requesting { exchange, .. } => exchange.poll_connect(id),
            UpnpState::Discovering | UpnpState::Mapped | UpnpState::Finished => None,
        }
    }

    fn poll_close(&mut self) -> Option<Action> {
        self.closes.pop_front()
    }

    fn abort(&mut self) {
        self.abort_exchange();
        self.transmits.clear();
        self.state = UpnpState::Finished;
    }

    fn connection(&self) -> Option<ConnectionId> {
        match &self.state {
            UpnpState::Requesting { exchange, .. } => exchange.connection(),
            UpnpState::Discovering | UpnpState::Mapped | UpnpState::Finished => None,
        }
    }

    fn handle_connection(&mut self, now: Instant, event: ConnectionEvent) {
        let UpnpState::Requesting { exchange, request, .. } = &mut self.state else { return };
        match exchange.handle(event) {
            Progress::Waiting => {}
            Progress::Answered(answer) => self.handle_answer(now, &answer),
            Progress::Failed if matches!(request, Request::Delete) => self.abort(),
            Progress::Failed => self.handle_refused(now),
        }
    }

    fn receive_buffer(&mut self) -> &mut [u8] {
        match &mut self.state {
            UpnpState::Requesting { exchange, .. } => exchange.buffer(),
            UpnpState::Discovering | UpnpState::Mapped | UpnpState::Finished => &mut [],
        }
    }

    fn send_queue<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match &self.state {
            UpnpState::Requesting { exchange, .. } => exchange.send_queue(slices),
            UpnpState::Discovering | UpnpState::Mapped | UpnpState::Finished => 0,
        }
    }
}

#[cfg(test)]
mod tests;
