//! One QUIC endpoint with its connections, for clients (peers) and servers (relays): what one UDP socket carries.
//!
//! Decides which connection a datagram belongs to, which connection sends next, and how large a batch it may send. The protocol
//! itself (RFC 9000-9002) is quinn-proto's, and nothing outside this module names it.
//!
//! ```text
//! connection:  connect / accept → handshaking → connected → closed (Closed event, or our own close) → drained: forgotten
//! ```
//! After a close a connection stays for three probe timeouts, to answer what is still on its way. Timers are the connections'
//! own, in one ordered set.
//!
//! Order of calls: `handle_*` and commands as they come, [`Quic::settle`] once per batch, then the polls until they have
//! nothing. All work is proportional to what happened: a connection is looked at when a datagram, a deadline, a command or its
//! turn to send touches it, and never because there are others.
//!
//! Bounds: undecided incoming connections by [`Limits`]; stateless answers by [`REPLIES`]; events by the streams that the
//! profile allows (each kind at most once per stream); stream data by the windows. How many connections there are is for the
//! owner to bound, when it accepts.

mod config;
mod event;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn_proto as proto;
use rand_chacha::ChaCha20Rng;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;

pub use config::{ALPN, BadIdentity, Congestion, Limits, MAX_STREAM_WINDOW, Profile};
pub use event::{CannotConnect, Closed, ConnId, Direction, Event, Read, Stats, Stream, Write};

use super::trust::{CertificateSeen, Identity, Trust, Verifier};
use crate::Instant;
use crate::node::{Arrival, Ecn, Transmit};
use crate::ready::{Deadlines, ReadySet};
use crate::seed::Seed;
use crate::wire::untrusted::Untrusted;
use config::Ticker;

/// Stateless answers (version negotiation, retry, refusal, reset) that wait for the socket; more are dropped, as a network may.
pub const REPLIES: usize = 64;
/// Datagrams in one batch, so that one connection does not hold the socket for long.
const MAX_SEGMENTS: usize = 32;
/// Bytes in one batch: the kernel loses all of a larger one without a word.
const MAX_BATCH: usize = 65_507;
/// TLS alert 120, no_application_protocol (RFC 7301 §3.2), as a QUIC error (RFC 9001 §4.8).
const NO_APPLICATION_PROTOCOL: u64 = 0x178;

/// A QUIC endpoint: see the module's text.
pub struct Quic {
    endpoint: proto::Endpoint,
    server: bool,
    transport: Arc<proto::TransportConfig>,
    provider: Arc<CryptoProvider>,
    roots: Option<Arc<RootCertStore>>,
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
    scratch: Vec<u8>,
    visits: u64,
}

struct Connection {
    handle: proto::ConnectionHandle,
    inner: proto::Connection,
    verifier: Option<Arc<Verifier>>,
    sending: bool,
    /// Streams with such an event in the queue.
    readable: BTreeSet<Stream>,
    writable: BTreeSet<Stream>,
}

/// A client that knocks. It must be given back: [`Quic::accept`], [`Quic::refuse`], [`Quic::retry`] or [`Quic::ignore`].
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
    /// An endpoint that connects. `unix_time` is the wall-clock time (since 1970) at the first call that brings a `now`.
    #[must_use]
    pub fn client(profile: &Profile, unix_time: Duration, seed: &Seed) -> Self {
        Self::new(config::transport(profile), None, Ticker::new(unix_time), seed)
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
        let (transport, ticker) = (config::transport(profile), Ticker::new(unix_time));
        let server = config::server(identity, limits, transport.clone(), ticker.clock(), seed)?;
        Ok(Self::new(transport, Some(server), ticker, seed))
    }

    fn new(
        transport: Arc<proto::TransportConfig>,
        server: Option<Arc<proto::ServerConfig>>,
        ticker: Ticker,
        seed: &Seed,
    ) -> Self {
        Self {
            server: server.is_some(),
            endpoint: proto::Endpoint::new(config::endpoint(seed), server, true, None),
            transport,
            provider: config::crypto_provider(),
            roots: None,
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
            scratch: Vec::new(),
            visits: 0,
        }
    }

    /// Begins a connection. `name` is the DNS name or IP address that a public authority would vouch for, `to` where it is.
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
        todo!()
    }

    /// One datagram that arrived at this endpoint's socket.
    pub fn handle_datagram(&mut self, now: Instant, arrival: &Arrival, data: BytesMut) {
        todo!()
    }

    /// Deadlines may have come. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }

    /// Moves what was touched on: events, deadlines, connections that are over. Once per batch of inputs.
    pub fn settle(&mut self, now: Instant) {
        todo!()
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
        todo!()
    }

    /// The next client that knocks.
    #[must_use]
    pub fn poll_incoming(&mut self) -> Option<Incoming> {
        self.incoming.pop_front()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<(ConnId, Event)> {
        todo!()
    }

    /// Takes a client in; [`Event::Connected`] or [`Event::Closed`] follows. `None`: its first packet was no good.
    pub fn accept(&mut self, now: Instant, incoming: Incoming) -> Option<ConnId> {
        todo!()
    }

    /// Tells a client that it is not welcome ([`Closed::Refused`] there).
    pub fn refuse(&mut self, incoming: Incoming) {
        todo!()
    }

    /// Asks a client to prove its address (RFC 9000 §8.1.2); it knocks again, validated. One that did already is refused.
    pub fn retry(&mut self, incoming: Incoming) {
        todo!()
    }

    /// Lets a client wait for an answer that never comes.
    pub fn ignore(&mut self, incoming: Incoming) {
        todo!()
    }

    /// Opens a stream that both sides write to. `None`: no more are allowed now, or the connection is gone.
    pub fn open_bi(&mut self, conn: ConnId) -> Option<Stream> {
        todo!()
    }

    /// Opens a stream that only we write to. `None`: no more are allowed now, or the connection is gone.
    pub fn open_uni(&mut self, conn: ConnId) -> Option<Stream> {
        todo!()
    }

    /// The next bytes of a stream, in order, at most `max`: a view into the datagram that brought them.
    pub fn read(&mut self, conn: ConnId, stream: Stream, max: usize) -> Read {
        todo!()
    }

    /// The same for many pieces at once, which is cheaper: appends them to `out` until there is nothing more, or until `max`
    /// bytes are there (then [`Read::Blocked`] is not said). Returns how many bytes, and what stopped it: `None` for `max`.
    pub fn read_chunks(
        &mut self,
        conn: ConnId,
        stream: Stream,
        max: usize,
        out: &mut impl Extend<Bytes>,
    ) -> (usize, Option<Read>) {
        todo!()
    }

    /// Writes what the windows allow, without copying; `data` keeps the rest.
    pub fn write(&mut self, conn: ConnId, stream: Stream, data: &mut Bytes) -> Write {
        self.write_chunks(conn, stream, std::slice::from_mut(data))
    }

    /// The same for many pieces; those that were taken are left empty.
    pub fn write_chunks(&mut self, conn: ConnId, stream: Stream, data: &mut [Bytes]) -> Write {
        todo!()
    }

    /// Says that nothing more will be written; [`Event::Finished`] follows once all is acknowledged.
    pub fn finish(&mut self, conn: ConnId, stream: Stream) {
        todo!()
    }

    /// Gives up writing: what was not delivered is dropped.
    pub fn reset(&mut self, conn: ConnId, stream: Stream, code: u32) {
        todo!()
    }

    /// Gives up reading: the other side is told to stop.
    pub fn stop(&mut self, conn: ConnId, stream: Stream, code: u32) {
        todo!()
    }

    /// Streams with a higher priority send first; all begin with 0.
    pub fn set_priority(&mut self, conn: ConnId, stream: Stream, priority: i32) {
        todo!()
    }

    /// Closes a connection at once: what was not delivered is lost, no event follows, the other side gets code and reason.
    pub fn close(&mut self, now: Instant, conn: ConnId, code: u32, reason: &'static str) {
        todo!()
    }

    /// Raises (or lowers, for what comes) what a connection may hold unread, in bytes.
    pub fn set_receive_window(&mut self, conn: ConnId, bytes: u64) {
        todo!()
    }

    /// Changes what a connection may hold unacknowledged, in bytes.
    pub fn set_send_window(&mut self, conn: ConnId, bytes: u64) {
        todo!()
    }

    /// The smoothed round trip.
    #[must_use]
    pub fn rtt(&self, conn: ConnId) -> Option<Duration> {
        todo!()
    }

    /// The other end's address now (a client may move).
    #[must_use]
    pub fn remote(&self, conn: ConnId) -> Option<SocketAddr> {
        todo!()
    }

    /// Figures of a connection.
    #[must_use]
    pub fn stats(&self, conn: ConnId) -> Option<Stats> {
        todo!()
    }

    /// How many connections there are, those that are closed and not yet forgotten with them.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether the connection may have something for the socket: after a close, until CONNECTION_CLOSE was handed out.
    #[must_use]
    pub fn has_unsent(&self, conn: ConnId) -> bool {
        todo!()
    }

    /// Whether nothing at all waits for the socket.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.sending.is_empty() && self.replies.is_empty()
    }

    /// How many times a connection was looked at: the work done, for the tests that hold it to be independent of their number.
    #[must_use]
    pub const fn visits(&self) -> u64 {
        self.visits
    }
}

/// An IPv4 address that came mapped into IPv6 is an IPv4 address.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
