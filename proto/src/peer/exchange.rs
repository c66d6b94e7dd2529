//! Moves data between links, session and transfer while a session is established, and sends the farewell. It decides
//! nothing: it hands each item to its owner, and applies ([`Peer::apply`]) what follows from it before it takes the
//! next item.

use super::answer::{Offer, StreamOffer};
use super::event::Event;
use super::{Peer, close};
use crate::Instant;
use crate::link::quic::Stream;
use crate::session::{self, LinkId, StreamNo};
use crate::transfer::TransferEvent;
use crate::transfer::job::JobDone;
use crate::wire::Violation;
use crate::wire::peer::Control;
use crate::wire::relay::Role;

impl Peer {
    /// Moves everything between links, handshake or session, and transfer. Returns true when something moved for
    /// which another part waits.
    pub(super) fn converse(&mut self, now: Instant) -> bool {
        if self.connection.is_handshaking() {
            let asked = self.rendezvous.question();
            let mut moved = self.connection.shake_hands(now, &mut self.net, asked, &mut self.seed);
            self.apply(now);
            self.read_streams(now);
            moved |= self.exchange(now);
            return moved | self.lose_ended(now);
        }
        if self.connection.session().is_some() {
            let moved = self.exchange(now);
            return moved | self.lose_ended(now);
        }
        self.flush_farewell(now);
        if !self.connection.is_disconnected() {
            return false;
        }
        let moved = self.take_transfer_events(now);
        // The sender did not reconnect in time to take the farewell. The search for it is closed as well.
        let is_over = self.outbox.has_ended() && self.transfer.is_closed();
        if is_over {
            self.leave(now, close::DONE);
        }
        moved | is_over
    }

    /// Drops links whose first stream has ended, once everything that arrived on that stream was processed.
    fn lose_ended(&mut self, now: Instant) -> bool {
        if self.connection.has_handshake_ended() {
            let asked = self.rendezvous.question();
            self.connection.lose_handshake(now, &mut self.net, asked);
        }
        self.paths.lose_ended(now, &mut self.net);
        self.apply(now)
    }

    fn exchange(&mut self, now: Instant) -> bool {
        let mut moved = self.paths.read_pending(now, &mut self.net);
        self.apply(now);
        self.read_streams(now);
        moved |= self.pump_session(now);
        moved |= self.take_transfer_events(now);
        moved |= self.pump_paths(now);
        if self.connection.session().is_some()
            && self.role == Role::Receiver
            && self.outbox.has_ended()
            && self.transfer.is_closed()
        {
            self.leave(now, close::DONE);
            moved = true;
        }
        moved
    }

    fn pump_session(&mut self, now: Instant) -> bool {
        let mut any = false;
        loop {
            let mut moved = self.take_main_records(now);
            moved |= self.take_session_events(now);
            let Some(session) = self.connection.session() else { return any | moved };
            let mut accepted = false;
            while session.can_send_control()
                && let Some(control) = self.transfer.poll_control()
            {
                moved = true;
                accepted |= matches!(control, Control::Accept { .. });
                // The session had room for a message just before.
                let _ = session.send_control(control);
            }
            for link in self.paths.links_mut() {
                while link.wants_control()
                    && let Some(frame) = session.poll_control_record(now, link.id())
                {
                    moved = true;
                    link.queue_control(frame);
                    link.flush(now, &mut self.net);
                }
            }
            moved |= self.send_chunks(now);
            self.paths.links_mut().for_each(|link| link.flush(now, &mut self.net));
            if accepted {
                self.accepted(now);
            }
            any |= moved;
            if !moved {
                return any;
            }
        }
    }

    /// Seals chunks while the active link has room for them.
    fn send_chunks(&mut self, now: Instant) -> bool {
        let mut moved = false;
        let Some(session) = self.connection.session() else { return false };
        while self.paths.may_send_chunks() {
            if self.paths.held.is_none() {
                self.paths.held = self.transfer.poll_chunk();
            }
            if self.paths.held.is_none() {
                break;
            }
            let Some((id, stream)) = self.paths.place_for_chunk(now, &mut self.net) else { break };
            let Some((number, chunk)) = self.paths.held.take() else { break };
            let len = chunk.wire_len();
            match session.seal_chunk(now, id, stream, chunk) {
                Ok(frame) => {
                    self.paths.queue_chunk(id, stream, frame, len);
                    self.transfer.handle_sealed(number, id);
                }
                Err(chunk) => {
                    self.paths.held = Some((number, chunk));
                    break;
                }
            }
            moved = true;
        }
        moved
    }

    fn take_main_records(&mut self, now: Instant) -> bool {
        let (mut moved, mut index) = (false, 0);
        while let Some(session) = self.connection.session()
            && let Some(link) = self.paths.link_at(index)
        {
            let id = link.id();
            match link.next_main_frame(&mut self.net) {
                Ok(Some(frame)) => {
                    session.handle_record(now, id, StreamNo(0), frame);
                    moved = true;
                }
                Ok(None) => {
                    // Where all data shares one stream, the arriving bytes of a long record show that the link is
                    // alive long before the record is complete.
                    session.handle_progress(now, id, StreamNo(0), link.assembling_main(&self.net));
                    index = index.saturating_add(1);
                }
                Err(violation) => {
                    session.handle_violation(id, violation);
                    index = index.saturating_add(1);
                    moved = true;
                }
            }
        }
        moved
    }

    /// Takes the records of all streams on which some may have arrived.
    pub(super) fn read_streams(&mut self, now: Instant) {
        while let Some((id, stream)) = self.paths.poll_readable() {
            self.read_stream(now, id, stream);
        }
    }

    fn read_stream(&mut self, now: Instant, id: LinkId, stream: Stream) {
        while let Some(session) = self.connection.session()
            && let Some(link) = self.paths.link(id)
        {
            match link.read_record(&mut self.net, stream) {
                Ok(Some((number, frame))) => session.handle_record(now, id, number, frame),
                Ok(None) => {
                    if let Some((number, buffered)) = link.assembling(stream) {
                        session.handle_progress(now, id, number, buffered);
                    }
                    return;
                }
                Err(violation) => {
                    session.handle_violation(id, violation);
                    self.take_session_events(now);
                    return;
                }
            }
            self.take_session_events(now);
        }
    }

    pub(super) fn take_session_events(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(event) = self.connection.session().and_then(session::Session::poll_event) {
            moved = true;
            match event {
                session::Event::Control(
                    message @ (Control::CandidateOffer { .. }
                    | Control::CandidatesDone { .. }
                    | Control::DirectFailed { .. }
                    | Control::DirectConnected { .. }),
                ) => {
                    self.paths.handle_control(now, &mut self.net, &message);
                    self.apply(now);
                    // The following steps depend on this order: the receiver first repeats what it has stored.
                    self.pump_paths(now);
                }
                session::Event::Control(control) => self.transfer.handle_control(now, control),
                session::Event::Chunk(chunk) => {
                    if !self.transfer.handle_chunk(now, chunk) {
                        self.violated(now, Violation::UnexpectedMessage);
                    }
                }
                session::Event::LinkUsable(link) => self.paths.handle_usable(now, &mut self.net, link),
                session::Event::ControlMoved(link) => self.paths.handle_control_moved(now, &mut self.net, link),
                session::Event::LinkDead { link, why } => self.paths.handle_dead(now, &mut self.net, link, why),
                session::Event::Failed(violation) => self.violated(now, violation),
            }
            self.apply(now);
        }
        moved
    }

    /// A job has finished. If it opened a record, the session learns first whether the record is authentic; the
    /// transfer then gets its content.
    pub(super) fn handle_job(&mut self, now: Instant, done: JobDone) {
        if let (Some(verdict), Some(session)) = (done.verdict(), self.connection.session()) {
            session.handle_verdict(now, verdict);
        }
        self.transfer.handle_job(now, done);
    }

    pub(super) fn take_transfer_events(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(event) = self.transfer.poll_event() {
            moved = true;
            match event {
                TransferEvent::Scanned(manifest) => {
                    self.offer.totals = Some(manifest.totals());
                    self.outbox.notify(Event::Scanned(manifest.totals()));
                }
                TransferEvent::Offered(manifest) => {
                    self.offer.totals = Some(manifest.totals());
                    self.show_offer(Event::Offer(Offer::new(manifest)));
                }
                TransferEvent::StreamOffered => self.show_offer(Event::StreamOffer(StreamOffer::new())),
                TransferEvent::Accepted => self.accepted(now),
                TransferEvent::Resuming => self.outbox.notify_resuming(),
                TransferEvent::Resumed { bytes } => self.outbox.notify_resumed(bytes),
                TransferEvent::Placed(placement) => self.outbox.note_placement(placement),
                TransferEvent::Over(outcome) => self.over(now, outcome),
            }
        }
        moved
    }

    /// Carries out what the paths decided, and sends their control messages. Returns true when something moved for
    /// which another part waits.
    fn pump_paths(&mut self, now: Instant) -> bool {
        let mut moved = false;
        if let Some(session) = self.connection.session() {
            let in_flight = |link| self.transfer.under_way(link);
            self.paths.retire_drained(now, |link| session.is_synced(link), in_flight);
        }
        loop {
            while let Some(session) = self.connection.session()
                && self.paths.has_control()
                && session.can_send_control()
                && let Some(control) = self.paths.poll_control()
            {
                let _ = session.send_control(control);
                moved = true;
            }
            if !self.paths.advance(now, &mut self.net) {
                return moved;
            }
            self.apply(now);
            moved = true;
        }
    }

    /// Sends what is queued before the links are closed.
    pub(super) fn flush_farewell(&mut self, now: Instant) {
        let Some(session) = self.connection.closing() else { return };
        while session.can_send_control()
            && let Some(control) = self.transfer.poll_control()
        {
            let _ = session.send_control(control);
        }
        let active = self.paths.active_id();
        for link in self.paths.links_mut() {
            while link.wants_control()
                && let Some(frame) = session.poll_control_record(now, link.id())
            {
                link.queue_control(frame);
                link.flush(now, &mut self.net);
            }
            link.flush(now, &mut self.net);
            // The other links stay open: the farewell is sent over one of them if this link is lost.
            if Some(link.id()) == active {
                link.finish(now, &mut self.net);
            }
        }
    }
}
