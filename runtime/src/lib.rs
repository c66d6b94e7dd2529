//! The common part of tallow's runtimes: system calls that never block. An adapter adds readiness, timers and
//! threads.
//!
//! Applications use `tallow-tokio` or `tallow-smol`; this crate is for writing an adapter for another runtime.

pub mod api;
pub mod bridge;
#[cfg(feature = "conformance")]
pub mod conformance;
mod front;
pub mod gateways;
pub mod network_monitor;
pub mod resolver;
pub mod share;
pub mod tcp;
pub mod udp;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(feature = "files")]
pub use front::{directory, files};
pub use front::{receiving, sending};
use if_addrs::IfAddr;
use tallow_proto::link::Identity;
use tallow_proto::net::Interface;
use tallow_proto::peer::{Common, DirectPath, Machine};
use tallow_proto::seed::Seed;

/// Random bytes for one node.
///
/// # Panics
/// The system provides no randomness. The program can't do anything useful then.
#[must_use]
pub fn seed() -> Seed {
    let mut bytes = [0; 32];
    if let Err(error) = getrandom::fill(&mut bytes) {
        panic!("the system gives no randomness: {error}");
    }
    Seed::new(bytes)
}

/// The settings of the direct path on this machine, with a certificate that is created for this run. `None` if no
/// certificate can be created: then everything uses the relay.
#[must_use]
pub fn direct_path() -> Option<DirectPath> {
    identity().map(DirectPath::new)
}

/// A certificate that is created for this run. `None` if it can't be created.
#[must_use]
pub fn identity() -> Option<Identity> {
    let made = rcgen::generate_simple_self_signed(["tallow".to_owned()])
        .inspect_err(|error| tracing::warn!(%error, "no certificate could be made"))
        .ok()?;
    let key = made.signing_key.serialize_der().into();
    Some(Identity { cert_chain: vec![made.cert.der().to_vec()], key })
}

/// The current properties of this machine that a peer needs.
#[must_use]
pub fn machine() -> Machine {
    Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        interfaces: addresses(),
        unix_time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        aes: has_aes(),
    }
}

/// [`machine`] without relays and with default settings. It searches for a direct path; set [`Common::direct`] to
/// `None` if no address may be revealed.
#[must_use]
pub fn this_machine() -> Common {
    let mut common = Common::new(machine());
    common.direct = direct_path();
    common
}

/// Whether this machine computes AES in hardware.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    {
        std::arch::is_x86_feature_detected!("aes")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    {
        false
    }
}

/// The addresses of this machine's interfaces that are up, loopback included. Empty if the system does not report
/// them.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    interfaces().unwrap_or_default().into_iter().map(|interface| interface.addr).collect()
}

/// The addresses with their networks, in a fixed order, without link-local ones; `None` if the system does not report
/// them.
#[must_use]
pub fn interfaces() -> Option<Vec<Interface>> {
    let found = if_addrs::get_if_addrs().inspect_err(|error| tracing::debug!(%error, "no list of interfaces")).ok()?;
    let up = found.into_iter().filter(|interface| interface.is_oper_up() || interface.is_loopback());
    let mut interfaces: Vec<Interface> = up
        .map(|interface| {
            let (addr, prefix) = match interface.addr {
                IfAddr::V4(v4) => (v4.ip.into(), v4.prefixlen),
                IfAddr::V6(v6) => (v6.ip.into(), v6.prefixlen),
            };
            Interface { name: interface.name, addr, prefix }
        })
        .collect();
    interfaces.sort();
    Some(interfaces)
}

/// Asks the system's resolver, and blocks until it has answered. Empty if the name is unknown.
#[must_use]
pub fn lookup(host: &str, port: u16) -> Vec<SocketAddr> {
    (host, port).to_socket_addrs().map_or_else(|_| Vec::new(), Iterator::collect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_seeds_differ() {
        assert_ne!(seed().bytes(), seed().bytes());
    }

    /// What the `ip` tool reports for both families and for interfaces that are up.
    #[cfg(target_os = "linux")]
    fn expected_by_ip() -> Option<Vec<Interface>> {
        let output = std::process::Command::new("ip").args(["-j", "addr"]).output().ok()?;
        let links: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let mut told = Vec::new();
        for link in links.as_array().expect("interfaces") {
            let flags = link["flags"].as_array().expect("flags");
            let state = link["operstate"].as_str().expect("a state");
            if !flags.contains(&"LOOPBACK".into()) && !["UP", "UNKNOWN"].contains(&state) {
                continue;
            }
            for addr in link["addr_info"].as_array().expect("addresses") {
                // An IPv4 address can have a label of its own ("eth0:1").
                let name = addr["label"].as_str().or_else(|| link["ifname"].as_str()).expect("a name").to_owned();
                let prefix = addr["prefixlen"].as_u64().and_then(|bits| bits.try_into().ok()).expect("a prefix");
                let addr = addr["local"].as_str().expect("an address").parse().expect("an address");
                // Link-local addresses can't be used without a scope, and are not needed: they are not listed.
                let link_local = match addr {
                    IpAddr::V4(ip) => ip.is_link_local(),
                    IpAddr::V6(ip) => ip.is_unicast_link_local(),
                };
                if !link_local {
                    told.push(Interface { name, addr, prefix });
                }
            }
        }
        told.sort();
        Some(told)
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn interfaces_match_output_of_ip() {
        loop {
            let Some(before) = expected_by_ip() else { return eprintln!("skipped: there is no `ip` here") };
            let ours = interfaces().expect("interfaces");
            // Another program may change them meanwhile.
            if expected_by_ip().as_ref() == Some(&before) {
                assert_eq!(ours, before);
                return;
            }
        }
    }

    #[test]
    fn lookup_returns_literal_address_and_rejects_bad_name() {
        assert_eq!(lookup("127.0.0.1", 7), [SocketAddr::from(([127, 0, 0, 1], 7))]);
        assert_eq!(lookup("::1", 7), [SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 7))]);
        assert_eq!(lookup("a\0b", 7), []);
        assert_eq!(lookup("", 7), []);
    }
}
