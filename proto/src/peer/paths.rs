//! The links of a session: which links exist, which of them is active (used for control messages and chunks), and
//! what follows when one is lost.
//!
//! ```text
//! Down ──start──► Up(links) ──the last link is lost──► Down
//!                     └──close──► Closing(links) ──all is sent, or the deadline──► Down
//! ```
//! A session begins on the link of its handshake: its first relay path, which stays as a fallback. The search for
//! direct links runs in parallel (`direct`); the sender selects one (`selection`), and that link is active from then
//! on. A relay path that is lost is replaced (`relay_path`). After a network change, a link has to show that it still
//! works (`probe`).
//!
//! Its inputs are network events, the session's events about links, and the control messages about paths, together
//! with the connections. Effects for other parts are queued as [`Output`]s, in order; this module does not depend on
//! when they are applied. It has access to neither session nor transfer.
//!
//! | file | part |
//! |---|---|
//! | `links` | the list of links |
//! | `relay_path` | the link by way of a relay, and its replacement |
//! | `direct` | gathering addresses, negotiating rounds |
//! | `openings` | connections that are no links yet |
//! | `sockets` | the sockets and the listener with ports of their own |
//! | `selection` | which link is active, and what was in flight on one that is lost |
//! | `probe` | whether a link survived a change of the network |
//!
//! Timers and bounds: those of the parts.

mod direct;
mod links;
mod opening;
mod openings;
mod ports;
mod probe;
mod relay_path;
mod selection;
mod sockets;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::close;
use super::config::DirectPath;
use super::event::{Event, Path, PathKind};
use super::network::{self, ConnectionId, DIRECT_V4, DIRECT_V6, Network};
use super::peer_link::PeerLink;
use super::rendezvous::Via;
use crate::Instant;
use crate::link::quic::{Direction, Stream};
use crate::net::{Arrival, Ecn, SocketId, TcpId, Transmit};
use crate::p2p::portmap::{self, PortMap};
use crate::seed::Seed;
use crate::session::{LinkId, Origin, Prepared, StreamNo};
use crate::wire::peer::Control;
use crate::wire::relay::Role;
use crate::wire::{Features, Frame, Violation};

use direct::Direct;
use links::Links;
use probe::PathProbe;
use relay_path::RelayPath;

pub(super) use relay_path::{Waiting, is_handshake};

/// Effects for other parts of the peer.
#[derive(Debug)]
pub(super) enum Output {
    /// Add this link to the session.
    LinkUp { link: LinkId, streams: u8, origin: Origin },
    /// The first record on a new link.
    Record(LinkId, Frame),
    /// Remove this link from the session.
    LinkDown(LinkId),
    /// Both sides know that a link is lost: send its unacknowledged chunks again.
    Resend(LinkId),
    /// The first link is up, and its `LinkUp` was queued before: the transfer continues.
    Started,
    /// Move the session's control messages to this link, if possible.
    UseForControl(LinkId),
    /// An event for the application.
    Event(Event),
    /// The other side violated the protocol.
    Violation(Violation),
    /// Data may not use a relay, and there is no direct path.
    NoDirectPath,
    /// Search for the other side to replace the relay path, while a direct link is active.
    LookBeside,
    /// An attempt to replace the relay path failed: try again after a pause.
    LookLater,
    /// The session lost its last links. `waiting`: a link that was accepted meanwhile and may be used for a
    /// reconnect.
    NoneLeft { lost: Vec<LinkId>, waiting: Option<Box<Waiting>> },
    /// A link was lost while the farewell was being sent.
    FarewellLinkLost { link: LinkId, was_active: bool },
    /// The farewell was sent.
    Closed,
}

/// Whether there are links, and for which purpose.
enum State {
    Down,
    Up(Links),
    /// Only the farewell is sent; then the links are closed with this code.
    Closing(Links, u32),
}

/// The links of a session; see the module documentation.
pub(super) struct Paths {
    role: Role,
    state: State,
    last_id: u32,
    relay: RelayPath,
    direct: Direct,
    probe: Option<PathProbe>,
    /// How long to wait for another direct path if data may not use a relay.
    patience: Option<Duration>,
    /// A prepared chunk that waits for room on a stream.
    pub held: Option<(u64, Prepared)>,
    /// Streams on which records may have arrived.
    readable: VecDeque<(LinkId, Stream)>,
    out: VecDeque<Output>,
}

impl Paths {
    /// Requests the sockets of the direct path, if one is searched for.
    pub fn new(
        now: Instant,
        role: Role,
        options: Option<&DirectPath>,
        patience: Option<Duration>,
        seed: &Seed,
        net: &mut Network,
    ) -> Self {
        Self {
            role,
            state: State::Down,
            last_id: 0,
            relay: RelayPath::new(&Via::Near),
            direct: Direct::new(now, role, options, seed, net),
            probe: None,
            patience,
            held: None,
            readable: VecDeque::new(),
            out: VecDeque::new(),
        }
    }

    /// The handshake on this link is complete. `theirs`: the features of the other side; `may_negotiate`: addresses
    /// may be sent.
    pub fn start(
        &mut self,
        now: Instant,
        net: &mut Network,
        mut link: PeerLink,
        via: &Via,
        theirs: Features,
        may_negotiate: bool,
    ) {
        let id = self.next_id();
        let early = link.set_keyed(id);
        self.out.push_back(Output::LinkUp { link: id, streams: link.max_streams(), origin: Origin::Handshake });
        self.relay = RelayPath::new(via);
        let (kind, transport) = (self.relay.kind(), link.transport());
        let rtt = net.rtt(link.conn()).unwrap_or_default();
        self.state = State::Up(Links::new(link));
        self.out.push_back(Output::Event(Event::Path(Path { kind, transport, rtt })));
        self.start_direct(now, net, theirs, may_negotiate);
        self.out.push_back(Output::Started);
        self.readable.extend(early.into_iter().map(|stream| (id, stream)));
    }

    fn next_id(&mut self) -> LinkId {
        self.last_id = self.last_id.wrapping_add(1);
        LinkId(self.last_id)
    }

    /// The id of the link on a connection.
    pub fn id_on(&mut self, conn: ConnectionId) -> Option<LinkId> {
        match &mut self.state {
            State::Up(links) => links.on(conn).map(|link| link.id()),
            State::Down | State::Closing(..) => None,
        }
    }

    /// An event of a connection.
    pub fn handle_event(&mut self, now: Instant, net: &mut Network, conn: ConnectionId, event: &network::Event) {
        if self.is_pending(conn) {
            return self.handle_pending(now, net, conn, event);
        }
        match &mut self.state {
            State::Up(links) => {
                let Some(link) = links.on(conn) else { return self.handle_opening(now, net, conn, event) };
                let (id, main) = (link.id(), link.main());
                match event {
                    network::Event::Opened(stream, Direction::Uni) => {
                        link.handle_opened(*stream);
                        self.readable.push_back((id, *stream));
                    }
                    network::Event::Readable(stream) if *stream != main => self.readable.push_back((id, *stream)),
                    network::Event::Closed(_) => self.lose(now, net, id),
                    network::Event::Opened(..)
                    | network::Event::Readable(_)
                    | network::Event::Writable(_)
                    | network::Event::Finished(_)
                    | network::Event::Connected { .. }
                    | network::Event::Restarted { .. }
                    | network::Event::Available(_)
                    | network::Event::Stopped(..) => {}
                }
            }
            State::Closing(links, code) => {
                let code = *code;
                let Some(link) = links.on(conn) else { return };
                let (id, main, was_active) = (link.id(), link.main(), link.id() == links.active_id());
                match event {
                    network::Event::Finished(stream) if *stream == main && was_active => self.end(now, net, "done"),
                    network::Event::Closed(_) => {
                        if let Some(link) = links.remove(id) {
                            link.peer.close(now, net, code, "done");
                        }
                        self.out.push_back(Output::FarewellLinkLost { link: id, was_active });
                    }
                    network::Event::Finished(_)
                    | network::Event::Opened(..)
                    | network::Event::Readable(_)
                    | network::Event::Writable(_)
                    | network::Event::Connected { .. }
                    | network::Event::Restarted { .. }
                    | network::Event::Available(_)
                    | network::Event::Stopped(..) => {}
                }
            }
            State::Down => self.handle_opening(now, net, conn, event),
        }
    }

    /// Links whose first stream has ended are lost, once everything that arrived on that stream was processed.
    pub fn lose_ended(&mut self, now: Instant, net: &mut Network) {
        let State::Up(links) = &self.state else { return };
        let ended: Vec<LinkId> = links.iter().filter(|link| link.peer.has_ended()).map(|link| link.peer.id()).collect();
        for id in ended {
            self.lose(now, net, id);
        }
    }

    /// The id of the active link.
    pub const fn active_id(&self) -> Option<LinkId> {
        match &self.state {
            State::Up(links) | State::Closing(links, _) => Some(links.active_id()),
            State::Down => None,
        }
    }

    /// A link by its index in the list.
    pub fn link_at(&mut self, index: usize) -> Option<&mut PeerLink> {
        match &mut self.state {
            State::Up(links) => links.at(index),
            State::Down | State::Closing(..) => None,
        }
    }

    /// A link by its id.
    pub fn link(&mut self, id: LinkId) -> Option<&mut PeerLink> {
        match &mut self.state {
            State::Up(links) => links.get(id).map(|link| &mut link.peer),
            State::Down | State::Closing(..) => None,
        }
    }

    /// All links, including those that are kept only for the farewell.
    pub fn links_mut(&mut self) -> impl Iterator<Item = &mut PeerLink> {
        match &mut self.state {
            State::Up(links) | State::Closing(links, _) => Some(links.iter_mut()),
            State::Down => None,
        }
        .into_iter()
        .flatten()
    }

    /// The place for the next chunk: a stream of the active link that has room.
    pub fn place_for_chunk(&mut self, now: Instant, net: &mut Network) -> Option<(LinkId, StreamNo)> {
        let State::Up(links) = &mut self.state else { return None };
        let link = &mut links.active()?.peer;
        link.flush(now, net);
        let stream = link.chunk_stream(net)?;
        Some((link.id(), stream))
    }

    /// Queues a chunk that was sealed for the place that [`Self::place_for_chunk`] returned.
    pub fn queue_chunk(&mut self, id: LinkId, stream: StreamNo, frame: bytes::Bytes, len: usize) {
        let State::Up(links) = &mut self.state else { return };
        let Some(link) = links.get(id) else { return };
        link.peer.queue_chunk(stream, frame);
        if let Some(direct) = &mut link.direct {
            direct.sealed = direct.sealed.saturating_add(len as u64);
        }
    }

    /// The next stream on which records may have arrived.
    #[must_use]
    pub fn poll_readable(&mut self) -> Option<(LinkId, Stream)> {
        self.readable.pop_front()
    }

    /// A link of the session is lost.
    pub fn lose(&mut self, now: Instant, net: &mut Network, id: LinkId) {
        let State::Up(links) = &mut self.state else { return };
        let Some(link) = links.remove(id) else { return };
        link.peer.close(now, net, close::ENDED, "lost");
        self.out.push_back(Output::LinkDown(id));
        if links.is_empty() {
            self.go_down(now, net, vec![id], None);
        } else {
            self.drop_link(now, id, link.direct);
        }
    }

    /// Whether this is the only link.
    fn is_last(&self, id: LinkId) -> bool {
        match &self.state {
            State::Up(links) => links.iter().all(|link| link.peer.id() == id),
            State::Down | State::Closing(..) => false,
        }
    }

    /// The last link is lost, and another link replaces it, which begins with a handshake.
    fn replace(&mut self, now: Instant, net: &mut Network, id: LinkId, waiting: Waiting) {
        let State::Up(links) = &mut self.state else { return };
        if let Some(link) = links.remove(id) {
            link.peer.close(now, net, close::ENDED, "lost");
            self.out.push_back(Output::LinkDown(id));
        }
        self.go_down(now, net, vec![id], Some(waiting));
    }

    /// All links are lost, and another link replaces them, which begins with a handshake.
    fn lose_all(&mut self, now: Instant, net: &mut Network, waiting: Waiting) {
        let State::Up(links) = &self.state else { return };
        let lost: Vec<LinkId> = links.iter().map(|link| link.peer.id()).collect();
        for link in links.iter() {
            link.peer.close(now, net, close::ENDED, "lost");
        }
        self.out.extend(lost.iter().copied().map(Output::LinkDown));
        self.go_down(now, net, lost, Some(waiting));
    }

    fn go_down(&mut self, now: Instant, net: &mut Network, lost: Vec<LinkId>, replacement: Option<Waiting>) {
        self.state = State::Down;
        self.held = None;
        self.stop_direct(now, net);
        let waiting = self.leave_relay_path().or(replacement).map(Box::new);
        self.out.push_back(Output::NoneLeft { lost, waiting });
    }

    /// The transfer has ended: sends what is queued over the link that is used for control, then closes all links.
    pub fn close(&mut self, now: Instant, net: &mut Network, control: Option<LinkId>, code: u32) {
        self.forget_pending(now, net);
        self.held = None;
        self.state = match std::mem::replace(&mut self.state, State::Down) {
            State::Up(mut links) => {
                // The farewell uses the same link as control, even if the session has not yet reported that control
                // has moved.
                if let Some(control) = control {
                    links.set_active(control);
                }
                State::Closing(links, code)
            }
            state @ (State::Down | State::Closing(..)) => state,
        };
    }

    /// A link was lost while the farewell was being sent. If the farewell used this link, and it is not known whether
    /// the other side received it, it is sent over the link that is used for control now (`next`). Returns false if
    /// the farewell is over.
    pub fn go_on_closing(&mut self, now: Instant, net: &mut Network, was_active: bool, next: Option<LinkId>) -> bool {
        let State::Closing(links, _) = &mut self.state else { return false };
        let goes_on = !links.is_empty() && (!was_active || next.is_some_and(|next| links.set_active(next)));
        if !goes_on {
            self.end(now, net, "done");
        }
        goes_on
    }

    /// Closes all remaining links, without sending what is queued.
    pub fn end(&mut self, now: Instant, net: &mut Network, reason: &'static str) {
        if let State::Closing(links, code) = std::mem::replace(&mut self.state, State::Down) {
            links.iter().for_each(|link| link.peer.close(now, net, code, reason));
            self.out.push_back(Output::Closed);
        }
    }

    /// Whether chunks may be sent now: not if the active link uses a relay and data may not.
    pub fn may_send_chunks(&self) -> bool {
        match &self.state {
            State::Up(links) => !self.must_be_direct() || links.direct(links.active_id()).is_some(),
            State::Down | State::Closing(..) => false,
        }
    }

    /// Whether data has to wait for a direct path: the relay path uses a relay, and data may not.
    fn must_be_direct(&self) -> bool {
        self.relay.kind() == PathKind::Relay && self.direct.only
    }

    /// The next effect for another part.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Self::handle_timeout`] is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        [
            self.probe.as_ref().map(|probe| (probe.until, "path probe")),
            self.direct.poll_timeout().map(|at| (at, "direct path")),
            self.relay.poll_timeout().map(|at| (at, "relay path")),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A deadline may have passed. A spurious call is a no-op. `in_flight`: bytes that were sealed for a link and are
    /// not acknowledged.
    pub fn handle_timeout(&mut self, now: Instant, net: &mut Network, in_flight: impl Fn(LinkId) -> u64) {
        self.judge_probe(now, net);
        self.handle_direct_timeout(now, net, in_flight);
        self.handle_relay_path_timeout(now, net);
    }

    /// The runtime reports the default gateways that it knows.
    pub fn handle_gateways(&mut self, now: Instant, gateways: &[IpAddr]) {
        self.direct.handle_gateways(now, gateways);
    }

    /// A datagram of another protocol than QUIC, on a socket of the direct path or of the port mapping. Returns false
    /// if it belongs to another part.
    pub fn handle_datagram(&mut self, now: Instant, arrival: &Arrival, data: &[u8]) -> bool {
        if arrival.socket == portmap::SOCKET {
            if let Some(portmap) = self.direct.portmap() {
                portmap.handle_datagram(now, arrival.from, data);
            }
            return true;
        }
        self.direct.takes(now, arrival, data)
    }

    /// A socket was bound, or could not be bound. Returns false if it belongs to another part.
    pub fn handle_bound(
        &mut self,
        now: Instant,
        socket: SocketId,
        result: Result<SocketAddr, io::ErrorKind>,
        net: &mut Network,
    ) -> bool {
        match (socket, self.direct.portmap()) {
            (DIRECT_V4 | DIRECT_V6, _) => self.direct.handle_bound(now, socket, result, net),
            (portmap::SOCKET, Some(portmap)) => portmap.handle_bound(now, result),
            (portmap::SOCKET, None) => {}
            _ => return false,
        }
        true
    }

    /// The listener for the other peer was opened, or could not be opened.
    pub fn handle_listening(&mut self, now: Instant, result: Result<SocketAddr, io::ErrorKind>, net: &mut Network) {
        self.direct.handle_listening(now, result, net);
    }

    /// The addresses of a STUN server that the user configured.
    pub fn handle_stun_server(&mut self, addresses: &[SocketAddr]) {
        self.direct.handle_stun_server(addresses);
    }

    /// The machine was suspended: gateways may have lost their mappings.
    pub fn handle_slept(&mut self, now: Instant) {
        if let Some(portmap) = self.direct.portmap() {
            portmap.handle_slept(now);
        }
    }

    /// The port mapping, if this TCP connection leads to a gateway.
    pub fn portmap_on(&mut self, tcp: TcpId) -> Option<&mut PortMap> {
        self.direct.portmap().filter(|_| tcp >= portmap::FIRST_TCP)
    }

    /// The port mapping, for output only.
    pub fn output_of_portmap(&self, tcp: TcpId) -> Option<&PortMap> {
        self.direct.gateway().filter(|_| tcp >= portmap::FIRST_TCP)
    }

    /// Whether all port mappings were removed at the gateway.
    pub fn is_released(&self) -> bool {
        self.direct.is_released()
    }

    /// The next datagram to a gateway.
    #[must_use]
    pub fn poll_transmit(&mut self, socket: SocketId, buf: &mut Vec<u8>) -> Option<Transmit> {
        let portmap = self.direct.portmap().filter(|_| socket == portmap::SOCKET)?;
        let portmap::Transmit { to, from, data } = portmap.poll_transmit()?;
        buf.extend_from_slice(&data);
        Some(Transmit { to, src_ip: from, ecn: Ecn::NotEct, size: data.len(), segment_size: None })
    }

    /// The next control message about paths, if the session has room for it.
    #[must_use]
    pub fn poll_control(&mut self) -> Option<Control> {
        self.direct.poll_control()
    }
}
