//! How a peer connects to the other one: at relays, at the relay inside the sender, or on the LAN.
//!
//! ```text
//! Relays (ServerList), or Embedded (EmbeddedRelay)  ──close──► Closed
//! ```
//! It decides which relays to ask and when to ask again, and which clients the embedded relay admits. A peer either
//! asks relays or runs one itself, never both. Its inputs are network events, resolved names and the question for the
//! relays; its [`Output`]s are a connection to the other side, events for the application, or a failure that ends the
//! search.
//!
//! | file | part |
//! |---|---|
//! | `server_list` | the relays that are asked, and their order |
//! | `server` | the state of one relay |
//! | `dial` | the connection to one relay |
//! | `client` | the protocol on such a connection |
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
use super::network::{self, ConnectionId, LISTENER, MDNS, Network};
use super::peer_link::PeerLink;
use crate::Instant;
use crate::discovery::mdns::Mdns;
use crate::net::{Arrival, Ecn, Interface, SocketId, Transmit};
use crate::p2p::stun;
use crate::seed::Seed;
use crate::wire::relay::{Owner, RoomId};

pub(super) use client::Question;
pub(super) use embedded::EmbeddedRelay;
pub(super) use server_list::{MAX_SERVERS, SearchConfig, ServerList};

/// The results of the search.
#[derive(Debug)]
pub(super) enum Output {
    /// An event for the application.
    Event(Event),
    /// The relay assigned this nameplate.
    Allocated(u32),
    /// This connection leads to the other side.
    Connected(Box<PeerLink>, Via),
    /// The search can't succeed.
    Failed(Failure),
}

/// Where two peers were connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Via {
    /// At a configured relay.
    Relay(RelayAddress),
    /// On this machine or on the LAN, at the relay inside the sender.
    Near,
}

enum Mode {
    Relays(Box<ServerList>),
    Embedded(Box<EmbeddedRelay>),
    Closed,
}

/// The search for the other side; see the module documentation.
pub(super) struct Rendezvous {
    mode: Mode,
    mdns: Option<Mdns>,
}

impl Rendezvous {
    /// Asks relays.
    pub fn relays(list: ServerList) -> Self {
        Self { mode: Mode::Relays(Box::new(list)), mdns: None }
    }

    /// Runs a relay.
    pub fn embedded(relay: EmbeddedRelay) -> Self {
        Self { mode: Mode::Embedded(Box::new(relay)), mdns: None }
    }

    /// Searches for senders on the LAN, too.
    pub fn browse(&mut self, now: Instant, interfaces: &[IpAddr], seed: &Seed, net: &mut Network) {
        self.mdns = Some(Mdns::browse(now, interfaces, seed));
        net.bind_mdns();
    }

    /// Whether this process runs the relay.
    pub const fn is_embedded(&self) -> bool {
        matches!(self.mode, Mode::Embedded(_))
    }

    /// The relay assigned this room: from now on the sender requests its own seat in it; an embedded relay admits
    /// receivers that name it.
    pub fn set_room(&mut self, room: RoomId) {
        match &mut self.mode {
            Mode::Relays(list) => list.set_room(room),
            Mode::Embedded(relay) => relay.set_room(room),
            Mode::Closed => {}
        }
    }

    /// From now on the embedded relay admits only the session's own receiver.
    pub fn set_reconnect_room(&mut self, room: RoomId, receiver: Owner) {
        if let Mode::Embedded(relay) = &mut self.mode {
            relay.set_again(room, receiver);
        }
    }

    /// The addresses at which the embedded relay listens.
    pub fn listening(&self) -> Vec<SocketAddr> {
        match &self.mode {
            Mode::Embedded(relay) => relay.listening(),
            Mode::Relays(_) | Mode::Closed => Vec::new(),
        }
    }

    /// The configured relay that a sender uses.
    pub fn relay(&self) -> Option<RelayAddress> {
        self.list().and_then(ServerList::relay)
    }

    /// Addresses of the configured relays, which also serve STUN.
    pub fn stun_servers(&self) -> Vec<SocketAddr> {
        self.list().map(ServerList::stun_servers).unwrap_or_default()
    }

    /// The question for the relays.
    pub fn question(&self) -> Option<Question> {
        self.list().map(ServerList::question)
    }

    /// A received datagram. Returns false if it belongs to another part.
    pub fn handle_datagram(&mut self, now: Instant, arrival: &Arrival, data: &[u8]) -> bool {
        match (arrival.socket, &mut self.mdns, &mut self.mode) {
            (MDNS, Some(mdns), _) => mdns.handle_datagram(now, arrival.from, data),
            (LISTENER, _, Mode::Embedded(relay)) if stun::is_stun(data) => relay.handle_stun(now, *arrival, data),
            (LISTENER, _, Mode::Relays(_) | Mode::Closed) if stun::is_stun(data) => {}
            _ => return false,
        }
        true
    }

    /// The listener's or the multicast socket was bound, or could not be bound. Returns false if it belongs to
    /// another part.
    pub fn handle_bound(
        &mut self,
        now: Instant,
        socket: SocketId,
        result: Result<SocketAddr, io::ErrorKind>,
        interfaces: &[IpAddr],
        seed: &mut Seed,
        net: &mut Network,
    ) -> bool {
        match socket {
            LISTENER => {
                if let Mode::Embedded(relay) = &mut self.mode {
                    relay.handle_bound(result, net);
                }
                self.announce(now, interfaces, seed, net);
            }
            // Without multicast DNS, peers on the LAN are not found; everything else works.
            MDNS => {
                if result.is_err() {
                    self.mdns = None;
                }
            }
            _ => return false,
        }
        true
    }

    /// Announces the embedded relay's address on the LAN.
    fn announce(&mut self, now: Instant, interfaces: &[IpAddr], seed: &mut Seed, net: &mut Network) {
        if let Mode::Embedded(relay) = &self.mode
            && let Some(port) = relay.announced_port()
            && self.mdns.is_none()
        {
            self.mdns = Some(Mdns::announce(now, port, interfaces, &seed.split()));
            net.bind_mdns();
        }
    }

    /// The addresses of the relay at this index of the list.
    pub fn handle_resolved(&mut self, now: Instant, index: usize, addresses: Vec<SocketAddr>) {
        if let Some(list) = self.list_mut() {
            list.handle_resolved(now, index, addresses);
        }
    }

    /// An event of a connection. Returns false if the connection belongs to another part.
    pub fn handle_event(
        &mut self,
        now: Instant,
        net: &mut Network,
        conn: ConnectionId,
        event: &network::Event,
    ) -> bool {
        match &mut self.mode {
            Mode::Relays(list) => list.handle_event(now, net, conn, event),
            Mode::Embedded(relay) => relay.handle_event(now, net, conn, event),
            Mode::Closed => false,
        }
    }

    /// A deadline may have passed. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant, net: &mut Network) {
        match &mut self.mode {
            Mode::Relays(list) => list.handle_timeout(now, net),
            Mode::Embedded(relay) => relay.handle_timeout(now, net),
            Mode::Closed => {}
        }
        if let Some(mdns) = &mut self.mdns {
            mdns.handle_timeout(now);
        }
    }

    /// Advances the search. `vacant`: the embedded relay may admit a client, because no handshake or session runs.
    pub fn settle(&mut self, now: Instant, net: &mut Network, vacant: bool) {
        match &mut self.mode {
            Mode::Relays(list) => {
                while let Some(found) = self.mdns.as_mut().and_then(Mdns::poll_found) {
                    list.add_near(now, found);
                }
            }
            Mode::Embedded(relay) => relay.settle(now, net, vacant),
            Mode::Closed => {}
        }
    }

    /// Sends another question from now on, after a handshake whose result is unknown.
    pub fn ask(&mut self, now: Instant, net: &mut Network, question: Question) {
        if let Some(list) = self.list_mut() {
            list.ask(now, net, question);
        }
    }

    /// The session lost its last link: searches for the other side in the room that `question` names.
    pub fn look_again(&mut self, now: Instant, net: &mut Network, question: Question) {
        if let Some(list) = self.list_mut() {
            list.look_again(now, net, question);
        }
    }

    /// The session lost its relay path and has a direct link: like [`Self::look_again`], but without urgency and
    /// without events.
    pub fn look_beside(&mut self, now: Instant, net: &mut Network, question: Question) {
        if let Some(list) = self.list_mut() {
            list.look_beside(now, net, question);
        }
    }

    /// The last attempt to connect failed: continues after a pause.
    pub fn look_later(&mut self, now: Instant) {
        if let Some(list) = self.list_mut() {
            list.again_later(now);
        }
    }

    /// The relay of the last connection is shutting down: it is asked last from now on.
    pub fn leave_relay(&mut self, now: Instant) {
        if let Some(list) = self.list_mut() {
            list.leave_relay(now);
        }
    }

    /// The first handshake failed. If it ran over an unauthenticated relay on this machine or on the LAN, that relay
    /// is not asked again, and the search for others continues for a limited time. Returns false if it ran over
    /// another relay.
    pub fn drop_near(&mut self, now: Instant, failure: Failure) -> bool {
        self.list_mut().is_some_and(|list| list.drop_near(now, failure))
    }

    /// The first handshake was lost: a relay on this machine or on the LAN is asked after the others from now on.
    pub fn put_off_near(&mut self) {
        if let Some(list) = self.list_mut() {
            list.put_off_near();
        }
    }

    /// This process did nothing for this long: the relays' deadlines move by that time.
    pub fn delay(&mut self, by: Duration) {
        if let Some(list) = self.list_mut() {
            list.delay(by);
        }
    }

    /// The runtime reports the addresses of this machine.
    pub fn handle_interfaces(&mut self, interfaces: &[Interface]) {
        if let Some(mdns) = &mut self.mdns {
            mdns.handle_interfaces(interfaces);
        }
    }

    /// The network changed: postponed attempts are made at once.
    pub fn hurry(&mut self, now: Instant, net: &mut Network) {
        if let Some(list) = self.list_mut() {
            list.hurry(now, net);
        }
    }

    /// A handshake runs: no relay is asked until it ends. An embedded relay still answers its clients.
    pub fn pause(&mut self, now: Instant, net: &mut Network) {
        if let Some(list) = self.list_mut() {
            list.stop(now, net);
        }
    }

    /// The session has a link: the search stops until the link is lost.
    pub fn rest(&mut self, now: Instant, net: &mut Network) {
        match &mut self.mode {
            Mode::Relays(list) => list.stop(now, net),
            Mode::Embedded(relay) => relay.stop(now, net),
            Mode::Closed => {}
        }
    }

    /// The transfer has ended: the search ends, and the announcement on the LAN is withdrawn.
    pub fn close(&mut self, now: Instant, net: &mut Network) {
        self.rest(now, net);
        if let Some(mdns) = &mut self.mdns {
            mdns.goodbye();
        }
        self.mode = Mode::Closed;
    }

    /// The next result.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        match &mut self.mode {
            Mode::Relays(list) => list.poll(),
            Mode::Embedded(relay) => relay.poll(),
            Mode::Closed => None,
        }
    }

    /// The next datagram of another protocol than QUIC for this socket.
    #[must_use]
    pub fn poll_transmit(&mut self, socket: SocketId, buf: &mut Vec<u8>) -> Option<Transmit> {
        match (socket, &mut self.mdns, &mut self.mode) {
            (MDNS, Some(mdns), _) => {
                let datagram = mdns.poll_transmit()?;
                buf.extend_from_slice(&datagram.data);
                let (to, src_ip, size) = (datagram.to, datagram.from, datagram.data.len());
                Some(Transmit { to, src_ip, ecn: Ecn::NotEct, size, segment_size: None })
            }
            (LISTENER, _, Mode::Embedded(relay)) => relay.poll_transmit(buf),
            _ => None,
        }
    }

    /// When [`Self::handle_timeout`] is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let place = match &self.mode {
            Mode::Relays(list) => list.poll_timeout().map(|at| (at, "rendezvous")),
            Mode::Embedded(relay) => relay.poll_timeout().map(|at| (at, "embedded relay")),
            Mode::Closed => None,
        };
        place.into_iter().chain(self.mdns.as_ref().and_then(Mdns::poll_timeout).map(|at| (at, "mdns"))).min()
    }

    fn list(&self) -> Option<&ServerList> {
        match &self.mode {
            Mode::Relays(list) => Some(list),
            Mode::Embedded(_) | Mode::Closed => None,
        }
    }

    fn list_mut(&mut self) -> Option<&mut ServerList> {
        match &mut self.mode {
            Mode::Relays(list) => Some(list),
            Mode::Embedded(_) | Mode::Closed => None,
        }
    }
}
