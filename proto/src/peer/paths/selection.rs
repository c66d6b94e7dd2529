//! Which link is active: the selection among the authenticated links, and the chunks in flight on a lost one.

use super::super::event::{Event, Fallback, Path, PathKind, WaitingFor};
use super::super::network::{ConnectionId, Network};
use super::links::{DirectLink, Link};
use super::relay_path::Loss;
use super::{Output, Paths, State};
use crate::Instant;
use crate::p2p::candidate::CandidateTransport;
use crate::p2p::choice::Selection;
use crate::session::{LinkEnd, LinkId};
use crate::wire::relay::Role;

impl Paths {
    /// A link was authenticated as the session's.
    pub fn handle_usable(&mut self, now: Instant, net: &mut Network, id: LinkId) {
        let State::Up(links) = &mut self.state else { return };
        let Some(Link { peer, direct: Some(direct) }) = links.get(id) else { return self.prove_relay_path(net, id) };
        let conn = peer.conn();
        (direct.proven, direct.rtt) = (Some(now), net.rtt(conn));
        self.relay.handle_direct();
        net.prove(conn);
        self.judge_links(now, net);
    }

    /// The sender selects the best link of the current round, if it is better by enough.
    pub(super) fn judge_links(&mut self, now: Instant, net: &mut Network) {
        let direct = &mut self.direct;
        direct.judge_at = None;
        let (Role::Sender, Some(round)) = (self.role, direct.negotiation.racing()) else { return };
        let State::Up(links) = &mut self.state else { return };
        let active = links.active_id();
        let present = links.iter().find(|link| link.peer.id() == active).and_then(|link| link.as_proven(net));
        let proven: Vec<_> = links.of_round(round).filter_map(|link| link.as_proven(net)).collect();
        // The decision does not depend on whether an attempt is still in flight: the other side could learn from the
        // delay which ports are closed here.
        let awaits_tcp = direct.dialled_tcp == Some(round)
            || links.of_round(round).any(|link| {
                matches!(link.peer.conn(), ConnectionId::Tcp(_))
                    && link.direct.is_some_and(|direct| direct.proven.is_none())
            });
        match direct.choice.judge(now, present.as_ref(), &proven, awaits_tcp) {
            Selection::Take(id) => self.out.push_back(Output::UseForControl(id)),
            Selection::Wait(at) => direct.judge_at = Some(at),
            Selection::Nothing => {}
        }
    }

    /// The session moves to the link of [`Output::UseForControl`].
    pub fn handle_moving(&mut self, now: Instant, id: LinkId) {
        let State::Up(links) = &mut self.state else { return };
        if let Some(link @ Link { direct: Some(_), .. }) = links.get(id) {
            self.direct.choice.handle_chosen(now, link.transport());
            self.direct.negotiation.choose(now);
        }
    }

    /// Measures the throughput of the active direct link, and searches for another one if it is low.
    pub(super) fn measure_link(&mut self, now: Instant, in_flight: impl Fn(LinkId) -> u64) {
        let State::Up(links) = &self.state else { return };
        let active = links.active_id();
        let Some(link) = links.direct(active) else { return };
        let arrived = link.sealed.saturating_sub(in_flight(active));
        if self.direct.choice.measure(now, arrived, self.held.is_some()) {
            self.direct.negotiation.look(now);
        }
    }

    /// Closes direct links that were active before, once nothing is in flight on them and the other side uses the new
    /// one; otherwise it would take the close for a loss. `is_synced`: whether it uses the new link.
    pub fn retire_drained(
        &mut self,
        now: Instant,
        is_synced: impl Fn(LinkId) -> bool,
        in_flight: impl Fn(LinkId) -> u64,
    ) {
        if let (Role::Sender, State::Up(links)) = (self.role, &self.state)
            && is_synced(links.active_id())
        {
            let active = links.active_id();
            let is_drained = |round: &u32| {
                let mut left = links.of_round(*round).map(|link| link.peer.id());
                left.all(|id| id != active && in_flight(id) == 0)
            };
            let drained: Vec<u32> = self.direct.negotiation.draining().filter(is_drained).collect();
            for round in drained {
                self.direct.negotiation.retire(now, round);
            }
        }
    }

    /// Control moved to another link; this side sends its chunks over that link too.
    pub fn handle_control_moved(&mut self, now: Instant, net: &mut Network, id: LinkId) {
        let State::Up(links) = &mut self.state else { return };
        if !links.set_active(id) {
            return;
        }
        let Some(&mut Link { ref peer, direct: link }) = links.get(id) else { return };
        let (conn, transport) = (peer.conn(), peer.transport());
        let direct = &mut self.direct;
        let (kind, rtt) = match link {
            Some(link) => {
                let took = link.proven.map(|at| at.saturating_duration_since(link.since));
                (PathKind::Direct, net.rtt(conn).or(took))
            }
            None if direct.upgraded => (self.relay.kind(), net.rtt(conn)),
            // This is the relay path from the start.
            None => return,
        };
        let event = if let Some(link) = link {
            direct.found_once = true;
            let began = if direct.upgraded { link.since } else { direct.began };
            Event::Upgraded { transport, after: now.saturating_duration_since(began) }
        } else {
            direct.began = now;
            Event::FellBack(std::mem::replace(&mut direct.why, Fallback::Lost))
        };
        direct.upgraded = link.is_some();
        self.out.push_back(Output::Event(event));
        if link.is_none() && self.must_be_direct() {
            self.direct.give_up = self.patience.and_then(|patience| now.checked_add(patience));
            return self.out.push_back(Output::Event(Event::Waiting(WaitingFor::DirectPath)));
        }
        self.direct.give_up = None;
        self.out.push_back(Output::Event(Event::Path(Path { kind, transport, rtt: rtt.unwrap_or_default() })));
    }

    /// The session gave up a link.
    pub fn handle_dead(&mut self, now: Instant, net: &mut Network, id: LinkId, why: LinkEnd) {
        let State::Up(links) = &mut self.state else { return };
        let is_active = links.active_id() == id;
        if let Some(link @ Link { direct: Some(_), .. }) = links.get(id)
            && is_active
            && matches!(why, LinkEnd::Silent | LinkEnd::Stalled)
        {
            let is_tcp = link.transport() == CandidateTransport::Tcp;
            self.direct.why = Fallback::Silent;
            self.direct.choice.handle_lost(is_tcp);
        }
        self.lose(now, net, id);
    }

    /// A link is lost, and others remain.
    pub(super) fn drop_link(&mut self, now: Instant, id: LinkId, was_direct: Option<DirectLink>) {
        if let Some(DirectLink { round, .. }) = was_direct {
            let State::Up(links) = &self.state else { return };
            let direct = &mut self.direct;
            direct.lost.push((round, id));
            if links.of_round(round).next().is_none() {
                direct.negotiation.handle_lost(now, round);
            }
            if links.all_direct().is_empty() {
                direct.gather.refresh(now);
                self.relay.hurry(now);
            }
            return;
        }
        match self.relay.lose(id) {
            Loss::RelayPath => {
                self.direct.send_relay_path_lost();
                if self.role == Role::Receiver {
                    self.out.push_back(Output::Resend(id));
                }
            }
            Loss::Attempt => self.out.push_back(Output::LookLater),
            Loss::Other => {}
        }
    }

    /// One link of a round is active: the sender closes the other links and the connections that are not links yet.
    pub(super) fn handle_chosen(&mut self, now: Instant, net: &mut Network, round: u32) {
        self.direct.close_openings(now, |of| of == round, net);
        self.direct.judge_at = None;
        let State::Up(links) = &self.state else { return };
        let active = links.active_id();
        if self.role == Role::Sender {
            let others: Vec<LinkId> =
                links.of_round(round).map(|link| link.peer.id()).filter(|id| *id != active).collect();
            for id in others {
                self.lose(now, net, id);
                // Nothing was sealed for it except its `Bind` records.
                self.direct.lost.retain(|&(_, lost)| lost != id);
            }
        }
    }

    /// No link of the round is used any more.
    pub(super) fn handle_round_over(&mut self, now: Instant, net: &mut Network, round: u32) {
        self.direct.close_openings(now, |of| of == round, net);
        self.direct.judge_at = None;
        let over: Vec<LinkId> = match &self.state {
            State::Up(links) => links.of_round(round).map(|link| link.peer.id()).collect(),
            State::Down | State::Closing(..) => Vec::new(),
        };
        for id in over {
            self.lose(now, net, id);
        }
        let direct = &mut self.direct;
        match direct.negotiation.path() {
            None => direct.choice.handle_lost(false),
            // The round searched for a better link than the active one.
            Some(path) if round > path => direct.choice.handle_not_found(now),
            Some(_) => {}
        }
        if self.role == Role::Receiver {
            self.resend_lost(round);
        }
    }

    /// Sends the chunks again that were in flight on a round's lost links.
    pub(super) fn resend_lost(&mut self, round: u32) {
        let lost = self.direct.lost.extract_if(.., |(of, _)| *of == round);
        self.out.extend(lost.map(|(_, id)| Output::Resend(id)));
    }
}
