//! The direct path: gathers addresses (`p2p::gather`), offers and tries them in rounds (`p2p::negotiate`), and
//! applies the decisions to sockets and connections.
//!
//! When a link is lost while others remain, its chunks stay in flight until both sides have sent `DirectFailed` of
//! its round (round 0 is the relay path). By then the receiver has reported what it stored.
//!
//! If the user on this side has to compare the verifier words first, this side sends no address before that.
//!
//! Timers: those of `p2p`. Bounds: those of `openings`, and the session's links.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::super::config::DirectPath;
use super::super::event::Fallback;
use super::super::network::{DIRECT_TCP, DIRECT_V4, DIRECT_V6, DirectTarget, Network, Query, direct_socket};
use super::opening::Opening;
use super::ports::{Kind, Options};
use super::{Output, Paths, State};
use crate::Instant;
use crate::net::{Action, Arrival, Interface};
use crate::p2p::candidate::Family;
use crate::p2p::choice::PathSelector;
use crate::p2p::gather::{self, Gather};
use crate::p2p::nat::Nat;
use crate::p2p::negotiate::{self, Negotiation};
use crate::p2p::portmap::{self, PortMap};
use crate::seed::Seed;
use crate::session::LinkId;
use crate::wire::Features;
use crate::wire::peer::Control;
use crate::wire::relay::Role;

/// The state of the search for a direct path.
pub(super) struct Direct {
    pub options: Option<Options>,
    pub negotiation: Negotiation,
    pub gather: Gather,
    /// `None`: no port mapping is requested from the gateway.
    pub portmap: Option<Box<PortMap>>,
    /// The STUN servers, as last reported by the rendezvous.
    servers: Vec<SocketAddr>,
    named: Vec<SocketAddr>,
    pub opening: Vec<Opening>,
    pub choice: PathSelector,
    /// The last round in which this side dialled by TCP.
    pub dialled_tcp: Option<u32>,
    /// When the links are judged next.
    pub judge_at: Option<Instant>,
    /// Links that were lost here while the other side may not know it yet, and their rounds.
    pub lost: Vec<(u32, LinkId)>,
    /// Control messages that wait to be sent.
    control: VecDeque<Control>,
    /// The application was notified that a direct link is active.
    pub upgraded: bool,
    pub began: Instant,
    pub why: Fallback,
    pub found_once: bool,
    /// Either side forbids data on a relay.
    pub only: bool,
    /// Data waits for a direct path, at most until this time.
    pub give_up: Option<Instant>,
}

impl Direct {
    /// Requests the sockets. Without options it does nothing, now and later.
    pub fn new(now: Instant, role: Role, options: Option<&DirectPath>, seed: &Seed, net: &mut Network) -> Self {
        let certificate = options.map_or([0; 32], |options| options.identity.fingerprint().0);
        let (allowed, slot) = (options.is_some(), net.slot());
        let config = negotiate::Config { role, allowed, certificate, seed: seed.derive("negotiation"), slot };
        let mut direct = Self {
            negotiation: Negotiation::new(config),
            gather: Gather::new(gather::Config { seed: seed.derive("gathering"), slot }),
            portmap: options
                .filter(|options| options.map_ports)
                .map(|_| Box::new(PortMap::new(&seed.derive("port mapping")))),
            servers: Vec::new(),
            named: Vec::new(),
            opening: Vec::new(),
            choice: PathSelector::new(),
            dialled_tcp: None,
            judge_at: None,
            lost: Vec::new(),
            control: VecDeque::new(),
            upgraded: false,
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
        for server in &options.stun {
            match server.host.parse() {
                Ok(ip) => direct.named.push(SocketAddr::new(ip, server.port)),
                Err(_) => net.resolve(Query::StunServer, &server.host, server.port),
            }
        }
        direct
    }

    /// The runtime reports the default gateways that it knows.
    pub fn handle_gateways(&mut self, now: Instant, gateways: &[IpAddr]) {
        if let Some(portmap) = &mut self.portmap {
            portmap.handle_gateways(now, gateways);
        }
    }

    /// The port mapping, which has a socket, datagrams and TCP connections of its own.
    pub fn portmap(&mut self) -> Option<&mut PortMap> {
        self.portmap.as_deref_mut()
    }

    /// The port mapping, for reading.
    pub fn gateway(&self) -> Option<&PortMap> {
        self.portmap.as_deref()
    }

    /// Whether all port mappings were removed at the gateway.
    pub fn is_released(&self) -> bool {
        self.portmap.as_deref().is_none_or(PortMap::is_released)
    }

    /// The addresses of a STUN server that the user configured: one of each address family is used.
    pub fn handle_stun_server(&mut self, addresses: &[SocketAddr]) {
        let of = |v4: bool| addresses.iter().find(|address| address.is_ipv4() == v4).copied();
        self.named.extend([of(true), of(false)].into_iter().flatten());
    }

    /// Whether a datagram of another protocol than QUIC on a direct socket belongs here; processes it if so.
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

    /// Closes everything, because the search has no purpose any more. Existing links stay open for the farewell.
    fn close(&mut self, now: Instant, net: &mut Network, has_links: bool) {
        if self.options.take().is_none() {
            return;
        }
        self.close_openings(now, |_| true, net);
        self.gather.rest();
        if let Some(portmap) = &mut self.portmap {
            portmap.release(now);
        }
        if !has_links {
            net.release(DIRECT_V4);
            net.release(DIRECT_V6);
        }
        net.act(Action::Unlisten(DIRECT_TCP));
    }

    /// Queues the message to the other side that the relay path is lost here.
    pub fn send_relay_path_lost(&mut self) {
        self.control.push_back(Control::DirectFailed { round: 0 });
    }

    /// The next control message.
    pub fn poll_control(&mut self) -> Option<Control> {
        self.control.pop_front()
    }

    /// The round whose links may be accepted, if a search runs.
    pub fn racing(&self) -> Option<u32> {
        self.options.as_ref().and(self.negotiation.racing())
    }
}

impl Paths {
    /// The session has its first link. `theirs`: the features of the other side.
    pub(super) fn start_direct(&mut self, now: Instant, net: &mut Network, theirs: Features, may_negotiate: bool) {
        self.direct.only |= theirs.has(Features::P2P_ONLY);
        self.direct.upgraded = false;
        if theirs.has(Features::NO_P2P) {
            self.direct.close(now, net, false);
            if self.must_be_direct() {
                self.out.push_back(Output::NoDirectPath);
            }
        } else if may_negotiate {
            self.negotiate(now);
        }
    }

    /// Addresses may be sent now: the user on this side confirmed the verifier words, or need not.
    pub fn negotiate(&mut self, now: Instant) {
        if self.direct.options.is_some() && matches!(self.state, State::Up(_)) {
            self.direct.began = now;
            self.direct.negotiation.start(now, true);
        }
    }

    /// The session has no link any more.
    pub(super) fn stop_direct(&mut self, now: Instant, net: &mut Network) {
        let direct = &mut self.direct;
        direct.close_openings(now, |_| true, net);
        direct.negotiation.stop();
        direct.lost.clear();
        direct.control.clear();
        direct.choice.handle_lost(false);
        (direct.judge_at, direct.give_up) = (None, None);
    }

    /// Direct links can't continue, because this machine's addresses changed.
    pub(super) fn lose_direct(&mut self, now: Instant, net: &mut Network) {
        self.direct.why = Fallback::Moved;
        for id in self.direct_links() {
            self.lose(now, net, id);
        }
    }

    pub(super) fn direct_links(&self) -> Vec<LinkId> {
        match &self.state {
            State::Up(links) | State::Closing(links, _) => links.all_direct(),
            State::Down => Vec::new(),
        }
    }

    /// The runtime reports the addresses of this machine.
    pub fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        let direct = &mut self.direct;
        if let Some(portmap) = &mut direct.portmap {
            portmap.handle_interfaces(now, interfaces);
        }
        if direct.options.is_some() {
            direct.gather.handle_interfaces(now, interfaces);
            direct.negotiation.set_candidates(direct.gather.candidates());
            direct.negotiation.handle_interfaces(now, interfaces);
        }
    }

    /// Work that does not depend on links: addresses are gathered while the users exchange the code. `over`: the
    /// transfer has ended and nothing is searched for. Returns true if another part waits for the result.
    pub fn prepare(&mut self, now: Instant, net: &mut Network, mut servers: Vec<SocketAddr>, over: bool) -> bool {
        let direct = &mut self.direct;
        while let Some(action) = direct.portmap.as_mut().and_then(|portmap| portmap.poll_action()) {
            net.act(action);
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
        if over {
            let has_links = !self.direct_links().is_empty();
            self.direct.close(now, net, has_links);
            return false;
        }
        servers.extend_from_slice(&direct.named);
        if servers != direct.servers {
            direct.servers.clone_from(&servers);
            direct.gather.handle_servers(now, servers);
        }
        while let Some((family, to, data)) = direct.gather.poll_transmit() {
            net.send_datagram(direct_socket(family), to, data, false);
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
        self.take_openings(now, net)
    }

    /// A control message about paths.
    pub fn handle_control(&mut self, now: Instant, net: &mut Network, message: &Control) {
        if matches!(message, Control::DirectFailed { round: 0 }) {
            return self.handle_relay_path_lost(now, net);
        }
        if matches!(message, Control::DirectFailed { .. }) {
            self.direct.why = Fallback::Peer;
        }
        match (self.direct.negotiation.handle_control(now, message), message) {
            (Err(violation), _) => self.out.push_back(Output::Violation(violation)),
            (Ok(()), Control::CandidateOffer { round, .. }) if *round == self.direct.negotiation.round() => {
                self.relay.handle_offer();
            }
            (Ok(()), _) => {}
        }
    }

    /// Carries out the next decision of the negotiation, unless a control message waits to be sent. Returns false if
    /// there was none.
    pub fn advance(&mut self, now: Instant, net: &mut Network) -> bool {
        if !self.direct.control.is_empty() {
            return false;
        }
        let Some(output) = self.direct.negotiation.poll_output() else { return false };
        match output {
            negotiate::Output::Send(control) => self.direct.control.push_back(control),
            negotiate::Output::Dial { transport, to, certificate, mark } => {
                self.dial_direct(now, net, &DirectTarget { transport, to, certificate, mark });
            }
            negotiate::Output::Probe { to, datagram } => {
                net.send_datagram(direct_socket(Family::of(to.ip())), to, datagram.to_vec(), true);
            }
            negotiate::Output::Chosen { round } => self.handle_chosen(now, net, round),
            negotiate::Output::Over { round } => self.handle_round_over(now, net, round),
            negotiate::Output::Settled { round } => {
                if self.role == Role::Sender {
                    self.resend_lost(round);
                }
            }
            negotiate::Output::NoPath => {
                if self.must_be_direct() && !self.direct.found_once {
                    self.out.push_back(Output::NoDirectPath);
                }
            }
        }
        true
    }

    /// Whether control messages wait until the session accepts them.
    pub fn has_control(&self) -> bool {
        !self.direct.control.is_empty()
    }

    pub(super) fn handle_direct_timeout(&mut self, now: Instant, net: &mut Network, in_flight: impl Fn(LinkId) -> u64) {
        if let Some(portmap) = &mut self.direct.portmap {
            portmap.handle_timeout(now);
        }
        if self.direct.options.is_some() {
            self.direct.gather.handle_timeout(now);
            self.direct.negotiation.handle_timeout(now);
            if self.direct.judge_at.is_some_and(|at| at <= now) {
                self.judge_links(now, net);
            }
            self.measure_link(now, in_flight);
            if self.direct.give_up.take_if(|at| *at <= now).is_some() {
                self.out.push_back(Output::NoDirectPath);
            }
        }
    }
}
