//! The types in which an endpoint reports to its owner: ids of connections and streams, events, and the reasons why a
//! connection ended. [`super`] has the logic.

use std::time::Duration;

use quinn_proto as proto;

use super::super::trust::{CertificateRefused, CertificateSeen, Verifier};
use crate::wire::untrusted::Untrusted;

/// TLS alert 120, no_application_protocol (RFC 7301 §3.2), as a QUIC error (RFC 9001 §4.8).
const NO_APPLICATION_PROTOCOL: u64 = 0x178;
/// RFC 9000 §20.1.
const CONNECTION_REFUSED: u64 = 0x2;
const INTERNAL_ERROR: u64 = 0x1;

/// The id of a connection of one endpoint; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u32);

/// The id of a stream of one connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream(pub(super) proto::StreamId);

/// Which sides may write to a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// Both sides.
    Bi,
    /// Only the side that opened it.
    Uni,
}

impl Stream {
    /// The first bidirectional stream that a client opens: the one for the messages between the two ends of a link.
    #[must_use]
    pub fn first() -> Self {
        Self(proto::StreamId::new(proto::Side::Client, proto::Dir::Bi, 0))
    }

    /// Which sides may write to the stream.
    #[must_use]
    pub fn direction(self) -> Direction {
        direction(self.0.dir())
    }

    /// How many streams of the same direction its side had opened before.
    #[must_use]
    pub fn index(self) -> u64 {
        self.0.index()
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({:?} {} of {:?})", self.direction(), self.index(), self.0.initiator())
    }
}

/// An event of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Streams can be opened: the handshake is complete, or, after [`super::Quic::reconnect`], data that is sent now is
    /// part of the first flight. On the server's side the handshake is complete; data of the first flight was reported
    /// before.
    Connected {
        /// How the server was recognised; [`CertificateSeen::NotAsked`] on the server's side.
        certificate: CertificateSeen,
    },
    /// After [`Event::Connected`] of a [`super::Quic::reconnect`]: the server rejected the early data. The handshake is
    /// complete; there are no streams, and all data must be sent again.
    Restarted {
        /// How the server was recognised.
        certificate: CertificateSeen,
    },
    /// The other side opened a stream. [`Event::Readable`] for it follows in any case.
    Opened(Stream, Direction),
    /// There may be data to read. Reported when data arrives, and not again for data that was left unread.
    Readable(Stream),
    /// The other side allows more streams of this kind than before.
    Available(Direction),
    /// A write that was [`super::Write::Blocked`] may be repeated.
    Writable(Stream),
    /// The other side has acknowledged all data and the end of the stream.
    Finished(Stream),
    /// The other side has stopped reading the stream, with this code.
    Stopped(Stream, u32),
    /// The connection has ended, and this is its last event. Data that arrived before should be read at once; soon it
    /// is dropped. Not reported after this side called [`super::Quic::close`].
    Closed(Closed),
}

/// Why a connection ended, if this side did not close it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The application of the other side closed the connection.
    #[error("closed by the other side with code {code}")]
    Application {
        /// Its code ([`u32::MAX`] for any larger one).
        code: u32,
        /// Its reason, as text.
        reason: Untrusted,
    },
    /// This side refused the server's certificate.
    #[error(transparent)]
    CertificateRefused(CertificateRefused),
    /// The other end does not support [`super::ALPN`].
    #[error("the other end is not a tallow relay or peer of a supported version")]
    NoCommonProtocol,
    /// The other end does not support QUIC version 1.
    #[error("the other end does not support QUIC version 1")]
    VersionMismatch,
    /// The server refused the connection before the handshake: it is full, or this client connects too often.
    #[error("the server refused the connection")]
    Refused,
    /// The other end violated QUIC or TLS, or reports that this side did.
    #[error("QUIC transport error {code:#x}")]
    Transport {
        /// The code of RFC 9000 §20.1; 0x100 plus a TLS alert.
        code: u64,
        /// Whether the other end reported the error.
        by_peer: bool,
    },
    /// Nothing was received within the idle timeout, or the first packets were not answered.
    #[error("nothing was received for too long")]
    TimedOut,
    /// The other end has no state of the connection; it was probably restarted.
    #[error("the other end has no state of the connection any more")]
    Reset,
}

/// Why no connection can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotConnect {
    /// The name is neither a DNS name nor an IP address.
    #[error("the server's name is not valid")]
    Name,
    /// The address is unspecified, or the port is 0.
    #[error("the address is not valid for a connection")]
    Address,
    /// The limit of connections is reached.
    #[error("there are too many connections")]
    TooMany,
}

/// Statistics of one connection, for logs and displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// The smoothed round-trip time.
    pub rtt: Duration,
    /// The largest datagram size that is known to pass, without UDP and IP headers.
    pub mtu: u16,
    /// The most bytes that may be in flight.
    pub congestion_window: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that were declared lost.
    pub lost_packets: u64,
    /// Bytes of datagrams sent.
    pub sent_bytes: u64,
    /// Bytes of datagrams received.
    pub received_bytes: u64,
}

/// Converts an application error code: it has 62 bits in QUIC and 32 bits here.
pub(super) fn short(code: proto::VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}

pub(super) const fn direction(dir: proto::Dir) -> Direction {
    match dir {
        proto::Dir::Bi => Direction::Bi,
        proto::Dir::Uni => Direction::Uni,
    }
}

/// Returns `None` if this side closed the connection.
pub(super) fn closed(reason: proto::ConnectionError, verifier: Option<&Verifier>) -> Option<Closed> {
    let refused = verifier.and_then(|verifier| verifier.verdict()?.err());
    Some(match reason {
        proto::ConnectionError::LocallyClosed => return None,
        proto::ConnectionError::VersionMismatch => Closed::VersionMismatch,
        proto::ConnectionError::TimedOut => Closed::TimedOut,
        proto::ConnectionError::Reset => Closed::Reset,
        proto::ConnectionError::CidsExhausted => Closed::Transport { code: INTERNAL_ERROR, by_peer: false },
        proto::ConnectionError::ApplicationClosed(close) => {
            let reason = Untrusted::new(String::from_utf8_lossy(&close.reason).into_owned());
            Closed::Application { code: short(close.error_code), reason }
        }
        proto::ConnectionError::TransportError(error) => match (refused, u64::from(error.code)) {
            (Some(refused), _) => Closed::CertificateRefused(refused),
            (None, NO_APPLICATION_PROTOCOL) => Closed::NoCommonProtocol,
            (None, code) => Closed::Transport { code, by_peer: false },
        },
        proto::ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
            NO_APPLICATION_PROTOCOL => Closed::NoCommonProtocol,
            CONNECTION_REFUSED => Closed::Refused,
            code => Closed::Transport { code, by_peer: true },
        },
    })
}
