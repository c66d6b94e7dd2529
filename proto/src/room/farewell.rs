//! How the relay closes a leg: the close code and the reason text that it sends.

/// The close code and reason text of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell {
    /// The application code.
    pub code: u32,
    /// The reason text.
    pub text: &'static str,
}
