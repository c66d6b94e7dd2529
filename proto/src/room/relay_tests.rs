//! What honest clients see: meeting, forwarding, leaving, expiry, going down. Dishonest ones are in `evil_tests.rs`.

use proptest::prelude::*;

use super::super::limits::Limits;
use super::super::world::*;
use super::*;
use crate::code::Nameplate;
use crate::link::quic::{MAX_STREAM_WINDOW, Stream};
use crate::wire::relay::{ClientMessage, RoomId};

const KIB: usize = 1024;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// What the relay said after its hello.
fn said(world: &World, client: usize) -> &[RelayMessage] {
    world.clients[client].heard.get(1..).unwrap_or_default()
}

const fn refused(reason: RefusalReason, retry_after: u32) -> RelayMessage {
    RelayMessage::Refused { reason, retry_after }
}

const NOBODY: RelayMessage = refused(RefusalReason::NobodyWaits, 5);

fn closed_rooms(world: &World) -> Vec<(u64, RoomEnd)> {
    let closed = world.events.iter().filter_map(|event| match *event {
        Event::RoomClosed { bytes_forwarded, reason, .. } => Some((bytes_forwarded, reason)),
        _ => None,
    });
    closed.collect()
}

fn got(world: &World, client: usize, stream: Stream) -> &[u8] {
    world.clients[client].got.get(&stream).map_or(&[], Vec::as_slice)
}

fn wait_closed(world: &mut World, client: usize) -> Option<u32> {
    world.until("closed", |world| world.clients[client].closed.is_some());
    world.clients[client].close_code()
}

fn is_empty(relay: &Relay) -> bool {
    let rooms = relay.registry.counts();
    relay.legs.is_empty() && relay.pairs.is_empty() && rooms.waiting == 0 && rooms.paired == 0
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
    world.until("both ways", |world| got(world, bob, b).len() == 100 && got(world, alice, a).len() == 200);
    assert_eq!(got(&world, bob, b), pattern(100, 1));
    assert_eq!(got(&world, alice, a), pattern(200, 2));

    world.close(bob, close::DONE);
    assert_eq!(wait_closed(&mut world, alice), Some(close::PEER_LEFT));
    let [
        Event::RoomCreated { room: one },
        Event::RoomPaired { room: two },
        Event::RoomClosed { room, bytes_forwarded, .. },
    ] = world.events[..]
    else {
        panic!("{:?}", world.events)
    };
    assert_eq!((one, two, bytes_forwarded), (two, room, 300));
    assert!(is_empty(&world.relay));
}

#[test]
fn what_a_client_says_behind_its_request_is_for_the_peer() {
    let mut world = World::new();
    let alice = world.ask(join(ROOM, Side::Sender, ALICE));
    world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
    let bob = world.ask(join(ROOM, Side::Receiver, BOB));
    world.say_raw(bob, pattern(3000, 1));
    world.until("it is there", |world| world.clients[alice].main.is_some_and(|a| got(world, alice, a).len() == 3000));
    assert_eq!(got(&world, alice, world.clients[alice].main()), pattern(3000, 1));
}

#[test]
fn a_ping_that_crosses_the_pairing_does_not_reach_the_peer() {
    let mut world = World::new();
    let alice = world.ask(join(ROOM, Side::Sender, ALICE));
    let bob = world.connect();
    world.say(bob, &[hello()]);
    world.until("ready", |world| {
        world.clients[alice].heard.contains(&RelayMessage::Waiting) && !world.clients[bob].heard.is_empty()
    });
    world.say(bob, &[join(ROOM, Side::Receiver, BOB)]);
    world.pass(millis(1));
    world.say(alice, &[ClientMessage::Ping, ClientMessage::Ping]);
    world.until("paired", |world| world.clients[alice].streams.is_some());
    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.pass(millis(100));
    world.send(alice, a, pattern(500, 1));
    world.until("said", |world| got(world, bob, b).len() >= 500);
    assert_eq!(got(&world, bob, b), pattern(500, 1));
    assert!(!world.clients[alice].heard.contains(&RelayMessage::Pong));
}

#[test]
fn sixteen_streams_each_way_are_mirrored_in_order_with_their_ends() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let mut expected = BTreeMap::new();
    for (client, other) in [(alice, bob), (bob, alice)] {
        for index in 0..16_u32 {
            let stream = world.open(client);
            let data = pattern(20 * KIB + index as usize * 1000, index + client as u32 * 100);
            world.send(client, stream, data.clone());
            world.finish(client, stream);
            expected.insert((other, u64::from(index)), data);
        }
    }
    world.until("all ended", |world| [alice, bob].iter().all(|&client| world.clients[client].ended.len() == 16));
    for ((client, index), data) in expected {
        let (_, got) = world.clients[client].got.iter().find(|(stream, _)| stream.index() == index).unwrap();
        assert_eq!(got, &data, "{index}");
    }
    // As one ends, another may begin.
    for index in 16..40 {
        let stream = world.open(alice);
        world.send(alice, stream, pattern(10, index));
        world.finish(alice, stream);
        world.until("another one", |world| world.clients[bob].ended.len() == index as usize + 1);
    }
    let moved = world.relay.pairs.values().next().unwrap().pair.moved();
    assert_eq!(moved, 2 * (0..16).map(|index| 20 * 1024 + index * 1000).sum::<u64>() + 240);
}

#[test]
fn one_side_may_be_done_while_the_other_goes_on() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.send(alice, a, pattern(10, 1));
    world.finish(alice, a);
    world.until("the end", |world| world.clients[bob].ended.get(&b) == Some(&Ok(())));
    world.send(bob, b, pattern(100 * KIB, 2));
    world.until("the other way", |world| got(world, alice, a).len() == 100 * KIB);
    world.finish(bob, b);
    world.until("both ends", |world| world.clients[alice].ended.get(&a) == Some(&Ok(())));
    assert_eq!(world.relay.pairs.len(), 1);
}

#[test]
fn resets_and_stops_go_along() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let (one, two) = (world.open(alice), world.open(alice));
    world.send(alice, one, pattern(10, 1));
    world.send(alice, two, pattern(10, 2));
    world.until("there", |world| world.clients[bob].got.len() == 2);
    let conn = world.clients[alice].conn;
    world.clients[alice].quic.reset(conn, one, 77);
    world.touch(alice);
    world.until("reset", |world| world.clients[bob].ended.values().any(|end| *end == Err(77)));

    let stream = *world.clients[bob].got.keys().find(|stream| stream.index() == two.index()).unwrap();
    let conn = world.clients[bob].conn;
    world.clients[bob].quic.stop(conn, stream, 78);
    world.touch(bob);
    world.until("stopped", |world| world.clients[alice].stopped.get(&two) == Some(&78));
    // And the rest lives.
    let three = world.open(alice);
    world.send(alice, three, pattern(10, 3));
    world.until("more", |world| world.clients[bob].got.values().any(|got| *got == pattern(10, 3)));
    assert_eq!(world.relay.pairs.values().next().unwrap().pair.legs().len(), 2);
}

#[test]
fn what_a_peer_said_before_it_left_is_delivered() {
    let mut world = World::new();
    let small = Profile { receive_window: 4 * KIB as u64, ..Profile::peer() };
    let (alice, bob) = world.pair_as(ROOM, Profile::peer(), small);
    world.clients[bob].lazy = true;
    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    let stream = world.open(alice);
    world.send(alice, stream, pattern(50 * KIB, 1));
    world.send(alice, a, pattern(2 * KIB, 2));
    world.finish(alice, a);
    world.pass(secs(2));
    let early: usize = world.clients[bob].got.values().map(Vec::len).sum();
    assert_eq!(early, 0, "it is the relay that has it");
    world.close(alice, close::DONE);
    world.pass(secs(1));
    assert_eq!(world.clients[bob].closed, None);
    world.clients[bob].lazy = false;
    world.touch(bob);
    assert_eq!(wait_closed(&mut world, bob), Some(close::PEER_LEFT));
    let mirrored = *world.clients[bob].got.keys().find(|&&stream| stream != b).unwrap();
    assert_eq!(got(&world, bob, mirrored), pattern(50 * KIB, 1));
    assert_eq!(got(&world, bob, b), pattern(2 * KIB, 2));
    assert_eq!(closed_rooms(&world), [(52 * 1024, RoomEnd::Left)]);
    assert!(is_empty(&world.relay));
}

#[test]
fn last_words_that_nobody_takes_are_given_up_after_a_while() {
    let mut world = World::new();
    let small = Profile { receive_window: 4 * KIB as u64, ..Profile::peer() };
    let (alice, bob) = world.pair_as(ROOM, Profile::peer(), small);
    world.clients[bob].lazy = true;
    let stream = world.open(alice);
    world.send(alice, stream, pattern(50 * KIB, 1));
    world.pass(secs(2));
    world.close(alice, close::DONE);
    let left = world.now;
    assert_eq!(wait_closed(&mut world, bob), Some(close::PEER_LEFT));
    assert!(world.now - left <= secs(61), "{:?}", world.now - left);
    assert!(is_empty(&world.relay));
}

/// R05: a peer that is cut off is missed within 60 s, and its room is free.
#[test]
fn r05_a_peer_that_is_lost_is_missed() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let waits = world.ask(join(RoomId([8; 32]), Side::Sender, ALICE));
    world.until("waiting", |world| world.clients[waits].heard.contains(&RelayMessage::Waiting));
    for client in [alice, waits] {
        world.clients[client].cut = true;
    }
    let cut = world.now;
    assert_eq!(wait_closed(&mut world, bob), Some(close::PEER_LOST));
    world.until("the room is free", |world| is_empty(&world.relay));
    assert!(world.now - cut <= secs(60), "{:?}", world.now - cut);
    assert_eq!(closed_rooms(&world), [(0, RoomEnd::Lost), (0, RoomEnd::Lost)]);

    let (alice, bob) = world.pair(RoomId([9; 32]));
    world.close(alice, close::ENDED);
    let left = world.now;
    wait_closed(&mut world, bob);
    assert!(world.now - left < secs(1));
}

#[test]
fn a_pair_that_is_silent_is_ended_and_one_that_is_not_lives() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let a = world.clients[alice].main();
    for _ in 0..10 {
        world.pass(secs(50));
        world.send(alice, a, pattern(1, 1));
    }
    world.pass(millis(100));
    let last = world.now;
    assert_eq!(wait_closed(&mut world, bob), Some(close::IDLE));
    assert!(world.now - last > secs(59) && world.now - last < secs(61), "{:?}", world.now - last);
    assert_eq!(wait_closed(&mut world, alice), Some(close::IDLE));
    assert_eq!(closed_rooms(&world), [(10, RoomEnd::Idle)]);
}

/// What the relay holds for the pair: what came in, less what went out, headers and all.
fn buffered(world: &mut World, from: usize, to: usize) -> u64 {
    let pair = world.relay.pairs.values().next().unwrap();
    let sender = pair.pair.legs()[from];
    let received = world.relay.ports.of(sender).unwrap().stats(sender.conn).unwrap().received_bytes;
    let Client { quic, conn, .. } = &world.clients[to];
    received.saturating_sub(quic.stats(*conn).unwrap().received_bytes)
}

/// R08: a fast sender and a receiver that reads 1 KiB/s; the relay holds little, on one stream and on all of them.
#[test]
fn r08_a_slow_reader_costs_less_than_256_kib() {
    for streams in [1, 16] {
        let mut world = World::new();
        let small = Profile { receive_window: 64 * KIB as u64, ..Profile::peer() };
        let (alice, bob) = world.pair_as(ROOM, Profile::peer(), small);
        world.clients[bob].lazy = true;
        for _ in 0..streams {
            let stream = world.open(alice);
            world.send(alice, stream, pattern(2048 * KIB / streams, 1));
        }
        let mut most = 0;
        for _ in 0..120 {
            world.pass(secs(1));
            world.clients[bob].read(KIB);
            world.touch(bob);
            most = most.max(buffered(&mut world, 0, bob));
        }
        assert!(most > 64 * 1024, "the relay reads ahead: {most}");
        assert!(most < 200 * 1024, "{streams} streams: {most}");
        let read: usize = world.clients[bob].got.values().map(Vec::len).sum();
        assert_eq!(read, 120 * KIB);
        assert_eq!(world.relay.budget.0, Config::WINDOW_BUDGET, "nothing was proven, so no window grew");
    }
}

#[test]
fn windows_follow_what_the_other_leg_takes_and_shrink_again() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let total = 24 << 20;
    let streams: Vec<_> = (0..16).map(|_| world.open(alice)).collect();
    let start = world.now;
    for &stream in &streams {
        world.send(alice, stream, pattern(total / 16, 1));
    }
    let mut lowest = u64::MAX;
    world.until("all is there", |world| {
        lowest = lowest.min(world.relay.budget.0);
        world.clients[bob].got.values().map(Vec::len).sum::<usize>() == total
    });
    let granted = Config::WINDOW_BUDGET - lowest;
    assert!(granted > 1 << 20, "{granted}");
    assert!(granted <= 16 << 20, "{granted}");
    // 64 KiB in each 20 ms would take 7.7 s.
    assert!(world.now - start < secs(4), "{:?}", world.now - start);
    assert!(world.clients[bob].got.values().all(|got| *got == pattern(total / 16, 1)));

    let a = world.clients[alice].main();
    for _ in 0..30 {
        world.send(alice, a, pattern(100, 1));
        world.pass(secs(1));
    }
    assert_eq!(world.relay.budget.0, Config::WINDOW_BUDGET, "they are small again");
}

#[test]
fn windows_never_exceed_the_budget_of_the_process() {
    let budget = 200 * 1024;
    let mut world = World::of(Config { window_budget: budget, ..config(generous()) });
    let pairs: Vec<_> = (0..3).map(|room| world.pair(RoomId([room; 32]))).collect();
    for &(alice, _) in &pairs {
        let stream = world.open(alice);
        world.send(alice, stream, pattern(MAX_STREAM_WINDOW as usize, 1));
    }
    let mut lowest = budget;
    world.until("all is there", |world| {
        lowest = lowest.min(world.relay.budget.0);
        pairs
            .iter()
            .all(|&(_, bob)| world.clients[bob].got.values().map(Vec::len).sum::<usize>() == MAX_STREAM_WINDOW as usize)
    });
    assert_eq!(lowest, 0);
    for (alice, bob) in pairs {
        world.close(alice, close::DONE);
        wait_closed(&mut world, bob);
    }
    assert_eq!(world.relay.budget.0, budget, "all is given back");
}

/// R08: pairs with slow readers do not slow a healthy one.
#[test]
fn slow_pairs_do_not_slow_a_healthy_one() {
    let run = |slow: u8| {
        let mut world = World::new();
        for room in 0..slow {
            let small = Profile { receive_window: 16 * KIB as u64, ..Profile::peer() };
            let (alice, bob) = world.pair_as(RoomId([room; 32]), Profile::peer(), small);
            world.clients[bob].lazy = true;
            let stream = world.open(alice);
            world.send(alice, stream, pattern(1024 * KIB, 1));
        }
        let (alice, bob) = world.pair(RoomId([200; 32]));
        let (stream, start) = (world.open(alice), world.now);
        world.send(alice, stream, pattern(1024 * KIB, 1));
        world.until("there", |world| world.clients[bob].got.values().map(Vec::len).sum::<usize>() == 1024 * KIB);
        world.now - start
    };
    let (alone, among) = (run(0), run(20));
    assert!(among <= alone.mul_f64(1.1), "{alone:?} {among:?}");
}

#[test]
fn who_leaves_frees_the_room() {
    let mut world = World::new();
    let alice = world.ask(join(ROOM, Side::Sender, ALICE));
    world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
    world.say(alice, &[ClientMessage::Leave]);
    assert_eq!(wait_closed(&mut world, alice), Some(close::DONE));
    assert!(is_empty(&world.relay));
    let eve = world.ask(join(ROOM, Side::Sender, EVE));
    world.until("hers", |world| world.clients[eve].heard.contains(&RelayMessage::Waiting));
    // The end of the stream says the same.
    let main = world.clients[eve].main();
    world.finish(eve, main);
    assert_eq!(wait_closed(&mut world, eve), Some(close::DONE));
    assert_eq!(closed_rooms(&world), [(0, RoomEnd::Left), (0, RoomEnd::Left)]);
}

#[test]
fn a_sender_that_is_done_frees_its_name_and_one_that_is_not_keeps_it() {
    for (code, free) in [(close::DONE, true), (close::ENDED, false)] {
        let mut world = World::new();
        let (alice, bob) = world.pair(ROOM);
        world.close(alice, code);
        wait_closed(&mut world, bob);
        let eve = world.ask(join(ROOM, Side::Sender, EVE));
        world.until("an answer", |world| !said(world, eve).is_empty());
        let expected = if free { RelayMessage::Waiting } else { refused(RefusalReason::NameTaken, 0) };
        assert_eq!(said(&world, eve), [expected]);
    }
}

#[test]
fn a_room_in_which_nobody_comes_expires_unless_the_client_renews_it() {
    let mut world = World::of(Config { room_ttl: secs(100), ..config(generous()) });
    let (alice, bob) =
        (world.ask(join(ROOM, Side::Sender, ALICE)), world.ask(join(RoomId([8; 32]), Side::Sender, BOB)));
    world.pass(secs(60));
    world.say(bob, &[ClientMessage::Ping]);
    assert_eq!(wait_closed(&mut world, alice), Some(close::REFUSED));
    assert!(world.now - world.start < secs(102));
    assert_eq!(said(&world, alice), [RelayMessage::Waiting, refused(RefusalReason::Idle, 0)]);
    assert_eq!(closed_rooms(&world), [(0, RoomEnd::Idle)]);
    assert_eq!(said(&world, bob), [RelayMessage::Waiting, RelayMessage::Pong]);
    wait_closed(&mut world, bob);
    assert!(world.now - world.start > secs(159));
}

#[test]
fn an_owner_takes_its_seat_from_a_dead_link() {
    let mut world = World::new();
    let old = world.ask(join(ROOM, Side::Sender, ALICE));
    world.until("waiting", |world| world.clients[old].heard.contains(&RelayMessage::Waiting));
    let alice = world.ask(join(ROOM, Side::Sender, ALICE));
    assert_eq!(wait_closed(&mut world, old), Some(close::REPLACED));
    let bob = world.ask(join(ROOM, Side::Receiver, BOB));
    world.until("paired", |world| world.clients[bob].streams.is_some() && world.clients[alice].streams.is_some());
    let created = world.events.iter().filter(|event| matches!(event, Event::RoomCreated { .. })).count();
    assert_eq!(created, 1, "it is one room");

    let again = world.ask(join(ROOM, Side::Sender, ALICE));
    assert_eq!(wait_closed(&mut world, bob), Some(close::REPLACED));
    assert_eq!(wait_closed(&mut world, alice), Some(close::REPLACED));
    assert_eq!(said(&world, again), [RelayMessage::Waiting]);
    let bob = world.ask(join(ROOM, Side::Receiver, BOB));
    world.until("paired again", |world| world.clients[bob].streams.is_some() && world.clients[again].streams.is_some());
    world.close(bob, close::DONE);
    world.until("over", |world| is_empty(&world.relay));
    assert!(world.relay.guard.may_open_room(Source::of(world.clients[again].addr)));
}

#[test]
fn in_a_reconnect_room_the_receiver_may_wait() {
    let mut world = World::new();
    let request = |side, owner| ClientMessage::Join { room: ROOM, side, owner, again: true };
    let bob = world.ask(request(Side::Receiver, BOB));
    world.until("waiting", |world| said(world, bob) == [RelayMessage::Waiting]);
    let alice = world.ask(request(Side::Sender, ALICE));
    world.until("paired", |world| world.clients[bob].streams.is_some() && world.clients[alice].streams.is_some());
}

#[test]
fn a_receiver_that_found_nobody_asks_again_on_the_same_link() {
    let mut world = World::new();
    let bob = world.ask(join(ROOM, Side::Receiver, BOB));
    for round in 1..=5 {
        world.until("an answer", |world| said(world, bob).len() == round);
        world.pass(secs(5));
        if round == 5 {
            let alice = world.ask(join(ROOM, Side::Sender, ALICE));
            world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
        }
        world.say(bob, &[join(ROOM, Side::Receiver, BOB)]);
    }
    world.until("paired", |world| world.clients[bob].streams.is_some());
    assert!(said(&world, bob)[..5].iter().all(|message| *message == NOBODY));
}

#[test]
fn a_password_is_asked_for() {
    let mut world = World::of(Config { password: Some("open sesame".into()), ..config(generous()) });
    let alice = world.connect();
    world.say(alice, &[hello()]);
    world.until("hello", |world| !world.clients[alice].heard.is_empty());
    let RelayMessage::Hello { nonce, .. } = world.clients[alice].heard[0] else { panic!() };
    let mac = super::super::greeting::prove("open sesame", &nonce);
    world.say(alice, &[ClientMessage::Prove { mac }, join(ROOM, Side::Sender, ALICE)]);
    world.until("waiting", |world| said(world, alice) == [RelayMessage::Waiting]);

    let bob = world.ask(join(ROOM, Side::Receiver, BOB));
    assert_eq!(wait_closed(&mut world, bob), Some(close::REFUSED));
    assert_eq!(said(&world, bob), [refused(RefusalReason::Password, 0)]);
    let eve = world.connect();
    world.say(eve, &[hello(), ClientMessage::Prove { mac }]);
    assert_eq!(wait_closed(&mut world, eve), Some(close::REFUSED), "a proof is for one nonce");
}

#[test]
fn a_relay_that_drains_tells_who_waits_and_lets_pairs_go_on_for_a_while() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let waits = world.ask(join(RoomId([8; 32]), Side::Sender, EVE));
    let silent = world.connect();
    world.say(silent, &[hello()]);
    world.until("waiting", |world| {
        world.clients[waits].heard.contains(&RelayMessage::Waiting) && !world.clients[silent].heard.is_empty()
    });
    world.command(Command::Drain { within: secs(20) });
    let start = world.now;
    assert_eq!(wait_closed(&mut world, waits), Some(close::REFUSED));
    assert_eq!(said(&world, waits), [RelayMessage::Waiting, refused(RefusalReason::ShuttingDown, 0)]);
    wait_closed(&mut world, silent);
    let late = world.ask(join(ROOM, Side::Sender, ALICE));
    world.until("refused", |world| world.clients[late].closed.is_some());
    assert_eq!(world.clients[late].closed, Some(Closed::Refused));

    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.send(alice, a, pattern(100, 1));
    world.until("it goes on", |world| got(world, bob, b).len() == 100);
    assert!(!world.relay.is_closed());
    assert_eq!(wait_closed(&mut world, bob), Some(close::SHUTTING_DOWN));
    assert!(world.now - start >= secs(20) && world.now - start < secs(21));
    world.until("closed", |world| world.relay.is_closed());
    let [.., (100, RoomEnd::ShuttingDown)] = closed_rooms(&world)[..] else { panic!("{:?}", world.events) };
}

#[test]
fn a_relay_without_pairs_is_drained_at_once_and_a_stop_ends_all() {
    let mut world = World::new();
    world.command(Command::Drain { within: secs(20) });
    world.flush();
    assert!(world.relay.is_closed());

    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    world.relay.handle_input(world.now, Input::HandleDropped);
    world.flush();
    assert!(world.relay.is_closed());
    assert_eq!(wait_closed(&mut world, alice), Some(close::SHUTTING_DOWN));
    assert_eq!(wait_closed(&mut world, bob), Some(close::SHUTTING_DOWN));
}

#[test]
fn without_ipv6_it_listens_on_ipv4_and_without_any_address_it_ends() {
    let now = Instant::now();
    let listen = vec!["[::]:4433".parse().unwrap(), "192.0.2.2:4434".parse().unwrap()];
    let mut relay = Relay::new(Config { listen, ..config(Limits::default()) }).unwrap();
    let bind = |addr: &str| Bind { addr: addr.parse().unwrap(), share_port: false, group: None };
    assert_eq!(relay.poll_action(), Some(Action::Bind(SocketId(0), bind("[::]:4433"))));
    assert_eq!(relay.poll_action(), Some(Action::Bind(SocketId(1), bind("192.0.2.2:4434"))));
    assert!(!relay.is_closed());
    relay.handle_input(now, Input::Bound(SocketId(0), Err(io::ErrorKind::Unsupported)));
    assert_eq!(relay.poll_action(), Some(Action::Bind(SocketId(0), bind("0.0.0.0:4433"))));
    relay.handle_input(now, Input::Bound(SocketId(1), Err(io::ErrorKind::AddrInUse)));
    assert!(matches!(relay.poll_event(), Some(Event::CannotListen { kind: io::ErrorKind::AddrInUse, .. })));
    assert!(!relay.is_closed());
    relay.handle_input(now, Input::Bound(SocketId(0), Err(io::ErrorKind::AddrInUse)));
    assert!(matches!(relay.poll_event(), Some(Event::CannotListen { .. })));
    assert!(relay.is_closed() && relay.poll_action().is_none());
}

#[test]
fn its_figures_are_told_when_asked_for() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let a = world.clients[alice].main();
    world.send(alice, a, pattern(1000, 1));
    world.pass(secs(1));
    let lonely = world.ask(join(ROOM, Side::Receiver, EVE));
    world.until("refused", |world| !said(world, lonely).is_empty());
    world.command(Command::Status);
    world.flush();
    let expected = Status { connections: 3, paired: 1, refused: 1, ..Status::default() };
    assert_eq!(world.events.last(), Some(&Event::Status(expected)));
    world.close(alice, close::DONE);
    wait_closed(&mut world, bob);
    world.command(Command::Status);
    world.flush();
    let Some(Event::Status(status)) = world.events.last() else { panic!() };
    assert_eq!((status.paired, status.bytes_forwarded), (0, 1000));
}

#[derive(Debug, Clone)]
enum Op {
    Write { stream: usize, len: usize },
    Finish { stream: usize },
    Lazy { receiver: bool, lazy: bool },
    Read { receiver: bool, bytes: usize },
    Pass(u64),
}

fn op() -> impl Strategy<Value = (bool, Op)> {
    let op = prop_oneof![
        6 => (0..6_usize, 1..60_000_usize).prop_map(|(stream, len)| Op::Write { stream, len }),
        1 => (0..6_usize).prop_map(|stream| Op::Finish { stream }),
        2 => any::<(bool, bool)>().prop_map(|(receiver, lazy)| Op::Lazy { receiver, lazy }),
        2 => (any::<bool>(), 1..5000_usize).prop_map(|(receiver, bytes)| Op::Read { receiver, bytes }),
        4 => (0..100_u64).prop_map(Op::Pass),
    ];
    (any::<bool>(), op)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever is written, when, on which stream, and however it is read: it arrives, whole and in order.
    #[test]
    fn all_that_is_said_arrives(ops in prop::collection::vec(op(), 1..60), narrow: bool) {
        let window = if narrow { 20_000 } else { 1 << 20 };
        let profile = Profile { receive_window: window, ..Profile::peer() };
        let mut world = World::new();
        let (alice, bob) = world.pair_as(ROOM, profile.clone(), profile);
        let mut streams: [Vec<Stream>; 2] = [vec![world.clients[alice].main()], vec![world.clients[bob].main()]];
        let mut said: BTreeMap<(usize, usize), (Vec<u8>, bool)> = BTreeMap::new();
        for (count, (by_bob, op)) in (0..).zip(ops) {
            let (side, client) = if by_bob { (1, bob) } else { (0, alice) };
            match op {
                Op::Write { stream, len } => {
                    // Streams come into being in their order.
                    let stream = stream.min(streams[side].len());
                    if stream == streams[side].len() {
                        streams[side].push(world.open(client));
                    }
                    let (said, finished) = said.entry((side, stream)).or_default();
                    if !*finished {
                        let data = pattern(len, count);
                        said.extend_from_slice(&data);
                        world.send(client, streams[side][stream], data);
                    }
                }
                Op::Finish { stream } if stream > 0 && stream < streams[side].len() => {
                    said.entry((side, stream)).or_default().1 = true;
                    world.finish(client, streams[side][stream]);
                }
                Op::Finish { .. } => {}
                Op::Lazy { receiver, lazy } => {
                    let client = if receiver { bob } else { alice };
                    world.clients[client].lazy = lazy;
                    world.touch(client);
                }
                Op::Read { receiver, bytes } => {
                    let client = if receiver { bob } else { alice };
                    world.clients[client].read(bytes);
                    world.touch(client);
                }
                Op::Pass(time) => world.pass(millis(time)),
            }
        }
        for client in [alice, bob] {
            world.clients[client].lazy = false;
            world.touch(client);
        }
        world.pass(secs(20));
        let total: usize = said.values().map(|(said, _)| said.len()).sum();
        for ((side, stream), (said, finished)) in said {
            let other = &world.clients[if side == 0 { bob } else { alice }];
            let to = if stream == 0 {
                other.main()
            } else {
                let index = streams[side][stream].index();
                let mut uni = other.got.keys().filter(|stream| **stream != other.main());
                *uni.find(|stream| stream.index() == index).unwrap()
            };
            prop_assert!(other.got[&to] == said, "stream {stream} of {side}");
            prop_assert_eq!(other.ended.get(&to), finished.then_some(&Ok(())));
        }
        let moved = world.relay.pairs.values().next().unwrap().pair.moved();
        prop_assert_eq!(moved, total as u64);
    }
}

/// The work of one wake-up does not grow with the connections that are idle.
fn work_among(idle: usize) -> u64 {
    let mut world = World::new();
    for index in 0..idle {
        let mut room = [0; 32];
        room[..8].copy_from_slice(&index.to_be_bytes());
        // So long that it stays idle.
        let quiet = Profile { keep_alive: None, idle_timeout: secs(100_000), ..Profile::peer() };
        let client = world.connect_as(quiet, SocketId(0));
        world.say(client, &[hello(), join(RoomId(room), Side::Sender, ALICE)]);
        if index % 50 == 0 {
            world.pass(millis(100));
        }
    }
    let (alice, bob) = world.pair(RoomId([200; 32]));
    world.pass(secs(40));
    assert_eq!(world.relay.guard.connections(), idle + 2);
    let before = world.relay.visits();
    let stream = world.open(alice);
    world.send(alice, stream, pattern(64 * KIB, 1));
    world.until("there", |world| world.clients[bob].got.values().map(Vec::len).sum::<usize>() == 64 * KIB);
    world.relay.visits() - before
}

#[test]
fn the_work_of_a_wake_up_is_the_same_among_few_and_many() {
    assert_eq!(work_among(10), work_among(1000));
}

#[test]
#[ignore = "10,000 handshakes take a minute"]
fn the_work_of_a_wake_up_is_the_same_among_10_and_10_000() {
    assert_eq!(work_among(10), work_among(10_000));
}
