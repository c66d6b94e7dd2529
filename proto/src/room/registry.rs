//! Who sits in which room of a relay.
//!
//! ```text
//!              ┌─────────── owner of a seat joins again ───────────┐
//! (no room) ──►│ Waiting ──the other side joins──► Paired          │
//!              └────▲─────────────────────────────── │ ────────────┘
//!     owner joins   │                                │ a leg leaves
//!                   └──────────── Kept ◄─────────────┘
//! ```
//! It decides who waits, who is paired with whom, who is refused and why, which link loses its seat, and what expires.
//! It knows links as names of type `L` that its owner gives, and no addresses. There are two kinds of room:
//! - *code rooms*, where only a sender waits. A receiver that finds nobody hears the same whatever the reason. After
//!   the first pairing the name is *kept*: until the sender leaves or it expires, only the same sender may wait there
//!   again, and it is not given out to others.
//! - *reconnect rooms* (`again`), where either side may wait and nothing is kept.
//!
//! An owner is remembered as a keyed hash, compared in constant time. A join by the owner of a seat takes that seat
//! from its old link and ends the pair, so that a dead link which the relay still believes in shuts nobody out.
//!
//! Timer: a room that waits, or is kept, expires ([`Config::ttl`]); pairs don't. Bounds: [`Config::max_rooms`] with
//! somebody in them; [`Config::max_kept`] kept names, of which the one that would expire first gives way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use crate::Instant;
use crate::code::Nameplate;
use crate::seed::Seed;
use crate::wire::relay::{Owner, Role, RoomId};

/// Tries to find a free number of one length. Each fails with a chance of a tenth at most, unless
/// somebody sits on many numbers.
const TRIES: u32 = 16;
/// The longest nameplate that is given out, in digits.
const MAX_DIGITS: u32 = 9;

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Rooms in which somebody waits or two are paired.
    pub max_rooms: usize,
    /// Names that are kept for a sender.
    pub max_kept: usize,
    /// How long a room waits.
    pub ttl: Duration,
    /// How long a name is kept after its first pairing: as long as a sender may need to come back for
    /// another guess. It is short, since a custom code may be used again, by another run of the program,
    /// which nobody can tell from a stranger.
    pub keep: Duration,
}

/// The registry a room is in, and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// A reconnect room.
    pub again: bool,
    /// The name.
    pub room: RoomId,
}

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No sender waits there: unknown, used, full and expired look the same.
    NobodyWaits,
    /// The seat is somebody else's.
    NameTaken,
    /// There are as many rooms as there may be.
    Full,
}

/// What became of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<L> {
    /// It has the seat; the other side has not come.
    Waiting,
    /// It has the seat, and this is the link of the other side.
    Paired {
        /// The link that waited.
        with: L,
    },
    /// It has no seat.
    Refused(Refusal),
}

/// Whose seats are gone because their owner came on another link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced<L> {
    /// Nobody's.
    Nobody,
    /// The old link of the one who came.
    Waiting(L),
    /// A pair: the old link of the one who came, and its partner's.
    Pair(L, L),
}

/// The result of [`Registry::join`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined<L> {
    /// What the one who came gets.
    pub outcome: Outcome<L>,
    /// Which links are no longer seated; they are to be closed.
    pub ousted: Replaced<L>,
}

/// The result of [`Registry::allocate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocated {
    /// The number that was given.
    pub nameplate: u32,
    /// The room's name.
    pub key: Key,
}

/// How many rooms there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// In which somebody waits.
    pub waiting: usize,
    /// In which two are paired.
    pub paired: usize,
    /// Names that are kept for a sender.
    pub kept: usize,
}

/// An owner, as far as it is remembered. Comparing takes the same time wherever two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag(blake3::Hash);

#[derive(Debug, Clone, Copy)]
struct Seat<L> {
    link: L,
    owner: Tag,
}

#[derive(Debug, Clone, Copy)]
enum State<L> {
    /// One waits.
    Waiting { role: Role, seat: Seat<L> },
    /// Two are paired.
    Paired { sender: Seat<L>, receiver: Seat<L> },
    /// Nobody is here, and only this sender may be.
    Kept { owner: Tag },
}

/// What a room's name has of its own.
#[derive(Debug, Clone, Copy, Default)]
struct Name {
    /// The number, if it was given out here.
    number: Option<u32>,
    /// Until when it is kept once nobody is here: since the first pairing, in code rooms.
    kept_until: Option<Instant>,
}

#[derive(Debug)]
struct Room<L> {
    state: State<L>,
    name: Name,
    /// When it goes, if nothing happens. Pairs don't.
    expires: Option<Instant>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Registry<L> {
    config: Config,
    rooms: BTreeMap<Key, Room<L>>,
    seats: BTreeMap<L, Key>,
    expiry: BTreeSet<(Instant, Key)>,
    kept: BTreeSet<(Instant, Key)>,
    expired: VecDeque<(L, Key)>,
    counts: Counts,
    /// Numbers given out here that are in use.
    numbers: usize,
    tag_key: [u8; 32],
    rng: ChaCha20Rng,
}

impl<L: Copy + Ord> Registry<L> {
    /// No rooms.
    #[must_use]
    pub fn new(config: Config, seed: &Seed) -> Self {
        Self {
            config,
            rooms: BTreeMap::new(),
            seats: BTreeMap::new(),
            expiry: BTreeSet::new(),
            kept: BTreeSet::new(),
            expired: VecDeque::new(),
            counts: Counts::default(),
            numbers: 0,
            tag_key: *seed.derive("owners").bytes(),
            rng: seed.derive("nameplates").rng(),
        }
    }

    /// Gives out a number nobody uses, and seats the link there as its sender.
    ///
    /// # Errors
    /// [`Refusal::Full`], or [`Refusal::NameTaken`] when the link has a seat.
    pub fn allocate(&mut self, now: Instant, owner: &Owner, link: L) -> Result<Allocated, Refusal> {
        self.handle_timeout(now);
        if self.seats.contains_key(&link) {
            return Err(Refusal::NameTaken);
        }
        if self.is_full() {
            return Err(Refusal::Full);
        }
        let (nameplate, key) = self.free_number().ok_or(Refusal::Full)?;
        let seat = Seat { link, owner: self.tag(owner) };
        let name = Name { number: Some(nameplate), kept_until: None };
        let _ = self.wait(now, key, Role::Sender, seat, name, Replaced::Nobody);
        Ok(Allocated { nameplate, key })
    }

    /// A link wants a seat.
    pub fn join(&mut self, now: Instant, key: Key, role: Role, owner: &Owner, link: L) -> Joined<L> {
        self.handle_timeout(now);
        let seat = Seat { link, owner: self.tag(owner) };
        if self.seats.contains_key(&link) {
            return refused(role, true);
        }
        let Some(room) = self.rooms.get(&key) else {
            return if role == Role::Receiver && !key.again {
                refused(role, false)
            } else if self.is_full() {
                Joined { outcome: Outcome::Refused(Refusal::Full), ousted: Replaced::Nobody }
            } else {
                self.wait(now, key, role, seat, Name::default(), Replaced::Nobody)
            };
        };
        let name = room.name;
        match room.state {
            State::Waiting { role: waits, seat: old } if waits == role => {
                if old.owner != seat.owner {
                    return refused(role, true);
                }
                self.remove(key);
                self.wait(now, key, role, seat, name, Replaced::Waiting(old.link))
            }
            State::Waiting { seat: other, .. } => {
                self.remove(key);
                self.pair(now, key, role, seat, other, name)
            }
            State::Paired { sender, receiver } => {
                let (own, other) = match role {
                    Role::Sender => (sender, receiver),
                    Role::Receiver => (receiver, sender),
                };
                if own.owner != seat.owner {
                    return refused(role, true);
                }
                let ousted = Replaced::Pair(own.link, other.link);
                self.remove(key);
                if role == Role::Sender || key.again {
                    self.wait(now, key, role, seat, name, ousted)
                } else {
                    self.keep(now, key, sender.owner, name);
                    Joined { ousted, ..refused(role, true) }
                }
            }
            State::Kept { owner } if role == Role::Sender && owner == seat.owner => {
                if self.is_full() {
                    return Joined { outcome: Outcome::Refused(Refusal::Full), ousted: Replaced::Nobody };
                }
                self.remove(key);
                self.wait(now, key, role, seat, name, Replaced::Nobody)
            }
            State::Kept { .. } => refused(role, true),
        }
    }

    /// A link gives up its seat: it said so (`for_good`: then its sender's name is free), or it is gone. Tells its
    /// partner, if it had one; that one has no seat any more either.
    pub fn leave(&mut self, now: Instant, link: L, for_good: bool) -> Option<L> {
        let key = *self.seats.get(&link)?;
        let room = self.remove(key)?;
        match room.state {
            State::Waiting { seat, .. } => {
                if !for_good {
                    self.keep(now, key, seat.owner, room.name);
                }
                None
            }
            State::Paired { sender, receiver } => {
                let (partner, by_sender) =
                    if sender.link == link { (receiver.link, true) } else { (sender.link, false) };
                if !(for_good && by_sender) {
                    self.keep(now, key, sender.owner, room.name);
                }
                Some(partner)
            }
            State::Kept { .. } => None,
        }
    }

    /// A link that waits is still interested: its room's time starts again.
    pub fn renew(&mut self, now: Instant, link: L) {
        let Some(&key) = self.seats.get(&link) else { return };
        let expires = self.after_ttl(now);
        let Some(room) = self.rooms.get_mut(&key) else { return };
        if let (State::Waiting { .. }, Some(old)) = (room.state, room.expires) {
            room.expires = Some(expires);
            self.expiry.remove(&(old, key));
            self.expiry.insert((expires, key));
        }
    }

    /// Rooms may have expired.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, key)) = self.expiry.first() {
            if at > now {
                return;
            }
            if let Some(Room { state: State::Waiting { seat, .. }, .. }) = self.remove(key) {
                self.expired.push_back((seat.link, key));
            }
        }
    }

    /// When [`Registry::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.expiry.first().map(|&(at, _)| at)
    }

    /// The next link whose room expired while it waited. It has no seat any more.
    #[must_use]
    pub fn poll_expired(&mut self) -> Option<(L, Key)> {
        self.expired.pop_front()
    }

    /// How many rooms there are.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The link that waits or is paired there, if it is this owner's.
    #[must_use]
    pub fn seat(&self, key: Key, role: Role, owner: &Owner) -> Option<L> {
        let seat = match self.rooms.get(&key)?.state {
            State::Waiting { role: waits, seat } if waits == role => seat,
            State::Paired { sender, receiver } => match role {
                Role::Sender => sender,
                Role::Receiver => receiver,
            },
            State::Waiting { .. } | State::Kept { .. } => return None,
        };
        (seat.owner == self.tag(owner)).then_some(seat.link)
    }

    /// The link that waits there, and would be paired with one who joins on this side.
    #[must_use]
    pub fn waits_for(&self, key: Key, role: Role) -> Option<L> {
        match self.rooms.get(&key)?.state {
            State::Waiting { role: waits, seat } if waits != role => Some(seat.link),
            State::Waiting { .. } | State::Paired { .. } | State::Kept { .. } => None,
        }
    }

    /// The room in which the link sits.
    #[must_use]
    pub fn room_of(&self, link: L) -> Option<Key> {
        self.seats.get(&link).copied()
    }

    fn is_full(&self) -> bool {
        self.counts.waiting.saturating_add(self.counts.paired) >= self.config.max_rooms
    }

    fn wait(
        &mut self,
        now: Instant,
        key: Key,
        role: Role,
        seat: Seat<L>,
        name: Name,
        ousted: Replaced<L>,
    ) -> Joined<L> {
        let expires = Some(self.after_ttl(now));
        self.insert(key, Room { state: State::Waiting { role, seat }, name, expires });
        Joined { outcome: Outcome::Waiting, ousted }
    }

    fn pair(&mut self, now: Instant, key: Key, role: Role, seat: Seat<L>, other: Seat<L>, name: Name) -> Joined<L> {
        let (sender, receiver) = match role {
            Role::Sender => (seat, other),
            Role::Receiver => (other, seat),
        };
        let kept_until = name.kept_until.or_else(|| (!key.again).then(|| now.checked_add(self.config.keep)).flatten());
        let name = Name { kept_until, ..name };
        self.insert(key, Room { state: State::Paired { sender, receiver }, name, expires: None });
        Joined { outcome: Outcome::Paired { with: other.link }, ousted: Replaced::Nobody }
    }

    fn keep(&mut self, now: Instant, key: Key, owner: Tag, name: Name) {
        let Some(until) = name.kept_until.filter(|&until| until > now) else { return };
        if self.counts.kept >= self.config.max_kept {
            let Some(&(_, first)) = self.kept.first() else { return };
            self.remove(first);
        }
        self.insert(key, Room { state: State::Kept { owner }, name, expires: Some(until) });
    }

    fn insert(&mut self, key: Key, room: Room<L>) {
        match room.state {
            State::Waiting { seat, .. } => {
                self.counts.waiting = self.counts.waiting.saturating_add(1);
                self.seats.insert(seat.link, key);
            }
            State::Paired { sender, receiver, .. } => {
                self.counts.paired = self.counts.paired.saturating_add(1);
                self.seats.insert(sender.link, key);
                self.seats.insert(receiver.link, key);
            }
            State::Kept { .. } => {
                self.counts.kept = self.counts.kept.saturating_add(1);
                self.kept.extend(room.expires.map(|at| (at, key)));
            }
        }
        if room.name.number.is_some() {
            self.numbers = self.numbers.saturating_add(1);
        }
        self.expiry.extend(room.expires.map(|at| (at, key)));
        self.rooms.insert(key, room);
    }

    /// The exact reverse of [`Self::insert`].
    fn remove(&mut self, key: Key) -> Option<Room<L>> {
        let room = self.rooms.remove(&key)?;
        match room.state {
            State::Waiting { seat, .. } => {
                self.counts.waiting = self.counts.waiting.saturating_sub(1);
                self.seats.remove(&seat.link);
            }
            State::Paired { sender, receiver, .. } => {
                self.counts.paired = self.counts.paired.saturating_sub(1);
                self.seats.remove(&sender.link);
                self.seats.remove(&receiver.link);
            }
            State::Kept { .. } => {
                self.counts.kept = self.counts.kept.saturating_sub(1);
                if let Some(at) = room.expires {
                    self.kept.remove(&(at, key));
                }
            }
        }
        if room.name.number.is_some() {
            self.numbers = self.numbers.saturating_sub(1);
        }
        if let Some(at) = room.expires {
            self.expiry.remove(&(at, key));
        }
        Some(room)
    }

    /// A random number of the shortest length that has ten times as many numbers as are in use.
    fn free_number(&mut self) -> Option<(u32, Key)> {
        let wanted = self.numbers.saturating_mul(10);
        for digits in 1..=MAX_DIGITS {
            let lowest = 10_u32.pow(digits.saturating_sub(1));
            let count = lowest.saturating_mul(9);
            if usize::try_from(count).unwrap_or(usize::MAX) < wanted {
                continue;
            }
            for _ in 0..TRIES {
                let number = lowest.saturating_add(below(&mut self.rng, count));
                let key = Key { again: false, room: Nameplate::from_number(number).room_id() };
                if !self.rooms.contains_key(&key) {
                    return Some((number, key));
                }
            }
        }
        None
    }

    fn tag(&self, owner: &Owner) -> Tag {
        Tag(blake3::keyed_hash(&self.tag_key, &owner.0))
    }

    fn after_ttl(&self, now: Instant) -> Instant {
        now.checked_add(self.config.ttl).unwrap_or(now)
    }
}

/// Evenly distributed below `count`, up to a bias of count / 2^32.
fn below(rng: &mut ChaCha20Rng, count: u32) -> u32 {
    let scaled = u64::from(rng.next_u32()).saturating_mul(u64::from(count)) >> 32;
    u32::try_from(scaled).unwrap_or(0)
}

/// A receiver hears the same whatever the reason; a sender, whether the name is somebody's.
const fn refused<L>(role: Role, taken: bool) -> Joined<L> {
    let refusal = match (role, taken) {
        (Role::Sender, true) => Refusal::NameTaken,
        (Role::Sender, false) | (Role::Receiver, _) => Refusal::NobodyWaits,
    };
    Joined { outcome: Outcome::Refused(refusal), ousted: Replaced::Nobody }
}

#[cfg(test)]
mod tests;
