//! What crosses crates: the simulator and its scenarios, end-to-end tests over real sockets, bad inputs, benchmarks,
//! measurements of the heap.

pub mod heap;
pub mod sim;
