//! Links: reliable byte streams between two endpoints, and the rules for trusting a certificate.
//!
//! A link's security is not relied on: the session encrypts and authenticates all data. The link's TLS hides metadata
//! and passes firewalls.
//!
//! - [`connections`]: all connections of a node, QUIC or TCP, with one interface.
//! - [`quic`]: one QUIC endpoint with its connections, for clients and servers; the only module that uses quinn-proto.
//! - [`tcp`]: one TCP connection with the protocols in it: a proxy's protocol first, then TLS, a WebSocket, or both.
//! - [`tcp_links`]: all TCP connections of a node, for its owner and for the driver.
//! - [`websocket`]: the frames and the opening handshake of a WebSocket.
//! - [`proxy`]: the conversation with a proxy (SOCKS 5, HTTP CONNECT) at the start of a TCP connection.
//! - [`race`]: selects one of several transports to a relay.
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
    /// The next bytes as they arrived; never empty.
    Data(Bytes),
    /// Nothing can be read now; an event `Readable` follows.
    Blocked,
    /// All data was read; the stream is removed.
    End,
    /// The other side reset the stream with this code; the stream is removed.
    Reset(u32),
    /// The stream does not exist, or does not exist any more.
    Gone,
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// All bytes were accepted.
    Done,
    /// Bytes that were not accepted stay in place; an event `Writable` follows.
    Blocked,
    /// The other side stopped reading, with this code.
    Stopped(u32),
    /// The stream does not exist, or this side finished or reset it.
    Gone,
}
