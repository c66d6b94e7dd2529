//! The links of all legs under one set of calls: QUIC connections, of one endpoint for each socket, and pipes.
//!
//! A pipe carries one stream, which goes by the name of the first one of a QUIC connection ([`Stream::first`]). What QUIC can say
//! about a stream and a pipe cannot (to reset it, to stop the other side) is left unsaid here; the pair ends then.
//! Decides nothing. No timers, no bounds of its own.

use std::time::Duration;

use bytes::Bytes;

use super::talk::Farewell;
use crate::Instant;
use crate::link::pipes::Pipes;
use crate::link::quic::{ConnId, Quic, Read, Stream, Write};
use crate::net::{PipeId, SocketId};

/// A client's link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LegId {
    /// A QUIC connection.
    Quic {
        /// At which socket.
        socket: SocketId,
        /// Its name there.
        conn: ConnId,
    },
    /// A TCP connection and what runs in it.
    Pipe(PipeId),
}

impl LegId {
    /// Whether it is a pipe: one stream, and no acknowledgements.
    #[must_use]
    pub const fn is_pipe(self) -> bool {
        match self {
            Self::Quic { .. } => false,
            Self::Pipe(_) => true,
        }
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Ports {
    /// One for each socket.
    pub quics: Vec<Quic>,
    /// All of them.
    pub pipes: Pipes,
}

impl Ports {
    fn quic(&mut self, leg: LegId) -> Option<(&mut Quic, ConnId)> {
        match leg {
            LegId::Quic { socket, conn } => Some((self.quics.get_mut(usize::from(socket.0))?, conn)),
            LegId::Pipe(_) => None,
        }
    }

    /// Asks a leg's other end for a sign of life; [`Self::poll_answered`] tells when there is one. False: it need not
    /// or cannot be asked, because it was heard since `fresh`, or because TLS has no question (the system notices the
    /// end of a TCP connection by itself).
    pub fn probe(&mut self, now: Instant, leg: LegId, fresh: Instant) -> bool {
        match leg {
            LegId::Quic { .. } => {
                let Some((quic, conn)) = self.quic(leg) else { return false };
                let silent = quic.heard(conn).is_none_or(|heard| heard < fresh);
                if silent {
                    quic.probe(conn);
                }
                silent
            }
            LegId::Pipe(id) => self.pipes.probe(now, id, fresh),
        }
    }

    /// The next leg that was heard after a [`Self::probe`].
    pub fn poll_answered(&mut self) -> Option<LegId> {
        let quics = (0_u8..).map(SocketId).zip(&mut self.quics);
        let mut answered = quics.filter_map(|(socket, quic)| Some(LegId::Quic { socket, conn: quic.poll_answered()? }));
        answered.next().or_else(|| self.pipes.poll_answered().map(LegId::Pipe))
    }

    /// Whether nothing at all arrived on it. (A QUIC connection begins with what arrived.)
    pub fn is_silent(&self, leg: LegId) -> bool {
        match leg {
            LegId::Quic { .. } => false,
            LegId::Pipe(id) => self.pipes.is_silent(id),
        }
    }

    /// The next piece: of a QUIC stream at most `max` bytes, of a pipe as it came.
    pub fn read(&mut self, leg: LegId, stream: Stream, max: usize) -> Read {
        match leg {
            LegId::Quic { .. } => self.quic(leg).map_or(Read::Gone, |(quic, conn)| quic.read(conn, stream, max)),
            LegId::Pipe(id) => self.read_pipe(id),
        }
    }

    /// Many pieces: until there is nothing more, or `max` bytes are there (of a pipe, at least as many).
    pub fn read_chunks(
        &mut self,
        leg: LegId,
        stream: Stream,
        max: usize,
        out: &mut Vec<Bytes>,
    ) -> (usize, Option<Read>) {
        let LegId::Pipe(id) = leg else {
            return self
                .quic(leg)
                .map_or((0, Some(Read::Gone)), |(quic, conn)| quic.read_chunks(conn, stream, max, out));
        };
        let mut taken = 0_usize;
        while taken < max {
            match self.read_pipe(id) {
                Read::Data(piece) => {
                    taken = taken.saturating_add(piece.len());
                    out.push(piece);
                }
                stopped @ (Read::Blocked | Read::End | Read::Reset(_) | Read::Gone) => return (taken, Some(stopped)),
            }
        }
        (taken, None)
    }

    /// That a pipe broke off is told by its last event, and is not the end of what it said.
    fn read_pipe(&mut self, id: PipeId) -> Read {
        match self.pipes.read(id) {
            Read::Gone => Read::Blocked,
            read @ (Read::Data(_) | Read::Blocked | Read::End | Read::Reset(_)) => read,
        }
    }

    /// Writes what the window allows; what was taken is left empty.
    pub fn write(&mut self, now: Instant, leg: LegId, stream: Stream, data: &mut [Bytes]) -> Write {
        let LegId::Pipe(id) = leg else {
            return self.quic(leg).map_or(Write::Gone, |(quic, conn)| quic.write_chunks(conn, stream, data));
        };
        for piece in data {
            match self.pipes.write(now, id, piece) {
                Write::Done => {}
                // As above: the last event follows.
                Write::Blocked | Write::Gone => return Write::Blocked,
                Write::Stopped(code) => return Write::Stopped(code),
            }
        }
        Write::Done
    }

    /// Nothing more is written to a stream. A pipe says goodbye with it, in the words that are given.
    pub fn finish(&mut self, now: Instant, leg: LegId, stream: Stream, goodbye: Option<Farewell>) {
        let Farewell { code, text } = goodbye.unwrap_or(Farewell { code: 0, text: "" });
        match leg {
            LegId::Quic { .. } => self.quic(leg).into_iter().for_each(|(quic, conn)| quic.finish(conn, stream)),
            LegId::Pipe(id) => self.pipes.finish_with(now, id, code, text),
        }
    }

    /// What a pipe still says is for nobody; it is read so that its end is seen.
    pub fn discard(&mut self, leg: LegId) {
        if let LegId::Pipe(id) = leg {
            while let Read::Data(_) = self.pipes.read(id) {}
        }
    }

    /// Gives up writing.
    pub fn reset(&mut self, leg: LegId, stream: Stream, code: u32) {
        if let Some((quic, conn)) = self.quic(leg) {
            quic.reset(conn, stream, code);
        }
    }

    /// Gives up reading.
    pub fn stop(&mut self, leg: LegId, stream: Stream, code: u32) {
        if let Some((quic, conn)) = self.quic(leg) {
            quic.stop(conn, stream, code);
        }
    }

    /// A stream of ours, if one may be opened now.
    pub fn open_uni(&mut self, leg: LegId) -> Option<Stream> {
        self.quic(leg).and_then(|(quic, conn)| quic.open_uni(conn))
    }

    /// Before the leg's other streams.
    pub fn prefer(&mut self, leg: LegId, stream: Stream) {
        if let Some((quic, conn)) = self.quic(leg) {
            quic.set_priority(conn, stream, 1);
        }
    }

    /// What a leg may hold unread, in bytes.
    pub fn set_receive_window(&mut self, leg: LegId, bytes: u64) {
        match leg {
            LegId::Quic { .. } => {
                self.quic(leg).into_iter().for_each(|(quic, conn)| quic.set_receive_window(conn, bytes))
            }
            LegId::Pipe(id) => self.pipes.set_receive_window(id, usize::try_from(bytes).unwrap_or(usize::MAX)),
        }
    }

    /// What a leg may leave unacknowledged; a pipe: what may wait for the system. In bytes.
    pub fn set_send_window(&mut self, leg: LegId, bytes: u64) {
        match leg {
            LegId::Quic { .. } => self.quic(leg).into_iter().for_each(|(quic, conn)| quic.set_send_window(conn, bytes)),
            LegId::Pipe(id) => self.pipes.set_send_window(id, usize::try_from(bytes).unwrap_or(usize::MAX)),
        }
    }

    /// The round trip; zero of a pipe, where the system has what it needs for it.
    pub fn rtt(&mut self, leg: LegId) -> Duration {
        self.quic(leg).and_then(|(quic, conn)| quic.rtt(conn)).unwrap_or_default()
    }

    /// Ends a leg.
    pub fn close(&mut self, now: Instant, leg: LegId, farewell: Farewell) {
        match leg {
            LegId::Quic { .. } => {
                let Some((quic, conn)) = self.quic(leg) else { return };
                quic.close(now, conn, farewell.code, farewell.text);
            }
            LegId::Pipe(id) => self.pipes.close(now, id, farewell.code, farewell.text),
        }
    }

    /// A leg that ended was read for the last time.
    pub fn let_go(&mut self, now: Instant, leg: LegId) {
        if let LegId::Pipe(id) = leg {
            self.pipes.close(now, id, 0, "");
        }
    }
}
