//! What a pool costs a transfer: CPU seconds of the whole process (sender, receiver and relay on loopback) for each GB,
//! with sockets of its own, alone in a pool, and four at once either way, in turns of one run.
//!
//! ```sh
//! cargo run --release -p tallow-tests --bin pool_cost -- 5 512
//! ```
//! The arguments: how many turns, and MiB of each transfer.

use std::time::{Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::{join, join_all};
use tallow_proto::room::{self, Relay};
use tallow_proto::seed::Seed;
use tallow_tests::sim::identity;
use tallow_tokio::memory::{Collector, Files};
use tallow_tokio::{
    Common, Compression, Machine, Pool, ReceiveConfig, Receiver, RelayAddress, RelayChoice, SendConfig, Sender,
};

/// Transfers at once.
const SEVERAL: usize = 4;

fn relay() -> Relay {
    let config = room::Config {
        listen: vec![([127, 0, 0, 1], 0).into()],
        tcp: room::Tcp::default(),
        identity: identity(),
        password: None,
        limits: room::limits::Limits { joins_per_minute: 1_000_000, ..room::limits::Limits::default() },
        room_ttl: room::Config::ROOM_TTL,
        window_budget: room::Config::WINDOW_BUDGET,
        unix_time: SystemTime::UNIX_EPOCH.elapsed().expect("a clock that is set"),
        seed: Seed::new([9; 32]),
    };
    Relay::new(config).expect("a relay")
}

fn common(port: u16) -> Common {
    let unix_time = SystemTime::UNIX_EPOCH.elapsed().expect("a clock that is set");
    let mut common = Common::new(Machine { cores: 2, interfaces: Vec::new(), unix_time, aes: true });
    common.relays.push(RelayChoice::new(RelayAddress { host: "127.0.0.1".into(), port }));
    common
}

async fn send(pool: Option<&Pool>, config: SendConfig) -> Sender {
    let sender = match pool {
        Some(pool) => pool.send(config).await,
        None => tallow_tokio::send(config),
    };
    sender.expect("a good configuration")
}

async fn receive(pool: Option<&Pool>, config: ReceiveConfig) -> Receiver {
    let receiver = match pool {
        Some(pool) => pool.receive(config).await,
        None => tallow_tokio::receive(config),
    };
    receiver.expect("a good configuration")
}

/// One transfer. Each end has a pool of its own, as on two machines.
async fn transfer(pools: Option<&[Pool; 2]>, port: u16, contents: Bytes) {
    let total = contents.len() as u64;
    let files = Files::new().with_file("big", contents).expect("a name");
    let config = SendConfig::new(common(port), std::sync::Arc::new(files)).with_compression(Compression::Off);
    let mut sender = send(pools.map(|pools| &pools[0]), config).await;
    let code = sender.code().await.expect("a code");
    let mut receiver = receive(pools.map(|pools| &pools[1]), ReceiveConfig::new(common(port), code)).await;
    receiver.offer().await.expect("an offer").accept(Collector::new(total + 4096)).expect("accepted");
    let (sent, received) = join(sender.closed(), receiver.closed()).await;
    assert_eq!((sent.expect("sent").totals.bytes, received.expect("received").totals.bytes), (total, total));
}

/// CPU seconds of this process so far.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks: f64 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let (turns, mebibytes) = (args.next().unwrap_or(5), args.next().unwrap_or(512));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async {
        let mut relay = tallow_tokio::spawn(relay());
        let port = loop {
            if let Some(room::Event::Listening { addr }) = relay.next_event().await {
                break addr.port();
            }
        };
        tokio::spawn(async move { while relay.next_event().await.is_some() {} });
        let contents = Bytes::from((0..mebibytes << 20).map(|at| ((at * 31) >> 7) as u8).collect::<Vec<_>>());
        let cases =
            [("own sockets", 1, false), ("pool", 1, true), ("4, own", SEVERAL, false), ("4, pool", SEVERAL, true)];
        let mut results = vec![Vec::new(); cases.len()];
        for turn in 0..=turns {
            for ((_, count, pooled), results) in cases.iter().zip(&mut results) {
                let pools = pooled.then(|| [Pool::new(SEVERAL), Pool::new(SEVERAL)]);
                let (began, before) = (Instant::now(), cpu());
                join_all((0..*count).map(|_| transfer(pools.as_ref(), port, contents.clone()))).await;
                let gigabytes = (count * contents.len()) as f64 / 1e9;
                // The first turn warms up.
                if turn > 0 {
                    results.push(((cpu() - before) / gigabytes, began.elapsed().as_secs_f64() / gigabytes));
                }
            }
        }
        for ((name, ..), results) in cases.iter().zip(&mut results) {
            results.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (least, median, most) = (results[0].0, results[results.len() / 2], results[results.len() - 1].0);
            println!("{name}: {:.2} CPU s/GB ({least:.2}-{most:.2}), {:.2} s/GB", median.0, median.1);
        }
    });
}
