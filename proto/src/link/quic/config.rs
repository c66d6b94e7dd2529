//! How an endpoint and its connections are set up: windows, timers, congestion control, and where randomness and time
//! come from. No state of its own.
//!
//! Why the numbers are what they are:
//! - A stream's receive window stays at [`MAX_STREAM_WINDOW`]: quinn-proto ends a connection whose stream holds more
//!   than 1,024 gaps, and with 8 MB a lossy path gets there. Long fat paths get their rate from several streams.
//! - Discovery of the path's MTU ends at an Ethernet frame; on the loopback interface it goes to the largest datagram,
//!   where 1 GiB through a relay costs 1.8 CPU-seconds of all three programs instead of 4.7.
//! - Losing a packet is concluded from one 64 later, not 3: a path that reorders would stop otherwise (1 % of its rate
//!   was left in simulation). On a path with few packets in flight the time threshold of RFC 9002 §6.1.2 does it.
//! - Connection windows are memory, so they are set for each side and can be raised while the connection lives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::{hkdf, hmac};
use quinn_proto as proto;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::super::crypto::{self, ALPN, BadIdentity, Clock};
use super::super::trust::Identity;
use super::congestion::DeliveryRateConfig;
use super::tickets::{Sessions, TICKETS};
use crate::seed::Seed;

/// The most that one stream may hold unread, in bytes.
pub const MAX_STREAM_WINDOW: u32 = 2_000_000;
/// Bytes of a connection id that this endpoint gives out.
const CONNECTION_ID: usize = 8;
/// Bytes that arrive for one connection before the owner decided about it.
const INCOMING_BYTES: u64 = 16 * 1024;
/// The same for all together.
const INCOMING_BYTES_TOTAL: u64 = 1024 * 1024;
/// What one datagram may carry to us: the largest there is over IPv4, and the receive ring has room for it.
const MAX_DATAGRAM: u16 = 65_507;
/// What one datagram carries at most through a network: what fits into an Ethernet frame with
/// IPv6 and a tunnel or two around.
const NETWORK_MTU: u16 = 1452;
/// The longest datagram that is taken from a network: a packet of Ethernet. A piece of a stream holds the whole
/// datagram that brought it, so a longer one would cost more memory than its bytes count for.
pub(super) const MAX_FROM_NETWORK: usize = 1500;
/// How close to the largest datagram the search for it goes, in bytes.
const MTU_STEP: u16 = 20;
/// The same on the loopback. A probe is all padding, of which each byte is read as a frame of its own: going on to 20
/// bytes would cost every connection twelve probes of 60 kB and 8 ms of both ends' time.
const LOOPBACK_MTU_STEP: u16 = 8 << 10;

/// The two, and the step.
const NETWORK: (u16, u16) = (NETWORK_MTU, MTU_STEP);
const LOOPBACK: (u16, u16) = (MAX_DATAGRAM, LOOPBACK_MTU_STEP);

/// Which congestion controller paces a connection. Those of quinn-proto are there to compare with, in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// CUBIC (RFC 9438): backs off at every loss.
    #[cfg(test)]
    Cubic,
    /// quinn-proto's BBR: follows the measured bandwidth and round trip, whatever is lost.
    #[cfg(test)]
    Bbr,
    /// Our own: follows them too, and gives way where buffers are small.
    DeliveryRate,
}

/// How connections behave: windows in bytes, counts of streams, timers.
#[derive(Debug, Clone)]
pub struct Profile {
    /// What a connection may hold unread, all its streams together.
    pub receive_window: u64,
    /// What one stream may hold unread; [`MAX_STREAM_WINDOW`] at most.
    pub stream_receive_window: u32,
    /// What a connection may hold unacknowledged.
    pub send_window: u64,
    /// How many bidirectional streams the other side may have open.
    pub max_bi_streams: u32,
    /// How many unidirectional streams the other side may have open.
    pub max_uni_streams: u32,
    /// After this long with nothing heard a connection is lost.
    pub idle_timeout: Duration,
    /// Send something at least this often; `None`: only the application's own.
    pub keep_alive: Option<Duration>,
    /// The congestion controller.
    pub congestion: Congestion,
    /// A packet counts as lost when one this much later was acknowledged (RFC 9002 §6.1.1 says 3).
    pub packet_threshold: u32,
    /// What the round trip is taken for before it is known (RFC 9002 §6.2.2): a lost first flight
    /// is repeated after three of it.
    pub initial_rtt: Duration,
}

impl Profile {
    /// For the two ends of a transfer.
    #[must_use]
    pub const fn peer() -> Self {
        Self {
            receive_window: 32 * 1024 * 1024,
            stream_receive_window: MAX_STREAM_WINDOW,
            send_window: 32 * 1024 * 1024,
            max_bi_streams: 1,
            max_uni_streams: 16,
            idle_timeout: Duration::from_secs(45),
            keep_alive: Some(Duration::from_secs(15)),
            congestion: Congestion::DeliveryRate,
            packet_threshold: 64,
            initial_rtt: Duration::from_millis(333),
        }
    }

    /// For the two ends of a direct path. The first flight may well be lost to a NAT that does not expect it yet, so it
    /// is repeated soon; the session looks after silence.
    #[must_use]
    pub const fn direct() -> Self {
        Self {
            initial_rtt: Duration::from_millis(80),
            idle_timeout: Duration::from_secs(20),
            keep_alive: None,
            ..Self::peer()
        }
    }

    /// For a relay: each connection starts small and is raised by evidence.
    #[must_use]
    pub const fn relay() -> Self {
        Self { receive_window: 64 * 1024, send_window: 64 * 1024, keep_alive: None, ..Self::peer() }
    }
}

/// What a server keeps at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that wait for the owner's decision; beyond it, first packets are not answered.
    pub incoming: usize,
    /// Sessions that clients may resume, with data in their first flight; 0: none.
    pub sessions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { incoming: 256, sessions: 0 }
    }
}

#[expect(clippy::disallowed_types, reason = "quinn-proto asks in these terms; nothing here reads a clock")]
impl proto::TimeSource for Clock {
    fn now(&self) -> std::time::SystemTime {
        UNIX_EPOCH.checked_add(self.duration()).unwrap_or(UNIX_EPOCH)
    }
}

/// Connection ids from the seed; the library's own generator asks the system.
struct ConnectionIds(ChaCha20Rng);

impl proto::ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> proto::ConnectionId {
        connection_id(&mut self.0)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn connection_id(rng: &mut ChaCha20Rng) -> proto::ConnectionId {
    let mut bytes = [0; CONNECTION_ID];
    rng.fill_bytes(&mut bytes);
    proto::ConnectionId::new(&bytes)
}

/// The endpoint's own settings: ids, reset key and randomness from the seed.
pub(super) fn endpoint(seed: &Seed, identity: Option<&Identity>) -> Arc<proto::EndpointConfig> {
    // A server that was started again still resets the connections of its last life (RFC 9000 §10.3), so that
    // their clients come back at once and not after their own time-outs. The seed is another one then; what
    // stays is the certificate's key.
    let secret = match identity {
        Some(identity) => Seed::new(blake3::derive_key("tallow v1 stateless reset", &identity.key)),
        None => seed.clone(),
    };
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, secret.derive("reset key").bytes());
    let mut config = proto::EndpointConfig::new(Arc::new(reset_key));
    let ids = seed.derive("connection ids");
    config
        .cid_generator(move || Box::new(ConnectionIds(ids.rng())))
        .rng_seed(Some(*seed.derive("endpoint").bytes()))
        // So that other protocols can share the socket: QUIC's first byte is then always
        // 01xxxxxx or 11xxxxxx (RFC 9443).
        .grease_quic_bit(false);
    // In range, so it cannot fail; the default would do too.
    let _ = config.max_udp_payload_size(MAX_DATAGRAM);
    Arc::new(config)
}

/// Settings of connections, by where they go.
#[derive(Debug)]
pub(super) struct ByRoute<T> {
    network: Arc<T>,
    loopback: Arc<T>,
}

impl<T> ByRoute<T> {
    pub(super) fn to(&self, remote: SocketAddr) -> Arc<T> {
        if remote.ip().is_loopback() { self.loopback.clone() } else { self.network() }
    }

    pub(super) fn network(&self) -> Arc<T> {
        self.network.clone()
    }
}

/// How connections behave.
pub(super) fn transports(profile: &Profile) -> ByRoute<proto::TransportConfig> {
    let [network, loopback] = [NETWORK, LOOPBACK].map(|mtu| Arc::new(transport(profile, mtu)));
    ByRoute { network, loopback }
}

/// The same for a connection to a server whose round trip is known to be long.
pub(super) fn transport_of(profile: &Profile, rtt: Duration) -> Arc<proto::TransportConfig> {
    Arc::new(transport(&Profile { initial_rtt: rtt, ..profile.clone() }, NETWORK))
}

fn transport(profile: &Profile, (max_mtu, mtu_step): (u16, u16)) -> proto::TransportConfig {
    let mut config = proto::TransportConfig::default();
    let mut discovery = proto::MtuDiscoveryConfig::default();
    discovery.upper_bound(max_mtu).minimum_change(mtu_step);
    config
        .receive_window(var_int(profile.receive_window))
        .stream_receive_window(profile.stream_receive_window.min(MAX_STREAM_WINDOW).into())
        .send_window(profile.send_window)
        .max_concurrent_bidi_streams(profile.max_bi_streams.into())
        .max_concurrent_uni_streams(profile.max_uni_streams.into())
        .max_idle_timeout(proto::IdleTimeout::try_from(profile.idle_timeout).ok())
        .keep_alive_interval(profile.keep_alive)
        .packet_threshold(profile.packet_threshold.max(3))
        .initial_rtt(profile.initial_rtt)
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(None)
        .allow_spin(false);
    match profile.congestion {
        #[cfg(test)]
        Congestion::Cubic => config.congestion_controller_factory(Arc::new(proto::congestion::CubicConfig::default())),
        #[cfg(test)]
        Congestion::Bbr => config.congestion_controller_factory(Arc::new(proto::congestion::BbrConfig::default())),
        Congestion::DeliveryRate => config.congestion_controller_factory(Arc::new(DeliveryRateConfig)),
    };
    config
}

pub(super) fn var_int(value: u64) -> proto::VarInt {
    proto::VarInt::from_u64(value).unwrap_or(proto::VarInt::MAX)
}

/// A server's settings.
///
/// # Errors
/// [`BadIdentity`] when the identity's parts do not fit.
pub(super) fn server(
    identity: &Identity,
    limits: Limits,
    transports: &ByRoute<proto::TransportConfig>,
    clock: Arc<Clock>,
    seed: &Seed,
) -> Result<ByRoute<proto::ServerConfig>, BadIdentity> {
    let mut tls = crypto::server_tls(identity, &[ALPN], clock.clone())?;
    if limits.sessions > 0 {
        tls.send_tls13_tickets = TICKETS;
        tls.session_storage = Arc::new(Sessions::new(limits.sessions));
        // The one value beside 0 (RFC 9001 §4.6.1).
        tls.max_early_data_size = u32::MAX;
    }
    let crypto = QuicServerConfig::try_from(tls).map_err(|_| BadIdentity)?;
    let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(seed.derive("token key").bytes());
    let mut config = proto::ServerConfig::new(Arc::new(crypto), Arc::new(token_key));
    config
        .time_source(clock)
        .max_incoming(limits.incoming)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    let [network, loopback] = [&transports.network, &transports.loopback].map(|transport| {
        let mut config = config.clone();
        config.transport_config(transport.clone());
        Arc::new(config)
    });
    Ok(ByRoute { network, loopback })
}

/// The client's side of the same, for one connection. `None` never happens with the provider above.
pub(super) fn client(
    tls: Arc<rustls::ClientConfig>,
    transport: Arc<proto::TransportConfig>,
    rng: &mut ChaCha20Rng,
) -> Option<proto::ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls).ok()?;
    let mut config = proto::ClientConfig::new(Arc::new(crypto));
    let first_id = connection_id(rng);
    config
        .transport_config(transport)
        .token_store(Arc::new(proto::NoneTokenStore))
        .initial_dst_cid_provider(Arc::new(move || first_id));
    Some(config)
}
