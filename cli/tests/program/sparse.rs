//! Files with holes.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use serde_json::Value;

use super::stage::{Home, Relay, receiving, sending};

#[test]
fn a_hundred_gibibytes_with_one_block_of_data_arrive_at_once() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let path = home.path("from").join("disk.img");
    let image = fs::File::create(&path).unwrap();
    image.set_len(100 << 30).unwrap();
    image.write_all_at(&[7; 4096], 60 << 30).unwrap();
    let dir = home.path("from");
    fs::write(dir.join("beside"), "x").unwrap();
    let (sender, code) = sending(&home, &relay, dir.to_str().unwrap(), &["--json", "--limit", "100K"]);
    let received = receiving(&home, &relay).args(["--json", "--yes", &code]).piped(b"").end();
    received.is(0, "Offered: 2 files, 100.0 GiB (4.0 KiB without holes)");
    received.is(0, "sparse");
    received.is(0, "Received 2 files, 100.0 GiB in");
    let sent = sender.end();
    sent.is(0, "Sending 2 files, 100.0 GiB (4.0 KiB without holes)");
    let events = sent.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let sending = events.into_iter().find(|event| event["event"] == "sending").unwrap();
    assert_eq!((sending["bytes"].as_u64(), sending["data"].as_u64()), (Some((100 << 30) + 1), Some(4097)));
    let arrived = fs::File::open(home.path("into").join("from/disk.img")).unwrap();
    let metadata = arrived.metadata().unwrap();
    assert_eq!(metadata.len(), 100 << 30);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    let mut around = [1; 3 * 4096];
    arrived.read_exact_at(&mut around, (60 << 30) - 4096).unwrap();
    assert_eq!(around[..], [[0; 4096], [7; 4096], [0; 4096]].concat());
}

#[test]
fn into_a_pipe_a_sparse_file_is_written_with_its_holes() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let path = home.path("from").join("disk.img");
    let image = fs::File::create(&path).unwrap();
    image.set_len(3 << 20).unwrap();
    image.write_all_at(b"in the middle", 1 << 20).unwrap();
    let (sender, code) = sending(&home, &relay, path.to_str().unwrap(), &[]);
    let received = receiving(&home, &relay).args(["--stdout", "--yes", &code]).piped(b"").end();
    sender.end().is(0, "Sent 1 file");
    assert_eq!(received.code, 0, "{}", received.shown);
    assert!(received.raw.ends_with(received.out.as_bytes()) && received.out.len() == 3 << 20, "{}", received.out.len());
    assert_eq!(received.out.find("in the middle"), Some(1 << 20));
    assert!(received.out.bytes().filter(|byte| *byte != 0).count() == 13);
}
