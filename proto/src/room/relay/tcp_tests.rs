//! Legs that are TCP connections: paired with each other and with QUIC.

#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use std::net::IpAddr;

use bytes::Bytes;

use super::super::Tcp;
use super::super::limits::Limits;
use super::super::world::tcp::{SYSTEM, TLS, websocket};
use super::super::world::*;
use super::tests::{KIB, closed_rooms, got, is_empty, millis, secs};
use super::*;
use crate::link::tcp::Kind;
use crate::net::ListenerId;
use crate::wire::frame::enclose;
use crate::wire::relay::{ClientMessage, RefusalReason, RelayMessage, Role, RoomId};

/// `None` means QUIC.
fn kinds() -> [Option<Kind>; 4] {
    [None, Some(TLS), Some(websocket(true)), Some(websocket(false))]
}

fn room(number: usize) -> RoomId {
    RoomId([u8::try_from(number).unwrap(); 32])
}

#[test]
fn links_of_all_kinds_pair_with_each_other() {
    let mut world = World::new();
    for (one, sender) in kinds().into_iter().enumerate() {
        for (two, receiver) in kinds().into_iter().enumerate() {
            let streams = if one == 0 && two == 0 { 16 } else { 0 };
            let (alice, bob) = world.pair_of(room(one * 4 + two), sender.clone(), receiver);
            for client in [alice, bob] {
                assert_eq!(world.clients[client].streams, Some(streams), "{one} {two}");
                let RelayMessage::Hello { observed, .. } = world.clients[client].heard[0] else { panic!() };
                assert_eq!(observed, world.clients[client].addr);
            }
            let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
            let (there, back) = (pattern(300 * KIB, 1), pattern(200 * KIB, 2));
            world.send(alice, a, there.clone());
            world.send(bob, b, back.clone());
            world.until("both ways", |world| {
                got(world, bob, b).len() == there.len() && got(world, alice, a).len() == back.len()
            });
            assert_eq!(got(&world, bob, b), there);
            assert_eq!(got(&world, alice, a), back);
            world.close(alice, close::DONE);
            world.until("notified", |world| world.clients[bob].is_over());
            world.close(bob, close::DONE);
            world.until("over", |world| is_empty(&world.relay) && world.relay.ports.connections.tcp_links.is_empty());
            assert_eq!(closed_rooms(&world).last(), Some(&(500 * 1024, RoomEnd::Left)), "{one} {two}");
            assert_eq!(world.relay.budget.0, Config::WINDOW_BUDGET);
        }
    }
}

/// One side may end while the other one continues, and data that was sent before an end is delivered.
#[test]
fn end_is_forwarded_and_other_direction_continues() {
    let mut world = World::new();
    for (number, (sender, receiver)) in
        [(Some(TLS), None), (None, Some(TLS)), (Some(TLS), Some(websocket(true))), (Some(websocket(false)), Some(TLS))]
            .into_iter()
            .enumerate()
    {
        let (alice, bob) = world.pair_of(room(number), sender, receiver);
        let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
        world.send(alice, a, pattern(100 * KIB, 1));
        world.finish(alice, a);
        world.until("the end", |world| world.clients[bob].ended.contains_key(&b));
        assert_eq!(got(&world, bob, b), pattern(100 * KIB, 1));
        world.pass(secs(5));
        world.send(bob, b, pattern(70 * KIB, 2));
        world.finish(bob, b);
        world.until("both ends", |world| world.clients[alice].ended.contains_key(&a));
        assert_eq!(got(&world, alice, a), pattern(70 * KIB, 2));
        for client in [alice, bob] {
            world.close(client, close::DONE);
        }
        world.until("over", |world| is_empty(&world.relay) && world.relay.ports.connections.tcp_links.is_empty());
    }
}

/// When a peer leaves, the relay delivers all of its data, however slowly the other peer reads, and then notifies it.
#[test]
fn bytes_sent_before_close_reach_tcp_peer() {
    for (sender, receiver) in
        [(None, TLS), (Some(websocket(true)), TLS), (None, websocket(true)), (None, websocket(false))]
    {
        let mut world = World::new();
        let (alice, bob) = world.pair_of(ROOM, sender, Some(receiver.clone()));
        world.clients[bob].lazy = true;
        let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
        let all = SYSTEM + 120 * KIB;
        world.send(alice, a, pattern(all, 1));
        world.until("taken", |world| !world.clients[alice].has_unwritten());
        world.pass(secs(1));
        world.close(alice, close::ENDED);
        for _ in 0..15 {
            world.pass(secs(1));
            world.clients[bob].read(10 * KIB);
            world.touch(bob);
        }
        assert!(!world.clients[bob].is_over(), "{receiver:?}");
        world.clients[bob].lazy = false;
        world.touch(bob);
        world.until("all data arrives", |world| got(world, bob, b).len() == all);
        assert_eq!(got(&world, bob, b), pattern(all, 1));
        world.until("notified", |world| world.clients[bob].is_over());
        if receiver != TLS {
            assert_eq!(world.clients[bob].close_code(), Some(close::PEER_LEFT), "{receiver:?}");
        }
        world.close(bob, close::ENDED);
        world.until("over", |world| is_empty(&world.relay) && world.relay.ports.connections.tcp_links.is_empty());
        assert_eq!(closed_rooms(&world), [(all as u64, RoomEnd::Left)]);
    }
}

#[test]
fn broken_tcp_connection_is_a_lost_peer() {
    for receiver in [websocket(true), websocket(false)] {
        let mut world = World::new();
        let (alice, bob) = world.pair_of(ROOM, Some(TLS), Some(receiver));
        let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
        world.send(alice, a, pattern(1000, 1));
        world.until("delivered", |world| got(world, bob, b).len() == 1000);
        world.send(alice, a, pattern(500, 2));
        world.fail(alice);
        world.until("notified", |world| world.clients[bob].is_over());
        assert_eq!(world.clients[bob].close_code(), Some(close::PEER_LOST));
        assert_eq!(got(&world, bob, b)[1000..], pattern(500, 2));
        assert_eq!(world.clients[bob].ended.get(&b), None, "the stream has not ended");
        world.until("over", |world| !closed_rooms(world).is_empty());
        assert_eq!(closed_rooms(&world), [(1500, RoomEnd::Lost)]);
        // The name is kept for its owner only.
        let eve = world.ask_by(TLS, join(ROOM, Role::Sender, EVE));
        let taken = RelayMessage::Refused { reason: RefusalReason::NameTaken, retry_after: 0 };
        world.until("refused", |world| world.clients[eve].heard.last() == Some(&taken));
        let again = world.ask_by(TLS, join(ROOM, Role::Sender, ALICE));
        world.until("hers", |world| world.clients[again].heard.last() == Some(&RelayMessage::Waiting));
    }
}

#[test]
fn sender_close_frees_its_name_on_any_transport() {
    for (number, kind) in kinds().into_iter().flatten().enumerate() {
        for receiver in [None, Some(TLS)] {
            let mut world = World::new();
            let (alice, bob) = world.pair_of(room(number), Some(kind.clone()), receiver);
            world.close(alice, close::DONE);
            world.until("notified", |world| world.clients[bob].is_over());
            world.close(bob, close::DONE);
            world.until("over", |world| is_empty(&world.relay));
            let eve = world.ask(join(room(number), Role::Sender, EVE));
            world.until("free", |world| world.clients[eve].heard.last() == Some(&RelayMessage::Waiting));
        }
    }
}

#[test]
fn second_stream_towards_tcp_peer_is_a_violation() {
    let mut world = World::new();
    let (alice, bob) = world.pair_of(ROOM, None, Some(TLS));
    let stream = world.open(alice);
    world.send(alice, stream, pattern(10, 1));
    world.until("closed", |world| world.clients[alice].closed.is_some());
    assert_eq!(world.clients[alice].close_code(), Some(close::VIOLATION));
    world.until("notified", |world| world.clients[bob].is_over());
}

#[test]
fn reset_of_first_stream_ends_pair_with_tcp_peer() {
    for stop in [false, true] {
        let mut world = World::new();
        let (alice, bob) = world.pair_of(ROOM, None, Some(websocket(true)));
        let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
        world.send(bob, b, pattern(10, 1));
        world.until("there", |world| got(world, alice, a).len() == 10);
        let Client { quic, conn, .. } = &mut world.clients[alice];
        if stop {
            quic.stop(*conn, a, 7)
        } else {
            quic.reset(*conn, a, 7)
        }
        world.touch(alice);
        world.send(bob, b, pattern(10, 1));
        world.until("notified", |world| world.clients[bob].is_over());
        assert_eq!(world.clients[bob].close_code(), Some(close::PEER_LOST));
        world.until("over", |world| is_empty(&world.relay));
    }
}

/// The total buffered between the two: a slow reader costs its windows and the systems' buffers.
#[test]
fn r08_slow_reader_blocks_tcp_writer() {
    for (sender, receiver) in [(None, TLS), (Some(TLS), websocket(false)), (Some(websocket(true)), TLS)] {
        let mut world = World::new();
        let (alice, bob) = world.pair_of(ROOM, sender.clone(), Some(receiver));
        world.clients[bob].lazy = true;
        let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
        world.send(alice, a, pattern(4 << 20, 1));
        let mut lowest = Config::WINDOW_BUDGET;
        for tenth in 0..600 {
            world.pass(millis(100));
            lowest = lowest.min(world.relay.budget.0);
            if tenth % 10 == 0 {
                world.clients[bob].read(KIB);
                world.touch(bob);
            }
        }
        let [moved] = world.relay.moved()[..] else { panic!("the pair is still there") };
        let read = got(&world, bob, b).len() as u64;
        // Without Bob's own window (64 KiB) and the system's buffers: what the relay buffers.
        let held = moved - read - SYSTEM as u64 - (64 << 10);
        assert!(held < 200 << 10, "{held}");
        assert!(world.clients[alice].has_unwritten(), "the rest waits at the sender");
        assert_eq!(lowest, Config::WINDOW_BUDGET, "nothing was acknowledged, so no window grew");
        let before = world.relay.visits();
        world.pass(secs(9));
        assert!(world.relay.visits() - before < 100, "and the relay does not spin");
        world.clients[bob].lazy = false;
        world.touch(bob);
        world.until("all data arrives", |world| got(world, bob, b).len() == 4 << 20);
        assert_eq!(got(&world, bob, b), pattern(4 << 20, 1));
    }
}

#[test]
fn tcp_windows_grow_by_acknowledged_bytes_within_budget() {
    // Between two TCP connections it is the systems' buffers that fill the path, not the windows.
    for (sender, receiver, grow) in
        [(None, Some(TLS), true), (Some(TLS), None, true), (Some(websocket(false)), Some(TLS), false)]
    {
        let budget = 300 << 10;
        let mut world = World::of(Config { window_budget: budget, ..config(generous()) });
        let (alice, bob) = world.pair_of(ROOM, sender, receiver);
        let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
        let (total, mut lowest) = (20 << 20, budget);
        world.send(alice, a, pattern(total, 1));
        world.until("all is there", |world| {
            lowest = lowest.min(world.relay.budget.0);
            got(world, bob, b).len() == total
        });
        assert_eq!(lowest < budget, grow, "{lowest}");
        assert_eq!(got(&world, bob, b), pattern(total, 1));
        world.close(alice, close::DONE);
        world.until("notified", |world| world.clients[bob].is_over());
        world.close(bob, close::DONE);
        world.until("over", |world| is_empty(&world.relay));
        assert_eq!(world.relay.budget.0, budget, "all is given back");
    }
}

/// R01: the deadline of a TCP connection is absolute, in every stage.
#[test]
fn r01_slow_tcp_connection_is_closed_after_ten_seconds() {
    let mut world = World::new();
    let silent = world.dial(TLS);
    world.clients[silent].cut = true;
    let begun = world.dial(TLS);
    let greeted = world.dial(websocket(true));
    world.say(greeted, &[hello()]);
    let pinging = world.dial(websocket(false));
    world.say(pinging, &[hello()]);
    let trickling = world.dial(TLS);
    world.send_raw(trickling, Bytes::from_static(&[0]));
    // A TLS record that arrives in single bytes.
    let bytewise = world.dial(TLS);
    world.clients[bytewise].tcp().mute();
    world.inject(bytewise, &[22]);
    for second in 1..=9 {
        world.pass(secs(1));
        if second % 5 == 0 {
            world.send_raw(trickling, Bytes::from_static(&[0]));
            world.inject(bytewise, &[3]);
        }
        world.say(pinging, &[ClientMessage::Ping]);
        assert_eq!(world.relay.legs(), 6, "{second}");
    }
    world.pass(millis(1500));
    assert_eq!(world.relay.legs(), 0);
    for client in [silent, begun, greeted, pinging, trickling, bytewise] {
        assert!(world.clients[client].cut || world.clients[client].is_over() || client == bytewise, "{client}");
    }
    assert_eq!(world.clients[greeted].close_code(), Some(close::TOO_SLOW));
    assert_eq!(world.clients[pinging].close_code(), Some(close::TOO_SLOW));
    world.pass(secs(2));
    assert!(world.relay.ports.connections.tcp_links.is_empty());
    let slow = world.events.iter().filter(|event| matches!(event, Event::Refused { reason: Refused::TooSlow }));
    assert_eq!(slow.count(), 6);
}

/// P01 on TCP connections: junk before, in and after the greeting.
#[test]
fn p01_junk_ends_only_its_own_tcp_connection() {
    let mut world = World::of(Config { tcp: Tcp::default(), ..config(generous()) });
    let (alice, bob) = world.pair_of(ROOM, Some(TLS), Some(websocket(true)));
    let mut junk: Vec<usize> =
        [&[0xFF; 4][..], b"SSH-2.0-x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &[22, 0, 0, 0, 0, 0, 0]]
            .iter()
            .map(|bytes| {
                let eve = world.dial(TLS);
                world.clients[eve].tcp().mute();
                world.inject(eve, bytes);
                eve
            })
            .collect();
    for kind in [TLS, websocket(true)] {
        for bytes in [Bytes::from_static(&[0xFF; 4]), enclose(&[0xC8, 1, 2, 3]), Bytes::from_static(&[0; 100_000])] {
            let eve = world.dial(kind.clone());
            world.say(eve, &[hello()]);
            world.send_raw(eve, bytes);
            junk.push(eve);
        }
    }
    world.pass(secs(1));
    assert_eq!(world.relay.legs(), 2);
    let refused = world.events.iter().filter(|event| matches!(event, Event::Refused { reason: Refused::Violation }));
    assert_eq!(refused.count(), junk.len());
    for &eve in &junk[7..] {
        assert_eq!(world.clients[eve].close_code(), Some(close::VIOLATION));
    }
    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.send(alice, a, pattern(100, 1));
    world.until("undisturbed", |world| got(world, bob, b) == pattern(100, 1));
    world.pass(secs(2));
    assert_eq!(world.relay.ports.connections.tcp_links.len(), 2, "the others are removed");
}

#[test]
fn plain_websocket_needs_loopback_or_reverse_proxy() {
    for (addr, behind_proxy, taken) in [
        ("[::]:4433", false, false),
        ("[::]:4433", true, true),
        ("127.0.0.1:4433", false, true),
        ("[::1]:4433", false, true),
    ] {
        let tcp = Tcp { behind_proxy, ..Tcp::default() };
        let mut world = World::of(Config { listen: vec![addr.parse().unwrap()], tcp, ..config(generous()) });
        let client = world.ask_by(websocket(false), join(ROOM, Role::Sender, ALICE));
        world.until("an answer", |world| world.clients[client].is_over() || world.clients[client].heard.len() == 2);
        assert_eq!(world.clients[client].heard.len() == 2, taken, "{addr} {behind_proxy}");
    }
}

/// Many clients behind one address: connections that send nothing do not exclude the other clients.
#[test]
fn silent_tcp_connections_do_not_exclude_their_address() {
    let ip = IpAddr::from([192, 0, 2, 99]);
    let mut world = World::of(config(Limits::default()));
    let mut silent = Vec::new();
    for _ in 0..300 {
        let client = world.dial_from(TLS, ListenerId(0), ip);
        world.clients[client].cut = true;
        world.touch(client);
        silent.push(client);
    }
    world.flush();
    assert_eq!(world.relay.legs(), 16);
    world.pass(secs(1));
    let alice = world.dial_from(TLS, ListenerId(0), ip);
    world.say(alice, &[hello(), join(ROOM, Role::Sender, ALICE)]);
    world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
    assert_eq!(world.relay.legs(), 16);
}

/// A WebSocket answers pings, so the relay detects a dead machine before it pairs the leg.
#[test]
fn dead_websocket_is_not_paired() {
    let mut world = World::new();
    let alice = world.ask_by(websocket(true), join(ROOM, Role::Sender, ALICE));
    world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
    world.pass(secs(1));
    let bob = world.ask_by(TLS, join(ROOM, Role::Receiver, BOB));
    world.until("paired", |world| world.clients[bob].streams.is_some());
    world.close(bob, close::DONE);
    world.close(alice, close::DONE);
    world.until("over", |world| is_empty(&world.relay));

    let alice = world.ask_by(websocket(true), join(ROOM, Role::Sender, ALICE));
    world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
    world.clients[alice].cut = true;
    world.pass(secs(1));
    let (asked, bob) = (world.now, world.ask_by(TLS, join(ROOM, Role::Receiver, BOB)));
    world.until("an answer", |world| world.clients[bob].heard.len() == 2);
    let nobody = RelayMessage::Refused { reason: RefusalReason::NobodyWaits, retry_after: 5 };
    assert_eq!(world.clients[bob].heard[1], nobody);
    assert!(world.now - asked < millis(2200), "{:?}", world.now - asked);
}

/// A flood of TCP connections costs only the call that refuses each.
#[test]
fn tcp_connections_are_bounded_per_source_and_half_open() {
    let ip = IpAddr::from([192, 0, 2, 99]);
    let limits = Limits { connections_per_source: 40, ..generous() };
    let mut world = World::of(config(limits));
    let flood: Vec<_> = (0..100).map(|_| world.dial_from(TLS, ListenerId(1), ip)).collect();
    assert_eq!(world.relay.legs(), 16);
    world.flush();
    assert_eq!(world.relay.ports.connections.tcp_links.len(), 16, "the others are closed");
    assert!(flood[84..].iter().all(|&client| !world.clients[client].is_over()), "the newest are served");
    world.pass(millis(500));
    for _ in 0..100 {
        world.dial_from(TLS, ListenerId(0), ip);
    }
    world.pass(millis(500));
    assert_eq!(world.relay.legs(), 32);
    for _ in 0..100 {
        world.dial_from(TLS, ListenerId(0), ip);
    }
    assert_eq!(world.relay.legs(), 40);
    let other = world.ask_by(TLS, join(ROOM, Role::Sender, ALICE));
    world.until("other sources are served", |world| world.clients[other].heard.last() == Some(&RelayMessage::Waiting));
    world.pass(secs(12));
    assert_eq!((world.relay.legs(), world.relay.ports.connections.tcp_links.len()), (1, 1));
}

#[test]
fn tcp_connections_count_towards_total_until_freed() {
    let mut world = World::of(config(Limits { max_connections: 3, ..generous() }));
    let (alice, bob) = world.pair_of(ROOM, None, Some(TLS));
    let third = world.dial(TLS);
    world.say(third, &[hello()]);
    world.until("greeted", |world| !world.clients[third].heard.is_empty());
    let fourth = world.dial(TLS);
    assert_eq!(world.clients[fourth].tcp().id, None);
    assert!(matches!(world.relay.poll_event(), Some(Event::Refused { reason: Refused::Full })));

    // A client that broke a rule is no leg any more, but it has a second to receive the reason.
    world.send_raw(third, enclose(&[0xC8]));
    world.until("dismissed", |world| world.relay.legs() == 2);
    world.close(alice, close::DONE);
    world.close(bob, close::DONE);
    world.until("over", |world| world.relay.legs() == 0);
    let many: Vec<_> = (0..3).map(|_| world.dial(TLS)).collect();
    let taken = many.iter().filter(|&&client| world.clients[client].tcp().id.is_some()).count();
    assert!(taken < 3, "{taken}");
    world.pass(secs(3));
    let fifth = world.ask_by(TLS, join(room(9), Role::Sender, ALICE));
    world.until("a place", |world| world.clients[fifth].heard.last() == Some(&RelayMessage::Waiting));
}

/// The relay drops data for a peer that is closed, so that it notices the end after the data.
#[test]
fn tcp_bytes_for_lost_peer_are_discarded_until_eof() {
    for sender in [None, Some(websocket(true))] {
        let mut world = World::new();
        let (alice, bob) = world.pair_of(ROOM, sender, Some(TLS));
        world.clients[alice].lazy = true;
        let b = world.clients[bob].main();
        world.send(bob, b, pattern(8 << 20, 1));
        world.pass(secs(3));
        assert!(world.clients[bob].has_unwritten());
        world.close(alice, close::ENDED);
        let start = world.now;
        world.until("notified", |world| world.clients[bob].is_over());
        world.until("delivered", |world| !world.clients[bob].has_unwritten());
        world.finish(bob, b);
        world.until("over", |world| is_empty(&world.relay) && world.relay.ports.connections.tcp_links.is_empty());
        assert!(world.now - start < secs(10), "{:?}", world.now - start);
    }
}

#[test]
fn tcp_connection_rate_is_limited_per_source() {
    let ip = IpAddr::from([192, 0, 2, 99]);
    let mut world = World::of(config(Limits { joins_per_minute: 10, ..generous() }));
    let mut taken = 0;
    for _ in 0..60 {
        let client = world.dial_from(TLS, ListenerId(0), ip);
        taken += usize::from(world.clients[client].tcp().id.is_some());
        world.pass(millis(100));
        world.close(client, close::DONE);
        world.pass(millis(900));
    }
    assert!((25..=32).contains(&taken), "{taken}");
}

#[test]
fn draining_relay_notifies_tcp_clients_and_refuses_new() {
    for kind in kinds().into_iter().flatten() {
        let mut world = World::new();
        let (alice, bob) = world.pair_of(ROOM, Some(kind.clone()), Some(kind.clone()));
        let waits = world.ask_by(kind.clone(), join(room(8), Role::Sender, EVE));
        let silent = world.dial(kind.clone());
        world.until("waiting", |world| world.clients[waits].heard.contains(&RelayMessage::Waiting));
        world.command(Command::Drain { within: secs(20) });
        let start = world.now;
        world.until("notified", |world| world.clients[waits].is_over() && world.clients[silent].is_over());
        let told = RelayMessage::Refused { reason: RefusalReason::ShuttingDown, retry_after: 0 };
        assert_eq!(world.clients[waits].heard.last(), Some(&told));
        assert_eq!(world.unlistened, [ListenerId(0), ListenerId(1)]);
        let late = world.dial(kind.clone());
        assert_eq!(world.clients[late].tcp().id, None);

        let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
        world.send(alice, a, pattern(100, 1));
        world.until("it goes on", |world| got(world, bob, b).len() == 100);
        assert!(!world.relay.is_closed());
        world.until("over", |world| world.clients[alice].is_over() && world.clients[bob].is_over());
        assert!(world.now - start >= secs(20) && world.now - start < secs(21), "{kind:?}");
        if kind != TLS {
            for client in [alice, bob] {
                assert_eq!(world.clients[client].close_code(), Some(close::SHUTTING_DOWN));
            }
            assert_eq!(world.clients[waits].close_code(), Some(close::SHUTTING_DOWN));
        }
        world.until("closed", |world| world.relay.is_closed());
    }
}

/// The work of one wake-up does not depend on the number of idle TCP connections.
fn work_among(idle: usize) -> u64 {
    let mut world = World::new();
    for index in 0..idle {
        let mut room = [0; 32];
        room[..8].copy_from_slice(&index.to_be_bytes());
        world.ask_by(TLS, join(RoomId(room), Role::Sender, ALICE));
        world.pass(millis(100));
    }
    let (alice, bob) = world.pair_of(room(200), Some(TLS), Some(TLS));
    world.pass(secs(1));
    assert_eq!(world.relay.guard.connections(), idle + 2);
    let before = world.relay.visits();
    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.send(alice, a, pattern(64 * KIB, 1));
    world.until("there", |world| got(world, bob, b).len() == 64 * KIB);
    world.relay.visits() - before
}

#[test]
fn wake_up_work_is_constant_in_tcp_connections() {
    assert_eq!(work_among(5), work_among(200));
}
