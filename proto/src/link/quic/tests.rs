use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::PrivateKeyDer;

use super::pair::{CLIENT, Pair, Path, Policy, SERVER, UNIX_TIME, identity, server_addr, start};
use super::*;
use crate::link::trust::{CertificateRefused, CertificateSeen, Fingerprint};
use crate::net::SocketId;

const KIB: usize = 1024;

/// Bytes that differ between neighbouring positions.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// A pattern that is sent through one stream; it is written and read when the events allow it.
struct Flow {
    stream: Stream,
    rest: Bytes,
    got: Vec<u8>,
    ended: bool,
}

impl Flow {
    fn new(pair: &mut Pair, conn: ConnId, len: usize) -> Self {
        let stream = pair.ends[CLIENT].open_uni(conn).unwrap();
        Self { stream, rest: pattern(len), got: Vec::new(), ended: false }
    }

    fn write(&mut self, pair: &mut Pair, conn: ConnId) {
        if !self.rest.is_empty() && pair.ends[CLIENT].write(conn, self.stream, &mut self.rest) == Write::Done {
            pair.ends[CLIENT].finish(conn, self.stream);
        }
    }

    fn read(&mut self, pair: &mut Pair, conn: ConnId) {
        let mut pieces = Vec::new();
        let (_, end) = pair.ends[SERVER].read_chunks(conn, self.stream, usize::MAX, &mut pieces);
        self.got.extend(pieces.concat());
        self.ended |= end == Some(Read::End);
    }
}

fn transfer(pair: &mut Pair, (client, server): (ConnId, ConnId), len: usize) -> Duration {
    let start = pair.now;
    let mut flow = Flow::new(pair, client, len);
    flow.write(pair, client);
    pair.until("the transfer", |pair| {
        for event in pair.take(CLIENT) {
            assert!(!matches!(event, Event::Closed(_)), "{event:?}");
            if event == Event::Writable(flow.stream) {
                flow.write(pair, client);
            }
        }
        for event in pair.take(SERVER) {
            assert!(!matches!(event, Event::Closed(_)), "{event:?}");
            if event == Event::Readable(flow.stream) {
                flow.read(pair, server);
            }
        }
        flow.ended
    });
    assert!(flow.got == pattern(len), "what arrives is what was sent");
    pair.now - start
}

#[test]
fn two_ends_connect_and_streams_run_both_ways() {
    let identity = identity();
    let mut pair = Pair::new(&Profile::peer(), &identity, 1);
    let client = pair.connect(Trust::FirstUse);
    pair.until("connected", |pair| !pair.events[CLIENT].is_empty() && !pair.events[SERVER].is_empty());
    let certificate = CertificateSeen::FirstUse(identity.fingerprint());
    assert_eq!(pair.events[CLIENT], [(client, Event::Connected { certificate })]);
    let (server, event) = pair.events[SERVER].remove(0);
    assert_eq!(event, Event::Connected { certificate: CertificateSeen::NotAsked });
    pair.events[CLIENT].clear();

    let asked = pair.ends[CLIENT].open_bi(client).unwrap();
    assert_eq!((asked.direction(), asked.index()), (Direction::Bi, 0));
    assert_eq!(pair.ends[CLIENT].write(client, asked, &mut Bytes::from_static(b"question")), Write::Done);
    pair.ends[CLIENT].finish(client, asked);
    pair.until("the question", |pair| !pair.events[SERVER].is_empty());
    assert_eq!(pair.take(SERVER), [Event::Opened(asked, Direction::Bi), Event::Readable(asked)]);
    assert_eq!(pair.ends[SERVER].read(server, asked, 5), Read::Data(Bytes::from_static(b"quest")));
    assert_eq!(pair.ends[SERVER].read(server, asked, 100), Read::Data(Bytes::from_static(b"ion")));
    assert_eq!(pair.ends[SERVER].read(server, asked, 100), Read::End);
    assert_eq!(pair.ends[SERVER].read(server, asked, 100), Read::Gone);

    let uni = pair.ends[SERVER].open_uni(server).unwrap();
    let mut pieces = [Bytes::from_static(b"an"), Bytes::new(), Bytes::from_static(b"swer")];
    assert_eq!(pair.ends[SERVER].write_chunks(server, asked, &mut pieces), Write::Done);
    assert!(pieces.iter().all(Bytes::is_empty));
    assert_eq!(pair.ends[SERVER].write(server, uni, &mut Bytes::from_static(b"more")), Write::Done);
    pair.until("the answer", |pair| pair.events[CLIENT].len() >= 4);
    let events = pair.take(CLIENT);
    for expected in
        [Event::Finished(asked), Event::Readable(asked), Event::Opened(uni, Direction::Uni), Event::Readable(uni)]
    {
        assert!(events.contains(&expected), "{events:?}");
    }
    let mut answer = Vec::new();
    assert_eq!(pair.ends[CLIENT].read_chunks(client, asked, 100, &mut answer), (6, Some(Read::Blocked)));
    assert_eq!(answer.concat(), b"answer");
    assert_eq!(pair.ends[CLIENT].read(client, uni, 100), Read::Data(Bytes::from_static(b"more")));
    assert_eq!(pair.ends[CLIENT].read(client, uni, 100), Read::Blocked);
    assert!(pair.ends[CLIENT].rtt(client).unwrap() >= Duration::from_millis(10));
    assert_eq!(pair.ends[CLIENT].remote(client), Some(server_addr()));
}

#[test]
fn stopped_reader_blocks_writer_at_receive_window() {
    let window = 64 * KIB;
    let small = Profile { receive_window: window as u64, ..Profile::peer() };
    let mut pair = Pair::of(&Profile { send_window: 4 << 20, ..Profile::peer() }, &small, &identity(), 2);
    let (client, server) = pair.connected();
    let stream = pair.ends[CLIENT].open_uni(client).unwrap();
    let mut data = pattern(300 * KIB);
    assert_eq!(pair.ends[CLIENT].write(client, stream, &mut data), Write::Blocked);
    assert_eq!(data.len(), 300 * KIB - window, "bytes that were not accepted stay");
    pair.pass(Duration::from_secs(5));
    assert!(!pair.take(CLIENT).contains(&Event::Writable(stream)));

    let (mut pieces, read_at) = (Vec::new(), pair.now);
    assert_eq!(pair.ends[SERVER].read_chunks(server, stream, usize::MAX, &mut pieces), (window, Some(Read::Blocked)));
    pair.until("room", |pair| pair.events[CLIENT].contains(&(client, Event::Writable(stream))));
    assert!(pair.now - read_at < Duration::from_millis(10), "the reader sends a window update at once");
    assert_eq!(pair.ends[CLIENT].write(client, stream, &mut data), Write::Blocked);
    assert_eq!(data.len(), 300 * KIB - 2 * window);
}

#[test]
fn unacknowledged_bytes_never_exceed_the_send_window() {
    let small = Profile { send_window: 32 * KIB as u64, ..Profile::peer() };
    let mut pair = Pair::of(&small, &Profile::peer(), &identity(), 3);
    let (client, _) = pair.connected();
    pair.cut = true;
    let stream = pair.ends[CLIENT].open_uni(client).unwrap();
    let mut data = pattern(100 * KIB);
    assert_eq!(pair.ends[CLIENT].write(client, stream, &mut data), Write::Blocked);
    assert_eq!(data.len(), 68 * KIB);
    pair.ends[CLIENT].set_send_window(client, 48 * KIB as u64);
    assert_eq!(pair.take(CLIENT), [Event::Writable(stream)], "a raised window is announced at once");
    assert_eq!(pair.ends[CLIENT].write(client, stream, &mut data), Write::Blocked);
    assert_eq!(data.len(), 52 * KIB);
    pair.cut = false;
    pair.until("acknowledged", |pair| pair.events[CLIENT].contains(&(client, Event::Writable(stream))));
}

#[test]
fn stream_window_allows_no_thousand_gaps() {
    let profile = Profile { stream_receive_window: 8_000_000, ..Profile::peer() };
    let mut pair = Pair::new(&profile, &identity(), 31);
    let (client, _) = pair.connected();
    let stream = pair.ends[CLIENT].open_uni(client).unwrap();
    let mut data = pattern(3_000_000);
    assert_eq!(pair.ends[CLIENT].write(client, stream, &mut data), Write::Blocked);
    assert_eq!(data.len(), 1_000_000);
}

#[test]
fn receive_window_can_be_raised_on_open_connection() {
    let small = Profile { receive_window: 64 * KIB as u64, ..Profile::peer() };
    let mut pair = Pair::of(&Profile::peer(), &small, &identity(), 4);
    let (client, server) = pair.connected();
    let stream = pair.ends[CLIENT].open_uni(client).unwrap();
    let mut data = pattern(1024 * KIB);
    assert_eq!(pair.ends[CLIENT].write(client, stream, &mut data), Write::Blocked);
    pair.pass(Duration::from_secs(1));
    pair.ends[SERVER].set_receive_window(server, 512 * KIB as u64);
    pair.until("room", |pair| pair.events[CLIENT].contains(&(client, Event::Writable(stream))));
    assert_eq!(pair.ends[CLIENT].write(client, stream, &mut data), Write::Blocked);
    assert_eq!(data.len(), 512 * KIB, "nothing was read, and 512 KiB are buffered");
}

#[test]
fn data_survives_loss_and_reordering() {
    for (congestion, seed) in [(Congestion::Cubic, 5), (Congestion::Bbr, 6)] {
        let mut pair = Pair::new(&Profile { congestion, ..Profile::peer() }, &identity(), seed);
        pair.path = Path { loss: 50_000, jitter: Duration::from_millis(4), rate: 12_500_000, ..Path::default() };
        let ends = pair.connected();
        transfer(&mut pair, ends, 2048 * KIB);
        assert!(pair.ends[CLIENT].stats(ends.0).unwrap().lost_packets > 20, "the path lost packets");
    }
}

#[test]
fn idle_pauses_are_not_taken_for_a_slow_path() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 33);
    pair.path = Path { rate: 10_000_000, latency: Duration::from_millis(20), ..Path::default() };
    let ends = pair.connected();
    let before = transfer(&mut pair, ends, 2048 * KIB);
    for _ in 0..30 {
        pair.pass(Duration::from_secs(1));
        transfer(&mut pair, ends, 20 * KIB);
    }
    let after = transfer(&mut pair, ends, 2048 * KIB);
    assert!(after < before, "the path is known by now: {before:?}, {after:?}");
}

#[test]
fn a_close_sends_code_and_reason_and_frees_the_connection() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 7);
    let (client, server) = pair.connected();
    let stream = pair.ends[CLIENT].open_uni(client).unwrap();
    assert_eq!(pair.ends[CLIENT].write(client, stream, &mut Bytes::from_static(b"last words")), Write::Done);
    pair.pass(Duration::from_millis(20));
    pair.take(SERVER);

    pair.ends[CLIENT].close(pair.now, client, 7, "that was all");
    assert!(pair.ends[CLIENT].has_unsent(client) && !pair.ends[CLIENT].is_flushed());
    pair.flush();
    assert!(!pair.ends[CLIENT].has_unsent(client) && pair.ends[CLIENT].is_flushed());
    pair.until("the close", |pair| !pair.events[SERVER].is_empty());
    let reason = crate::wire::untrusted::Untrusted::new("that was all".into());
    assert_eq!(pair.take(SERVER), [Event::Closed(Closed::Application { code: 7, reason })]);
    assert_eq!(pair.ends[SERVER].read(server, stream, 100), Read::Data(Bytes::from_static(b"last words")));
    assert_eq!(pair.take(CLIENT), [], "closing causes no event on this side");
    assert_eq!(pair.ends[CLIENT].open_uni(client), None);

    assert_eq!((pair.ends[CLIENT].connections(), pair.ends[SERVER].connections()), (1, 1));
    pair.pass(Duration::from_secs(5));
    assert_eq!((pair.ends[CLIENT].connections(), pair.ends[SERVER].connections()), (0, 0));
    assert_eq!((pair.ends[CLIENT].poll_timeout(), pair.ends[SERVER].poll_timeout()), (None, None));
    assert_eq!(pair.ends[SERVER].read(server, stream, 100), Read::Gone);
    let again = pair.connect(Trust::Any);
    assert_ne!(again, client, "an id is not used twice");
}

#[test]
fn connection_closed_during_handshake_is_freed() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 8);
    let client = pair.connect(Trust::Any);
    pair.flush();
    pair.ends[CLIENT].close(pair.now, client, 1, "never mind");
    pair.pass(Duration::from_secs(60));
    assert_eq!((pair.ends[CLIENT].connections(), pair.ends[SERVER].connections()), (0, 0));
    assert_eq!(pair.take(CLIENT), []);
    assert!(pair.take(SERVER).iter().all(|event| matches!(event, Event::Closed(_))));
}

fn how_it_ends(identity: &Identity, trust: Trust) -> (Event, Vec<Event>) {
    let mut pair = Pair::new(&Profile::peer(), identity, 9);
    pair.connect(trust);
    pair.until("a verdict", |pair| !pair.events[CLIENT].is_empty());
    pair.pass(Duration::from_secs(1));
    (pair.take(CLIENT).remove(0), pair.take(SERVER))
}

#[test]
fn certificate_is_checked_against_requested_trust() {
    let (identity, other) = (identity(), Fingerprint([7; 32]));
    let seen = identity.fingerprint();
    let accepted = |certificate| Event::Connected { certificate };
    for (trust, certificate) in [
        (Trust::Pin(seen), CertificateSeen::Pinned(seen)),
        (Trust::Known(seen), CertificateSeen::Known(seen)),
        (Trust::FirstUse, CertificateSeen::FirstUse(seen)),
        (Trust::Any, CertificateSeen::Unchecked(seen)),
    ] {
        assert_eq!(how_it_ends(&identity, trust).0, accepted(certificate));
    }
    for (trust, refused) in [
        (Trust::Pin(other), CertificateRefused::NotPinned { pinned: other, seen }),
        (Trust::Known(other), CertificateRefused::Changed { known: other, seen }),
        (Trust::PublicCa, CertificateRefused::NotPublic { seen }),
    ] {
        let (client, server) = how_it_ends(&identity, trust);
        assert_eq!(client, Event::Closed(Closed::CertificateRefused(refused)));
        assert!(
            matches!(server[..], [Event::Closed(Closed::Transport { by_peer: true, code: 0x100.. })]),
            "the server is notified: {server:?}"
        );
    }
}

#[test]
fn certificate_without_its_key_is_rejected() {
    let identity = identity();
    let mut pair = Pair::new(&Profile::peer(), &identity, 30);
    let mut tls = crypto::server_tls(&identity, &[ALPN], pair.ends[SERVER].ticker.clock()).unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_der();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::Pkcs8(key.into())).unwrap();
    let chain = vec![identity.cert_chain[0].clone().into()];
    tls.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key)));
    show(&mut pair, tls);
    pair.connect(Trust::Pin(identity.fingerprint()));
    pair.until("the end", |pair| !pair.events[CLIENT].is_empty());
    let events = pair.take(CLIENT);
    assert!(matches!(events[..], [Event::Closed(Closed::Transport { code: 0x133, by_peer: false })]), "{events:?}");
}

/// Sets another TLS configuration for the server.
fn show(pair: &mut Pair, tls: rustls::ServerConfig) {
    let crypto = Arc::new(proto::crypto::rustls::QuicServerConfig::try_from(tls).unwrap());
    pair.ends[SERVER].endpoint.set_server_config(Some(Arc::new(proto::ServerConfig::with_crypto(crypto))));
    pair.ends[SERVER].server = None;
}

#[test]
fn other_alpn_protocol_is_refused() {
    let identity = identity();
    let mut pair = Pair::new(&Profile::peer(), &identity, 10);
    let mut tls = crypto::server_tls(&identity, &[ALPN], pair.ends[SERVER].ticker.clock()).unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    show(&mut pair, tls);
    pair.connect(Trust::Any);
    pair.until("the end", |pair| !pair.events[CLIENT].is_empty() && !pair.events[SERVER].is_empty());
    assert_eq!(pair.take(CLIENT), [Event::Closed(Closed::NoCommonProtocol)]);
    assert_eq!(pair.take(SERVER), [Event::Closed(Closed::NoCommonProtocol)]);
}

#[test]
fn a_server_of_another_quic_version_is_recognised() {
    let identity = identity();
    let mut pair = Pair::new(&Profile::peer(), &identity, 11);
    let seed = Seed::new([11; 32]);
    let mut endpoint = (*config::endpoint(&seed, None, None)).clone();
    endpoint.supported_versions(vec![0x6b33_43cf]);
    let server = pair.ends[SERVER].server.as_ref().map(ByRoute::network);
    pair.ends[SERVER].endpoint = proto::Endpoint::new(Arc::new(endpoint), server, true, None);
    pair.connect(Trust::Any);
    pair.until("the end", |pair| !pair.events[CLIENT].is_empty());
    assert_eq!(pair.take(CLIENT), [Event::Closed(Closed::VersionMismatch)]);
}

#[test]
fn a_retry_makes_a_client_prove_its_address() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 12);
    pair.policy = Policy::Retry;
    let ends = pair.connected();
    assert!(pair.elapsed() >= Duration::from_millis(20), "it took a round trip more");
    transfer(&mut pair, ends, 10 * KIB);
}

#[test]
fn a_retry_that_is_answered_too_late_is_refused() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 13);
    pair.policy = Policy::Retry;
    pair.connect(Trust::Any);
    // The token expires by our clock while the client's answer is in flight.
    pair.path.latency = Duration::from_secs(16);
    pair.until("the end", |pair| !pair.events[CLIENT].is_empty());
    let events = pair.take(CLIENT);
    assert!(matches!(events[..], [Event::Closed(Closed::Transport { code: 0xb, by_peer: true })]), "{events:?}");
}

#[test]
fn a_refused_client_is_notified_and_an_ignored_one_waits() {
    for (policy, closed, within) in [
        (Policy::Refuse, Closed::Refused, 1),
        (Policy::Ignore, Closed::TimedOut, Profile::peer().idle_timeout.as_secs() + 1),
    ] {
        let mut pair = Pair::new(&Profile::peer(), &identity(), 14);
        pair.policy = policy;
        pair.connect(Trust::Any);
        pair.until("the end", |pair| !pair.events[CLIENT].is_empty());
        assert_eq!(pair.take(CLIENT), [Event::Closed(closed)]);
        assert!(pair.elapsed() < Duration::from_secs(within), "{policy:?} took {:?}", pair.elapsed());
        assert_eq!(pair.ends[SERVER].connections(), 0);
    }
}

#[test]
fn undecided_incoming_connections_are_bounded() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 15);
    for _ in 0..Limits::default().incoming + 50 {
        pair.connect(Trust::Any);
    }
    let mut buf = Vec::new();
    let arrival =
        Arrival { socket: SocketId(0), from: "192.0.2.1:50000".parse().unwrap(), local_ip: None, ecn: Ecn::NotEct };
    while let Some(transmit) = pair.ends[CLIENT].poll_transmit(pair.now, NonZeroUsize::MIN, &mut buf) {
        pair.ends[SERVER].handle_datagram(pair.now, &arrival, BytesMut::from(&buf[..transmit.size]));
        buf.clear();
    }
    pair.ends[SERVER].settle(pair.now);
    let mut waiting: Vec<Incoming> = std::iter::from_fn(|| pair.ends[SERVER].poll_incoming()).collect();
    assert_eq!(waiting.len(), Limits::default().incoming);
    for incoming in waiting.drain(..) {
        pair.ends[SERVER].refuse(incoming);
    }
    assert_eq!(pair.ends[SERVER].replies.len(), REPLIES, "unsent answers are bounded too");
}

#[test]
fn silence_ends_a_connection_and_keep_alives_prevent_it() {
    let quiet = Profile { keep_alive: None, ..Profile::peer() };
    let mut pair = Pair::new(&quiet, &identity(), 16);
    pair.connected();
    let since = pair.elapsed();
    pair.until("the end", |pair| !pair.events[CLIENT].is_empty() && !pair.events[SERVER].is_empty());
    assert_eq!(pair.take(CLIENT), [Event::Closed(Closed::TimedOut)]);
    let waited = pair.elapsed() - since;
    assert!(waited > Duration::from_secs(44) && waited < Duration::from_secs(46), "{waited:?}");
    assert_eq!((pair.ends[CLIENT].connections(), pair.ends[SERVER].connections()), (0, 0));

    let mut pair = Pair::of(&Profile::peer(), &Profile::relay(), &identity(), 17);
    pair.connected();
    pair.pass(Duration::from_secs(200));
    assert_eq!((pair.take(CLIENT), pair.take(SERVER)), (vec![], vec![]));
    pair.cut = true;
    pair.pass(Duration::from_secs(62));
    assert_eq!(pair.take(CLIENT), [Event::Closed(Closed::TimedOut)]);
}

#[test]
fn restarted_server_resets_old_connection() {
    let identity = identity();
    let mut pair = Pair::new(&Profile::peer(), &identity, 18);
    let (client, _) = pair.connected();
    let seed = Seed::new([18; 32]).derive("server");
    pair.ends[SERVER] = Quic::server(&Profile::peer(), &identity, Limits::default(), UNIX_TIME, &seed).unwrap();
    let stream = pair.ends[CLIENT].open_uni(client).unwrap();
    assert_eq!(pair.ends[CLIENT].write(client, stream, &mut pattern(10 * KIB)), Write::Done);
    pair.until("the end", |pair| !pair.events[CLIENT].is_empty());
    assert_eq!(pair.take(CLIENT), [Event::Closed(Closed::Reset)]);
    assert_eq!((pair.ends[CLIENT].connections(), pair.ends[CLIENT].poll_timeout()), (0, None));
}

#[test]
fn a_stream_is_given_up_with_a_code_from_either_side() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 19);
    let (client, server) = pair.connected();
    let (given_up, unwanted) =
        (pair.ends[CLIENT].open_uni(client).unwrap(), pair.ends[CLIENT].open_uni(client).unwrap());
    for stream in [given_up, unwanted] {
        assert_eq!(pair.ends[CLIENT].write(client, stream, &mut pattern(KIB)), Write::Done);
    }
    pair.pass(Duration::from_millis(50));
    pair.take(SERVER);
    pair.ends[CLIENT].reset(client, given_up, 3);
    pair.ends[SERVER].stop(server, unwanted, 4);
    pair.pass(Duration::from_millis(50));
    assert_eq!(pair.take(SERVER), [Event::Readable(given_up)]);
    assert_eq!(pair.ends[SERVER].read(server, given_up, KIB), Read::Reset(3));
    assert_eq!(pair.ends[SERVER].read(server, given_up, KIB), Read::Gone);
    assert_eq!(pair.take(CLIENT), [Event::Stopped(unwanted, 4)]);
    assert_eq!(pair.ends[CLIENT].write(client, unwanted, &mut pattern(KIB)), Write::Stopped(4));
    assert_eq!(pair.ends[CLIENT].write(client, given_up, &mut pattern(KIB)), Write::Gone);
}

#[test]
fn invalid_calls_are_refused_and_change_nothing() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 20);
    let (client, server) = pair.connected();
    let stream = pair.ends[CLIENT].open_uni(client).unwrap();
    assert_eq!(pair.ends[CLIENT].write(client, stream, &mut pattern(KIB)), Write::Done);
    pair.pass(Duration::from_millis(50));
    let nobody = ConnId(999);
    assert_eq!(pair.ends[CLIENT].read(client, stream, 1), Read::Gone, "it is the client's to write");
    assert_eq!(pair.ends[SERVER].write(server, stream, &mut pattern(1)), Write::Gone, "it is the server's to read");
    pair.ends[CLIENT].stop(client, stream, 0);
    pair.ends[SERVER].reset(server, stream, 0);
    pair.ends[SERVER].finish(server, stream);
    pair.ends[SERVER].set_priority(server, stream, 1);
    pair.ends[CLIENT].close(pair.now, nobody, 0, "");
    assert_eq!(pair.ends[CLIENT].read(nobody, stream, 1), Read::Gone);
    assert_eq!(pair.ends[CLIENT].write(nobody, stream, &mut pattern(1)), Write::Gone);
    assert_eq!((pair.ends[CLIENT].open_bi(nobody), pair.ends[CLIENT].rtt(nobody)), (None, None));
    assert!(!pair.ends[CLIENT].has_unsent(nobody));
    assert!(matches!(pair.ends[SERVER].read(server, stream, 0), Read::Data(bytes) if bytes.len() == 1));

    let quic = &mut pair.ends[CLIENT];
    assert_eq!(quic.connect(pair.now, "192.0.2.2:0".parse().unwrap(), "a", &Trust::Any), Err(CannotConnect::Address));
    assert_eq!(quic.connect(pair.now, server_addr(), "not a name", &Trust::Any), Err(CannotConnect::Name));
    assert_eq!(quic.connections(), 1);
    let nothing = Identity { cert_chain: vec![], key: identity().key };
    let seed = Seed::new([0; 32]);
    assert!(Quic::server(&Profile::relay(), &nothing, Limits::default(), UNIX_TIME, &seed).is_err());
    let stolen = Identity { cert_chain: identity().cert_chain, key: identity().key };
    assert!(Quic::server(&Profile::relay(), &stolen, Limits::default(), UNIX_TIME, &seed).is_err());
}

#[test]
fn streams_beyond_limit_wait_for_room() {
    let few = Profile { max_uni_streams: 2, ..Profile::peer() };
    let mut pair = Pair::of(&Profile::peer(), &few, &identity(), 21);
    let (client, server) = pair.connected();
    let first = pair.ends[CLIENT].open_uni(client).unwrap();
    assert!(pair.ends[CLIENT].open_uni(client).is_some());
    assert_eq!(pair.ends[CLIENT].open_uni(client), None);
    pair.ends[CLIENT].finish(client, first);
    pair.until("the end", |pair| !pair.events[SERVER].is_empty());
    assert_eq!(pair.ends[SERVER].read(server, first, 1), Read::End);
    pair.until("room", |pair| pair.events[CLIENT].contains(&(client, Event::Available(Direction::Uni))));
    assert!(pair.ends[CLIENT].open_uni(client).is_some());
}

#[test]
fn stream_of_higher_priority_is_sent_first() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 22);
    let (client, server) = pair.connected();
    let (bulk, control) = (pair.ends[CLIENT].open_uni(client).unwrap(), pair.ends[CLIENT].open_uni(client).unwrap());
    pair.path.rate = 1_000_000;
    pair.ends[CLIENT].set_priority(client, control, 1);
    assert_eq!(pair.ends[CLIENT].write(client, bulk, &mut pattern(500 * KIB)), Write::Done);
    assert_eq!(pair.ends[CLIENT].write(client, control, &mut pattern(200 * KIB)), Write::Done);
    let (mut first, mut second) = (0, 0);
    pair.until("the control", |pair| {
        pair.take(SERVER);
        first += pair.ends[SERVER].read_chunks(server, control, usize::MAX, &mut Vec::new()).0;
        second += pair.ends[SERVER].read_chunks(server, bulk, usize::MAX, &mut Vec::new()).0;
        first == 200 * KIB
    });
    assert!(second < 20 * KIB, "{second} bytes of the bulk stream arrived before the end of the urgent stream");
}

#[test]
fn connections_take_turns_at_the_socket() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 23);
    let many = 100;
    let mut streams = Vec::new();
    for last in 0..many {
        let to = SocketAddr::from(([198, 51, 100, last], 4433));
        streams.push((pair.ends[CLIENT].connect(pair.now, to, "relay.test", &Trust::Any).unwrap(), to));
    }
    pair.until("all are up", |pair| pair.events[CLIENT].len() == usize::from(many));
    pair.pass(Duration::from_millis(500));
    for &(conn, _) in &streams {
        let stream = pair.ends[CLIENT].open_uni(conn).unwrap();
        let _ = pair.ends[CLIENT].write(conn, stream, &mut pattern(100 * KIB));
    }
    let (mut buf, mut order) = (Vec::new(), Vec::new());
    while let Some(transmit) = pair.ends[CLIENT].poll_transmit(pair.now, NonZeroUsize::new(4).unwrap(), &mut buf) {
        assert!(transmit.size <= 4 * 1452, "one batch at a time");
        order.push(transmit.to);
        buf.clear();
    }
    assert!(order.len() >= 2 * usize::from(many), "there were several rounds: {}", order.len());
    for round in order.chunks_exact(usize::from(many)).take(2) {
        let served: BTreeSet<SocketAddr> = round.iter().copied().collect();
        assert_eq!(served.len(), usize::from(many), "each had its turn");
    }
}

#[test]
fn work_per_event_is_constant_in_idle_connections() {
    let visits = |idle: u32| {
        let mut pair = Pair::new(&Profile::peer(), &identity(), 24);
        let ends = pair.connected();
        pair.pass(Duration::from_secs(1));
        // The connections wait for answers that never arrive; the first of their timers is far beyond this transfer.
        pair.cut = true;
        for _ in 0..idle {
            pair.connect(Trust::Any);
        }
        pair.flush();
        pair.cut = false;
        let before = (pair.ends[CLIENT].visits(), pair.ends[SERVER].visits());
        let time = transfer(&mut pair, ends, 100 * KIB);
        assert!(time < Duration::from_millis(900), "{time:?}");
        assert_eq!(pair.ends[CLIENT].connections(), idle as usize + 1);
        (pair.ends[CLIENT].visits() - before.0, pair.ends[SERVER].visits() - before.1)
    };
    let few = visits(10);
    assert!(few.0 > 5);
    assert_eq!(few, visits(10_000));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let identity = identity();
    let run = |seed| {
        let mut pair = Pair::new(&Profile::peer(), &identity, seed);
        pair.path = Path { loss: 20_000, jitter: Duration::from_millis(1), rate: 12_500_000, ..Path::default() };
        pair.policy = Policy::Retry;
        let ends = pair.connected();
        transfer(&mut pair, ends, 1024 * KIB);
        let now = pair.now;
        pair.ends[CLIENT].close(now, ends.0, 0, "done");
        pair.pass(Duration::from_secs(5));
        pair.trace
    };
    let (one, again, other) = (run(25), run(25), run(26));
    assert!(one.len() > 700);
    assert_eq!(one, again);
    assert_ne!(one, other);
}

#[test]
fn the_first_flight_offers_a_post_quantum_key_exchange() {
    let mut pair = Pair::new(&Profile::peer(), &identity(), 32);
    pair.connect(Trust::Any);
    pair.flush();
    // X25519MLKEM768 needs 1,216 bytes, which do not fit into one datagram together with the rest.
    assert_eq!(pair.trace.len(), 2);
}

#[test]
fn a_batch_is_never_larger_than_the_kernel_takes() {
    let max = |segments| NonZeroUsize::new(segments).unwrap();
    assert_eq!(segments(max(64), 1200), 32);
    assert_eq!(segments(max(64), 1452), 32);
    assert_eq!(segments(max(64), 8952), 7);
    assert_eq!(segments(max(64), 65_507), 1);
    assert_eq!(segments(max(64), u16::MAX), 1);
    assert_eq!(segments(max(4), 1452), 4);
    assert_eq!(segments(max(1), 0), 1);
}

#[test]
fn a_dual_stack_socket_gets_addresses_in_ipv6_form() {
    let mut pair = Pair::new(&Profile::relay(), &identity(), 27);
    pair.connect(Trust::Any);
    let mut buf = Vec::new();
    let transmit = pair.ends[CLIENT].poll_transmit(pair.now, NonZeroUsize::MIN, &mut buf).unwrap();
    let from: SocketAddr = "[::ffff:192.0.2.1]:50000".parse().unwrap();
    let arrival = Arrival { socket: SocketId(0), from, local_ip: None, ecn: Ecn::NotEct };
    let now = pair.now;
    let server = &mut pair.ends[SERVER];
    server.handle_datagram(now, &arrival, BytesMut::from(&buf[..transmit.size]));
    server.settle(now);
    let incoming = server.poll_incoming().unwrap();
    assert_eq!(incoming.from(), "192.0.2.1:50000".parse().unwrap());
    // The second datagram of the ClientHello is missing, so the reply is an acknowledgement.
    let conn = server.accept(now, incoming).unwrap();
    assert_eq!(server.remote(conn), Some("192.0.2.1:50000".parse().unwrap()));
    let answer = server.poll_transmit(now, NonZeroUsize::MIN, &mut Vec::new()).unwrap();
    assert_eq!(answer.to, from);
}

#[test]
fn only_loopback_path_uses_largest_datagrams() {
    for (to, mtu) in [("127.0.0.1:4433", 65_507), ("192.0.2.2:4433", 1452)] {
        let mut pair = Pair::new(&Profile::peer(), &identity(), 29);
        pair.path.mtu = 65_507;
        pair.addresses = ["127.0.0.1:50000".parse().unwrap(), to.parse().unwrap()];
        if to.starts_with("192") {
            pair.addresses[CLIENT] = "192.0.2.1:50000".parse().unwrap();
        }
        let (client, server) = pair.connected();
        pair.pass(Duration::from_secs(5));
        for stats in [pair.ends[CLIENT].stats(client), pair.ends[SERVER].stats(server)] {
            let found = stats.unwrap().mtu;
            assert!(found <= mtu && found > mtu - 30, "{to}: {found}");
        }
    }
}

proptest! {
    #[test]
    fn endpoint_survives_any_datagrams(
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1300), 0..20),
        first in proptest::collection::vec(any::<u8>(), 20),
    ) {
        let seed = Seed::new([28; 32]);
        let mut quic = Quic::client(&Profile::peer(), UNIX_TIME, &seed);
        let now = start();
        let conn = quic.connect(now, server_addr(), "relay.test", &Trust::Any).unwrap();
        let mut sent = Vec::new();
        let transmit = quic.poll_transmit(now, NonZeroUsize::MIN, &mut sent).unwrap();
        prop_assert!(transmit.size >= 1200);
        for (mut data, first) in datagrams.into_iter().zip(first) {
            // Half of the datagrams target the connection: its source connection id is in the first packet.
            if first % 2 == 0 && data.len() > 20 && sent.len() > 40 {
                let id_at = 6 + usize::from(sent[5]) + 1;
                data[0] = first | 0xc0;
                data[1..5].copy_from_slice(&sent[1..5]);
                data[5] = 8;
                data[6..14].copy_from_slice(&sent[id_at..id_at + 8]);
            }
            let arrival = Arrival { socket: SocketId(0), from: server_addr(), local_ip: None, ecn: Ecn::Ce };
            quic.handle_datagram(now, &arrival, BytesMut::from(&data[..]));
        }
        quic.settle(now);
        while quic.poll_event().is_some() {}
        let mut buf = Vec::new();
        while quic.poll_transmit(now, NonZeroUsize::MIN, &mut buf).is_some() { buf.clear() }
        prop_assert!(quic.connections() == 1);
        let _ = quic.stats(conn);
    }
}
