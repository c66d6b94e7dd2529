//! A peer's direct path: what `p2p` decides, carried out on sockets, connections and the session's links.
//!
//! The session begins on the handshake's link, its first floor, and that one stays (`floor`). A connection of a round becomes a link at
//! once and proves itself in the session; the sender chooses one of those that did, and from then on it carries the session. Then the others are closed.
//!
//! Which one is chosen: plain TCP, which reaches nothing but the own network and costs the least, unless QUIC got through at the same time and
//! shows a round trip that TCP's proof was far from ([`TCP_SLACK`]), or plain TCP fell silent in this session before. A choice waits
//! [`GRACE`] for a TCP connection that is on its way.
//!
//! A link that is lost beside others: chunks that were sealed for it are under way for both sides until both know, so the sender counts
//! them as lost only when the other side has said `DirectFailed` as well (round 0 is the floor). The receiver has said by then what
//! it stored.
//!
//! Timers: those of `p2p`, and the choice's. Bounds: [`MAX_OPENING`] connections that are no links yet, and the session's links.

mod swap;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::config::DirectPath;
use super::event::{Failure, Fallback, Lost, PathKind, PathTransport};
use super::net::{self, Conn, DIRECT_TCP, DIRECT_V4, DIRECT_V6, Dial, Net, direct_socket};
use super::peer_link::PeerLink;
use super::{Peer, Stage, close};
use crate::Instant;
use crate::link::quic::{Direction, Stream};
use crate::link::trust::Identity;
use crate::node::{Action, Arrival, Interface, PipeId, QueryId, SocketId};
use crate::p2p::candidate::{Carrier, Family};
use crate::p2p::gather::{self, Gather};
use crate::p2p::nat::Nat;
use crate::p2p::negotiate::{self, AttemptId, Negotiation, Output};
use crate::p2p::portmap::{self, PortMap};
use crate::seed::Seed;
use crate::session::{LinkId, Origin, Pace};
use crate::wire::peer::{CancelReason, Control};
use crate::wire::relay::Side;
use crate::wire::{Caps, Decoder, Features};

/// How long a proven QUIC link waits for a TCP connection that is on its way.
const GRACE: Duration = Duration::from_millis(150);
/// Plain TCP is not taken when its proof took longer than twice QUIC's round trip and this.
const TCP_SLACK: Duration = Duration::from_millis(50);
/// Connections that are no links yet; more are turned away.
const MAX_OPENING: usize = 24;
/// Of those, such as came in.
const MAX_ACCEPTED: usize = 4;
/// Streams beside the first that each side may open on a QUIC connection.
const STREAMS: u8 = 16;
/// The names of our questions to the name service, after all of a meeting's.
const FIRST_QUERY: u32 = 1 << 16;

/// A connection that is no link yet.
#[derive(Debug, Clone, Copy)]
struct Opening {
    conn: Conn,
    /// Ours; `None`: it came in.
    attempt: Option<AttemptId>,
}

/// A link beside the floor.
#[derive(Debug, Clone, Copy)]
struct Beside {
    id: LinkId,
    conn: Conn,
    since: Instant,
    /// How long its proof took.
    proven: Option<Duration>,
}

impl Beside {
    const fn transport(&self) -> PathTransport {
        match self.conn {
            Conn::Quic(..) => PathTransport::Quic,
            Conn::Pipe(_) => PathTransport::Tcp,
        }
    }
}

/// See the module's text.
pub(super) struct Direct {
    options: Option<Options>,
    negotiation: Negotiation,
    gather: Gather,
    /// `None`: the gateway is not to be asked.
    portmap: Option<Box<PortMap>>,
    /// Where servers may be asked, as it was last told.
    servers: Vec<SocketAddr>,
    named: Vec<SocketAddr>,
    opening: Vec<Opening>,
    links: Vec<Beside>,
    /// When the choice is made, once there is one to make.
    choice: Option<Instant>,
    /// Links that are gone here, with the other side not known to know.
    lost: Vec<LinkId>,
    /// What waits to be said.
    say: VecDeque<Control>,
    /// A direct link carries the session, as far as the application knows.
    told: bool,
    began: Instant,
    why: Fallback,
    tcp_failed: bool,
    found_once: bool,
    /// Either side wants no data on a relay.
    only: bool,
    /// Data waits for a direct path, until then at most.
    give_up: Option<Instant>,
}

struct Options {
    identity: Identity,
    ports: Option<(u16, u16)>,
    /// The port that is being bound, of each kind.
    trying: [u16; 3],
}

/// A socket that has a port of ours.
#[derive(Debug, Clone, Copy)]
enum Kind {
    V4,
    V6,
    Tcp,
}

impl Direct {
    /// Asks for sockets. Without options nothing is done, ever.
    pub fn new(now: Instant, side: Side, options: Option<&DirectPath>, seed: &Seed, net: &mut Net) -> Self {
        let certificate = options.map_or([0; 32], |options| options.identity.fingerprint().0);
        let config =
            negotiate::Config { side, allowed: options.is_some(), certificate, seed: seed.derive("negotiation") };
        let mut direct = Self {
            negotiation: Negotiation::new(config),
            gather: Gather::new(gather::Config { seed: seed.derive("gathering") }),
            portmap: options
                .filter(|options| options.map_ports)
                .map(|_| Box::new(PortMap::new(&seed.derive("port mapping")))),
            servers: Vec::new(),
            named: Vec::new(),
            opening: Vec::new(),
            links: Vec::new(),
            choice: None,
            lost: Vec::new(),
            say: VecDeque::new(),
            told: false,
            began: now,
            why: Fallback::Lost,
            tcp_failed: false,
            found_once: false,
            only: options.is_some_and(|options| options.only),
            give_up: None,
            options: options.map(|options| Options {
                identity: options.identity.clone(),
                ports: options.ports,
                trying: [options.ports.map_or(0, |(first, _)| first); 3],
            }),
        };
        let Some(options) = options else { return direct };
        for kind in [Kind::V4, Kind::V6, Kind::Tcp] {
            direct.bind(kind, net);
        }
        for (query, server) in (FIRST_QUERY..).zip(&options.stun) {
            match server.host.parse() {
                Ok(ip) => direct.named.push(SocketAddr::new(ip, server.port)),
                Err(_) => net.act(Action::Resolve(QueryId(query), server.host.clone(), server.port)),
            }
        }
        direct
    }

    fn bind(&self, kind: Kind, net: &mut Net) {
        let Some(options) = &self.options else { return };
        match (kind, options.trying) {
            (Kind::V4, [port, ..]) => net.bind(DIRECT_V4, SocketAddr::from(([0, 0, 0, 0], port))),
            (Kind::V6, [_, port, _]) => net.bind(DIRECT_V6, SocketAddr::from(([0_u16; 8], port))),
            (Kind::Tcp, [.., port]) => net.listen_direct(port),
        }
    }

    /// The next port of the person's range. False: there is none.
    fn bind_next(&mut self, kind: Kind, net: &mut Net) -> bool {
        let Some(Options { ports: Some((_, last)), trying: [v4, v6, tcp], .. }) = &mut self.options else {
            return false;
        };
        let port = match kind {
            Kind::V4 => v4,
            Kind::V6 => v6,
            Kind::Tcp => tcp,
        };
        if *port >= *last {
            return false;
        }
        *port = port.saturating_add(1);
        self.bind(kind, net);
        true
    }

    /// A direct socket was bound, or could not be.
    pub fn handle_bound(
        &mut self,
        now: Instant,
        socket: SocketId,
        result: Result<SocketAddr, io::ErrorKind>,
        net: &mut Net,
    ) {
        let (family, kind) = if socket == DIRECT_V4 { (Family::V4, Kind::V4) } else { (Family::V6, Kind::V6) };
        let Some(options) = &self.options else { return net.release(socket) };
        match result {
            Ok(local) if net.open_direct(socket, &options.identity) => {
                self.gather.handle_bound(now, family, local);
                if let (Family::V4, Some(portmap)) = (family, &mut self.portmap) {
                    portmap.start(now, local.port());
                }
            }
            Err(io::ErrorKind::AddrInUse) if self.bind_next(kind, net) => {}
            Ok(_) | Err(_) => {
                net.release(socket);
                self.gather.handle_absent(now, family);
            }
        }
    }

    /// The listener is there, or can't be.
    pub fn handle_listening(&mut self, now: Instant, result: Result<SocketAddr, io::ErrorKind>, net: &mut Net) {
        match result {
            Ok(_) if self.options.is_none() => net.act(Action::Unlisten(DIRECT_TCP)),
            Ok(local) => self.gather.handle_listening(now, local),
            Err(_) => {
                let _ = self.bind_next(Kind::Tcp, net);
            }
        }
    }

    /// What the runtime knows of the default gateways.
    pub fn handle_gateways(&mut self, now: Instant, gateways: &[IpAddr]) {
        if let Some(portmap) = &mut self.portmap {
            portmap.handle_gateways(now, gateways);
        }
    }

    /// The gateway's own socket, datagrams and pipes.
    pub fn portmap(&mut self) -> Option<&mut PortMap> {
        self.portmap.as_deref_mut()
    }

    /// The same, to be looked at.
    pub fn gateway(&self) -> Option<&PortMap> {
        self.portmap.as_deref()
    }

    /// Whether no mapping is left to be taken back.
    pub fn is_released(&self) -> bool {
        self.portmap.as_deref().is_none_or(PortMap::is_released)
    }

    /// The name service's answer, if the question was ours.
    pub fn handle_resolved(&mut self, query: QueryId, addresses: &[SocketAddr]) -> bool {
        let is_ours = query.0 >= FIRST_QUERY;
        if is_ours {
            let of = |v4: bool| addresses.iter().find(|address| address.is_ipv4() == v4).copied();
            self.named.extend([of(true), of(false)].into_iter().flatten());
        }
        is_ours
    }

    /// A datagram on a direct socket that is not QUIC's.
    pub fn takes(&mut self, now: Instant, arrival: &Arrival, data: &[u8]) -> bool {
        let family = match arrival.socket {
            DIRECT_V4 => Family::V4,
            DIRECT_V6 => Family::V6,
            _ => return false,
        };
        self.gather.handle_datagram(now, family, arrival.from, data)
            || self.negotiation.handle_probe(now, arrival.from, data)
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mapping = self.portmap.as_deref().and_then(PortMap::poll_timeout);
        if self.options.is_none() {
            return mapping;
        }
        [self.gather.poll_timeout(), self.negotiation.poll_timeout(), self.choice, mapping, self.give_up]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets go of everything: there is nothing to look for. Links that are there carry the farewell.
    fn close(&mut self, now: Instant, net: &mut Net) {
        if self.options.take().is_none() {
            return;
        }
        self.close_openings(now, net);
        self.gather.rest();
        if let Some(portmap) = &mut self.portmap {
            portmap.release(now);
        }
        if self.links.is_empty() {
            net.release(DIRECT_V4);
            net.release(DIRECT_V6);
        }
        net.act(Action::Unlisten(DIRECT_TCP));
    }

    /// The other side hears that the floor is lost here.
    pub fn say_floor_lost(&mut self) {
        self.say.push_back(Control::DirectFailed { round: 0 });
    }

    fn close_openings(&mut self, now: Instant, net: &mut Net) {
        for Opening { conn, attempt } in std::mem::take(&mut self.opening) {
            net.close(now, conn, close::ENDED, "not needed");
            if let Some(attempt) = attempt {
                self.negotiation.handle_attempt_failed(attempt);
            }
        }
    }

    fn accepted(&self) -> usize {
        self.opening.iter().filter(|opening| opening.attempt.is_none()).count()
    }

    fn is_beside(&self, id: LinkId) -> bool {
        self.links.iter().any(|link| link.id == id)
    }

    /// The link to take, of those that have proven themselves.
    fn best(&self, net: &mut Net) -> Option<LinkId> {
        let of = |transport: PathTransport| {
            let proven = self.links.iter().filter(move |link| link.transport() == transport);
            proven.filter_map(|link| link.proven.map(|took| (took, *link))).min_by_key(|&(took, _)| took)
        };
        match (of(PathTransport::Tcp), of(PathTransport::Quic)) {
            (Some((took, tcp)), Some((_, quic))) => {
                let rtt = net.rtt(quic.conn).unwrap_or(took);
                let is_slow = took > rtt.saturating_mul(2).saturating_add(TCP_SLACK);
                Some(if is_slow || self.tcp_failed { quic.id } else { tcp.id })
            }
            (Some((_, link)), None) | (None, Some((_, link))) => Some(link.id),
            (None, None) => None,
        }
    }

    /// Whether a TCP connection of ours may still prove itself.
    fn awaits_tcp(&self) -> bool {
        let is_pipe = |conn: Conn| matches!(conn, Conn::Pipe(_));
        !self.tcp_failed
            && (self.opening.iter().any(|opening| is_pipe(opening.conn))
                || self.links.iter().any(|link| link.proven.is_none() && is_pipe(link.conn)))
    }
}

impl Peer {
    /// Whether data has to wait for a direct path: the floor is a relay's, and nothing is to go over one.
    fn must_be_direct(&self) -> bool {
        self.floor.kind() == PathKind::Relay && self.direct.only
    }

    /// Whether chunks may go over the link that carries the session.
    pub(super) fn may_carry(&self) -> bool {
        match &self.stage {
            Stage::Live { links, .. } => !self.must_be_direct() || self.direct.is_beside(links.carrier()),
            Stage::Meeting | Stage::Handshaking { .. } | Stage::Apart(_) | Stage::Leaving { .. } | Stage::Closed => {
                false
            }
        }
    }

    /// The session has its floor. `theirs`: what the other side said of itself.
    pub(super) fn start_direct(&mut self, now: Instant, theirs: Features) {
        self.direct.only |= theirs.has(Features::P2P_ONLY);
        let theirs = !theirs.has(Features::NO_P2P);
        self.direct.began = now;
        self.direct.told = false;
        if !theirs {
            self.direct.close(now, &mut self.net);
            if self.must_be_direct() {
                self.find_none(now);
            }
            return;
        }
        self.direct.negotiation.start(now, theirs);
    }

    /// There is no way for the data. The other side is told, or it would wait for it.
    fn find_none(&mut self, now: Instant) {
        self.transfer.cancel(
            now,
            CancelReason::Interrupted,
            "there is no direct path, and nothing is to go over a relay",
        );
        self.fail(now, Failure::Lost(Lost::NoDirectPath));
    }

    /// The session has no link any more.
    pub(super) fn stop_direct(&mut self, now: Instant) {
        let direct = &mut self.direct;
        direct.close_openings(now, &mut self.net);
        direct.negotiation.stop();
        direct.links.clear();
        direct.lost.clear();
        direct.say.clear();
        (direct.choice, direct.give_up) = (None, None);
    }

    /// Direct links can't go on: this machine's addresses changed.
    pub(super) fn lose_direct(&mut self, now: Instant) {
        self.direct.why = Fallback::Moved;
        for link in self.direct.links.clone() {
            self.lose(now, link.id);
        }
    }

    /// What the runtime knows of this machine's addresses.
    pub(super) fn handle_direct_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        if let Some(portmap) = &mut self.direct.portmap {
            portmap.handle_interfaces(now, interfaces);
        }
        if self.direct.options.is_some() {
            self.direct.gather.handle_interfaces(now, interfaces);
            let candidates = self.direct.gather.candidates();
            self.direct.negotiation.set_candidates(candidates);
            self.direct.negotiation.handle_interfaces(now, interfaces);
        }
    }

    /// What goes on whatever the stage is: addresses are gathered while the code is read aloud. True when others wait for it.
    pub(super) fn prepare_direct(&mut self, now: Instant) -> bool {
        let direct = &mut self.direct;
        while let Some(action) = direct.portmap.as_mut().and_then(|portmap| portmap.poll_action()) {
            self.net.act(action);
        }
        if direct.options.is_none() {
            return false;
        }
        while let Some(event) = direct.portmap.as_mut().and_then(|portmap| portmap.poll_event()) {
            match event {
                portmap::Event::Mapped(addr) => direct.gather.handle_mapped(now, addr),
                portmap::Event::Lost | portmap::Event::DoubleNat(_) => direct.gather.handle_unmapped(now),
            }
        }
        if self.told {
            direct.close(now, &mut self.net);
            return false;
        }
        let mut servers = self.meeting.as_ref().map(super::meeting::Meeting::servers).unwrap_or_default();
        servers.extend_from_slice(&direct.named);
        if servers != direct.servers {
            direct.servers.clone_from(&servers);
            direct.gather.handle_servers(now, servers);
        }
        while let Some((family, to, data)) = direct.gather.poll_transmit() {
            self.net.send_datagram(direct_socket(family), to, data, false);
        }
        let mut is_new = false;
        while direct.gather.poll_candidate().is_some() {
            is_new = true;
        }
        if is_new {
            direct.negotiation.set_candidates(direct.gather.candidates());
        }
        let is_dependent = direct.gather.nat(Family::V4) == Nat::Dependent;
        direct.negotiation.set_gathered(direct.gather.is_done(), is_dependent);
        let (is_racing, mut room) = (direct.negotiation.is_racing(), MAX_ACCEPTED.saturating_sub(direct.accepted()));
        let wanted = || {
            let wanted = is_racing && room > 0;
            room = room.saturating_sub(1);
            wanted
        };
        if let Some(conn) = self.net.poll_direct(now, wanted) {
            direct.opening.push(Opening { conn, attempt: None });
            return true;
        }
        false
    }

    /// Somebody of our own network connected.
    pub(super) fn accept_direct(&mut self, now: Instant) -> Option<PipeId> {
        if !self.direct.negotiation.is_racing() || self.direct.links.len() >= MAX_ACCEPTED {
            return None;
        }
        let Stage::Live { .. } = &self.stage else { return None };
        let pipe = self.net.accept_direct(now);
        self.become_link(now, Conn::Pipe(pipe), Stream::first(), Origin::Accepted(Pace::Direct));
        Some(pipe)
    }

    /// News of a connection that is no link, or no longer.
    pub(super) fn handle_opening(&mut self, now: Instant, conn: Conn, event: &net::Event) {
        let Some(index) = self.direct.opening.iter().position(|opening| opening.conn == conn) else { return };
        let Some(Opening { attempt, .. }) = self.direct.opening.get(index).copied() else { return };
        let link = match (event, attempt) {
            (net::Event::Connected { .. }, Some(_)) => {
                self.net.open_first(conn).map(|stream| (stream, Origin::Dialled(Pace::Direct)))
            }
            (net::Event::Opened(stream, Direction::Bi), None) => Some((*stream, Origin::Accepted(Pace::Direct))),
            (net::Event::Closed(_), _) => {
                self.direct.opening.remove(index);
                self.net.close(now, conn, close::ENDED, "closed");
                if let Some(attempt) = attempt {
                    self.direct.negotiation.handle_attempt_failed(attempt);
                }
                return;
            }
            (
                net::Event::Connected { .. }
                | net::Event::Restarted { .. }
                | net::Event::Opened(..)
                | net::Event::Readable(_)
                | net::Event::Writable(_)
                | net::Event::Finished(_),
                _,
            ) => return,
        };
        if let Some((stream, origin)) = link {
            self.direct.opening.remove(index);
            self.become_link(now, conn, stream, origin);
        }
    }

    fn become_link(&mut self, now: Instant, conn: Conn, main: Stream, origin: Origin) {
        let id = self.next_link();
        let Stage::Live { links, session } = &mut self.stage else {
            return self.net.close(now, conn, close::ENDED, "not needed");
        };
        let streams = match conn {
            Conn::Quic(..) => STREAMS,
            Conn::Pipe(_) => 0,
        };
        let beside = Beside { id, conn, since: now, proven: None };
        let mut link = PeerLink::new(conn, beside.transport(), Decoder::new(Caps::Records), streams, main);
        let _ = link.set_keyed(id);
        links.add(link);
        self.direct.links.push(beside);
        session.handle_link_up(now, id, streams, origin);
    }

    /// What the other side says of the direct path.
    pub(super) fn handle_direct_control(&mut self, now: Instant, message: &Control) {
        if matches!(message, Control::DirectFailed { round: 0 }) {
            return self.handle_floor_lost(now);
        }
        if matches!(message, Control::DirectFailed { .. }) {
            self.direct.why = Fallback::Peer;
        }
        match (self.direct.negotiation.handle_control(now, message), message) {
            (Err(violation), _) => self.violated(now, violation),
            (Ok(()), Control::CandidateOffer { round, .. }) if *round == self.direct.negotiation.round() => {
                self.floor.set_current();
            }
            (Ok(()), _) => {}
        }
    }

    /// Carries out what was decided. True when something moved that others wait for.
    pub(super) fn pump_direct(&mut self, now: Instant) -> bool {
        let mut moved = false;
        loop {
            while let (Stage::Live { session, .. }, true) = (&mut self.stage, !self.direct.say.is_empty())
                && session.can_send_control()
                && let Some(control) = self.direct.say.pop_front()
            {
                let _ = session.send_control(control);
                moved = true;
            }
            if !self.direct.say.is_empty() {
                return moved;
            }
            let Some(output) = self.direct.negotiation.poll_output() else { return moved };
            moved = true;
            match output {
                Output::Say(control) => self.direct.say.push_back(control),
                Output::Dial { attempt, carrier, to, certificate } => {
                    self.dial_direct(now, attempt, carrier, to, certificate);
                }
                Output::Probe { to, datagram } => {
                    self.net.send_datagram(direct_socket(Family::of(to.ip())), to, datagram.to_vec(), true);
                }
                Output::Chosen => self.handle_chosen(now),
                Output::Over => self.handle_round_over(now),
                Output::Settled => {
                    if self.side == Side::Sender {
                        self.count_lost(now);
                    }
                }
                Output::NoPath => {
                    if self.must_be_direct() && !self.direct.found_once {
                        self.find_none(now);
                    }
                }
            }
        }
    }

    fn dial_direct(
        &mut self,
        now: Instant,
        attempt: AttemptId,
        carrier: Carrier,
        to: SocketAddr,
        certificate: [u8; 32],
    ) {
        let is_full = self.direct.opening.len() >= MAX_OPENING;
        match self.net.dial_direct(now, carrier, to, certificate) {
            Dial::Started(conn) if !is_full => self.direct.opening.push(Opening { conn, attempt: Some(attempt) }),
            Dial::Started(conn) => self.net.close(now, conn, close::ENDED, "too many"),
            Dial::NotYet | Dial::Impossible => self.direct.negotiation.handle_attempt_failed(attempt),
        }
    }

    /// Deadlines may have come. A spurious call is a no-op.
    pub(super) fn handle_direct_timeout(&mut self, now: Instant) {
        if let Some(portmap) = &mut self.direct.portmap {
            portmap.handle_timeout(now);
        }
        if self.direct.options.is_some() {
            self.direct.gather.handle_timeout(now);
            self.direct.negotiation.handle_timeout(now);
            self.choose_if_due(now);
            if self.direct.give_up.take_if(|at| *at <= now).is_some() {
                self.find_none(now);
            }
        }
    }
}
