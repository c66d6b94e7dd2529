//! The events of a peer for its application.
//!
//! It decides which progress is told, and that exactly one event ends a transfer: what comes after that one is dropped,
//! but for why this side still waits.
//! Timer: [`PROGRESS_EVERY`] between two reports of progress. Bounds: [`MAX_EVENTS`] events wait, beside one of each
//! kind.

use std::collections::VecDeque;
use std::time::Duration;

use super::Peer;
use super::event::{Event, Summary, WaitingFor};
use super::pace::Pace;
use crate::Instant;
use crate::node::Node;
use crate::transfer::Progress;
use crate::transfer::differences::Differences;
use crate::transfer::manifest::Totals;

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
    pace: Pace,
    next_progress: Option<Instant>,
}

impl Outbox {
    /// Queues an event. After the terminal one only the reason why this side still waits is queued.
    pub fn notify(&mut self, event: Event) {
        if self.ended && !matches!(event, Event::Waiting(WaitingFor::Peer) | Event::Reconnecting { .. }) {
            return;
        }
        if let Some(last) = self.events.back_mut()
            && <Peer as Node>::supersedes(&event, last)
        {
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
            let progress = self.pace.measure(now, progress);
            self.notify(Event::Progress(progress));
        }
    }

    /// Reports the last progress before the end, however old the last report is.
    pub fn notify_last_progress(&mut self, now: Instant, progress: Progress) {
        if progress != self.progress && progress.total > 0 {
            self.progress = progress;
            let progress = self.pace.measure(now, progress);
            self.notify(Event::Progress(progress));
        }
    }

    /// The offer was accepted.
    pub fn notify_accepted(&mut self, now: Instant) {
        self.pace.start(now);
        self.notify(Event::Accepted);
    }

    /// What is stored from an earlier try is hashed again.
    pub fn notify_resuming(&mut self) {
        self.pace.handle_resuming();
        self.notify(Event::Resuming);
    }

    /// So much is there from an earlier try.
    pub fn notify_resumed(&mut self, bytes: u64) {
        self.pace.handle_resumed(bytes);
        self.notify(Event::Resumed { bytes });
    }

    /// The good end.
    pub fn end_well(&mut self, totals: Totals, differences: Differences, duration: Duration, root: [u8; 32]) {
        let resumed = self.pace.resumed().min(totals.bytes);
        self.end(Event::Done(Summary { totals, differences, resumed, duration, root }));
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
