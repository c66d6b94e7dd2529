//! A NAT, or a firewall that does not translate, in the terms of RFC 4787 (UDP) and RFC 5382 (TCP).
//!
//! It decides the source address under which an inside packet appears outside, and the inside destination of an
//! outside packet, if it is allowed. It serves one address family and has one outside address. Its own generator
//! chooses the ports, so that a run can be repeated.
//!
//! UDP: a mapping, and the permission of each destination to answer, last for [`Behaviour::lifetime`] after the last
//! packet from inside; packets from outside refresh neither (RFC 4787, REQ-6 allows that). TCP: connections can be
//! opened only from inside, and are kept until the NAT is reset.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tallow_proto::seed::Seed;

use super::network::Chance;

/// What of the other side's address something depends on (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependence {
    /// On nothing: endpoint-independent.
    Independent,
    /// Its address.
    Address,
    /// Its address and port.
    AddressAndPort,
}

/// A part of the other side's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Any,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

impl Dependence {
    const fn scope(self, remote: SocketAddr) -> Scope {
        match self {
            Self::Independent => Scope::Any,
            Self::Address => Scope::Address(remote.ip()),
            Self::AddressAndPort => Scope::Endpoint(remote),
        }
    }
}

/// The choice of the outside port of a mapping (RFC 4787, section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The inside one where it is free, else any.
    Preserved,
    /// Any.
    Random,
}

/// The translation of inside addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// No translation: a firewall.
    None,
    /// Address translation: a NAT.
    Mapped(Dependence, Ports),
}

/// How a NAT or a firewall behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// The translation of addresses.
    pub translation: Translation,
    /// The remote endpoints that may answer a UDP packet.
    pub filtering: Dependence,
    /// Of mappings and of leaves to answer; RFC 4787 asks for two minutes at least.
    pub lifetime: Duration,
    /// Whether the inside reaches itself by outside addresses (RFC 4787, section 6).
    pub hairpin: bool,
    /// Whether UDP is forwarded.
    pub udp: bool,
}

/// The minimum that RFC 4787, REQ-5 requires.
pub const LIFETIME: Duration = Duration::from_secs(120);

impl Behaviour {
    /// A NAT that maps and filters so.
    #[must_use]
    pub const fn nat(mapping: Dependence, filtering: Dependence) -> Self {
        let ports = match mapping {
            Dependence::Independent => Ports::Preserved,
            Dependence::Address | Dependence::AddressAndPort => Ports::Random,
        };
        let translation = Translation::Mapped(mapping, ports);
        Self { translation, filtering, lifetime: LIFETIME, hairpin: false, udp: true }
    }

    /// A firewall: only endpoints to which the inside has sent may answer.
    #[must_use]
    pub const fn firewall() -> Self {
        let (translation, filtering) = (Translation::None, Dependence::AddressAndPort);
        Self { translation, filtering, lifetime: LIFETIME, hairpin: false, udp: true }
    }
}

/// The kind of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// A datagram.
    Udp,
    /// The first of a TCP connection.
    Syn,
    /// Another of a TCP connection.
    Tcp,
}

/// A UDP mapping.
#[derive(Debug)]
struct Mapping {
    outside: SocketAddr,
    until: Instant,
    /// The endpoints that may answer, and until when.
    may_answer: BTreeMap<Scope, Instant>,
}

/// A NAT or a firewall.
#[derive(Debug)]
pub struct Nat {
    behaviour: Behaviour,
    outside: IpAddr,
    ports: Ports,
    mappings: BTreeMap<(SocketAddr, Scope), Mapping>,
    /// By inside and remote endpoint.
    connections: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
    chance: Chance,
}

impl Nat {
    /// Creates it without mappings. The outside address is not used by a firewall.
    #[must_use]
    pub fn new(behaviour: Behaviour, outside: IpAddr, seed: &Seed) -> Self {
        let ports = match behaviour.translation {
            Translation::None => Ports::Preserved,
            Translation::Mapped(_, ports) => ports,
        };
        Self {
            behaviour,
            outside,
            ports,
            mappings: BTreeMap::new(),
            connections: BTreeMap::new(),
            chance: Chance::new(&seed.derive("nat")),
        }
    }

    /// Its behaviour.
    #[must_use]
    pub const fn behaviour(&self) -> Behaviour {
        self.behaviour
    }

    /// Its outside address; `None` if it does not translate.
    #[must_use]
    pub const fn outside(&self) -> Option<IpAddr> {
        match self.behaviour.translation {
            Translation::None => None,
            Translation::Mapped(..) => Some(self.outside),
        }
    }

    /// Translates a packet from inside; returns its outside source unless the packet is dropped.
    pub fn out(&mut self, now: Instant, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        match protocol {
            Protocol::Udp => self.udp_out(now, from, to),
            Protocol::Syn => Some(self.connection(from, to)),
            Protocol::Tcp => self.connections.get(&(from, to)).copied(),
        }
    }

    /// Translates a packet from outside; returns the inside endpoint unless the packet is dropped.
    #[must_use]
    pub fn back(&self, now: Instant, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        match protocol {
            Protocol::Udp => self.udp_back(now, from, to),
            Protocol::Syn => None,
            Protocol::Tcp => {
                let mut known = self.connections.iter();
                known.find_map(|(&(inside, remote), &outside)| (outside == to && remote == from).then_some(inside))
            }
        }
    }

    /// Removes all mappings, as after a restart: new mappings get new ports.
    pub fn flush(&mut self) {
        self.mappings.clear();
        self.connections.clear();
        if self.behaviour.translation != Translation::None {
            self.ports = Ports::Random;
        }
    }

    /// Sets another outside address and removes all mappings.
    pub fn readdress(&mut self, outside: IpAddr) {
        self.flush();
        self.outside = outside;
    }

    /// Allows or blocks UDP.
    pub const fn allow_udp(&mut self, allow: bool) {
        self.behaviour.udp = allow;
    }

    fn udp_out(&mut self, now: Instant, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if !self.behaviour.udp {
            return None;
        }
        self.mappings.retain(|_, mapping| mapping.until > now);
        let dependence = match self.behaviour.translation {
            Translation::None => Dependence::Independent,
            Translation::Mapped(dependence, _) => dependence,
        };
        let key = (from, dependence.scope(to));
        if !self.mappings.contains_key(&key) {
            let is_free = |nat: &Self, addr| nat.mappings.values().all(|mapping| mapping.outside != addr);
            let outside = self.allot(from, is_free);
            self.mappings.insert(key, Mapping { outside, until: now, may_answer: BTreeMap::new() });
        }
        let until = now + self.behaviour.lifetime;
        let mapping = self.mappings.get_mut(&key)?;
        mapping.until = until;
        mapping.may_answer.insert(self.behaviour.filtering.scope(to), until);
        Some(mapping.outside)
    }

    fn udp_back(&self, now: Instant, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if !self.behaviour.udp {
            return None;
        }
        let scope = self.behaviour.filtering.scope(from);
        self.mappings.iter().find_map(|(&(inside, _), mapping)| {
            let may = mapping.may_answer.get(&scope).is_some_and(|&until| until > now);
            (mapping.outside == to && mapping.until > now && may).then_some(inside)
        })
    }

    fn connection(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        if let Some(&outside) = self.connections.get(&(from, to)) {
            return outside;
        }
        let is_free = |nat: &Self, addr| nat.connections.values().all(|&outside| outside != addr);
        let outside = self.allot(from, is_free);
        self.connections.insert((from, to), outside);
        outside
    }

    fn allot(&mut self, from: SocketAddr, is_free: impl Fn(&Self, SocketAddr) -> bool) -> SocketAddr {
        if self.behaviour.translation == Translation::None {
            return from;
        }
        let same = SocketAddr::new(self.outside, from.port());
        if self.ports == Ports::Preserved && is_free(self, same) {
            return same;
        }
        loop {
            let port = 1024 + (self.chance.draw() % (65_536 - 1024)) as u16;
            let addr = SocketAddr::new(self.outside, port);
            if port != from.port() && is_free(self, addr) {
                return addr;
            }
        }
    }
}

#[cfg(test)]
mod tests;
