//! The conformance kit on all three runtimes: tokio, smol, and the example on plain threads.

use std::future::Future;
use std::time::Duration;

use tallow_proto::drive::Handle;
use tallow_proto::node::Node;
use tallow_runtime::conformance::Runtime;

#[path = "../../../runtime/examples/threads/adapter.rs"]
mod threads;

/// Long enough for any machine; a test waits for it only if it fails.
const PATIENCE: Duration = Duration::from_secs(30);

struct Tokio;
struct Smol;
struct Threads;

impl Runtime for Tokio {
    type Io = tallow_tokio::TokioIo;
    fn io() -> Self::Io {
        tallow_tokio::TokioIo::new()
    }
    fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N> {
        tallow_tokio::spawn(node)
    }
    fn block_on<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") })
    }
}

impl Runtime for Smol {
    type Io = tallow_smol::SmolIo;
    fn io() -> Self::Io {
        tallow_smol::SmolIo::new()
    }
    fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N> {
        tallow_smol::spawn(node)
    }
    fn block_on<T>(test: impl Future<Output = T>) -> T {
        smol::block_on(smol::future::or(async { Some(test.await) }, async {
            smol::Timer::after(PATIENCE).await;
            None
        }))
        .expect("in time")
    }
}

impl Runtime for Threads {
    type Io = threads::ThreadsIo;
    fn io() -> Self::Io {
        threads::ThreadsIo::new().expect("a reactor").0
    }
    fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N> {
        threads::spawn(node).expect("a thread and a reactor")
    }
    fn block_on<T>(test: impl Future<Output = T>) -> T {
        Smol::block_on(test)
    }
}

mod on_tokio {
    tallow_runtime::conformance_tests!(super::Tokio);
}

mod on_smol {
    tallow_runtime::conformance_tests!(super::Smol);
}

mod on_threads {
    tallow_runtime::conformance_tests!(super::Threads);
}
