//! The events of a peer for its application.
//!
//! It decides which progress is reported, and that exactly one event ends a transfer: later events are dropped,
//! except for the reason why this side still waits.
//! Timer: [`PROGRESS_EVERY`] between two progress events. Bounds: [`MAX_EVENTS`] events wait, in addition to one of
//! each kind.

use std::collections::VecDeque;
use std::time::Duration;

use super::Peer;
use super::event::{Event, Summary, WaitingFor};
use super::pace::Pace;
use crate::Instant;
use crate::node::Node;
use crate::transfer::Progress;
use crate::transfer::manifest::Totals;
use crate::wire::peer::Placement;

/// Progress is reported at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Events that may wait for the application, in addition to one of each kind; the transfer does not wait for the
/// application to take them.
const MAX_EVENTS: usize = 64;

/// The queue of events for the application.
#[derive(Default)]
pub(super) struct Outbox {
    events: VecDeque<Event>,
    /// The terminal event was queued, and may have been taken.
    ended: bool,
    /// The progress that was reported last.
    progress: Progress,
    pace: Pace,
    placement: Placement,
    next_progress: Option<Instant>,
}

impl Outbox {
    /// Queues an event. After the terminal event only [`Event::Waiting`] and [`Event::Reconnecting`] are queued.
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
            // An application that reads rarely needs only the latest event of each kind.
            let kind = std::mem::discriminant(&event);
            let is_older = |waiting: &Event| event.is_repeatable() && std::mem::discriminant(waiting) == kind;
            if let Some(older) = self.events.iter().position(is_older) {
                self.events.remove(older);
            }
        }
        self.events.push_back(event);
    }

    /// Queues the terminal event. Returns false if there was one already.
    pub fn end(&mut self, event: Event) -> bool {
        let first = !self.ended;
        self.notify(event);
        self.ended = true;
        first
    }

    /// Whether the terminal event was queued.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reports the progress if it changed and the last report is old enough.
    pub fn notify_progress(&mut self, now: Instant, progress: Progress) {
        if progress != self.progress && self.next_progress.is_none() && !self.ended {
            self.progress = progress;
            self.next_progress = Some(now + PROGRESS_EVERY);
            let progress = self.pace.measure(now, progress);
            self.notify(Event::Progress(progress));
        }
    }

    /// Reports the progress immediately before the end, however recent the last report is.
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

    /// Stored chunks of an earlier attempt are hashed again.
    pub fn notify_resuming(&mut self) {
        self.pace.handle_resuming();
        self.notify(Event::Resuming);
    }

    /// This many bytes are stored from an earlier attempt.
    pub fn notify_resumed(&mut self, bytes: u64) {
        self.pace.handle_resumed(bytes);
        self.notify(Event::Resumed { bytes });
    }

    /// Stores how the receiver has placed the entries, for [`Event::Done`].
    pub const fn note_placement(&mut self, placement: Placement) {
        self.placement = placement;
    }

    /// Queues [`Event::Done`].
    pub fn end_well(&mut self, totals: Totals, duration: Duration, root: [u8; 32]) {
        let resumed = self.pace.resumed().min(totals.bytes);
        self.end(Event::Done(Summary { totals, resumed, duration, root, placement: self.placement }));
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
