#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(3600);
const ALICE: Owner = Owner([1; 16]);
const BOB: Owner = Owner([2; 16]);
const EVE: Owner = Owner([3; 16]);

fn registry(max_rooms: usize) -> Registry<u32> {
    Registry::new(Config { max_rooms, max_kept: 8, ttl: TTL, keep: TTL }, &Seed::new([1; 32]))
}

const fn key(id: u8, again: bool) -> Key {
    Key { again, room: RoomId([id; 32]) }
}

const CODE: Key = key(1, false);
const AGAIN: Key = key(1, true);

const fn waiting(replaced: Replaced<u32>) -> Joined<u32> {
    Joined { outcome: Outcome::Waiting, replaced }
}

const fn paired(with: u32) -> Joined<u32> {
    Joined { outcome: Outcome::Paired { with }, replaced: Replaced::Nothing }
}

const fn no(refusal: Refusal) -> Joined<u32> {
    Joined { outcome: Outcome::Refused(refusal), replaced: Replaced::Nothing }
}

#[test]
fn receiver_is_paired_with_waiting_sender() {
    let (now, mut rooms) = (Instant::now(), registry(10));
    let given = rooms.allocate(now, &ALICE, 1).unwrap();
    assert!((1..=9).contains(&given.nameplate));
    assert_eq!(given.key.room, Nameplate::from_number(given.nameplate).room_id());
    assert_eq!(rooms.counts(), Counts { waiting: 1, paired: 0, kept: 0 });
    assert_eq!(rooms.join(now, given.key, Role::Receiver, &BOB, 2), paired(1));
    assert_eq!(rooms.counts(), Counts { waiting: 0, paired: 1, kept: 0 });
    assert_eq!(rooms.poll_timeout(), None, "pairs do not expire");
    assert_eq!(rooms.leave(now, 2, false), Some(1));
    assert_eq!(rooms.counts(), Counts { waiting: 0, paired: 0, kept: 1 });
    assert_eq!(rooms.leave(now, 1, false), None, "it has no seat any more");
}

/// What happens in a room before a stranger asks.
type Prepare = fn(Instant, &mut Registry<u32>);

/// R03: what a stranger learns as a receiver, it learns as a sender, too: that a name is in use. About a name that is
/// not in use it learns nothing, whatever happened there before.
#[test]
fn r03_taken_reveals_no_more_than_name_taken() {
    let later = Duration::from_secs(1);
    let states: [(&str, Prepare); 8] = [
        ("unknown", |_, _| {}),
        ("left for good", |now, rooms| {
            rooms.leave(now, 1, true);
        }),
        ("lost before anybody came", |now, rooms| {
            rooms.leave(now, 1, false);
        }),
        ("expired", |now, rooms| rooms.handle_timeout(now + TTL)),
        ("paired and left for good", |now, rooms| {
            rooms.join(now, CODE, Role::Receiver, &BOB, 2);
            rooms.leave(now, 1, true);
        }),
        ("paired", |now, rooms| {
            rooms.join(now, CODE, Role::Receiver, &BOB, 2);
        }),
        ("the receiver left", |now, rooms| {
            rooms.join(now, CODE, Role::Receiver, &BOB, 2);
            rooms.leave(now, 2, true);
        }),
        ("the sender was lost", |now, rooms| {
            rooms.join(now, CODE, Role::Receiver, &BOB, 2);
            rooms.leave(now, 1, false);
        }),
    ];
    let asks = |role, prepare: Prepare, is_there: bool| {
        let (now, mut rooms) = (Instant::now(), registry(10));
        if is_there {
            rooms.join(now, CODE, Role::Sender, &ALICE, 1);
        }
        prepare(now, &mut rooms);
        rooms.join(now + later, CODE, role, &EVE, 9)
    };
    for (index, (what, prepare)) in states.into_iter().enumerate() {
        let (is_there, is_in_use) = (index > 0, index >= 5);
        let expected = if is_in_use { no(Refusal::NameTaken) } else { waiting(Replaced::Nothing) };
        assert_eq!(asks(Role::Sender, prepare, is_there), expected, "{what}");
        let expected = no(if is_in_use { Refusal::Taken } else { Refusal::NobodyWaits });
        assert_eq!(asks(Role::Receiver, prepare, is_there), expected, "{what}");
    }
}

#[test]
fn receiver_with_lost_link_is_not_told_taken() {
    let (now, mut rooms) = (Instant::now(), registry(10));
    rooms.join(now, CODE, Role::Sender, &ALICE, 1);
    rooms.join(now, CODE, Role::Receiver, &BOB, 2);
    rooms.leave(now, 2, false);
    assert_eq!(rooms.join(now, CODE, Role::Receiver, &BOB, 3), no(Refusal::NobodyWaits), "its own link was lost");
    assert_eq!(rooms.join(now, CODE, Role::Receiver, &EVE, 4), no(Refusal::Taken));
    // The sender came back, and now the other one has it.
    rooms.join(now, CODE, Role::Sender, &ALICE, 5);
    assert_eq!(rooms.join(now, CODE, Role::Receiver, &EVE, 4), paired(5));
    assert_eq!(rooms.join(now, CODE, Role::Receiver, &BOB, 3), no(Refusal::Taken));
    rooms.leave(now, 5, true);
    assert_eq!(rooms.join(now, CODE, Role::Receiver, &BOB, 3), no(Refusal::NobodyWaits));
}

/// R02: one of two links that race for a seat gets it, and the pair is not affected.
#[test]
fn r02_third_join_changes_nothing() {
    let (now, mut rooms) = (Instant::now(), registry(10));
    assert_eq!(rooms.join(now, CODE, Role::Sender, &ALICE, 1), waiting(Replaced::Nothing));
    assert_eq!(rooms.join(now, CODE, Role::Receiver, &BOB, 2), paired(1));
    assert_eq!(rooms.join(now, CODE, Role::Receiver, &EVE, 3), no(Refusal::Taken));
    assert_eq!(rooms.join(now, CODE, Role::Sender, &EVE, 4), no(Refusal::NameTaken));
    assert_eq!(rooms.join(now, CODE, Role::Receiver, &BOB, 2), no(Refusal::NobodyWaits), "the same link twice");
    assert_eq!((rooms.room_of(1), rooms.room_of(2)), (Some(CODE), Some(CODE)));
    assert_eq!(rooms.leave(now, 1, false), Some(2));
}

/// R04: another client has the room before the sender, or wants it after the sender.
#[test]
fn r04_a_squatter_gets_no_seat_that_has_an_owner() {
    let (now, mut rooms) = (Instant::now(), registry(10));
    rooms.join(now, CODE, Role::Sender, &EVE, 9);
    assert_eq!(
        rooms.join(now, CODE, Role::Sender, &ALICE, 1),
        no(Refusal::NameTaken),
        "the sender is notified, and takes another"
    );
    rooms.leave(now, 9, true);
    rooms.join(now, CODE, Role::Sender, &ALICE, 1);
    assert_eq!(rooms.join(now, CODE, Role::Sender, &EVE, 9), no(Refusal::NameTaken));
    rooms.join(now, CODE, Role::Receiver, &BOB, 2);
    rooms.leave(now, 1, false);
    assert_eq!(rooms.join(now, CODE, Role::Sender, &EVE, 9), no(Refusal::NameTaken), "the name is kept for its sender");
    assert_eq!(rooms.join(now, CODE, Role::Sender, &ALICE, 3), waiting(Replaced::Nothing));
    assert_eq!(rooms.leave(now, 3, false), None);
    assert_eq!(rooms.join(now, CODE, Role::Sender, &EVE, 9), no(Refusal::NameTaken), "still");
    assert_eq!(rooms.join(now + TTL, CODE, Role::Sender, &EVE, 9), waiting(Replaced::Nothing), "not for ever");
}

#[test]
fn owner_moves_its_seat_to_another_link() {
    let (now, mut rooms) = (Instant::now(), registry(1));
    rooms.join(now, CODE, Role::Sender, &ALICE, 1);
    assert_eq!(rooms.join(now, CODE, Role::Sender, &ALICE, 2), waiting(Replaced::Waiting(1)));
    assert_eq!((rooms.room_of(1), rooms.room_of(2)), (None, Some(CODE)));
    rooms.join(now, CODE, Role::Receiver, &BOB, 3);
    assert_eq!(rooms.join(now, CODE, Role::Sender, &ALICE, 4), waiting(Replaced::Pair(2, 3)));
    assert_eq!(rooms.counts(), Counts { waiting: 1, paired: 0, kept: 0 });
    rooms.join(now, CODE, Role::Receiver, &BOB, 5);
    // In a code room a receiver does not wait: the pair ends, and the receiver finds the sender after the sender joined
    // again.
    let joined = rooms.join(now, CODE, Role::Receiver, &BOB, 6);
    assert_eq!(joined, Joined { outcome: Outcome::Refused(Refusal::NobodyWaits), replaced: Replaced::Pair(5, 4) });
    assert_eq!(rooms.join(now, CODE, Role::Sender, &ALICE, 7), waiting(Replaced::Nothing));
    assert_eq!(rooms.join(now, CODE, Role::Receiver, &BOB, 6), paired(7));
}

#[test]
fn reconnect_room_lets_either_role_wait_and_keeps_nothing() {
    for (first, second) in [(Role::Sender, Role::Receiver), (Role::Receiver, Role::Sender)] {
        let (now, mut rooms) = (Instant::now(), registry(10));
        assert_eq!(rooms.join(now, AGAIN, first, &ALICE, 1), waiting(Replaced::Nothing));
        assert!(matches!(rooms.join(now, AGAIN, first, &EVE, 9).outcome, Outcome::Refused(_)));
        assert_eq!(rooms.join(now, AGAIN, second, &BOB, 2), paired(1));
        assert!(matches!(rooms.join(now, AGAIN, second, &EVE, 9).outcome, Outcome::Refused(_)));
        assert_eq!(rooms.join(now, AGAIN, second, &BOB, 3), waiting(Replaced::Pair(2, 1)));
        assert_eq!(rooms.join(now, AGAIN, first, &ALICE, 4), paired(3));
        assert_eq!(rooms.leave(now, 4, false), Some(3));
        assert_eq!(rooms.counts(), Counts::default());
    }
    let (now, mut rooms) = (Instant::now(), registry(10));
    rooms.join(now, CODE, Role::Sender, &ALICE, 1);
    assert_eq!(rooms.join(now, AGAIN, Role::Receiver, &BOB, 2), waiting(Replaced::Nothing), "a registry of its own");
}

#[test]
fn waiting_room_expires_unless_renewed() {
    let (now, mut rooms) = (Instant::now(), registry(10));
    rooms.join(now, CODE, Role::Sender, &ALICE, 1);
    let later = now + TTL - Duration::from_secs(1);
    rooms.renew(later, 1);
    rooms.handle_timeout(now + TTL);
    assert_eq!(rooms.poll_expired(), None);
    assert_eq!(rooms.poll_timeout(), Some(later + TTL));
    rooms.handle_timeout(later + TTL);
    assert_eq!(rooms.poll_expired(), Some((1, CODE)));
    assert_eq!((rooms.poll_expired(), rooms.room_of(1), rooms.counts()), (None, None, Counts::default()));
}

#[test]
fn sender_that_leaves_finally_frees_its_name() {
    for pair in [false, true] {
        let (now, mut rooms) = (Instant::now(), registry(10));
        let given = rooms.allocate(now, &ALICE, 1).unwrap();
        if pair {
            rooms.join(now, given.key, Role::Receiver, &BOB, 2);
        }
        rooms.leave(now, 1, true);
        assert_eq!(rooms.counts(), Counts::default());
        assert_eq!(rooms.numbers, 0);
        assert_eq!(rooms.join(now, given.key, Role::Sender, &EVE, 3), waiting(Replaced::Nothing));
    }
    let (now, mut rooms) = (Instant::now(), registry(10));
    rooms.join(now, CODE, Role::Sender, &ALICE, 1);
    rooms.join(now, CODE, Role::Receiver, &BOB, 2);
    rooms.leave(now, 2, true);
    assert_eq!(rooms.join(now, CODE, Role::Sender, &EVE, 3), no(Refusal::NameTaken), "the receiver can't free it");
}

#[test]
fn rooms_and_kept_names_are_bounded() {
    let (now, mut rooms) = (Instant::now(), registry(2));
    rooms.join(now, key(1, false), Role::Sender, &ALICE, 1);
    rooms.join(now, key(2, true), Role::Receiver, &ALICE, 2);
    assert_eq!(rooms.join(now, key(3, false), Role::Sender, &ALICE, 3), no(Refusal::Full));
    assert_eq!(rooms.join(now, key(3, true), Role::Receiver, &ALICE, 3), no(Refusal::Full));
    assert_eq!(rooms.allocate(now, &ALICE, 3), Err(Refusal::Full));
    assert_eq!(rooms.join(now, key(2, true), Role::Sender, &BOB, 3), paired(2), "this needs no room");
    rooms.leave(now, 2, false);
    for id in 10..30 {
        let at = now + Duration::from_secs(u64::from(id));
        rooms.join(at, key(id, false), Role::Sender, &ALICE, 100);
        rooms.join(at, key(id, false), Role::Receiver, &BOB, 101);
        rooms.leave(at, 100, false);
    }
    assert_eq!(rooms.counts(), Counts { waiting: 1, paired: 0, kept: 8 });
    let at = now + Duration::from_secs(40);
    assert_eq!(rooms.join(at, key(29, false), Role::Sender, &EVE, 9), no(Refusal::NameTaken));
    assert_eq!(
        rooms.join(at, key(21, false), Role::Sender, &EVE, 9),
        waiting(Replaced::Nothing),
        "the oldest was removed"
    );
}

#[test]
fn nameplates_are_short_random_and_unique() {
    let (now, mut rooms) = (Instant::now(), registry(10_000));
    let mut given = BTreeSet::new();
    for count in 0..900_u32 {
        let number = rooms.allocate(now, &ALICE, count).unwrap().nameplate;
        let digits = match count {
            0 => 1,
            1..=9 => 2,
            10..=90 => 3,
            _ => 4,
        };
        assert_eq!(number.to_string().len(), digits, "{count}");
        assert!(given.insert(number));
    }
    let first = |seed: u8| {
        let mut rooms =
            Registry::new(Config { max_rooms: 9, max_kept: 8, ttl: TTL, keep: TTL }, &Seed::new([seed; 32]));
        (0..5).map(|link| rooms.allocate(now, &ALICE, link).unwrap().nameplate).collect::<Vec<_>>()
    };
    assert_ne!(first(1), first(2));
}

#[test]
fn occupied_nameplates_are_skipped() {
    let (now, mut rooms) = (Instant::now(), registry(10_000));
    for number in 1..=99 {
        let key = Key { again: false, room: Nameplate::from_number(number).room_id() };
        rooms.join(now, key, Role::Sender, &EVE, number);
    }
    assert_eq!(rooms.allocate(now, &ALICE, 1000).unwrap().nameplate.to_string().len(), 3);
}

/// The same rules as a simple model: a list that is searched.
#[derive(Default)]
struct Model {
    now: u64,
    rooms: Vec<ModelRoom>,
}

struct ModelRoom {
    key: Key,
    /// Link and owner of sender and receiver.
    seats: [Option<(u32, u8)>; 2],
    keeps: Option<(u8, u64)>,
    /// The owner of the receiver's seat in the last pair, in code rooms.
    last: Option<u8>,
    since: u64,
}

const MODEL_TTL: u64 = 50;
const MODEL_ROOMS: usize = 4;

impl Model {
    fn live(&self) -> usize {
        self.rooms.iter().filter(|room| room.seats != [None, None]).count()
    }

    fn has_seat(&self, link: u32) -> bool {
        self.rooms.iter().flat_map(|room| room.seats).flatten().any(|(seated, _)| seated == link)
    }

    /// Removes waiting rooms and kept names that are too old. Returns the links that waited.
    fn expire(&mut self) -> Vec<u32> {
        let (now, mut gone) = (self.now, Vec::new());
        self.rooms.retain(|room| {
            let old = match (room.seats, room.keeps) {
                ([Some(_), Some(_)], _) => false,
                ([None, None], keeps) => keeps.is_none_or(|(_, until)| until <= now),
                _ => room.since + MODEL_TTL <= now,
            };
            if old {
                gone.extend(room.seats.into_iter().flatten().map(|(link, _)| link));
            }
            !old
        });
        gone
    }

    fn join(&mut self, key: Key, role: usize, owner: u8, link: u32) -> Joined<u32> {
        let refused = |last: Option<u8>| {
            no(match (role, last) {
                (0, _) => Refusal::NameTaken,
                (_, Some(last)) if !key.again && last != owner => Refusal::Taken,
                _ => Refusal::NobodyWaits,
            })
        };
        if self.has_seat(link) {
            return refused(None);
        }
        let (now, full) = (self.now, self.live() >= MODEL_ROOMS);
        let may_wait = key.again || role == 0;
        let Some(room) = self.rooms.iter_mut().find(|room| room.key == key) else {
            if !may_wait {
                return no(Refusal::NobodyWaits);
            }
            if full {
                return no(Refusal::Full);
            }
            let mut seats = [None, None];
            seats[role] = Some((link, owner));
            self.rooms.push(ModelRoom { key, seats, keeps: None, last: None, since: now });
            return waiting(Replaced::Nothing);
        };
        match (room.seats[role], room.seats[1 - role]) {
            (None, None) if role == 0 && room.keeps.is_some_and(|(keeper, _)| keeper == owner) => {
                if full {
                    return no(Refusal::Full);
                }
                room.seats[0] = Some((link, owner));
                room.since = now;
                waiting(Replaced::Nothing)
            }
            (None, None) => refused(room.last),
            (None, Some((other, other_owner))) => {
                room.seats[role] = Some((link, owner));
                let (sender, receiver) = if role == 0 { (owner, other_owner) } else { (other_owner, owner) };
                room.last = Some(receiver);
                if !key.again && room.keeps.is_none() {
                    room.keeps = Some((sender, now + MODEL_TTL));
                }
                paired(other)
            }
            (Some((_, old_owner)), _) if old_owner != owner => refused(room.last),
            (Some((old, _)), other) => {
                let replaced = other.map_or(Replaced::Waiting(old), |(other, _)| Replaced::Pair(old, other));
                room.seats = [None, None];
                if may_wait {
                    room.seats[role] = Some((link, owner));
                    room.since = now;
                    waiting(replaced)
                } else {
                    Joined { replaced, ..refused(None) }
                }
            }
        }
    }

    fn leave(&mut self, link: u32, for_good: bool) -> Option<u32> {
        let room = self.rooms.iter_mut().find(|room| room.seats.iter().flatten().any(|&(seated, _)| seated == link))?;
        let partner = room.seats.into_iter().flatten().map(|(seated, _)| seated).find(|&seated| seated != link);
        let is_sender = room.seats[0].is_some_and(|(seated, _)| seated == link);
        if for_good && (is_sender || partner.is_none()) {
            room.keeps = None;
        }
        room.seats = [None, None];
        partner
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for room in &self.rooms {
            match room.seats {
                [None, None] => counts.kept += 1,
                [Some(_), Some(_)] => counts.paired += 1,
                _ => counts.waiting += 1,
            }
        }
        counts
    }
}

#[derive(Debug, Clone)]
enum Op {
    Allocate { owner: u8, link: u32 },
    Join { room: u8, again: bool, sender: bool, owner: u8, link: u32 },
    Leave { link: u32, for_good: bool },
    Renew { link: u32 },
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let link = 0..8_u32;
    prop_oneof![
        1 => (0..3_u8, link.clone()).prop_map(|(owner, link)| Op::Allocate { owner, link }),
        8 => (0..3_u8, any::<bool>(), any::<bool>(), 0..3_u8, link.clone())
            .prop_map(|(room, again, sender, owner, link)| Op::Join { room, again, sender, owner, link }),
        3 => (link.clone(), any::<bool>()).prop_map(|(link, for_good)| Op::Leave { link, for_good }),
        1 => link.prop_map(|link| Op::Renew { link }),
        3 => (0..40_u64).prop_map(Op::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn registry_matches_naive_model(ops in prop::collection::vec(op(), 1..150)) {
        let start = Instant::now();
        let config = Config {
            max_rooms: MODEL_ROOMS,
            max_kept: 100,
            ttl: Duration::from_secs(MODEL_TTL),
            keep: Duration::from_secs(MODEL_TTL)
        };
        let (mut rooms, mut model) = (Registry::new(config, &Seed::new([1; 32])), Model::default());
        for op in ops {
            let now = start + Duration::from_secs(model.now);
            let gone = model.expire();
            rooms.handle_timeout(now);
            let mut expired: Vec<_> = std::iter::from_fn(|| rooms.poll_expired()).map(|(link, _)| link).collect();
            expired.sort_unstable();
            let mut gone = gone;
            gone.sort_unstable();
            prop_assert_eq!(expired, gone);
            match op {
                Op::Allocate { owner, link } => match rooms.allocate(now, &Owner([owner; 16]), link) {
                    Ok(given) => {
                        prop_assert_eq!(model.join(given.key, 0, owner, link), waiting(Replaced::Nothing));
                    }
                    Err(Refusal::Full) => prop_assert!(model.live() >= MODEL_ROOMS),
                    Err(_) => prop_assert!(model.has_seat(link)),
                },
                Op::Join { room, again, sender, owner, link } => {
                    let (role, index) = if sender { (Role::Sender, 0) } else { (Role::Receiver, 1) };
                    let joined = rooms.join(now, key(room, again), role, &Owner([owner; 16]), link);
                    prop_assert_eq!(joined, model.join(key(room, again), index, owner, link));
                }
                Op::Leave { link, for_good } => {
                    prop_assert_eq!(rooms.leave(now, link, for_good), model.leave(link, for_good));
                    model.expire();
                }
                Op::Renew { link } => {
                    rooms.renew(now, link);
                    let now = model.now;
                    for room in &mut model.rooms {
                        let mut seats = room.seats.iter().flatten();
                        if seats.clone().count() == 1 && seats.any(|seat| seat.0 == link) {
                            room.since = now;
                        }
                    }
                }
                Op::Pass(seconds) => model.now += seconds,
            }
            // A name may be too old to be kept when its pair ends.
            let mut kept = model.counts();
            kept.kept = model.rooms.iter().filter(|room| {
                room.seats == [None, None]
                    && room.keeps.is_some_and(|(_, until)| start + Duration::from_secs(until) > now)
            }).count();
            prop_assert_eq!(rooms.counts(), kept);
            for link in 0..8 {
                prop_assert_eq!(rooms.room_of(link).is_some(), model.has_seat(link));
            }
            let timers = rooms.rooms.values().filter(|room| room.expires.is_some()).count();
            prop_assert_eq!(rooms.expiry.len(), timers);
            prop_assert_eq!(rooms.kept.len(), rooms.counts().kept);
            prop_assert!(rooms.rooms.len() <= MODEL_ROOMS + 100);
        }
    }
}
