//! The rules for candidates: which are offered, which of the peer's may be tried, and in which order.
//!
//! No state, no timers. The rules for the peer's candidates ([`admit`]) apply to every peer, because a peer that knows
//! the code may still be malicious: nothing is sent to this machine's loopback, to multicast or broadcast addresses, to
//! ports below [`MIN_PORT`], or to private addresses of a scope in which this machine has no address (docs/protocol.md
//! §8). The own candidates ([`offered`]) follow the same rules, because the peer would discard all others.
//!
//! Bounds: [`MAX`] candidates, [`MAX_TCP`] of them TCP, `MAX_PER_ADDRESS` at one address; [`MAX_HOSTS`] own addresses.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::Interface;
#[cfg(any(test, feature = "internals"))]
pub use crate::wire::candidate::Candidates;
pub use crate::wire::candidate::{Candidate, CandidateTransport, Kind, MAX};

/// Maximum number of TCP candidates.
pub const MAX_TCP: usize = 4;
/// Maximum number of own addresses that are offered.
pub const MAX_HOSTS: usize = 6;
/// Maximum number of candidates at one IP address: one port for UDP, one for TCP, and two that NATs assigned.
const MAX_PER_ADDRESS: usize = 4;
/// Maximum number of offered addresses of one interface in one IPv6 network.
const MAX_PER_NETWORK: usize = 2;
/// The minimum port of a candidate: lower ports belong to services.
pub const MIN_PORT: u16 = 1024;
/// An IPv4 interface with a shorter prefix is not treated as a local network.
const MIN_PREFIX_V4: u8 = 8;
/// An IPv6 interface with a shorter prefix is not treated as a local network.
const MIN_PREFIX_V6: u8 = 32;

/// The address family. There is a socket for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address; an IPv4-mapped IPv6 address is IPv4.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// How near a candidate is, best first. Candidates are tried in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// The candidate is in a network of an own interface.
    Near,
    /// A public host candidate: at most a firewall is in between.
    Public,
    /// A reflexive candidate: a NAT is in between, which needs hole punching.
    Reflexive,
    /// A port mapping of a gateway. It comes after `Reflexive`, because the peer's packets pass more of that gateway's
    /// processing.
    Mapped,
    /// A private address behind a router: another part of the same site, or an unrelated network with the same address
    /// range.
    Routed,
}

/// The scope of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Public,
    /// Private, RFC 1918.
    Private,
    /// Shared address space of carrier-grade NAT, RFC 6598.
    Shared,
    /// Unique local IPv6, RFC 4193.
    Unique,
    /// Never a candidate: loopback, link-local, multicast, reserved, and embedded IPv4 addresses that `to_canonical`
    /// does not extract.
    Never,
}

impl Scope {
    /// The scope of `ip`, which must be in canonical form.
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    const fn of_v4(ip: Ipv4Addr) -> Self {
        match ip.octets() {
            // This network, loopback, link-local, protocol assignments, multicast, reserved, broadcast: RFC 6890.
            [0 | 127 | 224..=255, ..] | [169, 254, ..] | [192, 0, 0, _] => Self::Never,
            [100, 64..=127, ..] => Self::Shared,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Self::Private,
            _ => Self::Public,
        }
    }

    const fn of_v6(ip: Ipv6Addr) -> Self {
        match ip.segments() {
            // 6to4 and Teredo addresses lead to the IPv4 address embedded in them.
            [0x2002, ..] | [0x2001, 0, ..] => Self::Never,
            [0x2000..=0x3FFF, ..] => Self::Public,
            [0xFC00..=0xFDFF, ..] => Self::Unique,
            // This includes NAT64 addresses, which no machine has as its own.
            _ => Self::Never,
        }
    }
}

/// The candidates of the peer that may be tried, in canonical form, best first: at most [`MAX`], and the first ones if
/// there are more. Denied candidates are left out without a report.
#[must_use]
pub fn admit(theirs: &[Candidate], own: &[Interface]) -> Vec<Candidate> {
    admit_beside(&[], theirs, own)
}

/// As [`admit`], for later candidates when `known` were admitted before. The bounds apply to all of them together, and
/// known ones are left out.
#[must_use]
pub fn admit_beside(known: &[Candidate], theirs: &[Candidate], own: &[Interface]) -> Vec<Candidate> {
    let mut admitted: Vec<Candidate> = Vec::new();
    for theirs in theirs {
        let all = || known.iter().chain(&admitted);
        if all().count() >= MAX {
            break;
        }
        let candidate = Candidate { addr: canonical(theirs.addr), ..*theirs };
        let is_known = all().any(|known| (known.transport, known.addr) == (candidate.transport, candidate.addr));
        let at_address = all().filter(|known| known.addr.ip() == candidate.addr.ip()).count();
        let is_one_tcp_too_many = candidate.transport == CandidateTransport::Tcp
            && all().filter(|known| known.transport == CandidateTransport::Tcp).count() >= MAX_TCP;
        if !is_known && at_address < MAX_PER_ADDRESS && !is_one_tcp_too_many && may_try(&candidate, own) {
            admitted.push(candidate);
        }
    }
    admitted.sort_by(|a, b| order(a, b, own));
    admitted
}

/// The reach of a candidate, which determines the order of attempts.
#[must_use]
pub fn reach(candidate: &Candidate, own: &[Interface]) -> Reach {
    let ip = candidate.addr.ip().to_canonical();
    match candidate.kind {
        Kind::Host if is_near(ip, own) => Reach::Near,
        Kind::Host => match Scope::of(ip) {
            Scope::Public => Reach::Public,
            Scope::Private | Scope::Shared | Scope::Unique | Scope::Never => Reach::Routed,
        },
        Kind::Reflexive => Reach::Reflexive,
        Kind::Mapped => Reach::Mapped,
    }
}

/// The order of attempts: by reach, then TCP first (it is tried only in the own network and is fastest there), then
/// IPv6 first.
#[must_use]
pub fn order(a: &Candidate, b: &Candidate, own: &[Interface]) -> Ordering {
    let key = |candidate: &Candidate| {
        let transport = match candidate.transport {
            CandidateTransport::Tcp => 0_u8,
            CandidateTransport::Udp => 1,
        };
        let family = match Family::of(candidate.addr.ip()) {
            Family::V6 => 0_u8,
            Family::V4 => 1,
        };
        (reach(candidate, own), transport, family)
    };
    key(a).cmp(&key(b))
}

/// The own addresses that are offered: at most [`MAX_HOSTS`], of both families in turn, without duplicates.
///
/// Addresses of bridges to this machine's containers come last, and so do IPv6 addresses that reveal the MAC address:
/// neither is useful if there is a better one.
#[must_use]
pub fn offered(interfaces: &[Interface]) -> Vec<IpAddr> {
    let mut addresses: Vec<(bool, bool, usize, IpAddr, &Interface)> = Vec::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let ip = interface.addr.to_canonical();
        if Scope::of(ip) != Scope::Never && !addresses.iter().any(|&(.., known, _)| known == ip) {
            addresses.push((is_internal(&interface.name), contains_mac(ip), index, ip, interface));
        }
    }
    addresses.sort_by_key(|&(internal, card, index, ..)| (internal, card, index));
    let mut of = [Vec::new(), Vec::new()];
    let [v4, v6] = &mut of;
    for (.., ip, interface) in addresses {
        match ip {
            IpAddr::V4(_) => v4.push((ip, interface)),
            IpAddr::V6(_) => {
                let alike = |other: &&(IpAddr, &Interface)| {
                    other.1.name == interface.name && is_in_network(ip, other.0, interface.prefix)
                };
                if v6.iter().filter(alike).count() < MAX_PER_NETWORK {
                    v6.push((ip, interface));
                }
            }
        }
    }
    let [v4, v6] = of.map(|addresses| addresses.into_iter().map(|(ip, _)| ip));
    interleave(v4, v6).take(MAX_HOSTS).collect()
}

/// Whether the peer would try a reflexive or mapped address of ours: it is public or private, and not on a port of a
/// service.
#[must_use]
pub fn is_usable(addr: SocketAddr) -> bool {
    addr.port() >= MIN_PORT && Scope::of(addr.ip().to_canonical()) != Scope::Never
}

/// The canonical form of an address: IPv4-mapped addresses as IPv4, IPv6 without scope and flow label.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The rules for one candidate in canonical form.
fn may_try(candidate: &Candidate, own: &[Interface]) -> bool {
    let ip = candidate.addr.ip();
    let scope = Scope::of(ip);
    let reachable = match scope {
        Scope::Never => false,
        Scope::Public => true,
        Scope::Private | Scope::Shared | Scope::Unique => {
            own.iter().any(|interface| Scope::of(interface.addr.to_canonical()) == scope)
        }
    };
    let transport = match candidate.transport {
        CandidateTransport::Udp => true,
        CandidateTransport::Tcp => candidate.kind == Kind::Host && is_near(ip, own),
    };
    reachable && transport && candidate.addr.port() >= MIN_PORT && !is_broadcast(ip, own)
}

/// Whether an address, in canonical form, is in a network of an own interface.
#[must_use]
pub fn is_near(ip: IpAddr, own: &[Interface]) -> bool {
    own.iter().any(|interface| {
        let min = match interface.addr {
            IpAddr::V4(_) => MIN_PREFIX_V4,
            IpAddr::V6(_) => MIN_PREFIX_V6,
        };
        interface.prefix >= min && is_in_network(ip, interface.addr, interface.prefix)
    })
}

/// Whether an address is the broadcast address of an own network, or its all-zeros form (RFC 1122 §3.3.6). Networks of
/// two addresses have none (RFC 3021).
fn is_broadcast(ip: IpAddr, own: &[Interface]) -> bool {
    let IpAddr::V4(ip) = ip else { return false };
    own.iter().any(|interface| {
        let IpAddr::V4(addr) = interface.addr.to_canonical() else { return false };
        let host = u32::MAX.checked_shr(interface.prefix.into()).unwrap_or(0);
        let (bits, own) = (ip.to_bits(), addr.to_bits());
        interface.prefix < 31 && bits & !host == own & !host && (bits & host == host || bits & host == 0)
    })
}

/// Whether the first `prefix` bits of both addresses are equal.
fn is_in_network(ip: IpAddr, of: IpAddr, prefix: u8) -> bool {
    match (ip, of) {
        (IpAddr::V4(ip), IpAddr::V4(of)) => {
            let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            ip.to_bits() | host == of.to_bits() | host
        }
        (IpAddr::V6(ip), IpAddr::V6(of)) => {
            let host = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
            ip.to_bits() | host == of.to_bits() | host
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Whether the interface identifier of an IPv6 address contains a MAC address (RFC 4291, appendix A).
const fn contains_mac(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => {
            let [.., a, b, _, _, _] = ip.octets();
            a == 0xFF && b == 0xFE
        }
    }
}

/// Whether an interface name is one that container and virtual machine software uses.
fn is_internal(name: &str) -> bool {
    ["docker", "br-", "veth", "virbr", "podman", "cni", "lxc", "lxd", "vboxnet", "vmnet"]
        .iter()
        .any(|start| name.starts_with(start))
}

fn interleave<T>(a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let (mut a, mut b, mut turn) = (a, b, false);
    std::iter::from_fn(move || {
        turn = !turn;
        if turn { a.next().or_else(|| b.next()) } else { b.next().or_else(|| a.next()) }
    })
}

#[cfg(test)]
mod tests;
