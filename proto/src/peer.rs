//! One end of a transfer: the composition of sockets, rendezvous, connection, paths and transfer behind one [`Node`].
//!
//! ```text
//!               Rendezvous ──Connected──► Connection ──Keyed──► Paths
//!                   ▲                       │   ▲                 │
//!                   └──SearchLater, ...─────┘   └────NoneLeft─────┘
//!                                          Session  ◄──LinkUp, ...┘
//!                                             ▲ records, chunks
//!                                             ▼
//!                                          Transfer ──► Outbox ──► the application
//! ```
//! [`Peer`] routes inputs and decides little. Each machine receives its inputs together with the connections, and
//! queues outputs for the others. [`Peer::apply`] applies the queued outputs one after the other until none is left;
//! no machine calls another one.
//!
//! | file | part |
//! |---|---|
//! | `rendezvous` | connects to the other side |
//! | `connection` | handshake, session, reconnects, farewell |
//! | `paths` | the links of the session |
//! | `offer` | the offer, and the user's confirmation of the verifier words |
//! | `outbox` | events for the application |
//! | `exchange` | moves records and chunks between links, session and transfer |
//! | `outcome` | how the transfer ends |
//! | `network` | sockets and connections |
//!
//! Timers and bounds: those of the machines that it contains.

mod answer;
mod build;
mod command;
mod config;
mod connection;
mod event;
mod exchange;
mod failure;
mod handle;
mod network;
mod offer;
mod outbox;
mod outcome;
mod pace;
mod paths;
mod peer_link;
mod rendezvous;
mod start;

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::BytesMut;

use crate::Instant;
use crate::code::{Code, Link, Nameplate};
use crate::handshake;
use crate::link::connections::CloseReason;
use crate::misuse::Misuse;
use crate::net::{Action, Arrival, Interface, ListenerId, SocketId, TcpEvent, TcpId, Transmit};
use crate::node::{Input, Node};
use crate::seed::Seed;
use crate::session::SILENCE;
use crate::session::StreamNo;
use crate::transfer::Job;
use crate::transfer::Transfer;
use crate::wire::Features;
use crate::wire::close::{self, SHUTTING_DOWN};
use crate::wire::relay::Role;

pub use crate::p2p::candidate::MIN_PORT as MIN_DIRECT_PORT;
pub use crate::wire::peer::{CancelReason, DeclineReason, Placement};
pub use crate::wire::relay::RefusalReason;
pub use answer::{Comparison, Offer, StreamOffer};
pub use build::ConfigError;
pub use command::Command;
pub use config::{
    BadRelayAddress, CodeChoice, Common, DEFAULT_PORT, DirectPath, Embedded, Invitation, Machine, Payload,
    ReceiveConfig, RelayAddress, RelayChoice, SendConfig,
};
pub use event::{Event, Fallback, Path, PathKind, PathTransport, Progress, Summary, WaitingFor};
pub use failure::{Class, Failure, Lost, RelayFailure};
pub use handle::{Receiver, Sender};

use connection::{Connection, Missing, Patience};
use network::{ConnectionId, Network, Query};
use offer::OfferState;
use outbox::Outbox;
use paths::Paths;
use peer_link::PeerLink;
use rendezvous::{Rendezvous, Via};

/// How long the farewell may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// How late this process must run its own timer to count as overloaded.
const LATE: Duration = Duration::from_millis(50);
/// How long the network or the sender may be unreachable before an offer was accepted.
const PATIENCE: Duration = Duration::from_secs(600);

/// One end of a transfer; see the module documentation.
pub struct Peer {
    role: Role,
    seed: Seed,
    net: Network,
    rendezvous: Rendezvous,
    connection: Connection,
    paths: Paths,
    transfer: Transfer,
    offer: OfferState,
    outbox: Outbox,
    code: CodeState,
    give_up_after: Option<Duration>,
    /// When this peer last processed an input.
    awake: Instant,
    interfaces: Vec<IpAddr>,
}

/// How far a sender is with obtaining its code.
enum CodeState {
    /// The relay has not assigned a nameplate.
    Unallocated { words: u8 },
    /// The code is complete. The application learns it once the source was scanned and the sender has its seat.
    Ready { code: Code, seated: bool, told: bool },
}

impl CodeState {
    const fn code(&self) -> Option<&Code> {
        match self {
            Self::Unallocated { .. } => None,
            Self::Ready { code, .. } => Some(code),
        }
    }
}

impl Node for Peer {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
        self.notice_pause(now);
        if !self.rendezvous.handle_datagram(now, &arrival, &data) && !self.paths.handle_datagram(now, &arrival, &data) {
            self.net.handle_datagram(now, &arrival, data);
        }
    }

    fn handle_tcp(&mut self, now: Instant, tcp: TcpId, event: TcpEvent) {
        self.notice_pause(now);
        match self.paths.portmap_on(tcp) {
            Some(portmap) => portmap.handle_tcp(now, tcp, event),
            None => self.net.handle_tcp(now, tcp, event),
        }
    }

    fn handle_accept(&mut self, now: Instant, _listener: ListenerId, from: SocketAddr) -> Option<TcpId> {
        let tcp = self.paths.handle_accept(now, &mut self.net, from);
        self.apply(now);
        tcp
    }

    fn poll_tcp(&mut self) -> Option<TcpId> {
        self.net.poll_tcp()
    }

    fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        match self.paths.portmap_on(tcp) {
            Some(portmap) => portmap.pipe_buffer(tcp),
            None => self.net.pipe_buffer(tcp),
        }
    }

    fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        match self.paths.output_of_portmap(tcp) {
            Some(portmap) => portmap.pipe_output(tcp, slices),
            None => self.net.pipe_output(tcp, slices),
        }
    }

    fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Bound(socket @ (network::LISTENER | network::MDNS), result) => {
                let interfaces = &self.interfaces;
                self.rendezvous.handle_bound(now, socket, result, interfaces, &mut self.seed, &mut self.net);
            }
            Input::Bound(socket, result) => {
                let is_usable = result.is_ok();
                if !self.paths.handle_bound(now, socket, result, &mut self.net) {
                    self.net.handle_client_bound(socket, is_usable);
                }
            }
            Input::Resolved(id, addresses) => match self.net.query(id) {
                Some(Query::Relay(index)) => self.rendezvous.handle_resolved(now, index, addresses),
                Some(Query::StunServer) => self.paths.handle_stun_server(&addresses),
                None => {}
            },
            Input::Done(done) => self.handle_job(now, done),
            Input::Interfaces(interfaces) => self.handle_interfaces(now, &interfaces),
            Input::Slept(_) => {
                self.paths.handle_slept(now);
                self.handle_moved(now, true);
            }
            Input::Listening(_, result) => self.paths.handle_listening(now, result, &mut self.net),
            Input::Gateways(gateways) => self.paths.handle_gateways(now, &gateways),
            Input::HandleDropped => self.cancel(now),
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), Misuse> {
        match command {
            Command::Cancel => {
                self.cancel(now);
                Ok(())
            }
            Command::Agree(agreed) => self.agree(now, agreed),
            Command::Accept(sink) => self.transfer.accept(now, sink),
            Command::AcceptStream(sink) => self.transfer.accept_stream(now, sink),
            Command::Decline(reason, text) => {
                self.transfer.decline(now, reason, &text)?;
                self.fail(now, Failure::NotAccepted);
                Ok(())
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.notice_delay(now);
        self.notice_pause(now);
        self.net.handle_timeout(now);
        self.rendezvous.handle_timeout(now, &mut self.net);
        self.connection.handle_timeout(now, &mut self.net, self.rendezvous.question());
        self.apply(now);
        self.paths.handle_timeout(now, &mut self.net, |link| self.transfer.under_way(link));
        self.apply(now);
        // After a pause the link is judged before the messages that should have arrived over it.
        self.take_session_events(now);
        self.transfer.handle_timeout(now);
        self.outbox.handle_timeout(now);
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
            let servers = self.rendezvous.stun_servers();
            moved |= self.paths.prepare(now, &mut self.net, servers, self.outbox.has_ended());
            moved |= self.take_transfer_events(now);
            if !moved {
                break;
            }
        }
        self.connection.flush_parting(now, &mut self.net);
        self.notify_code();
        self.outbox.notify_progress(now, self.transfer.progress());
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
        let datagram = self.rendezvous.poll_transmit(socket, buf).or_else(|| self.paths.poll_transmit(socket, buf));
        datagram.or_else(|| self.net.poll_transmit(now, socket, max_segments, buf))
    }

    fn poll_job(&mut self) -> Option<Job> {
        self.transfer.poll_job()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.outbox.poll_event()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        [
            self.net.poll_timeout().map(|at| (at, "link")),
            self.rendezvous.poll_timeout(),
            self.connection.poll_timeout(),
            self.paths.poll_timeout(),
            self.transfer.poll_timeout().map(|at| (at, "transfer")),
            self.outbox.poll_timeout().map(|at| (at, "progress")),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_closed(&self) -> bool {
        self.connection.is_closed() && self.transfer.is_idle() && self.paths.is_released() && !self.net.has_unsent()
    }

    fn supersedes(new: &Event, old: &Event) -> bool {
        match (new, old) {
            (Event::Progress(_), Event::Progress(_)) => true,
            // The attempt counts up; the later event supersedes the earlier one.
            (Event::Reconnecting { attempt, .. }, Event::Reconnecting { attempt: earlier, .. }) => attempt > earlier,
            _ => false,
        }
    }
}

impl Peer {
    /// Applies the outputs that the machines queued for one another, until none is left. Returns true when there was
    /// one.
    fn apply(&mut self, now: Instant) -> bool {
        let mut moved = false;
        loop {
            if let Some(output) = self.connection.poll_output() {
                self.apply_connection(now, output);
            } else if let Some(output) = self.paths.poll_output() {
                self.apply_paths(now, output);
            } else {
                return moved;
            }
            moved = true;
        }
    }

    fn apply_connection(&mut self, now: Instant, output: connection::Output) {
        match output {
            connection::Output::Event(event) => self.outbox.notify(event),
            connection::Output::PauseSearch => self.rendezvous.pause(now, &mut self.net),
            connection::Output::SearchAgain => {
                self.rendezvous.look_later(now);
                if self.rendezvous.is_embedded() {
                    self.outbox.notify(Event::Waiting(WaitingFor::Receiver));
                }
            }
            connection::Output::SearchLater => self.rendezvous.look_later(now),
            connection::Output::Ask(question) => self.rendezvous.ask(now, &mut self.net, question),
            connection::Output::Reconnect(question) => self.rendezvous.look_again(now, &mut self.net, question),
            connection::Output::Keyed(keyed) => self.handle_keyed(now, *keyed),
            connection::Output::PutOffNear => self.rendezvous.put_off_near(),
            connection::Output::HandshakeFailed { failure, may_go_on } => {
                if may_go_on && self.rendezvous.drop_near(now, failure.clone()) {
                    self.rendezvous.look_later(now);
                } else {
                    self.fail(now, failure);
                }
            }
            connection::Output::Failed(failure) => self.fail(now, failure),
            connection::Output::FarewellOver => {
                self.paths.end(now, &mut self.net, "left");
                self.connection.handle_farewell_over();
            }
        }
    }

    fn apply_paths(&mut self, now: Instant, output: paths::Output) {
        use paths::Output;
        match (output, self.connection.session()) {
            (Output::LinkUp { link, streams, origin }, Some(session)) => {
                session.handle_link_up(now, link, streams, origin);
            }
            (Output::Record(link, frame), Some(session)) => {
                session.handle_record(now, link, StreamNo::CONTROL, frame);
            }
            (Output::LinkDown(link), Some(session)) => session.handle_link_lost(link),
            (Output::UseForControl(link), Some(session)) => {
                if session.use_link(link) {
                    self.paths.handle_moving(now, link);
                }
            }
            // The session has ended together with its links.
            (Output::LinkUp { .. } | Output::Record(..) | Output::LinkDown(_) | Output::UseForControl(_), None) => {}
            (Output::Resend(link), _) => self.transfer.handle_link_dropped(now, link),
            (Output::Started, _) => {
                self.begin(now);
                self.transfer.handle_link_up(now);
            }
            (Output::Event(event), _) => self.outbox.notify(event),
            (Output::Violation(violation), _) => self.violated(now, violation),
            (Output::NoDirectPath, _) => self.find_no_path(now),
            (Output::LookBeside, _) => {
                if let Some(question) = self.connection.reconnect_question() {
                    self.rendezvous.look_beside(now, &mut self.net, question);
                }
            }
            (Output::LookLater, _) => self.rendezvous.look_later(now),
            (Output::NoneLeft { lost, waiting }, _) => {
                for link in lost {
                    self.transfer.handle_link_lost(now, link);
                }
                self.connection.disconnect(now, self.patience());
                if let Some(waiting) = waiting {
                    self.connection.take_up(now, &mut self.net, *waiting, self.code.code(), &mut self.seed);
                }
            }
            (Output::FarewellLinkLost { link, was_active }, _) => {
                let next = self.connection.closing().and_then(|session| {
                    session.handle_link_lost(link);
                    session.control().filter(|_| session.unacknowledged() > 0)
                });
                if self.paths.go_on_closing(now, &mut self.net, was_active, next) {
                    self.flush_farewell(now);
                }
            }
            (Output::Closed, _) => self.connection.handle_farewell_over(),
        }
    }

    /// An event of a connection.
    fn handle_net(&mut self, now: Instant, conn: ConnectionId, event: &network::Event) {
        if self.rendezvous.handle_event(now, &mut self.net, conn, event) {
            return;
        }
        if let network::Event::Closed(reason) = event {
            let is_link = self.connection.is_on(conn) || self.paths.id_on(conn).is_some();
            if is_link {
                // Data that arrived before the end is still processed.
                self.converse(now);
            }
            // A relay that is shutting down is not asked first the next time.
            if *reason == CloseReason::Application(SHUTTING_DOWN) && (is_link || self.paths.is_pending(conn)) {
                self.rendezvous.leave_relay(now);
            }
        }
        let asked = self.rendezvous.question();
        if !self.connection.handle_event(now, &mut self.net, conn, event, asked) {
            self.paths.handle_event(now, &mut self.net, conn, event);
        }
        self.apply(now);
        self.read_streams(now);
    }

    /// Applies the results of the rendezvous.
    fn meet(&mut self, now: Instant) -> bool {
        let mut moved = false;
        self.rendezvous.settle(now, &mut self.net, self.connection.is_searching());
        while let Some(output) = self.rendezvous.poll_output() {
            moved = true;
            match output {
                rendezvous::Output::Event(event) => {
                    if matches!(event, Event::Waiting(WaitingFor::Receiver))
                        && let CodeState::Ready { seated, .. } = &mut self.code
                    {
                        *seated = true;
                        self.notify_code();
                    }
                    let is_unconfirmed = matches!(event, Event::Waiting(WaitingFor::Peer))
                        && !self.outbox.has_ended()
                        && self.missing() != Missing::Data;
                    if is_unconfirmed && self.missing() == Missing::Confirmation && self.give_up_after.is_none() {
                        self.connection.expect_confirmation(now);
                    }
                    self.outbox.notify(if is_unconfirmed { Event::Waiting(WaitingFor::Confirmation) } else { event });
                }
                rendezvous::Output::Allocated(nameplate) => self.handle_allocated(nameplate),
                rendezvous::Output::Connected(link, via) => self.handle_connected(now, link, via),
                rendezvous::Output::Failed(failure) => self.fail(now, failure),
            }
            self.apply(now);
            self.read_streams(now);
        }
        moved
    }

    /// A link that leads, as far as is known, to the other side.
    fn handle_connected(&mut self, now: Instant, link: Box<PeerLink>, via: Via) {
        if self.connection.session().is_some() {
            // The relay inside this process admits only the session's own receiver while a link is alive. That
            // receiver has already found that this link is dead.
            let replaces = self.rendezvous.is_embedded();
            self.paths.handle_connected(now, &mut self.net, *link, via, replaces);
        } else {
            self.connection.handle_connected(now, &mut self.net, link, via, self.code.code(), &mut self.seed);
        }
    }

    /// The session was keyed on this link.
    fn handle_keyed(&mut self, now: Instant, keyed: connection::Keyed) {
        let connection::Keyed { keys, link, via, is_first } = keyed;
        self.rendezvous.rest(now, &mut self.net);
        self.rendezvous.set_reconnect_room(keys.reconnect.room(), keys.reconnect.owner(Role::Receiver));
        if is_first {
            self.notify_verifier(&keys);
        }
        self.paths.start(now, &mut self.net, *link, &via, keys.features, !self.offer.is_pending());
    }

    fn notify_verifier(&mut self, keys: &handshake::Keys) {
        let (must_agree, others_must) = (self.offer.must_agree(), keys.features.has(Features::VERIFY));
        if must_agree || others_must {
            let comparison = must_agree.then(Comparison::new);
            self.outbox.notify(Event::Verifier { words: keys.verifier.words().to_vec(), comparison });
        }
        if others_must && self.role == Role::Receiver {
            self.outbox.notify(Event::Waiting(WaitingFor::Agreement));
        }
    }

    fn patience(&self) -> Patience {
        Patience {
            give_up_after: self.give_up_after,
            accepted: self.offer.accepted_at().is_some(),
            missing: self.missing(),
            at_relay: !self.rendezvous.is_embedded(),
        }
    }

    fn missing(&self) -> Missing {
        let progress = self.transfer.progress();
        if !self.transfer.is_unconfirmed() {
            Missing::Data
        } else if progress.bytes < progress.total {
            Missing::Acknowledgements
        } else {
            Missing::Confirmation
        }
    }

    /// The relay assigned a nameplate. The words are drawn here and never leave this machine.
    fn handle_allocated(&mut self, nameplate: u32) {
        let CodeState::Unallocated { words } = self.code else { return };
        let code = Code::generate(Nameplate::from_number(nameplate), words, &mut self.seed.split().rng());
        self.rendezvous.set_room(code.nameplate().room_id());
        self.code = CodeState::Ready { code, seated: true, told: false };
    }

    fn notify_code(&mut self) {
        if !self.transfer.is_ready_to_offer() {
            return;
        }
        if let CodeState::Ready { code, seated: true, told } = &mut self.code
            && !*told
        {
            *told = true;
            let listening = self.rendezvous.listening();
            let inside = reachable(&listening, &self.interfaces)
                .map(|at| RelayAddress { host: at.ip().to_string(), port: at.port() });
            let relay = self.rendezvous.relay().or(inside);
            let link = relay.and_then(|relay| Link::new(&relay.host, Some(relay.port), code.clone()).ok());
            self.outbox.notify(Event::Code { code: code.clone(), link, listening });
        }
    }

    /// The runtime reports the addresses of this machine: all of them, at the start and after each change.
    fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        let own = |addresses: &[IpAddr]| -> BTreeSet<IpAddr> {
            addresses.iter().copied().filter(|ip| !ip.is_loopback()).collect()
        };
        let addresses: Vec<IpAddr> = interfaces.iter().map(|interface| interface.addr).collect();
        let (before, after) = (own(&self.interfaces), own(&addresses));
        self.interfaces = addresses;
        self.paths.handle_interfaces(now, interfaces);
        self.rendezvous.handle_interfaces(interfaces);
        if before != after && !before.is_empty() {
            self.handle_moved(now, !before.is_subset(&after));
        }
    }

    /// The network changed, or may have changed. `gone`: connections from the old addresses can't continue.
    fn handle_moved(&mut self, now: Instant, gone: bool) {
        self.net.handle_moved();
        self.rendezvous.hurry(now, &mut self.net);
        if gone {
            self.paths.handle_moved(now, &mut self.net);
            self.apply(now);
        }
    }

    /// A timer runs late: for that long this process had no time to read what arrived or to answer. The machines that
    /// wait for an answer extend their deadlines by that time.
    fn notice_delay(&mut self, now: Instant) {
        if !self.connection.awaits_answer() {
            return;
        }
        let due = self.poll_timeout().map_or(now, |(at, _)| at);
        // For a longer pause see `notice_pause`.
        let late = now.saturating_duration_since(due).min(SILENCE);
        if late >= LATE {
            self.rendezvous.delay(late);
            self.connection.delay(late);
        }
    }

    /// A live link causes work every few seconds. If nothing was processed for longer than the allowed silence, this
    /// process was stopped (SIGSTOP, a suspended virtual machine): data that arrived meanwhile does not show that the
    /// link is alive now, and no deadline counts as missed.
    fn notice_pause(&mut self, now: Instant) {
        let stood_still = now.saturating_duration_since(std::mem::replace(&mut self.awake, now));
        if stood_still >= SILENCE && self.connection.session().is_some() {
            self.transfer.handle_pause(now);
            self.handle_moved(now, true);
        }
    }
}

/// The address at which other machines reach a listener: one of this machine's addresses in place of an unspecified
/// one, IPv4 before IPv6, and loopback only if the listener has no other address.
fn reachable(listening: &[SocketAddr], interfaces: &[IpAddr]) -> Option<SocketAddr> {
    let of = |at: &SocketAddr| -> Vec<SocketAddr> {
        if !at.ip().is_unspecified() {
            return vec![*at];
        }
        // A socket bound to `[::]` accepts IPv4 too.
        let fits = |ip: &&IpAddr| !ip.is_loopback() && (at.is_ipv6() || ip.is_ipv4());
        interfaces.iter().filter(fits).map(|&ip| SocketAddr::new(ip, at.port())).collect()
    };
    listening.iter().flat_map(of).min_by_key(|at| (at.ip().is_loopback(), at.is_ipv6()))
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stage = self.connection.name();
        f.debug_struct("Peer").field("role", &self.role).field("stage", &stage).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
