//! The relay path: the link over a relay to which a session falls back, and its replacement when it is lost while a
//! direct link is alive.
//!
//! ```text
//!         lost here: DirectFailed(0) sent      received           connected       Bind sent or received       proven
//! Up ─────────────────────────► LossSent ─────────► Reconnecting ─────► Pending ───────────► Validating ───────► Up
//!  └──received: lost here too, sent────────────────────► ▲                 │ lost, took too long │ lost
//!                                                         └────────────────┴─────────────────────┘
//! ```
//! The first relay path is the link of the handshake. When it is lost and a direct link remains, both sides send
//! `DirectFailed` of round 0, each once. Both then treat the records in flight on that link as lost. A side that has
//! sent *and* received the message searches for the other one in the session's reconnect room, as after the loss of
//! its last link (`connection`), but without events, and the search never ends the transfer. So a `DirectFailed(0)`
//! always refers to the current relay path: neither side replaces it while such a message is in flight. A message of
//! an earlier generation is recognised because it arrives before this generation's offer, or before any direct link
//! is authenticated.
//!
//! On a link from that room the sender sends first: H1 if its session has no link, `Bind` if it has one; the receiver
//! reacts to either. If the two sides differ, one of them has not yet noticed that its direct link is dead, which
//! takes it 1.6 s. A receiver that still has a link keeps the new link with its H1 until it has none; a receiver that
//! has no link closes the new one, and both search again. Until the link is authenticated it is used for nothing
//! else, and an error on it ends only this attempt.
//!
//! Timers: those of the rendezvous; [`HOLD`] for a pending link; those of the session for the authentication, and
//! [`PROOF_WITHIN`] once it is the last link. Bounds: one pending link at a time.

use std::time::Duration;

use super::super::event::PathKind;
use super::super::network::{self, ConnectionId, Network};
use super::super::peer_link::PeerLink;
use super::super::rendezvous::Via;
use super::probe::PROOF_WITHIN;
use super::{Output, Paths, State as PathsState, close};
use crate::Instant;
use crate::link::quic::Direction;
use crate::session::{LinkId, Origin, Pace, SILENCE};
use crate::wire::peer::HandshakeMessage;
use crate::wire::relay::Role;
use crate::wire::{Frame, decode};

/// How long a pending link waits for the sender's first message, or until the session has lost its last link.
const HOLD: Duration = SILENCE;

/// The state of the relay path. `W`: a pending link.
#[derive(Debug)]
pub(super) struct RelayPath<W = Waiting> {
    kind: PathKind,
    state: State<W>,
    /// The relay path that was lost last, while the other side may not know it yet.
    lost: Option<LinkId>,
    /// The other side takes part in the current round of this generation.
    offered: bool,
    /// A direct link of this generation was authenticated.
    direct: bool,
}

#[derive(Debug)]
enum State<W> {
    Up,
    /// It is lost here. The relay inside a sender may admit the receiver before the receiver's message arrives here.
    LossSent(Option<W>),
    /// `met`: a link was established since, and the other side may have taken it for the relay path.
    Reconnecting {
        met: bool,
    },
    Pending(W),
    /// `until`: the deadline of the authentication, once no other link is left.
    Validating {
        id: LinkId,
        via: Via,
        until: Option<Instant>,
    },
}

/// A link with the other side that was established while the session has another one.
#[derive(Debug)]
pub(in super::super) struct Waiting {
    pub link: PeerLink,
    pub via: Via,
    pub until: Instant,
    /// The first message of a sender that has no other link.
    pub first: Option<Frame>,
}

/// The meaning of the loss of a link that is not direct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The relay path is lost; the other side has to be notified.
    RelayPath,
    /// An attempt to replace the relay path failed.
    Attempt,
    /// The link was not the relay path.
    Other,
}

/// What follows when the other side reports that its relay path is lost.
#[derive(Debug, PartialEq, Eq)]
enum Received<W> {
    /// Nothing: the message belongs to an earlier generation, or to no relay path.
    Nothing,
    /// The relay path is lost here too, and the message has to be processed once more.
    Lose,
    /// Both sides know of the loss.
    Settled,
    /// The other side lost a link that was never authenticated here: send the answer, and close the rest of that
    /// link.
    Answer(Option<W>),
    /// As [`Self::Answer`], but the link already belongs to the session.
    AnswerFor(LinkId),
}

impl RelayPath {
    /// The state after the handshake, whose link is the relay path.
    pub const fn new(via: &Via) -> Self {
        Self::of_kind(kind(via))
    }

    const fn of_kind(kind: PathKind) -> Self {
        Self { kind, state: State::Up, lost: None, offered: false, direct: false }
    }

    /// The deadline of a pending link.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::LossSent(Some(waiting)) | State::Pending(waiting) => Some(waiting.until),
            State::Validating { until, .. } => *until,
            State::LossSent(None) | State::Up | State::Reconnecting { .. } => None,
        }
    }

    fn waiting_on(&mut self, conn: ConnectionId) -> Option<&mut Waiting> {
        match &mut self.state {
            State::LossSent(Some(waiting)) | State::Pending(waiting) => {
                Some(waiting).filter(|it| it.link.conn() == conn)
            }
            State::LossSent(None) | State::Up | State::Reconnecting { .. } | State::Validating { .. } => None,
        }
    }
}

impl<W> RelayPath<W> {
    /// Where the relay path leads, or led before it was lost.
    pub const fn kind(&self) -> PathKind {
        self.kind
    }

    /// Whether a link that is established now becomes the relay path.
    pub const fn is_wanted(&self) -> bool {
        match self.state {
            State::Up => false,
            State::LossSent(_) | State::Reconnecting { .. } | State::Pending(_) | State::Validating { .. } => true,
        }
    }

    /// The other side takes part in the current round.
    pub const fn handle_offer(&mut self) {
        self.offered = true;
    }

    /// A direct link was authenticated.
    pub const fn handle_direct(&mut self) {
        self.direct = true;
    }

    /// A link that is not direct was lost, and others remain.
    pub fn lose(&mut self, id: LinkId) -> Loss {
        match self.state {
            State::Up => {
                (self.state, self.lost) = (State::LossSent(None), Some(id));
                Loss::RelayPath
            }
            State::Validating { id: joining, .. } if joining == id => {
                self.state = State::Reconnecting { met: true };
                Loss::Attempt
            }
            State::LossSent(_) | State::Reconnecting { .. } | State::Pending(_) | State::Validating { .. } => {
                Loss::Other
            }
        }
    }

    fn handle_loss(&mut self) -> Received<W> {
        // If either is missing, the message belongs to an earlier generation.
        if !self.offered || !self.direct {
            return Received::Nothing;
        }
        let (state, heard) = match std::mem::replace(&mut self.state, State::Up) {
            State::Up => (State::Up, Received::Lose),
            State::LossSent(Some(waiting)) => (State::Pending(waiting), Received::Settled),
            State::LossSent(None) => (State::Reconnecting { met: false }, Received::Settled),
            State::Reconnecting { met: false } => (State::Reconnecting { met: false }, Received::Nothing),
            State::Reconnecting { met: true } => (State::Reconnecting { met: false }, Received::Answer(None)),
            State::Pending(waiting) => (State::Reconnecting { met: false }, Received::Answer(Some(waiting))),
            State::Validating { id, via, until } => (State::Validating { id, via, until }, Received::AnswerFor(id)),
        };
        self.state = state;
        heard
    }

    /// The last direct link is lost: a link that is being authenticated has less time from now on.
    pub fn hurry(&mut self, now: Instant) {
        if let State::Validating { until, .. } = &mut self.state {
            *until = Some(now + PROOF_WITHIN);
        }
    }

    /// Both sides know of all links that were established.
    fn settle(&mut self) {
        if let State::Reconnecting { met } = &mut self.state {
            *met = false;
        }
    }

    /// A link of the session was authenticated. Returns true if it is the relay path now.
    fn prove(&mut self, id: LinkId) -> bool {
        let State::Validating { id: joining, via, until: _ } = &self.state else { return false };
        let is_it = *joining == id;
        if is_it {
            (self.kind, self.state) = (kind(via), State::Up);
        }
        is_it
    }

    /// Returns the pending link, which is not needed any more or is used otherwise.
    fn take(&mut self) -> Option<W> {
        match std::mem::replace(&mut self.state, State::Reconnecting { met: true }) {
            State::LossSent(waiting) => {
                self.state = State::LossSent(None);
                waiting
            }
            State::Pending(waiting) => Some(waiting),
            state @ (State::Up | State::Reconnecting { .. } | State::Validating { .. }) => {
                self.state = state;
                None
            }
        }
    }
}

const fn kind(via: &Via) -> PathKind {
    match via {
        Via::Near => PathKind::Lan,
        Via::Relay(_) => PathKind::Relay,
    }
}

/// Whether the frame is a handshake message rather than a record of a living session.
pub(in super::super) fn is_handshake(frame: &Frame) -> bool {
    decode::<HandshakeMessage>(&frame.clone().into_bytes()).is_ok()
}

impl Paths {
    /// The other side reports that its relay path is lost.
    pub(super) fn handle_relay_path_lost(&mut self, now: Instant, net: &mut Network) {
        // If only this message made the path count as lost here, the same message is evaluated once more.
        for _ in 0..2 {
            match self.relay.handle_loss() {
                Received::Nothing => {}
                Received::Lose => {
                    let PathsState::Up(links) = &self.state else { return };
                    if let Some(id) = links.relay().map(PeerLink::id) {
                        self.lose(now, net, id);
                    }
                    if matches!(self.state, PathsState::Up(_)) && self.relay.is_wanted() {
                        continue;
                    }
                }
                Received::Settled => {
                    if let Some(id) = self.relay.lost.take()
                        && self.role == Role::Sender
                    {
                        self.out.push_back(Output::Resend(id));
                    }
                    self.out.push_back(Output::LookBeside);
                }
                Received::Answer(waiting) => {
                    self.direct.send_relay_path_lost();
                    if let Some(waiting) = waiting {
                        waiting.link.close(now, net, close::ENDED, "not needed");
                        self.out.push_back(Output::LookLater);
                    }
                }
                Received::AnswerFor(id) => {
                    self.direct.send_relay_path_lost();
                    self.lose(now, net, id);
                    self.relay.settle();
                }
            }
            return;
        }
    }

    /// Another link with the other side, while the session has one. The first message on it decides whether it
    /// becomes the relay path. `replaces`: the old links are dead; only a receiver that knows this gets admitted.
    pub(in super::super) fn handle_connected(
        &mut self,
        now: Instant,
        net: &mut Network,
        link: PeerLink,
        via: Via,
        replaces: bool,
    ) {
        let waiting = Waiting { link, via, until: now + HOLD, first: None };
        if !self.relay.is_wanted() {
            if replaces {
                self.lose_all(now, net, waiting);
            } else {
                waiting.link.close(now, net, close::ENDED, "not needed");
            }
            return;
        }
        // A side that connects again has lost the link that it used before.
        match &self.relay.state {
            State::Validating { id, .. } => {
                let id = *id;
                if self.is_last(id) {
                    return self.replace(now, net, id, waiting);
                }
                self.lose(now, net, id);
            }
            State::LossSent(_) | State::Pending(_) => self.forget_pending(now, net),
            State::Up | State::Reconnecting { .. } => {}
        }
        self.relay.state = match &self.relay.state {
            State::LossSent(_) => State::LossSent(Some(waiting)),
            State::Up | State::Reconnecting { .. } | State::Pending(_) | State::Validating { .. } => {
                State::Pending(waiting)
            }
        };
        self.read_pending(now, net);
    }

    /// Reads the first message of the other side on the pending link, or sends this side's. Returns true when
    /// something moved for which another part waits.
    pub(in super::super) fn read_pending(&mut self, now: Instant, net: &mut Network) -> bool {
        let State::Pending(waiting) = &mut self.relay.state else { return false };
        let (origin, first) = match self.role {
            Role::Sender => (Origin::Dialled(Pace::Relay), None),
            // Later messages are not read yet.
            Role::Receiver if waiting.first.is_some() => return false,
            Role::Receiver => match waiting.link.next_main_frame(net) {
                Ok(Some(frame)) if !is_handshake(&frame) => (Origin::Accepted(Pace::Relay), Some(frame)),
                Ok(first @ Some(_)) => {
                    waiting.first = first;
                    return false;
                }
                Ok(None) if !waiting.link.has_ended() => return false,
                Ok(None) | Err(_) => {
                    self.forget_pending(now, net);
                    self.out.push_back(Output::LookLater);
                    return true;
                }
            },
        };
        let Some(Waiting { mut link, via, .. }) = self.relay.take() else { return false };
        let id = self.next_id();
        let PathsState::Up(links) = &mut self.state else {
            link.close(now, net, close::ENDED, "not needed");
            return false;
        };
        let (early, streams) = (link.set_keyed(id), link.max_streams());
        links.add(link, None);
        self.relay.state = State::Validating { id, via, until: None };
        self.out.push_back(Output::LinkUp { link: id, streams, origin });
        self.out.extend(first.map(|frame| Output::Record(id, frame)));
        self.readable.extend(early.into_iter().map(|stream| (id, stream)));
        true
    }

    /// Whether this connection is a pending link.
    pub(in super::super) fn is_pending(&mut self, conn: ConnectionId) -> bool {
        self.relay.waiting_on(conn).is_some()
    }

    /// An event of a pending link.
    pub(super) fn handle_pending(
        &mut self,
        now: Instant,
        net: &mut Network,
        conn: ConnectionId,
        event: &network::Event,
    ) {
        let Some(waiting) = self.relay.waiting_on(conn) else { return };
        match event {
            network::Event::Opened(stream, Direction::Uni) => waiting.link.handle_opened(*stream),
            network::Event::Closed(_) => {
                self.forget_pending(now, net);
                self.out.push_back(Output::LookLater);
            }
            network::Event::Opened(..)
            | network::Event::Readable(_)
            | network::Event::Writable(_)
            | network::Event::Finished(_)
            | network::Event::Connected { .. }
            | network::Event::Restarted { .. }
            | network::Event::Available(_)
            | network::Event::Stopped(..) => {}
        }
    }

    pub(super) fn forget_pending(&mut self, now: Instant, net: &mut Network) {
        if let Some(waiting) = self.relay.take() {
            waiting.link.close(now, net, close::ENDED, "not needed");
        }
    }

    /// The pending link has reached its deadline, or the last link was not authenticated in time.
    pub(super) fn handle_relay_path_timeout(&mut self, now: Instant, net: &mut Network) {
        if self.relay.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        if let State::Validating { id, .. } = &self.relay.state {
            let id = *id;
            return self.lose(now, net, id);
        }
        self.forget_pending(now, net);
        self.out.push_back(Output::LookLater);
    }

    /// A link that is not direct was authenticated as the session's.
    pub(super) fn prove_relay_path(&mut self, net: &mut Network, id: LinkId) {
        if self.relay.prove(id)
            && let PathsState::Up(links) = &mut self.state
        {
            links.set_relay(id);
            if let Some(link) = links.get(id) {
                net.widen(link.peer.conn());
            }
        }
    }

    /// The session has no link: resets the state of the relay path and returns a pending link, which may be used.
    pub(super) fn leave_relay_path(&mut self) -> Option<Waiting> {
        let waiting = self.relay.take();
        self.relay = RelayPath::of_kind(self.relay.kind);
        waiting
    }
}

#[cfg(test)]
mod tests;
