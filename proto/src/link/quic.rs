//! One QUIC endpoint with its connections, for clients (peers) and servers (relays). It serves one UDP socket.
//!
//! Decides which connection a datagram belongs to, which connection sends next, and how large a batch it may send.
//! quinn-proto implements the protocol (RFC 9000-9002); no code outside this module uses it.
//!
//! ```text
//! connect / accept → handshaking → connected → closed (Closed event, or closed by this side) → drained: removed
//! ```
//! A closed connection stays for three probe timeouts, to answer packets that are still in flight. The timers of all
//! connections are in one ordered set.
//!
//! Order of calls: `handle_*` for each input, [`Quic::settle`] once per batch, then commands and polls in any order
//! until the polls return nothing. All work is proportional to the events: a connection is processed only when a
//! datagram, a deadline, a command or its turn to send requires it. The number of other connections does not matter.
//!
//! Bounds: undecided incoming connections by [`Limits`]; stateless answers by [`REPLIES`]; events by the streams that
//! the profile allows (each kind at most once per stream); stream data by the windows. The owner bounds the number of
//! connections by what it accepts.

mod config;
mod congestion;
mod connection;
mod event;
#[cfg(test)]
pub(crate) mod pair;
mod silence;
#[cfg(test)]
mod spoof_tests;
mod streams;
mod tickets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn_proto as proto;
use rand_chacha::ChaCha20Rng;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;

pub use super::crypto::{ALPN, BadIdentity};
#[cfg(feature = "internals")]
pub use super::read_write::{Read, Write};
#[cfg(not(feature = "internals"))]
pub(crate) use super::read_write::{Read, Write};
#[cfg(any(test, feature = "internals"))]
pub use config::Congestion;
#[cfg(test)]
pub(crate) use config::MAX_STREAM_WINDOW;
pub use config::{Limits, Profile};
pub use event::{CannotConnect, Closed, ConnId, Direction, Event, Stats, Stream};

use super::crypto::{self, Ticker};
use super::trust::{Fingerprint, Identity, Trust, Verifier};
use crate::Instant;
use crate::net::{Arrival, Ecn, MARK, Transmit};
use crate::ready::{Deadlines, ReadySet};
use crate::seed::Seed;
use config::ByRoute;
use connection::{Connection, Stage};
use silence::Silence;
use tickets::{CachedServer, TicketStore};

/// The most stateless answers (version negotiation, retry, refusal, reset) that wait for the socket. More are dropped,
/// as a network may drop them.
pub const REPLIES: usize = 64;
/// The most datagrams in one batch, so that one connection does not occupy the socket for long.
const MAX_SEGMENTS: usize = 32;
/// The name in the first packet to a server that is authenticated by the fingerprint of its certificate.
const DIRECT_NAME: &str = "tallow";
/// The most bytes in one batch: the kernel silently drops all of a larger batch.
const MAX_BATCH: usize = 65_507;

/// A QUIC endpoint; see the module documentation.
pub struct Quic {
    endpoint: proto::Endpoint,
    /// The socket is an IPv6 socket that also serves IPv4, and needs IPv4 addresses in mapped form.
    mapped: bool,
    profile: Profile,
    transports: ByRoute<proto::TransportConfig>,
    server: Option<ByRoute<proto::ServerConfig>>,
    provider: Arc<CryptoProvider>,
    roots: Option<Arc<RootCertStore>>,
    /// Servers with a previous connection.
    ticket_store: TicketStore,
    ticker: Ticker,
    rng: ChaCha20Rng,
    connections: BTreeMap<ConnId, Box<Connection>>,
    /// Connections by quinn-proto's handle, which is reused.
    by_handle: Vec<Option<ConnId>>,
    last_id: u32,
    incoming: VecDeque<Incoming>,
    replies: VecDeque<(Transmit, Vec<u8>)>,
    /// Changed since the last [`Self::settle`].
    touched: ReadySet<ConnId>,
    /// Connections that may have data to send; they take turns.
    sending: ReadySet<ConnId>,
    deadlines: Deadlines<ConnId>,
    events: VecDeque<(ConnId, Event)>,
    /// Probed connections on which something was received.
    answered: VecDeque<ConnId>,
    scratch: Vec<u8>,
    #[cfg(test)]
    visits: u64,
}

/// A new client. It must be passed to [`Quic::accept`], [`Quic::refuse`], [`Quic::retry`] or [`Quic::ignore`].
#[must_use = "it keeps a place until it is accepted, refused, retried or ignored"]
pub struct Incoming(proto::Incoming);

impl Incoming {
    /// The source address of its first packet. It may be forged: see [`Self::validated`].
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        canonical(self.0.remote_address())
    }

    /// Whether the client has proved that it receives packets at that address (it answered a retry).
    #[must_use]
    pub fn validated(&self) -> bool {
        self.0.remote_address_validated()
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("validated", &self.validated()).finish_non_exhaustive()
    }
}

impl Quic {
    /// An endpoint for clients. `unix_time` is the wall-clock time (since 1970) at the first call with a `now`.
    #[must_use]
    pub fn client(profile: &Profile, unix_time: Duration, seed: &Seed) -> Self {
        Self::new(profile, config::transports(profile), None, None, Ticker::new(unix_time), seed)
    }

    /// An endpoint for a server.
    ///
    /// # Errors
    /// [`BadIdentity`] when certificate and key cannot be used for a server.
    pub fn server(
        profile: &Profile,
        identity: &Identity,
        limits: Limits,
        unix_time: Duration,
        seed: &Seed,
    ) -> Result<Self, BadIdentity> {
        let (transports, ticker) = (config::transports(profile), Ticker::new(unix_time));
        let server = config::server(identity, limits, &transports, ticker.clock(), seed)?;
        Ok(Self::new(profile, transports, Some(server), Some(identity), ticker, seed))
    }

    fn new(
        profile: &Profile,
        transports: ByRoute<proto::TransportConfig>,
        server: Option<ByRoute<proto::ServerConfig>>,
        identity: Option<&Identity>,
        ticker: Ticker,
        seed: &Seed,
    ) -> Self {
        // The configuration for first packets. Each connection gets its own configuration when it is accepted.
        let general = server.as_ref().map(ByRoute::network);
        Self {
            mapped: false,
            endpoint: proto::Endpoint::new(config::endpoint(seed, profile.slot, identity), general, true, None),
            profile: profile.clone(),
            transports,
            server,
            provider: crypto::crypto_provider(),
            roots: None,
            ticket_store: TicketStore::default(),
            ticker,
            rng: seed.derive("first connection ids").rng(),
            connections: BTreeMap::new(),
            by_handle: Vec::new(),
            last_id: 0,
            incoming: VecDeque::new(),
            replies: VecDeque::new(),
            touched: ReadySet::new(),
            sending: ReadySet::new(),
            deadlines: Deadlines::new(),
            events: VecDeque::new(),
            answered: VecDeque::new(),
            scratch: Vec::new(),
            #[cfg(test)]
            visits: 0,
        }
    }

    /// Starts a connection to the address `to`. `name` is the DNS name or IP address that a public CA's certificate
    /// must be valid for.
    ///
    /// # Errors
    /// [`CannotConnect`]; in that case nothing has changed.
    pub fn connect(
        &mut self,
        now: Instant,
        to: SocketAddr,
        name: &str,
        trust: &Trust,
    ) -> Result<ConnId, CannotConnect> {
        self.ticker.tick(now);
        let server = self.new_server(to, name, trust)?;
        self.call(now, to, name, server, None)
    }

    /// Begins a connection to a server that may share its socket with others, and that gave this mark so that the first
    /// packet finds it. Only a certificate with this fingerprint is accepted.
    ///
    /// # Errors
    /// [`CannotConnect`]; nothing has changed then.
    pub fn connect_marked(
        &mut self,
        now: Instant,
        to: SocketAddr,
        fingerprint: Fingerprint,
        mark: [u8; MARK],
    ) -> Result<ConnId, CannotConnect> {
        self.ticker.tick(now);
        let server = self.new_server(to, DIRECT_NAME, &Trust::Pin(fingerprint))?;
        self.call(now, to, DIRECT_NAME, server, Some(mark))
    }

    /// Like [`Quic::connect`], to a server with a previous connection. If that server issued a ticket,
    /// [`Event::Connected`] follows at once, and the first flight includes the data that is sent now (0-RTT). An
    /// attacker can record and replay this flight, so it must contain only data that does no harm when it arrives
    /// twice. Without a ticket this is [`Quic::connect`].
    ///
    /// If nothing arrives within the first probe timeout, the connection ends ([`Closed::TimedOut`]). Otherwise lost
    /// early data would be retransmitted later than data that was sent after a handshake, when it may no longer be
    /// valid.
    ///
    /// # Errors
    /// [`CannotConnect`]; in that case nothing has changed.
    pub fn reconnect(
        &mut self,
        now: Instant,
        to: SocketAddr,
        name: &str,
        trust: &Trust,
    ) -> Result<ConnId, CannotConnect> {
        self.ticker.tick(now);
        match self.ticket_store.take(to, name, trust) {
            Some(server) => self.call(now, to, name, server, None),
            None => self.connect(now, to, name, trust),
        }
    }

    fn new_server(&mut self, to: SocketAddr, name: &str, trust: &Trust) -> Result<CachedServer, CannotConnect> {
        let roots = self.roots.get_or_insert_with(crypto::public_roots).clone();
        let verifier = Arc::new(Verifier::new(*trust, roots, &self.provider).ok_or(CannotConnect::TooMany)?);
        let tls = crypto::client_tls(verifier.clone(), ALPN, &self.provider, self.ticker.clock())
            .ok_or(CannotConnect::TooMany)?;
        Ok(CachedServer::new(to, name, verifier, tls))
    }

    fn call(
        &mut self,
        now: Instant,
        to: SocketAddr,
        name: &str,
        server: CachedServer,
        mark: Option<[u8; MARK]>,
    ) -> Result<ConnId, CannotConnect> {
        let transport = match server.rtt {
            rtt if rtt > self.profile.initial_rtt => config::transport_of(&self.profile, rtt),
            _ => self.transports.to(to),
        };
        let config =
            config::client(server.tls.clone(), transport, mark, &mut self.rng).ok_or(CannotConnect::TooMany)?;
        let (handle, inner) = self.endpoint.connect(now, config, to, name).map_err(|error| match error {
            proto::ConnectError::InvalidServerName(_) => CannotConnect::Name,
            proto::ConnectError::InvalidRemoteAddress(_) => CannotConnect::Address,
            proto::ConnectError::EndpointStopping
            | proto::ConnectError::CidsExhausted
            | proto::ConnectError::NoDefaultClientConfig
            | proto::ConnectError::UnsupportedVersion => CannotConnect::TooMany,
        })?;
        Ok(self.adopt(handle, inner, Some(server)))
    }

    /// Handles one datagram that arrived at this endpoint's socket.
    pub fn handle_datagram(&mut self, now: Instant, arrival: &Arrival, data: BytesMut) {
        self.ticker.tick(now);
        self.mapped |= arrival.from != canonical(arrival.from);
        let ecn = match arrival.ecn {
            Ecn::NotEct => None,
            Ecn::Ect0 => Some(proto::EcnCodepoint::Ect0),
            Ecn::Ect1 => Some(proto::EcnCodepoint::Ect1),
            Ecn::Ce => Some(proto::EcnCodepoint::Ce),
        };
        self.scratch.clear();
        let (from, buf) = (canonical(arrival.from), &mut self.scratch);
        if data.len() > config::MAX_FROM_NETWORK && !from.ip().is_loopback() {
            return;
        }
        match self.endpoint.handle(now, from, arrival.local_ip, ecn, data, buf) {
            Some(proto::DatagramEvent::ConnectionEvent(handle, event)) => {
                let Some(id) = self.by_handle.get(handle.0).copied().flatten() else { return };
                let Some(connection) = self.connections.get_mut(&id) else { return };
                connection.inner.handle_event(event);
                connection.heard = Some(now);
                if std::mem::take(&mut connection.probed) {
                    self.answered.push_back(id);
                }
                self.touched.mark(id);
            }
            Some(proto::DatagramEvent::NewConnection(incoming)) => match &self.profile.slot {
                // A first packet for another node that shares the socket.
                Some(slot) if !slot.owns(incoming.orig_dst_cid()) => self.endpoint.ignore(incoming),
                Some(_) | None => self.incoming.push_back(Incoming(incoming)),
            },
            Some(proto::DatagramEvent::Response(transmit)) => self.reply(&transmit),
            None => {}
        }
    }

    /// Checks the timers. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.ticker.tick(now);
        while let Some(id) = self.deadlines.take_due(now) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.handle_timeout(now);
            if connection.is_silent() {
                self.events.push_back((id, Event::Closed(Closed::TimedOut)));
                self.close(now, id, 0, "not heard");
                continue;
            }
            self.touched.mark(id);
        }
    }

    /// Processes all connections that changed: events, deadlines, ended connections. Call it once per batch of inputs.
    pub fn settle(&mut self, now: Instant) {
        self.ticker.tick(now);
        while let Some(id) = self.touched.take() {
            self.work_on(id);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// The next batch for the socket, appended to the empty `buf`: at most `max_segments` datagrams of equal size, of
    /// one connection. The connections take turns.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant, max_segments: NonZeroUsize, buf: &mut Vec<u8>) -> Option<Transmit> {
        debug_assert!(self.touched.is_empty(), "settle must be called before the polls");
        if let Some((transmit, bytes)) = self.replies.pop_front() {
            buf.extend_from_slice(&bytes);
            return Some(transmit);
        }
        while let Some(id) = self.sending.take() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.sending = false;
            let segments = segments(max_segments, connection.inner.current_mtu());
            let transmit = connection.poll_transmit(now, segments, buf);
            // Sending changes the timers, and may end the connection (when its keys are exhausted).
            self.visit(id);
            let Some(transmit) = transmit else { continue };
            self.mark_sending(id);
            return Some(self.outgoing(&transmit));
        }
        None
    }

    /// The next new client.
    #[must_use]
    pub fn poll_incoming(&mut self) -> Option<Incoming> {
        self.incoming.pop_front()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<(ConnId, Event)> {
        let (id, event) = self.events.pop_front()?;
        if let Some(connection) = self.connections.get_mut(&id) {
            match &event {
                Event::Readable(stream) => drop(connection.readable.remove(stream)),
                Event::Writable(stream) => drop(connection.writable.remove(stream)),
                Event::Connected { .. }
                | Event::Restarted { .. }
                | Event::Opened(..)
                | Event::Available(_)
                | Event::Finished(_)
                | Event::Stopped(..)
                | Event::Closed(_) => {}
            }
        }
        Some((id, event))
    }

    /// Accepts a client; [`Event::Connected`] or [`Event::Closed`] follows. Returns `None` if its first packet is
    /// invalid.
    pub fn accept(&mut self, now: Instant, incoming: Incoming) -> Option<ConnId> {
        self.ticker.tick(now);
        let config = self.server.as_ref().map(|server| server.to(incoming.from()));
        self.scratch.clear();
        match self.endpoint.accept(incoming.0, now, &mut self.scratch, config) {
            Ok((handle, inner)) => {
                let id = self.adopt(handle, inner, None);
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.heard = Some(now);
                }
                Some(id)
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.reply(&transmit);
                }
                None
            }
        }
    }

    /// Refuses a client; it gets [`Closed::Refused`].
    pub fn refuse(&mut self, incoming: Incoming) {
        self.scratch.clear();
        let transmit = self.endpoint.refuse(incoming.0, &mut self.scratch);
        self.reply(&transmit);
    }

    /// Requires a client to prove its address (RFC 9000 §8.1.2). The client connects again, validated. A client that is
    /// validated already is refused.
    pub fn retry(&mut self, incoming: Incoming) {
        self.scratch.clear();
        match self.endpoint.retry(incoming.0, &mut self.scratch) {
            Ok(transmit) => self.reply(&transmit),
            Err(error) => self.refuse(Incoming(error.into_incoming())),
        }
    }

    /// Drops a client without an answer.
    pub fn ignore(&mut self, incoming: Incoming) {
        self.endpoint.ignore(incoming.0);
    }

    /// Probes the other end (with a PING frame, RFC 9000 §19.2). [`Self::poll_answered`] reports the connection once
    /// anything arrives on it. The probe timeout retransmits lost packets. The caller decides how long to wait.
    pub fn probe(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.inner.ping();
        connection.probed = true;
        self.mark_sending(conn);
    }

    /// The next connection on which something arrived after a [`Self::probe`].
    #[must_use]
    pub fn poll_answered(&mut self) -> Option<ConnId> {
        self.answered.pop_front()
    }

    /// When something was received from the other end last.
    #[must_use]
    pub fn last_received(&self, conn: ConnId) -> Option<Instant> {
        self.connections.get(&conn)?.heard
    }

    /// This machine's addresses changed, or it slept: every connection sends a packet from its current address, and the
    /// other end validates the new path (RFC 9000 §9).
    pub fn handle_moved(&mut self) {
        let ids: Vec<ConnId> = self.connections.keys().copied().collect();
        for id in ids {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.inner.local_address_changed();
                self.mark_sending(id);
            }
        }
    }

    /// Closes a connection at once: undelivered data is lost, no event follows, and the other side receives the code
    /// and the reason.
    pub fn close(&mut self, now: Instant, conn: ConnId, code: u32, reason: &'static str) {
        self.ticker.tick(now);
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.end(&mut self.ticket_store);
        connection.inner.close(now, code.into(), Bytes::from_static(reason.as_bytes()));
        self.work_on(conn);
    }

    /// Sets how much unread data a connection may buffer, in bytes. A lower value applies only to future data.
    pub fn set_receive_window(&mut self, conn: ConnId, bytes: u64) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.inner.set_receive_window(config::var_int(bytes));
        self.mark_sending(conn);
    }

    /// Sets how much unacknowledged data a connection may have, in bytes.
    pub fn set_send_window(&mut self, conn: ConnId, bytes: u64) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.inner.set_send_window(bytes);
        // Streams that the old window blocked are writable now.
        self.work_on(conn);
    }

    /// The smoothed round-trip time.
    #[must_use]
    pub fn rtt(&self, conn: ConnId) -> Option<Duration> {
        self.connections.get(&conn).map(|connection| connection.inner.rtt())
    }

    /// The other end's current address (a client may migrate).
    #[must_use]
    pub fn remote(&self, conn: ConnId) -> Option<SocketAddr> {
        self.connections.get(&conn).map(|connection| connection.inner.remote_address())
    }

    /// The statistics of a connection.
    #[must_use]
    pub fn stats(&self, conn: ConnId) -> Option<Stats> {
        let stats = self.connections.get(&conn)?.inner.stats();
        Some(Stats {
            rtt: stats.path.rtt,
            mtu: stats.path.current_mtu,
            congestion_window: stats.path.cwnd,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
        })
    }

    /// The number of connections, including closed ones that are not removed yet.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether the connection may have data for the socket; after a close, until its CONNECTION_CLOSE was polled.
    #[cfg(test)]
    #[must_use]
    pub fn has_unsent(&self, conn: ConnId) -> bool {
        self.connections.get(&conn).is_some_and(|connection| connection.sending)
    }

    /// Whether no data waits for the socket.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.sending.is_empty() && self.replies.is_empty()
    }

    /// How many times a connection was processed. Tests use it to check that the work does not depend on the number of
    /// connections.
    #[cfg(test)]
    pub const fn visits(&self) -> u64 {
        self.visits
    }
}

impl Quic {
    fn adopt(
        &mut self,
        handle: proto::ConnectionHandle,
        inner: proto::Connection,
        server: Option<CachedServer>,
    ) -> ConnId {
        self.last_id = self.last_id.wrapping_add(1);
        let id = ConnId(self.last_id);
        if self.by_handle.len() <= handle.0 {
            self.by_handle.resize(handle.0.saturating_add(1), None);
        }
        if let Some(place) = self.by_handle.get_mut(handle.0) {
            *place = Some(id);
        }
        let (readable, writable) = (BTreeSet::new(), BTreeSet::new());
        let stage = Stage::Handshaking;
        let connection = Connection {
            handle,
            inner,
            server,
            stage,
            sending: false,
            silence: Silence::Heard,
            acks: None,
            heard: None,
            probed: false,
            probe_due: false,
            readable,
            writable,
        };
        self.connections.insert(id, Box::new(connection));
        self.work_on(id);
        id
    }

    /// Processes a changed connection, and gives it a turn to send.
    fn work_on(&mut self, id: ConnId) {
        self.visit(id);
        self.mark_sending(id);
    }

    /// Processes one connection: exchanges events with the endpoint, reports events, updates the timer, and removes the
    /// connection once it is drained.
    fn visit(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        #[cfg(test)]
        {
            self.visits = self.visits.wrapping_add(1);
        }
        let mut drained = false;
        while let Some(event) = connection.inner.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(connection.handle, event) {
                connection.inner.handle_event(answer);
                if !connection.sending {
                    connection.sending = true;
                    self.sending.mark(id);
                }
            }
        }
        connection.report(&mut self.ticket_store, |event| self.events.push_back((id, event)));
        if drained {
            if let Some(place) = self.by_handle.get_mut(connection.handle.0) {
                *place = None;
            }
            self.connections.remove(&id);
            self.deadlines.set(id, None);
        } else {
            self.deadlines.set(id, connection.poll_timeout());
        }
    }

    fn mark_sending(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.sending = true;
            self.sending.mark(id);
        }
    }

    /// Queues the answer that the endpoint wrote to `scratch`.
    fn reply(&mut self, transmit: &proto::Transmit) {
        if self.replies.len() < REPLIES
            && let Some(bytes) = self.scratch.get(..transmit.size)
        {
            let reply = (self.outgoing(transmit), bytes.to_vec());
            self.replies.push_back(reply);
        }
    }

    fn outgoing(&self, transmit: &proto::Transmit) -> Transmit {
        let ecn = match transmit.ecn {
            None => Ecn::NotEct,
            Some(proto::EcnCodepoint::Ect0) => Ecn::Ect0,
            Some(proto::EcnCodepoint::Ect1) => Ecn::Ect1,
            Some(proto::EcnCodepoint::Ce) => Ecn::Ce,
        };
        let to = match (self.mapped, transmit.destination) {
            (true, SocketAddr::V4(to)) => SocketAddr::from((to.ip().to_ipv6_mapped(), to.port())),
            (_, to) => to,
        };
        Transmit { to, src_ip: transmit.src_ip, ecn, size: transmit.size, segment_size: transmit.segment_size }
    }
}

/// How many datagrams of this size fit into one batch.
fn segments(max: NonZeroUsize, mtu: u16) -> usize {
    let fit = MAX_BATCH.checked_div(usize::from(mtu)).unwrap_or(1);
    max.get().min(MAX_SEGMENTS).min(fit).max(1)
}

/// Converts an IPv4-mapped IPv6 address to the IPv4 address.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests;
