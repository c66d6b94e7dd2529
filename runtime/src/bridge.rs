//! Connects asynchronous readers and writers with the blocking calls of a transfer's streams. The adapter provides
//! the polling and a task.
//!
//! | from | to | bound |
//! |---|---|---|
//! | a reader's task ([`feed`]) | [`BridgeSource`], a blocking thread | [`ROOM`] bytes; then it stops reading |
//! | [`BridgeSink`], a blocking thread | a writer's task ([`drain`]) | one call, until it is written and flushed |
//!
//! When the transfer drops its end, the task ends, and a writer is closed. No waker is called while the lock is held.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use tallow_proto::transfer::storage::{Fault, Read, StreamSink, StreamSource};

/// How many bytes are read ahead.
const ROOM: usize = 256 << 10;
/// How many bytes are read at once.
const PIECE: usize = 64 << 10;

/// The state that both ends of a bridge share.
#[derive(Debug, Default)]
struct Bridge<T> {
    state: Mutex<T>,
    changed: Condvar,
}

impl<T> Bridge<T> {
    /// A panic in another thread does not leave the state inconsistent, because each change of it is one step.
    fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits on a blocking thread while there is nothing to do.
    fn wait(&self, wait: Duration, idle: impl FnMut(&mut T) -> bool) -> MutexGuard<'_, T> {
        let waited = self.changed.wait_timeout_while(self.lock(), wait, idle);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[derive(Debug, Default)]
struct Inflow {
    bytes: VecDeque<u8>,
    end: Option<Result<(), Fault>>,
    is_abandoned: bool,
    task: Option<Waker>,
}

/// The source of a transfer whose bytes a task reads.
#[derive(Debug)]
pub struct BridgeSource(Arc<Bridge<Inflow>>);

/// The task's end of a [`BridgeSource`].
#[derive(Debug)]
pub struct Feeder(Arc<Bridge<Inflow>>);

/// Creates a source and the end that feeds it.
#[must_use]
pub fn source() -> (BridgeSource, Feeder) {
    let bridge = Arc::<Bridge<Inflow>>::default();
    (BridgeSource(bridge.clone()), Feeder(bridge))
}

impl StreamSource for BridgeSource {
    fn read(&self, into: &mut [u8], wait: Duration) -> Result<Read, Fault> {
        let mut state = self.0.wait(wait, |state| state.bytes.is_empty() && state.end.is_none());
        let count = into.len().min(state.bytes.len());
        let Some(count) = NonZeroUsize::new(count) else {
            return state.end.clone().map_or(Ok(Read::NotYet), |end| end.map(|()| Read::End));
        };
        for (place, byte) in into.iter_mut().zip(state.bytes.drain(..count.get())) {
            *place = byte;
        }
        let task = state.task.take();
        drop(state);
        wake(task);
        Ok(Read::Bytes(count))
    }
}

impl Drop for BridgeSource {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_abandoned = true;
        let task = state.task.take();
        drop(state);
        wake(task);
    }
}

impl Feeder {
    /// How many bytes there is room for; 0: the transfer has ended.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<usize> {
        let mut state = self.0.lock();
        if state.is_abandoned {
            return Poll::Ready(0);
        }
        // The end of the transfer wakes the task in any case.
        let old = state.task.replace(cx.waker().clone());
        let room = ROOM.saturating_sub(state.bytes.len());
        drop(state);
        drop(old);
        if room == 0 { Poll::Pending } else { Poll::Ready(room) }
    }

    fn push(&self, bytes: &[u8]) {
        self.0.lock().bytes.extend(bytes);
        self.0.changed.notify_all();
    }

    fn end(&self, end: Result<(), Fault>) {
        self.0.lock().end.get_or_insert(end);
        self.0.changed.notify_all();
    }
}

impl Drop for Feeder {
    /// The runtime may have dropped the task.
    fn drop(&mut self) {
        self.end(Err(Fault::other("the task that reads was ended")));
    }
}

/// The reader's task: reads until the end, an error, or the end of the transfer.
pub async fn feed(feeder: Feeder, mut read: impl FnMut(&mut Context<'_>, &mut [u8]) -> Poll<io::Result<usize>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let count = poll_fn(|cx| {
            let room = ready!(feeder.poll_room(cx));
            let piece = buffer.get_mut(..room.min(PIECE)).filter(|piece| !piece.is_empty());
            piece.map_or(Poll::Ready(None), |piece| read(cx, piece).map(Some))
        });
        match count.await {
            None => return,
            Some(Ok(0)) => return feeder.end(Ok(())),
            Some(Ok(count)) => feeder.push(buffer.get(..count).unwrap_or_default()),
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Some(Err(error)) => return feeder.end(Err(error.into())),
        }
    }
}

#[derive(Debug, Default)]
struct Outflow {
    /// The bytes that are being written.
    bytes: Bytes,
    is_written: bool,
    fault: Option<Fault>,
    is_abandoned: bool,
    task: Option<Waker>,
}

/// The sink of a transfer whose bytes a task writes.
#[derive(Debug)]
pub struct BridgeSink(Arc<Bridge<Outflow>>);

/// The task's end of a [`BridgeSink`].
#[derive(Debug)]
pub struct Drainer(Arc<Bridge<Outflow>>);

/// Creates a sink and the end that drains it.
#[must_use]
pub fn sink() -> (BridgeSink, Drainer) {
    let bridge = Arc::<Bridge<Outflow>>::default();
    (BridgeSink(bridge.clone()), Drainer(bridge))
}

impl StreamSink for BridgeSink {
    fn write(&self, plain: &[u8], wait: Duration) -> Result<usize, Fault> {
        let mut state = self.0.lock();
        // Bytes that an earlier call could not write in time are written first.
        let task = if state.bytes.is_empty() {
            state.bytes = Bytes::copy_from_slice(plain);
            state.task.take()
        } else {
            None
        };
        drop(state);
        wake(task);
        let mut state = self.0.wait(wait, |state| !state.is_written && state.fault.is_none());
        if let Some(fault) = &state.fault {
            return Err(fault.clone());
        }
        if !std::mem::take(&mut state.is_written) {
            return Ok(0);
        }
        Ok(std::mem::take(&mut state.bytes).len().min(plain.len()))
    }
}

impl Drop for BridgeSink {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_abandoned = true;
        let task = state.task.take();
        drop(state);
        wake(task);
    }
}

impl Drainer {
    /// The next bytes to write; `None`: no more bytes follow.
    fn poll_bytes(&self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.0.lock();
        if !state.bytes.is_empty() && !state.is_written {
            return Poll::Ready(Some(state.bytes.clone()));
        }
        if state.is_abandoned {
            return Poll::Ready(None);
        }
        let old = state.task.replace(cx.waker().clone());
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// Polls the writer. Returns `None` if the transfer ends before everything was written.
    async fn ask(&self, mut ask: impl FnMut(&mut Context<'_>) -> Poll<io::Result<usize>>) -> Option<io::Result<usize>> {
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.is_abandoned {
                return Poll::Ready(None);
            }
            let old = state.task.replace(cx.waker().clone());
            drop(state);
            drop(old);
            ask(cx).map(Some)
        })
        .await
    }

    fn written(&self) {
        self.0.lock().is_written = true;
        self.0.changed.notify_all();
    }

    fn fail(&self, fault: Fault) {
        self.0.lock().fault.get_or_insert(fault);
        self.0.changed.notify_all();
    }
}

impl Drop for Drainer {
    /// The runtime may have dropped the task.
    fn drop(&mut self) {
        self.fail(Fault::other("the task that writes was ended"));
    }
}

/// An operation of a writer.
#[derive(Debug)]
pub enum WriteOp<'a> {
    /// Write some of these bytes and return how many.
    Write(&'a [u8]),
    /// Flush buffered bytes.
    Flush,
    /// Flush, and close the writer.
    Close,
}

/// The writer's task: writes and flushes until the end of the transfer, then closes the writer.
pub async fn drain(drainer: Drainer, mut ask: impl FnMut(&mut Context<'_>, WriteOp<'_>) -> Poll<io::Result<usize>>) {
    while let Some(bytes) = poll_fn(|cx| drainer.poll_bytes(cx)).await {
        let mut rest = bytes;
        while !rest.is_empty() {
            match drainer.ask(|cx| ask(cx, WriteOp::Write(&rest))).await {
                None => return,
                Some(Ok(0)) => return drainer.fail(io::Error::from(io::ErrorKind::WriteZero).into()),
                Some(Ok(count)) => drop(rest.split_to(count.min(rest.len()))),
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) => return drainer.fail(error.into()),
            }
        }
        match drainer.ask(|cx| ask(cx, WriteOp::Flush)).await {
            None => return,
            Some(Ok(_)) => drainer.written(),
            Some(Err(error)) => return drainer.fail(error.into()),
        }
    }
    if let Err(error) = poll_fn(|cx| ask(cx, WriteOp::Close)).await {
        tracing::debug!(%error, "a writer could not be closed");
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
