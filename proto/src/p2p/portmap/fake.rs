//! Gateways for tests: what they say, and a world of one machine and one gateway with its own clock.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use proptest::prelude::*;

use super::ask::{Outgoing, Place};
use super::{Event, PORT, PortMap, Protocol, SOCKET};
use crate::Instant;
use crate::node::{Action, Interface};
use crate::seed::Seed;

pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
pub const GATEWAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 1), PORT);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
pub const PLACE: Place = Place { gateway: GATEWAY, local: LOCAL, port: 40_000 };

pub fn interface(addr: Ipv4Addr) -> Interface {
    Interface { name: "eth0".to_owned(), addr: addr.into(), prefix: 24 }
}

/// An answer to a MAP request.
pub fn pcp_answer(request: &[u8], result: u8, lifetime: u32, epoch: u32, external: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut answer = vec![2, 0x81, 0, result];
    answer.extend(lifetime.to_be_bytes());
    answer.extend(epoch.to_be_bytes());
    answer.extend([0; 12]);
    answer.extend(&request[24..42]);
    answer.extend(port.to_be_bytes());
    answer.extend(external.to_ipv6_mapped().octets());
    answer
}

pub fn natpmp_address(result: u16, epoch: u32, external: Ipv4Addr) -> Vec<u8> {
    [&[0, 0x80][..], &result.to_be_bytes(), &epoch.to_be_bytes(), &external.octets()].concat()
}

pub fn natpmp_mapping(result: u16, epoch: u32, internal: u16, external: u16, lifetime: u32) -> Vec<u8> {
    let ports = [internal.to_be_bytes(), external.to_be_bytes()].concat();
    [&[0, 0x81][..], &result.to_be_bytes(), &epoch.to_be_bytes(), &ports, &lifetime.to_be_bytes()].concat()
}

/// A few datagrams, most of which begin so.
pub fn any_datagrams(begin: &'static [u8]) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let rest = prop::collection::vec(any::<u8>(), 0..80);
    let datagram = (0..=begin.len(), rest).prop_map(|(len, rest)| [&begin[..len], &rest].concat());
    prop::collection::vec(datagram, 1..8)
}

/// What a gateway does with a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Silent,
    NotSpoken,
    Refuses,
    Garbage,
    Grants,
    /// After so many milliseconds.
    GrantsLate(u64),
}

/// A mapping that it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub by: Protocol,
    pub external: u16,
    pub until: Instant,
}

pub struct Gateway {
    pub pcp: Manner,
    pub natpmp: Manner,
    pub outside: Ipv4Addr,
    pub lifetime: u32,
    /// When its clock was zero.
    pub zero: Instant,
    pub held: Vec<Held>,
    pub next_port: u16,
}

impl Gateway {
    /// The answer, and after how many milliseconds.
    fn answer(&mut self, now: Instant, data: &[u8]) -> Option<(u64, Vec<u8>)> {
        let manner = if data[0] == 2 { self.pcp } else { self.natpmp };
        let delay = match manner {
            Manner::Silent => return None,
            Manner::Garbage => return Some((1, vec![data[0], 0x81, 0, 0, 1, 2, 3])),
            Manner::GrantsLate(delay) => delay,
            Manner::NotSpoken | Manner::Refuses | Manner::Grants => 1,
        };
        self.held.retain(|held| held.until > now);
        let epoch = (now - self.zero).as_secs() as u32;
        let answer = match (data[0], data[1]) {
            (2, 1) if manner == Manner::NotSpoken => vec![0, 0x81, 0, 1, 0, 0, 0, 1],
            (2, 1) if manner == Manner::Refuses => pcp_answer(data, 2, 30, epoch, Ipv4Addr::UNSPECIFIED, 0),
            (2, 1) => {
                let lifetime = u32::from_be_bytes(data[4..8].try_into().unwrap());
                let (port, lifetime) = self.map(now, Protocol::Pcp, lifetime);
                pcp_answer(data, 0, lifetime, epoch, self.outside, port)
            }
            (0, 0) if manner == Manner::Refuses => natpmp_address(2, epoch, Ipv4Addr::UNSPECIFIED),
            (0, 0) if manner != Manner::NotSpoken => natpmp_address(0, epoch, self.outside),
            (0, 1) if manner != Manner::NotSpoken => {
                let lifetime = u32::from_be_bytes(data[8..12].try_into().unwrap());
                let internal = u16::from_be_bytes(data[4..6].try_into().unwrap());
                let (port, lifetime) = self.map(now, Protocol::NatPmp, lifetime);
                natpmp_mapping(0, epoch, internal, if lifetime == 0 { 0 } else { port }, lifetime)
            }
            _ => return None,
        };
        Some((delay, answer))
    }

    /// Each protocol has its own port here, so that it shows what is held twice.
    pub fn map(&mut self, now: Instant, by: Protocol, lifetime: u32) -> (u16, u32) {
        let known = self.held.iter().position(|held| held.by == by).map(|at| self.held.remove(at).external);
        if lifetime == 0 {
            return (known.unwrap_or(0), 0);
        }
        let external = known.unwrap_or_else(|| {
            self.next_port += 1;
            self.next_port
        });
        let lifetime = lifetime.min(self.lifetime);
        self.held.push(Held { by, external, until: now + Duration::from_secs(lifetime.into()) });
        (external, lifetime)
    }
}

/// A machine and its gateway.
pub struct World {
    pub start: Instant,
    pub now: Instant,
    pub map: PortMap,
    pub gateway: Gateway,
    pub events: Vec<Event>,
    /// When what was sent, in milliseconds.
    pub sent: Vec<(u128, Outgoing)>,
    pub actions: Vec<Action>,
    /// On their way to the machine.
    under_way: Vec<(Instant, SocketAddr, Vec<u8>)>,
    pub bind_fails: bool,
}

impl World {
    pub fn new(pcp: Manner, natpmp: Manner, protocols: &[Protocol]) -> Self {
        let start = Instant::now() + Duration::from_secs(100_000);
        let zero = start - Duration::from_secs(50_000);
        let (outside, held) = (OUTSIDE, Vec::new());
        let gateway = Gateway { pcp, natpmp, outside, lifetime: 7200, zero, held, next_port: 5000 };
        let map = PortMap::with(&Seed::new([3; 32]), protocols);
        let (events, sent, actions, under_way) = Default::default();
        Self { start, now: start, map, gateway, events, sent, actions, under_way, bind_fails: false }
    }

    /// At home, with a gateway, and started.
    pub fn started(pcp: Manner, natpmp: Manner, protocols: &[Protocol]) -> Self {
        let mut world = Self::new(pcp, natpmp, protocols);
        world.map.handle_interfaces(world.now, &[interface(LOCAL)]);
        world.map.handle_gateways(world.now, &[(*GATEWAY.ip()).into()]);
        world.map.start(world.now, PLACE.port);
        world
    }

    pub fn at(&self) -> u128 {
        (self.now - self.start).as_millis()
    }

    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.pump();
            let arrival = self.under_way.iter().map(|(at, ..)| *at).min();
            let Some(at) = arrival.into_iter().chain(self.map.poll_timeout()).min().filter(|&at| at <= until) else {
                self.now = until;
                return;
            };
            let is_due = self.map.poll_timeout().is_some_and(|due| due <= at);
            self.now = self.now.max(at);
            if let Some(first) = self.under_way.iter().position(|(arrives, ..)| *arrives <= self.now) {
                let (_, from, data) = self.under_way.remove(first);
                self.map.handle_datagram(self.now, from, &data);
            } else if is_due {
                self.map.handle_timeout(self.now);
                let again = self.map.poll_timeout();
                assert!(again.is_none_or(|again| again > self.now), "it spins");
            }
        }
    }

    /// Milliseconds.
    pub fn run_ms(&mut self, ms: u64) {
        self.run(Duration::from_millis(ms));
    }

    fn pump(&mut self) {
        loop {
            while let Some(action) = self.map.poll_action() {
                if let Action::Bind(socket, bind) = &action {
                    assert_eq!(*socket, SOCKET);
                    let result = if self.bind_fails { Err(std::io::ErrorKind::AddrInUse) } else { Ok(bind.addr) };
                    self.map.handle_bound(self.now, result);
                }
                self.actions.push(action);
            }
            let Some(out) = self.map.poll_transmit() else { break };
            if out.to == GATEWAY.into()
                && let Some((delay, data)) = self.gateway.answer(self.now, &out.data)
            {
                self.under_way.push((self.now + Duration::from_millis(delay), GATEWAY.into(), data));
            }
            self.sent.push((self.at(), out));
        }
        while let Some(event) = self.map.poll_event() {
            self.events.push(event);
        }
    }

    /// What arrives from anybody.
    pub fn inject(&mut self, from: SocketAddr, data: &[u8]) {
        self.map.handle_datagram(self.now, from, data);
        self.pump();
    }
}
