//! Addresses at which a peer may be reached directly: what is offered, what may be tried, what is tried first.
//!
//! Decides without state or timers. The rules for the other side's candidates ([`admit`]) hold whoever is there, since a peer
//! that proved to know the code may still be anybody: nothing is sent to this machine's loopback, to many at once, to
//! services below [`MIN_PORT`], or into a private network of which this machine is no part (docs/protocol.md §8). What is offered
//! ([`offered`]) obeys the same rules, for everything else would be thrown away over there.
//!
//! Bounds: [`MAX`] candidates, [`MAX_TCP`] of them TCP, `MAX_PER_ADDRESS` at one address; of our own [`MAX_HOSTS`] addresses.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::Interface;
pub use crate::wire::candidate::{Candidate, Candidates, Carrier, Kind, MAX};

/// Of those, TCP.
pub const MAX_TCP: usize = 4;
/// Own addresses that are offered.
pub const MAX_HOSTS: usize = 6;
/// Candidates at one IP address: a port of its own for UDP and for TCP, and two that NATs made up.
const MAX_PER_ADDRESS: usize = 4;
/// Of the addresses that one interface has in one IPv6 network, so many are offered.
const MAX_PER_NETWORK: usize = 2;
/// Ports below are those of services, and nobody's candidate.
pub const MIN_PORT: u16 = 1024;
/// A shorter prefix is no network in which neighbours live, whatever an interface says.
const MIN_PREFIX_V4: u8 = 8;
/// The same.
const MIN_PREFIX_V6: u8 = 32;

/// Of IP. There is a socket for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address; IPv4 in IPv6 form is IPv4.
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
    /// In a network of one of our interfaces.
    Near,
    /// A machine's own public address: at most a firewall is in between.
    Public,
    /// A NAT that has to be passed.
    Reflexive,
    /// A port that a gateway opened for everybody. After `Reflexive`: a packet of the other side has to pass more of that
    /// gateway.
    Mapped,
    /// A private address behind some router: another part of one site, or a network that happens to have the same numbers.
    Routed,
}

/// What an address is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Public,
    /// RFC 1918.
    Private,
    /// Of a provider's NAT, RFC 6598.
    Shared,
    /// Unique local IPv6, RFC 4193.
    Unique,
    /// Loopback, link-local, multicast, reserved; IPv4 in a disguise that is not known to `to_canonical`.
    Never,
}

impl Scope {
    /// `ip` is in canonical form.
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
            // 6to4 and Teredo lead to whatever IPv4 address is written in them.
            [0x2002, ..] | [0x2001, 0, ..] => Self::Never,
            [0x2000..=0x3FFF, ..] => Self::Public,
            [0xFC00..=0xFDFF, ..] => Self::Unique,
            // Among them NAT64's, which is nobody's own address.
            _ => Self::Never,
        }
    }
}

/// The candidates of the other side that may be tried, in canonical form, best first: at most [`MAX`]. Everything denied is
/// left out and told to nobody; of more than that the first count.
#[must_use]
pub fn admit(theirs: &[Candidate], own: &[Interface]) -> Vec<Candidate> {
    admit_beside(&[], theirs, own)
}

/// The same of those that are said later, when `known` were admitted before: the bounds hold for all of them together, and what is
/// known is left out.
#[must_use]
pub fn admit_beside(known: &[Candidate], theirs: &[Candidate], own: &[Interface]) -> Vec<Candidate> {
    let mut admitted: Vec<Candidate> = Vec::new();
    for theirs in theirs {
        let all = || known.iter().chain(&admitted);
        if all().count() >= MAX {
            break;
        }
        let candidate = Candidate { addr: canonical(theirs.addr), ..*theirs };
        let is_known = all().any(|known| (known.carrier, known.addr) == (candidate.carrier, candidate.addr));
        let at_address = all().filter(|known| known.addr.ip() == candidate.addr.ip()).count();
        let is_one_tcp_too_many =
            candidate.carrier == Carrier::Tcp && all().filter(|known| known.carrier == Carrier::Tcp).count() >= MAX_TCP;
        if !is_known && at_address < MAX_PER_ADDRESS && !is_one_tcp_too_many && may_try(&candidate, own) {
            admitted.push(candidate);
        }
    }
    admitted.sort_by(|a, b| order(a, b, own));
    admitted
}

/// Where a candidate stands among those that are to be tried.
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

/// Best first: the nearest, then TCP (which is tried on the own network only, and fastest there), then IPv6.
#[must_use]
pub fn order(a: &Candidate, b: &Candidate, own: &[Interface]) -> Ordering {
    let key = |candidate: &Candidate| {
        let carrier = match candidate.carrier {
            Carrier::Tcp => 0_u8,
            Carrier::Udp => 1,
        };
        let family = match Family::of(candidate.addr.ip()) {
            Family::V6 => 0_u8,
            Family::V4 => 1,
        };
        (reach(candidate, own), carrier, family)
    };
    key(a).cmp(&key(b))
}

/// Which of our own addresses are offered: at most [`MAX_HOSTS`], of both families in turn; no two alike.
///
/// Addresses of bridges to this machine's own containers come last, and IPv6 addresses that name the network card: neither is
/// of use where there is something better.
#[must_use]
pub fn offered(interfaces: &[Interface]) -> Vec<IpAddr> {
    let mut addresses: Vec<(bool, bool, usize, IpAddr, &Interface)> = Vec::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let ip = interface.addr.to_canonical();
        if Scope::of(ip) != Scope::Never && !addresses.iter().any(|&(.., known, _)| known == ip) {
            addresses.push((is_internal(&interface.name), names_card(ip), index, ip, interface));
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

/// Whether the other side would try an address of ours that a server or a gateway told: public or private, and no service's
/// port.
#[must_use]
pub fn is_usable(addr: SocketAddr) -> bool {
    addr.port() >= MIN_PORT && Scope::of(addr.ip().to_canonical()) != Scope::Never
}

/// The one form of an address: IPv4 as IPv4, IPv6 without scope and flow label.
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
    let carrier = match candidate.carrier {
        Carrier::Udp => true,
        Carrier::Tcp => candidate.kind == Kind::Host && is_near(ip, own),
    };
    reachable && carrier && candidate.addr.port() >= MIN_PORT && !is_everybody(ip, own)
}

/// Whether an address, in canonical form, is in a network of our own.
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

/// Whether an address is the broadcast address of a network of our own, or its all-zeros form (RFC 1122 §3.3.6). Networks of
/// two addresses have none (RFC 3021).
fn is_everybody(ip: IpAddr, own: &[Interface]) -> bool {
    let IpAddr::V4(ip) = ip else { return false };
    own.iter().any(|interface| {
        let IpAddr::V4(addr) = interface.addr.to_canonical() else { return false };
        let host = u32::MAX.checked_shr(interface.prefix.into()).unwrap_or(0);
        let (bits, own) = (ip.to_bits(), addr.to_bits());
        interface.prefix < 31 && bits & !host == own & !host && (bits & host == host || bits & host == 0)
    })
}

/// Whether the first `prefix` bits of both are the same.
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

/// An IPv6 address whose interface identifier was made of a MAC address (RFC 4291, appendix A).
const fn names_card(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => {
            let [.., a, b, _, _, _] = ip.octets();
            a == 0xFF && b == 0xFE
        }
    }
}

/// Names that programs give to the bridges and pairs of their containers and virtual machines.
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
#[path = "candidate_tests.rs"]
mod tests;
