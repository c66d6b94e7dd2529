//! A peer's direct path: what `p2p` decides, carried out on sockets, connections and the session's links.
//!
//! The session begins on the handshake's link, its first floor, and that one stays (`floor`). A connection of a round becomes a link at once
//! and proves itself in the session; the sender chooses one of those that did (`p2p::choice`), and from then on it carries the session.
//! Then the others are closed. What carried it before drains: a direct link is closed once nothing is under way on it.
//!
//! | file | part |
//! |---|---|
//! | `sockets` | the sockets and the listener with ports of ours |
//! | `openings` | connections that are no links yet |
//! | `swap` | which link carries the session, and what was under way on one that is lost |
//!
//! A link that is lost beside others: chunks that were sealed for it are under way for both sides until both know, so the sender counts
//! them as lost only when the other side has said `DirectFailed` as well (round 0 is the floor). The receiver has said by then what
//! it stored.
//!
//! A side whose person is to compare the verifier words first says no address before that.
//!
//! Timers: those of `p2p`. Bounds: those of `openings`, and the session's links.

mod openings;
mod sockets;
mod swap;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::config::DirectPath;
use super::event::{Failure, Fallback, Lost, PathKind, PathTransport};
use super::net::{Conn, DIRECT_TCP, DIRECT_V4, DIRECT_V6, Net, direct_socket};
use super::{Agreement, Peer, Stage};
use crate::Instant;
use crate::net::{Action, Arrival, Interface, QueryId};
use crate::p2p::candidate::{Carrier, Family};
use crate::p2p::choice::{Choice, Proven};
use crate::p2p::gather::{self, Gather};
use crate::p2p::nat::Nat;
use crate::p2p::negotiate::{self, Negotiation, Output};
use crate::p2p::portmap::{self, PortMap};
use crate::seed::Seed;
use crate::session::LinkId;
use crate::wire::Features;
use crate::wire::peer::{CancelReason, Control};
use crate::wire::relay::Side;

use openings::Opening;
use sockets::{Kind, Options};

/// The names of our questions to the name service, after all of a meeting's.
const FIRST_QUERY: u32 = 1 << 16;

/// A link beside the floor.
#[derive(Debug, Clone, Copy)]
struct Beside {
    id: LinkId,
    /// The round in which it came.
    round: u32,
    conn: Conn,
    /// It came in, from there.
    from: Option<IpAddr>,
    since: Instant,
    /// When it had proven itself.
    proven: Option<Instant>,
    /// The round trip as it was then, before anything waited in a queue on the way.
    rtt: Option<Duration>,
    /// Bytes of chunks that were sealed for it.
    sealed: u64,
}

impl Beside {
    const fn transport(&self) -> PathTransport {
        match self.conn {
            Conn::Quic(..) => PathTransport::Quic,
            Conn::Pipe(_) => PathTransport::Tcp,
        }
    }

    const fn carrier(&self) -> Carrier {
        match self.conn {
            Conn::Quic(..) => Carrier::Udp,
            Conn::Pipe(_) => Carrier::Tcp,
        }
    }

    /// As it is to be judged.
    fn as_proven(&self, net: &mut Net) -> Option<Proven> {
        let at = self.proven?;
        let took = at.saturating_duration_since(self.since);
        let rtt = [self.rtt, net.rtt(self.conn)].into_iter().flatten().min();
        Some(Proven { link: self.id, carrier: self.carrier(), at, took, rtt })
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
    choice: Choice,
    /// The last round in which this side dialled by TCP.
    dialled_tcp: Option<u32>,
    /// When the links are judged again.
    judge_at: Option<Instant>,
    /// Links that are gone here, with the other side not known to know, and their rounds.
    lost: Vec<(u32, LinkId)>,
    /// What waits to be said.
    say: VecDeque<Control>,
    /// A direct link carries the session, as far as the application knows.
    told: bool,
    began: Instant,
    why: Fallback,
    found_once: bool,
    /// Either side wants no data on a relay.
    only: bool,
    /// Data waits for a direct path, until then at most.
    give_up: Option<Instant>,
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
            choice: Choice::new(),
            dialled_tcp: None,
            judge_at: None,
            lost: Vec::new(),
            say: VecDeque::new(),
            told: false,
            began: now,
            why: Fallback::Lost,
            found_once: false,
            only: options.is_some_and(|options| options.only),
            give_up: None,
            options: options.map(Options::new),
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
        [
            self.gather.poll_timeout(),
            self.negotiation.poll_timeout(),
            self.choice.poll_timeout(),
            self.judge_at,
            mapping,
            self.give_up,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Lets go of everything: there is nothing to look for. Links that are there carry the farewell.
    fn close(&mut self, now: Instant, net: &mut Net) {
        if self.options.take().is_none() {
            return;
        }
        self.close_openings(now, |_| true, net);
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

    /// A chunk was sealed for a link.
    pub fn count_sealed(&mut self, id: LinkId, len: usize) {
        if let Some(link) = self.links.iter_mut().find(|link| link.id == id) {
            link.sealed = link.sealed.saturating_add(len as u64);
        }
    }

    fn is_beside(&self, id: LinkId) -> bool {
        self.links.iter().any(|link| link.id == id)
    }

    /// The round whose links may come in, as long as any is looked for.
    fn racing(&self) -> Option<u32> {
        self.options.as_ref().and(self.negotiation.racing())
    }

    fn of_round(&self, round: u32) -> impl Iterator<Item = &Beside> {
        self.links.iter().filter(move |link| link.round == round)
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
        self.direct.told = false;
        if theirs.has(Features::NO_P2P) {
            self.direct.close(now, &mut self.net);
            if self.must_be_direct() {
                self.find_none(now);
            }
            return;
        }
        self.look_for_direct(now);
    }

    /// Addresses are said, if this side's person agreed to go on with the other one.
    pub(super) fn look_for_direct(&mut self, now: Instant) {
        if self.agreement != Agreement::Pending && self.direct.options.is_some() {
            self.direct.began = now;
            self.direct.negotiation.start(now, true);
        }
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
        direct.close_openings(now, |_| true, &mut self.net);
        direct.negotiation.stop();
        direct.links.clear();
        direct.lost.clear();
        direct.say.clear();
        direct.choice.handle_lost(false);
        (direct.judge_at, direct.give_up) = (None, None);
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
                _ => {}
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
        self.take_openings(now)
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
                self.floor.handle_offer();
            }
            (Ok(()), _) => {}
        }
    }

    /// Carries out what was decided. True when something moved that others wait for.
    pub(super) fn pump_direct(&mut self, now: Instant) -> bool {
        let mut moved = false;
        self.retire_drained(now);
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
                Output::Dial { carrier, to, certificate } => self.dial_direct(now, carrier, to, certificate),
                Output::Probe { to, datagram } => {
                    self.net.send_datagram(direct_socket(Family::of(to.ip())), to, datagram.to_vec(), true);
                }
                Output::Chosen { round } => self.handle_chosen(now, round),
                Output::Over { round } => self.handle_round_over(now, round),
                Output::Settled { round } => {
                    if self.side == Side::Sender {
                        self.count_lost(now, round);
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

    /// Deadlines may have come. A spurious call is a no-op.
    pub(super) fn handle_direct_timeout(&mut self, now: Instant) {
        if let Some(portmap) = &mut self.direct.portmap {
            portmap.handle_timeout(now);
        }
        if self.direct.options.is_some() {
            self.direct.gather.handle_timeout(now);
            self.direct.negotiation.handle_timeout(now);
            if self.direct.judge_at.is_some_and(|at| at <= now) {
                self.judge_links(now);
            }
            self.measure_link(now);
            if self.direct.give_up.take_if(|at| *at <= now).is_some() {
                self.find_none(now);
            }
        }
    }
}
