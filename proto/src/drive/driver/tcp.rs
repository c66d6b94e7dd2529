//! The TCP connections: moves bytes between the runtime and the node's buffers, without a copy.
//!
//! A round processes only TCP connections that were woken or that the node names. A direction without a buffer or
//! without output registers no waker. A TCP connection ends when both directions have ended, when it fails, or when it
//! is aborted. The runtime then closes it if its end was sent, and resets it otherwise:
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

use super::wakes::{Name, WakeFlag, Wakes};
use crate::Instant;
use crate::drive::io::Io;
use crate::net::{Dial, TcpEvent, TcpId};
use crate::node::Node;

/// The most calls for a TCP connection, in one direction and one round.
pub(super) const CALLS: usize = 16;
/// The number of slices in one write.
const SLICES: usize = 16;
/// How long a TCP connection that the node has released may take to deliver its output and to receive the other side's
/// end. Closing it earlier, with unread bytes, would reset the connection and lose data in flight.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// The buffer for received bytes that nothing needs.
const SCRATCH: usize = 4 << 10;

/// All TCP connections of a driver.
pub(super) struct TcpConnections {
    tcp_connections: BTreeMap<TcpId, TcpConnection>,
    wakes: Arc<Wakes>,
    /// TCP connections that were woken, or have more to do since the last round.
    due: Vec<TcpId>,
    /// TCP connections to write to in this round.
    touched: Vec<TcpId>,
    /// Ordered by time, since the linger time is constant. Some may have ended already.
    lingering: VecDeque<(Instant, TcpId)>,
    scratch: Box<[u8]>,
}

struct TcpConnection {
    flag: Arc<WakeFlag>,
    waker: Waker,
    writing: Writing,
    /// The other side has sent FIN.
    ended: bool,
    /// The node has released the connection: until this time, received bytes are dropped.
    released: Option<Instant>,
    /// The waker will be called: until then there is nothing to read, or no room to write.
    empty: bool,
    full: bool,
    /// Writing failed. The data that arrived before is still read before the node is notified.
    broken: Option<io::ErrorKind>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// Dialling failed at once: the runtime has no such TCP connection, and the node is notified in the next round.
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

    /// Ends the TCP connection at the runtime: it is closed if its FIN was sent, and reset otherwise.
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

    /// Adds a TCP connection; false if its id is in use.
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
            tracing::error!(?id, "a TCP connection's id was given twice");
            return false;
        }
        let flag = WakeFlag::new(Name::Tcp(id), &self.wakes);
        let waker = flag.clone().into();
        let tcp = TcpConnection {
            flag,
            waker,
            writing,
            ended: false,
            released: None,
            empty: false,
            full: false,
            broken: None,
        };
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
        if !tcp.is_finishing() || tcp.released.is_some() {
            tcp.end(id, io);
            self.tcp_connections.remove(&id);
            return;
        }
        let until = now.checked_add(LINGER).unwrap_or(now);
        tcp.released = Some(until);
        self.lingering.push_back((until, id));
        self.due.push(id);
    }

    pub fn ring(&mut self, id: TcpId) {
        if let Some(tcp) = self.tcp_connections.get_mut(&id) {
            tcp.flag.rearm();
            (tcp.empty, tcp.full) = (false, false);
            self.due.push(id);
        }
    }

    /// Reads what arrived since the last round. `closed`: the node is closed, and bytes without a buffer of the node
    /// are dropped.
    pub fn read<N: Node, I: Io>(&mut self, node: &mut N, io: &mut I, closed: bool) -> bool {
        let now = io.now();
        while let Some((_, id)) = self.lingering.pop_front_if(|&mut (until, _)| until <= now) {
            if let Some(tcp) = self.tcp_connections.get(&id)
                && tcp.released.is_some_and(|until| until <= now)
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
            match self.read_one(id, node, io, closed) {
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

    fn read_one<N: Node, I: Io>(&mut self, id: TcpId, node: &mut N, io: &mut I, closed: bool) -> io::Result<bool> {
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
            let discarded = tcp.released.is_some() || (closed && node.pipe_buffer(id).is_empty());
            let buffer = if discarded { &mut self.scratch } else { node.pipe_buffer(id) };
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
            if !discarded {
                let event = if tcp.ended { TcpEvent::Eof } else { TcpEvent::Filled(count) };
                node.handle_tcp(io.now(), id, event);
            }
        }
        Ok(moved)
    }

    /// Writes the node's output for TCP connections that the node names, and for those that were read. True if the node
    /// was notified of something.
    pub fn write<N: Node, I: Io>(&mut self, node: &mut N, io: &mut I) -> bool {
        while let Some(id) = node.poll_tcp() {
            let Some(tcp) = self.tcp_connections.get(&id) else { continue };
            self.touched.push(id);
            let wants = !tcp.is_dialling() && !tcp.empty && !tcp.ended && tcp.released.is_none();
            if wants && !node.pipe_buffer(id).is_empty() {
                self.due.push(id);
            }
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        let mut notified = false;
        for id in touched.drain(..) {
            match self.write_one(id, node, io) {
                Ok(any) => notified |= any,
                Err(error) => {
                    self.cannot_write(id, &error, node, io);
                    notified = true;
                }
            }
        }
        // The vector is kept for its capacity.
        self.touched = touched;
        notified
    }

    fn write_one<N: Node, I: Io>(&mut self, id: TcpId, node: &mut N, io: &mut I) -> io::Result<bool> {
        let Some(tcp) = self.tcp_connections.get_mut(&id) else { return Ok(false) };
        let cx = &mut Context::from_waker(&tcp.waker);
        let mut notified = false;
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
                    notified = true;
                }
            }
        }
        if tcp.writing == Writing::Finished && tcp.ended {
            tcp.end(id, io);
            self.tcp_connections.remove(&id);
        }
        Ok(notified)
    }

    /// Writing failed. The other side may have sent data before it closed; that data is still read.
    fn cannot_write<N: Node, I: Io>(&mut self, id: TcpId, error: &io::Error, node: &mut N, io: &mut I) {
        let Some(tcp) = self.tcp_connections.get_mut(&id) else { return };
        if tcp.ended || tcp.released.is_some() {
            return self.lose(id, error, node, io);
        }
        (tcp.broken, tcp.empty) = (Some(error.kind()), false);
        self.due.push(id);
    }

    fn lose<N: Node, I: Io>(&mut self, id: TcpId, error: &io::Error, node: &mut N, io: &mut I) {
        let Some(tcp) = self.tcp_connections.remove(&id) else { return };
        tcp.end(id, io);
        if tcp.released.is_none() {
            node.handle_tcp(io.now(), id, TcpEvent::Failed(error.kind()));
        }
    }

    /// Whether the next round has something to do.
    pub fn has_more(&self) -> bool {
        !self.due.is_empty()
    }

    /// When the linger time of the first released TCP connection ends.
    pub fn linger(&self) -> Option<Instant> {
        self.lingering.front().map(|&(until, _)| until)
    }

    /// Whether a TCP connection that the node has finished still has bytes to deliver, or waits for the other side's
    /// end.
    pub fn is_flushing(&self) -> bool {
        self.tcp_connections.values().any(TcpConnection::is_finishing)
    }

    /// The node is closed: TCP connections that it finished are read, although the node no longer reads them.
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
