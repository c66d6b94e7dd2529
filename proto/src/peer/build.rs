//! Builds configurations step by step, with defaults for everything that is not set, and rejects impossible ones
//! before anything starts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::config::{
    CodeChoice, Common, DEFAULT_PORT, DirectPath, Embedded, Invitation, Machine, Payload, ReceiveConfig, RelayAddress,
    RelayChoice, SendConfig,
};
use super::rendezvous::MAX_SERVERS;
use crate::code::{Code, DEFAULT_WORDS, FRESH_WORDS};
use crate::link::proxy::Proxy;
use crate::link::race::Allowed;
use crate::link::trust::Identity;
use crate::memory::Files;
use crate::transfer::path::PathError;
use crate::transfer::{Compression, LEAST_RATE};

/// A configuration that can't work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A sender has neither a relay address nor an embedded relay.
    #[error("no relay is named and none is embedded, so no receiver could reach this sender; name one, or embed one")]
    NoRelay,
    /// A receiver has no relay, no local address and no discovery.
    #[error("no relay is named, and the search on this machine and in this network is off; name a relay")]
    NowhereToLook,
    /// The embedded relay has no address.
    #[error("the embedded relay has no address to listen at; give it one, with port 0 for any")]
    NowhereToListen,
    /// More relays are configured than a peer tries.
    #[error("{0} relays are named, and no more than {MAX_SERVERS} are tried; name fewer")]
    TooManyRelays(usize),
    /// The number of words is out of range.
    #[error("a code can't have {0} words; 2 to 8 are possible")]
    Words(u8),
    /// The rate is below the lowest limit.
    #[error("{0} bytes a second are less than the lowest limit, {LEAST_RATE}")]
    Limit(u64),
    /// A proxy is configured, but no relay that it could lead to.
    #[error("a proxy leads to a relay, and no relay is named; name one")]
    ProxyWithoutRelay,
    /// Data may use a direct path only, and the proxy rules a direct path out.
    #[error("data may only use a direct path, and a proxy allows none; leave one of the two out")]
    OnlyDirectOverProxy,
    /// The first port is above the last, or is 0.
    #[error("{0} to {1} is no range of ports")]
    Ports(u16, u16),
}

impl Common {
    /// A configuration for this machine without relays and without a direct path.
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        let Machine { cores, interfaces, unix_time, aes } = machine;
        Self {
            relays: Vec::new(),
            verify: false,
            direct: None,
            cores,
            interfaces,
            unix_time,
            aes,
            transport: Allowed::default(),
            proxy: None,
            give_up_after: None,
            limit: None,
            slot: None,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.relays.len() > MAX_SERVERS {
            return Err(ConfigError::TooManyRelays(self.relays.len()));
        }
        if let Some(limit) = self.limit.map(NonZeroU64::get).filter(|&limit| limit < LEAST_RATE) {
            return Err(ConfigError::Limit(limit));
        }
        if self.proxy.is_some() && self.relays.is_empty() {
            return Err(ConfigError::ProxyWithoutRelay);
        }
        let Some(direct) = &self.direct else { return Ok(()) };
        if direct.only && self.proxy.is_some() {
            return Err(ConfigError::OnlyDirectOverProxy);
        }
        match direct.ports {
            Some((first, last)) if first == 0 || first > last => Err(ConfigError::Ports(first, last)),
            _ => Ok(()),
        }
    }
}

macro_rules! in_common {
    ($config:ident) => {
        impl $config {
            /// Adds a relay; relays are tried in the order in which they were added.
            #[must_use]
            pub fn with_relay(mut self, relay: impl Into<RelayChoice>) -> Self {
                self.common.relays.push(relay.into());
                self
            }

            /// Shows the verifier words, and transfers nothing before the user on this side confirms them.
            #[must_use]
            pub const fn with_verifier(mut self) -> Self {
                self.common.verify = true;
                self
            }

            /// Searches for a direct path with these settings.
            #[must_use]
            pub fn with_direct_path(mut self, direct: DirectPath) -> Self {
                self.common.direct = Some(direct);
                self
            }

            /// Does not search for a direct path and reveals no address of this machine.
            #[must_use]
            pub fn without_direct_path(mut self) -> Self {
                self.common.direct = None;
                self
            }

            /// Connects to relays only over these transports.
            #[must_use]
            pub const fn with_transport(mut self, allowed: Allowed) -> Self {
                self.common.transport = allowed;
                self
            }

            /// Connects to relays only through this proxy.
            #[must_use]
            pub fn with_proxy(mut self, proxy: Proxy) -> Self {
                self.common.proxy = Some(proxy);
                self
            }

            /// Ends the transfer when the other side or the network has been unreachable for this long.
            #[must_use]
            pub const fn with_give_up_after(mut self, patience: Duration) -> Self {
                self.common.give_up_after = Some(patience);
                self
            }

            /// Limits the rate to this many bytes per second.
            #[must_use]
            pub const fn with_limit(mut self, rate: NonZeroU64) -> Self {
                self.common.limit = Some(rate);
                self
            }
        }
    };
}

in_common!(SendConfig);
in_common!(ReceiveConfig);

impl SendConfig {
    /// Sends this payload with a new code of three words. Configure a relay or an embedded relay as well: without
    /// either, [`Self::check`] fails.
    #[must_use]
    pub fn new(common: Common, source: impl Into<Payload>) -> Self {
        Self {
            common,
            source: source.into(),
            code: CodeChoice::Generate { words: DEFAULT_WORDS },
            compression: Compression::default(),
            is_strict: false,
            embedded: None,
        }
    }

    /// Generates a code with this many words, 2 to 8.
    #[must_use]
    pub fn with_words(self, words: u8) -> Self {
        Self { code: CodeChoice::Generate { words }, ..self }
    }

    /// Uses this code. [`Code::custom`] parses a code and rejects one that is too easy to guess.
    #[must_use]
    pub fn with_code(self, code: Code) -> Self {
        Self { code: CodeChoice::Custom(code), ..self }
    }

    /// Sets the compression.
    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// Ends the transfer at the first file that can't be sent, instead of leaving it out.
    #[must_use]
    pub fn strict(self) -> Self {
        Self { is_strict: true, ..self }
    }

    /// Runs this relay inside the sender, unless a relay is configured.
    #[must_use]
    pub fn with_embedded(self, embedded: Embedded) -> Self {
        Self { embedded: Some(embedded), ..self }
    }

    /// Checks the configuration. The runtimes' `send` calls this.
    ///
    /// # Errors
    /// The first problem that was found.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.common.check()?;
        match &self.code {
            CodeChoice::Generate { words } if !FRESH_WORDS.contains(words) => return Err(ConfigError::Words(*words)),
            CodeChoice::Generate { .. } | CodeChoice::Custom(_) => {}
        }
        match &self.embedded {
            Some(embedded) if self.common.relays.is_empty() && embedded.listen.is_empty() => {
                Err(ConfigError::NowhereToListen)
            }
            None if self.common.relays.is_empty() => Err(ConfigError::NoRelay),
            Some(_) | None => Ok(()),
        }
    }
}

impl ReceiveConfig {
    /// Receives with what the sender gave to this user: a [`Code`], a [`crate::code::Link`], or an [`Invitation`]
    /// parsed from text.
    #[must_use]
    pub fn new(mut common: Common, from: impl Into<Invitation>) -> Self {
        let Invitation { code, relay } = from.into();
        common.relays.extend(relay.map(RelayChoice::new));
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let local = loopback.map(|ip| SocketAddr::new(ip, DEFAULT_PORT)).to_vec();
        Self { common, code, local, discover: true }
    }

    /// Checks the configuration. The runtimes' `receive` calls this.
    ///
    /// # Errors
    /// The first problem that was found.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.common.check()?;
        let nowhere = self.common.relays.is_empty() && self.local.is_empty() && !self.discover;
        if nowhere { Err(ConfigError::NowhereToLook) } else { Ok(()) }
    }
}

impl Embedded {
    /// Listens on all addresses, on the default port or, if it is in use, on a free one, and announces itself in the
    /// local network.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        let listen = [DEFAULT_PORT, 0].iter().flat_map(|&port| any.map(|ip| SocketAddr::new(ip, port))).collect();
        Self { identity, listen, announce: true }
    }

    /// Listens at the first of these addresses that is free, and does not announce itself.
    #[must_use]
    pub fn listening_at(self, listen: Vec<SocketAddr>) -> Self {
        Self { listen, announce: false, ..self }
    }
}

impl DirectPath {
    /// Does not ask the gateway for a port mapping.
    #[must_use]
    pub fn without_port_mapping(self) -> Self {
        Self { map_ports: false, ..self }
    }

    /// Never sends data over a relay: if no direct path is found, the transfer fails.
    #[must_use]
    pub fn only(self) -> Self {
        Self { only: true, ..self }
    }

    /// Binds only ports in this range (first and last), for UDP and for TCP.
    #[must_use]
    pub fn with_ports(self, first: u16, last: u16) -> Self {
        Self { ports: Some((first, last)), ..self }
    }

    /// Uses these STUN servers in addition to the relays.
    #[must_use]
    pub fn with_stun(self, servers: Vec<RelayAddress>) -> Self {
        Self { stun: servers, ..self }
    }
}

impl From<RelayAddress> for RelayChoice {
    fn from(address: RelayAddress) -> Self {
        Self::new(address)
    }
}

impl From<SocketAddr> for RelayAddress {
    fn from(at: SocketAddr) -> Self {
        Self { host: at.ip().to_string(), port: at.port() }
    }
}

impl Payload {
    /// One file with this name and these contents.
    ///
    /// # Errors
    /// A receiver would reject this name.
    pub fn bytes(name: &str, contents: impl Into<Bytes>) -> Result<Self, PathError> {
        Ok(Self::Files(Arc::new(Files::new().with_file(name, contents)?)))
    }
}

impl From<Files> for Payload {
    fn from(files: Files) -> Self {
        Self::Files(Arc::new(files))
    }
}

#[cfg(test)]
mod tests;
