//! Links: reliable byte TCP connections between two ends, and whom they believe.
//!
//! A link protects nothing by itself: what crosses it is sealed by the session. Its TLS hides
//! metadata and passes firewalls.
//!
//! - [`connections`]: all connections of a node, QUIC or TCP, under one set of calls.
//! - [`quic`]: one QUIC endpoint with its connections, for clients and servers; the only place that knows quinn-proto.
//! - [`TCP connection`]: one TCP connection with what runs in it: TLS, a WebSocket with TLS or
//!   without, a proxy's words before them.
//! - [`TCP connections`]: all TCP connections of a node, as its owner and the driver see them.
//! - [`websocket`]: frames and the upgrade before them.
//! - [`proxy`]: the way through a proxy, before anything else in a TCP connection.
//! - [`race`]: which of several ways to a relay is taken.
//! - [`trust`]: how a relay's certificate is judged, and what it is known by.

mod buffers;
pub mod connections;
mod crypto;
pub(crate) mod http;
pub mod proxy;
pub mod quic;
pub mod race;
pub mod tcp;
pub mod tcp_links;
mod tls;
pub mod trust;
pub mod websocket;

use bytes::Bytes;

/// The result of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next bytes, never none, as they arrived.
    Data(Bytes),
    /// Nothing now; an event `Readable` follows.
    Blocked,
    /// All was read; the stream is gone.
    End,
    /// The other side gave up the stream with this code; it is gone.
    Reset(u32),
    /// No such stream, or no longer.
    Gone,
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// All was taken.
    Done,
    /// What was not taken is left in place; an event `Writable` follows.
    Blocked,
    /// The other side reads no more, and gave this code.
    Stopped(u32),
    /// No such stream, or it was finished or reset.
    Gone,
}
