//! The TCP pipes: bytes between the runtime and the node's buffers, without a copy.
//!
//! Visited are those whose bell rang and those that the node names, never all. A direction without buffer or output
//! registers nothing. A pipe is over when both directions have ended, when it fails, or when it is aborted; the runtime
//! then closes it if its end was sent, and resets it otherwise:
//!
//! ```text
//! Dialling ─► Open ─Finish► Finishing ─output empty► Finished        Abort: over, at once in Dialling and Open,
//!                                                                     else after LINGER at most
//! ```
//!
//! Bounds: [`CALLS`] for each pipe, direction and round; [`SLICES`] in one write. Timer: [`LINGER`].

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::wakes::{Bell, Name, Wakes};
use crate::Instant;
use crate::drive::io::Io;
use crate::net::{Dial, PipeEvent, PipeId};
use crate::node::Node;

/// Calls for a pipe, in one direction and one round.
pub(super) const CALLS: usize = 16;
/// Slices offered in one write.
const SLICES: usize = 16;
/// How long a pipe that the node has let go after its end may take to deliver what waits and to hear the other side's
/// end: closing earlier, with bytes unread, would reset the connection and lose what is on its way.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// What arrives for nobody goes here.
const SCRATCH: usize = 4 << 10;

/// All pipes of a driver.
pub(super) struct Pipes {
    pipes: BTreeMap<PipeId, Pipe>,
    wakes: Arc<Wakes>,
    /// Woken, or not done in the round before.
    due: Vec<PipeId>,
    /// To be written to in this round.
    touched: Vec<PipeId>,
    /// Ordered by time, since all wait equally long. Some may be over already.
    lingering: VecDeque<(Instant, PipeId)>,
    scratch: Box<[u8]>,
}

struct Pipe {
    bell: Arc<Bell>,
    waker: Waker,
    writing: Writing,
    /// The other side has sent its last byte.
    ended: bool,
    /// The node wants no more of it: what comes is thrown away, until then.
    let_go: Option<Instant>,
    /// The bell will ring: until then there is nothing to read, or no room to write.
    empty: bool,
    full: bool,
    /// Nothing can be written any more. What had arrived by then is still read before the node is told.
    broken: Option<io::ErrorKind>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// Dialling failed at once: the runtime does not know the pipe, and the node is notified in the next round.
    Refused(io::ErrorKind),
    Dialling {
        finish: bool,
    },
    Open,
    Finishing,
    Finished,
}

impl Pipe {
    const fn is_finishing(&self) -> bool {
        matches!(self.writing, Writing::Finishing | Writing::Finished)
    }

    const fn is_dialling(&self) -> bool {
        matches!(self.writing, Writing::Dialling { .. } | Writing::Refused(_))
    }

    /// The runtime forgets the pipe: orderly if its end was sent, else with a reset.
    fn end<I: Io>(&self, id: PipeId, io: &mut I) {
        match self.writing {
            Writing::Refused(_) => {}
            Writing::Dialling { .. } | Writing::Open | Writing::Finishing => io.reset(id),
            Writing::Finished => io.close(id),
        }
    }
}

impl Pipes {
    pub fn new(wakes: Arc<Wakes>) -> Self {
        Self {
            pipes: BTreeMap::new(),
            wakes,
            due: Vec::new(),
            touched: Vec::new(),
            lingering: VecDeque::new(),
            scratch: Box::new([0; SCRATCH]),
        }
    }

    /// A newcomer; false when its name is taken.
    pub fn open(&mut self, id: PipeId) -> bool {
        self.add(id, Writing::Open)
    }

    pub fn dial<I: Io>(&mut self, io: &mut I, id: PipeId, dial: &Dial) {
        if self.add(id, Writing::Dialling { finish: false })
            && let Err(error) = io.dial(id, dial)
            && let Some(pipe) = self.pipes.get_mut(&id)
        {
            pipe.writing = Writing::Refused(error.kind());
        }
    }

    fn add(&mut self, id: PipeId, writing: Writing) -> bool {
        if self.pipes.contains_key(&id) {
            tracing::error!(?id, "the name of a pipe was given twice");
            return false;
        }
        let bell = Bell::new(Name::Pipe(id), &self.wakes);
        let waker = bell.clone().into();
        let pipe = Pipe { bell, waker, writing, ended: false, let_go: None, empty: false, full: false, broken: None };
        self.pipes.insert(id, pipe);
        self.due.push(id);
        true
    }

    pub fn finish(&mut self, id: PipeId) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.writing = match pipe.writing {
            Writing::Refused(kind) => Writing::Refused(kind),
            Writing::Dialling { .. } => Writing::Dialling { finish: true },
            Writing::Open | Writing::Finishing => Writing::Finishing,
            Writing::Finished => Writing::Finished,
        };
        self.touched.push(id);
    }

    pub fn abort<I: Io>(&mut self, now: Instant, io: &mut I, id: PipeId) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        if !pipe.is_finishing() || pipe.let_go.is_some() {
            pipe.end(id, io);
            self.pipes.remove(&id);
            return;
        }
        let until = now.checked_add(LINGER).unwrap_or(now);
        pipe.let_go = Some(until);
        self.lingering.push_back((until, id));
        self.due.push(id);
    }

    pub fn ring(&mut self, id: PipeId) {
        if let Some(pipe) = self.pipes.get_mut(&id) {
            pipe.bell.rearm();
            (pipe.empty, pipe.full) = (false, false);
            self.due.push(id);
        }
    }

    /// What came since the last round. `nobody`: the node is closed, and what it doesn't want is thrown away.
    pub fn read<N: Node, I: Io>(&mut self, node: &mut N, io: &mut I, nobody: bool) -> bool {
        let now = io.now();
        while let Some((_, id)) = self.lingering.pop_front_if(|&mut (until, _)| until <= now) {
            if let Some(pipe) = self.pipes.get(&id)
                && pipe.let_go.is_some_and(|until| until <= now)
            {
                pipe.end(id, io);
                self.pipes.remove(&id);
            }
        }
        let mut due = std::mem::take(&mut self.due);
        due.sort_unstable();
        due.dedup();
        let mut moved = false;
        for &id in &due {
            match self.read_one(id, node, io, nobody) {
                Ok(any) => moved |= any,
                Err(error) => {
                    self.lose(id, &error, node, io);
                    moved = true;
                }
            }
        }
        self.touched.append(&mut due);
        moved
    }

    fn read_one<N: Node, I: Io>(&mut self, id: PipeId, node: &mut N, io: &mut I, nobody: bool) -> io::Result<bool> {
        let Some(pipe) = self.pipes.get_mut(&id) else { return Ok(false) };
        let cx = &mut Context::from_waker(&pipe.waker);
        let mut moved = false;
        if let Writing::Refused(kind) = pipe.writing {
            return Err(kind.into());
        }
        if let Writing::Dialling { finish } = pipe.writing {
            match io.poll_dialled(cx, id) {
                Poll::Pending => return Ok(false),
                Poll::Ready(result) => result?,
            }
            pipe.writing = if finish { Writing::Finishing } else { Writing::Open };
            node.handle_pipe(io.now(), id, PipeEvent::Up);
            moved = true;
        }
        for call in 0.. {
            if pipe.empty || pipe.ended {
                break;
            }
            let thrown = pipe.let_go.is_some() || (nobody && node.pipe_buffer(id).is_empty());
            let buffer = if thrown { &mut self.scratch } else { node.pipe_buffer(id) };
            if buffer.is_empty() {
                break;
            }
            if call == CALLS {
                self.due.push(id);
                break;
            }
            let result = match (io.poll_read(cx, id, buffer), pipe.broken) {
                (Poll::Ready(Ok(count)), _) if count > 0 => Ok(count),
                (_, Some(broken)) => return Err(broken.into()),
                (Poll::Ready(result), None) => result,
                (Poll::Pending, None) => {
                    pipe.empty = true;
                    break;
                }
            };
            let count = result?;
            moved = true;
            pipe.ended = count == 0;
            if !thrown {
                let event = if pipe.ended { PipeEvent::Eof } else { PipeEvent::Filled(count) };
                node.handle_pipe(io.now(), id, event);
            }
        }
        Ok(moved)
    }

    /// What the node has for the pipes that it names, and for those that were read. True
    /// when the node was told something.
    pub fn write<N: Node, I: Io>(&mut self, node: &mut N, io: &mut I) -> bool {
        while let Some(id) = node.poll_pipe() {
            let Some(pipe) = self.pipes.get(&id) else { continue };
            self.touched.push(id);
            let wants = !pipe.is_dialling() && !pipe.empty && !pipe.ended && pipe.let_go.is_none();
            if wants && !node.pipe_buffer(id).is_empty() {
                self.due.push(id);
            }
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        let mut told = false;
        for id in touched.drain(..) {
            match self.write_one(id, node, io) {
                Ok(any) => told |= any,
                Err(error) => {
                    self.cannot_write(id, &error, node, io);
                    told = true;
                }
            }
        }
        // Kept for its capacity.
        self.touched = touched;
        told
    }

    fn write_one<N: Node, I: Io>(&mut self, id: PipeId, node: &mut N, io: &mut I) -> io::Result<bool> {
        let Some(pipe) = self.pipes.get_mut(&id) else { return Ok(false) };
        let cx = &mut Context::from_waker(&pipe.waker);
        let mut told = false;
        for call in 0.. {
            if pipe.full || pipe.broken.is_some() || pipe.is_dialling() || pipe.writing == Writing::Finished {
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = node.pipe_output(id, &mut slices);
            let slices = slices.get(..count).unwrap_or(&slices);
            if slices.iter().all(|slice| slice.is_empty()) {
                if pipe.writing == Writing::Finishing {
                    io.finish(id);
                    pipe.writing = Writing::Finished;
                }
                break;
            }
            if call == CALLS {
                self.due.push(id);
                break;
            }
            match io.poll_write(cx, id, slices) {
                Poll::Pending => pipe.full = true,
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(result) => {
                    node.handle_pipe(io.now(), id, PipeEvent::Wrote(result?));
                    told = true;
                }
            }
        }
        if pipe.writing == Writing::Finished && pipe.ended {
            pipe.end(id, io);
            self.pipes.remove(&id);
        }
        Ok(told)
    }

    /// The other side's last words may have come before it closed, and are not lost with ours.
    fn cannot_write<N: Node, I: Io>(&mut self, id: PipeId, error: &io::Error, node: &mut N, io: &mut I) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        if pipe.ended || pipe.let_go.is_some() {
            return self.lose(id, error, node, io);
        }
        (pipe.broken, pipe.empty) = (Some(error.kind()), false);
        self.due.push(id);
    }

    fn lose<N: Node, I: Io>(&mut self, id: PipeId, error: &io::Error, node: &mut N, io: &mut I) {
        let Some(pipe) = self.pipes.remove(&id) else { return };
        pipe.end(id, io);
        if pipe.let_go.is_none() {
            node.handle_pipe(io.now(), id, PipeEvent::Failed(error.kind()));
        }
    }

    /// Whether the next round has something to do.
    pub fn has_more(&self) -> bool {
        !self.due.is_empty()
    }

    /// When the first of those that were let go has had its time.
    pub fn linger(&self) -> Option<Instant> {
        self.lingering.front().map(|&(until, _)| until)
    }

    /// Whether a pipe that the node has finished still has bytes to deliver, or the other side's end to hear.
    pub fn is_flushing(&self) -> bool {
        self.pipes.values().any(Pipe::is_finishing)
    }

    /// The node is closed: those that it has finished and no longer reads are read all the same.
    pub fn flush(&mut self) {
        self.due.extend(self.pipes.iter().filter(|(_, pipe)| pipe.is_finishing()).map(|(&id, _)| id));
    }

    pub fn end<I: Io>(&mut self, io: &mut I) {
        for (id, pipe) in std::mem::take(&mut self.pipes) {
            pipe.end(id, io);
        }
    }

    pub fn len(&self) -> usize {
        self.pipes.len()
    }
}
