//! Selects the gateway: the default gateway, if it translates addresses, or any gateway that answers if the system
//! reports none.
//!
//! No state, no timers.

use std::net::{IpAddr, Ipv4Addr};

use crate::Interface;
use crate::client::is_shared;

/// A gateway that may grant a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gateway {
    /// The default gateway, and our address on its network.
    Known { address: Ipv4Addr, local: Ipv4Addr },
    /// The system reports none. UPnP may find one on these private networks of this machine (own address, prefix
    /// length).
    Unknown(Vec<(Ipv4Addr, u8)>),
}

impl Gateway {
    /// Selects the first gateway, which routes packets to the internet. It is not used if it is on none of this
    /// machine's networks, or if this machine's address there is public: then it translates no addresses.
    pub(crate) fn find(interfaces: &[Interface], gateways: Option<&[IpAddr]>) -> Option<Self> {
        let own = interfaces.iter().filter_map(|interface| match interface.addr {
            IpAddr::V4(addr) if !addr.is_loopback() => Some((addr, interface.prefix)),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        });
        let own: Vec<_> = own.collect();
        let Some(gateways) = gateways else {
            let private: Vec<_> = own.into_iter().filter(|&(addr, _)| is_not_public(addr)).collect();
            return (!private.is_empty()).then_some(Self::Unknown(private));
        };
        let near = |gateway: &IpAddr| match gateway {
            IpAddr::V4(gateway) => nearest(&own, *gateway).map(|local| (*gateway, local)),
            IpAddr::V6(_) => None,
        };
        let (address, local) = gateways.iter().find_map(near)?;
        (is_not_public(address) && is_not_public(local)).then_some(Self::Known { address, local })
    }

    /// This machine's address from the view of this device, if the device may be queried at all.
    pub(crate) fn local(&self, device: Ipv4Addr) -> Option<Ipv4Addr> {
        match self {
            Self::Known { address, local } => (*address == device).then_some(*local),
            Self::Unknown(own) => nearest(own, device),
        }
    }
}

/// The own address in the smallest own network that contains this other host.
fn nearest(own: &[(Ipv4Addr, u8)], theirs: Ipv4Addr) -> Option<Ipv4Addr> {
    let on = own.iter().filter(|&&(addr, prefix)| addr != theirs && is_on(theirs, addr, prefix));
    on.max_by_key(|&&(_, prefix)| prefix).map(|&(addr, _)| addr)
}

/// Whether the address is private or shared, so that a gateway there translates it.
fn is_not_public(ip: Ipv4Addr) -> bool {
    ip.is_private() || is_shared(ip)
}

fn is_on(ip: Ipv4Addr, own: Ipv4Addr, prefix: u8) -> bool {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
    mask != 0 && u32::from(ip) & mask == u32::from(own) & mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::{GATEWAY, LOCAL, interface};

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn found(own: &[&str], gateways: Option<&[&str]>) -> Option<Gateway> {
        let interfaces: Vec<_> = own.iter().map(|own| interface(v4(own))).collect();
        let gateways = gateways.map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>());
        Gateway::find(&interfaces, gateways.as_deref())
    }

    #[test]
    fn only_a_translating_default_gateway_is_asked() {
        let at_home = Some(Gateway::Known { address: *GATEWAY.ip(), local: LOCAL });
        assert_eq!(found(&["192.168.1.2"], Some(&["192.168.1.1"])), at_home);
        assert_eq!(found(&["127.0.0.1", "10.0.0.9", "192.168.1.2"], Some(&["fe80::1", "192.168.1.1"])), at_home);
        assert_eq!(found(&["10.0.0.9"], Some(&["192.168.1.1"])), None, "on no own network");
        assert_eq!(found(&["192.168.1.1"], Some(&["192.168.1.1"])), None, "ourselves");
        assert_eq!(found(&["203.0.113.2"], Some(&["203.0.113.1"])), None, "no translator");
        let both = ["203.0.113.2", "192.168.1.2"];
        assert_eq!(found(&both, Some(&["203.0.113.1", "192.168.1.1"])), None, "not the way out");
        assert_eq!(found(&["192.168.1.2"], Some(&[])), None);
        assert_eq!(found(&["192.168.1.2", "127.0.0.1"], None), Some(Gateway::Unknown(vec![(LOCAL, 24)])));
        assert_eq!(found(&["203.0.113.2"], None), None);
    }

    #[test]
    fn host_matches_network_by_prefix() {
        assert!(is_on(v4("10.0.0.1"), v4("10.255.0.1"), 8) && !is_on(v4("11.0.0.1"), v4("10.255.0.1"), 8));
        assert!(!is_on(v4("10.0.0.1"), v4("10.0.0.1"), 0) && !is_on(v4("10.0.0.1"), v4("10.0.0.2"), 32));
        let unknown = Gateway::Unknown(vec![(v4("10.0.0.2"), 8), (v4("10.1.0.2"), 16)]);
        assert_eq!(unknown.local(v4("10.1.0.1")), Some(v4("10.1.0.2")));
        assert_eq!(unknown.local(v4("10.2.0.1")), Some(v4("10.0.0.2")));
        assert_eq!(unknown.local(v4("10.0.0.2")), None);
        assert_eq!(unknown.local(v4("192.168.1.1")), None);
    }
}
