//! The links of a session: which there are, which one carries control and chunks, and what follows when one is lost.
//!
//! ```text
//! Down ──start──► Up(links) ──the last link is lost──► Down
//!                     └──close──► Closing(links) ──all is sent, or the deadline──► Down
//! ```
//! A session begins on the link of its handshake, its first relay path, which stays as a fallback. Direct links are
//! looked for beside it (`direct`); the sender selects one (`selection`), and from then on it is active. The relay path
//! is replaced when it is lost (`relay_path`). After a change of the network a link has to show that it still works
//! (`probe`).
//!
//! It is given network events, the session's events about links and the control messages about paths, together with the
//! connections. What follows for others is queued as [`Output`]s, in order, and nothing else depends on when they are
//! carried out. It knows neither session nor transfer.
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
use super::net::{self, ConnectionId, DIRECT_V4, DIRECT_V6, Net};
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

/// What follows for others.
#[derive(Debug)]
pub(super) enum Output {
    /// The session has another link.
    LinkUp { link: LinkId, streams: u8, origin: Origin },
    /// The first record on a new link.
    Record(LinkId, Frame),
    /// The session lost a link.
    LinkDown(LinkId),
    /// Both sides know that a link is lost: the chunks that were in flight on it are sent again.
    Resend(LinkId),
    /// The first link is up, and what is to be said of it was said: the transfer goes on.
    Started,
    /// The session moves to this link, if it can.
    UseForControl(LinkId),
    /// An event for the application.
    Event(Event),
    /// The other side broke a rule.
    Violation(Violation),
    /// Data may not go over a relay, and there is no direct path.
    NoDirectPath,
    /// The other side is to be met for another relay path.
    LookBeside,
    /// An attempt to get one came to nothing: once more after a pause.
    LookLater,
    /// No link is left of those named. One that came since may be of use.
    NoneLeft { lost: Vec<LinkId>, waiting: Option<Box<Waiting>> },
    /// A link is gone while the farewell goes out.
    FarewellLinkLost { link: LinkId, was_active: bool },
    /// The farewell is out.
    Closed,
}

/// Whether there are links, and what for.
enum State {
    Down,
    Up(Links),
    /// Only the farewell is sent; with this code the links are closed.
    Closing(Links, u32),
}

/// See the module's text.
pub(super) struct Paths {
    role: Role,
    state: State,
    last_id: u32,
    relay: RelayPath,
    direct: Direct,
    probe: Option<PathProbe>,
    /// How long to wait for another direct path, where nothing may go over a relay.
    patience: Option<Duration>,
    /// A chunk that waits for a place on a stream.
    pub held: Option<(u64, Prepared)>,
    /// Streams on which records may have arrived.
    readable: VecDeque<(LinkId, Stream)>,
    out: VecDeque<Output>,
}

impl Paths {
    /// Asks for the sockets of the direct path, if that is looked for.
    pub fn new(
        now: Instant,
        role: Role,
        options: Option<&DirectPath>,
        patience: Option<Duration>,
        seed: &Seed,
        net: &mut Net,
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

    /// The handshake on this link is done. `theirs`: what the other side said of itself; `may_negotiate`: addresses may
    /// be sent.
    pub fn start(
        &mut self,
        now: Instant,
        net: &mut Net,
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

    /// The name of the link on a connection.
    pub fn id_on(&mut self, conn: ConnectionId) -> Option<LinkId> {
        match &mut self.state {
            State::Up(links) => links.on(conn).map(|link| link.id()),
            State::Down | State::Closing(..) => None,
        }
    }

    /// An event of a connection.
    pub fn handle_event(&mut self, now: Instant, net: &mut Net, conn: ConnectionId, event: &net::Event) {
        if self.is_pending(conn) {
            return self.handle_pending(now, net, conn, event);
        }
        match &mut self.state {
            State::Up(links) => {
                let Some(link) = links.on(conn) else { return self.handle_opening(now, net, conn, event) };
                let (id, main) = (link.id(), link.main());
                match event {
                    net::Event::Opened(stream, Direction::Uni) => {
                        link.handle_opened(*stream);
                        self.readable.push_back((id, *stream));
                    }
                    net::Event::Readable(stream) if *stream != main => self.readable.push_back((id, *stream)),
                    net::Event::Closed(_) => self.lose(now, net, id),
                    net::Event::Opened(..)
                    | net::Event::Readable(_)
                    | net::Event::Writable(_)
                    | net::Event::Finished(_)
                    | net::Event::Connected { .. }
                    | net::Event::Restarted { .. }
                    | net::Event::Available(_)
                    | net::Event::Stopped(..) => {}
                }
            }
            State::Closing(links, code) => {
                let code = *code;
                let Some(link) = links.on(conn) else { return };
                let (id, main, was_active) = (link.id(), link.main(), link.id() == links.active_id());
                match event {
                    net::Event::Finished(stream) if *stream == main && was_active => self.end(now, net, "done"),
                    net::Event::Closed(_) => {
                        if let Some(link) = links.remove(id) {
                            link.peer.close(now, net, code, "done");
                        }
                        self.out.push_back(Output::FarewellLinkLost { link: id, was_active });
                    }
                    net::Event::Finished(_)
                    | net::Event::Opened(..)
                    | net::Event::Readable(_)
                    | net::Event::Writable(_)
                    | net::Event::Connected { .. }
                    | net::Event::Restarted { .. }
                    | net::Event::Available(_)
                    | net::Event::Stopped(..) => {}
                }
            }
            State::Down => self.handle_opening(now, net, conn, event),
        }
    }

    /// Links whose first stream has ended are lost, now that all that came on it is judged.
    pub fn lose_ended(&mut self, now: Instant, net: &mut Net) {
        let State::Up(links) = &self.state else { return };
        let ended: Vec<LinkId> = links.iter().filter(|link| link.peer.has_ended()).map(|link| link.peer.id()).collect();
        for id in ended {
            self.lose(now, net, id);
        }
    }

    /// The name of the link that carries control and chunks.
    pub const fn active_id(&self) -> Option<LinkId> {
        match &self.state {
            State::Up(links) | State::Closing(links, _) => Some(links.active_id()),
            State::Down => None,
        }
    }

    /// A link by its place in the list.
    pub fn link_at(&mut self, index: usize) -> Option<&mut PeerLink> {
        match &mut self.state {
            State::Up(links) => links.at(index),
            State::Down | State::Closing(..) => None,
        }
    }

    /// A link by its name.
    pub fn link(&mut self, id: LinkId) -> Option<&mut PeerLink> {
        match &mut self.state {
            State::Up(links) => links.get(id).map(|link| &mut link.peer),
            State::Down | State::Closing(..) => None,
        }
    }

    /// All links, those that only take a farewell with them.
    pub fn links_mut(&mut self) -> impl Iterator<Item = &mut PeerLink> {
        match &mut self.state {
            State::Up(links) | State::Closing(links, _) => Some(links.iter_mut()),
            State::Down => None,
        }
        .into_iter()
        .flatten()
    }

    /// Where the next chunk goes: a stream of the active link that has room.
    pub fn place_for_chunk(&mut self, now: Instant, net: &mut Net) -> Option<(LinkId, StreamNo)> {
        let State::Up(links) = &mut self.state else { return None };
        let link = &mut links.active()?.peer;
        link.flush(now, net);
        let stream = link.chunk_stream(net)?;
        Some((link.id(), stream))
    }

    /// A chunk was sealed for the place that [`Self::place_for_chunk`] named.
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

    /// A link of the session is gone.
    pub fn lose(&mut self, now: Instant, net: &mut Net, id: LinkId) {
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

    /// The last link is lost to another one, which begins with a handshake.
    fn replace(&mut self, now: Instant, net: &mut Net, id: LinkId, waiting: Waiting) {
        let State::Up(links) = &mut self.state else { return };
        if let Some(link) = links.remove(id) {
            link.peer.close(now, net, close::ENDED, "lost");
            self.out.push_back(Output::LinkDown(id));
        }
        self.go_down(now, net, vec![id], Some(waiting));
    }

    /// All links are lost to another one, which begins with a handshake.
    fn lose_all(&mut self, now: Instant, net: &mut Net, waiting: Waiting) {
        let State::Up(links) = &self.state else { return };
        let lost: Vec<LinkId> = links.iter().map(|link| link.peer.id()).collect();
        for link in links.iter() {
            link.peer.close(now, net, close::ENDED, "lost");
        }
        self.out.extend(lost.iter().copied().map(Output::LinkDown));
        self.go_down(now, net, lost, Some(waiting));
    }

    fn go_down(&mut self, now: Instant, net: &mut Net, lost: Vec<LinkId>, replacement: Option<Waiting>) {
        self.state = State::Down;
        self.held = None;
        self.stop_direct(now, net);
        let waiting = self.leave_relay_path().or(replacement).map(Box::new);
        self.out.push_back(Output::NoneLeft { lost, waiting });
    }

    /// The transfer is over: what is queued goes out over the link that carries control, then all links are closed.
    pub fn close(&mut self, now: Instant, net: &mut Net, control: Option<LinkId>, code: u32) {
        self.forget_pending(now, net);
        self.held = None;
        self.state = match std::mem::replace(&mut self.state, State::Down) {
            State::Up(mut links) => {
                // The last words go where control goes, even before the session has reported that this is another link.
                if let Some(control) = control {
                    links.set_active(control);
                }
                State::Closing(links, code)
            }
            state @ (State::Down | State::Closing(..)) => state,
        };
    }

    /// A link is gone while the last words go out. If it carried them, and the other side is not known to have them,
    /// they go out over the one that carries control now (`next`). False: the farewell is over.
    pub fn go_on_closing(&mut self, now: Instant, net: &mut Net, was_active: bool, next: Option<LinkId>) -> bool {
        let State::Closing(links, _) = &mut self.state else { return false };
        let goes_on = !links.is_empty() && (!was_active || next.is_some_and(|next| links.set_active(next)));
        if !goes_on {
            self.end(now, net, "done");
        }
        goes_on
    }

    /// Closes what is left, whatever is queued.
    pub fn end(&mut self, now: Instant, net: &mut Net, reason: &'static str) {
        if let State::Closing(links, code) = std::mem::replace(&mut self.state, State::Down) {
            links.iter().for_each(|link| link.peer.close(now, net, code, reason));
            self.out.push_back(Output::Closed);
        }
    }

    /// Where data goes: over the active link, unless that is a relay's and nothing may go over one.
    pub fn may_send_chunks(&self) -> bool {
        match &self.state {
            State::Up(links) => !self.must_be_direct() || links.direct(links.active_id()).is_some(),
            State::Down | State::Closing(..) => false,
        }
    }

    /// Whether data has to wait for a direct path: the relay path is a relay's, and nothing is to go over one.
    fn must_be_direct(&self) -> bool {
        self.relay.kind() == PathKind::Relay && self.direct.only
    }

    /// The next thing that follows for others.
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

    /// Deadlines may have come. A spurious call is a no-op. `in_flight`: bytes that are sealed for a link and not
    /// acknowledged.
    pub fn handle_timeout(&mut self, now: Instant, net: &mut Net, in_flight: impl Fn(LinkId) -> u64) {
        self.judge_probe(now, net);
        self.handle_direct_timeout(now, net, in_flight);
        self.handle_relay_path_timeout(now, net);
    }

    /// The default gateways, as far as the runtime knows them.
    pub fn handle_gateways(&mut self, now: Instant, gateways: &[IpAddr]) {
        self.direct.handle_gateways(now, gateways);
    }

    /// A datagram that is not QUIC's, on a socket of the direct path or of the port mapping; false: it is another
    /// part's.
    pub fn handle_datagram(&mut self, now: Instant, arrival: &Arrival, data: &[u8]) -> bool {
        if arrival.socket == portmap::SOCKET {
            if let Some(portmap) = self.direct.portmap() {
                portmap.handle_datagram(now, arrival.from, data);
            }
            return true;
        }
        self.direct.takes(now, arrival, data)
    }

    /// A socket was bound, or could not be; false: it is another part's.
    pub fn handle_bound(
        &mut self,
        now: Instant,
        socket: SocketId,
        result: Result<SocketAddr, io::ErrorKind>,
        net: &mut Net,
    ) -> bool {
        match (socket, self.direct.portmap()) {
            (DIRECT_V4 | DIRECT_V6, _) => self.direct.handle_bound(now, socket, result, net),
            (portmap::SOCKET, Some(portmap)) => portmap.handle_bound(now, result),
            (portmap::SOCKET, None) => {}
            _ => return false,
        }
        true
    }

    /// The listener for the other peer is there, or can't be.
    pub fn handle_listening(&mut self, now: Instant, result: Result<SocketAddr, io::ErrorKind>, net: &mut Net) {
        self.direct.handle_listening(now, result, net);
    }

    /// The addresses of a STUN server that the person named.
    pub fn handle_stun_server(&mut self, addresses: &[SocketAddr]) {
        self.direct.handle_stun_server(addresses);
    }

    /// The machine was asleep: what gateways promised may be forgotten.
    pub fn handle_slept(&mut self, now: Instant) {
        if let Some(portmap) = self.direct.portmap() {
            portmap.handle_slept(now);
        }
    }

    /// The port mapping, if this TCP connection leads to a gateway.
    pub fn portmap_on(&mut self, tcp: TcpId) -> Option<&mut PortMap> {
        self.direct.portmap().filter(|_| tcp >= portmap::FIRST_TCP)
    }

    /// The same, for its output.
    pub fn output_of_portmap(&self, tcp: TcpId) -> Option<&PortMap> {
        self.direct.gateway().filter(|_| tcp >= portmap::FIRST_TCP)
    }

    /// Whether no port mapping is left to be taken back.
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

    /// What is to be said next of paths, if the session has room for it.
    #[must_use]
    pub fn poll_control(&mut self) -> Option<Control> {
        self.direct.poll_control()
    }
}
