//! The results of reading from a link and of writing to it.

use bytes::Bytes;

/// The result of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next bytes, never none, as they arrived.
    Data(Bytes),
    /// Nothing now; an event `Readable` follows.
    Blocked,
    /// All was read; the stream is gone.
    End,
    /// The other side gave up the stream with this code; it is gone.
    Reset(u32),
    /// No such stream, or no longer.
    Gone,
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// All was taken.
    Done,
    /// What was not taken is left in place; an event `Writable` follows.
    Blocked,
    /// The other side reads no more, and gave this code.
    Stopped(u32),
    /// No such stream, or it was finished or reset.
    Gone,
}
