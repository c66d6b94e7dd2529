//! Whom a datagram is for; see the parent module's table.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use crate::Instant;
use crate::net::{MARK, SlotKey};
use crate::p2p::race::token_of_probe;
use crate::p2p::stun;

/// Destinations of a slot that are remembered; the one that was used longest ago is forgotten first.
pub const REMEMBERED: usize = 16;
/// Copies of datagrams for more than one slot, in a second.
pub const COPIES_A_SECOND: u32 = 16_384;
/// Copies that may be made at once.
const COPIES_AT_ONCE: u32 = 4_096;
/// QUIC's bits of the first byte (RFC 9000 §17).
const LONG: u8 = 0x80;
const FIXED: u8 = 0x40;
/// Where the destination connection id of a long header begins, after the byte with its length.
const LONG_ID: usize = 6;

/// Whom a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// This slot.
    Slot(u16),
    /// All slots that sent to its sender lately.
    Senders,
    /// Nobody.
    Nobody,
}

/// What is known of the slots.
#[derive(Debug)]
pub(super) struct Routes {
    key: SlotKey,
    /// Where each slot sent to lately, the last one last.
    sent: BTreeMap<u16, VecDeque<SocketAddr>>,
    /// The same, by address.
    senders: BTreeMap<SocketAddr, BTreeSet<u16>>,
    copies: Copies,
    /// The last mark that was read, since the next one is the same most of the time.
    last: Option<([u8; MARK], Target)>,
}

impl Routes {
    pub fn new(key: SlotKey) -> Self {
        let copies = Copies { left: COPIES_AT_ONCE, filled: None };
        Self { key, sent: BTreeMap::new(), senders: BTreeMap::new(), copies, last: None }
    }

    pub fn add(&mut self, slot: u16) {
        self.sent.entry(slot).or_default();
        self.last = None;
    }

    pub fn remove(&mut self, slot: u16) {
        for to in self.sent.remove(&slot).unwrap_or_default() {
            self.forget(slot, to);
        }
        self.last = None;
    }

    /// A slot sends to this address.
    pub fn note(&mut self, slot: u16, to: SocketAddr) {
        let to = canonical(to);
        let Some(sent) = self.sent.get_mut(&slot) else { return };
        if sent.back() == Some(&to) {
            return;
        }
        if let Some(at) = sent.iter().position(|known| *known == to) {
            sent.remove(at);
        } else {
            self.senders.entry(to).or_default().insert(slot);
        }
        sent.push_back(to);
        if sent.len() > REMEMBERED
            && let Some(oldest) = sent.pop_front()
        {
            self.forget(slot, oldest);
        }
    }

    /// Whom a datagram is for.
    pub fn target(&mut self, data: &[u8]) -> Target {
        let (mark, otherwise) = match mark_of(data) {
            Marked::Short(mark) => (mark, Target::Senders),
            Marked::Other(mark) => (mark, Target::Nobody),
            Marked::No => return Target::Nobody,
        };
        if let Some((last, target)) = &self.last
            && last == mark
        {
            return *target;
        }
        match self.key.read(mark).filter(|slot| self.sent.contains_key(slot)) {
            Some(slot) => {
                self.last = Some((*mark, Target::Slot(slot)));
                Target::Slot(slot)
            }
            None => otherwise,
        }
    }

    /// The slots that sent to this address lately, if so many copies may be made now.
    pub fn senders(&mut self, now: Instant, to: SocketAddr) -> Option<&BTreeSet<u16>> {
        let senders = self.senders.get(&canonical(to))?;
        self.copies.spend(now, senders.len()).then_some(senders)
    }

    /// How many addresses are remembered for all slots together, and for the one with the most.
    #[cfg(test)]
    pub fn sizes(&self) -> (usize, usize) {
        let most = self.sent.values().map(VecDeque::len).max().unwrap_or_default();
        (self.senders.len(), most)
    }

    fn forget(&mut self, slot: u16, to: SocketAddr) {
        if let Some(senders) = self.senders.get_mut(&to) {
            senders.remove(&slot);
            if senders.is_empty() {
                self.senders.remove(&to);
            }
        }
    }
}

/// Where a datagram has its mark, if it has one.
enum Marked<'a> {
    /// QUIC with a short header: if it is no mark, it may be a stateless reset, which is random there.
    Short(&'a [u8; MARK]),
    Other(&'a [u8; MARK]),
    No,
}

fn mark_of(data: &[u8]) -> Marked<'_> {
    let Some(&first) = data.first() else { return Marked::No };
    let mark = if first & LONG != 0 {
        // Ids of 8 bytes are ours; those of 16 are a client's that was given a mark to begin them with.
        data.get(LONG_ID.saturating_sub(1))
            .filter(|&&len| len == 8 || len == 16)
            .and_then(|_| data.get(LONG_ID..)?.first_chunk())
    } else if first & FIXED != 0 {
        return data.get(1..).and_then(|id| id.first_chunk()).map_or(Marked::No, Marked::Short);
    } else {
        stun::id_of(data).or_else(|| token_of_probe(data)).and_then(|id| id.first_chunk())
    };
    mark.map_or(Marked::No, Marked::Other)
}

/// An IPv4 address that comes mapped into IPv6 is an IPv4 address. What follows an IPv6 address does not count.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// How many copies may be made.
#[derive(Debug)]
struct Copies {
    left: u32,
    filled: Option<Instant>,
}

impl Copies {
    fn spend(&mut self, now: Instant, copies: usize) -> bool {
        let copies = u32::try_from(copies).unwrap_or(u32::MAX);
        let passed = self.filled.map_or(0, |filled| now.saturating_duration_since(filled).as_millis());
        let more = u32::try_from(passed).unwrap_or(u32::MAX).saturating_mul(COPIES_A_SECOND) / 1000;
        // Less than one copy's time is kept for the next call.
        if more > 0 || self.filled.is_none() {
            self.filled = Some(now);
            self.left = self.left.saturating_add(more).min(COPIES_AT_ONCE);
        }
        // One is as cheap as any other datagram.
        if copies <= 1 {
            return true;
        }
        let left = self.left.checked_sub(copies);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}
