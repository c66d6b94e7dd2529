//! Journals that are complete, truncated, damaged, or of another transfer.

use proptest::prelude::*;

use super::*;

fn header() -> Header {
    Header {
        digest: [7; 32],
        layout: [8; 32],
        chunk_size: 1 << 16,
        chunks: 5000,
        bytes: 5000 << 16,
        entries: 3,
        label: "photos".into(),
    }
}

fn stored(chunk: u64) -> Stored {
    Stored { chunk, hash: *blake3::hash(&chunk.to_be_bytes()).as_bytes() }
}

/// A journal of these batches, and the offset at which each of them ends.
fn written(header: &Header, batches: &[Vec<Stored>]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = header.encode();
    let mut writer = Writer::new(&bytes, bytes.len() as u64);
    let mut ends = vec![bytes.len()];
    for batch in batches {
        let appended = writer.encode(batch);
        writer.appended(appended.len() as u64);
        bytes.extend_from_slice(&appended);
        ends.push(bytes.len());
    }
    assert_eq!(writer.end(), bytes.len() as u64);
    (bytes, ends)
}

fn read(bytes: &[u8], piece: usize) -> Result<(Vec<Stored>, u64), Damage> {
    let (header, len) = Header::decode(bytes)?;
    let (encoded, rest) = bytes.split_at(len);
    let mut reader = Reader::new(&header, encoded);
    for piece in rest.chunks(piece.max(1)) {
        if !reader.push(piece) {
            break;
        }
    }
    Ok(reader.finish())
}

fn numbers(stored: &[Stored]) -> Vec<u64> {
    stored.iter().map(|stored| stored.chunk).collect()
}

#[test]
fn journal_header_round_trips_and_damage_is_detected() {
    let encoded = header().encode();
    assert_eq!(Header::decode(&encoded), Ok((header(), encoded.len())));
    let mut long = encoded.clone();
    long.extend_from_slice(&[1; 100]);
    assert_eq!(Header::decode(&long), Ok((header(), encoded.len())));
    for len in 0..encoded.len() {
        assert_eq!(Header::decode(&encoded[..len]), Err(Damage::NotOne), "{len}");
    }
    let mut next = encoded.clone();
    next[9] += 1;
    assert_eq!(Header::decode(&next), Err(Damage::Version(VERSION + 1)));
    for bit in 0..encoded.len() * 8 {
        let mut bad = encoded.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&bad).is_err(), "bit {bit}");
    }
    let escape = Header { label: "a\x1b[2J".into(), ..header() };
    assert_eq!(Header::decode(&escape.encode()), Err(Damage::Checksum), "a name that no manifest has");
    let long = Header { label: "é".repeat(200).into(), ..header() };
    let encoded = long.encode();
    assert!(encoded.len() <= Header::MAX);
    assert_eq!(Header::decode(&encoded).unwrap().0.label.len(), 254);
}

#[test]
fn last_journal_entry_of_a_chunk_counts() {
    let other = Stored { chunk: 2, hash: [9; 32] };
    let (bytes, _) = written(&header(), &[vec![stored(3), stored(2), stored(1)], vec![other], vec![stored(4999)]]);
    let (found, end) = read(&bytes, 10).unwrap();
    assert_eq!(found, [stored(1), other, stored(3), stored(4999)]);
    assert_eq!(end, bytes.len() as u64);
}

#[test]
fn journal_ignores_chunks_outside_transfer() {
    let (bytes, _) = written(&header(), &[vec![stored(5000), stored(u64::MAX), stored(0)]]);
    assert_eq!(numbers(&read(&bytes, 1000).unwrap().0), [0]);
}

#[test]
fn entries_beyond_batch_size_are_split() {
    let all: Vec<_> = (0..BATCH as u64 * 2 + 1).map(stored).collect();
    let (bytes, _) = written(&header(), std::slice::from_ref(&all));
    assert_eq!(read(&bytes, 4096).unwrap(), (all, bytes.len() as u64));
}

#[test]
fn journal_reader_memory_is_bounded() {
    let header = Header { chunks: u64::MAX, ..header() };
    let encoded = header.encode();
    let mut reader = Reader::new(&header, &encoded);
    let mut writer = Writer::new(&encoded, encoded.len() as u64);
    for batch in 0..=(MOST / BATCH) as u64 {
        let entries: Vec<_> = (0..BATCH as u64).map(|n| Stored { chunk: batch * 1024 + n, hash: [1; 32] }).collect();
        let bytes = writer.encode(&entries);
        writer.appended(bytes.len() as u64);
        assert!(reader.push(&bytes));
        assert!(reader.buffer.capacity() <= 2 * (BATCH * ENTRY + 18));
    }
    assert_eq!(reader.finish().0.len(), MOST);
}

#[test]
fn batch_of_other_journal_or_offset_is_ignored() {
    let batches = [vec![stored(1)], vec![stored(2)], vec![stored(3)]];
    let (bytes, ends) = written(&header(), &batches);
    let foreign = Header { digest: [8; 32], ..header() };
    let (other, _) = written(&foreign, &batches);
    // Batches of the other journal after this header.
    let mut spliced = bytes[..ends[1]].to_vec();
    spliced.extend_from_slice(&other[ends[1]..]);
    assert_eq!(read(&spliced, 64).unwrap(), (vec![stored(1)], ends[1] as u64));
    // One batch is missing: the following batches are at other offsets.
    let mut moved = bytes[..ends[1]].to_vec();
    moved.extend_from_slice(&bytes[ends[2]..]);
    assert_eq!(read(&moved, 64).unwrap(), (vec![stored(1)], ends[1] as u64));
}

fn batches() -> impl Strategy<Value = Vec<Vec<Stored>>> {
    prop::collection::vec(prop::collection::vec((0..5000_u64).prop_map(stored), 1..8), 0..8)
}

proptest! {
    /// Wherever it is truncated or damaged: all batches before that are read, and none after.
    #[test]
    fn a_torn_or_damaged_tail_is_cut_off(
        batches in batches(),
        cut in any::<prop::sample::Index>(),
        flip in prop::option::of((any::<prop::sample::Index>(), 0..8_u32)),
        piece in 1..200_usize,
    ) {
        let (mut bytes, ends) = written(&header(), &batches);
        bytes.truncate(ends[0] + cut.index(bytes.len() - ends[0] + 1));
        let mut good = bytes.len();
        if let Some((at, bit)) = flip && bytes.len() > ends[0] {
            let at = ends[0] + at.index(bytes.len() - ends[0]);
            bytes[at] ^= 1 << bit;
            good = at;
        }
        let whole = ends.iter().filter(|end| **end <= good).count() - 1;
        let (found, end) = read(&bytes, piece).unwrap();
        prop_assert_eq!(end, ends[whole] as u64);
        let mut expected: Vec<_> = batches[..whole].iter().flatten().map(|stored| stored.chunk).collect();
        expected.sort_unstable();
        expected.dedup();
        prop_assert_eq!(numbers(&found), expected);
    }

    #[test]
    fn journal_reader_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), piece in 1..50_usize) {
        let mut journal = header().encode();
        let len = journal.len();
        journal.extend_from_slice(&bytes);
        prop_assert_eq!(read(&journal, piece).unwrap(), (vec![], len as u64));
        prop_assert!(read(&bytes, piece).is_err());
    }
}
