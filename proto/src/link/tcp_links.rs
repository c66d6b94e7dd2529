//! All TCP connections of a node, for its owner and for the driver: ids, changes, deadlines, and the actions for the
//! sockets.
//!
//! ```text
//! dial ──► dialling ──Up──► open ──(socket released, and closed by the owner)──► removed
//! accept ──────────────────►
//! ```
//! Data that arrived can be read even after the TCP connection ended. So the owner must close each TCP connection,
//! including one that reported [`Event::Closed`]. This module decides nothing about a link; [`TcpLink`] does. A TCP
//! connection is processed only when it changed, so idle ones cost nothing. Timers: those of the TCP connections.
//! Bound: the owner limits the number of TCP connections, because it creates each one.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::tcp::{Event, SocketAction, TcpLink, Windows};
use super::{Read, Write};
use crate::Instant;
use crate::net::{Action, Dial, TcpEvent, TcpId};
use crate::pool::Pool;
use crate::ready::{Deadlines, ReadySet};

#[derive(Debug)]
struct Entry {
    tcp: TcpLink,
    /// Whether the TCP connection is established; until then there is nothing to read or write.
    up: bool,
    /// The deadline for establishing it.
    up_by: Option<Instant>,
    /// Whether the driver still has the socket.
    in_driver: bool,
    /// Whether the owner closed it.
    closed: bool,
    /// [`TcpLinks::probe`] was called, and nothing has arrived since.
    probed: bool,
}

/// The TCP connections of a node; see the module documentation.
#[derive(Debug)]
pub struct TcpLinks {
    tcp_links: BTreeMap<TcpId, Entry>,
    last_id: u32,
    /// Changed since the last [`Self::settle`].
    touched: ReadySet<TcpId>,
    /// TCP connections that the driver should serve.
    ready: ReadySet<TcpId>,
    deadlines: Deadlines<TcpId>,
    events: VecDeque<(TcpId, Event)>,
    /// Probed TCP connections on which something was received.
    answered: VecDeque<TcpId>,
    actions: VecDeque<Action>,
    #[cfg(test)]
    visits: u64,
}

impl Default for TcpLinks {
    fn default() -> Self {
        Self::new()
    }
}

impl TcpLinks {
    /// A set without TCP connections.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tcp_links: BTreeMap::new(),
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

    /// Adds a client's link, and requests a TCP connection for it.
    pub fn dial(&mut self, tcp: TcpLink, to: SocketAddr) -> TcpId {
        let id = self.adopt(tcp, false);
        self.actions.push_back(Action::Dial(id, Dial::from(to)));
        id
    }

    /// Like [`Self::dial`], but gives up if the TCP connection is not established in time. A link without TLS has no
    /// such deadline itself.
    pub fn dial_until(&mut self, tcp: TcpLink, to: SocketAddr, up_by: Instant) -> TcpId {
        let id = self.dial(tcp, to);
        if let Some(entry) = self.tcp_links.get_mut(&id) {
            entry.up_by = Some(up_by);
        }
        id
    }

    /// Adds a server's link for an accepted TCP connection.
    pub fn accept(&mut self, tcp: TcpLink) -> TcpId {
        self.adopt(tcp, true)
    }

    fn adopt(&mut self, tcp: TcpLink, up: bool) -> TcpId {
        self.last_id = self.last_id.wrapping_add(1);
        let id = TcpId(self.last_id);
        self.tcp_links.insert(id, Entry { tcp, up, up_by: None, in_driver: true, closed: false, probed: false });
        self.touched.mark(id);
        id
    }

    /// Handles an event of the driver.
    pub fn handle_tcp(&mut self, now: Instant, id: TcpId, event: TcpEvent) {
        let Some(entry) = self.tcp_links.get_mut(&id) else { return };
        match event {
            TcpEvent::Up => (entry.up, entry.up_by) = (true, None),
            TcpEvent::Filled(count) => {
                entry.tcp.handle_filled(now, count);
                if std::mem::take(&mut entry.probed) {
                    self.answered.push_back(id);
                }
            }
            TcpEvent::Wrote(count) => entry.tcp.handle_wrote(now, count),
            TcpEvent::Eof => entry.tcp.handle_eof(),
            TcpEvent::Failed(_) => {
                entry.in_driver = false;
                entry.tcp.handle_failed();
            }
        }
        self.touched.mark(id);
    }

    /// Checks the timers. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.deadlines.take_due(now) {
            if let Some(entry) = self.tcp_links.get_mut(&id) {
                entry.tcp.handle_timeout(now);
                if entry.up_by.take_if(|up_by| *up_by <= now).is_some() {
                    entry.tcp.handle_failed();
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

    /// Processes all TCP connections that changed: events, deadlines, sockets to release. Call it once per batch of
    /// inputs.
    pub fn settle(&mut self) {
        while let Some(id) = self.touched.take() {
            let Some(entry) = self.tcp_links.get_mut(&id) else { continue };
            #[cfg(test)]
            {
                self.visits = self.visits.wrapping_add(1);
            }
            while let Some(event) = entry.tcp.poll_event() {
                self.events.push_back((id, event));
            }
            if entry.tcp.poll_touched() || entry.up {
                self.ready.mark(id);
            }
            self.deadlines.set(id, [entry.tcp.poll_timeout(), entry.up_by].into_iter().flatten().min());
            match entry.tcp.socket_action() {
                SocketAction::Live => {}
                // A graceful close: pending output is written, and arriving data is dropped, for at most a second.
                SocketAction::Finish if entry.in_driver => {
                    self.actions.extend([Action::Finish(id), Action::Abort(id)]);
                    entry.in_driver = false;
                }
                SocketAction::Abort if entry.in_driver => {
                    self.actions.push_back(Action::Abort(id));
                    entry.in_driver = false;
                }
                SocketAction::Finish | SocketAction::Abort => {}
            }
            if entry.closed && !entry.in_driver {
                self.tcp_links.remove(&id);
                self.deadlines.set(id, None);
            }
        }
    }

    /// The next event of any TCP connection.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<(TcpId, Event)> {
        self.events.pop_front()
    }

    /// The next action for the driver.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// See [`crate::node::Node::poll_tcp`].
    #[must_use]
    pub fn poll_tcp(&mut self) -> Option<TcpId> {
        self.ready.take()
    }

    /// See [`crate::node::Node::pipe_buffer`].
    #[must_use]
    pub fn buffer(&mut self, id: TcpId) -> &mut [u8] {
        match self.tcp_links.get_mut(&id) {
            Some(entry) if entry.up => entry.tcp.read_buffer(),
            Some(_) | None => &mut [],
        }
    }

    /// See [`crate::node::Node::pipe_output`].
    #[must_use]
    pub fn output<'a>(&'a self, id: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        match self.tcp_links.get(&id) {
            Some(entry) if entry.up => entry.tcp.output(slices),
            Some(_) | None => 0,
        }
    }

    /// See [`TcpLink::read`].
    pub fn read(&mut self, id: TcpId) -> Read {
        let Some(entry) = self.tcp_links.get_mut(&id) else { return Read::Gone };
        self.touched.mark(id);
        entry.tcp.read()
    }

    /// See [`TcpLink::assemble`].
    pub fn assemble(&mut self, id: TcpId, buffers: &Arc<Pool>) {
        if let Some(entry) = self.tcp_links.get_mut(&id) {
            entry.tcp.assemble(Arc::clone(buffers));
        }
    }

    /// Probes the other end: [`Self::poll_answered`] reports the TCP connection once anything arrives on it. Returns
    /// false if something was received since `fresh`, or if the protocol has no probe.
    #[must_use]
    pub fn probe(&mut self, now: Instant, id: TcpId, fresh: Instant) -> bool {
        let Some(entry) = self.tcp_links.get_mut(&id) else { return false };
        entry.probed = entry.tcp.probe(now, fresh);
        self.touched.mark(id);
        entry.probed
    }

    /// The next TCP connection on which something was received after a [`Self::probe`].
    #[must_use]
    pub fn poll_answered(&mut self) -> Option<TcpId> {
        self.answered.pop_front()
    }

    /// See [`TcpLink::is_silent`].
    #[must_use]
    pub fn is_silent(&self, id: TcpId) -> bool {
        self.tcp_links.get(&id).is_some_and(|entry| entry.tcp.is_silent())
    }

    /// See [`TcpLink::assembling`].
    #[must_use]
    pub fn assembling(&self, id: TcpId) -> usize {
        self.tcp_links.get(&id).map_or(0, |entry| entry.tcp.assembling())
    }

    /// See [`TcpLink::write`].
    pub fn write(&mut self, now: Instant, id: TcpId, data: &mut Bytes) -> Write {
        let Some(entry) = self.tcp_links.get_mut(&id) else { return Write::Gone };
        self.touched.mark(id);
        entry.tcp.write(now, data)
    }

    /// See [`TcpLink::finish_with`].
    pub fn finish_with(&mut self, now: Instant, id: TcpId, code: u32, reason: &'static str) {
        if let Some(entry) = self.tcp_links.get_mut(&id) {
            entry.tcp.finish_with(now, code, reason);
            self.touched.mark(id);
        }
    }

    /// See [`TcpLink::close`]. The id is invalid from now on.
    pub fn close(&mut self, now: Instant, id: TcpId, code: u32, reason: &'static str) {
        if let Some(entry) = self.tcp_links.get_mut(&id) {
            entry.tcp.close(now, code, reason);
            entry.closed = true;
            self.touched.mark(id);
        }
    }

    /// See [`TcpLink::set_windows`].
    pub fn set_windows(&mut self, id: TcpId, windows: Windows) {
        if let Some(entry) = self.tcp_links.get_mut(&id) {
            entry.tcp.set_windows(windows);
            self.touched.mark(id);
        }
    }

    /// Sets how much unread data may be buffered, in bytes.
    pub fn set_receive_window(&mut self, id: TcpId, bytes: usize) {
        if let Some(entry) = self.tcp_links.get(&id) {
            let send = entry.tcp.windows().send;
            self.set_windows(id, Windows { receive: bytes, send });
        }
    }

    /// Sets how much data may wait for the socket, in bytes.
    pub fn set_send_window(&mut self, id: TcpId, bytes: usize) {
        if let Some(entry) = self.tcp_links.get(&id) {
            let receive = entry.tcp.windows().receive;
            self.set_windows(id, Windows { receive, send: bytes });
        }
    }

    /// How many times a TCP connection was processed. Tests use it to check that the work does not depend on the number
    /// of TCP connections.
    #[cfg(test)]
    pub const fn visits(&self) -> u64 {
        self.visits
    }

    /// The number of TCP connections, including those that are closing.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tcp_links.len()
    }

    /// Whether there are no TCP connections: all were flushed and closed, and the driver released their sockets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tcp_links.is_empty() && self.actions.is_empty()
    }
}
