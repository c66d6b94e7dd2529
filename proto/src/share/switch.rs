//! The queues behind a shared socket: what was received is put into those of its nodes, and each node takes its own.
//!
//! The node that receives from the socket keeps its own datagrams where they are, so that one node alone pays nothing.
//! Those of others are copied, as runs of one sender's datagrams, the way the system joined them.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;

use super::routes::{Routes, Target};
use crate::Instant;
use crate::drive::Received;
use crate::net::SlotKey;

/// Bytes of memory that may wait for all slots of a socket.
pub const WAITING: usize = 64 << 20;
/// The most that may wait for one slot, however few there are.
pub const MOST_WAITING: usize = 2 << 20;
/// What may wait for one slot, however many there are.
pub const LEAST_WAITING: usize = 128 << 10;
/// What a run of datagrams costs beside its bytes: its place in the queue, which grows by doubling, and the headers of
/// its block.
const ENTRY: usize = 2 * size_of::<Waiting>() + 64;

/// See the module's text.
#[derive(Debug)]
pub struct Switch {
    routes: Routes,
    /// What arrives is for everybody.
    to_all: bool,
    queues: BTreeMap<u16, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    runs: VecDeque<Waiting>,
    /// What they cost.
    cost: usize,
    lost: u64,
}

/// Datagrams of one sender and one size, the last one perhaps shorter.
#[derive(Debug)]
struct Waiting {
    received: Received,
    data: Bytes,
}

/// What is the same for a whole buffer.
struct Sorting<'a> {
    now: Instant,
    reader: u16,
    others: &'a mut Vec<u16>,
}

impl Switch {
    /// No slots yet. `to_all`: the socket receives for a multicast group, and each slot gets everything.
    #[must_use]
    pub fn new(key: SlotKey, to_all: bool) -> Self {
        Self { routes: Routes::new(key), to_all, queues: BTreeMap::new() }
    }

    /// A node with this slot uses the socket. False: one does already.
    pub fn join(&mut self, slot: u16) -> bool {
        if self.queues.contains_key(&slot) {
            return false;
        }
        self.queues.insert(slot, Queue::default());
        self.routes.add(slot);
        true
    }

    /// It does not any more.
    pub fn leave(&mut self, slot: u16) {
        self.queues.remove(&slot);
        self.routes.remove(slot);
    }

    /// How many use the socket.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.queues.len()
    }

    /// Datagrams, or joined ones, that were dropped because this slot had too many.
    #[must_use]
    pub fn lost(&self, slot: u16) -> u64 {
        self.queues.get(&slot).map_or(0, |queue| queue.lost)
    }

    /// A slot sends to this address.
    pub fn note(&mut self, slot: u16, to: SocketAddr) {
        self.routes.note(slot, to);
    }

    /// Whether datagrams wait for this slot.
    #[must_use]
    pub fn has_waiting(&self, slot: u16) -> bool {
        self.queues.get(&slot).is_some_and(|queue| !queue.runs.is_empty())
    }

    /// Sorts one filled receive buffer. What is for `reader` is moved to its start, and `received` then describes that;
    /// what is for others waits for them, and their slots are added to `others`.
    pub fn sort(&mut self, now: Instant, reader: u16, received: &mut Received, data: &mut [u8], others: &mut Vec<u16>) {
        if self.queues.len() <= 1 && self.queues.contains_key(&reader) {
            return;
        }
        let len = received.len.min(data.len());
        let stride = if received.stride == 0 { len.max(1) } else { received.stride };
        let mut sorting = Sorting { now, reader, others };
        let (mut kept, mut at) = (0_usize, 0_usize);
        while at < len {
            let target = self.target(data, at..at.saturating_add(stride).min(len));
            let mut end = at.saturating_add(stride).min(len);
            while end < len && self.target(data, end..end.saturating_add(stride).min(len)) == target {
                end = end.saturating_add(stride).min(len);
            }
            let run = data.get(at..end).unwrap_or_default();
            let described = Received { len: run.len(), ..*received };
            if self.deliver(&mut sorting, target, described, run) {
                if kept < at {
                    data.copy_within(at..end, kept);
                }
                kept = kept.saturating_add(end.saturating_sub(at));
            }
            at = end;
        }
        received.len = kept;
    }

    /// Moves what waits for a slot into the buffers, from the first on, and returns how many were filled.
    pub fn take(&mut self, slot: u16, bufs: &mut [IoSliceMut<'_>], received: &mut [Received]) -> usize {
        let Some(queue) = self.queues.get_mut(&slot) else { return 0 };
        let mut filled = 0_usize;
        for (buf, received) in bufs.iter_mut().zip(received) {
            let Some(run) = queue.runs.pop_front() else { break };
            queue.cost = queue.cost.saturating_sub(cost_of(run.data.len()));
            let len = run.data.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..len), run.data.get(..len)) {
                to.copy_from_slice(from);
            }
            *received = Received { len, ..run.received };
            filled = filled.saturating_add(1);
        }
        if queue.runs.is_empty() {
            // A burst is not remembered.
            queue.runs.shrink_to(16);
        }
        filled
    }

    fn target(&mut self, data: &[u8], range: Range<usize>) -> Target {
        if self.to_all { Target::Senders } else { self.routes.target(data.get(range).unwrap_or_default()) }
    }

    /// True when the reader is one of those that it is for.
    fn deliver(&mut self, sorting: &mut Sorting<'_>, target: Target, received: Received, run: &[u8]) -> bool {
        let reader = sorting.reader;
        match target {
            Target::Slot(slot) if slot == reader => true,
            Target::Slot(slot) => {
                self.put(slot, received, || Bytes::copy_from_slice(run));
                sorting.others.push(slot);
                false
            }
            Target::Senders => {
                let slots: Vec<u16> = if self.to_all {
                    self.queues.keys().copied().collect()
                } else {
                    self.routes.senders(sorting.now, received.from).into_iter().flatten().copied().collect()
                };
                let mut shared = None;
                for &slot in slots.iter().filter(|slot| **slot != reader) {
                    self.put(slot, received, || shared.get_or_insert_with(|| Bytes::copy_from_slice(run)).clone());
                    sorting.others.push(slot);
                }
                slots.contains(&reader)
            }
            Target::Nobody => false,
        }
    }

    fn put(&mut self, slot: u16, received: Received, data: impl FnOnce() -> Bytes) {
        let share = WAITING.checked_div(self.queues.len()).unwrap_or(WAITING).clamp(LEAST_WAITING, MOST_WAITING);
        let Some(queue) = self.queues.get_mut(&slot) else { return };
        let cost = queue.cost.saturating_add(cost_of(received.len));
        if cost > share {
            queue.lost = queue.lost.saturating_add(1);
            return;
        }
        queue.cost = cost;
        queue.runs.push_back(Waiting { received, data: data() });
    }
}

const fn cost_of(len: usize) -> usize {
    len.saturating_add(ENTRY)
}

#[cfg(test)]
mod tests;
