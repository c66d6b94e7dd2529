//! The floor: the link by way of a relay that a session falls back to, and another one when it is lost while a direct link lives.
//!
//! ```text
//!            lost here: said               heard            met            Bind said or heard          proven
//! There ─────────────────────────► Said ─────────► Looking ─────► Met ──────────────────────► Joining ────────► There
//!    └──heard: lost here too, said──────────────────► ▲            │ lost, took too long          │ lost
//!                                                     └────────────┴─────────────────────────────┘
//! ```
//! The first floor is the link of the handshake. When it is lost and a direct link remains, both sides say so (`DirectFailed` of round 0),
//! each once; what was under way on it counts for nobody then (`direct`). A side that has said *and* heard it looks for the other one in the
//! session's reconnect room, as after the loss of its last link (`reunion`), but tells nobody, and nothing ends for want of a relay. So
//! neither can have a newer floor while a word about the last one is under way, and what is said of "the floor" is said of one only. What
//! was said in an earlier generation is told by its place: before the other side's offer of the present round, or any direct link.
//!
//! On a link from that room the sender speaks first: H1 where its session has no link, `Bind` where it has one; the receiver does what
//! fits both. Where they differ, one of them has not noticed yet that its direct link is dead, which takes it 1.6 s. A receiver that
//! thinks that it has one keeps the link with its H1 until it has none; a receiver that has none closes the link, and both look again.
//! Until the proof the link carries nothing else, and what goes wrong on it ends nothing but this attempt.
//!
//! Timers: the meeting's; [`HOLD`] for a link that waits; the session's for the proof, and [`PROOF_WITHIN`] once it is the last link.
//! Bounds: one link at a time.

use std::time::Duration;

use super::event::PathKind;
use super::meeting::Found;
use super::net::{self, Conn};
use super::peer_link::PeerLink;
use super::reunion::{PROOF_WITHIN, Reunion};
use super::{Peer, Stage, close};
use crate::Instant;
use crate::link::quic::Direction;
use crate::link::race::Failure;
use crate::session::{LinkId, Origin, Pace, SILENCE, StreamNo};
use crate::wire::peer::HandshakeMessage;
use crate::wire::relay::Side;
use crate::wire::{Frame, decode};

/// How long a link that was met waits for what the sender says, or for the session to have lost its last link.
const HOLD: Duration = SILENCE;

/// See the module's text. `W`: a link that waits.
#[derive(Debug)]
pub(super) struct Floor<W = Waiting> {
    kind: PathKind,
    state: State<W>,
    /// The last one that was lost, with the other side not known to know.
    lost: Option<LinkId>,
    /// The other side takes part in the present round of this generation.
    offered: bool,
    /// A direct link of this generation has proven itself.
    direct: bool,
}

#[derive(Debug)]
enum State<W> {
    There,
    /// Lost here. The relay inside a sender may let the receiver in before its word is here.
    Said(Option<W>),
    /// `met`: a link came since, and the other side may have taken it for the floor.
    Looking {
        met: bool,
    },
    Met(W),
    /// `until`: it is the last link.
    Joining {
        id: LinkId,
        found: Found,
        until: Option<Instant>,
    },
}

/// A link that was met beside a living one.
#[derive(Debug)]
pub(super) struct Waiting {
    link: PeerLink,
    found: Found,
    until: Instant,
    /// What a sender said that has no other link.
    first: Option<Frame>,
}

/// What the loss of a link that is not direct means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// It is to be said.
    Floor,
    /// An attempt to get one came to nothing.
    Attempt,
    /// It was none.
    Other,
}

/// What follows when the other side says that the floor is lost.
#[derive(Debug, PartialEq, Eq)]
enum Heard<W> {
    /// Nothing: it was said in an earlier generation, or is said of none.
    Nothing,
    /// It is lost here too, and this is to be heard once more.
    Lose,
    /// Both know it.
    Settled,
    /// It had one that was never proven here: it is answered, and what is left of that one closed.
    Answer(Option<W>),
    /// The same, where the link is one of the session's by now.
    AnswerFor(LinkId),
}

impl Floor {
    /// The session has the link of a handshake.
    pub const fn new(found: Option<&Found>) -> Self {
        Self { kind: kind(found), state: State::There, lost: None, offered: false, direct: false }
    }

    /// When a link has waited long enough.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Said(Some(waiting)) | State::Met(waiting) => Some(waiting.until),
            State::Joining { until, .. } => *until,
            State::Said(None) | State::There | State::Looking { .. } => None,
        }
    }

    fn waiting_on(&mut self, conn: Conn) -> Option<&mut Waiting> {
        match &mut self.state {
            State::Said(Some(waiting)) | State::Met(waiting) => Some(waiting).filter(|it| it.link.conn() == conn),
            State::Said(None) | State::There | State::Looking { .. } | State::Joining { .. } => None,
        }
    }
}

impl<W> Floor<W> {
    /// Where it runs, or ran.
    pub const fn kind(&self) -> PathKind {
        self.kind
    }

    /// Whether a link that is met now is to become the floor.
    pub const fn is_wanted(&self) -> bool {
        match self.state {
            State::There => false,
            State::Said(_) | State::Looking { .. } | State::Met(_) | State::Joining { .. } => true,
        }
    }

    /// The other side takes part in the present round.
    pub const fn handle_offer(&mut self) {
        self.offered = true;
    }

    /// A direct link has proven itself.
    pub const fn handle_direct(&mut self) {
        self.direct = true;
    }

    /// A link that is not direct is gone, and others remain.
    pub fn lose(&mut self, id: LinkId) -> Loss {
        match self.state {
            State::There => {
                (self.state, self.lost) = (State::Said(None), Some(id));
                Loss::Floor
            }
            State::Joining { id: joining, .. } if joining == id => {
                self.state = State::Looking { met: true };
                Loss::Attempt
            }
            State::Said(_) | State::Looking { .. } | State::Met(_) | State::Joining { .. } => Loss::Other,
        }
    }

    fn hear(&mut self) -> Heard<W> {
        // Else it was said in an earlier generation.
        if !self.offered || !self.direct {
            return Heard::Nothing;
        }
        let (state, heard) = match std::mem::replace(&mut self.state, State::There) {
            State::There => (State::There, Heard::Lose),
            State::Said(Some(waiting)) => (State::Met(waiting), Heard::Settled),
            State::Said(None) => (State::Looking { met: false }, Heard::Settled),
            State::Looking { met: false } => (State::Looking { met: false }, Heard::Nothing),
            State::Looking { met: true } => (State::Looking { met: false }, Heard::Answer(None)),
            State::Met(waiting) => (State::Looking { met: false }, Heard::Answer(Some(waiting))),
            State::Joining { id, found, until } => (State::Joining { id, found, until }, Heard::AnswerFor(id)),
        };
        self.state = state;
        heard
    }

    /// The last direct link is gone: what proves itself now has to be quick about it.
    pub fn hurry(&mut self, now: Instant) {
        if let State::Joining { until, .. } = &mut self.state {
            *until = Some(now + PROOF_WITHIN);
        }
    }

    /// Both know of all links that were met.
    fn settle(&mut self) {
        if let State::Looking { met } = &mut self.state {
            *met = false;
        }
    }

    /// A link of the session has proven itself. True: it is the floor.
    fn prove(&mut self, id: LinkId) -> bool {
        let State::Joining { id: joining, found, until: _ } = &self.state else { return false };
        let is_it = *joining == id;
        if is_it {
            (self.kind, self.state) = (kind(Some(found)), State::There);
        }
        is_it
    }

    /// What waits is of use no more, or for something else.
    fn take(&mut self) -> Option<W> {
        match std::mem::replace(&mut self.state, State::Looking { met: true }) {
            State::Said(waiting) => {
                self.state = State::Said(None);
                waiting
            }
            State::Met(waiting) => Some(waiting),
            state @ (State::There | State::Looking { .. } | State::Joining { .. }) => {
                self.state = state;
                None
            }
        }
    }
}

const fn kind(found: Option<&Found>) -> PathKind {
    match found {
        Some(Found::Near) | None => PathKind::Lan,
        Some(Found::Relay(_)) => PathKind::Relay,
    }
}

/// Whether it is a message of a handshake, and not a record of a session that lives.
pub(super) fn is_handshake(frame: &Frame) -> bool {
    decode::<HandshakeMessage>(&frame.clone().into_bytes()).is_ok()
}

impl Peer {
    /// The other side says that the floor is lost.
    pub(super) fn handle_floor_lost(&mut self, now: Instant) {
        match self.floor.hear() {
            Heard::Nothing => {}
            Heard::Lose => {
                let Stage::Live { links, .. } = &self.stage else { return };
                if let Some(id) = links.floor().map(PeerLink::id) {
                    self.lose(now, id);
                }
                if matches!(self.stage, Stage::Live { .. }) && self.floor.is_wanted() {
                    self.handle_floor_lost(now);
                }
            }
            Heard::Settled => {
                if let Some(id) = self.floor.lost.take()
                    && self.side == Side::Sender
                {
                    self.transfer.handle_link_dropped(now, id);
                }
                self.look_beside(now);
            }
            Heard::Answer(waiting) => {
                self.direct.say_floor_lost();
                if let Some(waiting) = waiting {
                    self.dismiss(now, &waiting);
                }
            }
            Heard::AnswerFor(id) => {
                self.direct.say_floor_lost();
                self.lose(now, id);
                self.floor.settle();
            }
        }
    }

    fn look_beside(&mut self, now: Instant) {
        if let (Reunion::Known(lasting), Some(meeting)) = (&self.reunion, &mut self.meeting) {
            meeting.look_beside(now, &mut self.net, lasting.question(self.side));
        }
    }

    /// An attempt came to nothing.
    pub(super) fn look_beside_later(&mut self, now: Instant) {
        if let Some(meeting) = &mut self.meeting {
            meeting.again_later(now);
        }
    }

    fn dismiss(&mut self, now: Instant, waiting: &Waiting) {
        waiting.link.close(now, &mut self.net, close::ENDED, "not needed");
        self.look_beside_later(now);
    }

    /// A link with the other side, beside a living one.
    pub(super) fn meet_beside(&mut self, now: Instant, link: PeerLink, found: Found) {
        // Who comes again has lost the link with which it came before.
        match &self.floor.state {
            State::Joining { id, .. } => {
                let id = *id;
                self.lose(now, id);
            }
            State::Said(_) | State::Met(_) => self.forget_met(now),
            State::There | State::Looking { .. } => {}
        }
        if !matches!(self.stage, Stage::Live { .. }) {
            return self.met(now, link, found);
        }
        let waiting = Waiting { link, found, until: now + HOLD, first: None };
        self.floor.state = match &self.floor.state {
            State::Said(_) => State::Said(Some(waiting)),
            State::There | State::Looking { .. } | State::Met(_) | State::Joining { .. } => State::Met(waiting),
        };
        self.hear_met(now);
    }

    /// A link that was met speaks, or this side does. True when something moved that others wait for.
    pub(super) fn hear_met(&mut self, now: Instant) -> bool {
        let State::Met(waiting) = &mut self.floor.state else { return false };
        let (origin, first) = match self.side {
            Side::Sender => (Origin::Dialled(Pace::Floor), None),
            // What follows is for later, and is not read before.
            Side::Receiver if waiting.first.is_some() => return false,
            Side::Receiver => match waiting.link.next_main_frame(&mut self.net) {
                Ok(Some(frame)) if !is_handshake(&frame) => (Origin::Accepted(Pace::Floor), Some(frame)),
                Ok(first @ Some(_)) => {
                    waiting.first = first;
                    return false;
                }
                Ok(None) if !waiting.link.has_ended() => return false,
                Ok(None) | Err(_) => {
                    self.forget_met(now);
                    self.look_beside_later(now);
                    return true;
                }
            },
        };
        let Some(Waiting { mut link, found, .. }) = self.floor.take() else { return false };
        let id = self.next_link();
        let Stage::Live { links, session } = &mut self.stage else {
            link.close(now, &mut self.net, close::ENDED, "not needed");
            return false;
        };
        let (early, streams) = (link.set_keyed(id), link.max_streams());
        links.add(link);
        self.floor.state = State::Joining { id, found, until: None };
        session.handle_link_up(now, id, streams, origin);
        if let Some(frame) = first {
            session.handle_record(now, id, StreamNo::CONTROL, frame);
        }
        for stream in early {
            self.read_stream(now, id, stream);
        }
        true
    }

    /// News of a link that waits. False: it is another one's.
    pub(super) fn handle_met(&mut self, now: Instant, conn: Conn, event: &net::Event) -> bool {
        let Some(waiting) = self.floor.waiting_on(conn) else { return false };
        match event {
            net::Event::Opened(stream, Direction::Uni) => waiting.link.handle_opened(*stream),
            net::Event::Closed(failure) => self.lose_met(now, *failure),
            net::Event::Opened(..)
            | net::Event::Readable(_)
            | net::Event::Writable(_)
            | net::Event::Finished(_)
            | net::Event::Connected { .. }
            | net::Event::Restarted { .. } => {}
        }
        true
    }

    fn lose_met(&mut self, now: Instant, failure: Failure) {
        self.leave_relay(now, failure);
        self.forget_met(now);
        self.look_beside_later(now);
    }

    fn forget_met(&mut self, now: Instant) {
        if let Some(waiting) = self.floor.take() {
            waiting.link.close(now, &mut self.net, close::ENDED, "not needed");
        }
    }

    /// A link has waited long enough, or the last one did not prove itself in time.
    pub(super) fn handle_floor_timeout(&mut self, now: Instant) {
        if self.floor.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        if let State::Joining { id, .. } = &self.floor.state {
            let id = *id;
            return self.lose(now, id);
        }
        self.forget_met(now);
        self.look_beside_later(now);
    }

    /// A link that is not direct has proven that it is the session's.
    pub(super) fn prove_floor(&mut self, id: LinkId) {
        if self.floor.prove(id)
            && let Stage::Live { links, .. } = &mut self.stage
        {
            links.set_floor(id);
            if let Some(link) = links.get(id) {
                self.net.widen(link.conn());
            }
        }
    }

    /// The session has no link any more. On one that waits the sender has begun a handshake, or this side may.
    pub(super) fn take_up_met(&mut self, now: Instant, waiting: Waiting) {
        self.met(now, waiting.link, waiting.found);
        if let (Stage::Handshaking { handshake, .. }, Some(first)) = (&mut self.stage, waiting.first) {
            handshake.handle_frame(now, first.into_bytes());
        }
    }

    /// Nothing of a floor is needed any more.
    pub(super) fn stop_floor(&mut self, now: Instant) {
        self.forget_met(now);
    }

    /// The session has no link: what is known of a floor is void, and a link that waits may be of use.
    pub(super) fn leave_floor(&mut self) -> Option<Waiting> {
        let waiting = self.floor.take();
        self.floor = Floor::new(self.found.as_ref());
        waiting
    }
}

#[cfg(test)]
#[path = "floor_tests.rs"]
mod tests;
