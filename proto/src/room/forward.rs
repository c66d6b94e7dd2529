//! Forwards bytes between two paired legs.
//!
//! Decides when a stream is read, how much of it is buffered, and how large the legs' windows are. Data on one leg's
//! first stream goes to the other leg's first stream. When both legs are QUIC connections, the relay opens a stream on
//! the other leg for each unidirectional stream that a leg opens, in the same order. The relay forwards FIN,
//! RESET_STREAM and STOP_SENDING too. It decodes nothing and forwards pieces as they arrive. Only small pieces are
//! copied together, since a piece of one byte may keep a whole datagram in memory, and a TCP connection seals or frames
//! each piece on its own.
//!
//! ```text
//! flow (one stream, one direction): open ──(FIN, or its leg is closed)──► draining ──(all written)──► removed
//! pair: both legs open ──(one closed)──► its last bytes are delivered ──(acknowledged; on TCP: closed too)──► over
//! ```
//! When a leg is closed, the relay finishes that leg's streams at the other leg, because only a finished stream is
//! acknowledged as a whole. The FIN proves nothing to a peer: the peers' own protocol marks the end of the data.
//!
//! The relay reads from a stream only when it has written everything that it read from it before. So each sender is
//! limited by the credit that it was given, and the relay buffers for one direction at most: the reader's window, a
//! quarter of that window that was read last (and [`LEAST`] for each stream), and the writer's window.
//!
//! [`window`] decides how large both windows are.
//!
//! A TCP connection has one stream in each direction: no other streams are opened beside it. When the first QUIC stream
//! is reset or stopped, the pair is broken and ends. A TCP peer has received all data when it closes its direction
//! after the relay closed the other one.
//!
//! Timer: [`SILENCE`] without a byte ends a pair, and [`FAREWELL`] limits the delivery of the last bytes of a closed
//! leg.

mod window;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::greeting::Crossing;
use super::ports::Ports;
use crate::Instant;
use crate::link::connections::ConnectionId;
use crate::link::quic::{Read, Stream, Write};
use crate::room::farewell::Farewell;
use crate::wire::close;
use window::{Moved, Window};

pub use window::{Budget, WINDOW};

/// A pair ends after this time without a byte in either direction.
pub const SILENCE: Duration = Duration::from_secs(60);
/// The longest time for delivering the last bytes of a closed leg.
pub const FAREWELL: Duration = Duration::from_secs(60);
/// The most that one read takes from a stream, in bytes.
const BATCH: usize = 64 << 10;
/// The minimum of one read when the leg's other streams already fill the window, in bytes.
const LEAST: usize = 1 << 10;
/// Pieces smaller than this, in bytes, are copied together: each piece of a QUIC stream keeps its whole datagram in
/// memory, and a datagram on a network path has less than 1,500 bytes.
const SMALL: usize = 1 << 10;
/// The same limit when the target is a TCP connection. It is larger than what one datagram brings.
const SMALL_FOR_TCP: usize = 4 << 10;
/// The most finished and unacknowledged streams to one leg. At this number the relay opens no more streams there.
const MAX_FINISHING: usize = 64;

/// What the methods of a pair need from the relay.
pub struct Context<'a> {
    /// The current time.
    pub now: Instant,
    /// The connections of all legs.
    pub ports: &'a mut Ports,
    /// The memory budget that the windows of all pairs share.
    pub budget: &'a mut Budget,
}

/// One of the two legs, as the relay passes it in.
#[derive(Debug)]
pub struct PairMember {
    /// The leg's connection.
    pub leg: ConnectionId,
    /// Its first stream.
    pub main: Stream,
    /// Data that the client sent after its request; it is meant for the other peer.
    pub rest: VecDeque<Bytes>,
}

/// Two paired legs and the data that moves between them; see the module documentation.
#[derive(Debug)]
pub struct Pair {
    ends: [End; 2],
    moved: u64,
    last_moved: Instant,
    phase: Phase,
    /// A stream of a TCP connection was reset or stopped. TCP has no signal for that, so the pair must end.
    broken: bool,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Both,
    /// One leg is closed; the relay still delivers its last bytes to the other leg.
    Closing {
        closed: usize,
        until: Instant,
        /// The close code for the remaining leg. On TCP it is sent together with the end of the data.
        farewell: Farewell,
    },
    /// Both legs are closed.
    Closed,
}

#[derive(Debug)]
struct End {
    leg: ConnectionId,
    /// The streams that this leg sends.
    flows: Vec<Flow>,
    /// Streams to this leg that are finished and not acknowledged.
    finishing: usize,
    /// The leg is a TCP connection and closed its sending direction.
    ended: bool,
    /// The window of the direction from this leg to the other one.
    window: Window,
}

#[derive(Debug)]
struct Flow {
    from: Stream,
    /// The stream on the other leg, once the relay opened it.
    to: Option<Stream>,
    /// Bytes that the relay read and has not written yet, and their number.
    held: Vec<Bytes>,
    held_bytes: usize,
    /// Pieces smaller than this are copied together.
    small: usize,
    /// On a first stream, until the client's last frames to the relay are filtered out.
    crossing: Option<Crossing>,
    /// No more data arrives on `from`.
    draining: bool,
}

/// The state of a flow after one call of `pump`.
enum Pumped {
    /// The flow waits for data to read or for space to write.
    Waits,
    /// All data is written; the FIN is next.
    Over,
    /// The receiving side stopped the stream with this code.
    Stopped(u32),
    /// The sending side reset the stream with this code.
    Reset(u32),
}

impl Pair {
    /// Joins two legs. The relay has already sent both of them its answer.
    #[must_use]
    pub fn new(outside: &mut Context<'_>, [one, two]: [PairMember; 2]) -> Self {
        for member in [&one, &two] {
            outside.ports.connections.set_receive_window(member.leg, WINDOW);
            outside.ports.connections.set_send_window(member.leg, WINDOW);
            outside.ports.connections.prefer(member.leg, member.main);
        }
        let (to_one, to_two) = ((one.leg, one.main), (two.leg, two.main));
        let ends = [End::new(outside.now, one, to_two), End::new(outside.now, two, to_one)];
        let mut pair = Self { ends, moved: 0, last_moved: outside.now, phase: Phase::Both, broken: false };
        pair.pump(outside, 0, |_| true);
        pair.pump(outside, 1, |_| true);
        pair
    }

    /// The number of bytes forwarded, in both directions.
    #[must_use]
    pub const fn moved(&self) -> u64 {
        self.moved
    }

    /// The two legs.
    #[must_use]
    pub fn legs(&self) -> [ConnectionId; 2] {
        self.ends.each_ref().map(|end| end.leg)
    }

    /// Whether the relay mirrors each new stream of a leg on the other leg; it does so between QUIC connections.
    #[must_use]
    pub fn is_mirrored(&self) -> bool {
        self.ends.iter().all(|end| !end.leg.is_tcp())
    }

    /// Whether a leg is closed.
    #[must_use]
    pub const fn is_closing(&self) -> bool {
        match self.phase {
            Phase::Both => false,
            Phase::Closing { .. } | Phase::Closed => true,
        }
    }

    /// Whether a stream of a TCP connection was reset or stopped. The connection has no other stream, so the pair must
    /// end.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether a TCP connection closed its sending direction, which is the only end that TLS can signal.
    #[must_use]
    pub fn has_ended(&self, leg: ConnectionId) -> bool {
        let [one, two] = &self.ends;
        (if one.leg == leg { one } else { two }).ended
    }

    /// When the pair ends if no byte moves, or if the delivery of the last bytes takes too long.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let silent = self.last_moved.checked_add(SILENCE).unwrap_or(self.last_moved);
        match self.phase {
            Phase::Both => silent,
            Phase::Closing { until, .. } => until.min(silent),
            Phase::Closed => self.last_moved,
        }
    }

    /// Whether all data of a closed leg was delivered to the other leg.
    #[must_use]
    pub const fn is_delivered(&self) -> bool {
        let [one, two] = &self.ends;
        match self.phase {
            Phase::Both => false,
            Phase::Closing { closed: 0, .. } => one.flows.is_empty() && two.finishing == 0,
            Phase::Closing { .. } => two.flows.is_empty() && one.finishing == 0,
            Phase::Closed => true,
        }
    }

    /// A leg opened a unidirectional stream.
    pub fn handle_opened(&mut self, outside: &mut Context<'_>, leg: ConnectionId, stream: Stream) {
        let index = self.index(leg);
        if self.is_closing() {
            return outside.ports.connections.stop(leg, stream, close::PEER_LEFT);
        }
        self.facing(index).0.flows.push(Flow::new(stream));
        self.open(outside, index);
    }

    /// There may be data to read.
    pub fn handle_readable(&mut self, outside: &mut Context<'_>, leg: ConnectionId, stream: Stream) {
        if self.is_closing() {
            return outside.ports.discard(leg);
        }
        let index = self.index(leg);
        self.pump(outside, index, |flow| flow.from == stream);
    }

    /// A stream to this leg can be written to again.
    pub fn handle_writable(&mut self, outside: &mut Context<'_>, leg: ConnectionId, stream: Stream) {
        let index = 1_usize.saturating_sub(self.index(leg));
        self.pump(outside, index, |flow| flow.to == Some(stream));
    }

    /// The leg acknowledged all data of a finished stream.
    pub fn handle_finished(&mut self, outside: &mut Context<'_>, leg: ConnectionId) {
        let index = self.index(leg);
        let (to, _) = self.facing(index);
        to.finishing = to.finishing.saturating_sub(1);
        self.open(outside, 1_usize.saturating_sub(index));
    }

    /// More streams may be opened on this leg.
    pub fn handle_available(&mut self, outside: &mut Context<'_>, leg: ConnectionId) {
        let index = 1_usize.saturating_sub(self.index(leg));
        self.open(outside, index);
    }

    /// This leg stopped a stream that is sent to it.
    pub fn handle_stopped(&mut self, outside: &mut Context<'_>, leg: ConnectionId, stream: Stream, code: u32) {
        let index = self.index(leg);
        let (to, from) = self.facing(index);
        match from.flows.iter().position(|flow| flow.to == Some(stream)) {
            Some(at) => {
                let flow = from.flows.remove(at);
                from.close(outside, to, &flow, &Pumped::Stopped(code), None);
                let broken = from.leg.is_tcp();
                self.broken |= broken;
            }
            // The stream was finished already.
            None => {
                to.finishing = to.finishing.saturating_sub(1);
                outside.ports.connections.reset(leg, stream, code);
                self.open(outside, 1_usize.saturating_sub(index));
            }
        }
    }

    /// A leg's link ended. The relay still delivers the data that the leg sent before, and accepts no more data from
    /// the other leg.
    pub fn handle_disconnect(&mut self, outside: &mut Context<'_>, leg: ConnectionId, farewell: Farewell) {
        if self.is_closing() {
            self.phase = Phase::Closed;
            return;
        }
        let index = self.index(leg);
        let until = outside.now.checked_add(FAREWELL).unwrap_or(outside.now);
        self.phase = Phase::Closing { closed: index, until, farewell };
        let (closed, open) = self.facing(index);
        let flows = std::mem::take(&mut open.flows);
        flows.iter().for_each(|flow| outside.ports.connections.stop(open.leg, flow.from, farewell.code));
        outside.ports.discard(open.leg);
        for flow in &mut closed.flows {
            flow.read(outside.ports, closed.leg, usize::MAX);
            flow.end();
        }
        self.open(outside, index);
        self.pump(outside, index, |_| true);
    }

    /// The pair is over: returns its share of the budget.
    pub fn release(self, budget: &mut Budget) {
        for end in self.ends {
            budget.give_back(end.window.size.saturating_sub(WINDOW));
        }
    }

    /// The close code for the remaining leg, once a leg is closed.
    const fn farewell(&self) -> Option<Farewell> {
        match self.phase {
            Phase::Both | Phase::Closed => None,
            Phase::Closing { farewell, .. } => Some(farewell),
        }
    }

    /// The index of a leg. The caller passes only the two legs of this pair.
    fn index(&self, leg: ConnectionId) -> usize {
        let [one, _] = &self.ends;
        usize::from(one.leg != leg)
    }

    /// The end at `index`, and the other end.
    const fn facing(&mut self, index: usize) -> (&mut End, &mut End) {
        let [one, two] = &mut self.ends;
        if index == 0 { (one, two) } else { (two, one) }
    }

    /// Opens streams on the other leg for flows without one, in their order.
    fn open(&mut self, outside: &mut Context<'_>, index: usize) {
        let (from, to) = self.facing(index);
        let mut opened = Vec::new();
        for flow in from.flows.iter_mut().filter(|flow| flow.to.is_none()) {
            if to.finishing >= MAX_FINISHING {
                break;
            }
            flow.to = outside.ports.connections.open_uni(to.leg);
            let Some(stream) = flow.to else { break };
            opened.push(stream);
        }
        if !opened.is_empty() {
            self.pump(outside, index, |flow| flow.to.is_some_and(|to| opened.contains(&to)));
        }
    }

    /// Forwards as much data as possible on the selected streams of one leg.
    fn pump(&mut self, outside: &mut Context<'_>, index: usize, which: impl Fn(&Flow) -> bool) {
        let farewell = self.farewell();
        let mut broken = false;
        let (from, to) = self.facing(index);
        let (mut at, mut moved) = (0_usize, Moved::default());
        while let Some(flow) = from.flows.get(at) {
            if !which(flow) {
                at = at.saturating_add(1);
                continue;
            }
            let held = from.flows.iter().map(|flow| flow.held_bytes).fold(0, usize::saturating_add);
            let others = held.saturating_sub(flow.held_bytes);
            let max = from.window.held().saturating_sub(others).clamp(LEAST, BATCH);
            let Some(flow) = from.flows.get_mut(at) else { break };
            match flow.pump(outside, from.leg, to.leg, max, &mut moved) {
                Pumped::Waits => at = at.saturating_add(1),
                over @ (Pumped::Over | Pumped::Stopped(_) | Pumped::Reset(_)) => {
                    let flow = from.flows.remove(at);
                    match over {
                        Pumped::Waits => {}
                        Pumped::Over => from.ended |= from.leg.is_tcp() && farewell.is_none(),
                        Pumped::Stopped(_) => broken |= from.leg.is_tcp(),
                        Pumped::Reset(_) => broken |= to.leg.is_tcp(),
                    }
                    from.close(outside, to, &flow, &over, farewell);
                }
            }
        }
        if moved.bytes > 0 {
            from.window.follow(outside, from.leg, to.leg, moved);
            self.moved = self.moved.saturating_add(moved.bytes);
            self.last_moved = outside.now;
        }
        self.broken |= broken;
    }
}

impl End {
    fn new(now: Instant, member: PairMember, (to, stream): (ConnectionId, Stream)) -> Self {
        let (crossing, small) = (Some(Crossing::default()), if to.is_tcp() { SMALL_FOR_TCP } else { SMALL });
        let mut main = Flow { to: Some(stream), crossing, small, ..Flow::new(member.main) };
        main.take_in(member.rest.into());
        Self { leg: member.leg, flows: vec![main], finishing: 0, ended: false, window: Window::new(now, to) }
    }

    /// Signals the end of a flow to both sides.
    fn close(&self, outside: &mut Context<'_>, to: &mut Self, flow: &Flow, how: &Pumped, farewell: Option<Farewell>) {
        if let Some(stream) = flow.to {
            match *how {
                Pumped::Waits => return,
                Pumped::Over => {
                    outside.ports.finish(outside.now, to.leg, stream, farewell);
                    to.finishing = to.finishing.saturating_add(1);
                    return;
                }
                // RFC 9000 §3.5: an endpoint that receives STOP_SENDING sends RESET_STREAM.
                Pumped::Stopped(code) | Pumped::Reset(code) => outside.ports.connections.reset(to.leg, stream, code),
            }
        }
        if let Pumped::Stopped(code) = *how {
            outside.ports.connections.stop(self.leg, flow.from, code);
        }
    }
}

impl Flow {
    const fn new(from: Stream) -> Self {
        Self { from, to: None, held: Vec::new(), held_bytes: 0, small: SMALL, crossing: None, draining: false }
    }

    /// Reads and writes until one side blocks, or the flow is complete.
    fn pump(
        &mut self,
        outside: &mut Context<'_>,
        from: ConnectionId,
        to: ConnectionId,
        max: usize,
        moved: &mut Moved,
    ) -> Pumped {
        let Some(stream) = self.to else { return Pumped::Waits };
        let mut dry = false;
        loop {
            match self.write(outside, to, stream, moved) {
                Write::Done => {}
                Write::Blocked => return Pumped::Waits,
                Write::Stopped(code) => return Pumped::Stopped(code),
                Write::Gone => return Pumped::Stopped(0),
            }
            if self.draining {
                return Pumped::Over;
            }
            if dry {
                return Pumped::Waits;
            }
            match self.read(outside.ports, from, max) {
                None | Some(Read::Data(_)) => {}
                Some(Read::Blocked) => dry = true,
                Some(Read::End | Read::Gone) => self.end(),
                Some(Read::Reset(code)) => return Pumped::Reset(code),
            }
        }
    }

    fn write(&mut self, outside: &mut Context<'_>, to: ConnectionId, stream: Stream, moved: &mut Moved) -> Write {
        if self.held.is_empty() {
            return Write::Done;
        }
        let (bytes, pieces) = (self.held_bytes, self.held.len());
        let result = outside.ports.write(outside.now, to, stream, &mut self.held);
        self.held.retain(|piece| !piece.is_empty());
        self.held_bytes = self.held.iter().map(Bytes::len).fold(0, usize::saturating_add);
        moved.bytes = moved.bytes.saturating_add(bytes.saturating_sub(self.held_bytes) as u64);
        moved.pieces = moved.pieces.saturating_add(pieces.saturating_sub(self.held.len()) as u64);
        result
    }

    /// Reads up to `max` bytes. Returns why the read stopped earlier, if it did.
    fn read(&mut self, ports: &mut Ports, from: ConnectionId, max: usize) -> Option<Read> {
        let mut pieces = Vec::new();
        let (_, end) = ports.read_chunks(from, self.from, max, &mut pieces);
        self.take_in(pieces);
        end
    }

    fn take_in(&mut self, mut pieces: Vec<Bytes>) {
        if let Some(crossing) = &mut self.crossing {
            pieces = pieces.into_iter().filter_map(|piece| crossing.handle_bytes(piece)).collect();
            if crossing.is_over() {
                self.crossing = None;
            }
        }
        let bytes = pieces.iter().map(Bytes::len).fold(0, usize::saturating_add);
        if bytes < pieces.len().saturating_mul(self.small) {
            let mut joined = BytesMut::with_capacity(bytes);
            pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
            pieces = vec![joined.freeze()];
        }
        self.held.append(&mut pieces);
        self.held_bytes = self.held_bytes.saturating_add(bytes);
    }

    /// No more data arrives.
    fn end(&mut self) {
        self.draining = true;
        if let Some(rest) = self.crossing.take().map(Crossing::into_rest).filter(|rest| !rest.is_empty()) {
            self.take_in(vec![rest]);
        }
    }
}

#[cfg(test)]
mod tests;
