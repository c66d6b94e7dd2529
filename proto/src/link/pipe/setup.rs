//! How pipes are made: what a client wants of one, and what a server takes. No states, no timers.

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
use super::{Carrier, OPEN_WITHIN, OPEN_WITHIN_PROXIED, Pipe, Windows};
use crate::Instant;
use crate::seed::Seed;

/// ALPN's name for what a WebSocket begins with (RFC 7301 §6).
pub(super) const HTTP: &[u8] = b"http/1.1";
/// What an HTTP request of a WebSocket begins with.
const GET: &[u8] = b"GET ";
/// The first byte of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What runs in a pipe that is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The link's bytes in TLS.
    Tls,
    /// A WebSocket.
    WebSocket {
        /// In TLS (`wss`); without (`ws`), no certificate says who the server is.
        tls: bool,
        /// The path that the server, or what is in front of it, has it under; `/` or longer.
        path: String,
    },
}

/// What runs in a pipe that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The link's bytes in TLS.
    Tls,
    /// A WebSocket in TLS.
    SecureWebSocket,
    /// A WebSocket without TLS here; on the server's side, a proxy may have it in TLS.
    WebSocket,
    /// The link's bytes as they are: between two peers of one network, whose records are sealed.
    Plain,
}

/// What a pipe is for, on the client's side.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// What runs in it.
    pub kind: Kind,
    /// The DNS name or IP address (without brackets) that a public authority would vouch for.
    pub host: &'a str,
    /// The port there.
    pub port: u16,
    /// Which certificate is accepted.
    pub trust: Trust,
    /// The proxy that the TCP connection leads to, and that is asked for the host by its name.
    pub proxy: Option<&'a Proxy>,
    /// How much may wait.
    pub windows: Windows,
}

/// Why there is no pipe to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotDial {
    /// Neither a DNS name nor an IP address.
    #[error("the server's name is not valid")]
    Name,
    /// The path of a WebSocket cannot stand in a request.
    #[error("the path must begin with / and hold neither spaces nor controls")]
    Path,
    /// A certificate is asked for, and there is none without TLS.
    #[error("without TLS there is no certificate, and one is asked for")]
    NoCertificate,
    /// TLS cannot be set up; never with the provider that is built in.
    #[error("TLS cannot be set up")]
    Tls,
}

/// Makes the client's pipes: what they have in common.
#[derive(Debug)]
pub struct Dialler {
    provider: Arc<CryptoProvider>,
    roots: Option<Arc<RootCertStore>>,
    ticker: Ticker,
    seed: Seed,
}

impl Dialler {
    /// `unix_time` is the wall-clock time (since 1970) at the first call that brings a `now`; masks come from the seed.
    #[must_use]
    pub fn new(unix_time: Duration, seed: &Seed) -> Self {
        let seed = seed.derive("pipes");
        Self { provider: crypto::crypto_provider(), roots: None, ticker: Ticker::new(unix_time), seed }
    }

    /// A pipe whose TCP connection (to the proxy, if there is one) is up, or coming up: the time for opening begins now.
    ///
    /// # Errors
    /// [`CannotDial`].
    pub fn dial(&mut self, now: Instant, target: &Target<'_>) -> Result<Pipe, CannotDial> {
        self.ticker.tick(now);
        let name = ServerName::try_from(target.host.to_owned()).map_err(|_| CannotDial::Name)?;
        let (carrier, framing) = match &target.kind {
            Kind::Tls => (self.tls(name, ALPN, target.trust)?, Framing::Bytes),
            Kind::WebSocket { tls, path } => {
                if !websocket::is_path(path) {
                    return Err(CannotDial::Path);
                }
                let carrier = match (tls, target.trust) {
                    (true, trust) => self.tls(name, HTTP, trust)?,
                    (false, Trust::Any | Trust::FirstUse) => Carrier::Bare,
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
                (carrier, Framing::ask(&authority, path, Role::Client(Box::new(self.seed.split().rng()))))
            }
        };
        let Some(proxy) = target.proxy else {
            return Ok(Pipe::new(now, OPEN_WITHIN, carrier, framing, target.windows));
        };
        let conversation = Conversation::new(proxy, target.host, target.port);
        let carrier = Carrier::Proxy { conversation, then: Box::new(carrier) };
        Ok(Pipe::new(now, OPEN_WITHIN_PROXIED, carrier, framing, target.windows))
    }

    fn tls(&mut self, name: ServerName<'static>, protocol: &[u8], trust: Trust) -> Result<Carrier, CannotDial> {
        let roots = self.roots.get_or_insert_with(crypto::public_roots).clone();
        let verifier = Verifier::new(trust, roots, &self.provider).ok_or(CannotDial::Tls)?;
        let (verifier, clock) = (Arc::new(verifier), self.ticker.clock());
        let config = crypto::client_tls(verifier.clone(), protocol, &self.provider, clock).ok_or(CannotDial::Tls)?;
        let tls = Tls::client(config, name, verifier).ok_or(CannotDial::Tls)?;
        Ok(Carrier::Tls(Box::new(tls)))
    }
}

impl Pipe {
    /// The link's bytes as they are, on either side.
    #[must_use]
    pub fn plain(now: Instant, windows: Windows) -> Self {
        Self::new(now, OPEN_WITHIN, Carrier::Bare, Framing::Records(Box::default()), windows)
    }
}

/// Whether a server takes a WebSocket without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareWebSocket {
    /// It does: a proxy such as nginx stands in front of it and has TLS.
    Allowed,
    /// It does not.
    Refused,
}

/// Makes the server's pipes: what they have in common. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Acceptor {
    pub(super) tls: Arc<rustls::ServerConfig>,
    bare: BareWebSocket,
    browsers: Browsers,
    windows: Windows,
}

/// What a client's first bytes mean.
pub(super) enum First {
    TooFew,
    Tls(Box<Tls>),
    WebSocket,
    Unknown,
}

impl Acceptor {
    /// A server that shows this identity.
    ///
    /// # Errors
    /// [`BadIdentity`] when certificate and key do not make a server.
    pub fn new(identity: &Identity, bare: BareWebSocket, windows: Windows) -> Result<Self, BadIdentity> {
        // A server asks for the time when it gives out tickets, and this one gives out none.
        let clock = Ticker::new(Duration::ZERO).clock();
        let tls = crypto::server_tls(identity, &[ALPN, HTTP], clock)?;
        Ok(Self { tls: Arc::new(tls), bare, browsers: Browsers::Refused, windows })
    }

    /// The same, which takes WebSockets from web pages or does not (as long as nothing is said).
    #[must_use]
    pub fn with_browsers(self, browsers: Browsers) -> Self {
        Self { browsers, ..self }
    }

    /// A pipe for a TCP connection that was accepted.
    #[must_use]
    pub fn accept(&self, now: Instant) -> Pipe {
        let carrier = Carrier::Unknown(self.clone());
        let mut pipe = Pipe::new(now, OPEN_WITHIN, carrier, Framing::Undecided, self.windows);
        pipe.browsers = self.browsers;
        pipe
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
