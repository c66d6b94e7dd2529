//! Limits the guesses at a code: three, over all links, relays and reconnects of one run of the program.
//!
//! A third party that joins the room, or a typing error, must not end the wait at once; the 31 bits of a code allow a
//! few guesses. The sender counts wrong answers, and the receiver counts its own answers that got no valid H3, so an
//! attacker has six guesses at most.

/// The guesses that remain for one code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guesses {
    left: u8,
}

impl Guesses {
    /// How many wrong guesses invalidate a code.
    pub const MOST: u8 = 3;

    /// The state of a fresh code.
    #[must_use]
    pub const fn new() -> Self {
        Self { left: Self::MOST }
    }

    /// How many guesses remain. At 0, no other handshake may run with this code.
    #[must_use]
    pub const fn left(&self) -> u8 {
        self.left
    }

    /// Counts one wrong guess and returns how many remain. To be called for a [`super::Failure`] that is a guess, and
    /// for a link that was lost while [`super::Handshake::is_guess_if_lost`] was true.
    pub const fn count(&mut self) -> u8 {
        self.left = self.left.saturating_sub(1);
        self.left
    }

    /// Invalidates the code after a success: no other handshake may run with it.
    pub const fn burn(&mut self) {
        self.left = 0;
    }
}

impl Default for Guesses {
    fn default() -> Self {
        Self::new()
    }
}
