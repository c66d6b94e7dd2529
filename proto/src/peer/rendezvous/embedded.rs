//! The relay inside a sender: it serves only the sender's own room, and passes the link of the admitted client
//! directly to the session.
//!
//! ```text
//! Binding ──► Listening ──(a guest joins our room)──► the guest's link is handed over
//! ```
//! It decides which guests (clients) it admits: at most [`MAX_GUESTS`] connections at once, and [`MAX_PER_SOURCE`] of
//! one source, each with a deadline for its greeting. A guest is handed over only if it is a receiver that names this
//! room while no handshake or session runs, or the session's own receiver that reconnects or replaces its relay path.
//! All others get the answer that nobody waits. A guest is read only while it takes its answers, so at most the
//! answers to one request wait for it. It may ask for a seat [`MAX_JOINS`] times, and its source as often as at a
//! relay, because wrong rooms and wrong words cost the sender work. Like a relay, it answers STUN requests.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use rand_core::Rng;
use subtle::ConstantTimeEq;

use super::super::config::Embedded;
use super::super::event::{Event, PathTransport, WaitingFor};
use super::super::failure::{Failure, Lost};
use super::super::network::{self, ConnectionId, LISTENER, Network};
use super::super::peer_link::PeerLink;
use super::{Output, Via};
use crate::Instant;
use crate::link::quic::{Direction, Quic, Stream};
use crate::link::{Read, Write};
use crate::net::{Arrival, Transmit};
use crate::room::greeting::{GREET_WITHIN, Greeting, Output as Greeted, Request};
use crate::room::limits::{self, Guard, Source};
use crate::room::stun_responder::StunResponder;
use crate::seed::Seed;
use crate::wire::Violation;
use crate::wire::frame::enclose;
use crate::wire::relay::{Owner, RefusalReason, RelayMessage, Role, RoomId};
use crate::wire::{self, Caps, Decoder};

/// Connections at once.
const MAX_GUESTS: usize = 16;
/// Connections of one source.
const MAX_PER_SOURCE: usize = 8;
/// Number of connections from which on a guest has to validate its address first (RFC 9000, section 8.1.2).
const UNPROVEN: usize = 4;
/// Connections that are closed and not yet forgotten; above this number no guest is accepted.
const MAX_CLOSING: usize = 64;
/// How often one guest may ask for a seat. A receiver that waits for this sender asks four times before its deadline.
const MAX_JOINS: u8 = 8;
/// Streams besides the first that each side may open.
const STREAMS: u8 = 16;

/// The relay inside a sender; see the module documentation.
pub struct EmbeddedRelay {
    embedded: Embedded,
    seed: Seed,
    interfaces: Vec<IpAddr>,
    /// Index of the address that is being bound.
    trying: usize,
    bound: Option<SocketAddr>,
    room: Room,
    admitted: Option<Admitted>,
    /// The application was notified of a second receiver.
    notified_second: bool,
    guests: BTreeMap<ConnectionId, Guest>,
    /// Rate limits of each source for STUN requests and for seats.
    guard: Guard,
    answers: StunResponder,
    out: VecDeque<Output>,
}

/// The receiver that was admitted last by the code.
#[derive(Clone, Copy)]
struct Admitted {
    room: RoomId,
    owner: Owner,
}

/// Which receivers are admitted.
enum Room {
    /// There is no code yet.
    Unknown,
    /// Receivers that name this room.
    Code(RoomId),
    /// The receiver that names this reconnect room and sends its owner token, even while its old link seems to be
    /// alive.
    Again(RoomId, Owner),
}

impl Room {
    fn admits(&self, vacant: bool, room: RoomId, owner: Owner, again: bool) -> bool {
        match self {
            Self::Unknown => false,
            Self::Code(own) => vacant && !again && *own == room,
            Self::Again(own, receiver) => again && *own == room && is_same(*receiver, owner),
        }
    }
}

fn is_same(a: Owner, b: Owner) -> bool {
    bool::from(a.0.ct_eq(&b.0))
}

struct Guest {
    source: Source,
    stream: Option<Stream>,
    decoder: Decoder,
    greeting: Greeting,
    /// The answers to one request. While the guest does not take them, nothing more is read from it.
    waiting: VecDeque<Bytes>,
    /// How often it asked for a seat.
    joins: u8,
    deadline: Instant,
}

impl EmbeddedRelay {
    /// Requests the socket of the first address.
    #[must_use]
    pub fn new(embedded: Embedded, interfaces: Vec<IpAddr>, seed: Seed, net: &mut Network) -> Self {
        let mut relay = Self {
            embedded,
            seed,
            interfaces,
            trying: 0,
            bound: None,
            room: Room::Unknown,
            admitted: None,
            notified_second: false,
            guests: BTreeMap::new(),
            guard: Guard::new(limits::Limits::default()),
            answers: StunResponder::default(),
            out: VecDeque::new(),
        };
        relay.bind_next(net);
        relay
    }

    /// Sets the sender's own room.
    pub const fn set_room(&mut self, room: RoomId) {
        self.room = Room::Code(room);
    }

    /// From now on only the session's own receiver is admitted.
    pub const fn set_again(&mut self, room: RoomId, receiver: Owner) {
        self.room = Room::Again(room, receiver);
    }

    /// The addresses at which the relay can be reached: the bound port on each of this machine's addresses.
    #[must_use]
    pub fn listening(&self) -> Vec<SocketAddr> {
        let Some(bound) = self.bound else { return Vec::new() };
        if bound.ip().is_unspecified() {
            let own = self.interfaces.iter().filter(|ip| bound.is_ipv6() || ip.is_ipv4());
            own.map(|&ip| SocketAddr::new(ip, bound.port())).collect()
        } else {
            vec![bound]
        }
    }

    /// The port that is announced on the LAN.
    #[must_use]
    pub fn announced_port(&self) -> Option<u16> {
        self.bound.filter(|_| self.embedded.announce).map(|bound| bound.port())
    }

    /// The socket was bound, or could not be bound: then the next address is tried. If all addresses fail, the search
    /// fails.
    pub fn handle_bound(&mut self, result: Result<SocketAddr, io::ErrorKind>, net: &mut Network) {
        match result {
            Ok(addr) => {
                if !net.open_listener(&self.embedded.identity, &self.seed.derive("listener")) {
                    return self.out.push_back(Output::Failed(Failure::Lost(Lost::NoSocket)));
                }
                self.bound = Some(addr);
                // Three digits: see docs/decisions.md.
                let number = self.seed.derive("nameplate").rng().next_u32().checked_rem(900).unwrap_or(0);
                self.out.push_back(Output::Allocated(number.saturating_add(100)));
                self.out.push_back(Output::Event(Event::Waiting(WaitingFor::Receiver)));
            }
            Err(_) if self.trying < self.embedded.listen.len() => self.bind_next(net),
            Err(_) => self.out.push_back(Output::Failed(Failure::Lost(Lost::NoSocket))),
        }
    }

    /// A received STUN datagram.
    pub fn handle_stun(&mut self, now: Instant, arrival: Arrival, data: &[u8]) {
        let _ = self.answers.handle(now, &mut self.guard, arrival, data);
    }

    /// The next STUN response.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.answers.poll_transmit(buf)
    }

    /// An event of a connection. Returns false if the connection is not a guest's.
    pub fn handle_event(
        &mut self,
        now: Instant,
        net: &mut Network,
        conn: ConnectionId,
        event: &network::Event,
    ) -> bool {
        let Some(guest) = self.guests.get_mut(&conn) else { return false };
        match event {
            network::Event::Opened(stream, Direction::Bi) if guest.stream.is_none() => {
                guest.stream = Some(*stream);
            }
            network::Event::Closed(_) => {
                self.guests.remove(&conn);
            }
            network::Event::Opened(..) => self.dismiss(now, net, conn),
            // `settle` reads and writes.
            network::Event::Readable(_)
            | network::Event::Writable(_)
            | network::Event::Connected { .. }
            | network::Event::Restarted { .. }
            | network::Event::Available(_)
            | network::Event::Stopped(..)
            | network::Event::Finished(_) => {}
        }
        true
    }

    /// Closes guests that exceed their deadline.
    pub fn handle_timeout(&mut self, now: Instant, net: &mut Network) {
        let late = self.guests.iter_mut().filter_map(|(&conn, guest)| {
            guest.greeting.handle_timeout(now);
            (guest.deadline <= now).then_some(conn)
        });
        for conn in late.collect::<Vec<_>>() {
            self.dismiss(now, net, conn);
        }
    }

    /// When [`EmbeddedRelay::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.guests.values().map(|guest| guest.deadline).min()
    }

    /// Accepts guests and answers them; `vacant`: no handshake or session runs.
    pub fn settle(&mut self, now: Instant, net: &mut Network, vacant: bool) {
        while let Some(incoming) = net.quic(LISTENER).and_then(Quic::poll_incoming) {
            let Some(quic) = net.quic(LISTENER) else { return };
            let (observed, source) = (incoming.from(), Source::of(incoming.from()));
            let of_source = self.guests.values().filter(|guest| guest.source == source).count();
            let is_full = self.guests.len() >= MAX_GUESTS || quic.connections() >= MAX_CLOSING;
            if is_full || of_source >= MAX_PER_SOURCE {
                quic.refuse(incoming);
            } else if self.guests.len() >= UNPROVEN && !incoming.validated() {
                quic.retry(incoming);
            } else if let Some(id) = quic.accept(now, incoming) {
                let greeting = Greeting::new(now, observed, None, &self.seed.split());
                self.guests.insert(ConnectionId::Quic(LISTENER, id), Guest::new(now, source, greeting));
            }
        }
        let mut vacant = vacant && self.out.is_empty();
        for conn in self.guests.keys().copied().collect::<Vec<_>>() {
            if self.serve(now, net, conn, vacant) {
                vacant = false;
            }
        }
    }

    /// The next result.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Closes the connections of all guests.
    pub fn stop(&mut self, now: Instant, net: &mut Network) {
        for conn in std::mem::take(&mut self.guests).into_keys() {
            net.close(now, conn, 0, "the sender is gone");
        }
    }

    /// Answers a guest's requests. Returns true if its link was handed over.
    fn serve(&mut self, now: Instant, net: &mut Network, conn: ConnectionId, vacant: bool) -> bool {
        let Some(guest) = self.guests.get_mut(&conn) else { return false };
        while guest.flush(now, net, conn)
            && let Some(output) = guest.next_output(net, conn)
        {
            match output {
                Ok(Greeted::Send(body)) => guest.waiting.push_back(enclose(&body)),
                Ok(Greeted::Request(Request::Join { .. } | Request::Allocate { .. })) if guest.joins >= MAX_JOINS => {
                    self.dismiss(now, net, conn);
                    return false;
                }
                Ok(Greeted::Request(Request::Join { room, role: Role::Receiver, owner, again, former: _ }))
                    // Only the session's own receiver has the owner token of its seat; it is not limited.
                    if self.room.admits(vacant, room, owner, again)
                        && (again || self.guard.join(now, guest.source).is_ok()) =>
                {
                    if !again {
                        self.admitted = Some(Admitted { room, owner });
                    }
                    guest.send(&RelayMessage::Paired { streams: STREAMS });
                    return self.hand_over(conn);
                }
                Ok(Greeted::Request(Request::Join { room, role: Role::Receiver, owner, again: false, former: _ }))
                    if !vacant
                        && self.admitted.is_some_and(|it| it.room == room && !is_same(it.owner, owner)) =>
                {
                    guest.refuse(now, RefusalReason::Taken);
                    self.guard.failed(now, guest.source);
                    if !std::mem::replace(&mut self.notified_second, true) {
                        self.out.push_back(Output::Event(Event::SecondReceiver));
                    }
                }
                Ok(Greeted::Request(Request::Join { .. } | Request::Allocate { .. })) => {
                    guest.refuse(now, RefusalReason::NobodyWaits);
                    self.guard.failed(now, guest.source);
                }
                Ok(Greeted::Request(Request::Ping)) => guest.send(&RelayMessage::Pong),
                Ok(Greeted::Request(Request::Leave) | Greeted::Close(_)) | Err(_) => {
                    guest.flush(now, net, conn);
                    self.dismiss(now, net, conn);
                    return false;
                }
            }
        }
        false
    }

    fn hand_over(&mut self, conn: ConnectionId) -> bool {
        let Some(guest) = self.guests.remove(&conn) else { return false };
        let Some(stream) = guest.stream else { return false };
        let mut link = PeerLink::new(conn, PathTransport::Quic, guest.decoder, STREAMS, stream);
        guest.waiting.into_iter().for_each(|frame| link.queue_control(frame));
        self.out.push_back(Output::Connected(Box::new(link), Via::Near));
        true
    }

    fn dismiss(&mut self, now: Instant, net: &mut Network, conn: ConnectionId) {
        self.guests.remove(&conn);
        net.close(now, conn, 0, "dismissed");
    }

    fn bind_next(&mut self, net: &mut Network) {
        if let Some(&addr) = self.embedded.listen.get(self.trying) {
            self.trying = self.trying.saturating_add(1);
            // It is told to others.
            net.bind_own(LISTENER, addr);
        }
    }
}

impl Guest {
    fn new(now: Instant, source: Source, greeting: Greeting) -> Self {
        let (stream, decoder, waiting) = (None, Decoder::new(Caps::Greeting), VecDeque::new());
        Self { source, stream, decoder, greeting, waiting, joins: 0, deadline: now + GREET_WITHIN }
    }

    /// The result of the next frame. A frame is read once the answers to the earlier ones were sent, and no frame is
    /// longer than a greeting.
    fn next_output(&mut self, net: &mut Network, conn: ConnectionId) -> Option<Result<Greeted, Violation>> {
        let stream = self.stream?;
        loop {
            if let Some(output) = self.greeting.poll_output() {
                return Some(Ok(output));
            }
            match self.decoder.next_frame() {
                Ok(Some(frame)) => self.greeting.handle_frame(&frame.into_bytes()),
                Ok(None) => match net.read(conn, stream) {
                    Read::Data(bytes) => self.decoder.push(bytes),
                    Read::Blocked | Read::End | Read::Reset(_) | Read::Gone => return None,
                },
                Err(violation) => return Some(Err(violation)),
            }
        }
    }

    /// Refuses the request; the guest may ask again.
    fn refuse(&mut self, now: Instant, reason: RefusalReason) {
        self.joins = self.joins.saturating_add(1);
        self.send(&RelayMessage::Refused { reason, retry_after: 5 });
        self.greeting.answered(now);
    }

    fn send(&mut self, message: &RelayMessage) {
        self.waiting.push_back(enclose(&wire::encode(message)));
    }

    /// Writes waiting answers. Returns false if the guest does not take all of them now.
    fn flush(&mut self, now: Instant, net: &mut Network, conn: ConnectionId) -> bool {
        let Some(stream) = self.stream else { return true };
        while let Some(frame) = self.waiting.front_mut() {
            match net.write(now, conn, stream, frame) {
                Write::Done => drop(self.waiting.pop_front()),
                Write::Blocked => return false,
                Write::Stopped(_) | Write::Gone => self.waiting.clear(),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
