//! The loop between a [`Node`](crate::node::Node) and a runtime, written once for all runtimes and for all kinds of
//! nodes.
//!
//! A runtime implements [`Io`] (readiness, timers, threads for blocking work) and spawns [`Driver::run`]; the
//! application keeps the [`Handle`]. This module depends on no runtime: it uses the wakers of `core::task` and a `std`
//! mutex around the queues. Handle and driver are separate values, so an application with its own executor can poll the
//! driver there.

mod driver;
#[cfg(test)]
mod fake;
mod inbox;
mod io;

pub use driver::Driver;
pub(crate) use inbox::Commander;
pub use inbox::{Ending, Handle, NotTaken};
pub use io::{Io, Received};
