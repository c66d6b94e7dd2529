//! Queues of ready children and deadlines. With them, a node's work is proportional to the number of events and not to
//! the number of its children.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::Instant;

/// The children that have work to do, in the order in which they were marked, each at most once.
#[derive(Debug)]
pub struct ReadySet<K> {
    queue: VecDeque<K>,
    queued: BTreeSet<K>,
}

impl<K: Copy + Ord> ReadySet<K> {
    /// A set without ready children.
    #[must_use]
    pub const fn new() -> Self {
        Self { queue: VecDeque::new(), queued: BTreeSet::new() }
    }

    /// Adds the child to the end of the queue, unless it is queued already.
    pub fn mark(&mut self, child: K) {
        if self.queued.insert(child) {
            self.queue.push_back(child);
        }
    }

    /// Takes the child that has waited longest.
    #[must_use]
    pub fn take(&mut self) -> Option<K> {
        let child = self.queue.pop_front()?;
        self.queued.remove(&child);
        Some(child)
    }

    /// Whether no child is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl<K: Copy + Ord> Default for ReadySet<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// The children's deadlines, earliest first.
///
/// A later deadline does not replace an earlier entry, because QUIC moves its timers on every packet and an early
/// wake-up is a no-op.
#[derive(Debug)]
pub struct Deadlines<K> {
    by_time: BTreeSet<(Instant, K)>,
    by_child: BTreeMap<K, Instant>,
}

impl<K: Copy + Ord> Deadlines<K> {
    /// A queue without deadlines.
    #[must_use]
    pub const fn new() -> Self {
        Self { by_time: BTreeSet::new(), by_child: BTreeMap::new() }
    }

    /// Sets the child's deadline; `None` removes it.
    pub fn set(&mut self, child: K, at: Option<Instant>) {
        let known = self.by_child.get(&child).copied();
        if let (Some(known), Some(at)) = (known, at)
            && known <= at
        {
            return;
        }
        if let Some(known) = known {
            self.by_time.remove(&(known, child));
            self.by_child.remove(&child);
        }
        if let Some(at) = at {
            self.by_time.insert((at, child));
            self.by_child.insert(child, at);
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|&(at, _)| at)
    }

    /// Takes a child whose deadline has passed, and removes its entry.
    #[must_use]
    pub fn take_due(&mut self, now: Instant) -> Option<K> {
        let &(_, child) = self.by_time.first().filter(|&&(at, _)| at <= now)?;
        self.set(child, None);
        Some(child)
    }
}

impl<K: Copy + Ord> Default for Deadlines<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ready_child_is_queued_once_in_order() {
        let mut ready = ReadySet::new();
        ready.mark(1);
        ready.mark(2);
        ready.mark(1);
        assert_eq!((ready.take(), ready.take(), ready.take()), (Some(1), Some(2), None));
        ready.mark(1);
        assert!(!ready.is_empty());
    }

    #[test]
    fn a_later_deadline_leaves_the_early_wake_in_place() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut deadlines = Deadlines::new();
        deadlines.set('a', Some(at(10)));
        deadlines.set('a', Some(at(20)));
        assert_eq!(deadlines.next(), Some(at(10)));
        deadlines.set('a', Some(at(5)));
        assert_eq!(deadlines.next(), Some(at(5)));
        assert_eq!(deadlines.take_due(at(4)), None);
        assert_eq!(deadlines.take_due(at(5)), Some('a'));
        assert_eq!(deadlines.next(), None);
        deadlines.set('a', Some(at(7)));
        deadlines.set('a', None);
        assert_eq!(deadlines.next(), None);
    }
}
