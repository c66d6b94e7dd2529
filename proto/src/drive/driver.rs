//! The loop: what came is given to the node, what the node wants is given to the runtime.
//!
//! A round, in this order:
//! 1. the inbox: finished jobs free memory; then commands, news of the machine, and answers of the name service;
//! 2. arrivals, of each socket in turn, the first socket rotating; newcomers; then what the TCP connections that were woken have;
//! 3. `settle`, once for all that came;
//! 4. actions, jobs, transmits (a blocked one is kept for its socket, and holds up that socket only), TCP connections, events;
//! 5. the timer, so that after a pause the packets that waited are heard before their deadline is judged.
//!
//! Rounds go on while something moves; after [`ROUNDS`] the task wakes itself and yields to its neighbours.
//!
//! Bounds: those of [`sockets`], [`listeners`] and [`TCP connections`] for one round. Timers of its own: [`REST`] for a socket or
//! listener that only fails, [`FLUSH`] for the last bytes of a closed node, and that of TCP connections that were let go.

mod listeners;
mod sockets;
mod tcp;
mod wakes;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use self::listeners::Listeners;
use self::sockets::{SLOT, SLOTS, Socket};
use self::tcp::TcpConnections;
use self::wakes::{Name, Wakes};
use super::inbox::{Ending, Handle, Inbox};
use super::io::Io;
use crate::Instant;
use crate::net::Action;
use crate::node::{Input, Node};

/// Rounds before the task yields.
const ROUNDS: usize = 4;
/// Failed receive calls in a row that make a socket rest. A single failure is an echo of something we sent (ICMP).
const FAILURES: u32 = 16;
/// How long it rests; a listener likewise.
const REST: Duration = Duration::from_millis(100);
/// How long a closed node's last transmits may wait for room in their socket, and its finished
/// TCP connections for the other side's end.
const FLUSH: Duration = Duration::from_secs(1);
/// A deadline that passed longer ago was missed because others had the processor. The runtime may know of what arrived
/// meanwhile only once it had a turn itself, which its timer tells.
const LATE: Duration = Duration::from_millis(20);
/// Rounds in a row that may put off the timer because arrivals still wait: about as many as a socket's buffer holds.
const PUT_OFF: u32 = 32;

/// A node and its runtime.
///
/// Dropping it ends everything at once: running jobs stop at their next step, the handle reports [`Ending::Dropped`],
/// and the other side receives nothing. To end with a goodbye, drop the [`Handle`] and let the driver run.
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
    listeners: Listeners,
    tcp_connections: TcpConnections,
    wakes: Arc<Wakes>,
    /// Empty between rounds; kept for its capacity.
    rung: Vec<Name>,
    /// The runtime will wake the task when there is news.
    no_news: bool,
    /// Queries to the name service without an answer yet.
    unanswered: usize,
    /// The runtime will wake the task when one of them is answered.
    no_answers: bool,
    /// An event that found no room.
    held: Option<N::Event>,
    /// What the runtime's timer is set to; never later than the next deadline.
    armed: Option<Instant>,
    put_off: u32,
    /// When the sockets were looked at last, before anything was taken from them: what arrived by then is known to the
    /// node.
    looked: Instant,
    /// The node is closed, and this is how long its last transmits may take.
    flush_by: Option<Instant>,
    over: bool,
    cancelled: Arc<AtomicBool>,
    turn: usize,
}

impl<N: Node + 'static, I: Io> Driver<N, I> {
    /// Joins the two. Nothing happens until the driver is polled.
    pub fn new(node: N, io: I) -> (Handle<N>, Self) {
        let (inbox, looked) = (Arc::new(Inbox::new()), io.now());
        let handle = Handle::new(inbox.clone());
        let wakes = Arc::<Wakes>::default();
        let driver = Self {
            node,
            io,
            inbox,
            inputs: VecDeque::new(),
            commands: VecDeque::new(),
            sockets: Vec::new(),
            slots: Vec::new(),
            listeners: Listeners::default(),
            tcp_connections: TcpConnections::new(wakes.clone()),
            wakes,
            rung: Vec::new(),
            no_news: false,
            unanswered: 0,
            no_answers: false,
            held: None,
            armed: None,
            put_off: 0,
            looked,
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
    ///
    /// A panic of the node or of the runtime's [`Io`] ends the driver, which is ready then: after it neither can be
    /// relied on. The [`Handle`] reports [`Ending::Panicked`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.over {
            return Poll::Ready(());
        }
        // Nothing of the node is used after a panic but its events that were taken before, so no broken state is seen.
        match catch_unwind(AssertUnwindSafe(|| self.go_on(cx))) {
            Ok(polled) => polled,
            Err(_) => {
                tracing::error!("the node panicked; it has ended, and so have its connections");
                self.end(Ending::Panicked);
                Poll::Ready(())
            }
        }
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.turn = self.turn.wrapping_add(1);
        for socket in &mut self.sockets {
            (socket.empty, socket.full) = (false, false);
        }
        (self.no_news, self.no_answers) = (false, false);
        for _ in 0..ROUNDS {
            if self.sockets.iter().all(|socket| !socket.empty) {
                self.looked = self.io.now();
            }
            let mut moved = self.take_inbox(cx);
            moved |= self.take_news(cx);
            moved |= self.take_answers(cx);
            moved |= self.receive(cx);
            moved |= self.serve_the_woken(cx);
            let now = self.io.now();
            self.node.settle(now);
            moved |= self.act(now);
            moved |= self.start_jobs();
            moved |= self.transmit(cx, now);
            moved |= self.write_tcp(now);
            moved |= self.report_events();
            if self.has_ended(now) {
                return Poll::Ready(());
            }
            moved |= self.watch_the_clock(cx);
            moved |= self.tcp_connections.has_more() || self.listeners.has_more();
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

    fn take_news(&mut self, cx: &mut Context<'_>) -> bool {
        if self.no_news {
            return false;
        }
        match self.io.poll_news(cx) {
            Poll::Pending => {
                self.no_news = true;
                false
            }
            Poll::Ready(news) => {
                self.node.handle_input(self.io.now(), news);
                true
            }
        }
    }

    fn take_answers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while self.unanswered > 0 && !self.no_answers {
            match self.io.poll_resolved(cx) {
                Poll::Pending => self.no_answers = true,
                Poll::Ready((query, addresses)) => {
                    self.unanswered = self.unanswered.saturating_sub(1);
                    self.node.handle_input(self.io.now(), Input::Resolved(query, addresses));
                    moved = true;
                }
            }
        }
        moved
    }

    fn serve_the_woken(&mut self, cx: &Context<'_>) -> bool {
        self.wakes.collect(cx, &mut self.rung);
        for name in self.rung.drain(..) {
            match name {
                Name::Listener(id) => self.listeners.ring(id),
                Name::Tcp(id) => self.tcp_connections.ring(id),
            }
        }
        let mut moved = self.listeners.accept(&mut self.node, &mut self.io, &mut self.tcp_connections);
        moved |= self.tcp_connections.read(&mut self.node, &mut self.io, self.flush_by.is_some());
        moved
    }

    fn write_tcp(&mut self, now: Instant) -> bool {
        let told = self.tcp_connections.write(&mut self.node, &mut self.io);
        if told {
            self.node.settle(now);
        }
        told
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
                Action::Listen(id, listen) => {
                    let listening = if self.listeners.contains(id) {
                        Err(std::io::ErrorKind::AlreadyExists)
                    } else {
                        self.io.listen(id, &listen).map_err(|error| error.kind())
                    };
                    if listening.is_ok() {
                        self.listeners.add(id, &self.wakes);
                    }
                    answers.push(Input::Listening(id, listening));
                }
                Action::Unlisten(id) => {
                    self.listeners.remove(id);
                    self.io.unlisten(id);
                }
                Action::Dial(id, dial) => self.tcp_connections.dial(&mut self.io, id, &dial),
                Action::Finish(id) => self.tcp_connections.finish(id),
                Action::Abort(id) => self.tcp_connections.abort(now, &mut self.io, id),
                Action::Resolve(query, host, port) => {
                    self.unanswered = self.unanswered.saturating_add(1);
                    self.no_answers = false;
                    self.io.resolve(query, &host, port);
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

    fn report_events(&mut self) -> bool {
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
        let by = match self.flush_by {
            Some(by) => by,
            None => {
                self.tcp_connections.flush();
                *self.flush_by.insert(now.checked_add(FLUSH).unwrap_or(now))
            }
        };
        if now < by
            && (self.tcp_connections.is_flushing() || self.sockets.iter().any(|socket| socket.blocked.is_some()))
        {
            return false;
        }
        self.tcp_connections.end(&mut self.io);
        while let Some(event) = self.held.take().or_else(|| self.node.poll_event()) {
            self.inbox.put_last(event);
        }
        self.end(Ending::Closed);
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
        let rests = rests.chain(self.listeners.rests()).chain(self.tcp_connections.linger());
        let Some(at) = rests.chain(deadline).chain(self.flush_by).min() else { return false };
        // A later deadline leaves the timer alone: QUIC moves its deadlines with every packet, and waking early
        // is cheap. A deadline is judged after what arrived before it was read, however long the node, or
        // others, had the processor since.
        while self.io.now() < at || at.checked_add(LATE).is_some_and(|late| self.looked < at && late <= self.io.now()) {
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
        if self.looked < at {
            self.sockets.iter_mut().for_each(|socket| socket.empty = false);
            return true;
        }
        self.node.handle_timeout(self.io.now());
        true
    }
}

impl<N: Node, I: Io> Driver<N, I> {
    fn end(&mut self, ending: Ending) {
        self.over = true;
        self.cancelled.store(true, Ordering::Relaxed);
        self.inbox.close(ending);
    }
}

/// Also when the runtime throws the task away.
impl<N: Node, I: Io> Drop for Driver<N, I> {
    fn drop(&mut self) {
        self.end(Ending::Dropped);
    }
}

impl<N: Node, I: Io> std::fmt::Debug for Driver<N, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sockets, tcp_connections) = (self.sockets.len(), self.tcp_connections.len());
        let mut shown = f.debug_struct("Driver");
        shown
            .field("sockets", &sockets)
            .field("tcp_connections", &tcp_connections)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod tcp_tests;
