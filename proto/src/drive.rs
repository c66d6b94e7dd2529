//! The loop between a [`Node`](crate::node::Node) and a runtime, written once for all
//! runtimes and for both kinds of node.
//!
//! A runtime implements [`Io`] (readiness, timers, threads for blocking work) and spawns [`Driver::run`];
//! the application keeps the [`Handle`]. Nothing here names a runtime: wakers are `core::task`'s, the
//! queues stand behind a `std` mutex. Handle and driver are separate values, so whoever has an executor of
//! their own can poll the driver on it.

mod driver;
#[cfg(test)]
mod fake;
mod inbox;
mod io;

pub use driver::Driver;
pub(crate) use inbox::Commander;
pub use inbox::{Ending, Handle, NotTaken};
pub use io::{Io, Received};
