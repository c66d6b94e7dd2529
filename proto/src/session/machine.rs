//! The session: which links are alive, which link is used for control, and what a protocol violation ends.
//!
//! ```text
//!            handle_link_up                 lost, silent, stalled, violation on a later link
//!   Alive { links: 0 ─────────────▶ 1 ..= MAX_LINKS ─────────────▶ fewer, down to 0 }
//!     │ ▲                                                                        │
//!     │ └── handle_generation: new keys, no links, control sequence continues ◀──┘
//!     └── a violation on the handshake's link ─▶ Failed(Violation): ignores input, can still send the reason
//! ```
//! Control uses one link at a time: the first proven one, until it ends or [`Session::use_link`] selects another. The
//! receiver follows the sender: it moves control to the link on which the sender's `Sync` arrives. On each new control
//! link this side sends `Sync` and then resends all unacknowledged messages.
//!
//! Order of calls: `handle_*`, then [`Session::poll_event`] until it gives none, then [`Session::poll_control_record`]
//! for each link whose first stream can take more. One `handle_*` causes at most one event per link and two more, so a
//! drained queue of events is bounded by [`MAX_LINKS`].
//!
//! Timers are those of the links (`link.rs`). Bounds: [`MAX_LINKS`] links, of which [`KEPT`] are reserved for links
//! that this side dialled and for fallback links; the queues of `reliable.rs`.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rand_core::Rng;

use super::lanes::{Accepted, Opening, Sealing};
use super::link::{Link, Pace};
use super::record::plain_control;
use super::reliable::{Class, Reliable};
use super::{Limits, LinkId, Origin, Prepared, SealedChunk, StreamNo, Unsent, Verdict};
use crate::Instant;
use crate::handshake::Keys;
use crate::seed::Seed;
use crate::wire::Violation;
use crate::wire::peer::{Control, ControlRecord};
use crate::wire::relay::Role;
use crate::wire::{BoundedVec, Frame, decode};

/// Maximum number of links of a session at a time.
pub const MAX_LINKS: usize = 16;
/// How many of these are reserved: accepted direct links cannot take them, because any host can open a direct
/// connection.
const KEPT: usize = 6;

/// The configuration of a session, beside its keys.
#[derive(Debug, Clone)]
pub struct Config {
    /// The role of this peer.
    pub role: Role,
    /// When a stream changes to a fresh lane.
    pub limits: Limits,
}

impl Config {
    /// A configuration with the limits of the protocol.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self { role, limits: Limits::default() }
    }
}

/// What a session reports to its owner.
#[derive(Debug)]
pub enum Event {
    /// A message of the peer. Each one is reported once and in order, but an `Ack` may be lost.
    Control(Control),
    /// A chunk record, to be decrypted in a job. The owner passes the job's verdict to [`Session::handle_verdict`].
    Chunk(SealedChunk),
    /// The link is proven: chunks may be sealed for it.
    LinkUsable(LinkId),
    /// Control uses this link from now on. Losable messages may have been lost and should be sent again.
    ControlMoved(LinkId),
    /// This link has ended, and every unacknowledged chunk that was sealed for it is lost. The owner must close it.
    LinkDead {
        /// The link that ended.
        link: LinkId,
        /// The reason.
        why: LinkEnd,
    },
    /// The session has failed, with all its links. No other event follows.
    Failed(Violation),
}

/// Why a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkEnd {
    /// The owner reported that the transport was lost.
    #[error("connection lost")]
    Lost,
    /// Nothing was received for [`super::SILENCE`], or for `DIRECT_SILENCE` on a direct link.
    #[error("nothing was received")]
    Silent,
    /// A lane made no progress for `LANE_STALL`.
    #[error("a stream made no progress")]
    Stalled,
    /// The link did not prove in time that it belongs to the session.
    #[error("no proof in time")]
    Unproven,
    /// The peer, or an attacker, broke a rule of the protocol on it.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// All lane ids of this generation are used up.
    #[error("record keys are used up")]
    LanesUsedUp,
    /// The session has new keys, and the link belonged to the old ones.
    #[error("replaced by a new connection")]
    NewGeneration,
    /// The session has [`MAX_LINKS`] links already, or a link with this id.
    #[error("too many connections")]
    NoRoom,
}

/// One peer's end of a session.
#[derive(Debug)]
pub struct Session {
    alive: Box<Alive>,
    /// The violation that ended the session: it ignores all further input, but can still send the reason.
    failure: Option<Violation>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Alive {
    config: Config,
    seed: Seed,
    sealing: Sealing,
    opening: Opening,
    reliable: Reliable,
    links: BTreeMap<LinkId, Link>,
    control: Option<LinkId>,
    /// `Sync` is to be the next record on the control link.
    send_sync: bool,
    reading: bool,
}

impl Session {
    /// A session without links. The owner adds the link of the handshake with [`Self::handle_link_up`].
    #[must_use]
    pub fn new(config: Config, keys: &Keys, seed: Seed) -> Self {
        let alive = Alive {
            sealing: Sealing::new(keys.send.clone(), keys.suite, config.limits),
            opening: Opening::new(keys.receive.clone(), keys.suite),
            config,
            seed,
            reliable: Reliable::default(),
            links: BTreeMap::new(),
            control: None,
            send_sync: false,
            reading: true,
        };
        Self { alive: Box::new(alive), failure: None, events: VecDeque::new() }
    }

    /// The peers reconnected with new keys: the session erases the old keys, ends all links and continues the control
    /// sequence.
    pub fn handle_generation(&mut self, keys: &Keys) {
        if self.failure.is_some() {
            return;
        }
        let alive = &mut self.alive;
        for link in std::mem::take(&mut alive.links).into_keys() {
            self.events.push_back(Event::LinkDead { link, why: LinkEnd::NewGeneration });
        }
        alive.control = None;
        alive.sealing = Sealing::new(keys.send.clone(), keys.suite, alive.config.limits);
        alive.opening = Opening::new(keys.receive.clone(), keys.suite);
        self.settle();
    }

    /// Adds a link on which this side may send on `streams` unidirectional streams (at most `MAX_STREAMS`),
    /// beside stream 0.
    pub fn handle_link_up(&mut self, now: Instant, link: LinkId, streams: u8, origin: Origin) {
        if self.failure.is_some() {
            return;
        }
        let alive = &mut self.alive;
        let most = match origin {
            Origin::Accepted(Pace::Direct) => MAX_LINKS.saturating_sub(KEPT),
            Origin::Handshake | Origin::Dialled(_) | Origin::Accepted(Pace::Relay) => MAX_LINKS,
        };
        if alive.links.len() >= most || alive.links.contains_key(&link) {
            self.events.push_back(Event::LinkDead { link, why: LinkEnd::NoRoom });
            return;
        }
        let mut nonce = [0; 16];
        alive.seed.split().rng().fill_bytes(&mut nonce);
        let new = Link::new(now, origin, streams, nonce);
        if new.is_proven() {
            self.events.push_back(Event::LinkUsable(link));
        }
        alive.links.insert(link, new);
        self.settle();
    }

    /// The transport of a link was lost.
    pub fn handle_link_lost(&mut self, link: LinkId) {
        self.end_link(link, LinkEnd::Lost);
    }

    /// Processes the body of a whole frame that arrived on a stream of a link.
    pub fn handle_record(&mut self, now: Instant, link: LinkId, stream: StreamNo, frame: Frame) {
        if self.failure.is_some() {
            return;
        }
        let alive = &mut self.alive;
        match alive.handle_record(now, link, stream, frame, &mut self.events) {
            Ok(()) => self.settle(),
            Err(violation) => self.handle_violation(link, violation),
        }
    }

    /// `buffered` bytes of the next record of this stream have arrived, as [`crate::wire::Decoder::buffered`] counts
    /// them.
    pub fn handle_progress(&mut self, now: Instant, link: LinkId, stream: StreamNo, buffered: usize) {
        let Some(link_state) = self.link(link) else { return };
        if let Err(violation) = link_state.handle_progress(now, stream.0, buffered) {
            self.handle_violation(link, violation);
        }
    }

    /// A job opened a chunk record: an authentic one is a sign of life of its link, and any other one ends the link.
    pub fn handle_verdict(&mut self, now: Instant, verdict: Verdict) {
        let Verdict { link, is_genuine } = verdict;
        if !is_genuine {
            self.handle_violation(link, Violation::BadRecord);
        } else if let Some(link) = self.link(link) {
            link.mark_alive(now);
        }
    }

    /// Ends the link because of a protocol violation on it, and the whole session if it is the link of the handshake.
    /// The owner also calls this for violations that it detects itself, such as a frame that is too long.
    pub fn handle_violation(&mut self, link: LinkId, violation: Violation) {
        let Some(link_state) = self.link(link) else { return };
        match link_state.origin {
            Origin::Handshake => self.fail(violation),
            Origin::Dialled(_) | Origin::Accepted(_) => self.end_link(link, LinkEnd::Violation(violation)),
        }
    }

    fn fail(&mut self, violation: Violation) {
        if self.failure.is_none() {
            self.failure = Some(violation);
            self.events.push_back(Event::Failed(violation));
        }
    }

    /// Sets whether this side reads from its links at the moment. While it does not, no link counts as silent or
    /// stalled.
    #[cfg(test)]
    pub fn set_reading(&mut self, now: Instant, reading: bool) {
        if self.failure.is_some() {
            return;
        }
        let alive = &mut self.alive;
        if reading && !alive.reading {
            alive.links.values_mut().for_each(|link| link.restart(now));
        }
        alive.reading = reading;
    }

    /// A deadline may have passed. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.failure.is_some() {
            return;
        }
        let alive = &mut self.alive;
        let reading = alive.reading;
        let mut ended = Vec::new();
        for (&id, link) in &mut alive.links {
            link.handle_keep_alive_timeout(now);
            if link.is_unproven_for_too_long(now) {
                ended.push((id, LinkEnd::Unproven));
            } else if link.is_silent(now, reading) {
                ended.push((id, LinkEnd::Silent));
            } else if link.is_stalled(now, reading) {
                ended.push((id, LinkEnd::Stalled));
            }
        }
        for (link, why) in ended {
            self.end_link(link, why);
        }
    }

    /// When [`Self::handle_timeout`] is due, and why. `None`: the session has no link.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let alive = self.as_alive()?;
        alive.links.values().map(|link| link.next_timeout(alive.reading)).min()
    }

    /// Moves control to this link. Returns false, and changes nothing, if the link is not usable.
    pub fn use_link(&mut self, link: LinkId) -> bool {
        if self.failure.is_some() {
            return false;
        }
        let alive = &mut self.alive;
        let usable = alive.links.get(&link).is_some_and(Link::is_proven);
        if usable {
            alive.move_control(link, &mut self.events);
        }
        usable
    }

    /// Whether the peer's `Sync` arrived on this link, that is, whether the peer has sent control on it.
    #[must_use]
    pub fn is_synced(&self, link: LinkId) -> bool {
        self.as_alive().and_then(|alive| alive.links.get(&link)).is_some_and(|link| link.synced)
    }

    /// The link that is used for control.
    #[must_use]
    pub fn control(&self) -> Option<LinkId> {
        self.alive.control
    }

    /// Whether [`Self::send_control`] accepts a message of any class now.
    #[must_use]
    pub fn can_send_control(&self) -> bool {
        self.alive.reliable.has_room()
    }

    /// Queues a message, which is delivered exactly once and in order over the present and future links (`Ack`: at most
    /// once).
    ///
    /// # Errors
    /// [`Unsent`] returns the message with the reason.
    pub fn send_control(&mut self, message: Control) -> Result<(), Unsent> {
        self.alive.reliable.push(message)
    }

    /// The violation that ended the session.
    #[cfg(test)]
    #[must_use]
    pub const fn failure(&self) -> Option<Violation> {
        self.failure
    }

    /// The number of messages that the peer has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.as_alive().map_or(0, |alive| alive.reliable.unacknowledged())
    }

    /// Whether every queued message was sent on the present control link.
    #[cfg(test)]
    #[must_use]
    pub fn has_sent_all(&self) -> bool {
        self.as_alive().is_none_or(|alive| alive.control.is_some() && alive.reliable.is_idle())
    }

    /// The next control record for stream 0 of the link, sealed, as a whole frame. Call this only when the stream can
    /// take the frame, because the record has its number, and so its position in the stream, from now on.
    #[must_use]
    pub fn poll_control_record(&mut self, now: Instant, link: LinkId) -> Option<Bytes> {
        match self.alive.next_control(now, link) {
            Ok(record) => record,
            Err(why) => {
                self.end_link(link, why);
                None
            }
        }
    }

    /// Seals a chunk in place, as the next record of this stream. Returns whole frames in one buffer: the chunk's frame
    /// and, where a lane begins, a small control frame before it.
    ///
    /// # Errors
    /// Returns the chunk if the link is not usable, has no such stream or no lanes left, or if the chunk is longer than
    /// [`Prepared::MAX`].
    pub fn seal_chunk(
        &mut self,
        now: Instant,
        link: LinkId,
        stream: StreamNo,
        chunk: Prepared,
    ) -> Result<Bytes, Prepared> {
        if self.failure.is_some() {
            return Err(chunk);
        }
        let alive = &mut self.alive;
        let Some(state) = alive.links.get_mut(&link).filter(|link| link.is_proven() && link.out.has(stream.0)) else {
            return Err(chunk);
        };
        if chunk.len() > Prepared::MAX {
            return Err(chunk);
        }
        let (reading, reliable) = (alive.reading, &mut alive.reliable);
        let opener = || {
            plain_control(&(0_u64, reliable.take_ack(), Control::KeepAlive { lanes: BoundedVec::default(), reading }))
        };
        match state.out.seal_chunk(now, &mut alive.sealing, stream.0, chunk, opener) {
            Ok(frame) => Ok(frame),
            Err(chunk) => {
                self.end_link(link, LinkEnd::LanesUsedUp);
                Err(chunk)
            }
        }
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn end_link(&mut self, link: LinkId, why: LinkEnd) {
        if self.failure.is_some() {
            return;
        }
        let alive = &mut self.alive;
        if alive.links.remove(&link).is_none() {
            return;
        }
        if alive.control == Some(link) {
            alive.control = None;
        }
        self.events.push_back(Event::LinkDead { link, why });
        self.settle();
    }

    fn as_alive(&self) -> Option<&Alive> {
        if self.failure.is_none() { Some(&self.alive) } else { None }
    }

    fn link(&mut self, link: LinkId) -> Option<&mut Link> {
        if self.failure.is_none() { self.alive.links.get_mut(&link) } else { None }
    }

    /// Moves control to the first proven link if control has none.
    fn settle(&mut self) {
        if self.failure.is_some() {
            return;
        }
        let alive = &mut self.alive;
        if alive.control.is_none()
            && let Some((&link, _)) = alive.links.iter().find(|(_, link)| link.is_proven())
        {
            alive.move_control(link, &mut self.events);
        }
    }
}

impl Alive {
    fn handle_record(
        &mut self,
        now: Instant,
        id: LinkId,
        stream: StreamNo,
        frame: Frame,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Violation> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        match link.accept(&mut self.opening, stream.0, frame)? {
            Accepted::Chunk { key, header, frame } => {
                events.push_back(Event::Chunk(SealedChunk { link: id, key, header, frame }));
                Ok(())
            }
            Accepted::Control(plain) => {
                link.mark_alive(now);
                let record = decode(&plain).map_err(|_| Violation::Malformed)?;
                self.handle_control(now, id, stream, record, events)
            }
        }
    }

    fn handle_control(
        &mut self,
        now: Instant,
        id: LinkId,
        stream: StreamNo,
        record: ControlRecord,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Violation> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let ControlRecord { sequence, ack, message } = record;
        let class = Class::of(&message);
        if (sequence != 0) != (class == Class::Sequenced) {
            return Err(Violation::WrongSequence);
        }
        if stream != StreamNo::CONTROL && !matches!(message, Control::KeepAlive { .. }) {
            return Err(Violation::WrongStream);
        }
        if link.handle_proof(&message)? {
            events.push_back(Event::LinkUsable(id));
        }
        self.reliable.handle_ack(ack)?;
        match class {
            Class::Session => {
                if let Control::KeepAlive { lanes, reading } = message {
                    link.handle_keep_alive(now, lanes.as_slice(), reading)?;
                } else if message == Control::Sync {
                    link.synced = true;
                    if self.config.role == Role::Receiver {
                        self.move_control(id, events);
                    }
                }
            }
            Class::Loose | Class::Sequenced if !link.synced => return Err(Violation::NoSync),
            Class::Loose => events.push_back(Event::Control(message)),
            Class::Sequenced => {
                if self.reliable.handle_sequence(sequence)? {
                    events.push_back(Event::Control(message));
                }
                link.send_keep_alive |= self.reliable.owes_ack();
            }
        }
        Ok(())
    }

    /// Seals the next control record of a link.
    fn next_control(&mut self, now: Instant, id: LinkId) -> Result<Option<Bytes>, LinkEnd> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(None) };
        let on_control = self.control == Some(id);
        let own = if let Some(bind) = link.take_bind() {
            Some(bind)
        } else if !link.is_proven() {
            return Ok(None);
        } else if on_control && std::mem::take(&mut self.send_sync) {
            Some(Control::Sync)
        } else if std::mem::take(&mut link.send_keep_alive) {
            Some(link.keep_alive(self.reading))
        } else if on_control && !self.reliable.is_idle() {
            None
        } else {
            return Ok(None);
        };
        let ack = self.reliable.take_ack();
        let plain = match own {
            Some(message) => plain_control(&(0_u64, ack, message)),
            None => self.reliable.next(|sequence, message| plain_control(&(sequence, ack, message))),
        };
        let record = plain.and_then(|plain| link.out.seal_control(now, &mut self.sealing, plain));
        record.map(Some).ok_or(LinkEnd::LanesUsedUp)
    }

    fn move_control(&mut self, link: LinkId, events: &mut VecDeque<Event>) {
        if self.control != Some(link) {
            self.control = Some(link);
            self.send_sync = true;
            self.reliable.rewind();
            events.push_back(Event::ControlMoved(link));
        }
    }
}

#[cfg(test)]
mod tests;
