//! Connections of a round that are no links yet: those that this side dials, and those that come in while a round
//! races.
//!
//! One becomes a link as soon as it carries anything, and has to prove itself in the session then. UDP is dialled by
//! the sender only, so that only a receiver lets connections in there; over TCP either side may come.
//!
//! Any machine may be at the other end of what comes in. So what came in and has not proven itself is counted, as a
//! link too: [`MAX_EXPECTED`] from addresses that the other side named, and [`MAX_STRANGERS`] from all others, since an
//! address may reach us before the message that names it does. Neither takes the places of what this side dials.
//! Bounds: these, and [`MAX_OPENING`] that are no links yet.

use std::net::{IpAddr, SocketAddr};

use super::super::net::{self, ConnectionId, Dial, Net};
use super::super::peer_link::PeerLink;
use super::direct::Direct;
use super::links::{DirectLink, transport_of};
use super::opening::Opening;
use super::{Output, Paths, State, close};
use crate::Instant;
use crate::link::quic::{Direction, Stream};
use crate::net::TcpId;
use crate::p2p::candidate::CandidateTransport;
use crate::session::Origin;
use crate::wire::relay::Role;
use crate::wire::{Caps, Decoder};

/// Connections that are no links yet; more are turned away.
const MAX_OPENING: usize = 24;
/// Connections that came in from addresses of the other side and have not proven themselves, as links or not.
const MAX_EXPECTED: usize = 6;
/// The same from any other address.
const MAX_STRANGERS: usize = 2;
/// Streams beside the first that each side may open on a QUIC connection.
const STREAMS: u8 = 16;

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
        let racing = self.direct.racing().filter(|_| self.role == Role::Receiver);
        let wanted = |from: SocketAddr| racing.is_some() && self.has_room_for(from.ip());
        if let (Some((conn, from)), Some(round)) = (net.poll_direct(now, wanted), racing) {
            self.direct.opening.push(Opening { conn, round, from: Some(from.ip()) });
            return true;
        }
        false
    }

    /// Whether one more may come in from there.
    fn has_room_for(&self, ip: IpAddr) -> bool {
        let negotiation = &self.direct.negotiation;
        let is_expected = negotiation.expects(ip);
        let links = match &self.state {
            State::Up(links) => Some(links.iter()),
            State::Down | State::Closing(..) => None,
        };
        let directs = links.into_iter().flatten().filter_map(|link| link.direct);
        let unproven = directs.filter(|link| link.proven.is_none()).filter_map(|link| link.from);
        let came_in = self.direct.opening.iter().filter_map(|opening| opening.from).chain(unproven);
        let most = if is_expected { MAX_EXPECTED } else { MAX_STRANGERS };
        came_in.filter(|&from| negotiation.expects(from) == is_expected).count() < most
    }

    /// A TCP connection came in from our own network: its name, or `None` to turn it away.
    pub fn handle_accept(&mut self, now: Instant, net: &mut Net, from: SocketAddr) -> Option<TcpId> {
        let round = self.direct.racing()?;
        let from_ip = from.ip().to_canonical();
        if !self.direct.negotiation.is_near(from_ip) || !self.has_room_for(from_ip) {
            return None;
        }
        let State::Up(_) = &self.state else { return None };
        let tcp = net.accept_direct(now, from);
        let opening = Opening { conn: ConnectionId::Tcp(tcp), round, from: Some(from_ip) };
        self.become_link(now, net, opening, Stream::first());
        Some(tcp)
    }

    /// An event of a connection that is no link, or no longer.
    pub(super) fn handle_opening(&mut self, now: Instant, net: &mut Net, conn: ConnectionId, event: &net::Event) {
        let Some(index) = self.direct.opening.iter().position(|opening| opening.conn == conn) else { return };
        let Some(&opening) = self.direct.opening.get(index) else { return };
        let stream = match (event, opening.origin()) {
            (net::Event::Connected { .. }, Origin::Dialled(_)) => net.open_first(conn),
            (net::Event::Opened(stream, Direction::Bi), Origin::Accepted(_)) => Some(*stream),
            (net::Event::Closed(_), _) => {
                self.direct.opening.remove(index);
                return net.close(now, conn, close::ENDED, "closed");
            }
            (
                net::Event::Connected { .. }
                | net::Event::Restarted { .. }
                | net::Event::Available(_)
                | net::Event::Stopped(..)
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
        let Opening { conn, round, from } = opening;
        let id = self.next_id();
        let State::Up(links) = &mut self.state else {
            return net.close(now, conn, close::ENDED, "not needed");
        };
        let streams = match conn {
            ConnectionId::Quic(..) => STREAMS,
            ConnectionId::Tcp(_) => 0,
        };
        let mut link = PeerLink::new(conn, transport_of(conn), Decoder::new(Caps::Records), streams, main);
        let _ = link.set_keyed(id);
        links.add(link, Some(DirectLink { round, from, since: now, proven: None, rtt: None, sealed: 0 }));
        self.out.push_back(Output::LinkUp { link: id, streams, origin: opening.origin() });
    }

    pub(super) fn dial_direct(
        &mut self,
        now: Instant,
        net: &mut Net,
        transport: CandidateTransport,
        to: SocketAddr,
        certificate: [u8; 32],
    ) {
        let Some(round) = self.direct.racing() else { return };
        if transport == CandidateTransport::Tcp {
            self.direct.dialled_tcp = Some(round);
        }
        let is_full = self.direct.opening.len() >= MAX_OPENING;
        match net.dial_direct(now, transport, to, certificate) {
            Dial::Started(conn) if is_full => net.close(now, conn, close::ENDED, "too many"),
            Dial::Started(conn) => self.direct.opening.push(Opening { conn, round, from: None }),
            Dial::NotYet | Dial::Impossible => {}
        }
    }
}
