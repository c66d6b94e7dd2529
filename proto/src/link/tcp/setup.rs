//! Creates TCP connections: the options of a client's TCP connection, and the protocols that a server accepts. No
//! states, no timers.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;

use super::super::crypto::{self, ALPN, BadIdentity, Ticker};
use super::super::proxy::{Conversation, Proxy};
use super::super::tls::Tls;
use super::super::trust::{Identity, Trust, Verifier};
use super::super::websocket::{self, Browsers, Role};
use super::framing::Framing;
use super::{Layer, OPEN_WITHIN, OPEN_WITHIN_PROXIED, TcpLink, Windows};
use crate::Instant;
use crate::seed::Seed;

/// The ALPN protocol with which a WebSocket begins (RFC 7301 §6).
pub(super) const HTTP: &[u8] = b"http/1.1";
/// The start of the HTTP request for a WebSocket.
const GET: &[u8] = b"GET ";
/// The first byte of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// The protocols in a TCP connection that is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The link's bytes in TLS.
    Tls,
    /// A WebSocket.
    WebSocket {
        /// Whether it runs in TLS (`wss`). Without TLS (`ws`), no certificate authenticates the server.
        tls: bool,
        /// The path of the WebSocket at the server, or at the proxy in front of it; `/` or longer.
        path: String,
    },
}

/// The protocols in an open TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The link's bytes in TLS.
    Tls,
    /// A WebSocket in TLS.
    SecureWebSocket,
    /// A WebSocket without TLS; in front of a server, a proxy may terminate TLS.
    WebSocket,
    /// The link's bytes without TLS: between two peers of one network, whose records are sealed.
    Plain,
}

/// The destination and the options of a client's TCP connection.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// The protocols in it.
    pub kind: Kind,
    /// The DNS name or IP address (without brackets) for which a public CA's certificate must be valid.
    pub host: &'a str,
    /// The port of the server.
    pub port: u16,
    /// The rule for accepting the server's certificate.
    pub trust: Trust,
    /// The proxy to which the TCP connection leads, and which resolves the name of the host.
    pub proxy: Option<&'a Proxy>,
    /// The limits on buffered bytes.
    pub windows: Windows,
}

/// Why a TCP connection cannot be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotDial {
    /// The host is neither a DNS name nor an IP address.
    #[error("the server's name is not valid")]
    Name,
    /// The path of a WebSocket cannot stand in a request.
    #[error("the path must begin with / and contain no spaces or control characters")]
    Path,
    /// The trust rule requires a certificate, and there is none without TLS.
    #[error("without TLS there is no certificate, but one is required")]
    NoCertificate,
    /// TLS cannot be set up; this never happens with the built-in provider.
    #[error("TLS cannot be set up")]
    Tls,
}

/// Creates the TCP connections of a client.
#[derive(Debug)]
pub struct Dialler {
    provider: Arc<CryptoProvider>,
    roots: Option<Arc<RootCertStore>>,
    ticker: Ticker,
    seed: Seed,
}

impl Dialler {
    /// `unix_time` is the wall-clock time (since 1970) at the first call with a `now`; the WebSocket masks are derived
    /// from the seed.
    #[must_use]
    pub fn new(unix_time: Duration, seed: &Seed) -> Self {
        let seed = seed.derive("tcp_links");
        Self { provider: crypto::crypto_provider(), roots: None, ticker: Ticker::new(unix_time), seed }
    }

    /// Creates the link for a TCP connection (to the proxy, if there is one) that is established or being established.
    /// The time limit for opening starts now.
    ///
    /// # Errors
    /// [`CannotDial`] if the target is not valid.
    pub fn dial(&mut self, now: Instant, target: &Target<'_>) -> Result<TcpLink, CannotDial> {
        self.ticker.tick(now);
        let name = ServerName::try_from(target.host.to_owned()).map_err(|_| CannotDial::Name)?;
        let (layer, framing) = match &target.kind {
            Kind::Tls => (self.tls(name, ALPN, target.trust)?, Framing::Bytes),
            Kind::WebSocket { tls, path } => {
                if !websocket::is_path(path) {
                    return Err(CannotDial::Path);
                }
                let layer = match (tls, target.trust) {
                    (true, trust) => self.tls(name, HTTP, trust)?,
                    (false, Trust::Any | Trust::FirstUse) => Layer::Bare,
                    (false, Trust::Pin(_) | Trust::Known(_) | Trust::PublicCa) => {
                        return Err(CannotDial::NoCertificate);
                    }
                };
                let host =
                    if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.to_owned() };
                let authority = match (tls, target.port) {
                    (true, 443) | (false, 80) => host,
                    (_, port) => format!("{host}:{port}"),
                };
                (layer, Framing::ask(&authority, path, Role::Client(Box::new(self.seed.split().rng()))))
            }
        };
        let Some(proxy) = target.proxy else {
            return Ok(TcpLink::new(now, OPEN_WITHIN, layer, framing, target.windows));
        };
        let conversation = Conversation::new(proxy, target.host, target.port);
        let layer = Layer::Proxy { conversation, then: Box::new(layer) };
        Ok(TcpLink::new(now, OPEN_WITHIN_PROXIED, layer, framing, target.windows))
    }

    fn tls(&mut self, name: ServerName<'static>, protocol: &[u8], trust: Trust) -> Result<Layer, CannotDial> {
        let roots = self.roots.get_or_insert_with(crypto::public_roots).clone();
        let verifier = Verifier::new(trust, roots, &self.provider).ok_or(CannotDial::Tls)?;
        let (verifier, clock) = (Arc::new(verifier), self.ticker.clock());
        let config = crypto::client_tls(verifier.clone(), protocol, &self.provider, clock).ok_or(CannotDial::Tls)?;
        let tls = Tls::client(config, name, verifier).ok_or(CannotDial::Tls)?;
        Ok(Layer::Tls(Box::new(tls)))
    }
}

impl TcpLink {
    /// Creates the link for a TCP connection without TLS between two peers, on either side.
    #[must_use]
    pub fn plain(now: Instant, windows: Windows) -> Self {
        Self::new(now, OPEN_WITHIN, Layer::Bare, Framing::Records(Box::default()), windows)
    }
}

/// Whether a server accepts a WebSocket without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareWebSocket {
    /// The server accepts it: a proxy such as nginx in front of it terminates TLS.
    Allowed,
    /// The server refuses it.
    Refused,
}

/// Creates the TCP connections of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Acceptor {
    pub(super) tls: Arc<rustls::ServerConfig>,
    bare: BareWebSocket,
    browsers: Browsers,
    windows: Windows,
}

/// The protocol that a client's first bytes indicate.
pub(super) enum First {
    TooFew,
    Tls(Box<Tls>),
    WebSocket,
    Unknown,
}

impl Acceptor {
    /// A server that presents this identity.
    ///
    /// # Errors
    /// [`BadIdentity`] if a server cannot use the certificate and the key.
    pub fn new(identity: &Identity, bare: BareWebSocket, windows: Windows) -> Result<Self, BadIdentity> {
        // A server needs the time only to issue tickets, and this one issues none.
        let clock = Ticker::new(Duration::ZERO).clock();
        let tls = crypto::server_tls(identity, &[ALPN, HTTP], clock)?;
        Ok(Self { tls: Arc::new(tls), bare, browsers: Browsers::Refused, windows })
    }

    /// Sets whether the server accepts WebSockets from web pages; by default it does not.
    #[must_use]
    pub fn with_browsers(self, browsers: Browsers) -> Self {
        Self { browsers, ..self }
    }

    /// Creates the link for an accepted TCP connection.
    #[must_use]
    pub fn accept(&self, now: Instant) -> TcpLink {
        let layer = Layer::Unknown(self.clone());
        let mut tcp = TcpLink::new(now, OPEN_WITHIN, layer, Framing::Undecided, self.windows);
        tcp.browsers = self.browsers;
        tcp
    }

    pub(super) fn judge(&self, first: &[u8]) -> First {
        match first.split_first() {
            None => First::TooFew,
            Some((&TLS_HANDSHAKE, _)) => {
                Tls::server(self.tls.clone()).map_or(First::Unknown, |tls| First::Tls(Box::new(tls)))
            }
            Some(_) if self.bare == BareWebSocket::Allowed && first.starts_with(GET) => First::WebSocket,
            Some(_) if self.bare == BareWebSocket::Allowed && GET.starts_with(first) => First::TooFew,
            Some(_) => First::Unknown,
        }
    }
}
