//! How large the windows of a pair are; they follow measurements.
//!
//! Both windows of a direction start with [`WINDOW`] and follow the rate at which the other leg receives: twice the
//! bytes that it acknowledged in a round trip, [`MAX_WINDOW`] at most. Everything beyond [`WINDOW`] is taken from one
//! [`Budget`] that all pairs share. Windows shrink when the rate falls. Small pieces need more memory than their bytes
//! ([`PIECE`]), so the writer's window is smaller while pieces are small.
//!
//! The relay sees no acknowledgements of a TCP connection. Bytes that the system accepted count as received by the
//! other leg, except for the first [`SYSTEM`] bytes, which may only fill the system's buffers. Those buffers also cover
//! the round trips of the path, so a TCP connection's windows need be no larger than the bytes that move between two
//! checks. No timers of its own.

use std::time::Duration;

use super::{BATCH, Context, SMALL};
use crate::Instant;
use crate::link::connections::ConnectionId;

/// The initial size of both windows of a direction, in bytes.
pub const WINDOW: u64 = 64 << 10;
/// The largest size of a window, in bytes.
pub const MAX_WINDOW: u64 = 16 << 20;
/// How much the system may buffer for a TCP connection before the other side reads (tcp(7): `tcp_wmem`). Bytes up to
/// this number do not show that the peer receives.
const SYSTEM: u64 = 4 << 20;
/// The memory that a piece needs in addition to its bytes.
pub(super) const PIECE: u64 = 128;
/// The smallest window of the writer, in bytes.
pub(super) const MIN_WINDOW: u64 = 2 << 10;
/// The shortest time between two adaptations of the windows.
const ROUND: Duration = Duration::from_millis(2);
/// The lower limit of a measured round trip. Below it, pauses of the machine matter more than the network.
const TRIP: Duration = Duration::from_micros(500);

/// The memory that the windows of all pairs together may still take beyond [`WINDOW`] each, in bytes.
#[derive(Debug)]
pub struct Budget(pub u64);

impl Budget {
    fn take(&mut self, wanted: u64) -> u64 {
        let given = wanted.min(self.0);
        self.0 = self.0.saturating_sub(given);
        given
    }

    pub(super) fn give_back(&mut self, bytes: u64) {
        self.0 = self.0.saturating_add(bytes);
    }
}

/// The bytes and pieces that were written.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Moved {
    pub(super) bytes: u64,
    pub(super) pieces: u64,
}

/// The two windows of a direction: how much the sending leg may have unread, and how much the receiving leg may have
/// unacknowledged.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) size: u64,
    /// The writer's window; it is smaller while pieces are small.
    send: u64,
    /// The start of the current round, and its length.
    since: Instant,
    round: Duration,
    moved: Moved,
    /// The bytes of this round that the other leg acknowledged.
    pub(super) proven: u64,
    /// The number of further bytes that only fill the windows and buffers.
    pub(super) unproven: u64,
}

impl Window {
    pub(super) const fn new(now: Instant, to: ConnectionId) -> Self {
        let moved = Moved { bytes: 0, pieces: 0 };
        let unproven = if to.is_tcp() { WINDOW + SYSTEM } else { WINDOW };
        Self { size: WINDOW, send: WINDOW, since: now, round: ROUND, moved, proven: 0, unproven }
    }

    /// Counts written bytes. Adapts the windows at the end of a round, and at once when there are many small pieces.
    pub(super) fn follow(&mut self, outside: &mut Context<'_>, from: ConnectionId, to: ConnectionId, moved: Moved) {
        self.proven = self.proven.saturating_add(moved.bytes.saturating_sub(self.unproven));
        self.unproven = self.unproven.saturating_sub(moved.bytes);
        self.moved.bytes = self.moved.bytes.saturating_add(moved.bytes);
        self.moved.pieces = self.moved.pieces.saturating_add(moved.pieces);
        let elapsed = outside.now.saturating_duration_since(self.since);
        let over = elapsed >= self.round;
        if !over && self.moved.pieces < WINDOW / PIECE {
            return;
        }
        let (old_size, old_send) = (self.size, self.send);
        if over {
            let trip = outside.ports.rtt(from).max(outside.ports.rtt(to)).max(TRIP);
            self.resize(trip, elapsed, outside.budget);
            self.round = trip.max(ROUND);
        }
        self.send = fit(self.size, self.moved);
        if over {
            (self.since, self.moved, self.proven) = (outside.now, Moved::default(), 0);
        }
        if old_size != self.size {
            outside.ports.connections.set_receive_window(from, self.size);
        }
        if old_send != self.send {
            outside.ports.connections.set_send_window(to, self.send);
        }
    }

    /// The most that may be buffered between the two legs, in bytes.
    pub(super) fn held(&self) -> usize {
        usize::try_from(self.size / 4).unwrap_or(BATCH)
    }

    /// Sets the size to twice what was acknowledged in a round trip, as far as the budget allows. It shrinks in steps.
    pub(super) fn resize(&mut self, trip: Duration, elapsed: Duration, budget: &mut Budget) {
        let per_trip = u128::from(self.proven).saturating_mul(trip.as_nanos()).checked_div(elapsed.as_nanos());
        let wanted = u64::try_from(per_trip.unwrap_or(0).saturating_mul(2)).unwrap_or(MAX_WINDOW);
        let wanted = wanted.clamp(WINDOW, MAX_WINDOW);
        if wanted > self.size {
            let more = budget.take(wanted.saturating_sub(self.size));
            self.size = self.size.saturating_add(more);
            self.unproven = self.unproven.saturating_add(more);
        } else if wanted <= self.size / 2 || wanted == WINDOW {
            let smaller = (self.size / 2).max(wanted);
            budget.give_back(self.size.saturating_sub(smaller));
            self.size = smaller;
        }
    }
}

/// The writer's window for pieces of this size, so that small pieces take no more memory than large ones.
pub(super) fn fit(size: u64, moved: Moved) -> u64 {
    let Moved { bytes, pieces } = moved;
    if bytes >= pieces.saturating_mul(SMALL as u64) {
        return size;
    }
    let taken = u128::from(bytes).saturating_add(u128::from(pieces).saturating_mul(u128::from(PIECE)));
    let share = u128::from(size).saturating_mul(u128::from(bytes)).checked_div(taken).unwrap_or(0);
    u64::try_from(share).unwrap_or(size).max(MIN_WINDOW)
}
