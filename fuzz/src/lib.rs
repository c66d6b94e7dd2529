//! The common part of the fuzz targets: how bytes become a list of steps, and the machines that process them.
//!
//! The same files are part of `tests/tests/fuzz_seeds.rs`, which writes the seeds and replays them on every toolchain.

pub mod direct;
pub mod portmap;
pub mod relay;
pub mod session;
pub mod steps;
pub mod stun;
pub mod transfer;
