//! Which link has a seat in which room of a relay.
//!
//! ```text
//!              ┌─────────── owner of a seat joins again ───────────┐
//! (no room) ──►│ Waiting ──the other side joins──► Paired          │
//!              └────▲─────────────────────────────── │ ────────────┘
//!     owner joins   │                                │ a leg leaves
//!                   └──────────── Kept ◄─────────────┘
//! ```
//! It decides which link waits, which links are paired, which join is refused and why, which link loses its seat, and
//! what expires. Links are names of type `L` that the caller gives; the registry has no addresses. There are two kinds
//! of room:
//! - *code rooms*, where only a sender waits. After the first pairing the name is *kept*: until the sender leaves or
//!   the name expires, only the same sender may wait there again, and the number is not allocated to others. A receiver
//!   that gets no seat learns only whether another receiver was paired there while the sender has the name
//!   ([`Refusal::Taken`]). A client that asks for the sender's seat learns the same ([`Refusal::NameTaken`]).
//! - *reconnect rooms* (`again`), where either side may wait and nothing is kept.
//!
//! The registry stores an owner as a keyed hash, and compares it in constant time. A join by the owner of a seat takes
//! that seat from its old link and ends the pair. So a dead link that the relay still considers alive does not exclude
//! its owner.
//!
//! Timer: a room that waits, or is kept, expires ([`Config::ttl`]); pairs do not. Bounds: [`Config::max_rooms`] waiting
//! or paired rooms; [`Config::max_kept`] kept names, of which the one that would expire first is removed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use crate::Instant;
use crate::code::Nameplate;
use crate::seed::Seed;
use crate::wire::relay::{Owner, Role, RoomId};

/// How many random numbers of one length are tried. Each try fails with a probability of a tenth at most, unless an
/// attacker occupies many numbers.
const TRIES: u32 = 16;
/// The longest nameplate that is allocated, in digits.
const MAX_DIGITS: u32 = 9;

/// The limits of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The most rooms in which one link waits or two are paired.
    pub max_rooms: usize,
    /// The most names that are kept for a sender.
    pub max_kept: usize,
    /// How long a room waits.
    pub ttl: Duration,
    /// How long a name is kept after its first pairing: as long as a sender may need to come back for another guess. It
    /// is short, since another run of the program may use a custom code again, and the relay cannot distinguish that
    /// run from a stranger.
    pub keep: Duration,
}

/// The registry a room is in, and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The room is a reconnect room.
    pub again: bool,
    /// The name.
    pub room: RoomId,
}

/// Why a link got no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No sender waits there. Unknown, expired and given up rooms give the same answer.
    NobodyWaits,
    /// Another receiver is, or was, paired with the sender, which still has the name.
    Taken,
    /// The seat belongs to another owner.
    NameTaken,
    /// The limit of rooms is reached.
    Full,
}

/// The result of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<L> {
    /// The link has the seat; the other side has not joined.
    Waiting,
    /// The link has the seat and is paired.
    Paired {
        /// The link that waited.
        with: L,
    },
    /// The link has no seat.
    Refused(Refusal),
}

/// The links that lost their seats because the owner joined with another link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced<L> {
    /// No link.
    Nothing,
    /// The owner's old link, which waited.
    Waiting(L),
    /// A pair: the owner's old link, and its partner's link.
    Pair(L, L),
}

/// The result of [`Registry::join`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined<L> {
    /// The result for the link that joined.
    pub outcome: Outcome<L>,
    /// The links that lost their seats; the caller must close them.
    pub replaced: Replaced<L>,
}

/// The result of [`Registry::allocate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocated {
    /// The allocated number.
    pub nameplate: u32,
    /// The room's name.
    pub key: Key,
}

/// How many rooms there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Rooms in which one link waits.
    pub waiting: usize,
    /// Rooms in which two links are paired.
    pub paired: usize,
    /// Names that are kept for a sender.
    pub kept: usize,
}

/// The stored form of an owner. The comparison takes constant time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag(blake3::Hash);

#[derive(Debug, Clone, Copy)]
struct Seat<L> {
    link: L,
    owner: Tag,
}

#[derive(Debug, Clone, Copy)]
enum State<L> {
    /// One link waits.
    Waiting { role: Role, seat: Seat<L> },
    /// Two links are paired.
    Paired { sender: Seat<L>, receiver: Seat<L> },
    /// The room is empty, and only this sender may wait in it.
    Kept { owner: Tag },
}

/// What the registry stores about a room's name.
#[derive(Debug, Clone, Copy, Default)]
struct Name {
    /// The number, if this registry allocated it.
    number: Option<u32>,
    /// Until when the name is kept once the room is empty. Set at the first pairing, in code rooms.
    kept_until: Option<Instant>,
    /// Who was paired with the sender last, in code rooms.
    receiver: Option<Tag>,
}

#[derive(Debug)]
struct Room<L> {
    state: State<L>,
    name: Name,
    /// When the room expires, if nothing happens. Pairs do not expire.
    expires: Option<Instant>,
}

/// All rooms and seats; see the module documentation.
#[derive(Debug)]
pub struct Registry<L> {
    config: Config,
    rooms: BTreeMap<Key, Room<L>>,
    seats: BTreeMap<L, Key>,
    expiry: BTreeSet<(Instant, Key)>,
    kept: BTreeSet<(Instant, Key)>,
    expired: VecDeque<(L, Key)>,
    counts: Counts,
    /// The number of allocated nameplates in use.
    numbers: usize,
    tag_key: [u8; 32],
    rng: ChaCha20Rng,
}

impl<L: Copy + Ord> Registry<L> {
    /// A registry without rooms.
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

    /// Allocates an unused number, and gives the link the sender's seat there.
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
        let name = Name { number: Some(nameplate), ..Name::default() };
        let _ = self.wait(now, key, Role::Sender, seat, name, Replaced::Nothing);
        Ok(Allocated { nameplate, key })
    }

    /// A link requests a seat.
    pub fn join(&mut self, now: Instant, key: Key, role: Role, owner: &Owner, link: L) -> Joined<L> {
        self.handle_timeout(now);
        let seat = Seat { link, owner: self.tag(owner) };
        if self.seats.contains_key(&link) {
            return refused(in_vain(role));
        }
        let Some(room) = self.rooms.get(&key) else {
            return if role == Role::Receiver && !key.again {
                refused(Refusal::NobodyWaits)
            } else if self.is_full() {
                refused(Refusal::Full)
            } else {
                self.wait(now, key, role, seat, Name::default(), Replaced::Nothing)
            };
        };
        let name = room.name;
        match room.state {
            State::Waiting { role: waits, seat: old } if waits == role => {
                if old.owner != seat.owner {
                    return refused(in_vain(role));
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
                    return refused(if key.again { in_vain(role) } else { name.refusal(role, seat.owner) });
                }
                let replaced = Replaced::Pair(own.link, other.link);
                self.remove(key);
                if role == Role::Sender || key.again {
                    self.wait(now, key, role, seat, name, replaced)
                } else {
                    self.keep(now, key, sender.owner, name);
                    Joined { replaced, ..refused(Refusal::NobodyWaits) }
                }
            }
            State::Kept { owner } if role == Role::Sender && owner == seat.owner => {
                if self.is_full() {
                    return refused(Refusal::Full);
                }
                self.remove(key);
                self.wait(now, key, role, seat, name, Replaced::Nothing)
            }
            State::Kept { .. } => refused(name.refusal(role, seat.owner)),
        }
    }

    /// A link gives up its seat, by its own request (`for_good`: a sender's name becomes free) or because it
    /// disconnected. Returns its partner, if it had one; the partner loses its seat too.
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

    /// A waiting link shows that it is alive: its room's time starts again.
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

    /// The link that waits or is paired in this seat, if this owner has it.
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

    /// The link that waits there and would be paired with a link that joins on this side.
    #[must_use]
    pub fn waits_for(&self, key: Key, role: Role) -> Option<L> {
        match self.rooms.get(&key)?.state {
            State::Waiting { role: waits, seat } if waits != role => Some(seat.link),
            State::Waiting { .. } | State::Paired { .. } | State::Kept { .. } => None,
        }
    }

    /// The room in which the link has a seat.
    #[cfg(test)]
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
        replaced: Replaced<L>,
    ) -> Joined<L> {
        let expires = Some(self.after_ttl(now));
        self.insert(key, Room { state: State::Waiting { role, seat }, name, expires });
        Joined { outcome: Outcome::Waiting, replaced }
    }

    fn pair(&mut self, now: Instant, key: Key, role: Role, seat: Seat<L>, other: Seat<L>, name: Name) -> Joined<L> {
        let (sender, receiver) = match role {
            Role::Sender => (seat, other),
            Role::Receiver => (other, seat),
        };
        let kept_until = name.kept_until.or_else(|| (!key.again).then(|| now.checked_add(self.config.keep)).flatten());
        let name = Name { kept_until, receiver: Some(receiver.owner), ..name };
        self.insert(key, Room { state: State::Paired { sender, receiver }, name, expires: None });
        Joined { outcome: Outcome::Paired { with: other.link }, replaced: Replaced::Nothing }
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

impl Name {
    /// The answer in a code room whose sender was paired, to a client that gets no seat. The receiver that was paired
    /// there last may have lost its link: to it the code is not taken.
    fn refusal(&self, role: Role, owner: Tag) -> Refusal {
        match role {
            Role::Receiver if self.receiver.is_some_and(|last| last != owner) => Refusal::Taken,
            Role::Sender | Role::Receiver => in_vain(role),
        }
    }
}

/// The answer if the seat of that role belongs to another owner.
const fn in_vain(role: Role) -> Refusal {
    match role {
        Role::Sender => Refusal::NameTaken,
        Role::Receiver => Refusal::NobodyWaits,
    }
}

const fn refused<L>(refusal: Refusal) -> Joined<L> {
    Joined { outcome: Outcome::Refused(refusal), replaced: Replaced::Nothing }
}

#[cfg(test)]
mod tests;
