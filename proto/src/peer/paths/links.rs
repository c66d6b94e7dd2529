//! The links of an established session: the relay path, and direct ones.
//!
//! One of them is active: it carries new chunks. There is always at least one; with the last one the list ends.

use std::net::IpAddr;
use std::time::Duration;

use super::super::event::PathTransport;
use super::super::net::{ConnectionId, Net};
use super::super::peer_link::PeerLink;
use crate::Instant;
use crate::p2p::candidate::CandidateTransport;
use crate::p2p::choice::ValidatedPath;
use crate::session::LinkId;

/// What is known of a direct link beside what every link has.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirectLink {
    /// The round in which it was made.
    pub round: u32,
    /// The address that it came in from; `None`: it was dialled.
    pub from: Option<IpAddr>,
    /// When its connection was there.
    pub since: Instant,
    /// When it had proven itself.
    pub proven: Option<Instant>,
    /// The round trip as it was then, before anything waited in a queue on the way.
    pub rtt: Option<Duration>,
    /// Bytes of chunks that were sealed for it.
    pub sealed: u64,
}

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    pub peer: PeerLink,
    /// `None`: it is the relay path, or is to become it.
    pub direct: Option<DirectLink>,
}

impl Link {
    /// Over what a direct link runs.
    pub const fn transport(&self) -> CandidateTransport {
        match self.peer.conn() {
            ConnectionId::Quic(..) => CandidateTransport::Udp,
            ConnectionId::Tcp(_) => CandidateTransport::Tcp,
        }
    }

    /// A direct link that has proven itself, as the choice looks at it.
    pub fn as_proven(&self, net: &mut Net) -> Option<ValidatedPath> {
        let direct = self.direct?;
        let at = direct.proven?;
        let took = at.saturating_duration_since(direct.since);
        let rtt = [direct.rtt, net.rtt(self.peer.conn())].into_iter().flatten().min();
        Some(ValidatedPath { link: self.peer.id(), transport: self.transport(), at, took, rtt })
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Links {
    /// In the order in which they came: the first is the oldest.
    all: Vec<Link>,
    relay: LinkId,
    active: LinkId,
}

impl Links {
    /// The link of the handshake is the first relay path.
    pub fn new(link: PeerLink) -> Self {
        Self { relay: link.id(), active: link.id(), all: vec![Link { peer: link, direct: None }] }
    }

    /// Adds a link.
    pub fn add(&mut self, peer: PeerLink, direct: Option<DirectLink>) {
        self.all.push(Link { peer, direct });
    }

    /// The link that carries new chunks.
    pub fn active(&mut self) -> Option<&mut Link> {
        let active = self.active;
        self.get(active)
    }

    /// The name of the link that carries new chunks.
    pub const fn active_id(&self) -> LinkId {
        self.active
    }

    /// New chunks go over this one. False: there is no such link.
    pub fn set_active(&mut self, id: LinkId) -> bool {
        let is_there = self.all.iter().any(|link| link.peer.id() == id);
        if is_there {
            self.active = id;
        }
        is_there
    }

    /// A link by its name in the session.
    pub fn get(&mut self, id: LinkId) -> Option<&mut Link> {
        self.all.iter_mut().find(|link| link.peer.id() == id)
    }

    /// What is known of a link, if it is a direct one.
    pub fn direct(&self, id: LinkId) -> Option<DirectLink> {
        self.all.iter().find(|link| link.peer.id() == id)?.direct
    }

    /// A link by its connection.
    pub fn on(&mut self, conn: ConnectionId) -> Option<&mut PeerLink> {
        self.all.iter_mut().map(|link| &mut link.peer).find(|link| link.conn() == conn)
    }

    /// One after the other.
    pub fn at(&mut self, index: usize) -> Option<&mut PeerLink> {
        self.all.get_mut(index).map(|link| &mut link.peer)
    }

    /// This one is the relay path from now on.
    pub const fn set_relay(&mut self, id: LinkId) {
        self.relay = id;
    }

    /// The link of the handshake, or the one that took its place, if it is still there.
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

    /// The direct ones of a round.
    pub fn of_round(&self, round: u32) -> impl Iterator<Item = &Link> {
        self.all.iter().filter(move |link| link.direct.is_some_and(|direct| direct.round == round))
    }

    /// The names of all direct links, the oldest first.
    pub fn all_direct(&self) -> Vec<LinkId> {
        self.all.iter().filter(|link| link.direct.is_some()).map(|link| link.peer.id()).collect()
    }

    /// Takes a link out. If it was the active one, the oldest of the others is active then.
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

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// What a link runs over.
pub(super) const fn transport_of(conn: ConnectionId) -> PathTransport {
    match conn {
        ConnectionId::Quic(..) => PathTransport::Quic,
        ConnectionId::Tcp(_) => PathTransport::Tcp,
    }
}
