use proptest::prelude::*;

use super::*;
use crate::link::trust::Fingerprint;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn addresses(v6: u16, v4: u16) -> Vec<SocketAddr> {
    let v6 = (1..=v6).map(|n| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 4433)));
    v6.chain((1..=v4).map(|n| SocketAddr::from(([192, 0, 2, n.to_be_bytes()[1]], 4433)))).collect()
}

fn outputs(race: &mut Race) -> Vec<Output> {
    std::iter::from_fn(|| race.poll_output()).collect()
}

/// Runs a race in which no address answers. Returns when each attempt started, and how the race ended.
fn silence(mut race: Race, start: Instant) -> (Vec<(u128, Transport, SocketAddr)>, Vec<Output>) {
    let (mut now, mut started) = (start, Vec::new());
    loop {
        let (starts, rest): (Vec<_>, Vec<_>) =
            outputs(&mut race).into_iter().partition(|output| matches!(output, Output::Start(_)));
        for output in starts {
            let Output::Start(attempt) = output else { continue };
            started.push(((now - start).as_millis(), attempt.transport, attempt.to));
        }
        if !rest.is_empty() {
            assert_eq!(race.poll_timeout(), None);
            return (started, rest);
        }
        let next = race.poll_timeout().expect("a race ends");
        assert!(next > now);
        now = next;
        race.handle_timeout(now);
    }
}

fn starts(race: &mut Race) -> Vec<Attempt> {
    let start = |output| match output {
        Output::Start(attempt) => Some(attempt),
        Output::Cancel(_) | Output::Won(_) | Output::Failed(_) => None,
    };
    outputs(race).into_iter().filter_map(start).collect()
}

#[test]
fn better_transports_start_earlier_and_families_alternate() {
    use Transport::{Quic, Tls, WebSocket};
    let now = Instant::now();
    let to = addresses(1, 2);
    let (started, end) = silence(Race::new(now, &to, Route::Direct, Allowed::Auto, None), now);
    let expected = [
        (0, Quic, to[0]),
        (250, Quic, to[1]),
        (300, Tls, to[0]),
        (500, Quic, to[2]),
        (550, Tls, to[1]),
        (600, WebSocket, to[0]),
        (800, Tls, to[2]),
        (850, WebSocket, to[1]),
        (1100, WebSocket, to[2]),
    ];
    assert_eq!(started, expected);
    assert_eq!(end.len(), 10);
    assert_eq!(end[9], Output::Failed(Failure::TimedOut));
    assert!(end[..9].iter().all(|output| matches!(output, Output::Cancel(_))));
}

#[test]
fn last_winner_starts_at_once_together_with_quic() {
    let now = Instant::now();
    for remembered in [Transport::Tls, Transport::WebSocket] {
        let mut race = Race::new(now, &addresses(1, 0), Route::Direct, Allowed::Auto, Some(remembered));
        let started: Vec<_> = starts(&mut race).into_iter().map(|attempt| attempt.transport).collect();
        assert_eq!(started, [Transport::Quic, remembered]);
        assert_eq!(race.poll_timeout(), Some(now + HEAD_START * if remembered == Transport::Tls { 2 } else { 1 }));
    }
}

#[test]
fn race_uses_only_allowed_or_proxiable_transports() {
    let (now, to) = (Instant::now(), addresses(0, 1));
    for only in ALL {
        let (started, _) = silence(Race::new(now, &to, Route::Direct, Allowed::Only(only), None), now);
        assert_eq!(started, [(0, only, to[0])]);
    }
    let (started, _) = silence(Race::new(now, &to, Route::Proxied, Allowed::Auto, Some(Transport::Quic)), now);
    assert_eq!(started, [(0, Transport::Tls, to[0]), (300, Transport::WebSocket, to[0])]);
    for mut race in [
        Race::new(now, &to, Route::Proxied, Allowed::Only(Transport::Quic), None),
        Race::new(now, &[], Route::Direct, Allowed::Auto, None),
    ] {
        assert_eq!(outputs(&mut race), [Output::Failed(Failure::Nothing)]);
        assert_eq!(race.poll_timeout(), None);
    }
}

#[test]
fn first_answer_wins_and_cancels_other_attempts() {
    let now = Instant::now();
    let mut race = Race::new(now, &addresses(1, 1), Route::Direct, Allowed::Auto, None);
    race.handle_timeout(now + MS(250));
    race.handle_timeout(now + MS(300));
    let started = starts(&mut race);
    assert_eq!(started.len(), 3);
    race.handle_answered(started[2].id);
    let expected = [Output::Cancel(started[0].id), Output::Cancel(started[1].id), Output::Won(started[2])];
    assert_eq!(outputs(&mut race), expected);
    race.handle_answered(started[0].id);
    race.handle_failed(now, started[1].id, Failure::Lost);
    race.handle_timeout(now + WITHIN);
    assert_eq!(outputs(&mut race), [], "the race is over");
}

#[test]
fn ninth_address_is_tried_within_two_seconds() {
    let now = Instant::now();
    let (started, _) = silence(Race::new(now, &addresses(4, 5), Route::Direct, Allowed::Auto, None), now);
    for transport in ALL {
        let of = || started.iter().filter(|(_, used, _)| *used == transport);
        assert_eq!(of().count(), 9, "{transport:?}");
        let (first, last) = (of().next().unwrap().0, of().next_back().unwrap().0);
        assert!(last - first <= 1_400, "{transport:?}: {} ms", last - first);
    }
}

#[test]
fn failure_starts_next_attempt_at_once() {
    let now = Instant::now();
    let mut race = Race::new(now, &addresses(1, 1), Route::Direct, Allowed::Auto, None);
    let mut running = starts(&mut race);
    let mut seen = running.clone();
    for _ in 0..5 {
        race.handle_failed(now, running.remove(0).id, Failure::Unreachable);
        running.extend(starts(&mut race));
        assert_eq!(running.len(), 1, "one after the other, without waiting");
        seen.extend(&running);
    }
    let order: Vec<_> = seen.iter().map(|attempt| attempt.transport).collect();
    assert_eq!(order, [ALL[0], ALL[0], ALL[1], ALL[1], ALL[2], ALL[2]]);
    race.handle_failed(now, running[0].id, Failure::Refused);
    assert_eq!(outputs(&mut race), [Output::Failed(Failure::Refused)]);
}

#[test]
fn failure_among_running_attempts_starts_no_next_one() {
    let now = Instant::now();
    let mut race = Race::new(now, &addresses(3, 0), Route::Direct, Allowed::Only(Transport::Tls), None);
    race.handle_timeout(now + MS(250));
    let started = starts(&mut race);
    assert_eq!(started.len(), 2);
    race.handle_failed(now + MS(300), started[0].id, Failure::Lost);
    assert_eq!(outputs(&mut race), []);
    assert_eq!(race.poll_timeout(), Some(now + MS(500)));
}

#[test]
fn failed_race_reports_most_specific_failure() {
    let (known, seen) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
    let certificate = Failure::Certificate(CertificateRefused::Changed { known, seen });
    let failures = [
        Failure::Unreachable,
        Failure::TimedOut,
        Failure::Lost,
        Failure::Refused,
        Failure::NotARelay,
        Failure::Proxy(ProxyFailure::LoginNeeded),
        certificate,
    ];
    let now = Instant::now();
    for pair in failures.windows(2) {
        for order in [[0, 1], [1, 0]] {
            let mut race = Race::new(now, &addresses(2, 0), Route::Direct, Allowed::Only(Transport::Tls), None);
            for which in order {
                let id = starts(&mut race)[0].id;
                race.handle_failed(now, id, pair[which]);
            }
            assert_eq!(outputs(&mut race), [Output::Failed(pair[1])]);
        }
    }
    let mut race = Race::new(now, &addresses(2, 0), Route::Direct, Allowed::Only(Transport::Tls), None);
    let id = starts(&mut race)[0].id;
    race.handle_failed(now, id, certificate);
    race.handle_timeout(now + WITHIN);
    assert!(outputs(&mut race).contains(&Output::Failed(certificate)), "also when the time ran out");
}

#[test]
fn a_delay_of_this_process_extends_the_relays_deadline() {
    let start = Instant::now();
    let mut race = Race::new(start, &["192.0.2.1:4433".parse().unwrap()], Route::Direct, Allowed::Auto, None);
    race.delay(WITHIN);
    race.handle_timeout(start + WITHIN);
    assert!(!std::iter::from_fn(|| race.poll_output()).any(|output| matches!(output, Output::Failed(_))));
    race.handle_timeout(start + WITHIN + WITHIN);
    assert!(std::iter::from_fn(|| race.poll_output()).any(|output| matches!(output, Output::Failed(_))));
}

#[test]
fn addresses_alternate_from_the_resolvers_first_family() {
    let (v6, v4) = (addresses(12, 0), addresses(0, 12));
    let mixed = interleaved(&[&v4[..2], &v6[..], &v4[2..]].concat());
    assert_eq!(mixed[..8], [v4[0], v6[0], v4[1], v6[1], v4[2], v6[2], v4[3], v6[3]]);
    assert_eq!(mixed.len(), MAX_ADDRESSES);
    assert_eq!(interleaved(&v6), v6);
    assert_eq!(interleaved(&addresses(40, 0)).len(), MAX_ADDRESSES);
}

proptest! {
    #[test]
    fn every_race_ends_once_with_no_attempt_running(
        v6 in 0_u16..6, v4 in 0_u16..6, proxied: bool, remembered in 0_usize..4,
        steps in proptest::collection::vec((0_u64..400, 0_u8..10, 0_usize..30), 0..60),
    ) {
        let start = Instant::now();
        let route = if proxied { Route::Proxied } else { Route::Direct };
        let mut now = start;
        let mut race = Race::new(now, &addresses(v6, v4), route, Allowed::Auto, ALL.get(remembered).copied());
        let (mut running, mut ends): (Vec<AttemptId>, usize) = (Vec::new(), 0);
        let mut look = |race: &mut Race, running: &mut Vec<AttemptId>| {
            for output in outputs(race) {
                assert_eq!(ends, 0, "nothing after the end");
                match output {
                    Output::Start(attempt) => running.push(attempt.id),
                    Output::Cancel(id) => running.retain(|&other| other != id),
                    Output::Won(attempt) => {
                        assert_eq!(&running[..], [attempt.id]);
                        running.clear();
                        ends += 1;
                    }
                    Output::Failed(_) => {
                        assert!(running.is_empty());
                        ends += 1;
                    }
                }
            }
        };
        look(&mut race, &mut running);
        for (wait, what, which) in steps {
            now += MS(wait);
            let id = running.get(which).copied().unwrap_or(AttemptId(1000));
            match what {
                0 => race.handle_answered(id),
                1..5 => {
                    race.handle_failed(now, id, Failure::Lost);
                    running.retain(|&other| other != id);
                }
                _ => race.handle_timeout(now),
            }
            look(&mut race, &mut running);
        }
        while let Some(at) = race.poll_timeout() {
            now = now.max(at);
            race.handle_timeout(now);
            look(&mut race, &mut running);
        }
        prop_assert_eq!(ends, 1);
        prop_assert!(running.is_empty());
        prop_assert!(now - start <= WITHIN_PROXIED + MS(60 * 400));
    }
}

#[test]
fn a_relay_that_sends_something_has_more_time() {
    let start = Instant::now();
    let mut race = Race::new(start, &addresses(0, 1), Route::Direct, Allowed::Only(Transport::Quic), None);
    assert_eq!(starts(&mut race).len(), 1);
    let mut now = start;
    while race.poll_output().is_none() {
        assert!(!race.ran_out());
        // It sends something each 5 s.
        let heard = start + MS((now - start).as_secs() / 5 * 5000);
        race.handle_received(heard);
        now = race.poll_timeout().expect("a race ends");
        race.handle_received(start + MS((now - start).as_secs() / 5 * 5000));
        race.handle_timeout(now);
    }
    assert_eq!((now - start, race.ran_out()), (WITHIN_BUSY, true));
}

#[test]
fn a_silent_relay_has_no_more_time() {
    let start = Instant::now();
    let mut race = Race::new(start, &addresses(0, 1), Route::Direct, Allowed::Only(Transport::Quic), None);
    race.handle_received(start + MS(3000));
    assert_eq!(race.poll_timeout(), Some(start + MS(3000) + WITHIN));
    // What was heard earlier changes nothing, and neither does a refusal.
    race.handle_received(start + MS(1000));
    assert_eq!(race.poll_timeout(), Some(start + MS(3000) + WITHIN));
    let first = starts(&mut race)[0];
    race.handle_failed(start + MS(3100), first.id, Failure::Refused);
    assert_eq!((outputs(&mut race), race.ran_out()), (vec![Output::Failed(Failure::Refused)], false));
}
