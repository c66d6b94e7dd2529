//! A link between two peers: one connection to a relay (or to the peer itself), its first stream for control
//! messages, and unidirectional streams for chunks. If the connection has only the one stream, chunks share it, one
//! at a time.
//!
//! It decides which stream takes the next chunk (the first on which nothing waits; a new one only when data waits on
//! all). At most one record waits on each stream, so a record gets its number only when it has a place. A stream is
//! read up to its next complete frame, and only on request, so a link that is not read buffers nothing here. The sum
//! over all streams is bounded by the receiver's credit; a sender that exceeds it violates the protocol.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::event::PathTransport;
use super::network::{ConnectionId, Network};
use crate::Instant;
use crate::link::quic::Stream;
use crate::link::{Read, Write};
use crate::session::{LinkId, StreamNo};
use crate::transfer::CREDIT;
use crate::wire::Violation;
use crate::wire::{Caps, Decoder, Frame};

/// Frames that may wait for room on the first stream.
const CONTROL_WAITING: usize = 4;
/// Bytes of incomplete records that all streams together may hold: the credit, and on each stream one record that is
/// not a chunk.
const ASSEMBLY: usize = CREDIT as usize + (1 << 20);

/// A stream of this side for chunks.
#[derive(Debug)]
struct Outgoing {
    stream: Stream,
    waiting: Option<Bytes>,
}

/// A stream that the other side opened.
#[derive(Debug)]
struct Incoming {
    number: StreamNo,
    decoder: Decoder,
}

/// A link between two peers; see the module documentation.
#[derive(Debug)]
pub struct PeerLink {
    id: LinkId,
    conn: ConnectionId,
    transport: PathTransport,
    main: Stream,
    decoder: Decoder,
    control: VecDeque<Bytes>,
    max_streams: u8,
    outgoing: Vec<Outgoing>,
    /// The index of the stream that has waited longest for room.
    turn: usize,
    incoming: BTreeMap<Stream, Incoming>,
    /// Streams that the other side opened before the session was keyed.
    early: Vec<Stream>,
    keyed: bool,
    finished: bool,
    ended: bool,
}

impl PeerLink {
    /// Creates the link after its pairing: `decoder` holds what was received from the other peer already.
    #[must_use]
    pub fn new(conn: ConnectionId, transport: PathTransport, decoder: Decoder, max_streams: u8, main: Stream) -> Self {
        Self {
            id: LinkId(0),
            conn,
            transport,
            main,
            decoder,
            control: VecDeque::new(),
            max_streams,
            outgoing: Vec::new(),
            turn: 0,
            incoming: BTreeMap::new(),
            early: Vec::new(),
            keyed: false,
            finished: false,
            ended: false,
        }
    }

    /// The transport of the connection.
    #[must_use]
    pub const fn transport(&self) -> PathTransport {
        self.transport
    }

    /// The connection.
    #[must_use]
    pub const fn conn(&self) -> ConnectionId {
        self.conn
    }

    /// The first stream.
    #[must_use]
    pub const fn main(&self) -> Stream {
        self.main
    }

    /// How many streams besides the first each side may open.
    #[must_use]
    pub const fn max_streams(&self) -> u8 {
        self.max_streams
    }

    /// The link's id in the session, once that is keyed.
    #[must_use]
    pub const fn id(&self) -> LinkId {
        self.id
    }

    /// The handshake is complete: records follow, on all streams.
    pub fn set_keyed(&mut self, id: LinkId) -> Vec<Stream> {
        (self.id, self.keyed) = (id, true);
        self.decoder.set_caps(Caps::Records);
        let early = std::mem::take(&mut self.early);
        for &stream in &early {
            self.handle_opened(stream);
        }
        early
    }

    /// The other side opened a stream.
    ///
    /// The transport rejects more streams than were agreed on.
    pub fn handle_opened(&mut self, stream: Stream) {
        if self.keyed {
            let number = StreamNo(u8::try_from(self.incoming.len().saturating_add(1)).unwrap_or(u8::MAX));
            self.incoming.insert(stream, Incoming { number, decoder: Decoder::new(Caps::Records) });
        } else {
            self.early.push(stream);
        }
    }

    /// The next frame of the first stream. It reads no more than one frame needs, so a link whose frames are not
    /// taken fills only its transport's window.
    ///
    /// # Errors
    /// The other side violated the framing.
    pub fn next_main_frame(&mut self, net: &mut Network) -> Result<Option<Frame>, Violation> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match net.read(self.conn, self.main) {
                Read::Data(bytes) => self.decoder.push(bytes),
                Read::Blocked => return Ok(None),
                Read::End | Read::Reset(_) | Read::Gone => {
                    self.ended = true;
                    return Ok(None);
                }
            }
        }
    }

    /// Whether the other side's first stream ended or was reset, and all frames before that were returned.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The bytes of the first stream's incomplete record.
    #[must_use]
    pub fn assembling_main(&self, net: &Network) -> usize {
        self.decoder.buffered().saturating_add(net.assembling(self.conn))
    }

    /// Reads another stream up to its next complete record.
    ///
    /// # Errors
    /// The other side violated the framing, or sent more than its credit.
    pub fn read_record(&mut self, net: &mut Network, stream: Stream) -> Result<Option<(StreamNo, Frame)>, Violation> {
        loop {
            let Some(incoming) = self.incoming.get_mut(&stream) else { return Ok(None) };
            if let Some(frame) = incoming.decoder.next_frame()? {
                return Ok(Some((incoming.number, frame)));
            }
            match net.read(self.conn, stream) {
                Read::Data(bytes) => incoming.decoder.push(bytes),
                Read::Blocked | Read::End | Read::Reset(_) | Read::Gone => {
                    let assembled = self.incoming.values().map(|incoming| incoming.decoder.buffered()).sum::<usize>();
                    return if assembled > ASSEMBLY { Err(Violation::BeyondCredit) } else { Ok(None) };
                }
            }
        }
    }

    /// The stream's number and the bytes of its incomplete record.
    #[must_use]
    pub fn assembling(&self, stream: Stream) -> Option<(StreamNo, usize)> {
        self.incoming.get(&stream).map(|incoming| (incoming.number, incoming.decoder.buffered()))
    }

    /// Whether another control frame may be queued.
    #[must_use]
    pub fn wants_control(&self) -> bool {
        self.control.len() < CONTROL_WAITING && !self.finished
    }

    /// Queues a frame for the first stream.
    pub fn queue_control(&mut self, frame: Bytes) {
        self.control.push_back(frame);
    }

    /// The stream for the next chunk, if one has room: its number in the session.
    #[must_use]
    pub fn chunk_stream(&mut self, net: &mut Network) -> Option<StreamNo> {
        if !self.keyed || self.finished {
            return None;
        }
        if self.max_streams == 0 {
            // Control messages must not wait behind many chunks.
            return self.control.is_empty().then_some(StreamNo(0));
        }
        if let Some(index) = self.outgoing.iter().position(|outgoing| outgoing.waiting.is_none()) {
            return Some(stream_no(index));
        }
        if self.outgoing.len() >= usize::from(self.max_streams) {
            return None;
        }
        let stream = net.open_uni(self.conn)?;
        self.outgoing.push(Outgoing { stream, waiting: None });
        Some(stream_no(self.outgoing.len().saturating_sub(1)))
    }

    /// Queues a sealed chunk on the stream that [`PeerLink::chunk_stream`] returned.
    pub fn queue_chunk(&mut self, stream: StreamNo, frame: Bytes) {
        match stream.0.checked_sub(1).and_then(|index| self.outgoing.get_mut(usize::from(index))) {
            Some(outgoing) => outgoing.waiting = Some(frame),
            None => self.control.push_back(frame),
        }
    }

    /// Writes queued data to the transport, control first.
    pub fn flush(&mut self, now: Instant, net: &mut Network) {
        while let Some(frame) = self.control.front_mut() {
            match net.write(now, self.conn, self.main, frame) {
                Write::Done => drop(self.control.pop_front()),
                Write::Blocked => break,
                Write::Stopped(_) | Write::Gone => self.control.clear(),
            }
        }
        // The stream that has waited longest is served first: all streams share one window, and the later ones would
        // never get any of it otherwise.
        let mut blocked = None;
        let count = self.outgoing.len();
        for index in (self.turn..count).chain(0..self.turn.min(count)) {
            let Some(outgoing) = self.outgoing.get_mut(index) else { continue };
            let Some(frame) = &mut outgoing.waiting else { continue };
            match net.write(now, self.conn, outgoing.stream, frame) {
                Write::Blocked => blocked = blocked.or(Some(index)),
                Write::Done | Write::Stopped(_) | Write::Gone => outgoing.waiting = None,
            }
        }
        self.turn = blocked.unwrap_or(self.turn);
    }

    /// Ends the first stream once everything is written. Returns whether it has ended.
    pub fn finish(&mut self, now: Instant, net: &mut Network) -> bool {
        if self.control.is_empty() && !self.finished {
            net.finish(now, self.conn, self.main);
            self.finished = true;
        }
        self.finished
    }

    /// Closes the connection; data that is not yet acknowledged is lost.
    pub fn close(&self, now: Instant, net: &mut Network, code: u32, reason: &'static str) {
        net.close(now, self.conn, code, reason);
    }
}

fn stream_no(index: usize) -> StreamNo {
    StreamNo(u8::try_from(index.saturating_add(1)).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::TcpEvent;
    use crate::seed::Seed;
    use crate::wire::frame::{CHUNK, KIND_CHUNK, PREFIX};

    #[test]
    fn partial_record_bytes_count_as_received() {
        let now = Instant::now();
        let mut net = Network::new(std::time::Duration::ZERO, Seed::new([1; 32]));
        let tcp = net.accept_direct(now, "192.0.2.7:4000".parse().unwrap());
        let conn = ConnectionId::Tcp(tcp);
        let mut link = PeerLink::new(conn, PathTransport::Tcp, Decoder::new(Caps::Records), 0, Stream::first());
        net.settle(now);
        net.prove(conn);
        let record = [&u32::try_from(CHUNK).unwrap().to_be_bytes()[..], &[KIND_CHUNK; 100_000]].concat();
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            let room = net.pipe_buffer(tcp);
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            net.handle_tcp(now, tcp, TcpEvent::Filled(count));
            rest = &rest[count..];
            assert!(link.next_main_frame(&mut net).unwrap().is_none());
            assert!(!link.has_ended());
            assert_eq!(link.assembling_main(&net), record.len() - rest.len());
        }
        assert_eq!(net.assembling(conn), 100_000, "most of them in the buffer in which it will be opened");
        assert_eq!(link.decoder.buffered(), PREFIX);
    }
}
