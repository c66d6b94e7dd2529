#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use proptest::prelude::*;

use super::*;

fn source(text: &str) -> Source {
    Source::of(SocketAddr::new(text.parse().unwrap(), 1234))
}

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_source_is_an_ipv4_address_or_an_ipv6_network_of_64_bits() {
    assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
    assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
    assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
    assert_eq!(Source::of("192.0.2.1:1".parse().unwrap()), Source::of("192.0.2.1:2".parse().unwrap()));
}

#[test]
fn source_debug_output_hides_address() {
    let shown = format!("{:?} {:?}", source("192.0.2.77"), Buckets::new(Rate::per_minute(1), 1));
    assert!(!shown.contains("192") && !shown.contains("77"), "{shown}");
}

#[test]
fn bucket_allows_burst_then_one_per_interval() {
    let (now, one) = (Instant::now(), source("192.0.2.1"));
    let mut buckets = Buckets::new(Rate::per_minute(6), 10);
    for _ in 0..3 {
        assert_eq!(buckets.take(now, one), Ok(()));
    }
    assert_eq!(buckets.take(now, one), Err(secs(10)));
    assert_eq!(buckets.take(now + secs(4), one), Err(secs(6)));
    assert_eq!(buckets.take(now, source("192.0.2.2")), Ok(()), "other sources are not affected");
    assert_eq!(buckets.take(now + secs(10), one), Ok(()));
    assert_eq!(buckets.take(now + secs(10), one), Err(secs(10)));
    // After a long pause the bucket is full, and not more than full.
    for _ in 0..3 {
        assert_eq!(buckets.take(now + secs(1000), one), Ok(()));
    }
    assert_eq!(buckets.take(now + secs(1000), one), Err(secs(10)));
}

#[test]
fn zero_rate_allows_nothing() {
    let mut buckets = Buckets::new(Rate::per_minute(0), 10);
    assert!(buckets.take(Instant::now(), source("192.0.2.1")).is_err());
}

#[test]
fn bucket_table_is_bounded_and_drops_full_buckets() {
    let now = Instant::now();
    let mut buckets = Buckets::new(Rate::per_minute(60), 100);
    for index in 0..1000_u32 {
        let at = now + Duration::from_micros(u64::from(index));
        assert_eq!(buckets.take(at, Source::of(SocketAddr::new(IpAddr::from(index.to_be_bytes()), 0))), Ok(()));
        assert!(buckets.len() <= 100);
    }
    assert_eq!(buckets.len(), buckets.by_time.len());
    for second in 3600..3800 {
        assert_eq!(buckets.take(now + secs(second), source("192.0.2.1")), Ok(()));
    }
    assert_eq!(buckets.len(), 1, "the other entries are expired");
}

#[test]
fn least_used_source_is_evicted_first() {
    let now = Instant::now();
    let mut buckets = Buckets::new(Rate::per_minute(4), 2);
    let (heavy, light, new) = (source("192.0.2.1"), source("192.0.2.2"), source("192.0.2.3"));
    buckets.take(now, heavy).unwrap();
    buckets.take(now, heavy).unwrap();
    buckets.take(now, light).unwrap();
    buckets.take(now, new).unwrap();
    assert!(buckets.take(now, heavy).is_err(), "a crowd of others does not fill a bucket");
}

proptest! {
    /// In any interval, no more is granted than the burst plus the rate times the interval.
    #[test]
    fn no_interval_exceeds_the_rate(
        rate in 1..200_u32,
        gaps in prop::collection::vec(0..3_000_u64, 1..200),
    ) {
        let start = Instant::now();
        let mut buckets = Buckets::new(Rate::per_minute(rate), 4);
        let (mut now, mut granted) = (start, Vec::new());
        for gap in gaps {
            now += Duration::from_millis(gap);
            match buckets.take(now, source("192.0.2.1")) {
                Ok(()) => granted.push(now),
                Err(wait) => {
                    prop_assert!(buckets.check(now + wait, source("192.0.2.1")).is_ok());
                    prop_assert!(buckets.check(now + wait - Duration::from_millis(1), source("192.0.2.1")).is_err());
                }
            }
        }
        let interval = secs(60) / rate;
        for (index, from) in granted.iter().enumerate() {
            for (count, to) in granted[index..].iter().enumerate() {
                let allowed = u128::from(rate.div_ceil(2)) + (*to - *from).as_nanos() / interval.as_nanos() + 1;
                prop_assert!(count as u128 <= allowed);
            }
        }
    }
}

fn guard(limits: Limits) -> Guard {
    Guard::new(limits)
}

#[test]
fn connections_are_bounded_per_source() {
    let (now, one) = (Instant::now(), source("192.0.2.1"));
    let mut guard = guard(Limits { connections_per_source: 2, ..Limits::default() });
    for _ in 0..2 {
        assert_eq!(guard.attempt(now, one, false), Admission::Accept);
        assert!(guard.connected(one));
    }
    assert_eq!(guard.attempt(now, one, false), Admission::Retry, "the address may be forged");
    assert_eq!(guard.attempt(now, one, true), Admission::TooMany);
    assert_eq!(guard.attempt(now, source("192.0.2.2"), false), Admission::Accept);
    guard.disconnected(one, false);
    assert_eq!(guard.attempt(now, one, true), Admission::Accept);
    assert_eq!(guard.connections(), 1);
}

#[test]
fn places_are_bounded_in_total() {
    let now = Instant::now();
    let mut guard = guard(Limits { max_connections: 2, ..Limits::default() });
    assert_eq!(guard.attempt(now, source("192.0.2.1"), false), Admission::Accept);
    assert_eq!(guard.attempt(now, source("192.0.2.2"), true), Admission::Accept);
    assert_eq!(guard.attempt(now, source("192.0.2.3"), false), Admission::Retry);
    assert_eq!(guard.attempt(now, source("192.0.2.3"), true), Admission::InPlaceOf(None));
    guard.disconnected(source("192.0.2.2"), true);
    assert!(guard.connected(source("192.0.2.1")));
    assert!(guard.connected(source("192.0.2.3")));
    assert_eq!(guard.attempt(now, source("192.0.2.4"), true), Admission::Full);
    guard.disconnected(source("192.0.2.3"), false);
    assert_eq!(guard.attempt(now, source("192.0.2.4"), true), Admission::Accept);
}

#[test]
fn forged_address_does_not_exclude_its_owner() {
    let (now, victim) = (Instant::now(), source("192.0.2.1"));
    let mut guard = guard(Limits::default());
    let mut admitted = 0;
    while guard.attempt(now, victim, false) == Admission::Accept {
        admitted += 1;
        // Its handshakes time out; that alone does not lift the limit.
        guard.disconnected(victim, true);
    }
    assert_eq!(admitted, Limits::default().joins_per_minute);
    assert_eq!(guard.attempt(now, victim, false), Admission::Retry);
    assert_eq!(guard.attempt(now, victim, true), Admission::Accept);
}

#[test]
fn many_handshakes_at_once_make_clients_prove_their_address() {
    let now = Instant::now();
    let mut guard = guard(Limits::default());
    let nth = |index: usize| Source::of(SocketAddr::new(IpAddr::from((index as u32).to_be_bytes()), 0));
    for index in 0..HALF_OPEN {
        assert_eq!(guard.attempt(now, nth(index), false), Admission::Accept);
    }
    assert_eq!(guard.attempt(now, nth(HALF_OPEN), false), Admission::Retry);
    assert_eq!(guard.attempt(now, nth(HALF_OPEN), true), Admission::Accept);
    guard.disconnected(nth(0), true);
    guard.disconnected(nth(1), true);
    assert_eq!(guard.attempt(now, nth(0), false), Admission::Accept);
}

#[test]
fn failed_requests_cost_more() {
    let (now, one) = (Instant::now(), source("2001:db8::1"));
    let mut guard = guard(Limits { joins_per_minute: 20, ..Limits::default() });
    for _ in 0..5 {
        assert_eq!(guard.join(now, one), Ok(()));
        guard.failed(now, one);
    }
    assert_eq!(guard.join(now, one), Err(secs(6)), "ten failed requests a minute, five at once");
    assert_eq!(guard.join(now + secs(6), one), Ok(()));
    let other = source("2001:db8:0:1::1");
    for _ in 0..10 {
        assert_eq!(guard.join(now, other), Ok(()));
    }
    assert_eq!(guard.join(now, other), Err(secs(3)), "twenty a minute, ten at once");
}

#[test]
fn rooms_are_counted_per_source() {
    let one = source("192.0.2.1");
    let mut guard = guard(Limits { rooms_per_source: 1, ..Limits::default() });
    assert!(guard.may_open_room(one));
    guard.room_opened(one);
    assert!(!guard.may_open_room(one));
    assert!(guard.may_open_room(source("192.0.2.2")));
    guard.room_closed(one);
    assert!(guard.may_open_room(one));
    assert!(guard.counts.is_empty(), "a source without connections has no entry");
}

/// A /64 of its own for each number, 256 to a /56 and 65,536 to a /48.
fn subnet(number: u16) -> Source {
    Source::of(SocketAddr::new(IpAddr::from([0x2001, 0xdb8, 7, number, 0, 0, 0, 1]), 0))
}

#[test]
fn wider_networks_have_two_and_four_times_the_places() {
    let now = Instant::now();
    let limits =
        Limits { connections_per_source: 4, rooms_per_source: 4, joins_per_minute: 1_000_000, ..Limits::default() };
    for (networks, expected) in [(vec![0; 1000], 4), ((0..256).collect(), 8), ((0..1000).collect::<Vec<u16>>(), 16)] {
        let mut guard = guard(limits);
        let (mut connections, mut rooms) = (0, 0);
        for source in networks.into_iter().map(subnet) {
            if guard.accept(now, source) == Admission::Accept && guard.connected(source) {
                connections += 1;
            }
            if guard.may_open_room(source) {
                guard.room_opened(source);
                rooms += 1;
            }
        }
        assert_eq!((connections, rooms), (expected, expected));
        assert_eq!(guard.accept(now, source("2001:db8:8::1")), Admission::Accept, "its neighbour is not affected");
    }
}

#[test]
fn wider_networks_have_two_and_four_times_the_rate() {
    let now = Instant::now();
    for (networks, expected) in [(1, 10), (256, 20), (4096, 40)] {
        let mut guard = guard(Limits { joins_per_minute: 20, ..Limits::default() });
        let granted = (0..4096).filter(|number| guard.join(now, subnet(number % networks)).is_ok()).count();
        assert_eq!(granted, expected);
    }
}

#[test]
fn new_sources_of_one_network_evict_no_other_source() {
    let (now, heavy) = (Instant::now(), source("192.0.2.1"));
    let mut buckets = Buckets::new(Rate::per_minute(20), 200);
    while buckets.take(now, heavy).is_ok() {}
    for number in 0..u16::MAX {
        let _ = buckets.take(now + Duration::from_micros(number.into()), subnet(number));
    }
    assert!(buckets.check(now + millis(100), heavy).is_err());
    assert!(buckets.len() < 200, "{}", buckets.len());
}

#[test]
fn new_connection_replaces_half_open_one() {
    let now = Instant::now();
    let mut guard = guard(Limits::default());
    let nth = |index: usize| Source::of(SocketAddr::new(IpAddr::from((index as u32).to_be_bytes()), 0));
    for index in 0..MAX_HALF_OPEN {
        assert_eq!(guard.accept(now, nth(index)), Admission::Accept);
    }
    assert_eq!(guard.accept(now, nth(MAX_HALF_OPEN)), Admission::InPlaceOf(None));
    let one = nth(MAX_HALF_OPEN + 1);
    let mut guard = Guard::new(Limits::default());
    for _ in 0..HALF_OPEN_PER_SOURCE {
        assert_eq!(guard.accept(now, one), Admission::Accept);
    }
    assert_eq!(guard.accept(now, one), Admission::InPlaceOf(Some(one)));
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
