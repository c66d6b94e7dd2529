//! How a peer finds the other one: at relays, at the relay inside the sender, or on the LAN.
//!
//! ```text
//! Relays (ServerList), or Embedded (EmbeddedRelay)  ──close──► Closed
//! ```
//! It decides whom to ask and when to ask again, and who gets in at the relay inside. A peer either asks relays or is
//! one itself, never both. It is given network events, resolved names and the question to ask; its [`Output`]s are a
//! connection to the other side, events for the application, or a failure that ends the search.
//!
//! | file | part |
//! |---|---|
//! | `server_list` | the relays that are asked, in which order |
//! | `server` | what is known of one of them |
//! | `dial` | the connection to one of them |
//! | `client` | the conversation on such a connection |
//! | `embedded` | the relay inside a sender |
//!
//! Timers and bounds: those of the parts, and of `discovery::mdns`.

mod client;
mod dial;
mod embedded;
mod server;
mod server_list;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::config::RelayAddress;
use super::event::Event;
use super::failure::Failure;
use super::net::{self, ConnectionId, LISTENER, MDNS, Net};
use super::peer_link::PeerLink;
use crate::Instant;
use crate::discovery::mdns::Mdns;
use crate::net::{Arrival, Ecn, Interface, SocketId, Transmit};
use crate::p2p::stun;
use crate::seed::Seed;
use crate::wire::relay::{Owner, RoomId};

pub(super) use client::Question;
pub(super) use embedded::EmbeddedRelay;
pub(super) use server_list::{Ask, MAX_SERVERS, ServerList};

/// What the search led to.
#[derive(Debug)]
pub(super) enum Output {
    /// An event for the application.
    Event(Event),
    /// The relay gave this nameplate.
    Allocated(u32),
    /// The other side is at the other end of this connection.
    Connected(Box<PeerLink>, Via),
    /// The search can't succeed.
    Failed(Failure),
}

/// How two peers were connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Via {
    /// At a configured relay.
    Relay(RelayAddress),
    /// On this machine or on the LAN, at the relay inside the sender.
    Near,
}

enum Place {
    Relays(Box<ServerList>),
    Embedded(Box<EmbeddedRelay>),
    Closed,
}

/// See the module's text.
pub(super) struct Rendezvous {
    place: Place,
    mdns: Option<Mdns>,
}

impl Rendezvous {
    /// Asks relays.
    pub fn relays(list: ServerList) -> Self {
        Self { place: Place::Relays(Box::new(list)), mdns: None }
    }

    /// Is a relay.
    pub fn embedded(relay: EmbeddedRelay) -> Self {
        Self { place: Place::Embedded(Box::new(relay)), mdns: None }
    }

    /// Looks for senders on the LAN, too.
    pub fn browse(&mut self, now: Instant, interfaces: &[IpAddr], seed: &Seed, net: &mut Net) {
        self.mdns = Some(Mdns::browse(now, interfaces, seed));
        net.bind_mdns();
    }

    /// Whether the relay is inside this process.
    pub const fn is_embedded(&self) -> bool {
        matches!(self.place, Place::Embedded(_))
    }

    /// The relay gave this room: from now on the sender asks for its own seat there, or admits who names it.
    pub fn set_room(&mut self, room: RoomId) {
        match &mut self.place {
            Place::Relays(list) => list.set_room(room),
            Place::Embedded(relay) => relay.set_room(room),
            Place::Closed => {}
        }
    }

    /// The relay inside admits the session's own receiver from now on, and no other client.
    pub fn set_reconnect_room(&mut self, room: RoomId, receiver: Owner) {
        if let Place::Embedded(relay) = &mut self.place {
            relay.set_again(room, receiver);
        }
    }

    /// Where the relay inside listens.
    pub fn listening(&self) -> Vec<SocketAddr> {
        match &self.place {
            Place::Embedded(relay) => relay.listening(),
            Place::Relays(_) | Place::Closed => Vec::new(),
        }
    }

    /// The configured relay that a sender uses.
    pub fn relay(&self) -> Option<RelayAddress> {
        self.list().and_then(ServerList::relay)
    }

    /// Addresses of the configured relays, which are STUN servers as well.
    pub fn stun_servers(&self) -> Vec<SocketAddr> {
        self.list().map(ServerList::stun_servers).unwrap_or_default()
    }

    /// What relays are asked.
    pub fn question(&self) -> Option<Question> {
        self.list().map(ServerList::question)
    }

    /// A datagram; false: it is for another part.
    pub fn handle_datagram(&mut self, now: Instant, arrival: &Arrival, data: &[u8]) -> bool {
        match (arrival.socket, &mut self.mdns, &mut self.place) {
            (MDNS, Some(mdns), _) => mdns.handle_datagram(now, arrival.from, data),
            (LISTENER, _, Place::Embedded(relay)) if stun::is_stun(data) => relay.handle_stun(now, *arrival, data),
            (LISTENER, _, Place::Relays(_) | Place::Closed) if stun::is_stun(data) => {}
            _ => return false,
        }
        true
    }

    /// The listener's or the multicast socket was bound, or could not be; false: it is another part's.
    pub fn handle_bound(
        &mut self,
        now: Instant,
        socket: SocketId,
        result: Result<SocketAddr, io::ErrorKind>,
        interfaces: &[IpAddr],
        seed: &mut Seed,
        net: &mut Net,
    ) -> bool {
        match socket {
            LISTENER => {
                if let Place::Embedded(relay) = &mut self.place {
                    relay.handle_bound(result, net);
                }
                self.announce(now, interfaces, seed, net);
            }
            // Without it others on the LAN are not found, and nothing else changes.
            MDNS => {
                if result.is_err() {
                    self.mdns = None;
                }
            }
            _ => return false,
        }
        true
    }

    /// Announces on the LAN where the relay inside is.
    fn announce(&mut self, now: Instant, interfaces: &[IpAddr], seed: &mut Seed, net: &mut Net) {
        if let Place::Embedded(relay) = &self.place
            && let Some(port) = relay.announced_port()
            && self.mdns.is_none()
        {
            self.mdns = Some(Mdns::announce(now, port, interfaces, &seed.split()));
            net.bind_mdns();
        }
    }

    /// The addresses of the relay at this place of the list.
    pub fn handle_resolved(&mut self, now: Instant, index: usize, addresses: Vec<SocketAddr>) {
        if let Some(list) = self.list_mut() {
            list.handle_resolved(now, index, addresses);
        }
    }

    /// An event of a connection; false: the connection is another part's.
    pub fn handle_event(&mut self, now: Instant, net: &mut Net, conn: ConnectionId, event: &net::Event) -> bool {
        match &mut self.place {
            Place::Relays(list) => list.handle_event(now, net, conn, event),
            Place::Embedded(relay) => relay.handle_event(now, net, conn, event),
            Place::Closed => false,
        }
    }

    /// Deadlines may have come. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant, net: &mut Net) {
        match &mut self.place {
            Place::Relays(list) => list.handle_timeout(now, net),
            Place::Embedded(relay) => relay.handle_timeout(now, net),
            Place::Closed => {}
        }
        if let Some(mdns) = &mut self.mdns {
            mdns.handle_timeout(now);
        }
    }

    /// Moves what the inputs caused. `vacant`: no client of the relay inside is talked to.
    pub fn settle(&mut self, now: Instant, net: &mut Net, vacant: bool) {
        match &mut self.place {
            Place::Relays(list) => {
                while let Some(found) = self.mdns.as_mut().and_then(Mdns::poll_found) {
                    list.add_near(now, found);
                }
            }
            Place::Embedded(relay) => relay.settle(now, net, vacant),
            Place::Closed => {}
        }
    }

    /// Asks for something else from now on: after a handshake whose end is unknown.
    pub fn ask(&mut self, now: Instant, net: &mut Net, question: Question) {
        if let Some(list) = self.list_mut() {
            list.ask(now, net, question);
        }
    }

    /// The session lost its last link: the other side is looked for in the room that `question` names.
    pub fn look_again(&mut self, now: Instant, net: &mut Net, question: Question) {
        if let Some(list) = self.list_mut() {
            list.look_again(now, net, question);
        }
    }

    /// The session lost its relay path and has a direct link: as [`Self::look_again`], without haste and without
    /// events.
    pub fn look_beside(&mut self, now: Instant, net: &mut Net, question: Question) {
        if let Some(list) = self.list_mut() {
            list.look_beside(now, net, question);
        }
    }

    /// The last attempt to connect came to nothing: goes on after a pause.
    pub fn look_later(&mut self, now: Instant) {
        if let Some(list) = self.list_mut() {
            list.again_later(now);
        }
    }

    /// The relay of the last connection is going down: it is asked last from now on.
    pub fn leave_relay(&mut self, now: Instant) {
        if let Some(list) = self.list_mut() {
            list.leave_relay(now);
        }
    }

    /// The first handshake failed. A near relay that no one vouches for is not asked again, and others are looked for,
    /// for a while. False: it was none.
    pub fn drop_near(&mut self, now: Instant, failure: Failure) -> bool {
        self.list_mut().is_some_and(|list| list.drop_near(now, failure))
    }

    /// The first handshake was lost: a near relay is asked after the others from now on.
    pub fn put_off_near(&mut self) {
        if let Some(list) = self.list_mut() {
            list.put_off_near();
        }
    }

    /// This process had no time for so long: no relay was late meanwhile.
    pub fn delay(&mut self, by: Duration) {
        if let Some(list) = self.list_mut() {
            list.delay(by);
        }
    }

    /// The addresses of this machine, as far as the runtime knows them.
    pub fn handle_interfaces(&mut self, interfaces: &[Interface]) {
        if let Some(mdns) = &mut self.mdns {
            mdns.handle_interfaces(interfaces);
        }
    }

    /// The network is another one: what was put off is tried at once.
    pub fn hurry(&mut self, now: Instant, net: &mut Net) {
        if let Some(list) = self.list_mut() {
            list.hurry(now, net);
        }
    }

    /// A handshake runs: no relay is asked meanwhile. The relay inside goes on answering its clients.
    pub fn pause(&mut self, now: Instant, net: &mut Net) {
        if let Some(list) = self.list_mut() {
            list.stop(now, net);
        }
    }

    /// The session has a link: no other is needed until it is lost.
    pub fn rest(&mut self, now: Instant, net: &mut Net) {
        match &mut self.place {
            Place::Relays(list) => list.stop(now, net),
            Place::Embedded(relay) => relay.stop(now, net),
            Place::Closed => {}
        }
    }

    /// The transfer is over: nothing is looked for any more, and the LAN is told.
    pub fn close(&mut self, now: Instant, net: &mut Net) {
        self.rest(now, net);
        if let Some(mdns) = &mut self.mdns {
            mdns.goodbye();
        }
        self.place = Place::Closed;
    }

    /// The next result.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        match &mut self.place {
            Place::Relays(list) => list.poll(),
            Place::Embedded(relay) => relay.poll(),
            Place::Closed => None,
        }
    }

    /// The next datagram for this socket that is not QUIC's.
    #[must_use]
    pub fn poll_transmit(&mut self, socket: SocketId, buf: &mut Vec<u8>) -> Option<Transmit> {
        match (socket, &mut self.mdns, &mut self.place) {
            (MDNS, Some(mdns), _) => {
                let datagram = mdns.poll_transmit()?;
                buf.extend_from_slice(&datagram.data);
                let (to, src_ip, size) = (datagram.to, datagram.from, datagram.data.len());
                Some(Transmit { to, src_ip, ecn: Ecn::NotEct, size, segment_size: None })
            }
            (LISTENER, _, Place::Embedded(relay)) => relay.poll_transmit(buf),
            _ => None,
        }
    }

    /// When [`Self::handle_timeout`] is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let place = match &self.place {
            Place::Relays(list) => list.poll_timeout().map(|at| (at, "rendezvous")),
            Place::Embedded(relay) => relay.poll_timeout().map(|at| (at, "embedded relay")),
            Place::Closed => None,
        };
        place.into_iter().chain(self.mdns.as_ref().and_then(Mdns::poll_timeout).map(|at| (at, "mdns"))).min()
    }

    fn list(&self) -> Option<&ServerList> {
        match &self.place {
            Place::Relays(list) => Some(list),
            Place::Embedded(_) | Place::Closed => None,
        }
    }

    fn list_mut(&mut self) -> Option<&mut ServerList> {
        match &mut self.place {
            Place::Relays(list) => Some(list),
            Place::Embedded(_) | Place::Closed => None,
        }
    }
}
