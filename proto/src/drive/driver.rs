//! The loop: what came is given to the node, what the node wants is given to the runtime.
//!
//! A round, in this order:
//! 1. the inbox: finished jobs free memory; then commands;
//! 2. arrivals, of each socket in turn, the first socket rotating;
//! 3. `settle`, once for all that came;
//! 4. actions, jobs, transmits (a blocked one is kept for its socket, and holds up that socket only), events;
//! 5. the timer, so that after a pause the packets that waited are heard before their deadline is judged.
//!
//! Rounds go on while something moves; after [`ROUNDS`] the task wakes itself and yields to its neighbours.
//!
//! Bounds: [`DATAGRAMS_IN`] and [`DATAGRAMS_OUT`] for each socket and round, [`SLOTS`] receive buffers of [`SLOT`] bytes for
//! all sockets together, one buffer for the batch that a socket is sending. A datagram is copied once, out of its slot.
//! Timers of its own: [`REST`] for a socket that only fails, [`FLUSH`] for the last transmits of a closed node.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;

use super::inbox::{Handle, Inbox};
use super::io::{Io, Received};
use crate::Instant;
use crate::node::{Action, Arrival, Input, Node, SocketId, Transmit};

/// Rounds before the task yields.
const ROUNDS: usize = 4;
/// Datagrams taken from a socket in one round. The last call may go beyond it by what the system joined in its slots.
const DATAGRAMS_IN: usize = 128;
/// Datagrams sent by a socket in one round, before the last batch.
const DATAGRAMS_OUT: usize = 64;
/// Buffers offered to the system in one receive call. The system fills them from the first on, so those beyond what a load
/// needs are never touched and take no memory.
const SLOTS: usize = 8;
/// Size of one of them: as much as the system joins (GRO), and any single datagram.
const SLOT: usize = 64 << 10;
/// Failed receive calls in a row that make a socket rest. A single failure is an echo of something we sent (ICMP).
const FAILURES: u32 = 16;
/// How long it rests.
const REST: Duration = Duration::from_millis(100);
/// How long a closed node's last transmits may wait for room in their socket.
const FLUSH: Duration = Duration::from_secs(1);
/// Rounds in a row that may put off the timer because arrivals still wait: about as many as a socket's buffer holds.
const PUT_OFF: u32 = 32;

/// A node and its runtime.
///
/// Dropping it ends everything at once: running jobs stop at their next step, the handle hears the end, and the other side
/// hears nothing. To end with a goodbye, drop the [`Handle`] and let the driver run.
pub struct Driver<N: Node, I: Io> {
    node: N,
    io: I,
    inbox: Arc<Inbox<N>>,
    /// Empty between rounds; kept for their capacity.
    inputs: VecDeque<Input>,
    /// Likewise.
    commands: VecDeque<N::Command>,
    sockets: Vec<Socket>,
    slots: Vec<u8>,
    /// An event that found no room.
    held: Option<N::Event>,
    /// What the runtime's timer is set to; never later than the next deadline.
    armed: Option<Instant>,
    put_off: u32,
    /// The node is closed, and this is how long its last transmits may take.
    flush_by: Option<Instant>,
    over: bool,
    cancelled: Arc<AtomicBool>,
    turn: usize,
}

struct Socket {
    id: SocketId,
    /// The batch that is being sent.
    out: Vec<u8>,
    /// It found no room: the same will be tried again.
    blocked: Option<Transmit>,
    /// The runtime will wake the task: until then there is nothing to receive, or no room to send.
    empty: bool,
    full: bool,
    /// Receive calls in a row that failed.
    failures: u32,
    resting_until: Option<Instant>,
    /// More may wait than this round took.
    more: bool,
}

impl<N: Node + 'static, I: Io + 'static> Driver<N, I> {
    /// Joins the two. Nothing happens until the driver is polled.
    pub fn new(node: N, io: I) -> (Handle<N>, Self) {
        let inbox = Arc::new(Inbox::new());
        let handle = Handle::new(inbox.clone());
        let driver = Self {
            node,
            io,
            inbox,
            inputs: VecDeque::new(),
            commands: VecDeque::new(),
            sockets: Vec::new(),
            slots: Vec::new(),
            held: None,
            armed: None,
            put_off: 0,
            flush_by: None,
            over: false,
            cancelled: Arc::default(),
            turn: 0,
        };
        (handle, driver)
    }

    /// Drives to the end: what a runtime spawns.
    pub async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }

    /// Does what can be done now; ready once the node is closed and its last bytes are with the system.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.over {
            return Poll::Ready(());
        }
        self.turn = self.turn.wrapping_add(1);
        for socket in &mut self.sockets {
            (socket.empty, socket.full) = (false, false);
        }
        for _ in 0..ROUNDS {
            let mut moved = self.take_inbox(cx);
            moved |= self.receive(cx);
            let now = self.io.now();
            self.node.settle(now);
            moved |= self.act(now);
            moved |= self.start_jobs();
            moved |= self.transmit(cx, now);
            moved |= self.tell_events();
            if self.has_ended(now) {
                return Poll::Ready(());
            }
            moved |= self.watch_the_clock(cx);
            if !moved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take_inbox(&mut self, cx: &Context<'_>) -> bool {
        self.inbox.collect(cx, &mut self.inputs, &mut self.commands);
        let moved = !self.inputs.is_empty() || !self.commands.is_empty();
        let now = self.io.now();
        for input in self.inputs.drain(..) {
            self.node.handle_input(now, input);
        }
        for command in self.commands.drain(..) {
            if let Err(misuse) = self.node.handle_command(now, command) {
                self.inbox.complain(misuse);
            }
        }
        moved
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let first = self.turn.checked_rem(self.sockets.len()).unwrap_or_default();
        let (late, early) = self.sockets.split_at_mut(first);
        let mut moved = false;
        for socket in early.iter_mut().chain(late) {
            moved |= socket.receive(cx, &mut self.node, &mut self.io, &mut self.slots);
        }
        moved
    }

    fn act(&mut self, now: Instant) -> bool {
        let (mut moved, mut answers) = (false, Vec::new());
        while let Some(action) = self.node.poll_action() {
            moved = true;
            match action {
                Action::Bind(id, bind) => {
                    let bound = if self.sockets.iter().any(|socket| socket.id == id) {
                        Err(std::io::ErrorKind::AlreadyExists)
                    } else {
                        self.io.bind(id, &bind).map_err(|error| error.kind())
                    };
                    if bound.is_ok() {
                        self.sockets.push(Socket::new(id));
                        if self.slots.is_empty() {
                            self.slots = vec![0; SLOTS.saturating_mul(SLOT)];
                        }
                    }
                    answers.push(Input::Bound(id, bound));
                }
                Action::Release(id) => {
                    self.sockets.retain(|socket| socket.id != id);
                    self.io.release(id);
                }
                Action::Resolve(query, host, port) => {
                    let inbox = self.inbox.clone();
                    self.io.run_blocking(Box::new(move || {
                        inbox.tell(Input::Resolved(query, I::lookup(&host, port)));
                    }));
                }
            }
        }
        if !answers.is_empty() {
            for answer in answers {
                self.node.handle_input(now, answer);
            }
            self.node.settle(now);
        }
        moved
    }

    fn start_jobs(&mut self) -> bool {
        let mut moved = false;
        while let Some(job) = self.node.poll_job() {
            moved = true;
            let (inbox, cancelled) = (self.inbox.clone(), self.cancelled.clone());
            self.io.run_blocking(Box::new(move || inbox.tell(Input::Done(job.run(&cancelled)))));
        }
        moved
    }

    fn transmit(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut moved = false;
        for socket in &mut self.sockets {
            moved |= socket.transmit(cx, now, &mut self.node, &mut self.io);
        }
        moved
    }

    fn tell_events(&mut self) -> bool {
        let mut moved = false;
        while let Some(event) = self.held.take().or_else(|| self.node.poll_event()) {
            if let Err(event) = self.inbox.offer(event) {
                self.held = Some(event);
                break;
            }
            moved = true;
        }
        moved
    }

    /// Whether the node is closed and its last bytes are out, or have had their time. No event is left behind.
    fn has_ended(&mut self, now: Instant) -> bool {
        if !self.node.is_closed() {
            self.flush_by = None;
            return false;
        }
        let by = *self.flush_by.get_or_insert_with(|| now.checked_add(FLUSH).unwrap_or(now));
        if now < by && self.sockets.iter().any(|socket| socket.blocked.is_some()) {
            return false;
        }
        while let Some(event) = self.held.take().or_else(|| self.node.poll_event()) {
            self.inbox.put_last(event);
        }
        self.end();
        true
    }

    fn watch_the_clock(&mut self, cx: &mut Context<'_>) -> bool {
        if self.put_off < PUT_OFF && self.sockets.iter().any(|socket| socket.more) {
            self.put_off = self.put_off.saturating_add(1);
            return true;
        }
        self.put_off = 0;
        let deadline = self.node.poll_timeout().map(|(at, _)| at);
        let rests = self.sockets.iter().filter_map(|socket| socket.resting_until);
        let Some(at) = rests.chain(deadline).chain(self.flush_by).min() else { return false };
        // A later deadline leaves the timer alone: QUIC moves its deadlines with every packet, and waking early is cheap.
        while self.io.now() < at {
            let armed = self.armed.map_or(at, |armed| armed.min(at));
            if self.io.poll_timer(cx, armed).is_pending() {
                self.armed = Some(armed);
                return false;
            }
            self.armed = None;
            if armed == at {
                break;
            }
        }
        self.node.handle_timeout(self.io.now());
        true
    }
}

impl<N: Node, I: Io> Driver<N, I> {
    fn end(&mut self) {
        self.over = true;
        self.cancelled.store(true, Ordering::Relaxed);
        self.inbox.close();
    }
}

/// Also when the runtime throws the task away.
impl<N: Node, I: Io> Drop for Driver<N, I> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<N: Node, I: Io> std::fmt::Debug for Driver<N, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("sockets", &self.sockets.len()).field("over", &self.over).finish_non_exhaustive()
    }
}

impl Socket {
    const fn new(id: SocketId) -> Self {
        Self {
            id,
            out: Vec::new(),
            blocked: None,
            empty: false,
            full: false,
            failures: 0,
            resting_until: None,
            more: false,
        }
    }

    fn receive<N: Node, I: Io>(&mut self, cx: &mut Context<'_>, node: &mut N, io: &mut I, slots: &mut [u8]) -> bool {
        self.more = false;
        if self.empty || self.resting_until.is_some_and(|until| io.now() < until) {
            return false;
        }
        self.resting_until = None;
        let mut taken = 0_usize;
        while taken < DATAGRAMS_IN {
            let mut chunks = slots.chunks_mut(SLOT);
            let mut bufs: [_; SLOTS] = std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            let mut received = [Received::NONE; SLOTS];
            let count = match io.poll_recv(cx, self.id, &mut bufs, &mut received) {
                Poll::Pending => {
                    self.empty = true;
                    return taken > 0;
                }
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => {
                    tracing::trace!(kind = ?error.kind(), "receiving failed");
                    taken = taken.saturating_add(1);
                    self.failures = self.failures.saturating_add(1);
                    if self.failures < FAILURES {
                        continue;
                    }
                    self.resting_until = io.now().checked_add(REST);
                    return true;
                }
            };
            self.failures = 0;
            let now = io.now();
            for (received, slot) in received.iter().zip(&bufs).take(count) {
                // The one copy: what is kept is then as large as what came.
                let mut rest = BytesMut::from(slot.get(..received.len).unwrap_or(slot));
                let arrival =
                    Arrival { socket: self.id, from: received.from, local_ip: received.local_ip, ecn: received.ecn };
                taken = taken.saturating_add(1);
                while rest.len() > received.stride && received.stride > 0 {
                    node.handle_datagram(now, arrival, rest.split_to(received.stride));
                    taken = taken.saturating_add(1);
                }
                node.handle_datagram(now, arrival, rest);
            }
        }
        self.more = true;
        true
    }

    fn transmit<N: Node, I: Io>(&mut self, cx: &mut Context<'_>, now: Instant, node: &mut N, io: &mut I) -> bool {
        let mut sent = 0_usize;
        while sent < DATAGRAMS_OUT && !self.full {
            let transmit = self.blocked.take().or_else(|| {
                self.out.clear();
                node.poll_transmit(now, self.id, io.max_segments(self.id), &mut self.out)
            });
            let Some(transmit) = transmit else { break };
            let contents = self.out.get(..transmit.size).unwrap_or(&self.out);
            match io.poll_send(cx, self.id, &transmit, contents) {
                Poll::Pending => {
                    self.blocked = Some(transmit);
                    self.full = true;
                }
                Poll::Ready(Ok(())) => {}
                // Packet loss, for whoever waits for an answer. A probe for a larger MTU ends like this.
                Poll::Ready(Err(error)) => {
                    tracing::trace!(kind = ?error.kind(), size = transmit.size, "sending failed")
                }
            }
            let segment = transmit.segment_size.filter(|&segment| segment > 0).unwrap_or(transmit.size.max(1));
            sent = sent.saturating_add(transmit.size.div_ceil(segment).max(1));
        }
        sent > 0
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
