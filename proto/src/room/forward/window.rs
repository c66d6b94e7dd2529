//! How large the windows of a pair are: by evidence.
//!
//! Both windows of a direction begin with [`WINDOW`] and follow what the other leg really took: twice what it
//! acknowledged in a round trip, [`MAX_WINDOW`] at most, and what all pairs have beyond [`WINDOW`] comes out of one
//! [`Budget`]. When less moves they shrink. Small pieces cost more memory than they have bytes ([`PIECE`]), so while
//! they are small the writer's window is smaller by that.
//!
//! A TCP connection has no acknowledgements. What the system took counts as taken by the other leg, but for the first [`SYSTEM`]
//! bytes, which may only fill its buffers; those also stand for the path's round trips, so that a TCP connection's windows need
//! be no larger than what moves between two looks at it. No timers of its own.

use std::time::Duration;

use super::{BATCH, Context, SMALL};
use crate::Instant;
use crate::link::connections::ConnectionId;

/// The windows of a direction at first, in bytes.
pub const WINDOW: u64 = 64 << 10;
/// The largest they become, in bytes.
pub const MAX_WINDOW: u64 = 16 << 20;
/// What the system may take of a TCP connection before the other side reads (tcp(7): `tcp_wmem`): it proves nothing.
const SYSTEM: u64 = 4 << 20;
/// What a piece costs beside its bytes.
pub(super) const PIECE: u64 = 128;
/// The smallest window of a writer, in bytes.
pub(super) const MIN_WINDOW: u64 = 2 << 10;
/// The shortest time after which windows are judged again.
const ROUND: Duration = Duration::from_millis(2);
/// The shortest round trip that is believed: below it a machine's own pauses count for more than the network.
const TRIP: Duration = Duration::from_micros(500);

/// What all pairs together may have in windows beyond [`WINDOW`], in bytes.
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

/// What was written.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Moved {
    pub(super) bytes: u64,
    pub(super) pieces: u64,
}

/// The two windows of a direction: what the one leg may send before it is read, and what the
/// other may leave unacknowledged.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) size: u64,
    /// The writer's, smaller while pieces are small.
    send: u64,
    /// This round began then, and takes so long.
    since: Instant,
    round: Duration,
    moved: Moved,
    /// What of it the other leg has acknowledged, in bytes.
    pub(super) proven: u64,
    /// So many bytes more only fill the windows.
    pub(super) unproven: u64,
}

impl Window {
    pub(super) const fn new(now: Instant, to: ConnectionId) -> Self {
        let moved = Moved { bytes: 0, pieces: 0 };
        let unproven = if to.is_tcp() { WINDOW + SYSTEM } else { WINDOW };
        Self { size: WINDOW, send: WINDOW, since: now, round: ROUND, moved, proven: 0, unproven }
    }

    /// So much was written. At the end of a round the windows follow, and at once when there are many small pieces.
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

    /// How much may be held between the two, in bytes.
    pub(super) fn held(&self) -> usize {
        usize::try_from(self.size / 4).unwrap_or(BATCH)
    }

    /// Twice what was acknowledged in a round trip, as far as the budget allows; in steps towards less.
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

/// The writer's window, such that pieces of this size take no more memory than whole ones.
pub(super) fn fit(size: u64, moved: Moved) -> u64 {
    let Moved { bytes, pieces } = moved;
    if bytes >= pieces.saturating_mul(SMALL as u64) {
        return size;
    }
    let taken = u128::from(bytes).saturating_add(u128::from(pieces).saturating_mul(u128::from(PIECE)));
    let share = u128::from(size).saturating_mul(u128::from(bytes)).checked_div(taken).unwrap_or(0);
    u64::try_from(share).unwrap_or(size).max(MIN_WINDOW)
}
