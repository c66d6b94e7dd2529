//! The hashes of a transfer's chunks: added to the root hash as the prefix grows, and kept only as long as they are
//! needed.
//!
//! `root = BLAKE3::derive_key("tallow v1 root", manifest digest ‖ u64 chunks, big-endian ‖ chunk hashes in order)`.
//! Bounds: hashes beyond the prefix only for chunks less than [`AHEAD`] beyond it, and those of the last [`AHEAD`]
//! chunks of the prefix, to recognise a chunk that is sent twice: 2 MiB and about 4 MiB at most. A resumed transfer
//! also holds the hashes of chunks from an earlier transfer, at most [`super::journal::MOST`], until the prefix
//! reaches them.

use std::collections::{BTreeMap, VecDeque};

use subtle::ConstantTimeEq;

use crate::wire::peer::ChunkRange;

/// No chunk may be sent that is this many chunks or more beyond the first missing one.
pub const AHEAD: u64 = 1 << 16;

/// The hash of a chunk's plaintext.
pub type Hash = [u8; 32];

/// The hashes of one transfer.
pub struct Hashes {
    chunks: u64,
    /// How many hashes were added to the root.
    prefix: u64,
    root: blake3::Hasher,
    beyond: BTreeMap<u64, Hash>,
    /// Hashes of chunks that a receiver has from an earlier transfer, until the sender has compared them.
    kept: BTreeMap<u64, Hash>,
    /// The first chunk that is neither in the prefix nor in one of these maps.
    missing: u64,
    /// The hashes of the last chunks of the prefix.
    recent: VecDeque<Hash>,
}

/// What a chunk's hash shows about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The chunk is new.
    New,
    /// The chunk is new in this transfer, and the same contents are stored from an earlier one.
    Kept,
    /// The chunk arrived before, with the same contents (or so long ago that it makes no difference).
    Again,
    /// The chunk arrived before, with other contents.
    Changed,
    /// There is no such chunk, or it is too far ahead.
    Beyond,
}

impl Hashes {
    /// No hashes.
    pub fn new(manifest: &[u8; 32], chunks: u64) -> Self {
        let mut root = blake3::Hasher::new_derive_key("tallow v1 root");
        root.update(manifest).update(&chunks.to_be_bytes());
        let (beyond, kept) = (BTreeMap::new(), BTreeMap::new());
        Self { chunks, prefix: 0, root, beyond, kept, missing: 0, recent: VecDeque::new() }
    }

    /// Records the hash of a chunk.
    pub fn claim(&mut self, chunk: u64, hash: &Hash) -> Claim {
        if chunk >= self.chunks || chunk >= self.missing.saturating_add(AHEAD) {
            return Claim::Beyond;
        }
        if let Some(back) = self.prefix.checked_sub(chunk).filter(|back| *back > 0) {
            let at = usize::try_from(back).ok().and_then(|back| self.recent.len().checked_sub(back));
            let before = at.and_then(|at| self.recent.get(at));
            return before.map_or(Claim::Again, |before| same(before, hash));
        }
        if let Some(before) = self.beyond.get(&chunk) {
            return same(before, hash);
        }
        let kept = self.kept.remove(&chunk).is_some_and(|kept| bool::from(kept.ct_eq(hash)));
        self.insert(chunk, *hash);
        if kept { Claim::Kept } else { Claim::New }
    }

    /// The recorded hash of a chunk; `None`: there is none, or it is so old that it was dropped.
    pub fn get(&self, chunk: u64) -> Option<Hash> {
        match self.prefix.checked_sub(chunk).filter(|back| *back > 0) {
            Some(back) => {
                let at = usize::try_from(back).ok().and_then(|back| self.recent.len().checked_sub(back))?;
                self.recent.get(at).copied()
            }
            None => self.beyond.get(&chunk).copied(),
        }
    }

    /// Records the hash of a chunk that this side has from an earlier transfer. Until the other side has agreed, the
    /// chunk may be replaced.
    pub fn keep(&mut self, chunk: u64, hash: Hash) {
        self.kept.insert(chunk, hash);
        self.seek();
    }

    /// The other side has the same bytes in this range. Returns false if not all of it is kept here.
    pub fn confirm(&mut self, range: ChunkRange) -> bool {
        for chunk in range.first..=range.last {
            let Some(hash) = self.kept.remove(&chunk) else { return false };
            self.insert(chunk, hash);
        }
        true
    }

    /// The other side has other bytes in this range: it will send them.
    pub fn forget(&mut self, range: ChunkRange) {
        for chunk in range.first..=range.last {
            if self.kept.remove(&chunk).is_some() {
                self.missing = self.missing.min(chunk);
            }
        }
    }

    /// Records the hash of a chunk that both sides have from an earlier transfer. No hash of this chunk may have been
    /// recorded before.
    pub fn know(&mut self, chunk: u64, hash: Hash) {
        self.insert(chunk, hash);
    }

    fn insert(&mut self, chunk: u64, hash: Hash) {
        self.beyond.insert(chunk, hash);
        while let Some(hash) = self.beyond.remove(&self.prefix) {
            self.root.update(&hash);
            self.prefix = self.prefix.saturating_add(1);
            self.recent.push_back(hash);
            if self.recent.len() as u64 > AHEAD {
                self.recent.pop_front();
            }
        }
        self.seek();
    }

    fn seek(&mut self) {
        self.missing = self.missing.max(self.prefix);
        while self.beyond.contains_key(&self.missing) || self.kept.contains_key(&self.missing) {
            self.missing = self.missing.saturating_add(1);
        }
    }

    /// The root, once all chunks are known.
    pub fn root(&self) -> Option<Hash> {
        (self.prefix == self.chunks).then(|| *self.root.finalize().as_bytes())
    }
}

fn same(before: &Hash, hash: &Hash) -> Claim {
    if bool::from(before.ct_eq(hash)) { Claim::Again } else { Claim::Changed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_does_not_depend_on_the_order_of_arrival() {
        let hash = |chunk: u64| *blake3::hash(&chunk.to_be_bytes()).as_bytes();
        let root = |order: &[u64]| {
            let mut hashes = Hashes::new(&[1; 32], 5);
            for chunk in order {
                assert_eq!(hashes.root(), None);
                assert_eq!(hashes.claim(*chunk, &hash(*chunk)), Claim::New);
                assert_eq!(hashes.claim(*chunk, &hash(*chunk)), Claim::Again);
                assert_eq!(hashes.claim(*chunk, &[0; 32]), Claim::Changed);
                assert_eq!((hashes.get(*chunk), hashes.get(5)), (Some(hash(*chunk)), None));
            }
            hashes.root().unwrap()
        };
        let mut whole = blake3::Hasher::new_derive_key("tallow v1 root");
        whole.update(&[1; 32]).update(&5_u64.to_be_bytes());
        for chunk in 0..5 {
            whole.update(&hash(chunk));
        }
        assert_eq!(root(&[0, 1, 2, 3, 4]), *whole.finalize().as_bytes());
        assert_eq!(root(&[4, 2, 0, 3, 1]), *whole.finalize().as_bytes());
        assert!(Hashes::new(&[1; 32], 0).root().is_some());
    }

    #[test]
    fn p06_chunk_beyond_window_is_not_recorded() {
        let mut hashes = Hashes::new(&[1; 32], AHEAD * 2);
        for chunk in [1 << 63, u64::MAX, AHEAD * 2, AHEAD] {
            assert_eq!(hashes.claim(chunk, &[0; 32]), Claim::Beyond);
        }
        assert_eq!(hashes.claim(AHEAD - 1, &[0; 32]), Claim::New);
        assert_eq!(hashes.claim(0, &[0; 32]), Claim::New);
        assert_eq!(hashes.claim(AHEAD, &[0; 32]), Claim::New);
        assert_eq!((hashes.beyond.len(), hashes.recent.len()), (2, 1));
    }

    #[test]
    fn kept_hash_can_be_replaced_until_confirmed() {
        let range = |first, last| ChunkRange { first, last };
        let hash = |chunk: u64| *blake3::hash(&chunk.to_be_bytes()).as_bytes();
        let mut hashes = Hashes::new(&[1; 32], AHEAD + 10);
        for chunk in 0..8 {
            hashes.keep(chunk, hash(chunk));
        }
        // Eight chunks are kept, so eight more may be ahead.
        assert_eq!(hashes.claim(AHEAD + 7, &hash(AHEAD + 7)), Claim::New);
        assert_eq!(hashes.claim(AHEAD + 8, &[0; 32]), Claim::Beyond);
        assert_eq!(hashes.claim(1, &hash(1)), Claim::Kept);
        assert_eq!(hashes.claim(1, &hash(1)), Claim::Again);
        assert_eq!(hashes.claim(2, &[2; 32]), Claim::New, "replaced");
        assert_eq!(hashes.claim(2, &hash(2)), Claim::Changed);
        assert!(!hashes.confirm(range(0, 3)), "some of it came again");
        hashes.forget(range(4, 5));
        assert_eq!((hashes.missing, hashes.kept.len()), (4, 3));
        assert!(hashes.confirm(range(6, 7)));
        assert_eq!(hashes.claim(6, &[3; 32]), Claim::Changed, "confirmed");
        for chunk in [3, 4, 5] {
            let claim = hashes.claim(chunk, &hash(chunk));
            assert_eq!(claim, if chunk == 3 { Claim::Kept } else { Claim::New });
        }
        assert_eq!((hashes.prefix, hashes.kept.len(), hashes.missing), (8, 0, 8));
    }

    #[test]
    fn only_the_last_hashes_are_kept() {
        let mut hashes = Hashes::new(&[1; 32], u64::MAX);
        for chunk in 0..AHEAD + 10 {
            assert_eq!(hashes.claim(chunk, &[2; 32]), Claim::New);
        }
        assert_eq!(hashes.recent.len() as u64, AHEAD);
        assert_eq!(hashes.claim(10, &[3; 32]), Claim::Changed);
        assert_eq!(hashes.claim(9, &[3; 32]), Claim::Again, "forgotten");
        assert_eq!((hashes.get(10), hashes.get(9)), (Some([2; 32]), None));
    }
}
