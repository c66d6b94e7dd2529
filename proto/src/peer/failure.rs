//! Why a transfer failed: the failure, its class, and its text.
//!
//! Every text states what happened, why as far as that is known, and what to do. Text from the other side, from a
//! relay or from a disk appears only in escaped form.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use super::config::RelayAddress;
use crate::link::proxy::ProxyFailure;
use crate::link::trust::CertificateRefused;
use crate::transfer::manifest::Refused;
use crate::transfer::storage::{Fault, FaultKind};
use crate::wire::Violation;
use crate::wire::peer::{CancelReason, DeclineReason};
use crate::wire::relay::RefusalReason;
use crate::wire::version::SPOKEN;
use crate::wire::{Untrusted, Versions};

/// How many characters of a name or of a text from the other side are shown.
const SHOWN: usize = 300;

/// Why a transfer failed.
///
/// [`Failure::class`] groups the variants. The text is complete; [`Error::source`] returns the typed cause, if there
/// is one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// Receiver: the words differ from the sender's. Sender: wrong words were tried three times.
    WrongCode,
    /// The two sides have no protocol version in common.
    Versions(Versions),
    /// The receiver declined.
    Declined {
        /// The reason.
        reason: DeclineReason,
        /// The other side's text.
        text: Untrusted,
    },
    /// This side declined the offer.
    NotAccepted,
    /// The offer breaks a rule for names, or exceeds the receiver's limits.
    Refused(Refused),
    /// The connection ended, or an expected message did not arrive in time.
    Lost(Lost),
    /// Reading or writing failed: a file or directory, the source or the sink.
    Local(Fault),
    /// The other side broke a rule.
    Violation(Violation),
    /// The relay rejected this side, or failed.
    Relay(RelayFailure),
    /// The other side ended the transfer.
    Peer {
        /// The reason.
        reason: CancelReason,
        /// The other side's text.
        text: Untrusted,
    },
    /// The user on this side did not confirm the verifier words.
    NotVerified,
    /// This side cancelled the transfer.
    Interrupted,
    /// The runtime was shut down before the transfer ended, and the other side was not notified. A call that waits
    /// for something that can't happen any more, because the transfer is complete, returns this too.
    Stopped,
    /// The transfer's state machine panicked: a bug. The other side was not notified.
    Panicked,
}

/// Which part of the network caused a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// No relay answered.
    #[error("no relay answered; check the network and the relay's address and port (UDP and TCP)")]
    NoRelay,
    /// The proxy did not connect.
    #[error("{0}; check the proxy's address and what it allows")]
    Proxy(#[source] ProxyFailure),
    /// No relay is configured, none is embedded, and discovery is off.
    #[error("there is no relay at which the two sides could meet; name one, or let the sender run one itself")]
    NoMeetingPlace,
    /// The relay's name has no address.
    #[error("the relay's name has no address; check its spelling and this machine's DNS")]
    NoAddress,
    /// The name service did not answer while the relay's name was looked up.
    #[error(
        "the name service (DNS) does not answer; check this machine's network, or name the relay by its IP address"
    )]
    NoNameService,
    /// No sender with this code was found: at the relay, on this machine or on the LAN.
    #[error("no sender waits with this code; check the code, and that the sender still runs and uses the same relay")]
    NobodyWaits,
    /// The sender is connected to another receiver.
    #[error("another receiver used this code; ask the sender whether that was meant, and for a new code")]
    Taken,
    /// No UDP socket could be opened.
    #[error("no network socket could be opened; check that this machine has a network, and its limit of open files")]
    NoSocket,
    /// The connection was lost during the transfer.
    #[error("the connection was lost before the transfer was complete; begin again with a new code")]
    InTransfer,
    /// The other side stayed connected but stopped making progress.
    #[error("the other side is connected but stopped making progress; begin again with a new code")]
    Stalled,
    /// Data may not use a relay, and no direct path was found.
    #[error(
        "no direct path to the other side was found, and no data may go over a relay; allow it, or open a UDP port"
    )]
    NoDirectPath,
    /// Everything was sent, but no confirmation arrived: the receiver has everything and ended before it could confirm
    /// it, or the receiver is gone.
    #[error(
        "everything was sent, but the receiver did not confirm it: it has everything, or is gone; \
        ask there whether it arrived"
    )]
    Unconfirmed,
}

/// Why a relay could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayFailure {
    /// It rejected this side.
    Refused(RefusalReason),
    /// Its certificate differs from the known or pinned one.
    CertificateChanged {
        /// The relay.
        relay: RelayAddress,
        /// The expected certificate and the one that was shown.
        refused: CertificateRefused,
    },
    /// It violates the relay protocol.
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
    /// The exit code. It is stable.
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

    /// The name. It is stable.
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
    /// The class of this failure. If a source or a sink cancelled the transfer ([`FaultKind::Cancelled`]), the class
    /// is `Interrupted`, and the other side is notified of an interruption.
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

/// The other side's text as a suffix; empty if it sent none.
fn words(text: &Untrusted) -> String {
    if text.as_raw().is_empty() { String::new() } else { format!("; its words: \"{}\"", text.escaped(SHOWN)) }
}

#[cfg(test)]
mod tests;
