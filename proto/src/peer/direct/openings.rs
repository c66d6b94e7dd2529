//! Connections of a round that are no links yet: those that this side dials, and those that come in while a round races.
//!
//! One becomes a link as soon as it carries anything, and has to prove itself in the session then. UDP is dialled by
//! the sender only, so that only a receiver lets anybody in there; over TCP either side may come.
//!
//! Whoever comes in may be anybody. So what came in and has not proven itself is counted, as a link too:
//! [`MAX_EXPECTED`] from addresses that the other side named, and [`MAX_STRANGERS`] from all others, since an address
//! may reach us before the word of it does. Neither takes the places of what this side dials. Bounds: these, and
//! [`MAX_OPENING`] that are no links yet.

use std::net::{IpAddr, SocketAddr};

use super::{Beside, Direct};
use crate::Instant;
use crate::link::quic::{Direction, Stream};
use crate::net::PipeId;
use crate::p2p::candidate::Carrier;
use crate::peer::net::{self, Conn, Dial, Net};
use crate::peer::peer_link::PeerLink;
use crate::peer::{Peer, Stage, close};
use crate::session::{Origin, Pace};
use crate::wire::relay::Side;
use crate::wire::{Caps, Decoder};

/// Connections that are no links yet; more are turned away.
const MAX_OPENING: usize = 24;
/// Connections that came in from addresses of the other side and have not proven themselves, as links or not.
const MAX_EXPECTED: usize = 6;
/// The same from any other address.
const MAX_STRANGERS: usize = 2;
/// Streams beside the first that each side may open on a QUIC connection.
const STREAMS: u8 = 16;

/// A connection that is no link yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub conn: Conn,
    round: u32,
    /// It came in, from there; else it was dialled.
    from: Option<IpAddr>,
}

impl Opening {
    const fn origin(&self) -> Origin {
        match self.from {
            Some(_) => Origin::Accepted(Pace::Direct),
            None => Origin::Dialled(Pace::Direct),
        }
    }
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

    /// Whether one more may come in from there.
    fn has_room_for(&self, ip: IpAddr) -> bool {
        let unproven = self.links.iter().filter(|link| link.proven.is_none()).filter_map(|link| link.from);
        let came_in = self.opening.iter().filter_map(|opening| opening.from).chain(unproven);
        let is_expected = self.negotiation.expects(ip);
        let most = if is_expected { MAX_EXPECTED } else { MAX_STRANGERS };
        came_in.filter(|&from| self.negotiation.expects(from) == is_expected).count() < most
    }
}

impl Peer {
    /// Takes a QUIC connection that came in, if one is expected. True: there was one.
    pub(super) fn take_openings(&mut self, now: Instant) -> bool {
        let direct = &mut self.direct;
        let racing = direct.racing().filter(|_| self.side == Side::Receiver);
        let wanted = |from: SocketAddr| racing.is_some() && direct.has_room_for(from.ip());
        if let (Some((conn, from)), Some(round)) = (self.net.poll_direct(now, wanted), racing) {
            direct.opening.push(Opening { conn, round, from: Some(from.ip()) });
            return true;
        }
        false
    }

    /// Somebody of our own network connected.
    pub(in crate::peer) fn accept_direct(&mut self, now: Instant, from: SocketAddr) -> Option<PipeId> {
        let round = self.direct.racing()?;
        let from_ip = from.ip().to_canonical();
        if !self.direct.negotiation.is_near(from_ip) || !self.direct.has_room_for(from_ip) {
            return None;
        }
        let Stage::Live { .. } = &self.stage else { return None };
        let pipe = self.net.accept_direct(now, from);
        let opening = Opening { conn: Conn::Pipe(pipe), round, from: Some(from_ip) };
        self.become_link(now, opening, Stream::first());
        Some(pipe)
    }

    /// News of a connection that is no link, or no longer.
    pub(in crate::peer) fn handle_opening(&mut self, now: Instant, conn: Conn, event: &net::Event) {
        let Some(index) = self.direct.opening.iter().position(|opening| opening.conn == conn) else { return };
        let Some(&opening) = self.direct.opening.get(index) else { return };
        let stream = match (event, opening.origin()) {
            (net::Event::Connected { .. }, Origin::Dialled(_)) => self.net.open_first(conn),
            (net::Event::Opened(stream, Direction::Bi), Origin::Accepted(_)) => Some(*stream),
            (net::Event::Closed(_), _) => {
                self.direct.opening.remove(index);
                return self.net.close(now, conn, close::ENDED, "closed");
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
        let Opening { conn, round, from } = opening;
        let id = self.next_link();
        let Stage::Live { links, session } = &mut self.stage else {
            return self.net.close(now, conn, close::ENDED, "not needed");
        };
        let streams = match conn {
            Conn::Quic(..) => STREAMS,
            Conn::Pipe(_) => 0,
        };
        let beside = Beside { id, round, conn, from, since: now, proven: None, rtt: None, sealed: 0 };
        let mut link = PeerLink::new(conn, beside.transport(), Decoder::new(Caps::Records), streams, main);
        let _ = link.set_keyed(id);
        links.add(link);
        self.direct.links.push(beside);
        session.handle_link_up(now, id, streams, opening.origin());
    }

    pub(super) fn dial_direct(&mut self, now: Instant, carrier: Carrier, to: SocketAddr, certificate: [u8; 32]) {
        let Some(round) = self.direct.racing() else { return };
        if carrier == Carrier::Tcp {
            self.direct.dialled_tcp = Some(round);
        }
        let is_full = self.direct.opening.len() >= MAX_OPENING;
        match self.net.dial_direct(now, carrier, to, certificate) {
            Dial::Started(conn) if is_full => self.net.close(now, conn, close::ENDED, "too many"),
            Dial::Started(conn) => {
                self.direct.opening.push(Opening { conn, round, from: None });
            }
            Dial::NotYet | Dial::Impossible => {}
        }
    }
}
