//! The streams of an endpoint's connections: opening, reading, writing, ending.
//!
//! Decides nothing: it hands bytes between the owner and quinn-proto without copying them, gives calls that make no
//! sense an answer (quinn-proto panics at some), and marks the connection for sending when there is something to send.
//! No state, no timers; what is held is bounded by the windows.

use bytes::Bytes;
use quinn_proto as proto;

use super::Quic;
use super::event::{self, ConnId, Direction, Stream};
use super::{Read, Write};

impl Quic {
    /// Opens a stream that both sides write to. `None`: no more are allowed now, or the connection is gone.
    pub fn open_bi(&mut self, conn: ConnId) -> Option<Stream> {
        self.open(conn, proto::Dir::Bi)
    }

    /// Opens a stream that only we write to. `None`: no more are allowed now, or the connection is gone.
    pub fn open_uni(&mut self, conn: ConnId) -> Option<Stream> {
        self.open(conn, proto::Dir::Uni)
    }

    /// The next bytes of a stream, in order, at most `max`: a view into the datagram that brought them.
    pub fn read(&mut self, conn: ConnId, stream: Stream, max: usize) -> Read {
        let mut one = None;
        let (_, end) = self.read_until(conn, stream, max.max(1), true, |bytes| one = Some(bytes));
        one.map_or(end.unwrap_or(Read::Blocked), Read::Data)
    }

    /// The same for many pieces at once, which is cheaper: appends them to `out` until there is nothing more, or until
    /// `max` bytes are there (then [`Read::Blocked`] is not said). Returns how many bytes, and what stopped it: `None`
    /// for `max`.
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

    /// Writes what the windows allow, without copying; `data` keeps the rest.
    pub fn write(&mut self, conn: ConnId, stream: Stream, data: &mut Bytes) -> Write {
        self.write_chunks(conn, stream, std::slice::from_mut(data))
    }

    /// The same for many pieces; those that were taken are left empty.
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
        // Blocked says so to the other side.
        if wrote || result == Write::Blocked {
            self.mark_sending(conn);
        }
        result
    }

    /// Says that nothing more will be written; [`super::Event::Finished`] follows once all is acknowledged.
    pub fn finish(&mut self, conn: ConnId, stream: Stream) {
        let Some(mut send) = self.send_stream(conn, stream) else { return };
        if send.finish().is_ok() {
            self.mark_sending(conn);
        }
    }

    /// Gives up writing: what was not delivered is dropped.
    pub fn reset(&mut self, conn: ConnId, stream: Stream, code: u32) {
        let Some(mut send) = self.send_stream(conn, stream) else { return };
        if send.reset(code.into()).is_ok() {
            // What it had buffered is room for others.
            self.work_on(conn);
        }
    }

    /// Gives up reading: the other side is told to stop.
    pub fn stop(&mut self, conn: ConnId, stream: Stream, code: u32) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if stream.direction() == Direction::Uni && stream.0.initiator() == connection.inner.side() {
            return;
        }
        if connection.inner.recv_stream(stream.0).stop(code.into()).is_ok() {
            self.mark_sending(conn);
        }
    }

    /// Streams with a higher priority send first; all begin with 0.
    pub fn set_priority(&mut self, conn: ConnId, stream: Stream, priority: i32) {
        let Some(mut send) = self.send_stream(conn, stream) else { return };
        // A stream that is gone needs no priority.
        let _ = send.set_priority(priority);
    }

    fn open(&mut self, conn: ConnId, direction: proto::Dir) -> Option<Stream> {
        self.connections.get_mut(&conn)?.inner.streams().open(direction).map(Stream)
    }

    /// The sending half of a stream, where there is one.
    fn send_stream(&mut self, conn: ConnId, stream: Stream) -> Option<proto::SendStream<'_>> {
        let connection = self.connections.get_mut(&conn)?;
        let ours = stream.0.initiator() == connection.inner.side();
        (ours || stream.direction() == Direction::Bi).then(|| connection.inner.send_stream(stream.0))
    }
}
