//! Tests of 0-RTT data, which may be replayed, and of joins that replace an older seat of the same owner.

use std::net::SocketAddr;
use std::time::Duration;

use super::world::*;
use super::{Event, Refused, RoomEnd};
use crate::wire::close;
use crate::wire::relay::{ClientMessage, Former, Owner, RelayMessage, Role, RoomId};

const AGAIN: RoomId = RoomId([8; 32]);
const LEFT_BY_ALICE: Former = Former { room: ROOM, owner: ALICE };

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn again(role: Role, owner: Owner) -> ClientMessage {
    ClientMessage::Join { room: AGAIN, role, owner, again: true }
}

fn said(world: &World, client: usize) -> Vec<RelayMessage> {
    let answers = world.clients[client].heard.iter().filter(|message| !matches!(message, RelayMessage::Hello { .. }));
    answers.cloned().collect()
}

/// A client that connected before and has session tickets.
fn acquaintance(world: &mut World) -> usize {
    let client = world.connect();
    world.say(client, &[hello()]);
    world.until("greeted", |world| !world.clients[client].heard.is_empty());
    world.pass(millis(100));
    world.close(client, close::ENDED);
    world.pass(millis(500));
    client
}

fn is_paired(world: &World, clients: [usize; 2]) -> bool {
    clients.iter().all(|&client| world.clients[client].streams.is_some())
}

#[test]
fn join_in_first_flight_is_answered_in_one_round_trip() {
    let mut world = World::new();
    let (alice, bob) = (acquaintance(&mut world), acquaintance(&mut world));
    let begun = world.now;
    world.reconnect(alice, again(Role::Sender, ALICE));
    world.until("waiting", |world| said(world, alice) == [RelayMessage::Waiting]);
    assert_eq!(world.now - begun, 2 * LATENCY);
    let begun = world.now;
    world.reconnect(bob, again(Role::Receiver, BOB));
    world.until("paired", |world| is_paired(world, [alice, bob]));
    assert_eq!(world.now - begun, 2 * LATENCY);
    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.send(alice, a, pattern(10_000, 1));
    world.until("passed on", |world| world.clients[bob].got.get(&b).is_some_and(|got| got.len() == 10_000));
    world.pass(Duration::from_secs(30));
    assert!(is_paired(&world, [alice, bob]) && world.clients[alice].closed.is_none(), "it is a link like any other");
    assert!(!world.clients[alice].restarted);
}

#[test]
fn early_data_other_than_rejoin_is_a_violation() {
    for message in [
        ClientMessage::Allocate { owner: ALICE },
        join(ROOM, Role::Sender, ALICE),
        ClientMessage::Ping,
        ClientMessage::Leave,
    ] {
        let mut world = World::new();
        let eve = acquaintance(&mut world);
        world.events.clear();
        world.reconnect(eve, message);
        world.until("closed", |world| world.clients[eve].closed.is_some());
        assert_eq!(world.events, [Event::Refused { reason: Refused::Violation }], "{message:?}");
        assert_eq!(world.relay.legs(), 0);
    }
}

#[test]
fn early_join_replaces_old_link_only_after_handshake() {
    let mut world = World::new();
    let (alice, newer) = (acquaintance(&mut world), acquaintance(&mut world));
    world.reconnect(alice, again(Role::Sender, ALICE));
    let bob = world.ask(again(Role::Receiver, BOB));
    world.until("paired", |world| is_paired(world, [alice, bob]));
    // Its first flight arrives; the packets after it do not yet.
    let begun = world.now;
    world.events.clear();
    world.reconnect(newer, again(Role::Sender, ALICE));
    world.pass(2 * LATENCY + millis(5));
    assert_eq!(world.events, [], "a replay does not end a pair");
    world.until("waiting", |world| said(world, newer) == [RelayMessage::Waiting]);
    assert_eq!(world.now - begun, 4 * LATENCY);
    world.until("replaced", |world| world.clients[bob].closed.is_some());
    assert_eq!(world.clients[bob].close_code(), Some(close::REPLACED));
}

#[test]
fn early_join_without_handshake_is_dropped() {
    let mut world = World::new();
    let (alice, bob) = (acquaintance(&mut world), acquaintance(&mut world));
    world.reconnect(alice, again(Role::Sender, ALICE));
    world.flush();
    world.clients[alice].cut = true;
    world.pass(millis(100));
    world.reconnect(bob, again(Role::Receiver, BOB));
    world.until("paired", |world| world.clients[bob].streams.is_some());
    let begun = world.now;
    world.until("over", |world| world.clients[bob].closed.is_some());
    assert_eq!(world.clients[bob].close_code(), Some(close::PEER_LOST));
    assert!(world.now - begun < Duration::from_secs(13), "{:?}", world.now - begun);
    assert!(world.events.contains(&Event::Refused { reason: Refused::TooSlow }));
    world.pass(Duration::from_secs(60));
    assert_eq!(world.relay.legs(), 0);
}

/// A recorded first flight does no harm, when it is replayed at any time and from any address.
#[test]
fn replayed_first_flight_changes_nothing() {
    let mut world = World::new();
    let alice = acquaintance(&mut world);
    let (sender, receiver) = world.pair(ROOM);
    world.recorded = Some((alice, Vec::new()));
    world.reconnect(alice, rejoin(AGAIN, Role::Sender, EVE, Former { room: RoomId([1; 32]), owner: ALICE }));
    world.flush();
    let (_, flight) = world.recorded.take().unwrap();
    assert!(!flight.is_empty());
    world.until("waiting", |world| said(world, alice) == [RelayMessage::Waiting]);
    let replay = |world: &mut World, from: SocketAddr| {
        world.events.clear();
        flight.iter().for_each(|data| world.replay(from, data));
        world.pass(millis(500));
        assert_eq!(world.events, [], "from {from}");
    };
    let (own, other) = (world.clients[alice].addr, "198.51.100.1:666".parse().unwrap());
    // While the client waits.
    [own, other].into_iter().for_each(|from| replay(&mut world, from));
    assert!(world.clients[alice].closed.is_none());
    // While the client is paired.
    let bob = world.ask(again(Role::Receiver, BOB));
    world.until("paired", |world| is_paired(world, [alice, bob]));
    [own, other].into_iter().for_each(|from| replay(&mut world, from));
    assert!([alice, bob, sender, receiver].iter().all(|&client| world.clients[client].closed.is_none()));
    // After the client disconnected, while the other side waits for it.
    world.close(alice, close::ENDED);
    world.until("over", |world| world.clients[bob].closed.is_some());
    let bob = world.ask(again(Role::Receiver, BOB));
    world.until("waiting", |world| said(world, bob) == [RelayMessage::Waiting]);
    world.pass(Duration::from_secs(20));
    [own, other].into_iter().for_each(|from| replay(&mut world, from));
    assert_eq!(said(&world, bob), [RelayMessage::Waiting]);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.relay.legs(), 1, "a leg that never completes its handshake is removed");
}

#[test]
fn restarted_relay_receives_join_again() {
    let mut world = World::new();
    let alice = acquaintance(&mut world);
    world.restart();
    world.reconnect(alice, again(Role::Sender, ALICE));
    world.until("waiting", |world| said(world, alice) == [RelayMessage::Waiting]);
    assert!(world.clients[alice].restarted);
}

#[test]
fn rejoin_ends_former_pair_of_same_owner() {
    for early in [true, false] {
        let mut world = World::new();
        let known = acquaintance(&mut world);
        let (alice, bob) = world.pair(ROOM);
        let others = world.pair(RoomId([9; 32]));
        // The client's address changed: no packet of the old link arrives.
        world.clients[alice].cut = true;
        world.events.clear();
        let begun = world.now;
        let message = rejoin(AGAIN, Role::Sender, EVE, LEFT_BY_ALICE);
        let newer = if early {
            world.reconnect(known, message);
            known
        } else {
            world.ask(message)
        };
        world.until("notified", |world| world.clients[bob].closed.is_some());
        assert_eq!(world.clients[bob].close_code(), Some(close::REPLACED));
        assert_eq!(world.now - begun, 4 * LATENCY, "a handshake, and the notification of the other side");
        let ended = world.events.iter().filter(|event| matches!(event, Event::RoomClosed { .. }));
        assert!(matches!(ended.collect::<Vec<_>>()[..], [Event::RoomClosed { reason: RoomEnd::Replaced, .. }]));
        let bob = world.ask(again(Role::Receiver, BOB));
        world.until("paired", |world| is_paired(world, [newer, bob]));
        assert!([others.0, others.1].iter().all(|&client| world.clients[client].closed.is_none()));
    }
}

#[test]
fn rejoin_can_not_end_pair_of_other_owner() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    for (role, former) in [
        (Role::Sender, Former { room: ROOM, owner: EVE }),
        (Role::Sender, Former { room: ROOM, owner: BOB }),
        (Role::Receiver, LEFT_BY_ALICE),
        (Role::Sender, Former { room: AGAIN, owner: ALICE }),
    ] {
        let eve = world.ask(rejoin(RoomId([66; 32]), role, EVE, former));
        world.until("answered", |world| !said(world, eve).is_empty());
        world.close(eve, close::DONE);
        world.pass(millis(500));
    }
    // A name in the other registry is not the same room.
    let (again_a, again_b) = (world.ask(again(Role::Sender, ALICE)), world.ask(again(Role::Receiver, BOB)));
    world.until("paired", |world| is_paired(world, [again_a, again_b]));
    let eve = world.ask(rejoin(RoomId([66; 32]), Role::Sender, EVE, Former { room: AGAIN, owner: ALICE }));
    world.until("answered", |world| said(world, eve) == [RelayMessage::Waiting]);
    world.pass(millis(500));
    for client in [alice, bob, again_a, again_b] {
        assert!(world.clients[client].closed.is_none());
    }
}
