//! What the TLS of all links has in common: the crypto library, the public CAs, the protocol name, the clock, and the
//! configurations of both sides. No state of its own except the [`Clock`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use super::trust::{Identity, Verifier};
use crate::Instant;

/// The protocol's name in the TLS handshake (RFC 7301), for version 1.
pub const ALPN: &[u8] = b"tallow/1";

/// The certificate and the key cannot be used for a TLS server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate or its private key cannot be used, or they do not match")]
pub struct BadIdentity;

/// The wall-clock time for certificates and tokens: the time that the caller gave at the start, plus the time that
/// passed since, measured by `Instant`.
///
/// The libraries ask for the time in the middle of a handshake and have no access to our `now`, so it is stored here.
pub(super) struct Clock {
    micros: AtomicU64,
}

impl Clock {
    /// The duration since the Unix epoch.
    pub(super) fn duration(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({:?})", self.duration())
    }
}

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.duration()))
    }
}

/// Advances the [`Clock`] whenever its owner gets the current time.
#[derive(Debug)]
pub(super) struct Ticker {
    clock: Arc<Clock>,
    at_start: Duration,
    start: Option<Instant>,
}

impl Ticker {
    pub(super) fn new(unix_time: Duration) -> Self {
        let micros = AtomicU64::new(micros(unix_time));
        Self { clock: Arc::new(Clock { micros }), at_start: unix_time, start: None }
    }

    /// Sets the current time. The first call defines which instant the given wall-clock time belongs to.
    pub(super) fn tick(&mut self, now: Instant) {
        let start = *self.start.get_or_insert(now);
        let time = self.at_start.saturating_add(now.saturating_duration_since(start));
        self.clock.micros.store(micros(time), Ordering::Relaxed);
    }

    pub(super) fn clock(&self) -> Arc<Clock> {
        self.clock.clone()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The only crypto library, with the post-quantum key exchange first.
pub(super) fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
            provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
            provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            provider::kx_group::X25519MLKEM768,
            provider::kx_group::X25519,
            provider::kx_group::SECP256R1,
            provider::kx_group::SECP384R1,
        ],
        ..provider::default_provider()
    })
}

/// The public CAs of Mozilla's list.
pub(super) fn public_roots() -> Arc<RootCertStore> {
    Arc::new(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())
}

/// A server's configuration: TLS 1.3 with these ALPN protocols, no tickets and no early data.
///
/// # Errors
/// [`BadIdentity`] when the certificate and the key do not match.
pub(super) fn server_tls(
    identity: &Identity,
    protocols: &[&[u8]],
    clock: Arc<Clock>,
) -> Result<rustls::ServerConfig, BadIdentity> {
    let chain = identity.cert_chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(identity.key.to_vec()));
    let mut tls = rustls::ServerConfig::builder_with_details(crypto_provider(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|_| BadIdentity)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|_| BadIdentity)?;
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(tls)
}

/// A client's configuration: TLS 1.3 with this ALPN protocol, no tickets and no early data. The provider above never
/// causes `None`.
pub(super) fn client_tls(
    verifier: Arc<Verifier>,
    protocol: &[u8],
    provider: &Arc<CryptoProvider>,
    clock: Arc<Clock>,
) -> Option<rustls::ClientConfig> {
    let mut tls = rustls::ClientConfig::builder_with_details(provider.clone(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    Some(tls)
}
