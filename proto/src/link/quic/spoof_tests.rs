//! K03: how much a server sends to a forged source address.
//!
//! quinn-proto checks RFC 9000's limit of three times the received bytes before each datagram, so the last datagram may
//! exceed it in part. It pads a path challenge to 1,200 bytes, as §8.2.1 requires, even if a smaller packet arrived.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::pair::{UNIX_TIME, identity, server_addr, start};
use super::*;
use crate::link::trust::Trust;
use crate::net::SocketId;

/// The datagram size that every path must support, in bytes (RFC 9000 §14).
const LEAST: usize = 1200;

fn client_addr() -> SocketAddr {
    "192.0.2.1:50000".parse().unwrap()
}

fn victim() -> SocketAddr {
    "203.0.113.9:50000".parse().unwrap()
}

fn arrival(from: SocketAddr) -> Arrival {
    Arrival { socket: SocketId(0), from, local_ip: None, ecn: Ecn::NotEct }
}

/// All datagrams that are sent now, one by one.
fn leaving(quic: &mut Quic, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut all = Vec::new();
    quic.settle(now);
    let mut buf = Vec::new();
    while let Some(transmit) = quic.poll_transmit(now, NonZeroUsize::new(8).unwrap(), &mut buf) {
        let size = transmit.segment_size.unwrap_or(transmit.size);
        all.extend(buf.chunks(size).map(|datagram| (transmit.to, datagram.to_vec())));
        buf.clear();
        quic.settle(now);
    }
    all
}

fn ends() -> (Quic, Quic) {
    let seed = Seed::new([7; 32]);
    let client = Quic::client(&Profile::direct(), UNIX_TIME, &seed.derive("client"));
    let limits = Limits { incoming: 8, ..Limits::default() };
    let server = Quic::server(&Profile::direct(), &identity(), limits, UNIX_TIME, &seed.derive("server")).unwrap();
    (client, server)
}

fn receive(quic: &mut Quic, now: Instant, from: SocketAddr, data: &[u8]) {
    quic.handle_datagram(now, &arrival(from), BytesMut::from(data));
    quic.settle(now);
}

/// The number of bytes that are sent to the victim within this time, while nothing arrives from it.
fn sent_to_victim(quic: &mut Quic, now: &mut Instant, within: Duration) -> usize {
    let until = *now + within;
    let mut sent = 0;
    loop {
        sent += leaving(quic, *now).iter().filter(|(to, _)| *to == victim()).map(|(_, data)| data.len()).sum::<usize>();
        let Some(at) = quic.poll_timeout().filter(|&at| at <= until) else { return sent };
        *now = (*now).max(at);
        quic.handle_timeout(*now);
    }
}

#[test]
fn k03_a_spoofed_first_flight_gets_three_answers_at_most() {
    let (mut client, mut server) = ends();
    let mut now = start();
    client.connect(now, server_addr(), "relay.test", &Trust::FirstUse).unwrap();
    let flight = leaving(&mut client, now);
    let mut came = 0;
    for (_, data) in &flight {
        came += data.len();
        receive(&mut server, now, victim(), data);
        while let Some(incoming) = server.poll_incoming() {
            assert!(server.accept(now, incoming).is_some());
        }
    }
    assert!(came >= 1200);
    // RFC 9000 §8.1, over the whole duration of the attempt.
    let sent = sent_to_victim(&mut server, &mut now, Duration::from_secs(120));
    assert!((1..3 * came + LEAST).contains(&sent), "{sent} bytes for {came}");
}

#[test]
fn k03_migrating_connection_sends_little_before_validation() {
    let (mut client, mut server) = ends();
    let mut now = start();
    let conn = client.connect(now, server_addr(), "relay.test", &Trust::FirstUse).unwrap();
    let mut accepted = None;
    for _ in 0..50 {
        for (_, data) in leaving(&mut client, now) {
            receive(&mut server, now, client_addr(), &data);
        }
        while let Some(incoming) = server.poll_incoming() {
            accepted = server.accept(now, incoming);
        }
        for (_, data) in leaving(&mut server, now) {
            receive(&mut client, now, server_addr(), &data);
        }
        now += Duration::from_millis(1);
        client.handle_timeout(now);
        server.handle_timeout(now);
    }
    let served = accepted.unwrap();
    // The server has much data to send when one packet of the client arrives with another source address.
    let stream = server.open_uni(served).unwrap();
    let mut data = Bytes::from(vec![7; 500_000]);
    let _ = server.write(served, stream, &mut data);
    let up = client.open_uni(conn).unwrap();
    let _ = client.write(conn, up, &mut Bytes::from_static(b"hello"));
    let said = leaving(&mut client, now);
    let came: usize = said.iter().map(|(_, data)| data.len()).sum();
    assert!(came > 0);
    for (_, data) in &said {
        receive(&mut server, now, victim(), data);
    }
    let sent = sent_to_victim(&mut server, &mut now, Duration::from_secs(60));
    assert!(sent <= 3 * LEAST, "{sent} bytes for {came}");
}

#[test]
fn k03_pending_first_flights_are_bounded() {
    let (_, mut server) = ends();
    let now = start();
    for number in 0..1000_u16 {
        let mut bytes = [1; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        let mut client = Quic::client(&Profile::direct(), UNIX_TIME, &Seed::new(bytes));
        client.connect(now, server_addr(), "relay.test", &Trust::FirstUse).unwrap();
        let from = SocketAddr::new(victim().ip(), 1024 + number);
        for (_, data) in leaving(&mut client, now) {
            server.handle_datagram(now, &arrival(from), BytesMut::from(&data[..]));
        }
    }
    let mut waiting = 0;
    while let Some(incoming) = server.poll_incoming() {
        waiting += 1;
        server.ignore(incoming);
    }
    assert!((1..=8).contains(&waiting), "{waiting} wait");
    // A refused client gets no answer.
    assert_eq!(server.connections(), 0);
    assert!(leaving(&mut server, now).len() <= REPLIES);
}
