//! A relay on loopback, on plain threads: `cargo run -p tallow-runtime --example threads`. It ends after ten minutes.

mod adapter;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tallow_proto::room::limits::Limits;
use tallow_proto::room::{Config, Relay, Tcp};

fn main() -> io::Result<()> {
    let identity = tallow_runtime::direct_path().ok_or_else(|| io::Error::other("no certificate"))?.identity;
    let config = Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        tcp: Tcp::default(),
        identity,
        password: None,
        limits: Limits::default(),
        room_ttl: Config::ROOM_TTL,
        window_budget: Config::WINDOW_BUDGET,
        unix_time: tallow_runtime::this_machine().unix_time,
        seed: tallow_runtime::seed(),
    };
    let mut relay = adapter::spawn(Relay::new(config).map_err(io::Error::other)?)?;
    let events = async {
        while let Some(event) = relay.next_event().await {
            println!("{event:?}");
        }
    };
    block_on(events, Duration::from_secs(600));
    Ok(())
}

/// Runs a future on this thread; `None` after `limit`.
fn block_on<T>(future: impl Future<Output = T>, limit: Duration) -> Option<T> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut future, until) = (pin!(future), Instant::now() + limit);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        thread::park_timeout(until.checked_duration_since(Instant::now())?);
    }
}
