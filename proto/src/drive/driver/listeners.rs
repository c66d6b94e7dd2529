//! The TCP listeners: the node names or refuses each new connection.
//!
//! Bound: [`ACCEPTS`] for each listener and round. Timer: [`REST`], for a listener whose accept fails. When the system
//! has no descriptors or no memory, it fails every call at once, and connections wait in the backlog. So one failure is
//! enough for a pause.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::REST;
use super::tcp::TcpConnections;
use super::wakes::{Name, WakeFlag, Wakes};
use crate::Instant;
use crate::drive::io::Io;
use crate::net::ListenerId;
use crate::node::Node;

/// Connections taken from a listener in one round.
pub(super) const ACCEPTS: usize = 16;

/// All listeners of a driver; there are only a few.
#[derive(Default)]
pub(super) struct Listeners(Vec<Listener>);

struct Listener {
    id: ListenerId,
    flag: Arc<WakeFlag>,
    waker: Waker,
    state: State,
    /// Its failure was logged, and no connection was accepted since.
    is_known_to_fail: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A connection may wait.
    Due,
    /// No connection waits; its waker will be called.
    Quiet,
    /// Accepting failed.
    Resting(Instant),
}

impl Listeners {
    pub fn contains(&self, id: ListenerId) -> bool {
        self.0.iter().any(|listener| listener.id == id)
    }

    pub fn add(&mut self, id: ListenerId, wakes: &Arc<Wakes>) {
        let flag = WakeFlag::new(Name::Listener(id), wakes);
        self.0.push(Listener { id, waker: flag.clone().into(), flag, state: State::Due, is_known_to_fail: false });
    }

    pub fn remove(&mut self, id: ListenerId) {
        self.0.retain(|listener| listener.id != id);
    }

    pub fn ring(&mut self, id: ListenerId) {
        if let Some(listener) = self.0.iter_mut().find(|listener| listener.id == id) {
            listener.flag.rearm();
            if listener.state == State::Quiet {
                listener.state = State::Due;
            }
        }
    }

    pub fn accept<N: Node, I: Io>(&mut self, node: &mut N, io: &mut I, tcp_connections: &mut TcpConnections) -> bool {
        let mut moved = false;
        for listener in &mut self.0 {
            moved |= listener.accept(node, io, tcp_connections);
        }
        moved
    }

    /// Whether more connections may wait than the last round accepted.
    pub fn has_more(&self) -> bool {
        self.0.iter().any(|listener| listener.state == State::Due)
    }

    /// When the pauses of failing listeners end.
    pub fn rests(&self) -> impl Iterator<Item = Instant> {
        self.0.iter().filter_map(|listener| match listener.state {
            State::Resting(until) => Some(until),
            State::Due | State::Quiet => None,
        })
    }
}

impl Listener {
    fn accept<N: Node, I: Io>(&mut self, node: &mut N, io: &mut I, tcp_connections: &mut TcpConnections) -> bool {
        match self.state {
            State::Quiet => return false,
            State::Resting(until) if io.now() < until => return false,
            State::Resting(_) | State::Due => self.state = State::Due,
        }
        let cx = &mut Context::from_waker(&self.waker);
        for call in 0..ACCEPTS {
            match io.poll_accept(cx, self.id) {
                Poll::Pending => {
                    self.state = State::Quiet;
                    return call > 0;
                }
                Poll::Ready(Ok((accepted, from))) => {
                    self.is_known_to_fail = false;
                    let now = io.now();
                    let Some(tcp) = node.handle_accept(now, self.id, from) else { continue };
                    if tcp_connections.open(tcp) {
                        io.adopt(tcp, accepted);
                    }
                }
                // The client closed the connection before it was accepted.
                Poll::Ready(Err(error)) if is_peer_error(&error) => {}
                Poll::Ready(Err(error)) => {
                    // Without descriptors it fails ten times a second until some are free.
                    if !std::mem::replace(&mut self.is_known_to_fail, true) {
                        tracing::warn!(%error, "connections cannot be accepted; trying again until they can");
                    }
                    let now = io.now();
                    self.state = State::Resting(now.checked_add(REST).unwrap_or(now));
                    return true;
                }
            }
        }
        true
    }
}

fn is_peer_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
