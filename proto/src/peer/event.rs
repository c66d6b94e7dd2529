//! What the application hears and says, the same for every runtime.

use std::sync::Arc;
use std::time::Duration;

use super::config::RelayAddress;
use crate::code::{Code, Link};
use crate::link::proxy::ProxyFailure;
use crate::link::race::Transport;
use crate::link::trust::{CertificateRefused, Trust};
use crate::misuse::Misuse;
use crate::transfer::manifest::{Manifest, Totals};
use crate::transfer::storage::{Fault, Sink, StreamSink};
use crate::transfer::{Progress, Refused};
use crate::wire::Untrusted;
use crate::wire::Versions;
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, DeclineReason};
use crate::wire::relay::RefusalReason;

/// What happened. Exactly one of [`Event::Done`] and [`Event::Failed`] comes, and nothing after it.
#[derive(Debug, Clone)]
pub enum Event {
    /// Sender: the source was looked through.
    Scanned(Totals),
    /// Sender: tell this to the other person.
    Code {
        /// To be read aloud.
        code: Code,
        /// The same as a link, where a relay can be named in it.
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
    /// The words that both people compare; with `--verify` on either side the transfer waits for [`Command::Agree`] here.
    Verifier {
        /// Seven words.
        words: Vec<&'static str>,
        /// Whether this side waits for its person.
        must_agree: bool,
    },
    /// Receiver: answer with [`Command::Accept`] or [`Command::Decline`].
    Offer(Arc<Manifest>),
    /// Receiver: bytes of unknown length are offered; answer with [`Command::AcceptStream`] or [`Command::Decline`].
    StreamOffer,
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
    /// The direct path is no more; the session goes on over the relay, and [`Event::Path`] follows. Where no data may go there,
    /// [`WaitingFor::DirectPath`] follows.
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
    /// Complete and verified on both sides.
    Done(Summary),
    /// Over.
    Failed(Failure),
    /// A command made no sense; nothing changed.
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
            | Self::StreamOffer
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
pub enum WaitingFor {
    /// A relay that answers.
    Relay(RelayAddress),
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

/// A finished transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Entries and bytes.
    pub totals: Totals,
    /// From the acceptance to the end.
    pub duration: Duration,
    /// What both sides computed over manifest and chunks.
    pub root: [u8; 32],
}

/// Why a transfer ended before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Receiver: not the sender's words. Sender: guessed wrong three times.
    #[error("wrong code")]
    WrongCode,
    /// The other side speaks none of our versions.
    #[error("the other side speaks version {0} of the protocol")]
    Versions(Versions),
    /// The receiver said no.
    #[error("the receiver declined")]
    Declined {
        /// Why.
        reason: DeclineReason,
        /// In the other side's words.
        text: Untrusted,
    },
    /// This side's person said no.
    #[error("not accepted")]
    NotAccepted,
    /// The offer breaks a rule for names, or the receiver's limits.
    #[error("the offer was refused: {}", .0.why)]
    Refused(Refused),
    /// The connection ended or nothing came in time.
    #[error("{0}")]
    Lost(Lost),
    /// A file or a directory.
    #[error("local file error")]
    Local(Fault),
    /// The other side broke a rule.
    #[error("{0}")]
    Violation(Violation),
    /// The relay turned this side away.
    #[error("the relay refused")]
    Relay(RelayFailure),
    /// The other side gave up.
    #[error("the other side ended the transfer")]
    Peer {
        /// Why.
        reason: CancelReason,
        /// In the other side's words.
        text: Untrusted,
    },
    /// The verifier words were not confirmed here.
    #[error("the verifier words were not confirmed")]
    NotVerified,
    /// This side's person interrupted it.
    #[error("interrupted")]
    Interrupted,
}

/// The network's part in a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// No relay answered.
    #[error("no relay answered")]
    NoRelay,
    /// The proxy did not let us through.
    #[error("{0}")]
    Proxy(ProxyFailure),
    /// No relay was named, none runs inside this side, and none is looked for.
    #[error("there is no relay at which the two sides could meet; name one, or let the sender run one itself")]
    NoMeetingPlace,
    /// The name of a relay has no address.
    #[error("the relay's name has no address")]
    NoAddress,
    /// Nobody with this code was found on this machine or on the LAN.
    #[error("nobody waits with this code")]
    NobodyWaits,
    /// The sender is there, and another receiver has it.
    #[error("another receiver used this code")]
    Taken,
    /// No UDP socket.
    #[error("no network socket could be opened")]
    NoSocket,
    /// The connection ended in the transfer.
    #[error("the connection was lost before the transfer was complete")]
    InTransfer,
    /// The other side was there, and did not go on.
    #[error("the other side is there and does not go on")]
    Stalled,
    /// Data was not to go over a relay, and there is no direct path.
    #[error("no direct path to the other side was found")]
    NoDirectPath,
    /// All was sent, but no confirmation came.
    #[error("everything was sent, but the receiver did not confirm it")]
    Unconfirmed,
}

/// What is wrong with a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayFailure {
    /// It said no.
    Refused(RefusalReason),
    /// Its certificate is not the one that is known or pinned.
    CertificateChanged {
        /// Which relay.
        relay: RelayAddress,
        /// What was expected and what came.
        refused: CertificateRefused,
    },
    /// It does not speak as a relay should.
    Violation(Violation),
}

/// The class of a failure: the program's exit code and the `kind` of its JSON event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Wrong code: 3.
    Auth,
    /// Refused or declined: 4.
    Refused,
    /// Network: 5.
    Net,
    /// Local input or output: 6.
    Io,
    /// Protocol violation: 7.
    Proto,
    /// The relay refused: 8.
    Relay,
    /// The other side failed: 9.
    Peer,
    /// Interrupted: 130.
    Interrupted,
}

impl Class {
    /// The stable exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Auth => 3,
            Self::Refused => 4,
            Self::Net => 5,
            Self::Io => 6,
            Self::Proto => 7,
            Self::Relay => 8,
            Self::Peer => 9,
            Self::Interrupted => 130,
        }
    }

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Refused => "refused",
            Self::Net => "net",
            Self::Io => "io",
            Self::Proto => "proto",
            Self::Relay => "relay",
            Self::Peer => "peer",
            Self::Interrupted => "interrupted",
        }
    }
}

impl Failure {
    /// Its class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::WrongCode => Class::Auth,
            Self::Versions(_) | Self::Violation(_) => Class::Proto,
            Self::Declined { .. } | Self::NotAccepted | Self::Refused(_) | Self::NotVerified => Class::Refused,
            Self::Lost(_) => Class::Net,
            Self::Local(fault) => {
                if fault.is_refusal() {
                    Class::Refused
                } else {
                    Class::Io
                }
            }
            Self::Relay(_) => Class::Relay,
            Self::Peer { .. } => Class::Peer,
            Self::Interrupted => Class::Interrupted,
        }
    }
}

/// What the application may say.
#[derive(Clone)]
pub enum Command {
    /// Receiver: take the offer, into this sink.
    Accept(Arc<dyn Sink>),
    /// Receiver: take the stream, or the one file that is offered, and write it in order into this sink.
    AcceptStream(Arc<dyn StreamSink>),
    /// Receiver: don't, with a reason in words for the other side.
    Decline(DeclineReason, String),
    /// The person compared the verifier words: the same, or not.
    Agree(bool),
    /// End it; the other side is told.
    Cancel,
}
