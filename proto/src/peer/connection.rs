//! The connection with the other side: the handshake, the session that follows from it, the loss of the session's
//! links and its reconnects, and the farewell.
//!
//! ```text
//!            link                 keyed                 transfer over
//! Searching ─────► Handshaking ────────► Established ─────────────────► Closing ──► Closed
//!     ▲                 │ wrong guess,   │    ▲
//!     └─────────────────┘ link lost      │    │ keyed: same session, new keys
//!                        last link lost  ▼    │
//!                              Disconnected ──link──► Handshaking (reconnects)
//!                                         ▲                │ failed, lost
//!                                         └────────────────┘
//! ```
//! It decides how often a code may be guessed (the handshake's `Guesses`), which secret a handshake uses, and how
//! long a session without a link is kept.
//!
//! A reconnect loses no data: the session repeats its control records, and the transfer repeats its chunks. A failed
//! attempt to reconnect ends nothing and does not count as a guess, because its secret was not chosen by a user. If a
//! receiver's answer (H2) got no reply, the receiver can't know whether the sender accepted it, so it tries the
//! reconnect room of that attempt and the code room in turn.
//!
//! Timers: those of the handshake and the session; [`RESPONSE_WITHIN`] for a sender's first message; [`TURN`] for each
//! of those two rooms; [`LEAVE_WITHIN`] for the farewell; and how long a session without a link is kept: the user's
//! `give_up_after`, else [`PATIENCE`] before the offer is accepted, a minute for a sender that waits only for the
//! confirmation, 12 hours for one that waits for acknowledgements as well, and no limit otherwise. Bounds: one session,
//! one handshake.

mod reconnect;

use std::collections::VecDeque;
use std::time::Duration;

use super::event::{Event, WaitingFor};
use super::failure::{Failure, Lost};
use super::network::{self, ConnectionId, Network};
use super::paths::{Waiting, is_handshake};
use super::peer_link::PeerLink;
use super::rendezvous::{Question, Via};
use super::{LEAVE_WITHIN, close};
use crate::Instant;
use crate::code::Code;
use crate::handshake::{self, FailureReason, Guesses, Handshake, Keys, Secret};
use crate::link::quic::Direction;
use crate::seed::Seed;
use crate::session::{self, Session};
use crate::wire::Features;
use crate::wire::frame::enclose;
use crate::wire::relay::Role;

use reconnect::{CONFIRM_WITHIN, ReconnectCredentials, ReconnectState};

pub(super) use reconnect::{Missing, Patience};

/// How long a receiver that can't know in which of the two rooms its sender waits stays in one of them.
const TURN: Duration = Duration::from_secs(10);
/// The time after which a sender that has not answered is reported as silent.
const RESPONSE_WITHIN: Duration = Duration::from_secs(2);

/// Effects for other parts of the peer.
#[derive(Debug)]
pub(super) enum Output {
    /// An event for the application.
    Event(Event),
    /// A handshake runs: ask no relay until it ends.
    PauseSearch,
    /// Search for the other side, for the first time or again.
    SearchAgain,
    /// An attempt to reconnect failed: search again after a pause.
    SearchLater,
    /// Send this question to the relays from now on.
    Ask(Question),
    /// The session has no link: search for the other side in this room.
    Reconnect(Question),
    /// The session is keyed and uses this link.
    Keyed(Box<Keyed>),
    /// The first handshake was lost: ask the other relays before the one over which it ran.
    PutOffNear,
    /// The first handshake failed. `may_go_on`: if the relay was an unauthenticated one on the LAN, search for
    /// others.
    HandshakeFailed { failure: Failure, may_go_on: bool },
    /// The transfer failed.
    Failed(Failure),
    /// The farewell took too long.
    FarewellOver,
}

/// The result of a handshake.
#[derive(Debug)]
pub(super) struct Keyed {
    pub keys: Keys,
    pub link: Box<PeerLink>,
    pub via: Via,
    /// True for the first handshake, false for a reconnect.
    pub is_first: bool,
}

/// The state of the connection.
enum Stage {
    /// Searching for the other side.
    Searching,
    /// A handshake runs on a link: the first one, or one that creates new keys for a session that lost its links.
    Handshaking { link: Box<PeerLink>, via: Via, handshake: Box<Handshake>, reconnects: Option<Box<Disconnected>> },
    /// The session is keyed; `paths` has its links.
    Established(Box<Session>),
    /// The session has no link; the search for the other side runs.
    Disconnected(Box<Disconnected>),
    /// The outcome was reported; the links are closed after what is queued was sent.
    Closing { session: Box<Session>, deadline: Instant },
    /// Nothing is left to send.
    Closed,
}

/// A session without a link.
struct Disconnected {
    session: Box<Session>,
    give_up: Option<Instant>,
    lost: Lost,
}

/// The state of the connection with the other side; see the module documentation.
pub(super) struct Connection {
    role: Role,
    features: Features,
    stage: Stage,
    guesses: Guesses,
    reconnect: ReconnectState,
    /// Links that are closed once their last frame was sent.
    parting: Vec<(Box<PeerLink>, Instant)>,
    /// When a sender's silence in the first handshake is reported.
    response_by: Option<Instant>,
    /// The application wants to end at once although a completed transfer still waits for its farewell.
    is_hurried: bool,
    out: VecDeque<Output>,
}

impl Connection {
    /// A connection before the search has begun.
    pub const fn new(role: Role, features: Features) -> Self {
        Self {
            role,
            features,
            stage: Stage::Searching,
            guesses: Guesses::new(),
            reconnect: ReconnectState::None,
            parting: Vec::new(),
            response_by: None,
            is_hurried: false,
            out: VecDeque::new(),
        }
    }

    /// The session, while it has a link.
    pub fn session(&mut self) -> Option<&mut Session> {
        match &mut self.stage {
            Stage::Established(session) => Some(session),
            Stage::Searching
            | Stage::Handshaking { .. }
            | Stage::Disconnected(_)
            | Stage::Closing { .. }
            | Stage::Closed => None,
        }
    }

    /// The session, while it sends or receives the farewell.
    pub fn closing(&mut self) -> Option<&mut Session> {
        match &mut self.stage {
            Stage::Closing { session, .. } => Some(session),
            Stage::Searching
            | Stage::Handshaking { .. }
            | Stage::Established(_)
            | Stage::Disconnected(_)
            | Stage::Closed => None,
        }
    }

    /// Whether there is neither a handshake nor a session.
    pub const fn is_searching(&self) -> bool {
        matches!(self.stage, Stage::Searching)
    }

    /// Whether the session lost its links.
    pub const fn is_disconnected(&self) -> bool {
        matches!(self.stage, Stage::Disconnected(_))
    }

    /// Whether the session was ever keyed.
    pub const fn was_keyed(&self) -> bool {
        matches!(self.reconnect, ReconnectState::Known(_))
    }

    /// Whether nothing is left to send.
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed) && self.parting.is_empty()
    }

    /// The name of the stage, for messages.
    pub const fn name(&self) -> &'static str {
        match &self.stage {
            Stage::Searching => "searching",
            Stage::Handshaking { .. } => "handshaking",
            Stage::Established(_) => "established",
            Stage::Disconnected(_) => "disconnected",
            Stage::Closing { .. } => "closing",
            Stage::Closed => "closed",
        }
    }

    /// The question to relays for the room where the two sides reconnect.
    pub fn reconnect_question(&self) -> Option<Question> {
        match &self.reconnect {
            ReconnectState::Known(credentials) => Some(credentials.question(self.role)),
            ReconnectState::None | ReconnectState::Unsure { .. } => None,
        }
    }

    /// A link that leads, as far as is known, to the other side, while the session has none.
    pub fn handle_connected(
        &mut self,
        now: Instant,
        net: &mut Network,
        link: Box<PeerLink>,
        via: Via,
        code: Option<&Code>,
        seed: &mut Seed,
    ) {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Searching => self.start_handshake(now, net, (link, via), None, code, seed),
            Stage::Disconnected(lost) => self.start_handshake(now, net, (link, via), Some(lost), code, seed),
            Stage::Handshaking { link: old, reconnects: Some(lost), .. } => {
                old.close(now, net, close::ENDED, "replaced");
                self.start_handshake(now, net, (link, via), Some(lost), code, seed);
            }
            stage @ (Stage::Handshaking { reconnects: None, .. }
            | Stage::Established(_)
            | Stage::Closing { .. }
            | Stage::Closed) => {
                self.stage = stage;
                link.close(now, net, close::ENDED, "not needed");
            }
        }
    }

    fn start_handshake(
        &mut self,
        now: Instant,
        net: &mut Network,
        (link, via): (Box<PeerLink>, Via),
        reconnects: Option<Box<Disconnected>>,
        code: Option<&Code>,
        seed: &mut Seed,
    ) {
        let (room, secret) = match (&self.reconnect, code) {
            (ReconnectState::Known(credentials) | ReconnectState::Unsure { credentials, again: true, .. }, _) => {
                (credentials.key.room(), credentials.secret())
            }
            (ReconnectState::None | ReconnectState::Unsure { .. }, Some(code)) => {
                (code.nameplate().room_id(), Secret::Code(code.password().clone()))
            }
            (ReconnectState::None | ReconnectState::Unsure { .. }, None) => {
                self.stage = Stage::Searching;
                return link.close(now, net, close::ENDED, "no code yet");
            }
        };
        self.out.push_back(Output::PauseSearch);
        let config = handshake::Config { role: self.role, features: self.features, room, secret };
        let handshake = Box::new(Handshake::new(config, now, seed.split()));
        if reconnects.is_none() {
            self.out.push_back(Output::Event(Event::Paired));
            self.response_by = (self.role == Role::Receiver).then(|| now + RESPONSE_WITHIN);
        }
        self.stage = Stage::Handshaking { link, via, handshake, reconnects };
    }

    /// All links are lost: the session waits for another one. A link that was accepted meanwhile may be used for it.
    pub fn disconnect(&mut self, now: Instant, patience: Patience) {
        let Stage::Established(session) = std::mem::replace(&mut self.stage, Stage::Closed) else { return };
        let lost = match patience.missing {
            Missing::Data => Lost::InTransfer,
            Missing::Acknowledgements | Missing::Confirmation => Lost::Unconfirmed,
        };
        let give_up = patience.limit().and_then(|patience| now.checked_add(patience));
        self.stage = Stage::Disconnected(Box::new(Disconnected { session, give_up, lost }));
        self.out.push_back(Output::Event(Event::Reconnecting { attempt: 1, wait: Duration::ZERO }));
        self.out.extend(self.reconnect_question().map(Output::Reconnect));
    }

    /// The sender is back in the reconnect room, and everything is stored at the receiver: from now on the receiver has
    /// [`CONFIRM_WITHIN`] to return. While this side's network is away, the time does not run.
    pub fn expect_confirmation(&mut self, now: Instant) {
        if let Stage::Disconnected(disconnected) = &mut self.stage {
            disconnected.give_up = disconnected.give_up.map(|at| at.min(now + CONFIRM_WITHIN));
        }
    }

    /// Uses a link that was accepted before the last one was lost; the sender may have begun a handshake on it.
    pub fn take_up(&mut self, now: Instant, net: &mut Network, waiting: Waiting, code: Option<&Code>, seed: &mut Seed) {
        self.handle_connected(now, net, Box::new(waiting.link), waiting.via, code, seed);
        if let (Stage::Handshaking { handshake, .. }, Some(first)) = (&mut self.stage, waiting.first) {
            handshake.handle_frame(now, first.into_bytes());
        }
    }

    /// Whether the handshake runs on this connection.
    pub fn is_on(&self, conn: ConnectionId) -> bool {
        matches!(&self.stage, Stage::Handshaking { link, .. } if link.conn() == conn)
    }

    /// An event of a connection. Returns false if the connection belongs to another part. `asked`: the current
    /// question to the relays.
    pub fn handle_event(
        &mut self,
        now: Instant,
        net: &mut Network,
        conn: ConnectionId,
        event: &network::Event,
        asked: Option<Question>,
    ) -> bool {
        if let Some(index) = self.parting.iter().position(|(link, _)| link.conn() == conn) {
            self.handle_parting(now, net, index, event);
            return true;
        }
        let Stage::Handshaking { link, .. } = &mut self.stage else { return false };
        if link.conn() != conn {
            return false;
        }
        match event {
            network::Event::Opened(stream, Direction::Uni) => link.handle_opened(*stream),
            network::Event::Closed(_) => self.lose_handshake(now, net, asked),
            network::Event::Opened(..)
            | network::Event::Readable(_)
            | network::Event::Writable(_)
            | network::Event::Finished(_)
            | network::Event::Connected { .. }
            | network::Event::Restarted { .. }
            | network::Event::Available(_)
            | network::Event::Stopped(..) => {}
        }
        true
    }

    /// Whether a handshake runs.
    pub const fn is_handshaking(&self) -> bool {
        matches!(self.stage, Stage::Handshaking { .. })
    }

    /// Whether the first stream of the handshake's link has ended, and everything that arrived on it was processed.
    pub const fn has_handshake_ended(&self) -> bool {
        match &self.stage {
            Stage::Handshaking { link, .. } => link.has_ended(),
            Stage::Searching
            | Stage::Established(_)
            | Stage::Disconnected(_)
            | Stage::Closing { .. }
            | Stage::Closed => false,
        }
    }

    /// This process did nothing for this long: the other side's deadlines move by that time.
    pub fn delay(&mut self, by: Duration) {
        if let Stage::Handshaking { handshake, .. } = &mut self.stage {
            handshake.delay(by);
        }
    }

    /// Advances the handshake. Returns true when something moved for which another part waits.
    pub fn shake_hands(&mut self, now: Instant, net: &mut Network, asked: Option<Question>, seed: &mut Seed) -> bool {
        let mut moved = false;
        while let Stage::Handshaking { link, handshake, reconnects, .. } = &mut self.stage {
            match handshake.poll_output() {
                Some(handshake::Output::Send(body)) => link.queue_control(enclose(&body)),
                Some(handshake::Output::Keyed(keys)) => {
                    moved = true;
                    self.handle_keyed(now, net, keys, seed);
                }
                Some(handshake::Output::Failed(failure)) => {
                    moved = true;
                    self.handle_failed(now, failure);
                }
                None => match link.next_main_frame(net) {
                    // The sender has not noticed yet that its other link is dead: see `paths::relay_path`.
                    Ok(Some(frame)) if reconnects.is_some() && !is_handshake(&frame) => {
                        self.lose_handshake(now, net, asked);
                        moved = true;
                    }
                    Ok(Some(frame)) => {
                        self.response_by = None;
                        handshake.handle_frame(now, frame.into_bytes());
                    }
                    Ok(None) => {
                        link.flush(now, net);
                        break;
                    }
                    Err(violation) => {
                        moved = true;
                        handshake.handle_violation(violation);
                    }
                },
            }
        }
        moved
    }

    fn handle_keyed(&mut self, now: Instant, net: &mut Network, keys: Keys, seed: &mut Seed) {
        let Stage::Handshaking { mut link, via, reconnects, .. } = std::mem::replace(&mut self.stage, Stage::Closed)
        else {
            return;
        };
        link.flush(now, net);
        net.widen(link.conn());
        self.guesses.burn();
        let is_first = reconnects.is_none();
        let session = match reconnects {
            Some(lost) => {
                let mut session = lost.session;
                session.handle_generation(&keys);
                session
            }
            None => Box::new(Session::new(session::Config::new(self.role), &keys, seed.split())),
        };
        self.stage = Stage::Established(session);
        self.reconnect = ReconnectState::Known(ReconnectCredentials {
            key: keys.reconnect.clone(),
            verifier: keys.verifier.clone(),
        });
        self.out.push_back(Output::Keyed(Box::new(Keyed { keys, link, via, is_first })));
    }

    fn handle_failed(&mut self, now: Instant, failure: handshake::Failure) {
        let Stage::Handshaking { link, reconnects, .. } = std::mem::replace(&mut self.stage, Stage::Searching) else {
            return;
        };
        self.parting.push((link, now + LEAVE_WITHIN));
        if let Some(lost) = reconnects {
            return self.stay_disconnected(lost);
        }
        if failure.is_guess() {
            self.guesses.count();
        }
        // A peer that connects in a reconnect room is unauthenticated until the session is keyed, and no code can be
        // guessed there.
        if let ReconnectState::Unsure { again: true, switch, .. } = &mut self.reconnect {
            *switch = now;
            return self.out.push_back(Output::SearchAgain);
        }
        let left = self.guesses.left();
        let output = match self.role {
            Role::Sender => {
                if failure.is_guess() {
                    self.out.push_back(Output::Event(Event::WrongGuess { left }));
                }
                // Invalid messages or silence of a stranger end nothing; the third wrong guess ends the transfer.
                if left > 0 { Output::SearchAgain } else { Output::Failed(Failure::WrongCode) }
            }
            Role::Receiver => {
                let failure = match failure.reason {
                    FailureReason::WrongCode => Failure::WrongCode,
                    FailureReason::Version { theirs } => Failure::Versions(theirs),
                    FailureReason::Violation(violation) => Failure::Violation(violation),
                };
                Output::HandshakeFailed { failure, may_go_on: left > 0 }
            }
        };
        self.out.push_back(output);
    }

    /// An attempt to reconnect failed.
    fn stay_disconnected(&mut self, lost: Box<Disconnected>) {
        self.stage = Stage::Disconnected(lost);
        self.out.push_back(Output::SearchLater);
    }

    /// The handshake's link was lost, or its deadline has passed.
    pub fn lose_handshake(&mut self, now: Instant, net: &mut Network, asked: Option<Question>) {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Handshaking { link, handshake, reconnects, .. } => {
                link.close(now, net, close::ENDED, "lost");
                self.response_by = None;
                match reconnects {
                    Some(lost) => self.stay_disconnected(lost),
                    None => self.lose_first_handshake(now, &handshake, asked),
                }
            }
            stage => self.stage = stage,
        }
    }

    /// The first handshake's link was lost, or nothing arrived on it: this side can't know whether the other side has
    /// the keys.
    fn lose_first_handshake(&mut self, now: Instant, handshake: &Handshake, asked: Option<Question>) {
        let is_guess = handshake.is_guess_if_lost();
        if is_guess {
            self.guesses.count();
        }
        self.stage = Stage::Searching;
        self.out.push_back(Output::PutOffNear);
        let code = match &self.reconnect {
            ReconnectState::Unsure { code, .. } => Some(*code),
            ReconnectState::None | ReconnectState::Known(_) => asked,
        };
        match (self.role, handshake.durable_if_lost(), code) {
            (Role::Receiver, ..) if is_guess && self.guesses.left() == 0 => {
                self.out.push_back(Output::Failed(Failure::WrongCode));
            }
            (Role::Receiver, Some((key, verifier)), Some(code)) => {
                let credentials = ReconnectCredentials { key, verifier };
                self.reconnect = ReconnectState::Unsure { credentials, code, again: false, switch: now };
                self.switch_rooms(now);
            }
            (Role::Sender | Role::Receiver, ..) => self.out.push_back(Output::SearchAgain),
        }
    }

    fn switch_rooms(&mut self, now: Instant) {
        if let (Stage::Searching, ReconnectState::Unsure { credentials, code, again, switch }) =
            (&self.stage, &mut self.reconnect)
            && *switch <= now
        {
            *again = !*again;
            *switch = now + TURN;
            self.out.push_back(Output::Ask(if *again { credentials.question(self.role) } else { *code }));
        }
    }

    /// The outcome was reported: sends what is queued, then closes the links.
    pub fn close(&mut self, now: Instant) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Established(session) => {
                // The user has already waited.
                let patience = if self.is_hurried { Duration::ZERO } else { LEAVE_WITHIN };
                Stage::Closing { session, deadline: now + patience }
            }
            Stage::Handshaking { link, .. } => {
                self.parting.push((link, now + LEAVE_WITHIN));
                Stage::Closed
            }
            stage @ (Stage::Closing { .. } | Stage::Closed) => stage,
            Stage::Searching | Stage::Disconnected(_) => Stage::Closed,
        };
    }

    /// The application wants to end at once: the farewell is not waited for.
    pub const fn hurry(&mut self) {
        self.is_hurried = true;
    }

    /// Whether an answer is awaited whose deadline depends on how much time this process gets. A session that has a
    /// link is judged by the data that arrives on it.
    pub const fn awaits_answer(&self) -> bool {
        match &self.stage {
            Stage::Searching | Stage::Handshaking { .. } | Stage::Disconnected(_) => true,
            Stage::Established(_) | Stage::Closing { .. } | Stage::Closed => false,
        }
    }

    /// The farewell was sent, or took too long.
    pub fn handle_farewell_over(&mut self) {
        if matches!(self.stage, Stage::Closing { .. }) {
            self.stage = Stage::Closed;
        }
    }

    /// Links of failed handshakes: sends their last frame, then closes them.
    pub fn flush_parting(&mut self, now: Instant, net: &mut Network) {
        for (link, _) in &mut self.parting {
            link.flush(now, net);
            link.finish(now, net);
        }
    }

    fn handle_parting(&mut self, now: Instant, net: &mut Network, index: usize, event: &network::Event) {
        let finished = match (event, self.parting.get(index)) {
            (network::Event::Finished(stream), Some((link, _))) => *stream == link.main(),
            (network::Event::Closed(_), _) => true,
            _ => false,
        };
        if finished && index < self.parting.len() {
            let (link, _) = self.parting.swap_remove(index);
            link.close(now, net, close::ENDED, "handshake failed");
        }
    }

    /// A deadline may have passed. A spurious call is a no-op. `asked`: the current question to the relays.
    pub fn handle_timeout(&mut self, now: Instant, net: &mut Network, asked: Option<Question>) {
        match &mut self.stage {
            // Silence for this long is handled like the loss of the link.
            Stage::Handshaking { handshake, .. } if handshake.poll_timeout().is_some_and(|at| at <= now) => {
                self.lose_handshake(now, net, asked);
            }
            Stage::Established(session) => session.handle_timeout(now),
            Stage::Closing { deadline, .. } if *deadline <= now => self.out.push_back(Output::FarewellOver),
            Stage::Handshaking { .. }
            | Stage::Closing { .. }
            | Stage::Searching
            | Stage::Disconnected(_)
            | Stage::Closed => {}
        }
        if self.response_by.take_if(|at| *at <= now).is_some() && self.is_handshaking() {
            self.out.push_back(Output::Event(Event::Waiting(WaitingFor::Response)));
        }
        if let Stage::Disconnected(lost) | Stage::Handshaking { reconnects: Some(lost), .. } = &self.stage
            && lost.give_up.is_some_and(|at| at <= now)
        {
            let lost = lost.lost;
            self.out.push_back(Output::Failed(Failure::Lost(lost)));
        } else if asked.is_some() {
            self.switch_rooms(now);
        }
        self.parting.retain(|(link, deadline)| {
            let over = *deadline <= now;
            if over {
                link.close(now, net, close::ENDED, "handshake failed");
            }
            !over
        });
    }

    /// When [`Self::handle_timeout`] is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let (stage, give_up) = match &self.stage {
            Stage::Handshaking { handshake, reconnects, .. } => {
                let give_up = reconnects.as_ref().and_then(|lost| lost.give_up);
                (handshake.poll_timeout().map(|at| (at, "handshake")), give_up)
            }
            Stage::Established(session) => (session.poll_timeout(), None),
            Stage::Closing { deadline, .. } => (Some((*deadline, "farewell")), None),
            Stage::Disconnected(lost) => (None, lost.give_up),
            Stage::Searching => match &self.reconnect {
                ReconnectState::Unsure { switch, .. } => (None, Some(*switch)),
                ReconnectState::None | ReconnectState::Known(_) => (None, None),
            },
            Stage::Closed => (None, None),
        };
        let parting = self.parting.iter().map(|&(_, deadline)| (deadline, "parting")).min();
        let response = self.response_by.map(|at| (at, "response"));
        [stage, response, give_up.map(|at| (at, "reconnect")), parting].into_iter().flatten().min()
    }

    /// The next effect for another part.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }
}
