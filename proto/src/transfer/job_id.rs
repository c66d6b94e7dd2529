//! The name of a job, which the machines that make jobs remember.

/// Names a job within its node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub u64);
