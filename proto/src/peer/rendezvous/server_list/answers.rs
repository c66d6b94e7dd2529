//! The answers of a relay and their effects on the list.

use super::super::super::event::WaitingFor;
use super::super::super::failure::{Failure, Lost, RelayFailure};
use super::super::super::network::Network;
use super::super::super::peer_link::PeerLink;
use super::super::client::Answer;
use super::super::server::{Origin, State};
use super::super::{Output, Via};
use super::{BUSY_TRIES, Search, ServerList, TAKEN_WITHIN, pause_after};
use crate::Instant;
use crate::wire::relay::{RefusalReason, Role};

impl ServerList {
    /// Processes the messages of one server.
    pub(in super::super) fn pump(&mut self, now: Instant, net: &mut Network, index: usize) {
        let Some(server) = self.servers.get_mut(index) else { return };
        if matches!(server.state, State::Dialing(_)) {
            return self.read_attempts(now, net, index);
        }
        let (State::Connected(connection) | State::Paused { connection, .. }) = &mut server.state else { return };
        let conn = connection.conn;
        connection.receive(net);
        connection.flush(now, net);
        while let Some(answer) = self.take_answer(index) {
            match answer {
                Answer::Observed(_) => {}
                Answer::Allocated(nameplate) => self.out.push_back(Output::Allocated(nameplate)),
                Answer::Waiting => self.seated(index),
                Answer::Paired(streams) => return self.hand_over(now, net, index, streams),
                Answer::Refused(RefusalReason::NobodyWaits) => self.pause(now, index),
                Answer::Refused(RefusalReason::Taken) => self.handle_taken(now, index),
                Answer::Refused(reason) => {
                    self.last = Failure::Relay(RelayFailure::Refused(reason));
                    return match reason {
                        RefusalReason::NameTaken | RefusalReason::Password => self.drop_server(now, net, index, conn),
                        RefusalReason::RateLimited
                        | RefusalReason::Full
                        | RefusalReason::UnsupportedVersion(_)
                        | RefusalReason::ShuttingDown
                        | RefusalReason::Idle
                        | RefusalReason::Taken
                        | RefusalReason::NobodyWaits => match self.search {
                            Search::Code => self.drop_server(now, net, index, conn),
                            Search::Seated | Search::Again | Search::Beside => {
                                net.close(now, conn, 0, "refused");
                                self.fail(now, index);
                            }
                        },
                    };
                }
                // It greeted, so it is there, and is busy.
                Answer::Late => {
                    self.last = Failure::Relay(RelayFailure::Refused(RefusalReason::Idle));
                    let rounds = self.servers.get(index).map_or(0, |server| server.rounds);
                    if self.search == Search::Code && rounds >= BUSY_TRIES {
                        return self.drop_server(now, net, index, conn);
                    }
                    net.close(now, conn, 0, "no answer");
                    return self.fail(now, index);
                }
                Answer::Versions(versions) => {
                    self.last = Failure::Versions(versions);
                    return self.drop_server(now, net, index, conn);
                }
                Answer::Violation(violation) => {
                    self.last = Failure::Relay(RelayFailure::Violation(violation));
                    return self.drop_server(now, net, index, conn);
                }
            }
        }
    }

    fn take_answer(&mut self, index: usize) -> Option<Answer> {
        match &mut self.servers.get_mut(index)?.state {
            State::Connected(connection) | State::Paused { connection, .. } => connection.client.poll_answer(),
            State::Idle { .. }
            | State::Dialing(_)
            | State::Resolving { .. }
            | State::Unresolved { .. }
            | State::Gone => None,
        }
    }

    fn hand_over(&mut self, now: Instant, net: &mut Network, index: usize, streams: u8) {
        let Some(server) = self.servers.get_mut(index) else { return };
        if let State::Connected(connection) = std::mem::replace(&mut server.state, State::Idle { next: now }) {
            let via = match &server.origin {
                Origin::Configured(relay) => Via::Relay(relay.address.clone()),
                Origin::Near => Via::Near,
            };
            let link = PeerLink::new(
                connection.conn,
                connection.transport.into(),
                connection.client.into_decoder(),
                streams,
                connection.main,
            );
            self.met = Some(index);
            if self.role == Role::Receiver && via != Via::Near {
                // If the two peers lose each other, the search starts at the relay of the last connection.
                self.current = index;
            }
            self.stop(now, net);
            self.out.push_back(Output::Connected(Box::new(link), via));
        }
    }

    /// This side has its seat at this relay.
    fn seated(&mut self, index: usize) {
        if let Some(server) = self.servers.get_mut(index) {
            server.rounds = 0;
        }
        match (self.search, self.role) {
            (Search::Code | Search::Seated, Role::Sender) => {
                self.search = Search::Seated;
                self.give_up = None;
                self.wait_for(WaitingFor::Receiver);
            }
            // No correct relay answers this: in a code room only senders wait. The receiver's patience is not
            // extended.
            (Search::Code | Search::Seated, Role::Receiver) => self.wait_for(WaitingFor::Sender),
            (Search::Again | Search::Beside, _) => self.wait_for(WaitingFor::Peer),
        }
    }

    /// Another receiver is connected to the sender. It may have a wrong code, or be this receiver's own former link;
    /// otherwise this receiver is too late.
    fn handle_taken(&mut self, now: Instant, index: usize) {
        if self.search == Search::Code && self.dropped.is_none() {
            self.dropped = Some(Failure::Lost(Lost::Taken));
            let until = now + TAKEN_WITHIN;
            self.give_up = Some(self.give_up.map_or(until, |at| at.min(until)));
        }
        self.pause_for(now, index, WaitingFor::Turn);
    }

    /// The other side does not wait there: asks again later.
    fn pause(&mut self, now: Instant, index: usize) {
        let waiting = match self.search {
            Search::Code | Search::Seated => WaitingFor::Sender,
            Search::Again | Search::Beside => WaitingFor::Peer,
        };
        self.pause_for(now, index, waiting);
    }

    fn pause_for(&mut self, now: Instant, index: usize, waiting: WaitingFor) {
        self.wait_for(waiting);
        let Some(server) = self.servers.get_mut(index) else { return };
        let next = now + pause_after(server.rounds);
        server.rounds = server.rounds.saturating_add(1);
        if let State::Connected(connection) = std::mem::replace(&mut server.state, State::Idle { next }) {
            server.state = State::Paused { next, connection };
        }
    }
}
