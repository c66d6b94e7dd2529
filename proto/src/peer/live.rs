//! A peer whose session lives: what moves between its links, the session and the transfer, and what becomes of a link that is lost.
//!
//! New chunks go over the link that carries the session; what came before over another drains there. When a link is lost and others
//! remain, what was under way on it counts for nobody once both sides know: `direct` sees to that. When the last one is lost,
//! `reunion` goes on.

use super::answer::StreamOffer;
use super::carried::News;
use super::event::Event;
use super::net::{self, Conn};
use super::peer_link::PeerLink;
use super::{Peer, Stage, close};
use crate::Instant;
use crate::link::quic::{Direction, Stream};
use crate::link::race::Failure;
use crate::session::{self, LinkId, StreamNo};
use crate::wire::Violation;
use crate::wire::peer::Control;
use crate::wire::relay::Side;

impl Peer {
    /// News of a connection that carries the conversation, or may come to.
    pub(super) fn handle_link(&mut self, now: Instant, conn: Conn, event: &net::Event) {
        if let Some(index) = self.parting.iter().position(|(link, _)| link.conn() == conn) {
            return self.handle_parting(now, index, event);
        }
        if self.handle_met(now, conn, event) {
            return;
        }
        match &mut self.stage {
            Stage::Handshaking { link, .. } if link.conn() == conn => match event {
                net::Event::Opened(stream, Direction::Uni) => link.handle_opened(*stream),
                net::Event::Closed(failure) => self.handle_closed(now, conn, *failure),
                net::Event::Opened(..)
                | net::Event::Readable(_)
                | net::Event::Writable(_)
                | net::Event::Finished(_)
                | net::Event::Connected { .. }
                | net::Event::Restarted { .. } => {}
            },
            Stage::Live { links, .. } => {
                let Some(link) = links.on(conn) else { return self.handle_opening(now, conn, event) };
                let (id, main) = (link.id(), link.main());
                match event {
                    net::Event::Opened(stream, Direction::Uni) => {
                        link.handle_opened(*stream);
                        self.read_stream(now, id, *stream);
                    }
                    net::Event::Readable(stream) if *stream != main => self.read_stream(now, id, *stream),
                    net::Event::Closed(failure) => self.handle_closed(now, conn, *failure),
                    net::Event::Opened(..)
                    | net::Event::Readable(_)
                    | net::Event::Writable(_)
                    | net::Event::Finished(_)
                    | net::Event::Connected { .. }
                    | net::Event::Restarted { .. } => {}
                }
            }
            Stage::Leaving { links, code, .. } => {
                let code = *code;
                let Some(link) = links.on(conn) else { return };
                let (id, main) = (link.id(), link.main());
                match event {
                    net::Event::Finished(stream) if *stream == main && id == links.carrier() => {
                        links.iter().for_each(|link| link.close(now, &mut self.net, code, "done"));
                        self.stage = Stage::Closed;
                    }
                    net::Event::Closed(_) => self.lose_conn(now, conn),
                    net::Event::Finished(_)
                    | net::Event::Opened(..)
                    | net::Event::Readable(_)
                    | net::Event::Writable(_)
                    | net::Event::Connected { .. }
                    | net::Event::Restarted { .. } => {}
                }
            }
            Stage::Handshaking { .. } | Stage::Meeting | Stage::Apart(_) | Stage::Closed => {
                self.handle_opening(now, conn, event);
            }
        }
    }

    /// The connection of a link ended. What came before its end still counts, and may have led to any other stage.
    fn handle_closed(&mut self, now: Instant, conn: Conn, failure: Failure) {
        self.converse(now);
        self.leave_relay(now, failure);
        match self.parting.iter().position(|(link, _)| link.conn() == conn) {
            Some(index) => self.handle_parting(now, index, &net::Event::Closed(failure)),
            None => self.lose_conn(now, conn),
        }
    }

    /// Moves everything between links, handshake or session, and transfer. True when something moved that others wait for.
    pub(super) fn converse(&mut self, now: Instant) -> bool {
        match &mut self.stage {
            Stage::Handshaking { .. } => {
                let mut moved = self.shake_hands(now);
                moved |= self.live(now);
                moved | self.lose_ended(now)
            }
            Stage::Live { .. } => {
                let moved = self.live(now);
                moved | self.lose_ended(now)
            }
            Stage::Leaving { .. } => {
                self.flush_farewell(now);
                false
            }
            Stage::Apart(_) => {
                let moved = self.take_transfer_events(now);
                // Nobody came for the farewell in time. What was begun to find the other side is closed with it.
                let is_over = self.told && self.transfer.is_closed();
                if is_over {
                    self.leave(now, close::DONE);
                }
                moved | is_over
            }
            Stage::Meeting | Stage::Closed => false,
        }
    }

    fn live(&mut self, now: Instant) -> bool {
        let mut moved = self.hear_met(now);
        moved |= self.pump_session(now);
        moved |= self.take_transfer_events(now);
        moved |= self.pump_direct(now);
        if matches!(self.stage, Stage::Live { .. })
            && self.side == Side::Receiver
            && self.told
            && self.transfer.is_closed()
        {
            self.leave(now, close::DONE);
            moved = true;
        }
        moved
    }

    /// Links whose first stream has ended are gone, now that all that came on it is judged.
    fn lose_ended(&mut self, now: Instant) -> bool {
        let ended: Vec<Conn> = match &self.stage {
            Stage::Handshaking { link, .. } => {
                Some(link).filter(|link| link.has_ended()).map(PeerLink::conn).into_iter().collect()
            }
            Stage::Live { links, .. } => links.iter().filter(|link| link.has_ended()).map(PeerLink::conn).collect(),
            Stage::Meeting | Stage::Apart(_) | Stage::Leaving { .. } | Stage::Closed => Vec::new(),
        };
        for conn in &ended {
            self.lose_conn(now, *conn);
        }
        !ended.is_empty()
    }

    /// A relay that is going down is not the first to be asked again.
    pub(super) fn leave_relay(&mut self, now: Instant, failure: Failure) {
        if let (Failure::GoingDown, Some(meeting)) = (failure, &mut self.meeting) {
            meeting.leave_relay(now);
        }
    }

    /// A connection is gone. It may be none of this stage's by now.
    fn lose_conn(&mut self, now: Instant, conn: Conn) {
        match &mut self.stage {
            Stage::Live { links, .. } => {
                if let Some(id) = links.on(conn).map(|link| link.id()) {
                    self.lose(now, id);
                }
            }
            Stage::Handshaking { link, .. } if link.conn() == conn => self.lose_all(now),
            Stage::Leaving { .. } => self.lose_in_farewell(now, conn),
            Stage::Handshaking { .. } | Stage::Meeting | Stage::Apart(_) | Stage::Closed => {}
        }
    }

    /// A connection is gone while the last words go out. If it carried them, and the other side is not known to have
    /// them, they go out over another one.
    fn lose_in_farewell(&mut self, now: Instant, conn: Conn) {
        let Stage::Leaving { links, session, code, .. } = &mut self.stage else { return };
        let code = *code;
        let Some(id) = links.on(conn).map(|link| link.id()) else { return };
        let has_carried = links.carrier() == id;
        if let Some(link) = links.remove(id) {
            link.close(now, &mut self.net, code, "done");
        }
        session.handle_link_lost(id);
        let next = session.control().filter(|_| session.unacknowledged() > 0);
        if links.is_empty() || has_carried && !next.is_some_and(|next| links.carry(next)) {
            links.iter().for_each(|link| link.close(now, &mut self.net, code, "done"));
            self.stage = Stage::Closed;
        } else {
            self.flush_farewell(now);
        }
    }

    /// A link of the session is gone.
    pub(super) fn lose(&mut self, now: Instant, id: LinkId) {
        let Stage::Live { links, session } = &mut self.stage else { return };
        let Some(link) = links.remove(id) else { return };
        link.close(now, &mut self.net, close::ENDED, "lost");
        session.handle_link_lost(id);
        if !links.is_empty() {
            return self.drop_link(now, id);
        }
        if let Stage::Live { session, .. } = std::mem::replace(&mut self.stage, Stage::Closed) {
            self.held = None;
            self.stop_direct(now);
            self.transfer.handle_link_lost(now, id);
            self.part_ways(now, session);
        }
    }

    /// Nothing that is connected can go on.
    pub(super) fn lose_all(&mut self, now: Instant) {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Handshaking { link, handshake, apart } => {
                link.close(now, &mut self.net, close::ENDED, "lost");
                self.response_by = None;
                match apart {
                    Some(apart) => self.stay_apart(now, apart),
                    None => self.lose_first_handshake(now, &handshake),
                }
            }
            Stage::Live { links, mut session } => {
                self.held = None;
                self.stop_direct(now);
                for link in links.iter() {
                    link.close(now, &mut self.net, close::ENDED, "lost");
                    session.handle_link_lost(link.id());
                    self.transfer.handle_link_lost(now, link.id());
                }
                self.part_ways(now, session);
            }
            Stage::Leaving { links, .. } => {
                links.iter().for_each(|link| link.close(now, &mut self.net, close::DONE, "done"));
            }
            stage @ (Stage::Meeting | Stage::Apart(_) | Stage::Closed) => self.stage = stage,
        }
    }

    fn pump_session(&mut self, now: Instant) -> bool {
        let mut any = false;
        loop {
            let mut moved = self.take_main_records(now);
            moved |= self.take_session_events(now);
            let may_carry = self.may_carry();
            let Stage::Live { links, session } = &mut self.stage else { return any | moved };
            let mut accepted = false;
            while session.can_send_control()
                && let Some(control) = self.transfer.poll_control()
            {
                moved = true;
                accepted |= matches!(control, Control::Accept { .. });
                // There was room a moment ago.
                let _ = session.send_control(control);
            }
            for link in links.iter_mut() {
                while link.wants_control()
                    && let Some(frame) = session.poll_control_record(now, link.id())
                {
                    moved = true;
                    link.queue_control(frame);
                    link.flush(now, &mut self.net);
                }
            }
            while may_carry && let Some(link) = links.carrying() {
                if self.held.is_none() {
                    self.held = self.transfer.poll_chunk();
                }
                if self.held.is_none() {
                    break;
                }
                link.flush(now, &mut self.net);
                let Some(stream) = link.chunk_stream(&mut self.net) else { break };
                let Some((number, chunk)) = self.held.take() else { break };
                let (id, len) = (link.id(), chunk.wire_len());
                match session.seal_chunk(now, id, stream, chunk) {
                    Ok(frame) => {
                        link.queue_chunk(stream, frame);
                        self.transfer.handle_sealed(number, id);
                        self.direct.count_sealed(id, len);
                    }
                    Err(chunk) => {
                        self.held = Some((number, chunk));
                        break;
                    }
                }
                moved = true;
            }
            links.iter_mut().for_each(|link| link.flush(now, &mut self.net));
            if accepted {
                self.accepted(now);
            }
            any |= moved;
            if !moved {
                return any;
            }
        }
    }

    fn take_main_records(&mut self, now: Instant) -> bool {
        let (mut moved, mut index) = (false, 0);
        while let Stage::Live { links, session } = &mut self.stage
            && let Some(link) = links.at(index)
        {
            let id = link.id();
            match link.next_main_frame(&mut self.net) {
                Ok(Some(frame)) => {
                    session.handle_record(now, id, StreamNo(0), frame);
                    moved = true;
                }
                Ok(None) => {
                    // Where all share one stream, a long record is a sign of life long before it is whole.
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

    pub(super) fn read_stream(&mut self, now: Instant, id: LinkId, stream: Stream) {
        while let Stage::Live { links, session } = &mut self.stage
            && let Some(link) = links.get(id)
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
        while let Stage::Live { session, .. } = &mut self.stage
            && let Some(event) = session.poll_event()
        {
            moved = true;
            match event {
                session::Event::Control(
                    message @ (Control::CandidateOffer { .. }
                    | Control::CandidatesDone { .. }
                    | Control::DirectFailed { .. }
                    | Control::DirectConnected { .. }),
                ) => {
                    self.handle_direct_control(now, &message);
                    // What follows in this order counts on it: the receiver says next what it has stored.
                    self.pump_direct(now);
                }
                session::Event::Control(control) => self.transfer.handle_control(now, control),
                session::Event::Chunk(chunk) => {
                    if !self.transfer.handle_chunk(now, chunk) {
                        self.violated(now, Violation::UnexpectedMessage);
                    }
                }
                session::Event::LinkUsable(link) => self.handle_usable(now, link),
                session::Event::ControlMoved(link) => self.handle_control_moved(now, link),
                session::Event::LinkDead { link, why } => {
                    self.note_dead(link, why);
                    self.lose(now, link);
                }
                session::Event::Failed(violation) => self.violated(now, violation),
            }
        }
        moved
    }

    pub(super) fn take_transfer_events(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(news) = self.transfer.poll_event() {
            moved = true;
            match news {
                News::Scanned(manifest) => {
                    self.totals = Some(manifest.totals());
                    self.tell(Event::Scanned(manifest.totals()));
                }
                News::Offered(manifest) => self.offered(manifest),
                News::StreamOffered => self.tell_offer(Event::StreamOffer(StreamOffer::new())),
                News::Accepted => self.accepted(now),
                News::Resuming => {
                    self.pace.handle_resuming();
                    self.tell(Event::Resuming);
                }
                News::Resumed { bytes } => {
                    self.pace.handle_resumed(bytes);
                    self.tell(Event::Resumed { bytes });
                }
                News::Record(judged) => self.judged(now, judged),
                News::Over(outcome) => self.over(now, outcome),
            }
        }
        moved
    }
}
