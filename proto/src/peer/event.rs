//! What the application hears and says, the same for every runtime.

use std::time::Duration;

use super::answer::{Comparison, Offer, StreamOffer};
use super::config::RelayAddress;
pub use super::failure::{Class, Failure, Lost, RelayFailure};
use crate::code::{Code, Link};
use crate::link::race::Transport;
use crate::link::trust::Trust;
use crate::misuse::Misuse;
use crate::transfer::differences::Differences;
use crate::transfer::manifest::Totals;

/// What happened. Exactly one of [`Event::Done`] and [`Event::Failed`] comes. While a receiver that is done still waits
/// until its sender knows it, [`Event::Waiting`] and [`Event::Reconnecting`] may follow; nothing else does.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Sender: the source was looked through.
    Scanned(Totals),
    /// Sender: tell this to the other person.
    Code {
        /// To be read aloud.
        code: Code,
        /// Code and relay in one, for a receiver that knows neither. Of the relay inside this process it names the
        /// address by which other machines of this network reach it; `None`: no such address is known.
        link: Option<Link>,
        /// The relay inside this process, when there is one: where it listens.
        listening: Vec<std::net::SocketAddr>,
    },
    /// A relay was met for the first time: keep how its certificate was recognised, as [`Trust`] for the next time.
    FirstUse {
        /// Which.
        relay: RelayAddress,
        /// What to accept from now on: [`Trust::Known`] or [`Trust::PublicCa`].
        keep: Trust,
    },
    /// A relay answered over another transport than was remembered: trying that one first makes the next start faster.
    Reached {
        /// Which.
        relay: RelayAddress,
        /// Over what.
        transport: Transport,
    },
    /// Nothing happens until this comes.
    Waiting(WaitingFor),
    /// The other side is there; the handshake runs.
    Paired,
    /// Sender: somebody used a wrong code; so many tries are left.
    WrongGuess {
        /// 0: the code is burned.
        left: u8,
    },
    /// Sender: another receiver came with this code's number while one is served, and was turned away. Told once.
    SecondReceiver,
    /// The words that both people compare, where either side asked for it.
    Verifier {
        /// Seven words.
        words: Vec<&'static str>,
        /// What answers, where this side asked for it: nothing moves before. `None`: only the other side waits for its
        /// person.
        comparison: Option<Comparison>,
    },
    /// Receiver: files are offered, and the sender waits for the answer that this value gives. Dropping it declines.
    Offer(Offer),
    /// Receiver: bytes of unknown length are offered. Dropping the value declines.
    StreamOffer(StreamOffer),
    /// The receiver accepted; bytes move.
    Accepted,
    /// Receiver: some of it is here from an earlier try, and is hashed again; bytes move after that.
    Resuming,
    /// So much is at the receiver from an earlier try and need not be sent; 0: what was there did not match.
    Resumed {
        /// In bytes of the files.
        bytes: u64,
    },
    /// Which way the bytes take.
    Path(Path),
    /// The session moved to a direct path; nothing was lost. [`Event::Path`] follows.
    Upgraded {
        /// Over what it goes now.
        transport: PathTransport,
        /// Since the keys were there, or since the last direct path was left.
        after: Duration,
    },
    /// The direct path is no more; the session goes on over the relay, and [`Event::Path`] follows. Where no data may
    /// go there, [`WaitingFor::DirectPath`] follows.
    FellBack(Fallback),
    /// The connection was lost, and nothing else was: the other side is looked for again, after this pause.
    Reconnecting {
        /// Counts up while it does not succeed; 1 is the first.
        attempt: u32,
        /// How long until then.
        wait: Duration,
    },
    /// How far it is. Only the latest counts.
    Progress(Progress),
    /// Complete and verified on both sides, but for what [`Summary::differences`] names.
    Done(Summary),
    /// Over.
    Failed(Failure),
    /// A command came when it was not possible; nothing changed. Offers and comparisons that are answered by their own
    /// values come here only when the transfer ended at the same moment.
    Misuse(Misuse),
}

impl From<Misuse> for Event {
    fn from(misuse: Misuse) -> Self {
        Self::Misuse(misuse)
    }
}

impl Event {
    /// Whether it may come any number of times, so that a newer one takes the place of one that nobody has read.
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

    /// Whether nothing comes after it.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_))
    }
}

/// What a peer waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitingFor {
    /// A relay that answers.
    Relay(RelayAddress),
    /// Sender: its own source, which is still looked through. There is no code before.
    Source,
    /// Sender: the other person with the code.
    Receiver,
    /// Receiver: a sender with this code; none is there yet.
    Sender,
    /// Receiver: the sender, which has another receiver. If that one has the right code, this one will not be served.
    Turn,
    /// Receiver: the first message of a sender that a relay has paired it with. It has not come for a while: the sender
    /// may have ended without the relay's knowledge.
    Response,
    /// Sender: the receiver's answer to the offer.
    Answer,
    /// The other person's agreement to the verifier words.
    Agreement,
    /// The other side of a session that lost its link.
    Peer,
    /// Another direct path, where nothing is to go over a relay and the last one was lost.
    DirectPath,
}

/// How the bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Path {
    /// Over whom.
    pub kind: PathKind,
    /// Over what, to the next hop.
    pub transport: PathTransport,
    /// Round trip to the next hop.
    pub rtt: Duration,
}

/// Over whom the bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathKind {
    /// A relay.
    Relay,
    /// Straight to the relay inside the sender.
    Lan,
    /// Straight to the other side.
    Direct,
}

/// Over what the bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathTransport {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tls,
    /// WebSocket in TLS over TCP.
    WebSocket,
    /// The sealed records themselves over TCP: between two machines of one network.
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
    /// Nothing was heard on it any more.
    Silent,
    /// Its connection broke.
    Lost,
    /// The other side found that it is over.
    Peer,
    /// This machine's addresses changed.
    Moved,
}

/// How far a transfer is, in bytes of the files themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Stored by the receiver, as far as this side knows.
    pub bytes: u64,
    /// All; 0 while that is not known, of a stream.
    pub total: u64,
    /// Of `bytes`, what was at the receiver from an earlier try, and took no time now.
    pub resumed: u64,
    /// Since the offer was accepted.
    pub elapsed: Duration,
    /// Bytes a second over the last seconds, without what was resumed; `None` while too little time has passed.
    pub rate: Option<u64>,
}

/// A finished transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Entries and bytes that were offered.
    pub totals: Totals,
    /// How what is in place differs from what was offered; without differences all of it is.
    pub differences: Differences,
    /// Of these bytes, the ones that were at the receiver from an earlier try.
    pub resumed: u64,
    /// From the acceptance to the end.
    pub duration: Duration,
    /// What both sides computed over manifest and chunks.
    pub root: [u8; 32],
}
