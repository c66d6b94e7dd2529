//! The TCP TCP connections: bytes between the runtime and the node's buffers, without a copy.
//!
//! Visited are those whose bell rang and those that the node names, never all. A direction without buffer or output
//! registers nothing. A TCP connection is over when both directions have ended, when it fails, or when it is aborted; the runtime
//! then closes it if its end was sent, and resets it otherwise:
//!
//! ```text
//! Dialling ─► Open ─Finish► Finishing ─output empty► Finished        Abort: over, at once in Dialling and Open,
//!                                                                     else after LINGER at most
//! ```
//!
//! Bounds: [`CALLS`] for each TCP connection, direction and round; [`SLICES`] in one write. Timer: [`LINGER`].

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::wakes::{Bell, Name, Wakes};
use crate::Instant;
use crate::drive::io::Io;
use crate::net::{Dial, TcpEvent, TcpId};
use crate::node::Node;

/// Calls for a TCP connection, in one direction and one round.
pub(super) const CALLS: usize = 16;
/// Slices offered in one write.
const SLICES: usize = 16;
/// How long a TCP connection that the node has let go after its end may take to deliver what waits and to hear the other side's
/// end: closing earlier, with bytes unread, would reset the connection and lose what is on its way.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// What arrives for nobody goes here.
const SCRATCH: usize = 4 << 10;

/// All TCP connections of a driver.
pub(super) struct TcpConnections {
    tcp_connections: BTreeMap<TcpId, TcpConnection>,
    wakes: Arc<Wakes>,
    /// Woken, or not done in the round before.
    due: Vec<TcpId>,
    /// To be written to in this round.
    touched: Vec<TcpId>,
    /// Ordered by time, since all wait equally long. Some may be over already.
    lingering: VecDeque<(Instant, TcpId)>,
    scratch: Box<[u8]>,
}

struct TcpConnection {
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
    /// Dialling failed at once: the runtime does not know the TCP connection, and the node is notified in the next round.
    Refused(io::ErrorKind),
    Dialling {
        finish: bool,
    },
    Open,
    Finishing,
    Finished,
}

impl TcpConnection {
    const fn is_finishing(&self) -> bool {
        matches!(self.writing, Writing::Finishing | Writing::Finished)
    }

    const fn is_dialling(&self) -> bool {
        matches!(self.writing, Writing::Dialling { .. } | Writing::Refused(_))
    }

    /// The runtime forgets the TCP connection: orderly if its end was sent, else with a reset.
    fn end<I: Io>(&self, id: TcpId, io: &mut I) {
        match self.writing {
            Writing::Refused(_) => {}
            Writing::Dialling { .. } | Writing::Open | Writing::Finishing => io.reset(id),
            Writing::Finished => io.close(id),
        }
    }
}

impl TcpConnections {
    pub fn new(wakes: Arc<Wakes>) -> Self {
        Self {
            tcp_connections: BTreeMap::new(),
            wakes,
            due: Vec::new(),
            touched: Vec::new(),
            lingering: VecDeque::new(),
            scratch: Box::new([0; SCRATCH]),
        }
    }

    /// A newcomer; false when its name is taken.
    pub fn open(&mut self, id: TcpId) -> bool {
        self.add(id, Writing::Open)
    }

    pub fn dial<I: Io>(&mut self, io: &mut I, id: TcpId, dial: &Dial) {
        if self.add(id, Writing::Dialling { finish: false })
            && let Err(error) = io.dial(id, dial)
            && let Some(tcp) = self.tcp_connections.get_mut(&id)
        {
            tcp.writing = Writing::Refused(error.kind());
        }
    }

    fn add(&mut self, id: TcpId, writing: Writing) -> bool {
        if self.tcp_connections.contains_key(&id) {
            tracing::error!(?id, "the name of a tcp was given twice");
            return false;
        }
        let bell = Bell::new(Name::Tcp(id), &self.wakes);
        let waker = bell.clone().into();
        let tcp =
            TcpConnection { bell, waker, writing, ended: false, let_go: None, empty: false, full: false, broken: None };
        self.tcp_connections.insert(id, tcp);
        self.due.push(id);
        true
    }

    pub fn finish(&mut self, id: TcpId) {
        let Some(tcp) = self.tcp_connections.get_mut(&id) else { return };
        tcp.writing = match tcp.writing {
            Writing::Refused(kind) => Writing::Refused(kind),
            Writing::Dialling { .. } => Writing::Dialling { finish: true },
            Writing::Open | Writing::Finishing => Writing::Finishing,
            Writing::Finished => Writing::Finished,
        };
        self.touched.push(id);
    }

    pub fn abort<I: Io>(&mut self, now: Instant, io: &mut I, id: TcpId) {
        let Some(tcp) = self.tcp_connections.get_mut(&id) else { return };
        if !tcp.is_finishing() || tcp.let_go.is_some() {
            tcp.end(id, io);
            self.tcp_connections.remove(&id);
            return;
        }
        let until = now.checked_add(LINGER).unwrap_or(now);
        tcp.let_go = Some(until);
        self.lingering.push_back((until, id));
        self.due.push(id);
    }

    pub fn ring(&mut self, id: TcpId) {
        if let Some(tcp) = self.tcp_connections.get_mut(&id) {
            tcp.bell.rearm();
            (tcp.empty, tcp.full) = (false, false);
            self.due.push(id);
        }
    }

    /// What came since the last round. `nobody`: the node is closed, and what it doesn't want is thrown away.
    pub fn read<N: Node, I: Io>(&mut self, node: &mut N, io: &mut I, nobody: bool) -> bool {
        let now = io.now();
        while let Some((_, id)) = self.lingering.pop_front_if(|&mut (until, _)| until <= now) {
            if let Some(tcp) = self.tcp_connections.get(&id)
                && tcp.let_go.is_some_and(|until| until <= now)
            {
                tcp.end(id, io);
                self.tcp_connections.remove(&id);
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

    fn read_one<N: Node, I: Io>(&mut self, id: TcpId, node: &mut N, io: &mut I, nobody: bool) -> io::Result<bool> {
        let Some(tcp) = self.tcp_connections.get_mut(&id) else { return Ok(false) };
        let cx = &mut Context::from_waker(&tcp.waker);
        let mut moved = false;
        if let Writing::Refused(kind) = tcp.writing {
            return Err(kind.into());
        }
        if let Writing::Dialling { finish } = tcp.writing {
            match io.poll_dialled(cx, id) {
                Poll::Pending => return Ok(false),
                Poll::Ready(result) => result?,
            }
            tcp.writing = if finish { Writing::Finishing } else { Writing::Open };
            node.handle_tcp(io.now(), id, TcpEvent::Up);
            moved = true;
        }
        for call in 0.. {
            if tcp.empty || tcp.ended {
                break;
            }
            let thrown = tcp.let_go.is_some() || (nobody && node.pipe_buffer(id).is_empty());
            let buffer = if thrown { &mut self.scratch } else { node.pipe_buffer(id) };
            if buffer.is_empty() {
                break;
            }
            if call == CALLS {
                self.due.push(id);
                break;
            }
            let result = match (io.poll_read(cx, id, buffer), tcp.broken) {
                (Poll::Ready(Ok(count)), _) if count > 0 => Ok(count),
                (_, Some(broken)) => return Err(broken.into()),
                (Poll::Ready(result), None) => result,
                (Poll::Pending, None) => {
                    tcp.empty = true;
                    break;
                }
            };
            let count = result?;
            moved = true;
            tcp.ended = count == 0;
            if !thrown {
                let event = if tcp.ended { TcpEvent::Eof } else { TcpEvent::Filled(count) };
                node.handle_tcp(io.now(), id, event);
            }
        }
        Ok(moved)
    }

    /// What the node has for the TCP connections that it names, and for those that were read. True
    /// when the node was told something.
    pub fn write<N: Node, I: Io>(&mut self, node: &mut N, io: &mut I) -> bool {
        while let Some(id) = node.poll_tcp() {
            let Some(tcp) = self.tcp_connections.get(&id) else { continue };
            self.touched.push(id);
            let wants = !tcp.is_dialling() && !tcp.empty && !tcp.ended && tcp.let_go.is_none();
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

    fn write_one<N: Node, I: Io>(&mut self, id: TcpId, node: &mut N, io: &mut I) -> io::Result<bool> {
        let Some(tcp) = self.tcp_connections.get_mut(&id) else { return Ok(false) };
        let cx = &mut Context::from_waker(&tcp.waker);
        let mut told = false;
        for call in 0.. {
            if tcp.full || tcp.broken.is_some() || tcp.is_dialling() || tcp.writing == Writing::Finished {
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = node.pipe_output(id, &mut slices);
            let slices = slices.get(..count).unwrap_or(&slices);
            if slices.iter().all(|slice| slice.is_empty()) {
                if tcp.writing == Writing::Finishing {
                    io.finish(id);
                    tcp.writing = Writing::Finished;
                }
                break;
            }
            if call == CALLS {
                self.due.push(id);
                break;
            }
            match io.poll_write(cx, id, slices) {
                Poll::Pending => tcp.full = true,
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(result) => {
                    node.handle_tcp(io.now(), id, TcpEvent::Wrote(result?));
                    told = true;
                }
            }
        }
        if tcp.writing == Writing::Finished && tcp.ended {
            tcp.end(id, io);
            self.tcp_connections.remove(&id);
        }
        Ok(told)
    }

    /// The other side's last words may have come before it closed, and are not lost with ours.
    fn cannot_write<N: Node, I: Io>(&mut self, id: TcpId, error: &io::Error, node: &mut N, io: &mut I) {
        let Some(tcp) = self.tcp_connections.get_mut(&id) else { return };
        if tcp.ended || tcp.let_go.is_some() {
            return self.lose(id, error, node, io);
        }
        (tcp.broken, tcp.empty) = (Some(error.kind()), false);
        self.due.push(id);
    }

    fn lose<N: Node, I: Io>(&mut self, id: TcpId, error: &io::Error, node: &mut N, io: &mut I) {
        let Some(tcp) = self.tcp_connections.remove(&id) else { return };
        tcp.end(id, io);
        if tcp.let_go.is_none() {
            node.handle_tcp(io.now(), id, TcpEvent::Failed(error.kind()));
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

    /// Whether a TCP connection that the node has finished still has bytes to deliver, or the other side's end to hear.
    pub fn is_flushing(&self) -> bool {
        self.tcp_connections.values().any(TcpConnection::is_finishing)
    }

    /// The node is closed: those that it has finished and no longer reads are read all the same.
    pub fn flush(&mut self) {
        self.due.extend(self.tcp_connections.iter().filter(|(_, tcp)| tcp.is_finishing()).map(|(&id, _)| id));
    }

    pub fn end<I: Io>(&mut self, io: &mut I) {
        for (id, tcp) in std::mem::take(&mut self.tcp_connections) {
            tcp.end(id, io);
        }
    }

    pub fn len(&self) -> usize {
        self.tcp_connections.len()
    }
}
