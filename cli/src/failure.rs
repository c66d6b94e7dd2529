//! Renders every error as one line: what happened, why, and what to do. [`explain`] is the only place that maps a
//! [`Failure`] to text and to an exit code.

use std::io;

use tallow_proto::link::CertificateRefused;
use tallow_proto::peer::{CancelReason, Class, ConfigError, DeclineReason, Failure, Lost, RelayFailure};
use tallow_proto::transfer::storage::{Fault, FaultKind};
use tallow_proto::transfer::{Refusal, Refused};
use tallow_proto::wire::SPOKEN;
use tallow_proto::wire::Violation;
use tallow_proto::wire::{RefusalReason, Role};
use tallow_proto::wire::{Untrusted, Versions};

use tallow_store::SourceError;

use crate::output::{Event, Output, SHOWN, shown, size};
use crate::signal::Signal;

/// Added to the hint when a transfer failed that can be resumed.
const KEPT: &str =
    "; the data received so far is kept: repeat the same send and receive into the same directory to resume";

/// Whether the data received so far can still be used after this failure.
#[must_use]
pub fn is_kept(failure: &Failure) -> bool {
    match failure {
        Failure::Lost(Lost::InTransfer | Lost::Stalled | Lost::Unconfirmed | Lost::NoDirectPath)
        | Failure::Interrupted => true,
        Failure::Local(fault) => !fault.is_refusal() && fault.kind != FaultKind::Changed,
        Failure::Violation(violation) => !matches!(violation, Violation::WrongRoot | Violation::ChunkChanged),
        Failure::Peer { reason, .. } => {
            matches!(reason, CancelReason::Interrupted | CancelReason::Io | CancelReason::Violation)
        }
        // Nothing had arrived.
        _ => false,
    }
}

/// Why the program ends without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The exit code.
    pub code: u8,
    /// The name of the error class, for JSON.
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

    /// The command line is invalid.
    #[must_use]
    pub fn usage(message: &str, hint: &str) -> Self {
        Self { code: 2, kind: "usage", message: message.to_owned(), hint: hint.to_owned() }
    }

    /// The operating system reported an error before a transfer ran.
    #[must_use]
    pub fn system(what: &str, error: &io::Error) -> Self {
        Self::new(
            Class::Io,
            format!("{what}: {}", system(error)),
            "check the limits of this system (ulimit -a), then try again",
        )
    }

    /// A file caused an error before a transfer ran.
    #[must_use]
    pub fn local(fault: &Fault, at: &Context<'_>) -> Self {
        explain(&Failure::Local(fault.clone()), at)
    }

    /// No certificate could be created for the relay inside a sender.
    #[must_use]
    pub fn keys(cause: &str) -> Self {
        Self::new(Class::Io, format!("could not create a key for this transfer: {cause}"), "use a relay with --relay")
    }

    /// The configuration is contradictory.
    #[must_use]
    pub fn config(error: &ConfigError) -> Self {
        Self::usage(&error.to_string(), "check the options")
    }

    /// The paths to send can't be read or offered.
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
            SourceError::Names(_) => Self::new(Class::Refused, message, "rename it, or leave it out"),
            SourceError::SameName(..) => Self::usage(&message, "rename one of them, or send them one after the other"),
            SourceError::Pattern { .. } => Self::usage(&message, "use .gitignore syntax for patterns"),
            // The enum may get new variants; their own text is then shown.
            other => Self::usage(&shown(&other.to_string()), "name files and directories to send"),
        }
    }

    /// A panic ended the transfer. The panic hook has already printed its location.
    #[must_use]
    pub fn bug() -> Self {
        Self {
            code: tallow_relay::process::INTERNAL_ERROR,
            kind: "bug",
            message: "the transfer stopped at an internal error".to_owned(),
            hint: "please report it; running the same command again resumes the transfer".to_owned(),
        }
    }

    /// The offer does not match the receiver's options.
    #[must_use]
    pub fn unfit(message: &str, hint: &str) -> Self {
        Self::new(Class::Refused, message.to_owned(), hint)
    }

    /// A signal ended the transfer.
    #[must_use]
    pub fn signalled(signal: Signal, at: &Context<'_>) -> Self {
        let hint = match at.role {
            Role::Sender => "run `tallow send` again for a new code",
            Role::Receiver => "no files were put in place, ask the sender for a new code to start again",
        };
        Self {
            code: signal.exit_code(),
            kind: Class::Interrupted.name(),
            message: "interrupted".to_owned(),
            hint: hint.to_owned(),
        }
    }

    /// Adds to the hint that the data received so far is kept.
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.hint.push_str(KEPT);
        self
    }

    /// The error as one line.
    #[must_use]
    pub fn line(&self) -> String {
        if self.hint.is_empty() {
            format!("tallow: {}", self.message)
        } else {
            format!("tallow: {}; {}", self.message, self.hint)
        }
    }

    /// Prints the error line, and the JSON event where JSON is enabled.
    pub fn report(&self, output: &Output) {
        output.say(&self.line());
        output.event(&Event::Error { kind: self.kind, message: &self.message, hint: &self.hint });
    }
}

/// The context on which the error texts depend.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Whether this process sends or receives.
    pub role: Role,
    /// The file that holds the certificates of relays.
    pub known_relays: &'a str,
    /// Whether relays were configured.
    pub relays: bool,
}

/// Maps a failure to its error class, message and hint.
#[must_use]
pub fn explain(failure: &Failure, at: &Context<'_>) -> Problem {
    let sending = at.role == Role::Sender;
    let (message, hint) = match failure {
        Failure::WrongCode if sending => (
            "wrong code: three wrong codes were tried, so this code is no longer valid".to_owned(),
            "run `tallow send` again for a new code".to_owned(),
        ),
        Failure::WrongCode => (
            "wrong code: the words do not match those of the sender".to_owned(),
            "check them and try again; after three wrong tries ask for a new code".to_owned(),
        ),
        Failure::Versions(theirs) => versions(*theirs, "the peer"),
        Failure::Declined { reason, text } => declined(*reason, text),
        Failure::NotAccepted => {
            ("the offer was not accepted".to_owned(), "add --yes to accept without a question".to_owned())
        }
        Failure::Refused(Refused { name, why }) => {
            let name = (!name.as_raw().is_empty()).then(|| name.escaped(SHOWN));
            refused(*why, name, sending)
        }
        Failure::Lost(lost) => network(*lost, at),
        Failure::Local(fault) => local(fault, sending),
        Failure::Violation(violation) => {
            (format!("the peer violated the protocol: {violation}"), rule_broken(*violation).to_owned())
        }
        Failure::Relay(relay) => relay_failed(relay, at),
        Failure::Peer { reason, text } => peer(*reason, text, sending),
        Failure::NotVerified => (
            "the verifier words were not confirmed".to_owned(),
            "if they differ, the connection is being intercepted: use another relay and a new code".to_owned(),
        ),
        Failure::Interrupted | Failure::Stopped => ("interrupted".to_owned(), "start again with a new code".to_owned()),
        // The enum may get new variants; their own text is then shown.
        other => (shown(&other.to_string()), "try again".to_owned()),
    };
    Problem::new(failure.class(), message, hint)
}

fn versions(theirs: Versions, who: &str) -> (String, String) {
    let hint =
        if theirs.min > SPOKEN.max { "update tallow on this computer" } else { "update the older one of the two" };
    (
        format!("no common protocol version: {who} supports version {theirs}, this tallow supports {SPOKEN}"),
        hint.to_owned(),
    )
}

fn declined(reason: DeclineReason, text: &Untrusted) -> (String, String) {
    let (why, hint) = match reason {
        DeclineReason::Person => ("the receiver declined", "ask the other person, and send again"),
        DeclineReason::Policy => {
            ("the receiver does not accept a name in the offer", "its error message names it and tells what helps")
        }
        DeclineReason::NoSpace => {
            ("the receiver does not have enough disk space", "send less, or ask the receiver to free disk space")
        }
        DeclineReason::Io => {
            ("the receiver can't write to its directory", "ask the receiver to choose another directory")
        }
        DeclineReason::TooLarge => ("the offer is larger than the receiver accepts", "send less at a time"),
        _ => ("the receiver does not accept the offer", "ask the other person for the reason"),
    };
    (with_words(why, text), hint.to_owned())
}

fn peer(reason: CancelReason, text: &Untrusted, sending: bool) -> (String, String) {
    let who = if sending { "the receiver" } else { "the sender" };
    let (why, hint) = match reason {
        CancelReason::Interrupted => (format!("{who} interrupted the transfer"), "start again with a new code"),
        CancelReason::SourceChanged => {
            (format!("a file of {who} changed while it was being sent"), "send it again when no program writes to it")
        }
        CancelReason::Io => {
            (format!("{who} could not read or write a file"), "the error message on the other computer names it")
        }
        CancelReason::Violation => (
            format!("{who} reports that this side violated the protocol"),
            "try again; if the error persists, update tallow on both sides",
        ),
        CancelReason::NotVerified => {
            (format!("{who} did not confirm the verifier words"), "compare them again with a new code")
        }
        _ => (format!("{who} cancelled the transfer"), "ask the other person for the reason"),
    };
    (with_words(&why, text), hint.to_owned())
}

/// Adds the text that the peer sent, if there is one.
fn with_words(why: &str, text: &Untrusted) -> String {
    if text.as_raw().is_empty() {
        return why.to_owned();
    }
    format!("{why}; peer said: \"{}\"", text.escaped(SHOWN))
}

fn network(lost: Lost, at: &Context<'_>) -> (String, String) {
    let sending = at.role == Role::Sender;
    let again =
        if sending { "run `tallow send` again for a new code" } else { "ask the sender for a new code and try again" };
    let (message, hint) = match lost {
        Lost::NoRelay => ("no relay answered", "check the network and the relay's address and port (UDP and TCP)"),
        Lost::Proxy(failure) => return (failure.to_string(), "check --proxy and what it allows".to_owned()),
        Lost::NoMeetingPlace => (
            "there is no relay through which the two sides could connect",
            "name one with --relay, or let the sender run one itself",
        ),
        Lost::NoAddress => ("the relay's host name has no address", "check its spelling and the DNS of this machine"),
        Lost::NoNameService => (
            "the name service (DNS) does not answer",
            "check the network of this machine, or name the relay by its IP address",
        ),
        Lost::NobodyWaits if at.relays => (
            "no sender is waiting with this code",
            "check the code, that the sender is still running, and that both sides use the same relay",
        ),
        Lost::NobodyWaits => (
            "no sender is waiting with this code on this machine or in this network",
            "check the code and that the sender is still running; from another network, add the --relay that it shows",
        ),
        Lost::Taken => (
            "another receiver used this code",
            "ask the sender whether that was intended; if not, the sender should stop and send again with a new code",
        ),
        Lost::NoSocket => {
            ("no network socket could be opened", "check that this machine has a network, and its limits on open files")
        }
        Lost::InTransfer => ("the connection was lost before the transfer was complete", again),
        Lost::Stalled => ("the peer is connected but stopped making progress", again),
        Lost::NoDirectPath => (
            "no direct path to the peer was found, and --p2p-only forbids a transfer over a relay",
            "leave out --p2p-only on both sides, or let the UDP port of --p2p-port through the firewall",
        ),
        Lost::Unconfirmed => (
            "everything was sent, but the receiver did not confirm it: it has everything, or is gone",
            "ask the receiver whether it arrived before you send it again",
        ),
        // Lost is non-exhaustive, see `explain`.
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
            (format!("{named} changed while it was being sent"), "send it again when no program writes to it")
        }
        FaultKind::NotRegular if sending => (format!("{named} is not a regular file"), "leave it out with --exclude"),
        FaultKind::NotRegular => (format!("{named} is not a regular file"), elsewhere),
        FaultKind::Full { need, have } => {
            let message = format!("not enough space on disk: need {}, have {}", size(need), size(have));
            (message, "free some disk space, or choose another directory with --out")
        }
        FaultKind::Exists => (
            format!("{named} already exists"),
            "choose --overwrite, --rename or --skip, or another directory with --out",
        ),
        FaultKind::Link => (format!("refusing to write through a symbolic link: {named}"), elsewhere),
        FaultKind::Refused(refusal) => return refused(refusal, path, sending),
        FaultKind::Io(kind) => {
            let verb = if sending { "read" } else { "write" };
            let hint = match kind {
                io::ErrorKind::NotFound => "check the path",
                io::ErrorKind::BrokenPipe => "the program that reads the output has ended",
                io::ErrorKind::PermissionDenied if sending => "check its permissions, or leave it out with --exclude",
                io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::InvalidFilename => elsewhere,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some disk space, or choose another directory with --out"
                }
                _ => "check the disk, then try again",
            };
            // A fault without a kind has its cause in the detail.
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
        FaultKind::Cancelled => ("interrupted".to_owned(), "start again with a new code"),
        FaultKind::Panicked | FaultKind::Internal => {
            (format!("internal error at {named}"), "this is a bug in tallow, please report it")
        }
        // FaultKind is non-exhaustive, see `explain`.
        other => (format!("{named}: {other}"), "try again"),
    };
    (message, hint.to_owned())
}

fn refused(refusal: Refusal, name: Option<String>, sending: bool) -> (String, String) {
    let named = name.map(|name| format!(", \"{name}\"")).unwrap_or_default();
    let (what, fewer) = if sending {
        ("this can't be sent", "send less at a time")
    } else {
        ("the offer was refused", "ask the sender to send less at a time")
    };
    let rename = if sending { "rename it, or leave it out with --exclude" } else { "ask the sender to rename it" };
    let hint = match refusal {
        Refusal::TooManyEntries | Refusal::TooManyNames | Refusal::TooLarge => fewer,
        _ => rename,
    };
    (format!("{what}: {refusal}{named}"), hint.to_owned())
}

/// The operating system's error cause in a few words.
#[must_use]
pub fn cause(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::Other => "I/O error".to_owned(),
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        kind => kind.to_string(),
    }
}

/// The system's error text without the error number, which means nothing to most users.
fn system(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    text.to_lowercase()
}

fn rule_broken(violation: Violation) -> &'static str {
    match violation {
        Violation::UnknownKind | Violation::Malformed => "update tallow on both sides and try again",
        _ => "no files were put in place; try again with a new code, and over another relay if the error persists",
    }
}

fn relay_failed(relay: &RelayFailure, at: &Context<'_>) -> (String, String) {
    match relay {
        RelayFailure::Refused(reason) => turned_away(*reason),
        RelayFailure::CertificateChanged { relay, refused } => certificate(&relay.to_string(), *refused, at),
        RelayFailure::Violation(violation) => (
            format!("the relay violated the protocol: {violation}"),
            "check the address, or use another relay".to_owned(),
        ),
        // RelayFailure is non-exhaustive, see `explain`.
        relay => (shown(&relay.to_string()), "use another relay".to_owned()),
    }
}

fn certificate(relay: &str, refused: CertificateRefused, at: &Context<'_>) -> (String, String) {
    let file = shown(at.known_relays);
    match refused {
        CertificateRefused::NotPinned { pinned, seen } => (
            format!("the certificate of relay {relay} is {seen}, and not the pinned {pinned}"),
            format!("if its operator confirms it, use --relay-pin {seen}"),
        ),
        CertificateRefused::Changed { known, seen } => (
            format!("the certificate of relay {relay} changed from {known} to {seen}"),
            format!("if its operator confirms it, use --relay-pin {seen}, or remove the line of {relay} from {file}"),
        ),
        CertificateRefused::NotPublic { seen } => (
            format!(
                "the certificate of relay {relay} is no longer signed by a public authority; its fingerprint is {seen}"
            ),
            format!("if its operator confirms it, use --relay-pin {seen}, or remove the line of {relay} from {file}"),
        ),
        // CertificateRefused is non-exhaustive, see `explain`.
        other => (format!("relay {relay}: {other}"), "ask its operator whether that is intended".to_owned()),
    }
}

fn turned_away(reason: RefusalReason) -> (String, String) {
    let (why, hint) = match reason {
        RefusalReason::NobodyWaits => {
            ("no sender is waiting there with this code", "check the code and that the sender is still running")
        }
        RefusalReason::Taken => ("another receiver uses this code", "ask the sender whether that is intended"),
        RefusalReason::NameTaken => ("another sender uses this code", "choose another --code, or leave it out"),
        RefusalReason::RateLimited => ("too many requests from this address", "wait a minute and try again"),
        RefusalReason::Full => ("it has reached its limits", "try later, or use another relay"),
        RefusalReason::Password => {
            ("it requires a password, or the given one is wrong", "set TALLOW_RELAY_PASSWORD or --relay-password-file")
        }
        RefusalReason::UnsupportedVersion(theirs) => return versions(theirs, "the relay"),
        RefusalReason::ShuttingDown => ("it is shutting down", "try again in a minute, or use another relay"),
        RefusalReason::Idle => ("the connection was idle for too long", "start again with a new code"),
        _ => ("it gave a reason that this version does not know", "update tallow, or use another relay"),
    };
    (format!("the relay refused: {why}"), hint.to_owned())
}

#[cfg(test)]
mod tests;
