//! Whether a leg that waits is alive, before another one is paired with it.
//!
//! ```text
//! a client asks for a seat beside a leg that waits
//!   └─ that leg was heard a moment ago ──────────────────────────────► it joins
//!   └─ checking ──anything arrives on it, or it is gone──────────────► it joins
//!          └──────nothing within [`ANSWER_WITHIN`]: it is closed ────► it joins
//! ```
//! A process that was killed says nothing on QUIC, and its connection would look alive until the idle timeout; so would
//! a machine that lost its network. The one who joins is told what is true then: that none waits there. It costs each
//! pairing the round trip to the leg that waits. Timer: [`ANSWER_WITHIN`]. Bound: one entry for each leg that asks.

use std::time::Duration;

use super::super::registry::Key;
use super::{Leg, Relay, State, Timer};
use crate::Instant;
use crate::link::connections::ConnectionId;
use crate::room::farewell::Farewell;
use crate::wire::close;
use crate::wire::relay::{Owner, Role};

/// How long a leg that waits may take to answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A leg that was heard so recently is not asked.
const FRESH: Duration = Duration::from_millis(250);

/// A join that waits for the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Join {
    pub(super) leg: ConnectionId,
    pub(super) key: Key,
    pub(super) role: Role,
    pub(super) owner: Owner,
}

impl Relay {
    /// Joins at once, or after the leg that waits there has shown that it is alive.
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

    /// A leg that was asked is alive, or gone: whoever waited for that joins.
    pub(super) fn checked(&mut self, leg: ConnectionId) {
        if let Some(joins) = self.checks.remove(&leg) {
            self.timers.set(Timer::Check(leg), None);
            self.joins.extend(joins);
        }
    }

    /// A leg that was asked has not answered.
    pub(super) fn unanswered(&mut self, now: Instant, leg: ConnectionId) {
        if self.checks.contains_key(&leg) {
            self.cut_off(now, leg, Farewell { code: close::TOO_SLOW, text: "no answer" });
        }
    }

    /// Joins that were held up.
    pub(super) fn join_checked(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(leg) = self.ports.connections.poll_answered() {
            self.checked(leg);
        }
        while let Some(join) = self.joins.pop_front() {
            moved = true;
            // It may have left meanwhile.
            if let Some(Leg { state: State::Talking { room: None, .. }, .. }) = self.legs.get(&join.leg) {
                self.join(now, join);
                self.converse(now, join.leg);
            }
        }
        moved
    }
}
