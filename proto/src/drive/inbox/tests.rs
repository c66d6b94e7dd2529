use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::*;
use crate::drive::fake::{Counter, Event, ScriptedNode, Theatre, job};

fn waker() -> (Arc<Counter>, Waker) {
    let counter = Arc::<Counter>::default();
    (counter.clone(), counter.into())
}

#[test]
fn commands_beyond_the_bound_are_returned() {
    let mut theatre = Theatre::new(&[]);
    for command in 0..COMMANDS as u64 {
        theatre.handle().command(command * 2).unwrap();
    }
    assert_eq!(theatre.handle().command(99), Err(NotTaken::Busy(99)));
    assert_eq!(theatre.wakes.count(), 1, "one wake for all of them");
    assert!(theatre.poll().is_pending());
    theatre.handle().command(98).unwrap();
    assert_eq!(theatre.wakes.count(), 2);
}

#[test]
fn invalid_command_is_reported_as_event() {
    let mut theatre = Theatre::new(&[]);
    theatre.handle().command(1).unwrap();
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.events(), [Event::Misused(Misuse::NoSuchCommand)]);
}

#[test]
fn error_events_are_bounded_and_commands_run_when_full() {
    let mut theatre = Theatre::new(&[]);
    theatre.plan().events.extend((0..200).map(Event::Other));
    for _ in 0..10 {
        for _ in 0..COMMANDS {
            theatre.handle().command(1).unwrap();
        }
        assert!(theatre.poll().is_pending());
    }
    assert_eq!(theatre.events().len(), EVENTS + COMMANDS);
}

#[test]
fn event_and_end_each_wake_application_once() {
    let mut theatre = Theatre::new(&[]);
    let (counter, waker) = waker();
    assert!(theatre.next_event(&waker).is_pending());
    assert!(theatre.next_event(&waker).is_pending());
    theatre.plan().events.extend([Event::Other(1), Event::Other(2)]);
    assert!(theatre.poll().is_pending());
    assert_eq!(counter.count(), 1);
    assert_eq!(theatre.events().len(), 2);
    assert!(theatre.next_event(&waker).is_pending());
    theatre.plan().closed = true;
    assert!(theatre.poll().is_ready());
    assert_eq!(counter.count(), 2);
    assert_eq!(theatre.next_event(&waker), Poll::Ready(None));
    assert_eq!(theatre.handle().command(2), Err(NotTaken::Over(2)), "the node has ended");
}

#[test]
fn events_are_dropped_with_the_handle() {
    let mut theatre = Theatre::new(&[]);
    theatre.plan().events.extend((0..200).map(Event::Other));
    assert!(theatre.poll().is_pending());
    assert!(!theatre.plan().events.is_empty());
    let inbox = theatre.handle().0.clone();
    theatre.handle = None;
    assert!(theatre.poll().is_pending());
    assert!(theatre.plan().events.is_empty() && inbox.lock().events.is_empty());
}

#[test]
fn dropped_driver_ends_event_stream() {
    let theatre = Theatre::new(&[]);
    let Theatre { handle, driver, .. } = theatre;
    let (counter, waker) = waker();
    let mut handle = handle.unwrap();
    assert!(handle.poll_event(&mut Context::from_waker(&waker)).is_pending());
    assert!(handle.0.lock().driver.is_some());
    drop(driver);
    assert!(handle.0.lock().driver.is_none(), "its task can be dropped");
    assert_eq!(counter.count(), 1);
    assert_eq!(handle.poll_event(&mut Context::from_waker(&waker)), Poll::Ready(None));
}

#[test]
fn dropped_next_event_future_loses_no_event() {
    let mut theatre = Theatre::new(&[]);
    let waker = Waker::noop();
    {
        let mut next = std::pin::pin!(theatre.handle().next_event());
        assert!(next.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    theatre.plan().events.push_back(Event::Other(1));
    assert!(theatre.poll().is_pending());
    drop(theatre.handle().next_event());
    assert_eq!(theatre.events(), [Event::Other(1)]);
}

#[test]
fn late_job_answer_is_dropped_without_leak() {
    let mut theatre = Theatre::new(&[]);
    let inbox: Weak<Inbox<ScriptedNode>> = Arc::downgrade(&theatre.handle().0);
    theatre.plan().jobs.push_back(job(1, || Ok(true)));
    theatre.handle().command(2).unwrap();
    assert!(theatre.poll().is_pending());
    theatre.handle().command(2).unwrap();
    let work = std::mem::take(&mut theatre.stage_mut().blocking);
    let Theatre { handle, driver, .. } = theatre;
    drop(driver);
    for work in work {
        work();
    }
    {
        let inbox = inbox.upgrade().unwrap();
        let queues = inbox.lock();
        assert!(queues.inputs.is_empty() && queues.commands.is_empty() && queues.driver.is_none());
    }
    drop(handle);
    assert!(inbox.upgrade().is_none());
}

/// A waker that calls the inbox when it is called and when it is dropped. An executor's waker may do so: dropping a
/// task drops the handle in it.
struct ComesBack(Weak<Inbox<ScriptedNode>>, Arc<AtomicBool>);

impl ComesBack {
    fn look(&self) {
        let Some(inbox) = self.0.upgrade() else { return };
        let free = inbox.0.try_lock().is_ok();
        self.1.fetch_and(free, Ordering::Relaxed);
    }
}

impl Wake for ComesBack {
    fn wake(self: Arc<Self>) {
        self.look();
    }
}

impl Drop for ComesBack {
    fn drop(&mut self) {
        self.look();
    }
}

#[test]
fn no_waker_is_called_or_dropped_while_the_lock_is_held() {
    let mut theatre = Theatre::new(&[]);
    let inbox = Arc::downgrade(&theatre.handle().0);
    let free = Arc::new(AtomicBool::new(true));
    let waker = || Waker::from(Arc::new(ComesBack(inbox.clone(), free.clone())));
    // One waker replaces another one, and is called by an event and by the end.
    assert!(theatre.next_event(&waker()).is_pending());
    assert!(theatre.next_event(&waker()).is_pending());
    theatre.plan().events.extend((0..EVENTS as u64).map(Event::Other));
    assert!(theatre.driver.poll(&mut Context::from_waker(&waker())).is_pending());
    assert!(theatre.driver.poll(&mut Context::from_waker(&waker())).is_pending());
    // Woken by the event that makes room, by a command, by an answer.
    assert!(theatre.next_event(&waker()).is_ready());
    assert!(theatre.driver.poll(&mut Context::from_waker(&waker())).is_pending());
    theatre.handle().command(2).unwrap();
    assert!(theatre.driver.poll(&mut Context::from_waker(&waker())).is_pending());
    theatre.handle().0.push_input(Input::HandleDropped);
    theatre.events();
    assert!(theatre.next_event(&waker()).is_pending());
    assert!(theatre.driver.poll(&mut Context::from_waker(&waker())).is_pending());
    theatre.handle = None;
    drop(theatre);
    assert!(free.load(Ordering::Relaxed));
}
