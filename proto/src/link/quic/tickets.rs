//! TLS session tickets of connections to relays, with which the next connection can send 0-RTT data (RFC 9001 §4.6).
//!
//! Decides which ticket is used for which connection. An attacker can record and replay the 0-RTT data of a resumed
//! connection (RFC 8446 §8), and the server presents no certificate in it. Therefore:
//! - A relay stores its sessions in memory and removes each one when it is used, so a ticket is valid for one
//!   resumption and until the relay restarts. (rustls requires this for early data.) `room` decides which requests it
//!   accepts as early data.
//! - A client uses a ticket only for the address and the name for which it got it, and only if the present trust rule
//!   accepts the certificate that the server presented then. Each cached server has its own verifier, and only one
//!   connection at a time uses it, so that the verifier's verdict belongs to that connection.
//! - Tickets stay in memory, because rustls cannot serialize them.
//!
//! No timers: rustls limits the lifetime of tickets to a day. Bounds: a client caches [`MAX_RELAYS`] servers with
//! [`TICKETS`] tickets each, and a server stores as many sessions as its owner allows. The oldest are evicted; a client
//! whose session was evicted needs one more round trip.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::server::StoresServerSessions;

use super::super::trust::{Trust, Verifier};

/// Tickets that a server issues to each connection: one for the next connection, and one more in case its first flight
/// is lost.
pub(super) const TICKETS: usize = 2;
/// Maximum number of servers that a client caches; each is one address and name.
const MAX_RELAYS: usize = 16;

/// A server that a client connects to, with the tickets and the round-trip time from the last connection.
#[derive(Clone)]
pub(super) struct CachedServer {
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) verifier: Arc<Verifier>,
    to: SocketAddr,
    name: String,
    /// The round-trip time of the last connection; zero if there was none.
    pub(super) rtt: Duration,
    tickets: Arc<Tickets>,
}

impl CachedServer {
    /// A server without a previous connection.
    pub(super) fn new(to: SocketAddr, name: &str, verifier: Arc<Verifier>, mut tls: rustls::ClientConfig) -> Self {
        let tickets = Arc::new(Tickets::default());
        tls.resumption = Resumption::store(tickets.clone());
        // This only permits early data; rustls sends it only if there is a ticket.
        tls.enable_early_data = true;
        Self { tls: Arc::new(tls), verifier, to, name: name.to_owned(), rtt: Duration::ZERO, tickets }
    }

    /// A copy with this round-trip time.
    pub(super) fn at(&self, rtt: Duration) -> Self {
        Self { rtt, ..self.clone() }
    }

    fn is(&self, to: SocketAddr, name: &str) -> bool {
        self.to == to && self.name == name
    }
}

/// The servers that a client caches; the one with the latest connection is last.
#[derive(Default)]
pub(super) struct TicketStore(VecDeque<CachedServer>);

impl TicketStore {
    /// Removes and returns the cached server, for one connection, if `trust` accepts the certificate that it presented.
    pub(super) fn take(&mut self, to: SocketAddr, name: &str, trust: &Trust) -> Option<CachedServer> {
        let place = self.0.iter().position(|server| server.is(to, name))?;
        self.0.remove(place).filter(|server| server.verifier.recall(*trust))
    }

    /// Caches a server after a successful handshake; its tickets arrive afterwards.
    pub(super) fn keep(&mut self, server: CachedServer) {
        self.0.retain(|other| !other.is(server.to, &server.name));
        if self.0.len() >= MAX_RELAYS {
            self.0.pop_front();
        }
        self.0.push_back(server);
    }

    /// Caches a server again after a failed connection, because the next connection may use its remaining tickets.
    pub(super) fn put_back(&mut self, server: &CachedServer) {
        let known = self.0.iter().any(|other| other.is(server.to, &server.name));
        let refused = matches!(server.verifier.verdict(), Some(Err(_)));
        if !known && !refused && !server.tickets.lock().is_empty() {
            self.keep(server.clone());
        }
    }
}

/// The tickets of one server, the newest last.
#[derive(Default)]
struct Tickets(Mutex<VecDeque<Tls13ClientSessionValue>>);

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Tls13ClientSessionValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tickets({})", self.lock().len())
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut tickets = self.lock();
        if tickets.len() >= TICKETS {
            tickets.pop_front();
        }
        tickets.push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'_>) -> Option<Tls13ClientSessionValue> {
        self.lock().pop_back()
    }
}

/// The sessions that a server stores.
pub(super) struct Sessions {
    max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_key: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    /// The keys of the sessions, by age.
    keys: BTreeMap<u64, Vec<u8>>,
    last: u64,
}

impl Kept {
    fn remove(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let (number, session) = self.by_key.remove(key)?;
        self.keys.remove(&number);
        Some(session)
    }
}

impl Sessions {
    pub(super) fn new(max: usize) -> Self {
        Self { max, kept: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({} of {})", self.lock().by_key.len(), self.max)
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, session: Vec<u8>) -> bool {
        let mut kept = self.lock();
        kept.remove(&key);
        if kept.by_key.len() >= self.max
            && let Some((_, oldest)) = kept.keys.pop_first()
        {
            kept.by_key.remove(&oldest);
        }
        kept.last = kept.last.wrapping_add(1);
        let number = kept.last;
        kept.keys.insert(number, key.clone());
        kept.by_key.insert(key, (number, session));
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.lock().by_key.get(key).map(|(_, session)| session.clone())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.lock().remove(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
