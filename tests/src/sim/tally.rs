//! Counts the packets that each host sent to each address when they leave the host, even if they are lost later.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::host::HostId;
use super::nat::Protocol;
use super::world::World;

/// Packets and their bytes; of UDP the payload, of TCP with headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// The number of packets.
    pub packets: u64,
    /// The number of bytes.
    pub bytes: u64,
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self { packets: sum.packets + one.packets, bytes: sum.bytes + one.bytes })
    }
}

impl std::ops::Sub for Tally {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { packets: self.packets - before.packets, bytes: self.bytes - before.bytes }
    }
}

#[derive(Debug, Default)]
pub(super) struct Tallies(BTreeMap<(HostId, Protocol, SocketAddr, SocketAddr), Tally>);

impl Tallies {
    pub(super) fn count(&mut self, host: HostId, protocol: Protocol, from: SocketAddr, to: SocketAddr, bytes: usize) {
        let tally = self.0.entry((host, protocol, from, to)).or_default();
        tally.packets += 1;
        tally.bytes += bytes as u64;
    }
}

impl World {
    /// The packets of a host, by transport, source and destination.
    pub fn sent(&self, host: HostId) -> impl Iterator<Item = (Protocol, SocketAddr, SocketAddr, Tally)> {
        let all = self.tallies.0.iter().filter(move |((from, ..), _)| *from == host);
        all.map(|(&(_, protocol, from, to), &tally)| (protocol, from, to, tally))
    }

    /// All packets of the host.
    #[must_use]
    pub fn sent_in_all(&self, host: HostId) -> Tally {
        self.sent(host).map(|(.., tally)| tally).sum()
    }

    /// The packets of the host to an address, on any port.
    #[must_use]
    pub fn sent_to(&self, host: HostId, ip: IpAddr) -> Tally {
        self.sent(host).filter(|(_, _, to, _)| to.ip() == ip).map(|(.., tally)| tally).sum()
    }
}
