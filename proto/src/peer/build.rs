//! Makes configurations step by step, with defaults for what is not said, and finds what can't work before anything is
//! started.

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
    /// A sender without any relay.
    #[error("no relay is named and none is embedded, so no receiver could reach this sender; name one, or embed one")]
    NoRelay,
    /// A receiver that has no place to look at.
    #[error(
        "no relay is named, and the sender is looked for neither on this machine nor in this network; name a relay"
    )]
    NowhereToLook,
    /// The embedded relay has no address.
    #[error("the embedded relay has no address to listen at; give it one, with port 0 for any")]
    NowhereToListen,
    /// More relays than are tried.
    #[error("{0} relays are named, and no more than {MAX_SERVERS} are tried; name fewer")]
    TooManyRelays(usize),
    /// A code of so many words.
    #[error("a code can't have {0} words; 2 to 8 are possible")]
    Words(u8),
    /// Less than the lowest rate.
    #[error("{0} bytes a second are less than the lowest limit, {LEAST_RATE}")]
    Limit(u64),
    /// A proxy that leads nowhere.
    #[error("a proxy leads to a relay, and no relay is named; name one")]
    ProxyWithoutRelay,
    /// Data may use a direct path only, and there can't be one.
    #[error("data may only use a direct path, and a proxy allows none; leave one of the two out")]
    OnlyDirectOverProxy,
    /// The first port is above the last, or is 0.
    #[error("{0} to {1} is no range of ports")]
    Ports(u16, u16),
}

impl Common {
    /// No relays, no direct path, and nothing else asked for, on this machine.
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
            /// With another relay to be tried, after those before.
            #[must_use]
            pub fn with_relay(mut self, relay: impl Into<RelayChoice>) -> Self {
                self.common.relays.push(relay.into());
                self
            }

            /// Shows the verifier words, and moves nothing before this side's person confirmed them.
            #[must_use]
            pub const fn with_verifier(mut self) -> Self {
                self.common.verify = true;
                self
            }

            /// Looks for a direct path in this way.
            #[must_use]
            pub fn with_direct_path(mut self, direct: DirectPath) -> Self {
                self.common.direct = Some(direct);
                self
            }

            /// Looks for no direct path, and reveals no address of this machine.
            #[must_use]
            pub fn without_direct_path(mut self) -> Self {
                self.common.direct = None;
                self
            }

            /// Reaches relays by these means only.
            #[must_use]
            pub const fn with_transport(mut self, allowed: Allowed) -> Self {
                self.common.transport = allowed;
                self
            }

            /// Reaches relays through a proxy only.
            #[must_use]
            pub fn with_proxy(mut self, proxy: Proxy) -> Self {
                self.common.proxy = Some(proxy);
                self
            }

            /// Ends when the other side, or the network, is away for so long.
            #[must_use]
            pub const fn with_give_up_after(mut self, patience: Duration) -> Self {
                self.common.give_up_after = Some(patience);
                self
            }

            /// Moves no more than so many bytes a second.
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
    /// Sends this, under a fresh code of three words. Neither is a relay named nor one embedded: one of the two has to
    /// follow.
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

    /// Under a fresh code of so many words, 2 to 8.
    #[must_use]
    pub fn with_words(self, words: u8) -> Self {
        Self { code: CodeChoice::Generate { words }, ..self }
    }

    /// Under this code. [`Code::custom`] reads one that is not too easy to guess.
    #[must_use]
    pub fn with_code(self, code: Code) -> Self {
        Self { code: CodeChoice::Custom(code), ..self }
    }

    /// Compresses in this way.
    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// Ends the transfer at the first file that can't be sent, instead of leaving it out.
    #[must_use]
    pub fn strict(self) -> Self {
        Self { is_strict: true, ..self }
    }

    /// Runs this relay inside, unless another one is named.
    #[must_use]
    pub fn with_embedded(self, embedded: Embedded) -> Self {
        Self { embedded: Some(embedded), ..self }
    }

    /// Looks at what can't work. The runtimes' `send` calls it.
    ///
    /// # Errors
    /// The first thing that can't.
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
    /// Receives from the sender that gave this: a [`Code`], a [`crate::code::Link`], or an [`Invitation`] that was read
    /// from text.
    #[must_use]
    pub fn new(mut common: Common, from: impl Into<Invitation>) -> Self {
        let Invitation { code, relay } = from.into();
        common.relays.extend(relay.map(RelayChoice::new));
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let local = loopback.map(|ip| SocketAddr::new(ip, DEFAULT_PORT)).to_vec();
        Self { common, code, local, discover: true }
    }

    /// Looks at what can't work. The runtimes' `receive` calls it.
    ///
    /// # Errors
    /// The first thing that can't.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.common.check()?;
        let nowhere = self.common.relays.is_empty() && self.local.is_empty() && !self.discover;
        if nowhere { Err(ConfigError::NowhereToLook) } else { Ok(()) }
    }
}

impl Embedded {
    /// On the default port or, where that is taken, on a free one, of all addresses; announced in the local network.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        let listen = [DEFAULT_PORT, 0].iter().flat_map(|&port| any.map(|ip| SocketAddr::new(ip, port))).collect();
        Self { identity, listen, announce: true }
    }

    /// Listens at the first of these that is free, and is not announced.
    #[must_use]
    pub fn listening_at(self, listen: Vec<SocketAddr>) -> Self {
        Self { listen, announce: false, ..self }
    }
}

impl DirectPath {
    /// Asks no gateway to let the other side in.
    #[must_use]
    pub fn without_port_mapping(self) -> Self {
        Self { map_ports: false, ..self }
    }

    /// Never sends data over a relay: without a direct path there is no transfer.
    #[must_use]
    pub fn only(self) -> Self {
        Self { only: true, ..self }
    }

    /// Binds these ports only, the first and the last, for UDP and for TCP.
    #[must_use]
    pub fn with_ports(self, first: u16, last: u16) -> Self {
        Self { ports: Some((first, last)), ..self }
    }

    /// Asks these STUN servers beside the relays.
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
    /// One file of this name with these contents.
    ///
    /// # Errors
    /// The name is none that a receiver would take.
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
