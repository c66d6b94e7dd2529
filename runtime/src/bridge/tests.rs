use std::thread;

use super::*;

const SOON: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

/// All bytes of a source.
fn all(source: &BridgeSource) -> Result<Vec<u8>, Fault> {
    let (mut all, mut piece) = (Vec::new(), [0; 1000]);
    loop {
        match source.read(&mut piece, LONG)? {
            Read::Bytes(count) => all.extend_from_slice(&piece[..count.get()]),
            Read::NotYet => {}
            Read::End => return Ok(all),
        }
    }
}

fn bytes() -> Vec<u8> {
    (0..1_000_000_u32).map(|i| (i % 251) as u8).collect()
}

#[test]
fn reader_is_read_to_eof_within_buffer_bound() {
    let (source, feeder) = source();
    let bytes = bytes();
    let mut left = bytes.clone();
    let shared = source.0.clone();
    let task = thread::spawn(move || {
        smol::block_on(feed(feeder, |_, into| {
            assert!(shared.lock().bytes.len() <= ROOM);
            let count = left.len().min(into.len()).min(7_777);
            into[..count].copy_from_slice(&left[..count]);
            left.drain(..count);
            Poll::Ready(Ok(count))
        }));
    });
    assert!(all(&source).unwrap() == bytes);
    task.join().unwrap();
}

#[test]
fn reader_error_ends_stream_with_its_text() {
    let (source, feeder) = source();
    smol::block_on(feed(feeder, |_, _| Poll::Ready(Err(io::Error::other("the line was cut")))));
    assert_eq!(all(&source).unwrap_err().to_string(), "the line was cut");
}

#[test]
fn dropped_bridge_task_is_a_fault_on_either_side() {
    let (source, feeder) = source();
    drop(feeder);
    assert!(source.read(&mut [0; 8], SOON).is_err());
    let (sink, drainer) = sink();
    drop(drainer);
    assert!(sink.write(b"x", SOON).is_err());
}

#[test]
fn dropped_source_ends_task_of_silent_reader() {
    let (source, feeder) = source();
    let task = thread::spawn(move || smol::block_on(feed(feeder, |_, _| Poll::Pending)));
    assert_eq!(source.read(&mut [0; 8], SOON), Ok(Read::NotYet));
    drop(source);
    task.join().unwrap();
}

#[test]
fn bytes_are_accepted_once_flushed_and_writer_is_closed() {
    let (sink, drainer) = sink();
    let written = Arc::new(Mutex::new((Vec::new(), 0, false)));
    let writer = written.clone();
    let task = thread::spawn(move || {
        smol::block_on(drain(drainer, |_, ask| {
            let mut writer = writer.lock().unwrap();
            match ask {
                WriteOp::Write(bytes) => {
                    let count = bytes.len().min(333);
                    writer.0.extend_from_slice(&bytes[..count]);
                    return Poll::Ready(Ok(count));
                }
                WriteOp::Flush => writer.1 = writer.0.len(),
                WriteOp::Close => writer.2 = true,
            }
            Poll::Ready(Ok(0))
        }));
    });
    let bytes = bytes();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let count = sink.write(&rest[..rest.len().min(100_000)], LONG).unwrap();
        rest = &rest[count..];
        assert_eq!(written.lock().unwrap().1, bytes.len() - rest.len(), "flushed");
    }
    drop(sink);
    task.join().unwrap();
    assert!(*written.lock().unwrap() == (bytes.clone(), bytes.len(), true));
}

#[test]
fn blocked_writer_blocks_no_thread_or_task() {
    let (sink, drainer) = sink();
    let task = thread::spawn(move || smol::block_on(drain(drainer, |_, _| Poll::Pending)));
    for _ in 0..3 {
        assert_eq!(sink.write(b"hello", SOON), Ok(0));
    }
    drop(sink);
    task.join().unwrap();
}

#[test]
fn writer_error_is_returned_by_next_write() {
    let (sink, drainer) = sink();
    let task = thread::spawn(move || {
        smol::block_on(drain(drainer, |_, _| Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe)))));
    });
    assert_eq!(sink.write(b"x", LONG).unwrap_err().to_string(), "broken pipe");
    task.join().unwrap();
}
