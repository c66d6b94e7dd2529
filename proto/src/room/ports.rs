//! The connections of a relay's legs, with the rules that only a relay has for them.
//!
//! That a TCP connection broke off is reported by its last event, and is not the end of what it said: until then
//! nothing more is read or taken. The pair ends where QUIC would reset or stop a stream and TCP can't. Decides nothing.
//! No timers, no bounds of its own.

use std::time::Duration;

use bytes::Bytes;

use crate::Instant;
use crate::link::connections::{ConnectionId, Connections};
use crate::link::quic::{Read, Stream, Write};
use crate::room::farewell::Farewell;

/// See the module's text.
#[derive(Default)]
pub struct Ports {
    /// All of them.
    pub connections: Connections,
}

impl Ports {
    /// The next piece: of a QUIC stream at most `max` bytes, of TCP as it came.
    pub fn read(&mut self, leg: ConnectionId, stream: Stream, max: usize) -> Read {
        match self.connections.read(leg, stream, max) {
            Read::Gone if leg.is_tcp() => Read::Blocked,
            read => read,
        }
    }

    /// Many pieces: until there is nothing more, or `max` bytes are there (of TCP, at least as many).
    pub fn read_chunks(
        &mut self,
        leg: ConnectionId,
        stream: Stream,
        max: usize,
        out: &mut Vec<Bytes>,
    ) -> (usize, Option<Read>) {
        match self.connections.read_chunks(leg, stream, max, out) {
            (taken, Some(Read::Gone)) if leg.is_tcp() => (taken, Some(Read::Blocked)),
            read => read,
        }
    }

    /// Writes what the window allows; what was taken is left empty.
    pub fn write(&mut self, now: Instant, leg: ConnectionId, stream: Stream, data: &mut [Bytes]) -> Write {
        match self.connections.write_chunks(now, leg, stream, data) {
            Write::Gone if leg.is_tcp() => Write::Blocked,
            written => written,
        }
    }

    /// Nothing more is written to a stream. TCP takes this goodbye along.
    pub fn finish(&mut self, now: Instant, leg: ConnectionId, stream: Stream, goodbye: Option<Farewell>) {
        let Farewell { code, text } = goodbye.unwrap_or(Farewell { code: 0, text: "" });
        self.connections.finish(now, leg, stream, code, text);
    }

    /// What still arrives over TCP is dropped; it is read so that its end is seen.
    pub fn discard(&mut self, leg: ConnectionId) {
        if leg.is_tcp() {
            while let Read::Data(_) = self.connections.read(leg, Stream::first(), usize::MAX) {}
        }
    }

    /// The round trip; zero of TCP, where the system has what it needs for it.
    pub fn rtt(&mut self, leg: ConnectionId) -> Duration {
        self.connections.rtt(leg).unwrap_or_default()
    }

    /// Ends a leg.
    pub fn close(&mut self, now: Instant, leg: ConnectionId, farewell: Farewell) {
        self.connections.close(now, leg, farewell.code, farewell.text);
    }

    /// A leg that ended was read for the last time.
    pub fn let_go(&mut self, now: Instant, leg: ConnectionId) {
        if leg.is_tcp() {
            self.connections.close(now, leg, 0, "");
        }
    }
}
