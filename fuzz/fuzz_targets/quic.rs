//! Datagrams from any machine to a listening endpoint.
#![no_main]
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tallow_fuzz::steps::steps;
use tallow_proto::link::quic::{Profile, Quic};
use tallow_proto::net::{Arrival, Ecn, SocketId};
use tallow_proto::seed::Seed;

fuzz_target!(|data: &[u8]| {
    let datagrams: Vec<&[u8]> = steps(data).map(|(_, body)| body).collect();
    let now = Instant::now();
    let mut client = Quic::client(&Profile::peer(), Duration::from_secs(1_800_000_000), &Seed::new([1; 32]));
    for data in datagrams {
        let arrival =
            Arrival { socket: SocketId(0), from: ([192, 0, 2, 1], 4433).into(), local_ip: None, ecn: Ecn::NotEct };
        client.handle_datagram(now, &arrival, data.into());
        client.settle(now);
        let mut buf = Vec::new();
        while client.poll_transmit(now, NonZeroUsize::MIN, &mut buf).is_some() {
            buf.clear();
        }
        while client.poll_event().is_some() {}
    }
});
