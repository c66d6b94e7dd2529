//! How the controllers behave on a path, in simulation. `cargo test -p tallow-proto --lib -- --ignored --nocapture
//! table` prints the measurements from which the default was chosen.

use std::time::Duration;

use bytes::Bytes;

use super::super::pair::{CLIENT, Pair, Path, SERVER, identity};
use super::super::{Congestion, ConnId, Event, Profile, Stream, Write, config};

const STREAMS: usize = 8;

/// A connection whose sender always has data to send, from a given time on.
struct Source {
    conn: ConnId,
    starts: Duration,
    streams: Vec<Stream>,
    got: u64,
}

fn profile(congestion: Congestion, packet_threshold: u32) -> Profile {
    Profile { congestion, packet_threshold, ..Profile::peer() }
}

/// A change of the path during the run.
#[derive(Clone, Copy)]
enum Change {
    None,
    Outage(Duration, Duration),
    Latency(Duration, Duration),
}

/// Runs several connections over one path, started one after the other. Returns the share of the rate that each had in
/// the last part of the run.
fn compete(path: Path, starts: &[(Profile, u64)], until: Duration, from: Duration, change: Change) -> Vec<Share> {
    let identity = identity();
    let mut pair = Pair::new(&starts[0].0, &identity, 50);
    pair.path = Path { loss: 0, jitter: Duration::ZERO, ..path };
    let mut sources = Vec::new();
    for (profile, starts) in starts {
        pair.ends[CLIENT].transports = config::transports(profile);
        let (conn, at_server) = pair.connected();
        let streams = (0..STREAMS).map(|_| pair.ends[CLIENT].open_uni(conn).unwrap()).collect();
        sources.push((Source { conn, starts: Duration::from_secs(*starts), streams, got: 0 }, at_server));
    }
    (pair.path, pair.start) = (path, pair.now);
    let mut waiting: Vec<usize> = (0..sources.len()).collect();
    let mut before = None;
    while pair.elapsed() < until {
        match change {
            Change::None => {}
            Change::Outage(from, to) => pair.cut = (from..to).contains(&pair.elapsed()),
            Change::Latency(from, latency) if pair.elapsed() > from => pair.path.latency = latency,
            Change::Latency(..) => {}
        }
        waiting.retain(|&place| {
            let source = &sources[place].0;
            let started = pair.elapsed() >= source.starts;
            if started {
                source.streams.iter().for_each(|&stream| fill(&mut pair, source.conn, stream));
            }
            !started
        });
        pair.flush();
        for (conn, event) in std::mem::take(&mut pair.events[CLIENT]) {
            if let Event::Writable(stream) = event {
                fill(&mut pair, conn, stream);
            }
        }
        let mut pieces: Vec<Bytes> = Vec::new();
        for (conn, event) in std::mem::take(&mut pair.events[SERVER]) {
            assert!(!matches!(event, Event::Closed(_)), "{event:?}");
            if let Event::Readable(stream) = event {
                let (count, _) = pair.ends[SERVER].read_chunks(conn, stream, usize::MAX, &mut pieces);
                pieces.clear();
                sources.iter_mut().find(|(_, at_server)| *at_server == conn).unwrap().0.got += count as u64;
            }
        }
        if before.is_none() && pair.elapsed() >= from {
            before = Some(sources.iter().map(|(source, _)| source.got).collect::<Vec<_>>());
        }
        pair.flush();
        assert!(pair.step(), "nothing is in flight and no timer runs");
    }
    let possible = path.rate as f64 * (until - from).as_secs_f64();
    let share = |((source, _), before): (&(Source, ConnId), u64)| {
        let stats = pair.ends[CLIENT].stats(source.conn).unwrap();
        Share {
            of_rate: (source.got - before) as f64 / possible * 100.0,
            lost: stats.lost_packets as f64 / stats.sent_packets as f64 * 100.0,
            rtt: stats.rtt.as_millis(),
        }
    };
    sources.iter().zip(before.unwrap()).map(share).collect()
}

/// In percent.
#[derive(Debug)]
struct Share {
    of_rate: f64,
    lost: f64,
    /// In milliseconds.
    rtt: u128,
}

fn fill(pair: &mut Pair, conn: ConnId, stream: Stream) {
    let chunk = Bytes::from_static(&[7; 65_536]);
    while pair.ends[CLIENT].write(conn, stream, &mut chunk.clone()) == Write::Done {}
}

fn path(rate: u64, latency_ms: u64, queue_ms: u64, loss: u32, jitter_us: u64) -> Path {
    let (latency, queue) = (Duration::from_millis(latency_ms), Duration::from_millis(queue_ms));
    Path { rate, latency, queue, loss, jitter: Duration::from_micros(jitter_us), ..Path::default() }
}

fn alone(path: Path, congestion: Congestion, packet_threshold: u32, seconds: u64) -> Share {
    compete(
        path,
        &[(profile(congestion, packet_threshold), 0)],
        Duration::from_secs(seconds),
        Duration::ZERO,
        Change::None,
    )
    .remove(0)
}

fn ours(path: Path, seconds: u64) -> Share {
    let default = Profile::peer();
    alone(path, default.congestion, default.packet_threshold, seconds)
}

#[test]
fn rate_survives_loss_and_reordering() {
    for (loss, jitter_us) in [(1_000, 0), (20_000, 0), (60_000, 0), (0, 2_000)] {
        let share = ours(path(5_000_000, 10, 100, loss, jitter_us), 3);
        assert!(share.of_rate > 80.0, "{loss}, {jitter_us}: {share:?}");
    }
}

#[test]
fn startup_ends_where_buffers_overflow() {
    let share = ours(path(10_000_000, 25, 25, 0, 0), 1);
    assert!(share.lost < 12.0, "{share:?}");
}

#[test]
fn a_path_with_small_buffers_is_not_flooded() {
    for queue_ms in [5, 20] {
        let share = ours(path(5_000_000, 20, queue_ms, 0, 0), 5);
        assert!(share.of_rate > 70.0 && share.lost < 8.0, "{queue_ms} ms: {share:?}");
    }
}

#[test]
fn large_buffers_are_not_filled_until_loss() {
    let share = ours(path(2_000_000, 10, 500, 0, 0), 5);
    assert!(share.of_rate > 85.0 && share.lost < 0.1, "{share:?}");
}

#[test]
fn rate_recovers_after_outage() {
    let (until, from) = (Duration::from_secs(12), Duration::from_secs(9));
    let outage = Change::Outage(Duration::from_secs(2), Duration::from_secs(5));
    let share = compete(path(2_000_000, 10, 50, 0, 0), &[(Profile::peer(), 0)], until, from, outage).remove(0);
    assert!(share.of_rate > 80.0, "{share:?}");
}

#[test]
fn longer_path_is_distinguished_from_own_queue() {
    let (until, from) = (Duration::from_secs(45), Duration::from_secs(35));
    let path = path(1_000_000, 5, 1_000, 0, 0);
    let longer = Change::Latency(Duration::from_secs(5), Duration::from_millis(100));
    let share = compete(path, &[(Profile::peer(), 0)], until, from, longer).remove(0);
    assert!(share.of_rate > 85.0, "{share:?}");
    let share = compete(path, &[(Profile::peer(), 0)], until, from, Change::None).remove(0);
    assert!(share.of_rate > 85.0 && share.rtt < 40, "{share:?}");
}

#[test]
fn path_is_shared_with_other_connections() {
    for other in [Congestion::Cubic, Congestion::DeliveryRate] {
        let (until, from) = (Duration::from_secs(25), Duration::from_secs(10));
        let both = [(Profile::peer(), 0), (profile(other, 64), 2)];
        for share in compete(path(2_000_000, 20, 200, 0, 0), &both, until, from, Change::None) {
            assert!(share.of_rate > 15.0, "{other:?}: {share:?}");
        }
    }
}

const CONTROLLERS: [Congestion; 3] = [Congestion::Cubic, Congestion::Bbr, Congestion::DeliveryRate];

#[test]
#[ignore = "takes minutes and prints a table"]
fn congestion_table_is_printed() {
    println!(
        "percent of the path's rate (percent of packets lost), 10 s from the first packet on; packet threshold 3, 64"
    );
    for (name, path) in [
        ("10 MB/s, 20 ms, queue 200 ms", path(10_000_000, 10, 200, 0, 0)),
        ("10 MB/s, 20 ms, queue 5 ms", path(10_000_000, 10, 5, 0, 0)),
        ("50 MB/s, 10 ms, loss 0.1 %", path(50_000_000, 5, 100, 1_000, 0)),
        ("50 MB/s, 10 ms, jitter 0.3 ms", path(50_000_000, 5, 100, 0, 300)),
        ("12.5 MB/s, 100 ms, queue 50 ms", path(12_500_000, 50, 50, 0, 0)),
        ("12.5 MB/s, 100 ms, loss 1 %", path(12_500_000, 50, 50, 10_000, 0)),
        ("12.5 MB/s, 200 ms, loss 0.01 %", path(12_500_000, 100, 100, 100, 0)),
        ("1.25 MB/s, 40 ms, 1 %, jitter 5 ms", path(1_250_000, 20, 100, 10_000, 5_000)),
        ("0.125 MB/s, 100 ms, queue 300 ms", path(125_000, 50, 300, 0, 0)),
        ("100 MB/s, 1 ms, loss 0.1 %", path(100_000_000, 0, 20, 1_000, 0)),
    ] {
        let cells =
            CONTROLLERS.iter().flat_map(|&congestion| [3, 64].map(|threshold| alone(path, congestion, threshold, 10)));
        let cells: Vec<String> = cells.map(|share| format!("{:3.0} ({:4.1})", share.of_rate, share.lost)).collect();
        println!("{name:36} {}", cells.join("  "));
    }
    println!("two at once, the second 2 s later; seconds 8 to 28");
    for (name, path) in [
        ("10 MB/s, 20 ms, queue 5 ms", path(10_000_000, 10, 5, 0, 0)),
        ("10 MB/s, 20 ms, queue 100 ms", path(10_000_000, 10, 100, 0, 0)),
        ("12.5 MB/s, 100 ms, queue 200 ms", path(12_500_000, 50, 200, 0, 0)),
        ("1.25 MB/s, 40 ms, queue 500 ms", path(1_250_000, 20, 500, 0, 0)),
    ] {
        for first in CONTROLLERS {
            for second in CONTROLLERS {
                let both = [(profile(first, 64), 0), (profile(second, 64), 2)];
                let shares = compete(path, &both, Duration::from_secs(28), Duration::from_secs(8), Change::None);
                let cells: Vec<String> =
                    shares.iter().map(|share| format!("{:3.0} ({:4.1})", share.of_rate, share.lost)).collect();
                println!("{name:36} {first:?}, {second:?}: {}", cells.join("  "));
            }
        }
    }
}
