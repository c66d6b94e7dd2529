//! The cost of a frame, a record, a chunk, a handshake and a forwarded byte in the state machines, without network,
//! disk or clock.
//!
//! `cargo bench -p tallow-tests --bench machines`; `cargo test` runs each once, so that all of them keep working.

#[path = "../../fuzz/src/relay.rs"]
#[allow(dead_code, reason = "what the fuzzers alone use")]
mod relay;
#[path = "../../fuzz/src/session.rs"]
mod session;
#[path = "../../fuzz/src/steps.rs"]
mod steps;

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use divan::Bencher;
use divan::counter::BytesCount;
use tallow_proto::seed::Seed;
use tallow_proto::session::{Config, Event, LinkId, Origin, Prepared, SealedChunk, Session, StreamNo};
use tallow_proto::transfer::job::Job;
use tallow_proto::transfer::manifest::{Entry, Manifest};
use tallow_proto::transfer::memory::MemorySource;
use tallow_proto::transfer::path::RelPath;
use tallow_proto::transfer::receiver::{self, Receiver};
use tallow_proto::transfer::sender::{self, Sender};
use tallow_proto::transfer::storage::{Fault, Sink};
use tallow_proto::transfer::{Compression, TransferEvent};
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::Role;
use tallow_proto::wire::{Caps, Decoder};
use tallow_tests::sim::{identity, noise};

const LINK: LinkId = LinkId(0);

fn main() {
    divan::main();
}

/// Frames of this size, in datagrams as QUIC hands them on.
#[divan::bench(args = [100, 4_000, 60_000])]
fn frames_decoded(bencher: Bencher, size: usize) {
    let frames: Bytes = enclose(&vec![7; size]).repeat((1 << 20) / size).into();
    bencher.counter(BytesCount::new(frames.len())).bench(|| {
        let mut decoder = Decoder::new(Caps::Records);
        let mut count = 0;
        for at in (0..frames.len()).step_by(1_400) {
            decoder.push(frames.slice(at..frames.len().min(at + 1_400)));
            while let Ok(Some(frame)) = decoder.next_frame() {
                black_box(&frame);
                count += 1;
            }
        }
        count
    });
}

/// Both ends of one session.
fn sessions() -> (Session, Session, Instant) {
    let now = Instant::now();
    let (_, sender, receiver) = session::handshake(now);
    let up = |role, keys: &_, seed| {
        let mut session = Session::new(Config::new(role), keys, Seed::new([seed; 32]));
        session.handle_link_up(now, LINK, 0, Origin::Handshake);
        session
    };
    (up(Role::Sender, &sender, 1), up(Role::Receiver, &receiver, 2), now)
}

fn sealed(from: &mut Session, to: &mut Session, now: Instant, chunk: Prepared) -> SealedChunk {
    let frames = from.seal_chunk(now, LINK, StreamNo(0), chunk).expect("a link");
    let mut decoder = Decoder::new(Caps::Records);
    decoder.push(frames);
    while let Ok(Some(frame)) = decoder.next_frame() {
        to.handle_record(now, LINK, StreamNo(0), frame);
    }
    let mut events = std::iter::from_fn(|| to.poll_event());
    let chunk = events.find_map(|event| if let Event::Chunk(chunk) = event { Some(chunk) } else { None });
    chunk.expect("a chunk")
}

#[divan::bench(args = [64 << 10, 1 << 20])]
fn record_sealed(bencher: Bencher, size: usize) {
    let (mut sender, _, now) = sessions();
    bencher
        .counter(BytesCount::new(size))
        .with_inputs(|| Prepared::zeroed(size))
        .bench_local_values(|chunk| sender.seal_chunk(now, LINK, StreamNo(0), chunk).expect("a link"));
}

#[divan::bench(args = [64 << 10, 1 << 20])]
fn record_opened(bencher: Bencher, size: usize) {
    let (mut sender, mut receiver, now) = sessions();
    bencher
        .counter(BytesCount::new(size))
        .with_inputs(|| sealed(&mut sender, &mut receiver, now, Prepared::zeroed(size)))
        .bench_local_values(|chunk| -> BytesMut { chunk.open().content.expect("the right key") });
}

/// A sink that drops all chunks.
struct Nowhere;

impl Sink for Nowhere {
    fn begin(&self, _: &Arc<Manifest>) -> Result<Vec<tallow_proto::transfer::journal::Stored>, Fault> {
        Ok(Vec::new())
    }
    fn write(&self, _: u32, _: &Entry, _: u64, plain: &[u8]) -> Result<(), Fault> {
        black_box(plain);
        Ok(())
    }
    fn finish(&self, _: usize) -> Result<bool, Fault> {
        Ok(true)
    }
    fn abandon(&self) {}
}

/// Two machines and the messages between them; it stops when there is a job for the side that is measured.
struct Transfer {
    sender: Sender,
    receiver: Receiver,
    sessions: (Session, Session, Instant),
    jobs: VecDeque<Job>,
    chunks: VecDeque<Job>,
}

const FILE: usize = 64 << 20;

impl Transfer {
    fn new(contents: Vec<u8>, compression: Compression) -> Self {
        let sessions = sessions();
        let source = MemorySource::new().with_file(RelPath::parse("file").expect("a name"), contents);
        let config = sender::Config { cores: 1, compression };
        let mut sender = Sender::new(config, Arc::new(source), &Seed::new([4; 32]));
        sender.begin(sessions.2);
        let receiver = Receiver::new(receiver::Config { cores: 1 }, Seed::new([3; 32]));
        Self { sender, receiver, sessions, jobs: VecDeque::new(), chunks: VecDeque::new() }
    }

    /// The next job of this kind; all others are done on the way.
    fn job(&mut self, kind: &str) -> Option<Job> {
        let now = self.sessions.2;
        for _ in 0..10_000 {
            while let Some(job) = self.sender.poll_job() {
                self.jobs.push_back(job);
            }
            while let Some(job) = self.receiver.poll_job() {
                self.chunks.push_back(job);
            }
            if let Some(job) = self.jobs.pop_front() {
                if job.name() == kind {
                    return Some(job);
                }
                self.sender.handle_job(now, run(job));
            }
            if let Some(job) = self.chunks.pop_front() {
                if job.name() == kind {
                    return Some(job);
                }
                self.receiver.handle_job(now, run(job));
            }
            while let Some(message) = self.sender.poll_control() {
                self.receiver.handle_control(now, message);
            }
            while let Some((_, chunk)) = self.sender.poll_chunk() {
                let (from, to, now) = &mut self.sessions;
                self.receiver.handle_chunk(*now, sealed(from, to, *now, chunk));
            }
            while let Some(message) = self.receiver.poll_control() {
                self.sender.handle_control(now, message);
            }
            while let Some(event) = self.receiver.poll_event() {
                if let TransferEvent::Offered(_) = event {
                    self.receiver.accept(now, Arc::new(Nowhere)).expect("an offer");
                }
            }
            while self.sender.poll_event().is_some() {}
        }
        None
    }
}

fn run(job: Job) -> tallow_proto::transfer::job::JobDone {
    job.run(&AtomicBool::new(false))
}

/// A chunk's job on its worker: read, hash, compress; or open, hash, write. Each iteration uses one chunk of a new
/// transfer.
fn chunk_job(bencher: Bencher, kind: &str, contents: &[u8], compression: Compression) {
    let chunk = tallow_proto::transfer::chunk_size::chunk_size_for(contents.len() as u64) as usize;
    bencher
        .counter(BytesCount::new(chunk))
        .with_inputs(|| Transfer::new(contents.to_vec(), compression).job(kind).expect("a job"))
        .bench_local_values(run);
}

#[divan::bench(sample_count = 20)]
fn chunk_prepared(bencher: Bencher) {
    chunk_job(bencher, "prepare", &noise(FILE, 1), Compression::Off);
}

#[divan::bench(sample_count = 20)]
fn chunk_prepared_and_compressed(bencher: Bencher) {
    chunk_job(bencher, "prepare", &b"the same words again and again. ".repeat(FILE / 32), Compression::default());
}

#[divan::bench(sample_count = 20)]
fn chunk_opened(bencher: Bencher) {
    chunk_job(bencher, "open", &noise(FILE, 2), Compression::Off);
}

#[divan::bench]
fn handshake_of_both_sides() {
    black_box(session::handshake(Instant::now()));
}

/// Through the relay from one connection into another, with both clients' QUIC.
#[divan::bench(sample_count = 10)]
fn forwarded(bencher: Bencher) {
    let bytes = Bytes::from(noise(4 << 20, 3));
    let mut hub = relay::Hub::new(identity());
    let (sender, receiver) = hub.pair(1);
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| assert!(hub.forward(sender, receiver, &bytes)));
}
