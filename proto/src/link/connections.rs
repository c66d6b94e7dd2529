//! All connections of a node with one interface for both transports: QUIC, with one endpoint for each socket, and TCP.
//!
//! A TCP connection has one stream, with the id of the first stream of a QUIC connection ([`Stream::first`]). Calls
//! that only QUIC supports (to reset a stream, to stop the other side, to open another stream) have no effect on TCP.
//! No decisions, and no timers or bounds of its own.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::proxy::ProxyFailure;
use super::quic::{self, ConnId, Direction, Quic, Stream};
use super::tcp::{self, TlsFailure};
use super::tcp_links::TcpLinks;
use super::trust::{CertificateRefused, CertificateSeen};
use super::{Read, Write};
use crate::Instant;
use crate::net::{Arrival, SocketId, TcpEvent, TcpId};

/// The id of a connection of a node; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionId {
    /// A QUIC connection: its socket, and its id in that endpoint.
    Quic(SocketId, ConnId),
    /// A TCP connection.
    Tcp(TcpId),
}

impl ConnectionId {
    /// Whether it runs over TCP: one stream, and no acknowledgements.
    #[must_use]
    pub const fn is_tcp(self) -> bool {
        match self {
            Self::Quic(..) => false,
            Self::Tcp(_) => true,
        }
    }
}

/// An event of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The connection is established: see [`quic::Event::Connected`].
    Connected {
        /// How the server was recognised.
        certificate: CertificateSeen,
    },
    /// The server rejected the early data that was sent since [`Event::Connected`]: the streams are removed, and the
    /// owner must send all data again.
    Restarted {
        /// How the server was recognised.
        certificate: CertificateSeen,
    },
    /// The other side opened a stream.
    Opened(Stream, Direction),
    /// Bytes may be readable.
    Readable(Stream),
    /// The other side permits more streams of this kind than before.
    Available(Direction),
    /// A write that was blocked may be repeated.
    Writable(Stream),
    /// The other side has acknowledged all data and the end of the stream.
    Finished(Stream),
    /// The other side has stopped reading the stream, with this code.
    Stopped(Stream, u32),
    /// The connection has ended, and this is its last event. Data that arrived before can be read immediately, but not
    /// later.
    Closed(CloseReason),
}

/// Why a connection ended, if this side did not close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Both sides have finished.
    Ended,
    /// The application of the other side closed it with this code.
    Application(u32),
    /// The server refused the connection before the handshake.
    Refused,
    /// This side refused the server's certificate.
    Certificate(CertificateRefused),
    /// The proxy refused or failed to connect.
    Proxy(ProxyFailure),
    /// The other end uses another protocol or an unsupported version.
    Incompatible,
    /// The other side violated the transport protocol.
    Protocol,
    /// Nothing was received for too long.
    TimedOut,
    /// The connection was lost, or the other end has no state of it any more.
    Lost,
}

impl From<&quic::Closed> for CloseReason {
    fn from(closed: &quic::Closed) -> Self {
        match closed {
            quic::Closed::Application { code, .. } => Self::Application(*code),
            quic::Closed::CertificateRefused(refused) => Self::Certificate(*refused),
            quic::Closed::NoCommonProtocol | quic::Closed::VersionMismatch => Self::Incompatible,
            quic::Closed::Refused => Self::Refused,
            quic::Closed::Transport { .. } => Self::Protocol,
            quic::Closed::TimedOut => Self::TimedOut,
            quic::Closed::Reset => Self::Lost,
        }
    }
}

impl From<&tcp::Closed> for CloseReason {
    fn from(closed: &tcp::Closed) -> Self {
        match closed {
            tcp::Closed::Ended => Self::Ended,
            tcp::Closed::Application { code, .. } => Self::Application(*code),
            tcp::Closed::Tls(TlsFailure::CertificateRefused(refused)) => Self::Certificate(*refused),
            tcp::Closed::Proxy(failure) => Self::Proxy(*failure),
            tcp::Closed::Tls(TlsFailure::NoCommonProtocol | TlsFailure::NotTls)
            | tcp::Closed::Upgrade(_)
            | tcp::Closed::Unknown => Self::Incompatible,
            tcp::Closed::Tls(TlsFailure::Alert(_) | TlsFailure::Broken) | tcp::Closed::WebSocket(_) => Self::Protocol,
            tcp::Closed::TimedOut => Self::TimedOut,
            tcp::Closed::WebSocketCode(_) | tcp::Closed::Lost => Self::Lost,
        }
    }
}

impl From<quic::Event> for Event {
    fn from(event: quic::Event) -> Self {
        match event {
            quic::Event::Connected { certificate } => Self::Connected { certificate },
            quic::Event::Restarted { certificate } => Self::Restarted { certificate },
            quic::Event::Opened(stream, direction) => Self::Opened(stream, direction),
            quic::Event::Readable(stream) => Self::Readable(stream),
            quic::Event::Available(direction) => Self::Available(direction),
            quic::Event::Writable(stream) => Self::Writable(stream),
            quic::Event::Finished(stream) => Self::Finished(stream),
            quic::Event::Stopped(stream, code) => Self::Stopped(stream, code),
            quic::Event::Closed(closed) => Self::Closed(CloseReason::from(&closed)),
        }
    }
}

impl From<tcp::Event> for Event {
    fn from(event: tcp::Event) -> Self {
        let stream = Stream::first();
        match event {
            tcp::Event::Connected { certificate, transport: _ } => Self::Connected { certificate },
            tcp::Event::Readable => Self::Readable(stream),
            tcp::Event::Writable => Self::Writable(stream),
            tcp::Event::Closed(closed) => Self::Closed(CloseReason::from(&closed)),
        }
    }
}

/// The connections of a node; the module's documentation describes the common interface.
#[derive(Default)]
pub struct Connections {
    endpoints: BTreeMap<SocketId, Quic>,
    /// All TCP connections.
    pub tcp_links: TcpLinks,
}

impl Connections {
    /// Adds the endpoint of a socket that was opened.
    pub fn open(&mut self, socket: SocketId, endpoint: Quic) {
        self.endpoints.insert(socket, endpoint);
    }

    /// Drops the endpoint of a socket with all its connections.
    pub fn release(&mut self, socket: SocketId) {
        self.endpoints.remove(&socket);
    }

    /// The endpoint of a socket.
    pub fn endpoint(&mut self, socket: SocketId) -> Option<&mut Quic> {
        self.endpoints.get_mut(&socket)
    }

    /// All endpoints, in the order of their sockets.
    pub fn endpoints(&self) -> impl Iterator<Item = &Quic> {
        self.endpoints.values()
    }

    /// All endpoints, mutable, in the order of their sockets.
    pub fn endpoints_mut(&mut self) -> impl Iterator<Item = &mut Quic> {
        self.endpoints.values_mut()
    }

    /// The sockets that have an endpoint.
    pub fn sockets(&self) -> impl Iterator<Item = SocketId> {
        self.endpoints.keys().copied()
    }

    fn quic(&mut self, id: ConnectionId) -> Option<(&mut Quic, ConnId)> {
        match id {
            ConnectionId::Quic(socket, conn) => Some((self.endpoint(socket)?, conn)),
            ConnectionId::Tcp(_) => None,
        }
    }

    /// Reads the next piece: at most `max` bytes of a QUIC stream, or a piece of TCP as it arrived.
    pub fn read(&mut self, id: ConnectionId, stream: Stream, max: usize) -> Read {
        match id {
            ConnectionId::Quic(..) => self.quic(id).map_or(Read::Gone, |(quic, conn)| quic.read(conn, stream, max)),
            ConnectionId::Tcp(tcp) => self.tcp_links.read(tcp),
        }
    }

    /// Reads pieces until no more bytes are readable or `max` bytes were read (from TCP, it may exceed `max`).
    pub fn read_chunks(
        &mut self,
        id: ConnectionId,
        stream: Stream,
        max: usize,
        out: &mut Vec<Bytes>,
    ) -> (usize, Option<Read>) {
        let ConnectionId::Tcp(tcp) = id else {
            return self
                .quic(id)
                .map_or((0, Some(Read::Gone)), |(quic, conn)| quic.read_chunks(conn, stream, max, out));
        };
        let mut taken = 0_usize;
        while taken < max {
            match self.tcp_links.read(tcp) {
                Read::Data(piece) => {
                    taken = taken.saturating_add(piece.len());
                    out.push(piece);
                }
                stopped @ (Read::Blocked | Read::End | Read::Reset(_) | Read::Gone) => return (taken, Some(stopped)),
            }
        }
        (taken, None)
    }

    /// Writes as many bytes as the window allows; `data` keeps the rest.
    pub fn write(&mut self, now: Instant, id: ConnectionId, stream: Stream, data: &mut Bytes) -> Write {
        match id {
            ConnectionId::Quic(..) => self.quic(id).map_or(Write::Gone, |(quic, conn)| quic.write(conn, stream, data)),
            ConnectionId::Tcp(tcp) => self.tcp_links.write(now, tcp, data),
        }
    }

    /// Writes as many bytes as the window allows; the written pieces become empty.
    pub fn write_chunks(&mut self, now: Instant, id: ConnectionId, stream: Stream, data: &mut [Bytes]) -> Write {
        let ConnectionId::Tcp(tcp) = id else {
            return self.quic(id).map_or(Write::Gone, |(quic, conn)| quic.write_chunks(conn, stream, data));
        };
        for piece in data {
            match self.tcp_links.write(now, tcp, piece) {
                Write::Done => {}
                stopped @ (Write::Blocked | Write::Gone | Write::Stopped(_)) => return stopped,
            }
        }
        Write::Done
    }

    /// Ends the sending direction of a stream. On TCP, code and reason are sent with it if the protocol supports that.
    pub fn finish(&mut self, now: Instant, id: ConnectionId, stream: Stream, code: u32, reason: &'static str) {
        match id {
            ConnectionId::Quic(..) => self.quic(id).into_iter().for_each(|(quic, conn)| quic.finish(conn, stream)),
            ConnectionId::Tcp(tcp) => self.tcp_links.finish_with(now, tcp, code, reason),
        }
    }

    /// Probes the other end of a connection; [`Self::poll_answered`] reports the response. Returns false if no probe is
    /// needed or possible: something was received since `fresh`, or TLS has no probe (the system detects the end of a
    /// TCP connection itself).
    pub fn probe(&mut self, now: Instant, id: ConnectionId, fresh: Instant) -> bool {
        match id {
            ConnectionId::Quic(..) => {
                let Some((quic, conn)) = self.quic(id) else { return false };
                let silent = quic.last_received(conn).is_none_or(|heard| heard < fresh);
                if silent {
                    quic.probe(conn);
                }
                silent
            }
            ConnectionId::Tcp(tcp) => self.tcp_links.probe(now, tcp, fresh),
        }
    }

    /// When something was received on a QUIC connection last, also before it is connected. For TCP it is not known.
    #[must_use]
    pub fn last_received(&mut self, id: ConnectionId) -> Option<Instant> {
        self.quic(id).and_then(|(quic, conn)| quic.last_received(conn))
    }

    /// The next connection on which something was received after a [`Self::probe`].
    pub fn poll_answered(&mut self) -> Option<ConnectionId> {
        let mut answered = self
            .endpoints
            .iter_mut()
            .filter_map(|(&socket, quic)| Some(ConnectionId::Quic(socket, quic.poll_answered()?)));
        answered.next().or_else(|| self.tcp_links.poll_answered().map(ConnectionId::Tcp))
    }

    /// Whether no bytes have arrived on an accepted connection. (An accepted QUIC connection begins with received
    /// bytes.)
    pub fn is_silent(&self, id: ConnectionId) -> bool {
        match id {
            ConnectionId::Quic(..) => false,
            ConnectionId::Tcp(tcp) => self.tcp_links.is_silent(tcp),
        }
    }

    /// Resets the sending direction of a stream.
    pub fn reset(&mut self, id: ConnectionId, stream: Stream, code: u32) {
        self.quic(id).into_iter().for_each(|(quic, conn)| quic.reset(conn, stream, code));
    }

    /// Stops reading a stream.
    pub fn stop(&mut self, id: ConnectionId, stream: Stream, code: u32) {
        self.quic(id).into_iter().for_each(|(quic, conn)| quic.stop(conn, stream, code));
    }

    /// The first stream of a connection that this side dialled.
    pub fn open_first(&mut self, id: ConnectionId) -> Option<Stream> {
        match id {
            ConnectionId::Quic(..) => self.quic(id).and_then(|(quic, conn)| quic.open_bi(conn)),
            ConnectionId::Tcp(_) => Some(Stream::first()),
        }
    }

    /// Opens a unidirectional stream, if the other side permits one now.
    pub fn open_uni(&mut self, id: ConnectionId) -> Option<Stream> {
        self.quic(id).and_then(|(quic, conn)| quic.open_uni(conn))
    }

    /// Gives a stream priority over the other streams of its connection.
    pub fn prefer(&mut self, id: ConnectionId, stream: Stream) {
        self.quic(id).into_iter().for_each(|(quic, conn)| quic.set_priority(conn, stream, 1));
    }

    /// Sets how many unread bytes a connection may buffer.
    pub fn set_receive_window(&mut self, id: ConnectionId, bytes: u64) {
        match id {
            ConnectionId::Quic(..) => {
                self.quic(id).into_iter().for_each(|(quic, conn)| quic.set_receive_window(conn, bytes));
            }
            ConnectionId::Tcp(tcp) => {
                self.tcp_links.set_receive_window(tcp, usize::try_from(bytes).unwrap_or(usize::MAX));
            }
        }
    }

    /// Sets how many unacknowledged bytes a connection may have; for TCP, how many bytes may wait for the socket.
    pub fn set_send_window(&mut self, id: ConnectionId, bytes: u64) {
        match id {
            ConnectionId::Quic(..) => {
                self.quic(id).into_iter().for_each(|(quic, conn)| quic.set_send_window(conn, bytes));
            }
            ConnectionId::Tcp(tcp) => self.tcp_links.set_send_window(tcp, usize::try_from(bytes).unwrap_or(usize::MAX)),
        }
    }

    /// The round-trip time of the connection, if it is known; it is unknown for TCP.
    pub fn rtt(&mut self, id: ConnectionId) -> Option<Duration> {
        self.quic(id).and_then(|(quic, conn)| quic.rtt(conn))
    }

    /// The number of bytes received on a connection, if it is counted.
    pub fn received(&mut self, id: ConnectionId) -> Option<u64> {
        self.quic(id).and_then(|(quic, conn)| quic.stats(conn)).map(|stats| stats.received_bytes)
    }

    /// Closes a connection. Finished streams are still sent; other data in flight may be lost.
    pub fn close(&mut self, now: Instant, id: ConnectionId, code: u32, reason: &'static str) {
        match id {
            ConnectionId::Quic(..) => {
                self.quic(id).into_iter().for_each(|(quic, conn)| quic.close(now, conn, code, reason));
            }
            ConnectionId::Tcp(tcp) => self.tcp_links.close(now, tcp, code, reason),
        }
    }

    /// Passes a datagram to the endpoint of its socket.
    pub fn handle_datagram(&mut self, now: Instant, arrival: &Arrival, data: BytesMut) {
        if let Some(quic) = self.endpoint(arrival.socket) {
            quic.handle_datagram(now, arrival, data);
        }
    }

    /// Processes an event of a TCP connection.
    pub fn handle_tcp(&mut self, now: Instant, tcp: TcpId, event: TcpEvent) {
        self.tcp_links.handle_tcp(now, tcp, event);
    }

    /// See [`crate::node::Node::poll_tcp`].
    #[must_use]
    pub fn poll_tcp(&mut self) -> Option<TcpId> {
        self.tcp_links.poll_tcp()
    }

    /// See [`crate::node::Node::pipe_buffer`].
    #[must_use]
    pub fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        self.tcp_links.buffer(tcp)
    }

    /// See [`crate::node::Node::pipe_output`].
    #[must_use]
    pub fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        self.tcp_links.output(tcp, slices)
    }

    /// Processes all pending work of the endpoints and the TCP connections.
    pub fn settle(&mut self, now: Instant) {
        self.endpoints_mut().for_each(|quic| quic.settle(now));
        self.tcp_links.settle();
    }

    /// The next event of any connection.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<(ConnectionId, Event)> {
        if let Some((tcp, event)) = self.tcp_links.poll_event() {
            return Some((ConnectionId::Tcp(tcp), event.into()));
        }
        self.endpoints.iter_mut().find_map(|(&socket, quic)| {
            quic.poll_event().map(|(conn, event)| (ConnectionId::Quic(socket, conn), event.into()))
        })
    }

    /// The earliest deadline of the endpoints.
    #[must_use]
    pub fn poll_endpoint_timeout(&self) -> Option<Instant> {
        self.endpoints().filter_map(Quic::poll_timeout).min()
    }

    /// Whether all written data was sent.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.endpoints().all(Quic::is_flushed) && self.tcp_links.is_empty()
    }

    /// How many times a connection was processed. Tests use it to check that the work does not depend on the number of
    /// connections.
    #[cfg(test)]
    #[must_use]
    pub fn visits(&self) -> u64 {
        self.endpoints().map(Quic::visits).fold(self.tcp_links.visits(), u64::saturating_add)
    }
}
