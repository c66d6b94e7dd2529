//! Fills a relay with waiting rooms and rooms that forward data, and reports its memory.
//!
//! ```text
//! tallow-relay --listen 127.0.0.1:4433 --joins-per-minute 1000000 --max-rooms-per-ip 100000 \
//!     --connections-per-ip 100000 &
//! crowd 127.0.0.1:4433 $! --waiting 10000
//! crowd 127.0.0.1:4433 $! --waiting 100 --pairs 100 --seconds 20
//! ```
//! Every second receiver of the pairs reads 1 KiB/s. Each sender sends without end.

mod client;

use std::time::{Duration, Instant};

use client::{ClientPool, join};
use tallow_proto::link::quic::Profile;
use tallow_proto::wire::relay::{RelayMessage, Role};

/// How many clients connect at the same time.
const BATCH: u32 = 10;
/// The bytes that a sender has to send: more than it can in the time.
const PLENTY: usize = 64 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let usage = "crowd RELAY PID [--waiting N] [--pairs N] [--seconds N] [--window BYTES]";
    let (Some(relay), Some(pid)) = (arguments.next(), arguments.next()) else { panic!("{usage}") };
    let (mut waiting, mut pairs, mut seconds, mut window) = (0_u32, 0_u32, 10_u64, 64 << 10);
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        let value: u64 = value.parse().expect(usage);
        match name.as_str() {
            "--waiting" => waiting = value as u32,
            "--pairs" => pairs = value as u32,
            "--seconds" => seconds = value,
            "--window" => window = value,
            _ => panic!("{usage}"),
        }
    }
    println!("empty: {}", memory(&pid));
    // Small windows, so that a slow reader has an effect at once and not only after it has buffered 32 MiB.
    let profile = Profile { receive_window: window, idle_timeout: Duration::from_secs(600), ..Profile::peer() };
    let mut pool = ClientPool::new(relay.parse().expect(usage), &profile);
    let start = Instant::now();
    for room in 0..waiting {
        let conn = pool.connect(&[join(room, Role::Sender)]);
        if room % BATCH == BATCH - 1 || room + 1 == waiting {
            let here = |pool: &ClientPool| pool.clients[&conn].received.contains(&RelayMessage::Waiting);
            assert!(pool.until(Duration::from_secs(30), here), "{:?}", pool.clients[&conn].closed);
        }
    }
    let all = |pool: &ClientPool| pool.clients.values().all(|client| client.received.contains(&RelayMessage::Waiting));
    assert!(pool.until(Duration::from_secs(30), all), "not all rooms are there");
    println!("{waiting} rooms wait after {:.1} s: {}", start.elapsed().as_secs_f64(), memory(&pid));

    let mut receivers = Vec::new();
    for room in waiting..waiting + pairs {
        let sender = pool.connect(&[join(room, Role::Sender)]);
        let waits = |pool: &ClientPool| pool.clients[&sender].received.contains(&RelayMessage::Waiting);
        assert!(pool.until(Duration::from_secs(10), waits), "no seat");
        let receiver = pool.connect(&[join(room, Role::Receiver)]);
        let paired = |pool: &ClientPool| pool.clients[&receiver].paired && pool.clients[&sender].paired;
        assert!(pool.until(Duration::from_secs(10), paired), "not paired");
        let slow = room % 2 == 1;
        pool.clients.get_mut(&receiver).expect("a client").read_limit = slow.then_some(0);
        pool.send(sender, PLENTY);
        receivers.push((receiver, slow));
    }
    if pairs > 0 {
        let mut most = String::new();
        for _ in 0..seconds {
            receivers.iter().filter(|(_, slow)| *slow).for_each(|&(receiver, _)| pool.feed(receiver, 1024));
            pool.until(Duration::from_secs(1), |_| false);
            most = most.max(memory(&pid));
        }
        let bytes_received = |slow| {
            receivers
                .iter()
                .filter(|(_, is)| *is == slow)
                .map(|(conn, _)| pool.clients[conn].bytes_received)
                .sum::<u64>()
        };
        println!(
            "{pairs} pairs for {seconds} s: fast {} MiB, slow {} KiB, at most {most}",
            bytes_received(false) >> 20,
            bytes_received(true) >> 10
        );
    }
}

/// The resident memory of a process.
fn memory(pid: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS: 0 kB");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    format!("{:>8.1} MiB", kib as f64 / 1024.0)
}
