//! One connection of an endpoint: translates quinn-proto's events to this crate's.
//!
//! ```text
//! Handshaking ──ticket──► Early ──accepted, or rejected (Restarted)──► Connected
//!      └──────────────────handshake done───────────────────────────┘
//! ```
//! No timers of its own. Bounds: at most one readable and one writable event per stream is queued.

use std::collections::BTreeSet;

use quinn_proto as proto;

use super::congestion::AckCounter;
use super::event::{self, Event, Stream};
use super::silence::Silence;
use super::tickets::{CachedServer, TicketStore};
use crate::Instant;
use crate::link::trust::CertificateSeen;

/// One connection; see the module documentation.
pub(super) struct Connection {
    pub(super) handle: proto::ConnectionHandle,
    pub(super) inner: proto::Connection,
    /// For a client's connection: the server.
    pub(super) server: Option<CachedServer>,
    pub(super) stage: Stage,
    pub(super) sending: bool,
    pub(super) silence: Silence,
    pub(super) acks: Option<AckCounter>,
    /// When something was received from the other end last.
    pub(super) heard: Option<Instant>,
    /// [`super::Quic::probe`] was called, and nothing has arrived since.
    pub(super) probed: bool,
    /// The next packet is a probe of the path.
    pub(super) probe_due: bool,
    /// Streams with a queued event of this kind.
    pub(super) readable: BTreeSet<Stream>,
    pub(super) writable: BTreeSet<Stream>,
}

/// The last state that was reported to the owner of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Handshaking,
    /// Data can be sent, before the handshake is complete.
    Early,
    Connected,
    /// The connection is closed, by either side.
    Over,
}

impl Connection {
    /// Reports the events of the connection. At most one readiness event per stream is queued at a time.
    pub(super) fn report(&mut self, store: &mut TicketStore, mut emit: impl FnMut(Event)) {
        // A server's owner gets no event before the handshake is complete: early data and confirmed data give different
        // guarantees.
        if self.stage == Stage::Handshaking
            && self.server.is_some()
            && self.inner.has_0rtt()
            && self.inner.is_handshaking()
        {
            self.stage = Stage::Early;
            emit(Event::Connected { certificate: self.certificate() });
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
                            emit(Event::Restarted { certificate });
                        }
                        Stage::Handshaking | Stage::Connected | Stage::Over => emit(Event::Connected { certificate }),
                    }
                }
                proto::Event::ConnectionLost { reason } => {
                    self.end(store);
                    let server = self.server.as_ref();
                    if let Some(closed) = event::closed(reason, server.map(|server| &*server.verifier)) {
                        emit(Event::Closed(closed));
                    }
                }
                proto::Event::Stream(proto::StreamEvent::Opened { dir }) => {
                    while let Some(stream) = self.inner.streams().accept(dir).map(Stream) {
                        emit(Event::Opened(stream, stream.direction()));
                        if self.readable.insert(stream) {
                            emit(Event::Readable(stream));
                        }
                    }
                }
                proto::Event::Stream(proto::StreamEvent::Readable { id }) => {
                    if self.readable.insert(Stream(id)) {
                        emit(Event::Readable(Stream(id)));
                    }
                }
                proto::Event::Stream(proto::StreamEvent::Writable { id }) => {
                    if self.writable.insert(Stream(id)) {
                        emit(Event::Writable(Stream(id)));
                    }
                }
                proto::Event::Stream(proto::StreamEvent::Finished { id }) => emit(Event::Finished(Stream(id))),
                proto::Event::Stream(proto::StreamEvent::Stopped { id, error_code }) => {
                    emit(Event::Stopped(Stream(id), event::short(error_code)));
                }
                proto::Event::Stream(proto::StreamEvent::Available { dir }) => {
                    emit(Event::Available(event::direction(dir)))
                }
            }
        }
    }

    /// The connection ended, for any reason. If it was not established, its ticket is stored again.
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
            self.probe_due |= self.silence.handle_timeout(now, waits_since, self.inner.rtt());
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        let own = self.silence.poll_timeout(|| self.acks.as_ref().and_then(AckCounter::waits_since));
        let own = own.filter(|_| self.stage == Stage::Connected);
        [self.inner.poll_timeout(), own].into_iter().flatten().min()
    }

    /// The next batch of datagrams.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<proto::Transmit> {
        if !std::mem::take(&mut self.probe_due) {
            return self.inner.poll_transmit(now, segments, buf);
        }
        // The congestion window is probably full, and its packets are lost: send one packet regardless of the window.
        self.refresh_controller();
        self.acks.iter().for_each(|acks| acks.set_open(true));
        self.inner.ping();
        let transmit = self.inner.poll_transmit(now, 1, buf);
        self.acks.iter().for_each(|acks| acks.set_open(false));
        transmit
    }

    /// After a change of path, quinn-proto may have created another controller.
    fn refresh_controller(&mut self) {
        self.acks = AckCounter::of(self.inner.congestion_state());
    }

    /// Whether early data was sent and nothing has been received.
    pub(super) fn is_silent(&self) -> bool {
        self.stage == Stage::Early && self.inner.stats().udp_rx.datagrams == 0
    }

    fn certificate(&self) -> CertificateSeen {
        let verdict = self.server.as_ref().and_then(|server| server.verifier.verdict()?.ok());
        verdict.unwrap_or(CertificateSeen::NotAsked)
    }
}
