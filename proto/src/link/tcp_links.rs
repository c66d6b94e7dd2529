//! All TCP connections of a node, as its owner and the driver see them: names, what touched which, deadlines, what to do with the
//! sockets.
//!
//! ```text
//! dial ──► dialling ──Up──► carried ──(socket let go, and closed by the owner)──► forgotten
//! accept ──────────────────►
//! ```
//! What arrived can be read after the end of the TCP connection too; so the owner closes each TCP connection, also one that told
//! [`Event::Closed`]. Decides nothing about a link: that is [`TcpLink`]'s. A TCP connection is visited when it was touched, so that
//! idle ones cost nothing. Timers: those of the TCP connections. Bounds: the owner's, who makes every TCP connection.

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
struct Carried {
    tcp: TcpLink,
    /// The TCP connection is there: before, there is nothing to read or write.
    up: bool,
    /// When it must be there.
    up_by: Option<Instant>,
    /// The driver knows the name.
    known: bool,
    /// The owner closed it.
    left: bool,
    /// [`TcpLinks::probe`] was called, and nothing has arrived since.
    probed: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct TcpLinks {
    tcp_links: BTreeMap<TcpId, Carried>,
    last_id: u32,
    /// Touched since the last [`Self::settle`].
    touched: ReadySet<TcpId>,
    /// For the driver to look at.
    ready: ReadySet<TcpId>,
    deadlines: Deadlines<TcpId>,
    events: VecDeque<(TcpId, Event)>,
    /// Probed TCP connections that were heard.
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
    /// None.
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

    /// A TCP connection of ours: the TCP connection is asked for.
    pub fn dial(&mut self, tcp: TcpLink, to: SocketAddr) -> TcpId {
        let id = self.adopt(tcp, false);
        self.actions.push_back(Action::Dial(id, Dial::from(to)));
        id
    }

    /// The same, given up where the TCP connection is not there in time: a plain TCP connection does not see that itself.
    pub fn dial_until(&mut self, tcp: TcpLink, to: SocketAddr, up_by: Instant) -> TcpId {
        let id = self.dial(tcp, to);
        if let Some(carried) = self.tcp_links.get_mut(&id) {
            carried.up_by = Some(up_by);
        }
        id
    }

    /// A TCP connection of a client: the TCP connection is there.
    pub fn accept(&mut self, tcp: TcpLink) -> TcpId {
        self.adopt(tcp, true)
    }

    fn adopt(&mut self, tcp: TcpLink, up: bool) -> TcpId {
        self.last_id = self.last_id.wrapping_add(1);
        let id = TcpId(self.last_id);
        self.tcp_links.insert(id, Carried { tcp, up, up_by: None, known: true, left: false, probed: false });
        self.touched.mark(id);
        id
    }

    /// What the driver tells.
    pub fn handle_tcp(&mut self, now: Instant, id: TcpId, event: TcpEvent) {
        let Some(carried) = self.tcp_links.get_mut(&id) else { return };
        match event {
            TcpEvent::Up => (carried.up, carried.up_by) = (true, None),
            TcpEvent::Filled(count) => {
                carried.tcp.handle_filled(now, count);
                if std::mem::take(&mut carried.probed) {
                    self.answered.push_back(id);
                }
            }
            TcpEvent::Wrote(count) => carried.tcp.handle_wrote(now, count),
            TcpEvent::Eof => carried.tcp.handle_eof(),
            TcpEvent::Failed(_) => {
                carried.known = false;
                carried.tcp.handle_failed();
            }
        }
        self.touched.mark(id);
    }

    /// Deadlines may have come. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.deadlines.take_due(now) {
            if let Some(carried) = self.tcp_links.get_mut(&id) {
                carried.tcp.handle_timeout(now);
                if carried.up_by.take_if(|up_by| *up_by <= now).is_some() {
                    carried.tcp.handle_failed();
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
            let Some(carried) = self.tcp_links.get_mut(&id) else { continue };
            #[cfg(test)]
            {
                self.visits = self.visits.wrapping_add(1);
            }
            while let Some(event) = carried.tcp.poll_event() {
                self.events.push_back((id, event));
            }
            if carried.tcp.poll_touched() || carried.up {
                self.ready.mark(id);
            }
            self.deadlines.set(id, [carried.tcp.poll_timeout(), carried.up_by].into_iter().flatten().min());
            match carried.tcp.socket_action() {
                SocketAction::Live => {}
                // A careful close: what waits is written, what still arrives is thrown away, for a second at most.
                SocketAction::Finish if carried.known => {
                    self.actions.extend([Action::Finish(id), Action::Abort(id)]);
                    carried.known = false;
                }
                SocketAction::Abort if carried.known => {
                    self.actions.push_back(Action::Abort(id));
                    carried.known = false;
                }
                SocketAction::Finish | SocketAction::Abort => {}
            }
            if carried.left && !carried.known {
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

    /// The next thing for the driver.
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
            Some(carried) if carried.up => carried.tcp.read_buffer(),
            Some(_) | None => &mut [],
        }
    }

    /// See [`crate::node::Node::pipe_output`].
    #[must_use]
    pub fn output<'a>(&'a self, id: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        match self.tcp_links.get(&id) {
            Some(carried) if carried.up => carried.tcp.output(slices),
            Some(_) | None => 0,
        }
    }

    /// See [`TcpLink::read`].
    pub fn read(&mut self, id: TcpId) -> Read {
        let Some(carried) = self.tcp_links.get_mut(&id) else { return Read::Gone };
        self.touched.mark(id);
        carried.tcp.read()
    }

    /// See [`TcpLink::assemble`].
    pub fn assemble(&mut self, id: TcpId, buffers: &Arc<Pool>) {
        if let Some(carried) = self.tcp_links.get_mut(&id) {
            carried.tcp.assemble(Arc::clone(buffers));
        }
    }

    /// Asks the other end for a sign of life: [`Self::poll_answered`] names the TCP connection once anything arrives on it.
    /// False: it was heard since `fresh`, or what runs in it has no question that must be answered.
    #[must_use]
    pub fn probe(&mut self, now: Instant, id: TcpId, fresh: Instant) -> bool {
        let Some(carried) = self.tcp_links.get_mut(&id) else { return false };
        carried.probed = carried.tcp.probe(now, fresh);
        self.touched.mark(id);
        carried.probed
    }

    /// The next TCP connection that was heard after a [`Self::probe`].
    #[must_use]
    pub fn poll_answered(&mut self) -> Option<TcpId> {
        self.answered.pop_front()
    }

    /// See [`TcpLink::is_silent`].
    #[must_use]
    pub fn is_silent(&self, id: TcpId) -> bool {
        self.tcp_links.get(&id).is_some_and(|carried| carried.tcp.is_silent())
    }

    /// See [`TcpLink::assembling`].
    #[must_use]
    pub fn assembling(&self, id: TcpId) -> usize {
        self.tcp_links.get(&id).map_or(0, |carried| carried.tcp.assembling())
    }

    /// See [`TcpLink::write`].
    pub fn write(&mut self, now: Instant, id: TcpId, data: &mut Bytes) -> Write {
        let Some(carried) = self.tcp_links.get_mut(&id) else { return Write::Gone };
        self.touched.mark(id);
        carried.tcp.write(now, data)
    }

    /// See [`TcpLink::finish`].
    pub fn finish(&mut self, now: Instant, id: TcpId) {
        self.finish_with(now, id, 0, "");
    }

    /// See [`TcpLink::finish_with`].
    pub fn finish_with(&mut self, now: Instant, id: TcpId, code: u32, reason: &'static str) {
        if let Some(carried) = self.tcp_links.get_mut(&id) {
            carried.tcp.finish_with(now, code, reason);
            self.touched.mark(id);
        }
    }

    /// See [`TcpLink::close`]. The name means nothing from now on.
    pub fn close(&mut self, now: Instant, id: TcpId, code: u32, reason: &'static str) {
        if let Some(carried) = self.tcp_links.get_mut(&id) {
            carried.tcp.close(now, code, reason);
            carried.left = true;
            self.touched.mark(id);
        }
    }

    /// See [`TcpLink::set_windows`].
    pub fn set_windows(&mut self, id: TcpId, windows: Windows) {
        if let Some(carried) = self.tcp_links.get_mut(&id) {
            carried.tcp.set_windows(windows);
            self.touched.mark(id);
        }
    }

    /// Changes how much may wait to be read, in bytes.
    pub fn set_receive_window(&mut self, id: TcpId, bytes: usize) {
        if let Some(carried) = self.tcp_links.get(&id) {
            let send = carried.tcp.windows().send;
            self.set_windows(id, Windows { receive: bytes, send });
        }
    }

    /// Changes how much may wait for the socket, in bytes.
    pub fn set_send_window(&mut self, id: TcpId, bytes: usize) {
        if let Some(carried) = self.tcp_links.get(&id) {
            let receive = carried.tcp.windows().receive;
            self.set_windows(id, Windows { receive, send: bytes });
        }
    }

    /// How often a TCP connection was looked at: tests check that it does not depend on how many there are.
    #[cfg(test)]
    pub const fn visits(&self) -> u64 {
        self.visits
    }

    /// How many TCP connections there are, those that are on their way out with them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tcp_links.len()
    }

    /// Whether there are none: all is written and let go, and the driver knows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tcp_links.is_empty() && self.actions.is_empty()
    }
}
