//! The streams of an endpoint's connections: opening, reading, writing, ending.
//!
//! Decides nothing: it passes bytes between the owner and quinn-proto without copying them, returns a result for
//! invalid calls (at some of them quinn-proto would panic), and marks the connection for sending when there is data to
//! send. No state, no timers; the windows bound the buffered data.

use bytes::Bytes;
use quinn_proto as proto;

use super::Quic;
use super::event::{self, ConnId, Direction, Stream};
use super::{Read, Write};

impl Quic {
    /// Opens a bidirectional stream. `None`: the limit is reached for now, or the connection is closed.
    pub fn open_bi(&mut self, conn: ConnId) -> Option<Stream> {
        self.open(conn, proto::Dir::Bi)
    }

    /// Opens a unidirectional stream. `None`: the limit is reached for now, or the connection is closed.
    pub fn open_uni(&mut self, conn: ConnId) -> Option<Stream> {
        self.open(conn, proto::Dir::Uni)
    }

    /// The next bytes of a stream, in order, at most `max`: a view into the datagram in which they arrived.
    pub fn read(&mut self, conn: ConnId, stream: Stream, max: usize) -> Read {
        let mut one = None;
        let (_, end) = self.read_until(conn, stream, max.max(1), true, |bytes| one = Some(bytes));
        one.map_or(end.unwrap_or(Read::Blocked), Read::Data)
    }

    /// Reads many pieces at once, which is cheaper: appends them to `out` until no more can be read, or `max` bytes
    /// were read. Returns the number of bytes, and the reason why the read stopped: `None` if it reached `max`.
    pub fn read_chunks(
        &mut self,
        conn: ConnId,
        stream: Stream,
        max: usize,
        out: &mut impl Extend<Bytes>,
    ) -> (usize, Option<Read>) {
        self.read_until(conn, stream, max, false, |bytes| out.extend(std::iter::once(bytes)))
    }

    fn read_until(
        &mut self,
        conn: ConnId,
        stream: Stream,
        max: usize,
        once: bool,
        mut take: impl FnMut(Bytes),
    ) -> (usize, Option<Read>) {
        let Some(connection) = self.connections.get_mut(&conn) else { return (0, Some(Read::Gone)) };
        if stream.direction() == Direction::Uni && stream.0.initiator() == connection.inner.side() {
            return (0, Some(Read::Gone));
        }
        let mut receive = connection.inner.recv_stream(stream.0);
        let Ok(mut chunks) = receive.read(true) else { return (0, Some(Read::Gone)) };
        let (mut count, mut end) = (0_usize, None);
        while count < max && end.is_none() {
            match chunks.next(max.saturating_sub(count)) {
                Ok(Some(chunk)) => {
                    count = count.saturating_add(chunk.bytes.len());
                    take(chunk.bytes);
                    if once {
                        break;
                    }
                }
                Ok(None) => end = Some(Read::End),
                Err(proto::ReadError::Blocked) => end = Some(Read::Blocked),
                Err(proto::ReadError::Reset(code)) => end = Some(Read::Reset(event::short(code))),
            }
        }
        if chunks.finalize().should_transmit() {
            self.mark_sending(conn);
        }
        (count, end)
    }

    /// Writes as many bytes as the windows allow, without copying; `data` keeps the rest.
    pub fn write(&mut self, conn: ConnId, stream: Stream, data: &mut Bytes) -> Write {
        self.write_chunks(conn, stream, std::slice::from_mut(data))
    }

    /// Writes many pieces; the accepted pieces become empty.
    pub fn write_chunks(&mut self, conn: ConnId, stream: Stream, data: &mut [Bytes]) -> Write {
        let Some(mut send) = self.send_stream(conn, stream) else { return Write::Gone };
        let mut rest = data;
        let (mut wrote, mut result) = (false, Write::Done);
        while !rest.is_empty() {
            match send.write_chunks(rest) {
                Ok(written) => {
                    wrote = true;
                    rest = rest.get_mut(written.chunks..).unwrap_or_default();
                }
                Err(proto::WriteError::Blocked) => {
                    result = Write::Blocked;
                    break;
                }
                Err(proto::WriteError::Stopped(code)) => return Write::Stopped(event::short(code)),
                Err(proto::WriteError::ClosedStream) => return Write::Gone,
            }
        }
        if wrote && let Some(acks) = self.connections.get(&conn).and_then(|connection| connection.acks.as_ref()) {
            acks.wait();
        }
        // A blocked connection sends DATA_BLOCKED or STREAM_DATA_BLOCKED.
        if wrote || result == Write::Blocked {
            self.mark_sending(conn);
        }
        result
    }

    /// Finishes the stream; [`super::Event::Finished`] follows once all data is acknowledged.
    pub fn finish(&mut self, conn: ConnId, stream: Stream) {
        let Some(mut send) = self.send_stream(conn, stream) else { return };
        if send.finish().is_ok() {
            self.mark_sending(conn);
        }
    }

    /// Resets the sending direction: undelivered data is dropped.
    pub fn reset(&mut self, conn: ConnId, stream: Stream, code: u32) {
        let Some(mut send) = self.send_stream(conn, stream) else { return };
        if send.reset(code.into()).is_ok() {
            // The buffer space of the dropped data is available to other streams.
            self.work_on(conn);
        }
    }

    /// Stops reading: the other side receives STOP_SENDING.
    pub fn stop(&mut self, conn: ConnId, stream: Stream, code: u32) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if stream.direction() == Direction::Uni && stream.0.initiator() == connection.inner.side() {
            return;
        }
        if connection.inner.recv_stream(stream.0).stop(code.into()).is_ok() {
            self.mark_sending(conn);
        }
    }

    /// Sets the priority: streams with a higher priority send first. The initial value is 0.
    pub fn set_priority(&mut self, conn: ConnId, stream: Stream, priority: i32) {
        let Some(mut send) = self.send_stream(conn, stream) else { return };
        // A removed stream needs no priority.
        let _ = send.set_priority(priority);
    }

    fn open(&mut self, conn: ConnId, direction: proto::Dir) -> Option<Stream> {
        self.connections.get_mut(&conn)?.inner.streams().open(direction).map(Stream)
    }

    /// The sending half of a stream, if it exists.
    fn send_stream(&mut self, conn: ConnId, stream: Stream) -> Option<proto::SendStream<'_>> {
        let connection = self.connections.get_mut(&conn)?;
        let ours = stream.0.initiator() == connection.inner.side();
        (ours || stream.direction() == Direction::Bi).then(|| connection.inner.send_stream(stream.0))
    }
}
