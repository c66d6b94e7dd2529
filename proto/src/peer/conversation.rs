//! A peer on a link: the handshake, what the transfer tells, the farewell.

use std::sync::Arc;
use std::time::Duration;

use super::answer::{Comparison, Offer};
use super::event::{Event, Failure, Lost, Path, Summary, WaitingFor};
use super::floor::{Floor, is_handshake};
use super::links::Links;
use super::net;
use super::reunion::{Lasting, Reunion};
use super::{Agreement, LEAVE_WITHIN, Peer, Stage, close};
use crate::Instant;
use crate::handshake::{self, FailureReason};
use crate::misuse::Misuse;
use crate::session::{self, LinkId, Session};
use crate::transfer::manifest::{Manifest, Totals};
use crate::transfer::{Judged, Outcome};
use crate::wire::Features;
use crate::wire::Violation;
use crate::wire::frame::enclose;
use crate::wire::peer::CancelReason;
use crate::wire::relay::Side;

impl Peer {
    pub(super) fn shake_hands(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Stage::Handshaking { link, handshake, apart } = &mut self.stage {
            match handshake.poll_output() {
                Some(handshake::Output::Send(body)) => link.queue_control(enclose(&body)),
                Some(handshake::Output::Keyed(keys)) => {
                    moved = true;
                    self.keyed(now, keys);
                }
                Some(handshake::Output::Failed(failure)) => {
                    moved = true;
                    self.handshake_failed(now, failure);
                }
                None => match link.next_main_frame(&mut self.net) {
                    // The sender does not know yet that its other link is dead: see `floor`.
                    Ok(Some(frame)) if apart.is_some() && !is_handshake(&frame) => {
                        self.lose_all(now);
                        moved = true;
                    }
                    Ok(Some(frame)) => {
                        self.response_by = None;
                        handshake.handle_frame(now, frame.into_bytes());
                    }
                    Ok(None) => {
                        link.flush(now, &mut self.net);
                        break;
                    }
                    Err(violation) => {
                        moved = true;
                        handshake.handle_violation(violation);
                    }
                },
            }
        }
        moved
    }

    fn keyed(&mut self, now: Instant, keys: handshake::Keys) {
        let Stage::Handshaking { mut link, apart, .. } = std::mem::replace(&mut self.stage, Stage::Closed) else {
            return;
        };
        link.flush(now, &mut self.net);
        self.net.widen(link.conn());
        let transport = link.transport();
        self.guesses.burn();
        let is_first = apart.is_none();
        let mut session = match apart {
            Some(apart) => {
                let mut session = apart.session;
                session.handle_generation(&keys);
                session
            }
            None => Box::new(Session::new(session::Config::new(self.side), &keys, self.seed.split())),
        };
        let id = self.next_link();
        let early = link.set_keyed(id);
        session.handle_link_up(now, id, link.max_streams(), session::Origin::Handshake);
        self.stage = Stage::Live { links: Links::new(link), session };
        self.rest_meeting(now);
        if let Some(host) = &mut self.host {
            host.set_again(keys.reconnect.room(), keys.reconnect.owner(Side::Receiver));
        }
        self.reunion = Reunion::Known(Lasting { reconnect: keys.reconnect.clone(), verifier: keys.verifier.clone() });
        if is_first {
            self.tell_keyed(&keys);
        }
        self.floor = Floor::new(self.found.as_ref());
        let kind = self.floor.kind();
        let conn = match &self.stage {
            Stage::Live { links, .. } => links.floor().map(super::peer_link::PeerLink::conn),
            Stage::Meeting | Stage::Handshaking { .. } | Stage::Apart(_) | Stage::Leaving { .. } | Stage::Closed => {
                None
            }
        };
        let rtt = conn.and_then(|conn| self.net.rtt(conn)).unwrap_or_default();
        self.tell(Event::Path(Path { kind, transport, rtt }));
        self.start_direct(now, keys.features);
        self.begin(now);
        self.transfer.handle_link_up(now);
        for stream in early {
            self.read_stream(now, id, stream);
        }
    }

    pub(super) const fn next_link(&mut self) -> LinkId {
        self.links = self.links.wrapping_add(1);
        LinkId(self.links)
    }

    fn tell_keyed(&mut self, keys: &handshake::Keys) {
        let (must_agree, others_must) = (self.verify, keys.features.has(Features::VERIFY));
        if must_agree || others_must {
            let comparison = must_agree.then(Comparison::new);
            self.tell(Event::Verifier { words: keys.verifier.words().to_vec(), comparison });
        }
        if others_must && self.side == Side::Receiver {
            self.tell(Event::Waiting(WaitingFor::Agreement));
        }
    }

    /// The sender's offer leaves once its person agreed.
    fn begin(&mut self, now: Instant) {
        if self.agreement != Agreement::Pending
            && matches!(self.reunion, Reunion::Known(_))
            && self.transfer.begin(now)
            && self.accepted_at.is_none()
        {
            self.tell(Event::Waiting(WaitingFor::Answer));
        }
    }

    fn handshake_failed(&mut self, now: Instant, failure: handshake::Failure) {
        let Stage::Handshaking { link, apart, .. } = std::mem::replace(&mut self.stage, Stage::Meeting) else {
            return;
        };
        self.parting.push((link, now + LEAVE_WITHIN));
        if let Some(apart) = apart {
            return self.stay_apart(now, apart);
        }
        if failure.is_guess() {
            self.guesses.count();
        }
        // Who is met in a reconnect room may be anybody until the keys are there, and no words are at stake in it.
        if let Reunion::Perhaps { again: true, switch, .. } = &mut self.reunion {
            *switch = now;
            return self.look_again(now);
        }
        let left = self.guesses.left();
        match self.side {
            Side::Sender => {
                if failure.is_guess() {
                    self.tell(Event::WrongGuess { left });
                }
                // A stranger's nonsense or silence ends nothing; the third wrong guess does.
                if left > 0 { self.look_again(now) } else { self.fail(now, Failure::WrongCode) }
            }
            Side::Receiver => {
                let failure = match failure.reason {
                    FailureReason::WrongCode => Failure::WrongCode,
                    FailureReason::TimedOut => Failure::Lost(Lost::NobodyWaits),
                    FailureReason::Version { theirs } => Failure::Versions(theirs),
                    FailureReason::Violation(violation) => Failure::Violation(violation),
                };
                let has_others =
                    left > 0 && self.meeting.as_mut().is_some_and(|meeting| meeting.drop_near(now, failure.clone()));
                if has_others { self.look_again(now) } else { self.fail(now, failure) }
            }
        }
    }

    pub(super) fn look_again(&mut self, now: Instant) {
        self.stage = Stage::Meeting;
        if let Some(meeting) = &mut self.meeting {
            meeting.again_later(now);
        }
        if self.host.is_some() {
            self.tell(Event::Waiting(WaitingFor::Receiver));
        }
    }

    /// The other side, or who sits between, broke a rule: nothing that follows can be trusted.
    pub(super) fn violated(&mut self, now: Instant, violation: Violation) {
        if !self.transfer.is_finishing() {
            self.transfer.cancel(now, CancelReason::Violation, "");
        }
        self.fail(now, Failure::Violation(violation));
    }

    pub(super) fn offered(&mut self, manifest: Arc<Manifest>) {
        self.totals = Some(manifest.totals());
        self.tell_offer(Event::Offer(Offer::new(manifest)));
    }

    /// With `--verify` the offer is shown once the person agreed to the words.
    pub(super) fn tell_offer(&mut self, offer: Event) {
        if self.agreement == Agreement::Pending {
            self.unseen_offer = Some(offer);
        } else {
            self.tell(offer);
        }
    }

    pub(super) fn accepted(&mut self, now: Instant) {
        self.accepted_at = Some(now);
        self.pace.start(now);
        self.tell(Event::Accepted);
    }

    /// A chunk record was judged in its job.
    pub(super) fn judged(&mut self, now: Instant, judged: Judged) {
        if let Stage::Live { session, .. } = &mut self.stage {
            match judged {
                Judged::Genuine(link) => session.handle_opened(now, link),
                Judged::Bad(link) => session.handle_bad_record(link),
            }
        }
    }

    /// The transfer ended, one way or the other.
    pub(super) fn over(&mut self, now: Instant, outcome: Outcome) {
        let failure = match outcome {
            Outcome::Complete { root } => return self.complete(now, root),
            // These follow from what this side said or found itself; the failure was told then.
            Outcome::Cancelled(_) | Outcome::Lost => return,
            Outcome::Declined { reason, text } => Failure::Declined { reason, text },
            Outcome::Refused(refused) => Failure::Refused(refused),
            Outcome::PeerCancelled { reason, text } => Failure::Peer { reason, text },
            Outcome::Failed(fault) => Failure::Local(fault),
            Outcome::Violation(violation) => Failure::Violation(violation),
            Outcome::Stalled => Failure::Lost(Lost::Stalled),
        };
        self.fail(now, failure);
    }

    fn complete(&mut self, now: Instant, root: [u8; 32]) {
        let duration = self.accepted_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let progress = self.transfer.progress();
        self.tell_last_progress(now, progress);
        // Of a stream nobody knew them before.
        let totals = self.totals.unwrap_or(Totals { bytes: progress.bytes, ..Totals::default() });
        let resumed = self.pace.resumed().min(totals.bytes);
        self.end(Event::Done(Summary { totals, resumed, duration, root }));
        match self.side {
            Side::Sender => self.leave(now, close::DONE),
            // The sender's farewell tells that it knows.
            Side::Receiver => {}
        }
    }

    pub(super) fn agree(&mut self, now: Instant, agreed: bool) -> Result<(), Misuse> {
        if self.agreement != Agreement::Pending || self.told || !matches!(self.reunion, Reunion::Known(_)) {
            return Err(Misuse::NothingToAgree);
        }
        if agreed {
            self.agreement = Agreement::Given;
            if let Stage::Live { .. } = &self.stage {
                self.look_for_direct(now);
            }
            self.begin(now);
            if let Some(offer) = self.unseen_offer.take() {
                self.tell(offer);
            }
        } else {
            self.transfer.cancel(now, CancelReason::NotVerified, "");
            self.fail(now, Failure::NotVerified);
        }
        Ok(())
    }

    /// While everything is put in place, only the disk decides, and it won't take long; after that only the other
    /// side's farewell is missing, which is waited for a little longer. Else the transfer fails.
    pub(super) fn cancel(&mut self, now: Instant) {
        self.transfer.cancel(now, CancelReason::Interrupted, "");
        self.hurried |= self.told;
        if !self.transfer.is_finishing() && !self.told {
            self.fail(now, Failure::Interrupted);
        }
    }

    /// The one bad end: tells it, and says to the other side what the transfer has to say.
    pub(super) fn fail(&mut self, now: Instant, failure: Failure) {
        // While everything is put in place, the outcome is what the disk says; it is told then.
        if self.transfer.is_finishing() || self.end(Event::Failed(failure)) {
            self.transfer.abandon(now);
        }
        self.leave(now, close::ENDED);
    }

    /// What is queued goes out, then the link is closed.
    pub(super) fn leave(&mut self, now: Instant, code: u32) {
        self.stop_meeting(now);
        self.stop_floor(now);
        self.held = None;
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Live { mut links, session } => {
                // The last words go where control goes, even if nobody was told yet that this is another link.
                if let Some(control) = session.control() {
                    links.carry(control);
                }
                // Whoever is in a hurry has waited already.
                let patience = if self.hurried { Duration::ZERO } else { LEAVE_WITHIN };
                self.stage = Stage::Leaving { links, session, deadline: now + patience, code };
                self.flush_farewell(now);
            }
            Stage::Handshaking { link, .. } => self.parting.push((link, now + LEAVE_WITHIN)),
            stage @ (Stage::Leaving { .. } | Stage::Closed) => self.stage = stage,
            Stage::Meeting | Stage::Apart(_) => {}
        }
    }

    pub(super) fn flush_farewell(&mut self, now: Instant) {
        let Stage::Leaving { links, session, .. } = &mut self.stage else { return };
        let carrier = links.carrier();
        while session.can_send_control()
            && let Some(control) = self.transfer.poll_control()
        {
            let _ = session.send_control(control);
        }
        for link in links.iter_mut() {
            while link.wants_control()
                && let Some(frame) = session.poll_control_record(now, link.id())
            {
                link.queue_control(frame);
                link.flush(now, &mut self.net);
            }
            link.flush(now, &mut self.net);
            // The others stay open: they may have to carry the last words, if this one is lost.
            if link.id() == carrier {
                link.finish(now, &mut self.net);
            }
        }
    }

    /// Links of failed handshakes: their last frame goes out, then they are closed.
    pub(super) fn part(&mut self, now: Instant) {
        for (link, _) in &mut self.parting {
            link.flush(now, &mut self.net);
            link.finish(now, &mut self.net);
        }
    }

    pub(super) fn handle_parting(&mut self, now: Instant, index: usize, event: &net::Event) {
        let finished = match (event, self.parting.get(index)) {
            (net::Event::Finished(stream), Some((link, _))) => *stream == link.main(),
            (net::Event::Closed(_), _) => true,
            _ => false,
        };
        if finished && index < self.parting.len() {
            let (link, _) = self.parting.swap_remove(index);
            link.close(now, &mut self.net, close::ENDED, "handshake failed");
        }
    }
}
