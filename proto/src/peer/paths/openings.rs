//! Connections of a round that are not links yet: those that this side dials, and incoming ones while a round runs.
//!
//! A connection becomes a link when its first stream exists; the session then authenticates it. Only the sender dials
//! UDP, so only a receiver accepts UDP connections; over TCP either side may dial.
//!
//! An incoming connection can come from any machine. So incoming connections are limited until they are
//! authenticated, also when they are links already: [`MAX_EXPECTED`] from addresses that the other side sent, and
//! [`MAX_STRANGERS`] from all other addresses, because a connection may arrive before the message that contains its
//! address. Neither limit affects connections that this side dials. Bounds: these limits, and [`MAX_OPENING`]
//! connections that are not links yet.

use std::net::{IpAddr, SocketAddr};

use super::super::network::{self, ConnectionId, Dial, DirectTarget, Network};
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

/// Connections that are not links yet; further ones are rejected.
const MAX_OPENING: usize = 24;
/// Incoming connections from addresses of the other side that are not authenticated, whether they are links or not.
const MAX_EXPECTED: usize = 6;
/// Incoming connections from any other address that are not authenticated.
const MAX_STRANGERS: usize = 2;
/// Streams besides the first that each side may open on a QUIC connection.
const STREAMS: u8 = 16;

impl Direct {
    /// Closes the connections that belong to the rounds for which `of` returns true.
    pub(super) fn close_openings(&mut self, now: Instant, of: impl Fn(u32) -> bool, net: &mut Network) {
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
    /// Accepts an incoming QUIC connection if one is expected. Returns true if there was one.
    pub(super) fn take_openings(&mut self, now: Instant, net: &mut Network) -> bool {
        let racing = self.direct.racing().filter(|_| self.role == Role::Receiver);
        let wanted = |from: SocketAddr| racing.is_some() && self.has_room_for(from.ip());
        if let (Some((conn, from)), Some(round)) = (net.poll_direct(now, wanted), racing) {
            self.direct.opening.push(Opening { conn, round, from: Some(from.ip()) });
            return true;
        }
        false
    }

    /// Whether one more connection from this address may be accepted.
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

    /// An incoming TCP connection from the same network: returns its id, or `None` to reject it.
    pub fn handle_accept(&mut self, now: Instant, net: &mut Network, from: SocketAddr) -> Option<TcpId> {
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

    /// An event of a connection that is not a link, or not any more.
    pub(super) fn handle_opening(
        &mut self,
        now: Instant,
        net: &mut Network,
        conn: ConnectionId,
        event: &network::Event,
    ) {
        let Some(index) = self.direct.opening.iter().position(|opening| opening.conn == conn) else { return };
        let Some(&opening) = self.direct.opening.get(index) else { return };
        let stream = match (event, opening.origin()) {
            (network::Event::Connected { .. }, Origin::Dialled(_)) => net.open_first(conn),
            (network::Event::Opened(stream, Direction::Bi), Origin::Accepted(_)) => Some(*stream),
            (network::Event::Closed(_), _) => {
                self.direct.opening.remove(index);
                return net.close(now, conn, close::ENDED, "closed");
            }
            (
                network::Event::Connected { .. }
                | network::Event::Restarted { .. }
                | network::Event::Available(_)
                | network::Event::Stopped(..)
                | network::Event::Opened(..)
                | network::Event::Readable(_)
                | network::Event::Writable(_)
                | network::Event::Finished(_),
                _,
            ) => return,
        };
        if let Some(stream) = stream {
            self.direct.opening.remove(index);
            self.become_link(now, net, opening, stream);
        }
    }

    fn become_link(&mut self, now: Instant, net: &mut Network, opening: Opening, main: Stream) {
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

    pub(super) fn dial_direct(&mut self, now: Instant, net: &mut Network, target: &DirectTarget) {
        let Some(round) = self.direct.racing() else { return };
        if target.transport == CandidateTransport::Tcp {
            self.direct.dialled_tcp = Some(round);
        }
        let is_full = self.direct.opening.len() >= MAX_OPENING;
        match net.dial_direct(now, target) {
            Dial::Started(conn) if is_full => net.close(now, conn, close::ENDED, "too many"),
            Dial::Started(conn) => self.direct.opening.push(Opening { conn, round, from: None }),
            Dial::NotYet | Dial::Impossible => {}
        }
    }
}
