//! One end of a transfer: the composition of sockets, meeting, handshake, session and transfer behind one [`Node`].
//!
//! ```text
//!            link                 keyed              transfer over
//! Meeting ─────────► Handshaking ───────► Live ───────────────────► Leaving ──► Closed
//!    ▲                    │ wrong guess,  │ ▲ │ violation, cancel
//!    └────────────────────┘ link lost     │ │ └─► Leaving
//!                               link lost │ │ keyed
//!                                         ▼ │
//!                                       Apart ──link──► Handshaking (again)
//! ```
//! It decides what follows from what its children say, and nothing of their business: it tells how often a code may be guessed
//! (the handshake's `Guesses`), when a person must agree, and what the one terminal event is.
//! Timers: its children's; [`RESPONSE_WITHIN`] for a sender's first message; [`LEAVE_WITHIN`] for the farewell;
//! [`PROGRESS_EVERY`] for progress. Bounds: [`MAX_EVENTS`] events wait.

pub mod answer;
pub mod build;
mod carried;
pub mod command;
pub mod config;
mod conversation;
mod dialling;
mod direct;
pub mod event;
pub mod failure;
mod floor;
pub mod handle;
mod host;
mod links;
mod live;
mod meeting;
mod net;
mod pace;
mod peer_link;
mod rendezvous;
mod reunion;
mod spot;
mod start;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::BytesMut;

use crate::Instant;
use crate::code::{Code, Link, Nameplate};
use crate::discovery::mdns::Mdns;
use crate::handshake::{Guesses, Handshake};
use crate::misuse::Misuse;
use crate::net::{Action, Arrival, Ecn, ListenerId, PipeEvent, PipeId, SocketId, Transmit};
use crate::node::{Input, Node};
use crate::p2p::{portmap, stun};
use crate::seed::Seed;
use crate::session::{self, Session};
use crate::transfer::job::Job;
use crate::transfer::manifest::Totals;
use crate::wire::Features;
use crate::wire::relay::Side;

pub use crate::wire::peer::{CancelReason, DeclineReason};
pub use crate::wire::relay::RefusalReason;
pub use answer::{Comparison, Offer, StreamOffer};
pub use build::ConfigError;
pub use command::Command;
pub use config::{
    CodeChoice, Common, DirectPath, Embedded, Invitation, Machine, Payload, ReceiveConfig, RelayAddress, RelayChoice,
    SendConfig,
};
pub use event::{Event, Fallback, Path, PathKind, PathTransport, Progress, Summary, WaitingFor};
pub use failure::{Class, Failure, Lost, RelayFailure};
pub use handle::{Receiver, Sender};

use carried::Transfer;
use direct::Direct;
use floor::Floor;
use host::Host;
use links::Links;
use meeting::{Found, Meeting, Met};
use net::{Conn, Net};
use pace::Pace;
use peer_link::PeerLink;
use reunion::{Apart, Doubt, Reunion};

/// The farewell may take so long.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// A sender that has not answered by then is reported as silent.
const RESPONSE_WITHIN: Duration = Duration::from_secs(2);
/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Events that may wait for the application, beside one of each kind; the transfer itself waits for none of them.
const MAX_EVENTS: usize = 64;
/// How long a network may be away, or a sender not be there, while nobody accepted anything.
const PATIENCE: Duration = Duration::from_secs(600);
/// Application close codes of a connection between peers.
mod close {
    pub const DONE: u32 = 0;
    pub const ENDED: u32 = 1;
}

/// Where a peer is.
enum Stage {
    /// Looking for the other side.
    Meeting,
    /// On a link, before the keys: the first ones, or new ones for the session that lost its link.
    Handshaking { link: PeerLink, handshake: Box<Handshake>, apart: Option<Box<Apart>> },
    /// On one link or several, with keys.
    Live { links: Links, session: Box<Session> },
    /// A session without a link; the other side is looked for.
    Apart(Box<Apart>),
    /// The outcome was told; what is queued goes out, then the link is closed.
    Leaving { links: Links, session: Box<Session>, deadline: Instant, code: u32 },
    /// Nothing is left to say.
    Closed,
}

/// Whether this side's person must compare the verifier words first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    NotNeeded,
    Pending,
    Given,
}

/// See the module's text.
pub struct Peer {
    side: Side,
    features: Features,
    verify: bool,
    seed: Seed,
    net: Net,
    host: Option<Host>,
    meeting: Option<Meeting>,
    code: CodeState,
    guesses: Guesses,
    reunion: Reunion,
    give_up_after: Option<Duration>,
    links: u32,
    doubt: Option<Doubt>,
    /// When anything happened last.
    awake: Instant,
    found: Option<Found>,
    /// The person, or the program that dropped its handle, wants to go although all is done.
    hurried: bool,
    /// When a sender's silence in the first handshake is reported.
    response_by: Option<Instant>,
    mdns: Option<Mdns>,
    interfaces: Vec<IpAddr>,
    transfer: Transfer,
    /// A chunk that waits for a place on a stream.
    held: Option<(u64, session::Prepared)>,
    agreement: Agreement,
    stage: Stage,
    /// Links whose last words are on their way, before they are closed.
    parting: Vec<(PeerLink, Instant)>,
    events: VecDeque<Event>,
    told: bool,
    progress: crate::transfer::Progress,
    pace: Pace,
    next_progress: Option<Instant>,
    accepted_at: Option<Instant>,
    totals: Option<Totals>,
    /// An offer that came before this side's person agreed to the verifier words.
    unseen_offer: Option<Event>,
    floor: Floor,
    direct: Direct,
}

/// A sender's way to its code.
enum CodeState {
    /// The relay has not given a nameplate.
    Unallocated { words: u8 },
    /// There is one; the person is told once the source was looked through and the seat is taken.
    Ready { code: Code, seated: bool, told: bool },
}

impl Node for Peer {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
        self.notice_pause(now);
        match &mut self.mdns {
            Some(mdns) if arrival.socket == net::MDNS => mdns.handle_datagram(now, arrival.from, &data),
            Some(_) | None if arrival.socket == portmap::SOCKET => {
                if let Some(portmap) = self.direct.portmap() {
                    portmap.handle_datagram(now, arrival.from, &data);
                }
            }
            Some(_) | None if self.direct.takes(now, &arrival, &data) => {}
            Some(_) | None if arrival.socket == net::LISTENER && stun::is_stun(&data) => {
                if let Some(host) = &mut self.host {
                    host.handle_stun(now, arrival, &data);
                }
            }
            Some(_) | None => self.net.handle_datagram(now, &arrival, data),
        }
    }

    fn handle_pipe(&mut self, now: Instant, pipe: PipeId, event: PipeEvent) {
        self.notice_pause(now);
        match self.direct.portmap().filter(|_| pipe >= portmap::FIRST_PIPE) {
            Some(portmap) => portmap.handle_pipe(now, pipe, event),
            None => self.net.handle_pipe(now, pipe, event),
        }
    }

    fn handle_accept(&mut self, now: Instant, _listener: ListenerId, from: SocketAddr) -> Option<PipeId> {
        self.accept_direct(now, from)
    }

    fn poll_pipe(&mut self) -> Option<PipeId> {
        self.net.poll_pipe()
    }

    fn pipe_buffer(&mut self, pipe: PipeId) -> &mut [u8] {
        match self.direct.portmap().filter(|_| pipe >= portmap::FIRST_PIPE) {
            Some(portmap) => portmap.pipe_buffer(pipe),
            None => self.net.pipe_buffer(pipe),
        }
    }

    fn pipe_output<'a>(&'a self, pipe: PipeId, slices: &mut [IoSlice<'a>]) -> usize {
        match self.direct.gateway().filter(|_| pipe >= portmap::FIRST_PIPE) {
            Some(portmap) => portmap.pipe_output(pipe, slices),
            None => self.net.pipe_output(pipe, slices),
        }
    }

    fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Bound(net::LISTENER, result) => {
                if let Some(host) = &mut self.host
                    && let Err(failure) = host.handle_bound(result, &mut self.net)
                {
                    self.fail(now, failure);
                }
                self.announce(now);
            }
            // Without it others on the LAN are not found, and nothing else changes.
            Input::Bound(net::MDNS, result) => {
                if result.is_err() {
                    self.mdns = None;
                }
            }
            Input::Bound(socket @ (net::DIRECT_V4 | net::DIRECT_V6), result) => {
                self.direct.handle_bound(now, socket, result, &mut self.net);
            }
            Input::Bound(portmap::SOCKET, result) => {
                if let Some(portmap) = self.direct.portmap() {
                    portmap.handle_bound(now, result);
                }
            }
            Input::Bound(socket, result) => self.net.handle_client_bound(socket, result.is_ok()),
            Input::Resolved(query, addresses) if self.direct.handle_resolved(query, &addresses) => {}
            Input::Resolved(query, addresses) => {
                if let Some(meeting) = &mut self.meeting {
                    meeting.handle_resolved(now, query, addresses);
                }
            }
            Input::Done(done) => self.transfer.handle_job(now, done),
            Input::Interfaces(interfaces) => self.handle_interfaces(now, &interfaces),
            Input::Slept(_) => {
                if let Some(portmap) = self.direct.portmap() {
                    portmap.handle_slept(now);
                }
                self.handle_moved(now, true);
            }
            Input::Listening(_, result) => self.direct.handle_listening(now, result, &mut self.net),
            Input::Gateways(gateways) => self.direct.handle_gateways(now, &gateways),
            Input::HandleDropped => self.cancel(now),
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), Misuse> {
        match (command, &mut self.transfer) {
            (Command::Cancel, _) => {
                self.cancel(now);
                Ok(())
            }
            (Command::Agree(agreed), _) => self.agree(now, agreed),
            (Command::Accept(sink), Transfer::Receiving(receiver)) => receiver.accept(now, sink),
            (Command::AcceptStream(sink), transfer) => transfer.accept_stream(now, sink),
            (Command::Decline(reason, text), transfer) => {
                transfer.decline(now, reason, &text)?;
                self.fail(now, Failure::NotAccepted);
                Ok(())
            }
            (Command::Accept(_), Transfer::StreamIn(_)) => Err(Misuse::NotFiles),
            (Command::Accept(_), Transfer::Sending(_) | Transfer::StreamOut(_)) => Err(Misuse::NotAReceiver),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.notice_delay(now);
        self.notice_pause(now);
        self.net.handle_timeout(now);
        if let Some(meeting) = &mut self.meeting {
            meeting.handle_timeout(now, &mut self.net);
        }
        if let Some(host) = &mut self.host {
            host.handle_timeout(now, &mut self.net);
        }
        if let Some(mdns) = &mut self.mdns {
            mdns.handle_timeout(now);
        }
        match &mut self.stage {
            // Silence for so long is a lost link: what follows is the same.
            Stage::Handshaking { handshake, .. } if handshake.poll_timeout().is_some_and(|at| at <= now) => {
                self.lose_all(now);
            }
            Stage::Live { session, .. } => session.handle_timeout(now),
            Stage::Leaving { links, deadline, code, .. } if *deadline <= now => {
                let code = *code;
                links.iter().for_each(|link| link.close(now, &mut self.net, code, "left"));
                self.stage = Stage::Closed;
            }
            Stage::Handshaking { .. } | Stage::Leaving { .. } | Stage::Meeting | Stage::Apart(_) | Stage::Closed => {}
        }
        if self.response_by.take_if(|at| *at <= now).is_some() && matches!(self.stage, Stage::Handshaking { .. }) {
            self.tell(Event::Waiting(WaitingFor::Response));
        }
        self.handle_reunion_timeout(now);
        self.handle_direct_timeout(now);
        self.handle_floor_timeout(now);
        // After a pause the link is judged before what should have come over it.
        self.take_session_events(now);
        self.transfer.handle_timeout(now);
        let net = &mut self.net;
        self.parting.retain(|(link, deadline)| {
            let over = *deadline <= now;
            if over {
                link.close(now, net, close::ENDED, "handshake failed");
            }
            !over
        });
        if self.next_progress.is_some_and(|at| at <= now) {
            self.next_progress = None;
        }
    }

    fn settle(&mut self, now: Instant) {
        loop {
            self.net.settle(now);
            let mut moved = false;
            while let Some((conn, event)) = self.net.poll_event() {
                self.handle_net(now, conn, &event);
                moved = true;
            }
            moved |= self.meet(now);
            moved |= self.converse(now);
            moved |= self.prepare_direct(now);
            moved |= self.take_transfer_events(now);
            if !moved {
                break;
            }
        }
        self.part(now);
        self.tell_code();
        self.tell_progress(now);
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.net.poll_action()
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        match &mut self.mdns {
            Some(mdns) if socket == net::MDNS => {
                let datagram = mdns.poll_transmit()?;
                buf.extend_from_slice(&datagram.data);
                let (to, src_ip, size) = (datagram.to, datagram.from, datagram.data.len());
                Some(Transmit { to, src_ip, ecn: Ecn::NotEct, size, segment_size: None })
            }
            Some(_) | None if socket == portmap::SOCKET => {
                let portmap::Transmit { to, from, data } = self.direct.portmap()?.poll_transmit()?;
                buf.extend_from_slice(&data);
                Some(Transmit { to, src_ip: from, ecn: Ecn::NotEct, size: data.len(), segment_size: None })
            }
            Some(_) | None => {
                let host = self.host.as_mut().filter(|_| socket == net::LISTENER);
                let answer = host.and_then(|host| host.poll_transmit(buf));
                answer.or_else(|| self.net.poll_transmit(now, socket, max_segments, buf))
            }
        }
    }

    fn poll_job(&mut self) -> Option<Job> {
        self.transfer.poll_job()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let stage = match &self.stage {
            Stage::Handshaking { handshake, .. } => handshake.poll_timeout().map(|at| (at, "handshake")),
            Stage::Live { session, .. } => session.poll_timeout(),
            Stage::Leaving { deadline, .. } => Some((*deadline, "farewell")),
            Stage::Apart(_) | Stage::Meeting | Stage::Closed => None,
        };
        [
            self.net.poll_timeout().map(|at| (at, "link")),
            self.meeting.as_ref().and_then(Meeting::poll_timeout).map(|at| (at, "meeting")),
            self.host.as_ref().and_then(Host::poll_timeout).map(|at| (at, "relay inside")),
            self.mdns.as_ref().and_then(Mdns::poll_timeout).map(|at| (at, "mdns")),
            self.parting.iter().map(|&(_, deadline)| (deadline, "parting")).min(),
            stage,
            self.response_by.map(|at| (at, "response")),
            self.poll_reunion_timeout().map(|at| (at, "reunion")),
            self.direct.poll_timeout().map(|at| (at, "direct path")),
            self.floor.poll_timeout().map(|at| (at, "floor")),
            self.transfer.poll_timeout().map(|at| (at, "transfer")),
            self.next_progress.map(|at| (at, "progress")),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed)
            && self.parting.is_empty()
            && self.transfer.is_idle()
            && self.direct.is_released()
            && !self.net.has_unsent()
    }

    fn supersedes(new: &Event, old: &Event) -> bool {
        match (new, old) {
            (Event::Progress(_), Event::Progress(_)) => true,
            // It counts up, and the transfer is either lost or it is not.
            (Event::Reconnecting { attempt, .. }, Event::Reconnecting { attempt: earlier, .. }) => attempt > earlier,
            _ => false,
        }
    }
}

impl Peer {
    /// News of a connection: the meeting's, the inner relay's, or the link's.
    fn handle_net(&mut self, now: Instant, conn: Conn, event: &net::Event) {
        if let Some(meeting) = &mut self.meeting
            && meeting.handle_event(now, &mut self.net, conn, event)
        {
            return;
        }
        if let Some(host) = &mut self.host
            && host.handle_event(now, &mut self.net, conn, event)
        {
            return;
        }
        self.handle_link(now, conn, event);
    }

    /// What the meeting and the inner relay found.
    fn meet(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let (Some(mdns), Some(meeting)) = (&mut self.mdns, &mut self.meeting)
            && let Some(found) = mdns.poll_found()
        {
            meeting.add_near(now, found);
        }
        if let Some(host) = &mut self.host {
            host.settle(now, &mut self.net, matches!(self.stage, Stage::Meeting));
        }
        while let Some(met) =
            self.host.as_mut().and_then(Host::poll).or_else(|| self.meeting.as_mut().and_then(Meeting::poll))
        {
            moved = true;
            match met {
                Met::Event(event) => {
                    if matches!(event, Event::Waiting(WaitingFor::Receiver))
                        && let CodeState::Ready { seated, .. } = &mut self.code
                    {
                        *seated = true;
                        self.tell_code();
                    }
                    self.tell(event);
                }
                Met::Allocated(nameplate) => self.allocated(nameplate),
                Met::Link(link, found) => self.met(now, *link, found),
                Met::Failed(failure) => self.fail(now, failure),
            }
        }
        moved
    }

    /// The relay gave a nameplate: the words are drawn here and never leave this machine.
    fn allocated(&mut self, nameplate: u32) {
        let CodeState::Unallocated { words } = self.code else { return };
        let code = Code::generate(Nameplate::from_number(nameplate), words, &mut self.seed.split().rng());
        let room = code.nameplate().room_id();
        if let Some(meeting) = &mut self.meeting {
            meeting.set_room(room);
        }
        if let Some(host) = &mut self.host {
            host.set_room(room);
        }
        self.code = CodeState::Ready { code, seated: true, told: false };
    }

    fn tell_code(&mut self) {
        if !self.transfer.is_ready_to_offer() {
            return;
        }
        let (listening, relay) = match (&self.host, &self.meeting) {
            (Some(host), _) => {
                let listening = host.listening();
                let relay = reachable(&listening, &self.interfaces);
                (listening, relay.map(|at| RelayAddress { host: at.ip().to_string(), port: at.port() }))
            }
            (None, Some(meeting)) => (Vec::new(), meeting.relay()),
            (None, None) => (Vec::new(), None),
        };
        if let CodeState::Ready { code, seated: true, told } = &mut self.code
            && !*told
        {
            *told = true;
            let link = relay.and_then(|relay| Link::new(&relay.host, Some(relay.port), code.clone()).ok());
            let code = code.clone();
            self.tell(Event::Code { code, link, listening });
        }
    }

    /// After the end nothing is told but why this side still waits.
    fn tell(&mut self, event: Event) {
        if self.told && !matches!(event, Event::Waiting(WaitingFor::Peer) | Event::Reconnecting { .. }) {
            return;
        }
        if let Some(last) = self.events.back_mut()
            && <Self as Node>::supersedes(&event, last)
        {
            *last = event;
            return;
        }
        if self.events.len() >= MAX_EVENTS {
            if matches!(event, Event::Progress(_)) {
                return;
            }
            // The latest of each kind is what an application that reads seldom needs.
            let kind = std::mem::discriminant(&event);
            let is_older = |waiting: &Event| event.is_repeatable() && std::mem::discriminant(waiting) == kind;
            if let Some(older) = self.events.iter().position(is_older) {
                self.events.remove(older);
            }
        }
        self.events.push_back(event);
    }

    fn tell_progress(&mut self, now: Instant) {
        let progress = self.transfer.progress();
        if progress != self.progress && self.next_progress.is_none() && !self.told {
            self.progress = progress;
            self.next_progress = Some(now + PROGRESS_EVERY);
            let progress = self.pace.measure(now, progress);
            self.tell(Event::Progress(progress));
        }
    }

    /// The last progress before the end, whenever the one before was told.
    fn tell_last_progress(&mut self, now: Instant, progress: crate::transfer::Progress) {
        if progress != self.progress && progress.total > 0 {
            self.progress = progress;
            let progress = self.pace.measure(now, progress);
            self.tell(Event::Progress(progress));
        }
    }

    /// The one end: tells it, stops everything else.
    fn end(&mut self, event: Event) -> bool {
        let first = !self.told;
        self.tell(event);
        self.told = true;
        first
    }

    /// Tells the LAN where the relay inside is.
    fn announce(&mut self, now: Instant) {
        if let Some(port) = self.host.as_ref().and_then(Host::announced_port)
            && self.mdns.is_none()
        {
            self.mdns = Some(Mdns::announce(now, port, &self.interfaces, &self.seed.split()));
            self.net.bind_mdns();
        }
    }

    /// The session has a link: no other is needed, until it is lost.
    fn rest_meeting(&mut self, now: Instant) {
        if let Some(meeting) = &mut self.meeting {
            meeting.stop(now, &mut self.net);
        }
        if let Some(host) = &mut self.host {
            host.stop(now, &mut self.net);
        }
    }

    fn stop_meeting(&mut self, now: Instant) {
        self.rest_meeting(now);
        if let Some(mdns) = &mut self.mdns {
            mdns.goodbye();
        }
        (self.meeting, self.host) = (None, None);
    }
}

/// Where others reach what listens there: an address of this machine in the place of an unspecified one, IPv4 before
/// IPv6, and the loopback only where nothing else listens.
fn reachable(listening: &[SocketAddr], interfaces: &[IpAddr]) -> Option<SocketAddr> {
    let of = |at: &SocketAddr| -> Vec<SocketAddr> {
        if !at.ip().is_unspecified() {
            return vec![*at];
        }
        // A socket of `[::]` takes IPv4 too.
        let fits = |ip: &&IpAddr| !ip.is_loopback() && (at.is_ipv6() || ip.is_ipv4());
        interfaces.iter().filter(fits).map(|&ip| SocketAddr::new(ip, at.port())).collect()
    };
    listening.iter().flat_map(of).min_by_key(|at| (at.ip().is_loopback(), at.is_ipv6()))
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stage = match &self.stage {
            Stage::Meeting => "meeting",
            Stage::Handshaking { .. } => "handshaking",
            Stage::Live { .. } => "live",
            Stage::Apart(_) => "apart",
            Stage::Leaving { .. } => "leaving",
            Stage::Closed => "closed",
        };
        f.debug_struct("Peer").field("side", &self.side).field("stage", &stage).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
