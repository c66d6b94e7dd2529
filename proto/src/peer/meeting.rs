//! How a peer finds the other one: the relays it asks, in which order, and again when.
//!
//! A *spot* is a place where the other side may be met: a configured relay, this machine, or one that was found on the LAN.
//! ```text
//! Resolving ──► Idle ──► Dialing ──connected──► Talking ──paired──► (handed over)
//!    │            ▲          │ no answer            │ nobody waits, connection lost
//!    └─► Gone     └──────────┴──────────────────────┘
//! ```
//! A sender asks its relays one after the other, and the first that gives a room is the one. A receiver asks all of them, since it
//! can't know where the code lives, again after 1, 2 and then every 5 s. Of a relay's addresses the next is tried when the last did
//! not answer within [`STAGGER`] (RFC 8305's idea), the first that answers wins. An address family that is not there is passed over.
//! Bounds: [`MAX_SPOTS`] spots, 8 addresses each. Timers: [`DIAL_WITHIN`] for a connection, the answer's in `rendezvous`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::config::{RelayAddress, RelayChoice};
use super::event::{Event, Failure, Lost, RelayFailure, WaitingFor};
use super::net::{Conn, Dial, Net};
use super::peer_link::PeerLink;
use super::rendezvous::{Answer, Question, Rendezvous};
use crate::Instant;
use crate::link::quic::{self, Closed, Read, Stream, Write};
use crate::link::trust::{CertificateSeen, Trust};
use crate::node::{Action, QueryId};
use crate::wire::Features;
use crate::wire::relay::{RefusalReason, RoomId, Side};

/// Spots that a peer looks at, configured, local and found ones together.
const MAX_SPOTS: usize = 16;
/// Addresses of one relay that are tried.
const MAX_ADDRESSES: usize = 8;
/// The next address of a relay is tried after this long without an answer.
const STAGGER: Duration = Duration::from_millis(250);
/// How long a connection may take, all addresses of a relay together.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// The same on this machine and on the LAN, where a try costs little.
const DIAL_NEAR_WITHIN: Duration = Duration::from_secs(2);
/// Tries of a configured relay that does not answer.
const TRIES: u32 = 2;
/// A near spot where nobody answered is tried again after this.
const NEAR_AGAIN: Duration = Duration::from_millis(500);
/// A receiver gives up when nobody waited for so long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// Where a spot comes from.
#[derive(Debug, Clone)]
enum Origin {
    Configured(RelayChoice),
    /// This machine, or found on the LAN: no security rests on its certificate.
    Near,
}

#[derive(Debug)]
enum State {
    Resolving(QueryId),
    Idle {
        next: Instant,
    },
    Dialing {
        attempts: Vec<Conn>,
        tried: usize,
        next: Instant,
        deadline: Instant,
    },
    Talking(Talk),
    /// Nobody waited here; asked again on the same connection.
    Paused {
        next: Instant,
        talk: Talk,
    },
    Gone,
}

#[derive(Debug)]
struct Talk {
    conn: Conn,
    main: Stream,
    rendezvous: Rendezvous,
    out: VecDeque<Bytes>,
}

#[derive(Debug)]
struct Spot {
    origin: Origin,
    addresses: Vec<SocketAddr>,
    state: State,
    rounds: u32,
}

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

/// See the module's text.
#[derive(Debug)]
pub struct Meeting {
    side: Side,
    features: Features,
    question: Question,
    spots: Vec<Spot>,
    /// A sender's place in its list of relays.
    current: usize,
    active: bool,
    give_up: Option<Instant>,
    announced: Option<WaitingFor>,
    out: VecDeque<Met>,
    last: Failure,
}

impl Meeting {
    /// Looks at configured relays.
    #[must_use]
    pub fn new(
        now: Instant,
        side: Side,
        features: Features,
        question: Question,
        relays: &[RelayChoice],
        near: &[SocketAddr],
        net: &mut Net,
    ) -> Self {
        let mut spots = Vec::new();
        for (index, relay) in relays.iter().take(MAX_SPOTS).enumerate() {
            let literal = relay.address.host.parse().ok().map(|ip| SocketAddr::new(ip, relay.address.port));
            let state = match literal {
                Some(_) => State::Idle { next: now },
                None => {
                    let query = QueryId(u32::try_from(index).unwrap_or(u32::MAX));
                    net.act(Action::Resolve(query, relay.address.host.clone(), relay.address.port));
                    State::Resolving(query)
                }
            };
            let addresses = literal.into_iter().collect();
            spots.push(Spot { origin: Origin::Configured(relay.clone()), addresses, state, rounds: 0 });
        }
        let mut meeting = Self {
            side,
            features,
            question,
            spots,
            current: 0,
            active: true,
            give_up: (side == Side::Receiver).then(|| now + GIVE_UP_AFTER),
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
            self.spots.push(Spot { origin: Origin::Near, addresses: vec![address], state, rounds: 0 });
        }
    }

    /// The relay gave this room: from now on the sender asks for its own seat there.
    pub fn set_room(&mut self, room: RoomId) {
        let (Question::Allocate { owner } | Question::Join { owner, .. }) = self.question;
        self.question = Question::Join { room, side: self.side, owner };
    }

    /// The configured relay that a sender uses.
    #[must_use]
    pub fn relay(&self) -> Option<RelayAddress> {
        match &self.spots.get(self.current)?.origin {
            Origin::Configured(relay) => Some(relay.address.clone()),
            Origin::Near => None,
        }
    }

    /// Goes on looking, after a handshake that failed.
    pub fn resume(&mut self, now: Instant) {
        self.active = true;
        self.announced = None;
        for spot in &mut self.spots {
            if !matches!(spot.state, State::Resolving(_) | State::Gone) {
                spot.state = State::Idle { next: now };
            }
        }
    }

    /// Frees seats and closes all connections.
    pub fn stop(&mut self, now: Instant, net: &mut Net) {
        self.active = false;
        for spot in &mut self.spots {
            match std::mem::replace(&mut spot.state, State::Idle { next: now }) {
                State::Talking(mut talk) | State::Paused { mut talk, .. } => {
                    talk.rendezvous.leave();
                    talk.flush(net);
                    // The stream's end follows the farewell, and the relay closes.
                    if let Some(quic) = net.quic(talk.conn.socket) {
                        quic.finish(talk.conn.id, talk.main);
                    }
                    net.close(now, talk.conn, 0, "left");
                }
                State::Dialing { attempts, .. } => {
                    attempts.into_iter().for_each(|conn| net.close(now, conn, 0, "not needed"));
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
                spot.addresses = interleave(addresses);
                spot.state = if spot.addresses.is_empty() { State::Gone } else { State::Idle { next: now } };
                if spot.addresses.is_empty() {
                    self.last = Failure::Lost(Lost::NoAddress);
                }
                return;
            }
        }
    }

    /// News of a connection; false when it is not one of these.
    pub fn handle_event(&mut self, now: Instant, net: &mut Net, conn: Conn, event: &quic::Event) -> bool {
        let Some(index) = self.spots.iter().position(|spot| spot.owns(conn)) else { return false };
        match event {
            quic::Event::Connected { certificate } => self.handle_connected(now, net, index, conn, certificate),
            quic::Event::Closed(closed) => self.handle_closed(now, index, conn, closed),
            quic::Event::Readable(_) | quic::Event::Writable(_) => self.pump(now, net, index),
            quic::Event::Opened(..)
            | quic::Event::Finished(_)
            | quic::Event::Stopped(..)
            | quic::Event::Available(_) => {}
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
            self.out.push_back(Met::Failed(Failure::Lost(Lost::NobodyWaits)));
        }
        if net.is_unusable() {
            self.active = false;
            return self.out.push_back(Met::Failed(Failure::Lost(Lost::NoSocket)));
        }
        for index in 0..self.spots.len() {
            if self.is_due(index) {
                self.advance(now, net, index);
            }
        }
        self.judge();
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
                State::Dialing { next, deadline, attempts: _, tried } => {
                    Some(if *tried < spot.addresses.len() { (*next).min(*deadline) } else { *deadline })
                }
                State::Talking(talk) => talk.rendezvous.poll_timeout(),
                State::Resolving(_) | State::Gone => None,
            });
        due.chain(self.give_up).min()
    }

    /// The next result.
    pub fn poll(&mut self) -> Option<Met> {
        self.out.pop_front()
    }

    /// A sender looks at one relay at a time.
    const fn is_due(&self, index: usize) -> bool {
        match self.side {
            Side::Sender => index == self.current,
            Side::Receiver => true,
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
                    self.out.push_back(Met::Event(Event::Waiting(waiting)));
                }
                let within = if spot.is_near() { DIAL_NEAR_WITHIN } else { DIAL_WITHIN };
                spot.state = State::Dialing { attempts: Vec::new(), tried: 0, next: now, deadline: now + within };
                self.dial(now, net, index);
            }
            State::Dialing { deadline, attempts, .. } if *deadline <= now => {
                attempts.drain(..).for_each(|conn| net.close(now, conn, 0, "no answer"));
                self.fail(now, index);
            }
            State::Dialing { next, .. } if *next <= now => self.dial(now, net, index),
            State::Talking(talk) => {
                talk.rendezvous.handle_timeout(now);
                self.pump(now, net, index);
            }
            State::Paused { next, .. } if *next <= now => {
                if let State::Paused { mut talk, .. } = std::mem::replace(&mut spot.state, State::Idle { next: now }) {
                    talk.rendezvous.ask_again(now, self.question);
                    spot.state = State::Talking(talk);
                    self.pump(now, net, index);
                }
            }
            State::Idle { .. } | State::Dialing { .. } | State::Paused { .. } | State::Resolving(_) | State::Gone => {}
        }
    }

    /// Tries the spot's next address.
    fn dial(&mut self, now: Instant, net: &mut Net, index: usize) {
        let Some(spot) = self.spots.get_mut(index) else { return };
        let (trust, name) = match &spot.origin {
            Origin::Configured(relay) => (relay.trust, relay.address.host.clone()),
            Origin::Near => (Trust::Any, "tallow".to_owned()),
        };
        let State::Dialing { attempts, tried, next, .. } = &mut spot.state else { return };
        while let Some(&address) = spot.addresses.get(*tried) {
            *tried = tried.saturating_add(1);
            match net.dial(now, address, &name, &trust) {
                Dial::Started(conn) => {
                    attempts.push(conn);
                    *next = now + STAGGER;
                    return;
                }
                Dial::NotYet | Dial::Impossible => {}
            }
        }
        if attempts.is_empty() {
            self.fail(now, index);
        }
    }

    fn handle_connected(
        &mut self,
        now: Instant,
        net: &mut Net,
        index: usize,
        conn: Conn,
        certificate: &CertificateSeen,
    ) {
        let Some(spot) = self.spots.get_mut(index) else { return };
        let State::Dialing { attempts, .. } = &mut spot.state else { return };
        attempts
            .drain(..)
            .filter(|&other| other != conn)
            .for_each(|other| net.close(now, other, 0, "another was faster"));
        let password = match &spot.origin {
            Origin::Configured(relay) => {
                if let Some(keep) = to_keep(relay.trust, certificate) {
                    let relay = relay.address.clone();
                    self.out.push_back(Met::Event(Event::FirstUse { relay, keep }));
                }
                relay.password.clone()
            }
            Origin::Near => None,
        };
        let Some(main) = net.quic(conn.socket).and_then(|quic| quic.open_bi(conn.id)) else {
            net.close(now, conn, 0, "no stream");
            return self.fail(now, index);
        };
        let rendezvous = Rendezvous::new(now, self.features, password, self.question);
        spot.state = State::Talking(Talk { conn, main, rendezvous, out: VecDeque::new() });
        self.pump(now, net, index);
    }

    fn handle_closed(&mut self, now: Instant, index: usize, conn: Conn, closed: &Closed) {
        let Some(spot) = self.spots.get_mut(index) else { return };
        if let (Closed::CertificateRefused(refused), Origin::Configured(relay)) = (closed, &spot.origin) {
            let (relay, refused) = (relay.address.clone(), *refused);
            let failure = Failure::Relay(RelayFailure::CertificateChanged { relay, refused });
            spot.state = State::Gone;
            return self.out.push_back(Met::Failed(failure));
        }
        match &mut spot.state {
            State::Dialing { attempts, tried, next, .. } => {
                attempts.retain(|&attempt| attempt != conn);
                if attempts.is_empty() && *tried >= spot.addresses.len() {
                    self.fail(now, index);
                } else {
                    *next = now;
                }
            }
            State::Talking(_) => self.fail(now, index),
            // The connection of the pause ended: the next question goes over a new one.
            State::Paused { next, .. } => spot.state = State::Idle { next: *next },
            State::Idle { .. } | State::Resolving(_) | State::Gone => {}
        }
    }

    /// Moves the conversation at one spot.
    fn pump(&mut self, now: Instant, net: &mut Net, index: usize) {
        let Some(spot) = self.spots.get_mut(index) else { return };
        let (State::Talking(talk) | State::Paused { talk, .. }) = &mut spot.state else { return };
        let conn = talk.conn;
        loop {
            match net.read(conn, talk.main) {
                Read::Data(bytes) => talk.rendezvous.handle_bytes(bytes),
                Read::Blocked => break,
                Read::End | Read::Reset(_) | Read::Gone => break,
            }
        }
        talk.flush(net);
        while let Some(answer) = self.take_answer(index) {
            match answer {
                Answer::Observed(_) => {}
                Answer::Allocated(nameplate) => self.out.push_back(Met::Allocated(nameplate)),
                Answer::Waiting => self.wait_for(WaitingFor::Receiver),
                Answer::Paired(streams) => return self.hand_over(now, net, index, streams),
                Answer::Refused(RefusalReason::NobodyWaits) => self.pause(now, index),
                Answer::Refused(reason) => {
                    self.last = Failure::Relay(RelayFailure::Refused(reason));
                    return self.drop_spot(now, net, index, conn);
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
            State::Idle { .. } | State::Dialing { .. } | State::Resolving(_) | State::Gone => None,
        }
    }

    fn hand_over(&mut self, now: Instant, net: &mut Net, index: usize, streams: u8) {
        let Some(spot) = self.spots.get_mut(index) else { return };
        if let State::Talking(talk) = std::mem::replace(&mut spot.state, State::Idle { next: now }) {
            let found = match &spot.origin {
                Origin::Configured(relay) => Found::Relay(relay.address.clone()),
                Origin::Near => Found::Near,
            };
            let link = PeerLink::new(talk.conn, talk.main, talk.rendezvous.into_decoder(), streams);
            self.stop(now, net);
            self.out.push_back(Met::Link(Box::new(link), found));
        }
    }

    /// Nobody waits there: later again.
    fn pause(&mut self, now: Instant, index: usize) {
        self.wait_for(WaitingFor::Sender);
        let Some(spot) = self.spots.get_mut(index) else { return };
        let next = now + pause_after(spot.rounds);
        spot.rounds = spot.rounds.saturating_add(1);
        if let State::Talking(talk) = std::mem::replace(&mut spot.state, State::Idle { next }) {
            spot.state = State::Paused { next, talk };
        }
    }

    /// No connection, or it ended: a configured relay of a receiver and a near spot are tried again, a sender goes to the next.
    fn fail(&mut self, now: Instant, index: usize) {
        let Some(spot) = self.spots.get_mut(index) else { return };
        let next = now + if spot.is_near() { NEAR_AGAIN } else { pause_after(spot.rounds) };
        spot.rounds = spot.rounds.saturating_add(1);
        let hopeless = !spot.is_near() && spot.rounds >= TRIES;
        spot.state = if hopeless { State::Gone } else { State::Idle { next } };
        if self.side == Side::Sender {
            self.next_relay(now);
        }
    }

    /// This relay said no for good.
    fn drop_spot(&mut self, now: Instant, net: &mut Net, index: usize, conn: Conn) {
        net.close(now, conn, 0, "refused");
        if let Some(spot) = self.spots.get_mut(index) {
            spot.state = State::Gone;
        }
        if self.side == Side::Sender {
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
        if self.active && over && !near_later {
            self.active = false;
            self.out.push_back(Met::Failed(self.last.clone()));
        }
    }

    fn wait_for(&mut self, waiting: WaitingFor) {
        if self.announced.as_ref() != Some(&waiting) {
            self.announced = Some(waiting.clone());
            self.out.push_back(Met::Event(Event::Waiting(waiting)));
        }
    }
}

impl Spot {
    const fn is_near(&self) -> bool {
        matches!(self.origin, Origin::Near)
    }

    fn owns(&self, conn: Conn) -> bool {
        match &self.state {
            State::Dialing { attempts, .. } => attempts.contains(&conn),
            State::Talking(talk) | State::Paused { talk, .. } => talk.conn == conn,
            State::Idle { .. } | State::Resolving(_) | State::Gone => false,
        }
    }
}

impl Talk {
    fn flush(&mut self, net: &mut Net) {
        while let Some(frame) = self.rendezvous.poll_frame() {
            self.out.push_back(frame);
        }
        let Some(quic) = net.quic(self.conn.socket) else { return };
        while let Some(frame) = self.out.front_mut() {
            match quic.write(self.conn.id, self.main, frame) {
                Write::Done => drop(self.out.pop_front()),
                Write::Blocked => break,
                Write::Stopped(_) | Write::Gone => self.out.clear(),
            }
        }
    }
}

/// What to accept the next time, when this was the first.
const fn to_keep(trust: Trust, seen: &CertificateSeen) -> Option<Trust> {
    match (trust, seen) {
        (Trust::FirstUse, CertificateSeen::FirstUse(fingerprint)) => Some(Trust::Known(*fingerprint)),
        (Trust::FirstUse, CertificateSeen::PublicCa(_)) => Some(Trust::PublicCa),
        (Trust::FirstUse | Trust::Pin(_) | Trust::Known(_) | Trust::PublicCa | Trust::Any, _) => None,
    }
}

/// IPv6 and IPv4 in turn, IPv6 first (RFC 8305, section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut all = Vec::new();
    while all.len() < MAX_ADDRESSES {
        let before = all.len();
        all.extend(v6.next());
        all.extend(v4.next());
        if all.len() == before {
            break;
        }
    }
    all
}

const fn pause_after(rounds: u32) -> Duration {
    match rounds {
        0 => Duration::from_secs(1),
        1 => Duration::from_secs(2),
        _ => Duration::from_secs(5),
    }
}
