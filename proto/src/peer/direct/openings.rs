//! Connections of a round that are no links yet: those that this side dials, and those that come in while a round races.
//!
//! One becomes a link as soon as it carries anything, and has to prove itself in the session then. Bounds: [`MAX_OPENING`] at a time,
//! [`MAX_ACCEPTED`] of them, and of links that came in by TCP, from others.

use std::net::SocketAddr;

use super::{Beside, Direct};
use crate::Instant;
use crate::link::quic::{Direction, Stream};
use crate::net::PipeId;
use crate::p2p::candidate::Carrier;
use crate::peer::net::{self, Conn, Dial, Net};
use crate::peer::peer_link::PeerLink;
use crate::peer::{Peer, Stage, close};
use crate::session::{Origin, Pace};
use crate::wire::{Caps, Decoder};

/// Connections that are no links yet; more are turned away.
const MAX_OPENING: usize = 24;
/// Of those, such as came in.
const MAX_ACCEPTED: usize = 4;
/// Streams beside the first that each side may open on a QUIC connection.
const STREAMS: u8 = 16;

/// A connection that is no link yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub conn: Conn,
    round: u32,
    origin: Origin,
}

impl Direct {
    /// Lets go of those of these rounds.
    pub(super) fn close_openings(&mut self, now: Instant, of: impl Fn(u32) -> bool, net: &mut Net) {
        self.opening.retain(|opening| {
            let is_over = of(opening.round);
            if is_over {
                net.close(now, opening.conn, close::ENDED, "not needed");
            }
            !is_over
        });
    }
}

impl Peer {
    /// Takes a QUIC connection that came in, if one is expected. True: there was one.
    pub(super) fn take_openings(&mut self, now: Instant) -> bool {
        let direct = &mut self.direct;
        let accepted = direct.opening.iter().filter(|opening| matches!(opening.origin, Origin::Accepted(_))).count();
        let (racing, mut room) = (direct.racing(), MAX_ACCEPTED.saturating_sub(accepted));
        let wanted = || {
            let wanted = racing.is_some() && room > 0;
            room = room.saturating_sub(1);
            wanted
        };
        if let (Some(conn), Some(round)) = (self.net.poll_direct(now, wanted), racing) {
            direct.opening.push(Opening { conn, round, origin: Origin::Accepted(Pace::Direct) });
            return true;
        }
        false
    }

    /// Somebody of our own network connected.
    pub(in crate::peer) fn accept_direct(&mut self, now: Instant, from: SocketAddr) -> Option<PipeId> {
        let round = self.direct.racing()?;
        if self.direct.of_round(round).count() >= MAX_ACCEPTED {
            return None;
        }
        let Stage::Live { .. } = &self.stage else { return None };
        let pipe = self.net.accept_direct(now, from);
        self.become_link(
            now,
            Opening { conn: Conn::Pipe(pipe), round, origin: Origin::Accepted(Pace::Direct) },
            Stream::first(),
        );
        Some(pipe)
    }

    /// News of a connection that is no link, or no longer.
    pub(in crate::peer) fn handle_opening(&mut self, now: Instant, conn: Conn, event: &net::Event) {
        let Some(index) = self.direct.opening.iter().position(|opening| opening.conn == conn) else { return };
        let Some(&opening) = self.direct.opening.get(index) else { return };
        let stream = match (event, opening.origin) {
            (net::Event::Connected { .. }, Origin::Dialled(_)) => self.net.open_first(conn),
            (net::Event::Opened(stream, Direction::Bi), Origin::Accepted(_)) => Some(*stream),
            (net::Event::Closed(_), _) => {
                self.direct.opening.remove(index);
                self.net.close(now, conn, close::ENDED, "closed");
                // Those that are there may have waited for it.
                return self.judge_links(now);
            }
            (
                net::Event::Connected { .. }
                | net::Event::Restarted { .. }
                | net::Event::Opened(..)
                | net::Event::Readable(_)
                | net::Event::Writable(_)
                | net::Event::Finished(_),
                _,
            ) => return,
        };
        if let Some(stream) = stream {
            self.direct.opening.remove(index);
            self.become_link(now, opening, stream);
        }
    }

    fn become_link(&mut self, now: Instant, opening: Opening, main: Stream) {
        let Opening { conn, round, origin } = opening;
        let id = self.next_link();
        let Stage::Live { links, session } = &mut self.stage else {
            return self.net.close(now, conn, close::ENDED, "not needed");
        };
        let streams = match conn {
            Conn::Quic(..) => STREAMS,
            Conn::Pipe(_) => 0,
        };
        let beside = Beside { id, round, conn, since: now, proven: None, rtt: None, sealed: 0 };
        let mut link = PeerLink::new(conn, beside.transport(), Decoder::new(Caps::Records), streams, main);
        let _ = link.set_keyed(id);
        links.add(link);
        self.direct.links.push(beside);
        session.handle_link_up(now, id, streams, origin);
    }

    pub(super) fn dial_direct(&mut self, now: Instant, carrier: Carrier, to: SocketAddr, certificate: [u8; 32]) {
        let Some(round) = self.direct.racing() else { return };
        let is_full = self.direct.opening.len() >= MAX_OPENING;
        match self.net.dial_direct(now, carrier, to, certificate) {
            Dial::Started(conn) if is_full => self.net.close(now, conn, close::ENDED, "too many"),
            Dial::Started(conn) => {
                self.direct.opening.push(Opening { conn, round, origin: Origin::Dialled(Pace::Direct) })
            }
            Dial::NotYet | Dial::Impossible => {}
        }
    }
}
