//! The topology: the public segment, sites behind NATs and firewalls, and sites behind those.
//!
//! It decides the route of a packet and how it is changed. On departure the packet moves up from its segment until it
//! reaches the segment of its destination or the public one, and each site's NAT may translate or drop it. On
//! arrival, which is later, it moves down through the NATs towards its destination, in their state at that time.
//! Addresses are only valid inside a segment, so private networks may overlap.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tallow_proto::seed::Seed;

use super::host::HostId;
use super::nat::{Behaviour, Nat, Protocol};

/// A network in which hosts reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(usize);

/// The internet. A host in it reaches every other one that is in it.
pub const PUBLIC: Segment = Segment(0);

/// A host's address in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// The segment.
    pub segment: Segment,
    /// The address.
    pub addr: IpAddr,
    /// Bits of it that name the network.
    pub prefix: u8,
}

impl Attachment {
    /// In the usual network of its family.
    #[must_use]
    pub const fn new(segment: Segment, addr: IpAddr) -> Self {
        Self { segment, addr, prefix: if addr.is_ipv4() { 24 } else { 64 } }
    }

    /// Whether the address is in the same network.
    #[must_use]
    pub fn is_near(&self, other: IpAddr) -> bool {
        is_within(other, self.addr, self.prefix)
    }
}

/// Whether an address is in the network that has this one in it.
fn is_within(addr: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let bits = |ip| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, true),
        IpAddr::V6(ip) => (u128::from(ip), false),
    };
    let ((one, family), (other, other_family)) = (bits(addr), bits(network));
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    family == other_family && (one ^ other) & mask == 0
}

/// The plan of a site between a segment and its parent.
#[derive(Debug, Clone)]
pub struct Site {
    /// The networks inside, which no packet leaves for.
    pub networks: Vec<(IpAddr, u8)>,
    /// How IPv4 gets out, if it does, and the address outside.
    pub v4: Option<(Behaviour, IpAddr)>,
    /// How IPv6 gets out, if it does; the addresses inside are public.
    pub v6: Option<Behaviour>,
}

impl Site {
    /// A private IPv4 network behind a NAT.
    #[must_use]
    pub fn private(network: [u8; 4], behaviour: Behaviour, outside: [u8; 4]) -> Self {
        Self { networks: vec![(network.into(), 24)], v4: Some((behaviour, outside.into())), v6: None }
    }

    /// Adds a public IPv6 network.
    #[must_use]
    pub fn with_v6(mut self, network: IpAddr, behaviour: Behaviour) -> Self {
        self.networks.push((network, 64));
        self.v6 = Some(behaviour);
        self
    }
}

#[derive(Debug)]
struct Built {
    parent: Segment,
    networks: Vec<(IpAddr, u8)>,
    v4: Option<Nat>,
    v6: Option<Nat>,
}

impl Built {
    const fn nat(&self, addr: IpAddr) -> Option<&Nat> {
        if addr.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    const fn nat_mut(&mut self, addr: IpAddr) -> Option<&mut Nat> {
        if addr.is_ipv4() { self.v4.as_mut() } else { self.v6.as_mut() }
    }
}

/// A packet between departure and arrival: in the highest segment that it gets to, with the addresses that it has
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    /// Its segment.
    pub segment: Segment,
    /// Its kind.
    pub protocol: Protocol,
    /// Its source, as seen in this segment.
    pub from: SocketAddr,
    /// Its destination, as seen in this segment.
    pub to: SocketAddr,
}

/// The topology.
#[derive(Debug, Default)]
pub struct Topology {
    /// Segment n + 1.
    sites: Vec<Built>,
    addresses: BTreeMap<(Segment, IpAddr), HostId>,
}

impl Topology {
    /// Builds a site below a segment; its inside is a new segment.
    pub fn add(&mut self, parent: Segment, site: Site, seed: &Seed) -> Segment {
        let seed = seed.derive(&format!("site {}", self.sites.len()));
        let v4 = site.v4.map(|(behaviour, outside)| Nat::new(behaviour, outside, &seed.derive("v4")));
        let none = IpAddr::from([0; 16]);
        let v6 = site.v6.map(|behaviour| Nat::new(behaviour, none, &seed.derive("v6")));
        self.sites.push(Built { parent, networks: site.networks, v4, v6 });
        Segment(self.sites.len())
    }

    /// The NAT or firewall through which a site's packets of a family get out.
    pub fn nat_mut(&mut self, site: Segment, family: IpAddr) -> Option<&mut Nat> {
        self.sites.get_mut(site.0.checked_sub(1)?)?.nat_mut(family)
    }

    /// The address is this host's from now on, whosever it was.
    pub fn attach(&mut self, host: HostId, at: &Attachment) {
        self.addresses.insert((at.segment, at.addr), host);
    }

    /// The host leaves the address.
    pub fn detach(&mut self, host: HostId, at: &Attachment) {
        if self.addresses.get(&(at.segment, at.addr)) == Some(&host) {
            self.addresses.remove(&(at.segment, at.addr));
        }
    }

    fn below(&self, segment: Segment) -> impl Iterator<Item = (Segment, &Built)> {
        let sites = self.sites.iter().enumerate().map(|(index, site)| (Segment(index + 1), site));
        sites.filter(move |(_, site)| site.parent == segment)
    }

    /// The next step down towards an address that is known in this segment.
    fn next(&self, segment: Segment, addr: IpAddr) -> Option<Next> {
        if let Some(&host) = self.addresses.get(&(segment, addr)) {
            return Some(Next::Host(host));
        }
        let mut below = self.below(segment);
        below.find_map(|(inside, site)| {
            let through = match site.nat(addr)?.outside() {
                Some(outside) => outside == addr,
                None => self.next(inside, addr).is_some(),
            };
            through.then_some(Next::Site(inside))
        })
    }

    /// A packet leaves a host; `None`: it can't be delivered.
    pub fn depart(
        &mut self,
        now: Instant,
        protocol: Protocol,
        segment: Segment,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Option<Flight> {
        let (mut segment, mut from) = (segment, from);
        while self.next(segment, to.ip()).is_none() {
            let Some(site) = segment.0.checked_sub(1).and_then(|index| self.sites.get_mut(index)) else { break };
            if !is_routed(to.ip()) || site.networks.iter().any(|&(network, prefix)| is_within(to.ip(), network, prefix))
            {
                return None;
            }
            let parent = site.parent;
            let nat = site.nat_mut(to.ip())?;
            if nat.outside() == Some(to.ip()) && !nat.behaviour().hairpin {
                return None;
            }
            from = nat.out(now, protocol, from, to)?;
            segment = parent;
        }
        Some(Flight { segment, protocol, from, to })
    }

    /// A packet arrives: returns the host and its address, unless it is dropped.
    #[must_use]
    pub fn arrive(&self, now: Instant, flight: &Flight) -> Option<(HostId, SocketAddr)> {
        let (mut segment, mut to) = (flight.segment, flight.to);
        loop {
            match self.next(segment, to.ip())? {
                Next::Host(host) => return Some((host, to)),
                Next::Site(inside) => {
                    let nat = self.sites.get(inside.0.checked_sub(1)?)?.nat(to.ip())?;
                    to = nat.back(now, flight.protocol, flight.from, to)?;
                    segment = inside;
                }
            }
        }
    }
}

enum Next {
    Host(HostId),
    Site(Segment),
}

/// What routers forward.
fn is_routed(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(ip) => {
            !(ip.is_multicast() || ip.is_broadcast() || ip.is_link_local() || ip.is_loopback() || ip.is_unspecified())
        }
        IpAddr::V6(ip) => !(ip.is_multicast() || ip.is_unicast_link_local() || ip.is_loopback() || ip.is_unspecified()),
    }
}

#[cfg(test)]
mod tests;
