//! What was offered, and the decisions of the user on this side: whether the verifier words were confirmed, and when
//! the offer was accepted.
//!
//! ```text
//! NotNeeded
//! Pending ──the words are the same──► Given
//! ```
//! An offer that arrives before the confirmation is shown after it. No timers, no bounds.

use super::event::Event;
use crate::Instant;
use crate::transfer::manifest::Totals;

/// Whether the user on this side must compare the verifier words first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    NotNeeded,
    Pending,
    Given,
}

/// The state of the offer and of the verifier comparison on this side.
pub(super) struct OfferState {
    agreement: Agreement,
    /// An offer that arrived before the user on this side confirmed the verifier words.
    unseen: Option<Event>,
    accepted_at: Option<Instant>,
    /// The size of the offer, once it is known.
    pub totals: Option<Totals>,
}

impl OfferState {
    /// No offer yet. `verify`: the user on this side has to compare the words.
    pub const fn new(verify: bool) -> Self {
        let agreement = if verify { Agreement::Pending } else { Agreement::NotNeeded };
        Self { agreement, unseen: None, accepted_at: None, totals: None }
    }

    /// Whether the comparison on this side is required, confirmed already or not.
    pub const fn must_agree(&self) -> bool {
        !matches!(self.agreement, Agreement::NotNeeded)
    }

    /// Whether the user has still to answer.
    pub const fn is_pending(&self) -> bool {
        matches!(self.agreement, Agreement::Pending)
    }

    /// The user confirmed the words. Returns the offer that waited for it.
    pub fn agree(&mut self) -> Option<Event> {
        self.agreement = Agreement::Given;
        self.unseen.take()
    }

    /// Takes an offer as an event; returns it if it may be shown now.
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
