//! Decides when a connection without response sends an additional probe packet.
//!
//! quinn-proto sends probes after a probe timeout (PTO) that doubles each time and has no bound (RFC 9002 §6.2.1):
//! after an outage of 5 s it may take up to 8 s more until data flows. This module decides when the connection sends
//! one more packet, regardless of the bytes in flight. Its acknowledgement shows that the path works again, and the
//! lost data is retransmitted. Packets that acknowledge nothing new do not count as a response; they may be the peer's
//! own probes.
//! ```text
//! Heard ──timer──► Quiet ──timer, no acknowledgement between──► Suspect ──every [`EVERY`], 2 RTT or more──► a packet
//!   ▲               │                                                │
//!   └───────────────┴──── an acknowledgement, or none is due ────────┘
//! ```
//! An idle connection waits for no acknowledgement and sends no probes. Bounds: one packet each time, until the
//! connection is lost.

use std::time::Duration;

use crate::Instant;

/// The minimum interval between two such packets.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// The state of the detection; the module's documentation has a diagram. `since` is a number of acknowledged packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    Heard,
    Quiet { since: u64, from: Instant },
    Suspect { since: u64, next: Instant },
}

impl Silence {
    /// A timer of the connection fired. `waits_since` is the number of acknowledged packets, if the connection waits
    /// for another acknowledgement. Returns true if the connection must send a packet now.
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

    /// When the next probe is due, if no acknowledgement arrives until then.
    #[must_use]
    pub(super) fn poll_timeout(&self, waits_since: impl FnOnce() -> Option<u64>) -> Option<Instant> {
        match *self {
            Self::Suspect { since, next } if Some(since) == waits_since() => Some(next),
            Self::Heard | Self::Quiet { .. } | Self::Suspect { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
