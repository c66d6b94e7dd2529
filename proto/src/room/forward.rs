//! The bytes between two paired legs.
//!
//! Decides when a stream is read, how much of it is held, and how large the legs' windows are. What one leg sends on
//! its first stream goes to the other's first stream; each unidirectional stream that it opens is opened on the other
//! side too, in the same order, when both are QUIC connections. Ends, resets and stops go along. Nothing is decoded,
//! and pieces are passed on as they came; only small ones are copied together, since a piece of one byte may hold on to
//! a whole datagram, and a TCP connection seals or frames each on its own.
//!
//! ```text
//! flow (one stream, one way):  open ──(end, or its leg is gone)──► draining ──(all written)──► finished: forgotten
//! pair:  both legs here ──(one is gone)──► what it said is delivered ──(acknowledged; a TCP connection: it ended, too)──► over
//! ```
//! The streams of a leg that is gone are ended at the other one, for only an end is acknowledged. It proves nothing to
//! a peer: its own protocol says when all is there.
//!
//! A stream is read only when all that was read of it before is written. So a leg's peer is held up by its own credit,
//! and what is held for one direction is at most: the reader's window, a quarter of it that was read last (and
//! [`LEAST`] for each stream), and the writer's window.
//!
//! How large both are is [`window`]'s to say.
//!
//! All bytes of a TCP connection are one stream: no others are opened beside it, and where QUIC's first stream is reset or
//! stopped, the pair is broken and ends. That all arrived at a TCP connection is known when it ends its own side after ours.
//!
//! Timer: [`SILENCE`] without a byte ends a pair, and [`FAREWELL`] is the most that a gone leg's last bytes may take.

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

/// After this long without a byte in either direction a pair is over.
pub const SILENCE: Duration = Duration::from_secs(60);
/// How long what a gone leg said may take to be delivered.
pub const FAREWELL: Duration = Duration::from_secs(60);
/// The most that is read of a stream at once, in bytes.
const BATCH: usize = 64 << 10;
/// The same when the leg's other streams hold their part already.
const LEAST: usize = 1 << 10;
/// Pieces smaller than this, in bytes, are copied: each piece of a QUIC stream holds its whole datagram, which has less
/// than 1,500 bytes on a network's path.
const SMALL: usize = 1 << 10;
/// The same on the way into a TCP connection: what one datagram of a network brings is less.
const SMALL_FOR_TCP: usize = 4 << 10;
/// Streams to one leg that are finished and not acknowledged; then no more are opened there.
const MAX_FINISHING: usize = 64;

/// What a pair works with.
pub struct Context<'a> {
    /// The time.
    pub now: Instant,
    /// The links.
    pub ports: &'a mut Ports,
    /// The windows' common purse.
    pub budget: &'a mut Budget,
}

/// One of the two legs, as it is handed in.
#[derive(Debug)]
pub struct PairMember {
    /// Its name.
    pub leg: ConnectionId,
    /// Its first stream.
    pub main: Stream,
    /// What it said behind its request.
    pub said: VecDeque<Bytes>,
}

/// Two legs and what moves between them: see the module's text.
#[derive(Debug)]
pub struct Pair {
    ends: [End; 2],
    moved: u64,
    last_moved: Instant,
    phase: Phase,
    /// A TCP connection can't be told what became of its stream.
    broken: bool,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Both,
    /// This leg is gone, and the other one is told what it said.
    Parting {
        gone: usize,
        until: Instant,
        /// What a TCP connection is told behind it.
        farewell: Farewell,
    },
    /// Nobody is here.
    Nobody,
}

#[derive(Debug)]
struct End {
    leg: ConnectionId,
    /// What this leg sends.
    flows: Vec<Flow>,
    /// Streams to this leg that are finished and not acknowledged.
    finishing: usize,
    /// It is a TCP connection and said that nothing follows.
    left: bool,
    /// From this leg to the other one.
    window: Window,
}

#[derive(Debug)]
struct Flow {
    from: Stream,
    /// The stream on the other leg, once it may be opened.
    to: Option<Stream>,
    /// What was read and not written, and how many bytes that are.
    held: Vec<Bytes>,
    held_bytes: usize,
    /// Pieces smaller than this are copied.
    small: usize,
    /// On a first stream, until what crossed the pairing is over.
    crossing: Option<Crossing>,
    /// Nothing more comes from `from`.
    draining: bool,
}

/// Where a flow stands.
enum Pumped {
    /// It waits for one side or the other.
    Waits,
    /// All is written, and the end is next.
    Over,
    /// The other side wants no more of it.
    Stopped(u32),
    /// This side gave it up.
    Reset(u32),
}

impl Pair {
    /// Two legs are joined. What they are to be told before was told.
    #[must_use]
    pub fn new(outside: &mut Context<'_>, [one, two]: [PairMember; 2]) -> Self {
        for joint in [&one, &two] {
            outside.ports.connections.set_receive_window(joint.leg, WINDOW);
            outside.ports.connections.set_send_window(joint.leg, WINDOW);
            outside.ports.connections.prefer(joint.leg, joint.main);
        }
        let (to_one, to_two) = ((one.leg, one.main), (two.leg, two.main));
        let ends = [End::new(outside.now, one, to_two), End::new(outside.now, two, to_one)];
        let mut pair = Self { ends, moved: 0, last_moved: outside.now, phase: Phase::Both, broken: false };
        pair.pump(outside, 0, |_| true);
        pair.pump(outside, 1, |_| true);
        pair
    }

    /// Bytes that were passed on, both ways.
    #[must_use]
    pub const fn moved(&self) -> u64 {
        self.moved
    }

    /// The two legs.
    #[must_use]
    pub fn legs(&self) -> [ConnectionId; 2] {
        self.ends.each_ref().map(|end| end.leg)
    }

    /// Whether each stream that a leg opens is opened on the other one too: between QUIC connections.
    #[must_use]
    pub fn is_mirrored(&self) -> bool {
        self.ends.iter().all(|end| !end.leg.is_tcp())
    }

    /// Whether a leg is gone.
    #[must_use]
    pub const fn is_parting(&self) -> bool {
        match self.phase {
            Phase::Both => false,
            Phase::Parting { .. } | Phase::Nobody => true,
        }
    }

    /// Whether a stream was given up that belongs to a TCP connection, which has no other: the pair is to end.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether a TCP connection said that nothing follows, which is all that TLS has for a goodbye.
    #[must_use]
    pub fn has_left(&self, leg: ConnectionId) -> bool {
        let [one, two] = &self.ends;
        (if one.leg == leg { one } else { two }).left
    }

    /// When the pair is over if nothing moves, or if the last bytes take too long.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let silent = self.last_moved.checked_add(SILENCE).unwrap_or(self.last_moved);
        match self.phase {
            Phase::Both => silent,
            Phase::Parting { until, .. } => until.min(silent),
            Phase::Nobody => self.last_moved,
        }
    }

    /// Whether all that a gone leg said was delivered to the other one.
    #[must_use]
    pub const fn is_delivered(&self) -> bool {
        let [one, two] = &self.ends;
        match self.phase {
            Phase::Both => false,
            Phase::Parting { gone: 0, .. } => one.flows.is_empty() && two.finishing == 0,
            Phase::Parting { .. } => two.flows.is_empty() && one.finishing == 0,
            Phase::Nobody => true,
        }
    }

    /// A leg opened a unidirectional stream.
    pub fn handle_opened(&mut self, outside: &mut Context<'_>, leg: ConnectionId, stream: Stream) {
        let index = self.index(leg);
        if self.is_parting() {
            return outside.ports.connections.stop(leg, stream, close::PEER_LEFT);
        }
        self.facing(index).0.flows.push(Flow::new(stream));
        self.open(outside, index);
    }

    /// There may be something to read.
    pub fn handle_readable(&mut self, outside: &mut Context<'_>, leg: ConnectionId, stream: Stream) {
        if self.is_parting() {
            return outside.ports.discard(leg);
        }
        let index = self.index(leg);
        self.pump(outside, index, |flow| flow.from == stream);
    }

    /// A stream to this leg may be written to again.
    pub fn handle_writable(&mut self, outside: &mut Context<'_>, leg: ConnectionId, stream: Stream) {
        let index = 1_usize.saturating_sub(self.index(leg));
        self.pump(outside, index, |flow| flow.to == Some(stream));
    }

    /// All of a finished stream to this leg was acknowledged.
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

    /// This leg wants no more of a stream.
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
            // It was finished already.
            None => {
                to.finishing = to.finishing.saturating_sub(1);
                outside.ports.connections.reset(leg, stream, code);
                self.open(outside, 1_usize.saturating_sub(index));
            }
        }
    }

    /// A leg's link ended: what it said before is still delivered, and nothing more is taken from the other one.
    pub fn handle_disconnect(&mut self, outside: &mut Context<'_>, leg: ConnectionId, farewell: Farewell) {
        if self.is_parting() {
            self.phase = Phase::Nobody;
            return;
        }
        let index = self.index(leg);
        let until = outside.now.checked_add(FAREWELL).unwrap_or(outside.now);
        self.phase = Phase::Parting { gone: index, until, farewell };
        let (gone, here) = self.facing(index);
        let flows = std::mem::take(&mut here.flows);
        flows.iter().for_each(|flow| outside.ports.connections.stop(here.leg, flow.from, farewell.code));
        outside.ports.discard(here.leg);
        for flow in &mut gone.flows {
            flow.read(outside.ports, gone.leg, usize::MAX);
            flow.end();
        }
        self.open(outside, index);
        self.pump(outside, index, |_| true);
    }

    /// The pair is over: what it had of the budget is free.
    pub fn release(self, budget: &mut Budget) {
        for end in self.ends {
            budget.give_back(end.window.size.saturating_sub(WINDOW));
        }
    }

    /// The farewell, once a leg is gone.
    const fn farewell(&self) -> Option<Farewell> {
        match self.phase {
            Phase::Both | Phase::Nobody => None,
            Phase::Parting { farewell, .. } => Some(farewell),
        }
    }

    /// Which of the two it is. The owner names no others.
    fn index(&self, leg: ConnectionId) -> usize {
        let [one, _] = &self.ends;
        usize::from(one.leg != leg)
    }

    /// This one, and the other one.
    const fn facing(&mut self, index: usize) -> (&mut End, &mut End) {
        let [one, two] = &mut self.ends;
        if index == 0 { (one, two) } else { (two, one) }
    }

    /// Opens streams on the other leg for those that wait for one, in their order.
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

    /// Moves what can be moved on these streams of one leg.
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
                        Pumped::Over => from.left |= from.leg.is_tcp() && farewell.is_none(),
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
    fn new(now: Instant, joint: PairMember, (to, stream): (ConnectionId, Stream)) -> Self {
        let (crossing, small) = (Some(Crossing::default()), if to.is_tcp() { SMALL_FOR_TCP } else { SMALL });
        let mut main = Flow { to: Some(stream), crossing, small, ..Flow::new(joint.main) };
        main.take_in(joint.said.into());
        Self { leg: joint.leg, flows: vec![main], finishing: 0, left: false, window: Window::new(now, to) }
    }

    /// Tells both sides how a flow ended.
    fn close(&self, outside: &mut Context<'_>, to: &mut Self, flow: &Flow, how: &Pumped, farewell: Option<Farewell>) {
        if let Some(stream) = flow.to {
            match *how {
                Pumped::Waits => return,
                Pumped::Over => {
                    outside.ports.finish(outside.now, to.leg, stream, farewell);
                    to.finishing = to.finishing.saturating_add(1);
                    return;
                }
                // RFC 9000 §3.5: who is told to stop resets.
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

    /// Reads and writes until one side waits, or all is over.
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

    /// Reads up to `max` bytes and tells what stopped it before.
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

    /// Nothing more comes.
    fn end(&mut self) {
        self.draining = true;
        if let Some(rest) = self.crossing.take().map(Crossing::into_rest).filter(|rest| !rest.is_empty()) {
            self.take_in(vec![rest]);
        }
    }
}

#[cfg(test)]
mod tests;
