//! Determines the mapping behaviour of a NAT from the responses of STUN servers (RFC 5780 §4.3, its mapping test; RFC
//! 4787 §4.1).
//!
//! Compares the addresses of one socket that servers at different addresses observed. No state, no timers. A lying
//! server can make a NAT look better or worse than it is, which costs a few packets or the direct path, and nothing
//! else.

use std::net::SocketAddr;

use super::candidate::canonical;
use crate::net::Interface;

/// The mapping behaviour of the NAT in front of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// There are not enough responses.
    Unknown,
    /// There is no NAT: the servers observe the socket's own address. There may still be a firewall.
    None,
    /// Endpoint-independent mapping (RFC 4787): one external address for all destinations. Hole punching is possible.
    Independent,
    /// Address-dependent mapping ("symmetric NAT"): a new port for each destination. Two peers behind such NATs connect
    /// only by chance.
    Dependent,
}

/// The observation of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The server.
    pub server: SocketAddr,
    /// The source address and port of the socket's packets, as the server observed them.
    pub observed: SocketAddr,
}

/// Evaluates the responses of servers of one address family to one socket with the port `port`.
#[must_use]
pub fn classify(port: u16, interfaces: &[Interface], answers: &[Seen]) -> Nat {
    let own = |observed: SocketAddr| {
        let ip = observed.ip().to_canonical();
        observed.port() == port && interfaces.iter().any(|interface| interface.addr.to_canonical() == ip)
    };
    // A server that observes the socket's own address is on our side of the NAT and gives no information about it.
    let mut beyond = answers.iter().filter(|seen| !own(seen.observed));
    let Some(first) = beyond.next() else { return if answers.is_empty() { Nat::Unknown } else { Nat::None } };
    let mut elsewhere = false;
    for other in beyond {
        if canonical(other.observed) != canonical(first.observed) {
            return Nat::Dependent;
        }
        elsewhere |= other.server.ip().to_canonical() != first.server.ip().to_canonical();
    }
    // Two ports of one server do not show which address another server would observe.
    if elsewhere { Nat::Independent } else { Nat::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(answers: &[(&str, &str)]) -> Vec<Seen> {
        let seen = |&(server, observed): &(&str, &str)| Seen {
            server: server.parse().unwrap(),
            observed: observed.parse().unwrap(),
        };
        answers.iter().map(seen).collect()
    }

    fn judge(answers: &[(&str, &str)]) -> Nat {
        let own = ["192.168.1.2", "203.0.113.5", "203.0.113.6"];
        let interface = |ip: &str| Interface { name: "eth0".into(), addr: ip.parse().unwrap(), prefix: 24 };
        classify(5000, &own.map(interface), &seen(answers))
    }

    #[test]
    fn nat_mapping_is_judged_from_two_servers() {
        assert_eq!(judge(&[]), Nat::Unknown);
        assert_eq!(judge(&[("192.0.2.1:3478", "198.51.100.1:7000")]), Nat::Unknown);
        assert_eq!(
            judge(&[("192.0.2.1:3478", "198.51.100.1:7000"), ("192.0.2.2:3478", "198.51.100.1:7000")]),
            Nat::Independent
        );
        for other in ["198.51.100.1:7001", "198.51.100.2:7000"] {
            assert_eq!(judge(&[("192.0.2.1:3478", "198.51.100.1:7000"), ("192.0.2.2:3478", other)]), Nat::Dependent);
        }
    }

    #[test]
    fn two_ports_of_one_server_count_as_one_server() {
        assert_eq!(
            judge(&[("192.0.2.1:3478", "198.51.100.1:7000"), ("192.0.2.1:3479", "198.51.100.1:7000")]),
            Nat::Unknown
        );
        assert_eq!(
            judge(&[("192.0.2.1:3478", "198.51.100.1:7000"), ("192.0.2.1:3479", "198.51.100.1:7001")]),
            Nat::Dependent
        );
    }

    #[test]
    fn own_address_observed_means_no_nat() {
        assert_eq!(judge(&[("192.0.2.1:3478", "203.0.113.5:5000")]), Nat::None);
        assert_eq!(judge(&[("192.0.2.1:3478", "203.0.113.5:5000"), ("192.0.2.2:3478", "203.0.113.5:5000")]), Nat::None);
        assert_eq!(judge(&[("192.0.2.1:3478", "[::ffff:203.0.113.5]:5000")]), Nat::None);
        assert_eq!(judge(&[("192.0.2.1:3478", "203.0.113.5:5000"), ("192.0.2.2:3478", "203.0.113.6:5000")]), Nat::None);
        // The address is our own, but something changes the port.
        assert_eq!(judge(&[("192.0.2.1:3478", "203.0.113.5:7000")]), Nat::Unknown);
    }

    #[test]
    fn server_inside_nat_does_not_count() {
        let near = ("192.168.1.9:3478", "192.168.1.2:5000");
        assert_eq!(judge(&[near, ("192.0.2.1:3478", "198.51.100.1:7000")]), Nat::Unknown);
        assert_eq!(
            judge(&[near, ("192.0.2.1:3478", "198.51.100.1:7000"), ("192.0.2.2:3478", "198.51.100.1:7000")]),
            Nat::Independent
        );
    }
}
