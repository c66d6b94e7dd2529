//! An offer while its pages come in: counts, sums and names are judged before anybody is asked.
//!
//! It decides whether an offer may be shown at all. Timer: [`PAGES`]. Bounds: the manifest's own, told by the
//! offer's first message already.

use std::time::Duration;

use super::manifest::{MAX_ENTRIES, MAX_PAGES, Manifest, ManifestBuilder, ManifestError, Page, Refusal, Refused};
use crate::Instant;
use crate::seed::Seed;
use crate::wire::Untrusted;
use crate::wire::Violation;
use crate::wire::peer::{Offer, TransferKind};

/// How long the next page of an offer is waited for.
pub const PAGES: Duration = Duration::from_secs(60);

/// See the module's text.
pub struct Reading {
    offer: Offer,
    builder: ManifestBuilder,
    /// Until when the next page has to come.
    pub until: Option<Instant>,
}

impl Reading {
    /// The first message of an offer.
    ///
    /// # Errors
    /// It breaks a rule by what it announces.
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
    /// It breaks a rule, or does not fit what was announced.
    pub fn push(&mut self, now: Instant, page: Page) -> Result<(), ManifestError> {
        self.until = now.checked_add(PAGES);
        self.builder.push_page(page)
    }

    /// Whether all of it is there.
    ///
    /// # Errors
    /// It is not what was announced.
    pub fn is_whole(&self) -> Result<bool, Violation> {
        let (offer, totals) = (self.offer, self.builder.totals());
        let is_whole = self.builder.pages() >= offer.pages;
        let is_short = totals.entries < offer.entries || totals.bytes < offer.bytes;
        if totals.entries > offer.entries || totals.bytes > offer.bytes || (is_whole && is_short) {
            return Err(Violation::BadOffer);
        }
        Ok(is_whole)
    }

    /// The manifest, once all of it is there.
    ///
    /// # Errors
    /// A rule that only the whole can break.
    pub fn finish(self) -> Result<Manifest, ManifestError> {
        self.builder.finish_with(self.offer.chunk_size)
    }
}
