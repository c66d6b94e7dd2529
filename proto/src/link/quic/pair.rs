//! For tests: a client's and a server's endpoint on a virtual network with a virtual clock.
//!
//! The path has a latency, a rate with a tail-drop queue, loss, jitter (which reorders) and a size limit. All
//! randomness comes from a seed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::BytesMut;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use zeroize::Zeroizing;

use super::{ConnId, Event, Incoming, Limits, Profile, Quic};
use crate::Instant;
use crate::link::trust::{Identity, Trust};
use crate::net::{Arrival, Ecn, SocketId};
use crate::seed::Seed;

pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;
pub(crate) const UNIX_TIME: Duration = Duration::from_secs(1_790_000_000);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) latency: Duration,
    /// Bytes per second; 0 means no limit.
    pub(crate) rate: u64,
    pub(crate) queue: Duration,
    /// The number of lost datagrams per million.
    pub(crate) loss: u32,
    pub(crate) jitter: Duration,
    pub(crate) mtu: usize,
}

impl Default for Path {
    fn default() -> Self {
        let (latency, queue) = (Duration::from_millis(5), Duration::from_millis(50));
        Self { latency, rate: 0, queue, loss: 0, jitter: Duration::ZERO, mtu: 1472 }
    }
}

/// What the server does with a new client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Policy {
    Accept,
    /// Require a retry first; accept the client once it is validated.
    Retry,
    Refuse,
    Ignore,
}

struct InFlight {
    to_end: usize,
    from: SocketAddr,
    to: SocketAddr,
    data: BytesMut,
}

pub(crate) struct Pair {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) ends: [Quic; 2],
    pub(crate) path: Path,
    pub(crate) cut: bool,
    pub(crate) policy: Policy,
    pub(crate) events: [Vec<(ConnId, Event)>; 2],
    /// The time, the destination and the size of every datagram that was sent.
    pub(crate) trace: Vec<(Duration, usize, usize)>,
    pub(crate) max_segments: usize,
    pub(crate) addresses: [SocketAddr; 2],
    net: BTreeMap<(Instant, u64), InFlight>,
    sequence: u64,
    free_at: [Instant; 2],
    rng: ChaCha20Rng,
}

/// A self-signed certificate whose signatures all have the same length, so that runs are reproducible.
pub(crate) fn identity() -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["relay.test".into()]).unwrap().self_signed(&key).unwrap();
    Identity { cert_chain: vec![certificate.der().to_vec()], key: Zeroizing::new(key.serialize_der()) }
}

/// The start of virtual time; only differences from it matter.
#[expect(clippy::disallowed_methods, reason = "there is no other way to make one")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

pub(crate) fn server_addr() -> SocketAddr {
    "192.0.2.2:4433".parse().unwrap()
}

impl Pair {
    pub(crate) fn new(profile: &Profile, identity: &Identity, seed: u8) -> Self {
        Self::of(profile, profile, identity, seed)
    }

    pub(crate) fn of(client: &Profile, server: &Profile, identity: &Identity, seed: u8) -> Self {
        let seed = Seed::new([seed; 32]);
        let client = Quic::client(client, UNIX_TIME, &seed.derive("client"));
        let server = Quic::server(server, identity, Limits::default(), UNIX_TIME, &seed.derive("server")).unwrap();
        let now = start();
        Self {
            start: now,
            now,
            ends: [client, server],
            path: Path::default(),
            cut: false,
            policy: Policy::Accept,
            events: [Vec::new(), Vec::new()],
            trace: Vec::new(),
            max_segments: 16,
            addresses: ["192.0.2.1:50000".parse().unwrap(), server_addr()],
            net: BTreeMap::new(),
            sequence: 0,
            free_at: [now; 2],
            rng: seed.derive("network").rng(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn connect(&mut self, trust: Trust) -> ConnId {
        self.ends[CLIENT].connect(self.now, self.addresses[SERVER], "relay.test", &trust).unwrap()
    }

    /// Connects, and returns the connection's id on both sides.
    pub(crate) fn connected(&mut self) -> (ConnId, ConnId) {
        let client = self.connect(Trust::FirstUse);
        self.until("connected", |pair| {
            let up = |end: usize| pair.events[end].iter().any(|(_, event)| matches!(event, Event::Connected { .. }));
            up(CLIENT) && up(SERVER)
        });
        let (server, _) = self.events[SERVER].last().cloned().unwrap();
        self.events = [Vec::new(), Vec::new()];
        (client, server)
    }

    /// Runs the world until the condition holds, five virtual minutes at most.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = self.now + Duration::from_secs(300);
        loop {
            self.flush();
            if done(self) {
                return;
            }
            assert!(self.now < limit, "waited too long: {what}; {:?}", self.events);
            assert!(self.step(), "nothing is in flight and no timer runs: {what}; {:?}", self.events);
        }
    }

    /// Runs the world for this time.
    pub(crate) fn pass(&mut self, time: Duration) {
        let limit = self.now + time;
        loop {
            self.flush();
            if self.next().is_none_or(|next| next > limit) {
                self.now = limit;
                return;
            }
            self.step();
        }
    }

    pub(crate) fn take(&mut self, end: usize) -> Vec<Event> {
        self.flush();
        std::mem::take(&mut self.events[end]).into_iter().map(|(_, event)| event).collect()
    }

    /// Advances to the next event; false if there is none.
    pub(crate) fn step(&mut self) -> bool {
        let Some(next) = self.next() else { return false };
        self.now = self.now.max(next);
        while let Some(entry) = self.net.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let InFlight { to_end, from, to, data } = entry.remove();
            let arrival = Arrival { socket: SocketId(0), from, local_ip: Some(to.ip()), ecn: Ecn::NotEct };
            self.ends[to_end].handle_datagram(self.now, &arrival, data);
        }
        for end in &mut self.ends {
            end.handle_timeout(self.now);
        }
        true
    }

    fn next(&self) -> Option<Instant> {
        let net = self.net.keys().next().map(|&(at, _)| at);
        [net, self.ends[CLIENT].poll_timeout(), self.ends[SERVER].poll_timeout()].into_iter().flatten().min()
    }

    /// Settles the endpoints, decides on new clients, collects events, and puts sent datagrams on the path.
    pub(crate) fn flush(&mut self) {
        for end in [CLIENT, SERVER] {
            self.ends[end].settle(self.now);
            while let Some(incoming) = self.ends[end].poll_incoming() {
                self.answer(end, incoming);
            }
            while let Some(event) = self.ends[end].poll_event() {
                self.events[end].push(event);
            }
            self.transmit(end);
        }
    }

    fn answer(&mut self, end: usize, incoming: Incoming) {
        match self.policy {
            Policy::Retry if !incoming.validated() => self.ends[end].retry(incoming),
            Policy::Accept | Policy::Retry => drop(self.ends[end].accept(self.now, incoming)),
            Policy::Refuse => self.ends[end].refuse(incoming),
            Policy::Ignore => self.ends[end].ignore(incoming),
        }
    }

    fn transmit(&mut self, end: usize) {
        let segments = NonZeroUsize::new(self.max_segments).unwrap();
        let mut buf = Vec::new();
        while let Some(transmit) = self.ends[end].poll_transmit(self.now, segments, &mut buf) {
            let from = match (end, transmit.src_ip) {
                (CLIENT, _) => self.addresses[CLIENT],
                (_, ip) => SocketAddr::new(ip.unwrap_or(self.addresses[SERVER].ip()), self.addresses[SERVER].port()),
            };
            for datagram in buf[..transmit.size].chunks(transmit.segment_size.unwrap_or(transmit.size)) {
                self.send(end, from, transmit.to, datagram);
            }
            buf.clear();
        }
    }

    fn send(&mut self, end: usize, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        // RFC 9443: this bit distinguishes QUIC from STUN on one socket.
        assert!(data[0] & 0x40 != 0, "the fixed bit is set in every datagram");
        self.trace.push((self.elapsed(), 1 - end, data.len()));
        let path = self.path;
        let lost = self.rng.next_u32() % 1_000_000 < path.loss;
        let leaves = self.free_at[end].max(self.now);
        if lost || self.cut || data.len() > path.mtu || leaves - self.now > path.queue {
            return;
        }
        let rate = if path.rate == 0 { u64::MAX } else { path.rate };
        self.free_at[end] = leaves + Duration::from_nanos(data.len() as u64 * 1_000_000_000 / rate);
        let jitter = path.jitter.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX));
        self.sequence += 1;
        let flying = InFlight { to_end: 1 - end, from, to, data: BytesMut::from(data) };
        self.net.insert((self.free_at[end] + path.latency + jitter, self.sequence), flying);
    }
}
