//! A place where the other side may be met: a configured relay, this machine, or one that was found on the LAN. What is known of
//! it and how far the conversation there is; `meeting` decides what happens next.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;

use super::config::RelayChoice;
use super::net::{Conn, Net};
use super::rendezvous::Rendezvous;
use crate::Instant;
use crate::link::quic::Stream;
use crate::link::race::{Attempt, Race, Transport};
use crate::link::trust::CertificateSeen;
use crate::link::{Read, Write};
use crate::net::QueryId;

/// Where a spot comes from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Configured(RelayChoice),
    /// This machine, or found on the LAN: no security rests on its certificate.
    Near,
}

#[derive(Debug)]
pub(super) enum State {
    Resolving(QueryId),
    Idle {
        next: Instant,
    },
    Dialing(Dialing),
    Talking(Talk),
    /// Nobody waited here; asked again on the same connection.
    Paused {
        next: Instant,
        talk: Talk,
    },
    Gone,
}

/// Several ways to one relay at once.
#[derive(Debug)]
pub(super) struct Dialing {
    pub race: Race,
    pub attempts: Vec<Attempting>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Attempting {
    pub attempt: Attempt,
    pub conn: Conn,
    /// It speaks before its handshake is done, if it can.
    pub early: bool,
    /// Once it is connected.
    pub talk: Option<(CertificateSeen, Talk)>,
}

#[derive(Debug)]
pub(super) struct Talk {
    pub transport: Transport,
    /// It asked for what is wanted; the others only greet.
    pub asked: bool,
    pub conn: Conn,
    pub main: Stream,
    pub rendezvous: Rendezvous,
    pub out: VecDeque<Bytes>,
}

#[derive(Debug)]
pub(super) struct Spot {
    pub origin: Origin,
    pub addresses: Vec<SocketAddr>,
    pub state: State,
    pub rounds: u32,
    /// It answered once.
    pub reached: bool,
    /// A handshake was lost there: it comes after the others from now on.
    pub is_last: bool,
    /// What it answered on.
    pub remembered: Option<Transport>,
}

impl Spot {
    pub const fn is_near(&self) -> bool {
        matches!(self.origin, Origin::Near)
    }

    pub fn owns(&self, conn: Conn) -> bool {
        match &self.state {
            State::Dialing(dialing) => dialing.attempts.iter().any(|attempt| attempt.conn == conn),
            State::Talking(talk) | State::Paused { talk, .. } => talk.conn == conn,
            State::Idle { .. } | State::Resolving(_) | State::Gone => false,
        }
    }
}

impl Talk {
    /// Takes what arrived, up to the pairing: what stands behind it is read by whoever needs it.
    pub fn hear(&mut self, net: &mut Net) {
        while !self.rendezvous.is_over()
            && let Read::Data(bytes) = net.read(self.conn, self.main)
        {
            self.rendezvous.handle_bytes(bytes);
        }
    }

    pub fn flush(&mut self, now: Instant, net: &mut Net) {
        while let Some(frame) = self.rendezvous.poll_frame() {
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
