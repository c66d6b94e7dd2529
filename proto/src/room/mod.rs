//! In work.
pub mod greeting;
