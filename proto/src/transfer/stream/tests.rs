//! Both machines against each other, with a stream in memory: jobs end in any order, chunks arrive in any order,
//! links are lost.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::memory::{MemoryPipe, MemoryStream, Piece};
use super::*;
use crate::Instant;
use crate::misuse::Misuse;
use crate::seed::Seed;
use crate::session::{LinkId, Prepared, SealedChunk};
use crate::transfer::job::{Job, JobDone};
use crate::transfer::memory::MemorySource;
use crate::transfer::receiver::{self, Receiver};
use crate::transfer::sender::{self, Sender};
use crate::transfer::storage::{FaultKind, Source, StreamSink, StreamSource};
use crate::transfer::tests::{noise, now, path, run, seed};
use crate::transfer::{Compression, Outcome, Progress, TransferEvent};
use crate::wire::peer::{CancelReason, Control};

pub(super) const MIB: usize = CHUNK as usize;

/// Two machines and the messages between them.
pub(super) struct World {
    pub now: Instant,
    pub sender: Sender,
    pub receiver: Receiver,
    pub source: Arc<MemoryStream>,
    pub sink: Arc<MemoryPipe>,
    pub to_receiver: std::collections::VecDeque<Control>,
    pub to_sender: std::collections::VecDeque<Control>,
    pub chunks: Vec<SealedChunk>,
    sender_jobs: Vec<Job>,
    receiver_jobs: Vec<Job>,
    pub sent: Option<Outcome>,
    pub received: Option<Outcome>,
    /// When each chunk was sent, and its number.
    pub moved: Vec<(Instant, u64)>,
    link: LinkId,
}

impl World {
    fn of(mut sender: Sender, source: Arc<MemoryStream>, sink: MemoryPipe) -> Self {
        sender.begin(now());
        Self {
            now: now(),
            sender,
            receiver: receiver(),
            source,
            sink: Arc::new(sink),
            to_receiver: Default::default(),
            to_sender: Default::default(),
            chunks: Vec::new(),
            sender_jobs: Vec::new(),
            receiver_jobs: Vec::new(),
            sent: None,
            received: None,
            moved: Vec::new(),
            link: LinkId(1),
        }
    }

    pub fn stream(source: MemoryStream, sink: MemoryPipe, compression: Compression) -> Self {
        let source = Arc::new(source);
        let config = sender::Config { cores: 2, compression, is_strict: false };
        let sender = Sender::of_stream(config, Arc::<MemoryStream>::clone(&source) as Arc<dyn StreamSource>);
        Self::of(sender, source, sink)
    }

    pub fn files(source: MemorySource, sink: MemoryPipe, compression: Compression) -> Self {
        Self::of(files(source, compression), Arc::default(), sink)
    }

    fn limited(mut self, sender: Option<u64>, receiver: Option<u64>) -> Self {
        let rate = |rate: Option<u64>| rate.and_then(std::num::NonZeroU64::new);
        self.sender = self.sender.with_limit(rate(sender));
        self.receiver = self.receiver.with_limit(rate(receiver));
        self
    }

    fn drain(&mut self) {
        let sink = || Arc::<MemoryPipe>::clone(&self.sink) as Arc<dyn StreamSink>;
        while let Some(event) = self.sender.poll_event() {
            assert_eq!(self.sent, None, "an event after the last one");
            if let TransferEvent::Over(outcome) = event {
                self.sent = Some(outcome);
            }
        }
        while let Some(event) = self.receiver.poll_event() {
            assert_eq!(self.received, None, "an event after the last one");
            match event {
                TransferEvent::StreamOffered | TransferEvent::Offered(_) => {
                    self.receiver.accept_stream(self.now, sink()).unwrap();
                }
                TransferEvent::Over(outcome) => self.received = Some(outcome),
                other => panic!("{other:?}"),
            }
        }
        // Chunks are taken before the jobs, as a peer does: a chunk that is dropped here because it has arrived
        // already makes room for another job.
        while let Some((number, chunk)) = self.sender.poll_chunk() {
            self.moved.push((self.now, number));
            self.chunks.push(SealedChunk::arrived(self.link, chunk, true));
        }
        while let Some(job) = self.sender.poll_job() {
            self.sender_jobs.push(job);
        }
        while let Some(job) = self.receiver.poll_job() {
            self.receiver_jobs.push(job);
        }
        // One that reads; one that writes, and those that unpack.
        assert!(self.sender_jobs.len() <= 5 && self.receiver_jobs.len() <= 8);
        while let Some(message) = self.sender.poll_control() {
            self.to_receiver.push_back(message);
        }
        while let Some(message) = self.receiver.poll_control() {
            self.to_sender.push_back(message);
        }
    }

    /// Does one of the possible next steps; returns false if there is none.
    pub fn step(&mut self, pick: &mut dyn FnMut(usize) -> usize) -> bool {
        self.drain();
        let choices = [
            self.sender_jobs.len(),
            self.receiver_jobs.len(),
            self.chunks.len(),
            self.to_receiver.len().min(1),
            self.to_sender.len().min(1),
        ];
        let total: usize = choices.iter().sum();
        if total == 0 {
            return false;
        }
        let (mut which, mut choice) = (pick(total), 0);
        while which >= choices[choice] {
            which -= choices[choice];
            choice += 1;
        }
        let now = self.now;
        match choice {
            0 => {
                let done = run(self.sender_jobs.remove(which));
                self.sender.handle_job(now, done);
            }
            1 => self.receiver.handle_job(now, run(self.receiver_jobs.remove(which))),
            2 => self.receiver.handle_chunk(now, self.chunks.remove(which)),
            3 => {
                let message = self.to_receiver.pop_front().unwrap();
                self.receiver.handle_control(now, message);
            }
            _ => {
                let message = self.to_sender.pop_front().unwrap();
                self.sender.handle_control(now, message);
            }
        }
        true
    }

    /// Advances to the next deadline; returns false if there is none.
    pub fn wait(&mut self) -> bool {
        let due = [self.sender.poll_timeout(), self.receiver.poll_timeout()];
        let Some(due) = due.into_iter().flatten().min() else { return false };
        self.now = self.now.max(due);
        self.sender.handle_timeout(self.now);
        self.receiver.handle_timeout(self.now);
        true
    }

    /// Runs until nothing moves any more, or until this much time has passed.
    pub fn settle(&mut self, within: std::time::Duration) {
        let until = self.now + within;
        loop {
            while self.step(&mut |_| 0) {}
            if self.sent.is_some() && self.received.is_some() || self.now >= until || !self.wait() {
                return;
            }
        }
    }

    pub fn lose_link(&mut self) {
        self.drain();
        self.chunks.clear();
        self.to_sender.retain(|message| !matches!(message, Control::Ack { .. }));
        self.sender.handle_all_lost(self.now);
        self.receiver.handle_link_lost(self.now, self.link);
        self.link = LinkId(self.link.0 + 1);
        self.sender.handle_link_up(self.now);
        self.receiver.handle_link_up(self.now);
    }

    pub fn check_complete(&mut self, expected: &[u8]) {
        while self.step(&mut |_| 0) {}
        let (Some(Outcome::Complete { root: sent }), Some(Outcome::Complete { root: received })) =
            (&self.sent, &self.received)
        else {
            panic!("{:?} {:?}", self.sent, self.received)
        };
        assert_eq!(sent, received);
        assert!(self.sink.bytes() == expected, "{} bytes of {}", self.sink.bytes().len(), expected.len());
        assert!(self.sender.is_closed() && self.receiver.is_closed());
        let all = Progress { bytes: expected.len() as u64, total: expected.len() as u64 };
        assert_eq!((self.sender.progress(), self.receiver.progress()), (all, all));
        assert_eq!(self.sender.poll_timeout(), None);
        assert_eq!(self.receiver.poll_timeout(), None);
    }
}

pub(super) fn receiver() -> Receiver {
    Receiver::new(receiver::Config { cores: 2 }, seed(2))
}

fn files(source: MemorySource, compression: Compression) -> Sender {
    let config = sender::Config { cores: 2, compression, is_strict: false };
    Sender::new(config, Arc::new(source) as Arc<dyn Source>, &Seed::new([1; 32]))
}

fn all(bytes: &[u8]) -> MemoryStream {
    MemoryStream::new([Piece::Bytes(bytes.to_vec())])
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

#[test]
fn stream_of_any_length_arrives() {
    for len in [0, 1, MIB - 1, MIB, MIB + 1, 40 * MIB + 5] {
        let bytes = noise(1, len);
        let mut world = World::stream(all(&bytes), MemoryPipe::new(), Compression::Off);
        world.settle(HOUR);
        world.check_complete(&bytes);
        assert_eq!(world.moved.len(), len.div_ceil(MIB));
    }
    let zeros = vec![0; 5 * MIB + 7];
    let mut world = World::stream(all(&zeros), MemoryPipe::new(), Compression::default());
    world.settle(HOUR);
    world.check_complete(&zeros);
}

#[test]
fn stream_root_matches_protocol() {
    let bytes = noise(1, MIB + 3);
    let mut world = World::stream(all(&bytes), MemoryPipe::new(), Compression::Off);
    world.settle(HOUR);
    let mut root = blake3::Hasher::new_derive_key("tallow v1 stream root");
    for chunk in [&bytes[..MIB], &bytes[MIB..]] {
        root.update(blake3::hash(chunk).as_bytes());
    }
    root.update(&2_u64.to_be_bytes());
    assert_eq!(world.received, Some(Outcome::Complete { root: *root.finalize().as_bytes() }));
}

#[test]
fn a_file_is_written_in_order() {
    for compression in [Compression::Off, Compression::default()] {
        for bytes in [vec![], vec![1], noise(1, 64 << 10), noise(2, 40 * 65536 + 1), vec![0; 300 * 65536]] {
            let source = MemorySource::new().with_file(path("file"), bytes.clone());
            let mut world = World::files(source, MemoryPipe::new(), compression);
            world.settle(HOUR);
            world.check_complete(&bytes);
        }
    }
}

#[test]
fn only_single_file_is_accepted_as_stream() {
    for source in [
        MemorySource::new(),
        MemorySource::new().with_dir(path("d")),
        MemorySource::new().with_file(path("a"), vec![]).with_file(path("b"), vec![]),
        MemorySource::new().with_dir(path("d")).with_file(path("d/a"), vec![1]),
    ] {
        let mut sender = files(source, Compression::Off);
        sender.begin(now());
        while !sender.is_scanned() {
            let job = sender.poll_job().unwrap();
            sender.handle_job(now(), run(job));
        }
        let mut receiver = self::receiver();
        while let Some(message) = sender.poll_control() {
            receiver.handle_control(now(), message);
        }
        assert!(matches!(receiver.poll_event(), Some(TransferEvent::Offered(_))));
        let refused = receiver.accept_stream(now(), Arc::new(MemoryPipe::new()));
        assert_eq!(refused, Err(Misuse::NotOneFile));
    }
}

#[test]
fn partial_chunk_is_sent_after_timeout() {
    let source =
        MemoryStream::new([Piece::Silence, Piece::Bytes(vec![1; 10]), Piece::Silence, Piece::Bytes(vec![2; 10])]);
    let mut world = World::stream(source.without_end(), MemoryPipe::new(), Compression::Off);
    let start = world.now;
    while world.moved.is_empty() {
        while world.step(&mut |_| 0) {}
        assert!(world.wait());
    }
    let (at, _) = world.moved[0];
    // The second job read the first bytes and everything that arrived within the time.
    let after = at - (start + PAUSE);
    assert!((PARTIAL..=PARTIAL + PAUSE).contains(&after), "{after:?}");
    world.settle(PARTIAL * 3);
    assert_eq!((world.moved.len(), world.sink.bytes()), (1, [vec![1; 10], vec![2; 10]].concat()));
    // While the source is silent, a job runs each time its wait has passed, and nothing ends.
    world.settle(HOUR / 60);
    assert_eq!((world.sent, world.received), (None, None));
}

#[test]
fn source_is_not_read_before_accept() {
    let mut world = World::stream(all(&[1; 100]), MemoryPipe::new(), Compression::Off);
    world.drain();
    assert!(world.sender_jobs.is_empty() && world.source.left() == 100);
}

#[test]
fn a_sink_that_is_full_stops_the_source() {
    let bytes = noise(1, 60 * MIB);
    let mut world = World::stream(all(&bytes), MemoryPipe::new(), Compression::Off);
    world.sink.set_shut(true);
    world.settle(HOUR / 360);
    assert_eq!(world.moved.len() as u64, AHEAD.min(crate::transfer::window::START));
    assert!(bytes.len() - world.source.left() <= (AHEAD as usize + 1) * MIB);
    assert_eq!(world.sink.bytes().len(), 0);
    // A window that has grown is full at its bound.
    world.sink.set_shut(false);
    while world.sink.bytes().len() < 30 * MIB {
        assert!(world.step(&mut |_| 0) || world.wait());
    }
    world.sink.set_shut(true);
    let out = world.sink.bytes().len();
    world.settle(HOUR / 360);
    let read = bytes.len() - world.source.left();
    assert!(read - out > 10 * MIB && read - out <= (AHEAD as usize + 1) * MIB, "{read} {out}");
    world.sink.set_shut(false);
    world.settle(HOUR);
    world.check_complete(&bytes);
}

#[test]
fn lost_link_causes_no_second_source_read() {
    let bytes = noise(1, 20 * MIB);
    let mut world = World::stream(all(&bytes), MemoryPipe::new(), Compression::Off);
    world.sink.set_shut(true);
    world.settle(HOUR / 360);
    let (before, left) = (world.moved.len(), world.source.left());
    for _ in 0..10 {
        world.lose_link();
        world.settle(HOUR / 360);
    }
    assert_eq!(world.source.left(), left);
    assert_eq!(world.moved.len(), before * 11, "all that was not written out came again");
    world.sink.set_shut(false);
    world.settle(HOUR);
    world.check_complete(&bytes);
}

#[test]
fn broken_sink_ends_both_peers() {
    let pipe = MemoryPipe::new().with_fault(MIB + 1, FaultKind::Io(std::io::ErrorKind::BrokenPipe));
    let mut world = World::stream(all(&noise(1, 4 * MIB)), pipe, Compression::Off);
    world.settle(HOUR);
    while world.step(&mut |_| 0) {}
    let fault = FaultKind::Io(std::io::ErrorKind::BrokenPipe).into();
    assert_eq!(world.received, Some(Outcome::Failed(fault)));
    assert!(matches!(world.sent, Some(Outcome::PeerCancelled { reason: CancelReason::Io, .. })), "{:?}", world.sent);
    assert!(world.sender.is_closed() && world.receiver.is_closed());
}

#[test]
fn broken_source_ends_both_peers() {
    let source = MemoryStream::new([Piece::Bytes(vec![1; MIB]), Piece::Fault(FaultKind::System(5))]);
    let mut world = World::stream(source, MemoryPipe::new(), Compression::Off);
    world.settle(HOUR);
    while world.step(&mut |_| 0) {}
    assert_eq!(world.sent, Some(Outcome::Failed(FaultKind::System(5).into())));
    assert!(matches!(world.received, Some(Outcome::PeerCancelled { reason: CancelReason::Io, .. })));
}

#[test]
fn a_silent_file_is_a_stall_and_a_silent_stream_is_not() {
    let source = MemorySource::new().with_file(path("file"), noise(1, 65536 * 3));
    let mut world = World::files(source, MemoryPipe::new(), Compression::Off);
    while !world.to_sender.iter().any(|message| matches!(message, Control::Accept { .. })) {
        assert!(world.step(&mut |_| 0));
        world.drain();
    }
    // Its chunks never arrive.
    world.to_sender.clear();
    assert_eq!(world.receiver.poll_timeout(), Some(world.now + crate::transfer::receiver::CHUNKS));
    world.receiver.handle_timeout(world.now + crate::transfer::receiver::CHUNKS);
    assert!(matches!(world.receiver.poll_event(), Some(TransferEvent::Over(Outcome::Stalled))));

    let mut world = World::stream(MemoryStream::default().without_end(), MemoryPipe::new(), Compression::Off);
    world.settle(PAUSE * 3);
    assert_eq!((world.receiver.poll_timeout(), world.receiver.is_idle()), (None, true));
}

#[test]
fn either_peer_can_cancel_stream_at_any_time() {
    for steps in 0..60 {
        for side in 0..2 {
            let mut world = World::stream(all(&noise(1, 3 * MIB)), MemoryPipe::new(), Compression::Off);
            for _ in 0..steps {
                let _ = world.step(&mut |_| 0) || world.wait();
            }
            world.drain();
            let now = world.now;
            match side {
                0 => world.sender.cancel(now, CancelReason::Interrupted, ""),
                _ => world.receiver.cancel(now, CancelReason::Interrupted, ""),
            }
            world.settle(HOUR);
            while world.step(&mut |_| 0) {}
            assert!(world.sent.is_some() && world.received.is_some(), "{steps} {side} {:?}", world.received);
            assert!(world.sender.is_closed() && world.receiver.is_closed());
        }
    }
}

#[test]
fn rate_limit_of_either_peer_is_kept() {
    let bytes = noise(1, 12 * MIB);
    for (sender, receiver) in [(Some(MIB as u64), None), (None, Some(MIB as u64))] {
        let mut world = World::stream(all(&bytes), MemoryPipe::new(), Compression::Off).limited(sender, receiver);
        let start = world.now;
        world.settle(HOUR);
        world.check_complete(&bytes);
        let took = world.now - start;
        assert!((8.5..12.5).contains(&took.as_secs_f64()), "{took:?}");
    }
}

#[test]
fn final_message_is_sent_after_receiver_is_abandoned() {
    type End = fn(&mut receiver::Receiver, Instant);
    let ends: [(End, bool); 3] = [
        (|receiver, now| receiver.decline(now, crate::wire::peer::DeclineReason::Person, "").unwrap(), true),
        (|receiver, now| receiver.cancel(now, CancelReason::Interrupted, ""), true),
        (|_, _| {}, false),
    ];
    for (end, says) in ends {
        let mut receiver = receiver();
        let mut sender = World::stream(all(b"x"), MemoryPipe::new(), Compression::Off);
        receiver.handle_control(now(), sender.sender.poll_control().unwrap());
        end(&mut receiver, now());
        receiver.abandon(now());
        assert_eq!(receiver.poll_control().is_some(), says);
        assert!(receiver.is_closed());
    }
}

#[test]
fn lost_chunk_is_resent_when_window_is_full() {
    let chunk = 64 << 10;
    // The sizes as sent: next to nothing, half of one, and all of the others.
    let bytes = [vec![0; chunk + chunk / 2], noise(1, chunk / 2), noise(2, chunk * 20)].concat();
    let source = MemorySource::new().with_file(path("f"), bytes.clone());
    let mut world = World::files(source, MemoryPipe::new(), Compression::default());
    while world.chunks.is_empty() || !world.sender_jobs.is_empty() {
        assert!(world.step(&mut |_| 0));
        world.drain();
    }
    // The window is full. The first chunk used a link of its own, which is lost.
    let first = world.moved.iter().position(|(_, number)| *number == 0).unwrap();
    world.chunks.remove(first);
    let (now, link) = (world.now, LinkId(2));
    world.sender.handle_sealed(0, link);
    world.sender.handle_link_lost(now, link);
    world.receiver.handle_link_dropped(link);
    world.settle(HOUR);
    world.check_complete(&bytes);
}

/// The results of a source, piece by piece.
fn pieces() -> impl Strategy<Value = Vec<Option<usize>>> {
    let len = prop_oneof![4 => 1..3000_usize, 2 => 1..300_000_usize, 1 => Just(MIB), 1 => (MIB - 2)..(2 * MIB)];
    proptest::collection::vec(prop_oneof![2 => len.prop_map(Some), 1 => Just(None)], 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_stream_arrives_unchanged(
        pieces in pieces(),
        seed in any::<u64>(),
        cuts in proptest::collection::btree_set(0..400_usize, 0..6),
        at_once in prop_oneof![Just(None), (10_000..2_000_000_usize).prop_map(Some)],
        compress in any::<bool>(),
        limits in prop_oneof![Just((None, None)), Just((Some(3_000_000), None)), Just((None, Some(3_000_000)))],
        as_file in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        let mut scripted = Vec::new();
        for (number, piece) in pieces.iter().enumerate() {
            match piece {
                Some(len) => {
                    let piece = if number % 3 == 0 { vec![7; *len] } else { noise(number as u64, *len) };
                    bytes.extend_from_slice(&piece);
                    scripted.push(Piece::Bytes(piece));
                }
                None => scripted.push(Piece::Silence),
            }
        }
        let sink = at_once.map_or_else(MemoryPipe::new, |most| MemoryPipe::new().with_at_once(most));
        let compression = if compress { Compression::default() } else { Compression::Off };
        let mut world = if as_file {
            World::files(MemorySource::new().with_file(path("f"), bytes.clone()), sink, compression)
        } else {
            World::stream(MemoryStream::new(scripted), sink, compression)
        };
        world = world.limited(limits.0, limits.1);
        let mut rng = <ChaCha20Rng as rand_core::SeedableRng>::seed_from_u64(seed);
        let mut pick = |among: usize| (rng.next_u64() % among as u64) as usize;
        let mut steps = 0;
        while world.sent.is_none() || world.received.is_none() {
            prop_assert!(world.step(&mut pick) || world.wait(), "stuck: {:?} {:?}", world.sent, world.received);
            steps += 1;
            if cuts.contains(&steps) {
                world.lose_link();
            }
            prop_assert!(steps < 100_000, "it never ends");
        }
        world.check_complete(&bytes);
        if !as_file {
            prop_assert_eq!(world.source.left(), 0);
        }
    }
}

/// A chunk record of a stream as it arrives, with a false header.
pub(super) fn chunk(
    number: u64,
    contents: &[u8],
    change: impl FnOnce(&mut crate::transfer::chunk::Header),
) -> SealedChunk {
    let mut header = crate::transfer::chunk::Header {
        transfer: 1,
        chunk: number,
        codec: crate::transfer::chunk::Codec::Raw,
        length: contents.len() as u32,
        hash: *blake3::hash(contents).as_bytes(),
    };
    change(&mut header);
    let mut prepared = Prepared::with_capacity(contents.len() + crate::transfer::chunk::HEADER);
    prepared.extend_from_slice(&header.to_bytes());
    prepared.extend_from_slice(contents);
    SealedChunk::arrived(LinkId(1), prepared, true)
}

pub(super) fn done(job: Job) -> JobDone {
    job.run(&AtomicBool::new(false))
}
