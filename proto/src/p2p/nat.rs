//! What a NAT does with the port of a socket, told from the answers of STUN servers (RFC 5780 §4.3, its mapping test; RFC
//! 4787 §4.1).
//!
//! Decides from what servers at different addresses saw of one socket. No state, no timers. A server that lies can make a NAT
//! look worse or better than it is, which costs a few packets or the direct path, and nothing else.

use std::net::SocketAddr;

use super::candidate::canonical;
use crate::net::Interface;

/// How the NAT in front of a socket maps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Not enough answers.
    Unknown,
    /// There is none: what is seen is the socket's own address. There may still be a firewall.
    None,
    /// To one address, whoever is spoken to (RFC 4787: endpoint-independent mapping). Holes can be punched.
    Independent,
    /// To a new port for whom it speaks to (address-dependent, or "symmetric"). Two of these find each other only by luck.
    Dependent,
}

/// What one server saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Who saw it.
    pub server: SocketAddr,
    /// The address and port that the socket's packets come from, over there.
    pub observed: SocketAddr,
}

/// Judges the answers of servers of one family to one socket with the port `port`.
#[must_use]
pub fn classify(port: u16, interfaces: &[Interface], answers: &[Seen]) -> Nat {
    let own = |observed: SocketAddr| {
        let ip = observed.ip().to_canonical();
        observed.port() == port && interfaces.iter().any(|interface| interface.addr.to_canonical() == ip)
    };
    // Who sees the socket's own address is on our side of the NAT, and tells nothing of it.
    let mut beyond = answers.iter().filter(|seen| !own(seen.observed));
    let Some(first) = beyond.next() else { return if answers.is_empty() { Nat::Unknown } else { Nat::None } };
    let mut elsewhere = false;
    for other in beyond {
        if canonical(other.observed) != canonical(first.observed) {
            return Nat::Dependent;
        }
        elsewhere |= other.server.ip().to_canonical() != first.server.ip().to_canonical();
    }
    // Two ports of one server tell nothing of what another server would see.
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
    fn two_servers_tell_what_one_cannot() {
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
    fn two_ports_of_one_server_are_one_witness() {
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
    fn the_sockets_own_address_means_that_there_is_no_nat() {
        assert_eq!(judge(&[("192.0.2.1:3478", "203.0.113.5:5000")]), Nat::None);
        assert_eq!(judge(&[("192.0.2.1:3478", "203.0.113.5:5000"), ("192.0.2.2:3478", "203.0.113.5:5000")]), Nat::None);
        assert_eq!(judge(&[("192.0.2.1:3478", "[::ffff:203.0.113.5]:5000")]), Nat::None);
        assert_eq!(judge(&[("192.0.2.1:3478", "203.0.113.5:5000"), ("192.0.2.2:3478", "203.0.113.6:5000")]), Nat::None);
        // The address is our own, and yet something changes the port.
        assert_eq!(judge(&[("192.0.2.1:3478", "203.0.113.5:7000")]), Nat::Unknown);
    }

    #[test]
    fn a_server_on_this_side_of_the_nat_is_no_witness() {
        let near = ("192.168.1.9:3478", "192.168.1.2:5000");
        assert_eq!(judge(&[near, ("192.0.2.1:3478", "198.51.100.1:7000")]), Nat::Unknown);
        assert_eq!(
            judge(&[near, ("192.0.2.1:3478", "198.51.100.1:7000"), ("192.0.2.2:3478", "198.51.100.1:7000")]),
            Nat::Independent
        );
    }
}
