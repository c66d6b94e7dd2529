//! Gathering through real sockets from real STUN servers: `.ci/coturn` starts Debian's and runs this. Everything that
//! was learned is printed.
//!
//! `TALLOW_STUN_SERVERS`: `ADDRESS:PORT`s with commas in between. `TALLOW_STUN_NAT`: what must be found out about the
//! family of the first.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tallow_proto::p2p::candidate::Family;
use tallow_proto::p2p::gather::{Config, Gather};

/// `None` on a machine without IPv6.
fn bind(family: Family) -> Option<UdpSocket> {
    let socket = match family {
        Family::V4 => UdpSocket::bind("0.0.0.0:0"),
        Family::V6 => UdpSocket::bind("[::]:0"),
    };
    let socket = socket.ok()?;
    socket.set_nonblocking(true).expect("a socket that does not block");
    Some(socket)
}

#[test]
#[ignore = "needs STUN servers: .ci/coturn"]
fn real_stun_servers_report_reflexive_address() {
    let servers = std::env::var("TALLOW_STUN_SERVERS").expect("servers");
    let servers: Vec<SocketAddr> = servers.split(',').map(|addr| addr.parse().expect("an address")).collect();
    let interfaces = tallow_runtime::interfaces().expect("interfaces");
    let start = Instant::now();
    let mut gather = Gather::new(Config { seed: tallow_runtime::seed(), slot: None });
    gather.handle_interfaces(start, &interfaces);
    let sockets = [Family::V4, Family::V6].map(|family| (family, bind(family)));
    for (family, socket) in &sockets {
        match socket {
            Some(socket) => gather.handle_bound(start, *family, socket.local_addr().unwrap()),
            None => gather.handle_absent(start, *family),
        }
    }
    let asked = Family::of(servers[0].ip());
    gather.handle_servers(start, servers);
    let (mut sent, mut heard) = (0, 0);
    while !gather.is_done() {
        while let Some((family, to, data)) = gather.poll_transmit() {
            let (_, socket) = sockets.iter().find(|(of, _)| *of == family).unwrap();
            println!("to {to}: {:?} bytes", socket.as_ref().unwrap().send_to(&data, to));
            sent += 1;
        }
        for (family, socket) in &sockets {
            let mut data = [0; 2048];
            while let Some(Ok((len, from))) = socket.as_ref().map(|socket| socket.recv_from(&mut data)) {
                println!("from {from}: {len} bytes");
                assert!(gather.handle_datagram(Instant::now(), *family, from, &data[..len]));
                heard += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
        gather.handle_timeout(Instant::now());
    }
    for candidate in gather.candidates() {
        println!("{:?} {:?} {}", candidate.kind, candidate.transport, candidate.addr);
    }
    println!("{sent} sent, {heard} heard, {} ms", start.elapsed().as_millis());
    println!("IPv4: {:?}, IPv6: {:?}", gather.nat(Family::V4), gather.nat(Family::V6));
    assert!(heard > 0, "nobody answered");
    if let Ok(expected) = std::env::var("TALLOW_STUN_NAT") {
        assert_eq!(format!("{:?}", gather.nat(asked)), expected);
    }
}
