//! The holes of a file that is written in order: they are not sent, and become zeros between its data.
//!
//! It decides when zeros are written instead of data. Timer: [`PAUSE`] after a sink that had no room. Bounds: two
//! numbers for each hole, [`ZEROS`] bytes in a job.

use std::collections::VecDeque;

use bytes::Bytes;

use super::PAUSE;
use crate::Instant;
use crate::transfer::manifest::{EntryKind, Manifest};

/// The zeros that one job writes, at most.
const ZEROS: &[u8] = &[0; 64 << 10];

/// See the module's text.
#[derive(Default)]
pub(super) struct Gaps {
    /// Those that are not written: before which byte of the data each stands, and what is left of it.
    left: VecDeque<(u64, u64)>,
    turn: Turn,
}

/// What is done about the first one.
#[derive(Default)]
enum Turn {
    #[default]
    Ready,
    /// A job writes so many bytes.
    Out(usize),
    /// The sink had no room.
    Full(Instant),
}

impl Gaps {
    /// Of the one file of an offer.
    pub fn of_file(manifest: &Manifest) -> Self {
        let Some(EntryKind::Sparse { size, data }) = manifest.entry(0).map(|entry| entry.kind) else {
            return Self::default();
        };
        let before = |offset: u64| {
            data.as_slice()
                .iter()
                .filter(|extent| extent.offset < offset)
                .fold(0_u64, |sum, extent| sum.saturating_add(extent.len))
        };
        Self { left: data.holes(size).map(|hole| (before(hole.offset), hole.len)).collect(), turn: Turn::Ready }
    }

    /// The zeros that are to be written next, once so many bytes of data are.
    pub fn next(&mut self, data: u64) -> Option<Bytes> {
        let (at, len) = *self.left.front()?;
        if at > data || !matches!(self.turn, Turn::Ready) {
            return None;
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
        self.turn = Turn::Out(len);
        Some(Bytes::from_static(ZEROS.get(..len).unwrap_or_default()))
    }

    /// How many bytes of data may be written before zeros are due.
    pub fn room(&self, data: u64) -> u64 {
        self.left.front().map_or(u64::MAX, |(at, _)| at.saturating_sub(data))
    }

    /// Whether a job writes zeros.
    pub const fn is_out(&self) -> bool {
        matches!(self.turn, Turn::Out(_))
    }

    /// The sink took some of the zeros, and left so many.
    pub fn wrote(&mut self, now: Instant, rest: usize) {
        let Turn::Out(len) = self.turn else { return };
        let taken = len.saturating_sub(rest) as u64;
        self.turn = if taken > 0 { Turn::Ready } else { Turn::Full(now.checked_add(PAUSE).unwrap_or(now)) };
        if let Some((_, left)) = self.left.front_mut() {
            *left = left.saturating_sub(taken);
            if *left == 0 {
                self.left.pop_front();
            }
        }
    }

    /// It is `now`.
    pub fn advance(&mut self, now: Instant) {
        if matches!(self.turn, Turn::Full(until) if until <= now) {
            self.turn = Turn::Ready;
        }
    }

    /// When [`Self::advance`] is due.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        if let Turn::Full(until) = self.turn { Some(until) } else { None }
    }

    /// Whether all are written.
    pub fn is_done(&self) -> bool {
        self.left.is_empty()
    }
}
