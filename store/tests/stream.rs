//! Descriptors as streams: pipes that are empty, full, and left.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tallow_proto::transfer::storage::{FaultKind, Read, StreamSink, StreamSource};
use tallow_store::{StreamIn, StreamOut};

const NONE: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_millis(20);

fn count(read: Read) -> usize {
    match read {
        Read::Bytes(count) => count.get(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pipe_is_read_as_data_arrives_and_ends_once() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let source = StreamIn::new(reader, "a pipe");
    let mut into = [0; 100];
    assert_eq!(source.read(&mut into, SOON).unwrap(), Read::NotYet);
    writer.write_all(b"abc").unwrap();
    assert_eq!(count(source.read(&mut into, SOON).unwrap()), 3);
    assert_eq!(&into[..3], b"abc");
    writer.write_all(&[1; 150]).unwrap();
    drop(writer);
    assert_eq!(count(source.read(&mut into, NONE).unwrap()), 100);
    assert_eq!(count(source.read(&mut into, NONE).unwrap()), 50, "what there is, before the end");
    assert_eq!(source.read(&mut into, NONE).unwrap(), Read::End);
    assert_eq!(source.read(&mut into, NONE).unwrap(), Read::End);
}

#[test]
fn an_unreadable_descriptor_is_named() {
    let dir = std::fs::File::open(tempfile::tempdir().unwrap().path()).unwrap();
    let fault = StreamIn::new(dir, "a directory").read(&mut [0; 10], SOON).unwrap_err();
    assert_eq!(fault.path.as_deref(), Some("a directory"));
    assert_eq!(fault.kind, FaultKind::Io(std::io::ErrorKind::IsADirectory));
}

#[test]
fn a_full_pipe_accepts_nothing_and_does_not_block() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let sink = StreamOut::new(writer, "a pipe");
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut written = sink.write(&bytes, SOON).unwrap();
    assert!(written > 0 && written < bytes.len(), "{written}");
    assert_eq!(sink.write(&bytes[written..], SOON).unwrap(), 0);
    let reading = std::thread::spawn(move || {
        let mut read = Vec::new();
        reader.read_to_end(&mut read).map(|_| read)
    });
    while written < bytes.len() {
        written += sink.write(&bytes[written..], Duration::from_secs(5)).unwrap();
    }
    drop(sink);
    assert!(reading.join().unwrap().unwrap() == bytes);
}

#[test]
fn closed_reader_causes_broken_pipe() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let fault = StreamOut::new(writer, "a pipe").write(b"x", SOON).unwrap_err();
    assert_eq!((fault.kind, fault.path.as_deref()), (FaultKind::Io(std::io::ErrorKind::BrokenPipe), Some("a pipe")));
}

#[test]
fn a_file_is_read_and_written_whole() {
    let mut file = tempfile::tempfile().unwrap();
    let sink = StreamOut::new(OwnedFd::from(file.try_clone().unwrap()), "a file");
    assert_eq!(sink.write(&[7; 300_000], NONE).unwrap(), 300_000);
    std::io::Seek::rewind(&mut file).unwrap();
    let mut into = vec![0; 1 << 20];
    assert_eq!(count(StreamIn::new(file, "a file").read(&mut into, NONE).unwrap()), 300_000);
    assert!(into[..300_000].iter().all(|byte| *byte == 7));
    // The device has no space, and the cause is reported unchanged.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let fault = StreamOut::new(full, "a device").write(b"x", SOON).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Io(std::io::ErrorKind::StorageFull));
}
