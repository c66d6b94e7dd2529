//! The connections of a relay's legs, with the relay's own rules for them.
//!
//! A TCP connection that broke off may still have data to read, until its last event reports the end. Until then, reads
//! and writes return `Blocked` instead of `Gone`. Where QUIC would reset or stop a stream and TCP cannot, the pair
//! ends. Decides nothing. No timers, no bounds of its own.

use std::time::Duration;

use bytes::Bytes;

use crate::Instant;
use crate::link::connections::{ConnectionId, Connections};
use crate::link::quic::{Read, Stream, Write};
use crate::room::farewell::Farewell;

/// The connections of a relay; see the module documentation.
#[derive(Default)]
pub struct Ports {
    /// All connections.
    pub connections: Connections,
}

impl Ports {
    /// Reads the next piece: at most `max` bytes from a QUIC stream; from TCP, one piece as it arrived.
    pub fn read(&mut self, leg: ConnectionId, stream: Stream, max: usize) -> Read {
        match self.connections.read(leg, stream, max) {
            Read::Gone if leg.is_tcp() => Read::Blocked,
            read => read,
        }
    }

    /// Reads several pieces: until there are no more, or `max` bytes were read (from TCP, at least `max`).
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

    /// Writes what the window allows; empties the pieces that were accepted.
    pub fn write(&mut self, now: Instant, leg: ConnectionId, stream: Stream, data: &mut [Bytes]) -> Write {
        match self.connections.write_chunks(now, leg, stream, data) {
            Write::Gone if leg.is_tcp() => Write::Blocked,
            written => written,
        }
    }

    /// Finishes a stream. On TCP, the close code is sent with the end.
    pub fn finish(&mut self, now: Instant, leg: ConnectionId, stream: Stream, goodbye: Option<Farewell>) {
        let Farewell { code, text } = goodbye.unwrap_or(Farewell { code: 0, text: "" });
        self.connections.finish(now, leg, stream, code, text);
    }

    /// Reads and drops all data that still arrives over TCP, so that its end is noticed.
    pub fn discard(&mut self, leg: ConnectionId) {
        if leg.is_tcp() {
            while let Read::Data(_) = self.connections.read(leg, Stream::first(), usize::MAX) {}
        }
    }

    /// The round-trip time. It is zero for TCP, where the system's buffers cover the round trip.
    pub fn rtt(&mut self, leg: ConnectionId) -> Duration {
        self.connections.rtt(leg).unwrap_or_default()
    }

    /// Closes a leg.
    pub fn close(&mut self, now: Instant, leg: ConnectionId, farewell: Farewell) {
        self.connections.close(now, leg, farewell.code, farewell.text);
    }

    /// Closes a TCP leg that ended, after its last data was read.
    pub fn close_ended(&mut self, now: Instant, leg: ConnectionId) {
        if leg.is_tcp() {
            self.connections.close(now, leg, 0, "");
        }
    }
}
