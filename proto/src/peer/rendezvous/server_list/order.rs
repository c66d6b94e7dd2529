//! The order in which relays are asked.
//!
//! A sender that has no room begins with its first relay. If no relay has answered [`RELAY_DELAY`] later, it begins to
//! ask the next one as well, as Happy Eyeballs (RFC 8305) does with addresses; a relay that fails is followed by the
//! next one at once. The first relay that answers is used, and the sender leaves the others.

use super::super::super::network::Network;
use super::super::server::{RelayServer, State};
use super::{Search, ServerList};
use crate::Instant;
use crate::wire::relay::Role;
use std::time::Duration;

/// Delay between the first attempt at one relay and the next relay.
pub(super) const RELAY_DELAY: Duration = Duration::from_millis(400);

impl ServerList {
    /// Whether it is this relay's turn: see the module documentation.
    pub(super) fn is_due(&self, index: usize) -> bool {
        match (self.search, self.role) {
            (Search::Code, Role::Sender) => self.servers.get(index).is_some_and(|server| server.is_begun),
            (Search::Seated, Role::Sender) => index == self.current,
            (Search::Again | Search::Beside, Role::Receiver) => {
                index == self.current || self.servers.get(index).is_some_and(RelayServer::is_near)
            }
            (Search::Code | Search::Seated, Role::Receiver) | (Search::Again | Search::Beside, Role::Sender) => true,
        }
    }

    /// A sender begins with its first relay.
    pub(super) fn begin_first(&mut self, now: Instant) {
        if let (Role::Sender, Some(first)) = (self.role, self.servers.first_mut()) {
            first.is_begun = true;
            self.next_begin = (self.servers.len() > 1).then(|| now + RELAY_DELAY);
        }
    }

    /// A sender that no relay has answered begins to ask the next one, if it is time.
    pub(super) fn begin_next(&mut self, now: Instant) {
        if self.search != Search::Code || self.next_begin.take_if(|at| *at <= now).is_none() {
            return;
        }
        let mut others = self.servers.iter_mut().filter(|server| !server.is_begun);
        if let Some(server) = others.next() {
            server.is_begun = true;
            self.next_begin = others.next().map(|_| now + RELAY_DELAY);
        }
    }

    /// This relay has answered a sender that has no room: the others are left.
    pub(in super::super) fn settle_on(&mut self, now: Instant, net: &mut Network, index: usize) {
        if self.role != Role::Sender || self.search != Search::Code {
            return;
        }
        (self.current, self.next_begin) = (index, None);
        for (other, server) in self.servers.iter_mut().enumerate() {
            server.is_begun = other == index;
            if other != index {
                server.leave(now, net);
            }
        }
    }

    /// Continues with the next relay that may still answer.
    pub(super) fn next_relay(&mut self, now: Instant) {
        let count = self.servers.len().max(1);
        for step in 1..=count {
            let candidate = self.current.saturating_add(step).checked_rem(count).unwrap_or(0);
            if let Some(server) = self.servers.get_mut(candidate)
                && !matches!(server.state, State::Gone)
            {
                self.current = candidate;
                server.is_begun = true;
                if let State::Idle { next } = &mut server.state {
                    *next = (*next).max(now);
                }
                return;
            }
        }
    }
}
