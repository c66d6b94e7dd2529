//! How a peer finds the other one: the relays it asks, in which order, and again when.
//!
//! ```text
//! Resolving ──► Idle ──► Dialing ──answered──► Talking ──paired──► (handed over)
//!    │            ▲          │ no answer            │ nobody waits, connection lost
//!    └─► Gone     └──────────┴──────────────────────┘
//! ```
//! By the code: a sender asks its relays one after the other, the first that gives a room is the one, and from then on it comes back
//! to that one only, for as long as its patience lasts. A receiver asks all of them, since it can't know where the code lives, again
//! after 1, 2 and then every 5 s. Again, once a session lost its link: the sender waits at all its relays, the receiver asks each
//! configured one in turn for [`TURN`] ([`DIAL_TURN`] if it does not answer); a relay that does not answer is tried again after a pause that doubles up to
//! [`MAX_BACKOFF`], with a jitter of half of it. Beside a direct link (`floor`), the same in silence: nobody is told, and nothing fails.
//!
//! Which of a relay's addresses and of the transports is taken, `link::race` and `dialling` decide.
//! Bounds: [`MAX_SPOTS`] spots. Timers: the race's for a connection, the answer's in `rendezvous`, those named above.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::config::{RelayAddress, RelayChoice};
use super::event::{Event, Failure, Lost, RelayFailure, WaitingFor};
use super::net::{self, Conn, Net};
use super::peer_link::PeerLink;
use super::rendezvous::{Answer, Question};
use super::spot::{Dialing, Origin, Spot, State};
use crate::Instant;
use crate::link::proxy::Proxy;
use crate::link::race::{Allowed, Race, Route, Transport};
use crate::net::{Action, QueryId};
use crate::seed::Seed;
use crate::wire::Features;
use crate::wire::relay::{RefusalReason, RoomId, Side};

/// Spots that a peer looks at, configured, local and found ones together.
pub(super) const MAX_SPOTS: usize = 16;
/// Tries of a configured relay that never answered.
const TRIES: u32 = 2;
/// A near spot where nobody answered is tried again after this.
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

/// What came of looking.
#[derive(Debug)]
pub enum Met {
    /// Tell the application.
    Event(Event),
    /// The relay gave this nameplate.
    Allocated(u32),
    /// The other side is there.
    Link(Box<PeerLink>, Found),
    /// There is no way on.
    Failed(Failure),
}

/// Where the other side was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// At a configured relay.
    Relay(RelayAddress),
    /// On this machine or on the LAN.
    Near,
}

/// Who asks for what.
#[derive(Debug)]
pub struct Ask {
    /// Which peer this is.
    pub side: Side,
    /// What it can.
    pub features: Features,
    /// What it asks relays for.
    pub question: Question,
    /// See [`Meeting::new`].
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
pub struct Meeting {
    side: Side,
    pub(super) features: Features,
    pub(super) question: Question,
    pub(super) search: Search,
    pub(super) spots: Vec<Spot>,
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
    pub(super) out: VecDeque<Met>,
    pub(super) last: Failure,
}

impl Meeting {
    /// Looks at configured relays; `patience` is how long a receiver waits for a sender, and both for a network that went away.
    #[must_use]
    pub fn new(now: Instant, ask: Ask, relays: &[RelayChoice], near: &[SocketAddr], net: &mut Net) -> Self {
        let Ask { side, features, question, patience, seed, transport, proxy } = ask;
        let mut spots = Vec::new();
        for (index, relay) in relays.iter().take(MAX_SPOTS).enumerate() {
            // A proxy is given the relay's name as it is.
            let (host, port) = match &proxy {
                Some(proxy) => (proxy.host(), proxy.port()),
                None => (relay.address.host.as_str(), relay.address.port),
            };
            let literal = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
            let state = match literal {
                Some(_) => State::Idle { next: now },
                None => {
                    let query = QueryId(u32::try_from(index).unwrap_or(u32::MAX));
                    net.act(Action::Resolve(query, host.to_owned(), port));
                    State::Resolving(query)
                }
            };
            let addresses = literal.into_iter().collect();
            let origin = Origin::Configured(relay.clone());
            let remembered = relay.remembered;
            spots.push(Spot { origin, addresses, state, rounds: 0, reached: false, is_last: false, remembered });
        }
        let mut meeting = Self {
            side,
            features,
            question,
            search: Search::Code,
            spots,
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
            meeting.add_near(now, address);
        }
        meeting
    }

    /// A sender on this machine or on the LAN may be there.
    pub fn add_near(&mut self, now: Instant, address: SocketAddr) {
        let known = self.spots.iter().any(|spot| spot.addresses.contains(&address));
        if !known && self.spots.len() < MAX_SPOTS {
            let state = State::Idle { next: now };
            let origin = Origin::Near;
            let addresses = vec![address];
            self.spots.push(Spot {
                origin,
                addresses,
                state,
                rounds: 0,
                reached: false,
                is_last: false,
                remembered: None,
            });
        }
    }

    /// The relay gave this room: from now on the sender asks for its own seat there.
    pub fn set_room(&mut self, room: RoomId) {
        let (Question::Allocate { owner } | Question::Join { owner, .. }) = self.question;
        self.question = Question::Join { room, side: self.side, owner, again: false, former: None };
    }

    /// The configured relay that a sender uses.
    #[must_use]
    pub fn relay(&self) -> Option<RelayAddress> {
        match &self.spots.get(self.current)?.origin {
            Origin::Configured(relay) => Some(relay.address.clone()),
            Origin::Near => None,
        }
    }

    /// Where the configured relays are, as far as that is known: of each one address of either family.
    #[must_use]
    pub fn servers(&self) -> Vec<SocketAddr> {
        let configured = self.spots.iter().filter(|spot| !spot.is_near());
        configured
            .flat_map(|spot| {
                let of = |v4: bool| spot.addresses.iter().find(move |address| address.is_ipv4() == v4);
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
        for spot in &mut self.spots {
            if !matches!(spot.state, State::Resolving(_) | State::Gone) {
                let next = if spot.is_last { now + NEAR_LAST } else { now };
                spot.state = State::Idle { next };
            }
        }
    }

    /// The handshake failed with the one that was met last. If that was a near one, of which nobody vouches, it is not
    /// asked again, and others are looked for, for a while. False: it was none.
    pub fn drop_near(&mut self, now: Instant, failure: Failure) -> bool {
        let Some(spot) = self.met.and_then(|index| self.spots.get_mut(index)).filter(|spot| spot.is_near()) else {
            return false;
        };
        spot.state = State::Gone;
        self.dropped = Some(failure);
        let until = now + OTHERS_WITHIN;
        self.give_up = Some(self.give_up.map_or(until, |at| at.min(until)));
        true
    }

    /// The handshake with the one that was met last was lost: a near one is asked after the others from now on.
    pub fn put_off_near(&mut self) {
        if let Some(spot) = self.met.and_then(|index| self.spots.get_mut(index)) {
            spot.is_last = spot.is_near();
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
        self.spots.iter_mut().for_each(|spot| spot.rounds = 0);
        self.turn = (self.side == Side::Receiver && self.spots.len() > 1).then(|| Turn::new(now));
        self.ask(now, net, question);
    }

    /// The session lost its floor, and has another link: the same, without haste and in silence.
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
        for index in 0..self.spots.len() {
            let next = now + self.backoff(index);
            if index == self.current && self.turn.is_some() {
                self.turn = Some(Turn::new(next));
            }
            if let Some(Spot { state: State::Idle { next: due }, .. }) = self.spots.get_mut(index) {
                *due = next;
            }
        }
    }

    /// The relay of the last meeting is going down: it is asked last from now on.
    pub fn leave_relay(&mut self, now: Instant) {
        if self.side == Side::Receiver {
            self.next_relay(now);
        }
    }

    /// Goes on looking after a pause, since the last meeting came to nothing.
    pub fn again_later(&mut self, now: Instant) {
        self.resume(now);
        for index in 0..self.spots.len() {
            let pause = self.backoff(index);
            if let Some(Spot { state: State::Idle { next }, rounds, .. }) = self.spots.get_mut(index) {
                *rounds = rounds.saturating_add(1);
                *next = (*next).max(now + pause);
            }
        }
    }

    /// The network is another one: what was put off is tried at once, and what was begun over the old one is begun again.
    pub fn hurry(&mut self, now: Instant, net: &mut Net) {
        if self.search == Search::Code {
            return;
        }
        for spot in &mut self.spots {
            if let State::Dialing(dialing) = &spot.state {
                dialing.attempts.iter().for_each(|attempt| net.close(now, attempt.conn, 0, "the network changed"));
            }
            if matches!(spot.state, State::Idle { .. } | State::Dialing(_)) {
                spot.rounds = 0;
                spot.state = State::Idle { next: now };
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
        for spot in &mut self.spots {
            match std::mem::replace(&mut spot.state, State::Idle { next: now }) {
                State::Talking(mut talk) | State::Paused { mut talk, .. } => {
                    talk.rendezvous.leave();
                    talk.flush(now, net);
                    // The stream's end follows the farewell, and the relay closes.
                    net.finish(now, talk.conn, talk.main);
                    net.close(now, talk.conn, 0, "left");
                }
                State::Dialing(dialing) => {
                    dialing.attempts.iter().for_each(|attempt| net.close(now, attempt.conn, 0, "not needed"));
                }
                state @ (State::Resolving(_) | State::Gone) => spot.state = state,
                State::Idle { .. } => {}
            }
        }
    }

    /// The name service answered.
    pub fn handle_resolved(&mut self, now: Instant, query: QueryId, addresses: Vec<SocketAddr>) {
        for spot in &mut self.spots {
            if matches!(spot.state, State::Resolving(asked) if asked == query) {
                spot.addresses = addresses;
                spot.state = if spot.addresses.is_empty() { State::Gone } else { State::Idle { next: now } };
                if spot.addresses.is_empty() {
                    self.last = Failure::Lost(Lost::NoAddress);
                    // A sender without a seat goes on to its next one.
                    if self.side == Side::Sender && self.search == Search::Code {
                        self.next_relay(now);
                    }
                }
                break;
            }
        }
        self.judge();
    }

    /// No spot is added later: if there is none, there is no way at all.
    pub fn require_spots(&mut self) {
        if self.spots.is_empty() {
            self.active = false;
            self.out.push_back(Met::Failed(Failure::Lost(Lost::NoMeetingPlace)));
        }
    }

    /// News of a connection; false when it is not one of these.
    pub fn handle_event(&mut self, now: Instant, net: &mut Net, conn: Conn, event: &net::Event) -> bool {
        let Some(index) = self.spots.iter().position(|spot| spot.owns(conn)) else { return false };
        match event {
            net::Event::Connected { certificate } => self.handle_connected(now, net, index, conn, certificate),
            net::Event::Closed(failure) => self.handle_closed(now, net, index, conn, *failure),
            net::Event::Restarted { certificate } => self.handle_restarted(now, net, index, conn, certificate),
            net::Event::Readable(_) | net::Event::Writable(_) => self.pump(now, net, index),
            net::Event::Opened(..) | net::Event::Finished(_) => {}
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
            self.out.push_back(Met::Failed(failure));
        }
        let is_seated = self.spots.get(self.current).is_some_and(|spot| matches!(spot.state, State::Talking(_)));
        match &mut self.turn {
            Some(turn) if turn.look <= now && is_seated && now < turn.end => turn.look = turn.end,
            Some(turn) if turn.look <= now => {
                *turn = Turn::new(now);
                if let Some(spot) = self.spots.get_mut(self.current).filter(|_| !is_seated) {
                    spot.rounds = spot.rounds.saturating_add(1);
                }
                self.stop(now, net);
                self.active = true;
                self.next_relay(now);
                self.take_time(now);
            }
            Some(_) | None => {}
        }
        for index in 0..self.spots.len() {
            if self.is_due(index) {
                self.advance(now, net, index);
            }
        }
        self.judge();
    }

    /// This process had no time for so long: no relay was late meanwhile.
    pub fn delay(&mut self, by: Duration) {
        for spot in &mut self.spots {
            match &mut spot.state {
                State::Dialing(dialing) => {
                    dialing.race.delay(by);
                    let talks = dialing.attempts.iter_mut().filter_map(|attempt| attempt.talk.as_mut());
                    talks.for_each(|(_, talk)| talk.rendezvous.delay(by));
                }
                State::Talking(talk) | State::Paused { talk, .. } => talk.rendezvous.delay(by),
                State::Idle { .. } | State::Resolving(_) | State::Gone => {}
            }
        }
    }

    /// What it was that nobody was met for so long.
    fn without_end(&self) -> Failure {
        let is_reached = self.spots.iter().any(|spot| spot.reached) || self.spots.iter().all(Spot::is_near);
        match self.side {
            Side::Receiver if is_reached => Failure::Lost(Lost::NobodyWaits),
            Side::Receiver | Side::Sender => self.last.clone(),
        }
    }

    /// When [`Meeting::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.active {
            return None;
        }
        let due =
            self.spots.iter().enumerate().filter(|&(index, _)| self.is_due(index)).filter_map(|(_, spot)| match &spot
                .state
            {
                State::Idle { next } | State::Paused { next, .. } => Some(*next),
                State::Dialing(dialing) => dialing.race.poll_timeout(),
                State::Talking(talk) => talk.rendezvous.poll_timeout(),
                State::Resolving(_) | State::Gone => None,
            });
        due.chain(self.give_up).chain(self.turn.as_ref().map(|turn| turn.look)).min()
    }

    /// The next result.
    pub fn poll(&mut self) -> Option<Met> {
        self.out.pop_front()
    }

    /// Whose turn it is: see the module's text.
    fn is_due(&self, index: usize) -> bool {
        match (self.search, self.side) {
            (Search::Code | Search::Seated, Side::Sender) => index == self.current,
            (Search::Again | Search::Beside, Side::Receiver) => {
                index == self.current || self.spots.get(index).is_some_and(Spot::is_near)
            }
            (Search::Code | Search::Seated, Side::Receiver) | (Search::Again | Search::Beside, Side::Sender) => true,
        }
    }

    fn advance(&mut self, now: Instant, net: &mut Net, index: usize) {
        let Some(spot) = self.spots.get_mut(index) else { return };
        match &mut spot.state {
            State::Idle { next } if *next <= now => {
                if net.is_binding() {
                    return;
                }
                if let Origin::Configured(relay) = &spot.origin
                    && self.announced.is_none()
                {
                    let waiting = WaitingFor::Relay(relay.address.clone());
                    self.announced = Some(waiting.clone());
                    if self.search != Search::Beside {
                        self.out.push_back(Met::Event(Event::Waiting(waiting)));
                    }
                }
                let (allowed, route) = match (&spot.origin, &self.proxy) {
                    // The relay inside a sender has no others.
                    (Origin::Near, _) => (Allowed::Only(Transport::Quic), Route::Direct),
                    (Origin::Configured(_), Some(_)) => (self.transport, Route::Proxied),
                    (Origin::Configured(_), None) => (self.transport, Route::Direct),
                };
                let race = Race::new(now, &spot.addresses, route, allowed, spot.remembered);
                spot.state = State::Dialing(Dialing { race, attempts: Vec::new() });
                self.run_race(now, net, index);
            }
            State::Dialing(dialing) => {
                dialing.race.handle_timeout(now);
                self.run_race(now, net, index);
            }
            State::Talking(talk) => {
                talk.rendezvous.handle_timeout(now);
                self.pump(now, net, index);
            }
            State::Paused { next, .. } if *next <= now => {
                if let State::Paused { mut talk, .. } = std::mem::replace(&mut spot.state, State::Idle { next: now }) {
                    talk.rendezvous.ask_now(now, self.question);
                    spot.state = State::Talking(talk);
                    self.pump(now, net, index);
                }
            }
            State::Idle { .. } | State::Paused { .. } | State::Resolving(_) | State::Gone => {}
        }
    }

    /// Moves the conversation at one spot.
    pub(super) fn pump(&mut self, now: Instant, net: &mut Net, index: usize) {
        let Some(spot) = self.spots.get_mut(index) else { return };
        if matches!(spot.state, State::Dialing(_)) {
            return self.hear_attempts(now, net, index);
        }
        let (State::Talking(talk) | State::Paused { talk, .. }) = &mut spot.state else { return };
        let conn = talk.conn;
        talk.hear(net);
        talk.flush(now, net);
        while let Some(answer) = self.take_answer(index) {
            match answer {
                Answer::Observed(_) => {}
                Answer::Allocated(nameplate) => self.out.push_back(Met::Allocated(nameplate)),
                Answer::Waiting => self.seated(index),
                Answer::Paired(streams) => return self.hand_over(now, net, index, streams),
                Answer::Refused(RefusalReason::NobodyWaits) => self.pause(now, index),
                Answer::Refused(RefusalReason::Taken) => self.handle_taken(now, index),
                Answer::Refused(reason) => {
                    self.last = Failure::Relay(RelayFailure::Refused(reason));
                    return match reason {
                        RefusalReason::NameTaken | RefusalReason::Password => self.drop_spot(now, net, index, conn),
                        RefusalReason::RateLimited
                        | RefusalReason::Full
                        | RefusalReason::UnsupportedVersion(_)
                        | RefusalReason::ShuttingDown
                        | RefusalReason::Idle
                        | RefusalReason::Taken
                        | RefusalReason::NobodyWaits => match self.search {
                            Search::Code => self.drop_spot(now, net, index, conn),
                            Search::Seated | Search::Again | Search::Beside => {
                                net.close(now, conn, 0, "refused");
                                self.fail(now, index);
                            }
                        },
                    };
                }
                Answer::Versions(versions) => {
                    self.last = Failure::Versions(versions);
                    return self.drop_spot(now, net, index, conn);
                }
                Answer::Violation(violation) => {
                    self.last = Failure::Relay(RelayFailure::Violation(violation));
                    return self.drop_spot(now, net, index, conn);
                }
            }
        }
    }

    fn take_answer(&mut self, index: usize) -> Option<Answer> {
        match &mut self.spots.get_mut(index)?.state {
            State::Talking(talk) | State::Paused { talk, .. } => talk.rendezvous.poll_answer(),
            State::Idle { .. } | State::Dialing(_) | State::Resolving(_) | State::Gone => None,
        }
    }

    fn hand_over(&mut self, now: Instant, net: &mut Net, index: usize, streams: u8) {
        let Some(spot) = self.spots.get_mut(index) else { return };
        if let State::Talking(talk) = std::mem::replace(&mut spot.state, State::Idle { next: now }) {
            let found = match &spot.origin {
                Origin::Configured(relay) => Found::Relay(relay.address.clone()),
                Origin::Near => Found::Near,
            };
            let link =
                PeerLink::new(talk.conn, talk.transport.into(), talk.rendezvous.into_decoder(), streams, talk.main);
            self.met = Some(index);
            if self.side == Side::Receiver && found != Found::Near {
                // Where they met is where to look first, if they lose each other.
                self.current = index;
            }
            self.stop(now, net);
            self.out.push_back(Met::Link(Box::new(link), found));
        }
    }

    /// This side has its seat there.
    fn seated(&mut self, index: usize) {
        if let Some(spot) = self.spots.get_mut(index) {
            spot.rounds = 0;
        }
        match (self.search, self.side) {
            (Search::Code | Search::Seated, Side::Sender) => {
                self.search = Search::Seated;
                self.give_up = None;
                self.wait_for(WaitingFor::Receiver);
            }
            // No honest relay says so: in a code room only senders wait. Patience goes on running out.
            (Search::Code | Search::Seated, Side::Receiver) => self.wait_for(WaitingFor::Sender),
            (Search::Again | Search::Beside, _) => self.wait_for(WaitingFor::Peer),
        }
    }

    /// Another receiver has the sender. It may have a wrong code, or be this one's own former link; else this one is
    /// too late.
    fn handle_taken(&mut self, now: Instant, index: usize) {
        if self.search == Search::Code && self.dropped.is_none() {
            self.dropped = Some(Failure::Lost(Lost::Taken));
            let until = now + TAKEN_WITHIN;
            self.give_up = Some(self.give_up.map_or(until, |at| at.min(until)));
        }
        self.pause_for(now, index, WaitingFor::Turn);
    }

    /// Nobody waits there: later again.
    fn pause(&mut self, now: Instant, index: usize) {
        let waiting = match self.search {
            Search::Code | Search::Seated => WaitingFor::Sender,
            Search::Again | Search::Beside => WaitingFor::Peer,
        };
        self.pause_for(now, index, waiting);
    }

    fn pause_for(&mut self, now: Instant, index: usize, waiting: WaitingFor) {
        self.wait_for(waiting);
        let Some(spot) = self.spots.get_mut(index) else { return };
        let next = now + pause_after(spot.rounds);
        spot.rounds = spot.rounds.saturating_add(1);
        if let State::Talking(talk) = std::mem::replace(&mut spot.state, State::Idle { next }) {
            spot.state = State::Paused { next, talk };
        }
    }

    /// No connection, or it ended: tried again later, or a sender without a seat goes to its next relay.
    pub(super) fn fail(&mut self, now: Instant, index: usize) {
        let backoff = self.backoff(index);
        let Some(spot) = self.spots.get_mut(index) else { return };
        let rounds = spot.rounds;
        spot.rounds = rounds.saturating_add(1);
        let pause = match self.search {
            Search::Code if spot.is_near() => NEAR_AGAIN,
            Search::Code | Search::Seated => pause_after(rounds),
            Search::Again | Search::Beside => backoff,
        };
        let hopeless = self.search == Search::Code && !spot.reached && !spot.is_near() && spot.rounds >= TRIES;
        spot.state = if hopeless { State::Gone } else { State::Idle { next: now + pause } };
        let relay = match &spot.origin {
            Origin::Configured(relay) => Some(relay.address.clone()),
            Origin::Near => None,
        };
        match (self.search, self.side) {
            (Search::Code, Side::Sender) => self.next_relay(now),
            (Search::Seated, _) => {
                self.give_up = self.give_up.or(Some(now + self.patience));
                relay.into_iter().for_each(|relay| self.wait_for(WaitingFor::Relay(relay)));
            }
            (Search::Again, _) if index == self.current => {
                self.announced = None;
                let attempt = rounds.saturating_add(1);
                self.tell(Event::Reconnecting { attempt, wait: pause });
            }
            (Search::Code | Search::Again | Search::Beside, _) => {}
        }
    }

    /// The pause before a spot is tried again for a session.
    fn backoff(&mut self, index: usize) -> Duration {
        let rounds = self.spots.get(index).map_or(0, |spot| spot.rounds);
        let whole = MIN_BACKOFF.saturating_mul(1_u32.checked_shl(rounds).unwrap_or(u32::MAX)).min(MAX_BACKOFF);
        let half = whole.checked_div(2).unwrap_or(whole);
        half.saturating_add(half.mul_f64(f64::from(self.jitter.next_u32()) / f64::from(u32::MAX)))
    }

    /// This relay said no for good.
    fn drop_spot(&mut self, now: Instant, net: &mut Net, index: usize, conn: Conn) {
        net.close(now, conn, 0, "refused");
        if let Some(spot) = self.spots.get_mut(index) {
            spot.state = State::Gone;
        }
        if self.side == Side::Sender && self.search == Search::Code {
            self.next_relay(now);
        }
    }

    fn next_relay(&mut self, now: Instant) {
        let count = self.spots.len().max(1);
        for step in 1..=count {
            let candidate = self.current.saturating_add(step).checked_rem(count).unwrap_or(0);
            if let Some(spot) = self.spots.get_mut(candidate)
                && !matches!(spot.state, State::Gone)
            {
                self.current = candidate;
                if let State::Idle { next } = &mut spot.state {
                    *next = (*next).max(now);
                }
                return;
            }
        }
    }

    /// When no spot is left there is no way on.
    fn judge(&mut self) {
        let near_later = self.spots.iter().any(Spot::is_near);
        let over = !self.spots.is_empty() && self.spots.iter().all(|spot| matches!(spot.state, State::Gone));
        if self.active && over && !near_later && self.search != Search::Beside {
            self.active = false;
            self.out.push_back(Met::Failed(self.last.clone()));
        }
    }

    fn wait_for(&mut self, waiting: WaitingFor) {
        if self.announced.as_ref() != Some(&waiting) {
            self.announced = Some(waiting.clone());
            self.tell(Event::Waiting(waiting));
        }
    }

    fn tell(&mut self, event: Event) {
        if self.search != Search::Beside {
            self.out.push_back(Met::Event(event));
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
