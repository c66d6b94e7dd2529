//! The configuration of an endpoint and its connections: windows, timers, congestion control, and the sources of
//! randomness and time. No state of its own.
//!
//! The reasons for the numbers:
//! - A stream's receive window stays at [`MAX_STREAM_WINDOW`]: quinn-proto ends a connection if a stream has more than
//!   1,024 gaps, and with 8 MB a lossy path reaches that number. Paths with a large bandwidth-delay product get their
//!   rate from several streams.
//! - Path MTU discovery stops at the size of an Ethernet frame. On the loopback interface it continues up to the
//!   largest datagram; there, 1 GiB through a relay costs 1.8 CPU-seconds of all three programs instead of 4.7.
//! - A packet is declared lost when one 64 later is acknowledged, not 3. Otherwise a path that reorders packets would
//!   nearly stop (1 % of its rate was left in simulation). On a path with few packets in flight, the time threshold of
//!   RFC 9002 §6.1.2 detects losses.
//! - Connection windows need memory, so each side has its own, and they can be raised during the connection.

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
use crate::net::{MARK, Slot};
use crate::seed::Seed;

/// The most unread data of one stream, in bytes.
pub const MAX_STREAM_WINDOW: u32 = 2_000_000;
/// The length of this endpoint's connection ids, in bytes.
const CONNECTION_ID: usize = MARK;
/// The length of the first destination connection id for a server that provided a mark: the mark and random bytes.
const FIRST_ID: usize = 2 * MARK;
/// The most bytes buffered for one connection before the owner decides about it.
const INCOMING_BYTES: u64 = 16 * 1024;
/// The same limit for all such connections together.
const INCOMING_BYTES_TOTAL: u64 = 1024 * 1024;
/// The largest datagram that this endpoint accepts: the maximum over IPv4. The receive buffers have room for it.
const MAX_DATAGRAM: u16 = 65_507;
/// The largest datagram that is sent over a network: it fits into an Ethernet frame together with the headers of IPv6
/// and one or two tunnels.
const NETWORK_MTU: u16 = 1452;
/// The largest datagram that is accepted from a network: an Ethernet packet. A piece of a stream keeps its whole
/// datagram in memory, so a longer datagram would use more memory than the flow-control credit of its bytes.
pub(super) const MAX_FROM_NETWORK: usize = 1500;
/// The MTU search stops at this distance from the largest working size, in bytes.
const MTU_STEP: u16 = 20;
/// The same on the loopback interface. quinn-proto parses each padding byte of a probe as a frame, so a step of 20
/// bytes would cost every connection twelve probes of 60 kB and 8 ms of CPU time at both ends.
const LOOPBACK_MTU_STEP: u16 = 8 << 10;

/// The largest MTU and the search step, for each kind of route.
const NETWORK: (u16, u16) = (NETWORK_MTU, MTU_STEP);
const LOOPBACK: (u16, u16) = (MAX_DATAGRAM, LOOPBACK_MTU_STEP);

/// The congestion controller of a connection. Those of quinn-proto serve as comparison in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// CUBIC (RFC 9438): reduces its window at every loss.
    #[cfg(test)]
    Cubic,
    /// quinn-proto's BBR: follows the measured bandwidth and round trip, and ignores loss.
    #[cfg(test)]
    Bbr,
    /// This crate's controller: follows the same measurements, and reduces its window where buffers are small.
    DeliveryRate,
}

/// The parameters of connections: windows in bytes, limits of streams, timers.
#[derive(Debug, Clone)]
pub struct Profile {
    /// How much unread data a connection may buffer, all its streams together.
    pub receive_window: u64,
    /// How much unread data one stream may buffer; [`MAX_STREAM_WINDOW`] at most.
    pub stream_receive_window: u32,
    /// How much unacknowledged data a connection may have.
    pub send_window: u64,
    /// How many bidirectional streams the other side may have open.
    pub max_bi_streams: u32,
    /// How many unidirectional streams the other side may have open.
    pub max_uni_streams: u32,
    /// A connection is lost when nothing was received for this long.
    pub idle_timeout: Duration,
    /// The keep-alive interval; with `None`, only application data is sent.
    pub keep_alive: Option<Duration>,
    /// The congestion controller.
    pub congestion: Congestion,
    /// A packet is declared lost when a packet this much later was acknowledged (RFC 9002 §6.1.1 recommends 3).
    pub packet_threshold: u32,
    /// The assumed round-trip time before the first measurement (RFC 9002 §6.2.2). A lost first flight is retransmitted
    /// after three times this value.
    pub initial_rtt: Duration,
    /// The socket is shared with other nodes: connection ids carry this mark, and packets to others are not answered.
    pub slot: Option<Slot>,
}

impl Profile {
    /// The profile of the two ends of a transfer.
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
            slot: None,
        }
    }

    /// The profile of the two ends of a direct path. A NAT that does not expect the first flight yet may drop it, so it
    /// is retransmitted soon. The session detects an idle link.
    #[must_use]
    pub const fn direct() -> Self {
        Self {
            initial_rtt: Duration::from_millis(80),
            idle_timeout: Duration::from_secs(20),
            keep_alive: None,
            ..Self::peer()
        }
    }

    /// The profile of a relay: each connection starts with small windows, which grow when measurements show the need.
    #[must_use]
    pub const fn relay() -> Self {
        Self { receive_window: 64 * 1024, send_window: 64 * 1024, keep_alive: None, ..Self::peer() }
    }
}

/// The limits of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most connections that wait for the owner's decision. Beyond it, first packets are not answered.
    pub incoming: usize,
    /// The most sessions that clients may resume, with data in their first flight; 0: none.
    pub sessions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { incoming: 256, sessions: 0 }
    }
}

#[expect(clippy::disallowed_types, reason = "quinn-proto uses this type; nothing here reads a clock")]
impl proto::TimeSource for Clock {
    fn now(&self) -> std::time::SystemTime {
        UNIX_EPOCH.checked_add(self.duration()).unwrap_or(UNIX_EPOCH)
    }
}

/// Generates connection ids from the seed; the library's own generator uses the system's randomness.
struct ConnectionIds {
    rng: ChaCha20Rng,
    slot: Option<Slot>,
}

impl proto::ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> proto::ConnectionId {
        let mut bytes = [0; CONNECTION_ID];
        self.rng.fill_bytes(&mut bytes);
        if let Some(slot) = &self.slot {
            slot.mark(&mut bytes);
        }
        proto::ConnectionId::new(&bytes)
    }

    /// A packet for another node gets no stateless reset: this endpoint knows nothing about that connection.
    fn validate(&self, id: &proto::ConnectionId) -> Result<(), proto::InvalidCid> {
        match &self.slot {
            Some(slot) if !slot.owns(id) => Err(proto::InvalidCid),
            Some(_) | None => Ok(()),
        }
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The id that a server is called by in the first packet.
fn first_id(rng: &mut ChaCha20Rng, mark: Option<[u8; MARK]>) -> proto::ConnectionId {
    let mut bytes = [0; FIRST_ID];
    rng.fill_bytes(&mut bytes);
    let (start, _) = bytes.split_at_mut(MARK);
    match mark {
        Some(mark) => {
            start.copy_from_slice(&mark);
            proto::ConnectionId::new(&bytes)
        }
        None => proto::ConnectionId::new(start),
    }
}

/// The endpoint's own configuration: connection ids, reset key and randomness from the seed.
pub(super) fn endpoint(seed: &Seed, slot: Option<Slot>, identity: Option<&Identity>) -> Arc<proto::EndpointConfig> {
    // A restarted server still resets the connections of its previous run (RFC 9000 §10.3), so that their clients
    // reconnect at once instead of waiting for their timeouts. The seed differs between runs; the certificate's key
    // does not.
    let secret = match identity {
        Some(identity) => Seed::new(blake3::derive_key("tallow v1 stateless reset", &identity.key)),
        None => seed.clone(),
    };
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, secret.derive("reset key").bytes());
    let mut config = proto::EndpointConfig::new(Arc::new(reset_key));
    let ids = seed.derive("connection ids");
    config
        .cid_generator(move || Box::new(ConnectionIds { rng: ids.rng(), slot }))
        .rng_seed(Some(*seed.derive("endpoint").bytes()))
        // Other protocols can share the socket, because QUIC's first byte is then always 01xxxxxx or 11xxxxxx (RFC
        // 9443).
        .grease_quic_bit(false);
    // The value is in range, so this cannot fail; the default would also work.
    let _ = config.max_udp_payload_size(MAX_DATAGRAM);
    Arc::new(config)
}

/// Configurations of connections, by their route.
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

/// The transport configurations for a profile.
pub(super) fn transports(profile: &Profile) -> ByRoute<proto::TransportConfig> {
    let [network, loopback] = [NETWORK, LOOPBACK].map(|mtu| Arc::new(transport(profile, mtu)));
    ByRoute { network, loopback }
}

/// The transport configuration for a connection over a network to a server whose round-trip time is known.
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
/// [`BadIdentity`] when the certificate and the key do not match.
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
        // The only permitted value except 0 (RFC 9001 §4.6.1).
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

/// The configuration of a client, for one connection. `mark`: the mark that the server provided. The provider above
/// never causes `None`.
pub(super) fn client(
    tls: Arc<rustls::ClientConfig>,
    transport: Arc<proto::TransportConfig>,
    mark: Option<[u8; MARK]>,
    rng: &mut ChaCha20Rng,
) -> Option<proto::ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls).ok()?;
    let mut config = proto::ClientConfig::new(Arc::new(crypto));
    let first_id = first_id(rng, mark);
    config
        .transport_config(transport)
        .token_store(Arc::new(proto::NoneTokenStore))
        .initial_dst_cid_provider(Arc::new(move || first_id));
    Some(config)
}
