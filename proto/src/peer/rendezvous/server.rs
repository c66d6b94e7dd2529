//! A relay at which the other side may be met: a configured one, the one inside a sender on this machine, or one that
//! was discovered on the LAN. What is known of it and how far the conversation there is; `server_list` decides what
//! happens next.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::super::config::RelayChoice;
use super::super::net::{ConnectionId, Net};
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
    /// This machine, or found on the LAN: no security rests on its certificate.
    Near,
}

#[derive(Debug)]
pub(super) enum State {
    Resolving,
    Idle {
        next: Instant,
    },
    Dialing(Dialing),
    Connected(RelayConnection),
    /// The other side was not there; the question is asked again on the same connection.
    Paused {
        next: Instant,
        connection: RelayConnection,
    },
    Gone,
}

/// Several ways to one relay at once.
#[derive(Debug)]
pub(super) struct Dialing {
    pub race: Race,
    pub attempts: Vec<Attempting>,
    /// The relay sent something, if not an answer.
    pub is_heard: bool,
    /// How long this process had no time meanwhile.
    pub late: Duration,
    /// The relay let no connection of this address in.
    pub is_refused: bool,
}

impl Dialing {
    pub const fn new(race: Race) -> Self {
        Self { race, attempts: Vec::new(), is_heard: false, late: Duration::ZERO, is_refused: false }
    }

    /// Whether its failure is no sign that there is no relay: it refused a connection; or time was over, but it had sent
    /// something, or this process had no time.
    pub fn proves_nothing(&self) -> bool {
        self.is_refused || self.race.ran_out() && (self.is_heard || self.late >= LATE)
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Attempting {
    pub attempt: Attempt,
    pub conn: ConnectionId,
    /// It speaks before its handshake is done, if it can.
    pub early: bool,
    /// Once it is connected.
    pub connection: Option<(CertificateSeen, RelayConnection)>,
}

#[derive(Debug)]
pub(super) struct RelayConnection {
    pub transport: Transport,
    /// It asked for what is wanted; the others only greet.
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
    /// Of these, such as tell that no relay is there.
    pub tries: u32,
    /// It answered once.
    pub reached: bool,
    /// A handshake was lost there: it comes after the others from now on.
    pub is_last: bool,
    /// What it answered on.
    pub remembered: Option<Transport>,
}

impl RelayServer {
    pub const fn new(origin: Origin, addresses: Vec<SocketAddr>, state: State, remembered: Option<Transport>) -> Self {
        Self { origin, addresses, state, rounds: 0, tries: 0, reached: false, is_last: false, remembered }
    }

    pub const fn is_near(&self) -> bool {
        matches!(self.origin, Origin::Near)
    }

    pub fn owns(&self, conn: ConnectionId) -> bool {
        match &self.state {
            State::Dialing(dialing) => dialing.attempts.iter().any(|attempt| attempt.conn == conn),
            State::Connected(connection) | State::Paused { connection, .. } => connection.conn == conn,
            State::Idle { .. } | State::Resolving | State::Gone => false,
        }
    }
}

impl RelayConnection {
    /// Takes what arrived, up to the pairing: what stands behind it is read by whoever needs it.
    pub fn receive(&mut self, net: &mut Net) {
        while !self.client.is_over()
            && let Read::Data(bytes) = net.read(self.conn, self.main)
        {
            self.client.handle_bytes(bytes);
        }
    }

    pub fn flush(&mut self, now: Instant, net: &mut Net) {
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
