//! The ports of the direct sockets: what was configured, and which are being tried.

use std::net::{IpAddr, Ipv6Addr};

use crate::link::trust::Identity;
use crate::peer::config::DirectPath;

/// The configuration of a direct path, and which ports are being bound.
pub(super) struct Options {
    pub identity: Identity,
    pub ports: Option<(u16, u16)>,
    /// The port that is being bound, of each kind.
    pub trying: [u16; 3],
    /// Where the listener is bound: at both families, or at IPv4 where a machine has nothing else.
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

/// A socket that has a port of ours.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    V4,
    V6,
    Tcp,
}
