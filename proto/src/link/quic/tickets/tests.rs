use std::time::Duration;

use bytes::Bytes;

use super::super::pair::{CLIENT, Pair, SERVER, UNIX_TIME, identity, server_addr};
use super::super::{Closed, ConnId, Event, Limits, Profile, Quic, Read, Stream, Write};
use super::*;
use crate::Instant;
use crate::link::trust::{CertificateRefused, CertificateSeen, Fingerprint, Identity};
use crate::net::{Arrival, Ecn, SocketId};
use crate::seed::Seed;

const JOIN: &[u8] = b"seat me again";

fn server(identity: &Identity, life: u8) -> Quic {
    let limits = Limits { sessions: 8, ..Limits::default() };
    Quic::server(&Profile::relay(), identity, limits, UNIX_TIME, &Seed::new([life; 32])).unwrap()
}

/// Two endpoints; the client connected before and has its tickets.
fn acquainted(identity: &Identity, seed: u8) -> Pair {
    let mut pair = Pair::new(&Profile::peer(), identity, seed);
    pair.ends[SERVER] = server(identity, seed);
    let (client, _) = pair.connected();
    pair.pass(Duration::from_millis(100));
    pair.ends[CLIENT].close(pair.now, client, 0, "");
    pair.pass(Duration::from_secs(3));
    pair.events = [Vec::new(), Vec::new()];
    pair
}

fn again(pair: &mut Pair, trust: Trust) -> ConnId {
    pair.ends[CLIENT].reconnect(pair.now, server_addr(), "relay.test", &trust).unwrap()
}

/// Sends data at once, if that is possible.
fn say(pair: &mut Pair, conn: ConnId) -> Option<Stream> {
    let stream = pair.ends[CLIENT].open_bi(conn)?;
    assert_eq!(pair.ends[CLIENT].write(conn, stream, &mut Bytes::from_static(JOIN)), Write::Done);
    Some(stream)
}

fn heard(pair: &mut Pair) -> Option<(Instant, ConnId)> {
    let (conn, stream) = pair.events[SERVER].iter().find_map(|(conn, event)| match event {
        Event::Readable(stream) => Some((*conn, *stream)),
        _ => None,
    })?;
    assert_eq!(pair.ends[SERVER].read(conn, stream, 1000), Read::Data(Bytes::from_static(JOIN)));
    Some((pair.now, conn))
}

#[test]
fn a_returning_client_sends_data_in_its_first_flight() {
    let identity = identity();
    let mut pair = acquainted(&identity, 1);
    let known = Trust::Known(identity.fingerprint());
    for _ in 0..3 {
        let begun = pair.now;
        let client = again(&mut pair, known);
        let certificate = CertificateSeen::Known(identity.fingerprint());
        assert_eq!(
            pair.take(CLIENT),
            [Event::Connected { certificate }],
            "the certificate of the last connection, under the present trust rule"
        );
        say(&mut pair, client).unwrap();
        pair.until("heard", |pair| pair.events[SERVER].iter().any(|(_, event)| matches!(event, Event::Readable(_))));
        assert!(
            !pair.events[SERVER].iter().any(|(_, event)| matches!(event, Event::Connected { .. })),
            "not proven yet"
        );
        let (at, _) = heard(&mut pair).unwrap();
        assert_eq!(at - begun, pair.path.latency);
        pair.pass(Duration::from_millis(100));
        assert!(
            pair.take(CLIENT).iter().all(|event| matches!(event, Event::Available(_))),
            "no event is reported twice"
        );
        assert!(pair.take(SERVER).contains(&Event::Connected { certificate: CertificateSeen::NotAsked }));
        pair.ends[CLIENT].close(pair.now, client, 0, "");
        pair.pass(Duration::from_secs(1));
        pair.events = [Vec::new(), Vec::new()];
    }
}

#[test]
fn a_first_connection_sends_no_early_data() {
    let identity = identity();
    let mut pair = acquainted(&identity, 2);
    pair.connect(Trust::Any);
    assert_eq!(pair.take(CLIENT), []);
    let elsewhere = "192.0.2.2:4434".parse().unwrap();
    pair.ends[CLIENT].reconnect(pair.now, elsewhere, "relay.test", &Trust::Any).unwrap();
    pair.ends[CLIENT].reconnect(pair.now, server_addr(), "other.test", &Trust::Any).unwrap();
    assert_eq!(pair.take(CLIENT), [], "tickets are for one address and one name");
}

#[test]
fn a_server_without_sessions_gives_no_tickets() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 3);
    pair.connected();
    pair.pass(Duration::from_secs(1));
    pair.take(CLIENT);
    again(&mut pair, Trust::Any);
    assert_eq!(pair.take(CLIENT), []);
}

#[test]
fn early_data_that_a_restarted_server_rejects_is_resent() {
    let identity = identity();
    let mut pair = acquainted(&identity, 4);
    pair.ends[SERVER] = server(&identity, 5);
    let client = again(&mut pair, Trust::FirstUse);
    pair.take(CLIENT);
    let early = say(&mut pair, client).unwrap();
    pair.until("refused", |pair| !pair.events[CLIENT].is_empty());
    let certificate = CertificateSeen::FirstUse(identity.fingerprint());
    assert_eq!(pair.take(CLIENT), [Event::Restarted { certificate }]);
    assert_eq!(pair.ends[CLIENT].write(client, early, &mut Bytes::from_static(JOIN)), Write::Gone);
    assert_eq!(heard(&mut pair), None);
    assert_eq!(say(&mut pair, client), Some(early), "streams are counted anew");
    pair.until("heard", |pair| heard(pair).is_some());
}

#[test]
fn ticket_does_not_bypass_certificate_check() {
    let (old, new) = (identity(), identity());
    let other = Fingerprint([9; 32]);
    // The trust rule does not accept the certificate of the last connection: no early data, and a certificate is
    // requested.
    for (trust, refused) in [
        (Trust::Pin(other), CertificateRefused::NotPinned { pinned: other, seen: old.fingerprint() }),
        (Trust::Known(other), CertificateRefused::Changed { known: other, seen: old.fingerprint() }),
        (Trust::PublicCa, CertificateRefused::NotPublic { seen: old.fingerprint() }),
    ] {
        let mut pair = acquainted(&old, 6);
        again(&mut pair, trust);
        pair.until("refused", |pair| !pair.events[CLIENT].is_empty());
        assert_eq!(pair.take(CLIENT), [Event::Closed(Closed::CertificateRefused(refused))]);
    }
    // The ticket is from a server that was trusted at first use; the present server has another certificate.
    let mut pair = acquainted(&old, 7);
    pair.ends[SERVER] = server(&new, 8);
    let client = again(&mut pair, Trust::Known(old.fingerprint()));
    assert_eq!(pair.take(CLIENT).len(), 1);
    say(&mut pair, client).unwrap();
    pair.until("refused", |pair| !pair.events[CLIENT].is_empty());
    let refused = CertificateRefused::Changed { known: old.fingerprint(), seen: new.fingerprint() };
    assert_eq!(pair.take(CLIENT), [Event::Closed(Closed::CertificateRefused(refused))]);
    assert_eq!(heard(&mut pair), None);
}

#[test]
fn a_replayed_first_flight_is_accepted_once() {
    let identity = identity();
    let mut pair = acquainted(&identity, 9);
    let client = again(&mut pair, Trust::Any);
    say(&mut pair, client).unwrap();
    let mut flight = Vec::new();
    let mut buf = Vec::new();
    while let Some(transmit) = pair.ends[CLIENT].poll_transmit(pair.now, 16.try_into().unwrap(), &mut buf) {
        flight.extend(buf[..transmit.size].chunks(transmit.segment_size.unwrap_or(transmit.size)).map(<[u8]>::to_vec));
        buf.clear();
    }
    for (copy, from) in [(1, "192.0.2.1:50000"), (2, "198.51.100.1:666"), (3, "192.0.2.1:50000")] {
        for data in &flight {
            let (local_ip, from) = (Some(server_addr().ip()), from.parse().unwrap());
            let arrival = Arrival { socket: SocketId(0), from, local_ip, ecn: Ecn::NotEct };
            pair.ends[SERVER].handle_datagram(pair.now, &arrival, data[..].into());
        }
        pair.flush();
        assert_eq!(heard(&mut pair).is_some(), copy == 1, "copy {copy}");
        pair.events[SERVER].clear();
        // The connection is closed, so the replayed copies create connections of their own.
        pair.ends[CLIENT].close(pair.now, client, 0, "");
        pair.pass(Duration::from_secs(10));
        pair.events = [Vec::new(), Vec::new()];
    }
}

#[test]
fn a_flight_that_was_lost_leaves_a_ticket_for_the_next() {
    let identity = identity();
    let mut pair = acquainted(&identity, 10);
    pair.cut = true;
    for wanted in [1, 1, 0] {
        let client = again(&mut pair, Trust::Any);
        assert_eq!(pair.take(CLIENT).len(), wanted);
        pair.pass(Duration::from_millis(500));
        pair.ends[CLIENT].close(pair.now, client, 0, "");
        pair.pass(Duration::from_secs(1));
    }
}

#[test]
fn unanswered_early_connection_is_given_up() {
    for (latency, silent_for) in [(5, 1), (1_000, 6)] {
        let identity = identity();
        let mut pair = Pair::new(&Profile::peer(), &identity, 11);
        pair.ends[SERVER] = server(&identity, 11);
        pair.path.latency = Duration::from_millis(latency);
        let (first, _) = pair.connected();
        pair.pass(Duration::from_secs(5));
        pair.ends[CLIENT].close(pair.now, first, 0, "");
        pair.pass(Duration::from_secs(10));
        pair.cut = true;
        let client = again(&mut pair, Trust::Any);
        assert_eq!(pair.take(CLIENT).len(), 1);
        say(&mut pair, client).unwrap();
        pair.trace.clear();
        // Three round trips, whose length is known from the last connection.
        pair.pass(Duration::from_millis(silent_for * 1_000 - 10));
        assert_eq!(pair.take(CLIENT), [], "{latency} ms");
        let flight = pair.trace.len();
        pair.pass(Duration::from_millis(500));
        assert_eq!(pair.take(CLIENT), [Event::Closed(Closed::TimedOut)]);
        assert_eq!(pair.trace.len(), flight + 1, "only the close");
        pair.pass(Duration::from_secs(30));
        assert_eq!((pair.take(CLIENT), pair.ends[CLIENT].connections()), (vec![], 0));
    }
}

#[test]
fn sessions_are_used_once_and_oldest_is_evicted() {
    let sessions = Sessions::new(3);
    for number in 0..5_u8 {
        assert!(sessions.put(vec![number], vec![number; 2]));
    }
    assert!(sessions.put(vec![3], vec![33]), "an existing session is replaced");
    let left: Vec<_> = (0..5).filter_map(|number| sessions.get(&[number])).collect();
    assert_eq!(left, [vec![2, 2], vec![33], vec![4, 4]]);
    assert_eq!(sessions.take(&[3]), Some(vec![33]));
    assert_eq!((sessions.take(&[3]), sessions.get(&[3])), (None, None));
    let kept = sessions.lock();
    assert_eq!((kept.by_key.len(), kept.keys.len()), (2, 2));
}

#[test]
fn a_client_remembers_a_few_relays() {
    let mut store = TicketStore::default();
    let (roots, provider) = (crate::link::crypto::public_roots(), crate::link::crypto::crypto_provider());
    for port in 1..=MAX_RELAYS as u16 + 1 {
        let verifier = Arc::new(Verifier::new(Trust::Any, roots.clone(), &provider).unwrap());
        let clock = crate::link::crypto::Ticker::new(UNIX_TIME).clock();
        let tls = crate::link::crypto::client_tls(verifier.clone(), b"x", &provider, clock).unwrap();
        let to = SocketAddr::new(server_addr().ip(), port);
        store.keep(CachedServer::new(to, "relay.test", verifier.clone(), tls.clone()));
        store.keep(CachedServer::new(to, "relay.test", verifier, tls));
    }
    assert_eq!(store.0.len(), MAX_RELAYS);
    assert_eq!(store.0[0].to.port(), 2);
}
