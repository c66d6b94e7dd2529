//! How the connection to one relay is made: carries out what the race decides, and reports the results to it.
//!
//! Of concurrent attempts only the first to connect pipelines its request with Hello; the others send Hello only. The
//! first attempt to receive a reply wins. No timers or bounds but the race's.

use std::collections::VecDeque;

use super::super::event::Event;
use super::super::failure::{Failure, Lost, RelayFailure};
use super::super::network::{ConnectionId, Dial, Network, RelayTarget};
use super::Output;
use super::client::{Question, RelayClient};
use super::server::{Attempting, Origin, RelayConnection, State};
use super::server_list::{Search, ServerList};
use crate::Instant;
use crate::link::race::{self, Attempt, Transport};
use crate::link::trust::{CertificateSeen, Trust};
use crate::wire::relay::RefusalReason;

impl ServerList {
    /// Carries out the actions of a relay's race.
    pub(super) fn run_race(&mut self, now: Instant, net: &mut Network, index: usize) {
        loop {
            let Some(server) = self.servers.get_mut(index) else { return };
            let State::Dialing(dialing) = &mut server.state else { return };
            let Some(output) = dialing.race.poll_output() else { return };
            match output {
                race::Output::Start(attempt) => {
                    // Only these requests may be replayed without harm (RFC 8446 §8). Any other attempt that connects
                    // first still has to ask, so this is done only where QUIC is likely to be answered.
                    let is_join = matches!(self.question, Question::Join { again: true, .. });
                    let early =
                        is_join && server.rounds == 0 && server.remembered.is_none_or(|was| was == Transport::Quic);
                    self.start(now, net, index, attempt, early);
                }
                race::Output::Cancel(id) => {
                    let cancelled = dialing.attempts.extract_if(.., |attempt| attempt.attempt.id == id);
                    cancelled.for_each(|attempt| net.close(now, attempt.conn, 0, "another was faster"));
                }
                race::Output::Won(attempt) => {
                    let won = dialing.attempts.extract_if(.., |other| other.attempt.id == attempt.id).next();
                    if let Some((certificate, connection)) = won.and_then(|won| won.connection) {
                        return self.handle_won(now, net, index, certificate, connection);
                    }
                }
                race::Output::Failed(failure) => {
                    if let (race::Failure::Certificate(refused), Origin::Configured(relay)) = (failure, &server.origin)
                    {
                        let relay = relay.address.clone();
                        self.last = Failure::Relay(RelayFailure::CertificateChanged { relay, refused });
                        server.state = State::Gone;
                        if matches!(self.search, Search::Code | Search::Seated) {
                            self.out.push_back(Output::Failed(self.last.clone()));
                        }
                        return;
                    }
                    if failure == race::Failure::Refused {
                        // A relay refuses connections of an address that has, or asks for, too many.
                        dialing.is_refused = true;
                        self.last = Failure::Relay(RelayFailure::Refused(RefusalReason::RateLimited));
                    }
                    if let race::Failure::Proxy(failure) = failure {
                        self.last = Failure::Lost(Lost::Proxy(failure));
                    } else if net.is_unusable() {
                        self.last = Failure::Lost(Lost::NoSocket);
                    }
                    return self.fail(now, index);
                }
            }
        }
    }

    fn start(&mut self, now: Instant, net: &mut Network, index: usize, attempt: Attempt, early: bool) {
        let Some(server) = self.servers.get_mut(index) else { return };
        let State::Dialing(dialing) = &mut server.state else { return };
        let any = Trust::Any;
        let target = match &server.origin {
            Origin::Configured(relay) => RelayTarget {
                host: &relay.address.host,
                port: relay.address.port,
                trust: &relay.trust,
                proxy: self.proxy.as_ref(),
                early,
            },
            Origin::Near => {
                RelayTarget { host: "tallow", port: attempt.to.port(), trust: &any, proxy: None, early: false }
            }
        };
        match net.dial(now, &attempt, &target) {
            Dial::Started(conn) => dialing.attempts.push(Attempting { attempt, conn, early, connection: None }),
            Dial::NotYet | Dial::Impossible => {
                dialing.race.handle_failed(now, attempt.id, race::Failure::Unreachable);
            }
        }
    }

    /// The relay rejected the early data of an attempt: it is sent again.
    pub(super) fn handle_restarted(
        &mut self,
        now: Instant,
        net: &mut Network,
        index: usize,
        conn: ConnectionId,
        certificate: &CertificateSeen,
    ) {
        let Some(server) = self.servers.get_mut(index) else { return };
        let State::Dialing(dialing) = &mut server.state else { return };
        let attempt = dialing.attempts.iter_mut().find(|attempt| attempt.conn == conn);
        attempt.into_iter().for_each(|attempt| attempt.connection = None);
        self.handle_connected(now, net, index, conn, certificate);
    }

    /// An attempt is connected: the first one asks at once, the others send only the greeting.
    pub(super) fn handle_connected(
        &mut self,
        now: Instant,
        net: &mut Network,
        index: usize,
        conn: ConnectionId,
        certificate: &CertificateSeen,
    ) {
        let Some(server) = self.servers.get_mut(index) else { return };
        let password = match &server.origin {
            Origin::Configured(relay) => relay.password.clone(),
            Origin::Near => None,
        };
        let State::Dialing(dialing) = &mut server.state else { return };
        let asked = !dialing.attempts.iter().any(|attempt| attempt.connection.is_some());
        let Some(attempt) = dialing.attempts.iter_mut().find(|attempt| attempt.conn == conn) else { return };
        let Some(main) = net.open_first(conn) else { return };
        let client = RelayClient::new(now, self.features, password, asked.then_some(self.question));
        let mut connection =
            RelayConnection { conn, main, transport: attempt.attempt.transport, asked, client, out: VecDeque::new() };
        connection.flush(now, net);
        attempt.connection = Some((*certificate, connection));
    }

    /// The relay answered on this attempt.
    fn handle_won(
        &mut self,
        now: Instant,
        net: &mut Network,
        index: usize,
        certificate: CertificateSeen,
        mut connection: RelayConnection,
    ) {
        self.settle_on(now, net, index);
        let Some(server) = self.servers.get_mut(index) else { return };
        server.reached = true;
        if let Origin::Configured(relay) = &mut server.origin {
            if let Some(keep) = to_keep(relay.trust, &certificate) {
                // From the first connection on, the relay must keep its certificate.
                relay.trust = keep;
                let relay = relay.address.clone();
                self.out.push_back(Output::Event(Event::FirstUse { relay, keep }));
            }
            if server.remembered.replace(connection.transport) != Some(connection.transport) {
                let (relay, transport) = (relay.address.clone(), connection.transport);
                self.out.push_back(Output::Event(Event::Reached { relay, transport }));
            }
        }
        if !std::mem::replace(&mut connection.asked, true) {
            connection.client.ask_now(now, self.question);
        }
        server.state = State::Connected(connection);
        self.pump(now, net, index);
    }

    pub(super) fn handle_closed(
        &mut self,
        now: Instant,
        net: &mut Network,
        index: usize,
        conn: ConnectionId,
        failure: race::Failure,
    ) {
        // Data that arrived before the end is still processed.
        self.pump(now, net, index);
        net.close(now, conn, 0, "closed");
        let Some(server) = self.servers.get_mut(index) else { return };
        match &mut server.state {
            State::Dialing(dialing) => {
                let ended = dialing.attempts.extract_if(.., |attempt| attempt.conn == conn).next();
                match ended {
                    // The early data got no reply; it is dropped, and the attempt is repeated without early data.
                    Some(ended) if ended.early && failure == race::Failure::TimedOut => {
                        self.start(now, net, index, ended.attempt, false);
                    }
                    Some(ended) => dialing.race.handle_failed(now, ended.attempt.id, failure),
                    None => {}
                }
                self.run_race(now, net, index);
            }
            State::Connected(connection) if connection.conn == conn => self.fail(now, index),
            // The connection was closed during the pause: the next question uses a new one.
            State::Paused { next, connection } if connection.conn == conn => server.state = State::Idle { next: *next },
            State::Connected(_)
            | State::Paused { .. }
            | State::Idle { .. }
            | State::Resolving { .. }
            | State::Unresolved { .. }
            | State::Gone => {}
        }
    }

    /// Checks whether the relay answered on one of the attempts.
    pub(super) fn read_attempts(&mut self, now: Instant, net: &mut Network, index: usize) {
        let Some(server) = self.servers.get_mut(index) else { return };
        let State::Dialing(dialing) = &mut server.state else { return };
        for attempt in &mut dialing.attempts {
            let Some((_, connection)) = &mut attempt.connection else { continue };
            connection.receive(net);
            connection.flush(now, net);
            if connection.client.has_answer() {
                dialing.race.handle_answered(attempt.attempt.id);
            }
        }
        self.run_race(now, net, index);
    }
}

/// The certificate to accept the next time, if this was the first connection.
const fn to_keep(trust: Trust, seen: &CertificateSeen) -> Option<Trust> {
    match (trust, seen) {
        (Trust::FirstUse, CertificateSeen::FirstUse(fingerprint)) => Some(Trust::Known(*fingerprint)),
        (Trust::FirstUse, CertificateSeen::PublicCa(_)) => Some(Trust::PublicCa),
        (Trust::FirstUse | Trust::Pin(_) | Trust::Known(_) | Trust::PublicCa | Trust::Any, _) => None,
    }
}
