//! One connection of an endpoint: what the library says about it, in the words of this crate.
//!
//! ```text
//! Handshaking ──ticket──► Early ──taken, or not (Restarted)──► Connected
//!      └──────────────────handshake done───────────────────────────┘
//! ```
//! No timers of its own. Bounds: each stream's readiness is told once at a time.

use std::collections::BTreeSet;

use quinn_proto as proto;

use super::congestion::AckCounter;
use super::event::{self, Event, Stream};
use super::silence::Silence;
use super::tickets::{CachedServer, TicketStore};
use crate::Instant;
use crate::link::trust::CertificateSeen;

/// See the module's text.
pub(super) struct Connection {
    pub(super) handle: proto::ConnectionHandle,
    pub(super) inner: proto::Connection,
    /// A client's.
    pub(super) server: Option<CachedServer>,
    pub(super) stage: Stage,
    pub(super) sending: bool,
    pub(super) silence: Silence,
    pub(super) acks: Option<AckCounter>,
    /// When the other end was heard last.
    pub(super) heard: Option<Instant>,
    /// [`super::Quic::probe`] was called, and nothing has arrived since.
    pub(super) probed: bool,
    /// The next packet is one that asks whether the path is there.
    pub(super) asks: bool,
    /// Streams with such an event in the queue.
    pub(super) readable: BTreeSet<Stream>,
    pub(super) writable: BTreeSet<Stream>,
}

/// What the owner of a connection was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Handshaking,
    /// That it can speak, before the handshake is done.
    Early,
    Connected,
    /// That it is over, or it said so itself.
    Over,
}

impl Connection {
    /// Tells what happened, in the words of this crate, and a stream's readiness once at a time.
    pub(super) fn tell(&mut self, store: &mut TicketStore, mut say: impl FnMut(Event)) {
        // Of a server's connection nobody is told before the handshake is done: those are two different promises.
        if self.stage == Stage::Handshaking
            && self.server.is_some()
            && self.inner.has_0rtt()
            && self.inner.is_handshaking()
        {
            self.stage = Stage::Early;
            say(Event::Connected { certificate: self.certificate() });
        }
        while let Some(event) = self.inner.poll() {
            match event {
                proto::Event::HandshakeDataReady
                | proto::Event::DatagramReceived
                | proto::Event::DatagramsUnblocked => {}
                proto::Event::Connected => {
                    let (before, certificate) =
                        (std::mem::replace(&mut self.stage, Stage::Connected), self.certificate());
                    self.refresh_controller();
                    if let Some(server) = &self.server {
                        store.keep(server.at(self.inner.rtt()));
                    }
                    match before {
                        Stage::Early if self.inner.accepted_0rtt() => {}
                        Stage::Early => {
                            (self.readable, self.writable) = (BTreeSet::new(), BTreeSet::new());
                            say(Event::Restarted { certificate });
                        }
                        Stage::Handshaking | Stage::Connected | Stage::Over => say(Event::Connected { certificate }),
                    }
                }
                proto::Event::ConnectionLost { reason } => {
                    self.end(store);
                    let server = self.server.as_ref();
                    if let Some(closed) = event::closed(reason, server.map(|server| &*server.verifier)) {
                        say(Event::Closed(closed));
                    }
                }
                proto::Event::Stream(proto::StreamEvent::Opened { dir }) => {
                    while let Some(stream) = self.inner.streams().accept(dir).map(Stream) {
                        say(Event::Opened(stream, stream.direction()));
                        if self.readable.insert(stream) {
                            say(Event::Readable(stream));
                        }
                    }
                }
                proto::Event::Stream(proto::StreamEvent::Readable { id }) => {
                    if self.readable.insert(Stream(id)) {
                        say(Event::Readable(Stream(id)));
                    }
                }
                proto::Event::Stream(proto::StreamEvent::Writable { id }) => {
                    if self.writable.insert(Stream(id)) {
                        say(Event::Writable(Stream(id)));
                    }
                }
                proto::Event::Stream(proto::StreamEvent::Finished { id }) => say(Event::Finished(Stream(id))),
                proto::Event::Stream(proto::StreamEvent::Stopped { id, error_code }) => {
                    say(Event::Stopped(Stream(id), event::short(error_code)));
                }
                proto::Event::Stream(proto::StreamEvent::Available { dir }) => {
                    say(Event::Available(event::direction(dir)))
                }
            }
        }
    }

    /// It is over, by whomever. A ticket that came to nothing is kept.
    pub(super) fn end(&mut self, store: &mut TicketStore) {
        if let (Stage::Handshaking | Stage::Early, Some(server)) = (self.stage, &self.server) {
            store.put_back(server);
        }
        self.stage = Stage::Over;
    }

    /// A timer fired.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.inner.handle_timeout(now);
        if self.stage == Stage::Connected {
            let waits_since = self.acks.as_ref().and_then(AckCounter::waits_since);
            self.asks |= self.silence.handle_timeout(now, waits_since, self.inner.rtt());
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        let own = self.silence.poll_timeout(|| self.acks.as_ref().and_then(AckCounter::waits_since));
        let own = own.filter(|_| self.stage == Stage::Connected);
        [self.inner.poll_timeout(), own].into_iter().flatten().min()
    }

    /// The next batch.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<proto::Transmit> {
        if !std::mem::take(&mut self.asks) {
            return self.inner.poll_transmit(now, segments, buf);
        }
        // All that may be in flight is in flight, most likely, and lost: one packet more does not wait for that.
        self.refresh_controller();
        self.acks.iter().for_each(|acks| acks.set_open(true));
        self.inner.ping();
        let transmit = self.inner.poll_transmit(now, 1, buf);
        self.acks.iter().for_each(|acks| acks.set_open(false));
        transmit
    }

    /// On another path the library may have made another controller.
    fn refresh_controller(&mut self) {
        self.acks = AckCounter::of(self.inner.congestion_state());
    }

    /// Whether it spoke early, and nobody seems to have heard it.
    pub(super) fn is_silent(&self) -> bool {
        self.stage == Stage::Early && self.inner.stats().udp_rx.datagrams == 0
    }

    fn certificate(&self) -> CertificateSeen {
        let verdict = self.server.as_ref().and_then(|server| server.verifier.verdict()?.ok());
        verdict.unwrap_or(CertificateSeen::NotAsked)
    }
}
