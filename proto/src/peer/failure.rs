//! Why a transfer ended before its end: the failure, its class, and its text.
//!
//! Every text says what happened, why as far as that is known, and what to do. Nothing of the other side, of a relay or
//! of a disk stands in it but in escaped form.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use super::config::RelayAddress;
use crate::link::proxy::ProxyFailure;
use crate::link::trust::CertificateRefused;
use crate::transfer::Refused;
use crate::transfer::storage::{Fault, FaultKind};
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, DeclineReason};
use crate::wire::relay::RefusalReason;
use crate::wire::version::SPOKEN;
use crate::wire::{Untrusted, Versions};

/// Characters of a name, or of what the other side says, that are shown.
const SHOWN: usize = 300;

/// Why a transfer ended before its end.
///
/// [`Failure::class`] sorts the variants. The text is complete; [`Error::source`] has the typed cause, where there is
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// Receiver: the words are not the sender's. Sender: wrong words were tried three times.
    WrongCode,
    /// The other side speaks none of our versions.
    Versions(Versions),
    /// The receiver declined.
    Declined {
        /// Why.
        reason: DeclineReason,
        /// In the other side's words.
        text: Untrusted,
    },
    /// This side declined.
    NotAccepted,
    /// The offer breaks a rule for names, or the receiver's limits.
    Refused(Refused),
    /// The connection ended, or nothing came in time.
    Lost(Lost),
    /// A file or a directory, the source or the sink.
    Local(Fault),
    /// The other side broke a rule.
    Violation(Violation),
    /// The relay turned this side away.
    Relay(RelayFailure),
    /// The other side ended the transfer.
    Peer {
        /// Why.
        reason: CancelReason,
        /// In the other side's words.
        text: Untrusted,
    },
    /// The verifier words were not confirmed here.
    NotVerified,
    /// This side cancelled it.
    Interrupted,
    /// The runtime that drove it was shut down first, and the other side was not told. Also what a wait gets for
    /// something that can't come any more, since everything is done.
    Stopped,
    /// The machine of the transfer panicked: a bug. The other side was not told.
    Panicked,
}

/// The network's part in a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// No relay answered.
    #[error("no relay answered; check the network and the relay's address and port (UDP and TCP)")]
    NoRelay,
    /// The proxy did not let us through.
    #[error("{0}; check the proxy's address and what it allows")]
    Proxy(#[source] ProxyFailure),
    /// No relay was named, none runs inside this side, and none is looked for.
    #[error("there is no relay at which the two sides could meet; name one, or let the sender run one itself")]
    NoMeetingPlace,
    /// The name of a relay has no address.
    #[error("the relay's name has no address; check its spelling and this machine's DNS")]
    NoAddress,
    /// No sender with this code was found: at the relay, on this machine or on the LAN.
    #[error("no sender waits with this code; check the code, and that the sender still runs and uses the same relay")]
    NobodyWaits,
    /// The sender is there, and another receiver has it.
    #[error("another receiver used this code; ask the sender whether that was meant, and for a new code")]
    Taken,
    /// No UDP socket.
    #[error("no network socket could be opened; check that this machine has a network, and its limit of open files")]
    NoSocket,
    /// The connection ended in the transfer.
    #[error("the connection was lost before the transfer was complete; begin again with a new code")]
    InTransfer,
    /// The other side was there, and did not go on.
    #[error("the other side is connected but stopped making progress; begin again with a new code")]
    Stalled,
    /// Data was not to go over a relay, and there is no direct path.
    #[error(
        "no direct path to the other side was found, and no data may go over a relay; allow it, or open a UDP port"
    )]
    NoDirectPath,
    /// All was sent, but no confirmation came.
    #[error("everything was sent, but the receiver did not confirm it; ask there whether it arrived")]
    Unconfirmed,
}

/// What is wrong with a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayFailure {
    /// It turned this side away.
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
#[non_exhaustive]
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
    /// Its class. A source or a sink that gave up itself ([`FaultKind::Cancelled`]) interrupted the transfer, and the
    /// other side is told just that.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::WrongCode => Class::Auth,
            Self::Versions(_) | Self::Violation(_) => Class::Proto,
            Self::Declined { .. } | Self::NotAccepted | Self::Refused(_) | Self::NotVerified => Class::Refused,
            Self::Lost(_) => Class::Net,
            Self::Local(fault) if matches!(fault.kind, FaultKind::Cancelled) => Class::Interrupted,
            Self::Local(fault) if fault.is_refusal() => Class::Refused,
            Self::Local(_) => Class::Io,
            Self::Relay(_) => Class::Relay,
            Self::Peer { .. } => Class::Peer,
            Self::Interrupted | Self::Stopped => Class::Interrupted,
            Self::Panicked => Class::Io,
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongCode => f.write_str(
                "wrong code: the words are not the sender's, or wrong ones were tried three times; check them, or use \
                a new code",
            ),
            Self::Versions(theirs) => {
                write!(
                    f,
                    "the other side speaks version {theirs} of the protocol and this one {SPOKEN}; update the \
                    older one"
                )
            }
            Self::Declined { reason, text } => write!(f, "the receiver declined: {reason}{}", words(text)),
            Self::NotAccepted => f.write_str("the offer was declined here"),
            Self::Refused(Refused { name, why }) => {
                let name = name.escaped(SHOWN);
                let name = if name.is_empty() { name } else { format!(" ({name})") };
                write!(f, "the offer was refused: {why}{name}; ask the sender to rename it or to send less")
            }
            Self::Lost(lost) => write!(f, "{lost}"),
            Self::Local(fault) => write!(f, "{fault}; {}", fault.kind.advice()),
            Self::Violation(violation) => {
                write!(f, "the other side broke the protocol: {violation}; update both sides, or try another relay")
            }
            Self::Relay(relay) => write!(f, "{relay}"),
            Self::Peer { reason, text } => write!(f, "the other side ended the transfer: {reason}{}", words(text)),
            Self::NotVerified => f.write_str(
                "the verifier words were not confirmed; if they differ, a third side is between: use another relay and \
                a new code",
            ),
            Self::Panicked => f.write_str("internal error; this is a bug in tallow, please report it"),
            Self::Interrupted => f.write_str("the transfer was cancelled here; begin again with a new code"),
            Self::Stopped => f.write_str(
                "nothing more comes: the transfer is over, or its runtime was shut down; \
                begin again with a new code",
            ),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused(refused) => Some(refused),
            Self::Lost(lost) => Some(lost),
            Self::Local(fault) => Some(fault),
            Self::Violation(violation) => Some(violation),
            Self::Relay(relay) => Some(relay),
            Self::WrongCode
            | Self::Versions(_)
            | Self::Declined { .. }
            | Self::NotAccepted
            | Self::Peer { .. }
            | Self::NotVerified
            | Self::Interrupted
            | Self::Stopped
            | Self::Panicked => None,
        }
    }
}

impl Display for RelayFailure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "the relay refused: {reason}"),
            Self::CertificateChanged { relay, refused } => {
                write!(f, "relay {relay}: {refused}; ask its operator whether that is right, then pin the new one")
            }
            Self::Violation(violation) => {
                write!(
                    f,
                    "the server does not speak as a relay should: {violation}; check the address, or use another relay"
                )
            }
        }
    }
}

impl Error for RelayFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::CertificateChanged { refused, .. } => Some(refused),
            Self::Violation(violation) => Some(violation),
        }
    }
}

impl Display for DeclineReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Person => "it was not wanted there",
            Self::Policy => "its rules refuse a name in it; rename it or leave it out",
            Self::NoSpace => "it has not enough space; send less, or make room there",
            Self::Io => "it can't write there; another directory may do",
            Self::TooLarge => "it is more than the receiver takes; send less at a time",
        })
    }
}

impl Display for CancelReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupted => "it was interrupted there; begin again with a new code",
            Self::SourceChanged => "a file changed while it was being sent; send it again when nothing writes to it",
            Self::Io => "it could not read or write a file; the message there tells which",
            Self::Violation => "it found that this side broke the protocol; update both sides",
            Self::NotVerified => "the verifier words were not confirmed there; compare them again with a new code",
        })
    }
}

impl Display for RefusalReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NobodyWaits => "no sender waits there with this code; check the code, and that the sender still runs",
            Self::NameTaken => "another sender uses this code; choose another one",
            Self::Taken => "another receiver used this code; ask the sender whether that was meant, and for a new code",
            Self::RateLimited => "too many requests came from this address; wait a minute",
            Self::Full => "it has no room left; try later, or use another relay",
            Self::Password => "it asks for a password, or this one is wrong; give the relay's password",
            Self::UnsupportedVersion(theirs) => {
                return write!(
                    f,
                    "it speaks version {theirs} of the protocol and this side {SPOKEN}; update the older one"
                );
            }
            Self::ShuttingDown => "it is going down; try again in a minute, or use another relay",
            Self::Idle => "nothing happened there for too long; begin again with a new code",
        })
    }
}

/// What the other side says about it, if anything.
fn words(text: &Untrusted) -> String {
    if text.as_raw().is_empty() { String::new() } else { format!("; its words: \"{}\"", text.escaped(SHOWN)) }
}

#[cfg(test)]
mod tests;
