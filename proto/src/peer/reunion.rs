//! A session that lost its link: how the two find each other again, and for how long they try.
//!
//! ```text
//! Live ──link lost──► Apart ──met in the reconnect room──► Handshaking (mode again) ──keyed──► Live, same session, new keys
//!                      ▲ │ given up: the one bad end            │ failed, lost
//!                      └─┴───────────────────────────────────────┘
//! ```
//! Nothing that was said is lost: the session says its control records again, the transfer its chunks. A failed attempt ends nothing
//! and is no guess, since no person's words are in it. Where a receiver's answer (H2) had no reply, it can't know whether the sender
//! took it, so it tries that attempt's reconnect room and the code room in turn.
//!
//! Where this machine's addresses changed, or it slept, a QUIC link is asked first whether it lives, since it may go on from another
//! address with the same keys; after [`PROOF_WITHIN`] of silence it is given up. A TCP link can't move.
//!
//! Where only the floor is lost and a direct link lives, the two meet in the same way for another one: see `floor`.
//!
//! Timers: [`TURN`] for each of those two; [`PROOF_WITHIN`]; the end of patience, which is the person's (`give_up_after`), [`super::PATIENCE`] before the
//! offer was accepted, [`CONFIRM_WITHIN`] for a sender that only misses the confirmation, and otherwise none.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::event::{Event, Failure, Lost};
use super::meeting::Found;
use super::net::Conn;
use super::peer_link::PeerLink;
use super::rendezvous::Question;
use super::{CodeState, PATIENCE, Peer, RESPONSE_WITHIN, Stage, close};
use crate::Instant;
use crate::handshake::{self, Handshake, ReconnectKey, Secret, Verifier};
use crate::net::Interface;
use crate::node::Node;
use crate::session::{SILENCE, Session};
use crate::wire::relay::Side;

/// How long a link that may be dead has to show that it is not.
pub(super) const PROOF_WITHIN: Duration = Duration::from_secs(2);
/// A timer of this process is late by so much where there is too much to do.
const LATE: Duration = Duration::from_millis(50);
/// How long a receiver that can't know where its sender waits stays with one of the two rooms.
const TURN: Duration = Duration::from_secs(10);
/// A receiver that has everything stays reachable for less than that: a sender need not wait longer for its
/// confirmation.
const CONFIRM_WITHIN: Duration = Duration::from_secs(900);

/// A session without a link.
pub(super) struct Apart {
    pub session: Box<Session>,
    give_up: Option<Instant>,
    lost: Lost,
}

/// The link may be dead, and has until then to show that it is not.
pub(super) struct Doubt {
    conn: Conn,
    /// What had arrived before.
    received: Option<u64>,
    until: Instant,
}

/// What outlives a handshake.
#[derive(Clone)]
pub(super) struct Lasting {
    pub reconnect: ReconnectKey,
    pub verifier: Verifier,
}

impl Lasting {
    fn secret(&self) -> Secret {
        Secret::Again { reconnect: self.reconnect.clone(), verifier: self.verifier.clone() }
    }

    pub fn question(&self, side: Side) -> Question {
        let (room, owner) = (self.reconnect.room(), self.reconnect.owner(side));
        Question::Join { room, side, owner, again: true, former: None }
    }
}

/// What this side knows of a reconnect room.
pub(super) enum Reunion {
    /// No handshake came so far.
    Never,
    /// Receiver: the sender waits there, or with the code. `code` is the question for the latter.
    Perhaps { lasting: Lasting, code: Question, again: bool, switch: Instant },
    /// The session's own.
    Known(Lasting),
}

impl Peer {
    /// Another link with, as it seems, the other side.
    pub(super) fn met(&mut self, now: Instant, link: PeerLink, found: Found) {
        if matches!(self.stage, Stage::Live { .. }) {
            if self.floor.is_wanted() {
                return self.meet_beside(now, link, found);
            }
            // Only the session's own receiver gets past the relay inside while a link lives: it knows better that this one is dead.
            if self.host.is_some() {
                self.lose_all(now);
            }
        }
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Meeting => self.start_handshake(now, link, found, None),
            Stage::Apart(apart) => self.start_handshake(now, link, found, Some(apart)),
            Stage::Handshaking { link: old, apart: Some(apart), .. } => {
                old.close(now, &mut self.net, close::ENDED, "replaced");
                self.start_handshake(now, link, found, Some(apart));
            }
            stage @ (Stage::Handshaking { apart: None, .. }
            | Stage::Live { .. }
            | Stage::Leaving { .. }
            | Stage::Closed) => {
                self.stage = stage;
                link.close(now, &mut self.net, close::ENDED, "not needed");
            }
        }
    }

    fn start_handshake(&mut self, now: Instant, link: PeerLink, found: Found, apart: Option<Box<Apart>>) {
        let (room, secret) = match (&self.reunion, &self.code) {
            (Reunion::Known(lasting) | Reunion::Perhaps { lasting, again: true, .. }, _) => {
                (lasting.reconnect.room(), lasting.secret())
            }
            (Reunion::Never | Reunion::Perhaps { .. }, CodeState::Ready { code, .. }) => {
                (code.nameplate().room_id(), Secret::Code(code.password().clone()))
            }
            (Reunion::Never | Reunion::Perhaps { .. }, CodeState::Unallocated { .. }) => {
                self.stage = Stage::Meeting;
                return link.close(now, &mut self.net, close::ENDED, "no code yet");
            }
        };
        if let Some(meeting) = &mut self.meeting {
            meeting.stop(now, &mut self.net);
        }
        let config = handshake::Config { side: self.side, features: self.features, room, secret };
        let handshake = Box::new(Handshake::new(config, now, self.seed.split()));
        self.found = Some(found);
        if apart.is_none() {
            self.tell(Event::Paired);
            self.response_by = (self.side == Side::Receiver).then(|| now + RESPONSE_WITHIN);
        }
        self.stage = Stage::Handshaking { link, handshake, apart };
    }

    /// The session goes on, as soon as there is a link again.
    pub(super) fn part_ways(&mut self, now: Instant, session: Box<Session>) {
        // All is stored over there, and nothing but the word of it is missing.
        let progress = self.transfer.progress();
        let unconfirmed = self.transfer.is_unconfirmed() && progress.bytes >= progress.total;
        let patience = match self.accepted_at {
            None => Some(self.give_up_after.unwrap_or(PATIENCE)),
            Some(_) if unconfirmed => Some(self.give_up_after.unwrap_or(CONFIRM_WITHIN)),
            Some(_) => self.give_up_after,
        };
        let waiting = self.leave_floor();
        let lost = if unconfirmed { Lost::Unconfirmed } else { Lost::InTransfer };
        let give_up = patience.and_then(|patience| now.checked_add(patience));
        self.stage = Stage::Apart(Box::new(Apart { session, give_up, lost }));
        self.tell(Event::Reconnecting { attempt: 1, wait: Duration::ZERO });
        if let (Reunion::Known(lasting), Some(meeting)) = (&self.reunion, &mut self.meeting) {
            meeting.look_again(now, &mut self.net, lasting.question(self.side));
        }
        if let Some(waiting) = waiting {
            self.take_up_met(now, waiting);
        }
    }

    /// An attempt to meet again came to nothing.
    pub(super) fn stay_apart(&mut self, now: Instant, apart: Box<Apart>) {
        self.stage = Stage::Apart(apart);
        if let Some(meeting) = &mut self.meeting {
            meeting.again_later(now);
        }
    }

    /// The first handshake's link is gone, or nothing came on it: this side can't know what the other one knows.
    pub(super) fn lose_first_handshake(&mut self, now: Instant, handshake: &Handshake) {
        let is_guess = handshake.is_guess_if_lost();
        if is_guess {
            self.guesses.count();
        }
        if let Some(meeting) = &mut self.meeting {
            meeting.put_off_near();
        }
        match (self.side, handshake.lasting_if_lost()) {
            (Side::Sender, _) => self.look_again(now),
            (Side::Receiver, _) if is_guess && self.guesses.left() == 0 => self.fail(now, Failure::WrongCode),
            (Side::Receiver, Some((reconnect, verifier))) => {
                let Some(code) = self.code_question() else { return self.look_again(now) };
                self.stage = Stage::Meeting;
                let lasting = Lasting { reconnect, verifier };
                self.reunion = Reunion::Perhaps { lasting, code, again: false, switch: now };
                self.handle_reunion_timeout(now);
            }
            (Side::Receiver, None) => self.look_again(now),
        }
    }

    fn code_question(&self) -> Option<Question> {
        match &self.reunion {
            Reunion::Perhaps { code, .. } => Some(*code),
            Reunion::Never | Reunion::Known(_) => self.meeting.as_ref().map(super::meeting::Meeting::question),
        }
    }

    /// What the runtime knows of this machine's addresses: all of them, at the start and whenever they change.
    pub(super) fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        let own = |addresses: &[IpAddr]| -> BTreeSet<IpAddr> {
            addresses.iter().copied().filter(|ip| !ip.is_loopback()).collect()
        };
        let addresses: Vec<IpAddr> = interfaces.iter().map(|interface| interface.addr).collect();
        let (before, after) = (own(&self.interfaces), own(&addresses));
        self.interfaces = addresses;
        self.handle_direct_interfaces(now, interfaces);
        if let Some(mdns) = &mut self.mdns {
            mdns.handle_interfaces(interfaces);
        }
        if before != after && !before.is_empty() {
            self.handle_moved(now, !before.is_subset(&after));
        }
    }

    /// The network is, or may be, another one. `gone`: what was connected from there can't go on as it is.
    pub(super) fn handle_moved(&mut self, now: Instant, gone: bool) {
        self.net.handle_moved();
        if let Some(meeting) = &mut self.meeting {
            meeting.hurry(now, &mut self.net);
        }
        if !gone {
            return;
        }
        self.lose_direct(now);
        let Stage::Live { links, .. } = &self.stage else { return };
        let Some(floor) = links.floor() else { return };
        match floor.conn() {
            conn @ Conn::Quic(..) => {
                let received = self.net.received(conn);
                self.doubt = Some(Doubt { conn, received, until: now + PROOF_WITHIN });
            }
            Conn::Pipe(_) => {
                let id = floor.id();
                self.lose(now, id);
            }
        }
    }

    /// A live link has something to do every few seconds. When nothing was done for longer than it may be silent, this process stood
    /// still (SIGSTOP, a suspended virtual machine): what arrived meanwhile proves nothing about now, and nobody was late.
    pub(super) fn notice_pause(&mut self, now: Instant) {
        let stood_still = now.saturating_duration_since(std::mem::replace(&mut self.awake, now));
        if stood_still >= SILENCE && matches!(self.stage, Stage::Live { .. }) {
            self.transfer.handle_pause(now);
            self.handle_moved(now, true);
        }
    }

    /// A deadline is judged late: so long this process had no time to read what came, nor to answer. Whoever was asked
    /// is given that time.
    pub(super) fn notice_delay(&mut self, now: Instant) {
        // Where a session lives, its links are judged by what came, and nobody is asked for anything in a hurry.
        if matches!(self.stage, Stage::Live { .. } | Stage::Leaving { .. } | Stage::Closed) {
            return;
        }
        let due = self.poll_timeout().map_or(now, |(at, _)| at);
        // A longer pause is another matter: see `notice_pause`.
        let late = now.saturating_duration_since(due).min(SILENCE);
        if late < LATE {
            return;
        }
        if let Some(meeting) = &mut self.meeting {
            meeting.delay(late);
        }
        if let Stage::Handshaking { handshake, .. } = &mut self.stage {
            handshake.delay(late);
        }
    }

    fn judge_doubt(&mut self, now: Instant) {
        let Some(doubt) = self.doubt.take_if(|doubt| doubt.until <= now) else { return };
        let received = self.net.received(doubt.conn);
        let Stage::Live { links, .. } = &mut self.stage else { return };
        if received == doubt.received
            && let Some(id) = links.on(doubt.conn).map(|link| link.id())
        {
            self.lose(now, id);
        }
    }

    /// The other of the two rooms, a link in doubt, and the end of patience.
    pub(super) fn handle_reunion_timeout(&mut self, now: Instant) {
        self.judge_doubt(now);
        if let Stage::Apart(apart) | Stage::Handshaking { apart: Some(apart), .. } = &self.stage
            && apart.give_up.is_some_and(|at| at <= now)
        {
            let lost = apart.lost;
            return self.fail(now, Failure::Lost(lost));
        }
        if let (Stage::Meeting, Reunion::Perhaps { lasting, code, again, switch }, Some(meeting)) =
            (&self.stage, &mut self.reunion, &mut self.meeting)
            && *switch <= now
        {
            *again = !*again;
            *switch = now + TURN;
            meeting.ask(now, &mut self.net, if *again { lasting.question(self.side) } else { *code });
        }
    }

    /// When [`Self::handle_reunion_timeout`] is due.
    pub(super) fn poll_reunion_timeout(&self) -> Option<Instant> {
        let doubt = self.doubt.as_ref().map(|doubt| doubt.until);
        let own = match (&self.stage, &self.reunion) {
            (Stage::Apart(apart) | Stage::Handshaking { apart: Some(apart), .. }, _) => apart.give_up,
            (Stage::Meeting, Reunion::Perhaps { switch, .. }) if self.meeting.is_some() => Some(*switch),
            (
                Stage::Meeting
                | Stage::Handshaking { apart: None, .. }
                | Stage::Live { .. }
                | Stage::Leaving { .. }
                | Stage::Closed,
                _,
            ) => None,
        };
        doubt.into_iter().chain(own).min()
    }
}
