//! The types in which a TCP connection reports to its owner: events, the reason of its end, the action for the socket;
//! and the windows that the owner sets. [`super`] has the logic.

use super::super::proxy::ProxyFailure;
use super::super::tls::TlsFailure;
use super::super::trust::CertificateSeen;
use super::super::websocket::{UpgradeFailure, WebSocketViolation};
use super::Transport;
use crate::wire::untrusted::Untrusted;

/// The limits on buffered bytes in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Maximum number of bytes that were received and not read by the owner.
    pub receive: usize,
    /// Maximum number of bytes that the owner has written and the socket has not sent.
    pub send: usize,
}

impl Windows {
    /// The windows of the two ends of a transfer.
    #[must_use]
    pub const fn peer() -> Self {
        Self { receive: 1024 * 1024, send: 256 * 1024 }
    }

    /// The windows of the two ends of a transfer in one network.
    #[must_use]
    pub const fn direct() -> Self {
        Self { receive: 4 * 1024 * 1024, send: 1024 * 1024 }
    }

    /// The initial windows of a relay: small, and raised once a TCP connection is seen to need more.
    #[must_use]
    pub const fn relay() -> Self {
        Self { receive: 64 * 1024, send: 64 * 1024 }
    }
}

/// An event of a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The link is open.
    Connected {
        /// How the server was recognised; [`CertificateSeen::NotAsked`] on the server's side.
        certificate: CertificateSeen,
        /// The protocols in the TCP connection.
        transport: Transport,
    },
    /// Bytes may be readable. Reported when bytes arrive, and not again for bytes that were left unread.
    Readable,
    /// A write that was [`super::Write::Blocked`] may be repeated.
    Writable,
    /// The link has ended, and this is its last event. Bytes that arrived before can still be read. Not reported if
    /// this side called [`super::TcpLink::close`].
    Closed(Closed),
}

/// Why a TCP connection ended, if this side did not close it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// Both sides have finished.
    #[error("both sides have finished")]
    Ended,
    /// The application of the other side closed the link.
    #[error("closed by the other side with code {code}")]
    Application {
        /// Its code, from 1 to 999; a larger one arrives as 999.
        code: u32,
        /// Its reason, as text.
        reason: Untrusted,
    },
    /// The other side, or a proxy, closed the WebSocket with this code (RFC 6455 §7.4).
    #[error("the WebSocket was closed with code {0}")]
    WebSocketCode(u16),
    /// The other side violated the WebSocket protocol.
    #[error(transparent)]
    WebSocket(#[from] WebSocketViolation),
    /// The WebSocket handshake failed.
    #[error(transparent)]
    Upgrade(#[from] UpgradeFailure),
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] TlsFailure),
    /// The proxy refused or failed to connect.
    #[error(transparent)]
    Proxy(#[from] ProxyFailure),
    /// The first bytes of a client are not of a supported protocol.
    #[error("the other end uses another protocol")]
    Unknown,
    /// The link was not open in time, or nothing was received for too long.
    #[error("nothing was received for too long")]
    TimedOut,
    /// The connection failed, or ended without an end marker.
    #[error("the connection was lost")]
    Lost,
}

/// The action that the caller must take on the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketAction {
    /// Keep the socket open.
    Live,
    /// All output is written: close the socket in an orderly way.
    Finish,
    /// Abort the connection.
    Abort,
}
