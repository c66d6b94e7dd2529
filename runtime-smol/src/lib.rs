//! tallow on smol: the protocol's effects, and nothing of its decisions.
//!
//! [`spawn`] runs any node of `tallow-proto`. The task ends by itself once the node has said goodbye; [`Handle::next_event`]
//! answers `None` then.

mod io;

pub use io::SmolIo;
use tallow_proto::drive::Driver;
pub use tallow_proto::drive::Handle;
use tallow_proto::node::Node;

/// Runs a node on smol's global executor, in a task of its own. Dropping the handle cancels it, with a goodbye.
pub fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N> {
    let (handle, driver) = Driver::new(node, SmolIo::new());
    smol::spawn(driver.run()).detach();
    handle
}
