//! The whole relay as one node: it accepts clients, greets them, answers their requests, and forwards data between
//! paired clients.
//!
//! ```text
//! leg:   new ──admitted──► talking ──seat──► waiting ──the other side joins──► paired ──► closed
//!           └─ refused          └──────── refused, too slow, left ──► farewell ─────────────► closed
//! relay: serving ──drain──► draining (no new rooms; pairs until the deadline) ──► closed
//! ```
//! It decides what happens to each leg, and combines the parts that decide the rest: [`super::limits`] (admission),
//! [`super::greeting`] (requests), [`super::registry`] (seats), `forward` (data). Each listen address has a UDP socket
//! with its own QUIC endpoint and a TCP listener. The two legs of a pair may come from different addresses and be of
//! different kinds.
//!
//! All work is proportional to the events: a leg is processed only when its endpoint, its partner or its own deadline
//! requires it. Timers: those of the parts, and the drain's deadline. Bounds: [`super::limits::Limits`],
//! [`MAX_EVENTS`].

mod check;
mod disconnect;
mod leg;
mod listeners;
mod seats;

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::forward::{Budget, Context};
use super::greeting::Ending;
use super::half_open::HalfOpen;
use super::limits::Guard;
use super::ports::Ports;
use super::registry::{self, Registry};
use super::status::{Command, Config, Event, Refusals, Refused, RoomEnd, Status};
use crate::Instant;
use crate::link::connections::{self, ConnectionId};
use crate::link::quic::{self, BadIdentity, Direction, Profile, Quic, Stream};
use crate::misuse::Misuse;
use crate::net::{Action, Arrival, ListenerId, SocketId, TcpEvent, TcpId, Transmit};
use crate::node::{Input, Node};
use crate::p2p::stun;
use crate::ready::Deadlines;
use crate::room::farewell::Farewell;
use crate::seed::Seed;
use crate::transfer::job::Job;
use crate::wire::close;
use crate::wire::relay::RefusalReason;
use check::Join;
use disconnect::{Disconnect, refusal_of};
use leg::{Held, Leg, Paired, Proof, Room, State};
use listeners::Listener;

/// The most listen addresses of one relay.
pub const MAX_SOCKETS: usize = 8;
/// The most events that wait for the caller. Events beyond it are counted and dropped.
pub const MAX_EVENTS: usize = 256;
/// How much unread data a leg may have before it is paired, in bytes: a greeting and a request.
const GREETING_WINDOW: u64 = 8 << 10;
/// The sessions per socket that clients may resume, with a join in their first flight: about 3 MiB.
const SESSIONS: usize = 8_192;
/// The most unidirectional streams that a leg may have open.
const STREAMS: u8 = 16;
/// The interval between summaries of refusals.
const SUMMARY: Duration = Duration::from_secs(60);
/// After how many seconds a client should ask for the same room again.
const ASK_AGAIN: u32 = 5;

/// A relay; see the module documentation.
pub struct Relay {
    ports: Ports,
    listeners: Vec<Listener>,
    legs: BTreeMap<ConnectionId, Leg>,
    pairs: BTreeMap<PairId, Paired>,
    last_pair: u32,
    registry: Registry<ConnectionId>,
    /// Joins that wait until this leg shows that it is alive.
    checks: BTreeMap<ConnectionId, Vec<Join>>,
    /// Joins whose check is complete.
    joins: VecDeque<Join>,
    guard: Guard,
    half_open: HalfOpen<ConnectionId>,
    budget: Budget,
    timers: Deadlines<Timer>,
    password: Option<Arc<str>>,
    phase: Phase,
    status: Status,
    /// Refusals since the last [`Event::Refusals`].
    refusals: Refusals,
    summing_up: bool,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    tag_key: [u8; 32],
    seed: Seed,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct PairId(u32);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    Leg(ConnectionId),
    /// The deadline of a leg's handshake.
    Proof(ConnectionId),
    Pair(PairId),
    /// The deadline for the answer of a waiting leg.
    Check(ConnectionId),
    /// The time of the next [`Event::Refusals`].
    Refusals,
    Drain,
}

enum Phase {
    Serving,
    /// Until all legs are closed.
    Draining,
}

impl Relay {
    /// A relay that is about to open its sockets; [`Event::Listening`] follows.
    ///
    /// # Errors
    /// [`BadIdentity`] when certificate and key cannot be used for a server.
    pub fn new(config: Config) -> Result<Self, BadIdentity> {
        let Config { listen, tcp, identity, password, limits, room_ttl, window_budget, unix_time, mut seed } = config;
        let profile = Profile {
            receive_window: GREETING_WINDOW,
            max_bi_streams: 1,
            max_uni_streams: STREAMS.into(),
            ..Profile::relay()
        };
        let rooms = registry::Config {
            max_rooms: limits.max_rooms,
            max_kept: limits.max_rooms.saturating_mul(4),
            ttl: room_ttl,
            keep: Config::KEEP.min(room_ttl),
        };
        let mut relay = Self {
            ports: Ports::default(),
            listeners: Vec::new(),
            legs: BTreeMap::new(),
            pairs: BTreeMap::new(),
            last_pair: 0,
            registry: Registry::new(rooms, &seed.derive("registry")),
            checks: BTreeMap::new(),
            joins: VecDeque::new(),
            guard: Guard::new(limits),
            half_open: HalfOpen::new(),
            budget: Budget(window_budget),
            timers: Deadlines::new(),
            password,
            phase: Phase::Serving,
            status: Status::default(),
            refusals: Refusals::default(),
            summing_up: false,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            tag_key: *seed.derive("room tags").bytes(),
            seed: seed.split(),
        };
        for (id, addr) in (0_u8..).zip(listen.into_iter().take(MAX_SOCKETS)) {
            let limits = quic::Limits { sessions: SESSIONS, ..quic::Limits::default() };
            let quic = Quic::server(&profile, &identity, limits, unix_time, &seed.split())?;
            relay.ports.connections.open(SocketId(id), quic);
            let listener = Listener::new(addr, tcp, &identity)?;
            relay.actions.push_back(listener.bind(SocketId(id)));
            relay.listeners.push(listener);
        }
        Ok(relay)
    }

    fn handle_event(&mut self, now: Instant, id: ConnectionId, event: connections::Event) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        match (&mut leg.state, event) {
            (_, connections::Event::Connected { .. }) => {
                let proof = std::mem::replace(&mut leg.proof, Proof::Given);
                self.timers.set(Timer::Proof(id), None);
                self.half_open.end(id);
                if !self.guard.connected(leg.source) {
                    self.refused(Refused::TooManyConnections);
                    return self.abort(now, id, Farewell { code: close::REFUSED, text: "too many connections" });
                }
                if let Proof::Pending(held) = proof {
                    self.proven(now, id, held);
                }
                if id.is_tcp() {
                    // A TCP connection has its one stream from the start.
                    self.handle_event(now, id, connections::Event::Opened(Stream::first(), Direction::Bi));
                }
            }
            (_, connections::Event::Closed(reason)) => {
                if id.is_tcp()
                    && leg.is_half_open()
                    && let Some(refused) = refusal_of(reason)
                {
                    self.refused(refused);
                }
                self.handle_closed(now, id, Disconnect::from(reason));
            }
            (State::Talking { talk, .. }, connections::Event::Opened(stream, direction)) => {
                if direction == Direction::Uni || !talk.open(stream) {
                    self.violated(now, id, "unexpected stream");
                }
            }
            (State::Talking { talk, .. }, connections::Event::Finished(_)) => {
                talk.handle_finished();
                self.converse(now, id);
            }
            (State::Talking { .. }, connections::Event::Readable(_) | connections::Event::Writable(_)) => {
                self.converse(now, id)
            }
            (State::Talking { .. }, connections::Event::Stopped(..)) => self.client_left(now, id),
            (State::Talking { .. }, connections::Event::Available(_)) => {}
            (State::Paired(_), connections::Event::Opened(_, Direction::Bi)) => {
                self.violated(now, id, "unexpected stream")
            }
            (State::Talking { .. }, connections::Event::Restarted { .. }) => {}
            (&mut State::Paired(pair), event) => self.forward(now, pair, id, &event),
        }
    }

    /// Handles an event of a paired leg.
    fn forward(&mut self, now: Instant, id: PairId, leg: ConnectionId, event: &connections::Event) {
        let Some(paired) = self.pairs.get_mut(&id) else { return };
        if matches!(event, connections::Event::Opened(..)) && !paired.pair.is_mirrored() {
            return self.violated(now, leg, "unexpected stream");
        }
        let outside = &mut Context { now, ports: &mut self.ports, budget: &mut self.budget };
        match *event {
            connections::Event::Opened(stream, _) => paired.pair.handle_opened(outside, leg, stream),
            connections::Event::Readable(stream) => paired.pair.handle_readable(outside, leg, stream),
            connections::Event::Writable(stream) => paired.pair.handle_writable(outside, leg, stream),
            connections::Event::Finished(_) => paired.pair.handle_finished(outside, leg),
            connections::Event::Stopped(stream, code) => paired.pair.handle_stopped(outside, leg, stream, code),
            connections::Event::Available(_) => paired.pair.handle_available(outside, leg),
            connections::Event::Connected { .. }
            | connections::Event::Restarted { .. }
            | connections::Event::Closed(_) => {}
        }
        self.finish(now, id);
    }

    /// Ends a pair whose closed leg's data was delivered, and a pair that is broken.
    fn finish(&mut self, now: Instant, id: PairId) {
        match self.pairs.get(&id) {
            Some(paired) if paired.pair.is_delivered() => self.end_pair(now, id, paired.end),
            Some(paired) if paired.pair.is_broken() => self.end_pair(now, id, RoomEnd::Lost),
            Some(_) | None => {}
        }
    }

    /// A client that is not paired closed its stream or left.
    fn client_left(&mut self, now: Instant, id: ConnectionId) {
        self.leave(now, id, true, RoomEnd::Left);
        self.dismiss(now, id, Farewell { code: close::DONE, text: "left" });
    }

    fn violated(&mut self, now: Instant, id: ConnectionId, text: &'static str) {
        self.refused(Refused::Violation);
        match self.legs.get(&id).map(|leg| &leg.state) {
            Some(&State::Paired(pair)) => self.end_pair(now, pair, RoomEnd::Violation),
            Some(State::Talking { .. }) => {
                self.leave(now, id, false, RoomEnd::Violation);
                self.dismiss(now, id, Farewell { code: close::VIOLATION, text });
            }
            None => {}
        }
    }

    /// A link ended.
    fn handle_closed(&mut self, now: Instant, id: ConnectionId, Disconnect { end, farewell, done }: Disconnect) {
        let Some(&Leg { state: State::Paired(pair), .. }) = self.legs.get(&id) else {
            self.leave(now, id, done, end);
            self.forget(id);
            return self.ports.close_ended(now, id);
        };
        self.forget(id);
        let Some(paired) = self.pairs.get_mut(&pair) else { return self.ports.close_ended(now, id) };
        let done = if id == paired.sender { done } else { paired.pair.has_ended(paired.sender) };
        self.registry.leave(now, paired.sender, done);
        if !paired.pair.is_closing() {
            paired.end = end;
        }
        let outside = &mut Context { now, ports: &mut self.ports, budget: &mut self.budget };
        paired.pair.handle_disconnect(outside, id, farewell);
        self.timers.set(Timer::Pair(pair), Some(paired.pair.poll_timeout()));
        self.ports.close_ended(now, id);
        self.finish(now, pair);
    }

    /// Removes a pair and closes its remaining legs.
    fn end_pair(&mut self, now: Instant, id: PairId, end: RoomEnd) {
        let Some(Paired { pair, room, .. }) = self.pairs.remove(&id) else { return };
        self.timers.set(Timer::Pair(id), None);
        let farewell = match end {
            RoomEnd::Left => PEER_LEFT,
            RoomEnd::Lost => PEER_LOST,
            RoomEnd::Idle => Farewell { code: close::IDLE, text: "idle too long" },
            RoomEnd::Replaced => REPLACED,
            RoomEnd::Violation => Farewell { code: close::VIOLATION, text: "protocol violation" },
            RoomEnd::ShuttingDown => SHUTTING_DOWN,
        };
        for leg in pair.legs() {
            self.registry.leave(now, leg, false);
            self.dismiss(now, leg, farewell);
        }
        let moved = pair.moved();
        pair.release(&mut self.budget);
        self.close_room(now, &room, moved, end);
    }

    /// A leg that is not paired gives up its seat, if it has one.
    fn leave(&mut self, now: Instant, id: ConnectionId, for_good: bool, end: RoomEnd) {
        self.registry.leave(now, id, for_good);
        if let Some(room) = self.leave_room(id) {
            self.close_room(now, &room, 0, end);
        }
    }

    fn leave_room(&mut self, id: ConnectionId) -> Option<Room> {
        match self.legs.get_mut(&id).map(|leg| &mut leg.state) {
            Some(State::Talking { room, .. }) => room.take(),
            Some(State::Paired(_)) | None => None,
        }
    }

    fn close_room(&mut self, now: Instant, room: &Room, bytes_forwarded: u64, reason: RoomEnd) {
        self.guard.room_closed(room.source);
        self.status.bytes_forwarded = self.status.bytes_forwarded.saturating_add(bytes_forwarded);
        let seconds = now.saturating_duration_since(room.since).as_secs();
        self.emit(Event::RoomClosed { room: room.tag, bytes_forwarded, seconds, reason });
    }

    /// Closes a leg in any state.
    fn abort(&mut self, now: Instant, id: ConnectionId, farewell: Farewell) {
        self.ports.close(now, id, farewell);
        self.handle_closed(now, id, Disconnect::LOST);
    }

    /// Closes a leg that has no seat and no pair.
    fn dismiss(&mut self, now: Instant, id: ConnectionId, farewell: Farewell) {
        if !self.legs.contains_key(&id) {
            return;
        }
        self.ports.close(now, id, farewell);
        self.forget(id);
    }

    fn forget(&mut self, id: ConnectionId) {
        if let Some(leg) = self.legs.remove(&id) {
            self.guard.disconnected(leg.source, leg.is_half_open());
            self.half_open.end(id);
            self.checked(id);
            self.timers.set(Timer::Leg(id), None);
            self.timers.set(Timer::Proof(id), None);
        }
    }

    /// Closes the legs whose rooms expired while they waited.
    fn expire(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some((id, _)) = self.registry.poll_expired() {
            moved = true;
            self.leave(now, id, false, RoomEnd::Idle);
            self.refuse(now, id, RefusalReason::Idle, 0);
            self.converse(now, id);
        }
        moved
    }

    /// Accepts no new rooms, and notifies waiting clients.
    fn drain(&mut self, now: Instant, within: Duration) {
        let until = now.checked_add(within).unwrap_or(now);
        self.phase = Phase::Draining;
        self.actions.extend((0_u8..).zip(&self.listeners).filter_map(|(id, listener)| listener.shut(id)));
        self.timers.set(Timer::Drain, None);
        self.timers.set(Timer::Drain, Some(until));
        let talking = self.legs.iter().filter(|(_, leg)| matches!(leg.state, State::Talking { .. }));
        for id in talking.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.leave(now, id, false, RoomEnd::ShuttingDown);
            self.refuse(now, id, RefusalReason::ShuttingDown, 0);
            self.converse(now, id);
        }
        if within.is_zero() {
            self.stop(now);
        }
    }

    fn stop(&mut self, now: Instant) {
        for id in self.pairs.keys().copied().collect::<Vec<_>>() {
            self.end_pair(now, id, RoomEnd::ShuttingDown);
        }
        for id in self.legs.keys().copied().collect::<Vec<_>>() {
            self.dismiss(now, id, SHUTTING_DOWN);
        }
    }

    fn refused(&mut self, reason: Refused) {
        self.status.refused = self.status.refused.saturating_add(1);
        self.refusals.count(reason);
        self.emit(Event::Refused { reason });
    }

    /// Once a minute, reports how many clients were refused, and why. If the event queue is full, the report waits,
    /// because the single events may be lost.
    fn sum_up(&mut self, now: Instant) {
        if !self.refusals.is_empty() && self.events.len() < MAX_EVENTS {
            let refusals = std::mem::take(&mut self.refusals);
            self.emit(Event::Refusals(refusals));
        }
        self.summing_up = !self.refusals.is_empty();
        self.timers.set(Timer::Refusals, now.checked_add(SUMMARY).filter(|_| self.summing_up));
    }

    fn emit(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.status.events_lost = self.status.events_lost.saturating_add(1);
        }
    }

    /// The number of legs.
    #[cfg(test)]
    pub(super) fn legs(&self) -> usize {
        self.legs.len()
    }

    /// The number of bytes that each pair forwarded.
    #[cfg(test)]
    pub(super) fn moved(&self) -> Vec<u64> {
        self.pairs.values().map(|paired| paired.pair.moved()).collect()
    }

    /// How often a link was processed. Tests check that it does not depend on the number of links.
    #[cfg(test)]
    pub(super) fn visits(&self) -> u64 {
        self.ports.connections.visits()
    }
}

const REFUSED: Farewell = Farewell { code: close::REFUSED, text: "refused" };
const PEER_LEFT: Farewell = Farewell { code: close::PEER_LEFT, text: "the other peer left" };
const PEER_LOST: Farewell = Farewell { code: close::PEER_LOST, text: "the other peer's link was lost" };
const REPLACED: Farewell = Farewell { code: close::REPLACED, text: "replaced by a newer link" };
const SHUTTING_DOWN: Farewell = Farewell { code: close::SHUTTING_DOWN, text: "the relay is shutting down" };
const NOT_READING: Farewell = Farewell { code: close::VIOLATION, text: "the client does not read answers" };

impl Node for Relay {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
        if stun::is_stun(&data) {
            let Some(listener) = self.listeners.get_mut(usize::from(arrival.socket.0)) else { return };
            let count = match listener.answers.handle(now, &mut self.guard, arrival, &data) {
                Some(true) => &mut self.status.stun_answered,
                Some(false) => &mut self.status.stun_ignored,
                None => return,
            };
            *count = count.saturating_add(1);
        } else {
            self.ports.connections.handle_datagram(now, &arrival, data);
        }
    }

    fn handle_tcp(&mut self, now: Instant, tcp: TcpId, event: TcpEvent) {
        self.ports.connections.handle_tcp(now, tcp, event);
    }

    fn handle_accept(&mut self, now: Instant, listener: ListenerId, from: SocketAddr) -> Option<TcpId> {
        self.handle_tcp_accept(now, listener, from)
    }

    fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Bound(id, result) => self.bound(id, result),
            Input::Listening(id, result) => self.listening(id, result),
            Input::HandleDropped => self.drain(now, Duration::ZERO),
            // A relay requests none of these, and does not need the others.
            Input::Resolved(..) | Input::Done(_) | Input::Interfaces(_) | Input::Gateways(_) | Input::Slept(_) => {}
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), Misuse> {
        match command {
            Command::Drain { within } => self.drain(now, within),
            Command::Stop => self.drain(now, Duration::ZERO),
            Command::Status => {
                let rooms = self.registry.counts();
                self.status.connections = self.guard.connections();
                (self.status.waiting, self.status.paired) = (rooms.waiting, self.pairs.len());
                self.emit(Event::Status(self.status));
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.ports.connections.endpoints_mut().for_each(|quic| quic.handle_timeout(now));
        self.registry.handle_timeout(now);
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Leg(id) => {
                    if let Some(Leg { state: State::Talking { talk, .. }, .. }) = self.legs.get_mut(&id) {
                        if talk.handle_timeout(now) {
                            self.end(now, id, Ending::TooSlow);
                        } else {
                            self.converse(now, id);
                        }
                    }
                }
                Timer::Proof(id) => {
                    self.refused(Refused::TooSlow);
                    self.abort(now, id, Farewell { code: close::TOO_SLOW, text: "too slow" });
                }
                Timer::Pair(id) => {
                    let Some(paired) = self.pairs.get(&id) else { continue };
                    let due = paired.pair.poll_timeout();
                    if due <= now {
                        self.end_pair(now, id, paired.end);
                    } else {
                        self.timers.set(timer, Some(due));
                    }
                }
                Timer::Check(id) => self.unanswered(now, id),
                Timer::Refusals => self.sum_up(now),
                Timer::Drain => self.stop(now),
            }
        }
        // This comes after the legs: a client that is too slow to connect also counts as too slow to send a request.
        self.ports.connections.tcp_links.handle_timeout(now);
    }

    fn settle(&mut self, now: Instant) {
        loop {
            let mut moved = self.expire(now);
            self.ports.connections.settle(now);
            for socket in self.ports.connections.sockets().collect::<Vec<_>>() {
                moved |= self.admit(now, socket);
            }
            while let Some((id, event)) = self.ports.connections.poll_event() {
                moved = true;
                self.handle_event(now, id, event);
            }
            moved |= self.join_checked(now);
            if !moved {
                if !self.refusals.is_empty() && !self.summing_up {
                    self.summing_up = true;
                    self.timers.set(Timer::Refusals, now.checked_add(SUMMARY));
                }
                return;
            }
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front().or_else(|| self.ports.connections.tcp_links.poll_action())
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let at = usize::from(socket.0);
        let answer = self.listeners.get_mut(at)?.answers.poll_transmit(buf);
        answer.or_else(|| self.ports.connections.endpoint(socket)?.poll_transmit(now, max_segments, buf))
    }

    fn poll_tcp(&mut self) -> Option<TcpId> {
        self.ports.connections.poll_tcp()
    }

    fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        self.ports.connections.pipe_buffer(tcp)
    }

    fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        self.ports.connections.pipe_output(tcp, slices)
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let quic = self.ports.connections.poll_endpoint_timeout();
        let tcp_links = self.ports.connections.tcp_links.poll_timeout();
        let timers = [
            (quic, "quic"),
            (tcp_links, "a tcp"),
            (self.timers.next(), "a leg"),
            (self.registry.poll_timeout(), "a room"),
        ];
        timers.into_iter().filter_map(|(at, why)| Some((at?, why))).min()
    }

    fn is_closed(&self) -> bool {
        let nowhere = self.listeners.iter().all(Listener::has_failed);
        let drained = matches!(self.phase, Phase::Draining) && self.legs.is_empty();
        (nowhere || drained) && self.ports.connections.is_flushed()
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("legs", &self.legs.len())
            .field("pairs", &self.pairs.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod forwarding_tests;

#[cfg(test)]
mod tcp_tests;
