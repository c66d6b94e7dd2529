//! Congestion control by delivery rate: it determines how many bytes a connection may have in flight.
//!
//! It computes the window from a model of the path, as BBR does: the delivery rate and the round-trip time. Loss does
//! not reduce the model, so a lossy path keeps its speed; but loss above [`LOSSY`] removes the headroom above the
//! model, so that the controller does not flood a path with small buffers. It is made for quinn-proto's pacer, which
//! sends 1.25 windows per round trip. quinn-proto's own BBR needs a pacing rate, which this pacer does not have, and
//! loses half of all packets where buffers are smaller than the bandwidth-delay product. The figures are in
//! `docs/decisions.md`.
//!
//! ```text
//! startup: the window doubles per round trip ── the rate stops growing, or loss ──→ steady
//! steady:  window = rate × (round trip × (1.1 + 0.9 × headroom) + 4 ms × headroom)
//!    │ ↑ no round trip as short as the known minimum for ten seconds
//!    ↓ │ a round, 200 ms at least
//! probe:   half the bandwidth-delay product, so that queues drain and the path's round trip can be measured
//! ```
//! Any state → startup after persistent congestion (RFC 9002 §7.6). A round lasts one round trip, at least [`ROUND`].
//! No timers. Bound: ten rates.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

use crate::Instant;

/// The delivery rate is the maximum of this many rounds.
const ROUNDS: usize = 10;
/// Minimum duration of a round: on a fast path, a round trip is shorter than the scheduler's jitter.
const ROUND: Duration = Duration::from_millis(5);
/// How long a measured minimum of the round-trip time is valid.
const ROUND_TRIP_LIFE: Duration = Duration::from_secs(10);
/// How long the window stays small to measure the minimum again.
const PROBE: Duration = Duration::from_millis(200);
/// The loss rate of a round above which a buffer is assumed to overflow.
const LOSSY: f64 = 0.02;
/// The minimum gain of the window over the model: it tolerates a loss of up to 9 % and detects a growing rate.
const GAIN: f64 = 1.1;
/// The gain that full headroom adds, to compete with flows that fill buffers.
const HEADROOM: f64 = 0.9;
/// Seconds added to the round-trip time for aggregated acknowledgements and late wake-ups.
const SLACK: f64 = 0.004;
/// Startup ends when the rate grows by less than this factor per round for the third time.
const PLATEAU: f64 = 1.25;
/// Maximum window in startup, in bandwidth-delay products.
const STARTUP_GAIN: f64 = 2.9;
/// The initial window, and the minimum window, in packets (RFC 9002 §7.2 recommends 10; measured networks tolerate
/// more, and large web servers use more).
const INITIAL: u64 = 32;
const MINIMUM: u64 = 4;
/// A larger batch of packets contains more than acknowledgements, in bytes.
const ACKNOWLEDGEMENT: u64 = 200;

/// Creates a [`DeliveryRate`] for each connection.
#[derive(Debug, Default)]
pub(super) struct DeliveryRateConfig;

impl ControllerFactory for DeliveryRateConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(DeliveryRate::new(now, u64::from(current_mtu)))
    }
}

/// The congestion controller; the module's documentation describes it.
#[derive(Debug, Clone)]
pub(super) struct DeliveryRate {
    mtu: u64,
    window: u64,
    phase: Phase,
    round: Round,
    /// The delivery rates of the last rounds in bytes per second, in no order.
    rates: [f64; ROUNDS],
    next_rate: usize,
    round_trip: Option<RoundTrip>,
    /// The headroom, from 0 to 1.
    headroom: f64,
    acks: AckCounter,
}

/// The state that a connection shares with its congestion controller, and with the copies that quinn-proto makes of it.
#[derive(Debug, Clone, Default)]
pub(super) struct AckCounter(Arc<Acks>);

#[derive(Debug, Default)]
struct Acks {
    /// The number of acknowledged packets.
    acknowledged: AtomicU64,
    /// Whether an ack-eliciting packet was sent after the last acknowledgement.
    unanswered: AtomicBool,
    /// Whether the window is unlimited, so that a packet can be sent regardless of the bytes in flight.
    open: AtomicBool,
}

impl AckCounter {
    /// The counter of a controller, if the controller is a [`DeliveryRate`].
    pub(super) fn of(controller: &dyn Controller) -> Option<Self> {
        controller.clone_box().into_any().downcast::<DeliveryRate>().ok().map(|controller| controller.acks)
    }

    /// The number of acknowledged packets, if the connection waits for an acknowledgement.
    pub(super) fn waits_since(&self) -> Option<u64> {
        self.0.unanswered.load(Ordering::Relaxed).then(|| self.0.acknowledged.load(Ordering::Relaxed))
    }

    /// Records that data will be sent that the peer must acknowledge.
    pub(super) fn wait(&self) {
        self.0.unanswered.store(true, Ordering::Relaxed);
    }

    /// Sets whether packets may be sent regardless of the bytes in flight.
    pub(super) fn set_open(&self, open: bool) {
        self.0.open.store(open, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Startup { best: f64, plateaus: u8 },
    Steady,
    Probe { since: Instant },
}

#[derive(Debug, Clone, Copy)]
struct Round {
    start: Instant,
    delivered: u64,
    lost: u64,
    /// Whether a packet of this round was acknowledged.
    returned: bool,
    /// Whether the application limited the rate by sending less than it could.
    limited: bool,
    /// Whether a router marked a packet with ECN-CE (RFC 3168).
    marked: bool,
}

#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    shortest: Duration,
    seen: Instant,
}

impl Round {
    const fn new(start: Instant) -> Self {
        Self { start, delivered: 0, lost: 0, returned: false, limited: false, marked: false }
    }
}

impl DeliveryRate {
    fn new(now: Instant, mtu: u64) -> Self {
        Self {
            mtu,
            window: mtu.saturating_mul(INITIAL),
            phase: Phase::Startup { best: 0.0, plateaus: 0 },
            round: Round::new(now),
            rates: [0.0; ROUNDS],
            next_rate: 0,
            round_trip: None,
            headroom: 1.0,
            acks: AckCounter::default(),
        }
    }

    /// The delivery rate of the path in bytes per second.
    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// The bytes that the path delivers in this many seconds, within the bounds of the window.
    fn window_for(&self, seconds: f64) -> u64 {
        bytes(self.rate() * seconds).max(self.mtu.saturating_mul(MINIMUM))
    }

    fn shortest(&self) -> f64 {
        self.round_trip.map_or(0.0, |round_trip| round_trip.shortest.as_secs_f64())
    }

    fn end_round(&mut self, now: Instant) {
        let round = std::mem::replace(&mut self.round, Round::new(now));
        let rate = float(round.delivered) / now.saturating_duration_since(round.start).as_secs_f64();
        if !round.limited || rate > self.rate() {
            if let Some(place) = self.rates.get_mut(self.next_rate) {
                *place = rate;
            }
            self.next_rate = self.next_rate.wrapping_add(1).checked_rem(ROUNDS).unwrap_or(0);
        }
        let lost = float(round.lost) / float(round.lost.saturating_add(round.delivered).max(1));
        // The loss of a single packet of a small round is not significant.
        let lossy = round.marked || (lost > LOSSY && round.lost > self.mtu.saturating_mul(2));
        if lossy {
            self.headroom *= 0.7;
        } else if !round.limited {
            self.headroom = (self.headroom + 0.04).min(1.0);
        }
        self.phase = match self.phase {
            Phase::Startup { .. } if lossy => Phase::Steady,
            Phase::Startup { best, plateaus } if round.limited => Phase::Startup { best, plateaus },
            Phase::Startup { best, .. } if rate >= best * PLATEAU => Phase::Startup { best: rate, plateaus: 0 },
            Phase::Startup { plateaus: 2.., .. } => Phase::Steady,
            Phase::Startup { best, plateaus } => Phase::Startup { best, plateaus: plateaus.saturating_add(1) },
            Phase::Steady if self.is_stale(now) => {
                self.round_trip = None;
                Phase::Probe { since: now }
            }
            Phase::Probe { since } if now.saturating_duration_since(since) < PROBE => Phase::Probe { since },
            Phase::Steady | Phase::Probe { .. } => Phase::Steady,
        };
        match self.phase {
            Phase::Startup { .. } => {}
            Phase::Steady => {
                let seconds = self.shortest() * (GAIN + HEADROOM * self.headroom) + SLACK * self.headroom;
                self.window = self.window_for(seconds);
            }
            Phase::Probe { since } if since == now => {
                self.window = (self.window / 4).max(self.mtu.saturating_mul(MINIMUM));
            }
            Phase::Probe { .. } => {}
        }
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.round_trip.is_none_or(|round_trip| now.saturating_duration_since(round_trip.seen) > ROUND_TRIP_LIFE)
    }
}

impl Controller for DeliveryRate {
    fn on_sent(&mut self, _: Instant, bytes: u64, _: u64) {
        if bytes > ACKNOWLEDGEMENT {
            self.acks.wait();
        }
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _: &RttEstimator) {
        self.acks.0.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.acks.0.unanswered.store(false, Ordering::Relaxed);
        let taken = now.saturating_duration_since(sent);
        if self.round_trip.is_none_or(|round_trip| taken <= round_trip.shortest) {
            self.round_trip = Some(RoundTrip { shortest: taken, seen: now });
        }
        self.round.delivered = self.round.delivered.saturating_add(bytes);
        self.round.limited |= app_limited;
        self.round.returned |= sent >= self.round.start;
        match self.phase {
            Phase::Startup { best, .. } if !app_limited => {
                let grown = self.window.saturating_add(bytes);
                let enough = (best > 0.0).then(|| self.window_for(STARTUP_GAIN * (self.shortest() + SLACK)));
                self.window = enough.map_or(grown, |enough| grown.min(enough.max(self.window)));
            }
            Phase::Startup { .. } | Phase::Steady | Phase::Probe { .. } => {}
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        if in_flight > 0 {
            self.acks.wait();
        }
        self.round.limited |= app_limited;
        if self.round.returned && now.saturating_duration_since(self.round.start) >= ROUND {
            self.end_round(now);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, _: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        if is_persistent_congestion {
            *self = Self { headroom: self.headroom, acks: self.acks.clone(), ..Self::new(now, self.mtu) };
            return;
        }
        self.round.lost = self.round.lost.saturating_add(lost_bytes);
        self.round.marked |= lost_bytes == 0;
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.window = self.window.max(self.mtu.saturating_mul(MINIMUM));
    }

    fn window(&self) -> u64 {
        if self.acks.0.open.load(Ordering::Relaxed) { u64::MAX } else { self.window }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.mtu.saturating_mul(INITIAL)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Converts to a float: exact below 2^53, and sufficiently exact above.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "there is no other conversion")]
const fn float(count: u64) -> f64 {
    count as f64
}

/// Converts to an integer: saturating, and NaN gives 0.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "there is no other"
)]
const fn bytes(count: f64) -> u64 {
    count as u64
}

#[cfg(test)]
mod tests;
