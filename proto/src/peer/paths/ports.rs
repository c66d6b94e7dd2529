//! The ports of the direct sockets: the configured range, and the ports that are being tried.

use std::net::{IpAddr, Ipv6Addr};

use crate::link::trust::Identity;
use crate::peer::config::DirectPath;

/// The configuration of the direct path, and the ports that are being bound.
pub(super) struct Options {
    pub identity: Identity,
    pub ports: Option<(u16, u16)>,
    /// The port that is being bound, for each kind of socket.
    pub trying: [u16; 3],
    /// The address at which the listener is bound: both families, or only IPv4 if the machine has no IPv6.
    pub listening: IpAddr,
}

impl Options {
    pub fn new(options: &DirectPath) -> Self {
        let first = options.ports.map_or(0, |(first, _)| first);
        Self {
            identity: options.identity.clone(),
            ports: options.ports,
            trying: [first; 3],
            listening: Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// The kinds of sockets that have a port of their own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    V4,
    V6,
    Tcp,
}
