//! Everything is stored, and the sink moves the entries to their final names, slice by slice.
//!
//! First the sink is told which files are left out. Then it decides when the sink is called for the next slice. As long
//! as the number of calls is what the number of entries explains, the sink is called again at once. After that it is
//! overdue: it is called again after [`PAUSE`], the transfer can be cancelled, and after [`LIMIT`] it fails.
//!
//! Timers: [`PAUSE`] and [`LIMIT`]. Bound: one running job.

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

/// The pause before an overdue sink is called for the next slice.
pub const PAUSE: Duration = Duration::from_millis(10);
/// How long a sink may be overdue.
pub const LIMIT: Duration = Duration::from_secs(600);
/// How many slices a sink may need in addition to those that its entries explain.
pub const MORE: u64 = 64;

/// The state of the final phase.
pub(super) struct Finishing {
    pub sink: Arc<dyn Sink>,
    manifest: Arc<Manifest>,
    /// Files that are left out, and the first of them that the sink was not told.
    failed: EntrySet,
    next_failed: u32,
    pub root: Hash,
    pub progress: Progress,
    /// How long to wait for the other side's `Bye`; `None`: the other side is lost.
    pub farewell: Option<Duration>,
    turn: Turn,
    /// How many slices are left before the sink counts as overdue.
    left: u64,
    /// The deadline of an overdue sink.
    until: Option<Instant>,
}

/// The state of the next slice.
enum Turn {
    /// It may be requested.
    Next,
    /// A job runs.
    Out,
    /// It may be requested at this time.
    At(Instant),
}

impl Finishing {
    /// Starts the final phase.
    pub fn new(staged: Staged, root: Hash, progress: Progress) -> Self {
        let Staged { sink, manifest, failed } = staged;
        let entries = manifest.totals().entries;
        // Twice: entries in one pass, and what depends on them in another.
        let left = u64::from(entries).div_ceil(SLICE as u64).saturating_mul(2).saturating_add(MORE);
        let farewell = Some(super::FAREWELL);
        Self { sink, manifest, failed, next_failed: 0, root, progress, farewell, turn: Turn::Next, left, until: None }
    }

    /// The job for the next slice, if it is time for it.
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

    /// A slice was moved, and it was not the last one.
    pub fn handle_unfinished(&mut self, now: Instant) {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            self.turn = Turn::Next;
        } else {
            self.until = self.until.or_else(|| now.checked_add(LIMIT));
            self.turn = Turn::At(now.checked_add(PAUSE).unwrap_or(now));
        }
    }

    /// A deadline may have passed. Returns true if the sink has failed.
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
