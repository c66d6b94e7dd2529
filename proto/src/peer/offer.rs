//! What was offered, and what this side's person had to say first: whether the verifier words were compared, and when
//! the offer was accepted.
//!
//! ```text
//! NotNeeded
//! Pending ──the words are the same──► Given
//! ```
//! An offer that comes before the agreement is shown after it. No timers, no bounds.

use super::event::Event;
use crate::Instant;
use crate::transfer::manifest::Totals;

/// Whether this side's person must compare the verifier words first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    NotNeeded,
    Pending,
    Given,
}

/// See the module's text.
pub(super) struct OfferState {
    agreement: Agreement,
    /// An offer that came before this side's person agreed to the verifier words.
    unseen: Option<Event>,
    accepted_at: Option<Instant>,
    /// What is offered, once it is known.
    pub totals: Option<Totals>,
}

impl OfferState {
    /// Nothing was offered. `verify`: this side's person is to compare the words.
    pub const fn new(verify: bool) -> Self {
        let agreement = if verify { Agreement::Pending } else { Agreement::NotNeeded };
        Self { agreement, unseen: None, accepted_at: None, totals: None }
    }

    /// Whether this side's person compares the words, or did.
    pub const fn must_agree(&self) -> bool {
        !matches!(self.agreement, Agreement::NotNeeded)
    }

    /// Whether the person has still to say something.
    pub const fn is_pending(&self) -> bool {
        matches!(self.agreement, Agreement::Pending)
    }

    /// The person agreed. Returns the offer that waited for it.
    pub fn agree(&mut self) -> Option<Event> {
        self.agreement = Agreement::Given;
        self.unseen.take()
    }

    /// What is offered, as an event: returned if it may be shown now.
    pub fn show(&mut self, offer: Event) -> Option<Event> {
        if self.is_pending() {
            self.unseen = Some(offer);
            return None;
        }
        Some(offer)
    }

    /// The offer was accepted.
    pub const fn accept(&mut self, now: Instant) {
        self.accepted_at = Some(now);
    }

    /// When the offer was accepted.
    pub const fn accepted_at(&self) -> Option<Instant> {
        self.accepted_at
    }
}
