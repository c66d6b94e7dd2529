//! Journals of staging directories, as they may be found on a disk.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tallow_fuzz::steps::steps;
use tallow_proto::transfer::journal::{Header, Reader, Stored, Writer};

// Whether nothing follows the good batches (one byte), where they are cut (two bytes), then steps: a journal, and the
// entries of the good batches, three bytes each.
fuzz_target!(|data: &[u8]| {
    let Some((&[valid, high, low], data)) = data.split_first_chunk::<3>() else { return };
    let (valid, cut) = (valid % 2 == 1, usize::from(u16::from_be_bytes([high, low])));
    let mut steps = steps(data).map(|(_, body)| body);
    let (bytes, entries) = (steps.next().unwrap_or_default(), steps.next().unwrap_or_default());
    let entries: Vec<(u16, u8)> =
        entries.as_chunks().0.iter().map(|&[high, low, hash]| (u16::from_be_bytes([high, low]), hash)).collect();
    if let Ok((header, len)) = Header::decode(bytes) {
        assert_eq!(header.encode(), bytes[..len]);
        read(&header, &bytes[..len], &bytes[len..]);
    }
    // After a good header, with good batches first.
    let header =
        Header { digest: [1; 32], chunk_size: 1 << 16, chunks: 1 << 16, bytes: 1 << 32, entries: 1, label: "x".into() };
    let encoded = header.encode();
    let mut writer = Writer::new(&encoded, encoded.len() as u64);
    let mut journal = Vec::new();
    for batch in entries.chunks(3) {
        let stored: Vec<_> =
            batch.iter().map(|&(chunk, hash)| Stored { chunk: chunk.into(), hash: [hash; 32] }).collect();
        let appended = writer.encode(&stored);
        writer.appended(appended.len() as u64);
        journal.extend_from_slice(&appended);
    }
    let whole = read(&header, &encoded, &journal);
    assert_eq!(whole.1, writer.end());
    journal.truncate(cut % (journal.len() + 1));
    if !valid {
        journal.extend_from_slice(bytes);
    }
    let torn = read(&header, &encoded, &journal);
    assert!(torn.1 <= (encoded.len() + journal.len()) as u64);
    // Entries with a valid checksum were written by the test: the fuzzer can't forge one.
    assert!(torn.0.iter().all(|stored| entries.iter().any(|&(chunk, _)| u64::from(chunk) == stored.chunk)));
});

fn read(header: &Header, encoded: &[u8], bytes: &[u8]) -> (Vec<Stored>, u64) {
    let mut reader = Reader::new(header, encoded);
    for piece in bytes.chunks(7) {
        if !reader.push(piece) {
            break;
        }
    }
    reader.finish()
}
