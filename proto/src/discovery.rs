//! Discovery of a sender's embedded relay on the local network, without a server: multicast DNS (RFC 6762) with DNS-SD
//! (RFC 6763).

pub mod mdns;
mod message;
