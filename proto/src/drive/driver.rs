//! The loop of a driver: it passes inputs to the node, and the node's requests to the runtime.
//!
//! A round, in this order:
//! 1. the inbox: finished jobs free memory; then commands, system events, and answers of the name service;
//! 2. received datagrams of each socket in turn (the first socket rotates); new connections; then the received bytes of
//!    the TCP connections that were woken;
//! 3. `settle`, once for all inputs;
//! 4. actions, jobs, transmits (a blocked one is kept for its socket, and blocks only that socket), TCP connections,
//!    events;
//! 5. the timer. It is last, so that after a pause the waiting packets are received before their deadline is checked.
//!
//! Rounds continue while there is progress; after [`ROUNDS`] the task wakes itself and yields to other tasks.
//!
//! Bounds: those of [`sockets`], [`listeners`] and [`tcp`] for one round. Timers of its own: [`REST`] for a socket or
//! listener that only fails, [`FLUSH`] for the last bytes of a closed node, and the linger time of TCP connections that
//! the node finished.

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
/// The number of consecutive failed receive calls after which a socket pauses. A single failure is the echo of a sent
/// datagram (ICMP).
const FAILURES: u32 = 16;
/// The pause of a socket, and of a listener.
const REST: Duration = Duration::from_millis(100);
/// How long the last transmits of a closed node may wait for room in their socket, and its finished TCP connections for
/// the other side's end.
const FLUSH: Duration = Duration::from_secs(1);
/// A deadline that passed longer ago than this was missed because other tasks used the processor. The runtime may
/// notice packets that arrived meanwhile only after a turn of its own; when its timer fires, it has had that turn.
const LATE: Duration = Duration::from_millis(20);
/// The most consecutive rounds in which waiting packets may postpone the timer: about as many as a socket's buffer
/// holds.
const PUT_OFF: u32 = 32;

/// A node and its runtime.
///
/// Dropping it ends everything at once: running jobs stop at their next step, the handle reports [`Ending::Dropped`],
/// and the other side receives nothing. For an orderly end, drop the [`Handle`] and let the driver run.
pub struct Driver<N: Node, I: Io> {
    node: N,
    io: I,
    inbox: Arc<Inbox<N>>,
    /// Empty between rounds; kept for its capacity.
    inputs: VecDeque<Input>,
    /// Empty between rounds; kept for its capacity.
    commands: VecDeque<N::Command>,
    sockets: Vec<Socket>,
    slots: Vec<u8>,
    listeners: Listeners,
    tcp_connections: TcpConnections,
    wakes: Arc<Wakes>,
    /// Empty between rounds; kept for its capacity.
    woken: Vec<Name>,
    /// The runtime will wake the task when a system event arrives.
    no_news: bool,
    /// Queries to the name service without an answer yet.
    unanswered: usize,
    /// The runtime will wake the task when one of them is answered.
    no_answers: bool,
    /// An event for which the queue had no room.
    held: Option<N::Event>,
    /// The present setting of the runtime's timer; never later than the next deadline.
    armed: Option<Instant>,
    put_off: u32,
    /// When the sockets were last polled, measured before any datagram was taken. The node has received everything that
    /// arrived before.
    last_polled: Instant,
    /// Set once the node is closed: the deadline for its last transmits.
    flush_by: Option<Instant>,
    over: bool,
    cancelled: Arc<AtomicBool>,
    turn: usize,
}

impl<N: Node + 'static, I: Io> Driver<N, I> {
    /// Connects a node and its runtime. Nothing happens until the driver is polled.
    pub fn new(node: N, io: I) -> (Handle<N>, Self) {
        let (inbox, last_polled) = (Arc::new(Inbox::new()), io.now());
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
            woken: Vec::new(),
            no_news: false,
            unanswered: 0,
            no_answers: false,
            held: None,
            armed: None,
            put_off: 0,
            last_polled,
            flush_by: None,
            over: false,
            cancelled: Arc::default(),
            turn: 0,
        };
        (handle, driver)
    }

    /// Runs the driver to its end. A runtime spawns this.
    pub async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }

    /// Does all work that is possible now. Ready once the node is closed and the system has accepted its last bytes.
    ///
    /// A panic of the node or of the runtime's [`Io`] ends the driver: `poll` returns ready, because neither is in a
    /// reliable state. The [`Handle`] reports [`Ending::Panicked`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.over {
            return Poll::Ready(());
        }
        // After a panic nothing of the node is used except the events that were already taken, so no broken state is
        // visible.
        match catch_unwind(AssertUnwindSafe(|| self.run_rounds(cx))) {
            Ok(polled) => polled,
            Err(_) => {
                tracing::error!("the node panicked; it has ended, and so have its connections");
                self.end(Ending::Panicked);
                Poll::Ready(())
            }
        }
    }

    fn run_rounds(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.turn = self.turn.wrapping_add(1);
        for socket in &mut self.sockets {
            (socket.empty, socket.full) = (false, false);
        }
        (self.no_news, self.no_answers) = (false, false);
        for _ in 0..ROUNDS {
            if self.sockets.iter().all(|socket| !socket.empty) {
                self.last_polled = self.io.now();
            }
            let mut moved = self.take_inbox(cx);
            moved |= self.take_news(cx);
            moved |= self.take_answers(cx);
            moved |= self.receive(cx);
            moved |= self.serve_woken(cx);
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
            moved |= self.set_timer(cx);
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
                self.inbox.report_misuse(misuse);
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

    fn serve_woken(&mut self, cx: &Context<'_>) -> bool {
        self.wakes.collect(cx, &mut self.woken);
        for name in self.woken.drain(..) {
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
            self.io.run_blocking(Box::new(move || inbox.push_input(Input::Done(job.run(&cancelled)))));
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

    /// Whether the node is closed, and its last bytes were sent or their time is over. All its events were queued.
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

    fn set_timer(&mut self, cx: &mut Context<'_>) -> bool {
        if self.put_off < PUT_OFF && self.sockets.iter().any(|socket| socket.more) {
            self.put_off = self.put_off.saturating_add(1);
            return true;
        }
        self.put_off = 0;
        let deadline = self.node.poll_timeout().map(|(at, _)| at);
        let rests = self.sockets.iter().filter_map(|socket| socket.resting_until);
        let rests = rests.chain(self.listeners.rests()).chain(self.tcp_connections.linger());
        let Some(at) = rests.chain(deadline).chain(self.flush_by).min() else { return false };
        // A later deadline does not change the timer: QUIC moves its deadlines with every packet, and an early wake-up
        // is cheap. A deadline is processed only after all packets that arrived before it, however long the node or
        // other tasks used the processor.
        while self.io.now() < at
            || at.checked_add(LATE).is_some_and(|late| self.last_polled < at && late <= self.io.now())
        {
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
        if self.last_polled < at {
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

/// This also runs when the runtime drops the task.
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
