//! The driver with real sockets, timers and threads: the same tests on both runtimes.

mod bulk;
mod station;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant, SystemTime};

use bulk::Bulk;
use station::{Command, Event, Station, job};
use tallow_proto::drive::Handle;
use tallow_proto::node::Node;

/// Long enough for any machine; nothing here waits for it unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);

trait Runtime {
    fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N>;
    fn run<T>(test: impl Future<Output = T>) -> T;
}

struct Tokio;
struct Smol;

impl Runtime for Tokio {
    fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N> {
        tallow_tokio::spawn(node)
    }
    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") })
    }
}

impl Runtime for Smol {
    fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N> {
        tallow_smol::spawn(node)
    }
    fn run<T>(test: impl Future<Output = T>) -> T {
        smol::block_on(smol::future::or(async { Some(test.await) }, async {
            smol::Timer::after(PATIENCE).await;
            None
        }))
        .expect("in time")
    }
}

macro_rules! on_both_runtimes {
    ($($test:ident),* $(,)?) => {
        mod on_tokio { use super::Runtime; $(#[test] fn $test() { super::Tokio::run(super::$test::<super::Tokio>()); })* }
        mod on_smol { use super::Runtime; $(#[test] fn $test() { super::Smol::run(super::$test::<super::Smol>()); })* }
    };
}

on_both_runtimes!(
    datagrams_go_round_in_batches,
    timers_ring_in_order_and_never_early,
    jobs_run_side_by_side_and_hold_up_nothing,
    a_panicking_job_answers,
    a_bind_that_fails_is_told,
    a_name_is_looked_up,
    many_handles_at_once,
    a_dropped_handle_says_goodbye,
    events_are_a_stream,
    quic_carries_bytes_whole,
);

const LOOPBACK: &str = "127.0.0.1:0";

/// A node with a socket, and its address.
async fn bound<R: Runtime>() -> (Handle<Station>, SocketAddr) {
    let mut handle = R::spawn(Station::bound_to(LOOPBACK.parse().unwrap()));
    match handle.next_event().await {
        Some(Event::Bound(Ok(addr))) => (handle, addr),
        other => panic!("{other:?}"),
    }
}

async fn datagrams_go_round_in_batches<R: Runtime>() {
    let (mut client, _) = bound::<R>().await;
    let (_server, to) = bound::<R>().await;
    client.command(Command::Ping { to, total: 20_000, size: 1200 }).unwrap();
    match client.next_event().await {
        Some(Event::AllBack { largest_batch, local_ip }) => {
            assert_eq!(local_ip, Some(to.ip()));
            if cfg!(target_os = "linux") {
                assert!(largest_batch > 1, "segmentation offload is in use");
            }
        }
        other => panic!("{other:?}"),
    }
}

async fn timers_ring_in_order_and_never_early<R: Runtime>() {
    let (mut station, _) = bound::<R>().await;
    for ms in [40, 5, 20, 5] {
        station.command(Command::Alarm(Duration::from_millis(ms))).unwrap();
    }
    let mut rung = Vec::new();
    while rung.len() < 4 {
        match station.next_event().await {
            Some(Event::Rang { after, asked }) => {
                assert!(after >= asked);
                rung.push(asked.as_millis());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rung, [5, 5, 20, 40]);
}

async fn jobs_run_side_by_side_and_hold_up_nothing<R: Runtime>() {
    let (mut station, _) = bound::<R>().await;
    let (_server, to) = bound::<R>().await;
    // Each waits for the others, and all for this test.
    let barrier = Arc::new(Barrier::new(4));
    for id in 0..3 {
        let barrier = barrier.clone();
        let work = move || {
            barrier.wait();
            Ok(true)
        };
        station.command(Command::Work(Box::new(job(id, work)))).unwrap();
    }
    station.command(Command::Ping { to, total: 10, size: 100 }).unwrap();
    assert!(matches!(station.next_event().await, Some(Event::AllBack { .. })));
    std::thread::spawn(move || barrier.wait());
    let mut done = BTreeSet::new();
    while done.len() < 3 {
        match station.next_event().await {
            Some(Event::Worked { id, well: true }) => assert!(done.insert(id)),
            other => panic!("{other:?}"),
        }
    }
}

async fn a_panicking_job_answers<R: Runtime>() {
    let (mut station, _) = bound::<R>().await;
    station.command(Command::Work(Box::new(job(1, || panic!("on purpose"))))).unwrap();
    assert!(matches!(station.next_event().await, Some(Event::Worked { id: 1, well: false })));
    station.command(Command::Work(Box::new(job(2, || Ok(true))))).unwrap();
    assert!(matches!(station.next_event().await, Some(Event::Worked { id: 2, well: true })));
}

async fn a_bind_that_fails_is_told<R: Runtime>() {
    let taken = UdpSocket::bind(LOOPBACK).unwrap();
    let mut station = R::spawn(Station::bound_to(taken.local_addr().unwrap()));
    assert!(matches!(station.next_event().await, Some(Event::Bound(Err(std::io::ErrorKind::AddrInUse)))));
}

async fn a_name_is_looked_up<R: Runtime>() {
    let (mut station, _) = bound::<R>().await;
    station.command(Command::Resolve("127.0.0.1".into(), 4433)).unwrap();
    let found = vec![SocketAddr::from(([127, 0, 0, 1], 4433))];
    assert!(matches!(station.next_event().await, Some(Event::Resolved(addrs)) if addrs == found));
}

async fn many_handles_at_once<R: Runtime>() {
    let (_server, to) = bound::<R>().await;
    let mut stations = Vec::new();
    for id in 0..100 {
        let (station, _) = bound::<R>().await;
        station.command(Command::Ping { to, total: 20, size: 500 }).unwrap();
        station.command(Command::Alarm(Duration::from_millis(id % 7))).unwrap();
        station.command(Command::Work(Box::new(job(id, || Ok(true))))).unwrap();
        stations.push(station);
    }
    for station in &mut stations {
        let (mut back, mut rang, mut worked) = (false, false, false);
        while !(back && rang && worked) {
            match station.next_event().await {
                Some(Event::AllBack { .. }) => back = true,
                Some(Event::Rang { .. }) => rang = true,
                Some(Event::Worked { well: true, .. }) => worked = true,
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn a_dropped_handle_says_goodbye<R: Runtime>() {
    let listener = UdpSocket::bind(LOOPBACK).unwrap();
    listener.set_read_timeout(Some(PATIENCE)).unwrap();
    let (station, addr) = bound::<R>().await;
    station.command(Command::GoodbyeTo(listener.local_addr().unwrap())).unwrap();
    drop(station);
    let mut buf = [0; 100];
    let (len, from) = listener.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..len], from), (&b"goodbye"[..], addr));
    // The task is over and its socket closed: the address is free again.
    while UdpSocket::bind(addr).is_err() {
        std::thread::yield_now();
    }
}

async fn events_are_a_stream<R: Runtime>() {
    use futures_util::StreamExt;
    let (station, _) = bound::<R>().await;
    station.command(Command::Alarm(Duration::ZERO)).unwrap();
    station.command(Command::Close).unwrap();
    let events: Vec<Event> = station.collect().await;
    assert!(matches!(events[..], [Event::Rang { .. }]), "{events:?}");
}

/// With `TALLOW_BENCH` set it moves more and says what that took; run one test alone then, in release mode.
async fn quic_carries_bytes_whole<R: Runtime>() {
    let bench = std::env::var_os("TALLOW_BENCH").is_some();
    let total = if bench { 4 << 30 } else { 256 << 20 };
    let identity = bulk::identity();
    let unix_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut receiver = R::spawn(Bulk::receiver(LOOPBACK.parse().unwrap(), &identity, total, unix_time));
    let Some(bulk::Event::Bound(Ok(to))) = receiver.next_event().await else { panic!("not bound") };
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut sender = R::spawn(Bulk::sender(to, &identity, total, unix_time));
    assert!(matches!(sender.next_event().await, Some(bulk::Event::Bound(Ok(_)))));
    for end in [&mut sender, &mut receiver] {
        assert!(matches!(end.next_event().await, Some(bulk::Event::Done(bytes)) if bytes == total));
        assert!(end.next_event().await.is_none());
    }
    if bench {
        let gigabytes = total as f64 / 1e9;
        let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!("{:.0} MB/s, {:.2} CPU-s/GB for both ends", 1000.0 * gigabytes / wall, cpu / gigabytes);
    }
}

/// User and system time of this process (Linux; steps of 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
