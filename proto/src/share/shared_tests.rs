//! QUIC endpoints behind two shared sockets: each pair finds its own, whatever else arrives.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::Switch;
use crate::Instant;
use crate::drive::Received;
use crate::link::quic::pair::{UNIX_TIME, identity, start};
use crate::link::quic::{Closed, ConnId, Event, Limits, Profile, Quic, Stream};
use crate::link::trust::Identity;
use crate::link::{Read, Write};
use crate::net::{Arrival, Ecn, MARK, SlotKey, SocketId};
use crate::seed::Seed;

/// Endpoints behind each of the two sockets.
const NODES: usize = 12;
const ADDRESSES: [&str; 2] = ["192.0.2.1:4000", "192.0.2.2:5000"];
const STRANGER: &str = "203.0.113.9:6000";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// One endpoint, with all that it received by connection, and what it still has to send.
struct Node {
    quic: Quic,
    received: BTreeMap<ConnId, (Vec<u8>, bool)>,
    sending: Option<(ConnId, Stream, Bytes)>,
    closed: Vec<Closed>,
}

/// A socket with all its endpoints.
struct House {
    key: SlotKey,
    switch: Switch,
    nodes: Vec<Node>,
}

struct World {
    now: Instant,
    identity: Identity,
    houses: [House; 2],
    net: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sequence: u64,
    rng: ChaCha20Rng,
    /// Of a hundred datagrams: lost, given to a wrong endpoint too, and the stranger's for each of ours.
    loss: u32,
    wrong: u32,
    flood: u32,
    /// What was sent to the stranger.
    to_stranger: usize,
}

fn endpoint(identity: &Identity, key: SlotKey, node: usize, seed: &Seed) -> Node {
    let slot = Some(key.slot(u16::try_from(node).unwrap()));
    let profile = Profile { slot, ..Profile::direct() };
    let seed = seed.derive(&node.to_string());
    let quic = Quic::server(&profile, identity, Limits::default(), UNIX_TIME, &seed).unwrap();
    Node { quic, received: BTreeMap::new(), sending: None, closed: Vec::new() }
}

impl World {
    fn new(seed: u8) -> Self {
        let identity = identity();
        let houses = ["here", "there"].map(|house| {
            let seed = Seed::new([seed; 32]).derive(house);
            let key = SlotKey::new(&seed);
            let mut switch = Switch::new(key, false);
            let nodes = (0..NODES).map(|node| {
                assert!(switch.join(u16::try_from(node).unwrap()));
                endpoint(&identity, key, node, &seed)
            });
            House { key, nodes: nodes.collect(), switch }
        });
        let rng = Seed::new([seed; 32]).derive("network").rng();
        let (net, now) = (BTreeMap::new(), start());
        Self { now, identity, houses, net, sequence: 0, rng, loss: 0, wrong: 0, flood: 0, to_stranger: 0 }
    }

    fn chance(&mut self, of_a_hundred: u32) -> bool {
        self.rng.next_u32() % 100 < of_a_hundred
    }

    /// What a pool puts into its token for the other side.
    fn mark(&mut self, house: usize, node: usize) -> [u8; MARK] {
        let mut mark = [0; MARK];
        self.rng.fill_bytes(&mut mark);
        self.houses[house].key.slot(u16::try_from(node).unwrap()).mark(&mut mark);
        mark
    }

    /// Node `node` here dials the one of the same number there, all of them between the same two addresses.
    fn dial(&mut self, node: usize) -> ConnId {
        let mark = self.mark(1, node);
        let certificate = self.identity.fingerprint();
        self.houses[0].nodes[node].quic.connect_marked(self.now, at(ADDRESSES[1]), certificate, mark).unwrap()
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let after = Duration::from_micros(u64::from(self.rng.next_u32() % 4000));
        self.sequence += 1;
        self.net.insert((self.now + Duration::from_millis(5) + after, self.sequence), (from, to, data.to_vec()));
    }

    /// Something from a stranger, which may have seen a connection id of ours.
    fn stray(&mut self, house: usize) {
        let len = 30 + (self.rng.next_u32() % 1300) as usize;
        let mut data = vec![0; len];
        self.rng.fill_bytes(&mut data);
        let from = if self.chance(50) { at(STRANGER) } else { at(ADDRESSES[1 - house]) };
        self.send(from, at(ADDRESSES[house]), &data);
    }

    fn arrive(&mut self, house: usize, from: SocketAddr, mut data: Vec<u8>) {
        let now = self.now;
        let reader = u16::try_from(self.rng.next_u32() as usize % NODES).unwrap();
        let mut received = Received { from, local_ip: None, ecn: Ecn::NotEct, len: data.len(), stride: data.len() };
        let whole = data.clone();
        let wrong = self.chance(self.wrong).then(|| self.rng.next_u32() as usize % NODES);
        let House { switch, nodes, .. } = &mut self.houses[house];
        let mut give = |node: usize, data: &[u8]| {
            let arrival = Arrival { socket: SocketId(0), from, local_ip: None, ecn: Ecn::NotEct };
            nodes[node].quic.handle_datagram(now, &arrival, BytesMut::from(data));
        };
        switch.sort(now, reader, &mut received, &mut data, &mut Vec::new());
        if received.len > 0 {
            give(usize::from(reader), &data[..received.len]);
        }
        let mut buf = vec![0; 2000];
        for node in 0..NODES {
            let mut received = [Received::NONE];
            while switch.take(u16::try_from(node).unwrap(), &mut [IoSliceMut::new(&mut buf)], &mut received) > 0 {
                give(node, &buf[..received[0].len]);
            }
        }
        if let Some(node) = wrong {
            give(node, &whole);
        }
    }

    fn flush(&mut self) {
        for (house, address) in ADDRESSES.into_iter().map(at).enumerate() {
            for node in 0..NODES {
                self.serve(house, node);
                let mut buf = Vec::new();
                let segments = NonZeroUsize::new(8).unwrap();
                while let Some(transmit) =
                    self.houses[house].nodes[node].quic.poll_transmit(self.now, segments, &mut buf)
                {
                    self.houses[house].switch.note(u16::try_from(node).unwrap(), transmit.to);
                    for datagram in buf.chunks(transmit.segment_size.unwrap_or(transmit.size)) {
                        self.to_stranger += usize::from(transmit.to == at(STRANGER));
                        if !self.chance(self.loss) {
                            self.send(address, transmit.to, datagram);
                        }
                        if self.chance(self.flood) {
                            self.stray(house);
                        }
                    }
                    buf.clear();
                }
            }
        }
    }

    fn serve(&mut self, house: usize, node: usize) {
        let now = self.now;
        let node = &mut self.houses[house].nodes[node];
        node.quic.settle(now);
        while let Some(incoming) = node.quic.poll_incoming() {
            let _ = node.quic.accept(now, incoming);
        }
        while let Some((conn, event)) = node.quic.poll_event() {
            match event {
                Event::Closed(closed) => node.closed.push(closed),
                Event::Opened(stream, _) | Event::Readable(stream) => loop {
                    let (bytes, ended) = node.received.entry(conn).or_default();
                    match node.quic.read(conn, stream, 1 << 20) {
                        Read::Data(data) => bytes.extend_from_slice(&data),
                        Read::End => break *ended = true,
                        Read::Blocked | Read::Reset(_) | Read::Gone => break,
                    }
                },
                _ => {}
            }
        }
        if let Some((conn, stream, data)) = &mut node.sending
            && node.quic.write(*conn, *stream, data) == Write::Done
        {
            node.quic.finish(*conn, *stream);
            node.sending = None;
        }
        node.quic.settle(now);
    }

    fn step(&mut self) {
        let timers = self.houses.iter().flat_map(|house| &house.nodes).filter_map(|node| node.quic.poll_timeout());
        let next = timers.chain(self.net.keys().next().map(|(at, _)| *at)).min().expect("something goes on");
        self.now = self.now.max(next);
        while let Some(entry) = self.net.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (from, to, data) = entry.remove();
            if let Some(house) = ADDRESSES.iter().position(|address| at(address) == to) {
                self.arrive(house, from, data);
            }
        }
        for node in self.houses.iter_mut().flat_map(|house| &mut house.nodes) {
            node.quic.handle_timeout(self.now);
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let limit = self.now + Duration::from_secs(120);
        loop {
            self.flush();
            if done(self) {
                return;
            }
            assert!(self.now < limit, "waited too long: {what}");
            self.step();
        }
    }
}

fn contents(node: usize) -> Vec<u8> {
    vec![u8::try_from(node).unwrap(); 50_000 + node]
}

/// Dials everywhere, and sends the contents of each node.
fn all_send(world: &mut World) -> Vec<ConnId> {
    let conns: Vec<ConnId> = (0..NODES).map(|node| world.dial(node)).collect();
    world.until("connected", |world| {
        let rtts = world.houses[1].nodes.iter().filter(|node| node.quic.connections() == 1);
        rtts.count() == NODES
    });
    for (node, conn) in conns.iter().enumerate() {
        let mut stream = None;
        while stream.is_none() {
            stream = world.houses[0].nodes[node].quic.open_bi(*conn);
            world.flush();
            world.step();
        }
        world.houses[0].nodes[node].sending = Some((*conn, stream.unwrap(), Bytes::from(contents(node))));
    }
    conns
}

fn all_arrived(world: &World) -> bool {
    world.houses[1].nodes.iter().all(|node| node.received.values().any(|(_, ended)| *ended))
}

#[test]
fn endpoints_behind_two_sockets_find_their_own() {
    for seed in 1..4 {
        let mut world = World::new(seed);
        (world.loss, world.wrong, world.flood) = (5, 20, 50);
        all_send(&mut world);
        world.until("everything", all_arrived);
        for (number, node) in world.houses[1].nodes.iter().enumerate() {
            let received: Vec<&(Vec<u8>, bool)> = node.received.values().collect();
            assert!(received.len() == 1 && received[0].0 == contents(number), "node {number}");
            assert!(node.closed.is_empty() && world.houses[0].nodes[number].closed.is_empty(), "node {number}");
        }
        assert_eq!(world.to_stranger, 0, "nothing that a stranger sends is answered");
    }
}

#[test]
fn one_that_lost_its_state_resets_its_own_peer_only() {
    let mut world = World::new(7);
    all_send(&mut world);
    world.until("everything", all_arrived);
    let (key, seed) = (world.houses[1].key, Seed::new([99; 32]));
    world.houses[1].nodes[3] = endpoint(&world.identity, key, 3, &seed);
    // Everybody says something; what node 3 hears it does not know.
    for node in &mut world.houses[0].nodes {
        node.quic.handle_moved();
    }
    world.until("reset", |world| !world.houses[0].nodes[3].closed.is_empty());
    assert!(matches!(world.houses[0].nodes[3].closed[..], [Closed::Reset]), "{:?}", world.houses[0].nodes[3].closed);
    let others = world.houses[0].nodes.iter().enumerate().filter(|(number, _)| *number != 3);
    assert!(others.into_iter().all(|(_, node)| node.closed.is_empty()));
}

/// An endpoint is given what is for others: each kind of packet that an endpoint with a socket of its own answers.
#[test]
fn packets_of_others_are_not_answered() {
    let now = start();
    let key = SlotKey::new(&Seed::new([1; 32]));
    let other_mark = |salt: u8| {
        let mut mark = [salt; MARK];
        key.slot(2).mark(&mut mark);
        mark
    };
    let mut short = vec![0x40];
    short.extend_from_slice(&other_mark(1));
    short.resize(200, 7);
    let arrival = Arrival { socket: SocketId(0), from: at(STRANGER), local_ip: None, ecn: Ecn::NotEct };
    let mut client = Quic::client(&Profile::direct(), UNIX_TIME, &Seed::new([2; 32]));
    let certificate = identity().fingerprint();
    client.connect_marked(now, at(ADDRESSES[1]), certificate, other_mark(2)).unwrap();
    client.settle(now);
    let mut first = Vec::new();
    assert!(client.poll_transmit(now, NonZeroUsize::MIN, &mut first).is_some());
    for (slot, answers) in [(Some(key.slot(1)), 0), (Some(key.slot(2)), 1), (None, 1)] {
        let profile = Profile { slot, ..Profile::direct() };
        let mut quic = Quic::server(&profile, &identity(), Limits::default(), UNIX_TIME, &Seed::new([1; 32])).unwrap();
        quic.handle_datagram(now, &arrival, BytesMut::from(&short[..]));
        quic.settle(now);
        let mut buf = Vec::new();
        let resets = usize::from(quic.poll_transmit(now, NonZeroUsize::MIN, &mut buf).is_some());
        quic.handle_datagram(now, &arrival, BytesMut::from(&first[..]));
        quic.settle(now);
        let mut knocks = 0;
        while let Some(incoming) = quic.poll_incoming() {
            quic.ignore(incoming);
            knocks += 1;
        }
        assert_eq!((resets, knocks), (answers, answers), "{slot:?}");
    }
}
