#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use std::sync::LazyLock;
use std::time::Duration;

use super::super::lanes::OutStreams;
use super::super::{
    BIND_BYTES, BIND_RECORDS, BIND_TIME, BadRecord, KEEP_ALIVE, LANE_STALL, MAX_STREAMS, SILENCE, WAITING,
};
use super::*;
use crate::handshake::{RecordKey, Suite, keyed};
use crate::wire::frame::{KIND_CHUNK, KIND_CONTROL, PREFIX};
use crate::wire::peer::LaneCount;
use crate::wire::{Caps, Decoder, Features};

#[path = "model_tests.rs"]
mod model;

pub const SENDER: usize = 0;
pub const RECEIVER: usize = 1;

/// What two peers have after their handshake: other record keys in each generation.
pub fn keys(generation: u8, suite: Suite) -> [Keys; 2] {
    static MET: LazyLock<(Keys, Keys)> = LazyLock::new(|| keyed(Features::default(), Features::default()));
    let (mut sender, mut receiver) = MET.clone();
    let key = |n: u8| RecordKey::new([n.wrapping_add(generation.wrapping_mul(2)); 32]);
    (sender.send, sender.receive, receiver.send, receiver.receive) = (key(1), key(2), key(2), key(1));
    (sender.suite, receiver.suite) = (suite, suite);
    [sender, receiver]
}

/// Something recognisable that travels in order.
pub fn message(n: u64) -> Control {
    Control::Verified { transfer: 1, root: *blake3::hash(&n.to_be_bytes()).as_bytes() }
}

/// What an end of a session was told.
#[derive(Debug, Default)]
pub struct Told {
    pub control: Vec<Control>,
    pub chunks: Vec<Result<Vec<u8>, BadRecord>>,
    pub usable: Vec<LinkId>,
    pub moved: Vec<LinkId>,
    pub dead: Vec<(LinkId, LinkEnd)>,
    pub failed: Option<Violation>,
}

/// A direction of a stream: frames under way, in order.
pub type Wire = VecDeque<Bytes>;

/// Two sessions and what is under way between them, on virtual time.
pub struct Pair {
    pub now: Instant,
    pub ends: [Session; 2],
    pub told: [Told; 2],
    /// By sending end, link and stream.
    pub wires: BTreeMap<(usize, LinkId, StreamNo), Wire>,
    /// Frames that the links took while they lived, also those that were lost.
    pub sent: Vec<(usize, LinkId, StreamNo, Bytes)>,
}

impl Pair {
    pub fn with(limits: Limits, suite: Suite) -> Self {
        let now = Instant::now();
        let [sender, receiver] = keys(0, suite);
        let end = |side, keys: &Keys| Session::new(Config { side, limits }, keys, Seed::new([side as u8; 32]));
        Self {
            now,
            ends: [end(Side::Sender, &sender), end(Side::Receiver, &receiver)],
            told: Default::default(),
            wires: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    /// Keyed, on one link with two unidirectional streams each way.
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
                    let opened = chunk.open().map(|chunk| chunk.to_vec());
                    match &opened {
                        Ok(chunk) => {
                            assert_eq!(chunk.len(), plain);
                            self.ends[end].handle_opened(self.now, link);
                        }
                        Err(BadRecord) => self.ends[end].handle_bad_record(link),
                    }
                    self.told[end].chunks.push(opened);
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

    /// Cuts what a session gave into frames, which it puts on the wire.
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

    /// Gives one link of one end all that its control stream takes.
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

    /// The next frame of one stream. False: none is under way.
    pub fn deliver_one(&mut self, from: usize, link: LinkId, stream: StreamNo) -> bool {
        let Some(body) = self.wires.get_mut(&(from, link, stream)).and_then(VecDeque::pop_front) else { return false };
        self.arrive(1 - from, link, stream, body);
        true
    }

    /// Everything that moves without time passing.
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
        self.ends[end].state.as_alive().map(|alive| alive.links.keys().copied().collect()).unwrap_or_default()
    }

    /// Lets time pass, with each deadline kept and everything delivered.
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

/// The peer of a session as somebody else wrote it: has the keys, keeps no rules.
struct Rogue {
    sealing: Sealing,
    out: OutStreams,
}

impl Rogue {
    /// In the place of this end, on lanes that the real one does not reach.
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

    fn say(&mut self, sequence: u64, ack: u64, message: Control) -> Bytes {
        self.seal(&ControlRecord { sequence, ack, message })
    }
}

/// A control record that would begin a lane, if it were genuine.
fn forged() -> Bytes {
    Bytes::from_static(b"\0LANE\0\0\0\0\0\0\0\0ciphertext and a tag of 16 bytes")
}

fn keep_alive(lanes: &[LaneCount], reading: bool) -> Control {
    Control::KeepAlive { lanes: Capped::new(lanes.to_vec()).unwrap(), reading }
}

#[test]
fn messages_and_chunks_cross_in_both_directions() {
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let mut pair = Pair::with(Limits::default(), suite);
        pair.up(LINK, Origin::Handshake, Origin::Handshake);
        for end in [SENDER, RECEIVER] {
            for n in 0..5 {
                pair.ends[end].send_control(message(n)).unwrap();
            }
            for stream in [0, 1, 2, 1] {
                pair.send_chunk(end, LINK, stream, &[stream; 1000]);
            }
        }
        pair.run();
        for told in &pair.told {
            assert_eq!(told.control, (0..5).map(message).collect::<Vec<_>>());
            let chunks = [0, 1, 1, 2].map(|stream| Ok(vec![stream; 1000]));
            assert_eq!(told.chunks, chunks);
            assert_eq!((&told.usable[..], &told.moved[..]), (&[LINK][..], &[LINK][..]));
        }
        pair.all_well();
    }
}

#[test]
fn a_message_waits_for_a_link_and_what_is_unacknowledged_for_the_next_one() {
    let mut pair = Pair::with(Limits::default(), Suite::Aes256Gcm);
    pair.ends[SENDER].send_control(message(1)).unwrap();
    assert_eq!(pair.ends[SENDER].poll_timeout(), None);
    assert!(!pair.ends[SENDER].has_sent_all());
    pair.up(LINK, Origin::Handshake, Origin::Handshake);
    pair.send_control(SENDER, LINK);
    assert!(pair.ends[SENDER].has_sent_all());
    // The link takes it and dies.
    pair.wires.clear();
    for end in [SENDER, RECEIVER] {
        pair.ends[end].handle_link_lost(LINK);
        pair.drain(end);
        assert_eq!(pair.told[end].dead, [(LINK, LinkEnd::Lost)]);
    }
    assert!(!pair.ends[SENDER].has_sent_all());
    pair.up(DIRECT, Origin::Dialled, Origin::Accepted);
    pair.run();
    assert_eq!(pair.told[RECEIVER].control, [message(1)]);
    assert_eq!(pair.ends[SENDER].unacknowledged(), 1, "nothing came back yet");
    pair.pass(KEEP_ALIVE);
    assert_eq!(pair.ends[SENDER].unacknowledged(), 0);
}

#[test]
fn many_messages_are_acknowledged_without_waiting_for_time() {
    let mut pair = Pair::new();
    for n in 0..2000 {
        if !pair.ends[SENDER].can_send_control() {
            assert!(matches!(pair.ends[SENDER].send_control(message(n)), Err(Unsent::Full(_))));
            assert_eq!(pair.ends[SENDER].unacknowledged(), WAITING);
            pair.run();
        }
        pair.ends[SENDER].send_control(message(n)).unwrap();
    }
    pair.run();
    assert_eq!(pair.told[RECEIVER].control, (0..2000).map(message).collect::<Vec<_>>());
    pair.all_well();
}

#[test]
fn control_moves_where_the_sender_goes_and_back_when_that_link_dies() {
    let mut pair = Pair::new();
    pair.up(DIRECT, Origin::Accepted, Origin::Dialled);
    pair.run();
    assert_eq!(pair.told[SENDER].usable, [LINK, DIRECT]);
    assert_eq!(pair.told[RECEIVER].usable, [LINK, DIRECT]);
    assert!(!pair.ends[SENDER].use_link(LinkId(3)));
    assert!(pair.ends[SENDER].use_link(DIRECT));
    assert!(pair.ends[SENDER].use_link(DIRECT), "again is nothing");
    pair.drain(SENDER);
    for end in [SENDER, RECEIVER] {
        pair.ends[end].send_control(message(1)).unwrap();
    }
    pair.run();
    assert!(!pair.sent.iter().any(|(_, link, ..)| *link == LinkId(3)));
    for end in [SENDER, RECEIVER] {
        assert_eq!(pair.told[end].moved, [LINK, DIRECT]);
        pair.ends[end].handle_link_lost(DIRECT);
        pair.ends[end].send_control(message(2)).unwrap();
    }
    pair.run();
    for end in [SENDER, RECEIVER] {
        assert_eq!(pair.told[end].moved, [LINK, DIRECT, LINK]);
        assert_eq!(pair.told[end].control, [message(1), message(2)]);
        assert_eq!(pair.told[end].dead, [(DIRECT, LinkEnd::Lost)]);
    }
}

#[test]
fn new_keys_end_all_links_and_the_control_sequence_runs_on() {
    let mut pair = Pair::new();
    pair.ends[SENDER].send_control(message(1)).unwrap();
    pair.run();
    pair.ends[SENDER].send_control(message(2)).unwrap();
    pair.send_control(SENDER, LINK);
    let old = pair.sent[0].clone();
    pair.wires.clear();
    for (end, keys) in keys(1, Suite::ChaCha20Poly1305).iter().enumerate() {
        pair.ends[end].handle_generation(keys);
        pair.drain(end);
        assert_eq!(pair.told[end].dead, [(LINK, LinkEnd::NewGeneration)]);
    }
    pair.up(DIRECT, Origin::Handshake, Origin::Handshake);
    pair.run();
    assert_eq!(pair.told[RECEIVER].control, [message(1), message(2)]);

    // A record of the old generation, in the place where it would fit.
    pair.ends[RECEIVER].handle_generation(&keys(2, Suite::Aes256Gcm)[RECEIVER]);
    pair.ends[RECEIVER].handle_link_up(pair.now, LinkId(3), 2, Origin::Handshake);
    assert_eq!((old.0, old.2), (SENDER, FIRST));
    pair.arrive(RECEIVER, LinkId(3), FIRST, old.3);
    assert_eq!(pair.told[RECEIVER].failed, Some(Violation::BadRecord));
}

#[test]
fn a_chunk_is_refused_unchanged_where_it_can_not_go() {
    let mut pair = Pair::new();
    pair.up(DIRECT, Origin::Dialled, Origin::Accepted);
    let now = pair.now;
    for (link, stream) in [(LinkId(9), 0), (LINK, 3), (DIRECT, 0)] {
        let mut chunk = Prepared::zeroed(0);
        chunk.extend_from_slice(b"chunk");
        let refused = pair.ends[SENDER].seal_chunk(now, link, StreamNo(stream), chunk).unwrap_err();
        assert_eq!(refused.body(), b"chunk");
    }
    let longest = pair.ends[SENDER].seal_chunk(now, LINK, StreamNo(1), Prepared::zeroed(Prepared::MAX)).unwrap();
    pair.put(SENDER, LINK, StreamNo(1), longest);
    pair.run();
    assert_eq!(pair.told[RECEIVER].chunks.len(), 1);
    assert!(pair.ends[SENDER].seal_chunk(now, LINK, StreamNo(1), Prepared::zeroed(Prepared::MAX + 1)).is_err());
    pair.all_well();
}

#[test]
fn links_have_a_bound_and_an_id_once() {
    let mut pair = Pair::new();
    let now = pair.now;
    pair.ends[SENDER].handle_link_up(now, LINK, 2, Origin::Dialled);
    pair.drain(SENDER);
    assert_eq!(pair.told[SENDER].dead, [(LINK, LinkEnd::NoRoom)]);
    for n in 1..=MAX_LINKS as u32 {
        pair.ends[SENDER].handle_link_up(now, LinkId(100 + n), 2, Origin::Accepted);
    }
    pair.drain(SENDER);
    assert_eq!(pair.told[SENDER].dead[1..], [(LinkId(100 + MAX_LINKS as u32), LinkEnd::NoRoom)]);
    assert_eq!(pair.links(SENDER).len(), MAX_LINKS);
}

#[test]
fn when_the_lanes_are_used_up_the_link_ends_and_nothing_is_lost() {
    let mut pair = Pair::new();
    pair.run();
    pair.ends[SENDER].state.alive().unwrap().sealing.skip_to(u32::MAX);
    pair.send_chunk(SENDER, LINK, 1, b"in the last lane");
    let chunk = Prepared::zeroed(7);
    let refused = pair.ends[SENDER].seal_chunk(pair.now, LINK, StreamNo(2), chunk).unwrap_err();
    assert_eq!(refused.len(), 7);
    pair.drain(SENDER);
    assert_eq!(pair.told[SENDER].dead, [(LINK, LinkEnd::LanesUsedUp)]);
    pair.ends[SENDER].send_control(message(1)).unwrap();
    pair.ends[SENDER].handle_link_up(pair.now, DIRECT, 0, Origin::Handshake);
    assert_eq!(pair.ends[SENDER].poll_control_record(pair.now, DIRECT), None);
    assert_eq!(pair.ends[SENDER].unacknowledged(), 1);
    pair.drain(SENDER);
    assert_eq!(pair.told[SENDER].dead[1..], [(DIRECT, LinkEnd::LanesUsedUp)]);
}

// Liveness.

#[test]
fn an_idle_session_lives_by_keep_alives_every_five_seconds() {
    let mut pair = Pair::new();
    pair.run();
    let before = pair.sent.len();
    pair.pass(Duration::from_secs(60));
    pair.all_well();
    assert_eq!(pair.sent.len() - before, 2 * 12);
}

#[test]
fn a_link_on_which_nothing_is_heard_for_fifteen_seconds_is_dead() {
    let mut pair = Pair::new();
    pair.run();
    let start = pair.now;
    let end = &mut pair.ends[RECEIVER];
    let mut at = start;
    while let Some((next, reason)) = end.poll_timeout() {
        assert!(next > at, "{reason}");
        at = next;
        end.handle_timeout(at);
        while let Some(frame) = end.poll_control_record(at, LINK) {
            assert_eq!(frame[PREFIX], KIND_CONTROL);
        }
    }
    assert_eq!(at, start + SILENCE);
    pair.drain(RECEIVER);
    assert_eq!(pair.told[RECEIVER].dead, [(LINK, LinkEnd::Silent)]);
}

#[test]
fn what_counts_as_heard() {
    let mut pair = Pair::new();
    pair.send_chunk(SENDER, LINK, 1, &[0; 1000]);
    pair.run();
    let at = |seconds| pair.now + Duration::from_secs(seconds);
    let silent =
        |session: &Session, seconds| session.state.as_alive().unwrap().links[&LINK].is_silent(at(seconds), true);
    let chunk = pair.ends[SENDER].seal_chunk(at(0), LINK, StreamNo(1), Prepared::zeroed(10)).unwrap().slice(PREFIX..);
    let end = &mut pair.ends[RECEIVER];
    // Neither a spurious timeout, nor bytes below 64 KiB, nor a record that is not open yet.
    end.handle_timeout(at(10));
    end.handle_progress(at(10), LINK, StreamNo(2), 65_535);
    end.handle_record(at(10), LINK, StreamNo(1), chunk.into());
    assert!(matches!(end.poll_event(), Some(Event::Chunk(_))));
    assert!(!silent(end, 14) && silent(end, 15));
    end.handle_opened(at(10), LINK);
    assert!(!silent(end, 24) && silent(end, 25));
    end.handle_progress(at(20), LINK, StreamNo(2), 65_536);
    assert!(!silent(end, 34) && silent(end, 35));
    let message = Rogue::new(SENDER).say(0, 0, Control::Sync);
    end.handle_record(at(30), LINK, FIRST, message.into());
    assert!(!silent(end, 44) && silent(end, 45));
}

#[test]
fn silence_does_not_count_while_we_do_not_read() {
    let mut pair = Pair::new();
    pair.run();
    let start = pair.now;
    let end = &mut pair.ends[RECEIVER];
    end.set_reading(start, false);
    for seconds in 1..100 {
        end.handle_timeout(start + Duration::from_secs(seconds));
        assert_eq!(end.poll_timeout().unwrap().1, "keep-alive");
    }
    let again = start + Duration::from_secs(100);
    end.set_reading(again, true);
    end.set_reading(again + Duration::from_secs(1), true);
    end.handle_timeout(again + SILENCE - Duration::from_millis(1));
    assert!(end.poll_event().is_some_and(|event| matches!(event, Event::LinkUsable(_))) || end.poll_event().is_none());
    end.handle_timeout(again + SILENCE);
    pair.drain(RECEIVER);
    assert_eq!(pair.told[RECEIVER].dead, [(LINK, LinkEnd::Silent)]);
}

/// Lets time pass with everything delivered but this stream. True when the sender's link lives on.
fn pass_without(pair: &mut Pair, stream: u8, time: Duration) -> bool {
    let until = pair.now + time;
    while pair.now < until && pair.told[SENDER].dead.is_empty() {
        pair.now += Duration::from_millis(500);
        for end in [SENDER, RECEIVER] {
            pair.ends[end].handle_timeout(pair.now);
            pair.drain(end);
            pair.send_control(end, LINK);
            while pair.deliver_one(end, LINK, FIRST) {}
        }
        if stream != 1 {
            while pair.deliver_one(SENDER, LINK, StreamNo(1)) {}
        }
    }
    pair.told[SENDER].dead.is_empty()
}

#[test]
fn a_lane_that_stands_for_thirty_seconds_while_the_peer_reads_ends_its_link() {
    let mut pair = Pair::new();
    pair.run();
    pair.send_chunk(SENDER, LINK, 1, &[1; 100]);
    pair.send_chunk(SENDER, LINK, 2, &[2; 100]);
    let start = pair.now;
    assert!(!pass_without(&mut pair, 2, Duration::from_secs(100)));
    assert_eq!(pair.told[SENDER].dead, [(LINK, LinkEnd::Stalled)]);
    assert_eq!(pair.now, start + LANE_STALL);
    assert_eq!(pair.told[RECEIVER].dead, []);
}

#[test]
fn a_lane_that_moves_slowly_lives() {
    let mut pair = Pair::new();
    pair.run();
    pair.send_chunk(SENDER, LINK, 1, &[1; 1_000_000]);
    assert!(pair.deliver_one(SENDER, LINK, StreamNo(1)), "what begins the lane");
    for step in 1..10 {
        let now = pair.now;
        pair.ends[RECEIVER].handle_progress(now, LINK, StreamNo(1), step * 1000);
        assert!(pass_without(&mut pair, 1, LANE_STALL - KEEP_ALIVE), "step {step}");
    }
    assert!(!pass_without(&mut pair, 1, LANE_STALL + KEEP_ALIVE));
    assert_eq!(pair.told[SENDER].dead, [(LINK, LinkEnd::Stalled)]);
}

#[test]
fn a_lane_may_stand_while_the_peer_or_this_side_does_not_read() {
    let mut pair = Pair::new();
    pair.run();
    pair.send_chunk(SENDER, LINK, 1, &[1; 100]);
    pair.ends[RECEIVER].set_reading(pair.now, false);
    assert!(pass_without(&mut pair, 1, Duration::from_secs(100)));
    pair.ends[RECEIVER].set_reading(pair.now, true);
    assert!(pass_without(&mut pair, 1, LANE_STALL));
    pair.ends[SENDER].set_reading(pair.now, false);
    assert!(pass_without(&mut pair, 1, Duration::from_secs(100)));
    pair.ends[SENDER].set_reading(pair.now, true);
    assert!(!pass_without(&mut pair, 1, LANE_STALL));
    assert_eq!(pair.told[SENDER].dead, [(LINK, LinkEnd::Stalled)]);
}

// Proof of later links.

#[test]
fn a_later_link_carries_only_its_proof_until_it_is_proven() {
    let mut pair = Pair::new();
    pair.run();
    pair.up(DIRECT, Origin::Dialled, Origin::Accepted);
    let mut steps = Vec::new();
    loop {
        let before = pair.sent.len();
        for end in [SENDER, RECEIVER] {
            pair.send_control(end, DIRECT);
        }
        let usable = [SENDER, RECEIVER].map(|end| pair.told[end].usable.contains(&DIRECT));
        steps.push((pair.sent[before..].iter().map(|(from, ..)| *from).collect::<Vec<_>>(), usable));
        if usable == [true, true] {
            break;
        }
        for end in [SENDER, RECEIVER] {
            while pair.deliver_one(end, DIRECT, FIRST) {}
        }
    }
    // The dialler's nonce, the answer, the answer's echo, and the keep-alive that shows that it arrived.
    let expected = [
        (vec![SENDER], [false, false]),
        (vec![RECEIVER], [false, false]),
        (vec![SENDER], [false, false]),
        (vec![RECEIVER], [false, true]),
        (vec![SENDER], [true, true]),
    ];
    assert_eq!(steps, expected);
    pair.all_well();
}

#[test]
fn chunks_that_overtake_on_a_later_link_do_no_harm() {
    let mut pair = Pair::new();
    pair.up(DIRECT, Origin::Dialled, Origin::Accepted);
    for end in [SENDER, RECEIVER, SENDER] {
        pair.send_control(end, DIRECT);
        assert!(pair.deliver_one(end, DIRECT, FIRST));
    }
    assert_eq!((&pair.told[SENDER].usable[..], &pair.told[RECEIVER].usable[..]), (&[LINK][..], &[LINK, DIRECT][..]));
    // The receiver is convinced first; its chunks come before the message that shows it, on the same stream and on another.
    pair.send_chunk(RECEIVER, DIRECT, 0, &[1; 2 * BIND_BYTES]);
    pair.deliver_one(RECEIVER, DIRECT, FIRST);
    assert_eq!(pair.told[SENDER].usable, [LINK]);
    pair.send_chunk(RECEIVER, DIRECT, 1, b"early");
    while pair.deliver_one(RECEIVER, DIRECT, StreamNo(1)) {}
    assert_eq!(pair.told[SENDER].usable, [LINK, DIRECT]);
    pair.run();
    assert_eq!(pair.told[SENDER].chunks, [Ok(vec![1; 2 * BIND_BYTES]), Ok(b"early".to_vec())]);
    pair.all_well();
}

#[test]
fn a_proof_that_was_recorded_proves_nothing() {
    let mut pair = Pair::new();
    pair.run();
    pair.up(DIRECT, Origin::Dialled, Origin::Accepted);
    // Somebody takes the dialler's first record from a link that never arrives, and its third from nowhere.
    pair.send_control(SENDER, DIRECT);
    let stolen = pair.sent.last().unwrap().3.clone();
    pair.wires.clear();
    let now = pair.now;
    pair.ends[RECEIVER].handle_link_up(now, LinkId(3), 2, Origin::Accepted);
    pair.arrive(RECEIVER, LinkId(3), FIRST, stolen.clone());
    pair.send_control(RECEIVER, LinkId(3));
    pair.arrive(RECEIVER, LinkId(3), FIRST, stolen);
    assert_eq!(pair.told[RECEIVER].dead, [(LinkId(3), LinkEnd::Violation(Violation::RecordOrder))]);
    assert_eq!(pair.told[RECEIVER].usable, [LINK]);
    // An answer to the dialler with another nonce than its own.
    let mut rogue = Rogue::new(RECEIVER);
    let answer = rogue.say(0, 0, Control::Bind { nonce: [1; 16], echo: Some([2; 16]) });
    pair.arrive(SENDER, DIRECT, FIRST, answer);
    assert_eq!(pair.told[SENDER].dead, [(DIRECT, LinkEnd::Violation(Violation::UnexpectedBind))]);
}

#[test]
fn an_unproven_link_has_little_time_few_bytes_and_few_records() {
    let mut pair = Pair::new();
    pair.run();
    let start = pair.now;
    let ends = |pair: &mut Pair, expected: LinkEnd| {
        let (link, why) = pair.told[RECEIVER].dead.pop().unwrap();
        assert_eq!((link, why), (DIRECT, expected));
        assert_eq!((pair.links(RECEIVER), pair.told[RECEIVER].failed), (vec![LINK], None), "the session lives on");
    };
    let unbound = LinkEnd::Violation(Violation::Unbound);
    let up = |pair: &mut Pair| pair.ends[RECEIVER].handle_link_up(start, DIRECT, 2, Origin::Accepted);

    up(&mut pair);
    assert_eq!(pair.ends[RECEIVER].poll_timeout().unwrap().1, "keep-alive");
    pair.ends[RECEIVER].handle_timeout(start + BIND_TIME);
    pair.drain(RECEIVER);
    ends(&mut pair, LinkEnd::Unproven);

    up(&mut pair);
    pair.arrive(RECEIVER, DIRECT, FIRST, vec![0; BIND_BYTES - PREFIX + 1].into());
    ends(&mut pair, unbound);

    up(&mut pair);
    pair.ends[RECEIVER].handle_progress(start, DIRECT, FIRST, BIND_BYTES);
    assert_eq!(pair.links(RECEIVER), [LINK, DIRECT]);
    pair.ends[RECEIVER].handle_progress(start, DIRECT, FIRST, BIND_BYTES + 1);
    pair.drain(RECEIVER);
    ends(&mut pair, unbound);

    // Anything but a proof, on any stream, ends it at once: so the count of records is a second line.
    let mut lane = 2000;
    for (stream, message) in [(0, Control::Sync), (0, message(1)), (1, keep_alive(&[], true))] {
        up(&mut pair);
        let sequence = u64::from(Class::of(&message) == Class::Sequenced);
        lane += 1;
        let mut rogue = Rogue::new(SENDER);
        rogue.sealing.skip_to(lane);
        let record = rogue.say(sequence, 0, message);
        pair.arrive(RECEIVER, DIRECT, StreamNo(stream), record);
        ends(&mut pair, unbound);
    }
    let state = pair.ends[RECEIVER].state.alive().unwrap();
    let mut link = Link::new(start, Origin::Accepted, 2, [0; 16]);
    for n in 0..=BIND_RECORDS {
        let refused = link.accept(&mut state.opening, 0, forged().into()).err();
        let expected = if n < BIND_RECORDS { Violation::BadRecord } else { Violation::Unbound };
        assert_eq!(refused, Some(expected));
    }
}

// Broken rules.

#[test]
fn a_rule_broken_on_the_first_link_ends_the_session_and_on_another_one_only_that() {
    for (link, ends) in [(LINK, true), (DIRECT, false)] {
        let mut pair = Pair::new();
        pair.up(DIRECT, Origin::Dialled, Origin::Accepted);
        pair.run();
        pair.ends[SENDER].send_control(message(1)).unwrap();
        pair.arrive(RECEIVER, link, FIRST, forged());
        let told = &pair.told[RECEIVER];
        if ends {
            assert_eq!((told.failed, &told.dead[..]), (Some(Violation::BadRecord), &[][..]));
            assert_eq!(pair.ends[RECEIVER].failure(), told.failed);
            let (end, now) = (&mut pair.ends[RECEIVER], pair.now);
            assert_eq!((end.poll_timeout(), end.poll_control_record(now, LINK)), (None, None));
            assert!(matches!(end.send_control(message(1)), Err(Unsent::Over(_))));
            assert!(!end.can_send_control() && !end.use_link(DIRECT));
            assert!(end.seal_chunk(now, LINK, FIRST, Prepared::zeroed(1)).is_err());
            end.handle_link_up(now, LinkId(7), 0, Origin::Handshake);
            end.handle_generation(&keys(1, Suite::Aes256Gcm)[1]);
            end.handle_timeout(now + Duration::from_secs(100));
            pair.run();
            assert_eq!(pair.told[RECEIVER].control, []);
        } else {
            assert_eq!(
                (told.failed, &told.dead[..]),
                (None, &[(DIRECT, LinkEnd::Violation(Violation::BadRecord))][..])
            );
            pair.run();
            assert_eq!(pair.told[RECEIVER].control, [message(1)]);
        }
    }
}

#[test]
fn each_broken_rule_has_its_name() {
    let offered = || Rogue::new(SENDER);
    let mut cases: Vec<(&str, Violation, StreamNo, Vec<Bytes>)> = Vec::new();
    let mut case = |name, violation, stream: u8, messages: Vec<(u64, u64, Control)>| {
        let mut rogue = offered();
        let records = messages.into_iter().map(|(sequence, ack, message)| rogue.say(sequence, ack, message)).collect();
        cases.push((name, violation, StreamNo(stream), records));
    };
    let sync = || (0, 0, Control::Sync);
    case("sequence on keep-alive", Violation::WrongSequence, 0, vec![(1, 0, keep_alive(&[], true))]);
    case("no sequence on a message", Violation::WrongSequence, 0, vec![sync(), (0, 0, message(1))]);
    case("gap", Violation::ControlGap, 0, vec![sync(), (1, 0, message(1)), (3, 0, message(3))]);
    case("no sync", Violation::NoSync, 0, vec![(1, 0, message(1))]);
    case("sync elsewhere", Violation::WrongStream, 1, vec![sync()]);
    case("message elsewhere", Violation::WrongStream, 2, vec![(1, 0, message(1))]);
    case("no such stream", Violation::UnknownStream, MAX_STREAMS + 1, vec![sync()]);
    case("ack of nothing", Violation::AckedUnsent, 0, vec![(0, 1, Control::Sync)]);
    let counted = LaneCount { lane: 0, records: 1 << 40, partial: 0 };
    case("count of nothing", Violation::CountedUnsent, 0, vec![(0, 0, keep_alive(&[counted], true))]);
    case(
        "proof of the first link",
        Violation::UnexpectedBind,
        0,
        vec![(0, 0, Control::Bind { nonce: [0; 16], echo: None })],
    );
    let mut rogue = offered();
    cases.push(("not a message", Violation::Malformed, FIRST, vec![rogue.seal(&(0_u8, 0_u8, 200_u8))]));
    let mut rogue = offered();
    cases.push(("trailing bytes", Violation::Malformed, FIRST, vec![rogue.seal(&(0_u64, 0_u64, Control::Sync, 0_u8))]));
    cases.push(("short", Violation::RecordTooShort, FIRST, vec![Bytes::from_static(&[0; 28])]));
    cases.push(("kind", Violation::UnknownKind, FIRST, vec![Bytes::from_static(&[2; 29])]));
    cases.push(("no record", Violation::RecordTooShort, FIRST, vec![Bytes::new()]));
    for (name, violation, stream, records) in cases {
        let mut pair = Pair::new();
        pair.send_control(RECEIVER, LINK);
        for record in records {
            assert_eq!(pair.told[RECEIVER].failed, None, "{name}: too early");
            pair.arrive(RECEIVER, LINK, stream, record);
        }
        assert_eq!(pair.told[RECEIVER].failed, Some(violation), "{name}");
    }
}

#[test]
fn a_repeated_message_is_dropped() {
    let (mut pair, mut rogue) = (Pair::new(), Rogue::new(SENDER));
    let messages =
        [(0, Control::Sync), (1, message(1)), (1, message(9)), (2, message(2)), (1, message(1)), (0, Control::Sync)];
    for (sequence, message) in messages {
        let record = rogue.say(sequence, 0, message);
        pair.arrive(RECEIVER, LINK, FIRST, record);
    }
    assert_eq!(pair.told[RECEIVER].control, [message(1), message(2)]);
    pair.all_well();
}

/// A sender's conversation of control records and chunks on one stream, not yet delivered.
fn conversation() -> (Pair, Vec<Bytes>) {
    let mut pair = Pair::new();
    for n in 0..4_u8 {
        pair.ends[SENDER].send_control(message(n.into())).unwrap();
        pair.send_control(SENDER, LINK);
        pair.send_chunk(SENDER, LINK, 0, &[n; 500]);
    }
    let records = pair.wires.remove(&(SENDER, LINK, FIRST)).unwrap();
    (pair, records.into())
}

#[test]
fn x06_records_of_another_session_direction_or_chunk_are_refused_within_one_record() {
    let (_, genuine) = conversation();
    // Another session of the same people: the wires crossed after the handshakes.
    let other = {
        let mut pair = Pair::new();
        for (end, keys) in keys(1, Suite::Aes256Gcm).iter().enumerate() {
            pair.ends[end].handle_generation(keys);
        }
        pair.up(LinkId(9), Origin::Handshake, Origin::Handshake);
        pair.send_chunk(SENDER, LinkId(9), 0, &[7; 500]);
        pair.send_control(SENDER, LinkId(9));
        pair.wires.remove(&(SENDER, LinkId(9), FIRST)).unwrap()
    };
    let (mut pair, _) = conversation();
    pair.arrive(RECEIVER, LINK, FIRST, other[0].clone());
    assert_eq!(pair.told[RECEIVER].failed, Some(Violation::BadRecord));

    // The peer's own records, sent back to it.
    let (mut pair, records) = conversation();
    pair.arrive(SENDER, LINK, FIRST, records[0].clone());
    assert_eq!(pair.told[SENDER].failed, Some(Violation::BadRecord));

    // The ciphertexts of two chunks exchanged, each under the other's header; or a chunk's under a control record's header.
    let chunks: Vec<usize> = (0..genuine.len()).filter(|&at| genuine[at][0] == KIND_CHUNK).collect();
    assert_eq!(chunks.len(), 4);
    for (to, from) in [(0, 1), (1, 0), (3, 2)].map(|(to, from)| (chunks[to], chunks[from])) {
        let (mut pair, mut records) = conversation();
        records[to] = [&genuine[to][..13], &genuine[from][13..]].concat().into();
        for record in &records[..=to] {
            assert_eq!(pair.told[RECEIVER].failed, None);
            pair.arrive(RECEIVER, LINK, FIRST, record.clone());
        }
        assert_eq!(pair.told[RECEIVER].failed, Some(Violation::BadRecord));
        assert_eq!(pair.told[RECEIVER].chunks.last(), Some(&Err(BadRecord)), "no plaintext came out");
    }
    let (mut pair, mut records) = conversation();
    records[chunks[0]] = [&[KIND_CONTROL][..], &genuine[chunks[0]][1..]].concat().into();
    for record in &records[..=chunks[0]] {
        assert_eq!(pair.told[RECEIVER].failed, None);
        pair.arrive(RECEIVER, LINK, FIRST, record.clone());
    }
    assert_eq!(pair.told[RECEIVER].failed, Some(Violation::BadRecord));
}

#[test]
fn x07_one_record_dropped_doubled_swapped_or_replayed_ends_the_session_within_one_record() {
    let (_, genuine) = conversation();
    let chunks: Vec<usize> = (0..genuine.len()).filter(|&at| genuine[at][0] == KIND_CHUNK).collect();
    for at in [chunks[0], chunks[1], *chunks.last().unwrap()] {
        type Change = fn(&mut Vec<Bytes>, usize);
        let changes: [(&str, Change); 4] = [
            ("dropped", |records, at| drop(records.remove(at))),
            ("doubled", |records, at| records.insert(at, records[at].clone())),
            ("swapped", |records, at| records.swap(at, at - 1)),
            ("replayed", |records, at| records.push(records[at].clone())),
        ];
        for (name, change) in changes {
            let (mut pair, mut records) = conversation();
            // Something that follows the last chunk, as the end of a transfer does.
            pair.ends[SENDER].send_control(message(4)).unwrap();
            pair.send_control(SENDER, LINK);
            records.extend(pair.wires.remove(&(SENDER, LINK, FIRST)).unwrap());
            let good = records.clone();
            change(&mut records, at);
            let wrong = (0..records.len()).find(|&n| records.get(n) != good.get(n)).unwrap();
            for record in &records[..wrong] {
                pair.arrive(RECEIVER, LINK, FIRST, record.clone());
            }
            assert_eq!(pair.told[RECEIVER].failed, None, "{name} {at}");
            let before = (pair.told[RECEIVER].chunks.len(), pair.told[RECEIVER].control.len());
            pair.arrive(RECEIVER, LINK, FIRST, records[wrong].clone());
            assert_eq!(pair.told[RECEIVER].failed, Some(Violation::RecordOrder), "{name} {at}");
            let after = (pair.told[RECEIVER].chunks.len(), pair.told[RECEIVER].control.len());
            assert_eq!(before, after, "{name} {at}: it came through");
        }
    }
}

#[test]
fn every_changed_byte_of_every_record_ends_the_session() {
    let (_, genuine) = conversation();
    for (at, record) in genuine.iter().enumerate() {
        for byte in 0..record.len() {
            let (mut pair, mut records) = conversation();
            let mut changed = record.to_vec();
            changed[byte] ^= 0x41;
            records[at] = changed.into();
            for record in &records[..=at] {
                pair.arrive(RECEIVER, LINK, FIRST, record.clone());
            }
            assert!(pair.told[RECEIVER].failed.is_some(), "record {at}, byte {byte}");
        }
    }
}
