//! Links: reliable byte pipes between two ends, and whom they believe.
//!
//! A link protects nothing by itself: what crosses it is sealed by the session. Its TLS hides metadata and passes firewalls.
//!
//! - [`quic`]: one QUIC endpoint with its connections, for clients and servers; the only place that knows quinn-proto.
//! - [`trust`]: how a relay's certificate is judged, and what it is known by.

pub mod quic;
pub mod trust;
