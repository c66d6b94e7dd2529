//! Which link carries the session: the choice among those that have proven themselves, and what was under way on one that is lost.

use super::{Fallback, GRACE};
use crate::Instant;
use crate::peer::event::{Event, Path, PathKind, PathTransport, WaitingFor};
use crate::peer::floor::Loss;
use crate::peer::{Peer, Stage};
use crate::session::{LinkEnd, LinkId};
use crate::wire::relay::Side;

impl Peer {
    /// A link has proven that it is the session's.
    pub(in crate::peer) fn handle_usable(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.direct.links.iter_mut().find(|link| link.id == id) else { return self.prove_floor(id) };
        link.proven = Some(now.saturating_duration_since(link.since));
        let (conn, is_tcp) = (link.conn, link.transport() == PathTransport::Tcp);
        self.net.prove(conn);
        if self.side == Side::Sender && self.direct.negotiation.is_racing() {
            let by = if self.direct.awaits_tcp() { now + GRACE } else { now };
            let by = if is_tcp && !self.direct.tcp_failed { now } else { by };
            self.direct.choice = Some(self.direct.choice.map_or(by, |before| before.min(by)));
            self.choose_if_due(now);
        }
    }

    pub(super) fn choose_if_due(&mut self, now: Instant) {
        if self.direct.choice.take_if(|at| *at <= now).is_none() || !self.direct.negotiation.is_racing() {
            return;
        }
        let Some(id) = self.direct.best(&mut self.net) else { return };
        let Stage::Live { session, .. } = &mut self.stage else { return };
        if session.use_link(id) {
            self.direct.negotiation.choose();
        }
    }

    /// Control goes over another link, and with it the chunks that this side may send.
    pub(in crate::peer) fn handle_control_moved(&mut self, now: Instant, id: LinkId) {
        let Stage::Live { links, .. } = &mut self.stage else { return };
        if !links.carry(id) {
            return;
        }
        let Some(link) = links.get(id) else { return };
        let (conn, transport) = (link.conn(), link.transport());
        let direct = &mut self.direct;
        let beside = direct.links.iter().find(|link| link.id == id).copied();
        let (kind, rtt) = match beside {
            Some(link) => (PathKind::Direct, self.net.rtt(conn).or(link.proven)),
            None if direct.told => (self.floor.kind(), self.net.rtt(conn)),
            // The floor from the start.
            None => return,
        };
        let event = if beside.is_some() {
            direct.found_once = true;
            Event::Upgraded { transport, after: now.saturating_duration_since(direct.began) }
        } else {
            direct.began = now;
            Event::FellBack(std::mem::replace(&mut direct.why, Fallback::Lost))
        };
        direct.told = beside.is_some();
        self.tell(event);
        if beside.is_none() && self.must_be_direct() {
            self.direct.give_up = self.give_up_after.and_then(|patience| now.checked_add(patience));
            return self.tell(Event::Waiting(WaitingFor::DirectPath));
        }
        self.direct.give_up = None;
        self.tell(Event::Path(Path { kind, transport, rtt: rtt.unwrap_or_default() }));
    }

    /// Why the session gave up a link.
    pub(in crate::peer) fn note_dead(&mut self, id: LinkId, why: LinkEnd) {
        let is_carrying = matches!(&self.stage, Stage::Live { links, .. } if links.carrier() == id);
        if let Some(link) = self.direct.links.iter().find(|link| link.id == id)
            && is_carrying
            && matches!(why, LinkEnd::Silent | LinkEnd::Stalled)
        {
            self.direct.why = Fallback::Silent;
            self.direct.tcp_failed |= link.transport() == PathTransport::Tcp;
        }
    }

    /// A link is gone, and others remain.
    pub(in crate::peer) fn drop_link(&mut self, now: Instant, id: LinkId) {
        let direct = &mut self.direct;
        if direct.is_beside(id) {
            direct.links.retain(|link| link.id != id);
            direct.lost.push(id);
            if direct.links.is_empty() {
                direct.negotiation.handle_lost(now);
                direct.gather.refresh(now);
                self.floor.hurry(now);
            }
            return;
        }
        match self.floor.lose(id) {
            Loss::Floor => {
                direct.say_floor_lost();
                if self.side == Side::Receiver {
                    self.transfer.handle_link_dropped(now, id);
                }
            }
            Loss::Attempt => self.look_beside_later(now),
            Loss::Other => {}
        }
    }

    /// One link carries the session: the sender closes the others, and both what is no link yet.
    pub(super) fn handle_chosen(&mut self, now: Instant) {
        self.direct.close_openings(now, &mut self.net);
        self.direct.choice = None;
        let Stage::Live { links, .. } = &self.stage else { return };
        let carrier = links.carrier();
        if self.side == Side::Sender {
            let others: Vec<LinkId> =
                self.direct.links.iter().map(|link| link.id).filter(|id| *id != carrier).collect();
            for id in others {
                self.lose(now, id);
                // Nothing was ever sealed for it but its proof.
                self.direct.lost.retain(|lost| *lost != id);
            }
        }
    }

    /// No link of the round counts any more.
    pub(super) fn handle_round_over(&mut self, now: Instant) {
        self.direct.close_openings(now, &mut self.net);
        self.direct.choice = None;
        for link in self.direct.links.clone() {
            self.lose(now, link.id);
        }
        if self.side == Side::Receiver {
            self.count_lost(now);
        }
    }

    /// What was under way on lost links comes again.
    pub(super) fn count_lost(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.direct.lost) {
            self.transfer.handle_link_dropped(now, id);
        }
    }
}
