//! The sealed records that `docs/vectors/make.py` generated from the protocol document alone.

use super::*;
use crate::handshake::vectors::Vectors;

#[test]
fn sealed_record_vectors_match() {
    let mut keys = Vectors::new(|name| name.starts_with("schedule.records."));
    let mut vectors = Vectors::new(|name| name.starts_with("record.") || name.starts_with("frame.record."));
    let (sender, receiver) = (keys.array("schedule.records.sender"), keys.array("schedule.records.receiver"));
    let rows = [
        ("control", sender, Header { kind: Kind::Control, lane: 0, number: 0 }),
        ("chunk", receiver, Header { kind: Kind::Chunk, lane: 0x0102_0304, number: 0x0506_0708_090a_0b0c }),
        ("empty", sender, Header { kind: Kind::Control, lane: u32::MAX, number: u64::MAX }),
    ];
    for (name, key, header) in rows {
        assert_eq!(header.to_bytes(), vectors.array(&format!("record.{name}.header")));
        let plaintext = vectors.bytes(&format!("record.{name}.plaintext"));
        let lane_key = vectors.array(&format!("record.{name}.lane_key"));
        for (suffix, suite) in [("aes", Suite::Aes256Gcm), ("chacha", Suite::ChaCha20Poly1305)] {
            let key = LaneKey::new(&RecordKey::new(key), suite, header.lane).unwrap();
            assert_eq!(key.bytes, lane_key);
            let mut buffer = BytesMut::zeroed(HEADROOM);
            buffer.extend_from_slice(&plaintext);
            seal_frame(&key, header, &mut buffer, 0).unwrap();
            assert_eq!(buffer, vectors.bytes(&format!("frame.record.{name}.{suffix}")));

            let frame = Frame::from(buffer.split_off(PREFIX).freeze());
            assert_eq!(Header::parse(&frame), Ok(header));
            assert_eq!(open_frame(&key, header, frame).unwrap(), plaintext);
        }
    }
    vectors.end();
}
