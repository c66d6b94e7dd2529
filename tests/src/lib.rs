//! What crosses crates: the simulator and its scenarios, end-to-end tests over real sockets, bad inputs, benchmarks.

pub mod sim;
