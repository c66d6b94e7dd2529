//! What tallow's runtimes have in common: calls of the system that never wait. An adapter adds readiness, timers and threads.
//!
//! Application code uses `tallow-tokio` or `tallow-smol`; this crate is for whoever brings another runtime.

pub mod gateways;
pub mod news;
pub mod tcp;
pub mod udp;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{SystemTime, UNIX_EPOCH};

use if_addrs::IfAddr;
use tallow_proto::node::Interface;
use tallow_proto::peer::Common;
use tallow_proto::seed::Seed;

/// Randomness for one node.
///
/// # Panics
/// The system gives none. Nothing that this program is for is possible then.
#[must_use]
pub fn seed() -> Seed {
    let mut bytes = [0; 32];
    if let Err(error) = getrandom::fill(&mut bytes) {
        panic!("the system gives no randomness: {error}");
    }
    Seed::new(bytes)
}

/// What a peer should know of this machine, with no relays and nothing asked for.
#[must_use]
pub fn this_machine() -> Common {
    Common {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        interfaces: addresses(),
        unix_time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        aes: has_aes(),
        ..Common::default()
    }
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

/// The addresses of this machine's interfaces that are up, loopback included. Empty when the system does not tell.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    interfaces().unwrap_or_default().into_iter().map(|interface| interface.addr).collect()
}

/// The same with their networks, in an order of their own; `None` when the system does not tell.
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

/// Asks the system's name service, and blocks until it has answered. Empty when it knows nothing.
#[must_use]
pub fn lookup(host: &str, port: u16) -> Vec<SocketAddr> {
    (host, port).to_socket_addrs().map_or_else(|_| Vec::new(), Iterator::collect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ() {
        assert_ne!(seed().bytes(), seed().bytes());
    }

    #[test]
    fn an_address_needs_no_name_service_and_a_bad_name_is_no_address() {
        assert_eq!(lookup("127.0.0.1", 7), [SocketAddr::from(([127, 0, 0, 1], 7))]);
        assert_eq!(lookup("::1", 7), [SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 7))]);
        assert_eq!(lookup("a\0b", 7), []);
        assert_eq!(lookup("", 7), []);
    }
}
