//! In work.

/// Placeholder until the transfer fills it.
#[derive(Debug)]
pub struct Job;
/// Placeholder until the transfer fills it.
#[derive(Debug)]
pub struct JobDone;
