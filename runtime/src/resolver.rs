//! The system's resolver for adapters. It blocks, so each query runs on a thread that the runtime chooses.
//!
//! [`Resolver::query`] creates the work for that thread; [`Resolver::poll`] returns the answers. No timers: the
//! system has its own limits, and the node continues without an answer. Bound: at most one answer waits for each
//! query.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tallow_proto::net::QueryId;

/// Queries to the system's name service, and their answers.
#[derive(Debug, Default)]
pub struct Resolver(Arc<Mutex<Answers>>);

#[derive(Debug, Default)]
struct Answers {
    answers: VecDeque<(QueryId, Vec<SocketAddr>)>,
    waker: Option<Waker>,
}

impl Resolver {
    /// The work for one query, for a thread that may block. If it is dropped instead, the query has no addresses as
    /// its answer.
    pub fn query(&self, query: QueryId, host: &str, port: u16) -> impl FnOnce() + Send + use<> {
        let (shared, host) = (self.0.clone(), host.to_owned());
        move || {
            let addresses = crate::lookup(&host, port);
            let waker = {
                let mut answers = lock(&shared);
                answers.answers.push_back((query, addresses));
                answers.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// The next answer, for [`tallow_proto::drive::Io::poll_resolved`].
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<(QueryId, Vec<SocketAddr>)> {
        let mut answers = lock(&self.0);
        if let Some(answer) = answers.answers.pop_front() {
            return Poll::Ready(answer);
        }
        let stale = answers.waker.replace(cx.waker().clone());
        // Dropping a waker may run foreign code.
        drop(answers);
        drop(stale);
        Poll::Pending
    }
}

fn lock(answers: &Mutex<Answers>) -> MutexGuard<'_, Answers> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_answer_wakes_the_last_waker_and_is_returned_once() {
        let mut resolver = Resolver::default();
        let (stale, counter) = (Arc::<Counter>::default(), Arc::<Counter>::default());
        let work = resolver.query(QueryId(1), "127.0.0.1", 7);
        for waker in [stale.clone(), counter.clone()] {
            assert!(resolver.poll(&Context::from_waker(&waker.into())).is_pending());
        }
        std::thread::spawn(work).join().unwrap();
        assert_eq!((stale.0.load(Ordering::Relaxed), counter.0.load(Ordering::Relaxed)), (0, 1));
        let answer = (QueryId(1), vec![SocketAddr::from(([127, 0, 0, 1], 7))]);
        let waker = counter.into();
        assert_eq!(resolver.poll(&Context::from_waker(&waker)), Poll::Ready(answer));
        assert!(resolver.poll(&Context::from_waker(&waker)).is_pending());
    }

    #[test]
    fn a_name_without_addresses_has_an_empty_answer() {
        let mut resolver = Resolver::default();
        resolver.query(QueryId(2), "a\0b", 7)();
        assert_eq!(resolver.poll(&Context::from_waker(Waker::noop())), Poll::Ready((QueryId(2), vec![])));
    }
}
