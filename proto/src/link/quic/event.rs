//! What an endpoint tells its owner: names of connections and streams, events, results of stream calls, and why a
//! connection ended. Only words; what they follow from is in [`super`].

use std::time::Duration;

use quinn_proto as proto;

use super::super::trust::{CertificateRefused, CertificateSeen, Verifier};
use crate::wire::untrusted::Untrusted;

/// TLS alert 120, no_application_protocol (RFC 7301 §3.2), as a QUIC error (RFC 9001 §4.8).
const NO_APPLICATION_PROTOCOL: u64 = 0x178;
/// RFC 9000 §20.1.
const CONNECTION_REFUSED: u64 = 0x2;
const INTERNAL_ERROR: u64 = 0x1;

/// A connection of one endpoint; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u32);

/// A stream of one connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream(pub(super) proto::StreamId);

/// Who may write to a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// Both sides.
    Bi,
    /// Only the side that opened it.
    Uni,
}

impl Stream {
    /// The first stream that a client opens in both directions: the one on which the two ends of a link talk.
    #[must_use]
    pub fn first() -> Self {
        Self(proto::StreamId::new(proto::Side::Client, proto::Dir::Bi, 0))
    }

    /// Who may write to it.
    #[must_use]
    pub fn direction(self) -> Direction {
        direction(self.0.dir())
    }

    /// How many streams of the same direction the side that opened it had opened before.
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

/// What happened on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Streams can be opened: the handshake is done, or, after [`super::Quic::reconnect`], what is said
    /// now goes out with its first flight. On the server's side the handshake is done, and what came in
    /// a first flight was told before.
    Connected {
        /// How the server was recognised; [`CertificateSeen::NotAsked`] on the server's side.
        certificate: CertificateSeen,
    },
    /// After [`Event::Connected`] of a [`super::Quic::reconnect`]: the server did not take what was said in the first
    /// flight. The handshake is done; there are no streams, and everything has to be said again.
    Restarted {
        /// How the server was recognised.
        certificate: CertificateSeen,
    },
    /// The other side opened a stream. [`Event::Readable`] for it follows in any case.
    Opened(Stream, Direction),
    /// There may be something to read. Said when something arrives and not again for what was left unread.
    Readable(Stream),
    /// The other side allows more streams of this kind than before.
    Available(Direction),
    /// A write that was [`super::Write::Blocked`] may go on.
    Writable(Stream),
    /// All that was written, and the end of the stream, was acknowledged.
    Finished(Stream),
    /// The other side will read no more of it; the stream is over.
    Stopped(Stream, u32),
    /// The connection is over, and this is its last event. What arrived before can still be read for a moment: at once
    /// is best. Not said after a [`super::Quic::close`] of our own.
    Closed(Closed),
}

/// Why a connection ended, when it was not us who closed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The other side's application closed it.
    #[error("closed by the other role with code {code}")]
    Application {
        /// Its code ([`u32::MAX`] for any larger one).
        code: u32,
        /// Its words.
        reason: Untrusted,
    },
    /// We refused the server's certificate.
    #[error(transparent)]
    CertificateRefused(CertificateRefused),
    /// The other end does not speak [`super::ALPN`].
    #[error("the other end is no tallow relay or peer of a version that is spoken here")]
    NoCommonProtocol,
    /// The other end does not speak QUIC version 1.
    #[error("the other end does not speak QUIC version 1")]
    VersionMismatch,
    /// The server turned us away before the handshake: it is full or we come too often.
    #[error("the server refused the connection")]
    Refused,
    /// The other end broke a rule of QUIC or TLS, or says that we did.
    #[error("QUIC transport error {code:#x}")]
    Transport {
        /// RFC 9000 §20.1; 0x100 plus a TLS alert.
        code: u64,
        /// It was the other end that complained.
        by_peer: bool,
    },
    /// Nothing was heard for the idle timeout, or no answer came to the first packets.
    #[error("nothing was heard for too long")]
    TimedOut,
    /// The other end forgot the connection; it was restarted, most likely.
    #[error("the other end does not know the connection any more")]
    Reset,
}

/// Why there is no connection to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotConnect {
    /// Neither a DNS name nor an IP address.
    #[error("the server's name is not valid")]
    Name,
    /// An unspecified address, or port 0.
    #[error("the address is not one to connect to")]
    Address,
    /// There are too many connections.
    #[error("there are too many connections")]
    TooMany,
}

/// Figures of one connection, for logs and displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// The smoothed round trip.
    pub rtt: Duration,
    /// The size of the largest datagram that is known to pass, without UDP and IP headers.
    pub mtu: u16,
    /// Bytes that may be in flight.
    pub congestion_window: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that were found lost.
    pub lost_packets: u64,
    /// Bytes of datagrams sent.
    pub sent_bytes: u64,
    /// Bytes of datagrams received.
    pub received_bytes: u64,
}

/// Application error codes have 62 bits in QUIC and 32 here.
pub(super) fn short(code: proto::VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}

pub(super) const fn direction(dir: proto::Dir) -> Direction {
    match dir {
        proto::Dir::Bi => Direction::Bi,
        proto::Dir::Uni => Direction::Uni,
    }
}

/// `None` for our own close, which is no news.
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
