//! The only interface of a running driver: a mutex, three bounded queues, two wakers. The async API of all runtimes
//! uses it.
//!
//! | queue | from, to | bound | beyond it |
//! |---|---|---|---|
//! | inputs | blocking threads, driver | the number of requested jobs and queries | - |
//! | commands | application, driver | [`COMMANDS`], and one for each offer or comparison | the command is returned |
//! | events | driver, application | [`EVENTS`] | they wait in the node; an outdated value is replaced |
//!
//! No waker is called or dropped while the lock is held, because both may run foreign code that calls this module. The
//! same is true for commands and events. Once the driver has ended, nothing is accepted any more, and queued inputs and
//! commands are dropped.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::misuse::Misuse;
use crate::node::{Input, Node};

/// The most commands that wait for the driver.
pub(super) const COMMANDS: usize = 16;
/// The most events that wait for the application. The last events of a closing node, and [`COMMANDS`] misuse events,
/// may exceed it.
pub(super) const EVENTS: usize = 64;

/// A command was not accepted; it is returned.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotTaken<C> {
    /// The queue of commands is full; let the runtime run, then try again.
    #[error("too many commands are waiting")]
    Busy(C),
    /// The node has ended.
    #[error("the node has ended")]
    Over(C),
}

impl<C> From<NotTaken<C>> for Misuse {
    fn from(not_taken: NotTaken<C>) -> Self {
        match not_taken {
            NotTaken::Busy(_) => Self::Busy,
            NotTaken::Over(_) => Self::Over,
        }
    }
}

impl<C> std::fmt::Debug for NotTaken<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Busy(_) => "Busy",
            Self::Over(_) => "Over",
        })
    }
}

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The node closed in an orderly way, after its last event.
    Closed,
    /// The node, or the runtime, panicked. Its connections end without a close message. This is a bug to report.
    Panicked,
    /// The runtime dropped the driver before the node was closed, as it does when it shuts down.
    Dropped,
}

/// The application's handle of a running node. Dropping it cancels: the node notifies the peer and closes.
pub struct Handle<N: Node>(Arc<Inbox<N>>);

impl<N: Node> Handle<N> {
    pub(super) const fn new(inbox: Arc<Inbox<N>>) -> Self {
        Self(inbox)
    }

    /// Passes a command to the node. An event reports if the command is invalid.
    ///
    /// # Errors
    /// [`NotTaken`] with the command, when 16 commands wait already or the node has ended.
    pub fn command(&self, command: N::Command) -> Result<(), NotTaken<N::Command>> {
        self.0.command(command, COMMANDS)
    }

    /// A separate value that can send commands, for an event that must be answered.
    pub(crate) fn commander(&self) -> Commander<N> {
        Commander(self.0.clone())
    }

    /// The value of the last queued event for which `of` returns one.
    pub(crate) fn last_event<T>(&self, of: impl Fn(&N::Event) -> Option<T>) -> Option<T> {
        self.0.lock().events.iter().rev().find_map(of)
    }

    /// The next event; `None` once the node has ended and all its events were taken.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<N::Event>> {
        let mut queues = self.0.lock();
        let full = queues.events.len() >= EVENTS;
        let Some(event) = queues.events.pop_front() else {
            if queues.ending.is_some() {
                return Poll::Ready(None);
            }
            let old = register(&mut queues.application, cx);
            drop(queues);
            drop(old);
            return Poll::Pending;
        };
        // The driver waits only for a full queue.
        let driver = if full { queues.driver.take() } else { None };
        drop(queues);
        wake(driver);
        Poll::Ready(Some(event))
    }

    /// How the node ended; `None` while it runs.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.0.lock().ending
    }

    /// The next event; `None` once the node has ended and all its events were taken. [`Handle::ending`] returns the
    /// reason.
    ///
    /// Cancel-safe: an event leaves its queue only when it is returned.
    pub async fn next_event(&mut self) -> Option<N::Event> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }
}

/// Sends commands to a node whose handle is elsewhere. It does not keep the node alive.
pub(crate) struct Commander<N: Node>(Arc<Inbox<N>>);

impl<N: Node> Commander<N> {
    /// Passes an answer to the node, even if the queue is full: each such answer can be given only once.
    pub(crate) fn answer(&self, command: N::Command) -> Result<(), NotTaken<N::Command>> {
        self.0.command(command, usize::MAX)
    }
}

impl<N: Node> futures_core::Stream for Handle<N> {
    type Item = N::Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<N::Event>> {
        self.poll_event(cx)
    }
}

impl<N: Node> Drop for Handle<N> {
    fn drop(&mut self) {
        let mut queues = self.0.lock();
        queues.abandoned = true;
        let events = std::mem::take(&mut queues.events);
        let application = queues.application.take();
        drop(queues);
        drop((events, application));
        self.0.push_input(Input::HandleDropped);
    }
}

impl<N: Node> std::fmt::Debug for Handle<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

/// The state that driver, handle and blocking threads share.
pub(super) struct Inbox<N: Node>(Mutex<Queues<N>>);

struct Queues<N: Node> {
    inputs: VecDeque<Input>,
    commands: VecDeque<N::Command>,
    events: VecDeque<N::Event>,
    driver: Option<Waker>,
    application: Option<Waker>,
    /// The handle was dropped: no one takes events.
    abandoned: bool,
    /// The driver has ended, for this reason: inputs and commands are not accepted any more.
    ending: Option<Ending>,
}

impl<N: Node> Inbox<N> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Queues {
            inputs: VecDeque::new(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
            driver: None,
            application: None,
            abandoned: false,
            ending: None,
        }))
    }

    fn command(&self, command: N::Command, bound: usize) -> Result<(), NotTaken<N::Command>> {
        let driver = {
            let mut queues = self.lock();
            let (over, full) = (queues.ending.is_some(), queues.commands.len() >= bound);
            if over || full {
                drop(queues);
                return Err(if over { NotTaken::Over(command) } else { NotTaken::Busy(command) });
            }
            queues.commands.push_back(command);
            queues.driver.take()
        };
        wake(driver);
        Ok(())
    }

    /// Queues a result for the node, from any thread.
    pub(super) fn push_input(&self, input: Input) {
        let mut queues = self.lock();
        if queues.ending.is_some() {
            drop(queues);
            drop(input);
            return;
        }
        queues.inputs.push_back(input);
        let driver = queues.driver.take();
        drop(queues);
        wake(driver);
    }

    /// Moves the queued inputs and commands into the driver's two empty queues, and stores the driver's waker.
    pub(super) fn collect(&self, cx: &Context<'_>, inputs: &mut VecDeque<Input>, commands: &mut VecDeque<N::Command>) {
        let mut queues = self.lock();
        std::mem::swap(&mut queues.inputs, inputs);
        std::mem::swap(&mut queues.commands, commands);
        let old = register(&mut queues.driver, cx);
        drop(queues);
        drop(old);
    }

    /// Queues an event; it replaces a queued event that it supersedes.
    ///
    /// # Errors
    /// The event, when the queue is full.
    pub(super) fn offer(&self, event: N::Event) -> Result<(), N::Event> {
        self.put(event, EVENTS)
    }

    /// Reports an invalid command to the application. If the application takes no events, only the first ones are
    /// queued.
    pub(super) fn report_misuse(&self, misuse: Misuse) {
        if self.put(misuse.into(), EVENTS.saturating_add(COMMANDS)).is_err() {
            tracing::debug!(%misuse, "a misuse event was dropped");
        }
    }

    /// Queues one of the last events, whatever the queue's length.
    pub(super) fn put_last(&self, event: N::Event) {
        let _ = self.put(event, usize::MAX);
    }

    fn put(&self, event: N::Event, bound: usize) -> Result<(), N::Event> {
        let mut queues = self.lock();
        if queues.abandoned {
            drop(queues);
            drop(event);
            return Ok(());
        }
        let outdated = queues.events.iter().rposition(|old| N::supersedes(&event, old));
        let outdated = outdated.and_then(|at| queues.events.remove(at));
        if queues.events.len() >= bound {
            drop(queues);
            return Err(event);
        }
        queues.events.push_back(event);
        let application = queues.application.take();
        drop(queues);
        drop(outdated);
        wake(application);
        Ok(())
    }

    /// The driver has ended. The application learns it after it has taken the queued events. The first reason is kept.
    pub(super) fn close(&self, ending: Ending) {
        let mut queues = self.lock();
        queues.ending.get_or_insert(ending);
        let rest = (std::mem::take(&mut queues.inputs), std::mem::take(&mut queues.commands), queues.driver.take());
        let application = queues.application.take();
        drop(queues);
        drop(rest);
        wake(application);
    }

    /// A panic in another thread leaves the queues consistent: each change of them is one step.
    fn lock(&self) -> MutexGuard<'_, Queues<N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores the waker. The caller must drop the returned old waker outside the lock.
fn register(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => slot.replace(cx.waker().clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
