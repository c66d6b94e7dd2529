//! What the relay does with hostile clients: junk, slow input, floods, squatting, probing.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use super::forward::WINDOW;
use super::limits::Limits;
use super::world::*;
use super::{Config, Event, MAX_EVENTS, Refused};
use crate::link::quic::{Closed, Profile};
use crate::net::SocketId;
use crate::node::Node;
use crate::wire::close;
use crate::wire::frame::{GREETING, enclose};
use crate::wire::relay::{ClientMessage, RefusalReason, RelayMessage, Role, RoomId};

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const NOBODY: RelayMessage = RelayMessage::Refused { reason: RefusalReason::NobodyWaits, retry_after: 5 };
const TAKEN: RelayMessage = RelayMessage::Refused { reason: RefusalReason::Taken, retry_after: 5 };

fn refusals(world: &World) -> Vec<Refused> {
    let refused = world.events.iter().filter_map(|event| match *event {
        Event::Refused { reason } => Some(reason),
        _ => None,
    });
    refused.collect()
}

/// P01: frame lengths above the limit. The relay closes the connection within a second; other clients are not affected.
#[test]
fn p01_junk_ends_only_its_own_connection() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let cap = u32::try_from(GREETING).unwrap();
    let junk: [(Bytes, &str); 6] = [
        (Bytes::from_static(&[0xFF; 4]), "message too large"),
        (Bytes::from_static(&[0x80, 0, 0, 0]), "message too large"),
        (Bytes::copy_from_slice(&(cap + 1).to_be_bytes()), "message too large"),
        (Bytes::from_static(&[0; 4_000_000]), "malformed or unexpected message"),
        (enclose(&[0xC8, 1, 2, 3]), "malformed or unexpected message"),
        (enclose(b"GET / HTTP/1.1\r\n"), "malformed or unexpected message"),
    ];
    for greeted in [false, true] {
        for (bytes, text) in &junk {
            let eve = world.connect();
            if greeted {
                world.say(eve, &[hello()]);
                world.until("hello", |world| !world.clients[eve].heard.is_empty());
            } else {
                world.pass(millis(100));
            }
            let said = world.now;
            world.send_raw(eve, bytes.clone());
            world.until("closed", |world| world.clients[eve].closed.is_some());
            assert!(world.now - said < secs(1));
            let Some(Closed::Application { code, reason }) = &world.clients[eve].closed else { panic!() };
            assert_eq!((*code, reason.as_raw()), (close::VIOLATION, *text), "{:?}", &bytes[..4]);
        }
    }
    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.send(alice, a, pattern(100, 1));
    world.until("undisturbed", |world| world.clients[bob].got.get(&b).is_some_and(|got| *got == pattern(100, 1)));
    assert_eq!(refusals(&world), [Refused::Violation; 12]);
}

/// P07: the largest frame, one byte in each datagram, costs no more than its datagrams do.
#[test]
fn p07_a_frame_in_single_bytes_is_read_in_linear_work() {
    let run = |bytes: usize| {
        let mut world = World::new();
        let eve = world.connect();
        world.say(eve, &[hello()]);
        world.until("hello", |world| !world.clients[eve].heard.is_empty());
        // The largest frame that is allowed. It is no valid message, but the relay learns that only at its end.
        let frame = enclose(&[0xC8; GREETING]);
        let before = world.relay.visits();
        for byte in frame.iter().take(bytes) {
            world.send_raw(eve, Bytes::copy_from_slice(&[*byte]));
            world.pass(Duration::from_micros(500));
        }
        world.pass(millis(100));
        (world.relay.visits() - before, world.clients[eve].closed.is_some())
    };
    let (half, closed) = run(GREETING / 2);
    assert!(!closed);
    let (whole, closed) = run(GREETING + 4);
    assert!(closed);
    assert!(whole <= half * 3, "{half} {whole}");
}

/// R01: the relay closes a client that is silent, or sends a byte now and then, at the absolute deadline. Meanwhile an
/// honest pair is served.
#[test]
fn r01_slow_clients_are_closed_after_ten_seconds() {
    let mut world = World::new();
    let mut slow = Vec::new();
    for index in 0..40 {
        let client = world.connect();
        slow.push(client);
        match index % 4 {
            0 => {}
            1 => world.send_raw(client, Bytes::from_static(&[0])),
            2 => world.say(client, &[hello()]),
            _ => world.say(client, &[hello(), ClientMessage::Ping]),
        }
    }
    for second in 1..=9 {
        world.pass(secs(1));
        if second % 2 == 0 {
            for &client in slow.iter().filter(|&&client| client % 4 == 1) {
                world.send_raw(client, Bytes::from_static(&[0]));
            }
            for &client in slow.iter().filter(|&&client| client % 4 == 3) {
                world.say(client, &[ClientMessage::Ping]);
            }
        }
        if second == 5 {
            let start = world.now;
            let (alice, _) = world.pair(ROOM);
            assert!(world.now - start < secs(1));
            world.close(alice, close::DONE);
        }
    }
    // A fourth byte completes a length prefix of zero: the relay closes that client earlier.
    world.pass(millis(1500));
    assert_eq!(world.relay.legs(), 0);
    for client in slow {
        let code = world.clients[client].close_code();
        let expected = if client % 4 == 1 { close::VIOLATION } else { close::TOO_SLOW };
        assert_eq!(code, Some(expected), "{client}");
    }
}

#[test]
fn a_handshake_that_is_not_done_in_time_is_given_up() {
    let mut world = World::new();
    let eve = world.connect();
    world.flush();
    world.pass(millis(10));
    world.clients[eve].cut = true;
    assert_eq!(world.relay.legs(), 1);
    world.pass(secs(10));
    assert_eq!(world.relay.legs(), 0);
    assert_eq!(refusals(&world), [Refused::TooSlow]);
}

/// R03: the relay refuses many probes of one source. Until then its answers are the same for all rooms that are not in
/// use, and those for rooms in use (see `registry`) have the same timing.
#[test]
fn r03_room_probing_is_limited_and_finds_no_waiting_sender() {
    let limits = Limits { joins_per_minute: 40, ..generous() };
    let mut world = World::of(Config { room_ttl: secs(100), ..config(limits) });
    let from = |last: u8| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)]);
    let expired = world.ask(join(RoomId([3; 32]), Role::Sender, ALICE));
    world.until("expired", |world| world.clients[expired].closed.is_some());
    world.pair(RoomId([1; 32]));
    let (other, _) = world.pair(RoomId([2; 32]));
    world.close(other, close::ENDED);
    let (mut answers, mut waits) = (Vec::new(), Vec::new());
    for (probe, room) in [1_u8, 2, 3, 4].into_iter().enumerate() {
        let eve = world.connect_from(Profile::peer(), SocketId(0), from(probe as u8));
        world.say(eve, &[hello()]);
        world.until("hello", |world| !world.clients[eve].heard.is_empty());
        world.pass(secs(3));
        let start = world.now;
        world.say(eve, &[join(RoomId([room; 32]), Role::Receiver, EVE)]);
        world.until("an answer", |world| world.clients[eve].heard.len() == 2);
        answers.push(world.clients[eve].heard[1].clone());
        waits.push(world.now - start);
    }
    // Paired, kept for its sender, expired, unknown.
    assert_eq!(answers, [TAKEN, TAKEN, NOBODY, NOBODY]);
    assert!(waits.iter().all(|wait| *wait == waits[0]), "{waits:?}");

    // The /64 network is one source: 20 failed requests a minute, 10 of them at once.
    let mut answered = 4;
    let limited = loop {
        let eve = world.connect_from(Profile::peer(), SocketId(0), from(answered));
        // Whether the room is in use or not.
        let room = RoomId([if answered % 2 == 0 { 1 } else { 9 }; 32]);
        world.say(eve, &[hello(), join(room, Role::Receiver, EVE)]);
        world.until("an answer", |world| world.clients[eve].heard.len() == 2);
        if ![NOBODY, TAKEN].contains(&world.clients[eve].heard[1]) {
            break eve;
        }
        answered += 1;
    };
    assert!((8..=14).contains(&answered), "{answered}");
    let RelayMessage::Refused { reason: RefusalReason::RateLimited, retry_after } = world.clients[limited].heard[1]
    else {
        panic!("{:?}", world.clients[limited].heard)
    };
    assert!((1..=3).contains(&retry_after));
    world.until("closed", |world| world.clients[limited].close_code() == Some(close::REFUSED));
    let honest = world.ask(join(RoomId([9; 32]), Role::Receiver, BOB));
    world.until("other sources are not affected", |world| world.clients[honest].heard.last() == Some(&NOBODY));
}

#[test]
fn flood_of_requests_ends_its_link() {
    let limits = Limits { joins_per_minute: 40, ..generous() };
    let mut world = World::of(config(limits));
    let eve = world.connect();
    let flood: Vec<_> = (0..10_000).map(|index| join(RoomId([index as u8; 32]), Role::Receiver, EVE)).collect();
    world.say(eve, &[hello()]);
    world.say(eve, &flood);
    world.until("closed", |world| world.clients[eve].closed.is_some());
    assert!(world.clients[eve].heard.len() <= 12, "{}", world.clients[eve].heard.len());
    assert!(world.now - world.start < secs(1));
}

/// R02: two receivers race for one seat, in both orders and at the same instant: one gets it, every time.
#[test]
fn r02_one_of_two_receivers_wins_each_race() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    for round in 0..100_u8 {
        let room = RoomId([100 + round % 100; 32]);
        let sender = world.ask(join(room, Role::Sender, ALICE));
        world.until("waiting", |world| world.clients[sender].heard.contains(&RelayMessage::Waiting));
        let racers = [world.connect(), world.connect()];
        racers.iter().for_each(|&racer| world.say(racer, &[hello()]));
        world.until("ready", |world| racers.iter().all(|&racer| !world.clients[racer].heard.is_empty()));
        let order = if round % 2 == 0 { racers } else { [racers[1], racers[0]] };
        world.say(order[0], &[join(room, Role::Receiver, BOB)]);
        world.pass(Duration::from_micros(u64::from(round % 3)));
        world.say(order[1], &[join(room, Role::Receiver, EVE)]);
        world.until("answers", |world| racers.iter().all(|&racer| world.clients[racer].heard.len() == 2));
        let won = racers.iter().filter(|&&racer| world.clients[racer].streams == Some(16)).count();
        let lost = racers.iter().filter(|&&racer| world.clients[racer].heard[1] == TAKEN).count();
        assert_eq!((won, lost), (1, 1));
        world.send(alice, a, pattern(100, u32::from(round)));
        world.close(sender, close::DONE);
        racers.iter().for_each(|&racer| world.close(racer, close::DONE));
        world.pass(millis(50));
    }
    let expected: Vec<u8> = (0..100).flat_map(|round| pattern(100, round)).collect();
    assert_eq!(world.clients[bob].got[&b], expected, "the running pair is not affected");
}

/// R04: another client has the room's seat before the sender. The sender is notified and takes another room on the same
/// link.
#[test]
fn r04_sender_of_taken_room_gets_another_room() {
    let mut world = World::new();
    let eve = world.ask(join(ROOM, Role::Sender, EVE));
    world.until("waiting", |world| world.clients[eve].heard.contains(&RelayMessage::Waiting));
    let alice = world.ask(join(ROOM, Role::Sender, ALICE));
    let taken = RelayMessage::Refused { reason: RefusalReason::NameTaken, retry_after: 0 };
    world.until("notified", |world| world.clients[alice].heard.last() == Some(&taken));
    world.say(alice, &[ClientMessage::Allocate { owner: ALICE }]);
    world.until("another", |world| world.clients[alice].heard.last() == Some(&RelayMessage::Waiting));
    assert_eq!(world.clients[eve].closed, None);
}

#[test]
fn streams_out_of_turn_end_the_connection() {
    let mut world = World::new();
    let eve = world.connect();
    world.say(eve, &[hello()]);
    world.until("hello", |world| !world.clients[eve].heard.is_empty());
    let stream = world.open(eve);
    world.send(eve, stream, pattern(10, 1));
    world.until("closed", |world| world.clients[eve].closed.is_some());
    assert_eq!(world.clients[eve].close_code(), Some(close::VIOLATION));

    // A second conversation, once the first one is over both ways.
    let (alice, bob) = world.pair(ROOM);
    for client in [alice, bob] {
        let main = world.clients[client].main();
        world.finish(client, main);
    }
    world.until("both ended", |world| [alice, bob].iter().all(|&client| world.clients[client].ended.len() == 1));
    world.pass(secs(1));
    let conn = world.clients[alice].conn;
    let Some(second) = world.clients[alice].quic.open_bi(conn) else {
        panic!("quinn gives a new place for a used one")
    };
    world.send(alice, second, pattern(10, 1));
    world.until("closed", |world| world.clients[alice].closed.is_some() && world.clients[bob].closed.is_some());
    assert_eq!(world.clients[alice].close_code(), Some(close::VIOLATION));
}

#[test]
fn client_that_reads_no_answers_is_not_read() {
    let mut world = World::new();
    let deaf = Profile { stream_receive_window: 10, receive_window: 10, ..Profile::peer() };
    let eve = world.connect_as(deaf, SocketId(0));
    world.clients[eve].lazy = true;
    world.say(eve, &[hello()]);
    world.say(eve, &vec![ClientMessage::Ping; 100_000]);
    world.clients[eve].streams = Some(0);
    world.pass(secs(5));
    assert!(world.clients[eve].has_unwritten(), "its pings wait at the client");
    world.until("closed", |world| world.clients[eve].closed.is_some());
    assert_eq!(world.clients[eve].close_code(), Some(close::TOO_SLOW));
}

/// A sender of single bytes and a receiver that acknowledges nothing: the relay's bound counts the memory that it uses,
/// not the bytes of data.
#[test]
fn unacknowledged_single_bytes_use_bounded_memory() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    world.clients[bob].cut = true;
    let stream = world.open(alice);
    for _ in 0..8_000 {
        world.send(alice, stream, pattern(1, 1));
        world.pass(millis(4));
    }
    let [moved] = world.relay.moved()[..] else { panic!("the pair is still there") };
    // The relay accepts 512 pieces before it adapts the window, and the smallest window is 2 KiB.
    assert!(moved < 4 * 1024, "{moved}");
    assert!(moved > 500, "{moved}");
    assert!(moved < WINDOW);
}

/// A receiver that grants no stream credit, or no byte credit: the sender's new streams wait at the sender, and the
/// first stream is not blocked.
#[test]
fn receiver_without_stream_credit_blocks_only_new_streams() {
    let mut world = World::new();
    let narrow = Profile { max_uni_streams: 2, ..Profile::peer() };
    let (alice, bob) = world.pair_as(ROOM, Profile::peer(), narrow);
    world.clients[bob].lazy = true;
    for index in 0..16 {
        let stream = world.open(alice);
        world.send(alice, stream, pattern(1000, index));
        world.finish(alice, stream);
    }
    world.pass(secs(1));
    world.clients[bob].lazy = false;
    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.send(alice, a, pattern(100, 1));
    world.touch(bob);
    world.until("all streams arrive in the end", |world| world.clients[bob].ended.len() == 16);
    assert_eq!(world.clients[bob].got[&b], pattern(100, 1));
}

#[test]
fn connections_and_rooms_are_bounded_per_source() {
    let limits = Limits { connections_per_source: 4, rooms_per_source: 2, ..generous() };
    let mut world = World::of(config(limits));
    let ip = IpAddr::from([192, 0, 2, 99]);
    let mut clients = Vec::new();
    for room in 0..3 {
        let client = world.connect_from(Profile::peer(), SocketId(0), ip);
        world.say(client, &[hello(), join(RoomId([room; 32]), Role::Sender, ALICE)]);
        world.until("an answer", |world| world.clients[client].heard.len() == 2);
        clients.push(client);
    }
    let full = RelayMessage::Refused { reason: RefusalReason::Full, retry_after: 0 };
    assert_eq!(world.clients[clients[2]].heard[1], full);
    world.until("closed", |world| world.clients[clients[2]].closed.is_some());
    // A client at its limit of rooms can still join another client's room, and can use a freed place again.
    let other = world.ask(join(RoomId([8; 32]), Role::Sender, BOB));
    world.until("waiting", |world| world.clients[other].heard.contains(&RelayMessage::Waiting));
    let guest = world.connect_from(Profile::peer(), SocketId(1), ip);
    world.say(guest, &[hello(), join(RoomId([8; 32]), Role::Receiver, EVE)]);
    world.until("paired", |world| world.clients[guest].streams.is_some());
    world.close(clients[0], close::DONE);
    let again = world.connect_from(Profile::peer(), SocketId(0), ip);
    world.say(again, &[hello(), ClientMessage::Allocate { owner: EVE }]);
    world.until("a room", |world| world.clients[again].heard.contains(&RelayMessage::Waiting));

    let more: Vec<_> = (0..3).map(|_| world.connect_from(Profile::peer(), SocketId(0), ip)).collect();
    world.pass(secs(1));
    let refused = more.iter().filter(|&&client| world.clients[client].closed.is_some()).count();
    assert_eq!(refused, 2);
    assert!(refusals(&world).contains(&Refused::TooManyConnections));
}

#[test]
fn connections_are_bounded_in_total() {
    let limits = Limits { max_connections: 3, ..generous() };
    let mut world = World::of(config(limits));
    let (alice, _) = world.pair(ROOM);
    let third = world.ask(join(RoomId([8; 32]), Role::Sender, ALICE));
    world.until("waiting", |world| world.clients[third].heard.contains(&RelayMessage::Waiting));
    let fourth = world.connect();
    world.until("refused", |world| world.clients[fourth].closed.is_some());
    assert_eq!((world.clients[fourth].closed.clone(), refusals(&world)), (Some(Closed::Refused), vec![Refused::Full]));
    world.close(alice, close::DONE);
    world.pass(secs(1));
    let fifth = world.ask(join(RoomId([9; 32]), Role::Sender, ALICE));
    world.until("a place", |world| world.clients[fifth].heard.contains(&RelayMessage::Waiting));
}

#[test]
fn unread_events_are_counted_and_dropped() {
    let mut world = World::new();
    world.ignore_events = true;
    let eve = world.connect();
    world.say(eve, &[hello()]);
    world.say(eve, &vec![join(ROOM, Role::Receiver, EVE); MAX_EVENTS + 10]);
    world.until("all answered", |world| world.clients[eve].heard.len() == MAX_EVENTS + 11);
    assert_eq!(std::iter::from_fn(|| world.relay.poll_event()).count(), MAX_EVENTS);
}

/// R06: no event and no Debug output of a relay contains a client's address.
#[test]
fn r06_no_event_and_no_debug_form_shows_an_address() {
    let mut world = World::new();
    let ip = IpAddr::from([203, 0, 113, 77]);
    for (index, bytes) in [enclose(&[0xFF; 5]), Bytes::new()].into_iter().enumerate() {
        let eve = world.connect_from(Profile::peer(), SocketId(index as u8), ip);
        world.say(eve, &[hello(), join(ROOM, Role::Sender, EVE)]);
        world.send_raw(eve, bytes);
        world.pass(secs(1));
    }
    let shown = format!("{:?} {:?}", world.events, world.relay);
    assert!(!shown.contains("203") && !shown.contains("113"), "{shown}");
}
