//! The file `relay_transports`: the transport over which each relay answered the last time. It only makes a start
//! faster, so errors are treated like a missing file. No states, no timers.

use std::path::Path;

use tallow_proto::link::Transport;

use crate::named_lines::NamedLines;
use crate::state::StoreError;

const FILE: &str = "relay_transports";

/// The transports that were used last.
#[derive(Debug)]
pub struct RelayTransports(NamedLines);

impl RelayTransports {
    /// Reads the file of a state directory, which need not exist.
    ///
    /// # Errors
    /// The file exists and can't be read.
    pub fn load(dir: &Path) -> Result<Self, StoreError> {
        NamedLines::load(dir, FILE).map(Self)
    }

    /// The transport over which the relay answered.
    #[must_use]
    pub fn get(&self, relay: &str) -> Option<Transport> {
        self.0.get(relay, parse)
    }

    /// Stores the transport over which the relay answered.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn keep(&mut self, relay: &str, transport: Transport) -> Result<(), StoreError> {
        match name(transport) {
            Some(name) => self.0.put(relay, Some(name), |value| parse(value).is_some()),
            None => Ok(()),
        }
    }
}

/// The transport's word in the file; one without a word is not stored.
const fn name(transport: Transport) -> Option<&'static str> {
    match transport {
        Transport::Quic => Some("quic"),
        Transport::Tls => Some("tcp"),
        Transport::WebSocket => Some("websocket"),
        _ => None,
    }
}

fn parse(text: &str) -> Option<Transport> {
    [Transport::Quic, Transport::Tls, Transport::WebSocket].into_iter().find(|&transport| name(transport) == Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_transport_is_stored_for_each_relay() {
        let dir = tempfile::tempdir().unwrap();
        let mut transports = RelayTransports::load(dir.path()).unwrap();
        assert_eq!(transports.get("a.example"), None);
        transports.keep("A.example", Transport::Tls).unwrap();
        transports.keep("b.example:99", Transport::WebSocket).unwrap();
        transports.keep("b.example:99", Transport::Quic).unwrap();
        let again = RelayTransports::load(dir.path()).unwrap();
        assert_eq!(again.get("a.example"), Some(Transport::Tls));
        assert_eq!(again.get("b.example:99"), Some(Transport::Quic));
        std::fs::write(dir.path().join(FILE), "a.example carrier-pigeon\n\u{1b}[2J\n").unwrap();
        assert_eq!(RelayTransports::load(dir.path()).unwrap().get("a.example"), None);
    }
}
