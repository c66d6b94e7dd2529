//! Real sockets on loopback and real directories: the same tests run on tokio and on smol.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tallow_proto::code::Code;
use tallow_proto::drive::Handle;
use tallow_proto::link::race::{Allowed, Transport};
use tallow_proto::link::trust::{Identity, Trust};
use tallow_proto::peer::{
    Class, Common, Embedded, Event, Failure, Lost, Machine, Payload, ReceiveConfig, Receiver, RelayAddress,
    RelayChoice, RelayFailure, SendConfig, Sender, WaitingFor,
};
use tallow_proto::room::{self, Relay};
use tallow_proto::transfer::differences::{EntryList, ListedEntry};
use tallow_proto::transfer::stream::memory::{MemoryPipe, MemoryStream, Piece};
use tallow_proto::wire::peer::{CancelReason, DeclineReason, EntryStatus};
use tallow_store::{Destination, OnExists, Policy, SourceOptions, SourceTree, identity};

/// What the tests need from a runtime: the two crates export the same names, so this is all.
trait Runtime {
    fn send(config: SendConfig) -> Sender;
    fn receive(config: ReceiveConfig) -> Receiver;
    fn relay(relay: Relay) -> Handle<Relay>;
    fn block_on<F: Future>(test: F) -> F::Output;
}

struct Tokio;
struct Smol;

impl Runtime for Tokio {
    fn send(config: SendConfig) -> Sender {
        tallow_tokio::send(config).expect("a good configuration")
    }
    fn receive(config: ReceiveConfig) -> Receiver {
        tallow_tokio::receive(config).expect("a good configuration")
    }
    fn relay(relay: Relay) -> Handle<Relay> {
        tallow_tokio::spawn(relay)
    }
    fn block_on<F: Future>(test: F) -> F::Output {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
    }
}

impl Runtime for Smol {
    fn send(config: SendConfig) -> Sender {
        tallow_smol::send(config).expect("a good configuration")
    }
    fn receive(config: ReceiveConfig) -> Receiver {
        tallow_smol::receive(config).expect("a good configuration")
    }
    fn relay(relay: Relay) -> Handle<Relay> {
        tallow_smol::spawn(relay)
    }
    fn block_on<F: Future>(test: F) -> F::Output {
        smol::block_on(test)
    }
}

macro_rules! on_both_runtimes {
    ($($test:ident),* $(,)?) => {
        mod tokio_runtime {
            $(#[test] fn $test() { <super::Tokio as super::Runtime>::block_on(super::$test::<super::Tokio>()); })*
        }
        mod smol_runtime {
            $(#[test] fn $test() { <super::Smol as super::Runtime>::block_on(super::$test::<super::Smol>()); })*
        }
    };
}

on_both_runtimes!(
    folder_arrives_without_separate_relay,
    folder_arrives_through_relay,
    folder_arrives_over_every_pair_of_transports,
    a_session_moves_to_a_direct_path,
    p2p_only_transfer_fails_if_peer_has_p2p_off,
    compressible_files_arrive_intact,
    wrong_code_ends_its_receiver_and_right_code_works,
    the_third_wrong_code_ends_the_sender,
    second_receiver_at_relay_gets_code_taken,
    declined_offer_is_reported_to_sender,
    the_verifier_words_are_the_same_on_both_sides,
    cancelled_transfer_is_resumed,
    dropped_handle_is_reported_to_peer,
    existing_names_are_refused_before_transfer,
    a_source_that_changes_ends_the_transfer,
    files_that_fail_are_named_on_both_sides,
    lost_relay_is_awaited_until_timeout,
    restarted_relay_is_used_again,
    stream_survives_relay_restart,
    a_changed_certificate_is_refused,
    relay_password_is_required,
    unanswered_relay_address_fails_with_no_relay,
);

/// A folder with everything that must survive.
fn folder(at: &Path) {
    let root = at.join("holiday");
    fs::create_dir_all(root.join("写真/夏")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::write(root.join("写真/夏/日本語.txt"), "こんにちは").unwrap();
    fs::write(root.join("nothing"), "").unwrap();
    let big: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(root.join("big.bin"), big).unwrap();
    for index in 0..300 {
        fs::write(root.join(format!("{index:03}.txt")), format!("file {index}").repeat(index)).unwrap();
    }
    symlink("big.bin", root.join("link")).unwrap();
    fs::set_permissions(root.join("big.bin"), fs::Permissions::from_mode(0o750)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(981_173_106, 789_000_000);
    fs::File::open(root.join("nothing")).unwrap().set_modified(old).unwrap();
    fs::File::open(root.join("empty")).unwrap().set_modified(old).unwrap();
}

/// Kind, mode, time and contents of everything below.
fn inventory(root: &Path) -> BTreeMap<String, (u32, i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let contents = if meta.is_file() {
            fs::read(&path).unwrap()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        };
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let times = if meta.is_symlink() { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
        all.insert(name, (meta.mode(), times.0, times.1, contents));
    }
    all
}

fn common() -> Common {
    let unix_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Common::new(Machine { cores: 2, interfaces: Vec::new(), unix_time, aes: true })
}

fn at_relay(addr: SocketAddr) -> Common {
    let address = RelayAddress { host: addr.ip().to_string(), port: addr.port() };
    let mut common = common();
    common.relays.push(RelayChoice::new(address));
    common
}

fn sending(common: Common, path: &Path) -> SendConfig {
    let near = common.relays.is_empty();
    let source = Arc::new(SourceTree::new(vec![path.to_owned()], SourceOptions::default()).unwrap());
    let mut config = SendConfig::new(common, source);
    let listen = vec![([127, 0, 0, 1], 0).into()];
    config.embedded = near.then(|| Embedded::new(identity::ephemeral().unwrap()).listening_at(listen));
    config
}

fn receiving(common: Common, code: &Code, near: &[SocketAddr]) -> ReceiveConfig {
    let mut config = ReceiveConfig::new(common, code.clone());
    (config.local, config.discover) = (near.to_vec(), false);
    config
}

fn sink(dir: &Path, on_exists: OnExists) -> Arc<dyn tallow_proto::transfer::storage::Sink> {
    Destination::open(dir, Policy { on_exists, ..Policy::default() }).unwrap().sink()
}

/// A relay on a port of the system's choice.
async fn relay<R: Runtime>(password: Option<&str>) -> (Handle<Relay>, SocketAddr) {
    relay_at::<R>(([127, 0, 0, 1], 0).into(), identity::ephemeral().unwrap(), password).await
}

async fn relay_at<R: Runtime>(
    at: SocketAddr,
    identity: Identity,
    password: Option<&str>,
) -> (Handle<Relay>, SocketAddr) {
    // The port of a relay that has ended may be in use for a moment.
    for _ in 0..100 {
        let config = room::Config {
            listen: vec![at],
            tcp: room::Tcp::default(),
            identity: identity.clone(),
            password: password.map(Into::into),
            limits: room::limits::Limits::default(),
            room_ttl: room::Config::ROOM_TTL,
            window_budget: room::Config::WINDOW_BUDGET,
            unix_time: common().unix_time,
            seed: tallow_proto::seed::Seed::new([9; 32]),
        };
        let mut handle = R::relay(Relay::new(config).unwrap());
        while let Some(event) = handle.next_event().await {
            match event {
                room::Event::Listening { addr } => return (handle, addr),
                room::Event::CannotListen { .. } => break,
                _ => {}
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the port is not free");
}

/// Waits for the code and where it can be used.
async fn code(sender: &mut Sender) -> (Code, Vec<SocketAddr>) {
    loop {
        match sender.next_event().await.expect("a code comes before the end") {
            Event::Code { code, listening, .. } => return (code, listening),
            Event::Failed(failure) => panic!("no code: {failure:?}"),
            _ => {}
        }
    }
}

/// Everything up to the end, with the offer accepted into `sink`.
async fn take(
    receiver: &mut Receiver,
    sink: Arc<dyn tallow_proto::transfer::storage::Sink>,
) -> Result<[u8; 32], Failure> {
    receiver.offer().await?.accept(sink).expect("it waits for an answer");
    receiver.outcome().await.map(|summary| summary.root)
}

async fn end(sender: &mut Sender) -> Result<[u8; 32], Failure> {
    sender.outcome().await.map(|summary| summary.root)
}

/// Both ends at once: the driver runs by itself, so one after the other will do.
async fn both(sender: &mut Sender, receiver: &mut Receiver, out: &Path) {
    let root = take(receiver, sink(out, OnExists::Refuse)).await.expect("received");
    assert_eq!(end(sender).await, Ok(root), "both computed the same root");
    sender.closed().await.expect("sent");
    receiver.closed().await.expect("received");
}

fn wrong(code: &Code) -> Code {
    Code::parse(&format!("{}-zebra-zebra-zebra", code.nameplate().as_str())).unwrap()
}

fn staging_left(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, |entries| entries.count())
}

async fn folder_arrives_without_separate_relay<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    folder(from.path());
    let mut sender = R::send(sending(common(), &from.path().join("holiday")));
    let (code, near) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(common(), &code, &near));
    both(&mut sender, &mut receiver, to.path()).await;
    assert_eq!(inventory(&from.path().join("holiday")), inventory(&to.path().join("holiday")));
    assert_eq!(staging_left(to.path()), 1, "nothing else is left");
}

async fn folder_arrives_through_relay<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    folder(from.path());
    let (_relay, addr) = relay::<R>(None).await;
    let mut sender = R::send(sending(at_relay(addr), &from.path().join("holiday")));
    let (code, _) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(at_relay(addr), &code, &[]));
    both(&mut sender, &mut receiver, to.path()).await;
    assert_eq!(inventory(&from.path().join("holiday")), inventory(&to.path().join("holiday")));
}

async fn folder_arrives_over_every_pair_of_transports<R: Runtime>() {
    let from = tempfile::tempdir().unwrap();
    folder(from.path());
    let (_relay, addr) = relay::<R>(None).await;
    let all = [Transport::Quic, Transport::Tls, Transport::WebSocket];
    for (ours, theirs) in all.into_iter().flat_map(|ours| all.map(|theirs| (ours, theirs))) {
        let to = tempfile::tempdir().unwrap();
        let by = |transport| {
            let mut common = at_relay(addr);
            common.transport = Allowed::Only(transport);
            common
        };
        let mut sender = R::send(sending(by(ours), &from.path().join("holiday")));
        let (code, _) = code(&mut sender).await;
        let mut receiver = R::receive(receiving(by(theirs), &code, &[]));
        both(&mut sender, &mut receiver, to.path()).await;
        let (sent, received) = (inventory(&from.path().join("holiday")), inventory(&to.path().join("holiday")));
        assert_eq!(sent, received, "{ours:?} to {theirs:?}");
    }
}

/// A peer at a relay that looks for a direct path.
fn looking(addr: SocketAddr, only: bool) -> Common {
    let mut direct = tallow_runtime::direct_path().expect("a certificate");
    (direct.only, direct.map_ports) = (only, false);
    let mut common = at_relay(addr);
    common.direct = Some(direct);
    common
}

/// With `only`, no byte of the data used the relay, so a direct path was found and used for all of it.
async fn a_session_moves_to_a_direct_path<R: Runtime>() {
    if tallow_runtime::addresses().iter().all(std::net::IpAddr::is_loopback) {
        eprintln!("left out: this machine has no network, and nobody is told of the loopback");
        return;
    }
    let from = tempfile::tempdir().unwrap();
    folder(from.path());
    for only in [true, false] {
        let to = tempfile::tempdir().unwrap();
        let (_relay, addr) = relay::<R>(None).await;
        let mut sender = R::send(sending(looking(addr, only), &from.path().join("holiday")));
        let (code, _) = code(&mut sender).await;
        let mut receiver = R::receive(receiving(looking(addr, only), &code, &[]));
        both(&mut sender, &mut receiver, to.path()).await;
        assert_eq!(inventory(&from.path().join("holiday")), inventory(&to.path().join("holiday")));
    }
}

async fn p2p_only_transfer_fails_if_peer_has_p2p_off<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    folder(from.path());
    let (_relay, addr) = relay::<R>(None).await;
    for sender_only in [true, false] {
        let (ours, theirs) =
            if sender_only { (looking(addr, true), at_relay(addr)) } else { (at_relay(addr), looking(addr, true)) };
        let mut sender = R::send(sending(ours, &from.path().join("holiday")));
        let (code, _) = code(&mut sender).await;
        let mut receiver = R::receive(receiving(theirs, &code, &[]));
        let received = take(&mut receiver, sink(to.path(), OnExists::Refuse)).await.expect_err("nothing moves");
        let sent = end(&mut sender).await.expect_err("nothing moves");
        let (refuses, hears) = if sender_only { (sent, received) } else { (received, sent) };
        assert_eq!(refuses, Failure::Lost(Lost::NoDirectPath));
        assert!(matches!(hears, Failure::Peer { .. }), "{hears:?}");
        assert_eq!(staging_left(to.path()), 0);
    }
}

async fn compressible_files_arrive_intact<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("log"), "the same line again and again\n".repeat(200_000)).unwrap();
    let mut sender = R::send(sending(common(), &from.path().join("log")));
    let (code, near) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(common(), &code, &near));
    both(&mut sender, &mut receiver, to.path()).await;
    assert_eq!(fs::read(from.path().join("log")).unwrap(), fs::read(to.path().join("log")).unwrap());
}

async fn wrong_code_ends_its_receiver_and_right_code_works<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    folder(from.path());
    let (_relay, addr) = relay::<R>(None).await;
    let mut sender = R::send(sending(at_relay(addr), &from.path().join("holiday")));
    let (code, _) = code(&mut sender).await;
    let mut guesser = R::receive(receiving(at_relay(addr), &wrong(&code), &[]));
    assert_eq!(take(&mut guesser, sink(to.path(), OnExists::Refuse)).await, Err(Failure::WrongCode));
    loop {
        match sender.next_event().await.expect("the sender goes on") {
            Event::WrongGuess { left } => break assert_eq!(left, 2),
            Event::Failed(failure) => panic!("{failure:?}"),
            _ => {}
        }
    }
    let mut receiver = R::receive(receiving(at_relay(addr), &code, &[]));
    both(&mut sender, &mut receiver, to.path()).await;
}

async fn the_third_wrong_code_ends_the_sender<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("secret"), "x").unwrap();
    let mut sender = R::send(sending(common(), &from.path().join("secret")));
    let (code, near) = code(&mut sender).await;
    for _ in 0..3 {
        let mut guesser = R::receive(receiving(common(), &wrong(&code), &near));
        assert_eq!(take(&mut guesser, sink(to.path(), OnExists::Refuse)).await, Err(Failure::WrongCode));
    }
    assert_eq!(end(&mut sender).await, Err(Failure::WrongCode));
    assert_eq!(staging_left(to.path()), 0);
}

/// At a relay that is not the sender's. A code that nobody waits with is told apart.
async fn second_receiver_at_relay_gets_code_taken<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), "x").unwrap();
    let (_relay, addr) = relay::<R>(None).await;
    let mut sender = R::send(sending(at_relay(addr), &from.path().join("file")));
    let (code, _) = code(&mut sender).await;
    let mut first = R::receive(receiving(at_relay(addr), &code, &[]));
    let offer = first.offer().await.expect("an offer");
    let mut impatient = at_relay(addr);
    impatient.give_up_after = Some(Duration::from_secs(1));
    let unknown = Code::parse("999999-zebra-zebra-zebra").unwrap();
    for (code, expected, lost) in
        [(&code, WaitingFor::Turn, Lost::Taken), (&unknown, WaitingFor::Sender, Lost::NobodyWaits)]
    {
        let mut second = R::receive(receiving(impatient.clone(), code, &[]));
        while !matches!(second.next_event().await.expect("an answer"), Event::Waiting(what) if what == expected) {}
        assert_eq!(second.closed().await.map(drop), Err(Failure::Lost(lost)));
    }
    offer.accept(sink(to.path(), OnExists::Refuse)).unwrap();
    let root = first.outcome().await.expect("the first one is not disturbed").root;
    assert_eq!(end(&mut sender).await, Ok(root));
}

async fn declined_offer_is_reported_to_sender<R: Runtime>() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), "x").unwrap();
    let mut sender = R::send(sending(common(), &from.path().join("file")));
    let (code, near) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(common(), &code, &near));
    receiver.offer().await.expect("an offer").decline(DeclineReason::Person, "not today").unwrap();
    assert_eq!(receiver.outcome().await, Err(Failure::NotAccepted));
    let Err(Failure::Declined { reason: DeclineReason::Person, text }) = end(&mut sender).await else { panic!() };
    assert_eq!(text.escaped(100), "not today");
}

async fn the_verifier_words_are_the_same_on_both_sides<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), "x").unwrap();
    let mut sender = R::send(sending(common(), &from.path().join("file")).with_verifier());
    let (code, near) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(common(), &code, &near));
    let shown = loop {
        match receiver.next_event().await.expect("words") {
            Event::Verifier { words, comparison: None } => break words,
            Event::Failed(failure) => panic!("{failure:?}"),
            _ => {}
        }
    };
    loop {
        match sender.next_event().await.expect("words") {
            Event::Verifier { words, comparison: Some(comparison) } => {
                assert_eq!(words, shown);
                break comparison.confirm().unwrap();
            }
            Event::Failed(failure) => panic!("{failure:?}"),
            _ => {}
        }
    }
    both(&mut sender, &mut receiver, to.path()).await;
}

async fn cancelled_transfer_is_resumed<R: Runtime>() {
    for by_sender in [true, false] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        folder(from.path());
        let mut sender = R::send(sending(common(), &from.path().join("holiday")));
        let (code, near) = code(&mut sender).await;
        let mut receiver = R::receive(receiving(common(), &code, &near));
        loop {
            match receiver.next_event().await.expect("an offer") {
                Event::Offer(offer) => offer.accept(sink(to.path(), OnExists::Refuse)).unwrap(),
                Event::Accepted => break,
                Event::Failed(failure) => panic!("{failure:?}"),
                _ => {}
            }
        }
        let _ = if by_sender { sender.cancel() } else { receiver.cancel() };
        let ends = [end(&mut sender).await, receiver.outcome().await.map(|summary| summary.root)];
        // A cancellation after the last byte is too late, and the transfer is complete.
        if ends.iter().all(Result::is_err) {
            let [mine, others] = if by_sender {
                ends
            } else {
                let [a, b] = ends;
                [b, a]
            };
            assert_eq!(mine, Err(Failure::Interrupted));
            assert!(matches!(others, Err(Failure::Peer { reason: CancelReason::Interrupted, .. })), "{others:?}");
            assert!(sender.closed().await.is_err() && receiver.closed().await.is_err());
            drop(receiver);
            assert!(!to.path().join("holiday").exists());
            assert!(staging_left(to.path()) <= 1);
            let mut sender = R::send(sending(common(), &from.path().join("holiday")));
            let (code, near) = self::code(&mut sender).await;
            let mut receiver = R::receive(receiving(common(), &code, &near));
            take(&mut receiver, sink(to.path(), OnExists::Refuse)).await.expect("the next try");
            end(&mut sender).await.expect("the next try");
        }
        assert!(inventory(&from.path().join("holiday")) == inventory(&to.path().join("holiday")), "another tree");
    }
}

async fn dropped_handle_is_reported_to_peer<R: Runtime>() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), "x").unwrap();
    let mut sender = R::send(sending(common(), &from.path().join("file")));
    let (code, near) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(common(), &code, &near));
    let _offer = receiver.offer().await.expect("an offer");
    drop(receiver);
    let outcome = end(&mut sender).await;
    assert!(matches!(outcome, Err(Failure::Peer { reason: CancelReason::Interrupted, .. })), "{outcome:?}");
}

async fn existing_names_are_refused_before_transfer<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), "new").unwrap();
    fs::write(to.path().join("file"), "old").unwrap();
    let mut sender = R::send(sending(common(), &from.path().join("file")));
    let (code, near) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(common(), &code, &near));
    let failure = take(&mut receiver, sink(to.path(), OnExists::Refuse)).await.expect_err("it exists");
    assert_eq!(failure.class(), Class::Refused, "{failure:?}");
    assert!(matches!(end(&mut sender).await, Err(Failure::Declined { reason: DeclineReason::Policy, .. })));
    assert_eq!(fs::read_to_string(to.path().join("file")).unwrap(), "old");
    assert_eq!(staging_left(to.path()), 1);
}

async fn a_source_that_changes_ends_the_transfer<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), vec![1; 100_000]).unwrap();
    let mut sender = R::send(sending(common(), &from.path().join("file")));
    let (code, near) = code(&mut sender).await;
    fs::write(from.path().join("file"), vec![2; 50_000]).unwrap();
    let mut receiver = R::receive(receiving(common(), &code, &near));
    let received = take(&mut receiver, sink(to.path(), OnExists::Refuse)).await;
    assert!(matches!(received, Err(Failure::Peer { reason: CancelReason::SourceChanged, .. })), "{received:?}");
    let sent = end(&mut sender).await.expect_err("it changed");
    assert_eq!(sent.class(), Class::Io, "{sent:?}");
    assert!(receiver.closed().await.is_err());
    assert_eq!(staging_left(to.path()), 0);
}

async fn files_that_fail_are_named_on_both_sides<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    folder(from.path());
    let root = from.path().join("holiday");
    let mut sender = R::send(sending(common(), &root));
    let (code, near) = code(&mut sender).await;
    fs::remove_file(root.join("050.txt")).unwrap();
    fs::write(root.join("big.bin"), "cut").unwrap();
    let mut log = fs::File::options().append(true).open(root.join("299.txt")).unwrap();
    std::io::Write::write_all(&mut log, b"one more line").unwrap();
    let mut receiver = R::receive(receiving(common(), &code, &near));
    take(&mut receiver, sink(to.path(), OnExists::Refuse)).await.expect("the rest arrives");
    let received = receiver.outcome().await.expect("as before");
    let sent = sender.outcome().await.expect("the rest is sent");
    for summary in [&sent, &received] {
        let named = |list: &EntryList| {
            let name = |entry: &ListedEntry| (entry.path.as_str().to_owned(), entry.status);
            let mut named: Vec<_> = list.entries.iter().map(name).collect();
            named.sort_by(|one, other| one.0.cmp(&other.0));
            named
        };
        let gone = ("holiday/050.txt".to_owned(), Some(EntryStatus::Vanished));
        let cut = ("holiday/big.bin".to_owned(), Some(EntryStatus::Changed));
        assert_eq!(named(&summary.differences.failed), [gone, cut]);
        assert_eq!(named(&summary.differences.grown), [("holiday/299.txt".to_owned(), Some(EntryStatus::Grown))]);
        assert_eq!((summary.differences.failed.count, summary.differences.failed.files), (2, 2));
    }
    let (mut expected, arrived) = (inventory(&root), inventory(&to.path().join("holiday")));
    expected.remove("big.bin");
    assert_eq!(arrived.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert_eq!(arrived["299.txt"].3, "file 299".repeat(299).into_bytes());
    assert_eq!(staging_left(to.path()), 1, "only what arrived is there");
}

async fn lost_relay_is_awaited_until_timeout<R: Runtime>() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), vec![1; 100_000]).unwrap();
    let (relay, addr) = relay::<R>(None).await;
    let mut common = at_relay(addr);
    common.give_up_after = Some(Duration::from_secs(1));
    let mut sender = R::send(sending(common.clone(), &from.path().join("file")));
    let (code, _) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(common, &code, &[]));
    let _offer = receiver.offer().await.expect("an offer");
    relay.command(room::Command::Stop).unwrap();
    assert_eq!(receiver.outcome().await, Err(Failure::Lost(Lost::InTransfer)));
    assert_eq!(end(&mut sender).await, Err(Failure::Lost(Lost::InTransfer)));
}

async fn restarted_relay_is_used_again<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), vec![1; 100_000]).unwrap();
    let identity = identity::ephemeral().unwrap();
    let (mut first, addr) = relay_at::<R>(([127, 0, 0, 1], 0).into(), identity.clone(), None).await;
    let mut sender = R::send(sending(at_relay(addr), &from.path().join("file")));
    let (code, _) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(at_relay(addr), &code, &[]));
    let offer = receiver.offer().await.expect("an offer");
    first.command(room::Command::Stop).unwrap();
    while first.next_event().await.is_some() {}
    while !matches!(receiver.next_event().await.expect("a lost link"), Event::Reconnecting { .. }) {}
    let _second = relay_at::<R>(addr, identity, None).await;
    offer.accept(sink(to.path(), OnExists::Refuse)).unwrap();
    let root = receiver.outcome().await.expect("received").root;
    assert_eq!(end(&mut sender).await, Ok(root));
    assert_eq!(fs::read(to.path().join("file")).unwrap(), vec![1; 100_000]);
}

async fn stream_survives_relay_restart<R: Runtime>() {
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let identity = identity::ephemeral().unwrap();
    let (mut first, addr) = relay_at::<R>(([127, 0, 0, 1], 0).into(), identity.clone(), None).await;
    let source = Arc::new(MemoryStream::new([Piece::Bytes(bytes.clone()), Piece::Silence]));
    let from = tempfile::tempdir().unwrap();
    let mut config = sending(at_relay(addr), from.path());
    config.source = Payload::Stream(source);
    let mut sender = R::send(config);
    let (code, _) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(at_relay(addr), &code, &[]));
    let offer = receiver.stream_offer().await.expect("an offer");
    let tcp = Arc::new(MemoryPipe::new().with_at_once(100_000));
    offer.accept(tcp.clone()).unwrap();
    while !matches!(receiver.next_event().await.expect("progress"), Event::Progress(progress) if progress.bytes > 0) {}
    tcp.set_shut(true);
    first.command(room::Command::Stop).unwrap();
    while first.next_event().await.is_some() {}
    while !matches!(receiver.next_event().await.expect("a lost link"), Event::Reconnecting { .. }) {}
    let _second = relay_at::<R>(addr, identity, None).await;
    tcp.set_shut(false);
    let received = receiver.outcome().await.expect("all of it");
    assert_eq!(end(&mut sender).await.expect("all of it"), received.root);
    assert_eq!(received.totals.bytes, bytes.len() as u64);
    assert!(tcp.bytes() == bytes, "{} bytes", tcp.bytes().len());
}

async fn a_changed_certificate_is_refused<R: Runtime>() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), "x").unwrap();
    let (_relay, addr) = relay::<R>(None).await;
    let mut common = at_relay(addr);
    common.relays[0].trust = Trust::Known(identity::ephemeral().unwrap().fingerprint());
    let mut sender = R::send(sending(common, &from.path().join("file")));
    let failure = end(&mut sender).await.expect_err("another certificate");
    assert!(matches!(failure, Failure::Relay(RelayFailure::CertificateChanged { .. })), "{failure:?}");
    assert_eq!(failure.class(), Class::Relay);
}

async fn relay_password_is_required<R: Runtime>() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), "x").unwrap();
    let (_relay, addr) = relay::<R>(Some("open sesame")).await;
    for wrong in [None, Some("sesame")] {
        let mut common = at_relay(addr);
        common.relays[0].password = wrong.map(Into::into);
        let mut sender = R::send(sending(common, &from.path().join("file")));
        assert_eq!(end(&mut sender).await.expect_err("no password").class(), Class::Relay);
    }
    let mut common = at_relay(addr);
    common.relays[0].password = Some("open sesame".into());
    let mut sender = R::send(sending(common.clone(), &from.path().join("file")));
    let (code, _) = code(&mut sender).await;
    let mut receiver = R::receive(receiving(common, &code, &[]));
    both(&mut sender, &mut receiver, to.path()).await;
}

async fn unanswered_relay_address_fails_with_no_relay<R: Runtime>() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), "x").unwrap();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sender = R::send(sending(at_relay(closed.local_addr().unwrap()), &from.path().join("file")));
    assert_eq!(end(&mut sender).await, Err(Failure::Lost(Lost::NoRelay)));
}
