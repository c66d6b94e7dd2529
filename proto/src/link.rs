//! Links: reliable byte streams between two ends, and the rules by which a certificate is trusted.
//!
//! A link protects nothing by itself: the session seals what crosses it. The link's TLS hides metadata and passes
//! firewalls.
//!
//! - [`connections`]: all connections of a node, QUIC or TCP, under one set of calls.
//! - [`quic`]: one QUIC endpoint with its connections, for clients and servers; the only place that knows quinn-proto.
//! - [`tcp`]: one TCP connection with the protocols in it: a proxy's first, then TLS, a WebSocket, or both.
//! - [`tcp_links`]: all TCP connections of a node, as its owner and the driver see them.
//! - [`websocket`]: frames and the upgrade before them.
//! - [`proxy`]: the conversation with a proxy (SOCKS 5, HTTP CONNECT) at the start of a TCP connection.
//! - [`race`]: which of several transports to a relay is used.
//! - [`trust`]: how a relay's certificate is validated and remembered.

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
