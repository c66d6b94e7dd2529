//! The relays that a peer asks for the other one, their order, and when they are asked again.
//!
//! ```text
//! Resolving ──► Idle ──► Dialing ──answered──► Connected ──paired──► (handed over)
//!  │  │ ▲         ▲          │ no answer            │ nobody waits, connection lost
//!  │  ▼ │         └──────────┴──────────────────────┘
//!  │ Unresolved (the name service did not answer)
//!  └─► Gone
//! ```
//! By the code: a sender asks its relays one after the other, see [`order`]. It uses the first one that answers, and
//! returns only to that one until its patience ends. A receiver asks all of them, because it can't know at which relay
//! the code was assigned: again after 1 s, after 2 s and then every 5 s.
//!
//! A name lookup that finds nothing at once is the name service's answer: there is no such name. One that finds nothing
//! after [`SLOW_LOOKUP`] had no answer: it is repeated until the patience ends.
//!
//! After the loss of a session's links, the sender waits at all its relays. The receiver asks each configured relay
//! in turn for [`TURN`] ([`DIAL_TURN`] if it does not answer). A relay that does not answer is tried again after a
//! pause that doubles up to [`MAX_BACKOFF`], with a jitter of half of it. While a direct link is active
//! (`paths::relay_path`) the search works the same way, but without events, and never fails.
//!
//! `link::race` and `dial` decide which address of a relay and which transport are used.
//! Bounds: [`MAX_SERVERS`] servers. Timers: those of the race for a connection, that of `client` for an answer, and
//! those named above.

mod answers;
mod order;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::super::config::{RelayAddress, RelayChoice};
use super::super::event::{Event, WaitingFor};
use super::super::failure::{Failure, Lost};
use super::super::network::{self, ConnectionId, Network, Query};
use super::Output;
use super::client::Question;
use super::server::{Dialing, Origin, RelayServer, State};
use crate::Instant;
use crate::link::proxy::Proxy;
use crate::link::race::{Allowed, Race, Route, Transport, interleaved};
use crate::seed::Seed;
use crate::wire::Features;
use crate::wire::relay::{Role, RoomId};

/// How many relays a peer asks: configured, local and discovered ones together.
pub(in super::super) const MAX_SERVERS: usize = 16;
/// Attempts with a configured relay that never answered.
const TRIES: u32 = 2;
/// The same if the relay refused connections, or if the time ran out although the relay had sent something or this
/// process was late.
const BUSY_TRIES: u32 = 6;
/// The pause before a relay on this machine or on the LAN that did not answer is tried again.
const NEAR_AGAIN: Duration = Duration::from_millis(500);
/// The same pause after a handshake over that relay was lost, so that others are asked first.
const NEAR_LAST: Duration = Duration::from_secs(2);
/// How long a receiver waits for a sender that is connected to another receiver: as long as that one needs for two
/// failed attempts.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// How long the search for others continues after the handshake over a relay on the LAN failed: enough for two
/// queries of the network and their answers.
const OTHERS_WITHIN: Duration = Duration::from_secs(3);
/// How long a receiver that reconnects waits at one relay before it asks the next one.
const TURN: Duration = Duration::from_secs(10);
/// The same time at a relay that does not answer.
const DIAL_TURN: Duration = Duration::from_secs(3);
/// The shortest and the longest pause before a relay is tried again for a session.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A name lookup that takes longer is reported, and was not answered if it finds nothing. Resolvers wait for 5 s and
/// more; an answer that there is no such name arrives within a few round trips.
const SLOW_LOOKUP: Duration = Duration::from_secs(2);
/// The pause before a name is looked up again.
const LOOKUP_AGAIN: Duration = Duration::from_secs(1);

/// The configuration of the search.
#[derive(Debug)]
pub struct SearchConfig {
    /// The role of this peer.
    pub role: Role,
    /// The features of this peer.
    pub features: Features,
    /// The question for the relays.
    pub question: Question,
    /// How long a receiver waits for a sender, and how long either side waits for a network that is down.
    pub patience: Duration,
    /// The seed of the jitter.
    pub seed: Seed,
    /// The transports over which relays may be reached.
    pub transport: Allowed,
    /// The proxy through which relays are reached.
    pub proxy: Option<Proxy>,
}

/// The time that a reconnecting receiver spends at one of several relays.
#[derive(Debug)]
struct Turn {
    /// When it is checked: a relay that has not answered by then is left; at one that has answered the receiver stays
    /// to the end.
    look: Instant,
    end: Instant,
}

impl Turn {
    fn new(now: Instant) -> Self {
        Self { look: now + DIAL_TURN, end: now + TURN }
    }
}

/// The purpose of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// Searching for the other side by the code; this peer has no seat yet.
    Code,
    /// Searching by the code, and the relay at `current` assigned this sender its seat: the code is valid only there.
    Seated,
    /// Searching for the other side of a session that has no link.
    Again,
    /// Searching for the other side of a session that has a direct link: without events, and without failing.
    Beside,
}

/// The list of relays; see the module documentation.
#[derive(Debug)]
pub struct ServerList {
    role: Role,
    pub(super) features: Features,
    pub(super) question: Question,
    pub(super) search: Search,
    pub(super) servers: Vec<RelayServer>,
    /// An index in the list of relays: for a sender the relay of its code, for a reconnecting receiver the relay
    /// whose turn it is.
    current: usize,
    /// The relay at which the two peers were connected last.
    met: Option<usize>,
    /// The failure of a relay on the LAN that was dropped; it ends the search if no other relay succeeds.
    dropped: Option<Failure>,
    turn: Option<Turn>,
    /// A sender without a room: when it begins to ask its next relay, if none has answered.
    next_begin: Option<Instant>,
    /// How long to wait for the network, or for a sender.
    patience: Duration,
    jitter: ChaCha20Rng,
    transport: Allowed,
    pub(super) proxy: Option<Proxy>,
    active: bool,
    give_up: Option<Instant>,
    announced: Option<WaitingFor>,
    pub(super) out: VecDeque<Output>,
    pub(super) last: Failure,
}

impl ServerList {
    /// Starts the search at configured relays and at `near` addresses.
    #[must_use]
    pub fn new(
        now: Instant,
        config: SearchConfig,
        relays: &[RelayChoice],
        near: &[SocketAddr],
        net: &mut Network,
    ) -> Self {
        let SearchConfig { role, features, question, patience, seed, transport, proxy } = config;
        let mut servers = Vec::new();
        for (index, relay) in relays.iter().take(MAX_SERVERS).enumerate() {
            // A proxy resolves the relay's name itself.
            let (host, port) = match &proxy {
                Some(proxy) => (proxy.host(), proxy.port()),
                None => (relay.address.host.as_str(), relay.address.port),
            };
            let literal = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
            let state = match literal {
                Some(_) => State::Idle { next: now },
                None => {
                    net.resolve(Query::Relay(index), host, port);
                    State::Resolving { since: now }
                }
            };
            let addresses = literal.into_iter().collect();
            let origin = Origin::Configured(relay.clone());
            let remembered = relay.remembered;
            servers.push(RelayServer::new(origin, addresses, state, remembered));
        }
        let mut list = Self {
            role,
            features,
            question,
            search: Search::Code,
            servers,
            current: 0,
            met: None,
            dropped: None,
            turn: None,
            next_begin: None,
            patience,
            jitter: seed.rng(),
            transport,
            proxy,
            active: true,
            give_up: now.checked_add(patience),
            announced: None,
            out: VecDeque::new(),
            last: Failure::Lost(Lost::NoRelay),
        };
        for &address in near {
            list.add_near(now, address);
        }
        list.begin_first(now);
        list
    }

    /// Adds an address on this machine or on the LAN where a sender may listen.
    pub fn add_near(&mut self, now: Instant, address: SocketAddr) {
        let known = self.servers.iter().any(|server| server.addresses.contains(&address));
        if !known && self.servers.len() < MAX_SERVERS {
            self.servers.push(RelayServer::new(Origin::Near, vec![address], State::Idle { next: now }, None));
        }
    }

    /// The relay assigned this room: from now on the sender requests its own seat in it.
    pub fn set_room(&mut self, room: RoomId) {
        let (Question::Allocate { owner } | Question::Join { owner, .. }) = self.question;
        self.question = Question::Join { room, role: self.role, owner, again: false, former: None };
    }

    /// The configured relay that a sender uses.
    #[must_use]
    pub fn relay(&self) -> Option<RelayAddress> {
        match &self.servers.get(self.current)?.origin {
            Origin::Configured(relay) => Some(relay.address.clone()),
            Origin::Near => None,
        }
    }

    /// The known addresses of the configured relays: one of each address family for each relay.
    #[must_use]
    pub fn stun_servers(&self) -> Vec<SocketAddr> {
        let configured = self.servers.iter().filter(|server| !server.is_near());
        configured
            .flat_map(|server| {
                let of = |v4: bool| server.addresses.iter().find(move |address| address.is_ipv4() == v4);
                [of(true), of(false)]
            })
            .flatten()
            .copied()
            .collect()
    }

    /// Continues the search after a handshake that failed.
    pub fn resume(&mut self, now: Instant) {
        self.active = true;
        self.announced = None;
        for server in &mut self.servers {
            if !matches!(server.state, State::Resolving { .. } | State::Unresolved { .. } | State::Gone) {
                let next = if server.is_last { now + NEAR_LAST } else { now };
                server.state = State::Idle { next };
            }
        }
    }

    /// The handshake over the relay used last failed. If that relay is an unauthenticated one on this machine or on
    /// the LAN, it is not asked again, and the search for others continues for a limited time. Returns false if it
    /// was another relay.
    pub fn drop_near(&mut self, now: Instant, failure: Failure) -> bool {
        let Some(server) = self.met.and_then(|index| self.servers.get_mut(index)).filter(|server| server.is_near())
        else {
            return false;
        };
        server.state = State::Gone;
        self.dropped = Some(failure);
        let until = now + OTHERS_WITHIN;
        self.give_up = Some(self.give_up.map_or(until, |at| at.min(until)));
        true
    }

    /// The handshake over the relay used last was lost: if it is on this machine or on the LAN, it is asked after the
    /// others from now on.
    pub fn put_off_near(&mut self) {
        if let Some(server) = self.met.and_then(|index| self.servers.get_mut(index)) {
            server.is_last = server.is_near();
        }
    }

    /// Sends another question from now on, on new connections, after a handshake whose result is unknown.
    pub fn ask(&mut self, now: Instant, net: &mut Network, question: Question) {
        self.stop(now, net);
        self.question = question.after(self.question);
        self.resume(now);
    }

    /// The session lost its link: searches in the room that `question` names.
    pub fn look_again(&mut self, now: Instant, net: &mut Network, question: Question) {
        self.search = Search::Again;
        self.give_up = None;
        self.servers.iter_mut().for_each(|server| server.rounds = 0);
        self.turn = (self.role == Role::Receiver && self.servers.len() > 1).then(|| Turn::new(now));
        self.ask(now, net, question);
    }

    /// The session lost its relay path and has a direct link: like [`Self::look_again`], but without urgency and
    /// without events.
    pub fn look_beside(&mut self, now: Instant, net: &mut Network, question: Question) {
        self.look_again(now, net, question);
        self.search = Search::Beside;
        self.take_time(now);
    }

    /// While a direct link is active, no relay is asked at once, and a relay that did not answer is asked less often
    /// than otherwise.
    fn take_time(&mut self, now: Instant) {
        if self.search != Search::Beside {
            return;
        }
        for index in 0..self.servers.len() {
            let next = now + self.backoff(index);
            if index == self.current && self.turn.is_some() {
                self.turn = Some(Turn::new(next));
            }
            if let Some(RelayServer { state: State::Idle { next: due }, .. }) = self.servers.get_mut(index) {
                *due = next;
            }
        }
    }

    /// The relay of the last connection is shutting down: it is asked last from now on.
    pub fn leave_relay(&mut self, now: Instant) {
        if self.role == Role::Receiver {
            self.next_relay(now);
        }
    }

    /// Continues the search after a pause, because the last connection failed.
    pub fn again_later(&mut self, now: Instant) {
        self.resume(now);
        for index in 0..self.servers.len() {
            let pause = self.backoff(index);
            if let Some(RelayServer { state: State::Idle { next }, rounds, .. }) = self.servers.get_mut(index) {
                *rounds = rounds.saturating_add(1);
                *next = (*next).max(now + pause);
            }
        }
    }

    /// The network changed: postponed attempts are made at once, and attempts over the old network are started again.
    pub fn hurry(&mut self, now: Instant, net: &mut Network) {
        if self.search == Search::Code {
            return;
        }
        for server in &mut self.servers {
            if let State::Dialing(dialing) = &server.state {
                dialing.attempts.iter().for_each(|attempt| net.close(now, attempt.conn, 0, "the network changed"));
            }
            if matches!(server.state, State::Idle { .. } | State::Dialing(_)) {
                server.rounds = 0;
                server.state = State::Idle { next: now };
            }
        }
    }

    /// The current question.
    #[must_use]
    pub const fn question(&self) -> Question {
        self.question
    }

    /// Gives up seats and closes all connections.
    pub fn stop(&mut self, now: Instant, net: &mut Network) {
        self.active = false;
        for server in &mut self.servers {
            server.leave(now, net);
        }
    }

    /// The name lookup was answered.
    pub fn handle_resolved(&mut self, now: Instant, index: usize, addresses: Vec<SocketAddr>) {
        if let Some(server) = self.servers.get_mut(index)
            && let State::Resolving { since } = server.state
        {
            let is_answered = !addresses.is_empty() || now < since + SLOW_LOOKUP;
            server.state = match (addresses.is_empty(), is_answered) {
                (false, _) => State::Idle { next: now },
                (true, true) => State::Gone,
                (true, false) => State::Unresolved { next: now + LOOKUP_AGAIN },
            };
            // An answer may contain thousands.
            server.addresses = interleaved(&addresses);
            if server.addresses.is_empty() {
                self.last = Failure::Lost(if is_answered { Lost::NoAddress } else { Lost::NoNameService });
                // A sender without a seat continues with its next relay.
                if self.role == Role::Sender && self.search == Search::Code {
                    self.next_relay(now);
                }
            }
        }
        self.judge();
    }

    /// No server will be added: if there is none, the search fails.
    pub fn require_servers(&mut self) {
        if self.servers.is_empty() {
            self.active = false;
            self.out.push_back(Output::Failed(Failure::Lost(Lost::NoMeetingPlace)));
        }
    }

    /// An event of a connection. Returns false if the connection does not belong to this list.
    pub fn handle_event(
        &mut self,
        now: Instant,
        net: &mut Network,
        conn: ConnectionId,
        event: &network::Event,
    ) -> bool {
        let Some(index) = self.servers.iter().position(|server| server.owns(conn)) else { return false };
        match event {
            network::Event::Connected { certificate } => self.handle_connected(now, net, index, conn, certificate),
            network::Event::Closed(reason) => self.handle_closed(now, net, index, conn, (*reason).into()),
            network::Event::Restarted { certificate } => self.handle_restarted(now, net, index, conn, certificate),
            network::Event::Readable(_) | network::Event::Writable(_) => self.pump(now, net, index),
            network::Event::Opened(..)
            | network::Event::Finished(_)
            | network::Event::Available(_)
            | network::Event::Stopped(..) => {}
        }
        true
    }

    /// Dials relays whose time has come, repeats questions, and gives up.
    pub fn handle_timeout(&mut self, now: Instant, net: &mut Network) {
        if !self.active {
            return;
        }
        if self.give_up.is_some_and(|at| at <= now) {
            self.give_up = None;
            let failure = self.dropped.take().unwrap_or_else(|| self.without_end());
            self.out.push_back(Output::Failed(failure));
        }
        let is_seated =
            self.servers.get(self.current).is_some_and(|server| matches!(server.state, State::Connected(_)));
        match &mut self.turn {
            Some(turn) if turn.look <= now && is_seated && now < turn.end => turn.look = turn.end,
            Some(turn) if turn.look <= now => {
                *turn = Turn::new(now);
                if let Some(server) = self.servers.get_mut(self.current).filter(|_| !is_seated) {
                    server.rounds = server.rounds.saturating_add(1);
                }
                self.stop(now, net);
                self.active = true;
                self.next_relay(now);
                self.take_time(now);
            }
            Some(_) | None => {}
        }
        self.begin_next(now);
        for index in 0..self.servers.len() {
            if self.is_due(index) {
                self.advance(now, net, index);
            }
        }
        self.judge();
    }

    /// This process did nothing for this long: the relays' deadlines move by that time.
    pub fn delay(&mut self, by: Duration) {
        for server in &mut self.servers {
            match &mut server.state {
                State::Dialing(dialing) => {
                    dialing.race.delay(by);
                    dialing.late = dialing.late.saturating_add(by);
                    let talks = dialing.attempts.iter_mut().filter_map(|attempt| attempt.connection.as_mut());
                    talks.for_each(|(_, connection)| connection.client.delay(by));
                }
                State::Connected(connection) | State::Paused { connection, .. } => connection.client.delay(by),
                State::Idle { .. } | State::Resolving { .. } | State::Unresolved { .. } | State::Gone => {}
            }
        }
    }

    /// The failure to report when the other side was not found in time.
    fn without_end(&self) -> Failure {
        let is_reached =
            self.servers.iter().any(|server| server.reached) || self.servers.iter().all(RelayServer::is_near);
        match self.role {
            Role::Receiver if is_reached => Failure::Lost(Lost::NobodyWaits),
            Role::Receiver | Role::Sender => self.last.clone(),
        }
    }

    /// When [`ServerList::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.active {
            return None;
        }
        let due = self.servers.iter().enumerate().filter(|&(index, _)| self.is_due(index)).filter_map(|(_, server)| {
            match &server.state {
                State::Idle { next } | State::Paused { next, .. } => Some(*next),
                State::Dialing(dialing) => dialing.race.poll_timeout(),
                State::Connected(connection) => connection.client.poll_timeout(),
                State::Unresolved { next } => Some(*next),
                State::Resolving { since } => self.announced.is_none().then(|| *since + SLOW_LOOKUP),
                State::Gone => None,
            }
        });
        due.chain(self.give_up).chain(self.next_begin).chain(self.turn.as_ref().map(|turn| turn.look)).min()
    }

    /// The next result.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn advance(&mut self, now: Instant, net: &mut Network, index: usize) {
        let Some(server) = self.servers.get_mut(index) else { return };
        match &mut server.state {
            State::Idle { next } if *next <= now => {
                if net.is_binding() {
                    return;
                }
                if let Origin::Configured(relay) = &server.origin
                    && self.announced.is_none()
                {
                    let waiting = WaitingFor::Relay(relay.address.clone());
                    self.announced = Some(waiting.clone());
                    if self.search != Search::Beside {
                        self.out.push_back(Output::Event(Event::Waiting(waiting)));
                    }
                }
                let (allowed, route) = match (&server.origin, &self.proxy) {
                    // The relay inside a sender supports no other transports.
                    (Origin::Near, _) => (Allowed::Only(Transport::Quic), Route::Direct),
                    (Origin::Configured(_), Some(_)) => (self.transport, Route::Proxied),
                    (Origin::Configured(_), None) => (self.transport, Route::Direct),
                };
                let race = Race::new(now, &server.addresses, route, allowed, server.remembered);
                server.state = State::Dialing(Dialing::new(race));
                self.run_race(now, net, index);
            }
            State::Dialing(dialing) => {
                if let Some(at) = dialing.attempts.iter().filter_map(|attempt| net.last_received(attempt.conn)).max() {
                    dialing.has_sent = true;
                    dialing.race.handle_received(at);
                }
                dialing.race.handle_timeout(now);
                self.run_race(now, net, index);
            }
            State::Connected(connection) => {
                connection.client.handle_timeout(now);
                self.pump(now, net, index);
            }
            State::Paused { next, .. } if *next <= now => {
                if let State::Paused { mut connection, .. } =
                    std::mem::replace(&mut server.state, State::Idle { next: now })
                {
                    connection.client.ask_now(now, self.question);
                    server.state = State::Connected(connection);
                    self.pump(now, net, index);
                }
            }
            State::Resolving { since } if *since + SLOW_LOOKUP <= now => {
                if let Origin::Configured(relay) = &server.origin
                    && self.announced.is_none()
                {
                    let waiting = WaitingFor::NameService(relay.address.host.clone());
                    self.wait_for(waiting);
                }
            }
            State::Unresolved { next } if *next <= now => {
                server.state = State::Resolving { since: now };
                let proxy = self.proxy.as_ref().map(|proxy| (proxy.host(), proxy.port()));
                if let Origin::Configured(relay) = &server.origin {
                    let (host, port) = proxy.unwrap_or((&relay.address.host, relay.address.port));
                    net.resolve(Query::Relay(index), host, port);
                }
            }
            State::Idle { .. }
            | State::Paused { .. }
            | State::Unresolved { .. }
            | State::Resolving { .. }
            | State::Gone => {}
        }
    }

    /// The connection failed or was closed: tries again later; a sender without a seat continues with its next relay.
    pub(super) fn fail(&mut self, now: Instant, index: usize) {
        let backoff = self.backoff(index);
        let Some(server) = self.servers.get_mut(index) else { return };
        let rounds = server.rounds;
        server.rounds = rounds.saturating_add(1);
        if !matches!(&server.state, State::Dialing(dialing) if dialing.proves_nothing()) {
            server.tries = server.tries.saturating_add(1);
        }
        let is_hopeless = server.tries >= TRIES || server.rounds >= BUSY_TRIES;
        let pause = match self.search {
            Search::Code if server.is_near() => NEAR_AGAIN,
            Search::Code | Search::Seated => pause_after(rounds),
            Search::Again | Search::Beside => backoff,
        };
        let hopeless = self.search == Search::Code && !server.reached && !server.is_near() && is_hopeless;
        server.state = if hopeless { State::Gone } else { State::Idle { next: now + pause } };
        let relay = match &server.origin {
            Origin::Configured(relay) => Some(relay.address.clone()),
            Origin::Near => None,
        };
        match (self.search, self.role) {
            (Search::Code, Role::Sender) => self.next_relay(now),
            (Search::Seated, _) => {
                self.give_up = self.give_up.or(Some(now + self.patience));
                relay.into_iter().for_each(|relay| self.wait_for(WaitingFor::Relay(relay)));
            }
            (Search::Again, _) if index == self.current => {
                self.announced = None;
                let attempt = rounds.saturating_add(1);
                self.notify(Event::Reconnecting { attempt, wait: pause });
            }
            (Search::Code | Search::Again | Search::Beside, _) => {}
        }
    }

    /// The pause before a server is tried again for a session.
    fn backoff(&mut self, index: usize) -> Duration {
        let rounds = self.servers.get(index).map_or(0, |server| server.rounds);
        let whole = MIN_BACKOFF.saturating_mul(1_u32.checked_shl(rounds).unwrap_or(u32::MAX)).min(MAX_BACKOFF);
        let half = whole.checked_div(2).unwrap_or(whole);
        half.saturating_add(half.mul_f64(f64::from(self.jitter.next_u32()) / f64::from(u32::MAX)))
    }

    /// This relay refused permanently.
    fn drop_server(&mut self, now: Instant, net: &mut Network, index: usize, conn: ConnectionId) {
        net.close(now, conn, 0, "refused");
        if let Some(server) = self.servers.get_mut(index) {
            server.state = State::Gone;
        }
        if self.role == Role::Sender && self.search == Search::Code {
            self.next_relay(now);
        }
    }

    /// If no server is left, the search fails.
    fn judge(&mut self) {
        let near_later = self.servers.iter().any(RelayServer::is_near);
        let over = !self.servers.is_empty() && self.servers.iter().all(|server| matches!(server.state, State::Gone));
        if self.active && over && !near_later && self.search != Search::Beside {
            self.active = false;
            self.out.push_back(Output::Failed(self.last.clone()));
        }
    }

    fn wait_for(&mut self, waiting: WaitingFor) {
        if self.announced.as_ref() != Some(&waiting) {
            self.announced = Some(waiting.clone());
            self.notify(Event::Waiting(waiting));
        }
    }

    fn notify(&mut self, event: Event) {
        if self.search != Search::Beside {
            self.out.push_back(Output::Event(event));
        }
    }
}

const fn pause_after(rounds: u32) -> Duration {
    match rounds {
        0 => Duration::from_secs(1),
        1 => Duration::from_secs(2),
        _ => Duration::from_secs(5),
    }
}
