//! The library as an application uses it, from one crate: the same programs run on tokio and on smol, over loopback.

use std::error::Error;
use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tallow_proto::transfer::manifest::{Entry, Manifest, Page};
use tallow_tokio::memory::{Collector, Files};
use tallow_tokio::{
    Class, Code, Compression, ConfigError, DeclineReason, Embedded, Event, Failure, Fault, FaultKind, Invitation, Link,
    Misuse, Payload, ReceiveConfig, Receiver, RelayAddress, SendConfig, Sender, Sink, Source, directory, files,
    receiving, sending,
};

/// What the programs need from a runtime: the two crates export the same names, so this is all.
trait Runtime: 'static {
    type Pool: Clone;
    fn send(config: SendConfig) -> Result<Sender, ConfigError>;
    fn receive(config: ReceiveConfig) -> Result<Receiver, ConfigError>;
    fn reader(bytes: Vec<u8>) -> Payload;
    fn writer() -> (Arc<dyn tallow_tokio::StreamSink>, impl Future<Output = Vec<u8>>);
    fn pool(most: usize) -> Self::Pool;
    fn send_in(pool: &Self::Pool, config: SendConfig) -> impl Future<Output = Result<Sender, ConfigError>>;
    fn block_on<F: Future>(test: F) -> F::Output;
}

struct Tokio;
struct Smol;

impl Runtime for Tokio {
    type Pool = tallow_tokio::Pool;
    fn send(config: SendConfig) -> Result<Sender, ConfigError> {
        tallow_tokio::send(config)
    }
    fn receive(config: ReceiveConfig) -> Result<Receiver, ConfigError> {
        tallow_tokio::receive(config)
    }
    fn reader(bytes: Vec<u8>) -> Payload {
        tallow_tokio::streams::reader(io::Cursor::new(bytes))
    }
    fn writer() -> (Arc<dyn tallow_tokio::StreamSink>, impl Future<Output = Vec<u8>>) {
        let (near, mut far) = tokio::io::duplex(1000);
        let read = async move {
            let mut bytes = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut far, &mut bytes).await.expect("bytes");
            bytes
        };
        (tallow_tokio::streams::writer(near), read)
    }
    fn pool(most: usize) -> Self::Pool {
        tallow_tokio::Pool::new(most)
    }
    fn send_in(pool: &Self::Pool, config: SendConfig) -> impl Future<Output = Result<Sender, ConfigError>> {
        pool.send(config)
    }
    fn block_on<F: Future>(test: F) -> F::Output {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
    }
}

impl Runtime for Smol {
    type Pool = tallow_smol::Pool;
    fn send(config: SendConfig) -> Result<Sender, ConfigError> {
        tallow_smol::send(config)
    }
    fn receive(config: ReceiveConfig) -> Result<Receiver, ConfigError> {
        tallow_smol::receive(config)
    }
    fn reader(bytes: Vec<u8>) -> Payload {
        tallow_smol::streams::reader(smol::io::Cursor::new(bytes))
    }
    fn writer() -> (Arc<dyn tallow_tokio::StreamSink>, impl Future<Output = Vec<u8>>) {
        let (mut far, near) =
            std::os::unix::net::UnixStream::pair().map(|(far, near)| (far, smol::Async::new(near))).unwrap();
        let read = smol::unblock(move || {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut far, &mut bytes).expect("bytes");
            bytes
        });
        (tallow_smol::streams::writer(near.unwrap()), read)
    }
    fn pool(most: usize) -> Self::Pool {
        tallow_smol::Pool::new(most)
    }
    fn send_in(pool: &Self::Pool, config: SendConfig) -> impl Future<Output = Result<Sender, ConfigError>> {
        pool.send(config)
    }
    fn block_on<F: Future>(test: F) -> F::Output {
        smol::block_on(test)
    }
}

macro_rules! on_both_runtimes {
    ($($test:ident),* $(,)?) => {
        mod tokio_runtime {
            $(#[test]
            fn $test() {
                <super::Tokio as super::Runtime>::block_on(super::$test::<super::Tokio>()).unwrap();
            })*
        }
        mod smol_runtime {
            $(#[test]
            fn $test() {
                <super::Smol as super::Runtime>::block_on(super::$test::<super::Smol>()).unwrap();
            })*
        }
    };
}

on_both_runtimes!(
    file_transfer_takes_ten_lines,
    bytes_are_sent_from_memory_to_memory,
    reader_is_streamed_into_writer,
    file_is_streamed_into_writer,
    receiver_needs_only_the_link,
    an_offer_that_is_dropped_is_declined,
    waiting_for_files_declines_stream_offer,
    ignored_verifier_words_fail_verification,
    cancel_after_end_is_misuse,
    outcome_is_kept_and_returned_by_closed,
    events_before_code_are_kept,
    progress_reports_rate_and_resumed_bytes,
    source_fault_text_is_reported,
    sink_panic_is_reported_with_its_text,
    a_source_that_cancels_interrupts_both_sides,
    pool_bounds_concurrent_transfers,
    invalid_config_is_an_error_of_the_call,
);

type Tried = Result<(), Box<dyn Error>>;

/// Everything is on this machine: a port of the system's choice, and no search for other paths.
fn here(payload: impl Into<Payload>) -> SendConfig {
    let config = sending(payload).without_direct_path();
    let identity = config.embedded.clone().expect("a certificate").identity;
    config.with_embedded(Embedded::new(identity).listening_at(vec![([127, 0, 0, 1], 0).into()]))
}

fn there(code: Code, listening: Vec<SocketAddr>) -> ReceiveConfig {
    let mut config = receiving(code).without_direct_path();
    (config.local, config.discover) = (listening, false);
    config
}

/// Both ends of a transfer.
async fn pair<R: Runtime>(config: SendConfig) -> Result<(Sender, Receiver), Box<dyn Error>> {
    let mut sender = R::send(config)?;
    let receiver = R::receive(there(sender.code().await?, sender.listening().await?))?;
    Ok((sender, receiver))
}

fn bytes() -> Vec<u8> {
    (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

async fn file_transfer_takes_ten_lines<R: Runtime>() -> Tried {
    let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
    fs::write(from.path().join("one.bin"), bytes())?;
    let (mut sender, mut receiver) = pair::<R>(here(files([from.path().join("one.bin")])?)).await?;
    receiver.offer().await?.accept(directory(to.path())?)?;
    assert_eq!(receiver.closed().await?.totals.bytes, 3_000_000);
    sender.closed().await?;
    assert!(fs::read(to.path().join("one.bin"))? == bytes());
    Ok(())
}

async fn bytes_are_sent_from_memory_to_memory<R: Runtime>() -> Tried {
    let payload = Files::new().with_file("a/one.bin", bytes())?.with_file("two.txt", "hello")?;
    let (mut sender, mut receiver) = pair::<R>(here(payload)).await?;
    let memory = Collector::new(10 << 20);
    receiver.offer().await?.accept(memory.clone())?;
    receiver.closed().await?;
    let arrived = memory.take_files();
    assert_eq!((arrived[0].path.as_str(), arrived[1].path.as_str()), ("a/one.bin", "two.txt"));
    assert!(arrived[0].contents == bytes() && arrived[1].contents == "hello");
    sender.closed().await?;
    let (mut sender, mut receiver) = pair::<R>(here(Payload::bytes("big", bytes())?)).await?;
    receiver.offer().await?.accept(Collector::new(1000))?;
    let failure = receiver.closed().await.expect_err("too much");
    assert!(failure.to_string().contains("have 1000"), "{failure}");
    let failure = sender.closed().await.expect_err("too much");
    assert!(matches!(failure, Failure::Declined { reason: DeclineReason::NoSpace, .. }), "{failure:?}");
    Ok(())
}

async fn reader_is_streamed_into_writer<R: Runtime>() -> Tried {
    let (mut sender, mut receiver) = pair::<R>(here(R::reader(bytes()))).await?;
    let (writer, read) = R::writer();
    receiver.stream_offer().await?.accept(writer)?;
    assert!(read.await == bytes());
    assert_eq!(receiver.closed().await?.totals.bytes, 3_000_000);
    sender.closed().await?;
    Ok(())
}

async fn file_is_streamed_into_writer<R: Runtime>() -> Tried {
    let (mut sender, mut receiver) = pair::<R>(here(Payload::bytes("one.bin", bytes())?)).await?;
    let (writer, read) = R::writer();
    let offer = receiver.stream_offer().await?;
    assert_eq!(offer.file().expect("one file").totals().bytes, 3_000_000);
    offer.accept(writer)?;
    assert!(read.await == bytes());
    receiver.closed().await?;
    sender.closed().await?;
    let (mut sender, mut receiver) = pair::<R>(here(Files::new().with_file("a", "b")?.with_file("c", "d")?)).await?;
    assert_eq!(receiver.stream_offer().await.expect_err("two files"), Failure::NotAccepted);
    assert!(matches!(sender.closed().await, Err(Failure::Declined { .. })));
    Ok(())
}

async fn receiver_needs_only_the_link<R: Runtime>() -> Tried {
    let mut sender = R::send(here(Payload::bytes("a", "b")?))?;
    let link: Link = sender.link().await?.expect("a relay inside that can be named");
    let text = link.reveal();
    let invitation: Invitation = text.parse()?;
    let mut receiver = R::receive(receiving(invitation).without_direct_path())?;
    receiver.offer().await?.accept(Collector::new(1 << 20))?;
    receiver.closed().await?;
    sender.closed().await?;
    Ok(())
}

async fn an_offer_that_is_dropped_is_declined<R: Runtime>() -> Tried {
    let (mut sender, mut receiver) = pair::<R>(here(Payload::bytes("a", "b")?)).await?;
    drop(receiver.offer().await?);
    assert_eq!(receiver.closed().await, Err(Failure::NotAccepted));
    let failure = sender.closed().await.expect_err("declined");
    assert!(matches!(failure, Failure::Declined { reason: DeclineReason::Person, .. }), "{failure:?}");
    Ok(())
}

async fn waiting_for_files_declines_stream_offer<R: Runtime>() -> Tried {
    let (mut sender, mut receiver) = pair::<R>(here(R::reader(bytes()))).await?;
    assert_eq!(receiver.offer().await.expect_err("a stream"), Failure::NotAccepted);
    let failure = sender.closed().await.expect_err("declined");
    assert!(failure.to_string().contains("no stream"), "{failure}");
    Ok(())
}

async fn ignored_verifier_words_fail_verification<R: Runtime>() -> Tried {
    let (mut sender, mut receiver) = pair::<R>(here(Payload::bytes("a", "b")?).with_verifier()).await?;
    assert_eq!(sender.closed().await, Err(Failure::NotVerified));
    assert!(matches!(receiver.closed().await, Err(Failure::Peer { .. })));
    Ok(())
}

async fn cancel_after_end_is_misuse<R: Runtime>() -> Tried {
    let (mut sender, mut receiver) = pair::<R>(here(Payload::bytes("a", "b")?)).await?;
    let offer = receiver.offer().await?;
    receiver.cancel()?;
    assert_eq!(receiver.outcome().await, Err(Failure::Interrupted));
    assert_eq!(receiver.cancel(), Err(Misuse::Over));
    assert!(sender.closed().await.is_err());
    assert_eq!(sender.cancel(), Err(Misuse::Over));
    assert!(receiver.closed().await.is_err());
    assert_eq!(offer.accept(Collector::new(1 << 20)), Err(Misuse::Over));
    assert!(receiver.next_event().await.is_none(), "no event says again what the call said");
    Ok(())
}

async fn outcome_is_kept_and_returned_by_closed<R: Runtime>() -> Tried {
    let (mut sender, mut receiver) = pair::<R>(here(Payload::bytes("a", "b")?)).await?;
    receiver.offer().await?.accept(Collector::new(1 << 20))?;
    assert!(receiver.ended().is_none());
    let received = receiver.closed().await?;
    assert_eq!((receiver.outcome().await?, receiver.closed().await?), (received.clone(), received.clone()));
    assert_eq!(receiver.ended(), Some(&Ok(received.clone())));
    assert_eq!(sender.closed().await?.root, received.root);
    Ok(())
}

async fn events_before_code_are_kept<R: Runtime>() -> Tried {
    let (mut sender, _receiver) = pair::<R>(here(Payload::bytes("a", "b")?)).await?;
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        match sender.next_event().await.expect("events") {
            Event::Scanned(totals) => kinds.push(totals.files),
            Event::Code { code, .. } => {
                assert_eq!(code.reveal(), sender.code().await?.reveal());
                kinds.push(0);
            }
            _ => {}
        }
    }
    assert_eq!(kinds, [1, 0]);
    Ok(())
}

async fn progress_reports_rate_and_resumed_bytes<R: Runtime>() -> Tried {
    let rate = std::num::NonZeroU64::new(3_000_000).expect("not 0");
    let config = here(Payload::bytes("one.bin", bytes())?).with_limit(rate).with_compression(Compression::Off);
    let (mut sender, mut receiver) = pair::<R>(config).await?;
    receiver.offer().await?.accept(Collector::new(10 << 20))?;
    let (mut last, mut rates) = (None, 0);
    while let Some(event) = sender.next_event().await {
        if let Event::Progress(progress) = event {
            assert_eq!(progress.resumed, 0);
            rates += usize::from(progress.rate.is_some());
            last = Some(progress);
        }
    }
    let (last, summary) = (last.expect("progress"), sender.closed().await?);
    assert_eq!((last.bytes, last.total, summary.resumed), (3_000_000, 3_000_000, 0));
    assert!(!last.elapsed.is_zero() && last.elapsed <= summary.duration, "{last:?} {summary:?}");
    assert!(rates > 0, "it took longer than a rate needs: {last:?}");
    assert_eq!(sender.progress(), Some(last));
    // The test took no events of the receiver.
    receiver.outcome().await?;
    assert_eq!(receiver.progress().map(|progress| progress.bytes), Some(3_000_000));
    assert!(receiver.path().is_some() && sender.path().is_some());
    receiver.closed().await?;
    Ok(())
}

/// A source or a sink with a fault of its own.
struct Broken(fn() -> Fault);

impl Source for Broken {
    fn scan(&self, _page: u32) -> Result<Option<Page>, Fault> {
        Err(self.0())
    }
    fn read(&self, _index: u32, _entry: &Entry, _at: u64, _into: &mut [u8]) -> Result<(), Fault> {
        Err(self.0())
    }
}

impl Sink for Broken {
    fn begin(&self, _: &Arc<Manifest>) -> Result<Vec<tallow_proto::transfer::journal::Stored>, Fault> {
        Err(self.0())
    }
    fn write(&self, _index: u32, _entry: &Entry, _at: u64, _plain: &[u8]) -> Result<(), Fault> {
        Err(self.0())
    }
    fn leave_out(&self, _index: u32, _entry: &Entry) -> Result<(), Fault> {
        Err(self.0())
    }
    fn finish(&self, _at_most: usize) -> Result<bool, Fault> {
        Err(self.0())
    }
    fn abandon(&self) {}
}

async fn source_fault_text_is_reported<R: Runtime>() -> Tried {
    let source = Arc::new(Broken(|| io::Error::other("my database is gone").into()));
    let failure = R::send(here(source))?.closed().await.expect_err("broken");
    assert_eq!(failure.class(), Class::Io);
    assert!(failure.to_string().starts_with("my database is gone"), "{failure}");
    let fault = failure.source().and_then(|cause| cause.downcast_ref::<Fault>()).expect("a fault");
    assert_eq!(fault.kind, FaultKind::Io(io::ErrorKind::Other));
    Ok(())
}

async fn sink_panic_is_reported_with_its_text<R: Runtime>() -> Tried {
    let (mut sender, mut receiver) = pair::<R>(here(Payload::bytes("a", "b")?)).await?;
    receiver.offer().await?.accept(Arc::new(Broken(|| panic!("no table of that name"))))?;
    let failure = receiver.closed().await.expect_err("it panics");
    assert!(failure.to_string().contains("no table of that name"), "{failure}");
    let failure = sender.closed().await.expect_err("it panics");
    assert!(!failure.to_string().contains("table"), "the other side is told no more than the kind: {failure}");
    Ok(())
}

/// Bytes until it has enough of it.
struct Quits(AtomicBool);

impl tallow_tokio::StreamSource for Quits {
    fn read(&self, into: &mut [u8], _: Duration) -> Result<tallow_proto::transfer::storage::Read, Fault> {
        if self.0.swap(true, Ordering::Relaxed) {
            return Err(FaultKind::Cancelled.into());
        }
        into[0] = 1;
        Ok(tallow_proto::transfer::storage::Read::Bytes(std::num::NonZeroUsize::MIN))
    }
}

async fn a_source_that_cancels_interrupts_both_sides<R: Runtime>() -> Tried {
    let source = Payload::Stream(Arc::new(Quits(AtomicBool::new(false))));
    let (mut sender, mut receiver) = pair::<R>(here(source)).await?;
    let (writer, _read) = R::writer();
    receiver.stream_offer().await?.accept(writer)?;
    assert_eq!(sender.closed().await.expect_err("it has enough").class(), Class::Interrupted);
    let told = receiver.closed().await.expect_err("it has enough");
    assert!(matches!(told, Failure::Peer { reason: tallow_tokio::CancelReason::Interrupted, .. }), "{told:?}");
    Ok(())
}

async fn pool_bounds_concurrent_transfers<R: Runtime>() -> Tried {
    let pool = R::pool(2);
    let one = || Ok::<_, Box<dyn Error>>(here(Payload::bytes("a", "b")?));
    let mut first = R::send_in(&pool, one()?).await?;
    let _second = R::send_in(&pool, one()?).await?;
    let mut third = Box::pin(R::send_in(&pool, one()?));
    first.code().await?;
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(third.as_mut().poll(cx).is_pending())).await;
    assert!(polled, "two run");
    drop(first);
    third.await?.code().await?;
    let wrong = R::send_in(&pool, one()?.with_words(0)).await.expect_err("no place is waited for");
    assert_eq!(wrong, ConfigError::Words(0));
    Ok(())
}

async fn invalid_config_is_an_error_of_the_call<R: Runtime>() -> Tried {
    let mut config = here(Payload::bytes("a", "b")?);
    for words in [0, 200] {
        assert_eq!(R::send(config.clone().with_words(words)).expect_err("words"), ConfigError::Words(words));
    }
    config.embedded = None;
    let error = R::send(config.clone()).expect_err("no relay at all");
    assert_eq!(error, ConfigError::NoRelay);
    assert!(error.to_string().contains("no relay is named"), "{error}");
    assert!(R::send(config.with_relay("127.0.0.1:9".parse::<RelayAddress>()?)).is_ok());
    Ok(())
}

#[test]
fn dropped_runtime_ends_sender_with_failure() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut sender = {
        let _entered = runtime.enter();
        tallow_tokio::send(here(Payload::bytes("a", "b").unwrap())).unwrap()
    };
    runtime.block_on(sender.code()).unwrap();
    drop(runtime);
    let failed = |event| matches!(event, Some(Event::Failed(Failure::Stopped)));
    smol::block_on(async {
        let mut last = None;
        while let Some(event) = sender.next_event().await {
            last = Some(event);
        }
        assert!(failed(last));
        assert_eq!(sender.closed().await, Err(Failure::Stopped));
    });
}
