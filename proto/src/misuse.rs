//! The error for invalid calls.

/// The caller made a call that is not possible in the present state; the text names the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub &'static str);
