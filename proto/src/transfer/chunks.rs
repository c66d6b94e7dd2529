//! The chunks of a transfer from their planning to their acknowledgement, each in exactly one state.
//!
//! ```text
//!  (begin) ──► making ──► ready ──► in flight ──► (acknowledged, and forgotten)
//!                ▲                      │ its link is gone
//! ▲                      │ its link is lost
//! ```
//! A chunk keeps its space in the window until it is acknowledged, also after it was lost: a receiver that writes in
//! order acknowledges none of the following chunks before it got this one again. It decides nothing; no timers.
//! Bound: its owner's window.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::body::Lost;
use super::chunk::Made;
use super::window::cost;
use crate::session::{LinkId, Prepared};
use crate::wire::peer::ChunkRange;

/// The state of a chunk.
enum ChunkState {
    /// In a job that reads, hashes and compresses it. `is_stored`: it was lost, but an acknowledgement arrived later.
    Making { is_stored: bool },
    /// Waiting to be taken for sending.
    Ready(Prepared),
    /// Taken and sealed for this link. `None`: it still waits for room on a link.
    InFlight(Option<LinkId>),
    /// Lost with its link: it has to be made again.
    Lost,
}

struct Chunk {
    state: ChunkState,
    /// How much of the window it uses.
    place: u64,
    /// The length of its contents in bytes; 0 before it was made for the first time.
    len: usize,
}

/// What an acknowledgement of a chunk changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// Which chunk.
    pub chunk: u64,
    /// The length of its contents in bytes.
    pub len: usize,
    /// How much of the window becomes free.
    pub released: u64,
    /// It was in flight, and not lost.
    pub was_in_flight: bool,
}

/// The chunks that are not acknowledged; see the module documentation.
#[derive(Default)]
pub(super) struct ChunkTable {
    chunks: BTreeMap<u64, Chunk>,
    /// The chunks that are ready, in the order in which they were made.
    ready: VecDeque<u64>,
    /// The chunks that are lost.
    lost: BTreeSet<u64>,
    making: usize,
    ready_bytes: u64,
}

impl ChunkTable {
    /// A chunk is being made for the first time, and reserves this much of the window.
    pub fn begin(&mut self, chunk: u64, place: u64) {
        self.chunks.insert(chunk, Chunk { state: ChunkState::Making { is_stored: false }, place, len: 0 });
        self.making = self.making.saturating_add(1);
    }

    /// A lost chunk is being made again.
    pub fn begin_again(&mut self, chunk: u64) {
        if self.lost.remove(&chunk)
            && let Some(known) = self.chunks.get_mut(&chunk)
        {
            known.state = ChunkState::Making { is_stored: false };
            self.making = self.making.saturating_add(1);
        }
    }

    /// A job made a chunk. Returns how much of its reserved window the chunk does not need.
    pub fn handle_made(&mut self, made: Made) -> u64 {
        let Made { chunk: number, plain, prepared, .. } = made;
        let Some(chunk) = self.chunks.get_mut(&number) else { return 0 };
        let ChunkState::Making { is_stored } = chunk.state else { return 0 };
        self.making = self.making.saturating_sub(1);
        if is_stored {
            return self.chunks.remove(&number).map_or(0, |chunk| chunk.place);
        }
        let place = cost(prepared.wire_len()).min(chunk.place);
        let released = chunk.place.saturating_sub(place);
        self.ready_bytes = self.ready_bytes.saturating_add(prepared.wire_len() as u64);
        self.ready.push_back(number);
        *chunk = Chunk { state: ChunkState::Ready(prepared), place, len: plain };
        released
    }

    /// A job made a chunk, and not as it was made before: it has to be made again. Gives what it no longer takes of the
    /// window.
    pub fn reject(&mut self, number: u64) -> u64 {
        let Some(chunk) = self.chunks.get_mut(&number) else { return 0 };
        let ChunkState::Making { is_stored } = chunk.state else { return 0 };
        self.making = self.making.saturating_sub(1);
        if is_stored {
            return self.chunks.remove(&number).map_or(0, |chunk| chunk.place);
        }
        chunk.state = ChunkState::Lost;
        self.lost.insert(number);
        0
    }

    /// The next chunk to be sealed; it counts as in flight from now on.
    pub fn fetch(&mut self) -> Option<(u64, Prepared)> {
        let number = self.ready.pop_front()?;
        let chunk = self.chunks.get_mut(&number)?;
        let ChunkState::Ready(prepared) = std::mem::replace(&mut chunk.state, ChunkState::InFlight(None)) else {
            return None;
        };
        self.ready_bytes = self.ready_bytes.saturating_sub(prepared.wire_len() as u64);
        Some((number, prepared))
    }

    /// A chunk that was taken is sealed for this link.
    pub fn handle_sealed(&mut self, chunk: u64, link: LinkId) {
        if let Some(Chunk { state: ChunkState::InFlight(on), .. }) = self.chunks.get_mut(&chunk) {
            *on = Some(link);
        }
    }

    /// The chunks in flight on a lost link are lost.
    pub fn lose(&mut self, lost: Lost) {
        for (number, chunk) in &mut self.chunks {
            if matches!(chunk.state, ChunkState::InFlight(link) if lost.includes(link)) {
                chunk.state = ChunkState::Lost;
                self.lost.insert(*number);
            }
        }
    }

    /// The receiver has all chunks of this range, each of which was sent at least once. Returns those for which this
    /// was not known.
    pub fn acknowledge(&mut self, range: ChunkRange) -> Vec<Acknowledged> {
        let numbers: Vec<u64> = self.chunks.range(range.first..=range.last).map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.acknowledge_one(number)).collect()
    }

    fn acknowledge_one(&mut self, number: u64) -> Option<Acknowledged> {
        let chunk = self.chunks.get_mut(&number)?;
        let len = chunk.len;
        // Its window is released when the job has finished.
        if let ChunkState::Making { is_stored } = &mut chunk.state {
            let was_stored = std::mem::replace(is_stored, true);
            let news = Acknowledged { chunk: number, len, released: 0, was_in_flight: false };
            return (!was_stored).then_some(news);
        }
        let Chunk { state, place: released, len } = self.chunks.remove(&number)?;
        match &state {
            ChunkState::Ready(prepared) => {
                self.ready.retain(|ready| *ready != number);
                self.ready_bytes = self.ready_bytes.saturating_sub(prepared.wire_len() as u64);
            }
            ChunkState::Lost => {
                self.lost.remove(&number);
            }
            ChunkState::InFlight(_) | ChunkState::Making { .. } => {}
        }
        let was_in_flight = matches!(state, ChunkState::InFlight(_));
        Some(Acknowledged { chunk: number, len, released, was_in_flight })
    }

    /// The lowest chunk that is lost.
    pub fn first_lost(&self) -> Option<u64> {
        self.lost.first().copied()
    }

    /// How many chunks are being made.
    pub const fn making(&self) -> usize {
        self.making
    }

    /// How many chunks are ready.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Bytes of the frames of ready chunks.
    pub const fn ready_bytes(&self) -> u64 {
        self.ready_bytes
    }

    /// How much of the window the chunks in flight on this link use.
    pub fn in_flight_on(&self, link: LinkId) -> u64 {
        let on_it = |chunk: &&Chunk| matches!(chunk.state, ChunkState::InFlight(Some(on)) if on == link);
        self.chunks.values().filter(on_it).fold(0, |sum, chunk| sum.saturating_add(chunk.place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(chunk: u64, len: usize) -> Made {
        Made {
            chunk,
            hash: [0; 32],
            plain: len,
            prepared: Prepared::zeroed(len),
            failures: Vec::new(),
            drifts: Vec::new(),
        }
    }

    fn range(first: u64, last: u64) -> ChunkRange {
        ChunkRange { first, last }
    }

    /// In flight on link 1.
    fn in_flight(table: &mut ChunkTable, chunk: u64) {
        table.begin(chunk, 1 << 20);
        assert!(table.handle_made(made(chunk, 100)) > 0);
        assert_eq!(table.fetch().map(|(number, _)| number), Some(chunk));
        table.handle_sealed(chunk, LinkId(1));
    }

    #[test]
    fn a_chunk_in_flight_is_forgotten_once_acknowledged() {
        let mut table = ChunkTable::default();
        in_flight(&mut table, 3);
        let place = table.in_flight_on(LinkId(1));
        let expected = Acknowledged { chunk: 3, len: 100, released: place, was_in_flight: true };
        assert_eq!(table.acknowledge(range(0, 9)), [expected]);
        assert_eq!((table.acknowledge(range(0, 9)), table.in_flight_on(LinkId(1)), table.chunks.len()), (vec![], 0, 0));
    }

    #[test]
    fn lost_chunk_is_released_once_in_any_state() {
        // Acknowledged while it is lost, while it is made again, and while it is ready again.
        for again in 0..3 {
            let mut table = ChunkTable::default();
            in_flight(&mut table, 0);
            let place = table.in_flight_on(LinkId(1));
            table.lose(Lost::On(LinkId(2)));
            assert_eq!(table.first_lost(), None, "sealed for another link");
            table.lose(Lost::On(LinkId(1)));
            assert_eq!(table.first_lost(), Some(0));
            let mut released = 0;
            if again > 0 {
                table.begin_again(0);
            }
            if again > 1 {
                released += table.handle_made(made(0, 100));
            }
            let acknowledged = table.acknowledge(range(0, 0));
            assert_eq!(acknowledged.len(), 1);
            assert!(acknowledged.iter().all(|chunk| chunk.len == 100 && !chunk.was_in_flight));
            assert_eq!(table.acknowledge(range(0, 0)), []);
            released += acknowledged.iter().map(|chunk| chunk.released).sum::<u64>();
            if again == 1 {
                released += table.handle_made(made(0, 100));
            }
            assert_eq!(released, place);
            assert!(table.fetch().is_none() && table.first_lost().is_none());
            assert_eq!((table.making(), table.ready(), table.ready_bytes(), table.chunks.len()), (0, 0, 0, 0));
        }
    }

    #[test]
    fn chunk_without_link_is_lost_only_when_all_links_are() {
        let mut table = ChunkTable::default();
        table.begin(0, 1 << 20);
        table.handle_made(made(0, 1));
        let _ = table.fetch();
        table.lose(Lost::On(LinkId(1)));
        assert_eq!(table.first_lost(), None);
        table.lose(Lost::All);
        assert_eq!(table.first_lost(), Some(0));
    }
}
