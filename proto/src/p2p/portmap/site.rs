//! Whom to ask: the default gateway, if it is one that translates, or whoever answers where the system names none.
//!
//! No state, no timers.

use std::net::{IpAddr, Ipv4Addr};

use super::ask::is_shared;
use crate::net::Interface;

/// A place in the network where a mapping may be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Site {
    /// The gateway, and our address on its network.
    Gateway(Ipv4Addr, Ipv4Addr),
    /// None is known; our private addresses with their networks. UPnP may find one there.
    Unknown(Vec<(Ipv4Addr, u8)>),
}

impl Site {
    /// What leaves the machine leaves by the first gateway. One that is on no own network is not asked, and neither is one where
    /// our address is public: nobody translates that.
    pub(super) fn find(interfaces: &[Interface], gateways: Option<&[IpAddr]>) -> Option<Self> {
        let own = interfaces.iter().filter_map(|interface| match interface.addr {
            IpAddr::V4(addr) if !addr.is_loopback() => Some((addr, interface.prefix)),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        });
        let own: Vec<_> = own.collect();
        let Some(gateways) = gateways else {
            let inside: Vec<_> = own.into_iter().filter(|&(addr, _)| is_inside(addr)).collect();
            return (!inside.is_empty()).then_some(Self::Unknown(inside));
        };
        let near = |gateway: &IpAddr| match gateway {
            IpAddr::V4(gateway) => nearest(&own, *gateway).map(|local| (*gateway, local)),
            IpAddr::V6(_) => None,
        };
        let (gateway, local) = gateways.iter().find_map(near)?;
        (is_inside(gateway) && is_inside(local)).then_some(Self::Gateway(gateway, local))
    }

    /// Our address as this device knows it, if it may be asked at all.
    pub(super) fn local(&self, device: Ipv4Addr) -> Option<Ipv4Addr> {
        match self {
            Self::Gateway(gateway, local) => (*gateway == device).then_some(*local),
            Self::Unknown(own) => nearest(own, device),
        }
    }
}

/// The one of our addresses on whose network somebody else has that one.
fn nearest(own: &[(Ipv4Addr, u8)], theirs: Ipv4Addr) -> Option<Ipv4Addr> {
    let on = own.iter().filter(|&&(addr, prefix)| addr != theirs && is_on(theirs, addr, prefix));
    on.max_by_key(|&&(_, prefix)| prefix).map(|&(addr, _)| addr)
}

/// An address that the internet does not know.
fn is_inside(ip: Ipv4Addr) -> bool {
    ip.is_private() || is_shared(ip)
}

fn is_on(ip: Ipv4Addr, own: Ipv4Addr, prefix: u8) -> bool {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
    mask != 0 && u32::from(ip) & mask == u32::from(own) & mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p::portmap::fake::{GATEWAY, LOCAL, interface};

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn site(own: &[&str], gateways: Option<&[&str]>) -> Option<Site> {
        let interfaces: Vec<_> = own.iter().map(|own| interface(v4(own))).collect();
        let gateways = gateways.map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>());
        Site::find(&interfaces, gateways.as_deref())
    }

    #[test]
    fn who_is_asked() {
        let at_home = Some(Site::Gateway(*GATEWAY.ip(), LOCAL));
        assert_eq!(site(&["192.168.1.2"], Some(&["192.168.1.1"])), at_home);
        assert_eq!(site(&["127.0.0.1", "10.0.0.9", "192.168.1.2"], Some(&["fe80::1", "192.168.1.1"])), at_home);
        assert_eq!(site(&["10.0.0.9"], Some(&["192.168.1.1"])), None, "on no own network");
        assert_eq!(site(&["192.168.1.1"], Some(&["192.168.1.1"])), None, "ourselves");
        assert_eq!(site(&["203.0.113.2"], Some(&["203.0.113.1"])), None, "no translator");
        let both = ["203.0.113.2", "192.168.1.2"];
        assert_eq!(site(&both, Some(&["203.0.113.1", "192.168.1.1"])), None, "not the way out");
        assert_eq!(site(&["192.168.1.2"], Some(&[])), None);
        assert_eq!(site(&["192.168.1.2", "127.0.0.1"], None), Some(Site::Unknown(vec![(LOCAL, 24)])));
        assert_eq!(site(&["203.0.113.2"], None), None);
    }

    #[test]
    fn networks() {
        assert!(is_on(v4("10.0.0.1"), v4("10.255.0.1"), 8) && !is_on(v4("11.0.0.1"), v4("10.255.0.1"), 8));
        assert!(!is_on(v4("10.0.0.1"), v4("10.0.0.1"), 0) && !is_on(v4("10.0.0.1"), v4("10.0.0.2"), 32));
        let unknown = Site::Unknown(vec![(v4("10.0.0.2"), 8), (v4("10.1.0.2"), 16)]);
        assert_eq!(unknown.local(v4("10.1.0.1")), Some(v4("10.1.0.2")));
        assert_eq!(unknown.local(v4("10.2.0.1")), Some(v4("10.0.0.2")));
        assert_eq!(unknown.local(v4("10.0.0.2")), None);
        assert_eq!(unknown.local(v4("192.168.1.1")), None);
    }
}
