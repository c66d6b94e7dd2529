//! What waits behind a shared socket, as it is on the heap, when one of its nodes takes nothing and everybody sends: at
//! most the bound that `share` states.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tallow_proto::drive::Received;
use tallow_proto::net::{Ecn, SlotKey};
use tallow_proto::seed::Seed;
use tallow_proto::share::{COPIES_A_SECOND, LEAST_WAITING, MOST_WAITING, REMEMBERED, Switch};
use tallow_tests::heap::{self, Heap};

#[global_allocator]
static ALLOCATOR: &heap::Allocator = heap::ALLOCATOR;

tallow_tests::measured_tests!(
    a_slot_that_takes_nothing_costs_its_bound,
    copies_for_all_slots_cost_the_bound_of_each,
    remembered_addresses_are_bounded,
);

fn key() -> SlotKey {
    SlotKey::new(&Seed::new([1; 32]))
}

fn switch(slots: u16) -> Switch {
    let mut switch = Switch::new(key(), false);
    assert!((0..slots).all(|slot| switch.join(slot)));
    switch
}

fn from(number: u32) -> SocketAddr {
    SocketAddr::from((number.to_be_bytes(), 4433))
}

/// Slot 0 receives this.
fn sort(switch: &mut Switch, now: Instant, data: &[u8], stride: usize) {
    let (mut data, mut others) = (data.to_vec(), Vec::new());
    let mut received = Received { from: from(7), local_ip: None, ecn: Ecn::NotEct, len: data.len(), stride };
    switch.sort(now, 0, &mut received, &mut data, &mut others);
}

/// A packet for a slot, of so many bytes.
fn packet(slot: u16, len: usize) -> Vec<u8> {
    let mut mark = [3; 8];
    key().slot(slot).mark(&mut mark);
    let mut packet = [&[0x40][..], &mark].concat();
    packet.resize(len, 0);
    packet
}

fn a_slot_that_takes_nothing_costs_its_bound() {
    let now = Instant::now();
    for (len, joined) in [(9, 1), (60, 1), (1452, 1), (1452, 44), (65_000, 1)] {
        let heap = Heap::measure();
        let mut switch = switch(2);
        let data = packet(1, len).repeat(joined);
        heap.restart();
        (0..20_000).for_each(|_| sort(&mut switch, now, &data, len));
        let grown = heap.growth();
        assert!(switch.lost(1) > 0, "it was filled with packets of {len} bytes");
        assert!(grown <= MOST_WAITING, "packets of {len} bytes: {grown}");
        assert!(grown >= MOST_WAITING / 3, "packets of {len} bytes: {grown}");
        // What is taken is free again.
        let (mut buf, mut received) = (vec![0; 65_536], [Received::NONE]);
        while switch.take(1, &mut [IoSliceMut::new(&mut buf)], &mut received) > 0 {}
        drop(buf);
        assert!(heap.growth() <= 16 << 10, "{} are left", heap.growth());
    }
}

fn copies_for_all_slots_cost_the_bound_of_each() {
    const SLOTS: u16 = 600;
    let mut switch = switch(SLOTS);
    (0..SLOTS).for_each(|slot| switch.note(slot, from(7)));
    let heap = Heap::measure();
    let mut now = Instant::now();
    for step in 0_u64..4000 {
        let mut reset = vec![0x40; 1400];
        reset[1..9].copy_from_slice(&step.to_be_bytes());
        sort(&mut switch, now, &reset, 1400);
        now += Duration::from_secs(u64::from(SLOTS)) / COPIES_A_SECOND;
    }
    assert!((1..SLOTS).all(|slot| switch.lost(slot) > 0), "all are filled");
    let bound = usize::from(SLOTS) * LEAST_WAITING;
    assert!(heap.growth() <= bound, "{} of {bound}", heap.growth());
}

fn remembered_addresses_are_bounded() {
    let mut switch = switch(50);
    let heap = Heap::measure();
    for number in 0..200_000_u32 {
        switch.note((number % 50) as u16, from(number));
    }
    // An address of each slot is in a list, and in a map with a set of its own.
    let bound = 50 * REMEMBERED * 512;
    assert!(heap.growth() <= bound, "{} of {bound}", heap.growth());
}
