//! When a connection that gets no answer asks again.
//!
//! The library asks after a probe time-out that doubles each time and has no bound (RFC 9002 §6.2.1): a cable that was out for 5 s costs
//! up to 8 s more. Decides when one packet more is sent, whatever may be in flight: its acknowledgement shows that the path is back, and
//! what was lost meanwhile is sent again. What the other end says by itself is no answer, since it may be asking, too.
//! ```text
//! Heard ──timer──► Quiet ──timer, no acknowledgement in between──► Suspect ──every [`EVERY`], two round trips at least──► a packet
//!   ▲               │                                                │
//!   └───────────────┴──── an acknowledgement, or none is due ────────┘
//! ```
//! An idle connection waits for none, and stays as it is. Bounds: one packet each time, until the connection is lost.

use std::time::Duration;

use crate::Instant;

/// The pause between two such packets.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// See the module's text. `since` counts acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    Heard,
    Quiet { since: u64, from: Instant },
    Suspect { since: u64, next: Instant },
}

impl Silence {
    /// A timer fired. `waits_since`: how many acknowledgements there were, if another one is due. True: send something now.
    #[must_use]
    pub(super) fn handle_timeout(&mut self, now: Instant, waits_since: Option<u64>, round_trip: Duration) -> bool {
        let pause = EVERY.max(round_trip.saturating_mul(2));
        let (next, asks) = match (*self, waits_since) {
            (_, None) => (Self::Heard, false),
            (Self::Quiet { since, from }, Some(now_since)) if since == now_since => {
                (Self::Suspect { since, next: now.max(from + pause) }, false)
            }
            (Self::Suspect { since, next }, Some(now_since)) if since == now_since && next <= now => {
                (Self::Suspect { since, next: now + pause }, true)
            }
            (suspect @ Self::Suspect { since, .. }, Some(now_since)) if since == now_since => (suspect, false),
            (Self::Heard | Self::Quiet { .. } | Self::Suspect { .. }, Some(since)) => {
                (Self::Quiet { since, from: now }, false)
            }
        };
        *self = next;
        asks
    }

    /// When it may be time, if no acknowledgement comes until then.
    #[must_use]
    pub(super) fn poll_timeout(&self, waits_since: impl FnOnce() -> Option<u64>) -> Option<Instant> {
        match *self {
            Self::Suspect { since, next } if Some(since) == waits_since() => Some(next),
            Self::Heard | Self::Quiet { .. } | Self::Suspect { .. } => None,
        }
    }
}

#[cfg(test)]
#[path = "silence_tests.rs"]
mod tests;
