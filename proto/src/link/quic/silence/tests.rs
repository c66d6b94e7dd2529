use bytes::Bytes;

use super::super::pair::{CLIENT, Pair, Path, SERVER, identity};
use super::super::{Event, Profile, Read};
use super::*;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Sends for a second, cuts the path for `cut`, and returns how long nothing arrives after that.
fn gap_after(path: Path, cut: Duration, seed: u8) -> Duration {
    let profile = Profile { idle_timeout: Duration::from_secs(90), ..Profile::peer() };
    let mut pair = Pair::new(&profile, &identity(), seed);
    pair.path = path;
    let (client, server) = pair.connected();
    let stream = pair.ends[CLIENT].open_uni(client).unwrap();
    let mut rest = Bytes::from(vec![7; 100 << 20]);
    let _ = pair.ends[CLIENT].write(client, stream, &mut rest);
    let pump = |pair: &mut Pair, rest: &mut Bytes| {
        let mut moved = false;
        if pair.take(CLIENT).iter().any(|event| matches!(event, Event::Writable(_))) {
            let _ = pair.ends[CLIENT].write(client, stream, rest);
        }
        for event in pair.take(SERVER) {
            if matches!(event, Event::Readable(_)) {
                let mut pieces = Vec::new();
                let (taken, end) = pair.ends[SERVER].read_chunks(server, stream, usize::MAX, &mut pieces);
                assert_eq!(end, Some(Read::Blocked));
                moved |= taken > 0;
            }
        }
        moved
    };
    let until = pair.now + Duration::from_secs(1);
    pair.until("a second", |pair| {
        pump(pair, &mut rest);
        pair.now >= until
    });
    pair.cut = true;
    pair.pass(cut);
    pump(&mut pair, &mut rest);
    pair.cut = false;
    let begun = pair.now;
    pair.until("data", |pair| pump(pair, &mut rest));
    pair.now - begun
}

#[test]
fn restored_path_is_detected_soon() {
    let fast = Path { rate: 2_000_000, ..Path::default() };
    let slow = Path { latency: ms(100), rate: 500_000, ..Path::default() };
    let space = Path { latency: ms(800), rate: 500_000, queue: ms(2_000), ..Path::default() };
    for (path, most) in [(fast, 1_050), (slow, 1_300), (space, 5_600)] {
        for (seed, cut) in [1_500, 3_000, 5_000, 5_700, 9_000, 14_000, 30_000].into_iter().enumerate() {
            let gap = gap_after(path, ms(cut), seed as u8);
            println!("{cut} ms cut, {:?} latency: {gap:?}", path.latency);
            assert!(gap <= ms(most), "{cut} ms cut, {:?} latency: {gap:?}", path.latency);
        }
    }
}

#[test]
fn dead_path_gets_one_packet_per_second() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 20);
    let (client, _) = pair.connected();
    pair.pass(Duration::from_secs(2));
    pair.cut = true;
    let stream = pair.ends[CLIENT].open_uni(client).unwrap();
    let _ = pair.ends[CLIENT].write(client, stream, &mut Bytes::from(vec![7; 1 << 20]));
    pair.pass(Duration::from_secs(5));
    pair.trace.clear();
    pair.pass(Duration::from_secs(20));
    let sent = pair.trace.iter().filter(|&&(_, to, _)| to == SERVER).count();
    assert!((19..30).contains(&sent), "{sent}");
    pair.pass(Duration::from_secs(40));
    assert_eq!(pair.ends[CLIENT].connections(), 0);
}

#[test]
fn idle_connection_sends_no_packets() {
    let quiet = Profile { keep_alive: None, idle_timeout: Duration::from_secs(600), ..Profile::peer() };
    let mut pair = Pair::new(&quiet, &identity(), 21);
    pair.connected();
    pair.pass(Duration::from_secs(5));
    let visits = (pair.ends[CLIENT].visits(), pair.ends[SERVER].visits());
    pair.trace.clear();
    pair.pass(Duration::from_secs(500));
    assert_eq!(pair.trace, []);
    assert_eq!((pair.ends[CLIENT].visits(), pair.ends[SERVER].visits()), visits, "the connections are not processed");
}

#[test]
fn a_connection_that_only_receives_sends_no_probes() {
    let quiet = Profile { keep_alive: None, ..Profile::peer() };
    let mut pair = Pair::new(&quiet, &identity(), 22);
    let (client, _) = pair.connected();
    let stream = pair.ends[CLIENT].open_uni(client).unwrap();
    pair.pass(Duration::from_secs(2));
    pair.trace.clear();
    for _ in 0..100 {
        let _ = pair.ends[CLIENT].write(client, stream, &mut Bytes::from_static(b"a word"));
        pair.pass(ms(200));
    }
    let said = pair.trace.iter().filter(|&&(_, to, _)| to == SERVER).count();
    assert_eq!(said, 100, "a probe would be acknowledged");
}

#[test]
fn a_connection_is_suspect_only_after_two_silent_timers() {
    let start = super::super::pair::start();
    let mut silence = Silence::Heard;
    let rtt = ms(10);
    assert!(!silence.handle_timeout(start, Some(5), rtt));
    assert!(!silence.handle_timeout(start + ms(100), Some(6), rtt));
    assert_eq!(silence.poll_timeout(|| Some(6)), None, "something was acknowledged in between");
    assert!(!silence.handle_timeout(start + ms(300), Some(6), rtt));
    assert_eq!(silence.poll_timeout(|| Some(6)), Some(start + ms(1_100)));
    assert_eq!(silence.poll_timeout(|| Some(7)), None);
    assert_eq!(silence.poll_timeout(|| None), None);
    assert!(!silence.handle_timeout(start + ms(1_000), Some(6), rtt));
    assert!(silence.handle_timeout(start + ms(1_100), Some(6), rtt));
    assert_eq!(silence.poll_timeout(|| Some(6)), Some(start + ms(2_100)));
    assert!(silence.handle_timeout(start + ms(2_100), Some(6), Duration::from_secs(3)));
    assert_eq!(silence.poll_timeout(|| Some(6)), Some(start + ms(8_100)), "two round trips");
    assert!(!silence.handle_timeout(start + ms(8_100), Some(8), rtt));
    assert!(!silence.handle_timeout(start + ms(9_000), Some(8), rtt));
    assert!(!silence.handle_timeout(start + ms(9_050), None, rtt), "nothing is due");
    assert_eq!(silence, Silence::Heard);
}
