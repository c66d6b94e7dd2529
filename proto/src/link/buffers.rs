//! The two buffers of a pipe: bytes that arrived and were not understood yet, and bytes that wait for the socket.
//!
//! No decisions and no timers. Bounds: a read takes [`MAX_READ`] bytes at most, and an idle pipe holds [`MIN_READ`], because a
//! relay has thousands of them; how much may wait for the socket is for the pipe to bound.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

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
}

impl Input {
    pub(super) const fn new() -> Self {
        Self { buf: Vec::new(), start: 0, end: 0, read: MIN_READ }
    }

    /// Where the next bytes go; never empty.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.buf.len().saturating_sub(self.end) < self.read {
            // What is there is the beginning of one record at most.
            self.buf.copy_within(self.start..self.end, 0);
            self.end = self.len();
            self.start = 0;
            let wanted = self.end.saturating_add(self.read);
            if self.buf.len() < wanted {
                self.buf.resize(wanted, 0);
            }
        }
        self.buf.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes were put into the room.
    pub(super) fn filled(&mut self, count: usize) {
        let room = self.buf.len().saturating_sub(self.end);
        if count >= room {
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

/// Bytes that wait for the socket.
#[derive(Debug, Default)]
pub(super) struct Output {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Output {
    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len = self.len.saturating_add(piece.len());
            self.pieces.push_back(piece);
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills in what comes first; returns how many slices that took.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pieces = slices.iter_mut().zip(&self.pieces);
        pieces.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    /// So many bytes were written.
    pub(super) fn wrote(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.front_mut().filter(|_| count > 0) {
            let now = count.min(piece.len());
            piece.advance(now);
            count = count.saturating_sub(now);
            self.len = self.len.saturating_sub(now);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
