//! A place where the other side may be met: a configured relay, this machine, or one that was found on the LAN. What is known of
//! it and how far the conversation there is; `meeting` decides what happens next.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;

use super::config::RelayChoice;
use super::net::{Conn, Net};
use super::rendezvous::Rendezvous;
use crate::Instant;
use crate::link::quic::{Stream, Write};
use crate::node::QueryId;

/// Addresses of one relay that are tried.
const MAX_ADDRESSES: usize = 8;

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
    Dialing {
        attempts: Vec<Conn>,
        tried: usize,
        next: Instant,
        deadline: Instant,
    },
    Talking(Talk),
    /// Nobody waited here; asked again on the same connection.
    Paused {
        next: Instant,
        talk: Talk,
    },
    Gone,
}

#[derive(Debug)]
pub(super) struct Talk {
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
}

impl Spot {
    pub const fn is_near(&self) -> bool {
        matches!(self.origin, Origin::Near)
    }

    pub fn owns(&self, conn: Conn) -> bool {
        match &self.state {
            State::Dialing { attempts, .. } => attempts.contains(&conn),
            State::Talking(talk) | State::Paused { talk, .. } => talk.conn == conn,
            State::Idle { .. } | State::Resolving(_) | State::Gone => false,
        }
    }
}

impl Talk {
    pub fn flush(&mut self, net: &mut Net) {
        while let Some(frame) = self.rendezvous.poll_frame() {
            self.out.push_back(frame);
        }
        let Some(quic) = net.quic(self.conn.socket) else { return };
        while let Some(frame) = self.out.front_mut() {
            match quic.write(self.conn.id, self.main, frame) {
                Write::Done => drop(self.out.pop_front()),
                Write::Blocked => break,
                Write::Stopped(_) | Write::Gone => self.out.clear(),
            }
        }
    }
}

/// IPv6 and IPv4 in turn, IPv6 first (RFC 8305, section 4).
pub(super) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut all = Vec::new();
    while all.len() < MAX_ADDRESSES {
        let before = all.len();
        all.extend(v6.next());
        all.extend(v4.next());
        if all.len() == before {
            break;
        }
    }
    all
}
