//! The relays that a peer asks for the other one, in which order, and again when.
//!
//! ```text
//! Resolving ──► Idle ──► Dialing ──answered──► Connected ──paired──► (handed over)
//!    │            ▲          │ no answer            │ nobody waits, connection lost
//!    └─► Gone     └──────────┴──────────────────────┘
//! ```
//! By the code: a sender asks its relays one after the other. The first that gives a room is the one, and the sender
//! comes back to that one only, for as long as its patience lasts. A receiver asks all of them, since it can't know
//! where the code lives: again after 1, after 2 and then every 5 s.
//!
//! Once a session lost its link, the sender waits at all its relays. The receiver asks each configured one in turn for
//! [`TURN`] ([`DIAL_TURN`] if it does not answer). A relay that does not answer is tried again after a pause that
//! doubles up to [`MAX_BACKOFF`], with a jitter of half of it. While a direct link is active (`paths::relay_path`) the
//! search goes the same way without events, and nothing fails.
//!
//! `link::race` and `dial` decide which address of a relay and which transport is used.
//! Bounds: [`MAX_SERVERS`] servers. Timers: the race's for a connection, the answer's in `client`, those named above.

mod answers;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::super::config::{RelayAddress, RelayChoice};
use super::super::event::{Event, WaitingFor};
use super::super::failure::{Failure, Lost};
use super::super::net::{self, ConnectionId, Net, Query};
use super::Output;
use super::client::Question;
use super::server::{Dialing, Origin, RelayServer, State};
use crate::Instant;
use crate::link::proxy::Proxy;
use crate::link::race::{Allowed, Race, Route, Transport};
use crate::seed::Seed;
use crate::wire::Features;
use crate::wire::relay::{Role, RoomId};

/// Relays that a peer asks: configured, local and discovered ones together.
pub(in super::super) const MAX_SERVERS: usize = 16;
/// Tries of a configured relay that never answered.
const TRIES: u32 = 2;
/// A near relay that did not answer is tried again after this.
const NEAR_AGAIN: Duration = Duration::from_millis(500);
/// The same where the last handshake there was lost, so that others come first.
const NEAR_LAST: Duration = Duration::from_secs(2);
/// How long a receiver waits for a sender that has another one: as long as that one may take for two tries in vain.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// How long others are looked for, after the handshake with a near one failed: a browse of the network, asked and
/// answered twice.
const OTHERS_WITHIN: Duration = Duration::from_secs(3);
/// How long a receiver that meets its sender again waits at one relay before it asks the next one.
const TURN: Duration = Duration::from_secs(10);
/// The same with a relay that does not even answer.
const DIAL_TURN: Duration = Duration::from_secs(3);
/// The first pause before a relay is tried again for a session, and the longest.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Who asks for what.
#[derive(Debug)]
pub struct Ask {
    /// Which peer this is.
    pub role: Role,
    /// What it can.
    pub features: Features,
    /// What it asks relays for.
    pub question: Question,
    /// How long a receiver waits for a sender, and both for a network that went away.
    pub patience: Duration,
    /// For jitter.
    pub seed: Seed,
    /// By which means relays may be reached.
    pub transport: Allowed,
    /// What leads to them.
    pub proxy: Option<Proxy>,
}

/// A receiver's time with one of several relays, when it meets its sender again.
#[derive(Debug)]
struct Turn {
    /// When it is judged: a relay that has not answered by then is left, one that has is stayed with to the end.
    look: Instant,
    end: Instant,
}

impl Turn {
    fn new(now: Instant) -> Self {
        Self { look: now + DIAL_TURN, end: now + TURN }
    }
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// The other side, by the code; nobody has a seat for us yet.
    Code,
    /// The same, and the relay at `current` gave this sender its seat: the code lives there and nowhere else.
    Seated,
    /// The other side of a session that has no link.
    Again,
    /// The same while it has a direct one: nobody is told of it, and nothing ends for want of it.
    Beside,
}

/// See the module's text.
#[derive(Debug)]
pub struct ServerList {
    role: Role,
    pub(super) features: Features,
    pub(super) question: Question,
    pub(super) search: Search,
    pub(super) servers: Vec<RelayServer>,
    /// A place in the list of relays: the sender's own for its code, the receiver's turn when they meet again.
    current: usize,
    /// Where the other side was met last.
    met: Option<usize>,
    /// What a near one did that was dropped: the end of the search, if it leads to no other.
    dropped: Option<Failure>,
    turn: Option<Turn>,
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
    /// Looks at configured relays; `patience` is how long a receiver waits for a sender, and both for a network that
    /// went away.
    #[must_use]
    pub fn new(now: Instant, ask: Ask, relays: &[RelayChoice], near: &[SocketAddr], net: &mut Net) -> Self {
        let Ask { role, features, question, patience, seed, transport, proxy } = ask;
        let mut servers = Vec::new();
        for (index, relay) in relays.iter().take(MAX_SERVERS).enumerate() {
            // A proxy is given the relay's name as it is.
            let (host, port) = match &proxy {
                Some(proxy) => (proxy.host(), proxy.port()),
                None => (relay.address.host.as_str(), relay.address.port),
            };
            let literal = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
            let state = match literal {
                Some(_) => State::Idle { next: now },
                None => {
                    net.resolve(Query::Relay(index), host, port);
                    State::Resolving
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
        list
    }

    /// A sender on this machine or on the LAN may be there.
    pub fn add_near(&mut self, now: Instant, address: SocketAddr) {
        let known = self.servers.iter().any(|server| server.addresses.contains(&address));
        if !known && self.servers.len() < MAX_SERVERS {
            self.servers.push(RelayServer::new(Origin::Near, vec![address], State::Idle { next: now }, None));
        }
    }

    /// The relay gave this room: from now on the sender asks for its own seat there.
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

    /// Where the configured relays are, as far as that is known: of each one address of either family.
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

    /// Goes on looking, after a handshake that failed.
    pub fn resume(&mut self, now: Instant) {
        self.active = true;
        self.announced = None;
        for server in &mut self.servers {
            if !matches!(server.state, State::Resolving | State::Gone) {
                let next = if server.is_last { now + NEAR_LAST } else { now };
                server.state = State::Idle { next };
            }
        }
    }

    /// The handshake failed with the one that was met last. If that was a near one, of which nobody vouches, it is not
    /// asked again, and others are looked for, for a while. False: it was none.
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

    /// The handshake with the one that was met last was lost: a near one is asked after the others from now on.
    pub fn put_off_near(&mut self) {
        if let Some(server) = self.met.and_then(|index| self.servers.get_mut(index)) {
            server.is_last = server.is_near();
        }
    }

    /// Asks for something else from now on, on new connections: after a handshake whose end is unknown.
    pub fn ask(&mut self, now: Instant, net: &mut Net, question: Question) {
        self.stop(now, net);
        self.question = question.after(self.question);
        self.resume(now);
    }

    /// The session lost its link: the other side is met in the room that `question` names.
    pub fn look_again(&mut self, now: Instant, net: &mut Net, question: Question) {
        self.search = Search::Again;
        self.give_up = None;
        self.servers.iter_mut().for_each(|server| server.rounds = 0);
        self.turn = (self.role == Role::Receiver && self.servers.len() > 1).then(|| Turn::new(now));
        self.ask(now, net, question);
    }

    /// The session lost its relay path and has a direct link: as [`Self::look_again`], without haste and without
    /// events.
    pub fn look_beside(&mut self, now: Instant, net: &mut Net, question: Question) {
        self.look_again(now, net, question);
        self.search = Search::Beside;
        self.take_time(now);
    }

    /// Beside a direct link no relay is asked at once, nor one that did not answer as often as before.
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

    /// The relay of the last meeting is going down: it is asked last from now on.
    pub fn leave_relay(&mut self, now: Instant) {
        if self.role == Role::Receiver {
            self.next_relay(now);
        }
    }

    /// Goes on looking after a pause, since the last meeting came to nothing.
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

    /// The network is another one: what was put off is tried at once, and what was begun over the old one is begun
    /// again.
    pub fn hurry(&mut self, now: Instant, net: &mut Net) {
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

    /// What is asked for.
    #[must_use]
    pub const fn question(&self) -> Question {
        self.question
    }

    /// Frees seats and closes all connections.
    pub fn stop(&mut self, now: Instant, net: &mut Net) {
        self.active = false;
        for server in &mut self.servers {
            match std::mem::replace(&mut server.state, State::Idle { next: now }) {
                State::Connected(mut connection) | State::Paused { mut connection, .. } => {
                    connection.client.leave();
                    connection.flush(now, net);
                    // The stream's end follows the farewell, and the relay closes.
                    net.finish(now, connection.conn, connection.main);
                    net.close(now, connection.conn, 0, "left");
                }
                State::Dialing(dialing) => {
                    dialing.attempts.iter().for_each(|attempt| net.close(now, attempt.conn, 0, "not needed"));
                }
                state @ (State::Resolving | State::Gone) => server.state = state,
                State::Idle { .. } => {}
            }
        }
    }

    /// The name service answered.
    pub fn handle_resolved(&mut self, now: Instant, index: usize, addresses: Vec<SocketAddr>) {
        if let Some(server) = self.servers.get_mut(index)
            && matches!(server.state, State::Resolving)
        {
            server.state = if addresses.is_empty() { State::Gone } else { State::Idle { next: now } };
            server.addresses = addresses;
            if server.addresses.is_empty() {
                self.last = Failure::Lost(Lost::NoAddress);
                // A sender without a seat goes on to its next one.
                if self.role == Role::Sender && self.search == Search::Code {
                    self.next_relay(now);
                }
            }
        }
        self.judge();
    }

    /// No server is added later: if there is none, there is no way at all.
    pub fn require_servers(&mut self) {
        if self.servers.is_empty() {
            self.active = false;
            self.out.push_back(Output::Failed(Failure::Lost(Lost::NoMeetingPlace)));
        }
    }

    /// News of a connection; false when it is not one of these.
    pub fn handle_event(&mut self, now: Instant, net: &mut Net, conn: ConnectionId, event: &net::Event) -> bool {
        let Some(index) = self.servers.iter().position(|server| server.owns(conn)) else { return false };
        match event {
            net::Event::Connected { certificate } => self.handle_connected(now, net, index, conn, certificate),
            net::Event::Closed(reason) => self.handle_closed(now, net, index, conn, (*reason).into()),
            net::Event::Restarted { certificate } => self.handle_restarted(now, net, index, conn, certificate),
            net::Event::Readable(_) | net::Event::Writable(_) => self.pump(now, net, index),
            net::Event::Opened(..) | net::Event::Finished(_) | net::Event::Available(_) | net::Event::Stopped(..) => {}
        }
        true
    }

    /// Dials what is due, asks again, gives up.
    pub fn handle_timeout(&mut self, now: Instant, net: &mut Net) {
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
        for index in 0..self.servers.len() {
            if self.is_due(index) {
                self.advance(now, net, index);
            }
        }
        self.judge();
    }

    /// This process had no time for so long: no relay was late meanwhile.
    pub fn delay(&mut self, by: Duration) {
        for server in &mut self.servers {
            match &mut server.state {
                State::Dialing(dialing) => {
                    dialing.race.delay(by);
                    let talks = dialing.attempts.iter_mut().filter_map(|attempt| attempt.connection.as_mut());
                    talks.for_each(|(_, connection)| connection.client.delay(by));
                }
                State::Connected(connection) | State::Paused { connection, .. } => connection.client.delay(by),
                State::Idle { .. } | State::Resolving | State::Gone => {}
            }
        }
    }

    /// What it was that nobody was met for so long.
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
                State::Resolving | State::Gone => None,
            }
        });
        due.chain(self.give_up).chain(self.turn.as_ref().map(|turn| turn.look)).min()
    }

    /// The next result.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Whose turn it is: see the module's text.
    fn is_due(&self, index: usize) -> bool {
        match (self.search, self.role) {
            (Search::Code | Search::Seated, Role::Sender) => index == self.current,
            (Search::Again | Search::Beside, Role::Receiver) => {
                index == self.current || self.servers.get(index).is_some_and(RelayServer::is_near)
            }
            (Search::Code | Search::Seated, Role::Receiver) | (Search::Again | Search::Beside, Role::Sender) => true,
        }
    }

    fn advance(&mut self, now: Instant, net: &mut Net, index: usize) {
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
                    // The relay inside a sender has no others.
                    (Origin::Near, _) => (Allowed::Only(Transport::Quic), Route::Direct),
                    (Origin::Configured(_), Some(_)) => (self.transport, Route::Proxied),
                    (Origin::Configured(_), None) => (self.transport, Route::Direct),
                };
                let race = Race::new(now, &server.addresses, route, allowed, server.remembered);
                server.state = State::Dialing(Dialing { race, attempts: Vec::new() });
                self.run_race(now, net, index);
            }
            State::Dialing(dialing) => {
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
            State::Idle { .. } | State::Paused { .. } | State::Resolving | State::Gone => {}
        }
    }

    /// No connection, or it ended: tried again later, or a sender without a seat goes to its next relay.
    pub(super) fn fail(&mut self, now: Instant, index: usize) {
        let backoff = self.backoff(index);
        let Some(server) = self.servers.get_mut(index) else { return };
        let rounds = server.rounds;
        server.rounds = rounds.saturating_add(1);
        let pause = match self.search {
            Search::Code if server.is_near() => NEAR_AGAIN,
            Search::Code | Search::Seated => pause_after(rounds),
            Search::Again | Search::Beside => backoff,
        };
        let hopeless = self.search == Search::Code && !server.reached && !server.is_near() && server.rounds >= TRIES;
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

    /// This relay said no for good.
    fn drop_server(&mut self, now: Instant, net: &mut Net, index: usize, conn: ConnectionId) {
        net.close(now, conn, 0, "refused");
        if let Some(server) = self.servers.get_mut(index) {
            server.state = State::Gone;
        }
        if self.role == Role::Sender && self.search == Search::Code {
            self.next_relay(now);
        }
    }

    fn next_relay(&mut self, now: Instant) {
        let count = self.servers.len().max(1);
        for step in 1..=count {
            let candidate = self.current.saturating_add(step).checked_rem(count).unwrap_or(0);
            if let Some(server) = self.servers.get_mut(candidate)
                && !matches!(server.state, State::Gone)
            {
                self.current = candidate;
                if let State::Idle { next } = &mut server.state {
                    *next = (*next).max(now);
                }
                return;
            }
        }
    }

    /// When no server is left there is no way on.
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
