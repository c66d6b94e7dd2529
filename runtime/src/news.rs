//! What happens to the machine: its addresses change, it was asleep.
//!
//! Both are looked for and not waited for, which is the same on all systems and costs a few microseconds. The clocks are
//! compared at each [`News::check`]; the addresses every [`EVERY`], and at once after a sleep.

use std::time::{Duration, Instant};

use tallow_proto::node::{Input, Interface};

/// How often the addresses are looked at, and the clocks at least.
pub const EVERY: Duration = Duration::from_secs(3);
/// No machine sleeps for less.
const NAP: Duration = Duration::from_millis(500);

/// See the module's text.
#[derive(Debug)]
pub struct News {
    interfaces: Option<Vec<Interface>>,
    look_at: Instant,
    asleep: Asleep,
}

impl News {
    /// Everything is news.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { interfaces: None, look_at: now, asleep: Asleep::default() }
    }

    /// The next news, if there is any. Cheap unless [`News::next`] has come.
    #[must_use]
    pub fn check(&mut self, now: Instant) -> Option<Input> {
        if let Some(slept) = clocks().and_then(|(before, boot, after)| self.asleep.compare(before, boot, after)) {
            self.look_at = now;
            return Some(Input::Slept(slept));
        }
        if now < self.look_at {
            return None;
        }
        self.look_at = now + EVERY;
        let interfaces = crate::interfaces()?;
        if self.interfaces.as_ref() == Some(&interfaces) {
            return None;
        }
        self.interfaces = Some(interfaces.clone());
        Some(Input::Interfaces(interfaces))
    }

    /// When to check again at the latest.
    #[must_use]
    pub const fn next(&self) -> Instant {
        self.look_at
    }
}

/// The two clocks: one goes on while the machine sleeps, the other stands still.
#[derive(Debug, Default)]
struct Asleep {
    /// What the one is ahead of the other, at most.
    ahead: Option<Duration>,
}

impl Asleep {
    /// `boot` was read between the two readings of the other clock: this thread may have been held up in between, for any time,
    /// and that is no sleep.
    fn compare(&mut self, before: Duration, boot: Duration, after: Duration) -> Option<Duration> {
        let (least, most) = (boot.saturating_sub(after), boot.saturating_sub(before));
        let known = self.ahead.unwrap_or(most);
        let slept = least.saturating_sub(known);
        if slept >= NAP {
            self.ahead = Some(most);
            return Some(slept);
        }
        self.ahead = Some(known.min(most));
        None
    }
}

/// CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn clocks() -> Option<(Duration, Duration, Duration)> {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| Duration::try_from(clock_gettime(clock)).ok();
    Some((read(ClockId::Monotonic)?, read(ClockId::Boottime)?, read(ClockId::Monotonic)?))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
const fn clocks() -> Option<(Duration, Duration, Duration)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_sleep_is_told_once_and_a_thread_that_was_held_up_is_none() {
        let mut asleep = Asleep::default();
        assert_eq!(asleep.compare(s(10), s(110), s(10)), None);
        assert_eq!(asleep.compare(s(20), s(120), s(20)), None);
        // Held up before the second reading, and before the third.
        assert_eq!(asleep.compare(s(30), s(190), s(90)), None);
        assert_eq!(asleep.compare(s(100), s(200), s(160)), None);
        assert_eq!(asleep.compare(s(170), s(330), s(170)), Some(s(60)));
        assert_eq!(asleep.compare(s(171), s(331), s(171)), None);
        assert_eq!(asleep.compare(s(172), s(332) + NAP, s(172)), Some(NAP));
    }

    #[test]
    fn the_first_news_are_the_addresses_and_then_there_are_none() {
        let start = Instant::now();
        let mut news = News::new(start);
        let Some(Input::Interfaces(interfaces)) = news.check(start) else { panic!("addresses") };
        assert!(interfaces.iter().any(|interface| interface.addr.is_loopback() && interface.prefix >= 8));
        assert_eq!(news.next(), start + EVERY);
        assert!(news.check(start + EVERY / 2).is_none());
        assert_eq!(news.next(), start + EVERY);
    }

    #[test]
    fn an_address_that_came_or_went_is_news() {
        let start = Instant::now();
        let mut news = News::new(start);
        assert!(news.check(start).is_some());
        news.interfaces.as_mut().unwrap().pop();
        assert!(matches!(news.check(start + EVERY), Some(Input::Interfaces(_))));
    }
}
