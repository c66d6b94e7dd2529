//! Asynchronous readers as the source of a transfer, and writers as its destination.

use std::pin::Pin;
use std::sync::Arc;

use smol::io::{AsyncRead, AsyncWrite};
use tallow_proto::peer::Payload;
use tallow_proto::transfer::storage::StreamSink;
use tallow_runtime::bridge::{self, WriteOp};

/// Sends the bytes of `reader` to its end, as a stream.
///
/// A separate task reads, and drops the reader when the transfer has ended.
#[must_use]
pub fn reader(reader: impl AsyncRead + Send + 'static) -> Payload {
    let (source, feeder) = bridge::source();
    let mut reader = Box::pin(reader);
    smol::spawn(bridge::feed(feeder, move |cx, into| reader.as_mut().poll_read(cx, into))).detach();
    Payload::Stream(Arc::new(source))
}

/// Receives into `writer`: for [`crate::StreamOffer::accept`].
///
/// Bytes count as received when they are written and flushed. A separate task writes, closes the writer after the
/// last byte of a complete transfer, and drops it.
#[must_use]
pub fn writer(writer: impl AsyncWrite + Send + 'static) -> Arc<dyn StreamSink> {
    let (sink, drainer) = bridge::sink();
    let mut writer = Box::pin(writer);
    smol::spawn(bridge::drain(drainer, move |cx, ask| {
        let writer: Pin<&mut _> = writer.as_mut();
        match ask {
            WriteOp::Write(bytes) => writer.poll_write(cx, bytes),
            WriteOp::Flush => writer.poll_flush(cx).map_ok(|()| 0),
            WriteOp::Close => writer.poll_close(cx).map_ok(|()| 0),
        }
    }))
    .detach();
    Arc::new(sink)
}
