//! The links of a session that lives: the floor, and direct ones beside it.
//!
//! One of them carries new chunks. There is always at least one: with the last one the stage ends.

use super::net::Conn;
use super::peer_link::PeerLink;
use crate::session::LinkId;

/// See the module's text.
#[derive(Debug)]
pub struct Links {
    /// In the order in which they came: the first is the oldest.
    all: Vec<PeerLink>,
    floor: LinkId,
    carrying: LinkId,
}

impl Links {
    /// The link of the handshake is the first floor.
    #[must_use]
    pub fn new(link: PeerLink) -> Self {
        Self { floor: link.id(), carrying: link.id(), all: vec![link] }
    }

    /// Another one.
    pub fn add(&mut self, link: PeerLink) {
        self.all.push(link);
    }

    /// The link that carries new chunks.
    #[must_use]
    pub fn carrying(&mut self) -> Option<&mut PeerLink> {
        let carrying = self.carrying;
        self.get(carrying)
    }

    /// The name of the link that carries new chunks.
    #[must_use]
    pub const fn carrier(&self) -> LinkId {
        self.carrying
    }

    /// New chunks go over this one. False: there is no such link.
    pub fn carry(&mut self, id: LinkId) -> bool {
        let is_there = self.all.iter().any(|link| link.id() == id);
        if is_there {
            self.carrying = id;
        }
        is_there
    }

    /// A link by its name in the session.
    #[must_use]
    pub fn get(&mut self, id: LinkId) -> Option<&mut PeerLink> {
        self.all.iter_mut().find(|link| link.id() == id)
    }

    /// A link by its connection.
    #[must_use]
    pub fn on(&mut self, conn: Conn) -> Option<&mut PeerLink> {
        self.all.iter_mut().find(|link| link.conn() == conn)
    }

    /// One after the other.
    #[must_use]
    pub fn at(&mut self, index: usize) -> Option<&mut PeerLink> {
        self.all.get_mut(index)
    }

    /// This one is the floor from now on.
    pub const fn set_floor(&mut self, id: LinkId) {
        self.floor = id;
    }

    /// The link of the handshake, or the one that took its place, if it is still there.
    #[must_use]
    pub fn floor(&self) -> Option<&PeerLink> {
        self.all.iter().find(|link| link.id() == self.floor)
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut PeerLink> {
        self.all.iter_mut()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &PeerLink> {
        self.all.iter()
    }

    /// Takes a link out. What it carried, the oldest of the others carries.
    pub fn remove(&mut self, id: LinkId) -> Option<PeerLink> {
        let index = self.all.iter().position(|link| link.id() == id)?;
        let link = self.all.remove(index);
        if self.carrying == id
            && let Some(next) = self.all.first()
        {
            self.carrying = next.id();
        }
        Some(link)
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
