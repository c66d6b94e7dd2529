//! The source and the destination of a transfer's bytes: the traits that a library user implements, and the possible
//! faults.
//!
//! Jobs access files only through [`Source`] and [`Sink`]; `tallow-store` implements them for disks, tests in memory.
//! A [`StreamSource`] and a [`StreamSink`] are the two ends of a pipe. All their calls run on worker threads, as jobs
//! ([`super::job`]).

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::journal::Stored;
use super::manifest::{Entry, Manifest, Page, Refusal};
use crate::wire::Untrusted;
pub use crate::wire::peer::Placement;

/// How many characters of a path and of an error's detail are shown.
const SHOWN: usize = 300;
/// How many characters of an error's detail are kept.
const MOST_DETAIL: usize = 1000;

/// Why a job failed: what happened, to which path, and the text of the system, the source or the sink.
///
/// Its text is complete: path, kind and detail, with every character that a terminal could interpret made visible.
/// Your own [`Source`] or [`Sink`] creates one from an [`io::Error`] (`?` converts it), or from a sentence with
/// [`Fault::other`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The local path that is concerned, raw: display it only through [`Untrusted::escaped`].
    pub path: Option<Box<str>>,
    /// The detail, raw: the text of an [`io::Error`], of a panic, or of the source or sink. It is not sent to the
    /// other side.
    pub detail: Option<Box<str>>,
}

/// The possible faults of a file. The texts do not contain the path; it is added separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// It is not, or no longer, the file that was scanned.
    #[error("changed while it was being sent")]
    Changed,
    /// A device, a FIFO, a socket, or a directory where a file was expected.
    #[error("not a regular file")]
    NotRegular,
    /// Not enough space.
    #[error("not enough space on disk: need {need} bytes, have {have}")]
    Full {
        /// Bytes that are needed.
        need: u64,
        /// Bytes that are free.
        have: u64,
    },
    /// The name exists already.
    #[error("exists already")]
    Exists,
    /// A symbolic link is in the way.
    #[error("refusing to write through a symbolic link")]
    Link,
    /// A rule for what may be sent or received was broken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An error of the system.
    #[error("{0}")]
    Io(io::ErrorKind),
    /// An error of the system by its number, if the standard library has no kind that describes it (too many open
    /// files, an input/output error).
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    System(i32),
    /// The name of a local file is not valid UTF-8, so it can't be sent.
    #[error("file name is not valid UTF-8")]
    NotUtf8,
    /// The job was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A panic: a bug in the source, in the sink, or here.
    #[error("internal error")]
    Panicked,
    /// The sink needed far more calls of [`Sink::finish`] than its entries explain, for 10 minutes.
    #[error("the destination did not finish")]
    Unfinished,
    /// A bug: the source made an invalid page, or the manifest differs from the checked one.
    #[error("internal error: invalid manifest")]
    Internal,
}

impl FaultKind {
    /// What the user can do about it, in a few words.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Changed => "send it again when nothing writes to it",
            Self::NotRegular => "leave it out",
            Self::Full { .. } => "make room, or choose another place",
            Self::Exists => "choose another place, or a policy for what exists",
            Self::Link => "choose another place",
            Self::Refused(_) | Self::NotUtf8 => "rename it, or leave it out",
            Self::Io(io::ErrorKind::NotFound) => "check the path",
            Self::Io(io::ErrorKind::PermissionDenied) => "check the permissions",
            Self::Io(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => "make room, or choose another place",
            Self::Io(_) | Self::System(_) => "check the disk, then try again",
            Self::Cancelled => "begin again with a new code",
            Self::Panicked | Self::Internal | Self::Unfinished => {
                "this is a bug in the source, in the sink or in tallow"
            }
        }
    }
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self { kind, path: None, detail: None }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        let fault = Self::from(FaultKind::Io(error.kind()));
        // A bare kind has no text besides that of the kind.
        let has_words = error.raw_os_error().is_some() || error.get_ref().is_some();
        if has_words { fault.with_detail(&error.to_string()) } else { fault }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", Untrusted::new(path.to_string()).escaped(SHOWN))?;
        }
        let detail = self.detail.as_deref().map(|detail| Untrusted::new(detail.to_owned()).escaped(SHOWN));
        match (self.kind, detail) {
            // The system's own text contains that of the kind, and more.
            (FaultKind::Io(_) | FaultKind::System(_), Some(detail)) => f.write_str(&detail),
            (kind, Some(detail)) => write!(f, "{kind}: {detail}"),
            (kind, None) => write!(f, "{kind}"),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.kind)
    }
}

impl Fault {
    /// Whether a rule forbids it, rather than something having failed.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self.kind {
            FaultKind::Exists
            | FaultKind::Link
            | FaultKind::NotRegular
            | FaultKind::NotUtf8
            | FaultKind::Refused(_) => true,
            FaultKind::Changed
            | FaultKind::Full { .. }
            | FaultKind::Io(_)
            | FaultKind::System(_)
            | FaultKind::Cancelled
            | FaultKind::Panicked
            | FaultKind::Unfinished
            | FaultKind::Internal => false,
        }
    }

    /// A fault with the path that is concerned.
    #[must_use]
    pub fn at(kind: FaultKind, path: impl Into<Box<str>>) -> Self {
        Self { path: Some(path.into()), ..kind.into() }
    }

    /// A fault of your own source or sink, with its text: "the database is gone".
    #[must_use]
    pub fn other(words: &str) -> Self {
        Self::from(FaultKind::Io(io::ErrorKind::Other)).with_detail(words)
    }

    /// Adds the detail of the error; only its first thousand characters are kept.
    #[must_use]
    pub fn with_detail(self, words: &str) -> Self {
        let detail: String = words.chars().take(MOST_DETAIL).collect();
        Self { detail: Some(detail.into()), ..self }
    }

    /// The fault of a panic, with its message if that is text.
    pub(super) fn of_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let words = payload.downcast_ref::<&str>().copied();
        let words = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let fault = Self::from(FaultKind::Panicked);
        match words {
            Some(words) => fault.with_detail(words),
            None => fault,
        }
    }
}

/// The files that are sent. No call may block without limit.
pub trait Source: Send + Sync {
    /// Page number `page` of the manifest (requested in order from 0, each once); `None` after the last one.
    ///
    /// # Errors
    /// Something can't be sent; the fault states what and why.
    fn scan(&self, page: u32) -> Result<Option<Page>, Fault>;

    /// Fills `into` with the file's bytes from `at`. If the file is not exactly the one that was scanned, the fault
    /// is [`FaultKind::Changed`]. Several threads call it at once.
    ///
    /// # Errors
    /// The file changed, or can't be read.
    fn read(&self, index: u32, entry: &Entry, at: u64, into: &mut [u8]) -> Result<(), Fault>;
}

/// The destination of received files. A sink that does not support resuming needs none of the methods that have a
/// default implementation here.
pub trait Sink: Send + Sync {
    /// Checks names against existing files, the policy and the free space, and creates the staging directory or
    /// reuses that of an earlier transfer of the same manifest. Returns the chunks that its journal lists, ascending,
    /// at most [`super::journal::MOST`]. It is called before the offer is accepted.
    ///
    /// # Errors
    /// Why the files can't be received; the sink then leaves nothing behind that was not there before.
    fn begin(&self, manifest: &Arc<Manifest>) -> Result<Vec<Stored>, Fault>;

    /// Fills `into` with bytes of a file that are stored from an earlier transfer; false: they are not stored, or
    /// can't be read. Several threads call it at once, after [`Sink::begin`] and before the first [`Sink::write`].
    ///
    /// # Errors
    /// Only a fault that would affect a new transfer, too.
    fn recall(&self, _index: u32, _entry: &Entry, _at: u64, _into: &mut [u8]) -> Result<bool, Fault> {
        Ok(false)
    }

    /// Writes bytes of a file from `at` on. Several threads call it at once, in any order; each byte of each file is
    /// written once, except that bytes from an earlier transfer may be replaced once.
    ///
    /// # Errors
    /// The bytes could not be written.
    fn write(&self, index: u32, entry: &Entry, at: u64, plain: &[u8]) -> Result<(), Fault>;

    /// Records in the journal that these chunks are stored; their bytes were written before. One thread calls it.
    ///
    /// # Errors
    /// The chunks are not recorded, and the journal is unchanged.
    fn commit(&self, _chunks: &[Stored]) -> Result<(), Fault> {
        Ok(())
    }

    /// Syncs to the disk what was written and committed before the call: first the files, then the journal. One
    /// thread calls it, while other calls may run.
    ///
    /// # Errors
    /// What was not synced before counts as not stored; no later call may report it as stored.
    fn sync(&self) -> Result<(), Fault> {
        Ok(())
    }

    /// Creates empty files, directories and links, sets modes and times, syncs and renames: at most `at_most` entries
    /// in one call; returns true when all entries have their final names. One thread calls it, after the last write.
    ///
    /// While it returns false it is called again at once, at most twice for every `at_most` entries and 64 more
    /// times. After that it is called every 10 ms, the transfer can be cancelled, and it fails with
    /// [`FaultKind::Unfinished`] after 10 minutes.
    ///
    /// # Errors
    /// An entry could not be moved to its final name.
    fn finish(&self, at_most: usize) -> Result<bool, Fault>;

    /// How the placed entries differ from the offer, for the user on the other side. One thread, after [`Sink::finish`]
    /// returned true.
    fn placement(&self) -> Placement {
        Placement::default()
    }

    /// The transfer ended early, and what was staged is useless: removes it. Never fails, never touches a final name.
    /// Called once, after the last other call, and only if [`Sink::begin`] succeeded.
    fn abandon(&self);

    /// The transfer ended early: keeps what is stored, so that a later transfer can resume it, and releases it. Never
    /// fails. Called once, after the last other call, instead of [`Sink::abandon`].
    fn suspend(&self) {
        self.abandon();
    }
}

/// The source of a stream. It is read once, in order.
pub trait StreamSource: Send + Sync {
    /// Waits at most `wait` for something to read, then fills `into`, which is not empty, with the available bytes.
    /// One thread calls it.
    ///
    /// # Errors
    /// The source can't be read.
    fn read(&self, into: &mut [u8], wait: Duration) -> Result<Read, Fault>;
}

/// The result of reading from a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// This many bytes were read.
    Bytes(NonZeroUsize),
    /// No bytes are available yet.
    NotYet,
    /// The stream has ended.
    End,
}

/// The destination of a stream.
pub trait StreamSink: Send + Sync {
    /// Waits at most `wait` for room, then writes as much as there is room for, from the front of `plain`, which is
    /// not empty. Returns how many bytes it took; 0: none yet. One thread calls it.
    ///
    /// # Errors
    /// The reading end was closed, or the bytes can't be written.
    fn write(&self, plain: &[u8], wait: Duration) -> Result<usize, Fault>;
}

#[cfg(test)]
mod tests;
