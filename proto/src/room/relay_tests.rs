use std::time::Duration;

use bytes::Bytes;

use super::super::limits::Limits;
use super::super::world::*;
use super::super::{Config, RoomEnd, close};
use super::*;
use crate::code::Nameplate;
use crate::wire::relay::{ClientMessage, RoomId};

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn said(world: &World, client: usize) -> &[RelayMessage] {
    // The hello is always first.
    &world.clients[client].heard[1..]
}

fn closed_rooms(world: &World) -> Vec<(u64, RoomEnd)> {
    let closed = world.events.iter().filter_map(|event| match *event {
        Event::RoomClosed { bytes_forwarded, reason, .. } => Some((bytes_forwarded, reason)),
        _ => None,
    });
    closed.collect()
}

#[test]
fn two_clients_meet_and_hear_each_other() {
    let mut world = World::new();
    let alice = world.ask(ClientMessage::Allocate { owner: ALICE });
    world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
    let [RelayMessage::Allocated { nameplate }, RelayMessage::Waiting] = *said(&world, alice) else { panic!() };
    let RelayMessage::Hello { observed, .. } = world.clients[alice].heard[0] else { panic!() };
    assert_eq!(observed, world.clients[alice].addr);

    let room = Nameplate::from_number(nameplate).room_id();
    let bob = world.connect_as(Profile::peer(), SocketId(1));
    world.say(bob, &[hello(), join(room, Side::Receiver, BOB)]);
    world.until("paired", |world| world.clients[alice].streams.is_some() && world.clients[bob].streams.is_some());
    assert_eq!(world.clients[alice].streams, Some(16));
    assert_eq!(said(&world, bob), [RelayMessage::Paired { streams: 16 }]);

    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.send(alice, a, pattern(100, 1));
    world.send(bob, b, pattern(200, 2));
    world.until("both ways", |world| {
        world.clients[bob].got.get(&b).is_some_and(|got| got.len() == 100)
            && world.clients[alice].got.get(&a).is_some_and(|got| got.len() == 200)
    });
    assert_eq!(world.clients[bob].got[&b], pattern(100, 1));
    assert_eq!(world.clients[alice].got[&a], pattern(200, 2));

    world.close(bob, close::DONE);
    world.until("the other one is told", |world| world.clients[alice].closed.is_some());
    assert_eq!(world.clients[alice].close_code(), Some(close::PEER_LEFT));
    let [
        Event::RoomCreated { room: one },
        Event::RoomPaired { room: two },
        Event::RoomClosed { room, bytes_forwarded, .. },
    ] = world.events[..]
    else {
        panic!("{:?}", world.events)
    };
    assert_eq!((one, two, bytes_forwarded), (two, room, 300));
    assert!(world.relay.legs.is_empty() && world.relay.pairs.is_empty());
}
