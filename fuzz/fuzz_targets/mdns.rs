//! Datagrams of any machine on the LAN, for an announcing and for a browsing peer.
#![no_main]
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use tallow_fuzz::steps::steps;
use tallow_proto::discovery::mdns::Mdns;
use tallow_proto::seed::Seed;

fuzz_target!(|data: &[u8]| {
    let datagrams: Vec<&[u8]> = steps(data).map(|(_, body)| body).collect();
    let now = Instant::now();
    let own = [IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2))];
    let from = SocketAddr::from(([192, 168, 1, 9], 5353));
    let mut both = [Mdns::announce(now, 4433, &own, &Seed::new([1; 32])), Mdns::browse(now, &own, &Seed::new([2; 32]))];
    for mdns in &mut both {
        for data in &datagrams {
            mdns.handle_datagram(now, from, data);
        }
        let mut said = 0;
        while mdns.poll_transmit().is_some() {
            said += 1;
        }
        assert!(said <= 64, "answers are bounded");
        let mut found = 0;
        while mdns.poll_found().is_some() {
            found += 1;
        }
        assert!(found <= tallow_proto::discovery::mdns::MAX_FOUND);
    }
});
