#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const V4: &str = "192.168.1.2:5000";
const V6: &str = "[2001:db8:1::2]:6000";
const NAT: &str = "198.51.100.1";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn servers(count: u8) -> Vec<SocketAddr> {
    (1..=count).map(|n| SocketAddr::from(([192, 0, 2, n], 3478))).collect()
}

fn interface(name: &str, ip: &str, prefix: u8) -> Interface {
    Interface { name: name.into(), addr: ip.parse().unwrap(), prefix }
}

fn at_home() -> Vec<Interface> {
    let own =
        [("lo", "127.0.0.1", 8), ("eth0", "192.168.1.2", 24), ("eth0", "fe80::2", 64), ("eth0", "2001:db8:1::2", 64)];
    own.map(|(name, ip, prefix)| interface(name, ip, prefix)).into()
}

/// A gatherer with its servers and a NAT: `seen` is the address that each server observes.
struct World {
    now: Instant,
    gather: Gather,
    seen: BTreeMap<SocketAddr, SocketAddr>,
    sent: Vec<(SocketAddr, Vec<u8>)>,
    learned: Vec<Candidate>,
}

impl World {
    fn new(seed: u8) -> Self {
        let gather = Gather::new(Config { seed: Seed::new([seed; 32]), slot: None });
        Self { now: Instant::now(), gather, seen: BTreeMap::new(), sent: Vec::new(), learned: Vec::new() }
    }

    /// Both sockets are bound, and all servers observe the address of a NAT with endpoint-independent mapping.
    fn at_home(count: u8) -> Self {
        let mut world = Self::new(1);
        world.gather.handle_interfaces(world.now, &at_home());
        world.gather.handle_bound(world.now, Family::V4, addr("0.0.0.0:5000"));
        world.gather.handle_bound(world.now, Family::V6, addr("[::]:6000"));
        for server in servers(count) {
            world.seen.insert(server, addr("198.51.100.1:7000"));
        }
        world.gather.handle_servers(world.now, servers(count));
        world
    }

    /// Delivers all datagrams; a server that is not in `seen` does not respond.
    fn run(&mut self) {
        while let Some((family, to, data)) = self.gather.poll_transmit() {
            assert_eq!(family, Family::of(to.ip()));
            self.sent.push((to, data.clone()));
            if let Some(&seen) = self.seen.get(&to) {
                let answer = stun::answer(&data, seen).expect("a request");
                assert!(self.gather.handle_datagram(self.now, family, to, &answer));
            }
        }
        self.learned.extend(std::iter::from_fn(|| self.gather.poll_candidate()));
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        self.run();
        while let Some(due) = self.gather.poll_timeout().filter(|&due| due <= until) {
            assert!(due >= self.now);
            self.now = due;
            self.gather.handle_timeout(self.now);
            assert!(self.gather.poll_timeout().is_none_or(|next| next > self.now), "it is stuck");
            self.run();
        }
        self.now = until;
    }

    fn sent_to(&self, server: SocketAddr) -> usize {
        self.sent.iter().filter(|(to, _)| *to == server).count()
    }

    fn known(&self) -> Vec<String> {
        self.gather.candidates().iter().map(shown).collect()
    }
}

fn shown(candidate: &Candidate) -> String {
    format!("{:?} {:?} {}", candidate.kind, candidate.transport, candidate.addr)
}

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn own_addresses_are_reported_at_once_and_only_once() {
    let mut world = World::new(1);
    world.gather.handle_interfaces(world.now, &at_home());
    assert_eq!(world.gather.poll_candidate(), None, "there is no socket yet");
    world.gather.handle_bound(world.now, Family::V4, addr("0.0.0.0:5000"));
    world.gather.handle_bound(world.now, Family::V6, addr("[::]:6000"));
    world.gather.handle_listening(world.now, addr("[::]:7000"));
    world.run();
    let learned: Vec<_> = world.learned.iter().map(shown).collect();
    let hosts = ["Host Udp 192.168.1.2:5000", "Host Udp [2001:db8:1::2]:6000"];
    let listeners = ["Host Tcp 192.168.1.2:7000", "Host Tcp [2001:db8:1::2]:7000"];
    assert_eq!(learned, [hosts, listeners].concat());
    assert_eq!(world.known(), learned);
    assert!(!world.gather.is_done(), "the servers are not set yet");
    world.gather.handle_servers(world.now, vec![]);
    assert!(world.gather.is_done());
    assert_eq!(world.gather.poll_timeout(), None);
}

#[test]
fn socket_bound_to_one_address_is_offered_only_there() {
    let mut world = World::new(1);
    world.gather.handle_interfaces(world.now, &at_home());
    world.gather.handle_bound(world.now, Family::V6, addr("[2001:db8:1::2]:6000"));
    world.gather.handle_listening(world.now, addr("0.0.0.0:7000"));
    assert_eq!(world.known(), ["Host Udp [2001:db8:1::2]:6000", "Host Tcp 192.168.1.2:7000"]);
    world.gather.handle_listening(world.now, addr("127.0.0.1:7000"));
    world.gather.handle_bound(world.now, Family::V6, addr("[2001:db8:1::3]:6000"));
    assert_eq!(world.known(), [""; 0]);
    // A port that the other side would deny.
    world.gather.handle_listening(world.now, addr("0.0.0.0:443"));
    assert_eq!(world.known(), [""; 0]);
}

#[test]
fn stun_servers_are_asked_from_the_sockets_that_will_punch() {
    let mut world = World::at_home(2);
    let relay6 = addr("[2001:db8:ffff::1]:4433");
    world.seen.insert(relay6, addr(V6));
    world.gather.handle_servers(world.now, [servers(2), vec![relay6]].concat());
    assert!(!world.gather.is_done());
    world.run();
    assert!(world.gather.is_done());
    assert_eq!(world.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [servers(2), vec![relay6]].concat());
    // The IPv6 server observed the host candidate's address.
    let expected = ["Host Udp 192.168.1.2:5000", "Host Udp [2001:db8:1::2]:6000", "Reflexive Udp 198.51.100.1:7000"];
    assert_eq!(world.known(), expected);
    assert_eq!((world.gather.nat(Family::V4), world.gather.nat(Family::V6)), (Nat::Independent, Nat::None));
    world.gather.handle_mapped(world.now, addr("198.51.100.1:5000"));
    assert_eq!(world.gather.poll_candidate().map(|mapped| shown(&mapped)).unwrap(), "Mapped Udp 198.51.100.1:5000");
    world.gather.handle_unmapped(world.now);
    assert_eq!(world.known(), expected);
}

#[test]
fn nat_with_port_per_server_is_detected() {
    let mut world = World::at_home(4);
    for (server, port) in servers(4).into_iter().zip(7000..) {
        world.seen.insert(server, SocketAddr::new(NAT.parse().unwrap(), port));
    }
    world.run();
    assert_eq!(world.gather.nat(Family::V4), Nat::Dependent);
    assert_eq!(world.known()[2..], ["Reflexive Udp 198.51.100.1:7000", "Reflexive Udp 198.51.100.1:7001"]);
}

#[test]
fn a_silent_server_is_given_up_and_delays_no_other() {
    let mut world = World::at_home(2);
    let [first, second] = servers(2)[..] else { panic!() };
    world.seen.remove(&first);
    world.run();
    assert_eq!(world.known()[2..], ["Reflexive Udp 198.51.100.1:7000"]);
    assert!(!world.gather.is_done());
    world.pass(Duration::from_millis(5749));
    assert!(!world.gather.is_done());
    world.pass(Duration::from_millis(1));
    assert!(world.gather.is_done());
    assert_eq!((world.sent_to(first), world.sent_to(second)), (stun::TRIES as usize, 1));
    assert_eq!(world.gather.nat(Family::V4), Nat::Unknown);
}

#[test]
fn a_server_that_refuses_is_given_up_at_once() {
    let mut world = World::at_home(1);
    let (family, to, request) = world.gather.poll_transmit().unwrap();
    let mut refusal = request[..20].to_vec();
    refusal[0] = 1;
    refusal[1] = 0x11;
    refusal[3] = 8;
    refusal.extend_from_slice(&[0, 9, 0, 4, 0, 0, 5, 0]);
    assert!(world.gather.handle_datagram(world.now, family, to, &refusal));
    assert!(world.gather.is_done());
}

#[test]
fn the_mapping_is_kept_alive_by_the_first_server_alone() {
    let mut world = World::at_home(3);
    world.pass(secs(14));
    assert_eq!(world.sent.len(), 3);
    world.pass(secs(600 - 14));
    let [first, second, third] = servers(3)[..] else { panic!() };
    let kept = world.sent_to(first);
    assert!((600 / 20 - 1..=600 / 15 + 1).contains(&kept), "{kept}");
    assert_eq!((world.sent_to(second), world.sent_to(third)), (1, 1));
    assert_eq!(world.learned.len(), 3, "nothing has changed");
    world.gather.rest();
    assert_eq!(world.gather.poll_timeout(), None);
    world.gather.handle_timeout(world.now + secs(100));
    assert_eq!(world.gather.poll_transmit(), None);
}

#[test]
fn a_changed_mapping_is_checked_with_all_servers_and_reported() {
    let mut world = World::at_home(2);
    world.pass(secs(1));
    for server in servers(2) {
        world.seen.insert(server, addr("198.51.100.1:9000"));
    }
    world.pass(secs(20));
    assert_eq!(world.learned.last().map(shown).unwrap(), "Reflexive Udp 198.51.100.1:9000");
    assert_eq!(world.learned.len(), 4);
    assert_eq!(world.known()[2..], ["Reflexive Udp 198.51.100.1:9000"]);
    assert_eq!(world.gather.nat(Family::V4), Nat::Independent, "old responses are not compared with new ones");
    assert_eq!(world.sent_to(servers(2)[1]), 2);
}

#[test]
fn next_server_keeps_mapping_when_first_is_silent() {
    let mut world = World::at_home(2);
    let [first, second] = servers(2)[..] else { panic!() };
    world.seen.insert(first, addr("198.51.100.1:6999"));
    world.pass(secs(1));
    world.seen.remove(&first);
    world.pass(secs(60));
    assert_eq!(world.known()[2..], ["Reflexive Udp 198.51.100.1:7000"]);
    assert!(world.gather.is_done());
    assert!(world.sent_to(second) >= 3);
    // No server responds: they are queried again later.
    world.seen.clear();
    world.pass(secs(120));
    assert_eq!(world.known().len(), 2);
    world.seen.insert(first, addr("198.51.100.1:6999"));
    world.pass(secs(120));
    assert_eq!(world.known()[2..], ["Reflexive Udp 198.51.100.1:6999"]);
}

#[test]
fn changed_network_restarts_gathering() {
    let mut world = World::at_home(2);
    world.pass(secs(1));
    let sent = world.sent.len();
    world.gather.handle_interfaces(world.now, &at_home());
    world.run();
    assert_eq!(world.sent.len(), sent, "that is no change");
    for server in servers(2) {
        world.seen.insert(server, addr("203.0.113.1:7000"));
    }
    world.gather.handle_interfaces(world.now, &[interface("wlan0", "10.0.0.9", 24)]);
    assert!(!world.gather.is_done());
    world.learned.clear();
    world.run();
    let learned: Vec<_> = world.learned.iter().map(shown).collect();
    assert_eq!(learned, ["Host Udp 10.0.0.9:5000", "Reflexive Udp 203.0.113.1:7000"]);
    assert_eq!(world.known(), learned);
}

#[test]
fn answers_to_old_questions_are_ignored() {
    let mut world = World::at_home(1);
    let (family, server, request) = world.gather.poll_transmit().unwrap();
    world.gather.refresh(world.now);
    let old = stun::answer(&request, addr("203.0.113.66:6666")).unwrap();
    assert!(world.gather.handle_datagram(world.now, family, server, &old));
    assert_eq!(world.known().len(), 2);
    world.run();
    assert_eq!(world.known()[2..], ["Reflexive Udp 198.51.100.1:7000"]);
    // A second response to the same request changes nothing.
    let again = stun::answer(&world.sent.last().unwrap().1, addr("203.0.113.66:6666")).unwrap();
    assert!(world.gather.handle_datagram(world.now, family, server, &again));
    assert_eq!(world.known()[2..], ["Reflexive Udp 198.51.100.1:7000"]);
}

#[test]
fn answers_from_other_addresses_are_ignored() {
    let mut world = World::at_home(1);
    let (family, server, request) = world.gather.poll_transmit().unwrap();
    let answer = stun::answer(&request, addr("203.0.113.66:6666")).unwrap();
    for from in [addr("203.0.113.66:6666"), SocketAddr::new(server.ip(), 1), servers(2)[1]] {
        assert!(world.gather.handle_datagram(world.now, family, from, &answer));
    }
    assert!(world.gather.handle_datagram(world.now, Family::V6, server, &answer));
    assert!(world.gather.handle_datagram(world.now, family, server, &request), "a request is not answered");
    assert_eq!(world.known().len(), 2);
    assert_eq!(world.gather.poll_transmit(), None);
    let packet_of_quic = [&[0x43][..], &answer[1..]].concat();
    assert!(!world.gather.handle_datagram(world.now, family, server, &packet_of_quic));
    assert!(!world.gather.handle_datagram(world.now, family, server, b""));
}

#[test]
fn k01_an_unusable_reflexive_address_is_not_offered() {
    for lie in
        ["127.0.0.1:5000", "0.0.0.0:5000", "224.0.0.1:5000", "198.51.100.1:53", "198.51.100.1:0", "[2001:db8::1]:5000"]
    {
        let mut world = World::at_home(1);
        world.seen.insert(servers(1)[0], addr(lie));
        world.run();
        assert!(world.gather.is_done());
        assert_eq!(world.known(), ["Host Udp 192.168.1.2:5000", "Host Udp [2001:db8:1::2]:6000"], "{lie}");
    }
}

#[test]
fn a_family_without_a_socket_asks_no_server() {
    let mut world = World::new(1);
    world.gather.handle_interfaces(world.now, &at_home());
    world.gather.handle_servers(world.now, [servers(1), vec![addr("[2001:db8:ffff::1]:4433")]].concat());
    assert!(!world.gather.is_done() && world.gather.poll_transmit().is_none());
    world.gather.handle_absent(world.now, Family::V6);
    world.gather.handle_bound(world.now, Family::V4, addr("0.0.0.0:5000"));
    world.seen.insert(servers(1)[0], addr(V4));
    world.run();
    assert_eq!(world.sent.len(), 1);
    assert!(world.gather.is_done());
    assert_eq!(world.gather.nat(Family::V4), Nat::None);
    // The socket is closed, and its queued datagrams are dropped.
    world.gather.refresh(world.now);
    world.gather.handle_absent(world.now, Family::V4);
    assert!(world.gather.poll_transmit().is_none() && world.known().is_empty() && world.gather.is_done());
}

#[test]
fn stun_servers_are_bounded_and_deduplicated() {
    let mut world = World::at_home(0);
    let odd = ["0.0.0.0:3478", "224.0.0.1:3478", "192.0.2.1:0"].map(addr);
    let twice = ["192.0.2.1:3478", "[::ffff:192.0.2.1]:3478"].map(addr);
    world.gather.handle_servers(world.now, [odd.to_vec(), twice.to_vec(), servers(9)].concat());
    world.run();
    assert_eq!(world.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), servers(4));
    // Servers that stay in the list are not queried again.
    world.gather.handle_servers(world.now, servers(9)[2..].to_vec());
    world.run();
    assert_eq!(world.sent.len(), 6);
}

#[test]
fn stun_server_gets_bounded_number_of_datagrams() {
    let mut world = World::at_home(2);
    world.pass(secs(3600));
    assert!(world.sent_to(servers(2)[0]) < MAX_PACKETS as usize, "enough for an hour");
    world.pass(secs(20 * 3600));
    assert_eq!(world.sent_to(servers(2)[0]), MAX_PACKETS as usize);
    assert_eq!(world.known().len(), 3, "the known candidates stay");
    world.seen.clear();
    world.gather.refresh(world.now);
    world.sent.clear();
    world.pass(secs(20 * 3600));
    assert_eq!(world.sent_to(servers(2)[0]), MAX_PACKETS as usize);
    // The datagrams are not polled.
    world.gather.refresh(world.now);
    for _ in 0..1000 {
        world.now += secs(1);
        world.gather.handle_timeout(world.now);
    }
    assert!(world.gather.out.len() <= MAX_WAITING);
}

#[test]
fn a_run_is_determined_by_its_seed() {
    let run = |seed| {
        let mut world = World::new(seed);
        let start = world.now;
        world.gather.handle_bound(world.now, Family::V4, addr("0.0.0.0:5000"));
        world.gather.handle_servers(world.now, servers(3));
        world.seen = servers(3).into_iter().map(|server| (server, addr("198.51.100.1:7000"))).collect();
        world.pass(secs(100));
        (world.sent, world.gather.poll_timeout().map(|due| due - start))
    };
    assert_eq!(run(1), run(1));
    let (one, two) = (run(1), run(2));
    assert_ne!(one.1, two.1, "the interval is random");
    for (to, data) in &one.0 {
        let requests = one.0.iter().chain(&two.0).filter(|(_, other)| other[8..20] == data[8..20]).count();
        assert_eq!(requests, 1, "{to}: each transaction has an id of its own");
    }
}

#[derive(Debug, Clone)]
enum SimEvent {
    Interfaces(Vec<(IpAddr, u8)>),
    Bound(bool, SocketAddr),
    Absent(bool),
    Listening(SocketAddr),
    Servers(Vec<SocketAddr>),
    Mapped(SocketAddr),
    Datagram(bool, SocketAddr, Vec<u8>),
    Answer(SocketAddr),
    Lose,
    Time(u64),
    Refresh,
    Rest,
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (0..5_u8, 1020..1030_u16).prop_map(|(n, port)| SocketAddr::from(([192, 0, 2, n], port))),
        (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port)),
    ]
}

fn any_happening() -> impl Strategy<Value = SimEvent> {
    prop_oneof![
        prop::collection::vec((any::<IpAddr>(), any::<u8>()), 0..12).prop_map(SimEvent::Interfaces),
        (any::<bool>(), any_addr()).prop_map(|(v4, addr)| SimEvent::Bound(v4, addr)),
        (any::<bool>(), any::<u16>()).prop_map(|(v4, port)| {
            SimEvent::Bound(v4, SocketAddr::new(if v4 { addr("0.0.0.0:0") } else { addr("[::]:0") }.ip(), port))
        }),
        any::<bool>().prop_map(SimEvent::Absent),
        any_addr().prop_map(SimEvent::Listening),
        prop::collection::vec(any_addr(), 0..12).prop_map(SimEvent::Servers),
        any_addr().prop_map(SimEvent::Mapped),
        (any::<bool>(), any_addr(), prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(v4, from, data)| SimEvent::Datagram(v4, from, data)),
        any_addr().prop_map(SimEvent::Answer),
        any_addr().prop_map(SimEvent::Answer),
        Just(SimEvent::Lose),
        (0..30_000_u64).prop_map(SimEvent::Time),
        Just(SimEvent::Refresh),
        Just(SimEvent::Rest),
    ]
}

proptest! {
    #[test]
    fn gatherer_keeps_its_bounds_for_any_events(happenings in prop::collection::vec(any_happening(), 0..100)) {
        let mut world = World::new(1);
        let family = |v4| if v4 { Family::V4 } else { Family::V6 };
        for happening in happenings {
            let (now, gather) = (world.now, &mut world.gather);
            match happening {
                SimEvent::Interfaces(own) => {
                    let own = own.into_iter().map(|(addr, prefix)| Interface { name: "eth0".into(), addr, prefix });
                    gather.handle_interfaces(now, &own.collect::<Vec<_>>());
                }
                SimEvent::Bound(v4, local) => gather.handle_bound(now, family(v4), local),
                SimEvent::Absent(v4) => gather.handle_absent(now, family(v4)),
                SimEvent::Listening(local) => gather.handle_listening(now, local),
                SimEvent::Servers(servers) => gather.handle_servers(now, servers),
                SimEvent::Mapped(addr) => gather.handle_mapped(now, addr),
                SimEvent::Datagram(v4, from, data) => _ = gather.handle_datagram(now, family(v4), from, &data),
                SimEvent::Answer(seen) => {
                    if let Some((family, to, data)) = gather.poll_transmit() {
                        let answer = stun::answer(&data, seen).unwrap();
                        prop_assert!(gather.handle_datagram(now, family, to, &answer));
                    }
                }
                SimEvent::Lose => _ = gather.poll_transmit(),
                SimEvent::Time(millis) => {
                    world.now += Duration::from_millis(millis);
                    gather.handle_timeout(world.now);
                }
                SimEvent::Refresh => gather.refresh(now),
                SimEvent::Rest => gather.rest(),
            }
            // A response can make a deferred step due; it is then executed at once.
            world.gather.handle_timeout(world.now);
            prop_assert!(world.gather.poll_timeout().is_none_or(|due| due > world.now));
            prop_assert!(world.gather.out.len() <= MAX_WAITING && world.gather.news.len() <= candidate::MAX);
            prop_assert!(world.gather.servers.iter().flatten().count() <= 2 * MAX_SERVERS);
            let known = world.gather.candidates();
            prop_assert!(known.len() <= candidate::MAX);
            for candidate in known {
                prop_assert!(
                    candidate::is_usable(candidate.addr) && candidate.addr == candidate::canonical(candidate.addr)
                );
            }
            for family in FAMILIES {
                let _ = world.gather.nat(family);
            }
        }
    }
}
