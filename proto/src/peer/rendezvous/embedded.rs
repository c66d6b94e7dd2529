//! The relay inside a sender: it serves the sender's own room and nobody else's, and hands the link that reaches it
//! straight to the session.
//!
//! ```text
//! Binding ──► Listening ──(a guest joins our room)──► the guest's link is handed over
//! ```
//! It decides who gets in: at most [`MAX_GUESTS`] connections at once, [`MAX_PER_SOURCE`] of one source, each with the
//! greeting's deadline, and only a receiver that names our room while nobody else is being talked to, or the session's
//! own receiver that comes back, or comes for a new relay path. Everybody else hears that nobody waits. A guest is read
//! only while it takes its answers, so that at most the answers to one request wait for it; it may ask for a seat
//! [`MAX_JOINS`] times, and its source as often as a relay allows: each wrong room and each wrong word costs the sender
//! something. As a relay does, it tells who asks by STUN at which address it is seen.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use rand_core::Rng;
use subtle::ConstantTimeEq;

use super::super::config::Embedded;
use super::super::event::{Event, PathTransport, WaitingFor};
use super::super::failure::{Failure, Lost};
use super::super::net::{self, ConnectionId, LISTENER, Net};
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
/// Of those, such as come from one source.
const MAX_PER_SOURCE: usize = 8;
/// Connections beyond which a guest has to prove its address first (RFC 9000, section 8.1.2).
const UNPROVEN: usize = 4;
/// Connections that are closed and not yet forgotten, beside which no guest is let in.
const MAX_CLOSING: usize = 64;
/// How often one guest may ask for a seat. A receiver that waits for us asks four times before its time is over.
const MAX_JOINS: u8 = 8;
/// Streams beside the first that each side may open.
const STREAMS: u8 = 16;

/// See the module's text.
pub struct EmbeddedRelay {
    embedded: Embedded,
    seed: Seed,
    interfaces: Vec<IpAddr>,
    /// Index of the address that is being bound.
    trying: usize,
    bound: Option<SocketAddr>,
    room: Room,
    admitted: Option<Admitted>,
    /// The application knows that another one came.
    notified_second: bool,
    guests: BTreeMap<ConnectionId, Guest>,
    /// How often a source may ask where it is, and for a seat.
    guard: Guard,
    answers: StunResponder,
    out: VecDeque<Output>,
}

/// The receiver that was let in last, by the code.
#[derive(Clone, Copy)]
struct Admitted {
    room: RoomId,
    owner: Owner,
}

/// Who may come.
enum Room {
    /// There is no code yet.
    Unknown,
    /// Who names this room.
    Code(RoomId),
    /// Who names this reconnect room and proves to be its receiver, even while its old link seems to live.
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
    /// Asks for the first address.
    #[must_use]
    pub fn new(embedded: Embedded, interfaces: Vec<IpAddr>, seed: Seed, net: &mut Net) -> Self {
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

    /// The sender's own room.
    pub const fn set_room(&mut self, room: RoomId) {
        self.room = Room::Code(room);
    }

    /// From now on the receiver of the session may come back, and nobody else.
    pub const fn set_again(&mut self, room: RoomId, receiver: Owner) {
        self.room = Room::Again(room, receiver);
    }

    /// Where it can be reached: the bound port on each of this machine's addresses.
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

    /// The port to be announced on the LAN.
    #[must_use]
    pub fn announced_port(&self) -> Option<u16> {
        self.bound.filter(|_| self.embedded.announce).map(|bound| bound.port())
    }

    /// The socket was bound, or could not be: then the next address is tried. Without any the search has failed.
    pub fn handle_bound(&mut self, result: Result<SocketAddr, io::ErrorKind>, net: &mut Net) {
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

    /// A datagram at its port that is STUN.
    pub fn handle_stun(&mut self, now: Instant, arrival: Arrival, data: &[u8]) {
        let _ = self.answers.handle(now, &mut self.guard, arrival, data);
    }

    /// The next answer to one.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.answers.poll_transmit(buf)
    }

    /// News of a connection; false when it is not a guest's.
    pub fn handle_event(&mut self, now: Instant, net: &mut Net, conn: ConnectionId, event: &net::Event) -> bool {
        let Some(guest) = self.guests.get_mut(&conn) else { return false };
        match event {
            net::Event::Opened(stream, Direction::Bi) if guest.stream.is_none() => {
                guest.stream = Some(*stream);
            }
            net::Event::Closed(_) => {
                self.guests.remove(&conn);
            }
            net::Event::Opened(..) => self.dismiss(now, net, conn),
            // `settle` reads and writes.
            net::Event::Readable(_)
            | net::Event::Writable(_)
            | net::Event::Connected { .. }
            | net::Event::Restarted { .. }
            | net::Event::Available(_)
            | net::Event::Stopped(..)
            | net::Event::Finished(_) => {}
        }
        true
    }

    /// Guests who take too long leave.
    pub fn handle_timeout(&mut self, now: Instant, net: &mut Net) {
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

    /// Lets guests in and answers them; `vacant`: nobody is being talked to.
    pub fn settle(&mut self, now: Instant, net: &mut Net, vacant: bool) {
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

    /// Closes all guests' connections.
    pub fn stop(&mut self, now: Instant, net: &mut Net) {
        for conn in std::mem::take(&mut self.guests).into_keys() {
            net.close(now, conn, 0, "the sender is gone");
        }
    }

    /// StunResponder what a guest asks; true when its link was handed over.
    fn serve(&mut self, now: Instant, net: &mut Net, conn: ConnectionId, vacant: bool) -> bool {
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
                    // Only the session's own receiver knows the owner of its seat, and comes as often as it must.
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

    fn dismiss(&mut self, now: Instant, net: &mut Net, conn: ConnectionId) {
        self.guests.remove(&conn);
        net.close(now, conn, 0, "dismissed");
    }

    fn bind_next(&mut self, net: &mut Net) {
        if let Some(&addr) = self.embedded.listen.get(self.trying) {
            self.trying = self.trying.saturating_add(1);
            net.bind(LISTENER, addr);
        }
    }
}

impl Guest {
    fn new(now: Instant, source: Source, greeting: Greeting) -> Self {
        let (stream, decoder, waiting) = (None, Decoder::new(Caps::Greeting), VecDeque::new());
        Self { source, stream, decoder, greeting, waiting, joins: 0, deadline: now + GREET_WITHIN }
    }

    /// What follows from the next frame. A frame is read when those before it are answered, and no frame is longer than
    /// a greeting.
    fn next_output(&mut self, net: &mut Net, conn: ConnectionId) -> Option<Result<Greeted, Violation>> {
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

    /// It is not let in, and may ask again.
    fn refuse(&mut self, now: Instant, reason: RefusalReason) {
        self.joins = self.joins.saturating_add(1);
        self.send(&RelayMessage::Refused { reason, retry_after: 5 });
        self.greeting.answered(now);
    }

    fn send(&mut self, message: &RelayMessage) {
        self.waiting.push_back(enclose(&wire::encode(message)));
    }

    /// Writes what waits. False: the guest does not take all of it now.
    fn flush(&mut self, now: Instant, net: &mut Net, conn: ConnectionId) -> bool {
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
