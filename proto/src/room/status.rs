//! What a relay is told and tells: configuration, commands, events. No address of a client is in any of them.

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

/// How a relay is set up.
pub struct Config {
    /// Where it listens, with UDP and with TCP at the same port: one to [`super::MAX_SOCKETS`] addresses.
    /// Port 0 lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// How it listens with TCP.
    pub tcp: Tcp,
    /// The certificate that it shows, and its key.
    pub identity: Identity,
    /// What clients must prove to know.
    pub password: Option<Arc<str>>,
    /// What it allows.
    pub limits: Limits,
    /// How long a room waits, and how long its name is kept after its first pairing.
    pub room_ttl: Duration,
    /// What the windows of all pairs together may have beyond the first 64 KiB of each, in bytes.
    pub window_budget: u64,
    /// The wall-clock time, since 1970.
    pub unix_time: Duration,
    /// All randomness.
    pub seed: Seed,
}

impl Config {
    /// How long a room waits if nothing else is said.
    pub const ROOM_TTL: Duration = Duration::from_secs(3600);
    /// How long the name of a room belongs to its sender after the first pairing.
    pub const KEEP: Duration = Duration::from_secs(60);
    /// The windows' budget if nothing else is said, in bytes.
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
    /// Whether a WebSocket may come without TLS, because a proxy in front of the relay has it. At a loopback address it
    /// always may: who can connect there is on this machine.
    pub behind_proxy: bool,
    /// Whether web pages may come, by WebSocket.
    pub browsers: Browsers,
    /// Connections that may wait to be accepted.
    pub backlog: u32,
    /// What is asked of the system for each.
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

/// What a relay can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// No new rooms; who waits is told; pairs have this long. Then it closes.
    Drain {
        /// From now.
        within: Duration,
    },
    /// Close now.
    Stop,
    /// Answered by [`Event::Status`].
    Status,
}

/// A room in logs: a short hash under a key of this process. It cannot be turned back into the room, nor be compared
/// with what another process logged.
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
    /// Nothing moved, or nobody came, for too long.
    Idle,
    /// The owner of a seat came on another link.
    Replaced,
    /// A peer broke a rule.
    Violation,
    /// The relay is going down.
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

/// Why a client was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// Its source has too many connections, or connects too often.
    TooManyConnections,
    /// Its source asks too often, or in vain.
    RateLimited,
    /// No connection or room is left, or no room for its source.
    Full,
    /// No sender waits there.
    NobodyWaits,
    /// The seat is somebody else's.
    NameTaken,
    /// No password, or a wrong one.
    Password,
    /// No common version.
    Version,
    /// It did not say in time what it wants.
    TooSlow,
    /// It broke a rule.
    Violation,
    /// The relay is going down.
    ShuttingDown,
}

impl Refused {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 10] = [
        Self::TooManyConnections,
        Self::RateLimited,
        Self::Full,
        Self::NobodyWaits,
        Self::NameTaken,
        Self::Password,
        Self::Version,
        Self::TooSlow,
        Self::Violation,
        Self::ShuttingDown,
    ];
}

/// How many clients were turned away in a minute, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusals([u64; Refused::ALL.len()]);

impl Refusals {
    /// How many for this reason.
    #[must_use]
    pub fn of(&self, reason: Refused) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// Whether there were none.
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

/// `rate_limited=12 password=200`: the reasons that there were.
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
            Self::NameTaken => "name_taken",
            Self::Password => "password",
            Self::Version => "version",
            Self::TooSlow => "too_slow",
            Self::Violation => "violation",
            Self::ShuttingDown => "shutting_down",
        })
    }
}

/// Figures, since the start or at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Connections now.
    pub connections: usize,
    /// Rooms in which somebody waits now.
    pub waiting: usize,
    /// Rooms in which two are paired now.
    pub paired: usize,
    /// Bytes that were passed on, in rooms that are closed.
    pub bytes_forwarded: u64,
    /// Clients that were turned away.
    pub refused: u64,
    /// Questions for the own address (STUN) that were answered.
    pub stun_answered: u64,
    /// And those that came too often to be.
    pub stun_ignored: u64,
    /// Events that nobody took in time.
    pub events_lost: u64,
}

/// What carries the links at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// What a relay tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// At this address of ours clients are served, with UDP and with TCP.
    Listening {
        /// The local address.
        addr: SocketAddr,
    },
    /// An address can't be listened at with UDP or with TCP; then it is not listened at with the other one either. When
    /// that is so for all addresses, the relay is closed.
    CannotListen {
        /// What was asked for; the port of TCP is the one that UDP got.
        addr: SocketAddr,
        /// Which of the two.
        transport: Transport,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// Somebody waits.
    RoomCreated {
        /// Where.
        room: RoomTag,
    },
    /// The other one came.
    RoomPaired {
        /// Where.
        room: RoomTag,
    },
    /// Nobody is there any more.
    RoomClosed {
        /// Where.
        room: RoomTag,
        /// Bytes that were passed on, both ways together.
        bytes_forwarded: u64,
        /// How long it lived, in seconds.
        seconds: u64,
        /// Why.
        reason: RoomEnd,
    },
    /// A client was turned away.
    Refused {
        /// Why.
        reason: Refused,
    },
    /// The clients that were turned away in the last minute, if there were any.
    Refusals(Refusals),
    /// The answer to [`Command::Status`].
    Status(Status),
    /// A command made no sense.
    Misused(Misuse),
}

impl From<Misuse> for Event {
    fn from(misuse: Misuse) -> Self {
        Self::Misused(misuse)
    }
}
