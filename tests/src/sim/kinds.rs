//! Kinds of sites, and the oracle that decides which two of them can connect directly.
//!
//! Hole punching works if both sides learn an address at which the other one can be reached. A side with
//! endpoint-independent mapping can predict its address: it is the one that a server observed. A side with any other
//! mapping sends from a port that is unknown before its packet arrives. The other side's filter must let that packet
//! in, and the other side must be reachable at a port that does not change; it then answers to the packet's source.
//! Two sides that can't predict their addresses use a relay.

use std::net::IpAddr;
use std::time::Duration;

use super::nat::Dependence::{Address, AddressAndPort, Independent};
use super::nat::{Behaviour, Dependence, Translation};
use super::topology::{Attachment, PUBLIC, Segment, Site};
use super::world::World;

/// The NATs between a host and the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// None: a public address.
    Open,
    /// A public address behind a stateful firewall.
    Firewall,
    /// Anyone may send to a mapping.
    FullCone,
    /// Addresses that were sent to may.
    Restricted,
    /// Addresses and ports that were sent to may.
    PortRestricted,
    /// A mapping for each address.
    PerAddress,
    /// A mapping for each address and port.
    Symmetric,
    /// A home's NAT behind a carrier's, both of the better sort.
    Carrier,
    /// … where the carrier's is symmetric.
    SymmetricCarrier,
    /// UDP gets nowhere.
    NoUdp,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::PerAddress,
        Self::Symmetric,
        Self::Carrier,
        Self::SymmetricCarrier,
        Self::NoUdp,
    ];

    /// The NATs on the way out, the host's own first.
    #[must_use]
    pub fn levels(self) -> Vec<Behaviour> {
        let nat = Behaviour::nat;
        match self {
            Self::Open => Vec::new(),
            Self::Firewall => vec![Behaviour::firewall()],
            Self::FullCone => vec![nat(Independent, Independent)],
            Self::Restricted => vec![nat(Independent, Address)],
            Self::PortRestricted => vec![nat(Independent, AddressAndPort)],
            Self::PerAddress => vec![nat(Address, Address)],
            Self::Symmetric => vec![nat(AddressAndPort, AddressAndPort)],
            Self::Carrier => vec![nat(Independent, Address), nat(Independent, Independent)],
            Self::SymmetricCarrier => vec![nat(Independent, Independent), nat(AddressAndPort, AddressAndPort)],
            Self::NoUdp => vec![Behaviour { udp: false, ..nat(Independent, AddressAndPort) }],
        }
    }

    /// Builds the site with this number, and a place for a host in it. The private networks of all sites are the
    /// same.
    pub fn build(self, world: &mut World, number: u8, lifetime: Duration) -> HostPlan {
        let mut levels = self.levels();
        levels.iter_mut().for_each(|behaviour| behaviour.lifetime = lifetime);
        let public = [203, 0, 113, 100 + number];
        let place = |segment, addr: [u8; 4]| vec![Attachment::new(segment, addr.into())];
        match levels[..] {
            [] => HostPlan { attachments: place(PUBLIC, public), segments: Vec::new() },
            [one] if one.translation == Translation::None => {
                let network = IpAddr::from([198, 18, number, 0]);
                let site = Site { networks: vec![(network, 24)], v4: Some((one, network)), v6: None };
                let inside = world.add_site(PUBLIC, site);
                HostPlan { attachments: place(inside, [198, 18, number, 10]), segments: vec![inside] }
            }
            _ => {
                let mut segments = Vec::new();
                let (mut parent, mut outside) = (PUBLIC, public);
                for (depth, &behaviour) in levels.iter().enumerate().rev() {
                    let network = if depth == 0 { [192, 168, 1, 0] } else { [100, 64, 0, 0] };
                    parent = world.add_site(parent, Site::private(network, behaviour, outside));
                    outside = [100, 64, 0, 10];
                    segments.push(parent);
                }
                HostPlan { attachments: place(parent, [192, 168, 1, 10 + number]), segments }
            }
        }
    }
}

/// A host's place.
#[derive(Debug, Clone)]
pub struct HostPlan {
    /// Its addresses.
    pub attachments: Vec<Attachment>,
    /// The sites that it is in, the outermost first.
    pub segments: Vec<Segment>,
}

/// The combined behaviour of several levels: the most dependent one of each property.
fn composite(levels: &[Behaviour]) -> (Dependence, Dependence, bool) {
    levels.iter().fold((Independent, Independent, true), |(mapping, filtering, udp), level| {
        let own = match level.translation {
            Translation::None => Independent,
            Translation::Mapped(mapping, _) => mapping,
        };
        (mapping.max(own), filtering.max(level.filtering), udp && level.udp)
    })
}

/// Whether hosts behind these, which have nothing in common but the internet, can talk directly over UDP.
#[must_use]
pub fn can_punch(one: &[Behaviour], other: &[Behaviour]) -> bool {
    let (one, other) = (composite(one), composite(other));
    let lets_strangers_in = |filtering: Dependence| filtering < AddressAndPort;
    one.2
        && other.2
        && match (one.0, other.0) {
            (Independent, Independent) => true,
            (Independent, Address | AddressAndPort) => lets_strangers_in(one.1),
            (Address | AddressAndPort, Independent) => lets_strangers_in(other.1),
            (Address | AddressAndPort, Address | AddressAndPort) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The five modes of the laboratory of networks, where another program found 22 of the 25 pairs to work.
    #[test]
    fn punch_prediction_matches_lab_results() {
        let five = [Kind::Open, Kind::FullCone, Kind::Restricted, Kind::PortRestricted, Kind::Symmetric];
        let pairs = five.iter().flat_map(|&one| five.iter().map(move |&other| (one, other)));
        let fail: Vec<_> = pairs.filter(|(one, other)| !can_punch(&one.levels(), &other.levels())).collect();
        let (symmetric, restricted) = (Kind::Symmetric, Kind::PortRestricted);
        assert_eq!(fail, [(restricted, symmetric), (symmetric, restricted), (symmetric, symmetric)]);
    }

    #[test]
    fn punching_is_decided_by_worst_nat_level() {
        let can = |one: Kind, other: Kind| can_punch(&one.levels(), &other.levels());
        assert!(can(Kind::Carrier, Kind::Symmetric) && can(Kind::Carrier, Kind::PortRestricted));
        assert!(!can(Kind::SymmetricCarrier, Kind::PortRestricted) && can(Kind::SymmetricCarrier, Kind::Restricted));
        assert!(!can(Kind::Firewall, Kind::Symmetric) && can(Kind::Firewall, Kind::Firewall));
        assert!(!can(Kind::PerAddress, Kind::PerAddress) && !can(Kind::NoUdp, Kind::Open));
    }
}
