//! tallow on tokio: encrypted file transfer between any two machines, with a short code.
//!
//! # A transfer
//! [`send`] and [`receive`] start a task and return a handle. The payload is [`files`], [`Payload::bytes`],
//! [`streams::reader`], or your own [`Source`]. The destination is [`directory`], [`memory::Collector`],
//! [`streams::writer`], or your own [`Sink`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // On one machine:
//! let mut sender = tallow_tokio::send(tallow_tokio::sending(tallow_tokio::files(["Pictures"])?))?;
//! println!("the code is {}", sender.code().await?.reveal().as_str());
//! println!("sent {} bytes", sender.closed().await?.totals.bytes);
//!
//! // On another one:
//! let code: tallow_tokio::Invitation = "7-acorn-bicycle-canal".parse()?;
//! let mut receiver = tallow_tokio::receive(tallow_tokio::receiving(code))?;
//! receiver.offer().await?.accept(tallow_tokio::directory("there")?)?;
//! println!("received {} bytes", receiver.closed().await?.totals.bytes);
//! # Ok(())
//! # }
//! ```
//!
//! No server is needed: the sender runs a relay itself unless one is configured ([`SendConfig::with_relay`]).
//! [`Sender::next_event`] reports more than the outcome. A [`Pool`] runs many transfers: it limits how many run at a
//! time, and they share UDP sockets.
//!
//! # Everything else
//! [`relay`] runs a relay, and [`spawn`] any node of `tallow-proto`. The task ends after the node has sent its
//! farewell; [`Handle::next_event`] then returns `None`.
//!
//! For applications that use the protocol with their own transport, the feature `codec` has its frames as a
//! `tokio_util` codec.

#[cfg(feature = "codec")]
pub mod codec;
mod io;
mod pool;
pub mod streams;

use std::time::Instant;

pub use io::TokioIo;
pub use pool::Pool;
#[doc(no_inline)]
pub use tallow_proto as proto;
use tallow_proto::drive::Driver;
use tallow_proto::link::BadIdentity;
use tallow_proto::node::Node;
use tallow_proto::peer::Peer;
use tallow_proto::room::Relay;
#[doc(inline)]
pub use tallow_runtime::api::*;
#[cfg(feature = "files")]
#[doc(no_inline)]
pub use tallow_store as store;

/// Runs a node on the current tokio runtime, in a task of its own. Dropping the handle cancels the node gracefully.
///
/// # Panics
/// If called outside a tokio runtime, or in one without IO and time enabled.
pub fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N> {
    spawn_with(node, TokioIo::new(), ())
}

/// Runs a node, and drops `guard` when its task has ended.
fn spawn_with<N: Node + Send + 'static>(node: N, io: TokioIo, guard: impl Send + 'static) -> Handle<N> {
    let (handle, driver) = Driver::new(node, io);
    tokio::spawn(async move {
        driver.run().await;
        drop(guard);
    });
    handle
}

/// Sends with this configuration; [`sending`] creates one.
///
/// # Errors
/// The configuration can't work.
///
/// # Panics
/// Like [`spawn`]; also if the system provides no randomness.
pub fn send(config: SendConfig) -> Result<Sender, ConfigError> {
    send_with(config, TokioIo::new(), ())
}

fn send_with(config: SendConfig, io: TokioIo, guard: impl Send + 'static) -> Result<Sender, ConfigError> {
    config.check()?;
    Ok(Sender::new(spawn_with(Peer::sender(config, Instant::now(), tallow_runtime::seed()), io, guard)))
}

/// Receives with this configuration; [`receiving`] creates one.
///
/// # Errors
/// The configuration can't work.
///
/// # Panics
/// Like [`spawn`]; also if the system provides no randomness.
pub fn receive(config: ReceiveConfig) -> Result<Receiver, ConfigError> {
    receive_with(config, TokioIo::new(), ())
}

fn receive_with(config: ReceiveConfig, io: TokioIo, guard: impl Send + 'static) -> Result<Receiver, ConfigError> {
    config.check()?;
    Ok(Receiver::new(spawn_with(Peer::receiver(config, Instant::now(), tallow_runtime::seed()), io, guard)))
}

/// Runs a relay until a command stops it or its handle is dropped.
///
/// # Errors
/// Certificate and key can't be used for a server.
///
/// # Panics
/// Like [`spawn`].
pub fn relay(config: tallow_proto::room::Config) -> Result<Handle<Relay>, BadIdentity> {
    Relay::new(config).map(spawn)
}

/// The tests compile the examples of README and of docs/library.md.
#[cfg(all(doctest, feature = "files"))]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../docs/library.md")]
struct Documents;
