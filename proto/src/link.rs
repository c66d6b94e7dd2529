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
#[cfg(feature = "internals")]
pub mod connections;
#[cfg(not(feature = "internals"))]
pub(crate) mod connections;
mod crypto;
pub(crate) mod http;
#[cfg(feature = "internals")]
pub mod proxy;
#[cfg(not(feature = "internals"))]
pub(crate) mod proxy;
#[cfg(feature = "internals")]
pub mod quic;
#[cfg(not(feature = "internals"))]
pub(crate) mod quic;
#[cfg(feature = "internals")]
pub mod race;
#[cfg(not(feature = "internals"))]
pub(crate) mod race;
mod read_write;
#[cfg(feature = "internals")]
pub mod tcp;
#[cfg(not(feature = "internals"))]
pub(crate) mod tcp;
#[cfg(feature = "internals")]
pub mod tcp_links;
#[cfg(not(feature = "internals"))]
pub(crate) mod tcp_links;
mod tls;
#[cfg(feature = "internals")]
pub mod trust;
#[cfg(not(feature = "internals"))]
pub(crate) mod trust;
#[cfg(feature = "internals")]
pub mod websocket;
#[cfg(not(feature = "internals"))]
pub(crate) mod websocket;

pub use proxy::{BadProxy, Proxy, ProxyFailure};
pub use quic::BadIdentity;
pub use race::{Allowed, Transport};
pub use trust::{CertificateRefused, Fingerprint, Identity, NotAFingerprint, Trust};
pub use websocket::Browsers;

#[cfg(feature = "internals")]
pub use read_write::{Read, Write};
#[cfg(not(feature = "internals"))]
pub(crate) use read_write::{Read, Write};
