//! A leg before it is paired: its first stream, the frames on it, and the relay's answers.
//!
//! ```text
//! open ──► talking ──(the owner sends a farewell)──► leaving ──(all acknowledged, or too late)──► over
//! ```
//! Decides when the relay reads from the leg: only when the client has accepted all earlier answers, so that a client
//! which sends requests and does not read cannot make the relay buffer its answers. Bounds: one frame of at most 4 KiB,
//! and the answers to one request. Timers: the greeting's, and [`LINGER`] for the farewell.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::farewell::Farewell;
use super::greeting::{Ending, Greeting, Output, Request};
use super::ports::Ports;
use crate::Instant;
use crate::link::connections::ConnectionId;
use crate::link::quic::{Read, Stream, Write};
use crate::seed::Seed;
use crate::wire::Violation;
use crate::wire::frame::{GREETING, PREFIX, enclose};
use crate::wire::relay::RelayMessage;
use crate::wire::{self, Caps, Decoder};

/// How long a farewell may take to be acknowledged.
pub const LINGER: Duration = Duration::from_secs(2);

/// What the owner must do next.
#[derive(Debug)]
pub enum Step {
    /// Nothing: the client does not read, or has sent no complete frame.
    Waits,
    /// Answer this request.
    Asks(Request),
    /// The greeting is over: send a farewell.
    Ends(Ending),
    /// The client closed or reset its stream.
    Left,
    /// The farewell was sent: close the leg.
    Over(Farewell),
}

/// The conversation with one client before it is paired; see the module documentation.
#[derive(Debug)]
pub struct PendingClient {
    main: Option<Stream>,
    greeting: Greeting,
    decoder: Decoder,
    out: Vec<Bytes>,
    leaving: Option<Leaving>,
}

#[derive(Debug)]
struct Leaving {
    farewell: Farewell,
    until: Instant,
    finished: bool,
    acknowledged: bool,
}

impl PendingClient {
    /// A new client.
    #[must_use]
    pub fn new(now: Instant, observed: SocketAddr, password: Option<Arc<str>>, seed: &Seed) -> Self {
        Self {
            main: None,
            greeting: Greeting::new(now, observed, password, seed),
            decoder: Decoder::new(Caps::Greeting),
            out: Vec::new(),
            leaving: None,
        }
    }

    /// The client opened its first bidirectional stream, or its TCP connection is open. Returns false if it had one
    /// already.
    #[must_use]
    pub fn open(&mut self, stream: Stream) -> bool {
        self.main.replace(stream).is_none()
    }

    /// The first stream.
    #[must_use]
    pub const fn main(&self) -> Option<Stream> {
        self.main
    }

    /// Continues the conversation up to the next thing that the owner must do.
    pub fn step(&mut self, now: Instant, ports: &mut Ports, leg: ConnectionId) -> Step {
        loop {
            if !self.flush(now, ports, leg) {
                return Step::Waits;
            }
            if self.leaving.is_some() {
                return self.leave(now, ports, leg);
            }
            match self.greeting.poll_output() {
                Some(Output::Send(body)) => self.out.push(enclose(&body)),
                Some(Output::Request(request)) => return Step::Asks(request),
                Some(Output::Close(ending)) => return Step::Ends(ending),
                None => match self.decoder.next_frame() {
                    Ok(Some(frame)) => self.greeting.handle_frame(&frame.into_bytes()),
                    Err(violation) => return Step::Ends(Ending::Violation(violation)),
                    Ok(None) => match self.read(ports, leg) {
                        Read::Data(bytes) => self.decoder.push(bytes),
                        Read::Blocked => return Step::Waits,
                        Read::End | Read::Reset(_) | Read::Gone => return Step::Left,
                    },
                },
            }
        }
    }

    /// See [`Greeting::set_wait`].
    pub const fn set_wait(&mut self, wait: Option<u32>) {
        self.greeting.set_wait(wait);
    }

    /// Queues a message for the client. The next [`PendingClient::step`] or [`PendingClient::flush`] writes it.
    pub fn say(&mut self, message: &RelayMessage) {
        self.out.push(enclose(&wire::encode(message)));
    }

    /// The request was refused; the client may send another one.
    pub fn answered(&mut self, now: Instant) {
        self.greeting.answered(now);
    }

    /// The client has a seat.
    pub fn seated(&mut self) {
        self.greeting.seated();
    }

    /// The queued messages are the last ones: the leg closes once the client acknowledged them.
    pub fn farewell(&mut self, now: Instant, farewell: Farewell) {
        if self.leaving.is_none() {
            let until = now.checked_add(LINGER).unwrap_or(now);
            self.leaving = Some(Leaving { farewell, until, finished: false, acknowledged: false });
        }
    }

    /// The client acknowledged all data on its first stream.
    pub fn handle_finished(&mut self) {
        if let Some(leaving) = &mut self.leaving {
            leaving.acknowledged = true;
        }
    }

    /// A deadline may have passed. Returns true if the client was too slow to send a request or to read its answers;
    /// the owner must close it.
    #[must_use]
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        match &mut self.leaving {
            Some(leaving) => {
                leaving.acknowledged |= leaving.until <= now;
                false
            }
            None => self.greeting.poll_timeout().is_some_and(|deadline| deadline <= now),
        }
    }

    /// When [`PendingClient::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.leaving.as_ref().map_or_else(|| self.greeting.poll_timeout(), |leaving| Some(leaving.until))
    }

    /// Writes the queued messages. Returns false if the client does not accept them now.
    pub fn flush(&mut self, now: Instant, ports: &mut Ports, leg: ConnectionId) -> bool {
        let Some(main) = self.main.filter(|_| !self.out.is_empty()) else {
            self.out.clear();
            return true;
        };
        match ports.write(now, leg, main, &mut self.out) {
            Write::Blocked if self.late() => true,
            Write::Blocked => {
                self.out.retain(|piece| !piece.is_empty());
                false
            }
            // A client that stopped the stream gets no answers. Its disconnect is reported elsewhere.
            Write::Done | Write::Stopped(_) | Write::Gone => {
                self.out.clear();
                true
            }
        }
    }

    /// Data that the client sent after its request.
    #[must_use]
    pub fn into_rest(self) -> VecDeque<Bytes> {
        self.decoder.into_rest()
    }

    fn late(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.acknowledged)
    }

    fn leave(&mut self, now: Instant, ports: &mut Ports, leg: ConnectionId) -> Step {
        let Some(leaving) = &mut self.leaving else { return Step::Waits };
        if leg.is_tcp() {
            // TCP's close delivers the pending data by itself, and the close code is the only end that it can signal.
            return Step::Over(leaving.farewell);
        }
        if let (Some(main), false) = (self.main, leaving.finished) {
            ports.finish(now, leg, main, None);
        }
        leaving.finished = true;
        if leaving.acknowledged || self.main.is_none() { Step::Over(leaving.farewell) } else { Step::Waits }
    }

    fn read(&self, ports: &mut Ports, leg: ConnectionId) -> Read {
        let Some(main) = self.main else { return Read::Blocked };
        // Read one frame only: the data after it may be for the peer, and stays where flow control limits it.
        let room = GREETING.saturating_add(PREFIX).saturating_sub(self.decoder.buffered());
        ports.read(leg, main, room.max(1))
    }
}

/// The text for a violation in the close reason.
#[must_use]
pub const fn text(violation: Violation) -> &'static str {
    if matches!(violation, Violation::FrameTooLong) { "message too large" } else { "malformed or unexpected message" }
}
