//! The received plaintext of a TCP connection that its owner has not read yet, at most one window of it.

use bytes::Bytes;

use crate::pieces::Pieces;

/// Received plaintext. Small pieces are merged, so that the window bounds the memory for any size of frames.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) pieces: Pieces,
    pub(super) window: usize,
    /// Whether the other side has sent its end marker.
    pub(super) ended: bool,
}

impl Inbox {
    pub(super) const fn new(window: usize) -> Self {
        Self { pieces: Pieces::new(), window, ended: false }
    }

    pub(super) const fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        self.pieces.push(piece);
    }

    pub(super) fn copy(&mut self, piece: &[u8]) {
        self.pieces.copy(piece);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.pieces.pop()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.pieces.len() >= self.window
    }
}
