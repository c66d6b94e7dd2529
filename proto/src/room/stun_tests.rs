//! The relay as a STUN server.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use super::limits::Limits;
use super::world::*;
use super::{Command, Event, Status};
use crate::net::{Arrival, Ecn, SocketId, Transmit};
use crate::node::Node;
use crate::p2p::stun::{self, Message, TransactionId};
use crate::wire::relay::RoomId;

fn arrival(socket: u8, from: &str) -> Arrival {
    let local_ip = Some(IpAddr::from([192, 0, 2, 2]));
    Arrival { socket: SocketId(socket), from: from.parse().unwrap(), local_ip, ecn: Ecn::Ect0 }
}

fn ask(world: &mut World, arrival: Arrival, id: u8) {
    let request = stun::request(TransactionId([id; 12]));
    world.relay.handle_datagram(world.now, arrival, request[..].into());
}

fn answers(world: &mut World, socket: u8) -> Vec<(Transmit, Vec<u8>)> {
    let mut all = Vec::new();
    world.relay.settle(world.now);
    loop {
        let mut buf = Vec::new();
        let polled = world.relay.poll_transmit(world.now, SocketId(socket), NonZeroUsize::MIN, &mut buf);
        let Some(transmit) = polled else { return all };
        assert_eq!(transmit.size, buf.len());
        all.push((transmit, buf));
    }
}

fn status(world: &mut World) -> Status {
    world.command(Command::Status);
    world.flush();
    let Some(Event::Status(status)) = world.events.last() else { panic!() };
    *status
}

#[test]
fn stun_answer_has_source_address_and_uses_same_socket() {
    let mut world = World::new();
    for (n, from) in ["203.0.113.7:7000", "[::ffff:203.0.113.8]:7000", "[2001:db8::7]:7000"].into_iter().enumerate() {
        let asked = arrival(1, from);
        ask(&mut world, asked, n as u8);
        assert_eq!(answers(&mut world, 0).len(), 0, "not from another socket");
        let [(transmit, answer)] = &answers(&mut world, 1)[..] else { panic!() };
        assert_eq!((transmit.to, transmit.src_ip, transmit.segment_size), (asked.from, asked.local_ip, None));
        let observed = SocketAddr::new(asked.from.ip().to_canonical(), 7000);
        assert_eq!(stun::decode(answer), Ok(Message::Success { id: TransactionId([n as u8; 12]), observed }));
    }
    let Status { stun_answered, stun_ignored, connections, .. } = status(&mut world);
    assert_eq!((stun_answered, stun_ignored, connections), (3, 0, 0));
}

#[test]
fn stun_rate_is_limited_per_source() {
    let limits = Limits { joins_per_minute: 2, ..generous() };
    let mut world = World::of(config(limits));
    for port in 1..=100_u16 {
        ask(&mut world, arrival(0, &format!("203.0.113.7:{port}")), 1);
        ask(&mut world, arrival(0, &format!("[2001:db8::{port:x}]:7000")), 1);
    }
    assert_eq!(answers(&mut world, 0).len(), 16);
    ask(&mut world, arrival(0, "203.0.113.8:7000"), 1);
    assert_eq!(answers(&mut world, 0).len(), 1);
    world.now += Duration::from_secs(60);
    for _ in 0..100 {
        ask(&mut world, arrival(0, "203.0.113.7:7000"), 1);
    }
    assert_eq!(answers(&mut world, 0).len(), 8);
    let Status { stun_answered, stun_ignored, .. } = status(&mut world);
    assert_eq!((stun_answered, stun_ignored), (25, 276));
}

#[test]
fn flood_of_stun_requests_waits_in_short_queue() {
    let mut world = World::new();
    for index in 0..10_000_u32 {
        let [_, b, c, d] = index.to_be_bytes();
        ask(&mut world, arrival(0, &format!("10.{b}.{c}.{d}:7000")), 1);
    }
    let bytes: usize = answers(&mut world, 0).iter().map(|(_, answer)| answer.len()).sum();
    assert_eq!(bytes, 64 * 40);
    assert_eq!(status(&mut world).stun_ignored, 10_000 - 64);
}

#[test]
fn invalid_stun_is_neither_answered_nor_counted_nor_quic() {
    let mut world = World::new();
    let answer = stun::answer(&stun::request(TransactionId([1; 12])), "192.0.2.1:1".parse().unwrap()).unwrap();
    let mut junk = stun::request(TransactionId([1; 12]));
    junk.extend_from_slice(&[0; 1000]);
    for data in [answer, junk] {
        world.relay.handle_datagram(world.now, arrival(0, "203.0.113.7:7000"), data[..].into());
    }
    assert_eq!(answers(&mut world, 0).len(), 0);
    assert_eq!(status(&mut world), Status::default());
}

#[test]
fn pairs_are_served_during_stun_flood() {
    let mut world = World::new();
    let (alice, bob) = world.pair(RoomId([1; 32]));
    let stream = world.clients[alice].main();
    world.send(alice, stream, pattern(100_000, 1));
    while world.clients[bob].got.values().map(Vec::len).sum::<usize>() < 100_000 {
        for n in 0..100_u8 {
            ask(&mut world, arrival(0, &format!("203.0.113.{n}:7000")), n);
        }
        world.pass(Duration::from_millis(1));
        assert!(world.now - world.start < Duration::from_secs(10));
    }
}
