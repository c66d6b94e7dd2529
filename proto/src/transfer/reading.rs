//! An offer while its pages arrive: counts, totals and names are checked before the user is asked.
//!
//! It decides whether an offer may be shown at all. Timer: [`PAGES`]. Bounds: those of the manifest, which already
//! apply to the first message of the offer.

use std::time::Duration;

use super::manifest::{MAX_ENTRIES, MAX_PAGES, Manifest, ManifestBuilder, ManifestError, Page, Refusal, Refused};
use crate::Instant;
use crate::seed::Seed;
use crate::wire::Untrusted;
use crate::wire::Violation;
use crate::wire::peer::{Offer, TransferKind};

/// How long the receiver waits for the next page of an offer.
pub const PAGES: Duration = Duration::from_secs(60);

/// An offer whose pages are arriving.
pub struct Reading {
    offer: Offer,
    builder: ManifestBuilder,
    /// The deadline of the next page.
    pub until: Option<Instant>,
}

impl Reading {
    /// The first message of an offer.
    ///
    /// # Errors
    /// What the message announces breaks a rule.
    pub fn begin(now: Instant, offer: Offer, seed: &Seed) -> Result<Box<Self>, ManifestError> {
        let is_files = offer.kind == TransferKind::Files;
        if !is_files || super::chunk_size::size_class(offer.chunk_size).is_none() {
            return Err(Violation::BadOffer.into());
        }
        let too_much = |why| Err(Refused { name: Untrusted::default(), why }.into());
        if offer.entries > MAX_ENTRIES {
            return too_much(Refusal::TooManyEntries);
        }
        if offer.pages > MAX_PAGES {
            return too_much(Refusal::TooManyNames);
        }
        let builder = ManifestBuilder::new(offer.kind, seed);
        Ok(Box::new(Self { offer, builder, until: now.checked_add(PAGES) }))
    }

    /// The next page.
    ///
    /// # Errors
    /// The page breaks a rule, or does not fit the announcement.
    pub fn push(&mut self, now: Instant, page: Page) -> Result<(), ManifestError> {
        self.until = now.checked_add(PAGES);
        self.builder.push_page(page)
    }

    /// Whether all pages arrived.
    ///
    /// # Errors
    /// The offer differs from the announcement.
    pub fn is_whole(&self) -> Result<bool, Violation> {
        let (offer, totals) = (self.offer, self.builder.totals());
        let is_whole = self.builder.pages() >= offer.pages;
        let is_short = totals.entries < offer.entries || totals.bytes < offer.bytes;
        if totals.entries > offer.entries || totals.bytes > offer.bytes || (is_whole && is_short) {
            return Err(Violation::BadOffer);
        }
        Ok(is_whole)
    }

    /// The manifest, once all pages arrived.
    ///
    /// # Errors
    /// A rule that concerns the whole manifest is broken.
    pub fn finish(self) -> Result<Manifest, ManifestError> {
        self.builder.finish_with(self.offer.chunk_size)
    }
}
