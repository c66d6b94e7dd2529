//! Both machines against each other, with files in memory: jobs end in any order, chunks arrive in any order, links
//! are lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::exchange::STRAGGLERS;
use super::manifest::{Entry, EntryKind, Mtime};
use super::memory::{At, MemorySink, MemorySource, Stage};
use super::path::{LinkTarget, RelPath};
use super::*;
use crate::Instant;
use crate::seed::Seed;
use crate::session::{LinkId, SealedChunk};
use crate::transfer::job::{Job, JobDone, Work};
use crate::transfer::storage::{Fault, FaultKind, Placement, Source};
use crate::wire::peer::{CancelReason, ChunkRange, ChunkRanges, Control, DeclineReason, Have};
use crate::wire::{BoundedVec, Untrusted};

pub(super) const K64: usize = 64 << 10;

pub(super) fn seed(byte: u8) -> Seed {
    Seed::new([byte; 32])
}

/// The beginning of virtual time.
#[expect(clippy::disallowed_methods, reason = "there is no other way to an instant")]
pub(super) fn now() -> Instant {
    Instant::now()
}

pub(super) fn path(name: &str) -> RelPath {
    RelPath::parse(name).unwrap()
}

/// Bytes that can't be compressed; the same number gives the same bytes.
pub(super) fn noise(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// One file of so many bytes, not compressed.
pub(super) fn one_file(len: usize) -> MemorySource {
    MemorySource::new().with_file(path("file"), noise(0, len))
}

pub(super) fn range(first: u64, last: u64) -> ChunkRange {
    ChunkRange { first, last }
}

pub(super) fn ack(ranges: &[ChunkRange]) -> Control {
    Control::Ack { transfer: 1, ranges: ChunkRanges::new(ranges.to_vec()).unwrap(), credit: CREDIT }
}

pub(super) fn accept(have: Vec<Have>) -> Control {
    Control::Accept { transfer: 1, have: BoundedVec::new(have).unwrap(), credit: CREDIT }
}

pub(super) fn file(name: &str, size: u64) -> Entry {
    Entry { path: path(name), kind: EntryKind::File { size }, mode: 0o644, mtime: Mtime::default() }
}

pub(super) fn run(job: Job) -> JobDone {
    job.run(&AtomicBool::new(false))
}

/// Two machines and the messages between them.
pub(super) struct World {
    pub now: Instant,
    pub source: Arc<MemorySource>,
    pub sink: Arc<MemorySink>,
    pub sender: sender::Sender,
    pub receiver: receiver::Receiver,
    /// Messages that were sent and not received.
    pub to_receiver: VecDeque<Control>,
    pub to_sender: VecDeque<Control>,
    pub chunks: Vec<SealedChunk>,
    pub sender_jobs: Vec<Job>,
    pub receiver_jobs: Vec<Job>,
    pub sent: Option<Outcome>,
    pub received: Option<Outcome>,
    /// What the sender and the receiver said that differs.
    pub placements: (Option<Placement>, Option<Placement>),
    pub accepted: bool,
    pub resuming: bool,
    /// The resumed bytes that sender and receiver reported.
    pub resumed: (Option<u64>, Option<u64>),
    /// Chunks that were sent.
    pub moved: Vec<u64>,
    pub link: LinkId,
    /// Whether the receiver's user accepts.
    pub yes: bool,
}

impl World {
    pub fn new(source: MemorySource, sink: MemorySink, compression: Compression) -> Self {
        let source = Arc::new(source);
        let config = sender::Config { cores: 2, compression };
        let mut sender = sender::Sender::new(config, Arc::<MemorySource>::clone(&source) as Arc<dyn Source>, &seed(1));
        let now = self::now();
        sender.begin(now);
        Self {
            now,
            source,
            sink: Arc::new(sink),
            sender,
            receiver: receiver::Receiver::new(receiver::Config { cores: 2 }, seed(2)),
            to_receiver: VecDeque::new(),
            to_sender: VecDeque::new(),
            chunks: Vec::new(),
            sender_jobs: Vec::new(),
            receiver_jobs: Vec::new(),
            sent: None,
            received: None,
            placements: (None, None),
            accepted: false,
            resuming: false,
            resumed: (None, None),
            moved: Vec::new(),
            link: LinkId(1),
            yes: true,
        }
    }

    /// Moves the messages of the machines to the queues.
    pub fn drain(&mut self) {
        while let Some(event) = self.sender.poll_event() {
            assert_eq!(self.sent, None, "an event after the last one");
            match event {
                TransferEvent::Scanned(manifest) => {
                    assert_eq!(manifest.totals().entries as usize, self.source.entries().len())
                }
                TransferEvent::Accepted => self.accepted = true,
                TransferEvent::Resumed { bytes } => self.resumed.0 = Some(bytes),
                TransferEvent::Placed(placement) => self.placements.0 = Some(placement),
                TransferEvent::Over(outcome) => self.sent = Some(outcome),
                other => panic!("{other:?}"),
            }
        }
        while let Some(event) = self.receiver.poll_event() {
            assert_eq!(self.received, None, "an event after the last one");
            match event {
                TransferEvent::Offered(_) if self.yes => {
                    let sink = Arc::<MemorySink>::clone(&self.sink);
                    self.receiver.accept(self.now, sink).unwrap();
                }
                TransferEvent::Offered(_) => {}
                TransferEvent::Resuming => self.resuming = true,
                TransferEvent::Resumed { bytes } => self.resumed.1 = Some(bytes),
                TransferEvent::Placed(placement) => self.placements.1 = Some(placement),
                TransferEvent::Over(outcome) => self.received = Some(outcome),
                other => panic!("{other:?}"),
            }
        }
        while let Some(job) = self.sender.poll_job() {
            self.sender_jobs.push(job);
        }
        while let Some(job) = self.receiver.poll_job() {
            self.receiver_jobs.push(job);
        }
        // One job that commits and one that syncs are in addition.
        assert!(self.sender_jobs.len() <= 4 && self.receiver_jobs.len() <= 6);
        while let Some((number, chunk)) = self.sender.poll_chunk() {
            self.moved.push(number);
            self.chunks.push(SealedChunk::arrived(self.link, chunk, true));
        }
        while let Some(message) = self.sender.poll_control() {
            self.to_receiver.push_back(message);
        }
        while let Some(message) = self.receiver.poll_control() {
            self.to_sender.push_back(message);
        }
        let (sender, receiver) = (self.sender.progress(), self.receiver.progress());
        assert!(sender.bytes <= sender.total && receiver.bytes <= receiver.total);
        let complete = matches!(self.sent, Some(Outcome::Complete { .. }));
        assert!(sender.bytes <= receiver.bytes || complete || !self.yes, "what was acknowledged was stored");
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
        match choice {
            0 => self.sender.handle_job(self.now, run(self.sender_jobs.swap_remove(which))),
            1 => self.receiver.handle_job(self.now, run(self.receiver_jobs.swap_remove(which))),
            2 => self.receiver.handle_chunk(self.now, self.chunks.swap_remove(which)),
            3 => self.receiver.handle_control(self.now, self.to_receiver.pop_front().unwrap()),
            _ => self.sender.handle_control(self.now, self.to_sender.pop_front().unwrap()),
        }
        true
    }

    /// Runs until nothing moves, everything in order.
    pub fn settle(&mut self) {
        while self.step(&mut |_| 0) {}
    }

    /// Runs until the sender has nothing to do; its messages stay in the queue.
    pub fn settle_sender(&mut self) {
        self.drain();
        while !self.sender_jobs.is_empty() {
            let job = self.sender_jobs.remove(0);
            self.sender.handle_job(self.now, run(job));
            self.drain();
        }
    }

    /// Runs in order until `when` is true; panics if it never is.
    pub fn until(&mut self, when: impl Fn(&mut Self) -> bool) {
        self.drain();
        while !when(self) {
            assert!(self.step(&mut |_| 0), "it never came");
            self.drain();
        }
    }

    /// The link is lost with everything on it, except control messages, which the session repeats (but not
    /// acknowledgements).
    pub fn lose_link(&mut self) {
        self.drain();
        self.chunks.clear();
        self.to_sender.retain(|message| !matches!(message, Control::Ack { .. }));
        self.sender.handle_all_lost(self.now);
        self.receiver.handle_link_lost(self.now, self.link);
        self.link = LinkId(self.link.0 + 1);
        self.receiver.handle_link_up(self.now);
        self.sender.handle_link_up(self.now);
    }

    /// Both sides are complete, with the same bytes and without misuse.
    pub fn check_complete(&self) {
        let (Some(Outcome::Complete { root: sent }), Some(Outcome::Complete { root: received })) =
            (&self.sent, &self.received)
        else {
            panic!("{:?} {:?}", self.sent, self.received)
        };
        assert_eq!(sent, received);
        assert_eq!((self.sink.stage(), self.sink.misuse()), (Stage::Finished, None));
        let arrived = self.sink.finished();
        assert_eq!(arrived.len(), self.source.entries().len());
        for (entry, contents) in self.source.entries() {
            assert_eq!(arrived.get(entry.path.as_str()), Some(&(entry.clone(), contents.clone())));
        }
        assert!(self.sender.is_closed() && self.receiver.is_closed());
        let all = Progress { bytes: self.sender.progress().total, total: self.sender.progress().total };
        assert_eq!((self.sender.progress(), self.receiver.progress()), (all, all));
        assert_eq!((self.sender.poll_timeout(), self.receiver.poll_timeout()), (None, None));
    }

    /// The transfer has ended on both sides, no entry has a final name (unless the end came while the last job moved
    /// them), and nothing is left behind.
    pub fn check_ended(&self) {
        assert!(self.sent.is_some() && self.received.is_some(), "{:?} {:?}", self.sent, self.received);
        assert!(self.sender.is_closed() && self.receiver.is_closed(), "{:?} {:?}", self.sender, self.receiver);
        let names = if self.sink.stage() == Stage::Finished { self.source.entries().len() } else { 0 };
        assert_eq!(self.sink.finished().len(), names);
        assert_ne!(self.sink.stage(), Stage::Staged);
        assert_eq!(self.sink.misuse(), None);
    }
}

#[test]
fn files_arrive_intact() {
    let source = MemorySource::new()
        .with_page_after(2)
        .with_dir(path("d"))
        .with_file(path("d/empty"), vec![])
        .with_file(path("d/one"), vec![7])
        .with_file(path("d/below"), noise(1, K64 - 1))
        .with_file(path("d/chunk"), noise(2, K64))
        .with_file(path("d/above"), noise(3, K64 + 1))
        .with_file(path("zeros"), vec![0; 5 * K64])
        .with_link(path("d/link"), LinkTarget::parse("one").unwrap())
        .with_file(path("日本語.txt"), b"text".to_vec());
    let mut world = World::new(source, MemorySink::new(), Compression::default());
    world.settle();
    world.check_complete();
}

#[test]
fn empty_transfers_complete() {
    for source in
        [MemorySource::new(), MemorySource::new().with_dir(path("d")), MemorySource::new().with_file(path("f"), vec![])]
    {
        let mut world = World::new(source, MemorySink::new(), Compression::default());
        world.settle();
        world.check_complete();
    }
}

#[test]
fn many_small_files_are_put_in_place_in_slices() {
    let count = receiver::SLICE * 2 + 1;
    let source = (0..count).fold(MemorySource::new(), |source, number| {
        source.with_file(path(&format!("f{number}")), number.to_string().into_bytes())
    });
    let mut world = World::new(source, MemorySink::new(), Compression::default());
    world.until(|world| world.receiver_jobs.iter().any(|job| matches!(job.work, Work::Finish { .. })));
    let mut slices = 0;
    while world.received.is_none() {
        assert!(world.sink.finished().len() < count);
        slices += world.receiver_jobs.len();
        world.step(&mut |_| 0);
        world.drain();
    }
    assert_eq!(slices, 3);
    world.settle();
    world.check_complete();
}

#[test]
fn declined_offer_reports_reason_to_sender() {
    let mut world = World::new(one_file(10), MemorySink::new(), Compression::default());
    world.yes = false;
    world.until(|world| world.sender.is_scanned() && world.to_receiver.is_empty() && world.sender_jobs.is_empty());
    world.receiver.decline(world.now, DeclineReason::Person, "not\x1b[2J today").unwrap();
    assert!(world.receiver.decline(world.now, DeclineReason::Person, "").is_err());
    assert!(world.receiver.accept(world.now, Arc::new(MemorySink::new())).is_err());
    world.settle();
    let text = Untrusted::new("not\x1b[2J today".to_owned());
    assert_eq!(world.sent, Some(Outcome::Declined { reason: DeclineReason::Person, text: text.clone() }));
    assert_eq!(text.escaped(200), "not\\u{1b}[2J today");
    world.check_ended();
}

/// At each point of a transfer, either side cancels it, or its session ends.
#[test]
fn transfer_can_be_cancelled_at_any_point() {
    let full = |ends: Option<(usize, usize)>| {
        let source = one_file(3 * K64 + 5).with_file(path("second"), noise(9, K64));
        let mut world = World::new(source, MemorySink::new(), Compression::default());
        let mut steps = 0;
        loop {
            world.drain();
            if let Some((at, how)) = ends
                && at == steps
            {
                let before = (world.sent.clone(), world.received.clone());
                match how {
                    0 => world.sender.cancel(world.now, CancelReason::Interrupted, "stop"),
                    1 => world.receiver.cancel(world.now, CancelReason::Interrupted, "stop"),
                    _ => {
                        world.sender.abandon(world.now);
                        world.receiver.abandon(world.now);
                        world.to_sender.clear();
                        world.to_receiver.clear();
                    }
                }
                // A complete transfer stays complete.
                world.drain();
                assert!(before.0.is_none() || world.sent == before.0);
                assert!(before.1.is_none() || world.received == before.1);
            }
            if !world.step(&mut |_| 0) {
                break;
            }
            steps += 1;
        }
        (world, steps)
    };
    let (world, steps) = full(None);
    world.check_complete();
    assert!(steps > 20, "{steps}");
    for at in 0..steps {
        for how in 0..3 {
            let (world, _) = full(Some((at, how)));
            let complete = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Complete { .. }));
            match (complete(&world.sent), complete(&world.received)) {
                (true, true) => assert_eq!(world.sink.finished().len(), 2),
                (true, false) => panic!("only the sender is happy, {at} {how}"),
                // The confirmation was in flight when the sender cancelled.
                (false, true) => {
                    assert!(how != 1);
                    assert_eq!(world.sender.is_unconfirmed(), how == 2, "{at} {how}");
                }
                (false, false) => {
                    world.check_ended();
                    let said = |outcome: &Option<Outcome>| match outcome {
                        Some(Outcome::PeerCancelled { reason, text }) => {
                            *reason == CancelReason::Interrupted && text.as_raw() == "stop"
                        }
                        _ => false,
                    };
                    match how {
                        0 => assert!(said(&world.received), "{:?}", world.received),
                        1 => assert!(said(&world.sent), "{:?}", world.sent),
                        _ => assert_eq!((&world.sent, &world.received), (&Some(Outcome::Lost), &Some(Outcome::Lost))),
                    }
                }
            }
            assert_eq!(world.sink.misuse(), None);
        }
    }
}

/// The kind of the local fault that ended a side; the message of a panic is separate.
fn failed(outcome: Option<&Outcome>) -> Option<FaultKind> {
    match outcome {
        Some(Outcome::Failed(fault)) => Some(fault.kind),
        _ => None,
    }
}

#[test]
fn faults_end_transfer_and_are_reported() {
    let io = FaultKind::Io(std::io::ErrorKind::PermissionDenied);
    let source = || one_file(3 * K64).with_file(path("b"), vec![1; 10]).with_page_after(1);
    let peer = |reason, text: &str| Outcome::PeerCancelled { reason, text: Untrusted::new(text.to_owned()) };
    // The sender's faults; before the offer the other side is only notified that the transfer ended.
    for (at, kind, reason) in [
        (At::Scan(0), io, CancelReason::Io),
        (At::Scan(1), FaultKind::NotRegular, CancelReason::Io),
        (At::Scan(2), FaultKind::Panicked, CancelReason::Io),
        (At::Read(0), FaultKind::Changed, CancelReason::SourceChanged),
        (At::Read(1), FaultKind::Panicked, CancelReason::Io),
    ] {
        let mut world = World::new(source().with_fault(at, kind), MemorySink::new(), Compression::default());
        world.settle();
        assert_eq!(failed(world.sent.as_ref()), Some(kind), "{at:?}");
        assert_eq!(world.received, Some(peer(reason, &kind.to_string())), "{at:?}");
        world.check_ended();
    }
    // The receiver's faults.
    for (at, kind, left) in [
        (At::Write(0), io, Stage::Abandoned),
        (At::Write(1), FaultKind::Panicked, Stage::Suspended),
        (At::Commit(0), io, Stage::Abandoned),
        (At::Commit(1), FaultKind::Panicked, Stage::Suspended),
        (At::Finish(0), FaultKind::Exists, Stage::Suspended),
    ] {
        let mut world = World::new(source(), MemorySink::new().with_fault(at, kind), Compression::default());
        world.settle();
        assert_eq!(failed(world.received.as_ref()), Some(kind), "{at:?}");
        assert_eq!(world.sent, Some(peer(CancelReason::Io, &kind.to_string())), "{at:?}");
        assert_eq!(world.sink.stage(), left, "{at:?}");
        world.check_ended();
    }
    // Before the acceptance: declined, with only the kind of the fault.
    for (at, kind, reason, text) in [
        (At::Begin, FaultKind::Full { need: 5, have: 3 }, DeclineReason::NoSpace, "not enough space on disk"),
        (At::Begin, FaultKind::Exists, DeclineReason::Policy, "exists already"),
        (At::Begin, io, DeclineReason::Io, "permission denied"),
        (At::Begin, FaultKind::Panicked, DeclineReason::Io, "internal error"),
    ] {
        let mut world = World::new(source(), MemorySink::new().with_fault(at, kind), Compression::default());
        world.settle();
        assert_eq!(failed(world.received.as_ref()), Some(kind));
        assert_eq!(world.sent, Some(Outcome::Declined { reason, text: Untrusted::new(text.to_owned()) }));
        assert!(!world.accepted);
        world.check_ended();
    }
}

#[test]
fn a_source_with_names_that_collide_is_not_offered() {
    let source = MemorySource::new().with_file(path("readme"), vec![]).with_file(path("readme"), vec![]);
    let mut world = World::new(source, MemorySink::new(), Compression::default());
    world.settle();
    let fault = Fault::at(FaultKind::Refused(manifest::Refusal::Twice), "readme");
    assert_eq!(world.sent, Some(Outcome::Failed(fault)));
}

#[test]
fn both_sides_learn_how_what_is_in_place_differs() {
    let placement = Placement { renamed: 3, links_outside: 2, links_unsupported: 1 };
    for placement in [placement, Placement::default()] {
        let mut world = World::new(one_file(10), MemorySink::new().with_placement(placement), Compression::Off);
        world.settle();
        assert!(matches!(world.sent, Some(Outcome::Complete { .. })), "{:?}", world.sent);
        let told = (placement != Placement::default()).then_some(placement);
        assert_eq!(world.placements, (told, told));
        world.check_ended();
    }
}

#[test]
fn file_changed_between_two_reads_is_detected() {
    let mut world = World::new(one_file(2 * K64), MemorySink::new(), Compression::Off);
    world.until(|world| world.chunks.len() == 2);
    // The behaviour of a source that does not notice the change itself.
    let mut other = noise(0, 2 * K64);
    other[K64] ^= 1;
    let changed: Arc<dyn Source> = Arc::new(MemorySource::new().with_file(path("file"), other));
    world.lose_link();
    world.until(|world| !world.sender_jobs.is_empty());
    for job in std::mem::take(&mut world.sender_jobs) {
        let Job { id, work: Work::Prepare(mut prepare) } = job else { panic!("{job:?}") };
        prepare.source = Arc::clone(&changed);
        world.sender.handle_job(world.now, run(Job { id, work: Work::Prepare(prepare) }));
    }
    world.settle();
    assert_eq!(world.sent, Some(Outcome::Failed(FaultKind::Changed.into())));
    world.check_ended();
}

#[test]
fn chunks_that_are_lost_with_a_link_are_made_again() {
    let mut world = World::new(one_file(20 * K64), MemorySink::new(), Compression::Off);
    world.until(|world| world.receiver.progress().bytes == 3 * K64 as u64);
    world.lose_link();
    world.until(|world| world.receiver.progress().bytes == 9 * K64 as u64);
    world.lose_link();
    world.settle();
    world.check_complete();
}

/// Everything is in flight when the link is lost, `End` too.
#[test]
fn lost_chunks_are_remade_after_end_message() {
    let mut world = World::new(one_file(2 * K64), MemorySink::new(), Compression::Off);
    world.until(|world| world.to_receiver.iter().any(|message| matches!(message, Control::End { .. })));
    assert!(!world.chunks.is_empty());
    world.lose_link();
    world.settle();
    world.check_complete();
}

#[test]
fn cancel_waits_for_stuck_jobs_until_timeout() {
    let mut world = World::new(one_file(20 * K64), MemorySink::new(), Compression::Off);
    world.until(|world| !world.chunks.is_empty());
    world.receiver.handle_chunk(world.now, world.chunks.remove(0));
    world.drain();
    let (stuck, waiting) = (world.sender_jobs.len(), world.receiver_jobs.len());
    assert!(stuck > 0 && waiting > 0);
    world.sender_jobs.clear();
    world.receiver_jobs.clear();
    world.sender.cancel(world.now, CancelReason::Interrupted, "");
    world.settle();
    assert!(!world.sender.is_closed() && !world.receiver.is_closed());
    let (at, other) = (world.sender.poll_timeout().unwrap(), world.receiver.poll_timeout().unwrap());
    assert_eq!((at, other), (world.now + STRAGGLERS, world.now + STRAGGLERS));
    world.sender.handle_timeout(at - Duration::from_millis(1));
    assert!(!world.sender.is_closed());
    world.sender.handle_timeout(at);
    world.receiver.handle_timeout(at);
    world.settle();
    world.check_ended();
}

fn any_source() -> impl Strategy<Value = MemorySource> {
    let size = prop_oneof![2 => 0..300_usize, 1 => K64 - 2..K64 + 2, 2 => 0..4 * K64];
    let content = (0..3_u8, size, any::<u64>());
    (prop::collection::vec(content, 0..12), 1..5_usize).prop_map(|(files, page_after)| {
        let mut source = MemorySource::new().with_page_after(page_after);
        for (number, (kind, size, noisy)) in files.into_iter().enumerate() {
            let name = |kind| path(&format!("{kind}{number}/x"));
            source = match kind {
                0 => source.with_dir(name("d")),
                1 => source.with_file(name("n"), noise(noisy, size)),
                _ => source.with_file(name("z"), vec![b'z'; size]),
            };
        }
        source
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the order of events, and whenever links are lost, the same bytes arrive, each written once.
    #[test]
    fn any_order_of_events_gives_same_bytes(
        source in any_source(),
        order in any::<[u8; 32]>(),
        losses in 0..4_u32,
        compress in any::<bool>(),
    ) {
        let compression = if compress { Compression::default() } else { Compression::Off };
        let mut world = World::new(source, MemorySink::new(), compression);
        let mut rng: ChaCha20Rng = Seed::new(order).rng();
        let mut left = losses;
        let mut steps = 0_u32;
        loop {
            if left > 0 && rng.next_u32().is_multiple_of(25) {
                left -= 1;
                world.lose_link();
            }
            if !world.step(&mut |total| rng.next_u32() as usize % total) {
                break;
            }
            steps += 1;
            prop_assert!(steps < 20_000, "it does not end");
        }
        world.check_complete();
    }

    /// The same with faults: the transfer ends on both sides, and no entry has a final name.
    #[test]
    fn any_fault_in_any_order_ends_both_peers(
        source in any_source(),
        order in any::<[u8; 32]>(),
        at in prop_oneof![
            (0..6_u32).prop_map(At::Scan), (0..12_u32).prop_map(At::Read), Just(At::Begin),
            (0..12_u32).prop_map(At::Write), (0..4_u32).prop_map(At::Commit), Just(At::Finish(0)),
        ],
    ) {
        let kind = FaultKind::Io(std::io::ErrorKind::Other);
        let (source, sink) = match at {
            At::Scan(_) | At::Read(_) => (source.with_fault(at, kind), MemorySink::new()),
            At::Begin | At::Write(_) | At::Commit(_) | At::Sync(_) | At::Finish(_) => (
                source, MemorySink::new().with_fault(at, kind)
            ),
        };
        let mut world = World::new(source, sink, Compression::default());
        let mut rng: ChaCha20Rng = Seed::new(order).rng();
        while world.step(&mut |total| rng.next_u32() as usize % total) {}
        if matches!(world.sent, Some(Outcome::Complete { .. })) {
            world.check_complete();
        } else {
            world.check_ended();
        }
    }
}

#[test]
fn stored_chunks_are_not_resent_after_link_loss() {
    let mut world = World::new(one_file(20 * K64), MemorySink::new(), Compression::Off);
    // No acknowledgement arrives at the sender.
    world.until(|world| {
        world.to_sender.retain(|message| !matches!(message, Control::Ack { .. }));
        world.receiver.progress().bytes >= 6 * K64 as u64
    });
    let stored = world.receiver.progress().bytes as usize / K64;
    let before = world.moved.clone();
    world.lose_link();
    world.settle();
    world.check_complete();
    let again = before.iter().filter(|chunk| world.moved[before.len()..].contains(chunk)).count();
    assert!(again <= before.len() - stored, "{again} of {} were sent again, {stored} were stored", before.len());
}
