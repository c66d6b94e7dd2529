//! The interface of a relay: configuration, commands, events. None of them contains a client's address.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;

use super::limits::Limits;
use super::registry::Key;
use crate::link::trust::Identity;
use crate::link::websocket::Browsers;
use crate::misuse::Misuse;
use crate::net::{Listen, TcpOptions};
use crate::seed::Seed;

/// The configuration of a relay.
pub struct Config {
    /// The listen addresses, with UDP and with TCP at the same port: one to [`super::MAX_SOCKETS`] addresses. With port
    /// 0 the system chooses the port.
    pub listen: Vec<SocketAddr>,
    /// How the relay listens with TCP.
    pub tcp: Tcp,
    /// The relay's certificate and private key.
    pub identity: Identity,
    /// The password that clients must prove to know.
    pub password: Option<Arc<str>>,
    /// The limits for clients.
    pub limits: Limits,
    /// How long a room waits, and how long its name is kept after its first pairing.
    pub room_ttl: Duration,
    /// How much the windows of all pairs together may have beyond the first 64 KiB of each, in bytes.
    pub window_budget: u64,
    /// The wall-clock time: the duration since the Unix epoch.
    pub unix_time: Duration,
    /// The seed of all random values.
    pub seed: Seed,
}

impl Config {
    /// The default of `room_ttl`.
    pub const ROOM_TTL: Duration = Duration::from_secs(3600);
    /// How long the name of a room belongs to its sender after the first pairing.
    pub const KEEP: Duration = Duration::from_secs(60);
    /// The default of `window_budget`, in bytes.
    pub const WINDOW_BUDGET: u64 = 64 << 20;
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("listen", &self.listen).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// How a relay listens with TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Whether to accept WebSockets without TLS, because a proxy in front of the relay terminates TLS. At a loopback
    /// address they are always accepted, because only processes on this machine can connect there.
    pub behind_proxy: bool,
    /// Whether web pages may connect, by WebSocket.
    pub browsers: Browsers,
    /// The most connections that may wait to be accepted.
    pub backlog: u32,
    /// Socket options for each connection.
    pub options: TcpOptions,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            behind_proxy: false,
            browsers: Browsers::Refused,
            backlog: Listen::BACKLOG,
            options: TcpOptions::default(),
        }
    }
}

/// A command to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Accept no new rooms and notify waiting clients; pairs may continue for this long. Then close.
    Drain {
        /// The time limit, from now.
        within: Duration,
    },
    /// Close now.
    Stop,
    /// Report the status; the answer is [`Event::Status`].
    Status,
}

/// A room's identifier in logs: a short hash under a key of this process. It cannot be converted back to the room's
/// name, nor compared with another process's logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomTag([u8; 4]);

impl RoomTag {
    pub(super) fn of(process_key: &[u8; 32], key: &Key) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(process_key);
        hasher.update(&[u8::from(key.again)]).update(&key.room.0);
        let mut tag = [0; 4];
        hasher.finalize_xof().fill(&mut tag);
        Self(tag)
    }
}

impl fmt::Display for RoomTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RoomTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a room ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoomEnd {
    /// A peer closed its link.
    Left,
    /// A peer's link was lost.
    Lost,
    /// No data moved, or no other client joined, for too long.
    Idle,
    /// The owner of a seat joined with another link.
    Replaced,
    /// A peer broke a rule.
    Violation,
    /// The relay is shutting down.
    ShuttingDown,
}

impl fmt::Display for RoomEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "left",
            Self::Lost => "lost",
            Self::Idle => "idle",
            Self::Replaced => "replaced",
            Self::Violation => "violation",
            Self::ShuttingDown => "shutting_down",
        })
    }
}

/// Why a client was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The client's source has too many connections, or connects too often.
    TooManyConnections,
    /// The client's source sends too many requests, or too many failed ones.
    RateLimited,
    /// The limit of connections or rooms is reached, for all or for its source.
    Full,
    /// No sender waits there.
    NobodyWaits,
    /// Another receiver has the sender.
    Taken,
    /// The seat belongs to another owner.
    NameTaken,
    /// The client sent no password proof, or a wrong one.
    Password,
    /// No common version.
    Version,
    /// The client did not send a request in time.
    TooSlow,
    /// The client broke a rule.
    Violation,
    /// The relay is shutting down.
    ShuttingDown,
}

impl Refused {
    /// All reasons, in the order of the counters.
    pub const ALL: [Self; 11] = [
        Self::TooManyConnections,
        Self::RateLimited,
        Self::Full,
        Self::NobodyWaits,
        Self::Taken,
        Self::NameTaken,
        Self::Password,
        Self::Version,
        Self::TooSlow,
        Self::Violation,
        Self::ShuttingDown,
    ];
}

/// How many clients were refused in a minute, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusals([u64; Refused::ALL.len()]);

impl Refusals {
    /// The number for this reason.
    #[must_use]
    pub fn of(&self, reason: Refused) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// Whether there were no refusals.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn count(&mut self, reason: Refused) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count = count.saturating_add(1);
        }
    }
}

/// Lists the reasons with a count above zero: `rate_limited=12 password=200`.
impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = Refused::ALL.into_iter().map(|reason| (reason, self.of(reason)));
        for (index, (reason, count)) in reasons.filter(|&(_, count)| count > 0).enumerate() {
            write!(f, "{}{reason}={count}", if index > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyConnections => "too_many_connections",
            Self::RateLimited => "rate_limited",
            Self::Full => "full",
            Self::NobodyWaits => "nobody_waits",
            Self::Taken => "taken",
            Self::NameTaken => "name_taken",
            Self::Password => "password",
            Self::Version => "version",
            Self::TooSlow => "too_slow",
            Self::Violation => "violation",
            Self::ShuttingDown => "shutting_down",
        })
    }
}

/// Counters since the start, and current numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// The current number of connections.
    pub connections: usize,
    /// The current number of rooms in which one client waits.
    pub waiting: usize,
    /// The current number of rooms in which two clients are paired.
    pub paired: usize,
    /// Bytes that were forwarded in rooms that are closed.
    pub bytes_forwarded: u64,
    /// Clients that were refused.
    pub refused: u64,
    /// STUN requests that were answered.
    pub stun_answered: u64,
    /// STUN requests that were not answered because of the rate limit.
    pub stun_ignored: u64,
    /// Events that were dropped because the queue was full.
    pub events_lost: u64,
}

/// The transport at a listen address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// QUIC.
    Udp,
    /// TLS and WebSocket.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// An event of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The relay serves clients at this local address, with UDP and with TCP.
    Listening {
        /// The local address.
        addr: SocketAddr,
    },
    /// The relay cannot listen at this address with UDP or with TCP; in that case it uses neither. When this is so for
    /// all addresses, the relay closes.
    CannotListen {
        /// The requested address. When TCP failed, its port is the one that UDP got.
        addr: SocketAddr,
        /// The transport that failed.
        transport: Transport,
        /// The system's error.
        kind: io::ErrorKind,
    },
    /// A client waits in a new room.
    RoomCreated {
        /// The room.
        room: RoomTag,
    },
    /// The other client joined.
    RoomPaired {
        /// The room.
        room: RoomTag,
    },
    /// A room was closed.
    RoomClosed {
        /// The room.
        room: RoomTag,
        /// Bytes that were forwarded in both directions together.
        bytes_forwarded: u64,
        /// How long the room existed, in seconds.
        seconds: u64,
        /// The reason.
        reason: RoomEnd,
    },
    /// A client was refused.
    Refused {
        /// The reason.
        reason: Refused,
    },
    /// The clients that were refused in the last minute, if there were any.
    Refusals(Refusals),
    /// The answer to [`Command::Status`].
    Status(Status),
    /// A command was invalid.
    Misused(Misuse),
}

impl From<Misuse> for Event {
    fn from(misuse: Misuse) -> Self {
        Self::Misused(misuse)
    }
}
