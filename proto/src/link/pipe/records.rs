//! The plain bytes of a link between two peers, cut where its long records are: each of them is read from the socket into the buffer
//! in which it will be opened.
//!
//! Decides only where the pieces end that the owner reads. What is no long chunk record goes on as it came, also what no frame may
//! look like, for that is the decoder's to judge. While the link has not proven to be the other peer's, all of it does: then
//! nobody can have memory taken by naming a length.
//! ```text
//! passing ──head of a long record, on a link that has proven itself──► assembling ──whole──► passing
//! ```
//! No timers. Bounds: one record of a chunk and [`BEHIND`], and what the pool keeps. Copied are a record's bytes that came with what
//! stands before it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::inbox::Inbox;
use crate::pool::{LEAST, Pool};
use crate::wire::frame::{CHUNK, KIND_CHUNK, PREFIX};

/// A frame's length and the first byte of its body.
const HEAD: usize = PREFIX + 1;
/// Room behind a record for what follows it, so that the head of the next one comes with the same call.
const BEHIND: usize = 2 << 10;

/// See the module's text.
#[derive(Debug, Default)]
pub(in crate::link) struct Records {
    /// Of the frame that begins, as far as it is here.
    head: [u8; HEAD],
    known: usize,
    /// Bytes that are still missing of a frame that goes on as it comes.
    passing: usize,
    assembly: Option<Assembly>,
    /// Once the link has proven itself.
    pool: Option<Arc<Pool>>,
}

/// A record that arrives.
struct Assembly {
    buffer: BytesMut,
    filled: usize,
    /// Of the record.
    len: usize,
}

impl Records {
    /// From now on long records have buffers of their own.
    pub(super) fn assemble(&mut self, pool: Arc<Pool>) {
        self.pool = Some(pool);
    }

    /// Lets go of what is there.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// Where the next bytes go, while a record is being assembled.
    pub(super) fn room(&mut self) -> Option<&mut [u8]> {
        let assembly = self.assembly.as_mut()?;
        assembly.buffer.get_mut(assembly.filled..)
    }

    /// So many bytes were put there.
    pub(super) fn filled(&mut self, count: usize) {
        if let Some(assembly) = &mut self.assembly {
            assembly.filled = assembly.filled.saturating_add(count).min(assembly.buffer.len());
        }
    }

    /// How much is here of the record that is being assembled.
    pub(super) fn assembling(&self) -> usize {
        self.assembly.as_ref().map_or(0, |assembly| assembly.filled.min(assembly.len))
    }

    /// Moves on what is whole, and what came beside [`Self::room`].
    pub(super) fn receive(&mut self, plain: &[u8], inbox: &mut Inbox) {
        if let Some(whole) = self.assembly.take_if(|assembly| assembly.filled >= assembly.len) {
            let Assembly { mut buffer, filled, len } = whole;
            let behind = Bytes::copy_from_slice(buffer.get(len..filled).unwrap_or_default());
            buffer.truncate(len);
            inbox.push(buffer.freeze());
            self.pass(&behind, inbox);
        }
        self.pass(plain, inbox);
    }

    fn pass(&mut self, mut plain: &[u8], inbox: &mut Inbox) {
        while let Some((passed, pool, len)) = self.find(plain) {
            let (before, record) = plain.split_at_checked(passed).unwrap_or((plain, &[]));
            inbox.copy(before);
            let mut buffer = pool.take(len.saturating_add(BEHIND));
            let here = len.min(record.len());
            let (record, behind) = record.split_at_checked(here).unwrap_or_default();
            if let Some(begun) = buffer.get_mut(..here) {
                begun.copy_from_slice(record);
            }
            plain = behind;
            if here < len {
                self.assembly = Some(Assembly { buffer, filled: here, len });
            } else {
                buffer.truncate(len);
                inbox.push(buffer.freeze());
            }
        }
        inbox.copy(plain);
    }

    /// Follows the frames up to the next record that gets a buffer: how many bytes stand before it, where the buffer is from, how long
    /// the record is.
    fn find(&mut self, plain: &[u8]) -> Option<(usize, Arc<Pool>, usize)> {
        let mut rest = plain;
        while !rest.is_empty() {
            let passed = self.passing.min(rest.len());
            self.passing = self.passing.saturating_sub(passed);
            rest = rest.get(passed..).unwrap_or_default();
            let missing = self.head.get_mut(self.known..).unwrap_or_default();
            let count = missing.len().min(rest.len());
            if self.passing > 0 || count == 0 {
                continue;
            }
            let (head, behind) = rest.split_at_checked(count)?;
            missing.get_mut(..count)?.copy_from_slice(head);
            self.known = self.known.saturating_add(count);
            if self.known < HEAD {
                return None;
            }
            self.known = 0;
            let [a, b, c, d, kind] = self.head;
            let len = u32::from_be_bytes([a, b, c, d]) as usize;
            if let Some(pool) = &self.pool
                && kind == KIND_CHUNK
                && (LEAST..=CHUNK).contains(&len)
            {
                // The head's last byte is the record's first.
                let before = plain.len().saturating_sub(behind.len()).saturating_sub(1);
                return Some((before, Arc::clone(pool), len));
            }
            self.passing = len.saturating_sub(1);
            rest = behind;
        }
        None
    }
}

impl std::fmt::Debug for Assembly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Assembly({} of {} bytes)", self.filled, self.len)
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
