//! How much the sender may have in flight: the bytes of chunks that are being made, wait, or were sent and not
//! acknowledged.
//!
//! The window starts with [`START`] chunks and grows by the acknowledged bytes while it limits the sender, up to the
//! receiver's credit and at most [`CREDIT`]. The links control congestion, so the window only has to cover bandwidth
//! × delay. Both sides count a chunk as the bytes of its frame plus [`EACH`], so that a flood of tiny chunks is
//! bounded too. An acknowledgement without new chunks costs the receiver nothing, so [`STALE`] of them in a row end
//! the transfer.

use crate::wire::Violation;

/// The largest number of bytes of chunks that are sent and not acknowledged, all links together.
pub const CREDIT: u32 = 32 << 20;
/// How many chunks may be in flight at the start.
pub const START: u64 = 8;
/// What a chunk costs in addition to the bytes of its frame.
pub const EACH: u64 = 1 << 10;
/// The largest number of acknowledgements in a row without new chunks.
pub const STALE: u32 = 1000;
/// The largest difference between a frame and the plaintext of its chunk, in bytes.
pub const FRAMING: usize = 80;

/// The cost of a chunk whose frame has this many bytes.
#[must_use]
pub fn cost(wire_len: usize) -> u64 {
    (wire_len as u64).saturating_add(EACH)
}

/// The sender's window.
#[derive(Debug)]
pub struct Window {
    /// The size up to which it has grown.
    size: u64,
    /// The size that the receiver allows.
    limit: u64,
    used: u64,
    /// The last chunk that requested space found none.
    was_full: bool,
    /// The largest cost of a chunk.
    most: u64,
    /// The receiver's last credit.
    credit: u32,
    /// Acknowledgements in a row without new chunks.
    stale: u32,
}

impl Window {
    /// A window for chunks that cost at most `most` each.
    pub fn new(most: u64, credit: u32) -> Self {
        let limit = u64::from(credit.min(CREDIT));
        let size = most.saturating_mul(START).min(CREDIT.into());
        Self { size, limit, used: 0, was_full: false, most, credit, stale: 0 }
    }

    /// Reserves space for a chunk that is not made yet, if there is room; returns the reserved cost.
    pub fn reserve_longest(&mut self) -> Option<u64> {
        self.reserve(self.most).then_some(self.most)
    }

    /// Reserves space for a chunk, if there is room.
    pub fn reserve(&mut self, cost: u64) -> bool {
        let used = self.used.saturating_add(cost);
        let fits = used <= self.size.min(self.limit);
        self.was_full = !fits;
        if fits {
            self.used = used;
        }
        fits
    }

    /// A chunk with reserved space costs less than reserved, or is no longer in flight.
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

    /// An acknowledgement arrived with this credit. `has_news`: it acknowledged something new.
    pub fn handle_ack(&mut self, credit: u32, has_news: bool) -> Result<(), Violation> {
        self.stale = if has_news || credit != self.credit { 0 } else { self.stale.saturating_add(1) };
        self.credit = credit;
        self.set_credit(credit);
        if self.stale > STALE { Err(Violation::Repeats) } else { Ok(()) }
    }

    /// A link was lost: the receiver may repeat its acknowledgements.
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
