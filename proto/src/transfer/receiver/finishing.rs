//! Everything is stored, and the sink puts it in place, slice by slice.
//!
//! First the sink is told which files are left out. Then it decides when the sink is asked for the next slice. A sink that needs no more slices than its entries explain is
//! asked again at once. One that needs more is overdue: it is asked again after [`PAUSE`], it can be cancelled, and
//! after [`LIMIT`] it has failed.
//!
//! Timers: [`PAUSE`] and [`LIMIT`]. Bound: one job out.

use std::sync::Arc;
use std::time::Duration;

use super::SLICE;
use crate::Instant;
use crate::transfer::Progress;
use crate::transfer::body::Staged;
use crate::transfer::entries::EntrySet;
use crate::transfer::hashes::Hash;
use crate::transfer::job::Work;
use crate::transfer::manifest::Manifest;
use crate::transfer::storage::Sink;

/// How long an overdue sink is left alone before it is asked for the next slice.
pub const PAUSE: Duration = Duration::from_millis(10);
/// How long a sink may be overdue.
pub const LIMIT: Duration = Duration::from_secs(600);
/// How many slices a sink may need beside those that its entries explain.
pub const MORE: u64 = 64;

/// See the module's text.
pub(super) struct Finishing {
    pub sink: Arc<dyn Sink>,
    manifest: Arc<Manifest>,
    /// Files that are left out, and the first of them that the sink was not told.
    failed: EntrySet,
    next_failed: u32,
    pub root: Hash,
    pub progress: Progress,
    /// How long the other side's `Bye` will be waited for; `None`: it is gone.
    pub farewell: Option<Duration>,
    turn: Turn,
    /// How many slices are left before the sink is overdue.
    left: u64,
    /// Until when an overdue sink has to be done.
    until: Option<Instant>,
}

/// Whose turn it is.
enum Turn {
    /// The next slice may be asked for.
    Next,
    /// A job has it.
    Out,
    /// The next slice may be asked for then.
    At(Instant),
}

impl Finishing {
    /// All of this is to be put in place.
    pub fn new(staged: Staged, root: Hash, progress: Progress) -> Self {
        let Staged { sink, manifest, failed } = staged;
        let entries = manifest.totals().entries;
        // Twice: entries in one pass, what depends on them in another.
        let left = u64::from(entries).div_ceil(SLICE as u64).saturating_mul(2).saturating_add(MORE);
        let farewell = Some(super::FAREWELL);
        Self { sink, manifest, failed, next_failed: 0, root, progress, farewell, turn: Turn::Next, left, until: None }
    }

    /// The next slice, if it is time for it.
    pub fn next(&mut self) -> Option<Work> {
        let Turn::Next = self.turn else { return None };
        self.turn = Turn::Out;
        let entries: Vec<u32> = self.failed.iter().filter(|entry| *entry >= self.next_failed).take(SLICE).collect();
        if let Some(last) = entries.last() {
            self.next_failed = last.saturating_add(1);
            let (sink, manifest) = (Arc::clone(&self.sink), Arc::clone(&self.manifest));
            return Some(Work::LeaveOut { sink, manifest, entries });
        }
        Some(Work::Finish { sink: Arc::clone(&self.sink), at_most: SLICE })
    }

    /// Some files were left out.
    pub const fn handle_left_out(&mut self) {
        self.turn = Turn::Next;
    }

    /// A slice was put in place, and it was not the last.
    pub fn handle_unfinished(&mut self, now: Instant) {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            self.turn = Turn::Next;
        } else {
            self.until = self.until.or_else(|| now.checked_add(LIMIT));
            self.turn = Turn::At(now.checked_add(PAUSE).unwrap_or(now));
        }
    }

    /// A deadline may have passed. True: the sink has failed.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if matches!(self.turn, Turn::At(at) if at <= now) {
            self.turn = Turn::Next;
        }
        !matches!(self.turn, Turn::Out) && self.until.is_some_and(|until| until <= now)
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if let Turn::At(at) = self.turn { Some(at) } else { None }
    }

    /// Whether the sink needs more slices than its entries explain.
    pub const fn is_overdue(&self) -> bool {
        self.until.is_some()
    }
}
