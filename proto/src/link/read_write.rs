//! The results of reading from a link and of writing to it.

use bytes::Bytes;

/// The result of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next bytes as they arrived; never empty.
    Data(Bytes),
    /// Nothing can be read now; an event `Readable` follows.
    Blocked,
    /// All data was read; the stream is removed.
    End,
    /// The other side reset the stream with this code; the stream is removed.
    Reset(u32),
    /// The stream does not exist, or does not exist any more.
    Gone,
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// All bytes were accepted.
    Done,
    /// Bytes that were not accepted stay in place; an event `Writable` follows.
    Blocked,
    /// The other side stopped reading, with this code.
    Stopped(u32),
    /// The stream does not exist, or this side finished or reset it.
    Gone,
}
