//! The configuration of a peer. `build` creates it step by step and rejects impossible combinations.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use crate::code::{Code, Link, LinkError};
use crate::host::HostPort;
use crate::link::proxy::Proxy;
use crate::link::race::{Allowed, Transport};
use crate::link::trust::{Identity, Trust};
use crate::net::Slot;
use crate::transfer::Compression;
use crate::transfer::storage::{Source, StreamSource};

/// The port of a relay, for UDP and TCP, unless another one is given.
pub const DEFAULT_PORT: u16 = 4433;

/// The address of a relay: a host name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayAddress {
    /// A name or an address, without brackets.
    pub host: String,
    /// UDP and TCP port.
    pub port: u16,
}

/// The text is not of the form `host`, `host:port`, `[v6]` or `[v6]:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a relay address; expected HOST, HOST:PORT, [IPV6] or [IPV6]:PORT")]
pub struct BadRelayAddress;

impl std::str::FromStr for RelayAddress {
    type Err = BadRelayAddress;

    fn from_str(text: &str) -> Result<Self, BadRelayAddress> {
        // An IPv6 address without a port needs no brackets.
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

/// A relay that the user configured.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RelayChoice {
    /// The relay's address.
    pub address: RelayAddress,
    /// Which certificate of the relay is accepted: a pinned one, a known one, or the first one that is seen.
    pub trust: Trust,
    /// The relay's password, if it requires one.
    pub password: Option<Arc<str>>,
    /// The transport over which the relay answered the last time.
    pub remembered: Option<Transport>,
}

impl RelayChoice {
    /// A relay of which only the address is known.
    #[must_use]
    pub const fn new(address: RelayAddress) -> Self {
        Self { address, trust: Trust::FirstUse, password: None, remembered: None }
    }

    /// Accepts this certificate.
    #[must_use]
    pub fn with_trust(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// Sets the relay's password.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        Self { password: Some(password.into()), ..self }
    }
}

/// How a peer searches for a direct path. With a proxy it does not search.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DirectPath {
    /// The certificate that is shown to the other side. It is created for this run, and the other side learns its
    /// hash inside the session.
    pub identity: Identity,
    /// The first and the last port that may be bound, for UDP and for TCP; `None`: the system chooses.
    pub ports: Option<(u16, u16)>,
    /// STUN servers to use in addition to the relays (RFC 8489).
    pub stun: Vec<RelayAddress>,
    /// Ask the gateway for a port mapping, so that the other side can connect (PCP, NAT-PMP, UPnP).
    pub map_ports: bool,
    /// Never send data over a relay: without a direct path the transfer fails.
    pub only: bool,
}

impl DirectPath {
    /// Searches for a direct path with all means, on any port.
    #[must_use]
    pub const fn new(identity: Identity) -> Self {
        Self { identity, ports: None, stun: Vec::new(), map_ports: true, only: false }
    }
}

/// What a peer has to know about the machine that it runs on. The runtime crates ask the system (`machine()`).
#[derive(Debug, Clone)]
pub struct Machine {
    /// Worker threads that heavy work may use; 0 counts as 1.
    pub cores: usize,
    /// This machine's addresses, for discovery on the LAN.
    pub interfaces: Vec<IpAddr>,
    /// Wall-clock time now, since the Unix epoch; for checking certificates of public authorities.
    pub unix_time: Duration,
    /// Whether this machine computes AES in hardware.
    pub aes: bool,
}

/// The configuration that both ends have in common.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Common {
    /// Relays, the preferred one first. If it is empty, a sender runs a relay itself ([`SendConfig::embedded`]), and
    /// a receiver searches on this machine and on the LAN.
    pub relays: Vec<RelayChoice>,
    /// Show the verifier words and transfer nothing before the user confirms them.
    pub verify: bool,
    /// How to search for a direct path. `None`: no search, and no address is revealed.
    pub direct: Option<DirectPath>,
    /// Worker threads that heavy work may use; 0 counts as 1.
    pub cores: usize,
    /// This machine's addresses, for discovery on the LAN.
    pub interfaces: Vec<IpAddr>,
    /// Wall-clock time at the start, since the Unix epoch; for checking certificates of public authorities.
    pub unix_time: Duration,
    /// Whether this machine computes AES in hardware.
    pub aes: bool,
    /// The transports over which relays may be reached.
    pub transport: Allowed,
    /// A proxy through which all relays are reached: the peer then uses no other way, resolves no name but the
    /// proxy's, and reveals no address.
    pub proxy: Option<Proxy>,
    /// How long to continue while the other side or the network is unreachable. `None`: 10 minutes until the offer is
    /// accepted, without limit after that.
    pub give_up_after: Option<Duration>,
    /// The highest rate, in bytes per second, at which this side sends or lets the other side send, averaged over any
    /// time longer than one chunk takes; at least [`crate::transfer::LEAST_RATE`].
    pub limit: Option<NonZeroU64>,
    /// This transfer's place among those that share sockets. A pool of a runtime's crate sets it; `None`: the transfer
    /// has sockets of its own.
    pub slot: Option<Slot>,
}

/// How the sender gets its code.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CodeChoice {
    /// The relay assigns the nameplate, and this side draws the words.
    Generate {
        /// The number of words, 2 to 8.
        words: u8,
    },
    /// The code that the user chose.
    Custom(Code),
}

/// The relay inside a sender.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Embedded {
    /// The certificate to show.
    pub identity: Identity,
    /// The addresses to try for listening; the first free one is used.
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

/// The configuration of a sender.
#[derive(Clone)]
#[non_exhaustive]
pub struct SendConfig {
    /// The part that both ends have in common.
    pub common: Common,
    /// What to send.
    pub source: Payload,
    /// How the code is chosen.
    pub code: CodeChoice,
    /// The compression of each chunk.
    pub compression: Compression,
    /// A file that changes, vanishes or can't be read ends the transfer. Otherwise it is left out, unless nothing else
    /// is offered, and [`super::Summary::differences`] names it on both sides.
    pub is_strict: bool,
    /// The relay inside this process, used when no other is configured.
    pub embedded: Option<Embedded>,
}

/// The configuration of a receiver.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceiveConfig {
    /// The part that both ends have in common.
    pub common: Common,
    /// The sender's code.
    pub code: Code,
    /// The addresses where senders on this machine listen; used when no relay is configured. By default the default
    /// port on loopback; change it together with [`Embedded::listen`].
    pub local: Vec<SocketAddr>,
    /// Whether to look for senders on the LAN when no relay is configured.
    pub discover: bool,
}

/// What the sender gives to a receiver: a code, with or without the relay's address. It is parsed from either form of
/// text.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// The code.
    pub code: Code,
    /// The relay, if the text was a link.
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
