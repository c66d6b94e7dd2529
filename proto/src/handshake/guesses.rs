//! How often a code may be guessed: three times, over all links, relays and reconnects of one run of the program.
//!
//! A stranger who joins, or a typing error, must not end the wait at once, and 31 bits leave room for it. The sender counts wrong
//! answers, the receiver its own answers without a valid H3: an attacker has six tries at most.

/// The tries that are left for one code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guesses {
    left: u8,
}

impl Guesses {
    /// How many wrong tries burn a code.
    pub const MOST: u8 = 3;

    /// A fresh code.
    #[must_use]
    pub const fn new() -> Self {
        Self { left: Self::MOST }
    }

    /// How many are left. With none left, no other handshake may run with this code.
    #[must_use]
    pub const fn left(&self) -> u8 {
        self.left
    }

    /// Counts one wrong try and tells how many are left: for a [`super::Failure`] that is a guess, and for a link that went away
    /// when [`super::Handshake::is_guess_if_lost`].
    pub const fn count(&mut self) -> u8 {
        self.left = self.left.saturating_sub(1);
        self.left
    }

    /// The code did its work: no other handshake may run with it.
    pub const fn burn(&mut self) {
        self.left = 0;
    }
}

impl Default for Guesses {
    fn default() -> Self {
        Self::new()
    }
}
