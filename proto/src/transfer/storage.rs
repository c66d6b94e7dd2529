//! Where the bytes of a transfer come from and go to: the traits that a library user implements, and what can go wrong.
//!
//! [`Source`] and [`Sink`] are the only way to files; `tallow-store` implements them on disks, tests in memory. A
//! [`StreamSource`] and a [`StreamSink`] are a pipe's two ends. All their calls run on worker threads, as jobs
//! ([`super::job`]).

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::entries::EntrySet;
use super::journal::Stored;
use super::manifest::{Entry, Manifest, Page, Refusal};
use crate::wire::Untrusted;

/// Characters of a path, and of an error's own words, that are shown.
const SHOWN: usize = 300;
/// Characters of an error's own words that are kept.
const MOST_DETAIL: usize = 1000;

/// Why a job failed: what happened, to which path, and in which words the system, the source or the sink says so.
///
/// Its text is complete: path, kind and words, with everything that a terminal could obey made visible. A [`Source`] or
/// a [`Sink`] of your own makes one of an [`io::Error`] (`?` does it), or of a sentence with [`Fault::other`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The local path that it happened to, raw: it is shown only through [`Untrusted::escaped`].
    pub path: Option<Box<str>>,
    /// What the error itself says, raw: the text of an [`io::Error`], of a panic, or of the source or sink. It stays on
    /// this machine.
    pub detail: Option<Box<str>>,
}

/// What can happen to a file. The texts are without the path, which stands beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// It is not, or no more, the file that was scanned.
    #[error("changed while it was being sent")]
    Changed,
    /// It was there when it was scanned, and is there no more.
    #[error("removed before it was sent")]
    Vanished,
    /// A device, a FIFO, a socket, or a directory where a file was expected.
    #[error("not a regular file")]
    NotRegular,
    /// Too little space.
    #[error("not enough space on disk: need {need} bytes, have {have}")]
    Full {
        /// Bytes that are needed.
        need: u64,
        /// Bytes that are free.
        have: u64,
    },
    /// Something of that name is there.
    #[error("exists already")]
    Exists,
    /// A symbolic link stands in the way.
    #[error("refusing to write through a symbolic link")]
    Link,
    /// A rule for what may be sent or received.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The system's error.
    #[error("{0}")]
    Io(io::ErrorKind),
    /// The system's error by its number, where the standard library has no kind that says what happened (too many open
    /// files, an input/output error).
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    System(i32),
    /// The name of a local file is not valid UTF-8, so it can't be sent.
    #[error("file name is not valid UTF-8")]
    NotUtf8,
    /// The job was told to stop.
    #[error("cancelled")]
    Cancelled,
    /// A panic: a bug in the source, in the sink, or here.
    #[error("internal error")]
    Panicked,
    /// The sink needed far more calls of [`Sink::finish`] than it has entries, for 10 minutes.
    #[error("the destination did not finish")]
    Unfinished,
    /// A bug: the source made a page that is not valid, or the manifest is not what was judged.
    #[error("internal error: invalid manifest")]
    Internal,
}

impl FaultKind {
    /// What helps against it, in a few words.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Changed => "send it again when nothing writes to it",
            Self::Vanished => "leave it out, or put it back",
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

impl FaultKind {
    /// Whether a source that has this fault with one file can still send the others.
    #[must_use]
    pub const fn is_of_one_file(self) -> bool {
        match self {
            Self::Changed | Self::Vanished | Self::NotRegular | Self::Link | Self::Io(_) | Self::System(_) => true,
            Self::Full { .. }
            | Self::Exists
            | Self::Refused(_)
            | Self::NotUtf8
            | Self::Cancelled
            | Self::Panicked
            | Self::Unfinished
            | Self::Internal => false,
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
        // A bare kind has nothing to add to its own text.
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
            // The system's own text says what the kind says, and more.
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
    /// Whether a rule forbids it, and nothing failed.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self.kind {
            FaultKind::Exists | FaultKind::Link | FaultKind::NotRegular | FaultKind::Refused(_) => true,
            FaultKind::Changed
            | FaultKind::Vanished
            | FaultKind::Full { .. }
            | FaultKind::Io(_)
            | FaultKind::System(_)
            | FaultKind::NotUtf8
            | FaultKind::Cancelled
            | FaultKind::Panicked
            | FaultKind::Unfinished
            | FaultKind::Internal => false,
        }
    }

    /// With the path that it happened to.
    #[must_use]
    pub fn at(kind: FaultKind, path: impl Into<Box<str>>) -> Self {
        Self { path: Some(path.into()), ..kind.into() }
    }

    /// What a source or a sink of your own can't do, in its words: "the database is gone".
    #[must_use]
    pub fn other(words: &str) -> Self {
        Self::from(FaultKind::Io(io::ErrorKind::Other)).with_detail(words)
    }

    /// With what the error itself says; no more than its first thousand characters are kept.
    #[must_use]
    pub fn with_detail(self, words: &str) -> Self {
        let detail: String = words.chars().take(MOST_DETAIL).collect();
        Self { detail: Some(detail.into()), ..self }
    }

    /// What a panic says, where it says it in words.
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

/// What is sent. No call may block for ever.
pub trait Source: Send + Sync {
    /// Page number `page` of the manifest (asked for in order from 0, each once); `None` after the last.
    ///
    /// # Errors
    /// What can't be sent, and why.
    fn scan(&self, page: u32) -> Result<Option<Page>, Fault>;

    /// Fills `into` with the file's bytes from `at`; anything else than exactly the file that was scanned is
    /// [`FaultKind::Changed`]. Several threads at once.
    ///
    /// # Errors
    /// The file changed, or can't be read. A fault of one file ([`FaultKind::is_of_one_file`]) costs that file, which is
    /// not read again, and the others are sent; any other fault ends the transfer.
    fn read(&self, index: u32, entry: &Entry, at: u64, into: &mut [u8]) -> Result<(), Fault>;

    /// Whether a file is not as it was offered, although all bytes that were asked for could be read. It is asked after
    /// reads of the file; several threads at once.
    fn drift(&self, _index: u32) -> Option<Drift> {
        None
    }
}

/// How a file differs from what was offered that can be sent all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drift {
    /// It is longer than it was offered: what is sent are its first bytes.
    pub has_grown: bool,
    /// It was written to between two reads, or during one. Before the end all of it is read once more, and it has
    /// failed as [`FaultKind::Changed`] unless its bytes are the same.
    pub is_unsure: bool,
}

/// Where it goes. What can't be found again needs none of the methods that have a body here.
pub trait Sink: Send + Sync {
    /// Checks names against what is there, policy and free space, and makes the staging, or finds again what an earlier
    /// transfer of the same manifest left. Gives the chunks that its journal names, ascending, at most
    /// [`super::journal::MOST`]. Before the offer is accepted.
    ///
    /// # Errors
    /// Why it can't be received; nothing stays behind then but what was there before.
    fn begin(&self, manifest: &Arc<Manifest>) -> Result<Vec<Stored>, Fault>;

    /// The entries that are not wanted, since something of their name is there: they are not sent, and no other call is
    /// made for them. After [`Sink::begin`], whose chunks are numbered without them ([`Manifest::without`]). The sender
    /// learns of these entries, and so that their names exist.
    fn skipped_entries(&self) -> EntrySet {
        EntrySet::new()
    }

    /// Fills `into` with bytes of a file that are stored from before; false: they are not, or can't be read. Several
    /// threads at once, after [`Sink::begin`] and before the first [`Sink::write`].
    ///
    /// # Errors
    /// Only what a new transfer would suffer from, too.
    fn recall(&self, _index: u32, _entry: &Entry, _at: u64, _into: &mut [u8]) -> Result<bool, Fault> {
        Ok(false)
    }

    /// Bytes of a file from `at` on. Several threads at once, any order; each byte of each file once, but for those
    /// that were stored from before: they may be replaced, once.
    ///
    /// # Errors
    /// They could not be written.
    fn write(&self, index: u32, entry: &Entry, at: u64, plain: &[u8]) -> Result<(), Fault>;

    /// Appends to the journal that these chunks are stored; their bytes were written before. One thread.
    ///
    /// # Errors
    /// They are not noted, and the journal is as it was.
    fn commit(&self, _chunks: &[Stored]) -> Result<(), Fault> {
        Ok(())
    }

    /// Brings to the disk what was written and committed before the call: first the files, then the journal. One
    /// thread, beside other calls.
    ///
    /// # Errors
    /// What was not synced before counts as not stored; no later call may find it good.
    fn sync(&self) -> Result<(), Fault> {
        Ok(())
    }

    /// The sender could not send this file, which is not to be put in place: what was written of it is of no use. Once
    /// for each such file, after the last write and before the first [`Sink::finish`]. One thread.
    ///
    /// # Errors
    /// It can't be left out, so nothing may be put in place.
    fn leave_out(&self, index: u32, entry: &Entry) -> Result<(), Fault>;

    /// Empty files, directories, links, modes, times, sync, rename: a slice of at most `at_most` entries; true when all
    /// is in place. One thread, after the last write.
    ///
    /// It is called again at once while it answers false, at most twice for every `at_most` entries and 64 times more.
    /// After that it is called every 10 ms, the transfer can be cancelled, and it fails with [`FaultKind::Unfinished`]
    /// after 10 minutes.
    ///
    /// # Errors
    /// Something could not be put in place.
    fn finish(&self, at_most: usize) -> Result<bool, Fault>;

    /// The transfer ended unfinished, and what was staged is of no use: removes it. Never fails, never touches a final
    /// name. Once, after the last other call, and only if [`Sink::begin`] succeeded.
    fn abandon(&self);

    /// The transfer ended unfinished: leaves what is stored, so that another one can go on from there, and lets go of
    /// it. Never fails. Once, after the last other call, in place of [`Sink::abandon`].
    fn suspend(&self) {
        self.abandon();
    }
}

/// Where a stream comes from. It is read once, in order.
pub trait StreamSource: Send + Sync {
    /// Waits at most `wait` for something to read, then fills `into`, which is not empty, with what is there. One
    /// thread.
    ///
    /// # Errors
    /// It can't be read.
    fn read(&self, into: &mut [u8], wait: Duration) -> Result<Read, Fault>;
}

/// What was read of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(NonZeroUsize),
    /// Nothing is there yet.
    NotYet,
    /// Nothing more comes.
    End,
}

/// Where bytes go that come in order.
pub trait StreamSink: Send + Sync {
    /// Waits at most `wait` for room, then takes as much as there is room for, from the front of `plain`, which is not
    /// empty. Gives how many bytes it took; 0: not yet. One thread.
    ///
    /// # Errors
    /// Nobody reads it any more, or it can't be written.
    fn write(&self, plain: &[u8], wait: Duration) -> Result<usize, Fault>;
}

#[cfg(test)]
mod tests;
