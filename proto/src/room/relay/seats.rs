//! How a relay answers clients that are not paired: requests, seats, refusals.

use std::time::Duration;

use super::super::forward::{Context, Pair, PairMember};
use super::super::greeting::{Ending, GREET_WITHIN, Request};
use super::super::pending::{Step, text};
use super::super::registry::{Joined, Key, Outcome, Refusal, Replaced};
use super::super::status::{Event, Refused, RoomEnd, RoomTag};
use super::{
    ASK_AGAIN, Held, Join, Leg, NOT_READING, PairId, Paired, Phase, Proof, REFUSED, REPLACED, Relay, Room,
    SHUTTING_DOWN, STREAMS, State, Timer,
};
use crate::Instant;
use crate::link::connections::ConnectionId;
use crate::room::farewell::Farewell;
use crate::wire::close;
use crate::wire::relay::{Former, Owner, RefusalReason, RelayMessage, Role};

impl Relay {
    /// Continues the conversation with a leg that is not paired.
    pub(super) fn converse(&mut self, now: Instant, id: ConnectionId) {
        loop {
            let Some(Leg { state: State::Talking { talk, .. }, source, .. }) = self.legs.get_mut(&id) else { return };
            if self.password.is_some() {
                talk.set_wait(self.guard.may_guess(now, *source).err().map(in_seconds));
            }
            match talk.step(now, &mut self.ports, id) {
                Step::Waits => break,
                Step::Asks(request) => self.handle_request(now, id, request),
                Step::Left => return self.client_left(now, id),
                Step::Ends(ending) => self.end(now, id, ending),
                Step::Over(farewell) => return self.dismiss(now, id, farewell),
            }
        }
        if let Some(Leg { state: State::Talking { talk, .. }, .. }) = self.legs.get(&id) {
            self.timers.set(Timer::Leg(id), talk.poll_timeout());
        }
    }

    /// Handles a request, which may arrive before the handshake is complete.
    fn handle_request(&mut self, now: Instant, id: ConnectionId, request: Request) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Proof::Pending(held) = &mut leg.proof else { return self.answer(now, id, request) };
        match request {
            Request::Join { room, role, owner, again: true, .. }
                if self.registry.seat(Key { again: true, room }, role, &owner).is_some() =>
            {
                *held = Held::Request(request);
            }
            Request::Join { role, again: true, former, .. } => {
                *held = former.map_or(Held::Nothing, |former| Held::Former(role, former));
                self.timers.set(Timer::Proof(id), now.checked_add(GREET_WITHIN));
                self.answer(now, id, request);
            }
            Request::Join { again: false, .. } | Request::Allocate { .. } | Request::Leave | Request::Ping => {
                self.violated(now, id, "message too early");
            }
        }
    }

    /// A client's handshake is complete, so its early data was not a replay.
    pub(super) fn proven(&mut self, now: Instant, id: ConnectionId, held: Held) {
        match held {
            Held::Nothing => {}
            Held::Former(role, former) => self.end_former(now, role, &former),
            Held::Request(request) => {
                self.answer(now, id, request);
                self.converse(now, id);
            }
        }
    }

    fn answer(&mut self, now: Instant, id: ConnectionId, request: Request) {
        match request {
            Request::Ping => {
                self.say(id, &RelayMessage::Pong);
                self.registry.renew(now, id);
            }
            Request::Leave => self.client_left(now, id),
            Request::Allocate { owner } => {
                if self.may_ask(now, id) {
                    self.allocate(now, id, &owner);
                }
            }
            Request::Join { room, role, owner, again, former } => {
                if self.may_ask(now, id) {
                    if let (Some(former), Some(Leg { proof: Proof::Given, .. })) = (former, self.legs.get(&id)) {
                        self.end_former(now, role, &former);
                    }
                    self.check_and_join(now, Join { leg: id, key: Key { again, room }, role, owner });
                }
            }
        }
    }

    /// A peer that reconnected does not need its old link: the other side is notified at once, and need not wait for a
    /// timeout.
    fn end_former(&mut self, now: Instant, role: Role, former: &Former) {
        let key = Key { again: false, room: former.room };
        if let Some(old) = self.registry.seat(key, role, &former.owner)
            && let Some(&Leg { state: State::Paired(pair), .. }) = self.legs.get(&old)
        {
            self.end_pair(now, pair, RoomEnd::Replaced);
        }
    }

    /// Whether a client may request a seat now. If not, it was sent a refusal.
    fn may_ask(&mut self, now: Instant, id: ConnectionId) -> bool {
        let Some(source) = self.legs.get(&id).map(|leg| leg.source) else { return false };
        if matches!(self.phase, Phase::Draining) {
            self.refuse(now, id, RefusalReason::ShuttingDown, 0);
            return false;
        }
        match self.guard.join(now, source) {
            Ok(()) => true,
            Err(wait) => {
                self.refuse(now, id, RefusalReason::RateLimited, in_seconds(wait));
                false
            }
        }
    }

    fn allocate(&mut self, now: Instant, id: ConnectionId, owner: &Owner) {
        let Some(source) = self.legs.get(&id).map(|leg| leg.source) else { return };
        let allocated =
            if self.guard.may_open_room(source) { self.registry.allocate(now, owner, id) } else { Err(Refusal::Full) };
        match allocated {
            Ok(allocated) => {
                self.say(id, &RelayMessage::Allocated { nameplate: allocated.nameplate });
                self.wait(now, id, &allocated.key, None);
            }
            Err(_) => self.refuse(now, id, RefusalReason::Full, 0),
        }
    }

    pub(super) fn join(&mut self, now: Instant, Join { leg: id, key, role, owner }: Join) {
        let Some(source) = self.legs.get(&id).map(|leg| leg.source) else { return };
        let Joined { outcome, replaced } = self.registry.join(now, key, role, &owner, id);
        let taken_over = match replaced {
            Replaced::Nothing => None,
            Replaced::Waiting(old) => {
                let room = self.leave_room(old);
                self.dismiss(now, old, REPLACED);
                room
            }
            Replaced::Pair(old, _) => {
                if let Some(&Leg { state: State::Paired(pair), .. }) = self.legs.get(&old) {
                    self.end_pair(now, pair, RoomEnd::Replaced);
                }
                None
            }
        };
        match outcome {
            Outcome::Waiting if taken_over.is_some() || self.guard.may_open_room(source) => {
                self.wait(now, id, &key, taken_over);
            }
            Outcome::Waiting => {
                self.registry.leave(now, id, false);
                self.refuse(now, id, RefusalReason::Full, 0);
            }
            Outcome::Paired { with } => {
                let sender = match role {
                    Role::Sender => id,
                    Role::Receiver => with,
                };
                self.pair(now, with, id, sender);
            }
            Outcome::Refused(Refusal::Full) => self.refuse(now, id, RefusalReason::Full, 0),
            Outcome::Refused(refusal) => {
                self.guard.failed(now, source);
                let (reason, retry_after, refused) = match refusal {
                    Refusal::NameTaken => (RefusalReason::NameTaken, 0, Refused::NameTaken),
                    Refusal::Taken => (RefusalReason::Taken, ASK_AGAIN, Refused::Taken),
                    Refusal::NobodyWaits | Refusal::Full => {
                        (RefusalReason::NobodyWaits, ASK_AGAIN, Refused::NobodyWaits)
                    }
                };
                self.say(id, &RelayMessage::Refused { reason, retry_after });
                self.refused(refused);
                if let Some(Leg { state: State::Talking { talk, .. }, .. }) = self.legs.get_mut(&id) {
                    talk.answered(now);
                }
            }
        }
    }

    /// Puts a client in a room to wait. The room may be the one that the owner's old link had.
    fn wait(&mut self, now: Instant, id: ConnectionId, key: &Key, taken_over: Option<Room>) {
        let tag = RoomTag::of(&self.tag_key, key);
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let State::Talking { talk, room } = &mut leg.state else { return };
        talk.say(&RelayMessage::Waiting);
        talk.seated();
        *room = Some(taken_over.unwrap_or(Room { tag, since: now, source: leg.source }));
        self.timers.set(Timer::Leg(id), None);
        if taken_over.is_none() {
            self.guard.room_opened(leg.source);
            self.emit(Event::RoomCreated { room: tag });
        }
    }

    /// Pairs two legs: from now on the relay forwards each leg's data to the other.
    fn pair(&mut self, now: Instant, waiting: ConnectionId, joins: ConnectionId, sender: ConnectionId) {
        let room = self.leave_room(waiting);
        self.last_pair = self.last_pair.wrapping_add(1);
        let id = PairId(self.last_pair);
        let streams = if waiting.is_tcp() || joins.is_tcp() { 0 } else { STREAMS };
        let members = (self.take_member(now, waiting, id, streams), self.take_member(now, joins, id, streams));
        let (Some(room), (Some(one), Some(two))) = (room, members) else {
            // One of them does not accept even this answer.
            self.registry.leave(now, joins, false);
            room.into_iter().for_each(|room| self.close_room(now, &room, 0, RoomEnd::Violation));
            self.dismiss(now, waiting, NOT_READING);
            self.dismiss(now, joins, NOT_READING);
            return;
        };
        self.emit(Event::RoomPaired { room: room.tag });
        let outside = &mut Context { now, ports: &mut self.ports, budget: &mut self.budget };
        let pair = Pair::new(outside, [one, two]);
        self.timers.set(Timer::Pair(id), Some(pair.poll_timeout()));
        self.pairs.insert(id, Paired { pair, room, sender, end: RoomEnd::Idle });
    }

    /// Notifies a leg that it is paired, and takes its first stream out of the conversation.
    fn take_member(&mut self, now: Instant, id: ConnectionId, pair: PairId, streams: u8) -> Option<PairMember> {
        let leg = self.legs.get_mut(&id)?;
        let State::Talking { mut talk, .. } = std::mem::replace(&mut leg.state, State::Paired(pair)) else {
            return None;
        };
        self.timers.set(Timer::Leg(id), None);
        talk.say(&RelayMessage::Paired { streams });
        let main = talk.main().filter(|_| talk.flush(now, &mut self.ports, id))?;
        Some(PairMember { leg: id, main, rest: talk.into_rest() })
    }

    /// The greeting ended without a seat.
    pub(super) fn end(&mut self, now: Instant, id: ConnectionId, ending: Ending) {
        let (reason, farewell) = match ending {
            Ending::Refused(RefusalReason::Password) => {
                if let Some(leg) = self.legs.get(&id) {
                    self.guard.failed(now, leg.source);
                }
                (Refused::Password, REFUSED)
            }
            Ending::Refused(RefusalReason::RateLimited) => (Refused::RateLimited, REFUSED),
            // The greeting has only these three reasons for a refusal.
            Ending::Refused(_) => (Refused::Version, REFUSED),
            Ending::Violation(violation) => {
                (Refused::Violation, Farewell { code: close::VIOLATION, text: text(violation) })
            }
            Ending::TooSlow => (Refused::TooSlow, Farewell { code: close::TOO_SLOW, text: "too slow" }),
        };
        self.refused(reason);
        match ending {
            Ending::Refused(_) => self.farewell(now, id, farewell),
            Ending::Violation(_) | Ending::TooSlow => self.dismiss(now, id, farewell),
        }
    }

    /// Sends a refusal, and closes the leg once the client acknowledged it.
    pub(super) fn refuse(&mut self, now: Instant, id: ConnectionId, reason: RefusalReason, retry_after: u32) {
        self.say(id, &RelayMessage::Refused { reason, retry_after });
        self.refused(match reason {
            RefusalReason::NobodyWaits => Refused::NobodyWaits,
            RefusalReason::Taken => Refused::Taken,
            RefusalReason::NameTaken => Refused::NameTaken,
            RefusalReason::RateLimited => Refused::RateLimited,
            RefusalReason::Full => Refused::Full,
            RefusalReason::Password => Refused::Password,
            RefusalReason::UnsupportedVersion(_) => Refused::Version,
            RefusalReason::ShuttingDown => Refused::ShuttingDown,
            RefusalReason::Idle => Refused::TooSlow,
        });
        self.farewell(now, id, if reason == RefusalReason::ShuttingDown { SHUTTING_DOWN } else { REFUSED });
    }

    fn farewell(&mut self, now: Instant, id: ConnectionId, farewell: Farewell) {
        if let Some(Leg { state: State::Talking { talk, .. }, .. }) = self.legs.get_mut(&id) {
            talk.farewell(now, farewell);
            self.timers.set(Timer::Leg(id), talk.poll_timeout());
        }
    }

    fn say(&mut self, id: ConnectionId, message: &RelayMessage) {
        if let Some(Leg { state: State::Talking { talk, .. }, .. }) = self.legs.get_mut(&id) {
            talk.say(message);
        }
    }
}

/// The duration in seconds, rounded up.
fn in_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs().saturating_add(1)).unwrap_or(u32::MAX)
}
