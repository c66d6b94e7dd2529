//! The rate limit that the user sets: a token bucket that may go into debt.
//!
//! While the bucket is open, a chunk of any size passes; the debt is paid before the bucket opens again. So a chunk
//! larger than the rate of one second is late but never stuck. Only chunks (at a sender) and their acknowledgements
//! (at a receiver) use the bucket; control records and keep-alives do not. In any time `t` it passes at most `rate ·
//! t` bytes, [`BURST`] of the rate, and one chunk.
//!
//! A receiver can slow a sender down only through its acknowledgements: it sends them late, and gives no more
//! [`credit`] than a second of the rate, or two chunks. A rate below [`LEAST`] is raised to it: the largest chunk
//! then takes less than half the time after which a receiver takes a silent sender for stalled.

use std::num::NonZeroU64;
use std::time::Duration;

use super::window::CREDIT;
use crate::Instant;

/// How much unused rate the bucket keeps: longer than a timer can be late.
pub const BURST: Duration = Duration::from_millis(250);
/// The lowest rate, in bytes a second.
pub const LEAST: u64 = 16_000;
/// Tokens per byte.
const BYTE: i128 = 1_000_000_000;

/// The token bucket.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Bytes a second.
    rate: u64,
    /// In billionths of a byte, so that each nanosecond adds `rate` of them; negative: a debt.
    tokens: i128,
    /// The time until which tokens were added.
    at: Option<Instant>,
}

impl Limit {
    /// A bucket that is open and has no tokens saved.
    #[must_use]
    pub fn new(rate: NonZeroU64) -> Self {
        Self { rate: rate.get().max(LEAST), tokens: 0, at: None }
    }

    /// Adds the tokens for the time until `now`.
    pub fn advance(&mut self, now: Instant) {
        let elapsed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = self.at.max(Some(now));
        let rate = i128::from(self.rate);
        let most = rate.saturating_mul(nanos(BURST));
        self.tokens = self.tokens.saturating_add(rate.saturating_mul(nanos(elapsed))).min(most);
    }

    /// Whether anything may pass, as of the last [`Self::advance`].
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.tokens >= 0
    }

    /// Spends the tokens of this many bytes.
    pub const fn spend(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub((bytes as i128).saturating_mul(BYTE));
    }

    /// When the bucket opens; `None`: it is open.
    #[must_use]
    pub fn opens_at(&self) -> Option<Instant> {
        if self.is_open() {
            return None;
        }
        let debt = self.tokens.unsigned_abs().div_ceil(u128::from(self.rate));
        self.at?.checked_add(Duration::from_nanos(u64::try_from(debt).unwrap_or(u64::MAX)))
    }
}

/// How many bytes a receiver with this limit lets a sender have in flight, if each chunk costs at most `most`, and
/// the receiver would hold `whole` bytes without the limit.
#[must_use]
pub fn credit(limit: Option<Limit>, most: u64, whole: u32) -> u32 {
    let second = limit.map_or(u64::MAX, |limit| limit.rate);
    u32::try_from(second.max(most.saturating_mul(2))).unwrap_or(CREDIT).min(whole)
}

const fn nanos(duration: Duration) -> i128 {
    #[expect(clippy::cast_possible_wrap, reason = "a duration has fewer than 2^94 nanoseconds")]
    let nanos = duration.as_nanos() as i128;
    nanos
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(rate: u64) -> Limit {
        Limit::new(NonZeroU64::new(rate).unwrap())
    }

    #[test]
    fn chunk_larger_than_rate_passes_as_debt() {
        let start = Instant::now();
        let mut limit = limit(100_000);
        limit.advance(start);
        assert!(limit.is_open());
        limit.spend(400_000);
        assert_eq!(limit.opens_at(), Some(start + Duration::from_secs(4)));
        limit.advance(start + Duration::from_millis(3999));
        assert!(!limit.is_open());
        limit.advance(start + Duration::from_secs(4));
        assert!(limit.is_open());
        assert_eq!(limit.opens_at(), None);
        // A clock that stops or goes backwards adds nothing.
        limit.spend(1);
        limit.advance(start);
        assert!(!limit.is_open());
    }

    #[test]
    fn credit_is_one_second_but_at_least_two_chunks() {
        for (rate, expected) in [(1, LEAST), (100_000, 100_000), (1 << 40, CREDIT.into())] {
            assert_eq!(u64::from(credit(Some(limit(rate)), 100, CREDIT)), expected);
        }
        assert_eq!(credit(Some(limit(1)), 100_000, CREDIT), 200_000);
        assert_eq!(credit(None, 100, CREDIT), CREDIT);
        assert_eq!(credit(None, 100, 77), 77);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn limit_never_exceeds_rate_and_never_idles(
            rate in prop_oneof![Just(LEAST), LEAST..100_000_u64, (LEAST..1_u64 << 40)],
            steps in proptest::collection::vec((0..2_000_000_u64, 1..6_000_000_u64, any::<bool>()), 1..60),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut limit = limit(rate);
            limit.advance(now);
            let mut spent: Vec<(Instant, u64)> = Vec::new();
            for (micros, bytes, wait) in steps {
                match limit.opens_at() {
                    // Like a machine that has something to send: it waits exactly until the deadline.
                    Some(at) if wait => {
                        prop_assert!(at > now, "closed, and due already");
                        limit.advance(at - Duration::from_nanos(1));
                        prop_assert!(!limit.is_open(), "it opens before its time");
                        now = at;
                    }
                    Some(_) | None => now += Duration::from_micros(micros),
                }
                limit.advance(now);
                prop_assert!(!wait || limit.is_open(), "its time came and it is shut");
                if limit.is_open() {
                    limit.spend(bytes);
                    spent.push((now, bytes));
                }
            }
            for (first, (from, _)) in spent.iter().enumerate() {
                let mut sum = 0_u128;
                for (at, bytes) in spent.iter().skip(first) {
                    sum += u128::from(*bytes);
                    let nanos = (*at - *from + BURST).as_nanos();
                    let allowed = u128::from(rate) * nanos / 1_000_000_000 + 1 + u128::from(*bytes);
                    prop_assert!(sum <= allowed, "{sum} bytes where {allowed} may pass");
                }
            }
        }
    }
}
