use std::sync::atomic::AtomicBool;

use bytes::BytesMut;

use super::super::manifest::{ManifestBuilder, PageBuilder};
use super::super::memory::{At, MemorySink, MemorySource, Stage};
use super::super::path::RelPath;
use super::*;
use crate::seed::Seed;
use crate::session::{LinkId, Verdict};
use crate::transfer::job::{Job, JobId, Product, Work};
use crate::wire::peer::TransferKind;

const CHUNK: usize = 64 << 10;

fn text(len: usize) -> Vec<u8> {
    b"all work and no play makes a dull chunk. ".iter().copied().cycle().take(len).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes
}

struct Setup {
    contents: Contents,
    manifest: Arc<Manifest>,
    coders: Arc<Coders>,
    sink: Arc<MemorySink>,
    hashes: Arc<Mutex<Hashes>>,
}

impl Setup {
    fn new(files: &[Vec<u8>]) -> Self {
        Self::with(files, MemorySink::new())
    }

    fn with(files: &[Vec<u8>], sink: MemorySink) -> Self {
        let mut source = MemorySource::new();
        for (number, contents) in files.iter().enumerate() {
            source = source.with_file(RelPath::parse(&format!("f{number}")).unwrap(), contents.clone());
        }
        let mut builder = ManifestBuilder::new(TransferKind::Files, &Seed::new([1; 32]));
        let mut page = PageBuilder::new();
        source.entries().iter().for_each(|(entry, _)| page.push(entry).unwrap());
        builder.push_page(page.finish()).unwrap();
        let manifest = Arc::new(builder.finish_with(64 << 10).unwrap());
        sink.begin(&manifest).unwrap();
        let hashes = Arc::new(Mutex::new(Hashes::new(manifest.digest(), manifest.chunks())));
        let contents = Contents::new(Arc::new(source), Arc::clone(&manifest));
        Self { contents, manifest, coders: Arc::default(), sink: Arc::new(sink), hashes }
    }

    fn prepare(&self, chunk: u64, compression: Compression) -> Result<Made, Fault> {
        let prepare = Prepare {
            contents: self.contents.clone(),
            coders: Arc::clone(&self.coders),
            compression,
            transfer: 1,
            chunk,
            hash: self.hashes.lock().unwrap().get(chunk),
        };
        match run(Work::Prepare(prepare))? {
            Product::Made(made) => Ok(*made),
            other => panic!("{other:?}"),
        }
    }

    fn open(&self, chunk: Prepared) -> Result<Opened, Fault> {
        self.open_sealed(SealedChunk::arrived(LinkId(3), chunk, true)).map(|record| record.content.unwrap())
    }

    fn open_sealed(&self, sealed: SealedChunk) -> Result<OpenedRecord<Opened>, Fault> {
        let open = Open {
            sealed,
            sink: Arc::<MemorySink>::clone(&self.sink),
            manifest: Arc::clone(&self.manifest),
            coders: Arc::clone(&self.coders),
            hashes: Arc::clone(&self.hashes),
            transfer: 1,
        };
        match run(Work::Open(Box::new(open)))? {
            Product::Opened(opened) => Ok(opened),
            other => panic!("{other:?}"),
        }
    }

    /// A record of a hostile sender: any header, any body.
    fn forge(&self, header: Header, body: &[u8]) -> Result<Opened, Fault> {
        let mut chunk = Prepared::with_capacity(HEADER + body.len());
        chunk.extend_from_slice(&header.to_bytes());
        chunk.extend_from_slice(body);
        let result = self.open(chunk);
        if result
            != Ok(Opened::Stored { chunk: header.chunk, plain: header.length as usize, hash: header.hash, lacks: None })
        {
            assert_eq!((self.sink.written(), self.sink.misuse()), (0, None), "something was written");
        }
        result
    }

    fn header(&self, chunk: u64, codec: Codec, contents: &[u8]) -> Header {
        let length = u32::try_from(contents.len()).unwrap();
        Header { transfer: 1, chunk, codec, length, hash: *blake3::hash(contents).as_bytes() }
    }
}

fn run(work: Work) -> Result<Product, Fault> {
    Job { id: JobId(1), work }.run(&AtomicBool::new(false)).result
}

#[test]
fn chunk_header_layout_matches_protocol() {
    let header = Header { transfer: 1, chunk: 0x0203, codec: Codec::Zstd, length: 0x0405, hash: [6; 32] };
    let bytes = header.to_bytes();
    assert_eq!(bytes[..17], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 3, 1, 0, 0, 4, 5]);
    assert_eq!(bytes[17..], [6; 32]);
    assert_eq!(Header::parse(&[&bytes[..], b"rest"].concat()), Ok((header, &b"rest"[..])));
    for cut in 0..HEADER {
        assert_eq!(Header::parse(&bytes[..cut]), Err(Violation::BadChunk));
    }
    for codec in [4, 0xff] {
        let mut bytes = bytes;
        bytes[12] = codec;
        assert_eq!(Header::parse(&bytes), Err(Violation::BadChunk));
    }
}

#[test]
fn chunks_round_trip_and_compress_only_if_smaller() {
    for (contents, compression, codec) in [
        (text(3 * CHUNK + 7), Compression::default(), Codec::Zstd),
        (text(3 * CHUNK + 7), Compression::Level(i32::MAX), Codec::Zstd),
        (text(3 * CHUNK + 7), Compression::Level(i32::MIN), Codec::Zstd),
        (text(1000), Compression::default(), Codec::Zstd),
        (text(3 * CHUNK + 7), Compression::Off, Codec::Raw),
        (noise(3 * CHUNK + 7), Compression::default(), Codec::Raw),
        (vec![0; TINY - 2], Compression::default(), Codec::Raw),
    ] {
        let files = [contents, vec![9], vec![]];
        let setup = Setup::new(&files);
        for chunk in 0..setup.manifest.chunks() {
            let made = setup.prepare(chunk, compression).unwrap();
            let (header, body) = Header::parse(made.prepared.body()).unwrap();
            // The tail of the large file is too small to compress.
            assert!(header.codec == codec || made.plain < TINY, "{header:?}");
            assert!(
                codec == Codec::Raw || made.plain < TINY || body.len() < made.plain / 4,
                "{header:?} {}",
                body.len()
            );
            assert_eq!(
                setup.open(made.prepared),
                Ok(Opened::Stored { chunk, plain: made.plain, hash: made.hash, lacks: None })
            );
        }
        while !setup.sink.finish(1).unwrap() {}
        assert_eq!(setup.sink.misuse(), None);
        let arrived: Vec<_> = setup.sink.finished().into_values().map(|(_, contents)| contents).collect();
        assert_eq!(arrived, files);
        assert!(setup.coders.compressors.lock().unwrap().len() <= 1, "the context is used again");
    }
}

#[test]
fn compression_is_decided_from_start_of_chunk() {
    let mut contents = noise(SAMPLE);
    contents.extend(text(CHUNK - SAMPLE));
    let made = Setup::new(&[contents]).prepare(0, Compression::default()).unwrap();
    assert_eq!(Header::parse(made.prepared.body()).unwrap().0.codec, Codec::Raw);
}

#[test]
fn tampered_record_ends_its_link() {
    let setup = Setup::new(&[text(100)]);
    let made = setup.prepare(0, Compression::default()).unwrap();
    let changed = SealedChunk::arrived(LinkId(3), made.prepared, false);
    let verdict = Verdict { link: LinkId(3), is_genuine: false };
    assert_eq!(setup.open_sealed(changed), Ok(OpenedRecord { verdict, content: None }));
}

#[test]
fn p05_decompression_is_bounded_by_chunk_length() {
    let contents = noise(CHUNK);
    let zeros = |len: usize| zstd::bulk::compress(&vec![0; len], 3).unwrap();
    let bad_hash = Ok(Opened::Violation(Violation::ChunkHash));
    let bad_chunk = Ok(Opened::Violation(Violation::BadChunk));
    let setup = Setup::new(&[contents.clone(), vec![1]]);
    let header = setup.header(0, Codec::Zstd, &contents);
    // Expands to a thousand times its size, and to one byte more than a chunk.
    assert_eq!(setup.forge(header, &zeros(1000 * CHUNK)), bad_hash);
    assert_eq!(setup.forge(header, &zeros(CHUNK + 1)), bad_hash);
    assert_eq!(setup.forge(header, &zeros(CHUNK - 1)), bad_hash);
    assert_eq!(setup.forge(header, &zeros(CHUNK)), bad_hash);
    assert!(setup.coders.decompressors.lock().unwrap().iter().all(|(_, scratch)| scratch.capacity() <= CHUNK));
    // Nested zstd, not zstd at all, truncated, and empty.
    let compressed = zstd::bulk::compress(&contents, 3).unwrap();
    assert_eq!(setup.forge(header, &zstd::bulk::compress(&compressed, 3).unwrap()), bad_hash);
    assert_eq!(setup.forge(header, &contents), bad_hash);
    assert_eq!(setup.forge(header, &compressed[..compressed.len() - 1]), bad_hash);
    assert_eq!(setup.forge(header, &[]), bad_hash);
    // Too short, although only zero bytes are missing.
    let nothing = vec![0; CHUNK];
    let blank = Setup::new(std::slice::from_ref(&nothing));
    assert_eq!(blank.forge(blank.header(0, Codec::Zstd, &nothing), &zeros(CHUNK - 1)), bad_hash);
    // A length that differs from the layout's, whether or not it fits the body.
    for length in [0, 1, CHUNK - 1, CHUNK + 1, u32::MAX as usize] {
        let length = u32::try_from(length).unwrap();
        assert_eq!(setup.forge(Header { length, ..header }, &compressed), bad_chunk);
        assert_eq!(setup.forge(Header { length, codec: Codec::Raw, ..header }, &contents), bad_chunk);
    }
    assert_eq!(
        setup.forge(header, &compressed),
        Ok(Opened::Stored { chunk: 0, plain: CHUNK, hash: header.hash, lacks: None })
    );
}

#[test]
fn chunk_with_false_header_is_a_violation() {
    let contents = noise(CHUNK + 5);
    let setup = Setup::new(std::slice::from_ref(&contents));
    let tail = &contents[CHUNK..];
    let header = setup.header(1, Codec::Raw, tail);
    let violation = |violation| Ok(Opened::Violation(violation));
    assert_eq!(setup.forge(Header { transfer: 2, ..header }, tail), violation(Violation::WrongTransfer));
    for chunk in [2, 1 << 63, u64::MAX] {
        assert_eq!(setup.forge(Header { chunk, ..header }, tail), violation(Violation::BadChunk));
    }
    assert_eq!(setup.forge(Header { chunk: 0, ..header }, tail), violation(Violation::BadChunk));
    assert_eq!(setup.forge(header, &contents[CHUNK - 1..]), violation(Violation::BadChunk));
    assert_eq!(setup.forge(header, &contents[..5]), violation(Violation::ChunkHash));
    let mut hash = header.hash;
    hash[31] ^= 1;
    assert_eq!(setup.forge(Header { hash, ..header }, tail), violation(Violation::ChunkHash));
    assert_eq!(setup.open(Prepared::with_capacity(0)), violation(Violation::BadChunk));
    assert_eq!(setup.forge(header, tail), Ok(Opened::Stored { chunk: 1, plain: 5, hash: header.hash, lacks: None }));
}

#[test]
fn repeated_chunk_is_written_once() {
    let setup = Setup::new(&[text(100)]);
    let made = || setup.prepare(0, Compression::default()).unwrap().prepared;
    let hash = setup.prepare(0, Compression::default()).unwrap().hash;
    assert_eq!(setup.open(made()), Ok(Opened::Stored { chunk: 0, plain: 100, hash, lacks: None }));
    assert_eq!(setup.open(made()), Ok(Opened::Again));
    let other = noise(100);
    let mut changed = Prepared::with_capacity(200);
    changed.extend_from_slice(&setup.header(0, Codec::Raw, &other).to_bytes());
    changed.extend_from_slice(&other);
    assert_eq!(setup.open(changed), Ok(Opened::Violation(Violation::ChunkChanged)));
    assert_eq!((setup.sink.misuse(), setup.sink.stage()), (None, Stage::Staged));
}

#[test]
fn faults_and_panics_are_returned() {
    let mut setup =
        Setup::with(&[text(100), text(100)], MemorySink::new().with_fault(At::Write(1), FaultKind::Panicked));
    let made = setup.prepare(0, Compression::default()).unwrap();
    assert_eq!(setup.open(made.prepared).map_err(|fault| fault.kind), Err(FaultKind::Panicked));
    let broken = |kind| {
        let names = ["f0", "f1"].map(|name| RelPath::parse(name).unwrap());
        let source = names.into_iter().fold(MemorySource::new(), |source, name| source.with_file(name, text(100)));
        Arc::new(source.with_fault(At::Read(1), kind))
    };
    setup.contents.source = broken(FaultKind::Internal);
    assert_eq!(setup.prepare(0, Compression::default()).unwrap_err(), FaultKind::Internal.into());
    let denied = FaultKind::Io(std::io::ErrorKind::PermissionDenied);
    setup.contents.source = broken(denied);
    let made = setup.prepare(0, Compression::default()).unwrap();
    assert_eq!(made.failures, [(1, denied.into())]);
    assert_eq!(setup.prepare(0, Compression::default()).unwrap().failures, [], "it is said once");
    assert_eq!(setup.prepare(1, Compression::default()).unwrap_err(), FaultKind::Internal.into());
}

#[test]
fn stopped_job_is_cancelled_unless_it_cleans_up() {
    let setup = Setup::new(&[text(100)]);
    let stopped = AtomicBool::new(true);
    let sink = || Arc::<MemorySink>::clone(&setup.sink);
    let finish = Job { id: JobId(7), work: Work::Finish { sink: sink(), at_most: 9 } }.run(&stopped);
    assert_eq!((finish.id, finish.result.unwrap_err()), (JobId(7), FaultKind::Cancelled.into()));
    assert_eq!(setup.sink.stage(), Stage::Staged);
    let abandon = Job { id: JobId(8), work: Work::Abandon { sink: sink() } }.run(&stopped);
    assert!(matches!(abandon.result, Ok(Product::Abandoned)));
    assert_eq!(setup.sink.stage(), Stage::Abandoned);
}

#[test]
fn the_buffers_of_chunks_are_used_again_on_both_sides() {
    let contents = noise(CHUNK);
    let setup = Setup::new(&[contents.clone(), vec![7; CHUNK]]);
    let pool = Arc::clone(&setup.coders.buffers);
    pool.put(BytesMut::from(vec![0xff; CHUNK + 500].as_slice()));
    let idle = pool.idle();
    let made = setup.prepare(0, Compression::Off).unwrap().prepared;
    assert_eq!(pool.idle(), 0);
    assert_eq!(
        made.body()[..HEADER],
        setup.header(0, Codec::Raw, &contents).to_bytes(),
        "nothing is left of what it held"
    );
    assert_eq!(made.body()[HEADER..], contents);
    drop(made);
    assert_eq!(pool.idle(), idle);
    // The buffer that was read for compression is not sent.
    let compressed = setup.prepare(1, Compression::default()).unwrap().prepared;
    assert_eq!((compressed.len() < CHUNK, pool.idle()), (true, idle));
    let frame = setup.prepare(0, Compression::Off).unwrap().prepared;
    // Here the record is copied to another buffer, because the sender still holds the frame.
    assert!(matches!(setup.open(frame), Ok(Opened::Stored { chunk: 0, .. })));
    assert!(pool.idle() >= idle + CHUNK);
}
