use std::time::Duration;

use super::*;
use crate::net::{Ecn, Slot};
use crate::seed::Seed;
use crate::share::COPIES_A_SECOND;

fn key() -> SlotKey {
    SlotKey::new(&Seed::new([5; 32]))
}

fn slot(number: u16) -> Slot {
    key().slot(number)
}

fn relay() -> SocketAddr {
    "192.0.2.1:4433".parse().unwrap()
}

fn mark(slot: Slot, salt: u8) -> [u8; 8] {
    let mut mark = [salt, 2, 3, 4, 5, 0, 0, 0];
    slot.mark(&mut mark);
    mark
}

/// A packet with a short header, of so many bytes.
fn short(slot: Slot, len: usize) -> Vec<u8> {
    let mut packet = vec![0x40];
    packet.extend_from_slice(&mark(slot, 1));
    packet.resize(len, 9);
    packet
}

/// A packet with a long header, with this destination connection id.
fn long(id: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xC0, 0, 0, 0, 1, u8::try_from(id.len()).unwrap()];
    packet.extend_from_slice(id);
    packet.resize(1200, 0);
    packet
}

/// Slots 1 to `count` behind one socket.
fn switch(count: u16) -> Switch {
    let mut switch = Switch::new(key(), false);
    assert!((1..=count).all(|slot| switch.join(slot)));
    switch
}

fn filled(data: &[u8], stride: usize) -> Received {
    Received { from: relay(), local_ip: None, ecn: Ecn::Ect0, len: data.len(), stride }
}

/// What slot 1 keeps of a buffer that it received, and for whom else there was something.
fn sort(switch: &mut Switch, data: &[u8], stride: usize) -> (Vec<u8>, Vec<u16>) {
    let (mut data, mut received, mut others) = (data.to_vec(), filled(data, stride), Vec::new());
    switch.sort(Instant::now(), 1, &mut received, &mut data, &mut others);
    data.truncate(received.len);
    (data, others)
}

/// All that waits for a slot, in the runs that it comes in.
fn taken(switch: &mut Switch, slot: u16) -> Vec<(usize, Vec<u8>)> {
    let mut all = Vec::new();
    let mut buf = vec![0; 64 << 10];
    loop {
        let mut received = [Received::NONE];
        if switch.take(slot, &mut [IoSliceMut::new(&mut buf)], &mut received) == 0 {
            return all;
        }
        assert_eq!((received[0].from, received[0].ecn), (relay(), Ecn::Ect0));
        all.push((received[0].stride, buf[..received[0].len].to_vec()));
    }
}

#[test]
fn joined_datagrams_of_several_slots_are_sorted() {
    let mut switch = switch(3);
    let order = [1, 1, 2, 2, 3, 1, 2];
    let mut joined: Vec<u8> = order.into_iter().flat_map(|number| short(slot(number), 100)).collect();
    joined.truncate(660);
    let (kept, others) = sort(&mut switch, &joined, 100);
    assert_eq!(kept, [short(slot(1), 100), short(slot(1), 100), short(slot(1), 100)].concat());
    assert_eq!(others, [2, 3, 2]);
    let second = [(100, [short(slot(2), 100), short(slot(2), 100)].concat()), (100, short(slot(2), 60))];
    assert_eq!(taken(&mut switch, 2), second, "the last one is shorter");
    assert_eq!(taken(&mut switch, 3), [(100, short(slot(3), 100))]);
}

#[test]
fn a_slot_alone_keeps_everything_where_it_is() {
    let mut switch = switch(1);
    let anything = [short(slot(9), 100), vec![0; 100]].concat();
    assert_eq!(sort(&mut switch, &anything, 100), (anything, vec![]));
}

#[test]
fn marks_lead_to_one_slot_wherever_they_stand() {
    let mut switch = switch(3);
    let stun = [&[1, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &mark(slot(2), 7), &[0; 4]].concat();
    let probe = [&[12, b't', b'l', b'w'][..], &mark(slot(2), 8), &[0; 8]].concat();
    let first = long(&[&mark(slot(2), 9)[..], &[1; 8]].concat());
    for datagram in [short(slot(2), 21), long(&mark(slot(2), 1)), first, stun, probe] {
        assert_eq!(sort(&mut switch, &datagram, datagram.len()), (vec![], vec![2]));
        assert_eq!(taken(&mut switch, 2), [(datagram.len(), datagram)]);
    }
    // One byte off, another length of the id, a slot that is not there, nothing at all.
    let stray = [
        long(&[1; 8]),
        long(&[&mark(slot(2), 9)[..], &[1; 7]].concat()),
        long(&mark(slot(4), 1)),
        vec![0xC0, 0, 0, 0, 1, 8, 1],
        vec![0x40, 1, 2, 3],
        vec![0x20; 100],
        vec![0x40],
    ];
    for datagram in stray {
        assert_eq!(sort(&mut switch, &datagram, datagram.len()), (vec![], vec![]), "{datagram:?}");
    }
}

#[test]
fn a_reset_goes_to_those_that_sent_there() {
    let mut switch = switch(4);
    let reset = [&[0x41][..], &[0x77; 40]].concat();
    assert_eq!(sort(&mut switch, &reset, 41), (vec![], vec![]));
    switch.note(1, relay());
    switch.note(3, "[::ffff:192.0.2.1]:4433".parse().unwrap());
    switch.note(4, "192.0.2.1:4434".parse().unwrap());
    assert_eq!(sort(&mut switch, &reset, 41), (reset.clone(), vec![3]));
    assert_eq!(taken(&mut switch, 3), [(41, reset.clone())]);
    // Those that left, or went elsewhere since, are not asked.
    switch.leave(3);
    for port in 0..16 {
        switch.note(1, SocketAddr::from(([192, 0, 2, 9], port)));
    }
    assert_eq!(sort(&mut switch, &reset, 41), (vec![], vec![]));
    assert!(switch.join(3));
    assert_eq!(sort(&mut switch, &reset, 41), (vec![], vec![]));
}

#[test]
fn a_destination_in_use_is_not_forgotten() {
    let mut switch = switch(2);
    for port in 0..200 {
        switch.note(2, relay());
        switch.note(2, SocketAddr::from(([192, 0, 2, 9], port)));
    }
    assert_eq!(sort(&mut switch, &[0x41; 41], 41).1, [2]);
    assert_eq!(switch.routes.sizes(), (16, 16), "a bound");
}

#[test]
fn copies_for_many_slots_are_limited_in_a_second() {
    let mut switch = switch(200);
    (1..=200).for_each(|slot| switch.note(slot, relay()));
    let start = Instant::now();
    let mut copies = 0;
    for step in 0..4000 {
        let mut reset = [0x41; 41];
        let (mut received, mut others) = (filled(&reset, 41), Vec::new());
        let now = start + Duration::from_micros(step * 500);
        switch.sort(now, 1, &mut received, &mut reset, &mut others);
        copies += others.len();
        others.iter().for_each(|&slot| drop(taken(&mut switch, slot)));
    }
    let allowed = 2 * COPIES_A_SECOND as usize + 4096;
    assert!((allowed * 9 / 10..=allowed).contains(&copies), "{copies} of {allowed}");
}

#[test]
fn a_slot_that_takes_nothing_loses_its_own_only() {
    let mut switch = switch(3);
    for _ in 0..3000 {
        sort(&mut switch, &short(slot(2), 1400), 1400);
        sort(&mut switch, &short(slot(3), 1400), 1400);
        assert_eq!(taken(&mut switch, 3).len(), 1);
    }
    assert_eq!((switch.lost(3), switch.lost(1)), (0, 0));
    let kept = taken(&mut switch, 2).len();
    assert_eq!(switch.lost(2), 3000 - kept as u64);
    assert!(kept * (1400 + ENTRY) <= MOST_WAITING && (kept + 1) * (1400 + ENTRY) > MOST_WAITING);
    sort(&mut switch, &short(slot(2), 1400), 1400);
    assert_eq!(taken(&mut switch, 2).len(), 1, "it has room again");
}

#[test]
fn many_slots_share_what_may_wait() {
    let mut switch = switch(256);
    (0..300).for_each(|_| drop(sort(&mut switch, &short(slot(2), 1400), 1400)));
    let kept = taken(&mut switch, 2).len();
    assert!((WAITING / 256 - 2000..=WAITING / 256).contains(&(kept * (1400 + ENTRY))), "{kept}");
}

#[test]
fn a_multicast_socket_gives_everything_to_all() {
    let mut switch = Switch::new(key(), true);
    assert!(switch.join(1));
    let query = vec![0; 30];
    assert_eq!(sort(&mut switch, &query, 30), (query.clone(), vec![]));
    assert!(switch.join(2) && switch.join(3) && !switch.join(3));
    assert_eq!(sort(&mut switch, &query, 30), (query.clone(), vec![2, 3]));
    assert_eq!(taken(&mut switch, 3), [(30, query)]);
}

#[test]
fn what_comes_for_a_slot_that_does_not_receive_is_not_lost() {
    let mut switch = switch(2);
    let (mut data, mut others) = (short(slot(1), 50), Vec::new());
    let mut received = filled(&data, 50);
    switch.sort(Instant::now(), 2, &mut received, &mut data, &mut others);
    assert_eq!((received.len, &others[..], switch.has_waiting(1)), (0, &[1][..], true));
}
