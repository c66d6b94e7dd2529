//! The links of an established session: the relay path, and direct ones.
//!
//! One of them is active: it is used for new chunks. There is always at least one; the list is dropped with the last
//! one.

use std::net::IpAddr;
use std::time::Duration;

use super::super::event::PathTransport;
use super::super::network::{ConnectionId, Network};
use super::super::peer_link::PeerLink;
use crate::Instant;
use crate::p2p::candidate::CandidateTransport;
use crate::p2p::choice::ValidatedPath;
use crate::session::LinkId;

/// What is known about a direct link in addition to the properties of every link.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirectLink {
    /// The round in which it was established.
    pub round: u32,
    /// The source address of an incoming connection; `None`: this side dialled.
    pub from: Option<IpAddr>,
    /// When its connection was established.
    pub since: Instant,
    /// When it was authenticated.
    pub proven: Option<Instant>,
    /// The round-trip time at that moment, before data waited in queues on the path.
    pub rtt: Option<Duration>,
    /// Bytes of chunks that were sealed for this link.
    pub sealed: u64,
}

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    pub peer: PeerLink,
    /// `None`: this link is the relay path, or will become it.
    pub direct: Option<DirectLink>,
}

impl Link {
    /// The transport of a direct link.
    pub const fn transport(&self) -> CandidateTransport {
        match self.peer.conn() {
            ConnectionId::Quic(..) => CandidateTransport::Udp,
            ConnectionId::Tcp(_) => CandidateTransport::Tcp,
        }
    }

    /// The link as a candidate for the selection, if it is direct and authenticated.
    pub fn as_proven(&self, net: &mut Network) -> Option<ValidatedPath> {
        let direct = self.direct?;
        let at = direct.proven?;
        let took = at.saturating_duration_since(direct.since);
        let rtt = [direct.rtt, net.rtt(self.peer.conn())].into_iter().flatten().min();
        Some(ValidatedPath { link: self.peer.id(), transport: self.transport(), at, took, rtt })
    }
}

/// The list of links and the ids of the active one and of the relay path.
#[derive(Debug)]
pub(super) struct Links {
    /// In the order in which they were added: the first is the oldest.
    all: Vec<Link>,
    relay: LinkId,
    active: LinkId,
}

impl Links {
    /// A list with the link of the handshake, which is the first relay path.
    pub fn new(link: PeerLink) -> Self {
        Self { relay: link.id(), active: link.id(), all: vec![Link { peer: link, direct: None }] }
    }

    /// Adds a link.
    pub fn add(&mut self, peer: PeerLink, direct: Option<DirectLink>) {
        self.all.push(Link { peer, direct });
    }

    /// The link that is used for new chunks.
    pub fn active(&mut self) -> Option<&mut Link> {
        let active = self.active;
        self.get(active)
    }

    /// The id of the link that is used for new chunks.
    pub const fn active_id(&self) -> LinkId {
        self.active
    }

    /// Uses this link for new chunks. Returns false if there is no such link.
    pub fn set_active(&mut self, id: LinkId) -> bool {
        let is_there = self.all.iter().any(|link| link.peer.id() == id);
        if is_there {
            self.active = id;
        }
        is_there
    }

    /// A link by its id.
    pub fn get(&mut self, id: LinkId) -> Option<&mut Link> {
        self.all.iter_mut().find(|link| link.peer.id() == id)
    }

    /// The details of a link, if it is direct.
    pub fn direct(&self, id: LinkId) -> Option<DirectLink> {
        self.all.iter().find(|link| link.peer.id() == id)?.direct
    }

    /// A link by its connection.
    pub fn on(&mut self, conn: ConnectionId) -> Option<&mut PeerLink> {
        self.all.iter_mut().map(|link| &mut link.peer).find(|link| link.conn() == conn)
    }

    /// A link by its index.
    pub fn at(&mut self, index: usize) -> Option<&mut PeerLink> {
        self.all.get_mut(index).map(|link| &mut link.peer)
    }

    /// Makes this link the relay path.
    pub const fn set_relay(&mut self, id: LinkId) {
        self.relay = id;
    }

    /// The relay path: the link of the handshake or its replacement, if it still exists.
    pub fn relay(&self) -> Option<&PeerLink> {
        self.all.iter().map(|link| &link.peer).find(|link| link.id() == self.relay)
    }

    /// All links.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut PeerLink> {
        self.all.iter_mut().map(|link| &mut link.peer)
    }

    /// All links.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.all.iter()
    }

    /// The direct links of a round.
    pub fn of_round(&self, round: u32) -> impl Iterator<Item = &Link> {
        self.all.iter().filter(move |link| link.direct.is_some_and(|direct| direct.round == round))
    }

    /// The ids of all direct links, the oldest first.
    pub fn all_direct(&self) -> Vec<LinkId> {
        self.all.iter().filter(|link| link.direct.is_some()).map(|link| link.peer.id()).collect()
    }

    /// Removes a link. If it was active, the oldest of the others becomes active.
    pub fn remove(&mut self, id: LinkId) -> Option<Link> {
        let index = self.all.iter().position(|link| link.peer.id() == id)?;
        let link = self.all.remove(index);
        if self.active == id
            && let Some(next) = self.all.first()
        {
            self.active = next.peer.id();
        }
        Some(link)
    }

    /// Whether no link is left.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// The transport of a connection.
pub(super) const fn transport_of(conn: ConnectionId) -> PathTransport {
    match conn {
        ConnectionId::Quic(..) => PathTransport::Quic,
        ConnectionId::Tcp(_) => PathTransport::Tcp,
    }
}
