//! The framing of the link's bytes within the carrier: unframed, split at long records, or in a WebSocket.
//!
//! No decisions of its own, and no timers but the WebSocket's.
//! ```text
//! undecided (a server, until ALPN is known) → bytes │ records (between two peers)
//!                                           → upgrade → a WebSocket │ refused
//! ```
//! Bounds: one reply to the upgrade request, and those of the WebSocket.

use bytes::Bytes;

use super::super::websocket::{Browsers, Mask, Role, Upgrade, UpgradeFailure, WebSocket};
use super::Closed;
use super::inbox::Inbox;
use super::records::Records;
use crate::Instant;

/// The framing of a TCP connection; the module's documentation describes its states.
#[derive(Debug)]
pub(super) enum Framing {
    Undecided,
    Bytes,
    /// The records of two peers, without further framing.
    Records(Box<Records>),
    Upgrading {
        upgrade: Upgrade,
        /// The role in the WebSocket that follows.
        role: Role,
        /// The bytes to send first, once the carrier is ready.
        say: Bytes,
    },
    WebSocket {
        socket: Box<WebSocket>,
        /// The bytes to send first: a server's answer.
        say: Bytes,
    },
    /// The WebSocket handshake failed.
    Refused {
        say: Bytes,
    },
}

impl Framing {
    /// The WebSocket of a client.
    pub(super) fn ask(authority: &str, path: &str, role: Role) -> Self {
        match role {
            Role::Client(mut rng) => {
                let (say, upgrade) = Upgrade::client(authority, path, &mut rng);
                Self::Upgrading { upgrade, role: Role::Client(rng), say }
            }
            Role::Server => Self::answer(Browsers::Refused),
        }
    }

    /// The WebSocket of a server.
    pub(super) fn answer(browsers: Browsers) -> Self {
        Self::Upgrading { upgrade: Upgrade::server(browsers), role: Role::Server, say: Bytes::new() }
    }

    /// Processes the bytes that the carrier has received.
    pub(super) fn receive(&mut self, now: Instant, plain: &[u8], inbox: &mut Inbox) -> Result<(), Closed> {
        match self {
            Self::Undecided => return Err(Closed::Unknown),
            Self::Bytes => inbox.copy(plain),
            Self::Records(records) => records.receive(plain, inbox),
            Self::Upgrading { upgrade, .. } => match upgrade.receive(plain) {
                Ok(None) => {}
                Ok(Some((answer, rest))) => {
                    self.become_websocket(now, answer);
                    if !rest.is_empty() {
                        return self.receive(now, rest, inbox);
                    }
                }
                Err((failure, say)) => {
                    *self = Self::Refused { say };
                    return Err(failure.into());
                }
            },
            Self::WebSocket { socket, .. } => {
                socket.restart_idle(now);
                let mut deliver =
                    |bytes: &[u8], mask: &mut Mask| inbox.pieces.copy_with(bytes, |copy| mask.apply(copy));
                socket.receive(plain, &mut deliver)?;
            }
            Self::Refused { .. } => return Err(UpgradeFailure::Request.into()),
        }
        Ok(())
    }

    fn become_websocket(&mut self, now: Instant, say: Bytes) {
        if let Self::Upgrading { role, .. } = std::mem::replace(self, Self::Undecided) {
            *self = Self::WebSocket { socket: Box::new(WebSocket::new(now, role)), say };
        }
    }

    /// Takes the bytes that the framing itself has to send.
    pub(super) fn poll_message(&mut self, now: Instant) -> Option<Bytes> {
        let said = |say: &mut Bytes| Some(std::mem::take(say)).filter(|say| !say.is_empty());
        match self {
            Self::Undecided | Self::Bytes | Self::Records(_) => None,
            Self::Upgrading { say, .. } | Self::Refused { say } => said(say),
            Self::WebSocket { socket, say } => said(say).or_else(|| socket.poll_control(now)),
        }
    }

    /// The end marker of this side's direction.
    pub(super) fn close(&mut self, code: u32, reason: &str) -> Option<Bytes> {
        match self {
            Self::WebSocket { socket, .. } => Some(socket.close(code, reason)),
            Self::Undecided | Self::Bytes | Self::Records(_) | Self::Upgrading { .. } | Self::Refused { .. } => None,
        }
    }

    /// The splitter of records, if the framing has one.
    pub(super) fn records(&mut self) -> Option<&mut Records> {
        match self {
            Self::Records(records) => Some(records),
            Self::Undecided | Self::Bytes | Self::Upgrading { .. } | Self::WebSocket { .. } | Self::Refused { .. } => {
                None
            }
        }
    }

    /// The WebSocket, if the framing is one.
    pub(super) fn socket(&mut self) -> Option<&mut WebSocket> {
        match self {
            Self::WebSocket { socket, .. } => Some(socket),
            Self::Undecided | Self::Bytes | Self::Records(_) | Self::Upgrading { .. } | Self::Refused { .. } => None,
        }
    }
}
