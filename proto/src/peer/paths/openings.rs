//! Connections of a round that are no links yet: those that this side dials, and those that come in while a round races.
//!
//! One becomes a link as soon as it carries anything, and has to prove itself in the session then. Bounds: [`MAX_OPENING`] at a time,
//! [`MAX_ACCEPTED`] of them, and of links that came in by TCP, opened by the other side.

use std::net::SocketAddr;

use super::super::net::{self, Conn, Dial, Net};
use super::super::peer_link::PeerLink;
use super::direct::Direct;
use super::links::{DirectLink, transport_of};
use super::{Output, Paths, State, close};
use crate::Instant;
use crate::link::quic::{Direction, Stream};
use crate::net::PipeId;
use crate::p2p::candidate::Carrier;
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
    pub round: u32,
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

impl Paths {
    /// Takes a QUIC connection that came in, if one is expected. True: there was one.
    pub(super) fn take_openings(&mut self, now: Instant, net: &mut Net) -> bool {
        let direct = &mut self.direct;
        let accepted = direct.opening.iter().filter(|opening| matches!(opening.origin, Origin::Accepted(_))).count();
        let (racing, mut room) = (direct.racing(), MAX_ACCEPTED.saturating_sub(accepted));
        let wanted = || {
            let wanted = racing.is_some() && room > 0;
            room = room.saturating_sub(1);
            wanted
        };
        if let (Some(conn), Some(round)) = (net.poll_direct(now, wanted), racing) {
            direct.opening.push(Opening { conn, round, origin: Origin::Accepted(Pace::Direct) });
            return true;
        }
        false
    }

    /// A TCP connection came in from our own network: its name, or `None` to turn it away.
    pub fn handle_accept(&mut self, now: Instant, net: &mut Net, from: SocketAddr) -> Option<PipeId> {
        let round = self.direct.racing()?;
        let State::Up(links) = &self.state else { return None };
        if links.of_round(round).count() >= MAX_ACCEPTED {
            return None;
        }
        let pipe = net.accept_direct(now, from);
        let opening = Opening { conn: Conn::Pipe(pipe), round, origin: Origin::Accepted(Pace::Direct) };
        self.become_link(now, net, opening, Stream::first());
        Some(pipe)
    }

    /// An event of a connection that is no link, or no longer.
    pub(super) fn handle_opening(&mut self, now: Instant, net: &mut Net, conn: Conn, event: &net::Event) {
        let Some(index) = self.direct.opening.iter().position(|opening| opening.conn == conn) else { return };
        let Some(&opening) = self.direct.opening.get(index) else { return };
        let stream = match (event, opening.origin) {
            (net::Event::Connected { .. }, Origin::Dialled(_)) => net.open_first(conn),
            (net::Event::Opened(stream, Direction::Bi), Origin::Accepted(_)) => Some(*stream),
            (net::Event::Closed(_), _) => {
                self.direct.opening.remove(index);
                net.close(now, conn, close::ENDED, "closed");
                // Those that are there may have waited for it.
                return self.judge_links(now, net);
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
            self.become_link(now, net, opening, stream);
        }
    }

    fn become_link(&mut self, now: Instant, net: &mut Net, opening: Opening, main: Stream) {
        let Opening { conn, round, origin } = opening;
        let id = self.next_id();
        let State::Up(links) = &mut self.state else {
            return net.close(now, conn, close::ENDED, "not needed");
        };
        let streams = match conn {
            Conn::Quic(..) => STREAMS,
            Conn::Pipe(_) => 0,
        };
        let mut link = PeerLink::new(conn, transport_of(conn), Decoder::new(Caps::Records), streams, main);
        let _ = link.set_keyed(id);
        links.add(link, Some(DirectLink { round, since: now, proven: None, rtt: None, sealed: 0 }));
        self.out.push_back(Output::LinkUp { link: id, streams, origin });
    }

    pub(super) fn dial_direct(
        &mut self,
        now: Instant,
        net: &mut Net,
        carrier: Carrier,
        to: SocketAddr,
        certificate: [u8; 32],
    ) {
        let Some(round) = self.direct.racing() else { return };
        let is_full = self.direct.opening.len() >= MAX_OPENING;
        match net.dial_direct(now, carrier, to, certificate) {
            Dial::Started(conn) if is_full => net.close(now, conn, close::ENDED, "too many"),
            Dial::Started(conn) => {
                self.direct.opening.push(Opening { conn, round, origin: Origin::Dialled(Pace::Direct) })
            }
            Dial::NotYet | Dial::Impossible => {}
        }
    }
}
