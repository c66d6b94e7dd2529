//! What a relay answers, and what follows from it for the list.

use super::super::super::event::WaitingFor;
use super::super::super::failure::{Failure, Lost, RelayFailure};
use super::super::super::net::Net;
use super::super::super::peer_link::PeerLink;
use super::super::client::Answer;
use super::super::server::{Origin, State};
use super::super::{Output, Via};
use super::{Search, ServerList, TAKEN_WITHIN, pause_after};
use crate::Instant;
use crate::wire::relay::{RefusalReason, Role};

impl ServerList {
    /// Moves the conversation at one server.
    pub(in super::super) fn pump(&mut self, now: Instant, net: &mut Net, index: usize) {
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
            State::Idle { .. } | State::Dialing(_) | State::Resolving | State::Gone => None,
        }
    }

    fn hand_over(&mut self, now: Instant, net: &mut Net, index: usize, streams: u8) {
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
                // Where they met is where to look first, if they lose each other.
                self.current = index;
            }
            self.stop(now, net);
            self.out.push_back(Output::Connected(Box::new(link), via));
        }
    }

    /// This side has its seat there.
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
            // No honest relay says so: in a code room only senders wait. Patience goes on running out.
            (Search::Code | Search::Seated, Role::Receiver) => self.wait_for(WaitingFor::Sender),
            (Search::Again | Search::Beside, _) => self.wait_for(WaitingFor::Peer),
        }
    }

    /// Another receiver has the sender. It may have a wrong code, or be this one's own former link; else this one is
    /// too late.
    fn handle_taken(&mut self, now: Instant, index: usize) {
        if self.search == Search::Code && self.dropped.is_none() {
            self.dropped = Some(Failure::Lost(Lost::Taken));
            let until = now + TAKEN_WITHIN;
            self.give_up = Some(self.give_up.map_or(until, |at| at.min(until)));
        }
        self.pause_for(now, index, WaitingFor::Turn);
    }

    /// Nobody waits there: later again.
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
