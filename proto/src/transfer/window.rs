//! How much the sender may have under way: the bytes of chunks that are being made, wait, or were sent and not
//! acknowledged.
//!
//! It starts with [`START`] chunks and grows by what is acknowledged while it was what held the sender back, up to what
//! the receiver's credit allows and [`CREDIT`] at most: below it the links control congestion, so it only has to cover
//! bandwidth × delay. A chunk counts with the bytes of its frame and [`EACH`] more, on both sides alike, so that a
//! flood of tiny ones is bounded too. An acknowledgement that tells nothing new costs the receiver nothing, so
//! [`STALE`] of them in a row end the transfer.

use crate::wire::Violation;

/// The most bytes of chunks that are sent and not acknowledged, all links together.
pub const CREDIT: u32 = 32 << 20;
/// How many chunks may be under way at the start.
pub const START: u64 = 8;
/// What a chunk counts beside the bytes of its frame.
pub const EACH: u64 = 1 << 10;
/// The most acknowledgements in a row that tell nothing new.
pub const STALE: u32 = 1000;
/// What a frame has beside a chunk's plaintext, in bytes, at most.
pub const FRAMING: usize = 80;

/// What a chunk counts, whose frame has so many bytes.
#[must_use]
pub fn cost(wire_len: usize) -> u64 {
    (wire_len as u64).saturating_add(EACH)
}

/// The sender's window.
#[derive(Debug)]
pub struct Window {
    /// What has proven useful.
    size: u64,
    /// What the receiver allows.
    limit: u64,
    used: u64,
    /// The last chunk that wanted a place found none.
    was_full: bool,
    /// The most that a chunk can cost.
    most: u64,
    /// What the receiver said last.
    credit: u32,
    /// Acknowledgements in a row that told nothing new.
    stale: u32,
}

impl Window {
    /// For chunks that cost at most `most` each.
    pub fn new(most: u64, credit: u32) -> Self {
        let limit = u64::from(credit.min(CREDIT));
        let size = most.saturating_mul(START).min(CREDIT.into());
        Self { size, limit, used: 0, was_full: false, most, credit, stale: 0 }
    }

    /// Takes a place for a chunk that is not made yet, if there is one; gives what it takes.
    pub fn reserve_longest(&mut self) -> Option<u64> {
        self.reserve(self.most).then_some(self.most)
    }

    /// Takes a place for a chunk, if there is one.
    pub fn reserve(&mut self, cost: u64) -> bool {
        let used = self.used.saturating_add(cost);
        let fits = used <= self.size.min(self.limit);
        self.was_full = !fits;
        if fits {
            self.used = used;
        }
        fits
    }

    /// A chunk that had a place costs less than was thought, or is no more under way.
    pub fn release(&mut self, cost: u64) {
        self.used = self.used.saturating_sub(cost);
    }

    /// A chunk was acknowledged.
    pub fn acknowledge(&mut self, cost: u64) {
        self.release(cost);
        if self.was_full {
            self.size = self.size.saturating_add(cost).min(CREDIT.into());
        }
    }

    /// An acknowledgement came with this credit. `has_news`: it acknowledged something.
    pub fn handle_ack(&mut self, credit: u32, has_news: bool) -> Result<(), Violation> {
        self.stale = if has_news || credit != self.credit { 0 } else { self.stale.saturating_add(1) };
        self.credit = credit;
        self.set_credit(credit);
        if self.stale > STALE { Err(Violation::Repeats) } else { Ok(()) }
    }

    /// A link is gone: the receiver may say again what it said on it.
    pub const fn handle_lost(&mut self) {
        self.stale = 0;
    }

    fn set_credit(&mut self, credit: u32) {
        self.limit = credit.min(CREDIT).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_grows_under_pressure_up_to_credit() {
        let mut window = Window::new(100, 2000);
        assert_eq!((0..20).filter(|_| window.reserve(100)).count(), 8);
        (0..8).for_each(|_| window.acknowledge(100));
        window.set_credit(2000);
        assert_eq!((0..40).filter(|_| window.reserve(100)).count(), 16);
        (0..16).for_each(|_| window.acknowledge(100));
        window.set_credit(2000);
        assert_eq!((0..40).filter(|_| window.reserve(100)).count(), 20);
        (0..20).for_each(|_| window.acknowledge(100));
        window.set_credit(300);
        assert_eq!((0..40).filter(|_| window.reserve(100)).count(), 3);
        window.set_credit(0);
        assert!(!window.reserve(1));
        window.set_credit(2000);
        assert_eq!((0..40).filter(|_| window.reserve(100)).count(), 17, "what was lent out comes back");
    }

    #[test]
    fn window_does_not_grow_without_pressure() {
        let mut window = Window::new(100, u32::MAX);
        for _ in 0..50 {
            assert!(window.reserve(100));
            window.acknowledge(100);
            window.set_credit(u32::MAX);
        }
        assert_eq!(window.size, 800);
    }

    #[test]
    fn window_never_exceeds_its_bound() {
        let mut window = Window::new(u64::MAX, u32::MAX);
        assert!(window.reserve(CREDIT.into()));
        assert!(!window.reserve(1));
        window.release(1);
        assert!(window.reserve(1));
    }
}
