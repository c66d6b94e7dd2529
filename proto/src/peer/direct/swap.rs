//! Which link carries the session: the choice among those that have proven themselves, and what was under way on one that is lost.

use super::{Beside, Fallback};
use crate::Instant;
use crate::p2p::candidate::Carrier;
use crate::p2p::choice::Verdict;
use crate::peer::event::{Event, Path, PathKind, WaitingFor};
use crate::peer::floor::Loss;
use crate::peer::net::Conn;
use crate::peer::{Peer, Stage};
use crate::session::{LinkEnd, LinkId};
use crate::wire::relay::Side;

impl Peer {
    /// A link has proven that it is the session's.
    pub(in crate::peer) fn handle_usable(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.direct.links.iter_mut().find(|link| link.id == id) else { return self.prove_floor(id) };
        self.floor.handle_direct();
        let conn = link.conn;
        (link.proven, link.rtt) = (Some(now), self.net.rtt(conn));
        self.net.prove(conn);
        self.judge_links(now);
    }

    /// The sender takes the best of the links of the round that races, if it is worth it.
    pub(super) fn judge_links(&mut self, now: Instant) {
        let direct = &mut self.direct;
        direct.judge_at = None;
        let (Side::Sender, Some(round)) = (self.side, direct.negotiation.racing()) else { return };
        let Stage::Live { links, session } = &mut self.stage else { return };
        let carrier = links.carrier();
        let mut judged = |link: &Beside| link.as_proven(&mut self.net);
        let present = direct.links.iter().find(|link| link.id == carrier).and_then(&mut judged);
        let proven: Vec<_> = direct.links.iter().filter(|link| link.round == round).filter_map(judged).collect();
        // Whether one is still under way is not asked: how long the other side then waits would tell it which ports are
        // closed here.
        let awaits_tcp = direct.dialled_tcp == Some(round)
            || direct.of_round(round).any(|link| link.proven.is_none() && matches!(link.conn, Conn::Pipe(_)));
        match direct.choice.judge(now, present.as_ref(), &proven, awaits_tcp) {
            Verdict::Take(id) => {
                if session.use_link(id)
                    && let Some(link) = direct.links.iter().find(|link| link.id == id)
                {
                    direct.choice.handle_chosen(now, link.carrier());
                    direct.negotiation.choose(now);
                }
            }
            Verdict::Wait(at) => direct.judge_at = Some(at),
            Verdict::Nothing => {}
        }
    }

    /// Looks at how much arrives over the direct link in use, and looks for another one if that is little.
    pub(super) fn measure_link(&mut self, now: Instant) {
        let direct = &mut self.direct;
        let Stage::Live { links, .. } = &self.stage else { return };
        let carrier = links.carrier();
        let Some(link) = direct.links.iter().find(|link| link.id == carrier) else { return };
        let arrived = link.sealed.saturating_sub(self.transfer.under_way(link.id));
        if direct.choice.measure(now, arrived, self.held.is_some()) {
            direct.negotiation.look(now);
        }
    }

    /// Direct links that carried the session before are closed once nothing is under way on them, and the other side uses the new one: it
    /// would take the end of the old one for a loss.
    pub(super) fn retire_drained(&mut self, now: Instant) {
        if let (Side::Sender, Stage::Live { links, session }) = (self.side, &self.stage)
            && session.is_synced(links.carrier())
        {
            let (direct, carrier) = (&self.direct, links.carrier());
            let is_drained = |round: &u32| {
                let mut left = direct.of_round(*round);
                left.all(|link| link.id != carrier && self.transfer.under_way(link.id) == 0)
            };
            let drained: Vec<u32> = direct.negotiation.draining().filter(is_drained).collect();
            for round in drained {
                self.direct.negotiation.retire(now, round);
            }
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
            Some(link) => {
                let took = link.proven.map(|at| at.saturating_duration_since(link.since));
                (PathKind::Direct, self.net.rtt(conn).or(took))
            }
            None if direct.told => (self.floor.kind(), self.net.rtt(conn)),
            // The floor from the start.
            None => return,
        };
        let event = if let Some(link) = beside {
            direct.found_once = true;
            let began = if direct.told { link.since } else { direct.began };
            Event::Upgraded { transport, after: now.saturating_duration_since(began) }
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
            let is_tcp = link.carrier() == Carrier::Tcp;
            self.direct.choice.handle_lost(is_tcp);
        }
    }

    /// A link is gone, and others remain.
    pub(in crate::peer) fn drop_link(&mut self, now: Instant, id: LinkId) {
        let direct = &mut self.direct;
        if let Some(index) = direct.links.iter().position(|link| link.id == id) {
            let Beside { round, .. } = direct.links.remove(index);
            direct.lost.push((round, id));
            if direct.of_round(round).next().is_none() {
                direct.negotiation.handle_lost(now, round);
            }
            if direct.links.is_empty() {
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

    /// One link of a round carries the session: the sender closes the others, and both what is no link yet.
    pub(super) fn handle_chosen(&mut self, now: Instant, round: u32) {
        self.direct.close_openings(now, |of| of == round, &mut self.net);
        self.direct.judge_at = None;
        let Stage::Live { links, .. } = &self.stage else { return };
        let carrier = links.carrier();
        if self.side == Side::Sender {
            let others: Vec<LinkId> =
                self.direct.of_round(round).map(|link| link.id).filter(|id| *id != carrier).collect();
            for id in others {
                self.lose(now, id);
                // Nothing was ever sealed for it but its proof.
                self.direct.lost.retain(|&(_, lost)| lost != id);
            }
        }
    }

    /// No link of the round counts any more.
    pub(super) fn handle_round_over(&mut self, now: Instant, round: u32) {
        self.direct.close_openings(now, |of| of == round, &mut self.net);
        self.direct.judge_at = None;
        let over: Vec<LinkId> = self.direct.of_round(round).map(|link| link.id).collect();
        for id in over {
            self.lose(now, id);
        }
        let direct = &mut self.direct;
        match direct.negotiation.path() {
            None => direct.choice.handle_lost(false),
            // It was one that raced for a better one.
            Some(path) if round > path => direct.choice.handle_not_found(now),
            Some(_) => {}
        }
        if self.side == Side::Receiver {
            self.count_lost(now, round);
        }
    }

    /// What was under way on a round's lost links comes again.
    pub(super) fn count_lost(&mut self, now: Instant, round: u32) {
        let lost: Vec<LinkId> = self.direct.lost.extract_if(.., |(of, _)| *of == round).map(|(_, id)| id).collect();
        for id in lost {
            self.transfer.handle_link_dropped(now, id);
        }
    }
}
