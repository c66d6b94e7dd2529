//! Every error as one line: what happened, why, and what to do. The one table from [`Failure`] to words and exit codes.

use std::io;

use tallow_proto::link::trust::CertificateRefused;
use tallow_proto::peer::{Class, ConfigError, Failure, Lost, RelayFailure};
use tallow_proto::transfer::manifest::{Refusal, Refused};
use tallow_proto::transfer::storage::{Fault, FaultKind};
use tallow_proto::wire::Violation;
use tallow_proto::wire::peer::{CancelReason, DeclineReason};
use tallow_proto::wire::relay::{RefusalReason, Side};
use tallow_proto::wire::version::SPOKEN;
use tallow_proto::wire::{Untrusted, Versions};

use tallow_store::SourceError;

use crate::output::{Event, Output, SHOWN, shown, size};
use crate::signal::Signal;

/// What else there is to say when a transfer ended that can be gone on with.
const KEPT: &str = "; what arrived is kept, and the same send and receive into the same directory go on from there";

/// Whether what arrived is of use after this.
#[must_use]
pub fn is_kept(failure: &Failure) -> bool {
    match failure {
        Failure::Lost(Lost::InTransfer | Lost::Stalled | Lost::Unconfirmed | Lost::NoDirectPath)
        | Failure::Interrupted => true,
        Failure::Local(fault) => !fault.is_refusal() && fault.kind != FaultKind::Changed,
        Failure::Violation(violation) => !matches!(violation, Violation::WrongRoot | Violation::ChunkChanged),
        Failure::Peer { reason, .. } => match reason {
            CancelReason::Interrupted | CancelReason::Io | CancelReason::Violation => true,
            CancelReason::SourceChanged | CancelReason::NotVerified => false,
        },
        // Nothing had arrived.
        _ => false,
    }
}

/// Why the program ends without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The exit code.
    pub code: u8,
    /// Its name, for JSON.
    pub kind: &'static str,
    /// What happened, and why.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Problem {
    fn new(class: Class, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: class.exit_code(), kind: class.name(), message: message.into(), hint: hint.into() }
    }

    /// The command line makes no sense.
    #[must_use]
    pub fn usage(message: &str, hint: &str) -> Self {
        Self { code: 2, kind: "usage", message: message.to_owned(), hint: hint.to_owned() }
    }

    /// The system said no before a transfer ran.
    #[must_use]
    pub fn system(what: &str, error: &io::Error) -> Self {
        Self::new(
            Class::Io,
            format!("{what}: {}", system(error)),
            "check the limits of this system (ulimit -a), then try again",
        )
    }

    /// A file, before a transfer ran.
    #[must_use]
    pub fn local(fault: &Fault, at: &Context<'_>) -> Self {
        explain(&Failure::Local(fault.clone()), at)
    }

    /// No certificate could be made for the relay inside a sender.
    #[must_use]
    pub fn keys(cause: &str) -> Self {
        Self::new(Class::Io, format!("could not make a key for this transfer: {cause}"), "use a relay, with --relay")
    }

    /// What was asked for contradicts itself.
    #[must_use]
    pub fn config(error: &ConfigError) -> Self {
        Self::usage(&error.to_string(), "check the options")
    }

    /// What was to be sent can't be.
    #[must_use]
    pub fn source(error: &SourceError) -> Self {
        let message = shown(&error.to_string());
        match error {
            SourceError::Io { path, error } => {
                let path = shown(&path.to_string_lossy());
                Self::new(
                    Class::Io,
                    format!("could not read {path}: {}", cause(error.kind())),
                    "check the path and its permissions",
                )
            }
            SourceError::NotRegular(_) => Self::new(Class::Io, message, "leave it out"),
            SourceError::NotUtf8(_) | SourceError::Name { .. } => Self::new(Class::Refused, message, "rename it"),
            SourceError::SameName(..) => Self::usage(&message, "rename one of them, or send them one after the other"),
            SourceError::Pattern { .. } => Self::usage(&message, "patterns are those of .gitignore"),
            // The library may grow; its own text is never wrong.
            other => Self::usage(&shown(&other.to_string()), "name files and directories to send"),
        }
    }

    /// A panic ended the transfer; where it was is told by the panic's own line.
    #[must_use]
    pub fn bug() -> Self {
        Self {
            code: tallow_relay::process::INTERNAL_ERROR,
            kind: "bug",
            message: "the transfer stopped at an internal error".to_owned(),
            hint: "please report it; the same command again goes on from what arrived".to_owned(),
        }
    }

    /// The offer does not fit what was asked for.
    #[must_use]
    pub fn unfit(message: &str, hint: &str) -> Self {
        Self::new(Class::Refused, message.to_owned(), hint)
    }

    /// A signal ended the transfer.
    #[must_use]
    pub fn signalled(signal: Signal, at: &Context<'_>) -> Self {
        let hint = match at.side {
            Side::Sender => "run `tallow send` again for a new code",
            Side::Receiver => "nothing was put in place, ask the sender for a new code to begin again",
        };
        Self {
            code: signal.exit_code(),
            kind: Class::Interrupted.name(),
            message: "interrupted".to_owned(),
            hint: hint.to_owned(),
        }
    }

    /// What arrived stays where it is.
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.hint.push_str(KEPT);
        self
    }

    /// The one line.
    #[must_use]
    pub fn line(&self) -> String {
        if self.hint.is_empty() {
            format!("tallow: {}", self.message)
        } else {
            format!("tallow: {}; {}", self.message, self.hint)
        }
    }

    /// Tells it.
    pub fn tell(&self, output: &Output) {
        output.say(&self.line());
        output.event(&Event::Error { kind: self.kind, message: &self.message, hint: &self.hint });
    }
}

/// What the texts depend on.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Which end this is.
    pub side: Side,
    /// The file that holds the certificates of relays.
    pub known_relays: &'a str,
    /// Whether relays were configured.
    pub relays: bool,
}

/// The table.
#[must_use]
pub fn explain(failure: &Failure, at: &Context<'_>) -> Problem {
    let sending = at.side == Side::Sender;
    let (message, hint) = match failure {
        Failure::WrongCode if sending => (
            "wrong code: somebody guessed three times, so this code is used up".to_owned(),
            "run `tallow send` again for a new code".to_owned(),
        ),
        Failure::WrongCode => (
            "wrong code: the words are not the sender's".to_owned(),
            "check them and try again, after three wrong tries ask for a new code".to_owned(),
        ),
        Failure::Versions(theirs) => versions(*theirs, "the other side"),
        Failure::Declined { reason, text } => declined(*reason, text),
        Failure::NotAccepted => ("not accepted".to_owned(), "to accept without a question, add --yes".to_owned()),
        Failure::Refused(Refused { name, why }) => {
            let name = (!name.as_raw().is_empty()).then(|| name.escaped(SHOWN));
            refused(*why, name, sending)
        }
        Failure::Lost(lost) => network(*lost, at),
        Failure::Local(fault) => local(fault, sending),
        Failure::Violation(violation) => {
            (format!("the other side broke the protocol: {violation}"), rule_broken(*violation).to_owned())
        }
        Failure::Relay(relay) => relay_failed(relay, at),
        Failure::Peer { reason, text } => peer(*reason, text, sending),
        Failure::NotVerified => (
            "the verifier words were not confirmed".to_owned(),
            "if they differ, somebody is between you and the other side: use another relay and a new code".to_owned(),
        ),
        Failure::Interrupted | Failure::Stopped => ("interrupted".to_owned(), "begin again with a new code".to_owned()),
        // The enum may grow with the library; its own text is never wrong.
        other => (shown(&other.to_string()), "try again".to_owned()),
    };
    Problem::new(failure.class(), message, hint)
}

fn versions(theirs: Versions, who: &str) -> (String, String) {
    let hint = if theirs.min > SPOKEN.max { "update tallow here" } else { "update tallow there" };
    (format!("versions do not match: {who} speaks version {theirs} and this tallow {SPOKEN}"), hint.to_owned())
}

fn declined(reason: DeclineReason, text: &Untrusted) -> (String, String) {
    let (why, hint) = match reason {
        DeclineReason::Person => ("the receiver declined", "ask them, and send again"),
        DeclineReason::Policy => {
            ("the receiver's rules refuse a name in it", "rename or leave out what it names, and send again")
        }
        DeclineReason::NoSpace => ("the receiver has not enough space", "send less, or ask for room there"),
        DeclineReason::Io => ("the receiver can't write there", "ask them to choose another directory"),
        DeclineReason::TooLarge => ("it is more than the receiver takes", "send less at a time"),
    };
    (with_words(why, text), hint.to_owned())
}

fn peer(reason: CancelReason, text: &Untrusted, sending: bool) -> (String, String) {
    let who = if sending { "the receiver" } else { "the sender" };
    let (why, hint) = match reason {
        CancelReason::Interrupted => (format!("{who} interrupted the transfer"), "begin again with a new code"),
        CancelReason::SourceChanged => (
            format!("a file of {who} changed while it was being sent"),
            "ask to send it again when nothing writes to it",
        ),
        CancelReason::Io => (format!("{who} could not read or write a file"), "the message there says which"),
        CancelReason::Violation => (
            format!("{who} says that this side broke the protocol"),
            "try again; if it stays so, update tallow on both sides",
        ),
        CancelReason::NotVerified => {
            (format!("{who} did not confirm the verifier words"), "compare them again with a new code")
        }
    };
    (with_words(&why, text), hint.to_owned())
}

/// With what the other side says about it, if anything.
fn with_words(why: &str, text: &Untrusted) -> String {
    if text.as_raw().is_empty() {
        return why.to_owned();
    }
    format!("{why}; peer said: \"{}\"", text.escaped(SHOWN))
}

fn network(lost: Lost, at: &Context<'_>) -> (String, String) {
    let sending = at.side == Side::Sender;
    let again =
        if sending { "run `tallow send` again for a new code" } else { "ask the sender for a new code and try again" };
    let (message, hint) = match lost {
        Lost::NoRelay => ("no relay answered", "check the network and the relay's address and port (UDP and TCP)"),
        Lost::Proxy(failure) => return (failure.to_string(), "check --proxy and what it allows".to_owned()),
        Lost::NoMeetingPlace => (
            "there is no relay at which the two sides could meet",
            "name one with --relay, or let the sender run one itself",
        ),
        Lost::NoAddress => ("the relay's name has no address", "check its spelling and this machine's DNS"),
        Lost::NobodyWaits if at.relays => (
            "nobody waits with this code",
            "check the code, that the sender still runs, and that both use the same relay",
        ),
        Lost::NobodyWaits => (
            "nobody waits with this code on this machine or in this network",
            "check the code and that the sender still runs; from elsewhere, add the --relay that the sender shows",
        ),
        Lost::Taken => (
            "another receiver used this code",
            "ask the sender whether that is right; if not, the sender should stop and send again with a new code",
        ),
        Lost::NoSocket => {
            ("no network socket could be opened", "check that this machine has a network, and its limits on open files")
        }
        Lost::InTransfer => ("the connection was lost before the transfer was complete", again),
        Lost::Stalled => ("the other side is there and sends nothing", again),
        Lost::NoDirectPath => (
            "no direct path to the other side was found, and nothing was to go over a relay",
            "leave out --p2p-only on both sides, or let the UDP port of --p2p-port through the firewall",
        ),
        Lost::Unconfirmed => (
            "everything was sent, but the receiver did not confirm it",
            "ask there whether it arrived, before sending it again",
        ),
        // As in `explain`.
        lost => return (lost.to_string(), "try again".to_owned()),
    };
    (message.to_owned(), hint.to_owned())
}

fn local(fault: &Fault, sending: bool) -> (String, String) {
    let path = fault.path.as_deref().map(shown);
    let named = path.clone().unwrap_or_else(|| "a file".to_owned());
    let elsewhere = "choose another directory with --out";
    let (message, hint) = match fault.kind {
        FaultKind::Changed => {
            (format!("{named} changed while it was being sent"), "send it again when nothing writes to it")
        }
        FaultKind::NotRegular if sending => (format!("{named} is not a regular file"), "leave it out with --exclude"),
        FaultKind::NotRegular => (format!("{named} is not a regular file"), elsewhere),
        FaultKind::Full { need, have } => {
            let message = format!("not enough space on disk: need {}, have {}", size(need), size(have));
            (message, "make room, or choose another directory with --out")
        }
        FaultKind::Exists => (
            format!("{named} exists already"),
            "choose --overwrite, --rename or --skip, or another directory with --out",
        ),
        FaultKind::Link => (format!("refusing to write through a symbolic link: {named}"), elsewhere),
        FaultKind::Refused(refusal) => return refused(refusal, path, sending),
        FaultKind::Io(kind) => {
            let verb = if sending { "read" } else { "write" };
            let hint = match kind {
                io::ErrorKind::NotFound => "check the path",
                io::ErrorKind::BrokenPipe => "the program that read it has ended",
                io::ErrorKind::PermissionDenied if sending => "check its permissions, or leave it out with --exclude",
                io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::InvalidFilename => elsewhere,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "make room, or choose another directory with --out"
                }
                _ => "check the disk, then try again",
            };
            // What has no kind says in words what it is.
            let words = fault.detail.as_deref().filter(|_| kind == io::ErrorKind::Other).map(shown);
            (format!("could not {verb} {named}: {}", words.unwrap_or_else(|| cause(kind))), hint)
        }
        FaultKind::System(number) => {
            let verb = if sending { "read" } else { "write" };
            let message = format!("could not {verb} {named}: {}", system(&io::Error::from_raw_os_error(number)));
            (message, "check the disk and the limits of this system, then try again")
        }
        FaultKind::NotUtf8 => {
            (format!("the name {named} is not valid UTF-8"), "rename it, or leave it out with --exclude")
        }
        FaultKind::Cancelled => ("interrupted".to_owned(), "begin again with a new code"),
        FaultKind::Panicked | FaultKind::Internal => {
            (format!("internal error at {named}"), "this is a bug in tallow, please report it")
        }
        // As in `explain`.
        other => (format!("{named}: {other}"), "try again"),
    };
    (message, hint.to_owned())
}

fn refused(refusal: Refusal, name: Option<String>, sending: bool) -> (String, String) {
    let named = name.map(|name| format!(", \"{name}\"")).unwrap_or_default();
    let (what, fewer) = if sending {
        ("this can't be sent", "send less at a time")
    } else {
        ("the offer was refused", "ask for less at a time")
    };
    let rename = if sending { "rename it, or leave it out with --exclude" } else { "ask the sender to rename it" };
    let hint = match refusal {
        Refusal::TooManyEntries | Refusal::TooManyNames | Refusal::TooLarge => fewer,
        _ => rename,
    };
    (format!("{what}: {refusal}{named}"), hint.to_owned())
}

/// The system's cause in a few words.
#[must_use]
pub fn cause(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::Other => "I/O error".to_owned(),
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        kind => kind.to_string(),
    }
}

/// Without the number, which says nothing to people.
fn system(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    text.to_lowercase()
}

fn rule_broken(violation: Violation) -> &'static str {
    match violation {
        Violation::UnknownKind | Violation::Malformed => "if both sides mean well, update tallow on both and try again",
        _ => "nothing was put in place; try again with a new code, and over another relay if it stays so",
    }
}

fn relay_failed(relay: &RelayFailure, at: &Context<'_>) -> (String, String) {
    match relay {
        RelayFailure::Refused(reason) => turned_away(*reason),
        RelayFailure::CertificateChanged { relay, refused } => certificate(&relay.to_string(), *refused, at),
        RelayFailure::Violation(violation) => (
            format!("the relay does not speak as a relay should: {violation}"),
            "check the address, or use another relay".to_owned(),
        ),
        // As in `explain`.
        relay => (shown(&relay.to_string()), "use another relay".to_owned()),
    }
}

fn certificate(relay: &str, refused: CertificateRefused, at: &Context<'_>) -> (String, String) {
    let file = shown(at.known_relays);
    match refused {
        CertificateRefused::NotPinned { pinned, seen } => (
            format!("the certificate of relay {relay} is {seen}, and not the pinned {pinned}"),
            format!("if its operator says that this is right, use --relay-pin {seen}"),
        ),
        CertificateRefused::Changed { known, seen } => (
            format!("the certificate of relay {relay} changed from {known} to {seen}"),
            format!(
                "if its operator says that this is right, use --relay-pin {seen}, or remove the line of {relay} from {file}"
            ),
        ),
        CertificateRefused::NotPublic { seen } => (
            format!("no public authority vouches for the certificate of relay {relay} any more; it is {seen}"),
            format!(
                "if its operator says that this is right, use --relay-pin {seen}, or remove the line of {relay} from {file}"
            ),
        ),
        // As in `explain`.
        other => (format!("relay {relay}: {other}"), "ask its operator whether that is right".to_owned()),
    }
}

fn turned_away(reason: RefusalReason) -> (String, String) {
    let (why, hint) = match reason {
        RefusalReason::NobodyWaits => {
            ("nobody waits there with this code", "check the code and that the sender still runs")
        }
        RefusalReason::Taken => ("another receiver uses this code", "ask the sender whether that is right"),
        RefusalReason::NameTaken => ("another sender uses this code", "choose another --code, or none"),
        RefusalReason::RateLimited => ("too many requests from this address", "wait a minute and try again"),
        RefusalReason::Full => ("it has no room left", "try later, or use another relay"),
        RefusalReason::Password => {
            ("it asks for a password, or this one is wrong", "set TALLOW_RELAY_PASSWORD or --relay-password-file")
        }
        RefusalReason::UnsupportedVersion(theirs) => return versions(theirs, "the relay"),
        RefusalReason::ShuttingDown => ("it is going down", "try again in a minute, or use another relay"),
        RefusalReason::Idle => ("nothing happened for too long", "begin again with a new code"),
    };
    (format!("the relay refused: {why}"), hint.to_owned())
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod tests;
