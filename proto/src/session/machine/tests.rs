//! Two sessions and the links between them, for the tests in the files below.

#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use std::sync::LazyLock;
use std::time::Duration;

use super::super::lanes::{LANE_STALL, OutStreams};
use super::super::link::{
    BIND_BYTES, BIND_RECORDS, BIND_TIME, DIRECT_KEEP_ALIVE, DIRECT_SILENCE, KEEP_ALIVE, MAX_STREAMS,
};
use super::super::reliable::WAITING;
use super::super::{OpenedRecord, Pace, SILENCE, Verdict};
use super::*;
use crate::handshake::{RecordKey, Suite, keyed};
use crate::wire::frame::{KIND_CHUNK, KIND_CONTROL, PREFIX};
use crate::wire::peer::LaneCount;
use crate::wire::{Caps, Decoder, Features};

mod exchange;
mod liveness;
mod model;
mod proof;
mod violations;

pub const SENDER: usize = 0;
pub const RECEIVER: usize = 1;

/// The keys of two peers after their handshake; each generation has other record keys.
pub fn keys(generation: u8, suite: Suite) -> [Keys; 2] {
    static MET: LazyLock<(Keys, Keys)> = LazyLock::new(|| keyed(Features::default(), Features::default()));
    let (mut sender, mut receiver) = MET.clone();
    let key = |n: u8| RecordKey::new([n.wrapping_add(generation.wrapping_mul(2)); 32]);
    (sender.send, sender.receive, receiver.send, receiver.receive) = (key(1), key(2), key(2), key(1));
    (sender.suite, receiver.suite) = (suite, suite);
    [sender, receiver]
}

/// A recognisable message that is delivered in order.
pub fn message(n: u64) -> Control {
    Control::Verified { transfer: 1, root: *blake3::hash(&n.to_be_bytes()).as_bytes() }
}

/// The events that one end of a session reported.
#[derive(Debug, Default)]
pub struct Told {
    pub control: Vec<Control>,
    pub chunks: Vec<Result<Vec<u8>, Violation>>,
    pub usable: Vec<LinkId>,
    pub moved: Vec<LinkId>,
    pub dead: Vec<(LinkId, LinkEnd)>,
    pub failed: Option<Violation>,
}

/// One direction of a stream: frames in flight, in order.
pub type Wire = VecDeque<Bytes>;

/// Two sessions and the frames in flight between them, on virtual time.
pub struct Pair {
    pub now: Instant,
    pub ends: [Session; 2],
    pub told: [Told; 2],
    /// By sending end, link and stream.
    pub wires: BTreeMap<(usize, LinkId, StreamNo), Wire>,
    /// All frames that were sent on the links while they were alive, including lost ones.
    pub sent: Vec<(usize, LinkId, StreamNo, Bytes)>,
}

impl Pair {
    pub fn with(limits: Limits, suite: Suite) -> Self {
        let now = Instant::now();
        let [sender, receiver] = keys(0, suite);
        let end = |role, keys: &Keys| Session::new(Config { role, limits }, keys, Seed::new([role as u8; 32]));
        Self {
            now,
            ends: [end(Role::Sender, &sender), end(Role::Receiver, &receiver)],
            told: Default::default(),
            wires: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    /// Two sessions with keys, and one link with two unidirectional streams in each direction.
    pub fn new() -> Self {
        let mut pair = Self::with(Limits::default(), Suite::Aes256Gcm);
        pair.up(LinkId(1), Origin::Handshake, Origin::Handshake);
        pair
    }

    pub fn up(&mut self, link: LinkId, sender: Origin, receiver: Origin) {
        for (end, origin) in [(SENDER, sender), (RECEIVER, receiver)] {
            self.ends[end].handle_link_up(self.now, link, 2, origin);
            self.drain(end);
        }
    }

    pub fn drain(&mut self, end: usize) {
        while let Some(event) = self.ends[end].poll_event() {
            let told = &mut self.told[end];
            assert_eq!(told.failed, None, "an event after the last one: {event:?}");
            match event {
                Event::Control(control) => told.control.push(control),
                Event::Chunk(chunk) => {
                    let (link, plain) = (chunk.link, chunk.plain_len());
                    let OpenedRecord { verdict, content } = chunk.open();
                    assert!(content.as_ref().is_none_or(|chunk| chunk.len() == plain));
                    assert_eq!(verdict, Verdict { link, is_genuine: content.is_some() });
                    self.ends[end].handle_verdict(self.now, verdict);
                    self.told[end].chunks.push(content.map(|chunk| chunk.to_vec()).ok_or(Violation::BadRecord));
                }
                Event::LinkUsable(link) => told.usable.push(link),
                Event::ControlMoved(link) => told.moved.push(link),
                Event::LinkDead { link, why } => {
                    told.dead.push((link, why));
                    self.wires.retain(|&(from, of, _), _| (from, of) != (end, link));
                }
                Event::Failed(violation) => told.failed = Some(violation),
            }
        }
    }

    /// Splits a session's output into frames and puts them on the wire.
    pub fn put(&mut self, from: usize, link: LinkId, stream: StreamNo, frames: Bytes) {
        let mut decoder = Decoder::new(Caps::Records);
        decoder.push(frames);
        while let Some(frame) = decoder.next_frame().unwrap() {
            let body = frame.into_bytes();
            self.sent.push((from, link, stream, body.clone()));
            self.wires.entry((from, link, stream)).or_default().push_back(body);
        }
        assert_eq!(decoder.buffered(), 0);
    }

    /// Takes all pending control records of one end and sends them on the link.
    pub fn send_control(&mut self, from: usize, link: LinkId) {
        while let Some(frame) = self.ends[from].poll_control_record(self.now, link) {
            self.put(from, link, StreamNo::CONTROL, frame);
        }
        self.drain(from);
    }

    pub fn send_chunk(&mut self, from: usize, link: LinkId, stream: u8, plain: &[u8]) {
        let mut chunk = Prepared::with_capacity(plain.len());
        chunk.extend_from_slice(plain);
        let frame = self.ends[from].seal_chunk(self.now, link, StreamNo(stream), chunk).unwrap();
        self.put(from, link, StreamNo(stream), frame);
        self.drain(from);
    }

    pub fn arrive(&mut self, at: usize, link: LinkId, stream: StreamNo, body: Bytes) {
        self.ends[at].handle_record(self.now, link, stream, body.into());
        self.drain(at);
    }

    /// Delivers the next frame of one stream. False if none is in flight.
    pub fn deliver_one(&mut self, from: usize, link: LinkId, stream: StreamNo) -> bool {
        let Some(body) = self.wires.get_mut(&(from, link, stream)).and_then(VecDeque::pop_front) else { return false };
        self.arrive(1 - from, link, stream, body);
        true
    }

    /// Delivers everything that is possible without the passage of time.
    pub fn run(&mut self) {
        loop {
            for end in [SENDER, RECEIVER] {
                for link in self.links(end) {
                    self.send_control(end, link);
                }
            }
            let wires: Vec<_> = self.wires.keys().copied().collect();
            let mut moved = false;
            for (from, link, stream) in wires {
                while self.deliver_one(from, link, stream) {
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    pub fn links(&self, end: usize) -> Vec<LinkId> {
        self.ends[end].alive.links.keys().copied().collect()
    }

    /// Advances the time, handles each deadline and delivers everything.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let next = self.ends.iter().filter_map(|end| end.poll_timeout()).map(|(at, _)| at).min();
            let next = next.unwrap_or(until).min(until).max(self.now);
            self.now = next;
            for end in [SENDER, RECEIVER] {
                self.ends[end].handle_timeout(next);
                assert!(self.ends[end].poll_timeout().is_none_or(|(at, _)| at > next), "a deadline that does not move");
                self.drain(end);
            }
            self.run();
            if next == until {
                return;
            }
        }
    }

    pub fn all_well(&self) {
        for told in &self.told {
            assert_eq!((told.failed, &told.dead[..]), (None, &[][..]));
        }
    }
}

const LINK: LinkId = LinkId(1);
const DIRECT: LinkId = LinkId(2);
const FIRST: StreamNo = StreamNo::CONTROL;

/// A misbehaving peer: it has the keys and follows no rules.
struct Rogue {
    sealing: Sealing,
    out: OutStreams,
}

impl Rogue {
    /// Acts in place of this end, on lanes that the real end does not use.
    fn new(end: usize) -> Self {
        let [sender, receiver] = keys(0, Suite::Aes256Gcm);
        let key = if end == SENDER { sender.send.clone() } else { receiver.send.clone() };
        let mut sealing = Sealing::new(key, Suite::Aes256Gcm, Limits::default());
        sealing.skip_to(1000);
        Self { sealing, out: OutStreams::new(2) }
    }

    fn seal<T: serde::Serialize>(&mut self, plaintext: &T) -> Bytes {
        let plain = plain_control(plaintext).unwrap();
        self.out.seal_control(Instant::now(), &mut self.sealing, plain).unwrap().slice(PREFIX..)
    }

    /// A chunk record on the first stream, in the lane that a message began.
    fn chunk(&mut self, plain: &[u8]) -> Bytes {
        let mut chunk = Prepared::with_capacity(plain.len());
        chunk.extend_from_slice(plain);
        self.out.seal_chunk(Instant::now(), &mut self.sealing, 0, chunk, || None).unwrap().slice(PREFIX..)
    }

    fn say(&mut self, sequence: u64, ack: u64, message: Control) -> Bytes {
        self.seal(&ControlRecord { sequence, ack, message })
    }
}

/// A forged control record that would begin a lane if it were genuine.
fn forged() -> Bytes {
    Bytes::from_static(b"\0LANE\0\0\0\0\0\0\0\0ciphertext and a tag of 16 bytes")
}

fn keep_alive(lanes: &[LaneCount], reading: bool) -> Control {
    Control::KeepAlive { lanes: BoundedVec::new(lanes.to_vec()).unwrap(), reading }
}
