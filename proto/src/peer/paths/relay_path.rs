//! The relay path: the link by way of a relay that a session falls back to, and its replacement when it is lost while a
//! direct link lives.
//!
//! ```text
//!         lost here: DirectFailed(0) sent      received           connected       Bind sent or received       proven
//! Up ─────────────────────────► LossSent ─────────► Reconnecting ─────► Pending ───────────► Validating ───────► Up
//!  └──received: lost here too, sent────────────────────► ▲                 │ lost, took too long │ lost
//!                                                         └────────────────┴─────────────────────┘
//! ```
//! The first relay path is the link of the handshake. When it is lost and a direct link remains, both sides send
//! `DirectFailed` of round 0, each once. Both then treat the records in flight on that link as lost. A side that has
//! sent *and* received the message looks for the other one in the session's reconnect room, as after the loss of its
//! last link (`connection`), but without events, and no search ends the transfer. So a `DirectFailed(0)` always refers
//! to the current relay path: neither side replaces it while such a message is in flight. A message of an earlier
//! generation is recognised because it arrives before this generation's offer, or before any direct link has proven
//! itself.
//!
//! On a link from that room the sender speaks first: H1 where its session has no link, `Bind` where it has one; the
//! receiver does what fits both. Where they differ, one of them has not noticed yet that its direct link is dead, which
//! takes it 1.6 s. A receiver that believes that it has one keeps the link with its H1 until it has none; a receiver
//! that has none closes the link, and both search again. Until the proof the link carries nothing else, and what goes
//! wrong on it ends nothing but this attempt.
//!
//! Timers: the rendezvous'; [`HOLD`] for a pending link; the session's for the proof, and [`PROOF_WITHIN`] once it is
//! the last link. Bounds: one pending link at a time.

use std::time::Duration;

use super::super::event::PathKind;
use super::super::net::{self, ConnectionId, Net};
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

/// How long a pending link waits for what the sender says, or for the session to have lost its last link.
const HOLD: Duration = SILENCE;

/// See the module's text. `W`: a link that waits.
#[derive(Debug)]
pub(super) struct RelayPath<W = Waiting> {
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
    Up,
    /// Lost here. The relay inside a sender may let the receiver in before its message is here.
    LossSent(Option<W>),
    /// `met`: a link came since, and the other side may have taken it for the relay path.
    Reconnecting {
        met: bool,
    },
    Pending(W),
    /// `until`: its deadline, once no other link is left.
    Validating {
        id: LinkId,
        via: Via,
        until: Option<Instant>,
    },
}

/// A link with the other side that came while the session has another one.
#[derive(Debug)]
pub(in super::super) struct Waiting {
    pub link: PeerLink,
    pub via: Via,
    pub until: Instant,
    /// The first message of a sender that has no other link.
    pub first: Option<Frame>,
}

/// What the loss of a link that is not direct means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// It is to be said.
    RelayPath,
    /// An attempt to get one came to nothing.
    Attempt,
    /// It was none.
    Other,
}

/// What follows when the other side says that its relay path is lost.
#[derive(Debug, PartialEq, Eq)]
enum Received<W> {
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

impl RelayPath {
    /// The session has the link of a handshake.
    pub const fn new(via: &Via) -> Self {
        Self::of_kind(kind(via))
    }

    const fn of_kind(kind: PathKind) -> Self {
        Self { kind, state: State::Up, lost: None, offered: false, direct: false }
    }

    /// When a link has waited long enough.
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
    /// Where it runs, or ran.
    pub const fn kind(&self) -> PathKind {
        self.kind
    }

    /// Whether a link that comes now is to become the relay path.
    pub const fn is_wanted(&self) -> bool {
        match self.state {
            State::Up => false,
            State::LossSent(_) | State::Reconnecting { .. } | State::Pending(_) | State::Validating { .. } => true,
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
        // Else it was said in an earlier generation.
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

    /// The last direct link is gone: what proves itself now has to be quick about it.
    pub fn hurry(&mut self, now: Instant) {
        if let State::Validating { until, .. } = &mut self.state {
            *until = Some(now + PROOF_WITHIN);
        }
    }

    /// Both know of all links that were met.
    fn settle(&mut self) {
        if let State::Reconnecting { met } = &mut self.state {
            *met = false;
        }
    }

    /// A link of the session has proven itself. True: it is the relay path now.
    fn prove(&mut self, id: LinkId) -> bool {
        let State::Validating { id: joining, via, until: _ } = &self.state else { return false };
        let is_it = *joining == id;
        if is_it {
            (self.kind, self.state) = (kind(via), State::Up);
        }
        is_it
    }

    /// What waits is of use no more, or for something else.
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

/// Whether it is a message of a handshake, and not a record of a session that lives.
pub(in super::super) fn is_handshake(frame: &Frame) -> bool {
    decode::<HandshakeMessage>(&frame.clone().into_bytes()).is_ok()
}

impl Paths {
    /// The other side says that its relay path is lost.
    pub(super) fn handle_relay_path_lost(&mut self, now: Instant, net: &mut Net) {
        // Where it was lost here only by this message, the same message is judged once more.
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

    /// Another link with the other side, while the session has one. Whether it becomes the relay path is decided by
    /// what comes on it. `replaces`: only a receiver that knows that the old links are dead gets here.
    pub(in super::super) fn handle_connected(
        &mut self,
        now: Instant,
        net: &mut Net,
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
        // A side that comes again has lost the link with which it came before.
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

    /// The other side speaks on the pending link, or this side does. True when something moved that others wait for.
    pub(in super::super) fn read_pending(&mut self, now: Instant, net: &mut Net) -> bool {
        let State::Pending(waiting) = &mut self.relay.state else { return false };
        let (origin, first) = match self.role {
            Role::Sender => (Origin::Dialled(Pace::Relay), None),
            // What follows is for later, and is not read before.
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

    /// Whether this connection is a link that waits.
    pub(in super::super) fn is_pending(&mut self, conn: ConnectionId) -> bool {
        self.relay.waiting_on(conn).is_some()
    }

    /// An event of a link that waits.
    pub(super) fn handle_pending(&mut self, now: Instant, net: &mut Net, conn: ConnectionId, event: &net::Event) {
        let Some(waiting) = self.relay.waiting_on(conn) else { return };
        match event {
            net::Event::Opened(stream, Direction::Uni) => waiting.link.handle_opened(*stream),
            net::Event::Closed(_) => {
                self.forget_pending(now, net);
                self.out.push_back(Output::LookLater);
            }
            net::Event::Opened(..)
            | net::Event::Readable(_)
            | net::Event::Writable(_)
            | net::Event::Finished(_)
            | net::Event::Connected { .. }
            | net::Event::Restarted { .. }
            | net::Event::Available(_)
            | net::Event::Stopped(..) => {}
        }
    }

    pub(super) fn forget_pending(&mut self, now: Instant, net: &mut Net) {
        if let Some(waiting) = self.relay.take() {
            waiting.link.close(now, net, close::ENDED, "not needed");
        }
    }

    /// A link has waited long enough, or the last one did not prove itself in time.
    pub(super) fn handle_relay_path_timeout(&mut self, now: Instant, net: &mut Net) {
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

    /// A link that is not direct has proven that it is the session's.
    pub(super) fn prove_relay_path(&mut self, net: &mut Net, id: LinkId) {
        if self.relay.prove(id)
            && let PathsState::Up(links) = &mut self.state
        {
            links.set_relay(id);
            if let Some(link) = links.get(id) {
                net.widen(link.peer.conn());
            }
        }
    }

    /// The session has no link: what is known of a relay path is void, and a link that waits may be of use.
    pub(super) fn leave_relay_path(&mut self) -> Option<Waiting> {
        let waiting = self.relay.take();
        self.relay = RelayPath::of_kind(self.relay.kind);
        waiting
    }
}

#[cfg(test)]
mod tests;
