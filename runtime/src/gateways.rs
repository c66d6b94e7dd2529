//! The default gateways, from the routes in `/proc/net` on Linux; other systems are not supported.
//!
//! Default routes are listed first, so the beginning of a long table is enough: bounds [`MAX_TABLE`],
//! [`MAX_GATEWAYS`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many bytes of a table are read.
const MAX_TABLE: u64 = 64 << 10;
/// How many gateways are reported.
const MAX_GATEWAYS: usize = 8;
/// The route is in use, and uses a gateway (linux/route.h).
const UP_AND_GATEWAY: u32 = 0x3;
/// The route rejects packets.
const REJECT: u32 = 0x200;

/// The default gateways: IPv4 first, and the preferred one first in each family. `None` if the system does not report
/// them.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[must_use]
pub fn gateways() -> Option<Vec<IpAddr>> {
    use std::io::Read;
    let read = |path| {
        let mut table = Vec::new();
        std::fs::File::open(path)?.take(MAX_TABLE).read_to_end(&mut table)?;
        std::io::Result::Ok(String::from_utf8_lossy(&table).into_owned())
    };
    let v4 = read("/proc/net/route").inspect_err(|error| tracing::debug!(%error, "no list of routes")).ok()?;
    // The file does not exist on a machine without IPv6.
    let v6 = read("/proc/net/ipv6_route").unwrap_or_default();
    Some(in_order(&v4, &v6))
}

/// The default gateways: not supported on this system.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[must_use]
pub const fn gateways() -> Option<Vec<IpAddr>> {
    None
}

fn in_order(v4: &str, v6: &str) -> Vec<IpAddr> {
    let mut v4: Vec<_> = v4.lines().filter_map(of_v4).collect();
    let mut v6: Vec<_> = v6.lines().filter_map(of_v6).collect();
    // A stable sort: of routes with the same metric the kernel uses the first.
    v4.sort_by_key(|&(metric, _)| metric);
    v6.sort_by_key(|&(metric, _)| metric);
    let mut all: Vec<IpAddr> = Vec::new();
    for (_, gateway) in v4.into_iter().chain(v6) {
        if !all.contains(&gateway) && all.len() < MAX_GATEWAYS {
            all.push(gateway);
        }
    }
    all
}

/// Metric and gateway of `Iface Destination Gateway Flags RefCnt Use Metric Mask ...`, with addresses in the
/// machine's byte order.
fn of_v4(line: &str) -> Option<(u32, IpAddr)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().take(8).collect();
    let &[_, destination, gateway, flags, _, _, metric, mask] = fields.as_slice() else { return None };
    let hex = |text| u32::from_str_radix(text, 16).ok();
    let is_default = hex(destination)? == 0 && hex(mask)? == 0;
    let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes());
    let is_usable = is_in_use(hex(flags)?) && !gateway.is_unspecified();
    (is_default && is_usable).then_some((metric.parse().ok()?, gateway.into()))
}

/// Metric and gateway of `destination prefix source prefix gateway metric references use flags interface`.
fn of_v6(line: &str) -> Option<(u32, IpAddr)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    let &[destination, prefix, _, source, gateway, metric, _, _, flags, _] = fields.as_slice() else { return None };
    let hex = |text| u32::from_str_radix(text, 16).ok();
    let address = |text: &str| u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
    let is_default = address(destination)? == 0 && hex(prefix)? == 0 && hex(source)? == 0;
    let gateway = Ipv6Addr::from(address(gateway)?);
    let is_usable = is_in_use(hex(flags)?) && !gateway.is_unspecified();
    (is_default && is_usable).then_some((hex(metric)?, gateway.into()))
}

const fn is_in_use(flags: u32) -> bool {
    flags & UP_AND_GATEWAY == UP_AND_GATEWAY && flags & REJECT == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// An address in the format of the kernel.
    fn hex(text: &str) -> String {
        format!("{:08X}", u32::from_ne_bytes(text.parse::<Ipv4Addr>().unwrap().octets()))
    }

    fn route(destination: &str, gateway: &str, flags: &str, metric: u32, mask: &str) -> String {
        let [destination, gateway, mask] = [destination, gateway, mask].map(hex);
        format!("eth0\t{destination}\t{gateway}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0      \n")
    }

    #[test]
    fn ipv4_gateways_are_ordered_by_metric() {
        let none = "0.0.0.0";
        let table = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n".to_owned(),
            route(none, "192.168.1.1", "0003", 600, none),
            route(none, "192.168.2.1", "0003", 100, none),
            route(none, "192.168.2.9", "0003", 100, none),
            route(none, "192.168.1.1", "0003", 700, none),
            // Half of the internet, a network without a gateway, a route that is down or rejects packets.
            route(none, "10.8.0.1", "0003", 0, "128.0.0.0"),
            route("192.168.1.0", none, "0001", 0, "255.255.255.0"),
            route(none, none, "0003", 0, none),
            route(none, "10.0.0.1", "0002", 0, none),
            route(none, "10.0.0.2", "0203", 0, none),
            route(none, "10.0.0.3", "0003", 0, none).replace("\t0\t0\t0\t", "\t0\t0\tx\t"),
            "eth0\t00000000\t0101A8C0\n".to_owned(),
        ];
        assert_eq!(in_order(&table.concat(), ""), ["192.168.2.1", "192.168.2.9", "192.168.1.1"].map(ip));
    }

    #[test]
    fn ipv6_gateways_follow_ipv4_gateways() {
        let table = "\
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 \
    00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe80000000000000000000000000000a 00000400 \
    00000003 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe80000000000000000000000000000b 00000064 \
    00000003 00000000 00450003     eth0
00000000000000000000000000000000 00 20010db8000000000000000000000000 40 fe80000000000000000000000000000c 00000001 \
    00000003 00000000 00000003     eth0
20000000000000000000000000000000 03 00000000000000000000000000000000 00 fe80000000000000000000000000000d 00000001 \
    00000003 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff \
    00000001 00000000 00200200       lo
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe80 00000001 00000003 00000000 00000003     \
    eth0
";
        let v4 = route("0.0.0.0", "192.168.1.1", "0003", 600, "0.0.0.0");
        assert_eq!(in_order(&v4, table), ["192.168.1.1", "fe80::b", "fe80::a"].map(ip));
    }

    #[test]
    fn malformed_route_table_yields_no_gateway() {
        for text in ["", "\n\n", "a b c d e f g h", "é é é é é é é é é é", &"0 ".repeat(99)] {
            assert_eq!(in_order(text, text), [] as [IpAddr; 0]);
        }
        let routes: String = (1..99).map(|n| route("0.0.0.0", &format!("10.0.0.{n}"), "0003", n, "0.0.0.0")).collect();
        assert_eq!(in_order(&routes, "").len(), MAX_GATEWAYS);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn own_gateways_are_readable() {
        assert!(gateways().is_some());
    }
}
