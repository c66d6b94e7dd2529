//! What the application learns from a peer; the events are the same for every runtime.

use std::time::Duration;

use super::answer::{Comparison, Offer, StreamOffer};
use super::config::RelayAddress;
use super::failure::Failure;
use crate::code::{Code, Link};
use crate::link::race::Transport;
use crate::link::trust::Trust;
use crate::misuse::Misuse;
use crate::transfer::manifest::Totals;
use crate::wire::peer::Placement;

/// What happened. Exactly one of [`Event::Done`] and [`Event::Failed`] is reported. After [`Event::Done`] a receiver
/// may still wait until its sender has the confirmation; only [`Event::Waiting`] and [`Event::Reconnecting`] are
/// reported then.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Sender: the source was scanned.
    Scanned(Totals),
    /// Sender: the code is ready to be given to the receiving user.
    Code {
        /// The code, short enough to be read aloud.
        code: Code,
        /// Code and relay address in one text, for a receiver that knows neither. For an embedded relay it contains
        /// the address at which other machines of this network reach it; `None`: no such address is known.
        link: Option<Link>,
        /// The addresses at which the embedded relay listens; empty without one.
        listening: Vec<std::net::SocketAddr>,
    },
    /// A relay was used for the first time: store `keep` and pass it as [`Trust`] the next time.
    FirstUse {
        /// The relay.
        relay: RelayAddress,
        /// The certificate to accept from now on: [`Trust::Known`] or [`Trust::PublicCa`].
        keep: Trust,
    },
    /// A relay answered over another transport than the remembered one. Trying this transport first makes the next
    /// start faster.
    Reached {
        /// The relay.
        relay: RelayAddress,
        /// The transport over which it answered.
        transport: Transport,
    },
    /// The peer waits, and nothing else happens until the wait ends.
    Waiting(WaitingFor),
    /// The other side is connected; the handshake runs.
    Paired,
    /// Sender: another client used a wrong code; `left` attempts remain.
    WrongGuess {
        /// 0: the code can't be used any more.
        left: u8,
    },
    /// Sender: while one receiver was served, another one used the same nameplate and was rejected. Reported once.
    SecondReceiver,
    /// The words that both users compare, if either side required it.
    Verifier {
        /// The seven words.
        words: Vec<&'static str>,
        /// Answers the comparison, if this side required it: nothing is transferred before. `None`: only the other
        /// side waits for its user.
        comparison: Option<Comparison>,
    },
    /// Receiver: the sender offers files and waits for the answer that this value sends. Dropping it declines.
    Offer(Offer),
    /// Receiver: the sender offers bytes of unknown length. Dropping the value declines.
    StreamOffer(StreamOffer),
    /// The receiver accepted; the transfer of bytes begins.
    Accepted,
    /// Receiver: chunks of an earlier attempt are stored and are hashed again; the transfer of bytes begins after
    /// that.
    Resuming,
    /// The receiver has this many bytes from an earlier attempt, and they are not sent again; 0: the stored bytes did
    /// not match.
    Resumed {
        /// In bytes of the files.
        bytes: u64,
    },
    /// The path that the bytes take.
    Path(Path),
    /// The session moved to a direct path without losing anything. [`Event::Path`] follows.
    Upgraded {
        /// The transport of the new path.
        transport: PathTransport,
        /// The time since the session was keyed, or since the last direct path was left.
        after: Duration,
    },
    /// The direct path was lost; the session continues over the relay, and [`Event::Path`] follows. If data may not
    /// use a relay, [`WaitingFor::DirectPath`] follows.
    FellBack(Fallback),
    /// The connection was lost, but the transfer was not: the peer searches for the other side again after this
    /// pause.
    Reconnecting {
        /// The number of this attempt, starting at 1.
        attempt: u32,
        /// The pause before the attempt.
        wait: Duration,
    },
    /// The progress. A newer event replaces an older one.
    Progress(Progress),
    /// The transfer is complete, and both sides verified it.
    Done(Summary),
    /// The transfer failed.
    Failed(Failure),
    /// A command was not possible at that time and changed nothing. Offers and comparisons return such errors from
    /// their own methods; they are reported here only if the transfer ended at the same moment.
    Misuse(Misuse),
}

impl From<Misuse> for Event {
    fn from(misuse: Misuse) -> Self {
        Self::Misuse(misuse)
    }
}

impl Event {
    /// Whether the event may occur any number of times, so that a newer one replaces one that the application has not
    /// read.
    pub(super) const fn is_repeatable(&self) -> bool {
        match self {
            Self::Reached { .. }
            | Self::Waiting(_)
            | Self::Paired
            | Self::Path(_)
            | Self::Upgraded { .. }
            | Self::FellBack(_)
            | Self::Reconnecting { .. }
            | Self::Misuse(_) => true,
            Self::Progress(_)
            | Self::Scanned(_)
            | Self::Code { .. }
            | Self::FirstUse { .. }
            | Self::WrongGuess { .. }
            | Self::SecondReceiver
            | Self::Verifier { .. }
            | Self::Offer(_)
            | Self::StreamOffer(_)
            | Self::Accepted
            | Self::Resuming
            | Self::Resumed { .. }
            | Self::Done(_)
            | Self::Failed(_) => false,
        }
    }

    /// Whether this is the last event.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_))
    }
}

/// What a peer waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitingFor {
    /// A relay to answer.
    Relay(RelayAddress),
    /// The name service (DNS) to find the address of the relay or proxy with this name. It has not answered yet.
    NameService(String),
    /// Sender: a receiver with the code.
    Receiver,
    /// Receiver: a sender with this code; none is connected yet.
    Sender,
    /// Receiver: the sender, which is connected to another receiver. If that one has the right code, this one is not
    /// served.
    Turn,
    /// Receiver: the first message of the sender that the relay paired it with. It has not arrived for a while; the
    /// sender may have ended without the relay noticing.
    Response,
    /// Sender: the receiver's answer to the offer.
    Answer,
    /// The other user's confirmation of the verifier words.
    Agreement,
    /// The other side of a session that lost its link.
    Peer,
    /// Another direct path: the last one was lost, and data may not use a relay.
    DirectPath,
    /// Sender: the receiver of a session that lost its link after everything was sent. It may be complete and gone.
    Confirmation,
}

/// The path that the bytes take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Path {
    /// Through which machine the path leads.
    pub kind: PathKind,
    /// The transport to the next hop.
    pub transport: PathTransport,
    /// Round-trip time to the next hop.
    pub rtt: Duration,
}

/// Through which machine a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathKind {
    /// Through a relay.
    Relay,
    /// Directly to the relay inside the sender.
    Lan,
    /// Directly to the other peer.
    Direct,
}

/// The transport of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathTransport {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tls,
    /// WebSocket in TLS over TCP.
    WebSocket,
    /// The sealed records directly over TCP, between two machines of one network.
    Tcp,
}

impl From<Transport> for PathTransport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Quic => Self::Quic,
            Transport::Tls => Self::Tls,
            Transport::WebSocket => Self::WebSocket,
        }
    }
}

/// Why a direct path was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fallback {
    /// Nothing was received on it for too long.
    Silent,
    /// Its connection failed.
    Lost,
    /// The other side reported that it is lost.
    Peer,
    /// This machine's addresses changed.
    Moved,
}

/// The progress of a transfer, in bytes of the files themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes that the receiver has stored, as far as this side knows.
    pub bytes: u64,
    /// All bytes of the transfer; 0 for a stream until its length is known.
    pub total: u64,
    /// The part of `bytes` that the receiver has from an earlier attempt.
    pub resumed: u64,
    /// The time since the offer was accepted.
    pub elapsed: Duration,
    /// Bytes per second over the last seconds, without resumed bytes; `None` while too little time has passed.
    pub rate: Option<u64>,
}

/// A finished transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Number of entries and bytes.
    pub totals: Totals,
    /// The part of these bytes that the receiver has from an earlier attempt.
    pub resumed: u64,
    /// The time from the acceptance to the end.
    pub duration: Duration,
    /// The hash over manifest and chunks that both sides computed.
    pub root: [u8; 32],
    /// How what the receiver has put in place differs from the offer, as the receiver says.
    pub placement: Placement,
}
