//! One UDP socket: splits received buffers into datagrams for the node, and passes the node's datagrams to the runtime.
//!
//! Bounds: [`DATAGRAMS_IN`] and [`DATAGRAMS_OUT`] for each round, [`SLOTS`] receive buffers of [`SLOT`] bytes for all
//! sockets together, one buffer for the batch that is being sent. A datagram is copied once, out of its slot, into a
//! buffer of its own: a piece of it that is kept must not keep the other datagrams that the system joined with it.
//! Timer: [`REST`].

use std::io::IoSliceMut;
use std::task::{Context, Poll};

use bytes::BytesMut;

use super::{FAILURES, REST};
use crate::Instant;
use crate::drive::io::{Io, Received};
use crate::net::{Arrival, SocketId, Transmit};
use crate::node::Node;

/// The most datagrams received from a socket in one round. The last call may exceed it by the datagrams that the system
/// joined in its slots.
pub(super) const DATAGRAMS_IN: usize = 128;
/// The most datagrams that a socket sends in one round, before the last batch.
pub(super) const DATAGRAMS_OUT: usize = 64;
/// The number of buffers in one receive call. The system fills them from the first on, so buffers beyond the load's
/// need are never touched and take no memory.
pub(super) const SLOTS: usize = 8;
/// The size of one buffer: the most that the system joins (GRO), and enough for any single datagram.
pub(super) const SLOT: usize = 64 << 10;

pub(super) struct Socket {
    pub id: SocketId,
    /// The batch that is being sent.
    out: Vec<u8>,
    /// The batch that found no room; it will be sent again unchanged.
    pub blocked: Option<Transmit>,
    /// The runtime will wake the task; until then there is nothing to receive, or no room to send.
    pub empty: bool,
    pub full: bool,
    /// The number of consecutive receive calls that failed.
    failures: u32,
    pub resting_until: Option<Instant>,
    /// More datagrams may wait than this round received.
    pub more: bool,
}

impl Socket {
    pub const fn new(id: SocketId) -> Self {
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

    pub fn receive<N: Node, I: Io>(
        &mut self,
        cx: &mut Context<'_>,
        node: &mut N,
        io: &mut I,
        slots: &mut [u8],
    ) -> bool {
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
                let mut rest = slot.get(..received.len).unwrap_or(slot);
                let arrival =
                    Arrival { socket: self.id, from: received.from, local_ip: received.local_ip, ecn: received.ecn };
                taken = taken.saturating_add(1);
                while received.stride > 0
                    && let Some((first, others)) = rest.split_at_checked(received.stride)
                    && !others.is_empty()
                {
                    node.handle_datagram(now, arrival, BytesMut::from(first));
                    taken = taken.saturating_add(1);
                    rest = others;
                }
                node.handle_datagram(now, arrival, BytesMut::from(rest));
            }
        }
        self.more = true;
        true
    }

    pub fn transmit<N: Node, I: Io>(&mut self, cx: &mut Context<'_>, now: Instant, node: &mut N, io: &mut I) -> bool {
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
                // This counts as packet loss, which the sender detects. A probe for a larger MTU ends like this.
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
