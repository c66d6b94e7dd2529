//! What a pipe tells its owner: events, why it ended, what to do with the socket; and how much the owner lets wait. Only words;
//! what they follow from is in [`super`].

use super::super::proxy::ProxyFailure;
use super::super::tls::TlsFailure;
use super::super::trust::CertificateSeen;
use super::super::websocket::{UpgradeFailure, WebSocketViolation};
use super::Transport;
use crate::wire::untrusted::Untrusted;

/// How much may wait in either direction, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// What was received and not read by the owner.
    pub receive: usize,
    /// What was written by the owner and not by the socket.
    pub send: usize,
}

impl Windows {
    /// For the two ends of a transfer.
    #[must_use]
    pub const fn peer() -> Self {
        Self { receive: 1024 * 1024, send: 256 * 1024 }
    }

    /// For the two ends of a transfer in one network.
    #[must_use]
    pub const fn direct() -> Self {
        Self { receive: 4 * 1024 * 1024, send: 1024 * 1024 }
    }

    /// For a relay: each pipe starts small and is raised by evidence.
    #[must_use]
    pub const fn relay() -> Self {
        Self { receive: 64 * 1024, send: 64 * 1024 }
    }
}

/// What happened on a pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The link is there.
    Connected {
        /// How the server was recognised; [`CertificateSeen::NotAsked`] on the server's side.
        certificate: CertificateSeen,
        /// What runs in the pipe.
        transport: Transport,
    },
    /// There may be something to read. Said when something arrives and not again for what was left unread.
    Readable,
    /// A write that was [`super::Write::Blocked`] may go on.
    Writable,
    /// The link is over, and this is its last event. What arrived before can still be read. Not said after a [`super::Pipe::close`] of our
    /// own.
    Closed(Closed),
}

/// Why a pipe ended, when it was not us who closed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// Both sides said all they had to say.
    #[error("both sides are done")]
    Ended,
    /// The other side's application closed it.
    #[error("closed by the other side with code {code}")]
    Application {
        /// Its code, from 1 to 999; a larger one arrives as 999.
        code: u32,
        /// Its words.
        reason: Untrusted,
    },
    /// The other side, or something between, closed the WebSocket with this code (RFC 6455 §7.4).
    #[error("the WebSocket was closed with code {0}")]
    WebSocketClosed(u16),
    /// The other side broke a rule of WebSocket.
    #[error(transparent)]
    WebSocket(#[from] WebSocketViolation),
    /// There is no WebSocket.
    #[error(transparent)]
    Upgrade(#[from] UpgradeFailure),
    /// TLS ended it.
    #[error(transparent)]
    Tls(#[from] TlsFailure),
    /// The proxy did not let us through.
    #[error(transparent)]
    Proxy(#[from] ProxyFailure),
    /// What a client sent first is nothing that is spoken here.
    #[error("the other end speaks another protocol")]
    Unknown,
    /// The link was not there in time, or nothing was heard for too long.
    #[error("nothing was heard for too long")]
    TimedOut,
    /// The connection broke off.
    #[error("the connection was lost")]
    Lost,
}

/// What to do with the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Go on.
    Live,
    /// All is written: end it in good order.
    Finish,
    /// Let it go.
    Abort,
}
