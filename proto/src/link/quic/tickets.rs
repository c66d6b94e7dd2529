//! What a connection to a relay leaves behind, so that the next one can say something in its first flight (0-RTT, RFC 9001 §4.6).
//!
//! Decides which ticket is used for which connection. The first flight of a resumed connection can be recorded and sent again by
//! others (RFC 8446 §8), and no certificate is shown in it. Therefore:
//! - A relay keeps its sessions itself and takes each out when it is used, so a ticket is good for one first flight of one life of the
//!   relay. (rustls allows early data in no other way.) What it does with such data beyond that, `room` decides.
//! - A client uses a ticket only for the address and the name at which it got it, and only if the certificate that was shown there is
//!   one that is accepted now. Each has its own verifier, and one connection at a time has both: what the verifier says is that one's.
//! - Tickets stay in memory. rustls has no form of them that could be stored.
//!
//! No timers: tickets end with the day that rustls gives them. Bounds: [`MAX_RELAYS`] with [`TICKETS`] each at a client, at a server as
//! many sessions as its owner says; the oldest give way, and who lost one needs one more round trip.

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

/// Tickets that a server gives to each connection: one for the next, and one more in case the first flight is lost.
pub(super) const TICKETS: usize = 2;
/// Relays, each at one address, that a client remembers.
const MAX_RELAYS: usize = 16;

/// Who is called by a client, and what is there from the last time.
#[derive(Clone)]
pub(super) struct Callee {
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) verifier: Arc<Verifier>,
    to: SocketAddr,
    name: String,
    /// The round trip that the last connection found.
    pub(super) rtt: Duration,
    tickets: Arc<Tickets>,
}

impl Callee {
    /// One of whom nothing is known.
    pub(super) fn new(to: SocketAddr, name: &str, verifier: Arc<Verifier>, mut tls: rustls::ClientConfig) -> Self {
        let tickets = Arc::new(Tickets::default());
        tls.resumption = Resumption::store(tickets.clone());
        // For what is said early there has to be a ticket, too.
        tls.enable_early_data = true;
        Self { tls: Arc::new(tls), verifier, to, name: name.to_owned(), rtt: Duration::ZERO, tickets }
    }

    /// The same, so far away.
    pub(super) fn at(&self, rtt: Duration) -> Self {
        Self { rtt, ..self.clone() }
    }

    fn is(&self, to: SocketAddr, name: &str) -> bool {
        self.to == to && self.name == name
    }
}

/// A client's relays, the one that was reached last at the end.
#[derive(Default)]
pub(super) struct Memory(VecDeque<Callee>);

impl Memory {
    /// Takes out what is known of a relay, for one connection, if its certificate is one that `trust` accepts.
    pub(super) fn take(&mut self, to: SocketAddr, name: &str, trust: &Trust) -> Option<Callee> {
        let place = self.0.iter().position(|callee| callee.is(to, name))?;
        self.0.remove(place).filter(|callee| callee.verifier.recall(*trust))
    }

    /// A connection is there. Its tickets follow.
    pub(super) fn keep(&mut self, callee: Callee) {
        self.0.retain(|other| !other.is(callee.to, &callee.name));
        if self.0.len() >= MAX_RELAYS {
            self.0.pop_front();
        }
        self.0.push_back(callee);
    }

    /// A connection came to nothing: what is left of the tickets may help the next one.
    pub(super) fn put_back(&mut self, callee: &Callee) {
        let known = self.0.iter().any(|other| other.is(callee.to, &callee.name));
        let refused = matches!(callee.verifier.verdict(), Some(Err(_)));
        if !known && !refused && !callee.tickets.lock().is_empty() {
            self.keep(callee.clone());
        }
    }
}

/// The tickets of one relay, the newest last.
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

/// A server's sessions.
pub(super) struct Sessions {
    max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_key: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    /// By age.
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
#[path = "tickets_tests.rs"]
mod tests;
