//! The two machines of a transfer, each with a peer that has the keys and sends anything.
//!
//! Oracles: no panic, in jobs neither; nothing is written twice or in the wrong order (the sink checks this); no
//! entry gets its final name without an acceptance; no chunk is sent twice while its link is alive; queues and jobs
//! are bounded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tallow_proto::handshake::Keys;
use tallow_proto::seed::Seed;
use tallow_proto::session::{self, LinkId, Origin, Prepared, SealedChunk, Session, StreamNo};
use tallow_proto::transfer::chunk::{Codec, Header};
use tallow_proto::transfer::job::{Job, JobDone};
use tallow_proto::transfer::memory::{MemorySink, MemorySource};
use tallow_proto::transfer::path::RelPath;
use tallow_proto::transfer::receiver::{self, Receiver};
use tallow_proto::transfer::sender::{self, Sender};
use tallow_proto::transfer::storage::{FaultKind, Sink, Source};
use tallow_proto::transfer::{Compression, FIRST, Outcome, TransferEvent};
use tallow_proto::wire::peer::{CancelReason, Control, DeclineReason};
use tallow_proto::wire::relay::Role;
use tallow_proto::wire::{Caps, Decoder, decode, encode};

use crate::session::handshake;
use crate::steps::{canary, step, steps};

/// A control message, encoded.
pub const CONTROL: u8 = 0;
/// The plaintext of a chunk's record.
pub const RECORD: u8 = 1;
/// The number of a chunk (one byte) and its contents, with a correct header.
pub const CHUNK: u8 = 2;
/// Time passes: one second for each byte of the body.
pub const TIME: u8 = 3;
/// The link is lost, and another one is established.
pub const LINK: u8 = 4;
/// The user answers: accepts if the body is empty.
pub const ANSWER: u8 = 5;
/// The user cancels.
pub const CANCEL: u8 = 6;
/// Jobs are delayed from now on, or run again.
pub const JOBS: u8 = 7;

const STEPS: usize = 256;

/// Seals the messages of a malicious sender, and opens the outer layer like the receiver's session.
struct Sealer {
    evil: Session,
    honest: Session,
    now: Instant,
}

impl Sealer {
    fn new(now: Instant) -> Self {
        thread_local!(
            static KEYS: (Keys, Keys) = { let (_, sender, receiver) = handshake(Instant::now()); (sender, receiver) }
        );
        KEYS.with(|(sender, receiver)| {
            let up = |role, keys, seed| {
                let mut session = Session::new(session::Config::new(role), keys, Seed::new([seed; 32]));
                session.handle_link_up(now, LinkId(0), 0, Origin::Handshake);
                session
            };
            Self { evil: up(Role::Sender, sender, 1), honest: up(Role::Receiver, receiver, 2), now }
        })
    }

    fn seal(&mut self, plain: &[u8]) -> Option<SealedChunk> {
        let mut prepared = Prepared::with_capacity(plain.len());
        prepared.extend_from_slice(plain);
        let frames = self.evil.seal_chunk(self.now, LinkId(0), StreamNo(0), prepared).ok()?;
        let mut decoder = Decoder::new(Caps::Records);
        decoder.push(frames);
        while let Ok(Some(frame)) = decoder.next_frame() {
            self.honest.handle_record(self.now, LinkId(0), StreamNo(0), frame);
        }
        std::iter::from_fn(|| self.honest.poll_event()).find_map(|event| match event {
            session::Event::Chunk(chunk) => Some(chunk),
            _ => None,
        })
    }
}

fn run(job: Job) -> JobDone {
    let done = job.run(&AtomicBool::new(false));
    assert!(!matches!(done.result(), Err(fault) if fault.kind == FaultKind::Panicked), "a job panicked");
    done
}

/// A receiver; the bytes control the sender and the user.
pub fn receive(data: &[u8]) {
    let mut now = Instant::now();
    let mut sealer = Sealer::new(now);
    let mut receiver = Receiver::new(receiver::Config { cores: 2 }, Seed::new([3; 32]));
    let sink = Arc::new(MemorySink::new().with_free(1 << 20));
    let (mut accepted, mut wait, mut over) = (false, false, None);
    let mut jobs = Vec::new();
    for (tag, body) in steps(data).take(STEPS) {
        match tag % 8 {
            CONTROL => {
                if let Ok(message) = decode::<Control>(body) {
                    receiver.handle_control(now, message);
                }
            }
            RECORD => hear(&mut receiver, now, sealer.seal(body)),
            CHUNK => {
                if let Some((&chunk, contents)) = body.split_first() {
                    let plain = [&header(chunk.into(), contents).to_bytes()[..], contents].concat();
                    hear(&mut receiver, now, sealer.seal(&plain));
                }
            }
            TIME => {
                now += Duration::from_secs(body.len() as u64);
                receiver.handle_timeout(now);
            }
            LINK => {
                receiver.handle_link_lost(now, LinkId(0));
                receiver.handle_link_up(now);
            }
            // It is refused while nothing waits for an answer.
            ANSWER if body.is_empty() => {
                accepted |= receiver.accept(now, Arc::clone(&sink) as Arc<dyn Sink>).is_ok();
            }
            ANSWER => drop(receiver.decline(now, DeclineReason::Person, "")),
            CANCEL => receiver.cancel(now, CancelReason::Interrupted, ""),
            _ => wait = !wait,
        }
        loop {
            while let Some(event) = receiver.poll_event() {
                assert!(over.is_none(), "an event after the last one");
                if let TransferEvent::Over(outcome) = event {
                    over = Some(outcome);
                }
            }
            while let Some(job) = receiver.poll_job() {
                jobs.push(job);
            }
            assert!(jobs.len() <= 8, "jobs are bounded");
            if wait || jobs.is_empty() {
                break;
            }
            jobs.drain(..).for_each(|job| receiver.handle_job(now, run(job)));
        }
        let mut said = 0;
        while receiver.poll_control().is_some() {
            said += 1;
        }
        assert!(said <= 64, "answers are bounded");
        let progress = receiver.progress();
        assert!(progress.bytes <= progress.total);
    }
    assert_eq!(sink.misuse(), None);
    assert!(accepted || sink.written() == 0 && sink.finished().is_empty(), "nobody accepted it");
    let complete = matches!(over, Some(Outcome::Complete { .. }));
    assert!(!complete || accepted);
    canary(complete);
}

fn hear(receiver: &mut Receiver, now: Instant, chunk: Option<SealedChunk>) {
    if let Some(chunk) = chunk {
        receiver.handle_chunk(now, chunk);
    }
}

fn header(chunk: u64, contents: &[u8]) -> Header {
    let hash = *blake3::hash(contents).as_bytes();
    Header { transfer: FIRST, chunk, codec: Codec::Raw, length: contents.len() as u32, hash }
}

/// The source of the sender below: three chunks in two files, an empty file and a directory.
///
/// # Panics
/// Never: the names are valid.
#[must_use]
pub fn source() -> MemorySource {
    let path = |name: &str| RelPath::parse(name).expect("a name");
    MemorySource::new()
        .with_dir(path("d"))
        .with_file(path("d/one"), vec![1; 100_000])
        .with_file(path("two"), vec![2; 40_000])
        .with_file(path("empty"), Vec::new())
}

/// The same kind of source with one chunk, which fits in a step.
///
/// # Panics
/// Never: the names are valid.
#[must_use]
pub fn small() -> MemorySource {
    let path = |name: &str| RelPath::parse(name).expect("a name");
    MemorySource::new().with_dir(path("d")).with_file(path("d/one"), vec![1; 700]).with_file(path("two"), vec![2; 300])
}

fn sending(source: MemorySource) -> Sender {
    let config = sender::Config { cores: 2, compression: Compression::Off };
    Sender::new(config, Arc::new(source) as Arc<dyn Source>, &Seed::new([4; 32]))
}

/// The link (one of two) for which a chunk is sealed.
fn on(chunk: u64) -> LinkId {
    LinkId(u32::from(chunk % 2 == 1))
}

/// A sender; the bytes control the receiver and the user.
pub fn send(data: &[u8]) {
    let mut now = Instant::now();
    let mut sender = sending(source());
    sender.begin(now);
    let (mut wait, mut over) = (false, None);
    let (mut jobs, mut under_way) = (Vec::new(), BTreeSet::new());
    for (tag, body) in [(u8::MAX, &[][..])].into_iter().chain(steps(data).take(STEPS)) {
        match tag {
            // The first iteration.
            u8::MAX => {}
            _ if tag % 8 == CONTROL => {
                if let Ok(message) = decode::<Control>(body) {
                    sender.handle_control(now, message);
                }
            }
            _ if tag % 8 == TIME => {
                now += Duration::from_secs(body.len() as u64);
                sender.handle_timeout(now);
            }
            _ if tag % 8 == LINK && body.is_empty() => {
                sender.handle_all_lost(now);
                under_way.clear();
            }
            _ if tag % 8 == LINK => {
                let link = body.first().map_or(0, |&byte| u32::from(byte) % 2);
                sender.handle_link_lost(now, LinkId(link));
                under_way.retain(|&chunk| on(chunk) != LinkId(link));
            }
            _ if tag % 8 == CANCEL => sender.cancel(now, CancelReason::Interrupted, ""),
            _ if tag % 8 == JOBS => wait = !wait,
            _ => {}
        }
        loop {
            while let Some(event) = sender.poll_event() {
                assert!(over.is_none(), "an event after the last one");
                if let TransferEvent::Over(outcome) = event {
                    over = Some(outcome);
                }
            }
            while let Some(job) = sender.poll_job() {
                jobs.push(job);
            }
            assert!(jobs.len() <= 8, "jobs are bounded");
            while let Some((chunk, prepared)) = sender.poll_chunk() {
                assert!(chunk < 3 && prepared.len() <= (64 << 10) + 256, "it was offered");
                assert!(under_way.insert(chunk), "chunk {chunk} left twice");
                sender.handle_sealed(chunk, on(chunk));
            }
            while sender.poll_control().is_some() {}
            if wait || jobs.is_empty() {
                break;
            }
            jobs.drain(..).for_each(|job| sender.handle_job(now, run(job)));
        }
        let progress = sender.progress();
        assert!(progress.bytes <= progress.total);
    }
    canary(matches!(over, Some(Outcome::Complete { .. })));
}

/// The steps of a correct transfer for [`receive`] and for [`send`]; a chunk that does not fit in a step is left out.
///
/// # Panics
/// The transfer does not end.
#[must_use]
pub fn honest(source: MemorySource) -> (Vec<u8>, Vec<u8>) {
    let now = Instant::now();
    let mut sealer = Sealer::new(now);
    let mut sender = sending(source);
    sender.begin(now);
    let mut receiver = Receiver::new(receiver::Config { cores: 2 }, Seed::new([3; 32]));
    let sink = Arc::new(MemorySink::new());
    let (mut to_receiver, mut to_sender, mut complete) = (Vec::new(), Vec::new(), 0);
    while complete < 2 {
        while let Some(job) = sender.poll_job() {
            sender.handle_job(now, run(job));
        }
        while let Some(message) = sender.poll_control() {
            to_receiver.extend(step(CONTROL, &encode(&message)));
            receiver.handle_control(now, message);
        }
        while let Some((chunk, prepared)) = sender.poll_chunk() {
            let contents = &prepared.body()[header(chunk, &[]).to_bytes().len()..];
            if contents.len() < usize::from(u16::MAX) {
                to_receiver.extend(step(CHUNK, &[&[chunk as u8], contents].concat()));
            }
            receiver.handle_chunk(now, sealer.seal(prepared.body()).expect("a chunk"));
        }
        while let Some(event) = receiver.poll_event() {
            match event {
                TransferEvent::Offered(_) => {
                    to_receiver.extend(step(ANSWER, &[]));
                    receiver.accept(now, Arc::clone(&sink) as Arc<dyn Sink>).expect("an offer");
                }
                TransferEvent::Over(Outcome::Complete { .. }) => complete += 1,
                TransferEvent::Over(outcome) => panic!("{outcome:?}"),
                other => panic!("{other:?}"),
            }
        }
        while let Some(job) = receiver.poll_job() {
            receiver.handle_job(now, run(job));
        }
        while let Some(message) = receiver.poll_control() {
            to_sender.extend(step(CONTROL, &encode(&message)));
            sender.handle_control(now, message);
        }
        while let Some(event) = sender.poll_event() {
            match event {
                TransferEvent::Over(Outcome::Complete { .. }) => complete += 1,
                TransferEvent::Over(outcome) => panic!("{outcome:?}"),
                TransferEvent::Scanned(_) | TransferEvent::Accepted => {}
                other => panic!("{other:?}"),
            }
        }
    }
    (to_receiver, to_sender)
}
