//! A queue of bytes that keeps large pieces as they arrived and merges small ones, so that its heap use is close to the
//! number of bytes in it.
//!
//! Each piece costs a heap block and a queue entry beside its bytes; a queue of one-byte pieces would need sixty times
//! as much memory as it has bytes. The queue copies pieces shorter than [`SMALL`] into blocks of [`BLOCK`] bytes and
//! keeps longer ones as they are. No timers. Bound: the owner limits the number of bytes; the heap use is at most one
//! and a half times that.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Pieces shorter than this, in bytes, are merged. A longer piece keeps the memory of the whole packet in which it
/// arrived, and it should be the larger part of it.
pub(crate) const SMALL: usize = 1 << 10;
/// The size of the blocks into which small pieces are copied, in bytes.
pub(crate) const BLOCK: usize = 4 << 10;
/// The number of entries for which an empty queue keeps its memory.
const KEPT: usize = 64;

/// The queue; the module's documentation describes how it merges pieces.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    whole: VecDeque<Bytes>,
    /// The block that is being filled; its bytes follow those of `whole`.
    tail: Vec<u8>,
    len: usize,
}

impl Pieces {
    pub(crate) const fn new() -> Self {
        Self { whole: VecDeque::new(), tail: Vec::new(), len: 0 }
    }

    /// The number of bytes in the queue.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a piece as it is, or a copy if it is small.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if piece.len() < SMALL {
            return self.copy(&piece);
        }
        self.len = self.len.saturating_add(piece.len());
        self.end_block();
        self.whole.push_back(piece);
    }

    /// Appends a copy.
    pub(crate) fn copy(&mut self, piece: &[u8]) {
        self.copy_with(piece, |_| {});
    }

    /// Appends a copy and passes the copy to `change`.
    pub(crate) fn copy_with(&mut self, piece: &[u8], change: impl FnOnce(&mut [u8])) {
        if piece.is_empty() {
            return;
        }
        self.len = self.len.saturating_add(piece.len());
        if piece.len() >= SMALL {
            self.end_block();
            let mut own = piece.to_vec();
            change(&mut own);
            return self.whole.push_back(Bytes::from(own));
        }
        if self.tail.len().saturating_add(piece.len()) > BLOCK {
            self.end_block();
        }
        let begin = self.tail.len();
        let needed = begin.saturating_add(piece.len());
        if needed > self.tail.capacity() {
            // Grows at most to the size of a block; a vector that grows by itself would exceed it.
            let wanted = self.tail.capacity().saturating_mul(2).min(BLOCK).max(needed);
            self.tail.reserve_exact(wanted.saturating_sub(begin));
        }
        self.tail.extend_from_slice(piece);
        change(self.tail.get_mut(begin..).unwrap_or_default());
    }

    /// Takes the first piece.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let piece = std::mem::take(self.front()?);
        self.drop_front();
        self.len = self.len.saturating_sub(piece.len());
        Some(piece)
    }

    /// Takes at most `max` bytes of the first piece.
    pub(crate) fn pop_at_most(&mut self, max: usize) -> Option<Bytes> {
        let front = self.front()?;
        let piece = front.split_to(max.min(front.len()));
        if front.is_empty() {
            self.drop_front();
        }
        self.len = self.len.saturating_sub(piece.len());
        Some(piece)
    }

    /// Drops this many bytes from the front.
    pub(crate) fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let Some(front) = self.front() else { return };
            let now = count.min(front.len());
            front.advance(now);
            if front.is_empty() {
                self.drop_front();
            }
            count = count.saturating_sub(now);
            self.len = self.len.saturating_sub(now);
        }
    }

    /// All bytes in the queue, as pieces.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let tail = Some(self.tail.as_slice()).filter(|tail| !tail.is_empty());
        self.whole.iter().map(Bytes::as_ref).chain(tail)
    }

    /// Takes all bytes in the queue, as pieces.
    pub(crate) fn into_pieces(mut self) -> VecDeque<Bytes> {
        self.end_block();
        self.whole
    }

    fn front(&mut self) -> Option<&mut Bytes> {
        if self.whole.is_empty() {
            self.end_block();
        }
        self.whole.front_mut()
    }

    fn drop_front(&mut self) {
        self.whole.pop_front();
        if self.whole.is_empty() && self.whole.capacity() > KEPT {
            self.whole = VecDeque::new();
        }
    }

    fn end_block(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push_back(Bytes::from(std::mem::take(&mut self.tail)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_keep_bytes_and_order(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..1500), any::<bool>()), 0..40),
            cuts in prop::collection::vec(1usize..3000, 0..40),
        ) {
            let expected: Vec<u8> = pieces.iter().flat_map(|(piece, _)| piece.clone()).collect();
            let (mut queue, mut got) = (Pieces::new(), Vec::new());
            let mut cuts = cuts.into_iter();
            for (piece, copied) in pieces {
                if copied { queue.copy(&piece) } else { queue.push(piece.into()) }
                prop_assert_eq!(queue.len(), queue.iter().map(<[u8]>::len).sum::<usize>());
                match cuts.next() {
                    Some(cut) if cut % 3 == 0 => got.extend(queue.pop().unwrap_or_default()),
                    Some(cut) if cut % 3 == 1 => got.extend(queue.pop_at_most(cut).unwrap_or_default()),
                    Some(cut) => {
                        got.extend(queue.iter().flatten().take(cut).copied().collect::<Vec<_>>());
                        queue.advance(cut);
                    }
                    None => {}
                }
            }
            while let Some(piece) = queue.pop() {
                got.extend(piece);
            }
            prop_assert!(queue.is_empty());
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn small_pieces_fill_blocks(sizes in prop::collection::vec(1..SMALL, 1..400)) {
            let mut queue = Pieces::new();
            sizes.iter().for_each(|&size| queue.copy(&vec![7; size]));
            let len = queue.len();
            let blocks = queue.into_pieces();
            prop_assert!(blocks.iter().all(|block| block.len() <= BLOCK));
            prop_assert!(blocks.len() <= len / (BLOCK - SMALL) + 1, "{} blocks for {len} bytes", blocks.len());
        }
    }

    #[test]
    fn a_long_piece_is_not_copied() {
        let (mut queue, piece) = (Pieces::new(), Bytes::from(vec![7; SMALL]));
        queue.copy(b"before");
        queue.push(piece.clone());
        assert_eq!(queue.pop().as_deref(), Some(b"before".as_slice()));
        assert_eq!(queue.pop().map(|same| same.as_ptr()), Some(piece.as_ptr()));
    }

    #[test]
    fn copied_piece_is_modified_independently() {
        for len in [3, SMALL] {
            let mut queue = Pieces::new();
            queue.copy(b"abc");
            queue.copy_with(&vec![7; len], |copy| copy.fill(1));
            let all: Vec<u8> = queue.iter().flatten().copied().collect();
            assert_eq!(all, [b"abc".as_slice(), &vec![1; len]].concat());
        }
    }
}
