//! The one way in and out of a running driver: a mutex, three bounded queues, two wakers. The async API of all
//! runtimes.
//!
//! | queue | from, to | bound | beyond it |
//! |---|---|---|---|
//! | inputs | blocking threads, driver | what the node asked for: jobs and queries that are out | - |
//! | commands | application, driver | [`COMMANDS`], and one for each offer or comparison | the command comes back |
//! | events | driver, application | [`EVENTS`] | they wait in the node; a value that is out of date gives its place |
//!
//! A waker is neither called nor dropped while the lock is held, for both may run foreign code that comes back here.
//! The same goes for commands and events. Once the driver is over, nothing is taken in any more and what waited for it
//! is dropped.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::misuse::Misuse;
use crate::node::{Input, Node};

/// Commands that may wait for the driver.
pub(super) const COMMANDS: usize = 16;
/// Events that may wait for the application. What a closing node has left comes on top, and [`COMMANDS`] complaints.
pub(super) const EVENTS: usize = 64;

/// A command was not taken, and is given back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotTaken<C> {
    /// As many commands as may wait do; let the runtime run, then try again.
    #[error("too many commands wait")]
    Busy(C),
    /// The node is gone.
    #[error("the node is gone")]
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

/// How a node came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The node closed in order, after its last event.
    Closed,
    /// The node, or the runtime below it, panicked. Its connections end without a goodbye; a bug to report.
    Panicked,
    /// The runtime dropped the driver before the node was closed, as it does when it shuts down.
    Dropped,
}

/// The application's end of a running node. Dropping it cancels: the node says goodbye and closes.
pub struct Handle<N: Node>(Arc<Inbox<N>>);

impl<N: Node> Handle<N> {
    pub(super) const fn new(inbox: Arc<Inbox<N>>) -> Self {
        Self(inbox)
    }

    /// Hands a command to the node. Whether it made sense there is told by an event.
    ///
    /// # Errors
    /// [`NotTaken`] with the command, when 16 wait already or the node is gone.
    pub fn command(&self, command: N::Command) -> Result<(), NotTaken<N::Command>> {
        self.0.command(command, COMMANDS)
    }

    /// A way to give commands apart from this handle, for an event that is answered by a value of its own.
    pub(crate) fn commander(&self) -> Commander<N> {
        Commander(self.0.clone())
    }

    /// What the last event of a kind says, of those that wait to be taken.
    pub(crate) fn last_event<T>(&self, of: impl Fn(&N::Event) -> Option<T>) -> Option<T> {
        self.0.lock().events.iter().rev().find_map(of)
    }

    /// The next event; `None` once the node is gone and all its events were taken.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<N::Event>> {
        let mut boxes = self.0.lock();
        let full = boxes.events.len() >= EVENTS;
        let Some(event) = boxes.events.pop_front() else {
            if boxes.ending.is_some() {
                return Poll::Ready(None);
            }
            let old = register(&mut boxes.application, cx);
            drop(boxes);
            drop(old);
            return Poll::Pending;
        };
        // Only a full box has made the driver wait.
        let driver = if full { boxes.driver.take() } else { None };
        drop(boxes);
        wake(driver);
        Poll::Ready(Some(event))
    }

    /// How the node came to its end; `None` while it runs.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.0.lock().ending
    }

    /// The next event; `None` once the node is gone and all its events were taken.
    /// [`Handle::ending`] tells why it is gone.
    ///
    /// Cancel-safe: an event leaves its queue only when it is returned.
    pub async fn next_event(&mut self) -> Option<N::Event> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }
}

/// Gives commands to a node whose handle is elsewhere. It keeps nothing alive.
pub(crate) struct Commander<N: Node>(Arc<Inbox<N>>);

impl<N: Node> Commander<N> {
    /// Hands an answer to the node, whatever waits there already: each such answer is a value that exists once.
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
        let mut boxes = self.0.lock();
        boxes.abandoned = true;
        let events = std::mem::take(&mut boxes.events);
        let application = boxes.application.take();
        drop(boxes);
        drop((events, application));
        self.0.tell(Input::HandleDropped);
    }
}

impl<N: Node> std::fmt::Debug for Handle<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

/// What driver, handle and blocking threads share.
pub(super) struct Inbox<N: Node>(Mutex<Boxes<N>>);

struct Boxes<N: Node> {
    inputs: VecDeque<Input>,
    commands: VecDeque<N::Command>,
    events: VecDeque<N::Event>,
    driver: Option<Waker>,
    application: Option<Waker>,
    /// The handle is gone: nobody takes events.
    abandoned: bool,
    /// The driver is gone, and this is why: nothing takes inputs and commands any more.
    ending: Option<Ending>,
}

impl<N: Node> Inbox<N> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Boxes {
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
            let mut boxes = self.lock();
            let (over, full) = (boxes.ending.is_some(), boxes.commands.len() >= bound);
            if over || full {
                drop(boxes);
                return Err(if over { NotTaken::Over(command) } else { NotTaken::Busy(command) });
            }
            boxes.commands.push_back(command);
            boxes.driver.take()
        };
        wake(driver);
        Ok(())
    }

    /// An answer for the node, from any thread.
    pub(super) fn tell(&self, input: Input) {
        let mut boxes = self.lock();
        if boxes.ending.is_some() {
            drop(boxes);
            drop(input);
            return;
        }
        boxes.inputs.push_back(input);
        let driver = boxes.driver.take();
        drop(boxes);
        wake(driver);
    }

    /// Moves what waits for the driver into its two empty queues, and notes whom to wake for more.
    pub(super) fn collect(&self, cx: &Context<'_>, inputs: &mut VecDeque<Input>, commands: &mut VecDeque<N::Command>) {
        let mut boxes = self.lock();
        std::mem::swap(&mut boxes.inputs, inputs);
        std::mem::swap(&mut boxes.commands, commands);
        let old = register(&mut boxes.driver, cx);
        drop(boxes);
        drop(old);
    }

    /// Puts an event into its queue, in the place of one that it supersedes.
    ///
    /// # Errors
    /// The event, when the queue is full.
    pub(super) fn offer(&self, event: N::Event) -> Result<(), N::Event> {
        self.put(event, EVENTS)
    }

    /// Tells the application that a command made no sense. One that never looks hears of the first ones only.
    pub(super) fn complain(&self, misuse: Misuse) {
        if self.put(misuse.into(), EVENTS.saturating_add(COMMANDS)).is_err() {
            tracing::debug!(%misuse, "a complaint that nobody waits for");
        }
    }

    /// Puts one of the last events into its queue, whatever waits there.
    pub(super) fn put_last(&self, event: N::Event) {
        let _ = self.put(event, usize::MAX);
    }

    fn put(&self, event: N::Event, bound: usize) -> Result<(), N::Event> {
        let mut boxes = self.lock();
        if boxes.abandoned {
            drop(boxes);
            drop(event);
            return Ok(());
        }
        let outdated = boxes.events.iter().rposition(|old| N::supersedes(&event, old));
        let outdated = outdated.and_then(|at| boxes.events.remove(at));
        if boxes.events.len() >= bound {
            drop(boxes);
            return Err(event);
        }
        boxes.events.push_back(event);
        let application = boxes.application.take();
        drop(boxes);
        drop(outdated);
        wake(application);
        Ok(())
    }

    /// The driver is over: the application learns it once it has taken the events that wait. The first reason stays.
    pub(super) fn close(&self, ending: Ending) {
        let mut boxes = self.lock();
        boxes.ending.get_or_insert(ending);
        let rest = (std::mem::take(&mut boxes.inputs), std::mem::take(&mut boxes.commands), boxes.driver.take());
        let application = boxes.application.take();
        drop(boxes);
        drop(rest);
        wake(application);
    }

    /// A panic elsewhere leaves the queues whole: each change of them is one step.
    fn lock(&self) -> MutexGuard<'_, Boxes<N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes whom to wake; the waker that stood there is for the caller to drop, outside the lock.
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
