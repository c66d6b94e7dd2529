//! The id of a job; the machines that create jobs keep it.

/// Identifies a job within its node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub u64);
