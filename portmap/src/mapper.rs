//! The state machine that decides which protocol clients run, which client's mapping is used, and when it is renewed.
//!
//! It decides which gateway is used (see `gateway`), in which order the protocols are tried (PCP and NAT-PMP at once,
//! UPnP after [`UPNP_AFTER`] or when both have failed), which mapping is used (the first; a mapping that is granted
//! later is deleted) and when a mapping is renewed (at half its lifetime, then at half of the remaining time). The
//! crate's README has a diagram of the states.
//!
//! Behind two NATs, the gateway's external address is private or a carrier's shared address, and a mapping there opens
//! a port that no packet from the internet reaches. The mapper deletes such a mapping at once and reports
//! [`Event::DoubleNat`], never an address. A peer behind the same outer NAT could use the mapping, but it has other
//! paths (its own network, hole punching), and the address would reveal a network to which it does not belong.
//!
//! Timers: those, [`ATTEMPT_WITHIN`] for one attempt, [`RETRY_AFTER`] between attempts at one gateway. Bounds: `SENDS`
//! datagrams for one request, [`MAX_CONNECTIONS`], [`MAX_PENDING_RELEASES`] withdrawn clients that still delete a
//! mapping, [`MAX_EVENTS`].

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::client::{Client, Failure, Grant, Outcome, Target, after};
use crate::gateway::Gateway;
use crate::natpmp::NatPmp;
use crate::pcp::Pcp;
use crate::upnp::Upnp;
use crate::{
    Action, Config, ConnectionEvent, ConnectionId, Event, Instant, Interface, MAX_DESCRIPTION, Protocol, Transmit,
};

/// The gateway's UDP port for PCP and NAT-PMP (RFC 6887 §19.1).
pub const PORT: u16 = 5351;
/// The head start that PCP and NAT-PMP have before UPnP is tried.
pub const UPNP_AFTER: Duration = Duration::from_secs(1);
/// Time limit of one attempt, all protocols together.
pub const ATTEMPT_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two attempts at the same gateway.
pub const RETRY_AFTER: Duration = Duration::from_secs(300);
/// Time limit of deleting a mapping, and of [`PortMapper::release`] when UPnP has created the mapping.
pub const RELEASE_WITHIN: Duration = Duration::from_secs(1);
/// Time limit of [`PortMapper::release`] when PCP or NAT-PMP has created the mapping. With no mapping it takes 1 ms.
pub const CLOSE_WITHIN: Duration = Duration::from_millis(100);
/// The shortest delay between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// The most clients that are no longer current and still delete a mapping.
pub const MAX_PENDING_RELEASES: usize = 6;
/// The most TCP connections at a time.
pub const MAX_CONNECTIONS: usize = 3;
/// The most events that wait to be polled. The oldest are dropped, since the newest describes the present state.
pub const MAX_EVENTS: usize = 16;
/// Connection ids start again at 0 after this number.
const CONNECTION_IDS: u32 = 1 << 31;

/// Requests a mapping of one UDP port, keeps it alive and deletes it. The crate's documentation shows the driving loop.
#[derive(Debug)]
pub struct PortMapper {
    rng: ChaCha20Rng,
    config: Config,
    interfaces: Vec<Interface>,
    /// `None`: the system reports none.
    gateways: Option<Vec<IpAddr>>,
    /// The internal port for the mapping; `None`: no mapping is wanted.
    wanted: Option<u16>,
    socket: Socket,
    state: State,
    /// The gateway to which `state` applies.
    gateway: Option<Gateway>,
    pending_releases: Vec<Box<dyn Client>>,
    next_connection: u32,
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
    Trying { clients: Vec<Box<dyn Client>>, upnp_at: Option<Instant>, until: Instant },
    Mapped { client: Box<dyn Client>, external: SocketAddrV4, renew_at: Option<Instant>, expires_at: Instant },
    Resting { until: Instant },
    Releasing { until: Instant },
}

impl PortMapper {
    /// A mapper that does nothing until [`PortMapper::start`]. `seed` is 32 bytes of the system's randomness (PCP's
    /// nonces and alternative ports are derived from it); with the same seed and inputs a run repeats exactly.
    #[must_use]
    pub fn new(mut config: Config, seed: [u8; 32]) -> Self {
        config.description.truncate(config.description.floor_char_boundary(MAX_DESCRIPTION));
        Self {
            rng: ChaCha20Rng::from_seed(seed),
            config,
            interfaces: Vec::new(),
            gateways: None,
            wanted: None,
            socket: Socket::Closed,
            state: State::Idle,
            gateway: None,
            pending_releases: Vec::new(),
            next_connection: 0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            double_nat: None,
        }
    }

    /// Requests that this UDP port of the machine becomes reachable, and keeps it so until [`PortMapper::release`]. An
    /// earlier mapping of another port is deleted. The attempt begins when a gateway is known.
    pub fn start(&mut self, now: Instant, internal_port: u16) {
        if self.wanted == Some(internal_port) {
            return;
        }
        if self.socket == Socket::Refused {
            self.socket = Socket::Closed;
        }
        self.withdraw_current(now);
        self.wanted = Some(internal_port);
        self.state = State::Idle;
        self.begin(now);
    }

    /// Sets the machine's addresses: call it at the start and after each change.
    pub fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        self.interfaces = interfaces.to_vec();
        self.update_gateway(now);
    }

    /// Sets the machine's default gateways, the preferred one first: call it at the start, before
    /// [`PortMapper::handle_interfaces`], and after each change. Without this call only UPnP is tried, which finds a
    /// gateway by multicast.
    pub fn handle_gateways(&mut self, now: Instant, gateways: &[IpAddr]) {
        self.gateways = Some(gateways.to_vec());
        self.update_gateway(now);
    }

    /// The answer to [`Action::OpenSocket`]: whether the socket is open. If it is not, no attempt is made until the
    /// next [`PortMapper::start`].
    pub fn handle_socket(&mut self, now: Instant, is_open: bool) {
        if self.socket == Socket::Opening {
            self.socket = if is_open { Socket::Open } else { Socket::Refused };
            self.begin(now);
        }
    }

    /// The machine was suspended: lifetimes continued while its clock was stopped, so the mapping is renewed at once.
    pub fn handle_resume(&mut self, now: Instant) {
        if let State::Mapped { client, renew_at, .. } = &mut self.state {
            client.renew(now);
            *renew_at = None;
        }
    }

    /// Processes a datagram that arrived at the socket, from any host and with any content.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        let IpAddr::V4(ip) = from.ip().to_canonical() else { return };
        let from = SocketAddrV4::new(ip, from.port());
        for client in self.clients_mut() {
            client.handle_datagram(now, from, data);
        }
        self.settle(now);
    }

    /// Processes an event of a connection. An unknown id is ignored.
    pub fn handle_connection(&mut self, now: Instant, id: ConnectionId, event: ConnectionEvent) {
        if let Some(client) = self.clients_mut().find(|client| client.connection() == Some(id)) {
            client.handle_connection(now, event);
        }
        self.settle(now);
    }

    /// Checks the timers. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        for client in self.clients_mut() {
            client.handle_timeout(now);
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
                self.withdraw_current(now);
                self.begin(now);
            }
            State::Mapped { client, renew_at, .. } => {
                if renew_at.take_if(|at| *at <= now).is_some() {
                    client.renew(now);
                    client.handle_timeout(now);
                }
            }
            State::Resting { until } if *until <= now => {
                self.state = State::Idle;
                self.begin(now);
            }
            State::Releasing { until } if *until <= now => self.finish_release(),
            State::Idle | State::Resting { .. } | State::Releasing { .. } => {}
        }
    }

    /// When [`PortMapper::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Idle => None,
            State::Trying { upnp_at, until, .. } => Some(upnp_at.map_or(*until, |at| at.min(*until))),
            State::Mapped { renew_at, expires_at, .. } => Some(renew_at.map_or(*expires_at, |at| at.min(*expires_at))),
            State::Resting { until } | State::Releasing { until } => Some(*until),
        };
        self.clients().filter_map(|client| client.poll_timeout()).chain(own).min()
    }

    /// The next datagram to send from the socket.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.clients_mut().find_map(|client| client.poll_transmit())
    }

    /// The next action for the caller.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.clients().filter(|client| client.connection().is_some()).count() >= MAX_CONNECTIONS {
            return None;
        }
        let id = ConnectionId(self.next_connection);
        let to = self.clients_mut().find_map(|client| client.poll_connect(id))?;
        self.next_connection = self.next_connection.wrapping_add(1) & CONNECTION_IDS.wrapping_sub(1);
        Some(Action::Connect(id, to))
    }

    /// The buffer for the next received bytes of this connection. Empty for an unknown id.
    #[must_use]
    pub fn receive_buffer(&mut self, id: ConnectionId) -> &mut [u8] {
        let client = self.clients_mut().find(|client| client.connection() == Some(id));
        client.map_or(&mut [], |client| client.receive_buffer())
    }

    /// Fills `slices` with the bytes to send on this connection, and returns how many slices were filled.
    /// [`ConnectionEvent::Sent`] consumes the bytes.
    #[must_use]
    pub fn send_queue<'a>(&'a self, id: ConnectionId, slices: &mut [IoSlice<'a>]) -> usize {
        let client = self.clients().find(|client| client.connection() == Some(id));
        client.map_or(0, |client| client.send_queue(slices))
    }

    /// The next event for the application.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The external address that is mapped to the internal port now.
    #[must_use]
    pub fn mapped(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Mapped { external, .. } => Some((*external).into()),
            State::Idle | State::Trying { .. } | State::Resting { .. } | State::Releasing { .. } => None,
        }
    }

    /// The protocol of the present mapping.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        match &self.state {
            State::Mapped { client, .. } => Some(client.protocol()),
            State::Idle | State::Trying { .. } | State::Resting { .. } | State::Releasing { .. } => None,
        }
    }

    /// Deletes all mappings that were or may have been granted, and makes no more requests. It is complete when
    /// [`PortMapper::is_released`] is true: after 1 ms if nothing was granted, else after the answer, or after
    /// [`CLOSE_WITHIN`] (PCP, NAT-PMP) or [`RELEASE_WITHIN`] (UPnP).
    pub fn release(&mut self, now: Instant) {
        self.wanted = None;
        if matches!(self.state, State::Releasing { .. }) {
            return;
        }
        // The gateway has not answered these clients for a while, and no request has been sent to it since.
        self.pending_releases.retain(|client| !client.awaits_late_answer());
        self.withdraw_current(now);
        for client in &mut self.pending_releases {
            client.close(now);
            client.handle_timeout(now);
        }
        self.state = State::Releasing { until: after(now, RELEASE_WITHIN) };
        self.settle(now);
    }

    /// Whether nothing is requested and no mapping exists, or the time limit for deleting it has passed.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.wanted.is_none() && matches!(self.state, State::Idle)
    }

    fn clients(&self) -> impl Iterator<Item = &Box<dyn Client>> {
        let current = match &self.state {
            State::Trying { clients, .. } => clients.as_slice(),
            State::Mapped { client, .. } => std::slice::from_ref(client),
            State::Idle | State::Resting { .. } | State::Releasing { .. } => &[],
        };
        current.iter().chain(&self.pending_releases)
    }

    fn clients_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn Client>> {
        let current = match &mut self.state {
            State::Trying { clients, .. } => clients.as_mut_slice(),
            State::Mapped { client, .. } => std::slice::from_mut(client),
            State::Idle | State::Resting { .. } | State::Releasing { .. } => &mut [],
        };
        current.iter_mut().chain(&mut self.pending_releases)
    }

    /// Selects the gateway again. Mappings at the earlier gateway are deleted, if it is still reachable, and a new one
    /// is requested.
    fn update_gateway(&mut self, now: Instant) {
        let gateway = Gateway::find(&self.interfaces, self.gateways.as_deref());
        if gateway == self.gateway {
            return;
        }
        self.gateway = gateway;
        if self.wanted.is_none() {
            return;
        }
        self.withdraw_current(now);
        self.begin(now);
    }

    /// Starts an attempt, if a mapping is wanted and the gateway and the socket are available.
    fn begin(&mut self, now: Instant) {
        let (Some(internal_port), Some(gateway), State::Idle) = (self.wanted, &self.gateway, &self.state) else {
            return;
        };
        match self.socket {
            Socket::Open => {}
            Socket::Closed => {
                self.actions.push_back(Action::OpenSocket);
                self.socket = Socket::Opening;
                return;
            }
            Socket::Opening | Socket::Refused => return,
        }
        let mut clients: Vec<Box<dyn Client>> = Vec::new();
        if let Gateway::Known { address, local } = *gateway {
            let target = Target { server: SocketAddrV4::new(address, PORT), local, internal_port };
            if self.config.protocols.contains(&Protocol::Pcp) {
                clients.push(Box::new(Pcp::new(now, target, &mut self.rng)));
            }
            if self.config.protocols.contains(&Protocol::NatPmp) {
                clients.push(Box::new(NatPmp::new(now, target)));
            }
            if let [client] = clients.as_mut_slice() {
                client.end_head_start(now);
            }
        }
        let upnp_after = if clients.is_empty() { Duration::ZERO } else { UPNP_AFTER };
        let upnp_at = self.config.protocols.contains(&Protocol::Upnp).then(|| after(now, upnp_after));
        self.state = State::Trying { clients, upnp_at, until: after(now, ATTEMPT_WITHIN) };
        self.handle_timeout(now);
    }

    fn begin_upnp(&mut self, now: Instant) {
        let (State::Trying { clients, upnp_at, .. }, Some(gateway), Some(port)) =
            (&mut self.state, &self.gateway, self.wanted)
        else {
            return;
        };
        *upnp_at = None;
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let rng = ChaCha20Rng::from_seed(seed);
        let mut upnp = Upnp::new(now, gateway.clone(), port, &self.config.description, rng);
        upnp.handle_timeout(now);
        clients.push(Box::new(upnp));
        self.settle(now);
    }

    /// Applies the outcomes of the current clients, and removes clients that are done.
    fn settle(&mut self, now: Instant) {
        loop {
            match &mut self.state {
                State::Trying { clients, .. } => {
                    let mut outcomes = clients.iter_mut().enumerate();
                    let found = outcomes.find_map(|(at, client)| Some((at, client.poll_outcome()?)));
                    let Some((at, outcome)) = found else { break };
                    let client = clients.swap_remove(at);
                    match outcome {
                        Outcome::Granted(grant) => self.handle_granted(now, client, grant),
                        Outcome::Failed(failure) => self.handle_failed(now, client, failure),
                    }
                }
                State::Mapped { client, .. } => {
                    let Some(outcome) = client.poll_outcome() else { break };
                    match outcome {
                        Outcome::Granted(grant) => self.handle_renewed(now, grant),
                        Outcome::Failed(failure) => self.handle_not_renewed(now, failure),
                    }
                }
                State::Idle | State::Resting { .. } | State::Releasing { .. } => break,
            }
        }
        if let State::Trying { clients, upnp_at, .. } = &mut self.state
            && clients.is_empty()
        {
            match upnp_at {
                Some(at) => *at = now,
                None => self.rest(now),
            }
        }
        self.collect_closes();
        self.pending_releases.retain(|client| !client.is_finished());
        if matches!(self.state, State::Releasing { .. }) && self.pending_releases.is_empty() {
            self.finish_release();
        }
    }

    /// A client has the first mapping: all others are withdrawn.
    fn handle_granted(&mut self, now: Instant, client: Box<dyn Client>, grant: Grant) {
        let Grant { external, lifetime } = grant;
        tracing::debug!(protocol = ?client.protocol(), ?lifetime, "port mapped");
        let State::Trying { clients, .. } = std::mem::replace(&mut self.state, State::Idle) else { return };
        for other in clients {
            self.withdraw(now, other, Some(external));
        }
        let (renew_at, expires_at) = (Some(after(now, lifetime / 2)), after(now, lifetime));
        self.state = State::Mapped { client, external, renew_at, expires_at };
        self.double_nat = None;
        self.push_event(Event::Mapped(external.into()));
    }

    fn handle_failed(&mut self, now: Instant, client: Box<dyn Client>, failure: Failure) {
        let protocol = client.protocol();
        tracing::debug!(?protocol, ?failure, "port not mapped");
        self.withdraw(now, client, None);
        if let Failure::DoubleNat(external) = failure {
            self.report_double_nat(external);
            return self.rest(now);
        }
        if let State::Trying { clients, .. } = &mut self.state
            && protocol == Protocol::Pcp
        {
            for client in clients {
                client.end_head_start(now);
                client.handle_timeout(now);
            }
        }
    }

    fn handle_renewed(&mut self, now: Instant, grant: Grant) {
        let State::Mapped { external, renew_at, expires_at, .. } = &mut self.state else { return };
        let has_changed = *external != grant.external;
        *external = grant.external;
        (*renew_at, *expires_at) = (Some(after(now, grant.lifetime / 2)), after(now, grant.lifetime));
        if has_changed {
            self.push_event(Event::Mapped(grant.external.into()));
        }
    }

    fn handle_not_renewed(&mut self, now: Instant, failure: Failure) {
        tracing::debug!(?failure, "port mapping not renewed");
        let State::Mapped { renew_at, expires_at, .. } = &mut self.state else { return };
        match failure {
            Failure::NoAnswer | Failure::Unsupported | Failure::Refused => {
                let left = expires_at.saturating_duration_since(now);
                *renew_at = Some(after(now, (left / 2).max(RENEW_EVERY)));
            }
            Failure::StateLost => {
                self.withdraw_current(now);
                self.begin(now);
            }
            Failure::DoubleNat(external) => {
                self.rest(now);
                self.report_double_nat(external);
            }
        }
    }

    /// Ends the attempt; the next one begins after [`RETRY_AFTER`].
    fn rest(&mut self, now: Instant) {
        self.withdraw_current(now);
        self.state = State::Resting { until: after(now, RETRY_AFTER) };
    }

    /// Withdraws all current clients and sets the state to idle, unless it rests or releases.
    fn withdraw_current(&mut self, now: Instant) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Trying { clients, .. } => {
                for client in clients {
                    self.withdraw(now, client, None);
                }
            }
            State::Mapped { client, .. } => {
                self.push_event(Event::Lost);
                self.withdraw(now, client, None);
            }
            State::Idle | State::Resting { .. } | State::Releasing { .. } => {}
        }
    }

    /// Keeps a client only to delete its mapping, except the mapping `kept`, which another client uses.
    fn withdraw(&mut self, now: Instant, mut client: Box<dyn Client>, kept: Option<SocketAddrV4>) {
        client.withdraw(now, kept);
        client.handle_timeout(now);
        self.pending_releases.push(client);
        if self.pending_releases.len() > MAX_PENDING_RELEASES
            && let Some(oldest) = self.pending_releases.first_mut()
        {
            oldest.abort();
        }
        self.collect_closes();
        self.pending_releases.retain(|client| !client.is_finished());
    }

    fn collect_closes(&mut self) {
        let mut closes = Vec::new();
        for client in self.clients_mut() {
            closes.extend(std::iter::from_fn(|| client.poll_close()));
        }
        self.actions.extend(closes);
    }

    /// Mappings whose deletion is not confirmed by now remain until they expire.
    fn finish_release(&mut self) {
        for client in &mut self.pending_releases {
            client.abort();
        }
        self.collect_closes();
        self.pending_releases.clear();
        if matches!(self.socket, Socket::Open | Socket::Opening) {
            self.actions.push_back(Action::CloseSocket);
        }
        self.socket = Socket::Closed;
        self.state = State::Idle;
    }

    fn report_double_nat(&mut self, external: Ipv4Addr) {
        if self.double_nat.replace(external) != Some(external) {
            self.push_event(Event::DoubleNat(external));
        }
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests;
