//! Measures how much heap memory code keeps, for tests that compare a stated bound with what the allocator counted.
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
//! The counters belong to the process, and the standard test harness allocates for its own threads at any time. So
//! such a binary has no harness (`harness = false`) but the `main` of [`measured_tests!`](crate::measured_tests),
//! which runs one test after the other on one thread. [`Heap::restart`] excludes what a test sets up first.

use std::alloc::System;
use std::cell::Cell;
use std::panic::{UnwindSafe, catch_unwind};
use std::process::ExitCode;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// The type of the counting allocator.
pub type Allocator = StatsAlloc<System>;

/// The counting allocator: the system's own, with counters.
pub static ALLOCATOR: &Allocator = &INSTRUMENTED_SYSTEM;

/// The cost of a block besides the requested bytes: an allocator's header and rounding.
pub const BLOCK: usize = 16;

/// One measurement.
#[derive(Debug)]
pub struct Heap {
    before: Cell<usize>,
    peak: Cell<usize>,
}

impl Heap {
    /// Begins to measure from what is allocated now.
    ///
    /// # Panics
    /// If the binary has not installed [`ALLOCATOR`]: nothing would be counted.
    #[must_use]
    pub fn measure() -> Self {
        assert!(live() > 0, "this binary does not use the counting allocator");
        Self { before: Cell::new(live()), peak: Cell::new(0) }
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

    /// The largest result of [`Self::growth`] so far.
    #[must_use]
    pub const fn peak(&self) -> usize {
        self.peak.get()
    }

    /// Checks that the heap has grown by at most twice the bound, the tolerance of these tests.
    ///
    /// # Panics
    /// When it has grown by more.
    pub fn assert_within_twice(&self, bound: usize, what: &str) {
        let growth = self.growth();
        assert!(growth <= 2 * bound, "{what}: {growth} bytes are live, the stated bound is {bound}");
    }
}

fn live() -> usize {
    let stats = INSTRUMENTED_SYSTEM.stats();
    let bytes = stats.bytes_allocated.saturating_sub(stats.bytes_deallocated);
    bytes + BLOCK * stats.allocations.saturating_sub(stats.deallocations)
}

/// Makes the `main` of a test binary without a harness: these functions are its tests.
#[macro_export]
macro_rules! measured_tests {
    ($($test:ident),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::heap::run(&[$((stringify!($test), $test as fn())),*])
        }
    };
}

/// Runs the tests whose name contains the first argument that is no option, one after the other, and reports them as
/// the standard harness does.
#[must_use]
pub fn run<F: Fn() + Copy + UnwindSafe>(tests: &[(&str, F)]) -> ExitCode {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let chosen: Vec<_> = tests.iter().filter(|(name, _)| name.contains(&filter)).collect();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for (name, test) in &chosen {
        let is_ok = catch_unwind(*test).is_ok();
        failed += usize::from(!is_ok);
        println!("test {name} ... {}", if is_ok { "ok" } else { "FAILED" });
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {result}. {} passed; {failed} failed\n", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
