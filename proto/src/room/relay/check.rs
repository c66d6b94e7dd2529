//! Whether a waiting leg is alive, before another leg is paired with it.
//!
//! ```text
//! a client asks for a seat beside a leg that waits
//!   └─ that leg sent something a moment ago ──────────────────────────► it joins
//!   └─ checking ──anything arrives on it, or it is closed────────────► it joins
//!          └──────nothing within [`ANSWER_WITHIN`]: it is closed ────► it joins
//! ```
//! When a process is killed, its QUIC connection looks alive until the idle timeout; the same is true when a machine
//! loses its network. With this check, a client that joins gets the true answer: no sender waits there. The check costs
//! each pairing one round trip to the waiting leg. Timer: [`ANSWER_WITHIN`]. Bound: one entry for each leg that joins.

use std::time::Duration;

use super::super::registry::Key;
use super::{Leg, Relay, State, Timer};
use crate::Instant;
use crate::link::connections::ConnectionId;
use crate::room::farewell::Farewell;
use crate::wire::close;
use crate::wire::relay::{Owner, Role};

/// How long a waiting leg may take to answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// If a packet arrived from the leg within this time, the relay does not probe it.
const FRESH: Duration = Duration::from_millis(250);

/// A join that waits for the result of a check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Join {
    pub(super) leg: ConnectionId,
    pub(super) key: Key,
    pub(super) role: Role,
    pub(super) owner: Owner,
}

impl Relay {
    /// Joins at once, or after the waiting leg has shown that it is alive.
    pub(super) fn check_and_join(&mut self, now: Instant, join: Join) {
        let Some(waits) = self.registry.waits_for(join.key, join.role) else { return self.join(now, join) };
        if let Some(joins) = self.checks.get_mut(&waits) {
            return joins.push(join);
        }
        let fresh = now.checked_sub(FRESH).unwrap_or(now);
        if !self.ports.connections.probe(now, waits, fresh) {
            return self.join(now, join);
        }
        self.checks.insert(waits, vec![join]);
        self.timers.set(Timer::Check(waits), now.checked_add(ANSWER_WITHIN));
    }

    /// The check of a leg is complete, because it answered or was removed: the joins that waited for it continue.
    pub(super) fn checked(&mut self, leg: ConnectionId) {
        if let Some(joins) = self.checks.remove(&leg) {
            self.timers.set(Timer::Check(leg), None);
            self.joins.extend(joins);
        }
    }

    /// A leg did not answer its probe in time.
    pub(super) fn unanswered(&mut self, now: Instant, leg: ConnectionId) {
        if self.checks.contains_key(&leg) {
            self.abort(now, leg, Farewell { code: close::TOO_SLOW, text: "no answer" });
        }
    }

    /// Continues the joins whose check is complete.
    pub(super) fn join_checked(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(leg) = self.ports.connections.poll_answered() {
            self.checked(leg);
        }
        while let Some(join) = self.joins.pop_front() {
            moved = true;
            // The client may have left in the meantime.
            if let Some(Leg { state: State::Talking { room: None, .. }, .. }) = self.legs.get(&join.leg) {
                self.join(now, join);
                self.converse(now, join.leg);
            }
        }
        moved
    }
}
