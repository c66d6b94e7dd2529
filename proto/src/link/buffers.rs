//! The two buffers of a TCP connection: received bytes that are not processed yet, and bytes that wait for the socket.
//!
//! No decisions and no timers. Bounds: a read takes at most [`MAX_READ`] bytes, and at most the owner's window if that
//! is smaller; an idle TCP connection holds [`MIN_READ`], because a relay has thousands of them. The TCP connection
//! bounds how many bytes may wait for the socket.

use std::io::IoSlice;

use bytes::Bytes;

use crate::pieces::Pieces;

/// Room for the first read, and for each read while few bytes arrive.
pub(super) const MIN_READ: usize = 2 * 1024;
/// Room for one read while many bytes arrive: four TLS records.
pub(super) const MAX_READ: usize = 64 * 1024;

/// The received bytes, in one piece, because TLS decrypts a record in place.
#[derive(Debug)]
pub(super) struct Input {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// Room for the next read: doubles when a read filled it, and halves when a read used little of it.
    read: usize,
    /// The room that was returned last.
    offered: usize,
}

impl Input {
    pub(super) const fn new() -> Self {
        Self { buf: Vec::new(), start: 0, end: 0, read: MIN_READ, offered: 0 }
    }

    /// The room for the next bytes, about `limit` bytes at most; never empty.
    pub(super) fn room(&mut self, limit: usize) -> &mut [u8] {
        let read = self.read.min(limit.max(MIN_READ));
        if self.buf.len().saturating_sub(self.end) < read {
            // The buffered bytes are at most the beginning of one record.
            self.buf.copy_within(self.start..self.end, 0);
            self.end = self.len();
            self.start = 0;
            let wanted = self.end.saturating_add(read);
            if self.buf.len() < wanted {
                self.buf.reserve_exact(wanted.saturating_sub(self.buf.len()));
                self.buf.resize(wanted, 0);
            }
        }
        self.offered = read;
        self.buf.get_mut(self.end..self.end.saturating_add(read)).unwrap_or_default()
    }

    /// The socket wrote this many bytes into the room.
    pub(super) fn filled(&mut self, count: usize) {
        let room = self.buf.len().saturating_sub(self.end);
        if count >= self.offered {
            self.read = self.read.saturating_mul(2).min(MAX_READ);
        } else if count < self.read / 4 {
            self.read = (self.read / 2).max(MIN_READ);
        }
        self.end = self.end.saturating_add(count.min(room));
    }

    pub(super) const fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.buf.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// Drops the first bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buf.len() > self.read.saturating_mul(4) {
                self.buf = Vec::new();
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.consume(self.len());
    }

    /// Drops all bytes and frees the memory.
    pub(super) fn close(&mut self) {
        *self = Self::new();
    }
}

/// Bytes that wait for the socket. Small pieces are merged, so that a short answer needs no allocation of its own.
#[derive(Debug, Default)]
pub(super) struct Output(Pieces);

impl Output {
    pub(super) fn push(&mut self, piece: Bytes) {
        self.0.push(piece);
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fills `slices` with the first pieces; returns the number of filled slices.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        slices.iter_mut().zip(self.0.iter()).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    /// The socket accepted this many bytes.
    pub(super) fn wrote(&mut self, count: usize) {
        self.0.advance(count);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
