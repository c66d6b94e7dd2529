//! One QUIC endpoint with its connections, for clients (peers) and servers (relays): what one UDP socket carries.
//!
//! Decides which connection a datagram belongs to, which connection sends next, and how large a batch it may send. The
//! protocol itself (RFC 9000-9002) is quinn-proto's, and nothing outside this module names it.
//!
//! ```text
//! connect / accept → handshaking → connected → closed (Closed event, or our own close) → drained: forgotten
//! ```
//! After a close a connection stays for three probe timeouts, to answer what is still on its way. Timers are the
//! connections' own, in one ordered set.
//!
//! Order of calls: `handle_*` as they come, [`Quic::settle`] once per batch, then commands and polls in any order until
//! the polls have nothing. All work is proportional to what happened: a connection is looked at when a datagram, a
//! deadline, a command or its turn to send touches it, and never because there are others.
//!
//! Bounds: undecided incoming connections by [`Limits`]; stateless answers by [`REPLIES`]; events by the streams that
//! the profile allows (each kind at most once per stream); stream data by the windows. How many connections there are
//! is for the owner to bound, when it accepts.

mod config;
mod congestion;
mod connection;
mod event;
#[cfg(test)]
mod pair;
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
pub use super::{Read, Write};
pub use config::{Congestion, Limits, MAX_STREAM_WINDOW, Profile};
pub use event::{CannotConnect, Closed, ConnId, Direction, Event, Stats, Stream};

use super::crypto::{self, Ticker};
use super::trust::{Identity, Trust, Verifier};
use crate::Instant;
use crate::net::{Arrival, Ecn, Transmit};
use crate::ready::{Deadlines, ReadySet};
use crate::seed::Seed;
use config::ByRoute;
use connection::{Connection, Stage};
use silence::Silence;
use tickets::{CachedServer, TicketStore};

/// Stateless answers (version negotiation, retry, refusal, reset) that wait for the socket; more are dropped, as a
/// network may.
pub const REPLIES: usize = 64;
/// Datagrams in one batch, so that one connection does not hold the socket for long.
const MAX_SEGMENTS: usize = 32;
/// Bytes in one batch: the kernel loses all of a larger one without a word.
const MAX_BATCH: usize = 65_507;

/// A QUIC endpoint: see the module's text.
pub struct Quic {
    endpoint: proto::Endpoint,
    /// The socket is an IPv6 one that serves IPv4 too, and wants IPv4 addresses in mapped form.
    mapped: bool,
    profile: Profile,
    transports: ByRoute<proto::TransportConfig>,
    server: Option<ByRoute<proto::ServerConfig>>,
    provider: Arc<CryptoProvider>,
    roots: Option<Arc<RootCertStore>>,
    /// Servers that were reached before.
    ticket_store: TicketStore,
    ticker: Ticker,
    rng: ChaCha20Rng,
    connections: BTreeMap<ConnId, Box<Connection>>,
    /// By the library's own handle, which is used again.
    by_handle: Vec<Option<ConnId>>,
    last_id: u32,
    incoming: VecDeque<Incoming>,
    replies: VecDeque<(Transmit, Vec<u8>)>,
    /// Touched since the last [`Self::settle`].
    touched: ReadySet<ConnId>,
    /// May have something to send, in turn.
    sending: ReadySet<ConnId>,
    deadlines: Deadlines<ConnId>,
    events: VecDeque<(ConnId, Event)>,
    /// Probed connections that were heard.
    answered: VecDeque<ConnId>,
    scratch: Vec<u8>,
    #[cfg(test)]
    visits: u64,
}

/// A client that knocks. It must be given back: [`Quic::accept`], [`Quic::refuse`], [`Quic::retry`] or
/// [`Quic::ignore`].
#[must_use = "it keeps a place until it is accepted, refused, retried or ignored"]
pub struct Incoming(proto::Incoming);

impl Incoming {
    /// Where its first packet came from, as far as that is true: see [`Self::validated`].
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        canonical(self.0.remote_address())
    }

    /// Whether it has proved that it receives at that address (it answered a retry).
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
    /// An endpoint that connects. `unix_time` is the wall-clock time (since 1970) at the first call that brings a
    /// `now`.
    #[must_use]
    pub fn client(profile: &Profile, unix_time: Duration, seed: &Seed) -> Self {
        Self::new(profile, config::transports(profile), None, None, Ticker::new(unix_time), seed)
    }

    /// An endpoint that is connected to.
    ///
    /// # Errors
    /// [`BadIdentity`] when certificate and key do not make a server.
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
        // The one that first packets are judged by; which one a connection gets is decided when it is accepted.
        let general = server.as_ref().map(ByRoute::network);
        Self {
            mapped: false,
            endpoint: proto::Endpoint::new(config::endpoint(seed, identity), general, true, None),
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

    /// Begins a connection. `name` is the DNS name or IP address that a public authority would vouch for, `to` where it
    /// is.
    ///
    /// # Errors
    /// [`CannotConnect`]; nothing has changed then.
    pub fn connect(
        &mut self,
        now: Instant,
        to: SocketAddr,
        name: &str,
        trust: &Trust,
    ) -> Result<ConnId, CannotConnect> {
        self.ticker.tick(now);
        let roots = self.roots.get_or_insert_with(crypto::public_roots).clone();
        let verifier = Arc::new(Verifier::new(*trust, roots, &self.provider).ok_or(CannotConnect::TooMany)?);
        let tls = crypto::client_tls(verifier.clone(), ALPN, &self.provider, self.ticker.clock())
            .ok_or(CannotConnect::TooMany)?;
        self.call(now, to, name, CachedServer::new(to, name, verifier, tls))
    }

    /// The same, to a server that was reached before from here, if it gave a ticket: then [`Event::Connected`] comes at
    /// once, and what is said goes out with the first flight. Others can record such a flight and send it again, so
    /// that nothing may be said in it which does harm when it is said twice. Without a ticket it is [`Quic::connect`].
    ///
    /// If nothing is heard within the first probe timeout, the connection is over ([`Closed::TimedOut`]): what was lost
    /// of such a flight would come later than what is said after a handshake, and perhaps when it is no longer meant.
    ///
    /// # Errors
    /// [`CannotConnect`]; nothing has changed then.
    pub fn reconnect(
        &mut self,
        now: Instant,
        to: SocketAddr,
        name: &str,
        trust: &Trust,
    ) -> Result<ConnId, CannotConnect> {
        self.ticker.tick(now);
        match self.ticket_store.take(to, name, trust) {
            Some(server) => self.call(now, to, name, server),
            None => self.connect(now, to, name, trust),
        }
    }

    fn call(
        &mut self,
        now: Instant,
        to: SocketAddr,
        name: &str,
        server: CachedServer,
    ) -> Result<ConnId, CannotConnect> {
        let transport = match server.rtt {
            rtt if rtt > self.profile.initial_rtt => config::transport_of(&self.profile, rtt),
            _ => self.transports.to(to),
        };
        let config = config::client(server.tls.clone(), transport, &mut self.rng).ok_or(CannotConnect::TooMany)?;
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

    /// One datagram that arrived at this endpoint's socket.
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
            Some(proto::DatagramEvent::NewConnection(incoming)) => self.incoming.push_back(Incoming(incoming)),
            Some(proto::DatagramEvent::Response(transmit)) => self.reply(&transmit),
            None => {}
        }
    }

    /// Deadlines may have come. A spurious call is a no-op.
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

    /// Moves what was touched on: events, deadlines, connections that are over. Once per batch of inputs.
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

    /// The next batch for the socket, appended to the empty `buf`: at most `max_segments` datagrams of one size, of one
    /// connection; the connections take turns.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant, max_segments: NonZeroUsize, buf: &mut Vec<u8>) -> Option<Transmit> {
        debug_assert!(self.touched.is_empty(), "settle comes before the polls");
        if let Some((transmit, bytes)) = self.replies.pop_front() {
            buf.extend_from_slice(&bytes);
            return Some(transmit);
        }
        while let Some(id) = self.sending.take() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.sending = false;
            let segments = segments(max_segments, connection.inner.current_mtu());
            let transmit = connection.poll_transmit(now, segments, buf);
            // Sending moves timers, and may even end the connection (its keys are used up).
            self.visit(id);
            let Some(transmit) = transmit else { continue };
            self.mark_sending(id);
            return Some(self.outgoing(&transmit));
        }
        None
    }

    /// The next client that knocks.
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

    /// Takes a client in; [`Event::Connected`] or [`Event::Closed`] follows. `None`: its first packet was no good.
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

    /// Tells a client that it is not welcome ([`Closed::Refused`] there).
    pub fn refuse(&mut self, incoming: Incoming) {
        self.scratch.clear();
        let transmit = self.endpoint.refuse(incoming.0, &mut self.scratch);
        self.reply(&transmit);
    }

    /// Asks a client to prove its address (RFC 9000 §8.1.2); it knocks again, validated. One that did already is
    /// refused.
    pub fn retry(&mut self, incoming: Incoming) {
        self.scratch.clear();
        match self.endpoint.retry(incoming.0, &mut self.scratch) {
            Ok(transmit) => self.reply(&transmit),
            Err(error) => self.refuse(Incoming(error.into_incoming())),
        }
    }

    /// Lets a client wait for an answer that never comes.
    pub fn ignore(&mut self, incoming: Incoming) {
        self.endpoint.ignore(incoming.0);
    }

    /// Asks the other end for a sign of life (a PING frame, RFC 9000 §19.2): [`Self::poll_answered`] names the
    /// connection once anything arrives on it. Lost packets are sent again by the probe timeout. How long to wait is
    /// the caller's to decide.
    pub fn probe(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.inner.ping();
        connection.probed = true;
        self.mark_sending(conn);
    }

    /// The next connection that was heard after a [`Self::probe`].
    #[must_use]
    pub fn poll_answered(&mut self) -> Option<ConnId> {
        self.answered.pop_front()
    }

    /// When the other end was heard last.
    #[must_use]
    pub fn heard(&self, conn: ConnId) -> Option<Instant> {
        self.connections.get(&conn)?.heard
    }

    /// This machine's addresses changed, or it slept: every connection shows that it is there, from wherever that is
    /// now, and the other ends look whether it is the same one (RFC 9000 §9).
    pub fn handle_moved(&mut self) {
        let ids: Vec<ConnId> = self.connections.keys().copied().collect();
        for id in ids {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.inner.local_address_changed();
                self.mark_sending(id);
            }
        }
    }

    /// Closes a connection at once: what was not delivered is lost, no event follows, the other side gets code and
    /// reason.
    pub fn close(&mut self, now: Instant, conn: ConnId, code: u32, reason: &'static str) {
        self.ticker.tick(now);
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.end(&mut self.ticket_store);
        connection.inner.close(now, code.into(), Bytes::from_static(reason.as_bytes()));
        self.work_on(conn);
    }

    /// Raises (or lowers, for what comes) what a connection may hold unread, in bytes.
    pub fn set_receive_window(&mut self, conn: ConnId, bytes: u64) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.inner.set_receive_window(config::var_int(bytes));
        self.mark_sending(conn);
    }

    /// Changes what a connection may hold unacknowledged, in bytes.
    pub fn set_send_window(&mut self, conn: ConnId, bytes: u64) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.inner.set_send_window(bytes);
        // Streams that were blocked by it are writable now.
        self.work_on(conn);
    }

    /// The smoothed round trip.
    #[must_use]
    pub fn rtt(&self, conn: ConnId) -> Option<Duration> {
        self.connections.get(&conn).map(|connection| connection.inner.rtt())
    }

    /// The other end's address now (a client may move).
    #[must_use]
    pub fn remote(&self, conn: ConnId) -> Option<SocketAddr> {
        self.connections.get(&conn).map(|connection| connection.inner.remote_address())
    }

    /// Figures of a connection.
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

    /// How many connections there are, those that are closed and not yet forgotten with them.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether the connection may have something for the socket: after a close, until CONNECTION_CLOSE was handed out.
    #[must_use]
    pub fn has_unsent(&self, conn: ConnId) -> bool {
        self.connections.get(&conn).is_some_and(|connection| connection.sending)
    }

    /// Whether nothing at all waits for the socket.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.sending.is_empty() && self.replies.is_empty()
    }

    /// How often a connection was looked at: tests check that it does not depend on how many there are.
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
            asks: false,
            readable,
            writable,
        };
        self.connections.insert(id, Box::new(connection));
        self.work_on(id);
        id
    }

    /// After a connection was touched: what follows, and a turn to send.
    fn work_on(&mut self, id: ConnId) {
        self.visit(id);
        self.mark_sending(id);
    }

    /// Moves one connection on: to the endpoint and back, to the owner, to the timers, to the grave.
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
        connection.tell(&mut self.ticket_store, |event| self.events.push_back((id, event)));
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

/// An IPv4 address that came mapped into IPv6 is an IPv4 address.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests;
