//! Lanes: the key and the number of each record that is sealed, and the records that may arrive next.
//!
//! The sealing side assigns lane ids in ascending order and never reuses one in a generation. Each outgoing stream of
//! each link uses one lane at a time and changes to a fresh one when it reaches the [`Limits`]. So no key is ever used
//! with a nonce twice.
//!
//! The opening side accepts only the record numbers 0, 1, 2, … of a lane, so that it detects a lost, replayed,
//! reordered or moved record at once. A lane begins with a control record. The opening side decrypts that record on
//! arrival and only then creates the lane: an attacker with forged headers cannot use up lane ids, and a chunk record
//! always belongs to a lane that the peer began.
//!
//! Bounds: one lane per stream and direction. Of the used lane ids, the opening side remembers the contiguous start as
//! one number and at most [`SCATTERED`] ids above it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::record::{Header, Kind, LaneKey, Prepared, open_frame, seal_frame};
use crate::Instant;
use crate::handshake::{RecordKey, Suite};
use crate::wire::Violation;
use crate::wire::frame::PREFIX;
use crate::wire::peer::LaneCount;
use crate::wire::{BoundedVec, Frame};

/// A link is dead if one of its lanes has undelivered records and makes no progress for this long while the peer reads.
/// The time runs from the last keep-alive that reported progress, or that reported that the peer does not read.
pub const LANE_STALL: Duration = Duration::from_secs(30);
/// Each time this many bytes of a partial record have arrived, the link counts as alive.
pub const RECEIVED_BYTES: usize = 64 << 10;
/// How many lane ids above the contiguous ones are remembered; beyond that, the lowest unused ids are refused, too.
const SCATTERED: usize = 1024;

/// When an outgoing stream changes to a fresh lane.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of records in one lane, at least 2.
    pub records: u64,
    /// Bytes sealed in one lane; the last record may exceed it.
    pub bytes: u64,
}

impl Default for Limits {
    /// These limits are far below those of AES-256-GCM for one key.
    fn default() -> Self {
        Self { records: 1 << 32, bytes: 256 << 30 }
    }
}

/// How much of a lane has arrived, according to the peer's last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Position {
    records: u64,
    partial: u32,
}

/// This side's record key and the next unused lane id.
#[derive(Debug)]
pub(super) struct Sealing {
    key: RecordKey,
    suite: Suite,
    limits: Limits,
    /// `None` once all ids are used.
    next: Option<u32>,
}

impl Sealing {
    pub const fn new(key: RecordKey, suite: Suite, limits: Limits) -> Self {
        Self { key, suite, limits, next: Some(0) }
    }

    fn fresh_lane(&mut self) -> Option<OutLane> {
        let id = self.next?;
        let key = LaneKey::new(&self.key, self.suite, id)?;
        self.next = id.checked_add(1);
        Some(OutLane { id, key, next: 0, bytes: 0, delivered: Position::default(), standing: None })
    }

    #[cfg(test)]
    pub const fn skip_to(&mut self, lane: u32) {
        self.next = Some(lane);
    }
}

/// The lane of one outgoing stream.
#[derive(Debug)]
struct OutLane {
    id: u32,
    key: LaneKey,
    next: u64,
    bytes: u64,
    delivered: Position,
    /// Since when `delivered` has not increased although there are undelivered records.
    standing: Option<Instant>,
}

impl OutLane {
    /// Assigns the header of the next record, which has `len` bytes.
    fn number(&mut self, now: Instant, kind: Kind, len: usize) -> Header {
        let header = Header { kind, lane: self.id, number: self.next };
        self.standing.get_or_insert(now);
        self.next = self.next.saturating_add(1);
        self.bytes = self.bytes.saturating_add(len as u64);
        header
    }

    fn handle_count(&mut self, now: Instant, count: &LaneCount) -> Result<(), Violation> {
        if count.records > self.next {
            return Err(Violation::CountedUnsent);
        }
        let position = Position { records: count.records, partial: count.partial };
        if position > self.delivered {
            self.delivered = position;
            self.standing = (position.records < self.next).then_some(now);
        }
        Ok(())
    }
}

/// The outgoing streams of one link, each with its lane.
#[derive(Debug)]
pub(super) struct OutStreams {
    lanes: Vec<Option<OutLane>>,
}

impl OutStreams {
    /// Stream 0 and `streams` unidirectional streams.
    pub fn new(streams: u8) -> Self {
        Self { lanes: std::iter::repeat_with(|| None).take(usize::from(streams).saturating_add(1)).collect() }
    }

    pub fn has(&self, stream: u8) -> bool {
        usize::from(stream) < self.lanes.len()
    }

    /// Seals a control record made by `plain_control` for stream 0. `None`: no lane ids are left in this generation.
    pub fn seal_control(&mut self, now: Instant, sealing: &mut Sealing, mut plain: BytesMut) -> Option<Bytes> {
        let (lane, _) = self.lane(sealing, 0)?;
        let header = lane.number(now, Kind::Control, plain.len());
        seal_frame(&lane.key, header, &mut plain, 0)?;
        Some(plain.freeze())
    }

    /// Seals a chunk record. In a fresh lane, the control record of `opener` (made by `plain_control`) is sealed before
    /// it. Returns the chunk if no lane ids are left in this generation.
    pub fn seal_chunk(
        &mut self,
        now: Instant,
        sealing: &mut Sealing,
        stream: u8,
        chunk: Prepared,
        opener: impl FnOnce() -> Option<BytesMut>,
    ) -> Result<Bytes, Prepared> {
        let Some((lane, fresh)) = self.lane(sealing, stream) else { return Err(chunk) };
        let mut before = BytesMut::new();
        if fresh {
            let Some(plain) = opener() else { return Err(chunk) };
            before = plain;
            let header = lane.number(now, Kind::Control, before.len());
            if seal_frame(&lane.key, header, &mut before, 0).is_none() {
                return Err(chunk);
            }
        }
        let header = lane.number(now, Kind::Chunk, chunk.len());
        chunk.seal(&lane.key, header, &before)
    }

    /// The stream's lane, and whether it is a fresh one.
    fn lane(&mut self, sealing: &mut Sealing, stream: u8) -> Option<(&mut OutLane, bool)> {
        let limits = sealing.limits;
        let slot = self.lanes.get_mut(usize::from(stream))?;
        let used_up = |lane: &OutLane| lane.next >= limits.records.max(2) || lane.bytes >= limits.bytes;
        let fresh = slot.as_ref().is_none_or(used_up);
        if fresh {
            let mut lane = sealing.fresh_lane()?;
            // The old lane's undelivered records precede those of the new lane in the same stream.
            lane.standing = slot.as_ref().and_then(|old| old.standing);
            *slot = Some(lane);
        }
        slot.as_mut().map(|lane| (lane, fresh))
    }

    /// Processes the peer's report on its incoming lanes. It does not include lanes that the peer no longer uses.
    pub fn handle_counts(&mut self, now: Instant, counts: &[LaneCount]) -> Result<(), Violation> {
        for lane in self.lanes.iter_mut().flatten() {
            if let Some(count) = counts.iter().find(|count| count.lane == lane.id) {
                lane.handle_count(now, count)?;
            }
        }
        Ok(())
    }

    /// Restarts the stall timers: the time during which a side did not read does not count.
    pub fn restart_stall(&mut self, now: Instant) {
        for lane in self.lanes.iter_mut().flatten() {
            lane.standing = lane.standing.map(|_| now);
        }
    }

    /// When the first lane counts as stalled.
    pub fn stalls_at(&self) -> Option<Instant> {
        self.lanes.iter().flatten().filter_map(|lane| lane.standing).min().map(|since| since + LANE_STALL)
    }
}

/// The peer's record key and the lane ids that the peer has used.
#[derive(Debug)]
pub(super) struct Opening {
    key: RecordKey,
    suite: Suite,
    seen: SeenLanes,
}

impl Opening {
    pub const fn new(key: RecordKey, suite: Suite) -> Self {
        Self { key, suite, seen: SeenLanes::new() }
    }
}

/// The ids of all lanes that the peer has begun.
#[derive(Debug)]
struct SeenLanes {
    /// All ids below were used, or are too old to be used.
    floor: u64,
    above: BTreeSet<u32>,
}

impl SeenLanes {
    const fn new() -> Self {
        Self { floor: 0, above: BTreeSet::new() }
    }

    fn contains(&self, lane: u32) -> bool {
        u64::from(lane) < self.floor || self.above.contains(&lane)
    }

    fn insert(&mut self, lane: u32) {
        self.above.insert(lane);
        while let Some(&lowest) = self.above.first()
            && (u64::from(lowest) == self.floor || self.above.len() > SCATTERED)
        {
            self.above.pop_first();
            self.floor = u64::from(lowest).saturating_add(1);
        }
    }
}

/// The lane of one incoming stream.
#[derive(Debug)]
struct InLane {
    id: u32,
    key: Arc<LaneKey>,
    next: u64,
}

/// A record that arrived in order.
pub(super) enum Accepted {
    /// The plaintext of a control record.
    Control(BytesMut),
    /// A chunk record, to be decrypted in a job.
    Chunk { key: Arc<LaneKey>, header: Header, frame: Frame },
}

/// One incoming stream: its lane, and how much of its next record has arrived.
#[derive(Debug, Default)]
pub(super) struct InStream {
    lane: Option<InLane>,
    /// Bytes of the next record that have arrived.
    assembled: usize,
    /// The value of `assembled` that last counted as a sign of life.
    counted: usize,
}

impl InStream {
    /// Validates the next record of the stream. If it is refused, the state is unchanged.
    pub fn accept(&mut self, opening: &mut Opening, frame: Frame) -> Result<Accepted, Violation> {
        let header = Header::parse(&frame)?;
        let accepted = match &mut self.lane {
            Some(lane) if lane.id == header.lane => lane.accept(header, frame)?,
            Some(_) | None => {
                let (lane, plain) = begin_lane(opening, header, frame)?;
                self.lane = Some(lane);
                Accepted::Control(plain)
            }
        };
        (self.assembled, self.counted) = (0, 0);
        Ok(accepted)
    }

    /// `buffered` bytes of the next record have arrived. Returns true if that counts as a sign of life.
    pub const fn handle_progress(&mut self, buffered: usize) -> bool {
        self.assembled = buffered;
        let heard = buffered >= self.counted.saturating_add(RECEIVED_BYTES);
        if heard {
            self.counted = buffered;
        }
        heard
    }

    fn count(&self) -> Option<LaneCount> {
        let lane = self.lane.as_ref()?;
        let partial = u32::try_from(self.assembled).unwrap_or(u32::MAX);
        Some(LaneCount { lane: lane.id, records: lane.next, partial })
    }
}

/// Reports how much has arrived in the lanes of these streams.
pub(super) fn counts<'a>(streams: impl Iterator<Item = &'a InStream>) -> BoundedVec<LaneCount, 64> {
    BoundedVec::truncated(streams.filter_map(InStream::count).collect())
}

impl InLane {
    fn accept(&mut self, header: Header, frame: Frame) -> Result<Accepted, Violation> {
        if header.number != self.next {
            return Err(Violation::RecordOrder);
        }
        let accepted = match header.kind {
            Kind::Control => Accepted::Control(open_frame(&self.key, header, frame)?),
            Kind::Chunk => Accepted::Chunk { key: Arc::clone(&self.key), header, frame },
        };
        self.next = self.next.checked_add(1).ok_or(Violation::RecordOrder)?;
        Ok(accepted)
    }
}

/// Decrypts the first record of a new lane and creates the lane.
fn begin_lane(opening: &mut Opening, header: Header, frame: Frame) -> Result<(InLane, BytesMut), Violation> {
    match header.kind {
        Kind::Chunk => return Err(Violation::LaneStart),
        Kind::Control if header.number != 0 => return Err(Violation::RecordOrder),
        Kind::Control if opening.seen.contains(header.lane) => return Err(Violation::LaneReused),
        Kind::Control => {}
    }
    let key = LaneKey::new(&opening.key, opening.suite, header.lane).ok_or(Violation::BadRecord)?;
    let plain = open_frame(&key, header, frame)?;
    opening.seen.insert(header.lane);
    Ok((InLane { id: header.lane, key: Arc::new(key), next: 1 }, plain))
}

/// Length of `frame` on the wire, in bytes.
pub(super) const fn wire_len(frame: &Frame) -> usize {
    frame.len().saturating_add(PREFIX)
}

#[cfg(test)]
mod tests;
