//! The place of one node among those that share sockets, and how it is written into what others send back.
//!
//! A node that shares its sockets puts a *mark* where the other end repeats bytes of its choice: into each QUIC
//! connection id that it gives out, into STUN transaction ids, and into the tokens of its probes. The process that
//! owns the sockets reads the mark and so knows which node a datagram is for. To everybody without the key a mark is 8
//! random bytes, so that two transfers of one process cannot be linked by their marks.
//!
//! ```text
//! 0        5       7     8
//! │ random │ number │ 0  │      the last 3 bytes XOR the keyed hash of the first 5
//! ```
//! The zero byte rejects 255 of 256 random values, and the number most of the rest. A mark authenticates nothing: a
//! node judges each datagram as if it had a socket of its own.

use crate::seed::Seed;

/// Bytes of a mark.
pub const MARK: usize = 8;
/// Of these, random ones.
const RANDOM: usize = 5;

/// What marks are written and read with: one for all nodes that share sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SlotKey([u8; 32]);

impl SlotKey {
    /// A key of its own for each seed.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        Self(*seed.derive("slot key").bytes())
    }

    /// The slot with this number.
    #[must_use]
    pub const fn slot(self, number: u16) -> Slot {
        Slot { number, key: self }
    }

    /// The number in a mark. `None`: it is no mark of this key.
    #[must_use]
    pub fn read(&self, mark: &[u8; MARK]) -> Option<u16> {
        let (random, sealed) = mark.split_first_chunk::<RANDOM>()?;
        let mask = self.mask(random);
        let mut open = sealed.iter().zip(mask).map(|(sealed, mask)| sealed ^ mask);
        let (high, low, zero) = (open.next()?, open.next()?, open.next()?);
        (zero == 0).then_some(u16::from_be_bytes([high, low]))
    }

    fn mask(&self, random: &[u8; RANDOM]) -> [u8; 3] {
        let [first, second, third, ..] = *blake3::keyed_hash(&self.0, random).as_bytes();
        [first, second, third]
    }
}

/// It is secret.
impl std::fmt::Debug for SlotKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SlotKey(***)")
    }
}

/// See the module's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    number: u16,
    key: SlotKey,
}

impl Slot {
    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// Makes the first 8 of these random bytes a mark of this slot. Fewer stay as they are.
    pub fn mark(&self, bytes: &mut [u8]) {
        let Some((mark, _)) = bytes.split_first_chunk_mut::<MARK>() else { return };
        let Some((random, sealed)) = mark.split_first_chunk_mut::<RANDOM>() else { return };
        let [high, low] = self.number.to_be_bytes();
        let open = [high, low, 0];
        let masked = open.into_iter().zip(self.key.mask(random)).map(|(open, mask)| open ^ mask);
        sealed.iter_mut().zip(masked).for_each(|(sealed, masked)| *sealed = masked);
    }

    /// Whether a mark is one of this slot.
    #[must_use]
    pub fn owns(&self, mark: &[u8]) -> bool {
        mark.first_chunk().and_then(|mark| self.key.read(mark)) == Some(self.number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand_core::Rng;

    use super::*;

    #[test]
    fn a_mark_is_read_with_its_key_only() {
        let key = SlotKey::new(&Seed::new([1; 32]));
        let mut rng = Seed::new([3; 32]).rng();
        for number in [0, 1, 255, 256, u16::MAX] {
            let mut bytes = [0; 12];
            rng.fill_bytes(&mut bytes);
            let before = bytes;
            key.slot(number).mark(&mut bytes);
            assert_eq!((bytes[..5].to_vec(), bytes[8..].to_vec()), (before[..5].to_vec(), before[8..].to_vec()));
            assert_eq!(key.read(bytes.first_chunk().unwrap()), Some(number));
            assert!(key.slot(number).owns(&bytes) && !key.slot(number ^ 1).owns(&bytes));
        }
        let mut short = [7; 7];
        key.slot(1).mark(&mut short);
        assert!(short == [7; 7] && !key.slot(1).owns(&short));
    }

    #[test]
    fn random_bytes_are_a_mark_once_in_256() {
        let key = SlotKey::new(&Seed::new([1; 32]));
        let mut rng = Seed::new([2; 32]).rng();
        let read = (0..100_000).filter(|_| {
            let mut bytes = [0; 8];
            rng.fill_bytes(&mut bytes);
            key.read(&bytes).is_some()
        });
        let count = read.count();
        assert!((300..500).contains(&count), "{count}");
    }

    /// No byte of the marks of one slot is the same more often than chance makes it, nor differs from another slot's by
    /// a constant.
    #[test]
    fn the_marks_of_one_slot_have_nothing_in_common() {
        let key = SlotKey::new(&Seed::new([1; 32]));
        let mut rng = Seed::new([2; 32]).rng();
        for place in 0..MARK {
            let values: BTreeSet<u8> = (0..2000)
                .map(|_| {
                    let mut bytes = [0; 8];
                    rng.fill_bytes(&mut bytes);
                    key.slot(7).mark(&mut bytes);
                    bytes[place]
                })
                .collect();
            assert!(values.len() > 240, "byte {place}: {} values", values.len());
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = SlotKey::new(&Seed::new([1; 32]));
        assert_eq!(format!("{:?}", key.slot(3)), "Slot { number: 3, key: SlotKey(***) }");
    }
}
