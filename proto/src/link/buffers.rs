//! The two buffers of a pipe: bytes that arrived and were not understood yet, and bytes that wait for the socket.
//!
//! No decisions and no timers. Bounds: a read takes [`MAX_READ`] bytes at most, and no more than the owner's window if
//! that is smaller; an idle pipe holds [`MIN_READ`], because a relay has thousands of them. How much may wait for the
//! socket is for the pipe to bound.

use std::io::IoSlice;

use bytes::Bytes;

use crate::pieces::Pieces;

/// Room for the first read, and for each while little arrives.
pub(super) const MIN_READ: usize = 2 * 1024;
/// Room for one read while much arrives: four TLS records.
pub(super) const MAX_READ: usize = 64 * 1024;

/// Bytes that arrived, in one piece, since TLS opens a record in place.
#[derive(Debug)]
pub(super) struct Input {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// Room for the next read: doubles when a read filled all there was, halves when it used little.
    read: usize,
    /// The room that was given out last.
    offered: usize,
}

impl Input {
    pub(super) const fn new() -> Self {
        Self { buf: Vec::new(), start: 0, end: 0, read: MIN_READ, offered: 0 }
    }

    /// Where the next bytes go, about `limit` bytes at most; never empty.
    pub(super) fn room(&mut self, limit: usize) -> &mut [u8] {
        let read = self.read.min(limit.max(MIN_READ));
        if self.buf.len().saturating_sub(self.end) < read {
            // What is there is the beginning of one record at most.
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

    /// So many bytes were put into the room.
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

    /// Forgets the first bytes.
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

    /// Frees the memory too.
    pub(super) fn close(&mut self) {
        *self = Self::new();
    }
}

/// Bytes that wait for the socket. Small pieces are merged: an answer of two bytes costs no more than that.
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

    /// Fills in what comes first; returns how many slices that took.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        slices.iter_mut().zip(self.0.iter()).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    /// So many bytes were written.
    pub(super) fn wrote(&mut self, count: usize) {
        self.0.advance(count);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
