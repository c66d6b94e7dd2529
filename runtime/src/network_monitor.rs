//! Detects changes of the machine: its addresses or gateways change, or it was suspended.
//!
//! It polls instead of subscribing, which works the same way on all systems and costs a few microseconds. It compares
//! the clocks at each [`NetworkMonitor::check`], and addresses and gateways every [`EVERY`] and immediately after a
//! suspension.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tallow_proto::net::Interface;
use tallow_proto::node::Input;

/// How often addresses and gateways are read; the clocks are read at least this often.
pub const EVERY: Duration = Duration::from_secs(3);
/// No suspension is shorter than this.
const NAP: Duration = Duration::from_millis(500);

/// Detects changes of addresses and gateways, and suspensions.
#[derive(Debug)]
pub struct NetworkMonitor {
    interfaces: Option<Vec<Interface>>,
    gateways: Option<Vec<IpAddr>>,
    look_at: Instant,
    asleep: Asleep,
}

impl NetworkMonitor {
    /// Creates it with nothing known, so that the first check reports everything.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { interfaces: None, gateways: None, look_at: now, asleep: Asleep::default() }
    }

    /// The next change, if there is one. Cheap unless [`NetworkMonitor::next`] has come.
    #[must_use]
    pub fn check(&mut self, now: Instant) -> Option<Input> {
        if let Some(slept) = clocks().and_then(|(before, boot, after)| self.asleep.compare(before, boot, after)) {
            self.look_at = now;
            return Some(Input::Slept(slept));
        }
        if now < self.look_at {
            return None;
        }
        // Gateways are reported first: when the node gets the addresses, it then knows where they lead. The other
        // changes are reported by the next call.
        if let Some(gateways) = changed(&mut self.gateways, crate::gateways::gateways()) {
            return Some(Input::Gateways(gateways));
        }
        self.look_at = now + EVERY;
        changed(&mut self.interfaces, crate::interfaces()).map(Input::Interfaces)
    }

    /// The latest time for the next check.
    #[must_use]
    pub const fn next(&self) -> Instant {
        self.look_at
    }
}

/// The new value, if it differs from the known one.
fn changed<T: Clone + PartialEq>(known: &mut Option<T>, told: Option<T>) -> Option<T> {
    if told.is_none() || *known == told {
        return None;
    }
    *known = told.clone();
    told
}

/// Two clocks: one advances while the machine is suspended, the other one does not.
#[derive(Debug, Default)]
struct Asleep {
    /// The largest difference between the two clocks so far.
    ahead: Option<Duration>,
}

impl Asleep {
    /// `boot` was read between the two readings of the other clock. This thread may have been delayed between the
    /// readings for any time, and such a delay is not a suspension.
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
    fn sleep_is_reported_once_and_delayed_thread_is_not() {
        let mut asleep = Asleep::default();
        assert_eq!(asleep.compare(s(10), s(110), s(10)), None);
        assert_eq!(asleep.compare(s(20), s(120), s(20)), None);
        // Delays before the second reading, and before the third.
        assert_eq!(asleep.compare(s(30), s(190), s(90)), None);
        assert_eq!(asleep.compare(s(100), s(200), s(160)), None);
        assert_eq!(asleep.compare(s(170), s(330), s(170)), Some(s(60)));
        assert_eq!(asleep.compare(s(171), s(331), s(171)), None);
        assert_eq!(asleep.compare(s(172), s(332) + NAP, s(172)), Some(NAP));
    }

    /// All changes that one check reports.
    fn all(news: &mut NetworkMonitor, now: Instant) -> Vec<Input> {
        std::iter::from_fn(|| news.check(now)).collect()
    }

    #[test]
    fn first_check_reports_gateways_and_addresses_once() {
        let start = Instant::now();
        let mut news = NetworkMonitor::new(start);
        let mut told = all(&mut news, start);
        let Some(Input::Interfaces(interfaces)) = told.pop() else { panic!("addresses") };
        assert!(interfaces.iter().any(|interface| interface.addr.is_loopback() && interface.prefix >= 8));
        match (crate::gateways::gateways(), &told[..]) {
            (Some(gateways), [Input::Gateways(told)]) => assert_eq!(*told, gateways),
            (None, []) => {}
            (_, told) => panic!("{told:?}"),
        }
        assert_eq!(news.next(), start + EVERY);
        assert!(news.check(start + EVERY / 2).is_none());
        assert_eq!(news.next(), start + EVERY);
        assert!(news.check(start + EVERY).is_none());
        assert_eq!(news.next(), start + EVERY * 2);
    }

    #[test]
    fn changed_address_is_reported() {
        let start = Instant::now();
        let mut news = NetworkMonitor::new(start);
        all(&mut news, start);
        news.interfaces.as_mut().unwrap().pop();
        assert!(matches!(all(&mut news, start + EVERY)[..], [Input::Interfaces(_)]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn changed_gateway_is_reported() {
        let start = Instant::now();
        let mut news = NetworkMonitor::new(start);
        all(&mut news, start);
        news.gateways.as_mut().unwrap().push([192, 0, 2, 1].into());
        assert!(matches!(all(&mut news, start + EVERY)[..], [Input::Gateways(_)]));
    }
}
