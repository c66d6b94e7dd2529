//! The session: which links live, which of them carries control, and what a broken rule ends.
//!
//! ```text
//!            handle_link_up                 lost, silent, stalled, rule broken on a later link
//!   Alive { links: 0 ─────────────▶ 1 ..= MAX_LINKS ─────────────▶ fewer, down to 0 }
//!     │ ▲                                                                        │
//!     │ └── handle_generation: new keys, all links gone, the control sequence runs on ◀┘
//!     └── a rule broken on the link of the handshake ─▶ Failed(Violation), which hears nothing more, but can still say why
//! ```
//! Control uses one link at a time: the first one proven, until it dies or [`Session::use_link`] names another; the receiver
//! goes where the sender's `Sync` comes from. On each new one this side says `Sync` and sends again what was not acknowledged.
//!
//! Order of calls: `handle_*`, then [`Session::poll_event`] until it gives none, then
//! [`Session::poll_control_record`] for each link whose first stream can take more. One `handle_*` causes at most one event
//! per link and two more, so a drained queue of events is bounded by [`MAX_LINKS`].
//!
//! Timers are those of the links (`link.rs`). Bounds: [`MAX_LINKS`] links, the last [`KEPT`] of them for what this side
//! dialled and for floors; the queues of `reliable.rs`.

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
use crate::wire::relay::Side;
use crate::wire::{Capped, Frame, decode};

/// How many links a session has at a time.
pub const MAX_LINKS: usize = 16;
/// Of these, such as are kept for others than those that came in on a direct path, where anybody may come in.
const KEPT: usize = 6;

/// What a session is made with, beside its keys.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which peer this is.
    pub side: Side,
    /// How long a lane lasts.
    pub limits: Limits,
}

impl Config {
    /// With the protocol's own limits.
    #[must_use]
    pub fn new(side: Side) -> Self {
        Self { side, limits: Limits::default() }
    }
}

/// What a session tells its owner.
#[derive(Debug)]
pub enum Event {
    /// A message of the peer: each once and in order, `Ack` perhaps not at all.
    Control(Control),
    /// A chunk record, to be opened in a job. The job's verdict goes to [`Session::handle_verdict`].
    Chunk(SealedChunk),
    /// Chunks may be sealed for this link.
    LinkUsable(LinkId),
    /// Control goes over this link from now on. What was losable may be lost and should be said again.
    ControlMoved(LinkId),
    /// This link is over, and with it every chunk that was sealed for it and not acknowledged. It is to be closed.
    LinkDead {
        /// Which.
        link: LinkId,
        /// Why.
        why: LinkEnd,
    },
    /// The session is over, with all its links. Nothing follows.
    Failed(Violation),
}

/// Why a link is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkEnd {
    /// The owner said so.
    #[error("connection lost")]
    Lost,
    /// Nothing was heard for [`super::SILENCE`], or [`super::DIRECT_SILENCE`].
    #[error("nothing was heard")]
    Silent,
    /// A lane stood for [`super::LANE_STALL`].
    #[error("a stream stands still")]
    Stalled,
    /// It did not prove in time that it belongs to the session.
    #[error("no proof in time")]
    Unproven,
    /// The peer, or someone else, broke a rule on it.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// All lanes of this generation are used up.
    #[error("record keys used up")]
    LanesUsedUp,
    /// New keys took the place of those that it was for.
    #[error("replaced by a new connection")]
    NewGeneration,
    /// There are [`MAX_LINKS`] already, or one of this id.
    #[error("too many connections")]
    NoRoom,
}

/// One peer's end of a session.
#[derive(Debug)]
pub struct Session {
    alive: Box<Alive>,
    /// The rule that was broken: nothing more is heard, but this side can still say why.
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
    say_sync: bool,
    reading: bool,
}

impl Session {
    /// A session without links; the one on which the handshake ran comes by [`Self::handle_link_up`].
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
            say_sync: false,
            reading: true,
        };
        Self { alive: Box::new(alive), failure: None, events: VecDeque::new() }
    }

    /// The peers met again and have new keys: the old ones are erased, all links are over, the control sequence runs on.
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

    /// A link with `streams` unidirectional streams to seal for, beside its first one (at most [`super::MAX_STREAMS`]).
    pub fn handle_link_up(&mut self, now: Instant, link: LinkId, streams: u8, origin: Origin) {
        if self.failure.is_some() {
            return;
        }
        let alive = &mut self.alive;
        let most = match origin {
            Origin::Accepted(Pace::Direct) => MAX_LINKS.saturating_sub(KEPT),
            Origin::Handshake | Origin::Dialled(_) | Origin::Accepted(Pace::Floor) => MAX_LINKS,
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

    /// The transport of a link is gone.
    pub fn handle_link_lost(&mut self, link: LinkId) {
        self.end_link(link, LinkEnd::Lost);
    }

    /// A whole body from an incoming stream of a link.
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

    /// `buffered` bytes of the next record of this stream are here: what [`crate::wire::Decoder::buffered`] says.
    pub fn handle_progress(&mut self, now: Instant, link: LinkId, stream: StreamNo, buffered: usize) {
        let Some(link_state) = self.link(link) else { return };
        if let Err(violation) = link_state.handle_progress(now, stream.0, buffered) {
            self.handle_violation(link, violation);
        }
    }

    /// A chunk record was opened in its job: a genuine one is a sign of life on its link, and any other ends it.
    pub fn handle_verdict(&mut self, now: Instant, verdict: Verdict) {
        let Verdict { link, is_genuine } = verdict;
        if !is_genuine {
            self.handle_violation(link, Violation::BadRecord);
        } else if let Some(link) = self.link(link) {
            link.hear(now);
        }
    }

    /// A rule was broken on this link: it is over, and the session too if the link is that of the handshake.
    /// Also for what the owner finds, such as a frame that is too long.
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

    /// Whether this side reads its links at the moment. While it does not, their silence does not count.
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

    /// When [`Self::handle_timeout`] is due, and why. `None`: there is no link to wait for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let alive = self.as_alive()?;
        alive.links.values().map(|link| link.next_timeout(alive.reading)).min()
    }

    /// Control goes over this link from now on. False, and nothing changes: it is not usable.
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

    /// Whether the other side's control came over to this link.
    #[must_use]
    pub fn is_synced(&self, link: LinkId) -> bool {
        self.as_alive().and_then(|alive| alive.links.get(&link)).is_some_and(|link| link.synced)
    }

    /// The link that carries control.
    #[must_use]
    pub fn control(&self) -> Option<LinkId> {
        self.alive.control
    }

    /// Whether [`Self::send_control`] takes any message now.
    #[must_use]
    pub fn can_send_control(&self) -> bool {
        self.alive.reliable.has_room()
    }

    /// Sends a message: exactly once and in order, over whatever links there are and will be (`Ack`: at most once).
    ///
    /// # Errors
    /// The message comes back in [`Unsent`], with the reason.
    pub fn send_control(&mut self, message: Control) -> Result<(), Unsent> {
        self.alive.reliable.push(message)
    }

    /// The broken rule that ended the session.
    #[must_use]
    pub const fn failure(&self) -> Option<Violation> {
        self.failure
    }

    /// How many messages the peer has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.as_alive().map_or(0, |alive| alive.reliable.unacknowledged())
    }

    /// Whether every message was given to the present link.
    #[must_use]
    pub fn has_sent_all(&self) -> bool {
        self.as_alive().is_none_or(|alive| alive.control.is_some() && alive.reliable.is_idle())
    }

    /// The next control record for the link's first stream, sealed, as a whole frame. To be asked only when the stream takes
    /// it: it has its number and its place now.
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

    /// Seals a chunk, in place, as the next record of this stream. Gives whole frames in one piece: the chunk's own and, where
    /// a lane begins, a small one before it.
    ///
    /// # Errors
    /// The chunk comes back when the link is not usable, has no such stream, or the chunk is longer than [`Prepared::MAX`].
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
        let opener =
            || plain_control(&(0_u64, reliable.tell(), Control::KeepAlive { lanes: Capped::default(), reading }));
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

    /// Gives control a link when it has none.
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
                link.hear(now);
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
                    if self.config.side == Side::Receiver {
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
                link.say_alive |= self.reliable.owes_ack();
            }
        }
        Ok(())
    }

    /// The next control record of a link.
    fn next_control(&mut self, now: Instant, id: LinkId) -> Result<Option<Bytes>, LinkEnd> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(None) };
        let on_control = self.control == Some(id);
        let own = if let Some(bind) = link.take_bind() {
            Some(bind)
        } else if !link.is_proven() {
            return Ok(None);
        } else if on_control && std::mem::take(&mut self.say_sync) {
            Some(Control::Sync)
        } else if std::mem::take(&mut link.say_alive) {
            Some(link.keep_alive(self.reading))
        } else if on_control && !self.reliable.is_idle() {
            None
        } else {
            return Ok(None);
        };
        let ack = self.reliable.tell();
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
            self.say_sync = true;
            self.reliable.rewind();
            events.push_back(Event::ControlMoved(link));
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
