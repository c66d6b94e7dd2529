//! The events of a peer for its application.
//!
//! It decides which progress is told, and that exactly one event ends a transfer: what comes after that one is dropped.
//! Timer: [`PROGRESS_EVERY`] between two reports of progress. Bounds: [`MAX_EVENTS`] events wait, beside one of each
//! kind.

use std::collections::VecDeque;
use std::time::Duration;

use super::event::Event;
use crate::Instant;
use crate::transfer::Progress;

/// Progress is reported at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Events that may wait for the application, beside one of each kind; the transfer itself waits for none of them.
const MAX_EVENTS: usize = 64;

/// See the module's text.
#[derive(Default)]
pub(super) struct Outbox {
    events: VecDeque<Event>,
    /// The terminal event is queued, or was taken.
    ended: bool,
    /// As it was reported last.
    progress: Progress,
    next_progress: Option<Instant>,
}

impl Outbox {
    /// Queues an event, unless the terminal one came before.
    pub fn notify(&mut self, event: Event) {
        if self.ended {
            return;
        }
        if let (Event::Progress(_), Some(last @ Event::Progress(_))) = (&event, self.events.back_mut()) {
            *last = event;
            return;
        }
        if self.events.len() >= MAX_EVENTS {
            if matches!(event, Event::Progress(_)) {
                return;
            }
            // The latest of each kind is what an application that reads seldom needs.
            let kind = std::mem::discriminant(&event);
            let is_older = |waiting: &Event| event.is_repeatable() && std::mem::discriminant(waiting) == kind;
            if let Some(older) = self.events.iter().position(is_older) {
                self.events.remove(older);
            }
        }
        self.events.push_back(event);
    }

    /// Queues the terminal event. False: there was one already.
    pub fn end(&mut self, event: Event) -> bool {
        let first = !self.ended;
        self.notify(event);
        self.ended = true;
        first
    }

    /// Whether the terminal event is queued, or was taken.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reports progress, if it changed and the last report is old enough.
    pub fn notify_progress(&mut self, now: Instant, progress: Progress) {
        if progress != self.progress && self.next_progress.is_none() && !self.ended {
            self.progress = progress;
            self.next_progress = Some(now + PROGRESS_EVERY);
            self.notify(Event::Progress(progress));
        }
    }

    /// Reports the last progress before the end, however old the last report is.
    pub fn notify_last_progress(&mut self, progress: Progress) {
        if progress != self.progress && progress.total > 0 {
            self.progress = progress;
            self.notify(Event::Progress(progress));
        }
    }

    /// The deadline may have come. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_progress.is_some_and(|at| at <= now) {
            self.next_progress = None;
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.next_progress
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
