//! What paired clients observe of the relay between them: streams, ends, back-pressure, windows.

#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use proptest::prelude::*;

use super::super::world::*;
use super::tests::{KIB, closed_rooms, got, is_empty, millis, secs, wait_closed};
use super::*;
use crate::link::quic::{MAX_STREAM_WINDOW, Stream};
use crate::wire::relay::RoomId;

#[test]
fn sixteen_streams_each_way_are_forwarded_in_order() {
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
    // When one stream ends, another may start.
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
fn one_direction_may_end_while_other_continues() {
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
fn resets_and_stops_are_forwarded() {
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
    // The other streams continue.
    let three = world.open(alice);
    world.send(alice, three, pattern(10, 3));
    world.until("more", |world| world.clients[bob].got.values().any(|got| *got == pattern(10, 3)));
    assert_eq!(world.relay.pairs.values().next().unwrap().pair.legs().len(), 2);
}

#[test]
fn bytes_sent_before_close_are_delivered() {
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
    assert_eq!(early, 0, "the relay buffers it");
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
fn unread_final_bytes_are_dropped_after_timeout() {
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

/// What the relay buffers for the pair: bytes in, less bytes out, including headers.
fn buffered(world: &mut World, from: usize, to: usize) -> u64 {
    let pair = world.relay.pairs.values().next().unwrap();
    let sender = pair.pair.legs()[from];
    let ConnectionId::Quic(socket, conn) = sender else { panic!() };
    let received = world.relay.ports.connections.endpoint(socket).unwrap().stats(conn).unwrap().received_bytes;
    let Client { quic, conn, .. } = &world.clients[to];
    received.saturating_sub(quic.stats(*conn).unwrap().received_bytes)
}

/// R08: a fast sender and a receiver that reads 1 KiB/s. The relay buffers little, on one stream and on all together.
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
        assert_eq!(world.relay.budget.0, Config::WINDOW_BUDGET, "nothing was acknowledged, so no window grew");
    }
}

#[test]
fn windows_follow_other_leg_and_shrink_when_idle() {
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
    assert_eq!(world.relay.budget.0, Config::WINDOW_BUDGET, "the windows are small again");
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
fn slow_pairs_do_not_slow_healthy_pair() {
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

    /// Any data, written at any time on any stream and read in any way, arrives complete and in order.
    #[test]
    fn all_written_bytes_arrive_in_order(ops in prop::collection::vec(op(), 1..60), narrow: bool) {
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
