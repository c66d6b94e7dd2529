#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use super::window::{MAX_WINDOW, MIN_WINDOW, PIECE, fit};
use super::*;

const KIB: u64 = 1 << 10;

fn window() -> Window {
    let leg = ConnectionId::Quic(crate::net::SocketId(0), crate::link::quic::ConnId(0));
    let mut window = Window::new(Instant::now(), leg);
    window.unproven = 0;
    window
}

const MILLIS: Duration = Duration::from_millis(1);

#[test]
fn window_grows_to_twice_acknowledged_bytes_per_rtt() {
    let mut budget = Budget(100 << 20);
    let mut one = window();
    // 1 MiB in 20 ms, the round trip is 10 ms.
    one.proven = 1 << 20;
    one.resize(MILLIS * 10, MILLIS * 20, &mut budget);
    assert_eq!((one.size, budget.0), (1 << 20, (100 << 20) - (1 << 20) + WINDOW));
    assert_eq!(one.unproven, (1 << 20) - WINDOW, "bytes that only fill the window prove nothing");
    one.proven = 1 << 30;
    one.resize(MILLIS * 10, MILLIS * 10, &mut budget);
    assert_eq!(one.size, MAX_WINDOW);
}

#[test]
fn window_shrinks_by_halves_and_returns_budget() {
    let mut budget = Budget(1 << 20);
    let mut one = window();
    one.proven = 512 * KIB;
    one.resize(MILLIS, MILLIS, &mut budget);
    assert_eq!(one.size, 1 << 20);
    for expected in [512 * KIB, 256 * KIB, 128 * KIB, WINDOW, WINDOW] {
        one.proven = 0;
        one.resize(MILLIS, MILLIS, &mut budget);
        assert_eq!(one.size, expected);
    }
    assert_eq!(budget.0, 1 << 20);
    // A slightly lower rate changes nothing.
    one.size = 1 << 20;
    one.proven = 300 * KIB;
    one.resize(MILLIS, MILLIS, &mut budget);
    assert_eq!(one.size, 1 << 20);
}

#[test]
fn a_window_takes_no_more_than_the_budget_has() {
    let mut budget = Budget(10);
    let mut one = window();
    one.proven = 1 << 20;
    one.resize(MILLIS, MILLIS, &mut budget);
    assert_eq!((one.size, budget.0), (WINDOW + 10, 0));
}

#[test]
fn small_pieces_make_the_writers_window_small() {
    let fit = |bytes, pieces| fit(WINDOW, Moved { bytes, pieces });
    assert_eq!(fit(1_000_000, 800), WINDOW, "whole datagrams");
    assert_eq!(fit(0, 0), WINDOW);
    assert_eq!(fit(1000, 1000), MIN_WINDOW);
    let at_100 = fit(100_000, 1000);
    assert!(at_100 > 20 * KIB && at_100 < 40 * KIB, "{at_100}");
    // Pieces and their overhead never take more than the window.
    for size in 8..512 {
        let pieces = fit(size * 1000, 1000) / size;
        assert!(pieces * (size + PIECE) <= WINDOW, "{size}");
    }
}

#[test]
fn small_pieces_are_copied_together_and_large_ones_are_not() {
    let mut world = super::super::world::World::new();
    let (alice, _) = world.pair(super::super::world::ROOM);
    let mut flow = Flow::new(world.open(alice));
    let datagram = Bytes::from(vec![1; 1200]);
    flow.take_in(vec![datagram.slice(..1), datagram.slice(1..3), datagram.slice(3..5)]);
    assert_eq!((flow.held.len(), flow.held_bytes), (1, 5));
    let held = flow.held[0].as_ptr() as usize;
    let whole = datagram.as_ptr() as usize;
    assert!(!(whole..whole + 1200).contains(&held), "the copy does not keep the datagram in memory");
    flow.take_in(vec![datagram.clone()]);
    assert_eq!(flow.held[1].as_ptr(), datagram.as_ptr());
    assert_eq!(flow.held_bytes, 1205);
    flow.take_in(Vec::new());
    assert_eq!(flow.held.len(), 2);
}

#[test]
fn tcp_pieces_are_merged_and_first_buffered_bytes_ignored() {
    let mut world = super::super::world::World::new();
    let (alice, _) = world.pair(super::super::world::ROOM);
    let main = world.clients[alice].main();
    let to = ConnectionId::Tcp(crate::net::TcpId(1));
    let mut flow = Flow { small: SMALL_FOR_TCP, ..Flow::new(main) };
    flow.take_in(vec![Bytes::from(vec![1; 1200]); 40]);
    assert_eq!((flow.held.len(), flow.held_bytes), (1, 48_000));
    flow.take_in(vec![Bytes::from(vec![1; 16 << 10]); 3]);
    assert_eq!(flow.held.len(), 4);
    assert_eq!(Window::new(Instant::now(), to).unproven, WINDOW + (4 << 20));
}
