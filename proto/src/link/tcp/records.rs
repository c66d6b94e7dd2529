//! Splits the bytes of a link between two peers at its long records: each long record is read from the socket into the
//! buffer in which it will be decrypted.
//!
//! Decides only where the pieces end that the owner reads. All bytes that are not part of a long chunk record are
//! passed on as they arrived, invalid frames included, because the decoder validates frames. Until the peer is
//! authenticated on the link, all bytes are passed on this way, so that no host can make us allocate memory by claiming
//! a length.
//! ```text
//! passing ──head of a long record, on a proven link──► assembling ──complete──► passing
//! ```
//! No timers. Bounds: one chunk record and [`BEHIND`], and the buffers in the pool. Of a long record, only the bytes
//! are copied that arrived in the same read as earlier bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::inbox::Inbox;
use crate::pool::{LEAST, Pool};
use crate::wire::frame::{CHUNK, KIND_CHUNK, PREFIX};

/// The frame's length prefix and the first byte of its body.
const HEAD: usize = PREFIX + 1;
/// Room behind a record for following bytes, so that the head of the next record arrives with the same read.
const BEHIND: usize = 2 << 10;

/// The splitter; the module's documentation describes its states.
#[derive(Debug, Default)]
pub(in crate::link) struct Records {
    /// The received bytes of the next frame's head.
    head: [u8; HEAD],
    known: usize,
    /// Missing bytes of a frame that is passed on as it arrives.
    passing: usize,
    assembly: Option<Assembly>,
    /// The source of buffers, once the link is proven.
    pool: Option<Arc<Pool>>,
}

/// A long record that is being received.
struct Assembly {
    buffer: BytesMut,
    filled: usize,
    /// Length of the record.
    len: usize,
}

impl Records {
    /// From now on, long records are read into buffers of their own.
    pub(super) fn assemble(&mut self, pool: Arc<Pool>) {
        self.pool = Some(pool);
    }

    /// Frees the partial record.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// The buffer for the next bytes, while a long record is being received.
    pub(super) fn room(&mut self) -> Option<&mut [u8]> {
        let assembly = self.assembly.as_mut()?;
        assembly.buffer.get_mut(assembly.filled..)
    }

    /// The socket wrote this many bytes into [`Self::room`].
    pub(super) fn filled(&mut self, count: usize) {
        if let Some(assembly) = &mut self.assembly {
            assembly.filled = assembly.filled.saturating_add(count).min(assembly.buffer.len());
        }
    }

    /// The number of received bytes of the partial record.
    pub(super) fn assembling(&self) -> usize {
        self.assembly.as_ref().map_or(0, |assembly| assembly.filled.min(assembly.len))
    }

    /// Passes on a complete record, and the bytes that did not arrive through [`Self::room`].
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

    /// Follows the frames up to the next long record. Returns the number of bytes before it, the pool for its buffer,
    /// and its length.
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
                // The last byte of the head is the first byte of the record.
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
mod tests;
