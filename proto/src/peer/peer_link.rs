//! A link between two peers as a peer sees it: one connection to a relay (or to the peer itself), its first stream for
//! control, and the unidirectional streams that carry chunks. Where the connection has only the one stream, chunks
//! share it, one at a time.
//!
//! Decides which stream takes the next chunk (the first that has nothing waiting; a new one only when all wait) and
//! keeps at most one record waiting per stream, so that a record gets its number no earlier than its place. A stream is
//! read up to its next whole frame, whenever somebody asks for that, so what waits here of a link that nobody asks is
//! nothing; of all streams together it is bounded by the receiver's credit, and a sender that goes beyond it breaks a
//! rule.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::event::PathTransport;
use super::net::{ConnectionId, Net};
use crate::Instant;
use crate::link::quic::Stream;
use crate::link::{Read, Write};
use crate::session::{LinkId, StreamNo};
use crate::transfer::CREDIT;
use crate::wire::Violation;
use crate::wire::{Caps, Decoder, Frame};

/// Frames that may wait for the first stream.
const CONTROL_WAITING: usize = 4;
/// Bytes of unfinished records that all streams together may hold: the credit, and a record on each stream that is not
/// one.
const ASSEMBLY: usize = CREDIT as usize + (1 << 20);

/// A stream of ours that carries chunks.
#[derive(Debug)]
struct Outgoing {
    stream: Stream,
    waiting: Option<Bytes>,
}

/// A stream of the other side.
#[derive(Debug)]
struct Incoming {
    number: StreamNo,
    decoder: Decoder,
}

/// See the module's text.
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
    /// The first of them that waited for room.
    turn: usize,
    incoming: BTreeMap<Stream, Incoming>,
    /// Streams that opened before the session was keyed.
    early: Vec<Stream>,
    keyed: bool,
    finished: bool,
    ended: bool,
}

impl PeerLink {
    /// The link after its pairing: `decoder` holds what the other peer said already.
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

    /// What it runs over.
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

    /// How many streams beside the first each side may open.
    #[must_use]
    pub const fn max_streams(&self) -> u8 {
        self.max_streams
    }

    /// Its name in the session, once that is keyed.
    #[must_use]
    pub const fn id(&self) -> LinkId {
        self.id
    }

    /// The handshake is over: records follow, on all streams.
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
    /// More of them than were agreed on are refused by the transport.
    pub fn handle_opened(&mut self, stream: Stream) {
        if self.keyed {
            let number = StreamNo(u8::try_from(self.incoming.len().saturating_add(1)).unwrap_or(u8::MAX));
            self.incoming.insert(stream, Incoming { number, decoder: Decoder::new(Caps::Records) });
        } else {
            self.early.push(stream);
        }
    }

    /// The next frame of the first stream. No more is read than it takes to complete one, so that a link whose frames
    /// nobody asks for fills its transport's window and nothing else.
    ///
    /// # Errors
    /// The framing broke a rule.
    pub fn next_main_frame(&mut self, net: &mut Net) -> Result<Option<Frame>, Violation> {
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

    /// Whether the other side's first stream ended or was reset, and all that came before was handed out.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The bytes of the first stream's unfinished record.
    #[must_use]
    pub fn assembling_main(&self, net: &Net) -> usize {
        self.decoder.buffered().saturating_add(net.assembling(self.conn))
    }

    /// Takes what arrived on another stream, up to its next whole record.
    ///
    /// # Errors
    /// The framing broke a rule, or more arrived than there was credit for.
    pub fn read_record(&mut self, net: &mut Net, stream: Stream) -> Result<Option<(StreamNo, Frame)>, Violation> {
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

    /// The stream's number and the bytes of its unfinished record.
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

    /// The stream for the next chunk, if one has room: its number for the session.
    #[must_use]
    pub fn chunk_stream(&mut self, net: &mut Net) -> Option<StreamNo> {
        if !self.keyed || self.finished {
            return None;
        }
        if self.max_streams == 0 {
            // What is said in between must not wait behind many chunks.
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

    /// Puts a sealed chunk on the stream that [`PeerLink::chunk_stream`] named.
    pub fn queue_chunk(&mut self, stream: StreamNo, frame: Bytes) {
        match stream.0.checked_sub(1).and_then(|index| self.outgoing.get_mut(usize::from(index))) {
            Some(outgoing) => outgoing.waiting = Some(frame),
            None => self.control.push_back(frame),
        }
    }

    /// Moves what waits into the transport, control first.
    pub fn flush(&mut self, now: Instant, net: &mut Net) {
        while let Some(frame) = self.control.front_mut() {
            match net.write(now, self.conn, self.main, frame) {
                Write::Done => drop(self.control.pop_front()),
                Write::Blocked => break,
                Write::Stopped(_) | Write::Gone => self.control.clear(),
            }
        }
        // The one that has waited longest comes first: all wait for one window, and those behind would never get any of
        // it.
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

    /// Says that nothing follows on the first stream, once everything is written. Returns whether that is said.
    pub fn finish(&mut self, now: Instant, net: &mut Net) -> bool {
        if self.control.is_empty() && !self.finished {
            net.finish(now, self.conn, self.main);
            self.finished = true;
        }
        self.finished
    }

    /// Ends the connection; what is not yet acknowledged is lost.
    pub fn close(&self, now: Instant, net: &mut Net, code: u32, reason: &'static str) {
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
        let mut net = Net::new(std::time::Duration::ZERO, Seed::new([1; 32]));
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
