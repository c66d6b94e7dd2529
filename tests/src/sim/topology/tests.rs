use super::super::nat::Dependence::{Address, AddressAndPort, Independent};
use super::*;

const ALICE: HostId = HostId(0);
const BOB: HostId = HostId(1);
const CAROL: HostId = HostId(2);
const RELAY: HostId = HostId(3);
const SERVER: &str = "198.51.100.1:4433";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The topology of a test, and the hosts in it.
struct Map {
    topology: Topology,
    at: BTreeMap<HostId, Segment>,
    now: Instant,
}

impl Map {
    fn new() -> Self {
        let mut map = Self { topology: Topology::default(), at: BTreeMap::new(), now: Instant::now() };
        map.put(RELAY, PUBLIC, "198.51.100.1");
        map
    }

    fn put(&mut self, host: HostId, segment: Segment, ip: &str) {
        self.at.insert(host, segment);
        self.topology.attach(host, &Attachment::new(segment, ip.parse().unwrap()));
    }

    fn site(&mut self, parent: Segment, network: [u8; 4], behaviour: Behaviour, outside: [u8; 4]) -> Segment {
        self.topology.add(parent, Site::private(network, behaviour, outside), &Seed::new([1; 32]))
    }

    /// Sends a datagram: returns the receiving host, its address, and the source address.
    fn send(&mut self, host: HostId, from: &str, to: &str) -> Option<(HostId, SocketAddr, SocketAddr)> {
        self.carry(Protocol::Udp, host, from, to)
    }

    fn carry(
        &mut self,
        protocol: Protocol,
        host: HostId,
        from: &str,
        to: &str,
    ) -> Option<(HostId, SocketAddr, SocketAddr)> {
        let flight = self.topology.depart(self.now, protocol, self.at[&host], addr(from), addr(to))?;
        let (host, to) = self.topology.arrive(self.now, &flight)?;
        Some((host, to, flight.from))
    }

    /// The address of a host as a server observes it.
    fn seen(&mut self, host: HostId, from: &str) -> String {
        let (to, at, seen) = self.send(host, from, SERVER).expect("the server is reached");
        assert_eq!((to, at), (RELAY, addr(SERVER)));
        seen.to_string()
    }
}

const CONE: Behaviour = Behaviour::nat(Independent, Independent);
const HOME: Behaviour = Behaviour::nat(Independent, AddressAndPort);

#[test]
fn packet_passes_both_nats() {
    let mut map = Map::new();
    let a = map.site(PUBLIC, [192, 168, 1, 0], CONE, [203, 0, 113, 101]);
    let b = map.site(PUBLIC, [192, 168, 2, 0], HOME, [203, 0, 113, 102]);
    map.put(ALICE, a, "192.168.1.10");
    map.put(BOB, b, "192.168.2.10");
    let (alice, bob) = (map.seen(ALICE, "192.168.1.10:5000"), map.seen(BOB, "192.168.2.10:6000"));
    assert_eq!((&alice[..], &bob[..]), ("203.0.113.101:5000", "203.0.113.102:6000"));
    assert_eq!(map.send(ALICE, "192.168.1.10:5000", &bob), None, "bob has sent nothing to alice");
    assert_eq!(map.send(BOB, "192.168.2.10:6000", &alice), Some((ALICE, addr("192.168.1.10:5000"), addr(&bob))));
    assert_eq!(map.send(ALICE, "192.168.1.10:5000", &bob), Some((BOB, addr("192.168.2.10:6000"), addr(&alice))));
    assert_eq!(map.send(ALICE, "192.168.1.10:5000", "192.168.2.10:6000"), None, "a private address of another network");
    assert_eq!(map.send(RELAY, SERVER, "192.168.1.10:5000"), None);
}

#[test]
fn packet_in_flight_sees_nat_state_on_arrival() {
    let mut map = Map::new();
    let a = map.site(PUBLIC, [192, 168, 1, 0], HOME, [203, 0, 113, 101]);
    map.put(ALICE, a, "192.168.1.10");
    let seen = addr(&map.seen(ALICE, "192.168.1.10:5000"));
    let flight = map.topology.depart(map.now, Protocol::Udp, PUBLIC, addr(SERVER), seen).unwrap();
    assert!(map.topology.arrive(map.now, &flight).is_some());
    map.topology.nat_mut(a, seen.ip()).unwrap().flush();
    assert_eq!(map.topology.arrive(map.now, &flight), None);
}

#[test]
fn hosts_on_same_lan_use_no_nat() {
    let mut map = Map::new();
    let a = map.site(PUBLIC, [192, 168, 1, 0], HOME, [203, 0, 113, 101]);
    map.put(ALICE, a, "192.168.1.10");
    map.put(CAROL, a, "192.168.1.11");
    for protocol in [Protocol::Udp, Protocol::Syn, Protocol::Tcp] {
        let got = map.carry(protocol, ALICE, "192.168.1.10:5000", "192.168.1.11:7000");
        assert_eq!(got, Some((CAROL, addr("192.168.1.11:7000"), addr("192.168.1.10:5000"))));
    }
    let nobody = addr("192.168.1.12:7000");
    assert_eq!(
        map.topology.depart(map.now, Protocol::Udp, a, addr("192.168.1.10:5000"), nobody),
        None,
        "it left the LAN"
    );
}

/// RFC 4787, section 6, and REQ-9: by the outside address, from the outside address.
#[test]
fn hairpin_packets_return_only_if_enabled() {
    for hairpin in [false, true] {
        let mut map = Map::new();
        let a = map.site(PUBLIC, [192, 168, 1, 0], Behaviour { hairpin, ..CONE }, [203, 0, 113, 101]);
        map.put(ALICE, a, "192.168.1.10");
        map.put(CAROL, a, "192.168.1.11");
        let (alice, carol) = (map.seen(ALICE, "192.168.1.10:5000"), map.seen(CAROL, "192.168.1.11:7000"));
        let wanted = hairpin.then_some((CAROL, addr("192.168.1.11:7000"), addr(&alice)));
        assert_eq!(map.send(ALICE, "192.168.1.10:5000", &carol), wanted);
    }
}

#[test]
fn private_networks_may_overlap() {
    let mut map = Map::new();
    let a = map.site(PUBLIC, [192, 168, 1, 0], CONE, [203, 0, 113, 101]);
    let b = map.site(PUBLIC, [192, 168, 1, 0], CONE, [203, 0, 113, 102]);
    map.put(ALICE, a, "192.168.1.10");
    map.put(BOB, b, "192.168.1.10");
    map.put(CAROL, a, "192.168.1.11");
    let bob = map.seen(BOB, "192.168.1.10:6000");
    assert_eq!(map.send(CAROL, "192.168.1.11:7000", "192.168.1.10:6000").map(|got| got.0), Some(ALICE));
    assert_eq!(
        map.send(CAROL, "192.168.1.11:7000", &bob).map(|got| (got.0, got.1)),
        Some((BOB, addr("192.168.1.10:6000")))
    );
}

#[test]
fn nested_nats_translate_twice_and_use_outer_hairpin() {
    for hairpin in [false, true] {
        let mut map = Map::new();
        let protocol = Behaviour { hairpin, ..Behaviour::nat(Independent, Address) };
        let cgn = map.site(PUBLIC, [100, 64, 0, 0], protocol, [203, 0, 113, 101]);
        let a = map.site(cgn, [192, 168, 1, 0], HOME, [100, 64, 0, 1]);
        let b = map.site(cgn, [192, 168, 1, 0], HOME, [100, 64, 0, 2]);
        map.put(ALICE, a, "192.168.1.10");
        map.put(BOB, b, "192.168.1.10");
        let (alice, bob) = (map.seen(ALICE, "192.168.1.10:5000"), map.seen(BOB, "192.168.1.10:5000"));
        assert_eq!(alice, "203.0.113.101:5000");
        assert!(bob.starts_with("203.0.113.101:") && bob != alice);
        assert_eq!(map.send(BOB, "192.168.1.10:5000", &alice), None, "alice's own NAT lets nobody in yet");
        let got = map.send(ALICE, "192.168.1.10:5000", &bob);
        assert_eq!(got, hairpin.then_some((BOB, addr("192.168.1.10:5000"), addr(&alice))));
        // Inside the carrier's network they also reach each other, by addresses that they do not learn.
        assert_eq!(map.send(BOB, "192.168.1.10:5000", "100.64.0.1:5000"), None);
        let got = map.send(ALICE, "192.168.1.10:5000", "100.64.0.2:5000");
        assert_eq!(got, Some((BOB, addr("192.168.1.10:5000"), addr("100.64.0.1:5000"))));
    }
}

#[test]
fn firewall_of_public_addresses_admits_only_answers() {
    let mut map = Map::new();
    let six = |tail: &str| format!("2001:db8:77:a1::{tail}");
    let network = "2001:db8:77:a1::".parse().unwrap();
    let site = Site::private([192, 168, 1, 0], HOME, [203, 0, 113, 101]).with_v6(network, Behaviour::firewall());
    let a = map.topology.add(PUBLIC, site, &Seed::new([1; 32]));
    map.put(ALICE, a, &six("10"));
    map.put(CAROL, a, &six("11"));
    map.put(BOB, PUBLIC, "2001:db8:77:b1::10");
    let (alice, bob) = ("[2001:db8:77:a1::10]:5000", "[2001:db8:77:b1::10]:6000");
    assert_eq!(map.send(BOB, bob, alice), None);
    assert_eq!(map.carry(Protocol::Syn, BOB, bob, alice), None);
    assert_eq!(map.send(ALICE, alice, bob), Some((BOB, addr(bob), addr(alice))));
    assert_eq!(map.send(BOB, bob, alice), Some((ALICE, addr(alice), addr(bob))));
    assert_eq!(map.send(ALICE, alice, "[2001:db8:77:a1::11]:7000").map(|got| got.0), Some(CAROL));
    assert_eq!(map.send(ALICE, alice, "[2001:db8:77:a1::12]:7000"), None);
}

#[test]
fn tcp_passes_nat_outbound_only() {
    let mut map = Map::new();
    let a = map.site(PUBLIC, [192, 168, 1, 0], CONE, [203, 0, 113, 101]);
    map.put(ALICE, a, "192.168.1.10");
    let (host, _, seen) = map.carry(Protocol::Syn, ALICE, "192.168.1.10:5000", SERVER).unwrap();
    assert_eq!((host, seen), (RELAY, addr("203.0.113.101:5000")));
    let seen = seen.to_string();
    assert_eq!(map.carry(Protocol::Tcp, RELAY, SERVER, &seen).map(|got| got.0), Some(ALICE));
    assert_eq!(map.carry(Protocol::Syn, RELAY, SERVER, &seen), None);
    assert_eq!(map.carry(Protocol::Tcp, RELAY, "198.51.100.1:9", &seen), None);
}

#[test]
fn non_routable_packets_stay_on_lan() {
    let mut map = Map::new();
    let a = map.site(PUBLIC, [192, 168, 1, 0], CONE, [203, 0, 113, 101]);
    map.put(ALICE, a, "192.168.1.10");
    for to in ["224.0.0.251:5353", "255.255.255.255:9", "192.168.1.255:9", "169.254.169.254:80", "127.0.0.1:9"] {
        let flight = map.topology.depart(map.now, Protocol::Udp, a, addr("192.168.1.10:5000"), addr(to));
        assert_eq!(flight, None, "{to}");
    }
}

#[test]
fn address_belongs_to_last_host_attached() {
    let mut map = Map::new();
    map.put(BOB, PUBLIC, "198.51.100.1");
    assert_eq!(map.send(BOB, "198.51.100.1:1", SERVER).map(|got| got.0), Some(BOB));
    map.topology.detach(RELAY, &Attachment::new(PUBLIC, addr(SERVER).ip()));
    assert_eq!(map.send(BOB, "198.51.100.1:1", SERVER).map(|got| got.0), Some(BOB));
    map.topology.detach(BOB, &Attachment::new(PUBLIC, addr(SERVER).ip()));
    assert_eq!(map.send(BOB, "198.51.100.1:1", SERVER), None);
}
