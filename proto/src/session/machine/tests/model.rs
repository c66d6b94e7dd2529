//! Two sessions over links that appear, are cut, stay unnoticed for a while and deliver in any order relative to each
//! other. The test compares them with the simplest model: every message arrives exactly once and in order, whatever
//! happens to the links.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::super::record::tests::{nonces_seen, watch_nonces};
use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// An end queues a message.
    Say { end: usize },
    /// An end sends a chunk on some usable link.
    Chunk { end: usize, pick: usize, stream: u8 },
    /// A link's first stream accepts one record.
    Take { end: usize, pick: usize },
    /// Some stream delivers this many records.
    Deliver { pick: usize, count: usize },
    /// A link is cut, and everything in flight on it is lost; its ends are not notified yet.
    Cut { pick: usize },
    /// An end is notified that a link is dead.
    Notice { end: usize, pick: usize },
    /// One end dials a new link.
    Join { dialler: usize },
    /// An end moves control.
    Move { end: usize, pick: usize },
    /// All links are lost and the peers reconnect.
    Meet,
    /// Time passes.
    Wait { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let (end, pick) = (0..2_usize, any::<usize>());
    prop_oneof![
        6 => end.clone().prop_map(|end| Step::Say { end }),
        3 => (end.clone(), pick, 0..3_u8).prop_map(|(end, pick, stream)| Step::Chunk { end, pick, stream }),
        12 => (end.clone(), pick).prop_map(|(end, pick)| Step::Take { end, pick }),
        12 => (pick, 1..6_usize).prop_map(|(pick, count)| Step::Deliver { pick, count }),
        1 => pick.prop_map(|pick| Step::Cut { pick }),
        1 => (end.clone(), pick).prop_map(|(end, pick)| Step::Notice { end, pick }),
        2 => end.clone().prop_map(|dialler| Step::Join { dialler }),
        1 => (end, pick).prop_map(|(end, pick)| Step::Move { end, pick }),
        1 => Just(Step::Meet),
        1 => (0..6000_u64).prop_map(|millis| Step::Wait { millis }),
    ]
}

struct Model {
    pair: Pair,
    said: [Vec<Control>; 2],
    chunks: [usize; 2],
    /// Links that deliver nothing any more.
    cut: BTreeSet<LinkId>,
    next_link: u32,
    generation: u8,
}

fn pick<T: Clone>(from: &[T], pick: usize) -> Option<T> {
    from.get(pick.checked_rem(from.len())?).cloned()
}

impl Model {
    fn new() -> Self {
        let limits = Limits { records: 7, bytes: 5000 };
        let mut model = Self {
            pair: Pair::with(limits, Suite::Aes256Gcm),
            said: Default::default(),
            chunks: [0, 0],
            cut: BTreeSet::new(),
            next_link: 1,
            generation: 0,
        };
        let link = model.new_link();
        model.pair.up(link, Origin::Handshake, Origin::Handshake);
        model
    }

    fn new_link(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Say { end } => {
                let message = message((self.said[end].len() as u64) << 1 | end as u64);
                if self.pair.ends[end].send_control(message.clone()).is_ok() {
                    self.said[end].push(message);
                }
            }
            Step::Chunk { end, pick: at, stream } => {
                let usable: Vec<_> = self.pair.links(end).into_iter().filter(|link| self.usable(end, *link)).collect();
                if let Some(link) = pick(&usable, at) {
                    self.pair.send_chunk(end, link, stream, &[stream; 700]);
                    self.chunks[end] += 1;
                }
            }
            Step::Take { end, pick: at } => {
                if let Some(link) = pick(&self.pair.links(end), at)
                    && let Some(frame) = self.pair.ends[end].poll_control_record(self.pair.now, link)
                {
                    self.pair.put(end, link, StreamNo::CONTROL, frame);
                }
            }
            Step::Deliver { pick: at, count } => {
                let wires: Vec<_> = self.pair.wires.keys().copied().collect();
                if let Some((from, link, stream)) = pick(&wires, at) {
                    for _ in 0..count {
                        self.pair.deliver_one(from, link, stream);
                    }
                }
            }
            Step::Cut { pick: at } => {
                if let Some(link) = pick(&self.pair.links(at & 1), at >> 1) {
                    self.cut.insert(link);
                }
            }
            Step::Notice { end, pick: at } => {
                let cut: Vec<_> = self.cut.iter().copied().collect();
                if let Some(link) = pick(&cut, at) {
                    self.pair.ends[end].handle_link_lost(link);
                }
            }
            Step::Join { dialler } => {
                let link = self.new_link();
                let origin =
                    |end| if end == dialler { Origin::Dialled(Pace::Direct) } else { Origin::Accepted(Pace::Direct) };
                self.pair.up(link, origin(SENDER), origin(RECEIVER));
            }
            Step::Move { end, pick: at } => {
                if let Some(link) = pick(&self.pair.links(end), at) {
                    let _ = self.pair.ends[end].use_link(link);
                }
            }
            Step::Meet => self.meet(),
            Step::Wait { millis } => {
                self.pair.now += Duration::from_millis(millis);
                for end in [SENDER, RECEIVER] {
                    self.pair.ends[end].handle_timeout(self.pair.now);
                }
            }
        }
        for end in [SENDER, RECEIVER] {
            self.pair.drain(end);
        }
        let cut = &self.cut;
        self.pair.wires.retain(|(_, link, _), frames| !cut.contains(link) && !frames.is_empty());
        self.check();
    }

    fn usable(&self, end: usize, link: LinkId) -> bool {
        self.pair.ends[end].alive.links[&link].is_proven()
    }

    fn meet(&mut self) {
        self.generation += 1;
        self.pair.wires.clear();
        for (end, keys) in keys(self.generation, Suite::Aes256Gcm).iter().enumerate() {
            self.pair.ends[end].handle_generation(keys);
            self.pair.drain(end);
        }
        let link = self.new_link();
        self.pair.up(link, Origin::Handshake, Origin::Handshake);
    }

    /// The invariants at all times.
    fn check(&self) {
        for end in [SENDER, RECEIVER] {
            let told = &self.pair.told[end];
            assert_eq!(told.failed, None);
            let violation =
                told.dead.iter().find(|(_, why)| matches!(why, LinkEnd::Violation(_) | LinkEnd::LanesUsedUp));
            assert_eq!(violation, None);
            assert!(self.said[1 - end].starts_with(&told.control), "not exactly once and in order");
            assert!(told.chunks.iter().all(Result::is_ok) && told.chunks.len() <= self.chunks[1 - end]);
            let alive = &self.pair.ends[end].alive;
            assert!(alive.links.len() <= MAX_LINKS && alive.reliable.unacknowledged() <= WAITING);
            assert!(alive.control.is_none_or(|link| alive.links.contains_key(&link)));
        }
        assert_eq!(nonces_seen(), self.pair.sent.len(), "each sealed record was sent, under its own nonce");
    }

    /// After the network recovers, everything arrives.
    fn heal(&mut self) {
        let [sender, receiver] = [SENDER, RECEIVER].map(|end| self.pair.links(end));
        let whole: Vec<_> = sender.iter().filter(|link| receiver.contains(link) && !self.cut.contains(link)).collect();
        if !whole.iter().any(|link| self.usable(SENDER, **link) && self.usable(RECEIVER, **link)) {
            self.meet();
        }
        for (end, links) in [sender, receiver].into_iter().enumerate() {
            for link in links {
                if self.cut.contains(&link) || !self.pair.links(1 - end).contains(&link) {
                    self.pair.ends[end].handle_link_lost(link);
                    self.pair.drain(end);
                }
            }
        }
        self.pair.run();
        self.pair.pass(Duration::from_secs(6));
        self.check();
        for end in [SENDER, RECEIVER] {
            assert_eq!(self.pair.told[end].control, self.said[1 - end]);
            assert_eq!(self.pair.ends[end].unacknowledged(), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_message_arrives_exactly_once_and_in_order(steps in prop::collection::vec(step(), 0..250)) {
        watch_nonces();
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        model.heal();
    }

    #[test]
    fn no_frames_make_a_session_panic(
        frames in prop::collection::vec((any::<bool>(), 0..20_u8, prop::collection::vec(any::<u8>(), 0..80)), 0..30),
        genuine in any::<bool>(),
    ) {
        let mut pair = Pair::new();
        pair.up(DIRECT, Origin::Dialled(Pace::Direct), Origin::Accepted(Pace::Direct));
        if genuine { pair.run(); }
        let mut rogue = Rogue::new(SENDER);
        for (relayed, stream, body) in frames {
            let link = if relayed { LINK } else { DIRECT };
            // Half of them are sealed with the correct keys, so that their contents are validated.
            let body = if stream % 2 == 0 { body.into() } else { rogue.seal(&serde_bytes(&body)) };
            pair.ends[RECEIVER].handle_progress(pair.now, link, StreamNo(stream), body.len());
            pair.arrive(RECEIVER, link, StreamNo(stream / 2), body);
            pair.send_control(RECEIVER, link);
        }
    }
}

/// Serializes the bytes without a length prefix.
fn serde_bytes(bytes: &[u8]) -> impl serde::Serialize {
    struct Raw(Vec<u8>);
    impl serde::Serialize for Raw {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeTuple;
            let mut tuple = serializer.serialize_tuple(self.0.len())?;
            self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
            tuple.end()
        }
    }
    Raw(bytes.to_vec())
}
