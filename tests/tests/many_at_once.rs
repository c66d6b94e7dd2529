//! Many concurrent transfers in one process, more than its processors can serve at once: the delays must not make any
//! of them treat a relay or a peer as unreachable.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::{Either, join, join_all, select};
use tallow_proto::peer::{Common, DirectPath, Failure, Machine, ReceiveConfig, RelayAddress, RelayChoice, SendConfig};
use tallow_proto::room::{self, Relay};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::Compression;
use tallow_proto::transfer::memory::{MemorySink, MemorySource};
use tallow_proto::transfer::path::RelPath;
use tallow_tests::sim::identity;

const BYTES: usize = 200_000;

fn how_many() -> usize {
    if std::env::var_os("TALLOW_LONG").is_some() { 200 } else { 40 }
}

fn relay() -> Relay {
    let all = u32::MAX;
    let limits = room::limits::Limits {
        connections_per_source: all,
        rooms_per_source: all,
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
        unix_time: common(0).unix_time,
        seed: Seed::new([9; 32]),
    };
    Relay::new(config).unwrap()
}

/// At a relay with this port.
fn common(port: u16) -> Common {
    let address = RelayAddress { host: "127.0.0.1".into(), port };
    let unix_time = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut common = Common::new(Machine { cores: 1, interfaces: Vec::new(), unix_time, aes: true });
    common.relays.push(RelayChoice::new(address));
    common.direct = Some(DirectPath::new(identity()).without_port_mapping());
    common
}

macro_rules! on {
    ($name:ident, $runtime:ident, $block_on:expr) => {
        #[test]
        fn $name() {
            async fn one(port: u16) -> [Option<Failure>; 2] {
                let source = MemorySource::new().with_file(RelPath::parse("a").unwrap(), vec![7; BYTES]);
                let config = SendConfig::new(common(port), Arc::new(source)).with_compression(Compression::Off);
                let mut sender = $runtime::send(config).unwrap();
                let code = match sender.code().await {
                    Ok(code) => code,
                    Err(failure) => return [Some(failure), None],
                };
                let mut config = ReceiveConfig::new(common(port), code);
                (config.local, config.discover) = (Vec::new(), false);
                let mut receiver = $runtime::receive(config).unwrap();
                let sends = async { sender.closed().await.err() };
                let receives = async {
                    match receiver.offer().await {
                        Ok(offer) => offer.accept(Arc::new(MemorySink::new())).unwrap(),
                        Err(failure) => return Some(failure),
                    }
                    receiver.closed().await.err()
                };
                let (sent, received) = join(sends, receives).await;
                [sent, received]
            }
            $block_on(async {
                let mut relay = $runtime::spawn(relay());
                let port = loop {
                    if let Some(room::Event::Listening { addr }) = relay.next_event().await {
                        break addr.port();
                    }
                };
                let events = async { while relay.next_event().await.is_some() {} };
                let transfers = join_all((0..how_many()).map(|_| one(port)));
                let failures = match select(Box::pin(transfers), Box::pin(events)).await {
                    Either::Left((all, _)) => all,
                    Either::Right(_) => panic!("the relay is gone"),
                };
                let failed: Vec<_> = failures.iter().flatten().flatten().collect();
                assert!(failed.is_empty(), "{} of {}: {failed:?}", failed.len(), how_many());
            });
        }
    };
}

on!(forty_concurrent_transfers_complete_on_tokio, tallow_tokio, |test| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test)
});
on!(forty_concurrent_transfers_complete_on_smol, tallow_smol, smol::block_on);
