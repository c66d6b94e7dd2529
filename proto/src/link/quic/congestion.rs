//! Congestion control by delivery rate: how much a connection may have in flight.
//!
//! Decides the window from a model of the path, as BBR does: the rate at which the path delivers and its round trip. Loss does
//! not shrink the model, so a lossy path keeps its speed; but loss beyond [`LOSSY`] takes away the headroom above the model, so a
//! path with small buffers is not flooded. It is written for quinn-proto's pacer, which sends 1.25 windows per round trip: its
//! own BBR relies on a pacing rate that this pacer does not have, and loses half of all packets where buffers are smaller than
//! the path's product of bandwidth and delay. The figures are in `docs/decisions.md`.
//!
//! ```text
//! startup: the window doubles per round trip ── the rate stopped growing, or loss ──→ steady
//! steady:  window = rate × (round trip × (1.1 + 0.9 × headroom) + 4 ms × headroom)
//!    │ ↑ no round trip as short as the known one for ten seconds: is it still the same?
//!    ↓ │ a round, 200 ms at least
//! probe:   half the product, so that queues drain and the round trip shows
//! ```
//! Anything → startup after persistent congestion (RFC 9002 §7.6). Rounds last a round trip, [`ROUND`] at least. No timers;
//! bounded by ten rates.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

use crate::Instant;

/// Rounds whose best rate counts.
const ROUNDS: usize = 10;
/// The shortest round: on a fast machine a round trip is less than the scheduler's whims.
const ROUND: Duration = Duration::from_millis(5);
/// How long a round trip is believed to be the path's shortest.
const ROUND_TRIP_LIFE: Duration = Duration::from_secs(10);
/// How long the window stays small to find it again.
const PROBE: Duration = Duration::from_millis(200);
/// The part of a round's bytes whose loss says that a buffer overflows.
const LOSSY: f64 = 0.02;
/// What is in flight beyond the model at least: tolerates loss up to 9 %, and finds a rate that grows.
const GAIN: f64 = 1.1;
/// And what headroom adds: room to hold one's own against flows that fill buffers.
const HEADROOM: f64 = 0.9;
/// Bunched acknowledgements and late wake-ups look like a longer path.
const SLACK: f64 = 0.004;
/// Growth of the rate per round below which startup is over, the third time.
const PLATEAU: f64 = 1.25;
/// In startup, at most this many products of rate and round trip.
const STARTUP_GAIN: f64 = 2.9;
/// Packets in flight at first (RFC 9002 §7.2 says 10; measured networks take more, and so do the large web servers) and at least.
const INITIAL: u64 = 32;
const MINIMUM: u64 = 4;
/// A batch of packets that is larger holds more than an acknowledgement, in bytes.
const ACKNOWLEDGEMENT: u64 = 200;

/// Makes [`DeliveryRate`]s.
#[derive(Debug, Default)]
pub(super) struct DeliveryRateConfig;

impl ControllerFactory for DeliveryRateConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(DeliveryRate::new(now, u64::from(current_mtu)))
    }
}

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct DeliveryRate {
    mtu: u64,
    window: u64,
    phase: Phase,
    round: Round,
    /// Bytes per second of the last rounds, in no order.
    rates: [f64; ROUNDS],
    next_rate: usize,
    round_trip: Option<RoundTrip>,
    /// From 0 to 1.
    headroom: f64,
    pulse: Pulse,
}

/// What a connection sees of its controller, and of the copies that the library makes of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<Beat>);

#[derive(Debug, Default)]
struct Beat {
    /// Packets that were acknowledged.
    acknowledged: AtomicU64,
    /// Something is on its way that will be.
    unanswered: AtomicBool,
    /// Packets go out whatever is in flight.
    open: AtomicBool,
}

impl Pulse {
    /// The one of a controller, if it is one of these.
    pub(super) fn of(controller: &dyn Controller) -> Option<Self> {
        controller.clone_box().into_any().downcast::<DeliveryRate>().ok().map(|controller| controller.pulse)
    }

    /// How many packets were acknowledged, if an acknowledgement is waited for.
    pub(super) fn waits_since(&self) -> Option<u64> {
        self.0.unanswered.load(Ordering::Relaxed).then(|| self.0.acknowledged.load(Ordering::Relaxed))
    }

    /// Something goes out that will be acknowledged.
    pub(super) fn wait(&self) {
        self.0.unanswered.store(true, Ordering::Relaxed);
    }

    /// Whether packets go out whatever is in flight.
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
    /// A packet of this round was acknowledged.
    returned: bool,
    /// The application had nothing to send for a while, so the rate is its own and not the path's.
    limited: bool,
    /// A router marked a packet instead of dropping it (RFC 3168).
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
            pulse: Pulse::default(),
        }
    }

    /// Bytes per second that the path delivers.
    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// So many bytes are sent in this many seconds, within bounds.
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
        // A single packet of a small round proves nothing.
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
            self.pulse.wait();
        }
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _: &RttEstimator) {
        self.pulse.0.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.pulse.0.unanswered.store(false, Ordering::Relaxed);
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
            self.pulse.wait();
        }
        self.round.limited |= app_limited;
        if self.round.returned && now.saturating_duration_since(self.round.start) >= ROUND {
            self.end_round(now);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, _: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        if is_persistent_congestion {
            *self = Self { headroom: self.headroom, pulse: self.pulse.clone(), ..Self::new(now, self.mtu) };
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
        if self.pulse.0.open.load(Ordering::Relaxed) { u64::MAX } else { self.window }
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

/// Exact below 2^53, and close enough beyond.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "there is no other conversion")]
const fn float(count: u64) -> f64 {
    count as f64
}

/// Saturates; not a number is 0.
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
#[path = "congestion_tests.rs"]
mod tests;
