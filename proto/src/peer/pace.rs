//! The rate of a transfer: how much is new, since when, and how fast over the last seconds.
//!
//! Bound: [`SAMPLES`] samples. No timers: it is computed whenever progress is reported.

use std::collections::VecDeque;
use std::time::Duration;

use super::event::Progress;
use crate::{Instant, transfer};

/// The rate is averaged over this time.
const WINDOW: Duration = Duration::from_secs(3);
/// A rate over a shorter time is meaningless.
const LEAST: Duration = Duration::from_millis(200);
/// How many samples are kept; one is taken every tenth of a second.
const SAMPLES: usize = 32;

/// Measures the rate of a transfer.
#[derive(Debug, Default)]
pub(super) struct Pace {
    started: Option<Instant>,
    /// Stored chunks are being hashed again: nothing was transferred for them now.
    is_resuming: bool,
    resumed: u64,
    /// Bytes transferred at each instant, the oldest first.
    samples: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// The offer was accepted.
    pub(super) fn start(&mut self, now: Instant) {
        self.started.get_or_insert(now);
    }

    /// Stored chunks of an earlier attempt are hashed again.
    pub(super) const fn handle_resuming(&mut self) {
        self.is_resuming = true;
    }

    /// This many bytes were confirmed as stored from an earlier attempt.
    pub(super) const fn handle_resumed(&mut self, bytes: u64) {
        self.is_resuming = false;
        self.resumed = bytes;
    }

    /// Bytes that were stored before this transfer.
    pub(super) const fn resumed(&self) -> u64 {
        self.resumed
    }

    /// The progress with rate and elapsed time.
    pub(super) fn measure(&mut self, now: Instant, progress: transfer::Progress) -> Progress {
        let transfer::Progress { bytes, total } = progress;
        if self.is_resuming {
            self.resumed = bytes;
        }
        let moved = bytes.saturating_sub(self.resumed);
        let elapsed = self.started.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let rate = self.started.and_then(|_| self.rate(now, moved));
        Progress { bytes, total, resumed: self.resumed.min(bytes), elapsed, rate }
    }

    fn rate(&mut self, now: Instant, moved: u64) -> Option<u64> {
        while let [_, (second, _), ..] = self.samples.make_contiguous()
            && (now.saturating_duration_since(*second) > WINDOW || self.samples.len() >= SAMPLES)
        {
            self.samples.pop_front();
        }
        let (since, before) = *self.samples.front().or(self.started.map(|at| (at, 0)).as_ref())?;
        self.samples.push_back((now, moved));
        let took = now.saturating_duration_since(since);
        let moved = u128::from(moved.saturating_sub(before));
        let rate = moved.saturating_mul(1_000_000).checked_div(took.as_micros());
        rate.filter(|_| took >= LEAST).map(|rate| u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn rate_is_measured_over_last_seconds() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let told =
            |pace: &mut Pace, ms, bytes| pace.measure(at(start, ms), transfer::Progress { bytes, total: 1 << 30 });
        assert_eq!(told(&mut pace, 0, 0).rate, None, "nothing was accepted");
        pace.start(start);
        assert_eq!(told(&mut pace, 100, 100_000).rate, None, "too early");
        for step in 2..=100_u64 {
            let progress = told(&mut pace, step * 100, step * 100_000);
            assert_eq!(progress.rate.filter(|_| step > 3).unwrap_or(1_000_000), 1_000_000, "{step}");
        }
        // No progress for a few seconds: the earlier rate no longer counts.
        for step in 101..=140_u64 {
            told(&mut pace, step * 100, 10_000_000);
        }
        let last = told(&mut pace, 14_100, 10_000_000);
        assert_eq!((last.rate, last.elapsed), (Some(0), Duration::from_millis(14_100)));
        assert!(pace.samples.len() <= SAMPLES);
    }

    #[test]
    fn resumed_bytes_do_not_count_for_rate() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let told =
            |pace: &mut Pace, ms, bytes| pace.measure(at(start, ms), transfer::Progress { bytes, total: 1 << 30 });
        pace.start(start);
        pace.handle_resuming();
        let hashing = told(&mut pace, 500, 400 << 20);
        assert_eq!((hashing.resumed, hashing.rate), (400 << 20, Some(0)));
        pace.handle_resumed(300 << 20);
        let going = told(&mut pace, 1_000, 301 << 20);
        assert_eq!((going.bytes, going.resumed), (301 << 20, 300 << 20));
        assert_eq!(going.rate, Some(2 << 20), "one MiB in half a second");
    }
}
