//! The state of one relay at which the other side may be found: a configured relay, the one inside a sender on this
//! machine, or one that was discovered on the LAN. `server_list` decides what happens next.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::super::config::RelayChoice;
use super::super::network::{ConnectionId, Network};
use super::client::RelayClient;
use crate::Instant;
use crate::link::quic::Stream;
use crate::link::race::{Attempt, Race, Transport};
use crate::link::trust::CertificateSeen;
use crate::link::{Read, Write};

/// So much without time is a machine that is busy.
const LATE: Duration = Duration::from_secs(1);

/// How a relay became known.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Configured(RelayChoice),
    /// A relay on this machine or found on the LAN: its certificate is not used for authentication.
    Near,
}

#[derive(Debug)]
pub(super) enum State {
    /// The name is looked up since then.
    Resolving {
        since: Instant,
    },
    /// The name service did not answer: the name is looked up again then.
    Unresolved {
        next: Instant,
    },
    Idle {
        next: Instant,
    },
    Dialing(Dialing),
    Connected(RelayConnection),
    /// The other side was not there; the question is repeated on the same connection.
    Paused {
        next: Instant,
        connection: RelayConnection,
    },
    Gone,
}

/// Concurrent connection attempts to one relay.
#[derive(Debug)]
pub(super) struct Dialing {
    pub race: Race,
    pub attempts: Vec<Attempting>,
    /// The relay sent something, if not an answer.
    pub has_sent: bool,
    /// How long this process had no time meanwhile.
    pub late: Duration,
    /// The relay let no connection of this address in.
    pub is_refused: bool,
}

impl Dialing {
    pub const fn new(race: Race) -> Self {
        Self { race, attempts: Vec::new(), has_sent: false, late: Duration::ZERO, is_refused: false }
    }

    /// Whether its failure is no sign that there is no relay: it refused a connection; or time was over, but it had
    /// sent something, or this process had no time.
    pub fn proves_nothing(&self) -> bool {
        self.is_refused || self.race.ran_out() && (self.has_sent || self.late >= LATE)
    }
}

/// One of these attempts.
#[derive(Debug)]
pub(super) struct Attempting {
    pub attempt: Attempt,
    pub conn: ConnectionId,
    /// Whether it sends early data, if possible.
    pub early: bool,
    /// The connection, once it is established.
    pub connection: Option<(CertificateSeen, RelayConnection)>,
}

#[derive(Debug)]
pub(super) struct RelayConnection {
    pub transport: Transport,
    /// Whether it sent the question; otherwise it sent only the greeting.
    pub asked: bool,
    pub conn: ConnectionId,
    pub main: Stream,
    pub client: RelayClient,
    pub out: VecDeque<Bytes>,
}

#[derive(Debug)]
pub(super) struct RelayServer {
    pub origin: Origin,
    pub addresses: Vec<SocketAddr>,
    pub state: State,
    pub rounds: u32,
    /// How many of these rounds indicate that there is no relay.
    pub tries: u32,
    /// The relay answered at least once.
    pub reached: bool,
    /// A handshake over this relay was lost: it is asked after the others from now on.
    pub is_last: bool,
    /// The transport over which it answered.
    pub remembered: Option<Transport>,
    /// Whether a sender without a room has begun to ask this relay.
    pub is_begun: bool,
}

impl RelayServer {
    pub const fn new(origin: Origin, addresses: Vec<SocketAddr>, state: State, remembered: Option<Transport>) -> Self {
        let (rounds, tries) = (0, 0);
        Self { origin, addresses, state, rounds, tries, reached: false, is_last: false, remembered, is_begun: false }
    }

    pub const fn is_near(&self) -> bool {
        matches!(self.origin, Origin::Near)
    }

    /// Gives up the seat and closes the connections.
    pub fn leave(&mut self, now: Instant, net: &mut Network) {
        match std::mem::replace(&mut self.state, State::Idle { next: now }) {
            State::Connected(mut connection) | State::Paused { mut connection, .. } => {
                connection.client.leave();
                connection.flush(now, net);
                // The client's farewell is followed by the end of the stream, and then the relay closes.
                net.finish(now, connection.conn, connection.main);
                net.close(now, connection.conn, 0, "left");
            }
            State::Dialing(dialing) => {
                dialing.attempts.iter().for_each(|attempt| net.close(now, attempt.conn, 0, "not needed"));
            }
            state @ (State::Resolving { .. } | State::Unresolved { .. } | State::Gone) => self.state = state,
            State::Idle { .. } => {}
        }
    }

    pub fn owns(&self, conn: ConnectionId) -> bool {
        match &self.state {
            State::Dialing(dialing) => dialing.attempts.iter().any(|attempt| attempt.conn == conn),
            State::Connected(connection) | State::Paused { connection, .. } => connection.conn == conn,
            State::Idle { .. } | State::Resolving { .. } | State::Unresolved { .. } | State::Gone => false,
        }
    }
}

impl RelayConnection {
    /// Processes received bytes up to the pairing; the bytes after it are left for the new owner of the link.
    pub fn receive(&mut self, net: &mut Network) {
        while !self.client.is_over()
            && let Read::Data(bytes) = net.read(self.conn, self.main)
        {
            self.client.handle_bytes(bytes);
        }
    }

    pub fn flush(&mut self, now: Instant, net: &mut Network) {
        while let Some(frame) = self.client.poll_frame() {
            self.out.push_back(frame);
        }
        while let Some(frame) = self.out.front_mut() {
            match net.write(now, self.conn, self.main, frame) {
                Write::Done => drop(self.out.pop_front()),
                Write::Blocked => break,
                Write::Stopped(_) | Write::Gone => self.out.clear(),
            }
        }
    }
}
