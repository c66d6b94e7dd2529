//! A relay that pairs a receiver again while its direct path is alive, and then floods it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tallow_proto::drive::Driver;
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::Role;
use tallow_tests::sim::{Fate, Passing, Policy, Relay as MaliciousRelay, Tamper};

use super::stage::{Home, Run, SLOWLY};
use super::{Victim, has_network};

/// A message that needs no key: "wrong code".
const WRONG_CODE: [u8; 1] = [3];
/// The bytes that are sent after the pairing: more than a receiver should accept.
const JUNK: usize = 256 << 20;
/// The longest duration of the attack: as long as a receiver keeps the pending link.
const ATTACK: Duration = Duration::from_secs(15);

/// The communication with the relay's thread.
#[derive(Default)]
struct Orders {
    cut: AtomicBool,
    floods: AtomicBool,
    over: AtomicBool,
}

/// Forwards everything until the test cuts the connection; a client that reconnects is flooded.
fn tamper(orders: Arc<Orders>) -> Tamper {
    let junk = Bytes::from(vec![0x55_u8; 1 << 20]);
    Box::new(move |passing: Passing, _: &Bytes| {
        if passing.from < 2 {
            return if orders.cut.load(Ordering::Relaxed) { Fate::Cut } else { Fate::Pass };
        }
        if passing.role != Role::Sender || passing.nth != 0 || orders.floods.swap(true, Ordering::Relaxed) {
            return Fate::Instead(Vec::new());
        }
        let mut all = vec![enclose(&WRONG_CODE)];
        all.extend((0..JUNK / junk.len()).map(|_| junk.clone()));
        Fate::Instead(all)
    })
}

/// Runs until it is told to stop.
fn relay(port: u16, orders: Arc<Orders>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = *MaliciousRelay::new(port, Policy::Proper, tamper(orders.clone()), tallow_runtime::seed());
        let (_handle, driver) = Driver::new(node, tallow_tokio::TokioIo::new());
        tokio::select! {
            () = driver.run() => {}
            () = async {
                while !orders.over.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            } => {}
        }
    });
}

#[test]
fn a_flood_on_a_direct_socket_costs_a_bounded_buffer() {
    if !has_network() {
        return eprintln!("SKIPPED: this machine has no network");
    }
    let home = Home::new();
    let orders = Arc::new(Orders::default());
    let port = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let thread = {
        let orders = orders.clone();
        std::thread::spawn(move || relay(port, orders))
    };
    let addr = SocketAddr::from(([127, 0, 0, 1], port)).to_string();
    let common = ["--relay", &addr, "--transport", "quic", "--no-port-map"];
    // This relay does not assign nameplates.
    let code = "room-abcdefgh1234";
    let send = ["send", &home.large("large.bin"), "--code", code];
    let mut sender = Run::new(&home, send).args(SLOWLY).args(common).piped(b"");
    sender.code();
    let mut receiver = Run::new(&home, ["receive", "--yes", code]).args(common).piped(b"");
    receiver.expect("Path: direct ");
    let victim = Victim::new(&receiver);
    orders.cut.store(true, Ordering::Relaxed);
    let mut since = None;
    while since.is_none_or(|since: Instant| since.elapsed() < ATTACK) && !victim.is_over_the_limit() {
        if since.is_none() && orders.floods.load(Ordering::Relaxed) {
            since = Some(Instant::now());
        }
        assert!(!receiver.so_far().contains("tallow: "), "{}", receiver.so_far());
        std::thread::sleep(Duration::from_millis(10));
    }
    victim.check("a flood beside a direct path");
    orders.over.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}
