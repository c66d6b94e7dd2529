//! tallow on smol: the protocol's effects, and nothing of its decisions.
//!
//! [`spawn`] runs any node of `tallow-proto`. The task ends by itself once the node has said goodbye; [`Handle::next_event`]
//! answers `None` then.

mod io;

use std::time::Instant;

pub use io::SmolIo;
use tallow_proto::drive::Driver;
pub use tallow_proto::drive::Handle;
use tallow_proto::link::quic::BadIdentity;
use tallow_proto::node::Node;
use tallow_proto::peer::Peer;
pub use tallow_proto::peer::{ReceiveConfig, Receiver, SendConfig, Sender};
use tallow_proto::room::Relay;
pub use tallow_runtime::this_machine;

/// Runs a node on smol's global executor, in a task of its own. Dropping the handle cancels it, with a goodbye.
pub fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N> {
    let (handle, driver) = Driver::new(node, SmolIo::new());
    smol::spawn(driver.run()).detach();
    handle
}

/// Sends what the configuration names.
///
/// # Panics
/// The system has no randomness to give.
#[must_use]
pub fn send(config: SendConfig) -> Sender {
    Sender::new(spawn(Peer::sender(config, Instant::now(), tallow_runtime::seed())))
}

/// Receives what a sender with this code offers.
///
/// # Panics
/// The system has no randomness to give.
#[must_use]
pub fn receive(config: ReceiveConfig) -> Receiver {
    Receiver::new(spawn(Peer::receiver(config, Instant::now(), tallow_runtime::seed())))
}

/// Runs a relay. It goes on until a command or the end of its handle says otherwise.
///
/// # Errors
/// Certificate and key do not make a server.
pub fn relay(config: tallow_proto::room::Config) -> Result<Handle<Relay>, BadIdentity> {
    Relay::new(config).map(spawn)
}
