//! The bytes between two paired legs.
//!
//! Decides when a stream is read, how much of it is held, and how large the legs' windows are. What one leg sends on its first
//! stream goes to the other's first stream; each unidirectional stream that it opens is opened on the other side too, in the
//! same order. Ends, resets and stops go along. Nothing is decoded, and pieces are passed on as they came; only small ones are
//! copied together, since a piece of one byte may hold on to a whole datagram.
//!
//! ```text
//! flow (one stream, one way):  open ──(end, or its leg is gone)──► draining ──(all written)──► finished: forgotten
//! pair:  both legs here ──(one is gone)──► what it said is delivered ──(acknowledged)──► over
//! ```
//! The streams of a leg that is gone are ended at the other one, for only an end is acknowledged. It proves nothing to a peer: its
//! own protocol says when all is there.
//!
//! A stream is read only when all that was read of it before is written. So a leg's peer is held up by its own credit, and what is
//! held for one direction is at most: the reader's window, a quarter of it that was read last (and [`LEAST`] for each stream), and
//! the writer's window.
//!
//! **Windows by evidence.** Both windows of a direction begin with [`WINDOW`] and follow what the other leg really took: twice
//! what it acknowledged in a round trip, [`MAX_WINDOW`] at most, and what all pairs have beyond [`WINDOW`] comes out of one
//! [`Budget`]. When less moves they shrink. Small pieces cost more memory than they have bytes ([`PIECE`]), so while they are
//! small the writer's window is smaller by that.
//!
//! Timer: [`SILENCE`] without a byte ends a pair, and [`FAREWELL`] is the most that a gone leg's last bytes may take.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::close;
use super::greeting::Crossing;
use crate::Instant;
use crate::link::quic::{ConnId, Quic, Read, Stream, Write};
use crate::node::SocketId;

/// The windows of a direction at first, in bytes.
pub const WINDOW: u64 = 64 << 10;
/// The largest they become, in bytes.
pub const MAX_WINDOW: u64 = 16 << 20;
/// After this long without a byte in either direction a pair is over.
pub const SILENCE: Duration = Duration::from_secs(60);
/// How long what a gone leg said may take to be delivered.
pub const FAREWELL: Duration = Duration::from_secs(60);
/// The most that is read of a stream at once, in bytes.
const BATCH: usize = 64 << 10;
/// The same when the leg's other streams hold their part already.
const LEAST: usize = 1 << 10;
/// Pieces smaller than this, in bytes, are copied.
const SMALL: usize = 512;
/// What a piece costs beside its bytes.
const PIECE: u64 = 128;
/// The smallest window of a writer, in bytes.
const MIN_WINDOW: u64 = 2 << 10;
/// The shortest time after which windows are judged again.
const ROUND: Duration = Duration::from_millis(2);
/// The shortest round trip that is believed: below it a machine's own pauses count for more than the network.
const TRIP: Duration = Duration::from_micros(500);
/// Streams to one leg that are finished and not acknowledged; then no more are opened there.
const MAX_FINISHING: usize = 64;

/// A client's connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LegId {
    /// At which socket.
    pub socket: SocketId,
    /// Its name there.
    pub conn: ConnId,
}

/// The endpoints, one for each socket.
#[derive(Default)]
pub struct Ports(pub Vec<Quic>);

impl Ports {
    /// The endpoint of a leg.
    pub fn of(&mut self, leg: LegId) -> Option<&mut Quic> {
        self.0.get_mut(usize::from(leg.socket.0))
    }

    fn read(&mut self, leg: LegId, stream: Stream, max: usize, out: &mut Vec<Bytes>) -> (usize, Option<Read>) {
        self.of(leg).map_or((0, Some(Read::Gone)), |quic| quic.read_chunks(leg.conn, stream, max, out))
    }

    fn write(&mut self, leg: LegId, stream: Stream, data: &mut [Bytes]) -> Write {
        self.of(leg).map_or(Write::Gone, |quic| quic.write_chunks(leg.conn, stream, data))
    }

    fn rtt(&mut self, leg: LegId) -> Duration {
        self.of(leg).and_then(|quic| quic.rtt(leg.conn)).unwrap_or_default()
    }
}

/// What all pairs together may have in windows beyond [`WINDOW`], in bytes.
#[derive(Debug)]
pub struct Budget(pub u64);

impl Budget {
    fn take(&mut self, wanted: u64) -> u64 {
        let given = wanted.min(self.0);
        self.0 = self.0.saturating_sub(given);
        given
    }

    fn give_back(&mut self, bytes: u64) {
        self.0 = self.0.saturating_add(bytes);
    }
}

/// What a pair works with.
pub struct Outside<'a> {
    /// The time.
    pub now: Instant,
    /// The endpoints.
    pub ports: &'a mut Ports,
    /// The windows' common purse.
    pub budget: &'a mut Budget,
}

/// One of the two legs, as it is handed in.
#[derive(Debug)]
pub struct Joint {
    /// Its name.
    pub leg: LegId,
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
    /// Which leg is gone, and until when the other one is told what it said.
    parting: Option<(usize, Instant)>,
}

#[derive(Debug)]
struct End {
    leg: LegId,
    /// What this leg sends.
    flows: Vec<Flow>,
    /// Streams to this leg that are finished and not acknowledged.
    finishing: usize,
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

/// What was written.
#[derive(Debug, Default, Clone, Copy)]
struct Moved {
    bytes: u64,
    pieces: u64,
}

impl Pair {
    /// Two legs are joined. What they are to be told before was told.
    #[must_use]
    pub fn new(outside: &mut Outside<'_>, [one, two]: [Joint; 2]) -> Self {
        for joint in [&one, &two] {
            if let Some(quic) = outside.ports.of(joint.leg) {
                quic.set_receive_window(joint.leg.conn, WINDOW);
                quic.set_send_window(joint.leg.conn, WINDOW);
                quic.set_priority(joint.leg.conn, joint.main, 1);
            }
        }
        let mains = (one.main, two.main);
        let ends = [End::new(outside.now, one, mains.1), End::new(outside.now, two, mains.0)];
        let mut pair = Self { ends, moved: 0, last_moved: outside.now, parting: None };
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
    pub fn legs(&self) -> [LegId; 2] {
        self.ends.each_ref().map(|end| end.leg)
    }

    /// When the pair is over if nothing moves, or if the last bytes take too long.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let silent = self.last_moved.checked_add(SILENCE).unwrap_or(self.last_moved);
        self.parting.map_or(silent, |(_, until)| until.min(silent))
    }

    /// Whether all that a gone leg said was delivered to the other one.
    #[must_use]
    pub const fn is_delivered(&self) -> bool {
        let [one, two] = &self.ends;
        match self.parting {
            None => false,
            Some((0, _)) => one.flows.is_empty() && two.finishing == 0,
            Some(_) => two.flows.is_empty() && one.finishing == 0,
        }
    }

    /// A leg opened a unidirectional stream.
    pub fn handle_opened(&mut self, outside: &mut Outside<'_>, leg: LegId, stream: Stream) {
        let index = self.index(leg);
        if self.is_parting() {
            if let Some(quic) = outside.ports.of(leg) {
                quic.stop(leg.conn, stream, close::PEER_LEFT);
            }
            return;
        }
        self.facing(index).0.flows.push(Flow::new(stream));
        self.open(outside, index);
    }

    /// There may be something to read.
    pub fn handle_readable(&mut self, outside: &mut Outside<'_>, leg: LegId, stream: Stream) {
        let index = self.index(leg);
        self.pump(outside, index, |flow| flow.from == stream);
    }

    /// A stream to this leg may be written to again.
    pub fn handle_writable(&mut self, outside: &mut Outside<'_>, leg: LegId, stream: Stream) {
        let index = 1_usize.saturating_sub(self.index(leg));
        self.pump(outside, index, |flow| flow.to == Some(stream));
    }

    /// All of a finished stream to this leg was acknowledged.
    pub fn handle_finished(&mut self, outside: &mut Outside<'_>, leg: LegId) {
        let index = self.index(leg);
        let (to, _) = self.facing(index);
        to.finishing = to.finishing.saturating_sub(1);
        self.open(outside, 1_usize.saturating_sub(index));
    }

    /// More streams may be opened on this leg.
    pub fn handle_available(&mut self, outside: &mut Outside<'_>, leg: LegId) {
        let index = 1_usize.saturating_sub(self.index(leg));
        self.open(outside, index);
    }

    /// This leg wants no more of a stream.
    pub fn handle_stopped(&mut self, outside: &mut Outside<'_>, leg: LegId, stream: Stream, code: u32) {
        let index = self.index(leg);
        let (to, from) = self.facing(index);
        match from.flows.iter().position(|flow| flow.to == Some(stream)) {
            Some(at) => {
                let flow = from.flows.remove(at);
                from.close(outside, to, &flow, &Pumped::Stopped(code));
            }
            // It was finished already.
            None => {
                to.finishing = to.finishing.saturating_sub(1);
                if let Some(quic) = outside.ports.of(leg) {
                    quic.reset(leg.conn, stream, code);
                }
                self.open(outside, 1_usize.saturating_sub(index));
            }
        }
    }

    /// A leg's connection ended: what it said before is still delivered, and nothing more is taken from the other one.
    pub fn handle_gone(&mut self, outside: &mut Outside<'_>, leg: LegId, code: u32) {
        if self.is_parting() {
            return;
        }
        let index = self.index(leg);
        self.parting = Some((index, outside.now.checked_add(FAREWELL).unwrap_or(outside.now)));
        let (gone, here) = self.facing(index);
        let flows = std::mem::take(&mut here.flows);
        if let Some(quic) = outside.ports.of(here.leg) {
            flows.iter().for_each(|flow| quic.stop(here.leg.conn, flow.from, code));
        }
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

    const fn is_parting(&self) -> bool {
        self.parting.is_some()
    }

    /// Which of the two it is. The owner names no others.
    fn index(&self, leg: LegId) -> usize {
        let [one, _] = &self.ends;
        usize::from(one.leg != leg)
    }

    /// This one, and the other one.
    const fn facing(&mut self, index: usize) -> (&mut End, &mut End) {
        let [one, two] = &mut self.ends;
        if index == 0 { (one, two) } else { (two, one) }
    }

    /// Opens streams on the other leg for those that wait for one, in their order.
    fn open(&mut self, outside: &mut Outside<'_>, index: usize) {
        let (from, to) = self.facing(index);
        let mut opened = Vec::new();
        for flow in from.flows.iter_mut().filter(|flow| flow.to.is_none()) {
            if to.finishing >= MAX_FINISHING {
                break;
            }
            flow.to = outside.ports.of(to.leg).and_then(|quic| quic.open_uni(to.leg.conn));
            let Some(stream) = flow.to else { break };
            opened.push(stream);
        }
        if !opened.is_empty() {
            self.pump(outside, index, |flow| flow.to.is_some_and(|to| opened.contains(&to)));
        }
    }

    /// Moves what can be moved on these streams of one leg.
    fn pump(&mut self, outside: &mut Outside<'_>, index: usize, which: impl Fn(&Flow) -> bool) {
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
            match flow.pump(outside.ports, from.leg, to.leg, max, &mut moved) {
                Pumped::Waits => at = at.saturating_add(1),
                over @ (Pumped::Over | Pumped::Stopped(_) | Pumped::Reset(_)) => {
                    let flow = from.flows.remove(at);
                    from.close(outside, to, &flow, &over);
                }
            }
        }
        if moved.bytes > 0 {
            from.window.follow(outside, from.leg, to.leg, moved);
            self.moved = self.moved.saturating_add(moved.bytes);
            self.last_moved = outside.now;
        }
    }
}

impl End {
    fn new(now: Instant, joint: Joint, to: Stream) -> Self {
        let mut main = Flow { to: Some(to), crossing: Some(Crossing::default()), ..Flow::new(joint.main) };
        main.take_in(joint.said.into());
        Self { leg: joint.leg, flows: vec![main], finishing: 0, window: Window::new(now) }
    }

    /// Tells both sides how a flow ended.
    fn close(&self, outside: &mut Outside<'_>, to: &mut Self, flow: &Flow, how: &Pumped) {
        if let (Some(quic), Some(stream)) = (outside.ports.of(to.leg), flow.to) {
            match *how {
                Pumped::Waits => return,
                Pumped::Over => {
                    quic.finish(to.leg.conn, stream);
                    to.finishing = to.finishing.saturating_add(1);
                    return;
                }
                // RFC 9000 §3.5: who is told to stop resets.
                Pumped::Stopped(code) | Pumped::Reset(code) => quic.reset(to.leg.conn, stream, code),
            }
        }
        if let (Some(quic), &Pumped::Stopped(code)) = (outside.ports.of(self.leg), how) {
            quic.stop(self.leg.conn, flow.from, code);
        }
    }
}

impl Flow {
    const fn new(from: Stream) -> Self {
        Self { from, to: None, held: Vec::new(), held_bytes: 0, crossing: None, draining: false }
    }

    /// Reads and writes until one side waits, or all is over.
    fn pump(&mut self, ports: &mut Ports, from: LegId, to: LegId, max: usize, moved: &mut Moved) -> Pumped {
        let Some(stream) = self.to else { return Pumped::Waits };
        let mut dry = false;
        loop {
            match self.write(ports, to, stream, moved) {
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
            match self.read(ports, from, max) {
                None | Some(Read::Data(_)) => {}
                Some(Read::Blocked) => dry = true,
                Some(Read::End | Read::Gone) => self.end(),
                Some(Read::Reset(code)) => return Pumped::Reset(code),
            }
        }
    }

    fn write(&mut self, ports: &mut Ports, to: LegId, stream: Stream, moved: &mut Moved) -> Write {
        if self.held.is_empty() {
            return Write::Done;
        }
        let (bytes, pieces) = (self.held_bytes, self.held.len());
        let result = ports.write(to, stream, &mut self.held);
        self.held.retain(|piece| !piece.is_empty());
        self.held_bytes = self.held.iter().map(Bytes::len).fold(0, usize::saturating_add);
        moved.bytes = moved.bytes.saturating_add(bytes.saturating_sub(self.held_bytes) as u64);
        moved.pieces = moved.pieces.saturating_add(pieces.saturating_sub(self.held.len()) as u64);
        result
    }

    /// Reads up to `max` bytes and tells what stopped it before.
    fn read(&mut self, ports: &mut Ports, from: LegId, max: usize) -> Option<Read> {
        let mut pieces = Vec::new();
        let (_, end) = ports.read(from, self.from, max, &mut pieces);
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
        if bytes < pieces.len().saturating_mul(SMALL) {
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

/// The two windows of a direction: what the one leg may send before it is read, and what the other may leave unacknowledged.
#[derive(Debug)]
struct Window {
    size: u64,
    /// The writer's, smaller while pieces are small.
    send: u64,
    /// This round began then, and takes so long.
    since: Instant,
    round: Duration,
    moved: Moved,
    /// What of it the other leg has acknowledged, in bytes.
    proven: u64,
    /// So many bytes more only fill the windows.
    unproven: u64,
}

impl Window {
    const fn new(now: Instant) -> Self {
        let moved = Moved { bytes: 0, pieces: 0 };
        Self { size: WINDOW, send: WINDOW, since: now, round: ROUND, moved, proven: 0, unproven: WINDOW }
    }

    /// So much was written. At the end of a round the windows follow, and at once when there are many small pieces.
    fn follow(&mut self, outside: &mut Outside<'_>, from: LegId, to: LegId, moved: Moved) {
        self.proven = self.proven.saturating_add(moved.bytes.saturating_sub(self.unproven));
        self.unproven = self.unproven.saturating_sub(moved.bytes);
        self.moved.bytes = self.moved.bytes.saturating_add(moved.bytes);
        self.moved.pieces = self.moved.pieces.saturating_add(moved.pieces);
        let elapsed = outside.now.saturating_duration_since(self.since);
        let over = elapsed >= self.round;
        if !over && self.moved.pieces < WINDOW / PIECE {
            return;
        }
        let (old_size, old_send) = (self.size, self.send);
        if over {
            let trip = outside.ports.rtt(from).max(outside.ports.rtt(to)).max(TRIP);
            self.resize(trip, elapsed, outside.budget);
            self.round = trip.max(ROUND);
        }
        self.send = fit(self.size, self.moved);
        if over {
            (self.since, self.moved, self.proven) = (outside.now, Moved::default(), 0);
        }
        if let Some(quic) = outside.ports.of(from).filter(|_| old_size != self.size) {
            quic.set_receive_window(from.conn, self.size);
        }
        if let Some(quic) = outside.ports.of(to).filter(|_| old_send != self.send) {
            quic.set_send_window(to.conn, self.send);
        }
    }

    /// How much may be held between the two, in bytes.
    fn held(&self) -> usize {
        usize::try_from(self.size / 4).unwrap_or(BATCH)
    }

    /// Twice what was acknowledged in a round trip, as far as the budget allows; in steps towards less.
    fn resize(&mut self, trip: Duration, elapsed: Duration, budget: &mut Budget) {
        let per_trip = u128::from(self.proven).saturating_mul(trip.as_nanos()).checked_div(elapsed.as_nanos());
        let wanted = u64::try_from(per_trip.unwrap_or(0).saturating_mul(2)).unwrap_or(MAX_WINDOW);
        let wanted = wanted.clamp(WINDOW, MAX_WINDOW);
        if wanted > self.size {
            let more = budget.take(wanted.saturating_sub(self.size));
            self.size = self.size.saturating_add(more);
            self.unproven = self.unproven.saturating_add(more);
        } else if wanted <= self.size / 2 || wanted == WINDOW {
            let smaller = (self.size / 2).max(wanted);
            budget.give_back(self.size.saturating_sub(smaller));
            self.size = smaller;
        }
    }
}

/// The writer's window, such that pieces of this size take no more memory than whole ones.
fn fit(size: u64, moved: Moved) -> u64 {
    let Moved { bytes, pieces } = moved;
    if bytes >= pieces.saturating_mul(SMALL as u64) {
        return size;
    }
    let taken = u128::from(bytes).saturating_add(u128::from(pieces).saturating_mul(u128::from(PIECE)));
    let share = u128::from(size).saturating_mul(u128::from(bytes)).checked_div(taken).unwrap_or(0);
    u64::try_from(share).unwrap_or(size).max(MIN_WINDOW)
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
