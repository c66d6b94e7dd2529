//! Many transfers through one pool, on real sockets and both runtimes: everything arrives, and a further transfer costs
//! no UDP socket.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures_util::future::{Either, join_all, select};
use tallow_proto::peer::{
    Common, DirectPath, Event, Machine, Offer, PathKind, ReceiveConfig, Receiver, RelayAddress, RelayChoice,
    SendConfig, Sender,
};
use tallow_proto::room::{self, Relay};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::Compression;
use tallow_proto::transfer::memory::{MemorySink, MemorySource};
use tallow_proto::transfer::path::RelPath;
use tallow_tests::sim::identity;

/// Transfers at once.
const PAIRS: usize = 40;
/// Descriptors of the pool's sockets, of the relay's, and of what the runtimes open on the way.
const COMMON: usize = 16;

fn relay() -> Relay {
    let limits = room::limits::Limits {
        connections_per_source: u32::MAX,
        rooms_per_source: u32::MAX,
        joins_per_minute: 1_000_000,
        ..room::limits::Limits::default()
    };
    let config = room::Config {
        listen: vec![([127, 0, 0, 1], 0).into()],
        tcp: room::Tcp::default(),
        identity: identity(),
        password: None,
        limits,
        room_ttl: room::Config::ROOM_TTL,
        window_budget: room::Config::WINDOW_BUDGET,
        unix_time: SystemTime::UNIX_EPOCH.elapsed().unwrap(),
        seed: Seed::new([9; 32]),
    };
    Relay::new(config).unwrap()
}

fn common(port: u16, direct: Option<DirectPath>) -> Common {
    let unix_time = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut common = Common::new(Machine { cores: 1, interfaces: Vec::new(), unix_time, aes: true });
    common.relays.push(RelayChoice::new(RelayAddress { host: "127.0.0.1".into(), port }));
    common.direct = direct;
    common
}

/// What transfer number `number` carries.
fn contents(number: usize) -> Vec<u8> {
    (0..300_000_usize + number).map(|at| (at.wrapping_mul(31).wrapping_add(number * 7) >> 3) as u8).collect()
}

fn sending(number: usize, port: u16, direct: Option<DirectPath>) -> SendConfig {
    let source = MemorySource::new().with_file(RelPath::parse("a").unwrap(), contents(number));
    SendConfig::new(common(port, direct), Arc::new(source)).with_compression(Compression::Off)
}

fn receiving(code: tallow_proto::code::Code, port: u16, direct: Option<DirectPath>) -> ReceiveConfig {
    let mut config = ReceiveConfig::new(common(port, direct), code);
    (config.local, config.discover) = (Vec::new(), false);
    config
}

/// Whether the machine has an address beside the loopback's: without one no direct path can be offered.
fn has_network() -> bool {
    tallow_runtime::addresses().iter().any(|ip| !ip.is_loopback())
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Tests of this file count the descriptors of the process, so they take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pair that knows what is offered.
struct Met {
    sender: Sender,
    receiver: Receiver,
    offer: Offer,
}

impl Met {
    /// Takes the offer, and checks what arrives; tells over whom the last bytes came.
    async fn finish(mut self, number: usize) -> PathKind {
        let sink = Arc::new(MemorySink::new());
        self.offer.accept(sink.clone()).unwrap();
        let receives = async {
            let mut kind = PathKind::Relay;
            while let Some(event) = self.receiver.next_event().await {
                match event {
                    Event::Path(path) => kind = path.kind,
                    Event::Failed(failure) => panic!("receiver {number}: {failure:?}"),
                    _ => {}
                }
            }
            kind
        };
        let sends =
            async { self.sender.closed().await.unwrap_or_else(|failure| panic!("sender {number}: {failure:?}")) };
        let (kind, _) = futures_util::future::join(receives, sends).await;
        let arrived = sink.finished();
        assert!(arrived.get("a").is_some_and(|(_, bytes)| *bytes == contents(number)), "{number}: other contents");
        kind
    }
}

macro_rules! on {
    ($module:ident, $runtime:ident, $block_on:expr) => {
        mod $module {
            use super::*;

            async fn meet(pool: &$runtime::Pool, number: usize, port: u16, direct: Option<DirectPath>) -> Met {
                let mut sender = pool.send(sending(number, port, direct.clone())).await.unwrap();
                let code = sender.code().await.unwrap();
                let mut receiver = pool.receive(receiving(code, port, direct)).await.unwrap();
                let offer = receiver.offer().await.unwrap();
                Met { sender, receiver, offer }
            }

            /// All pairs meet, and then move their bytes. Gives the paths, and how many descriptors were open when all
            /// had met, and when the last one had ended.
            async fn transfer(direct: Option<DirectPath>) -> (Vec<PathKind>, [usize; 2]) {
                let mut relay = $runtime::spawn(relay());
                let port = loop {
                    if let Some(room::Event::Listening { addr }) = relay.next_event().await {
                        break addr.port();
                    }
                };
                let before = descriptors();
                let pool = $runtime::Pool::new(2 * PAIRS);
                let transfers = async {
                    let met = join_all((0..PAIRS).map(|number| meet(&pool, number, port, direct.clone()))).await;
                    let open = descriptors().saturating_sub(before);
                    let finished = met.into_iter().enumerate().map(|(number, met)| met.finish(number));
                    (join_all(finished).await, [open, descriptors().saturating_sub(before)])
                };
                let events = async { while relay.next_event().await.is_some() {} };
                match select(Box::pin(transfers), Box::pin(events)).await {
                    Either::Left((all, _)) => all,
                    Either::Right(_) => panic!("the relay is gone"),
                }
            }

            #[test]
            fn transfers_of_a_pool_share_sockets_at_a_relay() {
                let _turn = alone();
                let (paths, [open, after]) = ($block_on)(Box::pin(transfer(None)));
                assert!(paths.iter().all(|path| *path == PathKind::Relay), "{paths:?}");
                println!("{open} descriptors for {PAIRS} pairs, {after} after them");
                assert!(open <= COMMON, "{open} descriptors for {PAIRS} pairs");
                assert!(after <= COMMON, "{after} descriptors are left");
            }

            #[test]
            fn transfers_of_a_pool_share_sockets_on_direct_paths() {
                let _turn = alone();
                if !has_network() {
                    return println!("skipped: this machine has no address but the loopback's");
                }
                let direct = DirectPath::new(identity()).without_port_mapping().only();
                let (paths, [open, after]) = ($block_on)(Box::pin(transfer(Some(direct))));
                assert!(paths.iter().all(|path| *path == PathKind::Direct), "{paths:?}");
                println!("{open} descriptors for {PAIRS} pairs, {after} after them");
                // Each end listens for TCP, and TCP links have two ends, of which several may be tried.
                assert!(open <= COMMON + 10 * PAIRS, "{open} descriptors for {PAIRS} pairs");
                assert!(after <= COMMON, "{after} descriptors are left");
            }
        }
    };
}

type Answer = (Vec<PathKind>, [usize; 2]);
type Test = std::pin::Pin<Box<dyn Future<Output = Answer> + Send>>;

on!(on_tokio, tallow_tokio, |test: Test| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test)
});
on!(on_smol, tallow_smol, |test: Test| smol::block_on(test));
