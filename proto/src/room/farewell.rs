//! How a leg is closed: the code and the words that the client receives.

/// How a leg is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell {
    /// The application code.
    pub code: u32,
    /// The words that go with it.
    pub text: &'static str,
}
