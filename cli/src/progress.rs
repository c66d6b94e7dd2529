//! Shows the progress of a transfer: the bytes that the receiver has, the speed over the last seconds, and the
//! remaining time.
//!
//! On a terminal this is a progress bar; otherwise, or with `--no-progress`, a line every [`LINE_EVERY`]. The text
//! shows when a transfer makes no progress.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::canvas::Canvas;
use crate::output::{BarStyle, Event, Output, size, time};

/// The speed is averaged over this time.
const SPEED_OVER: Duration = Duration::from_secs(5);
/// The interval of progress lines.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The interval of JSON events.
const EVENT_EVERY: Duration = Duration::from_millis(500);
/// A transfer without a new byte for this long is shown as stalled.
const STANDS_AFTER: Duration = Duration::from_secs(3);

/// Shows progress.
#[derive(Debug)]
pub struct Meter {
    output: Output,
    bar: Option<ProgressBar>,
    next_line: Option<Instant>,
    next_event: Option<Instant>,
    speed: Speed,
    bytes: u64,
    total: u64,
    /// The total is unknown.
    endless: bool,
    path: String,
}

impl Meter {
    /// Creates a meter that shows nothing before [`Meter::start`].
    #[must_use]
    pub fn new(output: &Output) -> Self {
        Self {
            output: output.clone(),
            bar: None,
            next_line: None,
            next_event: None,
            speed: Speed::default(),
            bytes: 0,
            total: 0,
            endless: false,
            path: String::new(),
        }
    }

    /// Starts the display.
    pub fn start(&mut self, now: Instant, total: u64) {
        self.total = total;
        self.speed.add(now, 0);
        self.next_event = Some(now);
        match self.output.bar_style() {
            Some(BarStyle::Bar) => {
                let target = ProgressDrawTarget::term_like_with_hz(Box::new(Canvas::default()), 10);
                let bar = ProgressBar::with_draw_target(Some(total.max(1)), target);
                let template = if self.endless { "{msg}" } else { "{bar:24} {msg}" };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
                }
                self.output.set_bar(Some(bar.clone()));
                self.bar = Some(bar);
                self.draw(now);
            }
            Some(BarStyle::Lines) => self.next_line = Some(now + LINE_EVERY),
            None => {}
        }
    }

    /// Sets whether the total is unknown.
    pub const fn set_endless(&mut self, endless: bool) {
        self.endless = endless;
    }

    /// Sets the name of the connection's path.
    pub fn set_path(&mut self, path: &str) {
        self.path = path.to_owned();
    }

    /// Sets the number of bytes that the receiver has.
    pub fn set(&mut self, now: Instant, bytes: u64, total: u64) {
        self.bytes = bytes;
        self.total = total;
        self.speed.add(now, bytes);
        self.tick(now);
    }

    /// Updates the display when time has passed.
    pub fn tick(&mut self, now: Instant) {
        self.draw(now);
        if self.next_line.is_some_and(|at| now >= at) {
            self.next_line = Some(now + LINE_EVERY);
            self.output.line(&self.text(now));
        }
        if self.next_event.is_some_and(|at| now >= at) {
            self.next_event = Some(now + EVENT_EVERY);
            self.emit(now);
        }
    }

    /// Removes the bar and emits a last event.
    pub fn finish(&mut self, now: Instant) {
        if self.next_event.take().is_some() {
            self.emit(now);
        }
        self.next_line = None;
        self.output.set_bar(None);
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn emit(&self, now: Instant) {
        let rate = self.speed.per_second(now);
        self.output.event(&Event::Progress { bytes: self.bytes, total: self.total, rate });
    }

    fn draw(&self, now: Instant) {
        if let Some(bar) = &self.bar {
            bar.set_length(self.total.max(1));
            bar.set_position(if self.total == 0 { 1 } else { self.bytes });
            bar.set_message(self.text(now));
        }
    }

    fn text(&self, now: Instant) -> String {
        let percent = if self.total == 0 { 100 } else { u128::from(self.bytes) * 100 / u128::from(self.total) };
        let path = if self.path.is_empty() { String::new() } else { format!(", {}", self.path) };
        if self.endless {
            let rate = self.speed.per_second(now);
            let is_silent = rate == 0 || self.speed.still_for(now) >= STANDS_AFTER;
            let rate = if is_silent { String::new() } else { format!(", {}/s", size(rate)) };
            return format!("{}{rate}{path}", size(self.bytes));
        }
        let left = self.total.saturating_sub(self.bytes);
        let amount = format!("{percent:>3}%  {} of {}", size(self.bytes), size(self.total));
        if left == 0 {
            return format!("{amount}, verifying{path}");
        }
        let stands = self.speed.still_for(now);
        if stands >= STANDS_AFTER {
            return format!("{amount}, no data for {}{path}", time(stands.as_secs()));
        }
        match self.speed.per_second(now) {
            0 => format!("{amount}{path}"),
            rate => format!("{amount}, {}/s, {} left{path}", size(rate), time(left.div_ceil(rate))),
        }
    }
}

/// Measures bytes per second over the last [`SPEED_OVER`].
#[derive(Debug, Default)]
struct Speed {
    samples: VecDeque<(Instant, u64)>,
    moved: Option<Instant>,
}

impl Speed {
    fn add(&mut self, now: Instant, bytes: u64) {
        if self.samples.back().is_none_or(|&(_, last)| bytes > last) {
            self.moved = Some(now);
        }
        // Ten samples per second are enough for an average over seconds.
        match self.samples.back() {
            Some(&(at, _)) if self.samples.len() > 1 && now.duration_since(at) < Duration::from_millis(100) => {
                self.samples.pop_back();
                self.samples.push_back((at, bytes));
            }
            _ => self.samples.push_back((now, bytes)),
        }
        // One sample from before the window is kept, so that the samples cover the whole window.
        while self.samples.get(1).is_some_and(|&(at, _)| now.duration_since(at) >= SPEED_OVER) {
            self.samples.pop_front();
        }
    }

    fn per_second(&self, now: Instant) -> u64 {
        let (Some(&(from, first)), Some(&(_, last))) = (self.samples.front(), self.samples.back()) else { return 0 };
        let span = now.duration_since(from).max(Duration::from_millis(100));
        (last.saturating_sub(first) as f64 / span.as_secs_f64()) as u64
    }

    fn still_for(&self, now: Instant) -> Duration {
        self.moved.map_or(Duration::ZERO, |at| now.duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        Meter::new(&Output::plain(false))
    }

    #[test]
    fn the_speed_is_averaged_over_the_last_seconds() {
        let start = Instant::now();
        let mut speed = Speed::default();
        // 1,000 bytes a second for 20 s, then 100.
        for tenth in 0..200 {
            speed.add(start + Duration::from_millis(100 * tenth), 100 * tenth);
        }
        let now = start + Duration::from_millis(19_900);
        assert!((950..=1050).contains(&speed.per_second(now)), "{}", speed.per_second(now));
        for tenth in 200..300 {
            speed.add(start + Duration::from_millis(100 * tenth), 20_000 + 10 * (tenth - 200));
        }
        let now = start + Duration::from_millis(29_900);
        assert!((90..=110).contains(&speed.per_second(now)), "{}", speed.per_second(now));
        assert!(speed.samples.len() < 60);
    }

    #[test]
    fn a_stalled_transfer_is_shown_as_stalled() {
        let start = Instant::now();
        let mut meter = meter();
        meter.start(start, 1000);
        meter.set(start + Duration::from_secs(1), 500, 1000);
        assert!(meter.text(start + Duration::from_secs(1)).contains("500 B/s, 1 s left"), "{}", meter.text(start));
        assert!(meter.text(start + Duration::from_secs(8)).contains("no data for 7 s"));
        // The same count again is not progress.
        meter.set(start + Duration::from_secs(8), 500, 1000);
        assert!(meter.text(start + Duration::from_secs(8)).contains("no data for 7 s"));
    }

    #[test]
    fn a_stream_has_no_percent_and_no_end() {
        let start = Instant::now();
        let mut meter = meter();
        meter.set_endless(true);
        meter.start(start, 0);
        assert_eq!(meter.text(start), "0 B");
        meter.set_path("lan");
        meter.set(start + Duration::from_secs(1), 2048, 0);
        assert_eq!(meter.text(start + Duration::from_secs(1)), "2.0 KiB, 2.0 KiB/s, lan");
        // The source of a stream may be silent, which is not a stall.
        assert_eq!(meter.text(start + Duration::from_secs(60)), "2.0 KiB, lan");
    }

    #[test]
    fn all_bytes_received_is_shown_as_verifying() {
        let start = Instant::now();
        let mut meter = meter();
        meter.start(start, 1000);
        meter.set_path("relay quic");
        meter.set(start, 1000, 1000);
        assert_eq!(meter.text(start), "100%  1000 B of 1000 B, verifying, relay quic");
        meter.start(start, 0);
        meter.set(start, 0, 0);
        assert!(meter.text(start).starts_with("100%"));
    }

    #[test]
    fn progress_shows_100_percent_only_for_all_bytes() {
        let start = Instant::now();
        let mut meter = meter();
        meter.start(start, u64::MAX);
        meter.set(start, u64::MAX - 1, u64::MAX);
        assert!(meter.text(start).starts_with(" 99%"));
    }
}
