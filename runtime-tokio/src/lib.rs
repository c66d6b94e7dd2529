//! tallow on tokio: encrypted file transfer between any two machines, with a short code.
//!
//! # A transfer
//! [`send`] and [`receive`] start a task and give a handle on it. What is sent: [`files`], [`Payload::bytes`],
//! [`streams::reader`], or a [`Source`] of your own. Where it goes: [`directory`], [`memory::Collector`],
//! [`streams::writer`], or a [`Sink`] of your own.
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
//! No server is needed: a relay runs inside of the sender unless one is named ([`SendConfig::with_relay`]). Whoever
//! wants to see more than the outcome takes [`Sender::next_event`]. [`Pool`] caps how many transfers run at a time.
//!
//! # Everything else
//! [`relay`] runs a relay, and [`spawn`] any node of `tallow-proto`. The task ends by itself once the node has said
//! goodbye; [`Handle::next_event`] answers `None` then.
//!
//! For those who speak the protocol with a stack of their own, the feature `codec` has its frames as a `tokio_util`
//! codec.

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

/// Runs a node on the current tokio runtime, in a task of its own. Dropping the handle cancels it, with a goodbye.
///
/// # Panics
/// Outside of a tokio runtime, or in one without IO and time enabled.
pub fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N> {
    spawn_with(node, ())
}

/// Keeps something until the task has ended.
fn spawn_with<N: Node + Send + 'static>(node: N, guard: impl Send + 'static) -> Handle<N> {
    let (handle, driver) = Driver::new(node, TokioIo::new());
    tokio::spawn(async move {
        driver.run().await;
        drop(guard);
    });
    handle
}

/// Sends what the configuration names; [`sending`] makes one.
///
/// # Errors
/// The configuration can't work.
///
/// # Panics
/// As [`spawn`]; and when the system has no randomness to give.
pub fn send(config: SendConfig) -> Result<Sender, ConfigError> {
    send_with(config, ())
}

fn send_with(config: SendConfig, guard: impl Send + 'static) -> Result<Sender, ConfigError> {
    config.check()?;
    Ok(Sender::new(spawn_with(Peer::sender(config, Instant::now(), tallow_runtime::seed()), guard)))
}

/// Receives what a sender with this code offers; [`receiving`] makes a configuration.
///
/// # Errors
/// The configuration can't work.
///
/// # Panics
/// As [`spawn`]; and when the system has no randomness to give.
pub fn receive(config: ReceiveConfig) -> Result<Receiver, ConfigError> {
    receive_with(config, ())
}

fn receive_with(config: ReceiveConfig, guard: impl Send + 'static) -> Result<Receiver, ConfigError> {
    config.check()?;
    Ok(Receiver::new(spawn_with(Peer::receiver(config, Instant::now(), tallow_runtime::seed()), guard)))
}

/// Runs a relay. It goes on until a command or the end of its handle says otherwise.
///
/// # Errors
/// Certificate and key do not make a server.
///
/// # Panics
/// As [`spawn`].
pub fn relay(config: tallow_proto::room::Config) -> Result<Handle<Relay>, BadIdentity> {
    Relay::new(config).map(spawn)
}

/// The examples of README and of docs/library.md are compiled with the tests.
#[cfg(all(doctest, feature = "files"))]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../docs/library.md")]
struct Documents;
