//! Sender and receiver machines with a rate limit on either side, on a clock that advances only when nothing else
//! happens.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::limit::BURST;
use super::memory::{MemorySink, MemorySource};
use super::tests::{K64, World, noise, one_file, path, seed};
use super::window::cost;
use super::*;
use crate::Instant;
use crate::transfer::storage::Source;

/// The largest size of a sealed chunk of the files below.
const SEALED: u64 = (K64 + 256) as u64;

fn limited(source: MemorySource, sender: Option<u64>, receiver: Option<u64>) -> World {
    let rate = |rate: Option<u64>| rate.and_then(NonZeroU64::new);
    let mut world = World::new(source, MemorySink::new(), Compression::Off);
    let config = sender::Config { cores: 2, compression: Compression::Off, is_strict: false };
    let source = Arc::<MemorySource>::clone(&world.source) as Arc<dyn Source>;
    world.sender = sender::Sender::new(config, source, &seed(1)).with_limit(rate(sender));
    world.sender.begin(world.now);
    world.receiver = receiver::Receiver::new(receiver::Config { cores: 2 }, seed(2)).with_limit(rate(receiver));
    world
}

/// Runs to the end, and returns when each chunk left the sender. `late`: how much later than its deadline a timer
/// fires.
fn run(world: &mut World, late: Duration) -> Vec<(Instant, u64)> {
    let mut left = Vec::new();
    for _ in 0..100_000 {
        while world.step(&mut |_| 0) {}
        left.resize(world.moved.len(), (world.now, SEALED));
        if world.received.is_some() && world.sent.is_some() {
            return left;
        }
        let due = [world.sender.poll_timeout(), world.receiver.poll_timeout()].into_iter().flatten().min();
        world.now = world.now.max(due.expect("nothing moves, and nothing is due")) + late;
        world.sender.handle_timeout(world.now);
        world.receiver.handle_timeout(world.now);
    }
    panic!("it never ends");
}

#[test]
fn chunks_larger_than_rate_arrive_without_stall() {
    // A rate of 1 is raised to the lowest rate: a chunk takes 4 s.
    for (sender, receiver) in [(Some(1), None), (None, Some(1)), (Some(1), Some(1))] {
        let mut world = limited(one_file(K64 * 20), sender, receiver);
        let start = world.now;
        run(&mut world, Duration::ZERO);
        world.check_complete();
        assert!(world.now - start > Duration::from_secs(4 * 15), "{:?}", world.now - start);
    }
}

#[test]
fn resent_chunks_are_rate_limited() {
    let mut world = limited(one_file(K64 * 10), Some(K64 as u64), None);
    let start = world.now;
    while world.step(&mut |_| 0) {}
    assert_eq!(world.moved, [0]);
    world.lose_link();
    run(&mut world, Duration::ZERO);
    world.check_complete();
    assert_eq!(world.moved.len(), 10, "the first one was acknowledged before");
    assert!(world.now - start >= Duration::from_secs(9));
}

#[test]
fn link_changes_do_not_add_rate_credit() {
    let rate = K64 as u64;
    let mut world = limited(one_file(K64 * 100), None, Some(rate));
    let start = world.now;
    while world.received.is_none() {
        while world.step(&mut |_| 0) {}
        let fresh = world.moved.iter().collect::<std::collections::BTreeSet<_>>().len() as u64;
        let credit = 2 * cost(SEALED as usize);
        let allowed = (world.now - start).as_secs_f64() * rate as f64 + 2.0 * credit as f64;
        assert!((fresh * K64 as u64) as f64 <= allowed, "{fresh} chunks after {:?}", world.now - start);
        world.now += Duration::from_millis(400);
        world.lose_link();
        world.receiver.handle_timeout(world.now);
    }
    while world.step(&mut |_| 0) {}
    world.check_complete();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sender_keeps_its_rate_limit(
        rate in prop_oneof![Just(LEAST_RATE), Just(1 << 16), 100_000..50_000_000_u64],
        sizes in proptest::collection::vec(0..7_usize, 1..8),
        late in 0..50_u64,
    ) {
        let source = sizes.iter().enumerate().fold(MemorySource::new(), |source, (number, size)| {
            source.with_file(path(&format!("f{number}")), noise(number as u64, *size * K64))
        });
        let mut world = limited(source, Some(rate), None);
        let start = world.now;
        let left = run(&mut world, Duration::from_millis(late));
        world.check_complete();
        for (first, (from, _)) in left.iter().enumerate() {
            let mut sum = 0_u128;
            for (at, bytes) in left.iter().skip(first) {
                sum += u128::from(*bytes);
                let time = (*at - *from + BURST).as_nanos();
                let allowed = u128::from(rate) * time / 1_000_000_000 + u128::from(2 * SEALED);
                prop_assert!(sum <= allowed, "{sum} where {allowed} may pass");
            }
        }
        // The sender is never idle: it makes up for late timers.
        let bytes = left.len() as u64 * SEALED;
        let allowed = Duration::from_secs_f64(bytes as f64 / rate as f64) + Duration::from_millis(2 * late + 1);
        prop_assert!(world.now - start <= allowed, "{:?} for {bytes} bytes", world.now - start);
    }

    #[test]
    fn receiver_keeps_its_rate_limit(
        rate in prop_oneof![Just(LEAST_RATE), 100_000..50_000_000_u64],
        chunks in 1..120_usize,
    ) {
        let mut world = limited(one_file(K64 * chunks), None, Some(rate));
        let start = world.now;
        let left = run(&mut world, Duration::ZERO);
        world.check_complete();
        let credit = rate.max(2 * cost(SEALED as usize)).min(CREDIT.into());
        let mut sum = 0;
        for (at, _) in &left {
            sum += K64 as u64;
            let allowed = (*at - start).as_secs_f64() * rate as f64 + (credit + 2 * SEALED) as f64;
            prop_assert!(sum as f64 <= allowed, "{sum} after {:?} where {allowed} may be under way", *at - start);
        }
        let sent = left.len() as f64 * SEALED as f64;
        let allowed = Duration::from_secs_f64(sent / rate as f64) + Duration::from_millis(1);
        prop_assert!(world.now - start <= allowed, "{:?} for {sum} bytes", world.now - start);
    }
}
