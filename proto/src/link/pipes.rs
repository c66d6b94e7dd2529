//! All pipes of a node, as its owner and the driver see them: names, what touched which, deadlines, what to do with the sockets.
//!
//! ```text
//! dial ──► dialling ──Up──► carried ──(socket let go, and closed by the owner)──► forgotten
//! accept ──────────────────►
//! ```
//! What arrived can be read after the end of the pipe too; so the owner closes each pipe, also one that told [`Event::Closed`].
//! Decides nothing about a link: that is [`Pipe`]'s. A pipe is visited when it was touched, so that idle ones cost nothing.
//! Timers: those of the pipes. Bounds: the owner's, who makes every pipe.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::pipe::{Event, Fate, Pipe, Windows};
use super::{Read, Write};
use crate::Instant;
use crate::net::{Action, Dial, PipeEvent, PipeId};
use crate::pool::Pool;
use crate::ready::{Deadlines, ReadySet};

#[derive(Debug)]
struct Carried {
    pipe: Pipe,
    /// The TCP connection is there: before, there is nothing to read or write.
    up: bool,
    /// When it must be there.
    up_by: Option<Instant>,
    /// The driver knows the name.
    known: bool,
    /// The owner closed it.
    left: bool,
    /// [`Pipes::probe`] was called, and nothing has arrived since.
    probed: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Pipes {
    pipes: BTreeMap<PipeId, Carried>,
    last_id: u32,
    /// Touched since the last [`Self::settle`].
    touched: ReadySet<PipeId>,
    /// For the driver to look at.
    ready: ReadySet<PipeId>,
    deadlines: Deadlines<PipeId>,
    events: VecDeque<(PipeId, Event)>,
    /// Probed pipes that were heard.
    answered: VecDeque<PipeId>,
    actions: VecDeque<Action>,
    #[cfg(test)]
    visits: u64,
}

impl Default for Pipes {
    fn default() -> Self {
        Self::new()
    }
}

impl Pipes {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pipes: BTreeMap::new(),
            last_id: 0,
            touched: ReadySet::new(),
            ready: ReadySet::new(),
            deadlines: Deadlines::new(),
            events: VecDeque::new(),
            answered: VecDeque::new(),
            actions: VecDeque::new(),
            #[cfg(test)]
            visits: 0,
        }
    }

    /// A pipe of ours: the TCP connection is asked for.
    pub fn dial(&mut self, pipe: Pipe, to: SocketAddr) -> PipeId {
        let id = self.adopt(pipe, false);
        self.actions.push_back(Action::Dial(id, Dial::from(to)));
        id
    }

    /// The same, given up where the TCP connection is not there in time: a plain pipe does not see that itself.
    pub fn dial_until(&mut self, pipe: Pipe, to: SocketAddr, up_by: Instant) -> PipeId {
        let id = self.dial(pipe, to);
        if let Some(carried) = self.pipes.get_mut(&id) {
            carried.up_by = Some(up_by);
        }
        id
    }

    /// A pipe of a client: the TCP connection is there.
    pub fn accept(&mut self, pipe: Pipe) -> PipeId {
        self.adopt(pipe, true)
    }

    fn adopt(&mut self, pipe: Pipe, up: bool) -> PipeId {
        self.last_id = self.last_id.wrapping_add(1);
        let id = PipeId(self.last_id);
        self.pipes.insert(id, Carried { pipe, up, up_by: None, known: true, left: false, probed: false });
        self.touched.mark(id);
        id
    }

    /// What the driver tells.
    pub fn handle_pipe(&mut self, now: Instant, id: PipeId, event: PipeEvent) {
        let Some(carried) = self.pipes.get_mut(&id) else { return };
        match event {
            PipeEvent::Up => (carried.up, carried.up_by) = (true, None),
            PipeEvent::Filled(count) => {
                carried.pipe.handle_filled(now, count);
                if std::mem::take(&mut carried.probed) {
                    self.answered.push_back(id);
                }
            }
            PipeEvent::Wrote(count) => carried.pipe.handle_wrote(now, count),
            PipeEvent::Eof => carried.pipe.handle_eof(),
            PipeEvent::Failed(_) => {
                carried.known = false;
                carried.pipe.handle_failed();
            }
        }
        self.touched.mark(id);
    }

    /// Deadlines may have come. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.deadlines.take_due(now) {
            if let Some(carried) = self.pipes.get_mut(&id) {
                carried.pipe.handle_timeout(now);
                if carried.up_by.take_if(|up_by| *up_by <= now).is_some() {
                    carried.pipe.handle_failed();
                }
                self.touched.mark(id);
            }
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Moves what was touched on: events, deadlines, sockets that are let go. Once per batch of inputs.
    pub fn settle(&mut self) {
        while let Some(id) = self.touched.take() {
            let Some(carried) = self.pipes.get_mut(&id) else { continue };
            #[cfg(test)]
            {
                self.visits = self.visits.wrapping_add(1);
            }
            while let Some(event) = carried.pipe.poll_event() {
                self.events.push_back((id, event));
            }
            if carried.pipe.poll_touched() || carried.up {
                self.ready.mark(id);
            }
            self.deadlines.set(id, [carried.pipe.poll_timeout(), carried.up_by].into_iter().flatten().min());
            match carried.pipe.fate() {
                Fate::Live => {}
                // A careful close: what waits is written, what still arrives is thrown away, for a second at most.
                Fate::Finish if carried.known => {
                    self.actions.extend([Action::Finish(id), Action::Abort(id)]);
                    carried.known = false;
                }
                Fate::Abort if carried.known => {
                    self.actions.push_back(Action::Abort(id));
                    carried.known = false;
                }
                Fate::Finish | Fate::Abort => {}
            }
            if carried.left && !carried.known {
                self.pipes.remove(&id);
                self.deadlines.set(id, None);
            }
        }
    }

    /// The next event of any pipe.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<(PipeId, Event)> {
        self.events.pop_front()
    }

    /// The next thing for the driver.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// See [`crate::node::Node::poll_pipe`].
    #[must_use]
    pub fn poll_pipe(&mut self) -> Option<PipeId> {
        self.ready.take()
    }

    /// See [`crate::node::Node::pipe_buffer`].
    #[must_use]
    pub fn buffer(&mut self, id: PipeId) -> &mut [u8] {
        match self.pipes.get_mut(&id) {
            Some(carried) if carried.up => carried.pipe.read_buffer(),
            Some(_) | None => &mut [],
        }
    }

    /// See [`crate::node::Node::pipe_output`].
    #[must_use]
    pub fn output<'a>(&'a self, id: PipeId, slices: &mut [IoSlice<'a>]) -> usize {
        match self.pipes.get(&id) {
            Some(carried) if carried.up => carried.pipe.output(slices),
            Some(_) | None => 0,
        }
    }

    /// See [`Pipe::read`].
    pub fn read(&mut self, id: PipeId) -> Read {
        let Some(carried) = self.pipes.get_mut(&id) else { return Read::Gone };
        self.touched.mark(id);
        carried.pipe.read()
    }

    /// See [`Pipe::assemble`].
    pub fn assemble(&mut self, id: PipeId, buffers: &Arc<Pool>) {
        if let Some(carried) = self.pipes.get_mut(&id) {
            carried.pipe.assemble(Arc::clone(buffers));
        }
    }

    /// Asks the other end for a sign of life: [`Self::poll_answered`] names the pipe once anything arrives on it.
    /// False: it was heard since `fresh`, or what runs in it has no question that must be answered.
    #[must_use]
    pub fn probe(&mut self, now: Instant, id: PipeId, fresh: Instant) -> bool {
        let Some(carried) = self.pipes.get_mut(&id) else { return false };
        carried.probed = carried.pipe.probe(now, fresh);
        self.touched.mark(id);
        carried.probed
    }

    /// The next pipe that was heard after a [`Self::probe`].
    #[must_use]
    pub fn poll_answered(&mut self) -> Option<PipeId> {
        self.answered.pop_front()
    }

    /// See [`Pipe::is_silent`].
    #[must_use]
    pub fn is_silent(&self, id: PipeId) -> bool {
        self.pipes.get(&id).is_some_and(|carried| carried.pipe.is_silent())
    }

    /// See [`Pipe::assembling`].
    #[must_use]
    pub fn assembling(&self, id: PipeId) -> usize {
        self.pipes.get(&id).map_or(0, |carried| carried.pipe.assembling())
    }

    /// See [`Pipe::write`].
    pub fn write(&mut self, now: Instant, id: PipeId, data: &mut Bytes) -> Write {
        let Some(carried) = self.pipes.get_mut(&id) else { return Write::Gone };
        self.touched.mark(id);
        carried.pipe.write(now, data)
    }

    /// See [`Pipe::finish`].
    pub fn finish(&mut self, now: Instant, id: PipeId) {
        self.finish_with(now, id, 0, "");
    }

    /// See [`Pipe::finish_with`].
    pub fn finish_with(&mut self, now: Instant, id: PipeId, code: u32, reason: &'static str) {
        if let Some(carried) = self.pipes.get_mut(&id) {
            carried.pipe.finish_with(now, code, reason);
            self.touched.mark(id);
        }
    }

    /// See [`Pipe::close`]. The name means nothing from now on.
    pub fn close(&mut self, now: Instant, id: PipeId, code: u32, reason: &'static str) {
        if let Some(carried) = self.pipes.get_mut(&id) {
            carried.pipe.close(now, code, reason);
            carried.left = true;
            self.touched.mark(id);
        }
    }

    /// See [`Pipe::set_windows`].
    pub fn set_windows(&mut self, id: PipeId, windows: Windows) {
        if let Some(carried) = self.pipes.get_mut(&id) {
            carried.pipe.set_windows(windows);
            self.touched.mark(id);
        }
    }

    /// Changes how much may wait to be read, in bytes.
    pub fn set_receive_window(&mut self, id: PipeId, bytes: usize) {
        if let Some(carried) = self.pipes.get(&id) {
            let send = carried.pipe.windows().send;
            self.set_windows(id, Windows { receive: bytes, send });
        }
    }

    /// Changes how much may wait for the socket, in bytes.
    pub fn set_send_window(&mut self, id: PipeId, bytes: usize) {
        if let Some(carried) = self.pipes.get(&id) {
            let receive = carried.pipe.windows().receive;
            self.set_windows(id, Windows { receive, send: bytes });
        }
    }

    /// How often a pipe was looked at: tests check that it does not depend on how many there are.
    #[cfg(test)]
    pub const fn visits(&self) -> u64 {
        self.visits
    }

    /// How many pipes there are, those that are on their way out with them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pipes.len()
    }

    /// Whether there are none: all is written and let go, and the driver knows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pipes.is_empty() && self.actions.is_empty()
    }
}
