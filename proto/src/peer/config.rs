//! What a peer is told when it starts. `build` makes it, step by step, and says what can't work.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use crate::code::{Code, Link, LinkError};
use crate::host::HostPort;
use crate::link::proxy::Proxy;
use crate::link::race::{Allowed, Transport};
use crate::link::trust::{Identity, Trust};
use crate::transfer::Compression;
use crate::transfer::storage::{Source, StreamSource};

/// The port of a relay, UDP and TCP alike, when nothing else is said.
pub const DEFAULT_PORT: u16 = 4433;

/// Where a relay is: a host name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayAddress {
    /// A name or an address, without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

/// The text is no `host`, `host:port`, `[v6]` or `[v6]:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a relay address; expected HOST, HOST:PORT, [IPV6] or [IPV6]:PORT")]
pub struct BadRelayAddress;

impl std::str::FromStr for RelayAddress {
    type Err = BadRelayAddress;

    fn from_str(text: &str) -> Result<Self, BadRelayAddress> {
        // An IPv6 address alone needs no brackets.
        let parsed = match text.parse::<std::net::Ipv6Addr>() {
            Ok(_) => HostPort::new(text, None),
            Err(_) => text.parse(),
        };
        let parsed: HostPort = parsed.map_err(|_| BadRelayAddress)?;
        Ok(Self { host: parsed.host().to_owned(), port: parsed.port().unwrap_or(DEFAULT_PORT) })
    }
}

impl std::fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = (self.port != DEFAULT_PORT).then_some(self.port);
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A relay that the person configured.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RelayChoice {
    /// Where.
    pub address: RelayAddress,
    /// Which certificate of it is accepted: pinned, known, or whatever comes first.
    pub trust: Trust,
    /// The relay's password, if it asks for one.
    pub password: Option<Arc<str>>,
    /// What it answered on the last time.
    pub remembered: Option<Transport>,
}

impl RelayChoice {
    /// A relay about which nothing is known yet.
    #[must_use]
    pub const fn new(address: RelayAddress) -> Self {
        Self { address, trust: Trust::FirstUse, password: None, remembered: None }
    }

    /// Accepts this certificate of it.
    #[must_use]
    pub fn with_trust(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// With the relay's password.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        Self { password: Some(password.into()), ..self }
    }
}

/// How a direct path is looked for. With a proxy none is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DirectPath {
    /// The certificate that is shown to the other side; it is made for this run, and the other side is told its hash.
    pub identity: Identity,
    /// The first and the last port that may be bound, for UDP and for TCP; `None`: whatever the system gives.
    pub ports: Option<(u16, u16)>,
    /// STUN servers to be asked beside the relays (RFC 8489).
    pub stun: Vec<RelayAddress>,
    /// Ask the gateway to let the other side in (PCP, NAT-PMP, UPnP).
    pub map_ports: bool,
    /// Never send data over a relay: without a direct path there is no transfer.
    pub only: bool,
}

impl DirectPath {
    /// Wherever one can be found, with the relays' help.
    #[must_use]
    pub const fn new(identity: Identity) -> Self {
        Self { identity, ports: None, stun: Vec::new(), map_ports: true, only: false }
    }
}

/// What a peer has to know of the machine that it runs on. The runtimes' crates ask the system (`machine()`).
#[derive(Debug, Clone)]
pub struct Machine {
    /// Worker threads that heavy work may use; 0 counts as 1.
    pub cores: usize,
    /// This machine's addresses, for finding one another on the LAN.
    pub interfaces: Vec<IpAddr>,
    /// Wall-clock time now, since the Unix epoch; for checking certificates of public authorities.
    pub unix_time: Duration,
    /// Whether this machine computes AES in hardware.
    pub aes: bool,
}

/// What both ends have in common.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Common {
    /// Relays, the preferred one first. None: a sender runs one itself ([`SendConfig::embedded`]), a receiver looks on
    /// this machine and on the LAN.
    pub relays: Vec<RelayChoice>,
    /// Show the verifier words and move nothing before the person agreed.
    pub verify: bool,
    /// How a direct path to the other side is looked for. `None`: it is not, and no address is revealed.
    pub direct: Option<DirectPath>,
    /// Worker threads that heavy work may use; 0 counts as 1.
    pub cores: usize,
    /// This machine's addresses, for finding one another on the LAN.
    pub interfaces: Vec<IpAddr>,
    /// Wall-clock time at the start, since the Unix epoch; for checking certificates of public authorities.
    pub unix_time: Duration,
    /// Whether this machine computes AES in hardware.
    pub aes: bool,
    /// By which means relays may be reached.
    pub transport: Allowed,
    /// A proxy that leads to the relays: then nothing else is tried, no name is looked up but its own, and no address
    /// is revealed.
    pub proxy: Option<Proxy>,
    /// How long to go on while the other side, or the network, is away. `None`: 10 minutes until the offer was
    /// accepted, then for ever.
    pub give_up_after: Option<Duration>,
    /// The most bytes a second that this side sends, or lets the other side send, over any time longer than a chunk
    /// takes; [`crate::transfer::LEAST_RATE`] at least.
    pub limit: Option<NonZeroU64>,
}

/// Where the code comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CodeChoice {
    /// The relay gives the nameplate, this side draws the words.
    Generate {
        /// 2 to 8.
        words: u8,
    },
    /// The person's own.
    Custom(Code),
}

/// The relay inside a sender.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Embedded {
    /// The certificate to show.
    pub identity: Identity,
    /// Where to listen; the first address that is free.
    pub listen: Vec<SocketAddr>,
    /// Whether to announce it on the LAN.
    pub announce: bool,
}

/// What is sent.
#[derive(Clone)]
#[non_exhaustive]
pub enum Payload {
    /// Files and directories.
    Files(Arc<dyn Source>),
    /// Bytes of unknown length.
    Stream(Arc<dyn StreamSource>),
}

impl<S: Source + 'static> From<Arc<S>> for Payload {
    fn from(source: Arc<S>) -> Self {
        Self::Files(source)
    }
}

/// How to send.
#[derive(Clone)]
#[non_exhaustive]
pub struct SendConfig {
    /// See [`Common`].
    pub common: Common,
    /// What to send.
    pub source: Payload,
    /// The code.
    pub code: CodeChoice,
    /// Per chunk.
    pub compression: Compression,
    /// A file that changes, vanishes or can't be read ends the transfer. Otherwise it is left out, unless nothing else
    /// is offered, and [`super::Summary::differences`] names it on both sides.
    pub is_strict: bool,
    /// The relay inside this process, used when no other is configured.
    pub embedded: Option<Embedded>,
}

/// How to receive.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceiveConfig {
    /// See [`Common`].
    pub common: Common,
    /// The sender's code.
    pub code: Code,
    /// Where senders on this machine listen, when no relay is configured: the default port on loopback, unless it was
    /// changed for [`Embedded::listen`] too.
    pub local: Vec<SocketAddr>,
    /// Whether to look for senders on the LAN when no relay is configured.
    pub discover: bool,
}

/// What a receiver has from its sender: a code, with the relay where it lives or without. Read from either form of
/// text.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// The code.
    pub code: Code,
    /// The relay, where a link named one.
    pub relay: Option<RelayAddress>,
}

impl std::str::FromStr for Invitation {
    type Err = LinkError;

    fn from_str(typed: &str) -> Result<Self, LinkError> {
        Ok(if Link::is_link(typed) { Link::parse(typed)?.into() } else { Code::parse(typed)?.into() })
    }
}

impl From<Code> for Invitation {
    fn from(code: Code) -> Self {
        Self { code, relay: None }
    }
}

impl From<Link> for Invitation {
    fn from(link: Link) -> Self {
        let relay = RelayAddress { host: link.host().to_owned(), port: link.port().unwrap_or(DEFAULT_PORT) };
        Self { code: link.code().clone(), relay: Some(relay) }
    }
}
