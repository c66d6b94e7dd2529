//! What a caller can do wrong.

/// The caller asked for what is not possible now; the text says what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub &'static str);
