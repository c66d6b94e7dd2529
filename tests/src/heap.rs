//! Measures how much heap a piece of code keeps, for tests that compare a stated bound with what the allocator paid.
//!
//! A test binary that measures installs the counting allocator, once:
//! ```
//! use tallow_tests::heap::{self, Heap};
//!
//! #[global_allocator]
//! static ALLOCATOR: &heap::Allocator = heap::ALLOCATOR;
//!
//! let heap = Heap::measure();
//! let kept = vec![0_u8; 1 << 20];
//! assert!((1 << 20..2 << 20).contains(&heap.growth()));
//! drop(kept);
//! assert!(heap.growth() < 1 << 10);
//! assert!(heap.peak() >= 1 << 20);
//! ```
//! The counters belong to the process. So measurements of one binary exclude each other, each test of it begins with
//! [`Heap::measure`], and what it sets up first is left out by [`Heap::restart`].

use std::alloc::System;
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// The type of the counting allocator.
pub type Allocator = StatsAlloc<System>;

/// The counting allocator: the system's own, with counters.
pub static ALLOCATOR: &Allocator = &INSTRUMENTED_SYSTEM;

/// What a block costs beside the bytes that were asked for: an allocator's header and rounding.
pub const BLOCK: usize = 16;

/// What the test harness may allocate meanwhile: it starts and ends the threads of other tests, and keeps their output.
pub const HARNESS: usize = 32 << 10;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One measurement. While it lives, no other one begins.
#[derive(Debug)]
pub struct Heap {
    before: Cell<usize>,
    peak: Cell<usize>,
    _alone: MutexGuard<'static, ()>,
}

impl Heap {
    /// Begins to measure from what is allocated now.
    ///
    /// # Panics
    /// When the binary has not installed [`ALLOCATOR`]: nothing would be counted.
    #[must_use]
    pub fn measure() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(live() > 0, "this binary does not use the counting allocator");
        Self { before: Cell::new(live()), peak: Cell::new(0), _alone: alone }
    }

    /// Measures from what is allocated now.
    pub fn restart(&self) {
        self.peak.set(0);
        self.before.set(live());
    }

    /// Bytes that are allocated now and were not at the start, [`BLOCK`] for each block included.
    #[must_use]
    pub fn growth(&self) -> usize {
        let growth = live().saturating_sub(self.before.get());
        self.peak.set(self.peak.get().max(growth));
        growth
    }

    /// The largest [`Self::growth`] that was asked for so far.
    #[must_use]
    pub const fn peak(&self) -> usize {
        self.peak.get()
    }

    /// Checks that the heap has grown by at most twice the bound, the tolerance of these tests, and [`HARNESS`].
    ///
    /// # Panics
    /// When it has grown by more.
    pub fn assert_within_twice(&self, bound: usize, what: &str) {
        let growth = self.growth();
        assert!(growth <= 2 * bound + HARNESS, "{what}: {growth} bytes are live, the stated bound is {bound}");
    }
}

fn live() -> usize {
    let stats = INSTRUMENTED_SYSTEM.stats();
    let bytes = stats.bytes_allocated.saturating_sub(stats.bytes_deallocated);
    bytes + BLOCK * stats.allocations.saturating_sub(stats.deallocations)
}
